/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * recvmmsg() into buffers that are reused from the first on, so that only as many become resident
 * as ever came in at once. The kernel may have joined datagrams of one sender and one length into a
 * train (UDP_GRO): it is cut here, by pointers. Each datagram is unsealed in place, if there is a
 * key, and is then one of three:
 *
 *   a session message   to udp_session_input()
 *   a frame             described where it lies
 *   a part of one       to the peer's reassembly, which gives the frame back when it is complete:
 * by iovecs, without a copy, when all its parts came in this batch
 *
 * Frames gather in a run, all of one peer and in order, which goes to the core when it is full,
 * when another peer's datagram comes, and at the end of the batch. Then each reassembly that was
 * used saves what it still holds of the buffers (the one copy on the way in), and they are filled
 * anew.
 *
 * A visit ends after VISIT_BATCHES full batches; the poll is level-triggered and calls again after
 * the others' turn.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vnet/core.h"
#include "vnet/offload.h"
#include "vnet/udp_land.h"

#define RECEIVE_BATCH  32u /* messages a system call */
#define RECEIVE_MEMORY ((size_t)RECEIVE_BATCH * UDP_RECEIVE_BUFFER)
#define VISIT_BATCHES  8u /* batches received before others get their turn */

struct udp_receiving {
	struct mmsghdr messages[RECEIVE_BATCH];
	union socket_address from[RECEIVE_BATCH];
	struct iovec buffers[RECEIVE_BATCH];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} control[RECEIVE_BATCH];
	uint8_t *memory; /* the buffers */
	uint64_t now_ns;
	/* The run: frames of one peer on their way to the core. */
	struct udp_peer *peer;
	unsigned run_count;
	struct frame *run[FRAME_BATCH_MAX];
	struct frame
	    frames[FRAME_BATCH_MAX]; /* those that are in one piece, by position in the run */
	struct iovec payloads[FRAME_BATCH_MAX];
	/* Peers whose reassembly holds parts of this batch. */
	unsigned touched_count;
	struct udp_peer *touched[RECEIVE_BATCH];
};

/* --- frames -------------------------------------------------------------------------------- */

static void run_deliver(struct udp_endpoint *ep)
{
	struct udp_receiving *rx = ep->rx;

	if (!rx->run_count)
		return;
	rx->peer->port.counters.batches++;
	core_input(ep->env.core, &rx->peer->port, rx->run, rx->run_count);
	rx->run_count = 0;
	if (rx->peer->touched)
		reassembly_release(rx->peer->reassembly);
}

/* A frame is complete. Its offload state, if it has any, is only the peer's word. */
static void run_add(struct udp_endpoint *ep, struct frame *frame)
{
	struct udp_receiving *rx = ep->rx;

	if (!frame->offload.flags && !frame->offload.gso_type) {
		if (rx->peer->state != LINK_UP) /* weft would say what it leaves to others */
			offload_recognize(frame, rx->peer->port.mtu);
	} else if (!ep->env.offload || !offload_check(frame)) {
		rx->peer->port.counters.drops[DROP_OFFLOAD]++;
		return;
	}
	rx->run[rx->run_count++] = frame;
	if (rx->run_count == FRAME_BATCH_MAX)
		run_deliver(ep);
}

static void frame_take(struct udp_endpoint *ep, uint8_t *data, size_t len,
		       const struct geneve_extras *extras)
{
	struct udp_receiving *rx = ep->rx;
	struct iovec *payload = &rx->payloads[rx->run_count];
	struct frame *frame = &rx->frames[rx->run_count];

	*payload = (struct iovec){.iov_base = data, .iov_len = len};
	*frame = (struct frame){
	    .iov = payload,
	    .iovcnt = 1,
	    .len = (uint32_t)len,
	    .hops = extras->hops ? extras->hops : FRAME_HOPS_MAX,
	    .offload = extras->offload,
	};
	memcpy(frame->eth, data, FRAME_HEADER);
	run_add(ep, frame);
}

