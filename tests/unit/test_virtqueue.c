/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Split virtqueues: the rules kept, every rule broken, the ring flipped while it is read, and valid
 * rings against a slow reference. Row names such as A7 are those of the list of hostile inputs.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/ring_driver.h"

#define MIB	  (1ull << 20)
#define GIB	  (1ull << 30)
#define RING_GPA  0x1000ull
#define TABLE_GPA 0x40000ull /* indirect tables */
#define DATA_GPA  0x80000ull
#define RING_SIZE 8
#define SEGMENTS  64

#define WRITES	 VRING_DESC_F_WRITE
#define NEXT	 VRING_DESC_F_NEXT
#define INDIRECT VRING_DESC_F_INDIRECT

struct rig {
	struct guest_memory mem;
	struct ring_driver drv;
	struct virtqueue vq;
	struct vq_chain chain;
	struct iovec iov[SEGMENTS];
};

static struct rig *rig_create(uint64_t memory, uint16_t size, bool event_idx)
{
	struct rig *r = calloc(1, sizeof(*r));

	cr_assert_not_null(r);
	cr_assert_eq(memory_create(&r->mem, memory, false), 0);
	ring_driver_init(&r->drv, &r->mem, RING_GPA, size, event_idx);
	ring_driver_bind(&r->drv, &r->vq);
	r->vq.indirect = true;
	cr_assert_eq(virtqueue_start(&r->vq), 0);
	return r;
}

static void rig_destroy(struct rig *r)
{
	virtqueue_stop(&r->vq);
	memory_destroy(&r->mem);
	free(r);
}

/* A new ring in the same place, as after a reset. */
static void rig_restart(struct rig *r)
{
	virtqueue_stop(&r->vq);
	ring_driver_init(&r->drv, &r->mem, RING_GPA, r->drv.size, r->drv.event_idx);
	cr_assert_eq(virtqueue_start(&r->vq), 0);
}

static int rig_pop(struct rig *r)
{
	return virtqueue_pop(&r->vq, &r->chain, r->iov, SEGMENTS);
}

static void *at(const struct rig *r, uint64_t gpa)
{
	return guest_range(&r->mem, gpa, 1);
}

static struct vring_desc *table_at(const struct rig *r, uint64_t gpa)
{
	return at(r, gpa);
}

/* The ring breaks with this reason, and stays broken and silent. */
static void assert_breaks(struct rig *r, const char *why)
{
	cr_assert_eq(rig_pop(r), -EPROTO, "expected: %s", why);
	cr_assert_str_eq(r->vq.broken, why);
	cr_assert_eq(rig_pop(r), -EPROTO);
	cr_assert_not(virtqueue_pending(&r->vq), "a broken ring has no work");
	cr_assert_not(virtqueue_notify_on(&r->vq));
	virtqueue_push(&r->vq, 0, 1);
	cr_assert_not(virtqueue_publish(&r->vq));
	cr_assert_eq(r->drv.used->idx, 0, "a broken ring is not written");
	cr_assert_str_eq(r->vq.broken, why);
}

/* --- the rules kept ----------------------------------------------------------------------------
 */

Test(virtqueue, a_request_goes_there_and_back)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);
	const struct ring_buffer bufs[] = {
	    {DATA_GPA, 10, false}, {DATA_GPA + 100, 20, false}, {DATA_GPA + 200, 30, true}};
	struct ring_used used;
	int head = ring_driver_add(&r->drv, bufs, 3);

	cr_assert_eq(rig_pop(r), 0, "not exposed yet");
	cr_assert_not(virtqueue_pending(&r->vq));
	ring_driver_expose(&r->drv);
	cr_assert(virtqueue_pending(&r->vq));
	cr_assert_eq(rig_pop(r), 1);
	cr_assert_eq(r->chain.head, head);
	cr_assert_eq(r->chain.out_count, 2);
	cr_assert_eq(r->chain.in_count, 1);
	cr_assert_eq(r->chain.out_len, 30);
	cr_assert_eq(r->chain.in_len, 30);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(r->iov[i].iov_base, at(r, bufs[i].gpa));
		cr_assert_eq(r->iov[i].iov_len, bufs[i].len);
	}
	cr_assert_eq(rig_pop(r), 0);
	virtqueue_push(&r->vq, head, 17);
	cr_assert_not(ring_driver_take(&r->drv, &used), "not published yet");
	cr_assert(virtqueue_publish(&r->vq));
	cr_assert(ring_driver_take(&r->drv, &used));
	cr_assert_eq(used.id, (uint32_t)head);
	cr_assert_eq(used.len, 17);
	cr_assert_not(ring_driver_take(&r->drv, &used));
	rig_destroy(r);
}

Test(virtqueue, indirect_tables_are_followed)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);
	const struct ring_buffer bufs[] = {{DATA_GPA, 1, false},
					   {DATA_GPA + 1, 2, false},
					   {DATA_GPA + 9, 3, true},
					   {DATA_GPA + 99, 4, true}};

	ring_driver_add_indirect(&r->drv, TABLE_GPA, bufs, 4);
	/* The same again at an odd address: indirect tables need no alignment. */
	memcpy(at(r, TABLE_GPA + 0x1001), at(r, TABLE_GPA), 4 * 16);
	ring_driver_write(&r->drv.desc[5], TABLE_GPA + 0x1001, 4 * 16, INDIRECT, 0);
	ring_driver_offer(&r->drv, 5);
	ring_driver_expose(&r->drv);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(rig_pop(r), 1);
		cr_assert_eq(r->chain.out_count, 2);
		cr_assert_eq(r->chain.in_count, 2);
		cr_assert_eq(r->chain.out_len, 3);
		cr_assert_eq(r->chain.in_len, 7);
		cr_assert_eq(r->iov[3].iov_base, at(r, DATA_GPA + 99));
	}
	rig_destroy(r);
}

