/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * While large frames come, some of the receive requests of RC connections point into buffers that
 * the guest has posted, which its NIC lends (port_ops.land):
 *
 *	message   |header, first bytes of the frame|the frame's rest         |more than expected
 *	goes to    the room, HEAD bytes             guest, but for its first  the rest of the room
 *	                                            bytes
 *
 * The room is the buffer of IB_MESSAGE_MAX bytes that the request would have without all this, and
 * any message fits. The first bytes of a frame that lies there as expected are copied behind it
 * into the guest's buffers, where room was left for them; then it is only given. The core sees them
 * in the room: what headers say is judged in memory that the guest does not have.
 *
 * A message of HEAD bytes or less, such as an acknowledgement or one of a session, lies in the room
 * alone. Anything else (another length of header than that of the last frames, a frame longer than
 * was lent) is a miss: what went to the guest is copied to its place in the room, which was left
 * free for it, erased in the guest's buffers, and the message is taken as any other.
 *
 *	free ---lay---> posted ---came---> done ---end of the batch---> free
 *	                  `-----the queue is destroyed----------------^
 *
 * Requests of the queue are used in the order they were posted in, whoever's message comes, so
 * frames of all peers land alike, and small messages use up requests that were laid out for large
 * ones. Whether any are laid out is a matter of trust (land_trust.h) in large frames that come with
 * one length of header. Requests that were laid out before a miss (era) say nothing new by missing
 * too.
 *
 * The NIC lends half of its ring at most, so only a part of the requests is laid out, and what else
 * comes finds buffers to be copied to. On a quiet link requests stay as they are until messages use
 * them up.
 *
 * The adapter writes to what is posted at any time. So before a guest has its buffers back (a
 * reset), and before what links bring may go elsewhere, all connections of the device end, and with
 * them their receive queue (port_ops.recall): that is the only way to take a request back. They
 *come again at once. A request lost with a connection keeps its room until then.
 *
 * Guest memory must be registered, and the adapter's queues must take three pieces a request: or
 * else there is no lander. Nothing here allocates once it is made. The loop's thread.
 */
#include <stdlib.h>

#include "vnet/core.h"
#include "vnet/ib.h"
#include "vnet/land_trust.h"
#include "vnet/offload.h"

#define PLANS	   IB_WINDOW
#define PLAN_SHIFT 32 /* in a work request's id: which plan, from 1 on; 0: none */
#define PLAN_MASK  0xffu
#define HEAD	   320u /* bytes: any Geneve header, and what is looked at of a frame */

struct ib_plan {
	struct landing *landing; /* NULL: free */
	uint8_t *room;
	uint32_t header; /* bytes in front of the frame */
	uint32_t lent;	 /* bytes of the message that go to the guest: those behind HEAD */
	uint32_t era;
	unsigned sge_count;
	struct ibv_sge sge[IB_SGE_MAX];
	struct iovec iov[1 + LANDING_PIECES]; /* of the frame */
};

struct ib_lander {
	struct ib_device *device;
	unsigned sge_max;
	/* How large frames come. */
	struct ib_peer *peer; /* the last one's; NULL: gone */
	uint32_t header;
	bool gso;
	uint32_t needs; /* offload_needs() */
	struct land_trust trust;
	uint32_t era;
	unsigned free_count, done_count;
	struct ib_plan *free[PLANS], *done[PLANS];
	struct ib_plan plans[PLANS];
};

/* --- learning -------------------------------------------------------------------------------- */

void ib_land_learn(struct ib_lander *l, struct ib_peer *peer, size_t header,
		   const struct frame *frame)
{
	if (!l || frame->len < FRAME_LARGE || header > GENEVE_HEADER_MAX)
		return;
	if (header != l->header) {
		l->header = (uint32_t)header;
		l->gso = false;
		l->trust.streak = 0;
	}
	l->peer = peer;
	l->needs = offload_needs(frame);
	l->gso |= frame->offload.gso_type != 0;
	l->trust.large = true;
	l->trust.streak++;
	if (frame->landing)
		land_trust_landed(&l->trust);
}

static void learn_miss(struct ib_lander *l, const struct ib_plan *plan)
{
	l->trust.missed |= plan->era == l->era;
}

/* Trust grows anew for what is laid out from now on. */
static void learn_batch(struct ib_lander *l)
{
	l->era += l->trust.missed;
	land_trust_batch(&l->trust);
}

/* --- laying out ------------------------------------------------------------------------------ */

/* The guest that the next frames are for; NULL: nobody knows, or it would not take them so. */
static struct port *landing_port(const struct ib_lander *l)
{
	struct port *nic;

	if (!l || !l->peer || !land_trust_earned(&l->trust) || !l->peer->port.core)
		return NULL;
	nic = core_landing_port(l->peer->port.core, &l->peer->port);
	return nic && !(l->needs & ~nic->offloads) ? nic : NULL;
}

/* One more piece, or more of the last one. */
static bool piece_add(struct ib_lander *l, struct ib_plan *plan, const struct iovec *piece,
		      uint32_t lkey)
{
	struct ibv_sge *last = &plan->sge[plan->sge_count - 1];
	const uint64_t at = (uintptr_t)piece->iov_base;

	if (last->lkey == lkey && last->addr + last->length == at) {
		last->length += (uint32_t)piece->iov_len;
		return true;
	}
	if (plan->sge_count == l->sge_max)
		return false;
	plan->sge[plan->sge_count++] =
	    (struct ibv_sge){.addr = at, .length = (uint32_t)piece->iov_len, .lkey = lkey};
	return true;
}

/* Point to the guest's buffers, from where HEAD ends on. False: they are in too many pieces, or not
 * registered. */
static bool guest_lay(struct ib_lander *l, struct ib_plan *plan)
{
	struct iov_cursor at = plan->landing->room;
	uint32_t left = plan->lent;

	iov_skip(&at, HEAD - plan->header);
	while (left) {
		struct iovec piece = iov_piece(&at);
		const struct ibv_mr *mr = ib_memory_find(l->device, &piece);

		if (piece.iov_len > left)
			piece.iov_len = left;
		if (!mr || !piece.iov_len || !piece_add(l, plan, &piece, mr->lkey))
			return false;
		at.offset += piece.iov_len;
		left -= (uint32_t)piece.iov_len;
	}
	return true;
}

static bool plan_lay(struct ib_lander *l, struct ib_plan *plan, const struct ibv_sge *room,
		     uint32_t len)
{
	struct iovec rest = {.iov_len = room->length};

	plan->room = (uint8_t *)(uintptr_t)room->addr;
	plan->header = l->header;
	plan->lent = len - (HEAD - l->header);
	plan->era = l->era;
	plan->sge[0] = *room;
	plan->sge[0].length = HEAD;
	plan->sge_count = 1;
	rest.iov_base = plan->room + HEAD + plan->lent;
	rest.iov_len -= HEAD + plan->lent;
	return guest_lay(l, plan) && (!rest.iov_len || piece_add(l, plan, &rest, room->lkey));
}

/* Give the room back; what the adapter may have written there is erased if the guest was not given
 * it. */
static void plan_end(struct ib_lander *l, struct ib_plan *plan)
{
	if (plan->landing)
		plan->landing->port->ops->land_end(plan->landing);
	l->free[l->free_count++] = plan;
}

static struct ib_plan *plan_make(struct ib_lander *l, struct port *nic, const struct ibv_sge *room)
{
	/* Without GSO the MTU bounds them, with a VLAN tag or two. */
	uint32_t len = l->gso ? FRAME_SIZE_MAX : nic->mtu + FRAME_HEADER + 8;
	struct ib_plan *plan = l->free_count ? l->free[l->free_count - 1] : NULL;

	if (!plan)
		return NULL;
	if (len > FRAME_SIZE_MAX)
		len = FRAME_SIZE_MAX;
	if (len < FRAME_LARGE)
		len = FRAME_LARGE;
	nic->ops->land(nic, len, &plan->landing);
	if (!plan->landing)
		return NULL;
	l->free_count--;
	if (plan_lay(l, plan, room, len))
		return plan;
	plan_end(l, plan);
	l->trust.missed = true;
	return NULL;
}

void ib_land_lay(struct ib_lander *l, struct ibv_recv_wr wrs[], unsigned n)
{
	struct port *nic = landing_port(l);

	for (unsigned i = 0; i < n && nic; i++) {
		struct ib_plan *plan = plan_make(l, nic, wrs[i].sg_list);

		if (!plan)
			return;
		wrs[i].wr_id |= (uint64_t)(plan - l->plans + 1) << PLAN_SHIFT;
		wrs[i].sg_list = plan->sge;
		wrs[i].num_sge = (int)plan->sge_count;
	}
}

/* --- what came ------------------------------------------------------------------------------- */

/* Of a message of this length, the bytes that went to the guest. */
static uint32_t plan_used(const struct ib_plan *plan, size_t len)
{
	if (len <= HEAD)
		return 0;
	return len - HEAD < plan->lent ? (uint32_t)len - HEAD : plan->lent;
}

/* As much of the room is not as the guest left it. */
static void plan_written(struct ib_plan *plan, size_t len)
{
	uint32_t used = plan_used(plan, len);

	plan->landing->written = used ? HEAD - plan->header + used : 0;
}

struct ib_plan *ib_land_came(struct ib_lander *l, uint64_t *id, bool whole, size_t len)
{
	unsigned number = *id >> PLAN_SHIFT & PLAN_MASK;
	struct ib_plan *plan;

	*id &= ~((uint64_t)PLAN_MASK << PLAN_SHIFT);
	if (!number)
		return NULL;
	plan = &l->plans[number - 1];
	l->done[l->done_count++] = plan;
	plan_written(plan, whole ? len : IB_MESSAGE_MAX);
	return plan;
}

/* A miss: put the message together in its room. */
static void plan_gather(struct ib_plan *plan, size_t len)
{
	struct iov_cursor at = plan->landing->room;

	iov_skip(&at, HEAD - plan->header);
	iov_read(&at, plan->room + HEAD, plan_used(plan, len));
}

void ib_land_take(struct ib_lander *l, struct ib_plan *plan, size_t len,
		  struct port_counters *counters)
{
	if (plan_used(plan, len)) {
		plan_gather(plan, len);
		counters->copied_bytes += plan_used(plan, len);
		counters->landing_misses++;
		learn_miss(l, plan);
	}
	plan->landing->port->ops->land_end(plan->landing); /* its buffers are wanted for the copy */
}

bool ib_land_fits(const struct ib_plan *plan, const struct geneve_extras *extras, size_t header,
		  size_t len)
{
	return !extras->control && !extras->part && header == plan->header && len > HEAD &&
	       len <= HEAD + plan->lent;
}

void ib_land_frame(struct ib_plan *plan, struct frame *frame)
{
	struct landing *landing = plan->landing;
	struct iov_cursor at = landing->room;
	const uint32_t first = HEAD - plan->header;

	plan->iov[0] = (struct iovec){plan->room + plan->header, first};
	iov_write(&at, plan->iov[0].iov_base, first);
	landing->port->counters.copied_bytes += first;
	frame->iov = plan->iov;
	frame->iovcnt = 1 + iov_slice(&at, frame->len - first, plan->iov + 1, LANDING_PIECES);
	frame->landing = landing;
}

void ib_land_end(struct ib_lander *l)
{
	if (!l)
		return;
	while (l->done_count)
		plan_end(l, l->done[--l->done_count]);
	learn_batch(l);
}

/* --- life ------------------------------------------------------------------------------------ */

bool ib_land_lent(const struct ib_lander *l)
{
	return l && l->free_count < PLANS;
}

void ib_land_forget(struct ib_lander *l, const struct ib_peer *peer)
{
	if (l && l->peer == peer)
		l->peer = NULL;
}

struct ib_lander *ib_lander_create(struct ib_device *device, unsigned sge_max)
{
	struct ib_lander *l = NULL;

	for (unsigned i = 0; i < IB_MEMORY_MAX && sge_max >= 3 && !l; i++)
		if (device->memory[i])
			l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->device = device;
	l->sge_max = sge_max < IB_SGE_MAX ? sge_max : IB_SGE_MAX;
	l->trust.need = TRUST_NEED_MIN;
	for (unsigned i = PLANS; i-- > 0;)
		l->free[l->free_count++] = &l->plans[i];
	return l;
}

void ib_lander_destroy(struct ib_lander *l)
{
	for (unsigned i = 0; l && i < PLANS; i++) {
		struct landing *landing = l->plans[i].landing;

		if (!landing)
			continue;
		plan_written(&l->plans[i], IB_MESSAGE_MAX);
		landing->port->ops->land_end(landing);
	}
	free(l);
}
