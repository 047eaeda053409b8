/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The virtio console (virtio 1.2, 5.3): up to CONSOLE_PORTS_MAX byte streams between the guest and
 * backends of the VMM, named and announced over a pair of control queues where the driver has
 * negotiated MULTIPORT. Everything runs on the sidecar but config_read().
 *
 * Output: requests are passed to the backend within a budget of bytes and requests per visit. When
 * the backend is full the request stays in the ring, with out_done remembering how far it got, and
 * the port is blocked: its doorbell is ignored until virtio_console_resume(). A guest whose output
 * nobody reads therefore fills its own ring and no memory of ours.
 *
 * Input: virtio_console_input() fills the guest's buffers. When they are used up, the port wants
 * buffers: the doorbell of its receive queue is switched on and leads to backend->input_ready().
 *
 * Control: what the guest has to be told is a set of bits per port (owed), sent in their order as
 * the guest has buffers, so that no number of events needs memory; a later state replaces an
 * earlier one that was not sent yet. The life of a port: the guest says DEVICE_READY, is told
 * PORT_ADD, says PORT_READY, is told its kind, name, and whether the host's end is open.
 */
#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "devices/devices.h"
#include "vnet/iovec.h"
#include "devices/virtio.h"

#define QUEUE_SIZE	      64u
#define REQUEST_SEGMENTS      64u /* the longest chain a driver may make of the offered rings */
#define OUTPUT_VISIT_BYTES    65536u
#define OUTPUT_VISIT_REQUESTS 64u
#define CTRL_VISIT_REQUESTS   16u
#define QUEUE_CTRL_IN	      2u
#define QUEUE_CTRL_OUT	      3u

/* Bits of console_port.owed, in the order of sending. */
enum { OWED_ADD = 1, OWED_CONSOLE = 2, OWED_NAME = 4, OWED_OPEN = 8 };

struct virtio_console;

/* Owned by the sidecar. */
struct console_port {
	struct virtio_console *console;
	struct console_port_options opt;
	struct loop_task output_task;
	bool host_open;
	bool ready; /* the driver said PORT_READY */
	bool guest_open;
	unsigned owed;	   /* control messages to be sent */
	bool blocked;	   /* the backend is full */
	size_t out_done;   /* bytes of the first request in the ring that the backend has */
	bool input_wanted; /* the backend has input that did not fit */
};

struct virtio_console {
	struct virtio_device dev;
	struct loop_task ctrl_task;
	unsigned port_count;
	size_t budget; /* bytes left of this visit to an output queue */
	struct console_port ports[CONSOLE_PORTS_MAX];
	struct iovec iov[REQUEST_SEGMENTS];
};

static struct virtio_console *console_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_console, dev);
}

/* virtio 1.2, 5.3.2: port 0 has queues 0 and 1, port n > 0 has 2n + 2 and 2n + 3. */
static unsigned input_queue(const struct console_port *port)
{
	unsigned n = port - port->console->ports;

	return n ? 2 * n + 2 : 0;
}

static unsigned output_queue(const struct console_port *port)
{
	return input_queue(port) + 1;
}

static struct console_port *queue_port(struct virtio_console *con, unsigned index)
{
	return &con->ports[index < QUEUE_CTRL_IN ? 0 : (index - 2) / 2];
}

static bool request_pop(struct virtio_console *con, unsigned index, struct vq_chain *chain)
{
	return virtio_queue_pop(&con->dev, index, chain, con->iov, REQUEST_SEGMENTS);
}

/* Take a buffer of the guest's that we can write to. */
static bool buffer_pop(struct virtio_console *con, unsigned index, struct vq_chain *chain)
{
	if (!request_pop(con, index, chain))
		return false;
	if (chain->out_len || !chain->in_len) {
		virtio_broken(&con->dev, "a console input buffer cannot be written");
		return false;
	}
	return true;
}

/* --- output --------------------------------------------------------------------------------- */

