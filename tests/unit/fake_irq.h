/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Interrupts that are counted instead of raised: irq_signal() for tests without KVM. */
#ifndef WEFT_TEST_FAKE_IRQ_H
#define WEFT_TEST_FAKE_IRQ_H

#include "vmm/irq.h"

#define FAKE_IRQ_VECTORS 128

struct irq_set {
	unsigned count[FAKE_IRQ_VECTORS]; /* signals per vector; atomic */
	unsigned none;			  /* signals of a vector out of range; atomic */
};

/* fake_irq_count - how often was this vector signalled? */
static inline unsigned fake_irq_count(const struct irq_set *set, uint16_t vector)
{
	return __atomic_load_n(&set->count[vector], __ATOMIC_ACQUIRE);
}

#endif
