/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Noise, revision 34, pattern NNpsk0, with the names of its section 5:
 *
 *   -> psk, e       the link key is mixed in first, so that the payload of the first message is
 * already
 *   <- e, ee        authenticated, before any elliptic curve is computed for it
 *
 * In front of Noise stands a MAC of our own (as mac1 of WireGuard): a forged message of any kind
 * costs one hash. The MAC of an answer also covers the initiator's ephemeral key, so that old
 * answers cost no more.
 *
 * Pure functions, on the thread of the link.
 */
#include <sodium.h>
#include <stddef.h>
#include <string.h>

#include "vnet/seal_noise.h"

static_assert(NOISE_SIZE == crypto_scalarmult_BYTES, "X25519");
static_assert(NOISE_SIZE == crypto_hash_sha256_BYTES, "SHA-256");
static_assert(NOISE_SIZE == crypto_aead_chacha20poly1305_ietf_KEYBYTES, "ChaChaPoly");
static_assert(NOISE_SIZE == SEAL_KEY_SIZE, "the shared key");

#define PROLOGUE "weft seal 1"

static void hmac(const uint8_t key[NOISE_SIZE], const void *a, size_t a_len, const void *b,
		 size_t b_len, uint8_t out[NOISE_SIZE])
{
	crypto_auth_hmacsha256_state state;

	crypto_auth_hmacsha256_init(&state, key, NOISE_SIZE);
	crypto_auth_hmacsha256_update(&state, a, a_len);
	crypto_auth_hmacsha256_update(&state, b, b_len);
	crypto_auth_hmacsha256_final(&state, out);
	sodium_memzero(&state, sizeof(state));
}

/* HKDF of section 4.3: @n outputs of NOISE_SIZE, which may be the chain itself. */
static void derive(const uint8_t chain[NOISE_SIZE], const void *input, size_t len,
		   uint8_t *const out[], uint8_t n)
{
	uint8_t secret[NOISE_SIZE], last[NOISE_SIZE];

	hmac(chain, input, len, NULL, 0, secret);
	for (uint8_t i = 1; i <= n; i++) {
		hmac(secret, last, i > 1 ? sizeof(last) : 0, &i, 1, last);
		memcpy(out[i - 1], last, sizeof(last));
	}
	sodium_memzero(secret, sizeof(secret));
	sodium_memzero(last, sizeof(last));
}

static void mix_hash(struct noise *n, const void *data, size_t len)
{
	crypto_hash_sha256_state state;

	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, n->hash, sizeof(n->hash));
	crypto_hash_sha256_update(&state, data, len);
	crypto_hash_sha256_final(&state, n->hash);
}

static void mix_key(struct noise *n, const uint8_t input[NOISE_SIZE])
{
	derive(n->chain, input, NOISE_SIZE, (uint8_t *[]){n->chain, n->key}, 2);
}

/* Token "e" in a pattern with a shared key: 9.2. */
static void mix_ephemeral(struct noise *n, const uint8_t ephemeral[NOISE_SIZE])
{
	mix_hash(n, ephemeral, NOISE_SIZE);
	mix_key(n, ephemeral);
}

/* Initialize(), and token "psk". */
static void begin(struct noise *n, const struct seal_key *key)
{
	static const char name[] = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
	uint8_t middle[NOISE_SIZE];

	crypto_hash_sha256(n->hash, (const uint8_t *)name, sizeof(name) - 1);
	memcpy(n->chain, n->hash, sizeof(n->chain));
	mix_hash(n, PROLOGUE, sizeof(PROLOGUE) - 1);
	derive(n->chain, key->bytes, sizeof(key->bytes), (uint8_t *[]){n->chain, middle, n->key},
	       3);
	mix_hash(n, middle, sizeof(middle));
	sodium_memzero(middle, sizeof(middle));
}

/* EncryptAndHash(). A key encrypts one message only, so the nonce is always 0. */
static void payload_encrypt(struct noise *n, const struct noise_payload *payload,
			    struct noise_message *message)
{
	static const uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES];

	crypto_aead_chacha20poly1305_ietf_encrypt(message->payload, NULL, (const uint8_t *)payload,
						  sizeof(*payload), n->hash, sizeof(n->hash), NULL,
						  nonce, n->key);
	mix_hash(n, message->payload, sizeof(message->payload));
}

