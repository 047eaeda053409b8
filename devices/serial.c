/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A 16550A as National's data sheet (PC16550D) has it, but infinitely fast: a byte written leaves
 * at once, so that the transmitter is always empty, and there is no baud rate, parity or break.
 * Received bytes wait in a FIFO of 16 (of 1 while the driver has FIFOs disabled); what does not fit
 * stays with the host, which is told by receive_ready() when the FIFO has been emptied. Nothing is
 * ever overrun but by a driver that talks to itself in loopback mode.
 *
 * Interrupts: serial_cause() finds the most urgent enabled cause, and the line is its level. The
 * "transmitter empty" cause is an event rather than a state: it arises when a byte is written and
 * when it gets enabled, and passes when it is read from IIR. The character timeout is taken to have
 * passed as soon as there are fewer bytes than the trigger level. Unlike on a PC's board, OUT2 does
 * not gate the line.
 *
 * Threads: any; one mutex, held during the host's callbacks.
 */
#include "devices/serial.h"

#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SERIAL_FIFO 16u /* bytes */
/* The modem lines outside of loopback: somebody is always there. */
#define SERIAL_LINES	(UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS)
#define SERIAL_MCR_MASK 0x1f
#define SERIAL_IER_MASK 0x0f

struct serial {
	struct serial_host host;
	pthread_mutex_t lock; /* all below */
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint8_t divisor[2];
	bool overrun, transmit_event;
	bool receive_short; /* the host was refused bytes */
	int level;	    /* of the interrupt line */
	uint8_t fifo[SERIAL_FIFO];
	unsigned fifo_first, fifo_count;
};

static bool fifo_enabled(const struct serial *s)
{
	return s->fcr & UART_FCR_ENABLE_FIFO;
}

static unsigned fifo_size(const struct serial *s)
{
	return fifo_enabled(s) ? SERIAL_FIFO : 1;
}

/* Bytes that make a receive interrupt rather than a character timeout. */
static unsigned fifo_trigger(const struct serial *s)
{
	static const uint8_t levels[] = {1, 4, 8, 14};

	return fifo_enabled(s) ? levels[UART_FCR_R_TRIG_BITS(s->fcr)] : 1;
}

static void fifo_put(struct serial *s, uint8_t byte)
{
	s->fifo[(s->fifo_first + s->fifo_count++) % SERIAL_FIFO] = byte;
}

/* Refused bytes may come again. */
static void fifo_emptied(struct serial *s)
{
	if (!s->receive_short || s->fifo_count || (s->mcr & UART_MCR_LOOP))
		return;
	s->receive_short = false;
	if (s->host.receive_ready)
		s->host.receive_ready(s->host.context);
}

