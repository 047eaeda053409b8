/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ACPI tables (ACPI 6.4, 5.2): RSDP -> XSDT -> FADT (-> DSDT), MADT, MCFG.
 *
 * Hardware-reduced ACPI (4.1): no PM timer, no SCI, no fixed registers. Power-off is the sleep control
 * register, reboot the reset register, and the power button an interrupt of the generic event device. The DSDT
 * comes from dsdt.asl.
 */
#include "vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "dsdt.hex" /* built from dsdt.asl by iasl */
#include "vmm/platform.h"

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt_address, length;
	uint64_t xsdt_address;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

/* Generic address structure, 5.2.3.2 */
struct acpi_gas {
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
} __attribute__((packed));

#define GAS_IO 1

/* 5.2.9; what hardware-reduced ACPI ignores is left out as one block */
struct acpi_fadt {
	struct acpi_header header;
	uint32_t firmware_ctrl, dsdt;
	uint8_t fixed_hardware[65];
	uint16_t boot_architecture;
	uint8_t reserved;
	uint32_t flags;
	struct acpi_gas reset_register;
	uint8_t reset_value;
	uint16_t arm_boot_architecture;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_gas fixed_registers[8];
	struct acpi_gas sleep_control, sleep_status;
	uint64_t hypervisor_id;
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_rsdp) == 36, "RSDP, 5.2.5.3");
_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT, 5.2.9");

#define BOOT_NO_VGA   (1u << 2)
#define BOOT_NO_RTC   (1u << 5)
#define FADT_PWR_BUTTON (1u << 4)  /* not a fixed-feature button */
#define FADT_SLP_BUTTON (1u << 5)
#define FADT_RESET_SUP  (1u << 10)
#define FADT_HW_REDUCED (1u << 20)

struct acpi_madt {
	struct acpi_header header;
	uint32_t lapic_address, flags;
} __attribute__((packed));

struct madt_lapic {
	uint8_t type, length, processor_uid, apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} __attribute__((packed));

struct acpi_mcfg {
	struct acpi_header header;
	uint8_t reserved[8];
	uint64_t base;
	uint16_t segment;
	uint8_t bus_start, bus_end;
	uint32_t reserved2;
} __attribute__((packed));

#define XSDT_ENTRIES 3

struct acpi_xsdt {
	struct acpi_header header;
	uint64_t entries[XSDT_ENTRIES];
} __attribute__((packed));

/* Where the next table goes. */
struct acpi_writer {
	uint8_t *base; /* host address of RSDP_BASE */
	uint32_t used;
};

static uint8_t checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

/* Reserve @len bytes; tables stand on 16-byte boundaries. */
static void *acpi_reserve(struct acpi_writer *w, uint32_t len)
{
	void *p = w->base + w->used;

	w->used += (len + 15) & ~15u;
	return p;
}

static uint64_t acpi_address(const struct acpi_writer *w, const void *table)
{
	return RSDP_BASE + (uint64_t)((const uint8_t *)table - w->base);
}

/* Fill in the header of a table whose body is complete. */
static uint64_t acpi_finish(const struct acpi_writer *w, void *table, const char *signature,
			    uint8_t revision, uint32_t length)
{
	struct acpi_header header = {.length = length, .revision = revision, .oem_revision = 1, .creator_revision = 1};

	memcpy(header.signature, signature, 4);
	memcpy(header.oem_id, "WEFT  ", 6);
	memcpy(header.oem_table_id, "WEFTVM  ", 8);
	memcpy(header.creator_id, "WEFT", 4);
	memcpy(table, &header, sizeof(header));
	header.checksum = checksum(table, length);
	memcpy(table, &header, sizeof(header));
	return acpi_address(w, table);
}

static struct acpi_gas gas_port(uint16_t port)
{
	return (struct acpi_gas){.space = GAS_IO, .bit_width = 8, .access_size = 1, .address = port};
}

