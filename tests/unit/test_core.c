/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The core with ports that only remember what they were given. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/core.h"

struct fake_port {
	struct port port;
	unsigned batches, closed;
	unsigned n; /* of the last batch */
	struct frame *frames[FRAME_BATCH_MAX];
};

static void fake_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct fake_port *fake = (struct fake_port *)port;

	cr_assert(n >= 1 && n <= FRAME_BATCH_MAX);
	fake->batches++;
	fake->n = n;
	memcpy(fake->frames, frames, n * sizeof(*frames));
}

static void fake_close(struct port *port)
{
	cr_assert_null(port->core);
	((struct fake_port *)port)->closed++;
}

static const struct port_ops fake_ops = {
    .type = "fake",
    .send_batch = fake_send_batch,
    .close = fake_close,
};

static void fake_attach(struct core *core, struct fake_port *fake, enum port_kind kind,
			const char *name)
{
	memset(fake, 0, sizeof(*fake));
	fake->port.ops = &fake_ops;
	fake->port.kind = kind;
	snprintf(fake->port.name, sizeof(fake->port.name), "%s", name);
	cr_assert_eq(core_attach(core, &fake->port), 0);
	cr_assert_eq(fake->port.core, core);
	cr_assert_eq(core_port(core, fake->port.index), &fake->port);
}

/* Two interfaces and two links. */
struct rig {
	struct core *core;
	struct fake_port nic[2], link[2];
	struct frame frame[FRAME_BATCH_MAX];
	struct frame *frames[FRAME_BATCH_MAX];
};

static struct rig rig;

static void rig_up(void)
{
	rig.core = core_create(NULL);
	cr_assert_not_null(rig.core);
	fake_attach(rig.core, &rig.nic[0], PORT_INTERFACE, "nic0");
	fake_attach(rig.core, &rig.link[0], PORT_LINK, "udp://a");
	fake_attach(rig.core, &rig.nic[1], PORT_INTERFACE, "nic1");
	fake_attach(rig.core, &rig.link[1], PORT_LINK, "udp://b");
	for (unsigned i = 0; i < FRAME_BATCH_MAX; i++) {
		rig.frame[i] = (struct frame){.len = 60 + i};
		rig.frames[i] = &rig.frame[i];
	}
}

static void rig_down(void)
{
	core_destroy(rig.core);
}

Test(core, interface_reaches_everybody_else, .init = rig_up, .fini = rig_down)
{
	core_input(rig.core, &rig.nic[0].port, rig.frames, 3);
	cr_assert_eq(rig.nic[0].batches, 0);
	cr_assert_eq(rig.nic[1].batches, 1);
	cr_assert_eq(rig.link[0].batches, 1);
	cr_assert_eq(rig.link[1].batches, 1);
	cr_assert_eq(rig.link[1].n, 3);
	cr_assert_eq(rig.nic[0].port.counters.in_frames, 3);
	cr_assert_eq(rig.nic[0].port.counters.in_bytes, 60 + 61 + 62);
}

Test(core, link_reaches_interfaces_only, .init = rig_up, .fini = rig_down)
{
	core_input(rig.core, &rig.link[0].port, rig.frames, FRAME_BATCH_MAX);
	cr_assert_eq(rig.link[0].batches, 0);
	cr_assert_eq(rig.link[1].batches, 0);
	cr_assert_eq(rig.nic[0].batches, 1);
	cr_assert_eq(rig.nic[1].batches, 1);
	cr_assert_eq(rig.nic[1].n, FRAME_BATCH_MAX);
}

Test(core, order_is_kept_and_bad_frames_are_left_out, .init = rig_up, .fini = rig_down)
{
	rig.frame[0].len = FRAME_SIZE_MIN - 1;
	rig.frame[2].len = 0;
	rig.frame[3].len = FRAME_SIZE_MAX + 1;
	rig.frame[4].len = FRAME_SIZE_MAX;
	rig.frame[5].len = FRAME_SIZE_MIN;
	core_input(rig.core, &rig.nic[0].port, rig.frames, 7);
	cr_assert_eq(rig.link[0].n, 4);
	cr_assert_eq(rig.link[0].frames[0], rig.frames[1]);
	cr_assert_eq(rig.link[0].frames[1], rig.frames[4]);
	cr_assert_eq(rig.link[0].frames[2], rig.frames[5]);
	cr_assert_eq(rig.link[0].frames[3], rig.frames[6]);
	cr_assert_eq(rig.nic[0].port.counters.in_frames, 7);
	cr_assert_eq(rig.nic[0].port.counters.drops[DROP_RUNT], 2);
	cr_assert_eq(rig.nic[0].port.counters.drops[DROP_OVERSIZE], 1);
}

