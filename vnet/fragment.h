/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames that are longer than a datagram: cut on the way out, joined on the way in. Knows nothing
 * of sockets.
 */
#ifndef WEFT_FRAGMENT_H
#define WEFT_FRAGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/frame.h"
#include "vnet/port.h"

/* Parts of a frame at most: the longest one, sealed, over the smallest path that IPv4 asks for (576
 * bytes). */
#define FRAGMENT_PARTS_MAX 160u

/* Where a part belongs; on the wire a Geneve option (see geneve.h). */
struct fragment {
	uint32_t id;	 /* of the frame, counts up per sender and peer from a random start */
	uint32_t total;	 /* bytes of the whole frame, FRAME_SIZE_MIN..FRAME_SIZE_MAX */
	uint32_t offset; /* of this part, bytes */
};

/* --- cutting ------------------------------------------------------------------------------- */

struct geneve_extras;

/* A frame being cut. Its fields are fragment.c's. */
struct fragment_cut {
	const struct geneve_extras *extras;
	struct fragment where; /* of the next part */
	uint32_t first, other; /* bytes of the frame in the first datagram, in each other one */
};

/**
 * fragment_cut_start - begin to cut a frame into parts.
 * @extras:   its offload state and hops, valid until the last part; of the first part's header only
 * @id:       see struct fragment
 * @len:      of the frame, FRAME_SIZE_MIN..FRAME_SIZE_MAX
 * @datagram: bytes of a datagram: Geneve header and part
 *
 * All datagrams but the last are exactly @datagram bytes long, header included, as UDP_SEGMENT asks
 * for. Returns the number of parts, or 0 if it would be more than FRAGMENT_PARTS_MAX.
 */
unsigned fragment_cut_start(struct fragment_cut *cut, const struct geneve_extras *extras,
			    uint32_t id, uint32_t len, uint32_t datagram);

/* fragment_cut_next - fills in @extras for the header of the next part. Returns the part's length
 * in bytes; the parts follow each other in the frame (iov_slice() takes them from it). 0 behind the
 * last. */
uint32_t fragment_cut_next(struct fragment_cut *cut, struct geneve_extras *extras);

/* fragment_send_max - how many datagrams of @datagram bytes one UDP_SEGMENT send carries: udp(7),
 * and 65,507 bytes of payload in IPv4. */
unsigned fragment_send_max(uint32_t datagram);

/* --- joining ------------------------------------------------------------------------------- */

struct reassembly; /* of one peer */

/* What reassembly_create() needs at least, bytes. */
#define REASSEMBLY_MEMORY_MIN (512u << 10)

/**
 * reassembly_create - @memory_max: bytes, its own bookkeeping included, at least
 * REASSEMBLY_MEMORY_MIN;
 * @timeout_ns: how long a frame waits for its last part.
 * The memory is set aside here, but becomes resident only as it is used. Returns NULL with errno
 * set.
 */
struct reassembly *reassembly_create(size_t memory_max, uint64_t timeout_ns);
/* reassembly_destroy - NULL is fine. */
void reassembly_destroy(struct reassembly *r);

/**
 * reassembly_add - a part has come.
 * @part:    its payload (without headers), @len bytes, valid until reassembly_flush()
 * @offload, @hops: those of the part at offset 0 count
 *
 * Returns a finished frame (valid until reassembly_release() or _flush()), or NULL. The frame's
 * offload state is the peer's word: see offload_check(). A part that comes twice, or after its
 * frame was finished or dropped, is ignored. A contradiction (overlap, past the end, another total,
 * no bytes, more than FRAGMENT_PARTS_MAX) drops the frame whole and counts it once in @counters as
 * DROP_FRAGMENT; a frame that must make room for another one counts as DROP_MEMORY.
 */
struct frame *reassembly_add(struct reassembly *r, const struct fragment *where, const void *part,
			     size_t len, const struct frame_offload *offload, uint8_t hops,
			     uint64_t now_ns, struct port_counters *counters);

/* reassembly_release - the frames returned so far are delivered: make room for others of the same
 * batch. Needed when a batch may bring more than FRAME_BATCH_MAX of them. */
void reassembly_release(struct reassembly *r);

/* reassembly_flush - the batch's buffers are about to be reused: save what is unfinished (the one
 * copy, in copied_bytes); drop what is too old (DROP_FRAGMENT). Ends the life of the frames
 * returned so far. */
void reassembly_flush(struct reassembly *r, uint64_t now_ns, struct port_counters *counters);

/* reassembly_next - when the oldest unfinished frame becomes too old and reassembly_flush() should
 * be called though no datagram came, ns; UINT64_MAX: none is there. */
uint64_t reassembly_next(const struct reassembly *r);

/* reassembly_memory - bytes it has allocated, at most memory_max; never changes. */
size_t reassembly_memory(const struct reassembly *r);

#endif
