/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who drives a queue: its guest, by doorbells, or the VMM, by polling. A pure state machine of
 * counts and times; whoever owns the queue acts on it.
 */
#ifndef WEFT_MODE_H
#define WEFT_MODE_H

#include <stdbool.h>
#include <stdint.h>

#define MODE_HISTORY 16u /* switches that are remembered */

enum mode { MODE_GUEST, MODE_VMM, MODES, MODE_AUTO = MODES };

/* Thresholds for MODE_AUTO: frames in a window. */
struct mode_rules {
	enum mode policy;   /* MODE_AUTO: by rate */
	uint32_t up, down;  /* VMM-driven from @up frames on, guest-driven below @down */
	uint32_t flood;	    /* from so many on it is worth a CPU to poll; 0: never */
	uint64_t window_ns; /* what frames are counted over; 0 counts as 1 */
	uint64_t dwell_ns;  /* least time between two switches */
};

/*
 * Measured by `weft-bench calibrate` on a 2-core host under kvm_pvm: VMM-driven queues shorten the
 * round trips of a program that waits for each answer, and sends 40 to 60 frames in a window. The
 * price is CPU time: a frame of a load that keeps such a rate by itself needs up to 1.7 times as
 * much. From 100,000 frames a second on a sidecar that never sleeps was faster in each cell of
 * `weft-bench modes`.
 */
#define MODE_RULES_DEFAULT                                                                         \
	((struct mode_rules){.policy = MODE_AUTO,                                                  \
			     .up = 20,                                                             \
			     .down = 5,                                                            \
			     .flood = 1000,                                                        \
			     .window_ns = 10000000,                                                \
			     .dwell_ns = 50000000})

struct mode_event {
	enum mode mode; /* switched to */
	uint64_t at_ns;
	uint64_t frames; /* a window, which decided; 0 when the user did */
};

/* The data loop's. To be read; changed by the functions below. */
struct mode_switch {
	struct mode_rules rules;
	enum mode mode; /* MODE_GUEST or MODE_VMM */
	bool patient;	/* whoever polls should spin on, whether it pays or not */
	/* The mode, the policy or @patient is another now. These two are the owner's. */
	void (*changed)(struct mode_switch *sw);
	void *context;

	uint64_t window_start_ns, window_frames;
	uint64_t changed_ns;	/* the last switch */
	uint64_t frames[MODES]; /* counted in each mode */
	uint64_t switches;
	struct mode_event history[MODE_HISTORY]; /* switch number n is in n % MODE_HISTORY */
};

/* mode_init - begin, with the first switch possible at once. Only what is the owner's is kept. */
void mode_init(struct mode_switch *sw, const struct mode_rules *rules, uint64_t now_ns);

/**
 * mode_count - @frames more went through the queue, as many as they are on a wire: a super-frame
 * counts as the segments that it stands for, because it brings the work of so many.
 *
 * Time never runs backwards. With 0 frames: only look whether a window has ended. Calls
 * sw->changed() when that changes the mode, or @patient.
 */
void mode_count(struct mode_switch *sw, uint64_t frames, uint64_t now_ns);

/* mode_choose - follow another policy from now on. */
void mode_choose(struct mode_switch *sw, enum mode policy, uint64_t now_ns);

/* mode_name - "guest", "vmm" or "auto". */
const char *mode_name(enum mode mode);
/* mode_parse - the mode of that name. Returns false if there is none. */
bool mode_parse(const char *name, enum mode *mode);

#endif
