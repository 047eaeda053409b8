/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtqueue: the one door to rings (virtio 1.2, 2.7, split virtqueues).
 *
 * Only virtqueue.c reads descriptors. It copies each once, checks it, and hands out bounded iovecs into
 * guest RAM. A ring that breaks the rules is marked broken, never followed.
 *
 * One thread at a time works on a queue: the sidecar, or the thread that holds it stopped.
 */
#ifndef WEFT_VIRTQUEUE_H
#define WEFT_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQUEUE_SIZE_MAX  1024u /* entries; the largest ring any device offers */
#define VIRTQUEUE_CHAIN_MAX 1024u /* descriptors in one chain, indirect ones included */

struct guest_memory;
struct vring_desc;
struct vring_avail;
struct vring_used;

struct virtqueue {
	/* Set by the transport before virtqueue_start(). */
	const struct guest_memory *mem;
	uint16_t size;                          /* entries, a power of two */
	uint64_t desc_gpa, avail_gpa, used_gpa; /* ring addresses, guest-physical */
	bool indirect;                          /* VIRTIO_F_INDIRECT_DESC negotiated */
	bool event_idx;                         /* VIRTIO_F_EVENT_IDX negotiated */

	/* Owned by virtqueue.c from start to stop. */
	bool running;       /* started, and not broken since */
	const char *broken; /* why the ring is not followed any more, or NULL; a constant string */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t avail_next; /* next avail entry to take */
	uint16_t avail_seen; /* avail.idx when last read: entries before it may be taken */
	uint16_t used_next;  /* next used entry to fill; avail_next - used_next are in flight */
	uint16_t used_shown; /* used index the driver can see */
	uint16_t used_told;  /* up to here it had its interrupt, or did not want one */
};

/* A request taken from the ring: device-readable segments first, then device-writable ones. */
struct vq_chain {
	uint16_t head;      /* to be given back with virtqueue_push() */
	unsigned out_count; /* iovecs the device reads */
	unsigned in_count;  /* iovecs the device writes, behind the first out_count */
	uint64_t out_len;   /* bytes */
	uint64_t in_len;    /* bytes */
};

/**
 * virtqueue_start - check the ring's addresses and begin at index 0.
 *
 * Returns 0, or -EINVAL when a part of the ring is unaligned (virtio 1.2, 2.7), outside of RAM, straddles
 * its end, or the size is impossible; vq->broken says which.
 */
int virtqueue_start(struct virtqueue *vq);
/* virtqueue_stop - forget the ring, and why it broke. */
void virtqueue_stop(struct virtqueue *vq);
/* virtqueue_break - do not touch the ring any more until it is started anew. @why: a constant string */
void virtqueue_break(struct virtqueue *vq, const char *why);

/**
 * virtqueue_pop - take the next request.
 * @iov: room for @max segments; filled with ranges of guest RAM, none empty
 *
 * Returns 1 with @chain filled, 0 when the ring is empty or not started, -EPROTO when the ring is (now)
 * broken: vq->broken says why. A chain of more than @max segments breaks the ring. The segments may
 * overlap each other and the ring itself, and the guest may write to them at any time.
 */
int virtqueue_pop(struct virtqueue *vq, struct vq_chain *chain, struct iovec *iov, unsigned max);

/* virtqueue_unpop - put the last @n requests taken, and not yet pushed, back. */
void virtqueue_unpop(struct virtqueue *vq, unsigned n);

/*
 * virtqueue_push - fill the next used entry (not yet shown to the driver); @written bytes were stored.
 * Each request taken is pushed once, in any order. Does nothing on a stopped or broken ring.
 */
void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written);

/* virtqueue_show - show the driver all entries pushed so far. Returns whether there are new ones. */
bool virtqueue_show(struct virtqueue *vq);
/* virtqueue_untold - how many of the shown entries virtqueue_tell() has not been asked about. */
uint16_t virtqueue_untold(const struct virtqueue *vq);
/* virtqueue_tell - does the driver want an interrupt for what was shown since the last time? (virtio 1.2, 2.7.7) */
bool virtqueue_tell(struct virtqueue *vq);
/* virtqueue_settle - if the driver wants no interrupt for any of the shown entries, they count as told:
 * a driver that wants one later looks at the ring first. */
void virtqueue_settle(struct virtqueue *vq);
/* virtqueue_publish - virtqueue_show() and virtqueue_tell(). */
static inline bool virtqueue_publish(struct virtqueue *vq)
{
	return virtqueue_show(vq) && virtqueue_tell(vq);
}

/* virtqueue_wants_interrupt - would the driver want one for the next entry shown? */
bool virtqueue_wants_interrupt(const struct virtqueue *vq);

/* virtqueue_pending - are there requests to take? (one read of avail.idx) */
bool virtqueue_pending(const struct virtqueue *vq);

/**
 * virtqueue_notify_on - ask the driver to ring the doorbell for the next request.
 *
 * Returns true when requests came in meanwhile: take them, the doorbell will not ring for them.
 */
bool virtqueue_notify_on(struct virtqueue *vq);
/* virtqueue_notify_off - tell the driver that its doorbell is not needed now. */
void virtqueue_notify_off(struct virtqueue *vq);

#endif
