/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A link to passt(1), which gives a network to the outside without privileges, or to anything else
 * that speaks QEMU's stream protocol (-netdev stream): a Unix stream socket, on which each frame
 * follows its length, four bytes, big endian. No offloads cross it; frames may be long instead.
 *
 * Sending: a batch is one sendmsg(). If the kernel takes only a part, the rest of the frame that
 * was cut is kept (struct tail; there is never more than one), since the stream would be out of
 * step without it, and the frames behind it are dropped as busy. The tail goes first the next time,
 * or when the socket has room.
 *
 * Receiving: recv() into one buffer, whole frames go to the core where they lie, what is left of
 * the last moves to the front. A length that no frame has cannot be passed over, because it says
 * that the stream is out of step: the link starts anew.
 *
 * States: DOWN until connected, and again when the other side goes; a timer tries again for ever,
 * with waits from 50 ms up to one second. The connection is torn down by a task, never inside
 * send_batch() or core_input().
 *
 * Everything runs on the loop's thread.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/link.h"
#include "vnet/loop.h"

#define PASST_MTU      65520u
#define LENGTH_SIZE    4u
#define RECORD_MAX     (LENGTH_SIZE + FRAME_SIZE_MAX)
#define RECEIVE_BUFFER (512u << 10) /* bytes; several of the longest frames */
#define SOCKET_BUFFER  (1 << 20)    /* bytes asked for; the kernel may give less */
#define VISIT_READS    8u	    /* buffers filled before others get their turn */

static_assert(RECEIVE_BUFFER >= 2 * RECORD_MAX, "there is always room to go on reading");

/* The end of a frame whose start is sent. */
struct tail {
	size_t at, len; /* len 0: none */
	uint8_t bytes[RECORD_MAX];
};

struct sending {
	struct iovec segments[UIO_MAXIOV];
	uint32_t lengths[FRAME_BATCH_MAX]; /* big endian */
	struct frame *frames[FRAME_BATCH_MAX];
	unsigned segments_used, count;
};

struct passt {
	struct port port;
	struct link_status status;
	struct link_env env;
	struct sockaddr_un address;
	int fd; /* -1: not connected */
	struct loop_watch watch;
	struct loop_timer timer; /* connects again */
	uint64_t delay_ns;
	struct loop_task mend;
	struct sending tx;
	struct tail tail;
	size_t used; /* bytes in the buffer */
	struct frame frames[FRAME_BATCH_MAX];
	struct iovec payloads[FRAME_BATCH_MAX];
	uint8_t buffer[RECEIVE_BUFFER];
};

/* End the connection, from anywhere; the rest is done by the task. */
static void passt_fail(struct passt *passt, const char *why)
{
	if (passt->status.state == LINK_DOWN)
		return;
	link_state_set(&passt->status, LINK_DOWN, why);
	loop_defer(passt->env.loop, &passt->mend);
}

static bool error_lasts(int err)
{
	return err != EAGAIN && err != EINTR && err != ENOBUFS && err != ENOMEM;
}

/* --- sending ------------------------------------------------------------------------------- */

static void watch_set(struct passt *passt, uint32_t events)
{
	if (passt->watch.events != events &&
	    loop_watch(passt->env.loop, &passt->watch, passt->fd, events))
		passt_fail(passt, "out of memory");
}

/* Send what is left of a frame. False: there is still something left. */
static bool tail_send(struct passt *passt)
{
	struct tail *tail = &passt->tail;
	ssize_t n;

	if (!tail->len)
		return true;
	n = send(passt->fd, tail->bytes + tail->at, tail->len, MSG_DONTWAIT | MSG_NOSIGNAL);
	passt->port.counters.syscalls++;
	if (n < 0) {
		if (error_lasts(errno))
			passt_fail(passt, strerror(errno));
		return false;
	}
	tail->at += (size_t)n;
	tail->len -= (size_t)n;
	if (!tail->len)
		watch_set(passt, POLLIN);
	return !tail->len;
}

/* Keep what follows the first @sent bytes of the frame whose segments start at @iov. */
static void tail_keep(struct passt *passt, const struct iovec *iov, size_t sent, size_t size)
{
	struct tail *tail = &passt->tail;

	tail->at = 0;
	tail->len = size - sent;
	for (size_t put = 0; put < tail->len; iov++) {
		size_t skip = sent < iov->iov_len ? sent : iov->iov_len;

		memcpy(tail->bytes + put, (uint8_t *)iov->iov_base + skip, iov->iov_len - skip);
		put += iov->iov_len - skip;
		sent -= skip;
	}
	passt->port.counters.copied_bytes += tail->len;
	watch_set(passt, POLLIN | POLLOUT);
}