/* virtio 1.2, 2.7.5.3.2: direct descriptors first, then one table whose WRITE flag means nothing.
 */
Test(virtqueue, an_indirect_table_may_end_a_direct_chain)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	ring_driver_write(&r->drv.desc[0], DATA_GPA, 5, NEXT, 3);
	ring_driver_write(&r->drv.desc[3], TABLE_GPA, 32, INDIRECT | WRITES, 0);
	ring_driver_write(table_at(r, TABLE_GPA), DATA_GPA + 8, 6, NEXT, 1);
	ring_driver_write(table_at(r, TABLE_GPA + 16), DATA_GPA + 16, 7, WRITES, 0);
	ring_driver_offer(&r->drv, 0);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1);
	cr_assert_eq(r->chain.out_count, 2);
	cr_assert_eq(r->chain.out_len, 11);
	cr_assert_eq(r->chain.in_len, 7);
	rig_destroy(r);
}

Test(virtqueue, requests_come_back_in_any_order_and_indices_wrap)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);
	struct ring_used used;

	for (unsigned round = 0; round < 20000; round++) {
		int heads[4];

		for (int i = 0; i < 4; i++)
			heads[i] = ring_driver_add(
			    &r->drv, &(struct ring_buffer){DATA_GPA + i, i + 1u, false}, 1);
		ring_driver_expose(&r->drv);
		for (int i = 0; i < 4; i++) {
			cr_assert_eq(rig_pop(r), 1);
			cr_assert_eq(r->chain.head, heads[i]);
			cr_assert_eq(r->chain.out_len, i + 1u);
		}
		for (int i = 3; i >= 0; i--)
			virtqueue_push(&r->vq, heads[i], round);
		virtqueue_publish(&r->vq);
		for (int i = 3; i >= 0; i--) {
			cr_assert(ring_driver_take(&r->drv, &used));
			cr_assert_eq(used.id, (uint32_t)heads[i]);
			cr_assert_eq(used.len, round);
		}
	}
	rig_destroy(r);
}

Test(virtqueue, requests_put_back_come_again)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (uint32_t i = 1; i <= 3; i++)
		ring_driver_add(&r->drv, &(struct ring_buffer){DATA_GPA, i, true}, 1);
	ring_driver_expose(&r->drv);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(rig_pop(r), 1);
	virtqueue_unpop(&r->vq, 2);
	cr_assert(virtqueue_pending(&r->vq));
	for (uint32_t i = 2; i <= 3; i++) {
		cr_assert_eq(rig_pop(r), 1);
		cr_assert_eq(r->chain.in_len, i);
	}
	cr_assert_eq(rig_pop(r), 0);
	rig_destroy(r);
}

Test(virtqueue, a_stopped_ring_is_silent)
{
	struct virtqueue vq = {0};
	struct vq_chain chain;
	struct iovec iov;

	cr_assert_eq(virtqueue_pop(&vq, &chain, &iov, 1), 0);
	cr_assert_not(virtqueue_pending(&vq));
	cr_assert_not(virtqueue_notify_on(&vq));
	virtqueue_notify_off(&vq);
	virtqueue_unpop(&vq, 1);
	virtqueue_push(&vq, 0, 0);
	cr_assert_not(virtqueue_publish(&vq));
	virtqueue_break(&vq, "why");
	cr_assert_null(vq.broken);
	virtqueue_stop(&vq);
}

Test(virtqueue, restart_begins_at_zero)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (int i = 0; i < 2; i++) {
		ring_driver_add(&r->drv, &(struct ring_buffer){DATA_GPA, 1, false}, 1);
		ring_driver_expose(&r->drv);
		cr_assert_eq(rig_pop(r), 1);
		virtqueue_push(&r->vq, r->chain.head, 0);
		cr_assert(virtqueue_publish(&r->vq), "interrupts are on");
		cr_assert_eq(r->drv.used->idx, 1);
		rig_restart(r);
	}
	rig_destroy(r);
}

/* --- notifications -----------------------------------------------------------------------------
 */

static void serve(struct rig *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		ring_driver_add(&r->drv, &(struct ring_buffer){DATA_GPA, 1, false}, 1);
		ring_driver_expose(&r->drv);
		cr_assert_eq(rig_pop(r), 1);
		virtqueue_push(&r->vq, r->chain.head, 0);
	}
}

static void take_all(struct rig *r)
{
	struct ring_used used;

	while (ring_driver_take(&r->drv, &used))
		;
}

Test(virtqueue, interrupts_follow_the_flag)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	cr_assert_not(virtqueue_publish(&r->vq), "nothing to show");
	serve(r, 2);
	cr_assert(virtqueue_publish(&r->vq));
	cr_assert_not(virtqueue_publish(&r->vq), "shown already");
	take_all(r);
	ring_driver_interrupts(&r->drv, false, 0);
	serve(r, 2);
	cr_assert_not(virtqueue_publish(&r->vq));
	ring_driver_interrupts(&r->drv, true, 0);
	take_all(r);
	serve(r, 1);
	cr_assert(virtqueue_publish(&r->vq));
	rig_destroy(r);
}

