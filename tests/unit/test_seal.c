/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two seals over a scripted path, on a clock of their own (B2). */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_path.h"
#include "vnet/seal.c" /* its insides: counters that nobody lives to see */

#define MS	    MS_NS
#define S	    S_NS
#define CONTENT_MAX 1400u
#define CONTENTS    20000u

struct rig;

struct end {
	struct seal *seal;
	struct rig *rig;
	unsigned ready;
	bool deaf;
	uint32_t sent;			/* contents, numbered */
	uint8_t got[CONTENTS];		/* how often each one came */
	size_t drops[DROP_REASONS + 1]; /* the last: nothing wrong */
};

struct rig {
	struct end ends[2];
	struct fake_path path;
	struct seal_key key[2];
	uint64_t traffic; /* ns between contents of each end; 0: none */
	uint64_t traffic_next;
	uint8_t last[CONTENT_MAX + SEAL_OVERHEAD]; /* sealed, as it flew */
	size_t last_len;
};

static int end_send(void *context, const void *datagram, size_t len)
{
	struct end *end = context;
	struct rig *rig = end->rig;
	unsigned to = end == &rig->ends[0];

	if (!rig->ends[to].deaf)
		fake_path_send(&rig->path, to, datagram, len);
	return 0;
}

static void end_ready(void *context)
{
	((struct end *)context)->ready++;
}

static const struct seal_ops ops = {.send = end_send, .ready = end_ready};

static void end_start(struct rig *rig, unsigned index)
{
	struct end *end = &rig->ends[index];

	end->rig = rig;
	end->ready = 0;
	end->seal = seal_create(&rig->key[index], &ops, end);
	cr_assert_not_null(end->seal);
}

static void end_kill(struct rig *rig, unsigned index)
{
	seal_destroy(rig->ends[index].seal);
	rig->ends[index].seal = NULL;
}

static struct rig *rig_open(void)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	fake_path_open(&rig->path);
	memset(rig->key, 0x5a, sizeof(rig->key));
	return rig;
}

static void rig_close(struct rig *rig)
{
	fake_path_close(&rig->path);
	seal_destroy(rig->ends[0].seal);
	seal_destroy(rig->ends[1].seal);
	free(rig);
}

/* Content number @n has a length and bytes that tell it. */
static int content_send(struct rig *rig, unsigned from)
{
	struct end *end = &rig->ends[from];
	uint8_t bytes[CONTENT_MAX];
	struct iovec iov[2] = {{.iov_base = bytes, .iov_len = 4}, {.iov_base = bytes + 4}};

	memset(bytes, (int)end->sent, sizeof(bytes));
	memcpy(bytes, &end->sent, 4);
	iov[1].iov_len = end->sent % (CONTENT_MAX - 3);
	rig->last_len = 0;
	int len = seal_close(end->seal, iov, 2, rig->last, rig->path.now);

	if (len < 0)
		return len;
	cr_assert_eq((size_t)len, 4 + iov[1].iov_len + SEAL_OVERHEAD);
	rig->last_len = (size_t)len;
	end->sent++;
	return end_send(end, rig->last, rig->last_len);
}

/* A copy that is exactly as long, so that a sanitizer sees its end. Returns the content's number or
 * -1. */
static int64_t open_copy(struct rig *rig, unsigned to, const uint8_t *datagram, size_t len)
{
	struct end *end = &rig->ends[to];
	enum drop_reason reason = DROP_REASONS;
	uint8_t *copy = malloc(len ? len : 1), *content = NULL;
	uint32_t n = 0;
	size_t got;

	memcpy(copy, datagram, len);
	got = seal_open(end->seal, copy, len, &content, rig->path.now, &reason);
	end->drops[reason]++;
	if (got) {
		cr_assert_eq(reason, DROP_REASONS);
		memcpy(&n, content, 4);
		cr_assert_eq(got, 4 + n % (CONTENT_MAX - 3));
		for (size_t i = 4; i < got; i++)
			cr_assert_eq(content[i], (uint8_t)n);
		end->got[n % CONTENTS]++;
	}
	free(copy);
	return got ? (int64_t)n : -1;
}

