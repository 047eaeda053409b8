/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over InfiniBand, on an adapter that is not there (fake_verbs.c): two VMs in one process
 * name each other.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/fake_verbs.h"
#include "tests/unit/link_lab.h"
#include "vnet/geneve.h"
#include "vnet/ib.h"
#include "vnet/seal.h"

#define A "10.0.0.1"
#define B "10.0.0.2"

/* Guest memory: frames to be sent, and who is still reading them. */
static struct batch {
	struct lab_frame frames[FRAME_BATCH_MAX];
	struct frame_hold holds[FRAME_BATCH_MAX];
} guest[3]; /* in turn, for those that are still held */
static unsigned released, turn;

/* What a guest has posted, and its NIC lends: see "receiving into the guest's buffers" below. */
#define LOANS	  20u
#define LOAN_ROOM 66048u
#define PIECE	  4096u
#define GAP	  64u /* between pieces, so that each is one for the adapter */
#define PIECES	  (LOAN_ROOM / PIECE + 1)
#define UNTOUCHED 0xa5

struct loan_memory {
	uint8_t bytes[PIECES][PIECE + GAP];
};
static struct loan_memory posted[LOANS];

static const struct iovec memory[] = {{guest, sizeof(guest)}, {posted, sizeof(posted)}};

static struct loop *loop;
static struct lab_vm a, b;
static struct port *at_a, *at_b;
static const char *type = "rc";

static void vm_make(struct lab_vm *vm, uint32_t vni)
{
	const struct link_env env = {.loop = loop,
				     .vni = vni,
				     .offload = true,
				     .memory = memory,
				     .memory_count = 2,
				     .ib_calls = &fake_verbs};

	lab_vm_make(vm, &env);
}

/* A listener at @own and a link to @peer. */
static struct port *vm_link(struct lab_vm *vm, const char *own, const char *peer)
{
	char url[80];

	snprintf(url, sizeof(url), "ib://%s,type=%s", own, type);
	if (lab_listen(vm, url))
		return NULL;
	snprintf(url, sizeof(url), "ib://%s,type=%s", peer, type);
	return lab_link(vm, url);
}

static void vms_make(void)
{
	fake_reset();
	released = 0;
	loop = loop_create(64);
	cr_assert_not_null(loop);
	vm_make(&a, LAB_VNI);
	vm_make(&b, LAB_VNI);
}

static bool both_up(void *arg)
{
	(void)arg;
	return lab_is_up(at_a) && lab_is_up(at_b);
}

static void up_as(const char *kind)
{
	type = kind;
	vms_make();
	at_a = vm_link(&a, A, B);
	cr_assert_not_null(at_a, "%s", a.error);
	at_b = vm_link(&b, B, A);
	cr_assert_not_null(at_b, "%s", b.error);
	cr_assert(lab_until(loop, both_up, NULL));
}

static void rc_up(void)
{
	up_as("rc");
}

static void ud_up(void)
{
	up_as("ud");
}

static void down(void)
{
	lab_vm_down(&b);
	lab_vm_down(&a);
	loop_destroy(loop);
	cr_assert_eq(fake.live, 0, "what was made is destroyed");
}

static void hold_released(struct frame_hold *hold)
{
	(void)hold;
	released++;
}

/* The guest of @vm sends @n frames from its memory; they are held for as long as somebody reads
 * them. */
static void guest_send(struct lab_vm *vm, unsigned n, uint32_t len)
{
	struct batch *batch = &guest[turn++ % 3];
	struct frame *list[FRAME_BATCH_MAX];

	for (unsigned i = 0; i < n; i++) {
		lab_frame(&batch->frames[i], i, len);
		batch->holds[i] = (struct frame_hold){.holders = 1, .release = hold_released};
		batch->frames[i].frame.hold = &batch->holds[i];
		list[i] = &batch->frames[i].frame;
	}
	core_input(vm->core, &vm->nic, list, n);
	for (unsigned i = 0; i < n; i++)
		frame_release(&batch->holds[i]);
}

static void frames_cross(unsigned n, uint32_t len)
{
	unsigned want_a = a.frames + n, want_b = b.frames + n;

	cr_assert(lab_until(loop, both_up, NULL));
	guest_send(&a, n, len);
	cr_assert(lab_until_frames(&b, want_b));
	guest_send(&b, n, len);
	cr_assert(lab_until_frames(&a, want_a));
	cr_assert_eq(a.bad + b.bad, 0);
}

static bool came_again(void *arg)
{
	return lab_status(at_a).ups >= *(uint64_t *)arg && both_up(NULL);
}

static void until_ups(uint64_t ups)
{
	cr_assert(lab_until(loop, came_again, &ups));
}

static bool all_released(void *arg)
{
	return released >= *(unsigned *)arg;
}

struct error_wait {
	const struct port *port;
	const char *why;
};

static bool error_says(void *arg)
{
	const struct error_wait *wait = arg;
	struct link_status status = lab_status(wait->port);

	return status.state != LINK_UP && strstr(status.error, wait->why);
}

/* The link is down, and says why. */
static void until_error(const struct port *port, const char *why)
{
	struct error_wait wait = {port, why};

	cr_assert(lab_until(loop, error_says, &wait), "%s", lab_status(port).error);
}

static void until_released(unsigned n)
{
	cr_assert(lab_until(loop, all_released, &n));
}

/* --- reliable connections ----------------------------------------------------------------------
 */

