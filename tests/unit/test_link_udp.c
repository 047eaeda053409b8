/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over UDP to plain peers: frames, failures of sending, hostile datagrams, setting up. What
 * weft's own peers have between them is in test_udp_whole.c. Row names such as B1 are those of the
 * list of hostile inputs.
 */
#include "tests/unit/udp_rig.h"

#include <limits.h>
#include <linux/virtio_net.h>

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
	cr_assert_eq(a_link->counters.syscalls, 5); /* one a batch */
	cr_assert_eq(a_link->counters.copied_bytes, 0);
	batch_free(batch);
}

Test(link_udp, batches_both_ways, .init = pair_up_plain, .fini = pair_down)
{
	exchange(1400, FRAME_BATCH_MAX, 1);
}

Test(link_udp, smallest_frames_in_pieces, .init = pair_up_plain, .fini = pair_down)
{
	exchange(FRAME_SIZE_MIN, FRAME_BATCH_MAX, 14);
}

Test(link_udp, big_frames, .init = pair_up_plain, .fini = pair_down)
{
	exchange(64000, 2, 17);
}

Test(link_udp, largest_frame, .init = pair_up_plain, .fini = pair_down)
{
	exchange(a_link->mtu + FRAME_HEADER, 1, 3);
}

Test(link_udp, ipv6)
{
	pair_up("[::1]:0,spread=1", "[::1]:0,spread=1", "[::1]", ",plain=on");
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
	vm_link(&four, "127.0.0.1", vm_port(&both), "");
	vm_link(&six, "[::1]", vm_port(&both), "");
	cr_assert_eq(
	    strncmp(vm_link(&both, "127.0.0.1", vm_port(&four), "")->name, "udp://127.", 10), 0);
	cr_assert_eq(strncmp(vm_link(&both, "[::1]", vm_port(&six), "")->name, "udp://[::1]:", 12),
		     0);
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
				vm_link(&vms[i], "127.0.0.1", vm_port(&vms[j]), "");
	for (unsigned round = 1; round <= 2;
	     round++) { /* what went round in the first is seen in the second */
		for (unsigned i = 0; i < 3; i++)
			vm_send(&vms[i], batch);
		for (unsigned i = 0; i < 3; i++)
			vm_wait(&vms[i], round * 40);
	}
	for (unsigned i = 0; i < 3; i++)
		vm_down(&vms[i]);
	loop_down();
	batch_free(batch);
}

/* More segments than one call takes: two calls, nothing lost. */
Test(link_udp, many_segments, .init = pair_up_plain, .fini = pair_down)
{
	struct batch *batch = batch_new(30, 2000, 200);

	vm_send(&a, batch);
	vm_wait(&b, 30);
	cr_assert_eq(a_link->counters.syscalls, 2);
	batch_free(batch);
	batch = batch_new(3, 2000, 1023);
	vm_send(&a, batch);
	vm_wait(&b, 33);
	batch_free(batch);
	batch = batch_new(1, 2000, 1024);
	vm_send(&a, batch);
	cr_assert_eq(a_link->counters.drops[DROP_OVERSIZE], 1);
	batch_free(batch);
}

/* --- sending that fails -------------------------------------------------------------------- */

Test(link_udp, too_long_frames_do_not_hold_up_others, .init = pair_up_plain, .fini = pair_down)
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

Test(link_udp, a_plain_peer_takes_no_offloads, .init = pair_up_plain, .fini = pair_down)
{
	struct batch *batch = batch_new(3, 300, 1);

	cr_assert_eq(a_link->offloads, 0);
	batch->frames[0].offload.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	batch->frames[1].offload.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	a_link->ops->send_batch(a_link, batch->list, 3); /* the core would not do it */
	vm_wait(&b, 1);
	cr_assert_eq(a_link->counters.drops[DROP_OFFLOAD], 2);
	batch_free(batch);
}

/* Frames of odd lengths, so that each is its own message. */
static struct batch *batch_of_singles(unsigned n)
{
	struct batch *batch = batch_new(n, 1400, 1);

	for (unsigned i = 0; i < n; i++) {
		batch->iov[i].iov_len = batch->frames[i].len = 300 + i;
		frame_write(batch->data + (size_t)i * FRAME_ROOM, i, 300 + i);
	}
	return batch;
}

