/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listening on a Unix socket that a killed process may have left behind. */
#ifndef WEFT_UNIX_SOCKET_H
#define WEFT_UNIX_SOCKET_H

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

#endif
