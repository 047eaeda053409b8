/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The examples of docs/wire-format.md are what the code sends, and what it takes. An example stands
 * between
 * "<!-- wire: NAME -->" with "```" and the next "```": bytes in hexadecimal, comment behind '|'.
 */
#include <criterion/criterion.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vnet/fragment.h"
#include "vnet/geneve.h"
#include "vnet/session_message.h"
#include "vnet/vxlan.h"

#define VNI 7u

struct example {
	uint8_t bytes[256];
	size_t len;
};

/* The document lies in a directory above the one of this program: build/unit/, build/address/unit/.
 */
static FILE *document_open(void)
{
	char path[4096];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 64);
	FILE *file = NULL;

	cr_assert_gt(len, 0);
	path[len] = '\0';
	for (char *slash; !file && (slash = strrchr(path, '/'));) {
		strcpy(slash, "/docs/wire-format.md");
		file = fopen(path, "r");
		*slash = '\0';
	}
	cr_assert_not_null(file);
	return file;
}

static void line_read(const char *line, struct example *example)
{
	unsigned byte;
	int used;

	while (isspace((unsigned char)*line))
		line++;
	while (isxdigit((unsigned char)*line)) {
		cr_assert(isxdigit((unsigned char)line[1]) && isspace((unsigned char)line[2]));
		cr_assert_eq(sscanf(line, "%2x %n", &byte, &used), 1);
		cr_assert_lt(example->len, sizeof(example->bytes));
		example->bytes[example->len++] = (uint8_t)byte;
		line += used;
	}
	cr_assert(*line == '|' || *line == '\0');
}

static struct example example_read(const char *name)
{
	struct example example = {.len = 0};
	FILE *file = document_open();
	char line[1024], mark[64];
	bool found = false;

	snprintf(mark, sizeof(mark), "<!-- wire: %s -->\n", name);
	while (fgets(line, sizeof(line), file) && !found)
		found = !strcmp(line, mark);
	cr_assert(found);
	cr_assert_str_eq(line, "```\n");
	while (fgets(line, sizeof(line), file) && strcmp(line, "```\n") != 0)
		line_read(line, &example);
	fclose(file);
	return example;
}

static void same(const uint8_t *bytes, size_t len, const struct example *example)
{
	cr_assert_eq(len, example->len);
	cr_assert_arr_eq(bytes, example->bytes, len);
}

/* Taken with @payload bytes behind it, and understood as @extras. */
static void taken(const struct example *example, size_t payload, const struct geneve_extras *extras)
{
	uint8_t packet[4096] = {0}, again[GENEVE_HEADER_MAX];
	struct geneve_extras in;
	enum drop_reason reason;

	memcpy(packet, example->bytes, example->len);
	cr_assert_eq(geneve_parse(packet, example->len + payload, VNI, &in, &reason), example->len);
	cr_assert_eq(in.part, extras->part);
	cr_assert_eq(in.where.offset, extras->where.offset);
	same(again, geneve_build(again, VNI, &in), example);
}

Test(wire_format, plain)
{
	struct example example = example_read("plain");
	uint8_t header[GENEVE_HEADER_MAX];

	same(header, geneve_build(header, VNI, NULL), &example);
	taken(&example, 60, &(struct geneve_extras){0});
}

Test(wire_format, parts)
{
	const struct geneve_extras extras = {.offload = {1, 1, 54, 1448, 34, 16}, .hops = 15};
	struct example first = example_read("first-part"), second = example_read("second-part");
	uint8_t header[GENEVE_HEADER_MAX];
	struct geneve_extras out;
	struct fragment_cut cut;

	cr_assert_eq(fragment_cut_start(&cut, &extras, 0x01020304, 9014, 1472), 7);
	cr_assert_eq(fragment_cut_next(&cut, &out), 1424);
	same(header, geneve_build(header, VNI, &out), &first);
	taken(&first, 1424, &out);
	cr_assert_eq(fragment_cut_next(&cut, &out), 1448);
	same(header, geneve_build(header, VNI, &out), &second);
	taken(&second, 1448, &out);
}

Test(wire_format, hello)
{
	const struct session_message hello = {
	    .type = SESSION_HELLO,
	    .session = 0x1122334455667788,
	    .sequence = 1,
	    .time = 1000000,
	    .self = {PORT_OFFLOADS, FRAME_SIZE_MAX, SESSION_FRAGMENTS | SESSION_HOPS, {0}},
	};
	const struct geneve_extras extras = {.control = true};
	struct example example = example_read("hello");
	uint8_t packet[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE];
	size_t header = geneve_build(packet, VNI, &extras);
	struct session_message in;

	same(packet, header + session_message_build(packet + header, &hello), &example);
	cr_assert(session_message_parse(example.bytes + header, example.len - header, &in));
	cr_assert_eq(in.session, hello.session);
	cr_assert_eq(in.self.frame_max, FRAME_SIZE_MAX);
}

Test(wire_format, vxlan)
{
	struct example example = example_read("vxlan");
	uint8_t header[VXLAN_HEADER];

	same(header, vxlan_build(header, VNI), &example);
}
