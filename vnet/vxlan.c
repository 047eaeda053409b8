/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * VXLAN says no more than which overlay a frame belongs to. Reserved bits are zero when sent and
 * ignored when received (RFC 7348, 5). Pure functions, any thread.
 */
#include <assert.h>
#include <string.h>

#include "vnet/vxlan.h"

#define VXLAN_VNI_VALID 0x08u /* I */

/* RFC 7348, 5 */
struct vxlan_header {
	uint8_t flags;
	uint8_t reserved[3];
	uint8_t vni[3];
	uint8_t reserved_too;
};
static_assert(sizeof(struct vxlan_header) == VXLAN_HEADER, "RFC 7348, 5");

size_t vxlan_build(uint8_t header[VXLAN_HEADER], uint32_t vni)
{
	const struct vxlan_header fixed = {
	    .flags = VXLAN_VNI_VALID,
	    .vni = {vni >> 16 & 0xff, vni >> 8 & 0xff, vni & 0xff},
	};

	memcpy(header, &fixed, sizeof(fixed));
	return sizeof(fixed);
}

static size_t drop(enum drop_reason *reason, enum drop_reason why)
{
	*reason = why;
	return 0;
}

size_t vxlan_parse(const uint8_t *packet, size_t len, uint32_t vni, enum drop_reason *reason)
{
	struct vxlan_header header;

	if (len < sizeof(header))
		return drop(reason, DROP_FORMAT);
	memcpy(&header, packet, sizeof(header));
	if (!(header.flags & VXLAN_VNI_VALID))
		return drop(reason, DROP_FORMAT);
	if (((uint32_t)header.vni[0] << 16 | (uint32_t)header.vni[1] << 8 | header.vni[2]) != vni)
		return drop(reason, DROP_FOREIGN);
	if (len - sizeof(header) < FRAME_SIZE_MIN)
		return drop(reason, DROP_RUNT);
	if (len - sizeof(header) > FRAME_SIZE_MAX)
		return drop(reason, DROP_OVERSIZE);
	return sizeof(header);
}
