/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any messages for a session, any datagrams for a seal, in any order and at any time.
 *
 * The input is a list of records: what to do (1 byte), milliseconds that passed (1 byte), length (2
 * bytes, big endian) and as many bytes. Random ids and ephemeral keys cannot stand in a file, so a
 * record may also ask to have the session's id put in, or to change a datagram that the other seal
 * sent.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/seal.h"
#include "vnet/session_message.h"

#define PAYLOAD_MIN 300u
#define PAYLOAD_MAX 1500u
#define OVERHEAD    40u
#define MS	    1000000ull
#define RECORD	    4u

enum act { ACT_MESSAGE, ACT_OUR_PEER, ACT_DATAGRAM, ACT_CHANGE, ACT_FRAME, ACT_LOWER, ACTS };

struct side {
	struct seal *seal;
	uint8_t last[PAYLOAD_MAX]; /* what it sent */
	size_t last_len;
};

struct world {
	struct session *session;
	struct side sides[2];
	uint64_t now;
	uint64_t session_id;
};

static int message_sent(void *context, const void *message, size_t len)
{
	struct world *w = context;
	struct session_message m;

	if (len > PAYLOAD_MAX - OVERHEAD || !session_message_parse(message, len, &m))
		abort();
	w->session_id = m.session;
	return len % 7 ? 0 : -EMSGSIZE;
}

static void nothing(void *context)
{
	(void)context;
}

static int datagram_sent(void *context, const void *datagram, size_t len)
{
	struct side *side = context;

	if (len > sizeof(side->last))
		abort();
	memcpy(side->last, datagram, len);
	side->last_len = len;
	return 0;
}

static void message_give(struct world *w, const uint8_t *bytes, size_t len, int our_peer)
{
	uint8_t *copy =
	    malloc(len ? len : 1); /* exactly as long, so that a sanitizer sees its end */
	uint64_t id = __builtin_bswap64(w->session_id);

	memcpy(copy, bytes, len);
	if (our_peer && len >= 24)
		memcpy(copy + 16, &id, sizeof(id));
	session_message(w->session, copy, len, w->now);
	free(copy);
}

static void datagram_give(struct world *w, unsigned to, const uint8_t *bytes, size_t len)
{
	enum drop_reason reason = DROP_REASONS;
	uint8_t *copy = malloc(len ? len : 1), *content;
	size_t got;

	memcpy(copy, bytes, len);
	got = seal_open(w->sides[to].seal, copy, len, &content, w->now, &reason);
	if (reason > DROP_REASONS ||
	    (got && (reason != DROP_REASONS || got + SEAL_OVERHEAD != len)))
		abort();
	if (got)
		session_message(w->session, content, got, w->now);
	free(copy);
}

/* What the other side sent last, with @bytes laid over it by exclusive or. */
static void datagram_change(struct world *w, unsigned to, const uint8_t *bytes, size_t len)
{
	struct side *from = &w->sides[!to];
	uint8_t changed[PAYLOAD_MAX];

	memcpy(changed, from->last, from->last_len);
	for (size_t i = 0; i < len && i < from->last_len; i++)
		changed[i] ^= bytes[i];
	datagram_give(w, to, changed, from->last_len);
}

static void frame_seal(struct world *w, unsigned from, const uint8_t *bytes, size_t len)
{
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
	struct side *side = &w->sides[from];
	int sealed;

	if (len + SEAL_OVERHEAD > sizeof(side->last))
		return;
	sealed = seal_close(side->seal, &iov, 1, side->last, w->now);
	if (sealed >= 0)
		side->last_len = (size_t)sealed;
}

static void act(struct world *w, unsigned what, const uint8_t *bytes, size_t len)
{
	unsigned side = what >> 7;

	switch (what % 128 % ACTS) {
	case ACT_MESSAGE:
	case ACT_OUR_PEER:
		message_give(w, bytes, len, what % 128 % ACTS == ACT_OUR_PEER);
		break;
	case ACT_DATAGRAM:
		datagram_give(w, side, bytes, len);
		break;
	case ACT_CHANGE:
		datagram_change(w, side, bytes, len);
		break;
	case ACT_FRAME:
		frame_seal(w, side, bytes, len);
		break;
	case ACT_LOWER:
		session_too_big(w->session, (uint32_t)len, w->now);
		break;
	}
}

static void tick(struct world *w)
{
	struct link_status status;

	if (w->now >= session_next(w->session)) {
		session_tick(w->session, w->now);
		if (session_next(w->session) <= w->now)
			abort();
	}
	for (unsigned i = 0; i < 2; i++)
		if (w->now >= seal_next(w->sides[i].seal))
			seal_tick(w->sides[i].seal, w->now);
	session_status(w->session, &status);
	if (status.path_mtu < PAYLOAD_MIN || status.path_mtu > PAYLOAD_MAX ||
	    !memchr(status.error, 0, sizeof(status.error)))
		abort();
}

static void world_run(struct world *w, const uint8_t *data, size_t size)
{
	while (size >= RECORD) {
		size_t len = (size_t)data[2] << 8 | data[3];
		const uint8_t *bytes = data + RECORD;

		if (len > size - RECORD)
			len = size - RECORD;
		w->now += (uint64_t)data[1] * data[1] * MS;
		tick(w);
		act(w, data[0], bytes, len);
		data = bytes + len;
		size -= RECORD + len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct session_self self = {.offloads = PORT_OFFLOADS, .frame_max = 9000};
	static const struct session_ops session_ops = {message_sent, nothing};
	static const struct seal_ops seal_ops = {datagram_sent, nothing};
	static const struct seal_key key = {{1}};
	struct world w = {.now = 1000 * MS};

	w.session =
	    session_create(&self, &session_ops, &w, PAYLOAD_MIN, PAYLOAD_MAX, OVERHEAD, true);
	for (unsigned i = 0; i < 2; i++)
		w.sides[i].seal = seal_create(&key, &seal_ops, &w.sides[i]);
	world_run(&w, data, size);
	session_destroy(w.session);
	seal_destroy(w.sides[0].seal);
	seal_destroy(w.sides[1].seal);
	return 0;
}
