/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A NIC with several pairs of queues: which are there, what comes by which, who drives them. */
#include <criterion/criterion.h>

#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "tests/unit/device_rig.h"
#include "vnet/core.h"

#define PAIRS	 4u
#define RX(pair) (2u * (pair))
#define TX(pair) (2u * (pair) + 1)
#define CTRL	 (2u * PAIRS)
#define HDR	 12u
#define FRAME	 100u
#define RING	 64u
#define BIT(n)	 (1ull << (n))
#define MULTI	 (BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_MQ))

#define COMMAND (RIG_DATA + 0x10000)
#define ANSWER	(RIG_DATA + 0x10100)
#define BUFFERS (RIG_DATA + 0x20000)

static struct device_rig rig;
static struct core *core;
static struct port *nic, peer;
static unsigned sent; /* frames that reached the peer */

static void peer_send(struct port *port, struct frame *const frames[], unsigned n)
{
	(void)port, (void)frames;
	sent += n;
}

static void peer_close(struct port *port)
{
	(void)port;
}

static const struct port_ops peer_ops = {
    .type = "peer", .send_batch = peer_send, .close = peer_close};

static void begin(unsigned pairs, const struct mode_rules *rules, enum net_irq irq,
		  uint64_t features)
{
	struct virtio_net_options opt = {.name = "nic0",
					 .mac = {0x52, 0x54, 0, 1, 2, 3},
					 .mtu = 1500,
					 .queue_size = 256,
					 .pairs = pairs,
					 .mode = *rules,
					 .irq = irq};

	rig_begin(&rig);
	rig.dev = virtio_net_create(&rig.env, &opt);
	cr_assert_not_null(rig.dev);
	nic = virtio_net_port(rig.dev);
	peer = (struct port){.ops = &peer_ops, .kind = PORT_LINK, .name = "peer"};
	sent = 0;
	core = core_create(NULL);
	cr_assert_eq(core_attach(core, nic), 0);
	cr_assert_eq(core_attach(core, &peer), 0);
	rig_start(&rig, features, RING);
}

static void end(void)
{
	virtio_stop(rig.dev);
	virtio_net_destroy(rig.dev);
	core_destroy(core);
	rig_end(&rig);
}

static const struct mode_rules guest = {.policy = MODE_GUEST};
static const struct mode_rules vmm = {.policy = MODE_VMM};
/* VMM-driven with the first frame, and never back. */
static const struct mode_rules eager = {.policy = MODE_AUTO, .up = 1, .window_ns = 1000000000};

static void setup(void)
{
	begin(PAIRS, &guest, NET_IRQ_BATCH, MULTI);
}

static void setup_vmm(void)
{
	begin(PAIRS, &vmm, NET_IRQ_BATCH, MULTI);
}

static void setup_eager(void)
{
	begin(PAIRS, &eager, NET_IRQ_BATCH, MULTI);
}

static int ctrl_on(unsigned queue, const void *command, uint32_t len)
{
	uint8_t *answer = rig_host(&rig, ANSWER);

	memcpy(rig_host(&rig, COMMAND), command, len);
	*answer = 0xaa;
	rig_send(&rig, queue, (struct ring_buffer[]){{COMMAND, len, false}, {ANSWER, 1, true}}, 2);
	return rig_used(&rig, queue) == 1 ? *answer : -1;
}

static int pairs_set(unsigned count)
{
	return ctrl_on(CTRL, (uint8_t[]){VIRTIO_NET_CTRL_MQ, 0, count & 0xff, count >> 8}, 4);
}

static unsigned pairs_configured(void)
{
	uint16_t pairs;

	rig.dev->ops->config_read(rig.dev, offsetof(struct virtio_net_config, max_virtqueue_pairs),
				  &pairs, sizeof(pairs));
	return pairs;
}

/* --- frames --------------------------------------------------------------------------------- */

enum protocol { TCP = 6, UDP = 17, ICMP = 1 };

/* A packet between guest and peer, each with a port. */
struct flow {
	enum protocol protocol;
	uint16_t guest, peer;
	bool ipv6, tagged, fragment;
	uint8_t pieces; /* segments the frame is in; 0: one */
};

#define FLOW_INIT(PROTOCOL, GUEST, PEER, ...)                                                      \
	{                                                                                          \
		.protocol = PROTOCOL, .guest = GUEST, .peer = PEER, __VA_ARGS__                    \
	}
