/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What routes cost: time of a lookup and of a frame, with few and with many routes, memory, and
 * what an exchange of the table does to frames under way. Ports take frames and do nothing. "make
 * build/bench/core_routes" makes it.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vnet/core.h"
#include "vnet/mac.h"
#include "vnet/route_table.h"

#define PORTS	 1000u
#define LOOKUPS	 2000000u
#define BATCHES	 100000u
#define SWAPS	 200u
#define ATTEMPTS 500u /* the best counts: what else the machine does only makes it slower */

struct sink {
	struct port port;
	const unsigned *shift; /* of the table in use */
	uint64_t taken, wrong;
};

struct bench {
	struct core *core;
	struct sink sinks[PORTS];
	struct frame frames[FRAME_BATCH_MAX];
	struct frame *list[FRAME_BATCH_MAX];
	struct iovec iov;
	uint8_t bytes[64];
	unsigned shift;
};

static uint64_t now_of(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void)
{
	return now_of(CLOCK_MONOTONIC);
}

/* A stall of ours is not the time that others had the processor. */
static uint64_t cpu_ns(void)
{
	return now_of(CLOCK_THREAD_CPUTIME_ID);
}

static uint64_t host_mac(unsigned i)
{
	return mac_load((uint8_t[]){2, 0, 0, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i});
}

static unsigned host_of(const struct frame *frame)
{
	return (unsigned)frame->eth[3] << 16 | (unsigned)frame->eth[4] << 8 | frame->eth[5];
}

/* Host i is behind link i % (PORTS - 1) + 1, moved on by the table's shift. */
static unsigned host_port(unsigned host, unsigned shift)
{
	return (host + shift) % (PORTS - 1) + 1;
}

static void sink_send(struct port *port, struct frame *const frames[], unsigned n)
{
	struct sink *sink = (struct sink *)port;

	sink->taken += n;
	for (unsigned i = 0; i < n; i++)
		sink->wrong += host_port(host_of(frames[i]), *sink->shift) != port->index;
}

static void sink_close(struct port *port)
{
	(void)port;
}

static const struct port_ops sink_ops = {
    .type = "sink",
    .send_batch = sink_send,
    .close = sink_close,
    .status = NULL,
};

static struct route_table *table_make(unsigned n, unsigned shift)
{
	struct route *routes = calloc(n, sizeof(*routes));
	struct route_table *table;

	for (unsigned i = 0; i < n; i++) {
		routes[i].destination.match = MAC_EXACT;
		mac_store(routes[i].destination.mac, host_mac(i));
		snprintf(routes[i].out, sizeof(routes[i].out), "udp://10.0.0.0:%u",
			 host_port(i, shift));
	}
	table = routes_build(routes, n);
	free(routes);
	if (!table)
		abort();
	return table;
}

static void bench_up(struct bench *bench)
{
	memset(bench, 0, sizeof(*bench));
	bench->core = core_create(&(struct core_options){.learn = true, .neighbours = true});
	for (unsigned i = 0; i < PORTS; i++) {
		struct sink *sink = &bench->sinks[i];

		sink->shift = &bench->shift;
		sink->port.ops = &sink_ops;
		sink->port.kind = i ? PORT_LINK : PORT_INTERFACE;
		snprintf(sink->port.name, sizeof(sink->port.name),
			 i ? "udp://10.0.0.0:%u" : "nic%u", i);
		if (core_attach(bench->core, &sink->port))
			abort();
	}
	bench->iov = (struct iovec){.iov_base = bench->bytes, .iov_len = sizeof(bench->bytes)};
	for (unsigned i = 0; i < FRAME_BATCH_MAX; i++)
		bench->list[i] = &bench->frames[i];
}

/* A batch to @n hosts in turn; returns the time it took by a clock. */
static uint64_t batch_run(struct bench *bench, unsigned *host, unsigned n, unsigned stride,
			  uint64_t (*clock)(void))
{
	uint64_t start;

	for (unsigned i = 0; i < FRAME_BATCH_MAX; i++) {
		struct frame *frame = &bench->frames[i];

		*frame = (struct frame){.iov = &bench->iov, .iovcnt = 1, .len = 64};
		mac_store(frame->eth, host_mac(*host));
		mac_store(frame->eth + FRAME_MAC_SIZE, host_mac(1 << 20));
		*host = (*host + stride) % n;
	}
	start = clock();
	core_input(bench->core, &bench->sinks[0].port, bench->list, FRAME_BATCH_MAX);
	return clock() - start;
}

static double frame_cost(struct bench *bench, unsigned hosts, unsigned stride)
{
	uint64_t best = UINT64_MAX;
	unsigned host = 0;

	for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
		uint64_t spent = 0;

		for (unsigned i = 0; i < BATCHES / ATTEMPTS; i++)
			spent += batch_run(bench, &host, hosts, stride, now_ns);
		best = spent < best ? spent : best;
	}
	return (double)best / (BATCHES / ATTEMPTS) / FRAME_BATCH_MAX;
}

