/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 64M --net mac=52:54:00:00:00:01,mtu=1500 --net mac=52:54:00:00:00:02,mtu=1500
/*
 * A13-A15, A17: what a guest can do wrong in frames and receive buffers. Two cards of this VM are
 * joined by the overlay: the first one sends, the second one shows what came through.
 */
#include "check.h"
#include "nic.h"

/* Younger than the headers of Linux 6.1: VIRTIO_NET_F_HOST_USO, VIRTIO_NET_HDR_GSO_UDP_L4. */
#define NET_F_HOST_USO 56
#define GSO_UDP_L4     5
#define BUFFER_COUNT   64
#define BUFFER_BYTES   4096
#define QUIET_NS       20000000ull

/* One side: two rings, with receive buffers that a test posts as it likes. */
struct side {
	struct virtio dev;
	struct ring rx, tx;
	uint8_t *rx_buffers; /* BUFFER_COUNT of BUFFER_BYTES, by head descriptor */
};

static struct side sender, receiver;
static uint8_t *message; /* header and frame to send; 128 KiB */

static struct virtio_net_hdr_v1 *message_header(void)
{
	return (struct virtio_net_hdr_v1 *)message;
}

static void side_start(struct side *side, uint64_t features)
{
	virtio_reset(&side->dev);
	if (!virtio_negotiate(&side->dev, features) ||
	    !ring_init(&side->rx, &side->dev, NIC_RX, BUFFER_COUNT) ||
	    !ring_init(&side->tx, &side->dev, NIC_TX, BUFFER_COUNT))
		panic("a network card does not start");
	virtio_start(&side->dev);
}

/* Post @count receive buffers of @size bytes. */
static void side_post(struct side *side, unsigned count, uint32_t size)
{
	while (count--) {
		struct segment segment = {side->rx_buffers + side->rx.free * BUFFER_BYTES, size};

		if (ring_add(&side->rx, &segment, 0, 1) < 0)
			panic("the receive ring is full");
	}
	ring_kick(&side->rx);
}

/* A frame of @len bytes in message, from card 1 to card 2, its payload a pattern of @seed. */
static void message_make(uint32_t len, uint8_t seed)
{
	static const uint8_t header[ETHER_HEADER] = {0x52, 0x54, 0, 0, 0, 2,	0x52,
						     0x54, 0,	 0, 0, 1, 0x88, 0xb5};

	memset(message, 0, NIC_HEADER);
	memcpy(message + NIC_HEADER, header, ETHER_HEADER);
	for (uint32_t i = ETHER_HEADER; i < len; i++)
		message[NIC_HEADER + i] = (uint8_t)(seed + i);
}

/* Send segments and wait until the card has taken them. */
static bool send_segments(const struct segment *segments, unsigned count)
{
	int head = ring_add(&sender.tx, segments, count, 0);

	if (head < 0)
		return false;
	ring_kick(&sender.tx);
	return ring_wait(&sender.tx, NULL, PATIENCE_NS) == head;
}

static bool send_message(uint32_t len)
{
	struct segment segment = {message, NIC_HEADER + len};

	return send_segments(&segment, 1);
}

/* Wait for the next received frame and compare it with message. */
static bool receive_same(uint32_t len)
{
	uint32_t written;
	int head = ring_wait(&receiver.rx, &written, PATIENCE_NS);

	return head >= 0 && written == NIC_HEADER + len &&
	       !memcmp(receiver.rx_buffers + head * BUFFER_BYTES + NIC_HEADER, message + NIC_HEADER,
		       len);
}

/* Nothing comes for a while. */
static bool receive_quiet(void)
{
	return ring_wait(&receiver.rx, NULL, QUIET_NS) < 0;
}

/*
 * What was sent must have been taken and dropped; the next good frame comes through, and is the
 * next.
 */
static void dropped(bool taken, const char *name)
{
	static uint8_t seed;

	check(taken, name, "the card does not take it");
	check(receive_quiet(), name, "it was delivered");
	if (receiver.rx.free_count)
		side_post(&receiver, receiver.rx.free_count, 2048);
	message_make(100, ++seed);
	if (!send_message(100) || !receive_same(100))
		check(false, name, "the next frame does not come through");
}

