/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The control queue of the network device: receive modes, the MAC filter table, the MAC address,
 * the acknowledgement of an announcement, offloads, the number of pairs. A command that was not
 * negotiated, is unknown, or is of the wrong length is answered by VIRTIO_NET_ERR and changes
 * nothing.
 *
 * Thread: the sidecar.
 */
#include "devices/virtio_net.h"
#include "vnet/iovec.h"

#define CTRL_VISIT_REQUESTS 16u

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

static bool ctrl_mac_addr(struct virtio_net *net, struct ctrl_data *data)
{
	uint8_t mac[FRAME_MAC_SIZE];

	if (!ctrl_only(data, mac, sizeof(mac)) || (mac[0] & 1))
		return false;
	net_config_change(net, CONFIG_MAC_MASK, mac_word(mac));
	return true;
}

static bool ctrl_announced(struct virtio_net *net, struct ctrl_data *data)
{
	if (data->len)
		return false;
	net_config_change(net, (uint64_t)VIRTIO_NET_S_ANNOUNCE << CONFIG_STATUS_SHIFT, 0);
	return true;
}

/* virtio 1.2, 5.1.6.5.6 */
static bool ctrl_offloads(struct virtio_net *net, struct ctrl_data *data)
{
	uint64_t wanted;

	if (!ctrl_only(data, &wanted, sizeof(wanted)) ||
	    wanted & ~(net->dev.features & GUEST_FEATURES))
		return false;
	net->port.offloads = net_guest_offloads(wanted);
	return true;
}

/* virtio 1.2, 5.1.6.5.5 */
static bool ctrl_pairs(struct virtio_net *net, struct ctrl_data *data)
{
	uint16_t count;

	if (!ctrl_only(data, &count, sizeof(count)) || count < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN ||
	    count > net->port.pairs)
		return false;
	net_pairs_activate(net, count);
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
    {{VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET}, VIRTIO_NET_F_MQ, ctrl_pairs},
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

void net_ctrl_visit(struct virtio_net *net)
{
	if (virtio_queue_visit(&net->dev, net->ctrl_queue, CTRL_VISIT_REQUESTS, ctrl_request))
		loop_defer(net->dev.loop, &net->ctrl_task);
}

void net_ctrl_run(struct loop_task *task)
{
	net_ctrl_visit(container_of(task, struct virtio_net, ctrl_task));
}
