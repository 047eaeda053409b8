/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A batch becomes datagrams: each a header built here and, behind it, slices of the frame's own segments, so
 * that no payload is copied (with a key it is, once, by the sealing). A frame that is longer than a datagram
 * is cut into parts, each under a header that says where it belongs; the first one's header is longer (offload,
 * hops) and its payload shorter, so that all parts but the last make datagrams of one length.
 *
 * Datagrams become trains: a run of one length, of which only the last may be shorter, is one message that
 * the kernel cuts (UDP_SEGMENT) after its way through the stack. So a large frame costs one message, and so do
 * 64 small ones. All messages of a batch go out by one sendmmsg().
 *
 * A batch is packed, then flushed; more than fits at once takes another round. A message that the kernel
 * refuses ends its system call. What then follows depends on the reason (refusal()): pass it over, give the
 * rest up, or pack anew from the frame it began with - in smaller parts if the path has become narrower,
 * without trains if those are what the kernel cannot do here.
 *
 * Source ports: with several sockets a frame's flow picks one, always the same, so that order within a flow is
 * kept. There is one system call for each that is used.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vnet/iovec.h"
#include "vnet/offload.h"
#include "vnet/udp.h"
#include "vnet/udp_flow.h"

#define SEND_MESSAGES  256u
#define SEND_IOVECS    4096u
#define SEND_HEADERS   (128u << 10) /* bytes */
#define SEND_SCRATCH   (1u << 20)   /* bytes, for sealed datagrams */
#define TRAIN_SEGMENTS 64u	    /* Linux's UDP_MAX_SEGMENTS, the least there is */
#define TRAINS_A_FRAME 4u	    /* 65549 bytes and their headers, in parts of 500 bytes or more */

/* What is known of a message besides its msghdr. */
struct message {
	unsigned first;	    /* index of the frame it begins with or goes on with */
	unsigned frames;    /* how many end in it */
	uint64_t bytes;	    /* of those */
	unsigned datagrams; /* more than one: a train */
	uint32_t segment;   /* length of each but the last */
	uint32_t len;	    /* of all */
	bool closed;	    /* the last one was shorter */
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control;
};

struct udp_sending {
	struct mmsghdr wire[SEND_MESSAGES];
	struct message messages[SEND_MESSAGES];
	struct iovec iov[SEND_IOVECS];
	uint8_t headers[SEND_HEADERS];
	unsigned count, iov_used;
	size_t headers_used, scratch_used;
	bool single; /* no trains, for the rest of this batch */
	uint64_t now_ns;
	uint8_t *scratch; /* sealed datagrams; NULL without a key */
	uint8_t control[UDP_DATAGRAM_MAX + SEAL_OVERHEAD]; /* a sealed session message */
};

/* How a frame crosses: in one datagram, or cut. */
struct crossing {
	struct geneve_extras extras; /* of the frame */
	unsigned parts;
	struct fragment_cut cut; /* if more than one */
};

struct udp_sending *udp_sending_create(bool sealed)
{
	struct udp_sending *tx = calloc(1, sizeof(*tx));

	if (tx && sealed)
		tx->scratch = malloc(SEND_SCRATCH);
	if (tx && sealed && !tx->scratch) {
		free(tx);
		return NULL;
	}
	return tx;
}

void udp_sending_destroy(struct udp_sending *tx)
{
	if (tx)
		free(tx->scratch);
	free(tx);
}

/* --- from a frame to datagrams ------------------------------------------------------------- */

static enum drop_reason extras_fill(const struct udp_peer *peer, const struct frame *frame,
				    struct geneve_extras *extras)
{
	uint32_t needs = 0;

	if (frame->offload.flags || frame->offload.gso_type)
		needs = offload_needs(frame);
	if (needs & ~peer->port.offloads)
		return DROP_OFFLOAD;
	if (needs)
		extras->offload = frame->offload;
	if (peer->hops && frame->hops < FRAME_HOPS_MAX)
		extras->hops = frame->hops;
	return DROP_REASONS;
}

/* Decide how a frame crosses. Returns DROP_REASONS, or why it cannot. */
static enum drop_reason crossing_plan(const struct udp_peer *peer, const struct frame *frame, struct crossing *c)
{
	const uint32_t sealing = peer->seal ? SEAL_OVERHEAD : 0;
	enum drop_reason reason;
	uint32_t header;

