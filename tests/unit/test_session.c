/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two sessions over a scripted path, on a clock of their own: nothing here waits or depends on
 * speed. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/fake_path.h"
#include "vnet/session.h"
#include "vnet/session_message.h"

#define MS	 1000000ull
#define S	 1000000000ull
#define OVERHEAD 8u
#define PATH_MIN 548u
#define PATH_MAX 1472u
#define PORT	 41000u

struct rig;

struct end {
	struct session *session;
	struct rig *rig;
	unsigned changes;
	size_t sent, sent_bytes;
	bool deaf; /* what is sent to it is lost */
};

struct rig {
	struct end ends[2];
	struct fake_path path;
	uint32_t local; /* largest that the host sends, bytes of UDP payload; 0: no limit */
	uint32_t max;	/* of the search */
};

static int end_send(void *context, const void *message, size_t len)
{
	struct end *end = context;
	struct rig *rig = end->rig;
	unsigned to = end == &rig->ends[0];

	if (rig->local && len + OVERHEAD > rig->local)
		return -EMSGSIZE;
	end->sent++;
	end->sent_bytes += len;
	if (!rig->ends[to].deaf)
		fake_path_send(&rig->path, to, message, len);
	return 0;
}

static void end_changed(void *context)
{
	((struct end *)context)->changes++;
}

static const struct session_ops ops = {.send = end_send, .changed = end_changed};

static struct session_self self_of(unsigned index)
{
	return (struct session_self){.offloads = index ? PORT_CSUM | PORT_TSO4 : PORT_OFFLOADS,
				     .frame_max = index ? 9014 : FRAME_SIZE_MAX,
				     .features = SESSION_FRAGMENTS,
				     .ports = {(uint16_t)(PORT + index), 7}};
}

static void end_start(struct rig *rig, unsigned index, bool plain_ok)
{
	struct end *end = &rig->ends[index];
	struct session_self self = self_of(index);

	end->rig = rig;
	end->deaf = false;
	end->session = session_create(&self, &ops, end, PATH_MIN, rig->max, OVERHEAD, plain_ok);
	cr_assert_not_null(end->session);
	session_observe(end->session, (uint16_t)(PORT + !index));
}

/* What flies to it is lost too, as to a process that was killed. */
static void end_kill(struct rig *rig, unsigned index)
{
	session_destroy(rig->ends[index].session);
	rig->ends[index].session = NULL;
}

/* The largest UDP payload that passes; larger ones vanish. */
static void path_set(struct rig *rig, uint32_t payload)
{
	rig->path.limit = payload - OVERHEAD;
}

static void rig_open(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	fake_path_open(&rig->path);
	path_set(rig, PATH_MAX);
	rig->max = PATH_MAX;
}

static void rig_close(struct rig *rig)
{
	fake_path_close(&rig->path);
	for (unsigned i = 0; i < 2; i++)
		session_destroy(rig->ends[i].session);
}

static void land(struct rig *rig)
{
	struct fake_flight f = fake_path_take(&rig->path);
	struct session *s = rig->ends[f.to].session;

	if (s)
		cr_assert(session_message(s, f.data, f.len, rig->path.now));
	free(f.data);
}

static void tick(struct rig *rig, unsigned index)
{
	struct session *s = rig->ends[index].session;

	session_tick(s, rig->path.now);
	cr_assert_gt(session_next(s), rig->path.now, "a tick that is due again at once");
}

static uint64_t end_next(const struct rig *rig, unsigned index)
{
	const struct session *s = rig->ends[index].session;

	return s ? session_next(s) : UINT64_MAX;
}

static void run(struct rig *rig, uint64_t duration)
{
	uint64_t end = rig->path.now + duration;

	for (;;) {
		unsigned index = end_next(rig, 1) < end_next(rig, 0);
		uint64_t timer = end_next(rig, index), flight = fake_path_next(&rig->path);
		uint64_t next = flight <= timer ? flight : timer;

		if (next > end)
			break;
		if (next > rig->path.now)
			rig->path.now = next;
		if (flight <= timer)
			land(rig);
		else
			tick(rig, index);
	}
	rig->path.now = end;
}

static struct link_status status(const struct rig *rig, unsigned index)
{
	struct link_status status;

