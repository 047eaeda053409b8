/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Between a peer's session and seal (pure state machines, session.c and seal.c) and its socket:
 * their messages go out by udp_send_control() and udp_send_raw(), one timer of the loop wakes both,
 * and what they find becomes the few fields of the peer that the data path looks at
 * (peer_refresh()).
 *
 *   plain (no session)   frames go out as they are; the port takes no offloads
 *   LINK_PLAIN           the same, until the peer says hello
 *   LINK_UP              what the peer said it takes: offloads, frames in parts, hops
 *   LINK_DOWN            nothing goes out
 *
 * With a key the seal comes first: the session begins when keys are agreed.
 *
 * port->mtu is what plain Geneve carries without cutting: of the host's route to the peer, until
 * the session has measured the path. Never a bound of a search, since guests take their MTU from
 * it. Larger frames, up to the peer's frame_max, cross in parts while the link is up.
 *
 * Whole or not: a large frame in 45 parts is lost if one of them is. Each side tells with its
 * hellos how many frames it lost in part. Where that is more than one in LOSS_SHARE of those sent
 * in a second or more, the port says for a while that it takes no large segments, so that the core
 * cuts them into ordinary packets, of which loss hits one at a time. The while doubles as long as
 * it goes on.
 */
#include <errno.h>
#include <string.h>

#include "vnet/core.h"
#include "vnet/udp.h"
#include "vnet/udp_land.h"

#define PAYLOAD_MIN_V4	 548u  /* RFC 791: every host takes packets of 576 bytes */
#define PAYLOAD_MIN_V6	 1232u /* RFC 8200, 5: every link carries 1280 */
#define REASSEMBLY_MAX	 (1u << 20)
#define REASSEMBLY_NS	 200000000ull /* parts leave together: none comes much later */
#define LOSS_WINDOW_NS	 1000000000ull
#define LOSS_SHARE	 50u
#define LOSS_PAUSE_NS	 10000000000ull
#define LOSS_PAUSE_MAX	 320000000000ull
#define SEGMENT_OFFLOADS ((uint32_t)(PORT_TSO4 | PORT_TSO6 | PORT_USO | PORT_ECN))

uint32_t udp_session_overhead(const struct udp_peer *peer)
{
	uint32_t header =
	    peer->endpoint->encap == UDP_VXLAN ? VXLAN_HEADER : sizeof(struct geneve_header);

	return header + (peer->seal ? SEAL_OVERHEAD : 0);
}

/* The largest guest MTU in a UDP payload. */
static uint32_t guest_mtu(const struct udp_peer *peer, uint32_t payload)
{
	uint32_t around = udp_session_overhead(peer) + FRAME_HEADER;

	return payload > around ? payload - around : 0;
}

/* --- large frames, whole or not ------------------------------------------------------------ */

static void offloads_set(struct udp_peer *peer)
{
	const struct session_self *says = session_peer(peer->session);
	uint32_t offloads = peer->endpoint->env.offload ? says->offloads & PORT_OFFLOADS : 0;

	if (!peer->frame_max || peer->loss.paused)
		offloads &= ~SEGMENT_OFFLOADS;
	peer->port.offloads = offloads;
}

static void loss_window_begin(struct udp_peer *peer, uint64_t lost, uint64_t now_ns)
{
	peer->loss.begin_ns = now_ns;
	peer->loss.sent = peer->whole_sent;
	peer->loss.lost = lost;
}

/* A window has ended in which large frames were sent whole: was it worth it? */
static void loss_judge(struct udp_peer *peer, uint64_t lost, uint64_t now_ns)
{
	struct udp_loss *loss = &peer->loss;

	if (lost <= loss->lost ||
	    (lost - loss->lost) * LOSS_SHARE < peer->whole_sent - loss->sent) {
		loss->pause_ns = 0;
		return;
	}
	loss->pause_ns = loss->pause_ns ? loss->pause_ns * 2 : LOSS_PAUSE_NS;
	if (loss->pause_ns > LOSS_PAUSE_MAX)
		loss->pause_ns = LOSS_PAUSE_MAX;
	loss->until_ns = now_ns + loss->pause_ns;
	loss->paused = true;
	offloads_set(peer);
}

