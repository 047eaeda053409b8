/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over UDP between two ends that are weft: what they agree on, large frames in parts, offload
 * state, hops, source ports, paths that change, loss, keys. And the kernel's VXLAN device as a
 * peer. Tests that need a network of their own make a namespace without a name, which goes with the
 * process.
 */
#include "tests/unit/udp_rig.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "vnet/offload.h"
#include "vnet/seal.h"
#include "vnet/udp.h"
#include "vnet/udp_flow.h"

#define SUPER 64000u /* bytes of a large frame */

#ifdef cr_skip_test
#define skip(why)                                                                                  \
	do {                                                                                       \
		cr_skip_test(why);                                                                 \
		return;                                                                            \
	} while (0)
#else
#define skip(why) return
#endif

/* --- networks of one's own ----------------------------------------------------------------- */

static int home_net = -1;

static int device_control(const char *name, unsigned long request, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int err;

	snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "%s", name);
	err = ioctl(fd, request, ifr);
	close(fd);
	return err;
}

static int mtu_set(int mtu)
{
	struct ifreq ifr = {.ifr_mtu = mtu};

	return device_control("lo", SIOCSIFMTU, &ifr);
}

/* Go where loopback has an MTU of one's own. Returns false where that is not allowed. */
static bool net_enter(int mtu)
{
	struct ifreq ifr = {.ifr_flags = IFF_UP | IFF_RUNNING};

	home_net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (unshare(CLONE_NEWNET))
		return false;
	return !mtu_set(mtu) && !device_control("lo", SIOCSIFFLAGS, &ifr);
}

static void net_leave(void)
{
	if (home_net >= 0) {
		(void)!setns(home_net, CLONE_NEWNET);
		close(home_net);
		home_net = -1;
	}
}

static void pair_up_met(void)
{
	pair_up_v4();
	pair_meet();
}

/* --- what they agree on -------------------------------------------------------------------- */

Test(udp_whole, peers_meet)
{
	struct link_status status;

	pair_up_v4();
	cr_assert_eq(state_of(a_link), LINK_PLAIN);
	cr_assert_eq(a_link->offloads, 0);
	pair_meet();
	cr_assert_eq(a_link->offloads, PORT_OFFLOADS);
	a_link->ops->status(a_link, &status);
	cr_assert_eq(status.ups, 1);
	cr_assert_gt(status.rtt_ns, 0);
	cr_assert_gt(status.since_ns, 0);
	cr_assert_eq(status.path_mtu, 65535);
	pair_down();
}

Test(udp_whole, offload_off_is_for_both)
{
	loop_up();
	vm_up_with(&a, "127.0.0.1:0", true, NULL);
	vm_up_with(&b, "127.0.0.1:0", false, NULL);
	pair_link("127.0.0.1", "");
	pair_meet();
	cr_assert_eq(a_link->offloads, 0);
	cr_assert_eq(b_link->offloads, 0);
	pair_down();
}

/* An address of loopback that no other test uses. */
static void host_of_this_process(char host[32])
{
	snprintf(host, 32, "127.%u.%u.%u", 64 + (getpid() >> 16 & 63), getpid() >> 8 & 255,
		 getpid() & 255);
}

/* A peer that goes makes the link go down, and one that comes back makes it come up, by itself. */
Test(udp_whole, down_and_up_again)
{
	struct batch *batch = batch_new(5, 100, 1);
	char host[32], listen[48];

	host_of_this_process(host);
	snprintf(listen, sizeof(listen), "%s:7001", host);
	loop_up();
	vm_up(&a, "127.0.0.1:0");
	vm_up(&b, listen);
	a_link = vm_link(&a, host, 7001, "");
	b_link = vm_link(&b, "127.0.0.1", vm_port(&a), "");
	pair_meet();
	vm_down(&b);
	wait_until(state_of(a_link) == LINK_DOWN);
	cr_assert_eq(a_link->offloads, 0);
	vm_send(&a, batch);
	cr_assert_eq(a_link->counters.drops[DROP_DOWN], 5);
	vm_up(&b, listen);
	b_link = vm_link(&b, "127.0.0.1", vm_port(&a), "");
	pair_meet();
	vm_send(&a, batch);
	vm_wait(&b, 5);
	pair_down();
	batch_free(batch);
}

