/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guest memory: layout around the hole, translation at every edge, clearing. */
#include <criterion/criterion.h>

#include <errno.h>
#include <sys/mman.h>

#include "vmm/memory.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

Test(memory, small_memory_is_one_region)
{
	struct guest_memory mem;
	uint8_t *first, *last;

	cr_assert_eq(memory_create(&mem, 16 * MIB, false), 0);
	cr_assert_eq(mem.count, 1);
	cr_assert_eq(mem.size, 16 * MIB);
	first = guest_range(&mem, 0, 1);
	last = guest_range(&mem, 16 * MIB - 1, 1);
	cr_assert_eq(last - first, 16 * MIB - 1);
	*last = 7; /* backed by real memory */
	cr_assert_eq(*last, 7);
	memory_destroy(&mem);
}

Test(memory, large_memory_goes_on_at_4_gib)
{
	struct guest_memory mem;
	uint8_t *low, *high;

	cr_assert_eq(memory_create(&mem, 4 * GIB, false), 0);
	cr_assert_eq(mem.count, 2);
	low = guest_range(&mem, MEMORY_HOLE_START - 1, 1);
	high = guest_range(&mem, MEMORY_HOLE_END, 1);
	cr_assert_not_null(low);
	cr_assert_eq(high, low + 1, "there is one mapping, without the hole");
	cr_assert_not_null(guest_range(&mem, 5 * GIB - 1, 1));
	cr_assert_null(guest_range(&mem, 5 * GIB, 1));
	memory_destroy(&mem);
}

Test(memory, memory_up_to_the_hole_has_no_second_region)
{
	struct guest_memory mem;

	cr_assert_eq(memory_create(&mem, MEMORY_HOLE_START, false), 0);
	cr_assert_eq(mem.count, 1);
	cr_assert_null(guest_range(&mem, MEMORY_HOLE_END, 1));
	memory_destroy(&mem);
	cr_assert_eq(memory_create(&mem, MEMORY_HOLE_START + MEMORY_PAGE, false), 0);
	cr_assert_eq(mem.count, 2);
	cr_assert_not_null(guest_range(&mem, MEMORY_HOLE_END, MEMORY_PAGE));
	memory_destroy(&mem);
}

/* Hostile inputs, A5: outside, straddling an end or the hole, wrapping. */
Test(memory, ranges_outside_of_ram_are_refused)
{
	static const struct {
		uint64_t gpa, len;
		bool inside;
	} rows[] = {
	    {0, 0, true},
	    {0, MEMORY_HOLE_START, true},
	    {0, MEMORY_HOLE_START + 1, false},
	    {MEMORY_HOLE_START - 1, 1, true},
	    {MEMORY_HOLE_START - 1, 2, false},
	    {MEMORY_HOLE_START, 1, false},
	    {MEMORY_HOLE_END - 1, 1, false},
	    {MEMORY_HOLE_END - 1, 2, false},
	    {MEMORY_HOLE_END, GIB, true},
	    {MEMORY_HOLE_END, GIB + 1, false},
	    {MEMORY_HOLE_END + GIB - 1, 2, false},
	    {MEMORY_HOLE_END + GIB + 1, 0, false},
	    {UINT64_MAX, 0, false},
	    {UINT64_MAX, 1, false},
	    {UINT64_MAX, 2, false},
	    {1, UINT64_MAX, false},
	    {0, UINT64_MAX, false},
	    {MEMORY_HOLE_END, UINT64_MAX - MEMORY_HOLE_END + 2, false},
	};
	struct guest_memory mem;

	cr_assert_eq(memory_create(&mem, 4 * GIB, false), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		cr_expect_eq(guest_range(&mem, rows[i].gpa, rows[i].len) != NULL, rows[i].inside,
			     "row %zu", i);
	memory_destroy(&mem);
}

Test(memory, impossible_sizes_are_refused)
{
	static const struct {
		uint64_t size;
		bool hugepages;
	} rows[] = {
	    {0, false},
	    {MEMORY_SIZE_MIN - MEMORY_PAGE, false},
	    {16 * MIB + 1, false},
	    {MEMORY_SIZE_MAX + MEMORY_PAGE, false},
	    {UINT64_MAX & ~(MEMORY_PAGE - 1), false},
	    {3 * MIB, true},
	};
	struct guest_memory mem;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cr_expect_eq(memory_create(&mem, rows[i].size, rows[i].hugepages), -EINVAL,
			     "row %zu", i);
		memory_destroy(&mem);
	}
}

#ifndef __SANITIZE_THREAD__ /* leaves no room for a mapping of this size */
Test(memory, largest_memory_can_be_laid)
{
	struct guest_memory mem;

	cr_assert_eq(memory_create(&mem, MEMORY_SIZE_MAX, false), 0);
	cr_assert_not_null(guest_range(&mem, MEMORY_SIZE_MAX, GIB));
	memory_destroy(&mem);
}
#endif

/* The host can back it by huge pages only where both addresses are multiples of their size. */
Test(memory, begins_at_a_huge_page)
{
	struct guest_memory mem;

	cr_assert_eq(memory_create(&mem, 4 * GIB + 3 * MEMORY_PAGE, false), 0);
	for (unsigned i = 0; i < mem.count; i++)
		cr_assert_eq((uintptr_t)mem.regions[i].host % (2 * MIB),
			     mem.regions[i].gpa % (2 * MIB));
	*(uint8_t *)guest_range(&mem, 5 * GIB + 3 * MEMORY_PAGE - 1, 1) = 1;
	memory_destroy(&mem);
}

static void clear(bool stay)
{
	struct guest_memory mem;
	uint8_t *byte;

	cr_assert_eq(memory_create(&mem, 2 * MIB, false), 0);
	byte = guest_range(&mem, MIB, 1);
	*byte = 0x5a;
	cr_assert_eq(memory_clear(&mem, stay), 0);
	cr_assert_eq(*byte, 0);
	memory_destroy(&mem);
}

Test(memory, can_be_cleared_and_given_back)
{
	clear(false);
}

Test(memory, can_be_cleared_in_place)
{
	clear(true);
}

/* With too few huge pages, creation fails; it never leaves a mapping that faults later. */
Test(memory, huge_pages_are_there_or_refused)
{
	struct guest_memory mem;
	int err = memory_create(&mem, 64 * MIB, true);

	cr_assert(err == 0 || err == -ENOMEM || err == -ENOSYS || err == -EINVAL, "%d", err);
	if (err == 0)
		*(uint8_t *)guest_range(&mem, 64 * MIB - 1, 1) = 1;
	memory_destroy(&mem);
}

Test(memory, destroying_twice_or_nothing_is_harmless)
{
	struct guest_memory mem = {0};

	memory_destroy(&mem);
	cr_assert_eq(memory_create(&mem, 2 * MIB, false), 0);
	memory_destroy(&mem);
	memory_destroy(&mem);
	cr_assert_null(guest_range(&mem, 0, 0));
}