static uint64_t write_fadt(struct acpi_writer *w, uint64_t dsdt)
{
	struct acpi_fadt fadt = {
		.dsdt = (uint32_t)dsdt,
		.boot_architecture = BOOT_NO_VGA | BOOT_NO_RTC,
		.flags = FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_RESET_SUP | FADT_HW_REDUCED,
		.reset_register = gas_port(PORT_RESET),
		.reset_value = RESET_VALUE,
		.minor_version = 4,
		.x_dsdt = dsdt,
		.sleep_control = gas_port(PORT_SLEEP_CONTROL),
		.sleep_status = gas_port(PORT_SLEEP_STATUS),
	};
	void *table = acpi_reserve(w, sizeof(fadt));

	memcpy(table, &fadt, sizeof(fadt));
	return acpi_finish(w, table, "FACP", 6, sizeof(fadt));
}

static uint64_t write_madt(struct acpi_writer *w, unsigned cpus)
{
	struct acpi_madt madt = {.lapic_address = LAPIC_BASE};
	uint32_t length = (uint32_t)(sizeof(madt) + cpus * sizeof(struct madt_lapic) +
				     sizeof(struct madt_ioapic));
	struct madt_ioapic ioapic = {.type = 1, .length = sizeof(ioapic), .address = IOAPIC_BASE};
	uint8_t *table = acpi_reserve(w, length);
	uint8_t *p = table + sizeof(madt);

	memcpy(table, &madt, sizeof(madt));
	for (unsigned i = 0; i < cpus; i++, p += sizeof(struct madt_lapic)) {
		struct madt_lapic lapic = {.length = sizeof(lapic),
					   .processor_uid = (uint8_t)i,
					   .apic_id = (uint8_t)i,
					   .flags = 1};

		memcpy(p, &lapic, sizeof(lapic));
	}
	memcpy(p, &ioapic, sizeof(ioapic));
	return acpi_finish(w, table, "APIC", 5, length);
}

static uint64_t write_mcfg(struct acpi_writer *w)
{
	struct acpi_mcfg mcfg = {.base = ECAM_BASE};
	void *table = acpi_reserve(w, sizeof(mcfg));

	memcpy(table, &mcfg, sizeof(mcfg));
	return acpi_finish(w, table, "MCFG", 1, sizeof(mcfg));
}

static void write_rsdp(struct acpi_writer *w, uint64_t xsdt)
{
	struct acpi_rsdp rsdp = {.revision = 2, .length = sizeof(rsdp), .xsdt_address = xsdt};

	memcpy(rsdp.signature, "RSD PTR ", 8);
	memcpy(rsdp.oem_id, "WEFT  ", 6);
	rsdp.checksum = checksum(&rsdp, 20); /* the ACPI 1.0 part */
	rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
	memcpy(w->base, &rsdp, sizeof(rsdp));
}

/*
 * Hardware-reduced ACPI means to a Linux with CONFIG_EFI that it reboots by EFI, and without that by the BIOS: in real
 * mode at F000:FFF0, where otherwise zeros would be run for ever. So there is a reset: mov $PORT_RESET, %dx;
 * mov $RESET_VALUE, %al; out %al, (%dx); hlt.
 */
static int write_reset_vector(const struct guest_memory *mem)
{
	static const uint8_t code[] = {0xba, PORT_RESET & 0xff, PORT_RESET >> 8, 0xb0, RESET_VALUE, 0xee, 0xf4};
	void *vector = guest_range(mem, RESET_VECTOR, sizeof(code));

	if (!vector)
		return -EFAULT;
	memcpy(vector, code, sizeof(code));
	return 0;
}

int acpi_write(const struct guest_memory *mem, unsigned cpus)
{
	struct acpi_writer w = {.base = guest_range(mem, RSDP_BASE, ACPI_SIZE)};
	struct acpi_xsdt xsdt = {0};
	void *table;

	if (!w.base)
		return -EFAULT;
	acpi_reserve(&w, sizeof(struct acpi_rsdp));
	table = acpi_reserve(&w, sizeof(dsdt_aml_code));
	memcpy(table, dsdt_aml_code, sizeof(dsdt_aml_code));
	xsdt.entries[0] = write_fadt(&w, acpi_address(&w, table));
	xsdt.entries[1] = write_madt(&w, cpus);
	xsdt.entries[2] = write_mcfg(&w);
	table = acpi_reserve(&w, sizeof(xsdt));
	memcpy(table, &xsdt, sizeof(xsdt));
	write_rsdp(&w, acpi_finish(&w, table, "XSDT", 1, sizeof(xsdt)));
	return write_reset_vector(mem);
}
