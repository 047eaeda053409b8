/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A socket bound to any address is an IPv6 one that also speaks IPv4, so the same peer can be met
 * as IPv4 or as IPv4 mapped into IPv6. All addresses are therefore kept and compared in their IPv6
 * form and turned into a socket's own form once, when a peer is added. Pure functions, any thread;
 * only udp_address_read() may wait, for a name server.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/udp_address.h"

#define HOST_MAX 256u /* a domain name, RFC 1035, 2.3.4 */

static void ip_map(struct in6_addr *ip, const struct in_addr *v4)
{
	memset(ip, 0, sizeof(*ip));
	ip->s6_addr[10] = ip->s6_addr[11] = 0xff;
	memcpy(&ip->s6_addr[12], v4, sizeof(*v4));
}

struct udp_address udp_address_of(const union socket_address *sa)
{
	struct udp_address address = {0};

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

bool udp_address_equal(const struct udp_address *a, const struct udp_address *b)
{
	return !memcmp(&a->ip, &b->ip, sizeof(a->ip)) && a->port == b->port && a->scope == b->scope;
}

bool udp_address_is_v4(const struct udp_address *address)
{
	return IN6_IS_ADDR_V4MAPPED(&address->ip);
}

uint32_t udp_address_hash(const struct udp_address *address)
{
	uint32_t words[4];

	memcpy(words, &address->ip, sizeof(words));
	words[3] ^= words[0] ^ words[1] ^ words[2] ^ (uint32_t)address->port << 16;
	return words[3] * 0x9e3779b1u;
}

union socket_address udp_address_for(int family, const struct udp_address *address)
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

socklen_t udp_address_size(int family)
{
	return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

void udp_address_print(char *text, size_t size, const struct udp_address *address)
{
	char ip[INET6_ADDRSTRLEN];
	unsigned port = ntohs(address->port);

	if (udp_address_is_v4(address)) {
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

static int port_parse(const struct link_spec *spec, const char *text, uint16_t *port, char *error)
{
	size_t digits = strspn(text, "0123456789");
	bool number = digits && digits < 6 && !text[digits];
	unsigned long value = number ? strtoul(text, NULL, 10) : 0;

	if (!number || value > UINT16_MAX)
		return link_fail(error, spec, -EINVAL,
				 "\"%.16s\" is no port: it is a number up to 65535", text);
	*port = (uint16_t)value;
	return 0;
}

/* Take HOST:PORT apart; without a port, @port is left as it is. */
static int host_parse(const struct link_spec *spec, char host[HOST_MAX], uint16_t *port,
		      char *error)
{
	bool brackets = spec->target[0] == '[';
	const char *start = spec->target + brackets;
	const char *end = start + strcspn(start, brackets ? "]" : ":");
	size_t len = (size_t)(end - start);

	if (brackets && *end++ != ']')
		return link_fail(error, spec, -EINVAL,
				 "the bracket is not closed: write [ADDRESS]:PORT");
	if (len >= HOST_MAX)
		return link_fail(error, spec, -EINVAL, "the host's name is too long");
	memcpy(host, start, len);
	host[len] = '\0';
	if (!*end)
		return 0;
	if (*end != ':')
		return link_fail(error, spec, -EINVAL, "only :PORT may follow the bracket");
	if (!brackets && strchr(end + 1, ':'))
		return link_fail(error, spec, -EINVAL,
				 "an IPv6 address stands in brackets: write [ADDRESS]:PORT");
	return port_parse(spec, end + 1, port, error);
}

/* The first address of a host; numeric ones by a call that neither opens files nor asks the
 * network. */
static int host_resolve(const struct link_spec *spec, const char *host, int family,
			union socket_address *sa, char *error)
{
	struct addrinfo hints = {
	    .ai_family = family, .ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST};
	struct addrinfo *found;
	int err = getaddrinfo(host, NULL, &hints, &found);

	if (err == EAI_NONAME) {
		hints.ai_flags = 0;
		err = getaddrinfo(host, NULL, &hints, &found);
	}
	if (err)
		return link_fail(error, spec, -EHOSTUNREACH,
				 "the host is not found%s (%s): check the name",
				 family == AF_INET    ? " in IPv4"
				 : family == AF_INET6 ? " in IPv6"
						      : "",
				 gai_strerror(err));
	memcpy(sa, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	return 0;
}

int udp_address_read(const struct link_spec *spec, int family, uint16_t default_port,
		     union socket_address *sa, char error[LINK_ERROR_MAX])
{
	char host[HOST_MAX] = "";
	uint16_t port = default_port;
	int err = host_parse(spec, host, &port, error);

	*sa = (union socket_address){.v6 = {.sin6_family = AF_INET6}};
	if (!err && *host)
		err = host_resolve(spec, host, family, sa, error);
	if (err)
		return err;
	if (sa->any.sa_family == AF_INET)
		sa->v4.sin_port = htons(port);
	else
		sa->v6.sin6_port = htons(port);
	return 0;
}

bool udp_address_is_name(const struct link_spec *spec)
{
	const struct addrinfo numeric = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST};
	char host[HOST_MAX] = "", error[LINK_ERROR_MAX];
	struct addrinfo *found;
	uint16_t port;
	int err;

	if (host_parse(spec, host, &port, error) || !*host)
		return false;
	err = getaddrinfo(host, NULL, &numeric, &found);
	if (!err)
		freeaddrinfo(found);
	return err == EAI_NONAME;
}
