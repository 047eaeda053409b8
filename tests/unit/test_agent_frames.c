/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames of the agent protocol: what the reader accepts, how it is fed, and the bounded ring. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "guest-images/agent/agent_frames.h"

enum { HOST = AGENT_FROM_HOST, GUEST = AGENT_FROM_GUEST };

static struct agent_reader reader;
static uint8_t storage[2 * AGENT_FRAME_MAX];
static struct agent_ring ring;

static void prepare(void)
{
	agent_ring_init(&ring, storage, sizeof(storage));
}

/* Feeds only a header. Returns what the reader says of it. */
static ssize_t header_feed(enum agent_sender sender, uint16_t type, uint32_t length)
{
	const uint8_t header[8] = {
	    length & 0xff, length >> 8 & 0xff, length >> 16 & 0xff, length >> 24, 7, 0,
	    type & 0xff,   type >> 8,
	};
	struct agent_view view;
	bool complete;

	agent_reader_init(&reader, sender);
	return agent_reader_feed(&reader, header, sizeof(header), &view, &complete);
}

Test(agent_frames, header_is_little_endian, .init = prepare)
{
	const uint8_t expected[] = {3, 0, 0, 0, 0x34, 0x12, 8, 0, 'a', 'b', 'c'};

	cr_assert_eq(agent_frame_put(&ring, 0x1234, AGENT_PING, "abc", 3), 0);
	cr_assert_eq(ring.used, sizeof(expected));
	cr_assert_arr_eq(storage, expected, sizeof(expected));
}

Test(agent_frames, lengths_and_senders_are_checked, .init = prepare)
{
	static const struct {
		uint16_t type;
		int senders;
		uint32_t shortest, longest;
	} rules[] = {
	    {AGENT_HELLO, GUEST, 4, 68},     {AGENT_EXEC, HOST, 0, 32768},
	    {AGENT_STDIN, HOST, 0, 32768},   {AGENT_STDOUT, GUEST, 1, 32768},
	    {AGENT_STDERR, GUEST, 1, 32768}, {AGENT_EXIT, GUEST, 4, 4},
	    {AGENT_SHUTDOWN, HOST, 1, 1},    {AGENT_PING, HOST, 0, 64},
	    {AGENT_PONG, GUEST, 0, 64},	     {AGENT_CLOSE, HOST | GUEST, 0, 0},
	    {AGENT_ERROR, GUEST, 0, 256},    {AGENT_WINDOW_ADD, HOST | GUEST, 4, 4},
	};

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		for (int sender = HOST; sender <= GUEST; sender++) {
			ssize_t allowed = rules[i].senders & sender ? 8 : -EPROTO;

			cr_assert_eq(header_feed(sender, rules[i].type, rules[i].shortest),
				     allowed);
			cr_assert_eq(header_feed(sender, rules[i].type, rules[i].longest), allowed);
			cr_assert_eq(header_feed(sender, rules[i].type, rules[i].longest + 1),
				     -EPROTO);
			if (rules[i].shortest > 0)
				cr_assert_eq(
				    header_feed(sender, rules[i].type, rules[i].shortest - 1),
				    -EPROTO);
		}
	}
}

Test(agent_frames, unknown_types_and_huge_lengths_are_refused, .init = prepare)
{
	for (int sender = HOST; sender <= GUEST; sender++) {
		cr_assert_eq(header_feed(sender, 0, 0), -EPROTO);
		cr_assert_eq(header_feed(sender, AGENT_TYPES, 0), -EPROTO);
		cr_assert_eq(header_feed(sender, 0xffff, 0), -EPROTO);
		cr_assert_eq(header_feed(sender, AGENT_EXEC, 0xffffffff), -EPROTO);
		cr_assert_eq(header_feed(sender, AGENT_STDOUT, 0x80000000), -EPROTO);
	}
}

/* Feeds everything in the ring in pieces of @step bytes and checks three known frames. */
static void three_frames_check(size_t step)
{
	static const char payload[AGENT_PAYLOAD_MAX] = "large";
	const uint16_t types[] = {AGENT_EXEC, AGENT_CLOSE, AGENT_STDIN};
	const uint32_t lengths[] = {5, 0, AGENT_PAYLOAD_MAX};
	size_t at = 0, frames = 0;
	struct agent_view view;
	bool complete;

	prepare();
	agent_frame_put(&ring, 1, AGENT_EXEC, "true", 5);
	agent_frame_put(&ring, 2, AGENT_CLOSE, NULL, 0);
	agent_frame_put(&ring, 3, AGENT_STDIN, payload, sizeof(payload));
	agent_reader_init(&reader, AGENT_FROM_HOST);
	while (at < ring.used) {
		size_t piece = step < ring.used - at ? step : ring.used - at;
		ssize_t taken = agent_reader_feed(&reader, storage + at, piece, &view, &complete);

		cr_assert(taken > 0 && (size_t)taken <= piece);
		at += (size_t)taken;
		if (!complete)
			continue;
		cr_assert_lt(frames, 3);
		cr_assert_eq(view.type, types[frames]);
		cr_assert_eq(view.channel, frames + 1);
		cr_assert_eq(view.length, lengths[frames]);
		frames++;
	}
	cr_assert_eq(frames, 3);
	cr_assert_eq(memcmp(view.payload, payload, sizeof(payload)), 0);
}

