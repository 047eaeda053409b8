/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A frame's offload state says what its sender left to others: the transport checksum (NEEDS_CSUM),
 * and cutting a large TCP segment or UDP datagram to size (GSO). offload_check() accepts what can
 * be done to the frame it came with, and everything that follows relies on that. It does not rely
 * on the frame's bytes: a guest may rewrite them meanwhile, so split_open() copies the headers,
 * judges the copy again, and makes every piece's headers from it.
 *
 * A checksum without GSO is generic (virtio 1.2, 5.1.6.2): a sum from csum_start to the frame's end
 * is put csum_offset behind it, whatever protocol that is, since guests ask for it within tunnels
 * too.
 *
 * Splitting does what a network stack does in front of a NIC without TSO: each piece has the
 * headers of the whole with its own lengths, IPv4 ID counted up, TCP sequence counted on, FIN and
 * PSH only on the last, CWR only on the first (RFC 3168, 6.1.2). The sender's partial checksum is
 * kept and corrected by the difference in length, so that routing headers need not be understood.
 *
 * The headers of pieces lie in the splitter, their payload stays where it is. Pieces of several
 * frames, and frames that need no work, come together in batches: a port gets full ones, and a
 * frame of any number of pieces needs bounded room. One thread, no state but the splitter's.
 */
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/checksum.h"
#include "vnet/iovec.h"
#include "vnet/offload.h"
#include "vnet/packet.h"

#define CSUM_SIZE  2u
#define TCP_CWR	   0x80u /* RFC 3168, 6.1.2 */
#define PIECES_MAX 2048u /* of one frame: 64 KiB at the smallest segment size Linux believes */
#define SLICES_MAX 2048u /* iovecs of a batch of pieces */

static const struct offload_kind {
	uint8_t gso_type, version, protocol; /* version 0: any */
	uint32_t port;			     /* enum port_offload */
} kinds[] = {
    {VIRTIO_NET_HDR_GSO_TCPV4, 4, IPPROTO_TCP, PORT_TSO4},
    {VIRTIO_NET_HDR_GSO_TCPV6, 6, IPPROTO_TCP, PORT_TSO6},
    {VIRTIO_NET_HDR_GSO_UDP_L4, 0, IPPROTO_UDP, PORT_USO},
};

static const struct offload_kind *kind_of(const struct frame_offload *offload)
{
	uint8_t type = offload->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i].gso_type == type)
			return &kinds[i];
	return NULL;
}

static bool needs_checksum(const struct frame_offload *offload)
{
	return offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
}

/* Where the checksum's field ends. */
static uint32_t checksum_end(const struct frame_offload *offload)
{
	return (uint32_t)offload->csum_start + offload->csum_offset + CSUM_SIZE;
}

/* Are the headers those of a frame with this GSO state? */
static bool gso_parse(const struct frame *frame, const uint8_t *header, size_t len,
		      struct packet *packet)
{
	const struct frame_offload *offload = &frame->offload;
	const struct offload_kind *kind = kind_of(offload);

	return packet_parse(packet, header, len) && packet->protocol == kind->protocol &&
	       (!kind->version || packet->version == kind->version) && packet->end == frame->len &&
	       offload->csum_start == packet->l4 && offload->csum_offset == packet->csum_offset &&
	       frame->len - packet->payload <= (uint32_t)offload->gso_size * PIECES_MAX;
}

static bool gso_check(const struct frame *frame)
{
	const struct frame_offload *offload = &frame->offload;
	const struct offload_kind *kind = kind_of(offload);
	uint8_t header[PACKET_HEADERS_MAX];
	struct packet packet;

	if (!kind || !offload->gso_size || offload->hdr_len > frame->len ||
	    !needs_checksum(offload))
		return false;
	if ((offload->gso_type & VIRTIO_NET_HDR_GSO_ECN) && kind->protocol != IPPROTO_TCP)
		return false;
	return gso_parse(frame, header, packet_copy(frame, header, sizeof(header)), &packet);
}

bool offload_check(const struct frame *frame)
{
	const struct frame_offload *offload = &frame->offload;

	switch (offload->flags) {
	case 0:
	case VIRTIO_NET_HDR_F_DATA_VALID:
		break;
	case VIRTIO_NET_HDR_F_NEEDS_CSUM:
		if (offload->csum_start < FRAME_HEADER || checksum_end(offload) > frame->len ||
		    checksum_end(offload) > PACKET_HEADERS_MAX)
			return false;
		break;
	default:
		return false;
	}
	return offload->gso_type == VIRTIO_NET_HDR_GSO_NONE || gso_check(frame);
}

