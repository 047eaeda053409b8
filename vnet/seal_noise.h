/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handshake that agrees keys: Noise_NNpsk0_25519_ChaChaPoly_SHA256 (Noise Protocol Framework,
 * revision 34), that is a shared key for authentication and ephemeral X25519 keys for forward
 * secrecy. Pure functions, and nothing of timers or sockets; see seal.c.
 */
#ifndef WEFT_SEAL_NOISE_H
#define WEFT_SEAL_NOISE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "vnet/seal.h"

#define NOISE_SIZE     32u /* of keys, of hashes */
#define NOISE_TAG_SIZE 16u
#define NOISE_MAC_SIZE 16u

/* What the sides tell each other under the handshake's own encryption; big endian. */
struct noise_payload {
	uint8_t time[8];  /* of an INIT: later than all before it. 0 in its answer */
	uint8_t id[8];	  /* of the sender, random */
	uint8_t index[4]; /* by which the sender finds the keys of what it receives */
	uint8_t flags[4]; /* NOISE_AES: may be used (INIT), is used (answer) */
};
static_assert(sizeof(struct noise_payload) == 24, "on the wire");
#define NOISE_AES 1u
/* INIT: the sender cannot take the receiver's: answer, even if both started. */
#define NOISE_ANSWER_ME 2u

/* Both messages look alike, so that an answer is never longer than what it answers. */
struct noise_message {
	uint8_t type; /* enum seal_type */
	uint8_t version;
	uint8_t reserved[2];
	uint8_t ephemeral[NOISE_SIZE];
	uint8_t payload[sizeof(struct noise_payload) + NOISE_TAG_SIZE];
	uint8_t mac[NOISE_MAC_SIZE]; /* BLAKE2b under the link key, see seal_noise.c */
};
static_assert(sizeof(struct noise_message) == 92, "on the wire");

/* A handshake under way, of either side. Hold as shortly as possible, then noise_wipe(). */
struct noise {
	uint8_t chain[NOISE_SIZE];			   /* "ck" */
	uint8_t hash[NOISE_SIZE];			   /* "h" */
	uint8_t key[NOISE_SIZE];			   /* "k" */
	uint8_t secret[NOISE_SIZE], ephemeral[NOISE_SIZE]; /* the initiator's own pair */
};

/* noise_init_build - begin: fills @message but for type and version, which are its caller's and set
 * before. */
void noise_init_build(struct noise *n, const struct seal_key *key,
		      const struct noise_payload *payload, struct noise_message *message);
/* noise_init_read - the other side began; false: it has another key. No elliptic curve is computed
 * so far. */
bool noise_init_read(struct noise *n, const struct seal_key *key,
		     const struct noise_message *message, struct noise_payload *payload);
/* noise_answer_build - goes on after noise_init_read() of @init. False if the other side's
 * ephemeral key is degenerate. */
bool noise_answer_build(struct noise *n, const struct seal_key *key,
			const struct noise_message *init, const struct noise_payload *payload,
			struct noise_message *message);
/* noise_answer_read - goes on after noise_init_build(); @n is unchanged if it returns false. */
bool noise_answer_read(struct noise *n, const struct seal_key *key,
		       const struct noise_message *message, struct noise_payload *payload);
/* noise_split - the keys for data, of the initiator's direction and of the other. */
void noise_split(const struct noise *n, uint8_t from_initiator[NOISE_SIZE],
		 uint8_t to_initiator[NOISE_SIZE]);
void noise_wipe(struct noise *n);

#endif
