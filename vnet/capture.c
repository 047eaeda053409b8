/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The core shows each frame that passes a watched port (core_watch()); it is copied as an Enhanced
 * Packet Block (pcapng, draft-ietf-opsawg-pcapng, section 4.3) to the end of one of two buffers.
 * While the kernel writes one of them to the file (an asynchronous write of the loop's io_uring)
 * the other is filled. If both are full the frame is dropped from the capture, never from the
 * overlay, and counted; the count stands in the file's last block (4.6).
 *
 * A port becomes an interface of the file (4.2) with its first frame. A port that is detached is no
 * longer shown by the core; whichever takes its index later was not there when the capture began.
 *
 * A frame is taken only if its blocks, and the last one, fit into buffer and limit. The first error
 * of the file ends the recording; capture_stop() then cuts off the block that was written in part.
 *
 * Everything runs on the loop's thread.
 */
#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vnet/capture.h"
#include "vnet/core.h"
#include "vnet/iovec.h"
#include "vnet/loop.h"

#define BUFFER_SIZE  CAPTURE_BUFFER
#define NO_INTERFACE UINT16_MAX

/* Block types, option codes and values of the format. */
#define BLOCK_SECTION	  0x0a0d0d0au
#define BLOCK_INTERFACE	  1u
#define BLOCK_STATISTICS  5u
#define BLOCK_PACKET	  6u
#define BYTE_ORDER_MAGIC  0x1a2b3c4du
#define LINK_ETHERNET	  1u
#define OPTION_END	  0u
#define OPTION_NAME	  2u /* if_name */
#define OPTION_RESOLUTION 9u /* if_tsresol */
#define OPTION_FLAGS	  2u /* epb_flags */
#define OPTION_DROPPED	  5u /* isb_ifdrop */
#define NANOSECONDS	  9u
#define FLAG_INBOUND	  1u
#define FLAG_OUTBOUND	  2u

/* Lengths of blocks, bytes; without the frame and the name, which are padded to words. */
#define SECTION_SIZE	28u
#define INTERFACE_SIZE	36u
#define PACKET_SIZE	44u
#define STATISTICS_SIZE 40u

struct capture {
	struct loop *loop;
	struct core *core;
	int fd;
	int error;
	uint64_t limit, size; /* of the file: allowed; once all is written */
	uint64_t frames, dropped;
	uint64_t written; /* where the next write goes */
	uint8_t *buffers[2];
	unsigned filling;	       /* which buffer */
	size_t used;		       /* bytes in it */
	size_t write_start, write_end; /* what is left of the other one */
	unsigned writing;	       /* operations in flight: 0 or 1 */
	struct loop_op write;
	struct loop_task flush;
	uint16_t interfaces[CORE_PORTS_MAX]; /* by the port's index */
	uint16_t interface_count;
};

/* --- blocks --------------------------------------------------------------------------------- */

static size_t padded(size_t len)
{
	return (len + 3) & ~(size_t)3;
}

/* Where the next @len bytes go, followed by zeros up to a whole word. */
static uint8_t *room(struct capture *c, size_t len)
{
	uint8_t *at = c->buffers[c->filling] + c->used;

	memset(at + len, 0, padded(len) - len);
	c->used += padded(len);
	return at;
}

static void put(struct capture *c, const void *data, size_t len)
{
	memcpy(room(c, len), data, len);
}

static void put_word(struct capture *c, uint32_t word)
{
	put(c, &word, sizeof(word));
}

static void put_option(struct capture *c, uint16_t code, const void *data, uint16_t len)
{
	put_word(c, (uint32_t)len << 16 | code);
	put(c, data, len);
}

/* A block is closed by its own length, which also stands at its second word. */
static size_t block_begin(struct capture *c, uint32_t type)
{
	size_t start = c->used;

	put_word(c, type);
	put_word(c, 0);
	return start;
}

static void block_end(struct capture *c, size_t start)
{
	uint32_t length = (uint32_t)(c->used - start) + 4;

	put_word(c, length);
	memcpy(c->buffers[c->filling] + start + 4, &length, sizeof(length));
	c->size += length;
}

static void section_block(struct capture *c)
{
	size_t start = block_begin(c, BLOCK_SECTION);

	put_word(c, BYTE_ORDER_MAGIC);
	put_word(c, 1);		 /* version 1.0 */
	put_word(c, UINT32_MAX); /* length of the section: unknown */
	put_word(c, UINT32_MAX);
	block_end(c, start);
}

static void interface_block(struct capture *c, const struct port *port)
{
	static const uint8_t resolution = NANOSECONDS;
	size_t start = block_begin(c, BLOCK_INTERFACE);

	put_word(c, LINK_ETHERNET);
	put_word(c, 0); /* whole frames */
	put_option(c, OPTION_NAME, port->name, (uint16_t)strlen(port->name));
	put_option(c, OPTION_RESOLUTION, &resolution, 1);
	put_word(c, OPTION_END);
	block_end(c, start);
	c->interfaces[port->index] = c->interface_count++;
}

static uint64_t wall_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void put_time(struct capture *c)
{
	uint64_t now = wall_clock_ns();

	put_word(c, (uint32_t)(now >> 32));
	put_word(c, (uint32_t)now);
}

/* The bytes may be a guest's memory; how many they are is ours to say. */
static void packet_block(struct capture *c, uint16_t interface, bool out, const struct frame *frame)
{
	const uint32_t flags = out ? FLAG_OUTBOUND : FLAG_INBOUND;
	struct iov_cursor from = iov_cursor(frame->iov, frame->iovcnt);
	size_t start = block_begin(c, BLOCK_PACKET);

	put_word(c, interface);
	put_time(c);
	put_word(c, frame->len);
	put_word(c, frame->len);
	iov_read(&from, room(c, frame->len), frame->len);
	put_option(c, OPTION_FLAGS, &flags, sizeof(flags));
	put_word(c, OPTION_END);
	block_end(c, start);
}

static void statistics_block(struct capture *c)
{
	size_t start = block_begin(c, BLOCK_STATISTICS);

	put_word(c, 0); /* the first interface stands for all */
	put_time(c);
	put_option(c, OPTION_DROPPED, &c->dropped, sizeof(c->dropped));
	put_word(c, OPTION_END);
	block_end(c, start);
}

/* --- writing -------------------------------------------------------------------------------- */

static void write_more(struct capture *c)
{
	struct io_uring_sqe *sqe = loop_sqe(c->loop, &c->write);

	if (!sqe) {
		loop_defer(c->loop, &c->flush);
		return;
	}
	io_uring_prep_write(sqe, c->fd, c->buffers[!c->filling] + c->write_start,
			    (unsigned)(c->write_end - c->write_start), c->written);
	c->writing = 1;
}

/* At the end of the turn, and of each write. */
static void flush_run(struct loop_task *task)
{
	struct capture *c = container_of(task, struct capture, flush);

	if (c->writing || c->error)
		return;
	if (c->write_start == c->write_end) {
		if (!c->used)
			return;
		c->filling = !c->filling;
		c->write_start = 0;
		c->write_end = c->used;
		c->used = 0;
	}
	write_more(c);
}

static void write_count(struct capture *c, int result)
{
	if (result == -EINTR || result == -EAGAIN)
		return;
	if (result <= 0) {
		c->error = result ? -result : EIO;
		return;
	}
	c->write_start += (size_t)result;
	c->written += (uint64_t)result;
}

static void write_done(struct loop_op *op, int result, unsigned flags)
{
	struct capture *c = container_of(op, struct capture, write);

	(void)flags;
	c->writing = 0;
	write_count(c, result);
	flush_run(&c->flush);
}

/* --- frames --------------------------------------------------------------------------------- */

/* Is there room for this frame (and its port's block), in the buffer and in the file? */
static bool frame_fits(const struct capture *c, const struct port *port, const struct frame *frame)
{
	size_t len = PACKET_SIZE + padded(frame->len) + STATISTICS_SIZE;

	if (c->interfaces[port->index] == NO_INTERFACE)
		len += INTERFACE_SIZE + padded(strlen(port->name));
	return !c->error && len <= BUFFER_SIZE - c->used &&
	       (!c->limit || c->size + len <= c->limit);
}

static void frame_seen(void *context, const struct port *port, bool out, const struct frame *frame)
{
	struct capture *c = context;

	if (!frame_fits(c, port, frame)) {
		c->dropped++;
		return;
	}
	if (c->interfaces[port->index] == NO_INTERFACE)
		interface_block(c, port);
	packet_block(c, c->interfaces[port->index], out, frame);
	c->frames++;
	loop_defer(c->loop, &c->flush);
}

static void watch_set(struct capture *c, struct port *port, core_watch_fn *watch)
{
	for (unsigned i = 0; i < core_ports(c->core); i++) {
		struct port *each = core_port(c->core, i);

		if (each && (!port || each == port))
			core_watch(c->core, each, watch, watch ? c : NULL);
	}
}

/* --- life ----------------------------------------------------------------------------------- */

static void capture_free(struct capture *c)
{
	free(c->buffers[0]);
	free(c->buffers[1]);
	free(c);
}

static struct capture *capture_make(void)
{
	struct capture *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->buffers[0] = malloc(BUFFER_SIZE);
	c->buffers[1] = malloc(BUFFER_SIZE);
	if (c->buffers[0] && c->buffers[1])
		return c;
	capture_free(c);
	errno = ENOMEM;
	return NULL;
}

struct capture *capture_start(struct loop *loop, struct core *core, struct port *port, int fd,
			      uint64_t limit)
{
	struct capture *c;
	struct stat st;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (limit && limit < CAPTURE_LIMIT_MIN) ||
	    ftruncate(fd, 0)) {
		errno = EINVAL;
		return NULL;
	}
	c = capture_make();
	if (!c)
		return NULL;
	c->loop = loop;
	c->core = core;
	c->fd = fd;
	c->limit = limit;
	c->write.done = write_done;
	c->flush.run = flush_run;
	memset(c->interfaces, 0xff, sizeof(c->interfaces));
	section_block(c);
	watch_set(c, port, frame_seen);
	loop_defer(loop, &c->flush);
	return c;
}

