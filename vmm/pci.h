/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PCI bus: bus 0 of one segment, a host bridge in slot 0, functions in slots 1 to 31. */
#ifndef WEFT_PCI_H
#define WEFT_PCI_H

#include "devices/pci_function.h"
#include "vmm/bus.h"
#include "vmm/irq_router.h"

#define PCI_SLOTS 32

struct pci_bus;

/* pci_create - an empty bus whose configuration ports, ECAM and BAR window are added to the two buses. */
struct pci_bus *pci_create(struct bus *pio, struct bus *mmio, struct irq_router *router);
/* pci_destroy - takes the functions off the bus; they are destroyed by their makers afterwards. */
void pci_destroy(struct pci_bus *pci);

/* pci_attach - put a function into the next free slot. Returns 0, -ENOSPC, or -errno of its vectors. */
int pci_attach(struct pci_bus *pci, struct pci_function *fn);

/* pci_start - there is a KVM VM: bind the doorbells where the BARs are. Returns 0 or -errno. */
int pci_start(struct pci_bus *pci, int vm_fd);
/* pci_stop - the VM is about to be closed: reset every function, unbind doorbells and vectors. */
void pci_stop(struct pci_bus *pci);

#endif