#define FLOW(...) ((struct flow)FLOW_INIT(__VA_ARGS__))

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void lay_ip(uint8_t *ip, const struct flow *flow, bool to_guest)
{
	unsigned size = flow->ipv6 ? 16 : 4;
	uint8_t *source = ip + (flow->ipv6 ? 8 : 12), *ports = ip + (flow->ipv6 ? 40 : 20);

	ip[0] = flow->ipv6 ? 0x60 : 0x45;
	ip[flow->ipv6 ? 6 : 9] = (uint8_t)flow->protocol;
	if (flow->fragment)
		ip[6] = 0x20; /* IPv4: more of them follow */
	source[size - 1] = to_guest ? 2 : 1;
	source[2 * size - 1] = to_guest ? 1 : 2;
	put16(ports, to_guest ? flow->peer : flow->guest);
	put16(ports + 2, to_guest ? flow->guest : flow->peer);
}

static void lay_frame(uint8_t *at, const struct flow *flow, bool to_guest)
{
	uint8_t *type = at + 12;

	memset(at, 0, FRAME);
	memcpy(at, (uint8_t[]){0x52, 0x54, 0, 9, 9, 9, 0x52, 0x54, 0, 1, 2, 3}, 12);
	if (to_guest)
		memcpy(at, (uint8_t[]){0x52, 0x54, 0, 1, 2, 3, 0x52, 0x54, 0, 9, 9, 9}, 12);
	if (flow->tagged) {
		put16(type, 0x8100);
		type += 4;
	}
	put16(type, flow->ipv6 ? 0x86dd : 0x0800);
	lay_ip(type + 2, flow, to_guest);
}

static void guest_sends(unsigned pair, const struct flow *flow)
{
	uint8_t *at = rig_host(&rig, RIG_DATA);

	memset(at, 0, HDR);
	lay_frame(at + HDR, flow, false);
	rig_send(&rig, TX(pair), (struct ring_buffer[]){{RIG_DATA, HDR + FRAME, false}}, 1);
	cr_assert_eq(rig_used(&rig, TX(pair)), 0);
}

static void frames_come(const struct flow *flows, unsigned n)
{
	static uint8_t bytes[FRAME_BATCH_MAX][FRAME];
	static struct iovec iov[FRAME_BATCH_MAX][2];
	static struct frame frames[FRAME_BATCH_MAX];
	struct frame *list[FRAME_BATCH_MAX];

	for (unsigned i = 0; i < n; i++) {
		unsigned first = flows[i].pieces ? flows[i].pieces : FRAME;

		lay_frame(bytes[i], &flows[i], true);
		iov[i][0] = (struct iovec){bytes[i], first};
		iov[i][1] = (struct iovec){bytes[i] + first, FRAME - first};
		frames[i] =
		    (struct frame){.iov = iov[i], .iovcnt = first < FRAME ? 2 : 1, .len = FRAME};
		memcpy(frames[i].eth, bytes[i], FRAME_HEADER);
		list[i] = &frames[i];
	}
	core_input(core, &peer, list, n);
}

static void post(unsigned pair, unsigned n)
{
	while (n--)
		cr_assert(
		    rig_add(&rig, RX(pair), (struct ring_buffer[]){{BUFFERS, 2048, true}}, 1));
}

static void post_all(void)
{
	for (unsigned pair = 0; pair < PAIRS; pair++)
		post(pair, RING);
}

/* Frames that have come by a pair since this was last asked; their buffers are posted again. */
static unsigned came(unsigned pair)
{
	unsigned n = 0;

	while (rig_used(&rig, RX(pair)) >= 0)
		n++;
	post(pair, n);
	return n;
}

/* Let one frame of a flow come. Returns the pair by which it did. */
static unsigned pair_of(struct flow flow)
{
	unsigned by = PAIRS;

	frames_come(&flow, 1);
	for (unsigned pair = 0; pair < PAIRS; pair++) {
		unsigned n = came(pair);

		cr_assert(n <= 1 && (!n || by == PAIRS));
		by = n ? pair : by;
	}
	return by;
}

/* --- negotiation ---------------------------------------------------------------------------- */

