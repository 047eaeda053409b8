/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PCI functions and MSI-X (PCI Local Bus 3.0, 6.1, 6.7, 6.8.2; message format: Intel SDM
 * 3A, 11.11).
 */
#include "pci.h"

#define MSI_ADDRESS	 0xfee00000u
#define MSI_CPU_SHIFT	 12
#define MSIX_ENTRY_WORDS 4
#define MSIX_MASKED	 1u

static void msix_find(struct pci_device *pci)
{
	const volatile uint8_t *cap;
	uint32_t table, pending;

	pci->msix_cap = pci_capability(pci, PCI_CAP_ID_MSIX, 0);
	if (!pci->msix_cap)
		return;
	cap = pci->config + pci->msix_cap;
	table = mmio_read32(cap + PCI_MSIX_TABLE);
	pending = mmio_read32(cap + PCI_MSIX_PBA);
	pci->msix_vectors = (mmio_read16(cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1u;
	pci->msix_table = (volatile uint32_t *)(pci_bar(pci, table & PCI_MSIX_TABLE_BIR) +
						(table & PCI_MSIX_TABLE_OFFSET));
	pci->msix_pending = (volatile uint32_t *)(pci_bar(pci, pending & PCI_MSIX_PBA_BIR) +
						  (pending & PCI_MSIX_PBA_OFFSET));
}

bool pci_open(struct pci_device *pci, unsigned slot)
{
	*pci = (struct pci_device){
	    .config = (volatile uint8_t *)guest_boot->ecam + (slot << 15),
	    .slot = slot,
	};
	if (mmio_read16(pci->config + PCI_VENDOR_ID) == 0xffff)
		return false;
	msix_find(pci);
	return true;
}

bool pci_find(struct pci_device *pci, uint16_t vendor, uint16_t device, unsigned nth)
{
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		const volatile uint8_t *config =
		    (const volatile uint8_t *)guest_boot->ecam + (slot << 15);

		if (mmio_read32(config) == ((uint32_t)device << 16 | vendor) && !nth--)
			return pci_open(pci, slot);
	}
	return false;
}

uint8_t pci_capability(const struct pci_device *pci, uint8_t id, uint8_t after)
{
	uint8_t at = after ? after + PCI_CAP_LIST_NEXT : PCI_CAPABILITY_LIST;

	/* 48: more capabilities do not fit, so a longer list is a loop. */
	for (unsigned i = 0; i < 48; i++) {
		at = mmio_read8(pci->config + at) & ~3;
		if (!at || mmio_read8(pci->config + at) == id)
			return at;
		at += PCI_CAP_LIST_NEXT;
	}
	return 0;
}

uintptr_t pci_bar(const struct pci_device *pci, unsigned bar)
{
	const volatile uint8_t *at = pci->config + PCI_BASE_ADDRESS_0 + 4 * bar;
	uint32_t low = mmio_read32(at);
	uintptr_t address = low & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK;

	if (low & PCI_BASE_ADDRESS_SPACE_IO)
		return 0;
	if ((low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64)
		address |= (uintptr_t)mmio_read32(at + 4) << 32;
	return address;
}

static void msix_flag(const struct pci_device *pci, uint16_t flag, bool on)
{
	volatile uint8_t *flags = pci->config + pci->msix_cap + PCI_MSIX_FLAGS;
	uint16_t value = mmio_read16(flags);

	mmio_write16(flags, on ? value | flag : value & ~flag);
}

void msix_enable(const struct pci_device *pci, bool on)
{
	msix_flag(pci, PCI_MSIX_FLAGS_ENABLE, on);
}

void msix_mask_all(const struct pci_device *pci, bool masked)
{
	msix_flag(pci, PCI_MSIX_FLAGS_MASKALL, masked);
}

void msix_route(const struct pci_device *pci, unsigned entry, unsigned cpu, unsigned vector)
{
	volatile uint32_t *words = pci->msix_table + entry * MSIX_ENTRY_WORDS;

	mmio_write32(&words[3], MSIX_MASKED);
	mmio_write32(&words[0], MSI_ADDRESS | cpu << MSI_CPU_SHIFT);
	mmio_write32(&words[1], 0);
	mmio_write32(&words[2], vector);
	mmio_write32(&words[3], 0);
}

void msix_mask(const struct pci_device *pci, unsigned entry, bool masked)
{
	mmio_write32(&pci->msix_table[entry * MSIX_ENTRY_WORDS + 3], masked ? MSIX_MASKED : 0);
}

bool msix_is_pending(const struct pci_device *pci, unsigned entry)
{
	return mmio_read32(&pci->msix_pending[entry / 32]) >> entry % 32 & 1;
}
