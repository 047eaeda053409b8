/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 16M
// expect-output: {"readings":
/*
 * Noise: how even a vCPU's time is, see tests/bench/jitter.h. Parameters: ms=N, how long (default
 * 100; 0: without an end). Nothing is done between the lines "spinning" and the result, so an exit
 * there is the VMM's doing.
 */
#include "check.h"
#include "tests/bench/jitter.h"

#define NS_PER_MS  1000000ull
#define CALIBRATED 1000000000ull /* ticks */

/* So many nanoseconds as ticks. */
static uint64_t ticks_of(uint64_t ns)
{
	return ns * (CALIBRATED / 1000) / (tsc_to_ns(CALIBRATED) / 1000);
}

int main(void)
{
	static struct jitter jitter;
	uint64_t ms = param_number("ms", 100);

	jitter.limits[0] = ticks_of(10000);
	jitter.limits[1] = ticks_of(100000);
	printf("spinning\n");
	jitter_run(&jitter, ms ? ticks_of(ms * NS_PER_MS) : UINT64_MAX);
	printf(
	    "{\"readings\":%lu,\"median_ns\":%lu,\"p999_ns\":%lu,\"max_ns\":%lu,\"over_10us\":%lu,"
	    "\"over_100us\":%lu}\n",
	    jitter.readings, tsc_to_ns(jitter_percentile(&jitter, 2)),
	    tsc_to_ns(jitter_percentile(&jitter, 1000)), tsc_to_ns(jitter.longest), jitter.over[0],
	    jitter.over[1]);
	check(jitter.readings > 0 && jitter.over[1] <= jitter.over[0], "jitter", "no readings");
	return check_status();
}