/* One work request a frame, whatever its length, and none of it copied. */
Test(link_ib, rc_frames_cross, .init = rc_up, .fini = down)
{
	cr_assert_eq(at_a->mtu, 65535);
	cr_assert_eq(at_a->offloads, PORT_OFFLOADS);
	for (uint32_t len = 14; len <= FRAME_SIZE_MAX; len += len < 2000 ? 99 : 9011)
		frames_cross(1, len);
	frames_cross(4, FRAME_SIZE_MAX);
	for (unsigned i = 0; i < 50; i++)
		frames_cross(24, 1500);
	cr_assert_eq(at_a->counters.copied_bytes, 0);
	cr_assert_eq(at_a->counters.work_requests, at_a->counters.out_frames);
	cr_assert_eq(lab_dropped(at_a) + lab_dropped(at_b), 0);
	cr_assert_gt(lab_status(at_a).rtt_ns, 0);
	cr_assert_eq(lab_status(at_a).ups, 1);
}

Test(link_ib, rc_batch_is_one_post, .init = rc_up, .fini = down)
{
	unsigned posts = fake.posts;

	guest_send(&a, 16, 9000);
	cr_assert_eq(fake.posts, posts + 1);
	cr_assert(lab_until_frames(&b, 16));
}

/* The guest has its memory back when the adapter has read it, and not before. */
Test(link_ib, rc_frames_are_held, .init = rc_up, .fini = down)
{
	fake.paused = true;
	guest_send(&a, 10, 5000);
	cr_assert_eq(released, 0);
	fake_resume();
	cr_assert(lab_until_frames(&b, 10));
	until_released(10);
	cr_assert_eq(b.bad, 0);
}

/* What nobody can hold is copied, once. */
Test(link_ib, rc_others_are_copied, .init = rc_up, .fini = down)
{
	lab_send(&a, 10, 3000);
	cr_assert(lab_until_frames(&b, 10));
	cr_assert_eq(at_a->counters.copied_bytes, 30000);
	cr_assert_eq(b.bad, 0);
}

Test(link_ib, rc_too_many_pieces_are_copied, .fini = down)
{
	type = "rc";
	vms_make();
	fake.max_sge = 2;
	at_a = vm_link(&a, A, B);
	at_b = vm_link(&b, B, A);
	frames_cross(3, 3000);
	cr_assert_eq(at_a->counters.copied_bytes, 9000);
	until_released(6);
}

Test(link_ib, rc_registration_refused_B10, .fini = down)
{
	type = "rc";
	vms_make();
	fake.refuse = guest;
	at_a = vm_link(&a, A, B);
	at_b = vm_link(&b, B, A);
	frames_cross(3, 3000);
	cr_assert_eq(at_a->counters.copied_bytes, 9000);
}

/* --- credits ------------------------------------------------------------------------------------
 */

/* No more is sent than the peer has buffers for; the rest waits, and what does not find room is
 * dropped. */
Test(link_ib, rc_credits_bound_what_is_sent, .init = rc_up, .fini = down)
{
	unsigned sends = fake.sends;

	cr_assert(!at_a->ops->full(at_a));
	for (unsigned i = 0; i < 3; i++)
		guest_send(&a, 64, 1000);
	cr_assert(at_a->ops->full(at_a));
	cr_assert_leq(fake.sends - sends, IB_WINDOW - 4);
	cr_assert_eq(at_a->counters.drops[DROP_BUSY], 3 * 64 - IB_SLOTS);
	cr_assert(lab_until_frames(&b, IB_SLOTS));
	until_released(3 * 64);
	cr_assert(!at_a->ops->full(at_a));
	cr_assert_eq(lab_status(at_a).ups, 1);
}

/* Both send all they can all the time: neither is stuck for want of a credit to give credit by. */
Test(link_ib, rc_no_deadlock_B7, .init = rc_up, .fini = down)
{
	unsigned want = 0;

	for (unsigned i = 0; i < 30; i++) {
		guest_send(&a, 64, 2000);
		lab_send(&b, 60, 2000);
		want += 60;
		cr_assert(lab_until_frames(&b, i * 64 + 64));
		cr_assert(lab_until_frames(&a, want));
	}
	cr_assert_eq(lab_dropped(at_a) + lab_dropped(at_b), 0);
	cr_assert_eq(lab_status(at_a).ups, 1);
}

/* One way only: credit comes back by itself. */
Test(link_ib, rc_one_way, .init = rc_up, .fini = down)
{
	for (unsigned i = 1; i <= 100; i++) {
		guest_send(&a, 50, 200);
		cr_assert(lab_until_frames(&b, 50 * i));
	}
	cr_assert_eq(lab_dropped(at_a), 0);
}

/* --- what a peer may try ------------------------------------------------------------------------
 */

static struct ibv_qp *victim(void)
{
	return fake_qp(IBV_QPT_RC, 0);
}

static bool either_dropped(void *arg)
{
	enum drop_reason reason = *(enum drop_reason *)arg;

	return at_a->counters.drops[reason] + at_b->counters.drops[reason] > 0;
}

/* The next message between the two is this one, whatever it should have been. */
static void rogue_dropped(const void *data, uint32_t len, enum drop_reason reason)
{
	fake.replace = data;
	fake.replace_len = len;
	guest_send(&a, 1, 1000);
	cr_assert(lab_until(loop, either_dropped, &reason));
}

static void malformed(void)
{
	uint8_t packet[1000] = {0};

	rogue_dropped(packet, 7, DROP_FORMAT);
	at_a->counters.drops[DROP_FORMAT] = at_b->counters.drops[DROP_FORMAT] = 0;
	rogue_dropped(packet, sizeof(packet), DROP_FORMAT);
	packet[2] = 0x65;
	packet[3] = 0x58;
	packet[6] = 1;
	rogue_dropped(packet, sizeof(packet), DROP_FOREIGN);
	packet[5] = LAB_VNI >> 8;
	packet[6] = LAB_VNI & 0xff;
	rogue_dropped(packet, 8 + 13, DROP_RUNT);
	cr_assert_eq(lab_status(at_a).ups, 1);
	frames_cross(3, 1000);
}