/* A socket at the address of a peer that went, with one of its ports; they may be taken by now. */
static int heir_open(const char *host, const uint16_t ports[SESSION_PORTS_MAX])
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)vm_port(&a))};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool bound = false;

	for (unsigned i = 0; !bound && i < SESSION_PORTS_MAX && ports[i]; i++) {
		struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(ports[i])};

		inet_pton(AF_INET, host, &sa.sin_addr);
		bound = !bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	}
	cr_assert(bound);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

/* What a peer said it sends from does not outlive it: the host gives its ports to others. */
Test(udp_whole, ports_of_the_dead_are_free)
{
	uint16_t ports[SESSION_PORTS_MAX];
	uint8_t datagram[100] = {0};
	char host[32], listen[48];
	int fd;

	host_of_this_process(host);
	snprintf(listen, sizeof(listen), "%s:7001", host);
	loop_up();
	vm_up(&a, "127.0.0.1:0");
	vm_up(&b, listen);
	a_link = vm_link(&a, host, 7001, "");
	vm_link(&a, host, 9, ""); /* at the same address */
	b_link = vm_link(&b, "127.0.0.1", vm_port(&a), "");
	pair_meet();
	memcpy(ports, ((struct udp_endpoint *)b.endpoint)->ports, sizeof(ports));
	vm_down(&b);
	wait_until(state_of(a_link) == LINK_DOWN);
	fd = heir_open(host, ports);
	geneve_build(datagram, VNI, NULL);
	cr_assert_eq(send(fd, datagram, sizeof(datagram), 0), (ssize_t)sizeof(datagram));
	wait_until(udp_endpoint_counters(a.endpoint)->drops[DROP_NOT_PEER] == 1);
	cr_assert_eq(a_link->counters.in_frames, 0);
	close(fd);
	vm_down(&a);
	loop_down();
}

Test(udp_whole, hops_travel, .init = pair_up_met, .fini = pair_down)
{
	struct batch *batch = batch_new(1, 100, 1);
	const uint8_t hops[] = {FRAME_HOPS_MAX, 7, 1};

	for (unsigned i = 0; i < 3; i++) {
		batch->frames[0].hops = hops[i];
		a_link->ops->send_batch(a_link, batch->list, 1);
		vm_wait(&b, i + 1);
		cr_assert_eq(b.hops, hops[i]);
	}
	batch_free(batch);
}

/* --- large frames -------------------------------------------------------------------------- */

/* Send @rounds bursts of large frames, small enough for the socket's buffer. */
static void send_large(unsigned n, uint32_t len, unsigned pieces, unsigned rounds)
{
	struct batch *batch = batch_new(n, len, pieces);
	unsigned before = b.frames;

	for (unsigned i = 1; i <= rounds; i++) {
		vm_send(&a, batch);
		vm_wait(&b, before + i * n);
	}
	batch_free(batch);
}

Test(udp_whole, large_frames_in_parts, .fini = net_leave)
{
	static const struct {
		uint32_t len;
		unsigned pieces;
	} cases[] = {{1451 + FRAME_HEADER, 1}, {2900, 2}, {3000, 700}, {9000, 3}, {SUPER, 17},
		     {FRAME_SIZE_MAX, 1}};

	if (!net_enter(1500))
		skip("no right to make a network namespace");
	pair_up("127.0.0.1:0,spread=1", "127.0.0.1:0", "127.0.0.1", "");
	pair_meet();
	cr_assert_eq(a_link->mtu, 1450);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t before = a_link->counters.syscalls;

		send_large(2, cases[i].len, cases[i].pieces, 3);
		cr_assert_eq(a_link->counters.syscalls, before + 3, "one a batch, %u bytes",
			     cases[i].len);
	}
	cr_assert_eq(a_link->counters.copied_bytes, 0);
	cr_assert_eq(a_link->counters.out_frames, 36);
	cr_assert_eq(b_link->counters.in_frames, 36);
	cr_assert_eq(b_link->counters.drops[DROP_FRAGMENT], 0);
	pair_down();
}

/* Small and large ones in one batch arrive in order. */
Test(udp_whole, mixed_batch_keeps_order, .fini = net_leave)
{
	struct batch *batch = batch_new(40, 6000, 3);

	if (!net_enter(1500))
		skip("no right to make a network namespace");
	pair_up("127.0.0.1:0,spread=1", "127.0.0.1:0", "127.0.0.1", "");
	pair_meet();
	for (unsigned i = 0; i < 40; i += 3) {
		batch->frames[i].len = 60 + i;
		batch->frames[i].iovcnt = 1;
		batch->iov[(size_t)i * 3].iov_len = 60 + i;
	}
	vm_send(&a, batch);
	vm_wait(&b, 40);
	cr_assert_eq(b.last_seq, 39);
	cr_assert_eq(b.disordered, 0);
	pair_down();
	batch_free(batch);
}

