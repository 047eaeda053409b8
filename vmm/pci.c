/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PCI bus
 *
 * Theory of operation: each slot holds one function with a 256-byte configuration space kept as bytes,
 * with a mask of the bits a guest may write. Two registers have effects: the command register and the BARs
 * decide where BAR 0 (the device's registers) and BAR 1 (the MSI-X table and pending bits) answer, and where
 * the doorbells are bound as ioeventfds. Configuration space is reached by the ports 0xcf8/0xcfc and by ECAM;
 * both end in slot_config_read() and slot_config_write().
 *
 * The VMM places the BARs itself before the guest starts and enables decoding, so that a guest without
 * firmware or a PCI allocator finds working addresses; a guest may move them anywhere in the window.
 *
 * Threads: vCPU threads, under pci->lock. BAR 0 accesses are handed to the device outside of the lock, since
 * the device may wait for the sidecar.
 */
#include "vmm/pci.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/pci_regs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vnet/message.h"
#include "vmm/platform.h"

/* BAR 1: the MSI-X table in the first half, the pending bits in the second. */
#define MSIX_BAR_SIZE   4096u
#define MSIX_TABLE_SIZE 2048u
#define MSIX_PBA        2048u
#define MSIX_ENTRY      16u

#define BARS 2

_Static_assert(PCI_MSIX_MAX * MSIX_ENTRY <= MSIX_TABLE_SIZE, "the MSI-X table fits into its half");

#define HOST_BRIDGE_VENDOR 0x1b36 /* Red Hat: the generic host bridge of QEMU's machines, known to every OS */
#define HOST_BRIDGE_DEVICE 0x0008

struct pci_slot {
	struct pci_function *fn; /* NULL: the host bridge */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t mask[PCI_CONFIG_SIZE]; /* bits the guest may write */
	uint8_t initial[PCI_CONFIG_SIZE];
	uint32_t bar_size[BARS];
	uint8_t msix_cap;             /* offset of the MSI-X capability */
	uint8_t msix[MSIX_TABLE_SIZE]; /* the table as the guest sees it */
	uint64_t doorbell_base;       /* where the doorbells are bound, 0: they are not */
	struct pci_bus *bus;
};

struct pci_bus {
	pthread_mutex_t lock;
	struct irq_router *router;
	int vm_fd;
	uint32_t address; /* the register at 0xcf8 */
	uint64_t bar_next;
	unsigned count;
	struct pci_slot *slots[PCI_SLOTS];
};

static uint32_t get_le(const uint8_t *p, unsigned size)
{
	uint32_t v = 0;

	memcpy(&v, p, size);
	return v;
}

static void put_le(uint8_t *p, unsigned size, uint32_t v)
{
	memcpy(p, &v, size);
}

/* --- BARs and doorbells --------------------------------------------------------------------- */

/* Where a BAR answers now; 0: nowhere (decoding off, or outside of the window, as while it is sized). */
static uint64_t slot_bar(const struct pci_slot *slot, unsigned bar)
{
	uint64_t base = get_le(slot->config + PCI_BASE_ADDRESS_0 + 4 * bar, 4) & ~0xfull;
	uint64_t size = slot->bar_size[bar];

	if (!size || !(slot->config[PCI_COMMAND] & PCI_COMMAND_MEMORY) || base < PCI_WINDOW_BASE ||
	    base + size > PCI_WINDOW_BASE + PCI_WINDOW_SIZE)
		return 0;
	return base;
}

static int doorbell_bind(struct pci_bus *pci, const struct pci_doorbell *d, uint64_t base, bool bind)
{
	struct kvm_ioeventfd event = {
		.addr = base + d->offset,
		.fd = d->fd,
		.flags = bind ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};

	return ioctl(pci->vm_fd, KVM_IOEVENTFD, &event) ? -errno : 0;
}

static int slot_doorbells_move(struct pci_slot *slot, uint64_t base)
{
	struct pci_function *fn = slot->fn;
	int rc = 0;

	for (unsigned i = 0; i < fn->doorbell_count; i++) {
		if (slot->doorbell_base)
			doorbell_bind(slot->bus, &fn->doorbells[i], slot->doorbell_base, false);
		if (base && !rc)
			rc = doorbell_bind(slot->bus, &fn->doorbells[i], base, true);
	}
	slot->doorbell_base = base;
	return rc;
}

/* Unbind the doorbells of functions that no longer answer where @slot is to answer from now on. */
static void doorbells_make_way(struct pci_slot *slot, uint64_t base)
{
	struct pci_bus *pci = slot->bus;

	for (unsigned i = 1; i < pci->count; i++) {
		struct pci_slot *other = pci->slots[i];

		if (other != slot && other->doorbell_base && other->doorbell_base < base + slot->bar_size[0] &&
		    base < other->doorbell_base + other->bar_size[0])
			slot_doorbells_move(other, 0);
	}
}

/*
 * Bind the doorbells where BAR 0 is now. While decoding is off they stay where they were: a kernel switches it off
 * and on for each BAR it sizes, and each binding waits for a grace period in the host's kernel (1 ms
 * a doorbell, seen as half of a guest's boot time). A ring of a doorbell that is off is harmless.
 */
static int slot_doorbells_update(struct pci_slot *slot)
{
	uint64_t base = slot->bus->vm_fd >= 0 ? slot_bar(slot, 0) : 0;

	if (!base || base == slot->doorbell_base)
		return 0;
	doorbells_make_way(slot, base);
	return slot_doorbells_move(slot, base);
}

/* --- MSI-X (PCI local bus 3.0, 6.8.2) ------------------------------------------------------- */

static void msix_update_vector(struct pci_slot *slot, unsigned vector)
{
	uint16_t control = (uint16_t)get_le(slot->config + slot->msix_cap + PCI_MSIX_FLAGS, 2);
	const uint8_t *entry = slot->msix + vector * MSIX_ENTRY;
	bool masked = get_le(entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 4) & PCI_MSIX_ENTRY_CTRL_MASKBIT;
	uint64_t address = get_le(entry + PCI_MSIX_ENTRY_LOWER_ADDR, 4) |
			   (uint64_t)get_le(entry + PCI_MSIX_ENTRY_UPPER_ADDR, 4) << 32;

	irq_set_program(slot->fn->irqs, vector,
			(control & PCI_MSIX_FLAGS_ENABLE) && !(control & PCI_MSIX_FLAGS_MASKALL) &&
				!masked,
			address, get_le(entry + PCI_MSIX_ENTRY_DATA, 4));
}

static void msix_update_all(struct pci_slot *slot)
{
	for (unsigned i = 0; i < slot->fn->msix_vectors; i++)
		msix_update_vector(slot, i);
}

static void msix_clear(struct pci_slot *slot)
{
	memset(slot->msix, 0, sizeof(slot->msix));
	for (unsigned i = 0; i < slot->fn->msix_vectors; i++)
		slot->msix[i * MSIX_ENTRY + PCI_MSIX_ENTRY_VECTOR_CTRL] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

static uint64_t msix_bar_read(struct pci_slot *slot, uint32_t offset, unsigned size)
{
	uint64_t value = 0;

	if (offset + size <= slot->fn->msix_vectors * MSIX_ENTRY) {
		memcpy(&value, slot->msix + offset, size);
	} else if (offset >= MSIX_PBA) {
		for (unsigned bit = 0; bit < 8 * size; bit++) {
			unsigned vector = 8 * (offset - MSIX_PBA) + bit;

			if (vector < slot->fn->msix_vectors &&
			    irq_set_pending(slot->fn->irqs, vector))
				value |= 1ull << bit;
		}
	}
	return value;
}

static void msix_bar_write(struct pci_slot *slot, uint32_t offset, unsigned size, uint64_t value)
{
	/* Only whole, aligned 32 or 64-bit writes are allowed (6.8.2); others are ignored. */
	if ((size != 4 && size != 8) || offset % size ||
	    offset + size > slot->fn->msix_vectors * MSIX_ENTRY)
		return;
	memcpy(slot->msix + offset, &value, size);
	msix_update_vector(slot, offset / MSIX_ENTRY);
}

/* --- configuration space -------------------------------------------------------------------- */

static bool touches(unsigned offset, unsigned size, unsigned start, unsigned len)
{
	return offset < start + len && start < offset + size;
}

static uint32_t slot_config_read(struct pci_slot *slot, unsigned offset, unsigned size)
{
	struct pci_function *fn = slot->fn;

	if (fn && fn->ops->config_reading &&
	    touches(offset, size, PCI_CAPS_START, fn->caps_end - PCI_CAPS_START)) {
		fn->ops->config_reading(fn, offset, size);
		memcpy(slot->config + PCI_CAPS_START, fn->config + PCI_CAPS_START,
		       fn->caps_end - PCI_CAPS_START);
	}
	return get_le(slot->config + offset, size);
}

static void slot_caps_written(struct pci_slot *slot, unsigned offset, unsigned size)
{
	struct pci_function *fn = slot->fn;

	memcpy(fn->config + PCI_CAPS_START, slot->config + PCI_CAPS_START,
	       fn->caps_end - PCI_CAPS_START);
	if (fn->ops->config_written)
		fn->ops->config_written(fn, offset, size);
}

static void slot_config_write(struct pci_slot *slot, unsigned offset, unsigned size, uint32_t value)
{
	struct pci_function *fn = slot->fn;
	uint8_t bytes[4];

	put_le(bytes, 4, value);
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = slot->mask[offset + i];

		slot->config[offset + i] =
			(uint8_t)((slot->config[offset + i] & ~mask) | (bytes[i] & mask));
	}
	if (!fn)
		return;
	if (touches(offset, size, PCI_COMMAND, 2) || touches(offset, size, PCI_BASE_ADDRESS_0, 4))
		slot_doorbells_update(slot);
	if (touches(offset, size, slot->msix_cap + PCI_MSIX_FLAGS, 2))
		msix_update_all(slot);
	if (touches(offset, size, PCI_CAPS_START, fn->caps_end - PCI_CAPS_START))
		slot_caps_written(slot, offset, size);
}

/* An access of one to four bytes at a 12-bit register of slot @devfn / 8; absent: all ones. */
static uint32_t config_access(struct pci_bus *pci, unsigned devfn, unsigned reg, unsigned size,
			      const uint32_t *write)
{
	struct pci_slot *slot = devfn % 8 ? NULL : pci->slots[devfn / 8];
	uint32_t value = 0xffffffff;

	if (!slot || size > 4 || reg % size)
		return value;
	if (reg + size > PCI_CONFIG_SIZE)
		return 0; /* no extended capabilities */
	pthread_mutex_lock(&pci->lock);
	if (write)
		slot_config_write(slot, reg, size, *write);
	else
		value = slot_config_read(slot, reg, size);
	pthread_mutex_unlock(&pci->lock);
	return value;
}

static uint64_t ecam_read(void *device, uint64_t offset, unsigned size)
{
	return config_access(device, (unsigned)offset >> 12, offset & 0xfff, size, NULL);
}

static void ecam_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	uint32_t v = (uint32_t)value;

	config_access(device, (unsigned)offset >> 12, offset & 0xfff, size, &v);
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write};

