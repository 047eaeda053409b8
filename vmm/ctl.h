/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control socket: one JSON object a line in, one a line out (docs/command-line.md). */
#ifndef WEFT_CTL_H
#define WEFT_CTL_H

struct ctl;
struct vm;

/* ctl_create - listen on vm->config->ctl_path on the control loop. NULL (errno set) after a message. */
struct ctl *ctl_create(struct vm *vm);
/* ctl_destroy - close all clients and remove the socket. NULL is fine. */
void ctl_destroy(struct ctl *ctl);

#endif
