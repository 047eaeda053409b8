/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --rng --agent {socket}
/*
 * A23: console output without an end that nobody reads: garbage, terminal escapes, frames that lie.
 * The port may be closed to it or stand still; the rest of the VM goes on, and a reset brings the
 * device back.
 */
#include <linux/virtio_console.h>

#include "check.h"
#include "guest-images/agent/agent_protocol.h"
#include "worker.h"

#define FLOOD_NS    500000000ull
#define FLOOD_BYTES 65536u
#define REQUEST_MIN 20

static uint8_t *output;

static void fill_escapes(void)
{
	static const char text[] = "\033[2J\033]0;title\007\033[6n\033P+q\033\\\x9b"
				   "31m\b\r\n";

	for (uint32_t i = 0; i < FLOOD_BYTES; i++)
		output[i] = (uint8_t)text[i % (sizeof(text) - 1)];
}

static void fill_ones(void)
{
	memset(output, 0xff, FLOOD_BYTES);
}

static void fill_zeroes(void)
{
	memset(output, 0, FLOOD_BYTES);
}

/* Good frames to a connection that does not exist. */
static void fill_frames(void)
{
	struct agent_frame frame = {24, 7, AGENT_STDOUT};

	memset(output, 'x', FLOOD_BYTES);
	for (uint32_t i = 0; i + 32 <= FLOOD_BYTES; i += 32)
		memcpy(output + i, &frame, sizeof(frame));
}

/* HELLO over and over. */
static void fill_hello(void)
{
	for (uint32_t i = 0; i + 16 <= FLOOD_BYTES; i += 16) {
		struct agent_frame frame = {8, 0, AGENT_HELLO};
		uint32_t version = AGENT_VERSION;

		memcpy(output + i, &frame, 8);
		memcpy(output + i + 8, &version, 4);
		memcpy(output + i + 12, "name", 4);
	}
}

static const struct {
	const char *name;
	void (*fill)(void);
} floods[] = {
    {"console-flood/escapes", fill_escapes}, {"console-flood/ones", fill_ones},
    {"console-flood/zeroes", fill_zeroes},   {"console-flood/frames", fill_frames},
    {"console-flood/hello", fill_hello},
};

/* Write without an end, and see that the entropy device is served all the while. */
static void flood(struct worker *console, struct worker *rng, const char *name)
{
	uint64_t start = time_ns(), bytes = 0, served = 0;
	struct segment segment = {output, FLOOD_BYTES};
	uint32_t written;

	while (time_ns() - start < (served < REQUEST_MIN ? PATIENCE_NS : FLOOD_NS)) {
		for (; ring_take(&console->ring, &written) >= 0; bytes += FLOOD_BYTES)
			;
		while (ring_add(&console->ring, &segment, 1, 0) >= 0)
			;
		ring_kick(&console->ring);
		served += worker_works(rng);
	}
	printf("# %s: %lu KiB, %lu other requests\n", name, bytes >> 10, served);
	check(served >= REQUEST_MIN, name, "only %lu other requests were served", served);
}

int main(void)
{
	struct worker console, rng;

	output = memory_take(FLOOD_BYTES, 4096);
	if (!worker_find(&console, &worker_kinds[WORKER_CONSOLE]) ||
	    !worker_find(&rng, &worker_kinds[WORKER_RNG]) || !worker_start(&rng, 0))
		panic("a device is missing");
	for (unsigned i = 0; i < ARRAY_SIZE(floods); i++) {
		uintptr_t mark = memory_mark();

		floods[i].fill();
		if (!check(worker_start(&console, 0), "console-flood/start", "refused"))
			break;
		flood(&console, &rng, floods[i].name);
		check(worker_start(&console, 0) && worker_works(&console), "console-flood/reset",
		      "the console does not come back");
		virtio_reset(&console.dev);
		memory_release(mark);
	}
	return check_status();
}