	session_status(rig->ends[index].session, &status);
	return status;
}

static bool both_up(const struct rig *rig)
{
	return status(rig, 0).state == LINK_UP && status(rig, 1).state == LINK_UP;
}

static void peers_know_each_other(const struct rig *rig)
{
	for (unsigned i = 0; i < 2; i++) {
		struct session_self expected = self_of(!i);
		const struct session *s = rig->ends[i].session;

		cr_assert_arr_eq(session_peer(s), &expected, sizeof(expected));
		cr_assert_eq(session_observed_port(s), PORT + i);
	}
}

Test(session, comes_up_in_every_order)
{
	for (unsigned first = 0; first < 2; first++) {
		const uint64_t later[] = {0, 1 * MS, 100 * MS, 20 * S, 200 * S};

		for (unsigned i = 0; i < sizeof(later) / sizeof(*later); i++) {
			struct rig rig;

			rig_open(&rig);
			end_start(&rig, first, true);
			run(&rig, later[i]);
			cr_assert_eq(status(&rig, first).state, LINK_PLAIN);
			end_start(&rig, !first, true);
			run(&rig, 3 * MS);
			cr_assert(both_up(&rig), "a round trip and a half");
			cr_assert_eq(status(&rig, first).ups, 1);
			run(&rig, 1 * S);
			peers_know_each_other(&rig);
			cr_assert_eq(status(&rig, 0).rtt_ns, 2 * MS);
			run(&rig, 600 * S);
			cr_assert_eq(status(&rig, 0).ups, 1);
			cr_assert_eq(status(&rig, 1).ups, 1);
			rig_close(&rig);
		}
	}
}

Test(session, both_at_the_very_same_time)
{
	struct rig rig;

	rig_open(&rig);
	end_start(&rig, 0, false);
	end_start(&rig, 1, false);
	cr_assert_eq(status(&rig, 0).state, LINK_DOWN, "no plain frames with a key");
	session_tick(rig.ends[0].session, rig.path.now);
	session_tick(rig.ends[1].session, rig.path.now);
	run(&rig, 3 * MS);
	cr_assert(both_up(&rig));
	cr_assert_eq(status(&rig, 0).ups, 1);
	cr_assert_eq(status(&rig, 1).ups, 1);
	rig_close(&rig);
}

Test(session, eager_at_first_then_rare)
{
	struct rig rig;
	size_t sent;

	rig_open(&rig);
	end_start(&rig, 0, true);
	run(&rig, 10 * S);
	cr_assert_eq(rig.ends[0].sent, 41);
	cr_assert_str_eq(status(&rig, 0).error, "no answer yet");
	run(&rig, 90 * S);
	sent = rig.ends[0].sent;
	run(&rig, 50 * S);
	cr_assert_eq(rig.ends[0].sent - sent, 10, "every 5 s to one that never was");
	cr_assert_eq(status(&rig, 0).state, LINK_PLAIN);
	cr_assert_eq(rig.ends[0].changes, 0);
	rig_close(&rig);
}

Test(session, silence_is_noticed_and_return_too)
{
	struct rig rig;
	uint64_t lost;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 100 * S);
	rig.ends[0].deaf = rig.ends[1].deaf = true;
	lost = rig.path.now;
	run(&rig, 3 * S - 100 * MS);
	cr_assert(both_up(&rig), "a short silence is nothing");
	run(&rig, 1100 * MS + 10 * MS);
	cr_assert_eq(status(&rig, 0).state, LINK_DOWN);
	cr_assert_eq(status(&rig, 1).state, LINK_DOWN);
	cr_assert_gt(status(&rig, 0).since_ns, lost);
	cr_assert_str_eq(status(&rig, 0).error, "no answer for 3 s");
	cr_assert_eq(session_peer(rig.ends[0].session)->frame_max, 0);
	cr_assert_eq(session_payload(rig.ends[0].session), PATH_MAX);

	run(&rig, 1000 * S);
	rig.ends[0].deaf = rig.ends[1].deaf = false;
	run(&rig, 1 * S + 3 * MS);
	cr_assert(both_up(&rig));
	cr_assert_eq(status(&rig, 0).ups, 2);
	peers_know_each_other(&rig);
	rig_close(&rig);
}

