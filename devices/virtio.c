/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * What every virtio device does the same way, whatever it is and however it is reached: its life
 * from DRIVER_OK to reset, showing used entries, and being broken.
 *
 * States: stopped -> running -> (broken) -> stopped. virtio_start() and virtio_stop() are its ends.
 * A device is broken when its guest broke the rules of a ring or of a request: all rings are closed
 * at once, the driver is told by DEVICE_NEEDS_RESET, and only virtio_stop() leads on. A broken
 * device still counts as running, so that it is stopped in the usual way and lets go of what it
 * holds.
 *
 * Everything here runs on the sidecar, but for config_vector and vector, which vCPU threads may
 * write.
 */
#include "devices/virtio.h"

#include <linux/virtio_ring.h>
#include <stddef.h>

#include "vmm/irq.h"

#define COALESCE_WAITS 10u

static void queue_interrupt(struct virtio_device *dev, struct virtio_queue *q)
{
	q->interrupts++;
	irq_signal(dev->irqs, __atomic_load_n(&q->vector, __ATOMIC_RELAXED));
}

static void queue_tell(struct virtio_device *dev, struct virtio_queue *q)
{
	loop_disarm(&q->coalesce);
	if (virtqueue_tell(&q->ring))
		queue_interrupt(dev, q);
}

static void coalesce_expired(struct loop_timer *timer)
{
	queue_tell(timer->context, container_of(timer, struct virtio_queue, coalesce));
}

/* A single entry is not what a sender waits for: it may send more before that one is done. */
static uint64_t coalesce_wait(const struct virtio_queue *q)
{
	return virtqueue_untold(&q->ring) > 1 ? q->coalesce_ns : COALESCE_WAITS * q->coalesce_ns;
}

static void coalesce_begin(struct virtio_device *dev, struct virtio_queue *q)
{
	q->coalesce.expired = coalesce_expired;
	q->coalesce.context = dev;
	q->untold_ns = loop_now();
	loop_arm(dev->loop, &q->coalesce, coalesce_wait(q));
}

void virtio_queue_publish(struct virtio_device *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];
	uint16_t waiting;

	virtqueue_settle(&q->ring);
	waiting = virtqueue_untold(&q->ring);
	if (!virtqueue_show(&q->ring))
		return;
	if (!q->coalesce_ns || virtqueue_untold(&q->ring) >= q->ring.size / 2)
		queue_tell(dev, q);
	else if (waiting <= 1 || !q->coalesce.armed)
		coalesce_begin(dev, q);
}

void virtio_queue_postpone(struct virtio_device *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];

	if (q->coalesce.armed && loop_now() - q->untold_ns < COALESCE_WAITS * q->coalesce_ns)
		loop_arm(dev->loop, &q->coalesce, coalesce_wait(q));
}

void virtio_queue_interrupt_early(struct virtio_device *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];

	if (!virtqueue_wants_interrupt(&q->ring))
		return;
	q->early++;
	queue_interrupt(dev, q);
}

void virtio_broken(struct virtio_device *dev, const char *why)
{
	if (dev->broken)
		return;
	__atomic_store_n(&dev->broken, why, __ATOMIC_RELAXED);
	dev->broken_count++;
	for (unsigned i = 0; i < dev->queue_count; i++)
		virtqueue_break(&dev->queues[i].ring, why);
	dev->needs_reset(dev);
}

/* After doorbells are on the ring is looked at once more, or a request could wait for ever. */
bool virtio_queue_visit(struct virtio_device *dev, unsigned index, unsigned budget,
			int (*serve)(struct virtio_device *dev, unsigned index))
{
	struct virtqueue *ring = &dev->queues[index].ring;
	int served = 1;

	virtqueue_notify_off(ring);
	while (budget-- && served >= 0) {
		served = serve(dev, index);
		if (served)
			continue;
		virtio_queue_publish(dev, index);
		if (dev->queues[index].polled || !virtqueue_notify_on(ring))
			return false;
		virtqueue_notify_off(ring);
	}
	virtio_queue_publish(dev, index);
	return served >= 0;
}

static int queue_start(struct virtio_device *dev, struct virtio_queue *q)
{
	q->ring.mem = dev->mem;
	q->ring.indirect = virtio_has(dev, VIRTIO_RING_F_INDIRECT_DESC);
	q->ring.event_idx = virtio_has(dev, VIRTIO_RING_F_EVENT_IDX);
	return virtqueue_start(&q->ring);
}

void virtio_start(struct virtio_device *dev)
{
	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtio_queue *q = &dev->queues[i];

		if (q->enabled && queue_start(dev, q) < 0) {
			virtio_broken(dev, q->ring.broken);
			return;
		}
	}
	dev->running = true;
	if (dev->ops->start)
		dev->ops->start(dev);
}

void virtio_stop(struct virtio_device *dev)
{
	if (dev->running && dev->ops->stop)
		dev->ops->stop(dev);
	dev->running = false;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		loop_disarm(&dev->queues[i].coalesce);
		virtqueue_stop(&dev->queues[i].ring);
	}
	__atomic_store_n(&dev->broken, NULL, __ATOMIC_RELAXED);
}

void virtio_ready(struct virtio_device *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];

	if (!q->ring.running) /* nor does the ring of a device that is stopped or broken */
		return;
	q->doorbells++;
	dev->ops->queue_ready(dev, index);
}
