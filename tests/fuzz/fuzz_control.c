/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control language, line by line, on an overlay with an interface and a link. Lines that would
 * open files or sockets are left out. What is refused must give one line as the reason and leave
 * the routes as they were; what "route list" shows must be accepted again.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vnet/control.h"
#include "vnet/core.h"
#include "vnet/loop.h"
#include "vnet/overlay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void send_nothing(struct port *port, struct frame *const frames[], unsigned n)
{
	(void)port, (void)frames, (void)n;
}

static void close_nothing(struct port *port)
{
	(void)port;
}

static const struct port_ops ops = {
    .type = "fake", .send_batch = send_nothing, .close = close_nothing};

static void expect(int condition)
{
	if (!condition)
		abort();
}

static size_t routes_count(struct overlay *overlay)
{
	const struct route_entry *entries;

	return core_routes(overlay_core(overlay), &entries);
}

static int line_run(struct overlay *overlay, const char *line)
{
	struct json_object *result = NULL;
	char error[CONTROL_ERROR_MAX] = "";
	int rc = control_run(overlay, line, -1, &result, error, sizeof(error));

	expect(rc ? !result && *error && !strchr(error, '\n') : result != NULL);
	json_object_put(result);
	return rc;
}

static int reaches_out(const char *line)
{
	return strstr(line, "capture") || (strstr(line, "link") && strstr(line, "add")) ||
	       (strstr(line, "replace") && !strstr(line, "replace {"));
}

/* Each route can be taken out by the words it is shown in, and put in again. */
static void routes_check(struct overlay *overlay)
{
	const struct route_entry *entries;
	char text[ROUTE_TEXT_MAX], line[ROUTE_TEXT_MAX + 16];
	size_t n = core_routes(overlay_core(overlay), &entries);

	if (!n || strpbrk(entries[0].route.in, " \t;#\"\\") ||
	    strpbrk(entries[0].route.out, " \t;#\"\\"))
		return;
	route_print(&entries[0].route, text);
	snprintf(line, sizeof(line), "route del %s", text);
	expect(!line_run(overlay, line));
	expect(routes_count(overlay) == n - 1);
	snprintf(line, sizeof(line), "route add %s", text);
	expect(!line_run(overlay, line));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct port nic = {.ops = &ops, .kind = PORT_INTERFACE, .name = "nic0", .mtu = 1500};
	struct port link = {.ops = &ops, .kind = PORT_LINK, .name = "peer", .mtu = 1500};
	static struct loop *loop; /* costs a ring of the kernel's each */
	const struct overlay_options options = {.learn = true};
	char error[LINK_ERROR_MAX], *text = strndup((const char *)data, size), *save = NULL;
	struct overlay *overlay = NULL;

	if (!loop)
		loop = loop_create(8);
	expect(loop && text && !overlay_create(loop, &options, &overlay, error));
	expect(!core_attach(overlay_core(overlay), &nic) &&
	       !core_attach(overlay_core(overlay), &link));
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t before = routes_count(overlay);

		if (reaches_out(line))
			continue;
		if (line_run(overlay, line))
			expect(routes_count(overlay) == before);
	}
	routes_check(overlay);
	overlay_destroy(overlay);
	free(text);
	return 0;
}
