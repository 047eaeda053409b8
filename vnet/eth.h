/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What eth_interface.c (the socket and its ring) and link_eth.c (peers, frames, sessions) share. */
#ifndef WEFT_ETH_H
#define WEFT_ETH_H

#include <net/ethernet.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "vnet/geneve.h"
#include "vnet/link.h"
#include "vnet/loop.h"

#define ETH_PEER_BUCKETS  256u
#define ETH_SEND_MESSAGES 512u	/* packets a system call; a frame in most parts fits */
#define ETH_SEND_SEGMENTS 4096u /* pieces of memory a system call */
#define ETH_HEADER_MAX	  (ETH_HLEN + GENEVE_HEADER_MAX)

struct session;
struct reassembly;

struct eth_peer {
	struct port port;
	struct link_status status; /* while the interface is down; then the session's */
	struct eth_interface *interface;
	struct eth_peer *next; /* in its bucket */
	struct ether_header outer;
	struct session *session;
	struct reassembly *reassembly;
	struct loop_timer timer; /* wakes the session */
	/* What the session found out, for the data path. */
	enum link_state state;
	uint32_t packet_max; /* Geneve header and what follows it, bytes */
	uint32_t frame_max;  /* largest that it takes in parts; 0: none */
	bool hops;	     /* it knows the option */
	uint32_t mtu;	     /* of the interface, when the session began */
	uint32_t next_id;    /* of a frame in parts */
	bool touched;	     /* parts of its came in this batch */
};

struct eth_sending {
	struct mmsghdr messages[ETH_SEND_MESSAGES];
	struct frame *frames[ETH_SEND_MESSAGES]; /* whose the packet is */
	bool last[ETH_SEND_MESSAGES];		 /* of its frame */
	uint8_t headers[ETH_SEND_MESSAGES][ETH_HEADER_MAX];
	struct iovec segments[ETH_SEND_SEGMENTS];
	unsigned count, segments_used;
	const struct frame *lost; /* a packet of it was refused: counted already */
};

struct eth_receiving {
	uint8_t *memory; /* the ring */
	size_t size;
	unsigned slot_size, slots, next;
	/* A run of one peer's frames, on its way to the core. */
	struct eth_peer *peer;
	unsigned run_count;
	bool touched; /* parts came in this batch */
	struct frame frames[FRAME_BATCH_MAX], *run[FRAME_BATCH_MAX];
	struct iovec payloads[FRAME_BATCH_MAX];
};

/* A socket on one interface, while there are peers behind it. */
struct eth_interface {
	struct eth_interface **list, *next;
	struct link_env env;
	char name[IFNAMSIZ];
	int index; /* what the socket is bound to */
	uint8_t mac[ETH_ALEN];
	uint32_t mtu;
	bool up;
	int fd;
	struct loop_watch watch;
	struct loop_timer timer; /* looks whether it is up again */
	uint64_t delay_ns;
	struct loop_task mend;
	unsigned peer_count;
	struct eth_peer *peers[ETH_PEER_BUCKETS];
	struct port_counters counters; /* drops that belong to no peer */
	struct eth_sending tx;
	struct eth_receiving rx;
};

/* eth_interface_create - open a socket on an interface, up or down, and put it into the list. 0 or
 * -errno with the message written. */
int eth_interface_create(const struct link_env *env, const struct link_spec *spec, const char *name,
			 struct eth_interface **list, struct eth_interface **interface,
			 char error[LINK_ERROR_MAX]);
void eth_interface_destroy(struct eth_interface *in);
/* eth_interface_fail - the socket says that the interface is of no use now; from anywhere. */
void eth_interface_fail(struct eth_interface *in, int err);

/* In link_eth.c: the interface went up or down (in->up, in->mtu, in->mac). */
void eth_peers_update(struct eth_interface *in, const char *why);
/* A packet has come: the outer header and what follows. @whole: not cut by the kernel. Its memory
 * is valid until eth_batch_end(). */
void eth_packet_take(struct eth_interface *in, uint8_t *packet, size_t len, bool whole);
void eth_batch_end(struct eth_interface *in);

#endif
