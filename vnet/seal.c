/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Everything to and from a peer goes through here: what is not sealed with keys agreed under the
 * link key does not pass, in either direction. All who hold the link key are peers: it says "one of
 * us", not who. On the wire:
 *
 *   INIT, ANSWER  the handshake, struct noise_message
 *   DATA          struct data_header, the content encrypted, a tag of 16 bytes
 *
 * The first byte is never that of Geneve or VXLAN, whose first two bits are 0.
 *
 * Handshake: one side sends INIT, the other ANSWERs, both have new keys. Only the initiator knows
 * so far that the other has them too; it uses them at once and sends an empty DATA. With the first
 * DATA under them the other side uses them as well. Keys thus are in one of three places: "next"
 * (agreed, not confirmed: accepted, not used), "current" (used), "previous" (accepted for
 * OVERLAP_NS, for what was on the way), and no datagram is lost when they change.
 *
 * If both start at the same time the one with the greater id goes on: it does not answer (but
 * repeats an INIT that the peer may have been too late for), and the other one drops its own
 * attempt and answers. Who answers has no INIT pending, so both end with the same keys.
 *
 * Timers:
 *
 * - no answer to an INIT: again after RETRY_MIN_NS, doubled up to RETRY_MAX_NS; after RETRY_MANY
 *   attempts each RETRY_RARE_NS
 * - REKEY_NS after keys were agreed their initiator starts a handshake, REKEY_BACKUP_NS after the
 *   other one
 * - REJECT_NS after keys were agreed they are wiped; without others nothing passes: -ENOTCONN
 * - SILENCE_NS after something was sent and nothing came back: a handshake, as the peer may have
 *   lost its keys
 *
 * Replays: an INIT carries the time and is taken only if it is later than the last one; an ANSWER
 * fits one INIT only; DATA has a counter and a window. If the INIT is authentic but old, the peer's
 * clock may have been set back: it is not believed, but we start a handshake ourselves, which
 * depends on our clock only, and the peer has to answer it whatever the ids.
 *
 * Costs of a forgery: of DATA one check of a tag if it has the right index, of a handshake one
 * hash. Nothing is kept of either. Elliptic curves are computed for holders of the link key only,
 * no oftener than they ask.
 *
 * Everything runs on the thread that owns the link. Nothing is allocated after seal_create().
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vnet/seal_cipher.h"
#include "vnet/seal_noise.h"

#define MS_NS		1000000ull
#define S_NS		1000000000ull
#define RETRY_MIN_NS	(250 * MS_NS)
#define RETRY_MAX_NS	(1 * S_NS)
#define RETRY_RARE_NS	(5 * S_NS)
#define RETRY_MANY	60u
#define REKEY_NS	(120 * S_NS)
#define REKEY_BACKUP_NS (150 * S_NS)
#define REJECT_NS	(180 * S_NS)
#define OVERLAP_NS	(10 * S_NS)
#define SILENCE_NS	(5 * S_NS)
#define REKEY_COUNT	(1ull << 40) /* datagrams under one key; AES-GCM's bound is far away */
#define REJECT_COUNT	(1ull << 41)

#define SEAL_VERSION 1u

enum seal_type { SEAL_INIT = 0xc1, SEAL_ANSWER = 0xc2, SEAL_DATA = 0xc3 };

/* In front of sealed content, and authenticated with it; big endian. */
struct data_header {
	uint8_t type;
	uint8_t version;
	uint8_t reserved[2];
	uint8_t index[4]; /* the receiver's name for the keys */
	uint8_t counter[8];
};
static_assert(sizeof(struct data_header) + CIPHER_TAG_SIZE == SEAL_OVERHEAD, "on the wire");

/* Agreed by one handshake. */
struct keys {
	struct cipher send, receive;
	struct replay replay;
	uint64_t counter; /* of the next datagram sent */
	uint64_t born_ns;
	uint32_t ours, theirs; /* indexes; ours is 0 while there are no keys here */
	bool initiator;
};

enum keys_place { CURRENT, NEXT, PREVIOUS, PLACES };

struct seal {
	struct keys keys[PLACES];
	struct seal_key key;
	struct seal_ops ops;
	void *context;
	uint64_t id;	      /* random; the greater goes on when both start */
	uint64_t init_time;   /* of our last INIT, CLOCK_REALTIME or one more than the one before */
	uint64_t peer_time;   /* of the last INIT taken from the peer */
	struct noise pending; /* our INIT that waits for its answer */
	uint32_t pending_index; /* our name for its keys; 0: none is waiting */
	uint64_t pending_ns;	/* when it was sent */
	unsigned attempts;	/* INITs since keys were agreed */
	uint64_t attempt_ns;	/* no INIT before this */
	uint64_t overlap_ns;	/* when the previous keys end */
	uint64_t waiting_ns;	/* the first DATA sent since one came; 0: none */
};

