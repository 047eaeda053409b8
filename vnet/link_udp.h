/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over UDP, plain Geneve: one endpoint (a socket) for all peers, one port for each peer.
 *
 * All functions belong to the thread that has the loop in hand (see loop.h). Those that set up may
 * allocate, resolve names, and fail with a message for the user.
 */
#ifndef WEFT_LINK_UDP_H
#define WEFT_LINK_UDP_H

#include <stdint.h>

#include "vnet/port.h"

struct core;
struct loop;
struct udp_endpoint;

#define UDP_ERROR_MAX 320 /* room for a message, bytes */

/**
 * udp_endpoint_create - open the socket and start to listen.
 * @listen:   "ADDR:PORT", "ADDR", ":PORT", or NULL for any address at port 6081. An IPv6 address stands in
 *            brackets; any address means IPv4 and IPv6; port 0 is one the kernel picks
 * @vni:      the overlay's id, 0..GENEVE_VNI_MAX
 * @endpoint: where it is put
 * @error:    when it fails: one line that names the option and the remedy
 *
 * Returns 0, -EINVAL (what was asked for makes no sense) or another -errno (it cannot be had here).
 * It may be destroyed before the core or after it.
 */
int udp_endpoint_create(struct loop *loop, struct core *core, const char *listen, uint32_t vni,
			struct udp_endpoint **endpoint, char error[UDP_ERROR_MAX]);

/* udp_endpoint_destroy - detach and close the ports left, close the socket. NULL is fine. */
void udp_endpoint_destroy(struct udp_endpoint *ep);

/**
 * udp_endpoint_add_peer - attach a link to a peer.
 * @text:  "HOST:PORT" or "HOST" (port 6081); a name is resolved once, now
 * @port:  where the new link is put: named "udp://ADDRESS:PORT", its mtu what the path to the peer
 *         carries as the host sees it now. It ends with core_detach() and port->ops->close().
 *
 * The peer need not be there. Only datagrams from this very address and port are taken as its.
 * Returns as udp_endpoint_create(); -EEXIST for a peer that is one already.
 */
int udp_endpoint_add_peer(struct udp_endpoint *ep, const char *text, struct port **port,
			  char error[UDP_ERROR_MAX]);

/* udp_endpoint_local_port - the UDP port it listens on, host byte order. */
uint16_t udp_endpoint_local_port(const struct udp_endpoint *ep);

/*
 * udp_endpoint_counters - what belongs to no peer: drops[DROP_NOT_PEER], and the system calls and
 * batches of receiving (one call may bring frames of many peers). Sending counts on the ports.
 */
const struct port_counters *udp_endpoint_counters(const struct udp_endpoint *ep);

#endif
