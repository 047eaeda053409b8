/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * One port of an adapter, opened when the first id is bound to it: a protection domain, a
 * completion queue that all queue pairs share, guest memory registered once as it is, buffers to
 * bounce what lies elsewhere. Nothing is registered afterwards but the buffers of a new connection.
 *
 * Receive buffers stand in one shared receive queue. They come in chunks, one for each RC
 * connection, of as many as it may fill before it is given credit: so no peer ever finds none,
 * though any peer fills any buffer. A message being received when its connection breaks may take
 * its buffer with it, since not every adapter completes it; such losses are counted, made good by
 * another chunk, and end when the last connection does and the queue is made anew, or, at
 * IB_CHUNKS_MAX, by making everything anew. Some are posted together with buffers of the guest
 * itself, to receive into: see ib_land.c.
 *
 * Completions wake the loop by the channel's descriptor. From then on the queue is polled in each
 * turn, as long as the loop spins (loop_poll); before it sleeps, the queue is asked to wake it
 * again, and looked at once more. A visit takes up to a batch: frames go to the core where they
 * lie, then their buffers are posted again.
 *
 * What goes wrong with the device as a whole (ib_device_fail()) ends every connection on it and
 * closes it, by a task; the peers' next attempts open it anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vnet/core.h"
#include "vnet/ib.h"
#include "vnet/message.h"

#define CQ_MAX	    32767
#define SRQ_MAX	    (IB_CHUNKS_MAX * IB_WINDOW)
#define CHUNK_SHIFT 16
#define RECEIVE                                                                                    \
	(1ull << 63) /* in a work request's id: which buffer; otherwise a ring and its slot */
#define SERIAL_SHIFT 32

/* --- memory ---------------------------------------------------------------------------------- */

static struct ibv_mr *memory_register(struct ib_device *device, void *at, size_t len, int access)
{
	struct ibv_mr *mr = device->calls->reg_mr(device->pd, at, len, access);

	if (mr)
		device->endpoint->counters.registrations++;
	return mr;
}

