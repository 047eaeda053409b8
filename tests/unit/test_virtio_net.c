/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The network device between a driver's rings and a port that records what it is sent. Row names
 * such as A13 are those of the list of hostile inputs.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/unit/device_rig.h"
#include "vnet/core.h"

#define RX	 0
#define TX	 1
#define CTRL	 2
#define HDR	 12u
#define MTU	 1500u
#define BIT(n)	 (1ull << (n))
#define FEATURES (BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MTU) | BIT(VIRTIO_NET_F_STATUS))
#define FILTERED                                                                                   \
	(FEATURES | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |                        \
	 BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE))
#define MERGEABLE BIT(VIRTIO_NET_F_MRG_RXBUF)

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};
static const uint8_t peer_mac[6] = {0x52, 0x54, 0, 9, 9, 9};

/* The other end of the overlay. */
static struct recorder {
	struct port port;
	unsigned batches, frames;
	uint32_t last_len;
	unsigned last_iovcnt;
	struct frame_offload last_offload;
	uint8_t last[FRAME_SIZE_MAX];
	void (*hook)(void); /* called before a batch is recorded */
	bool hold;	    /* keep what comes, as an adapter does that reads by itself */
	unsigned held;
	struct frame_hold *holds[256];
} peer;

static struct device_rig rig;
static struct core *core;
static struct port *nic;

static void frame_record(const struct frame *frame)
{
	size_t n = 0;

	for (unsigned i = 0; i < frame->iovcnt; i++) {
		memcpy(peer.last + n, frame->iov[i].iov_base, frame->iov[i].iov_len);
		n += frame->iov[i].iov_len;
	}
	cr_assert_eq(n, frame->len);
	cr_assert_eq(memcmp(peer.last, frame->eth, FRAME_HEADER), 0);
	peer.last_len = frame->len;
	peer.last_iovcnt = frame->iovcnt;
	peer.last_offload = frame->offload;
}

static void peer_send(struct port *port, struct frame *const frames[], unsigned n)
{
	(void)port;
	if (peer.hook)
		peer.hook();
	peer.batches++;
	peer.frames += n;
	for (unsigned i = 0; i < n; i++) {
		frame_record(frames[i]);
		if (!peer.hold)
			continue;
		frame_hold(frames[i]->hold);
		peer.holds[peer.held++] = frames[i]->hold;
	}
}

static void peer_let_go(struct port *port)
{
	(void)port;
	while (peer.held)
		frame_release(peer.holds[--peer.held]);
}

static void peer_close(struct port *port)
{
	(void)port;
}

static const struct port_ops peer_ops = {
    .type = "recorder", .send_batch = peer_send, .let_go = peer_let_go, .close = peer_close};

static void setup_with(uint64_t features, uint16_t ring, uint32_t mtu)
{
	struct virtio_net_options opt = {
	    .name = "nic0", .mtu = mtu, .queue_size = 256, .offload = true};

	memcpy(opt.mac, own_mac, 6);
	rig_begin(&rig);
	rig.dev = virtio_net_create(&rig.env, &opt);
	cr_assert_not_null(rig.dev);
	nic = virtio_net_port(rig.dev);
	memset(&peer, 0, sizeof(peer));
	peer.port.ops = &peer_ops;
	peer.port.kind = PORT_LINK;
	strcpy(peer.port.name, "peer");
	core = core_create(NULL);
	cr_assert_eq(core_attach(core, nic), 0);
	cr_assert_eq(core_attach(core, &peer.port), 0);
	rig_start(&rig, features, ring);
}

static void setup(void)
{
	setup_with(FEATURES, 128, MTU);
}

static void teardown(void)
{
	virtio_stop(rig.dev);
	virtio_net_destroy(rig.dev);
	core_destroy(core);
	rig_end(&rig);
}

static uint64_t drops(enum drop_reason reason)
{
	return nic->counters.drops[reason];
}

/* --- transmit ------------------------------------------------------------------------------- */

/* A header of zeroes and a frame of @len bytes behind it, at RIG_DATA. */
static uint8_t *tx_lay(unsigned len)
{
	uint8_t *at = rig_host(&rig, RIG_DATA);

	memset(at, 0, HDR);
	for (unsigned i = 0; i < len; i++)
		at[HDR + i] = i * 7 + i / 256;
	if (len >= 12) {
		memcpy(at + HDR, peer_mac, 6);
		memcpy(at + HDR + 6, own_mac, 6);
	}
	return at;
}

static void tx_send(uint32_t len)
{
	rig_send(&rig, TX, (struct ring_buffer[]){{RIG_DATA, len, false}}, 1);
}

Test(virtio_net, sends_a_frame, .init = setup, .fini = teardown)
{
	uint8_t *at = tx_lay(100);

	rig_send(&rig, TX,
		 (struct ring_buffer[]){{RIG_DATA, HDR, false}, {RIG_DATA + HDR, 100, false}}, 2);
	cr_assert_eq(peer.frames, 1);
	cr_assert_eq(peer.last_len, 100);
	cr_assert_eq(memcmp(peer.last, at + HDR, 100), 0);
	cr_assert_eq(rig_used(&rig, TX), 0);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + TX), 1);
	cr_assert_eq(nic->counters.in_frames, 1);
	cr_assert_eq(nic->counters.in_bytes, 100);
	cr_assert_eq(nic->counters.copied_bytes, 0);
	cr_assert_eq(rig.dev->queues[TX].requests, 1);
}

Test(virtio_net, sends_in_batches, .init = setup, .fini = teardown)
{
	tx_lay(60);
	for (unsigned i = 0; i < 99; i++)
		cr_assert(
		    rig_add(&rig, TX, (struct ring_buffer[]){{RIG_DATA, HDR + 60, false}}, 1));
	tx_send(HDR + 60);
	cr_assert_eq(peer.frames, 100);
	cr_assert_eq(peer.batches, 2);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + TX), 2);
	for (unsigned i = 0; i < 100; i++)
		cr_assert_eq(rig_used(&rig, TX), 0);
	cr_assert_eq(rig_used(&rig, TX), -1);
}

Test(virtio_net, long_chains_make_smaller_batches, .init = setup, .fini = teardown)
{
	struct ring_buffer table[1000];

	tx_lay(1014);
	for (unsigned i = 0; i < 1000; i++)
		table[i] = (struct ring_buffer){RIG_DATA + i, 1, false};
	rig.dev->queues[TX].ring.indirect = true;
	for (unsigned i = 0; i < 20; i++) {
		cr_assert_geq(
		    ring_driver_add_indirect(&rig.rings[TX], RIG_DATA + 0x10000, table, 1000), 0);
		ring_driver_expose(&rig.rings[TX]);
	}
	virtio_ready(rig.dev, TX);
	rig_turns(&rig, 10);
	cr_assert_eq(peer.frames, 20);
	cr_assert_eq(peer.last_len, 1000 - HDR);
	cr_assert_eq(memcmp(peer.last, (uint8_t *)rig_host(&rig, RIG_DATA) + HDR, 1000 - HDR), 0);
}

