/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A command goes through three states: free (channel 0), running, exited. It becomes running in
 * command_start(), exited when the agent has reaped its process, and free when EXIT has been queued
 * or the channel has been closed.
 *
 * Input: STDIN payloads wait in a ring as large as the window, so that a host within its window
 * never overflows it. What the pipe takes, or would have taken were it not closed, is owed to the
 * host and given back in WINDOW frames of at least a quarter of the window.
 *
 * Output: a pipe is read only while the host has given credit and the ring to the host has room
 * beyond COMMAND_CONTROL_ROOM; otherwise the bytes stay in the pipe and the command blocks. When
 * the process has ended, the bytes in its pipes at that moment are counted: those are sent, then
 * EXIT. So a process that it left behind, and that still holds the pipes, delays nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"

#define GIVE_BACK_AT (AGENT_WINDOW / 4) /* bytes owed that are worth a WINDOW frame */

extern char **environ;

static void fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void pipes_close(int pipes[3][2])
{
	for (int i = 0; i < 3; i++) {
		fd_close(&pipes[i][0]);
		fd_close(&pipes[i][1]);
	}
}

/* Opens the pipes of standard input, output and error: element 0 of each is where it is read. */
static int pipes_open(int pipes[3][2])
{
	for (int i = 0; i < 3; i++) {
		if (pipe2(pipes[i], O_CLOEXEC) < 0)
			return -errno;
	}
	fcntl(pipes[0][1], F_SETFL, O_NONBLOCK);
	fcntl(pipes[1][0], F_SETFL, O_NONBLOCK);
	fcntl(pipes[2][0], F_SETFL, O_NONBLOCK);
	return 0;
}

/* Starts the program with its ends of the pipes and the signal state that programs expect. */
static int program_spawn(pid_t *pid, char *const argv[], int pipes[3][2])
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t ignored, none;
	int error;

	sigemptyset(&ignored);
	sigaddset(&ignored, SIGPIPE);
	sigemptyset(&none);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &ignored);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						  POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	error = posix_spawn_file_actions_adddup2(&actions, pipes[0][0], STDIN_FILENO);
	if (error == 0)
		error = posix_spawn_file_actions_adddup2(&actions, pipes[1][1], STDOUT_FILENO);
	if (error == 0)
		error = posix_spawn_file_actions_adddup2(&actions, pipes[2][1], STDERR_FILENO);
	if (error == 0)
		error = posix_spawnp(pid, argv[0], &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -error;
}

