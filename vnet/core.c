/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * core_input() finds for each frame the ports it goes to and then visits each port of the union
 * once, with all frames meant for it, in order: a port gets one send_batch() a batch, or more if
 * frames are cut for it and the pieces are more than a batch.
 *
 * Where a flow (ingress, source, destination) goes is decided by decide(), from routes, learnt
 * addresses or split horizon, and kept in the flow cache. Everything that may change a decision
 * (ports that come and go, another table of routes, an address that is learnt, moves or is
 * forgotten) makes a new generation, and entries of an older one do not count. So a change takes
 * effect with the next frame, whole, and costs nothing by itself.
 *
 * The one clock that is read a batch serves ageing and the histogram.
 *
 * Everything here runs on one thread, the one that runs the ports (the sidecar): frames are routed
 * to their end on the stack of the caller. What a second such thread would need of its own is in
 * struct worker. A port must not be attached or detached from within send_batch().
 *
 * Invariants: bit i of a set is only ever set while ports[i] is attached; ports at @high and above
 * are unused.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/core.h"
#include "vnet/flow_cache.h"
#include "vnet/learning.h"
#include "vnet/mac.h"
#include "vnet/loop.h"
#include "vnet/matrix.h"
#include "vnet/neighbours.h"
#include "vnet/offload.h"
#include "vnet/port_set.h"
#include "vnet/route_table.h"

#define REPLIES_MAX 16u /* answers a batch; further questions pass */
#define CHAIN_END   0xffu
#define SEGMENTERS  (PORT_TSO4 | PORT_TSO6 | PORT_USO)

struct watch {
	core_watch_fn *seen;
	void *context;
};

/* An answer to who asked for a neighbour. */
struct reply {
	struct frame frame;
	struct iovec iov;
	uint8_t bytes[NEIGHBOUR_REPLY_MAX];
};

/*
 * A batch on its way: frame i goes to port[i], or to the ports of sets[set[i]]. Without any sets,
 * what goes to a port is also chained, from first[port] by next[], or else a batch to 64 ports
 * would be searched 64 times.
 */
struct batch {
	uint64_t now;
	unsigned n, set_count, reply_count;
	struct frame *frames[FRAME_BATCH_MAX];
	uint16_t port[FRAME_BATCH_MAX]; /* index, or FLOW_MANY */
	uint8_t set[FRAME_BATCH_MAX];
	uint8_t next[FRAME_BATCH_MAX];			     /* or CHAIN_END */
	uint8_t first[CORE_PORTS_MAX], last[CORE_PORTS_MAX]; /* of ports in any */
	struct port_set sets[FRAME_BATCH_MAX];
	struct port_set any; /* the union */
	struct reply replies[REPLIES_MAX];
};

/* What belongs to the thread that runs ports. */
struct worker {
	struct flow_cache *cache;
	struct offload_split *split;
	struct offload_merge *merge;
	struct batch batch;
	struct core_counters counters;
};

/* Where the last frame of an ingress went. */
struct sink {
	uint64_t generation;
	uint16_t port; /* index, or FLOW_MANY */
};

struct core {
	struct port *ports[CORE_PORTS_MAX];
	struct sink sinks[CORE_PORTS_MAX];
	unsigned high; /* first index never used since the last port above it went */
	struct core_options options;
	uint64_t generation;
	struct port_kinds kinds;
	struct route_table *routes;
	struct learning *learning;     /* NULL: off */
	struct neighbours *neighbours; /* NULL: off */
	struct matrix *matrix;
	struct worker worker;
	unsigned watching; /* ports with a watch */
	struct watch watches[CORE_PORTS_MAX];
};

