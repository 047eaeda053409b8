/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which IP address has which MAC address, and answers to those who ask. Core's thread. */
#ifndef WEFT_NEIGHBOURS_H
#define WEFT_NEIGHBOURS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/frame.h"

#define NEIGHBOURS_MAX	    8192u /* more are not remembered */
#define NEIGHBOURS_AGE_NS   (UINT64_C(300) * 1000000000)
#define NEIGHBOURS_QUIET_NS (UINT64_C(30) * 1000000000) /* after an address changed hands */
#define NEIGHBOUR_REPLY_MAX 86u /* bytes: an advertisement with one option */

struct neighbours;

/* A question that can be answered here. */
struct neighbour_question {
	bool ipv6;
	bool router;			     /* IPv6: the target said that it is one */
	uint64_t asker, target;		     /* MAC addresses, mac_load() */
	uint8_t asker_ip[16], target_ip[16]; /* IPv4: mapped (::ffff:a.b.c.d) */
};

/* neighbours_create - NULL with errno ENOMEM. */
struct neighbours *neighbours_create(void);
void neighbours_destroy(struct neighbours *neighbours);
/**
 * neighbours_see - learn from a frame that came in by a port, and tell whether it asks for what is
 * known.
 * @port: the index of the ingress
 * True: the frame asks everybody (ARP request to the broadcast address, neighbour solicitation to
 * the solicited-node address), and @question says what for; known there means alive and behind
 * another port.
 */
bool neighbours_see(struct neighbours *neighbours, const struct frame *frame, unsigned port,
		    uint64_t now, struct neighbour_question *question);
/* neighbours_age - forget who was not heard of for long. */
void neighbours_age(struct neighbours *neighbours, uint64_t now);
/* neighbours_forget - forget all that was heard by a port. */
void neighbours_forget(struct neighbours *neighbours, unsigned port);
/* neighbour_answer - the frame that the target would send; returns its length. */
size_t neighbour_answer(const struct neighbour_question *question,
			uint8_t reply[NEIGHBOUR_REPLY_MAX]);

#endif
