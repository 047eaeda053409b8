/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames that are longer than a datagram: cut on the way out, joined on the way in. Knows nothing of sockets.
 */
#ifndef WEFT_FRAGMENT_H
#define WEFT_FRAGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/frame.h"
#include "vnet/port.h"

/* Where a part belongs; on the wire a Geneve option (see geneve.h). */
struct fragment {
	uint32_t id;     /* of the frame, counts up per sender and peer */
	uint32_t total;  /* bytes of the whole frame, FRAME_SIZE_MIN..FRAME_SIZE_MAX */
	uint32_t offset; /* of this part, bytes */
};

struct reassembly; /* of one peer */

/**
 * reassembly_create - @memory_max: bytes that unfinished frames may hold at once; @timeout_ns: how long one waits.
 * Frames whose parts all lie in one batch of datagrams are joined by iovecs and never copied; only what stays
 * unfinished at the end of a batch is copied (once), into memory set aside at creation or lazily bounded.
 */
struct reassembly *reassembly_create(size_t memory_max, uint64_t timeout_ns);
void reassembly_destroy(struct reassembly *r);

/**
 * reassembly_add - a part has come.
 * @part:    its payload (without headers), valid until reassembly_flush()
 * @offload, @hops: those of the part at offset 0 count
 * Returns a finished frame (valid until reassembly_flush()), or NULL. Contradictions (overlaps, duplicates,
 * changing totals) drop the frame whole and count it once in @counters (DROP_FRAGMENT, DROP_MEMORY).
 */
struct frame *reassembly_add(struct reassembly *r, const struct fragment *where, const void *part, size_t len,
			     const struct frame_offload *offload, uint8_t hops, uint64_t now_ns,
			     struct port_counters *counters);
/* reassembly_flush - the batch's buffers are about to be reused: save what is unfinished; drop what is too old. */
void reassembly_flush(struct reassembly *r, uint64_t now_ns, struct port_counters *counters);

#endif
