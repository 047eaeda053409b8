/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The words about captures, of which there is at most one, and metrics. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vnet/capture.h"
#include "vnet/control_word.h"
#include "vnet/metrics.h"

/* A visit of the data loop. */
struct capture_visit {
	struct overlay *overlay;
	const char *port; /* NULL: all */
	uint64_t limit;
	int fd, rc;
	struct capture_status status;
};

static void start_run(void *arg)
{
	struct capture_visit *visit = arg;
	struct overlay *overlay = visit->overlay;
	struct port *port = visit->port ? control_port(overlay, visit->port) : NULL;

	visit->rc = visit->port && !port ? -ENODEV : 0;
	if (visit->rc)
		return;
	overlay->capture =
	    capture_start(overlay->loop, overlay->core, port, visit->fd, visit->limit);
	visit->rc = overlay->capture ? 0 : -errno;
}

static void stop_run(void *arg)
{
	struct capture_visit *visit = arg;

	visit->status = capture_stop(visit->overlay->capture);
	visit->overlay->capture = NULL;
}

static void status_run(void *arg)
{
	struct capture_visit *visit = arg;

	visit->status = capture_status(visit->overlay->capture);
}

static int limit_parse(struct control_call *call, const char *text, uint64_t *limit)
{
	char *end;

	*limit = strtoull(text, &end, 10);
	if (isdigit((unsigned char)*text) && !*end && *limit >= CAPTURE_LIMIT_MIN)
		return 0;
	return control_fail(call, -EINVAL, "limit '%.40s' is no number of bytes from %u on", text,
			    CAPTURE_LIMIT_MIN);
}

/* "port NAME" and "limit BYTES", in any order, each at most once. */
static int start_arguments(struct control_call *call, struct capture_visit *visit)
{
	int rc = 0;

	for (unsigned i = 1; i < call->argc && !rc; i += 2) {
		const char *name = call->argv[i], *value = call->argv[i + 1];

		if (value && !strcmp(name, "port") && !visit->port)
			visit->port = value;
		else if (value && !strcmp(name, "limit") && !visit->limit)
			rc = limit_parse(call, value, &visit->limit);
		else
			rc = control_fail(call, -EINVAL,
					  "'%.40s': port NAME and limit BYTES may follow", name);
	}
	return rc;
}

static int start_failed(struct control_call *call, const struct capture_visit *visit)
{
	close(visit->fd);
	if (visit->rc == -ENODEV)
		return control_fail(call, -ENOENT, "there is no port '%.80s': stats shows all",
				    visit->port);
	if (visit->rc == -EINVAL)
		return control_fail(call, -EINVAL, "'%.200s' is no ordinary file", call->argv[0]);
	return control_fail(call, visit->rc, "%s", strerror(-visit->rc));
}

int word_capture_start(struct control_call *call)
{
	struct capture_visit visit = {.overlay = call->overlay};
	int rc = start_arguments(call, &visit);

	if (rc || call->check)
		return rc;
	if (call->overlay->capture)
		return control_fail(call, -EBUSY,
				    "there is a capture already: end it with capture stop");
	/* A FIFO that nobody reads must not hold up this thread. */
	visit.fd = control_open(call, call->argv[0], O_WRONLY | O_CREAT | O_NONBLOCK);
	if (visit.fd < 0)
		return visit.fd;
	control_loop(call, start_run, &visit);
	return visit.rc ? start_failed(call, &visit) : 0;
}

static void status_show(struct control_call *call, const struct capture_status *status)
{
	call->result = json_object_new_object();
	json_add_number(call->result, "frames", status->frames);
	json_add_number(call->result, "bytes", status->bytes);
	json_add_number(call->result, "dropped", status->dropped);
	json_add_text(call->result, "error", status->error ? strerror(status->error) : NULL);
}

static int capture_visit(struct control_call *call, void (*run)(void *arg))
{
	struct capture_visit visit = {.overlay = call->overlay};

	if (call->check)
		return 0;
	if (!call->overlay->capture)
		return control_fail(call, -ENOENT,
				    "there is no capture: capture start FILE begins one");
	control_loop(call, run, &visit);
	status_show(call, &visit.status);
	return 0;
}

int word_capture_stop(struct control_call *call)
{
	return capture_visit(call, stop_run);
}

int word_capture_status(struct control_call *call)
{
	return capture_visit(call, status_run);
}

/* --- metrics -------------------------------------------------------------------------------- */

struct metrics_visit {
	const struct overlay *overlay;
	struct metrics *metrics;
};

static void metrics_run(void *arg)
{
	struct metrics_visit *visit = arg;

	visit->metrics = metrics_take(visit->overlay->core, visit->overlay->links);
}

int word_metrics(struct control_call *call)
{
	struct metrics_visit visit = {.overlay = call->overlay};
	char *text;

	if (call->check)
		return 0;
	control_loop(call, metrics_run, &visit);
	text = visit.metrics ? metrics_text(visit.metrics) : NULL;
	metrics_free(visit.metrics);
	if (!text)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	call->result = json_object_new_string(text);
	free(text);
	return 0;
}
