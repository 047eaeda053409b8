/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The words about modes
 *
 * Theory of operation: the mode switches are those of the ports, and the data loop's. One visit
 * there brings them up to date and copies them all; the asking thread makes JSON of the copies.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/control_word.h"
#include "vnet/loop.h"
#include "vnet/mode.h"

#define DIGITS	 "0123456789"
#define ROWS_MAX (8u * PORT_PAIRS_MAX * PORT_DIRECTIONS) /* as many as a VM may have NICs */

static const char *const directions[] = {[PORT_TX] = "tx", [PORT_RX] = "rx"};

struct mode_row {
	char port[PORT_NAME_MAX];
	unsigned pair;
	enum port_direction direction;
	struct mode_switch mode;
};

struct mode_visit {
	struct core *core;
	uint64_t now_ns;
	unsigned count;
	struct mode_row rows[ROWS_MAX];
};

static void switch_read(struct mode_visit *visit, const struct port *port, unsigned pair,
			enum port_direction direction)
{
	struct mode_switch *sw = port_mode(port, pair, direction);
	struct mode_row *row;

	if (visit->count == ROWS_MAX)
		return;
	row = &visit->rows[visit->count++];
	mode_count(sw, 0, visit->now_ns);
	row->pair = pair;
	row->direction = direction;
	row->mode = *sw;
	memcpy(row->port, port->name, sizeof(row->port));
}

static void port_read(struct mode_visit *visit, const struct port *port)
{
	for (unsigned pair = 0; pair < port->pairs_active; pair++)
		for (enum port_direction d = 0; d < PORT_DIRECTIONS; d++)
			switch_read(visit, port, pair, d);
}

static void modes_read(void *arg)
{
	struct mode_visit *visit = arg;

	visit->now_ns = loop_now();
	for (unsigned i = 0; i < core_ports(visit->core); i++) {
		const struct port *port = core_port(visit->core, i);

		if (port && port->modes)
			port_read(visit, port);
	}
}

static struct json_object *row_json(const struct mode_row *row)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "port", row->port);
	json_add_number(o, "pair", row->pair);
	json_add_text(o, "direction", directions[row->direction]);
	return o;
}

static struct json_object *mode_json(const struct mode_row *row)
{
	const struct mode_switch *sw = &row->mode;
	struct json_object *o = row_json(row);

	json_add_text(o, "policy", mode_name(sw->rules.policy));
	json_add_text(o, "mode", mode_name(sw->mode));
	json_add_number(o, "up", sw->rules.up);
	json_add_number(o, "down", sw->rules.down);
	json_add_number(o, "flood", sw->rules.flood);
	json_add_bool(o, "patient", sw->patient);
	json_add_number(o, "window_us", sw->rules.window_ns / 1000);
	json_add_number(o, "dwell_us", sw->rules.dwell_ns / 1000);
	json_add_number(o, "guest_frames", sw->frames[MODE_GUEST]);
	json_add_number(o, "vmm_frames", sw->frames[MODE_VMM]);
	json_add_number(o, "switches", sw->switches);
	return o;
}

/* The switches that are remembered, the oldest first. */
static void history_json(struct json_object *list, const struct mode_row *row, uint64_t now_ns)
{
	const struct mode_switch *sw = &row->mode;
	uint64_t n = sw->switches > MODE_HISTORY ? sw->switches - MODE_HISTORY : 0;

	for (; n < sw->switches; n++) {
		const struct mode_event *event = &sw->history[n % MODE_HISTORY];
		struct json_object *o = row_json(row);

		json_add_text(o, "mode", mode_name(event->mode));
		json_add_number(o, "ago_ms", (now_ns - event->at_ns) / 1000000);
		json_add_number(o, "frames", event->frames);
		json_object_array_add(list, o);
	}
}

static int modes_show(struct control_call *call, bool history)
{
	struct mode_visit *visit;

	if (call->check)
		return 0;
	visit = calloc(1, sizeof(*visit));
	if (!visit)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	visit->core = call->overlay->core;
	control_loop(call, modes_read, visit);
	call->result = json_object_new_array();
	for (unsigned i = 0; i < visit->count; i++) {
		if (history)
			history_json(call->result, &visit->rows[i], visit->now_ns);
		else
			json_object_array_add(call->result, mode_json(&visit->rows[i]));
	}
	free(visit);
	return 0;
}

int word_mode_history(struct control_call *call)
{
	return modes_show(call, true);
}

struct mode_request {
	struct overlay *overlay;
	const char *port;
	bool chosen[PORT_DIRECTIONS];
	int pair; /* -1: all */
	enum mode policy;
	bool found;
};

static void modes_choose(void *arg)
{
	struct mode_request *request = arg;
	struct port *port = control_port(request->overlay, request->port);

	request->found = port && request->pair < (int)port->pairs && port->pairs;
	for (unsigned i = 0; request->found && i < port->pairs; i++)
		for (enum port_direction d = 0; d < PORT_DIRECTIONS; d++)
			if (request->chosen[d] &&
			    (request->pair < 0 || (unsigned)request->pair == i))
				mode_choose(port_mode(port, i, d), request->policy, loop_now());
}

/* "tx", or "tx1" for that of pair 1 alone. */
static bool direction_parse(struct mode_request *request, const char *text)
{
	const char *number = text + strcspn(text, DIGITS);
	size_t len = (size_t)(number - text), digits = strlen(number);

	if (digits > 2 || strspn(number, DIGITS) != digits)
		return false;
	request->pair = digits ? atoi(number) : -1;
	for (enum port_direction d = 0; d < PORT_DIRECTIONS; d++)
		request->chosen[d] = len == 2 && !memcmp(text, directions[d], 2);
	return request->chosen[PORT_TX] || request->chosen[PORT_RX];
}

int word_mode(struct control_call *call)
{
	struct mode_request request = {
	    .overlay = call->overlay, .chosen = {true, true}, .pair = -1};

	if (!call->argc)
		return modes_show(call, false);
	if (call->argc == 1 || !mode_parse(call->argv[call->argc - 1], &request.policy) ||
	    (call->argc == 3 && !direction_parse(&request, call->argv[1])))
		return control_fail(call, -EINVAL, "write mode %s", call->word->arguments);
	if (call->check)
		return 0;
	request.port = call->argv[0];
	control_loop(call, modes_choose, &request);
	return request.found
		   ? 0
		   : control_fail(call, -ENOENT,
				  "there is no NIC '%.80s', or no such pair: mode shows them",
				  request.port);
}
