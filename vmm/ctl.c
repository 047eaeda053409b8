/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket
 *
 * Theory of operation: a client sends a line, a JSON object with a member "command", and gets a line back. One
 * request is answered before the next one is read, and while an answer waits to be read by the client nothing
 * more is taken from it, so that each client costs at most one line and one answer. A line that is too
 * long, or is not JSON, is answered with an error; the former also ends the connection. The commands are one
 * table; a member that a command does not know is an error, so a misspelt option never passes for its default.
 *
 * Everything runs on the control thread; what belongs to the sidecar is collected there by loop_call().
 */
#include "vmm/ctl.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "vmm/agent.h"
#include "vmm/console.h"
#include "vmm/message.h"
#include "vmm/unix_socket.h"
#include "vmm/vm.h"
#include "vnet/core.h"
#include "vnet/link_udp.h"
#include "vnet/loop.h"

#define CTL_CLIENTS_MAX 128
#define CTL_LINE_MAX    65536u /* bytes of a request, newline included */
#define CTL_JSON_DEPTH  8

struct ctl_client {
	struct ctl *ctl;
	int fd;
	struct loop_watch watch;
	size_t used; /* bytes of a request so far */
	char *reply; /* what is not yet written of an answer, or NULL */
	size_t reply_start, reply_size;
	bool closing; /* after the reply */
	char line[CTL_LINE_MAX];
};

struct ctl {
	struct vm *vm;
	int fd;
	struct loop_watch listener;
	struct loop_timer accept_retry;
	struct ctl_client *clients[CTL_CLIENTS_MAX];
};

/* --- commands ------------------------------------------------------------------------------- */

static void add_string(struct json_object *o, const char *name, const char *value)
{
	json_object_object_add(o, name, value ? json_object_new_string(value) : NULL);
}

static void add_number(struct json_object *o, const char *name, uint64_t value)
{
	json_object_object_add(o, name, json_object_new_uint64(value));
}

static uint64_t uptime_ms(const struct vm *vm)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec - vm->started_ns) / 1000000u;
}

static const char *command_status(struct vm *vm, struct json_object *request,
				  struct json_object *result)
{
	static const char *const consoles[] = {"stdio", "file", "unix", "off"};
	const struct vm_config *config = vm->config;

	(void)request;
	add_string(result, "name", config->name);
	add_string(result, "state", vm_state_name(vm));
	add_number(result, "pid", (uint64_t)getpid());
	add_number(result, "uptime_ms", uptime_ms(vm));
	add_number(result, "boots", vm->boots);
	add_number(result, "memory", config->memory);
	add_number(result, "cpus", config->cpus);
	add_string(result, "kernel", config->kernel);
	add_string(result, "agent", config->agent_path);
	json_object_object_add(result, "agent_up",
			       json_object_new_boolean(vm->agent && agent_up(vm->agent)));
	add_string(result, "console", consoles[config->console]);
	add_string(result, "console_path", config->console_path);
	return NULL;
}

static struct json_object *stats_vcpus(struct vm *vm)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; i < vm->config->cpus; i++) {
		struct json_object *vcpu = json_object_new_object();
		struct json_object *exits = json_object_new_object();

		add_number(vcpu, "index", i);
		for (enum vcpu_exit e = 0; e < VCPU_EXITS; e++)
			add_number(exits, vcpu_exit_name(e),
				   atomic_load_explicit(&vm->vcpus[i].exits[e], memory_order_relaxed));
		json_object_object_add(vcpu, "exits", exits);
		json_object_array_add(list, vcpu);
	}
	return list;
}

static struct json_object *stats_device(const struct virtio_device *dev)
{
	struct json_object *device = json_object_new_object();
	struct json_object *queues = json_object_new_array();

	add_string(device, "name", dev->ops->name);
	json_object_object_add(device, "running", json_object_new_boolean(dev->running));
	add_string(device, "broken", dev->broken);
	add_number(device, "broken_count", dev->broken_count);
	for (unsigned i = 0; i < dev->queue_count; i++) {
		const struct virtio_queue *q = &dev->queues[i];
		struct json_object *queue = json_object_new_object();

		add_number(queue, "doorbells", q->doorbells);
		add_number(queue, "interrupts", q->interrupts);
		add_number(queue, "requests", q->requests);
		json_object_array_add(queues, queue);
	}
	json_object_object_add(device, "queues", queues);
	return device;
}

