/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A link that knows what will come next can receive it straight into the guest's buffers. Here it
 * borrows them, room for one frame at a time: chains of the receive ring, as many as the frame
 * takes with mergeable buffers, else one. The first bytes of the first one are left out for the
 * device's header (virtio 1.2, 5.1.6).
 *
 *	ring, spares ---land()---> lent ---a frame that lies there---> given to the guest
 *	        ^                   `---land_end()--.
 *	        `-----------------------------------'
 *
 * A buffer that was lent and not used is spare: a ring has no way back for it once others were
 * taken after it. Spare ones are the first to be used, for copies and for the next loan, so none
 * gets lost, and there are never more than were lent at once. Before it becomes spare what was
 * written to it is erased: a guest sees nothing that was not for it, as far as it waits for its
 * buffers to be given.
 *
 * At most half of the ring is lent at any time, so that a link which has laid out for frames that do
 * not come, or waits for the rest of one, does not keep others out. A guest that resets its device
 * gets its buffers back at once: links whose hardware writes there by itself have to stop it first
 * (core_recall()), then the borrower's pointer becomes NULL.
 *
 * With several pairs of queues in use nothing is lent: which one a frame goes to is known only when
 * it is there.
 *
 * Thread: the sidecar.
 */
#include "devices/virtio_net.h"
#include "vnet/core.h"

static struct rx_loan *loan_of(struct landing *landing)
{
	return container_of(landing, struct rx_loan, landing);
}

/* What a loan still has was not used. The first one is the next to be taken. */
static void loan_spare(struct rx_scratch *rx, const struct rx_loan *loan)
{
	const struct iovec *iov = loan->iov + loan->segment_count;

	rx->lent -= loan->chain_count;
	for (unsigned i = loan->chain_count; i-- > 0;) {
		struct rx_spare *spare = &rx->spares[rx->spare_count++];

		iov -= loan->chains[i].in_count;
		spare->chain = loan->chains[i];
		memcpy(spare->iov, iov, spare->chain.in_count * sizeof(*iov));
	}
}

/* Take one more chain into a loan. */
static bool loan_extend(struct virtio_net *net, struct rx_loan *loan)
{
	const unsigned spare_count = net->rx->spare_count;
	struct iovec *iov = net->rx->more;
	struct vq_chain chain;

	if (loan->chain_count == LOAN_CHAINS ||
	    net->rx->lent >= net->dev.queues[QUEUE_RX].ring.size / 2 ||
	    !net_rx_take(&net->pairs[0], &chain, iov, loan->chain_count ? 1 : NET_HEADER))
		return false;
	if (chain.in_count > LOAN_CHAIN_SEGMENTS ||
	    loan->segment_count + chain.in_count > LANDING_PIECES) {
		net_rx_untake(&net->pairs[0], 1, spare_count);
		return false;
	}
	memcpy(loan->iov + loan->segment_count, iov, chain.in_count * sizeof(*iov));
	loan->segment_count += chain.in_count;
	loan->chains[loan->chain_count++] = chain;
	net->rx->lent++;
	loan->landing.len += chain.in_len;
	return true;
}

static struct rx_loan *loan_free(struct rx_scratch *rx)
{
	for (unsigned i = 0; i < LOANS; i++)
		if (!rx->loans[i].lent)
			return &rx->loans[i];
	return NULL;
}

void net_land(struct port *port, uint32_t len, struct landing **holder)
{
	struct virtio_net *net = container_of(port, struct virtio_net, port);
	bool mergeable = virtio_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF);
	bool known = net->dev.running && net->port.pairs_active < 2;
	struct rx_loan *loan = known ? loan_free(net->rx) : NULL;

	*holder = NULL;
	if (!loan)
		return;
	loan->chain_count = loan->segment_count = 0;
	loan->landing = (struct landing){.port = port, .holder = holder};
	while (loan->landing.len < NET_HEADER + len && (mergeable || !loan->chain_count))
		if (!loan_extend(net, loan))
			break;
	if (loan->landing.len < NET_HEADER + len) {
		loan_spare(net->rx, loan);
		return;
	}
	loan->landing.len -= NET_HEADER;
	loan->landing.room = iov_cursor(loan->iov, loan->segment_count);
	iov_skip(&loan->landing.room, NET_HEADER);
	loan->lent = true;
	*holder = &loan->landing;
}

static void landing_erase(struct landing *landing)
{
	struct iov_cursor at = landing->room;

	while (landing->written) {
		struct iovec piece = iov_piece(&at);

		if (piece.iov_len > landing->written)
			piece.iov_len = landing->written;
		memset(piece.iov_base, 0, piece.iov_len);
		at.offset += piece.iov_len;
		landing->written -= piece.iov_len;
	}
}

void net_land_end(struct landing *landing)
{
	struct virtio_net *net = container_of(landing->port, struct virtio_net, port);
	struct rx_loan *loan = loan_of(landing);

	landing_erase(landing);
	loan_spare(net->rx, loan);
	loan->lent = false;
	*landing->holder = NULL;
}

bool net_landed(const struct virtio_net *net, const struct frame *frame)
{
	return frame->landing && frame->landing->port == &net->port;
}

void net_land_give(struct virtio_net *net, const struct frame *frame)
{
	struct rx_loan *loan = loan_of(frame->landing);
	struct virtio_queue *queue = &net->dev.queues[QUEUE_RX];
	struct iov_cursor at = iov_cursor(loan->iov, loan->segment_count);
	uint64_t left = NET_HEADER + frame->len, segments = 0;
	struct virtio_net_hdr_v1 hdr;
	unsigned n = 0;

	while (left) {
		const struct vq_chain *chain = &loan->chains[n++];
		uint64_t written = left < chain->in_len ? left : chain->in_len;

		virtqueue_push(&queue->ring, chain->head, written);
		segments += chain->in_count;
		left -= written;
	}
	hdr = net_rx_header(net, frame, n);
	iov_write(&at, &hdr, NET_HEADER);
	queue->requests += n;
	net->port.counters.landed_frames++;
	/* What is left is spare when the loan ends. */
	net->rx->lent -= n;
	loan->chain_count -= n;
	loan->segment_count -= segments;
	memmove(loan->chains, loan->chains + n, loan->chain_count * sizeof(loan->chains[0]));
	memmove(loan->iov, loan->iov + segments, loan->segment_count * sizeof(loan->iov[0]));
	loan->landing.written = 0;
}

void net_land_forget(struct virtio_net *net)
{
	struct rx_scratch *rx = net->rx;

	if (rx->lent && net->port.core)
		core_recall(net->port.core);
	for (unsigned i = 0; i < LOANS; i++) {
		if (rx->loans[i].lent)
			*rx->loans[i].landing.holder = NULL;
		rx->loans[i].lent = false;
	}
	rx->lent = rx->spare_count = 0;
}
