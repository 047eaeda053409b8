/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listening on a Unix socket that a killed process may have left behind. */
#ifndef WEFT_UNIX_SOCKET_H
#define WEFT_UNIX_SOCKET_H

struct loop_watch;
struct loop_timer;

/**
 * unix_listen - a non-blocking listening stream socket at @path, mode 0600.
 *
 * The socket file of a dead process is replaced; that of a running one, or a file of another kind, is not
 * touched. Returns the descriptor, or -errno: unix_listen_remedy() has the words. The caller unlinks @path
 * when it closes.
 */
int unix_listen(const char *path);

/* unix_listen_remedy - what to tell the user of a failed unix_listen(). */
const char *unix_listen_remedy(int error);

/**
 * unix_accept - take a connection that waits.
 * @listener: the watch of the listening socket, active
 * @retry:    the owner disarms it when it closes the socket; otherwise it is ours
 *
 * When descriptors or memory have run out the connection stays pending, and would wake the loop at once again: then
 * the listener rests for 100 ms. Returns the connection, non-blocking, or -1: none now.
 */
int unix_accept(struct loop_watch *listener, struct loop_timer *retry);

#endif
