/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The virtio entropy device (virtio 1.2, 5.4): every buffer of the guest is filled by the host
 * kernel's generator, at most RNG_REQUEST_BYTES of it; a driver that wants more asks again. A visit
 * serves RNG_VISIT_REQUESTS and then queues itself behind everybody else's work, so that a guest
 * that asks for ever costs the others nothing. All on the sidecar.
 */
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "devices/devices.h"
#include "vnet/iovec.h"
#include "devices/virtio.h"

#define RNG_QUEUE_SIZE	   64u
#define RNG_REQUEST_BYTES  4096u
#define RNG_VISIT_REQUESTS 16u

/* Owned by the sidecar. */
struct virtio_rng {
	struct virtio_device dev;
	struct loop_task task;
	struct iovec iov[RNG_QUEUE_SIZE];
};

static struct virtio_rng *rng_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_rng, dev);
}

/* Returns the number of bytes filled. */
static size_t rng_fill(struct iov_cursor *to)
{
	size_t done = 0;

	while (done < RNG_REQUEST_BYTES) {
		struct iovec piece = iov_piece(to);
		size_t left = RNG_REQUEST_BYTES - done;
		ssize_t n;

		if (!piece.iov_len)
			break;
		n = getrandom(piece.iov_base, piece.iov_len < left ? piece.iov_len : left, 0);
		if (n < 0)
			break;
		iov_skip(to, n);
		done += n;
	}
	return done;
}

/* Serve one request: virtio_queue_visit(). */
static int rng_request(struct virtio_device *dev, unsigned index)
{
	struct virtio_rng *rng = rng_of(dev);
	struct vq_chain chain;
	struct iov_cursor to;

	if (!virtio_queue_pop(dev, index, &chain, rng->iov, RNG_QUEUE_SIZE))
		return 0;
	if (chain.out_len || !chain.in_len) {
		virtio_broken(dev, "an entropy buffer cannot be written");
		return 0;
	}
	to = iov_cursor(rng->iov, chain.in_count);
	virtqueue_push(&dev->queues[index].ring, chain.head, rng_fill(&to));
	dev->queues[index].requests++;
	return 1;
}

static void rng_queue_ready(struct virtio_device *dev, unsigned index)
{
	if (virtio_queue_visit(dev, index, RNG_VISIT_REQUESTS, rng_request))
		loop_defer(dev->loop, &rng_of(dev)->task);
}

static void rng_run(struct loop_task *task)
{
	rng_queue_ready(&container_of(task, struct virtio_rng, task)->dev, 0);
}

static void rng_stop(struct virtio_device *dev)
{
	loop_forget(dev->loop, &rng_of(dev)->task);
}

static const struct virtio_ops rng_ops = {
    .name = "rng",
    .type = VIRTIO_ID_RNG,
    .class_code = 0xff0000, /* of no class defined */
    .stop = rng_stop,
    .queue_ready = rng_queue_ready,
};

struct virtio_device *virtio_rng_create(const struct device_env *env)
{
	struct virtio_rng *rng = calloc(1, sizeof(*rng));

	if (!rng)
		return NULL;
	rng->dev.ops = &rng_ops;
	rng->dev.mem = env->mem;
	rng->dev.loop = env->loop;
	rng->dev.queue_count = 1;
	rng->dev.queues[0].size_max = RNG_QUEUE_SIZE;
	rng->task.run = rng_run;
	return &rng->dev;
}

void virtio_rng_destroy(struct virtio_device *dev)
{
	if (dev)
		free(rng_of(dev));
}
