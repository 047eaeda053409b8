/* SPDX-License-Identifier: GPL-2.0-or-later */
/* VXLAN (RFC 7348): the header in front of a frame for peers that speak no Geneve. */
#ifndef WEFT_VXLAN_H
#define WEFT_VXLAN_H

#include <stddef.h>
#include <stdint.h>

#include "vnet/port.h"

#define VXLAN_UDP_PORT 4789u /* RFC 7348, 5 */
#define VXLAN_HEADER   8u    /* bytes */

/* vxlan_build - the header of a frame. @vni: an overlay's id, 24 bits. Returns its length,
 * VXLAN_HEADER. */
size_t vxlan_build(uint8_t header[VXLAN_HEADER], uint32_t vni);

/**
 * vxlan_parse - find the Ethernet frame in a packet from the wire.
 * @packet: what followed the outer UDP header
 * @len:    bytes
 * @vni:    the overlay whose frames are wanted
 * @reason: set when the packet is to be dropped
 *
 * Returns the frame's offset in bytes (a frame of FRAME_SIZE_MIN..FRAME_SIZE_MAX bytes is there),
 * or 0:
 * - DROP_FORMAT: shorter than the header, or no valid VNI in it (the I flag)
 * - DROP_FOREIGN: another overlay's
 * - DROP_RUNT, DROP_OVERSIZE: the frame inside is no frame
 */
size_t vxlan_parse(const uint8_t *packet, size_t len, uint32_t vni, enum drop_reason *reason);

#endif
