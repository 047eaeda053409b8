/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Each side draws a random id when it starts and sends HELLOs; each HELLO is answered at once. A
 * message that repeats our id proves that the peer hears us, and only such a message makes the
 * session LINK_UP or gives the peer a new id: blind forgeries change nothing. So
 *
 *   A -- HELLO (a, knows nobody) -->        B
 *   A <-- HELLO_ANSWER (b, knows a) --      B      A is up
 *   A -- HELLO (a, knows b) -->             B      B is up
 *
 * whoever starts, and also if both do. A peer that restarted has a new id; its first HELLO runs the
 * same course, which takes a round trip and a half, no matter what state we are in.
 *
 * States (enum link_state):
 *
 * - LINK_PLAIN: the peer never answered, and plain frames may be sent to it; also when it speaks
 *   another version
 * - LINK_DOWN: the peer does not answer
 * - LINK_UP: it does. Left when all HELLOs of SILENCE_NS remained unanswered
 *
 * Timers:
 *
 * - not up: a HELLO each EAGER_NS for the first EAGER_FOR_NS, then each KEEPALIVE_NS; a peer that
 *   never answered gets one each RARE_NS after RARE_AFTER_NS, because nobody may be there, ever
 * - up: a HELLO KEEPALIVE_NS after the last answer; unanswered it is repeated sooner, so that loss
 *   on the way does not look like a dead peer
 * - up: probes of the path MTU, see path_search.c
 *
 * Answers are limited by two token buckets, one for the peer as we know it and a small one for
 * anybody else who sends from its address, so that a flood of forgeries costs neither time nor the
 * peer's keepalives.
 *
 * All of it on the thread that owns the link. Nothing is allocated after session_create().
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "vnet/path_search.h"
#include "vnet/session_message.h"

#define MS_NS	      1000000ull
#define S_NS	      1000000000ull
#define EAGER_NS      (250 * MS_NS)
#define EAGER_FOR_NS  (10 * S_NS)
#define KEEPALIVE_NS  (1 * S_NS)
#define RARE_NS	      (5 * S_NS)
#define RARE_AFTER_NS (60 * S_NS)
#define SILENCE_NS    (3 * S_NS)
#define PROBE_MIN_NS                                                                               \
	(100 * MS_NS) /* how long a probe's answer may take: four round trips within               \
		       */
#define PROBE_MAX_NS  (1 * S_NS)
#define RTT_WEIGHT    8u /* of the past against a new measurement, RFC 6298, 2.3 */
#define RTT_MAX_NS    (60 * S_NS)
#define PEER_ANSWERS  64u /* answers a second, and as many at once */
#define OTHER_ANSWERS 8u
#define SEQUENCES     16u /* the last HELLOs, whose answers count */

struct session {
	struct session_ops ops;
	void *context;
	uint8_t *message; /* room for the longest probe */
	uint64_t id;
	struct session_self self;
	uint32_t overhead;

	struct link_status status; /* but for path_mtu */
	struct path_search path;
	uint64_t hello_ns;   /* the next HELLO */
	uint64_t waiting_ns; /* the first HELLO since the last answer; 0: none */
	uint64_t lost;
	uint64_t peer_bucket_ns, other_bucket_ns;

	/* The peer: zeros while it is not up, but for the former id. */
	uint64_t peer_id;
	uint64_t peer_former; /* before its last restart: there may be messages late on the way */
	uint64_t peer_lost;
	struct session_self peer;
	uint16_t our_port; /* as it sees it */

	uint16_t observed; /* the peer's port, for it to know */
	uint32_t sequence; /* of the last HELLO */
	unsigned depth;	   /* calls under way: ops.send may call back */
	bool changed;	   /* ops.changed is to be called when they end */
	bool answered;	   /* the peer has answered at least once */
	bool plain_ok;
};

static void session_enter(struct session *s)
{
	s->depth++;
}

static void session_leave(struct session *s, uint32_t payload_before)
{
	if (s->path.payload != payload_before)
		s->changed = true;
	if (--s->depth || !s->changed)
		return;
	s->changed = false;
	s->ops.changed(s->context);
}

__attribute__((format(printf, 2, 3))) static void error_set(struct session *s, const char *format,
							    ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(s->status.error, sizeof(s->status.error), format, args);
	va_end(args);
}

static void state_set(struct session *s, enum link_state state, uint64_t now_ns)
{
	if (s->status.state == state)
		return;
	s->status.state = state;
	s->status.since_ns = now_ns;
	s->changed = true;
}

struct session *session_create(const struct session_self *self, const struct session_ops *ops,
			       void *context, uint32_t payload_min, uint32_t payload_max,
			       uint32_t overhead, bool plain_ok)
{
	struct session *s = calloc(1, sizeof(*s));
	uint32_t room = SESSION_HELLO_SIZE + overhead;

	if (!s)
		return NULL;
	if (payload_min < room)
		payload_min = room;
	if (payload_max < payload_min)
		payload_max = payload_min;
	*s = (struct session){.ops = *ops,
			      .context = context,
			      .self = *self,
			      .overhead = overhead,
			      .plain_ok = plain_ok,
			      .message = calloc(1, payload_max)};
	while (!s->id && s->message)
		if (getrandom(&s->id, sizeof(s->id), 0) != sizeof(s->id))
			break;
	if (!s->id) {
		session_destroy(s);
		return NULL;
	}
	s->status.state = plain_ok ? LINK_PLAIN : LINK_DOWN;
	path_search_init(&s->path, payload_min, payload_max);
	return s;
}

