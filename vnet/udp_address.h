/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses of UDP links: as the user writes them, as they are compared, and as a socket takes
 * them. */
#ifndef WEFT_UDP_ADDRESS_H
#define WEFT_UDP_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "vnet/link.h"

/* Where a datagram comes from or goes to. */
struct udp_address {
	struct in6_addr ip; /* IPv4 is mapped: RFC 4291, 2.5.5.2 */
	uint32_t scope;	    /* interface index of a link-local address, otherwise 0 */
	uint16_t port;	    /* network byte order */
};

union socket_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct udp_address udp_address_of(const union socket_address *sa);
bool udp_address_equal(const struct udp_address *a, const struct udp_address *b);
bool udp_address_is_v4(const struct udp_address *address);
/* udp_address_hash - only of addresses that the user named: it need not withstand an attacker. */
uint32_t udp_address_hash(const struct udp_address *address);
/* udp_address_print - "udp://ADDRESS:PORT", IPv6 in brackets. */
void udp_address_print(char *text, size_t size, const struct udp_address *address);

/* udp_address_for - the form in which a socket of @family takes it; IPv4 ones fit both families. */
union socket_address udp_address_for(int family, const struct udp_address *address);
socklen_t udp_address_size(int family);

/**
 * udp_address_read - what stands in a link's URL: HOST, HOST:PORT, [IPV6], [IPV6]:PORT or :PORT.
 * @family:       what the host may be: AF_INET, AF_INET6, AF_UNSPEC (either)
 * @default_port: where none is written, host byte order
 * @sa:           where it is put; without a host it is any address, in IPv6
 *
 * A name is resolved, once; a numeric address takes no system call. Returns 0, -EINVAL (it makes no
 * sense), -EHOSTUNREACH (the name is not found), with a message in @error.
 */
int udp_address_read(const struct link_spec *spec, int family, uint16_t default_port,
		     union socket_address *sa, char error[LINK_ERROR_MAX]);
/* udp_address_is_name - is there a name that udp_address_read() would have to resolve? */
bool udp_address_is_name(const struct link_spec *spec);

#endif
