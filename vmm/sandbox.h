/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sandbox: what the process may still ask of the kernel once a guest runs. */
#ifndef WEFT_SANDBOX_H
#define WEFT_SANDBOX_H

/* What links need beyond UDP sockets. */
enum sandbox_need {
	SANDBOX_UNIX = 1 << 0,   /* Unix stream sockets: shm, passt */
	SANDBOX_PACKET = 1 << 1, /* packet sockets: eth */
	SANDBOX_TAP = 1 << 2,    /* to take a tap again */
	SANDBOX_IB = 1 << 3,     /* verbs: ib */
	SANDBOX_NEVER = 1 << 4,
};

/**
 * sandbox_enter - restrict every thread of the process to the system calls on the list in sandbox.c.
 * @needs: enum sandbox_need bits
 *
 * Anything else ends the process with SIGSYS. A build with sanitizers says that it has no sandbox, and does nothing. There is no way back. Returns 0 or -errno.
 */
int sandbox_enter(unsigned needs);

#endif
