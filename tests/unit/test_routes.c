/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Routes: the rank table, replication, filters, and the core against a slow reference. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/core_rig.h"
#include "vnet/mac.h"

#define SOURCE	    core_rig_mac(1)
#define DESTINATION core_rig_mac(2)
#define OTHER	    core_rig_mac(3)

static struct core_rig rig;

/* 0, 1: interfaces; 2, 3, 4: links. */
static void up(void)
{
	core_rig_up(&rig, (struct core_options){0});
	core_rig_attach(&rig, 0, PORT_INTERFACE, "nic0");
	core_rig_attach(&rig, 1, PORT_INTERFACE, "nic1");
	core_rig_attach(&rig, 2, PORT_LINK, "a");
	core_rig_attach(&rig, 3, PORT_LINK, "b");
	core_rig_attach(&rig, 4, PORT_LINK, "c");
}

static void down(void)
{
	core_rig_down(&rig);
}

static struct mac_pattern pattern(enum mac_match match, uint64_t mac)
{
	struct mac_pattern made = {.match = match};

	mac_store(made.mac, mac);
	return made;
}

static struct route route(struct mac_pattern source, struct mac_pattern destination, const char *in,
			  const char *out, int priority)
{
	struct route made = {.source = source, .destination = destination, .priority = priority};

	snprintf(made.in, sizeof(made.in), "%s", in);
	snprintf(made.out, sizeof(made.out), "%s", out);
	return made;
}

static struct route any_to(const char *in, const char *out)
{
	return route(pattern(MAC_ANY, 0), pattern(MAC_ANY, 0), in, out, 0);
}

static void use(const struct route *routes, size_t n)
{
	struct route_table *table = routes_build(routes, n);

	cr_assert_not_null(table);
	routes_destroy(core_routes_swap(rig.core, table));
}

/* The ports that a frame from @place reaches. */
static unsigned reach(unsigned place, uint64_t source, uint64_t destination)
{
	core_rig_clear(&rig);
	core_rig_frame(&rig, 0, source, destination);
	core_rig_send(&rig, place, 1);
	return core_rig_reached(&rig);
}

/* A pattern of each kind that matches @mac. */
static struct mac_pattern matching(enum mac_match match, uint64_t mac)
{
	return pattern(match, match == MAC_NOT ? OTHER : mac);
}

/* As routes.h has it: rank [source][destination], 0 the best. */
static const int ranks[4][4] = {
    /*               any  exact not  none */
    [MAC_ANY] = {4, 1, 3, 5},
    [MAC_EXACT] = {2, 0, 2, 5},
    [MAC_NOT] = {3, 1, 3, 5},
    [MAC_NONE] = {5, 5, 5, 5},
};

/* Lower is better; a default route stays one whatever its priority, which orders default routes
 * only. */
static int standing(int source, int destination, int priority)
{
	int rank = ranks[source][destination];

	if (rank == 5)
		return 5000 - priority;
	return priority ? 1000 - priority : 2000 + rank;
}

static void rank_pair(const int a[3], const int b[3])
{
	const int left = standing(a[0], a[1], a[2]), right = standing(b[0], b[1], b[2]);
	const unsigned expected = left < right ? 1u << 2 : left > right ? 1u << 3 : 3u << 2;
	const struct route routes[2] = {
	    route(matching(a[0], SOURCE), matching(a[1], DESTINATION), "", "a", a[2]),
	    route(matching(b[0], SOURCE), matching(b[1], DESTINATION), "", "b", b[2]),
	};

	use(routes, 2);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), expected, "%d %d %d, %d %d %d", a[0], a[1],
		     a[2], b[0], b[1], b[2]);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), expected); /* from the cache */
}

Test(routes, every_pair_of_ranks, .init = up, .fini = down)
{
	static const int priorities[] = {0, 1, 2, 1000};

	for (int i = 0; i < 64; i++)
		for (int j = 0; j < 64; j++)
			rank_pair((int[3]){i & 3, i >> 2 & 3, priorities[i >> 4]},
				  (int[3]){j & 3, j >> 2 & 3, priorities[j >> 4]});
}

