/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Behind which port a MAC address was last seen. Core's thread. */
#ifndef WEFT_LEARNING_H
#define WEFT_LEARNING_H

#include "vnet/core.h"

#define LEARNING_MACS	8192u			     /* more are not learnt */
#define LEARNING_AGE_NS (UINT64_C(300) * 1000000000) /* IEEE 802.1Q, 8.8.3: the default */

#define LEARNING_STAY_NS                                                                           \
	(UINT64_C(200) * 1000000) /* seen at its port this short ago, it does not move */

#define LEARNING_NOWHERE UINT32_MAX

struct learning;

/* learning_create - @counters: where to count learnt, moved, held, aged, full. NULL with errno
 * ENOMEM. */
struct learning *learning_create(struct core_counters *counters);
void learning_destroy(struct learning *learning);

/* learning_see - a frame of @source (mac_load()) came in by a port. True: where frames go has
 * changed. */
bool learning_see(struct learning *learning, uint64_t source, unsigned port, uint64_t now);
/* learning_age - forget who was not seen for long. True: something was forgotten. */
bool learning_age(struct learning *learning, uint64_t now);
/* learning_find - the index of the port where an address is, or LEARNING_NOWHERE. */
unsigned learning_find(const struct learning *learning, uint64_t mac);
/* learning_forget - forget all addresses behind a port. */
void learning_forget(struct learning *learning, unsigned port);
/* learning_visit - visit every address that is alive. */
void learning_visit(const struct learning *learning, uint64_t now,
		    void (*visit)(void *context, uint64_t mac, unsigned port, uint64_t age_ns),
		    void *context);

#endif