	*c = (struct crossing){.parts = 1};
	reason = extras_fill(peer, frame, &c->extras);
	if (reason != DROP_REASONS)
		return reason;
	if (frame->iovcnt >= UIO_MAXIOV) /* sendmsg(2) takes no more */
		return DROP_OVERSIZE;
	header = (uint32_t)geneve_size(&c->extras) + sealing;
	if (header + frame->len <= peer->datagram_max)
		return DROP_REASONS;
	if (frame->len > peer->frame_max)
		/* In one piece if the kernel has a way for it: this also tells when the path has grown. */
		return header + frame->len > UDP_DATAGRAM_MAX ? DROP_OVERSIZE : DROP_REASONS;
	c->parts = fragment_cut_start(&c->cut, &c->extras, peer->next_id, frame->len, peer->datagram_max - sealing);
	return c->parts ? DROP_REASONS : DROP_OVERSIZE;
}

/* Is there room for it in this round? */
static bool crossing_fits(const struct udp_sending *tx, const struct udp_peer *peer, const struct frame *frame,
			  const struct crossing *c)
{
	unsigned messages = tx->single || c->parts < TRAINS_A_FRAME ? c->parts : TRAINS_A_FRAME;

	return tx->count + messages <= SEND_MESSAGES && tx->iov_used + 2 * c->parts + frame->iovcnt <= SEND_IOVECS &&
	       tx->headers_used + (size_t)c->parts * GENEVE_HEADER_MAX <= SEND_HEADERS &&
	       (!peer->seal ||
		tx->scratch_used + frame->len + (size_t)c->parts * (GENEVE_HEADER_MAX + SEAL_OVERHEAD) <= SEND_SCRATCH);
}

/* Can a datagram join the last message? */
static bool train_takes(const struct udp_sending *tx, uint32_t len, unsigned pieces)
{
	const struct message *m = &tx->messages[tx->count - 1];

	return tx->count && !tx->single && !m->closed && len <= m->segment && m->datagrams < TRAIN_SEGMENTS &&
	       m->len + len <= UDP_DATAGRAM_MAX && tx->wire[tx->count - 1].msg_hdr.msg_iovlen + pieces <= UIO_MAXIOV;
}

static void message_begin(struct udp_sending *tx, struct udp_peer *peer, unsigned frame, uint32_t len)
{
	tx->messages[tx->count] = (struct message){.first = frame, .segment = len};
	tx->wire[tx->count].msg_hdr = (struct msghdr){
	    .msg_name = &peer->to,
	    .msg_namelen = udp_address_size(peer->endpoint->family),
	    .msg_iov = &tx->iov[tx->iov_used],
	};
	tx->count++;
}

/* The next datagram: @pieces at the end of tx->iov, of @len bytes in all, of frame number @frame. */
static void datagram_add(struct udp_sending *tx, struct udp_peer *peer, unsigned frame, uint32_t len, unsigned pieces)
{
	struct message *m;

	if (!train_takes(tx, len, pieces))
		message_begin(tx, peer, frame, len);
	m = &tx->messages[tx->count - 1];
	m->datagrams++;
	m->len += len;
	m->closed = len < m->segment;
	tx->wire[tx->count - 1].msg_hdr.msg_iovlen += pieces;
	tx->iov_used += pieces;
}

/* Seal the datagram whose @pieces are the last of tx->iov: it becomes one piece. Returns its length or -errno. */
static int datagram_seal(struct udp_sending *tx, struct udp_peer *peer, unsigned pieces)
{
	struct iovec *iov = tx->iov + tx->iov_used;
	uint8_t *out = tx->scratch + tx->scratch_used;
	int len = seal_close(peer->seal, iov, pieces, out, tx->now_ns);

	if (len > 0) {
		*iov = (struct iovec){.iov_base = out, .iov_len = (size_t)len};
		tx->scratch_used += (size_t)len;
	}
	return len;
}

/* A header, and @len bytes from the cursor. Returns 0 or -errno (of sealing). */
static int datagram_pack(struct udp_sending *tx, struct udp_peer *peer, unsigned frame,
			 const struct geneve_extras *extras, struct iov_cursor *at, uint32_t len)
{
	const struct udp_endpoint *ep = peer->endpoint;
	uint8_t *header = tx->headers + tx->headers_used;
	struct iovec *iov = tx->iov + tx->iov_used;
	size_t size = ep->encap == UDP_VXLAN ? vxlan_build(header, ep->env.vni)
					     : geneve_build(header, ep->env.vni, extras);
	uint32_t total = (uint32_t)size + len;
	unsigned pieces = 0;

	tx->headers_used += size;
	iov[pieces++] = (struct iovec){.iov_base = header, .iov_len = size};
	pieces += iov_slice(at, len, iov + pieces, UIO_MAXIOV);
	if (peer->seal) {
		int sealed = datagram_seal(tx, peer, pieces);

		if (sealed < 0)
			return sealed;
		peer->port.counters.copied_bytes += len;
		total = (uint32_t)sealed;
		pieces = 1;
	}
	datagram_add(tx, peer, frame, total, pieces);
	return 0;
}

