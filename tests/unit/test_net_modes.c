/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A NIC that its guest drives, or the loop: doorbells, interrupts, and that no request is left
 * behind. */
#include <criterion/criterion.h>

#include <linux/virtio_ring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/unit/device_rig.h"
#include "vnet/core.h"

#define RX	  0
#define TX	  1
#define HDR	  12u
#define FRAME	  60u
#define RING	  16u
#define TURNS_MAX 100000u /* more than are needed */
#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)

static struct device_rig rig;
static struct core *core;
static struct port *nic, peer;
static unsigned sent; /* frames that reached the peer */
static bool peer_is_full;
static uint64_t coalesce_ns;

static void peer_send(struct port *port, struct frame *const frames[], unsigned n)
{
	(void)port, (void)frames;
	sent += n;
}

static bool peer_full(struct port *port)
{
	(void)port;
	return peer_is_full;
}

static void peer_close(struct port *port)
{
	(void)port;
}

static const struct port_ops peer_ops = {
    .type = "peer", .send_batch = peer_send, .full = peer_full, .close = peer_close};

static void begin(const struct mode_rules *rules, uint64_t features, enum net_irq irq)
{
	struct virtio_net_options opt = {.name = "nic0",
					 .mac = {0x52, 0x54, 0, 1, 2, 3},
					 .mtu = 1500,
					 .queue_size = 256,
					 .mode = *rules,
					 .irq = irq};

	opt.coalesce_ns = coalesce_ns;
	rig_begin(&rig);
	rig.dev = virtio_net_create(&rig.env, &opt);
	cr_assert_not_null(rig.dev);
	nic = virtio_net_port(rig.dev);
	peer = (struct port){.ops = &peer_ops, .kind = PORT_LINK, .name = "peer"};
	sent = 0;
	peer_is_full = false;
	core = core_create(NULL);
	cr_assert_eq(core_attach(core, nic), 0);
	cr_assert_eq(core_attach(core, &peer), 0);
	memset(rig_host(&rig, RIG_DATA), 0, HDR + FRAME);
	rig_start(&rig, features, RING);
}

static void end(void)
{
	virtio_stop(rig.dev);
	virtio_net_destroy(rig.dev);
	core_destroy(core);
	rig_end(&rig);
}

static const struct mode_rules vmm = {.policy = MODE_VMM};
static const struct mode_rules guest = {.policy = MODE_GUEST};
/* Up with the first frame, and never down: VMM-driven, but without the patience of the fixed mode.
 */
static const struct mode_rules eager = {.policy = MODE_AUTO, .up = 1, .window_ns = 1000000000};

static void begin_vmm(void)
{
	begin(&vmm, 0, NET_IRQ_BATCH);
}

static void begin_guest(void)
{
	begin(&guest, 0, NET_IRQ_BATCH);
}

static void begin_eager(void)
{
	begin(&eager, 0, NET_IRQ_BATCH);
}

/* Add a frame without ringing. Returns whether the device wants the doorbell rung. */
static bool tx_add(void)
{
	const struct ring_buffer buffer = {RIG_DATA, HDR + FRAME, false};

	cr_assert(ring_driver_add(&rig.rings[TX], &buffer, 1) >= 0);
	return ring_driver_expose(&rig.rings[TX]);
}

static void tx_used(unsigned n)
{
	while (n--)
		cr_assert_eq(rig_used(&rig, TX), 0);
	cr_assert_eq(rig_used(&rig, TX), -1);
}

static struct mode_switch *tx_mode(void)
{
	return &nic->modes[PORT_TX];
}

/* Turn until the loop would have slept. */
static void turn_to_rest(void)
{
	uint64_t sleeps = loop_counters(rig.loop)->sleeps;

	for (unsigned i = 0; i < TURNS_MAX && loop_counters(rig.loop)->sleeps == sleeps; i++)
		rig_turns(&rig, 1);
	cr_assert_neq(loop_counters(rig.loop)->sleeps, sleeps);
}

Test(net_modes, guest_driven_waits_for_the_doorbell, .init = begin_guest, .fini = end)
{
	cr_assert(tx_add());
	rig_turns(&rig, 3);
	cr_assert_eq(sent, 0);
	virtio_ready(rig.dev, TX);
	cr_assert_eq(sent, 1);
	tx_used(1);
	cr_assert(tx_add());
	cr_assert_eq(tx_mode()->frames[MODE_GUEST], 1);
}

Test(net_modes, vmm_driven_needs_none, .init = begin_vmm, .fini = end)
{
	tx_add();
	for (unsigned i = 1; i < 100; i++) {
		rig_turns(&rig, 1);
		cr_assert_eq(sent, i);
		tx_used(1);
		cr_assert_not(tx_add(), "not wanted: the loop has not slept");
	}
	cr_assert_eq(rig.dev->queues[TX].doorbells, 0);
	cr_assert_eq(tx_mode()->frames[MODE_VMM], 99);
}

