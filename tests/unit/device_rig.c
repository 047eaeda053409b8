/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/device_rig.h"

#include <stdlib.h>
#include <string.h>

#include "vnet/loop.h"

#define RING_SPACE 0x8000ull /* guest memory a ring may take */

void rig_begin(struct device_rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	if (memory_create(&rig->mem, RIG_MEMORY, false))
		abort();
	rig->loop = loop_create(64);
	if (!rig->loop)
		abort();
	rig->env = (struct device_env){.mem = &rig->mem, .loop = rig->loop};
}

void rig_end(struct device_rig *rig)
{
	loop_destroy(rig->loop);
	memory_destroy(&rig->mem);
}

void rig_start(struct device_rig *rig, uint64_t features, uint16_t size)
{
	struct virtio_device *dev = rig->dev;

	ring_device_begin(dev, &rig->irqs, features);
	for (unsigned i = 0; i < dev->queue_count; i++) {
		ring_driver_init(&rig->rings[i], &rig->mem, 0x1000 + i * RING_SPACE, size,
				 features & (1ull << VIRTIO_RING_F_EVENT_IDX));
		ring_driver_attach(&rig->rings[i], dev, i);
	}
	virtio_start(dev);
}

void rig_reset(struct device_rig *rig)
{
	virtio_stop(rig->dev);
	rig_start(rig, rig->dev->features, rig->rings[0].size);
}

void rig_turns(struct device_rig *rig, unsigned n)
{
	while (n--) {
		loop_stop(rig->loop);
		if (loop_run(rig->loop))
			abort();
	}
}

void *rig_host(struct device_rig *rig, uint64_t gpa)
{
	return guest_range(&rig->mem, gpa, 1);
}

bool rig_add(struct device_rig *rig, unsigned queue, const struct ring_buffer *buffers,
	     unsigned count)
{
	if (ring_driver_add(&rig->rings[queue], buffers, count) < 0)
		return false;
	ring_driver_expose(&rig->rings[queue]);
	return true;
}

void rig_send(struct device_rig *rig, unsigned queue, const struct ring_buffer *buffers,
	      unsigned count)
{
	if (!rig_add(rig, queue, buffers, count))
		abort();
	virtio_ready(rig->dev, queue);
}

int64_t rig_used(struct device_rig *rig, unsigned queue)
{
	struct ring_used used;

	return ring_driver_take(&rig->rings[queue], &used) ? (int64_t)used.len : -1;
}
