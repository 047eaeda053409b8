/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over UDP: one endpoint (a socket) for all peers, one port for each peer.
 *
 *   listen udp://[ADDR][:PORT][,encap=geneve|vxlan][,spread=N]
 *   link   udp://HOST[:PORT][,encap=geneve|vxlan][,plain=on][,name=NAME]
 *
 * The ports are 6081 for Geneve and 4789 for VXLAN where none is written. What a link_type's
 * function does is described in link.h; an endpoint here is one listener, and a second call of
 * listen() adds another behind it.
 *
 * A peer that is weft is met by hellos: then large frames cross whole, with what is left to do to
 * them. Any other (a kernel's VXLAN or Geneve device, a switch) gets finished frames, one a packet.
 * plain=on says that the peer is such a one: no hellos, and the source port is spread over N
 * sockets at once; encap=vxlan implies it.
 *
 * Datagrams are taken from a peer's address and port, and from the further source ports that it
 * told. A peer that is not up may send from any port, if no other peer has the same IP address:
 * kernels choose the source port by the flow, and a NAT may put in another one.
 *
 * port->mtu is what is carried without cutting (udp_session.c says from where); larger frames, up
 * to FRAME_SIZE_MAX, cross in parts while a weft peer is up, and are dropped as oversize otherwise.
 *
 * All functions belong to the thread that has the loop in hand (see loop.h). Those that set up may
 * allocate, resolve names, and fail with a message for the user.
 */
#ifndef WEFT_LINK_UDP_H
#define WEFT_LINK_UDP_H

#include <stdint.h>

#include "vnet/link.h"

struct udp_endpoint;

/* udp_endpoint_destroy - detach and close the ports left, close the sockets; before the core or after
 * it. NULL is fine. */
void udp_endpoint_destroy(struct udp_endpoint *ep);
/* udp_endpoint_local_port - the UDP port it listens on, host byte order. */
uint16_t udp_endpoint_local_port(const struct udp_endpoint *ep);
/*
 * udp_endpoint_counters - what belongs to no peer: drops[DROP_NOT_PEER], and the system calls and
 * batches of receiving (one call may bring frames of many peers). Sending counts on the ports.
 */
const struct port_counters *udp_endpoint_counters(const struct udp_endpoint *ep);

#endif
