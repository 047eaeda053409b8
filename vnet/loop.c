/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A turn: ask the kernel to poll what is not being polled, go to the kernel once (submit
 * everything, sleep until a completion or the first timer), deliver the completions, then the
 * expired timers, then the tasks that were deferred up to then, then what is polled. With a task
 * queued the loop does not sleep.
 *
 * Spinning. While something is polled and spin_turn() allows, the loop does not sleep either, and
 * goes to the kernel only with something to submit or to fetch: IORING_SQ_TASKRUN in the shared
 * ring says that. Eager watches are then not armed but called: one system call finds and takes what
 * came, in place of three (the poll's completion, the taking, the next poll). After a turn that
 * found nothing it yields, for the thread it waits for may be one that wants this CPU; spin.c looks
 * at how long that took. When the budget is spent every poll is asked to rest(), and the loop
 * sleeps until the kernel wakes it: there is no timer behind polling.
 *
 * Threads. All but the ring belongs to the thread that has taken the loop (@state). The loop's own
 * thread lets go of it while it sleeps, and only then; so another thread that wants something done
 * (loop_post(), loop_call()) may borrow it meanwhile and do that at once, with nobody woken. The
 * rules:
 *   - What is to be done is put on a list first. Whoever lets go of the loop looks at the list
 *     afterwards, and takes the loop again, or sees to it that its thread does. So nothing stays on
 *     the list, and nobody waits for the loop to be free but its own thread.
 *   - A borrower wakes the loop's thread if that could not go on sleeping: something deferred, to
 *     be polled or watched, an earlier timer.
 *   - The loop's thread, when it wakes and finds the loop taken, says so (LOOP_WANTED) and has it
 *     handed over: who asks for something later leaves it to that thread. None can be starved.
 *
 * The kernel ties a ring made with IORING_SETUP_SINGLE_ISSUER to one thread, and cancels the
 * requests of a thread that exits. So the ring is made disabled, enabled by the thread that runs
 * the loop, and touched by that thread only, inside loop_run(): loop_watch() merely notes what to
 * poll, and loop_sqe() has nothing for a borrower. What must not wait (a poll is cancelled,
 * operations are waited for) is an errand: the borrower wakes the loop's thread, which does it
 * while the borrower waits. When loop_run() returns, nothing is in flight (drain()), so any thread
 * may take the loop apart then. The lock is for those who wait: it is never held while a callback
 * runs.
 *
 * Watches are one-shot polls, armed again in the submission that the turn makes anyway. A multishot
 * poll reports only new wake-ups: what a callback leaves in the socket would be forgotten, and each
 * arrival during a callback would cost a completion of its own.
 *
 * Stale completions. A poll can complete in the kernel while loop_unwatch() runs, and its
 * completion be read much later, when the watch is long freed. So polls carry no pointer: their
 * user_data is a slot number and the slot's generation, which changes with every unwatch; a
 * completion of another generation is dropped. Besides, loop_unwatch() cancels the poll at once and
 * not at the end of the turn, because the request holds the file: a socket would stay bound to its
 * port after close(). Operations of loop_sqe() carry the pointer to their loop_op, which the owner
 * keeps until it completes.
 *
 * Polls are cancelled by IORING_OP_ASYNC_CANCEL. IORING_OP_POLL_REMOVE has no effect (EALREADY)
 * while a wake-up of the poll is being looked at, and if nothing is behind the wake-up, the poll
 * goes on. Older kernels may answer both like that: then the request is repeated until the
 * poll is gone.
 *
 * user_data: bit 0 set for a poll, bits 0 and 31 for the request that cancels it, otherwise a
 * loop_op.
 *
 * A completion queue that overflows loses nothing (IORING_FEAT_NODROP): the kernel keeps the rest
 * and hands it over on the next visit, and every visit asks for events.
 *
 * Timers are a list ordered by time, walked from its end: the usual timer is armed for later than
 * all others, so that this is one step. The kernel sees only the first one, as the limit of the
 * sleep.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vnet/loop.h"
#include "vnet/spin.h"

#define NS_PER_S      1000000000ull
#define SLOTS_MIN     16u
#define SLOTS_MAX     (1u << 30)
#define TAG_POLL      1ull
#define TAG_CANCEL    (1ull << 31) /* SLOTS_MAX leaves this bit of the slot's number free */
#define TAG_OF_CANCEL (TAG_POLL | TAG_CANCEL)

#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#define IORING_SQ_TASKRUN	  (1U << 2)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

/* One entry of the table of watches. */
struct slot {
	struct loop_watch *watch; /* NULL: free */
	uint32_t generation;
};

/* A function another thread wants run; on that thread's stack. */
struct call {
	struct loop_post post;
	struct loop *loop;
	void (*fn)(void *arg);
	void *arg;
	bool done; /* under the loop's lock */
};

/* What only the loop's thread may do with the ring. */
typedef void errand_fn(struct loop *loop, const void *arg);

enum loop_state {
	LOOP_FREE,   /* its thread sleeps, or no thread runs it */
	LOOP_TAKEN,  /* by its thread, or by a borrower */
	LOOP_WANTED, /* by a borrower, and its thread waits for it */
};

struct loop {
	struct io_uring ring;
	bool enabled;	   /* the ring belongs to a thread now */
	bool running;	   /* in loop_run() */
	bool lent;	   /* taken by another thread than the one in loop_run() */
	bool draining;	   /* only operations are completed, none is started */
	unsigned inflight; /* polls and operations whose last completion has not been read */
	struct loop_counters counters;

	struct slot *slots;
	unsigned slot_count;
	bool unarmed; /* some active watch is not being polled */

	struct loop_task *tasks, **tasks_end;
	unsigned task_count;
	struct loop_timer *timers, *timers_last;
	uint64_t wake_ns;		     /* the loop's thread sleeps until then at most */
	struct loop_poll *polls, *poll_next; /* all, and the one to be called next */
	struct spin spin;
	bool spinning;

	/* Any thread. */
	int wake_fd;
	atomic_bool stop;
	struct loop_watch wake; /* loop thread */

	_Atomic(enum loop_state) state;
	_Atomic(pthread_t) holder;	   /* who has taken it, or NOBODY */
	_Atomic(struct loop_post *) posts; /* to be done, the last one first */

	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t changed;
	bool handed; /* from a borrower to the loop's thread */
	errand_fn *errand;
	const void *errand_arg;
};

#define NOBODY ((pthread_t)0)

uint64_t loop_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* --- the ring ------------------------------------------------------------------------------ */

/* The best set-up the kernel takes: 6.1, 5.19, 5.11. */
static int ring_open(struct io_uring *ring, unsigned entries)
{
	static const unsigned tries[] = {
	    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_SUBMIT_ALL,
	    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	    0,
	};
	int err = -EINVAL;

	for (size_t i = 0; err == -EINVAL && i < sizeof(tries) / sizeof(tries[0]); i++)
		err = io_uring_queue_init(entries, ring, tries[i] | IORING_SETUP_R_DISABLED);
	if (err)
		return err;
	if (!(ring->features & IORING_FEAT_EXT_ARG) || !(ring->features & IORING_FEAT_NODROP)) {
		io_uring_queue_exit(ring);
		return -ENOSYS;
	}
	return 0;
}

/* io_uring_enable_rings() is missing from the shared object of liburing 2.3 (axboe/liburing, issue
 * 773). */
static int ring_enable(const struct io_uring *ring)
{
	int ret = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);

	return ret < 0 ? ret : 0;
}

