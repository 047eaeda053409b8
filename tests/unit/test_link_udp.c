/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over UDP on loopback: real sockets, both ends in one thread. sendmmsg(2) can be made to
 * fail. Row names such as B1 are those of the list of hostile inputs.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/geneve.h"
#include "vnet/link_udp.h"
#include "vnet/loop.h"

#define MS	   1000000ull
#define VNI	   4711u
#define FRAME_ROOM 66000u
#define WAIT_MS	   60000u /* for what must come; only what never comes takes so long */
#define QUIET_MS   20u	  /* for what must not */

/* --- sendmmsg(2) that fails ---------------------------------------------------------------- */

static struct {
	int err;	/* to fail with, 0: none */
	unsigned times; /* so often, then no more */
	unsigned most;	/* messages a call takes, 0: all */
	unsigned calls;
} fault;

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
		fault.calls++;
		if (fault.err && fault.times) {
			fault.times--;
			errno = fault.err;
			return -1;
		}
		if (fault.most && args[2] > (long)fault.most)
			args[2] = fault.most;
	}
	return real(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

/* --- frames that can be told apart --------------------------------------------------------- */

static uint8_t pattern(uint32_t seq, uint32_t at)
{
	return (uint8_t)(seq * 31 + at * 7 + (at >> 8));
}

static void frame_write(uint8_t *data, uint32_t seq, uint32_t len)
{
	memcpy(data, &seq, sizeof(seq));
	for (uint32_t i = sizeof(seq); i < len; i++)
		data[i] = pattern(seq, i);
}

static void frame_check(const struct frame *frame)
{
	const uint8_t *data = frame->iov->iov_base;
	uint32_t seq;

	cr_assert_eq(frame->iovcnt, 1);
	cr_assert_eq(frame->iov->iov_len, frame->len);
	cr_assert_arr_eq(frame->eth, data, FRAME_HEADER);
	cr_assert_eq(frame->offload.flags | frame->offload.gso_type, 0);
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

static struct batch *batch_new(unsigned n, uint32_t len, unsigned pieces)
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
		batch->frames[i] = (struct frame){.iov = iov, .iovcnt = pieces, .len = len};
		memcpy(batch->frames[i].eth, data, FRAME_HEADER);
		batch->list[i] = &batch->frames[i];
	}
	return batch;
}

static void batch_free(struct batch *batch)
{
	free(batch->data);
	free(batch->iov);
	free(batch);
}

/* --- VMs: a core with one interface that checks what it gets, and an endpoint --------------- */

struct vm {
	struct port nic;
	struct core *core;
	struct udp_endpoint *endpoint;
	unsigned frames, batches, want;
	uint64_t bytes;
	struct loop *loop;
	bool unchecked;
};

static void nic_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct vm *vm = (struct vm *)port;

	for (unsigned i = 0; i < n; i++) {
		if (!vm->unchecked)
			frame_check(frames[i]);
		vm->bytes += frames[i]->len;
	}
	vm->frames += n;
	vm->batches++;
	if (vm->want && vm->frames >= vm->want)
		loop_stop(vm->loop);
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

static struct loop *loop;
static char error[UDP_ERROR_MAX];

static void loop_up(void)
{
	loop = loop_create(64);
	cr_assert_not_null(loop);
	memset(&fault, 0, sizeof(fault));
}

static void loop_down(void)
{
	loop_destroy(loop);
}

static void vm_up(struct vm *vm, const char *listen)
{
	*vm = (struct vm){.nic = {.ops = &nic_ops, .kind = PORT_INTERFACE, .name = "nic0"}};
	vm->loop = loop;
	vm->core = core_create();
	cr_assert_eq(core_attach(vm->core, &vm->nic), 0);
	cr_assert_eq(udp_endpoint_create(loop, vm->core, listen, VNI, &vm->endpoint, error), 0,
		     "%s", error);
}

static void vm_down(struct vm *vm)
{
	core_destroy(vm->core);
	udp_endpoint_destroy(vm->endpoint);
}

static struct port *vm_link(struct vm *vm, const char *host, unsigned udp_port)
{
	struct port *port = NULL;
	char text[80];