static uint64_t get64(const uint8_t bytes[8])
{
	uint64_t big;

	memcpy(&big, bytes, sizeof(big));
	return be64toh(big);
}

static void put64(uint8_t bytes[8], uint64_t value)
{
	uint64_t big = htobe64(value);

	memcpy(bytes, &big, sizeof(big));
}

static uint32_t get32(const uint8_t bytes[4])
{
	uint32_t big;

	memcpy(&big, bytes, sizeof(big));
	return be32toh(big);
}

static void put32(uint8_t bytes[4], uint32_t value)
{
	uint32_t big = htobe32(value);

	memcpy(bytes, &big, sizeof(big));
}

static bool keys_live(const struct keys *k)
{
	return k->ours != 0;
}

static void keys_wipe(struct keys *k)
{
	if (keys_live(k))
		sodium_memzero(k, sizeof(*k));
}

static void keys_move(struct seal *s, enum keys_place from, enum keys_place to)
{
	s->keys[to] = s->keys[from];
	sodium_memzero(&s->keys[from], sizeof(s->keys[from]));
}

/* A name for new keys that none of the others has. */
static uint32_t index_choose(const struct seal *s)
{
	uint32_t index;
	bool taken;

	do {
		index = randombytes_random();
		taken = index == 0 || index == s->pending_index;
		for (unsigned i = 0; i < PLACES; i++)
			taken = taken || index == s->keys[i].ours;
	} while (taken);
	return index;
}

struct seal *seal_create(const struct seal_key *key, const struct seal_ops *ops, void *context)
{
	struct seal *s;

	if (sodium_init() < 0)
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->key = *key;
	s->ops = *ops;
	s->context = context;
	randombytes_buf(&s->id, sizeof(s->id));
	return s;
}

void seal_destroy(struct seal *s)
{
	if (!s)
		return;
	sodium_memzero(s, sizeof(*s));
	free(s);
}

bool seal_is_ready(const struct seal *s)
{
	return keys_live(&s->keys[CURRENT]);
}

static void pending_drop(struct seal *s)
{
	noise_wipe(&s->pending);
	s->pending_index = 0;
}

/* --- handshake ------------------------------------------------------------------------------ */

static struct noise_payload payload_make(const struct seal *s, uint64_t time, uint32_t index,
					 uint32_t flags)
{
	struct noise_payload payload = {0};

	put64(payload.time, time);
	put64(payload.id, s->id);
	put32(payload.index, index);
	put32(payload.flags, flags);
	return payload;
}

static uint64_t init_time_next(const struct seal *s)
{
	struct timespec now;
	uint64_t ns;

	clock_gettime(CLOCK_REALTIME, &now);
	ns = (uint64_t)now.tv_sec * S_NS + (uint64_t)now.tv_nsec;
	return ns > s->init_time ? ns : s->init_time + 1;
}

static uint64_t retry_interval(unsigned attempts)
{
	if (attempts > RETRY_MANY)
		return RETRY_RARE_NS;
	return attempts < 3 ? RETRY_MIN_NS << (attempts - 1) : RETRY_MAX_NS;
}

/* @flags: NOISE_ANSWER_ME or 0. */
static void init_send(struct seal *s, uint32_t flags, uint64_t now_ns)
{
	struct noise_message message = {.type = SEAL_INIT, .version = SEAL_VERSION};
	struct noise_payload payload;

	pending_drop(s);
	s->pending_index = index_choose(s);
	s->pending_ns = now_ns;
	s->init_time = init_time_next(s);
	s->attempts++;
	s->attempt_ns = now_ns + retry_interval(s->attempts);
	if (cipher_has_aes())
		flags |= NOISE_AES;
	payload = payload_make(s, s->init_time, s->pending_index, flags);
	noise_init_build(&s->pending, &s->key, &payload, &message);
	(void)s->ops.send(s->context, &message,
			  sizeof(message)); /* as if lost: it is tried again */
}

/* What a finished handshake agreed, in @place. */
static void keys_make(struct seal *s, enum keys_place place, const struct noise *noise,
		      bool initiator, uint32_t ours, uint32_t theirs, bool aes, uint64_t now_ns)
{
	uint8_t from_initiator[NOISE_SIZE], to_initiator[NOISE_SIZE];
	struct keys *k = &s->keys[place];

	noise_split(noise, from_initiator, to_initiator);
	sodium_memzero(k, sizeof(*k));
	cipher_set(&k->send, initiator ? from_initiator : to_initiator, aes);
	cipher_set(&k->receive, initiator ? to_initiator : from_initiator, aes);
	k->born_ns = now_ns;
	k->ours = ours;
	k->theirs = theirs;
	k->initiator = initiator;
	sodium_memzero(from_initiator, sizeof(from_initiator));
	sodium_memzero(to_initiator, sizeof(to_initiator));
}