static void add_counters(struct json_object *o, const struct port_counters *c)
{
	struct json_object *drops = json_object_new_object();

	add_number(o, "in_frames", c->in_frames);
	add_number(o, "in_bytes", c->in_bytes);
	add_number(o, "out_frames", c->out_frames);
	add_number(o, "out_bytes", c->out_bytes);
	add_number(o, "syscalls", c->syscalls);
	add_number(o, "batches", c->batches);
	add_number(o, "copied_bytes", c->copied_bytes);
	for (enum drop_reason r = 0; r < DROP_REASONS; r++)
		if (c->drops[r])
			add_number(drops, drop_reason_name(r), c->drops[r]);
	json_object_object_add(o, "drops", drops);
}

static struct json_object *stats_port(const struct port *port)
{
	struct json_object *o = json_object_new_object();

	add_string(o, "name", port->name);
	add_string(o, "type", port->ops->type);
	add_string(o, "kind", port->kind == PORT_INTERFACE ? "interface" : "link");
	add_number(o, "mtu", port->mtu);
	add_counters(o, &port->counters);
	return o;
}

/* What belongs to no single peer: receiving, and datagrams from strangers. */
static struct json_object *stats_socket(const struct udp_endpoint *endpoint)
{
	struct json_object *o = json_object_new_object();

	add_number(o, "port", udp_endpoint_local_port(endpoint));
	add_counters(o, udp_endpoint_counters(endpoint));
	return o;
}

static struct json_object *stats_agent(const struct agent *agent)
{
	struct json_object *o = json_object_new_object();
	struct agent_counters c;

	agent_counters(agent, &c);
	add_number(o, "clients", c.clients);
	add_number(o, "refused", c.refused);
	add_number(o, "client_errors", c.client_errors);
	add_number(o, "overruns", c.overruns);
	add_number(o, "guest_errors", c.guest_errors);
	return o;
}

struct stats_request {
	struct vm *vm;
	struct json_object *result;
};

/* Runs on the sidecar, which owns these numbers. */
static void stats_collect(void *arg)
{
	struct stats_request *r = arg;
	struct json_object *devices = json_object_new_array();
	struct json_object *ports = json_object_new_array();

	for (unsigned i = 0; i < r->vm->device_count; i++)
		json_object_array_add(devices, stats_device(r->vm->devices[i].dev));
	for (unsigned i = 0; i < core_ports(r->vm->core); i++)
		if (core_port(r->vm->core, i))
			json_object_array_add(ports, stats_port(core_port(r->vm->core, i)));
	json_object_object_add(r->result, "devices", devices);
	json_object_object_add(r->result, "ports", ports);
	if (r->vm->agent)
		json_object_object_add(r->result, "agent", stats_agent(r->vm->agent));
	if (r->vm->endpoint)
		json_object_object_add(r->result, "socket", stats_socket(r->vm->endpoint));
	add_number(r->result, "sidecar_turns", loop_turns(r->vm->sidecar));
}

static const char *command_stats(struct vm *vm, struct json_object *request,
				 struct json_object *result)
{
	struct stats_request r = {.vm = vm, .result = result};

	(void)request;
	json_object_object_add(result, "vcpus", stats_vcpus(vm));
	loop_call(vm->sidecar, stats_collect, &r);
	add_number(result, "unclaimed_accesses", atomic_load(&vm->pio.unclaimed) + atomic_load(&vm->mmio.unclaimed));
	add_number(result, "console_dropped", console_dropped(vm->console));
	return NULL;
}

static const char *command_stop(struct vm *vm, struct json_object *request,
				struct json_object *result)
{
	struct json_object *force;

