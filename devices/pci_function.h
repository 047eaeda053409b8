/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a device shows of itself on the PCI bus: the contract between devices/ and the VMM's PCI bus.
 *
 * A device fills in a struct pci_function; vmm/pci.c owns the bus: configuration header, BAR decoding,
 * the MSI-X capability with its table and pending bits (BAR 1), and the binding of doorbells to
 * ioeventfds wherever BAR 0 is mapped.
 */
#ifndef WEFT_PCI_FUNCTION_H
#define WEFT_PCI_FUNCTION_H

#include <stdint.h>

#define PCI_CONFIG_SIZE    256
#define PCI_CAPS_START     0x40 /* vendor capabilities are laid from here on */
#define PCI_DOORBELLS_MAX  64
#define PCI_MSIX_MAX       128

struct irq_set;
struct pci_function;

/* A write of any size to BAR 0 + offset is counted in the eventfd instead of exiting to the VMM. */
struct pci_doorbell {
	uint32_t offset; /* in BAR 0, bytes */
	int fd;          /* eventfd */
};

struct pci_function_ops {
	/*
	 * BAR 0 access from a vCPU thread. @size is 1, 2, 4 or 8 bytes, @offset + @size lies inside the
	 * BAR; anything else is filtered by the bus. Values are little endian numbers.
	 */
	uint64_t (*bar_read)(struct pci_function *fn, uint32_t offset, unsigned size);
	void (*bar_write)(struct pci_function *fn, uint32_t offset, unsigned size, uint64_t value);
	/*
	 * Optional hooks on the vendor capabilities in fn->config (virtio's PCI_CFG window): before a
	 * read of, and after a write to [offset, offset + size). Called with the bus lock held.
	 */
	void (*config_reading)(struct pci_function *fn, unsigned offset, unsigned size);
	void (*config_written)(struct pci_function *fn, unsigned offset, unsigned size);
	/* Bring the function to its power-on state. vCPUs are stopped. */
	void (*reset)(struct pci_function *fn);
};

struct pci_function {
	const struct pci_function_ops *ops;
	const char *name;
	uint16_t vendor_id, device_id, subsystem_vendor_id, subsystem_id;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	uint8_t revision;
	uint32_t bar0_size;     /* bytes, a power of two, at least 4096 */
	uint16_t msix_vectors;  /* 1..PCI_MSIX_MAX */
	/*
	 * Vendor capabilities (at least one), laid by the device from PCI_CAPS_START on and chained among
	 * themselves; the bus appends MSI-X behind the last one. config_mask has a 1 for
	 * every bit of that area which the guest may write.
	 */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t config_mask[PCI_CONFIG_SIZE];
	uint8_t caps_first; /* offset of the first vendor capability */
	uint8_t caps_last;  /* offset of the last one */
	uint8_t caps_end;   /* first free byte behind them, a multiple of 4 */
	struct pci_doorbell doorbells[PCI_DOORBELLS_MAX];
	unsigned doorbell_count;
	struct irq_set *irqs; /* set by the bus when the function is attached */
	void *bus_private;    /* vmm/pci.c's own */
};

#endif