Test(link_udp, partial_sends, .init = pair_up_plain, .fini = pair_down)
{
	struct batch *batch = batch_of_singles(64);

	fault.most = 7;
	vm_send(&a, batch);
	vm_wait(&b, 64);
	cr_assert_eq(fault.calls, 10);
	cr_assert_eq(a_link->counters.out_frames, 64);
	batch_free(batch);
}

static void send_with_fault(int err, unsigned times)
{
	struct batch *batch = batch_of_singles(10);

	memset(&fault, 0, sizeof(fault));
	fault.err = err;
	fault.times = times;
	vm_send(&a, batch);
	batch_free(batch);
}

Test(link_udp, errors_of_sending, .init = pair_up_plain, .fini = pair_down)
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
	send_with_fault(0, 0);
	vm_wait(&b, 20);
}

/* Where the device cannot do it, trains are given up and nothing is lost. */
Test(link_udp, trains_refused, .init = pair_up_plain, .fini = pair_down)
{
	struct batch *batch = batch_new(40, 300, 2);
	const int errors[] = {EIO, EINVAL};

	for (unsigned i = 0; i < 2; i++) {
		fault.err = errors[i];
		fault.times = UINT_MAX;
		fault.trains = true;
		vm_send(&a, batch);
		vm_wait(&b, 40 * (i + 1));
		cr_assert_eq(a_link->counters.out_frames, 40 * (i + 1));
	}
	cr_assert_eq(fault.calls,
		     3); /* the train, the frames one by one, and from then on so at once */
	batch_free(batch);
}

/* Nobody takes what comes: the kernel drops it. Then somebody does, and all is well. */
Test(link_udp, full_receive_buffer, .init = pair_up_plain, .fini = pair_down)
{
	struct batch *batch = batch_new(FRAME_BATCH_MAX, 1400, 1);
	struct batch *last = batch_new(1, 777, 1);
	const unsigned sent = 300 * FRAME_BATCH_MAX;

	for (unsigned i = 0; i < 300; i++)
		vm_send(&a, batch);
	for (uint64_t full = b.bytes; b.bytes == full || b.bytes % 1400 == 0;) {
		full = b.bytes;
		vm_send(&a, last); /* until one comes through */
		run_ms(1);
	}
	cr_assert(b.frames < sent);
	batch_free(batch);
	batch_free(last);
}

