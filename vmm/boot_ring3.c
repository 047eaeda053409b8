/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The boot protocol of ring-3 unikernels: guest-images/unikernel/weft_boot.h. */
#include <errno.h>
#include <string.h>

#include "vmm/boot.h"
#include "vnet/message.h"
#include "vmm/platform.h"

#define GDT_ENTRIES 7
#define TSS_SIZE    104u
#define TSS_IO_MAP  102u /* offset of the field that says where the I/O bitmap is */
#define IO_MAP_SIZE 8192u /* one bit a port, all zero: permitted; followed by a byte of ones */

/* Everything but the page tables that the CPU needs, laid out behind the image. */
struct ring3_page {
	uint8_t idt[4096];
	struct weft_boot boot;
	uint64_t gdt[GDT_ENTRIES];
	uint8_t tss[TSS_SIZE + IO_MAP_SIZE + 1];
};

static void gdt_write(uint64_t gdt[GDT_ENTRIES], uint64_t tss)
{
	uint64_t limit = TSS_SIZE + IO_MAP_SIZE;

	gdt[1] = 0x00af9b000000ffffull; /* kernel code and data: never used, for completeness */
	gdt[2] = 0x00cf93000000ffffull;
	gdt[WEFT_USER_DATA >> 3] = 0x00cff3000000ffffull;
	gdt[WEFT_USER_CODE >> 3] = 0x00affb000000ffffull;
	gdt[5] = (limit & 0xffff) | (tss & 0xffffff) << 16 | 0x8bull << 40 |
		 (tss >> 24 & 0xff) << 56;
	gdt[6] = tss >> 32;
}

static void tss_write(uint8_t *tss)
{
	uint16_t map = TSS_SIZE;

	memset(tss, 0, TSS_SIZE + IO_MAP_SIZE);
	memcpy(tss + TSS_IO_MAP, &map, sizeof(map));
	tss[TSS_SIZE + IO_MAP_SIZE] = 0xff;
}

int boot_ring3(const struct guest_memory *mem, const struct boot_request *request,
	       const struct elf_loaded *elf, struct boot_state *state)
{
	uint64_t base = (elf->end + MEMORY_PAGE - 1) & ~(MEMORY_PAGE - 1);
	struct ring3_page *page = guest_range(mem, base, sizeof(*page));
	uint64_t tables = (base + sizeof(*page) + MEMORY_PAGE - 1) & ~(MEMORY_PAGE - 1);
	uint64_t high = mem->count > 1 ? mem->regions[1].size : 0;
	uint64_t stacks = (uint64_t)request->cpus * WEFT_STACK_SIZE;
	uint64_t end = boot_identity_map(mem, tables, MEMORY_HOLE_END + high, true);
	int rc = boot_cmdline(mem, request->cmdline, CMDLINE_MAX);

	if (rc)
		return rc;
	if (!page || !end || end + stacks > mem->regions[0].size)
		return fail(-ENOMEM, "--memory: too small for this unikernel: it needs %llu bytes",
			    (unsigned long long)(tables + 6 * MEMORY_PAGE + stacks));
	memset(page, 0, sizeof(*page));
	*state = (struct boot_state){
		.entry = BOOT_RING3,
		.ip = elf->entry,
		.argument = base + offsetof(struct ring3_page, boot),
		.cr3 = tables,
		.gdt = base + offsetof(struct ring3_page, gdt),
		.tss = base + offsetof(struct ring3_page, tss),
		.idt = base + offsetof(struct ring3_page, idt),
		.stack_top = mem->regions[0].size,
		.all_cpus = elf->ring3_flags & WEFT_NOTE_SMP,
	};
	gdt_write(page->gdt, state->tss);
	tss_write(page->tss);
	page->boot = (struct weft_boot){
		.magic = WEFT_BOOT_MAGIC,
		.version = WEFT_BOOT_VERSION,
		.memory_low = mem->regions[0].size,
		.memory_high = high,
		.free_start = end,
		.free_end = mem->regions[0].size - stacks,
		.command_line = CMDLINE_BASE,
		.idt = state->idt,
		.ecam = ECAM_BASE,
		.lapic = LAPIC_BASE,
		.cpus = request->cpus,
		.tsc_khz = request->tsc_khz,
	};
	return 0;
}
