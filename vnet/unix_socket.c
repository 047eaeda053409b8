/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vnet/unix_socket.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vnet/loop.h"

#define LISTEN_BACKLOG  64
#define ACCEPT_RETRY_NS 100000000 /* 100 ms */

/* Whether a process listens there; if not, what is there is the rest of one that was killed. */
static bool address_alive(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct ucred maker = {0};
	socklen_t size = sizeof(maker);
	bool alive = true;

	if (fd < 0)
		return true;
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)))
		alive = errno != ECONNREFUSED;
	else if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &maker, &size) && maker.pid > 0)
		/* The kernel keeps what a killed process had in its io_uring for a moment longer. */
		alive = !kill(maker.pid, 0) || errno != ESRCH;
	close(fd);
	return alive;
}

/* Remove a dead process's socket file. Returns 0, -EEXIST (not a socket), -EADDRINUSE, or -errno. */
static int address_reclaim(const struct sockaddr_un *address)
{
	struct stat st;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno; /* just removed by its owner */
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	if (address_alive(address))
		return -EADDRINUSE;
	return unlink(address->sun_path) < 0 ? -errno : 0;
}

static int address_bind(int fd, const struct sockaddr_un *address)
{
	int rc;

	/* The mode of the socket file is that of the socket (unix(7)), less the umask. */
	if (fchmod(fd, 0600) < 0)
		return -errno;
	if (!bind(fd, (const struct sockaddr *)address, sizeof(*address)))
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	rc = address_reclaim(address);
	if (rc)
		return rc;
	return bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
}

int unix_listen(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, rc;

	if (!*path || strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	rc = address_bind(fd, &address);
	if (!rc && listen(fd, LISTEN_BACKLOG)) {
		rc = -errno;
		unlink(path);
	}
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

static void accept_again(struct loop_timer *timer)
{
	struct loop_watch *listener = timer->context;

	if (loop_watch(timer->loop, listener, listener->fd, POLLIN))
		loop_arm(timer->loop, timer, ACCEPT_RETRY_NS);
}

int unix_accept(struct loop_watch *listener, struct loop_timer *retry)
{
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0 || errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
		return fd;
	loop_unwatch(listener);
	retry->expired = accept_again;
	retry->context = listener;
	loop_arm(listener->loop, retry, ACCEPT_RETRY_NS);
	return -1;
}

const char *unix_listen_remedy(int error)
{
	switch (error) {
	case -EEXIST:
		return "there is a file of another kind: remove it or choose another path";
	case -EADDRINUSE:
		return "in use by a running process: end it or choose another path";
	case -ENAMETOOLONG:
		return "a socket's path has 1 to 107 bytes: choose a shorter one";
	case -ENOENT:
		return "no such directory: create it or choose another path";
	default:
		return strerror(-error);
	}
}