	snprintf(text, sizeof(text), "%s:%u", host, udp_port);
	cr_assert_eq(udp_endpoint_add_peer(vm->endpoint, text, &port, error), 0, "%s", error);
	return port;
}

static unsigned vm_port(const struct vm *vm)
{
	return udp_endpoint_local_port(vm->endpoint);
}

static void vm_send(struct vm *vm, struct batch *batch)
{
	core_input(vm->core, &vm->nic, batch->list, batch->n);
}

static void expired(struct loop_timer *timer)
{
	loop_stop(timer->loop);
}

static void run_ms(unsigned ms)
{
	struct loop_timer timer = {.expired = expired};

	loop_arm(loop, &timer, ms * MS);
	cr_assert_eq(loop_run(loop), 0);
	loop_disarm(&timer);
}

/* Run until @vm has @frames in all. */
static void vm_wait(struct vm *vm, unsigned frames)
{
	vm->want = frames;
	if (vm->frames < frames)
		run_ms(WAIT_MS);
	vm->want = 0;
	cr_assert_eq(vm->frames, frames, "%u of %u frames", vm->frames, frames);
}

/* Run until the condition is true. */
#define run_until(condition)                                                                       \
	do {                                                                                       \
		for (unsigned ms = 0; ms < WAIT_MS && !(condition); ms++)                          \
			run_ms(1);                                                                 \
		cr_assert(condition);                                                              \
	} while (0)

/* Run until nothing more comes. */
static void vm_drain(const struct vm *vm)
{
	unsigned before;

	do {
		before = vm->frames;
		run_ms(QUIET_MS);
	} while (vm->frames != before);
}

/* Two VMs, linked with each other. */
static struct vm a, b;
static struct port *a_link, *b_link;

static void pair_up(const char *listen_a, const char *listen_b, const char *host)
{
	loop_up();
	vm_up(&a, listen_a);
	vm_up(&b, listen_b);
	a_link = vm_link(&a, host, vm_port(&b));
	b_link = vm_link(&b, host, vm_port(&a));
}

static void pair_up_v4(void)
{
	pair_up("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1");
}

static void pair_down(void)
{
	vm_down(&a);
	vm_down(&b);
	loop_down();
}

/* --- frames come and go -------------------------------------------------------------------- */

static void exchange(uint32_t len, unsigned n, unsigned pieces)
{
	struct batch *batch = batch_new(n, len, pieces);

	for (unsigned i = 1; i <= 5; i++) {
		vm_send(&a, batch);
		vm_wait(&b, i * n);
		vm_send(&b, batch);
		vm_wait(&a, i * n);
	}
	cr_assert_eq(a_link->counters.out_frames, 5 * n);
	cr_assert_eq(a_link->counters.out_bytes, 5ull * n * len);
	cr_assert_eq(b_link->counters.in_frames, 5 * n);
	cr_assert_eq(b_link->counters.in_bytes, 5ull * n * len);
	cr_assert_eq(a_link->counters.batches, a_link->counters.syscalls + a.batches);
	cr_assert_eq(a_link->counters.syscalls, 5);
	batch_free(batch);
}

Test(link_udp, batches_both_ways, .init = pair_up_v4, .fini = pair_down)
{
	exchange(1400, FRAME_BATCH_MAX, 1);
	cr_assert_lt(b.batches, 5 * FRAME_BATCH_MAX / 2);
}

Test(link_udp, smallest_frames_in_pieces, .init = pair_up_v4, .fini = pair_down)
{
	exchange(FRAME_SIZE_MIN, FRAME_BATCH_MAX, 14);
}

Test(link_udp, big_frames, .init = pair_up_v4, .fini = pair_down)
{
	exchange(64000, 2, 17);
}

Test(link_udp, largest_frame, .init = pair_up_v4, .fini = pair_down)
{
	exchange(a_link->mtu + FRAME_HEADER, 1, 3);
}

Test(link_udp, ipv6)
{
	pair_up("[::1]:0", "[::1]:0", "[::1]");
	exchange(1400, FRAME_BATCH_MAX, 2);
	pair_down();
}

