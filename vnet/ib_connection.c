/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * From an address to a peer that is reached, by librdmacm's events, which come through one channel
 * for each endpoint. Both sides name each other and both try, whoever is there first:
 *
 *   AWAY --timer--> ADDRESS --> ROUTE --> CONNECTING --ESTABLISHED--> CARRYING
 *    ^                                                                   ^
 *    |   a request comes: RC ----------> ACCEPTING --ESTABLISHED---------'
 *    '-- task -- FAILED <-- an error, a rejection, patience over, silence, a broken queue pair;
 * from anywhere
 *
 * AWAY lasts 50 ms at first, up to a second later (link_retry()), for ever. Patience is PATIENCE_NS
 * for each of the states on the way, and as long for the first hello of the session.
 *
 * The end of a connection's id is told to the peer, which while the adapter's own port is down
 * reaches nobody; on Linux 6.1's soft-RoCE it does harm, too: once a send of the queue pair that
 * all connections are managed by has failed, that queue pair receives nothing any more. So nobody
 * is asked through a port that is down, and a connection that ends leaves its id behind: when AWAY
 * is over the port is looked at, and unless it is active the id is put aside (left) until it is.
 * The next attempt may find another port meanwhile; but one id is put aside at most. (The delay of
 * AWAY covers that a queue pair may break a moment before its port is known to be down.) No event
 * is waited for: several endpoints may use a port, and one of them would get it.
 *
 * A request says in its private data (struct ib_hello) who sends it: with its IP address the port
 * where it listens is one of the peers, or it is rejected. With RC, the newest request is the
 * truth: a peer that asks has no connection, whatever we believe. Only when both ask at the same
 * time, one request has to yield: the one from the process with the smaller number, drawn at
 * random. With UD a request is only answered with the number of our queue pair, and each side asks
 * for itself; a request from a process that is not the one we know says that the peer has started
 * anew.
 *
 * An event is copied and acknowledged before it is handled: an id cannot be destroyed before its
 * events are acknowledged.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vnet/ib.h"
#include "vnet/packet.h"
#include "vnet/session.h"

#define PATIENCE_NS   5000000000ull
#define RESOLVE_MS    2000
#define BACKLOG	      64
#define EVENTS_VISIT  64u
#define HELLO_VERSION 1
#define RETRIES	      7 /* of a message that is not acknowledged */
#define PORT_DOWN     "the adapter's port is down"
#define RNR_RETRIES   3 /* of one that finds no buffer, which credits rule out */

/* Private data of requests and answers: numbers are big endian. */
struct ib_hello {
	uint8_t magic[4];
	uint8_t version, reason; /* enum refusal in a rejection */
	uint8_t port[2];	 /* where the sender listens */
	uint8_t vni[4];
	uint8_t window[4]; /* RC: messages that it takes before it gives credit */
	uint8_t qpn[4];	   /* UD: of its queue pair */
	uint8_t instance[8];
};
static const uint8_t hello_magic[4] = {'w', 'e', 'f', 't'};

enum refusal { REFUSED_NOT_PEER = 1, REFUSED_FOREIGN, REFUSED_CROSSING, REFUSED_RESOURCES };

static struct ib_hello hello_make(const struct ib_endpoint *ep, enum refusal reason,
				  const struct ib_device *device)
{
	struct ib_hello hello = {.version = HELLO_VERSION, .reason = (uint8_t)reason};
	uint16_t port = udp_address_of(&ep->local).port;

	memcpy(hello.magic, hello_magic, sizeof(hello.magic));
	memcpy(hello.port, &port, sizeof(port));
	packet_put32(hello.vni, ep->env.vni);
	packet_put32(hello.window, IB_WINDOW);
	if (device && device->qp)
		packet_put32(hello.qpn, device->qp->qp_num);
	memcpy(hello.instance, &ep->instance, sizeof(hello.instance));
	return hello;
}

static bool hello_read(struct ib_hello *hello, const void *data, size_t len)
{
	if (!data || len < sizeof(*hello))
		return false;
	memcpy(hello, data, sizeof(*hello));
	return !memcmp(hello->magic, hello_magic, sizeof(hello_magic)) &&
	       hello->version == HELLO_VERSION;
}