/* Does the packet's checksum field hold the sum of the pseudo header, as before a NIC finishes it? */
static bool checksum_unfinished(const struct packet *packet, const uint8_t *header)
{
	uint16_t pseudo = packet_pseudo(packet, header, packet->end - packet->l4);

	return !memcmp(header + packet->l4 + packet->csum_offset, &pseudo, sizeof(pseudo));
}

void offload_recognize(struct frame *frame, uint32_t mtu)
{
	struct frame_offload *offload = &frame->offload;
	uint8_t header[PACKET_HEADERS_MAX];
	struct packet packet;

	if (!packet_parse(&packet, header, packet_copy(frame, header, sizeof(header))) ||
	    packet.end != frame->len || !checksum_unfinished(&packet, header))
		return;
	offload->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	offload->csum_start = (uint16_t)packet.l4;
	offload->csum_offset = (uint16_t)packet.csum_offset;
	if (packet.protocol != IPPROTO_TCP || frame->len <= FRAME_HEADER + mtu ||
	    packet.payload >= FRAME_HEADER + mtu)
		return;
	offload->gso_type = packet.version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	if (header[packet.l4 + TCP_FLAGS] & TCP_CWR)
		offload->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	offload->gso_size = (uint16_t)(FRAME_HEADER + mtu - packet.payload);
	offload->hdr_len = (uint16_t)packet.payload;
}

