/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The event loop: watches that come and go at the worst moment, timers, tasks, and other threads.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <liburing.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vnet/loop.h"

#define ENTRIES 16
#define MS	1000000ull
#define MANY	1000 /* watches */

static struct loop *loop_new(void)
{
	struct loop *loop = loop_create(ENTRIES);

	cr_assert_not_null(loop);
	return loop;
}

static int event_new(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	cr_assert(fd >= 0);
	return fd;
}

static void event_set(int fd)
{
	uint64_t one = 1;

	cr_assert_eq(write(fd, &one, sizeof(one)), 8);
}

static void event_clear(int fd)
{
	uint64_t value;

	cr_assert_eq(read(fd, &value, sizeof(value)), 8);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Run the loop for a while. */
static void stop_expired(struct loop_timer *timer)
{
	loop_stop(timer->loop);
}

static void run_for(struct loop *loop, uint64_t ns)
{
	struct loop_timer timer = {.expired = stop_expired};

	loop_arm(loop, &timer, ns);
	cr_assert_eq(loop_run(loop), 0);
	loop_disarm(&timer);
}

/* Run the loop until the condition is true, for a minute at most. */
#define run_until(loop, condition)                                                                 \
	do {                                                                                       \
		for (unsigned ms = 0; ms < 60000 && !(condition); ms++)                            \
			run_for(loop, MS);                                                         \
		cr_assert(condition);                                                              \
	} while (0)

/* --- watches ------------------------------------------------------------------------------- */

struct counter {
	struct loop_watch watch;
	unsigned calls, stop_at;
	uint32_t revents;
	bool clear; /* take the event, or leave it */
};

static void counter_ready(struct loop_watch *watch, uint32_t revents)
{
	struct counter *counter = watch->context;

	counter->calls++;
	counter->revents = revents;
	if (counter->clear)
		event_clear(watch->fd);
	if (counter->calls == counter->stop_at)
		loop_stop(watch->loop);
}

static void counter_watch(struct loop *loop, struct counter *counter, int fd)
{
	counter->watch.ready = counter_ready;
	counter->watch.context = counter;
	cr_assert_eq(loop_watch(loop, &counter->watch, fd, POLLIN), 0);
}

Test(loop, level_triggered)
{
	struct loop *loop = loop_new();
	struct counter left = {.stop_at = 5}, taken = {.clear = true};
	int a = event_new(), b = event_new();

	counter_watch(loop, &left, a);
	counter_watch(loop, &taken, b);
	event_set(a);
	event_set(b);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(left.calls, 5);
	cr_assert_eq(left.revents, POLLIN);
	cr_assert_eq(taken.calls, 1);
	loop_destroy(loop);
	close(a);
	close(b);
}

Test(loop, watch_survives_a_run)
{
	struct loop *loop = loop_new();
	struct counter counter = {.clear = true};
	int fd = event_new();

	counter_watch(loop, &counter, fd);
	for (unsigned i = 1; i <= 3; i++) {
		run_for(loop, MS);
		event_set(fd);
		run_for(loop, MS);
		cr_assert_eq(counter.calls, i);
	}
	loop_unwatch(&counter.watch);
	loop_unwatch(&counter.watch);
	event_set(fd);
	run_for(loop, MS);
	cr_assert_eq(counter.calls, 3);
	loop_destroy(loop);
	close(fd);
}

Test(loop, unwatch_after_the_loop_is_gone)
{
	struct loop *loop = loop_new();
	struct counter counter = {0};
	struct loop_timer timer = {.expired = stop_expired};
	int fd = event_new();

	counter_watch(loop, &counter, fd);
	loop_arm(loop, &timer, 1000 * MS);
	loop_destroy(loop);
	loop_unwatch(&counter.watch);
	loop_disarm(&timer);
	loop_destroy(NULL);
	close(fd);
}

/* Frees its watch, descriptor and all, from within its own callback. */
static void self_ready(struct loop_watch *watch, uint32_t revents)
{
	struct loop *loop = watch->loop;

	(void)revents;
	loop_unwatch(watch);
	close(watch->fd);
	free(watch);
	loop_stop(loop);
}

Test(loop, unwatch_in_own_callback)
{
	struct loop *loop = loop_new();

	for (unsigned i = 0; i < 50; i++) {
		struct loop_watch *watch = calloc(1, sizeof(*watch));
		int fd = event_new();

		watch->ready = self_ready;
		cr_assert_eq(loop_watch(loop, watch, fd, POLLIN), 0);
		event_set(fd);
		cr_assert_eq(loop_run(loop), 0);
	}
	loop_destroy(loop);
}

/* Two that are ready at once: whoever is called first removes the other, whose completion is
 * waiting. */
struct pair {
	struct loop_watch *watch[2];
	unsigned calls;
};

static void pair_ready(struct loop_watch *watch, uint32_t revents)
{
	struct pair *pair = watch->context;
	unsigned other = pair->watch[0] == watch;

	(void)revents;
	pair->calls++;
	loop_unwatch(pair->watch[other]);
	close(pair->watch[other]->fd);
	free(pair->watch[other]);
	pair->watch[other] = NULL;
	event_clear(watch->fd);
}

Test(loop, unwatch_with_readiness_pending)
{
	struct loop *loop = loop_new();

	for (unsigned round = 0; round < 50; round++) {
		struct pair pair = {0};
		struct counter counter = {.clear = true};
		unsigned left;
		int fd;

		for (unsigned i = 0; i < 2; i++) {
			fd = event_new();
			pair.watch[i] = calloc(1, sizeof(*pair.watch[i]));
			pair.watch[i]->ready = pair_ready;
			pair.watch[i]->context = &pair;
			cr_assert_eq(loop_watch(loop, pair.watch[i], fd, POLLIN), 0);
			event_set(fd);
		}
		run_for(loop, MS / 10);
		cr_assert_eq(pair.calls, 1);
		/* The slot has a new tenant: an old completion must not reach it. */
		fd = event_new();
		counter_watch(loop, &counter, fd);
		run_for(loop, MS / 10);
		cr_assert_eq(counter.calls, 0);
		loop_unwatch(&counter.watch);
		close(fd);
		left = !pair.watch[0];
		loop_unwatch(pair.watch[left]);
		close(pair.watch[left]->fd);
		free(pair.watch[left]);
	}
	loop_destroy(loop);
}

static int udp_bound(in_port_t port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = port};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		close(fd);
		return -errno;
	}
	return fd;
}

