/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The switch between guest- and VMM-driven, and how long a loop spins: both with a clock of our
 * own. */
#include <criterion/criterion.h>

#include <string.h>

#include "vnet/mode.h"
#include "vnet/spin.h"

#define WINDOW 10000u
#define DWELL  50000u
#define UP     100u
#define DOWN   10u
#define FLOOD  800u

static const struct mode_rules rules = {.policy = MODE_AUTO,
					.up = UP,
					.down = DOWN,
					.flood = FLOOD,
					.window_ns = WINDOW,
					.dwell_ns = DWELL};

static struct mode_switch sw;
static uint64_t now;
static unsigned calls;

static void changed(struct mode_switch *s)
{
	cr_assert_eq(s, &sw);
	calls++;
}

static void begin(const struct mode_rules *r)
{
	memset(&sw, 0, sizeof(sw));
	sw.changed = changed;
	calls = 0;
	now = 1000000;
	mode_init(&sw, r, now);
}

static void setup(void)
{
	begin(&rules);
}

/* Windows with @frames each, counted one by one and evenly. */
static void windows(unsigned n, unsigned frames)
{
	while (n--) {
		uint64_t start = now;

		for (unsigned i = 0; i < frames; i++) {
			now = start + (uint64_t)i * WINDOW / frames;
			mode_count(&sw, 1, now);
		}
		now = start + WINDOW;
		mode_count(&sw, 0, now);
	}
}

Test(mode, begins_guest_driven_and_stays_so_below_the_threshold, .init = setup)
{
	windows(100, UP - 1);
	cr_assert_eq(sw.mode, MODE_GUEST);
	cr_assert_eq(sw.frames[MODE_GUEST], 100 * (UP - 1));
	cr_assert_eq(calls, 0);
}

Test(mode, goes_up_in_the_middle_of_a_window, .init = setup)
{
	mode_count(&sw, UP - 1, now + 1);
	cr_assert_eq(sw.mode, MODE_GUEST);
	mode_count(&sw, 1, now + 2);
	cr_assert_eq(sw.mode, MODE_VMM);
	cr_assert_eq(calls, 1);
	cr_assert_eq(sw.history[0].mode, MODE_VMM);
	cr_assert_eq(sw.history[0].at_ns, now + 2);
	cr_assert_eq(sw.history[0].frames, UP);
	mode_count(&sw, 5, now + 3);
	cr_assert_eq(sw.frames[MODE_GUEST], UP);
	cr_assert_eq(sw.frames[MODE_VMM], 5);
}

Test(mode, hysteresis, .init = setup)
{
	windows(1, UP);
	windows(100, DOWN);
	cr_assert_eq(sw.mode, MODE_VMM);
	windows(1, DOWN - 1);
	cr_assert_eq(sw.mode, MODE_GUEST);
	windows(100, UP - 1);
	cr_assert_eq(sw.mode, MODE_GUEST);
	cr_assert_eq(sw.switches, 2);
}

Test(mode, dwells, .init = setup)
{
	windows(1, UP); /* up at the end of it */
	windows(4, 0);
	cr_assert_eq(sw.mode, MODE_VMM);
	windows(1, 0);
	cr_assert_eq(sw.mode, MODE_GUEST);
	windows(4, UP);
	cr_assert_eq(sw.mode, MODE_GUEST);
	windows(1, UP);
	cr_assert_eq(sw.mode, MODE_VMM);
	cr_assert_eq(calls, 3);
}

Test(mode, does_not_flap_on_a_load_at_a_threshold, .init = setup)
{
	/* One window more, one less: up once, and never down. */
	for (unsigned i = 0; i < 1000; i++)
		windows(1, i % 2 ? UP : UP - 1);
	cr_assert_eq(sw.mode, MODE_VMM);
	cr_assert_eq(sw.switches, 1);
	/* Likewise at the lower one: down once, and never up. */
	for (unsigned i = 0; i < 1000; i++)
		windows(1, i % 2 ? DOWN : DOWN - 1);
	cr_assert_eq(sw.mode, MODE_GUEST);
	cr_assert_eq(sw.switches, 2);
}

