/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A route becomes a rule: its score (a number that orders all ranks and priorities), its addresses
 * as integers, and its ports as places. A place is a name that occurs in the routes, interned; the
 * first ones stand for "all", "nics", "links" and "drop". So the routes are compiled without
 * knowing any port, by any thread; when the core takes the table into use, and whenever a port
 * comes or goes, only the place of its name is pointed at it (bind).
 *
 * Lookup is tuple space search (Srinivasan et al., SIGCOMM '99). A rule has one of twelve shapes:
 * source exact or not, destination exact or not, ingress any, a kind, or a name. All rules of a
 * shape that could take the same frame have the same key, lie side by side (a chain), best first,
 * and are found by one probe of one hash table. The shapes that occur are tried in the order of the
 * best rule they have, until no better one is left. "not" patterns are in the shape of "any" and
 * are looked at in the chain.
 *
 * All rules of a chain that have the best score are neighbours: a run, which its first rule names.
 * What takes a frame is a run of each shape at most, so it can be remembered (flow cache) and
 * counted later.
 *
 * A table is immutable after routes_build() but for its places and counters, which belong to the
 * core's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/mac.h"
#include "vnet/route_table.h"

#define NO_INDEX UINT32_MAX
#define NO_MAC	 UINT64_MAX /* an address no frame has */
#define SEED	 UINT64_C(0xa0761d6478bd642f)

/* Places with a meaning of their own; as an ingress, the first is "any". */
enum { PLACE_ALL, PLACE_NICS, PLACE_LINKS, PLACE_DROP, PLACE_NAMES };

enum ingress { INGRESS_ANY, INGRESS_KIND, INGRESS_NAME };

struct rule {
	uint64_t key[2]; /* addresses, ingress, shape: key_make() */
	uint64_t not_source, not_destination;
	uint64_t frames, bytes;
	uint32_t route; /* as the user numbers them */
	uint32_t out;	/* place */
	uint32_t in;	/* place; here for the listing only */
	int score;
};

struct place {
	const char *name; /* in the table's entries */
	uint32_t chain;
	uint32_t port; /* index in the core, or NO_INDEX */
};

struct shape {
	bool source, destination; /* exact? */
	enum ingress ingress;
	int best; /* score */
};

struct route_table {
	struct route_entry *entries;
	struct rule *rules; /* sorted by key, score (best first) */
	struct place *places;
	uint32_t *slots;	/* hash table of the first rules of chains: position + 1, or 0 */
	uint32_t *place_chains; /* hash table of places: index, or 0 */
	size_t n, slot_count, place_count, chain_count;
	struct shape shapes[ROUTE_SHAPES];
	unsigned shape_count;
	uint32_t place_of[CORE_PORTS_MAX]; /* of each port; 0: no route names it */
};

/* --- compiling ------------------------------------------------------------------------------ */

static uint64_t name_hash(const char *name)
{
	uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * UINT64_C(1099511628211);
	return hash ^ hash >> 32;
}

static uint32_t place_find(const struct route_table *table, const char *name)
{
	uint32_t place = table->place_chains[name_hash(name) & (table->chain_count - 1)];

	while (place && strcmp(table->places[place].name, name) != 0)
		place = table->places[place].chain;
	return place;
}

/* The place of a name that means something by itself, or PLACE_NAMES. */
static uint32_t place_special(const char *name)
{
	static const char *const special[PLACE_NAMES] = {"all", "nics", "links", "drop"};
	uint32_t place = 0;

	while (place < PLACE_NAMES && strcmp(name, special[place]) != 0)
		place++;
	return place;
}

bool route_name_reserved(const char *name)
{
	return place_special(name) < PLACE_NAMES;
}

/* The place of a name, made if need be. */
static uint32_t place_intern(struct route_table *table, const char *name)
{
	uint32_t place = place_special(name);
	uint32_t *chain = &table->place_chains[name_hash(name) & (table->chain_count - 1)];

	if (place < PLACE_NAMES)
		return place;
	place = place_find(table, name);
	if (place)
		return place;
	place = (uint32_t)table->place_count++;
	table->places[place] = (struct place){.name = name, .chain = *chain, .port = NO_INDEX};
	return *chain = place;
}

static bool pattern_valid(const struct mac_pattern *pattern)
{
	return pattern->match == MAC_ANY || pattern->match == MAC_EXACT ||
	       pattern->match == MAC_NOT || pattern->match == MAC_NONE;
}

static bool route_valid(const struct route *route)
{
	return pattern_valid(&route->source) && pattern_valid(&route->destination) &&
	       memchr(route->in, 0, PORT_NAME_MAX) && memchr(route->out, 0, PORT_NAME_MAX) &&
	       route->out[0] && strcmp(route->in, "all") != 0 && strcmp(route->in, "drop") != 0 &&
	       route->priority >= 0 && route->priority <= 1000;
}

static int route_score(const struct route *route)
{
	const enum mac_match source = route->source.match, destination = route->destination.match;

	if (source == MAC_NONE || destination == MAC_NONE)
		return SCORE_DEFAULT + route->priority;
	if (route->priority)
		return SCORE_BEST + route->priority;
	if (source == MAC_EXACT && destination == MAC_EXACT)
		return SCORE_BEST;
	if (destination == MAC_EXACT)
		return SCORE_DESTINATION;
	if (source == MAC_EXACT)
		return SCORE_SOURCE;
	return source == MAC_NOT || destination == MAC_NOT ? SCORE_NOT : SCORE_ANY;
}

/* What a shape has not is zero in its keys. */
static void key_make(uint64_t key[2], const struct shape *shape, uint64_t source,
		     uint64_t destination, uint32_t in)
{
	uint64_t bits = (uint64_t)in << 4 | (uint64_t)shape->ingress << 2 |
			(uint64_t)shape->source << 1 | shape->destination;

	key[0] = (shape->destination ? destination : 0) | bits << 48;
	key[1] = (shape->source ? source : 0) | bits >> 16 << 48;
}

static struct shape route_shape(const struct rule *rule, const struct route *route)
{
	struct shape shape = {
	    .source = route->source.match == MAC_EXACT,
	    .destination = route->destination.match == MAC_EXACT,
	    .ingress = INGRESS_NAME,
	    .best = rule->score,
	};

	if (rule->in < PLACE_NAMES)
		shape.ingress = rule->in == PLACE_ALL ? INGRESS_ANY : INGRESS_KIND;
	return shape;
}

static void shape_note(struct route_table *table, const struct shape *shape)
{
	for (unsigned i = 0; i < table->shape_count; i++) {
		struct shape *known = &table->shapes[i];

		if (known->source != shape->source || known->destination != shape->destination ||
		    known->ingress != shape->ingress)
			continue;
		if (known->best < shape->best)
			known->best = shape->best;
		return;
	}
	table->shapes[table->shape_count++] = *shape;
}

static uint64_t pattern_not(const struct mac_pattern *pattern)
{
	return pattern->match == MAC_NOT ? mac_load(pattern->mac) : NO_MAC;
}

static void rule_compile(struct route_table *table, uint32_t index)
{
	const struct route *route = &table->entries[index].route;
	struct rule *rule = &table->rules[index];
	struct shape shape;

	rule->route = index;
	rule->score = route_score(route);
	rule->in = route->in[0] ? place_intern(table, route->in) : PLACE_ALL;
	rule->out = place_intern(table, route->out);
	rule->not_source = pattern_not(&route->source);
	rule->not_destination = pattern_not(&route->destination);
	shape = route_shape(rule, route);
	key_make(rule->key, &shape, mac_load(route->source.mac), mac_load(route->destination.mac),
		 rule->in);
	shape_note(table, &shape);
}

static int order(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static bool same_chain(const struct rule *a, const struct rule *b)
{
	return a->key[0] == b->key[0] && a->key[1] == b->key[1];
}

static int rule_compare(const void *left, const void *right)
{
	const struct rule *a = left, *b = right;
	int by = order(a->key[0], b->key[0]);

	if (!by)
		by = order(a->key[1], b->key[1]);
	if (!by)
		by = b->score - a->score;
	return by ? by : order(a->route, b->route);
}

static int shape_compare(const void *left, const void *right)
{
	return ((const struct shape *)right)->best - ((const struct shape *)left)->best;
}

/* The slot where the chain of a key is, or would be. */
static uint32_t *slot_find(const struct route_table *table, const uint64_t key[2])
{
	size_t i = key_hash(key, SEED);

	for (;; i++) {
		uint32_t *slot = &table->slots[i & (table->slot_count - 1)];

		if (!*slot || (table->rules[*slot - 1].key[0] == key[0] &&
			       table->rules[*slot - 1].key[1] == key[1]))
			return slot;
	}
}

static int table_allocate(struct route_table *table, size_t n)
{
	table->n = n;
	table->slot_count = table->chain_count = 2;
	while (table->slot_count < 2 * n)
		table->slot_count *= 2;
	while (table->chain_count < n)
		table->chain_count *= 2;
	table->place_count = PLACE_NAMES;
	table->entries = calloc(n + 1, sizeof(*table->entries)); /* + 1: never of zero bytes */
	table->rules = calloc(n + 1, sizeof(*table->rules));
	table->places = calloc(2 * n + PLACE_NAMES, sizeof(*table->places));
	table->slots = calloc(table->slot_count, sizeof(*table->slots));
	table->place_chains = calloc(table->chain_count, sizeof(*table->place_chains));
	return table->entries && table->rules && table->places && table->slots &&
		       table->place_chains
		   ? 0
		   : -ENOMEM;
}

static void table_compile(struct route_table *table)
{
	for (uint32_t i = 0; i < table->n; i++)
		rule_compile(table, i);
	qsort(table->rules, table->n, sizeof(*table->rules), rule_compare);
	qsort(table->shapes, table->shape_count, sizeof(*table->shapes), shape_compare);
	for (uint32_t i = 0; i < table->n; i++)
		if (!i || !same_chain(&table->rules[i - 1], &table->rules[i]))
			*slot_find(table, table->rules[i].key) = i + 1;
}

struct route_table *routes_build(const struct route *routes, size_t n)
{
	struct route_table *table;

	if (n > ROUTES_MAX) {
		errno = E2BIG;
		return NULL;
	}
	table = calloc(1, sizeof(*table));
	if (!table || table_allocate(table, n)) {
		routes_destroy(table);
		errno = ENOMEM;
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		if (!route_valid(&routes[i])) {
			routes_destroy(table);
			errno = EINVAL;
			return NULL;
		}
		table->entries[i].route = routes[i];
	}
	table_compile(table);
	return table;
}

void routes_destroy(struct route_table *table)
{
	if (!table)
		return;
	free(table->entries);
	free(table->rules);
	free(table->places);
	free(table->slots);
	free(table->place_chains);
	free(table);
}

/* --- use ------------------------------------------------------------------------------------ */

void route_table_bind(struct route_table *table, const struct port *port)
{
	uint32_t place = place_find(table, port->name);

	table->place_of[port->index] = place;
	if (place)
		table->places[place].port = port->index;
}

void route_table_unbind(struct route_table *table, const struct port *port)
{
	uint32_t place = table->place_of[port->index];

	table->place_of[port->index] = 0;
	if (place)
		table->places[place].port = NO_INDEX;
}

bool route_table_empty(const struct route_table *table)
{
	return !table->n;
}

/* A route whose port is missing is inactive: it takes nothing. */
static bool place_here(const struct route_table *table, uint32_t place)
{
	return place < PLACE_NAMES || table->places[place].port != NO_INDEX;
}

static bool rule_takes(const struct route_table *table, const struct rule *rule,
		       const struct flow_key *flow)
{
	return rule->not_source != flow->source && rule->not_destination != flow->destination &&
	       place_here(table, rule->out);
}

static void decision_add(struct decision *decision, const struct route_table *table,
			 const struct port_kinds *kinds, uint32_t place)
{
	switch (place) {
	case PLACE_ALL:
		port_set_join(&decision->to, &kinds->all);
		break;
	case PLACE_NICS:
		port_set_join(&decision->to, &kinds->nics);
		break;
	case PLACE_LINKS:
		port_set_join(&decision->to, &kinds->links);
		break;
	case PLACE_DROP:
		break;
	default:
		port_set_add(&decision->to, table->places[place].port);
	}
}

/* The first rule of a shape's chain for a flow, or the end of the rules. */
static uint32_t chain_find(const struct route_table *table, const struct shape *shape,
			   const struct flow_key *flow)
{
	uint32_t in = PLACE_ALL, slot;
	uint64_t key[2];

	if (shape->ingress == INGRESS_NAME)
		in = table->place_of[flow->in->index];
	else if (shape->ingress == INGRESS_KIND)
		in = flow->in->kind == PORT_LINK ? PLACE_LINKS : PLACE_NICS;
	key_make(key, shape, flow->source, flow->destination, in);
	slot = *slot_find(table, key);
	return slot ? slot - 1 : (uint32_t)table->n;
}

/* Take in what a chain has for a flow, if that is as good as what was found before, or better. */
static void chain_match(const struct route_table *table, const struct port_kinds *kinds,
			const struct flow_key *flow, uint32_t first, struct decision *decision)
{
	bool running = false;

	for (uint32_t i = first; i < table->n; i++) {
		const struct rule *rule = &table->rules[i];

		if (rule->score < decision->score || !same_chain(rule, &table->rules[first]))
			return;
		if (!rule_takes(table, rule, flow))
			continue;
		if (rule->score > decision->score)
			*decision = (struct decision){.score = rule->score};
		if (!running)
			decision->run[decision->runs++] = i;
		running = true;
		decision_add(decision, table, kinds, rule->out);
	}
}

void route_table_match(const struct route_table *table, const struct port_kinds *kinds,
		       const struct flow_key *flow, struct decision *decision)
{
	*decision = (struct decision){.score = SCORE_NO_MATCH};
	for (unsigned i = 0; i < table->shape_count; i++) {
		const struct shape *shape = &table->shapes[i];

		if (shape->best < decision->score)
			return;
		chain_match(table, kinds, flow, chain_find(table, shape, flow), decision);
	}
}

/* The next rule at or behind position @i of a run that takes the flow, or NULL. */
static struct rule *run_next(const struct route_table *table, const struct flow_key *flow,
			     uint32_t run, uint32_t i)
{
	for (; i < table->n; i++) {
		struct rule *rule = &table->rules[i];

		if (rule->score != table->rules[run].score || !same_chain(rule, &table->rules[run]))
			return NULL;
		if (rule_takes(table, rule, flow))
			return rule;
	}
	return NULL;
}

void route_table_count(struct route_table *table, const struct flow_key *flow, const uint32_t run[],
		       unsigned runs, uint32_t bytes)
{
	for (unsigned r = 0; r < runs; r++) {
		struct rule *rule = run_next(table, flow, run[r], run[r]);

		for (; rule;
		     rule = run_next(table, flow, run[r], (uint32_t)(rule - table->rules) + 1)) {
			rule->frames++;
			rule->bytes += bytes;
		}
	}
}

uint32_t route_table_taker(const struct route_table *table, const struct flow_key *flow,
			   uint32_t run, uint32_t *at)
{
	const struct rule *rule = run_next(table, flow, run, *at);

	if (!rule)
		return UINT32_MAX;
	*at = (uint32_t)(rule - table->rules) + 1;
	return rule->route;
}

size_t route_table_entries(struct route_table *table, const struct route_entry **entries)
{
	for (size_t i = 0; i < table->n; i++) {
		const struct rule *rule = &table->rules[i];
		struct route_entry *entry = &table->entries[rule->route];

		entry->active = place_here(table, rule->in) && place_here(table, rule->out);
		entry->frames = rule->frames;
		entry->bytes = rule->bytes;
	}
	*entries = table->entries;
	return table->n;
}
