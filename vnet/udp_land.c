/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Bulk traffic of a peer looks the same for a while: large frames, each cut into datagrams of one
 * length, under a header of one length for the first part and of another for the others, in one
 * message or, when that is full, two (udp_pack.c). So before a batch is received its first messages
 * are laid out for such frames: headers into ordinary memory, the parts between them into buffers
 * that the guest has posted, which its NIC lends (port_ops.land).
 *
 *	message    |header|first part|header|part|...|header|part|   room for a surprise
 *	goes to     buffer   guest    buffer guest    buffer guest   buffer
 *
 * What came is believed only if every header is where it was expected and all parts are one frame,
 * in order and whole. Then the frame lies in the guest's buffers and needs no copy. Otherwise what
 * landed is put together in the message's buffer, where it would have been without all this, and
 * goes the ordinary way, with one copy more; each piece of the header lies at its place there
 * already.
 *
 * Learning: only messages that came the ordinary way teach. A plan is made when so many large
 * frames of one peer had one shape (streak >= need). A frame that comes otherwise begins a new
 * streak, and the need doubles, up to NEED_MAX; it halves with each EASE frames that landed. So
 * traffic that cannot be foretold costs next to nothing.
 *
 * A plan is the room for a frame and one or two messages. Unused ones go back right after the
 * system call, before anything is delivered; what was delivered or failed, at the end of the batch.
 * Only a plan whose first message came as expected, and whose second one did not come yet, waits
 * for the next batch (held); the next message is either the rest, or ends the plan. The guest may
 * take its buffers back meanwhile: plan->landing is NULL then, and the frame is lost.
 *
 * The guest can read and rewrite its buffers at any time. It reads nothing that is not for it:
 * core_landing_port() promises that all that links bring can only go to this guest. Headers, which
 * decide, are never in its buffers; what it changes of a message that came otherwise (of a session
 * message, say) is no more than anybody on the way could change, because peers with a key do not
 * land.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vnet/core.h"
#include "vnet/offload.h"
#include "vnet/udp_land.h"

#define PLANS	      UDP_LAND_MESSAGES /* even if each is one message */
#define PLAN_MESSAGES 2u
#define PARTS	      64u /* datagrams a message: Linux's UDP_MAX_SEGMENTS */
#define IOVECS	      (2 * PARTS + LANDING_PIECES + 1)
#define FRAME_LARGE   1024u /* bytes; smaller ones are not worth it */
#define NEED_MIN      4u
#define NEED_MAX      1024u
#define EASE	      64u
#define BUFFERS	      ((size_t)PLANS * PLAN_MESSAGES * UDP_RECEIVE_BUFFER)

/* How a peer's large frames come. */
struct shape {
	uint32_t total;	    /* bytes of a frame, at most */
	uint32_t segment;   /* bytes of a datagram, but the last one */
	uint32_t first;	    /* bytes of its header */
	uint32_t other;	    /* of other parts' headers; 0: there are none */
	unsigned datagrams; /* in the first message; 0: all of the frame */
	uint32_t needs;	    /* offload_needs() */
};

struct land_message {
	uint8_t *buffer;
	unsigned iov_count;
	uint32_t start;	  /* of the frame: what comes with this message */
	uint32_t planned; /* bytes laid out, headers included */
	uint32_t pending; /* bytes that came and are not gathered */
	struct udp_arrival arrival;
	struct iovec iov[IOVECS];
};

enum plan_state {
	PLAN_OPEN,
	PLAN_WHOLE,  /* its frame is complete */
	PLAN_FAILED, /* something else came */
};

struct plan {
	struct landing *landing; /* NULL: the plan is free, or the guest took it away */
	struct shape shape;
	struct udp_peer *peer;
	unsigned message_count;
	struct land_message messages[PLAN_MESSAGES];
	enum plan_state state;
	unsigned taken;	       /* messages that came as expected */
	uint32_t have;	       /* bytes of the frame */
	struct fragment where; /* of its first part */
	struct frame frame;
	struct iovec iov[LANDING_PIECES]; /* of the frame */
};

