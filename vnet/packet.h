/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where things are in a frame that carries one whole TCP segment or UDP datagram over IPv4 or IPv6:
 * what segmentation and joining both need. Works on a private copy of the frame's first bytes.
 */
#ifndef WEFT_PACKET_H
#define WEFT_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/frame.h"

#define PACKET_HEADERS_MAX                                                                         \
	256u		    /* Ethernet, two tags, IP with options or extension headers, TCP       \
			     */
#define PACKET_VLANS_MAX 2u /* IEEE 802.1Q inside of 802.1ad */

#define IPV4_RESERVED_OR_DF 0xc000u /* the rest of that field is not 0 in a fragment */

/* Offsets of fields in their headers: RFC 791, 8200, 9293, 768. */
enum {
	IPV4_TOTAL = 2,
	IPV4_ID = 4,
	IPV4_FRAGMENT = 6,
	IPV4_TTL = 8,
	IPV4_PROTOCOL = 9,
	IPV4_CHECK = 10,
	IPV4_SOURCE = 12,
	IPV4_SIZE = 20, /* without options */
	IPV6_PAYLOAD = 4,
	IPV6_NEXT = 6,
	IPV6_SOURCE = 8,
	IPV6_SIZE = 40,
	TCP_SEQUENCE = 4,
	TCP_ACK = 8,
	TCP_OFFSET = 12,
	TCP_FLAGS = 13,
	TCP_WINDOW = 14,
	TCP_CHECK = 16,
	TCP_URGENT = 18,
	TCP_SIZE = 20, /* without options */
	UDP_LENGTH = 4,
	UDP_CHECK = 6,
	UDP_SIZE = 8,
};

/* A parsed packet; offsets from the frame's start, in bytes. */
struct packet {
	uint8_t version;      /* 4 or 6 */
	uint8_t protocol;     /* IPPROTO_TCP or IPPROTO_UDP */
	unsigned l3;	      /* the IP header */
	unsigned l4;	      /* the TCP or UDP header */
	unsigned payload;     /* behind it */
	uint32_t end;	      /* where the packet ends, says IP; behind it is padding */
	unsigned csum_offset; /* of the checksum, from l4 */
};

/*
 * packet_copy - copy the first bytes of a frame, up to @max, into @header, with the Ethernet header
 * as it was routed. Returns their number.
 */
size_t packet_copy(const struct frame *frame, uint8_t *header, size_t max);

/*
 * packet_type - the EtherType behind up to PACKET_VLANS_MAX tags, or 0 if it is not among the first
 * @len bytes, at least FRAME_HEADER. @l3: where its header begins, at most @len.
 */
unsigned packet_type(const uint8_t *header, size_t len, unsigned *l3);

/**
 * packet_parse - find the headers of a TCP segment or UDP datagram.
 * @header: the frame's first @len bytes; headers must end within them
 *
 * Returns false when it is something else, a fragment, or lengths contradict each other: IHL,
 * extension headers, TCP data offset, UDP length. It has not been compared with the frame's length:
 * see @end.
 */
bool packet_parse(struct packet *packet, const uint8_t *header, size_t len);

/*
 * packet_pseudo - the sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) for @len bytes from
 * l4 on. Not for packets with a routing header, whose destination is elsewhere.
 */
uint16_t packet_pseudo(const struct packet *packet, const uint8_t *header, uint32_t len);

/* packet_resize - the packet now ends at @end: its lengths, and the IPv4 header's checksum, are
 * written. */
void packet_resize(struct packet *packet, uint8_t *header, uint32_t end);

static inline uint16_t packet_get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void packet_put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline uint32_t packet_get32(const uint8_t *at)
{
	return (uint32_t)packet_get16(at) << 16 | packet_get16(at + 2);
}

static inline void packet_put32(uint8_t *at, uint32_t value)
{
	packet_put16(at, (uint16_t)(value >> 16));
	packet_put16(at + 2, (uint16_t)value);
}

#endif