Test(net_modes, vmm_driven_rests_with_doorbells_on, .init = begin_eager, .fini = end)
{
	cr_assert(tx_add());
	virtio_ready(rig.dev, TX);
	cr_assert_eq(tx_mode()->mode, MODE_VMM);
	tx_used(1);
	for (unsigned i = 0; i < 10; i++) {
		turn_to_rest();
		cr_assert(tx_add(), "the loop sleeps");
		rig_turns(&rig, 1); /* as the doorbell would wake it */
		cr_assert_not(tx_add(), "it is awake");
		rig_turns(&rig, 1);
		tx_used(2);
	}
	cr_assert_eq(sent, 21);
}

Test(net_modes, back_to_guest_driven_the_ring_is_looked_at_again, .init = begin_vmm, .fini = end)
{
	rig_turns(&rig, 1);
	tx_add();
	rig_turns(&rig, 1);
	cr_assert_not(tx_add(), "polled: no kick");
	mode_choose(tx_mode(), MODE_GUEST, loop_now());
	rig_turns(&rig, 1);
	cr_assert_eq(sent, 2);
	tx_used(2);
	cr_assert(tx_add(), "doorbells are on");
	rig_turns(&rig, 3);
	cr_assert_eq(sent, 2);
	virtio_ready(rig.dev, TX);
	cr_assert_eq(sent, 3);
}

Test(net_modes, a_reset_ends_polling_and_a_start_resumes_it, .init = begin_vmm, .fini = end)
{
	tx_add();
	virtio_stop(rig.dev);
	rig_turns(&rig, 3);
	cr_assert_eq(sent, 0);
	rig_reset(&rig);
	tx_add();
	rig_turns(&rig, 1);
	cr_assert_eq(sent, 1);
	mode_choose(tx_mode(), MODE_GUEST, loop_now());
	virtio_stop(rig.dev); /* forgets the visit that the switch asked for */
	mode_choose(tx_mode(), MODE_VMM, loop_now());
	rig_turns(&rig, 3);
	rig_reset(&rig);
	tx_add();
	rig_turns(&rig, 1);
	cr_assert_eq(sent, 2);
}

Test(net_modes, a_broken_ring_ends_it_too, .init = begin_eager, .fini = end)
{
	tx_add();
	virtio_ready(rig.dev, TX);
	ring_driver_offer(&rig.rings[TX], RING); /* no such descriptor */
	ring_driver_expose(&rig.rings[TX]);
	rig_turns(&rig, 1);
	cr_assert_not_null(rig.dev->broken);
	turn_to_rest();
	cr_assert_eq(sent, 1);
}

/* --- receive -------------------------------------------------------------------------------- */

static void rx_post(unsigned n)
{
	while (n--)
		cr_assert(rig_add(
		    &rig, RX, (struct ring_buffer[]){{RIG_DATA + 4096 + n * 2048, 2048, true}}, 1));
}

static void rx_send(unsigned n)
{
	uint8_t bytes[FRAME] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 9, 9, 9};
	struct iovec iov = {bytes, sizeof(bytes)};
	struct frame frame = {.iov = &iov, .iovcnt = 1, .len = sizeof(bytes)};
	struct frame *frames[8];

	memcpy(frame.eth, bytes, FRAME_HEADER);
	for (unsigned i = 0; i < n; i++)
		frames[i] = &frame;
	core_input(core, &peer, frames, n);
}

Test(net_modes, receiving_is_switched_by_itself, .init = begin_eager, .fini = end)
{
	rx_post(4);
	rx_send(4);
	cr_assert_eq(nic->modes[PORT_RX].mode, MODE_VMM);
	cr_assert_eq(nic->modes[PORT_TX].mode, MODE_GUEST);
	cr_assert_eq(nic->modes[PORT_RX].frames[MODE_GUEST], 4);
	cr_assert_eq(nic->counters.copied_bytes, 4 * FRAME, "one copy");
	turn_to_rest();
	cr_assert(tx_add(), "the transmit queue is still the guest's");
}

static void batch_interrupts(enum net_irq irq, uint64_t features, unsigned early)
{
	begin(&guest, features, irq);
	rx_post(8);
	ring_driver_interrupts(&rig.rings[RX], true, 0);
	rx_send(4);
	cr_assert_eq(fake_irq_count(&rig.irqs, RX + 1), 1 + early, "one a batch");
	cr_assert_eq(rig.dev->queues[RX].interrupts, 1 + early);
	cr_assert_eq(rig.dev->queues[RX].early, early);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(rig_used(&rig, RX), HDR + FRAME);
	ring_driver_interrupts(&rig.rings[RX], false, 0);
	rx_send(4);
	cr_assert_eq(fake_irq_count(&rig.irqs, RX + 1), 1 + early, "none that is not wanted");
	ring_driver_interrupts(&rig.rings[RX], true, 0);
	rx_send(1); /* no buffer is left */
	cr_assert_eq(rig.dev->queues[RX].interrupts, 1 + early + (features ? 0 : early));
	end();
}

