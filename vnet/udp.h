/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the UDP link share: link_udp.c (endpoints, peers, the type), udp_socket.c
 * (sockets and what the host knows of paths), udp_session.c (what is agreed with a peer),
 * udp_send.c, udp_receive.c. Nobody else includes this. Everything belongs to the loop's thread.
 */
#ifndef WEFT_UDP_H
#define WEFT_UDP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "vnet/fragment.h"
#include "vnet/geneve.h"
#include "vnet/link.h"
#include "vnet/loop.h"
#include "vnet/seal.h"
#include "vnet/session.h"
#include "vnet/udp_address.h"
#include "vnet/vxlan.h"

#define UDP_PEER_BUCKETS 256u
#define UDP_DATAGRAM_MAX 65507u /* payload: RFC 768 in IPv4 */
#define UDP_HEADER	 8u
#define UDP_SPREAD_MAX	 (SESSION_PORTS_MAX + 1) /* source ports, the listening one included */

struct core;
struct udp_endpoint;
struct udp_peer;

enum udp_encap { UDP_GENEVE, UDP_VXLAN };

/* One way to find a peer: by the address and port its datagrams come from, or by the address alone
 * (port 0). */
struct udp_entry {
	struct udp_entry *next; /* in its bucket */
	struct udp_address address;
	struct udp_peer *peer;
};

/* How many of the frames sent whole get lost in part; see udp_session.c. */
struct udp_loss {
	uint64_t begin_ns, sent, lost; /* of the window */
	bool paused;		       /* nothing large goes out, until: */
	uint64_t until_ns, pause_ns;
};

struct udp_peer {
	struct port port;
	struct udp_endpoint *endpoint;
	struct udp_peer *next; /* of the endpoint's */
	struct udp_address address;
	union socket_address to;
	struct udp_entry listening, anywhere;
	struct udp_entry others[SESSION_PORTS_MAX + 1];
	unsigned other_count;
	uint16_t heard;		       /* the port its last session message came from, host order */
	struct session *session;       /* NULL: a plain peer, now and for ever */
	struct seal *seal;	       /* NULL: no key */
	struct reassembly *reassembly; /* NULL without a session */
	struct loop_timer timer;       /* session_next() or seal_next() */
	uint64_t since_ns;	       /* a plain peer: when it was added */
	bool begun;		       /* the session has its ticks */
	bool plain;		       /* never a session: encap=vxlan, plain=on */
	/* What holds for sending now; see udp_session.c. */
	enum link_state state;
	uint64_t ups;	       /* link_status.ups when last looked at */
	uint32_t datagram_max; /* UDP payload, bytes */
	uint32_t frame_max;    /* the largest frame the peer takes in parts; 0: it knows no parts */
	bool hops;	       /* it understands the hop option */
	bool spread;	       /* datagrams may leave by any of the endpoint's source ports */
	bool trains;	       /* the kernel cuts trains of datagrams (UDP_SEGMENT) on this path */
	uint32_t next_id;      /* of a frame cut into parts */
	uint64_t whole_sent;   /* frames sent in parts, ever */
	struct udp_loss loss;
	bool touched; /* parts of this batch wait in its reassembly */
};

struct udp_endpoint {
	struct udp_endpoint *next; /* another listener of the overlay */
	struct link_env env;
	enum udp_encap encap;
	int fd;		 /* listens, and sends */
	int family;	 /* of it: AF_INET6 (IPv4 too if bound to any address) or AF_INET */
	int peer_family; /* what peers may be: AF_UNSPEC is both */
	struct udp_address local;
	int probe;		     /* asks the host about paths; never sends */
	int senders[UDP_SPREAD_MAX]; /* sockets to send from; the first is fd */
	unsigned sender_count;
	uint16_t ports[SESSION_PORTS_MAX]; /* of the others, host order, for the peers to know */
	bool trains;			   /* the kernel knows UDP_SEGMENT */
	struct loop_watch watch;
	struct udp_entry *buckets[UDP_PEER_BUCKETS];
	struct udp_peer *peers;
	struct port_counters counters; /* what belongs to no peer */
	struct udp_sending *tx;
	struct udp_receiving *rx;
	struct udp_lander *lander;
};