static void init_answer(struct seal *s, struct noise *noise, const struct noise_message *init,
			const struct noise_payload *theirs, uint64_t now_ns)
{
	struct noise_message message = {.type = SEAL_ANSWER, .version = SEAL_VERSION};
	bool aes = cipher_has_aes() && get32(theirs->flags) & NOISE_AES;
	struct noise_payload ours = payload_make(s, 0, index_choose(s), aes ? NOISE_AES : 0);

	if (!noise_answer_build(noise, &s->key, init, &ours, &message))
		return;
	pending_drop(s);
	keys_make(s, NEXT, noise, false, get32(ours.index), get32(theirs->index), aes, now_ns);
	s->attempt_ns = now_ns + RETRY_MAX_NS; /* for the peer to confirm */
	(void)s->ops.send(s->context, &message, sizeof(message));
}

/* The peer's INIT is authentic and new. */
static void init_judge(struct seal *s, struct noise *noise, const struct noise_message *init,
		       const struct noise_payload *theirs, uint64_t now_ns)
{
	bool ours_first = s->pending_index && s->id > get64(theirs->id) &&
			  !(get32(theirs->flags) & NOISE_ANSWER_ME);

	if (!ours_first)
		init_answer(s, noise, init, theirs, now_ns);
	else if (now_ns - s->pending_ns >= RETRY_MIN_NS) /* the peer was not there to hear it */
		init_send(s, 0, now_ns);
}

static enum drop_reason init_take(struct seal *s, const struct noise_message *init, uint64_t now_ns)
{
	enum drop_reason reason = DROP_REASONS;
	struct noise_payload payload;
	struct noise noise = {0};

	if (!noise_init_read(&noise, &s->key, init, &payload) || get64(payload.id) == s->id) {
		reason = DROP_KEY; /* or our own, come back */
	} else if (get64(payload.time) <= s->peer_time) {
		reason = DROP_REPLAY;
		if (now_ns >= s->attempt_ns)
			init_send(s, NOISE_ANSWER_ME, now_ns);
	} else {
		s->peer_time = get64(payload.time);
		init_judge(s, &noise, init, &payload, now_ns);
	}
	noise_wipe(&noise);
	return reason;
}

/* Keys are to be used from now on: those in NEXT, or new ones made afterwards. */
static void current_retire(struct seal *s, uint64_t now_ns)
{
	if (keys_live(&s->keys[CURRENT])) {
		keys_move(s, CURRENT, PREVIOUS);
		s->overlap_ns = now_ns + OVERLAP_NS;
	}
	s->attempts = 0;
	s->attempt_ns = now_ns;
	s->waiting_ns = 0;
}

static void confirm_send(struct seal *s, uint64_t now_ns)
{
	uint8_t datagram[SEAL_OVERHEAD];
	int len = seal_close(s, NULL, 0, datagram, now_ns);

	if (len > 0)
		(void)s->ops.send(s->context, datagram, (size_t)len);
}

static enum drop_reason answer_take(struct seal *s, const struct noise_message *answer,
				    uint64_t now_ns)
{
	struct noise_payload payload;
	uint32_t ours = s->pending_index;
	bool aes;

	if (!ours || !noise_answer_read(&s->pending, &s->key, answer, &payload))
		return DROP_KEY;
	aes = get32(payload.flags) & NOISE_AES;
	if (aes && !cipher_has_aes())
		return DROP_KEY;
	current_retire(s, now_ns);
	keys_wipe(&s->keys[NEXT]);
	keys_make(s, CURRENT, &s->pending, true, ours, get32(payload.index), aes, now_ns);
	pending_drop(s);
	confirm_send(s, now_ns);
	s->ops.ready(s->context);
	return DROP_REASONS;
}

static enum drop_reason handshake_take(struct seal *s, const uint8_t *datagram, size_t len,
				       uint64_t now_ns)
{
	struct noise_message message;

	if (len != sizeof(message))
		return DROP_FORMAT;
	memcpy(&message, datagram, sizeof(message));
	return message.type == SEAL_INIT ? init_take(s, &message, now_ns)
					 : answer_take(s, &message, now_ns);
}

/* --- timers --------------------------------------------------------------------------------- */

/* When a handshake is wanted, but for the pause between attempts. */
static uint64_t handshake_due(const struct seal *s)
{
	const struct keys *k = &s->keys[CURRENT];
	uint64_t due;

	if (!keys_live(k) || k->counter >= REKEY_COUNT)
		return 0;
	due = k->born_ns + (k->initiator ? REKEY_NS : REKEY_BACKUP_NS);
	return s->waiting_ns && s->waiting_ns + SILENCE_NS < due ? s->waiting_ns + SILENCE_NS : due;
}

