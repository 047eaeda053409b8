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

/* Never beyond COALESCE_WAITS times coalesce_ns after the first of those that wait was shown. */
static void coalesce_arm(struct virtio_device *dev, struct virtio_queue *q, uint64_t now)
{
	uint64_t end = q->untold_ns + COALESCE_WAITS * q->coalesce_ns;
	uint64_t expiry = q->lone ? end : now + q->coalesce_ns;

	if (expiry > end)
		expiry = end;
	q->coalesce.expired = coalesce_expired;
	q->coalesce.context = dev;
	loop_arm(dev->loop, &q->coalesce, expiry > now ? expiry - now : 0);
}

/* Entries were shown, and @waiting ones before them are untold. One that went by itself is hardly
 * what a sender waits for, which may send more meanwhile; the last one of several may be. */
static void coalesce(struct virtio_device *dev, struct virtio_queue *q, uint16_t waiting)
{
	uint64_t now = loop_now();
	bool lone = virtqueue_untold(&q->ring) == 1 &&
		    (!q->shown_ns || now - q->shown_ns >= q->coalesce_ns);

	q->shown_ns = now;
	if (!waiting)
		q->untold_ns = now;
	else if (!q->lone && q->coalesce.armed)
		return;
	q->lone = lone;
	coalesce_arm(dev, q, now);
}

void virtio_queue_publish(struct virtio_device *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];
	uint16_t waiting;

	virtqueue_settle(&q->ring);
	waiting = virtqueue_untold(&q->ring);
	if (!waiting)
		loop_disarm(&q->coalesce);
	if (!virtqueue_show(&q->ring))
		return;
	if (!q->coalesce_ns || virtqueue_untold(&q->ring) >= q->ring.size / 2)
		queue_tell(dev, q);
	else
		coalesce(dev, q, waiting);
}

void virtio_queue_postpone(struct virtio_device *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];
	uint64_t now;

	/* What went by itself waits as long as it may already. */
	if (!q->coalesce.armed || q->lone)
		return;
	now = loop_now();
	if (now - q->untold_ns < COALESCE_WAITS * q->coalesce_ns)
		coalesce_arm(dev, q, now);
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
