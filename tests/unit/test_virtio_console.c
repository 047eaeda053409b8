/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The console device between a driver's rings and backends that take as much as they are told to.
 * Row names such as A23 are those of the list of hostile inputs.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <linux/virtio_console.h>
#include <string.h>

#include "tests/unit/device_rig.h"

#define IN(port)  ((port) ? 2 * (port) + 2 : 0)
#define OUT(port) (IN(port) + 1)
#define CTRL_IN	  2
#define CTRL_OUT  3
#define MULTIPORT (1ull << VIRTIO_CONSOLE_F_MULTIPORT)
#define PORTS	  2
#define CTRL_GPA  (RIG_DATA + 0x40000) /* 64 buffers of 64 bytes for control messages */

static struct backend {
	struct console_backend ops;
	size_t room, len;
	char data[1 << 20];
	unsigned opens, closes, readies;
	void (*ready)(void);
} backends[PORTS];

static struct device_rig rig;

static size_t backend_write(struct console_backend *ops, const void *data, size_t len)
{
	struct backend *b = container_of(ops, struct backend, ops);

	if (len > b->room)
		len = b->room;
	cr_assert_leq(b->len + len, sizeof(b->data));
	memcpy(b->data + b->len, data, len);
	b->len += len;
	b->room -= len;
	return len;
}

static void backend_open(struct console_backend *ops, bool open)
{
	struct backend *b = container_of(ops, struct backend, ops);

	if (open)
		b->opens++;
	else
		b->closes++;
}

static void backend_ready(struct console_backend *ops)
{
	struct backend *b = container_of(ops, struct backend, ops);

	b->readies++;
	if (b->ready)
		b->ready();
}

static void setup_with(uint64_t features)
{
	const struct console_port_options ports[PORTS] = {
	    {.is_console = true, .backend = &backends[0].ops},
	    {.name = "weft.agent", .backend = &backends[1].ops},
	};

	memset(backends, 0, sizeof(backends));
	for (unsigned i = 0; i < PORTS; i++) {
		backends[i].ops =
		    (struct console_backend){backend_write, backend_open, backend_ready};
		backends[i].room = sizeof(backends[i].data);
	}
	rig_begin(&rig);
	rig.dev = virtio_console_create(&rig.env, ports, PORTS);
	cr_assert_not_null(rig.dev);
	rig_start(&rig, features, 64);
}

static void setup(void)
{
	setup_with(MULTIPORT);
}

static void teardown(void)
{
	virtio_stop(rig.dev);
	virtio_console_destroy(rig.dev);
	rig_end(&rig);
}

/* --- control -------------------------------------------------------------------------------- */

static void control_post(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		rig_send(&rig, CTRL_IN, (struct ring_buffer[]){{CTRL_GPA + 64 * i, 64, true}}, 1);
}

static void control_say(uint32_t id, uint16_t event, uint16_t value)
{
	const struct virtio_console_control msg = {id, event, value};

	memcpy(rig_host(&rig, RIG_DATA), &msg, sizeof(msg));
	rig_send(&rig, CTRL_OUT, (struct ring_buffer[]){{RIG_DATA, sizeof(msg), false}}, 1);
}

/* The next message to the guest is this, in the buffer of this number. */
static void control_hear(unsigned buffer, uint32_t id, uint16_t event, uint16_t value,
			 const char *text)
{
	const struct virtio_console_control msg = {id, event, value};
	const char *at = rig_host(&rig, CTRL_GPA + 64 * buffer);

	cr_assert_eq(rig_used(&rig, CTRL_IN), (int64_t)(sizeof(msg) + strlen(text)));
	cr_assert_eq(memcmp(at, &msg, sizeof(msg)), 0);
	cr_assert_eq(memcmp(at + sizeof(msg), text, strlen(text)), 0);
}

