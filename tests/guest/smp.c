/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --cpus 4
/*
 * Every vCPU starts, with its own index and stack; interrupts from one to another arrive and wake a
 * sleeper.
 */
#include "check.h"

GUEST_SMP;

#define CPUS_MAX 64
#define ROUNDS	 1000

static volatile uint32_t started[CPUS_MAX], stacks[CPUS_MAX];
static volatile uint32_t counter, finished, answers, wrong_cpu;

static unsigned cpu_id(void)
{
	return mmio_read32((const volatile uint8_t *)guest_boot->lapic + 0x20) >> 24;
}

/* Called on the vCPU that was sent the vector VECTOR_FIRST + its index. */
static void answer(void *context)
{
	if (cpu_id() != (uintptr_t)context)
		wrong_cpu++;
	__atomic_fetch_add(&answers, 1, __ATOMIC_RELAXED);
}

void cpu_main(unsigned cpu)
{
	uint32_t local;

	__atomic_fetch_add(&started[cpu], 1, __ATOMIC_RELAXED);
	stacks[cpu] = (uint32_t)((uintptr_t)&local >> 16);
	for (unsigned i = 0; i < ROUNDS; i++)
		__atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
}

static bool wait_for(const volatile uint32_t *value, uint32_t wanted)
{
	uint64_t start = time_ns();

	while (__atomic_load_n(value, __ATOMIC_ACQUIRE) != wanted) {
		if (time_ns() - start > PATIENCE_NS)
			return false;
		cpu_relax();
	}
	return true;
}

static bool stacks_differ(unsigned cpus)
{
	for (unsigned i = 1; i < cpus; i++)
		for (unsigned j = 1; j < i; j++)
			if (stacks[i] == stacks[j])
				return false;
	return true;
}

static bool each_once(unsigned cpus)
{
	for (unsigned i = 1; i < cpus; i++)
		if (started[i] != 1)
			return false;
	return true;
}

int main(void)
{
	unsigned cpus = guest_boot->cpus;

	if (!check(cpus > 1 && cpus <= CPUS_MAX, "smp/count", "%u vCPUs: start with 2 to 64", cpus))
		return check_status();
	check(wait_for(&finished, cpus - 1), "smp/started", "%u of %u", finished, cpus - 1);
	check(each_once(cpus), "smp/index", "an index came twice or never");
	check(counter == (cpus - 1) * ROUNDS, "smp/shared memory", "counted %u", counter);
	check(stacks_differ(cpus), "smp/stacks", "two vCPUs share a stack");
	check(cpu_id() == 0, "smp/first", "the first vCPU has APIC id %u", cpu_id());
	for (unsigned i = 1; i < cpus; i++) {
		interrupt_handle(VECTOR_FIRST + i, answer, (void *)(uintptr_t)i);
		interrupt_send(i, VECTOR_FIRST + i);
	}
	check(wait_for(&answers, cpus - 1), "smp/interrupts", "%u of %u arrived", answers,
	      cpus - 1);
	check(!wrong_cpu, "smp/interrupt target", "%u came to another vCPU", wrong_cpu);
	return check_status();
}
