/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * To sleep and be woken costs tens of microseconds, to spin costs a CPU. So a loop that polls spins
 * for a budget, and learns how long that pays:
 *   - work came while it spun, or so soon after it fell asleep that some more spinning would have
 *     found it: twice the budget, up to SPIN_MAX_NS;
 *   - nothing came: half of it, down to SPIN_MIN_NS;
 *   - a turn took so long that another thread must have had the CPU in between: half of it too.
 * That thread may be the guest whose frames we wait for. A turn is charged with SPIN_TURN_NS at
 * most, so that time in which others ran is not our spending.
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
	spin->spent_ns = 0;
	spin->slept = true;
}

static void turn_found(struct spin *spin, bool slept, uint64_t passed_ns)
{
	bool paid = slept ? passed_ns <= SPIN_MAX_NS : spin->spent_ns > 0;

	if (paid && !spin->shared)
		budget_grow(spin);
}

/* A turn found nothing. */
static void turn_missed(struct spin *spin, uint64_t passed_ns)
{
	bool spinning = spin->spent_ns < spin->budget_ns, shared = passed_ns >= SPIN_TURN_NS;

	spin->spent_ns += shared ? SPIN_TURN_NS : passed_ns;
	spin->shared |= shared;
	if (spinning && (shared || spin->spent_ns >= spin->budget_ns))
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
		spin->spent_ns = 0;
		spin->shared = false;
		return true;
	}
	if (!slept && patient)
		spin->spent_ns += passed;
	else if (!slept)
		turn_missed(spin, passed);
	return spin->spent_ns < (patient ? SPIN_PATIENT_NS : spin->budget_ns);
}

void spin_slept(struct spin *spin)
{
	spin->slept = true;
}
