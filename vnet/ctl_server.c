/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket
 *
 * Theory of operation: a client sends a line, a JSON object with a member "command", and gets a
 * line back. One request is answered before the next one is read, and while an answer waits to be
 * read by the client nothing more is taken from it, so that each client costs at most one line and
 * one answer. A line that is too long, or is not JSON, is answered with an error; the former also
 * ends the connection. The commands are one table; a member that a command does not know is an
 * error, so a misspelt option never passes for its default.
 *
 * A request may bring one descriptor along (SCM_RIGHTS, unix(7)): the file that it names, opened by
 * the client, since the sandbox of this process may not open any. The last one that came counts,
 * and is closed after the request.
 *
 * Everything runs on the thread of the loop it was made with.
 */
#include "vnet/ctl_server.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vnet/json.h"
#include "vnet/loop.h"
#include "vnet/unix_socket.h"

#define CTL_CLIENTS_MAX 128
#define CTL_LINE_MAX	65536u /* bytes of a request, newline included */
#define CTL_JSON_DEPTH	8

struct ctl_client {
	struct ctl_server *server;
	int fd;
	int file; /* that came with what is being read, or -1 */
	struct loop_watch watch;
	size_t used; /* bytes of a request so far */
	char *reply; /* what is not yet written of an answer, or NULL */
	size_t reply_start, reply_size;
	bool closing; /* after the reply */
	char line[CTL_LINE_MAX];
};

struct ctl_server {
	struct loop *loop;
	const struct ctl_command *commands;
	void *context;
	int fd;
	char *path;
	struct loop_watch listener;
	struct loop_timer accept_retry;
	struct ctl_client *clients[CTL_CLIENTS_MAX];
};

/* --- commands ------------------------------------------------------------------------------- */

int ctl_fail(struct ctl_request *request, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(request->error, sizeof(request->error), format, args);
	va_end(args);
	return err;
}

void ctl_answer(struct ctl_request *request, struct json_object *result)
{
	json_object_put(request->result);
	request->result = result;
}

static const struct ctl_command *command_find(const struct ctl_command *commands,
					      struct json_object *request)
{
	struct json_object *name;

	if (!json_object_object_get_ex(request, "command", &name) ||
	    !json_object_is_type(name, json_type_string))
		return NULL;
	for (; commands->name; commands++)
		if (!strcmp(commands->name, json_object_get_string(name)))
			return commands;
	return NULL;
}

static int command_unknown(const struct ctl_command *commands, struct ctl_request *request)
{
	int used = snprintf(request->error, sizeof(request->error), "unknown command: known are");

	for (; commands->name; commands++)
		used += snprintf(request->error + used, sizeof(request->error) - (size_t)used,
				 " %s", commands->name);
	return -EINVAL;
}

static int command_run(const struct ctl_server *server, struct ctl_request *request)
{
	const struct ctl_command *command;

	if (!json_object_is_type(request->json, json_type_object))
		return ctl_fail(request, -EINVAL, "a request is one JSON object on one line");
	command = command_find(server->commands, request->json);
	if (!command)
		return command_unknown(server->commands, request);
	json_object_object_foreach(request->json, key, value)
	{
		(void)value;
		if (strcmp(key, "command") && (!command->member || strcmp(key, command->member)))
			return ctl_fail(request, -EINVAL,
					"the request has a member that this command does not know");
	}
	return command->run(server->context, request);
}

/* --- clients -------------------------------------------------------------------------------- */

static void client_drop_file(struct ctl_client *client)
{
	if (client->file >= 0)
		close(client->file);
	client->file = -1;
}

static void client_close(struct ctl_client *client)
{
	struct ctl_server *server = client->server;

	loop_unwatch(&client->watch);
	close(client->fd);
	client_drop_file(client);
	for (unsigned i = 0; i < CTL_CLIENTS_MAX; i++)
		if (server->clients[i] == client)
			server->clients[i] = NULL;
	free(client->reply);
	free(client);
}

/* Send what waits. Returns false when the client is gone (and freed). */
static bool client_flush(struct ctl_client *client)
{
	while (client->reply) {
		ssize_t n = send(client->fd, client->reply + client->reply_start,
				 client->reply_size - client->reply_start, MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n < 0) {
			client_close(client);
			return false;
		}
		client->reply_start += (size_t)n;
		if (client->reply_start == client->reply_size) {
			free(client->reply);
			client->reply = NULL;
		}
	}
	if (!client->closing)
		return true;
	client_close(client);
	return false;
}

static void client_answer(struct ctl_client *client, const char *error, struct json_object *result)
{
	struct json_object *answer = json_object_new_object();
	const char *text;

	json_add_bool(answer, "ok", !error);
	if (error)
		json_add_text(answer, "error", error);
	else
		json_object_object_add(answer, "result", json_object_get(result));
	text = json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN |
							  JSON_C_TO_STRING_NOSLASHESCAPE);
	client->reply_start = 0;
	client->reply_size = strlen(text) + 1;
	client->reply = malloc(client->reply_size);
	if (client->reply) {
		memcpy(client->reply, text, client->reply_size);
		client->reply[client->reply_size - 1] = '\n';
	} else {
		client->closing = true;
	}
	json_object_put(answer);
}