static uint64_t hello_instance(const struct ib_hello *hello)
{
	uint64_t instance;

	memcpy(&instance, hello->instance, sizeof(instance));
	return instance;
}

/* --- a peer's states ------------------------------------------------------------------------- */

static void phase_set(struct ib_peer *peer, enum ib_phase phase)
{
	peer->phase = phase;
	loop_arm(peer->endpoint->env.loop, &peer->timer, PATIENCE_NS);
}

void ib_peer_fail(struct ib_peer *peer, const char *why)
{
	if (peer->phase == IB_FAILED)
		return;
	if (peer->left && (peer->phase == IB_ADDRESS || peer->phase == IB_ROUTE))
		why = PORT_DOWN; /* that is why there is no way */
	peer->phase = IB_FAILED;
	peer->up = false;
	link_state_set(&peer->status, LINK_DOWN, why);
	loop_disarm(&peer->timer);
	loop_defer(peer->endpoint->env.loop, &peer->mend);
}

static void peer_error(struct ib_peer *peer, const char *what, int err)
{
	char why[128];

	snprintf(why, sizeof(why), "cannot %s: %s", what, strerror(err < 0 ? -err : err));
	ib_peer_fail(peer, why);
}

void ib_peer_reset(struct ib_peer *peer)
{
	peer->phase = IB_AWAY; /* what still comes in is nobody's */
	peer->up = false;
	ib_session_end(peer);
	if (peer->device)
		peer->endpoint->path->close(peer);
	peer->device = NULL;
}

static void id_destroy(struct ib_peer *peer, struct rdma_cm_id **id)
{
	if (*id)
		peer->endpoint->calls->destroy_id(*id);
	*id = NULL;
}

void ib_peer_end(struct ib_peer *peer)
{
	ib_peer_reset(peer);
	id_destroy(peer, &peer->id);
	id_destroy(peer, &peer->left);
}

/* Whether nothing can be said through the id's port. */
static bool port_is_down(const struct ib_peer *peer, const struct rdma_cm_id *id)
{
	struct ibv_port_attr port = {0};

	return !peer->endpoint->calls->query_port(id->verbs, id->port_num, &port) &&
	       port.state < IBV_PORT_ACTIVE;
}

/* Be done with the id of a connection that was. False: it has to wait, and so has the next one. */
static bool id_leave(struct ib_peer *peer)
{
	if (peer->left && !port_is_down(peer, peer->left))
		id_destroy(peer, &peer->left);
	if (!peer->id || !peer->known || !port_is_down(peer, peer->id)) {
		id_destroy(peer, &peer->id);
	} else if (!peer->left) {
		peer->left = peer->id;
		peer->id = NULL;
	}
	return !peer->id;
}

static void peer_mend(struct loop_task *task)
{
	struct ib_peer *peer = container_of(task, struct ib_peer, mend);

	ib_peer_reset(peer);
	link_retry(peer->endpoint->env.loop, &peer->timer, &peer->delay_ns);
}

void ib_peer_carry(struct ib_peer *peer)
{
	phase_set(peer, IB_CARRYING);
	if (ib_session_start(peer))
		ib_peer_fail(peer, "out of memory");
}

static void address_resolve(struct ib_peer *peer)
{
	struct ib_endpoint *ep = peer->endpoint;
	union socket_address to =
	    udp_address_for(udp_address_is_v4(&peer->address) ? AF_INET : AF_INET6, &peer->address);
	union socket_address from = ep->local;
	const struct udp_address local = udp_address_of(&from);
	bool any = IN6_IS_ADDR_UNSPECIFIED(&local.ip) || from.any.sa_family != to.any.sa_family;

	if (from.any.sa_family == AF_INET)
		from.v4.sin_port = 0;
	else
		from.v6.sin6_port = 0;
	if (!id_leave(peer)) {
		ib_peer_fail(peer, PORT_DOWN);
		return;
	}
	peer->known = false;
	phase_set(peer, IB_ADDRESS);
	if (ep->calls->create_id(ep->channel, &peer->id, peer, ep->path->space)) {
		peer->id = NULL;
		peer_error(peer, "make a connection", errno);
	} else if (ep->calls->resolve_addr(peer->id, any ? NULL : &from.any, &to.any, RESOLVE_MS)) {
		peer_error(peer, "resolve the address", errno);
	}
}