Test(net_queues, one_pair_and_many)
{
	struct virtio_net_options opt = {.name = "nic0", .mtu = 1500, .queue_size = 256};

	rig_begin(&rig);
	for (opt.pairs = 0; opt.pairs < 2; opt.pairs++) {
		rig.dev = virtio_net_create(&rig.env, &opt);
		cr_assert_not(rig.dev->features_offered & BIT(VIRTIO_NET_F_MQ));
		cr_assert_eq(rig.dev->queue_count, 3);
		cr_assert_eq(pairs_configured(), 1);
		virtio_net_destroy(rig.dev);
	}
	opt.pairs = PORT_PAIRS_MAX;
	rig.dev = virtio_net_create(&rig.env, &opt);
	cr_assert_eq(rig.dev->queue_count, 2 * PORT_PAIRS_MAX + 1);
	cr_assert_leq(rig.dev->queue_count, VIRTIO_QUEUES_MAX);
	virtio_net_destroy(rig.dev);
	opt.pairs = PORT_PAIRS_MAX + 1;
	cr_assert_null(virtio_net_create(&rig.env, &opt));
	rig_end(&rig);
}

Test(net_queues, several_pairs_are_offered, .init = setup, .fini = end)
{
	cr_assert(rig.dev->features_offered & BIT(VIRTIO_NET_F_MQ));
	cr_assert_eq(rig.dev->queue_count, 2 * PAIRS + 1);
	cr_assert_eq(pairs_configured(), PAIRS);
	cr_assert_eq(nic->pairs_active, 1);
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	cr_assert_eq(nic->pairs_active, PAIRS);
	cr_assert_eq(pairs_set(1), VIRTIO_NET_OK);
	cr_assert_eq(nic->pairs_active, 1);
}

/* virtio 1.2, 5.1.2: then the control queue is the third. */
Test(net_queues, a_driver_that_takes_one_pair, .init = setup, .fini = end)
{
	virtio_stop(rig.dev);
	rig_start(&rig, BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX), RING);
	cr_assert(rig.rings[RX(0)].used->flags & VRING_USED_F_NO_NOTIFY);
	cr_assert_not(rig.rings[2].used->flags & VRING_USED_F_NO_NOTIFY, "its doorbell is heard");
	cr_assert_eq(ctrl_on(2, (uint8_t[]){0, 0, 1}, 3), VIRTIO_NET_OK);
	cr_assert_eq(ctrl_on(2, (uint8_t[]){VIRTIO_NET_CTRL_MQ, 0, 2, 0}, 4), VIRTIO_NET_ERR);
	cr_assert_eq(ctrl_on(CTRL, (uint8_t[]){0, 0, 1}, 3), -1);
	rig_send(&rig, TX(1), (struct ring_buffer[]){{RIG_DATA, HDR + FRAME, false}}, 1);
	rig_turns(&rig, 3);
	cr_assert_eq(sent, 0);
	cr_assert_eq(rig_used(&rig, TX(1)), -1);
	guest_sends(0, &FLOW(UDP, 1, 2));
	cr_assert_eq(sent, 1);
	cr_assert_null(rig.dev->broken);
}

Test(net_queues, numbers_that_are_refused, .init = setup, .fini = end)
{
	static const unsigned numbers[] = {0, PAIRS + 1, 0x8000, 0x8001, 0xffff};

	cr_assert_eq(pairs_set(2), VIRTIO_NET_OK);
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		cr_assert_eq(pairs_set(numbers[i]), VIRTIO_NET_ERR, "%u", numbers[i]);
	cr_assert_eq(ctrl_on(CTRL, (uint8_t[]){VIRTIO_NET_CTRL_MQ, 0, 3}, 3), VIRTIO_NET_ERR);
	cr_assert_eq(ctrl_on(CTRL, (uint8_t[]){VIRTIO_NET_CTRL_MQ, 0, 3, 0, 0}, 5), VIRTIO_NET_ERR);
	cr_assert_eq(ctrl_on(CTRL, (uint8_t[]){VIRTIO_NET_CTRL_MQ, 1, 3, 0}, 4), VIRTIO_NET_ERR);
	cr_assert_eq(nic->pairs_active, 2);
	cr_assert_null(rig.dev->broken);
}

Test(net_queues, a_reset_goes_back_to_one_pair, .init = setup, .fini = end)
{
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	guest_sends(3, &FLOW(UDP, 1, 2));
	rig_reset(&rig);
	cr_assert_eq(nic->pairs_active, 1);
	post_all();
	cr_assert_eq(pair_of(FLOW(UDP, 1, 2)), 0);
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	guest_sends(2, &FLOW(UDP, 1, 2));
	cr_assert_eq(pair_of(FLOW(UDP, 1, 2)), 2);
}

/* --- steering ------------------------------------------------------------------------------- */

