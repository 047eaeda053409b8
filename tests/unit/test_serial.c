/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The 16550A, as Linux probes and drives it. */
#include <criterion/criterion.h>

#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "devices/serial.h"

static struct serial *port;
static struct {
	char sent[256];
	size_t sent_len;
	int level;
	unsigned changes, readies;
} host;

static void transmit(void *context, uint8_t byte)
{
	(void)context;
	host.sent[host.sent_len++ % sizeof(host.sent)] = byte;
}

static void set_irq(void *context, int level)
{
	(void)context;
	cr_assert_neq(level, host.level);
	host.level = level;
	host.changes++;
}

static void receive_ready(void *context)
{
	(void)context;
	host.readies++;
}

static void setup(void)
{
	const struct serial_host ops = {transmit, set_irq, receive_ready, NULL};

	memset(&host, 0, sizeof(host));
	port = serial_create(&ops);
	cr_assert_not_null(port);
}

static void teardown(void)
{
	serial_destroy(port);
}

static uint8_t in(unsigned offset)
{
	return serial_read(port, offset);
}

static void out(unsigned offset, uint8_t value)
{
	serial_write(port, offset, value);
}

static unsigned cause(void)
{
	return in(UART_IIR)&0x0f;
}

/* drivers/tty/serial/8250/8250_port.c: autoconfig() and autoconfig_16550a() */
Test(serial, linux_detects_a_16550a, .init = setup, .fini = teardown)
{
	uint8_t mcr;

	out(UART_IER, 0);
	cr_assert_eq(in(UART_IER)&0x0f, 0);
	out(UART_IER, 0x0f);
	cr_assert_eq(in(UART_IER)&0x0f, 0x0f);
	out(UART_IER, 0);

	mcr = in(UART_MCR);
	out(UART_MCR, UART_MCR_LOOP | 0x0a);
	cr_assert_eq(in(UART_MSR)&0xf0, 0x90);
	out(UART_MCR, mcr);

	out(UART_LCR, UART_LCR_CONF_MODE_B);
	out(UART_EFR, 0);
	out(UART_LCR, 0);
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	cr_assert_eq(in(UART_IIR) >> 6, 3);

	out(UART_LCR, UART_LCR_CONF_MODE_A);
	cr_assert_neq(in(UART_EFR), 0);
	out(UART_LCR, UART_LCR_CONF_MODE_B);
	cr_assert_neq(in(UART_EFR), 0);

	/* Not a NS16550A with a fast mode. */
	out(UART_LCR, 0);
	mcr = in(UART_MCR);
	out(UART_MCR, mcr ^ UART_MCR_LOOP);
	out(UART_LCR, 0xe0);
	cr_assert_not((in(0x02) ^ mcr) & UART_MCR_LOOP);
	out(UART_LCR, 0);
	out(UART_MCR, mcr);

	/* Not a 16750. */
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
	cr_assert_eq(in(UART_IIR) >> 5, 6);
	out(UART_LCR, UART_LCR_DLAB);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
	cr_assert_eq(in(UART_IIR) >> 5, 6);
	out(UART_LCR, 0);

	/* Not an XScale. */
	out(UART_IER, 0x40);
	cr_assert_not(in(UART_IER)&0x40);
}

/* serial8250_THRE_test(): enabling the interrupt twice raises it twice. */
Test(serial, transmitter_interrupt_when_enabled, .init = setup, .fini = teardown)
{
	for (unsigned i = 0; i < 2; i++) {
		out(UART_IER, UART_IER_THRI);
		cr_assert_eq(host.level, 1);
		cr_assert_eq(cause(), UART_IIR_THRI);
		cr_assert_eq(host.level, 0);
		cr_assert_eq(cause(), UART_IIR_NO_INT);
		out(UART_IER, UART_IER_THRI);
		cr_assert_eq(cause(), UART_IIR_NO_INT);
		out(UART_IER, 0);
	}
}

