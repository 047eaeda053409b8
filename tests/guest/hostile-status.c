/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --rng --net mac=52:54:00:00:00:01 --disk {disk:64K} --agent {socket}
/*
 * A1-A4, A20: queues that do not exist, registers and status bits in any order, against every
 * device.
 */
#include "check.h"
#include "worker.h"

#define COMMON_SIZE    56
#define REG(dev, name) ((volatile uint8_t *)(dev)->common + VIRTIO_PCI_COMMON_##name)
#define DRIVER_BITS    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

static const char *test_name(const struct worker *worker, const char *test)
{
	static char name[80];

	snprintf(name, sizeof(name), "hostile-status/%s/%s", worker->kind->name, test);
	return name;
}

/* After each test: the device must come up and do its work. */
static void recovers(struct worker *worker, const char *test)
{
	uintptr_t mark = memory_mark();
	bool started = worker_start(worker, 0), works = started && worker_works(worker);

	check(works, test_name(worker, test),
	      started ? "does not work afterwards" : "does not start");
	virtio_reset(&worker->dev);
	memory_release(mark);
}

/* A2: with a queue selected that is not there, every register read and written at every size. */
static void queue_select_wild(struct worker *worker)
{
	static const uint16_t selections[] = {0xffff, 0x8000, 64, 63, 5};
	struct virtio *dev = &worker->dev;

	for (unsigned i = 0; i < ARRAY_SIZE(selections); i++) {
		mmio_write16(REG(dev, Q_SELECT), selections[i]);
		if (mmio_read16(REG(dev, Q_SIZE)))
			check(false, test_name(worker, "absent queue"), "queue %u has size %u",
			      selections[i], mmio_read16(REG(dev, Q_SIZE)));
		for (unsigned at = VIRTIO_PCI_COMMON_Q_SIZE; at < COMMON_SIZE; at++) {
			mmio_read32((volatile uint8_t *)dev->common + at);
			mmio_write16((volatile uint8_t *)dev->common + at, 0xffff);
			mmio_write32((volatile uint8_t *)dev->common + at, 0xffffffff);
		}
	}
}

/* A1: doorbells in and behind the block, with any value. */
static void doorbell_wild(struct worker *worker)
{
	uintptr_t mark = memory_mark();
	struct virtio *dev = &worker->dev;

	for (unsigned pass = 0; pass < 2; pass++) {
		for (uint32_t at = 0; at < 0x1000; at += pass ? 4 : 102) {
			mmio_write16(dev->notify + at, 0xffff);
			mmio_write32(dev->notify + at, 0xffffffff);
		}
		if (!pass)
			worker_start(worker, 0); /* the second time the device is running */
	}
	memory_release(mark);
}

/* A3: the configuration past its end, at odd sizes. */
static void config_wild(struct worker *worker)
{
	struct virtio *dev = &worker->dev;

	if (!dev->config)
		return;
	for (uint32_t at = 0; at < dev->config_length + 16; at++) {
		mmio_read8(dev->config + at);
		mmio_read16(dev->config + at);
		mmio_read32(dev->config + at);
		mmio_read64(dev->config + at);
		mmio_write8(dev->config + at, 0xff);
		mmio_write64(dev->config + at, UINT64_MAX);
	}
	mmio_read64(dev->config + 0xff9);
}

/* A4: sizes that are none, and a size changed after the queue was enabled. */
static void queue_size_wild(struct worker *worker)
{
	static const uint16_t sizes[] = {0, 3, 63, 0x7fff, 0x8000, 0xffff, 2048};
	struct virtio *dev = &worker->dev;
	uintptr_t mark = memory_mark();
	struct ring ring;

	virtio_negotiate(dev, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint16_t size;

		mmio_write16(REG(dev, Q_SELECT), 0);
		mmio_write16(REG(dev, Q_SIZE), sizes[i]);
		size = mmio_read16(REG(dev, Q_SIZE));
		if (!size || size & (size - 1) || size > RING_SIZE_MAX)
			check(false, test_name(worker, "queue size"), "%u became %u", sizes[i],
			      size);
	}
	ring_init(&ring, dev, 0, 16);
	mmio_write16(REG(dev, Q_SIZE), 8);
	mmio_write32(REG(dev, Q_DESCLO), 0xfffff000);
	check(mmio_read16(REG(dev, Q_SIZE)) == 16, test_name(worker, "size of an enabled queue"),
	      "became %u", mmio_read16(REG(dev, Q_SIZE)));
	memory_release(mark);
}

