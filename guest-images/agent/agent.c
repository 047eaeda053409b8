/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest agent: runs commands for host programs and shuts the guest down (agent_protocol.h).
 *
 * Theory of operation
 *
 * One process, one thread, one poll loop, nothing in it blocks. It waits for:
 *
 * - the port. `port` is -1 while there is none; then a kernel event about devices makes the agent
 * look for it again. With the port open, `connected` says whether the host is: while it is not,
 * poll() would report POLLHUP for ever, so the port is left out of the poll and the driver is asked
 * for SIGIO, which it raises when that changes. A connection starts with an empty reader, an empty
 * ring, no commands, and HELLO.
 * - the commands: up to AGENT_CHANNELS_MAX of struct command, three descriptors each (command.c).
 * - signals: SIGCHLD (reap), SIGIO (above), SIGTERM (the guest shuts down: kill all, exit).
 * - power buttons: input devices with KEY_POWER; a press powers the guest off.
 *
 * Frames to the host wait in one ring. Every frame from the host produces at most
 * COMMAND_CONTROL_ROOM bytes of answers, and is taken from the input buffer only when the ring has
 * that much room; the port is read only when the input buffer is empty. So a host that does not
 * read stops the agent from reading, and no answer is ever lost. The ring is written out first
 * thing after the poll, and only there: whatever had to wait for room implies bytes in the ring, so
 * that the poll waits for POLLOUT and what had to wait is tried again right after the write.
 *
 * A protocol error ends the connection: the port is closed, which discards what the driver has
 * queued, and opened again.
 *
 * Shutting down is the work of process 1, which is asked by the signals that busybox's init also
 * understands: SIGUSR2 to power off, SIGTERM to reboot.
 */
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent_frames.h"
#include "agent_protocol.h"
#include "command.h"

#define PORTS_DIR     "/sys/class/virtio-ports"
#define INPUT_DIR     "/dev/input"
#define DEFAULT_PATH  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define BUTTONS_MAX   4	   /* power buttons watched; a machine has one or two */
#define ARGUMENTS_MAX 1024 /* strings in one EXEC */
#define OUT_SIZE      (4 * AGENT_FRAME_MAX)

enum poll_index {
	POLL_PORT,
	POLL_SIGNALS,
	POLL_EVENTS,
	POLL_BUTTONS,
	POLL_COMMANDS = POLL_BUTTONS + BUTTONS_MAX,
	POLL_COUNT = POLL_COMMANDS + COMMAND_POLLS * AGENT_CHANNELS_MAX,
};

struct agent {
	int port;		  /* -1: no port */
	bool connected;		  /* the host has the port open */
	int signals;		  /* signalfd */
	int events;		  /* netlink socket with the kernel's device events, or -1 */
	int buttons[BUTTONS_MAX]; /* -1: none */
	struct agent_reader reader;
	struct agent_ring out;	 /* frames to the host */
	size_t in_start, in_end; /* bytes of in_data that are not yet taken */
	struct command commands[AGENT_CHANNELS_MAX];
	struct pollfd polls[POLL_COUNT];
	uint8_t in_data[AGENT_PAYLOAD_MAX];
	uint8_t out_data[OUT_SIZE];
	uint8_t scratch[AGENT_PAYLOAD_MAX];
};

