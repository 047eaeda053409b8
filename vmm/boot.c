/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Boot
 *
 * Theory of operation: there is no firmware and no real mode. The kernel file is recognized, unpacked if need be,
 * and put where it wants to be; the parameters of its protocol are laid into low memory (vmm/platform.h has the
 * addresses) and the first vCPU is placed directly at the entry. Of several entries the most specific is
 * taken: weft's own note, then PVH, then the Linux 64-bit entry. All of it happens on the main thread, before
 * the vCPUs run, at start and again at each reboot.
 */
#include "vmm/boot.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "vnet/message.h"
#include "vmm/platform.h"
#include "vmm/unpack.h"

#define PAGE_2M      (2ull << 20)
#define TABLE_SIZE   4096ull
#define PTE_PRESENT  1ull
#define PTE_WRITE    2ull
#define PTE_USER     4ull
#define PTE_LARGE    0x80ull
#define PML4_SPAN    (512ull << 30) /* bytes that one PML4 entry maps */

static int image_map(int fd, const char *option, struct boot_image *image)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st))
		return fail(-errno, "%s: %s", option, strerror(errno));
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return fail(-EINVAL, "%s: not a file with something in it", option);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED)
		return fail(-errno, "%s: cannot be mapped: %s", option, strerror(errno));
	*image = (struct boot_image){p, (size_t)st.st_size};
	return 0;
}

static void image_unmap(struct boot_image image)
{
	munmap((void *)image.data, image.size);
}

int boot_cmdline(const struct guest_memory *mem, const char *cmdline, size_t max)
{
	size_t size = strlen(cmdline) + 1;
	void *p = guest_range(mem, CMDLINE_BASE, size);

	if (max > CMDLINE_MAX)
		max = CMDLINE_MAX;
	if (size > max)
		return fail(-E2BIG, "--cmdline: %zu bytes, the kernel takes %zu: shorten it", size - 1,
			    max - 1);
	if (!p)
		return fail(-ENOMEM, "--memory: too small to boot anything");
	memcpy(p, cmdline, size);
	return 0;
}

int boot_initrd(const struct guest_memory *mem, int fd, uint64_t floor, uint64_t limit,
		uint64_t *start, uint64_t *size)
{
	uint64_t top = mem->regions[0].size < limit ? mem->regions[0].size : limit;
	struct boot_image image = {0};
	int rc;

	*start = *size = 0;
	if (fd < 0)
		return 0;
	rc = image_map(fd, "--initrd", &image);
	if (rc)
		return rc;
	floor = (floor + MEMORY_PAGE - 1) & ~(MEMORY_PAGE - 1);
	if (top < floor || image.size > top - floor) {
		image_unmap(image);
		return fail(-ENOMEM, "--initrd: %zu bytes do not fit behind the kernel: give more --memory",
			    image.size);
	}
	*start = (top - image.size) & ~(MEMORY_PAGE - 1);
	*size = image.size;
	if (*start < floor || !memory_load(mem, *start, image.data, image.size))
		rc = fail(-ENOMEM, "--initrd: no room in guest RAM: give more --memory");
	image_unmap(image);
	return rc;
}

/* One level of tables, as an array of 512 entries; NULL outside of RAM. */
static uint64_t *table_at(const struct guest_memory *mem, uint64_t gpa)
{
	return guest_range(mem, gpa, TABLE_SIZE);
}

uint64_t boot_identity_map(const struct guest_memory *mem, uint64_t tables, uint64_t end, bool user)
{
	uint64_t flags = PTE_PRESENT | PTE_WRITE | (user ? PTE_USER : 0);
	uint64_t pages = (end + PAGE_2M - 1) / PAGE_2M;
	uint64_t pds = (pages + 511) / 512, pdpts = (pds + 511) / 512;
	uint64_t pdpt = tables + TABLE_SIZE, pd = pdpt + pdpts * TABLE_SIZE;
	uint64_t bytes = (1 + pdpts + pds) * TABLE_SIZE;
	uint64_t *t = guest_range(mem, tables, bytes);

	if (!t || pdpts > 512)
		return 0;
	memset(t, 0, bytes);
	for (uint64_t i = 0; i < pdpts; i++)
		table_at(mem, tables)[i] = (pdpt + i * TABLE_SIZE) | flags;
	for (uint64_t i = 0; i < pds; i++)
		table_at(mem, pdpt)[i] = (pd + i * TABLE_SIZE) | flags;
	t = guest_range(mem, pd, pds * TABLE_SIZE);
	for (uint64_t i = 0; i < pages; i++)
		t[i] = i * PAGE_2M | flags | PTE_LARGE;
	return tables + bytes;
}

int boot_load(const struct guest_memory *mem, const struct boot_request *request,
	      struct boot_state *state)
{
	struct boot_image file = {0}, kernel;
	struct elf_loaded elf;
	uint8_t *unpacked = NULL;
	size_t unpacked_size = 0;
	int rc = image_map(request->kernel_fd, "--kernel", &file);

