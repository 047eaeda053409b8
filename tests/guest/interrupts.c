/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --cpus 2 --rng
/* MSI-X: vectors, masks, pending bits, targets; and sleep until an interrupt. */
#include "check.h"
#include "worker.h"

GUEST_SMP;

#define VECTOR_A  VECTOR_FIRST
#define VECTOR_B  (VECTOR_FIRST + 1)
#define VECTOR_T  (VECTOR_FIRST + 2)
#define SETTLE_NS 20000000ull

static volatile uint32_t count_a, count_b, last_cpu, ticks;

static void count(void *context)
{
	last_cpu = mmio_read32((const volatile uint8_t *)guest_boot->lapic + 0x20) >> 24;
	__atomic_fetch_add((volatile uint32_t *)context, 1, __ATOMIC_RELAXED);
}

/* Give an interrupt that must not come the time to come. */
static void settle(void)
{
	uint64_t start = time_ns();

	while (time_ns() - start < SETTLE_NS)
		cpu_relax();
}

static bool arrives(const volatile uint32_t *counter, uint32_t before)
{
	uint64_t start = time_ns();

	while (*counter == before)
		if (time_ns() - start > PATIENCE_NS)
			return false;
	settle();
	return *counter == before + 1;
}

/* One request; the counters before it are what the caller compares with. */
static void request(struct worker *rng)
{
	if (!worker_works(rng))
		panic("the entropy device does not work");
}

static void test_vectors(struct worker *rng)
{
	uint32_t a = count_a, b;

	request(rng);
	check(arrives(&count_a, a), "interrupts/vector", "%u interrupts", count_a - a);
	msix_route(&rng->dev.pci, 0, 0, VECTOR_B);
	a = count_a, b = count_b;
	request(rng);
	check(arrives(&count_b, b) && count_a == a, "interrupts/other vector", "old %u, new %u",
	      count_a - a, count_b - b);
	msix_route(&rng->dev.pci, 0, 1, VECTOR_A);
	a = count_a;
	request(rng);
	check(arrives(&count_a, a) && last_cpu == 1, "interrupts/other vCPU", "%u, on vCPU %u",
	      count_a - a, last_cpu);
	msix_route(&rng->dev.pci, 0, 0, VECTOR_A);
}

static void test_masks(struct worker *rng)
{
	const struct pci_device *pci = &rng->dev.pci;
	uint32_t a = count_a;

	msix_mask(pci, 0, true);
	request(rng);
	settle();
	check(count_a == a, "interrupts/masked", "%u interrupts", count_a - a);
	check(msix_is_pending(pci, 0), "interrupts/pending bit", "not set");
	msix_mask(pci, 0, false);
	check(arrives(&count_a, a), "interrupts/unmasked", "%u interrupts", count_a - a);
	check(!msix_is_pending(pci, 0), "interrupts/pending bit cleared", "still set");
	a = count_a;
	msix_mask_all(pci, true);
	request(rng);
	settle();
	check(count_a == a, "interrupts/function masked", "%u interrupts", count_a - a);
	msix_mask_all(pci, false);
	check(arrives(&count_a, a), "interrupts/function unmasked", "%u interrupts", count_a - a);
	a = count_a;
	msix_enable(pci, false);
	request(rng);
	settle();
	check(count_a == a, "interrupts/disabled", "%u interrupts", count_a - a);
	msix_enable(pci, true);
	settle();
}

static void test_none(struct worker *rng)
{
	uint32_t a;

	check(ring_route(&rng->ring, VIRTIO_MSI_NO_VECTOR), "interrupts/no vector", "refused");
	a = count_a;
	request(rng);
	settle();
	check(count_a == a, "interrupts/none without vector", "%u interrupts", count_a - a);
	check(!ring_route(&rng->ring, (uint16_t)rng->dev.pci.msix_vectors) &&
		  ring_route(&rng->ring, VIRTIO_MSI_NO_VECTOR),
	      "interrupts/vector out of range", "accepted");
	check(ring_route(&rng->ring, 0), "interrupts/vector again", "refused");
	ring_interrupt(&rng->ring, false);
	a = count_a;
	request(rng);
	settle();
	check(count_a == a, "interrupts/not wanted", "%u interrupts", count_a - a);
	ring_interrupt(&rng->ring, true);
}

/*
 * A request that is waited for asleep; the sleep must end by its interrupt, however early that
 * comes.
 */
static void test_sleep(struct worker *rng)
{
	unsigned done = 0;

	for (unsigned i = 0; i < 200; i++) {
		worker_post(rng);
		ring_kick(&rng->ring);
		for (;;) {
			uint32_t seen = interrupts_taken;

			if (ring_take(&rng->ring, NULL) >= 0)
				break;
			cpu_idle(seen);
		}
		done++;
	}
	check(done == 200, "interrupts/sleep", "%u", done);
}

/* Asleep between ticks: if cpu_idle() came back at once, it would do so thousands of times. */
static void test_timer(void)
{
	uint64_t start = time_ns(), ns;
	unsigned sleeps = 0;

	timer_start(10000000, VECTOR_T);
	for (uint32_t seen; seen = interrupts_taken, ticks < 10; sleeps++)
		cpu_idle(seen);
	timer_start(0, VECTOR_T);
	ns = time_ns() - start;
	check(ns > 90000000, "interrupts/timer", "10 ticks of 10 ms took %lu ns", ns);
	check(sleeps < 100, "interrupts/asleep", "%u times awake for 10 ticks", sleeps);
}

int main(void)
{
	struct worker rng;

	interrupt_handle(VECTOR_A, count, (void *)&count_a);
	interrupt_handle(VECTOR_B, count, (void *)&count_b);
	interrupt_handle(VECTOR_T, count, (void *)&ticks);
	if (!worker_find(&rng, &worker_kinds[WORKER_RNG]) || !worker_start(&rng, 0))
		panic("no entropy device");
	check(rng.dev.pci.msix_vectors >= 2, "interrupts/table", "%u entries",
	      rng.dev.pci.msix_vectors);
	msix_enable(&rng.dev.pci, true);
	msix_route(&rng.dev.pci, 0, 0, VECTOR_A);
	check(ring_route(&rng.ring, 0), "interrupts/route", "refused");
	ring_interrupt(&rng.ring, true);
	test_vectors(&rng);
	test_masks(&rng);
	test_none(&rng);
	test_sleep(&rng);
	test_timer();
	return check_status();
}
