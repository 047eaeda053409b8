/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Cutting. A frame that does not fit a datagram is cut so that every datagram but the last is full:
 * the kernel can then be given all of them in one send and does the cutting (UDP_SEGMENT). Only the
 * first part's header carries what is said of the whole frame, so the first part is shorter.
 *
 * Joining. A frame is described by iovecs anyway, so parts are joined by listing them where they
 * lie, in the receive buffers, and a frame whose parts came in one batch is never copied. Only when
 * the buffers are about to be reused (reassembly_flush()) what is unfinished moves, once, into a
 * buffer of its own, to the place where it belongs in the frame.
 *
 * A slot describes one frame. Slots are in one of three rings:
 *
 *	spare ---first part---> open ---last part---> finished ---release, flush---> spare
 *	                          `----contradiction, timeout, no room----------------^
 *
 * "Open" is in order of age. An open frame is dropped when its parts contradict each other
 * (DROP_FRAGMENT), timeout_ns after its first part (DROP_FRAGMENT), or when another one needs its
 * slot or its buffer: the oldest one goes (DROP_MEMORY), because when parts get lost that is the
 *one that waits in vain.
 *
 * A table by id finds the open slots, and remembers for timeout_ns which frames are finished or
 * dropped, so that a part that comes late does not open them again. It has one place for each of
 *the last TABLE_IDS ids; an open frame that far behind makes room (DROP_FRAGMENT).
 *
 * All memory is allocated at creation, FRAME_BATCH_MAX slots for frames that are finished within a
 * batch and, for each buffer, one for a frame that waits between batches. Nothing else grows with
 *what the peer sends. The clock is the caller's; there is no thread and no lock in here.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/fragment.h"
#include "vnet/geneve.h"
#include "vnet/iovec.h"

#define SEND_SEGMENTS 64u    /* UDP_MAX_SEGMENTS of Linux before 6.9, in one UDP_SEGMENT send */
#define SEND_BYTES    65507u /* IPv4's largest UDP payload */

#define TABLE_IDS   1024u /* a power of two */
#define BUFFER_SIZE ((FRAME_SIZE_MAX + 63u) & ~63u)
#define BUFFERS_MAX (TABLE_IDS / 2)

/* Parts in the order of their offsets; no two overlap. */
struct parts {
	struct iovec iov[FRAGMENT_PARTS_MAX];
	uint32_t offset[FRAGMENT_PARTS_MAX];
};

struct slot {
	struct slot *prev, *next; /* in its ring */
	struct parts *parts;
	uint8_t *buffer; /* for what was saved; NULL: nothing yet */
	uint64_t deadline_ns;
	uint32_t id;
	uint32_t have;	    /* bytes of it that came */
	bool borrowed;	    /* some parts lie in the receive buffers */
	struct frame frame; /* iovcnt: parts that came, len: of the whole frame */
};

/* What is known of the last frame with an id of this place. */
struct place {
	uint32_t id;
	struct slot *open;  /* NULL: finished, dropped, or there never was one */
	uint64_t forget_ns; /* if not open: until then it is remembered */
};

struct reassembly {
	uint64_t timeout_ns;
	size_t memory;
	struct slot spare, open, finished; /* rings: only prev and next are used */
	struct slot *slots;
	struct parts *parts;
	uint8_t *buffers;
	uint8_t *spare_buffers[BUFFERS_MAX];
	unsigned spare_buffer_count;
	struct place places[TABLE_IDS];
};

#define SLOT_COST (sizeof(struct slot) + sizeof(struct parts))
static_assert(sizeof(struct reassembly) + (FRAME_BATCH_MAX + 1) * SLOT_COST + BUFFER_SIZE <=
		  REASSEMBLY_MEMORY_MIN,
	      "room for one frame");

/* --- cutting ------------------------------------------------------------------------------- */

unsigned fragment_cut_start(struct fragment_cut *cut, const struct geneve_extras *extras,
			    uint32_t id, uint32_t len, uint32_t datagram)
{
	struct geneve_extras first = *extras;
	uint32_t longer, shorter, more;

	first.part = true;
	longer = (uint32_t)geneve_size(&first);
	shorter = (uint32_t)geneve_size(&(struct geneve_extras){.part = true});
	if (datagram <= longer)
		return 0;
	*cut = (struct fragment_cut){
	    .extras = extras,
	    .where = {.id = id, .total = len},
	    .first = datagram - longer,
	    .other = datagram - shorter,
	};
	more = len > cut->first ? (len - cut->first + cut->other - 1) / cut->other : 0;
	return more < FRAGMENT_PARTS_MAX ? more + 1 : 0;
}

uint32_t fragment_cut_next(struct fragment_cut *cut, struct geneve_extras *extras)
{
	uint32_t left = cut->where.total - cut->where.offset;
	uint32_t len = cut->where.offset ? cut->other : cut->first;

	if (len > left)
		len = left;
	if (cut->where.offset)
		*extras = (struct geneve_extras){0};
	else
		*extras = *cut->extras;
	extras->part = true;
	extras->where = cut->where;
	cut->where.offset += len;
	return len;
}

unsigned fragment_send_max(uint32_t datagram)
{
	unsigned fit = SEND_BYTES / datagram;

	return fit < SEND_SEGMENTS ? fit : SEND_SEGMENTS;
}

/* --- slots and buffers --------------------------------------------------------------------- */

static void ring_init(struct slot *ring)
{
	ring->prev = ring->next = ring;
}

static bool ring_is_empty(const struct slot *ring)
{
	return ring->next == ring;
}

/* Take the slot out of the ring it is in, and put it at the end of another. */
static void slot_move(struct slot *slot, struct slot *ring)
{
	if (slot->next) {
		slot->prev->next = slot->next;
		slot->next->prev = slot->prev;
	}
	slot->prev = ring->prev;
	slot->next = ring;
	ring->prev->next = slot;
	ring->prev = slot;
}

static struct place *place_of(struct reassembly *r, uint32_t id)
{
	return &r->places[id % TABLE_IDS];
}

/* The frame is finished or dropped: remember that for a while. */
static void place_close(struct reassembly *r, uint32_t id, uint64_t now_ns)
{
	*place_of(r, id) = (struct place){.id = id, .forget_ns = now_ns + r->timeout_ns};
}

static void slot_free(struct reassembly *r, struct slot *slot)
{
	if (slot->buffer)
		r->spare_buffers[r->spare_buffer_count++] = slot->buffer;
	slot->buffer = NULL;
	slot_move(slot, &r->spare);
}

static void slot_drop(struct reassembly *r, struct slot *slot, uint64_t now_ns, uint64_t *drops)
{
	++*drops;
	place_close(r, slot->id, now_ns);
	slot_free(r, slot);
}

/* A slot for a new frame, the oldest open one's if need be. NULL: all are finished frames'. */
static struct slot *slot_take(struct reassembly *r, uint64_t now_ns, struct port_counters *counters)
{
	if (ring_is_empty(&r->spare) && !ring_is_empty(&r->open))
		slot_drop(r, r->open.next, now_ns, &counters->drops[DROP_MEMORY]);
	return ring_is_empty(&r->spare) ? NULL : r->spare.prev;
}

static struct slot *slot_open(struct reassembly *r, const struct fragment *where, uint64_t now_ns,
			      struct port_counters *counters)
{
	struct place *place = place_of(r, where->id);
	struct slot *slot;

	if (place->open) /* of an id long gone */
		slot_drop(r, place->open, now_ns, &counters->drops[DROP_FRAGMENT]);
	slot = slot_take(r, now_ns, counters);
	if (!slot) {
		counters->drops[DROP_MEMORY]++;
		place_close(r, where->id, now_ns);
		return NULL;
	}
	slot->deadline_ns = now_ns + r->timeout_ns;
	slot->id = where->id;
	slot->have = 0;
	slot->borrowed = false;
	slot->frame = (struct frame){.iov = slot->parts->iov, .len = where->total};
	*place = (struct place){.id = where->id, .open = slot};
	slot_move(slot, &r->open);
	return slot;
}

/* The slot that a part belongs to; NULL: it comes too late, or there is none for it. */
static struct slot *slot_find(struct reassembly *r, const struct fragment *where, uint64_t now_ns,
			      struct port_counters *counters)
{
	struct place *place = place_of(r, where->id);

	if (place->id == where->id) {
		if (place->open && now_ns >= place->open->deadline_ns)
			slot_drop(r, place->open, now_ns, &counters->drops[DROP_FRAGMENT]);
		if (place->open || now_ns < place->forget_ns)
			return place->open;
	}
	return slot_open(r, where, now_ns, counters);
}

/* --- parts --------------------------------------------------------------------------------- */

enum verdict { PART_TAKEN, PART_TWICE, PART_WRONG };

/* The place of a part among the others: before the first that starts behind @offset. */
static unsigned part_place(const struct slot *slot, uint32_t offset)
{
	unsigned i = slot->frame.iovcnt; /* usually they come in order */

	while (i && slot->parts->offset[i - 1] > offset)
		i--;
	return i;
}

/* Does it fit between the one before it and the one behind it? */
static enum verdict part_judge(const struct slot *slot, unsigned at, uint32_t offset, size_t len)
{
	const struct parts *parts = slot->parts;

	if (at) {
		size_t before = parts->iov[at - 1].iov_len;

		if (parts->offset[at - 1] == offset && before == len)
			return PART_TWICE;
		if (parts->offset[at - 1] + before > offset)
			return PART_WRONG;
	}
	if (at < slot->frame.iovcnt && offset + len > parts->offset[at])
		return PART_WRONG;
	return slot->frame.iovcnt < FRAGMENT_PARTS_MAX ? PART_TAKEN : PART_WRONG;
}

static enum verdict part_insert(struct slot *slot, const struct fragment *where, const void *part,
				size_t len)
{
	struct parts *parts = slot->parts;
	uint32_t total = slot->frame.len;
	enum verdict verdict;
	unsigned at, behind;

	if (where->total != total || total < FRAME_SIZE_MIN || total > FRAME_SIZE_MAX || !len ||
	    where->offset >= total || len > total - where->offset)
		return PART_WRONG;
	at = part_place(slot, where->offset);
	verdict = part_judge(slot, at, where->offset, len);
	if (verdict != PART_TAKEN)
		return verdict;
	behind = slot->frame.iovcnt++ - at;
	memmove(&parts->iov[at + 1], &parts->iov[at], behind * sizeof(parts->iov[0]));
	memmove(&parts->offset[at + 1], &parts->offset[at], behind * sizeof(parts->offset[0]));
	parts->iov[at] = (struct iovec){.iov_base = (void *)part, .iov_len = len};
	parts->offset[at] = where->offset;
	slot->have += (uint32_t)len;
	slot->borrowed = true;
	return PART_TAKEN;
}

static struct frame *slot_finish(struct reassembly *r, struct slot *slot, uint64_t now_ns)
{
	struct iov_cursor at = iov_cursor(slot->frame.iov, slot->frame.iovcnt);

	iov_read(&at, slot->frame.eth, sizeof(slot->frame.eth));
	place_close(r, slot->id, now_ns);
	slot_move(slot, &r->finished);
	return &slot->frame;
}

struct frame *reassembly_add(struct reassembly *r, const struct fragment *where, const void *part,
			     size_t len, const struct frame_offload *offload, uint8_t hops,
			     uint64_t now_ns, struct port_counters *counters)
{
	struct slot *slot = slot_find(r, where, now_ns, counters);

	if (!slot)
		return NULL;
	switch (part_insert(slot, where, part, len)) {
	case PART_WRONG:
		slot_drop(r, slot, now_ns, &counters->drops[DROP_FRAGMENT]);
		return NULL;
	case PART_TWICE:
		return NULL;
	case PART_TAKEN:
		break;
	}
	if (!where->offset) {
		slot->frame.offload = *offload;
		slot->frame.hops = hops;
	}
	return slot->have == slot->frame.len ? slot_finish(r, slot, now_ns) : NULL;
}

/* --- between batches ----------------------------------------------------------------------- */

/* A buffer to save a frame in, that of the oldest one if need be. */
static uint8_t *buffer_take(struct reassembly *r, uint64_t now_ns, struct port_counters *counters)
{
	struct slot *oldest = r->open.next;

	if (!r->spare_buffer_count) {
		while (!oldest->buffer) /* all buffers are open frames': there is one */
			oldest = oldest->next;
		slot_drop(r, oldest, now_ns, &counters->drops[DROP_MEMORY]);
	}
	return r->spare_buffers[--r->spare_buffer_count];
}

static void slot_save(struct reassembly *r, struct slot *slot, uint64_t now_ns,
		      struct port_counters *counters)
{
	struct parts *parts = slot->parts;

	if (!slot->buffer)
		slot->buffer = buffer_take(r, now_ns, counters);
	for (unsigned i = 0; i < slot->frame.iovcnt; i++) {
		uint8_t *to = slot->buffer + parts->offset[i];

		if (parts->iov[i].iov_base == to) /* saved before */
			continue;
		memcpy(to, parts->iov[i].iov_base, parts->iov[i].iov_len);
		parts->iov[i].iov_base = to;
		counters->copied_bytes += parts->iov[i].iov_len;
	}
	slot->borrowed = false;
}

void reassembly_release(struct reassembly *r)
{
	while (!ring_is_empty(&r->finished))
		slot_free(r, r->finished.next);
}

void reassembly_flush(struct reassembly *r, uint64_t now_ns, struct port_counters *counters)
{
	reassembly_release(r);
	while (now_ns >= reassembly_next(r))
		slot_drop(r, r->open.next, now_ns, &counters->drops[DROP_FRAGMENT]);
	for (struct slot *slot = r->open.next; slot != &r->open; slot = slot->next) {
		if (slot->borrowed)
			slot_save(r, slot, now_ns, counters);
	}
}

uint64_t reassembly_next(const struct reassembly *r)
{
	return ring_is_empty(&r->open) ? UINT64_MAX : r->open.next->deadline_ns;
}

/* --- life ---------------------------------------------------------------------------------- */

struct reassembly *reassembly_create(size_t memory_max, uint64_t timeout_ns)
{
	struct reassembly *r;
	size_t buffers, slots;

	if (memory_max < REASSEMBLY_MEMORY_MIN) {
		errno = EINVAL;
		return NULL;
	}
	buffers =
	    (memory_max - sizeof(*r) - FRAME_BATCH_MAX * SLOT_COST) / (BUFFER_SIZE + SLOT_COST);
	if (buffers > BUFFERS_MAX)
		buffers = BUFFERS_MAX;
	slots = FRAME_BATCH_MAX + buffers;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->timeout_ns = timeout_ns;
	r->memory = sizeof(*r) + slots * SLOT_COST + buffers * BUFFER_SIZE;
	ring_init(&r->spare);
	ring_init(&r->open);
	ring_init(&r->finished);
	r->slots = calloc(slots, sizeof(*r->slots));
	r->parts = malloc(slots * sizeof(*r->parts));
	r->buffers = malloc(buffers * BUFFER_SIZE);
	if (!r->slots || !r->parts || !r->buffers) {
		reassembly_destroy(r);
		return NULL;
	}
	while (slots--) {
		r->slots[slots].parts = &r->parts[slots];
		slot_move(&r->slots[slots], &r->spare);
	}
	while (buffers--)
		r->spare_buffers[r->spare_buffer_count++] = r->buffers + buffers * BUFFER_SIZE;
	return r;
}

void reassembly_destroy(struct reassembly *r)
{
	if (!r)
		return;
	free(r->slots);
	free(r->parts);
	free(r->buffers);
	free(r);
}

size_t reassembly_memory(const struct reassembly *r)
{
	return r->memory;
}