Test(link_udp, any_address_speaks_ipv4_and_ipv6)
{
	struct batch *batch = batch_new(3, 100, 1);
	struct vm four, six, both;

	loop_up();
	vm_up(&both, ":0");
	vm_up(&four, "127.0.0.1:0");
	vm_up(&six, "[::1]:0");
	vm_link(&four, "127.0.0.1", vm_port(&both));
	vm_link(&six, "[::1]", vm_port(&both));
	cr_assert_eq(strncmp(vm_link(&both, "127.0.0.1", vm_port(&four))->name, "udp://127.", 10),
		     0);
	cr_assert_eq(strncmp(vm_link(&both, "[::1]", vm_port(&six))->name, "udp://[::1]:", 12), 0);
	vm_send(&both, batch);
	vm_wait(&four, 3);
	vm_wait(&six, 3);
	vm_send(&four, batch);
	vm_send(&six, batch);
	vm_wait(&both, 6);
	vm_down(&both);
	vm_down(&four);
	vm_down(&six);
	loop_down();
	batch_free(batch);
}

/* A full mesh of three: each frame once, none goes round. */
Test(link_udp, mesh)
{
	struct batch *batch = batch_new(20, 200, 1);
	struct vm vms[3];

	loop_up();
	for (unsigned i = 0; i < 3; i++)
		vm_up(&vms[i], "127.0.0.1:0");
	for (unsigned i = 0; i < 3; i++)
		for (unsigned j = 0; j < 3; j++)
			if (i != j)
				vm_link(&vms[i], "127.0.0.1", vm_port(&vms[j]));
	for (unsigned i = 0; i < 3; i++)
		vm_send(&vms[i], batch);
	for (unsigned i = 0; i < 3; i++)
		vm_wait(&vms[i], 40);
	run_ms(QUIET_MS);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(vms[i].frames, 40);
		vm_down(&vms[i]);
	}
	loop_down();
	batch_free(batch);
}

/* More segments than one call takes: two calls, nothing lost. */
Test(link_udp, many_segments, .init = pair_up_v4, .fini = pair_down)
{
	struct batch *batch = batch_new(20, 2000, 200);

	vm_send(&a, batch);
	vm_wait(&b, 20);
	cr_assert_eq(a_link->counters.syscalls, 2);
	batch_free(batch);
	batch = batch_new(3, 2000, 1023);
	vm_send(&a, batch);
	vm_wait(&b, 23);
	batch_free(batch);
	batch = batch_new(1, 2000, 1024);
	vm_send(&a, batch);
	cr_assert_eq(a_link->counters.drops[DROP_OVERSIZE], 1);
	batch_free(batch);
}

/* --- sending that fails -------------------------------------------------------------------- */

Test(link_udp, too_long_frames_do_not_hold_up_others, .init = pair_up_v4, .fini = pair_down)
{
	struct batch *batch = batch_new(10, 300, 1);
	struct batch *big = batch_new(2, FRAME_SIZE_MAX, 1);

	batch->list[0] = big->list[0];
	batch->list[5] = big->list[1];
	vm_send(&a, batch);
	vm_wait(&b, 8);
	cr_assert_eq(a_link->counters.drops[DROP_OVERSIZE], 2);
	cr_assert_eq(a_link->counters.out_frames, 8);
	cr_assert_eq(a_link->counters.out_bytes, 2400);
	batch_free(batch);
	batch_free(big);
}

Test(link_udp, offloads_are_not_for_this_link, .init = pair_up_v4, .fini = pair_down)
{
	struct batch *batch = batch_new(3, 300, 1);

	batch->frames[0].offload.flags = 1;
	batch->frames[1].offload.gso_type = 1;
	vm_send(&a, batch);
	vm_wait(&b, 1);
	cr_assert_eq(a_link->counters.drops[DROP_FORMAT], 2);
	batch_free(batch);
}

Test(link_udp, partial_sends, .init = pair_up_v4, .fini = pair_down)
{
	struct batch *batch = batch_new(64, 300, 2);

	fault.most = 7;
	vm_send(&a, batch);
	vm_wait(&b, 64);
	cr_assert_eq(fault.calls, 10);
	cr_assert_eq(a_link->counters.out_frames, 64);
	batch_free(batch);
}