Test(core, nothing_but_runts, .init = rig_up, .fini = rig_down)
{
	rig.frame[0].len = 13;
	core_input(rig.core, &rig.nic[0].port, rig.frames, 1);
	cr_assert_eq(rig.link[0].batches, 0);
	cr_assert_eq(rig.nic[0].port.counters.drops[DROP_RUNT], 1);
}

Test(core, nobody_to_send_to, .init = rig_up, .fini = rig_down)
{
	core_detach(rig.core, &rig.nic[1].port);
	core_detach(rig.core, &rig.link[0].port);
	core_detach(rig.core, &rig.link[1].port);
	cr_assert_eq(core_ports(rig.core), 1);
	core_input(rig.core, &rig.nic[0].port, rig.frames, 5);
	cr_assert_eq(rig.nic[0].port.counters.drops[DROP_NO_ROUTE], 5);
	cr_assert_eq(rig.nic[0].port.counters.in_frames, 5);
}

Test(core, links_alone_do_not_forward, .init = rig_up, .fini = rig_down)
{
	core_detach(rig.core, &rig.nic[0].port);
	core_detach(rig.core, &rig.nic[1].port);
	core_input(rig.core, &rig.link[0].port, rig.frames, 5);
	cr_assert_eq(rig.link[1].batches, 0);
	cr_assert_eq(rig.link[0].port.counters.drops[DROP_NO_ROUTE], 5);
}

Test(core, names_are_unique, .init = rig_up, .fini = rig_down)
{
	struct fake_port other = {.port = {.ops = &fake_ops, .name = "nic0"}};

	cr_assert_eq(core_attach(rig.core, &other.port), -EEXIST);
	core_detach(rig.core, &rig.nic[0].port);
	cr_assert_eq(core_attach(rig.core, &other.port), 0);
	core_detach(rig.core, &other.port);
}

Test(core, holes_are_filled, .init = rig_up, .fini = rig_down)
{
	struct fake_port other;

	core_detach(rig.core, &rig.link[0].port);
	cr_assert_null(core_port(rig.core, 1));
	cr_assert_eq(core_ports(rig.core), 4);
	core_input(rig.core, &rig.nic[0].port, rig.frames, 1);
	cr_assert_eq(rig.link[0].batches, 0);
	cr_assert_eq(rig.link[1].batches, 1);
	fake_attach(rig.core, &other, PORT_INTERFACE, "other"); /* where a link was */
	cr_assert_eq(other.port.index, 1);
	core_input(rig.core, &rig.link[1].port, rig.frames, 1);
	cr_assert_eq(other.batches, 1);
	core_detach(rig.core, &other.port);
}

Test(core, full, .init = rig_up, .fini = rig_down)
{
	static struct fake_port ports[CORE_PORTS_MAX];
	struct fake_port more = {.port = {.ops = &fake_ops, .name = "more"}};
	char name[32];

	for (unsigned i = 4; i < CORE_PORTS_MAX; i++) {
		snprintf(name, sizeof(name), "port%u", i);
		fake_attach(rig.core, &ports[i], PORT_LINK, name);
	}
	cr_assert_eq(core_ports(rig.core), CORE_PORTS_MAX);
	cr_assert_eq(core_attach(rig.core, &more.port), -ENOSPC);
	core_input(rig.core, &rig.nic[0].port, rig.frames, FRAME_BATCH_MAX);
	for (unsigned i = 4; i < CORE_PORTS_MAX; i++)
		cr_assert_eq(ports[i].n, FRAME_BATCH_MAX);
	core_input(rig.core, &ports[CORE_PORTS_MAX - 1].port, rig.frames, 1);
	cr_assert_eq(rig.nic[0].batches, 1);
	cr_assert_eq(ports[CORE_PORTS_MAX - 1].batches, 1);
}

Test(core, destroy_closes_what_is_attached)
{
	rig_up();
	core_detach(rig.core, &rig.nic[1].port);
	core_destroy(rig.core);
	cr_assert_eq(rig.nic[0].closed, 1);
	cr_assert_eq(rig.nic[1].closed, 0);
	cr_assert_eq(rig.link[0].closed, 1);
	cr_assert_eq(rig.link[1].closed, 1);
	core_destroy(NULL);
}

Test(core, every_reason_has_a_name)
{
	for (unsigned i = 0; i < DROP_REASONS; i++) {
		cr_assert_not_null(drop_reason_name(i));
		for (unsigned j = 0; j < i; j++)
			cr_assert(strcmp(drop_reason_name(i), drop_reason_name(j)) != 0);
	}
	cr_assert_str_eq(drop_reason_name(DROP_NOT_PEER), "not_peer");
	cr_assert_str_eq(drop_reason_name(DROP_REASONS), "unknown");
}
