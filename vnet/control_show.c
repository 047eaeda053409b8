/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The words that show something
 *
 * Theory of operation: what is shown belongs to the data loop. A visit there copies as much as is
 * quickly copied into memory that was made ready, and never makes JSON, which takes much longer;
 * the asking thread does that. Lists whose length is known only there (addresses learnt, the
 * matrix) are visited twice: to count, then to copy at most as many as there is now room for.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/control_word.h"
#include "vnet/loop.h"

#define PORT_CHUNK     32u    /* ports read in one visit */
#define ROWS_SLACK     64u    /* may come between the two visits */
#define TRACE_TEXT_MAX 16384u /* bytes */
#define TRACE_FRAME                                                                                \
	60u /* bytes of a frame made of addresses: the shortest on a wire, less its checksum */
#define LOCAL_EXPERIMENT 0x88b5 /* EtherType, IEEE 802, 9.2.4 */

/* --- ports ---------------------------------------------------------------------------------- */

struct port_row {
	const char *type; /* a string constant of its file */
	enum port_kind kind;
	char name[PORT_NAME_MAX];
	uint32_t mtu, offloads;
	struct port_counters counters;
	bool has_status;
	struct link_status status;
};

struct port_visit {
	struct core *core;
	unsigned next; /* index to go on from */
	bool more;
	unsigned count;
	struct port_row rows[PORT_CHUNK];
};

static void row_read(struct port_row *row, const struct port *port)
{
	*row = (struct port_row){
	    .type = port->ops->type,
	    .kind = port->kind,
	    .mtu = port->mtu,
	    .offloads = port->offloads,
	    .counters = port->counters,
	    .has_status = port->ops->status != NULL,
	};
	memcpy(row->name, port->name, sizeof(row->name));
	if (port->ops->status)
		port->ops->status(port, &row->status);
}

static void ports_read(void *arg)
{
	struct port_visit *visit = arg;
	unsigned end = core_ports(visit->core);

	for (visit->count = 0; visit->next < end && visit->count < PORT_CHUNK; visit->next++)
		if (core_port(visit->core, visit->next))
			row_read(&visit->rows[visit->count++], core_port(visit->core, visit->next));
	visit->more = visit->next < end;
}

static void add_counters(struct json_object *o, const struct port_counters *c)
{
	struct json_object *drops = json_object_new_object();

	json_add_number(o, "in_frames", c->in_frames);
	json_add_number(o, "in_bytes", c->in_bytes);
	json_add_number(o, "out_frames", c->out_frames);
	json_add_number(o, "out_bytes", c->out_bytes);
	json_add_number(o, "syscalls", c->syscalls);
	json_add_number(o, "batches", c->batches);
	json_add_number(o, "copied_bytes", c->copied_bytes);
	if (c->work_requests)
		json_add_number(o, "work_requests", c->work_requests);
	if (c->registrations)
		json_add_number(o, "registrations", c->registrations);
	json_add_number(o, "landed_frames", c->landed_frames);
	json_add_number(o, "landing_misses", c->landing_misses);
	for (enum drop_reason r = 0; r < DROP_REASONS; r++)
		if (c->drops[r])
			json_add_number(drops, drop_reason_name(r), c->drops[r]);
	json_object_object_add(o, "drops", drops);
}

static void add_link(struct json_object *o, const struct port_row *row)
{
	static const char *const states[] = {
	    [LINK_DOWN] = "down", [LINK_PLAIN] = "plain", [LINK_UP] = "up"};
	const struct link_status *status = &row->status;
	uint64_t since = status->since_ns ? loop_now() - status->since_ns : 0;

	json_add_text(o, "state", states[status->state]);
	json_add_number(o, "since_ms", since / 1000000);
	json_add_number(o, "rtt_us", status->rtt_ns / 1000);
	json_add_number(o, "path_mtu", status->path_mtu);
	json_add_number(o, "ups", status->ups);
	json_add_text(o, "error", status->error);
}

static struct json_object *offloads_json(uint32_t offloads)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} names[] = {{PORT_CSUM, "csum"},
		     {PORT_TSO4, "tso4"},
		     {PORT_TSO6, "tso6"},
		     {PORT_USO, "uso"},
		     {PORT_ECN, "ecn"}};
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (offloads & names[i].bit)
			json_object_array_add(list, json_object_new_string(names[i].name));
	return list;
}