Test(virtqueue, what_nobody_waits_for_is_settled)
{
	for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
		struct rig *r = rig_create(MIB, RING_SIZE, event_idx);

		/* Round and round: the indices wrap. */
		for (unsigned i = 0; i < 3 * UINT16_MAX / 2; i++) {
			ring_driver_interrupts(&r->drv, i % 2, 0);
			serve(r, 1);
			virtqueue_show(&r->vq);
			virtqueue_settle(&r->vq);
			cr_assert_eq(virtqueue_untold(&r->vq), i % 2);
			cr_assert_eq(virtqueue_tell(&r->vq), i % 2);
			take_all(r);
		}
		rig_destroy(r);
	}
}

/* virtio 1.2, 2.7.7.2: an interrupt when the entry at used_event becomes visible, at any index. */
Test(virtqueue, interrupts_follow_used_event)
{
	struct rig *r = rig_create(MIB, RING_SIZE, true);

	for (unsigned round = 0; round < 30000; round++) {
		ring_driver_interrupts(&r->drv, true, 3);
		serve(r, 3);
		cr_assert_not(virtqueue_publish(&r->vq), "entry 3 is not used yet");
		serve(r, 1);
		cr_assert(virtqueue_publish(&r->vq));
		serve(r, 1);
		cr_assert_not(virtqueue_publish(&r->vq), "entry 3 was shown before");
		take_all(r);
		ring_driver_interrupts(&r->drv, true, 1);
		serve(r, 4);
		cr_assert(virtqueue_publish(&r->vq), "entry 1 is within the batch");
		take_all(r);
		ring_driver_interrupts(&r->drv, false, 0);
		serve(r, 4);
		cr_assert_not(virtqueue_publish(&r->vq));
		take_all(r);
	}
	rig_destroy(r);
}

static void doorbell_cases(bool event_idx)
{
	struct rig *r = rig_create(MIB, RING_SIZE, event_idx);
	const struct ring_buffer buf = {DATA_GPA, 1, false};

	ring_driver_add(&r->drv, &buf, 1);
	cr_assert(ring_driver_expose(&r->drv), "a fresh ring wants its doorbell");
	virtqueue_notify_off(&r->vq);
	ring_driver_add(&r->drv, &buf, 1);
	cr_assert_not(ring_driver_expose(&r->drv));
	cr_assert(virtqueue_notify_on(&r->vq), "requests are there");
	cr_assert_eq(rig_pop(r), 1);
	cr_assert(virtqueue_notify_on(&r->vq), "one is left");
	cr_assert_eq(rig_pop(r), 1);
	cr_assert_not(virtqueue_notify_on(&r->vq));
	ring_driver_add(&r->drv, &buf, 1);
	cr_assert(ring_driver_expose(&r->drv), "asked for");
	rig_destroy(r);
}

Test(virtqueue, doorbells_follow_the_flag)
{
	doorbell_cases(false);
}

Test(virtqueue, doorbells_follow_avail_event)
{
	doorbell_cases(true);
}

/* --- A4, A5: rings that cannot be ------------------------------------------------------------- */

Test(virtqueue, a4_impossible_sizes_do_not_start)
{
	static const uint16_t sizes[] = {0, 3, 7, 9, 1023, 1025, 2048, 0x8000, 0xffff};
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		r->vq.size = sizes[i];
		cr_expect_eq(virtqueue_start(&r->vq), -EINVAL, "size %u", sizes[i]);
		cr_expect_not(r->vq.running);
		cr_expect_not_null(r->vq.broken);
	}
	for (unsigned size = 1; size <= VIRTQUEUE_SIZE_MAX; size *= 2) {
		r->vq.size = size;
		r->vq.desc_gpa = 0x10000;
		r->vq.avail_gpa = 0x20000;
		r->vq.used_gpa = 0x30000;
		cr_expect_eq(virtqueue_start(&r->vq), 0, "size %u", size);
	}
	rig_destroy(r);
}

Test(virtqueue, a5_impossible_addresses_do_not_start)
{
	/* Offsets from a ring that fits: a part at @gpa is @bytes long and aligned to @align. */
	const uint64_t end = MEMORY_HOLE_END + GIB; /* 4 GiB of RAM, 3 of them below the hole */
	struct rig *r = rig_create(4 * GIB, RING_SIZE, false);
	const struct {
		uint64_t *gpa;
		uint64_t bytes, align;
	} parts[] = {
	    {&r->vq.desc_gpa, 16 * RING_SIZE, 16},
	    {&r->vq.avail_gpa, 6 + 2 * RING_SIZE, 2},
	    {&r->vq.used_gpa, 6 + 8 * RING_SIZE, 4},
	};

	for (size_t i = 0; i < 3; i++) {
		uint64_t good = *parts[i].gpa, mask = ~(parts[i].align - 1);
		uint64_t fits = parts[i].bytes + parts[i].align - 1;
		const struct {
			uint64_t gpa;
			int result;
		} rows[] = {
		    {good + 1, -EINVAL},
		    {good + parts[i].align / 2, -EINVAL},
		    {(MEMORY_HOLE_START - fits) & mask, 0},
		    {MEMORY_HOLE_START - parts[i].align, -EINVAL},
		    {MEMORY_HOLE_START, -EINVAL},
		    {MEMORY_HOLE_END - parts[i].align, -EINVAL},
		    {MEMORY_HOLE_END, 0},
		    {(end - fits) & mask, 0},
		    {end - parts[i].align, -EINVAL},
		    {end, -EINVAL},
		    {UINT64_MAX & mask, -EINVAL},
		    {1ull << 63, -EINVAL},
		};

		for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
			*parts[i].gpa = rows[k].gpa;
			cr_expect_eq(virtqueue_start(&r->vq), rows[k].result, "part %zu row %zu", i,
				     k);
		}
		*parts[i].gpa = good;
	}
	rig_destroy(r);
}

