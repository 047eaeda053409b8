/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/link_lab.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MS 1000000ull

static uint8_t pattern(uint32_t seq, uint32_t at)
{
	return (uint8_t)(seq * 31 + at * 7 + (at >> 8));
}

/* --- frames -------------------------------------------------------------------------------- */

/* The addresses are plain unicast ones; from the EtherType on the bytes follow from @seq, which
 * stands there. */
void lab_frame(struct lab_frame *f, uint32_t seq, uint32_t len)
{
	static const uint8_t header[FRAME_HEADER] = {2, 0, 0, 0, 0, 2,	  2,
						     0, 0, 0, 0, 1, 0x88, 0xb5};

	memcpy(f->data, header, sizeof(header));
	for (uint32_t i = FRAME_HEADER; i < len; i++)
		f->data[i] = pattern(seq, i);
	if (len >= FRAME_HEADER + sizeof(seq))
		memcpy(f->data + FRAME_HEADER, &seq, sizeof(seq));
	f->iov[0] = (struct iovec){f->data, FRAME_HEADER};
	f->iov[1] = (struct iovec){f->data + FRAME_HEADER, (len - FRAME_HEADER) / 3};
	f->iov[2] = (struct iovec){(uint8_t *)f->iov[1].iov_base + f->iov[1].iov_len,
				   len - FRAME_HEADER - f->iov[1].iov_len};
	f->frame = (struct frame){.iov = f->iov, .iovcnt = 3, .len = len, .hops = FRAME_HOPS_MAX};
	memcpy(f->frame.eth, f->data, FRAME_HEADER);
}

static bool frame_good(const uint8_t *data, uint32_t len)
{
	uint32_t seq;

	if (len < FRAME_HEADER + sizeof(seq))
		return true;
	memcpy(&seq, data + FRAME_HEADER, sizeof(seq));
	for (uint32_t i = FRAME_HEADER + sizeof(seq); i < len; i++)
		if (data[i] != pattern(seq, i))
			return false;
	return true;
}

/* --- VMs ----------------------------------------------------------------------------------- */

static void nic_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct lab_vm *vm = container_of(port, struct lab_vm, nic);

	for (unsigned i = 0; i < n; i++) {
		uint32_t at = 0;

		for (unsigned k = 0; k < frames[i]->iovcnt; k++) {
			memcpy(vm->data + at, frames[i]->iov[k].iov_base,
			       frames[i]->iov[k].iov_len);
			at += frames[i]->iov[k].iov_len;
		}
		vm->last = *frames[i];
		if (at != frames[i]->len || memcmp(vm->data, frames[i]->eth, FRAME_HEADER) != 0 ||
		    !frame_good(vm->data, at))
			vm->bad++;
		vm->frames++;
	}
}

static void nic_close(struct port *port)
{
	(void)port;
}

static const struct port_ops nic_ops = {
    .type = "test",
    .send_batch = nic_send_batch,
    .close = nic_close,
};

void lab_vm_make(struct lab_vm *vm, const struct link_env *with)
{
	struct link_env env = *with;

	memset(vm, 0, sizeof(*vm));
	vm->nic = (struct port){.ops = &nic_ops,
				.kind = PORT_INTERFACE,
				.name = "nic0",
				.mtu = FRAME_SIZE_MAX - FRAME_HEADER,
				.offloads = PORT_OFFLOADS};
	vm->loop = env.loop;
	env.core = vm->core = core_create(NULL);
	vm->links = links_create(&env);
	core_attach(vm->core, &vm->nic);
}

void lab_vm_up(struct lab_vm *vm, struct loop *loop, uint32_t vni)
{
	const struct link_env env = {.loop = loop, .vni = vni, .offload = true};

	lab_vm_make(vm, &env);
}

void lab_vm_down(struct lab_vm *vm)
{
	links_destroy(vm->links);
	core_destroy(vm->core);
	vm->links = NULL;
	vm->core = NULL;
}

struct port *lab_link(struct lab_vm *vm, const char *url)
{
	struct port *port = NULL;

	return links_add(vm->links, "--link", url, &port, vm->error) ? NULL : port;
}

int lab_listen(struct lab_vm *vm, const char *url)
{
	return links_listen(vm->links, "--listen", url, vm->error);
}

void lab_send_frame(struct lab_vm *vm, struct lab_frame *frame)
{
	struct frame *list[] = {&frame->frame};

	core_input(vm->core, &vm->nic, list, 1);
}

