/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Kernel images: what is loaded where, how it is entered, and images that lie (hostile inputs A24). */
#include <criterion/criterion.h>

#include <asm/bootparam.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest-images/unikernel/weft_boot.h"
#include "tests/unit/boot_image.h"
#include "vmm/platform.h"

#define MIB       (1ull << 20)
#define RAM       (32 * MIB)
#define CODE      0x100000ull
#define PVH_NOTE  18
#define NO_INITRD (-1)

static struct guest_memory mem;
static struct elf_image elf;

static void begin(void)
{
	cr_assert_eq(memory_create(&mem, RAM, false), 0);
	elf_begin(&elf, CODE);
}

static void end(void)
{
	memory_destroy(&mem);
}

static int file_of(const void *data, size_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, data, size), (ssize_t)size);
	return fd;
}

/* Load an image with an initrd of so many bytes (NO_INITRD: none). */
static int load(struct boot_image image, long initrd_size, const char *cmdline,
		struct boot_state *state)
{
	struct boot_request request = {.initrd_fd = -1, .cmdline = cmdline, .cpus = 2, .tsc_khz = 1};
	int rc;

	request.kernel_fd = file_of(image.data, image.size);
	if (initrd_size != NO_INITRD) {
		request.initrd_fd = file_of("initrd", 6);
		cr_assert_eq(ftruncate(request.initrd_fd, initrd_size), 0);
	}
	rc = boot_load(&mem, &request, state);
	close(request.kernel_fd);
	if (request.initrd_fd >= 0)
		close(request.initrd_fd);
	return rc;
}

static int load_elf(void)
{
	struct elf_loaded loaded;

	return elf_load(&mem, elf_file(&elf), &loaded);
}

Test(boot, segments_are_loaded_and_the_rest_is_zero, .init = begin, .fini = end)
{
	struct elf_loaded loaded;

	elf_add(&elf, CODE, 5000, 0xaa)->p_memsz = 9000;
	elf_add(&elf, 2 * MIB, 100, 0xbb);
	cr_assert_eq(elf_load(&mem, elf_file(&elf), &loaded), 0);
	cr_assert_eq(loaded.entry, CODE);
	cr_assert_eq(loaded.end, 2 * MIB + 100);
	cr_assert_eq(mem.base[CODE + 4999], 0xaa);
	cr_assert_eq(mem.base[CODE + 5000], 0);
	cr_assert_eq(mem.base[2 * MIB + 99], 0xbb);
}

Test(boot, entries, .init = begin, .fini = end)
{
	uint32_t pvh = CODE + 16, flags = WEFT_NOTE_SMP;
	struct boot_state state;

	elf_add(&elf, CODE, 4096, 0xf4);
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), 0);
	cr_assert_eq(state.entry, BOOT_LINUX64);
	cr_assert_eq(state.ip, CODE);
	elf_add_note(&elf, "Xen", PVH_NOTE, &pvh, 4);
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), 0);
	cr_assert_eq(state.entry, BOOT_PVH);
	cr_assert_eq(state.ip, pvh);
	elf_add_note(&elf, WEFT_NOTE_NAME, WEFT_NOTE_RING3, &flags, 4);
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), 0);
	cr_assert_eq(state.entry, BOOT_RING3);
	cr_assert(state.all_cpus);
}

Test(boot, bzimage_of_every_compression_is_entered_at_64_bits, .init = begin, .fini = end)
{
	uint8_t *payload = malloc(IMAGE_MAX), *file = malloc(2 * IMAGE_MAX);

	elf_add(&elf, CODE, 4096, 0xf4);
	for (enum packing p = 0; p < PACKINGS; p++) {
		struct boot_image kernel = elf_file(&elf);
		size_t size = pack(p, kernel.data, kernel.size, payload, IMAGE_MAX);
		struct boot_params *params = guest_range(&mem, ZERO_PAGE, sizeof(*params));
		struct boot_state state;

		size = bzimage_make(payload, size, file, 2 * IMAGE_MAX);
		cr_assert_eq(load((struct boot_image){file, size}, 5000, "root=x", &state), 0);
		cr_assert_eq(state.entry, BOOT_LINUX64);
		cr_assert_eq(state.argument, ZERO_PAGE);
		cr_assert_eq(params->hdr.version, 0x020f, "the image's own header");
		cr_assert_eq(params->hdr.ramdisk_size, 5000);
		cr_assert(!memcmp(mem.base + params->hdr.ramdisk_image, "initrd", 6));
		cr_assert_str_eq((char *)mem.base + params->hdr.cmd_line_ptr, "root=x");
	}
	free(payload);
	free(file);
}