struct udp_lander {
	struct shape shape; /* of frames of: */
	struct udp_peer *peer;
	unsigned streak, need, eased;
	unsigned frames, wanted; /* large ones in this batch; plans for the next one */
	uint32_t largest;	 /* frame of this batch */
	bool missed;		 /* in this batch */
	struct plan *held;
	/* The batch, message by message. */
	unsigned count;
	struct {
		struct plan *plan;
		unsigned message;
		struct iovec *iov; /* where it goes without a plan, in one piece */
	} at[UDP_LAND_MESSAGES];
	uint8_t *memory;
	struct plan plans[PLANS];
};

/* --- learning ------------------------------------------------------------------------------- */

static bool shape_same(const struct shape *a, const struct shape *b)
{
	return a->first == b->first && a->other == b->other && a->datagrams == b->datagrams &&
	       (a->segment == b->segment || !a->other);
}

/* Find the shape of the frame that a message begins with; false: it is not one large frame. */
static bool shape_read(const struct udp_peer *peer, const struct udp_arrival *arrival,
		       struct shape *shape)
{
	const uint32_t vni = peer->endpoint->env.vni;
	const size_t len = arrival->len;
	const size_t segment = arrival->segment && arrival->segment < len ? arrival->segment : len;
	const size_t datagrams = (len + segment - 1) / segment;
	struct geneve_extras extras, next;
	enum drop_reason reason;
	size_t parts;

	*shape = (struct shape){.segment = (uint32_t)segment};
	shape->first = (uint32_t)geneve_parse(arrival->data, segment, vni, &extras, &reason);
	if (!shape->first || extras.control || extras.where.offset || datagrams > PARTS)
		return false;
	shape->needs = offload_needs(&(struct frame){.offload = extras.offload});
	shape->total = extras.part ? extras.where.total : (uint32_t)segment - shape->first;
	if (datagrams > 1) {
		size_t left = len - segment;

		shape->other = (uint32_t)geneve_parse(
		    arrival->data + segment, left < segment ? left : segment, vni, &next, &reason);
		if (!shape->other || !next.part)
			return false;
	}
	parts = len - shape->first - (datagrams - 1) * shape->other;
	if (parts < shape->total)
		shape->datagrams = (unsigned)datagrams;
	return parts <= shape->total && shape->total >= FRAME_LARGE &&
	       shape->total <= FRAME_SIZE_MAX;
}

static void frame_seen(struct udp_lander *l, uint32_t len)
{
	l->frames++;
	if (l->largest < len)
		l->largest = len;
}

void udp_land_learn(struct udp_lander *l, struct udp_peer *peer, const struct udp_arrival *arrival)
{
	struct shape shape;

	if (arrival->len < FRAME_LARGE || !arrival->data || peer->seal || peer->state != LINK_UP ||
	    !shape_read(peer, arrival, &shape))
		return;
	frame_seen(l, shape.total);
	if (peer != l->peer || !shape_same(&shape, &l->shape)) {
		l->peer = peer;
		l->shape = shape;
		l->streak = 0;
		return;
	}
	l->streak++;
	l->shape.needs = shape.needs;
	if (l->shape.total < shape.total)
		l->shape.total = shape.total;
	if (l->shape.segment < shape.segment)
		l->shape.segment = shape.segment;
}

/* A large frame came otherwise than laid out for. */
static void learn_miss(struct udp_lander *l, struct udp_peer *peer)
{
	peer->port.counters.landing_misses++;
	l->missed = true;
}

static void learn_hit(struct udp_lander *l, uint32_t len)
{
	frame_seen(l, len);
	if (++l->eased % EASE == 0 && l->need > NEED_MIN)
		l->need /= 2;
}