Test(routes, patterns_match_what_they_say, .init = up, .fini = down)
{
	struct route only;

	only = route(pattern(MAC_EXACT, SOURCE), pattern(MAC_EXACT, DESTINATION), "", "a", 0);
	use(&only, 1);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), 1u << 2);
	cr_assert_eq(reach(0, OTHER, DESTINATION), 0);
	cr_assert_eq(reach(0, SOURCE, OTHER), 0);
	cr_assert_eq(rig.ports[0].port.counters.drops[DROP_NO_ROUTE], 2);
	only = route(pattern(MAC_NOT, SOURCE), pattern(MAC_NOT, DESTINATION), "", "a", 0);
	use(&only, 1);
	cr_assert_eq(reach(0, OTHER, OTHER), 1u << 2);
	cr_assert_eq(reach(0, SOURCE, OTHER), 0);
	cr_assert_eq(reach(0, OTHER, DESTINATION), 0);
	only = route(pattern(MAC_EXACT, SOURCE), pattern(MAC_NONE, 0), "", "a", 0);
	use(&only, 1);
	cr_assert_eq(reach(0, SOURCE, OTHER), 1u << 2);
	cr_assert_eq(reach(0, OTHER, OTHER), 0);
}

/* Broadcast and multicast are addresses like any other. */
Test(routes, broadcast_is_no_exception, .init = up, .fini = down)
{
	const struct route routes[] = {
	    route(pattern(MAC_ANY, 0), pattern(MAC_EXACT, MAC_BROADCAST), "", "a", 0),
	    any_to("", "b"),
	};

	use(routes, 2);
	cr_assert_eq(reach(0, SOURCE, MAC_BROADCAST), 1u << 2);
	cr_assert_eq(reach(0, SOURCE, mac_load((uint8_t[]){0x33, 0x33, 0, 0, 0, 1})), 1u << 3);
}

Test(routes, what_out_means, .init = up, .fini = down)
{
	struct route only = any_to("", "all");

	use(&only, 1);
	cr_assert_eq(reach(0, SOURCE, OTHER), 0x1e);
	cr_assert_eq(reach(2, SOURCE, OTHER), 0x1b); /* to links, too: the route says so */
	only = any_to("", "nics");
	use(&only, 1);
	cr_assert_eq(reach(0, SOURCE, OTHER), 0x02);
	cr_assert_eq(reach(2, SOURCE, OTHER), 0x03);
	only = any_to("", "links");
	use(&only, 1);
	cr_assert_eq(reach(0, SOURCE, OTHER), 0x1c);
	cr_assert_eq(reach(2, SOURCE, OTHER), 0x18);
	only = any_to("", "drop");
	use(&only, 1);
	cr_assert_eq(reach(0, SOURCE, OTHER), 0);
	only = any_to("", "a");
	use(&only, 1);
	cr_assert_eq(reach(2, SOURCE, OTHER), 0); /* never back */
	cr_assert_eq(rig.ports[2].port.counters.drops[DROP_NO_ROUTE], 1);
}

Test(routes, ingress_filter, .init = up, .fini = down)
{
	const struct route routes[] = {any_to("nic0", "a"), any_to("links", "nic1"),
				       any_to("nics", "b"), any_to("", "c")};

	use(routes, 4);
	cr_assert_eq(reach(0, SOURCE, OTHER), 1u << 2 | 1u << 3 | 1u << 4);
	cr_assert_eq(reach(1, SOURCE, OTHER), 1u << 3 | 1u << 4);
	cr_assert_eq(reach(2, SOURCE, OTHER), 1u << 1 | 1u << 4);
	use(routes, 1);
	cr_assert_eq(reach(1, SOURCE, OTHER), 0);
}

/* All routes of the best rank take the frame, whatever way they are written; "drop" among them
 * takes nothing away. */
Test(routes, replication, .init = up, .fini = down)
{
	const struct mac_pattern exact = pattern(MAC_EXACT, DESTINATION), any = pattern(MAC_ANY, 0);
	const struct route routes[] = {
	    route(any, exact, "", "a", 0),
	    route(any, exact, "nic0", "b", 0),
	    route(pattern(MAC_NOT, OTHER), exact, "nics", "nic1", 0),
	    route(any, exact, "", "drop", 0),
	    route(any, exact, "", "a", 0), /* twice: once is sent */
	    route(any, any, "", "c", 0),
	};
	const struct route_entry *entries;

	use(routes, 6);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), 1u << 1 | 1u << 2 | 1u << 3);
	cr_assert_eq(rig.ports[2].n, 1);
	cr_assert_eq(core_routes(rig.core, &entries), 6);
	for (unsigned i = 0; i < 6; i++) {
		cr_assert_eq(entries[i].frames, i < 5);
		cr_assert_eq(entries[i].bytes, i < 5 ? 64 : 0);
		cr_assert(entries[i].active);
		cr_assert_str_eq(entries[i].route.out, routes[i].out);
	}
}

