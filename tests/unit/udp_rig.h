/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over UDP on loopback: real sockets, all ends in one thread and one loop. sendmmsg(2) can be
 * made to fail. Included by one file of a program.
 *
 * Nothing here waits for a time: wait_until() runs the loop until a condition holds, and gives up
 * only after WAIT_MS. Bursts are small enough for the smallest socket buffers.
 */
#ifndef WEFT_UDP_RIG_H
#define WEFT_UDP_RIG_H

#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/geneve.h"
#include "vnet/iovec.h"
#include "vnet/link.h"
#include "vnet/link_udp.h"
#include "vnet/loop.h"

#define MS	   1000000ull
#define VNI	   4711u
#define FRAME_ROOM 66000u
#define WAIT_MS	   60000u

/* --- sendmmsg(2) that fails ---------------------------------------------------------------- */

static struct {
	int err;	/* to fail with, 0: none */
	unsigned times; /* so often, then no more */
	unsigned most;	/* messages a call takes, 0: all */
	bool trains;	/* only messages that are trains fail, wherever they stand */
	unsigned calls;
	int fds[64]; /* those it was called with, in order */
} fault;

/* How many messages come before the one that is to fail. */
static inline unsigned fault_before(const struct mmsghdr *messages, unsigned n)
{
	unsigned i = 0;

	while (fault.trains && i < n && !messages[i].msg_hdr.msg_controllen)
		i++;
	return i;
}

/* Ours comes before the C library's. */
long syscall(long number, ...)
{
	static long (*real)(long, ...);
	long args[6];
	va_list ap;

	va_start(ap, number);
	for (unsigned i = 0; i < 6; i++)
		args[i] = va_arg(ap, long);
	va_end(ap);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "syscall");
	if (number == SYS_sendmmsg) {
		unsigned before = fault.err ? fault_before((void *)args[1], (unsigned)args[2]) : 0;

		fault.fds[fault.calls++ % 64] = (int)args[0];
		if (fault.err && fault.times && !before) {
			fault.times--;
			errno = fault.err;
			return -1;
		}
		if (before)
			args[2] = before;
		if (fault.most && args[2] > (long)fault.most)
			args[2] = fault.most;
	}
	return real(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

/* --- frames that can be told apart --------------------------------------------------------- */

static inline uint8_t pattern(uint32_t seq, uint32_t at)
{
	return (uint8_t)(seq * 31 + at * 7 + (at >> 8));
}

static inline void frame_write(uint8_t *data, uint32_t seq, uint32_t len)
{
	memcpy(data, &seq, sizeof(seq));
	for (uint32_t i = sizeof(seq); i < len; i++)
		data[i] = pattern(seq, i);
}

static inline void frame_check(const struct frame *frame)
{
	static uint8_t data[FRAME_ROOM];
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	uint32_t seq;

	cr_assert_eq(iov_read(&at, data, sizeof(data)), frame->len);
	cr_assert_arr_eq(frame->eth, data, FRAME_HEADER);
	memcpy(&seq, data, sizeof(seq));
	for (uint32_t i = sizeof(seq); i < frame->len; i++)
		if (data[i] != pattern(seq, i))
			cr_assert_fail("byte %u of frame %u", i, seq);
}

/* A batch to be sent: frames of one length, each cut into pieces. */
struct batch {
	unsigned n;
	uint8_t *data;
	struct iovec *iov;
	struct frame frames[FRAME_BATCH_MAX];
	struct frame *list[FRAME_BATCH_MAX];
};

/* After the bytes of frame @i were changed. */
static inline void batch_frame_set(struct batch *batch, unsigned i)
{
	memcpy(batch->frames[i].eth, batch->data + (size_t)i * FRAME_ROOM, FRAME_HEADER);
}

static inline struct batch *batch_new(unsigned n, uint32_t len, unsigned pieces)
{
	struct batch *batch = calloc(1, sizeof(*batch));

	batch->n = n;
	batch->data = malloc((size_t)n * FRAME_ROOM);
	batch->iov = calloc((size_t)n * pieces, sizeof(*batch->iov));
	for (unsigned i = 0; i < n; i++) {
		uint8_t *data = batch->data + (size_t)i * FRAME_ROOM;
		struct iovec *iov = batch->iov + (size_t)i * pieces;
		uint32_t at = 0;

		frame_write(data, i, len);
		for (unsigned p = 0; p < pieces; p++) {
			uint32_t size = p + 1 == pieces ? len - at : len / pieces;

			iov[p] = (struct iovec){data + at, size};
			at += size;
		}
		batch->frames[i] = (struct frame){
		    .iov = iov, .iovcnt = pieces, .len = len, .hops = FRAME_HOPS_MAX};
		batch->list[i] = &batch->frames[i];
		batch_frame_set(batch, i);
	}
	return batch;
}

static inline void batch_free(struct batch *batch)
{
	free(batch->data);
	free(batch->iov);
	free(batch);
}

/* --- VMs: a core with one interface that checks what it gets, and an endpoint --------------- */

struct vm {
	struct port nic;
	struct core *core;
	struct link_env env;
	void *endpoint; /* struct udp_endpoint */
	unsigned frames, batches;
	uint64_t bytes;
	bool unchecked;
	struct frame_offload offload; /* of the last frame */
	uint8_t hops;
	uint32_t last_seq;
	unsigned disordered; /* frames that came before one with a lower number */
};

static struct loop *loop;
static char error[LINK_ERROR_MAX];

static inline void nic_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct vm *vm = (struct vm *)port;

	for (unsigned i = 0; i < n; i++) {
		uint32_t seq;

		if (!vm->unchecked)
			frame_check(frames[i]);
		vm->bytes += frames[i]->len;
		vm->offload = frames[i]->offload;
		vm->hops = frames[i]->hops;
		memcpy(&seq, frames[i]->eth, sizeof(seq));
		vm->disordered += seq < vm->last_seq;
		vm->last_seq = seq;
	}
	vm->frames += n;
	vm->batches++;
}