Test(link_ib, rc_malformed_B1_B8, .init = rc_up, .fini = down)
{
	malformed();
}

Test(link_ib, ud_malformed_B1, .init = ud_up, .fini = down)
{
	malformed();
}

static void connection_ends(const char *why)
{
	const char *of_a, *of_b;
	struct link_status status_a, status_b;

	until_ups(2);
	status_a = lab_status(at_a);
	status_b = lab_status(at_b);
	of_a = status_a.error;
	of_b = status_b.error;
	cr_assert(strstr(of_a, why) || strstr(of_b, why), "%s; %s", of_a, of_b);
	frames_cross(3, 1000);
}

static void credit_invented(uint32_t more)
{
	uint32_t imm = fake_immediate(victim()) + more;

	cr_assert(fake_inject(victim(), 0, NULL, NULL, 0, &imm));
	connection_ends("credit that cannot be");
}

Test(link_ib, rc_credit_for_what_was_never_sent_B7, .init = rc_up, .fini = down)
{
	credit_invented(1000);
}

Test(link_ib, rc_credit_taken_back_B7, .init = rc_up, .fini = down)
{
	credit_invented((uint32_t)-1);
}

Test(link_ib, rc_no_immediate_B8, .init = rc_up, .fini = down)
{
	cr_assert(fake_inject(victim(), 0, NULL, "", 1, NULL));
	connection_ends("credit that cannot be");
}

/* It may fill the buffers it was promised, no others'. */
Test(link_ib, rc_sends_without_credit_B7, .init = rc_up, .fini = down)
{
	uint32_t imm = fake_immediate(victim());

	for (unsigned i = 0; i < 2 * IB_WINDOW; i++)
		fake_inject(victim(), 0, NULL, NULL, 0, &imm);
	connection_ends("without credit");
}

/* --- connections that end -----------------------------------------------------------------------
 */

static void link_breaks(enum ibv_wc_status status, const char *why)
{
	fake_break(victim(), status);
	guest_send(&a, 5, 1000);
	lab_send(&b, 5, 1000);
	connection_ends(why);
}

Test(link_ib, rc_retries_exceeded_B6, .init = rc_up, .fini = down)
{
	link_breaks(IBV_WC_RETRY_EXC_ERR, "retry counter exceeded");
}

Test(link_ib, rc_no_buffer_B6, .init = rc_up, .fini = down)
{
	link_breaks(IBV_WC_RNR_RETRY_EXC_ERR, "RNR retry counter exceeded");
}

Test(link_ib, rc_wrong_key_B8, .init = rc_up, .fini = down)
{
	link_breaks(IBV_WC_LOC_PROT_ERR, "local protection error");
}

static void peer_restarts(void)
{
	for (unsigned i = 2; i < 6; i++) {
		guest_send(&a, 20, 3000);
		lab_vm_down(&b);
		guest_send(&a, 20, 3000);
		vm_make(&b, LAB_VNI);
		at_b = vm_link(&b, B, A);
		cr_assert_not_null(at_b);
		until_ups(i);
		frames_cross(5, 2000);
	}
}

Test(link_ib, rc_peer_restarts_B6, .init = rc_up, .fini = down)
{
	peer_restarts();
}

Test(link_ib, ud_peer_restarts_B6, .init = ud_up, .fini = down)
{
	peer_restarts();
}

static void adapter_leaves(void)
{
	guest_send(&a, 20, 3000);
	fake_remove();
	until_ups(2);
	until_released(20);
	frames_cross(5, 2000);
}

Test(link_ib, rc_adapter_leaves_B6, .init = rc_up, .fini = down)
{
	adapter_leaves();
}

Test(link_ib, ud_adapter_leaves_B6, .init = ud_up, .fini = down)
{
	adapter_leaves();
}

/* A guest that is reset gets its memory back at once. */
static void guest_resets(void)
{
	fake.paused = true;
	guest_send(&a, 20, 3000);
	cr_assert_eq(released, 0);
	core_let_go(a.core);
	cr_assert_eq(released, 20);
	fake_resume();
	until_ups(2);
	frames_cross(5, 2000);
}

Test(link_ib, rc_guest_resets, .init = rc_up, .fini = down)
{
	guest_resets();
}

Test(link_ib, ud_guest_resets, .init = ud_up, .fini = down)
{
	guest_resets();
}

/* The rest of the VM goes first or last; a link that goes gives back what it holds. */
Test(link_ib, removed_while_sending, .init = rc_up, .fini = down)
{
	fake.paused = true;
	guest_send(&a, 20, 3000);
	links_remove(a.links, at_a);
	cr_assert_eq(released, 20);
	fake_resume();
}

/* What lies in the completion queue when the link goes is nobody's. */
static void removed_while_frames_come(void)
{
	guest_send(&b, 3, 1000);
	fake.paused = true;
	guest_send(&a, 3, 1000);
	links_remove(a.links, at_a);
	cr_assert_eq(a.frames, 0);
	fake_resume();
}

Test(link_ib, rc_removed_while_frames_come, .init = rc_up, .fini = down)
{
	removed_while_frames_come();
}

Test(link_ib, ud_removed_while_frames_come, .init = ud_up, .fini = down)
{
	removed_while_frames_come();
}

Test(link_ib, nobody_there_then_somebody, .fini = down)
{
	type = "rc";
	vms_make();
	fake.unreachable = true;
	at_a = vm_link(&a, A, B);
	until_error(at_a, "No route to host");
	fake.unreachable = false;
	at_b = vm_link(&b, B, A);
	frames_cross(3, 1000);
}

