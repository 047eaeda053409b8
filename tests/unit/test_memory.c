/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guest memory: layout around the hole, translation at every edge, the seals of the memfd. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
	cr_assert_eq(high, low + 1, "the file is mapped once, without the hole");
	cr_assert_eq(mem.regions[1].fd_start, MEMORY_HOLE_START);
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

Test(memory, nobody_can_change_the_size)
{
	struct guest_memory mem;
	struct stat st;

	cr_assert_eq(memory_create(&mem, 2 * MIB, false), 0);
	cr_assert_eq(ftruncate(mem.fd, MIB), -1);
	cr_assert_eq(errno, EPERM);
	cr_assert_eq(ftruncate(mem.fd, 4 * MIB), -1);
	cr_assert_eq(fcntl(mem.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	cr_assert_eq(fstat(mem.fd, &st), 0);
	cr_assert_eq((uint64_t)st.st_size, 2 * MIB);
	memory_destroy(&mem);
}

Test(memory, the_file_and_the_mapping_are_the_same_memory)
{
	struct guest_memory mem;
	uint8_t *peer, *own;

	cr_assert_eq(memory_create(&mem, 2 * MIB, false), 0);
	peer = mmap(NULL, MEMORY_PAGE, PROT_READ, MAP_SHARED, mem.fd, MIB);
	cr_assert_neq(peer, MAP_FAILED);
	own = guest_range(&mem, MIB, 1);
	*own = 0x5a;
	cr_assert_eq(*peer, 0x5a);
	munmap(peer, MEMORY_PAGE);
	memory_destroy(&mem);
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
