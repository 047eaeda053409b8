/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Receive steering of a network device with several pairs of queues (virtio 1.2, 5.1.6.5.5): what
 * belongs to a flow comes by the pair from which the guest last sent it, so by the CPU whose
 * program reads it. The hash of a flow is the same in both directions: the two ends, each of
 * address, port and protocol, are put in order first.
 *
 * What is remembered is one entry a hash value, a newer flow in the place of an older one: bounded,
 * and it cleans itself. An entry has a tag, or else flows that have ended would draw new ones to
 * their pair. Entries survive a reset and a change of the number of pairs; one that names a pair
 * which is not in use counts for nothing. A flow that the guest has not sent yet goes by its hash,
 * so that such flows are spread; what is not IP goes to pair 0.
 *
 * What is there is not judged: nonsense hashes as well as anything. The hash is seeded, so that
 * nobody on the wire can choose flows that evict those of others.
 *
 * Thread: the sidecar.
 */
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/random.h>

#include "devices/virtio_net.h"
#include "vnet/mac.h"
#include "vnet/packet.h"

#define FLOWS	  8192u
#define PAIR_MASK 0xffu /* of an entry; above is the tag */
#define PORTS	  4u	/* bytes of the two ports of TCP or UDP */
#define HEADERS	  (FRAME_HEADER + 4u * PACKET_VLANS_MAX + 60u + PORTS) /* IPv4 with all options */

struct net_flows {
	uint64_t seed;
	uint32_t entries[FLOWS];
};

struct net_flows *net_flows_create(void)
{
	struct net_flows *flows = calloc(1, sizeof(*flows));

	if (!flows)
		return NULL;
	if (getrandom(&flows->seed, sizeof(flows->seed), GRND_NONBLOCK) != sizeof(flows->seed))
		flows->seed = (uintptr_t)flows;
	return flows;
}

void net_flows_destroy(struct net_flows *flows)
{
	free(flows);
}

/* Put protocol and ports to the addresses; fragments, of which only the first has ports, go
 * without. */
static void ends_finish(uint64_t ends[2], uint8_t protocol, const uint8_t *ports)
{
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return;
	for (unsigned i = 0; i < 2; i++)
		ends[i] ^= (uint64_t)protocol << 48 | (uint64_t)packet_get16(ports + 2 * i) << 32;
}

static void ends_ipv4(uint64_t ends[2], const uint8_t *ip)
{
	ends[0] = packet_get32(ip + IPV4_SOURCE);
	ends[1] = packet_get32(ip + IPV4_SOURCE + 4);
	if (!(packet_get16(ip + IPV4_FRAGMENT) & ~IPV4_RESERVED_OR_DF))
		ends_finish(ends, ip[IPV4_PROTOCOL], ip + (ip[0] & 0xf) * 4u);
}

static void ends_ipv6(uint64_t ends[2], const uint8_t *ip, uint64_t seed)
{
	uint64_t addresses[2][2];

	memcpy(addresses, ip + IPV6_SOURCE, sizeof(addresses));
	ends[0] = key_hash(addresses[0], seed);
	ends[1] = key_hash(addresses[1], seed);
	ends_finish(ends, ip[IPV6_NEXT], ip + IPV6_SIZE);
}

/* Neighbours (ports that follow each other) become strangers: the finalizer of MurmurHash3. */
static uint64_t mix(uint64_t hash)
{
	hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
	hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
	return hash ^ hash >> 33;
}

/* Returns false when there is no flow. */
static bool flow_hash(const struct net_flows *flows, const struct frame *frame, uint64_t *hash)
{
	uint8_t header[HEADERS] = {0};
	size_t len = packet_copy(frame, header, sizeof(header));
	uint64_t ends[2], ordered[2];
	unsigned l3, type = packet_type(header, len, &l3);

	if (type == ETH_P_IP)
		ends_ipv4(ends, header + l3);
	else if (type == ETH_P_IPV6)
		ends_ipv6(ends, header + l3, flows->seed);
	else
		return false;
	ordered[0] = ends[0] < ends[1] ? ends[0] : ends[1];
	ordered[1] = ends[0] ^ ends[1] ^ ordered[0];
	*hash = mix(key_hash(ordered, flows->seed));
	return true;
}

static uint32_t flow_entry(uint64_t hash, unsigned pair)
{
	return ((uint32_t)(hash >> 32) & ~PAIR_MASK) | pair;
}

void net_flow_sent(struct net_flows *flows, const struct frame *frame, unsigned pair)
{
	uint64_t hash;

	if (flow_hash(flows, frame, &hash))
		flows->entries[hash % FLOWS] = flow_entry(hash, pair);
}

unsigned net_flow_pair(const struct net_flows *flows, const struct frame *frame, unsigned active)
{
	uint64_t hash;
	unsigned pair;

	if (!flow_hash(flows, frame, &hash))
		return 0;
	pair = flows->entries[hash % FLOWS] & PAIR_MASK;
	if (pair < active && flows->entries[hash % FLOWS] == flow_entry(hash, pair))
		return pair;
	return (unsigned)((hash >> 32) * active >> 32);
}