/* A13: header and frame cut anyhow. */
static void test_pieces(void)
{
	struct segment segments[BUFFER_COUNT];

	message_make(52, 1);
	for (unsigned i = 0; i < BUFFER_COUNT; i++)
		segments[i] = (struct segment){message + i, 1};
	check(send_segments(segments, 64) && receive_same(52), "hostile-net/A13 one byte each",
	      "did not come through");
	for (unsigned cut = 1; cut < NIC_HEADER + ETHER_HEADER + 2; cut++) {
		message_make(200, (uint8_t)cut);
		segments[0] = (struct segment){message, cut};
		segments[1] = (struct segment){message, 0};
		segments[2] = (struct segment){message + cut, NIC_HEADER + 200 - cut};
		if (!send_segments(segments, 3) || !receive_same(200))
			check(false, "hostile-net/A13 cut in two", "at %u: did not come through",
			      cut);
	}
	for (uint32_t len = 1; len < NIC_HEADER; len++) {
		segments[0] = (struct segment){message, len};
		if (!send_segments(segments, 1))
			check(false, "hostile-net/A13 short header", "%u bytes: not taken", len);
	}
	dropped(true, "hostile-net/A13 short header");
}

/* A14: headers that ask for what was not negotiated, and lie about it. */
static void test_headers(void)
{
	static const struct {
		const char *name;
		struct virtio_net_hdr_v1 header;
	} table[] = {
	    {"hostile-net/A14 checksum", {.flags = 1, .csum_start = 34, .csum_offset = 6}},
	    {"hostile-net/A14 csum_start past the frame",
	     {.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff}},
	    {"hostile-net/A14 csum_offset at the end",
	     {.flags = 1, .csum_start = 0, .csum_offset = 99}},
	    {"hostile-net/A14 data valid", {.flags = 2}},
	    {"hostile-net/A14 all flags", {.flags = 0xff}},
	    {"hostile-net/A14 gso_size 0", {.flags = 1, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4}},
	    {"hostile-net/A14 TSO4",
	     {.flags = 1, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 10, .hdr_len = 54}},
	    {"hostile-net/A14 USO", {.flags = 1, .gso_type = GSO_UDP_L4, .gso_size = 10}},
	    {"hostile-net/A14 unknown GSO type", {.gso_type = 0x7f, .gso_size = 10}},
	    {"hostile-net/A14 ECN alone", {.gso_type = VIRTIO_NET_HDR_GSO_ECN}},
	    {"hostile-net/A14 hdr_len past the frame",
	     {.gso_type = VIRTIO_NET_HDR_GSO_TCPV6, .gso_size = 1, .hdr_len = 0xffff}},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		message_make(100, (uint8_t)i);
		*message_header() = table[i].header;
		dropped(send_message(100), table[i].name);
	}
	/* Without flag and type the other fields mean nothing. */
	message_make(100, 99);
	*message_header() = (struct virtio_net_hdr_v1){
	    .hdr_len = 0xffff,
	    .gso_size = 0xffff,
	    .csum_start = 0xffff,
	    .csum_offset = 0xffff,
	    .num_buffers = 0xffff,
	};
	check(send_message(100) && receive_same(100), "hostile-net/A14 idle fields",
	      "did not come through");
}