Test(net_queues, a_flow_comes_by_the_pair_it_was_sent_from, .init = setup, .fini = end)
{
	static const struct flow flows[] = {
	    FLOW_INIT(TCP, 1000, 80),
	    FLOW_INIT(UDP, 1000, 80),
	    FLOW_INIT(TCP, 80, 1000, .pieces = 14),
	    FLOW_INIT(UDP, 53, 53, .ipv6 = true),
	    FLOW_INIT(TCP, 53, 54, .ipv6 = true, .pieces = 40),
	    FLOW_INIT(TCP, 7, 8, .tagged = true),
	    FLOW_INIT(UDP, 7, 8, .ipv6 = true, .tagged = true),
	    FLOW_INIT(ICMP, 0, 0),
	    FLOW_INIT(ICMP, 0, 0, .ipv6 = true),
	};

	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	post_all();
	for (unsigned pair = 0; pair < PAIRS; pair++) {
		for (unsigned i = 0; i < sizeof(flows) / sizeof(flows[0]); i++) {
			guest_sends(pair, &flows[i]);
			cr_assert_eq(pair_of(flows[i]), pair, "flow %u", i);
		}
	}
	cr_assert_eq(nic->counters.drops[DROP_RING_FULL], 0);
}

/* The first fragment has ports, and what follows has none. */
Test(net_queues, fragments_stay_together, .init = setup, .fini = end)
{
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	post_all();
	for (unsigned pair = 0; pair < PAIRS; pair++) {
		guest_sends(pair, &FLOW(UDP, 1, 2, .fragment = true));
		cr_assert_eq(pair_of(FLOW(UDP, 3, 4, .fragment = true)), pair);
	}
}

/* All of 1024 flows at one of four pairs, or none at one, would be a wonder (10^-127). */
Test(net_queues, unknown_flows_are_spread, .init = setup, .fini = end)
{
	unsigned at[PAIRS] = {0};

	cr_assert_eq(pairs_set(PAIRS - 1), VIRTIO_NET_OK);
	post_all();
	for (unsigned i = 0; i < 1024; i++) {
		struct flow flow = FLOW_INIT(TCP, 80, (uint16_t)(10000 + i), .ipv6 = i % 2);
		unsigned pair = pair_of(flow);

		cr_assert_lt(pair, PAIRS);
		cr_assert_eq(pair_of(flow), pair, "it stays where it is");
		at[pair]++;
	}
	cr_assert(at[0] && at[1] && at[2]);
	cr_assert_eq(at[3], 0, "it is not in use");
}

/* Even if the guest sends them from another. */
Test(net_queues, what_is_not_ip_comes_by_the_first, .init = setup, .fini = end)
{
	uint8_t arp[FRAME] = {0x52, 0x54, 0, 1, 2, 3, 0x52, 0x54, 0, 9, 9, 9, 8, 6};
	const struct iovec iov = {arp, FRAME};
	struct frame frame = {.iov = &iov, .iovcnt = 1, .len = FRAME};
	struct frame *list = &frame;

	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	post_all();
	memcpy(rig_host(&rig, RIG_DATA + HDR), arp, FRAME);
	memset(rig_host(&rig, RIG_DATA), 0, HDR);
	rig_send(&rig, TX(2), (struct ring_buffer[]){{RIG_DATA, HDR + FRAME, false}}, 1);
	memcpy(frame.eth, arp, FRAME_HEADER);
	core_input(core, &peer, &list, 1);
	cr_assert_eq(came(0), 1);
}

/* Headers that end early or say nonsense are hashed as they are; every length is tried. */
Test(net_queues, headers_cut_off, .init = setup, .fini = end)
{
	static const struct flow flows[] = {FLOW_INIT(TCP, 1, 2, .tagged = true),
					    FLOW_INIT(TCP, 1, 2, .ipv6 = true, .tagged = true)};
	uint8_t bytes[FRAME];
	struct frame frame, *list = &frame;
	struct iovec iov;

	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	for (unsigned i = 0; i < 2; i++) {
		lay_frame(bytes, &flows[i], true);
		for (unsigned len = FRAME_HEADER; len < FRAME; len++) {
			uint8_t exact[FRAME]; /* of that length for a sanitizer */

			bytes[18] |= 0x0f; /* IPv4 with all options */
			memcpy(exact + FRAME - len, bytes, len);
			iov = (struct iovec){exact + FRAME - len, len};
			frame = (struct frame){.iov = &iov, .iovcnt = 1, .len = len};
			memcpy(frame.eth, bytes, FRAME_HEADER);
			post_all();
			core_input(core, &peer, &list, 1);
			cr_assert_eq(came(0) + came(1) + came(2) + came(3), 1);
			rig_reset(&rig);
			cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
		}
	}
}

