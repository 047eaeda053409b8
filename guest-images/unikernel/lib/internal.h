/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the library share among themselves. */
#ifndef GUEST_INTERNAL_H
#define GUEST_INTERNAL_H

#include "guest.h"

/* Local APIC: offsets of registers, and values; Intel SDM 3A, 11.4.1. */
#define LAPIC_EOI	     0xb0
#define LAPIC_ICR_LOW	     0x300
#define LAPIC_ICR_HIGH	     0x310
#define LAPIC_TIMER_LVT	     0x320
#define LAPIC_TIMER_COUNT    0x380
#define LAPIC_TIMER_DIVIDE   0x3e0
#define LAPIC_ICR_ASSERT     0x4000u
#define LAPIC_TIMER_PERIODIC 0x20000u
#define LAPIC_TIMER_BY_1     0xbu
#define LAPIC_TICK_NS	     1 /* KVM's local APIC timer counts at 1 GHz */

#define VECTOR_SPURIOUS 255
#define EXCEPTIONS	32 /* vectors below are exceptions */

/* Point every gate of the IDT at its stub. */
void interrupt_init(void);
void time_init(void);
void memory_init(void);

#endif