uint32_t offload_needs(const struct frame *frame)
{
	const struct frame_offload *offload = &frame->offload;
	uint32_t needs = needs_checksum(offload) ? PORT_CSUM : 0;
	const struct offload_kind *kind;

	if (offload->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return needs;
	kind = kind_of(offload);
	if (!kind)
		return UINT32_MAX;
	if (offload->gso_type & VIRTIO_NET_HDR_GSO_ECN)
		needs |= PORT_ECN;
	return needs | kind->port;
}

/* --- splitting ------------------------------------------------------------------------------- */

struct split_piece {
	struct frame frame;
	uint8_t header[PACKET_HEADERS_MAX];
};

struct offload_split {
	struct frame *const *frames; /* not yet looked at */
	unsigned frame_count;
	uint32_t offloads; /* enum port_offload bits that need no work */
	unsigned failed;   /* frames that could not be cut */

	struct frame *frame; /* being cut */
	bool more;	     /* not all of its pieces have been made */
	bool gso;
	struct packet packet; /* of a GSO frame */
	unsigned index;	      /* of the next piece */
	uint32_t left;	      /* payload bytes not yet in a piece */
	uint32_t size;	      /* payload bytes of a piece */
	struct iov_cursor at; /* the payload left */
	size_t header_len;
	uint8_t header[PACKET_HEADERS_MAX]; /* of the whole */
	struct split_piece pieces[FRAME_BATCH_MAX];
	unsigned slices; /* used of iov */
	struct iovec iov[SLICES_MAX];
};

struct offload_split *offload_split_create(void)
{
	return calloc(1, sizeof(struct offload_split));
}

void offload_split_destroy(struct offload_split *split)
{
	free(split);
}

void offload_split_batch(struct offload_split *split, struct frame *const frames[], unsigned n,
			 uint32_t offloads)
{
	split->frames = frames;
	split->frame_count = n;
	split->offloads = offloads;
	split->failed = 0;
	split->more = false;
}

void offload_split_start(struct offload_split *split, const struct frame *frame)
{
	split->frame = (struct frame *)frame; /* frames are given on as they came, not written to */
	offload_split_batch(split, &split->frame, 1, 0);
}

unsigned offload_split_failed(const struct offload_split *split)
{
	return split->failed;
}

/* Begin to cut a frame. Returns false when its headers are no longer those that were checked. */
static bool split_open(struct offload_split *split, struct frame *frame)
{
	const struct frame_offload *offload = &frame->offload;
	size_t len = packet_copy(frame, split->header, sizeof(split->header));

	split->frame = frame;
	split->gso = offload->gso_type != VIRTIO_NET_HDR_GSO_NONE;
	split->index = 0;
	split->header_len = checksum_end(offload);
	if (split->gso) {
		if (!gso_parse(frame, split->header, len, &split->packet))
			return false;
		split->header_len = split->packet.payload;
	}
	split->left = frame->len - (uint32_t)split->header_len;
	split->size = split->gso ? offload->gso_size : split->left;
	split->at = iov_cursor(frame->iov, frame->iovcnt);
	iov_skip(&split->at, split->header_len);
	return true;
}

/* Describe the next @len bytes of payload. Returns false when there are more slices than room. */
static bool split_slice(struct offload_split *split, uint32_t len)
{
	while (len) {
		struct iovec piece = iov_piece(&split->at);

		if (!piece.iov_len || split->slices == SLICES_MAX)
			return false;
		if (piece.iov_len > len)
			piece.iov_len = len;
		split->at.offset += piece.iov_len;
		split->iov[split->slices++] = piece;
		len -= (uint32_t)piece.iov_len;
	}
	return true;
}

/* The headers of one piece of a GSO frame, with a partial checksum, as the whole had it. */
static void split_header(const struct offload_split *split, uint8_t *header, uint32_t end,
			 bool last)
{
	struct packet packet = split->packet;
	uint8_t *ip = header + packet.l3, *l4 = header + packet.l4;
	uint16_t partial;

	memcpy(&partial, l4 + packet.csum_offset, sizeof(partial));
	partial = checksum_fold((uint64_t)partial + (uint16_t)~htons(packet.end - packet.l4) +
				htons(end - packet.l4));
	memcpy(l4 + packet.csum_offset, &partial, sizeof(partial));
	if (packet.version == 4)
		packet_put16(ip + IPV4_ID, packet_get16(ip + IPV4_ID) + split->index);
	packet_resize(&packet, header, end);
	if (packet.protocol != IPPROTO_TCP)
		return;
	packet_put32(l4 + TCP_SEQUENCE,
		     packet_get32(l4 + TCP_SEQUENCE) + split->index * split->size);
	if (!last)
		l4[TCP_FLAGS] &= ~(TH_FIN | TH_PUSH);
	if (split->index)
		l4[TCP_FLAGS] &= ~TCP_CWR;
}

/*
 * Fill the checksum's field. 0 becomes 0xffff, which means the same but in UDP, where 0 means
 * "none" (RFC 768); a TCP segment that is cut keeps its 0, as from other stacks.
 */
static void split_checksum(const struct offload_split *split, struct split_piece *piece)
{
	const struct frame_offload *offload = &split->frame->offload;
	const struct frame *frame = &piece->frame;
	uint16_t sum = ~offload_checksum(frame->iov, frame->iovcnt, offload->csum_start,
					 frame->len - offload->csum_start, 0);

	if (!sum && !(split->gso && split->packet.protocol == IPPROTO_TCP))
		sum = UINT16_MAX;
	memcpy(piece->header + checksum_end(offload) - CSUM_SIZE, &sum, sizeof(sum));
}

/*
 * Make the next piece. Returns false when there is no room for its slices in this batch; if there
 * never is, its frame ends here.
 */
static bool split_piece(struct offload_split *split, struct split_piece *piece)
{
	uint32_t len = split->left < split->size ? split->left : split->size;
	const struct iov_cursor before = split->at;
	const unsigned first = split->slices;

	if (first == SLICES_MAX)
		return false;
	split->slices++;
	if (!split_slice(split, len)) {
		split->at = before;
		split->slices = first;
		split->more = first;
		split->failed += !first;
		return false;
	}
	memcpy(piece->header, split->header, split->header_len);
	split->iov[first] = (struct iovec){.iov_base = piece->header, .iov_len = split->header_len};
	piece->frame = (struct frame){
	    .iov = split->iov + first,
	    .iovcnt = split->slices - first,
	    .len = (uint32_t)split->header_len + len,
	    .hops = split->frame->hops,
	    .hold = split->frame->hold,
	};
	memcpy(piece->frame.eth, split->frame->eth, FRAME_HEADER);
	split->left -= len;
	if (split->gso)
		split_header(split, piece->header, piece->frame.len, !split->left);
	split_checksum(split, piece);
	split->index++;
	split->more = split->left;
	return true;
}

/* Take the next frame. Returns it if there is nothing to do, else NULL: it is being cut, or failed.
 */
static struct frame *split_take(struct offload_split *split)
{
	struct frame *frame = *split->frames++;

	split->frame_count--;
	if (!(offload_needs(frame) & ~split->offloads))
		return frame;
	split->more = split_open(split, frame);
	if (!split->more)
		split->failed++;
	return NULL;
}

unsigned offload_split_next(struct offload_split *split, struct frame *pieces[], unsigned max)
{
	unsigned n = 0;

	split->slices = 0;
	while (n < max && n < FRAME_BATCH_MAX) {
		struct frame *piece = NULL;

		if (split->more) {
			if (split_piece(split, &split->pieces[n]))
				piece = &split->pieces[n].frame;
			else if (split->more)
				break;
		} else if (split->frame_count) {
			piece = split_take(split);
		} else {
			break;
		}
		if (piece)
			pieces[n++] = piece;
	}
	return n;
}
