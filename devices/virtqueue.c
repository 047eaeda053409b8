/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A split virtqueue (virtio 1.2, 2.7) lies in guest RAM, and every byte of it may change at any
 * moment: another vCPU may flip what we are looking at. So each guest-owned field is loaded exactly
 * once, by an atomic load, into a local; the local is judged and used, never the field again. A
 * descriptor is two such loads of eight bytes.
 *
 * States: stopped -> running -> broken -> stopped. virtqueue_start() translates the three parts of
 * the ring once and keeps their host addresses. The first rule that the guest breaks moves the ring
 * to broken: it is not read, written or shown any more, and vq->broken says why. Only a reset
 * (stop, start) leads out. While a ring is not running, avail_seen equals avail_next, so that the
 * fast path of virtqueue_pop() needs no test of its own for it.
 *
 * Indices are free-running 16-bit counters: avail_next runs after avail_seen (a copy of the
 * driver's avail.idx, refreshed only when it is used up, as each look costs a cache miss),
 * used_next after avail_next. Their distances never exceed the ring's size: entries to be taken and
 * requests in flight together are at most as many as there are descriptors.
 *
 * Ordering: avail.idx is loaded with acquire, so that entries and descriptors are seen no older
 * than it; used.idx is stored with release or stronger, so that the driver sees the entries first.
 * Two places need a full fence between our store and our load (used.idx, then the driver's wish for
 * interrupts; our wish for doorbells, then avail.idx), or both sides may miss each other and sleep:
 * there the store and the load are both sequentially consistent.
 *
 * Ring fields are little endian, as are the hosts that weft runs on.
 *
 * Threads: whoever holds the queue; see the header.
 */
#include "devices/virtqueue.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stddef.h>

#include "vmm/memory.h"

#define CHAIN_BYTES_MAX (1ull << 32) /* virtio 1.2, 2.7.4: at most 2^32 bytes in one chain */

/* A descriptor as two words: the address; length, flags and next. */
typedef uint64_t __attribute__((may_alias)) desc_word;

/* A chain on its way from the table to the caller's iovecs. */
struct walk {
	const struct virtqueue *vq;
	struct iovec *iov;
	unsigned iov_max;
	unsigned descriptors; /* looked at so far */
	bool writable;	      /* a device-writable descriptor was seen */
	struct vq_chain *chain;
	const char *error;
};

static int ring_refuse(struct virtqueue *vq, const char *why)
{
	vq->broken = why;
	return -EINVAL;
}

static const char *ring_part(const struct virtqueue *vq, uint64_t gpa, uint64_t len, uint64_t align,
			     void **host)
{
	if (gpa % align)
		return "a part of the ring is not aligned";
	*host = guest_range(vq->mem, gpa, len);
	return *host ? NULL : "a part of the ring is outside of RAM";
}

/* Both sizes include the event fields, which are there whether negotiated or not (virtio 1.2, 2.7).
 */
static const char *ring_map(struct virtqueue *vq)
{
	void *desc = NULL, *avail = NULL, *used = NULL;
	const char *why;

	why = ring_part(vq, vq->desc_gpa, 16ull * vq->size, VRING_DESC_ALIGN_SIZE, &desc);
	if (!why)
		why = ring_part(vq, vq->avail_gpa, 6 + 2ull * vq->size, VRING_AVAIL_ALIGN_SIZE,
				&avail);
	if (!why)
		why =
		    ring_part(vq, vq->used_gpa, 6 + 8ull * vq->size, VRING_USED_ALIGN_SIZE, &used);
	vq->desc = desc;
	vq->avail = avail;
	vq->used = used;
	return why;
}

int virtqueue_start(struct virtqueue *vq)
{
	const char *why;

	virtqueue_stop(vq);
	if (!vq->size || vq->size > VIRTQUEUE_SIZE_MAX || (vq->size & (vq->size - 1)))
		return ring_refuse(vq, "the ring's size is impossible");
	why = ring_map(vq);
	if (why)
		return ring_refuse(vq, why);
	vq->running = true;
	return 0;
}

void virtqueue_stop(struct virtqueue *vq)
{
	vq->running = false;
	vq->broken = NULL;
	vq->desc = NULL;
	vq->avail = NULL;
	vq->used = NULL;
	vq->avail_next = vq->avail_seen = 0;
	vq->used_next = vq->used_shown = vq->used_told = 0;
}

void virtqueue_break(struct virtqueue *vq, const char *why)
{
	if (!vq->running)
		return;
	vq->running = false;
	vq->broken = why;
	vq->avail_seen = vq->avail_next;
}

static int ring_break(struct virtqueue *vq, const char *why)
{
	virtqueue_break(vq, why);
	return -EPROTO;
}

/* The event fields lie behind the rings (virtio 1.2, 2.7.7 and 2.7.10). */
static uint16_t *used_event(const struct virtqueue *vq)
{
	return &vq->avail->ring[vq->size];
}

static uint16_t *avail_event(const struct virtqueue *vq)
{
	return (uint16_t *)&vq->used->ring[vq->size];
}

/* Look whether the driver has offered more. Returns as virtqueue_pop() does. */
static int avail_refresh(struct virtqueue *vq)
{
	uint16_t idx, in_flight;

	if (!vq->running)
		return vq->broken ? -EPROTO : 0;
	idx = __atomic_load_n(&vq->avail->idx, __ATOMIC_ACQUIRE);
	if (idx == vq->avail_next)
		return 0;
	in_flight = vq->avail_next - vq->used_next;
	if ((uint16_t)(idx - vq->avail_next) > vq->size - in_flight)
		return ring_break(vq, "avail.idx is further ahead than the ring is long");
	vq->avail_seen = idx;
	return 1;
}

static uint64_t word_load(const void *word)
{
	const uint8_t *bytes = word;
	uint64_t value = 0;

	if (!((uintptr_t)word & (sizeof(value) - 1)))
		return __atomic_load_n((const desc_word *)word, __ATOMIC_RELAXED);
	/* Indirect tables need no alignment (virtio 1.2, 2.7.5.3), and atomic loads do. */
	for (unsigned i = 0; i < sizeof(value); i++)
		value |= (uint64_t)__atomic_load_n(&bytes[i], __ATOMIC_RELAXED) << (8 * i);
	return value;
}

/* The one place where a descriptor is read. */
static struct vring_desc desc_load(const struct vring_desc *table, unsigned index)
{
	const char *entry = (const char *)table + index * sizeof(*table);
	uint64_t rest = word_load(entry + offsetof(struct vring_desc, len));

	return (struct vring_desc){
	    .addr = word_load(entry),
	    .len = (uint32_t)rest,
	    .flags = (uint16_t)(rest >> 32),
	    .next = (uint16_t)(rest >> 48),
	};
}

static bool walk_fail(struct walk *w, const char *why)
{
	w->error = why;
	return false;
}

/* Hand one descriptor's buffer to the caller. */
static bool walk_segment(struct walk *w, const struct vring_desc *d)
{
	struct vq_chain *chain = w->chain;
	unsigned n = chain->out_count + chain->in_count;
	void *host;

	if (d->flags & VRING_DESC_F_WRITE)
		w->writable = true;
	else if (w->writable)
		return walk_fail(w, "a readable descriptor behind a writable one");
	if (!d->len)
		return true; /* of no use, but no offence: it only counts for the chain's length */
	if (n == w->iov_max)
		return walk_fail(w, "a chain has more segments than the device takes");
	host = guest_range(w->vq->mem, d->addr, d->len);
	if (!host)
		return walk_fail(w, "a buffer is outside of RAM");
	w->iov[n] = (struct iovec){.iov_base = host, .iov_len = d->len};
	if (w->writable) {
		chain->in_count++;
		chain->in_len += d->len;
	} else {
		chain->out_count++;
		chain->out_len += d->len;
	}
	if (chain->out_len + chain->in_len > CHAIN_BYTES_MAX)
		return walk_fail(w, "a chain is longer than 4 GiB");
	return true;
}

/*
 * Follow the chain through a table of @size entries from @index on. A descriptor of an indirect
 * table is left in @indirect where the caller allows one, else @indirect is NULL.
 *
 * A chain cannot have more links than its table entries without visiting one twice: counting finds
 * loops.
 */
static bool walk_table(struct walk *w, const struct vring_desc *table, unsigned size,
		       unsigned index, struct vring_desc *indirect)
{
	for (unsigned links = 0; links < size; links++) {
		const struct vring_desc d = desc_load(table, index);

		if (++w->descriptors > VIRTQUEUE_CHAIN_MAX)
			return walk_fail(w, "a chain has too many descriptors");
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!indirect)
				return walk_fail(w,
						 "an indirect table inside of an indirect table");
			*indirect = d;
			return true;
		}
		if (!walk_segment(w, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		index = d.next;
		if (index >= size)
			return walk_fail(w, "a descriptor's next is outside of its table");
	}
	return walk_fail(w, "a chain loops");
}

/* An indirect table ends the chain; direct descriptors may come before it (virtio 1.2, 2.7.5.3.2).
 */
static bool walk_indirect(struct walk *w, const struct vring_desc *d)
{
	const struct vring_desc *table;
	uint32_t entries = d->len / sizeof(*table);

	if (!w->vq->indirect)
		return walk_fail(w, "an indirect table that was not negotiated");
	if (d->flags & VRING_DESC_F_NEXT)
		return walk_fail(w, "an indirect table with a next descriptor");
	if (!d->len || d->len % sizeof(*table))
		return walk_fail(w, "an indirect table of an impossible length");
	if (entries > VIRTQUEUE_CHAIN_MAX)
		return walk_fail(w, "an indirect table is too long");
	table = guest_range(w->vq->mem, d->addr, d->len);
	if (!table)
		return walk_fail(w, "an indirect table is outside of RAM");
	return walk_table(w, table, entries, 0, NULL);
}

int virtqueue_pop(struct virtqueue *vq, struct vq_chain *chain, struct iovec *iov, unsigned max)
{
	struct vring_desc indirect = {0};
	struct walk w = {.vq = vq, .iov = iov, .iov_max = max, .chain = chain};
	uint16_t head;

	if (vq->avail_next == vq->avail_seen) {
		int more = avail_refresh(vq);

		if (more <= 0)
			return more;
	}
	head = __atomic_load_n(&vq->avail->ring[vq->avail_next & (vq->size - 1)], __ATOMIC_RELAXED);
	if (head >= vq->size)
		return ring_break(vq, "an available entry is outside of the descriptor table");
	*chain = (struct vq_chain){.head = head};
	if (!walk_table(&w, vq->desc, vq->size, head, &indirect))
		return ring_break(vq, w.error);
	if ((indirect.flags & VRING_DESC_F_INDIRECT) && !walk_indirect(&w, &indirect))
		return ring_break(vq, w.error);
	vq->avail_next++;
	return 1;
}

void virtqueue_unpop(struct virtqueue *vq, unsigned n)
{
	if (vq->running)
		vq->avail_next -= n;
}

void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
	struct vring_used_elem *elem;

	if (!vq->running)
		return;
	elem = &vq->used->ring[vq->used_next & (vq->size - 1)];
	__atomic_store_n(&elem->id, head, __ATOMIC_RELAXED);
	__atomic_store_n(&elem->len, written, __ATOMIC_RELAXED);
	vq->used_next++;
}

