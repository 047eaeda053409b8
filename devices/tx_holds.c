/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Most links are done with a frame when send_batch() returns; then the device that made the frame is the only holder, and
 * what it releases is pushed and published together, as if there were no holds. An RDMA adapter reads guest
 * memory on its own: its link holds the frame until the adapter says that it has, which is when the request is pushed, by
 * release(); a task publishes all of a turn at once. Requests may so go back in another order than they came,
 * which virtio allows (virtio 1.2, 2.7.14).
 *
 * A hold is not found by its head: a guest may have the same head in flight twice. The sidecar's thread.
 */
#include "devices/tx_holds.h"

#include <stdlib.h>

#include "devices/virtio.h"
#include "vnet/loop.h"

struct tx_hold {
	struct frame_hold hold;
	struct tx_holds *of;
	struct tx_hold *next; /* free */
	uint16_t head;
};

struct tx_holds {
	struct virtio_device *dev;
	unsigned index, out;
	struct loop_task publish;
	struct tx_hold *free;
	struct tx_hold all[VIRTQUEUE_SIZE_MAX];
};

static void hold_released(struct frame_hold *hold)
{
	struct tx_hold *own = container_of(hold, struct tx_hold, hold);
	struct tx_holds *holds = own->of;

	holds->out--;
	own->next = holds->free;
	holds->free = own;
	virtqueue_push(&holds->dev->queues[holds->index].ring, own->head, 0);
	holds->dev->queues[holds->index].requests++;
	loop_defer(holds->dev->loop, &holds->publish);
}

static void publish_run(struct loop_task *task)
{
	struct tx_holds *holds = container_of(task, struct tx_holds, publish);

	virtio_queue_publish(holds->dev, holds->index);
}

void tx_holds_publish(struct tx_holds *holds)
{
	loop_forget(holds->dev->loop, &holds->publish);
	virtio_queue_publish(holds->dev, holds->index);
}

struct frame_hold *tx_holds_take(struct tx_holds *holds, uint16_t head)
{
	struct tx_hold *own = holds->free;

	holds->free = own->next;
	holds->out++;
	own->head = head;
	own->hold.holders = 1;
	return &own->hold;
}

unsigned tx_holds_out(const struct tx_holds *holds)
{
	return holds->out;
}

struct tx_holds *tx_holds_create(struct virtio_device *dev, unsigned index)
{
	struct tx_holds *holds = calloc(1, sizeof(*holds));

	if (!holds)
		return NULL;
	holds->dev = dev;
	holds->index = index;
	holds->publish.run = publish_run;
	for (unsigned i = VIRTQUEUE_SIZE_MAX; i--;) {
		holds->all[i].of = holds;
		holds->all[i].hold.release = hold_released;
		holds->all[i].next = holds->free;
		holds->free = &holds->all[i];
	}
	return holds;
}

void tx_holds_destroy(struct tx_holds *holds)
{
	if (holds)
		loop_forget(holds->dev->loop, &holds->publish);
	free(holds);
}
