/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 64M --cpus 2 --rng --net mac=52:54:00:00:00:01 --disk {disk:64K}
/*
 * A16: a second vCPU changes descriptors and indices while the device reads them. Whatever the
 * device saw, it completes or asks for a reset, and works after one.
 */
#include "check.h"
#include "worker.h"

GUEST_SMP;

#define FLIP_NS	  500000000ull
#define LIFE_NS	  50000000ull
#define SAFE_SIZE 65536u

/* Read by the second vCPU, written by the first. NULL: leave the ring alone. */
static struct ring *volatile target;
static volatile bool resting;
/* Where devices may write: every address that is flipped to lies here, or outside of RAM. */
static uint8_t *safe;

static uint32_t random_next(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static void ring_flip(struct ring *ring, uint32_t random)
{
	volatile struct vring_desc *desc = &ring->desc[random >> 8 & (ring->size - 1u)];

	switch (random & 7) {
	case 0:
		desc->addr = (uintptr_t)safe + (random >> 16 & (SAFE_SIZE / 2 - 1));
		break;
	case 1:
		desc->addr = guest_boot->memory_low + (random >> 16);
		break;
	case 2:
		desc->len = random >> 18;
		break;
	case 3:
		desc->len = 0;
		break;
	case 4:
		desc->flags = random >> 16 & 7;
		break;
	case 5:
		desc->next = random >> 16 & (2u * ring->size - 1);
		break;
	case 6:
		ring->avail->ring[random >> 16 & (ring->size - 1u)] = (uint16_t)(random >> 24);
		break;
	case 7:
		ring->avail->flags = random >> 16 & 1;
		break;
	}
}

void cpu_main(unsigned cpu)
{
	uint32_t state = 2463534242u;
	struct ring *ring;

	(void)cpu;
	for (;;) {
		ring = target;
		resting = !ring;
		if (ring)
			ring_flip(ring, random_next(&state));
		else
			cpu_relax();
	}
}

static void flip_stop(void)
{
	target = NULL;
	resting = false;
	while (!resting)
		cpu_relax();
}

/* Fill the ring with requests whose buffers are all in the safe place. */
static void ring_fill(struct ring *ring)
{
	for (uint16_t i = 0; i < ring->size; i++) {
		bool in = ring->dev->type == VIRTIO_ID_RNG;

		ring->desc[i].addr = (uintptr_t)safe + i * 64u;
		ring->desc[i].len = 64;
		ring->desc[i].next = (uint16_t)((i + 1) % ring->size);
		ring->desc[i].flags = in ? VRING_DESC_F_WRITE : 0;
		ring->avail->ring[i] = i;
	}
}

/* Show the whole ring to the device, as it is by now. */
static void ring_offer(struct ring *ring)
{
	ring->avail_next = (uint16_t)(ring->avail_next + ring->size);
	ring_publish(ring);
	ring_notify(ring);
}

static bool is_broken(const struct worker *worker)
{
	return virtio_status(&worker->dev) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* Keep the ring full and flipped until the device breaks, for a while at most. */
static void life(struct worker *worker)
{
	uint64_t start = time_ns();

	ring_fill(&worker->ring);
	target = &worker->ring;
	ring_offer(&worker->ring);
	while (!is_broken(worker) && time_ns() - start < LIFE_NS)
		if (worker->ring.used->idx == worker->ring.avail_next)
			ring_offer(&worker->ring);
	flip_stop();
}

/* What the device has taken must come back, or it must have broken. */
static bool comes_to_rest(const struct worker *worker)
{
	uint64_t start = time_ns();

	while (!is_broken(worker) && worker->ring.used->idx != worker->ring.avail_next)
		if (time_ns() - start > PATIENCE_NS)
			return false;
	return true;
}

static void test_device(const struct worker_kind *kind)
{
	unsigned lives = 0, broken = 0;
	uint64_t start = time_ns();
	struct worker worker;
	char name[48];

	snprintf(name, sizeof(name), "hostile-flip/%s", kind->name);
	if (!check(worker_find(&worker, kind), name, "the VM has no such device"))
		return;
	/* On a busy host the vCPU that flips may come late. */
	for (; time_ns() - start < (broken ? FLIP_NS : PATIENCE_NS); lives++) {
		uintptr_t mark = memory_mark();

		if (!worker_start(&worker, FEATURE(VIRTIO_RING_F_INDIRECT_DESC)))
			check(false, name, "refused in life %u", lives);
		life(&worker);
		if (!comes_to_rest(&worker))
			check(false, name, "stands still in life %u", lives);
		broken += is_broken(&worker);
		virtio_reset(&worker.dev);
		memory_release(mark);
	}
	printf("# %s: broken in %u of %u lives\n", name, broken, lives);
	check(broken, name, "never broken in %u lives: nothing was flipped", lives);
	check(worker_start(&worker, 0) && worker_works(&worker), name, "does not come back");
	virtio_reset(&worker.dev);
}

int main(void)
{
	if (guest_boot->cpus < 2)
		panic("start with two vCPUs");
	safe = memory_take(SAFE_SIZE, 4096);
	test_device(&worker_kinds[WORKER_NET]);
	test_device(&worker_kinds[WORKER_BLOCK]);
	test_device(&worker_kinds[WORKER_RNG]);
	test_device(&worker_kinds[WORKER_NET_CONTROL]);
	return check_status();
}
