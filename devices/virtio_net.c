/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The virtio network device (virtio 1.2, 5.1): an interface port of the overlay on one side, three
 * virtqueues on the other. Everything runs on the sidecar but config_read(), which a vCPU thread
 * calls at any moment; what the guest can change in the configuration is therefore one atomic word.
 *
 * Transmit: a visit to the queue takes batches of up to FRAME_BATCH_MAX requests. Each becomes a
 * struct frame whose segments point into guest RAM; only the Ethernet header is copied, once, and
 * travels as the frame's first segment, so that what was routed is what is sent however the guest
 * rewrites its memory meanwhile. The batch goes through the core to its end before the requests are
 * given back and shown, once per batch; those that a link holds longer follow (tx_holds.c). A visit ends when the ring is empty and doorbells are on
 * again, or after TX_VISIT_BATCHES: then it queues itself behind everybody else's work, so that a
 * guest that sends as fast as it is served starves nobody.
 *
 * Receive: the core calls send_batch(). Each frame is copied into the guest's next buffers: as many
 * as it takes with mergeable buffers, else one. Buffers of a frame that does not fit are put back,
 * and the frame is dropped and counted. The batch is shown by one publish. The driver is never
 * asked to ring for new receive buffers: they are looked at when a frame is there.
 *
 * Modes: each direction is guest-driven or VMM-driven, see vnet/mode.c; the switch is the port's,
 * and counts what goes through. A VMM-driven transmit queue is looked at in each turn of the loop
 * with doorbells off; before the loop sleeps they are on, and the ring is looked at once more
 * (tx_rest()). When the queue becomes guest-driven again a visit is deferred, which ends by the
 * same two steps, so that no request is left behind. In a VMM-driven receive direction the loop
 * spins for frames from the links; there is no ring of the guest's to look at.
 *
 * Control: receive modes, the MAC filter table, the MAC address, the acknowledgement of an
 * announcement. A command that was not negotiated, is unknown, or is of the wrong length is
 * answered by VIRTIO_NET_ERR and changes nothing.
 *
 * Offloads: what a header asks for becomes the frame's offload state, if the driver negotiated it
 * (tx_offload()) and offload_check() finds that it fits the frame. What the driver takes unfinished
 * is port.offloads, from its features or its last word on the control queue; the core does the rest
 * before it sends a frame here. Frames to be cut may be as large as FRAME_SIZE_MAX, others keep to
 * the MTU.
 *
 * A driver that did not negotiate CTRL_RX cannot say what it wants to hear and gets every frame.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/devices.h"
#include "devices/tx_holds.h"
#include "vnet/iovec.h"
#include "devices/virtio.h"
#include "vnet/core.h"
#include "vnet/offload.h"
#include "vnet/port.h"

/* virtio 1.2, 5.1.3; younger than the headers of Linux 6.1 */
#ifndef VIRTIO_NET_F_GUEST_USO4
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO	56
#endif

#define NET_HEADER	sizeof(struct virtio_net_hdr_v1)
#define NET_CONFIG_SIZE offsetof(struct virtio_net_config, speed)
#define NET_VLAN_TAGS	8u /* bytes of two tags that may come on top of the MTU (IEEE 802.1ad) */

#define TX_VISIT_BATCHES 8u /* batches taken before others have their turn */
/* Segments of a batch: any first request fits, with a slot for the Ethernet header of each frame.
 */
#define TX_REQUEST_SEGMENTS (VIRTQUEUE_CHAIN_MAX + 1)
#define TX_SEGMENTS	    (2 * TX_REQUEST_SEGMENTS)

#define CTRL_QUEUE_SIZE	    64u
#define CTRL_VISIT_REQUESTS 16u
#define MAC_TABLE_MAX	    64u /* addresses, unicast and multicast together */

/* The changeable part of the configuration, as it lies in guest view: mac[6], then le16 status. */
#define CONFIG_MAC_MASK	    0x0000ffffffffffffull
#define CONFIG_STATUS_SHIFT 48

enum net_queue { QUEUE_RX, QUEUE_TX, QUEUE_CTRL, QUEUES };

struct tx_batch {
	struct frame frames[FRAME_BATCH_MAX];
	struct frame *ready[FRAME_BATCH_MAX];
	struct frame_hold *holds[FRAME_BATCH_MAX];
	struct iovec iov[TX_SEGMENTS];
};

