/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the core does to frames on their way: hops, offloads, counters, the matrix, watches, traces.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/core_rig.h"
#include "vnet/checksum.h"
#include "vnet/mac.h"
#include "vnet/matrix.h"
#include "vnet/offload.h"

#define ANN core_rig_mac(1)
#define BOB core_rig_mac(2)

static struct core_rig rig;

/* 0, 1: interfaces; 2, 3: links; links reach each other. */
static void up(void)
{
	core_rig_up(&rig, (struct core_options){.transit = true});
	core_rig_attach(&rig, 0, PORT_INTERFACE, "nic0");
	core_rig_attach(&rig, 1, PORT_INTERFACE, "nic1");
	core_rig_attach(&rig, 2, PORT_LINK, "a");
	core_rig_attach(&rig, 3, PORT_LINK, "b");
}

static void down(void)
{
	core_rig_down(&rig);
}

static unsigned send_with_hops(unsigned place, uint8_t hops)
{
	core_rig_clear(&rig);
	core_rig_frame(&rig, 0, ANN, BOB)->hops = hops;
	core_rig_send(&rig, place, 1);
	return core_rig_reached(&rig);
}

Test(forwarding, hops, .init = up, .fini = down)
{
	const uint64_t *drops = rig.ports[2].port.counters.drops;

	cr_assert_eq(send_with_hops(0, 0), 0xe); /* not said */
	cr_assert_eq(rig.ports[2].taken[0].frame.hops, FRAME_HOPS_MAX);
	cr_assert_eq(send_with_hops(2, 0), 0xb);
	cr_assert_eq(rig.ports[3].taken[0].frame.hops, FRAME_HOPS_MAX - 1);
	cr_assert_eq(send_with_hops(2, 2), 0xb);
	cr_assert_eq(rig.ports[3].taken[0].frame.hops, 1);
	cr_assert_eq(drops[DROP_HOPS], 0);
	cr_assert_eq(send_with_hops(2, 1), 0x3); /* still for the interfaces */
	cr_assert_eq(drops[DROP_HOPS], 1);
	core_rig_detach(&rig, 0);
	core_rig_detach(&rig, 1);
	cr_assert_eq(send_with_hops(2, 1), 0);
	cr_assert_eq(drops[DROP_HOPS], 2);
	cr_assert_eq(drops[DROP_NO_ROUTE], 0);
	core_rig_detach(&rig, 3);
	cr_assert_eq(send_with_hops(2, 1), 0);
	cr_assert_eq(drops[DROP_HOPS], 2);
	cr_assert_eq(drops[DROP_NO_ROUTE], 1);
}

/* Two cores, joined twice: what goes out by a link comes in by another, round and round, and ends.
 */
Test(forwarding, loops_end, .init = up, .fini = down)
{
	unsigned place = 2, rounds = 0;

	core_rig_frame(&rig, 0, ANN, MAC_BROADCAST);
	for (;; rounds++) {
		uint8_t hops;

		core_rig_clear(&rig);
		core_rig_send(&rig, place, 1);
		if (!rig.ports[5 - place].n)
			break;
		hops = rig.ports[5 - place].taken[0].frame.hops;
		place = 5 - place;
		core_rig_frame(&rig, 0, ANN, MAC_BROADCAST)->hops = hops;
		cr_assert_lt(rounds, FRAME_HOPS_MAX);
	}
	cr_assert_eq(rounds, FRAME_HOPS_MAX - 1);
}

/* A TCP segment over IPv4 whose payload counts up from @first, with the checksum filled or, for
 * @gso_size, partial. */
static struct frame *tcp(unsigned i, unsigned first, unsigned len, uint16_t gso_size)
{
	static const uint8_t headers[54] = {
	    [12] = 8, 0, 0x45,	   [22] = 64, 6, [26] = 10, 0,		 0,    1, 10,	   0,
	    0,	      2, [34] = 4, 0,	      5, 0,	    [46] = 0x50, 0x10, 1, [49] = 0};
	uint8_t bytes[256];
	struct frame *frame;
	uint16_t sum;

