/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The fixed devices of the platform: serial port, panic port, and the block of control ports. */
#include "vmm/platform.h"

#include <errno.h>

#include "devices/serial.h"
#include "vmm/console.h"
#include "vmm/vm.h"

#define PVPANIC_PANICKED 1 /* QEMU docs/specs/pvpanic: bit 0 */
#define SLEEP_ENABLE     0x20 /* ACPI 6.4, table 4.19 */
#define SLEEP_TYPE_SHIFT 2

/* --- serial --------------------------------------------------------------------------------- */

static uint64_t serial_port_read(void *device, uint64_t offset, unsigned size)
{
	struct vm *vm = device;

	return size == 1 ? serial_read(vm->serial, (unsigned)offset) : ~0ull;
}

static void serial_port_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct vm *vm = device;

	if (size == 1)
		serial_write(vm->serial, (unsigned)offset, (uint8_t)value);
}

static const struct bus_ops serial_ops = {serial_port_read, serial_port_write};

static void serial_transmit(void *context, uint8_t byte)
{
	struct vm *vm = context;

	console_transmit(vm->console, byte);
}

static void serial_irq(void *context, int level)
{
	struct vm *vm = context;

	irq_line(&vm->router, GSI_SERIAL, level);
}

static void serial_room(void *context)
{
	struct vm *vm = context;

	console_input_ready(vm->console);
}

/* --- panic and control ports ---------------------------------------------------------------- */

static uint64_t panic_read(void *device, uint64_t offset, unsigned size)
{
	(void)device, (void)offset, (void)size;
	return PVPANIC_PANICKED; /* the events that are understood */
}

static void panic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	(void)offset, (void)size;
	if (value & PVPANIC_PANICKED)
		vm_finish(device, VM_END_PANIC);
}

static const struct bus_ops panic_ops = {panic_read, panic_write};

static uint64_t control_read(void *device, uint64_t offset, unsigned size)
{
	struct vm *vm = device;

	if (size == 1 && offset == PORT_EVENT - PORT_CONTROL)
		return atomic_exchange(&vm->events, 0);
	return 0;
}

static void control_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct vm *vm = device;

	if (size != 1)
		return;
	switch (PORT_CONTROL + offset) {
	case PORT_EXIT:
		atomic_store(&vm->guest_status, (int)value);
		vm_finish(vm, VM_END_EXIT);
		break;
	case PORT_SLEEP_CONTROL:
		if ((value & SLEEP_ENABLE) && (value >> SLEEP_TYPE_SHIFT & 7) == SLEEP_TYPE_OFF)
			vm_finish(vm, VM_END_POWEROFF);
		break;
	case PORT_RESET:
		if (value == RESET_VALUE)
			vm_finish(vm, VM_END_REBOOT);
		break;
	}
}

static const struct bus_ops control_ops = {control_read, control_write};

int platform_create(struct vm *vm)
{
	struct serial_host host = {
		.transmit = serial_transmit,
		.set_irq = serial_irq,
		.receive_ready = serial_room,
		.context = vm,
	};

	vm->serial = serial_create(&host);
	if (!vm->serial)
		return -errno;
	bus_add(&vm->pio, PORT_SERIAL, SERIAL_PORTS, &serial_ops, vm);
	bus_add(&vm->pio, PORT_PVPANIC, 1, &panic_ops, vm);
	bus_add(&vm->pio, PORT_CONTROL, CONTROL_PORTS, &control_ops, vm);
	return 0;
}

void vm_press_power(struct vm *vm)
{
	atomic_fetch_or(&vm->events, EVENT_POWER_BUTTON);
	irq_line(&vm->router, GSI_EVENT, 1);
	irq_line(&vm->router, GSI_EVENT, 0);
}
