/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames in parts: cut, and joined in spite of loss, duplication, any order, and parts that lie
 * (B3). A part lies in memory of exactly its size, which is given back at reassembly_flush(): a
 * sanitizer sees what is read too far or too late.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "vnet/fragment.h"
#include "vnet/geneve.h"
#include "vnet/iovec.h"

#define MEMORY	  (4u << 20)
#define TIMEOUT	  1000000u
#define VNI	  7u
#define BATCH_MAX 4096u

static struct reassembly *r;
static struct port_counters counters;
static uint64_t now;
static void *batch[BATCH_MAX];
static unsigned batch_count;

static void up(void)
{
	r = reassembly_create(MEMORY, TIMEOUT);
	cr_assert_not_null(r);
	memset(&counters, 0, sizeof(counters));
	now = 1;
}

static void flush(void)
{
	reassembly_flush(r, now, &counters);
	while (batch_count)
		free(batch[--batch_count]);
}

static void down(void)
{
	reassembly_destroy(r);
	r = NULL;
	while (batch_count)
		free(batch[--batch_count]);
}

static struct frame *add_with(struct fragment where, const void *data, size_t len,
			      const struct frame_offload *offload, uint8_t hops)
{
	void *part = malloc(len ? len : 1);

	cr_assert(batch_count < BATCH_MAX);
	batch[batch_count++] = part;
	if (len)
		memcpy(part, data, len);
	return reassembly_add(r, &where, part, len, offload, hops, now, &counters);
}

static struct frame *add(struct fragment where, const void *data, size_t len)
{
	return add_with(where, data, len, &(struct frame_offload){0}, FRAME_HOPS_MAX);
}

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
	random_state = random_state * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)random_state * n >> 32);
}

static uint8_t original[FRAME_SIZE_MAX];

static void original_fill(void)
{
	for (size_t i = 0; i < sizeof(original); i++)
		original[i] = (uint8_t)random_below(256);
}

static void frame_check(const struct frame *frame, const uint8_t *expected, uint32_t len)
{
	static uint8_t joined[FRAME_SIZE_MAX + 1];
	struct iov_cursor at;

	cr_assert_not_null(frame);
	at = iov_cursor(frame->iov, frame->iovcnt);
	cr_assert_eq(frame->len, len);
	cr_assert_eq(iov_read(&at, joined, sizeof(joined)), len);
	cr_assert_arr_eq(joined, expected, len);
	cr_assert_arr_eq(frame->eth, expected, FRAME_HEADER);
}

/* --- every order ----------------------------------------------------------------------------- */

#define SMALL 20u /* bytes of the frames below */

/* Part @i of @n of a frame of SMALL bytes: unequal, so that no two can be mistaken for each other.
 */
static struct frame *add_small(uint32_t id, unsigned i, unsigned n)
{
	uint32_t start = i * (i + 3) / 2; /* 0, 2, 5, 9, 14 */
	uint32_t end = i + 1 == n ? SMALL : (i + 1) * (i + 4) / 2;

	return add((struct fragment){id, SMALL, start}, original + start, end - start);
}

/* The @k-th of n! orders. */
static void order_get(unsigned k, unsigned n, unsigned order[])
{
	for (unsigned i = 0; i < n; i++)
		order[i] = i;
	for (unsigned i = 0; i < n; k /= n - i, i++) {
		unsigned j = i + k % (n - i), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
}

static unsigned factorial(unsigned n)
{
	return n ? n * factorial(n - 1) : 1;
}

/* In every order, with the batch ending at every set of places between the parts. */
Test(fragment, every_order_and_batch, .init = up, .fini = down)
{
	uint32_t id = UINT32_MAX - 100; /* ids wrap on the way */

	original_fill();
	for (unsigned n = 1; n <= 5; n++) {
		for (unsigned k = 0; k < factorial(n) << (n - 1); k++, id++) {
			unsigned order[5], ends = k & ((1u << (n - 1)) - 1);

			order_get(k >> (n - 1), n, order);
			for (unsigned i = 0; i < n; i++) {
				struct frame *frame = add_small(id, order[i], n);

				if (i + 1 == n)
					frame_check(frame, original, SMALL);
				else
					cr_assert_null(frame);
				if (i + 1 == n || ends >> i & 1)
					flush();
			}
			cr_assert_eq(reassembly_next(r), UINT64_MAX);
		}
	}
	for (unsigned i = 0; i < DROP_REASONS; i++)
		cr_assert_eq(counters.drops[i], 0);
}

/* Each part a second time at each later place, the place behind the last one included. */
Test(fragment, every_duplicate, .init = up, .fini = down)
{
	uint32_t id = 0;

	original_fill();
	for (unsigned k = 0; k < factorial(4) * 4 * 4 * 16; k++, id++) {
		unsigned order[4], twice = k % 4, where = k / 4 % 4, ends = k / 16 % 16;

		order_get(k / 256, 4, order);
		if (where < twice)
			continue;
		for (unsigned i = 0; i < 4; i++) {
			struct frame *frame = add_small(id, order[i], 4);

			if (i == 3)
				frame_check(frame, original, SMALL);
			else
				cr_assert_null(frame);
			if (ends >> i & 1)
				flush();
			if (i == where)
				cr_assert_null(add_small(id, order[twice], 4));
		}
		flush();
		cr_assert_eq(reassembly_next(r), UINT64_MAX);
	}
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 0);
}

