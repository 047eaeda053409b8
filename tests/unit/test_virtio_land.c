/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Receive buffers that a NIC lends: what a link writes there is the guest's without a copy, and
 * nothing of what is not its is left there.
 */
#include <criterion/criterion.h>

#include <linux/virtio_net.h>
#include <string.h>

#include "tests/unit/device_rig.h"
#include "vnet/core.h"

#define RX	  0
#define HDR	  12u
#define BUFFER	  2048u
#define BIT(n)	  (1ull << (n))
#define FEATURES  (BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MTU) | BIT(VIRTIO_NET_F_STATUS))
#define MERGEABLE BIT(VIRTIO_NET_F_MRG_RXBUF)
#define RING	  16u

static struct device_rig rig;
static struct core *core;
static struct port *nic, link_port;
static struct landing *landing;
static uint8_t data[FRAME_SIZE_MAX];

static void link_send(struct port *port, struct frame *const frames[], unsigned n)
{
	(void)port, (void)frames, (void)n;
}

static void link_close(struct port *port)
{
	(void)port;
}

static const struct port_ops link_ops = {
    .type = "test", .send_batch = link_send, .close = link_close};

static void setup_with(uint64_t features)
{
	struct virtio_net_options opt = {
	    .name = "nic0", .mtu = 9000, .queue_size = 256, .mac = {0x52, 0x54, 0, 1, 2, 3}};

	landing = NULL;
	rig_begin(&rig);
	rig.dev = virtio_net_create(&rig.env, &opt);
	nic = virtio_net_port(rig.dev);
	link_port = (struct port){.ops = &link_ops, .kind = PORT_LINK, .name = "link"};
	core = core_create(NULL);
	cr_assert_eq(core_attach(core, nic), 0);
	cr_assert_eq(core_attach(core, &link_port), 0);
	rig_start(&rig, features, RING);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 5 + i / 256 + 1) | 1;
}

static void setup(void)
{
	setup_with(FEATURES | MERGEABLE);
}

static void teardown(void)
{
	if (!rig.dev)
		return;
	virtio_stop(rig.dev);
	virtio_net_destroy(rig.dev);
	core_destroy(core);
	rig_end(&rig);
}

static uint8_t *buffer(unsigned i)
{
	return rig_host(&rig, RIG_DATA + (uint64_t)i * BUFFER);
}

static void post(unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++) {
		struct ring_buffer to = {
		    .gpa = RIG_DATA + (uint64_t)i * BUFFER, .len = BUFFER, .device_writes = true};

		cr_assert(rig_add(&rig, RX, &to, 1));
	}
}

static void land(uint32_t len)
{
	nic->ops->land(nic, len, &landing);
}

/* What a link receives. */
static void fill(uint32_t len)
{
	struct iov_cursor at = landing->room;

	cr_assert_eq(iov_write(&at, data, len), len);
	landing->written = len;
}

/* A frame that the link received into the landing. */
static void deliver(uint32_t len)
{
	struct iovec iov[LANDING_PIECES];
	struct iov_cursor at = landing->room;
	struct frame frame = {.iov = iov, .len = len, .landing = landing}, *list = &frame;

	frame.iovcnt = iov_slice(&at, len, iov, LANDING_PIECES);
	memcpy(frame.eth, data, FRAME_HEADER);
	core_input(core, &link_port, &list, 1);
}

static void deliver_copied(uint32_t len)
{
	struct iovec iov = {data, len};
	struct frame frame = {.iov = &iov, .iovcnt = 1, .len = len}, *list = &frame;

	memcpy(frame.eth, data, FRAME_HEADER);
	core_input(core, &link_port, &list, 1);
}

/* The guest finds a frame of @len bytes in @buffers buffers, the first of them number @first. */
static void expect(uint32_t len, unsigned first, unsigned buffers)
{
	struct virtio_net_hdr_v1 hdr;
	uint32_t at = 0;

	memcpy(&hdr, buffer(first), HDR);
	cr_assert_eq(hdr.num_buffers, buffers);
	for (unsigned i = 0; i < buffers; i++) {
		uint32_t skip = i ? 0 : HDR, room = BUFFER - skip;
		uint32_t piece = len - at < room ? len - at : room;

		cr_assert_eq(rig_used(&rig, RX), piece + skip);
		cr_assert_eq(memcmp(buffer(first + i) + skip, data + at, piece), 0);
		at += piece;
	}
	cr_assert_eq(rig_used(&rig, RX), -1);
}

Test(virtio_land, without_a_copy, .init = setup, .fini = teardown)
{
	post(0, 8);
	land(9000);
	cr_assert_not_null(landing);
	cr_assert_geq(landing->len, 9000);
	fill(5000);
	deliver(5000);
	nic->ops->land_end(landing);
	cr_assert_null(landing);
	expect(5000, 0, 3);
	cr_assert_eq(nic->counters.copied_bytes, 0);
	cr_assert_eq(nic->counters.landed_frames, 1);
	cr_assert_eq(nic->counters.out_bytes, 5000);
}

/* One descriptor for each frame, without mergeable buffers. */
Test(virtio_land, one_buffer, .fini = teardown)
{
	setup_with(FEATURES);
	post(0, 4);
	land(BUFFER);
	cr_assert_null(landing, "no room for the header");
	land(BUFFER - HDR);
	cr_assert_not_null(landing);
	fill(1500);
	deliver(1500);
	nic->ops->land_end(landing);
	expect(1500, 0, 1);
	cr_assert_eq(nic->counters.copied_bytes, 0);
}

