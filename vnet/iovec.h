/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A position in a list of segments. A guest may cut requests and frames into descriptors at any
 * byte (virtio 1.2, 2.7.4.1), and links cut them again: headers and data are taken from here and
 * never by looking at a segment.
 */
#ifndef WEFT_IOVEC_H
#define WEFT_IOVEC_H

#include <stddef.h>
#include <string.h>
#include <sys/uio.h>

struct iov_cursor {
	const struct iovec *iov; /* the segment we are in; behind the last one at the end */
	unsigned count;		 /* segments left, this one included */
	size_t offset;		 /* bytes of this segment already passed */
};

static inline struct iov_cursor iov_cursor(const struct iovec *iov, unsigned count)
{
	return (struct iov_cursor){.iov = iov, .count = count};
}

/* The bytes at the cursor that lie in one piece; of length 0 at the end. Skips empty segments. */
static inline struct iovec iov_piece(struct iov_cursor *at)
{
	while (at->count && at->offset == at->iov->iov_len) {
		at->iov++;
		at->count--;
		at->offset = 0;
	}
	if (!at->count)
		return (struct iovec){0};
	return (struct iovec){
	    .iov_base = (char *)at->iov->iov_base + at->offset,
	    .iov_len = at->iov->iov_len - at->offset,
	};
}

/* iov_copy - copy up to @len bytes; both cursors move. Returns how many there were room and data
 * for. */
static inline size_t iov_copy(struct iov_cursor *to, struct iov_cursor *from, size_t len)
{
	size_t done = 0;

	while (done < len) {
		struct iovec dst = iov_piece(to), src = iov_piece(from);
		size_t n = dst.iov_len < src.iov_len ? dst.iov_len : src.iov_len;

		if (!n)
			break;
		if (n > len - done)
			n = len - done;
		memcpy(dst.iov_base, src.iov_base, n);
		to->offset += n;
		from->offset += n;
		done += n;
	}
	return done;
}

/* iov_read - copy up to @len bytes out of the segments. Returns how many there were. */
static inline size_t iov_read(struct iov_cursor *from, void *data, size_t len)
{
	const struct iovec one = {.iov_base = data, .iov_len = len};
	struct iov_cursor to = iov_cursor(&one, 1);

	return iov_copy(&to, from, len);
}

/* iov_write - copy up to @len bytes into the segments. Returns how many had room. */
static inline size_t iov_write(struct iov_cursor *to, const void *data, size_t len)
{
	const struct iovec one = {.iov_base = (void *)data, .iov_len = len};
	struct iov_cursor from = iov_cursor(&one, 1);

	return iov_copy(to, &from, len);
}

/* iov_skip - pass over up to @len bytes. Returns how many there were. */
static inline size_t iov_skip(struct iov_cursor *at, size_t len)
{
	size_t done = 0;

	while (done < len) {
		size_t n = iov_piece(at).iov_len;

		if (!n)
			break;
		if (n > len - done)
			n = len - done;
		at->offset += n;
		done += n;
	}
	return done;
}

/*
 * iov_slice - the next @len bytes as pieces, not copied; the cursor moves. Returns how many of
 * @pieces they are, or 0 if they are more than @max or there are fewer bytes than @len.
 */
static inline unsigned iov_slice(struct iov_cursor *from, size_t len, struct iovec *pieces,
				 unsigned max)
{
	unsigned count = 0;

	while (len) {
		struct iovec piece = iov_piece(from);

		if (!piece.iov_len || count == max)
			return 0;
		if (piece.iov_len > len)
			piece.iov_len = len;
		from->offset += piece.iov_len;
		len -= piece.iov_len;
		pieces[count++] = piece;
	}
	return count;
}

#endif
