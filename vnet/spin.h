/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How long a loop looks for work before it sleeps. A pure state machine of times. */
#ifndef WEFT_SPIN_H
#define WEFT_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#define SPIN_MIN_NS                                                                                \
	20000u /* the least a loop spins: what a wake-up costs, so that at worst both are paid */
#define SPIN_MAX_NS	    200000u	/* the most it learns to */
#define SPIN_PATIENT_NS	    1000000000u /* when it was told to */
#define SPIN_YIELD_NS	    5000u     /* a yield that takes less found nobody who wanted the CPU */
#define SPIN_LENT_MAX_NS    1000000u  /* lent to others without work: enough, the loop sleeps */
#define SPIN_HOG_NS	    500000u   /* longer than a guest needs to answer a frame */
#define SPIN_ABSTAIN_MIN_NS 10000000u /* without spinning, where a thread keeps the CPU so long */
#define SPIN_ABSTAIN_MAX_NS 1000000000u

struct spin {
	uint64_t budget_ns; /* may be spent in turns that find nothing */
	uint64_t spent_ns;
	uint64_t lent_ns;	   /* to others, since work was last found */
	uint64_t last_ns;	   /* the last turn, or when it had the CPU back after it */
	uint64_t abstain_ns;	   /* how long it went without spinning last */
	uint64_t abstain_until_ns; /* and until when */
	bool slept;		   /* since the last turn */
};

/* spin_init - with a budget in the middle. */
void spin_init(struct spin *spin);
/* spin_begin - there is something new to look at: the whole budget may be spent. */
void spin_begin(struct spin *spin);

/**
 * spin_turn - a turn has been made.
 * @found:   whether it found work
 * @patient: spend SPIN_PATIENT_NS, and learn nothing
 *
 * Returns whether to go on; otherwise the loop sleeps, and says so by spin_slept().
 */
bool spin_turn(struct spin *spin, bool found, bool patient, uint64_t now_ns);

/* spin_yielded - the loop has offered the CPU to others since the last turn, until now. Not for a
 * patient one. */
void spin_yielded(struct spin *spin, uint64_t now_ns);

/* spin_slept - the loop goes to sleep now. */
void spin_slept(struct spin *spin);

#endif
