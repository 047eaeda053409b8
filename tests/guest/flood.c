/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 64M --cpus 2 --rng --net mac=52:54:00:00:00:01 --disk {disk:64K}
/*
 * A18, A19: a vCPU that adds frames as fast as they are taken, without an end. The other devices
 * must go on all the while, as must the network card. The first vCPU asks them, and sleeps in
 * between, so that the flood and the devices have the host's processors.
 */
#include "check.h"
#include "worker.h"

GUEST_SMP;

#define FLOOD_NS     2000000000ull
#define REQUEST_MIN  20 /* the least that is no standstill */
#define NET_TX	     1
#define FLOOD_RING   256
#define TIMER_NS     20000000u
#define TIMER_VECTOR (VECTOR_FIRST + 16)

struct side_job {
	struct worker worker;
	uint64_t posted_at, slowest; /* ns */
	uint64_t done;
	bool busy;
};

/* The flooded ring: set up by the first vCPU before flooding is set, then the second one's. */
static struct ring flooded;
static volatile bool flooding, ended;
static volatile uint64_t frames;

/* Every entry is always the same frame, so showing a taken one again is one store. */
void cpu_main(unsigned cpu)
{
	uint16_t used = 0, now;

	(void)cpu;
	while (!flooding)
		cpu_relax();
	while (!ended) {
		now = flooded.used->idx;
		frames += (uint16_t)(now - used);
		used = now;
		flooded.avail->idx = (uint16_t)(used + flooded.size);
		full_barrier();
		if (!(flooded.used->flags & VRING_USED_F_NO_NOTIFY))
			ring_notify(&flooded);
	}
}

static void interrupt(void *context)
{
	(void)context;
}

static void flood_start(struct virtio *net)
{
	const struct segment *frame = worker_kinds[WORKER_NET].segments;
	struct ring rx;

	if (!virtio_find(net, VIRTIO_ID_NET, 0) || !virtio_negotiate(net, 0) ||
	    !ring_init(&rx, net, 0, FLOOD_RING) || !ring_init(&flooded, net, NET_TX, FLOOD_RING))
		panic("no network card");
	while (ring_add(&flooded, frame, 1, 0) >= 0)
		;
	virtio_start(net);
	flooding = true;
}

static void job_open(struct side_job *job, const struct worker_kind *kind, unsigned vector)
{
	if (!worker_find(&job->worker, kind) || !worker_start(&job->worker, 0) ||
	    !ring_route(&job->worker.ring, 0))
		panic("no %s device", kind->name);
	interrupt_handle(vector, interrupt, NULL);
	msix_enable(&job->worker.dev.pci, true);
	msix_route(&job->worker.dev.pci, 0, 0, vector);
	ring_interrupt(&job->worker.ring, true);
}

/* Keep one request of a device going. */
static void job_step(struct side_job *job)
{
	uint64_t now;

	if (job->busy && ring_take(&job->worker.ring, NULL) >= 0) {
		now = time_ns();
		job->busy = false;
		job->done++;
		if (now - job->posted_at > job->slowest)
			job->slowest = now - job->posted_at;
	}
	if (!job->busy) {
		worker_post(&job->worker);
		job->posted_at = time_ns();
		job->busy = true;
		ring_kick(&job->worker.ring);
	}
}

static void job_check(const struct side_job *job)
{
	char name[32];

	snprintf(name, sizeof(name), "flood/%s", job->worker.kind->name);
	check(job->done >= REQUEST_MIN, name, "only %lu requests were served", job->done);
	printf("# %s: %lu requests, slowest %lu us\n", name, job->done, job->slowest / 1000);
}

/* Whether everybody has done something; on a busy host that may take a while. */
static bool went_on(const struct side_job *rng, const struct side_job *disk)
{
	return frames > 10 * FLOOD_RING && rng->done >= REQUEST_MIN && disk->done >= REQUEST_MIN;
}

int main(void)
{
	static struct side_job rng, disk;
	uint64_t start = time_ns();
	struct virtio net;

	job_open(&rng, &worker_kinds[WORKER_RNG], VECTOR_FIRST);
	job_open(&disk, &worker_kinds[WORKER_BLOCK], VECTOR_FIRST + 1);
	flood_start(&net);
	interrupt_handle(TIMER_VECTOR, interrupt, NULL);
	timer_start(TIMER_NS, TIMER_VECTOR);
	while (time_ns() - start < (went_on(&rng, &disk) ? FLOOD_NS : PATIENCE_NS)) {
		uint32_t seen = interrupts_taken;

		job_step(&rng);
		job_step(&disk);
		cpu_idle(seen);
	}
	ended = true;
	printf("# flood/net: %lu frames\n", frames);
	check(frames > 10 * FLOOD_RING, "flood/net", "only %lu frames were taken", frames);
	job_check(&rng);
	job_check(&disk);
	return check_status();
}
