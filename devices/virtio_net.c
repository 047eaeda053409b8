/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The virtio network device (virtio 1.2, 5.1): an interface port of the overlay on one side,
 * virtqueues on the other. Here are its features, its configuration and its life; the ways of a
 * frame are virtio_net_tx.c and virtio_net_rx.c, who drives the queues virtio_net_mode.c, and what
 * the driver asks for virtio_net_ctrl.c.
 *
 * Queues: one pair, or several for a guest with several CPUs (VIRTIO_NET_F_MQ), then the control
 * queue. All are served by the one loop. A driver begins with one pair and says how many it uses;
 * only these are given frames (virtio_net_steer.c) and are polled. What it sends by another is sent
 * all the same: a driver that goes down to fewer pairs may have frames on their way there.
 *
 * Everything runs on the sidecar but config_read(), which a vCPU thread calls at any moment; what
 * the guest can change in the configuration is therefore one atomic word.
 *
 * Offloads: what the driver may ask for is net->tx_offloads, from its features. What it takes
 * unfinished is port.offloads, from its features or its last word on the control queue; the core
 * does the rest before it sends a frame here.
 */
#include "devices/virtio_net.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>

#include "vnet/core.h"

#define NET_CONFIG_SIZE offsetof(struct virtio_net_config, speed)
#define NET_VLAN_TAGS	8u /* bytes of two tags that may come on top of the MTU (IEEE 802.1ad) */

#define CTRL_QUEUE_SIZE 64u

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
uint32_t net_guest_offloads(uint64_t features)
{
	const uint64_t uso = FEATURE(GUEST_USO4) | FEATURE(GUEST_USO6);

	return offloads_sound((features & FEATURE(GUEST_CSUM) ? PORT_CSUM : 0) |
			      (features & FEATURE(GUEST_TSO4) ? PORT_TSO4 : 0) |
			      (features & FEATURE(GUEST_TSO6) ? PORT_TSO6 : 0) |
			      (features & FEATURE(GUEST_ECN) ? PORT_ECN : 0) |
			      ((features & uso) == uso ? PORT_USO : 0));
}

static void net_config_read(struct virtio_device *dev, uint32_t offset, void *data, uint32_t len)
{
	struct virtio_net *net = net_of(dev);
	uint64_t word = atomic_load_explicit(&net->config_word, memory_order_relaxed);
	struct virtio_net_config config = {.max_virtqueue_pairs = net->port.pairs, .mtu = net->mtu};

	memcpy(&config, &word, sizeof(word));
	memcpy(data, (const char *)&config + offset, len);
}

void net_config_change(struct virtio_net *net, uint64_t clear, uint64_t set)
{
	uint64_t word = atomic_load_explicit(&net->config_word, memory_order_relaxed);

	atomic_store_explicit(&net->config_word, (word & ~clear) | set, memory_order_relaxed);
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
	net->port.offloads = net_guest_offloads(dev->features);
	/* virtio 1.2, 5.1.2: for a driver that knows of one pair it is the third. */
	net->ctrl_queue = PAIR_QUEUES * (virtio_has(dev, VIRTIO_NET_F_MQ) ? net->port.pairs : 1);
	for (unsigned i = QUEUE_RX; i < net->ctrl_queue; i += PAIR_QUEUES)
		virtqueue_notify_off(&dev->queues[i].ring);
	net_pairs_activate(net, 1);
}

static void net_stop(struct virtio_device *dev)
{
	struct virtio_net *net = net_of(dev);

	for (unsigned i = 0; i < net->port.pairs; i++) {
		struct net_pair *pair = &net->pairs[i];

		if (tx_holds_out(pair->holds))
			core_let_go(net->port.core);
		loop_forget(dev->loop, &pair->tx_task);
		loop_poll_stop(dev->loop, &pair->polls[PORT_TX]);
		loop_poll_stop(dev->loop, &pair->polls[PORT_RX]);
		dev->queues[pair->tx].polled = false;
	}
	loop_forget(dev->loop, &net->ctrl_task);
	net->port.offloads = 0;
	net->port.pairs_active = 1;
	net_land_forget(net);
	net_forget(net);
}

