/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links over raw Ethernet, through pairs of veth interfaces in a network namespace of the test's
 * own. Strangers' packets come from the test itself.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/link_lab.h"
#include "vnet/geneve.h"

#define MAC_A "02:00:00:00:0a:01"
#define MAC_B "02:00:00:00:0b:01"

static struct loop *loop;
static struct lab_vm a, b;
static struct port *at_a, *at_b; /* the links */

static bool veth_make(unsigned mtu)
{
	return lab_shell("ip link add va address " MAC_A
			 " mtu %u type veth peer name vb address " MAC_B
			 " mtu %u && ip link set va up && ip link set vb up",
			 mtu, mtu);
}

static void vms_up(void)
{
	loop = loop_create(64);
	cr_assert_not_null(loop);
	lab_vm_up(&a, loop, LAB_VNI);
	lab_vm_up(&b, loop, LAB_VNI);
}

/* Both have heard of each other. */
static bool both_met(void *arg)
{
	(void)arg;
	return lab_status(at_a).state == LINK_UP && lab_status(at_b).state == LINK_UP;
}

static void links_up(void)
{
	at_a = lab_link(&a, "eth://va/" MAC_B);
	cr_assert_not_null(at_a, "%s", a.error);
	at_b = lab_link(&b, "eth://vb/" MAC_A);
	cr_assert_not_null(at_b, "%s", b.error);
	cr_assert(lab_until(loop, both_met, NULL));
}

static void down(void)
{
	lab_vm_down(&b);
	lab_vm_down(&a);
	loop_destroy(loop);
}

#define NEED_NETNS                                                                                 \
	do {                                                                                       \
		if (!lab_netns())                                                                  \
			cr_skip_test("no right to make a network namespace");                      \
	} while (0)

static void frames_cross(unsigned n, uint32_t len)
{
	unsigned want_a = a.frames + n, want_b = b.frames + n;

	/* On a machine that stood still one may just have taken the other for gone. */
	cr_assert(lab_until(loop, both_met, NULL));
	lab_send(&a, n, len);
	cr_assert(lab_until_frames(&b, want_b));
	lab_send(&b, n, len);
	cr_assert(lab_until_frames(&a, want_a));
	cr_assert_eq(a.bad + b.bad, 0);
}

Test(link_eth, frames_cross, .fini = down)
{
	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(1500));
	links_up();
	cr_assert_eq(at_a->mtu, 1500 - 8 - 14);
	for (uint32_t len = 14; len <= 1492; len += 83)
		frames_cross(1, len);
	frames_cross(1, 1492);
	for (unsigned i = 0; i < 100; i++) /* the ring goes round */
		frames_cross(60, 1000);
	cr_assert_eq(lab_dropped(at_a) + lab_dropped(at_b), 0);
	cr_assert_eq(lab_status(at_a).path_mtu, 1500);
	cr_assert_gt(lab_status(at_a).rtt_ns, 0);
}

/* Longer than a packet: in parts; with offload state and hops. */
Test(link_eth, super_frames_cross_whole, .fini = down)
{
	static struct lab_frame frame;
	static const uint8_t header[] = {
	    2, 0,  0, 0, 0,  2, 2, 0, 0,  0, 0,	   1,	 8,    0,    0x45, 0, 0xea, 0x60,
	    0, 1,  0, 0, 64, 6, 0, 0, 10, 0, 0,	   1,	 10,   0,    0,	   2, 0,    80,
	    0, 80, 0, 0, 0,  1, 0, 0, 0,  1, 0x50, 0x10, 0xff, 0xff, 0,	   0, 0,    0};

	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(1500));
	links_up();
	cr_assert_eq(at_a->offloads, PORT_OFFLOADS);
	frames_cross(1, 1493);
	frames_cross(1, FRAME_SIZE_MAX);
	for (unsigned i = 0; i < 30; i++)
		frames_cross(10, 60000 + i * 53);
	lab_frame(&frame, 0, 60014);
	memcpy(frame.data, header, sizeof(header));
	memcpy(frame.frame.eth, header, FRAME_HEADER);
	frame.frame.hops = 5;
	frame.frame.offload = (struct frame_offload){
	    .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
	    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
	    .hdr_len = 54,
	    .gso_size = 1448,
	    .csum_start = 34,
	    .csum_offset = 16,
	};
	lab_send_frame(&a, &frame);
	cr_assert(lab_until_frames(&b, 303));
	cr_assert_eq(b.last.len, 60014);
	cr_assert_eq(b.last.offload.gso_size, 1448);
	cr_assert_eq(b.last.offload.csum_start, 34);
	cr_assert_arr_eq(b.data, frame.data, 60014);
	cr_assert_eq(at_a->counters.out_frames, 303);
	cr_assert_eq(lab_dropped(at_a) + lab_dropped(at_b), 0);
}

