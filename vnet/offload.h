/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Offloads in software: check, finish and split what a port cannot take unfinished, join what came
 * in pieces. Pure functions over frames; no thread, no system call, no allocation, no payload copy.
 */
#ifndef WEFT_OFFLOAD_H
#define WEFT_OFFLOAD_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>

#include "vnet/frame.h"
#include "vnet/port.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* virtio 1.2, 5.1.6; younger than the headers of Linux 6.1 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/* offload_check - does the offload state fit the frame? Every frame from a guest or a peer that has
 * one passes here before core_input(): what follows relies on it. */
bool offload_check(const struct frame *frame);

/**
 * offload_recognize - find the offload state of a frame that came without one, from a kernel on this very host.
 * @mtu: what the frame may be long without its Ethernet header, bytes
 *
 * A tunnel device leaves checksums and segmentation to the NIC, and where the way leads only through veth and bridges
 * there is none: the frame arrives with the pseudo header's sum for a checksum, and up to 64 KiB long. Such a frame
 * gets the state that says so. (A right checksum that looks the same by chance comes to no harm: computed anew it is
 * the same.)
 */
void offload_recognize(struct frame *frame, uint32_t mtu);

/*
 * offload_needs - the enum port_offload bits that a port must have to take the frame as it is; 0
 * for most, and all bits, more than any port has, for an unknown GSO type.
 */
uint32_t offload_needs(const struct frame *frame);

/* offload_segments - frames that it is on a wire where super-frames are cut: at least 1. */
static inline uint32_t offload_segments(const struct frame *frame)
{
	uint32_t size = frame->offload.gso_size;

	return size && frame->len > size ? (frame->len + size - 1) / size : 1;
}

/* Cutting frames, and completing checksums; see offload.c. Large: lives in its user, not on the
 * stack. */
struct offload_split;
struct offload_split *offload_split_create(void);
void offload_split_destroy(struct offload_split *split);
/**
 * offload_split_batch - begin with frames that go to one port, in order.
 * @frames: stay valid, as the array does, until the last piece is sent
 * @offloads: enum port_offload bits of the port: frames that need nothing else are passed on as
 * they are
 */
void offload_split_batch(struct offload_split *split, struct frame *const frames[], unsigned n,
			 uint32_t offloads);
/* offload_split_start - begin with one frame, for a port that can do nothing. */
void offload_split_start(struct offload_split *split, const struct frame *frame);
/*
 * offload_split_next - the next frames: whole ones, and pieces that are finished (checksums filled,
 * offload zero). At most @max, up to FRAME_BATCH_MAX. Returns their number, 0 at the end. The
 * pieces of the last call become invalid.
 */
unsigned offload_split_next(struct offload_split *split, struct frame *pieces[], unsigned max);
/*
 * offload_split_failed - frames since the start that were not cut to their end: a guest changed the
 * headers after the check, or a piece lies in more than 2,000 segments.
 */
unsigned offload_split_failed(const struct offload_split *split);

/* Joining consecutive segments of a flow within a batch (what GRO does). */
struct offload_merge;
struct offload_merge *offload_merge_create(void);
void offload_merge_destroy(struct offload_merge *merge);
/**
 * offload_merge_batch - join what can be joined of a batch into larger frames with offload state.
 * @frames: n frames, 1..FRAME_BATCH_MAX; rewritten to the new list (borrowed until the next call)
 * @offloads: enum port_offload bits of the port that will get them; without TSO/USO bits nothing is
 * joined Only segments whose checksums are right are joined. Returns the new number; order within a
 * flow is kept.
 */
unsigned offload_merge_batch(struct offload_merge *merge, struct frame *frames[], unsigned n,
			     uint32_t offloads);

/* offload_checksum - ones' complement sum over iovecs from @offset for @len bytes, folded (RFC
 * 1071). */
uint16_t offload_checksum(const struct iovec *iov, unsigned iovcnt, size_t offset, size_t len,
			  uint32_t start);

#endif
