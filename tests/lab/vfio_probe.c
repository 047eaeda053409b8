/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vfio_probe GROUP DEVICE: what a process can do with an e1000e (82574L) that is bound to vfio-pci.
 *
 * Theory of operation
 *
 * The device gets an IOMMU domain of its own (type 1) in which one page of this process is seen at
 * an address that the process does not use itself. On that page lie a ring of transmit descriptors
 * and a frame. The device is told of them by its registers (BAR 0, mapped), reads both, sends the
 * frame, writes "done" into the descriptor and interrupts by MSI-X, which arrives at an eventfd. So
 * reading and writing by DMA, the translation, registers and interrupts have all worked when the
 * last line is printed. The first failure ends it, with status 1.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE	   4096u
#define IOVA	   0x10000000u /* where the device sees the page */
#define FRAME_AT   1024u       /* on the page; the ring is at its beginning */
#define FRAME_SIZE 60u
#define PATIENCE   60000 /* ms */

/* Registers of the 82574L, in bytes from BAR 0, and their bits. */
#define REG_CTRL  0x0000u
#define REG_ICR	  0x00c0u
#define REG_IMS	  0x00d0u
#define REG_IVAR  0x00e4u
#define REG_TCTL  0x0400u
#define REG_TDBAL 0x3800u
#define REG_TDBAH 0x3804u
#define REG_TDLEN 0x3808u
#define REG_TDH	  0x3810u
#define REG_TDT	  0x3818u
#define REG_RAL	  0x5400u
#define REG_RAH	  0x5404u

#define CTRL_LINK_UP   (1u << 6)
#define TCTL_ENABLE    (1u << 1)
#define INT_TX_QUEUE_0 (1u << 22)
#define IVAR_TX_0      (0x8u << 8) /* transmit queue 0 interrupts, by vector 0 */

#define TX_END	  (1u << 24) /* the frame ends here; */
#define TX_CHECK  (1u << 25) /* its checksum is added; */
#define TX_REPORT (1u << 27) /* say when it is done */
#define TX_DONE	  1u

struct tx_descriptor {
	uint64_t address;
	uint32_t command; /* and the length */
	uint32_t status;
};

struct probe {
	int container, group, device;
	volatile uint32_t *registers;
	uint8_t *page;
	int interrupt; /* eventfd */
};

static int must(int result, const char *what)
{
	if (result < 0)
		err(EXIT_FAILURE, "%s", what);
	return result;
}

static void *must_map(size_t size, int flags, int fd, uint64_t offset)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset);

	if (at == MAP_FAILED)
		err(EXIT_FAILURE, "mmap");
	return at;
}

/* The group is given to a container, which becomes an IOMMU domain with one page in it. */
static void domain_make(struct probe *p, const char *group)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	struct vfio_iommu_type1_dma_map map = {
	    .argsz = sizeof(map),
	    .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
	    .iova = IOVA,
	    .size = PAGE,
	};
	char path[64];

	snprintf(path, sizeof(path), "/dev/vfio/%s", group);
	p->container = must(open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), "/dev/vfio/vfio");
	p->group = must(open(path, O_RDWR | O_CLOEXEC), path);
	must(ioctl(p->group, VFIO_GROUP_GET_STATUS, &status), "VFIO_GROUP_GET_STATUS");
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		errx(EXIT_FAILURE, "not all devices of group %s are bound to vfio-pci", group);
	must(ioctl(p->group, VFIO_GROUP_SET_CONTAINER, &p->container), "VFIO_GROUP_SET_CONTAINER");
	must(ioctl(p->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
	p->page = must_map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	map.vaddr = (uintptr_t)p->page;
	must(ioctl(p->container, VFIO_IOMMU_MAP_DMA, &map), "VFIO_IOMMU_MAP_DMA");
	printf("group %s: type-1 IOMMU, a page at %#x\n", group, IOVA);
}

static void regions_show(struct probe *p, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct vfio_region_info region = {.argsz = sizeof(region), .index = i};

		if (!ioctl(p->device, VFIO_DEVICE_GET_REGION_INFO, &region) && region.size)
			printf("region %u: %llu bytes, flags %#x\n", i,
			       (unsigned long long)region.size, region.flags);
	}
}