static void send_with_fault(int err, unsigned times)
{
	struct batch *batch = batch_new(10, 300, 1);

	memset(&fault, 0, sizeof(fault));
	fault.err = err;
	fault.times = times;
	vm_send(&a, batch);
	batch_free(batch);
}

Test(link_udp, errors_of_sending, .init = pair_up_v4, .fini = pair_down)
{
	const uint64_t *drops = a_link->counters.drops;

	/* Left behind by an earlier datagram: once more, nothing is lost. */
	send_with_fault(ECONNREFUSED, 1);
	vm_wait(&b, 10);
	send_with_fault(ECONNREFUSED, 2);
	cr_assert_eq(drops[DROP_ERROR], 10);
	cr_assert_eq(fault.calls, 2);
	/* These would be the same for the rest: one call, all dropped. */
	send_with_fault(EAGAIN, 99);
	cr_assert_eq(drops[DROP_BUSY], 10);
	send_with_fault(ENOBUFS, 99);
	cr_assert_eq(drops[DROP_BUSY], 20);
	cr_assert_eq(fault.calls, 1);
	send_with_fault(ENETUNREACH, 99);
	cr_assert_eq(drops[DROP_ERROR], 20);
	cr_assert_eq(fault.calls, 1);
	send_with_fault(EMSGSIZE, 99);
	cr_assert_eq(drops[DROP_OVERSIZE], 10);
	run_ms(QUIET_MS);
	cr_assert_eq(b.frames, 10);
	send_with_fault(0, 0);
	vm_wait(&b, 20);
}

/* Nobody takes what comes: the kernel drops it. Then somebody does, and all is well. */
Test(link_udp, full_receive_buffer, .init = pair_up_v4, .fini = pair_down)
{
	struct batch *batch = batch_new(FRAME_BATCH_MAX, 1400, 1);
	unsigned before;

	for (unsigned i = 0; i < 300; i++)
		vm_send(&a, batch);
	vm_drain(&b);
	cr_assert(b.frames > 0 && b.frames < 300 * FRAME_BATCH_MAX);
	before = b.frames;
	vm_send(&a, batch);
	vm_wait(&b, before + FRAME_BATCH_MAX);
	batch_free(batch);
}

/* A peer that is not there (ICMP errors come back), comes, goes and comes again. */
Test(link_udp, peer_comes_and_goes)
{
	struct batch *batch = batch_new(5, 100, 1);
	char listen[32];
	unsigned b_port;

	/* An address of its own: nobody may take the port meanwhile. */
	pair_up("127.0.0.1:0", "127.0.0.2:0", "127.0.0.2");
	b_port = vm_port(&b);
	snprintf(listen, sizeof(listen), "127.0.0.2:%u", b_port);
	for (unsigned round = 0; round < 3; round++) {
		uint64_t sent = a_link->counters.out_frames + a_link->counters.drops[DROP_ERROR];

		vm_down(&b);
		for (unsigned i = 0; i < 5; i++) {
			vm_send(&a, batch);
			run_ms(1);
		}
		cr_assert_eq(a_link->counters.out_frames + a_link->counters.drops[DROP_ERROR],
			     sent + 25);
		vm_up(&b, listen);
		vm_link(&b, "127.0.0.1", vm_port(&a));
		vm_send(&a, batch);
		vm_wait(&b, 5);
	}
	pair_down();
	batch_free(batch);
}

/* --- hostile datagrams --------------------------------------------------------------------- */

/* A plain socket that stands for a peer (or a stranger), connected to VM a. */
static int stranger;
static struct port *stranger_link;

static void stranger_up(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	socklen_t size = sizeof(sa);

	loop_up();
	vm_up(&a, "127.0.0.1:0");
	a.unchecked = true;
	stranger = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(bind(stranger, (struct sockaddr *)&sa, size), 0);
	cr_assert_eq(getsockname(stranger, (struct sockaddr *)&sa, &size), 0);
	stranger_link = vm_link(&a, "127.0.0.1", ntohs(sa.sin_port));
	sa.sin_port = htons((uint16_t)vm_port(&a));
	cr_assert_eq(connect(stranger, (struct sockaddr *)&sa, size), 0);
}

static void stranger_down(void)
{
	close(stranger);
	vm_down(&a);
	loop_down();
}

static uint8_t datagram[FRAME_ROOM];

