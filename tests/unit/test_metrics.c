/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Metrics as Prometheus reads them: each line is held against the grammar of the text format 0.0.4.
 */
#include <criterion/criterion.h>

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/link_lab.h"
#include "vnet/core.h"
#include "vnet/metrics.h"

#define MANY	   1000u
#define TEXT_MAX   512u
#define FIRST_PORT 1000u /* values of counters, one each */
#define FIRST_CORE 5000u

static struct core *core;
static struct port *ports;

static void batch_ignore(struct port *port, struct frame *const frames[], unsigned n)
{
	(void)port;
	(void)frames;
	(void)n;
}

static void close_nothing(struct port *port)
{
	(void)port;
}

static void status_give(const struct port *port, struct link_status *status)
{
	(void)port;
	*status = (struct link_status){.state = LINK_UP, .rtt_ns = 1500000, .ups = 77};
}

static const struct port_ops nic_ops = {
    .type = "nic", .send_batch = batch_ignore, .close = close_nothing};
static const struct port_ops link_ops = {
    .type = "udp", .send_batch = batch_ignore, .close = close_nothing, .status = status_give};

static void up(void)
{
	core = core_create(NULL);
	ports = calloc(MANY, sizeof(*ports));
	cr_assert(core && ports);
}

static void down(void)
{
	core_destroy(core);
	free(ports);
}

static struct port *attach(unsigned i, enum port_kind kind, const char *name)
{
	struct port *port = &ports[i];

	port->kind = kind;
	port->ops = kind == PORT_LINK ? &link_ops : &nic_ops;
	port->mtu = 1450;
	snprintf(port->name, sizeof(port->name), "%s", name);
	cr_assert_eq(core_attach(core, port), 0);
	return port;
}

static char *text_of(const struct links *links)
{
	struct metrics *metrics = metrics_take(core, links);
	char *text;

	cr_assert_not_null(metrics);
	text = metrics_text(metrics);
	metrics_free(metrics);
	cr_assert_not_null(text);
	return text;
}

/* --- the grammar ---------------------------------------------------------------------------- */

struct family {
	char name[TEXT_MAX], type[16];
	bool typed, open;  /* TYPE seen; samples seen */
	double bucket, le; /* the last of a histogram */
};

/* What a scrape was made of. */
struct scrape {
	struct family family;
	char **series, **families; /* sorted by check_once() */
	size_t series_count, family_count;
};

static const char *name_end(const char *at)
{
	cr_assert(isalpha((unsigned char)*at) || *at == '_' || *at == ':', "name: %.60s", at);
	while (isalnum((unsigned char)*at) || *at == '_' || *at == ':')
		at++;
	return at;
}

/* Behind the label's closing quote. */
static const char *value_end(const char *at)
{
	cr_assert_eq(*at++, '"');
	while (*at != '"') {
		cr_assert(*at && *at != '\n', "open value");
		if (*at == '\\')
			cr_assert(*++at && strchr("\\\"n", *at), "escape");
		at++;
	}
	return at + 1;
}

static const char *labels_end(const char *at)
{
	if (*at != '{')
		return at;
	do {
		at = name_end(at + 1);
		cr_assert_eq(*at, '=');
		at = value_end(at + 1);
	} while (*at == ',');
	cr_assert_eq(*at, '}', "%.60s", at);
	return at + 1;
}

static void keep(char ***list, size_t *count, const char *text, size_t len)
{
	char **bigger = realloc(*list, (*count + 1) * sizeof(*bigger));

	cr_assert_not_null(bigger);
	*list = bigger;
	bigger[*count] = strndup(text, len);
	cr_assert_not_null(bigger[(*count)++]);
}

static void family_begin(struct scrape *scrape, const char *line)
{
	const char *end = name_end(line);

	cr_assert(*end == ' ' && end[1], "HELP without text");
	scrape->family = (struct family){.bucket = -1, .le = -INFINITY};
	memcpy(scrape->family.name, line, (size_t)(end - line));
	keep(&scrape->families, &scrape->family_count, line, (size_t)(end - line));
}

static void family_type(struct family *family, const char *line)
{
	size_t len = strlen(family->name);
	bool total = len > 6 && !strcmp(family->name + len - 6, "_total");

	cr_assert(!strncmp(line, family->name, len) && line[len] == ' ', "TYPE of another");
	cr_assert_not(family->typed || family->open);
	snprintf(family->type, sizeof(family->type), "%.15s", line + len + 1);
	cr_assert(!strcmp(family->type, "counter") || !strcmp(family->type, "gauge") ||
		  !strcmp(family->type, "histogram"));
	cr_assert_eq(total, !strcmp(family->type, "counter"), "%s", family->name);
	family->typed = true;
}