static struct json_object *row_json(const struct port_row *row, bool counters)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "name", row->name);
	json_add_text(o, "type", row->type);
	if (counters)
		json_add_text(o, "kind", row->kind == PORT_INTERFACE ? "interface" : "link");
	json_add_number(o, "mtu", row->mtu);
	if (row->has_status)
		add_link(o, row);
	json_object_object_add(o, "offloads", offloads_json(row->offloads));
	if (counters)
		add_counters(o, &row->counters);
	return o;
}

/* All ports with their counters, or the links without; NULL for want of memory. */
static struct json_object *ports_json(struct overlay *overlay, bool all)
{
	struct port_visit *visit = calloc(1, sizeof(*visit));
	struct json_object *list;

	if (!visit)
		return NULL;
	list = json_object_new_array();
	visit->core = overlay->core;
	do {
		loop_call(overlay->loop, ports_read, visit);
		for (unsigned i = 0; i < visit->count; i++)
			if (all || visit->rows[i].kind == PORT_LINK)
				json_object_array_add(list, row_json(&visit->rows[i], all));
	} while (visit->more);
	free(visit);
	return list;
}

int word_link_list(struct control_call *call)
{
	if (call->check)
		return 0;
	call->result = ports_json(call->overlay, false);
	return call->result ? 0 : control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
}

/* --- counters ------------------------------------------------------------------------------- */

#define ENDPOINTS_MAX 8u

struct core_visit {
	struct overlay *overlay;
	struct core_counters counters;
	unsigned endpoint_count;
	struct {
		const char *type;
		struct port_counters counters;
	} endpoints[ENDPOINTS_MAX];
};

static void endpoint_visit(void *context, const char *scheme, const struct port_counters *counters)
{
	struct core_visit *visit = context;

	if (visit->endpoint_count == ENDPOINTS_MAX)
		return;
	visit->endpoints[visit->endpoint_count].type = scheme;
	visit->endpoints[visit->endpoint_count++].counters = *counters;
}

static void core_read(void *arg)
{
	struct core_visit *visit = arg;

	visit->counters = *core_counters(visit->overlay->core);
	links_counters(visit->overlay->links, endpoint_visit, visit);
}

/* {"1": n, "2": n, "4": n}: each bucket that is not empty, by the least value in it. */
static struct json_object *histogram_json(const uint64_t buckets[CORE_HISTOGRAM])
{
	struct json_object *o = json_object_new_object();
	char name[24];

	for (unsigned i = 0; i < CORE_HISTOGRAM; i++) {
		if (!buckets[i])
			continue;
		snprintf(name, sizeof(name), "%llu", 1ull << i);
		json_add_number(o, name, buckets[i]);
	}
	return o;
}

static struct json_object *core_json(const struct core_counters *c)
{
	struct json_object *o = json_object_new_object();

	json_add_number(o, "cache_hits", c->cache_hits);
	json_add_number(o, "cache_misses", c->cache_misses);
	json_add_number(o, "learnt", c->learnt);
	json_add_number(o, "moved", c->moved);
	json_add_number(o, "held", c->held);
	json_add_number(o, "aged", c->aged);
	json_add_number(o, "full", c->full);
	json_add_number(o, "answered", c->answered);
	json_add_number(o, "split", c->split);
	json_add_number(o, "merged", c->merged);
	json_object_object_add(o, "batch_size", histogram_json(c->batch_size));
	json_object_object_add(o, "forward_ns", histogram_json(c->forward_ns));
	return o;
}

void control_stats(struct overlay *overlay, struct json_object *result)
{
	struct core_visit visit = {.overlay = overlay};
	struct json_object *endpoints = json_object_new_array();

	loop_call(overlay->loop, core_read, &visit);
	for (unsigned i = 0; i < visit.endpoint_count; i++) {
		struct json_object *o = json_object_new_object();

		json_add_text(o, "type", visit.endpoints[i].type);
		add_counters(o, &visit.endpoints[i].counters);
		json_object_array_add(endpoints, o);
	}
	json_object_object_add(result, "core", core_json(&visit.counters));
	json_object_object_add(result, "ports", ports_json(overlay, true));
	json_object_object_add(result, "endpoints", endpoints);
}