Test(mode, the_worst_load_switches_once_a_dwell, .init = setup)
{
	for (unsigned i = 0; i < 1000; i++)
		windows(1, sw.mode == MODE_GUEST ? 10 * UP : 0);
	cr_assert_geq(sw.switches, 100);
	cr_assert_leq(sw.switches, 1000 * WINDOW / DWELL + 1);
}

Test(mode, a_late_look_spreads_what_it_finds, .init = setup)
{
	windows(1, UP);
	windows(10, DOWN);
	cr_assert_eq(sw.mode, MODE_VMM);
	now += 5 * WINDOW; /* the CPU was another's */
	mode_count(&sw, 5 * DOWN, now);
	cr_assert_eq(sw.mode, MODE_VMM);
	now += 5 * WINDOW;
	mode_count(&sw, 5 * DOWN - 1, now);
	cr_assert_eq(sw.mode, MODE_GUEST);
	now += 100 * WINDOW; /* a burst after a long silence is no rate */
	mode_count(&sw, 10 * UP, now);
	cr_assert_eq(sw.mode, MODE_GUEST);
	mode_count(&sw, UP, now + 1);
	cr_assert_eq(sw.mode, MODE_VMM);
}

Test(mode, silence_for_ages, .init = setup)
{
	windows(1, UP);
	now += UINT64_MAX / 2;
	mode_count(&sw, 0, now);
	cr_assert_eq(sw.mode, MODE_GUEST);
}

Test(mode, patience_has_thresholds_of_its_own, .init = setup)
{
	windows(1, FLOOD);
	cr_assert_eq(sw.mode, MODE_VMM);
	cr_assert(sw.patient);
	cr_assert_eq(calls, 2);
	windows(50, FLOOD / 2);
	cr_assert(sw.patient);
	windows(1, FLOOD / 2 - 1);
	cr_assert_not(sw.patient);
	windows(50, FLOOD - 1);
	cr_assert_not(sw.patient);
	cr_assert_eq(sw.mode, MODE_VMM);
	windows(1, FLOOD);
	cr_assert(sw.patient);
	cr_assert_eq(sw.switches, 1);
	windows(10, 0);
	cr_assert_eq(sw.mode, MODE_GUEST);
	cr_assert_not(sw.patient);
}

Test(mode, silence_ends_patience_before_the_mode, .init = setup)
{
	windows(1, FLOOD);
	windows(1, 0);
	cr_assert_eq(sw.mode, MODE_VMM, "it has to dwell");
	cr_assert_not(sw.patient);
	mode_choose(&sw, MODE_VMM, now);
	cr_assert(sw.patient);
	windows(10, 0);
	cr_assert(sw.patient, "a user said so");
	mode_choose(&sw, MODE_AUTO, now);
	cr_assert_not(sw.patient);
}

Test(mode, the_user_chooses, .init = setup)
{
	mode_choose(&sw, MODE_VMM, now);
	cr_assert_eq(sw.mode, MODE_VMM);
	cr_assert_eq(calls, 1);
	windows(20, 0);
	cr_assert_eq(sw.mode, MODE_VMM);
	mode_choose(&sw, MODE_GUEST, now); /* without regard to the dwell */
	windows(20, 10 * UP);
	cr_assert_eq(sw.mode, MODE_GUEST);
	mode_choose(&sw, MODE_AUTO, now);
	cr_assert_eq(sw.mode, MODE_GUEST);
	cr_assert_eq(calls, 3); /* told of the policy alone, too */
	windows(10, 10 * UP);
	cr_assert_eq(sw.mode, MODE_VMM);
	cr_assert_eq(sw.switches, 3);
}