Test(routes, ports_come_and_go, .init = up, .fini = down)
{
	const struct route routes[] = {
	    route(pattern(MAC_ANY, 0), pattern(MAC_EXACT, DESTINATION), "", "late", 0),
	    any_to("", "a"),
	    any_to("late", "b"),
	};
	const struct route_entry *entries;

	use(routes, 3);
	core_routes(rig.core, &entries);
	cr_assert(!entries[0].active && entries[1].active && !entries[2].active);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), 1u << 2); /* inactive: the next best */
	core_rig_attach(&rig, 5, PORT_LINK, "late");
	core_routes(rig.core, &entries);
	cr_assert(entries[0].active && entries[1].active && entries[2].active);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), 1u << 5);
	cr_assert_eq(reach(5, SOURCE, OTHER), 1u << 2 | 1u << 3);
	core_rig_detach(&rig, 5);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), 1u << 2);
	core_rig_attach(&rig, 6, PORT_LINK, "somebody else"); /* at the same index */
	cr_assert_eq(rig.ports[6].port.index, 5);
	cr_assert_eq(reach(0, SOURCE, DESTINATION), 1u << 2);
	cr_assert_eq(reach(6, SOURCE, OTHER), 1u << 2);
}

Test(routes, no_routes_again, .init = up, .fini = down)
{
	const struct route only = any_to("", "a");

	cr_assert_eq(reach(2, SOURCE, OTHER), 0x03);
	use(&only, 1);
	cr_assert_eq(reach(3, SOURCE, OTHER), 0x04);
	use(NULL, 0);
	cr_assert_eq(reach(3, SOURCE, OTHER), 0x03);
	cr_assert_eq(reach(0, SOURCE, OTHER), 0x1e);
}

static void refused(struct route only)
{
	errno = 0;
	cr_assert_null(routes_build(&only, 1));
	cr_assert_eq(errno, EINVAL);
}

Test(routes, what_makes_no_sense, .init = up, .fini = down)
{
	struct route only = any_to("", "a");
	struct core_rig_port drop = {.port = {.name = "drop"}};

	refused(any_to("", ""));
	refused(any_to("all", "a"));
	refused(any_to("drop", "a"));
	only.priority = -1;
	refused(only);
	only.priority = 1001;
	refused(only);
	only = any_to("", "a");
	only.source.match = (enum mac_match)7;
	refused(only);
	only = any_to("", "a");
	memset(only.out, 'x', sizeof(only.out));
	refused(only);
	errno = 0;
	cr_assert_null(routes_build(&only, (size_t)ROUTES_MAX + 1));
	cr_assert_eq(errno, E2BIG);
	cr_assert_eq(core_attach(rig.core, &drop.port), -EINVAL);
}

/* --- against a slow reference ---------------------------------------------------------------- */

#define MACS  6u /* the last one is broadcast */
#define STEPS 30000u

static const char *const port_names[CORE_RIG_PORTS] = {"p0", "p1", "p2", "p3",
						       "p4", "p5", "p6", "p7"};

/* A model of the core: the routes as they were written, and who is where. */
static struct model {
	bool learn, transit;
	size_t n;
	struct route routes[40];
	uint64_t frames[40];
	bool here[CORE_RIG_PORTS];
	int at[MACS]; /* learnt: port, -1 */
	uint64_t seen[MACS];
} model;

static uint32_t random_state;

static unsigned random_below(unsigned n)
{
	random_state = random_state * 1664525 + 1013904223;
	return (random_state >> 8) % n;
}

static uint64_t model_mac(unsigned i)
{
	return i == MACS - 1 ? MAC_BROADCAST : core_rig_mac(i);
}

static bool model_link(unsigned place)
{
	return place >= CORE_RIG_PORTS / 2;
}

static bool model_pattern(const struct mac_pattern *pattern, uint64_t mac)
{
	switch (pattern->match) {
	case MAC_EXACT:
		return mac_load(pattern->mac) == mac;
	case MAC_NOT:
		return mac_load(pattern->mac) != mac;
	default:
		return true;
	}
}