/* Parts that overlap hurt only their guest: whatever is read is judged like anything else. */
Test(virtqueue, a5_overlapping_parts_stay_inside)
{
	struct rig *r = rig_create(MIB, RING_SIZE, true);

	r->vq.avail_gpa = r->vq.used_gpa = r->vq.desc_gpa;
	for (unsigned seed = 0; seed < 1000; seed++) {
		uint16_t *ring = at(r, r->vq.desc_gpa);

		for (unsigned i = 0; i < 16 * RING_SIZE / 2; i++)
			ring[i] = rand() % 4 ? rand() % RING_SIZE : rand();
		cr_assert_eq(virtqueue_start(&r->vq), 0);
		for (unsigned i = 0; i < 100 && rig_pop(r) == 1; i++) {
			virtqueue_push(&r->vq, r->chain.head, seed);
			virtqueue_publish(&r->vq);
			virtqueue_notify_on(&r->vq);
		}
	}
	rig_destroy(r);
}

Test(virtqueue, a5_buffers_outside_of_ram_break_the_ring)
{
	static const struct {
		uint64_t gpa;
		uint32_t len;
	} rows[] = {
	    {MIB, 1},
	    {MIB - 1, 2},
	    {0, MIB + 1},
	    {UINT64_MAX, 1},
	    {UINT64_MAX, 2},
	    {UINT64_MAX - 0xfffffffe, 0xffffffff},
	    {0, 0xffffffff}, /* A9 */
	    {MEMORY_HOLE_START, 1},
	};
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ring_driver_add(&r->drv, &(struct ring_buffer){rows[i].gpa, rows[i].len, i & 1}, 1);
		ring_driver_expose(&r->drv);
		assert_breaks(r, "a buffer is outside of RAM");
		rig_restart(r);
	}
	rig_destroy(r);
}

/* --- A6..A13: rings that lie -------------------------------------------------------------------
 */

Test(virtqueue, a6_index_too_far_ahead_breaks_the_ring)
{
	static const uint16_t ahead[] = {RING_SIZE + 1, RING_SIZE + 2, 0x7fff, 0x8000, 0xffff};
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (size_t i = 0; i < sizeof(ahead) / sizeof(ahead[0]); i++) {
		ring_driver_set_index(&r->drv, ahead[i]);
		assert_breaks(r, "avail.idx is further ahead than the ring is long");
		rig_restart(r);
	}
	ring_driver_set_index(&r->drv, RING_SIZE);
	cr_assert_eq(rig_pop(r), 1, "a full ring is fine");
	rig_destroy(r);
}

Test(virtqueue, a6_index_going_back_breaks_the_ring)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	serve(r, 3);
	ring_driver_set_index(&r->drv, 2);
	cr_assert_eq(rig_pop(r), -EPROTO);
	rig_destroy(r);
}

/* A19: what the device holds and what is offered together never exceed the ring. */
Test(virtqueue, a19_requests_in_flight_are_bounded)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	ring_driver_set_index(&r->drv, RING_SIZE);
	for (int i = 0; i < RING_SIZE; i++)
		cr_assert_eq(rig_pop(r), 1);
	cr_assert_eq(rig_pop(r), 0);
	ring_driver_set_index(&r->drv, RING_SIZE + 1);
	assert_breaks(r, "avail.idx is further ahead than the ring is long");
	rig_destroy(r);
}

Test(virtqueue, a7_entries_outside_of_the_table_break_the_ring)
{
	static const uint16_t heads[] = {RING_SIZE, RING_SIZE + 1, 0x7fff, 0x8000, 0xffff};
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		ring_driver_offer(&r->drv, heads[i]);
		ring_driver_expose(&r->drv);
		assert_breaks(r, "an available entry is outside of the descriptor table");
		rig_restart(r);
	}
	rig_destroy(r);
}

Test(virtqueue, a8_next_outside_of_the_table_breaks_the_ring)
{
	static const uint16_t next[] = {RING_SIZE, RING_SIZE + 1, 0x8000, 0xffff};
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (size_t i = 0; i < sizeof(next) / sizeof(next[0]); i++) {
		ring_driver_write(&r->drv.desc[0], DATA_GPA, 1, NEXT, next[i]);
		ring_driver_offer(&r->drv, 0);
		ring_driver_expose(&r->drv);
		assert_breaks(r, "a descriptor's next is outside of its table");
		rig_restart(r);
	}
	/* Without NEXT the field means nothing. */
	ring_driver_write(&r->drv.desc[0], DATA_GPA, 1, 0, 0xffff);
	ring_driver_offer(&r->drv, 0);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1);
	rig_destroy(r);
}

/* Loops of 1..n links, in the ring's table and in an indirect one, also of empty descriptors (A10).
 */
