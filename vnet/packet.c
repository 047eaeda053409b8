/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A walk over the headers, each step of which first asks whether the next header lies within the
 * bytes that are there. Nothing is believed that two fields say differently. No state.
 */
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "vnet/checksum.h"
#include "vnet/iovec.h"
#include "vnet/packet.h"

#define ETHER_TYPE 12u
#define VLAN_SIZE  4u

size_t packet_copy(const struct frame *frame, uint8_t *header, size_t max)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	size_t len = iov_read(&at, header, max);

	memcpy(header, frame->eth, len < FRAME_HEADER ? len : FRAME_HEADER);
	return len;
}

/* IEEE 802.1Q, 9.6 */
unsigned packet_type(const uint8_t *header, size_t len, unsigned *l3)
{
	*l3 = FRAME_HEADER;
	for (unsigned tags = 0; *l3 <= len; *l3 += VLAN_SIZE, tags++) {
		unsigned type = packet_get16(header + *l3 - 2);

		if (type != ETH_P_8021Q && type != ETH_P_8021AD)
			return type;
		if (tags == PACKET_VLANS_MAX)
			break;
	}
	return 0;
}

/* RFC 791, 3.1 */
static bool walk_ipv4(struct packet *packet, const uint8_t *header, size_t len)
{
	const uint8_t *ip = header + packet->l3;
	unsigned size;

	if (packet->l3 + IPV4_SIZE > len || ip[0] >> 4 != 4)
		return false;
	size = (ip[0] & 0xf) * 4u;
	if (size < IPV4_SIZE || (packet_get16(ip + IPV4_FRAGMENT) & ~IPV4_RESERVED_OR_DF))
		return false;
	packet->version = 4;
	packet->protocol = ip[IPV4_PROTOCOL];
	packet->l4 = packet->l3 + size;
	packet->end = packet->l3 + packet_get16(ip + IPV4_TOTAL);
	return true;
}

/* RFC 8200, 4: options and routing headers are passed over; a fragment or what is encrypted ends
 * it. */
static bool walk_ipv6(struct packet *packet, const uint8_t *header, size_t len)
{
	const uint8_t *ip = header + packet->l3;
	size_t at = packet->l3 + IPV6_SIZE;
	uint8_t next;

	if (at > len || ip[0] >> 4 != 6)
		return false;
	next = ip[IPV6_NEXT];
	while (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS) {
		if (at + 8 > len)
			return false;
		next = header[at];
		at += (header[at + 1] + 1u) * 8;
	}
	if (at > len)
		return false;
	packet->version = 6;
	packet->protocol = next;
	packet->l4 = (unsigned)at;
	packet->end = packet->l3 + IPV6_SIZE + packet_get16(ip + IPV6_PAYLOAD);
	return true;
}

static bool walk_tcp(struct packet *packet, const uint8_t *header, size_t len)
{
	unsigned size;

	if (packet->l4 + TCP_SIZE > len)
		return false;
	size = (header[packet->l4 + TCP_OFFSET] >> 4) * 4u;
	packet->payload = packet->l4 + size;
	packet->csum_offset = TCP_CHECK;
	return size >= TCP_SIZE && packet->payload <= len && packet->payload <= packet->end;
}

static bool walk_udp(struct packet *packet, const uint8_t *header, size_t len)
{
	packet->payload = packet->l4 + UDP_SIZE;
	packet->csum_offset = UDP_CHECK;
	return packet->payload <= len && packet->payload <= packet->end &&
	       packet_get16(header + packet->l4 + UDP_LENGTH) == packet->end - packet->l4;
}

bool packet_parse(struct packet *packet, const uint8_t *header, size_t len)
{
	unsigned type = packet_type(header, len, &packet->l3);

	if (type == ETH_P_IP ? !walk_ipv4(packet, header, len)
			     : type != ETH_P_IPV6 || !walk_ipv6(packet, header, len))
		return false;
	if (packet->protocol == IPPROTO_TCP)
		return walk_tcp(packet, header, len);
	return packet->protocol == IPPROTO_UDP && walk_udp(packet, header, len);
}

uint16_t packet_pseudo(const struct packet *packet, const uint8_t *header, uint32_t len)
{
	const uint8_t *ip = header + packet->l3;
	uint32_t sum = (uint32_t)htons(packet->protocol) + htons(len & 0xffff) + htons(len >> 16);

	if (packet->version == 4)
		return checksum_add(sum, ip + IPV4_SOURCE, 8);
	return checksum_add(sum, ip + IPV6_SOURCE, 32);
}

void packet_resize(struct packet *packet, uint8_t *header, uint32_t end)
{
	uint8_t *ip = header + packet->l3;
	uint16_t sum;

	packet->end = end;
	if (packet->version == 4) {
		packet_put16(ip + IPV4_TOTAL, (uint16_t)(end - packet->l3));
		memset(ip + IPV4_CHECK, 0, sizeof(sum));
		sum = ~checksum_add(0, ip, packet->l4 - packet->l3);
		memcpy(ip + IPV4_CHECK, &sum, sizeof(sum));
	} else {
		packet_put16(ip + IPV6_PAYLOAD, (uint16_t)(end - packet->l3 - IPV6_SIZE));
	}
	if (packet->protocol == IPPROTO_UDP)
		packet_put16(header + packet->l4 + UDP_LENGTH, (uint16_t)(end - packet->l4));
}