/* On a busy host answers may be late behind a lot of frames; but the frames come. */
bool ib_peer_alive(struct ib_peer *peer)
{
	bool alive = peer->credits.received != peer->heard;

	peer->heard = peer->credits.received;
	if (alive)
		phase_set(peer, IB_CARRYING);
	return alive;
}

static void timer_expired(struct loop_timer *timer)
{
	struct ib_peer *peer = timer->context;
	struct link_status status = {0};

	if (peer->session)
		session_status(peer->session, &status);

	if (peer->phase == IB_AWAY)
		address_resolve(peer);
	else if (status.state != LINK_UP && !(peer->up && ib_peer_alive(peer)))
		ib_peer_fail(peer, peer->phase == IB_CARRYING
				       ? "connected, but the peer says nothing"
				       : "the peer does not answer");
}

void ib_peer_start(struct ib_peer *peer)
{
	peer->timer = (struct loop_timer){.expired = timer_expired, .context = peer};
	peer->mend.run = peer_mend;
	peer->phase = IB_AWAY;
	loop_arm(peer->endpoint->env.loop, &peer->timer, 0);
}

/* --- events of a peer's id ------------------------------------------------------------------- */

static struct rdma_conn_param param_make(const struct ib_device *device,
					 const struct ib_hello *hello)
{
	return (struct rdma_conn_param){
	    .private_data = hello,
	    .private_data_len = sizeof(*hello),
	    .retry_count = RETRIES,
	    .rnr_retry_count = RNR_RETRIES,
	    .qp_num = device->qp ? device->qp->qp_num : 0, /* UD; otherwise the id has it */
	};
}

static void address_resolved(struct ib_peer *peer)
{
	phase_set(peer, IB_ROUTE);
	if (peer->endpoint->calls->resolve_route(peer->id, RESOLVE_MS))
		peer_error(peer, "resolve the route", errno);
}

/* The id has its device: make what a connection needs there. */
static bool peer_open(struct ib_peer *peer)
{
	struct ib_endpoint *ep = peer->endpoint;
	char why[128];
	int err =
	    ib_device_get(ep, peer->id->verbs, peer->id->port_num, &peer->device, why, sizeof(why));

	if (err) {
		ib_peer_fail(peer, why);
		return false;
	}
	err = ep->path->open ? ep->path->open(peer) : 0;
	if (err)
		peer_error(peer, "make a queue pair", err);
	return !err;
}

static void route_resolved(struct ib_peer *peer)
{
	struct rdma_conn_param param;
	struct ib_hello hello;

	if (peer->left && port_is_down(peer, peer->id)) {
		ib_peer_fail(peer, PORT_DOWN);
		return;
	}
	phase_set(peer, IB_CONNECTING);
	if (!peer_open(peer))
		return;
	hello = hello_make(peer->endpoint, 0, peer->device);
	param = param_make(peer->device, &hello);
	peer->known = peer->endpoint->path->connected;
	if (peer->endpoint->calls->connect(peer->id, &param))
		peer_error(peer, "connect", errno);
}

static void peer_established(struct ib_peer *peer, struct rdma_cm_event *event,
			     const struct ib_hello *hello)
{
	int err;

	if (peer->phase != IB_CONNECTING && peer->phase != IB_ACCEPTING)
		return; /* a message was faster */
	if (peer->phase == IB_CONNECTING) {
		if (!hello || packet_get32(hello->vni) != peer->endpoint->env.vni) {
			ib_peer_fail(peer, "who answers there is not weft, or of another overlay");
			return;
		}
		peer->credits.window = packet_get32(hello->window);
		err = peer->endpoint->path->established(peer, &event->param.ud);
		if (err) {
			peer_error(peer, "talk to the peer", err);
			return;
		}
	}
	ib_peer_carry(peer);
}

