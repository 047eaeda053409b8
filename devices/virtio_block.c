/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The virtio block device (virtio 1.2, 5.2) on a raw image: reads, writes and flushes become
 * operations on the sidecar's io_uring, straight between the image and guest RAM.
 *
 * A request is one entry of a fixed table with as many entries as the ring, which the virtqueue
 * lets nobody exceed: guests cannot have more in flight than that. States: free -> waiting (for a
 * submission entry) -> in flight -> free. Transfers go in windows of at most BLOCK_WINDOW bytes;
 * one that moved only a part, because the window or the kernel ended it, waits again with the rest.
 * Completed requests are shown, and new ones taken, by the task at the end of the loop's turn: one
 * interrupt a turn.
 *
 * Stop: the kernel must not write into memory that the guest has taken back. Waiting requests are
 * dropped, and those in flight are waited for (loop_settle()); a window bounds how long that takes.
 * Whatever the guest changes in the ring meanwhile does not matter: the segments are our copies.
 *
 * A write is stable when a flush that came after its completion completes; for a driver without
 * FLUSH every write is made stable before it completes (virtio 1.2, 5.2.6.2).
 *
 * Everything runs on the sidecar but config_read(), which reads constants.
 */
#include <errno.h>
#include <liburing.h>
#include <linux/fs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/devices.h"
#include "vnet/iovec.h"
#include "devices/virtio.h"

#define BLOCK_QUEUE_SIZE     128u
#define BLOCK_REQUESTS	     (BLOCK_QUEUE_SIZE + 1) /* one more, to take a request into */
#define BLOCK_SEGMENTS	     128u		    /* of a request: */
#define BLOCK_SEG_MAX	     (BLOCK_SEGMENTS - 2)   /* data, less a header and a status */
#define BLOCK_WINDOW	     (2u << 20)		    /* bytes moved by one operation */
#define BLOCK_VISIT_REQUESTS BLOCK_QUEUE_SIZE
#define BLOCK_CONFIG_SIZE    offsetof(struct virtio_blk_config, physical_block_exp)
#define SECTOR_SIZE	     512u
#define SECTOR_SHIFT	     9

struct block_request {
	struct loop_op op;
	struct virtio_block *block;
	struct block_request *next; /* free or waiting */
	uint32_t type;		    /* VIRTIO_BLK_T_IN, _OUT or _FLUSH */
	uint16_t head;
	uint8_t *status;       /* in guest RAM */
	uint32_t written;      /* bytes the guest finds written when all goes well */
	uint64_t offset, left; /* bytes: of the rest in the image, and how long it is */
	struct iovec *iov;     /* the rest in guest RAM, in segments[] */
	unsigned iov_count;
	unsigned window; /* segments of the operation in flight, */
	size_t cut;	 /* and bytes that the last one lacks of its own */
	struct iovec segments[BLOCK_SEGMENTS];
};

/* Owned by the sidecar. */
struct virtio_block {
	struct virtio_device dev;
	struct loop_task task;
	int fd;
	bool read_only;
	uint64_t sectors;
	char id[VIRTIO_BLK_ID_BYTES];
	bool stopping;
	unsigned in_flight; /* operations that the kernel may be working on */
	struct block_request *waiting, **waiting_end;
	struct block_request *free; /* those used before, */
	unsigned fresh;		    /* and the first that never was: its memory is not resident */
	struct block_request *requests; /* BLOCK_REQUESTS of them */
};

static struct virtio_block *block_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_block, dev);
}

/* There is always one: the table is longer than the ring. */
static struct block_request *request_take(struct virtio_block *block)
{
	struct block_request *req = block->free;

	if (!req)
		return &block->requests[block->fresh++];
	block->free = req->next;
	return req;
}

static void request_free(struct virtio_block *block, struct block_request *req)
{
	req->next = block->free;
	block->free = req;
}

static void request_finish(struct block_request *req, uint8_t status)
{
	struct virtio_block *block = req->block;
	struct virtio_queue *queue = &block->dev.queues[0];

	*req->status = status;
	virtqueue_push(&queue->ring, req->head, status == VIRTIO_BLK_S_OK ? req->written : 1);
	queue->requests++;
	request_free(block, req);
}

/* --- operations ----------------------------------------------------------------------------- */

static void request_wait(struct block_request *req)
{
	struct virtio_block *block = req->block;

	req->next = NULL;
	*block->waiting_end = req;
	block->waiting_end = &req->next;
}

static struct block_request *waiting_take(struct virtio_block *block)
{
	struct block_request *req = block->waiting;

	block->waiting = req->next;
	if (!block->waiting)
		block->waiting_end = &block->waiting;
	return req;
}

