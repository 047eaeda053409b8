/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Routes (VNET/P, HPDC'12, section 4.2, without its faults): which ports a frame goes to. */
#ifndef WEFT_ROUTES_H
#define WEFT_ROUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/port.h"

#define ROUTES_MAX 65536u

enum mac_match {
	MAC_ANY,
	MAC_EXACT,
	MAC_NOT,  /* any but @mac */
	MAC_NONE, /* the default route: taken only where no other route matched */
};

struct mac_pattern {
	enum mac_match match;
	uint8_t mac[FRAME_MAC_SIZE]; /* MAC_EXACT, MAC_NOT */
};

/*
 * One route. All routes of the best rank that match receive the frame. Rank, best first: a higher explicit
 * priority; then exact/exact, any/exact destination, exact source/any, those with "not", any/any, "none".
 * (A pattern of "not" or exact on one side with anything else on the other ranks by its better side.)
 * A route with "none" on a side is a default route whatever its priority, which is among default routes.
 */
struct route {
	struct mac_pattern source, destination;
	char in[PORT_NAME_MAX];  /* only frames from this port; "": any, "links", "nics" (not "all", "drop") */
	char out[PORT_NAME_MAX]; /* a port's name, "all" (every port but the ingress), "nics", "links", "drop" */
	int priority;            /* 0: by rank; otherwise 1..1000, higher is better than any rank */
};

#endif