static void land(struct rig *rig)
{
	struct fake_flight f = fake_path_take(&rig->path);

	if (rig->ends[f.to].seal)
		open_copy(rig, f.to, f.data, f.len);
	free(f.data);
}

static uint64_t end_next(const struct rig *rig, unsigned index)
{
	const struct seal *s = rig->ends[index].seal;

	return s ? seal_next(s) : UINT64_MAX;
}

static void traffic(struct rig *rig)
{
	rig->traffic_next = rig->path.now + rig->traffic;
	for (unsigned i = 0; i < 2; i++)
		if (rig->ends[i].seal)
			content_send(rig, i);
}

static void run(struct rig *rig, uint64_t duration)
{
	uint64_t end = rig->path.now + duration;

	for (;;) {
		unsigned index = end_next(rig, 1) < end_next(rig, 0);
		uint64_t timer = end_next(rig, index), flight = fake_path_next(&rig->path);
		uint64_t next = flight <= timer ? flight : timer;
		bool talk = rig->traffic && rig->traffic_next < next;

		if (talk)
			next = rig->traffic_next;
		if (next > end)
			break;
		if (next > rig->path.now)
			rig->path.now = next;
		if (talk) {
			traffic(rig);
		} else if (flight <= timer) {
			land(rig);
		} else {
			seal_tick(rig->ends[index].seal, rig->path.now);
			cr_assert_gt(end_next(rig, index), rig->path.now, "due again at once");
		}
	}
	rig->path.now = end;
}

static bool both_ready(const struct rig *rig)
{
	return seal_is_ready(rig->ends[0].seal) && seal_is_ready(rig->ends[1].seal);
}

/* Both ends use the same keys, each the other's. */
static void keys_match(const struct rig *rig)
{
	const struct keys *a = &rig->ends[0].seal->keys[CURRENT];
	const struct keys *b = &rig->ends[1].seal->keys[CURRENT];

	cr_assert(keys_live(a) && keys_live(b));
	cr_assert_eq(a->ours, b->theirs);
	cr_assert_eq(b->ours, a->theirs);
	cr_assert_neq(a->initiator, b->initiator);
	cr_assert_arr_eq(a->send.key, b->receive.key, CIPHER_KEY_SIZE);
	cr_assert_arr_eq(b->send.key, a->receive.key, CIPHER_KEY_SIZE);
	cr_assert(memcmp(a->send.key, a->receive.key, CIPHER_KEY_SIZE) != 0);
}

/* A content of each end arrives at the other. */
static void exchange(struct rig *rig)
{
	for (unsigned i = 0; i < 2; i++) {
		uint32_t n = rig->ends[i].sent;
		uint8_t before = rig->ends[!i].got[n % CONTENTS];

		cr_assert_eq(content_send(rig, i), 0);
		run(rig, 5 * rig->path.delay);
		cr_assert_eq(rig->ends[!i].got[n % CONTENTS], before + 1);
	}
}

/* Two ends with keys. */
static struct rig *rig_ready(void)
{
	struct rig *rig = rig_open();

	end_start(rig, 0);
	end_start(rig, 1);
	run(rig, 1 * S);
	cr_assert(both_ready(rig));
	return rig;
}

Test(seal, agrees_keys_in_every_order)
{
	for (unsigned first = 0; first < 2; first++) {
		const uint64_t later[] = {0, 500000, 100 * MS, 400 * S};

		for (unsigned i = 0; i < sizeof(later) / sizeof(*later); i++) {
			struct rig *rig = rig_open();

			end_start(rig, first);
			run(rig, later[i]);
			cr_assert_eq(content_send(rig, first), -ENOTCONN, "fails closed");
			end_start(rig, !first);
			run(rig, 300 * MS);
			cr_assert(both_ready(rig));
			keys_match(rig);
			cr_assert_geq(rig->ends[0].ready, 1);
			cr_assert_geq(rig->ends[1].ready, 1);
			exchange(rig);
			rig_close(rig);
		}
	}
}