static int parts_pack(struct udp_sending *tx, struct udp_peer *peer, unsigned index, struct crossing *c,
		      struct iov_cursor *at)
{
	struct geneve_extras extras;

	peer->next_id++;
	peer->whole_sent++;
	for (uint32_t len; (len = fragment_cut_next(&c->cut, &extras));) {
		int err = datagram_pack(tx, peer, index, &extras, at, len);

		if (err)
			return err;
	}
	return 0;
}

static int crossing_pack(struct udp_sending *tx, struct udp_peer *peer, unsigned index, const struct frame *frame,
			 struct crossing *c)
{
	struct iov_cursor at = iov_cursor(frame->iov, frame->iovcnt);
	int err = c->parts > 1 ? parts_pack(tx, peer, index, c, &at)
			       : datagram_pack(tx, peer, index, &c->extras, &at, frame->len);

	if (err)
		return err;
	tx->messages[tx->count - 1].frames++;
	tx->messages[tx->count - 1].bytes += frame->len;
	return 0;
}

/* Pack frames from @next on, as many as fit in one round. Returns the first that is left. */
static unsigned batch_pack(struct udp_peer *peer, struct frame *const frames[], unsigned next, unsigned n)
{
	struct udp_sending *tx = peer->endpoint->tx;
	uint64_t *drops = peer->port.counters.drops;

	tx->count = tx->iov_used = 0;
	tx->headers_used = tx->scratch_used = 0;
	for (; next < n; next++) {
		struct crossing c;
		enum drop_reason reason = crossing_plan(peer, frames[next], &c);

		if (reason != DROP_REASONS) {
			drops[reason]++;
			continue;
		}
		if (!crossing_fits(tx, peer, frames[next], &c))
			break;
		if (crossing_pack(tx, peer, next, frames[next], &c))
			drops[DROP_KEY]++;
	}
	return next;
}

/* --- from datagrams to the kernel ---------------------------------------------------------- */

static void train_mark(struct msghdr *msg, struct message *m)
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

static enum refusal refusal(struct udp_peer *peer, const struct message *m, int err, bool again)
{
	switch (err) {
	case EINTR:
	case ECONNREFUSED:
		return again ? GIVE_UP : AGAIN;
	case EMSGSIZE:
	case EINVAL: /* older kernels say so of a train's segment that is too long */
	case EIO:    /* the device cannot fill in checksums */
		if (err != EIO && udp_session_too_big(peer))
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

static void messages_drop(struct udp_peer *peer, const struct message *m, unsigned n, int err)
{
	enum drop_reason reason = refusal_reason(err);

	for (unsigned i = 0; i < n; i++)
		peer->port.counters.drops[reason] += m[i].frames;
	if (reason == DROP_ERROR && peer->session)
		session_error(peer->session, strerror(err), udp_now_ns());
}

static void messages_count(struct udp_peer *peer, const struct message *m, unsigned n)
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

/* Send what is packed. Returns the frame to go on with: @next, or an earlier one that is to be packed anew. */
static unsigned batch_flush(struct udp_peer *peer, int fd, unsigned next)
{
	struct udp_sending *tx = peer->endpoint->tx;
	bool again = false;

	for (unsigned i = 0; i < tx->count; i++)
		if (tx->messages[i].datagrams > 1)
			train_mark(&tx->wire[i].msg_hdr, &tx->messages[i]);
	for (unsigned done = 0; done < tx->count;) {
		int sent = messages_send(fd, tx->wire + done, tx->count - done);
		const struct message *m = tx->messages + done;
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
		next = batch_flush(peer, fd, batch_pack(peer, frames, next, n));
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
		ep->tx->now_ns = udp_now_ns();
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
	sealed = seal_close(peer->seal, iov, 2, ep->tx->control, udp_now_ns());
	return sealed < 0 ? sealed : udp_send_raw(peer, ep->tx->control, (size_t)sealed);
}
