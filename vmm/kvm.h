/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /dev/kvm: opening it, checking what it can, and making a VM of it. */
#ifndef WEFT_KVM_H
#define WEFT_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/memory.h"

struct kvm_cpuid2;

struct kvm {
	int fd;          /* /dev/kvm */
	int vm_fd;       /* -1 while there is no VM */
	size_t run_size; /* bytes of each vCPU's shared struct kvm_run */
	struct kvm_cpuid2 *cpuid; /* what KVM can give a guest */
	bool pvm;                 /* kvm_pvm: the guest's ring 0 runs at the host's ring 3 */
	bool tsc_deadline;        /* the TSC deadline timer can be offered */
	uint32_t tsc_khz;         /* 0: KVM does not say */
};

/* kvm_open - open /dev/kvm and check every capability weft needs. 0, or -errno after a message. */
int kvm_open(struct kvm *kvm);
void kvm_close(struct kvm *kvm);

/* kvm_vm_create - a VM with guest memory and interrupt chips. 0, or -errno after a message. */
int kvm_vm_create(struct kvm *kvm, const struct guest_memory *mem);
/* kvm_vm_destroy - close the VM; its vCPUs are closed already. */
void kvm_vm_destroy(struct kvm *kvm);

/*
 * kvm_memory_max - bytes of RAM for which the host's physical addresses suffice, laid out as in vmm/memory.h.
 * @bits: how wide these addresses are.
 */
uint64_t kvm_memory_max(const struct kvm *kvm, unsigned *bits);

/**
 * kvm_set_cpuid - tell a vCPU what CPU it is.
 *
 * KVM's own answer, corrected: topology (one socket of @cpus cores), APIC id, hypervisor bit, TSC deadline timer,
 * and without the features that a kvm_pvm host lists but cannot run. Returns 0 or -errno.
 */
int kvm_set_cpuid(const struct kvm *kvm, int vcpu_fd, unsigned index, unsigned cpus);

#endif
