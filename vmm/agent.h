/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's end of the guest agent (guest-images/agent/agent_protocol.h): a Unix socket on which many
 * host programs share the one console port that the agent has. All functions but agent_up() belong to
 * the sidecar, or to whoever sets up and takes down while it does not run.
 */
#ifndef WEFT_AGENT_H
#define WEFT_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct agent;
struct console_backend;
struct loop;
struct virtio_device;

/* What happened so far. Read it on the sidecar (loop_call()). */
struct agent_counters {
	uint64_t clients;       /* connections accepted */
	uint64_t refused;       /* connections turned away: no agent in the guest, or too many at once */
	uint64_t client_errors; /* connections closed because the client broke the protocol */
	uint64_t overruns;      /* connections closed because the client did not read */
	uint64_t guest_errors;  /* times the guest broke the protocol and its port was closed */
};

/**
 * agent_create - listen on a Unix socket for programs that want to talk to the guest's agent.
 * @loop: the sidecar's
 * @path: of the socket, mode 0600; what a dead process left behind there is replaced. Lives as long
 *	as the agent does.
 * @err, @errlen: on failure a sentence that names the path and the remedy
 *
 * Returns NULL on failure. Connections are turned away until agent_attach() and the agent's HELLO.
 */
struct agent *agent_create(struct loop *loop, const char *path, char *err, size_t errlen);
/* agent_destroy - close all connections and remove the socket. NULL is fine. */
void agent_destroy(struct agent *agent);

/* agent_backend - what to give to virtio_console_create() for the port AGENT_PORT_NAME. */
struct console_backend *agent_backend(struct agent *agent);
/* agent_attach - tell which console port has the backend, and connect the port's host end. */
void agent_attach(struct agent *agent, struct virtio_device *console, unsigned port);

/* agent_up - whether the agent in the guest has said HELLO and is still there. Any thread. */
bool agent_up(const struct agent *agent);
/* agent_counters - a copy of the counters. */
void agent_counters(const struct agent *agent, struct agent_counters *counters);

#endif