struct rebind {
	struct loop_watch watch;
	struct loop_timer timer;
	in_port_t port;
	int result;
};

static void rebind_expired(struct loop_timer *timer)
{
	struct rebind *rebind = timer->context;

	loop_unwatch(&rebind->watch);
	close(rebind->watch.fd);
	rebind->result = udp_bound(rebind->port);
	loop_stop(timer->loop);
}

/* The kernel must not keep the socket, and with it the port, after unwatch and close. */
Test(loop, unwatch_lets_the_descriptor_go)
{
	struct loop *loop = loop_new();

	for (unsigned i = 0; i < 20; i++) {
		struct rebind rebind = {.timer = {.expired = rebind_expired}};
		struct sockaddr_in sa;
		socklen_t size = sizeof(sa);
		int fd = udp_bound(0);

		cr_assert_eq(getsockname(fd, (struct sockaddr *)&sa, &size), 0);
		rebind.port = sa.sin_port;
		rebind.timer.context = &rebind;
		cr_assert_eq(loop_watch(loop, &rebind.watch, fd, POLLIN), 0);
		loop_arm(loop, &rebind.timer, MS / 10);
		cr_assert_eq(loop_run(loop), 0);
		cr_assert(rebind.result >= 0, "bind: %s", strerror(-rebind.result));
		close(rebind.result);
	}
	loop_destroy(loop);
}

static void ignore_signal(int number)
{
	(void)number;
}

static void wake_for_nothing(struct loop_timer *timer)
{
	raise(SIGUSR2); /* wakes the poll of a signalfd for another signal */
	loop_stop(timer->loop);
}

/* A poll is cancelled between its wake-up and the finding that nothing is ready. */
Test(loop, cancel_of_a_poll_just_woken, .timeout = 300)
{
	struct loop *loop = loop_new();
	struct loop_timer timer = {.expired = wake_for_nothing};
	struct sigaction action = {.sa_handler = ignore_signal};
	struct counter counter = {0};
	sigset_t mask;
	int fd;

	sigaction(SIGUSR2, &action, NULL);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	cr_assert(fd >= 0);
	counter_watch(loop, &counter, fd);
	for (unsigned i = 0; i < 10; i++) {
		loop_arm(loop, &timer, MS / 10);
		cr_assert_eq(loop_run(loop), 0);
	}
	cr_assert_eq(counter.calls, 0);
	loop_destroy(loop);
	close(fd);
}

static void nval_ready(struct loop_watch *watch, uint32_t revents)
{
	cr_assert_eq(revents, POLLNVAL);
	cr_assert_not(watch->active);
	loop_stop(watch->loop);
}

Test(loop, descriptor_that_is_none)
{
	struct loop *loop = loop_new();
	struct loop_watch watch = {.ready = nval_ready};

	cr_assert_eq(loop_watch(loop, &watch, 999, POLLIN), 0);
	cr_assert_eq(loop_run(loop), 0);
	loop_destroy(loop);
}

Test(loop, hang_up_is_reported)
{
	struct loop *loop = loop_new();
	struct counter counter = {.stop_at = 1};
	int fds[2];

	cr_assert_eq(pipe(fds), 0);
	counter_watch(loop, &counter, fds[0]);
	close(fds[1]);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert(counter.revents & POLLHUP);
	loop_destroy(loop);
	close(fds[0]);
}

/* The events of an active watch can be changed by watching again. */
Test(loop, events_change)
{
	struct loop *loop = loop_new();
	struct counter counter = {.stop_at = 1};
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	counter_watch(loop, &counter, fds[0]);
	run_for(loop, MS);
	cr_assert_eq(counter.calls, 0);
	cr_assert_eq(loop_watch(loop, &counter.watch, fds[0], POLLOUT), 0);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(counter.revents, POLLOUT);
	loop_destroy(loop);
	close(fds[0]);
	close(fds[1]);
}

/* More watches than the queues have entries, and all ready at once: the completion queue overflows.
 */
Test(loop, thousand_watches)
{
	static struct counter counters[MANY];
	struct rlimit files;
	struct loop *loop = loop_new();
	static int fds[MANY];

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	for (unsigned i = 0; i < MANY; i++) {
		fds[i] = event_new();
		counters[i].clear = true;
		counter_watch(loop, &counters[i], fds[i]);
	}
	run_for(loop, MS);
	for (unsigned round = 1; round <= 3; round++) {
		for (unsigned i = 0; i < MANY; i++)
			event_set(fds[i]);
		for (unsigned i = 0; i < MANY; i++)
			run_until(loop, counters[i].calls == round);
	}
	for (unsigned i = 0; i < MANY; i++) {
		loop_unwatch(&counters[i].watch);
		close(fds[i]);
	}
	loop_destroy(loop);
}

