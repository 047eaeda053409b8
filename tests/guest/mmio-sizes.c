/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --rng --net mac=52:54:00:00:00:01
/*
 * A21: device memory and ports at every size and offset, across the ends of windows, and where
 * nothing is.
 */
#include "check.h"
#include "worker.h"

#define EMPTY_WINDOW 0xdffff000ull /* the end of the PCI window, where no BAR is */
#define OUTSIDE	     0xe0000000ull /* the device hole behind it */
#define PORT_UNKNOWN 0x5f0
#define EVERY_ONE    0xffffffffffffffffull

/* 16 bytes by SSE, which the rest of the guest does not use. */
static void read16(uint64_t address, void *data)
{
	asm volatile("movdqu (%0), %%xmm0\n\tmovdqu %%xmm0, (%1)"
		     :
		     : "r"(address), "r"(data)
		     : "memory");
}

static void write16(uint64_t address, const void *data)
{
	asm volatile("movdqu (%1), %%xmm0\n\tmovdqu %%xmm0, (%0)"
		     :
		     : "r"(address), "r"(data)
		     : "memory");
}

static bool is_ones(const uint8_t *data, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		if (data[i] != 0xff)
			return false;
	return true;
}

static void test_nowhere(uint64_t at, const char *name)
{
	const volatile void *address = (const volatile void *)at;
	uint8_t data[16] = {0};

	check(mmio_read8(address) == 0xff && mmio_read16(address) == 0xffff &&
		  mmio_read32(address) == 0xffffffff && mmio_read64(address) == EVERY_ONE,
	      name, "a read does not give all ones");
	read16(at, data);
	check(is_ones(data, 16), name, "a 16-byte read does not give all ones");
	mmio_write64((volatile void *)at, 0);
	write16(at, data);
}

static uint64_t read_size(const volatile uint8_t *at, unsigned size)
{
	switch (size) {
	case 1:
		return mmio_read8(at);
	case 2:
		return mmio_read16(at);
	case 4:
		return mmio_read32(at);
	default:
		return mmio_read64(at);
	}
}

static void write_size(volatile uint8_t *at, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		mmio_write8(at, (uint8_t)value);
		break;
	case 2:
		mmio_write16(at, (uint16_t)value);
		break;
	case 4:
		mmio_write32(at, (uint32_t)value);
		break;
	default:
		mmio_write64(at, value);
	}
}

/* Every offset in and behind a block of registers, read and written with every size. */
static void sweep(volatile uint8_t *block, unsigned length)
{
	for (unsigned offset = 0; offset < length; offset++)
		for (unsigned size = 1; size <= 8; size *= 2) {
			read_size(block + offset, size);
			write_size(block + offset, size, 0x5a5a5a5a5a5a5a5aull);
		}
	for (unsigned offset = 0; offset < length; offset += 16) {
		uint8_t data[16];

		read16((uintptr_t)block + offset, data);
		write16((uintptr_t)block + offset, data);
	}
}

/* Accesses that begin inside of a BAR and end behind it. */
static void test_crossing(const struct virtio *dev, const char *name)
{
	uintptr_t end = pci_bar(&dev->pci, 0) + 0x4000, msix = pci_bar(&dev->pci, 1) + 0x1000;
	uint8_t data[16];

	for (unsigned before = 1; before < 8; before++) {
		mmio_read64((void *)(end - before));
		mmio_write64((void *)(end - before), EVERY_ONE);
		mmio_read64((void *)(msix - before));
		mmio_write64((void *)(msix - before), EVERY_ONE);
	}
	read16(end - 8, data);
	write16(end - 8, data);
	read16(msix - 8, data);
	write16(msix - 8, data);
	mmio_read64((void *)(guest_boot->ecam + 0xffffc));
	mmio_write64((void *)(guest_boot->ecam + 0xffffc), 0);
	check(true, name, "unreachable");
}