void lab_send(struct lab_vm *vm, unsigned n, uint32_t len)
{
	struct lab_frame *frames = calloc(FRAME_BATCH_MAX, sizeof(*frames));
	struct frame *list[FRAME_BATCH_MAX];

	for (unsigned seq = 0, batch; seq < n; seq += batch) {
		batch = n - seq < FRAME_BATCH_MAX ? n - seq : FRAME_BATCH_MAX;
		for (unsigned i = 0; i < batch; i++) {
			lab_frame(&frames[i], seq + i, len);
			list[i] = &frames[i].frame;
		}
		core_input(vm->core, &vm->nic, list, batch);
	}
	free(frames);
}

/* --- ports --------------------------------------------------------------------------------- */

struct link_status lab_status(const struct port *port)
{
	struct link_status status = {0};

	port->ops->status(port, &status);
	return status;
}

bool lab_is_up(const struct port *port)
{
	return lab_status(port).state != LINK_DOWN;
}

struct port *lab_port(const struct lab_vm *vm, const char *name)
{
	for (unsigned i = 0; i < core_ports(vm->core); i++) {
		struct port *port = core_port(vm->core, i);

		if (port && !strcmp(port->name, name))
			return port;
	}
	return NULL;
}

uint64_t lab_dropped(const struct port *port)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < DROP_REASONS; i++)
		sum += port->counters.drops[i];
	return sum;
}

/* --- waiting ------------------------------------------------------------------------------- */

struct wait {
	struct loop_timer timer;
	struct loop *loop;
	bool (*condition)(void *arg);
	void *arg;
	unsigned left_ms;
	bool held;
};

static void wait_expired(struct loop_timer *timer)
{
	struct wait *wait = timer->context;

	wait->held = wait->condition(wait->arg);
	if (wait->held || !wait->left_ms--)
		loop_stop(wait->loop);
	else
		loop_arm(wait->loop, timer, MS);
}

static bool wait_run(struct loop *loop, bool (*condition)(void *arg), void *arg, unsigned ms)
{
	struct wait wait = {.loop = loop, .condition = condition, .arg = arg, .left_ms = ms};

	if (condition(arg))
		return true;
	wait.timer.expired = wait_expired;
	wait.timer.context = &wait;
	loop_arm(loop, &wait.timer, 0);
	loop_run(loop);
	loop_disarm(&wait.timer);
	return wait.held;
}

bool lab_until(struct loop *loop, bool (*condition)(void *arg), void *arg)
{
	return wait_run(loop, condition, arg, LAB_WAIT_MS);
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

void lab_run(struct loop *loop)
{
	wait_run(loop, never, NULL, 20);
}

static bool port_up(void *arg)
{
	return lab_is_up(arg);
}

static bool port_down(void *arg)
{
	return !lab_is_up(arg);
}

bool lab_until_up(struct loop *loop, const struct port *port)
{
	return lab_until(loop, port_up, (void *)port);
}

bool lab_until_down(struct loop *loop, const struct port *port)
{
	return lab_until(loop, port_down, (void *)port);
}

struct drop_wait {
	const struct port *port;
	enum drop_reason reason;
	uint64_t n;
};

static bool port_dropped(void *arg)
{
	const struct drop_wait *w = arg;

	return w->port->counters.drops[w->reason] >= w->n;
}

bool lab_until_drop(struct loop *loop, const struct port *port, enum drop_reason reason, uint64_t n)
{
	struct drop_wait w = {port, reason, n};

	return lab_until(loop, port_dropped, &w);
}

struct frames_wait {
	const struct lab_vm *vm;
	unsigned frames;
};

static bool vm_has_frames(void *arg)
{
	const struct frames_wait *w = arg;

	return w->vm->frames >= w->frames;
}

bool lab_until_frames(struct lab_vm *vm, unsigned frames)
{
	struct frames_wait w = {vm, frames};

	return lab_until(vm->loop, vm_has_frames, &w);
}

/* --- the host ------------------------------------------------------------------------------ */

bool lab_shell(const char *format, ...)
{
	char command[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	return system(command) == 0; // NOLINT(cert-env33-c): test code
}

/* The second command waits for who is at work on the interface's state. */
static bool interface_running(void *arg)
{
	return lab_shell(
	    "ip link show dev %s 2>/dev/null | grep -q 'state UP' && ip link set %s up",
	    (char *)arg, (char *)arg);
}

bool lab_until_running(struct loop *loop, const char *interface)
{
	return lab_until(loop, interface_running, (void *)interface);
}

bool lab_netns(void)
{
	return !unshare(CLONE_NEWNET) && lab_shell("ip link set lo up");
}