/* One part never comes: nothing comes out, and one frame is counted. */
Test(fragment, every_loss, .init = up, .fini = down)
{
	unsigned frames = 0;

	original_fill();
	for (unsigned k = 0; k < factorial(4) * 8; k++) {
		unsigned order[4], ends = k % 8;

		order_get(k / 8, 4, order);
		for (unsigned i = 0; i < 3; i++) {
			cr_assert_null(add_small(k, order[i], 4));
			if (ends >> i & 1)
				flush();
		}
		flush();
		cr_assert_eq(counters.drops[DROP_FRAGMENT], frames++);
		now += TIMEOUT;
		flush();
		cr_assert_eq(counters.drops[DROP_FRAGMENT], frames);
		cr_assert_null(add_small(k, order[3], 4)); /* too late */
		flush();
		cr_assert_eq(reassembly_next(r), UINT64_MAX);
	}
	cr_assert_eq(counters.drops[DROP_FRAGMENT], frames);
}

Test(fragment, joined_in_place_or_copied_once, .init = up, .fini = down)
{
	struct frame *frame;

	original_fill();
	for (uint32_t start = 0; start < 60000; start += 1000)
		frame = add((struct fragment){1, 60000, start}, original + start, 1000);
	frame_check(frame, original, 60000);
	cr_assert_eq(frame->iovcnt, 60);
	for (unsigned i = 0; i < 60; i++)
		cr_assert_eq(frame->iov[i].iov_base, batch[i]);
	flush();
	cr_assert_eq(counters.copied_bytes, 0);

	for (uint32_t start = 0; start < 60000; start += 1000) {
		frame = add((struct fragment){2, 60000, start}, original + start, 1000);
		if (start % 7000 == 0) {
			cr_assert_null(frame);
			flush();
			flush(); /* what is saved is not copied again */
		}
	}
	frame_check(frame, original, 60000);
	cr_assert_eq(counters.copied_bytes, 57000);
}

Test(fragment, offload_and_hops_of_the_first_part, .init = up, .fini = down)
{
	const struct frame_offload first = {1, 4, 54, 1448, 34, 16}, other = {9, 9, 9, 9, 9, 9};
	struct frame *frame;

	cr_assert_null(add_with((struct fragment){1, 30, 10}, original, 10, &other, 1));
	cr_assert_null(add_with((struct fragment){1, 30, 0}, original, 10, &first, 5));
	frame = add_with((struct fragment){1, 30, 20}, original, 10, &other, 2);
	cr_assert_not_null(frame);
	cr_assert_eq(memcmp(&frame->offload, &first, sizeof(first)), 0);
	cr_assert_eq(frame->hops, 5);
}

/* --- what lies ------------------------------------------------------------------------------- */

