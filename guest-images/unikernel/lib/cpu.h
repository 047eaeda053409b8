/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The instructions C does not have: ports, device memory, barriers, time stamps. */
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include <stddef.h>
#include <stdint.h>

static inline void port_write8(uint16_t port, uint8_t value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void port_write16(uint16_t port, uint16_t value)
{
	asm volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void port_write32(uint16_t port, uint32_t value)
{
	asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t port_read8(uint16_t port)
{
	uint8_t value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint16_t port_read16(uint16_t port)
{
	uint16_t value;

	asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint32_t port_read32(uint16_t port)
{
	uint32_t value;

	asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline void port_write_string(uint16_t port, const void *data, size_t len)
{
	asm volatile("rep outsb" : "+S"(data), "+c"(len) : "d"(port) : "memory");
}

static inline void port_read_string(uint16_t port, void *data, size_t len)
{
	asm volatile("rep insb" : "+D"(data), "+c"(len) : "d"(port) : "memory");
}

/*
 * Device memory goes through plain MOVs only: every hypervisor's instruction emulator knows those.
 */
#define MMIO_ACCESS(bits, suffix, reg)                                                             \
	static inline uint##bits##_t mmio_read##bits(const volatile void *address)                 \
	{                                                                                          \
		uint##bits##_t value;                                                              \
                                                                                                   \
		asm volatile("mov" suffix " %1, %0"                                                \
			     : "=" reg(value)                                                      \
			     : "m"(*(const volatile uint##bits##_t *)address)                      \
			     : "memory");                                                          \
		return value;                                                                      \
	}                                                                                          \
	static inline void mmio_write##bits(volatile void *address, uint##bits##_t value)          \
	{                                                                                          \
		asm volatile("mov" suffix " %1, %0"                                                \
			     : "=m"(*(volatile uint##bits##_t *)address)                           \
			     : reg(value)                                                          \
			     : "memory");                                                          \
	}

MMIO_ACCESS(8, "b", "q")
MMIO_ACCESS(16, "w", "r")
MMIO_ACCESS(32, "l", "r")
MMIO_ACCESS(64, "q", "r")

static inline void compiler_barrier(void)
{
	asm volatile("" : : : "memory");
}

/* Orders a store before a later load; every other pair x86 keeps in order by itself. */
static inline void full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void cpu_relax(void)
{
	asm volatile("pause" : : : "memory");
}

static inline uint64_t tsc_read(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

#endif