int word_stats(struct control_call *call)
{
	if (call->check)
		return 0;
	call->result = json_object_new_object();
	control_stats(call->overlay, call->result);
	return 0;
}

/* --- addresses ------------------------------------------------------------------------------ */

struct row {
	uint8_t a[FRAME_MAC_SIZE], b[FRAME_MAC_SIZE];
	char port[PORT_NAME_MAX];
	uint64_t x, y;
};

/* Rows on their way from the data loop: with no room they are only counted. */
struct rows {
	const struct core *core;
	struct row *rows;
	size_t count, room;
};

static struct row *row_next(struct rows *rows)
{
	size_t i = rows->count++;

	return i < rows->room ? &rows->rows[i] : NULL;
}

static void mac_visit(void *context, const uint8_t mac[FRAME_MAC_SIZE], const struct port *port,
		      uint64_t age_ns)
{
	struct row *row = row_next(context);

	if (!row)
		return;
	memcpy(row->a, mac, sizeof(row->a));
	memcpy(row->port, port->name, sizeof(row->port));
	row->x = age_ns;
}

static void macs_read(void *arg)
{
	struct rows *rows = arg;

	rows->count = 0;
	core_macs(rows->core, mac_visit, rows);
}

static void pair_visit(void *context, const uint8_t source[FRAME_MAC_SIZE],
		       const uint8_t destination[FRAME_MAC_SIZE], uint64_t frames, uint64_t bytes)
{
	struct row *row = row_next(context);

	if (!row)
		return;
	memcpy(row->a, source, sizeof(row->a));
	memcpy(row->b, destination, sizeof(row->b));
	row->x = frames;
	row->y = bytes;
}

static void matrix_read(void *arg)
{
	struct rows *rows = arg;

	rows->count = 0;
	core_matrix(rows->core, pair_visit, rows);
}

/* Collect rows by @read; 0 or an error. rows->rows is to be freed. */
static int rows_collect(struct control_call *call, void (*read)(void *arg), struct rows *rows)
{
	*rows = (struct rows){.core = call->overlay->core};
	control_loop(call, read, rows);
	rows->room = rows->count + ROWS_SLACK;
	rows->rows = calloc(rows->room, sizeof(*rows->rows));
	if (!rows->rows)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	control_loop(call, read, rows);
	if (rows->count > rows->room)
		rows->count = rows->room;
	call->result = json_object_new_array();
	return 0;
}

static void add_mac(struct json_object *o, const char *name, const uint8_t mac[FRAME_MAC_SIZE])
{
	char text[MAC_TEXT_MAX];

	mac_print(mac, text);
	json_add_text(o, name, text);
}

int word_mac_list(struct control_call *call)
{
	struct rows rows;
	int rc = call->check ? 0 : rows_collect(call, macs_read, &rows);

	if (rc || call->check)
		return rc;
	for (size_t i = 0; i < rows.count; i++) {
		struct json_object *o = json_object_new_object();

		add_mac(o, "mac", rows.rows[i].a);
		json_add_text(o, "port", rows.rows[i].port);
		json_add_number(o, "age_ms", rows.rows[i].x / 1000000);
		json_object_array_add(call->result, o);
	}
	free(rows.rows);
	return 0;
}

int word_matrix(struct control_call *call)
{
	struct rows rows;
	int rc = call->check ? 0 : rows_collect(call, matrix_read, &rows);

	if (rc || call->check)
		return rc;
	for (size_t i = 0; i < rows.count; i++) {
		struct json_object *o = json_object_new_object();

		add_mac(o, "source", rows.rows[i].a);
		add_mac(o, "destination", rows.rows[i].b);
		json_add_number(o, "frames", rows.rows[i].x);
		json_add_number(o, "bytes", rows.rows[i].y);
		json_object_array_add(call->result, o);
	}
	free(rows.rows);
	return 0;
}

/* --- trace ---------------------------------------------------------------------------------- */