const char *drop_reason_name(enum drop_reason reason)
{
	static const char *const names[DROP_REASONS] = {
	    [DROP_NO_ROUTE] = "no_route",
	    [DROP_RUNT] = "runt",
	    [DROP_OVERSIZE] = "oversize",
	    [DROP_FORMAT] = "format",
	    [DROP_NOT_PEER] = "not_peer",
	    [DROP_FOREIGN] = "foreign",
	    [DROP_OPTION] = "option",
	    [DROP_FILTER] = "filter",
	    [DROP_RING_FULL] = "ring_full",
	    [DROP_BUSY] = "busy",
	    [DROP_ERROR] = "error",
	    [DROP_HOPS] = "hops",
	    [DROP_OFFLOAD] = "offload",
	    [DROP_FRAGMENT] = "fragment",
	    [DROP_MEMORY] = "memory",
	    [DROP_DOWN] = "down",
	    [DROP_KEY] = "key",
	    [DROP_REPLAY] = "replay",
	};

	return reason < DROP_REASONS ? names[reason] : "unknown";
}

/* --- ports ----------------------------------------------------------------------------------- */

/* Everything but the ports. */
static void core_free(struct core *core)
{
	offload_split_destroy(core->worker.split);
	offload_merge_destroy(core->worker.merge);
	flow_cache_destroy(core->worker.cache);
	learning_destroy(core->learning);
	neighbours_destroy(core->neighbours);
	matrix_destroy(core->matrix);
	routes_destroy(core->routes);
	free(core);
}

struct core *core_create(const struct core_options *options)
{
	struct core *core = calloc(1, sizeof(*core));
	struct worker *worker;

	if (!core)
		return NULL;
	if (options)
		core->options = *options;
	if (!core->options.clock_ns)
		core->options.clock_ns = loop_now;
	core->generation = 1;
	core->routes = routes_build(NULL, 0);
	core->matrix = matrix_create();
	worker = &core->worker;
	worker->cache = flow_cache_create();
	worker->split = offload_split_create();
	worker->merge = offload_merge_create();
	if (core->options.learn)
		core->learning = learning_create(&worker->counters);
	if (core->options.neighbours)
		core->neighbours = neighbours_create();
	if (!core->routes || !core->matrix || !worker->cache || !worker->split || !worker->merge ||
	    (core->options.learn && !core->learning) ||
	    (core->options.neighbours && !core->neighbours)) {
		core_free(core);
		errno = ENOMEM;
		return NULL;
	}
	return core;
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
	core_free(core);
}

/* Can what a link brings go to this guest only? All interfaces that lend room are one guest's. Before
 * that changes, nothing of it may be on its way through the guest's memory any more: core_recall(). */
static bool links_end_here(const struct core *core)
{
	if (core->options.transit || !route_table_empty(core->routes))
		return false;
	for (unsigned w = 0; w < PORT_SET_WORDS; w++)
		for (uint64_t left = core->kinds.nics.words[w]; left; left &= left - 1)
			if (!core->ports[w * PORT_SET_BITS + (unsigned)__builtin_ctzll(left)]
				 ->ops->land)
				return false;
	return true;
}

int core_attach(struct core *core, struct port *port)
{
	unsigned index = core->high;

	if (route_name_reserved(port->name))
		return -EINVAL;
	for (unsigned i = core->high; i-- > 0;) {
		if (!core->ports[i])
			index = i;
		else if (!strcmp(core->ports[i]->name, port->name))
			return -EEXIST;
	}
	if (index == CORE_PORTS_MAX)
		return -ENOSPC;
	if (port->kind == PORT_INTERFACE && !port->ops->land && links_end_here(core))
		core_recall(core);
	if (index == core->high)
		core->high++;
	core->ports[index] = port;
	port_set_add(&core->kinds.all, index);
	port_set_add(port->kind == PORT_LINK ? &core->kinds.links : &core->kinds.nics, index);
	port->core = core;
	port->index = index;
	route_table_bind(core->routes, port);
	core->generation++;
	return 0;
}