/* --- tasks --------------------------------------------------------------------------------- */

struct chain {
	struct loop_task task;
	struct loop *loop;
	struct loop_task *forget;
	unsigned runs, again;
};

static void chain_run(struct loop_task *task)
{
	struct chain *chain = (struct chain *)task;

	chain->runs++;
	if (chain->forget)
		loop_forget(chain->loop, chain->forget);
	if (chain->again) {
		chain->again--;
		loop_defer(chain->loop, task);
	}
}

Test(loop, tasks_run_once_and_can_be_taken_back)
{
	struct loop *loop = loop_new();
	struct chain a = {.task = {.run = chain_run}, .loop = loop, .again = 4};
	struct chain b = a, c = a, d = a;

	b.again = c.again = d.again = 0;
	b.forget = &d.task; /* queued behind it, in the same turn */
	loop_defer(loop, &a.task);
	loop_defer(loop, &a.task);
	loop_defer(loop, &b.task);
	loop_defer(loop, &c.task);
	loop_defer(loop, &d.task);
	loop_forget(loop, &c.task);
	loop_forget(loop, &c.task);
	run_until(loop, a.runs == 5);
	cr_assert_eq(b.runs, 1);
	cr_assert_eq(c.runs, 0);
	cr_assert_eq(d.runs, 0);
	loop_defer(loop, &c.task); /* left queued: destroy lets it go */
	loop_destroy(loop);
}

/* A task that never stops wanting to run must not keep descriptors and timers from their turn. */
Test(loop, endless_task_leaves_room)
{
	struct loop *loop = loop_new();
	struct chain endless = {.task = {.run = chain_run}, .loop = loop, .again = ~0u};
	struct counter counter = {.clear = true};
	int fd = event_new();

	counter_watch(loop, &counter, fd);
	event_set(fd);
	loop_defer(loop, &endless.task);
	run_until(loop, endless.runs > 10);
	cr_assert_eq(counter.calls, 1);
	loop_destroy(loop);
	close(fd);
}

/* --- timers -------------------------------------------------------------------------------- */

struct tick {
	struct loop_timer timer;
	unsigned ticks, max;
	uint64_t ns;
	struct loop_timer *disarm;
	unsigned *order, mark;
};

static void tick_expired(struct loop_timer *timer)
{
	struct tick *tick = timer->context;

	cr_assert(now_ns() >= timer->expiry_ns);
	tick->ticks++;
	if (tick->order)
		*tick->order = *tick->order * 10 + tick->mark;
	if (tick->disarm)
		loop_disarm(tick->disarm);
	if (tick->ticks < tick->max)
		loop_arm(timer->loop, timer, tick->ns);
	else if (tick->max)
		loop_stop(timer->loop);
}

static void tick_arm(struct loop *loop, struct tick *tick, uint64_t ns)
{
	tick->timer.expired = tick_expired;
	tick->timer.context = tick;
	cr_assert_eq(loop_arm(loop, &tick->timer, ns), 0);
}

Test(loop, timer_armed_again_in_its_callback)
{
	struct loop *loop = loop_new();
	struct tick tick = {.max = 20, .ns = MS / 2};
	uint64_t start = now_ns();

	tick_arm(loop, &tick, tick.ns);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(tick.ticks, 20);
	cr_assert(now_ns() - start >= 20 * tick.ns);
	cr_assert(loop_turns(loop) <= 40); /* it sleeps in between */
	loop_destroy(loop);
}

Test(loop, timer_for_at_once_leaves_room)
{
	struct loop *loop = loop_new();
	struct tick tick = {.max = ~0u, .ns = 0};
	struct counter counter = {.stop_at = 3};
	int fd = event_new();

	counter_watch(loop, &counter, fd);
	event_set(fd);
	tick_arm(loop, &tick, 0);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert(tick.ticks > 0);
	loop_destroy(loop);
	close(fd);
}

Test(loop, timers_in_order)
{
	struct loop *loop = loop_new();
	struct tick ticks[6] = {0};
	const unsigned ms[6] = {3, 1, 5, 2, 4, 6};
	unsigned order = 0;
	uint64_t start;

	/* Armed within one of the milliseconds that they differ by, else once more. */
	do {
		start = now_ns();
		for (unsigned i = 0; i < 6; i++) {
			ticks[i].order = &order;
			ticks[i].mark = ms[i];
			tick_arm(loop, &ticks[i], ms[i] * MS);
		}
		tick_arm(loop, &ticks[3], 7 * MS); /* the one at 2 ms becomes the last */
	} while (now_ns() - start >= MS);
	ticks[1].disarm = &ticks[4].timer; /* 1 ms takes away the one at 4 ms */
	run_for(loop, 12 * MS);
	cr_assert_eq(order, 13562, "%u", order);
	loop_disarm(&ticks[0].timer);
	loop_destroy(loop);
}

Test(loop, timer_far_away)
{
	struct loop *loop = loop_new();
	struct tick never = {0}, day = {0};

	tick_arm(loop, &never, UINT64_MAX);
	tick_arm(loop, &day, 86400ull * 1000 * MS);
	run_for(loop, MS);
	cr_assert_eq(never.ticks + day.ticks, 0);
	loop_destroy(loop);
}