	*state = (struct boot_state){0};
	if (rc)
		return rc;
	kernel = file;
	if (bzimage_is(file)) {
		rc = bzimage_unpack(file, mem->size, &unpacked, &unpacked_size);
		kernel = (struct boot_image){unpacked, unpacked_size};
	}
	if (!rc)
		rc = elf_load(mem, kernel, &elf);
	if (!rc && elf.ring3)
		rc = boot_ring3(mem, request, &elf, state);
	else if (!rc && elf.pvh_entry && !unpacked)
		rc = boot_pvh(mem, request, &elf, state);
	else if (!rc)
		rc = boot_linux(mem, request, file, &elf, state);
	unpack_free(unpacked, unpacked_size);
	image_unmap(file);
	return rc;
}

/* --- registers ------------------------------------------------------------------------------ */

#define CR0_PE 1ull
#define CR0_MP 2ull
#define CR0_ET 0x10ull
#define CR0_NE 0x20ull
#define CR0_WP 0x10000ull
#define CR0_PG 0x80000000ull
#define CR4_PAE        0x20ull
#define CR4_OSFXSR     0x200ull
#define CR4_OSXMMEXCPT 0x400ull
#define EFER_SCE 1ull
#define EFER_LME 0x100ull
#define EFER_LMA 0x400ull
#define EFER_NX  0x800ull
#define RFLAGS_FIXED 2ull
#define RFLAGS_IF    0x200ull
#define RFLAGS_IOPL3 0x3000ull

#define SEGMENT_CODE 0xb /* execute, read, accessed */
#define SEGMENT_DATA 0x3 /* read, write, accessed */
#define SEGMENT_TSS  0xb /* busy */

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code64)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.dpl = selector & 3,
		.db = !code64,
		.s = 1,
		.l = code64,
		.g = 1,
	};
}

static void set_segments(struct kvm_sregs *s, struct kvm_segment code, struct kvm_segment data)
{
	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
}

static void set_long_mode(struct kvm_sregs *s, uint64_t cr3)
{
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = cr3;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}

static void registers_linux64(const struct boot_state *b, struct kvm_regs *r, struct kvm_sregs *s)
{
	/* __BOOT_CS and __BOOT_DS of Linux Documentation/x86/boot.rst, 64-bit boot protocol */
	set_segments(s, segment(0x10, SEGMENT_CODE, true), segment(0x18, SEGMENT_DATA, false));
	s->gdt = (struct kvm_dtable){.base = BOOT_GDT, .limit = 31};
	set_long_mode(s, b->cr3);
	r->rsi = b->argument;
}

static void registers_pvh(const struct boot_state *b, struct kvm_regs *r, struct kvm_sregs *s)
{
	set_segments(s, segment(0x8, SEGMENT_CODE, false), segment(0x10, SEGMENT_DATA, false));
	s->tr = (struct kvm_segment){.limit = 0x67, .type = SEGMENT_TSS, .present = 1};
	s->cr0 = CR0_PE | CR0_ET;
	r->rbx = b->argument;
}

static void registers_ring3(const struct boot_state *b, unsigned index, struct kvm_regs *r,
			    struct kvm_sregs *s)
{
	set_segments(s, segment(WEFT_USER_CODE, SEGMENT_CODE, true),
		     segment(WEFT_USER_DATA, SEGMENT_DATA, false));
	set_long_mode(s, b->cr3);
	s->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
	s->efer |= EFER_SCE | EFER_NX;
	s->gdt = (struct kvm_dtable){.base = b->gdt, .limit = 7 * 8 - 1};
	s->idt = (struct kvm_dtable){.base = b->idt, .limit = 4095};
	s->tr = (struct kvm_segment){.base = b->tss,
				     .limit = 104 + 8192,
				     .selector = 0x28,
				     .type = SEGMENT_TSS,
				     .present = 1};
	r->rdi = b->argument;
	r->rsi = index;
	/* as after a call: 16-byte aligned before the return address was pushed */
	r->rsp = b->stack_top - (uint64_t)index * WEFT_STACK_SIZE - 8;
	/* Emulated SVM (QEMU TCG) does not find the I/O bitmap of a busy TSS; kvm_pvm needs the bitmap. */
	r->rflags |= RFLAGS_IF | RFLAGS_IOPL3;
}

void boot_registers(const struct boot_state *state, unsigned index, struct kvm_regs *regs,
		    struct kvm_sregs *sregs)
{
	*regs = (struct kvm_regs){.rip = state->ip, .rflags = RFLAGS_FIXED};
	if (state->entry == BOOT_LINUX64)
		registers_linux64(state, regs, sregs);
	else if (state->entry == BOOT_PVH)
		registers_pvh(state, regs, sregs);
	else
		registers_ring3(state, index, regs, sregs);
}