	(void)result;
	if (!json_object_object_get_ex(request, "force", &force)) {
		vm_ask_stop(vm);
		return NULL;
	}
	if (!json_object_is_type(force, json_type_boolean))
		return "'force' is true or false";
	if (json_object_get_boolean(force))
		vm_finish(vm, VM_END_KILLED);
	else
		vm_ask_stop(vm);
	return NULL;
}

static const char *command_pause(struct vm *vm, struct json_object *request,
				 struct json_object *result)
{
	(void)request, (void)result;
	vm_pause(vm);
	return NULL;
}

static const char *command_resume(struct vm *vm, struct json_object *request,
				  struct json_object *result)
{
	(void)request, (void)result;
	vm_resume(vm);
	return NULL;
}

static const struct command {
	const char *name;
	const char *member; /* the one optional member it takes, or NULL */
	/* Fill in the result; returns NULL, or what is wrong with the request. */
	const char *(*run)(struct vm *vm, struct json_object *request, struct json_object *result);
} commands[] = {
	{"status", NULL, command_status}, {"stats", NULL, command_stats},
	{"stop", "force", command_stop},  {"pause", NULL, command_pause},
	{"resume", NULL, command_resume},
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct command *command_find(struct json_object *request)
{
	struct json_object *name;

	if (!json_object_object_get_ex(request, "command", &name) ||
	    !json_object_is_type(name, json_type_string))
		return NULL;
	for (size_t i = 0; i < COMMANDS; i++)
		if (!strcmp(commands[i].name, json_object_get_string(name)))
			return &commands[i];
	return NULL;
}

static const char *command_run(struct vm *vm, struct json_object *request,
			       struct json_object *result)
{
	const struct command *command;

	if (!json_object_is_type(request, json_type_object))
		return "a request is one JSON object on one line";
	command = command_find(request);
	if (!command)
		return "unknown command: status, stats, stop, pause and resume are known";
	json_object_object_foreach(request, key, value)
	{
		(void)value;
		if (strcmp(key, "command") && (!command->member || strcmp(key, command->member)))
			return "the request has a member that this command does not know";
	}
	return command->run(vm, request, result);
}

/* --- clients -------------------------------------------------------------------------------- */

static void client_close(struct ctl_client *client)
{
	struct ctl *ctl = client->ctl;

	loop_unwatch(&client->watch);
	close(client->fd);
	for (unsigned i = 0; i < CTL_CLIENTS_MAX; i++)
		if (ctl->clients[i] == client)
			ctl->clients[i] = NULL;
	free(client->reply);
	free(client);
}

/* Send what waits. Returns false when the client is gone (and freed). */
static bool client_flush(struct ctl_client *client)
{
	while (client->reply) {
		ssize_t n = send(client->fd, client->reply + client->reply_start,
				 client->reply_size - client->reply_start, MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n < 0) {
			client_close(client);
			return false;
		}
		client->reply_start += (size_t)n;
		if (client->reply_start == client->reply_size) {
			free(client->reply);
			client->reply = NULL;
		}
	}
	if (!client->closing)
		return true;
	client_close(client);
	return false;
}

static void client_answer(struct ctl_client *client, const char *error, struct json_object *result)
{
	struct json_object *answer = json_object_new_object();
	const char *text;

	json_object_object_add(answer, "ok", json_object_new_boolean(!error));
	if (error)
		add_string(answer, "error", error);
	else
		json_object_object_add(answer, "result", json_object_get(result));
	text = json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN);
	client->reply_start = 0;
	client->reply_size = strlen(text) + 1;
	client->reply = malloc(client->reply_size);
	if (client->reply) {
		memcpy(client->reply, text, client->reply_size);
		client->reply[client->reply_size - 1] = '\n';
	} else {
		client->closing = true;
	}
	json_object_put(answer);
}

static void client_request(struct ctl_client *client, size_t len)
{
	struct json_tokener *tokener = json_tokener_new_ex(CTL_JSON_DEPTH);
	struct json_object *result = json_object_new_object();
	struct json_object *request = NULL;
	const char *error = "the line is not JSON";

	if (tokener) {
		json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
		request = json_tokener_parse_ex(tokener, client->line, (int)len + 1);
	}
	if (request && json_tokener_get_error(tokener) == json_tokener_success)
		error = command_run(client->ctl->vm, request, result);
	client_answer(client, error, result);
	json_object_put(request);
	json_object_put(result);
	json_tokener_free(tokener);
}

