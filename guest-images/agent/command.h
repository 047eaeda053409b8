/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One command that the agent runs for a channel: its processes, its pipes and its two windows. */
#ifndef WEFT_AGENT_COMMAND_H
#define WEFT_AGENT_COMMAND_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent_frames.h"

/* Bytes kept free in the ring to the host for short frames; output leaves them alone. */
#define COMMAND_CONTROL_ROOM 1024

/* Descriptors of a command that are polled: standard input, standard output, standard error. */
#define COMMAND_POLLS 3

/* Standard output or standard error. */
struct command_output {
	int fd;	       /* our end of the pipe, or -1 */
	uint16_t type; /* AGENT_STDOUT or AGENT_STDERR */
	int left;      /* once the command has exited: bytes still to be sent */
};

struct command {
	uint16_t channel;	 /* 0: this structure is free */
	pid_t pid;		 /* also the process group and the session */
	bool exited;		 /* the process has been reaped, status is valid */
	int status;		 /* what EXIT will say */
	int input_fd;		 /* our end of the standard input pipe, or -1 */
	bool input_ended;	 /* the host has sent all it wants to */
	struct agent_ring input; /* STDIN bytes that the pipe has not taken; AGENT_WINDOW bytes */
	uint32_t owed;		 /* STDIN bytes consumed and not yet given back to the host */
	uint32_t credit;	 /* bytes of output that the host will take */
	struct command_output outputs[2];
};

/*
 * Starts a program with its own session, process group and three pipes.
 *
 * @command: a free structure; in use after success
 * @channel: where its frames go, not 0
 * @argv: what to run; searched in PATH
 *
 * Returns 0, or -errno: -ENOENT if there is no such program.
 */
int command_start(struct command *command, uint16_t channel, char *const argv[]);

/*
 * Queues standard input. Bytes for an input that is closed already count as consumed.
 * Returns 0, or -ENOBUFS if the host has sent more than its window, or after the end of its input.
 */
int command_input(struct command *command, const void *data, size_t length);

/* Notes that no more standard input will come. */
void command_input_end(struct command *command);

/* Gives the command @bytes to send. Returns 0, or -ERANGE if that is more than was outstanding. */
int command_credit(struct command *command, uint32_t bytes);

/* Notes that the process has ended with @wait_status, as waitpid() gives it. */
void command_exited(struct command *command, int wait_status);

/* Kills the process group and frees the structure. The process is left to be reaped. */
void command_kill(struct command *command);

/* Fills in what to wait for, given how much room @out has; descriptors not waited for are -1. */
void command_poll(const struct command *command, const struct agent_ring *out,
		  struct pollfd polls[COMMAND_POLLS]);

/*
 * Moves what can be moved without blocking: input to the pipe, output to @out, then WINDOW and
 * EXIT. Frees the structure after EXIT.
 *
 * @scratch: AGENT_PAYLOAD_MAX bytes
 */
void command_pump(struct command *command, struct agent_ring *out,
		  const struct pollfd polls[COMMAND_POLLS], uint8_t *scratch);

#endif