/* Of the frames in the last call @sent bytes went: count, keep the rest of one, drop the others. */
static void send_settle(struct passt *passt, size_t sent)
{
	struct port_counters *counters = &passt->port.counters;
	const struct iovec *iov = passt->tx.segments;

	for (unsigned i = 0; i < passt->tx.count; i++) {
		struct frame *frame = passt->tx.frames[i];
		size_t size = LENGTH_SIZE + frame->len;

		if (!sent) {
			counters->drops[DROP_BUSY]++;
			continue;
		}
		link_count_sent(counters, &frame, 1);
		if (sent < size)
			tail_keep(passt, iov, sent, size);
		sent -= sent < size ? sent : size;
		iov += 1 + frame->iovcnt;
	}
}

static void send_flush(struct passt *passt)
{
	struct sending *tx = &passt->tx;
	struct msghdr message = {.msg_iov = tx->segments, .msg_iovlen = tx->segments_used};
	ssize_t sent = 0;

	if (tx->count && tail_send(passt)) {
		sent = sendmsg(passt->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		passt->port.counters.syscalls++;
		if (sent < 0 && error_lasts(errno))
			passt_fail(passt, strerror(errno));
	}
	send_settle(passt, sent > 0 ? (size_t)sent : 0);
	tx->count = tx->segments_used = 0;
}

/* Add a frame to the next system call. False: no room left for it in that. */
static bool send_add(struct passt *passt, struct frame *frame)
{
	struct sending *tx = &passt->tx;
	struct iovec *segments = &tx->segments[tx->segments_used];

	if (frame->iovcnt >= UIO_MAXIOV || frame->len > FRAME_SIZE_MAX) {
		passt->port.counters.drops[DROP_OVERSIZE]++;
		return true;
	}
	if (tx->segments_used + 1 + frame->iovcnt > UIO_MAXIOV)
		return false;
	tx->lengths[tx->count] = htonl(frame->len);
	segments[0] = (struct iovec){&tx->lengths[tx->count], LENGTH_SIZE};
	memcpy(segments + 1, frame->iov, frame->iovcnt * sizeof(*segments));
	tx->segments_used += 1 + frame->iovcnt;
	tx->frames[tx->count++] = frame;
	return true;
}

static void passt_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct passt *passt = container_of(port, struct passt, port);

	port->counters.batches++;
	for (unsigned i = 0; i < n; i++) {
		if (passt->status.state == LINK_DOWN) {
			port->counters.drops[DROP_DOWN]++;
			continue;
		}
		if (send_add(passt, frames[i]))
			continue;
		send_flush(passt);
		send_add(passt, frames[i]);
	}
	send_flush(passt);
}

/* --- receiving ----------------------------------------------------------------------------- */

/* The next whole frame in the buffer from @at on. Returns its bytes with the length, or 0: not all
 * there. */
static size_t frame_take(struct passt *passt, size_t at, struct frame *frame, struct iovec *payload)
{
	uint8_t *data = passt->buffer + at;
	uint32_t len;

	if (passt->used - at < LENGTH_SIZE)
		return 0;
	memcpy(&len, data, sizeof(len));
	len = ntohl(len);
	if (len > FRAME_SIZE_MAX) {
		passt->port.counters.drops[DROP_OVERSIZE]++;
		passt_fail(passt, "the peer sent an impossible length");
		return 0;
	}
	if (passt->used - at < LENGTH_SIZE + len)
		return 0;
	*payload = (struct iovec){data + LENGTH_SIZE, len};
	*frame = (struct frame){.iov = payload, .iovcnt = 1, .len = len, .hops = FRAME_HOPS_MAX};
	if (len >= FRAME_HEADER)
		memcpy(frame->eth, data + LENGTH_SIZE, FRAME_HEADER);
	return LENGTH_SIZE + len;
}

/* Hand on the whole frames in the buffer, and keep the rest. */
static void buffer_deliver(struct passt *passt)
{
	struct frame *list[FRAME_BATCH_MAX];
	size_t at = 0;
	unsigned n;

	do {
		n = 0;
		while (n < FRAME_BATCH_MAX) {
			size_t size = frame_take(passt, at, &passt->frames[n], &passt->payloads[n]);

			if (!size)
				break;
			at += size;
			list[n] = &passt->frames[n];
			n++;
		}
		if (!n)
			break;
		passt->port.counters.batches++;
		core_input(passt->env.core, &passt->port, list, n);
	} while (n == FRAME_BATCH_MAX && passt->status.state == LINK_UP);
	passt->used -= at;
	memmove(passt->buffer, passt->buffer + at, passt->used);
	passt->port.counters.copied_bytes += passt->used;
}