/* Write what is left of one buffer, then the other, waiting for it. */
static void write_rest(struct capture *c)
{
	for (unsigned round = 0; round < 2; round++) {
		while (!c->error && c->write_start < c->write_end) {
			ssize_t n = pwrite(c->fd, c->buffers[!c->filling] + c->write_start,
					   c->write_end - c->write_start, (off_t)c->written);

			write_count(c, n < 0 ? -errno : (int)n);
		}
		if (c->error)
			return;
		c->filling = !c->filling;
		c->write_start = 0;
		c->write_end = c->used;
		c->used = 0;
	}
}

/* After an error: a reader would stumble over the block of which only the beginning was written. */
static void cut_to_blocks(struct capture *c)
{
	const uint8_t *buffer = c->buffers[!c->filling];
	size_t whole = 0;
	uint32_t length = 0;

	do {
		whole += length;
		memcpy(&length, buffer + whole + 4, sizeof(length));
	} while (whole + length <= c->write_start);
	c->size = c->written - (c->write_start - whole);
	if (ftruncate(c->fd, (off_t)c->size))
		c->size = c->written;
}

struct capture_status capture_stop(struct capture *c)
{
	struct capture_status status = {0};

	if (!c)
		return status;
	watch_set(c, NULL, NULL);
	if (c->interface_count)
		statistics_block(c);
	loop_settle(c->loop, &c->writing);
	loop_forget(c->loop, &c->flush);
	write_rest(c);
	if (c->error)
		cut_to_blocks(c);
	close(c->fd);
	status = capture_status(c);
	capture_free(c);
	return status;
}

struct capture_status capture_status(const struct capture *c)
{
	return (struct capture_status){
	    .frames = c->frames, .dropped = c->dropped, .bytes = c->size, .error = c->error};
}
