/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The core: joins ports. Frames come in by core_input() from one port and leave by send_batch() of others,
 * run to completion on the calling thread, without a queue, an allocation or a copy in between.
 */
#ifndef WEFT_CORE_H
#define WEFT_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/port.h"
#include "vnet/routes.h"

#define CORE_PORTS_MAX 1024

struct core_options {
	bool learn;      /* remember behind which port a MAC address is, with ageing and a bound */
	bool transit;    /* without routes: pass frames from link to link too (a hub) */
	bool neighbours; /* answer ARP and IPv6 neighbour solicitations for addresses already known */
	uint64_t (*clock_ns)(void); /* NULL: CLOCK_MONOTONIC; tests have one of their own */
};

/* core_create - an overlay core without ports. @options: NULL is all off. Returns NULL with errno set. */
struct core *core_create(const struct core_options *options);
/* core_destroy - closes every port still attached (ops->close) and frees the core. NULL is fine. */
void core_destroy(struct core *core);

/* core_attach - add a port. Returns 0, -EINVAL for a name that means something in routes ("all", "nics", "links",
 * "drop"), -EEXIST for a name in use, -ENOSPC past CORE_PORTS_MAX. */
int core_attach(struct core *core, struct port *port);
/* core_detach - take a port out; it is not closed. */
void core_detach(struct core *core, struct port *port);

/**
 * core_input - take frames in from a port and send each where its route says.
 * @in:     the port they came from; a frame never goes back there
 * @frames: borrowed until the call returns; @n 1..FRAME_BATCH_MAX
 *
 * Counts in_frames/in_bytes and drops (runts, oversize, no route, hops) on @in. Where frames go: routes, learnt
 * addresses, and without routes split horizon (see below). What a frame still needs and a port cannot do is done
 * here, and segments that a link brought are joined for a port that takes large frames.
 *
 * frame->hops of 0 means FRAME_HOPS_MAX; a frame from a link to a link is changed in place: one hop less.
 * Never from within send_batch() of a port of the same core.
 */
void core_input(struct core *core, struct port *in, struct frame *const frames[], unsigned n);

/*
 * core_full - whether what @in sends would be dropped now, and less so a little later (port_ops.full): the port that
 * took its last frame says so.
 */
bool core_full(const struct core *core, const struct port *in);

/* core_let_go - no port holds a frame any more when it returns (frame_hold()). Not from within send_batch(). */
void core_let_go(struct core *core);

/*
 * core_recall - no port has room of a guest any more that hardware writes to when it returns (port_ops.recall). The core
 * itself does so when core_landing_port() ends to be true of links. Not from within send_batch().
 */
void core_recall(struct core *core);

/*
 * core_landing_port - whose guest a link may receive for: the interface that took its last frame, if it lends room (see
 * port_ops.land), and nothing that a link brings can go elsewhere than to the guest. NULL: none.
 */
struct port *core_landing_port(const struct core *core, const struct port *in);

/*
 * Routes. A table is built by any thread and then swapped in on the core's thread, whole; the route's "in" and "out"
 * name ports, which may come later (until then the route is inactive). An empty table means: what an interface
 * sends goes everywhere, what a link brings to the interfaces (and with core_options.transit to the other links).
 */
struct route_table;
/* routes_build - compile @n routes (0..ROUTES_MAX), copied. NULL with errno EINVAL, E2BIG, ENOMEM. */
struct route_table *routes_build(const struct route *routes, size_t n);
void routes_destroy(struct route_table *table);
/* core_routes_swap - take a table into use; returns the one it replaces, for routes_destroy() (by any thread). */
struct route_table *core_routes_swap(struct core *core, struct route_table *table);
/* core_routes - the current table's routes and how many frames each took; valid until the next swap. */
struct route_entry {
	struct route route;
	bool active;      /* its ports are attached */
	uint64_t frames, bytes;
};
size_t core_routes(const struct core *core, const struct route_entry **entries);

/* core_macs - visit each learnt address: @age_ns since it was last seen. Core's thread. */
void core_macs(const struct core *core, void (*visit)(void *context, const uint8_t mac[FRAME_MAC_SIZE],
						     const struct port *port, uint64_t age_ns), void *context);
/* core_matrix - visit the traffic matrix: frames and bytes per pair of addresses (bounded; the rest is summed
 * under the all-zero pair). Core's thread. */
void core_matrix(const struct core *core, void (*visit)(void *context, const uint8_t source[FRAME_MAC_SIZE],
						       const uint8_t destination[FRAME_MAC_SIZE],
						       uint64_t frames, uint64_t bytes), void *context);

/* Histogram buckets are powers of two: bucket i counts values in [2^i, 2^(i+1)). */
#define CORE_HISTOGRAM 32
struct core_counters {
	uint64_t cache_hits, cache_misses;  /* of the flow cache */
	uint64_t learnt, moved, held, aged, full; /* MAC learning; held: moves not followed, because the address
						   * was still seen where it was; full: not learnt for want of room */
	uint64_t answered;                  /* ARP and ND questions answered here */
	uint64_t split, merged;             /* frames cut, frames joined in software */
	uint64_t batch_size[CORE_HISTOGRAM]; /* frames that came in together */
	uint64_t forward_ns[CORE_HISTOGRAM]; /* from core_input() to its end: a batch's time, with its ports' */
};
const struct core_counters *core_counters(const struct core *core);

/* core_trace - where would this frame go, and why: one line a step through @say. Changes nothing. */
void core_trace(struct core *core, struct port *in, const struct frame *frame,
		void (*say)(void *context, const char *line), void *context);

/* A tap on a port's frames, both directions, for captures; a NULL @watch takes it off, and so does core_detach().
 * @out: leaving by the port, as the port is given them. Runts are not shown. */
typedef void core_watch_fn(void *context, const struct port *port, bool out, const struct frame *frame);
void core_watch(struct core *core, struct port *port, core_watch_fn *watch, void *context);

/* core_port - the port at an index (holes are NULL), for listings; core_ports is the first unused index. */
struct port *core_port(const struct core *core, unsigned index);
unsigned core_ports(const struct core *core);

#endif
