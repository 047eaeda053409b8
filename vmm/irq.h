/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupts as a device sees them: a set of numbered MSI-X vectors that can be signalled.
 *
 * Each vector is an eventfd bound to a KVM message route (irqfd). The set belongs to the PCI function;
 * irq_signal() may be called from any thread.
 */
#ifndef WEFT_IRQ_H
#define WEFT_IRQ_H

#include <stdint.h>

#define IRQ_NO_VECTOR 0xffff /* virtio 1.2, 4.1.5.1.2: VIRTIO_MSI_NO_VECTOR */

struct irq_set;

/**
 * irq_signal - raise one vector of a set.
 * @vector: index in the function's MSI-X table; out of range (IRQ_NO_VECTOR) does nothing
 *
 * One eventfd write. A masked vector keeps the signal until it is unmasked (PCI 3.0, 6.8.2.9).
 */
void irq_signal(struct irq_set *set, uint16_t vector);

#endif
