/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Unreliable datagrams: one queue pair of the device for all peers, each a destination of its own
 * (an address handle, a queue pair number, a key). rdma_cm only asks the peer for these; there is
 * no connection that could break, and whether the peer is there the session tells.
 *
 * A datagram is no longer than the path MTU, 4096 bytes at most. A frame that is goes out in parts
 * (fragment.c), a work request each; what cannot be queued whole is dropped whole. Loss is as on
 * any Ethernet.
 *
 * The adapter puts 40 bytes in front of what it receives, a GRH or room for one. From there comes
 * who sent it: on RoCE always, on InfiniBand where the packet was routed; otherwise it is the
 * sender's LID. Datagrams of others than the peers are dropped and counted.
 *
 * Address handles stay with the device: datagrams to a peer that is looked for anew may still be
 * under way.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>

#include "vnet/ib.h"
#include "vnet/session.h"

#define UD_QKEY	      0x01234567u /* RDMA_UDP_QKEY: what rdma_cm tells the peer */
#define GRH_IPV4      20u	  /* where RoCE v2 puts an IPv4 header */
#define IPV4_SOURCE   12u
#define GRH_SOURCE    8u
#define VERSION(byte) ((byte) >> 4)

struct ib_handle {
	struct ib_handle *next;
	struct ibv_ah_attr attr;
	struct ibv_ah *ah;
};

/* --- sending --------------------------------------------------------------------------------- */

static struct ib_slot *datagram_fill(struct ib_peer *peer, const struct geneve_extras *extras,
				     struct iov_cursor *at, uint32_t len, struct frame_hold *hold,
				     struct port_counters *counters)
{
	uint8_t header[GENEVE_HEADER_MAX];
	size_t header_len = geneve_build(header, peer->endpoint->env.vni, extras);
	struct ib_slot *slot =
	    ib_ring_fill(&peer->device->ring, header, header_len, at, len, hold, counters);

	if (!slot)
		return NULL;
	slot->wr.opcode = IBV_WR_SEND;
	slot->wr.wr.ud.ah = peer->ah;
	slot->wr.wr.ud.remote_qpn = peer->qpn;
	slot->wr.wr.ud.remote_qkey = peer->qkey;
	return slot;
}

/* Returns how many datagrams they were. */
static unsigned ud_post(struct ib_peer *peer)
{
	int n = ib_ring_post(&peer->device->ring, UINT32_MAX, 0);

	if (n < 0)
		ib_device_fail(peer->device, "the adapter refuses to send");
	return n > 0 ? (unsigned)n : 0;
}

static enum drop_reason frame_cut(struct ib_peer *peer, struct frame *frame,
				  const struct geneve_extras *extras)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	struct ib_ring *ring = &peer->device->ring;
	const uint32_t filled = ring->filled;
	struct geneve_extras part;
	struct fragment_cut cut;
	unsigned parts =
	    fragment_cut_start(&cut, extras, peer->next_id++, frame->len, peer->payload);

	if (!parts)
		return DROP_OVERSIZE;
	if (ib_ring_free(ring) < parts)
		return DROP_BUSY;
	for (uint32_t len; (len = fragment_cut_next(&cut, &part));) {
		if (!datagram_fill(peer, &part, &at, len, frame->hold, &peer->port.counters)) {
			ib_ring_take_back(ring, filled);
			return DROP_BUSY;
		}
	}
	return DROP_REASONS;
}

static enum drop_reason ud_fill(struct ib_peer *peer, struct frame *frame,
				const struct geneve_extras *extras)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);

	if (geneve_size(extras) + frame->len > peer->payload)
		return frame_cut(peer, frame, extras);
	return datagram_fill(peer, extras, &at, frame->len, frame->hold, &peer->port.counters)
		   ? DROP_REASONS
		   : DROP_BUSY;
}

static void ud_send(struct ib_peer *peer)
{
	peer->port.counters.work_requests += ud_post(peer);
}