/* Buffers that were lent and not used are used first, and none is lost. */
Test(virtio_land, unused_come_back, .init = setup, .fini = teardown)
{
	post(0, 6);
	for (unsigned i = 0; i < 20; i++) {
		land(9000);
		nic->ops->land_end(landing);
	}
	deliver_copied(100);
	expect(100, 0, 1);
	land(9000);
	cr_assert_not_null(landing);
	fill(9000);
	deliver(9000);
	nic->ops->land_end(landing);
	expect(9000, 1, 5);
	deliver_copied(100);
	cr_assert_eq(nic->counters.drops[DROP_RING_FULL], 1);
	cr_assert_eq(rig_used(&rig, RX), -1);
}

/* A frame that does not fit puts spare ones and others back where they were. */
Test(virtio_land, does_not_fit, .init = setup, .fini = teardown)
{
	post(0, 4);
	land(3000);
	nic->ops->land_end(landing);
	deliver_copied(9000);
	cr_assert_eq(nic->counters.drops[DROP_RING_FULL], 1);
	post(4, 1);
	deliver_copied(9000);
	expect(9000, 0, 5);
}

/* What landed and was not for the guest is erased before it can be shown. */
Test(virtio_land, erased, .init = setup, .fini = teardown)
{
	post(0, 4);
	land(6000);
	fill(6000);
	nic->ops->land_end(landing);
	deliver_copied(100);
	cr_assert_eq(rig_used(&rig, RX), 100 + HDR);
	for (unsigned i = 0; i < 4; i++)
		for (unsigned at = i ? 0 : HDR + 100; at < BUFFER; at++)
			cr_assert_eq(buffer(i)[at], 0);
}

/* It is dropped by the NIC: then it is not the guest's either. */
Test(virtio_land, dropped, .init = setup, .fini = teardown)
{
	post(0, 8);
	land(9100);
	fill(9100);
	deliver(9100); /* longer than the MTU */
	nic->ops->land_end(landing);
	cr_assert_eq(nic->counters.drops[DROP_OVERSIZE], 1);
	cr_assert_eq(rig_used(&rig, RX), -1);
	for (unsigned i = 0; i < 8 * BUFFER; i++)
		cr_assert_eq(buffer(0)[i], 0);
}

/* A second interface must have read it before the guest may have it. */
Test(virtio_land, to_several, .init = setup, .fini = teardown)
{
	struct port other = {.ops = &link_ops, .kind = PORT_INTERFACE, .name = "other"};

	cr_assert_eq(core_attach(core, &other), 0);
	post(0, 8);
	land(3000);
	fill(3000);
	deliver(3000);
	nic->ops->land_end(landing);
	expect(3000, 2, 2);
	cr_assert_eq(nic->counters.copied_bytes, 3000);
	cr_assert_eq(buffer(0)[HDR], 0);
	core_detach(core, &other);
}

Test(virtio_land, short_ring, .init = setup, .fini = teardown)
{
	post(0, 3);
	land(9000);
	cr_assert_null(landing, "too few buffers");
	deliver_copied(5000);
	expect(5000, 0, 3);
	post(0, 16);
	land(16 * BUFFER - HDR);
	cr_assert_null(landing, "no more than half of the ring");
	land(8 * BUFFER - HDR);
	cr_assert_not_null(landing);
	nic->ops->land_end(landing);
}

/* A reset in the middle: the buffers are the guest's from then on. */
Test(virtio_land, reset, .init = setup, .fini = teardown)
{
	post(0, 8);
	land(5000);
	fill(2000);
	rig_reset(&rig);
	cr_assert_null(landing);
	memset(buffer(0), 7, BUFFER);
	post(8, 4);
	deliver_copied(100);
	expect(100, 8, 1);
	cr_assert_eq(buffer(0)[HDR], 7);
}

Test(virtio_land, device_goes, .init = setup, .fini = teardown)
{
	post(0, 8);
	land(5000);
	virtio_stop(rig.dev);
	cr_assert_null(landing);
	land(5000);
	cr_assert_null(landing);
	rig_start(&rig, FEATURES | MERGEABLE, RING);
	post(0, 8);
	land(5000);
	cr_assert_not_null(landing);
	virtio_net_destroy(rig.dev);
	cr_assert_null(landing);
	core_destroy(core);
	rig_end(&rig);
	rig.dev = NULL;
}

/* A buffer that is none breaks the device, lent or not. */
Test(virtio_land, broken, .init = setup, .fini = teardown)
{
	struct ring_buffer readable = {.gpa = RIG_DATA, .len = BUFFER};

	post(0, 2);
	rig_add(&rig, RX, &readable, 1);
	land(9000);
	cr_assert_null(landing);
	cr_assert_not_null(rig.dev->broken);
	deliver_copied(100);
	cr_assert_eq(rig_used(&rig, RX), -1);
}

/* Whom a link may receive for. */
Test(virtio_land, whose_guest, .init = setup, .fini = teardown)
{
	struct port other = {.ops = &link_ops, .kind = PORT_INTERFACE, .name = "other"};
	struct route route = {.out = "nics"};

	cr_assert_null(core_landing_port(core, &link_port), "nothing is known");
	post(0, 8);
	deliver_copied(100);
	cr_assert_eq(core_landing_port(core, &link_port), nic);
	cr_assert_null(core_landing_port(core, nic));
	routes_destroy(core_routes_swap(core, routes_build(&route, 1)));
	deliver_copied(100);
	cr_assert_null(core_landing_port(core, &link_port));
	routes_destroy(core_routes_swap(core, routes_build(NULL, 0)));
	deliver_copied(100);
	cr_assert_eq(core_landing_port(core, &link_port), nic);
	cr_assert_eq(core_attach(core, &other), 0);
	deliver_copied(100);
	cr_assert_null(core_landing_port(core, &link_port));
	core_detach(core, &other);
}
