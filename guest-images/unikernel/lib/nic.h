/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A network card for guests: raw Ethernet frames over virtio-net (virtio 1.2, 5.1), one queue pair.
 */
#ifndef GUEST_NIC_H
#define GUEST_NIC_H

#include <linux/virtio_net.h>

#include "virtio.h"

#define MAC_SIZE      6
#define ETHER_HEADER  14
#define NIC_HEADER    12 /* struct virtio_net_hdr_v1 */
#define NIC_RING_SIZE 256
#define NIC_RX	      0 /* queues */
#define NIC_TX	      1
#define NIC_VECTOR    VECTOR_FIRST /* interrupt of both queues */

struct nic {
	struct virtio dev;
	struct ring rx, tx;
	uint8_t mac[MAC_SIZE];
	uint32_t mtu;	      /* bytes behind the Ethernet header */
	uint32_t buffer_size; /* bytes: virtio-net header and frame */
	bool interrupts;      /* wait by interrupt, not by polling */
	uint8_t *rx_buffers[NIC_RING_SIZE], *tx_buffers[NIC_RING_SIZE]; /* by head descriptor */
};

/*
 * nic_open - bring up the @nth network card, its receive ring filled.
 * @interrupts: nic_wait() and nic_buffer() sleep until the card interrupts; otherwise they poll
 *
 * Panics where there is no such card.
 */
void nic_open(struct nic *nic, unsigned nth, bool interrupts);

/*
 * nic_receive - the next frame, *@len bytes, and in *@buffer what nic_repost() wants; NULL if there
 * is none.
 */
uint8_t *nic_receive(struct nic *nic, uint32_t *len, int *buffer);
/* nic_repost - give a receive buffer back to the card; shown to it with the next nic_flush(). */
void nic_repost(struct nic *nic, int buffer);

/* nic_buffer - room for the frame that the next nic_send() queues; waits while the ring is full. */
uint8_t *nic_buffer(struct nic *nic);
/*
 * nic_send - queue the buffer of nic_buffer() with a frame of @len bytes; it leaves with
 * nic_flush().
 */
void nic_send(struct nic *nic, uint32_t len);
/* nic_flush - ring the doorbells where the card wants them. */
void nic_flush(struct nic *nic);
/*
 * nic_wait - wait a while for something to receive: by interrupt until there is, polling for a
 * moment.
 */
void nic_wait(struct nic *nic);

#endif
