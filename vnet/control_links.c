/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The words about links. All that they do is done on the data loop, which links belong to, but for
 * looking up names: that may take seconds.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "vnet/control_word.h"

/* A visit of the data loop. */
struct link_visit {
	struct overlay *overlay;
	const char *text;	/* URL or name */
	char url[LINK_URL_MAX]; /* without names to be looked up */
	char name[PORT_NAME_MAX];
	char error[LINK_ERROR_MAX];
	int rc;
};

static void add_run(void *arg)
{
	struct link_visit *visit = arg;
	struct port *port;

	visit->rc = links_add(visit->overlay->links, "link add", visit->url, &port, visit->error);
	if (!visit->rc)
		memcpy(visit->name, port->name, sizeof(visit->name));
}

static void del_run(void *arg)
{
	struct link_visit *visit = arg;
	struct port *port = control_port(visit->overlay, visit->text);

	visit->rc = !port ? -ENOENT : port->kind != PORT_LINK ? -EINVAL : 0;
	if (!visit->rc)
		links_remove(visit->overlay->links, port);
}

/* Of a name's addresses the first one is taken, or the first that the listener can reach. */
static void link_add(struct control_call *call, struct link_visit *visit)
{
	static const int families[] = {AF_UNSPEC, AF_INET, AF_INET6};

	for (unsigned i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		visit->rc =
		    links_resolve("link add", visit->text, families[i], visit->url, visit->error);
		if (visit->rc)
			return;
		control_loop(call, add_run, visit);
		if (visit->rc != -EHOSTUNREACH)
			return;
	}
}

int word_link_add(struct control_call *call)
{
	struct link_visit visit = {.overlay = call->overlay, .text = call->argv[0]};

	if (call->check)
		return 0;
	link_add(call, &visit);
	if (visit.rc) {
		snprintf(call->error, call->error_size, "%s", visit.error);
		return visit.rc;
	}
	call->result = json_object_new_object();
	json_add_text(call->result, "name", visit.name);
	return 0;
}

int word_link_del(struct control_call *call)
{
	struct link_visit visit = {.overlay = call->overlay, .text = call->argv[0]};

	if (call->check)
		return 0;
	control_loop(call, del_run, &visit);
	if (visit.rc == -ENOENT)
		return control_fail(call, visit.rc, "there is no link '%.80s': link list shows all",
				    call->argv[0]);
	if (visit.rc)
		return control_fail(call, visit.rc,
				    "'%.80s' is no link but an interface, which stays",
				    call->argv[0]);
	return 0;
}
