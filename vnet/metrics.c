/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation: the counters are copied on the core's thread, which takes some hundred
 * nanoseconds a port, and made text on the caller's, so that a thousand ports do not hold up the
 * frames. One table says which counter has which name; a metric's name and its label never change
 * once published. Counters that are still 0 are shown too: Prometheus takes no rate of a first
 * value.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/core.h"
#include "vnet/link.h"
#include "vnet/metrics.h"

struct metrics_port {
	char name[PORT_NAME_MAX];
	const char *type;
	enum port_kind kind;
	uint32_t mtu;
	struct port_counters counters;
	struct link_status link;
};

#define ENDPOINTS_MAX 8u /* more types of links than there are */

/* What a type of links counted that belongs to none of its links. */
struct metrics_endpoint {
	const char *type;
	struct port_counters counters;
};

struct metrics {
	struct core_counters core;
	unsigned endpoint_count;
	struct metrics_endpoint endpoints[ENDPOINTS_MAX];
	unsigned count;
	struct metrics_port ports[];
};

static void endpoint_take(void *context, const char *type, const struct port_counters *counters)
{
	struct metrics *m = context;

	if (m->endpoint_count < ENDPOINTS_MAX)
		m->endpoints[m->endpoint_count++] =
		    (struct metrics_endpoint){.type = type, .counters = *counters};
}

struct metrics *metrics_take(const struct core *core, const struct links *links)
{
	unsigned high = core_ports(core);
	struct metrics *m = calloc(1, sizeof(*m) + high * sizeof(m->ports[0]));

	if (!m)
		return NULL;
	m->core = *core_counters(core);
	if (links)
		links_counters(links, endpoint_take, m);
	for (unsigned i = 0; i < high; i++) {
		const struct port *port = core_port(core, i);
		struct metrics_port *to = &m->ports[m->count];

		if (!port)
			continue;
		memcpy(to->name, port->name, sizeof(to->name));
		to->type = port->ops->type;
		to->kind = port->kind;
		to->mtu = port->mtu;
		to->counters = port->counters;
		if (port->ops->status)
			port->ops->status(port, &to->link);
		m->count++;
	}
	return m;
}

void metrics_free(struct metrics *m)
{
	free(m);
}

/* --- text ----------------------------------------------------------------------------------- */

/* A counter of its own: name, more labels, where it is in its struct. */
struct counter {
	const char *name, *label, *help;
	size_t at;
};

static const struct counter port_table[] = {
    {"weft_port_frames_total", ",direction=\"in\"", "Frames into and out of the core by this port.",
     offsetof(struct port_counters, in_frames)},
    {"weft_port_frames_total", ",direction=\"out\"", NULL,
     offsetof(struct port_counters, out_frames)},
    {"weft_port_bytes_total", ",direction=\"in\"", "Bytes of these frames.",
     offsetof(struct port_counters, in_bytes)},
    {"weft_port_bytes_total", ",direction=\"out\"", NULL,
     offsetof(struct port_counters, out_bytes)},
    {"weft_port_batches_total", "", "Batches of frames sent or received.",
     offsetof(struct port_counters, batches)},
    {"weft_port_syscalls_total", "", "System calls of the data path.",
     offsetof(struct port_counters, syscalls)},
    {"weft_port_copied_bytes_total", "", "Payload bytes copied.",
     offsetof(struct port_counters, copied_bytes)},
    {"weft_port_work_requests_total", "", "Sends handed to an RDMA adapter.",
     offsetof(struct port_counters, work_requests)},
    {"weft_port_registrations_total", "", "Registrations of memory with an RDMA adapter.",
     offsetof(struct port_counters, registrations)},
    {"weft_port_landed_frames_total", "", "Frames received straight into the guest's buffers.",
     offsetof(struct port_counters, landed_frames)},
    {"weft_port_landing_misses_total", "",
     "Large frames laid out for in the guest's buffers that came otherwise.",
     offsetof(struct port_counters, landing_misses)},
};