/* Each of these is a frame lost, counted once, whatever follows of it. */
Test(fragment, hostile_values_B3, .init = up, .fini = down)
{
	static const struct hostile {
		uint32_t total, offset;
		size_t len;
	} alone[] =
	    {
		{0, 0, 0},
		{0, 0, 14},
		{13, 0, 13},
		{FRAME_SIZE_MAX + 1, 0, 1000},
		{UINT32_MAX, 0, 1000},
		{UINT32_MAX, UINT32_MAX - 1, 1},
		{100, 100, 1},
		{100, 101, 1},
		{100, UINT32_MAX, 1},
		{100, UINT32_MAX - 49, 50}, /* wraps to 0 */
		{100, 0, 0},
		{100, 50, 0},
		{100, 0, 101},
		{100, 99, 2},
		{100, 50, 60000},
	    },
	  second[] = {
	      /* after bytes 40..59 of 100 */
	      {101, 0, 40},  {99, 60, 39},  {100, 0, 41},  {100, 39, 2},  {100, 40, 19},
	      {100, 40, 21}, {100, 41, 18}, {100, 41, 19}, {100, 50, 50}, {100, 59, 1},
	      {100, 0, 100}, {100, 60, 0},  {100, 60, 41},
	  };
	const unsigned n = sizeof(alone) / sizeof(alone[0]), m = sizeof(second) / sizeof(second[0]);
	uint64_t lost = 0;

	for (uint32_t id = 0; id < n + 2 * m; id++) {
		const struct hostile *h = id < n ? &alone[id] : &second[(id - n) / 2];

		if (id >= n) {
			cr_assert_null(add((struct fragment){id, 100, 40}, original, 20));
			if (id & 1)
				flush();
		}
		cr_assert_null(add((struct fragment){id, h->total, h->offset}, original, h->len));
		cr_assert_eq(counters.drops[DROP_FRAGMENT], ++lost);
		cr_assert_eq(reassembly_next(r), UINT64_MAX);
		/* The rest does not bring it back, nor does it count again. */
		for (uint32_t start = 0; start < 100; start += 20)
			cr_assert_null(add((struct fragment){id, 100, start}, original, 20));
		cr_assert_eq(reassembly_next(r), UINT64_MAX);
		cr_assert_eq(counters.drops[DROP_FRAGMENT], lost);
	}
}

Test(fragment, too_many_parts, .init = up, .fini = down)
{
	for (uint32_t i = 0; i < FRAGMENT_PARTS_MAX; i++)
		cr_assert_null(add((struct fragment){1, 200, i}, original, 1));
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 0);
	cr_assert_null(add((struct fragment){1, 200, 199}, original, 1));
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 1);

	for (uint32_t i = 1; i < FRAGMENT_PARTS_MAX; i++)
		cr_assert_null(add((struct fragment){2, 160, 160 - i}, original + 160 - i, 1));
	frame_check(add((struct fragment){2, 160, 0}, original, 1), original, 160);
}

/* --- time ------------------------------------------------------------------------------------ */

Test(fragment, timeout, .init = up, .fini = down)
{
	cr_assert_eq(reassembly_next(r), UINT64_MAX);
	add_small(1, 0, 2);
	cr_assert_eq(reassembly_next(r), now + TIMEOUT);
	now += 10;
	add_small(2, 0, 2);
	add_small(1, 0, 3); /* a duplicate lengthens nothing */
	now += TIMEOUT - 11;
	flush();
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 0);
	now++;
	flush();
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 1);
	cr_assert_eq(reassembly_next(r), now + 10);
	frame_check(add_small(2, 1, 2), original, SMALL);
	cr_assert_null(add_small(1, 1, 2));
	cr_assert_eq(reassembly_next(r), UINT64_MAX);

	/* Forgotten: the id may be used for another frame. */
	now += TIMEOUT;
	cr_assert_null(add_small(1, 1, 2));
	frame_check(add_small(1, 0, 2), original, SMALL);
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 1);
}

/* A part that comes when its frame is too old, but no flush was in between. */
Test(fragment, timeout_before_flush, .init = up, .fini = down)
{
	add_small(1, 0, 2);
	flush();
	now += TIMEOUT;
	cr_assert_null(add_small(1, 1, 2));
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 1);
	cr_assert_eq(reassembly_next(r), UINT64_MAX);
	flush();
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 1);
}

/* --- memory ---------------------------------------------------------------------------------- */

Test(fragment, memory_is_bounded)
{
	cr_assert_null(reassembly_create(REASSEMBLY_MEMORY_MIN - 1, TIMEOUT));
	for (size_t max = REASSEMBLY_MEMORY_MIN; max < 256u << 20; max += max / 3) {
		r = reassembly_create(max, TIMEOUT);
		cr_assert_not_null(r);
		cr_assert_leq(reassembly_memory(r), max);
		if (max < 32u << 20) /* and not much less, up to what ids can be told apart */
			cr_assert_geq(reassembly_memory(r), max - 70000);
		reassembly_destroy(r);
	}
	r = NULL;
}