Test(seal, both_start_and_one_set_of_keys_comes_of_it)
{
	for (unsigned turn = 0; turn < 20; turn++) {
		struct rig *rig = rig_open();

		end_start(rig, 0);
		end_start(rig, 1);
		seal_tick(rig->ends[0].seal, rig->path.now);
		seal_tick(rig->ends[1].seal, rig->path.now);
		run(rig, 20 * MS);
		cr_assert_eq(rig->ends[0].ready, 1);
		cr_assert_eq(rig->ends[1].ready, 1);
		keys_match(rig);
		cr_assert_eq(rig->ends[0].seal->keys[CURRENT].initiator,
			     rig->ends[0].seal->id > rig->ends[1].seal->id);
		cr_assert_eq(rig->ends[0].seal->keys[PREVIOUS].ours, 0);
		rig_close(rig);
	}
}

Test(seal, converges_under_loss_repetition_and_reordering)
{
	for (unsigned turn = 0; turn < 30; turn++) {
		struct rig *rig = rig_open();

		rig->path.seed += turn;
		rig->path.loss = turn % 4 * 10;
		rig->path.repeat = 20;
		rig->path.reorder = 30;
		rig->traffic = 250 * MS;
		end_start(rig, 0);
		end_start(rig, 1);
		run(rig, 30 * S);
		cr_assert(both_ready(rig));
		run(rig, 600 * S);
		cr_assert(both_ready(rig));
		for (unsigned i = 0; i < 2; i++)
			for (uint32_t n = 0; n < rig->ends[!i].sent; n++)
				cr_assert_leq(rig->ends[i].got[n], 1, "a repeated datagram passed");
		rig->path.loss = 0;
		run(rig, 5 * S);
		keys_match(rig);
		exchange(rig);
		rig_close(rig);
	}
}

Test(seal, rekeys_under_traffic_without_loss)
{
	struct rig *rig = rig_ready();
	unsigned ready = rig->ends[0].ready;

	rig->path.reorder = 20;
	rig->path.delay = 30 * MS;
	rig->traffic = 40 * MS;
	run(rig, 620 * S);
	rig->traffic = 0;
	run(rig, 1 * S);
	cr_assert_geq(rig->ends[0].ready - ready, 5);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_gt(rig->ends[!i].sent, 15000);
		cr_assert_lt(rig->ends[!i].sent, CONTENTS);
		for (uint32_t n = 0; n < rig->ends[!i].sent; n++)
			cr_assert_eq(rig->ends[i].got[n], 1);
		cr_assert_eq(rig->ends[i].drops[DROP_KEY], 0);
		cr_assert_eq(rig->ends[i].drops[DROP_REPLAY], 0);
	}
	keys_match(rig);
	rig_close(rig);
}

Test(seal, rekeys_after_many_datagrams)
{
	struct rig *rig = rig_ready();
	unsigned ready = rig->ends[0].ready;

	rig->ends[0].seal->keys[CURRENT].counter = REKEY_COUNT - 2;
	for (unsigned i = 0; i < 10; i++)
		exchange(rig);
	cr_assert_eq(rig->ends[0].ready, ready + 1);
	cr_assert_lt(rig->ends[0].seal->keys[CURRENT].counter, 100);
	keys_match(rig);
	rig_close(rig);
}

