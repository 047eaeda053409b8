/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory: the one door through which the process touches what the guest owns.
 *
 * Guest RAM is one anonymous mapping, shown to the guest as at most two regions: below the
 * 32-bit device hole and above 4 GiB. Every guest-physical address that the process follows goes
 * through guest_range(); nothing else translates.
 */
#ifndef WEFT_MEMORY_H
#define WEFT_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Guest-physical layout (bytes). RAM grows to the hole, then goes on at 4 GiB. */
#define MEMORY_HOLE_START 0xc0000000ull
#define MEMORY_HOLE_END   0x100000000ull
#define MEMORY_SIZE_MIN   (1ull << 20)
#define MEMORY_SIZE_MAX   (1ull << 40)
#define MEMORY_PAGE       4096ull
#define MEMORY_REGIONS    2

struct memory_region {
	uint64_t gpa;  /* first guest-physical address, bytes */
	uint64_t size; /* bytes */
	uint8_t *host; /* where the region is mapped in this process */
};

struct guest_memory {
	struct memory_region regions[MEMORY_REGIONS];
	unsigned count;
	uint64_t size; /* all regions together, bytes */
	uint8_t *base; /* of the one mapping, a multiple of 2 MiB */
};

/**
 * memory_create - allocate guest RAM.
 * @mem:       filled in
 * @size:      bytes, a multiple of MEMORY_PAGE (of 2 MiB with @hugepages)
 * @hugepages: back the memory by 2 MiB pages of hugetlbfs; otherwise the kernel is asked for transparent ones
 *
 * Returns 0, -EINVAL for an impossible size, or -errno of mmap (-ENOMEM: not enough memory or huge pages).
 */
int memory_create(struct guest_memory *mem, uint64_t size, bool hugepages);

/**
 * memory_lock - keep guest RAM, all of it at once, and the rest of the process as it is used, in the host's RAM.
 * @room: bytes that the process will map later on, such as the stacks of its threads
 *
 * Returns 0 or -errno: -ENOMEM, -EAGAIN or -EPERM where RLIMIT_MEMLOCK is too small for it.
 */
int memory_lock(const struct guest_memory *mem, uint64_t room);
/**
 * memory_clear - fill guest RAM with zeroes.
 * @stay: the pages stay those that they are, for an RDMA adapter knows them or they are locked; otherwise
 *        what the guest had touched is given back to the host
 *
 * Returns 0 or -errno of madvise.
 */
int memory_clear(const struct guest_memory *mem, bool stay);

/* memory_destroy - unmap and free guest RAM; harmless on a zeroed struct. */
void memory_destroy(struct guest_memory *mem);

/**
 * guest_range - translate a guest-physical range.
 * @gpa: first byte
 * @len: bytes; 0 is a range like any other
 *
 * Returns a pointer to @len bytes of guest RAM, or NULL when any byte of the range is outside of RAM,
 * lies in another region than the first, or the range wraps. The guest may change the bytes at any
 * time: copy a value before judging it.
 */
static inline void *guest_range(const struct guest_memory *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->count; i++) {
		const struct memory_region *r = &mem->regions[i];
		uint64_t start = gpa - r->gpa;

		if (gpa >= r->gpa && start <= r->size && len <= r->size - start)
			return r->host + start;
	}
	return NULL;
}

/* memory_load - store @len bytes at a guest-physical address. Returns false when the range is not RAM, as guest_range(). */
bool memory_load(const struct guest_memory *mem, uint64_t gpa, const void *data, uint64_t len);

#endif