/* Ports 0xcf8 (address, 32 bits) to 0xcff (data). The address register is shared, as on real hardware. */
static bool ports_target(const struct pci_bus *pci, uint64_t offset, unsigned *reg)
{
	*reg = (pci->address & 0xfc) + ((unsigned)offset & 3);
	return offset >= 4 && (pci->address & 0x80ff0000) == 0x80000000;
}

static uint64_t ports_read(void *device, uint64_t offset, unsigned size)
{
	struct pci_bus *pci = device;
	unsigned reg;

	if (offset == 0 && size == 4)
		return pci->address;
	if (!ports_target(pci, offset, &reg))
		return ~0ull;
	return config_access(pci, pci->address >> 8 & 0xff, reg, size, NULL);
}

static void ports_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *pci = device;
	uint32_t v = (uint32_t)value;
	unsigned reg;

	if (offset == 0 && size == 4)
		pci->address = v;
	else if (ports_target(pci, offset, &reg))
		config_access(pci, pci->address >> 8 & 0xff, reg, size, &v);
}

static const struct bus_ops ports_ops = {ports_read, ports_write};

/* --- the BAR window ------------------------------------------------------------------------- */

/* Which function's BAR holds [address, address + size)? Returns the offset in it. Called locked. */
static struct pci_slot *window_find(struct pci_bus *pci, uint64_t address, unsigned size,
				    unsigned *bar, uint32_t *offset)
{
	for (unsigned i = 1; i < pci->count; i++) {
		for (*bar = 0; *bar < BARS; (*bar)++) {
			uint64_t base = slot_bar(pci->slots[i], *bar);
			uint64_t len = pci->slots[i]->bar_size[*bar];

			if (base && address >= base && address + size <= base + len) {
				*offset = (uint32_t)(address - base);
				return pci->slots[i];
			}
		}
	}
	return NULL;
}