Test(seal, counter_never_wraps)
{
	struct rig *rig = rig_ready();
	struct keys *sender = &rig->ends[0].seal->keys[CURRENT];
	const struct keys *receiver = &rig->ends[1].seal->keys[CURRENT];

	rig->path.loss = 100;
	sender->counter = REJECT_COUNT - 1;
	cr_assert_eq(content_send(rig, 0), 0);
	cr_assert_eq(open_copy(rig, 1, rig->last, rig->last_len), 0);
	cr_assert_eq(content_send(rig, 0), -ENOTCONN);

	/* One who goes on nevertheless, up to the end of the numbers. */
	for (uint64_t counter = REJECT_COUNT;; counter = UINT64_MAX) {
		struct data_header header = {.type = SEAL_DATA, .version = SEAL_VERSION};
		uint8_t bytes[SEAL_OVERHEAD + 8] = {0};

		put32(header.index, receiver->ours);
		put64(header.counter, counter);
		memcpy(bytes, &header, sizeof(header));
		cipher_seal(&sender->send, counter, &header, sizeof(header), bytes, 8,
			    bytes + sizeof(header));
		cr_assert_eq(open_copy(rig, 1, bytes, sizeof(bytes)), -1);
		if (counter == UINT64_MAX)
			break;
	}
	cr_assert_eq(rig->ends[1].drops[DROP_KEY], 2);
	cr_assert_eq(receiver->replay.next, REJECT_COUNT);
	rig_close(rig);
}

Test(seal, replayed_and_reordered)
{
	struct rig *rig = rig_ready();
	static uint8_t kept[REPLAY_WINDOW + 100][SEAL_OVERHEAD + CONTENT_MAX];
	static size_t len[REPLAY_WINDOW + 100];
	const unsigned n = REPLAY_WINDOW + 100;
	size_t *drops = rig->ends[1].drops;

	rig->path.loss = 100;
	for (unsigned i = 0; i < n; i++) {
		content_send(rig, 0);
		memcpy(kept[i], rig->last, rig->last_len);
		len[i] = rig->last_len;
	}
	/* The last one first, then backwards: as many as the window holds are taken. */
	for (unsigned i = n; i-- > 0;)
		open_copy(rig, 1, kept[i], len[i]);
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(rig->ends[1].got[i], i >= n - REPLAY_WINDOW);
	cr_assert_eq(drops[DROP_REPLAY], 100);
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(open_copy(rig, 1, kept[i], len[i]), -1);
	cr_assert_eq(drops[DROP_REPLAY], 100 + n);
	rig_close(rig);
}

/* The window against one that remembers everything. */
Test(seal, replay_window_against_a_slow_one)
{
	static struct replay window;
	static bool seen[200000];
	struct fake_path dice;
	uint64_t top = 0;

	fake_path_open(&dice);
	memset(&window, 0, sizeof(window));
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < 300000; i++) {
		uint64_t counter = top + fake_path_chance(&dice) * fake_path_chance(&dice) *
					     (fake_path_chance(&dice) ? 1 : 7);
		bool good;

		counter = counter > 5000 ? counter - 5000 : 0;
		if (counter >= sizeof(seen))
			break;
		good = !seen[counter] && counter + REPLAY_WINDOW >= top;
		cr_assert_eq(replay_check(&window, counter), good);
		if (!good)
			continue;
		replay_mark(&window, counter);
		seen[counter] = true;
		if (counter >= top)
			top = counter + 1;
	}
	cr_assert_gt(top, 100000);
}

