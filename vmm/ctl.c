/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a VM's control socket knows (the socket itself is vnet/ctl_server.c). Commands run on the control thread; what
 * belongs to the sidecar is collected there by loop_call().
 */
#include "vmm/ctl.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "vmm/agent.h"
#include "vmm/console.h"
#include "vmm/vm.h"
#include "vnet/control.h"
#include "vnet/ctl_server.h"
#include "vnet/json.h"
#include "vnet/loop.h"
#include "vnet/message.h"
#include "vnet/unix_socket.h"

static uint64_t uptime_ms(const struct vm *vm)
{
	return (loop_now() - vm->started_ns) / 1000000u;
}

static int command_status(void *context, struct ctl_request *request)
{
	static const char *const consoles[] = {"stdio", "file", "unix", "off"};
	struct vm *vm = context;
	const struct vm_config *config = vm->config;
	struct json_object *result = request->result;

	json_add_text(result, "name", config->name);
	json_add_text(result, "state", vm_state_name(vm));
	json_add_number(result, "pid", (uint64_t)getpid());
	json_add_number(result, "uptime_ms", uptime_ms(vm));
	json_add_number(result, "boots", vm->boots);
	json_add_number(result, "memory", config->memory);
	json_add_number(result, "cpus", config->cpus);
	json_add_text(result, "kernel", config->kernel);
	json_add_text(result, "agent", config->agent_path);
	json_add_bool(result, "agent_up", vm->agent && agent_up(vm->agent));
	json_add_text(result, "console", consoles[config->console]);
	json_add_text(result, "console_path", config->console_path);
	return 0;
}

static struct json_object *stats_vcpus(struct vm *vm)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; i < vm->config->cpus; i++) {
		struct json_object *vcpu = json_object_new_object();
		struct json_object *exits = json_object_new_object();

		json_add_number(vcpu, "index", i);
		for (enum vcpu_exit e = 0; e < VCPU_EXITS; e++)
			json_add_number(exits, vcpu_exit_name(e),
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

	json_add_text(device, "name", dev->ops->name);
	json_add_bool(device, "running", dev->running);
	json_add_text(device, "broken", dev->broken);
	json_add_number(device, "broken_count", dev->broken_count);
	for (unsigned i = 0; i < dev->queue_count; i++) {
		const struct virtio_queue *q = &dev->queues[i];
		struct json_object *queue = json_object_new_object();

		json_add_number(queue, "kicks", q->kicks);
		json_add_number(queue, "doorbells", q->doorbells);
		json_add_number(queue, "interrupts", q->interrupts);
		json_add_number(queue, "early_interrupts", q->early);
		json_add_number(queue, "requests", q->requests);
		json_object_array_add(queues, queue);
	}
	json_object_object_add(device, "queues", queues);
	return device;
}

static struct json_object *stats_agent(const struct agent *agent)
{
	struct json_object *o = json_object_new_object();
	struct agent_counters c;

	agent_counters(agent, &c);
	json_add_number(o, "clients", c.clients);
	json_add_number(o, "refused", c.refused);
	json_add_number(o, "client_errors", c.client_errors);
	json_add_number(o, "overruns", c.overruns);
	json_add_number(o, "guest_errors", c.guest_errors);
	return o;
}

struct stats_request {
	struct vm *vm;
	struct json_object *result;
};

/* With the sidecar's loop in hand, to which these numbers belong. */
static void stats_collect(void *arg)
{
	struct stats_request *r = arg;
	const struct loop_counters *loop = loop_counters(r->vm->sidecar);
	struct json_object *devices = json_object_new_array();

	for (unsigned i = 0; i < r->vm->device_count; i++)
		json_object_array_add(devices, stats_device(r->vm->devices[i].dev));
	json_object_object_add(r->result, "devices", devices);
	if (r->vm->agent)
		json_object_object_add(r->result, "agent", stats_agent(r->vm->agent));
	json_add_number(r->result, "sidecar_turns", loop->turns);
	json_add_number(r->result, "sidecar_sleeps", loop->sleeps);
	json_add_number(r->result, "sidecar_spins", loop->spins);
	json_add_number(r->result, "sidecar_borrows", loop->borrows);
}

static int command_stats(void *context, struct ctl_request *request)
{
	struct vm *vm = context;
	struct stats_request r = {.vm = vm, .result = request->result};

	json_object_object_add(request->result, "vcpus", stats_vcpus(vm));
	loop_call(vm->sidecar, stats_collect, &r);
	control_stats(vm->overlay, request->result);
	json_add_number(request->result, "unclaimed_accesses",
			atomic_load(&vm->pio.unclaimed) + atomic_load(&vm->mmio.unclaimed));
	json_add_number(request->result, "console_dropped", console_dropped(vm->console));
	return 0;
}

static int command_stop(void *context, struct ctl_request *request)
{
	struct vm *vm = context;
	struct json_object *force = NULL;

	if (json_object_object_get_ex(request->json, "force", &force) && !json_object_is_type(force, json_type_boolean))
		return ctl_fail(request, -EINVAL, "'force' is true or false");
	if (json_object_get_boolean(force))
		vm_finish(vm, VM_END_KILLED);
	else
		vm_ask_stop(vm);
	return 0;
}

static int command_pause(void *context, struct ctl_request *request)
{
	(void)request;
	vm_pause(context);
	return 0;
}

static int command_resume(void *context, struct ctl_request *request)
{
	(void)request;
	vm_resume(context);
	return 0;
}

static int command_overlay(void *context, struct ctl_request *request)
{
	return control_request(((struct vm *)context)->overlay, request);
}

static const struct ctl_command commands[] = {
	{"status", NULL, command_status},   {"stats", NULL, command_stats},
	{"stop", "force", command_stop},    {"pause", NULL, command_pause},
	{"resume", NULL, command_resume},   {"overlay", "line", command_overlay},
	{NULL, NULL, NULL},
};

int ctl_create(struct vm *vm, struct ctl_server **server)
{
	const char *path = vm->config->ctl_path;
	int rc = ctl_server_create(vm->control, path, commands, vm, server);

	return rc ? fail(rc, "--ctl: '%s': %s", path, unix_listen_remedy(rc)) : 0;
}