/* A stranger is rejected, one of another overlay too, and both hear why. */
static void stranger_is_rejected(void)
{
	static struct lab_vm c;
	struct port *at_c;

	vm_make(&c, LAB_VNI);
	at_c = vm_link(&c, "10.0.0.3", B);
	cr_assert_not_null(at_c);
	until_error(at_c, "no link to us");
	frames_cross(3, 1000);
	lab_vm_down(&c);
}

Test(link_ib, rc_strangers_are_rejected_B2, .init = rc_up, .fini = down)
{
	stranger_is_rejected();
}

Test(link_ib, ud_strangers_are_rejected_B2, .init = ud_up, .fini = down)
{
	stranger_is_rejected();
}

static void another_overlay_is_rejected(const char *kind)
{
	type = kind;
	vms_make();
	lab_vm_down(&b);
	vm_make(&b, LAB_VNI + 1);
	at_a = vm_link(&a, A, B);
	until_error(at_a, "nobody listens there");
	at_b = vm_link(&b, B, A);
	until_error(at_a, "another overlay");
	until_error(at_b, "another overlay");
}

Test(link_ib, rc_another_overlay_is_rejected_B2, .fini = down)
{
	another_overlay_is_rejected("rc");
}

Test(link_ib, ud_another_overlay_is_rejected_B2, .fini = down)
{
	another_overlay_is_rejected("ud");
}

/* --- datagrams ----------------------------------------------------------------------------------
 */

Test(link_ib, ud_frames_cross, .init = ud_up, .fini = down)
{
	cr_assert_eq(at_a->mtu, 1024 - 8 - 14);
	cr_assert_eq(lab_status(at_a).path_mtu, 1024);
	for (uint32_t len = 14; len <= 1016; len += 167)
		frames_cross(1, len);
	cr_assert_eq(at_a->counters.work_requests, at_a->counters.out_frames);
	for (uint32_t len = 1017; len <= FRAME_SIZE_MAX; len += 9011)
		frames_cross(1, len);
	frames_cross(1, FRAME_SIZE_MAX);
	for (unsigned i = 0; i < 20; i++)
		frames_cross(30, 4000);
	cr_assert_eq(at_a->counters.copied_bytes, at_b->counters.copied_bytes);
	cr_assert_eq(lab_dropped(at_a) + lab_dropped(at_b), 0);
}

/* In parts: each gathers its bytes from where they are. */
Test(link_ib, ud_nothing_is_copied_to_send, .init = ud_up, .fini = down)
{
	guest_send(&a, 5, 3000);
	cr_assert(lab_until_frames(&b, 5));
	cr_assert_eq(at_a->counters.copied_bytes, 0);
	cr_assert_eq(at_a->counters.work_requests, 5 * 3);
	until_released(5);
}

/* Parts that are all copied, into fewer buffers than they need: whole or not at all. */
Test(link_ib, ud_copied_and_full_B10, .fini = down)
{
	const unsigned parts = 3, frames = IB_BOUNCES / parts;

	type = "ud";
	vms_make();
	fake.refuse = guest;
	at_a = vm_link(&a, A, B);
	at_b = vm_link(&b, B, A);
	frames_cross(1, 100);
	fake.paused = true;
	fake.sends = 0;
	guest_send(&a, frames + 2, 3000);
	cr_assert_eq(fake.sends, frames * parts);
	cr_assert_eq(at_a->counters.drops[DROP_BUSY], 2);
	fake_resume();
	cr_assert(lab_until_frames(&b, frames + 1));
}

/* More parts than there are slots: a frame goes whole or not at all. */
Test(link_ib, ud_full, .init = ud_up, .fini = down)
{
	fake.paused = true;
	cr_assert(!at_a->ops->full(at_a));
	guest_send(&a, 20, 60000);
	cr_assert(at_a->ops->full(at_a));
	cr_assert_eq(at_a->counters.drops[DROP_BUSY], 20 - 8);
	fake_resume();
	cr_assert(lab_until_frames(&b, 8));
	until_released(20);
}

Test(link_ib, ud_loss, .init = ud_up, .fini = down)
{
	fake.lose = 1;
	guest_send(&a, 1, 5000);
	frames_cross(10, 5000);
	cr_assert_eq(b.frames, 10);
	cr_assert(lab_until_drop(loop, at_b, DROP_FRAGMENT, 1));
}

static void count_strangers(void *context, const char *scheme, const struct port_counters *counters)
{
	(void)scheme;
	*(uint64_t *)context += counters->drops[DROP_NOT_PEER];
}

static bool strangers_seen(void *arg)
{
	uint64_t n = 0;

	links_counters(a.links, count_strangers, &n);
	links_counters(b.links, count_strangers, &n);
	return n >= *(uint64_t *)arg;
}

/* Neither another queue pair of the peer's host nor the peer's number on another host is the peer.
 */
Test(link_ib, ud_strangers_B2, .init = ud_up, .fini = down)
{
	struct ibv_qp *to = fake_qp(IBV_QPT_UD, 0), *of = fake_qp(IBV_QPT_UD, 1);
	uint8_t packet[100] = {0};
	uint64_t want = 3;

	cr_assert(fake_inject(to, 4711, B, packet, sizeof(packet), NULL));
	cr_assert(fake_inject(to, of->qp_num, "10.0.0.77", packet, sizeof(packet), NULL));
	cr_assert(fake_inject(to, 4711, "10.0.0.77", packet, 0, NULL));
	cr_assert(lab_until(loop, strangers_seen, &want));
	frames_cross(3, 1000);
}