Test(seal, truncated_and_flipped_data)
{
	struct rig *rig = rig_ready();
	uint8_t bytes[sizeof(rig->last)];

	for (unsigned i = 0; i < 60; i++)
		exchange(rig);
	rig->path.loss = 100;
	content_send(rig, 0);
	memcpy(bytes, rig->last, rig->last_len);
	for (size_t len = 0; len < rig->last_len; len++)
		cr_assert_eq(open_copy(rig, 1, bytes, len), -1);
	for (size_t bit = 0; bit < rig->last_len * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_eq(open_copy(rig, 1, bytes, rig->last_len), -1);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	cr_assert_eq(open_copy(rig, 1, bytes, rig->last_len), rig->ends[0].sent - 1);
	rig_close(rig);
}

/* Each byte of INIT and ANSWER flipped, and each truncation, before the right one comes. */
Test(seal, truncated_and_flipped_handshake)
{
	struct rig *rig = rig_open();

	end_start(rig, 0);
	end_start(rig, 1);
	seal_tick(rig->ends[0].seal, rig->path.now);
	for (unsigned message = 0; message < 2; message++) {
		struct fake_flight *f = &rig->path.flights[0];
		unsigned to = f->to;

		cr_assert_eq(rig->path.flying, 1);
		for (size_t len = 0; len < f->len; len++)
			open_copy(rig, to, f->data, len);
		for (size_t bit = 0; bit < f->len * 8; bit++) {
			f->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
			open_copy(rig, to, f->data, f->len);
			f->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		cr_assert_eq(rig->path.flying, 1, "none of them is answered");
		cr_assert_eq(rig->ends[to].drops[DROP_REASONS], 0);
		land(rig);
		cr_assert_eq(rig->ends[to].drops[DROP_REASONS], 1);
	}
	run(rig, 10 * MS);
	cr_assert(both_ready(rig));
	exchange(rig);
	rig_close(rig);
}

Test(seal, other_key)
{
	struct rig *rig = rig_open();

	rig->key[1].bytes[31] ^= 1;
	end_start(rig, 0);
	end_start(rig, 1);
	run(rig, 200 * S);
	cr_assert_not(seal_is_ready(rig->ends[0].seal));
	cr_assert_not(seal_is_ready(rig->ends[1].seal));
	cr_assert_gt(rig->ends[0].drops[DROP_KEY], 50);
	cr_assert_eq(rig->ends[0].drops[DROP_REASONS], 0);
	rig_close(rig);
}

Test(seal, what_is_not_sealed)
{
	struct rig *rig = rig_ready();
	uint8_t bytes[100] = {0, 0, 0x65, 0x58}; /* Geneve */
	size_t *drops = rig->ends[0].drops;

	cr_assert_eq(open_copy(rig, 0, bytes, sizeof(bytes)), -1);
	bytes[0] = 0x08; /* VXLAN */
	cr_assert_eq(open_copy(rig, 0, bytes, sizeof(bytes)), -1);
	cr_assert_eq(open_copy(rig, 0, bytes, 0), -1);
	cr_assert_eq(drops[DROP_KEY], 3);
	rig_close(rig);
}

Test(seal, own_datagrams_come_back)
{
	struct rig *rig = rig_ready();

	seal_tick(rig->ends[0].seal, rig->path.now + REKEY_BACKUP_NS);
	cr_assert_eq(rig->path.flying, 1);
	cr_assert_eq(open_copy(rig, 0, rig->path.flights[0].data, rig->path.flights[0].len), -1);
	cr_assert_eq(rig->ends[0].drops[DROP_KEY], 1);
	content_send(rig, 0);
	cr_assert_eq(open_copy(rig, 0, rig->last, rig->last_len), -1);
	cr_assert_eq(rig->ends[0].drops[DROP_KEY], 2);
	rig_close(rig);
}

Test(seal, killed_and_returned)
{
	const uint64_t away[] = {0, 100 * MS, 4 * S, 60 * S, 1000 * S};

	for (unsigned i = 0; i < 2 * sizeof(away) / sizeof(*away); i++) {
		struct rig *rig = rig_ready();
		unsigned victim = i % 2;

		rig->traffic = 1 * S; /* as keepalives do */
		run(rig, 10 * S);
		end_kill(rig, victim);
		run(rig, away[i / 2]);
		if (away[i / 2] > REJECT_NS)
			cr_assert_not(seal_is_ready(rig->ends[!victim].seal));
		end_start(rig, victim);
		rig->traffic = 0;
		run(rig, 100 * MS);
		cr_assert(both_ready(rig));
		keys_match(rig);
		exchange(rig);
		rig_close(rig);
	}
}

/* A peer that lost its keys and says nothing is noticed by its silence. */
Test(seal, silent_loss_of_keys)
{
	struct rig *rig = rig_ready();

	end_kill(rig, 1);
	end_start(rig, 1);
	rig->ends[1].seal->attempt_ns = UINT64_MAX;
	rig->traffic = 1 * S;
	run(rig, 7 * S);
	cr_assert(both_ready(rig));
	keys_match(rig);
	rig_close(rig);
}

Test(seal, replayed_handshake)
{
	struct rig *rig = rig_open();
	struct noise_message init;
	struct keys before;
	unsigned flying;

	end_start(rig, 0);
	end_start(rig, 1);
	seal_tick(rig->ends[0].seal, rig->path.now);
	memcpy(&init, rig->path.flights[0].data, sizeof(init));
	land(rig);
	land(rig);
	run(rig, 10 * MS);
	cr_assert(both_ready(rig));
	before = rig->ends[1].seal->keys[CURRENT];

	/* It is not answered; at most we begin a handshake of our own, and not for each. */
	flying = rig->path.flying;
	for (unsigned i = 0; i < 1000; i++)
		open_copy(rig, 1, (uint8_t *)&init, sizeof(init));
	cr_assert_eq(rig->ends[1].drops[DROP_REPLAY], 1000);
	cr_assert_leq(rig->path.flying - flying, 1);
	cr_assert_eq(rig->ends[1].seal->keys[NEXT].ours, 0);
	cr_assert_arr_eq(&before, &rig->ends[1].seal->keys[CURRENT], sizeof(before));
	run(rig, 1 * S);
	keys_match(rig);
	exchange(rig);
	rig_close(rig);
}

/* An INIT that another implementation of Noise made: time 1, id 2, index 3, no AES. */
Test(seal, handshake_as_others_make_it)
{
	static const uint8_t init[] = {
	    0xc1, 0x01, 0x00, 0x00, 0x8f, 0x40, 0xc5, 0xad, 0xb6, 0x8f, 0x25, 0x62, 0x4a, 0xe5,
	    0xb2, 0x14, 0xea, 0x76, 0x7a, 0x6e, 0xc9, 0x4d, 0x82, 0x9d, 0x3d, 0x7b, 0x5e, 0x1a,
	    0xd1, 0xba, 0x6f, 0x3e, 0x21, 0x38, 0x28, 0x5f, 0x96, 0x6d, 0x05, 0xf8, 0x96, 0xde,
	    0x12, 0x09, 0x8d, 0x49, 0x31, 0x93, 0xed, 0x59, 0x67, 0x90, 0x00, 0x13, 0x97, 0xbb,
	    0x78, 0xfe, 0xd8, 0xc8, 0xa0, 0x83, 0x0c, 0x8e, 0x01, 0x1f, 0x90, 0x1d, 0x3f, 0x2f,
	    0x23, 0xcf, 0xaa, 0xea, 0x33, 0xb2, 0xe4, 0x55, 0x2f, 0x64, 0x06, 0x42, 0xcf, 0x42,
	    0x48, 0x84, 0x80, 0x6d, 0x12, 0xcc, 0x08, 0x8d,
	};
	struct rig *rig = rig_open();
	const struct keys *next;

	end_start(rig, 0);
	cr_assert_eq(open_copy(rig, 0, init, sizeof(init)), -1);
	cr_assert_eq(rig->ends[0].drops[DROP_REASONS], 1);
	cr_assert_eq(rig->path.flying, 1);
	cr_assert_eq(rig->path.flights[0].len, sizeof(init));
	next = &rig->ends[0].seal->keys[NEXT];
	cr_assert_eq(next->theirs, 3);
	cr_assert_not(next->send.aes);
	cr_assert_eq(rig->ends[0].seal->peer_time, 1);
	rig_close(rig);
}

/* The peer's clock was set back and it restarted: its INITs are old, yet keys are agreed. */
Test(seal, clock_set_back)
{
	struct rig *rig = rig_ready();

	end_kill(rig, 1);
	rig->ends[0].seal->peer_time = UINT64_MAX - 1;
	end_start(rig, 1);
	run(rig, 2 * S);
	cr_assert(both_ready(rig));
	keys_match(rig);
	exchange(rig);
	rig_close(rig);
}

Test(seal, ends_without_new_keys)
{
	struct rig *rig = rig_ready();

	rig->ends[0].deaf = rig->ends[1].deaf = true;
	run(rig, 170 * S);
	cr_assert(both_ready(rig));
	run(rig, 11 * S);
	cr_assert_not(seal_is_ready(rig->ends[0].seal));
	cr_assert_eq(content_send(rig, 0), -ENOTCONN);
	rig->ends[0].deaf = rig->ends[1].deaf = false;
	run(rig, 6 * S);
	cr_assert(both_ready(rig));
	keys_match(rig);
	exchange(rig);
	rig_close(rig);
}

/* With both ciphers, whatever this machine has. */
Test(seal, ciphers)
{
	static const size_t lengths[] = {0, 1, 15, 16, 17, 127, 1400, 65000};
	static uint8_t plain[65000], sealed[65000 + CIPHER_TAG_SIZE];
	static struct cipher c;
	const uint8_t key[CIPHER_KEY_SIZE] = {1, 2, 3};

	cr_assert_geq(sodium_init(), 0);
	memset(plain, 0x77, sizeof(plain));
	for (unsigned aes = 0; aes <= (unsigned)cipher_has_aes(); aes++) {
		cipher_set(&c, key, aes);
		for (unsigned i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
			size_t len = lengths[i];

			memcpy(sealed, plain, len);
			cipher_seal(&c, 7, "header", 6, sealed, len, sealed);
			cr_assert_not(
			    cipher_open(&c, 8, "header", 6, sealed, len + CIPHER_TAG_SIZE));
			cipher_seal(&c, 7, "header", 6, plain, len, sealed);
			cr_assert_not(
			    cipher_open(&c, 7, "Header", 6, sealed, len + CIPHER_TAG_SIZE));
			cipher_seal(&c, 7, "header", 6, plain, len, sealed);
			cr_assert(cipher_open(&c, 7, "header", 6, sealed, len + CIPHER_TAG_SIZE));
			cr_assert_arr_eq(sealed, plain, len);
		}
	}
}

/* --- the key's file --------------------------------------------------------------------------- */

static int key_file(const char *text, unsigned mode, struct seal_key *key, char error[256])
{
	char path[] = "/tmp/weft-seal-XXXXXX";
	int fd = mkstemp(path), rc;

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	cr_assert_eq(fchmod(fd, mode), 0);
	close(fd);
	rc = seal_key_read(path, key, error, 256);
	unlink(path);
	return rc;
}

#define HEX    "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"
#define BASE64 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

Test(seal, key_file)
{
	static const char *const good[] = {HEX, HEX "\n", "  " HEX " \r\n", BASE64, BASE64 "\n"};
	static const char *const bad[] = {
	    "",
	    "\n",
	    HEX "0",
	    HEX HEX,
	    HEX "\n" HEX,
	    HEX " # key",
	    "00010203",
	    BASE64 "=",
	    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
	    "0x0102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"};
	struct seal_key key;
	char error[256];

	for (unsigned i = 0; i < sizeof(good) / sizeof(*good); i++) {
		memset(&key, 0xff, sizeof(key));
		cr_assert_eq(key_file(good[i], 0600, &key, error), 0);
		for (uint8_t n = 0; n < SEAL_KEY_SIZE; n++)
			cr_assert_eq(key.bytes[n], n);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		cr_assert_eq(key_file(bad[i], 0600, &key, error), -EINVAL);
		cr_assert_not_null(strstr(error, "openssl rand -hex 32"));
		cr_assert_null(strstr(error, "0102"), "never shows the key");
	}
	for (unsigned mode = 0; mode < 0100; mode++)
		cr_assert_eq(key_file(HEX, 0400 | mode, &key, error), mode ? -EACCES : 0);
	cr_assert_not_null(strstr(error, "chmod 600"));
	cr_assert_eq(seal_key_read("/nonexistent", &key, error, sizeof(error)), -ENOENT);
	cr_assert_eq(seal_key_read("/tmp", &key, error, sizeof(error)), -EINVAL);
}
