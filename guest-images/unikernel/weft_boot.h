/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The boot protocol of weft's unikernel guests: freestanding x86-64 programs that run at ring 3.
 *
 * Shared by the VMM and the guests. A guest that never uses ring 0 runs natively on every KVM, also where
 * the host has no VT-x or SVM to offer.
 *
 * The image is a static ELF64 executable with a note named "weft" of type WEFT_NOTE_RING3 whose
 * descriptor is one little-endian 32-bit word of WEFT_NOTE_* flags. It is loaded at its physical addresses.
 * Every started vCPU enters at e_entry with:
 *   - long mode, CPL 3, CS = WEFT_USER_CODE, SS = DS = ES = WEFT_USER_DATA, IF = 1, SSE on
 *     (AVX and wider through XCR0 where the host has them);
 *   - all of RAM and the 32-bit device hole identity-mapped, writable, accessible from ring 3;
 *   - RDI = address of struct weft_boot, RSI = index of this vCPU (0 for the first),
 *     RSP = top of a WEFT_STACK_SIZE stack of its own (16-byte aligned, as after a call);
 *   - a TSS whose I/O bitmap permits every port (IOPL is 3 where KVM keeps it: rely on neither cli nor
 *     sti), and an empty IDT in guest memory (weft_boot.idt, 256 gates of 16 bytes) which the guest fills
 *     with *trap* gates of DPL 3 to WEFT_USER_CODE: an interrupt gate would leave IF off for good
 *     where IOPL is not kept, since iretq at CPL 3 then does not restore it;
 *   - the local APIC of each vCPU enabled (spurious vector 255), at weft_boot.lapic.
 * An interrupt does not switch stacks: build with -mno-red-zone.
 */
#ifndef WEFT_BOOT_H
#define WEFT_BOOT_H

#ifndef __ASSEMBLER__
#include <stdint.h>
#endif

#define WEFT_NOTE_NAME     "weft"
#define WEFT_NOTE_RING3    1
#define WEFT_NOTE_SMP      1 /* flag: start every vCPU, not only the first */

#define WEFT_USER_DATA     0x1b
#define WEFT_USER_CODE     0x23
#define WEFT_STACK_SIZE    65536u

#define WEFT_BOOT_MAGIC    0x54464557u /* "WEFT" */
#define WEFT_BOOT_VERSION  1u

#ifndef __ASSEMBLER__
struct weft_boot {
	uint32_t magic, version;
	uint64_t memory_low;   /* bytes of RAM from address 0 */
	uint64_t memory_high;  /* bytes of RAM from 4 GiB on */
	uint64_t free_start;   /* RAM in [free_start, free_end) is the guest's to use */
	uint64_t free_end;
	uint64_t command_line; /* address of a NUL-terminated string */
	uint64_t idt;          /* address of the IDT, 4096 bytes */
	uint64_t ecam;         /* PCI configuration space of bus 0, 1 MiB */
	uint64_t lapic;        /* local APIC registers */
	uint32_t cpus;         /* vCPUs of the machine */
	uint32_t tsc_khz;      /* frequency of the time stamp counter, kHz; 0: unknown */
};
#endif

/* I/O ports of the platform, besides the serial port. */
#define WEFT_PORT_SERIAL   0x3f8 /* 16550A */
#define WEFT_PORT_PANIC    0x505 /* pvpanic: bit 0 = panicked */
#define WEFT_PORT_EXIT     0x600 /* 8-bit write: end the VM with this status */
#define WEFT_PORT_IDLE     0x601 /* 8-bit write: sleep until the next interrupt */

#endif
