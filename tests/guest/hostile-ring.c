/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 64M --rng --net mac=52:54:00:00:00:01 --disk {disk:64K} --agent {socket}
/*
 * A5-A12: rings that break the rules, against every device. A broken ring must make the device ask
 * for a reset (DEVICE_NEEDS_RESET), which then brings it back; what the standard only calls useless
 * may as well complete. Either way the device works after a reset and the VM runs on.
 */
#include "check.h"
#include "worker.h"

#define INDIRECT_ENTRIES 2048
#define REG(dev, name)	 ((volatile uint8_t *)(dev)->common + VIRTIO_PCI_COMMON_##name)

/* What must come of it. */
enum outcome { BREAKS, BREAKS_OR_COMPLETES };

struct bad_ring {
	const char *name;
	enum outcome outcome;
	bool indirect; /* with VIRTIO_F_INDIRECT_DESC */
	void (*make)(struct ring *ring);
};

static struct vring_desc *table; /* an indirect table */
static uint8_t *buffer;		 /* 64 KiB to point at */

/* Set descriptor @at. */
static void put(struct ring *ring, unsigned at, uint64_t addr, uint32_t len, uint16_t flags,
		uint16_t next)
{
	ring->desc[at].addr = addr;
	ring->desc[at].len = len;
	ring->desc[at].flags = flags;
	ring->desc[at].next = next;
}

/* Offer one entry. */
static void offer(struct ring *ring, uint16_t head)
{
	ring->avail->ring[ring->avail_next++ % ring->size] = head;
}

/* A descriptor with the direction the device expects. */
static void lone(struct ring *ring, uint64_t addr, uint32_t len, uint16_t flags)
{
	bool in = ring->dev->type == VIRTIO_ID_RNG;

	put(ring, 0, addr, len, (uint16_t)(flags | (in ? VRING_DESC_F_WRITE : 0)), 0);
	offer(ring, 0);
}

static uint64_t ram_end(void)
{
	return guest_boot->memory_low;
}

/* --- A5, A9: addresses and lengths of buffers --- */

static void buffer_outside(struct ring *ring)
{
	lone(ring, ram_end(), 64, 0);
}
static void buffer_straddles(struct ring *ring)
{
	lone(ring, ram_end() - 32, 64, 0);
}
static void buffer_in_hole(struct ring *ring)
{
	lone(ring, guest_boot->ecam, 64, 0);
}
static void buffer_wraps(struct ring *ring)
{
	lone(ring, UINT64_MAX - 31, 64, 0);
}
static void buffer_huge(struct ring *ring)
{
	lone(ring, (uintptr_t)buffer, 0xffffffff, 0);
}

/* --- A6, A7: the available ring --- */

static void avail_ahead(struct ring *ring)
{
	ring->avail_next = (uint16_t)(ring->avail_next + ring->size + 1);
}
static void avail_far_ahead(struct ring *ring)
{
	ring->avail_next = (uint16_t)(ring->avail_next + 0x8000);
}
static void entry_outside(struct ring *ring)
{
	offer(ring, ring->size);
}
static void entry_far_outside(struct ring *ring)
{
	offer(ring, 0xffff);
}

/* --- A8, A10, A11: chains --- */

static void next_outside(struct ring *ring)
{
	put(ring, 0, (uintptr_t)buffer, 16, VRING_DESC_F_NEXT, ring->size);
	offer(ring, 0);
}
static void next_far_outside(struct ring *ring)
{
	put(ring, 0, (uintptr_t)buffer, 16, VRING_DESC_F_NEXT, 0xffff);
	offer(ring, 0);
}

