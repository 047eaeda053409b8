/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Packets come from strangers: nothing is read before its length is known to be there. The order of
 * the checks is the order of the bytes: fixed header, the options as one block, each option in it,
 * the frame. Options that are not critical are passed over (RFC 8926, 3.5): a peer may send what we
 * do not know. Pure functions, any thread.
 */
#include <stdbool.h>
#include <string.h>

#include "vnet/geneve.h"

void geneve_header_fill(struct geneve_header *header, uint32_t vni)
{
	*header = (struct geneve_header){
	    .protocol = {GENEVE_ETHERNET >> 8, GENEVE_ETHERNET & 0xff},
	    .vni = {vni >> 16 & 0xff, vni >> 8 & 0xff, vni & 0xff},
	};
}

/* Walk the block of options. Returns false when they do not fill it exactly; sets @critical. */
static bool options_check(const uint8_t *at, size_t len, bool *critical)
{
	while (len) {
		struct geneve_option option;
		size_t size;

		if (len < sizeof(option))
			return false;
		memcpy(&option, at, sizeof(option));
		size = sizeof(option) +
		       (option.length & GENEVE_OPTION_LENGTH_MASK) * GENEVE_OPTIONS_UNIT;
		if (len < size)
			return false;
		*critical = *critical || option.type & GENEVE_OPTION_CRITICAL;
		at += size;
		len -= size;
	}
	return true;
}

static bool header_is_ours(const struct geneve_header *header)
{
	return header->version_length >> GENEVE_VERSION_SHIFT == 0 &&
	       !(header->flags & GENEVE_CONTROL) && header->protocol[0] == GENEVE_ETHERNET >> 8 &&
	       header->protocol[1] == (GENEVE_ETHERNET & 0xff);
}

static size_t drop(enum drop_reason *reason, enum drop_reason why)
{
	*reason = why;
	return 0;
}

size_t geneve_parse(const uint8_t *packet, size_t len, uint32_t vni, enum drop_reason *reason)
{
	struct geneve_header header;
	size_t offset;
	bool critical;

	if (len < sizeof(header))
		return drop(reason, DROP_FORMAT);
	memcpy(&header, packet, sizeof(header));
	if (!header_is_ours(&header))
		return drop(reason, DROP_FORMAT);
	offset =
	    sizeof(header) + (header.version_length & GENEVE_LENGTH_MASK) * GENEVE_OPTIONS_UNIT;
	if (len < offset)
		return drop(reason, DROP_FORMAT);
	if (((uint32_t)header.vni[0] << 16 | (uint32_t)header.vni[1] << 8 | header.vni[2]) != vni)
		return drop(reason, DROP_FOREIGN);
	critical = header.flags & GENEVE_CRITICAL;
	if (!options_check(packet + sizeof(header), offset - sizeof(header), &critical))
		return drop(reason, DROP_FORMAT);
	if (critical)
		return drop(reason, DROP_OPTION);
	if (len - offset < FRAME_SIZE_MIN)
		return drop(reason, DROP_RUNT);
	if (len - offset > FRAME_SIZE_MAX)
		return drop(reason, DROP_OVERSIZE);
	return offset;
}
