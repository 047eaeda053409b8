/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * One unconnected socket serves all peers, so that a thousand of them cost one descriptor and one
 * poll. It is an IPv6 socket that also speaks IPv4 where it may be; addresses are compared in their
 * IPv6 form, IPv4 ones mapped (RFC 4291, 2.5.5.2).
 *
 * Sending: the batch becomes one sendmmsg(), each message the Geneve header (the same one for all)
 * and behind it the frame's own segments: nothing is copied. A message that the kernel refuses ends
 * the call; if the reason is its own (too long) the rest is sent by another call, if the next one
 * would fare alike (buffer full, no route) the rest is dropped. The socket never blocks.
 *
 * Receiving: recvmmsg() into buffers that are reused from the first on, so that only as many become
 * resident as ever came in at once; runs of one peer go to the core together. A visit ends after
 * VISIT_BATCHES full batches; the poll is level-triggered and calls again after the others' turn.
 *
 * No IP fragments: one lost fragment loses the frame, and stray ones join wrongly at these rates
 * (RFC 4963). The socket asks for "don't fragment", and what is longer than the path's MTU is
 * dropped as oversize. port->mtu says what fits; it is read from the host's routes when the peer is
 * added.
 *
 * A peer that is away is nothing special: the datagrams get lost until it is there. There are no
 * states and no timers.
 *
 * Everything runs on the loop's thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/geneve.h"
#include "vnet/link.h"
#include "vnet/link_udp.h"
#include "vnet/loop.h"

#define SOCKET_BUFFER  (4 << 20) /* bytes, both ways; the kernel may give less */
#define PEER_BUCKETS   256u
#define RECEIVE_BATCH  32u    /* datagrams a system call */
#define RECEIVE_BUFFER 65536u /* bytes; a UDP datagram is always shorter */
#define VISIT_BATCHES  8u     /* batches received before others get their turn */
#define SEND_SEGMENTS  2048u  /* pieces of memory a system call, more than a usual batch has */
#define PATH_MTU       1500u  /* bytes, where the host does not know */
#define IPV4_HEADER    20u
#define IPV6_HEADER    40u
#define UDP_HEADER     8u
#define IPV4_LENGTH    65535u /* largest total length */
#define HOST_MAX       256u   /* a domain name, RFC 1035, 2.3.4 */

static_assert(RECEIVE_BATCH <= FRAME_BATCH_MAX, "a receive batch goes to the core at once");
static_assert(SEND_SEGMENTS >= UIO_MAXIOV, "any one message fits");

/* Where a datagram comes from or goes to. */
struct address {
	struct in6_addr ip; /* IPv4 is mapped */
	uint32_t scope;	    /* interface index of a link-local address, otherwise 0 */
	uint16_t port;	    /* network byte order */
};

union socket_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct peer {
	struct port port;
	struct udp_endpoint *endpoint;
	struct peer *next; /* in its bucket */
	struct address address;
	union socket_address to;
};

struct sending {
	struct mmsghdr messages[FRAME_BATCH_MAX];
	const struct frame *frames[FRAME_BATCH_MAX];
	struct iovec segments[SEND_SEGMENTS];
	unsigned count, segments_used;
};

struct receiving {
	struct mmsghdr messages[RECEIVE_BATCH];
	union socket_address from[RECEIVE_BATCH];
	struct iovec buffers[RECEIVE_BATCH];
	struct iovec payloads[RECEIVE_BATCH];
	struct frame frames[RECEIVE_BATCH];
	struct frame *run[RECEIVE_BATCH]; /* frames of one peer, on their way to the core */
};

struct udp_endpoint {
	struct core *core;
	int fd;
	int family;	 /* of the socket: AF_INET6 (IPv4 too if bound to any address) or AF_INET */
	int peer_family; /* what peers may be: AF_UNSPEC is both */
	struct address local;
	uint8_t header[GENEVE_HEADER_MAX];
	size_t header_size;
	uint32_t vni;
	struct loop_watch watch;
	struct peer *peers[PEER_BUCKETS];
	struct port_counters counters;
	uint8_t *memory; /* the receive buffers */
	struct sending tx;
	struct receiving rx;
};

/* --- addresses ----------------------------------------------------------------------------- */