/* Buckets grow, in order, up to +Inf, which is the count. */
static void histogram_sample(struct family *family, const char *suffix, double value)
{
	const char *le = strstr(suffix, "le=\"");
	double bound;

	if (!strncmp(suffix, "_count ", 7)) {
		cr_assert(isinf(family->le) && family->le > 0, "no +Inf");
		cr_assert_eq(value, family->bucket);
		return;
	}
	cr_assert(!strncmp(suffix, "_bucket{", 8) && le, "%.60s", suffix);
	bound = strtod(le + 4, NULL);
	cr_assert_gt(bound, family->le);
	cr_assert_geq(value, family->bucket);
	family->le = bound;
	family->bucket = value;
}

static void sample(struct scrape *scrape, const char *line)
{
	struct family *family = &scrape->family;
	size_t len = strlen(family->name);
	const char *end = labels_end(name_end(line));
	char *rest;
	double value;

	cr_assert(family->typed && !strncmp(line, family->name, len), "%.60s", line);
	cr_assert_eq(*end, ' ');
	value = strtod(end + 1, &rest);
	cr_assert(rest != end + 1 && !*rest && value >= 0, "value: %.60s", line);
	keep(&scrape->series, &scrape->series_count, line, (size_t)(end - line));
	family->open = true;
	if (!strcmp(family->type, "histogram"))
		histogram_sample(family, line + len, value);
	else
		cr_assert(line[len] == '{' || line[len] == ' ', "another's name: %.60s", line);
}

