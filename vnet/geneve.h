/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Geneve (RFC 8926): the header in front of a frame on the wire, and every structure of it. */
#ifndef WEFT_GENEVE_H
#define WEFT_GENEVE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/fragment.h"
#include "vnet/frame.h"
#include "vnet/port.h"

#define GENEVE_UDP_PORT 6081u	  /* RFC 8926, 3.3 */
#define GENEVE_VNI_MAX	0xffffffu /* an overlay's id, 24 bits */
#define GENEVE_ETHERNET 0x6558u	  /* protocol type: an Ethernet frame */
#define GENEVE_SESSION	0x88b5u /* protocol type: a session message (IEEE 802, local experiments)  \
				 */
#define GENEVE_OPTIONS_UNIT 4u	/* lengths of options count in this many bytes */
#define GENEVE_HEADER_MAX   64u /* the longest that geneve_build() makes, and some to spare */

/* The fixed header, RFC 8926, 3.4; fields of more than a byte are big endian. */
struct geneve_header {
	uint8_t version_length; /* version: 2 bits, 0; length of all options: 6 bits, in units */
	uint8_t flags;		/* GENEVE_CONTROL, GENEVE_CRITICAL; the rest is ignored */
	uint8_t protocol[2];
	uint8_t vni[3];
	uint8_t reserved;
};
static_assert(sizeof(struct geneve_header) == 8, "RFC 8926, 3.4");

#define GENEVE_VERSION_SHIFT 6
#define GENEVE_LENGTH_MASK   0x3fu
#define GENEVE_CONTROL	     0x80u /* O: a control message, no data of the overlay */
#define GENEVE_CRITICAL	     0x40u /* C: at least one option is critical */

/* The start of an option, RFC 8926, 3.5; its data follows. */
struct geneve_option {
	uint8_t class[2];
	uint8_t type;	/* GENEVE_OPTION_CRITICAL and 7 bits */
	uint8_t length; /* 3 reserved bits, then the length of the data: 5 bits, in units */
};
static_assert(sizeof(struct geneve_option) == 4, "RFC 8926, 3.5");

#define GENEVE_OPTION_CRITICAL	  0x80u /* who does not know the option drops the packet */
#define GENEVE_OPTION_LENGTH_MASK 0x1fu

/*
 * weft's own options. Their class is one of 0xff00..0xffff, which RFC 8926, 7 leaves to
 * experiments: nobody owns it, so weft sends them only to a peer that said in its hello that it is
 * weft.
 */
#define GENEVE_WEFT_CLASS 0xff57u

enum geneve_weft_type {
	GENEVE_WEFT_OFFLOAD = GENEVE_OPTION_CRITICAL | 1,
	GENEVE_WEFT_PART = GENEVE_OPTION_CRITICAL | 2,
	GENEVE_WEFT_HOPS = GENEVE_OPTION_CRITICAL | 3,
};

/* What is still to be done to the frame: struct frame_offload. */
struct geneve_weft_offload {
	uint8_t flags;
	uint8_t gso_type;
	uint8_t hdr_len[2];
	uint8_t gso_size[2];
	uint8_t csum_start[2];
	uint8_t csum_offset[2];
	uint8_t reserved[2]; /* 0 */
};
static_assert(sizeof(struct geneve_weft_offload) == 12, "docs/wire-format.md");

/* Which part of a longer frame this is: struct fragment. */
struct geneve_weft_part {
	uint8_t id[4];
	uint8_t total[4];
	uint8_t offset[4];
};
static_assert(sizeof(struct geneve_weft_part) == 12, "docs/wire-format.md");

struct geneve_weft_hops {
	uint8_t hops;	     /* 1..FRAME_HOPS_MAX - 1 */
	uint8_t reserved[3]; /* 0 */
};
static_assert(sizeof(struct geneve_weft_hops) == 4, "docs/wire-format.md");

static_assert(sizeof(struct geneve_header) + 3 * sizeof(struct geneve_option) +
		      sizeof(struct geneve_weft_offload) + sizeof(struct geneve_weft_part) +
		      sizeof(struct geneve_weft_hops) <=
		  GENEVE_HEADER_MAX,
	      "every option at once");

/* What weft adds to plain Geneve; all zero is plain. */
struct geneve_extras {
	bool control;		      /* O bit: a session message, not a frame; alone */
	bool part;		      /* is a part of a frame: where */
	uint8_t hops;		      /* 0 and FRAME_HOPS_MAX: no option, parsed as 0 */
	struct frame_offload offload; /* flags or gso_type nonzero: present as an option */
	struct fragment where;
};

/* geneve_size - how long the header is that geneve_build() makes, bytes. */
size_t geneve_size(const struct geneve_extras *extras);

/**
 * geneve_build - the header of a packet.
 * @vni:    0..GENEVE_VNI_MAX
 * @extras: NULL is plain. Later parts of a frame (offset not 0) carry neither offload nor hops.
 * Returns its length in bytes.
 */
size_t geneve_build(uint8_t header[GENEVE_HEADER_MAX], uint32_t vni,
		    const struct geneve_extras *extras);

/**
 * geneve_parse - find what a packet from the wire carries.
 * @packet: what followed the outer header
 * @len:    bytes
 * @vni:    the overlay whose frames are wanted
 * @extras: set when the packet is taken
 * @reason: set when the packet is to be dropped
 *
 * Returns the payload's offset in bytes, or 0. The payload is a frame of
 * FRAME_SIZE_MIN..FRAME_SIZE_MAX bytes; with extras->part a part of one and with extras->control a
 * session message, each of any length (0 too).
 * - DROP_FORMAT: shorter than its headers say, another version or protocol, options that do not
 * fill their space exactly
 * - DROP_FOREIGN: another overlay's
 * - DROP_OPTION: an unknown critical option; one of ours twice, of the wrong length, without sense
 * or in contradiction to the rest of the header
 * - DROP_RUNT, DROP_OVERSIZE: the frame inside is no frame
 */
size_t geneve_parse(const uint8_t *packet, size_t len, uint32_t vni, struct geneve_extras *extras,
		    enum drop_reason *reason);

#endif