void core_detach(struct core *core, struct port *port)
{
	core_watch(core, port, NULL, NULL);
	route_table_unbind(core->routes, port);
	if (core->learning)
		learning_forget(core->learning, port->index);
	if (core->neighbours)
		neighbours_forget(core->neighbours, port->index);
	core->ports[port->index] = NULL;
	port_set_remove(&core->kinds.all, port->index);
	port_set_remove(&core->kinds.nics, port->index);
	port_set_remove(&core->kinds.links, port->index);
	while (core->high && !core->ports[core->high - 1])
		core->high--;
	core->generation++;
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

struct route_table *core_routes_swap(struct core *core, struct route_table *table)
{
	struct route_table *before = core->routes;

	if (!route_table_empty(table) && links_end_here(core))
		core_recall(core);
	for (unsigned i = 0; i < core->high; i++) {
		if (!core->ports[i])
			continue;
		route_table_unbind(before, core->ports[i]);
		route_table_bind(table, core->ports[i]);
	}
	core->routes = table;
	core->generation++;
	return before;
}

size_t core_routes(const struct core *core, const struct route_entry **entries)
{
	return route_table_entries(core->routes, entries);
}

/* --- deciding -------------------------------------------------------------------------------- */

/* Is there a learnt address that says better than the routes where the flow goes? */
static bool decide_learnt(const struct core *core, const struct flow_key *flow,
			  struct decision *decision)
{
	bool link = flow->in->kind == PORT_LINK, allowed;
	unsigned port;

	if (!core->learning || mac_is_multicast(flow->destination) ||
	    decision->score >= SCORE_DESTINATION)
		return false;
	port = learning_find(core->learning, flow->destination);
	if (port == LEARNING_NOWHERE)
		return false;
	allowed = !link || !port_set_has(&core->kinds.links, port) || core->options.transit ||
		  port_set_has(&decision->to, port);
	*decision = (struct decision){.score = SCORE_DESTINATION};
	if (allowed)
		port_set_add(&decision->to, port);
	return true;
}

/* Where a flow goes: the only place that decides. */
static void decide(const struct core *core, const struct flow_key *flow, struct decision *decision)
{
	if (route_table_empty(core->routes)) {
		*decision = (struct decision){.score = SCORE_NO_MATCH};
		decision->to = flow->in->kind == PORT_LINK && !core->options.transit
				   ? core->kinds.nics
				   : core->kinds.all;
	} else {
		route_table_match(core->routes, &core->kinds, flow, decision);
	}
	decide_learnt(core, flow, decision);
	port_set_remove(&decision->to, flow->in->index);
}

static void flow_fill(struct core *core, const struct flow_key *key, struct flow *flow)
{
	struct decision decision;
	struct port_set links;
	unsigned first = 0, count;

	decide(core, key, &decision);
	count = port_set_count(&decision.to, &first);
	links = decision.to;
	port_set_meet(&links, &core->kinds.links);
	flow->hops = key->in->kind == PORT_LINK && port_set_count(&links, &(unsigned){0});
	flow->port = (uint16_t)first;
	if (!count)
		flow->port = FLOW_NOWHERE;
	else if (count > 1)
		flow->port = FLOW_MANY;
	if (count > 1)
		*flow->set = decision.to;
	flow->runs = (uint8_t)decision.runs;
	memcpy(flow->run, decision.run, decision.runs * sizeof(decision.run[0]));
	flow->pair = count ? matrix_pair(core->matrix, key->source, key->destination) : NULL;
	flow->generation = core->generation;
}

static const struct flow *flow_find(struct core *core, const struct flow_key *key)
{
	uint64_t words[2] = {key->destination | (uint64_t)key->in->index << 48, key->source};
	struct flow *flow = flow_cache_find(core->worker.cache, words);

	if (flow->generation == core->generation && flow->key[0] == words[0] &&
	    flow->key[1] == words[1]) {
		core->worker.counters.cache_hits++;
		return flow;
	}
	core->worker.counters.cache_misses++;
	flow->key[0] = words[0];
	flow->key[1] = words[1];
	flow_fill(core, key, flow);
	return flow;
}

/* --- taking a batch in ------------------------------------------------------------------------ */

/* A link's frame for a link costs a hop. Returns false when it has none left and goes nowhere else.
 */
static bool hop_count(const struct core *core, struct port *in, struct frame *frame, uint16_t *port,
		      struct port_set *set)
{
	unsigned first;

	if (frame->hops > 1) {
		frame->hops--;
		return true;
	}
	in->counters.drops[DROP_HOPS]++;
	if (*port != FLOW_MANY)
		return false;
	port_set_meet(set, &core->kinds.nics);
	return port_set_count(set, &first);
}

/* The next frame goes to this port alone. */
static void batch_chain(struct batch *batch, unsigned port)
{
	const uint8_t i = (uint8_t)batch->n;

	if (port_set_has(&batch->any, port))
		batch->next[batch->last[port]] = i;
	else
		batch->first[port] = i;
	port_set_add(&batch->any, port);
	batch->last[port] = i;
	batch->next[i] = CHAIN_END;
}

/* Take a frame into the batch, or drop it. */
static void batch_add(struct core *core, struct batch *batch, const struct flow_key *key,
		      struct port *in, struct frame *frame)
{
	const struct flow *flow = flow_find(core, key);
	struct port_set *set = &batch->sets[batch->set_count];
	uint16_t port = flow->port;

	if (port == FLOW_MANY)
		*set = *flow->set;
	if (flow->runs)
		route_table_count(core->routes, key, flow->run, flow->runs, frame->len);
	if (port == FLOW_NOWHERE) {
		in->counters.drops[DROP_NO_ROUTE]++;
		return;
	}
	if (flow->hops && !hop_count(core, in, frame, &port, set))
		return;
	matrix_count(flow->pair, frame->len);
	if (port == FLOW_MANY) {
		frame->landing = NULL; /* one of them must not give it away before the others read it */
		port_set_join(&batch->any, set);
		batch->set[batch->n] = (uint8_t)batch->set_count++;
	} else {
		batch_chain(batch, port);
	}
	batch->frames[batch->n] = frame;
	batch->port[batch->n] = port;
	batch->n++;
}

/* Can who asks reach whom it asks for? Or else we would tell what the routes hide, or of who is
 * gone. */
static bool question_allowed(const struct core *core, const struct port *in,
			     const struct neighbour_question *question)
{
	const struct flow_key key = {
	    .source = question->asker, .destination = question->target, .in = in};
	struct decision decision;
	unsigned first;

	if (core->learning) {
		unsigned port = learning_find(core->learning, question->target);

		if (port == LEARNING_NOWHERE || port == in->index)
			return false;
	}
	decide(core, &key, &decision);
	return port_set_count(&decision.to, &first);
}

/* Learn from ARP and neighbour discovery; true if the frame was a question that is answered here.
 */
static bool batch_answer(struct core *core, struct batch *batch, const struct port *in,
			 const struct frame *frame)
{
	struct neighbour_question question;
	struct reply *reply = &batch->replies[batch->reply_count];
	size_t len;

	if (!neighbours_see(core->neighbours, frame, in->index, batch->now, &question) ||
	    in->kind != PORT_INTERFACE || batch->reply_count == REPLIES_MAX ||
	    !question_allowed(core, in, &question))
		return false;
	len = neighbour_answer(&question, reply->bytes);
	reply->iov = (struct iovec){.iov_base = reply->bytes, .iov_len = len};
	reply->frame = (struct frame){
	    .iov = &reply->iov, .iovcnt = 1, .len = (uint32_t)len, .hops = FRAME_HOPS_MAX};
	memcpy(reply->frame.eth, reply->bytes, FRAME_HEADER);
	batch->reply_count++;
	core->worker.counters.answered++;
	return true;
}

/* Count a frame in, learn from it and find its way. */
static void batch_take(struct core *core, struct batch *batch, struct port *in, struct frame *frame)
{
	struct flow_key key = {.in = in};

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
	if (!frame->hops)
		frame->hops = FRAME_HOPS_MAX;
	key.destination = mac_load(frame->eth);
	key.source = mac_load(frame->eth + FRAME_MAC_SIZE);
	if (core->watching && core->watches[in->index].seen)
		core->watches[in->index].seen(core->watches[in->index].context, in, false, frame);
	if (core->learning && learning_see(core->learning, key.source, in->index, batch->now))
		core->generation++;
	if (core->neighbours && batch_answer(core, batch, in, frame))
		return;
	batch_add(core, batch, &key, in, frame);
}

/* --- sending it ------------------------------------------------------------------------------ */

static void port_emit(struct core *core, struct port *port, struct frame *const frames[],
		      unsigned n)
{
	const struct watch *watch = &core->watches[port->index];

	if (core->watching && watch->seen)
		for (unsigned i = 0; i < n; i++)
			watch->seen(watch->context, port, true, frames[i]);
	port->ops->send_batch(port, frames, n);
}

/* Send frames of which some may need what the port cannot do: that is done here. */
static void port_send(struct core *core, struct port *port, struct frame *const frames[],
		      unsigned n)
{
	struct offload_split *split = core->worker.split;
	struct frame *pieces[FRAME_BATCH_MAX];
	unsigned unfinished = 0, failed;

	for (unsigned i = 0; i < n; i++)
		unfinished += !!(offload_needs(frames[i]) & ~port->offloads);
	if (!unfinished) {
		port_emit(core, port, frames, n);
		return;
	}
	offload_split_batch(split, frames, n, port->offloads);
	while ((n = offload_split_next(split, pieces, FRAME_BATCH_MAX)))
		port_emit(core, port, pieces, n);
	failed = offload_split_failed(split);
	port->counters.drops[DROP_OFFLOAD] += failed;
	core->worker.counters.split += unfinished - failed;
}

/* The frames of the batch that a port is to be given. */
static unsigned batch_collect(const struct batch *batch, unsigned port, struct frame *frames[])
{
	unsigned n = 0;

	if (!batch->set_count) {
		for (unsigned i = batch->first[port]; i != CHAIN_END; i = batch->next[i])
			frames[n++] = batch->frames[i];
		return n;
	}
	for (unsigned i = 0; i < batch->n; i++)
		if (batch->port[i] == port || (batch->port[i] == FLOW_MANY &&
					       port_set_has(&batch->sets[batch->set[i]], port)))
			frames[n++] = batch->frames[i];
	return n;
}

static void batch_send(struct core *core, const struct batch *batch, const struct port *in,
		       struct port *port)
{
	struct frame *frames[FRAME_BATCH_MAX];
	unsigned n = batch_collect(batch, port->index, frames), joined;

	if (n > 1 && in->kind == PORT_LINK && (port->offloads & SEGMENTERS)) {
		joined = offload_merge_batch(core->worker.merge, frames, n, port->offloads);
		core->worker.counters.merged += n - joined;
		n = joined;
	}
	port_send(core, port, frames, n);
}

/* Answers go back where the questions came from. */
static void batch_reply(struct core *core, struct batch *batch, struct port *in)
{
	struct frame *frames[REPLIES_MAX];

	for (unsigned i = 0; i < batch->reply_count; i++)
		frames[i] = &batch->replies[i].frame;
	port_emit(core, in, frames, batch->reply_count);
}

static void histogram_add(uint64_t histogram[CORE_HISTOGRAM], uint64_t value)
{
	unsigned bucket = value ? 63 - (unsigned)__builtin_clzll(value) : 0;

	histogram[bucket < CORE_HISTOGRAM ? bucket : CORE_HISTOGRAM - 1]++;
}

static void core_age(struct core *core, uint64_t now)
{
	if (core->learning && learning_age(core->learning, now))
		core->generation++;
	if (core->neighbours)
		neighbours_age(core->neighbours, now);
}

void core_input(struct core *core, struct port *in, struct frame *const frames[], unsigned n)
{
	struct core_counters *counters = &core->worker.counters;
	struct batch *batch = &core->worker.batch;

	batch->now = core->options.clock_ns();
	batch->n = batch->set_count = batch->reply_count = 0;
	memset(&batch->any, 0, sizeof(batch->any));
	core_age(core, batch->now);
	for (unsigned i = 0; i < n; i++)
		batch_take(core, batch, in, frames[i]);
	for (unsigned w = 0; w < PORT_SET_WORDS && batch->n; w++)
		for (uint64_t left = batch->any.words[w]; left; left &= left - 1)
			batch_send(
			    core, batch, in,
			    core->ports[w * PORT_SET_BITS + (unsigned)__builtin_ctzll(left)]);
	if (batch->reply_count)
		batch_reply(core, batch, in);
	if (batch->n)
		core->sinks[in->index] =
		    (struct sink){.generation = core->generation, .port = batch->port[batch->n - 1]};
	histogram_add(counters->batch_size, n);
	histogram_add(counters->forward_ns, core->options.clock_ns() - batch->now);
}

void core_let_go(struct core *core)
{
	for (unsigned i = 0; i < core->high; i++)
		if (core->ports[i] && core->ports[i]->ops->let_go)
			core->ports[i]->ops->let_go(core->ports[i]);
}

void core_recall(struct core *core)
{
	for (unsigned i = 0; i < core->high; i++)
		if (core->ports[i] && core->ports[i]->ops->recall)
			core->ports[i]->ops->recall(core->ports[i]);
}

/* The port that took the last frame of @in; NULL: several did, or things have changed since. */
static struct port *sink_of(const struct core *core, const struct port *in)
{
	const struct sink *sink = &core->sinks[in->index];

	if (sink->generation != core->generation || sink->port == FLOW_MANY)
		return NULL;
	return core->ports[sink->port];
}

bool core_full(const struct core *core, const struct port *in)
{
	struct port *port = sink_of(core, in);

	return port && port->ops->full && port->ops->full(port);
}

struct port *core_landing_port(const struct core *core, const struct port *in)
{
	struct port *port = sink_of(core, in);

	if (!port || !port_set_has(&core->kinds.nics, port->index) || !links_end_here(core))
		return NULL;
	return port;
}

/* --- telling --------------------------------------------------------------------------------- */

const struct core_counters *core_counters(const struct core *core)
{
	return &core->worker.counters;
}

void core_watch(struct core *core, struct port *port, core_watch_fn *watch, void *context)
{
	struct watch *at = &core->watches[port->index];

	core->watching += !!watch;
	core->watching -= !!at->seen;
	*at = (struct watch){.seen = watch, .context = context};
}

struct mac_visitor {
	const struct core *core;
	void (*visit)(void *context, const uint8_t mac[FRAME_MAC_SIZE], const struct port *port,
		      uint64_t age_ns);
	void *context;
};

static void mac_visit(void *context, uint64_t mac, unsigned port, uint64_t age_ns)
{
	const struct mac_visitor *visitor = context;
	uint8_t bytes[FRAME_MAC_SIZE];

	mac_store(bytes, mac);
	visitor->visit(visitor->context, bytes, visitor->core->ports[port], age_ns);
}

void core_macs(const struct core *core,
	       void (*visit)(void *context, const uint8_t mac[FRAME_MAC_SIZE],
			     const struct port *port, uint64_t age_ns),
	       void *context)
{
	struct mac_visitor visitor = {.core = core, .visit = visit, .context = context};

	if (core->learning)
		learning_visit(core->learning, core->options.clock_ns(), mac_visit, &visitor);
}

struct matrix_visitor {
	void (*visit)(void *context, const uint8_t source[FRAME_MAC_SIZE],
		      const uint8_t destination[FRAME_MAC_SIZE], uint64_t frames, uint64_t bytes);
	void *context;
};

static void matrix_pair_visit(void *context, uint64_t source, uint64_t destination, uint64_t frames,
			      uint64_t bytes)
{
	const struct matrix_visitor *visitor = context;
	uint8_t from[FRAME_MAC_SIZE], to[FRAME_MAC_SIZE];

	mac_store(from, source);
	mac_store(to, destination);
	visitor->visit(visitor->context, from, to, frames, bytes);
}

void core_matrix(const struct core *core,
		 void (*visit)(void *context, const uint8_t source[FRAME_MAC_SIZE],
			       const uint8_t destination[FRAME_MAC_SIZE], uint64_t frames,
			       uint64_t bytes),
		 void *context)
{
	struct matrix_visitor visitor = {.visit = visit, .context = context};

	matrix_visit(core->matrix, matrix_pair_visit, &visitor);
}

/* Who listens to a trace. */
struct trace {
	void (*say)(void *context, const char *line);
	void *context;
};

__attribute__((format(printf, 2, 3))) static void trace_say(const struct trace *trace,
							    const char *format, ...)
{
	char line[256];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	trace->say(trace->context, line);
}

static void trace_routes(const struct core *core, const struct flow_key *key,
			 const struct decision *decision, const struct trace *trace)
{
	const struct route_entry *entries;

	core_routes(core, &entries);
	for (unsigned r = 0; r < decision->runs; r++) {
		uint32_t at = decision->run[r], route;

		while ((route = route_table_taker(core->routes, key, decision->run[r], &at)) !=
		       UINT32_MAX)
			trace_say(trace, "route %" PRIu32 " takes it: to %s", route,
				  entries[route].route.out);
	}
}

/* Why the frame goes where it goes; in the order of decide(). */
static void trace_decision(const struct core *core, const struct flow_key *key,
			   struct decision *decision, const struct trace *trace)
{
	if (route_table_empty(core->routes))
		trace_say(trace, "no routes: %s",
			  key->in->kind == PORT_LINK && !core->options.transit
			      ? "from a link to the interfaces"
			      : "to every other port");
	decide(core, key, decision);
	if (decision->score == SCORE_DESTINATION && !decision->runs)
		trace_say(trace, "the destination is learnt");
	else if (decision->runs)
		trace_routes(core, key, decision, trace);
	else if (!route_table_empty(core->routes))
		trace_say(trace, "no route matches");
}

static void trace_port(const struct port *in, const struct frame *frame, const struct port *port,
		       const struct trace *trace)
{
	bool link = in->kind == PORT_LINK && port->kind == PORT_LINK;

	if (link && frame->hops == 1)
		trace_say(trace, "not out of %s: no hops left", port->name);
	else
		trace_say(trace, "out of %s%s", port->name,
			  offload_needs(frame) & ~port->offloads ? ", finished here first" : "");
}

void core_trace(struct core *core, struct port *in, const struct frame *frame,
		void (*say)(void *context, const char *line), void *context)
{
	const struct trace trace = {.say = say, .context = context};
	const struct flow_key key = {.destination = mac_load(frame->eth),
				     .source = mac_load(frame->eth + FRAME_MAC_SIZE),
				     .in = in};
	const uint8_t *m = frame->eth;
	struct decision decision;

	trace_say(
	    &trace,
	    "in by %s: %02x:%02x:%02x:%02x:%02x:%02x to %02x:%02x:%02x:%02x:%02x:%02x, %" PRIu32
	    " bytes",
	    in->name, m[6], m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5],
	    frame->len);
	if (frame->len < FRAME_SIZE_MIN || frame->len > FRAME_SIZE_MAX) {
		trace_say(
		    &trace, "dropped: %s",
		    drop_reason_name(frame->len < FRAME_SIZE_MIN ? DROP_RUNT : DROP_OVERSIZE));
		return;
	}
	trace_decision(core, &key, &decision, &trace);
	if (!port_set_count(&decision.to, &(unsigned){0}))
		trace_say(&trace, "dropped: %s", drop_reason_name(DROP_NO_ROUTE));
	for (unsigned i = 0; i < core->high; i++)
		if (port_set_has(&decision.to, i))
			trace_port(in, frame, core->ports[i], &trace);
}