static int text_order(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* None of them is there twice; they are freed. */
static void check_once(char **list, size_t count)
{
	qsort(list, count, sizeof(*list), text_order);
	for (size_t i = 1; i < count; i++)
		cr_assert_neq(strcmp(list[i - 1], list[i]), 0, "twice: %s", list[i]);
	for (size_t i = 0; i < count; i++)
		free(list[i]);
	free(list);
}

/* Hold all against the grammar. Returns how many series there are. */
static size_t check(const char *text)
{
	struct scrape scrape = {0};
	char line[TEXT_MAX];

	while (*text) {
		size_t len = strcspn(text, "\n");

		cr_assert(text[len] == '\n' && len < sizeof(line));
		memcpy(line, text, len);
		line[len] = '\0';
		if (!strncmp(line, "# HELP ", 7))
			family_begin(&scrape, line + 7);
		else if (!strncmp(line, "# TYPE ", 7))
			family_type(&scrape.family, line + 7);
		else
			sample(&scrape, line);
		text += len + 1;
	}
	check_once(scrape.families, scrape.family_count);
	check_once(scrape.series, scrape.series_count);
	return scrape.series_count;
}

/* --- tests ---------------------------------------------------------------------------------- */

static unsigned occurs(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

static bool has_value(const char *text, uint64_t value)
{
	char tail[32];

	snprintf(tail, sizeof(tail), " %llu\n", (unsigned long long)value);
	return occurs(text, tail) == 1;
}

/* Give each 64-bit counter a value of its own. Returns how many there are. */
static size_t number(void *counters, size_t size, uint64_t first)
{
	for (size_t i = 0; i < size / 8; i++)
		((uint64_t *)counters)[i] = first + i;
	return size / 8;
}

/* A counter that is added to one of the structures and forgotten here fails this test. */
Test(metrics, every_counter_once, .init = up, .fini = down)
{
	struct core_counters *c = (struct core_counters *)core_counters(core);
	struct port *port = attach(0, PORT_INTERFACE, "nic0");
	size_t of_port = number(&port->counters, sizeof(port->counters), FIRST_PORT);
	size_t of_core = number(c, offsetof(struct core_counters, batch_size), FIRST_CORE);
	char *text = text_of(NULL);

	check(text);
	for (size_t i = 0; i < of_port; i++)
		cr_assert(has_value(text, FIRST_PORT + i), "counter %zu of a port", i);
	for (size_t i = 0; i < of_core; i++)
		cr_assert(has_value(text, FIRST_CORE + i), "counter %zu of the core", i);
	free(text);
}

Test(metrics, names_and_labels, .init = up, .fini = down)
{
	struct port *port = attach(0, PORT_INTERFACE, "nic0");
	char *text;

	port->counters.in_frames = 3;
	port->counters.drops[DROP_RING_FULL] = 4;
	attach(1, PORT_LINK, "udp://10.0.0.2:6081");
	text = text_of(NULL);
	check(text);
	cr_assert_eq(occurs(text, "\nweft_port_frames_total{port=\"nic0\",type=\"nic\",direction="
				  "\"in\"} 3\n"),
		     1);
	cr_assert_eq(occurs(text, "\nweft_port_drops_total{port=\"nic0\",type=\"nic\",reason="
				  "\"ring_full\"} 4\n"),
		     1);
	cr_assert_eq(occurs(text, "\nweft_port_mtu_bytes{port=\"nic0\",type=\"nic\"} 1450\n"), 1);
	cr_assert_eq(occurs(text, "\nweft_link_up{port=\"udp://10.0.0.2:6081\",type=\"udp\"} 1\n"),
		     1);
	cr_assert_eq(occurs(text, "\nweft_link_rtt_seconds{port=\"udp://10.0.0.2:6081\",type="
				  "\"udp\"} 0.0015\n"),
		     1);
	cr_assert_eq(occurs(text, "\nweft_link_ups_total{port=\"udp://10.0.0.2:6081\",type="
				  "\"udp\"} 77\n"),
		     1);
	cr_assert_eq(occurs(text, "weft_link_up{"), 1, "an interface is no link");
	free(text);
}

Test(metrics, odd_names_are_escaped, .init = up, .fini = down)
{
	char *text;

	attach(0, PORT_LINK, "a\"b\\c\nd");
	text = text_of(NULL);
	check(text);
	cr_assert_eq(occurs(text, "weft_link_up{port=\"a\\\"b\\\\c\\nd\",type=\"udp\"} 1\n"), 1);
	free(text);
}

Test(metrics, histograms_are_cumulative, .init = up, .fini = down)
{
	struct core_counters *c = (struct core_counters *)core_counters(core);
	char *text;

	for (unsigned i = 0; i < CORE_HISTOGRAM; i++)
		c->batch_size[i] = i == 1 ? 10 : i == 6 ? 5 : 0;
	c->forward_ns[CORE_HISTOGRAM - 1] = 1;
	text = text_of(NULL);
	check(text);
	cr_assert_eq(occurs(text, "weft_batch_frames_bucket{"), CORE_HISTOGRAM + 1);
	cr_assert_eq(occurs(text, "weft_batch_frames_bucket{le=\"1\"} 0\n"), 1);
	cr_assert_eq(occurs(text, "weft_batch_frames_bucket{le=\"3\"} 10\n"), 1);
	cr_assert_eq(occurs(text, "weft_batch_frames_bucket{le=\"63\"} 10\n"), 1);
	cr_assert_eq(occurs(text, "weft_batch_frames_bucket{le=\"127\"} 15\n"), 1);
	cr_assert_eq(occurs(text, "weft_batch_frames_bucket{le=\"+Inf\"} 15\n"), 1);
	cr_assert_eq(occurs(text, "weft_batch_frames_count 15\n"), 1);
	cr_assert_eq(occurs(text, "weft_forward_seconds_bucket{le=\"1.023e-06\"} 0\n"), 1);
	cr_assert_eq(occurs(text, "weft_forward_seconds_bucket{le=\"4.294967295\"} 1\n"), 1);
	free(text);
}

Test(metrics, nothing_attached, .init = up, .fini = down)
{
	char *text = text_of(NULL);

	check(text);
	cr_assert_eq(occurs(text, "weft_port_frames_total{"), 0);
	free(text);
}

Test(metrics, a_thousand_ports, .init = up, .fini = down)
{
	char name[PORT_NAME_MAX], *text;
	size_t alone;

	text = text_of(NULL);
	alone = check(text);
	free(text);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "udp://10.0.%u.%u:6081", i / 250, i % 250);
		attach(i, i ? PORT_LINK : PORT_INTERFACE, name);
	}
	core_detach(core, &ports[500]); /* a hole */
	text = text_of(NULL);
	cr_assert_eq(check(text), alone + (MANY - 1) * (12 + DROP_REASONS) + (MANY - 2) * 3);
	free(text);
	cr_assert_eq(core_attach(core, &ports[500]), 0);
}

/* Strangers' datagrams belong to no link. */
Test(metrics, endpoints)
{
	struct loop *loop = loop_create(64);
	static struct lab_vm vm;
	char *text;

	cr_assert_not_null(loop);
	lab_vm_up(&vm, loop, LAB_VNI);
	cr_assert_eq(lab_listen(&vm, "udp://127.0.0.1:0"), 0, "%s", vm.error);
	core = vm.core;
	text = text_of(vm.links);
	check(text);
	cr_assert_eq(
	    occurs(text, "weft_endpoint_drops_total{type=\"udp\",reason=\"not_peer\"} 0\n"), 1);
	cr_assert_eq(occurs(text, "weft_endpoint_drops_total{"), DROP_REASONS);
	cr_assert_eq(occurs(text, "weft_endpoint_syscalls_total{type=\"udp\"} "), 1);
	free(text);
	lab_vm_down(&vm);
	loop_destroy(loop);
}