/* --- operations ---------------------------------------------------------------------------- */

struct read_op {
	struct loop_op op;
	struct loop *loop;
	struct loop_task task;
	int fd, result, left;
	unsigned done;
	char data[16];
};

static void read_done(struct loop_op *op, int result, unsigned flags)
{
	struct read_op *read = (struct read_op *)op;

	cr_assert_not(flags & IORING_CQE_F_MORE);
	read->result = result;
	read->done++;
	if (--read->left)
		loop_defer(read->loop, &read->task);
	else
		loop_stop(read->loop);
}

static void read_start(struct loop_task *task)
{
	struct read_op *read = (struct read_op *)((char *)task - offsetof(struct read_op, task));
	struct io_uring_sqe *sqe = loop_sqe(read->loop, &read->op);

	cr_assert_not_null(sqe);
	io_uring_prep_read(sqe, read->fd, read->data, sizeof(read->data), 0);
}

static struct read_op read_op(struct loop *loop, int fd, int count)
{
	return (struct read_op){
	    .op = {.done = read_done},
	    .loop = loop,
	    .task = {.run = read_start},
	    .fd = fd,
	    .left = count,
	};
}

Test(loop, operations_complete)
{
	struct loop *loop = loop_new();
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	struct read_op read = read_op(loop, fd, 100);

	cr_assert_null(loop_sqe(loop, &read.op)); /* it does not run */
	loop_defer(loop, &read.task);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(read.done, 100);
	cr_assert_eq(read.result, 16);
	loop_destroy(loop);
	close(fd);
}

static void *write_later(void *arg)
{
	usleep(20000);
	cr_assert_eq(write(*(int *)arg, "hello", 5), 5);
	return NULL;
}

/* loop_run() is told to end while an operation is in flight: it ends after that. */
Test(loop, run_waits_for_operations)
{
	struct loop *loop = loop_new();
	struct read_op read;
	pthread_t thread;
	int fds[2];

	cr_assert_eq(pipe(fds), 0);
	read = read_op(loop, fds[0], 1);
	loop_defer(loop, &read.task);
	loop_stop(loop);
	pthread_create(&thread, NULL, write_later, &fds[1]);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(read.done, 1);
	cr_assert_eq(read.result, 5);
	pthread_join(thread, NULL);
	loop_destroy(loop);
	close(fds[0]);
	close(fds[1]);
}

struct nops {
	struct loop_op op;
	struct loop *loop;
	struct loop_task task;
	unsigned taken, done;
};

static void nop_done(struct loop_op *op, int result, unsigned flags)
{
	struct nops *nops = (struct nops *)op;

	(void)flags;
	cr_assert_eq(result, 0);
	nops->done++;
	if (nops->done == nops->taken)
		loop_stop(nops->loop);
}

static void nops_exhaust(struct loop_task *task)
{
	struct nops *nops = (struct nops *)((char *)task - offsetof(struct nops, task));
	struct io_uring_sqe *sqe;

	while ((sqe = loop_sqe(nops->loop, &nops->op)) != NULL) {
		io_uring_prep_nop(sqe);
		nops->taken++;
	}
}

Test(loop, full_ring_says_so)
{
	struct loop *loop = loop_new();
	struct nops nops = {.op = {nop_done}, .loop = loop, .task = {.run = nops_exhaust}};

	for (unsigned i = 0; i < 10; i++) {
		nops.taken = nops.done = 0;
		loop_defer(loop, &nops.task);
		cr_assert_eq(loop_run(loop), 0);
		cr_assert_eq(nops.done, nops.taken);
		cr_assert(nops.done >= ENTRIES / 2 && nops.done <= ENTRIES);
	}
	loop_destroy(loop);
}

/* --- threads ------------------------------------------------------------------------------- */

static void *run_thread(void *arg)
{
	cr_assert_eq(loop_run(arg), 0);
	return NULL;
}

struct calls {
	struct loop *loop;
	unsigned long sum, nested; /* touched with the loop in hand only */
};

static void add_one(void *arg)
{
	++*(unsigned long *)arg;
}

static void count_call(void *arg)
{
	struct calls *calls = arg;

	calls->sum++;
	loop_call(calls->loop, add_one, &calls->nested); /* at once */
	cr_assert_eq(calls->sum, calls->nested);
}

struct turns {
	struct loop *loop;
	struct loop_counters seen;
};

static void turns_read(void *arg)
{
	struct turns *turns = arg;

	turns->seen = *loop_counters(turns->loop);
}

static struct loop_counters counters_now(struct loop *loop)
{
	struct turns turns = {.loop = loop};

	loop_call(loop, turns_read, &turns);
	return turns.seen;
}

/* Until its thread sleeps: only then it can be borrowed from it. */
static void runner_wait(struct loop *loop)
{
	while (!counters_now(loop).borrows)
		usleep(1000);
}

static void *call_thread(void *arg)
{
	struct calls *calls = arg;

	for (unsigned i = 0; i < 2000; i++)
		loop_call(calls->loop, count_call, calls);
	return NULL;
}

Test(loop, calls_from_many_threads)
{
	struct calls calls = {.loop = loop_new()};
	pthread_t runner, callers[4];

	pthread_create(&runner, NULL, run_thread, calls.loop);
	runner_wait(calls.loop);
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&callers[i], NULL, call_thread, &calls);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(callers[i], NULL);
	loop_stop(calls.loop);
	pthread_join(runner, NULL);
	cr_assert_eq(calls.sum, 8000);
	loop_destroy(calls.loop);
}

