/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Packets come from strangers: nothing is read before its length is known to be there. The order of
 * the checks is the order of the bytes: fixed header, the options as one block, each option in it,
 * the frame. Options that are not critical are passed over (RFC 8926, 3.5): a peer may send what we
 * do not know.
 *
 * weft's own options stand in one table with the exact length of each. An option that is there, but
 * says what its absence says (no offload, all hops left), is refused like one that contradicts
 * others: there is one way to write a header, and what the peer meant by another one is not
 * guessed. Pure functions, any thread.
 */
#include <string.h>

#include "vnet/geneve.h"

/* --- big endian ---------------------------------------------------------------------------- */

static void put16(uint8_t to[2], uint16_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

static void put32(uint8_t to[4], uint32_t value)
{
	put16(to, (uint16_t)(value >> 16));
	put16(to + 2, (uint16_t)value);
}

static uint16_t get16(const uint8_t from[2])
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static uint32_t get32(const uint8_t from[4])
{
	return (uint32_t)get16(from) << 16 | get16(from + 2);
}

/* --- weft's options ------------------------------------------------------------------------ */

/* Data of any of them, where it lies in the packet. */
union option_data {
	struct geneve_weft_offload offload;
	struct geneve_weft_part part;
	struct geneve_weft_hops hops;
};

static bool offload_present(const struct geneve_extras *extras)
{
	return extras->offload.flags || extras->offload.gso_type;
}

static void offload_write(union option_data *data, const struct geneve_extras *extras)
{
	data->offload.flags = extras->offload.flags;
	data->offload.gso_type = extras->offload.gso_type;
	put16(data->offload.hdr_len, extras->offload.hdr_len);
	put16(data->offload.gso_size, extras->offload.gso_size);
	put16(data->offload.csum_start, extras->offload.csum_start);
	put16(data->offload.csum_offset, extras->offload.csum_offset);
	put16(data->offload.reserved, 0);
}

static bool offload_read(const union option_data *data, struct geneve_extras *extras)
{
	extras->offload = (struct frame_offload){
	    .flags = data->offload.flags,
	    .gso_type = data->offload.gso_type,
	    .hdr_len = get16(data->offload.hdr_len),
	    .gso_size = get16(data->offload.gso_size),
	    .csum_start = get16(data->offload.csum_start),
	    .csum_offset = get16(data->offload.csum_offset),
	};
	return offload_present(extras) && !get16(data->offload.reserved);
}

static bool part_present(const struct geneve_extras *extras)
{
	return extras->part;
}

static void part_write(union option_data *data, const struct geneve_extras *extras)
{
	put32(data->part.id, extras->where.id);
	put32(data->part.total, extras->where.total);
	put32(data->part.offset, extras->where.offset);
}

static bool part_read(const union option_data *data, struct geneve_extras *extras)
{
	extras->part = true;
	extras->where = (struct fragment){
	    .id = get32(data->part.id),
	    .total = get32(data->part.total),
	    .offset = get32(data->part.offset),
	};
	return extras->where.total >= FRAME_SIZE_MIN && extras->where.total <= FRAME_SIZE_MAX &&
	       extras->where.offset < extras->where.total;
}

static bool hops_present(const struct geneve_extras *extras)
{
	return extras->hops && extras->hops < FRAME_HOPS_MAX;
}

static void hops_write(union option_data *data, const struct geneve_extras *extras)
{
	data->hops = (struct geneve_weft_hops){.hops = extras->hops};
}

static bool hops_read(const union option_data *data, struct geneve_extras *extras)
{
	const uint8_t *reserved = data->hops.reserved;

	extras->hops = data->hops.hops;
	return hops_present(extras) && !reserved[0] && !reserved[1] && !reserved[2];
}

/* In the order in which they are sent. */
static const struct weft_option {
	uint8_t type, size; /* size: of the data, bytes */
	bool (*present)(const struct geneve_extras *extras);
	void (*write)(union option_data *data, const struct geneve_extras *extras);
	bool (*read)(const union option_data *data, struct geneve_extras *extras);
} weft_options[] = {
    {GENEVE_WEFT_PART, sizeof(struct geneve_weft_part), part_present, part_write, part_read},
    {GENEVE_WEFT_OFFLOAD, sizeof(struct geneve_weft_offload), offload_present, offload_write,
     offload_read},
    {GENEVE_WEFT_HOPS, sizeof(struct geneve_weft_hops), hops_present, hops_write, hops_read},
};
#define WEFT_OPTIONS (sizeof(weft_options) / sizeof(weft_options[0]))

/* --- building ------------------------------------------------------------------------------ */

/* Append an option at @at. Returns the first byte behind it. */
static uint8_t *option_write(uint8_t *at, const struct weft_option *kind,
			     const struct geneve_extras *extras)
{
	struct geneve_option option = {.type = kind->type};

	put16(option.class, GENEVE_WEFT_CLASS);
	option.length = (uint8_t)(kind->size / GENEVE_OPTIONS_UNIT);
	memcpy(at, &option, sizeof(option));
	kind->write((union option_data *)(at + sizeof(option)), extras);
	return at + sizeof(option) + kind->size;
}

size_t geneve_size(const struct geneve_extras *extras)
{
	size_t size = sizeof(struct geneve_header);

	for (unsigned i = 0; extras && i < WEFT_OPTIONS; i++) {
		if (weft_options[i].present(extras))
			size += sizeof(struct geneve_option) + weft_options[i].size;
	}
	return size;
}

size_t geneve_build(uint8_t header[GENEVE_HEADER_MAX], uint32_t vni,
		    const struct geneve_extras *extras)
{
	struct geneve_header fixed = {.vni = {vni >> 16 & 0xff, vni >> 8 & 0xff, vni & 0xff}};
	bool control = extras && extras->control;
	uint8_t *at = header + sizeof(fixed);
	size_t options;

	for (unsigned i = 0; extras && i < WEFT_OPTIONS; i++) {
		if (weft_options[i].present(extras))
			at = option_write(at, &weft_options[i], extras);
	}
	options = (size_t)(at - header) - sizeof(fixed);
	put16(fixed.protocol, control ? GENEVE_SESSION : GENEVE_ETHERNET);
	fixed.version_length = (uint8_t)(options / GENEVE_OPTIONS_UNIT);
	fixed.flags = (control ? GENEVE_CONTROL : 0) | (options ? GENEVE_CRITICAL : 0);
	memcpy(header, &fixed, sizeof(fixed));
	return sizeof(fixed) + options;
}

/* --- parsing ------------------------------------------------------------------------------- */

/* What the walk over the options found. */
struct options_found {
	bool critical; /* any such option */
	bool wrong;    /* one that is unknown, or not as it must be */
	bool seen[WEFT_OPTIONS];
};

/* @data: @size bytes behind the option's start */
static bool option_read(const struct geneve_option *option, const uint8_t *data, size_t size,
			struct options_found *found, struct geneve_extras *extras)
{
	unsigned i = 0;

	while (i < WEFT_OPTIONS && weft_options[i].type != option->type)
		i++;
	if (get16(option->class) != GENEVE_WEFT_CLASS || i == WEFT_OPTIONS)
		return !(option->type & GENEVE_OPTION_CRITICAL);
	if (size != weft_options[i].size || found->seen[i])
		return false;
	found->seen[i] = true;
	return weft_options[i].read((const union option_data *)data, extras);
}

/* Walk the block of options. Returns false when they do not fill it exactly. */
static bool options_read(const uint8_t *at, size_t len, struct options_found *found,
			 struct geneve_extras *extras)
{
	while (len) {
		struct geneve_option option;
		size_t size;

		if (len < sizeof(option))
			return false;
		memcpy(&option, at, sizeof(option));
		size = (option.length & GENEVE_OPTION_LENGTH_MASK) * GENEVE_OPTIONS_UNIT;
		if (len - sizeof(option) < size)
			return false;
		found->critical = found->critical || option.type & GENEVE_OPTION_CRITICAL;
		found->wrong =
		    !option_read(&option, at + sizeof(option), size, found, extras) || found->wrong;
		at += sizeof(option) + size;
		len -= sizeof(option) + size;
	}
	return true;
}

/* Each option is right by itself; together? */
static bool extras_agree(const struct geneve_extras *extras)
{
	bool of_frame = offload_present(extras) || hops_present(extras);

	if (extras->control)
		return !extras->part && !of_frame;
	return !of_frame || !extras->part || !extras->where.offset;
}

static bool header_is_ours(const struct geneve_header *header)
{
	bool control = header->flags & GENEVE_CONTROL;

	return header->version_length >> GENEVE_VERSION_SHIFT == 0 &&
	       get16(header->protocol) == (control ? GENEVE_SESSION : GENEVE_ETHERNET);
}

static size_t drop(enum drop_reason *reason, enum drop_reason why)
{
	*reason = why;
	return 0;
}

size_t geneve_parse(const uint8_t *packet, size_t len, uint32_t vni, struct geneve_extras *extras,
		    enum drop_reason *reason)
{
	struct options_found found = {0};
	struct geneve_header header;
	size_t offset;

	if (len < sizeof(header))
		return drop(reason, DROP_FORMAT);
	memcpy(&header, packet, sizeof(header));
	if (!header_is_ours(&header))
		return drop(reason, DROP_FORMAT);
	offset =
	    sizeof(header) + (header.version_length & GENEVE_LENGTH_MASK) * GENEVE_OPTIONS_UNIT;
	if (len < offset)
		return drop(reason, DROP_FORMAT);
	if (((uint32_t)header.vni[0] << 16 | get16(header.vni + 1)) != vni)
		return drop(reason, DROP_FOREIGN);
	*extras = (struct geneve_extras){.control = header.flags & GENEVE_CONTROL};
	if (!options_read(packet + sizeof(header), offset - sizeof(header), &found, extras))
		return drop(reason, DROP_FORMAT);
	if (found.wrong || found.critical != !!(header.flags & GENEVE_CRITICAL) ||
	    !extras_agree(extras))
		return drop(reason, DROP_OPTION);
	if (extras->part || extras->control)
		return offset;
	if (len - offset < FRAME_SIZE_MIN)
		return drop(reason, DROP_RUNT);
	if (len - offset > FRAME_SIZE_MAX)
		return drop(reason, DROP_OVERSIZE);
	return offset;
}
