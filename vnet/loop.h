/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event loop: one io_uring, one thread.
 *
 * Everything that waits in weft waits here: sockets, doorbells, timers, block requests. The data path
 * runs on one such loop (the sidecar), control on another. All functions but loop_stop(), loop_post() and
 * loop_call() belong to the thread that has the loop: the one that runs it, or one that it was lent to for
 * a loop_post() or loop_call() while it slept; while no thread runs it (set-up, teardown), the one thread
 * that has it in hand.
 */
#ifndef WEFT_LOOP_H
#define WEFT_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The struct that embeds what a callback was given. */
#define container_of(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

struct loop;
struct loop_op;
struct io_uring_sqe;

/*
 * One operation in flight. The owner embeds it, sets @done, and keeps it alive until the last
 * completion. @done runs on the loop's thread with the completion's result (-errno or a count) and
 * flags (IORING_CQE_F_MORE: a multishot operation goes on).
 */
struct loop_op {
	void (*done)(struct loop_op *op, int result, unsigned flags);
};

/*
 * A descriptor that is watched until loop_unwatch(). The owner sets @ready, @context and @eager; the rest is
 * the loop's. The watch is level-triggered: @ready runs in every turn in which the descriptor is ready (or in
 * error: POLLERR, POLLHUP), so it need not read all there is, but has to unwatch what it will not read.
 * A descriptor that cannot be polled is unwatched, and @ready called with POLLNVAL.
 */
struct loop_watch {
	struct loop *loop;
	int fd;
	uint32_t events; /* POLLIN, POLLOUT */
	void (*ready)(struct loop_watch *watch, uint32_t revents);
	void *context;
	/*
	 * While the loop spins, call @ready in each turn instead of asking the kernel: it finds out cheaply
	 * by itself (revents 0) that nothing is there.
	 */
	bool eager;
	unsigned slot; /* position in the loop's table */
	bool armed;    /* a poll request is in flight */
	bool active;   /* between loop_watch() and loop_unwatch() */
};

/* Work to be done at the end of the current turn, before the loop sleeps again. The owner sets @run. */
struct loop_task {
	void (*run)(struct loop_task *task);
	struct loop_task *next;
	bool queued;
};

/* Work that any thread may ask for. The owner sets @run. */
struct loop_post {
	void (*run)(struct loop_post *post);
	struct loop_post *next;
};

/* A one-shot timer. The owner sets @expired and @context; the rest is the loop's. */
struct loop_timer {
	struct loop *loop;
	void (*expired)(struct loop_timer *timer);
	void *context;
	uint64_t expiry_ns; /* CLOCK_MONOTONIC */
	struct loop_timer *prev, *next;
	bool armed;
};

/*
 * Something that is looked at in each turn, because it cannot wake the loop or is about to be busy. While
 * there is one, the loop spins for a bounded time (spin.h) before it sleeps. The owner sets all but what
 * is the loop's; a callback may start and stop any of them.
 */
struct loop_poll {
	/* Do what there is to do. Returns whether there was something. */
	bool (*poll)(struct loop_poll *poll, uint64_t now_ns);
	/*
	 * The loop is about to sleep: from now on, what comes has to wake it. Returns true when something
	 * is there already; then the loop does not sleep. May be NULL.
	 */
	bool (*rest)(struct loop_poll *poll);
	bool patient; /* spin long (SPIN_PATIENT_NS), whether it pays or not */
	struct loop_poll *prev, *next;
	bool active;
};

/* How often the loop went round. */
struct loop_counters {
	uint64_t turns;	 /* went to the kernel */
	uint64_t sleeps; /* of these: ready to sleep there */
	uint64_t spins;	 /* went round without going to the kernel */
	uint64_t borrows; /* times another thread had the loop while it slept */
};

/**
 * loop_create - make a loop.
 * @entries: operations that are handed to the kernel in one system call, 1..4096
 *
 * Returns NULL with errno set: ENOSYS where the kernel has no io_uring or one older than Linux 5.11, EPERM
 * where it is switched off (sysctl kernel.io_uring_disabled, a seccomp filter), ENOMEM, EMFILE.
 */
