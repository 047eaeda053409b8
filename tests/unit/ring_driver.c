/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/ring_driver.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/irq.h"

/* Not assert(): it must hold in every build, and the tool fuzz_virtqueue has no Criterion. */
static void *range_or_abort(const struct guest_memory *mem, uint64_t gpa, uint64_t len)
{
	void *host = guest_range(mem, gpa, len);

	if (!host)
		abort();
	return host;
}

static uint64_t avail_bytes(uint16_t size)
{
	return (6 + 2ull * size + 3) & ~3ull; /* the used ring behind it is aligned to 4 */
}

uint64_t ring_driver_bytes(uint16_t size)
{
	return 16ull * size + avail_bytes(size) + 6 + 8ull * size;
}

void ring_driver_init(struct ring_driver *drv, const struct guest_memory *mem, uint64_t gpa,
		      uint16_t size, bool event_idx)
{
	memset(range_or_abort(mem, gpa, ring_driver_bytes(size)), 0, ring_driver_bytes(size));
	memset(drv, 0, sizeof(*drv));
	drv->mem = mem;
	drv->size = size;
	drv->event_idx = event_idx;
	drv->desc_gpa = gpa;
	drv->avail_gpa = gpa + 16ull * size;
	drv->used_gpa = drv->avail_gpa + avail_bytes(size);
	drv->end_gpa = gpa + ring_driver_bytes(size);
	drv->desc = guest_range(mem, drv->desc_gpa, 1);
	drv->avail = guest_range(mem, drv->avail_gpa, 1);
	drv->used = guest_range(mem, drv->used_gpa, 1);
	for (unsigned i = size; i > 0; i--)
		drv->free[drv->free_count++] = i - 1;
}

void ring_driver_bind(const struct ring_driver *drv, struct virtqueue *vq)
{
	vq->mem = drv->mem;
	vq->size = drv->size;
	vq->desc_gpa = drv->desc_gpa;
	vq->avail_gpa = drv->avail_gpa;
	vq->used_gpa = drv->used_gpa;
	vq->event_idx = drv->event_idx;
}

void ring_driver_write(struct vring_desc *desc, uint64_t gpa, uint32_t len, uint16_t flags,
		       uint16_t next)
{
	__atomic_store_n(&desc->addr, gpa, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->len, len, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->flags, flags, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->next, next, __ATOMIC_RELAXED);
}

void ring_driver_offer(struct ring_driver *drv, uint16_t head)
{
	uint16_t *entry = &drv->avail->ring[drv->avail_next++ & (drv->size - 1)];

	__atomic_store_n(entry, head, __ATOMIC_RELAXED);
}

void ring_driver_set_index(struct ring_driver *drv, uint16_t idx)
{
	drv->avail_next = drv->avail_shown = idx;
	__atomic_store_n(&drv->avail->idx, idx, __ATOMIC_SEQ_CST);
}

int ring_driver_add(struct ring_driver *drv, const struct ring_buffer *buffers, unsigned count)
{
	uint16_t head;

	if (!count || count > drv->free_count)
		return -1;
	head = drv->free[drv->free_count - 1];
	for (unsigned i = 0; i < count; i++) {
		uint16_t index = drv->free[--drv->free_count];
		bool more = i + 1 < count;
		uint16_t next = more ? drv->free[drv->free_count - 1] : 0;

		drv->next[index] = next;
		ring_driver_write(&drv->desc[index], buffers[i].gpa, buffers[i].len,
				  (buffers[i].device_writes ? VRING_DESC_F_WRITE : 0) |
				      (more ? VRING_DESC_F_NEXT : 0),
				  next);
	}
	drv->links[head] = count;
	ring_driver_offer(drv, head);
	return head;
}

int ring_driver_add_indirect(struct ring_driver *drv, uint64_t table_gpa,
			     const struct ring_buffer *buffers, unsigned count)
{
	struct vring_desc *table = range_or_abort(drv->mem, table_gpa, 16ull * count);
	uint16_t head;

	if (!drv->free_count)
		return -1;
	for (unsigned i = 0; i < count; i++)
		ring_driver_write(&table[i], buffers[i].gpa, buffers[i].len,
				  (buffers[i].device_writes ? VRING_DESC_F_WRITE : 0) |
				      (i + 1 < count ? VRING_DESC_F_NEXT : 0),
				  i + 1);
	head = drv->free[--drv->free_count];
	ring_driver_write(&drv->desc[head], table_gpa, 16 * count, VRING_DESC_F_INDIRECT, 0);
	drv->links[head] = 1;
	ring_driver_offer(drv, head);
	return head;
}

bool ring_driver_expose(struct ring_driver *drv)
{
	uint16_t old = drv->avail_shown, new = drv->avail_next;
	uint16_t *event = (uint16_t *)&drv->used->ring[drv->size];

	drv->avail_shown = new;
	__atomic_store_n(&drv->avail->idx, new, __ATOMIC_SEQ_CST);
	if (!drv->event_idx)
		return !(__atomic_load_n(&drv->used->flags, __ATOMIC_SEQ_CST) &
			 VRING_USED_F_NO_NOTIFY);
	return vring_need_event(__atomic_load_n(event, __ATOMIC_SEQ_CST), new, old);
}

static void chain_free(struct ring_driver *drv, uint16_t head)
{
	uint16_t index = head;

	for (unsigned i = drv->links[head]; i > 0; i--) {
		drv->free[drv->free_count++] = index;
		index = drv->next[index];
	}
	drv->links[head] = 0;
}

bool ring_driver_take(struct ring_driver *drv, struct ring_used *used)
{
	struct vring_used_elem *elem = &drv->used->ring[drv->used_next & (drv->size - 1)];

	if (__atomic_load_n(&drv->used->idx, __ATOMIC_ACQUIRE) == drv->used_next)
		return false;
	used->id = __atomic_load_n(&elem->id, __ATOMIC_RELAXED);
	used->len = __atomic_load_n(&elem->len, __ATOMIC_RELAXED);
	drv->used_next++;
	if (used->id < drv->size)
		chain_free(drv, used->id);
	return true;
}

void ring_driver_interrupts(struct ring_driver *drv, bool on, uint16_t after)
{
	uint16_t event = drv->used_next + (on ? after : UINT16_MAX);

	__atomic_store_n(&drv->avail->flags, on ? 0 : VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_SEQ_CST);
	if (drv->event_idx)
		__atomic_store_n(&drv->avail->ring[drv->size], event, __ATOMIC_SEQ_CST);
}

static void device_raise_config(struct virtio_device *dev)
{
	irq_signal(dev->irqs, dev->config_vector);
}

void ring_device_begin(struct virtio_device *dev, struct irq_set *irqs, uint64_t features)
{
	dev->irqs = irqs;
	dev->features = features;
	dev->config_vector = 0;
	dev->raise_config = device_raise_config;
	dev->needs_reset = device_raise_config; /* a test sees the reset asked for in dev->broken */
	for (unsigned i = 0; i < dev->queue_count; i++) {
		dev->queues[i].enabled = false;
		dev->queues[i].vector = i + 1;
	}
}

void ring_driver_attach(const struct ring_driver *drv, struct virtio_device *dev, unsigned queue)
{
	ring_driver_bind(drv, &dev->queues[queue].ring);
	dev->queues[queue].enabled = true;
}
