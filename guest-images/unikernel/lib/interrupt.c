/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupts
 *
 * Theory of operation: every vector's gate leads to a stub in entry.S, which saves the registers
 * and calls interrupt_dispatch(). An exception ends in a panic. An interrupt calls the handler
 * registered for its vector; one that nobody asked for panics as well, since in these guests it can
 * only be a mistake. Gates are trap gates: IF stays on, as iretq at ring 3 could not set it again.
 */
#include "internal.h"

/* Intel SDM 3A, 6.14.1. */
struct idt_gate {
	uint16_t offset_low, selector;
	uint8_t stack, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};

#define GATE_TRAP_DPL3 0xef /* present, DPL 3, 64-bit trap gate */

/* What the stubs push, lowest address first. */
struct interrupt_frame {
	uint64_t r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

struct interrupt_handler {
	void (*call)(void *context);
	void *context;
};

extern const char interrupt_stubs[], cpu_idle_check[], cpu_idle_end[];
void interrupt_dispatch(struct interrupt_frame *frame);

volatile uint32_t interrupts_taken;
volatile uint32_t *lapic_eoi; /* for entry.S */
static struct interrupt_handler handlers[256]; /* by vector */

void interrupt_init(void)
{
	struct idt_gate *gates = (struct idt_gate *)guest_boot->idt;

	lapic_eoi = (volatile uint32_t *)(guest_boot->lapic + LAPIC_EOI);
	for (unsigned i = 0; i < 256; i++) {
		uintptr_t stub = (uintptr_t)interrupt_stubs + 16 * i;

		gates[i] = (struct idt_gate){
		    .offset_low = (uint16_t)stub,
		    .selector = WEFT_USER_CODE,
		    .type = GATE_TRAP_DPL3,
		    .offset_middle = (uint16_t)(stub >> 16),
		    .offset_high = (uint32_t)(stub >> 32),
		};
	}
}

void interrupt_handle(unsigned vector, void (*handler)(void *context), void *context)
{
	if (vector < VECTOR_FIRST || vector > VECTOR_LAST)
		panic("interrupt_handle: no vector %u", vector);
	handlers[vector].context = context;
	compiler_barrier();
	handlers[vector].call = handler;
}

/* Intel SDM 3A, 11.5.4. */
void timer_start(uint32_t period_ns, unsigned vector)
{
	volatile uint8_t *lapic = (volatile uint8_t *)guest_boot->lapic;

	mmio_write32(lapic + LAPIC_TIMER_DIVIDE, LAPIC_TIMER_BY_1);
	mmio_write32(lapic + LAPIC_TIMER_LVT, LAPIC_TIMER_PERIODIC | vector);
	mmio_write32(lapic + LAPIC_TIMER_COUNT, period_ns / LAPIC_TICK_NS);
}

void interrupt_send(unsigned cpu, unsigned vector)
{
	volatile uint8_t *lapic = (volatile uint8_t *)guest_boot->lapic;

	mmio_write32(lapic + LAPIC_ICR_HIGH, cpu << 24);
	mmio_write32(lapic + LAPIC_ICR_LOW, LAPIC_ICR_ASSERT | vector);
}

void interrupt_dispatch(struct interrupt_frame *frame)
{
	const struct interrupt_handler *handler = &handlers[frame->vector];

	if (frame->vector < EXCEPTIONS)
		panic("exception %lu, error code 0x%lx, rip 0x%lx, rsp 0x%lx", frame->vector,
		      frame->error, frame->rip, frame->rsp);
	if (frame->vector == VECTOR_SPURIOUS)
		return;
	if (!handler->call)
		panic("interrupt on vector %lu, which nobody handles", frame->vector);
	__atomic_fetch_add(&interrupts_taken, 1, __ATOMIC_RELAXED);
	handler->call(handler->context);
	if (frame->rip - (uintptr_t)cpu_idle_check <
	    (uintptr_t)cpu_idle_end - (uintptr_t)cpu_idle_check)
		frame->rip = (uintptr_t)cpu_idle_end;
}