Test(serial, transmits_and_interrupts, .init = setup, .fini = teardown)
{
	out(UART_IER, UART_IER_THRI);
	cause();
	for (unsigned i = 0; i < 3; i++)
		out(UART_TX, "abc"[i]);
	cr_assert_eq(host.sent_len, 3);
	cr_assert_eq(memcmp(host.sent, "abc", 3), 0);
	cr_assert_eq(host.changes, 3);
	cr_assert_eq(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
	cr_assert_eq(cause(), UART_IIR_THRI);
	cr_assert_eq(host.level, 0);
}

Test(serial, receives_one_byte_without_fifo, .init = setup, .fini = teardown)
{
	cr_assert_eq(serial_receive(port, "xy", 2), 1);
	cr_assert_eq(host.level, 0);
	out(UART_IER, UART_IER_RDI);
	cr_assert_eq(host.level, 1);
	cr_assert_eq(cause(), UART_IIR_RDI);
	cr_assert_eq(in(UART_LSR)&UART_LSR_DR, UART_LSR_DR);
	cr_assert_eq(host.readies, 0);
	cr_assert_eq(in(UART_RX), 'x');
	cr_assert_eq(host.readies, 1);
	cr_assert_eq(host.level, 0);
	cr_assert_eq(in(UART_LSR)&UART_LSR_DR, 0);
	cr_assert_eq(in(UART_RX), 0);
	cr_assert_eq(serial_receive(port, "y", 1), 1);
	cr_assert_eq(in(UART_RX), 'y');
	cr_assert_eq(host.readies, 1);
}

Test(serial, receives_by_fifo_with_triggers, .init = setup, .fini = teardown)
{
	static const struct {
		uint8_t fcr;
		unsigned trigger;
	} levels[] = {{0x00, 1}, {0x40, 4}, {0x80, 8}, {0xc0, 14}};

	out(UART_IER, UART_IER_RDI);
	for (unsigned i = 0; i < 4; i++) {
		out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | levels[i].fcr);
		cr_assert_eq(host.level, 0);
		for (unsigned n = 1; n <= 16; n++) {
			cr_assert_eq(serial_receive(port, "z", 1), 1);
			cr_assert_eq(host.level, 1);
			cr_assert_eq(cause(),
				     n >= levels[i].trigger ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT);
		}
		cr_assert_eq(serial_receive(port, "z", 1), 0);
	}
}

Test(serial, fifo_keeps_order_and_asks_when_empty, .init = setup, .fini = teardown)
{
	char text[64];
	unsigned at = 0, got = 0;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = '0' + i;
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	while (got < sizeof(text)) {
		at += serial_receive(port, text + at, sizeof(text) - at);
		while (in(UART_LSR)&UART_LSR_DR)
			cr_assert_eq(in(UART_RX), text[got++]);
		cr_assert_eq(host.readies, got / 16 - (got == sizeof(text)));
	}
}

Test(serial, fifo_changes_drop_what_waits, .init = setup, .fini = teardown)
{
	out(UART_IER, UART_IER_RDI);
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	serial_receive(port, "aaaaaaaaaaaaaaaaaaaa", 20);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	cr_assert_eq(host.level, 0);
	cr_assert_eq(host.readies, 1);
	serial_receive(port, "bb", 2);
	out(UART_FCR, 0);
	cr_assert_eq(in(UART_LSR)&UART_LSR_DR, 0);
	cr_assert_eq(in(UART_IIR), UART_IIR_NO_INT);
	out(UART_FCR, 0xc0);
	cr_assert_eq(in(UART_IIR), UART_IIR_NO_INT);
}

Test(serial, loopback_feeds_back_and_overruns, .init = setup, .fini = teardown)
{
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	out(UART_MCR, UART_MCR_LOOP);
	for (unsigned i = 0; i < 17; i++)
		out(UART_TX, i);
	cr_assert_eq(host.sent_len, 0);
	cr_assert_eq(serial_receive(port, "x", 1), 0);
	out(UART_IER, UART_IER_RLSI | UART_IER_RDI);
	cr_assert_eq(cause(), UART_IIR_RLSI);
	cr_assert(in(UART_LSR)&UART_LSR_OE);
	cr_assert_not(in(UART_LSR)&UART_LSR_OE);
	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(in(UART_RX), i);
	cr_assert_eq(host.level, 0);
	cr_assert_eq(host.readies, 0);
	out(UART_MCR, 0);
	cr_assert_eq(host.readies, 1);
}

