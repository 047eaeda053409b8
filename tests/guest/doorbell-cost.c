/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 16M --net mode=guest
/*
 * What it costs to have something done by the VMM: an exit, a doorbell, an interrupt. Prints
 * medians of count=N samples (default 100) as one line of JSON, in nanoseconds: exit       an exit
 * to the process: a port is read doorbell   the vCPU rings, and goes on done       from the
 * doorbell until a request is seen to be done, by a vCPU that polls interrupt  the same, until its
 * interrupt is handled by a vCPU that spins wakeup     the same, by one that sleeps Each sample
 * waits before until whoever serves doorbells has gone to sleep. A check says that all requests
 * were done, none how long they took.
 */
#include "check.h"
#include "worker.h"

#define SAMPLES_MAX 10000
#define SETTLE_NS   200000u
#define PORT_ANY    0x603 /* reads as 0, and does nothing else */

struct figure {
	const char *name;
	bool interrupts;
	bool (*sample)(struct worker *net);
};

static volatile uint64_t handled; /* time stamp of the last interrupt; 0: there was none */
static uint64_t samples[SAMPLES_MAX];

static void handle(void *context)
{
	(void)context;
	handled = tsc_read();
}

/* Spin until the interrupt has come; false if it never does. */
static bool interrupt_await(void)
{
	uint64_t start = time_ns();

	while (!handled && time_ns() - start < PATIENCE_NS)
		cpu_relax();
	return handled;
}

static bool sample_exit(struct worker *net)
{
	(void)net;
	port_read8(PORT_ANY);
	return true;
}

static bool sample_doorbell(struct worker *net)
{
	ring_notify(&net->ring);
	return true;
}

static bool sample_done(struct worker *net)
{
	return worker_works(net);
}

static bool sample_interrupt(struct worker *net)
{
	handled = 0;
	if (worker_post(net) < 0)
		return false;
	ring_kick(&net->ring);
	return interrupt_await() && ring_take(&net->ring, NULL) >= 0;
}

static bool sample_wakeup(struct worker *net)
{
	handled = 0;
	if (worker_post(net) < 0)
		return false;
	ring_kick(&net->ring);
	for (uint32_t seen; seen = interrupts_taken, !handled;)
		cpu_idle(seen);
	return ring_take(&net->ring, NULL) >= 0;
}

static const struct figure figures[] = {
    {"exit", false, sample_exit},    {"doorbell", false, sample_doorbell},
    {"done", false, sample_done},    {"interrupt", true, sample_interrupt},
    {"wakeup", true, sample_wakeup},
};

static uint64_t median(unsigned count)
{
	for (unsigned i = 1; i < count; i++)
		for (unsigned j = i; j && samples[j - 1] > samples[j]; j--) {
			uint64_t larger = samples[j - 1];

			samples[j - 1] = samples[j];
			samples[j] = larger;
		}
	return tsc_to_ns(samples[count / 2]);
}

/* Returns how many samples there are in the end. */
static unsigned figure_take(const struct figure *figure, struct worker *net, unsigned count)
{
	ring_interrupt(&net->ring, figure->interrupts);
	for (unsigned i = 0; i < count; i++) {
		uint64_t settled = time_ns() + SETTLE_NS, start;

		while (time_ns() < settled)
			cpu_relax();
		start = tsc_read();
		if (!figure->sample(net))
			return i;
		samples[i] = (figure->interrupts ? handled : tsc_read()) - start;
	}
	return count;
}

static void net_start(struct worker *net)
{
	if (!worker_find(net, &worker_kinds[WORKER_NET]) || !worker_start(net, 0))
		panic("no network card: start the VM with --net");
	interrupt_handle(VECTOR_FIRST, handle, NULL);
	msix_enable(&net->dev.pci, true);
	msix_route(&net->dev.pci, 0, 0, VECTOR_FIRST);
	if (!ring_route(&net->ring, 0))
		panic("the network card refuses MSI-X entry 0");
}

int main(void)
{
	uint64_t count = param_number("count", 100), medians[ARRAY_SIZE(figures)];
	static struct worker net;

	if (!count || count > SAMPLES_MAX)
		panic("count must be 1 to %u", SAMPLES_MAX);
	net_start(&net);
	for (unsigned i = 0; i < ARRAY_SIZE(figures); i++) {
		unsigned taken = figure_take(&figures[i], &net, (unsigned)count);

		check(taken == count, figures[i].name, "%u of %lu", taken, count);
		medians[i] = median(taken);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(figures); i++)
		printf("%s\"%s\":%lu", i ? "," : "{", figures[i].name, medians[i]);
	printf("}\n");
	return check_status();
}