static void ip_map(struct in6_addr *ip, const struct in_addr *v4)
{
	memset(ip, 0, sizeof(*ip));
	ip->s6_addr[10] = ip->s6_addr[11] = 0xff;
	memcpy(&ip->s6_addr[12], v4, sizeof(*v4));
}

static struct address address_of(const union socket_address *sa)
{
	struct address address = {0};

	if (sa->any.sa_family == AF_INET) {
		ip_map(&address.ip, &sa->v4.sin_addr);
		address.port = sa->v4.sin_port;
	} else {
		address.ip = sa->v6.sin6_addr;
		address.scope = sa->v6.sin6_scope_id;
		address.port = sa->v6.sin6_port;
	}
	return address;
}

static bool address_equal(const struct address *a, const struct address *b)
{
	return !memcmp(&a->ip, &b->ip, sizeof(a->ip)) && a->port == b->port && a->scope == b->scope;
}

/* Only peers that the user named are in the table: no need for a hash that withstands an attacker.
 */
static unsigned address_bucket(const struct address *address)
{
	uint32_t words[4];

	memcpy(words, &address->ip, sizeof(words));
	words[3] ^= words[0] ^ words[1] ^ words[2] ^ (uint32_t)address->port << 16;
	return words[3] * 0x9e3779b1u >> 24 & (PEER_BUCKETS - 1);
}

/* The form in which the endpoint's socket takes it. */
static union socket_address address_for(int family, const struct address *address)
{
	union socket_address sa = {0};

	sa.any.sa_family = (sa_family_t)family;
	if (family == AF_INET) {
		memcpy(&sa.v4.sin_addr, &address->ip.s6_addr[12], sizeof(sa.v4.sin_addr));
		sa.v4.sin_port = address->port;
	} else {
		sa.v6.sin6_addr = address->ip;
		sa.v6.sin6_scope_id = address->scope;
		sa.v6.sin6_port = address->port;
	}
	return sa;
}

