/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Geneve headers: what is made, what is taken, and every malformed form of it (B1). */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "vnet/geneve.h"

#define VNI	   0x123456u
#define PACKET_MAX 66000u
#define HEADER	   8u

struct packet {
	uint8_t bytes[PACKET_MAX];
	size_t len;
};

/* A packet with @options bytes of options, a frame of @frame bytes behind them. */
static struct packet *packet(const void *options, size_t options_len, size_t frame)
{
	static struct packet p;

	memset(&p, 0, sizeof(p));
	geneve_build(p.bytes, VNI, NULL);
	p.bytes[0] = (uint8_t)(options_len / GENEVE_OPTIONS_UNIT);
	if (options_len)
		memcpy(p.bytes + HEADER, options, options_len);
	p.len = HEADER + options_len + frame;
	return &p;
}

/* The reason for the drop, or DROP_REASONS when it was taken at @offset. */
static enum drop_reason parse(const struct packet *p, size_t offset)
{
	enum drop_reason reason = DROP_REASONS;
	struct geneve_extras extras;
	uint8_t *copy = malloc(p->len ? p->len : 1); /* so that a sanitizer sees its end */
	size_t found;

	memcpy(copy, p->bytes, p->len);
	found = geneve_parse(copy, p->len, VNI, &extras, &reason);
	free(copy);
	if (reason == DROP_REASONS)
		cr_assert_eq(found, offset);
	else
		cr_assert_eq(found, 0);
	return reason;
}

Test(geneve, header_on_the_wire)
{
	const uint8_t expected[HEADER] = {0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0};
	uint8_t header[GENEVE_HEADER_MAX];

	memset(header, 0xff, sizeof(header));
	cr_assert_eq(geneve_build(header, VNI, NULL), HEADER);
	cr_assert_arr_eq(header, expected, HEADER);
}

Test(geneve, takes_its_own)
{
	cr_assert_eq(parse(packet(NULL, 0, 1500), HEADER), DROP_REASONS);
	cr_assert_eq(parse(packet(NULL, 0, FRAME_SIZE_MIN), HEADER), DROP_REASONS);
	cr_assert_eq(parse(packet(NULL, 0, FRAME_SIZE_MAX), HEADER), DROP_REASONS);
}

Test(geneve, shorter_than_its_headers)
{
	struct packet *p = packet("\0\1\1\1abcd", 8, 60);

	for (p->len = 0; p->len < HEADER + 8; p->len++)
		cr_assert_eq(parse(p, 0), DROP_FORMAT);
}

Test(geneve, frame_inside_is_none)
{
	struct packet *p = packet(NULL, 0, 0);

	for (p->len = HEADER; p->len < HEADER + FRAME_SIZE_MIN; p->len++)
		cr_assert_eq(parse(p, 0), DROP_RUNT);
	cr_assert_eq(parse(packet(NULL, 0, FRAME_SIZE_MAX + 1), 0), DROP_OVERSIZE);
}

Test(geneve, version_and_protocol)
{
	struct packet *p = packet(NULL, 0, 60);

	for (unsigned version = 1; version < 4; version++) {
		p->bytes[0] = (uint8_t)(version << GENEVE_VERSION_SHIFT);
		cr_assert_eq(parse(p, 0), DROP_FORMAT);
	}
	for (unsigned byte = 2; byte < 4; byte++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			p = packet(NULL, 0, 60);
			p->bytes[byte] ^= (uint8_t)(1 << bit);
			cr_assert_eq(parse(p, 0), DROP_FORMAT);
		}
	}
}

Test(geneve, another_overlay)
{
	for (unsigned bit = 0; bit < 24; bit++) {
		struct packet *p = packet(NULL, 0, 60);

		p->bytes[4 + bit / 8] ^= (uint8_t)(1 << bit % 8);
		cr_assert_eq(parse(p, 0), DROP_FOREIGN);
	}
}

