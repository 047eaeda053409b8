/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The platform: where everything is that a guest can address besides RAM. One page that the ACPI
 * tables, the page tables of unikernels and the buses agree on.
 */
#ifndef WEFT_PLATFORM_H
#define WEFT_PLATFORM_H

#include "guest-images/unikernel/weft_boot.h"
#include "vmm/memory.h"

/* I/O ports. The first two of the block, exit and idle, are in weft_boot.h. */
#define PORT_SERIAL        WEFT_PORT_SERIAL
#define PORT_PVPANIC       WEFT_PORT_PANIC
#define PORT_CONTROL       WEFT_PORT_EXIT /* a block of CONTROL_PORTS ports: */
#define CONTROL_PORTS      6
#define PORT_EXIT          WEFT_PORT_EXIT
#define PORT_IDLE          WEFT_PORT_IDLE
#define PORT_SLEEP_CONTROL 0x602 /* ACPI 6.4, 4.8.3.7 */
#define PORT_SLEEP_STATUS  0x603
#define PORT_RESET         0x604 /* ACPI 6.4, 4.8.3.6; write RESET_VALUE */
#define PORT_EVENT         0x605 /* generic event device: read and clear */
#define PORT_PCI_CONFIG    0xcf8 /* PCI local bus 3.0, 3.2.2.3.2 */

#define RESET_VALUE        1
#define SLEEP_TYPE_OFF     5 /* _S5 */
#define EVENT_POWER_BUTTON 1

/* Interrupt lines of the I/O APIC (GSIs). */
#define GSI_SERIAL         4
#define GSI_EVENT          5
#define GSI_MSI_FIRST      24 /* the I/O APIC has 24 pins; message routes follow */

/* The 32-bit device hole, inside [MEMORY_HOLE_START, MEMORY_HOLE_END). */
#define ECAM_BASE          0xc0000000ull /* configuration space of bus 0 */
#define ECAM_SIZE          0x100000ull
#define PCI_WINDOW_BASE    0xd0000000ull /* BARs are placed from here on */
#define PCI_WINDOW_SIZE    0x10000000ull
#define IOAPIC_BASE        0xfec00000ull
#define LAPIC_BASE         0xfee00000ull
#define KVM_TSS_BASE       0xfffbd000ull /* three pages KVM asks for on Intel */
#define KVM_IDENTITY_BASE  0xfffbc000ull

/* Low memory, bytes: what the VMM lays out for the guest before it starts. */
#define ZERO_PAGE          0x7000ull     /* boot_params or hvm_start_info */
#define CMDLINE_BASE       0x20000ull
#define CMDLINE_MAX        65536ull
#define BOOT_GDT           0x500ull
#define BOOT_PAGE_TABLES   0x9000ull     /* PML4, PDPT, four PDs: identity map of 4 GiB */
#define RSDP_BASE          0xe0000ull    /* ACPI tables; 0x9fc00..0xfffff is not RAM to the guest */
#define ACPI_SIZE          0x10000ull
#define RESET_VECTOR       0xffff0ull    /* F000:FFF0 in real mode */
#define LOW_RAM_END        0x9fc00ull
#define HIGH_RAM_START     0x100000ull

#endif