/* Choose the segments of the next operation, and cut the last one to fit. */
static void window_open(struct block_request *req)
{
	size_t total = 0;

	req->window = 0;
	while (req->window < req->iov_count && total < BLOCK_WINDOW)
		total += req->iov[req->window++].iov_len;
	req->cut = total > BLOCK_WINDOW ? total - BLOCK_WINDOW : 0;
	req->iov[req->window - 1].iov_len -= req->cut;
}

/* @moved bytes of the window are done. */
static void window_close(struct block_request *req, size_t moved)
{
	req->iov[req->window - 1].iov_len += req->cut;
	req->offset += moved;
	req->left -= moved;
	while (moved && moved >= req->iov->iov_len) {
		moved -= req->iov->iov_len;
		req->iov++;
		req->iov_count--;
	}
	if (moved) {
		req->iov->iov_base = (char *)req->iov->iov_base + moved;
		req->iov->iov_len -= moved;
	}
}

static void request_prepare(struct block_request *req, struct io_uring_sqe *sqe)
{
	struct virtio_block *block = req->block;
	int flags = virtio_has(&block->dev, VIRTIO_BLK_F_FLUSH) ? 0 : RWF_DSYNC;

	if (req->type == VIRTIO_BLK_T_FLUSH) {
		io_uring_prep_fsync(sqe, block->fd, IORING_FSYNC_DATASYNC);
		return;
	}
	window_open(req);
	if (req->type == VIRTIO_BLK_T_IN)
		io_uring_prep_readv(sqe, block->fd, req->iov, req->window, req->offset);
	else
		io_uring_prep_writev2(sqe, block->fd, req->iov, req->window, req->offset, flags);
}

static void waiting_submit(struct virtio_block *block)
{
	while (block->waiting) {
		struct block_request *req = block->waiting;
		struct io_uring_sqe *sqe = loop_sqe(block->dev.loop, &req->op);

		if (!sqe)
			return;
		request_prepare(waiting_take(block), sqe);
		block->in_flight++;
	}
}

/* An operation ended. Reading or writing nothing is an error too: the image has become shorter. */
static void request_done(struct loop_op *op, int result, unsigned flags)
{
	struct block_request *req = container_of(op, struct block_request, op);
	struct virtio_block *block = req->block;
	bool transfer = req->type != VIRTIO_BLK_T_FLUSH;

	(void)flags;
	block->in_flight--;
	if (block->stopping) {
		request_free(block, req);
		return;
	}
	if (transfer)
		window_close(req, result > 0 ? result : 0);
	if (result < 0 || (transfer && !result))
		request_finish(req, VIRTIO_BLK_S_IOERR);
	else if (req->left)
		request_wait(req);
	else
		request_finish(req, VIRTIO_BLK_S_OK);
	loop_defer(block->dev.loop, &block->task);
}

/* --- requests ------------------------------------------------------------------------------- */

/* Start a transfer of the data in @at. Returns the status when it ends here, else -1. */
static int request_transfer(struct block_request *req, struct iov_cursor *at, uint64_t len,
			    uint64_t sector)
{
	const struct virtio_block *block = req->block;

	if (req->type == VIRTIO_BLK_T_OUT && block->read_only)
		return VIRTIO_BLK_S_IOERR;
	if (len % SECTOR_SIZE || sector > block->sectors ||
	    len >> SECTOR_SHIFT > block->sectors - sector)
		return VIRTIO_BLK_S_IOERR;
	if (!len)
		return VIRTIO_BLK_S_OK;
	iov_piece(at);
	req->iov = req->segments + (at->iov - req->segments);
	req->iov->iov_base = (char *)req->iov->iov_base + at->offset;
	req->iov->iov_len -= at->offset;
	req->iov_count = at->count;
	req->offset = sector << SECTOR_SHIFT;
	req->left = len;
	request_wait(req);
	return -1;
}

