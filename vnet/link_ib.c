/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Links over InfiniBand and RoCE: the Geneve header and the frame as messages of a queue pair,
 * without IP or UDP of ours and, on an adapter that does it, without the kernel. type=rc (the
 * default) or type=ud; ib.h says which file does what.
 *
 * As with UDP both sides name each other, and links of one type share a listener, which is made at
 * the usual port of any address unless --listen says otherwise. What reaches the listener from
 * anybody else is rejected. With each peer that is reached there is a session (session.h): what the
 * peer takes, the round trip, with UD the largest datagram; its silence ends a connection that
 * hangs.
 *
 *   LINK_UP    the session is up
 *   LINK_DOWN  anything else; the next attempt follows by itself, for ever (ib_connection.c)
 *
 * There is no sealing here: with a link key these links are refused. The static build has none of
 * it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#ifdef WEFT_STATIC

#include "vnet/link.h"

static int link_open(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		     struct port **port, char error[LINK_ERROR_MAX])
{
	(void)env;
	(void)endpoint;
	(void)port;
	return link_fail(error, spec, -ENOTSUP,
			 "the static build has no InfiniBand: use the ordinary build");
}

static int endpoint_listen(const struct link_env *env, const struct link_spec *spec,
			   void **endpoint, char error[LINK_ERROR_MAX])
{
	return link_open(env, spec, endpoint, NULL, error);
}

static void endpoint_destroy(void *endpoint)
{
	(void)endpoint;
}

#else

#include "vnet/core.h"
#include "vnet/ib.h"
#include "vnet/offload.h"
#include "vnet/session.h"

#define DATAGRAM_MIN                                                                               \
	512u /* the smallest whose parts a frame is cut into: see FRAGMENT_PARTS_MAX               \
	      */
#define DATAGRAM_USUAL 1024u /* while the adapter is not known */
#define OVERHEAD       ((uint32_t)(sizeof(struct geneve_header) + FRAME_HEADER))

/* --- sessions -------------------------------------------------------------------------------- */

static void session_schedule(struct ib_peer *peer)
{
	uint64_t next = session_next(peer->session), now = loop_now();

	loop_arm(peer->endpoint->env.loop, &peer->session_timer, next > now ? next - now : 0);
}

static int session_send(void *context, const void *message, size_t len)
{
	struct ib_peer *peer = context;

	return peer->endpoint->path->control(peer, message, len);
}

/* What the session says, for the data path. */
static void peer_refresh(void *context)
{
	struct ib_peer *peer = context;
	const struct session_self *says = session_peer(peer->session);
	bool was_up = peer->up;
	struct link_status status;

	session_status(peer->session, &status);
	if (peer->phase != IB_CARRYING)
		return;
	if (was_up && status.state != LINK_UP && ib_peer_alive(peer))
		return; /* with what it said */
	peer->up = status.state == LINK_UP;
	peer->hops = says->features & SESSION_HOPS;
	peer->payload = session_payload(peer->session);
	peer->frame_max = says->frame_max;
	if (!peer->endpoint->path->connected)
		peer->port.mtu = peer->payload - OVERHEAD;
	peer->port.offloads = peer->endpoint->env.offload ? says->offloads & PORT_OFFLOADS : 0;
	if (peer->up) {
		peer->delay_ns = 0;
		link_state_set(&peer->status, LINK_UP, NULL);
	} else if (was_up) {
		ib_peer_fail(peer, "the peer does not answer any more");
	}
}

static void session_expired(struct loop_timer *timer)
{
	struct ib_peer *peer = timer->context;

	if (peer->reassembly)
		reassembly_flush(peer->reassembly, loop_now(), &peer->port.counters);
	session_lost(peer->session, peer->port.counters.drops[DROP_FRAGMENT]);
	session_tick(peer->session, loop_now());
	session_schedule(peer);
}

