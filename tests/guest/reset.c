/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --disk {disk:64K} --rng
// expect-output: start 0
// expect-output: resetting
// expect-output: start 1
// expect-output: resetting
// expect-output: start 2
/*
 * The ACPI reset register starts the machine afresh: memory is zero, devices are in their initial
 * state, BARs and MSI-X as well. The disk's first sector tells the guest which start this is.
 */
#include <linux/virtio_blk.h>

#include "check.h"
#include "virtio.h"

#define RESET_PORT  0x604 /* ACPI 6.4, 4.8.3.6 */
#define RESET_VALUE 1
#define STARTS	    3
#define MARK	    0x5a

static uint8_t sector[512];

static bool disk_request(struct ring *ring, uint32_t type)
{
	static struct virtio_blk_outhdr header;
	static volatile uint8_t status;
	struct segment segments[] = {{&header, sizeof(header)}, {sector, 512}, {&status, 1}};

	header.type = type;
	status = 0xff;
	ring_add(ring, segments, type == VIRTIO_BLK_T_OUT ? 2 : 1,
		 type == VIRTIO_BLK_T_OUT ? 1 : 2);
	ring_kick(ring);
	return ring_wait(ring, NULL, 5000000000ull) >= 0 && status == VIRTIO_BLK_S_OK;
}

/* Memory that the first start filled must be zero on the next. */
static bool memory_is_zero(void)
{
	const uint64_t *words = (const uint64_t *)(guest_boot->free_start + (8 << 20));

	for (unsigned i = 0; i < 4096; i++)
		if (words[i])
			return false;
	return true;
}

/* Leave everything in a state that the reset has to undo. */
static void machine_disturb(void)
{
	struct pci_device rng;

	memset((void *)(guest_boot->free_start + (8 << 20)), MARK, 32768);
	if (!pci_find(&rng, VIRTIO_VENDOR, 0x1040 + VIRTIO_ID_RNG, 0))
		panic("no entropy device");
	msix_enable(&rng, true);
	msix_route(&rng, 0, 0, VECTOR_FIRST);
	mmio_write32(rng.config + PCI_BASE_ADDRESS_0, 0xd8000000);
	mmio_write16(rng.config + PCI_COMMAND, 0);
}

static void machine_check(const uint8_t *common_status)
{
	struct pci_device rng;

	check(memory_is_zero(), "reset/memory", "memory is not zero");
	check(!*common_status, "reset/device", "the disk's status is 0x%x", *common_status);
	if (!check(pci_find(&rng, VIRTIO_VENDOR, 0x1040 + VIRTIO_ID_RNG, 0), "reset/pci",
		   "the entropy device is gone"))
		return;
	check(mmio_read16(rng.config + PCI_COMMAND) & PCI_COMMAND_MEMORY, "reset/command",
	      "memory decoding is off");
	check(pci_bar(&rng, 0) != 0xd8000000, "reset/bar", "the BAR is where it was moved to");
	check(!(mmio_read16(rng.config + rng.msix_cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_ENABLE),
	      "reset/msix", "MSI-X is enabled");
	check(mmio_read32(&rng.msix_table[3]) == 1 && !mmio_read32(&rng.msix_table[2]),
	      "reset/msix table", "entry 0 is not masked and empty");
}

/* The disk's status register as the machine started, before virtio_find() resets it. */
static uint8_t disk_status(void)
{
	struct pci_device disk;

	if (!pci_find(&disk, VIRTIO_VENDOR, 0x1040 + VIRTIO_ID_BLOCK, 0))
		panic("no disk");
	for (uint8_t at = 0; (at = pci_capability(&disk, PCI_CAP_ID_VNDR, at));)
		if (mmio_read8(disk.config + at + VIRTIO_PCI_CAP_CFG_TYPE) ==
		    VIRTIO_PCI_CAP_COMMON_CFG)
			return mmio_read8((volatile uint8_t *)pci_bar(&disk, 0) +
					  mmio_read32(disk.config + at + VIRTIO_PCI_CAP_OFFSET) +
					  VIRTIO_PCI_COMMON_STATUS);
	return 0xff;
}

int main(void)
{
	uint8_t status = disk_status();
	struct virtio disk;
	struct ring ring;
	bool written;

	if (!virtio_find(&disk, VIRTIO_ID_BLOCK, 0) || !virtio_negotiate(&disk, 0) ||
	    !ring_init(&ring, &disk, 0, 16))
		panic("no disk");
	virtio_start(&disk);
	if (!check(disk_request(&ring, VIRTIO_BLK_T_IN), "reset/disk read", "failed"))
		return check_status();
	printf("start %u\n", sector[0]);
	if (sector[0])
		machine_check(&status);
	if (++sector[0] == STARTS)
		return check_status();
	written = disk_request(&ring, VIRTIO_BLK_T_OUT);
	if (!check(written, "reset/disk write", "failed") || check_status())
		return 1;
	machine_disturb();
	port_write8(RESET_PORT, RESET_VALUE + 1); /* not the value: nothing happens */
	printf("resetting\n");
	port_write8(RESET_PORT, RESET_VALUE);
	return !check(false, "reset/port", "the guest runs on");
}