/* --- queues that a driver should not use, or should --------------------------------------------
 */

Test(net_queues, a_pair_without_buffers_drops, .init = setup, .fini = end)
{
	const struct flow flow = FLOW_INIT(TCP, 1, 2);

	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	post(0, RING);
	guest_sends(2, &flow);
	frames_come(&flow, 1);
	cr_assert_eq(nic->counters.drops[DROP_RING_FULL], 1);
	cr_assert_eq(came(0), 0);
	post(2, 1);
	cr_assert_eq(pair_of(flow), 2);
}

Test(net_queues, a_pair_whose_queues_are_not_ready_drops, .init = setup, .fini = end)
{
	virtio_stop(rig.dev);
	ring_device_begin(rig.dev, &rig.irqs, MULTI);
	for (unsigned i = 0; i < rig.dev->queue_count; i++) {
		ring_driver_init(&rig.rings[i], &rig.mem, rig.rings[i].desc_gpa, RING, false);
		if (i != RX(1) && i != TX(1))
			ring_driver_attach(&rig.rings[i], rig.dev, i);
	}
	virtio_start(rig.dev);
	cr_assert_eq(pairs_set(2), VIRTIO_NET_OK);
	post(0, RING);
	for (unsigned i = 0; i < 64; i++)
		frames_come(&FLOW(UDP, 1, (uint16_t)i), 1);
	cr_assert_eq(came(0) + nic->counters.drops[DROP_RING_FULL], 64);
	cr_assert_gt(nic->counters.drops[DROP_RING_FULL], 0);
	virtio_ready(rig.dev, TX(1));
	cr_assert_null(rig.dev->broken);
}

/* A driver that goes down to fewer pairs has frames on their way by the others. */
Test(net_queues, a_pair_out_of_use_still_sends, .init = setup, .fini = end)
{
	const struct flow flow = FLOW_INIT(TCP, 1, 2);

	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	post_all();
	guest_sends(3, &FLOW(TCP, 3, 4));
	guest_sends(1, &flow);
	cr_assert_eq(pairs_set(2), VIRTIO_NET_OK);
	guest_sends(3, &flow);
	cr_assert_eq(sent, 3);
	cr_assert_eq(pair_of(flow), 1, "no frame comes by the other");
	cr_assert_lt(pair_of(FLOW(TCP, 3, 4)), 2);
}

Test(net_queues, a_ring_that_is_broken_breaks_the_card, .init = setup, .fini = end)
{
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	ring_driver_set_index(&rig.rings[TX(3)], RING + 1);
	virtio_ready(rig.dev, TX(3));
	cr_assert_not_null(rig.dev->broken);
	frames_come(&FLOW(TCP, 1, 2), 1);
	cr_assert_eq(nic->counters.drops[DROP_RING_FULL], 1);
	rig_reset(&rig);
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	guest_sends(3, &FLOW(TCP, 1, 2));
	cr_assert_eq(sent, 1);
}

/* --- interrupts ----------------------------------------------------------------------------- */

/* A flow for each pair: not one that was sent, for of these one may take the place of another. */
static void flows_find(struct flow flows[PAIRS])
{
	unsigned found = 0;

	for (uint16_t port = 1; port && found != (1u << PAIRS) - 1; port++) {
		const struct flow flow = FLOW_INIT(UDP, 1, port);
		unsigned pair = pair_of(flow);

		flows[pair] = flow;
		found |= 1u << pair;
	}
	cr_assert_eq(found, (1u << PAIRS) - 1);
	memset(&rig.irqs, 0, sizeof(rig.irqs));
}

/* A batch for all pairs, the flows mixed. */
static void batch_comes(void)
{
	struct flow flows[PAIRS], batch[FRAME_BATCH_MAX];

	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	post_all();
	flows_find(flows);
	for (unsigned i = 0; i < FRAME_BATCH_MAX; i++)
		batch[i] = flows[i % PAIRS];
	frames_come(batch, FRAME_BATCH_MAX);
}

Test(net_queues, one_interrupt_a_batch_and_pair, .init = setup, .fini = end)
{
	uint64_t batches;

	batch_comes();
	batches = nic->counters.batches;
	for (unsigned pair = 0; pair < PAIRS; pair++) {
		cr_assert_eq(came(pair), FRAME_BATCH_MAX / PAIRS);
		cr_assert_eq(fake_irq_count(&rig.irqs, 1 + RX(pair)), 1);
	}
	frames_come(&FLOW(UDP, 1, 1), 1);
	cr_assert_eq(nic->counters.batches, batches + 1);
	guest_sends(2, &FLOW(UDP, 1, 1));
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + TX(2)), 1);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + TX(1)), 0);
}

