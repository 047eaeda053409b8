/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation: a request is one JSON object on one line, its reply another. Everything
 * waits, with a limit; one thread, one request at a time.
 */
#include "tools/control_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_MAX (16 << 20) /* bytes of one reply */

/* --- sockets ------------------------------------------------------------------------------- */

int socket_connect(const char *path, double seconds)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (seconds > 0)
		socket_set_timeout(fd, seconds);
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return fd;
	error = errno;
	close(fd);
	return -error;
}

void socket_set_timeout(int fd, double seconds)
{
	struct timeval tv = {.tv_sec = (time_t)seconds,
			     .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};

	if (!tv.tv_sec && tv.tv_usec < 1000)
		tv.tv_usec = 1000; /* zero would mean for ever */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

int send_all(int fd, const void *data, size_t len)
{
	const char *at = data;
	ssize_t n;

	for (; len; at += n, len -= (size_t)n) {
		n = send(fd, at, len, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		n = n < 0 ? 0 : n;
	}
	return 0;
}

/* --- the control socket -------------------------------------------------------------------- */

/* Reads a line without its end. Returns it (to be freed), or NULL with errno set. */
static char *line_read(int fd)
{
	size_t len = 0, size = 0;
	char *line = NULL, *bigger;
	ssize_t n;

	for (;;) {
		if (len == size) {
			size += 65536;
			bigger = size <= REPLY_MAX ? realloc(line, size) : NULL;
			if (!bigger)
				break;
			line = bigger;
		}
		do {
			n = recv(fd, line + len, size - len, 0);
		} while (n < 0 && errno == EINTR); /* a terminal that changes its size */
		if (n <= 0) {
			errno = n ? errno : ECONNRESET;
			break;
		}
		len += (size_t)n;
		if (line[len - 1] == '\n') {
			line[len - 1] = '\0';
			return line;
		}
	}
	free(line);
	return NULL;
}

/* Send a request, and with its first bytes a descriptor unless @file is -1. Returns 0 or -errno. */
static int request_send(int fd, const char *request, int file)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
				.cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {.iov_base = (char *)request, .iov_len = strlen(request)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (file >= 0) {
		memcpy(CMSG_DATA(&control.header), &file, sizeof(file));
		message.msg_control = &control;
		message.msg_controllen = CMSG_LEN(sizeof(int));
	}
	do {
		n = sendmsg(fd, &message, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : send_all(fd, request + n, iov.iov_len - (size_t)n);
}

struct json_object *control_ask(int fd, const char *request, int file)
{
	struct json_object *reply;
	char *line;
	int rc = request_send(fd, request, file);

	if (rc) {
		errno = -rc;
		return NULL;
	}
	line = line_read(fd);
	if (!line)
		return NULL;
	reply = json_tokener_parse(line);
	free(line);
	if (reply && json_object_is_type(reply, json_type_object))
		return reply;
	json_object_put(reply);
	errno = EPROTO;
	return NULL;
}