static const char *refusal_text(const struct ib_hello *hello)
{
	switch (hello ? hello->reason : 0) {
	case REFUSED_NOT_PEER:
		return "the peer has no link to us: does it name this address and port?";
	case REFUSED_FOREIGN:
		return "the peer belongs to another overlay (--vni)";
	case REFUSED_CROSSING:
		return "the peer is connecting to us";
	case REFUSED_RESOURCES:
		return "the peer has no room for a connection";
	default:
		return "nobody listens there";
	}
}

static void peer_event(struct ib_peer *peer, struct rdma_cm_event *event,
		       const struct ib_hello *hello)
{
	const char *what = peer->endpoint->calls->event_str(event->event);

	if (event->id != peer->id || peer->phase == IB_FAILED || peer->phase == IB_AWAY)
		return;
	switch (event->event) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		address_resolved(peer);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		route_resolved(peer);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		peer_established(peer, event, hello);
		break;
	case RDMA_CM_EVENT_REJECTED:
		peer->known = false;
		ib_peer_fail(peer, refusal_text(hello));
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		ib_peer_fail(peer, "the peer left");
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		if (peer->device)
			ib_device_fail(peer->device, "the adapter is gone");
		ib_peer_fail(peer, "the adapter is gone");
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
		if (event->status < 0)
			peer_error(peer, "reach the peer", event->status);
		else /* a request for datagrams that is rejected comes as one that reached nobody */
			ib_peer_fail(peer,
				     peer->endpoint->path->connected ? what : refusal_text(hello));
		break;
	default: /* a change of address, the end of a connection that was */
		break;
	}
}

/* --- requests -------------------------------------------------------------------------------- */

static struct ib_peer *peer_named(const struct ib_endpoint *ep, struct rdma_cm_id *id,
				  const struct ib_hello *hello)
{
	struct udp_address from =
	    udp_address_of((const union socket_address *)rdma_get_peer_addr(id));
	struct ib_peer *peer = ep->peers;

	memcpy(&from.port, hello->port, sizeof(from.port));
	while (peer && !udp_address_equal(&peer->address, &from))
		peer = peer->next;
	return peer;
}

/* Of two requests that cross, one is refused by both sides. */
static bool request_yields(const struct ib_peer *peer, const struct ib_hello *hello)
{
	bool asking =
	    peer->phase == IB_ADDRESS || peer->phase == IB_ROUTE || peer->phase == IB_CONNECTING;

	return peer->endpoint->path->connected && asking &&
	       peer->endpoint->instance > hello_instance(hello);
}

/* Returns why not, or 0. */
static enum refusal rc_request(struct ib_peer *peer, struct rdma_cm_id *id,
			       const struct ib_hello *hello)
{
	const struct ib_hello answer = hello_make(peer->endpoint, 0, NULL);
	struct rdma_conn_param param;

	ib_peer_reset(peer);
	loop_forget(peer->endpoint->env.loop, &peer->mend);
	if (!id_leave(peer))
		id_destroy(peer, &peer->id); /* of two that wait, one has to go */
	link_state_set(&peer->status, LINK_DOWN, NULL);
	peer->id = id;
	peer->known = true;
	id->context = peer;
	peer->credits.window = packet_get32(hello->window);
	phase_set(peer, IB_ACCEPTING);
	if (peer->endpoint->path->established(peer, NULL)) {
		ib_peer_fail(peer, "the peer's window is too small");
	} else if (peer_open(peer)) {
		param = param_make(peer->device, &answer);
		if (peer->endpoint->calls->accept(id, &param))
			peer_error(peer, "accept the peer", errno);
	}
	if (peer->phase == IB_ACCEPTING)
		return 0;
	ib_peer_reset(peer);
	peer->id = NULL; /* the caller's again */
	return REFUSED_RESOURCES;
}

