/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A reader collects one frame at a time: first the 8 bytes of header, which are checked against
 * frame_rules as soon as they are complete, then as many bytes as the header said. So a reader
 * never holds more than AGENT_FRAME_MAX bytes, and never waits for bytes of a frame that is not
 * allowed. `need` is the header's size until the header is complete and the frame's size after.
 *
 * A ring holds bytes that wait to be written. Frames go into it whole, so that what leaves it is
 * always a valid stream, however the writes are cut.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "agent_frames.h"

/* What the protocol allows: who may send a type, and with how many bytes of payload. */
struct frame_rule {
	unsigned int senders; /* enum agent_sender, or-ed; 0: there is no such type */
	uint32_t shortest;
	uint32_t longest;
};

static const struct frame_rule frame_rules[AGENT_TYPES] = {
    [AGENT_HELLO] = {AGENT_FROM_GUEST, sizeof(struct agent_hello),
		     sizeof(struct agent_hello) + AGENT_HOSTNAME_MAX},
    [AGENT_EXEC] = {AGENT_FROM_HOST, 0, AGENT_PAYLOAD_MAX},
    [AGENT_STDIN] = {AGENT_FROM_HOST, 0, AGENT_PAYLOAD_MAX},
    [AGENT_STDOUT] = {AGENT_FROM_GUEST, 1, AGENT_PAYLOAD_MAX},
    [AGENT_STDERR] = {AGENT_FROM_GUEST, 1, AGENT_PAYLOAD_MAX},
    [AGENT_EXIT] = {AGENT_FROM_GUEST, sizeof(struct agent_u32), sizeof(struct agent_u32)},
    [AGENT_SHUTDOWN] = {AGENT_FROM_HOST, 1, 1},
    [AGENT_PING] = {AGENT_FROM_HOST, 0, AGENT_PING_MAX},
    [AGENT_PONG] = {AGENT_FROM_GUEST, 0, AGENT_PING_MAX},
    [AGENT_CLOSE] = {AGENT_FROM_HOST | AGENT_FROM_GUEST, 0, 0},
    [AGENT_ERROR] = {AGENT_FROM_GUEST, 0, AGENT_ERROR_MAX},
    [AGENT_WINDOW_ADD] = {AGENT_FROM_HOST | AGENT_FROM_GUEST, sizeof(struct agent_u32),
			  sizeof(struct agent_u32)},
};

static size_t size_min(size_t a, size_t b)
{
	return a < b ? a : b;
}

static bool header_allowed(const struct agent_view *view, enum agent_sender sender)
{
	const struct frame_rule *rule;

	if (view->type >= AGENT_TYPES)
		return false;
	rule = &frame_rules[view->type];
	return (rule->senders & sender) && view->length >= rule->shortest &&
	       view->length <= rule->longest;
}

static void header_decode(const struct agent_reader *reader, struct agent_view *view)
{
	struct agent_frame header;

	memcpy(&header, reader->data, sizeof(header));
	view->length = le32toh(header.length);
	view->channel = le16toh(header.channel);
	view->type = le16toh(header.type);
	view->payload = reader->data + sizeof(header);
}

void agent_reader_init(struct agent_reader *reader, enum agent_sender sender)
{
	reader->sender = sender;
	reader->have = 0;
	reader->need = sizeof(struct agent_frame);
}

ssize_t agent_reader_feed(struct agent_reader *reader, const void *data, size_t length,
			  struct agent_view *view, bool *complete)
{
	size_t taken;

	if (reader->have == reader->need)
		agent_reader_init(reader, reader->sender);
	taken = size_min(length, reader->need - reader->have);
	memcpy(reader->data + reader->have, data, taken);
	reader->have += taken;
	*complete = false;
	if (reader->have < reader->need)
		return (ssize_t)taken;
	header_decode(reader, view);
	if (reader->need == sizeof(struct agent_frame)) {
		if (!header_allowed(view, reader->sender))
			return -EPROTO;
		reader->need += view->length;
	}
	*complete = reader->have == reader->need;
	return (ssize_t)taken;
}

void agent_ring_init(struct agent_ring *ring, void *data, size_t size)
{
	ring->data = data;
	ring->size = size;
	ring->head = 0;
	ring->used = 0;
}

size_t agent_ring_room(const struct agent_ring *ring)
{
	return ring->size - ring->used;
}

/* Queues bytes that are known to fit. */
static void ring_append(struct agent_ring *ring, const void *data, size_t length)
{
	size_t tail = (ring->head + ring->used) % ring->size;
	size_t first = size_min(length, ring->size - tail);

	if (length == 0)
		return;
	memcpy(ring->data + tail, data, first);
	memcpy(ring->data, (const uint8_t *)data + first, length - first);
	ring->used += length;
}

int agent_ring_put(struct agent_ring *ring, const void *data, size_t length)
{
	if (length > agent_ring_room(ring))
		return -ENOBUFS;
	ring_append(ring, data, length);
	return 0;
}

int agent_ring_peek(const struct agent_ring *ring, struct iovec iov[2])
{
	size_t first = size_min(ring->used, ring->size - ring->head);

	if (ring->used == 0)
		return 0;
	iov[0].iov_base = ring->data + ring->head;
	iov[0].iov_len = first;
	iov[1].iov_base = ring->data;
	iov[1].iov_len = ring->used - first;
	return iov[1].iov_len > 0 ? 2 : 1;
}

void agent_ring_drop(struct agent_ring *ring, size_t length)
{
	length = size_min(length, ring->used);
	ring->used -= length;
	/* An empty ring starts at its beginning again: few pages are touched, writes are whole. */
	ring->head = ring->used > 0 ? (ring->head + length) % ring->size : 0;
}

int agent_frame_put(struct agent_ring *ring, uint16_t channel, uint16_t type, const void *payload,
		    size_t length)
{
	struct agent_frame header = {
	    .length = htole32((uint32_t)length),
	    .channel = htole16(channel),
	    .type = htole16(type),
	};

	if (length > AGENT_PAYLOAD_MAX)
		return -EMSGSIZE;
	if (sizeof(header) + length > agent_ring_room(ring))
		return -ENOBUFS;
	ring_append(ring, &header, sizeof(header));
	ring_append(ring, payload, length);
	return 0;
}

int agent_frame_put_u32(struct agent_ring *ring, uint16_t channel, uint16_t type, uint32_t value)
{
	struct agent_u32 payload = {.value = htole32(value)};

	return agent_frame_put(ring, channel, type, &payload, sizeof(payload));
}

uint32_t agent_view_u32(const struct agent_view *view)
{
	struct agent_u32 payload;

	memcpy(&payload, view->payload, sizeof(payload));
	return le32toh(payload.value);
}
