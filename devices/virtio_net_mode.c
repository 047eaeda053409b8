/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Modes of the network device: each direction is guest-driven or VMM-driven, see vnet/mode.c; the
 * switch is the port's, and counts what goes through. A VMM-driven transmit queue is looked at in
 * each turn of the loop with doorbells off; before the loop sleeps they are on, and the ring is
 * looked at once more (tx_rest()). When the queue becomes guest-driven again a visit is deferred,
 * which ends by the same two steps, so that no request is left behind. In a VMM-driven receive
 * direction the loop spins for frames from the links; there is no ring of the guest's to look at.
 *
 * Thread: the sidecar.
 */
#include "devices/virtio_net.h"

static bool tx_poll(struct loop_poll *poll, uint64_t now_ns)
{
	struct virtio_net *net = container_of(poll, struct virtio_net, polls[PORT_TX]);

	if (virtqueue_pending(&net->dev.queues[QUEUE_TX].ring)) {
		net_tx_visit(net);
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
void net_mode_apply(struct virtio_net *net, enum port_direction direction)
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

	net_mode_apply(net, PORT_TX);
	if (net->dev.running)
		loop_defer(net->dev.loop, &net->tx_task);
}

static void rx_mode_changed(struct mode_switch *sw)
{
	net_mode_apply(container_of(sw, struct virtio_net, modes[PORT_RX]), PORT_RX);
}

void net_modes_init(struct virtio_net *net, const struct mode_rules *rules)
{
	net->modes[PORT_TX].changed = tx_mode_changed;
	net->modes[PORT_RX].changed = rx_mode_changed;
	for (enum port_direction d = 0; d < PORT_DIRECTIONS; d++)
		mode_init(&net->modes[d], rules, loop_now());
	net->polls[PORT_TX] = (struct loop_poll){.poll = tx_poll, .rest = tx_rest};
	net->polls[PORT_RX] = (struct loop_poll){.poll = rx_poll};
	net->port.modes = net->modes;
}