/* First parts without end: the oldest make room, and whoever is complete gets through. */
Test(fragment, first_parts_without_end_B3, .init = up, .fini = down)
{
	size_t memory = reassembly_memory(r);
	unsigned held = MEMORY / FRAME_SIZE_MAX;
	uint64_t lost;

	original_fill();
	for (uint32_t id = 0; id < 3000; id++) {
		cr_assert_null(add((struct fragment){id, FRAME_SIZE_MAX, 0}, original, 1000));
		if (id % 7 == 0)
			flush();
	}
	flush();
	lost = counters.drops[DROP_MEMORY];
	cr_assert_geq(lost, 3000 - held);
	cr_assert_leq(lost, 3000 - held * 3 / 4);
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 0);
	cr_assert_eq(reassembly_memory(r), memory);
	cr_assert_null(add_small(5000, 0, 2));
	flush();
	frame_check(add_small(5000, 1, 2), original, SMALL);
	now += TIMEOUT;
	flush();
	cr_assert_eq(counters.drops[DROP_MEMORY] + counters.drops[DROP_FRAGMENT], 3000);
	cr_assert_eq(reassembly_next(r), UINT64_MAX);
}

/* The same within one batch. */
Test(fragment, first_parts_in_one_batch_B3, .init = up, .fini = down)
{
	original_fill();
	for (uint32_t id = 0; id < 3000; id++)
		cr_assert_null(add((struct fragment){id, FRAME_SIZE_MAX, 0}, original, 100));
	frame_check(add((struct fragment){3000, 64, 0}, original, 64), original, 64);
	now += TIMEOUT;
	flush();
	cr_assert_eq(counters.drops[DROP_MEMORY] + counters.drops[DROP_FRAGMENT], 3000);
	cr_assert_geq(counters.drops[DROP_MEMORY], 3000 - 64 - MEMORY / FRAME_SIZE_MAX);
}

/* Frames that are finished stay until they are released; then there is room again. */
Test(fragment, more_frames_than_slots, .init = up, .fini = down)
{
	uint32_t id = 0;

	original_fill();
	while (add((struct fragment){id, 20, 0}, original, 20))
		cr_assert_lt(++id, 1000);
	cr_assert_geq(id, FRAME_BATCH_MAX);
	cr_assert_eq(counters.drops[DROP_MEMORY], 1);
	reassembly_release(r);
	cr_assert_null(add((struct fragment){id, 20, 0}, original, 20)); /* lost is lost */
	for (unsigned i = 0; i < 1000; i++) {
		struct frame *frame = add((struct fragment){++id, 20, 0}, original, 20);

		frame_check(frame, original, 20);
		if (i % FRAME_BATCH_MAX == 0)
			reassembly_release(r);
	}
	cr_assert_eq(counters.drops[DROP_MEMORY], 1);
}

/* An open frame 1,024 ids back is in the way of a new one. */
Test(fragment, ids_far_apart, .init = up, .fini = down)
{
	cr_assert_null(add_small(5, 0, 2));
	cr_assert_null(add_small(5 + 1024, 0, 2));
	cr_assert_eq(counters.drops[DROP_FRAGMENT], 1);
	frame_check(add_small(5 + 1024, 1, 2), original, SMALL);
	cr_assert_eq(reassembly_next(r), UINT64_MAX);
}

/* --- against a slow reference ---------------------------------------------------------------- */

#define MODEL_IDS 24u

enum model_state { MODEL_NEW, MODEL_OPEN, MODEL_CLOSED };

struct model {
	enum model_state state;
	uint64_t until; /* open: too old then; closed: forgotten then */
	uint32_t total, have;
	unsigned parts;
	struct fragment part[FRAGMENT_PARTS_MAX]; /* id: its length */
	uint8_t data[FRAME_SIZE_MAX], there[FRAME_SIZE_MAX];
};

static struct model models[MODEL_IDS];
static uint64_t model_drops;

static void model_close(struct model *m)
{
	m->state = MODEL_CLOSED;
	m->until = now + TIMEOUT;
}