/* A14: the same, and worse, from a driver that may ask for offloads. */
static void test_headers_negotiated(void)
{
	static const struct {
		const char *name;
		struct virtio_net_hdr_v1 header;
	} table[] = {
	    {"hostile-net/A14 offloads: csum_start past the frame",
	     {.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff}},
	    {"hostile-net/A14 offloads: checksum at the end",
	     {.flags = 1, .csum_start = 34, .csum_offset = 65}},
	    {"hostile-net/A14 offloads: checksum in the addresses", {.flags = 1}},
	    {"hostile-net/A14 offloads: data valid", {.flags = 2}},
	    {"hostile-net/A14 offloads: all flags", {.flags = 0xff}},
	    {"hostile-net/A14 offloads: TSO4 of no IPv4",
	     {1, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, {{34, 16}}, 0}},
	    {"hostile-net/A14 offloads: TSO6 of no IPv6",
	     {1, VIRTIO_NET_HDR_GSO_TCPV6, 74, 10, {{54, 16}}, 0}},
	    {"hostile-net/A14 offloads: USO of no UDP", {1, GSO_UDP_L4, 42, 10, {{34, 6}}, 0}},
	    {"hostile-net/A14 offloads: gso_size 0",
	     {1, VIRTIO_NET_HDR_GSO_TCPV4, 54, 0, {{34, 16}}, 0}},
	    {"hostile-net/A14 offloads: hdr_len past the frame",
	     {1, VIRTIO_NET_HDR_GSO_TCPV4, 0xffff, 10, {{34, 16}}, 0}},
	    {"hostile-net/A14 offloads: ECN alone",
	     {1, VIRTIO_NET_HDR_GSO_ECN, 0, 0, {{34, 16}}, 0}},
	    {"hostile-net/A14 offloads: unknown GSO type", {1, 0x7f, 54, 10, {{34, 16}}, 0}},
	};

	side_start(&sender, FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_HOST_TSO4) |
				FEATURE(VIRTIO_NET_F_HOST_TSO6) | FEATURE(VIRTIO_NET_F_HOST_ECN) |
				FEATURE(NET_F_HOST_USO));
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		message_make(100, (uint8_t)i);
		*message_header() = table[i].header;
		dropped(send_message(100), table[i].name);
	}
	side_start(&sender, 0);
}

/* A15: frames that are too short or too long. */
static void test_lengths(void)
{
	static const uint32_t lengths[] = {0,	 1,	13,    1500 + ETHER_HEADER + 9,
					   9000, 65535, 65536, 100000};

	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		char name[48];

		snprintf(name, sizeof(name), "hostile-net/A15 %u bytes", lengths[i]);
		message_make(lengths[i], 0);
		dropped(send_message(lengths[i]), name);
	}
	message_make(ETHER_HEADER, 0);
	check(send_message(ETHER_HEADER) && receive_same(ETHER_HEADER), "hostile-net/A15 14 bytes",
	      "did not come through");
	message_make(1514, 7);
	check(send_message(1514) && receive_same(1514), "hostile-net/A15 a full frame",
	      "did not come through");
}

/* The merged frame in the next used buffers of @size bytes equals message. */
static bool merged_same(uint32_t len, uint32_t size)
{
	uint32_t total = NIC_HEADER + len, at = 0, written, buffers = 0, count = 0;

	for (; at < total; at += written, count++) {
		int head = ring_wait(&receiver.rx, &written, PATIENCE_NS);
		const uint8_t *buffer = receiver.rx_buffers + head * BUFFER_BYTES;
		uint32_t skip = at ? 0 : NIC_HEADER;

		if (head < 0 || written > size || written < skip || at + written > total ||
		    memcmp(buffer + skip, message + at + skip, written - skip))
			return false;
		if (!at)
			buffers = ((const struct virtio_net_hdr_v1 *)buffer)->num_buffers;
	}
	return buffers == count;
}

/* A17: receive rings that are empty, or too short for the frame. */
static void test_receive_merged(void)
{
	side_start(&receiver, FEATURE(VIRTIO_NET_F_MRG_RXBUF));
	message_make(1000, 1);
	check(send_message(1000) && receive_quiet(), "hostile-net/A17 empty ring",
	      "not taken, or delivered");
	side_post(&receiver, 3, 64);
	check(send_message(1000) && receive_quiet(), "hostile-net/A17 too few buffers",
	      "not taken, or delivered");
	side_post(&receiver, 20, 64);
	check(send_message(1000) && merged_same(1000, 64), "hostile-net/A17 merged",
	      "did not come through");
	side_post(&receiver, receiver.rx.free_count, NIC_HEADER);
	check(send_message(40) && merged_same(40, 64), "hostile-net/A17 left over", "did not come");
}