/* A receive buffer that is filled but not yet given back. */
struct rx_buffer {
	uint16_t head;
	uint32_t written;
};

struct rx_scratch {
	struct rx_buffer buffers[VIRTQUEUE_SIZE_MAX];
	struct iovec
	    first[VIRTQUEUE_CHAIN_MAX]; /* of a frame's first buffer, which has its header */
	struct iovec more[VIRTQUEUE_CHAIN_MAX];
};

/* Owned by the sidecar, but for config_word. */
struct virtio_net {
	struct virtio_device dev;
	struct port port;
	struct loop_task tx_task, ctrl_task;
	struct mode_switch modes[PORT_DIRECTIONS]; /* port.modes */
	struct loop_poll polls[PORT_DIRECTIONS];   /* active while VMM-driven and running */
	uint64_t rx_seen; /* port.counters.out_frames of the last rx_poll() */
	enum net_irq irq;
	uint16_t mtu;
	uint32_t frame_max;	      /* bytes */
	uint64_t mac_default;	      /* as in config_word */
	_Atomic uint64_t config_word; /* written by the sidecar, read by vCPU threads */
	unsigned tx_taken;	      /* requests, in this visit */
	uint32_t tx_offloads;	      /* enum port_offload bits the driver may ask for */
	bool promiscuous, all_multicast;
	unsigned mac_count;
	uint64_t macs[MAC_TABLE_MAX]; /* as in config_word */
	/* Apart, and never cleared, so that pages which are not used are not resident. */
	struct tx_batch *tx;
	struct tx_holds *holds;
	struct rx_scratch *rx;
};

/* An address as the low 48 bits of config_word; hosts are little endian. */
static uint64_t mac_word(const uint8_t mac[FRAME_MAC_SIZE])
{
	uint64_t word = 0;

	memcpy(&word, mac, FRAME_MAC_SIZE);
	return word;
}

static struct virtio_net *net_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_net, dev);
}

static void net_drop(struct virtio_net *net, enum drop_reason reason)
{
	net->port.counters.drops[reason]++;
}

/* --- offloads ------------------------------------------------------------------------------- */

#define FEATURE(name) (1ull << VIRTIO_NET_F_##name)

/* Offered with opt->offload (virtio 1.2, 5.1.3). */
#define HOST_FEATURES                                                                              \
	(FEATURE(CSUM) | FEATURE(HOST_TSO4) | FEATURE(HOST_TSO6) | FEATURE(HOST_ECN) |             \
	 FEATURE(HOST_USO))
#define GUEST_FEATURES                                                                             \
	(FEATURE(GUEST_CSUM) | FEATURE(GUEST_TSO4) | FEATURE(GUEST_TSO6) | FEATURE(GUEST_ECN) |    \
	 FEATURE(GUEST_USO4) | FEATURE(GUEST_USO6))

/* Nothing comes without the checksum (virtio 1.2, 5.1.3.1). */
static uint32_t offloads_sound(uint32_t offloads)
{
	return offloads & PORT_CSUM ? offloads : 0;
}

/* What a driver with these features may ask for. */
static uint32_t host_offloads(uint64_t features)
{
	return offloads_sound((features & FEATURE(CSUM) ? PORT_CSUM : 0) |
			      (features & FEATURE(HOST_TSO4) ? PORT_TSO4 : 0) |
			      (features & FEATURE(HOST_TSO6) ? PORT_TSO6 : 0) |
			      (features & FEATURE(HOST_ECN) ? PORT_ECN : 0) |
			      (features & FEATURE(HOST_USO) ? PORT_USO : 0));
}

/* What it takes. */
static uint32_t guest_offloads(uint64_t features)
{
	const uint64_t uso = FEATURE(GUEST_USO4) | FEATURE(GUEST_USO6);

	return offloads_sound((features & FEATURE(GUEST_CSUM) ? PORT_CSUM : 0) |
			      (features & FEATURE(GUEST_TSO4) ? PORT_TSO4 : 0) |
			      (features & FEATURE(GUEST_TSO6) ? PORT_TSO6 : 0) |
			      (features & FEATURE(GUEST_ECN) ? PORT_ECN : 0) |
			      ((features & uso) == uso ? PORT_USO : 0));
}

/* --- transmit ------------------------------------------------------------------------------- */

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