/* Pass what the budget allows to the backend. Returns true when the whole request is with it. */
static bool output_write(struct console_port *port, struct iov_cursor *from)
{
	struct console_backend *backend = port->opt.backend;
	size_t *budget = &port->console->budget;

	iov_skip(from, port->out_done);
	for (;;) {
		struct iovec piece = iov_piece(from);
		size_t len = piece.iov_len < *budget ? piece.iov_len : *budget, taken;

		if (!piece.iov_len)
			return true;
		if (!len)
			return false;
		taken = backend->write(backend, piece.iov_base, len);
		port->out_done += taken;
		*budget -= taken;
		iov_skip(from, taken);
		if (taken < len) {
			port->blocked = true;
			return false;
		}
	}
}

/* Serve one request of an output queue: virtio_queue_visit(). */
static int output_request(struct virtio_device *dev, unsigned index)
{
	struct virtio_console *con = console_of(dev);
	struct console_port *port = queue_port(con, index);
	struct vq_chain chain;
	struct iov_cursor from;

	if (!request_pop(con, index, &chain))
		return 0;
	from = iov_cursor(con->iov, chain.out_count);
	if (!output_write(port, &from)) {
		virtqueue_unpop(&dev->queues[index].ring, 1);
		return -1;
	}
	port->out_done = 0;
	virtqueue_push(&dev->queues[index].ring, chain.head, 0);
	dev->queues[index].requests++;
	return 1;
}

static void output_visit(struct console_port *port)
{
	struct virtio_console *con = port->console;
	bool more;

	if (port->blocked)
		return;
	con->budget = OUTPUT_VISIT_BYTES;
	more = virtio_queue_visit(&con->dev, output_queue(port), OUTPUT_VISIT_REQUESTS,
				  output_request);
	if (more || (!con->budget && !port->blocked))
		loop_defer(con->dev.loop, &port->output_task);
}

static void output_run(struct loop_task *task)
{
	output_visit(container_of(task, struct console_port, output_task));
}

void virtio_console_resume(struct virtio_device *dev, unsigned index)
{
	struct console_port *port = &console_of(dev)->ports[index];

	if (!port->blocked)
		return;
	port->blocked = false;
	if (dev->running)
		loop_defer(dev->loop, &port->output_task);
}

/* --- input ---------------------------------------------------------------------------------- */

size_t virtio_console_input(struct virtio_device *dev, unsigned index, const void *data, size_t len)
{
	struct virtio_console *con = console_of(dev);
	struct console_port *port = &con->ports[index];
	unsigned queue = input_queue(port);
	struct virtqueue *ring = &dev->queues[queue].ring;
	const struct iovec all = {.iov_base = (void *)data, .iov_len = len};
	struct iov_cursor from = iov_cursor(&all, 1);
	struct vq_chain chain;
	size_t done = 0;

	while (done < len) {
		struct iov_cursor to;
		size_t n;

		if (!buffer_pop(con, queue, &chain)) {
			port->input_wanted = true;
			if (virtqueue_notify_on(ring))
				continue;
			break;
		}
		to = iov_cursor(con->iov, chain.in_count);
		n = iov_copy(&to, &from, len - done);
		virtqueue_push(ring, chain.head, n);
		dev->queues[queue].requests++;
		done += n;
	}
	if (done == len)
		port->input_wanted = false;
	virtio_queue_publish(dev, queue);
	return done;
}

static void input_ready(struct console_port *port)
{
	struct console_backend *backend = port->opt.backend;

	virtqueue_notify_off(&port->console->dev.queues[input_queue(port)].ring);
	if (!port->input_wanted)
		return;
	port->input_wanted = false;
	if (backend->input_ready)
		backend->input_ready(backend);
}

/* --- control -------------------------------------------------------------------------------- */

