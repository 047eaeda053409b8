/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What tests of links have in common: VMs in one process, each a core with an interface that
 * remembers what it gets, on one loop.
 */
#ifndef WEFT_LINK_LAB_H
#define WEFT_LINK_LAB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vnet/core.h"
#include "vnet/link.h"
#include "vnet/loop.h"

#define LAB_VNI	    4711u
#define LAB_WAIT_MS 60000u /* for what must come, on the slowest machine */

struct lab_vm {
	struct port nic;
	struct loop *loop;
	struct core *core;
	struct links *links;
	unsigned frames, bad; /* received; of them not as lab_frame() made them */
	struct frame last;    /* its data is in data[] */
	uint8_t data[FRAME_SIZE_MAX];
	char error[LINK_ERROR_MAX];
};

/* A frame to be sent, in three pieces; its bytes follow from @seq. */
struct lab_frame {
	struct frame frame;
	struct iovec iov[3];
	uint8_t data[FRAME_SIZE_MAX + 16];
};

void lab_vm_up(struct lab_vm *vm, struct loop *loop, uint32_t vni);
/* lab_vm_make - the same, with links of this environment but for its core. */
void lab_vm_make(struct lab_vm *vm, const struct link_env *env);
void lab_vm_down(struct lab_vm *vm);
/* lab_link, lab_listen - add a link or listener. The port, or NULL with vm->error; 0 or -errno. */
struct port *lab_link(struct lab_vm *vm, const char *url);
int lab_listen(struct lab_vm *vm, const char *url);

void lab_frame(struct lab_frame *frame, uint32_t seq, uint32_t len);
/* lab_send - the VM's guest sends @n frames of @len bytes. */
void lab_send(struct lab_vm *vm, unsigned n, uint32_t len);
/* lab_send_frame - the VM's guest sends this one. */
void lab_send_frame(struct lab_vm *vm, struct lab_frame *frame);

struct link_status lab_status(const struct port *port);
bool lab_is_up(const struct port *port);
struct port *lab_port(const struct lab_vm *vm, const char *name);
uint64_t lab_dropped(const struct port *port);

/* lab_until - run the loop until the condition holds; false if it does not within LAB_WAIT_MS. */
bool lab_until(struct loop *loop, bool (*condition)(void *arg), void *arg);
/* The conditions that are wanted everywhere. */
bool lab_until_up(struct loop *loop, const struct port *port);
bool lab_until_down(struct loop *loop, const struct port *port);
bool lab_until_frames(struct lab_vm *vm, unsigned frames);
bool lab_until_drop(struct loop *loop, const struct port *port, enum drop_reason reason,
		    uint64_t n);
/* lab_run - run the loop for a moment, for nothing to happen in. */
void lab_run(struct loop *loop);
/* lab_shell - run a command; true if its status is 0. */
__attribute__((format(printf, 1, 2))) bool lab_shell(const char *format, ...);
/* lab_until_running - wait until an interface that got its carrier takes what the host sends: the
 * kernel throws it away before. */
bool lab_until_running(struct loop *loop, const char *interface);
/* lab_netns - a network namespace of our own; false: not permitted here. */
bool lab_netns(void);

#endif