/* Bytes a frame may have: the MTU holds for what it is cut into. */
static uint32_t frame_limit(const struct virtio_net *net, const struct frame *frame)
{
	return frame->offload.gso_type == VIRTIO_NET_HDR_GSO_NONE ? net->frame_max : FRAME_SIZE_MAX;
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

/* Take and send one batch: virtio_queue_visit(). */
static int tx_batch(struct virtio_device *dev, unsigned index)
{
	struct virtio_net *net = net_of(dev);
	struct tx_batch *tx = net->tx;
	unsigned taken = 0, ready = 0, used = 0;
	struct vq_chain chain;

	while (taken < FRAME_BATCH_MAX && TX_SEGMENTS - used >= TX_REQUEST_SEGMENTS &&
	       virtio_queue_pop(dev, index, &chain, tx->iov + used + 1, VIRTQUEUE_CHAIN_MAX)) {
		struct frame *frame = &tx->frames[ready];
		enum drop_reason reason = tx_frame(net, frame, tx->iov + used, &chain);

		frame->hold = tx->holds[taken++] = tx_holds_take(net->holds, chain.head);
		if (reason == DROP_REASONS) {
			tx->ready[ready++] = frame;
			used += chain.out_count + 1;
		} else {
			net_drop(net, reason);
		}
	}
	if (ready)
		core_input(net->port.core, &net->port, tx->ready, ready);
	for (unsigned i = 0; i < taken; i++)
		frame_release(tx->holds[i]);
	tx_holds_publish(net->holds);
	net->tx_taken += taken;
	return taken > 0;
}

static void tx_visit(struct virtio_net *net)
{
	struct virtio_queue *q = &net->dev.queues[QUEUE_TX];
	bool more;

	net->tx_taken = 0;
	more = virtio_queue_visit(&net->dev, QUEUE_TX, TX_VISIT_BATCHES, tx_batch);
	mode_count(&net->modes[PORT_TX], net->tx_taken, loop_now());
	if (more && !q->polled)
		loop_defer(net->dev.loop, &net->tx_task);
}

static void tx_run(struct loop_task *task)
{
	tx_visit(container_of(task, struct virtio_net, tx_task));
}

/* --- modes ---------------------------------------------------------------------------------- */

static bool tx_poll(struct loop_poll *poll, uint64_t now_ns)
{
	struct virtio_net *net = container_of(poll, struct virtio_net, polls[PORT_TX]);

	if (virtqueue_pending(&net->dev.queues[QUEUE_TX].ring)) {
		tx_visit(net);
		return true;
	}
	mode_count(&net->modes[PORT_TX], 0, now_ns);
	return false;
}

/* Doorbells on, for the time that the loop sleeps. */
static bool tx_rest(struct loop_poll *poll)
{
	struct virtio_net *net = container_of(poll, struct virtio_net, polls[PORT_TX]);

	return virtqueue_notify_on(&net->dev.queues[QUEUE_TX].ring);
}

/* The links are watched by the loop itself; this says whether they brought something. */
static bool rx_poll(struct loop_poll *poll, uint64_t now_ns)
{
	struct virtio_net *net = container_of(poll, struct virtio_net, polls[PORT_RX]);
	bool found = net->rx_seen != net->port.counters.out_frames;

	net->rx_seen = net->port.counters.out_frames;
	if (!found)
		mode_count(&net->modes[PORT_RX], 0, now_ns);
	return found;
}

/* Do as the mode says. */
static void mode_apply(struct virtio_net *net, enum port_direction direction)
{
	const struct mode_switch *sw = &net->modes[direction];
	struct loop_poll *poll = &net->polls[direction];
	bool polled = sw->mode == MODE_VMM && net->dev.running;

	if (direction == PORT_TX)
		net->dev.queues[QUEUE_TX].polled = polled;
	poll->patient = sw->rules.policy == MODE_VMM;
	if (polled)
		loop_poll_start(net->dev.loop, poll);
	else
		loop_poll_stop(net->dev.loop, poll);
}

static void tx_mode_changed(struct mode_switch *sw)
{
	struct virtio_net *net = container_of(sw, struct virtio_net, modes[PORT_TX]);

	mode_apply(net, PORT_TX);
	if (net->dev.running)
		loop_defer(net->dev.loop, &net->tx_task);
}

static void rx_mode_changed(struct mode_switch *sw)
{
	mode_apply(container_of(sw, struct virtio_net, modes[PORT_RX]), PORT_RX);
}

static void modes_init(struct virtio_net *net, const struct mode_rules *rules)
{
	net->modes[PORT_TX].changed = tx_mode_changed;
	net->modes[PORT_RX].changed = rx_mode_changed;
	for (enum port_direction d = 0; d < PORT_DIRECTIONS; d++)
		mode_init(&net->modes[d], rules, loop_now());
	net->polls[PORT_TX] = (struct loop_poll){.poll = tx_poll, .rest = tx_rest};
	net->polls[PORT_RX] = (struct loop_poll){.poll = rx_poll};
	net->port.modes = net->modes;
}

/* --- receive -------------------------------------------------------------------------------- */

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
static bool rx_take(struct virtio_net *net, struct vq_chain *chain, struct iovec *iov, size_t min)
{
	if (!virtio_queue_pop(&net->dev, QUEUE_RX, chain, iov, VIRTQUEUE_CHAIN_MAX))
		return false;
	if (chain->out_len || chain->in_len < min) {
		virtio_broken(&net->dev, "a receive buffer is readable, or too short for a header");
		return false;
	}
	return true;
}

/*
 * Copy the rest of a frame into further buffers. @n buffers are filled already. Returns their
 * number, with @left 0 when the frame fitted.
 */
static unsigned rx_merge(struct virtio_net *net, struct iov_cursor *from, size_t *left, unsigned n)
{
	struct rx_scratch *rx = net->rx;
	struct vq_chain chain;

	while (*left && rx_take(net, &chain, rx->more, 1)) {
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
static enum drop_reason rx_frame(struct virtio_net *net, const struct frame *frame)
{
	struct virtqueue *ring = &net->dev.queues[QUEUE_RX].ring;
	bool mergeable = virtio_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF);
	struct virtio_net_hdr_v1 hdr = rx_header(net, frame);
	struct iov_cursor from = iov_cursor(frame->iov, frame->iovcnt), to;
	struct rx_scratch *rx = net->rx;
	size_t left = frame->len, len;
	struct vq_chain chain;
	unsigned n = 1;

	if (frame->len > frame_limit(net, frame))
		return DROP_OVERSIZE;
	if (!rx_take(net, &chain, rx->first, NET_HEADER))
		return DROP_RING_FULL;
	to = iov_cursor(rx->first, chain.in_count);
	iov_write(&to, &hdr, NET_HEADER);
	len = iov_copy(&to, &from, left);
	left -= len;
	rx->buffers[0] = (struct rx_buffer){chain.head, NET_HEADER + len};
	if (mergeable)
		n = rx_merge(net, &from, &left, n);
	if (left) {
		virtqueue_unpop(ring, n);
		return mergeable ? DROP_RING_FULL : DROP_OVERSIZE;
	}
	if (n > 1) {
		hdr.num_buffers = n;
		to = iov_cursor(rx->first, chain.in_count);
		iov_write(&to, &hdr, NET_HEADER);
	}
	for (unsigned i = 0; i < n; i++)
		virtqueue_push(ring, rx->buffers[i].head, rx->buffers[i].written);
	net->dev.queues[QUEUE_RX].requests += n;
	return DROP_REASONS;
}

static enum drop_reason rx_deliver(struct virtio_net *net, const struct frame *frame)
{
	if (!net->dev.running)
		return DROP_RING_FULL;
	if (!rx_wanted(net, frame))
		return DROP_FILTER;
	if (offload_needs(frame) & ~net->port.offloads)
		return DROP_OFFLOAD;
	return rx_frame(net, frame);
}

static void net_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct virtio_net *net = container_of(port, struct virtio_net, port);
	struct port_counters *counters = &port->counters;
	uint64_t before = counters->out_frames;

	if (net->irq == NET_IRQ_EARLY)
		virtio_queue_interrupt_early(&net->dev, QUEUE_RX);
	for (unsigned i = 0; i < n; i++) {
		enum drop_reason reason = rx_deliver(net, frames[i]);

		if (reason != DROP_REASONS) {
			net_drop(net, reason);
			continue;
		}
		counters->out_frames++;
		counters->out_bytes += frames[i]->len;
		counters->copied_bytes += frames[i]->len;
	}
	counters->batches++;
	virtio_queue_publish(&net->dev, QUEUE_RX);
	mode_count(&net->modes[PORT_RX], counters->out_frames - before, loop_now());
}

/* --- control -------------------------------------------------------------------------------- */

/* A command's data: what is behind its header, and how long that is. */
struct ctrl_data {
	struct iov_cursor at;
	uint64_t len; /* bytes left */
};

static bool ctrl_take(struct ctrl_data *data, void *value, size_t len)
{
	if (data->len < len)
		return false;
	data->len -= len;
	return iov_read(&data->at, value, len) == len;
}

/* The data is this value and nothing else. */
static bool ctrl_only(struct ctrl_data *data, void *value, size_t len)
{
	return data->len == len && ctrl_take(data, value, len);
}

static bool ctrl_mode(struct ctrl_data *data, bool *mode)
{
	uint8_t on;

	if (!ctrl_only(data, &on, sizeof(on)))
		return false;
	*mode = on;
	return true;
}

static bool ctrl_promiscuous(struct virtio_net *net, struct ctrl_data *data)
{
	return ctrl_mode(data, &net->promiscuous);
}

static bool ctrl_all_multicast(struct virtio_net *net, struct ctrl_data *data)
{
	return ctrl_mode(data, &net->all_multicast);
}

/* Append one list of addresses to @macs, which has @count of them. */
static bool ctrl_mac_list(struct ctrl_data *data, uint64_t *macs, unsigned *count)
{
	uint8_t mac[FRAME_MAC_SIZE];
	uint32_t entries;

	if (!ctrl_take(data, &entries, sizeof(entries)) || entries > MAC_TABLE_MAX - *count)
		return false;
	while (entries--) {
		if (!ctrl_take(data, mac, sizeof(mac)))
			return false;
		macs[(*count)++] = mac_word(mac);
	}
	return true;
}

/* A list of unicast addresses, then one of multicast addresses (virtio 1.2, 5.1.6.5.2). */
static bool ctrl_mac_table(struct virtio_net *net, struct ctrl_data *data)
{
	uint64_t macs[MAC_TABLE_MAX];
	unsigned count = 0;

	/* NOLINTNEXTLINE: each call takes the next list */
	if (!ctrl_mac_list(data, macs, &count) || !ctrl_mac_list(data, macs, &count) || data->len)
		return false;
	memcpy(net->macs, macs, count * sizeof(macs[0]));
	net->mac_count = count;
	return true;
}

static void config_change(struct virtio_net *net, uint64_t clear, uint64_t set)
{
	uint64_t word = atomic_load_explicit(&net->config_word, memory_order_relaxed);

	atomic_store_explicit(&net->config_word, (word & ~clear) | set, memory_order_relaxed);
}

static bool ctrl_mac_addr(struct virtio_net *net, struct ctrl_data *data)
{
	uint8_t mac[FRAME_MAC_SIZE];

	if (!ctrl_only(data, mac, sizeof(mac)) || (mac[0] & 1))
		return false;
	config_change(net, CONFIG_MAC_MASK, mac_word(mac));
	return true;
}

static bool ctrl_announced(struct virtio_net *net, struct ctrl_data *data)
{
	if (data->len)
		return false;
	config_change(net, (uint64_t)VIRTIO_NET_S_ANNOUNCE << CONFIG_STATUS_SHIFT, 0);
	return true;
}

/* virtio 1.2, 5.1.6.5.6 */
static bool ctrl_offloads(struct virtio_net *net, struct ctrl_data *data)
{
	uint64_t wanted;

	if (!ctrl_only(data, &wanted, sizeof(wanted)) ||
	    wanted & ~(net->dev.features & GUEST_FEATURES))
		return false;
	net->port.offloads = guest_offloads(wanted);
	return true;
}

/* Every command there is, and the feature that brings it (virtio 1.2, 5.1.6.5). */
static const struct ctrl_command {
	struct virtio_net_ctrl_hdr hdr;
	uint8_t feature;
	bool (*run)(struct virtio_net *net, struct ctrl_data *data);
} ctrl_commands[] = {
    {{VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC}, VIRTIO_NET_F_CTRL_RX, ctrl_promiscuous},
    {{VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI}, VIRTIO_NET_F_CTRL_RX, ctrl_all_multicast},
    {{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET}, VIRTIO_NET_F_CTRL_RX, ctrl_mac_table},
    {{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET},
     VIRTIO_NET_F_CTRL_MAC_ADDR,
     ctrl_mac_addr},
    {{VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK},
     VIRTIO_NET_F_GUEST_ANNOUNCE,
     ctrl_announced},
    {{VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET},
     VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
     ctrl_offloads},
};

static virtio_net_ctrl_ack ctrl_run(struct virtio_net *net, const struct vq_chain *chain)
{
	struct ctrl_data data = {iov_cursor(net->rx->first, chain->out_count), chain->out_len};
	struct virtio_net_ctrl_hdr hdr;

	if (!ctrl_take(&data, &hdr, sizeof(hdr)))
		return VIRTIO_NET_ERR;
	for (size_t i = 0; i < sizeof(ctrl_commands) / sizeof(ctrl_commands[0]); i++) {
		const struct ctrl_command *c = &ctrl_commands[i];

		if (c->hdr.class == hdr.class && c->hdr.cmd == hdr.cmd)
			return virtio_has(&net->dev, c->feature) && c->run(net, &data)
				   ? VIRTIO_NET_OK
				   : VIRTIO_NET_ERR;
	}
	return VIRTIO_NET_ERR;
}

/* Serve one command: virtio_queue_visit(). */
static int ctrl_request(struct virtio_device *dev, unsigned index)
{
	struct virtio_net *net = net_of(dev);
	struct vq_chain chain;
	struct iov_cursor to;
	virtio_net_ctrl_ack ack;

	if (!virtio_queue_pop(dev, index, &chain, net->rx->first, VIRTQUEUE_CHAIN_MAX))
		return 0;
	if (!chain.in_len) {
		virtio_broken(dev, "a control command has no room for its answer");
		return 0;
	}
	ack = ctrl_run(net, &chain);
	to = iov_cursor(net->rx->first + chain.out_count, chain.in_count);
	iov_write(&to, &ack, sizeof(ack));
	virtqueue_push(&dev->queues[index].ring, chain.head, sizeof(ack));
	dev->queues[index].requests++;
	return 1;
}

static void ctrl_visit(struct virtio_net *net)
{
	if (virtio_queue_visit(&net->dev, QUEUE_CTRL, CTRL_VISIT_REQUESTS, ctrl_request))
		loop_defer(net->dev.loop, &net->ctrl_task);
}

static void ctrl_task_run(struct loop_task *task)
{
	ctrl_visit(container_of(task, struct virtio_net, ctrl_task));
}

/* --- the device ----------------------------------------------------------------------------- */

static void net_config_read(struct virtio_device *dev, uint32_t offset, void *data, uint32_t len)
{
	struct virtio_net *net = net_of(dev);
	uint64_t word = atomic_load_explicit(&net->config_word, memory_order_relaxed);
	struct virtio_net_config config = {.max_virtqueue_pairs = 1, .mtu = net->mtu};

	memcpy(&config, &word, sizeof(word));
	memcpy(data, (const char *)&config + offset, len);
}

/* What the last driver set is gone: virtio 1.2, 5.1.6.5.2 wants an empty table after a reset. */
static void net_forget(struct virtio_net *net)
{
	net->promiscuous = false;
	net->all_multicast = false;
	net->mac_count = 0;
	atomic_store_explicit(&net->config_word,
			      net->mac_default | (uint64_t)VIRTIO_NET_S_LINK_UP
						     << CONFIG_STATUS_SHIFT,
			      memory_order_relaxed);
}

static void net_start(struct virtio_device *dev)
{
	struct virtio_net *net = net_of(dev);

	net->tx_offloads = host_offloads(dev->features);
	net->port.offloads = guest_offloads(dev->features);
	virtqueue_notify_off(&dev->queues[QUEUE_RX].ring);
	mode_apply(net, PORT_TX);
	mode_apply(net, PORT_RX);
}

static void net_stop(struct virtio_device *dev)
{
	struct virtio_net *net = net_of(dev);

	if (tx_holds_out(net->holds))
		core_let_go(net->port.core);
	loop_forget(dev->loop, &net->tx_task);
	loop_forget(dev->loop, &net->ctrl_task);
	loop_poll_stop(dev->loop, &net->polls[PORT_TX]);
	loop_poll_stop(dev->loop, &net->polls[PORT_RX]);
	dev->queues[QUEUE_TX].polled = false;
	net->port.offloads = 0;
	net_forget(net);
}

static void net_queue_ready(struct virtio_device *dev, unsigned index)
{
	if (index == QUEUE_TX)
		tx_visit(net_of(dev));
	else if (index == QUEUE_CTRL)
		ctrl_visit(net_of(dev));
}

static const struct virtio_ops net_ops = {
    .name = "net",
    .type = VIRTIO_ID_NET,
    .class_code = 0x020000, /* network controller, Ethernet */
    .config_size = NET_CONFIG_SIZE,
    .config_read = net_config_read,
    .start = net_start,
    .stop = net_stop,
    .queue_ready = net_queue_ready,
};

/* The device is its maker's; the overlay only lets go of it. */
static void net_close(struct port *port)
{
	(void)port;
}

static const struct port_ops net_port_ops = {
    .type = "nic",
    .send_batch = net_send_batch,
    .close = net_close,
};

static bool options_possible(const struct virtio_net_options *opt)
{
	return opt->mtu >= 68 && opt->mtu <= UINT16_MAX && opt->queue_size >= 2 &&
	       opt->queue_size <= VIRTQUEUE_SIZE_MAX &&
	       !(opt->queue_size & (opt->queue_size - 1)) && !(opt->mac[0] & 1);
}

static void device_init(struct virtio_device *dev, const struct device_env *env,
			const struct virtio_net_options *opt)
{
	dev->ops = &net_ops;
	dev->mem = env->mem;
	dev->loop = env->loop;
	dev->features_offered = FEATURE(MTU) | FEATURE(MAC) | FEATURE(MRG_RXBUF) | FEATURE(STATUS) |
				FEATURE(CTRL_VQ) | FEATURE(CTRL_RX) | FEATURE(CTRL_MAC_ADDR) |
				FEATURE(GUEST_ANNOUNCE);
	if (opt->offload)
		dev->features_offered |=
		    HOST_FEATURES | GUEST_FEATURES | FEATURE(CTRL_GUEST_OFFLOADS);
	dev->queue_count = QUEUES;
	dev->queues[QUEUE_RX].size_max = opt->queue_size;
	dev->queues[QUEUE_TX].size_max = opt->queue_size;
	dev->queues[QUEUE_CTRL].size_max = CTRL_QUEUE_SIZE;
}

struct virtio_device *virtio_net_create(const struct device_env *env,
					const struct virtio_net_options *opt)
{
	struct virtio_net *net;

	if (!options_possible(opt)) {
		errno = EINVAL;
		return NULL;
	}
	net = calloc(1, sizeof(*net));
	if (!net)
		return NULL;
	net->tx = malloc(sizeof(*net->tx));
	net->rx = malloc(sizeof(*net->rx));
	net->holds = tx_holds_create(&net->dev, QUEUE_TX);
	if (!net->tx || !net->rx || !net->holds) {
		virtio_net_destroy(&net->dev);
		errno = ENOMEM;
		return NULL;
	}
	device_init(&net->dev, env, opt);
	net->tx_task.run = tx_run;
	net->ctrl_task.run = ctrl_task_run;
	modes_init(net, &opt->mode);
	net->irq = opt->irq;
	net->mtu = opt->mtu;
	net->frame_max = FRAME_HEADER + NET_VLAN_TAGS + opt->mtu;
	if (net->frame_max > FRAME_SIZE_MAX)
		net->frame_max = FRAME_SIZE_MAX;
	net->mac_default = mac_word(opt->mac);
	net_forget(net);
	net->port.ops = &net_port_ops;
	net->port.kind = PORT_INTERFACE;
	net->port.mtu = opt->mtu;
	snprintf(net->port.name, sizeof(net->port.name), "%s", opt->name);
	return &net->dev;
}

struct port *virtio_net_port(struct virtio_device *dev)
{
	return &net_of(dev)->port;
}

void virtio_net_announce(struct virtio_device *dev)
{
	if (!dev->running || !virtio_has(dev, VIRTIO_NET_F_GUEST_ANNOUNCE))
		return;
	config_change(net_of(dev), 0, (uint64_t)VIRTIO_NET_S_ANNOUNCE << CONFIG_STATUS_SHIFT);
	dev->raise_config(dev);
}

void virtio_net_destroy(struct virtio_device *dev)
{
	struct virtio_net *net;

	if (!dev)
		return;
	net = net_of(dev);
	if (net->port.core)
		core_detach(net->port.core, &net->port);
	tx_holds_destroy(net->holds);
	free(net->tx);
	free(net->rx);
	free(net);
}
