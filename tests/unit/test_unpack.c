/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bzImages: every compression, cut short, damaged, and lying about their size. */
#include <criterion/criterion.h>

#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/boot_image.h"
#include "vmm/unpack.h"

#define KERNEL_BYTES 300000u
#define LIMIT        (16u << 20)
#define ROOM         (1u << 20)
#define HEADER(field) (0x1f1 + offsetof(struct setup_header, field))

/* Something that neither compresses to nothing nor not at all. */
static uint8_t *kernel_make(void)
{
	uint8_t *kernel = malloc(KERNEL_BYTES);
	uint32_t state = 1;

	cr_assert_not_null(kernel);
	for (size_t i = 0; i < KERNEL_BYTES; i++) {
		state = state * 1664525u + 1013904223u;
		kernel[i] = i % 16 < 10 ? (uint8_t)(i >> 8) : (uint8_t)(state >> 24);
	}
	return kernel;
}

/* A bzImage on the heap at its exact size, so that a sanitizer sees every byte read behind it. */
static struct boot_image bzimage_pack(enum packing packing)
{
	uint8_t *kernel = kernel_make(), *payload = malloc(ROOM), *file = malloc(ROOM);
	size_t size;

	cr_assert(payload && file);
	size = pack(packing, kernel, KERNEL_BYTES, payload, ROOM - 4096);
	size = bzimage_make(payload, size, file, ROOM);
	free(kernel);
	free(payload);
	return (struct boot_image){realloc(file, size), size};
}

static int bzimage_try(const uint8_t *data, size_t size, size_t limit)
{
	uint8_t *copy = malloc(size ? size : 1), *out = NULL;
	size_t out_size = 0;
	int rc;

	cr_assert_not_null(copy);
	memcpy(copy, data, size);
	rc = bzimage_unpack((struct boot_image){copy, size}, limit, &out, &out_size);
	if (rc)
		cr_assert(rc == -ENOEXEC || rc == -ENOMEM, "%d", rc);
	else
		unpack_free(out, out_size);
	free(copy);
	return rc;
}

Test(unpack, every_compression)
{
	for (enum packing p = 0; p < PACKINGS; p++) {
		struct boot_image file = bzimage_pack(p);
		uint8_t *kernel = kernel_make(), *out = NULL;
		size_t size = 0;

		cr_assert(bzimage_is(file), "%d", (int)p);
		cr_assert_eq(bzimage_unpack(file, LIMIT, &out, &size), 0, "%d", (int)p);
		cr_assert_eq(size, KERNEL_BYTES);
		cr_assert(!memcmp(out, kernel, size), "%d", (int)p);
		unpack_free(out, size);
		free(kernel);
		free((void *)file.data);
	}
}

Test(unpack, cut_short_anywhere)
{
	for (enum packing p = 0; p < PACKINGS; p++) {
		struct boot_image file = bzimage_pack(p);

		for (size_t size = 0x1f1 + sizeof(struct setup_header); size < file.size;
		     size += 1 + file.size / 200)
			cr_assert_neq(bzimage_try(file.data, size, LIMIT), 0, "%d %zu", (int)p, size);
		free((void *)file.data);
	}
}

/* A changed byte may go unnoticed (zstd and lz4 as Linux makes them have no checksum), but nothing else comes of it. */
Test(unpack, damaged_anywhere, .timeout = 300)
{
	for (enum packing p = 0; p < PACKINGS; p++) {
		struct boot_image file = bzimage_pack(p);
		uint8_t *data = (uint8_t *)file.data;

		for (size_t at = 1024 + 64; at < file.size; at += 1 + file.size / 300) {
			data[at] ^= 0xff;
			bzimage_try(data, file.size, LIMIT);
			data[at] ^= 0xff;
		}
		free(data);
	}
}

/* A bomb: the size word says more than guest RAM takes, less than there is, or next to nothing. */
Test(unpack, lying_sizes)
{
	static const uint32_t lies[] = {0, 1, KERNEL_BYTES - 1, KERNEL_BYTES + 1, LIMIT, LIMIT + 1,
					0x7fffffff, 0xffffffff};

	for (enum packing p = 0; p < PACKINGS; p++) {
		struct boot_image file = bzimage_pack(p);

		for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
			memcpy((uint8_t *)file.data + file.size - 4, &lies[i], 4);
			cr_assert_neq(bzimage_try(file.data, file.size, LIMIT), 0, "%d %u", (int)p,
				      lies[i]);
		}
		free((void *)file.data);
	}
}

Test(unpack, larger_than_guest_memory)
{
	struct boot_image file = bzimage_pack(PACK_ZSTD);

	cr_assert_eq(bzimage_try(file.data, file.size, KERNEL_BYTES), 0);
	cr_assert_eq(bzimage_try(file.data, file.size, KERNEL_BYTES - 1), -ENOEXEC);
	free((void *)file.data);
}

static int with_field(size_t at, const void *value, size_t size)
{
	struct boot_image file = bzimage_pack(PACK_GZIP);
	int rc;

	memcpy((uint8_t *)file.data + at, value, size);
	rc = bzimage_try(file.data, file.size, LIMIT);
	free((void *)file.data);
	return rc;
}

Test(unpack, lying_headers)
{
	static const uint32_t lengths[] = {0, 1, 5, 0x7fffffff, 0xffffffff};
	static const uint8_t sectors[] = {0, 2, 64, 255};
	uint16_t old = 0x020b, flags = 0;

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		cr_assert_neq(with_field(HEADER(payload_length), &lengths[i], 4), 0);
		cr_assert_neq(with_field(HEADER(payload_offset), &lengths[i], 4), 0);
	}
	for (size_t i = 0; i < sizeof(sectors); i++)
		cr_assert_neq(with_field(HEADER(setup_sects), &sectors[i], 1), 0);
	cr_assert_eq(with_field(HEADER(version), &old, 2), -ENOEXEC, "too old");
	cr_assert_eq(with_field(HEADER(xloadflags), &flags, 2), -ENOEXEC, "32-bit");
}

Test(unpack, unknown_compression)
{
	static const uint8_t bzip2[] = "BZh9 and so on, and more of it";
	uint8_t file[4096];
	size_t size = bzimage_make(bzip2, sizeof(bzip2), file, sizeof(file));

	cr_assert_eq(bzimage_try(file, size, LIMIT), -ENOEXEC);
}

Test(unpack, not_a_bzimage)
{
	uint8_t file[1024] = {0};

	cr_assert_not(bzimage_is((struct boot_image){file, sizeof(file)}));
	cr_assert_not(bzimage_is((struct boot_image){file, 0}));
}
