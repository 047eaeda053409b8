/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * One entry a hash value, a newer flow takes the place of an older one: the cache is bounded and
 * cleans itself. It is never emptied; everything that may change where frames go gives the core a
 * new generation, and entries of another generation do not count. Flows that go nowhere are kept as
 * well, or else they would be the dearest. The hash is seeded, so that a guest cannot choose
 * addresses that evict those of another.
 *
 * The sets of flows with more than one destination lie apart: the page of a set that is not needed
 * is never touched.
 */
#include <stdlib.h>
#include <sys/random.h>

#include "vnet/flow_cache.h"
#include "vnet/mac.h"

struct flow_cache {
	uint64_t seed;
	struct flow flows[FLOW_CACHE_SIZE];
	struct port_set sets[FLOW_CACHE_SIZE];
};

struct flow_cache *flow_cache_create(void)
{
	struct flow_cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return NULL;
	if (getrandom(&cache->seed, sizeof(cache->seed), GRND_NONBLOCK) != sizeof(cache->seed))
		cache->seed = (uintptr_t)cache;
	return cache;
}

void flow_cache_destroy(struct flow_cache *cache)
{
	free(cache);
}

struct flow *flow_cache_find(struct flow_cache *cache, const uint64_t key[2])
{
	unsigned i = key_hash(key, cache->seed) % FLOW_CACHE_SIZE;
	struct flow *flow = &cache->flows[i];

	flow->set = &cache->sets[i];
	return flow;
}
