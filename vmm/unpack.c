/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmm/unpack.h"

#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include "vnet/message.h"

#define XZ_MEMORY_MAX (256u << 20) /* decoder's dictionary, bytes */
#define LZ4_BLOCK     (8u << 20)   /* uncompressed bytes per block of the legacy frame format */

/* Each fills @out completely from @data, or returns false. */
static bool unpack_gzip(const uint8_t *data, size_t size, uint8_t *out, size_t out_size)
{
	z_stream stream = {
		.next_in = (Bytef *)data,
		.avail_in = (uInt)size,
		.next_out = out,
		.avail_out = (uInt)out_size,
	};
	bool ok;

	if (inflateInit2(&stream, 15 + 16) != Z_OK)
		return false;
	ok = inflate(&stream, Z_FINISH) == Z_STREAM_END && !stream.avail_out;
	inflateEnd(&stream);
	return ok;
}

static bool unpack_xz(const uint8_t *data, size_t size, uint8_t *out, size_t out_size)
{
	uint64_t memory = XZ_MEMORY_MAX;
	size_t in = 0, done = 0;

	return lzma_stream_buffer_decode(&memory, 0, NULL, data, &in, size, out, &done, out_size) ==
		       LZMA_OK &&
	       done == out_size;
}

static bool unpack_zstd(const uint8_t *data, size_t size, uint8_t *out, size_t out_size)
{
	size_t frame = ZSTD_findFrameCompressedSize(data, size);

	return !ZSTD_isError(frame) && ZSTD_decompress(out, out_size, data, frame) == out_size;
}

/* The legacy frame format that Linux uses: a magic number, then blocks, each behind its 32-bit size. */
static bool unpack_lz4(const uint8_t *data, size_t size, uint8_t *out, size_t out_size)
{
	size_t in = 4, done = 0;

	while (done < out_size) {
		size_t room = out_size - done < LZ4_BLOCK ? out_size - done : LZ4_BLOCK;
		uint32_t block;
		int n;

		if (size - in < 4)
			return false;
		memcpy(&block, data + in, 4);
		in += 4;
		if (block > size - in || block > LZ4_COMPRESSBOUND(LZ4_BLOCK))
			return false;
		n = LZ4_decompress_safe((const char *)data + in, (char *)out + done, (int)block,
					(int)room);
		if (n <= 0)
			return false;
		in += block;
		done += (size_t)n;
	}
	return true;
}

static const struct format {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_size;
	bool size_behind; /* the 32-bit size word is not part of the stream */
	bool (*unpack)(const uint8_t *data, size_t size, uint8_t *out, size_t out_size);
} formats[] = {
	{"gzip", {0x1f, 0x8b}, 2, false, unpack_gzip},
	{"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, true, unpack_xz},
	{"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, true, unpack_zstd},
	{"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, true, unpack_lz4},
};

static const struct format *format_find(const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (size > formats[i].magic_size + 4u &&
		    !memcmp(data, formats[i].magic, formats[i].magic_size))
			return &formats[i];
	return NULL;
}

int unpack(const uint8_t *data, size_t size, size_t limit, uint8_t **out, size_t *out_size)
{
	const struct format *format = format_find(data, size);
	uint32_t claimed;
	void *p;

	if (!format)
		return fail(-ENOEXEC, "--kernel: bzImage compressed in an unknown way: gzip, xz, zstd and "
				      "lz4 are known");
	memcpy(&claimed, data + size - 4, 4);
	if (!claimed || claimed > limit)
		return fail(-ENOEXEC, "--kernel: bzImage says it unpacks to %u bytes, guest RAM has %zu: "
				      "damaged file, or give more --memory",
			    claimed, limit);
	p = mmap(NULL, claimed, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return fail(-errno, "--kernel: no memory to unpack %u bytes: %s", claimed,
			    strerror(errno));
	if (!format->unpack(data, format->size_behind ? size - 4 : size, p, claimed)) {
		munmap(p, claimed);
		return fail(-ENOEXEC, "--kernel: the %s data in the bzImage is damaged", format->name);
	}
	*out = p;
	*out_size = claimed;
	return 0;
}

void unpack_free(uint8_t *out, size_t out_size)
{
	if (out)
		munmap(out, out_size);
}