/* One direction fails: both ends must stop within some seconds, and stay so. */
Test(session, one_way_is_no_way)
{
	struct rig rig;
	uint64_t ups;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 20 * S);
	rig.ends[1].deaf = true;
	run(&rig, 15 * S);
	cr_assert_eq(status(&rig, 0).state, LINK_DOWN);
	cr_assert_eq(status(&rig, 1).state, LINK_DOWN);
	ups = status(&rig, 0).ups;
	run(&rig, 100 * S);
	cr_assert_eq(status(&rig, 0).ups, ups);
	rig_close(&rig);
}

Test(session, restart_is_recognised_at_once)
{
	const uint64_t away[] = {0, 10 * MS, 2 * S, 5 * S, 100 * S};

	for (unsigned i = 0; i < 2 * sizeof(away) / sizeof(*away); i++) {
		struct rig rig;
		unsigned victim = i % 2;
		unsigned changes;

		rig_open(&rig);
		end_start(&rig, 0, true);
		end_start(&rig, 1, true);
		run(&rig, 10 * S);
		end_kill(&rig, victim);
		run(&rig, away[i / 2]);
		changes = rig.ends[!victim].changes;
		end_start(&rig, victim, true);
		run(&rig, 5 * MS);
		cr_assert(both_up(&rig));
		cr_assert_eq(status(&rig, !victim).ups, 2);
		cr_assert_gt(rig.ends[!victim].changes, changes, "its user is told");
		cr_assert_eq(session_payload(rig.ends[0].session), PATH_MAX);
		run(&rig, 100 * S);
		cr_assert_eq(status(&rig, !victim).ups, 2);
		peers_know_each_other(&rig);
		rig_close(&rig);
	}
}

Test(session, loss_duplication_and_reordering)
{
	for (unsigned loss = 0; loss <= 30; loss += 10) {
		for (unsigned turn = 1; turn <= 10; turn++) {
			struct rig rig;

			rig_open(&rig);
			rig.path.seed += turn;
			rig.path.loss = loss;
			rig.path.repeat = 10;
			rig.path.reorder = 30;
			path_set(&rig, PATH_MIN + turn * 83);
			end_start(&rig, 0, true);
			end_start(&rig, 1, true);
			run(&rig, 15 * S);
			cr_assert(both_up(&rig));
			run(&rig, 585 * S);
			cr_assert(both_up(&rig));
			cr_assert(loss == 30 || status(&rig, 0).ups == 1);
			peers_know_each_other(&rig);
			rig.path.loss = 0; /* the last check may have been misled by chance */
			run(&rig, 60 * S);
			cr_assert_eq(session_payload(rig.ends[0].session),
				     rig.path.limit + OVERHEAD);
			cr_assert_eq(session_payload(rig.ends[1].session),
				     rig.path.limit + OVERHEAD);
			rig_close(&rig);
		}
	}
}

Test(session, path_mtu_to_the_byte)
{
	struct rig rig;

	for (uint32_t path = PATH_MIN; path <= 9000; path += path < 1500 ? 1 : 251) {
		rig_open(&rig);
		path_set(&rig, path);
		rig.max = 8972;
		rig.path.delay = 100000;
		end_start(&rig, 0, true);
		end_start(&rig, 1, true);
		cr_assert_eq(session_payload(rig.ends[0].session), rig.max);
		run(&rig, 10 * S);
		cr_assert_eq(session_payload(rig.ends[0].session), path < rig.max ? path : rig.max);
		cr_assert_eq(session_payload(rig.ends[1].session), path < rig.max ? path : rig.max);
		cr_assert_leq(rig.ends[0].changes, 3, "not each step of the search");
		rig_close(&rig);
	}
}

Test(session, path_mtu_takes_no_longer_than_it_must)
{
	struct rig rig;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 20 * MS);
	path_set(&rig, 600);
	session_too_big(rig.ends[0].session, 600, rig.path.now);
	cr_assert_eq(session_payload(rig.ends[0].session), 600);
	rig_close(&rig);

	rig_open(&rig);
	path_set(&rig, 1400);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 4 * S);
	cr_assert_eq(session_payload(rig.ends[0].session), 1400);
	rig_close(&rig);
}

