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

/* A part of a frame, from its first byte on. */
struct udp_start {
	struct udp_peer *peer;
	struct geneve_extras extras;
	const uint8_t *data;
	size_t len;
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
/* udp_land_came - @n messages came; others' room is given back. */
void udp_land_came(struct udp_lander *l, struct mmsghdr messages[], unsigned n);
/* udp_land_take - message number @i, which was prepared, came; @peer: whose it is, or NULL. Returns
 * false if it is not what was laid out for: it lies in ordinary memory then, at @arrival->data, and
 * is to be taken as any other. */
bool udp_land_take(struct udp_lander *l, unsigned i, struct udp_peer *peer,
		   struct udp_arrival *arrival);
/* udp_land_frame - the frame that such a message is, valid until udp_land_end(); NULL: more of it
 * is to come, it is held. None may be held before. */
struct frame *udp_land_frame(struct udp_lander *l, unsigned i);
/* udp_land_join - a part came in ordinary memory. Returns true if it was the next one of the frame
 * that is held, and is copied there; @frame: set if it was the last. */
bool udp_land_join(struct udp_lander *l, const struct udp_peer *peer,
		   const struct geneve_extras *extras, const uint8_t *data, size_t len,
		   struct frame **frame);
/* udp_land_give_up - the frame that is held is not to land: @start is what came of it, valid until
 * udp_land_end(). Returns false when there is none. */
bool udp_land_give_up(struct udp_lander *l, struct udp_start *start);
/* udp_land_stale - is a frame held that waited for all of this batch? */
bool udp_land_stale(const struct udp_lander *l);
/* udp_land_end - the batch is delivered. */
void udp_land_end(struct udp_lander *l);
/* udp_land_forget - the peer goes. */
void udp_land_forget(struct udp_lander *l, const struct udp_peer *peer);

#endif
