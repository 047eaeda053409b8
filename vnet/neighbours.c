/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Every ARP packet and every neighbour advertisement that passes says which IP address has which
 * MAC address. Who asks everybody for an address that is known so is answered here, in the target's
 * name, and the question goes no further: with 1,000 machines on an overlay most broadcasts are
 * such questions.
 *
 * A wrong answer is worse than none. So there are none
 *
 * - to who probes for a duplicate (sender 0.0.0.0 or ::): everybody must hear it;
 *
 * - to who announces itself: it is behind the port the question came from, see below;
 *
 * - to who asks one machine alone: it checks whether that is alive;
 *
 * - for what was not heard of for NEIGHBOURS_AGE_NS, or by the port the question came from;
 *
 * - for NEIGHBOURS_QUIET_NS after an address changed hands: a duplicate is never answered for;
 *
 * - for IPv6 before an advertisement was heard. Only that says whether the target is a router, and
 *   one that is said to be none is no longer a default router (RFC 4861, 7.2.5);
 *
 * - if who asks cannot reach the target, which the core knows.
 *
 * Frames with a VLAN tag, with a checksum still to be filled, malformed or not quite usual ones are
 * neither learnt from nor answered: they pass. An advertisement made here has the Override flag
 * off, as it should (7.2.8).
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/aged_table.h"
#include "vnet/checksum.h"
#include "vnet/iovec.h"
#include "vnet/mac.h"
#include "vnet/neighbours.h"
#include "vnet/offload.h"

#define ETHERTYPE_ARP  0x0806
#define ETHERTYPE_IPV6 0x86dd

/* Offsets in a frame: RFC 826. */
enum {
	ARP_FIXED = 14,
	ARP_OP = 20,
	ARP_SHA = 22,
	ARP_SPA = 28,
	ARP_THA = 32,
	ARP_TPA = 38,
	ARP_END = 42
};
enum { ARP_REQUEST = 1, ARP_REPLY = 2 };

/* RFC 8200, 3, and RFC 4861, 4.3, 4.4. */
enum {
	IP6_START = 14,
	IP6_LENGTH = 18,
	IP6_NEXT = 20,
	IP6_HOPS = 21,
	IP6_SOURCE = 22,
	IP6_DESTINATION = 38,
	ND_TYPE = 54,
	ND_CHECKSUM = 56,
	ND_FLAGS = 58,
	ND_TARGET = 62,
	ND_OPTIONS = 78,
	ND_END_MAX = 142, /* with more options than that it is not looked at */
};
enum { ND_SOLICIT = 135, ND_ADVERTISE = 136, ND_OPTION_SOURCE = 1, ND_OPTION_TARGET = 2 };
enum { ND_ROUTER = 0x80, ND_SOLICITED = 0x40 };
enum { ICMPV6 = 58 };

struct neighbour {
	struct aged_entry aged; /* keys: the IPv6 or mapped IPv4 address */
	uint64_t mac;
	uint64_t quiet_until_ns;
	uint32_t port;
	bool answerable, router;
};

struct neighbours {
	struct aged_table *table;
};

/* What a packet says of its sender, and asks. */
struct statement {
	bool asks;	 /* everybody for @target */
	bool advertises; /* is the sender's own word, complete */
	bool router;
	bool ipv6;
	uint8_t sender[16], target[16];
};

struct neighbours *neighbours_create(void)
{
	struct neighbours *neighbours = calloc(1, sizeof(*neighbours));

	if (!neighbours)
		return NULL;
	neighbours->table =
	    aged_table_create(sizeof(struct neighbour), NEIGHBOURS_MAX, NEIGHBOURS_AGE_NS);
	if (!neighbours->table) {
		free(neighbours);
		return NULL;
	}
	return neighbours;
}

void neighbours_destroy(struct neighbours *neighbours)
{
	if (!neighbours)
		return;
	aged_table_destroy(neighbours->table);
	free(neighbours);
}

static uint16_t load16(const uint8_t *bytes)
{
	return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static void store16(uint8_t *bytes, unsigned value)
{
	bytes[0] = (uint8_t)(value >> 8);
	bytes[1] = (uint8_t)value;
}

/* The start of a frame, with the header that was judged before; returns how much of it there is. */
static size_t frame_peek(const struct frame *frame, uint8_t *bytes, size_t max)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	size_t n = iov_read(&at, bytes, max < frame->len ? max : frame->len);

	memcpy(bytes, frame->eth, FRAME_HEADER);
	return n;
}

static void map_ipv4(uint8_t ip[16], const uint8_t *ipv4)
{
	static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

	memcpy(ip, prefix, sizeof(prefix));
	memcpy(ip + sizeof(prefix), ipv4, 4);
}

/* Not 0.0.0.0/8, loopback, multicast or broadcast. */
static bool ipv4_is_host(const uint8_t *ip)
{
	return ip[0] && ip[0] != 127 && ip[0] < 224;
}