Test(virtio_console, ports_are_announced, .init = setup, .fini = teardown)
{
	virtio_console_host_open(rig.dev, 1, true);
	control_post(10);
	cr_assert_eq(rig_used(&rig, CTRL_IN), -1);
	control_say(VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
	control_hear(0, 0, VIRTIO_CONSOLE_PORT_ADD, 1, "");
	control_hear(1, 1, VIRTIO_CONSOLE_PORT_ADD, 1, "");
	control_say(0, VIRTIO_CONSOLE_PORT_READY, 1);
	control_hear(2, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, "");
	control_say(1, VIRTIO_CONSOLE_PORT_READY, 1);
	control_hear(3, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "weft.agent");
	control_hear(4, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
	virtio_console_host_open(rig.dev, 1, true);
	virtio_console_host_open(rig.dev, 1, false);
	control_hear(5, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, "");
	cr_assert_eq(rig_used(&rig, CTRL_IN), -1);
	control_say(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	control_say(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	cr_assert_eq(backends[1].opens, 1);
	control_say(1, VIRTIO_CONSOLE_PORT_OPEN, 0);
	cr_assert_eq(backends[1].closes, 1);
}

Test(virtio_console, a23_messages_wait_as_states, .init = setup, .fini = teardown)
{
	control_say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	control_say(1, VIRTIO_CONSOLE_PORT_READY, 1);
	for (unsigned i = 0; i < 1001; i++) {
		virtio_console_host_open(rig.dev, 1, i % 2 == 0);
		control_say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
		cr_assert_eq(rig_used(&rig, CTRL_OUT), 0);
	}
	control_post(1);
	control_hear(0, 0, VIRTIO_CONSOLE_PORT_ADD, 1, "");
	control_post(1);
	control_hear(0, 1, VIRTIO_CONSOLE_PORT_ADD, 1, "");
	control_post(8);
	control_hear(0, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "weft.agent");
	control_hear(1, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
	cr_assert_eq(rig_used(&rig, CTRL_IN), -1);
}

Test(virtio_console, a23_messages_that_make_no_sense, .init = setup, .fini = teardown)
{
	control_post(8);
	control_say(0, VIRTIO_CONSOLE_DEVICE_READY, 0);
	control_say(2, VIRTIO_CONSOLE_PORT_READY, 1);
	control_say(0xffffffff, VIRTIO_CONSOLE_PORT_READY, 1);
	control_say(0x80000000, VIRTIO_CONSOLE_PORT_OPEN, 1);
	control_say(0, VIRTIO_CONSOLE_PORT_READY, 0);
	control_say(0, VIRTIO_CONSOLE_PORT_REMOVE, 1);
	control_say(0, VIRTIO_CONSOLE_RESIZE, 1);
	control_say(0, 0xffff, 0xffff);
	for (unsigned len = 0; len < sizeof(struct virtio_console_control); len++)
		rig_send(&rig, CTRL_OUT, (struct ring_buffer[]){{RIG_DATA, len, false}}, 1);
	cr_assert_eq(rig_used(&rig, CTRL_IN), -1);
	cr_assert_eq(rig.dev->queues[CTRL_OUT].requests, 16);
	cr_assert_null(rig.dev->broken);
}

Test(virtio_console, a13_a_message_in_single_bytes, .init = setup, .fini = teardown)
{
	const struct virtio_console_control msg = {1, VIRTIO_CONSOLE_PORT_OPEN, 1};
	struct ring_buffer bytes[sizeof(msg)];

	memcpy(rig_host(&rig, RIG_DATA), &msg, sizeof(msg));
	for (unsigned i = 0; i < sizeof(msg); i++)
		bytes[i] = (struct ring_buffer){RIG_DATA + i, 1, false};
	rig_send(&rig, CTRL_OUT, bytes, sizeof(msg));
	cr_assert_eq(backends[1].opens, 1);
}

Test(virtio_console, a_message_is_cut_to_the_buffer, .init = setup, .fini = teardown)
{
	rig_send(&rig, CTRL_IN, (struct ring_buffer[]){{CTRL_GPA, 3, true}}, 1);
	control_say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	cr_assert_eq(rig_used(&rig, CTRL_IN), 3);
}

Test(virtio_console, a18_a_visit_hears_a_bounded_number, .init = setup, .fini = teardown)
{
	struct ring_buffer msg = {RIG_DATA, 8, false};

	for (unsigned i = 0; i < 63; i++)
		cr_assert(rig_add(&rig, CTRL_OUT, &msg, 1));
	rig_send(&rig, CTRL_OUT, &msg, 1);
	cr_assert_eq(rig.dev->queues[CTRL_OUT].requests, 16);
	rig_turns(&rig, 5);
	cr_assert_eq(rig.dev->queues[CTRL_OUT].requests, 64);
}

static void setup_single(void)
{
	setup_with(0);
}

Test(virtio_console, without_multiport_there_is_one_port, .init = setup_single, .fini = teardown)
{
	memcpy(rig_host(&rig, RIG_DATA), "hi", 2);
	control_post(2);
	control_say(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	rig_send(&rig, OUT(1), (struct ring_buffer[]){{RIG_DATA, 2, false}}, 1);
	cr_assert_eq(backends[1].opens, 0);
	cr_assert_eq(backends[1].len, 0);
	memcpy(rig_host(&rig, RIG_DATA), "hi", 2);
	rig_send(&rig, OUT(0), (struct ring_buffer[]){{RIG_DATA, 2, false}}, 1);
	cr_assert_eq(backends[0].len, 2);
}

/* --- output --------------------------------------------------------------------------------- */

static void output(unsigned port, const char *text)
{
	uint64_t gpa = RIG_DATA + 0x1000 * (port + 1);

	memcpy(rig_host(&rig, gpa), text, strlen(text));
	rig_send(&rig, OUT(port), (struct ring_buffer[]){{gpa, strlen(text), false}}, 1);
}

static void output_expect(unsigned port, const char *text)
{
	cr_assert_eq(backends[port].len, strlen(text));
	cr_assert_eq(memcmp(backends[port].data, text, strlen(text)), 0);
}

Test(virtio_console, output_reaches_its_backend, .init = setup, .fini = teardown)
{
	output(0, "\x1b]0;title\x07\x1b[2J\r\n\x04");
	output(1, "two");
	output_expect(0, "\x1b]0;title\x07\x1b[2J\r\n\x04");
	output_expect(1, "two");
	cr_assert_eq(rig_used(&rig, OUT(0)), 0);
	cr_assert_eq(rig_used(&rig, OUT(1)), 0);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + OUT(0)), 1);
}

Test(virtio_console, a23_output_waits_for_its_backend, .init = setup, .fini = teardown)
{
	backends[0].room = 4;
	output(0, "abcdefgh");
	output_expect(0, "abcd");
	cr_assert_eq(rig_used(&rig, OUT(0)), -1);
	output(1, "other");
	output_expect(1, "other");
	virtio_ready(rig.dev, OUT(0));
	rig_turns(&rig, 1);
	output_expect(0, "abcd");
	backends[0].room = 3;
	virtio_console_resume(rig.dev, 0);
	rig_turns(&rig, 1);
	output_expect(0, "abcdefg");
	cr_assert_eq(rig_used(&rig, OUT(0)), -1);
	backends[0].room = 100;
	virtio_console_resume(rig.dev, 0);
	virtio_console_resume(rig.dev, 0);
	rig_turns(&rig, 1);
	output_expect(0, "abcdefgh");
	cr_assert_eq(rig_used(&rig, OUT(0)), 0);
	backends[0].len = 0;
	output(0, "next");
	output_expect(0, "next");
}

Test(virtio_console, a23_output_that_nobody_reads_stays_in_the_ring, .init = setup,
     .fini = teardown)
{
	struct ring_buffer big = {RIG_DATA, 1 << 20, false};

	backends[0].room = 0;
	while (rig_add(&rig, OUT(0), &big, 1))
		virtio_ready(rig.dev, OUT(0));
	rig_turns(&rig, 3);
	cr_assert_eq(rig.dev->queues[OUT(0)].requests, 0);
	cr_assert_eq(backends[0].len, 0);
	virtio_stop(rig.dev);
	rig_start(&rig, MULTIPORT, 64);
	/* The backend is still full, and the next driver's output waits for it too. */
	output(0, "new");
	cr_assert_eq(backends[0].len, 0);
	backends[0].room = 10;
	virtio_console_resume(rig.dev, 0);
	rig_turns(&rig, 1);
	output_expect(0, "new");
}

Test(virtio_console, a20_a_reset_forgets_half_a_request, .init = setup, .fini = teardown)
{
	backends[0].room = 4;
	output(0, "abcdefgh");
	virtio_stop(rig.dev);
	backends[0].room = 100;
	backends[0].len = 0;
	virtio_console_resume(rig.dev, 0);
	rig_turns(&rig, 2);
	cr_assert_eq(backends[0].len, 0);
	rig_start(&rig, MULTIPORT, 64);
	output(0, "12345678");
	output_expect(0, "12345678");
}

Test(virtio_console, a16_a_request_that_shrinks_while_it_waits, .init = setup, .fini = teardown)
{
	backends[0].room = 6;
	output(0, "abcdefgh");
	ring_driver_write(&rig.rings[OUT(0)].desc[0], RIG_DATA, 2, 0, 0);
	backends[0].room = 100;
	virtio_console_resume(rig.dev, 0);
	rig_turns(&rig, 1);
	output_expect(0, "abcdef");
	cr_assert_eq(rig_used(&rig, OUT(0)), 0);
	backends[0].len = 0;
	output(0, "whole");
	output_expect(0, "whole");
}

Test(virtio_console, a18_a_visit_moves_a_bounded_amount, .init = setup, .fini = teardown)
{
	struct ring_buffer pieces[] = {{RIG_DATA, 100000, false},
				       {RIG_DATA + 100000, 50001, false},
				       {RIG_DATA + 150001, 99999, false}};
	uint8_t *data = rig_host(&rig, RIG_DATA);

	for (unsigned i = 0; i < 250000; i++)
		data[i] = i * 5 + i / 256;
	rig_send(&rig, OUT(0), pieces, 3);
	cr_assert_eq(backends[0].len, 65536);
	rig_turns(&rig, 1);
	cr_assert_eq(backends[0].len, 2 * 65536);
	rig_turns(&rig, 4);
	cr_assert_eq(backends[0].len, 250000);
	cr_assert_eq(memcmp(backends[0].data, data, 250000), 0);
	cr_assert_eq(rig_used(&rig, OUT(0)), 0);
}

Test(virtio_console, a10_requests_of_nothing, .init = setup, .fini = teardown)
{
	struct ring_buffer empty[] = {{RIG_DATA, 0, false}, {0, 0, false}, {RIG_DATA, 0, true}};

	for (unsigned i = 0; i < 1000; i++) {
		rig_send(&rig, OUT(0), empty, 3);
		cr_assert_eq(rig_used(&rig, OUT(0)), 0);
	}
	cr_assert_eq(backends[0].len, 0);
}

/* --- input ---------------------------------------------------------------------------------- */

static void input_post(unsigned port, uint64_t gpa, uint32_t len)
{
	rig_send(&rig, IN(port), (struct ring_buffer[]){{gpa, len, true}}, 1);
}

Test(virtio_console, input_fills_buffers, .init = setup, .fini = teardown)
{
	input_post(1, RIG_DATA, 4);
	input_post(1, RIG_DATA + 4, 4);
	cr_assert_eq(virtio_console_input(rig.dev, 1, "abcdef", 6), 6);
	cr_assert_eq(rig_used(&rig, IN(1)), 4);
	cr_assert_eq(rig_used(&rig, IN(1)), 2);
	cr_assert_eq(memcmp(rig_host(&rig, RIG_DATA), "abcdef", 6), 0);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1 + IN(1)), 1);
	cr_assert_eq(virtio_console_input(rig.dev, 1, "", 0), 0);
	cr_assert_eq(backends[1].readies, 0);
}

Test(virtio_console, input_waits_for_buffers, .init = setup, .fini = teardown)
{
	cr_assert_eq(virtio_console_input(rig.dev, 0, "abc", 3), 0);
	input_post(0, RIG_DATA, 2);
	cr_assert_eq(backends[0].readies, 1);
	cr_assert_eq(virtio_console_input(rig.dev, 0, "abc", 3), 2);
	input_post(0, RIG_DATA + 2, 2);
	cr_assert_eq(backends[0].readies, 2);
	cr_assert_eq(virtio_console_input(rig.dev, 0, "c", 1), 1);
	cr_assert_eq(memcmp(rig_host(&rig, RIG_DATA), "abc", 3), 0);
	input_post(0, RIG_DATA, 2);
	cr_assert_eq(backends[0].readies, 2);
}

Test(virtio_console, input_wants_the_doorbell_only_when_it_waits, .init = setup, .fini = teardown)
{
	struct ring_driver *drv = &rig.rings[IN(0)];

	cr_assert_geq(ring_driver_add(drv, (struct ring_buffer[]){{RIG_DATA, 2, true}}, 1), 0);
	cr_assert_not(ring_driver_expose(drv));
	cr_assert_eq(virtio_console_input(rig.dev, 0, "abc", 3), 2);
	cr_assert_geq(ring_driver_add(drv, (struct ring_buffer[]){{RIG_DATA, 2, true}}, 1), 0);
	cr_assert(ring_driver_expose(drv));
}

static void input_again(void)
{
	virtio_console_input(rig.dev, 0, "again", 5);
}

Test(virtio_console, a23_input_survives_a_reset, .init = setup, .fini = teardown)
{
	cr_assert_eq(virtio_console_input(rig.dev, 0, "again", 5), 0);
	virtio_stop(rig.dev);
	cr_assert_eq(virtio_console_input(rig.dev, 0, "again", 5), 0);
	backends[0].ready = input_again;
	rig_start(&rig, MULTIPORT, 64);
	cr_assert_eq(backends[0].readies, 1);
	input_post(0, RIG_DATA, 64);
	cr_assert_eq(backends[0].readies, 2);
	cr_assert_eq(rig_used(&rig, IN(0)), 5);
	cr_assert_eq(memcmp(rig_host(&rig, RIG_DATA), "again", 5), 0);
}

Test(virtio_console, a11_input_buffers_that_cannot_be_written, .init = setup, .fini = teardown)
{
	rig_send(&rig, IN(0), (struct ring_buffer[]){{RIG_DATA, 4, false}}, 1);
	cr_assert_eq(virtio_console_input(rig.dev, 0, "abc", 3), 0);
	cr_assert_not_null(rig.dev->broken);
	rig_reset(&rig);
	rig_send(&rig, IN(0), (struct ring_buffer[]){{RIG_DATA, 0, true}}, 1);
	cr_assert_eq(virtio_console_input(rig.dev, 0, "abc", 3), 0);
	cr_assert_not_null(rig.dev->broken);
	rig_reset(&rig);
	rig_send(&rig, CTRL_IN, (struct ring_buffer[]){{RIG_DATA, 4, false}}, 1);
	control_say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	cr_assert_not_null(rig.dev->broken);
	rig_reset(&rig);
	input_post(0, RIG_DATA, 4);
	cr_assert_eq(virtio_console_input(rig.dev, 0, "abc", 3), 3);
}

/* --- the rest ------------------------------------------------------------------------------- */

Test(virtio_console, a20_a_reset_closes_ports, .init = setup, .fini = teardown)
{
	control_say(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	control_say(1, VIRTIO_CONSOLE_PORT_READY, 1);
	virtio_stop(rig.dev);
	virtio_stop(rig.dev);
	cr_assert_eq(backends[1].closes, 1);
	rig_start(&rig, MULTIPORT, 64);
	control_post(4);
	virtio_console_host_open(rig.dev, 1, true);
	cr_assert_eq(rig_used(&rig, CTRL_IN), -1);
	control_say(1, VIRTIO_CONSOLE_PORT_READY, 1);
	control_hear(0, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "weft.agent");
	control_hear(1, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
}

Test(virtio_console, configuration, .init = setup, .fini = teardown)
{
	struct virtio_console_config config;

	rig.dev->ops->config_read(rig.dev, 0, &config, rig.dev->ops->config_size);
	cr_assert_eq(config.max_nr_ports, PORTS);
	cr_assert_eq(rig.dev->queue_count, 2 * PORTS + 2);
}

Test(virtio_console, impossible_numbers_of_ports)
{
	struct console_port_options ports[CONSOLE_PORTS_MAX + 1] = {0};

	rig_begin(&rig);
	errno = 0;
	cr_assert_null(virtio_console_create(&rig.env, ports, 0));
	cr_assert_eq(errno, EINVAL);
	cr_assert_null(virtio_console_create(&rig.env, ports, CONSOLE_PORTS_MAX + 1));
	virtio_console_destroy(NULL);
	rig_end(&rig);
}
