/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <linux/virtio_blk.h>
#include <linux/virtio_console.h>
#include <linux/virtio_net.h>

#include "guest-images/agent/agent_protocol.h"
#include "worker.h"

#define WORKER_RING  64 /* entries */
#define RANDOM_BYTES 64
#define SECTOR	     512

/* The buffers that all requests of a kind share. */
static uint8_t frame[12 + 60] = {
    [12] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0xff, 0xff, 0x01, 0x88, 0xb5,
};
static struct virtio_blk_outhdr block_header = {.type = VIRTIO_BLK_T_IN};
static uint8_t sector[SECTOR], block_status, randomness[RANDOM_BYTES];
static struct {
	struct agent_frame head;
	uint32_t version;
	char name;
} __attribute__((packed)) hello = {{5, 0, AGENT_HELLO}, AGENT_VERSION, 'u'};

static uint8_t promiscuous[] = {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 1}, answer;
static struct virtio_console_control ready = {.event = VIRTIO_CONSOLE_DEVICE_READY, .value = 1};

const struct worker_kind worker_kinds[] = {
    [WORKER_NET] = {"net", VIRTIO_ID_NET, 1, 0, 1, 0, {{frame, sizeof(frame)}}},
    [WORKER_BLOCK] = {"block",
		      VIRTIO_ID_BLOCK,
		      0,
		      0,
		      1,
		      2,
		      {{&block_header, sizeof(block_header)},
		       {sector, SECTOR},
		       {&block_status, 1}}},
    [WORKER_RNG] = {"rng", VIRTIO_ID_RNG, 0, 0, 0, 1, {{randomness, RANDOM_BYTES}}},
    [WORKER_CONSOLE] = {"console", VIRTIO_ID_CONSOLE, 1, 0, 1, 0, {{&hello, sizeof(hello)}}},
    [WORKER_NET_CONTROL] = {"net control",
			    VIRTIO_ID_NET,
			    2,
			    FEATURE(VIRTIO_NET_F_CTRL_VQ) | FEATURE(VIRTIO_NET_F_CTRL_RX),
			    1,
			    1,
			    {{promiscuous, sizeof(promiscuous)}, {&answer, 1}}},
    [WORKER_CONSOLE_CONTROL] = {"console control",
				VIRTIO_ID_CONSOLE,
				3,
				FEATURE(VIRTIO_CONSOLE_F_MULTIPORT),
				1,
				0,
				{{&ready, sizeof(ready)}}},
};
const unsigned worker_kind_count = ARRAY_SIZE(worker_kinds);

bool worker_find(struct worker *worker, const struct worker_kind *kind)
{
	worker->kind = kind;
	return virtio_find(&worker->dev, kind->type, 0);
}

bool worker_start(struct worker *worker, uint64_t features)
{
	virtio_reset(&worker->dev);
	if (!virtio_negotiate(&worker->dev, worker->kind->features | features))
		return false;
	for (uint16_t i = 0; i <= worker->kind->queue; i++)
		if (!ring_init(&worker->ring, &worker->dev, i, WORKER_RING))
			return false;
	virtio_start(&worker->dev);
	return true;
}

int worker_post(struct worker *worker)
{
	const struct worker_kind *kind = worker->kind;

	return ring_add(&worker->ring, kind->segments, kind->out, kind->in);
}

bool worker_works(struct worker *worker)
{
	int head = worker_post(worker);

	if (head < 0)
		return false;
	ring_kick(&worker->ring);
	return ring_wait(&worker->ring, NULL, PATIENCE_NS) == head;
}

bool worker_needs_reset(const struct worker *worker)
{
	uint64_t start = time_ns();

	while (!(virtio_status(&worker->dev) & VIRTIO_CONFIG_S_NEEDS_RESET))
		if (time_ns() - start > PATIENCE_NS)
			return false;
	return true;
}
