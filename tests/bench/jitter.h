/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Measures how even the time is that a program gets: it reads the time stamp counter over and over,
 * and what lies between two readings is time in which something else ran. The same loop in a guest
 * and in a process.
 */
#ifndef WEFT_BENCH_JITTER_H
#define WEFT_BENCH_JITTER_H

#include <stdint.h>

#define JITTER_STEPS   8u /* buckets for each power of two: values are right to an eighth */
#define JITTER_BUCKETS (64u * JITTER_STEPS)

/* In ticks of the counter. */
struct jitter {
	uint64_t readings, longest;
	uint64_t limits[2], over[2]; /* gaps longer than each limit */
	uint64_t buckets[JITTER_BUCKETS];
};

static inline uint64_t jitter_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static inline unsigned jitter_bucket(uint64_t gap)
{
	unsigned power = gap < JITTER_STEPS ? 0 : 63u - (unsigned)__builtin_clzll(gap) - 2;

	return power * JITTER_STEPS + (unsigned)(gap >> (power ? power - 1 : 0)) % JITTER_STEPS;
}

/* The least value that is in a bucket. */
static inline uint64_t jitter_value(unsigned bucket)
{
	unsigned power = bucket / JITTER_STEPS, step = bucket % JITTER_STEPS;

	return power ? (uint64_t)(JITTER_STEPS + step) << (power - 1) : step;
}

/* Read the counter for so many ticks. */
static inline void jitter_run(struct jitter *j, uint64_t ticks)
{
	uint64_t start = jitter_tsc(), last = start, now = start;

	while (now - start < ticks) {
		uint64_t gap;

		now = jitter_tsc();
		gap = now - last;
		last = now;
		j->readings++;
		j->buckets[jitter_bucket(gap)]++;
		if (gap > j->longest)
			j->longest = gap;
		for (unsigned i = 0; gap > j->limits[0] && i < 2; i++)
			j->over[i] += gap > j->limits[i];
	}
}

/* The gap that all but one in @one_in do not exceed. */
static inline uint64_t jitter_percentile(const struct jitter *j, uint64_t one_in)
{
	uint64_t left = j->readings / one_in;
	unsigned bucket = JITTER_BUCKETS;

	while (bucket && j->buckets[bucket - 1] <= left)
		left -= j->buckets[--bucket];
	return bucket ? jitter_value(bucket - 1) : 0;
}

#endif