int ib_session_start(struct ib_peer *peer)
{
	static const struct session_ops ops = {.send = session_send, .changed = peer_refresh};
	const struct ib_path *path = peer->endpoint->path;
	const struct session_self self = {
	    .offloads = peer->endpoint->env.offload ? PORT_OFFLOADS : 0,
	    .frame_max = FRAME_SIZE_MAX,
	    .features = path->features,
	};
	/* A connection carries any length: its probes of the path are as short as can be. */
	uint32_t max = path->connected ? IB_HEADER_ROOM : peer->device->mtu;

	peer->session = session_create(&self, &ops, peer, max < DATAGRAM_MIN ? max : DATAGRAM_MIN,
				       max, sizeof(struct geneve_header), false);
	if (!peer->session)
		return -ENOMEM;
	peer->session_timer = (struct loop_timer){.expired = session_expired, .context = peer};
	session_schedule(peer);
	return 0;
}

void ib_session_end(struct ib_peer *peer)
{
	loop_disarm(&peer->session_timer);
	session_destroy(peer->session);
	peer->session = NULL;
}

void ib_session_take(struct ib_peer *peer, const uint8_t *message, size_t len)
{
	if (!session_message(peer->session, message, len, loop_now()))
		peer->port.counters.drops[DROP_FORMAT]++;
	session_schedule(peer);
}

/* --- frames ---------------------------------------------------------------------------------- */

static enum drop_reason frame_fill(struct ib_peer *peer, struct frame *frame)
{
	struct geneve_extras extras;

	if (!peer->up)
		return DROP_DOWN;
	if (frame->len > peer->frame_max)
		return DROP_OVERSIZE;
	if (!link_extras(&peer->port, peer->hops, frame, &extras))
		return DROP_OFFLOAD;
	return peer->endpoint->path->fill(peer, frame, &extras);
}

static void ib_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct ib_peer *peer = container_of(port, struct ib_peer, port);

	port->counters.batches++;
	for (unsigned i = 0; i < n; i++) {
		enum drop_reason reason = frame_fill(peer, frames[i]);

		if (reason != DROP_REASONS)
			port->counters.drops[reason]++;
		else
			link_count_sent(&port->counters, &frames[i], 1);
	}
	if (peer->up)
		peer->endpoint->path->send(peer);
}

struct frame *ib_frame_take(struct ib_peer *peer, uint8_t *data, size_t len,
			    const struct geneve_extras *extras, struct ib_plan *plan)
{
	struct frame *frame = ib_run_add(peer);
	struct iovec *payload = (struct iovec *)frame->iov;

	*payload = (struct iovec){data, len};
	*frame = (struct frame){
	    .iov = payload,
	    .iovcnt = 1,
	    .len = (uint32_t)len,
	    .hops = extras->hops ? extras->hops : FRAME_HOPS_MAX,
	    .offload = extras->offload,
	};
	memcpy(frame->eth, data, FRAME_HEADER);
	if (plan)
		ib_land_frame(plan, frame);
	if (offload_check(frame))
		return frame;
	peer->device->run.count--;
	peer->port.counters.drops[DROP_OFFLOAD]++;
	return NULL;
}

/* --- ports ----------------------------------------------------------------------------------- */

static bool ib_full(struct port *port)
{
	const struct ib_peer *peer = container_of(port, struct ib_peer, port);
	const struct ib_ring *ring = &peer->data;

	if (!peer->endpoint->path->connected && peer->device)
		ring = &peer->device->ring;
	return ring->size && ib_ring_free(ring) < ring->size / 2;
}

static void ib_let_go(struct port *port)
{
	struct ib_peer *peer = container_of(port, struct ib_peer, port);

	peer->endpoint->path->let_go(peer);
}

static void ib_recall(struct port *port)
{
	const struct ib_peer *peer = container_of(port, struct ib_peer, port);

	if (peer->device && ib_land_lent(peer->device->lander))
		ib_device_empty(peer->device, "the guest took its receive buffers back");
}