struct shared_count {
	struct loop *loop;
	unsigned long value;
};

static void *add_thread(void *arg)
{
	struct shared_count *count = arg;

	for (unsigned i = 0; i < 2000; i++)
		loop_call(count->loop, add_one, &count->value);
	return NULL;
}

/* Calls while the loop starts and stops again and again: each runs exactly once, one at a time. */
Test(loop, calls_across_start_and_stop)
{
	struct shared_count count = {.loop = loop_new()};
	pthread_t callers[2];

	for (unsigned i = 0; i < 2; i++)
		pthread_create(&callers[i], NULL, add_thread, &count);
	for (unsigned i = 0; i < 200; i++)
		run_for(count.loop, MS / 20);
	/* Callers that are left get on by themselves. */
	for (unsigned i = 0; i < 2; i++)
		pthread_join(callers[i], NULL);
	cr_assert_eq(count.value, 4000);
	loop_destroy(count.loop);
}

struct nest {
	struct loop *loop;
	unsigned long value;
};

static void nest_call(void *arg)
{
	struct nest *nest = arg;

	loop_call(nest->loop, add_one, &nest->value);
}

Test(loop, call_without_a_running_loop)
{
	struct nest nest = {.loop = loop_new()};

	loop_call(nest.loop, nest_call, &nest);
	cr_assert_eq(nest.value, 1);
	loop_destroy(nest.loop);
}

/* A thread sets the loop up, another runs it, watches come and go by calls. */
struct remote {
	struct loop *loop;
	struct counter counter;
	unsigned seen; /* calls */
	int fd;
};

static void remote_watch(void *arg)
{
	struct remote *remote = arg;

	counter_watch(remote->loop, &remote->counter, remote->fd);
}

static void remote_calls(void *arg)
{
	struct remote *remote = arg;

	remote->seen = remote->counter.calls;
}

static void remote_unwatch(void *arg)
{
	loop_unwatch(&((struct remote *)arg)->counter.watch);
}

Test(loop, watches_from_another_thread)
{
	struct remote first = {.loop = loop_new(), .fd = event_new()}, second = first;
	pthread_t runner;

	first.counter.clear = second.counter.clear = true;
	second.fd = event_new();
	remote_watch(&first); /* before it runs, on this thread */
	pthread_create(&runner, NULL, run_thread, first.loop);
	for (unsigned i = 0; i < 100; i++) {
		loop_call(first.loop, remote_watch, &second);
		event_set(second.fd);
		event_set(first.fd);
		loop_call(first.loop, remote_unwatch, &second);
	}
	for (; !first.seen; usleep(1000))
		loop_call(first.loop, remote_calls, &first);
	loop_call(first.loop, remote_unwatch, &first);
	loop_stop(first.loop);
	pthread_join(runner, NULL);
	cr_assert(first.counter.calls <= 100);
	loop_destroy(first.loop);
	close(first.fd);
	close(second.fd);
}

/* The other thread has ended: what is left is taken apart here. */
Test(loop, teardown_by_another_thread)
{
	struct remote remote = {.loop = loop_new(), .fd = event_new()};
	struct tick tick = {0};
	pthread_t runner;

	remote_watch(&remote);
	tick_arm(remote.loop, &tick, 3600 * 1000 * MS);
	pthread_create(&runner, NULL, run_thread, remote.loop);
	runner_wait(remote.loop);
	loop_stop(remote.loop);
	pthread_join(runner, NULL);
	loop_call(remote.loop, remote_unwatch, &remote);
	loop_disarm(&tick.timer);
	loop_destroy(remote.loop);
	close(remote.fd);
}

static struct loop *signalled;

static void on_signal(int number)
{
	int saved = errno;

	(void)number;
	errno = 77;
	loop_stop(signalled);
	if (errno != 77)
		abort();
	errno = saved;
}

Test(loop, stop_from_a_signal_handler)
{
	struct sigaction action = {.sa_handler = on_signal};
	pthread_t runner;

	signalled = loop_new();
	sigaction(SIGUSR1, &action, NULL);
	for (unsigned i = 0; i < 20; i++) {
		cr_assert_eq(raise(SIGUSR1), 0); /* before it runs: not forgotten */
		cr_assert_eq(loop_run(signalled), 0);
	}
	loop_destroy(signalled);
	signalled = loop_new();
	pthread_create(&runner, NULL, run_thread, signalled);
	usleep(5000);
	pthread_kill(runner, SIGUSR1); /* while it sleeps in the kernel */
	pthread_join(runner, NULL);
	loop_destroy(signalled);
}

/* Signals that mean nothing interrupt the sleep, and nothing else. */
Test(loop, interrupted_sleep)
{
	struct loop *loop = loop_new();
	struct sigaction action = {.sa_handler = ignore_signal};
	pthread_t runner;

	sigaction(SIGUSR2, &action, NULL);
	pthread_create(&runner, NULL, run_thread, loop);
	usleep(2000);
	for (unsigned i = 0; i < 20; i++) {
		pthread_kill(runner, SIGUSR2);
		usleep(200);
	}
	loop_stop(loop);
	pthread_join(runner, NULL);
	loop_destroy(loop);
}

/* --- a loop that is lent -------------------------------------------------------------------- */