int ib_pool_open(struct ib_device *device, struct ib_pool *pool, size_t size, unsigned count)
{
	void *memory =
	    mmap(NULL, size * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -ENOMEM;
	*pool = (struct ib_pool){.memory = memory, .size = size, .count = count};
	pool->mr = memory_register(device, memory, size * count, IBV_ACCESS_LOCAL_WRITE);
	if (pool->mr)
		return 0;
	ib_pool_close(device, pool);
	return -ENOMEM;
}

void ib_pool_close(struct ib_device *device, struct ib_pool *pool)
{
	if (pool->mr)
		device->calls->dereg_mr(pool->mr);
	if (pool->memory)
		munmap(pool->memory, pool->size * pool->count);
	*pool = (struct ib_pool){0};
}

/* Guest memory is for this adapter only: to send from, and with RC to receive into (ib_land.c).
 * Where it is refused frames are copied. */
static void guest_register(struct ib_device *device)
{
	const int access = device->endpoint->path->connected ? IBV_ACCESS_LOCAL_WRITE : 0;
	const struct link_env *env = &device->endpoint->env;

	for (unsigned i = 0; i < env->memory_count && i < IB_MEMORY_MAX; i++) {
		const struct iovec *region = &env->memory[i];

		if (env->memory_pinned)
			*env->memory_pinned = true;
		device->memory[i] =
		    memory_register(device, region->iov_base, region->iov_len, access);
		if (!device->memory[i])
			warn("ib: cannot register %zu MiB of guest memory: %s: frames are copied; "
			     "allow more "
			     "locked memory (ulimit -l)",
			     region->iov_len >> 20, strerror(errno));
	}
}

static void guest_deregister(struct ib_device *device)
{
	for (unsigned i = 0; i < IB_MEMORY_MAX; i++) {
		if (device->memory[i])
			device->calls->dereg_mr(device->memory[i]);
		device->memory[i] = NULL;
	}
}

const struct ibv_mr *ib_memory_find(const struct ib_device *device, const struct iovec *piece)
{
	const struct link_env *env = &device->endpoint->env;

	for (unsigned i = 0; i < env->memory_count && i < IB_MEMORY_MAX; i++) {
		const struct iovec *region = &env->memory[i];
		size_t start = (size_t)((char *)piece->iov_base - (char *)region->iov_base);

		if ((char *)piece->iov_base >= (char *)region->iov_base &&
		    start <= region->iov_len && piece->iov_len <= region->iov_len - start)
			return device->memory[i];
	}
	return NULL;
}

static int bounces_open(struct ib_device *device)
{
	int err = ib_pool_open(device, &device->bounces, IB_MESSAGE_MAX, IB_BOUNCES);

	for (unsigned i = 0; i < IB_BOUNCES; i++)
		device->bounce_free[i] = i;
	device->bounce_count = IB_BOUNCES;
	return err;
}

/* --- receive buffers ------------------------------------------------------------------------- */

static uint8_t *buffer_at(const struct ib_device *device, uint64_t id)
{
	const struct ib_pool *chunk = &device->chunks[(id & ~RECEIVE) >> CHUNK_SHIFT];

	return chunk->memory + (id & ((1u << CHUNK_SHIFT) - 1)) * chunk->size;
}

/* Post these buffers, and with them some of a guest's. */
static int buffers_post(struct ib_device *device, const uint64_t ids[], unsigned n)
{
	struct ibv_recv_wr wrs[FRAME_BATCH_MAX], *bad;
	struct ibv_sge sges[FRAME_BATCH_MAX];

	for (unsigned i = 0; i < n; i++) {
		const struct ib_pool *chunk = &device->chunks[(ids[i] & ~RECEIVE) >> CHUNK_SHIFT];

		sges[i] = (struct ibv_sge){.addr = (uintptr_t)buffer_at(device, ids[i]),
					   .length = (uint32_t)chunk->size,
					   .lkey = chunk->mr->lkey};
		wrs[i] = (struct ibv_recv_wr){.wr_id = ids[i],
					      .next = i + 1 < n ? &wrs[i + 1] : NULL,
					      .sg_list = &sges[i],
					      .num_sge = 1};
	}
	ib_land_lay(device->lander, wrs, n);
	return n && device->calls->post_srq_recv(device->srq, wrs, &bad) ? -EIO : 0;
}

static int chunk_add(struct ib_device *device, size_t size)
{
	uint64_t ids[FRAME_BATCH_MAX], chunk = device->chunk_count;
	int err;

	if (chunk == IB_CHUNKS_MAX || (chunk + 1) * device->chunk_size > device->srq_size)
		return -ENOBUFS;
	err = ib_pool_open(device, &device->chunks[chunk], size, device->chunk_size);
	if (err)
		return err;
	device->chunk_count++;
	for (unsigned at = 0, n; at < device->chunk_size && !err; at += n) {
		for (n = 0; n < FRAME_BATCH_MAX && at + n < device->chunk_size; n++)
			ids[n] = RECEIVE | chunk << CHUNK_SHIFT | (at + n);
		err = buffers_post(device, ids, n);
	}
	return err;
}

static void receive_close(struct ib_device *device)
{
	/* A queue that cannot be destroyed must not write to what the guest is given back. */
	if (device->srq && device->calls->destroy_srq(device->srq)) {
		guest_deregister(device);
		ib_device_fail(device, "the adapter keeps its receive queue");
	}
	device->srq = NULL;
	ib_lander_destroy(device->lander);
	device->lander = NULL;
	while (device->chunk_count)
		ib_pool_close(device, &device->chunks[--device->chunk_count]);
	device->lost = 0;
}

/* Requests of many pieces may be more than the adapter has room for in all. */
static int receive_open(struct ib_device *device)
{
	struct ibv_srq_init_attr attr = {.attr = {.max_wr = device->srq_size, .max_sge = 1}};

	if (device->endpoint->path->connected)
		device->lander = ib_lander_create(device, device->srq_sge_max);
	if (device->lander) {
		attr.attr.max_sge = device->srq_sge_max;
		device->srq = device->calls->create_srq(device->pd, &attr);
	}
	if (device->srq)
		return 0;
	ib_lander_destroy(device->lander);
	device->lander = NULL;
	attr.attr.max_sge = 1;
	device->srq = device->calls->create_srq(device->pd, &attr);
	return device->srq ? 0 : -ENOMEM;
}

int ib_device_receive(struct ib_device *device, size_t buffer, unsigned count, unsigned sends)
{
	unsigned completions = (device->queue_pairs + 1) * (sends + count);
	int err = device->srq ? 0 : receive_open(device);

	device->chunk_size = count;
	if (completions > device->cq_size)
		err = -ENOSPC;
	while (!err &&
	       device->chunk_count * count < (device->queue_pairs + 1) * count + device->lost)
		err = chunk_add(device, buffer);
	if (!err)
		device->queue_pairs++;
	else if (!device->queue_pairs)
		receive_close(device);
	if (err == -ENOBUFS && device->lost)
		ib_device_fail(device, "too many connections broke: all are made anew");
	return err;
}

void ib_device_release(struct ib_device *device)
{
	if (!--device->queue_pairs)
		receive_close(device);
}

/* --- peers by queue pair --------------------------------------------------------------------- */

struct ib_peer *ib_peer_find(const struct ib_device *device, uint32_t qpn)
{
	struct ib_peer *peer = device->by_qpn[qpn % IB_BUCKETS];

	while (peer && peer->qpn != qpn)
		peer = peer->qpn_next;
	return peer;
}

void ib_peer_enter(struct ib_peer *peer, uint32_t qpn)
{
	struct ib_peer **bucket = &peer->device->by_qpn[qpn % IB_BUCKETS];

	peer->qpn = qpn;
	peer->qpn_next = *bucket;
	*bucket = peer;
}

void ib_peer_leave(struct ib_peer *peer)
{
	struct ib_peer **at = &peer->device->by_qpn[peer->qpn % IB_BUCKETS];

	while (*at && *at != peer)
		at = &(*at)->qpn_next;
	if (*at)
		*at = peer->qpn_next;
	peer->qpn_next = NULL;
}

/* --- completions ----------------------------------------------------------------------------- */

void ib_run_deliver(struct ib_device *device)
{
	struct ib_run *run = &device->run;
	struct frame *list[FRAME_BATCH_MAX];

	if (!run->count)
		return;
	for (unsigned i = 0; i < run->count; i++)
		list[i] = &run->frames[i];
	core_input(device->endpoint->env.core, &run->peer->port, list, run->count);
	run->count = 0;
}

struct frame *ib_run_add(struct ib_peer *peer)
{
	struct ib_run *run = &peer->device->run;

	if (run->peer != peer || run->count == FRAME_BATCH_MAX)
		ib_run_deliver(peer->device);
	run->peer = peer;
	run->frames[run->count].iov = &run->payloads[run->count];
	return &run->frames[run->count++];
}

static void send_completed(struct ib_device *device, const struct ibv_wc *wc)
{
	struct ib_ring *ring = device->rings[(wc->wr_id >> SERIAL_SHIFT) % IB_RINGS_MAX];
	char why[64];

	if (!ring || ring->serial != wc->wr_id >> SERIAL_SHIFT)
		return; /* of a queue pair that is gone */
	if (wc->status == IBV_WC_SUCCESS) {
		ib_ring_complete(ring, (uint32_t)wc->wr_id);
		if (ring->owner)
			ib_peer_touch(ring->owner);
		return;
	}
	if (ring->owner && ring->owner->phase == IB_AWAY)
		return; /* its connection ends already, and it is known why */
	snprintf(why, sizeof(why), "the adapter cannot send: %s",
		 device->calls->wc_status_str(wc->status));
	if (!ring->owner)
		ib_device_fail(device, why);
	else if (wc->status != IBV_WC_WR_FLUSH_ERR) /* that follows from another */
		ib_peer_fail(ring->owner, why);
	else
		ib_peer_fail(ring->owner, "the connection is broken");
}

void ib_peer_touch(struct ib_peer *peer)
{
	peer->touched = peer->device->touched = true;
}

static void touched_visit(const struct ib_device *device, void (*visit)(struct ib_peer *peer))
{
	if (!device->touched || !visit)
		return;
	for (struct ib_peer *peer = device->endpoint->peers; peer; peer = peer->next)
		if (peer->touched && peer->device == device)
			visit(peer);
}

static void touched_clear(struct ib_peer *peer)
{
	peer->touched = false;
}

static void batch_end(struct ib_device *device, const uint64_t buffers[], unsigned n)
{
	const struct ib_path *path = device->endpoint->path;

	ib_run_deliver(device);
	touched_visit(device, path->flush);
	ib_land_end(device->lander);
	if (buffers_post(device, buffers, n))
		ib_device_fail(device, "the adapter takes no receive buffers");
	touched_visit(device, path->batch_end);
	touched_visit(device, touched_clear);
	device->touched = false;
}

bool ib_device_poll(struct ib_device *device)
{
	const struct ib_path *path = device->endpoint->path;
	uint64_t buffers[FRAME_BATCH_MAX];
	struct ibv_wc wc[FRAME_BATCH_MAX];
	struct ib_plan *plan;
	unsigned count = 0;
	int n = device->failed ? 0 : device->calls->poll_cq(device->cq, FRAME_BATCH_MAX, wc);

	if (n < 0)
		ib_device_fail(device, "the adapter's completion queue is broken");
	for (int i = 0; i < n; i++) {
		if (!(wc[i].wr_id & RECEIVE)) {
			send_completed(device, &wc[i]);
			continue;
		}
		plan = ib_land_came(device->lander, &wc[i].wr_id, wc[i].status == IBV_WC_SUCCESS,
				    wc[i].byte_len);
		buffers[count++] = wc[i].wr_id;
		/* A receive that failed says no more than that its connection did, which will be
		 * heard. */
		if (wc[i].status == IBV_WC_SUCCESS)
			path->receive(device, &wc[i], buffer_at(device, wc[i].wr_id),
				      wc[i].byte_len, plan);
	}
	if (n > 0)
		batch_end(device, buffers, count);
	return n > 0;
}

static bool device_poll(struct loop_poll *poll, uint64_t now_ns)
{
	(void)now_ns;
	return ib_device_poll(container_of(poll, struct ib_device, poll));
}

/* The loop is about to sleep. */
static bool device_rest(struct loop_poll *poll)
{
	struct ib_device *device = container_of(poll, struct ib_device, poll);

	if (device->calls->req_notify_cq(device->cq, 0))
		ib_device_fail(device, "the adapter's completion queue is broken");
	if (ib_device_poll(device))
		return true;
	loop_poll_stop(device->endpoint->env.loop, poll);
	return false;
}

static void channel_ready(struct loop_watch *watch, uint32_t revents)
{
	struct ib_device *device = watch->context;
	struct ibv_cq *cq;
	void *context;

	(void)revents;
	if (device->calls->get_cq_event(device->channel, &cq, &context)) {
		if (errno != EAGAIN && errno != EINTR)
			ib_device_fail(device, "the adapter is gone");
		return;
	}
	device->calls->ack_cq_events(cq, 1);
	device->endpoint->counters.syscalls++;
	loop_poll_start(device->endpoint->env.loop, &device->poll);
}

/* What they say is heard as completions, or by rdma_cm; but they must not pile up in the kernel. */
static void async_ready(struct loop_watch *watch, uint32_t revents)
{
	struct ib_device *device = watch->context;
	struct ibv_async_event event;

	if (revents & (POLLERR | POLLNVAL)) {
		loop_unwatch(watch);
		ib_device_fail(device, "the adapter is gone");
	} else if (!device->calls->get_async_event(device->context, &event)) {
		device->calls->ack_async_event(&event);
	}
}

/* --- the device ------------------------------------------------------------------------------ */

void ib_device_empty(struct ib_device *device, const char *why)
{
	struct ib_peer *peer;

	/* All fail before the first one goes, which takes what has come for the others: it is not
	 * delivered. */
	for (peer = device->endpoint->peers; peer; peer = peer->next)
		if (peer->device == device)
			ib_peer_fail(peer, why);
	for (peer = device->endpoint->peers; peer; peer = peer->next)
		if (peer->device == device)
			ib_peer_reset(peer);
}

void ib_device_end(struct ib_device *device, const char *why)
{
	ib_device_empty(device, why);
	ib_device_close(device);
}

static void device_mend(struct loop_task *task)
{
	struct ib_device *device = container_of(task, struct ib_device, mend);

	ib_device_end(device, device->why);
}

void ib_device_fail(struct ib_device *device, const char *why)
{
	if (device->failed)
		return;
	device->failed = true;
	snprintf(device->why, sizeof(device->why), "%s", why);
	loop_defer(device->endpoint->env.loop, &device->mend);
}

static int nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static int queues_open(struct ib_device *device)
{
	const struct ib_calls *calls = device->calls;
	struct loop *loop = device->endpoint->env.loop;
	int err;

	device->channel = calls->create_comp_channel(device->context);
	if (!device->channel)
		return -errno;
	device->cq =
	    calls->create_cq(device->context, (int)device->cq_size, NULL, device->channel, 0);
	if (!device->cq)
		return -errno;
	err = nonblocking(device->channel->fd);
	if (!err)
		err = nonblocking(device->context->async_fd);
	if (!err)
		err = loop_watch(loop, &device->watch, device->channel->fd, POLLIN);
	if (!err)
		err = loop_watch(loop, &device->async_watch, device->context->async_fd, POLLIN);
	if (!err && calls->req_notify_cq(device->cq, 0))
		err = -EIO;
	return err;
}

static int limits_read(struct ib_device *device)
{
	struct ibv_device_attr attr = {0};
	struct ibv_port_attr port = {0};

	if (device->calls->query_device(device->context, &attr) ||
	    device->calls->query_port(device->context, device->port, &port))
		return -EIO;
	device->sge_max = attr.max_sge < 1		   ? 1
			  : attr.max_sge > (int)IB_SGE_MAX ? IB_SGE_MAX
							   : (unsigned)attr.max_sge;
	device->srq_sge_max = attr.max_srq_sge > (int)IB_SGE_MAX ? IB_SGE_MAX
			      : attr.max_srq_sge > 0		 ? (unsigned)attr.max_srq_sge
								 : 1;
	device->cq_size = attr.max_cqe < CQ_MAX ? (unsigned)attr.max_cqe : CQ_MAX;
	device->srq_size = attr.max_srq_wr < (int)SRQ_MAX ? (unsigned)attr.max_srq_wr : SRQ_MAX;
	device->mtu = 128u << (port.active_mtu ? port.active_mtu : IBV_MTU_1024);
	return 0;
}

/* Everything, in the order of need. */
static int device_open(struct ib_device *device, const char **what)
{
	int err;

	*what = "ask for its limits";
	err = limits_read(device);
	if (err)
		return err;
	*what = "make a protection domain";
	device->pd = device->calls->alloc_pd(device->context);
	if (!device->pd)
		return -errno;
	*what = "make its completion queue";
	err = queues_open(device);
	if (err)
		return err;
	*what = "register memory (ulimit -l)";
	err = bounces_open(device);
	if (err)
		return err;
	guest_register(device);
	*what = "make a queue pair";
	return device->endpoint->path->device_open ? device->endpoint->path->device_open(device)
						   : 0;
}

int ib_device_get(struct ib_endpoint *ep, struct ibv_context *context, uint8_t port,
		  struct ib_device **found, char *why, size_t size)
{
	struct ib_device *device = ep->devices;
	const char *what = "allocate";
	int err = -ENOMEM;

	while (device && (device->context != context || device->port != port || device->failed))
		device = device->next;
	*found = device;
	if (device)
		return 0;
	device = calloc(1, sizeof(*device));
	if (device) {
		device->endpoint = ep;
		device->calls = ep->calls;
		device->context = context;
		device->port = port;
		device->watch = (struct loop_watch){.ready = channel_ready, .context = device};
		device->async_watch = (struct loop_watch){.ready = async_ready, .context = device};
		device->poll = (struct loop_poll){.poll = device_poll, .rest = device_rest};
		device->mend.run = device_mend;
		device->next = ep->devices;
		ep->devices = device;
		err = device_open(device, &what);
	}
	if (!err) {
		*found = device;
		return 0;
	}
	snprintf(why, size, "the adapter: cannot %s: %s", what, strerror(-err));
	if (device)
		ib_device_close(device);
	return err;
}

void ib_device_close(struct ib_device *device)
{
	const struct ib_calls *calls = device->calls;
	struct ib_device **at = &device->endpoint->devices;

	while (*at != device)
		at = &(*at)->next;
	*at = device->next;
	loop_unwatch(&device->watch);
	loop_unwatch(&device->async_watch);
	loop_poll_stop(device->endpoint->env.loop, &device->poll);
	if (device->endpoint->path->device_close)
		device->endpoint->path->device_close(device);
	receive_close(device);
	guest_deregister(device);
	ib_pool_close(device, &device->bounces);
	if (device->cq)
		calls->destroy_cq(device->cq);
	if (device->channel)
		calls->destroy_comp_channel(device->channel);
	if (device->pd)
		calls->dealloc_pd(device->pd);
	loop_forget(device->endpoint->env.loop, &device->mend);
	free(device);
}
