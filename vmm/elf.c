/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ELF loading. The file is foreign: every offset is checked against the file's end, every address against
 * guest memory, before it is used.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "guest-images/unikernel/weft_boot.h"
#include "vmm/boot.h"
#include "vnet/message.h"
#include "vmm/platform.h"

#define ELF_SEGMENTS_MAX 64
#define NOTE_XEN_PHYS32_ENTRY 18 /* Xen public/elfnote.h: the PVH entry point */

/* A range of the image, or NULL where it is not all inside. */
static const void *image_range(struct boot_image image, uint64_t offset, uint64_t len)
{
	if (offset > image.size || len > image.size - offset)
		return NULL;
	return image.data + offset;
}

static int elf_check(struct boot_image image, Elf64_Ehdr *header)
{
	const void *p = image_range(image, 0, sizeof(*header));

	if (!p || memcmp(p, ELFMAG, SELFMAG))
		return fail(-ENOEXEC, "--kernel: neither a bzImage nor an ELF file");
	memcpy(header, p, sizeof(*header));
	if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
	    header->e_machine != EM_X86_64 ||
	    (header->e_type != ET_EXEC && header->e_type != ET_DYN))
		return fail(-ENOEXEC, "--kernel: an ELF file, but not an x86-64 executable");
	if (header->e_phentsize != sizeof(Elf64_Phdr) || !header->e_phnum ||
	    header->e_phnum > ELF_SEGMENTS_MAX ||
	    !image_range(image, header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr)))
		return fail(-ENOEXEC, "--kernel: the ELF program headers are damaged");
	return 0;
}

static void elf_note(const uint8_t *name, uint32_t name_size, uint32_t type, const uint8_t *desc,
		     uint32_t desc_size, struct elf_loaded *loaded)
{
	if (name_size == 4 && !memcmp(name, "Xen", 4) && type == NOTE_XEN_PHYS32_ENTRY &&
	    (desc_size == 4 || desc_size == 8)) {
		memcpy(&loaded->pvh_entry, desc, desc_size);
	} else if (name_size == sizeof(WEFT_NOTE_NAME) &&
		   !memcmp(name, WEFT_NOTE_NAME, sizeof(WEFT_NOTE_NAME)) &&
		   type == WEFT_NOTE_RING3 && desc_size == 4) {
		loaded->ring3 = true;
		memcpy(&loaded->ring3_flags, desc, 4);
	}
}

/* Walk the notes of a PT_NOTE segment; a damaged one ends the walk. */
static void elf_notes(struct boot_image image, const Elf64_Phdr *ph, struct elf_loaded *loaded)
{
	const uint8_t *p = image_range(image, ph->p_offset, ph->p_filesz);
	uint64_t align = ph->p_align == 8 ? 8 : 4, left = p ? ph->p_filesz : 0;

	while (left >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t desc, next; /* offsets from the note's start, which is what is aligned */

		memcpy(&note, p, sizeof(note));
		desc = (sizeof(note) + note.n_namesz + align - 1) & ~(align - 1);
		next = (desc + note.n_descsz + align - 1) & ~(align - 1);
		if (desc > left || note.n_descsz > left - desc)
			return;
		elf_note(p + sizeof(note), note.n_namesz, note.n_type, p + desc, note.n_descsz, loaded);
		if (next > left)
			return;
		p += next;
		left -= next;
	}
}

static int elf_segment(const struct guest_memory *mem, struct boot_image image, const Elf64_Phdr *ph,
		       struct elf_loaded *loaded)
{
	const void *from = image_range(image, ph->p_offset, ph->p_filesz);
	bool fits = guest_range(mem, ph->p_paddr, ph->p_memsz);

	if (!ph->p_memsz)
		return 0;
	if (!from || ph->p_filesz > ph->p_memsz)
		return fail(-ENOEXEC, "--kernel: an ELF segment lies outside of the file: it is cut short");
	if (!fits || ph->p_paddr < HIGH_RAM_START || !memory_load(mem, ph->p_paddr, from, ph->p_filesz))
		return fail(-ENOEXEC,
			    "--kernel: an ELF segment (%#llx, %llu bytes) does not fit into guest RAM: give "
			    "more --memory, or link the kernel at 1 MiB or above",
			    (unsigned long long)ph->p_paddr, (unsigned long long)ph->p_memsz);
	if (ph->p_paddr + ph->p_memsz > loaded->end)
		loaded->end = ph->p_paddr + ph->p_memsz;
	return 0;
}

static bool elf_overlap(const Elf64_Phdr *a, const Elf64_Phdr *b)
{
	return a->p_type == PT_LOAD && b->p_type == PT_LOAD && a->p_memsz && b->p_memsz &&
	       a->p_paddr < b->p_paddr + b->p_memsz && b->p_paddr < a->p_paddr + a->p_memsz;
}

int elf_load(const struct guest_memory *mem, struct boot_image image, struct elf_loaded *loaded)
{
	Elf64_Phdr ph[ELF_SEGMENTS_MAX];
	Elf64_Ehdr header = {0};
	int rc = elf_check(image, &header);

	*loaded = (struct elf_loaded){0};
	if (rc)
		return rc;
	memcpy(ph, image.data + header.e_phoff, header.e_phnum * sizeof(ph[0]));
	for (unsigned i = 0; i < header.e_phnum && !rc; i++) {
		for (unsigned j = 0; j < i; j++)
			if (elf_overlap(&ph[i], &ph[j]))
				return fail(-ENOEXEC, "--kernel: ELF segments overlap: the file is damaged");
		if (ph[i].p_type == PT_LOAD)
			rc = elf_segment(mem, image, &ph[i], loaded);
		else if (ph[i].p_type == PT_NOTE)
			elf_notes(image, &ph[i], loaded);
	}
	if (rc)
		return rc;
	loaded->entry = header.e_entry;
	if (!loaded->end || (!loaded->pvh_entry && !guest_range(mem, loaded->entry, 1)) ||
	    (loaded->pvh_entry && !guest_range(mem, loaded->pvh_entry, 1)))
		return fail(-ENOEXEC, "--kernel: the ELF entry point lies outside of guest RAM");
	return 0;
}
