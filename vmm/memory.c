/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Guest RAM is one private anonymous mapping: the kind of memory that gets transparent huge pages
 * wherever the host has them at all (files in memory need a setting that few hosts have). They
 * spare most TLB misses of the copies into and out of guest memory, and most faults of a shadow or
 * nested page table. For them the mapping begins at a multiple of 2 MiB, as the guest's addresses
 * do.
 *
 * The two guest-physical regions are ranges of that mapping. They are neighbours in this process
 * though 1 GiB apart for the guest, so a range must never run from one into the other:
 * guest_range() sees to that.
 *
 * Set up and torn down by the main thread; constant, and so readable by all threads, in between.
 */
#include "vmm/memory.h"

#include <errno.h>
#include <linux/mman.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2ull << 20)

static void region_add(struct guest_memory *mem, uint64_t gpa, uint64_t offset, uint64_t size)
{
	mem->regions[mem->count++] = (struct memory_region){
	    .gpa = gpa,
	    .size = size,
	    .host = mem->base + offset,
	};
}

static void memory_lay(struct guest_memory *mem)
{
	uint64_t low = mem->size < MEMORY_HOLE_START ? mem->size : MEMORY_HOLE_START;

	region_add(mem, 0, 0, low);
	if (mem->size > low)
		region_add(mem, MEMORY_HOLE_END, low, mem->size - low);
}

/* Maps more than is wanted, and gives back what lies before and behind it. */
static void *map_aligned(uint64_t size)
{
	uint64_t room = size + HUGE_PAGE, before;
	uint8_t *at = mmap(NULL, room, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return at;
	before = -(uintptr_t)at % HUGE_PAGE;
	if (before)
		munmap(at, before);
	munmap(at + before + size, HUGE_PAGE - before);
	return at + before;
}

static void *map_huge(uint64_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
}

int memory_create(struct guest_memory *mem, uint64_t size, bool hugepages)
{
	void *base;

	memset(mem, 0, sizeof(*mem));
	if (size < MEMORY_SIZE_MIN || size > MEMORY_SIZE_MAX ||
	    size % (hugepages ? HUGE_PAGE : MEMORY_PAGE))
		return -EINVAL;
	base = hugepages ? map_huge(size) : map_aligned(size);
	if (base == MAP_FAILED)
		return -errno;
	/* A core dump is for our bugs; the guest's secrets, and its size, have no place in it. */
	madvise(base, size, MADV_DONTDUMP);
	if (!hugepages)
		madvise(base, size, MADV_HUGEPAGE);
	mem->base = base;
	mem->size = size;
	memory_lay(mem);
	return 0;
}

/* What is mapped later must find room under the limit too; a mapping that stays empty tells. */
int memory_lock(const struct guest_memory *mem, uint64_t room)
{
	void *probe;

	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		return -errno;
	probe = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (probe == MAP_FAILED)
		return -errno;
	munmap(probe, room);
	return mlock(mem->base, mem->size) ? -errno : 0;
}

int memory_clear(const struct guest_memory *mem, bool stay)
{
	if (!stay)
		return madvise(mem->base, mem->size, MADV_DONTNEED) ? -errno : 0;
	memset(mem->base, 0, mem->size);
	return 0;
}

void memory_destroy(struct guest_memory *mem)
{
	if (mem->base)
		munmap(mem->base, mem->size);
	memset(mem, 0, sizeof(*mem));
}

bool memory_load(const struct guest_memory *mem, uint64_t gpa, const void *data, uint64_t len)
{
	void *to = guest_range(mem, gpa, len);

	if (to)
		memcpy(to, data, len);
	return to;
}
