/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Receive of the network device: from the core into the guest's buffers.
 *
 * The core calls send_batch(). Each frame is copied into the next buffers of its pair (see
 * virtio_net_steer.c): as many as it takes with mergeable buffers, else one. Buffers of a frame
 * that does not fit are put back, and the frame is dropped and counted, as it is when the pair has
 * none: there is no other that the guest expects it in. The batch is shown by one publish a pair.
 * The driver is never asked to ring for new receive buffers: they are looked at when a frame is
 * there.
 *
 * A driver that did not negotiate CTRL_RX cannot say what it wants to hear and gets every frame.
 *
 * Thread: the sidecar.
 */
#include "devices/virtio_net.h"
#include "vnet/iovec.h"
#include "vnet/offload.h"

static bool mac_listed(const struct virtio_net *net, uint64_t mac)
{
	for (unsigned i = 0; i < net->mac_count; i++)
		if (net->macs[i] == mac)
			return true;
	return false;
}

/* virtio 1.2, 5.1.6.5.1 and 5.1.6.5.2 */
static bool rx_wanted(const struct virtio_net *net, const struct frame *frame)
{
	uint64_t mac = mac_word(frame->eth);
	bool group = frame->eth[0] & 1;

	if (!virtio_has(&net->dev, VIRTIO_NET_F_CTRL_RX) || net->promiscuous)
		return true;
	if (group && (net->all_multicast || mac == CONFIG_MAC_MASK))
		return true;
	if (!group && mac == (atomic_load_explicit(&net->config_word, memory_order_relaxed) &
			      CONFIG_MAC_MASK))
		return true;
	return mac_listed(net, mac);
}

/* Take a receive buffer of at least @min bytes; breaks the device when it is none. */
static bool rx_take(struct net_pair *pair, struct vq_chain *chain, struct iovec *iov, size_t min)
{
	struct virtio_device *dev = &pair->net->dev;

	if (!virtio_queue_pop(dev, pair->rx, chain, iov, VIRTQUEUE_CHAIN_MAX))
		return false;
	if (chain->out_len || chain->in_len < min) {
		virtio_broken(dev, "a receive buffer is readable, or too short for a header");
		return false;
	}
	return true;
}

/*
 * Copy the rest of a frame into further buffers. @n buffers are filled already. Returns their
 * number, with @left 0 when the frame fitted.
 */
static unsigned rx_merge(struct net_pair *pair, struct iov_cursor *from, size_t *left, unsigned n)
{
	struct rx_scratch *rx = pair->net->rx;
	struct vq_chain chain;

	while (*left && rx_take(pair, &chain, rx->more, 1)) {
		struct iov_cursor to = iov_cursor(rx->more, chain.in_count);
		size_t len = iov_copy(&to, from, *left);

		rx->buffers[n++] = (struct rx_buffer){chain.head, len};
		*left -= len;
	}
	return n;
}

/* virtio 1.2, 5.1.6.4.1: without GUEST_CSUM the flags are 0. */
static struct virtio_net_hdr_v1 rx_header(const struct virtio_net *net, const struct frame *frame)
{
	const struct frame_offload *offload = &frame->offload;

	if (!(net->port.offloads & PORT_CSUM))
		return (struct virtio_net_hdr_v1){.num_buffers = 1};
	return (struct virtio_net_hdr_v1){
	    .flags = offload->flags,
	    .gso_type = offload->gso_type,
	    .hdr_len = offload->hdr_len,
	    .gso_size = offload->gso_size,
	    .csum_start = offload->csum_start,
	    .csum_offset = offload->csum_offset,
	    .num_buffers = 1,
	};
}

/* Copy a frame into the guest's buffers. Returns DROP_REASONS when it is there. */
static enum drop_reason rx_frame(struct net_pair *pair, const struct frame *frame)
{
	struct virtio_net *net = pair->net;
	struct virtio_queue *queue = &net->dev.queues[pair->rx];
	bool mergeable = virtio_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF);
	struct virtio_net_hdr_v1 hdr = rx_header(net, frame);
	struct iov_cursor from = iov_cursor(frame->iov, frame->iovcnt), to;
	struct rx_scratch *rx = net->rx;
	size_t left = frame->len, len;
	struct vq_chain chain;
	unsigned n = 1;

	if (frame->len > frame_limit(net, frame))
		return DROP_OVERSIZE;
	if (!rx_take(pair, &chain, rx->first, NET_HEADER))
		return DROP_RING_FULL;
	to = iov_cursor(rx->first, chain.in_count);
	iov_write(&to, &hdr, NET_HEADER);
	len = iov_copy(&to, &from, left);
	left -= len;
	rx->buffers[0] = (struct rx_buffer){chain.head, NET_HEADER + len};
	if (mergeable)
		n = rx_merge(pair, &from, &left, n);
	if (left) {
		virtqueue_unpop(&queue->ring, n);
		return mergeable ? DROP_RING_FULL : DROP_OVERSIZE;
	}
	if (n > 1) {
		hdr.num_buffers = n;
		to = iov_cursor(rx->first, chain.in_count);
		iov_write(&to, &hdr, NET_HEADER);
	}
	for (unsigned i = 0; i < n; i++)
		virtqueue_push(&queue->ring, rx->buffers[i].head, rx->buffers[i].written);
	queue->requests += n;
	return DROP_REASONS;
}

static enum drop_reason rx_deliver(struct net_pair *pair, const struct frame *frame)
{
	const struct virtio_net *net = pair->net;

	if (!net->dev.running)
		return DROP_RING_FULL;
	if (!rx_wanted(net, frame))
		return DROP_FILTER;
	if (offload_needs(frame) & ~net->port.offloads)
		return DROP_OFFLOAD;
	return rx_frame(pair, frame);
}

static unsigned rx_pair(const struct virtio_net *net, const struct frame *frame)
{
	return net->port.pairs_active < 2
		   ? 0
		   : net_flow_pair(net->flows, frame, net->port.pairs_active);
}

/* The first frame of a batch for this pair is here. */
static void rx_begin(struct net_pair *pair)
{
	pair->rx_given = 0;
	if (pair->net->irq == NET_IRQ_EARLY)
		virtio_queue_interrupt_early(&pair->net->dev, pair->rx);
}

static void rx_end(struct net_pair *pair, uint64_t now_ns)
{
	virtio_queue_publish(&pair->net->dev, pair->rx);
	mode_count(net_pair_mode(pair, PORT_RX), pair->rx_given, now_ns);
}

void net_rx_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct virtio_net *net = container_of(port, struct virtio_net, port);
	struct port_counters *counters = &port->counters;
	unsigned begun = 0; /* a bit for each pair */
	uint64_t now_ns;

	for (unsigned i = 0; i < n; i++) {
		unsigned index = rx_pair(net, frames[i]);
		struct net_pair *pair = &net->pairs[index];
		enum drop_reason reason;

		if (!(begun & 1u << index))
			rx_begin(pair);
		begun |= 1u << index;
		reason = rx_deliver(pair, frames[i]);
		if (reason != DROP_REASONS) {
			net_drop(net, reason);
			continue;
		}
		pair->rx_given++;
		counters->out_frames++;
		counters->out_bytes += frames[i]->len;
		counters->copied_bytes += frames[i]->len;
	}
	counters->batches++;
	now_ns = loop_now();
	for (; begun; begun &= begun - 1)
		rx_end(&net->pairs[__builtin_ctz(begun)], now_ns);
}
