/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Kernels made to measure: ELF files and bzImages in memory. */
#ifndef WEFT_TESTS_BOOT_IMAGE_H
#define WEFT_TESTS_BOOT_IMAGE_H

#include <elf.h>
#include <stdint.h>

#include "vmm/boot.h"

#define IMAGE_MAX      65536u
#define IMAGE_SEGMENTS 70u /* more than the loader takes */

/* An ELF file: header, IMAGE_SEGMENTS program headers, then IMAGE_DATA bytes of contents. */
#define IMAGE_DATA_AT  (sizeof(Elf64_Ehdr) + IMAGE_SEGMENTS * sizeof(Elf64_Phdr))

struct elf_image {
	Elf64_Ehdr header;
	Elf64_Phdr segments[IMAGE_SEGMENTS];
	uint8_t data[IMAGE_MAX];
};

/* elf_begin - an x86-64 executable without segments whose entry is @entry. */
void elf_begin(struct elf_image *elf, uint64_t entry);
/* elf_add - add a loadable segment of @size bytes of the contents, each of them @fill. Returns its header. */
Elf64_Phdr *elf_add(struct elf_image *elf, uint64_t address, uint64_t size, uint8_t fill);
/* elf_add_note - add a segment with one note whose value is @size bytes. */
Elf64_Phdr *elf_add_note(struct elf_image *elf, const char *name, uint32_t type, const void *value,
			 uint32_t size);
/* elf_file - the file's bytes. */
struct boot_image elf_file(const struct elf_image *elf);

enum packing { PACK_GZIP, PACK_XZ, PACK_ZSTD, PACK_LZ4, PACKINGS };

/* pack - compress as Linux's build does, the size word included; returns bytes written to @out. */
size_t pack(enum packing packing, const void *data, size_t size, uint8_t *out, size_t room);
/* bzimage_make - a bzImage (boot protocol 2.15) with this payload; returns its bytes in @out. */
size_t bzimage_make(const void *payload, size_t size, uint8_t *out, size_t room);

#endif
