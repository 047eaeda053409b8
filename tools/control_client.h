/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The client's side of a control socket: what weft-ctl and weft-top share. */
#ifndef WEFT_CONTROL_CLIENT_H
#define WEFT_CONTROL_CLIENT_H

#include <json-c/json.h>
#include <stddef.h>

#define CONTROL_SECONDS 30 /* an answer may take on a busy machine */

/* socket_connect - a descriptor connected to the Unix socket at @path, or -errno. @seconds:
 * connecting, and each read and write later, give up with EAGAIN after that; 0: never. */
int socket_connect(const char *path, double seconds);
/* socket_set_timeout - reads and writes on the socket give up with EAGAIN after so many seconds. */
void socket_set_timeout(int fd, double seconds);
/* send_all - 0 or -errno. */
int send_all(int fd, const void *data, size_t len);

/**
 * control_ask - send a request and wait for the reply.
 * @request: a line, with its end
 * @file:    a descriptor to be sent along, or -1
 *
 * Returns the reply as an object the caller releases, or NULL with errno set: EAGAIN when the
 * socket's time is over, EPROTO if it is none.
 */
struct json_object *control_ask(int fd, const char *request, int file);

#endif