/* Send a good packet with byte @at changed to @value, cut to @len bytes. */
static void stranger_send(unsigned at, uint8_t value, size_t len)
{
	struct geneve_header header;

	memset(datagram, 0, sizeof(datagram));
	geneve_header_fill(&header, VNI);
	memcpy(datagram, &header, sizeof(header));
	datagram[at] = value;
	cr_assert_eq(send(stranger, datagram, len, 0), (ssize_t)len);
}

Test(link_udp, malformed_from_a_peer_B1, .init = stranger_up, .fini = stranger_down)
{
	const uint64_t *drops = stranger_link->counters.drops;
	unsigned good = 1500;

	for (unsigned len = 0; len < 8; len++)
		stranger_send(0, 0, len);
	stranger_send(0, 1 << GENEVE_VERSION_SHIFT, good);
	stranger_send(0, GENEVE_LENGTH_MASK, 200);
	stranger_send(1, GENEVE_CONTROL, good);
	stranger_send(2, 0x08, good);
	run_until(drops[DROP_FORMAT] == 12);
	for (unsigned len = 8; len < 8 + FRAME_SIZE_MIN; len++)
		stranger_send(0, 0, len);
	run_until(drops[DROP_RUNT] == FRAME_SIZE_MIN);
	stranger_send(4, 1, good);
	stranger_send(1, GENEVE_CRITICAL, good);
	run_until(drops[DROP_FOREIGN] == 1 && drops[DROP_OPTION] == 1);
	cr_assert_eq(a.frames, 0);
	cr_assert_eq(stranger_link->counters.in_frames, 0);
	stranger_send(7, 0xff, good); /* a reserved field */
	stranger_send(0, 0, 8 + FRAME_SIZE_MIN);
	stranger_send(0, 0, 65507); /* the longest there can be */
	vm_wait(&a, 3);
	cr_assert_eq(a.bytes, good - 8 + FRAME_SIZE_MIN + 65507 - 8);
}

Test(link_udp, good_frames_among_bad_ones, .init = stranger_up, .fini = stranger_down)
{
	for (unsigned i = 0; i < 200; i++)
		stranger_send(0, i % 3 ? 0 : 0xff, 60);
	vm_wait(&a, 133);
	cr_assert_eq(stranger_link->counters.drops[DROP_FORMAT], 67);
}

Test(link_udp, strangers_B2, .init = stranger_up, .fini = stranger_down)
{
	const struct port_counters *counters = udp_endpoint_counters(a.endpoint);

	core_detach(a.core, stranger_link);
	stranger_link->ops->close(stranger_link);
	for (unsigned i = 0; i < 100; i++)
		stranger_send(0, 0, 100);
	run_until(counters->drops[DROP_NOT_PEER] == 100);
	cr_assert_eq(a.frames, 0);
	cr_assert_lt(counters->syscalls, 50);
}

/* The right address with the wrong port is a stranger as well, and runs of peers are told apart. */
Test(link_udp, peers_and_strangers_interleaved, .init = stranger_up, .fini = stranger_down)
{
	struct batch *batch = batch_new(1, 100, 1);
	struct vm other;

	vm_up(&other, "127.0.0.1:0");
	vm_link(&other, "127.0.0.1", vm_port(&a));
	for (unsigned i = 0; i < 20; i++) {
		stranger_send(0, 0, 100);
		vm_send(&other, batch);
	}
	vm_wait(&a, 20);
	run_until(udp_endpoint_counters(a.endpoint)->drops[DROP_NOT_PEER] == 20);
	cr_assert_eq(a.frames, 20);
	vm_link(&a, "127.0.0.1", vm_port(&other));
	for (unsigned i = 0; i < 20; i++) {
		stranger_send(0, 0, 100);
		vm_send(&other, batch);
	}
	vm_wait(&a, 60);
	vm_down(&other);
	batch_free(batch);
}