static bool model_fits(const struct model *m, const struct fragment *where, size_t len)
{
	if (where->total != m->total || m->total < FRAME_SIZE_MIN || m->total > FRAME_SIZE_MAX ||
	    !len || where->offset + (uint64_t)len > m->total || m->parts == FRAGMENT_PARTS_MAX)
		return false;
	return !memchr(m->there + where->offset, 1, len);
}

/* Returns whether the frame is finished. */
static bool model_add(struct model *m, struct fragment where, const uint8_t *data, size_t len)
{
	if (m->state == MODEL_OPEN && now >= m->until) {
		model_drops++;
		model_close(m);
	}
	if (m->state == MODEL_CLOSED && now < m->until)
		return false;
	if (m->state != MODEL_OPEN) {
		memset(m, 0, sizeof(*m));
		m->state = MODEL_OPEN;
		m->until = now + TIMEOUT;
		m->total = where.total;
	}
	for (unsigned i = 0; i < m->parts && where.total == m->total; i++) {
		if (m->part[i].offset == where.offset && m->part[i].id == len)
			return false;
	}
	if (!model_fits(m, &where, len)) {
		model_drops++;
		model_close(m);
		return false;
	}
	m->part[m->parts++] = (struct fragment){.id = (uint32_t)len, .offset = where.offset};
	memcpy(m->data + where.offset, data, len);
	memset(m->there + where.offset, 1, len);
	m->have += (uint32_t)len;
	if (m->have < m->total)
		return false;
	model_close(m);
	return true;
}

static void model_flush(void)
{
	for (unsigned i = 0; i < MODEL_IDS; i++) {
		if (models[i].state == MODEL_OPEN && now >= models[i].until) {
			model_drops++;
			model_close(&models[i]);
		}
	}
}

/* A part of some frame, usually of one layout an id, sometimes anything. Returns its length. */
static uint32_t random_part(struct fragment *where)
{
	uint32_t part, i;

	where->id = random_below(MODEL_IDS);
	where->total = where->id % 3 ? 14 + where->id * 9 : FRAME_SIZE_MAX - where->id;
	part = where->total / (1 + where->id % 7) + 1;
	i = random_below((where->total + part - 1) / part);
	where->offset = i * part;
	if (where->offset + part > where->total)
		part = where->total - where->offset;
	switch (random_below(400)) {
	case 0:
		where->total += random_below(3) - 1;
		break;
	case 1:
		where->offset += random_below(5) - 2;
		break;
	case 2:
		part += random_below(5) - 2;
		break;
	case 3:
		part = random_below(70000);
		break;
	case 4:
		where->offset = random_below(70000);
		break;
	case 5:
		part = 0;
		break;
	}
	return part > FRAME_SIZE_MAX ? 0 : part;
}

Test(fragment, random_against_reference, .init = up, .fini = down)
{
	unsigned finished = 0;

	memset(models, 0, sizeof(models));
	model_drops = 0;
	random_state = 4711;
	original_fill();
	for (unsigned round = 0; round < 60000; round++) {
		const uint8_t *data = original + random_below(100);
		struct fragment where;
		struct frame *frame;
		uint32_t len = random_part(&where);
		struct model *m = &models[where.id];

		if (len > FRAME_SIZE_MAX - 100)
			data = original;
		frame = add(where, data, len);
		cr_assert_eq(model_add(m, where, data, len), frame != NULL);
		if (frame)
			frame_check(frame, m->data, m->total);
		finished += frame != NULL;
		if (random_below(20) == 0 || batch_count == BATCH_MAX) {
			model_flush();
			flush();
		}
		now += random_below(TIMEOUT / 50);
		cr_assert_eq(counters.drops[DROP_FRAGMENT], model_drops);
	}
	cr_assert_eq(counters.drops[DROP_MEMORY], 0);
	cr_assert_gt(finished, 3000);
	cr_assert_gt(model_drops, 1000);
}

/* --- cutting --------------------------------------------------------------------------------- */

static const struct geneve_extras plain, rich = {
					     .hops = 3,
					     .offload = {1, 4, 54, 1448, 34, 16},
};