/* The ports that a word in a route means. */
static unsigned model_ports(const char *name)
{
	unsigned set = 0;

	for (unsigned i = 0; i < CORE_RIG_PORTS; i++)
		if (model.here[i] &&
		    (!name[0] || !strcmp(name, "all") || !strcmp(name, port_names[i]) ||
		     (!strcmp(name, "links") && model_link(i)) ||
		     (!strcmp(name, "nics") && !model_link(i))))
			set |= 1u << i;
	return set;
}

static bool model_active(const char *name)
{
	return name[0] != 'p' || model_ports(name);
}

static bool model_matches(const struct route *r, unsigned in, uint64_t source, uint64_t destination)
{
	return model_active(r->out) && (model_ports(r->in) >> in & 1) &&
	       model_pattern(&r->source, source) && model_pattern(&r->destination, destination);
}

static int model_standing(const struct route *r)
{
	return standing((int)r->source.match, (int)r->destination.match, r->priority);
}

static unsigned model_routes(unsigned in, uint64_t source, uint64_t destination, int *best)
{
	unsigned set = 0;

	*best = 10000;
	for (size_t i = 0; i < model.n; i++)
		if (model_matches(&model.routes[i], in, source, destination) &&
		    model_standing(&model.routes[i]) < *best)
			*best = model_standing(&model.routes[i]);
	for (size_t i = 0; i < model.n; i++)
		if (model_matches(&model.routes[i], in, source, destination) &&
		    model_standing(&model.routes[i]) == *best)
			set |= model_ports(model.routes[i].out);
	return set;
}

static void model_count(unsigned in, uint64_t source, uint64_t destination, int best)
{
	for (size_t i = 0; i < model.n; i++)
		if (model_matches(&model.routes[i], in, source, destination) &&
		    model_standing(&model.routes[i]) == best)
			model.frames[i]++;
}

/* Where a frame goes, by the book. */
static unsigned model_frame(unsigned in, unsigned from, unsigned to)
{
	const int exact_destination = standing(MAC_ANY, MAC_EXACT, 0);
	unsigned set;
	int best = 10000;

	if (model.learn && from != MACS - 1) {
		model.at[from] = (int)in;
		model.seen[from] = core_rig_now_ns;
	}
	set = model_routes(in, model_mac(from), model_mac(to), &best);
	if (!model.n)
		set = model_ports(model_link(in) && !model.transit ? "nics" : "all");
	if (model.learn && to != MACS - 1 && model.at[to] >= 0 && best > exact_destination) {
		unsigned port = (unsigned)model.at[to];

		if (model_link(in) && model_link(port) && !model.transit && !(set >> port & 1))
			return 0;
		return 1u << port & ~(1u << in);
	}
	model_count(in, model_mac(from), model_mac(to), best);
	return set & ~(1u << in);
}

static struct mac_pattern random_pattern(void)
{
	static const enum mac_match kinds[] = {MAC_ANY,	  MAC_ANY, MAC_EXACT,
					       MAC_EXACT, MAC_NOT, MAC_NONE};

	return pattern(kinds[random_below(6)], model_mac(random_below(MACS)));
}

static void random_routes(void)
{
	static const char *const outs[] = {"all", "nics", "links", "drop"};
	static const char *const ins[] = {"", "", "nics", "links"};

	model.n = random_below(4) ? random_below(40) : random_below(3);
	for (size_t i = 0; i < model.n; i++) {
		unsigned out = random_below(2 * CORE_RIG_PORTS),
			 in = random_below(2 * CORE_RIG_PORTS);

		model.routes[i] = route(random_pattern(), random_pattern(),
					in < CORE_RIG_PORTS ? port_names[in] : ins[in % 4],
					out < CORE_RIG_PORTS + 4 ? port_names[out % CORE_RIG_PORTS]
								 : outs[out % 4],
					random_below(8) ? 0 : 1 + (int)random_below(2));
	}
	memset(model.frames, 0, sizeof(model.frames));
	use(model.routes, model.n);
}

static void random_port(void)
{
	unsigned place = random_below(CORE_RIG_PORTS);

	if (!model.here[place]) {
		core_rig_attach(&rig, place, model_link(place) ? PORT_LINK : PORT_INTERFACE,
				port_names[place]);
	} else {
		core_rig_detach(&rig, place);
		for (unsigned i = 0; i < MACS; i++)
			if (model.at[i] == (int)place)
				model.at[i] = -1;
	}
	model.here[place] = !model.here[place];
}