Test(virtqueue, a8_loops_break_the_ring)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (unsigned links = 1; links <= RING_SIZE; links++) {
		for (unsigned kind = 0; kind < 4; kind++) {
			struct vring_desc *table = kind & 1 ? table_at(r, TABLE_GPA) : r->drv.desc;

			for (unsigned i = 0; i < links; i++)
				ring_driver_write(&table[i], DATA_GPA, kind & 2 ? 0 : 1, NEXT,
						  (i + 1) % links);
			if (kind & 1)
				ring_driver_write(r->drv.desc, TABLE_GPA, 16 * RING_SIZE, INDIRECT,
						  0);
			ring_driver_offer(&r->drv, 0);
			ring_driver_expose(&r->drv);
			assert_breaks(r, "a chain loops");
			rig_restart(r);
		}
	}
	rig_destroy(r);
}

Test(virtqueue, a8_the_longest_chain_is_as_long_as_the_ring)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);
	struct ring_buffer bufs[RING_SIZE];

	for (unsigned i = 0; i < RING_SIZE; i++)
		bufs[i] = (struct ring_buffer){DATA_GPA + i, 1, false};
	cr_assert_geq(ring_driver_add(&r->drv, bufs, RING_SIZE), 0);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1);
	cr_assert_eq(r->chain.out_count, RING_SIZE);
	rig_destroy(r);
}

Test(virtqueue, more_segments_than_the_device_takes_break_the_ring)
{
	struct rig *r = rig_create(MIB, 128, false);
	struct ring_buffer bufs[SEGMENTS + 1];

	for (unsigned i = 0; i <= SEGMENTS; i++)
		bufs[i] = (struct ring_buffer){DATA_GPA + i, 1, true};
	ring_driver_add(&r->drv, bufs, SEGMENTS);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1);
	rig_restart(r);
	ring_driver_add(&r->drv, bufs, SEGMENTS + 1);
	ring_driver_expose(&r->drv);
	assert_breaks(r, "a chain has more segments than the device takes");
	rig_destroy(r);
}

Test(virtqueue, a9_chains_past_4_gib_break_the_ring)
{
	struct rig *r = rig_create(4 * GIB, RING_SIZE, false);
	struct ring_buffer bufs[] = {{0, 1u << 31, false}, {0, 1u << 31, true}, {0, 1, true}};

	ring_driver_add(&r->drv, bufs, 2);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1, "exactly 2^32 bytes are allowed");
	cr_assert_eq(r->chain.out_len + r->chain.in_len, 1ull << 32);
	rig_restart(r);
	ring_driver_add(&r->drv, bufs, 3);
	ring_driver_expose(&r->drv);
	assert_breaks(r, "a chain is longer than 4 GiB");
	rig_restart(r);
	ring_driver_add_indirect(&r->drv, DATA_GPA, bufs, 3);
	ring_driver_expose(&r->drv);
	assert_breaks(r, "a chain is longer than 4 GiB");
	rig_destroy(r);
}

Test(virtqueue, a10_empty_descriptors_are_skipped)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);
	const struct ring_buffer mixed[] = {{UINT64_MAX, 0, false}, {DATA_GPA, 5, false},
					    {0, 0, false},	    {0, 0, true},
					    {DATA_GPA, 6, true},    {MIB, 0, true}};
	const struct ring_buffer empty[] = {{0, 0, false}, {0, 0, true}};

	ring_driver_add(&r->drv, mixed, 6);
	ring_driver_add(&r->drv, empty, 2);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1);
	cr_assert_eq(r->chain.out_count, 1);
	cr_assert_eq(r->chain.in_count, 1);
	cr_assert_eq(r->iov[0].iov_len, 5);
	cr_assert_eq(r->iov[1].iov_len, 6);
	cr_assert_eq(rig_pop(r), 1, "a chain of nothing else is the device's to judge");
	cr_assert_eq(r->chain.out_count + r->chain.in_count, 0);
	cr_assert_eq(r->chain.out_len + r->chain.in_len, 0);
	rig_destroy(r);
}

Test(virtqueue, a11_readable_behind_writable_breaks_the_ring)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (uint32_t len = 0; len < 2; len++) {
		const struct ring_buffer bufs[] = {{DATA_GPA, len, true}, {DATA_GPA, 1, false}};

		ring_driver_add(&r->drv, bufs, 2);
		ring_driver_expose(&r->drv);
		assert_breaks(r, "a readable descriptor behind a writable one");
		rig_restart(r);
		ring_driver_add_indirect(&r->drv, TABLE_GPA, bufs, 2);
		ring_driver_expose(&r->drv);
		assert_breaks(r, "a readable descriptor behind a writable one");
		rig_restart(r);
	}
	rig_destroy(r);
}

Test(virtqueue, a12_bad_indirect_tables_break_the_ring)
{
	static const struct {
		uint64_t gpa;
		uint32_t len;
		uint16_t flags;
		const char *why;
	} rows[] = {
	    {TABLE_GPA, 16, NEXT, "an indirect table with a next descriptor"},
	    {TABLE_GPA, 0, 0, "an indirect table of an impossible length"},
	    {TABLE_GPA, 15, 0, "an indirect table of an impossible length"},
	    {TABLE_GPA, 17, 0, "an indirect table of an impossible length"},
	    {TABLE_GPA, 0xffffffff, 0, "an indirect table of an impossible length"},
	    {TABLE_GPA, 0xfffffff0, 0, "an indirect table is too long"},
	    {TABLE_GPA, 16 * (VIRTQUEUE_CHAIN_MAX + 1), 0, "an indirect table is too long"},
	    {MIB - 16, 32, 0, "an indirect table is outside of RAM"},
	    {MIB, 16, 0, "an indirect table is outside of RAM"},
	    {UINT64_MAX - 15, 16, 0, "an indirect table is outside of RAM"},
	    {UINT64_MAX - 7, 16, 0, "an indirect table is outside of RAM"},
	};
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ring_driver_write(&r->drv.desc[0], rows[i].gpa, rows[i].len,
				  INDIRECT | rows[i].flags, 1);
		ring_driver_offer(&r->drv, 0);
		ring_driver_expose(&r->drv);
		assert_breaks(r, rows[i].why);
		rig_restart(r);
	}
	rig_destroy(r);
}