Test(geneve, reserved_bits_are_ignored)
{
	struct packet *p = packet("\xff\xff\x7f\xe0", 4, 60);

	p->bytes[1] = 0x3f;
	p->bytes[7] = 0xff;
	cr_assert_eq(parse(p, HEADER + 4), DROP_REASONS);
}

Test(geneve, control_packet)
{
	struct packet *p = packet(NULL, 0, 60);

	p->bytes[1] = GENEVE_CONTROL;
	cr_assert_eq(parse(p, 0), DROP_FORMAT);
}

Test(geneve, options_that_may_be_ignored)
{
	uint8_t most[252] = {0}; /* 63 options without data */

	cr_assert_eq(parse(packet("\1\2\3\0", 4, 60), HEADER + 4), DROP_REASONS);
	cr_assert_eq(parse(packet("\1\2\3\1abcd\1\2\4\0", 12, 60), HEADER + 12), DROP_REASONS);
	cr_assert_eq(parse(packet(most, sizeof(most), 60), HEADER + 252), DROP_REASONS);
	most[3] = 31; /* an option of the largest size, then others */
	cr_assert_eq(parse(packet(most, sizeof(most), 60), HEADER + 252), DROP_REASONS);
}

Test(geneve, options_past_their_space)
{
	cr_assert_eq(parse(packet("\1\2\3\1", 4, 60), 0), DROP_FORMAT);
	cr_assert_eq(parse(packet("\1\2\3\37", 4, 60), 0), DROP_FORMAT);
	cr_assert_eq(parse(packet("\1\2\3\0\1\2\3\1", 8, 60), 0), DROP_FORMAT);
	/* A critical option that lies about its length is malformed first. */
	cr_assert_eq(parse(packet("\1\2\203\1", 4, 60), 0), DROP_FORMAT);
}

Test(geneve, option_length_over_the_packet)
{
	struct packet *p = packet(NULL, 0, 60);

	p->bytes[0] = GENEVE_LENGTH_MASK;
	cr_assert_eq(parse(p, 0), DROP_FORMAT);
	p->bytes[0] = 15; /* all of the frame taken for options, not a byte left */
	cr_assert_eq(parse(p, 0), DROP_RUNT);
	p->bytes[0] = 16;
	cr_assert_eq(parse(p, 0), DROP_FORMAT);
}

Test(geneve, critical_options)
{
	struct packet *p;

	cr_assert_eq(parse(packet("\1\2\200\0", 4, 60), 0), DROP_OPTION);
	cr_assert_eq(parse(packet("\1\2\3\1abcd\1\2\377\0", 12, 60), 0), DROP_OPTION);
	p = packet("\1\2\3\0", 4, 60);
	p->bytes[1] = GENEVE_CRITICAL;
	cr_assert_eq(parse(p, 0), DROP_OPTION);
	p = packet(NULL, 0, 60);
	p->bytes[1] = GENEVE_CRITICAL;
	cr_assert_eq(parse(p, 0), DROP_OPTION);
}

/* Random bytes in front, and one flipped bit of a good packet: whatever comes out, it is in bounds.
 */
Test(geneve, noise)
{
	uint32_t seed = 1;

	for (unsigned round = 0; round < 20000; round++) {
		struct packet p;
		enum drop_reason reason = DROP_REASONS;
		struct geneve_extras extras;
		size_t found;

		p.len = seed % 96;
		for (size_t i = 0; i < p.len; i++) {
			seed = seed * 1664525u + 1013904223u;
			p.bytes[i] = (uint8_t)(seed >> 24);
		}
		if (round & 1)
			memcpy(p.bytes, packet(NULL, 0, 0)->bytes, p.len < 8 ? p.len : 8);
		if (round & 2)
			p.bytes[0] &= GENEVE_LENGTH_MASK & seed >> 8;
		seed = seed * 1664525u + 1013904223u;
		found = geneve_parse(p.bytes, p.len, VNI, &extras, &reason);
		if (found)
			cr_assert(found >= HEADER && found + FRAME_SIZE_MIN <= p.len);
		else
			cr_assert(reason < DROP_REASONS);
	}
}
