/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * What GRO does in a network stack, within one batch: consecutive segments of a flow become one
 * frame that the guest takes in one piece. Frames are looked at in order; each either continues a
 * chain, or begins one. Only the newest chain of a flow is continued, so a frame that
 * cannot be joined (a FIN, a pure acknowledgement, a hole in the sequence) also ends the chain
 * before it, and the order within the flow stays. A chain's place among others is its first
 * frame's.
 *
 * Joined are segments with payload and no flags but ACK and PSH, whose headers differ only in what
 * splitting would reproduce: sequence in order, IPv4 ID counting up (or constant, with DF: RFC
 * 6864, 4.1), all of one size but a shorter last one, nothing behind a PSH. All checksums must be
 * right, as the joined frame says NEEDS_CSUM, and whoever completes it would make a wrong one
 * right. Frames that differ in hops, tags, IP options or extension headers stay as they are.
 *
 * Headers of a joined frame are a copy; its payload is slices of the frames it is made of, which
 * are borrowed like these. No state survives the call but the memory the result lies in.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/checksum.h"
#include "vnet/iovec.h"
#include "vnet/offload.h"
#include "vnet/packet.h"

#define SEGMENT_SLICES 8u /* iovecs of a frame that may be joined */
#define SLICES_MAX     (FRAME_BATCH_MAX * (SEGMENT_SLICES + 1))
#define IPV4_DF	       0x4000u

/* A frame of the batch. */
struct segment {
	struct frame *frame;
	struct segment *next; /* of its chain */
	bool parsed;	      /* packet and flow are known */
	bool joinable;
	uint32_t flow; /* hash of addresses and ports */
	uint32_t size; /* payload bytes */
	struct packet packet;
	uint8_t header[PACKET_HEADERS_MAX];
};

struct chain {
	struct segment *first, *last;
	unsigned count;
	uint32_t len; /* of the frame it will be */
	struct frame frame;
};

struct offload_merge {
	uint32_t offloads;
	unsigned chains_used, slices;
	struct segment segments[FRAME_BATCH_MAX];
	struct chain chains[FRAME_BATCH_MAX];
	struct iovec iov[SLICES_MAX];
};

struct offload_merge *offload_merge_create(void)
{
	return calloc(1, sizeof(struct offload_merge));
}

void offload_merge_destroy(struct offload_merge *merge)
{
	free(merge);
}

static const uint8_t *ip_of(const struct segment *segment)
{
	return segment->header + segment->packet.l3;
}

static const uint8_t *l4_of(const struct segment *segment)
{
	return segment->header + segment->packet.l4;
}

static bool is_tcp(const struct segment *segment)
{
	return segment->packet.protocol == IPPROTO_TCP;
}

static size_t addresses_at(const struct segment *segment)
{
	return segment->packet.version == 4 ? IPV4_SOURCE : IPV6_SOURCE;
}

static size_t addresses_size(const struct segment *segment)
{
	return segment->packet.version == 4 ? 8 : 32;
}

/* The port's bit for a joined frame of this kind. */
static uint32_t merge_needs(const struct segment *segment)
{
	if (!is_tcp(segment))
		return PORT_CSUM | PORT_USO;
	return PORT_CSUM | (segment->packet.version == 4 ? PORT_TSO4 : PORT_TSO6);
}

static bool segment_joinable(const struct segment *segment, uint32_t offloads)
{
	const struct packet *packet = &segment->packet;
	const struct frame *frame = segment->frame;
	const uint8_t *l4 = l4_of(segment);

	if (packet->end != frame->len || packet->payload == frame->len ||
	    frame->iovcnt > SEGMENT_SLICES || offload_needs(frame) ||
	    merge_needs(segment) & ~offloads ||
	    packet->l4 - packet->l3 != (packet->version == 4 ? IPV4_SIZE : IPV6_SIZE))
		return false;
	if (is_tcp(segment))
		return (l4[TCP_FLAGS] & ~TH_PUSH) == TH_ACK && !(l4[TCP_OFFSET] & 0xf);
	return packet_get16(l4 + UDP_CHECK); /* 0: it has none */
}

