/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Putting a kernel into guest memory, and a vCPU at its entry. */
#ifndef WEFT_BOOT_H_
#define WEFT_BOOT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/memory.h"

struct kvm_sregs;
struct kvm_regs;

/* How the first instruction is reached. */
enum boot_entry {
	BOOT_LINUX64, /* Linux 64-bit boot protocol: RSI = boot_params, identity-mapped paging */
	BOOT_PVH,     /* PVH: 32-bit protected mode, EBX = hvm_start_info */
	BOOT_RING3,   /* weft's unikernels: 64-bit, CPL 3 (guest-images/unikernel/weft_boot.h) */
};

/* What to load: files stay open for the life of the VM, a reboot loads them again. */
struct boot_request {
	int kernel_fd;
	int initrd_fd; /* -1: none */
	const char *cmdline;
	unsigned cpus;
	uint32_t tsc_khz; /* 0: unknown */
};

/* The result: what the vCPUs need. */
struct boot_state {
	enum boot_entry entry;
	uint64_t ip;        /* first instruction */
	uint64_t argument;  /* RSI, EBX or RDI: guest-physical address of the parameters */
	uint64_t cr3;       /* page tables (not PVH) */
	uint64_t gdt, tss, idt; /* ring 3 only */
	uint64_t stack_top; /* ring 3: top of the first vCPU's stack, the others' lie below */
	bool all_cpus;      /* ring 3: every vCPU starts, not only the first */
};

/* An image in this process's memory. */
struct boot_image {
	const uint8_t *data;
	size_t size;
};

/* Where an ELF file ended up. */
struct elf_loaded {
	uint64_t entry;      /* e_entry */
	uint64_t pvh_entry;  /* 0: no PVH note */
	uint64_t end;        /* first guest-physical address behind it */
	bool ring3;          /* has weft's note */
	uint32_t ring3_flags;
};

/**
 * boot_load - load kernel, initrd, command line, page tables and parameters (not the ACPI tables).
 *
 * Recognizes bzImage, ELF with a PVH note, ELF Linux and ring-3 unikernels. Returns 0, or -errno after a message.
 */
int boot_load(const struct guest_memory *mem, const struct boot_request *request,
	      struct boot_state *state);

/* boot_registers - the registers of vCPU @index at its first instruction. Changes only what the entry needs. */
void boot_registers(const struct boot_state *state, unsigned index, struct kvm_regs *regs,
		    struct kvm_sregs *sregs);

/* elf_load - put an ELF64 image into guest memory (System V gABI, chapter 5). 0, or -errno after a message. */
int elf_load(const struct guest_memory *mem, struct boot_image image, struct elf_loaded *loaded);

/* Each lays out its protocol's parameters for a loaded kernel. 0, or -errno after a message. */
int boot_linux(const struct guest_memory *mem, const struct boot_request *request,
	       struct boot_image bzimage, const struct elf_loaded *elf, struct boot_state *state);
int boot_pvh(const struct guest_memory *mem, const struct boot_request *request,
	     const struct elf_loaded *elf, struct boot_state *state);
int boot_ring3(const struct guest_memory *mem, const struct boot_request *request,
	       const struct elf_loaded *elf, struct boot_state *state);

/* The payload of a bzImage, unpacked (to be freed with unpack_free()); 0, or -errno after a message. */
int bzimage_unpack(struct boot_image bzimage, size_t limit, uint8_t **out, size_t *out_size);
bool bzimage_is(struct boot_image image);

/* boot_cmdline - store the command line at CMDLINE_BASE; @max includes the NUL. 0, or -errno after a message. */
int boot_cmdline(const struct guest_memory *mem, const char *cmdline, size_t max);

/* boot_initrd - load the initrd as high as RAM below @limit goes, above @floor. 0, or -errno after a message. */
int boot_initrd(const struct guest_memory *mem, int fd, uint64_t floor, uint64_t limit,
		uint64_t *start, uint64_t *size);

/* boot_identity_map - page tables at @tables mapping [0, end) one to one in 2 MiB pages; returns their end or 0. */
uint64_t boot_identity_map(const struct guest_memory *mem, uint64_t tables, uint64_t end, bool user);

#endif