static void net_queue_ready(struct virtio_device *dev, unsigned index)
{
	struct virtio_net *net = net_of(dev);

	if (index == net->ctrl_queue)
		net_ctrl_visit(net);
	else if (index < net->ctrl_queue && index % PAIR_QUEUES == QUEUE_TX)
		net_tx_visit(&net->pairs[index / PAIR_QUEUES]);
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
    .send_batch = net_rx_batch,
    .close = net_close,
    .land = net_land,
    .land_end = net_land_end,
};

static bool options_possible(const struct virtio_net_options *opt)
{
	return opt->mtu >= 68 && opt->mtu <= UINT16_MAX && opt->queue_size >= 2 &&
	       opt->queue_size <= VIRTQUEUE_SIZE_MAX && opt->pairs <= PORT_PAIRS_MAX &&
	       !(opt->queue_size & (opt->queue_size - 1)) && !(opt->mac[0] & 1);
}

static void device_init(struct virtio_device *dev, const struct device_env *env,
			const struct virtio_net_options *opt, unsigned pairs)
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
	if (pairs > 1)
		dev->features_offered |= FEATURE(MQ);
	dev->queue_count = PAIR_QUEUES * pairs + 1;
	for (unsigned i = 0; i < PAIR_QUEUES * pairs; i++) {
		dev->queues[i].size_max = opt->queue_size;
		dev->queues[i].coalesce_ns = i % PAIR_QUEUES == QUEUE_TX ? opt->coalesce_ns : 0;
		dev->queues[i].inline_bell = opt->inline_doorbell && i % PAIR_QUEUES == QUEUE_TX;
	}
	dev->queues[PAIR_QUEUES * pairs].size_max = CTRL_QUEUE_SIZE;
}

static void pairs_init(struct virtio_net *net, unsigned count, const struct mode_rules *rules)
{
	net->port.pairs = count;
	net->port.pairs_active = 1;
	net->port.modes = net->modes;
	for (unsigned i = 0; i < count; i++)
		net->pairs[i] = (struct net_pair){
		    .net = net,
		    .index = i,
		    .rx = PAIR_QUEUES * i + QUEUE_RX,
		    .tx = PAIR_QUEUES * i + QUEUE_TX,
		    .tx_task.run = net_tx_run,
		};
	net_modes_init(net, rules);
}

static bool holds_create(struct virtio_net *net)
{
	for (unsigned i = 0; i < net->port.pairs; i++) {
		net->pairs[i].holds = tx_holds_create(&net->dev, net->pairs[i].tx);
		if (!net->pairs[i].holds)
			return false;
	}
	return true;
}

struct virtio_device *virtio_net_create(const struct device_env *env,
					const struct virtio_net_options *opt)
{
	unsigned pairs = opt->pairs ? opt->pairs : 1;
	struct virtio_net *net;

	if (!options_possible(opt)) {
		errno = EINVAL;
		return NULL;
	}
	net = calloc(1, sizeof(*net));
	if (!net)
		return NULL;
	device_init(&net->dev, env, opt, pairs);
	pairs_init(net, pairs, &opt->mode);
	net->tx = malloc(sizeof(*net->tx));
	net->rx = calloc(1, sizeof(*net->rx));
	net->flows = pairs > 1 ? net_flows_create() : NULL;
	if (!net->tx || !net->rx || (pairs > 1 && !net->flows) || !holds_create(net)) {
		virtio_net_destroy(&net->dev);
		errno = ENOMEM;
		return NULL;
	}
	net->ctrl_task.run = net_ctrl_run;
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
	net_config_change(net_of(dev), 0, (uint64_t)VIRTIO_NET_S_ANNOUNCE << CONFIG_STATUS_SHIFT);
	dev->raise_config(dev);
}

void virtio_net_destroy(struct virtio_device *dev)
{
	struct virtio_net *net;

	if (!dev)
		return;
	net = net_of(dev);
	if (net->rx)
		net_land_forget(net);
	if (net->port.core)
		core_detach(net->port.core, &net->port);
	for (unsigned i = 0; i < net->port.pairs; i++)
		tx_holds_destroy(net->pairs[i].holds);
	free(net->tx);
	free(net->rx);
	net_flows_destroy(net->flows);
	free(net);
}
