/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio device without its transport (virtio 1.2, 2): features, status, queues, configuration.
 *
 * Threads: the transport's registers belong to the vCPU threads under the transport's lock. Queues and
 * device state belong to the sidecar, which means to whoever has its loop: start(), stop() and queue_ready()
 * run there (the transport hands over by loop_call() and loop_post()).
 */
#ifndef WEFT_VIRTIO_H
#define WEFT_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/virtqueue.h"
#include "vnet/loop.h"

#define VIRTIO_QUEUES_MAX 64

struct guest_memory;
struct irq_set;
struct virtio_device;

struct virtio_ops {
	const char *name; /* "net", "block", ... for messages and counters */
	uint16_t type;    /* virtio 1.2, 5: device id */
	uint32_t class_code; /* PCI class, subclass, interface */
	uint32_t config_size; /* bytes of device configuration */
	/* Configuration access; [offset, offset + len) lies inside config_size. vCPU thread. */
	void (*config_read)(struct virtio_device *dev, uint32_t offset, void *data, uint32_t len);
	/* May be NULL: writes are ignored. */
	void (*config_write)(struct virtio_device *dev, uint32_t offset, const void *data,
			     uint32_t len);
	/* DRIVER_OK: enabled queues are started and dev->features is final. Sidecar. May be NULL. */
	void (*start)(struct virtio_device *dev);
	/* Reset or end: let go of every chain in flight; queues are stopped afterwards. Sidecar. May be NULL. */
	void (*stop)(struct virtio_device *dev);
	/* The doorbell of queue @index rang, or may have rung. Sidecar. */
	void (*queue_ready)(struct virtio_device *dev, unsigned index);
};

struct virtio_queue {
	struct virtqueue ring;
	uint16_t size_max; /* entries offered, a power of two; set by the device */
	bool inline_bell;  /* set by the device: queue_ready() may run on the vCPU thread that rings */
	bool enabled;      /* transport: to be started with the device; constant while it runs */
	uint16_t vector;   /* MSI-X vector; atomic: written by vCPU threads, read by the sidecar */
	bool polled;       /* by the device: doorbells stay off between visits; sidecar */
	/* Interrupts that may wait, see virtio_queue_publish(); sidecar. */
	uint64_t coalesce_ns; /* how long; set by the device; 0: not at all */
	struct loop_timer coalesce;
	uint64_t untold_ns; /* since when one waits */
	uint64_t shown_ns;  /* when entries were last shown; 0: never */
	bool lone;	    /* what waits was shown by itself */
	/* Counters, sidecar. */
	uint64_t kicks;      /* doorbells that the guest rang */
	uint64_t doorbells;  /* visits that they led to */
	uint64_t interrupts; /* raised, those before their time included */
	uint64_t early;      /* of these: before their time */
	uint64_t requests;
};

struct virtio_device {
	const struct virtio_ops *ops;
	uint64_t features_offered; /* set by the device; the transport adds the ring features */
	uint64_t features;         /* negotiated; constant while running */
	unsigned queue_count;
	struct virtio_queue queues[VIRTIO_QUEUES_MAX];
	const struct guest_memory *mem;
	struct loop *loop; /* the sidecar's */
	bool running;      /* sidecar: between start and stop */

	/* The transport's part. */
	void *transport;
	struct irq_set *irqs;   /* sidecar, from start on */
	uint16_t config_vector; /* atomic: written by vCPU threads, read by any */
	const char *broken;     /* why the device asked for its reset, or NULL; atomic, written by the sidecar */
	uint64_t broken_count;  /* times the device had to ask for a reset; sidecar */
	/*
	 * Configuration changed: new generation, interrupt. Any thread. The device has made the change
	 * before; a field must be readable whole at any moment, as config_read() may run meanwhile.
	 */
	void (*raise_config)(struct virtio_device *dev);
	void (*needs_reset)(struct virtio_device *dev); /* sets DEVICE_NEEDS_RESET, tells the driver */
};

/* virtio_has - was this feature bit negotiated? */
static inline bool virtio_has(const struct virtio_device *dev, unsigned bit)
{
	return dev->features & (1ull << bit);
}

/*
 * virtio_queue_publish - show pushed entries to the driver and interrupt it if it asked for that: at once,
 * or, on a queue with coalesce_ns, after that time (COALESCE_WAITS times as long for an entry that was
 * shown by itself) or half a ring, if it has not seen them until then. Sidecar.
 */
void virtio_queue_publish(struct virtio_device *dev, unsigned index);

/*
 * virtio_queue_postpone - the driver is at work for another reason, and will look at this queue too: let its
 * interrupt wait anew, COALESCE_WAITS times coalesce_ns in all. Sidecar.
 */
void virtio_queue_postpone(struct virtio_device *dev, unsigned index);

/*
 * virtio_queue_interrupt_early - interrupt the driver, if it wants to be for what comes next, though nothing
 * is there yet: it wakes up meanwhile. virtio_queue_publish() interrupts once more as it always does. Sidecar.
 */
void virtio_queue_interrupt_early(struct virtio_device *dev, unsigned index);

/**
 * virtio_broken - a guest broke the rules: stop serving this device and ask for its reset.
 * @why: a constant string, kept in dev->broken until the reset
 *
 * Breaks all queues of the device, so that nothing more can be popped, pushed or shown; calls after the
 * first one do nothing. ops->stop() still comes, with the reset. Sidecar. The rest of the VM runs on
 * (virtio 1.2, 2.1.2).
 */
void virtio_broken(struct virtio_device *dev, const char *why);

/*
 * virtio_queue_pop - take the next request of a queue. Returns true with @chain and @iov
 * filled, else the ring is empty, or was found broken and so is the device now. Sidecar.
 */
static inline bool virtio_queue_pop(struct virtio_device *dev, unsigned index, struct vq_chain *chain,
				    struct iovec *iov, unsigned max)
{
	struct virtqueue *ring = &dev->queues[index].ring;
	int result = virtqueue_pop(ring, chain, iov, max);

	if (result < 0)
		virtio_broken(dev, ring->broken);
	return result > 0;
}

/**
 * virtio_queue_visit - serve a queue whose doorbell rang, up to a budget.
 * @budget: calls of @serve before others have their turn
 * @serve:  serves one request, or one batch. Returns 1; 0 when the ring was empty; -1 when a request has
 *          to stay in the ring and the device will come back by itself
 *
 * Doorbells are off meanwhile, and unless the device polls on again when the ring is empty. Used entries are shown at the end, at
 * the latest. Returns true when the budget is spent: the caller defers another visit. Sidecar.
 */
bool virtio_queue_visit(struct virtio_device *dev, unsigned index, unsigned budget,
			int (*serve)(struct virtio_device *dev, unsigned index));

/*
 * virtio_start - DRIVER_OK: start the enabled queues and the device. A ring that cannot be started breaks
 * the device, which then does not run. For the transport; sidecar.
 */
void virtio_start(struct virtio_device *dev);
/* virtio_stop - reset or end: stop the device, then its queues. Twice is fine. For the transport; sidecar. */
void virtio_stop(struct virtio_device *dev);
/* virtio_ready - the doorbell of a queue rang: pass it on if the device is served. Sidecar. */
void virtio_ready(struct virtio_device *dev, unsigned index);

#endif
