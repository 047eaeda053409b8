/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A batch becomes datagrams: each a header built here and, behind it, slices of the frame's own
 * segments, so that no payload is copied (with a key it is, once, by the sealing). A frame that is
 * longer than a datagram is cut into parts, each under a header that says where it belongs; the
 * first one's header is longer (offload, hops) and its payload shorter, so that all parts but the
 * last make datagrams of one length.
 *
 * Datagrams become trains: a run of one length, of which only the last may be shorter, is one
 * message that the kernel cuts (UDP_SEGMENT) after its way through the stack. So a large frame
 * costs one message, and so do 64 small ones.
 *
 * All memory is set aside in struct udp_sending; a frame is packed whole or left for the next
 * round.
 */
#include <stdlib.h>
#include <string.h>

#include "vnet/iovec.h"
#include "vnet/offload.h"
#include "vnet/udp_pack.h"

#define TRAIN_SEGMENTS 64u /* Linux's UDP_MAX_SEGMENTS, the least there is */
#define TRAINS_A_FRAME 4u  /* 65549 bytes and their headers, in parts of 500 bytes or more */

/* How a frame crosses: in one datagram, or cut. */
struct crossing {
	struct geneve_extras extras; /* of the frame */
	unsigned parts;
	struct fragment_cut cut; /* if more than one */
};

struct udp_sending *udp_sending_create(bool sealed)
{
	struct udp_sending *tx = calloc(1, sizeof(*tx));

	if (tx && sealed)
		tx->scratch = malloc(SEND_SCRATCH);
	if (tx && sealed && !tx->scratch) {
		free(tx);
		return NULL;
	}
	return tx;
}

void udp_sending_destroy(struct udp_sending *tx)
{
	if (tx)
		free(tx->scratch);
	free(tx);
}

static enum drop_reason extras_fill(const struct udp_peer *peer, const struct frame *frame,
				    struct geneve_extras *extras)
{
	uint32_t needs = 0;

	if (frame->offload.flags || frame->offload.gso_type)
		needs = offload_needs(frame);
	if (needs & ~peer->port.offloads)
		return DROP_OFFLOAD;
	if (needs)
		extras->offload = frame->offload;
	if (peer->hops && frame->hops < FRAME_HOPS_MAX)
		extras->hops = frame->hops;
	return DROP_REASONS;
}

/* Decide how a frame crosses. Returns DROP_REASONS, or why it cannot. */
static enum drop_reason crossing_plan(const struct udp_peer *peer, const struct frame *frame,
				      struct crossing *c)
{
	const uint32_t sealing = peer->seal ? SEAL_OVERHEAD : 0;
	enum drop_reason reason;
	uint32_t header;

	*c = (struct crossing){.parts = 1};
	reason = extras_fill(peer, frame, &c->extras);
	if (reason != DROP_REASONS)
		return reason;
	if (frame->iovcnt >= UIO_MAXIOV) /* sendmsg(2) takes no more */
		return DROP_OVERSIZE;
	header = (uint32_t)geneve_size(&c->extras) + sealing;
	if (header + frame->len <= peer->datagram_max)
		return DROP_REASONS;
	if (frame->len > peer->frame_max)
		/* In one piece if the kernel has a way for it: this also tells when the path has
		 * grown. */
		return header + frame->len > UDP_DATAGRAM_MAX ? DROP_OVERSIZE : DROP_REASONS;
	c->parts = fragment_cut_start(&c->cut, &c->extras, peer->next_id, frame->len,
				      peer->datagram_max - sealing);
	return c->parts ? DROP_REASONS : DROP_OVERSIZE;
}

/* Is there room for it in this round? */
static bool crossing_fits(const struct udp_sending *tx, const struct udp_peer *peer,
			  const struct frame *frame, const struct crossing *c)
{
	unsigned messages = tx->single || c->parts < TRAINS_A_FRAME ? c->parts : TRAINS_A_FRAME;

	return tx->count + messages <= SEND_MESSAGES &&
	       tx->iov_used + 2 * c->parts + frame->iovcnt <= SEND_IOVECS &&
	       tx->headers_used + (size_t)c->parts * GENEVE_HEADER_MAX <= SEND_HEADERS &&
	       (!peer->seal || tx->scratch_used + frame->len +
				       (size_t)c->parts * (GENEVE_HEADER_MAX + SEAL_OVERHEAD) <=
				   SEND_SCRATCH);
}

/* Can a datagram join the last message? */
static bool train_takes(const struct udp_sending *tx, uint32_t len, unsigned pieces)
{
	const struct udp_message *m;

	if (!tx->count || tx->single)
		return false;
	m = &tx->messages[tx->count - 1];
	return !m->closed && len <= m->segment && m->datagrams < TRAIN_SEGMENTS &&
	       m->len + len <= UDP_DATAGRAM_MAX &&
	       tx->wire[tx->count - 1].msg_hdr.msg_iovlen + pieces <= UIO_MAXIOV;
}

