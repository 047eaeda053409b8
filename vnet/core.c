/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * core_input() asks route() for each frame's destinations, a set of ports, and then visits each
 * port of the union once with all frames meant for it, in order: a port gets one send_batch() a
 * batch. The sets are kept ready made, so that routing a frame is finding a pointer.
 *
 * Everything here runs on one thread, the one that runs the ports (the sidecar): frames are routed
 * to their end on the stack of the caller. A port must not be attached or detached from within
 * send_batch().
 *
 * Invariants: bit i of a set is only ever set while ports[i] is attached; ports at @high and above
 * are unused.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/core.h"

#define WORD_BITS 64u
#define SET_WORDS (CORE_PORTS_MAX / WORD_BITS)

struct port_set {
	uint64_t words[SET_WORDS];
};

struct core {
	struct port *ports[CORE_PORTS_MAX];
	unsigned high; /* first index never used since the last port above it went */
	struct port_set interfaces, all;
};

static void set_add(struct port_set *set, unsigned index)
{
	set->words[index / WORD_BITS] |= UINT64_C(1) << index % WORD_BITS;
}

static void set_remove(struct port_set *set, unsigned index)
{
	set->words[index / WORD_BITS] &= ~(UINT64_C(1) << index % WORD_BITS);
}

static bool set_has(const struct port_set *set, unsigned index)
{
	return set->words[index / WORD_BITS] >> index % WORD_BITS & 1;
}

const char *drop_reason_name(enum drop_reason reason)
{
	static const char *const names[DROP_REASONS] = {
	    [DROP_NO_ROUTE] = "no_route",   [DROP_RUNT] = "runt",
	    [DROP_OVERSIZE] = "oversize",   [DROP_FORMAT] = "format",
	    [DROP_NOT_PEER] = "not_peer",   [DROP_FOREIGN] = "foreign",
	    [DROP_OPTION] = "option",	    [DROP_FILTER] = "filter",
	    [DROP_RING_FULL] = "ring_full", [DROP_BUSY] = "busy",
	    [DROP_ERROR] = "error",	    [DROP_HOPS] = "hops",
	    [DROP_OFFLOAD] = "offload",	    [DROP_FRAGMENT] = "fragment",
	    [DROP_MEMORY] = "memory",	    [DROP_DOWN] = "down",
	    [DROP_KEY] = "key",		    [DROP_REPLAY] = "replay",
	};

	return reason < DROP_REASONS ? names[reason] : "unknown";
}

struct core *core_create(const struct core_options *options)
{
	(void)options;
	return calloc(1, sizeof(struct core));
}

void core_destroy(struct core *core)
{
	if (!core)
		return;
	for (unsigned i = 0; i < core->high; i++) {
		struct port *port = core->ports[i];

		if (!port)
			continue;
		core_detach(core, port);
		port->ops->close(port);
	}
	free(core);
}

int core_attach(struct core *core, struct port *port)
{
	unsigned index = core->high;

	for (unsigned i = core->high; i-- > 0;) {
		if (!core->ports[i])
			index = i;
		else if (!strcmp(core->ports[i]->name, port->name))
			return -EEXIST;
	}
	if (index == CORE_PORTS_MAX)
		return -ENOSPC;
	if (index == core->high)
		core->high++;
	core->ports[index] = port;
	set_add(&core->all, index);
	if (port->kind == PORT_INTERFACE)
		set_add(&core->interfaces, index);
	port->core = core;
	port->index = index;
	return 0;
}

void core_detach(struct core *core, struct port *port)
{
	core->ports[port->index] = NULL;
	set_remove(&core->all, port->index);
	set_remove(&core->interfaces, port->index);
	while (core->high && !core->ports[core->high - 1])
		core->high--;
	port->core = NULL;
}

struct port *core_port(const struct core *core, unsigned index)
{
	return index < core->high ? core->ports[index] : NULL;
}

unsigned core_ports(const struct core *core)
{
	return core->high;
}

/*
 * Where a frame that came in from @in is to go; @in itself, if it is in the set, gets nothing. The
 * only place that decides: a table of routes is looked up here, by the frame's addresses.
 */
static const struct port_set *route(const struct core *core, const struct port *in,
				    const struct frame *frame)
{
	(void)frame;
	return in->kind == PORT_LINK ? &core->interfaces : &core->all;
}

/* A batch on its way: frame i goes to the ports of to[i]. */
struct routed {
	unsigned n;
	struct frame *frames[FRAME_BATCH_MAX];
	const struct port_set *to[FRAME_BATCH_MAX];
	struct port_set any; /* the union of to[] */
};

/* Is there a port in the set besides the one the frame came from? */
static bool set_reaches(const struct port_set *set, unsigned words, unsigned in)
{
	for (unsigned w = 0; w < words; w++) {
		uint64_t self = w == in / WORD_BITS ? UINT64_C(1) << in % WORD_BITS : 0;

		if (set->words[w] & ~self)
			return true;
	}
	return false;
}

/* Count a frame in and take it into the batch, or drop it. */
static void batch_add(struct core *core, struct routed *batch, struct port *in, struct frame *frame,
		      unsigned words)
{
	const struct port_set *to;

	in->counters.in_frames++;
	in->counters.in_bytes += frame->len;
	if (frame->len < FRAME_SIZE_MIN) {
		in->counters.drops[DROP_RUNT]++;
		return;
	}
	if (frame->len > FRAME_SIZE_MAX) {
		in->counters.drops[DROP_OVERSIZE]++;
		return;
	}
	to = route(core, in, frame);
	if (!set_reaches(to, words, in->index)) {
		in->counters.drops[DROP_NO_ROUTE]++;
		return;
	}
	if (!batch->n || to != batch->to[batch->n - 1])
		for (unsigned w = 0; w < words; w++)
			batch->any.words[w] |= to->words[w];
	batch->frames[batch->n] = frame;
	batch->to[batch->n] = to;
	batch->n++;
}

/* Give a port its frames of the batch. */
static void batch_send(const struct routed *batch, struct port *port)
{
	struct frame *frames[FRAME_BATCH_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < batch->n; i++)
		if (set_has(batch->to[i], port->index))
			frames[n++] = batch->frames[i];
	if (n)
		port->ops->send_batch(port, frames, n);
}

void core_input(struct core *core, struct port *in, struct frame *const frames[], unsigned n)
{
	const unsigned words = (core->high + WORD_BITS - 1) / WORD_BITS;
	struct routed batch;

	batch.n = 0;
	memset(&batch.any, 0, sizeof(batch.any));
	for (unsigned i = 0; i < n; i++)
		batch_add(core, &batch, in, frames[i], words);
	if (!batch.n)
		return;
	set_remove(&batch.any, in->index);
	for (unsigned w = 0; w < words; w++) {
		for (uint64_t left = batch.any.words[w]; left; left &= left - 1)
			batch_send(&batch,
				   core->ports[w * WORD_BITS + (unsigned)__builtin_ctzll(left)]);
	}
}