static bool payload_decrypt(struct noise *n, const struct noise_message *message,
			    struct noise_payload *payload)
{
	static const uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES];

	if (crypto_aead_chacha20poly1305_ietf_decrypt((uint8_t *)payload, NULL, NULL,
						      message->payload, sizeof(message->payload),
						      n->hash, sizeof(n->hash), nonce, n->key) != 0)
		return false;
	mix_hash(n, message->payload, sizeof(message->payload));
	return true;
}

/* @init: the ephemeral key of the initiator for an answer, NULL for an INIT. */
static void mac_make(const struct seal_key *key, const uint8_t *init,
		     const struct noise_message *message, uint8_t mac[NOISE_MAC_SIZE])
{
	crypto_generichash_state state;

	crypto_generichash_init(&state, key->bytes, sizeof(key->bytes), NOISE_MAC_SIZE);
	if (init)
		crypto_generichash_update(&state, init, NOISE_SIZE);
	crypto_generichash_update(&state, (const uint8_t *)message,
				  offsetof(struct noise_message, mac));
	crypto_generichash_final(&state, mac, NOISE_MAC_SIZE);
	sodium_memzero(&state, sizeof(state));
}

static bool mac_check(const struct seal_key *key, const uint8_t *init,
		      const struct noise_message *message)
{
	uint8_t mac[NOISE_MAC_SIZE];

	mac_make(key, init, message, mac);
	return sodium_memcmp(mac, message->mac, sizeof(mac)) == 0;
}

/* Token "ee". */
static bool mix_shared(struct noise *n, const uint8_t secret[NOISE_SIZE],
		       const uint8_t public[NOISE_SIZE])
{
	uint8_t shared[NOISE_SIZE];
	bool good = crypto_scalarmult(shared, secret, public) == 0;

	if (good)
		mix_key(n, shared);
	sodium_memzero(shared, sizeof(shared));
	return good;
}

static void ephemeral_make(uint8_t secret[NOISE_SIZE], uint8_t public[NOISE_SIZE])
{
	randombytes_buf(secret, NOISE_SIZE);
	crypto_scalarmult_base(public, secret);
}

void noise_init_build(struct noise *n, const struct seal_key *key,
		      const struct noise_payload *payload, struct noise_message *message)
{
	begin(n, key);
	ephemeral_make(n->secret, n->ephemeral);
	memcpy(message->ephemeral, n->ephemeral, NOISE_SIZE);
	mix_ephemeral(n, message->ephemeral);
	payload_encrypt(n, payload, message);
	mac_make(key, NULL, message, message->mac);
}

bool noise_init_read(struct noise *n, const struct seal_key *key,
		     const struct noise_message *message, struct noise_payload *payload)
{
	if (!mac_check(key, NULL, message))
		return false;
	begin(n, key);
	mix_ephemeral(n, message->ephemeral);
	return payload_decrypt(n, message, payload);
}

bool noise_answer_build(struct noise *n, const struct seal_key *key,
			const struct noise_message *init, const struct noise_payload *payload,
			struct noise_message *message)
{
	uint8_t secret[NOISE_SIZE];
	bool good;

	ephemeral_make(secret, message->ephemeral);
	mix_ephemeral(n, message->ephemeral);
	good = mix_shared(n, secret, init->ephemeral);
	sodium_memzero(secret, sizeof(secret));
	if (!good)
		return false;
	payload_encrypt(n, payload, message);
	mac_make(key, init->ephemeral, message, message->mac);
	return true;
}

bool noise_answer_read(struct noise *n, const struct seal_key *key,
		       const struct noise_message *message, struct noise_payload *payload)
{
	struct noise next = *n;
	bool good = false;

	if (mac_check(key, n->ephemeral, message)) {
		mix_ephemeral(&next, message->ephemeral);
		good = mix_shared(&next, next.secret, message->ephemeral) &&
		       payload_decrypt(&next, message, payload);
	}
	if (good)
		*n = next;
	noise_wipe(&next);
	return good;
}

void noise_split(const struct noise *n, uint8_t from_initiator[NOISE_SIZE],
		 uint8_t to_initiator[NOISE_SIZE])
{
	derive(n->chain, NULL, 0, (uint8_t *[]){from_initiator, to_initiator}, 2);
}

void noise_wipe(struct noise *n)
{
	sodium_memzero(n, sizeof(*n));
}
