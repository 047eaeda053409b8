/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Start, end, command line and memory
 *
 * Theory of operation: guest_entry calls guest_start() on every vCPU. The first one sets the
 * library up and runs main(); the others wait for that, run cpu_main() and then sleep. Memory is
 * handed out from the region the VMM left free, upwards; there is no free().
 *
 * A guest is the only program of its machine, so what would be the VM's state elsewhere is
 * file-scope state here.
 */
#include "internal.h"

const struct weft_boot *guest_boot;
static volatile bool machine_ready; /* written by the first vCPU, read by the others */
static uintptr_t memory_next;

__attribute__((weak)) void cpu_main(unsigned cpu)
{
	(void)cpu;
}

_Noreturn static void cpu_sleep(void)
{
	for (;;)
		cpu_idle(interrupts_taken);
}

/* Called by guest_entry with the registers of the boot protocol. */
_Noreturn void guest_start(const struct weft_boot *boot, unsigned cpu);
_Noreturn void guest_start(const struct weft_boot *boot, unsigned cpu)
{
	if (cpu) {
		while (!machine_ready)
			cpu_relax();
		cpu_main(cpu);
		cpu_sleep();
	}
	guest_boot = boot;
	if (boot->magic != WEFT_BOOT_MAGIC || boot->version != WEFT_BOOT_VERSION)
		panic("the VMM speaks another boot protocol (version %u)", boot->version);
	interrupt_init();
	time_init();
	memory_init();
	machine_ready = true;
	guest_exit((uint8_t)main());
}

_Noreturn void guest_exit(uint8_t status)
{
	port_write8(WEFT_PORT_EXIT, status);
	cpu_sleep();
}

/*
 * The value of parameter @name ("" for a bare word), ended by a blank or NUL; NULL if it is not
 * there.
 */
static const char *param_find(const char *name)
{
	const char *at = (const char *)guest_boot->command_line;
	size_t len = strlen(name);

	while (*at) {
		while (*at == ' ')
			at++;
		if (!memcmp(at, name, len) && (at[len] == '=' || at[len] == ' ' || !at[len]))
			return at + len + (at[len] == '=');
		while (*at && *at != ' ')
			at++;
	}
	return NULL;
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		return (c | 0x20) - 'a' + 10;
	return 16;
}

uint64_t param_number(const char *name, uint64_t fallback)
{
	const char *at = param_find(name);
	uint64_t value = 0;
	unsigned base = 10;

	if (!at)
		return fallback;
	if (at[0] == '0' && at[1] == 'x') {
		base = 16;
		at += 2;
	}
	do {
		if (digit_value(*at) >= (int)base)
			panic("command line: %s takes a number", name);
		value = value * base + (unsigned)digit_value(*at++);
	} while (*at && *at != ' ');
	return value;
}

bool param_is(const char *name, const char *value)
{
	const char *at = param_find(name);
	size_t len = strlen(value);

	return at && !memcmp(at, value, len) && (at[len] == ' ' || !at[len]);
}

bool param_mac(const char *name, uint8_t mac[6])
{
	const char *at = param_find(name);

	for (unsigned i = 0; at && i < 6; i++, at += 3) {
		if (digit_value(at[0]) > 15 || digit_value(at[1]) > 15)
			return false;
		if (i < 5 ? at[2] != ':' : at[2] && at[2] != ' ')
			return false;
		mac[i] = (uint8_t)(digit_value(at[0]) << 4 | digit_value(at[1]));
	}
	return at;
}

void memory_init(void)
{
	memory_next = guest_boot->free_start;
}

void *memory_take(size_t size, size_t align)
{
	uintptr_t start = (memory_next + align - 1) & -align;

	if (start > guest_boot->free_end || size > guest_boot->free_end - start)
		panic("no memory for %zu bytes: give the VM more with --memory", size);
	memory_next = start + size;
	return memset((void *)start, 0, size);
}

uintptr_t memory_mark(void)
{
	return memory_next;
}

void memory_release(uintptr_t mark)
{
	memory_next = mark;
}
