/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The serial console's host end
 *
 * Theory of operation: a vCPU that writes a character puts it into a ring and wakes the control thread; the
 * control thread writes the ring out in pieces. So a terminal or a client that does not read never stops a
 * vCPU: when the ring is full, further output is dropped and counted. Input goes the other way without a
 * ring: bytes that the serial port's FIFO has no room for stay in `held`, and reading stops until the port says that
 * there is room. On a terminal, the escape key begins a command; it must work though the guest reads nothing, so
 * a terminal is always read, and what `held` has no room for is lost.
 *
 * Threads: `ring` is shared under `lock`; everything else belongs to the control thread.
 */
#include "vmm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "devices/serial.h"
#include "vnet/message.h"
#include "vmm/vm.h"
#include "vnet/loop.h"
#include "vnet/unix_socket.h"

#define RING_SIZE      65536u
#define PIECE_SIZE     4096u /* at most PIPE_BUF, so that a writable pipe takes it whole */
#define INPUT_SIZE     4096u
#define FINAL_WAIT_MS  500   /* for the last output, when the VM ends */

struct console {
	struct vm *vm;
	int in_fd, out_fd;  /* -1: nothing there now */
	int listen_fd;      /* -1: no socket */
	int log_fd;         /* -1: no log */
	int wake_fd;        /* output waits, or the serial port has room */
	struct loop_watch input, output, listener, wake;
	struct loop_timer accept_retry;
	bool terminal;      /* raw mode is on; saved is to be restored */
	struct termios saved;
	bool escaped;       /* the escape key was the last key */
	uint8_t held[INPUT_SIZE];
	size_t held_start, held_count;

	pthread_mutex_t lock; /* protects what follows */
	uint8_t ring[RING_SIZE];
	uint32_t head, tail; /* free-running; head - tail bytes wait */
	uint64_t dropped;
	bool waked;
};

static void wake(struct console *c)
{
	eventfd_write(c->wake_fd, 1);
}

void console_transmit(struct console *c, uint8_t byte)
{
	bool first = false;

	pthread_mutex_lock(&c->lock);
	if (c->head - c->tail == RING_SIZE) {
		c->dropped++;
	} else {
		c->ring[c->head++ % RING_SIZE] = byte;
		first = !c->waked;
		c->waked = true;
	}
	pthread_mutex_unlock(&c->lock);
	if (first)
		wake(c);
}

void console_input_ready(struct console *c)
{
	wake(c);
}