Test(mode, fixed_from_the_start_without_thresholds)
{
	begin(&(struct mode_rules){.policy = MODE_VMM});
	mode_count(&sw, 5, now + 1);
	cr_assert_eq(sw.mode, MODE_VMM);
	mode_choose(&sw, MODE_AUTO, now + 2); /* no window: any is over */
	mode_count(&sw, 5, now + 3);
	cr_assert_eq(sw.mode, MODE_VMM);
}

Test(mode, history_keeps_the_last, .init = setup)
{
	for (unsigned i = 0; i < 3 * MODE_HISTORY; i++)
		mode_choose(&sw, i % 2 ? MODE_GUEST : MODE_VMM, now + i);
	cr_assert_eq(sw.switches, 3 * MODE_HISTORY);
	for (unsigned i = 0; i < MODE_HISTORY; i++)
		cr_assert_eq(sw.history[i].at_ns, now + 2 * MODE_HISTORY + i);
}

Test(mode, names)
{
	enum mode mode;

	for (enum mode m = MODE_GUEST; m <= MODE_AUTO; m++)
		cr_assert(mode_parse(mode_name(m), &mode) && mode == m);
	cr_assert_not(mode_parse("", &mode));
	cr_assert_not(mode_parse("vm", &mode));
}

/* --- spinning ------------------------------------------------------------------------------- */

#define TURN 1000u /* ns */

static struct spin spin;

static void spin_setup(void)
{
	now = 1000000;
	spin_init(&spin);
	spin_turn(&spin, true, false, now);
}

/* Turns without work until the loop sleeps; their number. */
static unsigned spin_out(bool patient)
{
	unsigned n = 1;

	while (spin_turn(&spin, false, patient, now += TURN))
		n++;
	spin_slept(&spin);
	return n;
}

Test(spin, is_bounded_and_learns_from_misses, .init = spin_setup)
{
	unsigned last = spin_out(false), n;

	cr_assert_eq(last, SPIN_MAX_NS / 4 / TURN);
	for (unsigned i = 0; i < 20; i++, last = n) {
		now += 1000000;
		cr_assert(spin_turn(&spin, true, false, now));
		n = spin_out(false);
		cr_assert(n < last || n == SPIN_MIN_NS / TURN);
	}
	cr_assert_eq(last, SPIN_MIN_NS / TURN);
}

Test(spin, a_wake_up_without_work_buys_none, .init = spin_setup)
{
	spin_out(false);
	for (unsigned i = 0; i < 1000; i++) {
		cr_assert_not(spin_turn(&spin, false, false, now += 1000000));
		spin_slept(&spin);
	}
	cr_assert_eq(spin.budget_ns, SPIN_MAX_NS / 8); /* one miss */
}

Test(spin, grows_when_it_pays, .init = spin_setup)
{
	for (unsigned i = 0; i < 10; i++) {
		cr_assert(spin_turn(&spin, false, false, now += TURN));
		cr_assert(spin_turn(&spin, true, false, now += TURN));
	}
	cr_assert_eq(spin.budget_ns, SPIN_MAX_NS);
	cr_assert_eq(spin_out(false), SPIN_MAX_NS / TURN);
}

Test(spin, grows_when_it_slept_too_soon, .init = spin_setup)
{
	uint64_t budget;

	spin_out(false);
	budget = spin.budget_ns;
	cr_assert(spin_turn(&spin, true, false, now += SPIN_MAX_NS));
	cr_assert_eq(spin.budget_ns, 2 * budget);
	spin_out(false);
	budget = spin.budget_ns;
	cr_assert(spin_turn(&spin, true, false, now += SPIN_MAX_NS + 1));
	cr_assert_eq(spin.budget_ns, budget);
}

/* The loop has yielded to another thread for @ns. */
static void spin_yield(uint64_t ns)
{
	spin_yielded(&spin, now += ns);
}

Test(spin, what_others_need_is_not_charged, .init = spin_setup)
{
	for (unsigned i = 0; i < SPIN_MAX_NS / 4 / TURN - 1; i++) {
		cr_assert(spin_turn(&spin, false, false, now += TURN));
		spin_yield(SPIN_LENT_MAX_NS / 50 - 1);
	}
	cr_assert_not(spin_turn(&spin, false, false, now += TURN));
}