static const struct counter endpoint_table[] = {
    {"weft_endpoint_batches_total", "", "Batches that one call received for several links.",
     offsetof(struct port_counters, batches)},
    {"weft_endpoint_syscalls_total", "", "System calls of the data path that served several links.",
     offsetof(struct port_counters, syscalls)},
    {"weft_endpoint_registrations_total", "", "Registrations of memory with RDMA adapters.",
     offsetof(struct port_counters, registrations)},
};

static const struct counter core_table[] = {
    {"weft_flow_cache_total", "result=\"hit\"", "Look-ups in the flow cache.",
     offsetof(struct core_counters, cache_hits)},
    {"weft_flow_cache_total", "result=\"miss\"", NULL,
     offsetof(struct core_counters, cache_misses)},
    {"weft_mac_events_total", "event=\"learnt\"", "What became of source addresses.",
     offsetof(struct core_counters, learnt)},
    {"weft_mac_events_total", "event=\"moved\"", NULL, offsetof(struct core_counters, moved)},
    {"weft_mac_events_total", "event=\"held\"", NULL, offsetof(struct core_counters, held)},
    {"weft_mac_events_total", "event=\"aged\"", NULL, offsetof(struct core_counters, aged)},
    {"weft_mac_events_total", "event=\"full\"", NULL, offsetof(struct core_counters, full)},
    {"weft_neighbours_answered_total", "", "ARP and neighbour questions answered here.",
     offsetof(struct core_counters, answered)},
    {"weft_offload_frames_total", "work=\"split\"", "Frames cut or joined in software.",
     offsetof(struct core_counters, split)},
    {"weft_offload_frames_total", "work=\"merged\"", NULL, offsetof(struct core_counters, merged)},
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static uint64_t counter_value(const void *base, const struct counter *counter)
{
	uint64_t value;

	memcpy(&value, (const char *)base + counter->at, sizeof(value));
	return value;
}

static void head(FILE *out, const char *name, const char *type, const char *help)
{
	if (help)
		fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: backslash, quote and newline are escaped. */
static void value_print(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '\n') {
			fputs("\\n", out);
			continue;
		}
		if (*text == '\\' || *text == '"')
			fputc('\\', out);
		fputc(*text, out);
	}
}

/* NAME{port="...",type="..." -- open, for more labels. */
static void port_open(FILE *out, const char *name, const struct metrics_port *port)
{
	fprintf(out, "%s{port=\"", name);
	value_print(out, port->name);
	fprintf(out, "\",type=\"%s\"", port->type);
}

static void ports_counters(FILE *out, const struct metrics *m)
{
	for (size_t i = 0; i < COUNT(port_table); i++) {
		const struct counter *counter = &port_table[i];

		head(out, counter->name, "counter", counter->help);
		for (unsigned p = 0; p < m->count; p++) {
			port_open(out, counter->name, &m->ports[p]);
			fprintf(out, "%s} %" PRIu64 "\n", counter->label,
				counter_value(&m->ports[p].counters, counter));
		}
	}
}

static void ports_drops(FILE *out, const struct metrics *m)
{
	static const char name[] = "weft_port_drops_total";

	head(out, name, "counter", "Frames dropped, by reason.");
	for (unsigned p = 0; p < m->count; p++) {
		for (enum drop_reason reason = 0; reason < DROP_REASONS; reason++) {
			port_open(out, name, &m->ports[p]);
			fprintf(out, ",reason=\"%s\"} %" PRIu64 "\n", drop_reason_name(reason),
				m->ports[p].counters.drops[reason]);
		}
	}
}

static void endpoints_drops(FILE *out, const struct metrics *m)
{
	static const char name[] = "weft_endpoint_drops_total";

	head(out, name, "counter", "Frames dropped that belong to no link, by reason.");
	for (unsigned i = 0; i < m->endpoint_count; i++)
		for (enum drop_reason reason = 0; reason < DROP_REASONS; reason++)
			fprintf(out, "%s{type=\"%s\",reason=\"%s\"} %" PRIu64 "\n", name,
				m->endpoints[i].type, drop_reason_name(reason),
				m->endpoints[i].counters.drops[reason]);
}

