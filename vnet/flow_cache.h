/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The flow cache: where frames of a flow (ingress, source, destination) go. One a thread. */
#ifndef WEFT_FLOW_CACHE_H
#define WEFT_FLOW_CACHE_H

#include <stdint.h>

#include "vnet/port_set.h"
#include "vnet/route_table.h"

#define FLOW_CACHE_SIZE 4096u

#define FLOW_NOWHERE 0xffffu /* nobody to send it to */
#define FLOW_MANY    0xfffeu /* to the ports of a set */

struct matrix_pair;

/* What is remembered of a flow. */
struct flow {
	uint64_t key[2];
	uint64_t generation; /* of the core's; another one: stale. 0: never used */
	struct matrix_pair *pair;
	struct port_set *set; /* FLOW_MANY: to these; the flow's own */
	uint16_t port;	      /* index, FLOW_NOWHERE or FLOW_MANY */
	uint8_t hops;	      /* goes from a link to a link, and so costs a hop */
	uint8_t runs;	      /* of routes to be counted */
	uint32_t run[ROUTE_SHAPES];
};

struct flow_cache;

/* flow_cache_create - NULL with errno ENOMEM. */
struct flow_cache *flow_cache_create(void);
void flow_cache_destroy(struct flow_cache *cache);
/* flow_cache_find - the entry where a flow is, if its key and generation say so, or is to be put.
 */
struct flow *flow_cache_find(struct flow_cache *cache, const uint64_t key[2]);

#endif
