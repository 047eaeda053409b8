/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Internet checksum (RFC 1071). Sums are of 16-bit words as they lie in memory, so that what
 * comes out is stored as it is, whatever the host's byte order; offload_checksum() does the same
 * over iovecs.
 */
#ifndef WEFT_CHECKSUM_H
#define WEFT_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* checksum_fold - a sum of any words brought to 16 bits. */
static inline uint16_t checksum_fold(uint64_t sum)
{
	sum = (sum & UINT32_MAX) + (sum >> 32);
	sum = (sum & UINT32_MAX) + (sum >> 32);
	sum = (sum & UINT16_MAX) + (sum >> 16);
	sum = (sum & UINT16_MAX) + (sum >> 16);
	return (uint16_t)sum;
}

/* checksum_add - the folded ones' complement sum of @len bytes and @start, a sum of up to 32 bits.
 */
uint16_t checksum_add(uint32_t start, const void *data, size_t len);

#endif