/* A peer that is not there (ICMP errors come back), comes, goes and comes again. */
Test(link_udp, peer_comes_and_goes)
{
	struct batch *batch = batch_new(5, 100, 1);
	char host[32], listen[64];

	/* An address of this process's own, so that the port is free when it comes back to it. */
	snprintf(host, sizeof(host), "127.%u.%u.%u", 64 + (getpid() >> 16 & 63),
		 getpid() >> 8 & 255, getpid() & 255);
	snprintf(listen, sizeof(listen), "%s:7000,spread=1", host);
	pair_up("127.0.0.1:0,spread=1", listen, host, ",plain=on");
	for (unsigned round = 0; round < 3; round++) {
		uint64_t sent = a_link->counters.out_frames;

		vm_down(&b);
		for (unsigned i = 0; i < 5; i++) {
			vm_send(&a, batch);
			run_ms(1);
		}
		cr_assert_eq(a_link->counters.out_frames, sent + 25);
		vm_up(&b, listen);
		vm_link(&b, "127.0.0.1", vm_port(&a), ",plain=on");
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
	stranger_link = vm_link(&a, "127.0.0.1", ntohs(sa.sin_port), ",plain=on");
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
	memset(datagram, 0, sizeof(datagram));
	geneve_build(datagram, VNI, NULL);
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
	stranger_send(1, GENEVE_CONTROL, good); /* no hellos here */
	stranger_send(2, 0x08, good);
	wait_until(drops[DROP_FORMAT] == 12);
	for (unsigned len = 8; len < 8 + FRAME_SIZE_MIN; len++)
		stranger_send(0, 0, len);
	stranger_send(4, 1, good);
	stranger_send(1, GENEVE_CRITICAL, good);
	stranger_send(7, 0xff, good); /* a reserved field */
	stranger_send(0, 0, 8 + FRAME_SIZE_MIN);
	stranger_send(0, 0, 65507); /* the longest there can be */
	vm_wait(&a, 3);		    /* order is kept: those before have been judged */
	cr_assert_eq(drops[DROP_RUNT], FRAME_SIZE_MIN);
	cr_assert_eq(drops[DROP_FOREIGN] + drops[DROP_OPTION] + drops[DROP_FORMAT], 14);
	cr_assert_eq(stranger_link->counters.in_frames, 3);
	cr_assert_eq(a.bytes, good - 8 + FRAME_SIZE_MIN + 65507 - 8);
}

/* Options that only weft's own peers have: a plain one was never told that it may. */
Test(link_udp, offloads_and_parts_from_a_plain_peer, .init = stranger_up, .fini = stranger_down)
{
	const uint64_t *drops = stranger_link->counters.drops;
	const struct geneve_extras part = {.part = true, .where = {.id = 1, .total = 2000}};
	const struct geneve_extras nonsense = {
	    .offload = {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 0}};

	memset(datagram, 0, sizeof(datagram));
	geneve_build(datagram, VNI, &part);
	cr_assert_eq(send(stranger, datagram, 1000, 0), 1000);
	geneve_build(datagram, VNI, &nonsense);
	cr_assert_eq(send(stranger, datagram, 1000, 0), 1000);
	stranger_send(0, 0, 100);
	vm_wait(&a, 1);
	cr_assert_eq(drops[DROP_FRAGMENT], 1);
	cr_assert_eq(drops[DROP_OFFLOAD] + drops[DROP_OPTION], 1);
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
	wait_until(counters->drops[DROP_NOT_PEER] == 100);
	cr_assert_eq(a.frames, 0);
}

/* Two peers at one address: the right address with the wrong port is a stranger. Runs of peers are
 * told apart. */
Test(link_udp, peers_and_strangers_interleaved, .init = stranger_up, .fini = stranger_down)
{
	struct batch *batch = batch_new(1, 100, 1);
	struct vm other;

	vm_link(&a, "127.0.0.1", 9, ",plain=on");
	vm_up(&other, "127.0.0.1:0,spread=1");
	vm_link(&other, "127.0.0.1", vm_port(&a), ",plain=on");
	for (unsigned i = 0; i < 20; i++) {
		vm_send(&other, batch);
		stranger_send(0, 0, 100);
	}
	vm_wait(&a, 20);
	cr_assert_eq(udp_endpoint_counters(a.endpoint)->drops[DROP_NOT_PEER], 20);
	vm_link(&a, "127.0.0.1", vm_port(&other), ",plain=on");
	for (unsigned i = 0; i < 20; i++) {
		stranger_send(0, 0, 100);
		vm_send(&other, batch);
	}
	vm_wait(&a, 60);
	vm_down(&other);
	batch_free(batch);
}

/* One plain peer at an address may send from any port, as kernels do; from another address nobody
 * may. */
Test(link_udp, a_plain_peer_sends_from_any_port, .init = stranger_up, .fini = stranger_down)
{
	struct batch *batch = batch_new(1, 100, 1);
	struct vm same, other;

	vm_up(&same, "127.0.0.1:0,spread=1");
	vm_up(&other, "127.0.0.2:0,spread=1");
	vm_link(&same, "127.0.0.1", vm_port(&a), ",plain=on");
	vm_link(&other, "127.0.0.1", vm_port(&a), ",plain=on");
	vm_send(&other, batch);
	vm_send(&same, batch);
	vm_wait(&a, 1);
	cr_assert_eq(stranger_link->counters.in_frames, 1);
	cr_assert_eq(udp_endpoint_counters(a.endpoint)->drops[DROP_NOT_PEER], 1);
	vm_down(&same);
	vm_down(&other);
	batch_free(batch);
}

/* The checksum may be left out in IPv4. Returns false where raw packets are not permitted. */
static bool send_from_port(uint16_t from)
{
	struct {
		uint16_t from, to, len, check;
		uint8_t payload[100];
	} packet = {htons(from), htons((uint16_t)vm_port(&a)), htons(sizeof(packet)), 0, {0}};
	struct sockaddr_in sa = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP);

	if (fd < 0)
		return false;
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	geneve_build(packet.payload, VNI, NULL);
	cr_assert_eq(sendto(fd, &packet, sizeof(packet), 0, (struct sockaddr *)&sa, sizeof(sa)),
		     (ssize_t)sizeof(packet));
	close(fd);
	return true;
}

