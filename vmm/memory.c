/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Guest RAM is one memfd, sealed at its final size: whoever is handed the descriptor (a peer on the
 * same host, migration) can neither shrink it under our feet, which would turn a memory access into
 * SIGBUS, nor grow it. It is mapped once, as a whole; the two guest-physical regions are ranges of
 * that mapping. They are neighbours in this process though 1 GiB apart for the guest, so a range
 * must never run from one into the other: guest_range() sees to that.
 *
 * Set up and torn down by the main thread; constant, and so readable by all threads, in between.
 */
#include "vmm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE (2ull << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static void region_add(struct guest_memory *mem, uint64_t gpa, uint64_t fd_start, uint64_t size)
{
	mem->regions[mem->count++] = (struct memory_region){
	    .gpa = gpa,
	    .size = size,
	    .host = mem->base + fd_start,
	    .fd_start = fd_start,
	};
}

static void memory_lay(struct guest_memory *mem)
{
	uint64_t low = mem->size < MEMORY_HOLE_START ? mem->size : MEMORY_HOLE_START;

	region_add(mem, 0, 0, low);
	if (mem->size > low)
		region_add(mem, MEMORY_HOLE_END, low, mem->size - low);
}

static int memory_file(uint64_t size, bool hugepages)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd, err;

	if (hugepages)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	fd = memfd_create("weft-guest-ram", flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0)
		goto fail;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto fail;
	return fd;
fail:
	err = -errno;
	close(fd);
	return err;
}

int memory_create(struct guest_memory *mem, uint64_t size, bool hugepages)
{
	void *base;
	int fd;

	memset(mem, 0, sizeof(*mem));
	mem->fd = -1;
	if (size < MEMORY_SIZE_MIN || size > MEMORY_SIZE_MAX ||
	    size % (hugepages ? HUGE_PAGE : MEMORY_PAGE))
		return -EINVAL;
	fd = memory_file(size, hugepages);
	if (fd < 0)
		return fd;
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED) {
		int err = -errno;

		close(fd);
		return err;
	}
	/* A core dump is for our bugs; the guest's secrets, and its size, have no place in it. */
	madvise(base, size, MADV_DONTDUMP);
	mem->base = base;
	mem->size = size;
	mem->fd = fd;
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

void memory_populate(const struct guest_memory *mem)
{
	madvise(mem->base, mem->size, MADV_POPULATE_WRITE);
}

void memory_destroy(struct guest_memory *mem)
{
	if (mem->base) {
		munmap(mem->base, mem->size);
		close(mem->fd);
	}
	memset(mem, 0, sizeof(*mem));
	mem->fd = -1;
}

bool memory_load(const struct guest_memory *mem, uint64_t gpa, const void *data, uint64_t len)
{
	uint8_t *to = guest_range(mem, gpa, len);
	const uint8_t *from = data;
	uint64_t done = 0;

	if (!to)
		return false;
	while (done < len) {
		/* The mapping is the memfd from its start on. */
		ssize_t n = pwrite(mem->fd, from + done, len - done, (off_t)(to - mem->base) + (off_t)done);

		if (n <= 0) {
			memcpy(to + done, from + done, len - done); /* hugetlbfs cannot be written to */
			break;
		}
		done += (uint64_t)n;
	}
	return true;
}
