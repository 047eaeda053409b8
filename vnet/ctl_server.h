/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A control socket: one JSON object a line in, one a line out (docs/command-line.md). */
#ifndef WEFT_CTL_SERVER_H
#define WEFT_CTL_SERVER_H

#include <json-c/json.h>

#define CTL_ERROR_MAX 512 /* room for a message, bytes */

struct ctl_server;
struct loop;

/* What a client asks, and the answer to it. */
struct ctl_request {
	struct json_object *json; /* the request, an object */
	int file;		  /* a descriptor that came with it, or -1; the server closes it */
	struct json_object *result; /* of a success: an empty object to fill, or see ctl_answer() */
	char error[CTL_ERROR_MAX];  /* of a failure */
};

struct ctl_command {
	const char *name;
	const char *member; /* the one other member that it takes, or NULL */
	/* Returns 0, or -errno with a reason in request->error. */
	int (*run)(void *context, struct ctl_request *request);
};

/* ctl_fail - format the reason; returns @err. */
__attribute__((format(printf, 3, 4))) int ctl_fail(struct ctl_request *request, int err,
						   const char *format, ...);
/* ctl_answer - have @result, which is taken over, instead of the object. */
void ctl_answer(struct ctl_request *request, struct json_object *result);

/**
 * ctl_server_create - listen on a path, mode 0600.
 * @commands: those it knows, with a name of NULL at the end; it runs them with @context on @loop's
 * thread
 *
 * Returns 0 or -errno: unix_listen_remedy() has words for it. All functions belong to the loop's
 * thread.
 */
int ctl_server_create(struct loop *loop, const char *path, const struct ctl_command *commands,
		      void *context, struct ctl_server **server);
/* ctl_server_destroy - close all clients and remove the socket. NULL is fine. */
void ctl_server_destroy(struct ctl_server *server);

#endif