int command_start(struct command *command, uint16_t channel, char *const argv[])
{
	int pipes[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
	uint8_t *input;
	pid_t pid;
	int result;

	input = malloc(AGENT_WINDOW);
	if (!input)
		return -ENOMEM;
	result = pipes_open(pipes);
	if (result < 0)
		goto close_pipes;
	result = program_spawn(&pid, argv, pipes);
	if (result < 0)
		goto close_pipes;
	*command = (struct command){
	    .channel = channel,
	    .pid = pid,
	    .input_fd = pipes[0][1],
	    .credit = AGENT_WINDOW,
	    .outputs = {{pipes[1][0], AGENT_STDOUT, 0}, {pipes[2][0], AGENT_STDERR, 0}},
	};
	agent_ring_init(&command->input, input, AGENT_WINDOW);
	pipes[0][1] = -1;
	pipes[1][0] = -1;
	pipes[2][0] = -1;
	pipes_close(pipes);
	return 0;

close_pipes:
	pipes_close(pipes);
	free(input);
	return result;
}

static void command_free(struct command *command)
{
	fd_close(&command->input_fd);
	fd_close(&command->outputs[0].fd);
	fd_close(&command->outputs[1].fd);
	free(command->input.data);
	command->channel = 0;
}

/* Accounts for input bytes that the command has taken or will never take. */
static void input_consumed(struct command *command, size_t length)
{
	agent_ring_drop(&command->input, length);
	command->owed += (uint32_t)length;
}

int command_input(struct command *command, const void *data, size_t length)
{
	if (command->owed + length > agent_ring_room(&command->input) || command->input_ended)
		return -ENOBUFS;
	agent_ring_put(&command->input, data, length);
	if (command->input_fd < 0)
		input_consumed(command, length);
	return 0;
}

void command_input_end(struct command *command)
{
	command->input_ended = true;
}

int command_credit(struct command *command, uint32_t bytes)
{
	if (bytes > AGENT_WINDOW - command->credit)
		return -ERANGE;
	command->credit += bytes;
	return 0;
}

void command_exited(struct command *command, int wait_status)
{
	command->exited = true;
	command->status = WIFSIGNALED(wait_status) ? AGENT_EXIT_SIGNAL + WTERMSIG(wait_status)
						   : WEXITSTATUS(wait_status);
	for (int i = 0; i < 2; i++) {
		struct command_output *output = &command->outputs[i];

		if (output->fd < 0 || ioctl(output->fd, FIONREAD, &output->left) < 0)
			output->left = 0;
	}
}

void command_kill(struct command *command)
{
	if (!command->exited)
		kill(-command->pid, SIGKILL);
	command_free(command);
}

/* Returns how many bytes of @output may be read and sent now. */
static size_t output_allowed(const struct command *command, const struct command_output *output,
			     const struct agent_ring *out)
{
	size_t reserved = COMMAND_CONTROL_ROOM + sizeof(struct agent_frame);
	size_t room = agent_ring_room(out);
	size_t allowed = AGENT_PAYLOAD_MAX;

	if (output->fd < 0 || room <= reserved)
		return 0;
	if (allowed > room - reserved)
		allowed = room - reserved;
	if (allowed > command->credit)
		allowed = command->credit;
	if (command->exited && allowed > (size_t)output->left)
		allowed = (size_t)output->left;
	return allowed;
}

void command_poll(const struct command *command, const struct agent_ring *out,
		  struct pollfd polls[COMMAND_POLLS])
{
	bool pending = command->input.used > 0;

	polls[0] = (struct pollfd){.fd = pending ? command->input_fd : -1, .events = POLLOUT};
	for (int i = 0; i < 2; i++) {
		const struct command_output *output = &command->outputs[i];
		bool wanted = output_allowed(command, output, out) > 0;

		polls[1 + i] = (struct pollfd){.fd = wanted ? output->fd : -1, .events = POLLIN};
	}
}

static void input_pump(struct command *command)
{
	struct iovec iov[2];
	int pieces = agent_ring_peek(&command->input, iov);
	ssize_t written = 0;

	if (command->input_fd >= 0 && pieces > 0)
		written = writev(command->input_fd, iov, pieces);
	if (written > 0)
		input_consumed(command, (size_t)written);
	if (written < 0 && errno != EAGAIN) {
		fd_close(&command->input_fd);
		input_consumed(command, command->input.used);
	}
	if (command->input_ended && command->input.used == 0)
		fd_close(&command->input_fd);
}

static void output_pump(struct command *command, struct command_output *output,
			struct agent_ring *out, uint8_t *scratch)
{
	size_t allowed = output_allowed(command, output, out);
	ssize_t length;

	if (allowed == 0)
		return;
	length = read(output->fd, scratch, allowed);
	if (length < 0 && errno == EAGAIN && !command->exited)
		return;
	if (length <= 0) {
		fd_close(&output->fd);
		output->left = 0;
		return;
	}
	agent_frame_put(out, command->channel, output->type, scratch, (size_t)length);
	command->credit -= (uint32_t)length;
	if (command->exited)
		output->left -= (int)length;
}

/* Queues the short frames that are due, as far as there is room for them. */
static void control_pump(struct command *command, struct agent_ring *out)
{
	if (command->owed >= GIVE_BACK_AT &&
	    agent_frame_put_u32(out, command->channel, AGENT_WINDOW_ADD, command->owed) == 0)
		command->owed = 0;
	if (!command->exited || command->outputs[0].left > 0 || command->outputs[1].left > 0)
		return;
	if (agent_frame_put_u32(out, command->channel, AGENT_EXIT, (uint32_t)command->status) == 0)
		command_free(command);
}

void command_pump(struct command *command, struct agent_ring *out,
		  const struct pollfd polls[COMMAND_POLLS], uint8_t *scratch)
{
	if (polls[0].revents || command->input_ended)
		input_pump(command);
	for (int i = 0; i < 2; i++) {
		if (polls[1 + i].revents || command->exited)
			output_pump(command, &command->outputs[i], out, scratch);
	}
	control_pump(command, out);
}
