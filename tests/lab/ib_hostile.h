/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs have in common that mean harm to weft's InfiniBand links. */
#ifndef WEFT_IB_HOSTILE_H
#define WEFT_IB_HOSTILE_H

#include <arpa/inet.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <rdma/rdma_cma.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vnet/geneve.h"
#include "vnet/packet.h"
#include "vnet/session_message.h"

#define PORT	6081
#define VNI	1u
#define WINDOW	32u /* weft's, and what we say is ours */
#define SESSION 1u  /* the id of ours */

/* The private data of a request: vnet/ib_connection.c. */
struct hello {
	uint8_t magic[4], version, reason, port[2], vni[4], window[4], qpn[4], instance[8];
};

__attribute__((format(printf, 2, 3))) static inline void check(bool good, const char *format, ...)
{
	va_list args;

	if (good)
		return;
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, " (%s)\n", strerror(errno));
	exit(1);
}

static inline void pause_ms(long ms)
{
	const struct timespec time = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

/* A request that always wins against one of weft's own that crosses it. */
static inline struct hello hello_make(void)
{
	struct hello hello = {.magic = {'w', 'e', 'f', 't'}, .version = 1};

	packet_put16(hello.port, PORT);
	packet_put32(hello.vni, VNI);
	packet_put32(hello.window, WINDOW);
	memset(hello.instance, 0xff, sizeof(hello.instance));
	return hello;
}

/* Port 0. */
static inline struct sockaddr *address_of(const char *host, struct sockaddr_in *in)
{
	*in = (struct sockaddr_in){.sin_family = AF_INET};
	check(inet_pton(AF_INET, host, &in->sin_addr) == 1, "no address: %s", host);
	return (struct sockaddr *)in;
}

/* What a peer says to @heard, of weft's; returns its length. */
static inline uint32_t session_hello(uint8_t out[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE],
				     const struct session_message *heard)
{
	const struct geneve_extras extras = {.control = true};
	struct session_message hello = {.type = SESSION_HELLO,
					.session = SESSION,
					.peer = heard->session,
					.sequence = heard->sequence,
					.time = heard->time,
					.self = {.offloads = PORT_OFFLOADS,
						 .frame_max = FRAME_SIZE_MAX,
						 .features = SESSION_HOPS}};
	size_t header = geneve_build(out, VNI, &extras);

	memset(out + header, 0, SESSION_HELLO_SIZE);
	session_message_build(out + header, &hello);
	return (uint32_t)(header + SESSION_HELLO_SIZE);
}

#endif