/* Cut, build and parse the headers, join; all of it comes back as it was. */
static void roundtrip(uint32_t id, uint32_t len, uint32_t datagram,
		      const struct geneve_extras *extras)
{
	const struct iovec whole[2] = {{original, len / 3}, {original + len / 3, len - len / 3}};
	struct iov_cursor at = iov_cursor(whole, 2);
	struct fragment_cut cut;
	struct geneve_extras out;
	struct frame *frame = NULL;
	unsigned parts = fragment_cut_start(&cut, extras, id, len, datagram), i = 0;
	uint32_t part;

	cr_assert_gt(parts, 0);
	for (; (part = fragment_cut_next(&cut, &out)); i++) {
		uint8_t packet[FRAME_SIZE_MAX + GENEVE_HEADER_MAX];
		size_t header = geneve_build(packet, VNI, &out);
		enum drop_reason reason;
		struct geneve_extras in;
		struct iovec pieces[2];
		unsigned n = iov_slice(&at, part, pieces, 2);

		cr_assert_null(frame);
		cr_assert(n == 1 || n == 2);
		memcpy(packet + header, pieces[0].iov_base, pieces[0].iov_len);
		if (n == 2)
			memcpy(packet + header + pieces[0].iov_len, pieces[1].iov_base,
			       pieces[1].iov_len);
		cr_assert(header + part == datagram ||
			  (i + 1 == parts && header + part < datagram));
		cr_assert_eq(geneve_parse(packet, header + part, VNI, &in, &reason), header);
		cr_assert_eq(header, geneve_size(&out));
		cr_assert(in.part);
		frame = add_with(in.where, packet + header, part, &in.offload, in.hops);
	}
	cr_assert_eq(i, parts);
	frame_check(frame, original, len);
	cr_assert_eq(memcmp(&frame->offload, &extras->offload, sizeof(extras->offload)), 0);
	cr_assert_eq(frame->hops, extras->hops);
	flush();
}

Test(fragment, cut_and_joined, .init = up, .fini = down)
{
	const uint32_t datagrams[] = {476, 1200, 1440, 1472, 8972, 65507};
	uint32_t id = 0;

	original_fill();
	for (unsigned i = 0; i < sizeof(datagrams) / sizeof(datagrams[0]); i++) {
		for (unsigned kind = 0; kind < 2; kind++) {
			const struct geneve_extras *extras = kind ? &rich : &plain;
			uint32_t edge = datagrams[i] - (kind ? 48 : 24);

			/* Around every place where one part more is needed. */
			for (; edge < FRAME_SIZE_MAX - 2; edge += datagrams[i] - 24) {
				for (uint32_t len = edge - 2; len <= edge + 2; len++)
					roundtrip(id++, len, datagrams[i], extras);
			}
			roundtrip(id++, FRAME_SIZE_MIN, datagrams[i], extras);
			roundtrip(id++, FRAME_SIZE_MAX, datagrams[i], extras);
		}
	}
	for (uint32_t len = FRAME_SIZE_MIN; len < 300; len++) {
		for (uint32_t datagram = 49; datagram < 60; datagram++)
			roundtrip(id++, len > 100 ? 100 : len, datagram + 5, &rich);
	}
}

/* --- a network that loses, repeats and reorders ---------------------------------------------- */

#define SENT	   800u /* frames */
#define DELAY_MAX  20u	/* ticks */
#define TICK	   (TIMEOUT / 200)
#define FLYING_MAX 4096u

struct flying {
	struct fragment where;
	uint32_t len;
	unsigned due; /* tick */
};

static struct flying flying[FLYING_MAX];
static unsigned flying_count;

/* Put a part on its way, perhaps twice, perhaps not at all. Returns whether it will arrive. */
static bool launch(const struct fragment *where, uint32_t len, unsigned tick)
{
	unsigned copies = random_below(100) < 2 ? 2 : 1, arriving = 0;

	while (copies--) {
		if (random_below(200) == 0)
			continue;
		cr_assert_lt(flying_count, FLYING_MAX);
		flying[flying_count++] =
		    (struct flying){*where, len, tick + random_below(DELAY_MAX)};
		arriving++;
	}
	return arriving;
}

/* What frame @id holds begins at @id of the original. Returns whether all, some of it will arrive.
 */
