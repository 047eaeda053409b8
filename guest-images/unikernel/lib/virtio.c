/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtio driver
 *
 * Theory of operation: the transport (virtio 1.2, 4.1) finds the device's register blocks through
 * the vendor capabilities and brings the device up (3.1.1). A ring (2.7) keeps its unused
 * descriptors in a list; a request takes a chain from it, ring_take() puts it back. x86 keeps
 * stores in order among themselves and loads among themselves, so the compiler is all that has to
 * be held back, but for one place: what was published must be visible before the device's wish for
 * a doorbell is read, and likewise the wish for an interrupt before the used index is read.
 */
#include "virtio.h"

#define COMMON(dev, field)                                                                         \
	((volatile uint8_t *)(dev)->common + offsetof(struct virtio_pci_common_cfg, field))

static bool virtio_capability(struct virtio *dev, uint8_t at)
{
	const volatile uint8_t *cap = dev->pci.config + at;
	uintptr_t bar = pci_bar(&dev->pci, mmio_read8(cap + VIRTIO_PCI_CAP_BAR));
	volatile uint8_t *block =
	    (volatile uint8_t *)(bar + mmio_read32(cap + VIRTIO_PCI_CAP_OFFSET));
	uint32_t length = mmio_read32(cap + VIRTIO_PCI_CAP_LENGTH);

	switch (mmio_read8(cap + VIRTIO_PCI_CAP_CFG_TYPE)) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		dev->common = (volatile struct virtio_pci_common_cfg *)block;
		break;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		dev->notify = block;
		dev->notify_length = length;
		dev->notify_multiplier = mmio_read32(cap + VIRTIO_PCI_NOTIFY_CAP_MULT);
		break;
	case VIRTIO_PCI_CAP_ISR_CFG:
		dev->isr = block;
		break;
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		dev->config = block;
		dev->config_length = length;
		break;
	}
	return dev->common && dev->notify && dev->isr;
}

bool virtio_find(struct virtio *dev, unsigned type, unsigned nth)
{
	bool complete = false;

	*dev = (struct virtio){.type = type};
	if (!pci_find(&dev->pci, VIRTIO_VENDOR, (uint16_t)(0x1040 + type), nth))
		return false;
	for (uint8_t at = 0; (at = pci_capability(&dev->pci, PCI_CAP_ID_VNDR, at));)
		complete = virtio_capability(dev, at);
	if (!complete)
		panic("virtio device %u: a register block is missing", type);
	virtio_reset(dev);
	return true;
}

uint8_t virtio_status(const struct virtio *dev)
{
	return mmio_read8(COMMON(dev, device_status));
}

void virtio_status_set(struct virtio *dev, uint8_t status)
{
	mmio_write8(COMMON(dev, device_status), status);
}

void virtio_reset(struct virtio *dev)
{
	uint64_t start = time_ns();

	virtio_status_set(dev, 0);
	while (virtio_status(dev))
		if (time_ns() - start > PATIENCE_NS)
			panic("virtio device %u does not reset", dev->type);
	dev->features = 0;
}

uint64_t virtio_offered(struct virtio *dev)
{
	uint64_t features;

	mmio_write32(COMMON(dev, device_feature_select), 0);
	features = mmio_read32(COMMON(dev, device_feature));
	mmio_write32(COMMON(dev, device_feature_select), 1);
	return features | (uint64_t)mmio_read32(COMMON(dev, device_feature)) << 32;
}

bool virtio_negotiate(struct virtio *dev, uint64_t wanted)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;

	virtio_status_set(dev, status);
	status |= VIRTIO_CONFIG_S_DRIVER;
	virtio_status_set(dev, status);
	dev->features = virtio_offered(dev) & (wanted | FEATURE(VIRTIO_F_VERSION_1));
	mmio_write32(COMMON(dev, guest_feature_select), 0);
	mmio_write32(COMMON(dev, guest_feature), (uint32_t)dev->features);
	mmio_write32(COMMON(dev, guest_feature_select), 1);
	mmio_write32(COMMON(dev, guest_feature), (uint32_t)(dev->features >> 32));
	virtio_status_set(dev, status | VIRTIO_CONFIG_S_FEATURES_OK);
	return virtio_status(dev) & VIRTIO_CONFIG_S_FEATURES_OK;
}

