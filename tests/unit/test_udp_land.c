/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large frames over UDP that land in a guest's buffers, or do not. The sender is a link's socket,
 * but what it sends is made here, byte by byte, so that nothing depends on the host's MTU; the
 * guest's NIC is one that lends memory of the test's and looks at it when it comes back.
 */
#include "tests/unit/udp_rig.h"

#include <netinet/udp.h>

#include "vnet/udp.h"

#define LOANS	  9u
#define LOAN_ROOM 66048u
#define PIECE	  4096u /* bytes of a lent buffer */
#define SEGMENT	  1472u /* bytes of a datagram: two messages a frame */
#define JUMBO	  8972u /* one */
#define LARGE	  64100u
#define WARM	  6u /* frames after which the next ones land, one at a time */

struct loan {
	struct landing landing;
	bool lent, given;
	struct iovec iov[LOAN_ROOM / PIECE + 1];
	uint8_t memory[LOAN_ROOM];
};

static struct lender {
	struct loan loans[LOANS];
	unsigned lent, landed, copied;
	bool refuses;  /* no room */
	uint32_t most; /* room for a frame, 0: for any */
} lender;

static void lender_land(struct port *port, uint32_t len, struct landing **holder)
{
	struct loan *loan = lender.loans;

	*holder = NULL;
	while (loan < lender.loans + LOANS && loan->lent)
		loan++;
	if (lender.refuses || (lender.most && len > lender.most) || loan == lender.loans + LOANS)
		return;
	cr_assert_leq(len, LOAN_ROOM);
	memset(loan, 0, sizeof(*loan));
	for (unsigned i = 0; i * PIECE < LOAN_ROOM; i++)
		loan->iov[i] =
		    (struct iovec){loan->memory + (size_t)i * PIECE,
				   LOAN_ROOM - i * PIECE < PIECE ? LOAN_ROOM - i * PIECE : PIECE};
	loan->landing = (struct landing){.port = port, .len = len, .holder = holder};
	loan->landing.room = iov_cursor(loan->iov, LOAN_ROOM / PIECE + 1);
	iov_skip(&loan->landing.room, 12);
	loan->lent = true;
	lender.lent++;
	*holder = &loan->landing;
}

/* Whatever landed and was not given has been erased, or will be. */
static void lender_land_end(struct landing *landing)
{
	struct loan *loan = container_of(landing, struct loan, landing);

	cr_assert(loan->lent);
	for (uint32_t i = landing->written + 12; !loan->given && i < LOAN_ROOM; i++)
		if (loan->memory[i])
			cr_assert_fail("byte %u is left in the guest's memory", i);
	loan->lent = false;
	lender.lent--;
	*landing->holder = NULL;
}

static void lender_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct landing *landing = frames[i]->landing;
		struct loan *loan;

		lender.copied += !landing;
		if (!landing)
			continue;
		loan = container_of(landing, struct loan, landing);
		cr_assert(loan->lent);
		cr_assert_eq(frames[i]->iov->iov_base, loan->memory + 12);
		cr_assert_eq(landing->written, frames[i]->len);
		for (uint32_t at = 12 + frames[i]->len; at < LOAN_ROOM; at++)
			cr_assert_eq(loan->memory[at], 0, "something lies behind the frame");
		landing->written = 0;
		loan->given = true;
		lender.landed++;
	}
	nic_send_batch(port, frames, n);
}

static const struct port_ops lender_ops = {
    .type = "test",
    .send_batch = lender_send_batch,
    .close = nic_close,
    .land = lender_land,
    .land_end = lender_land_end,
};

/* The sessions say nothing any more: a message of theirs would come where a frame is expected, and
 * what is counted here would depend on the time. */
static void sessions_still(void)
{
	for (unsigned i = 0; i < 8; i++) {
		loop_disarm(&udp_peer_of(a_link)->timer);
		loop_disarm(&udp_peer_of(b_link)->timer);
		run_ms(1);
	}
}

static void setup(void)
{
	pair_up_v4();
	memset(&lender, 0, sizeof(lender));
	b.nic.ops = &lender_ops;
	pair_meet();
	sessions_still();
}

static void teardown(void)
{
	pair_down();
	cr_assert_eq(lender.lent, 0, "everything came back");
}

/* --- the sender ------------------------------------------------------------------------------ */

/* A message being made. */
struct train {
	uint8_t data[65536];
	uint32_t len, segment;
};

static uint32_t next_id = 1000, next_seq;

