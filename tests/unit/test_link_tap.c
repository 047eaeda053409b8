/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links to the host's network by a tap, in a network namespace of the test's own. The host's side
 * is a packet socket on the interface, with a virtio-net header where frames are unfinished.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/unit/link_lab.h"

static struct loop *loop;
static struct lab_vm vm;
static int host = -1;

static void vm_up(void)
{
	loop = loop_create(64);
	cr_assert_not_null(loop);
	lab_vm_up(&vm, loop, LAB_VNI);
}

static void down(void)
{
	if (host >= 0)
		close(host);
	host = -1;
	lab_vm_down(&vm);
	loop_destroy(loop);
}

#define NEED_TAP                                                                                   \
	do {                                                                                       \
		if (access("/dev/net/tun", R_OK | W_OK))                                           \
			cr_skip_test("no /dev/net/tun");                                           \
		if (!lab_netns())                                                                  \
			cr_skip_test("no right to make a network namespace");                      \
	} while (0)

/* The host's end of the interface. */
static void host_open(const char *interface, bool vnet_hdr)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET,
				 .sll_protocol = htons(ETH_P_ALL),
				 .sll_ifindex = (int)if_nametoindex(interface)};
	const int one = 1;

	if (host >= 0)
		close(host);
	host = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	cr_assert_geq(host, 0);
	if (vnet_hdr)
		cr_assert_eq(setsockopt(host, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)), 0);
	cr_assert_eq(bind(host, (struct sockaddr *)&at, sizeof(at)), 0);
}

static void host_send(const struct lab_frame *frame)
{
	cr_assert_eq(send(host, frame->data, frame->frame.len, 0), (ssize_t)frame->frame.len);
}

/* The next of our frames that the host sees; the namespace's own chatter is passed over. */
struct seen {
	uint8_t data[70000];
	ssize_t len;
	size_t header; /* bytes in front of the frame */
	uint16_t type;
};
static struct seen seen;

static bool host_saw(void *arg)
{
	(void)arg;
	do {
		seen.len = recv(host, seen.data, sizeof(seen.data), 0);
	} while (seen.len >= (ssize_t)(seen.header + 14) &&
		 memcmp(seen.data + seen.header + 12, &seen.type, 2) != 0);
	return seen.len > 0;
}

static void expect_host(uint32_t len, size_t header, uint16_t type)
{
	seen.header = header;
	seen.type = htons(type);
	cr_assert(lab_until(loop, host_saw, NULL));
	cr_assert_eq(seen.len, (ssize_t)(header + len));
}

/* Frames of the guest's that are not ours (the host's IPv6) do not count. */
static bool vm_saw(void *arg)
{
	return vm.frames && !memcmp(vm.data + 12, arg, 2);
}

static void expect_guest(uint16_t type)
{
	uint16_t be = htons(type);

	cr_assert(lab_until(loop, vm_saw, &be));
	vm.frames = 0;
}

/* A tap whose interface has no IPv6 of its own: nothing but our frames. */
static struct port *tap_up(const char *url, unsigned mtu)
{
	struct port *port;

	lab_shell("echo 1 2>/dev/null > /proc/sys/net/ipv6/conf/default/disable_ipv6");
	cr_assert(lab_shell("ip tuntap add wt0 mode tap && ip link set wt0 mtu %u up", mtu));
	port = lab_link(&vm, url);
	cr_assert_not_null(port, "%s", vm.error);
	cr_assert(lab_until_up(loop, port));
	cr_assert(lab_until_running(loop, "wt0"));
	return port;
}

Test(link_tap, frames_cross, .fini = down)
{
	static struct lab_frame frame;
	struct port *port;

	vm_up();
	NEED_TAP;
	port = tap_up("tap://wt0", 65521);
	cr_assert_eq(port->mtu, 65521);
	cr_assert(port->offloads & PORT_TSO4);
	host_open("wt0", false);
	for (uint32_t len = 14; len <= 65535; len += 4369) {
		lab_frame(&frame, len, len);
		lab_send_frame(&vm, &frame);
		expect_host(len, 0, 0x88b5);
		cr_assert_arr_eq(seen.data, frame.data, len);
		host_send(&frame);
		expect_guest(0x88b5);
		cr_assert_eq(vm.last.len, len);
	}
	cr_assert_eq(vm.bad, 0);
	cr_assert_eq(lab_dropped(port), 0);
	for (unsigned i = 0; i < 100; i++)
		host_send(&frame);
	cr_assert(lab_until_frames(&vm, 100));
}