/* A request goes back when the link has let go of it, whichever that is, with one interrupt a turn.
 */
Test(virtio_net, held_requests_go_back_later, .init = setup, .fini = teardown)
{
	unsigned interrupts;

	peer.hold = true;
	tx_lay(60);
	for (unsigned i = 0; i < 9; i++)
		cr_assert(
		    rig_add(&rig, TX, (struct ring_buffer[]){{RIG_DATA, HDR + 60, false}}, 1));
	tx_send(HDR + 60);
	rig_turns(&rig, 3);
	cr_assert_eq(peer.held, 10);
	cr_assert_eq(rig_used(&rig, TX), -1);
	interrupts = fake_irq_count(&rig.irqs, 1 + TX);
	for (unsigned i = 0; i < 4; i++)
		frame_release(peer.holds[--peer.held]);
	cr_assert_eq(rig_used(&rig, TX), -1, "not before the end of the turn");
	rig_turns(&rig, 1);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + TX), interrupts + 1);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(rig_used(&rig, TX), 0);
	cr_assert_eq(rig_used(&rig, TX), -1);
}

/* A reset takes back what is held, and what comes after it starts with a whole ring. */
Test(virtio_net, a20_a_reset_with_requests_held, .init = setup, .fini = teardown)
{
	peer.hold = true;
	for (unsigned round = 0; round < 3; round++) {
		tx_lay(60);
		for (unsigned i = 0; i < 127; i++)
			cr_assert(rig_add(&rig, TX,
					  (struct ring_buffer[]){{RIG_DATA, HDR + 60, false}}, 1));
		tx_send(HDR + 60);
		cr_assert_eq(peer.held, 128);
		rig_reset(&rig);
		cr_assert_eq(peer.held, 0);
		cr_assert_eq(rig_used(&rig, TX), -1);
	}
}

static void scribble(void)
{
	memset((uint8_t *)rig_host(&rig, RIG_DATA) + HDR, 0xee, FRAME_HEADER);
}

Test(virtio_net, a16_what_was_routed_is_what_is_sent, .init = setup, .fini = teardown)
{
	tx_lay(60);
	peer.hook = scribble;
	tx_send(HDR + 60);
	cr_assert_eq(memcmp(peer.last, peer_mac, 6), 0);
	cr_assert_eq(memcmp(peer.last + 6, own_mac, 6), 0);
	cr_assert_eq(peer.last[14], (uint8_t)(14 * 7));
}

Test(virtio_net, a13_header_and_frame_one_byte_each, .init = setup, .fini = teardown)
{
	struct ring_buffer bytes[HDR + 60];
	uint8_t *at = tx_lay(60);

	for (unsigned i = 0; i < HDR + 60; i++)
		bytes[i] = (struct ring_buffer){RIG_DATA + i, 1, false};
	rig_send(&rig, TX, bytes, HDR + 60);
	cr_assert_eq(peer.last_len, 60);
	cr_assert_eq(memcmp(peer.last, at + HDR, 60), 0);
	cr_assert_eq(peer.last_iovcnt, 1 + 60 - FRAME_HEADER);
}

Test(virtio_net, a13_every_cut_of_header_and_frame, .init = setup, .fini = teardown)
{
	uint8_t *at = tx_lay(60);

	for (unsigned a = 0; a <= HDR + 60; a++)
		for (unsigned b = a; b <= HDR + 60; b += 5) {
			unsigned before = peer.frames;

			rig_send(&rig, TX,
				 (struct ring_buffer[]){{RIG_DATA, a, false},
							{RIG_DATA + a, b - a, false},
							{RIG_DATA + b, HDR + 60 - b, false}},
				 3);
			cr_assert_eq(peer.frames, before + 1);
			cr_assert_eq(memcmp(peer.last, at + HDR, 60), 0);
			cr_assert_eq(rig_used(&rig, TX), 0);
		}
}

Test(virtio_net, a13_shorter_than_the_header, .init = setup, .fini = teardown)
{
	tx_lay(60);
	for (unsigned len = 0; len < HDR; len++) {
		tx_send(len);
		cr_assert_eq(drops(DROP_FORMAT), len + 1);
		cr_assert_eq(rig_used(&rig, TX), 0);
	}
	cr_assert_eq(peer.frames, 0);
	cr_assert_null(rig.dev->broken);
}

Test(virtio_net, a14_headers_that_ask_for_what_was_not_negotiated, .init = setup, .fini = teardown)
{
	static const struct virtio_net_hdr_v1 lies[] = {
	    {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16},
	    {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff},
	    {.flags = VIRTIO_NET_HDR_F_DATA_VALID},
	    {.flags = 0x80},
	    {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 0},
	    {.gso_type = VIRTIO_NET_HDR_GSO_TCPV6, .gso_size = 1, .hdr_len = 0xffff},
	    {.gso_type = VIRTIO_NET_HDR_GSO_ECN},
	    {.gso_type = 0x7f},
	};

	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		memcpy(tx_lay(60), &lies[i], HDR);
		tx_send(HDR + 60);
		cr_assert_eq(drops(DROP_FORMAT), i + 1);
		cr_assert_eq(rig_used(&rig, TX), 0);
	}
	cr_assert_eq(peer.frames, 0);
}

Test(virtio_net, a14_fields_of_no_meaning_do_not_travel, .init = setup, .fini = teardown)
{
	static const struct virtio_net_hdr_v1 hdr = {.hdr_len = 0xffff,
						     .gso_size = 0xffff,
						     .csum_start = 0xffff,
						     .csum_offset = 0xffff,
						     .num_buffers = 0xffff};
	static const struct frame_offload none;

	memcpy(tx_lay(60), &hdr, HDR);
	tx_send(HDR + 60);
	cr_assert_eq(peer.frames, 1);
	cr_assert_eq(memcmp(&peer.last_offload, &none, sizeof(none)), 0);
}

Test(virtio_net, a15_runts_and_the_shortest_frame, .init = setup, .fini = teardown)
{
	tx_lay(60);
	for (unsigned len = 0; len < FRAME_SIZE_MIN; len++)
		tx_send(HDR + len);
	cr_assert_eq(drops(DROP_RUNT), FRAME_SIZE_MIN);
	cr_assert_eq(peer.frames, 0);
	tx_send(HDR + FRAME_SIZE_MIN);
	cr_assert_eq(peer.frames, 1);
	cr_assert_eq(peer.last_len, FRAME_SIZE_MIN);
	cr_assert_eq(peer.last_iovcnt, 1);
}