	memcpy(bytes, headers, sizeof(headers));
	mac_store(bytes, BOB);
	mac_store(bytes + 6, ANN);
	bytes[17] = (uint8_t)(40 + len);
	bytes[19] = (uint8_t)i; /* identification */
	bytes[41] = (uint8_t)first;
	for (unsigned at = 0; at < len; at++)
		bytes[54 + at] = (uint8_t)(first + at);
	sum = ~checksum_add(0, bytes + 14, 20);
	memcpy(bytes + 24, &sum, 2);
	sum = checksum_add(htons((uint16_t)(20 + len)) + htons(6), bytes + 26, 8);
	if (!gso_size)
		sum = ~checksum_add(sum, bytes + 34, 20 + len);
	memcpy(bytes + 50, &sum, 2);
	frame = core_rig_bytes(&rig, i, bytes, 54 + len);
	if (gso_size)
		frame->offload = (struct frame_offload){
		    .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		    .hdr_len = 54,
		    .gso_size = gso_size,
		    .csum_start = 34,
		    .csum_offset = 16,
		};
	cr_assert(offload_check(frame));
	return frame;
}

static void right_segment(const struct core_rig_frame *taken, unsigned first, unsigned len);

Test(forwarding, large_frames_are_cut_where_they_must_be, .init = up, .fini = down)
{
	const struct core_rig_port *plain = &rig.ports[2];

	rig.ports[3].port.offloads = PORT_CSUM | PORT_TSO4;
	core_rig_frame(&rig, 0, ANN, BOB);
	tcp(1, 0, 150, 50);
	core_rig_frame(&rig, 2, ANN, BOB);
	core_rig_send(&rig, 0, 3);
	cr_assert_eq(rig.ports[3].n, 3);
	cr_assert_eq(rig.ports[3].batches, 1);
	cr_assert_eq(rig.ports[3].same[1], rig.list[1]);
	cr_assert_eq(plain->n, 5);
	cr_assert_eq(plain->batches, 1);
	cr_assert_eq(plain->same[0], rig.list[0]);
	cr_assert_eq(plain->same[4], rig.list[2]);
	for (unsigned i = 0; i < 3; i++)
		right_segment(&plain->taken[1 + i], 50 * i, 50);
	cr_assert_eq(core_counters(rig.core)->split, 2); /* for nic1 as well */
}

Test(forwarding, checksums_are_filled_where_they_must_be, .init = up, .fini = down)
{
	struct frame *frame = tcp(0, 7, 100, 1);

	frame->offload.gso_type = VIRTIO_NET_HDR_GSO_NONE;
	frame->offload.gso_size = 0;
	rig.ports[3].port.offloads = PORT_CSUM;
	core_rig_send(&rig, 0, 1);
	cr_assert_eq(rig.ports[3].same[0], frame);
	cr_assert_eq(rig.ports[2].n, 1);
	right_segment(&rig.ports[2].taken[0], 7, 100);
}

Test(forwarding, offload_state_that_cannot_be_finished, .init = up, .fini = down)
{
	core_rig_frame(&rig, 0, ANN, BOB)->offload.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	core_rig_send(&rig, 0, 1);
	cr_assert_eq(core_rig_reached(&rig), 0);
	cr_assert_eq(rig.ports[2].port.counters.drops[DROP_OFFLOAD], 1);
	cr_assert_eq(core_counters(rig.core)->split, 0);
}

