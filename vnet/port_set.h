/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A set of ports, by their index in the core. */
#ifndef WEFT_PORT_SET_H
#define WEFT_PORT_SET_H

#include <stdbool.h>
#include <stdint.h>

#include "vnet/core.h"

#define PORT_SET_BITS  64u
#define PORT_SET_WORDS (CORE_PORTS_MAX / PORT_SET_BITS)

struct port_set {
	uint64_t words[PORT_SET_WORDS];
};

static inline void port_set_add(struct port_set *set, unsigned index)
{
	set->words[index / PORT_SET_BITS] |= UINT64_C(1) << index % PORT_SET_BITS;
}

static inline void port_set_remove(struct port_set *set, unsigned index)
{
	set->words[index / PORT_SET_BITS] &= ~(UINT64_C(1) << index % PORT_SET_BITS);
}

static inline bool port_set_has(const struct port_set *set, unsigned index)
{
	return set->words[index / PORT_SET_BITS] >> index % PORT_SET_BITS & 1;
}

/* port_set_join - add the ports of @other. */
static inline void port_set_join(struct port_set *set, const struct port_set *other)
{
	for (unsigned w = 0; w < PORT_SET_WORDS; w++)
		set->words[w] |= other->words[w];
}

/* port_set_meet - keep only the ports of @other; true if that took any away. */
static inline bool port_set_meet(struct port_set *set, const struct port_set *other)
{
	uint64_t gone = 0;

	for (unsigned w = 0; w < PORT_SET_WORDS; w++) {
		gone |= set->words[w] & ~other->words[w];
		set->words[w] &= other->words[w];
	}
	return gone;
}

/* port_set_count - how many ports there are, and in @first the lowest of them. */
static inline unsigned port_set_count(const struct port_set *set, unsigned *first)
{
	unsigned count = 0;

	for (unsigned w = PORT_SET_WORDS; w-- > 0;) {
		if (!set->words[w])
			continue;
		count += (unsigned)__builtin_popcountll(set->words[w]);
		*first = w * PORT_SET_BITS + (unsigned)__builtin_ctzll(set->words[w]);
	}
	return count;
}

#endif
