/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A 16550A serial port: registers on one side, bytes on the other. */
#ifndef WEFT_SERIAL_H
#define WEFT_SERIAL_H

#include <stddef.h>
#include <stdint.h>

#define SERIAL_PORTS 8 /* I/O ports the device occupies */

struct serial;

/* What the serial port needs of its maker. Called with the port's lock held: do not call back in. */
struct serial_host {
	/* One byte left the guest. Any vCPU thread; must not block. */
	void (*transmit)(void *context, uint8_t byte);
	/* The interrupt line's level changed. */
	void (*set_irq)(void *context, int level);
	/* Room came free in the receive FIFO after serial_receive() took less than offered. */
	void (*receive_ready)(void *context);
	void *context;
};

/* serial_create - a port in its reset state. Returns NULL with errno set. */
struct serial *serial_create(const struct serial_host *host);
void serial_destroy(struct serial *serial);
/* serial_reset - power-on state; bytes waiting are dropped. */
void serial_reset(struct serial *serial);
/* Register access, @offset 0..SERIAL_PORTS-1, one byte. Any vCPU thread. */
uint8_t serial_read(struct serial *serial, unsigned offset);
void serial_write(struct serial *serial, unsigned offset, uint8_t value);
/* serial_receive - give bytes to the guest; returns how many the FIFO took. Any thread. */
size_t serial_receive(struct serial *serial, const void *data, size_t len);

#endif