static void interrupts_show(struct probe *p, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct vfio_irq_info irq = {.argsz = sizeof(irq), .index = i};

		if (!ioctl(p->device, VFIO_DEVICE_GET_IRQ_INFO, &irq) && irq.count)
			printf("interrupt %u: %u vectors, flags %#x\n", i, irq.count, irq.flags);
	}
}

/* Registers in memory, and bus mastering on. */
static void device_open(struct probe *p, const char *name)
{
	struct vfio_device_info info = {.argsz = sizeof(info)};
	struct vfio_region_info bar = {.argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX};
	struct vfio_region_info config = {.argsz = sizeof(config),
					  .index = VFIO_PCI_CONFIG_REGION_INDEX};
	const uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

	p->device = must(ioctl(p->group, VFIO_GROUP_GET_DEVICE_FD, name), name);
	must(ioctl(p->device, VFIO_DEVICE_GET_INFO, &info), "VFIO_DEVICE_GET_INFO");
	regions_show(p, info.num_regions);
	interrupts_show(p, info.num_irqs);
	must(ioctl(p->device, VFIO_DEVICE_GET_REGION_INFO, &config), "configuration space");
	must((int)pwrite(p->device, &command, sizeof(command), (off_t)config.offset + PCI_COMMAND),
	     "PCI command register");
	must(ioctl(p->device, VFIO_DEVICE_GET_REGION_INFO, &bar), "BAR 0");
	p->registers = must_map(bar.size, MAP_SHARED, p->device, bar.offset);
}

static void interrupt_open(struct probe *p)
{
	struct {
		struct vfio_irq_set set;
		int32_t fd;
	} irqs = {
	    .set = {.argsz = sizeof(irqs),
		    .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		    .index = VFIO_PCI_MSIX_IRQ_INDEX,
		    .count = 1},
	};

	p->interrupt = irqs.fd = must(eventfd(0, EFD_CLOEXEC), "eventfd");
	must(ioctl(p->device, VFIO_DEVICE_SET_IRQS, &irqs), "VFIO_DEVICE_SET_IRQS");
}

static void frame_send(struct probe *p)
{
	volatile uint32_t *const r = p->registers;
	volatile struct tx_descriptor *const ring = (void *)p->page;

	memset(p->page + FRAME_AT, 0xff, FRAME_SIZE);
	ring[0].address = IOVA + FRAME_AT;
	ring[0].command = FRAME_SIZE | TX_END | TX_CHECK | TX_REPORT;
	r[REG_CTRL / 4] |= CTRL_LINK_UP;
	r[REG_IVAR / 4] = IVAR_TX_0;
	r[REG_IMS / 4] = INT_TX_QUEUE_0;
	r[REG_TDBAL / 4] = IOVA;
	r[REG_TDBAH / 4] = 0;
	r[REG_TDLEN / 4] = 128; /* the shortest ring: 8 descriptors */
	r[REG_TDH / 4] = 0;
	r[REG_TCTL / 4] |= TCTL_ENABLE;
	r[REG_TDT / 4] = 1;
}

static void interrupt_await(struct probe *p)
{
	const volatile struct tx_descriptor *const ring = (void *)p->page;
	struct pollfd ready = {.fd = p->interrupt, .events = POLLIN};

	if (must(poll(&ready, 1, PATIENCE), "poll") == 0)
		errx(EXIT_FAILURE, "no interrupt; descriptor status %#x, causes %#x",
		     ring[0].status, p->registers[REG_ICR / 4]);
	if (!(ring[0].status & TX_DONE))
		errx(EXIT_FAILURE, "an interrupt, but the frame is not sent");
}

int main(int argc, char **argv)
{
	struct probe p = {0};

	if (argc != 3)
		errx(EXIT_FAILURE, "usage: vfio_probe GROUP DEVICE");
	domain_make(&p, argv[1]);
	device_open(&p, argv[2]);
	printf("address %08x %04x\n", p.registers[REG_RAL / 4], p.registers[REG_RAH / 4] & 0xffff);
	interrupt_open(&p);
	frame_send(&p);
	interrupt_await(&p);
	printf("a frame sent by DMA, and its interrupt\n");
	return 0;
}
