/* SPDX-License-Identifier: GPL-2.0-or-later */
/* MAC addresses as integers, for tables: the six bytes as they lie in memory, two bytes of zero
 * behind. */
#ifndef WEFT_MAC_H
#define WEFT_MAC_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "vnet/frame.h"

#define MAC_BROADCAST UINT64_C(0xffffffffffff)

static inline uint64_t mac_load(const uint8_t bytes[FRAME_MAC_SIZE])
{
	uint64_t mac = 0;

	memcpy(&mac, bytes, FRAME_MAC_SIZE);
	return mac;
}

static inline void mac_store(uint8_t bytes[FRAME_MAC_SIZE], uint64_t mac)
{
	memcpy(bytes, &mac, FRAME_MAC_SIZE);
}

/* The I/G bit: the lowest of the first byte (IEEE 802, 8.2.2). True of broadcast, too. */
static inline bool mac_is_multicast(uint64_t mac)
{
	return mac & 1;
}

/* key_hash - mix two words with a seed; who does not know the seed cannot make keys collide. */
static inline uint64_t key_hash(const uint64_t key[2], uint64_t seed)
{
	unsigned __int128 product = (unsigned __int128)(key[0] ^ seed) *
				    (key[1] ^ (seed * UINT64_C(0x9e3779b97f4a7c15) | 1));

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

#endif