static void train_send(struct udp_peer *peer, const struct train *train)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control = {0};
	struct iovec iov = {(void *)train->data, train->len};
	struct msghdr msg = {.msg_name = &peer->to,
			     .msg_namelen = udp_address_size(peer->endpoint->family),
			     .msg_iov = &iov,
			     .msg_iovlen = 1};
	uint16_t segment = (uint16_t)train->segment;

	if (train->len > segment) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(segment)),
							.cmsg_level = SOL_UDP,
							.cmsg_type = UDP_SEGMENT};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &segment, sizeof(segment));
	}
	if (train->len)
		cr_assert_eq(sendmsg(peer->endpoint->fd, &msg, 0), train->len, "%s",
			     strerror(errno));
}

static void train_add(struct train *train, const struct geneve_extras *extras, const uint8_t *data,
		      uint32_t len)
{
	train->len += (uint32_t)geneve_build(train->data + train->len, VNI, extras);
	memcpy(train->data + train->len, data, len);
	train->len += len;
}

/* As udp_pack.c does it: datagrams of @segment bytes, messages as long as may be. @change may spoil
 * each message; NULL: none. */
static void frame_send(struct udp_peer *peer, uint32_t len, uint32_t segment,
		       void (*change)(struct train *train, unsigned message))
{
	static uint8_t data[FRAME_SIZE_MAX];
	static struct train train;
	struct geneve_extras none = {0}, extras;
	struct fragment_cut cut;
	unsigned messages = 0, parts = 0;
	uint32_t at = 0;

	frame_write(data, next_seq++, len);
	train = (struct train){.segment = segment};
	if (len + sizeof(struct geneve_header) <= segment)
		train_add(&train, &none, data, len);
	else
		fragment_cut_start(&cut, &none, next_id++, len, segment);
	while (!train.len || at) {
		uint32_t part = fragment_cut_next(&cut, &extras);

		if (!part)
			break;
		if (parts == 64 || train.len + segment > UDP_DATAGRAM_MAX) {
			if (change)
				change(&train, messages);
			train_send(peer, &train);
			messages++;
			parts = train.len = 0;
		}
		train_add(&train, &extras, data + at, part);
		parts++;
		at += part;
	}
	if (change)
		change(&train, messages);
	train_send(peer, &train);
}

static void take(unsigned frames)
{
	vm_wait(&b, b.frames + frames);
}

/* Send frames one by one, each taken before the next one is sent. */
static void frames_send(unsigned n, uint32_t len, uint32_t segment)
{
	while (n--) {
		frame_send(udp_peer_of(a_link), len, segment, NULL);
		take(1);
	}
}

static uint64_t copied(void)
{
	return b_link->counters.copied_bytes;
}

/* --- what lands ------------------------------------------------------------------------------ */

/* @tail: bytes of a frame that do not fit its first message. */
static void lands(uint32_t len, uint32_t segment, uint32_t tail)
{
	uint64_t before;
	unsigned landed;

	frames_send(WARM, len, segment);
	landed = lender.landed;
	before = copied();
	frames_send(20, len, segment);
	cr_assert_eq(lender.landed, landed + 20);
	cr_assert_leq(copied() - before, 20 * 2 * tail);
	cr_assert_eq(b_link->counters.landing_misses, 0);
}

Test(udp_land, one_datagram, .init = setup, .fini = teardown)
{
	lands(LARGE, 65000, 0);
}

Test(udp_land, one_message, .init = setup, .fini = teardown)
{
	lands(62000, JUMBO, 0);
}

Test(udp_land, two_messages, .init = setup, .fini = teardown)
{
	lands(LARGE, SEGMENT, 1000);
}

Test(udp_land, plain_frames, .init = setup, .fini = teardown)
{
	lands(9014, 9100, 0);
}

Test(udp_land, real_sender, .init = setup, .fini = teardown)
{
	for (unsigned i = 0; i < 20; i++) {
		struct batch *batch = batch_new(2, LARGE, 3);

		vm_send(&a, batch);
		take(2);
		batch_free(batch);
	}
	cr_assert_geq(lender.landed, 20);
}

/* Several in a batch, as many as came lately. */
Test(udp_land, bursts, .init = setup, .fini = teardown)
{
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < 3; i++)
			frame_send(udp_peer_of(a_link), 20000, JUMBO, NULL);
		take(3);
	}
	cr_assert_geq(lender.landed, 18);
	cr_assert_eq(b.disordered, 0);
	cr_assert_eq(copied(), 0);
}

/* Shorter frames of the same shape fit, whatever message they end in. */
Test(udp_land, shorter, .init = setup, .fini = teardown)
{
	unsigned landed;

	frames_send(WARM, 62000, JUMBO);
	landed = lender.landed;
	frames_send(1, LARGE / 2, JUMBO);
	frames_send(1, 9001, JUMBO);
	cr_assert_eq(lender.landed, landed + 2);
	cr_assert_eq(copied(), 0);
}