static void part_take(struct udp_endpoint *ep, const uint8_t *data, size_t len,
		      const struct geneve_extras *extras)
{
	struct udp_receiving *rx = ep->rx;
	struct udp_peer *peer = rx->peer;
	struct frame *frame;

	if (udp_land_join(ep->lander, peer, extras, data, len, &frame)) {
		if (frame)
			run_add(ep, frame);
		return;
	}
	if (!peer->reassembly) { /* a plain peer was never told that it may */
		peer->port.counters.drops[DROP_FRAGMENT]++;
		return;
	}
	if (!peer->touched)
		rx->touched[rx->touched_count++] = peer;
	peer->touched = true;
	frame = reassembly_add(peer->reassembly, &extras->where, data, len, &extras->offload,
			       extras->hops ? extras->hops : FRAME_HOPS_MAX, rx->now_ns,
			       &peer->port.counters);
	if (frame)
		run_add(ep, frame);
}

/* --- datagrams ----------------------------------------------------------------------------- */

/* Unseal a datagram of the current peer. Returns the content's length, or 0: there is none, or it
 * was dropped. */
static size_t datagram_open(struct udp_receiving *rx, uint8_t **data, size_t len)
{
	struct udp_peer *peer = rx->peer;
	enum drop_reason reason = DROP_REASONS;
	size_t content = seal_open(peer->seal, *data, len, data, rx->now_ns, &reason);

	if (content)
		return content;
	if (reason != DROP_REASONS)
		peer->port.counters.drops[reason]++;
	udp_session_schedule(peer, rx->now_ns);
	return 0;
}

static void datagram_take(struct udp_endpoint *ep, uint8_t *data, size_t len, uint16_t from)
{
	struct udp_receiving *rx = ep->rx;
	struct udp_peer *peer = rx->peer;
	struct geneve_extras extras = {0};
	enum drop_reason reason = DROP_FORMAT;
	size_t offset;

	if (peer->seal) {
		len = datagram_open(rx, &data, len);
		if (!len)
			return;
	}
	offset = ep->encap == UDP_VXLAN ? vxlan_parse(data, len, ep->env.vni, &reason)
					: geneve_parse(data, len, ep->env.vni, &extras, &reason);
	if (!offset)
		peer->port.counters.drops[reason]++;
	else if (extras.control)
		udp_session_input(peer, data + offset, len - offset, from, rx->now_ns);
	else if (extras.part)
		part_take(ep, data + offset, len - offset, &extras);
	else
		frame_take(ep, data + offset, len - offset, &extras);
}

/* --- messages ------------------------------------------------------------------------------ */

/* How long each datagram of a message is but the last; 0: it is just one. */
static size_t train_segment(struct msghdr *msg)
{
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		int segment;

		if (cmsg->cmsg_level != SOL_UDP || cmsg->cmsg_type != UDP_GRO)
			continue;
		memcpy(&segment, CMSG_DATA(cmsg), sizeof(segment));
		return segment > 0 ? (size_t)segment : 0;
	}
	return 0;
}

static struct udp_arrival arrival_of(const struct mmsghdr *message, const union socket_address *sa)
{
	struct msghdr msg = message->msg_hdr;

	return (struct udp_arrival){
	    .from = udp_address_of(sa),
	    .data = msg.msg_iov->iov_base,
	    .len = message->msg_len,
	    .segment = train_segment(&msg),
	    .truncated = msg.msg_flags & MSG_TRUNC,
	};
}

/* Whose frames come next? */
static void peer_switch(struct udp_endpoint *ep, struct udp_peer *peer)
{
	if (peer != ep->rx->peer)
		run_deliver(ep);
	ep->rx->peer = peer;
}

static void message_take(struct udp_endpoint *ep, const struct udp_arrival *arrival)
{
	struct udp_peer *peer = udp_peer_find(ep, &arrival->from);
	size_t left = arrival->len, segment = arrival->segment;
	uint8_t *data = arrival->data;

	if (!peer) {
		ep->counters.drops[DROP_NOT_PEER] += segment ? (left + segment - 1) / segment : 1;
		return;
	}
	peer_switch(ep, peer);
	if (arrival->truncated) {
		peer->port.counters.drops[DROP_OVERSIZE]++;
		return;
	}
	udp_land_learn(ep->lander, peer, arrival);
	do {
		size_t len = segment && segment < left ? segment : left;

		datagram_take(ep, data, len, ntohs(arrival->from.port));
		data += len;
		left -= len;
	} while (left);
}

/* What is held of a frame in a guest's buffers goes the ordinary way. */
static void held_give_up(struct udp_endpoint *ep)
{
	struct udp_start start;

	if (!udp_land_give_up(ep->lander, &start))
		return;
	peer_switch(ep, start.peer);
	part_take(ep, start.data, start.len, &start.extras);
}