static void ib_status(const struct port *port, struct link_status *status)
{
	const struct ib_peer *peer = container_of(port, struct ib_peer, port);
	struct link_status session = {0};

	*status = peer->status;
	if (!peer->session)
		return;
	session_status(peer->session, &session);
	status->rtt_ns = session.rtt_ns;
	status->path_mtu = peer->endpoint->path->connected ? IB_MESSAGE_MAX : session.path_mtu;
}

static void ib_close(struct port *port)
{
	struct ib_peer *peer = container_of(port, struct ib_peer, port);
	struct ib_endpoint *ep = peer->endpoint;
	struct ib_peer **at = &ep->peers;

	peer->phase = IB_AWAY; /* the port is detached: what still comes in is nobody's */
	ib_let_go(port);
	loop_disarm(&peer->timer);
	ib_peer_end(peer);
	loop_forget(ep->env.loop, &peer->mend);
	while (*at != peer)
		at = &(*at)->next;
	*at = peer->next;
	free(peer);
}

static const struct port_ops ib_ops = {
    .type = "ib",
    .send_batch = ib_send_batch,
    .full = ib_full,
    .let_go = ib_let_go,
    .recall = ib_recall,
    .close = ib_close,
    .status = ib_status,
};

/* --- endpoints ------------------------------------------------------------------------------- */

static int path_parse(const struct link_spec *spec, const struct ib_path **path, char *error)
{
	const char *text = link_option(spec, "type");

	*path = text && !strcmp(text, ib_ud.name) ? &ib_ud : &ib_rc;
	return text && strcmp(text, (*path)->name) != 0
		   ? link_fail(error, spec, -EINVAL, "type is rc or ud")
		   : 0;
}

static void listen_again(struct loop_timer *timer)
{
	struct ib_endpoint *ep = timer->context;

	if (ib_endpoint_listen(ep))
		ib_endpoint_retry(ep);
	else
		ep->delay_ns = 0;
}

static void endpoint_free(struct ib_endpoint *ep)
{
	for (struct ib_peer *peer = ep->peers, *next; peer; peer = next) {
		next = peer->next;
		if (peer->port.core)
			core_detach(peer->port.core, &peer->port);
		ib_close(&peer->port);
	}
	loop_unwatch(&ep->watch);
	loop_disarm(&ep->timer);
	while (ep->devices)
		ib_device_close(ep->devices);
	if (ep->listener)
		ep->calls->destroy_id(ep->listener);
	if (ep->channel)
		ep->calls->destroy_event_channel(ep->channel);
	if (ep->contexts)
		ep->calls->free_devices(ep->contexts);
	free(ep);
}

static void endpoint_destroy(void *endpoint)
{
	for (struct ib_endpoint *ep = endpoint, *next; ep; ep = next) {
		next = ep->next;
		endpoint_free(ep);
	}
}

static void endpoint_counters(void *endpoint, struct port_counters *sum)
{
	for (const struct ib_endpoint *ep = endpoint; ep; ep = ep->next) {
		for (unsigned r = 0; r < DROP_REASONS; r++)
			sum->drops[r] += ep->counters.drops[r];
		sum->syscalls += ep->counters.syscalls;
		sum->registrations += ep->counters.registrations;
	}
}

/* All adapters are opened now, for later there may be no right to. */
static int adapters_open(struct ib_endpoint *ep, const struct link_spec *spec, char *error)
{
	int count = 0;

	ep->contexts = ep->calls->get_devices(&count);
	if (!ep->contexts || !count) {
		link_fail(
		    error, spec, -ENODEV,
		    "no InfiniBand or RoCE adapter here: load its driver (or rdma_rxe over an "
		    "Ethernet device), or use udp://");
		return -ENODEV;
	}
	ep->channel = ep->calls->create_event_channel();
	if (ep->channel)
		return 0;
	link_fail(error, spec, -ENODEV,
		  "cannot open the connection manager: %s: load rdma_ucm, and see who may open "
		  "/dev/infiniband/rdma_cm",
		  strerror(errno));
	return -ENODEV;
}