/* --- receiving into the guest's buffers ---------------------------------------------------------
 */

#define LARGE 60000u

struct loan {
	struct landing landing;
	bool lent, given;
	struct iovec iov[PIECES];
	struct loan_memory *memory;
};

static struct lender {
	struct loan loans[LOANS];
	unsigned lent, landed, copied;
	uint32_t most;		      /* room for a frame */
	const struct port_ops *plain; /* of the NIC without all this */
} lender;

static void lender_land(struct port *port, uint32_t len, struct landing **holder)
{
	unsigned i = 0;

	*holder = NULL;
	while (i < LOANS && lender.loans[i].lent)
		i++;
	if (i == LOANS || len > lender.most)
		return;
	lender.loans[i] = (struct loan){.lent = true, .memory = &posted[i]};
	memset(&posted[i], UNTOUCHED, sizeof(posted[i]));
	for (unsigned k = 0; k < PIECES; k++)
		lender.loans[i].iov[k] = (struct iovec){posted[i].bytes[k], PIECE};
	lender.loans[i].landing = (struct landing){.port = port,
						   .len = len,
						   .holder = holder,
						   .room = iov_cursor(lender.loans[i].iov, PIECES)};
	iov_skip(&lender.loans[i].landing.room, 12);
	lender.lent++;
	*holder = &lender.loans[i].landing;
}

/* What is not said to be written is as it was. */
static void lender_land_end(struct landing *landing)
{
	struct loan *loan = container_of(landing, struct loan, landing);
	struct iov_cursor at = landing->room;
	struct iovec piece;

	cr_assert(loan->lent);
	iov_skip(&at, landing->written);
	while (!loan->given && (piece = iov_piece(&at)).iov_len) {
		for (size_t i = 0; i < piece.iov_len; i++)
			if (((uint8_t *)piece.iov_base)[i] != UNTOUCHED)
				cr_assert_fail("the guest's memory was written to");
		at.offset += piece.iov_len;
	}
	loan->lent = false;
	lender.lent--;
	*landing->holder = NULL;
}

/* The guest has the frame where it says that it has it. */
static void landed_check(const struct frame *frame)
{
	struct landing *landing = frame->landing;
	struct loan *loan = container_of(landing, struct loan, landing);
	struct iov_cursor at = landing->room, from = iov_cursor(frame->iov, frame->iovcnt);
	uint8_t got[500], want[500];
	size_t n;

	cr_assert(loan->lent && !loan->given);
	cr_assert_eq(landing->written, frame->len);
	cr_assert_leq(frame->len, landing->len);
	while ((n = iov_read(&from, want, sizeof(want)))) {
		cr_assert_eq(iov_read(&at, got, n), n);
		cr_assert_eq(memcmp(got, want, n), 0);
	}
	landing->written = 0;
	loan->given = true;
	lender.landed++;
}

static void lender_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (frames[i]->landing)
			landed_check(frames[i]);
		else
			lender.copied++;
	}
	lender.plain->send_batch(port, frames, n);
}

static struct port_ops lender_ops; /* as the plain ones, and lends */

/* B's guest lends. */
static void lend(void)
{
	lender = (struct lender){.most = FRAME_SIZE_MAX, .plain = b.nic.ops};
	lender_ops = *b.nic.ops;
	lender_ops.send_batch = lender_send_batch;
	lender_ops.land = lender_land;
	lender_ops.land_end = lender_land_end;
	b.nic.ops = &lender_ops;
}

static void lend_up(void)
{
	rc_up();
	lend();
}

static void lend_down(void)
{
	down();
	cr_assert_eq(lender.lent, 0, "everything came back");
}

/* From A to B, as many at once as there is credit for. */
static void frames_come(unsigned n, uint32_t len)
{
	for (unsigned burst; n; n -= burst) {
		burst = n < 20 ? n : 20;
		guest_send(&a, burst, len);
		cr_assert(lab_until_frames(&b, b.frames + burst));
	}
	cr_assert_eq(b.bad, 0);
}

/* All requests that are posted were laid out, as far as there is room to lend. */
static void all_laid(uint32_t len)
{
	frames_come(4 * IB_WINDOW, len);
	cr_assert_gt(lender.lent, 0);
}

Test(link_ib, land_without_a_copy, .init = lend_up, .fini = lend_down)
{
	all_laid(LARGE);
	lender.landed = lender.copied = 0;
	b.nic.counters.copied_bytes = 0;
	frames_come(10 * IB_WINDOW, LARGE);
	cr_assert_geq(lender.landed, 10 * IB_WINDOW * LOANS / IB_WINDOW / 2);
	cr_assert_leq(lender.lent, LOANS);
	cr_assert_leq(b.nic.counters.copied_bytes, lender.landed * 320, "their first bytes");
	cr_assert_eq(at_b->counters.copied_bytes, 0);
	cr_assert_eq(at_b->counters.landing_misses, 0);
}

Test(link_ib, land_all_lengths, .init = lend_up, .fini = lend_down)
{
	all_laid(LARGE);
	for (uint32_t len = 14; len <= FRAME_SIZE_MAX; len += len < 700 ? 1 : 3511) {
		frames_come(1, LARGE);
		frames_come(1, len);
	}
	frames_come(2 * IB_WINDOW, FRAME_SIZE_MAX);
	cr_assert_eq(at_b->counters.landing_misses, 0);
}