static double lookup_cost(const struct bench *bench, const struct route_table *table, unsigned n)
{
	const struct port_kinds kinds = {0};
	struct flow_key key = {.source = host_mac(1 << 20), .in = &bench->sinks[0].port};
	struct decision decision;
	uint64_t best = UINT64_MAX;
	unsigned host = 0;

	for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
		uint64_t start = now_ns();

		for (unsigned i = 0; i < LOOKUPS / ATTEMPTS; i++) {
			key.destination = host_mac(host);
			host = (host + 7919) % n;
			route_table_match(table, &kinds, &key, &decision);
			__asm__ volatile("" : : "r"(&decision) : "memory");
		}
		if (now_ns() - start < best)
			best = now_ns() - start;
	}
	return (double)best / (LOOKUPS / ATTEMPTS);
}

static size_t heap_bytes(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

static void measure(struct bench *bench, unsigned n)
{
	size_t before = heap_bytes();
	uint64_t start = now_ns(), built;
	struct route_table *table = table_make(n, 0);

	built = now_ns() - start;
	printf("%u routes, %u ports: built in %.2f ms, %zu bytes\n", n, PORTS, (double)built / 1e6,
	       heap_bytes() - before);
	routes_destroy(core_routes_swap(bench->core, table));
	printf("  lookup, not cached:      %6.1f ns\n", lookup_cost(bench, table, n));
	printf("  frame, to 10 hosts:      %6.1f ns\n", frame_cost(bench, 10, 1));
	printf("  frame, to 1,000 hosts:   %6.1f ns\n", frame_cost(bench, n < 1000 ? n : 1000, 1));
	printf("  frame, one host a batch: %6.1f ns\n", frame_cost(bench, 1, 0));
}

/* --- exchange under load ---------------------------------------------------------------------- */

struct builder {
	_Atomic(struct route_table *) next;
	atomic_uint done;
};

static void *builder_run(void *arg)
{
	struct builder *builder = arg;

	for (unsigned i = 1; i <= SWAPS; i++) {
		struct route_table *table = table_make(10000, i);
		struct timespec wait = {.tv_nsec = 200000};

		while (atomic_load(&builder->next))
			nanosleep(&wait, NULL);
		atomic_store(&builder->next, table);
	}
	atomic_store(&builder->done, 1);
	return NULL;
}

struct stalls {
	uint64_t swap_max, swap_sum, batch_max, batch_sum, batches;
	unsigned swaps;
};

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static void swap_measure(struct bench *bench, struct builder *builder, struct stalls *stalls)
{
	struct route_table *table = atomic_load(&builder->next), *before;
	uint64_t spent, start = cpu_ns();

	before = core_routes_swap(bench->core, table);
	spent = cpu_ns() - start;
	bench->shift++;
	atomic_store(&builder->next, NULL);
	stalls->swap_max = larger(stalls->swap_max, spent);
	stalls->swap_sum += spent;
	stalls->swaps++;
	routes_destroy(before); /* weft does that on the thread that asked */
}

static void exchange(struct bench *bench)
{
	struct builder builder = {0};
	struct stalls stalls = {0};
	uint64_t wrong = 0;
	pthread_t thread;
	unsigned host = 0;

	routes_destroy(core_routes_swap(bench->core, table_make(10000, bench->shift = 0)));
	for (unsigned i = 0; i < PORTS; i++)
		bench->sinks[i].wrong = 0;
	pthread_create(&thread, NULL, builder_run, &builder);
	while (!atomic_load(&builder.done) || atomic_load(&builder.next)) {
		uint64_t spent = batch_run(bench, &host, 10000, 7919, cpu_ns);

		stalls.batch_max = larger(stalls.batch_max, spent);
		stalls.batch_sum += spent;
		stalls.batches++;
		if (atomic_load(&builder.next))
			swap_measure(bench, &builder, &stalls);
	}
	pthread_join(thread, NULL);
	for (unsigned i = 0; i < PORTS; i++)
		wrong += bench->sinks[i].wrong;
	printf("exchange of 10,000 routes under load: %u times among %.1f M frames to 10,000 "
	       "hosts, %llu "
	       "to a wrong port\n",
	       stalls.swaps, (double)stalls.batches * FRAME_BATCH_MAX / 1e6,
	       (unsigned long long)wrong);
	printf("  swap %.1f us, at most %.1f us; batch of 64 %.1f us, at most %.1f us (CPU time)\n",
	       (double)stalls.swap_sum / stalls.swaps / 1e3, (double)stalls.swap_max / 1e3,
	       (double)stalls.batch_sum / (double)stalls.batches / 1e3,
	       (double)stalls.batch_max / 1e3);
}

int main(void)
{
	static struct bench bench;
	size_t before = heap_bytes();

	bench_up(&bench);
	printf("a core with learning and neighbours, %u ports: %zu bytes, most of it untouched\n",
	       PORTS, heap_bytes() - before);
	measure(&bench, 10);
	measure(&bench, 10000);
	exchange(&bench);
	core_destroy(bench.core);
	return 0;
}