/* Port 0 stands for any port in the table, but from there nothing is taken: not from one of two
 * peers of that address, nor from one that is alone there. */
Test(link_udp, from_port_0_nobody_sends, .init = stranger_up, .fini = stranger_down)
{
	const uint64_t *drops = udp_endpoint_counters(a.endpoint)->drops;

	if (!send_from_port(0))
		cr_skip_test("raw packets are not permitted");
	wait_until(drops[DROP_NOT_PEER] == 1);
	cr_assert(send_from_port(9));
	vm_wait(&a, 1);
	vm_link(&a, "127.0.0.1", 7000, ",plain=on");
	cr_assert(send_from_port(0));
	wait_until(drops[DROP_NOT_PEER] == 2);
	cr_assert(send_from_port(7000));
	vm_wait(&a, 2);
}

Test(link_udp, noise, .init = stranger_up, .fini = stranger_down)
{
	uint32_t seed = 7;
	uint64_t before;

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
	before = a.bytes;
	stranger_send(0, 0, 60000); /* longer than any noise */
	wait_until(a.bytes >= before + 60000 - 8);
}

/* --- setting up ---------------------------------------------------------------------------- */

static int listen_try(const char *text)
{
	struct vm vm = {.core = core_create(NULL)};
	int err;

	vm.env = (struct link_env){.loop = loop, .core = vm.core, .vni = VNI};
	error[0] = '\0';
	err = vm_listen(&vm, text);
	vm_down(&vm);
	cr_assert_eq(!err, !error[0]);
	return err;
}

Test(link_udp, listen_addresses, .init = loop_up, .fini = loop_down)
{
	static const struct {
		const char *text, *message;
		int err;
	} cases[] = {
	    {"127.0.0.1:70000", "--listen 127.0.0.1:70000: \"70000\" is no port", -EINVAL},
	    {"127.0.0.1:", "\"\" is no port", -EINVAL},
	    {"127.0.0.1:12x", "\"12x\" is no port", -EINVAL},
	    {"127.0.0.1:-1", "\"-1\" is no port", -EINVAL},
	    {"127.0.0.1:0000001", "is no port", -EINVAL},
	    {"::1:6081", "in brackets", -EINVAL},
	    {"[::1:6081", "not closed", -EINVAL},
	    {"[::1]6081", "only :PORT may follow", -EINVAL},
	    {"[::1]:", "is no port", -EINVAL},
	    {"a..b:1", "not found", -EHOSTUNREACH},
	    {"127.0.0.1:0,encap=gre", "encap is geneve or vxlan", -EINVAL},
	    {"127.0.0.1:0,spread=0", "1..8", -EINVAL},
	    {"127.0.0.1:0,spread=9", "1..8", -EINVAL},
	    {"127.0.0.1:0,spread=11", "1..8", -EINVAL},
	    {"127.0.0.1:0,plain=on", "belongs to a link", -EINVAL},
	    {"192.0.2.1:0", "no such address on this host", -EADDRNOTAVAIL},
	    {"[2001:db8::1]:0", "no such address on this host", -EADDRNOTAVAIL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(listen_try(cases[i].text), cases[i].err, "%s", cases[i].text);
		cr_assert_not_null(strstr(error, cases[i].message), "%s", error);
	}
	cr_assert_eq(listen_try("127.0.0.1:0"), 0, "%s", error);
	cr_assert_eq(listen_try("[::1]:0"), 0, "%s", error);
	cr_assert_eq(listen_try("[::]:0"), 0, "%s", error);
	cr_assert_eq(listen_try("0.0.0.0:0"), 0, "%s", error);
	cr_assert_eq(listen_try(":0"), 0, "%s", error);
}

Test(link_udp, port_in_use, .init = pair_up_plain, .fini = pair_down)
{
	char text[32], want[128];

	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&a));
	snprintf(want, sizeof(want), "--listen %s: port %u is in use: choose another port", text,
		 vm_port(&a));
	cr_assert_eq(listen_try(text), -EADDRINUSE);
	cr_assert_str_eq(error, want);
}