Test(serial, modem_lines_and_their_deltas, .init = setup, .fini = teardown)
{
	cr_assert_eq(in(UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
	out(UART_IER, UART_IER_MSI);
	out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1);
	cr_assert_eq(host.level, 1);
	cr_assert_eq(cause(), UART_IIR_MSI);
	cr_assert_eq(in(UART_MSR), UART_MSR_RI | UART_MSR_DDCD | UART_MSR_DDSR | UART_MSR_DCTS);
	cr_assert_eq(host.level, 0);
	out(UART_MCR, UART_MCR_LOOP);
	cr_assert_eq(in(UART_MSR), UART_MSR_TERI);
	out(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS);
	cr_assert_eq(in(UART_MSR), UART_MSR_CTS | UART_MSR_DCTS);
}

Test(serial, causes_have_an_order, .init = setup, .fini = teardown)
{
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_R_TRIG_01);
	out(UART_IER, UART_IER_RDI | UART_IER_THRI | UART_IER_MSI);
	out(UART_MCR, UART_MCR_LOOP);
	out(UART_TX, 'q');
	cr_assert_eq(cause(), UART_IIR_RX_TIMEOUT);
	in(UART_RX);
	cr_assert_eq(cause(), UART_IIR_THRI);
	cr_assert_eq(cause(), UART_IIR_MSI);
	in(UART_MSR);
	cr_assert_eq(cause(), UART_IIR_NO_INT);
}

Test(serial, divisor_and_scratch, .init = setup, .fini = teardown)
{
	out(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
	out(UART_DLL, 1);
	out(UART_DLM, 2);
	cr_assert_eq(in(UART_DLL), 1);
	cr_assert_eq(in(UART_DLM), 2);
	out(UART_LCR, UART_LCR_WLEN8);
	cr_assert_eq(in(UART_LCR), UART_LCR_WLEN8);
	cr_assert_eq(in(UART_IER), 0);
	cr_assert_eq(host.sent_len, 0);
	out(UART_SCR, 0x5a);
	cr_assert_eq(in(UART_SCR), 0x5a);
	out(UART_MCR, 0xff);
	cr_assert_eq(in(UART_MCR), 0x1f);
}

Test(serial, reset_drops_and_lowers, .init = setup, .fini = teardown)
{
	out(UART_IER, UART_IER_RDI);
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	serial_receive(port, "0123456789abcdefX", 17);
	cr_assert_eq(host.level, 1);
	serial_reset(port);
	cr_assert_eq(host.level, 0);
	cr_assert_eq(host.readies, 1);
	cr_assert_eq(in(UART_IER), 0);
	cr_assert_eq(in(UART_LSR)&UART_LSR_DR, 0);
	serial_destroy(NULL);
}

Test(serial, any_register_and_value, .init = setup, .fini = teardown)
{
	uint32_t seed = 7;

	for (unsigned i = 0; i < 200000; i++) {
		seed = seed * 1664525 + 1013904223;
		if (seed >> 31)
			out(seed >> 8 & 15, seed >> 16);
		else if (seed >> 30)
			in(seed >> 8 & 15);
		else
			serial_receive(port, "0123456789abcdefXYZ", seed >> 8 & 15);
	}
}

static atomic_bool done;

static void *receiver(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 20000;)
		i += serial_receive(port, &(char){i & 0x7f}, 1);
	atomic_store(&done, true);
	return NULL;
}

Test(serial, bytes_cross_threads_in_order, .init = setup, .fini = teardown, .timeout = 300)
{
	pthread_t thread;
	unsigned n = 0;

	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	out(UART_IER, UART_IER_RDI);
	cr_assert_eq(pthread_create(&thread, NULL, receiver, NULL), 0);
	while (!atomic_load(&done) || (in(UART_LSR)&UART_LSR_DR))
		if (in(UART_LSR)&UART_LSR_DR)
			cr_assert_eq(in(UART_RX), n++ & 0x7f);
	pthread_join(thread, NULL);
	cr_assert_eq(n, 20000);
}