Test(virtio_net, a15_too_long_for_the_mtu, .init = setup, .fini = teardown)
{
	struct ring_buffer huge[] = {{RIG_DATA, 4 << 20, false},
				     {RIG_DATA, 4 << 20, false},
				     {RIG_DATA, 4 << 20, false},
				     {RIG_DATA, 4 << 20, false}};

	tx_lay(2000);
	tx_send(HDR + FRAME_HEADER + 8 + MTU);
	cr_assert_eq(peer.frames, 1);
	tx_send(HDR + FRAME_HEADER + 8 + MTU + 1);
	tx_send(HDR + FRAME_SIZE_MAX + 1);
	rig_send(&rig, TX, huge, 4);
	cr_assert_eq(peer.frames, 1);
	cr_assert_eq(drops(DROP_OVERSIZE), 3);
	cr_assert_null(rig.dev->broken);
}

Test(virtio_net, a15_the_longest_frame, .fini = teardown)
{
	setup_with(FEATURES, 128, 65535);
	tx_lay(FRAME_SIZE_MAX);
	tx_send(HDR + FRAME_SIZE_MAX);
	cr_assert_eq(peer.last_len, FRAME_SIZE_MAX);
	tx_send(HDR + FRAME_SIZE_MAX + 1);
	cr_assert_eq(peer.frames, 1);
	cr_assert_eq(drops(DROP_OVERSIZE), 1);
}

Test(virtio_net, a11_a_writable_segment_on_transmit, .init = setup, .fini = teardown)
{
	tx_lay(60);
	rig_send(&rig, TX,
		 (struct ring_buffer[]){{RIG_DATA, HDR + 60, false}, {RIG_DATA + 4096, 60, true}},
		 2);
	cr_assert_eq(drops(DROP_FORMAT), 1);
	cr_assert_eq(peer.frames, 0);
	cr_assert_eq(rig_used(&rig, TX), 0);
}

static void refill(void)
{
	while (rig_add(&rig, TX, (struct ring_buffer[]){{RIG_DATA, HDR + 60, false}}, 1))
		;
	while (rig_used(&rig, TX) >= 0)
		rig_add(&rig, TX, (struct ring_buffer[]){{RIG_DATA, HDR + 60, false}}, 1);
}

Test(virtio_net, a18_work_added_as_fast_as_it_is_taken, .init = setup, .fini = teardown)
{
	tx_lay(60);
	peer.hook = refill;
	tx_send(HDR + 60);
	cr_assert_leq(peer.batches, 8);
	rig_turns(&rig, 1);
	cr_assert_leq(peer.batches, 16);
	cr_assert_gt(peer.batches, 8);
	peer.hook = NULL;
	rig_turns(&rig, 3);
	cr_assert(!virtqueue_pending(&rig.dev->queues[TX].ring));
	cr_assert_null(rig.dev->broken);
}

Test(virtio_net, a20_a_reset_forgets_a_visit, .init = setup, .fini = teardown)
{
	unsigned before;

	tx_lay(60);
	peer.hook = refill;
	tx_send(HDR + 60);
	before = peer.frames;
	virtio_stop(rig.dev);
	virtio_stop(rig.dev);
	rig_turns(&rig, 2);
	cr_assert_eq(peer.frames, before);
	peer.hook = NULL;
	rig_start(&rig, FEATURES, 128);
	tx_send(HDR + 60);
	cr_assert_eq(peer.frames, before + 1);
	cr_assert_eq(rig_used(&rig, TX), 0);
}

Test(virtio_net, a7_a_broken_ring_breaks_the_device_only_once, .init = setup, .fini = teardown)
{
	ring_driver_offer(&rig.rings[TX], 4000);
	ring_driver_expose(&rig.rings[TX]);
	virtio_ready(rig.dev, TX);
	virtio_ready(rig.dev, TX);
	cr_assert_not_null(rig.dev->broken);
	cr_assert_eq(rig.dev->broken_count, 1);
	rig_reset(&rig);
	tx_lay(60);
	tx_send(HDR + 60);
	cr_assert_eq(peer.frames, 1);
}

/* --- receive -------------------------------------------------------------------------------- */

static uint8_t rx_data[FRAME_SIZE_MAX + 1];

/* Send the guest @n frames of @len bytes each, in one batch. */
static void rx_send(const uint8_t to[6], uint32_t len, unsigned n)
{
	struct iovec iov[2] = {{rx_data, 20}, {rx_data + 20, len - 20}};
	struct frame frame = {.iov = iov, .iovcnt = 2, .len = len};
	struct frame *frames[FRAME_BATCH_MAX];

	for (uint32_t i = 0; i < len; i++)
		rx_data[i] = i * 3 + i / 256;
	memcpy(rx_data, to, 6);
	memcpy(rx_data + 6, peer_mac, 6);
	memcpy(frame.eth, rx_data, FRAME_HEADER);
	for (unsigned i = 0; i < n; i++)
		frames[i] = &frame;
	core_input(core, &peer.port, frames, n);
}

static void rx_post(uint64_t gpa, uint32_t len)
{
	cr_assert(rig_add(&rig, RX, (struct ring_buffer[]){{gpa, len, true}}, 1));
}

static void rx_check(uint64_t gpa, uint32_t len, unsigned buffers)
{
	const struct virtio_net_hdr_v1 hdr = {.num_buffers = buffers};
	const uint8_t *at = rig_host(&rig, gpa);

	cr_assert_eq(memcmp(at, &hdr, HDR), 0);
	cr_assert_eq(memcmp(at + HDR, rx_data, len), 0);
}

Test(virtio_net, receives_a_frame, .init = setup, .fini = teardown)
{
	rx_post(RIG_DATA, 2048);
	rx_send(own_mac, 100, 1);
	cr_assert_eq(rig_used(&rig, RX), HDR + 100);
	rx_check(RIG_DATA, 100, 1);
	cr_assert_eq(nic->counters.out_frames, 1);
	cr_assert_eq(nic->counters.out_bytes, 100);
	cr_assert_eq(nic->counters.copied_bytes, 100);
}

Test(virtio_net, receives_a_batch_with_one_interrupt, .init = setup, .fini = teardown)
{
	for (unsigned i = 0; i < 64; i++)
		rx_post(RIG_DATA + i * 2048, 2048);
	rx_send(own_mac, 1514, 64);
	cr_assert_eq(nic->counters.out_frames, 64);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + RX), 1);
	for (unsigned i = 0; i < 64; i++) {
		cr_assert_eq(rig_used(&rig, RX), HDR + 1514);
		rx_check(RIG_DATA + i * 2048, 1514, 1);
	}
}

