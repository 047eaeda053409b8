/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Links over raw Ethernet, for hosts of one LAN that want neither IP nor UDP in between: an outer
 * Ethernet header with EtherType 0x6558, the Geneve header, the frame. A packet is a peer's by its
 * outer source address. The socket and its ring are eth_interface.c's.
 *
 * With each peer there is a session (session.h) as over UDP: hello, keepalive, what the peer takes,
 * the largest packet that reaches it. Until it answers frames go out plain. Then a frame crosses
 * with its offload state and hops, and one that is too long in parts.
 *
 *   LINK_PLAIN  the interface is up, the peer has never answered
 *   LINK_UP     it answers
 *   LINK_DOWN   it does not any more, or the interface is down
 *
 * Sending: a batch becomes as few sendmmsg() as fit, each message the headers and behind them the
 * frame's own segments: nothing is copied but by the kernel, once. A transmit ring would be a
 * second copy.
 *
 * Ethernet pads what is shorter than 60 bytes and does not say so. A session's message and a part
 * say how long they are; a plain frame of less than 38 bytes just becomes longer, as on any
 * Ethernet.
 *
 * There is no sealing here: with a link key these links are refused.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/eth.h"
#include "vnet/iovec.h"
#include "vnet/offload.h"
#include "vnet/session.h"

#define PACKET_MIN                                                                                 \
	1486u /* bytes that any Ethernet carries behind its header, less a VLAN's or two */
#define REASSEMBLY_MAX (1u << 20)
#define REASSEMBLY_NS  500000000ull
#define OVERHEAD       ((uint32_t)(sizeof(struct geneve_header) + FRAME_HEADER))

static_assert(ETH_SEND_MESSAGES >= FRAGMENT_PARTS_MAX &&
		  ETH_SEND_SEGMENTS >= 2 * FRAGMENT_PARTS_MAX + UIO_MAXIOV,
	      "any one frame fits");

struct endpoint {
	struct eth_interface *interfaces;
};

/* --- peers by address ---------------------------------------------------------------------- */

/* Only peers that the user named are in the table: no need for a hash that withstands an attacker.
 */
static unsigned mac_bucket(const uint8_t mac[ETH_ALEN])
{
	return (mac[3] * 31u + mac[4] * 7u + mac[5]) % ETH_PEER_BUCKETS;
}

static struct eth_peer *peer_find(const struct eth_interface *in, const uint8_t mac[ETH_ALEN])
{
	struct eth_peer *peer = in->peers[mac_bucket(mac)];

	while (peer && memcmp(peer->outer.ether_dhost, mac, ETH_ALEN) != 0)
		peer = peer->next;
	return peer;
}

/* --- sending ------------------------------------------------------------------------------- */

/* The first of @left packets was refused. Returns how many to pass over. */
static unsigned send_refused(struct eth_peer *peer, int err, unsigned left,
			     enum drop_reason *reason)
{
	switch (err) {
	case EINTR:
		return 0;
	case EMSGSIZE:
		*reason = DROP_OVERSIZE;
		return 1;
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		*reason = DROP_BUSY;
		return left;
	case ENETDOWN:
	case ENXIO:
	case ENODEV:
		eth_interface_fail(peer->interface, err);
		*reason = DROP_DOWN;
		return left;
	default:
		*reason = DROP_ERROR;
		return left;
	}
}

/* Packets @from up to @to are gone; DROP_REASONS: sent. A frame counts once, whatever becomes of
 * its parts. */
static void send_count(struct eth_peer *peer, unsigned from, unsigned to, enum drop_reason reason)
{
	struct eth_sending *tx = &peer->interface->tx;

	for (unsigned i = from; i < to; i++) {
		if (tx->frames[i] == tx->lost)
			continue;
		if (reason != DROP_REASONS) {
			peer->port.counters.drops[reason]++;
			tx->lost = tx->frames[i];
		} else if (tx->last[i]) {
			link_count_sent(&peer->port.counters, &tx->frames[i], 1);
		}
	}
}

