/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A port: anything that can take and give frames. A local NIC is an interface port, a remote peer a link
 * port; the core never knows which transport stands behind it.
 */
#ifndef WEFT_PORT_H
#define WEFT_PORT_H

#include <stdint.h>

#include "vnet/frame.h"
#include "vnet/iovec.h"
#include "vnet/mode.h"

#define PORT_NAME_MAX 80 /* the longest: udp://[ADDRESS%SCOPE]:PORT */

struct core;
struct port;

enum port_kind { PORT_INTERFACE, PORT_LINK };

/* Why a frame was dropped; one counter each. */
enum drop_reason {
	DROP_NO_ROUTE,   /* nobody to send it to */
	DROP_RUNT,       /* shorter than an Ethernet header */
	DROP_OVERSIZE,   /* longer than the port or the protocol can carry */
	DROP_FORMAT,     /* encapsulation or virtio header malformed */
	DROP_NOT_PEER,   /* from an address that is no peer */
	DROP_FOREIGN,    /* another overlay's id */
	DROP_OPTION,     /* unknown critical option */
	DROP_FILTER,     /* not addressed to this NIC: its guest set a MAC filter */
	DROP_RING_FULL,  /* the guest posted no receive buffer */
	DROP_BUSY,       /* EAGAIN or ENOBUFS: the socket's buffer is full */
	DROP_ERROR,      /* any other error of the transport */
	DROP_HOPS,       /* crossed too many links: a loop */
	DROP_OFFLOAD,    /* its offload state contradicts what it is */
	DROP_FRAGMENT,   /* a part of it never came, or contradicts the others */
	DROP_MEMORY,     /* no room to reassemble it */
	DROP_DOWN,       /* the link is down */
	DROP_KEY,        /* not sealed though a key is set, or with another key */
	DROP_REPLAY,     /* a sealed datagram seen before, or too old */
	DROP_REASONS
};

/* Owned by the thread that runs the port (the sidecar); others may read a value that is a little old. */
struct port_counters {
	uint64_t in_frames, in_bytes;   /* from the port into the core, those the core drops included */
	uint64_t out_frames, out_bytes; /* from the core out of the port */
	uint64_t drops[DROP_REASONS];
	/* Data-path system calls, but for a spinning loop's that found nothing; batches sent or received. */
	uint64_t syscalls, batches;
	uint64_t copied_bytes;          /* payload bytes copied by weft */
	uint64_t work_requests;         /* sends handed to an RDMA adapter */
	uint64_t registrations;         /* of memory with an RDMA adapter, never on the data path */
	uint64_t landed_frames;         /* an interface: given to the guest without a copy */
	uint64_t landing_misses;        /* a link: large frames that were laid out for and came otherwise */
};

/* What a port can take unfinished (struct frame_offload); for the rest the core does the work in software. */
enum port_offload {
	PORT_CSUM = 1 << 0, /* VIRTIO_NET_HDR_F_NEEDS_CSUM */
	PORT_TSO4 = 1 << 1, /* VIRTIO_NET_HDR_GSO_TCPV4 */
	PORT_TSO6 = 1 << 2,
	PORT_USO = 1 << 3,  /* VIRTIO_NET_HDR_GSO_UDP_L4, IPv4 and IPv6 */
	PORT_ECN = 1 << 4,  /* VIRTIO_NET_HDR_GSO_ECN beside TSO */
	PORT_OFFLOADS = (1 << 5) - 1,
};

/* As the guest sees it. */
enum port_direction { PORT_TX, PORT_RX, PORT_DIRECTIONS };

#define PORT_PAIRS_MAX 16u /* pairs of queues */

enum link_state {
	LINK_DOWN,  /* the peer does not answer, or the transport fails */
	LINK_PLAIN, /* carries frames; the peer has never answered a hello: not weft, or not there yet */
	LINK_UP,    /* the peer answers */
};