Test(spin, what_is_lent_has_a_limit, .init = spin_setup)
{
	unsigned n = 0;

	while (spin_turn(&spin, false, false, now += TURN)) {
		spin_yield(SPIN_LENT_MAX_NS / 5);
		n++;
	}
	cr_assert_eq(n, 5);
	cr_assert_eq(spin.abstain_ns, 0, "nobody kept the CPU");
	cr_assert(spin_turn(&spin, true, false, now += TURN), "work buys anew");
}

Test(spin, a_yield_to_nobody_is_charged, .init = spin_setup)
{
	unsigned n = 0;

	while (spin_turn(&spin, false, false, now += TURN)) {
		spin_yield(TURN);
		n++;
	}
	cr_assert_eq(n, SPIN_MAX_NS / 4 / TURN / 2);
}

Test(spin, abstains_where_another_keeps_the_cpu, .init = spin_setup)
{
	cr_assert(spin_turn(&spin, false, false, now += TURN));
	spin_yield(SPIN_HOG_NS);
	cr_assert_not(spin_turn(&spin, true, false, now += TURN));
	cr_assert(spin_turn(&spin, true, true, now), "patience does not");
	now += SPIN_ABSTAIN_MIN_NS - TURN - 1;
	cr_assert_not(spin_turn(&spin, true, false, now));
	cr_assert(spin_turn(&spin, true, false, now + 1));
}

Test(spin, a_wake_up_without_work_after_that_buys_none, .init = spin_setup)
{
	cr_assert(spin_turn(&spin, false, false, now += TURN));
	spin_yield(SPIN_HOG_NS);
	cr_assert_not(spin_turn(&spin, false, false, now += TURN));
	spin_slept(&spin);
	cr_assert_not(spin_turn(&spin, false, false, now += 2 * SPIN_ABSTAIN_MIN_NS));
}

/* It finds the CPU taken @ns after it could spin again. Returns for how long it abstains then. */
static uint64_t abstain_after(uint64_t ns)
{
	now = spin.abstain_until_ns + ns - SPIN_HOG_NS;
	spin_turn(&spin, true, false, now);
	spin_yield(SPIN_HOG_NS);
	return spin.abstain_until_ns - now;
}

Test(spin, abstains_for_longer_where_it_goes_on, .init = spin_setup)
{
	uint64_t expected = SPIN_ABSTAIN_MIN_NS;

	cr_assert_eq(abstain_after(10ull * SPIN_ABSTAIN_MAX_NS), expected, "the first time");
	for (unsigned i = 0; i < 20; i++) {
		expected = expected < SPIN_ABSTAIN_MAX_NS / 2 ? 2 * expected : SPIN_ABSTAIN_MAX_NS;
		cr_assert_eq(abstain_after(2 * spin.abstain_ns - 1), expected);
	}
	cr_assert_eq(expected, SPIN_ABSTAIN_MAX_NS);
	cr_assert_eq(abstain_after(2 * spin.abstain_ns), SPIN_ABSTAIN_MIN_NS, "it was long free");
}

Test(spin, patience_is_not_taught, .init = spin_setup)
{
	uint64_t budget = spin.budget_ns;

	for (unsigned i = 0; i < 9; i++)
		cr_assert(spin_turn(&spin, false, true, now += SPIN_PATIENT_NS / 10));
	cr_assert_not(spin_turn(&spin, false, true, now += SPIN_PATIENT_NS / 10));
	cr_assert_eq(spin.budget_ns, budget);
	spin_slept(&spin);
	cr_assert(spin_turn(&spin, true, true, now += TURN));
	cr_assert_eq(spin.budget_ns, budget);
	cr_assert_eq(spin_out(true), SPIN_PATIENT_NS / TURN);
	cr_assert_eq(spin.budget_ns, budget);
}
