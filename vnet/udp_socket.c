/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * An endpoint has one unconnected socket that listens, so that a thousand peers cost one descriptor
 * and one poll. Further sockets only send: their source ports let routers (ECMP) and receive queues
 * (RSS) spread what would otherwise be one flow. Nobody reads those; they are given the smallest
 * buffer there is, which strangers may fill. One more socket never sends at all: connected to a
 * peer for a moment, it asks the host for the route, the path's MTU and the local address. It is
 * kept, since under the sandbox no socket can be made any more.
 *
 * No IP fragments: one lost fragment loses the frame, and stray ones join wrongly at these rates
 * (RFC 4963). The sockets ask for "don't fragment"; the kernel keeps what it learns from ICMP per
 * address and refuses what is too long (EMSGSIZE).
 */
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vnet/udp.h"

#define PORT_TRIES    30u
#define PORT_PAUSE_NS 10000000	/* 10 ms */
#define SOCKET_BUFFER (4 << 20) /* bytes, both ways; the kernel may give less */
#define PATH_MTU      1500u	/* bytes, where the host does not know */
#define IPV4_HEADER   20u
#define IPV6_HEADER   40u
#define IP_LENGTH     65535u /* largest packet; jumbograms are not for us */

static void option_set(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

/* Ask for what we can do without, too: the kernel may refuse, an IPv4 socket has no IPv6 options.
 */
static void socket_tune(int fd, int receive_buffer)
{
	option_set(fd, SOL_SOCKET, SO_RCVBUF, receive_buffer);
	option_set(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
	/* Beyond the host's usual limit, where we may. */
	option_set(fd, SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer);
	option_set(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER);
	option_set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
	option_set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO);
	option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
}

/* A socket of the endpoint's family at its address, at a port that the kernel picks. Returns it, or
 * -errno. */
static int sibling_open(const struct udp_endpoint *ep)
{
	struct udp_address any_port = ep->local;
	union socket_address sa;
	int fd = socket(ep->family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err;

	if (fd < 0)
		return -errno;
	any_port.port = 0;
	sa = udp_address_for(ep->family, &any_port);
	socket_tune(fd, 0);
	if (!bind(fd, &sa.any, udp_address_size(ep->family)))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static int sender_open(struct udp_endpoint *ep)
{
	union socket_address sa = {0};
	socklen_t size = sizeof(sa);
	int fd = sibling_open(ep);

	if (fd < 0)
		return fd;
	if (getsockname(fd, &sa.any, &size)) {
		close(fd);
		return -errno;
	}
	ep->ports[ep->sender_count - 1] = ntohs(udp_address_of(&sa).port);
	ep->senders[ep->sender_count++] = fd;
	return 0;
}

/*
 * bind(), with patience for a port that is about to be free: what a killed process had in its
 * io_uring the kernel lets go of some milliseconds after the process is gone. 0, or -1 with errno.
 */
static int port_take(int fd, const union socket_address *sa, socklen_t size)
{
	const struct timespec pause = {.tv_nsec = PORT_PAUSE_NS};

	for (unsigned tries = 0; bind(fd, &sa->any, size); tries++) {
		if (errno != EADDRINUSE || tries == PORT_TRIES)
			return -1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int socket_bind(struct udp_endpoint *ep, const struct link_spec *spec,
		       const union socket_address *sa, char *error)
{
	unsigned port = ntohs(udp_address_of(sa).port);

	if (!port_take(ep->fd, sa, udp_address_size(ep->family)))
		return 0;
	switch (errno) {
	case EADDRINUSE:
		return link_fail(error, spec, -EADDRINUSE, "port %u is in use: choose another port",
				 port);
	case EADDRNOTAVAIL:
		return link_fail(error, spec, -EADDRNOTAVAIL,
				 "no such address on this host: take one it has, or none for all");
	case EACCES:
		return link_fail(error, spec, -EACCES,
				 "port %u needs privileges: choose one above 1023", port);
	default:
		return link_fail(error, spec, -errno, "cannot listen: %s", strerror(errno));
	}
}

/* Open the socket, in IPv4 only where the host has no IPv6 and the user did not name an address of
 * it. */
static int socket_open(struct udp_endpoint *ep, union socket_address *sa)
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
	ep->peer_family = any ? AF_UNSPEC : ep->family;
	return ep->fd < 0 ? -errno : 0;
}

static int listener_open(struct udp_endpoint *ep, const struct link_spec *spec,
			 union socket_address *sa, char *error)
{
	socklen_t size = sizeof(*sa);
	int err = socket_open(ep, sa);

	if (err)
		return link_fail(error, spec, err, "cannot open a socket: %s", strerror(-err));
	socket_tune(ep->fd, SOCKET_BUFFER);
	err = socket_bind(ep, spec, sa, error);
	if (!err && getsockname(ep->fd, &sa->any, &size))
		err = link_fail(error, spec, -errno, "cannot listen: %s", strerror(errno));
	if (err) {
		close(ep->fd);
		return err;
	}
	ep->local = udp_address_of(sa);
	return 0;
}

/* Both are there since Linux 5.0; without them each datagram is its own message. */
static void offloads_enable(struct udp_endpoint *ep)
{
	const int on = 1, none = 0;

	setsockopt(ep->fd, SOL_UDP, UDP_GRO, &on, sizeof(on));
	ep->trains = !setsockopt(ep->fd, SOL_UDP, UDP_SEGMENT, &none, sizeof(none));
}

int udp_sockets_open(struct udp_endpoint *ep, const struct link_spec *spec,
		     union socket_address *sa, unsigned spread, char error[LINK_ERROR_MAX])
{
	int err = listener_open(ep, spec, sa, error);

	if (err)
		return err;
	offloads_enable(ep);
	ep->senders[ep->sender_count++] = ep->fd;
	ep->probe = sibling_open(ep);
	err = ep->probe < 0 ? ep->probe : 0;
	while (!err && ep->sender_count < spread)
		err = sender_open(ep);
	if (!err)
		return 0;
	udp_sockets_close(ep);
	return link_fail(error, spec, err, "cannot open a socket: %s", strerror(-err));
}

void udp_sockets_close(struct udp_endpoint *ep)
{
	while (ep->sender_count)
		close(ep->senders[--ep->sender_count]);
	if (ep->probe >= 0)
		close(ep->probe);
}

unsigned udp_ip_header(const struct udp_address *address)
{
	return udp_address_is_v4(address) ? IPV4_HEADER : IPV6_HEADER;
}

/* The MTU of the path that the probe is connected to, bytes; 0: unknown. */
static uint32_t probe_mtu(const struct udp_endpoint *ep)
{
	const bool v4 = ep->family == AF_INET;
	int mtu = 0;
	socklen_t size = sizeof(mtu);

	if (getsockopt(ep->probe, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU : IPV6_MTU, &mtu,
		       &size))
		return 0;
	return mtu > 0 ? (uint32_t)mtu : 0;
}

/* Does a datagram from the probe to @address start from that very address, where the endpoint
 * listens? */
static bool probe_is_self(const struct udp_endpoint *ep, const struct udp_address *address)
{
	union socket_address sa = {0};
	socklen_t size = sizeof(sa);
	struct udp_address from;

	if (getsockname(ep->probe, &sa.any, &size))
		return false;
	from = udp_address_of(&sa);
	from.port = ep->local.port;
	return udp_address_equal(&from, address);
}

uint32_t udp_path_payload(const struct udp_endpoint *ep, const struct udp_address *address,
			  bool *self)
{
	const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	const union socket_address to = udp_address_for(ep->family, address);
	const uint32_t headers = udp_ip_header(address) + UDP_HEADER;
	uint32_t mtu = 0;

	if (!connect(ep->probe, &to.any, udp_address_size(ep->family))) {
		mtu = probe_mtu(ep);
		if (self)
			*self = probe_is_self(ep, address);
	}
	/* Let go, or the next route would be looked up from the source address of this one. */
	(void)connect(ep->probe, &nobody, sizeof(nobody));
	if (mtu <= headers)
		mtu = PATH_MTU;
	return (mtu < IP_LENGTH ? mtu : IP_LENGTH) - headers;
}
