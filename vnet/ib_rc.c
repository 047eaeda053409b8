/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Reliable connections: a queue pair for each peer, a frame of any length is one message.
 *
 * Credits. A message for which the peer has no receive buffer would stop the connection (RNR), so
 * each side sends only what the other has promised room for: "window" messages at first, as said in
 * the hello of the connection, and one more for each that was given back. Every message's immediate
 * data is the number of messages whose buffers its sender has posted again since the start; so
 * traffic both ways brings credit for nothing. Who has taken half a window without having anything
 * to say sends an empty message.
 *
 * That costs a credit too, and both sides may run out at the same time. So frames leave
 * RESERVE_FRAMES of the window, session messages leave RESERVE_CREDIT, and empty messages take the
 * last. Two are enough: a window of the peer's messages makes us send two, and it sends no more
 * before it has seen the first of them, and then says so.
 *
 * Frames beyond the credit wait in their slots, held; without a free slot they are dropped
 * (DROP_BUSY). A peer that never gives credit again does not get our keepalives either: its session
 * ends, and with it the connection.
 *
 * What cannot be (credit for what was never sent, or taken back; more messages than we promised
 * room for; no immediate data) ends the connection.
 */
#include <arpa/inet.h>
#include <errno.h>

#include "vnet/ib.h"
#include "vnet/session.h"

#define RESERVE_FRAMES 4u
#define RESERVE_CREDIT 2u
#define DRAIN_BATCHES  64u

/* --- credits --------------------------------------------------------------------------------- */

/* How many more messages may be sent if @reserve of the window are left. */
static uint32_t credits_left(const struct ib_credits *c, uint32_t reserve)
{
	uint32_t used = c->sent - c->acked + reserve;

	return c->window > used ? c->window - used : 0;
}

/* The peer has given back all messages up to the @acked-th. */
static bool credits_take(struct ib_credits *c, uint32_t acked)
{
	if (acked - c->acked > c->sent - c->acked)
		return false;
	c->acked = acked;
	return true;
}

/* --- sending --------------------------------------------------------------------------------- */

static void rc_post(struct ib_peer *peer, struct ib_ring *ring, uint32_t reserve)
{
	struct ib_credits *c = &peer->credits;
	int n = ib_ring_post(ring, credits_left(c, reserve), c->given);

	if (n < 0)
		ib_peer_fail(peer, "the adapter refuses to send");
	if (n <= 0)
		return;
	c->sent += (uint32_t)n;
	if (ring == &peer->data)
		peer->port.counters.work_requests += (unsigned)n;
	c->told = c->given;
}

static enum drop_reason rc_fill(struct ib_peer *peer, struct frame *frame,
				const struct geneve_extras *extras)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	uint8_t header[GENEVE_HEADER_MAX];
	struct ib_slot *slot =
	    ib_ring_fill(&peer->data, header, geneve_build(header, peer->endpoint->env.vni, extras),
			 &at, frame->len, frame->hold, &peer->port.counters);

	if (!slot)
		return DROP_BUSY;
	slot->wr.opcode = IBV_WR_SEND_WITH_IMM;
	return DROP_REASONS;
}

static void rc_send(struct ib_peer *peer)
{
	rc_post(peer, &peer->data, RESERVE_FRAMES);
}

/* A message beside the frames, of which there are few at a time. */
static int control_post(struct ib_peer *peer, const uint8_t *header, size_t header_len,
			const void *message, size_t len, uint32_t reserve)
{
	const struct iovec iov = {(void *)message, len};
	struct iov_cursor at = iov_cursor(&iov, 1);
	struct port_counters uncounted = {0};
	struct ib_slot *slot;

	if (peer->phase != IB_CARRYING)
		return -ENOTCONN;
	if (!credits_left(&peer->credits, reserve))
		return -EAGAIN;
	slot =
	    ib_ring_fill(&peer->control, header, header_len, &at, (uint32_t)len, NULL, &uncounted);
	if (!slot)
		return -EAGAIN;
	slot->wr.opcode = IBV_WR_SEND_WITH_IMM;
	if (!header_len)
		slot->wr.num_sge = 0;
	rc_post(peer, &peer->control, reserve);
	return 0;
}

static int rc_control(struct ib_peer *peer, const void *message, size_t len)
{
	const struct geneve_extras extras = {.control = true};
	uint8_t header[GENEVE_HEADER_MAX];

	return control_post(peer, header, geneve_build(header, peer->endpoint->env.vni, &extras),
			    message, len, RESERVE_CREDIT);
}

/* --- receiving ------------------------------------------------------------------------------- */

