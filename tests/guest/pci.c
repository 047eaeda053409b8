/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --rng --net mac=52:54:00:00:00:01 --disk {disk:64K}
/*
 * Configuration space: what is there, sizes and offsets, BAR sizing and moving, the old ports, the
 * keyhole.
 */
#include "check.h"
#include "worker.h"

#define BAR_NEW	     0xd8000000u
#define PORT_ADDRESS 0xcf8
#define PORT_DATA    0xcfc
#define QUIET_NS     20000000ull

static void test_walk(void)
{
	unsigned virtio = 0, bridges = 0, others = 0;
	struct pci_device pci;

	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		if (!pci_open(&pci, slot))
			continue;
		if (mmio_read16(pci.config + PCI_VENDOR_ID) == VIRTIO_VENDOR)
			virtio++;
		else if (mmio_read16(pci.config + PCI_CLASS_DEVICE) == 0x0600)
			bridges++;
		else
			others++;
		if (mmio_read8(pci.config + PCI_HEADER_TYPE))
			check(false, "pci/header", "slot %u has header type 0x%x", slot,
			      mmio_read8(pci.config + PCI_HEADER_TYPE));
	}
	check(virtio == 3 && bridges == 1 && !others, "pci/walk",
	      "%u virtio, %u bridges, %u others", virtio, bridges, others);
	check(mmio_read32((void *)(guest_boot->ecam + (31 << 15))) == 0xffffffff &&
		  mmio_read8((void *)(guest_boot->ecam + (31 << 15) + 9)) == 0xff,
	      "pci/absent slot", "does not read as all ones");
	check(mmio_read32((void *)(guest_boot->ecam + (1 << 12))) == 0xffffffff,
	      "pci/absent function", "does not read as all ones");
}

/*
 * The same register by all sizes; what is odd reads as all ones or as the bytes, and changes
 * nothing.
 */
static void test_sizes(const struct pci_device *pci)
{
	uint32_t id = mmio_read32(pci->config);
	uint32_t bar = mmio_read32(pci->config + PCI_BASE_ADDRESS_0);

	check(mmio_read16(pci->config) == (uint16_t)id &&
		  mmio_read16(pci->config + 2) == id >> 16 &&
		  mmio_read8(pci->config + 1) == (uint8_t)(id >> 8),
	      "pci/sizes", "1, 2 and 4 bytes differ");
	for (unsigned offset = 0; offset < 260; offset++) {
		mmio_read16(pci->config + offset);
		mmio_read32(pci->config + offset);
		mmio_read64(pci->config + offset);
	}
	mmio_write32(pci->config + PCI_VENDOR_ID, 0);
	mmio_write16(pci->config + PCI_BASE_ADDRESS_0 + 3, 0);
	mmio_write32(pci->config + PCI_BASE_ADDRESS_0 + 1, 0);
	mmio_write64(pci->config + PCI_BASE_ADDRESS_0, 0);
	check(mmio_read32(pci->config) == id, "pci/read-only", "the ids can be written");
	check(mmio_read32(pci->config + PCI_BASE_ADDRESS_0) == bar, "pci/odd writes",
	      "an odd write moved BAR 0 to 0x%x", mmio_read32(pci->config + PCI_BASE_ADDRESS_0));
	check(mmio_read32(pci->config + 0x100) == 0, "pci/extended", "0x%x",
	      mmio_read32(pci->config + 0x100));
}

