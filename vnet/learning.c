/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The source address of what comes in by a port is behind that port. Addresses that were not seen
 * for LEARNING_AGE_NS are forgotten; when the table is full, no new ones are learnt until then, so
 * that a flood of invented addresses costs the flooder's own destinations and not those of others.
 *
 * An address that is seen here and there in turn is a loop, a duplicate, or somebody who wants its
 * frames. One that moved is silent where it was. So an address stays where it is as long as it is
 * seen there, and is followed only once it was silent for LEARNING_STAY_NS: in a loop the copy that
 * came first, by the shortest way, decides, and whoever invents another's address gets nothing
 * while that other one talks.
 */
#include <stdlib.h>

#include "vnet/aged_table.h"
#include "vnet/learning.h"
#include "vnet/mac.h"

struct learnt {
	struct aged_entry aged;
	uint32_t port;
	uint64_t here_ns; /* last seen at the port; aged.seen_ns is not kept up that closely */
};

struct learning {
	struct aged_table *macs;
	struct core_counters *counters;
};

struct learning *learning_create(struct core_counters *counters)
{
	struct learning *learning = calloc(1, sizeof(*learning));

	if (!learning)
		return NULL;
	learning->counters = counters;
	learning->macs = aged_table_create(sizeof(struct learnt), LEARNING_MACS, LEARNING_AGE_NS);
	if (!learning->macs) {
		free(learning);
		return NULL;
	}
	return learning;
}

void learning_destroy(struct learning *learning)
{
	if (!learning)
		return;
	aged_table_destroy(learning->macs);
	free(learning);
}

static bool learn(struct learning *learning, uint64_t source, unsigned port, uint64_t now)
{
	struct learnt *new = aged_table_add(learning->macs, source, 0, now);

	if (!new) {
		learning->counters->full++;
		return false;
	}
	new->port = port;
	new->here_ns = now;
	learning->counters->learnt++;
	return true;
}

/* The address shows up elsewhere: follow it, if it has left. */
static bool follow(struct learning *learning, struct learnt *known, unsigned port, uint64_t now)
{
	if (now - known->here_ns < LEARNING_STAY_NS) {
		learning->counters->held++;
		return false;
	}
	known->port = port;
	known->here_ns = now;
	learning->counters->moved++;
	aged_table_touch(learning->macs, known, now);
	return true;
}

bool learning_see(struct learning *learning, uint64_t source, unsigned port, uint64_t now)
{
	struct learnt *known;

	if (mac_is_multicast(source) || !source)
		return false;
	known = aged_table_find(learning->macs, source, 0);
	if (!known)
		return learn(learning, source, port, now);
	if (known->port != port)
		return follow(learning, known, port, now);
	known->here_ns = now;
	aged_table_touch(learning->macs, known, now);
	return false;
}

bool learning_age(struct learning *learning, uint64_t now)
{
	struct learnt *dead;
	bool any = false;

	while ((dead = aged_table_expired(learning->macs, now))) {
		aged_table_remove(learning->macs, dead);
		learning->counters->aged++;
		any = true;
	}
	return any;
}

unsigned learning_find(const struct learning *learning, uint64_t mac)
{
	const struct learnt *known = aged_table_find(learning->macs, mac, 0);

	return known ? known->port : LEARNING_NOWHERE;
}

void learning_forget(struct learning *learning, unsigned port)
{
	struct learnt *next = aged_table_next(learning->macs, NULL);

	while (next) {
		struct learnt *known = next;

		next = aged_table_next(learning->macs, known);
		if (known->port == port)
			aged_table_remove(learning->macs, known);
	}
}

void learning_visit(const struct learning *learning, uint64_t now,
		    void (*visit)(void *context, uint64_t mac, unsigned port, uint64_t age_ns),
		    void *context)
{
	const struct learnt *known = NULL;

	while ((known = aged_table_next(learning->macs, known))) {
		uint64_t age = now - known->aged.seen_ns;

		if (age < LEARNING_AGE_NS)
			visit(context, known->aged.key[0], known->port, age);
	}
}