/* Devices answer for their registers without the bus lock. */
static uint64_t window_access(struct pci_bus *pci, uint64_t offset, unsigned size, const uint64_t *write)
{
	uint64_t value = ~0ull;
	struct pci_slot *slot;
	uint32_t reg;
	unsigned bar;

	pthread_mutex_lock(&pci->lock);
	slot = window_find(pci, PCI_WINDOW_BASE + offset, size, &bar, &reg);
	if (slot && bar == 1 && write)
		msix_bar_write(slot, reg, size, *write);
	else if (slot && bar == 1)
		value = msix_bar_read(slot, reg, size);
	pthread_mutex_unlock(&pci->lock);
	if (slot && bar == 0 && write)
		slot->fn->ops->bar_write(slot->fn, reg, size, *write);
	else if (slot && bar == 0)
		value = slot->fn->ops->bar_read(slot->fn, reg, size);
	return value;
}

static uint64_t window_read(void *device, uint64_t offset, unsigned size)
{
	return window_access(device, offset, size, NULL);
}

static void window_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	window_access(device, offset, size, &value);
}

static const struct bus_ops window_ops = {window_read, window_write};

/* --- set-up --------------------------------------------------------------------------------- */

static void slot_ids(struct pci_slot *slot, uint16_t vendor, uint16_t device, uint32_t class_code)
{
	put_le(slot->config + PCI_VENDOR_ID, 2, vendor);
	put_le(slot->config + PCI_DEVICE_ID, 2, device);
	put_le(slot->config + PCI_CLASS_PROG, 3, class_code);
}

