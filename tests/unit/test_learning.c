/* SPDX-License-Identifier: GPL-2.0-or-later */
/* MAC learning as the core does it: who is where, ageing, the bound, flapping. */
#include <criterion/criterion.h>

#include <string.h>

#include "tests/unit/core_rig.h"
#include "vnet/learning.h"
#include "vnet/mac.h"

#define ANN core_rig_mac(1)
#define BOB core_rig_mac(2)

static struct core_rig rig;

static void up_with(struct core_options options)
{
	core_rig_up(&rig, options);
	core_rig_attach(&rig, 0, PORT_INTERFACE, "nic0");
	core_rig_attach(&rig, 1, PORT_INTERFACE, "nic1");
	core_rig_attach(&rig, 2, PORT_LINK, "a");
	core_rig_attach(&rig, 3, PORT_LINK, "b");
}

static void up(void)
{
	up_with((struct core_options){.learn = true});
}

static void down(void)
{
	core_rig_down(&rig);
}

static unsigned reach(unsigned place, uint64_t source, uint64_t destination)
{
	core_rig_clear(&rig);
	core_rig_frame(&rig, 0, source, destination);
	core_rig_send(&rig, place, 1);
	return core_rig_reached(&rig);
}

static void use(const struct route *only)
{
	struct route_table *table = routes_build(only, 1);

	cr_assert_not_null(table);
	routes_destroy(core_routes_swap(rig.core, table));
}

Test(learning, unknown_is_flooded_known_is_not, .init = up, .fini = down)
{
	cr_assert_eq(reach(0, ANN, BOB), 0xe);
	cr_assert_eq(reach(2, BOB, ANN), 1u << 0);
	cr_assert_eq(reach(0, ANN, BOB), 1u << 2);
	core_rig_now_ns += LEARNING_STAY_NS;
	cr_assert_eq(reach(1, ANN, MAC_BROADCAST), 0xd); /* moves by that */
	cr_assert_eq(reach(2, BOB, ANN), 1u << 1);
	cr_assert_eq(reach(1, ANN, ANN), 0); /* behind the ingress: nobody else's */
	cr_assert_eq(core_counters(rig.core)->learnt, 2);
	cr_assert_eq(core_counters(rig.core)->moved, 1);
}

Test(learning, off_is_off)
{
	up_with((struct core_options){0});
	reach(2, BOB, ANN);
	cr_assert_eq(reach(0, ANN, BOB), 0xe);
	cr_assert_eq(core_counters(rig.core)->learnt, 0);
	down();
}

Test(learning, multicast_and_zero_are_nobody, .init = up, .fini = down)
{
	reach(2, mac_load((uint8_t[]){3, 0, 0, 0, 0, 1}), ANN);
	reach(2, MAC_BROADCAST, ANN);
	reach(2, 0, ANN);
	cr_assert_eq(core_counters(rig.core)->learnt, 0);
	cr_assert_eq(reach(0, ANN, 0), 0xe);
}

Test(learning, from_link_to_link_with_transit_only, .init = up, .fini = down)
{
	const struct route all = {.out = "all"};

	reach(2, ANN, MAC_BROADCAST);
	cr_assert_eq(reach(3, BOB, ANN), 0); /* split horizon; and to nobody else */
	cr_assert_eq(rig.ports[3].port.counters.drops[DROP_NO_ROUTE], 1);
	use(&all);
	cr_assert_eq(reach(3, BOB, ANN), 1u << 2); /* a route lets it */
	down();
	up_with((struct core_options){.learn = true, .transit = true});
	reach(2, ANN, MAC_BROADCAST);
	cr_assert_eq(reach(3, BOB, ANN), 1u << 2);
}

Test(learning, ranks_as_any_to_exact, .init = up, .fini = down)
{
	struct route only = {.source.match = MAC_EXACT, .out = "b"};

	mac_store(only.source.mac, ANN);
	reach(2, BOB, ANN);
	use(&only); /* exact/any is worse */
	cr_assert_eq(reach(0, ANN, BOB), 1u << 2);
	only.source.match = MAC_ANY;
	only.destination.match = MAC_EXACT;
	mac_store(only.destination.mac, BOB);
	use(&only); /* any/exact is as good, and wins */
	cr_assert_eq(reach(0, ANN, BOB), 1u << 3);
	only.destination.match = MAC_ANY;
	use(&only);
	cr_assert_eq(reach(0, ANN, BOB), 1u << 2);
	only.priority = 1;
	use(&only);
	cr_assert_eq(reach(0, ANN, BOB), 1u << 3);
}

