/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest's side of a split virtqueue, for tests of devices without a guest.
 *
 * A ring_driver lays a ring into guest memory and works it as a driver does: it adds buffers,
 *exposes them, takes used ones back. For hostile tests it writes whatever is asked for. All
 *accesses to the ring are atomic, so a driver may run on a thread of its own against the device
 *under TSan.
 *
 *	struct virtio_device *dev = virtio_rng_create(&env);
 *	ring_device_begin(dev, &irqs, 0);
 *	ring_driver_init(&drv, &mem, 0x10000, 8, false);
 *	ring_driver_attach(&drv, dev, 0);
 *	virtio_start(dev);
 *	ring_driver_add(&drv, (struct ring_buffer[]){{0x20000, 64, true}}, 1);
 *	ring_driver_expose(&drv);
 *	virtio_ready(dev, 0);
 *	cr_assert(ring_driver_take(&drv, &used));
 *	virtio_stop(dev);
 */
#ifndef WEFT_TEST_RING_DRIVER_H
#define WEFT_TEST_RING_DRIVER_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/virtio.h"
#include "vmm/memory.h"

struct ring_driver {
	const struct guest_memory *mem;
	uint16_t size;
	bool event_idx;
	uint64_t desc_gpa, avail_gpa, used_gpa, end_gpa; /* end: first byte behind the ring */
	struct vring_desc *desc;			 /* host addresses, for tests that lie */
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t avail_next;		   /* next avail entry to fill */
	uint16_t avail_shown;		   /* avail.idx as the device sees it */
	uint16_t used_next;		   /* next used entry to take */
	uint16_t free[VIRTQUEUE_SIZE_MAX]; /* free descriptors, a stack */
	unsigned free_count;
	uint16_t
	    links[VIRTQUEUE_SIZE_MAX]; /* direct descriptors of the chain with this head, 0: none */
	uint16_t
	    next[VIRTQUEUE_SIZE_MAX]; /* our own copy of desc[].next: the device cannot spoil it */
};

struct ring_buffer {
	uint64_t gpa;
	uint32_t len;
	bool device_writes;
};

struct ring_used {
	uint32_t id, len;
};

/* ring_driver_bytes - guest memory that a ring of @size entries takes. */
uint64_t ring_driver_bytes(uint16_t size);
/* ring_driver_init - lay an empty ring at @gpa (a multiple of 16); asserts that it fits. */
void ring_driver_init(struct ring_driver *drv, const struct guest_memory *mem, uint64_t gpa,
		      uint16_t size, bool event_idx);
/* ring_driver_bind - put the ring's size and addresses into a virtqueue. */
void ring_driver_bind(const struct ring_driver *drv, struct virtqueue *vq);

/*
 * ring_driver_add - put a chain of direct descriptors into the next avail entry, not yet exposed.
 * Returns its head, or -1 when there are too few free descriptors.
 */
int ring_driver_add(struct ring_driver *drv, const struct ring_buffer *buffers, unsigned count);
/* ring_driver_add_indirect - likewise, with one indirect table of @count entries laid at
 * @table_gpa. */
int ring_driver_add_indirect(struct ring_driver *drv, uint64_t table_gpa,
			     const struct ring_buffer *buffers, unsigned count);
/* ring_driver_expose - show the device what was added. Returns true when it wants the doorbell
 * rung. */
bool ring_driver_expose(struct ring_driver *drv);
/* ring_driver_take - take the next used entry and free its descriptors; false: there is none. */
bool ring_driver_take(struct ring_driver *drv, struct ring_used *used);
/*
 * ring_driver_interrupts - ask for an interrupt with the next used entry (with EVENT_IDX: when
 * @after more entries than those taken are used), or for none.
 */
void ring_driver_interrupts(struct ring_driver *drv, bool on, uint16_t after);

/* What a driver must not do: write a descriptor, an avail entry, or avail.idx, as it is told. */
void ring_driver_write(struct vring_desc *desc, uint64_t gpa, uint32_t len, uint16_t flags,
		       uint16_t next);
void ring_driver_offer(struct ring_driver *drv, uint16_t head);
void ring_driver_set_index(struct ring_driver *drv, uint16_t idx);

/*
 * A device without a transport. ring_device_begin() gives it the interrupts @irqs (see fake_irq.h),
 * the negotiated @features, vector i+1 to queue i, 0 to the configuration, and transport calls that
 * count. ring_driver_attach() makes @drv the ring of a queue. Then virtio_start(), virtio_ready(),
 * virtio_stop().
 */
void ring_device_begin(struct virtio_device *dev, struct irq_set *irqs, uint64_t features);
void ring_driver_attach(const struct ring_driver *drv, struct virtio_device *dev, unsigned queue);

#endif
