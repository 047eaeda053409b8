/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The network card
 *
 * Theory of operation: each ring entry has one buffer of its own, with room for the virtio-net
 * header and a whole frame, and is one descriptor long; so a buffer is known by its head
 * descriptor. Receive buffers are all posted at the start and again after use. Send buffers are
 * taken back when the ring runs full; who waits by interrupt sleeps until half of them are there.
 * No offload is negotiated: headers are zero.
 */
#include "nic.h"

static void nic_fill(struct nic *nic)
{
	for (int i = 0; i < nic->rx.size; i++) {
		nic->rx_buffers[i] = memory_take(nic->buffer_size, 64);
		nic->tx_buffers[i] = memory_take(nic->buffer_size, 64);
	}
	for (int i = 0; i < nic->rx.size; i++)
		nic_repost(nic, nic->rx.free);
}

/* All the work is done by whoever waits; the interrupt only ends its sleep. */
static void nic_interrupt(void *context)
{
	(void)context;
}

static void nic_route(struct nic *nic)
{
	msix_enable(&nic->dev.pci, true);
	msix_route(&nic->dev.pci, 0, 0, NIC_VECTOR);
	interrupt_handle(NIC_VECTOR, nic_interrupt, NULL);
	if (!ring_route(&nic->rx, 0) || !ring_route(&nic->tx, 0))
		panic("the network card refuses MSI-X entry 0");
}

void nic_open(struct nic *nic, unsigned nth, bool interrupts)
{
	const volatile struct virtio_net_config *config;

	if (!virtio_find(&nic->dev, VIRTIO_ID_NET, nth))
		panic("no network card %u: start the VM with --net", nth);
	if (!virtio_negotiate(&nic->dev, FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_MTU) |
					     FEATURE(VIRTIO_RING_F_EVENT_IDX)))
		panic("the network card refuses its own features");
	config = (const volatile struct virtio_net_config *)nic->dev.config;
	for (unsigned i = 0; i < MAC_SIZE; i++)
		nic->mac[i] = mmio_read8(&config->mac[i]);
	nic->mtu = virtio_has(&nic->dev, VIRTIO_NET_F_MTU)
		       ? mmio_read16((const volatile uint8_t *)config +
				     offsetof(struct virtio_net_config, mtu))
		       : 1500;
	nic->buffer_size = NIC_HEADER + ETHER_HEADER + nic->mtu;
	nic->interrupts = interrupts;
	if (!ring_init(&nic->rx, &nic->dev, NIC_RX, NIC_RING_SIZE) ||
	    !ring_init(&nic->tx, &nic->dev, NIC_TX, nic->rx.size))
		panic("the network card has no queues");
	if (interrupts)
		nic_route(nic);
	nic_fill(nic);
	virtio_start(&nic->dev);
	nic_flush(nic);
}

uint8_t *nic_receive(struct nic *nic, uint32_t *len, int *buffer)
{
	*buffer = ring_take(&nic->rx, len);
	if (*buffer < 0)
		return NULL;
	if (*len < NIC_HEADER + ETHER_HEADER || *len > nic->buffer_size)
		panic("the network card received a frame of %u bytes", *len);
	*len -= NIC_HEADER;
	return nic->rx_buffers[*buffer] + NIC_HEADER;
}

void nic_repost(struct nic *nic, int buffer)
{
	struct segment segment = {nic->rx_buffers[buffer], nic->buffer_size};

	/*
	 * The descriptor that ring_take() freed last is the first to be used, so it keeps its
	 * buffer.
	 */
	if (ring_add(&nic->rx, &segment, 0, 1) != buffer)
		panic("receive buffers are reposted in another order than taken");
}

/* Wait for room in the full send ring: by interrupt until half of it is there. */
static void nic_drain(struct nic *nic)
{
	uint32_t seen = interrupts_taken;

	if (!nic->interrupts) {
		cpu_relax();
		return;
	}
	if (!ring_interrupt_after(&nic->tx, nic->tx.size / 2))
		cpu_idle(seen);
	ring_interrupt(&nic->tx, false);
}

uint8_t *nic_buffer(struct nic *nic)
{
	if (!nic->tx.free_count)
		ring_kick(&nic->tx);
	while (!nic->tx.free_count || ring_pending(&nic->tx))
		if (ring_take(&nic->tx, NULL) < 0)
			nic_drain(nic);
	return nic->tx_buffers[nic->tx.free] + NIC_HEADER;
}

void nic_send(struct nic *nic, uint32_t len)
{
	struct segment segment = {nic->tx_buffers[nic->tx.free], NIC_HEADER + len};

	ring_add(&nic->tx, &segment, 1, 0);
}

void nic_flush(struct nic *nic)
{
	if (nic->rx.avail_next != nic->rx.kicked)
		ring_kick(&nic->rx);
	if (nic->tx.avail_next != nic->tx.kicked)
		ring_kick(&nic->tx);
}

void nic_wait(struct nic *nic)
{
	uint32_t seen = interrupts_taken;

	if (!nic->interrupts) {
		cpu_relax();
		return;
	}
	if (!ring_interrupt(&nic->rx, true))
		cpu_idle(seen);
	ring_interrupt(&nic->rx, false);
}