/* Acknowledgements and the like leave the guest's memory alone (see lender_land_end()). */
Test(link_ib, land_small_ones_do_not, .init = lend_up, .fini = lend_down)
{
	unsigned landed;

	all_laid(LARGE);
	landed = lender.landed;
	for (unsigned i = 0; i < 3 * IB_WINDOW; i++)
		frames_come(1, 60);
	cr_assert_eq(lender.landed, landed);
	cr_assert_eq(lender.lent, 0, "used up, and none laid out any more");
	cr_assert_eq(at_b->counters.landing_misses, 0);
}

/* A frame without an option that the others had, and then more of them. */
static void other_header(unsigned n)
{
	static struct lab_frame frame;

	for (unsigned i = 0; i < n; i++) {
		lab_frame(&frame, i, LARGE);
		frame.frame.hops = 3;
		lab_send_frame(&a, &frame);
		cr_assert(lab_until_frames(&b, b.frames + 1));
	}
}

Test(link_ib, land_other_header, .init = lend_up, .fini = lend_down)
{
	unsigned landed;

	all_laid(LARGE);
	other_header(IB_WINDOW);
	cr_assert_gt(at_b->counters.landing_misses, 0);
	cr_assert_leq(at_b->counters.landing_misses, LOANS);
	cr_assert_gt(at_b->counters.copied_bytes, 0);
	landed = lender.landed;
	other_header(3 * IB_WINDOW);
	cr_assert_gt(lender.landed, landed, "learnt");
	frames_come(2 * IB_WINDOW, LARGE);
	cr_assert_eq(b.bad, 0);
}

Test(link_ib, land_longer_than_lent, .init = lend_up, .fini = lend_down)
{
	b.nic.mtu = 9000;
	all_laid(9000);
	frames_come(IB_WINDOW, 30000);
	cr_assert_gt(at_b->counters.landing_misses, 0);
	all_laid(9000);
}

/* A NIC that lends nothing, or not enough. */
Test(link_ib, land_no_room, .init = lend_up, .fini = lend_down)
{
	lender.most = 8000;
	frames_come(4 * IB_WINDOW, LARGE);
	cr_assert_eq(lender.landed + lender.lent, 0);
	cr_assert_eq(at_b->counters.landing_misses, 0);
}

/* Messages that are none, where a frame was expected. */
Test(link_ib, land_malformed_B1, .init = lend_up, .fini = lend_down)
{
	static uint8_t packet[FRAME_SIZE_MAX];

	all_laid(LARGE);
	memset(packet, 0xff, sizeof(packet));
	for (uint32_t len = 1; len < sizeof(packet); len = len * 3 + 77) {
		fake.replace = packet;
		fake.replace_len = len;
		guest_send(&a, 1, 1000);
		frames_come(1, LARGE);
	}
	cr_assert_gt(at_b->counters.drops[DROP_FORMAT], 0);
	cr_assert_eq(lab_status(at_a).ups, 1);
}

/* A guest that is reset has its memory back at once, and nobody writes there any more. */
Test(link_ib, land_guest_resets, .init = lend_up, .fini = lend_down)
{
	for (uint64_t ups = 2; ups < 5; ups++) {
		all_laid(LARGE);
		fake.paused = true;
		guest_send(&a, 20, LARGE);
		core_recall(b.core);
		cr_assert_eq(lender.lent, 0);
		memset(posted, UNTOUCHED, sizeof(posted));
		fake_resume();
		until_ups(ups);
		for (size_t i = 0; i < sizeof(posted); i++)
			if (((uint8_t *)posted)[i] != UNTOUCHED)
				cr_assert_fail("written to after the reset");
		lab_run(loop); /* what was on its way */
	}
	core_recall(b.core);
	core_recall(b.core);
}

/* With nothing lent there is no reason to end anything. */
Test(link_ib, land_nothing_to_recall, .init = lend_up, .fini = lend_down)
{
	frames_come(10, 1000);
	core_recall(b.core);
	frames_cross(10, 1000);
	cr_assert_eq(lab_status(at_a).ups, 1);
}

/* The adapter does not let go of its receive queue: it cannot reach the guest's memory then. */
Test(link_ib, land_queue_stays_B10, .init = lend_up, .fini = lend_down)
{
	all_laid(LARGE);
	cr_assert_eq(fake_registrations(posted), 2);
	fake.keep_srq = true;
	core_recall(b.core);
	cr_assert_eq(lender.lent, 0);
	cr_assert_eq(fake_registrations(posted), 1, "that of the other one");
	fake.keep_srq = false;
	until_ups(2);
	all_laid(LARGE);
}

/* Where others may be meant, what links bring does not pass through the guest's memory any more. */
Test(link_ib, land_another_interface, .init = lend_up, .fini = lend_down)
{
	static struct lab_vm more; /* its NIC alone */
	unsigned landed;

	all_laid(LARGE);
	landed = lender.landed;
	more.nic = (struct port){.ops = lender.plain, .kind = PORT_INTERFACE, .name = "other"};
	cr_assert_eq(core_attach(b.core, &more.nic), 0);
	cr_assert_eq(lender.lent, 0);
	until_ups(2);
	frames_come(3 * IB_WINDOW, LARGE);
	cr_assert_eq(lender.landed, landed);
	core_detach(b.core, &more.nic);
	all_laid(LARGE);
}

Test(link_ib, land_routes, .init = lend_up, .fini = lend_down)
{
	const struct route route = {.out = "nics"};

	all_laid(LARGE);
	routes_destroy(core_routes_swap(b.core, routes_build(&route, 1)));
	cr_assert_eq(lender.lent, 0);
	until_ups(2);
	routes_destroy(core_routes_swap(b.core, routes_build(&route, 1)));
	frames_come(IB_WINDOW, LARGE);
	cr_assert_eq(lender.lent, 0);
	cr_assert_eq(lab_status(at_a).ups, 2, "once is enough");
}

