/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The compiled routes as the core uses them. Core's thread. */
#ifndef WEFT_ROUTE_TABLE_H
#define WEFT_ROUTE_TABLE_H

#include "vnet/core.h"
#include "vnet/port_set.h"

/* Ways in which routes fix the source, the destination (exact or not) and the ingress (any, kind,
 * name). */
#define ROUTE_SHAPES 12u

/* Scores of a route by its rank; what has a priority is SCORE_BEST + priority, a default route its
 * priority. */
enum route_score {
	SCORE_NO_MATCH = -1,
	SCORE_DEFAULT = 0,
	SCORE_ANY = 1001,
	SCORE_NOT,
	SCORE_SOURCE,
	SCORE_DESTINATION,
	SCORE_BEST,
};

/* The sets that "all", "nics" and "links" stand for. */
struct port_kinds {
	struct port_set all, nics, links;
};

/* Whom routes are asked about. */
struct flow_key {
	uint64_t source, destination; /* mac_load() */
	const struct port *in;
};

/* What routes say of a flow. */
struct decision {
	struct port_set to; /* may have the ingress in it */
	int score;	    /* of the routes that matched, or SCORE_NO_MATCH */
	unsigned runs;
	uint32_t run[ROUTE_SHAPES]; /* where those that take it begin */
};

/* route_name_reserved - does the name mean something other than a port? */
bool route_name_reserved(const char *name);
/* route_table_bind - the names of ports that are this port's mean it from now on. */
void route_table_bind(struct route_table *table, const struct port *port);
/* route_table_unbind - the port goes; its routes become inactive. */
void route_table_unbind(struct route_table *table, const struct port *port);
/* route_table_empty - are there no routes at all? */
bool route_table_empty(const struct route_table *table);

/* route_table_match - find the best routes for a flow. Time does not depend on the number of
 * routes, but on how many have the same pattern; all with "not" on one side and no exact address on
 * the other are such. */
void route_table_match(const struct route_table *table, const struct port_kinds *kinds,
		       const struct flow_key *flow, struct decision *decision);
/* route_table_count - count a frame of @bytes for the routes that take it: @run as found for the
 * same flow. */
void route_table_count(struct route_table *table, const struct flow_key *flow, const uint32_t run[],
		       unsigned runs, uint32_t bytes);
/* route_table_taker - visit them instead: returns the first route (an index into the entries) of a
 * run at or after position @*at of the table, and moves @*at behind it; UINT32_MAX at the run's
 * end. */
uint32_t route_table_taker(const struct route_table *table, const struct flow_key *flow,
			   uint32_t run, uint32_t *at);
/* route_table_entries - the listing, brought up to date. */
size_t route_table_entries(struct route_table *table, const struct route_entry **entries);

#endif