/* A submission entry, by submitting the queue when it is full; NULL when the kernel takes none. */
static struct io_uring_sqe *ring_sqe(struct loop *loop)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

	if (!sqe && io_uring_submit(&loop->ring) > 0)
		sqe = io_uring_get_sqe(&loop->ring);
	return sqe;
}

/* A signal, a timer, the kernel being short of memory for a moment are no reason to end. */
static bool ring_error_lasts(int ret)
{
	return ret < 0 && ret != -EINTR && ret != -ETIME && ret != -EAGAIN && ret != -EBUSY;
}

/* Whether going to the kernel would bring anything. */
static bool ring_due(const struct loop *loop)
{
	unsigned flags = __atomic_load_n(loop->ring.sq.kflags, __ATOMIC_RELAXED);

	return io_uring_sq_ready(&loop->ring) || io_uring_cq_ready(&loop->ring) ||
	       (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

/* --- who has the loop ------------------------------------------------------------------------ */

static void wake_write(struct loop *loop)
{
	static const uint64_t one = 1;

	/* Fails only when the counter is full, and then the loop is awake. */
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static void wake_ready(struct loop_watch *watch, uint32_t revents)
{
	uint64_t count;

	(void)revents;
	if (read(watch->fd, &count, sizeof(count)) < 0)
		return;
}

static void errand_locked(struct loop *loop)
{
	pthread_mutex_unlock(&loop->lock);
	atomic_store(&loop->holder, pthread_self());
	loop->errand(loop, loop->errand_arg);
	pthread_mutex_lock(&loop->lock);
	loop->errand = NULL;
	pthread_cond_broadcast(&loop->changed);
}

/* The loop's thread: take the loop, or do a borrower's errands until it is handed over. */
static void loop_take(struct loop *loop)
{
	if (atomic_exchange(&loop->state, LOOP_WANTED) != LOOP_FREE) {
		pthread_mutex_lock(&loop->lock);
		while (!loop->handed) {
			if (loop->errand)
				errand_locked(loop);
			else
				pthread_cond_wait(&loop->changed, &loop->lock);
		}
		loop->handed = false;
		pthread_mutex_unlock(&loop->lock);
	}
	atomic_store(&loop->state, LOOP_TAKEN);
	atomic_store(&loop->holder, pthread_self());
	loop->lent = false;
}

/* Another thread. */
static bool loop_borrow(struct loop *loop)
{
	enum loop_state was = LOOP_FREE;

	if (!atomic_compare_exchange_strong(&loop->state, &was, LOOP_TAKEN))
		return false;
	atomic_store(&loop->holder, pthread_self());
	loop->lent = loop->running;
	loop->counters.borrows += loop->lent;
	return true;
}

/* Returns whether it was handed to the loop's thread. */
static bool loop_let_go(struct loop *loop)
{
	enum loop_state was = LOOP_TAKEN;

	atomic_store(&loop->holder, NOBODY);
	if (atomic_compare_exchange_strong(&loop->state, &was, LOOP_FREE))
		return false;
	pthread_mutex_lock(&loop->lock);
	loop->handed = true;
	pthread_cond_broadcast(&loop->changed);
	pthread_mutex_unlock(&loop->lock);
	return true;
}

/* Have something done by the loop's thread, which may be asleep. */
static void ring_do(struct loop *loop, errand_fn *errand, const void *arg)
{
	if (!loop->lent) {
		errand(loop, arg);
		return;
	}
	loop->lent = false;
	pthread_mutex_lock(&loop->lock);
	loop->errand = errand;
	loop->errand_arg = arg;
	wake_write(loop);
	pthread_cond_broadcast(&loop->changed);
	while (loop->errand)
		pthread_cond_wait(&loop->changed, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
	atomic_store(&loop->holder, pthread_self());
	loop->lent = true;
}

/* --- watches ------------------------------------------------------------------------------- */

static uint64_t slot_tag(const struct loop *loop, unsigned slot)
{
	return (uint64_t)loop->slots[slot].generation << 32 | (uint64_t)slot << 1 | TAG_POLL;
}

/* A free slot's number, or -errno. */
static int slot_find(struct loop *loop)
{
	unsigned count = loop->slot_count;
	unsigned grown = count ? count * 2 : SLOTS_MIN;
	struct slot *slots;

	for (unsigned i = 0; i < count; i++)
		if (!loop->slots[i].watch)
			return (int)i;
	if (grown > SLOTS_MAX)
		return -ENOSPC;
	slots = realloc(loop->slots, grown * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + count, 0, (grown - count) * sizeof(*slots));
	loop->slots = slots;
	loop->slot_count = grown;
	return (int)count;
}

static bool slot_polled(const struct loop *loop, unsigned slot)
{
	return loop->slots[slot].watch && loop->slots[slot].watch->armed;
}

/* Ask for a poll to be cancelled. Returns false when the kernel takes no request at the moment. */
static bool poll_cancel(struct loop *loop, uint64_t tag)
{
	struct io_uring_sqe *sqe = ring_sqe(loop);

	if (!sqe)
		return false;
	io_uring_prep_cancel64(sqe, tag, 0);
	io_uring_sqe_set_data64(sqe, tag | TAG_CANCEL);
	return true;
}

static void poll_end(struct loop *loop, const void *tag)
{
	/* If it cannot be cancelled now, it goes on until it fires: stale, but harmless. */
	if (poll_cancel(loop, *(const uint64_t *)tag))
		io_uring_submit_and_get_events(&loop->ring);
}

/* Ask for polls of all watches that have none in flight; not of eager ones while the loop spins. */
static void watches_arm(struct loop *loop)
{
	loop->unarmed = false;
	for (unsigned i = 0; i < loop->slot_count; i++) {
		struct loop_watch *watch = loop->slots[i].watch;
		struct io_uring_sqe *sqe;

		if (!watch || watch->armed)
			continue;
		if (loop->spinning && watch->eager) {
			loop->unarmed = true;
			continue;
		}
		sqe = ring_sqe(loop);
		if (!sqe) {
			loop->unarmed = true;
			return;
		}
		io_uring_prep_poll_add(sqe, watch->fd, watch->events);
		io_uring_sqe_set_data64(sqe, slot_tag(loop, i));
		watch->armed = true;
		loop->inflight++;
	}
}

int loop_watch(struct loop *loop, struct loop_watch *watch, int fd, uint32_t events)
{
	int slot;

	loop_unwatch(watch);
	slot = slot_find(loop);
	if (slot < 0)
		return slot;
	watch->loop = loop;
	watch->fd = fd;
	watch->events = events;
	watch->slot = (unsigned)slot;
	watch->armed = false;
	watch->active = true;
	loop->slots[slot].watch = watch;
	loop->unarmed = true;
	return 0;
}

void loop_unwatch(struct loop_watch *watch)
{
	struct loop *loop = watch->loop;
	uint64_t tag;

	if (!watch->active)
		return;
	tag = slot_tag(loop, watch->slot);
	if (watch->armed)
		ring_do(loop, poll_end, &tag);
	loop->slots[watch->slot].watch = NULL;
	loop->slots[watch->slot].generation++;
	watch->armed = false;
	watch->active = false;
}

static void watch_complete(struct loop *loop, uint64_t tag, int result)
{
	unsigned slot = (unsigned)(tag & UINT32_MAX) >> 1;
	struct loop_watch *watch = loop->slots[slot].watch;

	if (loop->slots[slot].generation != tag >> 32)
		return;
	watch->armed = false;
	loop->unarmed = true;
	if (loop->draining || result == -ECANCELED || result == -EAGAIN || result == -ENOMEM)
		return;
	if (result < 0) {
		loop_unwatch(watch);
		result = POLLNVAL;
	}
	watch->ready(watch, (uint32_t)result);
}

/* --- tasks --------------------------------------------------------------------------------- */

void loop_defer(struct loop *loop, struct loop_task *task)
{
	if (task->queued)
		return;
	task->queued = true;
	task->next = NULL;
	*loop->tasks_end = task;
	loop->tasks_end = &task->next;
	loop->task_count++;
}

void loop_forget(struct loop *loop, struct loop_task *task)
{
	struct loop_task **at = &loop->tasks;

	if (!task->queued)
		return;
	while (*at != task)
		at = &(*at)->next;
	*at = task->next;
	if (!task->next)
		loop->tasks_end = at;
	task->queued = false;
	loop->task_count--;
}

/* Those deferred up to now; what they defer in turn comes after the next visit to the kernel. */
static void tasks_run(struct loop *loop)
{
	for (unsigned n = loop->task_count; n && loop->tasks; n--) {
		struct loop_task *task = loop->tasks;

		loop_forget(loop, task);
		task->run(task);
	}
}

/* --- timers -------------------------------------------------------------------------------- */

int loop_arm(struct loop *loop, struct loop_timer *timer, uint64_t ns)
{
	uint64_t now = loop_now();
	struct loop_timer *before;

	loop_disarm(timer);
	timer->loop = loop;
	timer->expiry_ns = ns < UINT64_MAX - now ? now + ns : UINT64_MAX;
	timer->armed = true;
	before = loop->timers_last;
	while (before && before->expiry_ns > timer->expiry_ns)
		before = before->prev;
	timer->prev = before;
	timer->next = before ? before->next : loop->timers;
	*(before ? &before->next : &loop->timers) = timer;
	*(timer->next ? &timer->next->prev : &loop->timers_last) = timer;
	return 0;
}

void loop_disarm(struct loop_timer *timer)
{
	struct loop *loop = timer->loop;

	if (!timer->armed)
		return;
	*(timer->prev ? &timer->prev->next : &loop->timers) = timer->next;
	*(timer->next ? &timer->next->prev : &loop->timers_last) = timer->prev;
	timer->armed = false;
}

static void timers_run(struct loop *loop)
{
	uint64_t now;

	if (!loop->timers)
		return;
	now = loop_now(); /* once: a timer that arms itself for at once must not keep us here */
	while (loop->timers && loop->timers->expiry_ns < now) {
		struct loop_timer *timer = loop->timers;

		loop_disarm(timer);
		timer->expired(timer);
	}
}

/* --- polling -------------------------------------------------------------------------------- */

void loop_poll_start(struct loop *loop, struct loop_poll *poll)
{
	if (poll->active)
		return;
	poll->active = true;
	poll->prev = NULL;
	poll->next = loop->polls;
	if (poll->next)
		poll->next->prev = poll;
	loop->polls = poll;
	spin_begin(&loop->spin);
	loop->spinning = true;
}

void loop_poll_stop(struct loop *loop, struct loop_poll *poll)
{
	if (!poll->active)
		return;
	poll->active = false;
	if (loop->poll_next == poll)
		loop->poll_next = poll->next;
	*(poll->prev ? &poll->prev->next : &loop->polls) = poll->next;
	if (poll->next)
		poll->next->prev = poll->prev;
	loop->spinning &= loop->polls != NULL;
}

/* Look at what the kernel was not asked to. A callback may change the table. */
static void watches_try(struct loop *loop)
{
	for (unsigned i = 0; i < loop->slot_count; i++) {
		struct loop_watch *watch = loop->slots[i].watch;

		if (watch && watch->eager && !watch->armed)
			watch->ready(watch, 0);
	}
}

static void polls_run(struct loop *loop)
{
	bool found = false, patient = false;
	struct loop_poll *poll;
	uint64_t now;

	if (!loop->polls)
		return;
	if (loop->spinning && loop->unarmed)
		watches_try(loop);
	now = loop_now();
	for (poll = loop->polls; poll; poll = loop->poll_next) {
		loop->poll_next = poll->next;
		patient |= poll->patient;
		found |= poll->poll(poll, now);
	}
	loop->spinning = spin_turn(&loop->spin, found, patient, now) && loop->polls;
	if (loop->spinning && !found) {
		sched_yield();
		if (!patient)
			spin_yielded(&loop->spin, loop_now());
	}
}

/* Whether the loop may sleep, as far as what is polled goes. */
static bool polls_rest(struct loop *loop)
{
	if (!loop->polls)
		return true;
	if (loop->spinning)
		return false;
	for (struct loop_poll *poll = loop->polls; poll; poll = poll->next)
		if (poll->rest && poll->rest(poll))
			return false;
	spin_slept(&loop->spin);
	return true;
}

/* --- what others ask for --------------------------------------------------------------------- */

/* What is on the list now, the first one first. */
static void posts_run(struct loop *loop)
{
	struct loop_post *posts = NULL, *next;

	if (!atomic_load_explicit(&loop->posts, memory_order_relaxed))
		return;
	for (struct loop_post *p = atomic_exchange(&loop->posts, NULL); p; p = next) {
		next = p->next;
		p->next = posts;
		posts = p;
	}
	for (; posts; posts = next) {
		next = posts->next; /* it may be posted again as soon as it runs */
		posts->run(posts);
	}
}

/* Whether there is nothing to do before something completes or a timer expires. */
static bool loop_may_sleep(struct loop *loop)
{
	return !loop->tasks && !loop->unarmed && !atomic_load(&loop->posts) && polls_rest(loop);
}

/* Do what is asked for, and let go of the loop. Its thread is woken if it has to go on. */
static void loop_serve(struct loop *loop)
{
	bool wake;

	do {
		posts_run(loop);
		wake = loop->running && (!loop_may_sleep(loop) ||
					 (loop->timers && loop->timers->expiry_ns < loop->wake_ns));
		if (loop_let_go(loop))
			return;
		if (wake) {
			wake_write(loop);
			return;
		}
	} while (atomic_load(&loop->posts) && loop_borrow(loop));
}

void loop_post(struct loop *loop, struct loop_post *post)
{
	post->next = atomic_load(&loop->posts);
	while (!atomic_compare_exchange_weak(&loop->posts, &post->next, post))
		;
	if (loop_borrow(loop))
		loop_serve(loop);
}

static void call_run(struct loop_post *post)
{
	struct call *call = container_of(post, struct call, post);
	struct loop *loop = call->loop;

	call->fn(call->arg);
	pthread_mutex_lock(&loop->lock);
	call->done = true; /* and @call is gone */
	pthread_cond_broadcast(&loop->changed);
	pthread_mutex_unlock(&loop->lock);
}

void loop_call(struct loop *loop, void (*fn)(void *arg), void *arg)
{
	struct call call = {.post.run = call_run, .loop = loop, .fn = fn, .arg = arg};

	if (pthread_equal(atomic_load(&loop->holder), pthread_self())) {
		fn(arg);
		return;
	}
	loop_post(loop, &call.post);
	pthread_mutex_lock(&loop->lock);
	while (!call.done)
		pthread_cond_wait(&loop->changed, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}

/* --- running ------------------------------------------------------------------------------- */

/* Deliver what has completed up to now. A callback may go to the kernel itself (loop_unwatch()). */
static void completions_run(struct loop *loop)
{
	for (unsigned n = io_uring_cq_ready(&loop->ring); n; n--) {
		struct io_uring_cqe *at, cqe;

		if (io_uring_peek_cqe(&loop->ring, &at))
			return;
		cqe = *at;
		io_uring_cqe_seen(&loop->ring, at);
		if ((cqe.user_data & TAG_OF_CANCEL) == TAG_OF_CANCEL) {
			if (cqe.res == -EALREADY)
				poll_cancel(loop, cqe.user_data & ~TAG_CANCEL);
			continue;
		}
		if (!(cqe.flags & IORING_CQE_F_MORE))
			loop->inflight--;
		if (cqe.user_data & TAG_POLL) {
			watch_complete(loop, cqe.user_data, cqe.res);
		} else {
			struct loop_op *op = (struct loop_op *)(uintptr_t)cqe.user_data;

			op->done(op, cqe.res, cqe.flags);
		}
	}
}

/* Sleep until a completion or the first timer. Meanwhile others may borrow the loop, but not its
 * ring. */
static int ring_sleep(struct loop *loop)
{
	uint64_t now = loop->timers ? loop_now() : 0, ns;
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int ret;

	loop->wake_ns = loop->timers ? loop->timers->expiry_ns : UINT64_MAX;
	if (loop->wake_ns <= now)
		return io_uring_submit_and_get_events(&loop->ring);
	ns = loop->wake_ns - now;
	ts = (struct __kernel_timespec){.tv_sec = (long long)(ns / NS_PER_S),
					.tv_nsec = (long long)(ns % NS_PER_S)};
	loop_let_go(loop);
	if (atomic_load(&loop->posts))
		ret = io_uring_submit_and_get_events(&loop->ring);
	else if (now)
		ret = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
	else
		ret = io_uring_submit_and_wait(&loop->ring, 1);
	loop_take(loop);
	return ret;
}

/* Go to the kernel, once. */
static int ring_enter(struct loop *loop, bool sleep)
{
	int ret;

	loop->counters.turns++;
	loop->counters.sleeps += sleep;
	ret = sleep ? ring_sleep(loop) : io_uring_submit_and_get_events(&loop->ring);
	return ring_error_lasts(ret) ? ret : 0;
}

static int loop_turn(struct loop *loop)
{
	int err = 0;
	bool sleep;

	if (loop->unarmed)
		watches_arm(loop);
	sleep = loop_may_sleep(loop);
	if (sleep || !loop->spinning || ring_due(loop))
		err = ring_enter(loop, sleep);
	else
		loop->counters.spins++;
	if (err)
		return err;
	completions_run(loop);
	posts_run(loop);
	timers_run(loop);
	tasks_run(loop);
	polls_run(loop);
	return 0;
}

/* Polls that complete meanwhile are not delivered, but made again in the next turn. */
static void settle(struct loop *loop, const void *pending)
{
	bool draining = loop->draining;
	int err = 0;

	loop->draining = true;
	while (*(const unsigned *)pending && !err) {
		err = io_uring_submit_and_wait(&loop->ring, 1);
		err = ring_error_lasts(err) ? err : 0;
		completions_run(loop);
	}
	loop->draining = draining;
}

void loop_settle(struct loop *loop, const unsigned *pending)
{
	if (*pending)
		ring_do(loop, settle, pending);
}

/* Cancel the polls, wait for the operations: afterwards nothing is in flight. */
static void drain(struct loop *loop)
{
	loop->draining = true;
	for (unsigned i = 0; i < loop->slot_count; i++) {
		/* A kernel whose completion queue overflows may take requests only after we read
		 * it. */
		while (slot_polled(loop, i) && !poll_cancel(loop, slot_tag(loop, i))) {
			io_uring_get_events(&loop->ring);
			completions_run(loop);
		}
	}
	loop_settle(loop, &loop->inflight);
	loop->draining = false;
}

int loop_run(struct loop *loop)
{
	int err;

	loop_take(loop);
	err = loop->enabled ? 0 : ring_enable(&loop->ring);
	loop->enabled = loop->running = !err;
	while (!err) {
		err = loop_turn(loop);
		if (atomic_exchange(&loop->stop, false))
			break;
	}
	if (loop->running)
		drain(loop);
	loop->running = false;
	loop_serve(loop);
	return err;
}

void loop_stop(struct loop *loop)
{
	int saved = errno;

	atomic_store(&loop->stop, true);
	wake_write(loop);
	errno = saved;
}

struct io_uring_sqe *loop_sqe(struct loop *loop, struct loop_op *op)
{
	struct io_uring_sqe *sqe;

	if (!loop->running || loop->lent || loop->draining)
		return NULL;
	sqe = io_uring_get_sqe(&loop->ring);
	if (!sqe)
		return NULL;
	io_uring_sqe_set_data(sqe, op);
	loop->inflight++;
	return sqe;
}

const struct loop_counters *loop_counters(const struct loop *loop)
{
	return &loop->counters;
}

uint64_t loop_turns(const struct loop *loop)
{
	return loop->counters.turns;
}

/* --- making and unmaking ------------------------------------------------------------------- */

struct loop *loop_create(unsigned entries)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int err;

	if (!loop)
		return NULL;
	loop->tasks_end = &loop->tasks;
	loop->wake.ready = wake_ready;
	spin_init(&loop->spin);
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->changed, NULL);

	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0) {
		err = -errno;
		goto out_free;
	}
	err = loop_watch(loop, &loop->wake, loop->wake_fd, POLLIN);
	if (err)
		goto out_close;
	err = ring_open(&loop->ring, entries);
	if (err)
		goto out_slots;
	return loop;

out_slots:
	free(loop->slots);
out_close:
	close(loop->wake_fd);
out_free:
	pthread_cond_destroy(&loop->changed);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
	errno = -err;
	return NULL;
}

/* Whoever keeps a watch may still call loop_unwatch() on it after us. */
static void watches_let_go(struct loop *loop)
{
	for (unsigned i = 0; i < loop->slot_count; i++)
		if (loop->slots[i].watch)
			loop->slots[i].watch->active = false;
}

static void timers_let_go(struct loop *loop)
{
	while (loop->timers)
		loop_disarm(loop->timers);
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	watches_let_go(loop);
	timers_let_go(loop);
	while (loop->tasks)
		loop_forget(loop, loop->tasks);
	io_uring_queue_exit(&loop->ring);
	free(loop->slots);
	close(loop->wake_fd);
	pthread_cond_destroy(&loop->changed);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}