/* Called at least once a second: with each hello that is answered. */
static void loss_watch(struct udp_peer *peer, uint64_t now_ns)
{
	uint64_t lost = session_peer_lost(peer->session);
	struct udp_loss *loss = &peer->loss;

	if (loss->paused && now_ns >= loss->until_ns) {
		loss->paused = false;
		offloads_set(peer);
		loss_window_begin(peer, lost, now_ns);
	}
	if (loss->paused || now_ns - loss->begin_ns < LOSS_WINDOW_NS)
		return;
	/* Without frames the window goes on, or the reports of the last ones would belong to
	 * nobody. */
	if (peer->whole_sent == loss->sent)
		return;
	loss_judge(peer, lost, now_ns);
	loss_window_begin(peer, lost, now_ns);
}

/* --- what holds now ------------------------------------------------------------------------ */

static void came_up(struct udp_peer *peer)
{
	peer->trains = peer->endpoint->trains;
	peer->loss = (struct udp_loss){0};
	loss_window_begin(peer, session_peer_lost(peer->session), loop_now());
}

/* session_ops.changed */
static void peer_refresh(void *context)
{
	struct udp_peer *peer = context;
	const struct session_self *says = session_peer(peer->session);
	const uint32_t payload = session_payload(peer->session);
	struct link_status status;
	bool up;

	session_status(peer->session, &status);
	up = status.state == LINK_UP;
	if (up && (peer->state != LINK_UP || peer->ups != status.ups))
		came_up(peer);
	if (up || peer->state == LINK_UP) /* one that went says no more: others may get its ports */
		udp_peer_ports(peer, says->ports);
	peer->state = status.state;
	if (peer->state != LINK_UP)
		udp_land_forget(peer->endpoint->lander, peer);
	peer->ups = status.ups;
	/* To a plain peer the kernel's word holds: it knows what the path carries at this moment.
	 */
	peer->datagram_max = up ? payload : UDP_DATAGRAM_MAX;
	peer->frame_max = up && says->features & SESSION_FRAGMENTS ? says->frame_max : 0;
	peer->hops = up && says->features & SESSION_HOPS;
	/* Through a NAT every source port would become another one that the peer does not know. */
	peer->spread =
	    up && session_observed_port(peer->session) == ntohs(peer->endpoint->local.port);
	peer->port.mtu = guest_mtu(peer, payload);
	offloads_set(peer);
}

bool udp_session_too_big(struct udp_peer *peer, uint32_t len)
{
	uint32_t known = peer->port.mtu + FRAME_HEADER + udp_session_overhead(peer);
	uint32_t before = peer->datagram_max, payload;
	uint64_t now_ns = loop_now();

	if (len > known) /* no news */
		return false;
	payload = udp_path_payload(peer->endpoint, &peer->address, NULL);
	if (!peer->session) {
		peer->port.mtu = guest_mtu(peer, payload);
		return false;
	}
	if (payload < session_payload(peer->session)) {
		session_too_big(peer->session, payload, now_ns);
		udp_session_schedule(peer, now_ns);
	}
	return peer->frame_max && peer->datagram_max < before;
}

void udp_peer_status(const struct port *port, struct link_status *status)
{
	const struct udp_peer *peer = udp_peer_of((struct port *)port);
	uint32_t headers = udp_ip_header(&peer->address) + UDP_HEADER;

	if (!peer->session) {
		*status = (struct link_status){
		    .state = LINK_PLAIN,
		    .since_ns = peer->since_ns,
		    .path_mtu = port->mtu + FRAME_HEADER + udp_session_overhead(peer) + headers,
		};
		return;
	}
	session_status(peer->session, status);
	status->path_mtu += headers;
}

/* --- messages and time --------------------------------------------------------------------- */

/* With a key, the session begins when the first ones are agreed; if they are lost later it finds
 * out itself. */
static bool session_begun(struct udp_peer *peer)
{
	peer->begun = peer->begun || !peer->seal || seal_is_ready(peer->seal);
	return peer->begun;
}