/* Nobody answers: plain frames go out, long ones do not. */
Test(link_eth, plain_until_the_peer_answers, .fini = down)
{
	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(1500));
	at_a = lab_link(&a, "eth://va/" MAC_B);
	cr_assert_not_null(at_a, "%s", a.error);
	cr_assert_eq(lab_status(at_a).state, LINK_PLAIN);
	cr_assert_eq(at_a->offloads, 0);
	cr_assert_eq(at_a->mtu, 1500 - 8 - 14);
	lab_send(&a, 1, 1492);
	cr_assert_eq(at_a->counters.out_frames, 1);
	lab_send(&a, 2, 1493);
	cr_assert_eq(at_a->counters.drops[DROP_OVERSIZE], 2);
}

Test(link_eth, long_frames_cross, .fini = down)
{
	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(65535));
	links_up();
	cr_assert_eq(at_a->mtu, 65535 - 8 - 14);
	frames_cross(1, 65527);
	frames_cross(20, 9000);
	frames_cross(20, 65527);
}

Test(link_eth, mistakes_are_named, .fini = down)
{
	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(1500));
	links_up();
	cr_assert_null(lab_link(&a, "eth://none/" MAC_B));
	cr_assert_not_null(strstr(a.error, "no such interface"), "%s", a.error);
	cr_assert_null(lab_link(&a, "eth://lo/" MAC_B));
	cr_assert_not_null(strstr(a.error, "no Ethernet"), "%s", a.error);
	cr_assert_null(lab_link(&a, "eth://va/" MAC_A));
	cr_assert_not_null(strstr(a.error, "va itself"), "%s", a.error);
	cr_assert_null(lab_link(&a, "eth://va/02:00:00:00:0B:01,name=other"));
	cr_assert_not_null(strstr(a.error, "linked already"), "%s", a.error);
	cr_assert_not_null(lab_link(&a, "eth://va/02:00:00:00:0c:01,name=other"), "%s", a.error);
	cr_assert_not_null(lab_link(&a, "eth://vb/02:00:00:00:0c:01"), "%s", a.error);
	links_remove(a.links, lab_port(&a, "other"));
	frames_cross(1, 100);
}

/* Each peer's frames come by its own port. */
Test(link_eth, peers_are_told_apart, .fini = down)
{
	static struct lab_vm c;
	struct port *other, *at_c;

	vms_up();
	NEED_NETNS;
	/* Three interfaces on a bridge: a hub for this purpose. */
	cr_assert(
	    lab_shell("ip link add hub type bridge && ip link set hub up && for i in a b c; do "
		      "ip link add v$i address 02:00:00:00:0$i:01 type veth peer name p$i && "
		      "ip link set p$i master hub up && ip link set v$i up || exit 1; done"));
	links_up();
	other = lab_link(&a, "eth://va/02:00:00:00:0c:01");
	cr_assert_not_null(other, "%s", a.error);
	lab_vm_up(&c, loop, LAB_VNI);
	at_c = lab_link(&c, "eth://vc/" MAC_A);
	cr_assert_not_null(at_c, "%s", c.error);
	cr_assert(lab_until_up(loop, at_c));
	lab_send(&a, 5, 100);
	cr_assert(lab_until_frames(&b, 5));
	cr_assert(lab_until_frames(&c, 5));
	lab_send(&b, 2, 100);
	lab_send(&c, 3, 100);
	cr_assert(lab_until_frames(&a, 5));
	cr_assert_eq(at_a->counters.in_frames, 2);
	cr_assert_eq(other->counters.in_frames, 3);
	lab_vm_down(&c);
}

/* B6: the interface goes down and up, and is removed and made anew. */
Test(link_eth, interface_recovers, .fini = down)
{
	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(1500));
	links_up();
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(lab_shell("ip link set va down"));
		cr_assert(lab_until_down(loop, at_a));
		cr_assert_str_eq(lab_status(at_a).error, "the interface is down");
		lab_send(&a, 1, 100);
		cr_assert_eq(at_a->counters.drops[DROP_DOWN], i + 1);
		cr_assert(lab_shell("ip link set va mtu %u up", 1400 - i));
		cr_assert(lab_until(loop, both_met, NULL));
		cr_assert_eq(at_a->mtu, 1400 - i - 22);
		frames_cross(3, 500);
	}
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(lab_shell("ip link del va"));
		cr_assert(lab_until_down(loop, at_a));
		cr_assert(lab_until_down(loop, at_b));
		cr_assert(veth_make(1500));
		cr_assert(lab_until_up(loop, at_a));
		cr_assert(lab_until_up(loop, at_b));
		cr_assert(lab_until(loop, both_met, NULL));
		frames_cross(3, 500);
	}
}