Test(udp_whole, trains_refused_for_parts, .fini = net_leave)
{
	if (!net_enter(1500))
		skip("no right to make a network namespace");
	pair_up_met();
	fault.err = EIO;
	fault.times = UINT_MAX;
	fault.trains = true;
	send_large(1, SUPER, 5, 3);
	cr_assert_eq(a_link->counters.out_frames, 3);
	pair_down();
}

/* The path becomes narrower while large frames cross it: they are cut anew, and none is lost. */
Test(udp_whole, path_becomes_narrower, .fini = net_leave)
{
	if (!net_enter(4000))
		skip("no right to make a network namespace");
	pair_up_met();
	send_large(4, SUPER, 3, 2);
	cr_assert_eq(mtu_set(1300), 0);
	send_large(4, SUPER, 3, 2);
	cr_assert_eq(a_link->mtu, 1250);
	cr_assert_eq(a_link->counters.drops[DROP_OVERSIZE], 0);
	pair_down();
}

/* The same in IPv6, and in IPv4 by sockets that speak both, as they do unless told otherwise. */
Test(udp_whole, large_frames_in_ipv6, .fini = net_leave)
{
	static const struct {
		const char *listen, *host;
		unsigned headers; /* around a guest's packet */
	} cases[] = {{"[::1]:0", "[::1]", 40 + 8 + 8 + 14},
		     {":0", "127.0.0.1", 20 + 8 + 8 + 14},
		     {":0", "[::1]", 70}};

	if (!net_enter(4000))
		skip("no right to make a network namespace");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(mtu_set(4000), 0);
		pair_up(cases[i].listen, cases[i].listen, cases[i].host, "");
		pair_meet();
		cr_assert_eq(a_link->mtu, 4000 - cases[i].headers);
		send_large(2, SUPER, 3, 2);
		send_large(2, FRAME_SIZE_MAX, 3, 2);
		cr_assert_eq(mtu_set(1400), 0);
		send_large(2, SUPER, 3, 2);
		cr_assert_eq(a_link->mtu, 1400 - cases[i].headers);
		cr_assert_eq(b_link->counters.drops[DROP_FRAGMENT], 0);
		pair_down();
	}
}

/* To a plain peer nothing goes in parts, nor in IP fragments. */
Test(udp_whole, no_fragments, .fini = net_leave)
{
	struct batch *fits = batch_new(1, 1450 + FRAME_HEADER, 2);
	struct batch *long_by_one = batch_new(1, 1451 + FRAME_HEADER, 2);

	if (!net_enter(1500))
		skip("no right to make a network namespace");
	pair_up_plain();
	cr_assert_eq(a_link->mtu, 1450);
	vm_send(&a, long_by_one);
	vm_send(&a, fits);
	vm_wait(&b, 1);
	cr_assert_eq(b.bytes, 1450 + FRAME_HEADER);
	cr_assert_eq(a_link->counters.out_frames, 1);
	cr_assert_eq(a_link->counters.drops[DROP_OVERSIZE], 1);
	pair_down();
	batch_free(fits);
	batch_free(long_by_one);
}

/* --- what is left to do to a frame --------------------------------------------------------- */

#define TCP_HEADERS 54u

/* TCP in IPv4, with the checksum and the cutting left to others. */
static void frame_make_tcp(struct batch *batch, unsigned i)
{
	uint8_t *data = batch->data + (size_t)i * FRAME_ROOM;
	struct frame *frame = &batch->frames[i];
	uint8_t headers[TCP_HEADERS] = {2,
					0,
					0,
					0,
					0,
					2,
					2,
					0,
					0,
					0,
					0,
					1,
					8,
					0,
					0x45,
					0,
					(uint8_t)((frame->len - 14) >> 8),
					(uint8_t)(frame->len - 14)};

	headers[22] = 64;
	headers[23] = IPPROTO_TCP;
	headers[26] = headers[30] = 10;
	headers[46] = 5 << 4;
	memcpy(data, headers, sizeof(headers));
	batch_frame_set(batch, i);
	frame->offload = (struct frame_offload){
	    .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
	    .gso_type = frame->len > 1514 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_NONE,
	    .hdr_len = TCP_HEADERS,
	    .gso_size = frame->len > 1514 ? 1400 : 0,
	    .csum_start = 34,
	    .csum_offset = 16,
	};
}

