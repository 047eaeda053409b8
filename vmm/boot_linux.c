/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The Linux boot protocol (Documentation/x86/boot.rst) and PVH (Xen docs/misc/pvh.pandoc). */
#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "vmm/boot.h"
#include "vnet/message.h"
#include "vmm/platform.h"
#include "vmm/unpack.h"

#define SETUP_HEADER       0x1f1 /* offset of struct setup_header in a bzImage */
#define SETUP_MAGIC        0x53726448 /* "HdrS" */
#define SETUP_VERSION_MIN  0x020c /* 2.12: xloadflags, 64-bit entry */
#define LOADER_UNDEFINED   0xff
#define CMDLINE_DEFAULT    2048 /* COMMAND_LINE_SIZE of x86 where there is no setup header to ask */
#define INITRD_LIMIT       0x7fffffffull
#define E820_RAM           1
#define E820_RESERVED      2

/* Returns false, with @header as it was, when the image is no bzImage. */
static bool setup_header(struct boot_image image, struct setup_header *header)
{
	struct setup_header found;

	if (image.size < SETUP_HEADER + sizeof(found))
		return false;
	memcpy(&found, image.data + SETUP_HEADER, sizeof(found));
	if (found.boot_flag != 0xaa55 || found.header != SETUP_MAGIC)
		return false;
	*header = found;
	return true;
}

bool bzimage_is(struct boot_image image)
{
	struct setup_header header;

	return setup_header(image, &header);
}

int bzimage_unpack(struct boot_image bzimage, size_t limit, uint8_t **out, size_t *out_size)
{
	struct setup_header h;
	uint64_t start;

	if (!setup_header(bzimage, &h) || h.version < SETUP_VERSION_MIN)
		return fail(-ENOEXEC, "--kernel: this bzImage is too old: Linux 3.8 or newer is needed");
	if (!(h.xloadflags & XLF_KERNEL_64))
		return fail(-ENOEXEC, "--kernel: this bzImage is a 32-bit kernel: give a 64-bit one");
	start = (h.setup_sects ? h.setup_sects + 1u : 5u) * 512ull + h.payload_offset;
	if (start > bzimage.size || h.payload_length > bzimage.size - start)
		return fail(-ENOEXEC, "--kernel: the bzImage is cut short: copy it again");
	return unpack(bzimage.data + start, h.payload_length, limit, out, out_size);
}

struct memory_map {
	struct boot_e820_entry entries[8];
	unsigned count;
};

static void map_add(struct memory_map *map, uint64_t start, uint64_t end, uint32_t type)
{
	if (end > start)
		map->entries[map->count++] =
			(struct boot_e820_entry){.addr = start, .size = end - start, .type = type};
}

/* What the guest finds at which address; one map for both protocols. */
static void map_build(const struct guest_memory *mem, struct memory_map *map)
{
	map->count = 0;
	map_add(map, 0, LOW_RAM_END, E820_RAM);
	map_add(map, LOW_RAM_END, HIGH_RAM_START, E820_RESERVED);
	map_add(map, HIGH_RAM_START, mem->regions[0].size, E820_RAM);
	map_add(map, ECAM_BASE, ECAM_BASE + ECAM_SIZE, E820_RESERVED);
	if (mem->count > 1)
		map_add(map, mem->regions[1].gpa, mem->regions[1].gpa + mem->regions[1].size, E820_RAM);
}

/* Four descriptors: null, unused, __BOOT_CS (64-bit code), __BOOT_DS (data). */
static int write_gdt(const struct guest_memory *mem)
{
	static const uint64_t gdt[4] = {0, 0, 0x00af9b000000ffffull, 0x00cf93000000ffffull};
	void *p = guest_range(mem, BOOT_GDT, sizeof(gdt));

	if (!p)
		return fail(-ENOMEM, "--memory: too small to boot anything");
	memcpy(p, gdt, sizeof(gdt));
	return 0;
}

