/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The link key: every datagram to and from a peer authenticated and encrypted, with a replay window and
 * rekeying. Pure: no sockets, no loop; crypto is libsodium's.
 */
#ifndef WEFT_SEAL_H
#define WEFT_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/port.h"

#define SEAL_KEY_SIZE 32u
#define SEAL_OVERHEAD 32u /* bytes a sealed data datagram is longer than what it holds: header and tag */

struct seal_key { uint8_t bytes[SEAL_KEY_SIZE]; };

/* seal_key_read - from a file with 64 hexadecimal digits or 44 of base64; refuses one that others may read. 0, -errno,
 * with a one-line remedy in @error. */
int seal_key_read(const char *path, struct seal_key *key, char *error, size_t error_size);

struct seal; /* with one peer */

struct seal_ops {
	/* Send a handshake datagram as it is. */
	int (*send)(void *context, const void *datagram, size_t len);
	/* Keys were agreed (again): data may flow. */
	void (*ready)(void *context);
};

struct seal *seal_create(const struct seal_key *key, const struct seal_ops *ops, void *context);
void seal_destroy(struct seal *s); /* wipes */
void seal_tick(struct seal *s, uint64_t now_ns);
uint64_t seal_next(const struct seal *s);
bool seal_is_ready(const struct seal *s);

/* seal_close - seal the pieces of @iov into @out (sum + SEAL_OVERHEAD bytes). Returns the length or -ENOTCONN. */
int seal_close(struct seal *s, const struct iovec *iov, unsigned iovcnt, void *out, uint64_t now_ns);

/**
 * seal_open - judge a datagram from the peer's address, in place.
 * Returns the length of the content (then *content points into it), 0 when it was a handshake message
 * (dealt with) or is to be dropped (*reason: DROP_KEY, DROP_REPLAY, DROP_FORMAT; DROP_REASONS: nothing wrong).
 */
size_t seal_open(struct seal *s, uint8_t *datagram, size_t len, uint8_t **content, uint64_t now_ns,
		 enum drop_reason *reason);

#endif