/* What a borrower leaves behind for the loop's thread. */
struct leaving {
	struct loop *loop;
	pthread_t runner;
	struct loop_task task;
	struct loop_timer timer;
	struct loop_watch watch;
	struct loop_poll poll;
	struct loop_op op;
	int fds[2];
	char byte;
	unsigned in_flight;  /* operations */
	unsigned operations; /* ended */
	atomic_uint done;
};

static void leaving_done(struct leaving *l)
{
	cr_assert(pthread_equal(pthread_self(), l->runner));
	atomic_fetch_add(&l->done, 1);
}

static void leaving_wait(const struct leaving *l, unsigned done)
{
	while (atomic_load(&l->done) < done)
		usleep(1000);
}

static void leaving_task(struct loop_task *task)
{
	leaving_done(container_of(task, struct leaving, task));
}

static void leaving_timer(struct loop_timer *timer)
{
	leaving_done(timer->context);
}

static void leaving_ready(struct loop_watch *watch, uint32_t revents)
{
	struct leaving *l = watch->context;

	(void)revents;
	cr_assert_eq(read(watch->fd, &l->byte, 1), 1);
	leaving_done(l);
}

static bool leaving_poll(struct loop_poll *poll, uint64_t now)
{
	struct leaving *l = container_of(poll, struct leaving, poll);

	(void)now;
	loop_poll_stop(l->loop, poll);
	leaving_done(l);
	return false;
}

static void leave_task(void *arg)
{
	struct leaving *l = arg;

	loop_defer(l->loop, &l->task);
}

static void leave_timer(void *arg)
{
	struct leaving *l = arg;

	loop_arm(l->loop, &l->timer, MS);
}

static void leave_watch(void *arg)
{
	struct leaving *l = arg;

	cr_assert_eq(loop_watch(l->loop, &l->watch, l->fds[0], POLLIN), 0);
	cr_assert_eq(write(l->fds[1], "x", 1), 1);
}

static void leave_unwatch(void *arg)
{
	struct leaving *l = arg;

	loop_unwatch(&l->watch);
}

static void leave_poll(void *arg)
{
	struct leaving *l = arg;

	loop_poll_start(l->loop, &l->poll);
}

static struct leaving *leaving_new(void)
{
	static const struct leaving start = {
	    .task.run = leaving_task,
	    .timer.expired = leaving_timer,
	    .watch.ready = leaving_ready,
	    .poll.poll = leaving_poll,
	};
	struct leaving *l = malloc(sizeof(*l));

	cr_assert_not_null(l);
	*l = start;
	l->loop = loop_new();
	l->timer.context = l->watch.context = l;
	cr_assert_eq(pipe(l->fds), 0);
	return l;
}

static void leaving_start(struct leaving *l)
{
	pthread_create(&l->runner, NULL, run_thread, l->loop);
	runner_wait(l->loop);
}

static void leaving_end(struct leaving *l)
{
	loop_stop(l->loop);
	pthread_join(l->runner, NULL);
	loop_destroy(l->loop);
	close(l->fds[0]);
	close(l->fds[1]);
	free(l);
}

/* Nobody is woken for what leaves nothing behind; once it is asleep, for it may be about to be. */
Test(loop, lent_while_it_sleeps)
{
	struct leaving *l = leaving_new();
	struct loop_counters before, after;

	leaving_start(l);
	do {
		before = counters_now(l->loop);
		for (unsigned i = 0; i < 1000; i++)
			after = counters_now(l->loop);
	} while (after.turns != before.turns || after.borrows - before.borrows != 1000);
	leaving_end(l);
}

Test(loop, borrower_leaves_work)
{
	static void (*const leave[])(void *) = {leave_task, leave_timer, leave_poll, leave_watch};
	struct tick far = {0};
	struct leaving *l = leaving_new();
	unsigned done = 0;

	tick_arm(l->loop, &far, 3600 * 1000 * MS); /* it would sleep for so long */
	leaving_start(l);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < sizeof(leave) / sizeof(leave[0]); i++) {
			loop_call(l->loop, leave[i], l);
			leaving_wait(l, ++done);
		}
		loop_call(l->loop, leave_unwatch, l);
	}
	leaving_end(l);
}

struct rebinding {
	struct loop *loop;
	struct counter counter;
	in_port_t port;
	int fd;
};

static void rebinding_watch(void *arg)
{
	struct rebinding *r = arg;

	counter_watch(r->loop, &r->counter, r->fd);
}

static void rebinding_close(void *arg)
{
	struct rebinding *r = arg;

	loop_unwatch(&r->counter.watch);
	close(r->fd);
	r->fd = udp_bound(r->port);
}

/* As unwatch_lets_the_descriptor_go, but the ring is another thread's. */
Test(loop, borrower_unwatches)
{
	struct leaving *l = leaving_new();
	struct rebinding r = {.loop = l->loop, .fd = udp_bound(0)};
	struct sockaddr_in sa;
	socklen_t size = sizeof(sa);

	cr_assert_eq(getsockname(r.fd, (struct sockaddr *)&sa, &size), 0);
	r.port = sa.sin_port;
	leaving_start(l);
	for (unsigned i = 0; i < 100; i++) {
		loop_call(l->loop, rebinding_watch, &r);
		if (i % 2)
			runner_wait(l->loop);
		loop_call(l->loop, rebinding_close, &r);
		cr_assert(r.fd >= 0, "bind: %s", strerror(-r.fd));
	}
	leaving_end(l);
	close(r.fd);
}