static void loop_of(struct ring *ring, unsigned length, uint32_t len)
{
	for (unsigned i = 0; i < length; i++)
		put(ring, i, (uintptr_t)buffer, len, VRING_DESC_F_NEXT,
		    (uint16_t)((i + 1) % length));
	offer(ring, 0);
}
static void loop_1(struct ring *ring)
{
	loop_of(ring, 1, 16);
}
static void loop_2(struct ring *ring)
{
	loop_of(ring, 2, 16);
}
static void loop_all(struct ring *ring)
{
	loop_of(ring, ring->size, 16);
}
static void loop_empty(struct ring *ring)
{
	loop_of(ring, 3, 0);
}
static void empty_one(struct ring *ring)
{
	lone(ring, (uintptr_t)buffer, 0, 0);
}
static void empty_chain(struct ring *ring)
{
	loop_of(ring, ring->size, 0);
	ring->desc[ring->size - 1].flags = 0;
}
static void order_wrong(struct ring *ring)
{
	put(ring, 0, (uintptr_t)buffer, 64, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	put(ring, 1, (uintptr_t)buffer + 64, 64, 0, 0);
	offer(ring, 0);
}
static void direction_wrong(struct ring *ring)
{
	bool in = ring->dev->type == VIRTIO_ID_RNG;

	put(ring, 0, (uintptr_t)buffer, 64, in ? 0 : VRING_DESC_F_WRITE, 0);
	offer(ring, 0);
}
static void too_short(struct ring *ring)
{
	lone(ring, (uintptr_t)buffer, 1, 0);
}

/* --- A12: indirect tables --- */

static void table_fill(unsigned entries, uint32_t len)
{
	for (unsigned i = 0; i < entries; i++)
		table[i] = (struct vring_desc){(uintptr_t)buffer, len, VRING_DESC_F_NEXT,
					       (uint16_t)(i + 1)};
	table[entries - 1].flags = 0;
}
static void indirect_at(struct ring *ring, uint64_t addr, uint32_t len, uint16_t flags)
{
	put(ring, 0, addr, len, VRING_DESC_F_INDIRECT | flags, 1);
	put(ring, 1, (uintptr_t)buffer, 64, 0, 0);
	offer(ring, 0);
}
static void indirect_plain(struct ring *ring)
{
	table_fill(2, 16);
	indirect_at(ring, (uintptr_t)table, 2 * sizeof(*table), 0);
}
static void indirect_nested(struct ring *ring)
{
	table_fill(2, 16);
	table[0] = (struct vring_desc){(uintptr_t)table, 32, VRING_DESC_F_INDIRECT, 0};
	indirect_at(ring, (uintptr_t)table, 2 * sizeof(*table), 0);
}
static void indirect_with_next(struct ring *ring)
{
	table_fill(2, 16);
	indirect_at(ring, (uintptr_t)table, 2 * sizeof(*table), VRING_DESC_F_NEXT);
}
static void indirect_odd(struct ring *ring)
{
	table_fill(2, 16);
	indirect_at(ring, (uintptr_t)table, 2 * sizeof(*table) + 1, 0);
}
static void indirect_empty(struct ring *ring)
{
	indirect_at(ring, (uintptr_t)table, 0, 0);
}
static void indirect_huge(struct ring *ring)
{
	indirect_at(ring, (uintptr_t)table, 0xfffffff0, 0);
}
static void indirect_long(struct ring *ring)
{
	table_fill(INDIRECT_ENTRIES, 0);
	indirect_at(ring, (uintptr_t)table, INDIRECT_ENTRIES * sizeof(*table), 0);
}
static void indirect_straddles(struct ring *ring)
{
	indirect_at(ring, ram_end() - 16, 32, 0);
}
static void indirect_loops(struct ring *ring)
{
	table_fill(2, 16);
	table[1] = (struct vring_desc){(uintptr_t)buffer, 16, VRING_DESC_F_NEXT, 0};
	indirect_at(ring, (uintptr_t)table, 2 * sizeof(*table), 0);
}
static void indirect_next_outside(struct ring *ring)
{
	table_fill(2, 16);
	table[0].next = 2;
	indirect_at(ring, (uintptr_t)table, 2 * sizeof(*table), 0);
}

/* A9: 300 times 16 MiB of the same memory are more than 4 GiB. */
static void chain_past_4g(struct ring *ring)
{
	bool in = ring->dev->type == VIRTIO_ID_RNG;

	for (unsigned i = 0; i < 300; i++)
		table[i] = (struct vring_desc){
		    1 << 20, 16 << 20,
		    (uint16_t)(VRING_DESC_F_NEXT | (in ? VRING_DESC_F_WRITE : 0)),
		    (uint16_t)(i + 1)};
	table[299].flags &= (uint16_t)~VRING_DESC_F_NEXT;
	indirect_at(ring, (uintptr_t)table, 300 * sizeof(*table), 0);
}

static const struct bad_ring bad_rings[] = {
    {"A5 buffer outside of RAM", BREAKS, false, buffer_outside},
    {"A5 buffer straddles the end of RAM", BREAKS, false, buffer_straddles},
    {"A5 buffer in the device hole", BREAKS, false, buffer_in_hole},
    {"A5 buffer wraps", BREAKS, false, buffer_wraps},
    {"A6 avail.idx ahead by one", BREAKS, false, avail_ahead},
    {"A6 avail.idx far ahead", BREAKS, false, avail_far_ahead},
    {"A7 entry outside", BREAKS, false, entry_outside},
    {"A7 entry far outside", BREAKS, false, entry_far_outside},
    {"A8 next outside", BREAKS, false, next_outside},
    {"A8 next far outside", BREAKS, false, next_far_outside},
    {"A8 loop of 1", BREAKS, false, loop_1},
    {"A8 loop of 2", BREAKS, false, loop_2},
    {"A8 loop of all", BREAKS, false, loop_all},
    {"A9 buffer of 4 GiB", BREAKS, false, buffer_huge},
    {"A9 chain past 4 GiB", BREAKS, true, chain_past_4g},
    {"A10 loop of empty descriptors", BREAKS, false, loop_empty},
    {"A10 one empty descriptor", BREAKS_OR_COMPLETES, false, empty_one},
    {"A10 chain of empty descriptors", BREAKS_OR_COMPLETES, false, empty_chain},
    {"A11 readable behind writable", BREAKS, false, order_wrong},
    {"A11 wrong direction", BREAKS_OR_COMPLETES, false, direction_wrong},
    {"A11 one byte", BREAKS_OR_COMPLETES, false, too_short},
    {"A12 not negotiated", BREAKS, false, indirect_plain},
    {"A12 nested", BREAKS, true, indirect_nested},
    {"A12 with next", BREAKS, true, indirect_with_next},
    {"A12 odd length", BREAKS, true, indirect_odd},
    {"A12 empty", BREAKS, true, indirect_empty},
    {"A12 huge", BREAKS, true, indirect_huge},
    {"A12 too long", BREAKS, true, indirect_long},
    {"A12 straddles the end of RAM", BREAKS, true, indirect_straddles},
    {"A12 loops", BREAKS, true, indirect_loops},
    {"A12 next outside", BREAKS, true, indirect_next_outside},
};

static const char *test_name(const struct worker *worker, const char *test)
{
	static char name[96];

	snprintf(name, sizeof(name), "hostile-ring/%s/%s", worker->kind->name, test);
	return name;
}

static void recovers(struct worker *worker, const char *test)
{
	if (!worker_start(worker, 0) || !worker_works(worker))
		check(false, test_name(worker, test), "the device does not come back");
}

/* Wait for one of the two outcomes. */
static bool completes_or_breaks(const struct worker *worker)
{
	uint64_t start = time_ns();

	while (!ring_pending(&worker->ring))
		if (virtio_status(&worker->dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return true;
		else if (time_ns() - start > PATIENCE_NS)
			return false;
	return true;
}

static void test_ring(struct worker *worker, const struct bad_ring *bad)
{
	uintptr_t mark = memory_mark();
	bool good = worker_start(worker, bad->indirect ? FEATURE(VIRTIO_RING_F_INDIRECT_DESC) : 0);

	if (good) {
		bad->make(&worker->ring);
		ring_publish(&worker->ring);
		ring_notify(&worker->ring);
		good = bad->outcome == BREAKS ? worker_needs_reset(worker)
					      : completes_or_breaks(worker);
	}
	if (check(good, test_name(worker, bad->name), "status is 0x%x",
		  virtio_status(&worker->dev)))
		recovers(worker, bad->name);
	virtio_reset(&worker->dev);
	memory_release(mark);
}

/* A5: where the ring itself is. The device sees it at DRIVER_OK. */
static void test_place(struct worker *worker, const char *name, uint64_t desc, uint64_t avail,
		       uint64_t used)
{
	struct virtio *dev = &worker->dev;
	uint64_t places[] = {desc, avail, used};
	uintptr_t mark = memory_mark();

	virtio_reset(dev);
	virtio_negotiate(dev, 0);
	mmio_write16(REG(dev, Q_SELECT), worker->kind->queue);
	mmio_write16(REG(dev, Q_SIZE), 16);
	for (unsigned i = 0; i < 3; i++) {
		mmio_write32(REG(dev, Q_DESCLO) + 8 * i, (uint32_t)places[i]);
		mmio_write32(REG(dev, Q_DESCHI) + 8 * i, (uint32_t)(places[i] >> 32));
	}
	mmio_write16(REG(dev, Q_ENABLE), 1);
	virtio_start(dev);
	mmio_write16(dev->notify + worker->kind->queue * dev->notify_multiplier, 0);
	if (check(worker_needs_reset(worker), test_name(worker, name), "status is 0x%x",
		  virtio_status(dev)))
		recovers(worker, name);
	virtio_reset(dev);
	memory_release(mark);
}

static void test_places(struct worker *worker)
{
	uint64_t end = ram_end(), at = (uintptr_t)buffer;

	test_place(worker, "A5 table outside of RAM", end, at + 4096, at + 8192);
	test_place(worker, "A5 table straddles the end", end - 128, at + 4096, at + 8192);
	test_place(worker, "A5 available ring straddles the end", at, end - 16, at + 8192);
	test_place(worker, "A5 used ring straddles the end", at, at + 4096, end - 64);
	test_place(worker, "A5 table wraps", UINT64_MAX - 127, at + 4096, at + 8192);
	test_place(worker, "A5 used ring in the device hole", at, at + 4096, guest_boot->lapic);
	test_place(worker, "A5 table not aligned", at + 8, at + 4096, at + 8192);
	test_place(worker, "A5 available ring not aligned", at, at + 4097, at + 8192);
	test_place(worker, "A5 used ring not aligned", at, at + 4096, at + 8194);
}

int main(void)
{
	struct worker worker;

	table = memory_take(INDIRECT_ENTRIES * sizeof(*table), 4096);
	buffer = memory_take(65536, 4096);
	for (unsigned i = 0; i < worker_kind_count; i++) {
		if (!check(worker_find(&worker, &worker_kinds[i]), worker_kinds[i].name,
			   "the VM has no such device"))
			continue;
		test_places(&worker);
		for (unsigned j = 0; j < ARRAY_SIZE(bad_rings); j++)
			test_ring(&worker, &bad_rings[j]);
	}
	return check_status();
}