/* The answer is all there is to it: the id is not needed any more. */
static enum refusal ud_request(struct ib_peer *peer, struct rdma_cm_id *id,
			       const struct ib_hello *hello)
{
	struct ib_endpoint *ep = peer->endpoint;
	const struct ib_hello answer = hello_make(ep, 0, NULL);
	struct ib_device *device;
	struct rdma_conn_param param;
	char why[128];

	if (ib_device_get(ep, id->verbs, id->port_num, &device, why, sizeof(why)))
		return REFUSED_RESOURCES;
	param = param_make(device, &answer);
	if (ep->calls->accept(id, &param))
		return REFUSED_RESOURCES;
	ep->calls->destroy_id(id);
	if (peer->phase == IB_CARRYING && peer->qpn != packet_get32(hello->qpn))
		ib_peer_fail(peer, "the peer has started anew");
	else if (peer->phase == IB_AWAY)
		loop_arm(ep->env.loop, &peer->timer, 0);
	return 0;
}

static void request_take(struct ib_endpoint *ep, struct rdma_cm_id *id,
			 const struct ib_hello *hello)
{
	struct ib_peer *peer = hello ? peer_named(ep, id, hello) : NULL;
	enum refusal refusal = REFUSED_NOT_PEER;
	struct ib_hello answer;

	if (peer && packet_get32(hello->vni) != ep->env.vni)
		refusal = REFUSED_FOREIGN;
	else if (peer && request_yields(peer, hello))
		refusal = REFUSED_CROSSING;
	else if (peer)
		refusal =
		    ep->path->connected ? rc_request(peer, id, hello) : ud_request(peer, id, hello);
	if (!refusal)
		return;
	if (refusal == REFUSED_NOT_PEER)
		ep->counters.drops[DROP_NOT_PEER]++;
	else if (refusal == REFUSED_FOREIGN)
		peer->port.counters.drops[DROP_FOREIGN]++;
	answer = hello_make(ep, refusal, NULL);
	ep->calls->reject(id, &answer, sizeof(answer));
	ep->calls->destroy_id(id);
}

/* --- the listener ---------------------------------------------------------------------------- */

int ib_endpoint_listen(struct ib_endpoint *ep)
{
	const struct ib_calls *calls = ep->calls;
	int err;

	if (calls->create_id(ep->channel, &ep->listener, NULL, ep->path->space)) {
		ep->listener = NULL;
		return -errno;
	}
	if (!calls->bind_addr(ep->listener, &ep->local.any) &&
	    !calls->listen(ep->listener, BACKLOG))
		return 0;
	err = -errno;
	calls->destroy_id(ep->listener);
	ep->listener = NULL;
	return err;
}

void ib_endpoint_retry(struct ib_endpoint *ep)
{
	if (ep->listener)
		ep->calls->destroy_id(ep->listener);
	ep->listener = NULL;
	link_retry(ep->env.loop, &ep->timer, &ep->delay_ns);
}

/* --- the event channel ----------------------------------------------------------------------- */

static void event_handle(struct ib_endpoint *ep, struct rdma_cm_event *event,
			 const struct ib_hello *hello)
{
	if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST)
		request_take(ep, event->id, hello);
	else if (event->id != ep->listener)
		peer_event(event->id->context, event, hello);
	else if (event->event == RDMA_CM_EVENT_DEVICE_REMOVAL)
		ib_endpoint_retry(ep);
}

/* Takes one event off the channel. */
static bool event_next(struct ib_endpoint *ep)
{
	struct rdma_cm_event *event, copy;
	struct ib_hello hello;
	bool ud = ep->path->qp_type == IBV_QPT_UD, said;

	if (ep->calls->get_cm_event(ep->channel, &event))
		return false;
	copy = *event;
	said =
	    ud ? hello_read(&hello, copy.param.ud.private_data, copy.param.ud.private_data_len)
	       : hello_read(&hello, copy.param.conn.private_data, copy.param.conn.private_data_len);
	ep->calls->ack_cm_event(event);
	event_handle(ep, &copy, said ? &hello : NULL);
	return true;
}

void ib_events_ready(struct loop_watch *watch, uint32_t revents)
{
	struct ib_endpoint *ep = watch->context;

	(void)revents;
	for (unsigned i = 0; i < EVENTS_VISIT && event_next(ep); i++)
		;
}