/* The interrupt identification, without the FIFO bits (PC16550D, table IV). */
static uint8_t serial_cause(const struct serial *s)
{
	if ((s->ier & UART_IER_RLSI) && s->overrun)
		return UART_IIR_RLSI;
	if ((s->ier & UART_IER_RDI) && s->fifo_count)
		return s->fifo_count >= fifo_trigger(s) ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT;
	if ((s->ier & UART_IER_THRI) && s->transmit_event)
		return UART_IIR_THRI;
	if ((s->ier & UART_IER_MSI) && (s->msr & UART_MSR_ANY_DELTA))
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

static void irq_update(struct serial *s)
{
	int level = serial_cause(s) != UART_IIR_NO_INT;

	if (level == s->level)
		return;
	s->level = level;
	s->host.set_irq(s->host.context, level);
}

/* In loopback the modem's outputs are its inputs. */
static uint8_t modem_lines(const struct serial *s)
{
	uint8_t lines = 0;

	if (!(s->mcr & UART_MCR_LOOP))
		return SERIAL_LINES;
	if (s->mcr & UART_MCR_DTR)
		lines |= UART_MSR_DSR;
	if (s->mcr & UART_MCR_RTS)
		lines |= UART_MSR_CTS;
	if (s->mcr & UART_MCR_OUT1)
		lines |= UART_MSR_RI;
	if (s->mcr & UART_MCR_OUT2)
		lines |= UART_MSR_DCD;
	return lines;
}

/* The delta of each line stands four bits below it; RI has one only when it goes off. */
static void modem_update(struct serial *s)
{
	uint8_t lines = modem_lines(s);
	uint8_t changed = (lines ^ s->msr) & ~UART_MSR_ANY_DELTA;

	if (lines & UART_MSR_RI)
		changed &= ~UART_MSR_RI;
	s->msr = lines | (s->msr & UART_MSR_ANY_DELTA) | changed >> 4;
}

static uint8_t receive_read(struct serial *s)
{
	uint8_t byte = s->fifo[s->fifo_first];

	if (!s->fifo_count)
		return 0;
	s->fifo_first = (s->fifo_first + 1) % SERIAL_FIFO;
	s->fifo_count--;
	fifo_emptied(s);
	return byte;
}

static uint8_t iir_read(struct serial *s)
{
	uint8_t cause = serial_cause(s);

	if (cause == UART_IIR_THRI)
		s->transmit_event = false;
	return cause | (fifo_enabled(s) ? 0xc0 : 0);
}

static uint8_t lsr_read(struct serial *s)
{
	uint8_t lsr = UART_LSR_TEMT | UART_LSR_THRE;

	if (s->fifo_count)
		lsr |= UART_LSR_DR;
	if (s->overrun)
		lsr |= UART_LSR_OE;
	s->overrun = false;
	return lsr;
}

static uint8_t msr_read(struct serial *s)
{
	uint8_t msr = s->msr;

	s->msr &= ~UART_MSR_ANY_DELTA;
	return msr;
}

static uint8_t register_read(struct serial *s, unsigned offset)
{
	if ((s->lcr & UART_LCR_DLAB) && offset <= UART_DLM)
		return s->divisor[offset];
	switch (offset) {
	case UART_RX:
		return receive_read(s);
	case UART_IER:
		return s->ier;
	case UART_IIR:
		return iir_read(s);
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		return lsr_read(s);
	case UART_MSR:
		return msr_read(s);
	case UART_SCR:
		return s->scr;
	default:
		return 0xff;
	}
}

static void transmit_write(struct serial *s, uint8_t byte)
{
	s->transmit_event = true;
	if (!(s->mcr & UART_MCR_LOOP))
		s->host.transmit(s->host.context, byte);
	else if (s->fifo_count < fifo_size(s))
		fifo_put(s, byte);
	else
		s->overrun = true;
}

static void ier_write(struct serial *s, uint8_t value)
{
	if (value & ~s->ier & UART_IER_THRI)
		s->transmit_event = true;
	s->ier = value & SERIAL_IER_MASK;
}

/* While FIFOs are disabled the other bits cannot be set. */
static void fcr_write(struct serial *s, uint8_t value)
{
	bool toggled = (value ^ s->fcr) & UART_FCR_ENABLE_FIFO;

	s->fcr = 0;
	if (value & UART_FCR_ENABLE_FIFO)
		s->fcr = value & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK);
	if (!toggled && !(value & UART_FCR_CLEAR_RCVR))
		return;
	s->fifo_count = 0;
	fifo_emptied(s);
}

static void mcr_write(struct serial *s, uint8_t value)
{
	s->mcr = value & SERIAL_MCR_MASK;
	modem_update(s);
	fifo_emptied(s);
}

static void register_write(struct serial *s, unsigned offset, uint8_t value)
{
	if ((s->lcr & UART_LCR_DLAB) && offset <= UART_DLM) {
		s->divisor[offset] = value;
		return;
	}
	switch (offset) {
	case UART_TX:
		transmit_write(s, value);
		break;
	case UART_IER:
		ier_write(s, value);
		break;
	case UART_FCR:
		fcr_write(s, value);
		break;
	case UART_LCR:
		s->lcr = value;
		break;
	case UART_MCR:
		mcr_write(s, value);
		break;
	case UART_SCR:
		s->scr = value;
		break;
	}
}

uint8_t serial_read(struct serial *s, unsigned offset)
{
	uint8_t value;

	pthread_mutex_lock(&s->lock);
	value = register_read(s, offset);
	irq_update(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

void serial_write(struct serial *s, unsigned offset, uint8_t value)
{
	pthread_mutex_lock(&s->lock);
	register_write(s, offset, value);
	irq_update(s);
	pthread_mutex_unlock(&s->lock);
}

size_t serial_receive(struct serial *s, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	if (!(s->mcr & UART_MCR_LOOP))
		while (n < len && s->fifo_count < fifo_size(s))
			fifo_put(s, bytes[n++]);
	s->receive_short = n < len;
	irq_update(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}

static void registers_reset(struct serial *s)
{
	s->ier = s->fcr = s->lcr = s->mcr = s->scr = 0;
	s->divisor[0] = 12; /* 9600 baud */
	s->divisor[1] = 0;
	s->msr = SERIAL_LINES;
	s->overrun = s->transmit_event = false;
	s->fifo_first = s->fifo_count = 0;
}

void serial_reset(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	registers_reset(s);
	irq_update(s);
	fifo_emptied(s);
	pthread_mutex_unlock(&s->lock);
}

struct serial *serial_create(const struct serial_host *host)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->host = *host;
	pthread_mutex_init(&s->lock, NULL);
	registers_reset(s);
	return s;
}

void serial_destroy(struct serial *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}
