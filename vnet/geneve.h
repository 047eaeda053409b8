/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Geneve (RFC 8926): the header in front of a frame on the wire, and every structure of it. */
#ifndef WEFT_GENEVE_H
#define WEFT_GENEVE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/port.h"

#define GENEVE_UDP_PORT      6081u         /* RFC 8926, 3.3 */
#define GENEVE_VNI_MAX       0xffffffu     /* an overlay's id, 24 bits */
#define GENEVE_ETHERNET      0x6558u       /* protocol type: an Ethernet frame */
#define GENEVE_OPTIONS_UNIT  4u            /* lengths of options count in this many bytes */

/* The fixed header, RFC 8926, 3.4; fields of more than a byte are big endian. */
struct geneve_header {
	uint8_t version_length; /* version: 2 bits, 0; length of all options: 6 bits, in units */
	uint8_t flags;          /* GENEVE_CONTROL, GENEVE_CRITICAL; the rest is ignored */
	uint8_t protocol[2];
	uint8_t vni[3];
	uint8_t reserved;
};
static_assert(sizeof(struct geneve_header) == 8, "RFC 8926, 3.4");

#define GENEVE_VERSION_SHIFT 6
#define GENEVE_LENGTH_MASK   0x3fu
#define GENEVE_CONTROL       0x80u /* O: a control message, no data of the overlay */
#define GENEVE_CRITICAL      0x40u /* C: at least one option is critical */

/* The start of an option, RFC 8926, 3.5; its data follows. */
struct geneve_option {
	uint8_t class[2];
	uint8_t type;   /* GENEVE_OPTION_CRITICAL and 7 bits */
	uint8_t length; /* 3 reserved bits, then the length of the data: 5 bits, in units */
};
static_assert(sizeof(struct geneve_option) == 4, "RFC 8926, 3.5");

#define GENEVE_OPTION_CRITICAL    0x80u /* who does not know the option drops the packet */
#define GENEVE_OPTION_LENGTH_MASK 0x1fu

/* geneve_header_fill - the header of a frame without options. @vni: 0..GENEVE_VNI_MAX */
void geneve_header_fill(struct geneve_header *header, uint32_t vni);

/**
 * geneve_parse - find the Ethernet frame in a packet from the wire.
 * @packet: what followed the outer header
 * @len:    bytes
 * @vni:    the overlay whose frames are wanted
 * @reason: set when the packet is to be dropped
 *
 * Returns the frame's offset in bytes (a frame of FRAME_SIZE_MIN..FRAME_SIZE_MAX bytes is there), or 0:
 * - DROP_FORMAT: shorter than its headers say, another version or protocol, a control message, options
 *   that do not fill their space exactly
 * - DROP_FOREIGN: another overlay's
 * - DROP_OPTION: a critical option, none of which is known
 * - DROP_RUNT, DROP_OVERSIZE: the frame inside is no frame
 */
size_t geneve_parse(const uint8_t *packet, size_t len, uint32_t vni, enum drop_reason *reason);

#endif