/* The interface's own limit is below what the search was given. */
Test(session, path_mtu_of_the_own_interface)
{
	struct rig rig;

	rig_open(&rig);
	rig.local = 1300;
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 100 * MS);
	cr_assert_eq(session_payload(rig.ends[0].session), 1300, "no timeout is needed");
	rig_close(&rig);
}

Test(session, path_mtu_lowered_and_raised_in_flight)
{
	struct rig rig;
	unsigned changes;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 10 * S);
	changes = rig.ends[0].changes;
	path_set(&rig, 1111);
	session_too_big(rig.ends[0].session, 1200, rig.path.now);
	cr_assert_eq(session_payload(rig.ends[0].session), 1200, "at once");
	cr_assert_eq(rig.ends[0].changes, changes + 1);
	session_too_big(rig.ends[0].session, 1400, rig.path.now);
	cr_assert_eq(session_payload(rig.ends[0].session), 1200);
	run(&rig, 6 * S);
	cr_assert_eq(session_payload(rig.ends[0].session), 1111);

	path_set(&rig, 1350);
	run(&rig, 60 * S);
	cr_assert_eq(session_payload(rig.ends[0].session), 1350);
	session_too_big(rig.ends[0].session, 1, rig.path.now);
	cr_assert_eq(session_payload(rig.ends[0].session), PATH_MIN,
		     "a forged one cannot choke it");
	run(&rig, 60 * S);
	cr_assert_eq(session_payload(rig.ends[0].session), 1350);
	rig_close(&rig);
}

Test(session, path_mtu_black_hole)
{
	struct rig rig;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 100 * S);
	path_set(&rig, 777);
	run(&rig, 12 * S);
	cr_assert_eq(session_payload(rig.ends[0].session), 777);
	cr_assert_eq(session_payload(rig.ends[1].session), 777);
	cr_assert_eq(status(&rig, 0).ups, 1);
	rig_close(&rig);
}

/* A second in which large datagrams are lost, just when the size is checked: nobody is to see it.
 */
Test(session, path_mtu_survives_a_bad_moment)
{
	struct rig rig;
	unsigned changes;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 4900 * MS);
	changes = rig.ends[0].changes;
	path_set(&rig, 600);
	run(&rig, 1 * S);
	path_set(&rig, PATH_MAX);
	for (unsigned i = 0; i < 200; i++) {
		run(&rig, 100 * MS);
		cr_assert_eq(session_payload(rig.ends[0].session), PATH_MAX);
	}
	cr_assert_eq(rig.ends[0].changes, changes);
	rig_close(&rig);
}

Test(session, far_away_peer)
{
	struct rig rig;

	rig_open(&rig);
	rig.path.delay = 400 * MS;
	path_set(&rig, 1234);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 300 * S);
	cr_assert_eq(status(&rig, 0).ups, 1);
	cr_assert_eq(status(&rig, 0).rtt_ns, 800 * MS);
	cr_assert_eq(session_payload(rig.ends[0].session), 1234);
	rig_close(&rig);
}

Test(session, losses_are_told)
{
	struct rig rig;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 1 * S);
	session_lost(rig.ends[0].session, 4711);
	run(&rig, 2 * S);
	cr_assert_eq(session_peer_lost(rig.ends[1].session), 4711);
	cr_assert_eq(session_peer_lost(rig.ends[0].session), 0);
	session_error(rig.ends[0].session, "Network is unreachable", rig.path.now);
	cr_assert_str_eq(status(&rig, 0).error, "Network is unreachable");
	cr_assert(both_up(&rig));
	rig_close(&rig);
}

/* Messages that a stranger writes. */

static struct session_message stranger(uint8_t type)
{
	return (struct session_message){.type = type, .session = 42, .self = self_of(1)};
}

static size_t stranger_build(uint8_t out[SESSION_HELLO_SIZE], const struct session_message *m)
{
	memset(out, 0, SESSION_HELLO_SIZE);
	return session_message_build(out, m);
}

