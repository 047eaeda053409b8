/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver for virtio 1.2 devices on PCI with split rings.
 *
 * Bring-up: virtio_find(), virtio_negotiate(), ring_init() for each queue, virtio_start(). The
 * structs are open: tests reach into the rings.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "pci.h"

#define FEATURE(bit)  (1ull << (bit))
#define VIRTIO_VENDOR 0x1af4
#define RING_SIZE_MAX 1024

struct virtio {
	struct pci_device pci;
	unsigned type; /* virtio 1.2, 5: device id */
	volatile struct virtio_pci_common_cfg *common;
	volatile uint8_t *notify, *isr, *config;
	uint32_t notify_multiplier, notify_length, config_length; /* bytes */
	uint64_t features;					  /* negotiated */
};

/* A piece of a request, in guest memory. */
struct segment {
	const volatile void *data;
	uint32_t len; /* bytes */
};

struct ring {
	struct virtio *dev;
	uint16_t index, size; /* number of the queue; entries */
	volatile struct vring_desc *desc;
	volatile struct vring_avail *avail;
	volatile struct vring_used *used;
	volatile uint16_t *used_event, *avail_event; /* EVENT_IDX fields behind the rings */
	volatile uint16_t *doorbell;
	bool event_idx;
	uint16_t free, free_count; /* list of unused descriptors, linked by next */
	uint16_t avail_next;	   /* next avail entry to fill; published by ring_publish() */
	uint16_t kicked;	   /* avail index at the last doorbell decision */
	uint16_t used_next;	   /* next used entry to take */
};

/* virtio_find - the @nth (0...) device of a type, reset. Returns false if there is none. */
bool virtio_find(struct virtio *dev, unsigned type, unsigned nth);
/*
 * virtio_reset - to its initial state; rings are gone. Panics if the device takes more than a
 * second.
 */
void virtio_reset(struct virtio *dev);
uint8_t virtio_status(const struct virtio *dev);
void virtio_status_set(struct virtio *dev, uint8_t status);
/* virtio_offered - the device's feature bits. */
uint64_t virtio_offered(struct virtio *dev);
/*
 * virtio_negotiate - accept those of @wanted that are offered, and VERSION_1, up to FEATURES_OK.
 * Returns false if the device refuses them.
 */
bool virtio_negotiate(struct virtio *dev, uint64_t wanted);
/* virtio_start - DRIVER_OK: the device goes to work. */
void virtio_start(struct virtio *dev);
static inline bool virtio_has(const struct virtio *dev, unsigned bit)
{
	return dev->features & FEATURE(bit);
}

/*
 * ring_init - lay out and enable queue @index with at most @size entries, no interrupts.
 * Takes memory; returns false if the device has no such queue.
 */
bool ring_init(struct ring *ring, struct virtio *dev, uint16_t index, uint16_t size);
/* ring_route - interrupt through MSI-X entry @entry. Returns false if the device refuses. */
bool ring_route(struct ring *ring, uint16_t entry);

/*
 * ring_add - put a request of @out segments to read and then @in to write into the ring,
 * unpublished. Returns its head descriptor, or -1 if there are too few free descriptors.
 */
int ring_add(struct ring *ring, const struct segment *segments, unsigned out, unsigned in);
/* ring_publish - show added requests to the device. */
void ring_publish(struct ring *ring);
/* ring_kick - publish, and ring the doorbell if the device asks for it. */
void ring_kick(struct ring *ring);
/* ring_notify - ring the doorbell in any case. */
void ring_notify(struct ring *ring);
/*
 * ring_take - take a completed request: its head descriptor and the bytes written, or -1 for none.
 */
int ring_take(struct ring *ring, uint32_t *written);
/* ring_wait - as ring_take(), polling for at most @timeout_ns. */
int ring_wait(struct ring *ring, uint32_t *written, uint64_t timeout_ns);
/* ring_pending - is there a completed request? */
bool ring_pending(const struct ring *ring);
/*
 * ring_interrupt - ask for an interrupt at the next completion, or for none. Returns
 * ring_pending().
 */
bool ring_interrupt(struct ring *ring, bool on);
/*
 * ring_interrupt_after - ask for one interrupt when @count more requests have completed (without
 * EVENT_IDX: at the next one). Returns whether they have already.
 */
bool ring_interrupt_after(struct ring *ring, uint16_t count);

#endif