static void test_bar(struct worker *rng)
{
	volatile uint8_t *config = rng->dev.pci.config, *bar = config + PCI_BASE_ADDRESS_0;
	uint32_t old = mmio_read32(bar), size;

	mmio_write32(bar, 0xffffffff);
	size = ~(mmio_read32(bar) & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK) + 1;
	mmio_write32(bar, old);
	check(size >= 4096 && !(size & (size - 1)), "pci/bar size", "0x%x", size);
	check(worker_start(rng, 0) && worker_works(rng), "pci/bar put back", "the device is lost");

	mmio_write32(bar, BAR_NEW);
	check(pci_bar(&rng->dev.pci, 0) == BAR_NEW, "pci/bar moved", "0x%lx",
	      pci_bar(&rng->dev.pci, 0));
	check(mmio_read32((void *)(uintptr_t)old) == 0xffffffff, "pci/old address",
	      "still answers");
	worker_find(rng, rng->kind);
	check((uintptr_t)rng->dev.common >= BAR_NEW, "pci/new address", "%p",
	      (void *)rng->dev.common);
	check(worker_start(rng, 0) && worker_works(rng), "pci/works at the new address",
	      "it does not");

	worker_post(rng);
	ring_publish(&rng->ring);
	mmio_write16((void *)(uintptr_t)(old + ((uintptr_t)rng->ring.doorbell - BAR_NEW)), 0);
	check(ring_wait(&rng->ring, NULL, QUIET_NS) < 0, "pci/old doorbell", "still rings");
	ring_notify(&rng->ring);
	check(ring_wait(&rng->ring, NULL, PATIENCE_NS) >= 0, "pci/new doorbell", "does not ring");

	mmio_write16(config + PCI_COMMAND, 0);
	check(mmio_read32(rng->dev.common) == 0xffffffff, "pci/decoding off", "still answers");
	mmio_write16(rng->dev.notify, 0);
	mmio_write16(config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	check(worker_works(rng), "pci/decoding on", "the device does not work");
	mmio_write32(bar, old);
	worker_find(rng, rng->kind);
}

/* Two devices at one address, or one outside of the window: whatever answers, nothing breaks. */
static void test_overlap(struct worker *rng)
{
	volatile uint8_t *bar = rng->dev.pci.config + PCI_BASE_ADDRESS_0;
	uint32_t old = mmio_read32(bar);
	struct pci_device net;

	if (!pci_find(&net, VIRTIO_VENDOR, 0x1040 + VIRTIO_ID_NET, 0))
		panic("no network card");
	mmio_write32(bar, (uint32_t)pci_bar(&net, 0));
	mmio_read32((void *)pci_bar(&net, 0));
	mmio_write16((void *)(pci_bar(&net, 0) + 0x3000), 0);
	mmio_write32(bar, 0xfee00000); /* the local APIC */
	mmio_write32(bar, 0x00100000); /* this program */
	mmio_write32(bar, 0xfffff000);
	mmio_write32(bar, 0);
	mmio_write32(bar, old);
	check(worker_start(rng, 0) && worker_works(rng), "pci/overlap", "the device is lost");
}

static void test_ports(const struct pci_device *pci)
{
	uint32_t address = 0x80000000 | pci->slot << 11;

	port_write32(PORT_ADDRESS, address);
	check(port_read32(PORT_ADDRESS) == address, "pci/port address", "0x%x",
	      port_read32(PORT_ADDRESS));
	check(port_read32(PORT_DATA) == mmio_read32(pci->config) &&
		  port_read16(PORT_DATA + 2) == mmio_read16(pci->config + 2) &&
		  port_read8(PORT_DATA + 1) == mmio_read8(pci->config + 1),
	      "pci/ports", "differ from the memory-mapped space");
	port_write32(PORT_ADDRESS, 0x80000000 | 31 << 11);
	check(port_read32(PORT_DATA) == 0xffffffff, "pci/ports, absent slot", "0x%x",
	      port_read32(PORT_DATA));
	port_write32(PORT_ADDRESS, 0x80ff0000);
	check(port_read32(PORT_DATA) == 0xffffffff, "pci/ports, absent bus", "0x%x",
	      port_read32(PORT_DATA));
	port_write32(PORT_ADDRESS, 0);
	check(port_read32(PORT_DATA) == 0xffffffff, "pci/ports, disabled", "0x%x",
	      port_read32(PORT_DATA));
}

/* virtio 1.2, 4.1.4.9: registers through configuration space alone; nonsense does nothing. */
static void test_keyhole(struct worker *rng)
{
	volatile uint8_t *config = rng->dev.pci.config, *cap = NULL;
	uint32_t bar = (uint32_t)pci_bar(&rng->dev.pci, 0);
	uint8_t at = 0;

	while ((at = pci_capability(&rng->dev.pci, PCI_CAP_ID_VNDR, at)))
		if (mmio_read8(config + at + VIRTIO_PCI_CAP_CFG_TYPE) == VIRTIO_PCI_CAP_PCI_CFG)
			cap = config + at;
	if (!check(cap, "pci/keyhole", "there is none"))
		return;
	worker_start(rng, 0);
	mmio_write8(cap + VIRTIO_PCI_CAP_BAR, 0);
	mmio_write32(cap + VIRTIO_PCI_CAP_LENGTH, 1);
	mmio_write32(cap + VIRTIO_PCI_CAP_OFFSET,
		     (uint32_t)(uintptr_t)rng->dev.common - bar + VIRTIO_PCI_COMMON_STATUS);
	check(mmio_read8(cap + 16) == virtio_status(&rng->dev), "pci/keyhole read",
	      "0x%x, not 0x%x", mmio_read8(cap + 16), virtio_status(&rng->dev));
	for (uint32_t length = 0; length < 9; length++) {
		mmio_write32(cap + VIRTIO_PCI_CAP_LENGTH, length);
		mmio_write32(cap + VIRTIO_PCI_CAP_OFFSET, 0xfffffffc + length);
		mmio_write8(cap + VIRTIO_PCI_CAP_BAR, (uint8_t)length);
		mmio_read32(cap + 16);
		mmio_write32(cap + 16, 0xffffffff);
	}
	check(worker_works(rng), "pci/keyhole nonsense", "the device does not work");
}

int main(void)
{
	struct worker rng;

	if (!worker_find(&rng, &worker_kinds[WORKER_RNG]))
		panic("no entropy device");
	test_walk();
	test_sizes(&rng.dev.pci);
	test_bar(&rng);
	test_overlap(&rng);
	test_ports(&rng.dev.pci);
	test_keyhole(&rng);
	return check_status();
}
