/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --cpus 2 --net mac=52:54:00:00:00:01 --net mac=52:54:00:00:00:02,queues=1
/*
 * A network card with a pair of queues for each of two vCPUs. Each vCPU sends frames of a flow of
 * its own by its pair and sleeps until the answer interrupts it: it has to come by the same pair.
 * The second card, served by the first vCPU, is who answers.
 */
#include "check.h"
#include "nic.h"

GUEST_SMP;

#define PAIRS	 2
#define CTRL	 (2 * PAIRS)
#define RING	 16
#define ROUNDS	 200
#define ATTEMPTS 3 /* two flows may share the entry in which the card remembers where they belong  \
		    */
#define FRAME  60u
#define BUFFER 2048u
#define PORTS  (ETHER_HEADER + 20) /* offset of the UDP header */
#define WANTED (FEATURE(VIRTIO_NET_F_CTRL_VQ) | FEATURE(VIRTIO_NET_F_MQ))

/* Set up by the first vCPU before it says go, then that vCPU's whose index it has. */
static struct pair {
	struct ring rx, tx;
	uint8_t *buffers[RING], *frame;
	volatile uint32_t interrupts, elsewhere; /* those that came to another vCPU */
	volatile uint32_t answers, foreign;	 /* of its own flow, and of another */
} pairs[PAIRS];

static struct virtio card;
static struct ring ctrl;
static volatile uint32_t go, finished; /* attempts begun, and ended by the second vCPU */

static unsigned cpu_id(void)
{
	return mmio_read32((const volatile uint8_t *)guest_boot->lapic + 0x20) >> 24;
}

static void interrupt(void *context)
{
	struct pair *pair = context;

	pair->interrupts++;
	if (cpu_id() != (unsigned)(pair - pairs))
		pair->elsewhere++;
}

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* UDP over IPv4 from port 1000 * the attempt + the pair. */
static void frame_lay(struct pair *pair, uint32_t attempt)
{
	static const uint8_t headers[] = {0x52, 0x54, 0,    0, 0, 2,  0x52, 0x54, 0, 0, 0,  1,
					  0x08, 0,    0x45, 0, 0, 46, 0,    0,	  0, 0, 64, 17,
					  0,	0,    10,   0, 0, 1,  10,   0,	  0, 2};
	uint8_t *at = pair->frame + NIC_HEADER;

	memcpy(at, headers, sizeof(headers));
	put16(at + PORTS, 1000 * attempt + (unsigned)(pair - pairs));
	put16(at + PORTS + 2, 7);
}

static void swap(uint8_t *a, uint8_t *b, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t byte = a[i];

		a[i] = b[i];
		b[i] = byte;
	}
}

/* Answer what has come to the second card. */
static void echo(struct nic *nic)
{
	uint32_t len;
	uint8_t *in, *out;
	int buffer;

	while ((in = nic_receive(nic, &len, &buffer))) {
		out = nic_buffer(nic);
		memcpy(out, in, len);
		swap(out, out + MAC_SIZE, MAC_SIZE);
		swap(out + ETHER_HEADER + 12, out + ETHER_HEADER + 16, 4);
		swap(out + PORTS, out + PORTS + 2, 2);
		nic_send(nic, len);
		nic_repost(nic, buffer);
	}
	nic_flush(nic);
}

static void pair_post(struct pair *pair)
{
	struct segment segment = {pair->buffers[pair->rx.free], BUFFER};

	ring_add(&pair->rx, &segment, 0, 1);
}

static void pair_take(struct pair *pair)
{
	const uint8_t *mine = pair->frame + NIC_HEADER + PORTS;
	int head;

	while ((head = ring_take(&pair->rx, NULL)) >= 0) {
		if (memcmp(pair->buffers[head] + NIC_HEADER + PORTS + 2, mine, 2))
			pair->foreign++;
		else
			pair->answers++;
		pair_post(pair);
	}
	ring_publish(&pair->rx);
}

/* Until there is something by this pair: sleep, or with @nic answer meanwhile. */
static bool pair_wait(struct pair *pair, struct nic *nic)
{
	uint64_t start = time_ns();

	while (time_ns() - start < PATIENCE_NS) {
		uint32_t seen = interrupts_taken;

		if (ring_interrupt(&pair->rx, true))
			return true;
		if (nic)
			echo(nic);
		else
			cpu_idle(seen);
	}
	return false;
}

/* A flow's questions, each after the answer to the one before, or what came instead of it. */
static void pair_ask(struct pair *pair, struct nic *nic, uint32_t attempt)
{
	struct segment segment = {pair->frame, NIC_HEADER + FRAME};

	frame_lay(pair, attempt);
	for (unsigned i = 0; i < ROUNDS; i++) {
		ring_add(&pair->tx, &segment, 1, 0);
		ring_kick(&pair->tx);
		if (!pair_wait(pair, nic))
			return;
		pair_take(pair);
		while (ring_take(&pair->tx, NULL) < 0)
			cpu_relax();
	}
}

