/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Captures: the frames of one port or of all, both directions, into a pcapng file that Wireshark
 * reads. */
#ifndef WEFT_CAPTURE_H
#define WEFT_CAPTURE_H

#include <stdint.h>

struct capture;
struct core;
struct loop;
struct port;

#define CAPTURE_LIMIT_MIN 256u	     /* bytes: less would hold no frame */
#define CAPTURE_BUFFER	  (1u << 20) /* bytes that may wait while as many are written */

struct capture_status {
	uint64_t frames;  /* written or waiting to be; after an error those lost with it, too */
	uint64_t dropped; /* for want of buffer, past the limit, or after an error */
	uint64_t bytes;	  /* of the file, once what waits is written */
	int error;	  /* 0, or the errno that ended it */
};

/**
 * capture_start - begin. The loop's thread.
 * @port:  whose frames; NULL is every port attached now
 * @fd:    a regular file open for writing; it is emptied, and closed by capture_stop()
 * @limit: bytes the file may have, CAPTURE_LIMIT_MIN or more; 0 for no limit
 *
 * A frame is recorded as it is on its way inside: whole, before it is cut for the wire, so that a
 * checksum the guest left to be finished is seen unfinished. Returns NULL with errno set, and
 * @fd left open: EINVAL for another kind of file or too small a limit, ENOMEM.
 */
struct capture *capture_start(struct loop *loop, struct core *core, struct port *port, int fd,
			      uint64_t limit);
/* capture_stop - write what waits, with the count of what was dropped, and close. What became of it
 * all; the file ends with a whole block even after an error. The loop's thread. NULL is fine. */
struct capture_status capture_stop(struct capture *capture);
struct capture_status capture_status(const struct capture *capture);

#endif