/* As TCP sends: frames of any length, with small ones between, in one message or two. */
Test(udp_land, of_all_lengths, .init = setup, .fini = teardown)
{
	uint64_t bytes;

	frames_send(WARM, LARGE, SEGMENT);
	bytes = b.bytes;
	for (unsigned i = 0; i < 100; i++) {
		frame_send(udp_peer_of(a_link), 2000 + i * 7919 % 63000, SEGMENT, NULL);
		frame_send(udp_peer_of(a_link), 66 + i * 31 % 1000, SEGMENT, NULL);
		frame_send(udp_peer_of(a_link), LARGE, SEGMENT, NULL);
		take(3);
	}
	cr_assert_eq(b_link->counters.landing_misses, 0);
	cr_assert_lt(copied(), (b.bytes - bytes) / 10);
	cr_assert_eq(b.disordered, 0);
}

/* --- what comes otherwise --------------------------------------------------------------------- */

/* Warm up, send one frame that is made otherwise, and see that it comes all the same. */
static void misses(uint32_t len, uint32_t segment,
		   void (*change)(struct train *train, unsigned message))
{
	uint64_t missed = b_link->counters.landing_misses;
	unsigned landed;

	frames_send(WARM, LARGE, SEGMENT);
	landed = lender.landed;
	frame_send(udp_peer_of(a_link), len, segment, change);
	take(1);
	cr_assert_eq(lender.landed, landed);
	cr_assert_gt(b_link->counters.landing_misses, missed);
	cr_assert_gt(copied(), 0);
	cr_assert_leq(copied(), 3 * (LARGE + 64 * GENEVE_HEADER_MAX));
}

Test(udp_land, other_segment, .init = setup, .fini = teardown)
{
	misses(LARGE, SEGMENT - 4, NULL);
}

/* A frame may be longer than all before, unless the guest's buffers are too short for the longest.
 */
Test(udp_land, longer, .init = setup, .fini = teardown)
{
	unsigned landed;

	frames_send(WARM, 20000, JUMBO);
	landed = lender.landed;
	frames_send(1, 62000, JUMBO);
	cr_assert_eq(lender.landed, landed + 1);
	cr_assert_eq(copied(), 0);
}

Test(udp_land, longer_than_the_room, .init = setup, .fini = teardown)
{
	unsigned landed;

	lender.most = 30000;
	frames_send(WARM, 20000, JUMBO);
	landed = lender.landed;
	cr_assert_gt(landed, 0);
	frames_send(1, 62000, JUMBO);
	cr_assert_eq(lender.landed, landed);
	cr_assert_eq(b_link->counters.landing_misses, 1);
}

Test(udp_land, other_kind, .init = setup, .fini = teardown)
{
	misses(LARGE, 65000, NULL);
}

/* Two parts change places: the reassembly does not mind. */
static void parts_swap(struct train *train, unsigned message)
{
	uint8_t *one = train->data + SEGMENT, *two = one + SEGMENT, copy[SEGMENT];

	if (message)
		return;
	memcpy(copy, one, SEGMENT);
	memcpy(one, two, SEGMENT);
	memcpy(two, copy, SEGMENT);
}

Test(udp_land, other_order, .init = setup, .fini = teardown)
{
	misses(LARGE, SEGMENT, parts_swap);
}

/* The first message comes, and something else before the second one. */
static void stranger_between(struct train *train, unsigned message)
{
	struct batch *batch;

	(void)train;
	if (message != 1)
		return;
	batch = batch_new(1, 100, 1);
	vm_send(&a, batch);
	batch_free(batch);
}

Test(udp_land, interleaved, .init = setup, .fini = teardown)
{
	frames_send(WARM, LARGE, SEGMENT);
	frame_send(udp_peer_of(a_link), LARGE, SEGMENT, stranger_between);
	take(2);
	frames_send(WARM, LARGE, SEGMENT);
	cr_assert_eq(b_link->counters.landing_misses, 0, "a small one is no reason");
}

/* The two messages of a frame come in different batches: the first one waits where it landed. */
static void batch_between(struct train *train, unsigned message)
{
	(void)train;
	if (message == 1) {
		uint64_t batches = ((struct udp_endpoint *)b.endpoint)->counters.batches;

		wait_until(((struct udp_endpoint *)b.endpoint)->counters.batches > batches);
	}
}