Test(virtio_net, receives_into_pieces, .init = setup, .fini = teardown)
{
	struct ring_buffer bytes[HDR + 60];

	for (unsigned i = 0; i < HDR + 60; i++)
		bytes[i] = (struct ring_buffer){RIG_DATA + i, 1, true};
	cr_assert(rig_add(&rig, RX, bytes, HDR + 60));
	rx_send(own_mac, 60, 1);
	cr_assert_eq(rig_used(&rig, RX), HDR + 60);
	rx_check(RIG_DATA, 60, 1);
}

static void setup_mergeable(void)
{
	setup_with(FEATURES | MERGEABLE, 128, MTU);
}

Test(virtio_net, merges_buffers, .init = setup_mergeable, .fini = teardown)
{
	/* Adjacent in memory, so that the frame lies there in one piece. */
	for (unsigned i = 0; i < 8; i++)
		rx_post(RIG_DATA + i * 32, 32);
	rx_send(own_mac, 100, 2);
	for (unsigned i = 0; i < 2; i++) {
		for (unsigned k = 0; k < 3; k++)
			cr_assert_eq(rig_used(&rig, RX), 32);
		cr_assert_eq(rig_used(&rig, RX), HDR + 100 - 96);
		rx_check(RIG_DATA + 128 * i, 100, 4);
	}
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + RX), 1);
}

Test(virtio_net, a17_merges_single_bytes_behind_a_bare_header, .init = setup_mergeable,
     .fini = teardown)
{
	struct ring_buffer bytes[HDR];

	for (unsigned i = 0; i < HDR; i++)
		bytes[i] = (struct ring_buffer){RIG_DATA + i, 1, true};
	cr_assert(rig_add(&rig, RX, bytes, HDR));
	for (unsigned i = 0; i < 60; i++)
		rx_post(RIG_DATA + HDR + i, 1);
	rx_send(own_mac, 60, 1);
	cr_assert_eq(rig_used(&rig, RX), HDR);
	for (unsigned i = 0; i < 60; i++)
		cr_assert_eq(rig_used(&rig, RX), 1);
	rx_check(RIG_DATA, 60, 61);
}

Test(virtio_net, a17_fewer_buffers_than_a_frame_needs, .init = setup_mergeable, .fini = teardown)
{
	for (unsigned i = 0; i < 3; i++)
		rx_post(RIG_DATA + i * 32, 32);
	rx_send(own_mac, 100, 1);
	cr_assert_eq(drops(DROP_RING_FULL), 1);
	cr_assert_eq(rig_used(&rig, RX), -1);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + RX), 0);
	rx_post(RIG_DATA + 96, 32);
	rx_send(own_mac, 100, 1);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_gt(rig_used(&rig, RX), 0);
	rx_check(RIG_DATA, 100, 4);
}

Test(virtio_net, a17_no_buffers_and_no_driver, .init = setup, .fini = teardown)
{
	rx_send(own_mac, 100, 5);
	cr_assert_eq(drops(DROP_RING_FULL), 5);
	virtio_stop(rig.dev);
	rx_send(own_mac, 100, 5);
	cr_assert_eq(drops(DROP_RING_FULL), 10);
	cr_assert_null(rig.dev->broken);
}

Test(virtio_net, a17_a_reset_with_buffers_posted, .init = setup, .fini = teardown)
{
	rx_post(RIG_DATA, 2048);
	virtio_stop(rig.dev);
	rx_send(own_mac, 100, 1);
	cr_assert_eq(((uint8_t *)rig_host(&rig, RIG_DATA))[HDR], 0);
	rig_start(&rig, FEATURES, 128);
	rx_send(own_mac, 100, 1);
	cr_assert_eq(rig_used(&rig, RX), -1);
	rx_post(RIG_DATA, 2048);
	rx_send(own_mac, 100, 1);
	cr_assert_eq(rig_used(&rig, RX), HDR + 100);
}

Test(virtio_net, a17_a_buffer_too_short_for_the_frame, .init = setup, .fini = teardown)
{
	rx_post(RIG_DATA, 100);
	rx_send(own_mac, 100, 1);
	cr_assert_eq(drops(DROP_OVERSIZE), 1);
	cr_assert_eq(rig_used(&rig, RX), -1);
	rx_send(own_mac, 88, 1);
	cr_assert_eq(rig_used(&rig, RX), 100);
}

Test(virtio_net, received_frames_keep_to_the_mtu, .init = setup, .fini = teardown)
{
	rx_post(RIG_DATA, 65536);
	rx_send(own_mac, FRAME_HEADER + 8 + MTU + 1, 1);
	cr_assert_eq(drops(DROP_OVERSIZE), 1);
	rx_send(own_mac, FRAME_HEADER + 8 + MTU, 1);
	cr_assert_eq(rig_used(&rig, RX), HDR + FRAME_HEADER + 8 + MTU);
}

Test(virtio_net, a11_receive_buffers_that_are_none, .init = setup, .fini = teardown)
{
	struct ring_buffer bad[][2] = {
	    {{RIG_DATA, 2048, false}, {RIG_DATA, 0, true}},
	    {{RIG_DATA, 100, false}, {RIG_DATA, 2048, true}},
	    {{RIG_DATA, 0, true}, {RIG_DATA, HDR - 1, true}},
	    {{RIG_DATA, 0, true}, {RIG_DATA, 0, true}},
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert(rig_add(&rig, RX, bad[i], 2));
		rx_send(own_mac, 100, 3);
		cr_assert_not_null(rig.dev->broken);
		cr_assert_eq(rig_used(&rig, RX), -1);
		cr_assert_eq(drops(DROP_RING_FULL), 3 * (i + 1));
		rig_reset(&rig);
	}
	rx_post(RIG_DATA, 2048);
	rx_send(own_mac, 100, 1);
	cr_assert_eq(rig_used(&rig, RX), HDR + 100);
}

Test(virtio_net, a17_an_empty_buffer_in_the_middle_of_a_frame, .init = setup_mergeable,
     .fini = teardown)
{
	rx_post(RIG_DATA, 32);
	rx_post(RIG_DATA, 0);
	rx_send(own_mac, 100, 1);
	cr_assert_not_null(rig.dev->broken);
	cr_assert_eq(rig_used(&rig, RX), -1);
}

/* --- control -------------------------------------------------------------------------------- */

static void setup_filtered(void)
{
	setup_with(FILTERED, 128, MTU);
}

/* Send a command; returns its acknowledgement. */
static int ctrl(const void *command, uint32_t len)
{
	uint8_t *ack = rig_host(&rig, RIG_DATA + 0x20000);

	memcpy(rig_host(&rig, RIG_DATA + 0x10000), command, len);
	*ack = 0xaa;
	rig_send(
	    &rig, CTRL,
	    (struct ring_buffer[]){{RIG_DATA + 0x10000, len, false}, {RIG_DATA + 0x20000, 1, true}},
	    2);
	cr_assert_eq(rig_used(&rig, CTRL), 1);
	return *ack;
}