/* Down when the link is made. */
Test(link_eth, interface_may_come_up_later, .fini = down)
{
	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(1500) && lab_shell("ip link set va down"));
	at_a = lab_link(&a, "eth://va/" MAC_B);
	cr_assert_not_null(at_a, "%s", a.error);
	cr_assert_not(lab_is_up(at_a));
	cr_assert(lab_shell("ip link set va up"));
	links_remove(a.links, at_a);
	links_up();
	frames_cross(1, 100);
}

/* --- strangers and nonsense (B1, B2) ------------------------------------------------------- */

static int raw;

static void raw_send(const char *interface, const void *packet, size_t len)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET,
				 .sll_protocol = htons(GENEVE_ETHERNET),
				 .sll_ifindex = (int)if_nametoindex(interface)};

	cr_assert_eq(sendto(raw, packet, len, 0, (struct sockaddr *)&to, sizeof(to)), (ssize_t)len);
}

/* What b's side sends to a: outer header, Geneve header, a frame of 60 bytes. */
struct packet {
	struct ether_header ethernet;
	struct geneve_header geneve;
	uint8_t frame[60];
} __attribute__((packed));

static struct packet packet_make(void)
{
	struct packet p = {
	    .ethernet = {{2, 0, 0, 0, 0xa, 1}, {2, 0, 0, 0, 0xb, 1}, htons(GENEVE_ETHERNET)}};
	uint8_t header[GENEVE_HEADER_MAX];

	geneve_build(header, LAB_VNI, NULL);
	memcpy(&p.geneve, header, sizeof(p.geneve));
	memset(p.frame, 2, sizeof(p.frame));
	return p;
}

Test(link_eth, nonsense_is_dropped, .fini = down)
{
	struct packet p;

	vms_up();
	NEED_NETNS;
	cr_assert(veth_make(1500));
	links_up();
	raw = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	cr_assert_geq(raw, 0);

	p = packet_make();
	raw_send("vb", &p, 14); /* nothing behind the outer header */
	raw_send("vb", &p, 17);
	raw_send("vb", &p, 21);
	p.geneve.version_length = 0x40; /* another version */
	raw_send("vb", &p, sizeof(p));
	p.geneve.version_length = 0x3f; /* options past the end */
	raw_send("vb", &p, sizeof(p));
	p = packet_make();
	p.geneve.protocol[0] = 8; /* no Ethernet inside */
	raw_send("vb", &p, sizeof(p));
	p = packet_make();
	p.geneve.flags = GENEVE_CONTROL; /* a session's message that is none */
	p.geneve.protocol[0] = GENEVE_SESSION >> 8;
	p.geneve.protocol[1] = GENEVE_SESSION & 0xff;
	raw_send("vb", &p, sizeof(p));
	cr_assert(lab_until_drop(loop, at_a, DROP_FORMAT, 7));
	p = packet_make();
	raw_send("vb", &p, 22 + 13);
	cr_assert(lab_until_drop(loop, at_a, DROP_RUNT, 1));
	p.geneve.vni[2]++;
	raw_send("vb", &p, sizeof(p));
	cr_assert(lab_until_drop(loop, at_a, DROP_FOREIGN, 1));

	p = packet_make();
	p.ethernet.ether_shost[5]++; /* no peer */
	raw_send("vb", &p, sizeof(p));
	p = packet_make();
	p.ethernet.ether_dhost[5]++; /* to another host; seen since the interface is promiscuous */
	cr_assert(lab_shell("ip link set va promisc on"));
	raw_send("vb", &p, sizeof(p));
	memset(p.ethernet.ether_dhost, 0xff, ETH_ALEN); /* to all */
	raw_send("vb", &p, sizeof(p));
	p = packet_make();
	raw_send("va", &p, sizeof(p)); /* our own interface's way out */

	p = packet_make();
	memcpy(p.frame, "\2\2\2\2\2\2\2\2\2\2\2\2\2\2\0\0\0\0", 18);
	raw_send("vb", &p, sizeof(p)); /* a good one: all before it has been seen */
	cr_assert(lab_until_frames(&a, 1));
	cr_assert_eq(at_a->counters.in_frames, 1);
	cr_assert_eq(lab_dropped(at_a), 9);
	close(raw);
}
