/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any frame with any offload state: ten bytes of state, one for where the frame is cut into
 * segments, then the frame. What offload_check() accepts is split; each piece must be finished;
 * pieces joined and split again must be the same pieces.
 */
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/offload.h"

#define PREFIX (sizeof(struct frame_offload) + 1)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A frame in memory that is exactly as long, in two segments. */
struct lone {
	struct frame frame;
	struct iovec iov[2];
	uint8_t *bytes[2];
};

static void demand(bool truth)
{
	if (!truth)
		abort();
}

static void lone_make(struct lone *lone, const uint8_t *bytes, uint32_t len, uint32_t cut)
{
	uint32_t lens[2] = {cut < len ? cut : len, cut < len ? len - cut : 0};

	*lone = (struct lone){.frame = {.iov = lone->iov, .iovcnt = 2, .len = len}};
	for (unsigned i = 0; i < 2; i++) {
		lone->bytes[i] = malloc(lens[i] + !lens[i]);
		demand(lone->bytes[i]);
		memcpy(lone->bytes[i], bytes + (i ? lens[0] : 0), lens[i]);
		lone->iov[i] = (struct iovec){lone->bytes[i], lens[i]};
	}
	memcpy(lone->frame.eth, bytes, FRAME_HEADER);
}

static void lone_free(struct lone *lone)
{
	free(lone->bytes[0]);
	free(lone->bytes[1]);
}

static void flatten(const struct frame *frame, uint8_t *to)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < frame->iovcnt; i++) {
		demand(n + frame->iov[i].iov_len <= frame->len);
		memcpy(to + n, frame->iov[i].iov_base, frame->iov[i].iov_len);
		n += (uint32_t)frame->iov[i].iov_len;
	}
	demand(n == frame->len);
	demand(!memcmp(to, frame->eth, FRAME_HEADER));
}

/*
 * Nothing is left to do, and the checksum is the complement of the sum over what it covers, in
 * which the sender's partial sum took its place. Slowly, and modulo 65535, where 0xffff is 0.
 */
static void demand_finished(const struct frame *whole, const struct frame *piece)
{
	static uint8_t bytes[FRAME_SIZE_MAX];
	const struct frame_offload *offload = &whole->offload;
	uint32_t start = offload->csum_start, field = start + offload->csum_offset;
	uint32_t sum = piece->len + 2 * 65535 - whole->len;

	demand(piece->len <= whole->len && offload_check(piece) && !offload_needs(piece));
	flatten(piece, bytes);
	if (!(offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || offload->csum_offset % 2)
		return; /* a field at an odd place adds its bytes exchanged */
	for (uint32_t i = start; i < piece->len; i++)
		sum += (i - start) % 2 ? bytes[i] : bytes[i] << 8;
	flatten(whole, bytes);
	demand((sum + (bytes[field] << 8) + bytes[field + 1]) % 65535 == 0);
}

static struct offload_split *split, *again;
static struct offload_merge *merge;

/* Split the joined frames again: these must be the pieces they were made of, in order. */
static void demand_same(struct lone *pieces, unsigned n, struct frame *joined[], unsigned joined_n)
{
	static uint8_t a[FRAME_SIZE_MAX], b[FRAME_SIZE_MAX];
	unsigned seen = 0;

	for (unsigned i = 0; i < joined_n; i++) {
		struct frame *cut[FRAME_BATCH_MAX];
		unsigned count;

		demand(offload_check(joined[i]));
		offload_split_start(again, joined[i]);
		while ((count = offload_split_next(again, cut, FRAME_BATCH_MAX)))
			for (unsigned k = 0; k < count; k++, seen++) {
				demand(seen < n && cut[k]->len == pieces[seen].frame.len);
				flatten(cut[k], a);
				flatten(&pieces[seen].frame, b);
				demand(!memcmp(a, b, cut[k]->len));
			}
	}
	demand(seen == n);
}

static void join_and_compare(struct frame *cut[], unsigned n)
{
	static struct lone pieces[FRAME_BATCH_MAX];
	static uint8_t bytes[FRAME_SIZE_MAX];
	struct frame *frames[FRAME_BATCH_MAX];

	for (unsigned i = 0; i < n; i++) {
		flatten(cut[i], bytes);
		lone_make(&pieces[i], bytes, cut[i]->len, 64);
		frames[i] = &pieces[i].frame;
	}
	demand_same(pieces, n, frames, offload_merge_batch(merge, frames, n, PORT_OFFLOADS));
	for (unsigned i = 0; i < n; i++)
		lone_free(&pieces[i]);
}

static void split_and_join(const struct frame *frame)
{
	struct frame *cut[FRAME_BATCH_MAX];
	uint32_t total = 0;
	unsigned n;

	offload_split_start(split, frame);
	while ((n = offload_split_next(split, cut, FRAME_BATCH_MAX))) {
		for (unsigned i = 0; i < n; i++) {
			demand_finished(frame, cut[i]);
			total += cut[i]->len;
		}
		join_and_compare(cut, n);
	}
	demand(total >= frame->len);
}

/* Plain frames that lie about themselves. */
static void join_hostile(const struct frame *frame)
{
	struct frame one = *frame, two = *frame, *frames[] = {&one, &two};

	one.offload = two.offload = (struct frame_offload){0};
	demand(offload_merge_batch(merge, frames, 2, PORT_OFFLOADS) >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lone lone;

	if (size < PREFIX + FRAME_SIZE_MIN || size > PREFIX + FRAME_SIZE_MAX)
		return 0;
	if (!split) {
		split = offload_split_create();
		again = offload_split_create();
		merge = offload_merge_create();
	}
	lone_make(&lone, data + PREFIX, (uint32_t)(size - PREFIX), data[PREFIX - 1]);
	memcpy(&lone.frame.offload, data, sizeof(struct frame_offload));
	if (offload_check(&lone.frame))
		split_and_join(&lone.frame);
	join_hostile(&lone.frame);
	lone_free(&lone);
	return 0;
}