/* A super-frame, as a guest's or the host's TCP makes it. */
static void super_frame(struct lab_frame *frame)
{
	static const uint8_t header[] = {
	    2, 0,  0, 0, 0,  2, 2, 0, 0,  0, 0,	   1,	 8,    0,    0x45, 0, 0xea, 0x52,
	    0, 1,  0, 0, 64, 6, 0, 0, 10, 0, 0,	   1,	 10,   0,    0,	   2, 0,    80,
	    0, 80, 0, 0, 0,  1, 0, 0, 0,  1, 0x50, 0x10, 0xff, 0xff, 0,	   0, 0,    0};
	uint32_t sum = 0;

	lab_frame(frame, 0, 60000);
	memcpy(frame->data, header, sizeof(header));
	memcpy(frame->frame.eth, header, FRAME_HEADER);
	for (unsigned i = 14; i < 34; i += 2)
		sum += (uint32_t)(frame->data[i] << 8 | frame->data[i + 1]);
	sum = ~((sum & 0xffff) + (sum >> 16));
	frame->data[24] = sum >> 8 & 0xff;
	frame->data[25] = sum & 0xff;
	frame->frame.offload = (struct frame_offload){
	    .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
	    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
	    .hdr_len = 54,
	    .gso_size = 1000,
	    .csum_start = 34,
	    .csum_offset = 16,
	};
}