/* A20: features that were not offered, or are written when it is too late. */
static void features_wild(struct worker *worker)
{
	struct virtio *dev = &worker->dev;
	uint32_t agreed;

	virtio_reset(dev);
	virtio_status_set(dev, DRIVER_BITS);
	mmio_write32(REG(dev, GFSELECT), 1);
	mmio_write32(REG(dev, GF), 0xffffffff);
	virtio_status_set(dev, DRIVER_BITS | VIRTIO_CONFIG_S_FEATURES_OK);
	check(!(virtio_status(dev) & VIRTIO_CONFIG_S_FEATURES_OK),
	      test_name(worker, "all features"), "accepted");
	virtio_reset(dev);
	virtio_status_set(dev, DRIVER_BITS);
	virtio_status_set(dev, DRIVER_BITS | VIRTIO_CONFIG_S_FEATURES_OK);
	check(!(virtio_status(dev) & VIRTIO_CONFIG_S_FEATURES_OK),
	      test_name(worker, "no VERSION_1"), "accepted");
	for (uint32_t select = 2; select; select <<= 1) {
		mmio_write32(REG(dev, DFSELECT), select);
		mmio_write32(REG(dev, GFSELECT), select);
		if (mmio_read32(REG(dev, DF)))
			check(false, test_name(worker, "feature words"), "word %u is not 0",
			      select);
		mmio_write32(REG(dev, GF), 0xffffffff);
	}
	virtio_reset(dev);
	check(virtio_negotiate(dev, 0), test_name(worker, "negotiate"), "refused");
	mmio_write32(REG(dev, GFSELECT), 0);
	agreed = mmio_read32(REG(dev, GF));
	mmio_write32(REG(dev, GF), 0xffffffff);
	check(mmio_read32(REG(dev, GF)) == agreed, test_name(worker, "features after FEATURES_OK"),
	      "changed to 0x%x", mmio_read32(REG(dev, GF)));
}

/* A20: DRIVER_OK at the wrong time, bits taken away, the device's own bit set by the driver. */
static void status_wild(struct worker *worker)
{
	struct virtio *dev = &worker->dev;

	virtio_reset(dev);
	virtio_status_set(dev, VIRTIO_CONFIG_S_DRIVER_OK);
	ring_notify(&(struct ring){.dev = dev, .doorbell = (volatile uint16_t *)dev->notify});
	virtio_status_set(dev, VIRTIO_CONFIG_S_NEEDS_RESET);
	virtio_status_set(dev, 0xff);
	virtio_reset(dev);
	virtio_negotiate(dev, 0);
	virtio_status_set(dev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	virtio_status_set(dev, VIRTIO_CONFIG_S_FAILED);
	for (unsigned status = 255; status; status--)
		virtio_status_set(dev, (uint8_t)status);
}

static void no_queues(struct worker *worker)
{
	struct virtio *dev = &worker->dev;

	virtio_reset(dev);
	virtio_negotiate(dev, 0);
	virtio_start(dev);
	for (uint16_t i = 0; i < 4; i++)
		mmio_write16(dev->notify + i * dev->notify_multiplier, i);
	check(!(virtio_status(dev) & VIRTIO_CONFIG_S_NEEDS_RESET),
	      test_name(worker, "without queues"), "the device asks for a reset");
	mmio_write16(REG(dev, Q_SELECT), worker->kind->queue);
	mmio_write16(REG(dev, Q_ENABLE), 1); /* too late, with its ring at address 0 */
	mmio_write16(dev->notify + worker->kind->queue * dev->notify_multiplier, 0);
}

/* A20: reset with requests in flight, over and over. */
static void reset_busy(struct worker *worker)
{
	for (unsigned i = 0; i < 20; i++) {
		uintptr_t mark = memory_mark();

		if (!worker_start(worker, 0))
			check(false, test_name(worker, "start"), "refused in round %u", i);
		while (worker_post(worker) >= 0)
			;
		ring_kick(&worker->ring);
		for (unsigned pause = 0; pause < i * 100; pause++)
			cpu_relax();
		virtio_reset(&worker->dev);
		memory_release(mark);
	}
	virtio_reset(&worker->dev);
	virtio_reset(&worker->dev);
}

static const struct {
	const char *name;
	void (*run)(struct worker *worker);
} tests[] = {
    {"A1 doorbells", doorbell_wild},   {"A2 queue_select", queue_select_wild},
    {"A3 configuration", config_wild}, {"A4 queue sizes", queue_size_wild},
    {"A20 features", features_wild},   {"A20 status", status_wild},
    {"A20 no queues", no_queues},      {"A20 reset with requests in flight", reset_busy},
};

int main(void)
{
	struct worker worker;

	for (unsigned i = 0; i < worker_kind_count; i++) {
		if (!check(worker_find(&worker, &worker_kinds[i]), worker_kinds[i].name,
			   "the VM has no such device"))
			continue;
		recovers(&worker, "before");
		for (unsigned j = 0; j < ARRAY_SIZE(tests); j++) {
			tests[j].run(&worker);
			recovers(&worker, tests[j].name);
		}
	}
	return check_status();
}
