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

/* --- weft's options -------------------------------------------------------------------------- */

#define PART	"\xff\x57\x82\x03"
#define OFFLOAD "\xff\x57\x81\x03"
#define HOPS	"\xff\x57\x83\x01"

/* Bytes of options as one argument: the C strings below hold zeros. */
#define OPTIONS(string) packet_critical(string, sizeof(string) - 1)

static struct packet *packet_critical(const void *options, size_t len)
{
	struct packet *p = packet(options, len, 60);

	p->bytes[1] = GENEVE_CRITICAL;
	return p;
}

static struct geneve_extras parsed(const struct packet *p, size_t offset)
{
	enum drop_reason reason;
	struct geneve_extras extras;

	cr_assert_eq(geneve_parse(p->bytes, p->len, VNI, &extras, &reason), offset);
	return extras;
}

static bool offload_equal(const struct frame_offload *a, const struct frame_offload *b)
{
	return a->flags == b->flags && a->gso_type == b->gso_type && a->hdr_len == b->hdr_len &&
	       a->gso_size == b->gso_size && a->csum_start == b->csum_start &&
	       a->csum_offset == b->csum_offset;
}

static bool extras_equal(const struct geneve_extras *a, const struct geneve_extras *b)
{
	return a->control == b->control && a->part == b->part && a->hops == b->hops &&
	       offload_equal(&a->offload, &b->offload) && a->where.id == b->where.id &&
	       a->where.total == b->where.total && a->where.offset == b->where.offset;
}

/* Each option, by itself and all of them, written and read back; the sizes add up. */
Test(geneve, extras_come_back)
{
	const struct fragment where = {0xfedcba98, FRAME_SIZE_MAX, 0};
	const struct frame_offload offload = {1, 0x81, 0x1234, 0x5678, 0x9abc, 0xdef0};

	for (unsigned mask = 0; mask < 8; mask++) {
		struct geneve_extras extras = {0}, back;
		struct packet *p = packet(NULL, 0, 60);
		uint8_t header[GENEVE_HEADER_MAX];
		size_t size = HEADER;

		if (mask & 1)
			extras.offload = offload, size += 16;
		if (mask & 2)
			extras.part = true, extras.where = where, size += 16;
		if (mask & 4)
			extras.hops = FRAME_HOPS_MAX - 1, size += 8;
		cr_assert_eq(geneve_size(&extras), size);
		cr_assert_eq(geneve_build(header, VNI, &extras), size);
		memcpy(p->bytes, header, size);
		p->len = size + 60;
		back = parsed(p, size);
		cr_assert(extras_equal(&back, &extras));
	}
}

Test(geneve, plain_extras_are_a_plain_header)
{
	const struct geneve_extras plain[] = {{0}, {.hops = FRAME_HOPS_MAX}};
	uint8_t header[GENEVE_HEADER_MAX], expected[GENEVE_HEADER_MAX];

	cr_assert_eq(geneve_build(expected, VNI, NULL), HEADER);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(geneve_size(&plain[i]), HEADER);
		cr_assert_eq(geneve_build(header, VNI, &plain[i]), HEADER);
		cr_assert_arr_eq(header, expected, HEADER);
	}
}

Test(geneve, session_message)
{
	struct packet *p = packet(NULL, 0, 0);
	struct geneve_extras extras = {.control = true};

	cr_assert_eq(geneve_build(p->bytes, VNI, &extras), HEADER);
	cr_assert_arr_eq(p->bytes, "\0\x80\x88\xb5\x12\x34\x56", 7);
	for (size_t len = 0; len < 100; len++) { /* any length: the session judges it */
		p->len = HEADER + len;
		extras = parsed(p, HEADER);
		cr_assert(extras.control && !extras.part && !extras.hops);
	}
	p->len = PACKET_MAX;
	cr_assert(parsed(p, HEADER).control);
	p->bytes[1] = 0; /* its type in what is said to be a frame */
	cr_assert_eq(parse(p, 0), DROP_FORMAT);
}

/* Every length that an option can have, but one, is refused; it is never read past its end. */
Test(geneve, option_of_every_length)
{
	const struct {
		uint8_t type, length;
	} options[] = {{0x81, 3}, {0x82, 3}, {0x83, 1}};
	uint8_t bytes[4 + 31 * 4];

	for (unsigned i = 0; i < 3; i++) {
		for (uint8_t length = 0; length < 32; length++) {
			enum drop_reason expected =
			    length == options[i].length ? DROP_REASONS : DROP_OPTION;
			struct packet *p;

			memset(bytes, 0, sizeof(bytes));
			memcpy(bytes, "\xff\x57", 2);
			bytes[2] = options[i].type;
			bytes[3] = length;
			bytes[4] = 1;	  /* flags, hops; the id */
			bytes[4 + 7] = 0; /* of the total 14 */
			if (options[i].type == GENEVE_WEFT_PART)
				bytes[4 + 7] = 14;
			p = packet_critical(bytes, 4 + length * 4u);
			cr_assert_eq(parse(p, HEADER + 4 + length * 4u), expected);
			p->len = HEADER + 4 + length * 4u; /* nothing behind it */
			if (expected == DROP_OPTION)
				cr_assert_eq(parse(p, 0), DROP_OPTION);
		}
	}
}

/* The data cut off at every byte. */
Test(geneve, option_cut_short)
{
	struct packet *p = OPTIONS(PART "abcd\0\0\0\x20\0\0\0\0" OFFLOAD
					"\1\0\0\0\0\0\0\0\0\0\0\0" HOPS "\1\0\0\0");
	size_t header = HEADER + 16 + 16 + 8;

	cr_assert_eq(parse(p, header), DROP_REASONS);
	for (p->len = 0; p->len < header; p->len++)
		cr_assert_eq(parse(p, 0), DROP_FORMAT);
	cr_assert_eq(parse(p, header), DROP_REASONS); /* a part may be empty here */
}