Test(session, a_forgery_changes_nothing)
{
	struct session_message m = stranger(SESSION_HELLO);
	uint8_t bytes[SESSION_HELLO_SIZE];
	struct rig rig;
	unsigned changes;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	run(&rig, 10 * S);
	changes = rig.ends[0].changes;
	stranger_build(bytes, &m);
	for (unsigned type = 0; type < 256; type++) {
		bytes[5] = (uint8_t)type;
		session_message(rig.ends[0].session, bytes, sizeof(bytes), rig.path.now);
	}
	run(&rig, 30 * S);
	cr_assert_eq(rig.ends[0].changes, changes);
	cr_assert_eq(status(&rig, 0).ups, 1);
	peers_know_each_other(&rig);
	rig_close(&rig);
}

Test(session, answers_are_few_and_short)
{
	struct session_message m = stranger(SESSION_HELLO);
	uint8_t bytes[SESSION_HELLO_SIZE];
	struct rig rig;
	size_t len, sent;

	rig_open(&rig);
	end_start(&rig, 0, true);
	run(&rig, 0);
	rig.ends[1].deaf = true;
	len = stranger_build(bytes, &m);

	sent = rig.ends[0].sent;
	session_message(rig.ends[0].session, bytes, len, rig.path.now);
	cr_assert_eq(rig.ends[0].sent, sent, "its answer would be longer: it tells the port");

	rig.ends[0].sent_bytes = 0;
	for (unsigned i = 0; i < 10000; i++)
		session_message(rig.ends[0].session, bytes, sizeof(bytes),
				rig.path.now + i * MS / 10);
	cr_assert_geq(rig.ends[0].sent - sent, 8);
	cr_assert_leq(rig.ends[0].sent - sent, 17, "8 at once, 8 a second");
	cr_assert_leq(rig.ends[0].sent_bytes, (rig.ends[0].sent - sent) * sizeof(bytes));
	rig_close(&rig);
}

Test(session, other_version)
{
	struct session_message m = stranger(SESSION_HELLO);
	uint8_t bytes[SESSION_HELLO_SIZE];

	for (unsigned plain = 0; plain < 2; plain++) {
		struct rig rig;

		rig_open(&rig);
		end_start(&rig, 0, plain);
		stranger_build(bytes, &m);
		bytes[4] = SESSION_VERSION + 1;
		for (size_t len = 5; len < sizeof(bytes); len++)
			cr_assert(session_message(rig.ends[0].session, bytes, len, rig.path.now));
		cr_assert_eq(status(&rig, 0).state, plain ? LINK_PLAIN : LINK_DOWN);
		cr_assert_not_null(strstr(status(&rig, 0).error, "version is 2, ours is 1"));
		cr_assert_eq(rig.ends[0].sent, 0);

		end_start(&rig, 1, plain);
		run(&rig, 10 * S);
		cr_assert(both_up(&rig), "after an upgrade");
		session_message(rig.ends[0].session, bytes, sizeof(bytes), rig.path.now);
		cr_assert(both_up(&rig));
		end_kill(&rig, 1);
		run(&rig, 10 * S);
		cr_assert_eq(status(&rig, 0).state, LINK_DOWN);
		session_message(rig.ends[0].session, bytes, sizeof(bytes), rig.path.now);
		cr_assert_eq(status(&rig, 0).state, plain ? LINK_PLAIN : LINK_DOWN);
		rig_close(&rig);
	}
}

Test(session, own_messages_come_back)
{
	struct rig rig;

	rig_open(&rig);
	end_start(&rig, 0, true);
	run(&rig, 0);
	cr_assert_eq(rig.path.flying, 1);
	rig.path.flights[0].to = 0;
	run(&rig, 10 * MS);
	cr_assert_eq(status(&rig, 0).state, LINK_PLAIN);
	cr_assert_not_null(strstr(status(&rig, 0).error, "come back"));
	rig_close(&rig);
}

/* A copy that is exactly as long, so that a sanitizer sees its end. */
static bool exact(struct session *s, const uint8_t *bytes, size_t len, uint64_t now)
{
	uint8_t *copy = malloc(len ? len : 1);
	bool good;

	memcpy(copy, bytes, len);
	good = session_message(s, copy, len, now);
	free(copy);
	return good;
}