static int endpoint_start(struct ib_endpoint *ep, const struct link_spec *spec, char *error)
{
	int err = adapters_open(ep, spec, error);
	int flags;

	if (err)
		return err;
	flags = fcntl(ep->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(ep->channel->fd, F_SETFL, flags | O_NONBLOCK) ||
	    getrandom(&ep->instance, sizeof(ep->instance), 0) != sizeof(ep->instance))
		err = -EIO;
	else
		err = loop_watch(ep->env.loop, &ep->watch, ep->channel->fd, POLLIN);
	if (err)
		return link_fail(error, spec, err, "cannot watch for connections: %s",
				 strerror(-err));
	err = ib_endpoint_listen(ep);
	if (err == -EADDRINUSE)
		return link_fail(error, spec, err,
				 "the port is taken: give --listen ib://ADDR:PORT another");
	if (err)
		return link_fail(error, spec, err, "cannot listen: %s%s", strerror(-err),
				 err == -ENODEV || err == -EADDRNOTAVAIL
				     ? ": the address belongs to no RDMA adapter"
				     : "");
	return 0;
}

static int endpoint_open(const struct link_env *env, const struct link_spec *spec,
			 const struct ib_path *path, const union socket_address *local,
			 struct ib_endpoint **made, char *error)
{
	struct ib_endpoint *ep = calloc(1, sizeof(*ep));
	char why[128];
	int err;

	if (!ep) {
		link_fail(error, spec, -ENOMEM, "out of memory");
		return -ENOMEM;
	}
	ep->env = *env;
	ep->calls = env->ib_calls ? env->ib_calls : &ep->loaded;
	ep->path = path;
	ep->local = *local;
	ep->watch = (struct loop_watch){.ready = ib_events_ready, .context = ep};
	ep->timer = (struct loop_timer){.expired = listen_again, .context = ep};
	err = env->ib_calls ? 0 : ib_calls_load(&ep->loaded, why, sizeof(why));
	if (err)
		link_fail(error, spec, err, "%s", why);
	else
		err = endpoint_start(ep, spec, error);
	/* An address has its adapter: register memory before the guest runs. */
	if (!err && ep->listener && ep->listener->verbs) {
		struct ib_device *device;

		err = ib_device_get(ep, ep->listener->verbs, ep->listener->port_num, &device, why,
				    sizeof(why));
		if (err)
			link_fail(error, spec, err, "%s", why);
	}
	if (err)
		endpoint_free(ep);
	else
		*made = ep;
	return err;
}

static int key_refuse(const struct link_env *env, const struct link_spec *spec, char *error)
{
	return env->key ? link_fail(error, spec, -EINVAL,
				    "InfiniBand carries no link key: use udp://, or no --key-file")
			: 0;
}

static struct ib_endpoint **endpoint_find(void **endpoint, const struct ib_path *path)
{
	struct ib_endpoint **at = (struct ib_endpoint **)endpoint;

	while (*at && (*at)->path != path)
		at = &(*at)->next;
	return at;
}

static int endpoint_listen(const struct link_env *env, const struct link_spec *spec,
			   void **endpoint, char error[LINK_ERROR_MAX])
{
	const struct ib_path *path;
	union socket_address local;
	struct ib_endpoint **at;
	int err = key_refuse(env, spec, error);

	if (!err)
		err = path_parse(spec, &path, error);
	if (!err && link_option(spec, "name"))
		err = link_fail(error, spec, -EINVAL, "name= belongs to a link");
	if (!err)
		err = udp_address_read(spec, AF_UNSPEC, IB_PORT, &local, error);
	if (err)
		return err;
	at = endpoint_find(endpoint, path);
	if (*at)
		return link_fail(error, spec, -EINVAL, "ib:// listens already for links of type %s",
				 path->name);
	return endpoint_open(env, spec, path, &local, at, error);
}

/* --- links ----------------------------------------------------------------------------------- */