#define CTRL_BYTES(...) ctrl((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* Does a frame to this address reach the guest? */
static bool heard(const uint8_t mac[6])
{
	rx_post(RIG_DATA, 2048);
	rx_send(mac, 60, 1);
	return rig_used(&rig, RX) >= 0;
}

static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};
static const uint8_t group_a[6] = {1, 0, 0x5e, 0, 0, 1}, group_b[6] = {0x33, 0x33, 0, 0, 0, 2};
static const uint8_t other[6] = {0x52, 0x54, 0, 7, 7, 7};

Test(virtio_net, without_control_everything_is_heard, .init = setup, .fini = teardown)
{
	cr_assert(heard(own_mac) && heard(other) && heard(group_a) && heard(broadcast));
}

Test(virtio_net, the_filter_starts_with_own_and_broadcast, .init = setup_filtered, .fini = teardown)
{
	cr_assert(heard(own_mac));
	cr_assert(heard(broadcast));
	cr_assert_not(heard(other));
	cr_assert_not(heard(group_a));
	cr_assert_eq(drops(DROP_FILTER), 2);
}

Test(virtio_net, receive_modes, .init = setup_filtered, .fini = teardown)
{
	cr_assert_eq(CTRL_BYTES(0, 1, 1), VIRTIO_NET_OK);
	cr_assert(heard(group_a));
	cr_assert_not(heard(other));
	cr_assert_eq(CTRL_BYTES(0, 0, 1), VIRTIO_NET_OK);
	cr_assert(heard(other));
	cr_assert_eq(CTRL_BYTES(0, 0, 0), VIRTIO_NET_OK);
	cr_assert_eq(CTRL_BYTES(0, 1, 0), VIRTIO_NET_OK);
	cr_assert_not(heard(other));
	cr_assert_not(heard(group_a));
}

Test(virtio_net, the_filter_table, .init = setup_filtered, .fini = teardown)
{
	uint8_t table[2 + 4 + 6 + 4 + 12] = {1, 0, 1};

	memcpy(table + 6, other, 6);
	table[12] = 2;
	memcpy(table + 16, group_a, 6);
	memcpy(table + 22, group_b, 6);
	cr_assert_eq(ctrl(table, sizeof(table)), VIRTIO_NET_OK);
	cr_assert(heard(other) && heard(group_a) && heard(group_b) && heard(own_mac));
	cr_assert_eq(CTRL_BYTES(1, 0, 0, 0, 0, 0, 0, 0, 0, 0), VIRTIO_NET_OK);
	cr_assert_not(heard(other) || heard(group_a) || heard(group_b));
}

static void mac_read(uint8_t mac[6])
{
	rig.dev->ops->config_read(rig.dev, 0, mac, 6);
}

Test(virtio_net, the_address_can_be_set_until_reset, .init = setup_filtered, .fini = teardown)
{
	uint8_t mac[6];

	cr_assert_eq(CTRL_BYTES(1, 1, 0x52, 0x54, 0, 7, 7, 7), VIRTIO_NET_OK);
	mac_read(mac);
	cr_assert_eq(memcmp(mac, other, 6), 0);
	cr_assert(heard(other));
	cr_assert_not(heard(own_mac));
	rig_reset(&rig);
	mac_read(mac);
	cr_assert_eq(memcmp(mac, own_mac, 6), 0);
	cr_assert(heard(own_mac));
}

static unsigned status_read(void)
{
	uint16_t status;

	rig.dev->ops->config_read(rig.dev, 6, &status, 2);
	return status;
}

Test(virtio_net, announcements, .init = setup_filtered, .fini = teardown)
{
	cr_assert_eq(status_read(), VIRTIO_NET_S_LINK_UP);
	virtio_net_announce(rig.dev);
	cr_assert_eq(status_read(), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	cr_assert_eq(fake_irq_count(&rig.irqs, 0), 1);
	cr_assert_eq(CTRL_BYTES(3, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(3, 0), VIRTIO_NET_OK);
	cr_assert_eq(status_read(), VIRTIO_NET_S_LINK_UP);
	virtio_net_announce(rig.dev);
	virtio_stop(rig.dev);
	cr_assert_eq(status_read(), VIRTIO_NET_S_LINK_UP);
	virtio_net_announce(rig.dev);
	cr_assert_eq(status_read(), VIRTIO_NET_S_LINK_UP);
}

Test(virtio_net, a22_commands_that_are_refused, .init = setup_filtered, .fini = teardown)
{
	cr_assert_eq(CTRL_BYTES(0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(0, 0, 1, 1), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(0, 2, 1), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(0, 255, 1), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 1, 2, 2, 2, 2, 2), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 1, 2, 2, 2, 2, 2, 2, 2), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 1, 3, 2, 2, 2, 2, 2), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(2, 0, 1, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(4, 0, 2, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(4, 0, 0xff, 0xff), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(5, 0, 1, 0, 0, 0, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(255, 255), VIRTIO_NET_ERR);
	cr_assert_not(heard(other));
	cr_assert(heard(own_mac));
	cr_assert_null(rig.dev->broken);
}

Test(virtio_net, a22_filter_tables_that_are_refused, .init = setup_filtered, .fini = teardown)
{
	static uint8_t table[2 + 4 + 65 * 6 + 4] = {1, 0};

	cr_assert_eq(CTRL_BYTES(1, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 0, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 0, 255, 255, 255, 255, 1, 2, 3, 4, 5, 6), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 0, 0, 0, 0, 0, 255, 255, 255, 255), VIRTIO_NET_ERR);
	table[2] = 65;
	cr_assert_eq(ctrl(table, sizeof(table)), VIRTIO_NET_ERR);
	table[2] = 64;
	cr_assert_eq(ctrl(table, sizeof(table) - 6), VIRTIO_NET_OK);
	table[2 + 4 + 64 * 6] = 1;
	cr_assert_eq(ctrl(table, sizeof(table)), VIRTIO_NET_ERR);
	cr_assert(heard((const uint8_t[6]){0}));
}

Test(virtio_net, a22_commands_not_negotiated, .init = setup, .fini = teardown)
{
	cr_assert_eq(CTRL_BYTES(0, 0, 1), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 0, 0, 0, 0, 0, 0, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(1, 1, 2, 2, 2, 2, 2, 2), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(3, 0), VIRTIO_NET_ERR);
}

Test(virtio_net, a22_a_command_in_single_bytes, .init = setup_filtered, .fini = teardown)
{
	uint8_t *at = rig_host(&rig, RIG_DATA);
	struct ring_buffer bytes[10];

	memcpy(at, (uint8_t[]){1, 1, 0x52, 0x54, 0, 7, 7, 7}, 8);
	for (unsigned i = 0; i < 10; i++)
		bytes[i] = (struct ring_buffer){RIG_DATA + i, 1, i >= 8};
	at[8] = 0xaa;
	rig_send(&rig, CTRL, bytes, 10);
	cr_assert_eq(at[8], VIRTIO_NET_OK);
	cr_assert(heard(other));
}

Test(virtio_net, a22_a_command_without_room_for_its_answer, .init = setup_filtered,
     .fini = teardown)
{
	rig_send(&rig, CTRL, (struct ring_buffer[]){{RIG_DATA, 3, false}}, 1);
	cr_assert_not_null(rig.dev->broken);
}

Test(virtio_net, a18_a_visit_runs_a_bounded_number_of_commands, .init = setup_filtered,
     .fini = teardown)
{
	struct ring_buffer command[] = {{RIG_DATA, 3, false}, {RIG_DATA + 16, 1, true}};

	for (unsigned i = 0; i < 63; i++)
		cr_assert(rig_add(&rig, CTRL, command, 2));
	rig_send(&rig, CTRL, command, 2);
	cr_assert_eq(rig.dev->queues[CTRL].requests, 16);
	rig_turns(&rig, 5);
	cr_assert_eq(rig.dev->queues[CTRL].requests, 64);
}

/* --- offloads ------------------------------------------------------------------------------- */

/* Younger than the headers of Linux 6.1. */
#define F_GUEST_USO4 54
#define F_GUEST_USO6 55
#define F_HOST_USO   56
#define GSO_UDP_L4   5
#define HOST_ALL                                                                                   \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |      \
	 BIT(VIRTIO_NET_F_HOST_ECN) | BIT(F_HOST_USO))
#define GUEST_ALL                                                                                  \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |                             \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(F_GUEST_USO4) |          \
	 BIT(F_GUEST_USO6))