static void offload_crosses(uint32_t len)
{
	struct batch *batch = batch_new(1, len, 3);
	unsigned before = b.frames;

	frame_make_tcp(batch, 0);
	cr_assert(offload_check(batch->list[0]));
	b.unchecked = true;
	b.bytes = 0;
	a_link->ops->send_batch(a_link, batch->list, 1);
	vm_wait(&b, before + 1);
	cr_assert_eq(b.bytes, len);
	cr_assert_eq(b.offload.flags, batch->frames[0].offload.flags);
	cr_assert_eq(b.offload.gso_type, batch->frames[0].offload.gso_type);
	cr_assert_eq(b.offload.gso_size, batch->frames[0].offload.gso_size);
	cr_assert_eq(b.offload.csum_start, 34);
	cr_assert_eq(b.offload.csum_offset, 16);
	batch_free(batch);
}

Test(udp_whole, offload_state_crosses, .fini = net_leave)
{
	if (!net_enter(1500))
		skip("no right to make a network namespace");
	pair_up_met();
	offload_crosses(100);
	offload_crosses(1464);
	offload_crosses(60000);
	pair_down();
}

/* Offload state that the frame belies is dropped where it arrives. */
Test(udp_whole, offload_state_is_checked, .init = pair_up_met, .fini = pair_down)
{
	struct batch *batch = batch_new(2, 3000, 1);

	batch->frames[0].offload =
	    (struct frame_offload){.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 9};
	a_link->ops->send_batch(a_link, batch->list, 2);
	wait_until(b_link->counters.drops[DROP_OFFLOAD] + b.frames == 2);
	cr_assert_eq(b.frames, 1);
	batch_free(batch);
}

/* --- loss ---------------------------------------------------------------------------------- */

/* A peer that loses many large frames in part gets ordinary packets for a while, and then large
 * ones again. */
Test(udp_whole, large_frames_stop_when_lost, .fini = net_leave)
{
	if (!net_enter(1500))
		skip("no right to make a network namespace");
	pair_up_met();
	wait_until(({
		send_large(1, SUPER, 1, 1);
		b_link->counters.drops[DROP_FRAGMENT] += 1; /* as if one in two were lost */
		!(a_link->offloads & PORT_TSO4);
	}));
	cr_assert_eq(a_link->offloads & (PORT_TSO6 | PORT_USO), 0);
	cr_assert(a_link->offloads & PORT_CSUM);
	wait_until(a_link->offloads & PORT_TSO4);
	pair_down();
}

/* --- source ports -------------------------------------------------------------------------- */

static unsigned fds_used(void)
{
	unsigned different = 0;

	for (unsigned i = 0; i < fault.calls && i < 64; i++) {
		unsigned k = 0;

		while (fault.fds[k] != fault.fds[i])
			k++;
		different += k == i;
	}
	return different;
}

Test(udp_whole, flows_spread_over_source_ports)
{
	struct batch *batch = batch_new(FRAME_BATCH_MAX, 100, 1);

	pair_up("127.0.0.1:0,spread=4", "127.0.0.1:0", "127.0.0.1", "");
	vm_link(&b, "127.0.0.1", 9, ""); /* so that b cannot know a by its address alone */
	pair_meet();
	fault.calls = 0;
	vm_send(&a, batch);
	vm_wait(&b, FRAME_BATCH_MAX);
	cr_assert_eq(fds_used(), 4);
	cr_assert_eq(fault.calls, 4);
	cr_assert_eq(a_link->counters.syscalls, 4);
	pair_down();
	batch_free(batch);
}