static void launch_frame(uint32_t id, unsigned tick, bool *all, bool *some)
{
	uint32_t len = FRAME_SIZE_MIN + random_below(FRAME_SIZE_MAX - SENT - FRAME_SIZE_MIN), part;
	struct geneve_extras extras;
	struct fragment_cut cut;

	*all = true;
	*some = false;
	cr_assert_gt(fragment_cut_start(&cut, &plain, id, len, 1472), 0);
	while ((part = fragment_cut_next(&cut, &extras))) {
		bool arrives = launch(&extras.where, part, tick);

		*all = *all && arrives;
		*some = *some || arrives;
	}
}

/* Everything that is due, in any order; a frame comes at most once. */
static void land(unsigned tick, bool delivered[SENT])
{
	for (unsigned i = 0; i < flying_count;) {
		const struct flying part = flying[i];
		const uint8_t *content = original + part.where.id;
		const struct frame *frame;

		if (part.due != tick) {
			i++;
			continue;
		}
		flying[i] = flying[--flying_count];
		frame = add(part.where, content + part.where.offset, part.len);
		if (!frame)
			continue;
		frame_check(frame, content, part.where.total);
		cr_assert_not(delivered[part.where.id]);
		delivered[part.where.id] = true;
	}
	flush();
	now += TICK;
}

Test(fragment, lossy_network, .init = up, .fini = down)
{
	static bool all[SENT], some[SENT], delivered[SENT];
	unsigned lost = 0;

	random_state = 42;
	flying_count = 0;
	original_fill();
	for (unsigned tick = 0; tick < SENT + DELAY_MAX; tick++) {
		if (tick < SENT)
			launch_frame(tick, tick, &all[tick], &some[tick]);
		land(tick, delivered);
	}
	cr_assert_eq(flying_count, 0);
	now += TIMEOUT;
	flush();
	for (unsigned id = 0; id < SENT; id++) {
		cr_assert_eq(delivered[id], all[id]);
		lost += some[id] && !all[id];
	}
	cr_assert_gt(lost, SENT / 20);
	cr_assert_eq(counters.drops[DROP_FRAGMENT] + counters.drops[DROP_MEMORY], lost);
	cr_assert_eq(reassembly_next(r), UINT64_MAX);
}

/* From how many bytes on a frame takes one part more, and the sizes that fit none. */
Test(fragment, cut_counts_parts)
{
	struct fragment_cut cut;

	cr_assert_eq(fragment_cut_start(&cut, &plain, 1, 1000, 1024), 1);
	cr_assert_eq(fragment_cut_start(&cut, &plain, 1, 1001, 1024), 2);
	cr_assert_eq(fragment_cut_start(&cut, &plain, 1, 2000, 1024), 2);
	cr_assert_eq(fragment_cut_start(&cut, &rich, 1, 976, 1024), 1);
	cr_assert_eq(fragment_cut_start(&cut, &rich, 1, 977, 1024), 2);
	cr_assert_eq(fragment_cut_start(&cut, &rich, 1, 1977, 1024), 3);
	for (uint32_t datagram = 0; datagram <= 24; datagram++)
		cr_assert_eq(fragment_cut_start(&cut, &plain, 1, 1000, datagram), 0);
	for (uint32_t datagram = 0; datagram <= 48; datagram++)
		cr_assert_eq(fragment_cut_start(&cut, &rich, 1, 1000, datagram), 0);
	cr_assert_eq(fragment_cut_start(&cut, &plain, 1, FRAGMENT_PARTS_MAX, 25),
		     FRAGMENT_PARTS_MAX);
	cr_assert_eq(fragment_cut_start(&cut, &plain, 1, FRAGMENT_PARTS_MAX + 1, 25), 0);
	/* IPv4's smallest path, sealed: 576 less IP, UDP and the seal. */
	cr_assert_gt(fragment_cut_start(&cut, &rich, 1, FRAME_SIZE_MAX, 576 - 28 - 32), 0);
}

Test(fragment, datagrams_a_send)
{
	cr_assert_eq(fragment_send_max(65507), 1);
	cr_assert_eq(fragment_send_max(32754), 1);
	cr_assert_eq(fragment_send_max(32753), 2);
	cr_assert_eq(fragment_send_max(1472), 44);
	cr_assert_eq(fragment_send_max(1024), 63);
	cr_assert_eq(fragment_send_max(1023), 64);
	cr_assert_eq(fragment_send_max(500), 64);
}