#define OFFLOADED (FEATURES | HOST_ALL | GUEST_ALL)

static void setup_offloaded(void)
{
	setup_with(OFFLOADED, 128, MTU);
	peer.port.offloads = PORT_OFFLOADS;
}

static void setup_offloaded_mergeable(void)
{
	setup_with(OFFLOADED | MERGEABLE, 128, MTU);
	peer.port.offloads = PORT_OFFLOADS;
}

/* The headers of a TCP segment over IPv4 of @len bytes, Ethernet included. */
static void lay_tcp(uint8_t *frame, uint32_t len)
{
	static const uint8_t headers[] = {
	    0x08, 0, 0x45, 0,	 0, 0,	0, 1, 0x40, 0, 64, 6, 0, 0, 10,	  0,	0,  1, 10, 0,
	    0,	  2, 0x12, 0x34, 0, 80, 0, 0, 0,    1, 0,  0, 0, 2, 0x50, 0x10, 32, 0, 0,  0};

	memcpy(frame, peer_mac, 6);
	memcpy(frame + 6, own_mac, 6);
	memcpy(frame + 12, headers, sizeof(headers));
	frame[16] = (len - 14) >> 8;
	frame[17] = len - 14;
}

static const struct frame_offload tso_offload = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
						 .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
						 .hdr_len = 54,
						 .gso_size = 1446,
						 .csum_start = 34,
						 .csum_offset = 16};

/* A request of @len bytes of frame with such a header. */
static void tx_tcp(struct frame_offload offload, uint32_t len)
{
	const struct virtio_net_hdr_v1 hdr = {.flags = offload.flags,
					      .gso_type = offload.gso_type,
					      .hdr_len = offload.hdr_len,
					      .gso_size = offload.gso_size,
					      .csum_start = offload.csum_start,
					      .csum_offset = offload.csum_offset};
	uint8_t *at = tx_lay(len);

	lay_tcp(at + HDR, len);
	memcpy(at, &hdr, HDR);
	tx_send(HDR + len);
}

Test(virtio_net, offloads_are_offered_or_not)
{
	struct virtio_net_options opt = {.name = "nic0", .mtu = 1500, .queue_size = 256};
	const uint64_t all = HOST_ALL | GUEST_ALL | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);

	rig_begin(&rig);
	rig.dev = virtio_net_create(&rig.env, &opt);
	cr_assert_eq(rig.dev->features_offered & all, 0);
	cr_assert(rig.dev->features_offered & MERGEABLE);
	virtio_net_destroy(rig.dev);
	opt.offload = true;
	rig.dev = virtio_net_create(&rig.env, &opt);
	cr_assert_eq(rig.dev->features_offered & all, all);
	virtio_net_destroy(rig.dev);
	rig_end(&rig);
}

Test(virtio_net, the_port_takes_what_the_driver_negotiated, .fini = teardown)
{
	static const struct {
		uint64_t features;
		uint32_t offloads;
	} table[] = {
	    {GUEST_ALL, PORT_OFFLOADS},
	    {GUEST_ALL & ~BIT(VIRTIO_NET_F_GUEST_CSUM), 0},
	    {GUEST_ALL & ~BIT(F_GUEST_USO6), PORT_OFFLOADS & ~PORT_USO},
	    {BIT(VIRTIO_NET_F_GUEST_CSUM), PORT_CSUM},
	    {BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO6), PORT_CSUM | PORT_TSO6},
	    {HOST_ALL, 0},
	};

	setup();
	cr_assert_eq(nic->offloads, 0);
	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		virtio_stop(rig.dev);
		cr_assert_eq(nic->offloads, 0);
		rig_start(&rig, FEATURES | table[i].features, 128);
		cr_assert_eq(nic->offloads, table[i].offloads);
	}
}