/*
 * The MAC address is where it belongs at every size, and what lies behind the configuration reads
 * as zero.
 */
static void test_values(void)
{
	static const uint8_t mac[8] = {0x52, 0x54, 0, 0, 0, 1};
	struct virtio net;
	uint64_t eight;

	if (!virtio_find(&net, VIRTIO_ID_NET, 0))
		panic("no network card");
	memcpy(&eight, mac, 8);
	for (unsigned offset = 0; offset < 6; offset++)
		for (unsigned size = 1; size <= 4 && offset + size <= 6; size *= 2) {
			uint64_t wanted = eight >> 8 * offset & ((1ull << 8 * size) - 1);
			uint64_t got = read_size(net.config + offset, size);

			if (got != wanted)
				check(false, "mmio-sizes/value", "%u bytes at %u: 0x%lx, not 0x%lx",
				      size, offset, got, wanted);
		}
	check((mmio_read64(net.config) & 0xffffffffffff) == eight, "mmio-sizes/8 bytes", "0x%lx",
	      mmio_read64(net.config));
	check(!mmio_read8(net.config + net.config_length), "mmio-sizes/behind the configuration",
	      "not zero");
	sweep(net.config, net.config_length + 32);
	check((mmio_read64(net.config) & 0xffffffffffff) == eight, "mmio-sizes/configuration kept",
	      "0x%lx", mmio_read64(net.config));
}

static void test_ports(void)
{
	uint8_t data[64];

	check(port_read8(PORT_UNKNOWN) == 0xff && port_read16(PORT_UNKNOWN) == 0xffff &&
		  port_read32(PORT_UNKNOWN) == 0xffffffff,
	      "mmio-sizes/unknown port", "does not read as all ones");
	port_write8(PORT_UNKNOWN, 0);
	port_write16(PORT_UNKNOWN, 0);
	port_write32(PORT_UNKNOWN, 0);
	memset(data, 0, sizeof(data));
	port_read_string(PORT_UNKNOWN, data, sizeof(data));
	check(is_ones(data, sizeof(data)), "mmio-sizes/rep insb", "not all ones");
	port_write_string(PORT_UNKNOWN, data, sizeof(data));
	port_read_string(WEFT_PORT_SERIAL + 5, data, sizeof(data));
	check((data[0] & 0x60) == 0x60 && (data[63] & 0x60) == 0x60, "mmio-sizes/rep insb serial",
	      "line status 0x%x", data[0]);
	/* Registers of one byte, by wider accesses. */
	check(port_read32(WEFT_PORT_SERIAL) != 0 || true, "mmio-sizes/wide serial", "unreachable");
	port_read16(WEFT_PORT_EXIT);
	port_read32(WEFT_PORT_EXIT);
	port_write16(0x5ff, 0xffff); /* ends in the exit port */
	port_write32(0x5fd, 0xffffffff);
	port_write32(0x602, 0); /* begins in the sleep control register */
	check(true, "mmio-sizes/port crossing", "unreachable");
}

int main(void)
{
	struct worker rng;

	if (!worker_find(&rng, &worker_kinds[WORKER_RNG]))
		panic("no entropy device");
	test_nowhere(EMPTY_WINDOW, "mmio-sizes/empty window");
	test_nowhere(OUTSIDE, "mmio-sizes/hole");
	test_nowhere(OUTSIDE - 8, "mmio-sizes/across the window's end");
	sweep((volatile uint8_t *)rng.dev.common, 96);
	sweep(rng.dev.isr, 16);
	sweep(rng.dev.notify, 16);
	sweep((volatile uint8_t *)rng.dev.pci.msix_table, 64);
	sweep((volatile uint8_t *)rng.dev.pci.msix_pending, 32);
	test_crossing(&rng.dev, "mmio-sizes/across a BAR's end");
	check(worker_start(&rng, 0) && worker_works(&rng), "mmio-sizes/device works",
	      "it does not");
	test_values();
	test_ports();
	return check_status();
}
