/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Host programs (clients) connect to a Unix socket; each connection is a channel of the agent
 * protocol. Everything here runs on the sidecar, as callbacks of its loop and of the console device.
 * Callbacks only move bytes into queues, change states and ask for agent_settle(), which runs once at
 * the end of the turn: it writes what is queued, decides what to wait for and frees what has ended.
 * So no callback ever frees what its caller still uses, and a turn makes one write a client.
 *
 * To the guest all frames go through one queue. The invariant that makes it simple: a client is read
 * only as far as the queue can take what that may complete, so a whole frame always fits, and room
 * for one CLOSE a client stays in reserve. While there is no room no client is read: its socket
 * fills, and the client waits. Whoever was read last is asked last the next time, so that a few busy
 * clients do not keep the others out.
 *
 * To each client there is a queue that takes one window of output and its headers. A client that
 * reads slowly holds only itself up, because the guest stops at the window. If the queue is full
 * nevertheless (the guest does not keep to the window, or the client asks and never reads), that
 * client is dropped.
 *
 * States of a client:
 *   talking  frames pass both ways
 *   leaving  the channel is closed; what is queued for the client is still written, nothing is read.
 *            Reached by CLOSE from either side, a protocol error, or the agent going away.
 *   gone     the socket failed, or all is written: freed by agent_settle()
 * The guest gets CLOSE when a client stops talking, if the guest has heard of that client.
 *
 * States of the guest's end:
 *   closed   the guest does not have the port open; what comes from it is late and ignored
 *   open     waiting for HELLO; anything else is a rest of an earlier connection and ignored
 *   up       HELLO has been seen
 *   deaf     the guest broke the protocol: our end of the port is disconnected for RESYNC_NS. The
 *            guest's driver lets nothing more through, and the agent begins anew with HELLO when
 *            the connection is back.
 *
 * Timers: RESYNC_NS (above); that of unix_accept().
 */
#include "vmm/agent.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/devices.h"
#include "guest-images/agent/agent_frames.h"
#include "vnet/loop.h"
#include "vnet/unix_socket.h"

#define CLIENT_QUEUE    (2 * AGENT_WINDOW)
#define GUEST_QUEUE     (4 * AGENT_FRAME_MAX)
#define GUEST_RESERVE   (AGENT_CHANNELS_MAX * sizeof(struct agent_frame))
#define READ_MAX        16384      /* bytes taken from one client in one turn */
#define ACCEPT_MAX      16         /* connections accepted in one turn */
#define RESYNC_NS       100000000  /* 100 ms */

/* One connection of a host program. The pages of its queue come when they are used. */
struct client {
	struct agent *agent;
	struct loop_watch watch;
	int fd;
	unsigned slot;    /* index in agent->clients */
	uint32_t events;  /* what is watched for; 0: nothing */
	uint16_t channel; /* not 0 */
	bool known;       /* the guest has been sent frames of this channel */
	bool leaving;
	bool gone;
	struct agent_reader reader;
	struct agent_ring queue;
	uint8_t queue_data[CLIENT_QUEUE];
};

struct agent {
	struct console_backend backend;
	struct loop_task settle;
	struct loop *loop;
	struct virtio_device *console; /* NULL until attached */
	unsigned port;
	atomic_bool up;  /* written by the sidecar, read by any thread */
	bool open;       /* the guest has the port open */
	bool broken;     /* the guest broke the protocol in this turn */
	bool deaf;       /* the resync timer runs */
	struct loop_timer resync;
	struct loop_timer accept_retry;
	struct loop_watch listener;
	int listen_fd;
	const char *path; /* the caller's */
	struct client *clients[AGENT_CHANNELS_MAX];
	unsigned first; /* slot that is asked first for its next frames */
	uint16_t last_channel;
	struct agent_counters counters;
	struct agent_reader reader;
	struct agent_ring queue;
	uint8_t queue_data[GUEST_QUEUE];
	uint8_t read_data[READ_MAX];
};

/* --- one client ---------------------------------------------------------------------------- */

/* The client stops talking. @text: told to the client as ERROR, or NULL. */
static void client_leave(struct client *client, const char *text)
{
	struct agent *agent = client->agent;

	if (client->leaving)
		return;
	client->leaving = true;
	/* These cannot fail for want of room, or need not succeed: reserve; a full client knows enough. */
	if (client->known)
		agent_frame_put(&agent->queue, client->channel, AGENT_CLOSE, NULL, 0);
	if (text)
		agent_frame_put(&client->queue, 0, AGENT_ERROR, text, strlen(text));
	loop_defer(agent->loop, &agent->settle);
}

/* The connection is at its end, whatever is still queued. */
static void client_drop(struct client *client)
{
	client_leave(client, NULL);
	client->gone = true;
}