static void send_flush(struct eth_peer *peer)
{
	struct eth_sending *tx = &peer->interface->tx;

	for (unsigned done = 0, n; done < tx->count; done += n) {
		/* The system call itself: musl's sendmmsg() is a loop of sendmsg(). */
		long sent = syscall(SYS_sendmmsg, peer->interface->fd, tx->messages + done,
				    tx->count - done, MSG_DONTWAIT | MSG_NOSIGNAL);
		enum drop_reason reason = DROP_REASONS;

		peer->port.counters.syscalls++;
		n = sent > 0 ? (unsigned)sent
			     : send_refused(peer, errno, tx->count - done, &reason);
		send_count(peer, done, done + n, reason);
	}
	tx->count = tx->segments_used = 0;
}

/* A packet: the headers, and @len bytes from the cursor. */
static void packet_add(struct eth_peer *peer, struct frame *frame,
		       const struct geneve_extras *extras, struct iov_cursor *at, uint32_t len,
		       bool last)
{
	struct eth_sending *tx = &peer->interface->tx;
	struct iovec *segments = &tx->segments[tx->segments_used];
	uint8_t *header = tx->headers[tx->count];
	unsigned pieces = 1;

	memcpy(header, &peer->outer, ETH_HLEN);
	segments[0] = (struct iovec){
	    header, ETH_HLEN + geneve_build(header + ETH_HLEN, peer->interface->env.vni, extras)};
	pieces += iov_slice(at, len, segments + 1, UIO_MAXIOV - 1);
	tx->messages[tx->count].msg_hdr =
	    (struct msghdr){.msg_iov = segments, .msg_iovlen = pieces};
	tx->frames[tx->count] = frame;
	tx->last[tx->count++] = last;
	tx->segments_used += pieces;
}

/* What goes with the frame. Returns DROP_REASONS, or why it cannot be sent. */
static enum drop_reason extras_fill(const struct eth_peer *peer, const struct frame *frame,
				    struct geneve_extras *extras)
{
	if (!peer->interface->up || peer->state == LINK_DOWN)
		return DROP_DOWN;
	if (!link_extras(&peer->port, peer->hops, frame, extras))
		return DROP_OFFLOAD;
	return frame->iovcnt < UIO_MAXIOV ? DROP_REASONS : DROP_OVERSIZE;
}

static void frame_pack(struct eth_peer *peer, struct frame *frame,
		       const struct geneve_extras *extras, struct fragment_cut *cut, unsigned parts)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	struct geneve_extras part;

	if (parts == 1) {
		packet_add(peer, frame, extras, &at, frame->len, true);
		return;
	}
	peer->next_id++;
	for (uint32_t len; (len = fragment_cut_next(cut, &part));)
		packet_add(peer, frame, &part, &at, len, !--parts);
}

static void frame_send(struct eth_peer *peer, struct frame *frame)
{
	struct eth_sending *tx = &peer->interface->tx;
	struct geneve_extras extras;
	enum drop_reason reason = extras_fill(peer, frame, &extras);
	struct fragment_cut cut;
	unsigned parts = 1;

	if (reason == DROP_REASONS && geneve_size(&extras) + frame->len > peer->packet_max) {
		parts = frame->len <= peer->frame_max
			    ? fragment_cut_start(&cut, &extras, peer->next_id, frame->len,
						 peer->packet_max)
			    : 0;
		reason = parts ? DROP_REASONS : DROP_OVERSIZE;
	}
	if (reason != DROP_REASONS) {
		peer->port.counters.drops[reason]++;
		return;
	}
	if (tx->count + parts > ETH_SEND_MESSAGES ||
	    tx->segments_used + 2 * parts + frame->iovcnt > ETH_SEND_SEGMENTS)
		send_flush(peer);
	frame_pack(peer, frame, &extras, &cut, parts);
}

static void eth_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct eth_peer *peer = container_of(port, struct eth_peer, port);

	port->counters.batches++;
	peer->interface->tx.lost = NULL;
	for (unsigned i = 0; i < n; i++)
		frame_send(peer, frames[i]);
	send_flush(peer);
}

/* --- sessions ------------------------------------------------------------------------------ */

static void session_schedule(struct eth_peer *peer)
{
	uint64_t next = session_next(peer->session), now = loop_now();

	loop_arm(peer->interface->env.loop, &peer->timer, next > now ? next - now : 0);
}