/* Send one control message. Returns false when the guest has no buffer for it. */
static bool control_send(struct console_port *port, uint16_t event, uint16_t value,
			 const char *text)
{
	struct virtio_console *con = port->console;
	struct virtio_queue *queue = &con->dev.queues[QUEUE_CTRL_IN];
	const struct virtio_console_control msg = {
	    .id = port - con->ports,
	    .event = event,
	    .value = value,
	};
	struct vq_chain chain;
	struct iov_cursor to;
	size_t len;

	if (!buffer_pop(con, QUEUE_CTRL_IN, &chain))
		return false;
	to = iov_cursor(con->iov, chain.in_count);
	len = iov_write(&to, &msg, sizeof(msg));
	len += iov_write(&to, text, strlen(text));
	virtqueue_push(&queue->ring, chain.head, len);
	queue->requests++;
	return true;
}

static bool owed_send(struct console_port *port, unsigned owed)
{
	switch (owed) {
	case OWED_ADD:
		return control_send(port, VIRTIO_CONSOLE_PORT_ADD, 1, "");
	case OWED_CONSOLE:
		return control_send(port, VIRTIO_CONSOLE_CONSOLE_PORT, 1, "");
	case OWED_NAME:
		return control_send(port, VIRTIO_CONSOLE_PORT_NAME, 1, port->opt.name);
	default:
		return control_send(port, VIRTIO_CONSOLE_PORT_OPEN, port->host_open, "");
	}
}

/* Returns true when nothing is owed any more, false when the guest is out of buffers. */
static bool owed_send_all(struct virtio_console *con)
{
	for (unsigned i = 0; i < con->port_count; i++) {
		struct console_port *port = &con->ports[i];

		while (port->owed) {
			unsigned first = port->owed & -port->owed;

			if (!owed_send(port, first))
				return false;
			port->owed &= ~first;
		}
	}
	return true;
}

static void control_flush(struct virtio_console *con)
{
	struct virtqueue *ring = &con->dev.queues[QUEUE_CTRL_IN].ring;

	virtqueue_notify_off(ring);
	while (!owed_send_all(con) && virtqueue_notify_on(ring))
		;
	virtio_queue_publish(&con->dev, QUEUE_CTRL_IN);
}

static void guest_open(struct console_port *port, bool open)
{
	struct console_backend *backend = port->opt.backend;

	if (port->guest_open == open)
		return;
	port->guest_open = open;
	if (backend->guest_open)
		backend->guest_open(backend, open);
}

static void port_ready(struct console_port *port)
{
	port->ready = true;
	if (port->opt.is_console)
		port->owed |= OWED_CONSOLE;
	if (port->opt.name)
		port->owed |= OWED_NAME;
	if (port->host_open)
		port->owed |= OWED_OPEN;
}

/* A message of the guest's; what makes no sense is ignored, as the standard has no answer for it.
 */
static void control_message(struct virtio_console *con, const struct virtio_console_control *msg)
{
	if (msg->event == VIRTIO_CONSOLE_DEVICE_READY && msg->value == 1) {
		for (unsigned i = 0; i < con->port_count; i++)
			con->ports[i].owed |= OWED_ADD;
		return;
	}
	if (msg->id >= con->port_count)
		return;
	if (msg->event == VIRTIO_CONSOLE_PORT_READY && msg->value == 1)
		port_ready(&con->ports[msg->id]);
	else if (msg->event == VIRTIO_CONSOLE_PORT_OPEN)
		guest_open(&con->ports[msg->id], msg->value);
}

/* Serve one message of the guest's: virtio_queue_visit(). */
static int control_request(struct virtio_device *dev, unsigned index)
{
	struct virtio_console *con = console_of(dev);
	struct virtio_console_control msg;
	struct iov_cursor from;
	struct vq_chain chain;

	if (!request_pop(con, index, &chain))
		return 0;
	from = iov_cursor(con->iov, chain.out_count);
	if (iov_read(&from, &msg, sizeof(msg)) == sizeof(msg))
		control_message(con, &msg);
	virtqueue_push(&dev->queues[index].ring, chain.head, 0);
	dev->queues[index].requests++;
	return 1;
}

