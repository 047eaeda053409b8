/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Modes of the network device: each direction of each pair of queues is guest-driven or VMM-driven,
 * see vnet/mode.c; the switch is the port's, and counts what goes through. A VMM-driven transmit
 * queue is looked at in each turn of the loop with doorbells off; before the loop sleeps they are
 * on, and the ring is looked at once more (tx_rest()). When the queue becomes guest-driven again a
 * visit is deferred, which ends by the same two steps, so that no request is left behind. In a
 * VMM-driven receive direction the loop spins for frames from the links; there is no ring of the
 * guest's to look at. Only pairs that the guest uses are polled: the doorbells of the others stay
 * on.
 *
 * Thread: the sidecar.
 */
#include "devices/virtio_net.h"

static bool tx_poll(struct loop_poll *poll, uint64_t now_ns)
{
	struct net_pair *pair = container_of(poll, struct net_pair, polls[PORT_TX]);

	if (virtqueue_pending(&pair->net->dev.queues[pair->tx].ring)) {
		net_tx_visit(pair);
		return true;
	}
	mode_count(net_pair_mode(pair, PORT_TX), 0, now_ns);
	return false;
}

/* Doorbells on, for the time that the loop sleeps. */
static bool tx_rest(struct loop_poll *poll)
{
	struct net_pair *pair = container_of(poll, struct net_pair, polls[PORT_TX]);

	return virtqueue_notify_on(&pair->net->dev.queues[pair->tx].ring);
}

/* The links are watched by the loop itself; this says whether they brought something. */
static bool rx_poll(struct loop_poll *poll, uint64_t now_ns)
{
	struct net_pair *pair = container_of(poll, struct net_pair, polls[PORT_RX]);
	uint64_t requests = pair->net->dev.queues[pair->rx].requests;
	bool found = pair->rx_seen != requests;

	pair->rx_seen = requests;
	if (!found)
		mode_count(net_pair_mode(pair, PORT_RX), 0, now_ns);
	return found;
}

/* A visit puts the doorbell as it has to be, and looks at the ring once more if that is on. */
static void tx_polled(struct net_pair *pair, bool polled)
{
	struct virtio_queue *queue = &pair->net->dev.queues[pair->tx];

	if (queue->polled != polled)
		loop_defer(pair->net->dev.loop, &pair->tx_task);
	queue->polled = polled;
}

/* Do as the mode says. */
static void mode_apply(struct net_pair *pair, enum port_direction direction)
{
	const struct mode_switch *sw = net_pair_mode(pair, direction);
	struct loop_poll *poll = &pair->polls[direction];
	struct virtio_net *net = pair->net;
	bool polled =
	    sw->mode == MODE_VMM && net->dev.running && pair->index < net->port.pairs_active;

	if (direction == PORT_TX)
		tx_polled(pair, polled);
	poll->patient = sw->patient;
	if (polled)
		loop_poll_start(net->dev.loop, poll);
	else
		loop_poll_stop(net->dev.loop, poll);
}

static void tx_mode_changed(struct mode_switch *sw)
{
	mode_apply(sw->context, PORT_TX);
}

static void rx_mode_changed(struct mode_switch *sw)
{
	mode_apply(sw->context, PORT_RX);
}

void net_modes_init(struct virtio_net *net, const struct mode_rules *rules)
{
	for (unsigned i = 0; i < net->port.pairs; i++) {
		struct net_pair *pair = &net->pairs[i];

		pair->polls[PORT_TX] = (struct loop_poll){.poll = tx_poll, .rest = tx_rest};
		pair->polls[PORT_RX] = (struct loop_poll){.poll = rx_poll};
		for (enum port_direction d = 0; d < PORT_DIRECTIONS; d++) {
			struct mode_switch *sw = net_pair_mode(pair, d);

			sw->changed = d == PORT_TX ? tx_mode_changed : rx_mode_changed;
			sw->context = pair;
			mode_init(sw, rules, loop_now());
		}
	}
}

void net_pairs_activate(struct virtio_net *net, unsigned count)
{
	net->port.pairs_active = count;
	for (unsigned i = 0; i < net->port.pairs; i++) {
		mode_apply(&net->pairs[i], PORT_TX);
		mode_apply(&net->pairs[i], PORT_RX);
	}
}