static void client_fail(struct client *client, const char *text)
{
	client->agent->counters.client_errors++;
	client_leave(client, text);
}

/* Write what is queued, as far as the socket takes it. */
static void client_write(struct client *client)
{
	struct msghdr msg = {0};
	struct iovec iov[2];
	ssize_t n;

	msg.msg_iov = iov;
	msg.msg_iovlen = (size_t)agent_ring_peek(&client->queue, iov);
	if (!msg.msg_iovlen || client->gone)
		return;
	n = sendmsg(client->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n >= 0)
		agent_ring_drop(&client->queue, (size_t)n);
	else if (errno != EAGAIN && errno != EINTR)
		client_drop(client);
}

/* Queue a frame from the guest. */
static void client_put(struct client *client, const struct agent_view *frame)
{
	if (agent_ring_room(&client->queue) < sizeof(struct agent_frame) + frame->length)
		client_write(client);
	if (!agent_frame_put(&client->queue, 0, frame->type, frame->payload, frame->length))
		return;
	client->agent->counters.overruns++;
	client_drop(client);
}

/* A whole frame from the client. */
static void client_frame(struct client *client, const struct agent_view *frame)
{
	if (frame->channel) {
		client_fail(client, "protocol error: clients use channel 0");
	} else if (frame->type == AGENT_CLOSE) {
		client_leave(client, NULL);
	} else {
		client->known = true;
		agent_frame_put(&client->agent->queue, client->channel, frame->type, frame->payload,
				frame->length);
	}
}

static void client_feed(struct client *client, const uint8_t *data, size_t len)
{
	struct agent_view frame;
	bool complete;
	ssize_t n;

	for (size_t at = 0; at < len && !client->leaving; at += (size_t)n) {
		n = agent_reader_feed(&client->reader, data + at, len - at, &frame, &complete);
		if (n < 0) {
			client_fail(client, "protocol error: no such frame");
			return;
		}
		if (complete)
			client_frame(client, &frame);
	}
}

/* Bytes that may be read from any one client now: see the invariant above. */
static size_t guest_room(const struct agent *agent)
{
	size_t room = agent_ring_room(&agent->queue);
	size_t kept = AGENT_FRAME_MAX + GUEST_RESERVE;

	if (room <= kept)
		return 0;
	return room - kept < READ_MAX ? room - kept : READ_MAX;
}