static void operation_done(struct loop_op *op, int result, unsigned flags)
{
	struct leaving *l = container_of(op, struct leaving, op);

	(void)flags;
	cr_assert_eq(result, 1);
	l->in_flight--;
	l->operations++;
}

static void operation_start(struct loop_task *task)
{
	struct leaving *l = container_of(task, struct leaving, task);
	struct io_uring_sqe *sqe = loop_sqe(l->loop, &l->op);

	if (!sqe) {
		loop_defer(l->loop, task);
		return;
	}
	io_uring_prep_read(sqe, l->fds[0], &l->byte, 1, 0);
	l->in_flight++;
	atomic_fetch_add(&l->done, 1);
}

static void operation_settle(void *arg)
{
	struct leaving *l = arg;

	cr_assert_eq(write(l->fds[1], "x", 1), 1);
	loop_settle(l->loop, &l->in_flight);
	cr_assert_eq(l->in_flight, 0);
	loop_defer(l->loop, &l->task);
}

/* An operation that the loop's thread began ends while another thread waits for it. */
Test(loop, borrower_settles)
{
	struct leaving *l = leaving_new();

	l->task.run = operation_start;
	l->op.done = operation_done;
	loop_defer(l->loop, &l->task);
	leaving_start(l);
	for (unsigned i = 1; i <= 100; i++) {
		leaving_wait(l, i);
		loop_call(l->loop, operation_settle, l);
	}
	leaving_wait(l, 101);
	cr_assert_eq(write(l->fds[1], "x", 1), 1); /* the loop ends with nothing in flight */
	loop_stop(l->loop);
	pthread_join(l->runner, NULL);
	cr_assert_eq(l->operations, 101);
	loop_destroy(l->loop);
	close(l->fds[0]);
	close(l->fds[1]);
	free(l);
}

/* Doorbells of several threads, each heard as often as it rang, while the loop has work of its own.
 */
#define BELLS 3
#define RINGS 20000u

struct bell {
	struct loop_post post;
	struct bells *bells;
	atomic_uint rings; /* not heard yet */
	unsigned heard;
};

struct bells {
	struct loop *loop;
	struct bell bell[BELLS];
	struct counter counter;
	struct loop_task task;
	struct loop_timer timer;
	unsigned tasks, visits;
	atomic_uint heard; /* of all */
	bool inside;
};

static void bell_heard(struct loop_post *post)
{
	struct bell *bell = container_of(post, struct bell, post);
	struct bells *bells = bell->bells;
	unsigned rings = atomic_exchange(&bell->rings, 0);

	cr_assert(rings && !bells->inside);
	bells->inside = true;
	bell->heard += rings;
	switch (++bells->visits % 64) {
	case 10:
		loop_defer(bells->loop, &bells->task);
		break;
	case 20:
		loop_arm(bells->loop, &bells->timer, MS / 100);
		break;
	case 30: /* watched already: the old poll is cancelled */
		counter_watch(bells->loop, &bells->counter, bells->counter.watch.fd);
		break;
	case 40:
		event_set(bells->counter.watch.fd);
		break;
	}
	bells->inside = false;
	atomic_fetch_add(&bells->heard, rings);
}

static void *bell_ring(void *arg)
{
	struct bell *bell = arg;

	for (unsigned i = 0; i < RINGS; i++) {
		if (!atomic_fetch_add(&bell->rings, 1))
			loop_post(bell->bells->loop, &bell->post);
		if (i % 512 == 0)
			usleep(100); /* it may sleep */
	}
	return NULL;
}

static void bells_task(struct loop_task *task)
{
	container_of(task, struct bells, task)->tasks++;
}

static void bells_timer(struct loop_timer *timer)
{
	((struct bells *)timer->context)->tasks++;
}

static void nothing(void *arg)
{
	(void)arg;
}

Test(loop, bells_are_heard, .timeout = 300)
{
	struct bells bells = {
	    .loop = loop_new(), .task.run = bells_task, .timer.expired = bells_timer};
	pthread_t runner, ringers[BELLS];

	bells.timer.context = &bells;
	bells.counter.clear = true;
	counter_watch(bells.loop, &bells.counter, event_new());
	pthread_create(&runner, NULL, run_thread, bells.loop);
	for (unsigned i = 0; i < BELLS; i++) {
		bells.bell[i] = (struct bell){.post.run = bell_heard, .bells = &bells};
		pthread_create(&ringers[i], NULL, bell_ring, &bells.bell[i]);
	}
	for (unsigned i = 0; i < RINGS / 10; i++)
		loop_call(bells.loop, nothing, NULL);
	for (unsigned i = 0; i < BELLS; i++)
		pthread_join(ringers[i], NULL);
	/* Nobody asks for anything any more: what was not heard by now must be on its way. */
	while (atomic_load(&bells.heard) < BELLS * RINGS)
		usleep(1000);
	loop_stop(bells.loop);
	pthread_join(runner, NULL);
	for (unsigned i = 0; i < BELLS; i++)
		cr_assert_eq(bells.bell[i].heard, RINGS);
	close(bells.counter.watch.fd);
	loop_destroy(bells.loop);
}

/* --- polling -------------------------------------------------------------------------------- */

struct poller {
	struct loop_poll poll;
	struct loop *loop;
	unsigned polls, rests, find, stop_at; /* find: times that there is something, from now on */
	struct loop_poll *other;	      /* to be stopped */
	int fd;				      /* made ready when the loop rests, or 0 */
};