Test(link_udp, noise, .init = stranger_up, .fini = stranger_down)
{
	uint32_t seed = 7;
	unsigned before;

	for (unsigned i = 0; i < 5000; i++) {
		size_t len;

		seed = seed * 1664525u + 1013904223u;
		len = seed >> 8 & 0x1ff;
		for (size_t j = 0; j < len; j++) {
			seed = seed * 1664525u + 1013904223u;
			datagram[j] = (uint8_t)(seed >> 24);
		}
		if (i & 1)
			memcpy(datagram, "\1\0\x65\x58\0\x12\x67\0", 8);
		cr_assert_eq(send(stranger, datagram, len, 0), (ssize_t)len);
		if (i % 50 == 49)
			run_ms(1);
	}
	vm_drain(&a);
	before = a.frames;
	stranger_send(0, 0, 100);
	vm_wait(&a, before + 1);
}

/* --- setting up ---------------------------------------------------------------------------- */

static int listen_try(const char *text)
{
	struct udp_endpoint *endpoint = NULL;
	struct core *core = core_create();
	int err;

	error[0] = '\0';
	err = udp_endpoint_create(loop, core, text, VNI, &endpoint, error);
	core_destroy(core);
	udp_endpoint_destroy(endpoint);
	cr_assert_eq(!err, !error[0]);
	return err;
}

Test(link_udp, listen_addresses, .init = loop_up, .fini = loop_down)
{
	static const struct {
		const char *text, *message;
		int err;
	} cases[] = {
	    {"127.0.0.1:70000", "--listen udp://127.0.0.1:70000: \"70000\" is no port", -EINVAL},
	    {"127.0.0.1:", "\"\" is no port", -EINVAL},
	    {"127.0.0.1:12x", "\"12x\" is no port", -EINVAL},
	    {"127.0.0.1:-1", "\"-1\" is no port", -EINVAL},
	    {"127.0.0.1:0000001", "is no port", -EINVAL},
	    {"::1:6081", "in brackets", -EINVAL},
	    {"[::1:6081", "not closed", -EINVAL},
	    {"[::1]6081", "only :PORT may follow", -EINVAL},
	    {"[::1]:", "is no port", -EINVAL},
	    {"a..b:1", "not found", -EHOSTUNREACH},
	    {"192.0.2.1:0", "no such address on this host", -EADDRNOTAVAIL},
	    {"[2001:db8::1]:0", "no such address on this host", -EADDRNOTAVAIL},
	};
	char longest[400];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(listen_try(cases[i].text), cases[i].err, "%s", cases[i].text);
		cr_assert_not_null(strstr(error, cases[i].message), "%s", error);
	}
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	cr_assert_eq(listen_try(longest), -EINVAL);
	cr_assert_eq(listen_try("127.0.0.1:0"), 0, "%s", error);
	cr_assert_eq(listen_try("[::1]:0"), 0, "%s", error);
	cr_assert_eq(listen_try("[::]:0"), 0, "%s", error);
	cr_assert_eq(listen_try("0.0.0.0:0"), 0, "%s", error);
	cr_assert_eq(listen_try(":0"), 0, "%s", error);
}

Test(link_udp, port_in_use, .init = pair_up_v4, .fini = pair_down)
{
	char text[32], want[128];

	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&a));
	snprintf(want, sizeof(want), "--listen udp://%s: port %u is in use: choose another port",
		 text, vm_port(&a));
	cr_assert_eq(listen_try(text), -EADDRINUSE);
	cr_assert_str_eq(error, want);
}

static int peer_try(struct vm *vm, const char *text)
{
	struct port *port;

	error[0] = '\0';
	return udp_endpoint_add_peer(vm->endpoint, text, &port, error);
}

Test(link_udp, peer_addresses, .init = pair_up_v4, .fini = pair_down)
{
	struct port *port;
	char text[32];

	cr_assert_eq(peer_try(&a, ":6081"), -EINVAL);
	cr_assert_not_null(strstr(error, "--link udp://:6081: a peer has a host and a port"));
	cr_assert_eq(peer_try(&a, ""), -EINVAL);
	cr_assert_eq(peer_try(&a, "127.0.0.1:0"), -EINVAL);
	cr_assert_eq(peer_try(&a, "127.0.0.1:x"), -EINVAL);
	cr_assert_eq(peer_try(&a, "a..b"), -EHOSTUNREACH);
	cr_assert_eq(peer_try(&a, "[::1]:6081"), -EHOSTUNREACH); /* it listens in IPv4 only */
	cr_assert_not_null(strstr(error, "not found in IPv4"), "%s", error);
	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&b));
	cr_assert_eq(peer_try(&a, text), -EEXIST);
	snprintf(text, sizeof(text), "localhost:%u", vm_port(&b));
	cr_assert_eq(peer_try(&a, text), -EEXIST);
	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&a));
	cr_assert_eq(peer_try(&a, text), -EINVAL);
	cr_assert_not_null(strstr(error, "this VM itself"));
	cr_assert_eq(core_ports(a.core), 2);
	cr_assert_eq(udp_endpoint_add_peer(a.endpoint, "127.0.0.9", &port, error), 0);
	cr_assert_str_eq(port->name, "udp://127.0.0.9:6081");
	cr_assert_str_eq(port->ops->type, "udp");
}