static void segment_parse(struct segment *segment, struct frame *frame, uint32_t offloads)
{
	size_t len = packet_copy(frame, segment->header, sizeof(segment->header));
	uint16_t hash;

	segment->frame = frame;
	segment->next = NULL;
	segment->joinable = false;
	segment->parsed = packet_parse(&segment->packet, segment->header, len);
	if (!segment->parsed)
		return;
	segment->size = frame->len - segment->packet.payload;
	hash = checksum_add(0, ip_of(segment) + addresses_at(segment), addresses_size(segment));
	segment->flow = (uint32_t)hash << 16 ^ packet_get32(l4_of(segment));
	segment->joinable = segment_joinable(segment, offloads);
}

static bool same(const uint8_t *a, const uint8_t *b, size_t from, size_t end)
{
	return !memcmp(a + from, b + from, end - from);
}

/* A flow is Ethernet header and tags, addresses, protocol and ports. */
static bool flow_same(const struct segment *a, const struct segment *b)
{
	size_t addresses = addresses_at(a);

	return a->flow == b->flow && a->packet.protocol == b->packet.protocol &&
	       a->packet.l3 == b->packet.l3 && a->packet.version == b->packet.version &&
	       same(a->header, b->header, 0, a->packet.l3) &&
	       same(ip_of(a), ip_of(b), addresses, addresses + addresses_size(a)) &&
	       same(l4_of(a), l4_of(b), 0, 4);
}

/* Would the IP header of @next come out when a frame that begins with @prev's was split? */
static bool ip_follows(const struct segment *prev, const struct segment *next)
{
	const uint8_t *a = ip_of(prev), *b = ip_of(next);
	uint16_t id = packet_get16(a + IPV4_ID), next_id = packet_get16(b + IPV4_ID);

	if (prev->packet.version == 6)
		return same(a, b, 0, IPV6_PAYLOAD) && same(a, b, IPV6_NEXT, IPV6_SOURCE);
	if (!same(a, b, 0, IPV4_TOTAL) || !same(a, b, IPV4_FRAGMENT, IPV4_CHECK))
		return false;
	return next_id == (uint16_t)(id + 1) ||
	       (next_id == id && (packet_get16(a + IPV4_FRAGMENT) & IPV4_DF));
}

static bool tcp_follows(const struct segment *prev, const struct segment *next)
{
	const uint8_t *a = l4_of(prev), *b = l4_of(next);

	return prev->packet.payload == next->packet.payload && !(a[TCP_FLAGS] & TH_PUSH) &&
	       packet_get32(b + TCP_SEQUENCE) == packet_get32(a + TCP_SEQUENCE) + prev->size &&
	       same(a, b, TCP_ACK, TCP_FLAGS) && same(a, b, TCP_WINDOW, TCP_CHECK) &&
	       same(a, b, TCP_URGENT, prev->packet.payload - prev->packet.l4);
}

/* All checksums of a segment are right. */
static bool segment_right(const struct segment *segment)
{
	const struct packet *packet = &segment->packet;
	const struct frame *frame = segment->frame;
	uint32_t len = packet->end - packet->l4;

	if (packet->version == 4 && checksum_add(0, ip_of(segment), IPV4_SIZE) != UINT16_MAX)
		return false;
	return offload_checksum(frame->iov, frame->iovcnt, packet->l4, len,
				packet_pseudo(packet, segment->header, len)) == UINT16_MAX;
}

static bool chain_takes(const struct chain *chain, const struct segment *segment)
{
	const struct segment *first = chain->first, *last = chain->last;

	if (!last->joinable || !segment->joinable || last->size != first->size ||
	    segment->size > first->size || segment->frame->hops != first->frame->hops ||
	    chain->len + segment->size > FRAME_SIZE_MAX) /* with tags that is less than IP allows */
		return false;
	if (!ip_follows(last, segment) || (is_tcp(segment) && !tcp_follows(last, segment)))
		return false;
	return (chain->count > 1 || segment_right(first)) && segment_right(segment);
}

