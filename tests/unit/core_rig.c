/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/core_rig.h"
#include "vnet/iovec.h"
#include "vnet/mac.h"

uint64_t core_rig_now_ns = 1000 * CORE_RIG_SECOND;

uint64_t core_rig_clock(void)
{
	return core_rig_now_ns;
}

static void core_rig_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct core_rig_port *rigged = (struct core_rig_port *)port;

	rigged->batches++;
	for (unsigned i = 0; i < n; i++, rigged->n++) {
		struct iov_cursor at = iov_cursor(frames[i]->iov, frames[i]->iovcnt);
		struct core_rig_frame *copy;

		if (rigged->n >= CORE_RIG_TAKEN)
			continue;
		copy = &rigged->taken[rigged->n];
		copy->frame = *frames[i];
		iov_read(&at, copy->bytes, sizeof(copy->bytes));
		rigged->same[rigged->n] = frames[i];
	}
}

static void core_rig_close(struct port *port)
{
	((struct core_rig_port *)port)->closed++;
}

static const struct port_ops core_rig_ops = {
    .type = "rig",
    .send_batch = core_rig_send_batch,
    .close = core_rig_close,
    .status = NULL,
};

void core_rig_up(struct core_rig *rig, struct core_options options)
{
	memset(rig, 0, sizeof(*rig));
	core_rig_now_ns = 1000 * CORE_RIG_SECOND;
	options.clock_ns = core_rig_clock;
	rig->core = core_create(&options);
	if (!rig->core)
		abort();
}

void core_rig_down(struct core_rig *rig)
{
	core_destroy(rig->core);
}

struct core_rig_port *core_rig_attach(struct core_rig *rig, unsigned place, enum port_kind kind,
				      const char *name)
{
	struct core_rig_port *rigged = &rig->ports[place];

	memset(&rigged->port, 0, sizeof(rigged->port));
	rigged->port.ops = &core_rig_ops;
	rigged->port.kind = kind;
	snprintf(rigged->port.name, sizeof(rigged->port.name), "%s", name);
	if (core_attach(rig->core, &rigged->port))
		abort();
	return rigged;
}

void core_rig_detach(struct core_rig *rig, unsigned place)
{
	core_detach(rig->core, &rig->ports[place].port);
}

struct frame *core_rig_bytes(struct core_rig *rig, unsigned i, const void *bytes, size_t len)
{
	struct core_rig_frame *made = &rig->frames[i];

	memcpy(made->bytes, bytes, len);
	made->iov = (struct iovec){.iov_base = made->bytes, .iov_len = len};
	made->frame = (struct frame){.iov = &made->iov, .iovcnt = 1, .len = (uint32_t)len};
	memcpy(made->frame.eth, bytes, FRAME_HEADER);
	rig->list[i] = &made->frame;
	return &made->frame;
}

struct frame *core_rig_frame(struct core_rig *rig, unsigned i, uint64_t source,
			     uint64_t destination)
{
	uint8_t bytes[64] = {
	    [12] = 0x88, [13] = 0xb5, [14] = (uint8_t)i}; /* local experimental EtherType */

	mac_store(bytes, destination);
	mac_store(bytes + FRAME_MAC_SIZE, source);
	return core_rig_bytes(rig, i, bytes, sizeof(bytes));
}

void core_rig_send(struct core_rig *rig, unsigned place, unsigned n)
{
	core_input(rig->core, &rig->ports[place].port, rig->list, n);
}

void core_rig_clear(struct core_rig *rig)
{
	for (unsigned i = 0; i < CORE_RIG_PORTS; i++)
		rig->ports[i].n = rig->ports[i].batches = 0;
}

unsigned core_rig_reached(const struct core_rig *rig)
{
	unsigned set = 0;

	for (unsigned i = 0; i < CORE_RIG_PORTS; i++)
		set |= (rig->ports[i].n ? 1u : 0) << i;
	return set;
}

uint64_t core_rig_mac(unsigned i)
{
	const uint8_t bytes[FRAME_MAC_SIZE] = {0x02, 0, 0, 0, (uint8_t)(i >> 8), (uint8_t)i};

	return mac_load(bytes);
}