static inline void nic_close(struct port *port)
{
	(void)port;
}

static const struct port_ops nic_ops = {
    .type = "test",
    .send_batch = nic_send_batch,
    .close = nic_close,
};

static inline void loop_up(void)
{
	loop = loop_create(64);
	cr_assert_not_null(loop);
	memset(&fault, 0, sizeof(fault));
}

static inline void loop_down(void)
{
	loop_destroy(loop);
}

/* "TARGET,NAME=VALUE..." */
static inline struct link_spec spec_of(const char *option, const char *text)
{
	struct link_spec spec = {.option = option, .text = text, .scheme = "udp"};
	char copy[512], *rest = copy, *word;

	snprintf(copy, sizeof(copy), "%s", text);
	snprintf(spec.target, sizeof(spec.target), "%s", strsep(&rest, ","));
	while ((word = strsep(&rest, ","))) {
		char *value = strchr(word, '=');

		*value = '\0';
		snprintf(spec.options[spec.option_count].name, 24, "%s", word);
		snprintf(spec.options[spec.option_count++].value, 128, "%s", value + 1);
	}
	return spec;
}

static inline int vm_listen(struct vm *vm, const char *listen)
{
	struct link_spec spec = spec_of("--listen", listen);

	return link_udp.listen(&vm->env, &spec, &vm->endpoint, error);
}

static inline void vm_up_with(struct vm *vm, const char *listen, bool offload,
			      const struct seal_key *key)
{
	*vm = (struct vm){.nic = {.ops = &nic_ops,
				  .kind = PORT_INTERFACE,
				  .name = "nic0",
				  .offloads = PORT_OFFLOADS,
				  .mtu = FRAME_SIZE_MAX - FRAME_HEADER}};
	vm->core = core_create(NULL);
	vm->env = (struct link_env){
	    .loop = loop, .core = vm->core, .vni = VNI, .offload = offload, .key = key};
	cr_assert_eq(core_attach(vm->core, &vm->nic), 0);
	cr_assert_eq(vm_listen(vm, listen), 0, "%s", error);
}

static inline void vm_up(struct vm *vm, const char *listen)
{
	vm_up_with(vm, listen, true, NULL);
}

static inline void vm_down(struct vm *vm)
{
	core_destroy(vm->core);
	udp_endpoint_destroy(vm->endpoint);
}

static inline unsigned vm_port(const struct vm *vm)
{
	return udp_endpoint_local_port(vm->endpoint);
}

/* @options: "" or ",NAME=VALUE..." */
static inline int vm_try(struct vm *vm, struct port **port, const char *target)
{
	struct link_spec spec = spec_of("--link", target);

	error[0] = '\0';
	return link_udp.open(&vm->env, &spec, &vm->endpoint, port, error);
}

static inline struct port *vm_link(struct vm *vm, const char *host, unsigned udp_port,
				   const char *options)
{
	struct port *port = NULL;
	char text[160];

	snprintf(text, sizeof(text), "%s:%u%s", host, udp_port, options);
	cr_assert_eq(vm_try(vm, &port, text), 0, "%s", error);
	return port;
}

static inline void vm_send(struct vm *vm, struct batch *batch)
{
	core_input(vm->core, &vm->nic, batch->list, batch->n);
}

static inline void expired(struct loop_timer *timer)
{
	loop_stop(timer->loop);
}

static inline void run_ms(unsigned ms)
{
	struct loop_timer timer = {.expired = expired};

	loop_arm(loop, &timer, ms * MS);
	cr_assert_eq(loop_run(loop), 0);
	loop_disarm(&timer);
}

/* Run the loop until a condition holds. */
#define wait_until(condition)                                                                      \
	do {                                                                                       \
		for (unsigned waited = 0; !(condition); waited++) {                                \
			cr_assert(waited < WAIT_MS, "never came: %s", #condition);                 \
			run_ms(1);                                                                 \
		}                                                                                  \
	} while (0)

/* Run until @vm has @frames in all. */
static inline void vm_wait(struct vm *vm, unsigned frames)
{
	wait_until(vm->frames >= frames);
	cr_assert_eq(vm->frames, frames, "%u of %u frames", vm->frames, frames);
}

static inline enum link_state state_of(const struct port *port)
{
	struct link_status status;

	port->ops->status(port, &status);
	return status.state;
}

/* Two VMs, linked with each other. */
static struct vm a, b;
static struct port *a_link, *b_link;

static inline void pair_link(const char *host, const char *options)
{
	a_link = vm_link(&a, host, vm_port(&b), options);
	b_link = vm_link(&b, host, vm_port(&a), options);
}

static inline void pair_up(const char *listen_a, const char *listen_b, const char *host,
			   const char *options)
{
	loop_up();
	vm_up(&a, listen_a);
	vm_up(&b, listen_b);
	pair_link(host, options);
}

static inline void pair_up_v4(void)
{
	pair_up("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1", "");
}

static inline void pair_up_plain(void)
{
	pair_up("127.0.0.1:0,spread=1", "127.0.0.1:0,spread=1", "127.0.0.1", ",plain=on");
}

static inline void pair_meet(void)
{
	wait_until(state_of(a_link) == LINK_UP && state_of(b_link) == LINK_UP);
}

static inline void pair_down(void)
{
	vm_down(&a);
	vm_down(&b);
	loop_down();
}

#endif