Test(virtqueue, a12_nested_or_unasked_indirect_tables_break_the_ring)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);

	for (unsigned nested = 0; nested < 2; nested++) {
		/* The table's first, or only its second entry points at a table again: itself. */
		ring_driver_write(table_at(r, TABLE_GPA), nested ? DATA_GPA : TABLE_GPA, 32,
				  nested ? NEXT : INDIRECT, 1);
		ring_driver_write(table_at(r, TABLE_GPA + 16), TABLE_GPA, 32, INDIRECT, 0);
		ring_driver_write(&r->drv.desc[0], TABLE_GPA, 32, INDIRECT, 0);
		ring_driver_offer(&r->drv, 0);
		ring_driver_expose(&r->drv);
		assert_breaks(r, "an indirect table inside of an indirect table");
		rig_restart(r);
	}
	r->vq.indirect = false;
	ring_driver_add_indirect(&r->drv, TABLE_GPA, &(struct ring_buffer){DATA_GPA, 1, false}, 1);
	ring_driver_expose(&r->drv);
	assert_breaks(r, "an indirect table that was not negotiated");
	rig_destroy(r);
}

Test(virtqueue, a12_direct_and_indirect_descriptors_count_together)
{
	struct rig *r = rig_create(MIB, RING_SIZE, false);
	struct vring_desc *table = table_at(r, TABLE_GPA);

	for (unsigned i = 0; i < VIRTQUEUE_CHAIN_MAX; i++)
		ring_driver_write(&table[i], 0, 0, i + 1 < VIRTQUEUE_CHAIN_MAX ? NEXT : 0, i + 1);
	ring_driver_write(&r->drv.desc[0], TABLE_GPA, 16 * VIRTQUEUE_CHAIN_MAX, INDIRECT, 0);
	ring_driver_offer(&r->drv, 0);
	ring_driver_expose(&r->drv);
	assert_breaks(r, "a chain has too many descriptors");
	rig_restart(r);
	ring_driver_write(&r->drv.desc[0], TABLE_GPA, 16 * VIRTQUEUE_CHAIN_MAX, INDIRECT, 0);
	ring_driver_write(&table[VIRTQUEUE_CHAIN_MAX - 2], 0, 0, 0, 0);
	ring_driver_offer(&r->drv, 0);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1);
	rig_destroy(r);
}

/* A13: one byte a descriptor is the most segments a request can have. */
Test(virtqueue, a13_one_byte_each)
{
	struct rig *r = rig_create(MIB, SEGMENTS, false);
	struct ring_buffer bufs[SEGMENTS];

	for (unsigned i = 0; i < SEGMENTS; i++)
		bufs[i] = (struct ring_buffer){DATA_GPA + 7 * i, 1, i >= 12};
	ring_driver_add(&r->drv, bufs, SEGMENTS);
	ring_driver_expose(&r->drv);
	cr_assert_eq(rig_pop(r), 1);
	cr_assert_eq(r->chain.out_count, 12);
	cr_assert_eq(r->chain.out_len, 12);
	cr_assert_eq(r->chain.in_count, SEGMENTS - 12);
	for (unsigned i = 0; i < SEGMENTS; i++)
		cr_assert_eq(r->iov[i].iov_base, at(r, bufs[i].gpa));
	rig_destroy(r);
}

/* --- random valid rings against a reference ----------------------------------------------------
 */

/* What the device must see of a chain: worked out from what was put in, not from the ring. */
struct expected {
	struct iovec iov[SEGMENTS];
	unsigned out_count, in_count;
	uint64_t out_len, in_len;
	int head;
};

static void expect_chain(const struct rig *r, struct expected *e, const struct ring_buffer *bufs,
			 unsigned n)
{
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < n; i++) {
			if (bufs[i].device_writes != pass || !bufs[i].len)
				continue;
			e->iov[e->out_count + e->in_count] = (struct iovec){
			    guest_range(&r->mem, bufs[i].gpa, bufs[i].len), bufs[i].len};
			*(pass ? &e->in_count : &e->out_count) += 1;
			*(pass ? &e->in_len : &e->out_len) += bufs[i].len;
		}
	}
}

static unsigned random_chain(struct ring_buffer *bufs, unsigned max)
{
	unsigned n = 1 + rand() % max, out = rand() % (n + 1);

	for (unsigned i = 0; i < n; i++)
		bufs[i] = (struct ring_buffer){
		    .gpa = DATA_GPA + rand() % 0x10000,
		    .len = rand() % 5 ? rand() % 5000 : 0,
		    .device_writes = i >= out,
		};
	return n;
}

