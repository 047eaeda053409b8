/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The sends of one queue pair. A slot is a work request: first the bytes of the slot's own (Geneve
 * header, and the frame's Ethernet header, which was copied on its way), then pieces of the frame
 * where they lie in guest memory, which is registered whole. So the adapter gathers a frame in one
 * work request and payload is not copied. What it reads must stay until it has: the slot holds the
 * frame (frame_hold()), and with it the guest's descriptors.
 *
 * A frame that nobody can hold (it came from another link, or from the neighbour cache), lies
 * elsewhere, or in more pieces than the adapter takes, is copied to a bounce buffer instead, and
 * counted.
 *
 * Filling and posting are two steps, because an RC peer may have no credit for what is filled; a
 * whole batch is posted by one call. The last of a post asks for a completion, and every
 * IB_SIGNAL-th: sends complete in order, so one completion frees all slots before it, and none is
 * left unfinished for want of a later one.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>

#include "vnet/ib.h"

#define SERIAL_SHIFT 32
#define SETTLE_NS    20000000ull /* a guest waits for it, once at its end */

static struct ib_slot *slot_at(const struct ib_ring *ring, uint32_t number)
{
	return &ring->slots[number & (ring->size - 1)];
}

static uint8_t *slot_header(const struct ib_ring *ring, uint32_t number)
{
	return ring->headers.memory + (size_t)(number & (ring->size - 1)) * IB_HEADER_ROOM;
}

/* A serial whose place in the table is free. Never 0, which is no ring's. */
static bool ring_enter(struct ib_ring *ring)
{
	struct ib_device *device = ring->device;

	for (unsigned i = 0; i < IB_RINGS_MAX; i++) {
		uint32_t serial = ++device->serial;

		if (!serial || device->rings[serial % IB_RINGS_MAX])
			continue;
		device->rings[serial % IB_RINGS_MAX] = ring;
		ring->serial = serial;
		return true;
	}
	return false;
}

int ib_ring_open(struct ib_ring *ring, struct ib_device *device, struct ibv_qp *qp,
		 struct ib_peer *owner, uint32_t size)
{
	int err;

	*ring = (struct ib_ring){.device = device, .qp = qp, .owner = owner};
	ring->slots = calloc(size, sizeof(*ring->slots));
	if (!ring->slots)
		return -ENOMEM;
	err = ib_pool_open(device, &ring->headers, IB_HEADER_ROOM, size);
	if (!err && !ring_enter(ring)) {
		ib_pool_close(device, &ring->headers);
		err = -ENOSPC;
	}
	if (err) {
		free(ring->slots);
		ring->slots = NULL;
		return err;
	}
	ring->size = size;
	return 0;
}

static void slot_release(struct ib_device *device, struct ib_slot *slot)
{
	if (slot->bounce >= 0)
		device->bounce_free[device->bounce_count++] = (unsigned)slot->bounce;
	if (slot->hold)
		frame_release(slot->hold);
	slot->hold = NULL;
	slot->bounce = -1;
}

void ib_ring_close(struct ib_ring *ring)
{
	if (!ring->size)
		return;
	while (ring->done != ring->filled)
		slot_release(ring->device, slot_at(ring, ring->done++));
	ring->device->rings[ring->serial % IB_RINGS_MAX] = NULL;
	ib_pool_close(ring->device, &ring->headers);
	free(ring->slots);
	*ring = (struct ib_ring){0};
}

/* --- filling --------------------------------------------------------------------------------- */

static struct ibv_sge sge_of(const void *at, size_t len, const struct ibv_mr *mr)
{
	return (struct ibv_sge){.addr = (uintptr_t)at, .length = (uint32_t)len, .lkey = mr->lkey};
}

/* Point to @len bytes where they are. False when that is not possible; the slot is then half
 * filled. */