static void control_visit(struct virtio_console *con)
{
	bool more =
	    virtio_queue_visit(&con->dev, QUEUE_CTRL_OUT, CTRL_VISIT_REQUESTS, control_request);

	control_flush(con);
	if (more)
		loop_defer(con->dev.loop, &con->ctrl_task);
}

static void control_run(struct loop_task *task)
{
	control_visit(container_of(task, struct virtio_console, ctrl_task));
}

void virtio_console_host_open(struct virtio_device *dev, unsigned index, bool open)
{
	struct virtio_console *con = console_of(dev);
	struct console_port *port = &con->ports[index];

	if (port->host_open == open)
		return;
	port->host_open = open;
	if (!port->ready)
		return;
	port->owed |= OWED_OPEN;
	control_flush(con);
}

/* --- the device ----------------------------------------------------------------------------- */

static void console_config_read(struct virtio_device *dev, uint32_t offset, void *data,
				uint32_t len)
{
	const struct virtio_console_config config = {.max_nr_ports = console_of(dev)->port_count};

	memcpy(data, (const char *)&config + offset, len);
}

static void console_start(struct virtio_device *dev)
{
	struct virtio_console *con = console_of(dev);

	for (unsigned i = 0; i < con->port_count; i++)
		input_ready(&con->ports[i]);
}

static void port_stop(struct console_port *port)
{
	loop_forget(port->console->dev.loop, &port->output_task);
	port->ready = false;
	port->owed = 0;
	port->out_done = 0;
	guest_open(port, false);
}

static void console_stop(struct virtio_device *dev)
{
	struct virtio_console *con = console_of(dev);

	loop_forget(dev->loop, &con->ctrl_task);
	for (unsigned i = 0; i < con->port_count; i++)
		port_stop(&con->ports[i]);
}

static void console_queue_ready(struct virtio_device *dev, unsigned index)
{
	struct virtio_console *con = console_of(dev);

	if (index >= QUEUE_CTRL_IN && !virtio_has(dev, VIRTIO_CONSOLE_F_MULTIPORT))
		return;
	if (index == QUEUE_CTRL_IN)
		control_flush(con);
	else if (index == QUEUE_CTRL_OUT)
		control_visit(con);
	else if (index % 2)
		output_visit(queue_port(con, index));
	else
		input_ready(queue_port(con, index));
}

static const struct virtio_ops console_ops = {
    .name = "console",
    .type = VIRTIO_ID_CONSOLE,
    .class_code = 0x078000, /* simple communication controller, other */
    .config_size = sizeof(struct virtio_console_config),
    .config_read = console_config_read,
    .start = console_start,
    .stop = console_stop,
    .queue_ready = console_queue_ready,
};

static void device_init(struct virtio_device *dev, const struct device_env *env, unsigned ports)
{
	dev->ops = &console_ops;
	dev->mem = env->mem;
	dev->loop = env->loop;
	dev->features_offered = 1ull << VIRTIO_CONSOLE_F_MULTIPORT;
	dev->queue_count = 2 * ports + 2;
	for (unsigned i = 0; i < dev->queue_count; i++)
		dev->queues[i].size_max = QUEUE_SIZE;
}

struct virtio_device *virtio_console_create(const struct device_env *env,
					    const struct console_port_options *ports,
					    unsigned count)
{
	struct virtio_console *con;

	if (!count || count > CONSOLE_PORTS_MAX) {
		errno = EINVAL;
		return NULL;
	}
	con = calloc(1, sizeof(*con));
	if (!con)
		return NULL;
	device_init(&con->dev, env, count);
	con->ctrl_task.run = control_run;
	con->port_count = count;
	for (unsigned i = 0; i < count; i++) {
		con->ports[i].console = con;
		con->ports[i].opt = ports[i];
		con->ports[i].output_task.run = output_run;
	}
	return &con->dev;
}

void virtio_console_destroy(struct virtio_device *dev)
{
	if (dev)
		free(console_of(dev));
}
