/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PCI: functions of bus 0 through the memory-mapped configuration space, and MSI-X. */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include <linux/pci_regs.h>

#include "guest.h"

#define PCI_SLOTS 32

struct pci_device {
	volatile uint8_t *config; /* 4096 bytes of configuration space; use mmio_read/write */
	unsigned slot;
	uint8_t msix_cap;	       /* offset of the MSI-X capability, 0: none */
	unsigned msix_vectors;	       /* entries of the table */
	volatile uint32_t *msix_table; /* 4 words an entry: address low, high, data, control */
	volatile uint32_t *msix_pending;
};

/* pci_open - the function in a slot. Returns false for an empty slot. */
bool pci_open(struct pci_device *pci, unsigned slot);
/* pci_find - the @nth (0...) function with these ids. */
bool pci_find(struct pci_device *pci, uint16_t vendor, uint16_t device, unsigned nth);
/* pci_capability - offset of the next capability of this id behind @after (0: the first), or 0. */
uint8_t pci_capability(const struct pci_device *pci, uint8_t id, uint8_t after);
/* pci_bar - address a memory BAR decodes, 32 or 64 bits wide; 0 if there is none. */
uintptr_t pci_bar(const struct pci_device *pci, unsigned bar);

/* msix_enable - switch MSI-X on or off for the function; table entries are masked until routed. */
void msix_enable(const struct pci_device *pci, bool on);
/* msix_route - have table entry @entry raise @vector on vCPU @cpu, and unmask it. */
void msix_route(const struct pci_device *pci, unsigned entry, unsigned cpu, unsigned vector);
/* msix_mask - set the mask bit of one entry. */
void msix_mask(const struct pci_device *pci, unsigned entry, bool masked);
/* msix_mask_all - set the mask bit of the function. */
void msix_mask_all(const struct pci_device *pci, bool masked);
/* msix_is_pending - the entry's pending bit. */
bool msix_is_pending(const struct pci_device *pci, unsigned entry);

#endif