static void learn_batch(struct udp_lander *l)
{
	if (l->missed) {
		l->streak = 0;
		l->eased = 0;
		if (l->need < NEED_MAX)
			l->need *= 2;
	}
	if (l->frames) {
		uint32_t less = l->shape.total - l->shape.total / 16;

		l->shape.total = l->largest > less ? l->largest : less;
		l->wanted = l->frames + 1;
	}
	l->frames = 0;
	l->largest = 0;
	l->missed = false;
}

/* --- laying out ------------------------------------------------------------------------------ */

/* Lay the next message out; @room moves on. Returns false when its memory is in too many pieces. */
static bool message_lay(struct plan *plan, struct iov_cursor *room, uint32_t *start)
{
	const struct shape *shape = &plan->shape;
	struct land_message *m = &plan->messages[plan->message_count];
	const unsigned datagrams = shape->datagrams ? shape->datagrams : PARTS;
	uint32_t at = 0, header = *start ? shape->other : shape->first;
	struct iovec *iov = m->iov;

	m->start = *start;
	m->pending = 0;
	for (unsigned i = 0; i < datagrams && *start < shape->total; i++) {
		uint32_t len = shape->segment - header, left = shape->total - *start;
		unsigned pieces;

		len = len < left ? len : left;
		if (at + header + len >= UDP_RECEIVE_BUFFER)
			break;
		*iov++ = (struct iovec){.iov_base = m->buffer + at, .iov_len = header};
		pieces = iov_slice(room, len, iov, IOVECS - 1 - (unsigned)(iov - m->iov));
		if (!pieces)
			return false;
		iov += pieces;
		at += header + len;
		*start += len;
		if (!shape->other)
			break;
		header = shape->other;
	}
	*iov++ = (struct iovec){.iov_base = m->buffer + at, .iov_len = UDP_RECEIVE_BUFFER - at};
	m->planned = at;
	m->iov_count = (unsigned)(iov - m->iov);
	plan->message_count++;
	return true;
}

static bool plan_lay(struct plan *plan)
{
	struct iov_cursor room = plan->landing->room;
	uint32_t start = 0;

	plan->message_count = plan->taken = 0;
	plan->state = PLAN_OPEN;
	plan->have = 0;
	do {
		if (!message_lay(plan, &room, &start))
			return false;
	} while (plan->shape.datagrams && start < plan->shape.total &&
		 plan->message_count < PLAN_MESSAGES);
	return start == plan->shape.total;
}

static void plan_end(struct plan *plan)
{
	if (plan->landing)
		plan->landing->port->ops->land_end(plan->landing);
}

/* Make one more plan. Returns NULL when there is no room, or none in one message or two. */
static struct plan *plan_make(struct udp_lander *l, struct port *nic)
{
	struct plan *plan = l->plans;

	while (plan->landing)
		plan++;
	plan->shape = l->shape;
	plan->peer = l->peer;
	nic->ops->land(nic, plan->shape.total, &plan->landing);
	if (!plan->landing || plan_lay(plan))
		return plan->landing ? plan : NULL;
	plan_end(plan);
	l->missed = true;
	return NULL;
}

/* Point the next messages of the batch at a plan's, from number @from on. */
static void plan_place(struct udp_lander *l, struct mmsghdr messages[], struct plan *plan,
		       unsigned from)
{
	for (unsigned i = from; i < plan->message_count; i++, l->count++) {
		struct msghdr *msg = &messages[l->count].msg_hdr;

		l->at[l->count].plan = plan;
		l->at[l->count].message = i;
		l->at[l->count].iov = msg->msg_iov;
		msg->msg_iov = plan->messages[i].iov;
		msg->msg_iovlen = plan->messages[i].iov_count;
	}
}

/* The guest that the next frames are for; NULL: nobody knows, or it would not take them so. */
static struct port *landing_port(const struct udp_lander *l)
{
	struct port *nic;

	if (!l->peer || l->streak < l->need || l->peer->state != LINK_UP || !l->peer->port.core)
		return NULL;
	nic = core_landing_port(l->peer->port.core, &l->peer->port);
	return nic && !(l->shape.needs & ~nic->offloads) ? nic : NULL;
}

