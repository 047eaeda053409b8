/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Transmit requests that are on their way: each goes back to the driver when nobody holds its frame any more. */
#ifndef WEFT_TX_HOLDS_H
#define WEFT_TX_HOLDS_H

#include <stdint.h>

#include "vnet/frame.h"

struct tx_holds; /* of one queue */
struct virtio_device;

/* tx_holds_create - for a queue of the device, which outlives it. NULL without memory. */
struct tx_holds *tx_holds_create(struct virtio_device *dev, unsigned index);
/* tx_holds_destroy - none is out. NULL is fine. */
void tx_holds_destroy(struct tx_holds *holds);
/* tx_holds_take - a hold on the request @head, held once by the caller; pushed when it is released. A ring has no more
 * requests in flight than there are holds. */
struct frame_hold *tx_holds_take(struct tx_holds *holds, uint16_t head);
/* tx_holds_out - how many are held. */
unsigned tx_holds_out(const struct tx_holds *holds);
/* tx_holds_publish - show the driver what has been pushed. What is released later shows itself, once a turn of the
 * loop. */
void tx_holds_publish(struct tx_holds *holds);

#endif