uint64_t console_dropped(struct console *c)
{
	uint64_t n;

	pthread_mutex_lock(&c->lock);
	n = c->dropped;
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* --- output --------------------------------------------------------------------------------- */

/* Copy out up to PIECE_SIZE waiting bytes without taking them. */
static size_t ring_peek(struct console *c, uint8_t piece[PIECE_SIZE])
{
	size_t n;

	pthread_mutex_lock(&c->lock);
	n = c->head - c->tail;
	if (n > PIECE_SIZE)
		n = PIECE_SIZE;
	for (size_t i = 0; i < n; i++)
		piece[i] = c->ring[(c->tail + i) % RING_SIZE];
	if (!n)
		c->waked = false;
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void ring_take(struct console *c, size_t n, bool lost)
{
	pthread_mutex_lock(&c->lock);
	c->tail += (uint32_t)n;
	if (lost)
		c->dropped += n;
	pthread_mutex_unlock(&c->lock);
}

static bool writable(int fd, int wait_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, wait_ms) > 0;
}

static void client_close(struct console *c)
{
	loop_unwatch(&c->input);
	loop_unwatch(&c->output);
	close(c->in_fd);
	c->in_fd = c->out_fd = -1;
	c->held_count = 0;
}

/* Write to where the output goes; returns bytes taken, 0: not now, -errno: the reader is gone. */
static ssize_t output_write(struct console *c, const uint8_t *piece, size_t n, int wait_ms)
{
	ssize_t done;

	if (c->out_fd < 0)
		return (ssize_t)n; /* nobody there: gone, as on an unconnected serial line */
	if (!writable(c->out_fd, wait_ms))
		return 0;
	done = write(c->out_fd, piece, n);
	if (done < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return done;
}

/* Write until the ring is empty or the reader is not ready; returns false in the latter case. */
static bool output_flush(struct console *c, int wait_ms)
{
	uint8_t piece[PIECE_SIZE];
	size_t n;

	while ((n = ring_peek(c, piece))) {
		ssize_t done = output_write(c, piece, n, wait_ms);
		bool lost;

		if (done == 0)
			return false;
		if (done < 0 && c->listen_fd >= 0)
			client_close(c);
		if (done < 0)
			done = (ssize_t)n;
		/* A full disk does not stop the guest. */
		lost = c->log_fd >= 0 && write(c->log_fd, piece, (size_t)done) < 0;
		ring_take(c, (size_t)done, lost);
	}
	return true;
}

static void output_drain(struct console *c)
{
	if (output_flush(c, 0))
		loop_unwatch(&c->output);
	else if (!c->output.active)
		loop_watch(c->vm->control, &c->output, c->out_fd, POLLOUT);
}

static void output_ready(struct loop_watch *watch, uint32_t revents)
{
	(void)revents;
	output_drain(watch->context);
}

/* --- input ---------------------------------------------------------------------------------- */

/* Keep what was read behind what waits already; what finds no room is lost. */
static void input_hold(struct console *c, const uint8_t *data, size_t n)
{
	memmove(c->held, c->held + c->held_start, c->held_count);
	c->held_start = 0;
	if (n > sizeof(c->held) - c->held_count)
		n = sizeof(c->held) - c->held_count;
	memcpy(c->held + c->held_count, data, n);
	c->held_count += n;
}

static bool input_give(struct console *c)
{
	size_t n = serial_receive(c->vm->serial, c->held + c->held_start, c->held_count);

	c->held_start += n;
	c->held_count -= n;
	return !c->held_count;
}

/* The key behind the escape key. Returns true when it is to be sent to the guest. */
static bool escape_command(struct console *c, uint8_t key)
{
	if (key == 'x')
		vm_finish(c->vm, VM_END_KILLED);
	else if (key == 'p')
		vm_press_power(c->vm);
	return key == c->vm->config->escape;
}

/* Take the escape sequences out of what was typed. */
static size_t escape_filter(struct console *c, uint8_t *data, size_t n)
{
	uint8_t escape = c->vm->config->escape;
	size_t kept = 0;

	if (!c->terminal || !escape)
		return n;
	for (size_t i = 0; i < n; i++) {
		if (!c->escaped && data[i] == escape) {
			c->escaped = true;
			continue;
		}
		if (!c->escaped || escape_command(c, data[i]))
			data[kept++] = data[i];
		c->escaped = false;
	}
	return kept;
}

static void input_end(struct console *c)
{
	if (c->listen_fd >= 0)
		client_close(c);
	else
		loop_unwatch(&c->input);
}

static void input_ready(struct loop_watch *watch, uint32_t revents)
{
	struct console *c = watch->context;
	uint8_t data[INPUT_SIZE];
	ssize_t n;

	(void)revents;
	if (c->held_count && !c->terminal)
		return;
	n = read(c->in_fd, data, sizeof(data));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		input_end(c);
		return;
	}
	input_hold(c, data, escape_filter(c, data, (size_t)n));
	if (!input_give(c) && !c->terminal)
		loop_unwatch(&c->input); /* until the serial port has room */
}

static void wake_ready(struct loop_watch *watch, uint32_t revents)
{
	struct console *c = watch->context;
	eventfd_t count;

	(void)revents;
	eventfd_read(c->wake_fd, &count);
	output_drain(c);
	if (c->held_count && input_give(c) && c->in_fd >= 0)
		loop_watch(c->vm->control, &c->input, c->in_fd, POLLIN);
}

/* While its input waits for the guest, a client's end is noticed only here. */
static bool client_gone(const struct console *c)
{
	struct pollfd p = {.fd = c->in_fd};

	return poll(&p, 1, 0) > 0;
}

/* One client at a time. */
static void listener_ready(struct loop_watch *watch, uint32_t revents)
{
	static const char busy[] = "weft: another client has this console\r\n";
	struct console *c = watch->context;
	int fd = unix_accept(watch, &c->accept_retry);

	(void)revents;
	if (fd < 0)
		return;
	if (c->in_fd >= 0 && client_gone(c))
		client_close(c);
	if (c->in_fd >= 0) {
		send(fd, busy, sizeof(busy) - 1, MSG_NOSIGNAL);
		close(fd);
		return;
	}
	c->in_fd = c->out_fd = fd;
	loop_watch(c->vm->control, &c->input, fd, POLLIN);
}

/* --- set-up --------------------------------------------------------------------------------- */

/* Raw mode, if stdin is our terminal; a background job must not touch it. */
static void terminal_raw(struct console *c)
{
	struct termios raw;

	if (!isatty(0) || tcgetpgrp(0) != getpgrp() || tcgetattr(0, &c->saved))
		return;
	raw = c->saved;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST; /* our own messages end in \n */
	c->terminal = !tcsetattr(0, TCSANOW, &raw);
}

static int file_open(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		return fail(-errno, "--console: cannot write '%s': %s", path, strerror(errno));
	return fd;
}

static int open_socket(struct console *c, const struct vm_config *config)
{
	int rc;

	c->listen_fd = unix_listen(config->console_path);
	if (c->listen_fd < 0)
		return fail(c->listen_fd, "--console: '%s': %s", config->console_path,
			    unix_listen_remedy(c->listen_fd));
	if (config->console_log) {
		c->log_fd = file_open(config->console_log);
		if (c->log_fd < 0)
			return c->log_fd;
	}
	rc = loop_watch(c->vm->control, &c->listener, c->listen_fd, POLLIN);
	return rc ? fail(rc, "--console: %s", strerror(-rc)) : 0;
}

static int open_ends(struct console *c, const struct vm_config *config)
{
	switch (config->console) {
	case CONSOLE_STDIO:
		/* A closed stdin or stdout is an end without a peer. */
		c->in_fd = fcntl(0, F_GETFD) < 0 ? -1 : 0;
		c->out_fd = fcntl(1, F_GETFD) < 0 ? -1 : 1;
		return 0;
	case CONSOLE_FILE:
		c->out_fd = file_open(config->console_path);
		return c->out_fd < 0 ? c->out_fd : 0;
	case CONSOLE_UNIX:
		return open_socket(c, config);
	default:
		return 0;
	}
}

struct console *console_create(struct vm *vm)
{
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return NULL;
	*c = (struct console){
		.vm = vm, .in_fd = -1, .out_fd = -1, .listen_fd = -1, .log_fd = -1, .wake_fd = -1};
	pthread_mutex_init(&c->lock, NULL);
	c->input = (struct loop_watch){.ready = input_ready, .context = c};
	c->output = (struct loop_watch){.ready = output_ready, .context = c};
	c->listener = (struct loop_watch){.ready = listener_ready, .context = c};
	c->wake = (struct loop_watch){.ready = wake_ready, .context = c};
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = c->wake_fd < 0 ? -errno : loop_watch(vm->control, &c->wake, c->wake_fd, POLLIN);
	if (rc)
		fail(rc, "--console: %s", strerror(-rc));
	else
		rc = open_ends(c, vm->config);
	if (!rc)
		return c;
	console_destroy(c);
	errno = -rc;
	return NULL;
}

void console_start(struct console *c)
{
	if (c->in_fd < 0)
		return;
	terminal_raw(c);
	loop_watch(c->vm->control, &c->input, c->in_fd, POLLIN);
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	output_flush(c, FINAL_WAIT_MS);
	loop_unwatch(&c->input);
	loop_unwatch(&c->output);
	loop_unwatch(&c->wake);
	loop_unwatch(&c->listener);
	loop_disarm(&c->accept_retry);
	if (c->terminal)
		tcsetattr(0, TCSADRAIN, &c->saved);
	if (c->out_fd > 2)
		close(c->out_fd);
	if (c->listen_fd >= 0) {
		close(c->listen_fd);
		unlink(c->vm->config->console_path);
	}
	if (c->log_fd >= 0)
		close(c->log_fd);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
