/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The VM's control socket: its commands (docs/command-line.md). */
#ifndef WEFT_CTL_H
#define WEFT_CTL_H

struct ctl_server;
struct vm;

/* ctl_create - listen on vm->config->ctl_path on the control loop; ctl_server_destroy() ends it. 0, or -errno after a
 * message. */
int ctl_create(struct vm *vm, struct ctl_server **server);

#endif