/* The connection breaks: everything lent comes back, and what was written in part is erased. */
Test(link_ib, land_connection_breaks_B6, .init = lend_up, .fini = lend_down)
{
	for (uint64_t ups = 2; ups < 6; ups++) {
		all_laid(LARGE);
		if (ups % 2)
			fake_break(victim(), IBV_WC_RETRY_EXC_ERR);
		else
			fake.lose_receive = true;
		guest_send(&a, 5, LARGE);
		guest_send(&b, 5, 1000);
		until_ups(ups);
		lab_run(loop);
	}
}

Test(link_ib, land_adapter_leaves_B6, .init = lend_up, .fini = lend_down)
{
	all_laid(LARGE);
	adapter_leaves();
	all_laid(LARGE);
}

Test(link_ib, land_link_goes, .init = lend_up, .fini = lend_down)
{
	all_laid(LARGE);
	links_remove(b.links, at_b);
	cr_assert_eq(lender.lent, 0);
}

/* Peers share the requests; one that goes does not disturb the others. */
Test(link_ib, land_two_peers, .init = lend_up, .fini = lend_down)
{
	static struct lab_vm c;
	struct port *at_c, *of_c;

	vm_make(&c, LAB_VNI);
	at_c = vm_link(&c, "10.0.0.3", B);
	of_c = lab_link(&b, "ib://10.0.0.3");
	cr_assert(at_c && of_c);
	cr_assert(lab_until_up(loop, at_c) && lab_until_up(loop, of_c));
	all_laid(LARGE);
	for (unsigned i = 0; i < IB_WINDOW; i++) {
		lab_send(&c, 1, i % 2 ? 60 : LARGE);
		frames_come(1, LARGE);
	}
	cr_assert(lab_until_frames(&b, 6 * IB_WINDOW));
	links_remove(b.links, of_c);
	frames_come(2 * IB_WINDOW, LARGE);
	cr_assert_eq(at_b->counters.landing_misses, 0);
	cr_assert_eq(lab_status(at_a).ups, 1);
	lab_vm_down(&c);
}

static void nothing_lands(const void *refuse, unsigned max_srq_sge)
{
	type = "rc";
	vms_make();
	fake.refuse = refuse;
	fake.max_srq_sge = max_srq_sge;
	at_a = vm_link(&a, A, B);
	at_b = vm_link(&b, B, A);
	lend();
	frames_cross(1, 100);
	frames_come(4 * IB_WINDOW, LARGE);
	cr_assert_eq(lender.landed + lender.lent, 0);
	cr_assert_eq(at_b->counters.landing_misses, 0);
	cr_assert_eq(lab_status(at_a).ups, 1);
	lend_down();
}

Test(link_ib, land_not_registered_B10)
{
	nothing_lands(posted, 30);
	nothing_lands(guest, 1);
}

Test(link_ib, land_few_pieces)
{
	nothing_lands(NULL, 1);
	nothing_lands(NULL, 5);
}

/* Each call of the next ones fails: the link comes back, and frames land. */
Test(link_ib, land_calls_fail_B10, .init = lend_up, .fini = lend_down)
{
	for (unsigned n = 1; n < 60; n += 1 + n / 8) {
		unsigned landed, before = b.frames;

		fake.calls = 0;
		fake.fail_at = n;
		for (unsigned i = 0; !fake.failed || b.frames == before; i++) {
			cr_assert_lt(i, 3000);
			guest_send(&a, 5, LARGE);
			lab_run(loop);
		}
		fake.failed = false;
		cr_assert(lab_until(loop, both_up, NULL));
		landed = lender.landed;
		for (unsigned i = 0; lender.landed == landed; i++) {
			cr_assert_lt(i, 3000);
			guest_send(&a, 5, LARGE);
			lab_run(loop);
		}
		cr_assert_eq(b.bad, 0);
	}
}

/* --- ports that go down -------------------------------------------------------------------------
 */

#define PORT_OF_A (1u << 1)
#define PORT_OF_B (1u << 2)

/* They are up again; nobody has sent what made the connection manager deaf. */
static void ports_return(uint64_t ups)
{
	cr_assert_eq(fake.deaf, 0);
	fake.down = 0;
	until_ups(ups);
	frames_cross(5, 2000);
	cr_assert_eq(fake.deaf, 0);
}

/* Whose queue pair breaks first differs. */
Test(link_ib, rc_port_goes_down_B6, .init = rc_up, .fini = down)
{
	fake.down = PORT_OF_A;
	guest_send(&a, 5, 1000);
	until_error(at_a, "port is down");
	ports_return(2);
	fake.down = PORT_OF_A;
	lab_send(&b, 5, 1000);
	until_error(at_b, "retry counter exceeded");
	until_error(at_a, "port is down");
	ports_return(3);
	fake.down = PORT_OF_A | PORT_OF_B;
	until_error(at_a, "port is down");
	until_error(at_b, "port is down");
	ports_return(4);
}

/* The port goes down after the connection broke, and before the peer was told. */
Test(link_ib, rc_port_down_after_the_end_B6, .init = rc_up, .fini = down)
{
	fake_break(fake_qp(IBV_QPT_RC, 0), IBV_WC_RETRY_EXC_ERR);
	fake_break(fake_qp(IBV_QPT_RC, 1), IBV_WC_RETRY_EXC_ERR);
	guest_send(&a, 5, 1000);
	lab_send(&b, 5, 1000);
	cr_assert(lab_until_down(loop, at_a));
	fake.down = PORT_OF_A | PORT_OF_B;
	until_error(at_a, "port is down");
	ports_return(2);
}