static int ud_control(struct ib_peer *peer, const void *message, size_t len)
{
	const struct geneve_extras extras = {.control = true};
	const struct iovec iov = {(void *)message, len};
	struct iov_cursor at = iov_cursor(&iov, 1);
	struct port_counters uncounted = {0};

	if (peer->phase != IB_CARRYING)
		return -ENOTCONN;
	if (!datagram_fill(peer, &extras, &at, (uint32_t)len, NULL, &uncounted))
		return -EAGAIN;
	ud_post(peer);
	return 0;
}

/* --- receiving ------------------------------------------------------------------------------- */

/* Where a datagram came from, as a GID; all zero where its header does not say. */
static union ibv_gid source_gid(const struct ibv_wc *wc, const uint8_t *grh)
{
	union ibv_gid gid = {0};

	if (!(wc->wc_flags & IBV_WC_GRH))
		return gid;
	if (VERSION(grh[0]) == 6) {
		memcpy(gid.raw, grh + GRH_SOURCE, sizeof(gid.raw));
	} else if (VERSION(grh[GRH_IPV4]) == 4) {
		gid.raw[10] = gid.raw[11] = 0xff; /* mapped: RFC 4291, 2.5.5.2 */
		memcpy(gid.raw + 12, grh + GRH_IPV4 + IPV4_SOURCE, 4);
	}
	return gid;
}

static struct ib_peer *sender_find(const struct ib_device *device, const struct ibv_wc *wc,
				   const uint8_t *grh)
{
	union ibv_gid gid = source_gid(wc, grh);
	struct ib_peer *peer = ib_peer_find(device, wc->src_qp);

	for (; peer; peer = peer->qpn_next)
		if (peer->qpn == wc->src_qp &&
		    (wc->wc_flags & IBV_WC_GRH ? !memcmp(&gid, &peer->gid, sizeof(gid))
					       : peer->lid && peer->lid == wc->slid))
			return peer;
	return NULL;
}

static void part_take(struct ib_peer *peer, const uint8_t *data, size_t len,
		      const struct geneve_extras *extras)
{
	const struct frame *frame = reassembly_add(
	    peer->reassembly, &extras->where, data, len, &extras->offload,
	    extras->hops ? extras->hops : FRAME_HOPS_MAX, loop_now(), &peer->port.counters);

	if (frame)
		*ib_run_add(peer) = *frame;
}

static void ud_receive(struct ib_device *device, const struct ibv_wc *wc, uint8_t *data, size_t len,
		       struct ib_plan *plan)
{
	struct ib_peer *peer = len < IB_GRH ? NULL : sender_find(device, wc, data);
	enum drop_reason reason = DROP_FORMAT;
	struct geneve_extras extras;
	size_t offset;

	(void)plan; /* nothing of it is laid out */
	if (!peer || peer->phase != IB_CARRYING) {
		device->endpoint->counters.drops[DROP_NOT_PEER]++;
		return;
	}
	ib_peer_touch(peer);
	data += IB_GRH;
	len -= IB_GRH;
	offset = geneve_parse(data, len, device->endpoint->env.vni, &extras, &reason);
	if (!offset)
		peer->port.counters.drops[reason]++;
	else if (extras.control)
		ib_session_take(peer, data + offset, len - offset);
	else if (extras.part)
		part_take(peer, data + offset, len - offset, &extras);
	else
		ib_frame_take(peer, data + offset, len - offset, &extras, NULL);
}

/* The buffers that parts lie in are about to be used again. */
static void ud_flush(struct ib_peer *peer)
{
	reassembly_flush(peer->reassembly, loop_now(), &peer->port.counters);
}

/* --- the queue pair -------------------------------------------------------------------------- */

/* INIT, RTR, RTS: InfiniBand specification 1.4, volume 1, 10.3. */
static int queue_pair_start(struct ib_device *device)
{
	const struct ib_calls *calls = device->calls;
	struct ibv_qp_attr attr = {
	    .qp_state = IBV_QPS_INIT, .port_num = device->port, .qkey = UD_QKEY};

	if (calls->modify_qp(device->qp, &attr,
			     IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY))
		return -EIO;
	attr.qp_state = IBV_QPS_RTR;
	if (calls->modify_qp(device->qp, &attr, IBV_QP_STATE))
		return -EIO;
	attr.qp_state = IBV_QPS_RTS;
	return calls->modify_qp(device->qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN) ? -EIO : 0;
}