Test(boot, memory_map_leaves_out_what_is_not_ram, .init = begin, .fini = end)
{
	const struct boot_params *params = guest_range(&mem, ZERO_PAGE, sizeof(*params));
	struct boot_state state;

	elf_add(&elf, CODE, 4096, 0xf4);
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), 0);
	cr_assert_geq(params->e820_entries, 3);
	for (unsigned i = 0; i < params->e820_entries; i++)
		if (params->e820_table[i].type == 1) /* RAM */
			cr_assert_not_null(guest_range(&mem, params->e820_table[i].addr,
						       params->e820_table[i].size));
}

Test(boot, registers, .init = begin, .fini = end)
{
	struct boot_state state;
	struct kvm_sregs sregs = {0};
	struct kvm_regs regs;
	uint32_t pvh = CODE;

	elf_add(&elf, CODE, 4096, 0xf4);
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), 0);
	boot_registers(&state, 0, &regs, &sregs);
	cr_assert_eq(regs.rip, CODE);
	cr_assert_eq(regs.rsi, ZERO_PAGE);
	cr_assert_eq(sregs.cs.l, 1);
	elf_add_note(&elf, "Xen", PVH_NOTE, &pvh, 4);
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), 0);
	memset(&sregs, 0, sizeof(sregs));
	boot_registers(&state, 0, &regs, &sregs);
	cr_assert_eq(regs.rbx, ZERO_PAGE);
	cr_assert_eq(sregs.cs.l, 0);
	cr_assert_eq(sregs.cr0 & 0x80000001, 1, "protected mode without paging");
}

/* --- images that lie ------------------------------------------------------------------------ */

Test(boot, header_cut_anywhere, .init = begin, .fini = end)
{
	elf_add(&elf, CODE, 64, 1);
	for (size_t size = 0; size < IMAGE_DATA_AT + 64; size++) {
		uint8_t *copy = malloc(size + !size);
		struct elf_loaded loaded;

		memcpy(copy, &elf, size);
		cr_assert_eq(elf_load(&mem, (struct boot_image){copy, size}, &loaded), -ENOEXEC, "%zu", size);
		free(copy);
	}
}

Test(boot, segments_outside_of_the_file, .init = begin, .fini = end)
{
	static const uint64_t lies[] = {IMAGE_MAX * 2, 1ull << 32, 1ull << 63, ~0ull, ~0ull - 63};

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		elf_begin(&elf, CODE);
		elf_add(&elf, CODE, 64, 1)->p_offset = lies[i];
		cr_assert_eq(elf_load(&mem, (struct boot_image){(uint8_t *)&elf, sizeof(elf)},
				      &(struct elf_loaded){0}), -ENOEXEC);
		elf_begin(&elf, CODE);
		elf_add(&elf, CODE, 64, 1)->p_filesz = lies[i];
		cr_assert_eq(elf_load(&mem, (struct boot_image){(uint8_t *)&elf, sizeof(elf)},
				      &(struct elf_loaded){0}), -ENOEXEC);
	}
}

Test(boot, segments_outside_of_memory, .init = begin, .fini = end)
{
	static const uint64_t addresses[] = {0, 0x7000, CODE - 1, RAM - 63, RAM, 0xbfffffff, 1ull << 32,
					     1ull << 63, ~0ull, ~0ull - 63};
	static const uint64_t sizes[] = {RAM, RAM - CODE + 1, 1ull << 32, ~0ull, ~0ull - CODE + 1};

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		elf_begin(&elf, CODE);
		elf_add(&elf, addresses[i], 64, 1);
		cr_assert_eq(load_elf(), -ENOEXEC, "at %#lx", addresses[i]);
	}
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		elf_begin(&elf, CODE);
		elf_add(&elf, CODE, 64, 1)->p_memsz = sizes[i];
		cr_assert_eq(load_elf(), -ENOEXEC, "%#lx bytes", sizes[i]);
	}
}

Test(boot, segments_that_overlap, .init = begin, .fini = end)
{
	elf_add(&elf, CODE, 4096, 1);
	elf_add(&elf, CODE + 4095, 4096, 2);
	cr_assert_eq(load_elf(), -ENOEXEC);
	elf_begin(&elf, CODE);
	elf_add(&elf, CODE, 100, 1)->p_memsz = 8192;
	elf_add(&elf, CODE + 4096, 1, 2);
	cr_assert_eq(load_elf(), -ENOEXEC, "in what is to be zero");
	elf_begin(&elf, CODE);
	elf_add(&elf, CODE, 4096, 1);
	elf_add(&elf, CODE, 4096, 2);
	cr_assert_eq(load_elf(), -ENOEXEC, "the same twice");
	elf_begin(&elf, CODE);
	elf_add(&elf, CODE + 4096, 4096, 1);
	elf_add(&elf, CODE, 4096, 2);
	cr_assert_eq(load_elf(), 0, "neighbours are fine");
}

