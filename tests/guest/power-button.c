/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 16M
// expect: 0
// on-output: waiting => SIGTERM
/* The power button sets its bit in the event register, which a read clears. */
#include "check.h"

#define EVENT_REGISTER 0x605
#define EVENT_BUTTON   1

static void timer_interrupt(void *context)
{
	(void)context;
}

int main(void)
{
	uint64_t start = time_ns();
	uint8_t events;

	check(!port_read8(EVENT_REGISTER), "power-button/not pressed", "an event is there");
	interrupt_handle(VECTOR_FIRST, timer_interrupt, NULL);
	timer_start(10000000, VECTOR_FIRST);
	printf("waiting\n");
	while (!(events = port_read8(EVENT_REGISTER)) && time_ns() - start < PATIENCE_NS)
		cpu_idle(interrupts_taken);
	check(events == EVENT_BUTTON, "power-button/pressed", "the register reads 0x%x", events);
	check(!port_read8(EVENT_REGISTER), "power-button/cleared", "a read does not clear it");
	return check_status();
}