void cpu_main(unsigned cpu)
{
	for (uint32_t attempt = 1; attempt <= ATTEMPTS; attempt++) {
		while (__atomic_load_n(&go, __ATOMIC_ACQUIRE) < attempt)
			cpu_relax();
		pair_ask(&pairs[cpu], NULL, attempt);
		__atomic_store_n(&finished, attempt, __ATOMIC_RELEASE);
	}
}

static void pair_open(unsigned index)
{
	struct pair *pair = &pairs[index];

	if (!ring_init(&pair->rx, &card, (uint16_t)(2 * index), RING) ||
	    !ring_init(&pair->tx, &card, (uint16_t)(2 * index + 1), RING))
		panic("the card has no queues for vCPU %u", index);
	msix_route(&card.pci, index, index, VECTOR_FIRST + index);
	interrupt_handle(VECTOR_FIRST + index, interrupt, pair);
	if (!ring_route(&pair->rx, (uint16_t)index))
		panic("the card refuses MSI-X entry %u", index);
	pair->frame = memory_take(NIC_HEADER + FRAME, 64);
	for (unsigned i = 0; i < RING; i++)
		pair->buffers[i] = memory_take(BUFFER, 64);
	for (unsigned i = 0; i < RING; i++)
		pair_post(pair);
	ring_publish(&pair->rx);
}

static void card_open(void)
{
	const volatile struct virtio_net_config *config;

	if (!virtio_find(&card, VIRTIO_ID_NET, 0) || !virtio_negotiate(&card, WANTED))
		panic("no network card");
	config = (const volatile struct virtio_net_config *)card.config;
	check(virtio_has(&card, VIRTIO_NET_F_MQ), "queues/offered", "they are not");
	check(mmio_read16((const volatile uint8_t *)config +
			  offsetof(struct virtio_net_config, max_virtqueue_pairs)) == PAIRS,
	      "queues/a pair for each vCPU", "there is another number");
	msix_enable(&card.pci, true);
	for (unsigned i = 0; i < PAIRS; i++)
		pair_open(i);
	if (!ring_init(&ctrl, &card, CTRL, RING))
		panic("the card has no control queue behind the pairs");
	virtio_start(&card);
}

/* Returns the answer. */
static uint8_t pairs_set(uint8_t count)
{
	static uint8_t command[4] = {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET};
	static volatile uint8_t ack;
	struct segment segments[] = {{command, sizeof(command)}, {&ack, 1}};

	command[2] = count;
	ack = 0x55;
	ring_add(&ctrl, segments, 1, 1);
	ring_kick(&ctrl);
	ring_wait(&ctrl, NULL, PATIENCE_NS);
	return ack;
}

/* Returns whether every answer came by the pair of its question. */
static bool attempt_made(struct nic *nic, uint32_t attempt)
{
	uint64_t start;

	for (unsigned i = 0; i < PAIRS; i++)
		pairs[i].answers = pairs[i].foreign = 0;
	__atomic_store_n(&go, attempt, __ATOMIC_RELEASE);
	pair_ask(&pairs[0], nic, attempt);
	start = time_ns();
	while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) < attempt &&
	       time_ns() - start < 2 * PATIENCE_NS)
		echo(nic);
	return pairs[0].answers == ROUNDS && pairs[1].answers == ROUNDS;
}

int main(void)
{
	static struct nic nic;
	uint32_t attempt = 1;

	if (guest_boot->cpus != PAIRS)
		panic("%u vCPUs: start with %u", guest_boot->cpus, PAIRS);
	card_open();
	nic_open(&nic, 1, false);
	check(pairs_set(PAIRS + 1) == VIRTIO_NET_ERR, "queues/too many", "they are accepted");
	check(pairs_set(0) == VIRTIO_NET_ERR, "queues/none", "that is accepted");
	check(pairs_set(PAIRS) == VIRTIO_NET_OK, "queues/set", "they are refused");
	while (!attempt_made(&nic, attempt) && attempt < ATTEMPTS)
		attempt++;
	for (unsigned i = 0; i < PAIRS; i++) {
		const struct pair *pair = &pairs[i];
		char name[32];

		snprintf(name, sizeof(name), "queues/answers by pair %u", i);
		check(pair->answers == ROUNDS && !pair->foreign, name, "%u of %u, and %u of others",
		      pair->answers, ROUNDS, pair->foreign);
		snprintf(name, sizeof(name), "queues/interrupts of pair %u", i);
		check(pair->interrupts && !pair->elsewhere, name, "%u, and %u at another vCPU",
		      pair->interrupts, pair->elsewhere);
	}
	return check_status();
}