Test(virtio_net, sends_frames_to_be_cut, .init = setup_offloaded, .fini = teardown)
{
	struct frame_offload hdr = tso_offload;

	tx_tcp(hdr, 65000);
	cr_assert_eq(peer.last_len, 65000);
	cr_assert_eq(peer.last_offload.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	cr_assert_eq(peer.last_offload.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	cr_assert_eq(peer.last_offload.hdr_len, 54);
	cr_assert_eq(peer.last_offload.gso_size, 1446);
	cr_assert_eq(peer.last_offload.csum_start, 34);
	cr_assert_eq(peer.last_offload.csum_offset, 16);
	tx_tcp(hdr, FRAME_SIZE_MAX);
	cr_assert_eq(peer.last_len, FRAME_SIZE_MAX);
	hdr.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	tx_tcp(hdr, 3000);
	cr_assert_eq(peer.last_offload.gso_type, hdr.gso_type);
	hdr.gso_type = VIRTIO_NET_HDR_GSO_NONE;
	tx_tcp(hdr, 1500);
	cr_assert_eq(peer.last_offload.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	cr_assert_eq(peer.last_offload.gso_size, 0);
	cr_assert_eq(peer.last_offload.hdr_len, 0);
	cr_assert_eq(peer.frames, 4);
	cr_assert_eq(nic->counters.copied_bytes, 0);
}

Test(virtio_net, a15_only_frames_to_be_cut_exceed_the_mtu, .init = setup_offloaded,
     .fini = teardown)
{
	struct frame_offload hdr = tso_offload;

	hdr.gso_size = MTU + 1;
	tx_tcp(hdr, 3000);
	hdr = tso_offload;
	hdr.gso_type = VIRTIO_NET_HDR_GSO_NONE;
	tx_tcp(hdr, 3000);
	tx_tcp(tso_offload, FRAME_SIZE_MAX + 1);
	cr_assert_eq(drops(DROP_OVERSIZE), 3);
	cr_assert_eq(peer.frames, 0);
}

Test(virtio_net, a14_headers_that_lie, .init = setup_offloaded, .fini = teardown)
{
	static const struct {
		struct frame_offload hdr;
		enum drop_reason reason;
	} lies[] = {
	    {{.flags = 1, .csum_start = 34, .csum_offset = 1000}, DROP_OFFLOAD},
	    {{.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff}, DROP_OFFLOAD},
	    {{.flags = 1, .csum_start = 0}, DROP_OFFLOAD},
	    {{1, 1, 54, 0, 34, 16}, DROP_OFFLOAD},
	    {{1, 1, 1001, 100, 34, 16}, DROP_OFFLOAD},
	    {{1, 4, 54, 100, 34, 16}, DROP_OFFLOAD},
	    {{1, 5, 54, 100, 34, 6}, DROP_OFFLOAD},
	    {{1, 0x85, 54, 100, 34, 6}, DROP_OFFLOAD},
	    {{1, 1, 54, 100, 35, 16}, DROP_OFFLOAD},
	    {{0, 1, 54, 100, 34, 16}, DROP_OFFLOAD},
	    {{1, 3, 54, 100, 34, 6}, DROP_FORMAT},
	    {{1, 0x7f, 54, 100, 34, 6}, DROP_FORMAT},
	    {{1, 0x80, 54, 100, 34, 6}, DROP_FORMAT},
	    {{.flags = 2}, DROP_FORMAT},
	    {{.flags = 3, .csum_start = 34, .csum_offset = 16}, DROP_FORMAT},
	    {{.flags = 0xff}, DROP_FORMAT},
	};

	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		uint64_t before = drops(lies[i].reason);

		tx_tcp(lies[i].hdr, 1000);
		cr_assert_eq(drops(lies[i].reason), before + 1, "lie %u", i);
		cr_assert_eq(rig_used(&rig, TX), 0);
	}
	cr_assert_eq(peer.frames, 0);
	tx_tcp(tso_offload, 3000);
	cr_assert_eq(peer.frames, 1);
	cr_assert_null(rig.dev->broken);
}

/* Each kind of offload with every feature but its own. */
Test(virtio_net, a14_offloads_that_were_not_negotiated, .fini = teardown)
{
	static const struct {
		unsigned feature;
		struct frame_offload hdr;
	} table[] = {
	    {VIRTIO_NET_F_CSUM, {.flags = 1, .csum_start = 34, .csum_offset = 16}},
	    {VIRTIO_NET_F_CSUM, {1, 1, 54, 100, 34, 16}},
	    {VIRTIO_NET_F_HOST_TSO4, {1, 1, 54, 100, 34, 16}},
	    {VIRTIO_NET_F_HOST_TSO6, {1, 4, 54, 100, 34, 16}},
	    {VIRTIO_NET_F_HOST_ECN, {1, 0x81, 54, 100, 34, 16}},
	    {F_HOST_USO, {1, 5, 42, 100, 34, 6}},
	};

	setup();
	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		virtio_stop(rig.dev);
		rig_start(&rig, OFFLOADED & ~BIT(table[i].feature), 128);
		tx_tcp(table[i].hdr, 1000);
		cr_assert_eq(drops(DROP_FORMAT), i + 1);
	}
	cr_assert_eq(peer.frames, 0);
}

/* Send the guest one frame with offload state, of one segment. */
static void rx_offloaded(struct frame_offload offload, uint32_t len)
{
	struct iovec iov = {rx_data, len};
	struct frame frame = {.iov = &iov, .iovcnt = 1, .len = len, .offload = offload};
	struct frame *frames[] = {&frame};

	for (uint32_t i = 0; i < len; i++)
		rx_data[i] = i * 5 + i / 256;
	lay_tcp(rx_data, len);
	memcpy(rx_data, own_mac, 6);
	memcpy(frame.eth, rx_data, FRAME_HEADER);
	nic->ops->send_batch(nic, frames, 1);
}

static void rx_check_header(uint64_t gpa, struct frame_offload offload, unsigned buffers)
{
	const struct virtio_net_hdr_v1 *hdr = rig_host(&rig, gpa);

	cr_assert_eq(hdr->flags, offload.flags);
	cr_assert_eq(hdr->gso_type, offload.gso_type);
	cr_assert_eq(hdr->hdr_len, offload.hdr_len);
	cr_assert_eq(hdr->gso_size, offload.gso_size);
	cr_assert_eq(hdr->csum_start, offload.csum_start);
	cr_assert_eq(hdr->csum_offset, offload.csum_offset);
	cr_assert_eq(hdr->num_buffers, buffers);
}

Test(virtio_net, receives_frames_to_be_cut, .init = setup_offloaded, .fini = teardown)
{
	const struct frame_offload valid = {.flags = VIRTIO_NET_HDR_F_DATA_VALID};

	rx_post(RIG_DATA, 65562); /* virtio 1.2, 5.1.6.3.1 */
	rx_offloaded(tso_offload, FRAME_SIZE_MAX);
	cr_assert_eq(rig_used(&rig, RX), HDR + FRAME_SIZE_MAX);
	rx_check_header(RIG_DATA, tso_offload, 1);
	cr_assert_eq(memcmp((uint8_t *)rig_host(&rig, RIG_DATA) + HDR, rx_data, FRAME_SIZE_MAX), 0);
	rx_post(RIG_DATA, 2048);
	rx_offloaded(valid, 1000);
	rx_check_header(RIG_DATA, valid, 1);
}

Test(virtio_net, merges_buffers_for_a_frame_to_be_cut, .init = setup_offloaded_mergeable,
     .fini = teardown)
{
	for (unsigned i = 0; i < 44; i++)
		rx_post(RIG_DATA + i * 1500, 1500);
	rx_offloaded(tso_offload, 65000);
	for (unsigned i = 0; i < 43; i++)
		cr_assert_eq(rig_used(&rig, RX), 1500);
	cr_assert_eq(rig_used(&rig, RX), HDR + 65000 - 43 * 1500);
	rx_check_header(RIG_DATA, tso_offload, 44);
	cr_assert_eq(memcmp((uint8_t *)rig_host(&rig, RIG_DATA) + HDR, rx_data, 65000), 0);
}

Test(virtio_net, a17_a_frame_to_be_cut_without_room, .init = setup_offloaded, .fini = teardown)
{
	rx_post(RIG_DATA, 2048);
	rx_offloaded(tso_offload, 3000);
	cr_assert_eq(drops(DROP_OVERSIZE), 1);
	cr_assert_eq(rig_used(&rig, RX), -1);
}

Test(virtio_net, a_driver_gets_nothing_it_did_not_negotiate, .init = setup, .fini = teardown)
{
	const struct frame_offload valid = {.flags = VIRTIO_NET_HDR_F_DATA_VALID}, none = {0};

	rx_post(RIG_DATA, 65562);
	rx_offloaded(tso_offload, 3000);
	cr_assert_eq(drops(DROP_OFFLOAD), 1);
	cr_assert_eq(rig_used(&rig, RX), -1);
	rx_offloaded(valid, 1000);
	rx_check_header(RIG_DATA, none, 1);
}

static int ctrl_offloads(uint64_t offloads)
{
	uint8_t command[10] = {5, 0};

	memcpy(command + 2, &offloads, sizeof(offloads));
	return ctrl(command, sizeof(command));
}

Test(virtio_net, a22_the_driver_changes_what_it_takes, .fini = teardown)
{
	const uint64_t csum = BIT(VIRTIO_NET_F_GUEST_CSUM), tso4 = BIT(VIRTIO_NET_F_GUEST_TSO4);

	setup_with(FILTERED | csum | tso4 | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS), 128, MTU);
	cr_assert_eq(nic->offloads, PORT_CSUM | PORT_TSO4);
	cr_assert_eq(ctrl_offloads(csum), VIRTIO_NET_OK);
	cr_assert_eq(nic->offloads, PORT_CSUM);
	cr_assert_eq(ctrl_offloads(csum | BIT(VIRTIO_NET_F_GUEST_TSO6)), VIRTIO_NET_ERR);
	cr_assert_eq(ctrl_offloads(csum | BIT(VIRTIO_NET_F_MAC)), VIRTIO_NET_ERR);
	cr_assert_eq(ctrl_offloads(UINT64_MAX), VIRTIO_NET_ERR);
	cr_assert_eq(CTRL_BYTES(5, 0, 2, 0, 0, 0), VIRTIO_NET_ERR);
	cr_assert_eq(nic->offloads, PORT_CSUM);
	cr_assert_eq(ctrl_offloads(0), VIRTIO_NET_OK);
	cr_assert_eq(nic->offloads, 0);
	cr_assert_eq(ctrl_offloads(csum | tso4), VIRTIO_NET_OK);
	cr_assert_eq(nic->offloads, PORT_CSUM | PORT_TSO4);
	cr_assert_eq(ctrl_offloads(0), VIRTIO_NET_OK);
	rig_reset(&rig);
	cr_assert_eq(nic->offloads, PORT_CSUM | PORT_TSO4);
}