static void message_begin(struct udp_sending *tx, struct udp_peer *peer, unsigned frame,
			  uint32_t len)
{
	tx->messages[tx->count] = (struct udp_message){.first = frame, .segment = len};
	tx->wire[tx->count].msg_hdr = (struct msghdr){
	    .msg_name = &peer->to,
	    .msg_namelen = udp_address_size(peer->endpoint->family),
	    .msg_iov = &tx->iov[tx->iov_used],
	};
	tx->count++;
}

/* The next datagram: @pieces at the end of tx->iov, of @len bytes in all, of frame number @frame.
 */
static void datagram_add(struct udp_sending *tx, struct udp_peer *peer, unsigned frame,
			 uint32_t len, unsigned pieces)
{
	struct udp_message *m;

	if (!train_takes(tx, len, pieces))
		message_begin(tx, peer, frame, len);
	m = &tx->messages[tx->count - 1];
	m->datagrams++;
	m->len += len;
	m->closed = len < m->segment;
	tx->wire[tx->count - 1].msg_hdr.msg_iovlen += pieces;
	tx->iov_used += pieces;
}

/* Seal the datagram whose @pieces are the last of tx->iov: it becomes one piece. Returns its length
 * or -errno. */
static int datagram_seal(struct udp_sending *tx, struct udp_peer *peer, unsigned pieces)
{
	struct iovec *iov = tx->iov + tx->iov_used;
	uint8_t *out = tx->scratch + tx->scratch_used;
	int len = seal_close(peer->seal, iov, pieces, out, tx->now_ns);

	if (len > 0) {
		*iov = (struct iovec){.iov_base = out, .iov_len = (size_t)len};
		tx->scratch_used += (size_t)len;
	}
	return len;
}

/* A header, and @len bytes from the cursor. Returns 0 or -errno (of sealing). */
static int datagram_pack(struct udp_sending *tx, struct udp_peer *peer, unsigned frame,
			 const struct geneve_extras *extras, struct iov_cursor *at, uint32_t len)
{
	const struct udp_endpoint *ep = peer->endpoint;
	uint8_t *header = tx->headers + tx->headers_used;
	struct iovec *iov = tx->iov + tx->iov_used;
	size_t size = ep->encap == UDP_VXLAN ? vxlan_build(header, ep->env.vni)
					     : geneve_build(header, ep->env.vni, extras);
	uint32_t total = (uint32_t)size + len;
	unsigned pieces = 0;

	tx->headers_used += size;
	iov[pieces++] = (struct iovec){.iov_base = header, .iov_len = size};
	pieces += iov_slice(at, len, iov + pieces, UIO_MAXIOV);
	if (peer->seal) {
		int sealed = datagram_seal(tx, peer, pieces);

		if (sealed < 0)
			return sealed;
		peer->port.counters.copied_bytes += len;
		total = (uint32_t)sealed;
		pieces = 1;
	}
	datagram_add(tx, peer, frame, total, pieces);
	return 0;
}

static int parts_pack(struct udp_sending *tx, struct udp_peer *peer, unsigned index,
		      struct crossing *c, struct iov_cursor *at)
{
	struct geneve_extras extras;

	peer->next_id++;
	peer->whole_sent++;
	for (uint32_t len; (len = fragment_cut_next(&c->cut, &extras));) {
		int err = datagram_pack(tx, peer, index, &extras, at, len);

		if (err)
			return err;
	}
	return 0;
}

static int crossing_pack(struct udp_sending *tx, struct udp_peer *peer, unsigned index,
			 const struct frame *frame, struct crossing *c)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	int err = c->parts > 1 ? parts_pack(tx, peer, index, c, &at)
			       : datagram_pack(tx, peer, index, &c->extras, &at, frame->len);

	if (err)
		return err;
	tx->messages[tx->count - 1].frames++;
	tx->messages[tx->count - 1].bytes += frame->len;
	return 0;
}

unsigned udp_pack(struct udp_peer *peer, struct frame *const frames[], unsigned next, unsigned n)
{
	struct udp_sending *tx = peer->endpoint->tx;
	uint64_t *drops = peer->port.counters.drops;

	tx->count = tx->iov_used = 0;
	tx->headers_used = tx->scratch_used = 0;
	for (; next < n; next++) {
		struct crossing c;
		enum drop_reason reason = crossing_plan(peer, frames[next], &c);

		if (reason != DROP_REASONS) {
			drops[reason]++;
			continue;
		}
		if (!crossing_fits(tx, peer, frames[next], &c))
			break;
		if (crossing_pack(tx, peer, next, frames[next], &c))
			drops[DROP_KEY]++;
	}
	return next;
}
