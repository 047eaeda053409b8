/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An Ethernet frame on its way through the overlay: described, never owned. */
#ifndef WEFT_FRAME_H
#define WEFT_FRAME_H

#include <stdint.h>
#include <sys/uio.h>

#define FRAME_MAC_SIZE   6
#define FRAME_HEADER     14u    /* destination, source, EtherType */
#define FRAME_SIZE_MIN   14u    /* shorter is no frame and is dropped */
#define FRAME_SIZE_MAX   65549u /* MTU 65,535 and the header */
#define FRAME_BATCH_MAX  64u    /* frames that travel together */
#define FRAME_HOPS_MAX   16u    /* links a frame may cross */

/* What is still to be done to the frame: virtio 1.2, 5.1.6 (struct virtio_net_hdr), host byte order. */
struct frame_offload {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};

/*
 * Keeps the memory that a frame lies in from being given back. Whoever hands out frames holds once
 * himself; a port whose hardware reads on its own holds until that is done. It may keep pointers into
 * registered memory only (link_env.memory): the frame, its iovecs and headers that were made on the
 * way are gone when the call returns. The loop's thread.
 */
struct frame_hold {
	unsigned holders;
	void (*release)(struct frame_hold *hold); /* nobody holds any more */
};

static inline void frame_hold(struct frame_hold *hold)
{
	hold->holders++;
}

static inline void frame_release(struct frame_hold *hold)
{
	if (!--hold->holders)
		hold->release(hold);
}

/*
 * The payload stays where it is (guest RAM, a link's receive buffer) and is valid only until the call
 * that carries the frame returns: the path is run to completion. Only with a @hold may it be kept.
 * @eth is a copy taken once, because a guest can rewrite its own memory while the frame is routed.
 */
struct landing;

struct frame {
	const struct iovec *iov; /* the whole frame, Ethernet header first */
	unsigned iovcnt;
	uint32_t len; /* bytes, FRAME_SIZE_MIN..FRAME_SIZE_MAX */
	uint8_t eth[FRAME_HEADER];
	uint8_t hops; /* links it may still cross; 0: not said, that is FRAME_HOPS_MAX */
	struct frame_offload offload;
	struct frame_hold *hold; /* NULL: cannot be kept */
	struct landing *landing; /* where it lies in a guest's receive buffers; NULL: elsewhere. See port.h */
};

#endif
