/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A batch on its way from frames to messages for the kernel: udp_pack.c fills it, udp_send.c sends
 * it. */
#ifndef WEFT_UDP_PACK_H
#define WEFT_UDP_PACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "vnet/udp.h"

#define SEND_MESSAGES 256u
#define SEND_IOVECS   4096u
#define SEND_HEADERS  (128u << 10) /* bytes */
#define SEND_SCRATCH  (1u << 20)   /* bytes, for sealed datagrams */

/* What is known of a message besides its msghdr. */
struct udp_message {
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
	struct udp_message messages[SEND_MESSAGES];
	struct iovec iov[SEND_IOVECS];
	uint8_t headers[SEND_HEADERS];
	unsigned count, iov_used;
	size_t headers_used, scratch_used;
	bool single; /* no trains, for the rest of this batch */
	uint64_t now_ns;
	uint8_t *scratch; /* sealed datagrams; NULL without a key */
	uint8_t control[UDP_DATAGRAM_MAX + SEAL_OVERHEAD]; /* a sealed session message */
};

/**
 * udp_pack - pack frames of a batch, from number @next on, as many as fit in one round.
 * What cannot cross is dropped and counted. Returns the first frame that is left, @n if none is.
 */
unsigned udp_pack(struct udp_peer *peer, struct frame *const frames[], unsigned next, unsigned n);

#endif
