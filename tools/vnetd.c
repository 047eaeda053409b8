/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vnetd: joins a host to an overlay without a VM.
 *
 * Theory of operation
 *
 * The overlay of libvnet with a tap device where weft has a guest's NIC: what the host sends into
 * the tap goes the way of what a guest sends, so the tap is attached as an interface and not as a
 * link.
 *
 * Two threads, as in weft: the data loop runs the tap and the links; the main thread runs the
 * control loop with signals and the control socket, and reaches the data loop by loop_call().
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "vnet/control.h"
#include "vnet/core.h"
#include "vnet/ctl_server.h"
#include "vnet/json.h"
#include "vnet/loop.h"
#include "vnet/message.h"
#include "vnet/overlay.h"
#include "vnet/overlay_options.h"
#include "vnet/unix_socket.h"

#ifndef WEFT_VERSION
#define WEFT_VERSION "unknown"
#endif

#define CONTROL_LOOP_ENTRIES 32
#define DATA_LOOP_ENTRIES    256

struct config {
	const char *tap, *ctl_path;
	struct overlay_options overlay;
	struct cmdline_text *texts; /* what was read from --config */
};

struct vnetd {
	const struct config *config;
	struct loop *control, *data;
	struct overlay *overlay;
	struct ctl_server *ctl; /* NULL: no --ctl */
	struct loop_watch signals;
	int signal_fd;
	time_t started;
	int data_error; /* of the data loop; read after its thread ended */
};

/* --- options -------------------------------------------------------------------------------- */

static void take_tap(void *config, const struct cmdline_option *option, char *value)
{
	(void)option;
	((struct config *)config)->tap = value;
}

static void take_ctl(void *config, const struct cmdline_option *option, char *value)
{
	(void)option;
	((struct config *)config)->ctl_path = value;
}

static const struct cmdline_option host_options[] = {
    {"config", "FILE", "General",
     "read options from FILE: lines 'name = value' with the names of this list, '#' and ';' begin "
     "comments; the "
     "command line wins",
     0, cmdline_take_config},
    {"help", NULL, NULL, "print this and exit; --version and --man print just that", 0,
     cmdline_take_help},
    {"tap", "NAME", "Host",
     "the host's side: a tap device that exists and that you may open (ip tuntap add NAME mode tap "
     "user USER)",
     0, take_tap},
    {"ctl", "SOCKET", NULL, "control socket for weft-ctl", 0, take_ctl},
};

#define TABLES 2

static void cmdline_set(struct cmdline *cmd, struct cmdline_table tables[TABLES],
			struct config *config)
{
	tables[0] = (struct cmdline_table){host_options,
					   sizeof(host_options) / sizeof(host_options[0]), config};
	tables[1] = overlay_options_table(&config->overlay);
	*cmd = (struct cmdline){
	    .command = "vnetd",
	    .usage =
		"Usage: vnetd [--tap NAME] [--link URL]... [options]\n\n"
		"Join this host to an overlay, or links to each other, until a signal ends it.\n",
	    .closing = "\nExit status: 0 ended by SIGTERM, SIGINT or SIGHUP, 1 environment or "
		       "error, 2 usage.\n",
	    .tables = tables,
	    .table_count = TABLES,
	    .more = overlay_options_links,
	    .texts = &config->texts,
	};
}

/* --- control -------------------------------------------------------------------------------- */

static time_t now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static int command_status(void *context, struct ctl_request *request)
{
	const struct vnetd *d = context;

	json_add_text(request->result, "state", "running");
	json_add_number(request->result, "pid", (uint64_t)getpid());
	json_add_number(request->result, "uptime_ms",
			(uint64_t)(now_seconds() - d->started) * 1000);
	json_add_text(request->result, "tap", d->config->tap);
	json_add_number(request->result, "vni", d->config->overlay.vni);
	return 0;
}

static int command_stats(void *context, struct ctl_request *request)
{
	control_stats(((struct vnetd *)context)->overlay, request->result);
	return 0;
}

static int command_stop(void *context, struct ctl_request *request)
{
	(void)request;
	loop_stop(((struct vnetd *)context)->control);
	return 0;
}

static int command_overlay(void *context, struct ctl_request *request)
{
	return control_request(((struct vnetd *)context)->overlay, request);
}