/* A message that was laid out for. */
static void message_landed(struct udp_endpoint *ep, unsigned i, struct udp_arrival *arrival)
{
	struct udp_peer *peer = udp_peer_find(ep, &arrival->from);
	struct frame *frame;

	if (!udp_land_take(ep->lander, i, peer, arrival)) {
		message_take(ep, arrival);
		return;
	}
	held_give_up(ep); /* its rest would have come before another frame */
	frame = udp_land_frame(ep->lander, i);
	if (!frame)
		return;
	peer_switch(ep, peer);
	run_add(ep, frame);
}

static void batch_end(struct udp_endpoint *ep)
{
	struct udp_receiving *rx = ep->rx;

	run_deliver(ep);
	rx->peer = NULL;
	while (rx->touched_count) {
		struct udp_peer *peer = rx->touched[--rx->touched_count];

		peer->touched = false;
		reassembly_flush(peer->reassembly, rx->now_ns, &peer->port.counters);
	}
}

/* Receive a batch: only as much as is laid out for, if anything is. Returns false if that was all.
 */
static bool batch_receive(struct udp_endpoint *ep)
{
	struct udp_receiving *rx = ep->rx;
	unsigned laid = udp_land_prepare(ep->lander, rx->messages);
	const unsigned most = laid ? laid : RECEIVE_BATCH;
	int n = recvmmsg(ep->fd, rx->messages, most, MSG_DONTWAIT, NULL);

	if (n > 0) {
		ep->counters.syscalls++;
		ep->counters.batches++;
	} else {
		n = 0;
	}
	rx->now_ns = loop_now();
	udp_land_came(ep->lander, rx->messages, (unsigned)n);
	for (unsigned i = 0; i < (unsigned)n; i++) {
		struct udp_arrival arrival = arrival_of(&rx->messages[i], &rx->from[i]);

		if (i < laid)
			message_landed(ep, i, &arrival);
		else
			message_take(ep, &arrival);
		rx->messages[i].msg_hdr.msg_namelen = sizeof(rx->from[i]);
		rx->messages[i].msg_hdr.msg_controllen = sizeof(rx->control[i].bytes);
	}
	if (n && udp_land_stale(ep->lander))
		held_give_up(ep);
	batch_end(ep);
	udp_land_end(ep->lander);
	return (unsigned)n == most;
}

/* Has anything come? To lay out for it is not worth a look that finds nothing. */
static bool socket_pending(struct udp_endpoint *ep)
{
	bool pending = recv(ep->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT) >= 0;

	ep->counters.syscalls += pending;
	return pending;
}

void udp_receive(struct loop_watch *watch, uint32_t revents)
{
	struct udp_endpoint *ep = watch->context;

	if (!revents && !socket_pending(ep)) /* the loop spins */
		return;
	for (unsigned i = 0; i < VISIT_BATCHES; i++)
		if (!batch_receive(ep))
			return;
}

struct udp_receiving *udp_receiving_create(void)
{
	struct udp_receiving *rx = calloc(1, sizeof(*rx));

	if (!rx)
		return NULL;
	rx->memory = mmap(NULL, RECEIVE_MEMORY, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rx->memory == MAP_FAILED) {
		free(rx);
		return NULL;
	}
	/* A huge page would make all of them resident with the first datagram. */
	madvise(rx->memory, RECEIVE_MEMORY, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < RECEIVE_BATCH; i++) {
		rx->buffers[i] = (struct iovec){
		    .iov_base = rx->memory + (size_t)i * UDP_RECEIVE_BUFFER,
		    .iov_len = UDP_RECEIVE_BUFFER,
		};
		rx->messages[i].msg_hdr = (struct msghdr){
		    .msg_name = &rx->from[i],
		    .msg_namelen = sizeof(rx->from[i]),
		    .msg_iov = &rx->buffers[i],
		    .msg_iovlen = 1,
		    .msg_control = &rx->control[i],
		    .msg_controllen = sizeof(rx->control[i].bytes),
		};
	}
	return rx;
}

void udp_receiving_destroy(struct udp_receiving *rx)
{
	if (!rx)
		return;
	munmap(rx->memory, RECEIVE_MEMORY);
	free(rx);
}