static void endpoints_counters(FILE *out, const struct metrics *m)
{
	for (size_t i = 0; i < COUNT(endpoint_table); i++) {
		const struct counter *counter = &endpoint_table[i];

		head(out, counter->name, "counter", counter->help);
		for (unsigned e = 0; e < m->endpoint_count; e++)
			fprintf(out, "%s{type=\"%s\"} %" PRIu64 "\n", counter->name,
				m->endpoints[e].type,
				counter_value(&m->endpoints[e].counters, counter));
	}
}

static void ports_mtu(FILE *out, const struct metrics *m)
{
	head(out, "weft_port_mtu_bytes", "gauge", "Largest guest MTU the port carries.");
	for (unsigned p = 0; p < m->count; p++) {
		port_open(out, "weft_port_mtu_bytes", &m->ports[p]);
		fprintf(out, "} %" PRIu32 "\n", m->ports[p].mtu);
	}
}

static void links_value(FILE *out, const struct metrics *m, const char *name, const char *type,
			const char *help, double (*value)(const struct link_status *status))
{
	head(out, name, type, help);
	for (unsigned p = 0; p < m->count; p++) {
		if (m->ports[p].kind != PORT_LINK)
			continue;
		port_open(out, name, &m->ports[p]);
		fprintf(out, "} %.9g\n", value(&m->ports[p].link));
	}
}

static double link_up(const struct link_status *status)
{
	return status->state != LINK_DOWN;
}

static double link_rtt(const struct link_status *status)
{
	return (double)status->rtt_ns / 1e9;
}

static double link_ups(const struct link_status *status)
{
	return (double)status->ups;
}

static void core_table_print(FILE *out, const struct core_counters *core)
{
	for (size_t i = 0; i < COUNT(core_table); i++) {
		const struct counter *counter = &core_table[i];

		head(out, counter->name, "counter", counter->help);
		fprintf(out, "%s", counter->name);
		if (*counter->label)
			fprintf(out, "{%s}", counter->label);
		fprintf(out, " %" PRIu64 "\n", counter_value(core, counter));
	}
}

/* Buckets are cumulative; the sum of the values is not kept and so not given. */
static void histogram(FILE *out, const char *name, const char *help,
		      const uint64_t buckets[CORE_HISTOGRAM], double unit)
{
	uint64_t total = 0;

	head(out, name, "histogram", help);
	for (unsigned i = 0; i < CORE_HISTOGRAM; i++) {
		total += buckets[i];
		fprintf(out, "%s_bucket{le=\"%.10g\"} %" PRIu64 "\n", name,
			(double)((UINT64_C(2) << i) - 1) * unit, total);
	}
	fprintf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_count %" PRIu64 "\n", name, total,
		name, total);
}

char *metrics_text(const struct metrics *m)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	int failed;

	if (!out)
		return NULL;
	ports_counters(out, m);
	ports_drops(out, m);
	ports_mtu(out, m);
	endpoints_counters(out, m);
	endpoints_drops(out, m);
	links_value(out, m, "weft_link_up", "gauge", "1 while the link carries frames.", link_up);
	links_value(out, m, "weft_link_rtt_seconds", "gauge",
		    "Round trip to the peer; 0 if never measured.", link_rtt);
	links_value(out, m, "weft_link_ups_total", "counter", "Times the link came up.", link_ups);
	core_table_print(out, &m->core);
	histogram(out, "weft_batch_frames", "Frames a batch.", m->core.batch_size, 1);
	histogram(out, "weft_forward_seconds", "Time to route and send a batch.",
		  m->core.forward_ns, 1e-9);
	failed = ferror(out);
	if (fclose(out) || failed) {
		free(text);
		errno = ENOMEM;
		return NULL;
	}
	return text;
}
