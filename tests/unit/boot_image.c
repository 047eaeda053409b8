/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/boot_image.h"

#include <asm/bootparam.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define SETUP_HEADER 0x1f1
#define SETUP_BYTES  1024 /* boot sector and one sector of setup code */

static void require(bool condition)
{
	if (!condition)
		abort();
}

void elf_begin(struct elf_image *elf, uint64_t entry)
{
	memset(elf, 0, sizeof(*elf));
	memcpy(elf->header.e_ident, ELFMAG, SELFMAG);
	elf->header.e_ident[EI_CLASS] = ELFCLASS64;
	elf->header.e_ident[EI_DATA] = ELFDATA2LSB;
	elf->header.e_ident[EI_VERSION] = EV_CURRENT;
	elf->header.e_type = ET_EXEC;
	elf->header.e_machine = EM_X86_64;
	elf->header.e_version = EV_CURRENT;
	elf->header.e_entry = entry;
	elf->header.e_phoff = offsetof(struct elf_image, segments);
	elf->header.e_ehsize = sizeof(Elf64_Ehdr);
	elf->header.e_phentsize = sizeof(Elf64_Phdr);
}

/* Where the next segment's contents begin. */
static uint64_t contents_end(const struct elf_image *elf)
{
	uint64_t end = offsetof(struct elf_image, data);

	for (unsigned i = 0; i < elf->header.e_phnum; i++)
		if (elf->segments[i].p_offset + elf->segments[i].p_filesz > end)
			end = elf->segments[i].p_offset + elf->segments[i].p_filesz;
	return (end + 7) & ~7ull;
}

Elf64_Phdr *elf_add(struct elf_image *elf, uint64_t address, uint64_t size, uint8_t fill)
{
	uint64_t offset = contents_end(elf);
	Elf64_Phdr *segment = &elf->segments[elf->header.e_phnum++];

	require(elf->header.e_phnum <= IMAGE_SEGMENTS && offset + size <= sizeof(*elf));
	*segment = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W | PF_X,
		.p_offset = offset,
		.p_vaddr = address,
		.p_paddr = address,
		.p_filesz = size,
		.p_memsz = size,
		.p_align = 4096,
	};
	memset((uint8_t *)elf + offset, fill, size);
	return segment;
}

Elf64_Phdr *elf_add_note(struct elf_image *elf, const char *name, uint32_t type, const void *value,
			 uint32_t size)
{
	Elf64_Nhdr note = {.n_namesz = (uint32_t)strlen(name) + 1, .n_descsz = size, .n_type = type};
	uint32_t name_room = (note.n_namesz + 3) & ~3u, value_room = (size + 3) & ~3u;
	Elf64_Phdr *segment = elf_add(elf, 0, sizeof(note) + name_room + value_room, 0);
	uint8_t *to = (uint8_t *)elf + segment->p_offset;

	segment->p_type = PT_NOTE;
	segment->p_align = 4;
	memcpy(to, &note, sizeof(note));
	memcpy(to + sizeof(note), name, note.n_namesz);
	memcpy(to + sizeof(note) + name_room, value, size);
	return segment;
}

struct boot_image elf_file(const struct elf_image *elf)
{
	return (struct boot_image){(const uint8_t *)elf, contents_end(elf)};
}

static size_t pack_gzip(const void *data, size_t size, uint8_t *out, size_t room)
{
	z_stream stream = {.next_in = (Bytef *)data,
			   .avail_in = (uInt)size,
			   .next_out = out,
			   .avail_out = (uInt)room};

	require(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	require(deflate(&stream, Z_FINISH) == Z_STREAM_END);
	deflateEnd(&stream);
	return room - stream.avail_out;
}

/* With the filter for x86 code, as Linux does (scripts/xz_wrap.sh). */
static size_t pack_xz(const void *data, size_t size, uint8_t *out, size_t room)
{
	lzma_options_lzma options;
	lzma_filter filters[] = {{LZMA_FILTER_X86, NULL},
				 {LZMA_FILTER_LZMA2, &options},
				 {LZMA_VLI_UNKNOWN, NULL}};
	size_t done = 0;

	require(!lzma_lzma_preset(&options, 6));
	require(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, data, size, out, &done,
					  room) == LZMA_OK);
	return done;
}

static size_t pack_lz4(const void *data, size_t size, uint8_t *out, size_t room)
{
	static const uint8_t magic[] = {0x02, 0x21, 0x4c, 0x18};
	int n = LZ4_compress_default(data, (char *)out + 8, (int)size, (int)room - 8);
	uint32_t block = (uint32_t)n;

	require(n > 0);
	memcpy(out, magic, sizeof(magic));
	memcpy(out + 4, &block, sizeof(block));
	return (size_t)n + 8;
}

size_t pack(enum packing packing, const void *data, size_t size, uint8_t *out, size_t room)
{
	uint32_t word = (uint32_t)size;
	size_t n;

	switch (packing) {
	case PACK_GZIP: /* ends with the size by itself */
		return pack_gzip(data, size, out, room);
	case PACK_XZ:
		n = pack_xz(data, size, out, room);
		break;
	case PACK_ZSTD:
		n = ZSTD_compress(out, room, data, size, 19);
		require(!ZSTD_isError(n));
		break;
	default:
		n = pack_lz4(data, size, out, room);
		break;
	}
	require(n + sizeof(word) <= room);
	memcpy(out + n, &word, sizeof(word));
	return n + sizeof(word);
}

size_t bzimage_make(const void *payload, size_t size, uint8_t *out, size_t room)
{
	struct setup_header header = {
		.setup_sects = SETUP_BYTES / 512 - 1,
		.boot_flag = 0xaa55,
		.header = 0x53726448,
		.version = 0x020f,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.initrd_addr_max = 0x7fffffff,
		.payload_offset = 64,
		.payload_length = (uint32_t)size,
	};

	require(SETUP_BYTES + 64 + size <= room);
	memset(out, 0, SETUP_BYTES + 64);
	memcpy(out + SETUP_HEADER, &header, sizeof(header));
	memcpy(out + SETUP_BYTES + 64, payload, size);
	return SETUP_BYTES + 64 + size;
}
