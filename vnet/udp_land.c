/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Bulk traffic of a peer looks the same for a while: large frames, each cut into datagrams of one
 * length, under a header of one length for the first part and of another for the others, in one
 * message or nearly so (udp_pack.c). So before a batch is received its first messages are laid out
 * for such frames: headers into ordinary memory, the parts between them into buffers that the guest
 * has posted, which its NIC lends (port_ops.land).
 *
 *	message    |header|first part|header|part|...|header|part|   room for a surprise
 *	goes to     buffer   guest    buffer guest    buffer guest   buffer
 *
 * What came is believed only if every header is where it was expected and all parts are of one
 * frame, in order from its beginning. Then the frame lies in the guest's buffers and needs no copy.
 * Anything else is put together in the message's buffer, where it would have been without all this
 * (the headers lie at their places there already), is erased from the guest's, and goes the
 * ordinary way: that is one copy more.
 *
 * A frame may be a little longer than a message. Then it is held: parts of the next message are
 * copied behind it as they come. When another frame begins first, or a batch brings none of them,
 * what is there becomes one large part of the ordinary reassembly (given up). The guest may take
 * its buffers back meanwhile: plan->landing is NULL then, and what lay there is lost.
 *
 *	free ---prepare---> laid out ---> whole ---end of the batch---> free
 *	  ^                   |   `-----> held ---join---^
 *	  `-------------------+------------'
 *	     not used, something else, given up
 *
 * Learning: messages that came the ordinary way teach. Plans are made when so many large frames of
 * one peer had one shape that they are trusted (land_trust.h), as many as messages came in the last
 * batch, and some more; then no more than these are received at once. So traffic that cannot be
 * foretold costs next to nothing.
 *
 * The guest can read and rewrite its buffers at any time. It reads nothing that is not for it:
 * core_landing_port() promises that all that links bring can only go to this guest. Headers never
 * lie in its buffers. What it changes in a message that came otherwise (one of the session, say) is
 * no more than anybody on the way could change: peers with a key do not land. Small frames, which
 * others may learn from, never land.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vnet/core.h"
#include "vnet/land_trust.h"
#include "vnet/offload.h"
#include "vnet/udp_land.h"

#define PLANS	    (UDP_LAND_MESSAGES + 1) /* one may be held */
#define PARTS	    64u			    /* datagrams a message: Linux's UDP_MAX_SEGMENTS */
#define IOVECS	    (2 * PARTS + LANDING_PIECES + 1)
#define FRAME_LANDS 1024u			 /* shorter ones do not land */
#define PLAN_BUFFER (UDP_RECEIVE_BUFFER + 4096u) /* of a message, or of a frame */

/* How a peer's large frames come. */
struct shape {
	uint32_t total;	  /* bytes of the largest frame so far */
	uint32_t segment; /* bytes of a datagram, but the last one */
	uint32_t first;	  /* bytes of its header */
	uint32_t other;	  /* of other parts' headers; 0: there are none */
	uint32_t needs;	  /* offload_needs() */
};

struct plan {
	struct landing *landing; /* NULL: the plan is free, or the guest took it away */
	struct shape shape;
	struct udp_peer *peer;
	uint8_t *buffer;
	uint32_t planned;	 /* bytes laid out, headers included */
	uint32_t have;		 /* bytes of the frame */
	struct fragment where;	 /* of its first part */
	struct iov_cursor joins; /* where the next part belongs */
	struct frame frame;
	struct iovec frame_iov[LANDING_PIECES];
	unsigned iov_count;
	struct iovec iov[IOVECS]; /* of the message */
};

struct udp_lander {
	struct shape shape; /* of frames of: */
	struct udp_peer *peer;
	struct land_trust trust;
	unsigned wanted; /* plans for the next batch */
	struct plan *held;
	const struct plan *held_before; /* since an earlier batch */
	/* The batch, message by message. */
	unsigned count;
	struct plan *batch[UDP_LAND_MESSAGES];
	struct iovec *ordinary[UDP_LAND_MESSAGES]; /* where it goes without a plan, in one piece */
	uint8_t *memory;
	struct plan plans[PLANS];
};

/* --- learning ------------------------------------------------------------------------------- */

/* Find the shape of the frame that a message begins with; false: it is not one large frame. */
static bool shape_read(const struct udp_peer *peer, const struct udp_arrival *arrival,
		       struct shape *shape)
{
	const uint32_t vni = peer->endpoint->env.vni;
	const size_t len = arrival->len;
	const size_t segment = arrival->segment && arrival->segment < len ? arrival->segment : len;
	const size_t left = len - segment;
	struct geneve_extras extras, next;
	enum drop_reason reason;