Test(learning, forgotten_after_a_while, .init = up, .fini = down)
{
	reach(2, BOB, ANN);
	for (unsigned i = 0; i < 10; i++) { /* what is seen stays */
		core_rig_now_ns += LEARNING_AGE_NS / 2;
		reach(2, BOB, ANN);
		cr_assert_eq(reach(0, ANN, BOB), 1u << 2);
	}
	core_rig_now_ns += LEARNING_AGE_NS - 1;
	cr_assert_eq(reach(0, ANN, BOB), 1u << 2);
	core_rig_now_ns += 1; /* cached a moment ago */
	cr_assert_eq(reach(0, ANN, BOB), 0xe);
	cr_assert_eq(core_counters(rig.core)->aged, 1);
}

Test(learning, gone_with_its_port, .init = up, .fini = down)
{
	reach(2, BOB, ANN);
	reach(0, ANN, BOB);
	core_rig_detach(&rig, 2);
	cr_assert_eq(reach(0, ANN, BOB), 0xa);
	core_rig_attach(&rig, 2, PORT_LINK, "another"); /* takes the index */
	cr_assert_eq(reach(0, ANN, BOB), 0xe);
}

/* B4: two that use one address, and the copies that come round a loop. */
Test(learning, stays_while_it_talks, .init = up, .fini = down)
{
	const struct core_counters *counters = core_counters(rig.core);

	reach(2, BOB, ANN);
	for (unsigned i = 0; i < 1000; i++) {
		reach(i % 2 ? 2 : 3, BOB, ANN);
		core_rig_now_ns += LEARNING_STAY_NS / 2;
		cr_assert_eq(reach(0, ANN, BOB), 1u << 2);
	}
	cr_assert_eq(counters->moved, 0);
	cr_assert_eq(counters->held, 500);
}

Test(learning, is_followed_once_it_left, .init = up, .fini = down)
{
	reach(2, BOB, ANN);
	core_rig_now_ns += LEARNING_STAY_NS - 1;
	reach(3, BOB, ANN);
	cr_assert_eq(reach(0, ANN, BOB), 1u << 2);
	core_rig_now_ns += 1;
	for (unsigned i = 0; i < 20; i++) {
		reach(i % 2 ? 2 : 3, BOB, ANN);
		cr_assert_eq(reach(0, ANN, BOB), i % 2 ? 1u << 2 : 1u << 3);
		core_rig_now_ns += LEARNING_STAY_NS;
	}
}

struct listing {
	unsigned n;
	uint64_t oldest;
};

static void list_mac(void *context, const uint8_t mac[FRAME_MAC_SIZE], const struct port *port,
		     uint64_t age_ns)
{
	struct listing *listing = context;

	cr_assert_eq(mac[0], 2);
	cr_assert_str_eq(port->name, "a");
	listing->n++;
	if (age_ns > listing->oldest)
		listing->oldest = age_ns;
}

Test(learning, bounded, .init = up, .fini = down)
{
	const struct core_counters *counters = core_counters(rig.core);
	struct listing listing = {0};

	for (unsigned i = 0; i < LEARNING_MACS + 100; i++)
		reach(2, core_rig_mac(i), ANN);
	cr_assert_eq(counters->learnt, LEARNING_MACS);
	cr_assert_eq(counters->full, 100);
	core_rig_now_ns += 7 * CORE_RIG_SECOND;
	core_macs(rig.core, list_mac, &listing);
	cr_assert_eq(listing.n, LEARNING_MACS);
	cr_assert_eq(listing.oldest, 7 * CORE_RIG_SECOND);
	cr_assert_eq(reach(0, BOB + 1, core_rig_mac(5)), 1u << 2);
	core_rig_now_ns += LEARNING_AGE_NS;
	listing = (struct listing){0};
	core_macs(rig.core, list_mac, &listing);
	cr_assert_eq(listing.n, 0); /* dead, though nothing came since */
	reach(2, core_rig_mac(LEARNING_MACS + 50), ANN);
	cr_assert_eq(counters->aged, LEARNING_MACS);
	cr_assert_eq(reach(0, BOB, core_rig_mac(LEARNING_MACS + 50)), 1u << 2);
}