unsigned udp_land_prepare(struct udp_lander *l, struct mmsghdr messages[])
{
	struct port *nic = landing_port(l);
	const unsigned each = l->shape.datagrams ? PLAN_MESSAGES : 1;

	l->count = 0;
	if (l->held && !l->held->landing) {
		l->held->peer->port.counters.drops[DROP_RING_FULL]++;
		l->held = NULL;
	}
	if (l->held)
		plan_place(l, messages, l->held, l->held->taken);
	for (unsigned i = 0; nic && i < l->wanted && l->count + each <= UDP_LAND_MESSAGES; i++) {
		struct plan *plan = plan_make(l, nic);

		if (!plan)
			break;
		plan_place(l, messages, plan, 0);
	}
	return l->count;
}

/* --- what came ------------------------------------------------------------------------------- */

void udp_land_came(struct udp_lander *l, const struct mmsghdr messages[], unsigned n)
{
	for (unsigned i = 0; i < l->count; i++) {
		struct plan *plan = l->at[i].plan;

		if (i < n)
			plan->messages[l->at[i].message].pending = messages[i].msg_len;
		else if (!l->at[i].message)
			plan_end(plan);
	}
}

/* Put a message together in its buffer, and erase it in the guest's. */
static void message_gather(struct plan *plan, struct land_message *m)
{
	uint8_t *to = m->buffer;
	uint32_t left = m->pending < m->planned ? m->pending : m->planned;

	for (const struct iovec *iov = m->iov; left; iov++) {
		uint32_t len = iov->iov_len < left ? (uint32_t)iov->iov_len : left;

		if (iov->iov_base != to) {
			memcpy(to, iov->iov_base, len);
			memset(iov->iov_base, 0, len);
			plan->peer->port.counters.copied_bytes += len;
		}
		to += len;
		left -= len;
	}
	m->pending = 0;
}

/* Read the header of the datagram at @at. Returns the bytes of the frame behind it; 0: it is not
 * what was expected. */
static uint32_t part_read(struct plan *plan, const uint8_t *at, uint32_t len)
{
	const struct shape *shape = &plan->shape;
	const uint32_t header = plan->have ? shape->other : shape->first;
	struct geneve_extras extras;
	enum drop_reason reason;

	if (len <= header ||
	    geneve_parse(at, len, plan->peer->endpoint->env.vni, &extras, &reason) != header ||
	    extras.control)
		return 0;
	len -= header;
	if (!plan->have) {
		plan->where = extras.where;
		if (!extras.part)
			plan->where = (struct fragment){.total = len};
		plan->frame = (struct frame){.hops = extras.hops ? extras.hops : FRAME_HOPS_MAX,
					     .offload = extras.offload};
	} else if (!extras.part) {
		return 0;
	}
	if (extras.where.offset != plan->have || plan->where.total < FRAME_LARGE ||
	    plan->where.total > shape->total || len > plan->where.total - plan->have ||
	    (extras.part &&
	     (extras.where.id != plan->where.id || extras.where.total != plan->where.total)))
		return 0;
	return len;
}

/* Is the message what was expected? */
static bool message_fits(struct plan *plan, const struct land_message *m,
			 const struct udp_arrival *arrival)
{
	uint32_t left = (uint32_t)arrival->len, at = 0, len;
	uint32_t segment = arrival->segment ? (uint32_t)arrival->segment : left;

	if (arrival->truncated || left > m->planned || plan->have != m->start ||
	    (segment < left && segment != plan->shape.segment) || segment > plan->shape.segment)
		return false;
	for (; left; left -= segment < left ? segment : left, at += segment) {
		len = part_read(plan, m->buffer + at, segment < left ? segment : left);
		if (!len)
			return false;
		plan->have += len;
	}
	return plan->have == plan->where.total ||
	       (plan->taken + 1 < plan->message_count && plan->have == m[1].start);
}

