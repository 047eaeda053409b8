/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * To sleep and be woken costs tens of microseconds, to spin costs a CPU. So a loop that polls spins
 * for a budget, and learns how long that pays:
 *   - work came while it spun, or so soon after it fell asleep that some more spinning would have
 *     found it: twice the budget, up to SPIN_MAX_NS;
 *   - nothing came: half of it, down to SPIN_MIN_NS.
 *
 * Between turns it yields, for the thread whose work it waits for may want the same CPU: a guest
 * that answers what it was sent, and then halts. What that takes is not charged, up to
 * SPIN_LENT_MAX_NS until work is found. But one that keeps the CPU for SPIN_HOG_NS computes, or
 * polls itself, and a loop that merely yields to it comes back a time slice later, whereas one that
 * sleeps is woken at once. So it does without spinning then, for SPIN_ABSTAIN_MIN_NS at first, and
 * for twice as long, up to SPIN_ABSTAIN_MAX_NS, each time that it finds the CPU taken soon after it
 * tried again.
 *
 * The budget is given anew only by work that was found: what wakes the loop for other reasons buys
 * no spinning.
 *
 * Threads: the loop's.
 */
#include "vnet/spin.h"

static void budget_grow(struct spin *spin)
{
	spin->budget_ns = spin->budget_ns > SPIN_MAX_NS / 2 ? SPIN_MAX_NS : spin->budget_ns * 2;
}

static void budget_shrink(struct spin *spin)
{
	spin->budget_ns = spin->budget_ns < SPIN_MIN_NS * 2 ? SPIN_MIN_NS : spin->budget_ns / 2;
}

void spin_init(struct spin *spin)
{
	*spin = (struct spin){.budget_ns = SPIN_MAX_NS / 4, .slept = true};
}

void spin_begin(struct spin *spin)
{
	spin->spent_ns = spin->lent_ns = 0;
	spin->slept = true;
}

static void turn_found(struct spin *spin, bool slept, uint64_t passed_ns)
{
	if (slept ? passed_ns <= SPIN_MAX_NS : spin->spent_ns > 0)
		budget_grow(spin);
}

/* A turn found nothing. */
static void turn_missed(struct spin *spin, uint64_t passed_ns)
{
	bool spinning = spin->spent_ns < spin->budget_ns;

	spin->spent_ns += passed_ns;
	if (spinning && spin->spent_ns >= spin->budget_ns)
		budget_shrink(spin);
}

bool spin_turn(struct spin *spin, bool found, bool patient, uint64_t now_ns)
{
	uint64_t passed = now_ns - spin->last_ns;
	bool slept = spin->slept;

	spin->last_ns = now_ns;
	spin->slept = false;
	if (found) {
		if (!patient)
			turn_found(spin, slept, passed);
		spin->spent_ns = spin->lent_ns = 0;
	} else if (!slept && patient) {
		spin->spent_ns += passed;
	} else if (!slept) {
		turn_missed(spin, passed);
	}
	if (patient)
		return spin->spent_ns < SPIN_PATIENT_NS;
	return spin->spent_ns < spin->budget_ns && now_ns >= spin->abstain_until_ns;
}

void spin_yielded(struct spin *spin, uint64_t now_ns)
{
	uint64_t passed = now_ns - spin->last_ns;
	bool again = now_ns < spin->abstain_until_ns + 2 * spin->abstain_ns;

	if (passed < SPIN_YIELD_NS)
		return;
	spin->last_ns = now_ns;
	spin->lent_ns += passed;
	if (spin->lent_ns >= SPIN_LENT_MAX_NS || passed >= SPIN_HOG_NS)
		spin->spent_ns = spin->budget_ns;
	if (passed < SPIN_HOG_NS)
		return;
	spin->abstain_ns = again ? 2 * spin->abstain_ns : SPIN_ABSTAIN_MIN_NS;
	if (spin->abstain_ns > SPIN_ABSTAIN_MAX_NS)
		spin->abstain_ns = SPIN_ABSTAIN_MAX_NS;
	spin->abstain_until_ns = now_ns + spin->abstain_ns;
}

void spin_slept(struct spin *spin)
{
	spin->slept = true;
}