static void client_read(struct client *client)
{
	struct agent *agent = client->agent;
	size_t room = guest_room(agent);
	ssize_t n;

	if (!room || client->leaving)
		return;
	agent->first = client->slot + 1;
	n = recv(client->fd, agent->read_data, room, MSG_DONTWAIT);
	if (n > 0)
		client_feed(client, agent->read_data, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		client_drop(client);
}

static void client_ready(struct loop_watch *watch, uint32_t revents)
{
	struct client *client = watch->context;
	struct agent *agent = client->agent;

	if (client->gone)
		return;
	/* The other end is closed: nothing can be written, but what it wrote last may still count. */
	if (revents & (POLLHUP | POLLERR))
		agent_ring_drop(&client->queue, client->queue.used);
	if (revents & (POLLIN | POLLHUP | POLLERR))
		client_read(client);
	loop_defer(agent->loop, &agent->settle);
}

/* Watch for what the client's state calls for. */
static void client_rearm(struct client *client)
{
	uint32_t events = 0;

	if (!client->leaving && guest_room(client->agent))
		events |= POLLIN;
	if (client->queue.used)
		events |= POLLOUT;
	if (events == client->events)
		return;
	if (client->events)
		loop_unwatch(&client->watch);
	client->events = events;
	if (events && loop_watch(client->agent->loop, &client->watch, client->fd, events)) {
		client->events = 0;
		client_drop(client);
	}
}

static void client_destroy(struct client *client)
{
	client->agent->clients[client->slot] = NULL;
	if (client->events)
		loop_unwatch(&client->watch);
	close(client->fd);
	munmap(client, sizeof(*client));
}

/* --- clients come -------------------------------------------------------------------------- */

static struct client *client_of_channel(struct agent *agent, uint16_t channel)
{
	for (unsigned i = 0; i < AGENT_CHANNELS_MAX; i++)
		if (agent->clients[i] && agent->clients[i]->channel == channel)
			return agent->clients[i];
	return NULL;
}

/* The next number in turn that nobody has. */
static uint16_t channel_next(struct agent *agent)
{
	do {
		agent->last_channel++;
	} while (!agent->last_channel || client_of_channel(agent, agent->last_channel));
	return agent->last_channel;
}

/* A free slot, or AGENT_CHANNELS_MAX. */
static unsigned slot_find(const struct agent *agent)
{
	unsigned slot = 0;

	while (slot < AGENT_CHANNELS_MAX && agent->clients[slot])
		slot++;
	return slot;
}

/* Turn a connection away with a reason. */
static void connection_refuse(struct agent *agent, int fd, const char *text)
{
	uint8_t data[sizeof(struct agent_frame) + AGENT_ERROR_MAX];
	struct agent_ring ring;

	agent_ring_init(&ring, data, sizeof(data));
	agent_frame_put(&ring, 0, AGENT_ERROR, text, strlen(text));
	/* A new socket has room for this; if the client has gone already there is nobody to tell. */
	(void)!send(fd, data, ring.used, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
	agent->counters.refused++;
}

static void client_create(struct agent *agent, unsigned slot, int fd)
{
	/* Not from the heap, which would keep the pages of a queue that was used once. */
	struct client *client = mmap(NULL, sizeof(*client), PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (client == MAP_FAILED) {
		connection_refuse(agent, fd, "the host is out of memory");
		return;
	}
	client->agent = agent;
	client->fd = fd;
	client->slot = slot;
	client->channel = channel_next(agent);
	client->watch.ready = client_ready;
	client->watch.context = client;
	agent_reader_init(&client->reader, AGENT_FROM_HOST);
	agent_ring_init(&client->queue, client->queue_data, sizeof(client->queue_data));
	agent->clients[slot] = client;
	agent->counters.clients++;
	loop_defer(agent->loop, &agent->settle);
}

static void connection_take(struct agent *agent, int fd)
{
	unsigned slot = slot_find(agent);

	if (!atomic_load_explicit(&agent->up, memory_order_relaxed))
		connection_refuse(agent, fd, "the agent in the guest is not running");
	else if (slot == AGENT_CHANNELS_MAX)
		connection_refuse(agent, fd, "too many connections to the guest's agent");
	else
		client_create(agent, slot, fd);
}

static void listener_ready(struct loop_watch *watch, uint32_t revents)
{
	struct agent *agent = watch->context;
	int fd;

	(void)revents;
	for (unsigned i = 0; i < ACCEPT_MAX; i++) {
		fd = unix_accept(watch, &agent->accept_retry);
		if (fd < 0)
			return;
		connection_take(agent, fd);
	}
}

/* --- the guest ----------------------------------------------------------------------------- */

static void clients_leave(struct agent *agent, const char *text)
{
	for (unsigned i = 0; i < AGENT_CHANNELS_MAX; i++)
		if (agent->clients[i])
			client_leave(agent->clients[i], text);
}

/* The guest knows none of our channels any more: what is queued for it has no meaning. */
static void guest_forget(struct agent *agent, const char *text)
{
	atomic_store_explicit(&agent->up, false, memory_order_relaxed);
	clients_leave(agent, text);
	agent_ring_init(&agent->queue, agent->queue_data, sizeof(agent->queue_data));
	agent_reader_init(&agent->reader, AGENT_FROM_GUEST);
}

static void guest_hello(struct agent *agent, const struct agent_view *frame)
{
	clients_leave(agent, "the agent in the guest has started anew");
	atomic_store_explicit(&agent->up, agent_view_u32(frame) == AGENT_VERSION,
			      memory_order_relaxed);
}

/* A whole frame from the guest. Returns whether the protocol allows it. */
static bool guest_frame(struct agent *agent, const struct agent_view *frame)
{
	struct client *client;

	if (frame->type == AGENT_HELLO) {
		if (!frame->channel)
			guest_hello(agent, frame);
		return !frame->channel;
	}
	client = frame->channel ? client_of_channel(agent, frame->channel) : NULL;
	/* Frames may cross with the end of their channel, and channel 0 has nothing for anybody. */
	if (!client || client->leaving)
		return true;
	if (frame->type == AGENT_CLOSE)
		client->known = false;
	client_put(client, frame);
	if (frame->type == AGENT_CLOSE)
		client_leave(client, NULL);
	return true;
}

/* console_backend: bytes from the guest. All are taken, so that no client holds up another. */
static size_t guest_write(struct console_backend *backend, const void *data, size_t len)
{
	struct agent *agent = container_of(backend, struct agent, backend);
	struct agent_view frame;
	bool complete;
	ssize_t n;

	for (size_t at = 0; at < len && agent->open && !agent->broken && !agent->deaf;
	     at += (size_t)n) {
		n = agent_reader_feed(&agent->reader, (const uint8_t *)data + at, len - at, &frame,
				      &complete);
		if (n < 0 || (complete && !guest_frame(agent, &frame))) {
			agent->broken = true;
			break;
		}
	}
	loop_defer(agent->loop, &agent->settle);
	return len;
}

/* console_backend: the guest opened or closed the port. */
static void guest_open(struct console_backend *backend, bool open)
{
	struct agent *agent = container_of(backend, struct agent, backend);

	agent->open = open;
	guest_forget(agent, "the agent in the guest has ended");
}

/* console_backend: the guest can take bytes again. */
static void guest_input_ready(struct console_backend *backend)
{
	struct agent *agent = container_of(backend, struct agent, backend);

	loop_defer(agent->loop, &agent->settle);
}

/* The guest broke the protocol: disconnect it for a while, so that both sides start afresh. */
static void guest_disconnect(struct agent *agent)
{
	agent->broken = false;
	agent->counters.guest_errors++;
	guest_forget(agent, "the agent in the guest broke the protocol");
	agent->deaf = !loop_arm(agent->loop, &agent->resync, RESYNC_NS);
	virtio_console_host_open(agent->console, agent->port, false);
	/* Without a timer the guest gets no pause; it may take two tries then. */
	if (!agent->deaf)
		virtio_console_host_open(agent->console, agent->port, true);
}

static void guest_reconnect(struct loop_timer *timer)
{
	struct agent *agent = timer->context;

	agent->deaf = false;
	virtio_console_host_open(agent->console, agent->port, true);
}

/* Hand queued frames to the guest, as far as it has buffers. */
static void guest_flush(struct agent *agent)
{
	struct iovec iov[2];
	size_t n;

	while (agent_ring_peek(&agent->queue, iov)) {
		n = virtio_console_input(agent->console, agent->port, iov[0].iov_base,
					 iov[0].iov_len);
		agent_ring_drop(&agent->queue, n);
		if (n < iov[0].iov_len)
			return;
	}
}

/* --- the end of a turn --------------------------------------------------------------------- */

static void client_settle(struct client *client)
{
	client_write(client);
	if (client->leaving && !client->queue.used)
		client->gone = true;
	if (!client->gone)
		client_rearm(client);
	if (client->gone)
		client_destroy(client);
}

static void agent_settle(struct loop_task *task)
{
	struct agent *agent = container_of(task, struct agent, settle);
	unsigned first = agent->first;
	struct client *client;

	if (agent->broken)
		guest_disconnect(agent);
	guest_flush(agent);
	for (unsigned i = 0; i < AGENT_CHANNELS_MAX; i++) {
		client = agent->clients[(first + i) % AGENT_CHANNELS_MAX];
		if (client)
			client_settle(client);
	}
}

/* --- for the VMM --------------------------------------------------------------------------- */

static int agent_listen(struct agent *agent)
{
	int rc;

	agent->listen_fd = unix_listen(agent->path);
	if (agent->listen_fd < 0)
		return agent->listen_fd;
	rc = loop_watch(agent->loop, &agent->listener, agent->listen_fd, POLLIN);
	if (!rc)
		return 0;
	close(agent->listen_fd);
	unlink(agent->path);
	return rc;
}

struct agent *agent_create(struct loop *loop, const char *path, char *err, size_t errlen)
{
	struct agent *agent = calloc(1, sizeof(*agent));
	int rc;

	if (!agent) {
		snprintf(err, errlen, "'%s': out of memory", path);
		return NULL;
	}
	agent->loop = loop;
	agent->path = path;
	agent->backend.write = guest_write;
	agent->backend.guest_open = guest_open;
	agent->backend.input_ready = guest_input_ready;
	agent->settle.run = agent_settle;
	agent->listener.ready = listener_ready;
	agent->listener.context = agent;
	agent->resync.expired = guest_reconnect;
	agent->resync.context = agent;
	agent_ring_init(&agent->queue, agent->queue_data, sizeof(agent->queue_data));
	agent_reader_init(&agent->reader, AGENT_FROM_GUEST);
	rc = agent_listen(agent);
	if (!rc)
		return agent;
	snprintf(err, errlen, "'%s': %s", path, unix_listen_remedy(rc));
	free(agent);
	return NULL;
}

void agent_destroy(struct agent *agent)
{
	if (!agent)
		return;
	loop_unwatch(&agent->listener);
	loop_disarm(&agent->accept_retry);
	loop_disarm(&agent->resync);
	unlink(agent->path);
	close(agent->listen_fd);
	clients_leave(agent, "the virtual machine has ended");
	for (unsigned i = 0; i < AGENT_CHANNELS_MAX; i++) {
		if (!agent->clients[i])
			continue;
		client_write(agent->clients[i]);
		client_destroy(agent->clients[i]);
	}
	loop_forget(agent->loop, &agent->settle);
	free(agent);
}

struct console_backend *agent_backend(struct agent *agent)
{
	return &agent->backend;
}

void agent_attach(struct agent *agent, struct virtio_device *console, unsigned port)
{
	agent->console = console;
	agent->port = port;
	virtio_console_host_open(console, port, true);
}

bool agent_up(const struct agent *agent)
{
	return atomic_load_explicit(&agent->up, memory_order_relaxed);
}

void agent_counters(const struct agent *agent, struct agent_counters *counters)
{
	*counters = agent->counters;
}
