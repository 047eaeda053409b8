/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Building and parsing of session messages: the format stands in session_message.h. */
#include <assert.h>
#include <endian.h>
#include <string.h>

#include "vnet/session_message.h"

enum field { FIELD_SELF = 1, FIELD_PORTS, FIELD_OBSERVED, FIELD_LOST, FIELDS };

#define FIELD_HEADER 2u
#define PORT_SIZE    2u
#define FEATURES     (SESSION_FRAGMENTS | SESSION_HOPS)

static const char magic[4] = {'w', 'e', 'f', 't'};

/* The shortest value of a field. */
static const uint8_t field_size[FIELDS] = {
    [FIELD_SELF] = 12, [FIELD_PORTS] = PORT_SIZE, [FIELD_OBSERVED] = 2, [FIELD_LOST] = 8};

static_assert(SESSION_HEADER + 4 * FIELD_HEADER + 12 + SESSION_PORTS_MAX * PORT_SIZE + 2 + 8 <=
		  SESSION_HELLO_SIZE,
	      "any answer to a hello is no longer than it");

static uint8_t *put(uint8_t *at, uint64_t value, unsigned size)
{
	uint64_t big = htobe64(value);

	memcpy(at, (uint8_t *)&big + sizeof(big) - size, size);
	return at + size;
}

static uint64_t get(const uint8_t *at, unsigned size)
{
	uint64_t big = 0;

	memcpy((uint8_t *)&big + sizeof(big) - size, at, size);
	return be64toh(big);
}

static uint8_t *field_put(uint8_t *at, enum field field, unsigned size)
{
	at = put(at, field, 1);
	return put(at, size, 1);
}

static uint8_t *fields_build(uint8_t *at, const struct session_message *m)
{
	unsigned ports = 0;

	at = field_put(at, FIELD_SELF, 12);
	at = put(at, m->self.offloads, 4);
	at = put(at, m->self.frame_max, 4);
	at = put(at, m->self.features, 4);
	while (ports < SESSION_PORTS_MAX && m->self.ports[ports])
		ports++;
	if (ports)
		at = field_put(at, FIELD_PORTS, ports * PORT_SIZE);
	for (unsigned i = 0; i < ports; i++)
		at = put(at, m->self.ports[i], PORT_SIZE);
	if (m->observed)
		at = put(field_put(at, FIELD_OBSERVED, 2), m->observed, 2);
	return put(field_put(at, FIELD_LOST, 8), m->lost, 8);
}

static bool type_has_fields(uint8_t type)
{
	return type == SESSION_HELLO || type == SESSION_HELLO_ANSWER;
}

size_t session_message_build(uint8_t out[SESSION_HELLO_SIZE], const struct session_message *m)
{
	uint8_t *end = out + SESSION_HEADER;

	memset(out, 0, SESSION_HEADER);
	if (type_has_fields(m->type))
		end = fields_build(end, m);
	memcpy(out, magic, sizeof(magic));
	out[4] = SESSION_VERSION;
	out[5] = m->type;
	put(out + 6, (uint64_t)(end - out), 2);
	put(out + 8, m->session, 8);
	put(out + 16, m->peer, 8);
	put(out + 24, m->sequence, 4);
	put(out + 32, m->time, 8);
	return (size_t)(end - out);
}

static void self_parse(const uint8_t *value, struct session_self *self)
{
	uint64_t frame_max = get(value + 4, 4);

	self->offloads = (uint32_t)get(value, 4) & PORT_OFFLOADS;
	self->frame_max = frame_max > FRAME_SIZE_MAX   ? FRAME_SIZE_MAX
			  : frame_max < FRAME_SIZE_MIN ? FRAME_SIZE_MIN
						       : (uint32_t)frame_max;
	self->features = (uint32_t)get(value + 8, 4) & FEATURES;
}

/* Port 0 ends the list in memory, so it is left out wherever it stands on the wire. */
static void ports_parse(const uint8_t *value, unsigned size, struct session_self *self)
{
	unsigned n = 0;

	for (unsigned i = 0; i + PORT_SIZE <= size && n < SESSION_PORTS_MAX; i += PORT_SIZE) {
		self->ports[n] = (uint16_t)get(value + i, PORT_SIZE);
		if (self->ports[n])
			n++;
	}
}

static void field_parse(unsigned field, const uint8_t *value, unsigned size,
			struct session_message *m)
{
	switch (field) {
	case FIELD_SELF:
		self_parse(value, &m->self);
		break;
	case FIELD_PORTS:
		ports_parse(value, size, &m->self);
		break;
	case FIELD_OBSERVED:
		m->observed = (uint16_t)get(value, 2);
		break;
	case FIELD_LOST:
		m->lost = get(value, 8);
		break;
	}
}

static bool fields_parse(const uint8_t *at, const uint8_t *end, struct session_message *m)
{
	unsigned seen = 0;

	while (at < end) {
		unsigned field, size;

		if (end - at < (ptrdiff_t)FIELD_HEADER)
			return false;
		field = at[0];
		size = at[1];
		at += FIELD_HEADER;
		if (end - at < (ptrdiff_t)size)
			return false;
		if (field && field < FIELDS) {
			if (size < field_size[field] || seen & 1u << field)
				return false;
			seen |= 1u << field;
			field_parse(field, at, size, m);
		}
		at += size;
	}
	return seen & 1u << FIELD_SELF;
}

bool session_message_parse(const void *message, size_t len, struct session_message *m)
{
	const uint8_t *bytes = message;
	size_t length;

	memset(m, 0, sizeof(*m));
	if (len < sizeof(magic) + 1 || memcmp(bytes, magic, sizeof(magic)) != 0)
		return false;
	m->version = bytes[4];
	if (m->version != SESSION_VERSION)
		return true;
	if (len < SESSION_HEADER)
		return false;
	length = (size_t)get(bytes + 6, 2);
	if (length < SESSION_HEADER || length > len)
		return false;
	m->type = bytes[5];
	m->session = get(bytes + 8, 8);
	m->peer = get(bytes + 16, 8);
	m->sequence = (uint32_t)get(bytes + 24, 4);
	m->time = get(bytes + 32, 8);
	if (!m->session)
		return false;
	return !type_has_fields(m->type) || fields_parse(bytes + SESSION_HEADER, bytes + length, m);
}