Test(net_modes, one_interrupt_a_batch)
{
	batch_interrupts(NET_IRQ_BATCH, 0, 0);
	batch_interrupts(NET_IRQ_BATCH, EVENT_IDX, 0);
}

Test(net_modes, and_one_before_its_time)
{
	batch_interrupts(NET_IRQ_EARLY, 0, 1);
	batch_interrupts(NET_IRQ_EARLY, EVENT_IDX, 1);
}

/* --- interrupts that wait ------------------------------------------------------------------- */

#define NEVER_NS (3600ull * 1000000000)

static void begin_coalescing(uint64_t ns)
{
	coalesce_ns = ns;
	begin(&guest, EVENT_IDX, NET_IRQ_BATCH);
	coalesce_ns = 0;
	ring_driver_interrupts(&rig.rings[TX], true, 0);
}

/* Send @n frames, one visit each. Returns the interrupts of the queue up to then. */
static uint64_t tx_interrupts_after(unsigned n)
{
	while (n--) {
		tx_add();
		virtio_ready(rig.dev, TX);
	}
	return rig.dev->queues[TX].interrupts;
}

Test(net_modes, frames_that_left_are_shown_at_once_and_told_at_half_a_ring)
{
	begin_coalescing(NEVER_NS);
	cr_assert_eq(tx_interrupts_after(RING / 2 - 1), 0);
	tx_used(RING / 2 - 1);
	cr_assert_eq(tx_interrupts_after(1), 1);
	tx_used(1);
	end();
}

Test(net_modes, or_when_the_time_is_over)
{
	begin_coalescing(1);
	cr_assert_eq(tx_interrupts_after(1), 0);
	for (unsigned i = 0; i < TURNS_MAX && !rig.dev->queues[TX].interrupts; i++)
		rig_turns(&rig, 1);
	cr_assert_eq(rig.dev->queues[TX].interrupts, 1);
	end();
}

Test(net_modes, a_driver_that_looked_meanwhile_is_not_told)
{
	begin_coalescing(NEVER_NS);
	cr_assert_eq(tx_interrupts_after(RING / 2 - 1), 0);
	tx_used(RING / 2 - 1);
	ring_driver_interrupts(&rig.rings[TX], true, 1);
	cr_assert_eq(tx_interrupts_after(1), 0);
	end();
}

Test(net_modes, what_the_driver_does_not_wait_for_does_not_count)
{
	begin_coalescing(NEVER_NS);
	ring_driver_interrupts(&rig.rings[TX], true, RING / 4); /* it waits for that entry */
	cr_assert_eq(tx_interrupts_after(RING / 4), 0);
	tx_used(RING / 4);
	cr_assert_eq(tx_interrupts_after(RING / 2 - 1), 0, "half a ring since then");
	cr_assert_eq(tx_interrupts_after(1), 1);
	end();
}

Test(net_modes, a_frame_by_itself_waits_longer)
{
	struct virtio_queue *q;
	uint64_t since;

	begin_coalescing(NEVER_NS);
	q = &rig.dev->queues[TX];
	tx_interrupts_after(1);
	cr_assert_gt(q->coalesce.expiry_ns, loop_now() + 9 * NEVER_NS);
	since = q->untold_ns;
	tx_interrupts_after(1);
	cr_assert_leq(q->coalesce.expiry_ns, loop_now() + NEVER_NS);
	cr_assert_eq(q->untold_ns, since, "the first one waits on");
	end();
}

Test(net_modes, the_last_one_of_several_does_not)
{
	struct virtio_queue *q;

	begin_coalescing(NEVER_NS);
	q = &rig.dev->queues[TX];
	ring_driver_interrupts(&rig.rings[TX], true, 2);
	tx_interrupts_after(3);
	cr_assert_eq(virtqueue_untold(&q->ring), 1);
	cr_assert(q->coalesce.armed);
	cr_assert_leq(q->coalesce.expiry_ns, loop_now() + NEVER_NS);
	end();
}

Test(net_modes, received_frames_let_it_wait_on_but_not_for_ever)
{
	struct virtio_queue *q;
	uint64_t expiry;

	begin_coalescing(NEVER_NS);
	q = &rig.dev->queues[TX];
	rx_post(2);
	tx_interrupts_after(2);
	expiry = q->coalesce.expiry_ns;
	rx_send(1);
	cr_assert_gt(q->coalesce.expiry_ns, expiry);
	expiry = q->coalesce.expiry_ns;
	q->untold_ns -= 10 * NEVER_NS; /* has waited long */
	rx_send(1);
	cr_assert_eq(q->coalesce.expiry_ns, expiry);
	virtio_stop(rig.dev);
	cr_assert_not(q->coalesce.armed);
	end();
}

