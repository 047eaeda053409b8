/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ACPI tables: hardware-reduced, just enough for a stock kernel to find CPUs, PCI and the power button. */
#ifndef WEFT_ACPI_H
#define WEFT_ACPI_H

#include "vmm/memory.h"

/**
 * acpi_write - lay the tables into guest memory at RSDP_BASE, and a reset at RESET_VECTOR for kernels that reboot there.
 * @cpus: vCPUs, 1..VCPUS_MAX; their local APIC ids are 0..cpus-1
 *
 * Returns 0, or -EFAULT where guest memory ends before that.
 */
int acpi_write(const struct guest_memory *mem, unsigned cpus);

#endif