Test(udp_whole, a_flow_has_one_hash)
{
	struct batch *batch = batch_new(1, 200, 1);
	uint32_t hash;

	frame_make_tcp(batch, 0);
	hash = udp_flow_hash(batch->list[0]);
	batch->data[38]++; /* a sequence number */
	batch->data[18]++; /* the packet's id */
	cr_assert_eq(udp_flow_hash(batch->list[0]), hash);
	batch->data[35]++; /* a port */
	cr_assert_neq(udp_flow_hash(batch->list[0]), hash);
	batch->data[20] = 0x20; /* more fragments: ports do not count */
	hash = udp_flow_hash(batch->list[0]);
	batch->data[35]++;
	cr_assert_eq(udp_flow_hash(batch->list[0]), hash);
	batch->data[33]++; /* an address */
	cr_assert_neq(udp_flow_hash(batch->list[0]), hash);
	batch_free(batch);
}

/* A NAT between them: three sockets that pass on what comes. a sends to nat[0], b gets it from
 * nat[1] and answers there, and a gets that from nat[2]. */
static int nat[3];

static unsigned nat_open(unsigned i)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(sa);

	nat[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	cr_assert_eq(bind(nat[i], (struct sockaddr *)&sa, size), 0);
	cr_assert_eq(getsockname(nat[i], (struct sockaddr *)&sa, &size), 0);
	return ntohs(sa.sin_port);
}

static void nat_pass(int from, int to, unsigned port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	static uint8_t data[65536];
	ssize_t n;

	sa.sin_port = htons((uint16_t)port);
	while ((n = recv(from, data, sizeof(data), 0)) > 0)
		(void)!sendto(to, data, (size_t)n, 0, (struct sockaddr *)&sa, sizeof(sa));
}

static bool nat_pump(void)
{
	nat_pass(nat[0], nat[1], vm_port(&b));
	nat_pass(nat[1], nat[2], vm_port(&a));
	return true;
}

Test(udp_whole, through_a_nat)
{
	struct batch *batch = batch_new(10, 300, 1);

	loop_up();
	vm_up(&a, "127.0.0.1:0,spread=4");
	vm_up(&b, "127.0.0.1:0,spread=4");
	a_link = vm_link(&a, "127.0.0.1", nat_open(0), "");
	b_link = vm_link(&b, "127.0.0.1", nat_open(1), "");
	nat_open(2);
	wait_until(nat_pump() && state_of(a_link) == LINK_UP && state_of(b_link) == LINK_UP);
	fault.calls = 0;
	vm_send(&a, batch);
	vm_send(&b, batch);
	cr_assert_eq(fault.calls, 2); /* no other source ports: they would not arrive as they are */
	wait_until(nat_pump() && a.frames == 10 && b.frames == 10);
	pair_down();
	for (unsigned i = 0; i < 3; i++)
		close(nat[i]);
	batch_free(batch);
}

/* --- the link key -------------------------------------------------------------------------- */

static const struct seal_key key = {"just the bytes of a secret"},
			     other_key = {"and those of another"};

static void sealed_pair_up(const struct seal_key *key_a, const struct seal_key *key_b)
{
	loop_up();
	vm_up_with(&a, "127.0.0.1:0", true, key_a);
	vm_up_with(&b, "127.0.0.1:0", true, key_b);
	pair_link("127.0.0.1", "");
}

Test(udp_whole, sealed_frames_cross, .fini = net_leave)
{
	if (!net_enter(1500))
		skip("no right to make a network namespace");
	sealed_pair_up(&key, &key);
	cr_assert_eq(a_link->mtu, 1450 - SEAL_OVERHEAD);
	pair_meet();
	cr_assert_eq(a_link->mtu, 1450 - SEAL_OVERHEAD);
	send_large(40, 60, 2, 3);
	send_large(20, 1000, 2, 3);
	send_large(2, SUPER, 9, 3);
	cr_assert_eq(a_link->counters.copied_bytes, 3 * (40 * 60 + 20 * 1000 + 2 * SUPER));
	cr_assert_eq(b_link->counters.drops[DROP_KEY] + b_link->counters.drops[DROP_REPLAY], 0);
	offload_crosses(60000);
	cr_assert_eq(mtu_set(1300), 0);
	send_large(2, SUPER, 3, 2);
	pair_down();
}

/* Nothing passes between different keys, nor between a key and none. */
static void nothing_crosses(const struct seal_key *key_a, const struct seal_key *key_b)
{
	struct batch *batch = batch_new(5, 100, 1);

	sealed_pair_up(key_a, key_b);
	for (unsigned i = 0; i < 20; i++) {
		vm_send(&a, batch);
		vm_send(&b, batch);
		run_ms(1);
	}
	wait_until(a_link->counters.drops[DROP_KEY] + a_link->counters.drops[DROP_FORMAT] > 0);
	wait_until(b_link->counters.drops[DROP_KEY] + b_link->counters.drops[DROP_FORMAT] > 0);
	cr_assert_eq(a.frames + b.frames, 0);
	cr_assert_neq(state_of(a_link), LINK_UP);
	cr_assert_neq(state_of(b_link), LINK_UP);
	pair_down();
	batch_free(batch);
}