static const struct ctl_command commands[] = {
    {"status", NULL, command_status},
    {"stats", NULL, command_stats},
    {"stop", NULL, command_stop},
    {"overlay", "line", command_overlay},
    {NULL, NULL, NULL},
};

static int ctl_open(struct vnetd *d)
{
	const char *path = d->config->ctl_path;
	int rc = path ? ctl_server_create(d->control, path, commands, d, &d->ctl) : 0;

	return rc ? fail(rc, "--ctl: '%s': %s", path, unix_listen_remedy(rc)) : 0;
}

static void signal_ready(struct loop_watch *watch, uint32_t revents)
{
	(void)revents;
	loop_stop(((struct vnetd *)watch->context)->control);
}

static int signals_open(struct vnetd *d)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file past the limit is an error */
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->signal_fd < 0)
		return fail(-errno, "signals: %s", strerror(errno));
	d->signals = (struct loop_watch){.ready = signal_ready, .context = d};
	return loop_watch(d->control, &d->signals, d->signal_fd, POLLIN);
}

/* --- the overlay ---------------------------------------------------------------------------- */

static int status_of(int rc)
{
	return rc == -EINVAL || rc == -EEXIST ? STATUS_USAGE : STATUS_ENVIRONMENT;
}

static int loops_open(struct vnetd *d)
{
	d->control = loop_create(CONTROL_LOOP_ENTRIES);
	if (d->control)
		d->data = loop_create(DATA_LOOP_ENTRIES);
	if (!d->data)
		return fail(
		    -errno,
		    "io_uring: %s: allow it (sysctl kernel.io_uring_disabled=0, and in a container "
		    "its seccomp profile)",
		    strerror(errno));
	return 0;
}

static void *data_main(void *context)
{
	struct vnetd *d = context;

	d->data_error = loop_run(d->data);
	if (d->data_error)
		loop_stop(d->control);
	return NULL;
}

static int data_run(struct vnetd *d)
{
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, data_main, d);

	if (rc)
		return fail(-rc, "cannot start the data thread: %s", strerror(rc));
	rc = loop_run(d->control);
	loop_stop(d->data);
	pthread_join(thread, NULL);
	if (!rc)
		rc = d->data_error;
	return rc ? fail(rc, "the event loop failed: %s", strerror(-rc)) : 0;
}

static int run(struct vnetd *d)
{
	char error[LINK_ERROR_MAX] = "";
	int rc;

	d->signal_fd = -1;
	d->started = now_seconds();
	rc = loops_open(d);
	if (rc)
		return rc;
	rc = overlay_create(d->data, &d->config->overlay, &d->overlay, error);
	if (!rc && d->config->tap)
		rc = overlay_add_tap(d->overlay, d->config->tap, error);
	if (rc)
		return fail(rc, "%s", error);
	rc = signals_open(d);
	if (!rc)
		rc = ctl_open(d);
	return rc ? rc : data_run(d);
}

static void finish(struct vnetd *d)
{
	ctl_server_destroy(d->ctl);
	overlay_destroy(d->overlay);
	if (d->signal_fd >= 0) {
		loop_unwatch(&d->signals);
		close(d->signal_fd);
	}
	loop_destroy(d->data);
	loop_destroy(d->control);
}

int main(int argc, char **argv)
{
	static struct config config;
	static struct vnetd d = {.config = &config, .signal_fd = -1};
	struct cmdline_table tables[TABLES];
	struct cmdline cmd;
	int rc;

	overlay_options_init(&config.overlay);
	cmdline_set(&cmd, tables, &config);
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("vnetd " WEFT_VERSION);
		return STATUS_OK;
	}
	if (argc == 2 && !strcmp(argv[1], "--man")) {
		cmdline_help(&cmd, stdout, true);
		return STATUS_OK;
	}
	cmdline_parse(&cmd, argc - 1, argv + 1);
	if (!config.tap && !config.overlay.links && !config.overlay.file && !config.ctl_path)
		die(STATUS_USAGE, "nothing to join: name the host's side with --tap and peers with "
				  "--link (vnetd --help)");
	rc = run(&d);
	finish(&d);
	return rc ? status_of(rc) : STATUS_OK;
}