/* The listener that nobody asked for. */
static int endpoint_ensure(const struct link_env *env, const struct link_spec *spec,
			   const struct ib_path *path, struct ib_endpoint **at, char *error)
{
	const union socket_address any = {
	    .v6 = {.sin6_family = AF_INET6, .sin6_port = htons(IB_PORT)}};

	return *at ? 0 : endpoint_open(env, spec, path, &any, at, error);
}

static uint32_t mtu_guess(const struct ib_endpoint *ep)
{
	if (ep->path->connected)
		return FRAME_SIZE_MAX - FRAME_HEADER;
	return (ep->devices ? ep->devices->mtu : DATAGRAM_USUAL) - OVERHEAD;
}

static int peer_link(struct ib_endpoint *ep, const struct link_spec *spec,
		     const struct udp_address *address, struct port **port, char *error)
{
	struct udp_address local = udp_address_of(&ep->local);
	struct ib_peer *peer = ep->peers;
	int err;

	while (peer && !udp_address_equal(&peer->address, address))
		peer = peer->next;
	if (peer)
		return link_fail(error, spec, -EEXIST, "this peer is linked already, as \"%s\"",
				 peer->port.name);
	if (udp_address_equal(&local, address))
		return link_fail(error, spec, -EINVAL,
				 "that is where this VM itself listens: give the peer's");
	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	peer->endpoint = ep;
	peer->address = *address;
	peer->next_id = (uint32_t)(loop_now() >> 10); /* not those of the process before this one */
	peer->port.ops = &ib_ops;
	peer->port.kind = PORT_LINK;
	peer->port.mtu = mtu_guess(ep);
	link_state_set(&peer->status, LINK_DOWN, NULL);
	err = link_attach(&ep->env, spec, &peer->port, error);
	if (err) {
		free(peer);
		return err;
	}
	peer->next = ep->peers;
	ep->peers = peer;
	ib_peer_start(peer);
	*port = &peer->port;
	return 0;
}

static int address_read(const struct link_spec *spec, struct udp_address *address, char *error)
{
	union socket_address sa;
	int err = udp_address_read(spec, AF_UNSPEC, IB_PORT, &sa, error);

	if (err)
		return err;
	*address = udp_address_of(&sa);
	if (spec->target[0] == ':' || !address->port)
		return link_fail(error, spec, -EINVAL,
				 "a peer has a host and a port: write HOST:PORT");
	return 0;
}

static int link_open(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		     struct port **port, char error[LINK_ERROR_MAX])
{
	const struct ib_path *path;
	struct udp_address address;
	struct ib_endpoint **at;
	int err = key_refuse(env, spec, error);

	if (!err)
		err = path_parse(spec, &path, error);
	if (!err)
		err = address_read(spec, &address, error);
	if (err)
		return err;
	at = endpoint_find(endpoint, path);
	err = endpoint_ensure(env, spec, path, at, error);
	return err ? err : peer_link(*at, spec, &address, port, error);
}

static int link_resolve(const struct link_spec *spec, int family, char url[LINK_URL_MAX],
			char error[LINK_ERROR_MAX])
{
	union socket_address sa;
	struct udp_address address;
	char text[LINK_URL_MAX];
	int err;

	if (!udp_address_is_name(spec))
		return 0;
	err = udp_address_read(spec, family, IB_PORT, &sa, error);
	if (err)
		return err;
	address = udp_address_of(&sa);
	udp_address_print(text, sizeof(text), &address); /* "udp://..." */
	snprintf(url, LINK_URL_MAX, "ib%s", text + strlen("udp"));
	return 0;
}

#endif

static const char *const options[] = {"type", NULL};

const struct link_type link_ib = {
    .scheme = "ib",
    .form = "ib://HOST[:PORT]",
    .summary = "a peer over InfiniBand or RoCE: by connection (type=rc) or datagrams (type=ud)",
    .options = options,
    .listen_form = "ib://[ADDR][:PORT]",
    .listen = endpoint_listen,
    .open = link_open,
    .endpoint_destroy = endpoint_destroy,
#ifndef WEFT_STATIC
    .resolve = link_resolve,
    .endpoint_counters = endpoint_counters,
#endif
};
