/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The ones' complement sum does not depend on byte order or on the width of the additions (RFC
 * 1071, 2), so that bytes are added as 32-bit words into 64-bit lanes, eight words at a time: no
 * carry is lost before 2^32 additions. The same loop is compiled twice, for any processor and for
 * those with AVX2. A segment that begins at an odd place counts with its bytes exchanged.
 */
#include <string.h>

#include "vnet/checksum.h"
#include "vnet/offload.h"

typedef uint64_t lanes __attribute__((vector_size(32)));

static inline uint64_t sum_tail(const uint8_t *at, size_t len)
{
	uint64_t sum = 0;
	uint32_t word;

	for (; len >= sizeof(word); at += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		sum += word;
	}
	word = 0;
	memcpy(&word, at, len);
	return sum + word;
}

static inline __attribute__((always_inline)) uint64_t sum_lanes(const uint8_t *at, size_t len)
{
	lanes low = {0}, high = {0}, block;
	uint64_t sum;

	for (; len >= sizeof(block); at += sizeof(block), len -= sizeof(block)) {
		memcpy(&block, at, sizeof(block));
		low += block & UINT32_MAX;
		high += block >> 32;
	}
	low += high;
	sum = sum_tail(at, len);
	for (unsigned i = 0; i < 4; i++)
		sum += low[i];
	return sum;
}

#ifdef __x86_64__
static __attribute__((target("avx2"))) uint64_t sum_avx2(const uint8_t *at, size_t len)
{
	return sum_lanes(at, len);
}
#endif

static uint64_t sum_bytes(const uint8_t *at, size_t len)
{
	if (len < 2 * sizeof(lanes))
		return sum_tail(at, len);
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return sum_avx2(at, len);
#endif
	return sum_lanes(at, len);
}

uint16_t checksum_add(uint32_t start, const void *data, size_t len)
{
	return checksum_fold(start + sum_bytes(data, len));
}

uint16_t offload_checksum(const struct iovec *iov, unsigned iovcnt, size_t offset, size_t len,
			  uint32_t start)
{
	uint64_t sum = start;
	bool odd = false;

	for (; iovcnt && len; iov++, iovcnt--) {
		size_t n = iov->iov_len;
		uint16_t part;

		if (offset >= n) {
			offset -= n;
			continue;
		}
		n -= offset;
		if (n > len)
			n = len;
		part = checksum_fold(sum_bytes((const uint8_t *)iov->iov_base + offset, n));
		sum += odd ? __builtin_bswap16(part) : part;
		odd ^= n & 1;
		len -= n;
		offset = 0;
	}
	return checksum_fold(sum);
}