static void client_request(struct ctl_client *client, size_t len)
{
	struct json_tokener *tokener = json_tokener_new_ex(CTL_JSON_DEPTH);
	struct ctl_request request = {.file = client->file, .result = json_object_new_object()};
	int rc = -EINVAL;

	if (tokener) {
		json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
		request.json = json_tokener_parse_ex(tokener, client->line, (int)len + 1);
	}
	if (request.json && json_tokener_get_error(tokener) == json_tokener_success)
		rc = command_run(client->server, &request);
	else
		ctl_fail(&request, rc, "the line is not JSON");
	client_answer(client, rc ? request.error : NULL, request.result);
	json_object_put(request.json);
	json_object_put(request.result);
	json_tokener_free(tokener);
	client_drop_file(client);
}

/* Answer the requests that are complete, as long as the client takes the answers. */
static void client_serve(struct ctl_client *client)
{
	char *end;

	while (!client->reply && (end = memchr(client->line, '\n', client->used))) {
		size_t len = (size_t)(end - client->line);

		*end = '\0';
		client_request(client, len);
		client->used -= len + 1;
		memmove(client->line, end + 1, client->used);
		if (!client_flush(client))
			return;
	}
	if (!client->reply && client->used == CTL_LINE_MAX) {
		client->closing = true;
		client->used = 0;
		client_answer(client, "the line is longer than 65536 bytes", NULL);
		if (!client_flush(client))
			return;
	}
	/* Wait for what is missing: room for the answer, or more of the request. */
	if ((client->watch.events == POLLOUT) != !!client->reply) {
		loop_unwatch(&client->watch);
		loop_watch(client->server->loop, &client->watch, client->fd,
			   client->reply ? POLLOUT : POLLIN);
	}
}

/* The kernel closes what does not fit into the one place for a descriptor. */
static ssize_t client_receive(struct ctl_client *client)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_LEN(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = client->line + client->used,
			    .iov_len = CTL_LINE_MAX - client->used};
	struct msghdr message = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = &control,
	    .msg_controllen = CMSG_LEN(sizeof(int)),
	};
	ssize_t n = recvmsg(client->fd, &message, MSG_CMSG_CLOEXEC);
	const struct cmsghdr *header = n >= 0 ? CMSG_FIRSTHDR(&message) : NULL;

	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
	    header->cmsg_len == CMSG_LEN(sizeof(int))) {
		client_drop_file(client);
		memcpy(&client->file, CMSG_DATA(header), sizeof(int));
	}
	return n;
}

static void client_ready(struct loop_watch *watch, uint32_t revents)
{
	struct ctl_client *client = watch->context;
	ssize_t n;

	(void)revents;
	if (client->reply) {
		if (client_flush(client))
			client_serve(client);
		return;
	}
	n = client_receive(client);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_close(client);
		return;
	}
	client->used += (size_t)n;
	client_serve(client);
}

static struct ctl_client *client_create(struct ctl_server *server, int fd)
{
	struct ctl_client *client = calloc(1, sizeof(*client));

	if (!client)
		return NULL;
	client->server = server;
	client->fd = fd;
	client->file = -1;
	client->watch = (struct loop_watch){.ready = client_ready, .context = client};
	if (loop_watch(server->loop, &client->watch, fd, POLLIN)) {
		free(client);
		return NULL;
	}
	return client;
}

static void listener_ready(struct loop_watch *watch, uint32_t revents)
{
	static const char full[] = "{\"ok\":false,\"error\":\"too many clients\"}\n";
	struct ctl_server *server = watch->context;
	int fd = unix_accept(watch, &server->accept_retry);
	unsigned i = 0;

	(void)revents;
	if (fd < 0)
		return;
	while (i < CTL_CLIENTS_MAX && server->clients[i])
		i++;
	if (i < CTL_CLIENTS_MAX)
		server->clients[i] = client_create(server, fd);
	if (i < CTL_CLIENTS_MAX && server->clients[i])
		return;
	send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL);
	close(fd);
}

int ctl_server_create(struct loop *loop, const char *path, const struct ctl_command *commands,
		      void *context, struct ctl_server **made)
{
	struct ctl_server *server = calloc(1, sizeof(*server));
	int rc = -ENOMEM;

	if (!server)
		return rc;
	*server = (struct ctl_server){
	    .loop = loop, .commands = commands, .context = context, .path = strdup(path)};
	if (!server->path)
		goto out_free;
	server->fd = rc = unix_listen(path);
	if (rc < 0)
		goto out_free;
	server->listener = (struct loop_watch){.ready = listener_ready, .context = server};
	rc = loop_watch(loop, &server->listener, server->fd, POLLIN);
	if (rc)
		goto out_close;
	*made = server;
	return 0;
out_close:
	close(server->fd);
	unlink(path);
out_free:
	free(server->path);
	free(server);
	return rc;
}

void ctl_server_destroy(struct ctl_server *server)
{
	if (!server)
		return;
	loop_unwatch(&server->listener);
	loop_disarm(&server->accept_retry);
	close(server->fd);
	unlink(server->path);
	for (unsigned i = 0; i < CTL_CLIENTS_MAX; i++)
		if (server->clients[i])
			client_close(server->clients[i]);
	free(server->path);
	free(server);
}
