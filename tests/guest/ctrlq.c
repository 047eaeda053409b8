/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --net mac=52:54:00:00:00:01
/*
 * A22: the network card's control queue. Each bad command is answered by an error and changes
 * nothing.
 */
#include "check.h"
#include "nic.h"

#define CTRL_QUEUE 2
#define NO_ANSWER  0x55
#define WANTED                                                                                     \
	(FEATURE(VIRTIO_NET_F_CTRL_VQ) | FEATURE(VIRTIO_NET_F_CTRL_RX) |                           \
	 FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR) | FEATURE(VIRTIO_NET_F_MAC))

struct command {
	const char *name;
	uint8_t class, code;
	uint32_t len; /* bytes of data */
	uint8_t data[24];
	uint8_t ack; /* expected */
};

#define OK	     VIRTIO_NET_OK
#define ERR	     VIRTIO_NET_ERR
#define PROMISCUOUS  VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC
#define MAC_TABLE    VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET
#define MAC_ADDRESS  VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET
#define QUEUE_PAIRS  VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET
#define OFFLOADS     VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET
#define VLAN	     VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD
#define ANNOUNCEMENT VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK

static const struct command commands[] = {
    {"promiscuous", PROMISCUOUS, 1, {1}, OK},
    {"not promiscuous", PROMISCUOUS, 1, {0}, OK},
    {"promiscuous without a value", PROMISCUOUS, 0, {0}, ERR},
    {"promiscuous, too long", PROMISCUOUS, 9, {1}, ERR},
    {"unknown receive mode", VIRTIO_NET_CTRL_RX, 77, 1, {1}, ERR},
    {"unknown class", 99, 0, 1, {1}, ERR},
    {"empty MAC table", MAC_TABLE, 8, {0}, OK},
    {"MAC table of one", MAC_TABLE, 14, {0, 0, 0, 0, 1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1}, OK},
    {"MAC table with one list", MAC_TABLE, 4, {0}, ERR},
    {"MAC table cut off", MAC_TABLE, 10, {1, 0, 0, 0, 0x52, 0x54}, ERR},
    {"MAC table of 4294967295", MAC_TABLE, 14, {0xff, 0xff, 0xff, 0xff}, ERR},
    {"MAC table whose size wraps", MAC_TABLE, 8, {0xab, 0xaa, 0xaa, 0xaa}, ERR},
    {"MAC address", MAC_ADDRESS, 6, {0x52, 0x54, 0, 0, 0, 0x99}, OK},
    {"multicast MAC address", MAC_ADDRESS, 6, {0x53, 0x54, 0, 0, 0, 0x98}, ERR},
    {"short MAC address", MAC_ADDRESS, 5, {0x52, 0x54, 0, 0, 0}, ERR},
    {"queue pairs not negotiated", QUEUE_PAIRS, 2, {2, 0}, ERR},
    {"65535 queue pairs", QUEUE_PAIRS, 2, {0xff, 0xff}, ERR},
    {"offloads not negotiated", OFFLOADS, 8, {0xff, 0xff}, ERR},
    {"VLAN not negotiated", VLAN, 2, {1, 0}, ERR},
    {"announcement not negotiated", ANNOUNCEMENT, 0, {0}, ERR},
};

static struct virtio net;
static struct ring ring;

static const char *test_name(const char *test)
{
	static char name[80];

	snprintf(name, sizeof(name), "ctrlq/%s", test);
	return name;
}

static void net_start(void)
{
	struct ring other;

	virtio_reset(&net);
	if (!virtio_negotiate(&net, WANTED) || (net.features & WANTED) != WANTED)
		panic("the card does not offer the control queue");
	ring_init(&other, &net, NIC_RX, 16);
	ring_init(&other, &net, NIC_TX, 16);
	if (!ring_init(&ring, &net, CTRL_QUEUE, 64))
		panic("the card has no control queue");
	virtio_start(&net);
}

