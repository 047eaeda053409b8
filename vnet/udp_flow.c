/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which flow a frame belongs to. Reads a copy of the first bytes, since a guest may rewrite them
 * meanwhile; what is there is not judged: nonsense hashes as well as anything. Pure, any thread.
 */
#include <net/ethernet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

#include "vnet/iovec.h"
#include "vnet/udp_flow.h"

#define HEADERS	       78u /* bytes: Ethernet, IPv4 with all options or IPv6, ports */
#define IPV4_PROTOCOL  9u
#define IPV4_FRAGMENT  6u
#define IPV4_ADDRESSES 12u
#define IPV6_PROTOCOL  6u
#define IPV6_ADDRESSES 8u
#define IPV6_HEADER    40u

static uint32_t mix(uint32_t hash, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i += 2)
		hash = (hash ^ ((uint32_t)data[i] << 8 | data[i + 1])) * 0x9e3779b1u;
	return hash ^ hash >> 15;
}

static uint32_t mix_ports(uint32_t hash, uint8_t protocol, const uint8_t *ports)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP ? mix(hash, ports, 4) : hash;
}

static uint32_t mix_ipv4(uint32_t hash, const uint8_t *ip)
{
	const uint8_t *fragment = ip + IPV4_FRAGMENT;

	hash = mix(hash, ip + IPV4_ADDRESSES, 8);
	if (fragment[0] & 0x3f || fragment[1]) /* more fragments, or not at 0 */
		return hash;
	return mix_ports(hash, ip[IPV4_PROTOCOL], ip + (ip[0] & 0xfu) * 4u);
}

uint32_t udp_flow_hash(const struct frame *frame)
{
	uint8_t data[HEADERS] = {0};
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	const uint8_t *ip = data + FRAME_HEADER;
	uint32_t hash = mix(0, frame->eth, 2 * FRAME_MAC_SIZE);
	unsigned type = (unsigned)frame->eth[12] << 8 | frame->eth[13];

	iov_read(&at, data, sizeof(data));
	if (type == ETHERTYPE_IP)
		return mix_ipv4(hash, ip);
	if (type == ETHERTYPE_IPV6)
		return mix_ports(mix(hash, ip + IPV6_ADDRESSES, 32), ip[IPV6_PROTOCOL],
				 ip + IPV6_HEADER);
	return hash;
}
