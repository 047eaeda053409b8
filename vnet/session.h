/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session with one peer: hello, keepalive, capabilities, round-trip time, path MTU. A pure state
 * machine: time and messages come in as arguments, messages go out by a callback; no sockets, no
 * loop. What it says stands in session_message.h; it is carried as Geneve control messages
 * (geneve.h).
 */
#ifndef WEFT_SESSION_H
#define WEFT_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/port.h"

#define SESSION_MESSAGE_MAX 65507u /* a probe may be as long as a datagram */
#define SESSION_PORTS_MAX   8u

/* What each side says of itself. */
struct session_self {
	uint32_t offloads;  /* enum port_offload it takes; 0 with --offload off */
	uint32_t frame_max; /* largest frame it takes, in parts if need be; bytes */
	uint32_t features;  /* SESSION_FRAGMENTS, SESSION_HOPS */
	/* Further UDP source ports it sends from, host order; 0 ends. */
	uint16_t ports[SESSION_PORTS_MAX];
};
#define SESSION_FRAGMENTS (1u << 0)
#define SESSION_HOPS	  (1u << 1)

struct session;

struct session_ops {
	/* Send a control message of @len bytes to the peer (the caller adds outer headers). Returns
	 * 0 or -errno; -EMSGSIZE for a probe that does not fit the local interface. It may call
	 * session_too_big() and session_error(). */
	int (*send)(void *context, const void *message, size_t len);
	/* State, peer's capabilities, observed port or path MTU changed: read them with
	 * session_status(), session_peer() and so on. A restarted peer is seen by link_status.ups
	 * having grown. Must not destroy the session. */
	void (*changed)(void *context);
};

/**
 * session_create - nothing is sent before the first session_tick(), which is due at once.
 * @self, @ops: copied
 * @payload_min, @payload_max: bounds of the search for the path's largest datagram, bytes of UDP
 *              payload; max is what the host's route allows
 * @overhead:   bytes that @ops->send puts around a message within the UDP payload: Geneve header,
 *              seal. A probe for a payload of n bytes is a message of n - @overhead
 * @plain_ok:   a peer that never answered may be sent plain frames; false with a link key
 *
 * Returns NULL when memory or randomness is missing.
 */
struct session *session_create(const struct session_self *self, const struct session_ops *ops,
			       void *context, uint32_t payload_min, uint32_t payload_max,
			       uint32_t overhead, bool plain_ok);
/* session_destroy - NULL is fine. */
void session_destroy(struct session *s);

/* session_tick - call at session_next(); does what is due. */
void session_tick(struct session *s, uint64_t now_ns);
/* session_next - when session_tick() wants to be called next, CLOCK_MONOTONIC ns; 0: at once. Every
 * other call may change it: read it again after each. */
uint64_t session_next(const struct session *s);
/* session_message - a control message from the peer. Returns false if it is malformed (count
 * DROP_FORMAT). */
bool session_message(struct session *s, const void *message, size_t len, uint64_t now_ns);
/* session_too_big - the host learnt of a smaller path MTU (EMSGSIZE, ICMP): @payload_max bytes of
 * UDP payload. In force at once; never below payload_min. */
void session_too_big(struct session *s, uint32_t payload_max, uint64_t now_ns);
/* session_error - the transport failed (text for "last error"). The state is left alone: if nothing
 * arrives any more the peer's silence tells, and an error may be of the moment or forged (ICMP). */
void session_error(struct session *s, const char *text, uint64_t now_ns);
/* session_lost - frames from this peer that were lost in part, ever; told with the next hello. */
void session_lost(struct session *s, uint64_t frames);

/* session_status - path_mtu is session_payload(): the caller adds its outer headers. */
void session_status(const struct session *s, struct link_status *status);
/* session_peer - what the peer said of itself; zeros while not LINK_UP. */
const struct session_self *session_peer(const struct session *s);
/* session_peer_lost - frames of ours that the peer lost in part since it started; 0 while not
 * LINK_UP. */
uint64_t session_peer_lost(const struct session *s);
/* session_payload - largest UDP payload known to reach the peer, bytes. Until a search has ended it
 * is the
 * @payload_max of session_create(), or what session_too_big() said: never a bound of the search. */
uint32_t session_payload(const struct session *s);
/* session_observed_port - our UDP source port as the peer sees it (host order), 0 unknown: NAT if
 * it differs. */
uint16_t session_observed_port(const struct session *s);
/* session_observe - the source port we see the peer's messages come from, to tell it. */
void session_observe(struct session *s, uint16_t port);

#endif
