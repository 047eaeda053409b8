/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A virtual CPU: one thread in KVM_RUN. */
#ifndef WEFT_VCPU_H
#define WEFT_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/boot.h"

#define VCPU_KICK_SIGNAL SIGUSR1

struct vm;
struct kvm_run;

/* Exits to this process, by reason. */
enum vcpu_exit { EXIT_PIO, EXIT_MMIO, EXIT_IDLE, EXIT_INTERRUPTED, EXIT_OTHER, VCPU_EXITS };

struct vcpu {
	struct vm *vm;
	unsigned index;
	int fd;
	struct kvm_run *run; /* shared with KVM; the vCPU's thread, but for immediate_exit */
	pthread_t thread;
	bool running; /* the thread exists; main thread */
	bool idle;    /* the guest asked to sleep (PORT_IDLE); vCPU thread */
	atomic_ulong exits[VCPU_EXITS];
};

/* vcpu_create - KVM vCPU with CPUID and registers for its start. 0, or -errno after a message. */
int vcpu_create(struct vcpu *vcpu, struct vm *vm, unsigned index, const struct boot_state *boot);
/* vcpu_start - begin to run on a thread of its own. 0, or -errno after a message. */
int vcpu_start(struct vcpu *vcpu);
/* vcpu_kick - make the vCPU leave KVM_RUN and look at the VM's state. Any thread. */
void vcpu_kick(struct vcpu *vcpu);
/* vcpu_join - wait for the thread's end (the VM is stopping). */
void vcpu_join(struct vcpu *vcpu);
/* vcpu_destroy - close it; harmless if never created. */
void vcpu_destroy(struct vcpu *vcpu);

/* vcpu_exit_name - stable name of an exit reason, for counters. */
const char *vcpu_exit_name(enum vcpu_exit exit);

#endif
