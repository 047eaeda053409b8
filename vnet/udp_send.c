/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A batch is packed into messages (udp_pack.c), then flushed by one sendmmsg(); more than fits at
 * once takes another round. A message that the kernel refuses ends its system call. What then
 * follows depends on the reason (refusal()): pass it over, give the rest up, or pack anew from the
 * frame it began with - in smaller parts if the path has become narrower, without trains if those
 * are what the kernel cannot do here.
 *
 * Source ports: with several sockets a frame's flow picks one, always the same, so that order
 * within a flow is kept. There is one system call for each that is used.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vnet/udp_flow.h"
#include "vnet/udp_pack.h"

/* --- batches ------------------------------------------------------------------------------- */

static void train_mark(struct msghdr *msg, struct udp_message *m)
{
	const uint16_t segment = (uint16_t)m->segment;
	struct cmsghdr *cmsg = &m->control.align;

	*cmsg = (struct cmsghdr){
	    .cmsg_level = SOL_UDP,
	    .cmsg_type = UDP_SEGMENT,
	    .cmsg_len = CMSG_LEN(sizeof(segment)),
	};
	memcpy(CMSG_DATA(cmsg), &segment, sizeof(segment));
	msg->msg_control = cmsg;
	msg->msg_controllen = sizeof(m->control.bytes);
}

/* What to do about a refused message. */
enum refusal {
	AGAIN,	/* the error was an earlier datagram's, left behind on the socket */
	REPACK, /* cut it otherwise */
	PASS,	/* drop this one */
	GIVE_UP /* the rest would fare alike */
};

static enum refusal refusal(struct udp_peer *peer, const struct udp_message *m, int err, bool again)
{
	switch (err) {
	case EINTR:
	case ECONNREFUSED:
		return again ? GIVE_UP : AGAIN;
	case EMSGSIZE:
	case EINVAL: /* older kernels say so of a train's segment that is too long */
	case EIO:    /* the device cannot fill in checksums */
		if (err != EIO && udp_session_too_big(peer, m->segment))
			return REPACK;
		if (m->datagrams > 1) {
			peer->trains = peer->trains && err == EMSGSIZE;
			peer->endpoint->tx->single = true;
			return REPACK;
		}
		return err == EMSGSIZE ? PASS : GIVE_UP;
	default:
		return GIVE_UP;
	}
}

static enum drop_reason refusal_reason(int err)
{
	switch (err) {
	case EMSGSIZE:
		return DROP_OVERSIZE;
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		return DROP_BUSY;
	default:
		return DROP_ERROR;
	}
}

static void messages_drop(struct udp_peer *peer, const struct udp_message *m, unsigned n, int err)
{
	enum drop_reason reason = refusal_reason(err);

	for (unsigned i = 0; i < n; i++)
		peer->port.counters.drops[reason] += m[i].frames;
	if (reason == DROP_ERROR && peer->session)
		session_error(peer->session, strerror(err), loop_now());
}

static void messages_count(struct udp_peer *peer, const struct udp_message *m, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		peer->port.counters.out_frames += m[i].frames;
		peer->port.counters.out_bytes += m[i].bytes;
	}
}

/* The system call itself: musl's sendmmsg() is a loop of sendmsg(). */
static int messages_send(int fd, struct mmsghdr *messages, unsigned n)
{
	return (int)syscall(SYS_sendmmsg, fd, messages, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Send what is packed. Returns the frame to go on with: @next, or an earlier one that is to be
 * packed anew. */
static unsigned batch_flush(struct udp_peer *peer, int fd, unsigned next)
{
	struct udp_sending *tx = peer->endpoint->tx;
	bool again = false;

	for (unsigned i = 0; i < tx->count; i++)
		if (tx->messages[i].datagrams > 1)
			train_mark(&tx->wire[i].msg_hdr, &tx->messages[i]);
	for (unsigned done = 0; done < tx->count;) {
		int sent = messages_send(fd, tx->wire + done, tx->count - done);
		const struct udp_message *m = tx->messages + done;
		int err = errno;
		unsigned n = (unsigned)sent;

		peer->port.counters.syscalls++;
		if (sent > 0) {
			messages_count(peer, m, n);
			again = false;
			done += n;
			continue;
		}
		switch (refusal(peer, m, err, again)) {
		case AGAIN:
			again = true;
			continue;
		case REPACK:
			return m->first;
		case PASS:
			n = 1;
			break;
		case GIVE_UP:
			n = tx->count - done;
			break;
		}
		messages_drop(peer, m, n, err);
		done += n;
	}
	return next;
}

static void batch_send(struct udp_peer *peer, int fd, struct frame *const frames[], unsigned n)
{
	struct udp_sending *tx = peer->endpoint->tx;

	tx->single = !peer->trains;
	for (unsigned next = 0; next < n;)
		next = batch_flush(peer, fd, udp_pack(peer, frames, next, n));
}

/* Deal the frames out to the sockets, by flow. */
static void batch_spread(struct udp_peer *peer, struct frame *const frames[], unsigned n)
{
	const struct udp_endpoint *ep = peer->endpoint;
	struct frame *dealt[UDP_SPREAD_MAX][FRAME_BATCH_MAX];
	unsigned counts[UDP_SPREAD_MAX] = {0};

	for (unsigned i = 0; i < n; i++) {
		unsigned to = udp_flow_hash(frames[i]) % ep->sender_count;

		dealt[to][counts[to]++] = frames[i];
	}
	for (unsigned to = 0; to < ep->sender_count; to++)
		if (counts[to])
			batch_send(peer, ep->senders[to], dealt[to], counts[to]);
}

void udp_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct udp_peer *peer = udp_peer_of(port);
	const struct udp_endpoint *ep = peer->endpoint;

	if (peer->state == LINK_DOWN) {
		port->counters.drops[DROP_DOWN] += n;
		return;
	}
	port->counters.batches++;
	if (peer->seal)
		ep->tx->now_ns = loop_now();
	if (peer->spread && ep->sender_count > 1)
		batch_spread(peer, frames, n);
	else
		batch_send(peer, ep->fd, frames, n);
}

/* --- messages between links ---------------------------------------------------------------- */

static int message_send(struct udp_peer *peer, struct iovec *iov, unsigned iovcnt)
{
	const struct msghdr msg = {
	    .msg_name = &peer->to,
	    .msg_namelen = udp_address_size(peer->endpoint->family),
	    .msg_iov = iov,
	    .msg_iovlen = iovcnt,
	};

	return sendmsg(peer->endpoint->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int udp_send_raw(struct udp_peer *peer, const void *datagram, size_t len)
{
	struct iovec iov = {.iov_base = (void *)datagram, .iov_len = len};

	return message_send(peer, &iov, 1);
}

int udp_send_control(struct udp_peer *peer, const void *message, size_t len)
{
	const struct udp_endpoint *ep = peer->endpoint;
	const struct geneve_extras extras = {.control = true};
	uint8_t header[GENEVE_HEADER_MAX];
	struct iovec iov[2] = {
	    {.iov_base = header, .iov_len = geneve_build(header, ep->env.vni, &extras)},
	    {.iov_base = (void *)message, .iov_len = len},
	};
	int sealed;

	if (!peer->seal)
		return message_send(peer, iov, 2);
	if (iov[0].iov_len + len > UDP_DATAGRAM_MAX)
		return -EMSGSIZE;
	sealed = seal_close(peer->seal, iov, 2, ep->tx->control, loop_now());
	return sealed < 0 ? sealed : udp_send_raw(peer, ep->tx->control, (size_t)sealed);
}