	*shape = (struct shape){.segment = (uint32_t)segment};
	shape->first = (uint32_t)geneve_parse(arrival->data, segment, vni, &extras, &reason);
	if (!shape->first || extras.control || extras.where.offset)
		return false;
	shape->needs = offload_needs(&(struct frame){.offload = extras.offload});
	shape->total = extras.part ? extras.where.total : (uint32_t)segment - shape->first;
	if (left) {
		shape->other = (uint32_t)geneve_parse(
		    arrival->data + segment, left < segment ? left : segment, vni, &next, &reason);
		if (!shape->other || !next.part || next.where.id != extras.where.id)
			return false;
	}
	return shape->total <= FRAME_SIZE_MAX;
}

/* @b may come where @a was expected, but for its length. */
static bool shape_same(const struct shape *a, const struct shape *b)
{
	return a->first == b->first && a->other == b->other &&
	       (a->segment == b->segment || !a->other);
}

void udp_land_learn(struct udp_lander *l, struct udp_peer *peer, const struct udp_arrival *arrival)
{
	struct shape shape;

	if (arrival->len < FRAME_LARGE || peer->seal || peer->state != LINK_UP ||
	    !shape_read(peer, arrival, &shape))
		return;
	if (peer != l->peer || !shape_same(&l->shape, &shape)) {
		l->peer = peer;
		l->shape = shape;
		l->trust.streak = 0;
	}
	l->trust.streak++;
	l->shape.needs = shape.needs;
	if (l->shape.total < shape.total)
		l->shape.total = shape.total;
	l->trust.large = true;
}

/* A large message came otherwise than laid out for. */
static void learn_miss(struct udp_lander *l, struct udp_peer *peer)
{
	peer->port.counters.landing_misses++;
	l->trust.missed = true;
}

static void learn_hit(struct udp_lander *l, const struct frame *frame)
{
	l->trust.large |= frame->len >= FRAME_LARGE;
	land_trust_landed(&l->trust);
}

/* --- laying out ------------------------------------------------------------------------------ */

/* Lay a message out. Returns false when the room is in too many pieces. */
static bool plan_lay(struct plan *plan)
{
	const struct shape *shape = &plan->shape;
	struct iov_cursor room = plan->landing->room;
	uint32_t at = 0, header = shape->first, left = shape->total;
	struct iovec *iov = plan->iov;

	for (unsigned i = 0; i < PARTS && left; i++) {
		uint32_t len = shape->segment - header < left ? shape->segment - header : left;
		unsigned pieces;

		if (at + header >= UDP_DATAGRAM_MAX)
			break;
		if (len > UDP_DATAGRAM_MAX - at - header) /* the last one, which may be short */
			len = UDP_DATAGRAM_MAX - at - header;
		*iov++ = (struct iovec){.iov_base = plan->buffer + at, .iov_len = header};
		pieces = iov_slice(&room, len, iov, IOVECS - 1 - (unsigned)(iov - plan->iov));
		if (!pieces)
			return false;
		iov += pieces;
		at += header + len;
		left -= len;
		if (!shape->other)
			break;
		header = shape->other;
	}
	*iov++ = (struct iovec){.iov_base = plan->buffer + at, .iov_len = UDP_RECEIVE_BUFFER - at};
	plan->planned = at;
	plan->iov_count = (unsigned)(iov - plan->iov);
	return true;
}

static void plan_end(struct plan *plan)
{
	if (plan->landing)
		plan->landing->port->ops->land_end(plan->landing);
}

/* Make one more plan. Returns NULL when there is no room for it. */
static struct plan *plan_make(struct udp_lander *l, struct port *nic)
{
	struct plan *plan = l->plans;

	while (plan->landing || plan == l->held)
		plan++;
	plan->shape = l->shape;
	plan->peer = l->peer;
	plan->have = 0;
	if (!plan->shape.other) /* the next one may be longer */
		plan->shape.segment = UDP_DATAGRAM_MAX;
	plan->shape.total = FRAME_SIZE_MAX;
	nic->ops->land(nic, plan->shape.total, &plan->landing);
	if (!plan->landing) {
		plan->shape.total = l->shape.total;
		nic->ops->land(nic, plan->shape.total, &plan->landing);
	}
	if (!plan->landing)
		return NULL;
	if (plan_lay(plan))
		return plan;
	plan_end(plan);
	l->trust.missed = true;
	return NULL;
}