static void model_age(void)
{
	for (unsigned i = 0; i < MACS; i++)
		if (model.at[i] >= 0 && core_rig_now_ns - model.seen[i] >= 300 * CORE_RIG_SECOND)
			model.at[i] = -1;
}

/* A batch from a random port: every port gets exactly its frames, in order. */
static void random_batch(void)
{
	unsigned in = random_below(CORE_RIG_PORTS), n = 1 + random_below(6),
		 at[CORE_RIG_PORTS] = {0};
	unsigned expected[6];

	if (!model.here[in])
		return;
	core_rig_clear(&rig);
	/* Far enough apart that no address flaps, and at times far enough to be forgotten. */
	core_rig_now_ns += CORE_RIG_SECOND * (random_below(50) ? 2 : 400);
	model_age();
	for (unsigned i = 0; i < n; i++) {
		/* Addresses seldom move, or else nothing would ever be cached. */
		unsigned from = random_below(10) ? in % (MACS - 1) : random_below(MACS);
		unsigned to = random_below(MACS);

		core_rig_frame(&rig, i, model_mac(from), model_mac(to));
		expected[i] = model_frame(in, from, to);
	}
	core_rig_send(&rig, in, n);
	for (unsigned i = 0; i < n; i++)
		for (unsigned p = 0; p < CORE_RIG_PORTS; p++)
			if (expected[i] >> p & 1)
				cr_assert_eq(rig.ports[p].same[at[p]++], rig.list[i]);
	for (unsigned p = 0; p < CORE_RIG_PORTS; p++)
		cr_assert_eq(rig.ports[p].n, at[p]);
}

static void model_compare_routes(void)
{
	const struct route_entry *entries;

	cr_assert_eq(core_routes(rig.core, &entries), model.n);
	for (size_t i = 0; i < model.n; i++) {
		cr_assert_eq(entries[i].frames, model.frames[i]);
		cr_assert_eq(entries[i].bytes, 64 * model.frames[i]);
		cr_assert_eq(entries[i].active,
			     model_active(model.routes[i].out) && model_active(model.routes[i].in));
	}
}

static void against_model(struct core_options options, uint32_t seed)
{
	memset(&model, 0, sizeof(model));
	model.learn = options.learn;
	model.transit = options.transit;
	for (unsigned i = 0; i < MACS; i++)
		model.at[i] = -1;
	random_state = seed;
	core_rig_up(&rig, options);
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned what = random_below(100);

		if (what < 3) {
			model_compare_routes();
			random_routes();
		} else if (what < 8) {
			random_port();
		} else {
			random_batch();
		}
	}
	model_compare_routes();
	cr_assert_gt(core_counters(rig.core)->cache_hits, STEPS / 10);
	core_rig_down(&rig);
}

Test(routes, random_tables_against_reference)
{
	against_model((struct core_options){0}, 1);
}

Test(routes, random_tables_against_reference_transit)
{
	against_model((struct core_options){.transit = true}, 2);
}

Test(routes, random_tables_against_reference_learning)
{
	against_model((struct core_options){.learn = true}, 3);
}

Test(routes, random_tables_against_reference_learning_transit)
{
	against_model((struct core_options){.learn = true, .transit = true}, 4);
}

/* --- many ------------------------------------------------------------------------------------ */

#define MANY 10000u

static uint64_t many_mac(unsigned i)
{
	return mac_load((uint8_t[]){2, 1, 0, 0, (uint8_t)(i >> 8), (uint8_t)i});
}

/* Route i says: to host i by port (i + shift) of three. */
static struct route_table *many_routes(unsigned shift)
{
	static const char *const outs[3] = {"a", "b", "c"};
	struct route *routes = malloc(MANY * sizeof(*routes));
	struct route_table *table;

	for (unsigned i = 0; i < MANY; i++)
		routes[i] = route(pattern(MAC_ANY, 0), pattern(MAC_EXACT, many_mac(i)), "",
				  outs[(i + shift) % 3], 0);
	table = routes_build(routes, MANY);
	free(routes);
	return table;
}

/* After a swap every frame goes by the new table and none by the old one, though the cache is full
 * of it. */
Test(routes, swaps_under_frames, .init = up, .fini = down)
{
	for (unsigned shift = 0; shift < 30; shift++) {
		routes_destroy(core_routes_swap(rig.core, many_routes(shift)));
		for (unsigned i = 0; i < MANY; i += 7)
			cr_assert_eq(reach(0, SOURCE, many_mac(i)), 1u << (2 + (i + shift) % 3));
	}
}