Test(udp_whole, keys_fail_closed_B2)
{
	nothing_crosses(&key, &other_key);
	nothing_crosses(&key, NULL);
}

Test(udp_whole, nothing_plain_with_a_key)
{
	struct port *port;

	loop_up();
	vm_up_with(&a, "127.0.0.1:0", true, &key);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.1:9,plain=on"), -EINVAL);
	cr_assert_eq(vm_try(&a, &port, "127.0.0.1:9,encap=vxlan"), -EINVAL);
	cr_assert_not_null(strstr(error, "link key"));
	cr_assert_eq(vm_listen(&a, "127.0.0.1:0,encap=vxlan"), -EINVAL);
	vm_down(&a);
	loop_down();
}

/* --- the kernel's VXLAN device ------------------------------------------------------------- */

static int packet_socket(const char *device)
{
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_protocol = htons(0x88b5)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(0x88b5));

	ll.sll_ifindex = (int)if_nametoindex(device);
	cr_assert_eq(bind(fd, (struct sockaddr *)&ll, sizeof(ll)), 0);
	return fd;
}

/* Two namespaces joined by a veth; in the other one a VXLAN device. Back in the first, returns the
 * device's socket, or -1 where something is missing. */
static int vxlan_up(void)
{
	char command[600];
	int here, there, fd;

	if (!net_enter(65536))
		return -1;
	here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (unshare(CLONE_NEWNET))
		return -1;
	there = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	snprintf(command, sizeof(command),
		 "P=%d; exec >/dev/null 2>&1; "
		 "nsenter --net=/proc/$P/fd/%d ip link add v0 type veth peer name v1 netns $P && "
		 "nsenter --net=/proc/$P/fd/%d sh -c 'ip addr add 10.9.0.1/24 dev v0 && ip link "
		 "set v0 up' && "
		 "ip addr add 10.9.0.2/24 dev v1 && ip link set v1 up && "
		 "ip link add vx0 type vxlan id %u remote 10.9.0.1 dstport 4789 dev v1 && ip link "
		 "set vx0 up",
		 getpid(), here, here, VNI);
	if (system(command))
		return -1;
	fd = packet_socket("vx0");
	setns(here, CLONE_NEWNET);
	close(here);
	close(there);
	return fd;
}

Test(udp_whole, kernel_vxlan_is_a_peer, .fini = net_leave)
{
	struct batch *batch = batch_new(10, 1400, 2);
	uint8_t frame[2000];
	unsigned got = 0;
	int fd = vxlan_up();

	if (fd < 0)
		skip("no right to make namespaces and VXLAN devices");
	for (unsigned i = 0; i < 10; i++) {
		memcpy(batch->data + (size_t)i * FRAME_ROOM,
		       "\xff\xff\xff\xff\xff\xff\2\0\0\0\0\1\x88\xb5", 14);
		batch_frame_set(batch, i);
	}
	loop_up();
	vm_up(&a, "10.9.0.1,encap=vxlan");
	a_link = vm_link(&a, "10.9.0.2", 4789, ",encap=vxlan");
	cr_assert_eq(a_link->mtu, 1450);
	a.unchecked = true;
	vm_send(&a, batch);
	wait_until(({
		ssize_t n = recv(fd, frame, sizeof(frame), 0);

		if (n > 0) {
			cr_assert_eq(n, 1400);
			cr_assert_arr_eq(frame, batch->data + (size_t)got * FRAME_ROOM, 1400);
			got++;
		}
		got == 10;
	}));
	for (unsigned i = 0; i < 10; i++) {
		frame[60] = (uint8_t)i; /* any bytes: the kernel chooses the source port */
		cr_assert_eq(send(fd, frame, 1400, 0), 1400);
	}
	wait_until(a_link->counters.in_frames >= 10);
	cr_assert_eq(udp_endpoint_counters(a.endpoint)->drops[DROP_NOT_PEER], 0);
	vm_down(&a);
	loop_down();
	close(fd);
	batch_free(batch);
}