/* Start a request. @out is behind its header, @in without its status. Returns as above. */
static int request_start(struct block_request *req, const struct virtio_blk_outhdr *hdr,
			 const struct vq_chain *chain, struct iov_cursor *out,
			 struct iov_cursor *in)
{
	req->type = hdr->type;
	req->written = 1;
	req->left = 0;
	switch (hdr->type) {
	case VIRTIO_BLK_T_IN:
		req->written = chain->in_len;
		return request_transfer(req, in, chain->in_len - 1, hdr->sector);
	case VIRTIO_BLK_T_OUT:
		return request_transfer(req, out, chain->out_len - sizeof(*hdr), hdr->sector);
	case VIRTIO_BLK_T_FLUSH:
		request_wait(req);
		return -1;
	case VIRTIO_BLK_T_GET_ID:
		req->written += iov_write(in, req->block->id, sizeof(req->block->id));
		return VIRTIO_BLK_S_OK;
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* Split the status, the last writable byte, off the segments. */
static void status_split(struct block_request *req, const struct vq_chain *chain)
{
	struct iovec *last = &req->segments[chain->out_count + chain->in_count - 1];

	last->iov_len--;
	req->status = (uint8_t *)last->iov_base + last->iov_len;
}

/* Serve one request: virtio_queue_visit(). */
static int block_serve(struct virtio_device *dev, unsigned index)
{
	struct virtio_block *block = block_of(dev);
	struct block_request *req = request_take(block);
	struct virtio_blk_outhdr hdr;
	struct iov_cursor out, in;
	struct vq_chain chain;
	int status;

	if (!virtio_queue_pop(dev, index, &chain, req->segments, BLOCK_SEGMENTS))
		goto none;
	out = iov_cursor(req->segments, chain.out_count);
	if (!chain.in_len || iov_read(&out, &hdr, sizeof(hdr)) < sizeof(hdr)) {
		virtio_broken(dev, "a disk request has no header, or no room for its status");
		goto none;
	}
	req->op.done = request_done;
	req->block = block;
	req->head = chain.head;
	status_split(req, &chain);
	in = iov_cursor(req->segments + chain.out_count, chain.in_count);
	status = request_start(req, &hdr, &chain, &out, &in);
	if (status >= 0)
		request_finish(req, status);
	return 1;
none:
	request_free(block, req);
	return 0;
}

static void block_visit(struct virtio_block *block)
{
	bool more = virtio_queue_visit(&block->dev, 0, BLOCK_VISIT_REQUESTS, block_serve);

	waiting_submit(block);
	if (more || block->waiting)
		loop_defer(block->dev.loop, &block->task);
}

static void block_run(struct loop_task *task)
{
	block_visit(container_of(task, struct virtio_block, task));
}

static void block_queue_ready(struct virtio_device *dev, unsigned index)
{
	(void)index;
	block_visit(block_of(dev));
}

/* --- the device ----------------------------------------------------------------------------- */

static void block_config_read(struct virtio_device *dev, uint32_t offset, void *data, uint32_t len)
{
	const struct virtio_blk_config config = {
	    .capacity = block_of(dev)->sectors,
	    .seg_max = BLOCK_SEG_MAX,
	    .blk_size = SECTOR_SIZE,
	};

	memcpy(data, (const char *)&config + offset, len);
}

static void block_stop(struct virtio_device *dev)
{
	struct virtio_block *block = block_of(dev);

	block->stopping = true;
	while (block->waiting)
		request_free(block, waiting_take(block));
	loop_settle(dev->loop, &block->in_flight);
	block->stopping = false;
	loop_forget(dev->loop, &block->task);
}

static const struct virtio_ops block_ops = {
    .name = "block",
    .type = VIRTIO_ID_BLOCK,
    .class_code = 0x018000, /* mass storage controller, other */
    .config_size = BLOCK_CONFIG_SIZE,
    .config_read = block_config_read,
    .stop = block_stop,
    .queue_ready = block_queue_ready,
};

/* The size of an image, in sectors; an incomplete last one does not count. */
static int image_sectors(int fd, uint64_t *sectors)
{
	struct stat st;
	uint64_t size;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode))
		size = st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return -ENOTBLK;
	else if (ioctl(fd, BLKGETSIZE64, &size) < 0)
		return -errno;
	*sectors = size >> SECTOR_SHIFT;
	return 0;
}

static void device_init(struct virtio_device *dev, const struct device_env *env, bool read_only)
{
	dev->ops = &block_ops;
	dev->mem = env->mem;
	dev->loop = env->loop;
	dev->features_offered = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
				1ull << VIRTIO_BLK_F_FLUSH | (uint64_t)read_only << VIRTIO_BLK_F_RO;
	dev->queue_count = 1;
	dev->queues[0].size_max = BLOCK_QUEUE_SIZE;
}

struct virtio_device *virtio_block_create(const struct device_env *env, int fd, bool read_only,
					  const char *serial)
{
	struct virtio_block *block;
	uint64_t sectors = 0;
	int err = image_sectors(fd, &sectors);

	if (err)
		goto out;
	err = -ENOMEM;
	block = calloc(1, sizeof(*block));
	if (!block)
		goto out;
	block->requests = malloc(BLOCK_REQUESTS * sizeof(*block->requests));
	if (!block->requests)
		goto out_free;
	device_init(&block->dev, env, read_only);
	block->task.run = block_run;
	block->fd = fd;
	block->read_only = read_only;
	block->sectors = sectors;
	block->waiting_end = &block->waiting;
	if (serial)
		memcpy(block->id, serial, strnlen(serial, sizeof(block->id)));
	return &block->dev;

out_free:
	free(block);
out:
	errno = -err;
	return NULL;
}

void virtio_block_destroy(struct virtio_device *dev)
{
	struct virtio_block *block;

	if (!dev)
		return;
	block = block_of(dev);
	close(block->fd);
	free(block->requests);
	free(block);
}
