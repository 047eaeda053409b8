/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A port: anything that can take and give frames. A local NIC is an interface port, a remote peer a link
 * port; the core never knows which transport stands behind it.
 */
#ifndef WEFT_PORT_H
#define WEFT_PORT_H

#include <stdint.h>

#include "vnet/frame.h"

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
	DROP_REASONS
};

/* Owned by the thread that runs the port (the sidecar); others may read a value that is a little old. */
struct port_counters {
	uint64_t in_frames, in_bytes;   /* from the port into the core, those the core drops included */
	uint64_t out_frames, out_bytes; /* from the core out of the port */
	uint64_t drops[DROP_REASONS];
	uint64_t syscalls, batches;     /* data-path system calls, batches sent or received */
	uint64_t copied_bytes;          /* payload bytes copied by weft */
};

struct port_ops {
	const char *type; /* "nic", "udp" */
	/*
	 * Send @n frames (1..FRAME_BATCH_MAX), in order. Never blocks, never fails as a whole: what cannot
	 * be sent is dropped and counted in port->counters. Frames are only borrowed.
	 */
	void (*send_batch)(struct port *port, struct frame *const frames[], unsigned n);
	/* Release everything; the port is no longer attached. */
	void (*close)(struct port *port);
};

struct port {
	const struct port_ops *ops;
	enum port_kind kind;
	char name[PORT_NAME_MAX]; /* unique in the core: "nic0", "udp://10.0.0.2:6081" */
	struct core *core;        /* set by core_attach() */
	unsigned index;           /* position in the core, set by core_attach() */
	uint32_t mtu;             /* largest guest MTU the port can carry, bytes */
	struct port_counters counters;
};

/* drop_reason_name - stable lower-case name of a reason, for counters and JSON. */
const char *drop_reason_name(enum drop_reason reason);

#endif