static bool random_add(struct rig *r, struct expected *e, unsigned slot)
{
	struct ring_buffer bufs[SEGMENTS];
	bool indirect = rand() & 1;
	unsigned n = random_chain(bufs, indirect ? SEGMENTS : 6);

	memset(e, 0, sizeof(*e));
	e->head = indirect ? ring_driver_add_indirect(&r->drv, TABLE_GPA + slot * 1024, bufs, n)
			   : ring_driver_add(&r->drv, bufs, n);
	if (e->head < 0)
		return false;
	expect_chain(r, e, bufs, n);
	return true;
}

static void assert_expected(const struct rig *r, const struct expected *e)
{
	cr_assert_eq(r->chain.head, e->head);
	cr_assert_eq(r->chain.out_count, e->out_count);
	cr_assert_eq(r->chain.in_count, e->in_count);
	cr_assert_eq(r->chain.out_len, e->out_len);
	cr_assert_eq(r->chain.in_len, e->in_len);
	cr_assert_eq(memcmp(r->iov, e->iov, (e->out_count + e->in_count) * sizeof(e->iov[0])), 0);
}

static void shuffle(int *values, unsigned n)
{
	for (unsigned i = n; i > 1; i--) {
		unsigned k = rand() % i;
		int v = values[i - 1];

		values[i - 1] = values[k];
		values[k] = v;
	}
}

static void random_round(struct rig *r, struct expected *expected)
{
	unsigned added = 0, taken;
	int heads[32];
	struct ring_used used;

	while (added < 1u + rand() % 20 && random_add(r, &expected[added], added))
		added++;
	ring_driver_expose(&r->drv);
	for (taken = 0; taken < added; taken++) {
		cr_assert_eq(rig_pop(r), 1);
		assert_expected(r, &expected[taken]);
		heads[taken] = r->chain.head;
		if (rand() % 8 == 0) { /* put some back, and see them again */
			unsigned back = 1 + rand() % (taken + 1);

			virtqueue_unpop(&r->vq, back);
			taken -= back;
		}
	}
	cr_assert_eq(rig_pop(r), 0);
	shuffle(heads, added);
	for (unsigned i = 0; i < added; i++)
		virtqueue_push(&r->vq, heads[i], heads[i] * 3);
	virtqueue_publish(&r->vq);
	for (unsigned i = 0; i < added; i++) {
		cr_assert(ring_driver_take(&r->drv, &used));
		cr_assert_eq(used.id, (uint32_t)heads[i]);
		cr_assert_eq(used.len, (uint32_t)heads[i] * 3);
	}
	cr_assert_not(ring_driver_take(&r->drv, &used));
	cr_assert_eq(r->drv.free_count, r->drv.size);
}

Test(virtqueue, random_valid_rings_match_the_reference)
{
	struct expected *expected = calloc(32, sizeof(*expected));

	srand(1);
	for (uint16_t size = 1; size <= VIRTQUEUE_SIZE_MAX; size *= 2) {
		struct rig *r = rig_create(MIB, size, size & 0x155);

		for (unsigned round = 0; round < 8000; round++)
			random_round(r, expected);
		rig_destroy(r);
	}
	free(expected);
}

/* --- A16: another vCPU flips the ring while the device reads it --------------------------------
 */

struct flipper {
	struct rig *r;
	bool stop;
};

/* One in @odds is anything at all; the others are what a driver might have written. */
static uint64_t plausible(unsigned *seed, unsigned odds, uint64_t below)
{
	uint64_t value = (uint64_t)rand_r(seed) << 33 ^ (uint64_t)rand_r(seed) << 16 ^ rand_r(seed);

	return value % odds ? value / odds % below : value;
}

static void flip_descriptor(struct vring_desc *d, unsigned *seed)
{
	switch (rand_r(seed) % 5) {
	case 0:
		__atomic_store_n(&d->addr, plausible(seed, 32, MIB), __ATOMIC_RELAXED);
		break;
	case 1:
		__atomic_store_n(&d->addr, TABLE_GPA, __ATOMIC_RELAXED);
		break;
	case 2:
		__atomic_store_n(&d->len, plausible(seed, 32, 257), __ATOMIC_RELAXED);
		break;
	case 3:
		__atomic_store_n(&d->flags, plausible(seed, 32, 8), __ATOMIC_RELAXED);
		break;
	case 4:
		__atomic_store_n(&d->next, plausible(seed, 32, RING_SIZE), __ATOMIC_RELAXED);
		break;
	}
}

static void *flip(void *arg)
{
	struct flipper *f = arg;
	struct ring_driver *drv = &f->r->drv;
	struct vring_desc *table = table_at(f->r, TABLE_GPA);
	unsigned seed = 7;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		uint16_t used = __atomic_load_n(&drv->used->idx, __ATOMIC_RELAXED);

		flip_descriptor(&drv->desc[rand_r(&seed) % RING_SIZE], &seed);
		flip_descriptor(&table[rand_r(&seed) % 16], &seed);
		__atomic_store_n(&drv->avail->ring[rand_r(&seed) % (RING_SIZE + 1)],
				 plausible(&seed, 32, RING_SIZE), __ATOMIC_RELAXED);
		__atomic_store_n(&drv->avail->flags, rand_r(&seed), __ATOMIC_RELAXED);
		/* Keep the device busy: an avail.idx that is sometimes too far ahead. */
		__atomic_store_n(&drv->avail->idx, used + rand_r(&seed) % (RING_SIZE + 2),
				 __ATOMIC_RELAXED);
	}
	return NULL;
}

