/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * jitter MILLISECONDS CPU: how even the time is that a process gets on this CPU, see jitter.h.
 * Prints what tests/guest/jitter.c prints.
 */
#include "tests/bench/jitter.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CALIBRATION_NS 20000000.0

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static double ticks_per_ns(void)
{
	double begin = now_ns(), end;
	uint64_t tsc = jitter_tsc();

	do
		end = now_ns();
	while (end - begin < CALIBRATION_NS);
	return (double)(jitter_tsc() - tsc) / (end - begin);
}

int main(int argc, char *argv[])
{
	static struct jitter jitter;
	cpu_set_t set;
	double rate;

	if (argc != 3) {
		fprintf(stderr, "Usage: jitter MILLISECONDS CPU\n");
		return 2;
	}
	CPU_ZERO(&set);
	CPU_SET(atoi(argv[2]), &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("jitter: sched_setaffinity");
		return 1;
	}
	rate = ticks_per_ns();
	jitter.limits[0] = (uint64_t)(10000 * rate);
	jitter.limits[1] = (uint64_t)(100000 * rate);
	jitter_run(&jitter, (uint64_t)(atof(argv[1]) * 1e6 * rate));
	printf("{\"readings\":%" PRIu64
	       ",\"median_ns\":%.0f,\"p999_ns\":%.0f,\"max_ns\":%.0f,\"over_10us\":%" PRIu64
	       ",\"over_100us\":%" PRIu64 "}\n",
	       jitter.readings, (double)jitter_percentile(&jitter, 2) / rate,
	       (double)jitter_percentile(&jitter, 1000) / rate, (double)jitter.longest / rate,
	       jitter.over[0], jitter.over[1]);
	return 0;
}