static uint64_t keys_end(const struct seal *s, enum keys_place place)
{
	uint64_t end = s->keys[place].born_ns + REJECT_NS;

	if (!keys_live(&s->keys[place]))
		return UINT64_MAX;
	return place == PREVIOUS && s->overlap_ns < end ? s->overlap_ns : end;
}

uint64_t seal_next(const struct seal *s)
{
	uint64_t due = handshake_due(s), next = due > s->attempt_ns ? due : s->attempt_ns;

	for (unsigned i = 0; i < PLACES; i++)
		if (keys_end(s, i) < next)
			next = keys_end(s, i);
	return next;
}

void seal_tick(struct seal *s, uint64_t now_ns)
{
	for (unsigned i = 0; i < PLACES; i++)
		if (now_ns >= keys_end(s, i))
			keys_wipe(&s->keys[i]);
	if (now_ns >= s->attempt_ns && now_ns >= handshake_due(s))
		init_send(s, 0, now_ns);
}

/* --- data ----------------------------------------------------------------------------------- */

int seal_close(struct seal *s, const struct iovec *iov, unsigned iovcnt, void *out, uint64_t now_ns)
{
	struct data_header header = {.type = SEAL_DATA, .version = SEAL_VERSION};
	struct keys *k = &s->keys[CURRENT];
	uint8_t *content = (uint8_t *)out + sizeof(header);
	const uint8_t *in = content;
	size_t len = 0;

	if (!keys_live(k) || k->counter >= REJECT_COUNT || now_ns >= k->born_ns + REJECT_NS)
		return -ENOTCONN;
	if (iovcnt == 1) { /* encrypting copies it */
		in = iov->iov_base;
		len = iov->iov_len;
	}
	for (unsigned i = 0; iovcnt > 1 && i < iovcnt; i++) {
		memcpy(content + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	put32(header.index, k->theirs);
	put64(header.counter, k->counter);
	memcpy(out, &header, sizeof(header));
	cipher_seal(&k->send, k->counter, &header, sizeof(header), in, len, content);
	k->counter++;
	if (!s->waiting_ns)
		s->waiting_ns = now_ns;
	return (int)(len + SEAL_OVERHEAD);
}

/* Something authentic came: the keys work. */
static void keys_proven(struct seal *s, enum keys_place place, uint64_t now_ns)
{
	s->waiting_ns = 0;
	if (place != NEXT)
		return;
	current_retire(s, now_ns);
	keys_move(s, NEXT, CURRENT);
	s->ops.ready(s->context);
}

static bool place_find(const struct seal *s, uint32_t index, enum keys_place *place)
{
	for (unsigned i = 0; i < PLACES; i++) {
		if (index && s->keys[i].ours == index) {
			*place = i;
			return true;
		}
	}
	return false;
}

static enum drop_reason data_open(struct seal *s, uint8_t *datagram, size_t len, uint64_t now_ns)
{
	struct data_header header;
	enum keys_place place;
	struct keys *k;
	uint64_t counter;

	if (len < SEAL_OVERHEAD)
		return DROP_FORMAT;
	memcpy(&header, datagram, sizeof(header));
	counter = get64(header.counter);
	if (!place_find(s, get32(header.index), &place) || now_ns >= keys_end(s, place) ||
	    counter >= REJECT_COUNT)
		return DROP_KEY;
	k = &s->keys[place];
	if (!replay_check(&k->replay, counter))
		return DROP_REPLAY;
	if (!cipher_open(&k->receive, counter, &header, sizeof(header), datagram + sizeof(header),
			 len - sizeof(header)))
		return DROP_KEY;
	replay_mark(&k->replay, counter);
	keys_proven(s, place, now_ns);
	return DROP_REASONS;
}

size_t seal_open(struct seal *s, uint8_t *datagram, size_t len, uint8_t **content, uint64_t now_ns,
		 enum drop_reason *reason)
{
	uint8_t type = len > 1 ? datagram[0] : 0;

	if ((type != SEAL_INIT && type != SEAL_ANSWER && type != SEAL_DATA) ||
	    datagram[1] != SEAL_VERSION) {
		*reason = DROP_KEY; /* not sealed at all */
		return 0;
	}
	if (type != SEAL_DATA) {
		*reason = handshake_take(s, datagram, len, now_ns);
		return 0;
	}
	*reason = data_open(s, datagram, len, now_ns);
	*content = datagram + sizeof(struct data_header);
	return *reason == DROP_REASONS ? len - SEAL_OVERHEAD : 0;
}