/* --- the rest ------------------------------------------------------------------------------- */

Test(virtio_net, configuration, .init = setup, .fini = teardown)
{
	struct virtio_net_config config;
	uint8_t byte;

	rig.dev->ops->config_read(rig.dev, 0, &config, rig.dev->ops->config_size);
	cr_assert_eq(memcmp(config.mac, own_mac, 6), 0);
	cr_assert_eq(config.status, VIRTIO_NET_S_LINK_UP);
	cr_assert_eq(config.max_virtqueue_pairs, 1);
	cr_assert_eq(config.mtu, MTU);
	rig.dev->ops->config_read(rig.dev, rig.dev->ops->config_size - 1, &byte, 1);
	cr_assert_eq(byte, MTU >> 8);
}

Test(virtio_net, impossible_options)
{
	static const struct virtio_net_options bad[] = {
	    {.name = "n", .mtu = 67, .queue_size = 256},
	    {.name = "n", .mtu = 65536, .queue_size = 256},
	    {.name = "n", .mtu = 1500, .queue_size = 0},
	    {.name = "n", .mtu = 1500, .queue_size = 100},
	    {.name = "n", .mtu = 1500, .queue_size = 2048},
	    {.name = "n", .mtu = 1500, .queue_size = 256, .mac = {1}},
	};

	rig_begin(&rig);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		errno = 0;
		cr_assert_null(virtio_net_create(&rig.env, &bad[i]));
		cr_assert_eq(errno, EINVAL);
	}
	virtio_net_destroy(NULL);
	rig_end(&rig);
}

/* Another vCPU rewrites descriptors, entries and indices while the device works. */
static atomic_bool flipping;

static void *flipper(void *arg)
{
	struct ring_driver *drv = arg;
	uint32_t seed = 1;

	while (atomic_load(&flipping)) {
		uint16_t index, entry, flags;

		seed = seed * 1664525 + 1013904223;
		index = (seed >> 16) % drv->size;
		entry = (seed >> 9) % (drv->size + (seed >> 27 == 0));
		flags = seed >> 28 & (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
		ring_driver_write(&drv->desc[index], RIG_DATA + (seed >> 8) % 65536,
				  (seed >> 4) % 2048, flags, entry);
		__atomic_store_n(&drv->avail->ring[(seed >> 12) % drv->size], entry,
				 __ATOMIC_RELAXED);
		if (seed >> 22 == 0)
			__atomic_store_n(&drv->avail->idx, seed, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void flip_queue(unsigned queue)
{
	struct ring_driver *drv = &rig.rings[queue];
	uint64_t *served = &rig.dev->queues[queue].requests;
	pthread_t thread;

	atomic_store(&flipping, true);
	cr_assert_eq(pthread_create(&thread, NULL, flipper, drv), 0);
	for (unsigned i = 0; i < 2000 || *served < 1000 || rig.dev->broken_count < 100; i++) {
		__atomic_store_n(&drv->avail->idx, drv->size, __ATOMIC_RELAXED);
		virtio_ready(rig.dev, queue);
		rx_send(own_mac, 1000, 4);
		rig_turns(&rig, i % 8 == 0);
		virtio_stop(rig.dev);
		virtio_start(rig.dev);
	}
	atomic_store(&flipping, false);
	pthread_join(thread, NULL);
}

Test(virtio_net, a16_transmit_ring_flipped_while_read, .init = setup_mergeable, .fini = teardown,
     .timeout = 300)
{
	flip_queue(TX);
}

Test(virtio_net, a16_receive_ring_flipped_while_read, .init = setup_mergeable, .fini = teardown,
     .timeout = 300)
{
	flip_queue(RX);
}