void session_destroy(struct session *s)
{
	if (!s)
		return;
	free(s->message);
	free(s);
}

/* What every message of ours says. Times count from a random point: the host's uptime is its own.
 */
static struct session_message message_start(const struct session *s, uint8_t type, uint64_t now_ns)
{
	return (struct session_message){.type = type,
					.session = s->id,
					.peer = s->peer_id,
					.time = s->id + now_ns,
					.self = s->self,
					.observed = s->observed,
					.lost = s->lost};
}

static uint64_t hello_interval(const struct session *s, uint64_t now_ns)
{
	uint64_t quiet = now_ns - s->status.since_ns;
	uint64_t patience = 2 * s->status.rtt_ns;

	if (s->status.state == LINK_UP)
		return patience < EAGER_NS	 ? EAGER_NS
		       : patience > KEEPALIVE_NS ? KEEPALIVE_NS
						 : patience;
	if (quiet < EAGER_FOR_NS)
		return EAGER_NS;
	return quiet < RARE_AFTER_NS || s->answered ? KEEPALIVE_NS : RARE_NS;
}

static void hello_send(struct session *s, uint64_t now_ns)
{
	struct session_message hello = message_start(s, SESSION_HELLO, now_ns);
	uint8_t message[SESSION_HELLO_SIZE] = {0};
	int rc;

	hello.sequence = ++s->sequence;
	session_message_build(message, &hello);
	if (!s->waiting_ns)
		s->waiting_ns = now_ns;
	s->hello_ns = now_ns + hello_interval(s, now_ns);
	rc = s->ops.send(s->context, message, sizeof(message));
	if (rc < 0 && rc != -EAGAIN && rc != -ENOBUFS)
		error_set(s, "cannot send: %s", strerror(-rc));
}

static void probes_send(struct session *s, uint64_t now_ns)
{
	struct session_message probe = message_start(s, SESSION_PROBE, now_ns);
	uint64_t timeout = 4 * s->status.rtt_ns;
	uint32_t size;

	timeout = timeout < PROBE_MIN_NS   ? PROBE_MIN_NS
		  : timeout > PROBE_MAX_NS ? PROBE_MAX_NS
					   : timeout;
	while ((size = path_search_probe(&s->path, now_ns, timeout, &probe.sequence)) != 0) {
		session_message_build(s->message, &probe);
		if (s->ops.send(s->context, s->message, size - s->overhead) != -EMSGSIZE)
			break;
		path_search_refused(&s->path, now_ns);
	}
}

/* The peer heard us and says who it is: it came up, or restarted. */
static void peer_adopt(struct session *s, const struct session_message *m, uint64_t now_ns)
{
	if (s->peer_id)
		s->peer_former = s->peer_id;
	s->peer_id = m->session;
	s->answered = true;
	s->waiting_ns = 0;
	s->status.rtt_ns = 0;
	s->status.ups++;
	state_set(s, LINK_UP, now_ns);
	s->status.since_ns = now_ns;
	s->changed = true;
	path_search_start(&s->path, now_ns);
	hello_send(s, now_ns); /* so that it knows that we heard it */
}

static void peer_lose(struct session *s, uint64_t now_ns)
{
	error_set(s, "no answer for %llu s", SILENCE_NS / S_NS);
	s->peer_id = 0;
	s->peer = (struct session_self){0};
	s->peer_lost = 0;
	s->our_port = 0;
	s->status.rtt_ns = 0;
	state_set(s, LINK_DOWN, now_ns);
}

void session_tick(struct session *s, uint64_t now_ns)
{
	uint32_t payload = s->path.payload;

	session_enter(s);
	if (!s->status.since_ns)
		s->status.since_ns = now_ns;
	if (s->waiting_ns && now_ns - s->waiting_ns >= SILENCE_NS) {
		if (s->status.state == LINK_UP)
			peer_lose(s, now_ns);
		else if (!s->status.error[0])
			error_set(s, "no answer yet");
	}
	if (now_ns >= s->hello_ns)
		hello_send(s, now_ns);
	if (s->status.state == LINK_UP)
		probes_send(s, now_ns);
	session_leave(s, payload);
}

uint64_t session_next(const struct session *s)
{
	bool probing = s->status.state == LINK_UP && s->path.next_ns < s->hello_ns;

	return probing ? s->path.next_ns : s->hello_ns;
}

/* A token bucket of one second's answers; @bucket_ns is when it was, or will be, empty. */
static bool bucket_take(uint64_t *bucket_ns, uint32_t per_second, uint64_t now_ns)
{
	if (*bucket_ns + S_NS < now_ns)
		*bucket_ns = now_ns - S_NS;
	if (*bucket_ns + S_NS / per_second > now_ns)
		return false;
	*bucket_ns += S_NS / per_second;
	return true;
}