/* What "link list" shows. Filled by port_ops.status on the port's thread. */
struct link_status {
	enum link_state state;
	uint64_t since_ns;     /* CLOCK_MONOTONIC of the last change of state */
	uint64_t rtt_ns;       /* smoothed round trip; 0: never measured */
	uint32_t path_mtu;     /* bytes of an outer IP packet, or what the transport carries; 0: unknown */
	uint64_t ups;          /* times it came up */
	char error[128];       /* last error, "" for none */
};

#define LANDING_PIECES 96u /* of memory at most, that room for a frame lies in */

/*
 * Room for one frame in a guest's receive buffers, lent to a link that receives straight into them. The guest can
 * read and rewrite it at any time.
 */
struct landing {
	struct port *port;       /* whose guest's */
	struct iov_cursor room;  /* where the frame begins; to be copied before it is moved */
	uint32_t len;            /* bytes of room */
	uint32_t written;        /* of them, from the first on: the borrower's to say. Erased, if the guest was not given
	                          * them, when the room goes back */
	struct landing **holder; /* the borrower's; set to NULL when the guest takes its buffers away */
};

struct port_ops {
	const char *type; /* "nic", "udp" */
	/*
	 * Send @n frames (1..FRAME_BATCH_MAX), in order. Never blocks, never fails as a whole: what cannot
	 * be sent is dropped and counted in port->counters. Frames are only borrowed, unless frame->hold says
	 * how to keep one.
	 */
	void (*send_batch)(struct port *port, struct frame *const frames[], unsigned n);
	/*
	 * Whether a large batch would be dropped now, while room is to be expected within microseconds: who can wait
	 * does, a little. NULL: never.
	 */
	bool (*full)(struct port *port);
	/* Release every frame that is held before returning. NULL: holds none. Not from within send_batch(). */
	void (*let_go)(struct port *port);
	/*
	 * Give back all room that was lent (land), having seen to it that nobody writes there any more. NULL: room is only
	 * written to within the port's own calls. Not from within send_batch().
	 */
	void (*recall)(struct port *port);
	/* Release everything; the port is no longer attached. */
	void (*close)(struct port *port);
	/* NULL for interfaces. */
	void (*status)(const struct port *port, struct link_status *status);
	/*
	 * Lend room for a frame of @len bytes, which is *@holder from now on; NULL: there is none. NULL where all room is
	 * the link's own. A frame that lies in it, from its first byte on, and says so (frame->landing) is
	 * given to the guest where it lies if this port is the only one it goes to.
	 */
	void (*land)(struct port *port, uint32_t len, struct landing **holder);
	/* The room goes back, used or not; *landing->holder is NULL then. */
	void (*land_end)(struct landing *landing);
};

struct port {
	const struct port_ops *ops;
	enum port_kind kind;
	char name[PORT_NAME_MAX]; /* unique in the core: "nic0", "udp://10.0.0.2:6081" */
	struct core *core;        /* set by core_attach() */
	unsigned index;           /* position in the core, set by core_attach() */
	uint32_t mtu;             /* largest guest MTU the port can carry, bytes; may change while attached */
	uint32_t offloads;        /* enum port_offload; may change while attached (between batches) */
	/*
	 * Of an interface that has modes: its pairs of queues, those of them that the guest uses, and
	 * PORT_DIRECTIONS switches a pair; else 0 and NULL.
	 */
	unsigned pairs, pairs_active;
	struct mode_switch *modes;
	struct port_counters counters;
};

/* port_mode - the switch of a direction of one of port->pairs pairs. */
static inline struct mode_switch *port_mode(const struct port *port, unsigned pair,
					    enum port_direction direction)
{
	return &port->modes[pair * PORT_DIRECTIONS + direction];
}

/* drop_reason_name - stable lower-case name of a reason, for counters and JSON. */
const char *drop_reason_name(enum drop_reason reason);

#endif