/* session_ops.send */
static int session_send(void *context, const void *message, size_t len)
{
	struct eth_peer *peer = context;
	const struct geneve_extras control = {.control = true};
	uint8_t header[ETH_HEADER_MAX];
	struct iovec iov[2] = {{header, ETH_HLEN}, {(void *)message, len}};
	const struct msghdr packet = {.msg_iov = iov, .msg_iovlen = 2};

	if (!peer->interface->up)
		return -ENETDOWN;
	memcpy(header, &peer->outer, ETH_HLEN);
	iov[0].iov_len += geneve_build(header + ETH_HLEN, peer->interface->env.vni, &control);
	return sendmsg(peer->interface->fd, &packet, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* session_ops.changed: keep what the data path looks at. */
static void peer_refresh(void *context)
{
	struct eth_peer *peer = context;
	const struct session_self *says = session_peer(peer->session);
	struct link_status status;
	bool up;

	session_status(peer->session, &status);
	up = status.state == LINK_UP;
	peer->state = status.state;
	peer->packet_max = session_payload(peer->session);
	peer->frame_max = up && says->features & SESSION_FRAGMENTS ? says->frame_max : 0;
	peer->hops = up && says->features & SESSION_HOPS;
	peer->port.mtu = peer->packet_max - OVERHEAD;
	peer->port.offloads =
	    peer->interface->env.offload && peer->frame_max ? says->offloads & PORT_OFFLOADS : 0;
}

static void session_expired(struct loop_timer *timer)
{
	struct eth_peer *peer = timer->context;

	reassembly_flush(peer->reassembly, loop_now(), &peer->port.counters);
	session_lost(peer->session, peer->port.counters.drops[DROP_FRAGMENT]);
	session_tick(peer->session, loop_now());
	session_schedule(peer);
}

/* A session over the interface as it is now. */
static int session_start(struct eth_peer *peer)
{
	static const struct session_ops ops = {.send = session_send, .changed = peer_refresh};
	const struct eth_interface *in = peer->interface;
	const struct session_self self = {
	    .offloads = in->env.offload ? PORT_OFFLOADS : 0,
	    .frame_max = FRAME_SIZE_MAX,
	    .features = SESSION_FRAGMENTS | SESSION_HOPS,
	};
	struct session *session =
	    session_create(&self, &ops, peer, in->mtu < PACKET_MIN ? in->mtu : PACKET_MIN, in->mtu,
			   sizeof(struct geneve_header), true);

	if (!session)
		return -ENOMEM;
	session_destroy(peer->session);
	peer->session = session;
	peer->mtu = in->mtu;
	peer_refresh(peer);
	return 0;
}

static void peer_update(struct eth_peer *peer, const char *why)
{
	struct eth_interface *in = peer->interface;

	link_state_set(&peer->status, in->up ? LINK_PLAIN : LINK_DOWN, why);
	if (!in->up) {
		loop_disarm(&peer->timer);
		return;
	}
	memcpy(peer->outer.ether_shost, in->mac, ETH_ALEN);
	if (in->mtu != peer->mtu)
		session_start(peer); /* without memory the old one goes on */
	session_schedule(peer);
}

void eth_peers_update(struct eth_interface *in, const char *why)
{
	for (unsigned i = 0; i < ETH_PEER_BUCKETS; i++)
		for (struct eth_peer *peer = in->peers[i]; peer; peer = peer->next)
			peer_update(peer, why);
}

/* --- receiving ----------------------------------------------------------------------------- */

static void run_deliver(struct eth_interface *in)
{
	struct eth_receiving *rx = &in->rx;

	if (!rx->run_count)
		return;
	rx->peer->port.counters.batches++;
	core_input(in->env.core, &rx->peer->port, rx->run, rx->run_count);
	rx->run_count = 0;
	reassembly_release(rx->peer->reassembly);
}

/* A frame is complete. Its offload state, if it has any, is only the peer's word. */
static void run_add(struct eth_interface *in, struct frame *frame)
{
	struct eth_receiving *rx = &in->rx;

	if ((frame->offload.flags || frame->offload.gso_type) &&
	    (!in->env.offload || !offload_check(frame))) {
		rx->peer->port.counters.drops[DROP_OFFLOAD]++;
		return;
	}
	rx->run[rx->run_count++] = frame;
	if (rx->run_count == FRAME_BATCH_MAX)
		run_deliver(in);
}

static void frame_take(struct eth_interface *in, uint8_t *data, size_t len,
		       const struct geneve_extras *extras)
{
	struct iovec *payload = &in->rx.payloads[in->rx.run_count];
	struct frame *frame = &in->rx.frames[in->rx.run_count];

	*payload = (struct iovec){data, len};
	*frame = (struct frame){
	    .iov = payload,
	    .iovcnt = 1,
	    .len = (uint32_t)len,
	    .hops = extras->hops ? extras->hops : FRAME_HOPS_MAX,
	    .offload = extras->offload,
	};
	memcpy(frame->eth, data, FRAME_HEADER);
	run_add(in, frame);
}

static void part_take(struct eth_interface *in, const uint8_t *data, size_t len,
		      const struct geneve_extras *extras)
{
	struct eth_peer *peer = in->rx.peer;
	const struct fragment *where = &extras->where;
	struct frame *frame;

	/* Less the padding of a short last part. */
	if (where->offset < where->total && len > where->total - where->offset)
		len = where->total - where->offset;
	in->rx.touched = peer->touched = true;
	frame = reassembly_add(peer->reassembly, where, data, len, &extras->offload,
			       extras->hops ? extras->hops : FRAME_HOPS_MAX, loop_now(),
			       &peer->port.counters);
	if (frame)
		run_add(in, frame);
}

static void message_take(struct eth_peer *peer, const uint8_t *data, size_t len)
{
	if (!session_message(peer->session, data, len, loop_now()))
		peer->port.counters.drops[DROP_FORMAT]++;
	session_schedule(peer);
}

void eth_packet_take(struct eth_interface *in, uint8_t *packet, size_t len, bool whole)
{
	struct eth_peer *peer = len < ETH_HLEN ? NULL : peer_find(in, packet + ETH_ALEN);
	enum drop_reason reason = DROP_OVERSIZE;
	struct geneve_extras extras;
	size_t offset = 0;

	if (!peer) {
		in->counters.drops[DROP_NOT_PEER]++;
		return;
	}
	if (peer != in->rx.peer)
		run_deliver(in);
	in->rx.peer = peer;
	packet += ETH_HLEN;
	len -= ETH_HLEN;
	if (whole)
		offset = geneve_parse(packet, len, in->env.vni, &extras, &reason);
	if (!offset)
		peer->port.counters.drops[reason]++;
	else if (extras.control)
		message_take(peer, packet + offset, len - offset);
	else if (extras.part)
		part_take(in, packet + offset, len - offset, &extras);
	else
		frame_take(in, packet + offset, len - offset, &extras);
}

void eth_batch_end(struct eth_interface *in)
{
	run_deliver(in);
	in->rx.peer = NULL;
	if (!in->rx.touched)
		return;
	in->rx.touched = false;
	for (unsigned i = 0; i < ETH_PEER_BUCKETS; i++) {
		for (struct eth_peer *peer = in->peers[i]; peer; peer = peer->next) {
			if (!peer->touched)
				continue;
			peer->touched = false;
			reassembly_flush(peer->reassembly, loop_now(), &peer->port.counters);
		}
	}
}

/* --- ports --------------------------------------------------------------------------------- */

static void peer_free(struct eth_peer *peer)
{
	loop_disarm(&peer->timer);
	session_destroy(peer->session);
	reassembly_destroy(peer->reassembly);
	free(peer);
}

static void eth_close(struct port *port)
{
	struct eth_peer *peer = container_of(port, struct eth_peer, port);
	struct eth_interface *in = peer->interface;
	struct eth_peer **at = &in->peers[mac_bucket(peer->outer.ether_dhost)];

	while (*at != peer)
		at = &(*at)->next;
	*at = peer->next;
	peer_free(peer);
	if (!--in->peer_count)
		eth_interface_destroy(in);
}

static void eth_status(const struct port *port, struct link_status *status)
{
	const struct eth_peer *peer = container_of(port, struct eth_peer, port);

	if (peer->interface->up)
		session_status(peer->session, status);
	else
		*status = peer->status;
}

static const struct port_ops eth_ops = {
    .type = "eth",
    .send_batch = eth_send_batch,
    .close = eth_close,
    .status = eth_status,
};

/* "INTERFACE/MAC" */
static int target_parse(const struct link_spec *spec, char name[IFNAMSIZ], uint8_t mac[ETH_ALEN],
			char error[LINK_ERROR_MAX])
{
	const char *slash = strchr(spec->target, '/');
	size_t len = slash ? (size_t)(slash - spec->target) : 0;
	int end = 0;

	if (!len || len >= IFNAMSIZ)
		return link_fail(error, spec, -EINVAL,
				 "write eth://INTERFACE/MAC, such as eth://eth0/02:00:00:00:00:01");
	memcpy(name, spec->target, len);
	name[len] = '\0';
	if (strlen(slash + 1) != 17 || strspn(slash + 1, "0123456789abcdefABCDEF:") != 17 ||
	    sscanf(slash + 1, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2],
		   &mac[3], &mac[4], &mac[5], &end) != 6 ||
	    end != 17)
		return link_fail(error, spec, -EINVAL,
				 "\"%s\" is no MAC address: it has the form 02:00:00:00:00:01",
				 slash + 1);
	if (mac[0] & 1)
		return link_fail(
		    error, spec, -EINVAL,
		    "a peer's MAC address is no group address: its first byte is even");
	return 0;
}

static struct eth_interface *interface_find(const struct endpoint *ep, const char *name)
{
	struct eth_interface *in = ep->interfaces;

	while (in && strcmp(in->name, name) != 0)
		in = in->next;
	return in;
}

static struct eth_peer *peer_create(struct eth_interface *in, const uint8_t mac[ETH_ALEN])
{
	struct eth_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	peer->port.ops = &eth_ops;
	peer->port.kind = PORT_LINK;
	peer->interface = in;
	memcpy(peer->outer.ether_dhost, mac, ETH_ALEN);
	peer->outer.ether_type = htons(GENEVE_ETHERNET);
	peer->timer.expired = session_expired;
	peer->timer.context = peer;
	/* Not those of the process before this one, of which parts may still be on their way. */
	peer->next_id = (uint32_t)(loop_now() >> 10);
	peer->reassembly = reassembly_create(REASSEMBLY_MAX, REASSEMBLY_NS);
	if (peer->reassembly && !session_start(peer))
		return peer;
	peer_free(peer);
	return NULL;
}

static int peer_add(struct eth_interface *in, const struct link_spec *spec,
		    const uint8_t mac[ETH_ALEN], struct port **port, char error[LINK_ERROR_MAX])
{
	struct eth_peer *peer = peer_find(in, mac);
	unsigned bucket = mac_bucket(mac);
	int err;

	if (peer)
		return link_fail(error, spec, -EEXIST, "this peer is linked already, as \"%s\"",
				 peer->port.name);
	if (!memcmp(mac, in->mac, ETH_ALEN))
		return link_fail(error, spec, -EINVAL,
				 "that is the address of %s itself: give the peer's", in->name);
	peer = peer_create(in, mac);
	if (!peer)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	err = link_attach(&in->env, spec, &peer->port, error);
	if (err) {
		peer_free(peer);
		return err;
	}
	peer->next = in->peers[bucket];
	in->peers[bucket] = peer;
	in->peer_count++;
	peer_update(peer, in->up ? NULL : "the interface is down");
	*port = &peer->port;
	return 0;
}

static int eth_link(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		    struct port **port, char error[LINK_ERROR_MAX])
{
	struct endpoint *ep = *endpoint;
	struct eth_interface *in;
	char name[IFNAMSIZ];
	uint8_t mac[ETH_ALEN] = {0};
	int err = target_parse(spec, name, mac, error);

	if (err)
		return err;
	if (env->key)
		return link_fail(error, spec, -EINVAL,
				 "raw Ethernet carries no link key: use udp://, or no --key-file");
	if (!ep)
		*endpoint = ep = calloc(1, sizeof(*ep));
	if (!ep)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	in = interface_find(ep, name);
	if (!in)
		err = eth_interface_create(env, spec, name, &ep->interfaces, &in, error);
	if (err)
		return err;
	err = peer_add(in, spec, mac, port, error);
	if (err && !in->peer_count)
		eth_interface_destroy(in);
	return err;
}

static void eth_endpoint_destroy(void *endpoint)
{
	free(endpoint); /* the interfaces went with their last peers */
}

const struct link_type link_eth = {
    .scheme = "eth",
    .form = "eth://INTERFACE/MAC",
    .summary = "a peer on the same Ethernet, without IP",
    .open = eth_link,
    .endpoint_destroy = eth_endpoint_destroy,
};