static void test_receive_single(void)
{
	side_start(&receiver, 0);
	side_post(&receiver, 1, 64);
	message_make(1000, 2);
	check(send_message(1000) && receive_quiet(), "hostile-net/A17 one short buffer",
	      "not taken, or delivered");
	check(send_message(52) && receive_same(52), "hostile-net/A17 short frame",
	      "did not come through");
}

/*
 * A11: receive buffers that the card cannot write a header into break the receiver, not the sender.
 */
static void test_receive_bad(const char *name, uint32_t len, bool readable)
{
	struct segment segment = {receiver.rx_buffers, len};
	uint64_t start = time_ns();

	side_start(&receiver, 0);
	ring_add(&receiver.rx, &segment, readable, !readable);
	ring_kick(&receiver.rx);
	message_make(100, 3);
	check(send_message(100), name, "the sender is stuck");
	while (!(virtio_status(&receiver.dev) & VIRTIO_CONFIG_S_NEEDS_RESET) &&
	       time_ns() - start < PATIENCE_NS)
		cpu_relax();
	check(virtio_status(&receiver.dev) & VIRTIO_CONFIG_S_NEEDS_RESET, name,
	      "the receiver does not ask for a reset");
	side_start(&receiver, 0);
	side_post(&receiver, 8, 2048);
	check(send_message(100) && receive_same(100), name, "the receiver does not come back");
}

/* A17: after a reset nobody writes to the buffers that were posted before. */
static void test_reset_midway(void)
{
	unsigned touched = 0;

	for (unsigned round = 0; round < 50; round++) {
		struct segment segment = {message, NIC_HEADER + 1514};
		uint64_t start;

		side_start(&receiver, 0);
		side_post(&receiver, BUFFER_COUNT, 2048);
		message_make(1514, (uint8_t)round);
		while (ring_add(&sender.tx, &segment, 1, 0) >= 0)
			;
		ring_kick(&sender.tx);
		for (unsigned i = 0; i < 50 * round; i++)
			cpu_relax();
		virtio_reset(&receiver.dev);
		memset(receiver.rx_buffers, 0xa5, BUFFER_COUNT * BUFFER_BYTES);
		start = time_ns();
		while (sender.tx.free_count < sender.tx.size && time_ns() - start < PATIENCE_NS)
			ring_take(&sender.tx, NULL);
		for (unsigned i = 0; i < BUFFER_COUNT * BUFFER_BYTES; i++)
			touched += receiver.rx_buffers[i] != 0xa5;
	}
	check(sender.tx.free_count == sender.tx.size, "hostile-net/A17 sender goes on",
	      "it is stuck");
	check(!touched, "hostile-net/A17 buffers after a reset", "%u bytes were written", touched);
	side_start(&receiver, 0);
	side_post(&receiver, 8, 2048);
	message_make(100, 1);
	check(send_message(100) && receive_same(100), "hostile-net/A17 after the resets",
	      "nothing comes through");
}

int main(void)
{
	if (!virtio_find(&sender.dev, VIRTIO_ID_NET, 0) ||
	    !virtio_find(&receiver.dev, VIRTIO_ID_NET, 1))
		panic("start the VM with two --net");
	message = memory_take(NIC_HEADER + 131072, 4096);
	sender.rx_buffers = memory_take(BUFFER_COUNT * BUFFER_BYTES, 4096);
	receiver.rx_buffers = memory_take(BUFFER_COUNT * BUFFER_BYTES, 4096);
	side_start(&sender, 0);
	side_start(&receiver, 0);
	side_post(&receiver, BUFFER_COUNT, 2048);
	message_make(100, 0);
	if (!check(send_message(100) && receive_same(100), "hostile-net/before",
		   "nothing comes through"))
		return check_status();
	test_pieces();
	test_headers();
	test_headers_negotiated();
	test_lengths();
	test_receive_merged();
	test_receive_single();
	test_receive_bad("hostile-net/A11 readable receive buffer", 2048, true);
	test_receive_bad("hostile-net/A11 receive buffer of 11 bytes", 11, false);
	test_reset_midway();
	return check_status();
}