struct trace {
	struct overlay *overlay;
	const char *port;
	uint8_t *bytes;
	size_t len;
	bool no_port;
	size_t used;		   /* of text */
	char text[TRACE_TEXT_MAX]; /* lines, each ended by NUL */
};

static void trace_say(void *context, const char *line)
{
	struct trace *trace = context;
	size_t size = strlen(line) + 1;

	if (size > sizeof(trace->text) - trace->used)
		return;
	memcpy(trace->text + trace->used, line, size);
	trace->used += size;
}

static void trace_run(void *arg)
{
	struct trace *trace = arg;
	struct port *port = control_port(trace->overlay, trace->port);
	const struct iovec iov = {.iov_base = trace->bytes, .iov_len = trace->len};
	struct frame frame = {
	    .iov = &iov, .iovcnt = 1, .len = (uint32_t)trace->len, .hops = FRAME_HOPS_MAX};

	trace->no_port = !port;
	memcpy(frame.eth, trace->bytes, sizeof(frame.eth));
	if (port)
		core_trace(trace->overlay->core, port, &frame, trace_say, trace);
}

/* The frame as hexadecimal digits. */
static int trace_hex(struct control_call *call, struct trace *trace)
{
	const char *text = call->argv[1];
	size_t digits = strlen(text);
	char pair[3] = "";

	trace->len = digits / 2;
	if (digits % 2 || text[strspn(text, "0123456789abcdefABCDEF")] ||
	    trace->len < FRAME_SIZE_MIN || trace->len > FRAME_SIZE_MAX)
		return control_fail(
		    call, -EINVAL,
		    "'%.40s' is no frame: write its bytes in hexadecimal, at least %u, or dst MAC "
		    "[src MAC]",
		    text, FRAME_SIZE_MIN);
	trace->bytes = malloc(trace->len);
	for (size_t i = 0; trace->bytes && i < trace->len; i++) {
		memcpy(pair, text + 2 * i, 2);
		trace->bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return 0;
}

/* A frame of an EtherType that nothing looks into. */
static int trace_addresses(struct control_call *call, struct trace *trace)
{
	static const uint8_t unknown[FRAME_MAC_SIZE] = {0x02};
	uint8_t eth[FRAME_HEADER] = {[12] = LOCAL_EXPERIMENT >> 8, [13] = LOCAL_EXPERIMENT & 0xff};

	memcpy(eth + FRAME_MAC_SIZE, unknown, sizeof(unknown));
	for (unsigned i = 1; i < call->argc; i += 2) {
		bool source = !strcmp(call->argv[i], "src");

		if (i + 1 == call->argc || (i == 1 ? source : !source) ||
		    (!source && strcmp(call->argv[i], "dst") != 0))
			return control_fail(call, -EINVAL, "write %s %s", call->word->name,
					    call->word->arguments);
		if (!mac_parse(call->argv[i + 1], eth + (source ? FRAME_MAC_SIZE : 0)))
			return control_fail(call, -EINVAL,
					    "'%.40s' is no address such as 52:54:00:00:00:01",
					    call->argv[i + 1]);
	}
	trace->len = TRACE_FRAME;
	trace->bytes = calloc(1, trace->len);
	if (trace->bytes)
		memcpy(trace->bytes, eth, sizeof(eth));
	return 0;
}

static int trace_act(struct control_call *call, struct trace *trace)
{
	if (!trace->bytes)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	trace->overlay = call->overlay;
	trace->port = call->argv[0];
	control_loop(call, trace_run, trace);
	if (trace->no_port)
		return control_fail(call, -ENOENT, "there is no port '%.80s': stats shows all",
				    trace->port);
	call->result = json_object_new_array();
	for (size_t at = 0; at < trace->used; at += strlen(trace->text + at) + 1)
		json_object_array_add(call->result, json_object_new_string(trace->text + at));
	return 0;
}

int word_trace(struct control_call *call)
{
	struct trace *trace = calloc(1, sizeof(*trace));
	int rc;

	if (!trace)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	rc = call->argc == 2 ? trace_hex(call, trace) : trace_addresses(call, trace);
	if (!rc && !call->check)
		rc = trace_act(call, trace);
	free(trace->bytes);
	free(trace);
	return rc;
}