/* Returns the answer; NO_ANSWER: none. */
static uint8_t ctrl_request(const struct segment *segments, unsigned out, volatile uint8_t *ack)
{
	*ack = NO_ANSWER;
	if (ring_add(&ring, segments, out, 1) < 0)
		return NO_ANSWER;
	ring_kick(&ring);
	return ring_wait(&ring, NULL, PATIENCE_NS) < 0 ? NO_ANSWER : *ack;
}

static uint8_t command_send(const struct command *command)
{
	static uint8_t data[2 + sizeof(command->data)];
	static volatile uint8_t ack;
	struct segment segments[] = {{data, 2 + command->len}, {&ack, 1}};

	data[0] = command->class;
	data[1] = command->code;
	memcpy(data + 2, command->data, command->len);
	return ctrl_request(segments, 1, &ack);
}

/* The same command in pieces of one byte. */
static uint8_t command_pieces(const struct command *command)
{
	static uint8_t data[2 + sizeof(command->data)];
	struct segment segments[2 + sizeof(command->data) + 1];
	static volatile uint8_t ack;
	unsigned count = 2 + command->len;

	data[0] = command->class;
	data[1] = command->code;
	memcpy(data + 2, command->data, command->len);
	for (unsigned i = 0; i < count; i++)
		segments[i] = (struct segment){data + i, 1};
	segments[count] = (struct segment){&ack, 1};
	return ctrl_request(segments, count, &ack);
}

static uint8_t mac_last_byte(void)
{
	return mmio_read8(net.config + 5);
}

/* A full table is taken, a longer one is not. */
static void test_table_size(void)
{
	static uint8_t data[2 + 4 + 6 * 1000 + 4];
	static volatile uint8_t ack;
	struct segment segments[] = {{data, 0}, {&ack, 1}};
	uint32_t entries[] = {64, 1000};

	for (unsigned i = 0; i < 2; i++) {
		uint8_t wanted = i ? VIRTIO_NET_ERR : VIRTIO_NET_OK, got;

		memset(data, 0, sizeof(data));
		data[0] = VIRTIO_NET_CTRL_MAC;
		memcpy(data + 2, &entries[i], 4);
		segments[0].len = 2 + 4 + 6 * entries[i] + 4;
		got = ctrl_request(segments, 1, &ack);
		check(got == wanted, test_name(i ? "MAC table of 1000" : "MAC table of 64"),
		      "answer %u", got);
	}
}

/* A command without room for its answer can only break the device; it must come back. */
static void test_no_room(void)
{
	static uint8_t data[3] = {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 1};
	struct segment segment = {data, 3};
	uint64_t start = time_ns();

	ring_add(&ring, &segment, 1, 0);
	ring_kick(&ring);
	while (!(virtio_status(&net) & VIRTIO_CONFIG_S_NEEDS_RESET) && !ring_pending(&ring) &&
	       time_ns() - start < PATIENCE_NS)
		cpu_relax();
	check(virtio_status(&net) & VIRTIO_CONFIG_S_NEEDS_RESET || ring_pending(&ring),
	      test_name("no room for the answer"), "nothing happens");
	net_start();
}

int main(void)
{
	if (!virtio_find(&net, VIRTIO_ID_NET, 0))
		panic("no network card");
	net_start();
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		uint8_t whole = command_send(&commands[i]), pieces = command_pieces(&commands[i]);

		check(whole == commands[i].ack && pieces == whole, test_name(commands[i].name),
		      "answer %u, in pieces %u", whole, pieces);
	}
	check(mac_last_byte() == 0x99, test_name("MAC address changed"), "0x%x", mac_last_byte());
	test_table_size();
	test_no_room();
	check(mac_last_byte() == 0x01, test_name("MAC address after a reset"), "0x%x",
	      mac_last_byte());
	check(command_send(&commands[0]) == VIRTIO_NET_OK, test_name("still works"), "it does not");
	return check_status();
}