void udp_session_schedule(struct udp_peer *peer, uint64_t now_ns)
{
	uint64_t next = peer->seal ? seal_next(peer->seal) : UINT64_MAX;

	if (!peer->session)
		return;
	if (session_begun(peer) && session_next(peer->session) < next)
		next = session_next(peer->session);
	if (next == UINT64_MAX)
		loop_disarm(&peer->timer);
	else
		loop_arm(peer->endpoint->env.loop, &peer->timer, next > now_ns ? next - now_ns : 0);
}

static void timer_expired(struct loop_timer *timer)
{
	struct udp_peer *peer = timer->context;
	uint64_t now_ns = loop_now();

	reassembly_flush(peer->reassembly, now_ns, &peer->port.counters);
	session_lost(peer->session, peer->port.counters.drops[DROP_FRAGMENT]);
	if (peer->seal)
		seal_tick(peer->seal, now_ns);
	if (session_begun(peer))
		session_tick(peer->session, now_ns);
	udp_session_schedule(peer, now_ns);
}

void udp_session_input(struct udp_peer *peer, const void *message, size_t len, uint16_t from,
		       uint64_t now_ns)
{
	if (!peer->session) {
		peer->port.counters.drops[DROP_FORMAT]++;
		return;
	}
	peer->heard = from;
	session_lost(peer->session, peer->port.counters.drops[DROP_FRAGMENT]);
	session_observe(peer->session, from);
	if (!session_message(peer->session, message, len, now_ns))
		peer->port.counters.drops[DROP_FORMAT]++;
	else if (peer->state == LINK_UP)
		loss_watch(peer, now_ns);
	udp_session_schedule(peer, now_ns);
}

static int session_send(void *context, const void *message, size_t len)
{
	return udp_send_control(context, message, len);
}

static int seal_send(void *context, const void *datagram, size_t len)
{
	return udp_send_raw(context, datagram, len);
}

static void seal_agreed(void *context)
{
	udp_session_schedule(context, loop_now());
}

/* --- beginning and end --------------------------------------------------------------------- */

static int seal_start(struct udp_peer *peer)
{
	static const struct seal_ops ops = {.send = seal_send, .ready = seal_agreed};

	peer->seal = seal_create(peer->endpoint->env.key, &ops, peer);
	return peer->seal ? 0 : -ENOMEM;
}

static int session_start(struct udp_peer *peer, uint32_t payload)
{
	static const struct session_ops ops = {.send = session_send, .changed = peer_refresh};
	const struct udp_endpoint *ep = peer->endpoint;
	struct session_self self = {
	    .offloads = ep->env.offload ? PORT_OFFLOADS : 0,
	    .frame_max = FRAME_SIZE_MAX,
	    .features = SESSION_FRAGMENTS | SESSION_HOPS,
	};

	memcpy(self.ports, ep->ports, sizeof(self.ports));
	peer->reassembly = reassembly_create(REASSEMBLY_MAX, REASSEMBLY_NS);
	peer->session = session_create(
	    &self, &ops, peer, udp_address_is_v4(&peer->address) ? PAYLOAD_MIN_V4 : PAYLOAD_MIN_V6,
	    payload, udp_session_overhead(peer), !peer->seal);
	return peer->reassembly && peer->session ? 0 : -ENOMEM;
}

int udp_session_start(struct udp_peer *peer, uint32_t payload)
{
	uint64_t now_ns = loop_now();
	int err = 0;

	peer->timer.expired = timer_expired;
	peer->timer.context = peer;
	peer->since_ns = now_ns;
	peer->state = LINK_PLAIN;
	peer->trains = peer->endpoint->trains;
	peer->datagram_max = UDP_DATAGRAM_MAX;
	peer->spread = peer->plain;
	if (!peer->plain) {
		err = peer->endpoint->env.key ? seal_start(peer) : 0;
		if (!err)
			err = session_start(peer, payload);
		if (!err)
			peer_refresh(peer);
	}
	if (err) {
		udp_session_end(peer);
		return err;
	}
	peer->port.mtu = guest_mtu(peer, payload);
	udp_session_schedule(peer, now_ns);
	return 0;
}

void udp_session_end(struct udp_peer *peer)
{
	loop_disarm(&peer->timer);
	session_destroy(peer->session);
	seal_destroy(peer->seal);
	reassembly_destroy(peer->reassembly);
}
