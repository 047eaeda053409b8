/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The link key: every datagram to and from a peer authenticated and encrypted, with a replay window
 * and rekeying. Pure: no sockets, no loop; crypto is libsodium's. What goes over the wire stands in
 * seal.c and seal_noise.h.
 */
#ifndef WEFT_SEAL_H
#define WEFT_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/port.h"

#define SEAL_KEY_SIZE 32u
#define SEAL_OVERHEAD 32u /* bytes a sealed data datagram is longer than what it holds */

struct seal_key {
	uint8_t bytes[SEAL_KEY_SIZE];
};

/**
 * seal_key_read - from a file with 64 hexadecimal digits or 44 of base64, white space around them.
 * @error: one line with the remedy, when it fails
 *
 * Returns 0, -EACCES if group or others may do anything with the file, -EINVAL if it holds no key,
 * or what open() says.
 */
int seal_key_read(const char *path, struct seal_key *key, char *error, size_t error_size);

struct seal; /* with one peer */

struct seal_ops {
	/* Send a datagram of the seal's own as it is: a handshake, or empty. 0 or -errno. */
	int (*send)(void *context, const void *datagram, size_t len);
	/* Keys were agreed (again): data may flow. Must not destroy the seal. */
	void (*ready)(void *context);
};

/* seal_create - @key and @ops are copied. Nothing is sent before the first seal_tick(), which is
 * due at once. NULL: no memory, or libsodium does not work. */
struct seal *seal_create(const struct seal_key *key, const struct seal_ops *ops, void *context);
/* seal_destroy - wipes every key. NULL is fine. */
void seal_destroy(struct seal *s);
/* seal_tick - call at seal_next(); does what is due. */
void seal_tick(struct seal *s, uint64_t now_ns);
/* seal_next - when seal_tick() wants to be called next, CLOCK_MONOTONIC ns; 0: at once. May have
 * changed after each other call, but reading it again once a second is enough. */
uint64_t seal_next(const struct seal *s);
/* seal_is_ready - are there keys? Otherwise nothing passes. */
bool seal_is_ready(const struct seal *s);

/**
 * seal_close - seal the pieces of @iov (none is fine) into @out, sum + SEAL_OVERHEAD bytes.
 * A single piece is encrypted from where it lies, several are copied first. @out must not overlap
 * them. Returns the length or -ENOTCONN.
 */
int seal_close(struct seal *s, const struct iovec *iov, unsigned iovcnt, void *out,
	       uint64_t now_ns);

/**
 * seal_open - judge a datagram from the peer's address, in place.
 * Returns the length of the content (then *content points into it), 0 when it is not to be looked
 * at further. Then *reason says why: DROP_KEY (not sealed, or not with our keys), DROP_REPLAY (seen
 * before, or too old), DROP_FORMAT (shorter or longer than it must be), DROP_REASONS (all is well:
 * a handshake, dealt with, or empty).
 */
size_t seal_open(struct seal *s, uint8_t *datagram, size_t len, uint8_t **content, uint64_t now_ns,
		 enum drop_reason *reason);

#endif