Test(forwarding, segments_from_links_are_joined, .init = up, .fini = down)
{
	rig.ports[0].port.offloads = PORT_CSUM | PORT_TSO4;
	rig.ports[3].port.offloads = PORT_CSUM;
	for (unsigned i = 0; i < 3; i++)
		tcp(i, 50 * i, 50, 0);
	core_rig_send(&rig, 2, 3);
	cr_assert_eq(rig.ports[0].n, 1);
	cr_assert_eq(rig.ports[0].taken[0].frame.len, 54 + 150);
	cr_assert_eq(rig.ports[0].taken[0].frame.offload.gso_size, 50);
	cr_assert_eq(rig.ports[1].n, 3);
	cr_assert_eq(rig.ports[3].n, 3);
	cr_assert_eq(core_counters(rig.core)->merged, 2);
	core_rig_clear(&rig);
	core_rig_send(&rig, 1, 3); /* what an interface sends stays as it is */
	cr_assert_eq(rig.ports[0].n, 3);
}

static void right_segment(const struct core_rig_frame *taken, unsigned first, unsigned len)
{
	const uint8_t *bytes = taken->bytes;
	uint16_t pseudo = checksum_add(htons((uint16_t)(20 + len)) + htons(6), bytes + 26, 8);

	cr_assert_eq(taken->frame.len, 54 + len);
	cr_assert_eq(taken->frame.offload.flags | taken->frame.offload.gso_type, 0);
	cr_assert_eq(bytes[41], first); /* sequence number */
	cr_assert_eq(checksum_add(0, bytes + 14, 20), 0xffff);
	cr_assert_eq(checksum_add(pseudo, bytes + 34, 20 + len), 0xffff);
	for (unsigned i = 0; i < len; i++)
		cr_assert_eq(bytes[54 + i], (uint8_t)(first + i));
}

/* --- counting and showing -------------------------------------------------------------------- */

struct sums {
	unsigned pairs;
	uint64_t frames, bytes, rest;
};

static void sum_pair(void *context, const uint8_t source[FRAME_MAC_SIZE],
		     const uint8_t destination[FRAME_MAC_SIZE], uint64_t frames, uint64_t bytes)
{
	struct sums *sums = context;

	sums->pairs++;
	sums->frames += frames;
	sums->bytes += bytes;
	if (!mac_load(source) && !mac_load(destination))
		sums->rest = frames;
}

Test(forwarding, matrix_is_bounded, .init = up, .fini = down)
{
	struct sums sums = {0};

	for (unsigned i = 0; i < MATRIX_PAIRS + 300; i++) {
		core_rig_frame(&rig, 0, core_rig_mac(i), BOB);
		core_rig_send(&rig, 0, 1);
		core_rig_send(&rig, 0, 1); /* from the cache */
	}
	core_matrix(rig.core, sum_pair, &sums);
	cr_assert_eq(sums.pairs, MATRIX_PAIRS + 1);
	cr_assert_eq(sums.frames, 2 * (MATRIX_PAIRS + 300));
	cr_assert_eq(sums.bytes, 64 * sums.frames);
	cr_assert_eq(sums.rest, 600);
}

Test(forwarding, matrix_has_what_was_forwarded, .init = up, .fini = down)
{
	struct sums sums = {0};

	core_rig_detach(&rig, 1);
	core_rig_detach(&rig, 2);
	core_rig_detach(&rig, 3);
	core_rig_frame(&rig, 0, ANN, BOB);
	core_rig_send(&rig, 0, 1);
	core_matrix(rig.core, sum_pair, &sums);
	cr_assert_eq(sums.pairs, 0);
}

Test(forwarding, counters, .init = up, .fini = down)
{
	const struct core_counters *counters = core_counters(rig.core);

	for (unsigned i = 0; i < FRAME_BATCH_MAX; i++)
		core_rig_frame(&rig, i, ANN, BOB);
	core_rig_send(&rig, 0, 1);
	core_rig_send(&rig, 0, 3);
	core_rig_send(&rig, 0, FRAME_BATCH_MAX);
	cr_assert_eq(counters->batch_size[0], 1);
	cr_assert_eq(counters->batch_size[1], 1);
	cr_assert_eq(counters->batch_size[6], 1);
	cr_assert_eq(counters->forward_ns[0], 3); /* the clock stands still */
	cr_assert_eq(counters->cache_misses, 1);
	cr_assert_eq(counters->cache_hits, 3 + FRAME_BATCH_MAX);
}

