/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmm/bus.h"

#include <stddef.h>
#include <string.h>

#include "vnet/message.h"

void bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops, void *device)
{
	if (bus->count == BUS_RANGES_MAX)
		die(STATUS_ENVIRONMENT, "internal: more than %d bus ranges", BUS_RANGES_MAX);
	bus->ranges[bus->count++] = (struct bus_range){start, size, ops, device};
}

static const struct bus_range *bus_find(const struct bus *bus, uint64_t address, unsigned size)
{
	if (size != 1 && size != 2 && size != 4 && size != 8)
		return NULL;
	for (unsigned i = 0; i < bus->count; i++) {
		const struct bus_range *r = &bus->ranges[i];

		if (address >= r->start && address - r->start < r->size)
			return size <= r->size - (address - r->start) ? r : NULL;
	}
	return NULL;
}

void bus_read(struct bus *bus, uint64_t address, void *data, unsigned size)
{
	const struct bus_range *r = bus_find(bus, address, size);
	uint64_t value = ~0ull;

	if (r)
		value = r->ops->read(r->device, address - r->start, size);
	else
		atomic_fetch_add(&bus->unclaimed, 1);
	memset(data, 0xff, size);
	memcpy(data, &value, size < sizeof(value) ? size : sizeof(value));
}

void bus_write(struct bus *bus, uint64_t address, const void *data, unsigned size)
{
	const struct bus_range *r = bus_find(bus, address, size);
	uint64_t value = 0;

	if (!r) {
		atomic_fetch_add(&bus->unclaimed, 1);
		return;
	}
	memcpy(&value, data, size);
	r->ops->write(r->device, address - r->start, size, value);
}