static void passt_receive(struct passt *passt)
{
	for (unsigned i = 0; i < VISIT_READS && passt->status.state == LINK_UP; i++) {
		size_t room = RECEIVE_BUFFER - passt->used;
		ssize_t n = recv(passt->fd, passt->buffer + passt->used, room, MSG_DONTWAIT);

		passt->port.counters.syscalls++;
		if (n < 0 && !error_lasts(errno))
			return;
		if (n <= 0) {
			passt_fail(passt, n ? strerror(errno) : "the peer closed the socket");
			return;
		}
		passt->used += (size_t)n;
		buffer_deliver(passt);
		if ((size_t)n < room)
			return;
	}
}

static void passt_ready(struct loop_watch *watch, uint32_t revents)
{
	struct passt *passt = watch->context;

	if (passt->status.state != LINK_UP)
		return;
	if (revents & POLLOUT)
		tail_send(passt);
	if (revents & ~(uint32_t)POLLOUT)
		passt_receive(passt);
}

/* --- the connection ------------------------------------------------------------------------ */

static void passt_disconnect(struct passt *passt)
{
	loop_unwatch(&passt->watch);
	loop_disarm(&passt->timer);
	loop_forget(passt->env.loop, &passt->mend);
	if (passt->fd >= 0)
		close(passt->fd);
	passt->fd = -1;
	passt->tail.len = 0;
	passt->used = 0;
}

static int passt_connect(struct passt *passt)
{
	const int size = SOCKET_BUFFER;
	int err;

	passt->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (passt->fd < 0)
		return -errno;
	setsockopt(passt->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (connect(passt->fd, (struct sockaddr *)&passt->address, sizeof(passt->address)))
		return -errno;
	err = loop_watch(passt->env.loop, &passt->watch, passt->fd, POLLIN);
	if (err)
		return err;
	passt->delay_ns = 0;
	link_state_set(&passt->status, LINK_UP, NULL);
	return 0;
}

static void passt_try(struct passt *passt)
{
	int err = passt_connect(passt);

	if (!err)
		return;
	link_state_set(&passt->status, LINK_DOWN, strerror(-err));
	passt_disconnect(passt);
	link_retry(passt->env.loop, &passt->timer, &passt->delay_ns);
}

static void passt_expired(struct loop_timer *timer)
{
	passt_try(timer->context);
}

static void passt_mend(struct loop_task *task)
{
	struct passt *passt = container_of(task, struct passt, mend);

	passt_disconnect(passt);
	link_retry(passt->env.loop, &passt->timer, &passt->delay_ns);
}

/* --- the port ------------------------------------------------------------------------------ */

static void passt_close(struct port *port)
{
	struct passt *passt = container_of(port, struct passt, port);

	passt_disconnect(passt);
	free(passt);
}

static void passt_status(const struct port *port, struct link_status *status)
{
	*status = container_of(port, struct passt, port)->status;
}

static const struct port_ops passt_ops = {
    .type = "passt",
    .send_batch = passt_send_batch,
    .close = passt_close,
    .status = passt_status,
};

static int passt_link(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		      struct port **port, char error[LINK_ERROR_MAX])
{
	struct passt *passt;
	int err;

	(void)endpoint;
	if (strlen(spec->target) >= sizeof(passt->address.sun_path))
		return link_fail(error, spec, -EINVAL, "a socket's path has 1 to 107 bytes");
	passt = calloc(1, sizeof(*passt));
	if (!passt)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	passt->port.ops = &passt_ops;
	passt->port.kind = PORT_LINK;
	passt->port.mtu = PASST_MTU;
	passt->env = *env;
	passt->fd = -1;
	passt->address.sun_family = AF_UNIX;
	strcpy(passt->address.sun_path, spec->target);
	passt->watch.ready = passt_ready;
	passt->watch.context = passt;
	passt->timer.expired = passt_expired;
	passt->timer.context = passt;
	passt->mend.run = passt_mend;
	passt->status.path_mtu = PASST_MTU;
	err = link_attach(env, spec, &passt->port, error);
	if (err) {
		free(passt);
		return err;
	}
	passt_try(passt);
	*port = &passt->port;
	return 0;
}

const struct link_type link_passt = {
    .scheme = "passt",
    .form = "passt://SOCKET",
    .summary = "the outside through passt, or another that speaks QEMU's stream protocol",
    .open = passt_link,
};
