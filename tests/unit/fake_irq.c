/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/fake_irq.h"

#include <stddef.h>

void irq_signal(struct irq_set *set, uint16_t vector)
{
	if (!set)
		return;
	if (vector < FAKE_IRQ_VECTORS)
		__atomic_fetch_add(&set->count[vector], 1, __ATOMIC_RELEASE);
	else
		__atomic_fetch_add(&set->none, 1, __ATOMIC_RELEASE);
}
