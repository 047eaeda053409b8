/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Receiving into a guest's buffers: udp_land.c lays messages out before they come and says what
 * became of them, udp_receive.c takes them.
 */
#ifndef WEFT_UDP_LAND_H
#define WEFT_UDP_LAND_H

#include "vnet/udp.h"

#define UDP_RECEIVE_BUFFER 65536u /* bytes; a UDP datagram or train is always shorter */
#define UDP_LAND_MESSAGES  8u	  /* laid out for at most, in a batch */

struct udp_lander; /* of an endpoint */

/* A message as it came. */
struct udp_arrival {
	struct udp_address from;
	uint8_t *data;
	size_t len, segment; /* segment: of each datagram but the last; 0: it is just one */
	bool truncated;
};

/* What is to be done about a message that was laid out for: nothing yet, or one of the two. */
struct udp_landed {
	struct frame *frame; /* complete, of @peer */
	unsigned
	    arrival_count; /* else these are in ordinary memory now, to be taken as others are */
	struct udp_arrival arrivals[2];
};

/* udp_lander_create - NULL with errno set. */
struct udp_lander *udp_lander_create(void);
/* udp_lander_destroy - NULL is fine. */
void udp_lander_destroy(struct udp_lander *l);

/* udp_land_learn - a message of a peer came in ordinary memory: see what its large frames look
 * like. */
void udp_land_learn(struct udp_lander *l, struct udp_peer *peer, const struct udp_arrival *arrival);
/* udp_land_prepare - point the first messages of a batch at a guest's buffers. Returns how many,
 * 0..UDP_LAND_MESSAGES. */
unsigned udp_land_prepare(struct udp_lander *l, struct mmsghdr messages[]);
/* udp_land_came - the first @n messages came, with their lengths; the others' room is given back.
 */
void udp_land_came(struct udp_lander *l, const struct mmsghdr messages[], unsigned n);
/* udp_land_take - what message number @i turned out to be; @peer: whose it is, or NULL. To be
 * called in order for each that was prepared and came. The frame is valid until udp_land_end(). */
struct udp_landed udp_land_take(struct udp_lander *l, unsigned i, const struct udp_peer *peer,
				const struct udp_arrival *arrival);
/* udp_land_end - the batch is delivered; @messages are as before udp_land_prepare(). */
void udp_land_end(struct udp_lander *l, struct mmsghdr messages[]);
/* udp_land_forget - the peer goes. */
void udp_land_forget(struct udp_lander *l, const struct udp_peer *peer);

#endif