/* The guest that the next frames are for; NULL: nobody knows, or it would not take them so. */
static struct port *landing_port(const struct udp_lander *l)
{
	struct port *nic;

	if (!l->peer || !land_trust_earned(&l->trust) || l->peer->state != LINK_UP ||
	    !l->peer->port.core)
		return NULL;
	nic = core_landing_port(l->peer->port.core, &l->peer->port);
	return nic && !(l->shape.needs & ~nic->offloads) ? nic : NULL;
}

unsigned udp_land_prepare(struct udp_lander *l, struct mmsghdr messages[])
{
	struct port *nic = landing_port(l);

	l->held_before = l->held;
	for (l->count = 0; nic && l->count < l->wanted; l->count++) {
		struct msghdr *msg = &messages[l->count].msg_hdr;
		struct plan *plan = plan_make(l, nic);

		if (!plan)
			break;
		l->batch[l->count] = plan;
		l->ordinary[l->count] = msg->msg_iov;
		msg->msg_iov = plan->iov;
		msg->msg_iovlen = plan->iov_count;
	}
	return l->count;
}

/* --- what came ------------------------------------------------------------------------------- */

void udp_land_came(struct udp_lander *l, struct mmsghdr messages[], unsigned n)
{
	for (unsigned i = 0; i < l->count; i++) {
		messages[i].msg_hdr.msg_iov = l->ordinary[i];
		messages[i].msg_hdr.msg_iovlen = 1;
		if (i >= n)
			plan_end(l->batch[i]);
	}
	if (n && n == l->count)
		l->wanted = 2 * n; /* there may be more of them */
	else if (n)
		l->wanted = n + 1;
	if (l->wanted > UDP_LAND_MESSAGES)
		l->wanted = UDP_LAND_MESSAGES;
}

/* Put a message of @left bytes together in its buffer, and erase it in the guest's. */
static void plan_gather(struct plan *plan, uint32_t left)
{
	uint8_t *to = plan->buffer;

	if (left > plan->planned)
		left = plan->planned; /* the rest is there */
	for (const struct iovec *iov = plan->iov; left; iov++) {
		uint32_t len = iov->iov_len < left ? (uint32_t)iov->iov_len : left;

		if (iov->iov_base != to) {
			memcpy(to, iov->iov_base, len);
			memset(iov->iov_base, 0, len);
			plan->peer->port.counters.copied_bytes += len;
		}
		to += len;
		left -= len;
	}
}

/* A part of this frame, which follows what is there? */
static bool part_follows(const struct plan *plan, const struct geneve_extras *extras, size_t len)
{
	return len && extras->part && extras->where.id == plan->where.id &&
	       extras->where.total == plan->where.total && extras->where.offset == plan->have &&
	       len <= plan->where.total - plan->have;
}

/* A frame begins. */
static bool part_begins(struct plan *plan, const struct geneve_extras *extras, uint32_t len)
{
	plan->where = extras->where;
	if (!extras->part)
		plan->where.total = len;
	plan->frame = (struct frame){
	    .len = plan->where.total,
	    .hops = extras->hops ? extras->hops : FRAME_HOPS_MAX,
	    .offload = extras->offload,
	};
	return !plan->where.offset && plan->where.total >= FRAME_LANDS &&
	       plan->where.total <= plan->shape.total && len <= plan->where.total;
}

/* Is the datagram whose header is at @at what was laid out for? */
static bool datagram_fits(struct plan *plan, const uint8_t *at, uint32_t len)
{
	const uint32_t header = plan->have ? plan->shape.other : plan->shape.first;
	struct geneve_extras extras;
	enum drop_reason reason;

	if (len <= header ||
	    geneve_parse(at, len, plan->peer->endpoint->env.vni, &extras, &reason) != header ||
	    extras.control)
		return false;
	len -= header;
	if (plan->have ? !part_follows(plan, &extras, len) : !part_begins(plan, &extras, len))
		return false;
	plan->have += len;
	return true;
}

static bool message_fits(struct plan *plan, const struct udp_arrival *arrival)
{
	const uint32_t all = (uint32_t)arrival->len;
	const uint32_t segment =
	    arrival->segment && arrival->segment < all ? (uint32_t)arrival->segment : all;

	if (arrival->truncated || all > plan->planned || segment > plan->shape.segment ||
	    (segment < all && segment != plan->shape.segment))
		return false;
	for (uint32_t at = 0; at < all; at += segment)
		if (!datagram_fits(plan, plan->buffer + at,
				   segment < all - at ? segment : all - at))
			return false;
	return true;
}