Test(link_tap, super_frames_cross_whole, .fini = down)
{
	static struct lab_frame frame;
	struct virtio_net_hdr header;
	struct iovec iov[2] = {{&header, sizeof(header)}, {frame.data, 60000}};

	vm_up();
	NEED_TAP;
	tap_up("tap://wt0", 1500);
	host_open("wt0", true);
	super_frame(&frame);
	lab_send_frame(&vm, &frame);
	expect_host(60000, sizeof(header), 0x0800);
	memcpy(&header, seen.data, sizeof(header));
	cr_assert_eq(header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	cr_assert_eq(header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	cr_assert_eq(header.gso_size, 1000);
	cr_assert_eq(header.csum_start, 34);
	cr_assert_eq(header.csum_offset, 16);
	/* And back: what the host saw is what it sends. */
	cr_assert_eq(writev(host, iov, 2), (ssize_t)(sizeof(header) + 60000));
	expect_guest(0x0800);
	cr_assert_eq(vm.last.len, 60000);
	cr_assert_eq(vm.last.offload.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	cr_assert_eq(vm.last.offload.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	cr_assert_eq(vm.last.offload.gso_size, 1000);
	cr_assert_eq(vm.last.offload.csum_start, 34);
}

/* Without gso the host cuts its own. */
Test(link_tap, gso_can_be_off, .fini = down)
{
	static struct lab_frame frame;
	struct virtio_net_hdr header = {
	    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 1000, 34, 16};
	struct iovec iov[2] = {{&header, sizeof(header)}, {frame.data, 60000}};
	struct port *port;

	vm_up();
	NEED_TAP;
	port = tap_up("tap://wt0,gso=off", 1500);
	cr_assert_eq(port->offloads, 0);
	host_open("wt0", true);
	super_frame(&frame);
	cr_assert_eq(writev(host, iov, 2), (ssize_t)(sizeof(header) + 60000));
	cr_assert(lab_until_frames(&vm, 60)); /* 59,946 bytes in thousands */
	cr_assert_eq(vm.frames, 60);
	cr_assert_eq(vm.last.offload.flags, 0);
	cr_assert_leq(vm.last.len, 1054);
	lab_frame(&frame, 0, 1000);
	lab_send_frame(&vm, &frame);
	host_open("wt0", false);
	lab_send_frame(&vm, &frame);
	expect_host(1000, 0, 0x88b5);
}

/* B6, B10: down and up with a new MTU; removed and made anew, by the same name. */
Test(link_tap, interface_recovers, .fini = down)
{
	static struct lab_frame frame;
	struct port *port;

	vm_up();
	NEED_TAP;
	port = tap_up("tap://wt0", 1500);
	lab_frame(&frame, 0, 100);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(lab_shell("ip link set wt0 down"));
		lab_send_frame(&vm, &frame);
		cr_assert_eq(port->counters.drops[DROP_DOWN], i + 1);
		cr_assert_not(lab_is_up(port));
		cr_assert_str_eq(lab_status(port).error, "the interface is down");
		cr_assert(lab_shell("ip link set wt0 mtu %u up", 1400 + i));
		cr_assert(lab_until_up(loop, port));
		cr_assert_eq(port->mtu, 1400 + i);
		cr_assert(lab_until_running(loop, "wt0"));
		host_open("wt0", false);
		host_send(&frame);
		expect_guest(0x88b5);
	}
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(lab_shell("ip link del wt0"));
		cr_assert(lab_until_down(loop, port));
		lab_run(loop);
		cr_assert_eq(if_nametoindex("wt0"), 0); /* not made anew by us */
		cr_assert(lab_shell("ip tuntap add wt0 mode tap && ip link set wt0 up"));
		cr_assert(lab_until_up(loop, port));
		cr_assert(lab_until_running(loop, "wt0"));
		host_open("wt0", false);
		host_send(&frame);
		expect_guest(0x88b5);
		lab_send_frame(&vm, &frame);
		expect_host(100, 0, 0x88b5);
	}
	cr_assert_eq(lab_status(port).ups, 7);
}

/* A tap that is not there is made, and goes with the link. */
Test(link_tap, is_made_when_missing, .fini = down)
{
	struct port *port;

	vm_up();
	NEED_TAP;
	port = lab_link(&vm, "tap://wt9,name=outside");
	cr_assert_not_null(port, "%s", vm.error);
	cr_assert_str_eq(port->name, "outside");
	cr_assert_neq(if_nametoindex("wt9"), 0);
	cr_assert_not(lab_is_up(port));
	cr_assert(lab_shell("ip link set wt9 mtu 9000 up"));
	cr_assert(lab_until_up(loop, port));
	cr_assert_eq(port->mtu, 9000);
	links_remove(vm.links, port);
	cr_assert_eq(if_nametoindex("wt9"), 0);
}

Test(link_tap, mistakes_are_named, .fini = down)
{
	static struct lab_vm other;

	vm_up();
	NEED_TAP;
	tap_up("tap://wt0", 1500);
	lab_vm_up(&other, loop, LAB_VNI);
	cr_assert_null(lab_link(&other, "tap://wt0"));
	cr_assert_not_null(strstr(other.error, "another process has the interface"), "%s",
			   other.error);
	cr_assert_null(lab_link(&other, "tap://lo"));
	cr_assert_not_null(strstr(other.error, "no tap or macvtap"), "%s", other.error);
	lab_vm_down(&other);
}

Test(link_tap, macvtap_carries_frames, .fini = down)
{
	static struct lab_frame frame;
	struct port *port;
	char device[32];

	vm_up();
	NEED_TAP;
	lab_shell("echo 1 2>/dev/null > /proc/sys/net/ipv6/conf/default/disable_ipv6");
	cr_assert(lab_shell("ip link add v0 type veth peer name v1 && ip link set v0 up && "
			    "ip link set v1 up"));
	if (!lab_shell("ip link add mv0 link v0 type macvtap mode passthru 2>/dev/null"))
		cr_skip_test("no macvtap in this kernel");
	cr_assert(lab_shell("ip link set mv0 up"));
	snprintf(device, sizeof(device), "/dev/tap%u", if_nametoindex("mv0"));
	if (access(device, R_OK | W_OK))
		cr_skip_test("nobody makes the devices of macvtaps here");
	port = lab_link(&vm, "tap://mv0");
	cr_assert_not_null(port, "%s", vm.error);
	cr_assert(lab_until_up(loop, port));
	cr_assert(lab_until_running(loop, "v0") && lab_until_running(loop, "v1") &&
		  lab_until_running(loop, "mv0"));
	host_open("v1", false);
	lab_frame(&frame, 0, 100);
	lab_send_frame(&vm, &frame);
	expect_host(100, 0, 0x88b5);
	host_send(&frame);
	expect_guest(0x88b5);
}