Test(boot, entry_outside_of_memory, .init = begin, .fini = end)
{
	static const uint64_t entries[] = {RAM, 0xc0000000, 1ull << 63, ~0ull};

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		elf_begin(&elf, entries[i]);
		elf_add(&elf, CODE, 64, 1);
		cr_assert_eq(load_elf(), -ENOEXEC);
		elf_begin(&elf, CODE);
		elf_add(&elf, CODE, 64, 1);
		elf_add_note(&elf, "Xen", PVH_NOTE, &entries[i], 8);
		cr_assert_eq(load_elf(), -ENOEXEC);
	}
}

Test(boot, headers_of_other_kinds, .init = begin, .fini = end)
{
	elf_add(&elf, CODE, 64, 1);
	elf.header.e_machine = EM_AARCH64;
	cr_assert_eq(load_elf(), -ENOEXEC);
	elf.header.e_machine = EM_X86_64;
	elf.header.e_type = ET_REL;
	cr_assert_eq(load_elf(), -ENOEXEC);
	elf.header.e_type = ET_EXEC;
	elf.header.e_ident[EI_CLASS] = ELFCLASS32;
	cr_assert_eq(load_elf(), -ENOEXEC);
	elf.header.e_ident[EI_CLASS] = ELFCLASS64;
	elf.header.e_phentsize = 1;
	cr_assert_eq(load_elf(), -ENOEXEC);
	elf.header.e_phentsize = sizeof(Elf64_Phdr);
	elf.header.e_phoff = ~0ull - 8;
	cr_assert_eq(load_elf(), -ENOEXEC);
}

Test(boot, no_segments_and_too_many, .init = begin, .fini = end)
{
	cr_assert_eq(load_elf(), -ENOEXEC);
	for (unsigned i = 0; i < 65; i++)
		elf_add(&elf, CODE + i * 4096ull, 1, 1);
	cr_assert_eq(load_elf(), -ENOEXEC);
	elf.header.e_phnum = 0xffff;
	cr_assert_eq(elf_load(&mem, (struct boot_image){(uint8_t *)&elf, sizeof(elf)},
			      &(struct elf_loaded){0}), -ENOEXEC);
}

/* A damaged note is no note; one that says it is longer than the segment is not followed. */
Test(boot, notes_that_lie, .init = begin, .fini = end)
{
	static const uint32_t lies[] = {5, 64, 0x7fffffff, 0xfffffffc, 0xffffffff};
	uint32_t pvh = CODE;

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++)
		for (size_t field = 0; field < 2; field++) {
			struct elf_loaded loaded;
			Elf64_Phdr *note;

			elf_begin(&elf, CODE);
			elf_add(&elf, CODE, 64, 1);
			note = elf_add_note(&elf, "Xen", PVH_NOTE, &pvh, 4);
			memcpy((uint8_t *)&elf + note->p_offset + 4 * field, &lies[i], 4);
			cr_assert_eq(elf_load(&mem, elf_file(&elf), &loaded), 0);
			cr_assert_eq(loaded.pvh_entry, 0);
		}
}

/* --- what goes with the kernel --------------------------------------------------------------- */

Test(boot, initrd_fits_or_is_refused, .init = begin, .fini = end)
{
	struct boot_state state;

	elf_add(&elf, CODE, 4096, 0xf4);
	cr_assert_eq(load(elf_file(&elf), RAM - CODE - 4096, "", &state), 0, "the last byte there is");
	cr_assert_eq(load(elf_file(&elf), RAM - CODE - 4095, "", &state), -ENOMEM);
	cr_assert_eq(load(elf_file(&elf), RAM, "", &state), -ENOMEM);
	cr_assert_eq(load(elf_file(&elf), 5l << 30, "", &state), -ENOMEM);
	cr_assert_eq(load(elf_file(&elf), 0, "", &state), -EINVAL, "empty");
}

Test(boot, command_line_fits_or_is_refused, .init = begin, .fini = end)
{
	char *text = malloc(70000);
	struct boot_state state;

	elf_add(&elf, CODE, 4096, 0xf4);
	memset(text, 'x', 70000);
	text[2047] = '\0';
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, text, &state), 0);
	text[2047] = 'x';
	text[2048] = '\0';
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, text, &state), -E2BIG);
	text[2048] = 'x';
	text[69999] = '\0';
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, text, &state), -E2BIG);
	free(text);
}

Test(boot, unikernel_without_room_for_its_stacks, .init = begin, .fini = end)
{
	uint32_t flags = 0;
	struct boot_state state;

	elf_add(&elf, CODE, 64, 1);
	elf_add_note(&elf, WEFT_NOTE_NAME, WEFT_NOTE_RING3, &flags, 4);
	elf.segments[0].p_memsz = RAM - CODE;
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), -ENOMEM);
	elf.segments[0].p_memsz = RAM - CODE - 2 * WEFT_STACK_SIZE;
	cr_assert_eq(load(elf_file(&elf), NO_INITRD, "", &state), -ENOMEM);
}