static int ud_device_open(struct ib_device *device)
{
	struct ibv_qp_init_attr attr = {
	    .send_cq = device->cq,
	    .recv_cq = device->cq,
	    .cap = {.max_send_wr = IB_UD_SLOTS, .max_send_sge = device->sge_max},
	    .qp_type = IBV_QPT_UD,
	};
	int err = ib_device_receive(device, IB_GRH + device->mtu, IB_UD_BUFFERS, IB_UD_SLOTS);

	if (err)
		return err;
	attr.srq = device->srq;
	device->qp = device->calls->create_ud_qp(device->pd, &attr);
	err = device->qp ? queue_pair_start(device) : -errno;
	if (!err)
		err = ib_ring_open(&device->ring, device, device->qp, NULL, IB_UD_SLOTS);
	return err;
}

static void ud_device_close(struct ib_device *device)
{
	if (device->qp)
		device->calls->destroy_ud_qp(device->qp);
	device->qp = NULL;
	ib_ring_close(&device->ring);
	for (struct ib_handle *handle; (handle = device->handles);) {
		device->handles = handle->next;
		device->calls->destroy_ah(handle->ah);
		free(handle);
	}
}

/* The queue pair stays: others use it, and what was sent is on its way. */
static void ud_close(struct ib_peer *peer)
{
	if (!peer->ah)
		return;
	peer->ah = NULL;
	ib_peer_leave(peer);
	reassembly_destroy(peer->reassembly);
	peer->reassembly = NULL;
}

static bool handle_fits(const struct ibv_ah_attr *a, const struct ibv_ah_attr *b)
{
	return a->is_global == b->is_global && a->dlid == b->dlid && a->sl == b->sl &&
	       a->grh.sgid_index == b->grh.sgid_index &&
	       !memcmp(&a->grh.dgid, &b->grh.dgid, sizeof(a->grh.dgid));
}

static struct ibv_ah *handle_get(struct ib_device *device, struct ibv_ah_attr *attr)
{
	struct ib_handle *handle = device->handles;

	while (handle && !handle_fits(&handle->attr, attr))
		handle = handle->next;
	if (handle)
		return handle->ah;
	handle = calloc(1, sizeof(*handle));
	if (!handle)
		return NULL;
	handle->attr = *attr;
	handle->ah = device->calls->create_ah(device->pd, attr);
	if (!handle->ah) {
		free(handle);
		return NULL;
	}
	handle->next = device->handles;
	device->handles = handle;
	return handle->ah;
}

static int ud_established(struct ib_peer *peer, struct rdma_ud_param *ud)
{
	struct ibv_ah *ah = handle_get(peer->device, &ud->ah_attr);

	if (!ah)
		return -ENOMEM;
	peer->reassembly = reassembly_create(REASSEMBLY_MEMORY_MIN * 2, IB_REASSEMBLY_NS);
	if (!peer->reassembly)
		return -ENOMEM;
	peer->ah = ah;
	peer->qkey = ud->qkey;
	peer->gid = ud->ah_attr.grh.dgid;
	peer->lid = ud->ah_attr.dlid;
	ib_peer_enter(peer, ud->qp_num);
	return 0;
}

static void ud_let_go(struct ib_peer *peer)
{
	if (peer->device && !ib_ring_settle(&peer->device->ring))
		ib_device_end(peer->device, "the guest began anew while frames were on their way");
}

const struct ib_path ib_ud = {
    .name = "ud",
    .space = RDMA_PS_UDP,
    .qp_type = IBV_QPT_UD,
    .features = SESSION_FRAGMENTS | SESSION_HOPS,
    .device_open = ud_device_open,
    .device_close = ud_device_close,
    .close = ud_close,
    .established = ud_established,
    .fill = ud_fill,
    .send = ud_send,
    .control = ud_control,
    .receive = ud_receive,
    .flush = ud_flush,
    .let_go = ud_let_go,
};