Test(udp_land, in_two_batches, .init = setup, .fini = teardown)
{
	unsigned landed;

	frames_send(WARM, LARGE, SEGMENT);
	landed = lender.landed;
	for (unsigned i = 0; i < 10; i++) {
		frame_send(udp_peer_of(a_link), LARGE, SEGMENT, batch_between);
		take(1);
	}
	cr_assert_eq(lender.landed, landed + 10);
	cr_assert_eq(lender.lent, 0);
}

/* It waits for one batch, not for ever: then it is a frame like others, and whole in the end. */
static void batches_between(struct train *train, unsigned message)
{
	for (unsigned i = 0; message == 1 && i < 3; i++) {
		batch_between(train, message);
		stranger_between(train, message);
	}
	batch_between(train, message);
}

Test(udp_land, waits_no_longer, .init = setup, .fini = teardown)
{
	unsigned landed, before;

	frames_send(WARM, LARGE, SEGMENT);
	landed = lender.landed;
	before = b.frames;
	frame_send(udp_peer_of(a_link), LARGE, SEGMENT, batches_between);
	vm_wait(&b, before + 4);
	cr_assert_eq(lender.landed, landed);
	cr_assert_eq(lender.lent, 0);
}

static unsigned stop_at;

static void cut_off(struct train *train, unsigned message)
{
	if (message == stop_at)
		train->len = SEGMENT; /* the rest is lost */
	batch_between(train, message);
}

/* The rest of a frame never comes. */
Test(udp_land, never_whole, .init = setup, .fini = teardown)
{
	for (stop_at = 0; stop_at < 2; stop_at++) {
		frames_send(4 * WARM, LARGE, SEGMENT);
		frame_send(udp_peer_of(a_link), LARGE, SEGMENT, cut_off);
		frames_send(2, LARGE, SEGMENT);
	}
	cr_assert_eq(b.disordered, 0);
}

/* The guest takes its buffers away while a frame lies there in part. */
static void guest_resets(struct train *train, unsigned message)
{
	batch_between(train, message);
	if (message != 1)
		return;
	for (unsigned i = 0; i < LOANS; i++) {
		if (!lender.loans[i].lent)
			continue;
		*lender.loans[i].landing.holder = NULL;
		lender.loans[i].lent = false;
		lender.lent--;
		memset(lender.loans[i].memory, 0, LOAN_ROOM);
	}
}

Test(udp_land, guest_resets, .init = setup, .fini = teardown)
{
	frames_send(WARM, LARGE, SEGMENT);
	frame_send(udp_peer_of(a_link), LARGE, SEGMENT, guest_resets);
	frames_send(4 * WARM, LARGE, SEGMENT);
	for (unsigned i = 0; i < LOANS; i++)
		for (unsigned at = 0; !lender.loans[i].given && at < LOAN_ROOM; at++)
			cr_assert_eq(lender.loans[i].memory[at], 0);
}

/* The first message comes, and never the second. */
static void second_is_lost(struct train *train, unsigned message)
{
	batch_between(train, message);
	if (message == 1)
		train->len = 0;
}

/* The link goes while a frame waits for its rest. */
Test(udp_land, link_goes, .init = setup, .fini = teardown)
{
	frames_send(WARM, LARGE, SEGMENT);
	frame_send(udp_peer_of(a_link), LARGE, SEGMENT, second_is_lost);
	cr_assert_eq(lender.lent, 1);
	core_detach(b.core, b_link);
	b_link->ops->close(b_link);
	cr_assert_eq(lender.lent, 0);
}

Test(udp_land, no_room, .init = setup, .fini = teardown)
{
	lender.refuses = true;
	frames_send(2 * WARM, LARGE, SEGMENT);
	cr_assert_eq(lender.landed, 0);
	cr_assert_eq(b_link->counters.landing_misses, 0);
}

/* A peer whose frames never look the same twice is not laid out for: it costs one copy in so many.
 */
Test(udp_land, always_otherwise, .init = setup, .fini = teardown)
{
	static const uint32_t segments[] = {1472, 1400, 8972, 3000};

	for (unsigned i = 0; i < 60; i++)
		frames_send(i % 12 + 1, 20000, segments[i % 4]);
	cr_assert_lt(b_link->counters.landing_misses, 12);
	cr_assert_eq(b.disordered, 0);
}

/* Without an end that is the guest's alone nothing lands: others' frames are not for its eyes. */
Test(udp_land, not_with_routes, .init = setup, .fini = teardown)
{
	struct route route = {.out = "nics"};
	struct route_table *table = routes_build(&route, 1);

	routes_destroy(core_routes_swap(b.core, table));
	frames_send(2 * WARM, LARGE, SEGMENT);
	cr_assert_eq(lender.lent, 0);
	cr_assert_eq(lender.landed, 0);
}