/* Answer the requests that are complete, as long as the client takes the answers. */
static void client_serve(struct ctl_client *client)
{
	char *end;

	while (!client->reply && (end = memchr(client->line, '\n', client->used))) {
		size_t len = (size_t)(end - client->line);

		*end = '\0';
		client_request(client, len);
		client->used -= len + 1;
		memmove(client->line, end + 1, client->used);
		if (!client_flush(client))
			return;
	}
	if (!client->reply && client->used == CTL_LINE_MAX) {
		client->closing = true;
		client->used = 0;
		client_answer(client, "the line is longer than 65536 bytes", NULL);
		if (!client_flush(client))
			return;
	}
	/* Wait for what is missing: room for the answer, or more of the request. */
	if ((client->watch.events == POLLOUT) != !!client->reply) {
		loop_unwatch(&client->watch);
		loop_watch(client->ctl->vm->control, &client->watch, client->fd,
			   client->reply ? POLLOUT : POLLIN);
	}
}

static void client_ready(struct loop_watch *watch, uint32_t revents)
{
	struct ctl_client *client = watch->context;
	ssize_t n;

	(void)revents;
	if (client->reply) {
		if (client_flush(client))
			client_serve(client);
		return;
	}
	n = recv(client->fd, client->line + client->used, CTL_LINE_MAX - client->used, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_close(client);
		return;
	}
	client->used += (size_t)n;
	client_serve(client);
}

static struct ctl_client *client_create(struct ctl *ctl, int fd)
{
	struct ctl_client *client = calloc(1, sizeof(*client));

	if (!client)
		return NULL;
	client->ctl = ctl;
	client->fd = fd;
	client->watch = (struct loop_watch){.ready = client_ready, .context = client};
	if (loop_watch(ctl->vm->control, &client->watch, fd, POLLIN)) {
		free(client);
		return NULL;
	}
	return client;
}

static void listener_ready(struct loop_watch *watch, uint32_t revents)
{
	static const char full[] = "{\"ok\":false,\"error\":\"too many clients\"}\n";
	struct ctl *ctl = watch->context;
	int fd = unix_accept(watch, &ctl->accept_retry);
	unsigned i = 0;

	(void)revents;
	if (fd < 0)
		return;
	while (i < CTL_CLIENTS_MAX && ctl->clients[i])
		i++;
	if (i < CTL_CLIENTS_MAX)
		ctl->clients[i] = client_create(ctl, fd);
	if (i < CTL_CLIENTS_MAX && ctl->clients[i])
		return;
	send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL);
	close(fd);
}

struct ctl *ctl_create(struct vm *vm)
{
	struct ctl *ctl = calloc(1, sizeof(*ctl));
	const char *path = vm->config->ctl_path;
	int rc;

	if (!ctl)
		return NULL;
	ctl->vm = vm;
	ctl->fd = rc = unix_listen(path);
	if (rc < 0) {
		fail(rc, "--ctl: '%s': %s", path, unix_listen_remedy(rc));
		goto out_free;
	}
	ctl->listener = (struct loop_watch){.ready = listener_ready, .context = ctl};
	rc = loop_watch(vm->control, &ctl->listener, ctl->fd, POLLIN);
	if (!rc)
		return ctl;
	fail(rc, "--ctl: '%s': %s", path, strerror(-rc));
	close(ctl->fd);
	unlink(path);
out_free:
	free(ctl);
	errno = -rc;
	return NULL;
}

void ctl_destroy(struct ctl *ctl)
{
	if (!ctl)
		return;
	loop_unwatch(&ctl->listener);
	loop_disarm(&ctl->accept_retry);
	close(ctl->fd);
	unlink(ctl->vm->config->ctl_path);
	for (unsigned i = 0; i < CTL_CLIENTS_MAX; i++)
		if (ctl->clients[i])
			client_close(ctl->clients[i]);
	free(ctl);
}