Test(session, truncated)
{
	struct session_message m = stranger(SESSION_HELLO_ANSWER);
	uint8_t bytes[SESSION_HELLO_SIZE];
	struct rig rig;
	size_t len;

	rig_open(&rig);
	end_start(&rig, 0, true);
	m.observed = 7;
	len = stranger_build(bytes, &m);
	for (size_t cut = 0; cut < len; cut++)
		cr_assert_not(exact(rig.ends[0].session, bytes, cut, rig.path.now));
	for (size_t more = len; more <= sizeof(bytes); more++)
		cr_assert(exact(rig.ends[0].session, bytes, more, rig.path.now), "padding");
	for (size_t cut = SESSION_HEADER; cut < len; cut++) { /* and the length says so */
		bytes[7] = (uint8_t)cut;
		cr_assert_eq(exact(rig.ends[0].session, bytes, cut, rig.path.now),
			     cut == 54 || cut == 60 || cut == 64, "only whole fields");
	}
	rig_close(&rig);
}

/* Every message that flies is also delivered with every byte flipped: it must do no harm, at most
 * an unknown value. */
Test(session, every_byte_flipped)
{
	struct session_message m = stranger(SESSION_HELLO_ANSWER);
	uint8_t bytes[SESSION_HELLO_SIZE];
	struct rig rig;
	size_t len;

	rig_open(&rig);
	end_start(&rig, 0, true);
	end_start(&rig, 1, true);
	len = stranger_build(bytes, &m);
	for (uint64_t second = 0; second < 100; second++) {
		run(&rig, 100 * MS);
		for (unsigned i = 0; i < rig.path.flying; i++) {
			struct fake_flight *f = &rig.path.flights[i];
			size_t at = (size_t)(second * 7 + i) % (f->len < 128 ? f->len : 128);

			f->data[at] ^= 0xff;
			exact(rig.ends[f->to].session, f->data, f->len, rig.path.now);
			f->data[at] ^= 0xff;
		}
	}
	for (unsigned at = 0; at < len * 8; at++) {
		bytes[at / 8] ^= (uint8_t)(1u << at % 8);
		exact(rig.ends[0].session, bytes, len, rig.path.now);
		bytes[at / 8] ^= (uint8_t)(1u << at % 8);
	}
	run(&rig, 10 * S);
	cr_assert(both_up(&rig));
	peers_know_each_other(&rig);
	rig_close(&rig);
}

Test(session, message_format)
{
	struct session_message m = stranger(SESSION_HELLO), got;
	uint8_t bytes[SESSION_HELLO_SIZE];
	const uint8_t head[] = {'w', 'e', 'f', 't', 1, 1, 0, 74, 0, 0, 0, 0, 0, 0, 0, 42};
	const uint8_t fields[] = {1, 12, 0, 0,	  0,	3, 0, 0, 0x23, 0x36, 0, 0, 0,
				  1, 2,	 4, 0xa0, 0x29, 0, 7, 3, 2,    0,    7, 4, 8};
	size_t len;

	m.observed = 7;
	m.self.offloads = PORT_CSUM | PORT_TSO4;
	len = stranger_build(bytes, &m);
	cr_assert_eq(len, 74);
	cr_assert_arr_eq(bytes, head, sizeof(head));
	cr_assert_arr_eq(bytes + SESSION_HEADER, fields, sizeof(fields));

	/* A later version's longer field, and one that nobody knows. */
	memmove(bytes + SESSION_HEADER + 17, bytes + SESSION_HEADER + 14,
		len - SESSION_HEADER - 14);
	bytes[SESSION_HEADER + 1] = 15;
	memcpy(bytes + len + 3, "\xee\x02xx", 4);
	bytes[7] = (uint8_t)(len + 7);
	cr_assert(session_message_parse(bytes, sizeof(bytes), &got));
	cr_assert_arr_eq(&got.self, &m.self, sizeof(m.self));
	cr_assert_eq(got.observed, 7);

	/* A field twice, a value that makes no sense. */
	memcpy(bytes + len + 3, "\x03\x02xx", 4);
	cr_assert_not(session_message_parse(bytes, sizeof(bytes), &got));
	m.self.frame_max = 1;
	m.self.offloads = ~0u;
	stranger_build(bytes, &m);
	cr_assert(session_message_parse(bytes, sizeof(bytes), &got));
	cr_assert_eq(got.self.frame_max, FRAME_SIZE_MIN);
	cr_assert_eq(got.self.offloads, PORT_OFFLOADS);
}
