/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sandbox: what the process may still ask of the kernel once a guest runs. */
#ifndef WEFT_SANDBOX_H
#define WEFT_SANDBOX_H

/**
 * sandbox_enter - restrict every thread of the process to the system calls on the list in sandbox.c.
 *
 * Anything else ends the process with SIGSYS. A build with sanitizers says that it has no sandbox, and does nothing. There is no way back. Returns 0 or -errno.
 */
int sandbox_enter(void);

#endif