/* The newest chain of the segment's flow, or NULL. */
static struct chain *chain_find(struct offload_merge *merge, const struct segment *segment)
{
	if (!segment->parsed)
		return NULL;
	for (unsigned i = merge->chains_used; i-- > 0;) {
		struct chain *chain = &merge->chains[i];

		if (chain->last->parsed && flow_same(chain->last, segment))
			return chain;
	}
	return NULL;
}

static void merge_add(struct offload_merge *merge, struct segment *segment)
{
	struct chain *chain = chain_find(merge, segment);

	if (chain && chain_takes(chain, segment)) {
		chain->last->next = segment;
		chain->last = segment;
		chain->len += segment->size;
		chain->count++;
		return;
	}
	merge->chains[merge->chains_used++] = (struct chain){
	    .first = segment,
	    .last = segment,
	    .count = 1,
	    .len = segment->frame->len,
	};
}

static void slice_payload(struct offload_merge *merge, const struct segment *segment)
{
	struct iov_cursor at = iov_cursor(segment->frame->iov, segment->frame->iovcnt);
	struct iovec piece;

	iov_skip(&at, segment->packet.payload);
	while ((piece = iov_piece(&at)).iov_len) {
		merge->iov[merge->slices++] = piece;
		at.offset += piece.iov_len;
	}
}

static uint8_t gso_type(const struct segment *segment)
{
	if (!is_tcp(segment))
		return VIRTIO_NET_HDR_GSO_UDP_L4;
	return segment->packet.version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
}

/* The headers of a joined frame, made of its first segment's. */
static void chain_header(struct chain *chain)
{
	struct segment *first = chain->first;
	struct packet *packet = &first->packet;
	uint8_t *l4 = first->header + packet->l4;
	uint16_t partial;

	packet_resize(packet, first->header, chain->len);
	if (is_tcp(first))
		l4[TCP_FLAGS] |= l4_of(chain->last)[TCP_FLAGS] & TH_PUSH;
	partial = packet_pseudo(packet, first->header, chain->len - packet->l4);
	memcpy(l4 + packet->csum_offset, &partial, sizeof(partial));
}

static struct frame *chain_join(struct offload_merge *merge, struct chain *chain)
{
	struct segment *first = chain->first;
	struct iovec *iov = merge->iov + merge->slices++;

	*iov = (struct iovec){.iov_base = first->header, .iov_len = first->packet.payload};
	for (const struct segment *segment = first; segment; segment = segment->next)
		slice_payload(merge, segment);
	chain_header(chain);
	chain->frame = (struct frame){
	    .iov = iov,
	    .iovcnt = (unsigned)(merge->iov + merge->slices - iov),
	    .len = chain->len,
	    .hops = first->frame->hops,
	    .offload =
		{
		    .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		    .gso_type = gso_type(first),
		    .hdr_len = (uint16_t)first->packet.payload,
		    .gso_size = (uint16_t)first->size,
		    .csum_start = (uint16_t)first->packet.l4,
		    .csum_offset = (uint16_t)first->packet.csum_offset,
		},
	};
	memcpy(chain->frame.eth, first->frame->eth, FRAME_HEADER);
	return &chain->frame;
}

unsigned offload_merge_batch(struct offload_merge *merge, struct frame *frames[], unsigned n,
			     uint32_t offloads)
{
	if (n < 2 || !(offloads & (PORT_TSO4 | PORT_TSO6 | PORT_USO)))
		return n;
	merge->chains_used = 0;
	merge->slices = 0;
	for (unsigned i = 0; i < n; i++) {
		segment_parse(&merge->segments[i], frames[i], offloads);
		merge_add(merge, &merge->segments[i]);
	}
	for (unsigned i = 0; i < merge->chains_used; i++) {
		struct chain *chain = &merge->chains[i];

		frames[i] = chain->count > 1 ? chain_join(merge, chain) : chain->first->frame;
	}
	return merge->chains_used;
}