static void packet_take(struct ib_peer *peer, uint8_t *data, size_t len, struct ib_plan *plan)
{
	struct ib_lander *lander = peer->device->lander;
	enum drop_reason reason = DROP_FORMAT;
	struct geneve_extras extras;
	size_t offset = geneve_parse(data, len, peer->endpoint->env.vni, &extras, &reason);
	const struct frame *frame;

	if (plan && (!offset || !ib_land_fits(plan, &extras, offset, len))) {
		ib_land_take(lander, plan, len, &peer->port.counters);
		plan = NULL;
	}
	if (!offset || extras.part) {
		peer->port.counters.drops[reason]++;
	} else if (extras.control) {
		ib_session_take(peer, data + offset, len - offset);
	} else {
		frame = ib_frame_take(peer, data + offset, len - offset, &extras, plan);
		if (frame)
			ib_land_learn(lander, peer, offset, frame);
	}
}

static void rc_receive(struct ib_device *device, const struct ibv_wc *wc, uint8_t *data, size_t len,
		       struct ib_plan *plan)
{
	struct ib_peer *peer = ib_peer_find(device, wc->qp_num);
	struct ib_credits *c = &peer->credits;

	/* Messages may overtake the event that says that we are connected. */
	if (peer && peer->phase == IB_ACCEPTING)
		ib_peer_carry(peer);
	if (!peer || peer->phase != IB_CARRYING)
		return;
	ib_peer_touch(peer);
	if (++c->received - c->told > IB_WINDOW)
		ib_peer_fail(peer, "the peer sends without credit");
	else if (!(wc->wc_flags & IBV_WC_WITH_IMM) || !credits_take(c, ntohl(wc->imm_data)))
		ib_peer_fail(peer, "the peer gives credit that cannot be");
	else if (len)
		packet_take(peer, data, len, plan);
}

static void rc_batch_end(struct ib_peer *peer)
{
	struct ib_credits *c = &peer->credits;

	c->given = c->received;
	if (peer->up)
		rc_send(peer);
	if (c->given - c->told >= IB_WINDOW / 2)
		control_post(peer, (const uint8_t *)"", 0, NULL, 0, 0);
}

/* --- the connection -------------------------------------------------------------------------- */

static void rc_close(struct ib_peer *peer)
{
	const struct ib_calls *calls = peer->endpoint->calls;
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	if (!peer->id || !peer->id->qp)
		return;
	/* What has come is taken, or else its buffers would go with the queue pair. */
	calls->modify_qp(peer->id->qp, &attr, IBV_QP_STATE);
	for (unsigned i = 0; i < DRAIN_BATCHES && ib_device_poll(peer->device); i++)
		;
	ib_peer_leave(peer);
	ib_land_forget(peer->device->lander, peer);
	calls->destroy_qp(peer->id);
	ib_ring_close(&peer->data);
	ib_ring_close(&peer->control);
	peer->device->lost++;
	ib_device_release(peer->device);
}

static int queue_pair_make(struct ib_peer *peer)
{
	struct ib_device *device = peer->device;
	struct ibv_qp_init_attr attr = {
	    .send_cq = device->cq,
	    .recv_cq = device->cq,
	    .cap = {.max_send_wr = IB_SLOTS + IB_CONTROL_SLOTS, .max_send_sge = device->sge_max},
	    .qp_type = IBV_QPT_RC,
	};
	int err = ib_device_receive(device, IB_MESSAGE_MAX, IB_WINDOW, IB_SLOTS + IB_CONTROL_SLOTS);

	if (err)
		return err;
	attr.srq = device->srq;
	if (!device->calls->create_qp(peer->id, device->pd, &attr))
		return 0;
	err = -errno;
	ib_device_release(device);
	return err;
}

static int rc_open(struct ib_peer *peer)
{
	uint32_t window = peer->credits.window;
	int err = queue_pair_make(peer);

	if (err)
		return err;
	peer->credits = (struct ib_credits){.window = window};
	peer->heard = 0;
	ib_peer_enter(peer, peer->id->qp->qp_num);
	err = ib_ring_open(&peer->data, peer->device, peer->id->qp, peer, IB_SLOTS);
	if (!err)
		err = ib_ring_open(&peer->control, peer->device, peer->id->qp, peer,
				   IB_CONTROL_SLOTS);
	if (err)
		rc_close(peer);
	return err;
}

static int rc_established(struct ib_peer *peer, struct rdma_ud_param *ud)
{
	(void)ud;
	return peer->credits.window < IB_WINDOW_MIN ? -EPROTO : 0;
}

static void rc_let_go(struct ib_peer *peer)
{
	if (!peer->data.size || ib_ring_settle(&peer->data))
		return;
	ib_peer_fail(peer, "the guest began anew while frames were on their way");
	ib_peer_reset(peer);
}

const struct ib_path ib_rc = {
    .name = "rc",
    .space = RDMA_PS_TCP,
    .qp_type = IBV_QPT_RC,
    .connected = true,
    .features = SESSION_HOPS,
    .open = rc_open,
    .close = rc_close,
    .established = rc_established,
    .fill = rc_fill,
    .send = rc_send,
    .control = rc_control,
    .receive = rc_receive,
    .batch_end = rc_batch_end,
    .let_go = rc_let_go,
};