static bool slot_gather(struct ib_ring *ring, struct ib_slot *slot, struct iov_cursor at,
			uint32_t len, bool held)
{
	const struct ib_device *device = ring->device;
	struct ibv_sge *own = &slot->sge[0];

	while (len) {
		struct iovec piece = iov_piece(&at);
		const struct ibv_mr *mr;

		if (piece.iov_len > len)
			piece.iov_len = len;
		if (!piece.iov_len)
			return false;
		mr = held ? ib_memory_find(device, &piece) : NULL;
		if (mr && slot->wr.num_sge < (int)device->sge_max)
			slot->sge[slot->wr.num_sge++] = sge_of(piece.iov_base, piece.iov_len, mr);
		else if (!mr && slot->wr.num_sge == 1 &&
			 own->length + piece.iov_len <= IB_HEADER_ROOM) {
			memcpy((void *)(uintptr_t)(own->addr + own->length), piece.iov_base,
			       piece.iov_len);
			own->length += (uint32_t)piece.iov_len;
		} else {
			return false;
		}
		at.offset += piece.iov_len;
		len -= (uint32_t)piece.iov_len;
	}
	return true;
}

static bool slot_bounce(struct ib_ring *ring, struct ib_slot *slot, const uint8_t *header,
			size_t header_len, struct iov_cursor at, uint32_t len)
{
	struct ib_device *device = ring->device;
	uint8_t *buffer;

	if (!device->bounce_count)
		return false;
	slot->bounce = (int)device->bounce_free[--device->bounce_count];
	buffer = device->bounces.memory + (size_t)slot->bounce * device->bounces.size;
	memcpy(buffer, header, header_len);
	iov_read(&at, buffer + header_len, len);
	slot->sge[0] = sge_of(buffer, header_len + len, device->bounces.mr);
	slot->wr.num_sge = 1;
	return true;
}

struct ib_slot *ib_ring_fill(struct ib_ring *ring, const uint8_t *header, size_t header_len,
			     struct iov_cursor *at, uint32_t len, struct frame_hold *hold,
			     struct port_counters *counters)
{
	struct ib_slot *slot = slot_at(ring, ring->filled);
	uint8_t *own = slot_header(ring, ring->filled);

	if (!ib_ring_free(ring))
		return NULL;
	memcpy(own, header, header_len);
	slot->sge[0] = sge_of(own, header_len, ring->headers.mr);
	slot->wr = (struct ibv_send_wr){.sg_list = slot->sge, .num_sge = 1};
	slot->bounce = -1;
	slot->hold = NULL;
	if (!slot_gather(ring, slot, *at, len, hold)) {
		if (!slot_bounce(ring, slot, header, header_len, *at, len))
			return NULL;
		counters->copied_bytes += len;
	} else if (slot->wr.num_sge > 1) {
		slot->hold = hold;
		frame_hold(hold);
	} else if (!hold) {
		counters->copied_bytes += len;
	}
	iov_skip(at, len);
	slot->wr.wr_id = (uint64_t)ring->serial << SERIAL_SHIFT | ring->filled++;
	return slot;
}

void ib_ring_take_back(struct ib_ring *ring, uint32_t filled)
{
	while (ring->filled != filled)
		slot_release(ring->device, slot_at(ring, --ring->filled));
}

/* --- posting --------------------------------------------------------------------------------- */

int ib_ring_post(struct ib_ring *ring, uint32_t max, uint32_t immediate)
{
	struct ibv_send_wr *first = &slot_at(ring, ring->posted)->wr, *bad = NULL;
	uint32_t n = ring->filled - ring->posted;

	if (n > max)
		n = max;
	if (!n)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t number = ring->posted + i;
		struct ibv_send_wr *wr = &slot_at(ring, number)->wr;
		bool last = i + 1 == n;

		wr->imm_data = htonl(immediate);
		wr->send_flags = last || number % IB_SIGNAL == 0 ? IBV_SEND_SIGNALED : 0;
		wr->next = last ? NULL : &slot_at(ring, number + 1)->wr;
	}
	if (ring->device->calls->post_send(ring->qp, first, &bad))
		return -EIO;
	ring->posted += n;
	return (int)n;
}

void ib_ring_complete(struct ib_ring *ring, uint32_t number)
{
	if (number - ring->done >= ring->posted - ring->done)
		return; /* none that is under way */
	while (ring->done != number + 1)
		slot_release(ring->device, slot_at(ring, ring->done++));
}

bool ib_ring_settle(struct ib_ring *ring)
{
	uint64_t end = loop_now() + SETTLE_NS;

	while (ring->done != ring->posted && loop_now() < end)
		ib_device_poll(ring->device);
	return ring->done == ring->filled;
}