Test(geneve, option_twice)
{
	cr_assert_eq(parse(OPTIONS(HOPS "\1\0\0\0" HOPS "\1\0\0\0"), 0), DROP_OPTION);
	cr_assert_eq(
	    parse(OPTIONS(OFFLOAD "\1\0\0\0\0\0\0\0\0\0\0\0" OFFLOAD "\1\0\0\0\0\0\0\0\0\0\0\0"),
		  0),
	    DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\0\0\x20\0\0\0\0" HOPS "\1\0\0\0" PART
					"abcd\0\0\0\x20\0\0\0\0"),
			   0),
		     DROP_OPTION);
}

Test(geneve, option_without_sense)
{
	/* no offload, all hops, no hops, more hops than there are, reserved bytes */
	cr_assert_eq(parse(OPTIONS(OFFLOAD "\0\0\1\1\1\1\1\1\1\1\0\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(OFFLOAD "\1\0\0\0\0\0\0\0\0\0\1\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(OFFLOAD "\1\0\0\0\0\0\0\0\0\0\0\1"), 0), DROP_OPTION);
	for (unsigned hops = 0; hops < 256; hops++) {
		struct packet *p = OPTIONS(HOPS "\1\0\0\0");
		bool good = hops && hops < FRAME_HOPS_MAX;

		p->bytes[HEADER + 4] = (uint8_t)hops;
		cr_assert_eq(parse(p, HEADER + 8), good ? DROP_REASONS : DROP_OPTION);
	}
	cr_assert_eq(parse(OPTIONS(HOPS "\1\1\0\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(HOPS "\1\0\1\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(HOPS "\1\0\0\1"), 0), DROP_OPTION);
	/* total 13, 0x1000e (too long), 0xffffffff; offset at and behind the end */
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\0\0\x0d\0\0\0\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\1\0\x0d\0\0\0\0"), HEADER + 16), DROP_REASONS);
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\1\0\x0e\0\0\0\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(PART "abcd\xff\xff\xff\xff\0\0\0\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\0\0\x20\0\0\0\x1f"), HEADER + 16), DROP_REASONS);
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\0\0\x20\0\0\0\x20"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\0\0\x20\xff\xff\xff\xff"), 0), DROP_OPTION);
}

Test(geneve, options_in_contradiction)
{
	struct packet *p;

	/* Of the whole frame, but not on its first part. */
	cr_assert_eq(parse(OPTIONS(PART "abcd\0\0\0\x20\0\0\0\x10" HOPS "\1\0\0\0"), 0),
		     DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(HOPS "\1\0\0\0" PART "abcd\0\0\0\x20\0\0\0\x10"), 0),
		     DROP_OPTION);
	cr_assert_eq(
	    parse(OPTIONS(PART "abcd\0\0\0\x20\0\0\0\x10" OFFLOAD "\1\0\0\0\0\0\0\0\0\0\0\0"), 0),
	    DROP_OPTION);
	/* On a session message. */
	p = OPTIONS(HOPS "\1\0\0\0");
	memcpy(p->bytes + 1, "\xc0\x88\xb5", 3);
	cr_assert_eq(parse(p, 0), DROP_OPTION);
	p = OPTIONS(PART "abcd\0\0\0\x20\0\0\0\0");
	memcpy(p->bytes + 1, "\xc0\x88\xb5", 3);
	cr_assert_eq(parse(p, 0), DROP_OPTION);
	/* Critical options without the header's C bit. */
	p = OPTIONS(HOPS "\1\0\0\0");
	p->bytes[1] = 0;
	cr_assert_eq(parse(p, 0), DROP_OPTION);
}

/* Options of others beside ours; only a critical one is in the way. */
Test(geneve, options_of_others)
{
	cr_assert_eq(parse(OPTIONS("\1\2\3\1abcd" HOPS "\1\0\0\0"
				   "\1\2\3\1abcd"),
			   HEADER + 24),
		     DROP_REASONS);
	cr_assert_eq(parse(OPTIONS(HOPS "\1\0\0\0"
					"\1\2\203\1abcd"),
			   0),
		     DROP_OPTION);
	/* Our class, but a type that we do not know; ours, not marked as critical. */
	cr_assert_eq(parse(OPTIONS("\xff\x57\x84\1abcd"), 0), DROP_OPTION);
	cr_assert_eq(parse(OPTIONS(HOPS "\1\0\0\0"
					"\xff\x57\x04\1abcd"),
			   HEADER + 16),
		     DROP_REASONS);
	cr_assert_eq(parse(packet("\xff\x57\x03\1\1\0\0\0", 8, 60), HEADER + 8), DROP_REASONS);
	/* Another class with one of our types. */
	cr_assert_eq(parse(OPTIONS("\xff\x58\x83\1\1\0\0\0"), 0), DROP_OPTION);
	cr_assert_eq(parse(packet("\xff\x58\x03\1\1\0\0\0", 8, 60), HEADER + 8), DROP_REASONS);
}

/* A part is not judged as a frame: it may be of any length. */
Test(geneve, part_of_any_length)
{
	struct packet *p = OPTIONS(PART "abcd\0\0\0\x20\0\0\0\0");

	for (size_t len = 0; len < 40; len++) {
		struct geneve_extras extras;

		p->len = HEADER + 16 + len;
		extras = parsed(p, HEADER + 16);
		cr_assert(extras.part);
		cr_assert_eq(extras.where.id, 0x61626364);
		cr_assert_eq(extras.where.total, 32);
	}
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
			cr_assert(found >= HEADER && found <= p.len);
		else
			cr_assert(reason < DROP_REASONS);
	}
}
