/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One direction's cipher, and the window that tells replayed counters. Pure. */
#ifndef WEFT_SEAL_CIPHER_H
#define WEFT_SEAL_CIPHER_H

#include <sodium.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CIPHER_KEY_SIZE 32u
#define CIPHER_TAG_SIZE 16u

/* AES-256-GCM with its key schedule, or ChaCha20-Poly1305 (RFC 8439). Must lie at a multiple of 16
 * bytes. */
struct cipher {
	crypto_aead_aes256gcm_state aes_state;
	uint8_t key[CIPHER_KEY_SIZE];
	bool aes;
};

/* cipher_has_aes - does this CPU have what libsodium's AES-256-GCM needs? */
bool cipher_has_aes(void);
void cipher_set(struct cipher *c, const uint8_t key[CIPHER_KEY_SIZE], bool aes);
/* cipher_seal - @len bytes at @in become len + CIPHER_TAG_SIZE at @out, which may be the same
 * place. */
void cipher_seal(const struct cipher *c, uint64_t counter, const void *header, size_t header_len,
		 const uint8_t *in, size_t len, uint8_t *out);
/* cipher_open - the reverse, in place; @len includes the tag. False: not authentic, and the content
 * is gone. */
bool cipher_open(const struct cipher *c, uint64_t counter, const void *header, size_t header_len,
		 uint8_t *data, size_t len);

/*
 * RFC 6479: a ring of words of bits; moving the window only clears words. One word is always partly
 * ahead, so the window is one word shorter than the ring. Many datagrams are in flight at once (a
 * super-frame is 45 of them) over several source ports, hence its size.
 */
#define REPLAY_WORDS  64u
#define REPLAY_WINDOW ((REPLAY_WORDS - 1) * 64u)
struct replay {
	uint64_t next; /* one more than the largest counter seen */
	uint64_t seen[REPLAY_WORDS];
};

/* replay_check - is @counter new, and not too old to tell? */
bool replay_check(const struct replay *r, uint64_t counter);
/* replay_mark - it was authentic. Only after replay_check(); @counter is less than UINT64_MAX. */
void replay_mark(struct replay *r, uint64_t counter);

#endif