/* --- a driver on a thread of its own -------------------------------------------------------- */

#define RACE_FRAMES 20000u

struct race {
	struct loop_watch bell;
	int fd;
	bool toggle; /* switch by hand, too */
};

static void bell_rang(struct loop_watch *watch, uint32_t revents)
{
	uint64_t count;

	(void)revents;
	cr_assert_eq(read(watch->fd, &count, sizeof(count)), 8);
	virtio_ready(rig.dev, TX);
}

static void toggle(void *arg)
{
	struct mode_switch *sw = arg;

	mode_choose(sw, sw->mode == MODE_VMM ? MODE_GUEST : MODE_VMM, loop_now());
	mode_choose(sw, MODE_AUTO, loop_now()); /* keeps the mode, without its patience */
}

/* A driver that sends one frame, rings if it has to, and waits until the frame is used. */
static void *race_driver(void *arg)
{
	struct race *race = arg;
	struct ring_used used;
	uint64_t one = 1;

	for (unsigned i = 0; i < RACE_FRAMES; i++) {
		if (tx_add())
			cr_assert_eq(write(race->fd, &one, sizeof(one)), 8);
		while (!ring_driver_take(&rig.rings[TX], &used))
			sched_yield();
		if (race->toggle && i % 7 == 0)
			loop_call(rig.loop, toggle, tx_mode());
	}
	loop_stop(rig.loop);
	return NULL;
}

/* A kick that gets lost leaves the driver waiting for ever. */
static void race_run(uint64_t features, bool by_hand)
{
	/* By rate: about as often as it can. */
	const struct mode_rules rules = {.policy = MODE_AUTO,
					 .up = by_hand ? UINT32_MAX : 2,
					 .down = !by_hand,
					 .window_ns = 20000};
	struct race race = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .toggle = by_hand};
	pthread_t thread;

	begin(&rules, features, NET_IRQ_BATCH);
	race.bell = (struct loop_watch){.ready = bell_rang};
	cr_assert_eq(loop_watch(rig.loop, &race.bell, race.fd, POLLIN), 0);
	cr_assert_eq(pthread_create(&thread, NULL, race_driver, &race), 0);
	cr_assert_eq(loop_run(rig.loop), 0);
	pthread_join(thread, NULL);
	cr_assert_eq(sent, RACE_FRAMES);
	cr_assert_gt(tx_mode()->switches, 0);
	loop_unwatch(&race.bell);
	close(race.fd);
	end();
}

Test(net_modes, no_kick_is_lost_by_rate, .timeout = 300)
{
	race_run(0, false);
	race_run(EVENT_IDX, false);
}

Test(net_modes, no_kick_is_lost_by_hand, .timeout = 300)
{
	race_run(0, true);
	race_run(EVENT_IDX, true);
}

/* --- a link that is full ---------------------------------------------------------------------- */

/* One frame has gone to the peer, which is full from then on; another one is in the ring. */
static void fill(void)
{
	tx_add();
	virtio_ready(rig.dev, TX);
	cr_assert_eq(sent, 1);
	tx_used(1);
	peer_is_full = true;
	tx_add();
	virtio_ready(rig.dev, TX);
	cr_assert_eq(sent, 1, "it waits");
	tx_used(0);
}

static void waits(void)
{
	fill();
	peer_is_full = false;
	rig_turns(&rig, 2);
	cr_assert_eq(sent, 2, "it has come back by itself");
	tx_used(1);
}

Test(net_modes, guest_driven_waits_for_room, .init = begin_guest, .fini = end)
{
	waits();
}

Test(net_modes, vmm_driven_waits_for_room, .init = begin_vmm, .fini = end)
{
	waits();
}

Test(net_modes, waits_no_longer_than_it_takes_to_see_that_nobody_makes_room, .init = begin_guest,
     .fini = end)
{
	fill();
	while (sent == 1) /* milliseconds; for ever, if it fails */
		rig_turns(&rig, 1);
	tx_used(1);
	tx_add();
	virtio_ready(rig.dev, TX);
	cr_assert_eq(sent, 3, "and not again");
	turn_to_rest();
	peer_is_full = false;
	tx_add();
	virtio_ready(rig.dev, TX);
	cr_assert_eq(sent, 4);
	peer_is_full = true;
	tx_add();
	virtio_ready(rig.dev, TX);
	cr_assert_eq(sent, 4, "there was room meanwhile");
}