Test(link_udp, link_to_oneself_by_any_address)
{
	char text[32];

	loop_up();
	vm_up(&a, ":0");
	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&a));
	cr_assert_eq(peer_try(&a, text), -EINVAL);
	snprintf(text, sizeof(text), "[::1]:%u", vm_port(&a));
	cr_assert_eq(peer_try(&a, text), -EINVAL);
	vm_down(&a);
	loop_down();
}

Test(link_udp, mtu_is_the_paths)
{
	pair_up_v4();
	cr_assert_eq(a_link->mtu, 65535 - 20 - 8 - 8 - 14); /* loopback has 65536 */
	pair_down();
	pair_up("[::1]:0", "[::1]:0", "[::1]");
	cr_assert_eq(a_link->mtu, 65535 - 40 - 8 - 8 - 14);
	pair_down();
	pair_up(":0", ":0", "127.0.0.1"); /* IPv4 by an IPv6 socket */
	cr_assert_eq(a_link->mtu, 65535 - 20 - 8 - 8 - 14);
	pair_down();
}

/* In a network namespace of one's own, loopback can have the MTU of an Ethernet. Returns 0 or 77.
 */
static int ethernet_up(void)
{
	struct ifreq ifr = {.ifr_name = "lo"};
	int fd, err;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return 77;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ifr.ifr_mtu = 1500;
	err = ioctl(fd, SIOCSIFMTU, &ifr);
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	err = err || ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
	return err ? 77 : 0;
}

/* What fits goes, one byte more is dropped and not sent in fragments. Returns 0, 1 or 77 (cannot).
 */
static int no_fragments(void)
{
	struct batch *fits = batch_new(1, 1450 + FRAME_HEADER, 2);
	struct batch *long_by_one = batch_new(1, 1451 + FRAME_HEADER, 2);
	int status = ethernet_up();

	if (status)
		return status;
	pair_up_v4();
	vm_send(&a, fits);
	vm_send(&a, long_by_one);
	for (unsigned ms = 0; ms < WAIT_MS && !b.frames; ms++)
		run_ms(1);
	run_ms(QUIET_MS);
	return a_link->mtu != 1450 || b.frames != 1 || a_link->counters.out_frames != 1 ||
	       a_link->counters.drops[DROP_OVERSIZE] != 1;
}

Test(link_udp, no_fragments)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(no_fragments());
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status));
#ifdef cr_skip_test
	if (WEXITSTATUS(status) == 77)
		cr_skip_test("no right to make a network namespace");
#endif
	cr_assert_neq(WEXITSTATUS(status), 1);
}

/* A thousand peers in the table, each found. */
Test(link_udp, many_peers)
{
	struct batch *batch = batch_new(1, 100, 1);
	struct port *port;
	char text[32];

	pair_up_v4();
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(text, sizeof(text), "127.0.%u.%u:7000", 1 + i / 250, 1 + i % 250);
		cr_assert_eq(udp_endpoint_add_peer(a.endpoint, text, &port, error), 0, "%s", error);
	}
	vm_send(&b, batch);
	vm_wait(&a, 1);
	pair_down();
	batch_free(batch);
}

Test(link_udp, endpoint_goes_before_the_core)
{
	pair_up_v4();
	udp_endpoint_destroy(a.endpoint);
	cr_assert_eq(core_ports(a.core), 1);
	a.endpoint = NULL;
	pair_down();
	udp_endpoint_destroy(NULL);
}
