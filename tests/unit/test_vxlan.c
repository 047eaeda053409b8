/* SPDX-License-Identifier: GPL-2.0-or-later */
/* VXLAN headers: what is made, what is taken, and every malformed form of it (B1). */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "vnet/vxlan.h"

#define VNI 0x123456u

/* The reason for the drop of a header and @frame bytes; DROP_REASONS: taken. */
static enum drop_reason parse(const uint8_t header[VXLAN_HEADER], size_t len)
{
	enum drop_reason reason = DROP_REASONS;
	uint8_t *copy = calloc(1, len ? len : 1); /* so that a sanitizer sees its end */
	size_t found;

	memcpy(copy, header, len < VXLAN_HEADER ? len : VXLAN_HEADER);
	found = vxlan_parse(copy, len, VNI, &reason);
	free(copy);
	cr_assert_eq(found, reason == DROP_REASONS ? VXLAN_HEADER : 0);
	return reason;
}

static const uint8_t good[VXLAN_HEADER] = {0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0};

Test(vxlan, header_on_the_wire)
{
	uint8_t header[VXLAN_HEADER];

	memset(header, 0xff, sizeof(header));
	cr_assert_eq(vxlan_build(header, VNI), VXLAN_HEADER);
	cr_assert_arr_eq(header, good, VXLAN_HEADER);
}

Test(vxlan, lengths)
{
	for (size_t len = 0; len < VXLAN_HEADER; len++)
		cr_assert_eq(parse(good, len), DROP_FORMAT);
	for (size_t len = 0; len < FRAME_SIZE_MIN; len++)
		cr_assert_eq(parse(good, VXLAN_HEADER + len), DROP_RUNT);
	cr_assert_eq(parse(good, VXLAN_HEADER + FRAME_SIZE_MIN), DROP_REASONS);
	cr_assert_eq(parse(good, VXLAN_HEADER + FRAME_SIZE_MAX), DROP_REASONS);
	cr_assert_eq(parse(good, VXLAN_HEADER + FRAME_SIZE_MAX + 1), DROP_OVERSIZE);
}

/* Each bit turned: the I flag and the VNI matter, the others are reserved. */
Test(vxlan, every_bit)
{
	for (unsigned bit = 0; bit < 8 * VXLAN_HEADER; bit++) {
		enum drop_reason expected = DROP_REASONS;
		uint8_t header[VXLAN_HEADER];

		memcpy(header, good, sizeof(header));
		header[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (bit == 3)
			expected = DROP_FORMAT;
		else if (bit >= 32 && bit < 56)
			expected = DROP_FOREIGN;
		cr_assert_eq(parse(header, VXLAN_HEADER + 60), expected);
	}
}
