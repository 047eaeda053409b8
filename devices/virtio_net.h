/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtio network device, to its own files: virtio_net.c (features, configuration, life),
 * virtio_net_tx.c, virtio_net_rx.c, virtio_net_steer.c, virtio_net_ctrl.c and virtio_net_mode.c.
 * Its makers include devices/devices.h.
 *
 * Everything here is the sidecar's, but for config_word.
 */
#ifndef WEFT_VIRTIO_NET_H
#define WEFT_VIRTIO_NET_H

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <string.h>

#include "devices/devices.h"
#include "devices/tx_holds.h"
#include "devices/virtio.h"
#include "vnet/port.h"

/* virtio 1.2, 5.1.3; younger than the headers of Linux 6.1 */
#ifndef VIRTIO_NET_F_GUEST_USO4
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO	56
#endif

#define NET_HEADER sizeof(struct virtio_net_hdr_v1)

#define FEATURE(name) (1ull << VIRTIO_NET_F_##name)
/* Offered with opt->offload (virtio 1.2, 5.1.3). */
#define HOST_FEATURES                                                                              \
	(FEATURE(CSUM) | FEATURE(HOST_TSO4) | FEATURE(HOST_TSO6) | FEATURE(HOST_ECN) |             \
	 FEATURE(HOST_USO))
#define GUEST_FEATURES                                                                             \
	(FEATURE(GUEST_CSUM) | FEATURE(GUEST_TSO4) | FEATURE(GUEST_TSO6) | FEATURE(GUEST_ECN) |    \
	 FEATURE(GUEST_USO4) | FEATURE(GUEST_USO6))

/* Segments of a batch: any first request fits, with a slot for the Ethernet header of each frame.
 */
#define TX_REQUEST_SEGMENTS (VIRTQUEUE_CHAIN_MAX + 1)
#define TX_SEGMENTS	    (2 * TX_REQUEST_SEGMENTS)

#define MAC_TABLE_MAX 64u /* addresses, unicast and multicast together */

/* The changeable part of the configuration, as it lies in guest view: mac[6], then le16 status. */
#define CONFIG_MAC_MASK	    0x0000ffffffffffffull
#define CONFIG_STATUS_SHIFT 48

/* Queues of a pair; pair n has 2n and 2n + 1, and the control queue comes last (virtio 1.2, 5.1.2).
 */
enum net_queue { QUEUE_RX, QUEUE_TX, PAIR_QUEUES };

struct net_flows;

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

/* What one chain of the receive ring that may be lent has at most, and what one loan has. */
#define LOAN_CHAIN_SEGMENTS 20u
#define LOAN_CHAINS	    64u
#define LOANS		    41u /* UDP takes 9, InfiniBand 32 */
#define LENT_MAX	    (VIRTQUEUE_SIZE_MAX / 2) /* chains in all loans together */

/* A receive buffer that was taken from the ring and not used. */
struct rx_spare {
	struct vq_chain chain;
	struct iovec iov[LOAN_CHAIN_SEGMENTS];
};

/* Receive buffers that a link was lent: see virtio_net_land.c. */
struct rx_loan {
	struct landing landing;
	bool lent;
	unsigned chain_count, segment_count;
	struct vq_chain chains[LOAN_CHAINS];
	struct iovec iov[LANDING_PIECES]; /* of all of them */
};

struct rx_scratch {
	struct rx_buffer buffers[VIRTQUEUE_SIZE_MAX];
	struct iovec
	    first[VIRTQUEUE_CHAIN_MAX]; /* of a frame's first buffer, which has its header */
	struct iovec more[VIRTQUEUE_CHAIN_MAX];
	struct rx_loan loans[LOANS];
	unsigned lent; /* chains */
	unsigned spare_count;
	struct rx_spare spares[LENT_MAX]; /* the last one is the next to be used */
};

/* A receive and a transmit queue, and who drives them. */
struct net_pair {
	struct virtio_net *net;
	unsigned index, rx, tx; /* its own; of its queues */
	struct loop_task tx_task;
	struct loop_poll polls[PORT_DIRECTIONS]; /* going while VMM-driven, active and running */
	struct tx_holds *holds; /* of the transmit queue */
	bool tx_waits; /* the last visit ended because there was no room where its frames go */
	uint64_t tx_full_ns; /* since when there is none; 0: there is */
	uint64_t tx_taken; /* in this visit, as mode_count() counts */
	uint64_t rx_given; /* of this batch, likewise */
	uint64_t rx_seen; /* requests of the receive queue at the last rx_poll() */
};

/* Owned by the sidecar, but for config_word. */
struct virtio_net {
	struct virtio_device dev;
	struct port port; /* has the number of pairs */
	struct net_pair pairs[PORT_PAIRS_MAX];
	struct mode_switch modes[PORT_PAIRS_MAX * PORT_DIRECTIONS]; /* port.modes */
	unsigned ctrl_queue;					    /* its number, while running */
	struct loop_task ctrl_task;
	enum net_irq irq;
	uint16_t mtu;
	uint32_t frame_max;	      /* bytes */
	uint64_t mac_default;	      /* as in config_word */
	_Atomic uint64_t config_word; /* written by the sidecar, read by vCPU threads */
	uint32_t tx_offloads;	      /* enum port_offload bits the driver may ask for */
	bool promiscuous, all_multicast;
	unsigned mac_count;
	uint64_t macs[MAC_TABLE_MAX]; /* as in config_word */
	/* Apart, and never written as a whole, so that pages which are not used are not resident. */
	struct tx_batch *tx;
	struct rx_scratch *rx;
	struct net_flows *flows; /* NULL with one pair */
};

