/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio-over-PCI transport (virtio 1.2, 4.1), modern only, MSI-X only. */
#ifndef WEFT_VIRTIO_PCI_H
#define WEFT_VIRTIO_PCI_H

#include "devices/pci_function.h"
#include "devices/virtio.h"

struct virtio_pci;

/**
 * virtio_pci_create - put a virtio device on a PCI function.
 * @dev:  the device; ops, features_offered, queue_count, queues[].size_max, mem and loop are set
 *
 * Creates the doorbell eventfds and watches them on dev->loop. Returns NULL with errno set.
 * The function to attach to the bus is virtio_pci_function().
 */
struct virtio_pci *virtio_pci_create(struct virtio_device *dev);
struct pci_function *virtio_pci_function(struct virtio_pci *vp);
/* virtio_pci_destroy - stop the device and free the transport; the device itself is its maker's. NULL is fine. */
void virtio_pci_destroy(struct virtio_pci *vp);

#endif
