/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any bytes as a packet of a tunnel, Geneve and VXLAN; the first three are the overlay's id. */
#include <stdlib.h>
#include <string.h>

#include "vnet/geneve.h"
#include "vnet/vxlan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

/* Touch the ends of what is said to be a frame. */
static void frame_check(const uint8_t *frame, size_t len)
{
	volatile uint8_t byte;

	check(len >= FRAME_SIZE_MIN && len <= FRAME_SIZE_MAX);
	byte = frame[0];
	byte = frame[len - 1];
	(void)byte;
}

static bool offload_equal(const struct frame_offload *a, const struct frame_offload *b)
{
	return a->flags == b->flags && a->gso_type == b->gso_type && a->hdr_len == b->hdr_len &&
	       a->gso_size == b->gso_size && a->csum_start == b->csum_start &&
	       a->csum_offset == b->csum_offset;
}

/* What was understood can be said again, and is understood as the same. */
static void extras_check(const struct geneve_extras *extras, uint32_t vni)
{
	uint8_t packet[GENEVE_HEADER_MAX + FRAME_SIZE_MIN] = {0};
	size_t offset = geneve_build(packet, vni, extras);
	enum drop_reason reason;
	struct geneve_extras again;

	check(offset == geneve_size(extras) && offset <= GENEVE_HEADER_MAX);
	check(geneve_parse(packet, offset + FRAME_SIZE_MIN, vni, &again, &reason) == offset);
	check(again.control == extras->control && again.part == extras->part &&
	      again.hops == extras->hops && offload_equal(&again.offload, &extras->offload) &&
	      again.where.id == extras->where.id && again.where.total == extras->where.total &&
	      again.where.offset == extras->where.offset);
}

static void geneve_check(const uint8_t *packet, size_t size, uint32_t vni)
{
	enum drop_reason reason = DROP_REASONS;
	struct geneve_extras extras;
	size_t offset = geneve_parse(packet, size, vni, &extras, &reason);

	check((reason == DROP_REASONS) == (offset != 0) && offset <= size);
	if (!offset)
		return;
	if (!extras.part && !extras.control)
		frame_check(packet + offset, size - offset);
	if (extras.part)
		check(extras.where.offset < extras.where.total &&
		      extras.where.total <= FRAME_SIZE_MAX);
	extras_check(&extras, vni);
}

static void vxlan_check(const uint8_t *packet, size_t size, uint32_t vni)
{
	enum drop_reason reason = DROP_REASONS;
	size_t offset = vxlan_parse(packet, size, vni, &reason);

	check((reason == DROP_REASONS) == (offset != 0));
	if (offset)
		frame_check(packet + offset, size - offset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t vni;
	uint8_t *packet;

	if (size < 3)
		return 0;
	vni = (uint32_t)data[0] << 16 | (uint32_t)data[1] << 8 | data[2];
	size -= 3;
	packet = malloc(size ? size : 1); /* exactly as long, so that a sanitizer sees its end */
	if (!packet)
		return 0;
	memcpy(packet, data + 3, size);
	geneve_check(packet, size, vni);
	vxlan_check(packet, size, vni);
	free(packet);
	return 0;
}
