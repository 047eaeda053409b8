/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A path between two ends, on a clock of its own, that loses, repeats and reorders by the numbers
 * of a seed. */
#ifndef WEFT_TESTS_FAKE_PATH_H
#define WEFT_TESTS_FAKE_PATH_H

#include <stddef.h>
#include <stdint.h>

#define FAKE_FLIGHTS 512u

struct fake_flight {
	uint64_t due;
	unsigned to; /* end 0 or 1 */
	size_t len;
	uint8_t *data; /* exactly @len, so that a sanitizer sees its end */
};

struct fake_path {
	uint64_t now;
	uint64_t delay; /* one way, ns */
	size_t limit;	/* longer ones vanish */
	unsigned loss;	/* percent, as what follows */
	unsigned repeat;
	unsigned reorder; /* these take four times as long */
	uint64_t seed;
	struct fake_flight flights[FAKE_FLIGHTS];
	unsigned flying;
};

/* fake_path_open - without impairment, and without a limit. */
void fake_path_open(struct fake_path *path);
void fake_path_close(struct fake_path *path);
void fake_path_send(struct fake_path *path, unsigned to, const void *data, size_t len);
/* fake_path_next - when the next one lands; UINT64_MAX: nothing flies. */
uint64_t fake_path_next(const struct fake_path *path);
/* fake_path_take - that one; the caller frees its data. */
struct fake_flight fake_path_take(struct fake_path *path);
/* fake_path_chance - 0..99. */
unsigned fake_path_chance(struct fake_path *path);

#endif
