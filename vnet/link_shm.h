/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What two processes that share memory agree on; the theory is in link_shm.c. Host byte order: it
 * is one host.
 */
#ifndef WEFT_LINK_SHM_H
#define WEFT_LINK_SHM_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

#define SHM_MAGIC	 0x74666577u /* "weft" */
#define SHM_VERSION	 1u
#define SHM_CACHE_LINE	 64
#define SHM_CONTROL_SIZE 4096u
#define SHM_RING_SIZE                                                                              \
	(4u << 20) /* a power of two; a batch of FRAME_BATCH_MAX frames of 64 KiB nearly fits */
#define SHM_FILE_SIZE	 (SHM_CONTROL_SIZE + 2 * SHM_RING_SIZE)
#define SHM_RECORD_ALIGN 16u

/* What comes first on the socket, either way; from the side that connects with the memory's
 * descriptor. */
struct shm_hello {
	uint32_t magic;
	uint16_t version;
	uint16_t answer; /* enum shm_answer; of the side that connects 0 */
	uint32_t vni;
	uint32_t ring_size;
};
static_assert(sizeof(struct shm_hello) == 16, "no padding");

enum shm_answer {
	SHM_WELCOME,
	SHM_OTHER_VERSION,
	SHM_OTHER_OVERLAY,
	SHM_NO_MEMORY, /* the descriptor is none, not sealed, or of the wrong size */
	SHM_FULL,
	SHM_REFUSED,
};

/* The indices of a ring; two of them are at the start of the memory, first that of the side that
 * connects. */
struct shm_ring {
	alignas(SHM_CACHE_LINE) _Atomic uint32_t head; /* bytes ever put in; the producer's */
	alignas(SHM_CACHE_LINE) _Atomic uint32_t tail; /* bytes ever taken out; the consumer's */
	alignas(SHM_CACHE_LINE) _Atomic uint32_t sleeping; /* 1: the consumer wants a wake-up */
};
static_assert(2 * sizeof(struct shm_ring) <= SHM_CONTROL_SIZE, "both fit");

/* In front of each frame; both together are padded to SHM_RECORD_ALIGN. */
struct shm_record {
	uint32_t len;		 /* of the frame */
	uint8_t flags, gso_type; /* struct frame_offload */
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
	uint8_t hops, reserved;
};
static_assert(sizeof(struct shm_record) == SHM_RECORD_ALIGN, "no padding");

#endif
