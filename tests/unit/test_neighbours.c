/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ARP and neighbour discovery answered by the core: when, with what, and above all when not. */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/core_rig.h"
#include "vnet/checksum.h"
#include "vnet/mac.h"
#include "vnet/neighbours.h"

#define ANN   1 /* behind nic0, asks */
#define BOB   2 /* behind link a, is asked for */
#define EVE   3
#define FLOOD 0xeu
#define HERE  0x1u /* an answer to nic0, and nobody else hears of it */

static struct core_rig rig;

static void up_with(struct core_options options)
{
	options.neighbours = true;
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

static void up_plain(void)
{
	up_with((struct core_options){0});
}

static void down(void)
{
	core_rig_down(&rig);
}

/* A frame that the tests change before they send it. */
struct packet {
	size_t len;
	uint8_t bytes[128];
};

static unsigned packet_send(unsigned place, const struct packet *packet)
{
	core_rig_clear(&rig);
	core_rig_bytes(&rig, 0, packet->bytes, packet->len);
	core_rig_send(&rig, place, 1);
	return core_rig_reached(&rig);
}

static void put_mac(uint8_t *at, unsigned host)
{
	mac_store(at, core_rig_mac(host));
}

/* 10.0.0.HOST; 0: 0.0.0.0 */
static void put_ipv4(uint8_t *at, unsigned host)
{
	memcpy(at, (uint8_t[4]){host ? 10 : 0, 0, 0, (uint8_t)host}, 4);
}

static struct packet arp(unsigned op, unsigned from, unsigned sender, unsigned target)
{
	struct packet p = {
	    .len = 60,
	    .bytes = {[12] = 8, 6, 0, 1, 8, 0, 6, 4, 0, (uint8_t)op},
	};

	memset(p.bytes, 0xff, 6);
	put_mac(p.bytes + 6, from);
	put_mac(p.bytes + 22, from);
	put_ipv4(p.bytes + 28, sender);
	put_ipv4(p.bytes + 38, target);
	return p;
}

static unsigned ask(void)
{
	const struct packet p = arp(1, ANN, ANN, BOB);

	return packet_send(0, &p);
}

static void tell(unsigned place, unsigned host)
{
	const struct packet p = arp(1, host, host, 99);

	packet_send(place, &p);
}

Test(neighbours, arp_is_answered, .init = up, .fini = down)
{
	static const uint8_t expected[42] = {
	    2, 0, 0, 0, 0, ANN, 2,   0,	 0, 0, 0,   BOB, 8, 6, 0, 1, 8,	  0,  6, 4, 0,
	    2, 2, 0, 0, 0, 0,	BOB, 10, 0, 0, BOB, 2,	 0, 0, 0, 0, ANN, 10, 0, 0, ANN,
	};

	cr_assert_eq(ask(), FLOOD);
	tell(2, BOB);
	cr_assert_eq(ask(), HERE);
	cr_assert_eq(rig.ports[0].n, 1);
	cr_assert_eq(rig.ports[0].taken[0].frame.len, sizeof(expected));
	cr_assert_arr_eq(rig.ports[0].taken[0].bytes, expected, sizeof(expected));
	cr_assert_arr_eq(rig.ports[0].taken[0].frame.eth, expected, FRAME_HEADER);
	cr_assert_eq(core_counters(rig.core)->answered, 1);
}

/* From a reply, too, and without learning. */
Test(neighbours, replies_teach, .init = up_plain, .fini = down)
{
	struct packet p = arp(2, BOB, BOB, ANN);

	put_mac(p.bytes, ANN);
	packet_send(2, &p);
	cr_assert_eq(ask(), HERE);
}

Test(neighbours, off_is_off)
{
	core_rig_up(&rig, (struct core_options){.learn = true});
	core_rig_attach(&rig, 0, PORT_INTERFACE, "nic0");
	core_rig_attach(&rig, 2, PORT_LINK, "a");
	tell(2, BOB);
	cr_assert_eq(ask(), 1u << 2);
	down();
}

Test(neighbours, probes_and_announcements_pass, .init = up, .fini = down)
{
	struct packet p;

	tell(2, BOB);
	p = arp(1, ANN, 0, BOB); /* is it taken? */
	cr_assert_eq(packet_send(0, &p), FLOOD);
	p = arp(1, ANN, ANN, ANN); /* it is mine */
	cr_assert_eq(packet_send(0, &p), FLOOD);
	p = arp(2, ANN, ANN, ANN);
	cr_assert_eq(packet_send(0, &p), FLOOD);
	p = arp(1, ANN, ANN, BOB); /* to him alone: is he alive? */
	put_mac(p.bytes, BOB);
	cr_assert_eq(packet_send(0, &p), 1u << 2);
	cr_assert_eq(core_counters(rig.core)->answered, 0);
}

Test(neighbours, unusual_arp_passes, .init = up, .fini = down)
{
	const struct packet good = arp(1, ANN, ANN, BOB);
	struct packet p;

	tell(2, BOB);
	for (unsigned at = 14; at < 22; at++) { /* hardware, protocol, lengths, operation */
		p = good;
		p.bytes[at] ^= 0x40;
		cr_assert_eq(packet_send(0, &p), FLOOD);
	}
	p = good;
	p.bytes[27] ^= 1; /* another sender than the frame's */
	cr_assert_eq(packet_send(0, &p), FLOOD);
	p = good;
	p.len = 41;
	cr_assert_eq(packet_send(0, &p), FLOOD);
	p = good; /* with a VLAN tag */
	memmove(p.bytes + 16, p.bytes + 12, 46);
	memcpy(p.bytes + 12, (uint8_t[]){0x81, 0, 0, 5}, 4);
	p.len = 64;
	cr_assert_eq(packet_send(0, &p), FLOOD);
	cr_assert_eq(ask(), HERE);
}

Test(neighbours, short_frames_teach_nothing, .init = up, .fini = down)
{
	struct packet p = arp(1, BOB, BOB, ANN);

	for (p.len = 14; p.len < 42; p.len++)
		packet_send(2, &p);
	cr_assert_eq(ask(), FLOOD);
}

Test(neighbours, only_interfaces_are_answered, .init = up, .fini = down)
{
	const struct packet p = arp(1, EVE, EVE, BOB);

	tell(2, BOB);
	cr_assert_eq(packet_send(3, &p), 0x3);
	cr_assert_eq(packet_send(1, &p), 1u << 1);
}

Test(neighbours, who_is_behind_the_same_port_answers_himself, .init = up_plain, .fini = down)
{
	tell(0, BOB);
	cr_assert_eq(ask(), FLOOD);
}

Test(neighbours, the_dead_are_not_answered_for, .init = up, .fini = down)
{
	tell(2, BOB);
	core_rig_now_ns += NEIGHBOURS_AGE_NS;
	cr_assert_eq(ask(), FLOOD);
	tell(2, BOB);
	cr_assert_eq(ask(), HERE);
	core_rig_detach(&rig, 2);
	cr_assert_eq(ask(), 0xa);
	core_rig_attach(&rig, 2, PORT_LINK, "a");
	cr_assert_eq(ask(), FLOOD);
}

Test(neighbours, forgotten_with_their_port, .init = up_plain, .fini = down)
{
	tell(2, BOB);
	cr_assert_eq(ask(), HERE);
	core_rig_detach(&rig, 2);
	cr_assert_eq(ask(), 0xa);
}

Test(neighbours, an_address_that_changes_hands_is_left_alone, .init = up, .fini = down)
{
	struct packet p;

	tell(2, BOB);
	p = arp(1, EVE, BOB, 99); /* says she has his address */
	packet_send(3, &p);
	cr_assert_eq(ask(), FLOOD);
	core_rig_now_ns += NEIGHBOURS_QUIET_NS - 1;
	cr_assert_eq(ask(), FLOOD);
	core_rig_now_ns += 1;
	cr_assert_eq(ask(), HERE); /* hers now */
	cr_assert_eq(rig.ports[0].taken[0].bytes[11], EVE);
}

Test(neighbours, routes_are_not_betrayed, .init = up_plain, .fini = down)
{
	struct route only = {.out = "a", .in = "nic1"};
	struct route_table *table;

	tell(2, BOB);
	cr_assert_eq(ask(), HERE);
	table = routes_build(&only, 1);
	routes_destroy(core_routes_swap(rig.core, table));
	cr_assert_eq(ask(), 0);
}

Test(neighbours, many_questions_at_once, .init = up, .fini = down)
{
	const struct packet p = arp(1, ANN, ANN, BOB);

	tell(2, BOB);
	core_rig_clear(&rig);
	for (unsigned i = 0; i < FRAME_BATCH_MAX; i++)
		core_rig_bytes(&rig, i, p.bytes, p.len);
	core_rig_send(&rig, 0, FRAME_BATCH_MAX);
	cr_assert_eq(rig.ports[0].n, 16);
	cr_assert_eq(rig.ports[0].batches, 1);
	cr_assert_eq(rig.ports[2].n, FRAME_BATCH_MAX - 16);
}

Test(neighbours, bounded, .init = up_plain, .fini = down)
{
	for (unsigned i = 0; i < NEIGHBOURS_MAX + 500; i++) {
		struct packet p = arp(1, EVE, EVE, 99);

		p.bytes[29] = (uint8_t)(1 + (i >> 16));
		p.bytes[30] = (uint8_t)(i >> 8);
		p.bytes[31] = (uint8_t)i;
		packet_send(2, &p);
	}
	tell(2, BOB);
	cr_assert_eq(ask(), FLOOD); /* no room for him */
}

/* --- IPv6 ------------------------------------------------------------------------------------ */

/* fd00::HOST; 0: :: */
static void put_ipv6(uint8_t *at, unsigned host)
{
	memset(at, 0, 16);
	at[0] = host ? 0xfd : 0;
	at[15] = (uint8_t)host;
}

static void fill_checksum(struct packet *p)
{
	const size_t len = (size_t)p->bytes[18] << 8 | p->bytes[19];
	uint16_t sum;

	if (54 + len > sizeof(p->bytes))
		return; /* a lie that no checksum makes true */
	memset(p->bytes + 56, 0, 2);
	sum = ~checksum_add(checksum_add(htons((uint16_t)len) + htons(58), p->bytes + 22, 32),
			    p->bytes + 54, len);
	memcpy(p->bytes + 56, &sum, 2);
}

static struct packet solicitation(unsigned from, unsigned sender, unsigned target)
{
	struct packet p = {
	    .len = 86,
	    .bytes = {0x33, 0x33, 0xff, 0, 0, (uint8_t)target, [12] = 0x86, 0xdd, 0x60, [19] = 32,
		      58, 255},
	};

	put_mac(p.bytes + 6, from);
	put_ipv6(p.bytes + 22, sender);
	memcpy(p.bytes + 38, (uint8_t[16]){0xff, 2, [11] = 1, 0xff, 0, 0, (uint8_t)target}, 16);
	p.bytes[54] = 135;
	put_ipv6(p.bytes + 62, target);
	p.bytes[78] = 1;
	p.bytes[79] = 1;
	put_mac(p.bytes + 80, from);
	fill_checksum(&p);
	return p;
}

static struct packet advertisement(unsigned from, unsigned target, unsigned to, uint8_t flags)
{
	struct packet p = solicitation(from, target, target);

	put_mac(p.bytes, to);
	put_ipv6(p.bytes + 38, to);
	p.bytes[54] = 136;
	p.bytes[58] = flags;
	p.bytes[78] = 2;
	fill_checksum(&p);
	return p;
}

static unsigned ask6(void)
{
	const struct packet p = solicitation(ANN, ANN, BOB);

	return packet_send(0, &p);
}

static void tell6(unsigned place, unsigned host, uint8_t flags)
{
	const struct packet p = advertisement(host, host, EVE, flags);

	packet_send(place, &p);
}

Test(neighbours, solicitations_are_answered, .init = up, .fini = down)
{
	struct packet expected = advertisement(BOB, BOB, ANN, 0x40); /* solicited, no override */

	cr_assert_eq(ask6(), FLOOD);
	tell6(2, BOB, 0x60);
	cr_assert_eq(ask6(), HERE);
	cr_assert_eq(rig.ports[0].taken[0].frame.len, expected.len);
	cr_assert_arr_eq(rig.ports[0].taken[0].bytes, expected.bytes, expected.len);
	tell6(2, BOB, 0xe0); /* a router says so, and so do we */
	cr_assert_eq(ask6(), HERE);
	expected = advertisement(BOB, BOB, ANN, 0xc0);
	cr_assert_arr_eq(rig.ports[0].taken[0].bytes, expected.bytes, expected.len);
}

/* A solicitation does not say whether its sender is a router. */
Test(neighbours, solicitations_do_not_teach, .init = up, .fini = down)
{
	const struct packet p = solicitation(BOB, BOB, 99);

	packet_send(2, &p);
	cr_assert_eq(ask6(), FLOOD);
	tell6(2, BOB, 0x60);
	cr_assert_eq(ask6(), HERE);
	const struct packet other = solicitation(EVE, BOB, 99); /* his address, another machine */

	packet_send(3, &other);
	core_rig_now_ns += NEIGHBOURS_QUIET_NS;
	packet_send(3, &other);
	cr_assert_eq(ask6(), FLOOD);
	tell6(3, EVE, 0x60);
	cr_assert_eq(ask6(), FLOOD);
}

Test(neighbours, duplicate_address_detection_passes, .init = up, .fini = down)
{
	struct packet p = solicitation(ANN, 0, BOB);

	tell6(2, BOB, 0x60);
	p.len = 78; /* without the option, as it must be */
	p.bytes[19] = 24;
	fill_checksum(&p);
	cr_assert_eq(packet_send(0, &p), FLOOD);
	p = solicitation(ANN, 0, BOB);
	cr_assert_eq(packet_send(0, &p), FLOOD);
}

/* Any one bit of what matters changed: not answered. With the checksum put right, to get past that.
 */
Test(neighbours, unusual_solicitations_pass, .init = up, .fini = down)
{
	static const struct {
		unsigned at;
		uint8_t flip;
	} changes[] = {
	    {5, 1},  {14, 0x10}, {20, 1}, {21, 1}, {38, 1}, {39, 4}, {53, 1}, {54, 2}, {54, 1},
	    {55, 1}, {62, 2},	 {77, 1}, {78, 2}, {79, 1}, {79, 4}, {79, 2}, {85, 1}, {11, 1},
	};
	const struct packet good = solicitation(ANN, ANN, BOB);
	struct packet p;

	tell6(2, BOB, 0x60);
	for (unsigned i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		p = good;
		p.bytes[changes[i].at] ^= changes[i].flip;
		fill_checksum(&p);
		cr_assert_neq(packet_send(0, &p) & FLOOD, 0, "change %u", i);
	}
	p = good;
	p.bytes[56] ^= 1;
	cr_assert_eq(packet_send(0, &p), FLOOD);
	p = good;
	p.bytes[18] = 0xff; /* longer than the frame */
	cr_assert_eq(packet_send(0, &p), FLOOD);
	for (p = good; p.len > 14; p.len--)
		cr_assert_eq(packet_send(0, &p) == HERE, p.len == good.len);
	cr_assert_eq(ask6(), HERE);
}

/* Nothing that comes in may make the reading go wrong: run under the sanitizers. */
Test(neighbours, noise, .init = up, .fini = down)
{
	uint32_t seed = 1;

	tell6(2, BOB, 0x60);
	tell(2, BOB);
	for (unsigned round = 0; round < 20000; round++) {
		struct packet p = round % 2 ? solicitation(ANN, ANN, BOB) : arp(1, ANN, ANN, BOB);

		for (unsigned i = 0; i < 3; i++) {
			seed = seed * 1664525 + 1013904223;
			p.bytes[12 + (seed >> 8) % (p.len - 12)] = (uint8_t)(seed >> 24);
		}
		if (round % 4 == 1)
			p.bytes[18] = 0;
		if (round % 4 == 1)
			fill_checksum(&p);
		p.len -= (seed >> 16) % 8 ? 0 : (seed >> 20) % 60;
		if (p.len >= 14)
			packet_send(round % 3, &p);
	}
	cr_assert_gt(core_counters(rig.core)->answered, 0);
}
