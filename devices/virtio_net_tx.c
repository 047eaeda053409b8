/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Transmit of the network device: from the guest's ring to the core.
 *
 * A visit to the queue takes batches of up to FRAME_BATCH_MAX requests. Each becomes a
 * struct frame whose segments point into guest RAM; only the Ethernet header is copied, once, and
 * travels as the frame's first segment, so that what was routed is what is sent however the guest
 * rewrites its memory meanwhile. The batch goes through the core to its end before the requests are
 * given back and shown, once per batch; those that a link holds longer follow (tx_holds.c). A visit
 * ends when the ring is empty and doorbells are on again, or after TX_VISIT_BATCHES: then it queues
 * itself behind everybody else's work, so that a guest that sends as fast as it is served starves
 * nobody.
 *
 * A link that is full for a moment (port_ops.full) is waited for: the requests stay in the ring,
 * and the guest notices that they do. The sidecar goes on with its other work meanwhile and tries
 * again in each turn, for TX_WAIT_NS; then frames are dropped until there is room again.
 *
 * What a header asks for becomes the frame's offload state, if the driver negotiated it
 * (tx_offload()) and offload_check() finds that it fits the frame. Frames to be cut may be as large
 * as FRAME_SIZE_MAX, others keep to the MTU.
 *
 * Thread: the sidecar.
 */
#include <sched.h>

#include "devices/virtio_net.h"
#include "vnet/core.h"
#include "vnet/iovec.h"
#include "vnet/offload.h"

#define TX_VISIT_BATCHES 8u	      /* batches taken before others have their turn */
#define TX_BATCH_BYTES	 (512u << 10) /* a batch with so many is full, as links have limits too */
#define TX_WAIT_NS	 1000000u     /* for room where the frames go */

/*
 * What a header asks for, as the frame's offload state; fields of no meaning are left out. Returns
 * false when the driver did not negotiate that (virtio 1.2, 5.1.6.2.1).
 */
static bool tx_offload(const struct virtio_net *net, const struct virtio_net_hdr_v1 *hdr,
		       struct frame *frame)
{
	struct frame_offload *offload = &frame->offload;

	*offload = (struct frame_offload){.flags = hdr->flags, .gso_type = hdr->gso_type};
	if (hdr->flags) {
		offload->csum_start = hdr->csum_start;
		offload->csum_offset = hdr->csum_offset;
	}
	if (hdr->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		offload->hdr_len = hdr->hdr_len;
		offload->gso_size = hdr->gso_size;
	}
	return !(hdr->flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
	       !(offload_needs(frame) & ~net->tx_offloads);
}

/*
 * Make a frame of a request; its segments are in @iov from the second one on, the first is free.
 * Returns DROP_REASONS when the frame may go.
 */
static enum drop_reason tx_frame(const struct virtio_net *net, struct frame *frame,
				 struct iovec *iov, const struct vq_chain *chain)
{
	struct iov_cursor at = iov_cursor(iov + 1, chain->out_count);
	struct virtio_net_hdr_v1 hdr;
	struct iovec *start;

	*frame = (struct frame){0};
	if (chain->in_len || iov_read(&at, &hdr, NET_HEADER) < NET_HEADER)
		return DROP_FORMAT;
	if (!tx_offload(net, &hdr, frame))
		return DROP_FORMAT;
	if (chain->out_len - NET_HEADER > frame_limit(net, frame) ||
	    frame->offload.gso_size > net->mtu)
		return DROP_OVERSIZE;
	frame->len = chain->out_len - NET_HEADER;
	if (iov_read(&at, frame->eth, FRAME_HEADER) < FRAME_HEADER)
		return DROP_RUNT;

	/* Cut off what was passed, and put the copied header in front. */
	iov_piece(&at);
	start = iov + (at.iov - iov);
	if (at.count) {
		start->iov_base = (char *)start->iov_base + at.offset;
		start->iov_len -= at.offset;
	}
	start[-1] = (struct iovec){.iov_base = frame->eth, .iov_len = FRAME_HEADER};
	frame->iov = start - 1;
	frame->iovcnt = at.count + 1;
	return offload_check(frame) ? DROP_REASONS : DROP_OFFLOAD;
}

/* Remember where these flows come from, if there is a choice of where to answer. */
static void flows_learn(const struct net_pair *pair, unsigned ready)
{
	const struct virtio_net *net = pair->net;

	if (net->port.pairs_active < 2 || pair->index >= net->port.pairs_active)
		return;
	for (unsigned i = 0; i < ready; i++)
		net_flow_sent(net->flows, net->tx->ready[i], pair->index);
}

/* Whether to wait for room. The yield is for the peer that makes it, which may want this CPU. */
static bool tx_wait(struct net_pair *pair)
{
	const struct port *port = &pair->net->port;
	uint64_t now;

	if (!core_full(port->core, port)) {
		pair->tx_full_ns = 0;
		return false;
	}
	now = loop_now();
	if (!pair->tx_full_ns)
		pair->tx_full_ns = now;
	if (now - pair->tx_full_ns >= TX_WAIT_NS)
		return false;
	sched_yield();
	return true;
}

/* Take and send one batch: virtio_queue_visit(). */
static int tx_batch(struct virtio_device *dev, unsigned index)
{
	struct virtio_net *net = net_of(dev);
	struct net_pair *pair = &net->pairs[index / PAIR_QUEUES];
	struct tx_batch *tx = net->tx;
	unsigned taken = 0, ready = 0, used = 0, bytes = 0;
	struct vq_chain chain;

	pair->tx_waits = tx_wait(pair);
	if (pair->tx_waits)
		return -1;
	while (taken < FRAME_BATCH_MAX && bytes < TX_BATCH_BYTES &&
	       TX_SEGMENTS - used >= TX_REQUEST_SEGMENTS &&
	       virtio_queue_pop(dev, index, &chain, tx->iov + used + 1, VIRTQUEUE_CHAIN_MAX)) {
		struct frame *frame = &tx->frames[ready];
		enum drop_reason reason = tx_frame(net, frame, tx->iov + used, &chain);

		frame->hold = tx->holds[taken++] = tx_holds_take(pair->holds, chain.head);
		if (reason == DROP_REASONS) {
			tx->ready[ready++] = frame;
			pair->tx_taken += offload_segments(frame);
			used += chain.out_count + 1;
			bytes += frame->len;
		} else {
			pair->tx_taken++;
			net_drop(net, reason);
		}
	}
	flows_learn(pair, ready);
	if (ready)
		core_input(net->port.core, &net->port, tx->ready, ready);
	for (unsigned i = 0; i < taken; i++)
		frame_release(tx->holds[i]);
	tx_holds_publish(pair->holds);
	return taken > 0;
}

void net_tx_visit(struct net_pair *pair)
{
	struct virtio_device *dev = &pair->net->dev;
	bool more;

	pair->tx_taken = 0;
	more = virtio_queue_visit(dev, pair->tx, TX_VISIT_BATCHES, tx_batch);
	mode_count(net_pair_mode(pair, PORT_TX), pair->tx_taken, loop_now());
	if ((more || pair->tx_waits) && !dev->queues[pair->tx].polled)
		loop_defer(dev->loop, &pair->tx_task);
}

void net_tx_run(struct loop_task *task)
{
	net_tx_visit(container_of(task, struct net_pair, tx_task));
}
