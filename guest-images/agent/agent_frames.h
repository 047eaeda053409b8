/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading and writing frames of the agent protocol (agent_protocol.h) a few bytes at a time.
 *
 * Shared by the guest agent, the VMM's multiplexer and the host client. Nothing here allocates,
 * makes a system call or keeps state outside of the structures that the caller owns; a structure is
 * used by one thread at a time.
 */
#ifndef WEFT_AGENT_FRAMES_H
#define WEFT_AGENT_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "agent_protocol.h"

/* Who sent the frames that a reader takes apart. */
enum agent_sender {
	AGENT_FROM_HOST = 1,
	AGENT_FROM_GUEST = 2,
};

/* A frame in host byte order. The payload points into the reader. */
struct agent_view {
	uint32_t length; /* bytes of payload */
	uint16_t channel;
	uint16_t type; /* enum agent_type */
	const uint8_t *payload;
};

/* Puts frames together from a byte stream. The members belong to agent_frames.c. */
struct agent_reader {
	enum agent_sender sender;
	size_t have; /* bytes of the current frame in data */
	size_t need; /* bytes that the current frame has, or of a header */
	uint8_t data[AGENT_FRAME_MAX];
};

/*
 * Prepares @reader for a new stream of frames from @sender; also how one starts over after an
 * error.
 */
void agent_reader_init(struct agent_reader *reader, enum agent_sender sender);

/*
 * Takes bytes of the stream, at most up to the end of the current frame.
 *
 * @data, @length: the next bytes of the stream; @length is not 0
 * @view: the frame, if @complete; valid until the next call on @reader
 * @complete: set to whether a frame is at its end
 *
 * Returns the number of bytes taken, which is at least 1: the caller goes on with the rest. Returns
 * -EPROTO, as soon as the header shows it, for a frame that the protocol does not allow from this
 * sender; the stream is then unusable, and the reader has to be initialised before it is used
 * again.
 */
ssize_t agent_reader_feed(struct agent_reader *reader, const void *data, size_t length,
			  struct agent_view *view, bool *complete);

/* A bounded queue of bytes in storage of the caller's. */
struct agent_ring {
	uint8_t *data;
	size_t size; /* bytes of storage */
	size_t head; /* where the oldest byte is */
	size_t used; /* bytes queued */
};

/* Makes @ring an empty queue in the @size bytes at @data. */
void agent_ring_init(struct agent_ring *ring, void *data, size_t size);

/* Returns how many bytes @ring can still take. */
size_t agent_ring_room(const struct agent_ring *ring);

/* Queues @length bytes. Returns 0, or -ENOBUFS and queues nothing if they do not fit. */
int agent_ring_put(struct agent_ring *ring, const void *data, size_t length);

/*
 * Describes the queued bytes, oldest first, for writev().
 * Returns the number of elements of @iov that were filled in: 0 (empty), 1 or 2.
 */
int agent_ring_peek(const struct agent_ring *ring, struct iovec iov[2]);

/* Removes the oldest @length bytes, or all if there are fewer. */
void agent_ring_drop(struct agent_ring *ring, size_t length);

/*
 * Queues a whole frame, or nothing.
 *
 * Returns 0; -ENOBUFS if the frame does not fit; -EMSGSIZE if @length exceeds AGENT_PAYLOAD_MAX.
 */
int agent_frame_put(struct agent_ring *ring, uint16_t channel, uint16_t type, const void *payload,
		    size_t length);

/* Queues a frame whose payload is struct agent_u32 (EXIT, WINDOW). Returns as agent_frame_put(). */
int agent_frame_put_u32(struct agent_ring *ring, uint16_t channel, uint16_t type, uint32_t value);

/* Returns the value of a frame whose payload begins with struct agent_u32 or struct agent_hello. */
uint32_t agent_view_u32(const struct agent_view *view);

#endif