static void setup_early(void)
{
	begin(PAIRS, &guest, NET_IRQ_EARLY, MULTI);
}

Test(net_queues, and_one_before_its_time, .init = setup_early, .fini = end)
{
	uint64_t early;

	batch_comes();
	for (unsigned pair = 0; pair < PAIRS; pair++)
		cr_assert_eq(fake_irq_count(&rig.irqs, 1 + RX(pair)), 2);
	early = rig.dev->queues[RX(1)].early;
	guest_sends(1, &FLOW(UDP, 1, 1));
	frames_come(&FLOW(UDP, 1, 1), 1);
	cr_assert_eq(rig.dev->queues[RX(1)].early, early + 1);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + RX(1)), 4);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + RX(0)), 2);
}

/* --- modes ---------------------------------------------------------------------------------- */

/* Add a frame without ringing. Returns whether the device wants the doorbell rung. */
static bool tx_add(unsigned pair)
{
	cr_assert_geq(ring_driver_add(&rig.rings[TX(pair)],
				      (struct ring_buffer[]){{RIG_DATA, HDR + FRAME, false}}, 1),
		      0);
	return ring_driver_expose(&rig.rings[TX(pair)]);
}

Test(net_queues, each_pair_is_driven_for_itself, .init = setup_eager, .fini = end)
{
	const struct flow flow = FLOW_INIT(UDP, 1, 2);

	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	post_all();
	guest_sends(2, &flow);
	cr_assert_eq(port_mode(nic, 2, PORT_TX)->mode, MODE_VMM);
	frames_come(&flow, 1);
	cr_assert_eq(port_mode(nic, 2, PORT_RX)->mode, MODE_VMM);
	for (unsigned pair = 0; pair < PAIRS; pair++)
		for (enum port_direction d = 0; d < PORT_DIRECTIONS; d++)
			cr_assert_eq(port_mode(nic, pair, d)->mode,
				     pair == 2 ? MODE_VMM : MODE_GUEST);
	rig_turns(&rig, 1);
	cr_assert_not(tx_add(2), "it is polled");
	cr_assert(tx_add(1), "it is not");
	rig_turns(&rig, 1);
	cr_assert_eq(sent, 2);
	cr_assert_eq(rig_used(&rig, TX(1)), -1);
}

Test(net_queues, vmm_driven_pairs_need_no_doorbell, .init = setup_vmm, .fini = end)
{
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	for (unsigned pair = 0; pair < PAIRS; pair++)
		tx_add(pair);
	rig_turns(&rig, 1);
	cr_assert_eq(sent, PAIRS);
	for (unsigned pair = 0; pair < PAIRS; pair++)
		cr_assert_not(tx_add(pair), "not wanted: the loop has not slept");
	rig_turns(&rig, 1);
	cr_assert_eq(sent, 2 * PAIRS);
}

/* A pair out of use is not polled, and so its doorbell has to be on again. */
Test(net_queues, a_pair_out_of_use_rings, .init = setup_vmm, .fini = end)
{
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	tx_add(3);
	rig_turns(&rig, 1);
	cr_assert_not(tx_add(3));
	cr_assert_eq(pairs_set(3), VIRTIO_NET_OK);
	rig_turns(&rig, 2);
	cr_assert_eq(sent, 2, "what was there when it went out of use is sent");
	cr_assert(tx_add(3), "the doorbell is on");
	virtio_ready(rig.dev, TX(3));
	cr_assert_eq(sent, 3);
	cr_assert_eq(pairs_set(4), VIRTIO_NET_OK);
	tx_add(3);
	rig_turns(&rig, 1);
	cr_assert_eq(sent, 4, "polled again");
}

Test(net_queues, a_reset_ends_all_polling, .init = setup_vmm, .fini = end)
{
	cr_assert_eq(pairs_set(PAIRS), VIRTIO_NET_OK);
	for (unsigned pair = 0; pair < PAIRS; pair++)
		tx_add(pair);
	virtio_stop(rig.dev);
	rig_turns(&rig, 3);
	cr_assert_eq(sent, 0);
	rig_start(&rig, MULTI, RING);
	tx_add(0);
	cr_assert(tx_add(3), "out of use: it rings");
	rig_turns(&rig, 1);
	cr_assert_eq(sent, 1);
}