static socklen_t address_size(int family)
{
	return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void address_print(char *text, size_t size, const struct address *address)
{
	char ip[INET6_ADDRSTRLEN];
	unsigned port = ntohs(address->port);

	if (IN6_IS_ADDR_V4MAPPED(&address->ip)) {
		inet_ntop(AF_INET, &address->ip.s6_addr[12], ip, sizeof(ip));
		snprintf(text, size, "udp://%s:%u", ip, port);
		return;
	}
	inet_ntop(AF_INET6, &address->ip, ip, sizeof(ip));
	if (address->scope)
		snprintf(text, size, "udp://[%s%%%u]:%u", ip, address->scope, port);
	else
		snprintf(text, size, "udp://[%s]:%u", ip, port);
}

/* --- what the user wrote ------------------------------------------------------------------- */

/* What is being set up, and where to put the reason if it fails. */
struct request {
	const char *option; /* "--listen" or "--link" */
	const char *text;   /* as the user wrote it */
	char *error;
};

__attribute__((format(printf, 3, 4))) static int request_fail(const struct request *req, int err,
							      const char *format, ...)
{
	int used = snprintf(req->error, UDP_ERROR_MAX, "%s udp://%.128s: ", req->option, req->text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(req->error + used, UDP_ERROR_MAX - (size_t)used, format, ap);
	va_end(ap);
	return err;
}

static int port_parse(const struct request *req, const char *text, uint16_t *port)
{
	unsigned long value = 0;
	size_t digits = strspn(text, "0123456789");
	bool number = digits && digits < 6 && !text[digits];

	if (number)
		value = strtoul(text, NULL, 10);
	if (!number || value > UINT16_MAX)
		return request_fail(req, -EINVAL,
				    "\"%.16s\" is no port: it is a number up to 65535", text);
	*port = (uint16_t)value;
	return 0;
}

/* Take HOST:PORT apart: HOST, HOST:PORT, [IPV6], [IPV6]:PORT; without a port it is Geneve's own. */
static int host_parse(const struct request *req, char host[HOST_MAX], uint16_t *port)
{
	bool brackets = req->text[0] == '[';
	const char *start = req->text + brackets;
	const char *end = start + strcspn(start, brackets ? "]" : ":");
	size_t len = (size_t)(end - start);

	if (brackets && *end++ != ']')
		return request_fail(req, -EINVAL,
				    "the bracket is not closed: write [ADDRESS]:PORT");
	if (len >= HOST_MAX)
		return request_fail(req, -EINVAL, "the host's name is too long");
	memcpy(host, start, len);
	host[len] = '\0';
	*port = GENEVE_UDP_PORT;
	if (!*end)
		return 0;
	if (*end != ':')
		return request_fail(req, -EINVAL, "only :PORT may follow the bracket");
	if (!brackets && strchr(end + 1, ':'))
		return request_fail(req, -EINVAL,
				    "an IPv6 address stands in brackets: write [ADDRESS]:PORT");
	return port_parse(req, end + 1, port);
}

/* The first address of a host. @family: AF_UNSPEC takes either */
static int host_resolve(const struct request *req, const char *host, int family,
			union socket_address *sa)
{
	const struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_DGRAM};
	struct addrinfo *found;
	int err = getaddrinfo(host, NULL, &hints, &found);

	if (err)
		return request_fail(req, -EHOSTUNREACH,
				    "the host is not found%s (%s): check the name",
				    family == AF_INET	 ? " in IPv4"
				    : family == AF_INET6 ? " in IPv6"
							 : "",
				    gai_strerror(err));
	memset(sa, 0, sizeof(*sa));
	memcpy(sa, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	return 0;
}

/* --- sending ------------------------------------------------------------------------------- */

static struct peer *peer_of(struct port *port)
{
	return (struct peer *)((char *)port - offsetof(struct peer, port));
}

/* Add a frame to the next system call. Returns false when that has no room left for it. */
static bool send_add(struct peer *peer, const struct frame *frame)
{
	struct udp_endpoint *ep = peer->endpoint;
	struct sending *tx = &ep->tx;
	struct iovec *segments = tx->segments + tx->segments_used;

	if (frame->offload.flags || frame->offload.gso_type) {
		peer->port.counters.drops[DROP_FORMAT]++;
		return true;
	}
	if (frame->iovcnt >= UIO_MAXIOV) { /* sendmsg(2) takes no more */
		peer->port.counters.drops[DROP_OVERSIZE]++;
		return true;
	}
	if (tx->segments_used + frame->iovcnt + 1 > SEND_SEGMENTS)
		return false;
	segments[0] = (struct iovec){.iov_base = ep->header, .iov_len = ep->header_size};
	memcpy(segments + 1, frame->iov, frame->iovcnt * sizeof(*segments));
	tx->segments_used += frame->iovcnt + 1;
	tx->frames[tx->count] = frame;
	tx->messages[tx->count++].msg_hdr = (struct msghdr){
	    .msg_name = &peer->to,
	    .msg_namelen = address_size(ep->family),
	    .msg_iov = segments,
	    .msg_iovlen = frame->iovcnt + 1,
	};
	return true;
}

static void send_count(struct port_counters *counters, const struct frame *const frames[],
		       unsigned n)
{
	counters->out_frames += n;
	for (unsigned i = 0; i < n; i++)
		counters->out_bytes += frames[i]->len;
}

/*
 * The first of @left messages was refused. Returns how many to pass over: 0 to try again, for an
 * error that an earlier datagram left behind on the socket.
 */
static unsigned send_refused(struct port_counters *counters, int err, unsigned left, bool again)
{
	switch (err) {
	case EINTR:
	case ECONNREFUSED:
		if (!again)
			return 0;
		counters->drops[DROP_ERROR] += left;
		return left;
	case EMSGSIZE:
		counters->drops[DROP_OVERSIZE]++;
		return 1;
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		counters->drops[DROP_BUSY] += left;
		return left;
	default:
		counters->drops[DROP_ERROR] += left;
		return left;
	}
}

/* The system call itself: musl's sendmmsg() is a loop of sendmsg(). */
static int send_messages(int fd, struct mmsghdr *messages, unsigned n)
{
	return (int)syscall(SYS_sendmmsg, fd, messages, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void send_flush(struct peer *peer)
{
	struct port_counters *counters = &peer->port.counters;
	struct sending *tx = &peer->endpoint->tx;
	bool again = false;

	for (unsigned done = 0; done < tx->count;) {
		int sent = send_messages(peer->endpoint->fd, tx->messages + done, tx->count - done);
		unsigned n = (unsigned)sent;

		counters->syscalls++;
		if (sent > 0)
			send_count(counters, tx->frames + done, n);
		else
			n = send_refused(counters, errno, tx->count - done, again);
		again = !n;
		done += n;
	}
	tx->count = tx->segments_used = 0;
}

static void udp_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct peer *peer = peer_of(port);

	port->counters.batches++;
	for (unsigned i = 0; i < n; i++) {
		if (send_add(peer, frames[i]))
			continue;
		send_flush(peer);
		send_add(peer, frames[i]);
	}
	send_flush(peer);
}

/* --- receiving ----------------------------------------------------------------------------- */

static struct peer *peer_find(const struct udp_endpoint *ep, const struct address *address)
{
	struct peer *peer = ep->peers[address_bucket(address)];

	while (peer && !address_equal(&peer->address, address))
		peer = peer->next;
	return peer;
}

/* Make datagram @i, of a known peer, a frame. Returns false when it is none: dropped and counted.
 */
static bool frame_take(struct udp_endpoint *ep, struct peer *peer, unsigned i)
{
	const struct mmsghdr *message = &ep->rx.messages[i];
	uint8_t *data = ep->rx.buffers[i].iov_base;
	struct iovec *payload = &ep->rx.payloads[i];
	struct frame *frame = &ep->rx.frames[i];
	enum drop_reason reason = DROP_OVERSIZE;
	struct geneve_extras extras = {0};
	size_t offset = 0;

	if (!(message->msg_hdr.msg_flags & MSG_TRUNC))
		offset = geneve_parse(data, message->msg_len, ep->vni, &extras, &reason);
	if (extras.control || extras.part || extras.offload.flags || extras.offload.gso_type) {
		offset = 0;
		reason = DROP_OPTION;
	}
	if (!offset) {
		peer->port.counters.drops[reason]++;
		return false;
	}
	payload->iov_base = data + offset;
	payload->iov_len = message->msg_len - offset;
	*frame = (struct frame){
	    .iov = payload,
	    .iovcnt = 1,
	    .len = (uint32_t)payload->iov_len,
	};
	memcpy(frame->eth, payload->iov_base, FRAME_HEADER);
	return true;
}

static void run_deliver(struct udp_endpoint *ep, struct peer *peer, unsigned n)
{
	if (!n)
		return;
	peer->port.counters.batches++;
	core_input(ep->core, &peer->port, ep->rx.run, n);
}

/* Sort @n datagrams out and hand them on. */
static void batch_deliver(struct udp_endpoint *ep, unsigned n)
{
	struct peer *last = NULL;
	unsigned run = 0;

	for (unsigned i = 0; i < n; i++) {
		struct address from = address_of(&ep->rx.from[i]);
		struct peer *peer = peer_find(ep, &from);

		if (!peer) {
			ep->counters.drops[DROP_NOT_PEER]++;
			continue;
		}
		if (peer != last) {
			run_deliver(ep, last, run);
			last = peer;
			run = 0;
		}
		if (frame_take(ep, peer, i))
			ep->rx.run[run++] = &ep->rx.frames[i];
	}
	run_deliver(ep, last, run);
}

/* Receive a batch. Returns the number of datagrams; less than RECEIVE_BATCH: that was all. */
static unsigned batch_receive(struct udp_endpoint *ep)
{
	int n = recvmmsg(ep->fd, ep->rx.messages, RECEIVE_BATCH, MSG_DONTWAIT, NULL);

	ep->counters.syscalls++;
	if (n <= 0)
		return 0;
	ep->counters.batches++;
	batch_deliver(ep, (unsigned)n);
	for (int i = 0; i < n; i++)
		ep->rx.messages[i].msg_hdr.msg_namelen = sizeof(ep->rx.from[i]);
	return (unsigned)n;
}

static void udp_ready(struct loop_watch *watch, uint32_t revents)
{
	struct udp_endpoint *ep = watch->context;

	(void)revents;
	for (unsigned i = 0; i < VISIT_BATCHES; i++)
		if (batch_receive(ep) < RECEIVE_BATCH)
			return;
}

static int receiving_init(struct udp_endpoint *ep)
{
	const size_t size = (size_t)RECEIVE_BATCH * RECEIVE_BUFFER;

	ep->memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ep->memory == MAP_FAILED)
		return -errno;
	/* A huge page would make all of them resident with the first datagram. */
	madvise(ep->memory, size, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < RECEIVE_BATCH; i++) {
		ep->rx.buffers[i] = (struct iovec){
		    .iov_base = ep->memory + (size_t)i * RECEIVE_BUFFER,
		    .iov_len = RECEIVE_BUFFER,
		};
		ep->rx.messages[i].msg_hdr = (struct msghdr){
		    .msg_name = &ep->rx.from[i],
		    .msg_namelen = sizeof(ep->rx.from[i]),
		    .msg_iov = &ep->rx.buffers[i],
		    .msg_iovlen = 1,
		};
	}
	return 0;
}

/* --- peers --------------------------------------------------------------------------------- */

static void peer_unlink(struct peer *peer)
{
	struct peer **at = &peer->endpoint->peers[address_bucket(&peer->address)];

	while (*at != peer)
		at = &(*at)->next;
	*at = peer->next;
}

static void udp_close(struct port *port)
{
	struct peer *peer = peer_of(port);

	peer_unlink(peer);
	free(peer);
}

static const struct port_ops udp_ops = {
    .type = "udp",
    .send_batch = udp_send_batch,
    .close = udp_close,
};

/* A socket that would send to the peer as the endpoint's does. Returns it, or -errno. */
static int probe_open(const struct udp_endpoint *ep, const union socket_address *to)
{
	int fd = socket(ep->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct address any_port = ep->local;
	union socket_address from;
	int err;

	if (fd < 0)
		return -errno;
	any_port.port = 0;
	from = address_for(ep->family, &any_port);
	if (!bind(fd, &from.any, address_size(ep->family)) &&
	    !connect(fd, &to->any, address_size(ep->family)))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/*
 * Ask the host about the way to a peer: the path's MTU in bytes, and whether it ends at this
 * endpoint. Where there is no way, or none yet, the MTU is that of an Ethernet.
 */
static unsigned path_probe(const struct udp_endpoint *ep, const struct peer *peer, bool *self)
{
	const bool v4 = ep->family == AF_INET;
	int fd = probe_open(ep, &peer->to);
	union socket_address sa = {0};
	socklen_t size = sizeof(sa);
	int mtu = 0;

	*self = false;
	if (fd < 0)
		return PATH_MTU;
	if (!getsockname(fd, &sa.any, &size)) {
		struct address from = address_of(&sa);

		from.port = ep->local.port;
		*self = address_equal(&from, &peer->address);
	}
	size = sizeof(mtu);
	if (getsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU : IPV6_MTU, &mtu, &size))
		mtu = 0;
	close(fd);
	return mtu > 0 ? (unsigned)mtu : PATH_MTU;
}

/* The largest guest MTU on a path: less the outer headers and the inner Ethernet header. */
static uint32_t guest_mtu(unsigned path_mtu, const struct address *peer)
{
	unsigned ip = IN6_IS_ADDR_V4MAPPED(&peer->ip) ? IPV4_HEADER : IPV6_HEADER;
	unsigned outer = ip + UDP_HEADER + sizeof(struct geneve_header) + FRAME_HEADER;

	if (path_mtu > IPV4_LENGTH)
		path_mtu = IPV4_LENGTH;
	return path_mtu > outer ? path_mtu - outer : 0;
}

static struct peer *peer_create(struct udp_endpoint *ep, const struct address *address)
{
	struct peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	peer->endpoint = ep;
	peer->address = *address;
	peer->to = address_for(ep->family, address);
	peer->port.ops = &udp_ops;
	peer->port.kind = PORT_LINK;
	address_print(peer->port.name, sizeof(peer->port.name), address);
	return peer;
}

static int peer_address(const struct udp_endpoint *ep, const struct request *req,
			struct address *address)
{
	union socket_address sa = {0};
	char host[HOST_MAX] = "";
	uint16_t udp_port = 0;
	int err = host_parse(req, host, &udp_port);

	if (err)
		return err;
	if (!*host || !udp_port)
		return request_fail(req, -EINVAL, "a peer has a host and a port: write HOST:PORT");
	err = host_resolve(req, host, ep->peer_family, &sa);
	if (err)
		return err;
	*address = address_of(&sa);
	address->port = htons(udp_port);
	return 0;
}

int udp_endpoint_add_peer(struct udp_endpoint *ep, const char *text, struct port **port,
			  char error[UDP_ERROR_MAX])
{
	const struct request req = {.option = "--link", .text = text, .error = error};
	struct address address = {0};
	struct peer *peer;
	bool self;
	int err = peer_address(ep, &req, &address);

	if (err)
		return err;
	peer = peer_create(ep, &address);
	if (!peer)
		return request_fail(&req, -ENOMEM, "out of memory");
	peer->port.mtu = guest_mtu(path_probe(ep, peer, &self), &address);
	if (self) {
		err = request_fail(&req, -EINVAL,
				   "that is where this VM itself listens: "
				   "leave it out, or give --listen another port");
		goto out_free;
	}
	err = core_attach(ep->core, &peer->port);
	if (err) {
		request_fail(&req, err,
			     err == -EEXIST ? "this peer is linked already: leave it out"
					    : "too many links: an overlay has at most %u",
			     CORE_PORTS_MAX);
		goto out_free;
	}
	peer->next = ep->peers[address_bucket(&address)];
	ep->peers[address_bucket(&address)] = peer;
	*port = &peer->port;
	return 0;

out_free:
	free(peer);
	return err;
}

/* --- the endpoint -------------------------------------------------------------------------- */

static void option_set(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

/* Ask for what we can do without, too: the kernel may refuse, an IPv4 socket has no IPv6 options.
 */
static void socket_tune(int fd)
{
	option_set(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER);
	option_set(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
	/* Beyond the host's usual limit, where we may. */
	option_set(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER);
	option_set(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER);
	option_set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
	option_set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO);
	option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
}

static int socket_bind(struct udp_endpoint *ep, const struct request *req,
		       const union socket_address *sa)
{
	unsigned port = ntohs(address_of(sa).port);

	if (!bind(ep->fd, &sa->any, address_size(ep->family)))
		return 0;
	switch (errno) {
	case EADDRINUSE:
		return request_fail(req, -EADDRINUSE, "port %u is in use: choose another port",
				    port);
	case EADDRNOTAVAIL:
		return request_fail(
		    req, -EADDRNOTAVAIL,
		    "no such address on this host: take one it has, or none for all");
	case EACCES:
		return request_fail(req, -EACCES, "port %u needs privileges: choose one above 1023",
				    port);
	default:
		return request_fail(req, -errno, "cannot listen: %s", strerror(errno));
	}
}

/* The address to listen on; any address in IPv6, which is IPv4 too, when the user named none. */
static int listen_address(const struct request *req, union socket_address *sa)
{
	char host[HOST_MAX] = "";
	uint16_t port = 0;
	int err = host_parse(req, host, &port);

	if (!err && *host)
		err = host_resolve(req, host, AF_UNSPEC, sa);
	else
		*sa = (union socket_address){.v6 = {.sin6_family = AF_INET6}};
	if (err)
		return err;
	if (sa->any.sa_family == AF_INET)
		sa->v4.sin_port = htons(port);
	else
		sa->v6.sin6_port = htons(port);
	return 0;
}

/* Open the socket, in IPv4 only where the host has no IPv6 and the user did not name an address of
 * it. */
static int socket_open(struct udp_endpoint *ep, const struct request *req, union socket_address *sa)
{
	const int type = SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
	bool any = sa->any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&sa->v6.sin6_addr);

	ep->family = sa->any.sa_family;
	ep->fd = socket(ep->family, type, 0);
	if (ep->fd < 0 && errno == EAFNOSUPPORT && any) {
		in_port_t port = sa->v6.sin6_port;

		*sa = (union socket_address){.v4 = {.sin_family = AF_INET, .sin_port = port}};
		ep->family = AF_INET;
		ep->fd = socket(ep->family, type, 0);
		any = false;
	}
	if (ep->fd < 0)
		return request_fail(req, -errno, "cannot open a socket: %s", strerror(errno));
	ep->peer_family = any ? AF_UNSPEC : ep->family;
	return 0;
}

static int endpoint_listen(struct udp_endpoint *ep, const struct request *req)
{
	union socket_address sa = {0};
	socklen_t size = sizeof(sa);
	int err = listen_address(req, &sa);

	if (!err)
		err = socket_open(ep, req, &sa);
	if (err)
		return err;
	socket_tune(ep->fd);
	err = socket_bind(ep, req, &sa);
	if (err)
		goto out_close;
	if (getsockname(ep->fd, &sa.any, &size)) {
		err = request_fail(req, -errno, "cannot listen: %s", strerror(errno));
		goto out_close;
	}
	ep->local = address_of(&sa);
	return 0;

out_close:
	close(ep->fd);
	return err;
}

int udp_endpoint_create(struct loop *loop, struct core *core, const char *listen, uint32_t vni,
			struct udp_endpoint **endpoint, char error[UDP_ERROR_MAX])
{
	const struct request req = {"--listen", listen ? listen : "", error};
	struct udp_endpoint *ep = calloc(1, sizeof(*ep));
	int err;

	if (!ep)
		return request_fail(&req, -ENOMEM, "out of memory");
	ep->core = core;
	ep->vni = vni;
	ep->header_size = geneve_build(ep->header, vni, NULL);
	ep->watch.ready = udp_ready;
	ep->watch.context = ep;
	err = endpoint_listen(ep, &req);
	if (err)
		goto out_free;
	err = receiving_init(ep);
	if (err) {
		request_fail(&req, err, "no memory for receive buffers: %s", strerror(-err));
		goto out_close;
	}
	err = loop_watch(loop, &ep->watch, ep->fd, POLLIN);
	if (err) {
		request_fail(&req, err, "cannot watch the socket: %s", strerror(-err));
		goto out_unmap;
	}
	*endpoint = ep;
	return 0;

out_unmap:
	munmap(ep->memory, (size_t)RECEIVE_BATCH * RECEIVE_BUFFER);
out_close:
	close(ep->fd);
out_free:
	free(ep);
	return err;
}

void udp_endpoint_destroy(struct udp_endpoint *ep)
{
	if (!ep)
		return;
	loop_unwatch(&ep->watch);
	for (unsigned i = 0; i < PEER_BUCKETS; i++) {
		for (struct peer *peer; (peer = ep->peers[i]);) {
			ep->peers[i] = peer->next;
			core_detach(ep->core, &peer->port);
			free(peer);
		}
	}
	munmap(ep->memory, (size_t)RECEIVE_BATCH * RECEIVE_BUFFER);
	close(ep->fd);
	free(ep);
}

uint16_t udp_endpoint_local_port(const struct udp_endpoint *ep)
{
	return ntohs(ep->local.port);
}

const struct port_counters *udp_endpoint_counters(const struct udp_endpoint *ep)
{
	return &ep->counters;
}

/* --- by URL -------------------------------------------------------------------------------- */

static int udp_listen(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		      char error[LINK_ERROR_MAX])
{
	return udp_endpoint_create(env->loop, env->core, *spec->target ? spec->target : NULL,
				   env->vni, (struct udp_endpoint **)endpoint, error);
}

static int udp_open(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		    struct port **port, char error[LINK_ERROR_MAX])
{
	int err = 0;

	if (!*endpoint)
		err = udp_endpoint_create(env->loop, env->core, NULL, env->vni,
					  (struct udp_endpoint **)endpoint, error);
	return err ? err : udp_endpoint_add_peer(*endpoint, spec->target, port, error);
}

static void udp_destroy(void *endpoint)
{
	udp_endpoint_destroy(endpoint);
}

static const struct port_counters *udp_counters(void *endpoint)
{
	return udp_endpoint_counters(endpoint);
}

const struct link_type link_udp = {
    .scheme = "udp",
    .form = "udp://HOST[:PORT]",
    .summary = "a peer over UDP, IPv4 or IPv6",
    .listen_form = "udp://[ADDRESS][:PORT]",
    .listen = udp_listen,
    .open = udp_open,
    .endpoint_destroy = udp_destroy,
    .endpoint_counters = udp_counters,
};
