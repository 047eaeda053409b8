/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The link type "udp": what the user asked for becomes endpoints (udp_socket.c) and peers, and a
 * table by which a datagram finds its peer. Sending, receiving and what is agreed with a peer are
 * in files of their own.
 *
 * An endpoint speaks one encapsulation. Those of an overlay are a list; a link takes the first one
 * that speaks its encapsulation and its peer's IP version, and if there is none that speaks the
 * encapsulation, one is made that listens at the usual port of any address.
 *
 * The table holds each peer under several addresses: the one that the user wrote (found first,
 * whoever else claims it), those with the further ports that the peer sends from, and its IP
 * address alone (as port 0, and a datagram that comes from port 0 is a stranger's). The last counts
 * only for a peer that is not up and is alone at that address; of one that is up it is known where
 * it sends from.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/core.h"
#include "vnet/link_udp.h"
#include "vnet/udp_land.h"

#define SPREAD_DEFAULT 4u

/* --- whose datagram is it ------------------------------------------------------------------ */

static struct udp_entry **bucket_of(struct udp_endpoint *ep, const struct udp_address *address)
{
	return &ep->buckets[udp_address_hash(address) >> 24 & (UDP_PEER_BUCKETS - 1)];
}

static struct udp_entry *entry_find(const struct udp_endpoint *ep,
				    const struct udp_address *address)
{
	struct udp_entry *entry = *bucket_of((struct udp_endpoint *)ep, address);

	while (entry && !udp_address_equal(&entry->address, address))
		entry = entry->next;
	return entry;
}

/* @first: found before others of the same address. */
static void entry_add(struct udp_peer *peer, struct udp_entry *entry, uint16_t port, bool first)
{
	struct udp_entry **at;

	entry->peer = peer;
	entry->address = peer->address;
	entry->address.port = port;
	at = bucket_of(peer->endpoint, &entry->address);
	while (!first && *at)
		at = &(*at)->next;
	entry->next = *at;
	*at = entry;
}

static void entry_remove(struct udp_entry *entry)
{
	struct udp_entry **at = bucket_of(entry->peer->endpoint, &entry->address);

	while (*at != entry)
		at = &(*at)->next;
	*at = entry->next;
}

/* The only peer at an IP address, if it is one that may send from any port. */
static struct udp_peer *peer_alone(const struct udp_endpoint *ep, struct udp_address ip)
{
	struct udp_entry *found, *other;

	ip.port = 0;
	found = entry_find(ep, &ip);
	if (!found || found->peer->state == LINK_UP)
		return NULL;
	for (other = found->next; other; other = other->next)
		if (udp_address_equal(&other->address, &ip))
			return NULL;
	return found->peer;
}

struct udp_peer *udp_peer_find(const struct udp_endpoint *ep, const struct udp_address *from)
{
	const struct udp_entry *entry;

	if (!from->port) /* RFC 768 allows it, for those who want no answer; here it means any */
		return NULL;
	entry = entry_find(ep, from);
	return entry ? entry->peer : peer_alone(ep, *from);
}

static void others_forget(struct udp_peer *peer)
{
	while (peer->other_count)
		entry_remove(&peer->others[--peer->other_count]);
}

void udp_peer_ports(struct udp_peer *peer, const uint16_t ports[SESSION_PORTS_MAX])
{
	others_forget(peer);
	for (unsigned i = 0; i < SESSION_PORTS_MAX && ports[i]; i++)
		entry_add(peer, &peer->others[peer->other_count++], htons(ports[i]), false);
	if (peer->heard && htons(peer->heard) != peer->address.port)
		entry_add(peer, &peer->others[peer->other_count++], htons(peer->heard), false);
}

/* --- peers --------------------------------------------------------------------------------- */

static void peer_add(struct udp_peer *peer)
{
	entry_add(peer, &peer->listening, peer->address.port, true);
	entry_add(peer, &peer->anywhere, 0, true);
	peer->next = peer->endpoint->peers;
	peer->endpoint->peers = peer;
}

static void udp_close(struct port *port)
{
	struct udp_peer *peer = udp_peer_of(port);
	struct udp_peer **at = &peer->endpoint->peers;

	while (*at != peer)
		at = &(*at)->next;
	*at = peer->next;
	others_forget(peer);
	entry_remove(&peer->listening);
	entry_remove(&peer->anywhere);
	udp_session_end(peer);
	udp_land_forget(peer->endpoint->lander, peer);
	free(peer);
}

static const struct port_ops udp_ops = {
    .type = "udp",
    .send_batch = udp_send_batch,
    .close = udp_close,
    .status = udp_peer_status,
};

/* The peer that the user wrote as @sa already linked, at any endpoint, or the endpoint itself? */
static int peer_check(const struct udp_endpoint *ep, const struct link_spec *spec,
		      const struct udp_peer *peer, bool self, char *error)
{
	const struct udp_entry *entry = entry_find(ep, &peer->address);

	if (self)
		return link_fail(error, spec, -EINVAL,
				 "that is where this VM itself listens: leave it out, or give "
				 "--listen another port");
	if (entry && entry == &entry->peer->listening)
		return link_fail(error, spec, -EEXIST,
				 "this peer is linked already, as \"%s\": leave it out",
				 entry->peer->port.name);
	return 0;
}

static struct udp_peer *peer_create(struct udp_endpoint *ep, const union socket_address *sa,
				    bool plain)
{
	struct udp_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	peer->endpoint = ep;
	peer->address = udp_address_of(sa);
	peer->to = udp_address_for(ep->family, &peer->address);
	peer->plain = plain;
	peer->port.ops = &udp_ops;
	peer->port.kind = PORT_LINK;
	return peer;
}

/* Link the endpoint to a peer at @sa. */
static int peer_link(struct udp_endpoint *ep, const struct link_spec *spec,
		     const union socket_address *sa, bool plain, struct port **port, char *error)
{
	struct udp_peer *peer = peer_create(ep, sa, plain);
	uint32_t payload;
	bool self = false;
	int err;

	if (!peer)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	payload = udp_path_payload(ep, &peer->address, &self);
	err = peer_check(ep, spec, peer, self, error);
	if (err)
		goto out_free;
	err = udp_session_start(peer, payload);
	if (err) {
		link_fail(error, spec, err, "out of memory");
		goto out_free;
	}
	err = link_attach(&ep->env, spec, &peer->port, error);
	if (err)
		goto out_end;
	peer_add(peer);
	*port = &peer->port;
	return 0;

out_end:
	udp_session_end(peer);
out_free:
	free(peer);
	return err;
}

/* --- endpoints ----------------------------------------------------------------------------- */

static uint16_t usual_port(enum udp_encap encap)
{
	return encap == UDP_VXLAN ? VXLAN_UDP_PORT : GENEVE_UDP_PORT;
}

static int encap_parse(const struct link_spec *spec, enum udp_encap *encap, char *error)
{
	const char *text = link_option(spec, "encap");

	*encap = UDP_GENEVE;
	if (!text || !strcmp(text, "geneve"))
		return 0;
	*encap = UDP_VXLAN;
	return strcmp(text, "vxlan") != 0
		   ? link_fail(error, spec, -EINVAL, "encap is geneve or vxlan")
		   : 0;
}

static int spread_parse(const struct link_spec *spec, unsigned *spread, char *error)
{
	const char *text = link_option(spec, "spread");

	*spread = SPREAD_DEFAULT;
	if (!text)
		return 0;
	*spread = (unsigned)(text[0] - '0');
	if (text[0] < '1' || text[0] > '8' || text[1])
		return link_fail(error, spec, -EINVAL, "spread is a number of source ports, 1..8");
	return 0;
}

/* Both lists of options are one in links.c: tell those of listeners and those of links apart. */
static int options_refuse(const struct link_spec *spec, const char *const names[],
			  const char *where, char *error)
{
	for (unsigned i = 0; names[i]; i++)
		if (link_option(spec, names[i]))
			return link_fail(error, spec, -EINVAL, "%s= belongs to %s", names[i],
					 where);
	return 0;
}

static void endpoint_free(struct udp_endpoint *ep)
{
	udp_lander_destroy(ep->lander);
	udp_receiving_destroy(ep->rx);
	udp_sending_destroy(ep->tx);
	free(ep);
}

static struct udp_endpoint *endpoint_alloc(const struct link_env *env, enum udp_encap encap)
{
	struct udp_endpoint *ep = calloc(1, sizeof(*ep));

	if (!ep)
		return NULL;
	ep->env = *env;
	ep->encap = encap;
	ep->rx = udp_receiving_create();
	ep->lander = udp_lander_create();
	ep->tx = udp_sending_create(env->key);
	ep->watch.ready = udp_receive;
	ep->watch.eager = true;
	ep->watch.context = ep;
	if (ep->rx && ep->lander && ep->tx)
		return ep;
	endpoint_free(ep);
	return NULL;
}

static int endpoint_open(const struct link_env *env, const struct link_spec *spec,
			 enum udp_encap encap, union socket_address *sa, unsigned spread,
			 struct udp_endpoint **endpoint, char *error)
{
	struct udp_endpoint *ep = endpoint_alloc(env, encap);
	int err;

	if (!ep)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	err = udp_sockets_open(ep, spec, sa, spread, error);
	if (err)
		goto out_free;
	err = loop_watch(env->loop, &ep->watch, ep->fd, POLLIN);
	if (err) {
		link_fail(error, spec, err, "cannot watch the socket: %s", strerror(-err));
		goto out_close;
	}
	*endpoint = ep;
	return 0;

out_close:
	udp_sockets_close(ep);
out_free:
	endpoint_free(ep);
	return err;
}

static int endpoint_listen(const struct link_env *env, const struct link_spec *spec,
			   void **endpoint, char error[LINK_ERROR_MAX])
{
	static const char *const of_links[] = {"name", "plain", NULL};
	struct udp_endpoint **at = (struct udp_endpoint **)endpoint;
	union socket_address sa;
	enum udp_encap encap = UDP_GENEVE;
	unsigned spread = SPREAD_DEFAULT;
	int err = options_refuse(spec, of_links, "a link", error);

	if (!err)
		err = encap_parse(spec, &encap, error);
	if (!err)
		err = spread_parse(spec, &spread, error);
	if (!err)
		err = udp_address_read(spec, AF_UNSPEC, usual_port(encap), &sa, error);
	if (!err && env->key && encap == UDP_VXLAN)
		err = link_fail(error, spec, -EINVAL,
				"a link key cannot protect VXLAN: leave one of the two out");
	if (err)
		return err;
	for (; *at; at = &(*at)->next)
		if ((*at)->encap == encap &&
		    ((*at)->peer_family == AF_UNSPEC || (*at)->peer_family == sa.any.sa_family))
			return link_fail(error, spec, -EINVAL,
					 "udp:// listens already for such links: they share one listener");
	return endpoint_open(env, spec, encap, &sa, spread, at, error);
}

static void endpoint_close(struct udp_endpoint *ep)
{
	loop_unwatch(&ep->watch);
	for (struct udp_peer *peer = ep->peers, *next; peer; peer = next) {
		next = peer->next;
		if (peer->port.core)
			core_detach(peer->port.core, &peer->port);
		udp_close(&peer->port);
	}
	udp_sockets_close(ep);
	endpoint_free(ep);
}

void udp_endpoint_destroy(struct udp_endpoint *ep)
{
	while (ep) {
		struct udp_endpoint *next = ep->next;

		endpoint_close(ep);
		ep = next;
	}
}

static void endpoint_destroy(void *endpoint)
{
	udp_endpoint_destroy(endpoint);
}

static void endpoint_counters(void *endpoint, struct port_counters *sum)
{
	for (const struct udp_endpoint *ep = endpoint; ep; ep = ep->next) {
		for (unsigned r = 0; r < DROP_REASONS; r++)
			sum->drops[r] += ep->counters.drops[r];
		sum->syscalls += ep->counters.syscalls;
		sum->batches += ep->counters.batches;
	}
}

/* --- links --------------------------------------------------------------------------------- */

/* The endpoints that speak @encap, from @ep on. */
static struct udp_endpoint *endpoint_next(struct udp_endpoint *ep, enum udp_encap encap)
{
	while (ep && ep->encap != encap)
		ep = ep->next;
	return ep;
}

/* Find where a link can start, and its peer's address as it is seen from there. */
static int endpoint_choose(struct udp_endpoint *ep, const struct link_spec *spec,
			   enum udp_encap encap, struct udp_endpoint **chosen,
			   union socket_address *sa, char *error)
{
	int err = -EHOSTUNREACH;

	for (ep = endpoint_next(ep, encap); ep && err == -EHOSTUNREACH;
	     ep = endpoint_next(ep->next, encap)) {
		err = udp_address_read(spec, ep->peer_family, usual_port(encap), sa, error);
		*chosen = ep;
	}
	if (!err && (spec->target[0] == ':' || !spec->target[0] || !udp_address_of(sa).port))
		return link_fail(error, spec, -EINVAL,
				 "a peer has a host and a port: write HOST:PORT");
	return err;
}

/* The listener that nobody asked for: at the usual port of any address. */
static int endpoint_ensure(const struct link_env *env, const struct link_spec *spec,
			   enum udp_encap encap, void **endpoint, char *error)
{
	union socket_address sa = {
	    .v6 = {.sin6_family = AF_INET6, .sin6_port = htons(usual_port(encap))}};
	struct udp_endpoint **at = (struct udp_endpoint **)endpoint;

	if (endpoint_next(*at, encap))
		return 0;
	for (; *at; at = &(*at)->next)
		if ((*at)->encap == encap &&
		    ((*at)->peer_family == AF_UNSPEC || (*at)->peer_family == sa.any.sa_family))
			return link_fail(error, spec, -EINVAL,
					 "udp:// listens already for such links: they share one listener");
	return endpoint_open(env, spec, encap, &sa, SPREAD_DEFAULT, at, error);
}

static int link_open(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		     struct port **port, char error[LINK_ERROR_MAX])
{
	static const char *const of_listeners[] = {"spread", NULL};
	struct udp_endpoint *ep = NULL;
	union socket_address sa;
	enum udp_encap encap = UDP_GENEVE;
	bool plain = false;
	int err = options_refuse(spec, of_listeners, "a listener", error);

	if (!err)
		err = encap_parse(spec, &encap, error);
	if (!err)
		err = link_switch(spec, "plain", &plain, error);
	plain = plain || encap == UDP_VXLAN;
	if (!err && plain && env->key)
		err = link_fail(error, spec, -EINVAL,
				"with a link key no link is plain: leave one of the two out");
	if (!err)
		err = endpoint_ensure(env, spec, encap, endpoint, error);
	if (!err)
		err = endpoint_choose(*endpoint, spec, encap, &ep, &sa, error);
	return err ? err : peer_link(ep, spec, &sa, plain, port, error);
}

static int link_resolve(const struct link_spec *spec, int family, char url[LINK_URL_MAX],
			char error[LINK_ERROR_MAX])
{
	union socket_address sa;
	struct udp_address address;
	enum udp_encap encap;
	int err = encap_parse(spec, &encap, error);

	if (err || !udp_address_is_name(spec))
		return err;
	err = udp_address_read(spec, family, usual_port(encap), &sa, error);
	if (err)
		return err;
	address = udp_address_of(&sa);
	udp_address_print(url, LINK_URL_MAX, &address);
	return 0;
}

static const char *const options[] = {"encap", "plain", "spread", NULL};

const struct link_type link_udp = {
    .scheme = "udp",
    .form = "udp://HOST[:PORT]",
    .summary = "UDP in Geneve or VXLAN: another weft, or any device that speaks one of them",
    .options = options,
    .listen_form = "udp://[ADDR][:PORT]",
    .listen = endpoint_listen,
    .open = link_open,
    .resolve = link_resolve,
    .endpoint_destroy = endpoint_destroy,
    .endpoint_counters = endpoint_counters,
};

uint16_t udp_endpoint_local_port(const struct udp_endpoint *ep)
{
	return ntohs(ep->local.port);
}

const struct port_counters *udp_endpoint_counters(const struct udp_endpoint *ep)
{
	return &ep->counters;
}
