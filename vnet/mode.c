/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A queue is guest-driven (the guest rings a doorbell for each batch: no work while nothing
 * happens) or VMM-driven (doorbells off, the sidecar polls: no exits while much happens). With
 * MODE_AUTO the rate decides. Frames are counted and not doorbells, since polling removes those,
 * and the mode would flip straight back.
 *
 * Windows follow each other without a gap. A queue becomes VMM-driven as soon as the frames of a
 * window reach rules.up, and guest-driven at the end of a window with fewer than rules.down; in
 * between it stays as it is. From rules.flood frames on a VMM-driven queue is polled with patience,
 * until a window has half of that: the frames that wait while the sidecar wakes up cost more than
 * its spinning then, even where guests want the same CPUs.
 * No switch follows another within rules.dwell_ns. There is no timer: windows end when the queue is
 * next looked at. What is found then came at any time since the last look, so it is spread over the
 * windows that have passed: whoever looks late, because others had the CPU, does not see a busy
 * queue as an idle one.
 *
 * Threads: the owner's.
 */
#include "vnet/mode.h"

#include <string.h>

static const char *const names[] = {
    [MODE_GUEST] = "guest", [MODE_VMM] = "vmm", [MODE_AUTO] = "auto"};

static void mode_set(struct mode_switch *sw, enum mode mode, uint64_t frames, uint64_t now_ns)
{
	sw->mode = mode;
	sw->patient = sw->rules.policy == MODE_VMM;
	sw->changed_ns = now_ns;
	sw->history[sw->switches++ % MODE_HISTORY] =
	    (struct mode_event){.mode = mode, .at_ns = now_ns, .frames = frames};
	if (sw->changed)
		sw->changed(sw);
}

static bool mode_may(const struct mode_switch *sw, enum mode mode, uint64_t now_ns)
{
	return mode != sw->mode && (!sw->switches || now_ns - sw->changed_ns >= sw->rules.dwell_ns);
}

/* A window of @rate frames has ended, and the mode stays. */
static void patience_find(struct mode_switch *sw, uint64_t rate)
{
	uint32_t flood = sw->rules.flood;
	bool patient = sw->mode == MODE_VMM && flood && rate >= (sw->patient ? flood / 2 : flood);

	if (patient == sw->patient)
		return;
	sw->patient = patient;
	if (sw->changed)
		sw->changed(sw);
}

static void window_begin(struct mode_switch *sw, uint64_t start_ns)
{
	sw->window_start_ns = start_ns;
	sw->window_frames = 0;
}

void mode_init(struct mode_switch *sw, const struct mode_rules *rules, uint64_t now_ns)
{
	*sw = (struct mode_switch){
	    .rules = *rules,
	    .mode = rules->policy == MODE_VMM ? MODE_VMM : MODE_GUEST,
	    .patient = rules->policy == MODE_VMM,
	    .changed = sw->changed,
	    .context = sw->context,
	    .window_start_ns = now_ns,
	};
	if (!sw->rules.window_ns)
		sw->rules.window_ns = 1;
}

void mode_count(struct mode_switch *sw, uint64_t frames, uint64_t now_ns)
{
	uint64_t passed, rate;

	sw->frames[sw->mode] += frames;
	if (sw->rules.policy != MODE_AUTO)
		return;
	passed = (now_ns - sw->window_start_ns) / sw->rules.window_ns;
	sw->window_frames += frames;
	rate = sw->window_frames / (passed ? passed : 1);
	if (passed)
		window_begin(sw, sw->window_start_ns + passed * sw->rules.window_ns);
	if (passed && rate < sw->rules.down && mode_may(sw, MODE_GUEST, now_ns))
		mode_set(sw, MODE_GUEST, rate, now_ns);
	else if (rate >= sw->rules.up && mode_may(sw, MODE_VMM, now_ns))
		mode_set(sw, MODE_VMM, rate, now_ns);
	else if (passed)
		patience_find(sw, rate);
}

void mode_choose(struct mode_switch *sw, enum mode policy, uint64_t now_ns)
{
	sw->rules.policy = policy;
	sw->patient = policy == MODE_VMM;
	window_begin(sw, now_ns);
	if (policy != MODE_AUTO && policy != sw->mode)
		mode_set(sw, policy, 0, now_ns);
	else if (sw->changed)
		sw->changed(sw);
}

const char *mode_name(enum mode mode)
{
	return names[mode];
}

bool mode_parse(const char *name, enum mode *mode)
{
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(name, names[i])) {
			*mode = i;
			return true;
		}
	}
	return false;
}