/* An address as the low 48 bits of config_word; hosts are little endian. */
static inline uint64_t mac_word(const uint8_t mac[FRAME_MAC_SIZE])
{
	uint64_t word = 0;

	memcpy(&word, mac, FRAME_MAC_SIZE);
	return word;
}

static inline struct virtio_net *net_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_net, dev);
}

static inline void net_drop(struct virtio_net *net, enum drop_reason reason)
{
	net->port.counters.drops[reason]++;
}

static inline struct mode_switch *net_pair_mode(const struct net_pair *pair,
						enum port_direction direction)
{
	return port_mode(&pair->net->port, pair->index, direction);
}

/* Bytes a frame may have: the MTU holds for what it is cut into. */
static inline uint32_t frame_limit(const struct virtio_net *net, const struct frame *frame)
{
	return frame->offload.gso_type == VIRTIO_NET_HDR_GSO_NONE ? net->frame_max : FRAME_SIZE_MAX;
}

/* --- virtio_net.c ---------------------------------------------------------------------------- */

/* net_guest_offloads - what a driver takes unfinished, as enum port_offload, from feature bits. */
uint32_t net_guest_offloads(uint64_t features);
/* net_config_change - change bits of config_word; the guest is not told. */
void net_config_change(struct virtio_net *net, uint64_t clear, uint64_t set);

/* --- virtio_net_tx.c ------------------------------------------------------------------------- */

/* net_tx_visit - take what is in a transmit ring, or as much as a visit may. */
void net_tx_visit(struct net_pair *pair);
/* net_tx_run - the same, later: pair->tx_task. */
void net_tx_run(struct loop_task *task);

/* --- virtio_net_rx.c ------------------------------------------------------------------------- */

/* net_rx_batch - port_ops.send_batch: copy frames into the guest's buffers. */
void net_rx_batch(struct port *port, struct frame *const frames[], unsigned n);
/* net_rx_take - take a receive buffer of at least @min bytes, a spare one first; @iov:
 * VIRTQUEUE_CHAIN_MAX. False: there is none, or it was none and the device is broken now. */
bool net_rx_take(struct net_pair *pair, struct vq_chain *chain, struct iovec *iov, size_t min);
/* net_rx_untake - put the last @n taken back, when there were @spare_count spare ones before. */
void net_rx_untake(struct net_pair *pair, unsigned n, unsigned spare_count);
/* net_rx_header - the header of a frame in @buffers buffers. */
struct virtio_net_hdr_v1 net_rx_header(const struct virtio_net *net, const struct frame *frame,
				       unsigned buffers);

/* --- virtio_net_land.c ----------------------------------------------------------------------- */

/* net_land, net_land_end - port_ops.land and .land_end. */
void net_land(struct port *port, uint32_t len, struct landing **holder);
void net_land_end(struct landing *landing);
/* net_landed - is the frame in buffers of this guest? */
bool net_landed(const struct virtio_net *net, const struct frame *frame);
/* net_land_give - push the buffers a frame lies in. */
void net_land_give(struct virtio_net *net, const struct frame *frame);
/* net_land_forget - the guest takes its buffers away: all loans end, nothing is spare. */
void net_land_forget(struct virtio_net *net);

/* --- virtio_net_steer.c ---------------------------------------------------------------------- */

/* net_flows_create - no flow is known. Returns NULL with errno ENOMEM. */
struct net_flows *net_flows_create(void);
void net_flows_destroy(struct net_flows *flows);
/* net_flow_sent - the guest sent this frame by this pair: remember it. */
void net_flow_sent(struct net_flows *flows, const struct frame *frame, unsigned pair);
/*
 * net_flow_pair - the pair, one of the first @active, for a frame to the guest: from which it last
 * sent the flow; for a flow unknown by its hash; for what is not IP pair 0.
 */
unsigned net_flow_pair(const struct net_flows *flows, const struct frame *frame, unsigned active);

/* --- virtio_net_ctrl.c ----------------------------------------------------------------------- */

/* net_ctrl_visit - serve what is in the control ring. */
void net_ctrl_visit(struct virtio_net *net);
/* net_ctrl_run - the same, later: net->ctrl_task. */
void net_ctrl_run(struct loop_task *task);

/* --- virtio_net_mode.c ----------------------------------------------------------------------- */

/* net_modes_init - both directions of all pairs begin by these rules. */
void net_modes_init(struct virtio_net *net, const struct mode_rules *rules);
/*
 * net_pairs_activate - the guest uses the first @count pairs from now on: poll as their
 * modes say, and leave the others to their doorbells.
 */
void net_pairs_activate(struct virtio_net *net, unsigned count);

#endif