static inline struct udp_peer *udp_peer_of(struct port *port)
{
	return container_of(port, struct udp_peer, port);
}

/* --- udp_socket.c --- */

/* udp_sockets_open - open and bind ep->fd at @sa, the probe and @spread - 1 further senders. Sets
 * everything about sockets in @ep. Returns 0 or -errno with a message; nothing is open then. */
int udp_sockets_open(struct udp_endpoint *ep, const struct link_spec *spec,
		     union socket_address *sa, unsigned spread, char error[LINK_ERROR_MAX]);
void udp_sockets_close(struct udp_endpoint *ep);
/**
 * udp_path_payload - ask the host about the way to an address.
 * @self: when not NULL, set to whether the way ends at this endpoint
 * Returns the UDP payload that the path's MTU has room for, bytes; of an Ethernet where the host
 * knows no way.
 */
uint32_t udp_path_payload(const struct udp_endpoint *ep, const struct udp_address *address,
			  bool *self);
/* udp_ip_header - bytes of the IP header in front of a datagram to the address. */
unsigned udp_ip_header(const struct udp_address *address);

/* --- udp_session.c --- */

/* udp_session_start - make the session (and seal) of a new peer, unless it is plain, and start its
 * timer.
 * @payload: what udp_path_payload() said. Returns 0 or -ENOMEM. */
int udp_session_start(struct udp_peer *peer, uint32_t payload);
void udp_session_end(struct udp_peer *peer);
/* udp_session_input - a session message has come; @from: the source port, host order. */
void udp_session_input(struct udp_peer *peer, const void *message, size_t len, uint16_t from,
		       uint64_t now_ns);
/* udp_session_schedule - after anything was done to the session or the seal: set the timer anew. */
void udp_session_schedule(struct udp_peer *peer, uint64_t now_ns);
/* udp_session_too_big - the kernel refused a datagram for its length, @len bytes. Returns whether
 * the path's limit, and with it peer->datagram_max, is lower now: then cutting the frame anew may
 * help. */
bool udp_session_too_big(struct udp_peer *peer, uint32_t len);
/* udp_session_overhead - bytes in front of and behind a frame without options, within the UDP
 * payload. */
uint32_t udp_session_overhead(const struct udp_peer *peer);
/* udp_peer_status - port_ops.status. */
void udp_peer_status(const struct port *port, struct link_status *status);

/* --- link_udp.c --- */

/* udp_peer_find - whose datagram is it that came from @from? NULL: a stranger's. */
struct udp_peer *udp_peer_find(const struct udp_endpoint *ep, const struct udp_address *from);
/* udp_peer_ports - the peer sends from these ports too, 0 ends, and from the one it was heard from
 * (which a NAT may have changed); replaces what was known before. */
void udp_peer_ports(struct udp_peer *peer, const uint16_t ports[SESSION_PORTS_MAX]);

/* --- udp_pack.c --- */

/* udp_sending_create - what a batch needs on its way; @sealed: there is a key. NULL without memory.
 */
struct udp_sending *udp_sending_create(bool sealed);
void udp_sending_destroy(struct udp_sending *tx);

/* --- udp_send.c --- */

/* udp_send_batch - port_ops.send_batch. */
void udp_send_batch(struct port *port, struct frame *const frames[], unsigned n);
/* udp_send_control - send a session message. Returns 0 or -errno. */
int udp_send_control(struct udp_peer *peer, const void *message, size_t len);
/* udp_send_raw - send a datagram as it is. Returns 0 or -errno. */
int udp_send_raw(struct udp_peer *peer, const void *datagram, size_t len);

/* --- udp_receive.c --- */

/* udp_receiving_create - the buffers of an endpoint. NULL with errno set. */
struct udp_receiving *udp_receiving_create(void);
void udp_receiving_destroy(struct udp_receiving *rx);
/* udp_receive - take in what the socket has, up to some batches; loop_watch.ready. */
void udp_receive(struct loop_watch *watch, uint32_t revents);

#endif