static void assert_inside(const struct rig *r)
{
	const uint8_t *start = r->mem.base, *end = start + r->mem.size;
	uint64_t total = 0;

	cr_assert_lt(r->chain.head, r->drv.size);
	cr_assert_leq(r->chain.out_count + r->chain.in_count, SEGMENTS);
	for (unsigned i = 0; i < r->chain.out_count + r->chain.in_count; i++) {
		const uint8_t *base = r->iov[i].iov_base;

		cr_assert(base >= start && base < end);
		cr_assert(r->iov[i].iov_len > 0 && r->iov[i].iov_len <= (size_t)(end - base));
		total += r->iov[i].iov_len;
	}
	cr_assert_eq(total, r->chain.out_len + r->chain.in_len);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

/* The ring broke: begin again, after the flipper had its turn. */
static void flipped_restart(struct rig *r)
{
	virtqueue_stop(&r->vq);
	__atomic_store_n(&r->drv.used->idx, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&r->drv.avail->idx, 1, __ATOMIC_RELAXED);
	sched_yield();
	cr_assert_eq(virtqueue_start(&r->vq), 0);
}

static void flipped_ring(bool event_idx)
{
	struct rig *r = rig_create(MIB, RING_SIZE, event_idx);
	struct flipper f = {.r = r};
	uint64_t end = now_ms() + 240000;
	unsigned popped = 0, broken = 0;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, flip, &f), 0);
	while ((popped < 10000 || broken < 2000) && now_ms() < end) {
		for (unsigned i = 0; i < 64 && rig_pop(r) == 1; i++) {
			assert_inside(r);
			virtqueue_push(&r->vq, r->chain.head, 1);
			popped++;
		}
		virtqueue_publish(&r->vq);
		virtqueue_notify_on(&r->vq);
		virtqueue_notify_off(&r->vq);
		if (r->vq.broken) {
			broken++;
			flipped_restart(r);
		}
	}
	__atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	cr_assert(popped >= 10000 && broken >= 2000, "%u, %u", popped, broken);
	rig_destroy(r);
}

Test(virtqueue, a16_flipped_while_read, .timeout = 300)
{
	flipped_ring(false);
}

Test(virtqueue, a16_flipped_while_read_with_event_idx, .timeout = 300)
{
	flipped_ring(true);
}

/* --- both sides asleep: no notification is ever lost -------------------------------------------
 */

#define STREAM 100000u

struct stream {
	struct rig *r;
	int doorbell, interrupt;
	unsigned lost; /* waits that ended by timeout */
};

static void bell_ring(int fd)
{
	uint64_t one = 1;

	cr_assert_eq(write(fd, &one, sizeof(one)), (ssize_t)sizeof(one));
}

static bool bell_wait(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t count;

	return poll(&p, 1, 60000) == 1 && read(fd, &count, sizeof(count)) == sizeof(count);
}

/* The device: take up to 64, publish once, sleep when there is nothing. */
static void *stream_device(void *arg)
{
	struct stream *s = arg;
	struct rig *r = s->r;
	unsigned done = 0, n;

	while (done < STREAM) {
		virtqueue_notify_off(&r->vq);
		for (n = 0; n < 64 && rig_pop(r) == 1; n++)
			virtqueue_push(&r->vq, r->chain.head, (uint32_t)r->chain.out_len);
		done += n;
		if (virtqueue_publish(&r->vq))
			bell_ring(s->interrupt);
		if (n || virtqueue_notify_on(&r->vq) || done == STREAM)
			continue;
		if (!bell_wait(s->doorbell)) {
			s->lost++;
			break;
		}
	}
	return NULL;
}

static bool stream_take(struct stream *s, unsigned *taken)
{
	struct ring_used used;
	bool any = false;

	while (ring_driver_take(&s->r->drv, &used)) {
		cr_assert_eq(used.len, *taken % 100 + 1);
		*taken += 1;
		any = true;
	}
	return any;
}

/* The driver: fill the ring, ring the bell if asked to, sleep until something was used. */
static void stream_run(bool event_idx, uint16_t size)
{
	struct stream s = {.r = rig_create(MIB, size, event_idx),
			   .doorbell = eventfd(0, EFD_NONBLOCK),
			   .interrupt = eventfd(0, EFD_NONBLOCK)};
	struct ring_driver *drv = &s.r->drv;
	unsigned added = 0, taken = 0;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, stream_device, &s), 0);
	while (taken < STREAM) {
		struct ring_buffer buf = {DATA_GPA, 0, false};

		for (; added < STREAM; added++) {
			buf.len = added % 100 + 1;
			if (ring_driver_add(drv, &buf, 1) < 0)
				break;
		}
		if (ring_driver_expose(drv))
			bell_ring(s.doorbell);
		if (stream_take(&s, &taken))
			continue;
		ring_driver_interrupts(drv, true, 0);
		if (stream_take(&s, &taken))
			continue;
		cr_assert(bell_wait(s.interrupt), "interrupt lost after %u", taken);
	}
	pthread_join(thread, NULL);
	cr_assert_eq(s.lost, 0, "doorbell lost");
	close(s.doorbell);
	close(s.interrupt);
	rig_destroy(s.r);
}

Test(virtqueue, no_notification_is_lost, .timeout = 300)
{
	stream_run(false, 4);
	stream_run(false, 256);
}

Test(virtqueue, no_notification_is_lost_with_event_idx, .timeout = 300)
{
	stream_run(true, 4);
	stream_run(true, 256);
}