void virtio_start(struct virtio *dev)
{
	virtio_status_set(dev, virtio_status(dev) | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Where the ring's parts are, in memory of its own. */
static void ring_lay(struct ring *ring)
{
	uint16_t size = ring->size;

	ring->desc = memory_take(16u * size, 16);
	ring->avail = memory_take(6 + 2u * size, 2);
	ring->used = memory_take(6 + 8u * size, 4);
	ring->used_event = (volatile uint16_t *)&ring->avail->ring[size];
	ring->avail_event = (volatile uint16_t *)&ring->used->ring[size];
	for (uint16_t i = 0; i < size; i++)
		ring->desc[i].next = i + 1;
	ring->free_count = size;
	ring->event_idx = virtio_has(ring->dev, VIRTIO_RING_F_EVENT_IDX);
}

bool ring_init(struct ring *ring, struct virtio *dev, uint16_t index, uint16_t size)
{
	uint16_t offered;

	*ring = (struct ring){.dev = dev, .index = index};
	mmio_write16(COMMON(dev, queue_select), index);
	offered = mmio_read16(COMMON(dev, queue_size));
	if (!offered)
		return false;
	ring->size = size < offered ? size : offered;
	ring_lay(ring);
	ring->doorbell =
	    (volatile uint16_t *)(dev->notify + mmio_read16(COMMON(dev, queue_notify_off)) *
						    dev->notify_multiplier);
	mmio_write16(COMMON(dev, queue_size), ring->size);
	mmio_write16(COMMON(dev, queue_msix_vector), VIRTIO_MSI_NO_VECTOR);
	mmio_write32(COMMON(dev, queue_desc_lo), (uint32_t)(uintptr_t)ring->desc);
	mmio_write32(COMMON(dev, queue_desc_hi), (uint32_t)((uintptr_t)ring->desc >> 32));
	mmio_write32(COMMON(dev, queue_avail_lo), (uint32_t)(uintptr_t)ring->avail);
	mmio_write32(COMMON(dev, queue_avail_hi), (uint32_t)((uintptr_t)ring->avail >> 32));
	mmio_write32(COMMON(dev, queue_used_lo), (uint32_t)(uintptr_t)ring->used);
	mmio_write32(COMMON(dev, queue_used_hi), (uint32_t)((uintptr_t)ring->used >> 32));
	mmio_write16(COMMON(dev, queue_enable), 1);
	ring_interrupt(ring, false);
	return true;
}

bool ring_route(struct ring *ring, uint16_t entry)
{
	mmio_write16(COMMON(ring->dev, queue_select), ring->index);
	mmio_write16(COMMON(ring->dev, queue_msix_vector), entry);
	return mmio_read16(COMMON(ring->dev, queue_msix_vector)) == entry;
}

int ring_add(struct ring *ring, const struct segment *segments, unsigned out, unsigned in)
{
	uint16_t head = ring->free, at = head, last = head;

	if (!(out + in) || ring->free_count < out + in)
		return -1;
	for (unsigned i = 0; i < out + in; i++) {
		ring->desc[at].addr = (uintptr_t)segments[i].data;
		ring->desc[at].len = segments[i].len;
		ring->desc[at].flags = (uint16_t)((i < out ? 0 : VRING_DESC_F_WRITE) |
						  (i + 1 < out + in ? VRING_DESC_F_NEXT : 0));
		last = at;
		at = ring->desc[at].next;
	}
	ring->free = ring->desc[last].next;
	ring->free_count -= (uint16_t)(out + in);
	ring->avail->ring[ring->avail_next++ % ring->size] = head;
	return head;
}

void ring_publish(struct ring *ring)
{
	compiler_barrier();
	ring->avail->idx = ring->avail_next;
}

void ring_notify(struct ring *ring)
{
	mmio_write16(ring->doorbell, ring->index);
}

void ring_kick(struct ring *ring)
{
	uint16_t from = ring->kicked;

	ring_publish(ring);
	full_barrier();
	ring->kicked = ring->avail_next;
	if (ring->event_idx ? vring_need_event(*ring->avail_event, ring->avail_next, from)
			    : !(ring->used->flags & VRING_USED_F_NO_NOTIFY))
		ring_notify(ring);
}

bool ring_pending(const struct ring *ring)
{
	return ring->used->idx != ring->used_next;
}

int ring_take(struct ring *ring, uint32_t *written)
{
	volatile struct vring_used_elem *elem;
	uint16_t head, last;

	if (!ring_pending(ring))
		return -1;
	compiler_barrier();
	elem = &ring->used->ring[ring->used_next % ring->size];
	if (elem->id >= ring->size)
		panic("virtio device %u, queue %u: used entry %u is out of range", ring->dev->type,
		      ring->index, elem->id);
	head = last = (uint16_t)elem->id;
	if (written)
		*written = elem->len;
	ring->used_next++;
	for (ring->free_count++; ring->desc[last].flags & VRING_DESC_F_NEXT; ring->free_count++)
		last = ring->desc[last].next;
	ring->desc[last].next = ring->free;
	ring->free = head;
	return head;
}

int ring_wait(struct ring *ring, uint32_t *written, uint64_t timeout_ns)
{
	uint64_t start = time_ns();

	while (!ring_pending(ring)) {
		if (time_ns() - start > timeout_ns)
			return -1;
		cpu_relax();
	}
	return ring_take(ring, written);
}

bool ring_interrupt(struct ring *ring, bool on)
{
	ring->avail->flags = on ? 0 : VRING_AVAIL_F_NO_INTERRUPT;
	/* With EVENT_IDX "none" is an index that was passed a whole turn of the counter ago. */
	*ring->used_event = on ? ring->used_next : (uint16_t)(ring->used_next - 1);
	full_barrier();
	return ring_pending(ring);
}

bool ring_interrupt_after(struct ring *ring, uint16_t count)
{
	ring->avail->flags = 0;
	*ring->used_event = (uint16_t)(ring->used_next + count - 1);
	full_barrier();
	return (uint16_t)(ring->used->idx - ring->used_next) >= count;
}