static void write_params(struct boot_params *p, const struct setup_header *header,
			 const struct memory_map *map, uint64_t initrd, uint64_t initrd_size)
{
	memset(p, 0, sizeof(*p));
	p->hdr = *header;
	p->hdr.type_of_loader = LOADER_UNDEFINED;
	p->hdr.cmd_line_ptr = CMDLINE_BASE;
	p->hdr.ramdisk_image = (uint32_t)initrd;
	p->hdr.ramdisk_size = (uint32_t)initrd_size;
	p->acpi_rsdp_addr = RSDP_BASE;
	p->e820_entries = (uint8_t)map->count;
	memcpy(p->e820_table, map->entries, map->count * sizeof(map->entries[0]));
}

int boot_linux(const struct guest_memory *mem, const struct boot_request *request,
	       struct boot_image bzimage, const struct elf_loaded *elf, struct boot_state *state)
{
	struct setup_header header = {.boot_flag = 0xaa55, .header = SETUP_MAGIC, .version = 0x020f};
	struct boot_params *params = guest_range(mem, ZERO_PAGE, sizeof(*params));
	uint64_t initrd, initrd_size, limit = INITRD_LIMIT;
	struct memory_map map;
	size_t cmdline_max = CMDLINE_DEFAULT;
	int rc = write_gdt(mem);

	if (rc)
		return rc;
	if (setup_header(bzimage, &header)) {
		cmdline_max = header.cmdline_size + 1ull;
		if (header.initrd_addr_max)
			limit = header.initrd_addr_max;
	}
	rc = boot_cmdline(mem, request->cmdline, cmdline_max);
	if (!rc)
		rc = boot_initrd(mem, request->initrd_fd, elf->end, limit + 1, &initrd, &initrd_size);
	if (rc)
		return rc;
	if (!params || !boot_identity_map(mem, BOOT_PAGE_TABLES, MEMORY_HOLE_END, false))
		return fail(-ENOMEM, "--memory: too small to boot Linux");
	map_build(mem, &map);
	write_params(params, &header, &map, initrd, initrd_size);
	*state = (struct boot_state){
		.entry = BOOT_LINUX64, .ip = elf->entry, .argument = ZERO_PAGE, .cr3 = BOOT_PAGE_TABLES};
	return 0;
}

/* Xen public/arch-x86/hvm/start_info.h, version 1 */
struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

_Static_assert(sizeof(struct hvm_start_info) == 56, "hvm_start_info, version 1");

#define HVM_START_MAGIC 0x336ec578

/* The three tables as they lie at ZERO_PAGE. */
struct pvh_page {
	struct hvm_start_info info;
	struct hvm_modlist_entry module;
	struct hvm_memmap_entry map[8];
};

int boot_pvh(const struct guest_memory *mem, const struct boot_request *request,
	     const struct elf_loaded *elf, struct boot_state *state)
{
	struct pvh_page *page = guest_range(mem, ZERO_PAGE, sizeof(*page));
	uint64_t initrd, initrd_size;
	struct memory_map map;
	int rc = boot_cmdline(mem, request->cmdline, CMDLINE_DEFAULT);

	if (!rc)
		rc = boot_initrd(mem, request->initrd_fd, elf->end, INITRD_LIMIT + 1, &initrd,
				 &initrd_size);
	if (rc)
		return rc;
	if (!page)
		return fail(-ENOMEM, "--memory: too small to boot anything");
	map_build(mem, &map);
	*page = (struct pvh_page){
		.info = {.magic = HVM_START_MAGIC,
			 .version = 1,
			 .nr_modules = initrd_size != 0,
			 .modlist_paddr = initrd_size ? ZERO_PAGE + offsetof(struct pvh_page, module) : 0,
			 .cmdline_paddr = CMDLINE_BASE,
			 .rsdp_paddr = RSDP_BASE,
			 .memmap_paddr = ZERO_PAGE + offsetof(struct pvh_page, map),
			 .memmap_entries = map.count},
		.module = {.paddr = initrd, .size = initrd_size},
	};
	for (unsigned i = 0; i < map.count; i++)
		page->map[i] = (struct hvm_memmap_entry){.addr = map.entries[i].addr,
							 .size = map.entries[i].size,
							 .type = map.entries[i].type};
	*state = (struct boot_state){
		.entry = BOOT_PVH, .ip = elf->pvh_entry, .argument = ZERO_PAGE};
	return 0;
}