/* The frame is whole. */
static struct frame *plan_frame(struct udp_lander *l, struct plan *plan)
{
	struct iov_cursor room = plan->landing->room, start = room;
	struct frame *frame = &plan->frame;

	/* A message that was to be its rest, and is not: the guest must not find it behind. */
	for (unsigned i = plan->taken; i < plan->message_count; i++)
		message_gather(plan, &plan->messages[i]);
	frame->len = plan->where.total;
	frame->iov = plan->iov;
	frame->iovcnt = iov_slice(&room, frame->len, plan->iov, LANDING_PIECES);
	frame->landing = plan->landing;
	iov_read(&start, frame->eth, sizeof(frame->eth));
	plan->landing->written = frame->len;
	plan->state = PLAN_WHOLE;
	learn_hit(l, frame->len);
	return frame;
}

/* Something else came: what came before of this plan goes the ordinary way too. */
static void plan_fail(struct udp_lander *l, struct plan *plan, struct udp_landed *landed)
{
	if (plan->state != PLAN_OPEN)
		return;
	plan->state = PLAN_FAILED;
	for (unsigned i = 0; i < plan->message_count; i++)
		message_gather(plan, &plan->messages[i]);
	if (plan->taken)
		landed->arrivals[landed->arrival_count++] = plan->messages[0].arrival;
	if (plan == l->held)
		l->held = NULL;
}

struct udp_landed udp_land_take(struct udp_lander *l, unsigned i, const struct udp_peer *peer,
				const struct udp_arrival *arrival)
{
	struct plan *plan = l->at[i].plan;
	struct land_message *m = &plan->messages[l->at[i].message];
	struct udp_landed landed = {0};

	m->arrival = *arrival;
	m->arrival.data = m->buffer;
	if (peer == plan->peer && plan->state == PLAN_OPEN && message_fits(plan, m, arrival)) {
		plan->taken++;
		l->held = plan->have < plan->where.total ? plan : NULL;
		if (!l->held)
			landed.frame = plan_frame(l, plan);
		return landed;
	}
	if (arrival->len >= FRAME_LARGE)
		learn_miss(l, plan->peer);
	plan_fail(l, plan, &landed);
	message_gather(plan, m);
	landed.arrivals[landed.arrival_count++] = m->arrival;
	return landed;
}

void udp_land_end(struct udp_lander *l, struct mmsghdr messages[])
{
	for (unsigned i = 0; i < l->count; i++) {
		messages[i].msg_hdr.msg_iov = l->at[i].iov;
		messages[i].msg_hdr.msg_iovlen = 1;
		if (l->at[i].plan != l->held)
			plan_end(l->at[i].plan);
	}
	l->count = 0;
	learn_batch(l);
}

void udp_land_forget(struct udp_lander *l, const struct udp_peer *peer)
{
	struct plan *held = l->held;

	if (l->peer == peer)
		l->peer = NULL;
	if (!held || held->peer != peer)
		return;
	l->held = NULL;
	if (held->landing)
		held->landing->written = held->have;
	plan_end(held);
}

/* --- life ------------------------------------------------------------------------------------ */

struct udp_lander *udp_lander_create(void)
{
	struct udp_lander *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->memory = mmap(NULL, BUFFERS, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (l->memory == MAP_FAILED) {
		free(l);
		return NULL;
	}
	/* A huge page would make all of them resident with the first datagram. */
	madvise(l->memory, BUFFERS, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < PLANS * PLAN_MESSAGES; i++)
		l->plans[i / PLAN_MESSAGES].messages[i % PLAN_MESSAGES].buffer =
		    l->memory + (size_t)i * UDP_RECEIVE_BUFFER;
	l->need = NEED_MIN;
	return l;
}

void udp_lander_destroy(struct udp_lander *l)
{
	if (!l)
		return;
	if (l->held)
		udp_land_forget(l, l->held->peer);
	munmap(l->memory, BUFFERS);
	free(l);
}