static bool poller_poll(struct loop_poll *poll, uint64_t now)
{
	struct poller *p = container_of(poll, struct poller, poll);

	cr_assert(now && now <= loop_now());
	p->polls++;
	if (p->other)
		loop_poll_stop(p->loop, p->other);
	if (p->polls == p->stop_at)
		loop_stop(p->loop);
	return p->find && p->find--;
}

static bool poller_rest(struct loop_poll *poll)
{
	struct poller *p = container_of(poll, struct poller, poll);

	if (++p->rests == p->stop_at)
		loop_stop(p->loop);
	if (p->fd)
		event_set(p->fd);
	return p->find;
}

static struct poller poller_new(struct loop *loop)
{
	return (struct poller){.poll = {.poll = poller_poll, .rest = poller_rest}, .loop = loop};
}

Test(loop, polls_in_each_turn_and_then_sleeps)
{
	struct loop *loop = loop_new();
	struct poller p = poller_new(loop);
	uint64_t spins;

	loop_poll_start(loop, &p.poll);
	loop_poll_start(loop, &p.poll);
	run_until(loop, p.rests > 0);
	spins = loop_counters(loop)->spins;
	cr_assert_gt(p.polls, 0);
	cr_assert_leq(spins, p.polls);
	run_for(loop, MS); /* woken by the timer, which buys no spinning */
	cr_assert_eq(loop_counters(loop)->spins, spins);
	loop_poll_stop(loop, &p.poll);
	loop_poll_stop(loop, &p.poll);
	p.polls = 0;
	run_for(loop, MS);
	cr_assert_eq(p.polls, 0);
	loop_destroy(loop);
}

/* What an idle loop costs is counted: each wake-up is a few turns and no spinning. */
Test(loop, wake_ups_without_work_buy_no_spinning)
{
	struct loop *loop = loop_new();
	struct poller p = poller_new(loop);
	struct counter counter = {.clear = true, .stop_at = 1000};
	struct loop_counters before;
	unsigned polls;

	loop_poll_start(loop, &p.poll);
	run_until(loop, p.rests > 0);
	before = *loop_counters(loop);
	polls = p.polls;
	p.fd = event_new();
	counter_watch(loop, &counter, p.fd);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(counter.calls, 1000);
	cr_assert_eq(loop_counters(loop)->spins, before.spins);
	cr_assert_leq(loop_counters(loop)->turns - before.turns, 1010);
	cr_assert_leq(p.polls - polls, 1010);
	loop_unwatch(&counter.watch);
	close(p.fd);
	loop_destroy(loop);
}

Test(loop, does_not_sleep_when_rest_finds_something)
{
	struct loop *loop = loop_new();
	struct poller p = poller_new(loop);

	loop_poll_start(loop, &p.poll);
	run_until(loop, p.rests > 0);
	p.find = 1; /* as if it had come just now */
	p.stop_at = p.polls + 1;
	cr_assert_eq(loop_run(loop), 0); /* nothing would wake it */
	cr_assert_eq(p.find, 0);
	loop_poll_stop(loop, &p.poll);
	loop_destroy(loop);
}

/* Watches, timers and other threads are heard while the loop spins. */
Test(loop, spinning_hears_the_rest)
{
	struct loop *loop = loop_new();
	struct poller p = poller_new(loop);
	struct counter counter = {.clear = true, .stop_at = 1};
	int fd = event_new();

	p.find = UINT_MAX; /* it always spins */
	loop_poll_start(loop, &p.poll);
	run_for(loop, MS);
	counter_watch(loop, &counter, fd);
	event_set(fd);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(counter.calls, 1);
	cr_assert_eq(p.rests, 0);
	cr_assert_eq(loop_counters(loop)->sleeps, 0);
	loop_unwatch(&counter.watch);
	close(fd);
	loop_destroy(loop);
}

Test(loop, polls_stop_each_other)
{
	struct loop *loop = loop_new();
	struct poller p[3];

	for (unsigned stopper = 0; stopper < 3; stopper++) {
		for (unsigned victim = 0; victim < 3; victim++) {
			for (unsigned i = 0; i < 3; i++) {
				p[i] = poller_new(loop);
				loop_poll_start(loop, &p[i].poll);
			}
			p[stopper].other = &p[victim].poll;
			p[stopper].stop_at = 1;
			cr_assert_eq(loop_run(loop), 0);
			for (unsigned i = 0; i < 3; i++) {
				cr_assert_leq(p[i].polls, 1);
				cr_assert(p[i].polls == 1 || i == victim);
				cr_assert_eq(p[i].poll.active, i != victim);
				loop_poll_stop(loop, &p[i].poll);
			}
		}
	}
	loop_destroy(loop);
}

Test(loop, leaves_no_descriptor)
{
	int before = dup(0), after;

	close(before);
	for (unsigned i = 0; i < 100; i++) {
		struct loop *loop = loop_new();

		run_for(loop, 1);
		loop_destroy(loop);
	}
	after = dup(0);
	close(after);
	cr_assert_eq(before, after);
}

Test(loop, no_ring_says_why)
{
	struct rlimit files, few;
	struct loop *loop;

	errno = 0;
	cr_assert_null(loop_create(1u << 20));
	cr_assert_eq(errno, EINVAL);

	getrlimit(RLIMIT_NOFILE, &files);
	few = files;
	few.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &few);
	errno = 0;
	loop = loop_create(ENTRIES);
	setrlimit(RLIMIT_NOFILE, &files);
	cr_assert_null(loop);
	cr_assert_eq(errno, EMFILE);
}
