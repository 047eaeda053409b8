/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any sequence of parts of frames. The input is a list of steps, each a byte of which the low two
 * bits say what to do: 0  a part: its id (the other six bits and a byte), then big endian its total
 * (3 bytes), offset (3), length (2) 1  the end of a batch 2  time passes: 2 bytes, in thousandths
 * of a timeout 3  the finished frames are released What a part holds follows from its place in the
 * frame, so that every finished frame can be checked. The memory is counted: nothing is allocated
 * but at creation, and then no more than was allowed.
 */
#include <sanitizer/allocator_interface.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/fragment.h"
#include "vnet/iovec.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TIMEOUT	  1000000u
#define PART_SIZE 10u	/* bytes of that step */
#define PARTS_MAX 4096u /* in a batch */

struct run {
	struct reassembly *r;
	struct port_counters counters;
	uint64_t now;
	size_t allocated; /* bytes, without the parts */
	size_t batch_bytes;
	uint64_t parts, finished;
	void *batch[PARTS_MAX];
	unsigned batch_count;
};

static void check(bool good)
{
	if (!good)
		abort();
}

/* Where the content of a frame from @offset on is to be found; as much as a part can be long. */
static const uint8_t *content(uint32_t id, uint32_t offset)
{
	static uint8_t bytes[256 + FRAME_SIZE_MAX + UINT16_MAX];

	for (uint32_t i = 0, noise = 1; !bytes[0] && i < sizeof(bytes); i++) {
		noise = noise * 1664525u + 1013904223u;
		bytes[sizeof(bytes) - 1 - i] = (uint8_t)(noise >> 24 | 1);
	}
	return bytes + id % 256 + (offset < FRAME_SIZE_MAX ? offset : FRAME_SIZE_MAX);
}

static uint32_t get24(const uint8_t *from)
{
	return (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];
}

/* What this thread has allocated, less what it has freed. The fuzzer has a thread of its own, whose
 * memory is none of ours. */
static _Thread_local size_t allocated;

static void on_malloc(const volatile void *memory, size_t size)
{
	(void)memory;
	allocated += size;
}

static void on_free(const volatile void *memory)
{
	allocated -= __sanitizer_get_allocated_size(memory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	check(__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free));
	return 0;
}

static void allocated_check(const struct run *run)
{
	check(allocated == run->allocated + run->batch_bytes);
}

static void batch_free(struct run *run)
{
	while (run->batch_count)
		free(run->batch[--run->batch_count]);
	run->batch_bytes = 0;
}

static void flush(struct run *run)
{
	reassembly_flush(run->r, run->now, &run->counters);
	allocated_check(run);
	check(reassembly_next(run->r) > run->now);
	batch_free(run);
}

static void frame_check(struct run *run, const struct frame *frame, const struct fragment *where)
{
	static uint8_t joined[FRAME_SIZE_MAX + 1];
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);

	check(frame->len == where->total && frame->iovcnt <= FRAGMENT_PARTS_MAX);
	check(iov_read(&at, joined, sizeof(joined)) == frame->len);
	check(!memcmp(joined, content(where->id, 0), frame->len));
	check(!memcmp(frame->eth, joined, FRAME_HEADER));
	check(frame->hops == where->id % FRAME_HOPS_MAX + 1);
	run->finished++;
}

static void part(struct run *run, const uint8_t *step)
{
	const struct fragment where = {
	    .id = (uint32_t)(step[0] >> 2) << 8 | step[1],
	    .total = get24(step + 2),
	    .offset = get24(step + 5),
	};
	size_t len = (size_t)step[8] << 8 | step[9];
	uint8_t hops = where.offset ? 0 : (uint8_t)(where.id % FRAME_HOPS_MAX + 1);
	uint8_t *bytes = malloc(len ? len : 1);
	const struct frame *frame;

	check(bytes);
	memcpy(bytes, content(where.id, where.offset), len);
	run->batch[run->batch_count++] = bytes;
	run->batch_bytes += len ? len : 1;
	run->parts++;
	frame = reassembly_add(run->r, &where, bytes, len, &(struct frame_offload){0}, hops,
			       run->now, &run->counters);
	allocated_check(run);
	if (frame)
		frame_check(run, frame, &where);
}

static void steps(struct run *run, const uint8_t *data, size_t size)
{
	while (size) {
		size_t used = 1;

		if ((*data & 3) == 0 && size >= PART_SIZE) {
			part(run, data);
			used = PART_SIZE;
		} else if ((*data & 3) == 2 && size >= 3) {
			run->now += (uint64_t)(data[1] << 8 | data[2]) * (TIMEOUT / 1000);
			used = 3;
		} else if ((*data & 3) == 3) {
			reassembly_release(run->r);
		}
		if ((*data & 3) == 1 || run->batch_count == PARTS_MAX)
			flush(run);
		data += used;
		size -= used;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct run run;
	const uint64_t *drops = run.counters.drops;
	size_t before = allocated;

	memset(&run, 0, sizeof(run));
	run.r = reassembly_create(REASSEMBLY_MEMORY_MIN + 200000, TIMEOUT);
	check(run.r);
	run.allocated = allocated;
	check(run.allocated - before <= REASSEMBLY_MEMORY_MIN + 200000);
	check(reassembly_memory(run.r) <= REASSEMBLY_MEMORY_MIN + 200000);

	steps(&run, data, size);
	run.now += TIMEOUT;
	flush(&run);
	check(reassembly_next(run.r) == UINT64_MAX);
	/* Each part is of one frame, and a frame ends once. */
	check(run.finished + drops[DROP_FRAGMENT] + drops[DROP_MEMORY] <= run.parts);
	reassembly_destroy(run.r);
	check(allocated == before);
	return 0;
}