Test(link_udp, peer_addresses, .init = pair_up_plain, .fini = pair_down)
{
	struct port *port;
	char text[64];

	cr_assert_eq(vm_try(&a, &port, ":6081"), -EINVAL);
	cr_assert_not_null(strstr(error, "--link :6081: a peer has a host and a port"), "%s",
			   error);
	cr_assert_eq(vm_try(&a, &port, ""), -EINVAL);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.1:0"), -EINVAL);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.1:x"), -EINVAL);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.1:1,encap=none"), -EINVAL);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.1:1,plain=maybe"), -EINVAL);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.1:1,spread=2"), -EINVAL);
	cr_assert_eq(vm_try(&a, &port, "a..b"), -EHOSTUNREACH);
	cr_assert_eq(vm_try(&a, &port, "[::1]:6081"), -EHOSTUNREACH); /* it listens in IPv4 only */
	cr_assert_not_null(strstr(error, "not found in IPv4"), "%s", error);
	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&b));
	cr_assert_eq(vm_try(&a, &port, text), -EEXIST);
	snprintf(text, sizeof(text), "localhost:%u,name=other", vm_port(&b));
	cr_assert_eq(vm_try(&a, &port, text), -EEXIST);
	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&a));
	cr_assert_eq(vm_try(&a, &port, text), -EINVAL);
	cr_assert_not_null(strstr(error, "this VM itself"));
	cr_assert_eq(core_ports(a.core), 2);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.9"), 0);
	cr_assert_str_eq(port->name, "udp://127.0.0.9");
	cr_assert_str_eq(port->ops->type, "udp");
	cr_assert_eq(vm_try(&a, &port, "127.0.0.10,name=ten"), 0);
	cr_assert_str_eq(port->name, "ten");
	cr_assert_eq(vm_try(&a, &port, "127.0.0.11,name=ten"), -EEXIST);
}

Test(link_udp, link_to_oneself_by_any_address)
{
	struct port *port;
	char text[32];

	loop_up();
	vm_up(&a, ":0");
	snprintf(text, sizeof(text), "127.0.0.1:%u", vm_port(&a));
	cr_assert_eq(vm_try(&a, &port, text), -EINVAL);
	snprintf(text, sizeof(text), "[::1]:%u", vm_port(&a));
	cr_assert_eq(vm_try(&a, &port, text), -EINVAL);
	vm_down(&a);
	loop_down();
}

/* Endpoints of both kinds beside each other, and each link finds its own. */
Test(link_udp, two_listeners, .init = loop_up)
{
	struct batch *batch = batch_new(3, 100, 2);
	struct port *port;

	vm_up(&a, "127.0.0.1:0");
	cr_assert_eq(vm_listen(&a, "127.0.0.1:0,encap=vxlan"), 0, "%s", error);
	vm_up(&b, "127.0.0.1:0,encap=vxlan");
	port = vm_link(&a, "127.0.0.1", vm_port(&b), ",encap=vxlan");
	cr_assert_eq(port->offloads, 0);
	cr_assert_eq(state_of(port), LINK_PLAIN);
	vm_link(&b, "127.0.0.1", 9, ",encap=vxlan"); /* a is known by its address alone */
	vm_send(&a, batch);
	wait_until(udp_endpoint_counters(b.endpoint)->drops[DROP_NOT_PEER] + b.frames == 3);
	cr_assert_eq(b.frames, 3);
	pair_down();
	batch_free(batch);
}

Test(link_udp, mtu_is_the_paths)
{
	pair_up_v4();
	cr_assert_eq(a_link->mtu, 65535 - 20 - 8 - 8 - 14); /* loopback has 65536 */
	pair_meet();
	cr_assert_eq(a_link->mtu, 65535 - 20 - 8 - 8 - 14);
	pair_down();
	pair_up("[::1]:0", "[::1]:0", "[::1]", "");
	cr_assert_eq(a_link->mtu, 65535 - 40 - 8 - 8 - 14);
	pair_down();
	pair_up(":0", ":0", "127.0.0.1", ",plain=on"); /* IPv4 by an IPv6 socket */
	cr_assert_eq(a_link->mtu, 65535 - 20 - 8 - 8 - 14);
	pair_down();
}

/* A thousand peers in the table, each found. */
Test(link_udp, many_peers)
{
	struct batch *batch = batch_new(1, 100, 1);
	struct port *port;
	char text[64];

	pair_up_plain();
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(text, sizeof(text), "127.0.%u.%u:7000", 1 + i / 250, 1 + i % 250);
		cr_assert_eq(vm_try(&a, &port, text), 0, "%s", error);
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
