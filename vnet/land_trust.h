/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether laying out guests' buffers for large frames is worth it (udp_land.c, ib_land.c). Nothing
 * is before so many of them came alike (streak >= need), nor after TRUST_QUIET batches without one.
 * What came otherwise than laid out for begins a new streak and doubles the need, up to
 * TRUST_NEED_MAX; it halves with each TRUST_EASE frames that landed.
 */
#ifndef WEFT_LAND_TRUST_H
#define WEFT_LAND_TRUST_H

#include <stdbool.h>

#define FRAME_LARGE    4096u /* bytes; shorter messages say nothing of what comes next */
#define TRUST_NEED_MIN 4u
#define TRUST_NEED_MAX 1024u
#define TRUST_EASE     64u
#define TRUST_QUIET    16u /* batches without a large message, after which none is expected */

struct land_trust {
	unsigned streak, need, landed;
	unsigned quiet; /* batches since the last large message */
	bool large;	/* a frame of this batch was; */
	bool missed;	/* or came otherwise than laid out for */
};

/* land_trust_earned - enough to lay out for the next frames? */
static inline bool land_trust_earned(const struct land_trust *trust)
{
	return trust->streak >= trust->need;
}

/* land_trust_landed - a frame lay as it was laid out for. */
static inline void land_trust_landed(struct land_trust *trust)
{
	if (++trust->landed % TRUST_EASE == 0 && trust->need > TRUST_NEED_MIN)
		trust->need /= 2;
}

/* land_trust_batch - a batch is at its end. */
static inline void land_trust_batch(struct land_trust *trust)
{
	if (trust->missed) {
		trust->streak = trust->landed = 0;
		if (trust->need < TRUST_NEED_MAX)
			trust->need *= 2;
	}
	trust->quiet = trust->large ? 0 : trust->quiet + 1;
	if (trust->quiet == TRUST_QUIET)
		trust->streak = 0;
	trust->large = false;
	trust->missed = false;
}

#endif