static void slot_bar_place(struct pci_slot *slot, unsigned bar, uint32_t size)
{
	struct pci_bus *pci = slot->bus;
	uint8_t *config = slot->config + PCI_BASE_ADDRESS_0 + 4 * bar;

	pci->bar_next = (pci->bar_next + size - 1) & ~(uint64_t)(size - 1);
	put_le(config, 4, (uint32_t)pci->bar_next);
	put_le(slot->mask + PCI_BASE_ADDRESS_0 + 4 * bar, 4, ~(size - 1));
	slot->bar_size[bar] = size;
	pci->bar_next += size;
}

static void slot_capabilities(struct pci_slot *slot)
{
	struct pci_function *fn = slot->fn;
	uint8_t cap = fn->caps_end;

	fn->config[fn->caps_last + PCI_CAP_LIST_NEXT] = cap;
	memcpy(slot->config + PCI_CAPS_START, fn->config + PCI_CAPS_START, cap - PCI_CAPS_START);
	memcpy(slot->mask + PCI_CAPS_START, fn->config_mask + PCI_CAPS_START, cap - PCI_CAPS_START);
	slot->config[PCI_CAPABILITY_LIST] = fn->caps_first;
	put_le(slot->config + PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	slot->msix_cap = cap;
	slot->config[cap] = PCI_CAP_ID_MSIX;
	put_le(slot->config + cap + PCI_MSIX_FLAGS, 2, fn->msix_vectors - 1u);
	put_le(slot->mask + cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	put_le(slot->config + cap + PCI_MSIX_TABLE, 4, 1);
	put_le(slot->config + cap + PCI_MSIX_PBA, 4, MSIX_PBA | 1);
}

static struct pci_slot *slot_create(struct pci_bus *pci, struct pci_function *fn)
{
	struct pci_slot *slot = calloc(1, sizeof(*slot));

	if (!slot)
		return NULL;
	slot->bus = pci;
	slot->fn = fn;
	if (!fn) {
		slot_ids(slot, HOST_BRIDGE_VENDOR, HOST_BRIDGE_DEVICE, 0x060000);
		return slot;
	}
	slot_ids(slot, fn->vendor_id, fn->device_id, fn->class_code);
	slot->config[PCI_REVISION_ID] = fn->revision;
	put_le(slot->config + PCI_SUBSYSTEM_VENDOR_ID, 2, fn->subsystem_vendor_id);
	put_le(slot->config + PCI_SUBSYSTEM_ID, 2, fn->subsystem_id);
	slot->config[PCI_COMMAND] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	put_le(slot->mask + PCI_COMMAND, 2,
	       PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	slot->mask[PCI_INTERRUPT_LINE] = 0xff;
	slot_bar_place(slot, 0, fn->bar0_size);
	slot_bar_place(slot, 1, MSIX_BAR_SIZE);
	slot_capabilities(slot);
	msix_clear(slot);
	memcpy(slot->initial, slot->config, sizeof(slot->initial));
	return slot;
}

struct pci_bus *pci_create(struct bus *pio, struct bus *mmio, struct irq_router *router)
{
	struct pci_bus *pci = calloc(1, sizeof(*pci));

	if (!pci)
		return NULL;
	pthread_mutex_init(&pci->lock, NULL);
	pci->router = router;
	pci->vm_fd = -1;
	pci->bar_next = PCI_WINDOW_BASE;
	pci->slots[pci->count++] = slot_create(pci, NULL);
	if (!pci->slots[0]) {
		pci_destroy(pci);
		return NULL;
	}
	bus_add(pio, PORT_PCI_CONFIG, 8, &ports_ops, pci);
	bus_add(mmio, ECAM_BASE, ECAM_SIZE, &ecam_ops, pci);
	bus_add(mmio, PCI_WINDOW_BASE, PCI_WINDOW_SIZE, &window_ops, pci);
	return pci;
}

void pci_destroy(struct pci_bus *pci)
{
	if (!pci)
		return;
	for (unsigned i = 0; i < pci->count; i++) {
		if (pci->slots[i] && pci->slots[i]->fn)
			irq_set_destroy(pci->slots[i]->fn->irqs);
		free(pci->slots[i]);
	}
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}

int pci_attach(struct pci_bus *pci, struct pci_function *fn)
{
	struct pci_slot *slot;

	if (pci->count == PCI_SLOTS)
		return -ENOSPC;
	fn->irqs = irq_set_create(pci->router, fn->msix_vectors);
	if (!fn->irqs)
		return -errno;
	slot = slot_create(pci, fn);
	if (!slot) {
		irq_set_destroy(fn->irqs);
		return -ENOMEM;
	}
	fn->bus_private = slot;
	pci->slots[pci->count++] = slot;
	return 0;
}

int pci_start(struct pci_bus *pci, int vm_fd)
{
	int rc = 0;

	pci->vm_fd = vm_fd;
	for (unsigned i = 1; i < pci->count && !rc; i++)
		rc = slot_doorbells_update(pci->slots[i]);
	return rc;
}

void pci_stop(struct pci_bus *pci)
{
	pci->vm_fd = -1; /* closing the VM unbinds the doorbells */
	for (unsigned i = 1; i < pci->count; i++) {
		struct pci_slot *slot = pci->slots[i];

		slot->fn->ops->reset(slot->fn);
		irq_set_reset(slot->fn->irqs);
		memcpy(slot->config, slot->initial, sizeof(slot->config));
		memcpy(slot->fn->config + PCI_CAPS_START, slot->config + PCI_CAPS_START,
		       slot->fn->caps_end - PCI_CAPS_START);
		msix_clear(slot);
		slot->doorbell_base = 0;
	}
}
