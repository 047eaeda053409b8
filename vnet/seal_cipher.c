/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Authenticated encryption of datagrams by libsodium, and RFC 6479's replay window. */
#include <endian.h>
#include <string.h>

#include "vnet/seal_cipher.h"

#define NONCE_SIZE 12u

bool cipher_has_aes(void)
{
	return crypto_aead_aes256gcm_is_available() == 1;
}

void cipher_set(struct cipher *c, const uint8_t key[CIPHER_KEY_SIZE], bool aes)
{
	c->aes = aes;
	memcpy(c->key, key, sizeof(c->key));
	if (aes)
		crypto_aead_aes256gcm_beforenm(&c->aes_state, key);
}

/* Both ciphers: four zero bytes and the counter (as Noise, 12.3 and 12.4, has it). */
static void nonce_make(const struct cipher *c, uint64_t counter, uint8_t nonce[NONCE_SIZE])
{
	uint64_t wire = c->aes ? htobe64(counter) : htole64(counter);

	memset(nonce, 0, NONCE_SIZE - sizeof(wire));
	memcpy(nonce + NONCE_SIZE - sizeof(wire), &wire, sizeof(wire));
}

void cipher_seal(const struct cipher *c, uint64_t counter, const void *header, size_t header_len,
		 const uint8_t *in, size_t len, uint8_t *out)
{
	uint8_t nonce[NONCE_SIZE];

	nonce_make(c, counter, nonce);
	if (c->aes)
		crypto_aead_aes256gcm_encrypt_afternm(out, NULL, in, len, header, header_len, NULL,
						      nonce, &c->aes_state);
	else
		crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, in, len, header, header_len,
							  NULL, nonce, c->key);
}

bool cipher_open(const struct cipher *c, uint64_t counter, const void *header, size_t header_len,
		 uint8_t *data, size_t len)
{
	uint8_t nonce[NONCE_SIZE];

	nonce_make(c, counter, nonce);
	if (c->aes)
		return crypto_aead_aes256gcm_decrypt_afternm(data, NULL, NULL, data, len, header,
							     header_len, nonce, &c->aes_state) == 0;
	return crypto_aead_chacha20poly1305_ietf_decrypt(data, NULL, NULL, data, len, header,
							 header_len, nonce, c->key) == 0;
}

bool replay_check(const struct replay *r, uint64_t counter)
{
	if (counter >= r->next)
		return true;
	return r->next - counter <= REPLAY_WINDOW &&
	       !(r->seen[counter / 64 % REPLAY_WORDS] & 1ull << counter % 64);
}

void replay_mark(struct replay *r, uint64_t counter)
{
	if (counter >= r->next) {
		/* Words between the old end and the new one are of counters not seen yet. */
		uint64_t from = r->next ? (r->next - 1) / 64 + 1 : 0, to = counter / 64;

		if (to >= from + REPLAY_WORDS)
			from = to - REPLAY_WORDS + 1;
		for (; from <= to; from++)
			r->seen[from % REPLAY_WORDS] = 0;
		r->next = counter + 1;
	}
	r->seen[counter / 64 % REPLAY_WORDS] |= 1ull << counter % 64;
}