static void error_send(struct agent *agent, uint16_t channel, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void error_send(struct agent *agent, uint16_t channel, const char *format, ...)
{
	char text[AGENT_ERROR_MAX + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	agent_frame_put(&agent->out, channel, AGENT_ERROR, text, strlen(text));
}

static struct command *command_of_channel(struct agent *agent, uint16_t channel)
{
	for (int i = 0; i < AGENT_CHANNELS_MAX; i++) {
		if (agent->commands[i].channel == channel)
			return &agent->commands[i];
	}
	return NULL;
}

static void commands_kill(struct agent *agent)
{
	for (int i = 0; i < AGENT_CHANNELS_MAX; i++) {
		if (agent->commands[i].channel)
			command_kill(&agent->commands[i]);
	}
}

/* Ends a channel whose host program has broken a window. */
static void channel_break(struct agent *agent, struct command *command, const char *why)
{
	uint16_t channel = command->channel;

	command_kill(command);
	error_send(agent, channel, "channel closed: %s", why);
	agent_frame_put(&agent->out, channel, AGENT_CLOSE, NULL, 0);
}

/* Points argv at the strings of an EXEC. Returns their number, or 0 if the payload is malformed. */
static int arguments_split(const struct agent_view *frame, char *argv[ARGUMENTS_MAX + 1])
{
	char *at = (char *)frame->payload;
	char *end = at + frame->length;
	int count = 0;

	if (at == end || end[-1] != '\0' || *at == '\0')
		return 0;
	for (; at < end; at += strlen(at) + 1) {
		if (count == ARGUMENTS_MAX)
			return 0;
		argv[count++] = at;
	}
	argv[count] = NULL;
	return count;
}

static void exec_fail(struct agent *agent, uint16_t channel, uint32_t status)
{
	agent_frame_put_u32(&agent->out, channel, AGENT_EXIT, status);
}

static void exec_handle(struct agent *agent, const struct agent_view *frame)
{
	char *argv[ARGUMENTS_MAX + 1];
	struct command *command;
	int result;

	if (frame->channel == 0 || command_of_channel(agent, frame->channel)) {
		error_send(agent, frame->channel, "EXEC on channel %u, which is not free",
			   (unsigned int)frame->channel);
		return;
	}
	if (arguments_split(frame, argv) == 0) {
		error_send(agent, frame->channel, "EXEC needs 1 to %d strings, each ended by a NUL",
			   ARGUMENTS_MAX);
		exec_fail(agent, frame->channel, AGENT_EXIT_NOT_STARTED);
		return;
	}
	command = command_of_channel(agent, 0);
	result = command ? command_start(command, frame->channel, argv) : -EAGAIN;
	if (result == 0)
		return;
	error_send(agent, frame->channel, "cannot start %.100s: %s", argv[0], strerror(-result));
	exec_fail(agent, frame->channel,
		  result == -ENOENT ? AGENT_EXIT_NOT_FOUND : AGENT_EXIT_NOT_STARTED);
}

static void stdin_handle(struct agent *agent, const struct agent_view *frame)
{
	struct command *command = command_of_channel(agent, frame->channel);

	if (frame->channel == 0 || !command)
		return;
	if (frame->length == 0)
		command_input_end(command);
	else if (command_input(command, frame->payload, frame->length) < 0)
		channel_break(agent, command, "more STDIN than its window, or after its end");
}

static void window_handle(struct agent *agent, const struct agent_view *frame)
{
	struct command *command = command_of_channel(agent, frame->channel);

	if (frame->channel == 0 || !command)
		return;
	if (command_credit(command, agent_view_u32(frame)) < 0)
		channel_break(agent, command, "WINDOW gives back more than was outstanding");
}

static void close_handle(struct agent *agent, const struct agent_view *frame)
{
	struct command *command = command_of_channel(agent, frame->channel);

	if (frame->channel != 0 && command)
		command_kill(command);
}

static void ping_handle(struct agent *agent, const struct agent_view *frame)
{
	agent_frame_put(&agent->out, frame->channel, AGENT_PONG, frame->payload, frame->length);
}

static void shutdown_handle(struct agent *agent, const struct agent_view *frame)
{
	switch (frame->payload[0]) {
	case AGENT_POWER_OFF:
		kill(1, SIGUSR2);
		break;
	case AGENT_REBOOT:
		kill(1, SIGTERM);
		break;
	default:
		error_send(agent, frame->channel, "SHUTDOWN knows 0 (power off) and 1 (reboot)");
	}
}

/* The frames that a host may send; the reader lets no others through. */
static void (*const frame_handlers[AGENT_TYPES])(struct agent *, const struct agent_view *) = {
    [AGENT_EXEC] = exec_handle, [AGENT_STDIN] = stdin_handle, [AGENT_SHUTDOWN] = shutdown_handle,
    [AGENT_PING] = ping_handle, [AGENT_CLOSE] = close_handle, [AGENT_WINDOW_ADD] = window_handle,
};

/* Forgets the host and greets it anew; the greeting waits in the ring until the port takes it. */
static void connection_reset(struct agent *agent)
{
	struct {
		struct agent_hello hello;
		char hostname[AGENT_HOSTNAME_MAX + 1];
	} greeting = {.hello = {.version = htole32(AGENT_VERSION)}};

	commands_kill(agent);
	agent_reader_init(&agent->reader, AGENT_FROM_HOST);
	agent_ring_init(&agent->out, agent->out_data, sizeof(agent->out_data));
	agent->in_start = 0;
	agent->in_end = 0;
	if (gethostname(greeting.hostname, AGENT_HOSTNAME_MAX) < 0)
		greeting.hostname[0] = '\0';
	agent_frame_put(&agent->out, 0, AGENT_HELLO, &greeting,
			sizeof(greeting.hello) + strlen(greeting.hostname));
}

/* Asks for SIGIO while the host is away, and sees whether it is. */
static void connection_check(struct agent *agent)
{
	struct pollfd poll_port = {.fd = agent->port, .events = POLLIN | POLLOUT};

	if (agent->port < 0)
		return;
	fcntl(agent->port, F_SETFL, O_RDWR | O_NONBLOCK | O_ASYNC);
	agent->connected = poll(&poll_port, 1, 0) >= 0 && !(poll_port.revents & POLLHUP);
	if (agent->connected)
		fcntl(agent->port, F_SETFL, O_RDWR | O_NONBLOCK);
}

/* Reads a small file of sysfs and compares its first line. */
static bool file_says(const char *path, const char *line)
{
	char text[64];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return false;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[length > 0 ? length : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return strcmp(text, line) == 0;
}

/* Finds the device of the agent's port. Returns whether there is one. */
static bool port_find(char *device, size_t size)
{
	DIR *directory = opendir(PORTS_DIR);
	struct dirent *entry;
	bool found = false;

	while (!found && directory && (entry = readdir(directory))) {
		snprintf(device, size, PORTS_DIR "/%s/name", entry->d_name);
		found = file_says(device, AGENT_PORT_NAME);
		if (found)
			snprintf(device, size, "/dev/%s", entry->d_name);
	}
	if (directory)
		closedir(directory);
	return found;
}

static void port_open(struct agent *agent)
{
	char device[320];

	if (agent->port >= 0 || !port_find(device, sizeof(device)))
		return;
	agent->port = open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (agent->port < 0)
		return;
	fcntl(agent->port, F_SETOWN, getpid());
	connection_reset(agent);
	connection_check(agent);
}

static void port_close(struct agent *agent)
{
	close(agent->port);
	agent->port = -1;
	agent->connected = false;
	connection_reset(agent);
}

/* Hands on the frames in the input buffer, while there is room for what they may cause. */
static int frames_handle(struct agent *agent)
{
	struct agent_view frame;
	bool complete;

	while (agent->in_start < agent->in_end &&
	       agent_ring_room(&agent->out) >= COMMAND_CONTROL_ROOM) {
		ssize_t taken =
		    agent_reader_feed(&agent->reader, agent->in_data + agent->in_start,
				      agent->in_end - agent->in_start, &frame, &complete);

		if (taken < 0)
			return (int)taken;
		agent->in_start += (size_t)taken;
		if (complete)
			frame_handlers[frame.type](agent, &frame);
	}
	return 0;
}

/* Reads the port. Returns 0, -ENOTCONN if the host has gone, or another -errno. */
static int port_read(struct agent *agent)
{
	ssize_t length = read(agent->port, agent->in_data, sizeof(agent->in_data));

	if (length == 0)
		return -ENOTCONN;
	if (length < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	agent->in_start = 0;
	agent->in_end = (size_t)length;
	return 0;
}

/* Writes what the port takes of the ring. That the host has gone is for the next poll to say. */
static void port_write(struct agent *agent)
{
	struct iovec iov[2];

	while (agent_ring_peek(&agent->out, iov) > 0) {
		ssize_t written = write(agent->port, iov[0].iov_base, iov[0].iov_len);

		if (written <= 0)
			return;
		agent_ring_drop(&agent->out, (size_t)written);
	}
}

/* One visit to the port: read, handle, and give up the connection if it has ended. */
static void port_serve(struct agent *agent, short revents)
{
	int result = 0;

	if (revents & POLLIN)
		result = port_read(agent);
	else if (revents & (POLLHUP | POLLERR))
		result = -ENOTCONN;
	if (result == 0)
		result = frames_handle(agent);
	if (result == -ENOTCONN) {
		connection_reset(agent);
		connection_check(agent);
	} else if (result < 0) {
		fprintf(stderr, "weft-agent: port closed and opened again: %s\n",
			strerror(-result));
		port_close(agent);
		port_open(agent);
	}
}

static void children_reap(struct agent *agent)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < AGENT_CHANNELS_MAX; i++) {
			struct command *command = &agent->commands[i];

			if (command->channel && command->pid == pid && !command->exited)
				command_exited(command, status);
		}
	}
}

static void signals_serve(struct agent *agent)
{
	struct signalfd_siginfo signal;

	while (read(agent->signals, &signal, sizeof(signal)) == sizeof(signal)) {
		if (signal.ssi_signo == SIGCHLD)
			children_reap(agent);
		if (signal.ssi_signo == SIGIO && !agent->connected)
			connection_check(agent);
		if (signal.ssi_signo == SIGTERM) {
			commands_kill(agent);
			exit(EXIT_SUCCESS);
		}
	}
}

/* Something about the kernel's devices has changed: perhaps the port is there now, or has gone. */
static void events_serve(struct agent *agent)
{
	while (recv(agent->events, agent->scratch, sizeof(agent->scratch), 0) > 0)
		;
	if (agent->port >= 0 && !agent->connected)
		port_close(agent);
	port_open(agent);
}

static void button_serve(int *button)
{
	struct input_event event;
	ssize_t length;

	while ((length = read(*button, &event, sizeof(event))) == sizeof(event)) {
		if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
			kill(1, SIGUSR2);
	}
	if (length < 0 && errno == EAGAIN)
		return;
	close(*button);
	*button = -1;
}

static bool button_has_power(int fd)
{
	unsigned char keys[KEY_POWER / 8 + 1] = {0};

	return ioctl(fd, EVIOCGBIT(EV_KEY, sizeof(keys)), keys) >= 0 &&
	       (keys[KEY_POWER / 8] & (1u << KEY_POWER % 8));
}

static void buttons_open(struct agent *agent)
{
	DIR *directory = opendir(INPUT_DIR);
	struct dirent *entry;
	int count = 0;

	memset(agent->buttons, -1, sizeof(agent->buttons));
	while (directory && count < BUTTONS_MAX && (entry = readdir(directory))) {
		int fd;

		if (strncmp(entry->d_name, "event", 5) != 0)
			continue;
		fd = openat(dirfd(directory), entry->d_name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0 && button_has_power(fd))
			agent->buttons[count++] = fd;
		else if (fd >= 0)
			close(fd);
	}
	if (directory)
		closedir(directory);
}

static int events_open(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int fd =
	    socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int signals_open(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGIO);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void polls_fill(struct agent *agent)
{
	struct pollfd *polls = agent->polls;
	short events = 0;

	if (agent->in_start == agent->in_end)
		events |= POLLIN;
	if (agent->out.used > 0)
		events |= POLLOUT;
	polls[POLL_PORT] =
	    (struct pollfd){.fd = agent->connected ? agent->port : -1, .events = events};
	polls[POLL_SIGNALS] = (struct pollfd){.fd = agent->signals, .events = POLLIN};
	polls[POLL_EVENTS] = (struct pollfd){.fd = agent->events, .events = POLLIN};
	for (int i = 0; i < BUTTONS_MAX; i++)
		polls[POLL_BUTTONS + i] =
		    (struct pollfd){.fd = agent->buttons[i], .events = POLLIN};
	polls += POLL_COMMANDS;
	for (int i = 0; i < AGENT_CHANNELS_MAX; i++, polls += COMMAND_POLLS) {
		if (agent->commands[i].channel)
			command_poll(&agent->commands[i], &agent->out, polls);
		else
			for (int j = 0; j < COMMAND_POLLS; j++)
				polls[j].fd = -1;
	}
}

static void polls_serve(struct agent *agent)
{
	struct pollfd *polls = agent->polls;

	if (polls[POLL_PORT].revents & POLLOUT)
		port_write(agent);
	/* Before the commands: nothing else may wake us for what the host tells them, such as the input's end. */
	if (agent->connected)
		port_serve(agent, polls[POLL_PORT].revents);
	if (polls[POLL_SIGNALS].revents)
		signals_serve(agent);
	for (int i = 0; i < BUTTONS_MAX; i++) {
		if (polls[POLL_BUTTONS + i].revents)
			button_serve(&agent->buttons[i]);
	}
	for (int i = 0; i < AGENT_CHANNELS_MAX; i++) {
		if (agent->commands[i].channel)
			command_pump(&agent->commands[i], &agent->out,
				     &polls[POLL_COMMANDS + COMMAND_POLLS * i], agent->scratch);
	}
	if (polls[POLL_EVENTS].revents)
		events_serve(agent);
}

int main(void)
{
	static struct agent agent; /* too large for the stack */

	setenv("PATH", DEFAULT_PATH, 0);
	agent.port = -1;
	agent.signals = signals_open();
	agent.events = events_open();
	if (agent.signals < 0) {
		perror("weft-agent: signalfd");
		return EXIT_FAILURE;
	}
	buttons_open(&agent);
	port_open(&agent);
	for (;;) {
		polls_fill(&agent);
		if (poll(agent.polls, POLL_COUNT, -1) > 0)
			polls_serve(&agent);
	}
}
