/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A device put to its simplest use: one kind of request, again and again. For tests that break a
 * device and then ask whether it works.
 */
#ifndef GUEST_WORKER_H
#define GUEST_WORKER_H

#include "virtio.h"

/* What a device is asked to do. */
struct worker_kind {
	const char *name;
	unsigned type;	   /* virtio 1.2, 5: device id */
	uint16_t queue;	   /* the one that is worked on; those before it are set up, too */
	uint64_t features; /* that the queue needs */
	unsigned out, in;  /* segments of a request */
	struct segment segments[3];
};

struct worker {
	const struct worker_kind *kind;
	struct virtio dev;
	struct ring ring; /* of kind->queue */
};

enum worker_index {
	WORKER_NET,	/* sends a frame */
	WORKER_BLOCK,	/* reads a sector */
	WORKER_RNG,	/* takes random bytes */
	WORKER_CONSOLE, /* sends an agent's HELLO through the first port */
	WORKER_NET_CONTROL,
	WORKER_CONSOLE_CONTROL,
};

extern const struct worker_kind worker_kinds[];
extern const unsigned worker_kind_count;

/* worker_find - the first device of a kind, reset. Returns false if the VM has none. */
bool worker_find(struct worker *worker, const struct worker_kind *kind);
/*
 * worker_start - reset and bring up, accepting @features. Takes memory for the rings. Returns false
 * if refused.
 */
bool worker_start(struct worker *worker, uint64_t features);
/*
 * worker_post - put a request into the ring, unpublished; returns its head, -1 if the ring is full.
 */
int worker_post(struct worker *worker);
/* worker_works - make one request and wait for its completion. */
bool worker_works(struct worker *worker);
/* worker_needs_reset - wait until the device asks for a reset; false: it does not. */
bool worker_needs_reset(const struct worker *worker);

#endif
