/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The two address spaces in which a guest access ends up in this process: I/O ports and device memory. */
#ifndef WEFT_BUS_H
#define WEFT_BUS_H

#include <stdatomic.h>
#include <stdint.h>

#define BUS_RANGES_MAX 16

struct bus_ops {
	/* @offset + @size lies inside the range; @size is 1, 2, 4 or 8. Any vCPU thread. */
	uint64_t (*read)(void *device, uint64_t offset, unsigned size);
	void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
};

struct bus_range {
	uint64_t start, size;
	const struct bus_ops *ops;
	void *device;
};

/* Ranges are added before the vCPUs run and never change afterwards. */
struct bus {
	struct bus_range ranges[BUS_RANGES_MAX];
	unsigned count;
	atomic_ulong unclaimed; /* accesses nobody answered */
};

/* bus_add - claim [start, start + size). Dies when the bus is full (a constant of the program). */
void bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops, void *device);

/**
 * bus_read, bus_write - carry out a guest access.
 * @data: @size bytes, little endian
 *
 * What no range claims whole (also: odd sizes, an access that crosses a range's end) reads as all ones and is
 * not written, as on real buses.
 */
void bus_read(struct bus *bus, uint64_t address, void *data, unsigned size);
void bus_write(struct bus *bus, uint64_t address, const void *data, unsigned size);

#endif