/* The frame if it is whole, or else NULL. */
static struct frame *plan_frame(struct udp_lander *l, struct plan *plan)
{
	struct iov_cursor room = plan->landing->room, start = room;
	struct frame *frame = &plan->frame;

	plan->landing->written = plan->have;
	if (plan->have < frame->len)
		return NULL;
	frame->iov = plan->frame_iov;
	frame->iovcnt = iov_slice(&room, frame->len, plan->frame_iov, LANDING_PIECES);
	frame->landing = plan->landing;
	iov_read(&start, frame->eth, sizeof(frame->eth));
	learn_hit(l, frame);
	return frame;
}

bool udp_land_take(struct udp_lander *l, unsigned i, struct udp_peer *peer,
		   struct udp_arrival *arrival)
{
	struct plan *plan = l->batch[i];

	if (peer != plan->peer || !plan->landing || !message_fits(plan, arrival)) {
		if (arrival->len >= FRAME_LARGE)
			learn_miss(l, plan->peer);
		plan_gather(plan, (uint32_t)arrival->len);
		plan_end(plan); /* the guest's buffers are wanted for the copy */
		arrival->data = plan->buffer;
		return false;
	}
	return true;
}

struct frame *udp_land_frame(struct udp_lander *l, unsigned i)
{
	struct plan *plan = l->batch[i];
	struct frame *frame = plan_frame(l, plan);

	if (frame)
		return frame;
	plan->joins = plan->landing->room;
	iov_skip(&plan->joins, plan->have);
	l->held = plan;
	return NULL;
}

bool udp_land_join(struct udp_lander *l, const struct udp_peer *peer,
		   const struct geneve_extras *extras, const uint8_t *data, size_t len,
		   struct frame **frame)
{
	struct plan *plan = l->held;

	*frame = NULL;
	if (!plan || !plan->landing || peer != plan->peer || !part_follows(plan, extras, len))
		return false;
	iov_write(&plan->joins, data, len);
	plan->peer->port.counters.copied_bytes += len;
	plan->have += (uint32_t)len;
	*frame = plan_frame(l, plan);
	if (*frame)
		l->held = NULL;
	return true;
}

bool udp_land_give_up(struct udp_lander *l, struct udp_start *start)
{
	struct plan *plan = l->held;
	struct iov_cursor at;

	l->held = NULL;
	if (!plan || !plan->landing)
		return false;
	at = plan->landing->room;
	*start = (struct udp_start){
	    .peer = plan->peer,
	    .extras = {.part = true,
		       .hops = plan->frame.hops,
		       .offload = plan->frame.offload,
		       .where = plan->where},
	    .data = plan->buffer,
	    .len = iov_read(&at, plan->buffer, plan->have),
	};
	plan->peer->port.counters.copied_bytes += plan->have;
	plan_end(plan);
	return true;
}

bool udp_land_stale(const struct udp_lander *l)
{
	return l->held && l->held == l->held_before;
}

void udp_land_end(struct udp_lander *l)
{
	for (unsigned i = 0; i < PLANS; i++)
		if (&l->plans[i] != l->held)
			plan_end(&l->plans[i]);
	land_trust_batch(&l->trust);
}

void udp_land_forget(struct udp_lander *l, const struct udp_peer *peer)
{
	if (l->peer == peer)
		l->peer = NULL;
	if (l->held && l->held->peer == peer) {
		plan_end(l->held);
		l->held = NULL;
	}
}

/* --- life ------------------------------------------------------------------------------------ */

struct udp_lander *udp_lander_create(void)
{
	struct udp_lander *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->memory = mmap(NULL, PLANS * PLAN_BUFFER, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (l->memory == MAP_FAILED) {
		free(l);
		return NULL;
	}
	/* A huge page would make all of them resident with the first datagram. */
	madvise(l->memory, PLANS * PLAN_BUFFER, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < PLANS; i++)
		l->plans[i].buffer = l->memory + (size_t)i * PLAN_BUFFER;
	l->trust.need = TRUST_NEED_MIN;
	return l;
}

void udp_lander_destroy(struct udp_lander *l)
{
	if (!l)
		return;
	if (l->held)
		plan_end(l->held);
	munmap(l->memory, PLANS * PLAN_BUFFER);
	free(l);
}