struct loop *loop_create(unsigned entries);
/* loop_destroy - free the loop, which no thread runs any more. Watches and timers are let go. NULL is fine. */
void loop_destroy(struct loop *loop);

/**
 * loop_run - run until loop_stop().
 *
 * Before it returns, all operations of loop_sqe() have ended and their done() has run: nothing is in flight
 * while a loop does not run. Watches, timers and deferred tasks stay for the next run, which must be on
 * the same thread (the kernel ties the ring to it). Returns 0, or -errno when the ring itself fails.
 */
int loop_run(struct loop *loop);
/* loop_stop - make loop_run(), this or the next, return after its turn. Any thread; async-signal-safe. */
void loop_stop(struct loop *loop);

/**
 * loop_post - have @post run soon, with the loop in hand.
 *
 * Any thread. If the loop sleeps, or no thread runs it, that is done at once and on this thread; otherwise
 * the loop's thread does it before it sleeps again, without being woken. @post must not be posted again before its
 * run() has begun. It may do anything with the loop, but loop_sqe() may have nothing for it, and what has
 * to wait for the kernel (loop_unwatch(), loop_settle()) wakes the loop's thread.
 */
void loop_post(struct loop *loop, struct loop_post *post);

/**
 * loop_call - run a function with the loop in hand, and wait for its end.
 *
 * Any thread; as loop_post(), and at once by whoever has the loop already. loop_run() waits for it. The
 * loop's thread must never wait for a thread that may be in here. This is how vCPU threads reach device
 * state, which belongs to the sidecar (reset, start).
 */
void loop_call(struct loop *loop, void (*fn)(void *arg), void *arg);

/* loop_watch - watch @fd for @events (an active watch is changed). 0, -ENOMEM or -ENOSPC. */
int loop_watch(struct loop *loop, struct loop_watch *watch, int fd, uint32_t events);
/*
 * loop_unwatch - stop watching; after it returns, neither @watch nor the descriptor is referenced by the
 * loop or the kernel: both may be freed, closed and made anew. Does nothing when not active.
 */
void loop_unwatch(struct loop_watch *watch);

/* loop_defer - run the task at the end of this turn (of the next, from within a task), once. */
void loop_defer(struct loop *loop, struct loop_task *task);
/* loop_forget - take a deferred task back. Does nothing when it is not queued. */
void loop_forget(struct loop *loop, struct loop_task *task);

/* loop_arm - (re)arm a timer @ns nanoseconds from now. Always 0. */
int loop_arm(struct loop *loop, struct loop_timer *timer, uint64_t ns);
/* loop_disarm - stop the timer; after it returns, @timer is no longer referenced by the loop. */
void loop_disarm(struct loop_timer *timer);

/**
 * loop_sqe - a free submission entry for an operation of the caller's own (block I/O).
 *
 * The caller prepares it (io_uring_prep_*) and leaves its user_data alone; @op is completed through
 * op->done. It must be an operation that ends by itself, because loop_run() waits for it. Entries are
 * submitted together at the end of the turn. Returns NULL when the ring cannot take more now, or the loop is
 * lent (try next turn: loop_defer()), and while the loop does not run or is about to return.
 */
struct io_uring_sqe *loop_sqe(struct loop *loop, struct loop_op *op);

/**
 * loop_settle - wait until operations of loop_sqe() have ended, in the middle of a turn.
 * @pending: how many there are; their done() counts it down
 *
 * For an owner who must not go on while the kernel works on its memory. Nothing but operations completes
 * meanwhile, and none can be started: no watch, timer or task runs, so that the caller is not re-entered.
 */
void loop_settle(struct loop *loop, const unsigned *pending);

/* loop_poll_start, loop_poll_stop - poll from the next turn on, or no longer. Twice is fine. */
void loop_poll_start(struct loop *loop, struct loop_poll *poll);
void loop_poll_stop(struct loop *loop, struct loop_poll *poll);

/* loop_counters - how often the loop went round; the loop's thread keeps them up to date. */
const struct loop_counters *loop_counters(const struct loop *loop);
/* loop_turns - loop_counters()->turns */
uint64_t loop_turns(const struct loop *loop);

/* loop_now - CLOCK_MONOTONIC in nanoseconds. Any thread. */
uint64_t loop_now(void);

#endif