Test(agent_frames, any_cut_of_the_stream_gives_the_same_frames, .init = prepare)
{
	const size_t steps[] = {1, 2, 3, 7, 8, 9, 13, 4096, 2 * AGENT_FRAME_MAX};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		three_frames_check(steps[i]);
}

Test(agent_frames, garbage_never_gets_past_the_bounds, .init = prepare)
{
	uint8_t noise[512];

	srand(1);
	for (int round = 0; round < 20000; round++) {
		size_t at = 0;

		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (uint8_t)(rand() >> 7) & (round % 2 ? 0xff : 0x0f);
		agent_reader_init(&reader, round % 3 ? AGENT_FROM_HOST : AGENT_FROM_GUEST);
		while (at < sizeof(noise)) {
			struct agent_view view = {0};
			bool complete;
			ssize_t taken = agent_reader_feed(&reader, noise + at, sizeof(noise) - at,
							  &view, &complete);

			if (taken < 0)
				break;
			cr_assert(taken > 0 && (size_t)taken <= sizeof(noise) - at);
			cr_assert_leq(reader.have, sizeof(reader.data));
			at += (size_t)taken;
		}
	}
}

Test(agent_frames, reader_is_usable_again_after_an_error, .init = prepare)
{
	struct agent_view view;
	bool complete;

	cr_assert_eq(header_feed(AGENT_FROM_HOST, AGENT_STDOUT, 1), -EPROTO);
	agent_reader_init(&reader, AGENT_FROM_HOST);
	agent_frame_put(&ring, 9, AGENT_PING, "x", 1);
	cr_assert_eq(agent_reader_feed(&reader, storage, 8, &view, &complete), 8);
	cr_assert_not(complete);
	cr_assert_eq(agent_reader_feed(&reader, storage + 8, 1, &view, &complete), 1);
	cr_assert(complete);
	cr_assert_eq(view.channel, 9);
}

Test(agent_frames, u32_payloads, .init = prepare)
{
	struct agent_view view;
	bool complete;

	cr_assert_eq(agent_frame_put_u32(&ring, 1, AGENT_EXIT, 0x01020304), 0);
	cr_assert_eq(storage[8], 4);
	cr_assert_eq(storage[11], 1);
	agent_reader_init(&reader, AGENT_FROM_GUEST);
	cr_assert_eq(agent_reader_feed(&reader, storage, 8, &view, &complete), 8);
	cr_assert_eq(agent_reader_feed(&reader, storage + 8, 4, &view, &complete), 4);
	cr_assert(complete);
	cr_assert_eq(agent_view_u32(&view), 0x01020304);
}

Test(agent_frames, frames_go_in_whole_or_not_at_all, .init = prepare)
{
	static const char payload[AGENT_PAYLOAD_MAX + 1];

	agent_ring_init(&ring, storage, 20);
	cr_assert_eq(agent_frame_put(&ring, 1, AGENT_PING, payload, 12), 0);
	cr_assert_eq(agent_ring_room(&ring), 0);
	cr_assert_eq(agent_frame_put(&ring, 1, AGENT_CLOSE, NULL, 0), -ENOBUFS);
	agent_ring_drop(&ring, 7);
	cr_assert_eq(agent_frame_put(&ring, 1, AGENT_CLOSE, NULL, 0), -ENOBUFS);
	cr_assert_eq(ring.used, 13);
	agent_ring_drop(&ring, 1);
	cr_assert_eq(agent_frame_put(&ring, 1, AGENT_CLOSE, NULL, 0), 0);

	prepare();
	cr_assert_eq(agent_frame_put(&ring, 1, AGENT_STDIN, payload, sizeof(payload)), -EMSGSIZE);
	cr_assert_eq(ring.used, 0);
}

Test(agent_frames, ring_keeps_order_across_its_end, .init = prepare)
{
	uint8_t next_in = 0, next_out = 0;
	struct iovec iov[2];

	agent_ring_init(&ring, storage, 61);
	for (int round = 0; round < 10000; round++) {
		uint8_t bytes[32];
		size_t length = (size_t)round % sizeof(bytes);

		for (size_t i = 0; i < length; i++)
			bytes[i] = (uint8_t)(next_in + i);
		if (agent_ring_put(&ring, bytes, length) == 0)
			next_in += length;
		for (int i = 0; i < agent_ring_peek(&ring, iov); i++)
			for (size_t j = 0; j < iov[i].iov_len; j++, next_out++)
				cr_assert_eq(((uint8_t *)iov[i].iov_base)[j], next_out);
		next_out -= ring.used;
		length = ring.used < (size_t)round % 17 ? ring.used : (size_t)round % 17;
		agent_ring_drop(&ring, length);
		next_out += length;
	}
}

Test(agent_frames, ring_limits, .init = prepare)
{
	struct iovec iov[2];

	agent_ring_init(&ring, storage, 8);
	cr_assert_eq(agent_ring_peek(&ring, iov), 0);
	cr_assert_eq(agent_ring_put(&ring, "123456789", 9), -ENOBUFS);
	cr_assert_eq(agent_ring_put(&ring, "12345678", 8), 0);
	cr_assert_eq(agent_ring_put(&ring, "x", 1), -ENOBUFS);
	cr_assert_eq(agent_ring_put(&ring, NULL, 0), 0);
	agent_ring_drop(&ring, 100);
	cr_assert_eq(agent_ring_room(&ring), 8);
	cr_assert_eq(ring.head, 0);
}