/* Does the driver want an interrupt for entries @old to @new - 1? */
static bool interrupt_wanted(const struct virtqueue *vq, uint16_t old, uint16_t new)
{
	uint16_t event;

	if (!vq->event_idx)
		return !(__atomic_load_n(&vq->avail->flags, __ATOMIC_SEQ_CST) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	event = __atomic_load_n(used_event(vq), __ATOMIC_SEQ_CST);
	return (uint16_t)(event - old) < (uint16_t)(new - old);
}

bool virtqueue_show(struct virtqueue *vq)
{
	if (!vq->running || vq->used_shown == vq->used_next)
		return false;
	vq->used_shown = vq->used_next;
	__atomic_store_n(&vq->used->idx, vq->used_shown, __ATOMIC_SEQ_CST);
	return true;
}

uint16_t virtqueue_untold(const struct virtqueue *vq)
{
	return vq->running ? vq->used_shown - vq->used_told : 0;
}

void virtqueue_settle(struct virtqueue *vq)
{
	if (virtqueue_untold(vq) && !interrupt_wanted(vq, vq->used_told, vq->used_shown))
		vq->used_told = vq->used_shown;
}

bool virtqueue_tell(struct virtqueue *vq)
{
	uint16_t old = vq->used_told;

	if (!virtqueue_untold(vq))
		return false;
	vq->used_told = vq->used_shown;
	return interrupt_wanted(vq, old, vq->used_told);
}

bool virtqueue_wants_interrupt(const struct virtqueue *vq)
{
	return vq->running && interrupt_wanted(vq, vq->used_shown, vq->used_shown + 1);
}

bool virtqueue_pending(const struct virtqueue *vq)
{
	return vq->running && __atomic_load_n(&vq->avail->idx, __ATOMIC_RELAXED) != vq->avail_next;
}

bool virtqueue_notify_on(struct virtqueue *vq)
{
	if (!vq->running)
		return false;
	if (vq->event_idx)
		__atomic_store_n(avail_event(vq), vq->avail_next, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&vq->used->flags, 0, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&vq->avail->idx, __ATOMIC_SEQ_CST) != vq->avail_next;
}

/*
 * With EVENT_IDX there is nothing to write: the driver rings once when it passes avail_event, and
 * not again until we move that (but for one spurious doorbell in 65,536 requests).
 */
void virtqueue_notify_off(struct virtqueue *vq)
{
	if (vq->running && !vq->event_idx)
		__atomic_store_n(&vq->used->flags, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}
