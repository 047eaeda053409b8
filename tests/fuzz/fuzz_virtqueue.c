/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any bytes as a ring, worked by any sequence of calls while the guest writes to it in between.
 *
 * Input: byte 0, bit 0 EVENT_IDX, bit 1 INDIRECT_DESC; byte 1, log2 of the ring's size (mod 8);
 * bytes 2 and 3, little endian, length of the image that is laid over the ring (descriptors,
 * available, used, then what indirect tables may use); the image; then operations, one byte each,
 * see operation_run().
 *
 * What must hold: every segment lies in RAM, none is empty, the sums are right, a broken ring stays
 * broken.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/ring_driver.h"

#define MEMORY_BYTES (1u << 20)
#define RING_GPA     0x1000u
#define IMAGE_MAX    0x8000u
#define SEGMENTS     64u

struct input {
	const uint8_t *data;
	size_t left;
};

struct rig {
	struct guest_memory mem;
	struct virtqueue vq;
	struct iovec iov[SEGMENTS];
	uint16_t heads[VIRTQUEUE_SIZE_MAX]; /* in flight, a stack */
	unsigned in_flight;
	uint64_t sum; /* of all bytes read, so that the reads are made */
};

static void require(bool condition)
{
	if (!condition)
		abort();
}

static uint8_t input_byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

static uint16_t input_word(struct input *in)
{
	uint16_t low = input_byte(in);

	return low | input_byte(in) << 8;
}

/* The device reads a byte at either end of each segment, and writes where it may. */
static void segments_use(struct rig *r, const struct vq_chain *chain)
{
	unsigned n = chain->out_count + chain->in_count;
	uint64_t total = 0;

	require(n <= SEGMENTS && chain->head < r->vq.size);
	for (unsigned i = 0; i < n; i++) {
		volatile uint8_t *base = r->iov[i].iov_base;
		size_t len = r->iov[i].iov_len;

		require(len && base >= r->mem.base && base < r->mem.base + r->mem.size);
		require(len <= (size_t)(r->mem.base + r->mem.size - base));
		r->sum += base[0] + base[len - 1];
		if (i >= chain->out_count)
			base[len - 1] = (uint8_t)r->sum;
		total += len;
	}
	require(total == chain->out_len + chain->in_len && total <= 1ull << 32);
}

static void pop(struct rig *r, struct input *in)
{
	unsigned max = input_byte(in) % (SEGMENTS + 1);
	bool was_broken = r->vq.broken;
	struct vq_chain chain;
	int result = virtqueue_pop(&r->vq, &chain, r->iov, max);

	require(result == 1 || result == 0 || (result < 0 && r->vq.broken));
	require(!was_broken || result < 0);
	if (result != 1)
		return;
	require(chain.out_count + chain.in_count <= max);
	require(r->in_flight < r->vq.size);
	segments_use(r, &chain);
	r->heads[r->in_flight++] = chain.head;
}

static void push(struct rig *r)
{
	if (r->in_flight)
		virtqueue_push(&r->vq, r->heads[--r->in_flight], (uint32_t)r->sum);
}

static void unpop(struct rig *r, struct input *in)
{
	unsigned n = r->in_flight ? input_byte(in) % (r->in_flight + 1) : 0;

	r->in_flight -= n;
	virtqueue_unpop(&r->vq, n);
}

/* The guest writes a word anywhere in the image. */
static void poke(struct rig *r, struct input *in)
{
	uint64_t offset = input_word(in) % IMAGE_MAX & ~1u;
	uint16_t *word = guest_range(&r->mem, RING_GPA + offset, sizeof(*word));

	*word = input_word(in);
}

static void restart(struct rig *r)
{
	r->in_flight = 0;
	virtqueue_stop(&r->vq);
	require(virtqueue_start(&r->vq) == 0);
}

static void operation_run(struct rig *r, struct input *in)
{
	switch (input_byte(in) % 8) {
	case 0:
		pop(r, in);
		break;
	case 1:
		push(r);
		break;
	case 2:
		unpop(r, in);
		break;
	case 3:
		virtqueue_publish(&r->vq);
		break;
	case 4:
		virtqueue_notify_on(&r->vq);
		break;
	case 5:
		virtqueue_notify_off(&r->vq);
		break;
	case 6:
		poke(r, in);
		break;
	case 7:
		restart(r);
		break;
	}
	require(!r->vq.broken || !virtqueue_pending(&r->vq));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct rig r = {0};
	struct ring_driver drv;
	uint8_t features = input_byte(&in);
	uint16_t entries = 1u << input_byte(&in) % 8;
	size_t image = input_word(&in);

	require(memory_create(&r.mem, MEMORY_BYTES, false) == 0);
	ring_driver_init(&drv, &r.mem, RING_GPA, entries, features & 1);
	ring_driver_bind(&drv, &r.vq);
	r.vq.indirect = features & 2;
	image = image < IMAGE_MAX ? image : IMAGE_MAX;
	image = image < in.left ? image : in.left;
	memcpy(guest_range(&r.mem, RING_GPA, image), in.data, image);
	in.data += image;
	in.left -= image;
	require(virtqueue_start(&r.vq) == 0);
	while (in.left)
		operation_run(&r, &in);
	memory_destroy(&r.mem);
	return 0;
}