static bool read_arp(const struct frame *frame, struct statement *says)
{
	static const uint8_t fixed[6] = {0, 1, 8, 0, 6, 4}; /* Ethernet, IPv4, their lengths */
	uint8_t p[ARP_END];
	unsigned op;

	if (frame_peek(frame, p, sizeof(p)) < sizeof(p) ||
	    memcmp(p + ARP_FIXED, fixed, sizeof(fixed)) != 0 ||
	    memcmp(p + ARP_SHA, p + FRAME_MAC_SIZE, FRAME_MAC_SIZE) != 0 ||
	    !ipv4_is_host(p + ARP_SPA))
		return false;
	op = load16(p + ARP_OP);
	if (op != ARP_REQUEST && op != ARP_REPLY)
		return false;
	map_ipv4(says->sender, p + ARP_SPA);
	map_ipv4(says->target, p + ARP_TPA);
	says->advertises = true;
	says->asks = op == ARP_REQUEST && mac_load(p) == MAC_BROADCAST;
	return true;
}

/* Of the ICMPv6 message in a frame, with its pseudo-header (RFC 8200, 8.1); 0xffff if its checksum
 * is right. */
static uint16_t icmp_sum(const uint8_t *p, size_t len)
{
	uint16_t addresses = checksum_add(htons((uint16_t)len) + htons(ICMPV6), p + IP6_SOURCE, 32);

	return checksum_add(addresses, p + ND_TYPE, len);
}

/* Has the message the link-layer option of this type, with the address its frame came from, and is
 * well made? */
static bool option_matches(const uint8_t *p, size_t end, uint8_t type)
{
	bool found = false;

	for (size_t at = ND_OPTIONS; at < end; at += 8u * p[at + 1]) {
		if (end - at < 8 || !p[at + 1] || 8u * p[at + 1] > end - at)
			return false;
		if (p[at] != type)
			continue;
		if (p[at + 1] != 1 || memcmp(p + at + 2, p + FRAME_MAC_SIZE, FRAME_MAC_SIZE) != 0)
			return false;
		found = true;
	}
	return found;
}

/* Was it sent to the solicited-node address of its target (RFC 4291, 2.7.1), on both layers? */
static bool to_solicited_node(const uint8_t *p)
{
	static const uint8_t prefix[13] = {0xff, 2, [11] = 1, [12] = 0xff};
	const uint8_t *destination = p + IP6_DESTINATION;

	return !memcmp(destination, prefix, sizeof(prefix)) &&
	       !memcmp(destination + 13, p + ND_TARGET + 13, 3) && p[0] == 0x33 && p[1] == 0x33 &&
	       !memcmp(p + 2, destination + 12, 4);
}

/* A neighbour solicitation or advertisement that RFC 4861, 7.1 calls valid, with its link-layer
 * option. */
static bool read_nd(const struct frame *frame, struct statement *says)
{
	static const uint8_t unspecified[16];
	uint8_t p[ND_END_MAX];
	size_t have = frame->len <= ND_END_MAX ? frame_peek(frame, p, sizeof(p)) : 0, len;
	bool solicits;

	if (have < ND_OPTIONS || p[IP6_START] >> 4 != 6 || p[IP6_NEXT] != ICMPV6 ||
	    p[IP6_HOPS] != 255 || (p[ND_TYPE] != ND_SOLICIT && p[ND_TYPE] != ND_ADVERTISE) ||
	    p[ND_TYPE + 1] != 0)
		return false;
	len = load16(p + IP6_LENGTH);
	solicits = p[ND_TYPE] == ND_SOLICIT;
	if (len < ND_OPTIONS - ND_TYPE || len > have - ND_TYPE || icmp_sum(p, len) != 0xffff ||
	    p[IP6_SOURCE] == 0xff || p[ND_TARGET] == 0xff ||
	    !memcmp(p + IP6_SOURCE, unspecified, 16) || !memcmp(p + ND_TARGET, unspecified, 16) ||
	    !option_matches(p, ND_TYPE + len, solicits ? ND_OPTION_SOURCE : ND_OPTION_TARGET))
		return false;
	says->ipv6 = true;
	says->advertises = !solicits;
	says->asks = solicits && to_solicited_node(p);
	says->router = !solicits && p[ND_FLAGS] & ND_ROUTER;
	memcpy(says->sender, p + (solicits ? IP6_SOURCE : ND_TARGET), 16);
	memcpy(says->target, p + ND_TARGET, 16);
	return true;
}

static bool statement_read(const struct frame *frame, struct statement *says)
{
	const unsigned type = load16(frame->eth + 2 * FRAME_MAC_SIZE);

	if ((type != ETHERTYPE_ARP && type != ETHERTYPE_IPV6) || offload_needs(frame) ||
	    mac_is_multicast(mac_load(frame->eth + FRAME_MAC_SIZE)))
		return false;
	memset(says, 0, sizeof(*says));
	return type == ETHERTYPE_ARP ? read_arp(frame, says) : read_nd(frame, says);
}