/* Nobody has answered yet. */
Test(link_ib, rc_port_down_while_connecting_B6, .fini = down)
{
	type = "rc";
	vms_make();
	fake.down = PORT_OF_B;
	at_a = vm_link(&a, A, B);
	at_b = vm_link(&b, B, A);
	until_error(at_b, "No route to host");
	lab_run(loop);
	fake.down = PORT_OF_A;
	until_error(at_a, "port is down");
	ports_return(1);
}

/* Nothing to say to anybody: the address is not there. */
Test(link_ib, rc_port_down_while_away_B6, .fini = down)
{
	type = "rc";
	vms_make();
	at_a = vm_link(&a, A, B);
	until_error(at_a, "nobody listens");
	fake.down = PORT_OF_A;
	until_error(at_a, "No route to host");
	at_b = vm_link(&b, B, A);
	until_error(at_b, "does not answer");
	ports_return(1);
}

/* A guest that is reset meanwhile has its memory back. */
Test(link_ib, rc_guest_resets_while_port_is_down, .init = rc_up, .fini = down)
{
	fake.paused = true;
	guest_send(&a, 20, 3000);
	fake.down = PORT_OF_A;
	core_let_go(a.core);
	cr_assert_eq(released, 20);
	fake_resume();
	until_error(at_a, "port is down");
	ports_return(2);
}

Test(link_ib, ud_port_goes_down_B6, .init = ud_up, .fini = down)
{
	fake.down = PORT_OF_A;
	until_error(at_a, "No route to host");
	until_error(at_b, "does not answer");
	ports_return(2);
}

/* --- every call may fail ------------------------------------------------------------------------
 */

/* A frame crosses each way, if not the first: what fails may take some with it. */
static void some_frames_cross(void)
{
	for (unsigned i = 0; i < 3000 && !(a.frames && b.frames); i++) {
		guest_send(&a, 1, 1000);
		guest_send(&b, 1, 1000);
		lab_run(loop);
	}
	cr_assert(a.frames && b.frames);
	cr_assert_eq(a.bad + b.bad, 0);
}

/* Try with the n-th call failing. Returns false when there was no n-th. */
static bool try_failure(unsigned n)
{
	bool failed;

	vms_make();
	fake.fail_at = n;
	at_a = vm_link(&a, A, B);
	cr_assert(at_a || *a.error, "call %u", n);
	at_b = vm_link(&b, B, A);
	cr_assert(at_b || *b.error, "call %u", n);
	if (at_a && at_b) {
		cr_assert(lab_until(loop, both_up, NULL), "call %u: %s; %s", n,
			  lab_status(at_a).error, lab_status(at_b).error);
		some_frames_cross();
	}
	failed = fake.failed;
	down();
	return failed;
}

static void every_failure(const char *kind)
{
	unsigned n = 1;

	type = kind;
	while (try_failure(n))
		n++;
	cr_assert_gt(n, 40);
}

Test(link_ib, rc_every_call_fails_once_B10)
{
	every_failure("rc");
}

Test(link_ib, ud_every_call_fails_once_B10)
{
	every_failure("ud");
}

/* --- what the user writes -----------------------------------------------------------------------
 */

static const struct {
	const char *listen, *link, *word;
} nonsense[] = {
    {NULL, "ib://10.0.0.2,type=uc", "type is rc or ud"},
    {NULL, "ib://:6081", "HOST:PORT"},
    {NULL, "ib://10.0.0.2:99999", "port"},
    {"ib://10.0.0.1,type=x", NULL, "type is rc or ud"},
    {"ib://10.0.0.1,name=x", NULL, "name="},
    {"ib://10.0.0.1", "ib://10.0.0.1", "itself"},
};

Test(link_ib, nonsense_is_refused)
{
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		int err = 0;

		vms_make();
		if (nonsense[i].listen)
			err = lab_listen(&a, nonsense[i].listen);
		if (!err && nonsense[i].link)
			err = lab_link(&a, nonsense[i].link) ? 0 : -1;
		cr_assert(err);
		cr_assert(strstr(a.error, nonsense[i].word), "%zu: %s", i, a.error);
		down();
	}
}

Test(link_ib, twice_is_refused, .fini = down)
{
	vms_make();
	cr_assert_eq(lab_listen(&a, "ib://10.0.0.1"), 0);
	cr_assert_eq(lab_listen(&a, "ib://10.0.0.3"), -EINVAL);
	cr_assert_eq(lab_listen(&a, "ib://10.0.0.1,type=ud"), 0);
	cr_assert_not_null(lab_link(&a, "ib://10.0.0.2"));
	cr_assert_null(lab_link(&a, "ib://10.0.0.2:6081"));
	cr_assert_not_null(lab_link(&a, "ib://10.0.0.2:6081,type=ud,name=other"), "%s", a.error);
	cr_assert_eq(lab_listen(&b, "ib://10.0.0.1"), -EADDRINUSE);
}

Test(link_ib, no_adapter, .fini = down)
{
	vms_make();
	fake.absent = true;
	cr_assert_null(lab_link(&a, "ib://10.0.0.2"));
	cr_assert(strstr(a.error, "no InfiniBand"), "%s", a.error);
	cr_assert_eq(lab_listen(&a, "ib://10.0.0.1"), -ENODEV);
}

Test(link_ib, no_link_key, .fini = down)
{
	static const struct seal_key key;
	struct link_env env;

	vms_make();
	lab_vm_down(&b);
	env = (struct link_env){.loop = loop, .vni = LAB_VNI, .key = &key, .ib_calls = &fake_verbs};
	lab_vm_make(&b, &env);
	cr_assert_null(lab_link(&b, "ib://10.0.0.1"));
	cr_assert(strstr(b.error, "link key"), "%s", b.error);
}