struct seen {
	unsigned in, out;
	const struct frame *last;
};

static void see(void *context, const struct port *port, bool out, const struct frame *frame)
{
	struct seen *seen = context;

	cr_assert_str_eq(port->name, "a");
	if (out)
		seen->out++;
	else
		seen->in++;
	seen->last = frame;
}

Test(forwarding, watch, .init = up, .fini = down)
{
	struct seen seen = {0};

	core_watch(rig.core, &rig.ports[2].port, see, &seen);
	for (unsigned i = 0; i < 3; i++)
		core_rig_frame(&rig, i, ANN, BOB);
	core_rig_send(&rig, 0, 3);
	cr_assert_eq(seen.out, 3);
	cr_assert_eq(seen.last, rig.list[2]);
	core_rig_send(&rig, 2, 2);
	cr_assert_eq(seen.in, 2);
	cr_assert_eq(seen.out, 3);
	core_rig_send(&rig, 3, 1);
	cr_assert_eq(seen.out, 4);
	core_watch(rig.core, &rig.ports[2].port, NULL, NULL);
	core_rig_send(&rig, 0, 3);
	cr_assert_eq(seen.out, 4);
	core_watch(rig.core, &rig.ports[2].port, see, &seen);
	core_rig_detach(&rig, 2);
	core_rig_attach(&rig, 4, PORT_LINK, "c"); /* takes the place, not the watch */
	core_rig_send(&rig, 0, 3);
	cr_assert_eq(seen.out, 4);
}

static void say(void *context, const char *line)
{
	char *text = context;

	strncat(text, line, 1000 - strlen(text));
	strncat(text, "\n", 1000 - strlen(text));
}

static void traced(unsigned place, const char *expected)
{
	const uint64_t misses = core_counters(rig.core)->cache_misses;
	char text[1001] = "";

	core_trace(rig.core, &rig.ports[place].port, rig.list[0], say, text);
	cr_assert_str_eq(text, expected);
	cr_assert_eq(core_rig_reached(&rig), 0);
	cr_assert_eq(core_counters(rig.core)->cache_misses, misses);
}

Test(forwarding, trace, .init = up, .fini = down)
{
	struct route routes[2] = {{.out = "a"}, {.out = "drop"}};
	struct route_table *table;

	core_rig_frame(&rig, 0, ANN, BOB);
	traced(0, "in by nic0: 02:00:00:00:00:01 to 02:00:00:00:00:02, 64 bytes\n"
		  "no routes: to every other port\nout of nic1\nout of a\nout of b\n");
	rig.list[0]->hops = 1;
	traced(2, "in by a: 02:00:00:00:00:01 to 02:00:00:00:00:02, 64 bytes\n"
		  "no routes: to every other port\nout of nic0\nout of nic1\n"
		  "not out of b: no hops left\n");
	table = routes_build(routes, 2);
	routes_destroy(core_routes_swap(rig.core, table));
	tcp(0, 0, 100, 50);
	traced(0, "in by nic0: 02:00:00:00:00:01 to 02:00:00:00:00:02, 154 bytes\n"
		  "route 0 takes it: to a\nroute 1 takes it: to drop\n"
		  "out of a, finished here first\n");
	routes[0].destination.match = MAC_EXACT;
	table = routes_build(routes, 1);
	routes_destroy(core_routes_swap(rig.core, table));
	traced(0, "in by nic0: 02:00:00:00:00:01 to 02:00:00:00:00:02, 154 bytes\n"
		  "no route matches\ndropped: no_route\n");
	rig.list[0]->len = 13;
	traced(0, "in by nic0: 02:00:00:00:00:01 to 02:00:00:00:00:02, 13 bytes\ndropped: runt\n");
}
