/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unpacks the compressed kernel inside a bzImage. */
#ifndef WEFT_UNPACK_H
#define WEFT_UNPACK_H

#include <stddef.h>
#include <stdint.h>

/**
 * unpack - decompress a bzImage's payload (gzip, xz, zstd or lz4, told by its magic).
 * @data:  the payload: a compressed stream and, behind it, the size of the result as a 32-bit word (Linux
 *         Documentation/x86/boot.rst, payload_length; in gzip the word is part of the stream)
 * @limit: largest result accepted, bytes: what claims more is refused before anything is unpacked
 * @out:   the result, to be given back by unpack_free()
 *
 * Returns 0, or -errno after a message.
 */
int unpack(const uint8_t *data, size_t size, size_t limit, uint8_t **out, size_t *out_size);
void unpack_free(uint8_t *out, size_t out_size);

#endif