static void request_answer(struct session *s, const struct session_message *m, size_t len,
			   uint64_t now_ns)
{
	bool known = m->peer == s->id && m->session == s->peer_id;
	struct session_message answer = message_start(s, m->type + 1, now_ns);
	uint8_t message[SESSION_HELLO_SIZE];
	size_t answer_len;

	answer.peer = m->session;
	answer.sequence = m->sequence;
	answer.time = m->time;
	answer_len = session_message_build(message, &answer);
	if (answer_len > len || !(known ? bucket_take(&s->peer_bucket_ns, PEER_ANSWERS, now_ns)
					: bucket_take(&s->other_bucket_ns, OTHER_ANSWERS, now_ns)))
		return;
	(void)s->ops.send(s->context, message, answer_len); /* as if lost on the way */
}

static void rtt_measure(struct session *s, uint64_t rtt_ns)
{
	if (rtt_ns > RTT_MAX_NS)
		return;
	if (!s->status.rtt_ns)
		s->status.rtt_ns = rtt_ns ? rtt_ns : 1;
	else
		s->status.rtt_ns = (s->status.rtt_ns * (RTT_WEIGHT - 1) + rtt_ns) / RTT_WEIGHT;
}

/* What a HELLO or its answer says of the peer. */
static void peer_update(struct session *s, const struct session_message *m)
{
	if (memcmp(&s->peer, &m->self, sizeof(s->peer)) != 0 || s->our_port != m->observed)
		s->changed = true;
	s->peer = m->self;
	s->our_port = m->observed;
	s->peer_lost = m->lost;
}

static void hello_answered(struct session *s, const struct session_message *m, uint64_t now_ns)
{
	if (s->sequence - m->sequence >= SEQUENCES)
		return;
	rtt_measure(s, s->id + now_ns - m->time);
	s->waiting_ns = 0;
	s->hello_ns = now_ns + KEEPALIVE_NS;
}

/* A message whose sender has heard us. */
static void peer_heard(struct session *s, const struct session_message *m, uint64_t now_ns)
{
	bool says = m->type == SESSION_HELLO || m->type == SESSION_HELLO_ANSWER;

	if (says && m->session != s->peer_id)
		peer_adopt(s, m, now_ns);
	if (m->session != s->peer_id)
		return;
	if (says)
		peer_update(s, m);
	if (m->type == SESSION_HELLO_ANSWER)
		hello_answered(s, m, now_ns);
	else if (m->type == SESSION_PROBE_ANSWER)
		path_search_answered(&s->path, m->sequence, now_ns);
}

/* While the peer is up it may be a forgery, or of one that just left: its silence will tell. */
static void version_mismatch(struct session *s, unsigned version, uint64_t now_ns)
{
	error_set(s,
		  "the peer's session version is %u, ours is %u: use the same weft on both sides",
		  version, SESSION_VERSION);
	if (s->status.state != LINK_UP)
		state_set(s, s->plain_ok ? LINK_PLAIN : LINK_DOWN, now_ns);
}

static void message_take(struct session *s, const struct session_message *m, size_t len,
			 uint64_t now_ns)
{
	if (m->version != SESSION_VERSION) {
		version_mismatch(s, m->version, now_ns);
		return;
	}
	if (m->session == s->id) {
		error_set(s, "our own messages come back: is the peer's address our own?");
		return;
	}
	if (m->session == s->peer_former)
		return;
	if (m->peer == s->id)
		peer_heard(s, m, now_ns);
	if (m->type == SESSION_HELLO || m->type == SESSION_PROBE)
		request_answer(s, m, len, now_ns);
}

bool session_message(struct session *s, const void *message, size_t len, uint64_t now_ns)
{
	uint32_t payload = s->path.payload;
	struct session_message m;

	if (!session_message_parse(message, len, &m))
		return false;
	session_enter(s);
	message_take(s, &m, len, now_ns);
	session_leave(s, payload);
	return true;
}

void session_too_big(struct session *s, uint32_t payload_max, uint64_t now_ns)
{
	uint32_t payload = s->path.payload;

	session_enter(s);
	path_search_lower(&s->path, payload_max, now_ns);
	session_leave(s, payload);
}

void session_error(struct session *s, const char *text, uint64_t now_ns)
{
	(void)now_ns;
	error_set(s, "%s", text);
}

void session_lost(struct session *s, uint64_t frames)
{
	s->lost = frames;
}

void session_status(const struct session *s, struct link_status *status)
{
	*status = s->status;
	status->path_mtu = s->path.payload;
}

const struct session_self *session_peer(const struct session *s)
{
	return &s->peer;
}

uint64_t session_peer_lost(const struct session *s)
{
	return s->peer_lost;
}

uint32_t session_payload(const struct session *s)
{
	return s->path.payload;
}

uint16_t session_observed_port(const struct session *s)
{
	return s->our_port;
}

void session_observe(struct session *s, uint16_t port)
{
	s->observed = port;
}