static void ip_key(uint64_t key[2], const uint8_t ip[16])
{
	memcpy(key, ip, 16);
}

static void sender_learn(struct neighbours *neighbours, const struct statement *says, uint64_t mac,
			 unsigned port, uint64_t now)
{
	struct neighbour *known;
	uint64_t key[2];

	ip_key(key, says->sender);
	known = aged_table_find(neighbours->table, key[0], key[1]);
	if (!known && says->advertises) {
		known = aged_table_add(neighbours->table, key[0], key[1], now);
		if (known)
			known->mac = mac;
	}
	if (!known)
		return;
	if (known->mac != mac) {
		known->mac = mac;
		known->answerable = false;
		known->quiet_until_ns = now + NEIGHBOURS_QUIET_NS;
	}
	known->port = port;
	if (says->advertises) {
		known->answerable = true;
		known->router = says->router;
	}
	aged_table_touch(neighbours->table, known, now);
}

bool neighbours_see(struct neighbours *neighbours, const struct frame *frame, unsigned port,
		    uint64_t now, struct neighbour_question *question)
{
	const uint64_t mac = mac_load(frame->eth + FRAME_MAC_SIZE);
	const struct neighbour *target;
	struct statement says;
	uint64_t key[2];

	if (!statement_read(frame, &says))
		return false;
	sender_learn(neighbours, &says, mac, port, now);
	if (!says.asks)
		return false;
	ip_key(key, says.target);
	target = aged_table_find(neighbours->table, key[0], key[1]);
	if (!target || !target->answerable || now < target->quiet_until_ns ||
	    target->port == port || target->mac == mac)
		return false;
	question->ipv6 = says.ipv6;
	question->router = target->router;
	question->asker = mac;
	question->target = target->mac;
	memcpy(question->asker_ip, says.sender, 16);
	memcpy(question->target_ip, says.target, 16);
	return true;
}

void neighbours_age(struct neighbours *neighbours, uint64_t now)
{
	void *dead;

	while ((dead = aged_table_expired(neighbours->table, now)))
		aged_table_remove(neighbours->table, dead);
}

void neighbours_forget(struct neighbours *neighbours, unsigned port)
{
	struct neighbour *next = aged_table_next(neighbours->table, NULL);

	while (next) {
		struct neighbour *known = next;

		next = aged_table_next(neighbours->table, known);
		if (known->port == port)
			aged_table_remove(neighbours->table, known);
	}
}

static size_t answer_arp(const struct neighbour_question *question, uint8_t *p)
{
	static const uint8_t fixed[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, ARP_REPLY}; /* EtherType first */

	memcpy(p + ARP_FIXED - 2, fixed, sizeof(fixed));
	mac_store(p + ARP_SHA, question->target);
	memcpy(p + ARP_SPA, question->target_ip + 12, 4);
	mac_store(p + ARP_THA, question->asker);
	memcpy(p + ARP_TPA, question->asker_ip + 12, 4);
	return ARP_END;
}

static size_t answer_nd(const struct neighbour_question *question, uint8_t *p)
{
	const size_t len = NEIGHBOUR_REPLY_MAX - ND_TYPE;
	uint16_t sum;

	store16(p + IP6_START - 2, ETHERTYPE_IPV6);
	p[IP6_START] = 6 << 4;
	store16(p + IP6_LENGTH, (unsigned)len);
	p[IP6_NEXT] = ICMPV6;
	p[IP6_HOPS] = 255;
	memcpy(p + IP6_SOURCE, question->target_ip, 16);
	memcpy(p + IP6_DESTINATION, question->asker_ip, 16);
	p[ND_TYPE] = ND_ADVERTISE;
	p[ND_FLAGS] = ND_SOLICITED | (question->router ? ND_ROUTER : 0);
	memcpy(p + ND_TARGET, question->target_ip, 16);
	p[ND_OPTIONS] = ND_OPTION_TARGET;
	p[ND_OPTIONS + 1] = 1;
	mac_store(p + ND_OPTIONS + 2, question->target);
	sum = ~icmp_sum(p, len);
	memcpy(p + ND_CHECKSUM, &sum, sizeof(sum));
	return NEIGHBOUR_REPLY_MAX;
}

size_t neighbour_answer(const struct neighbour_question *question,
			uint8_t reply[NEIGHBOUR_REPLY_MAX])
{
	memset(reply, 0, NEIGHBOUR_REPLY_MAX);
	mac_store(reply, question->asker);
	mac_store(reply + FRAME_MAC_SIZE, question->target);
	return question->ipv6 ? answer_nd(question, reply) : answer_arp(question, reply);
}
