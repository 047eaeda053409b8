/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CPUID: what the guest is told of its CPU. KVM's list of supported features is the start; corrected are the
 * topology (one socket, one thread a core), the APIC ids, and features that are listed but cannot be had.
 * Of the extended topology (0xb, 0x1f) KVM lists as many levels as the host has, or since Linux 6.2 only an empty
 * one: the first is taken as a sign that the leaf exists, and both levels are written anew.
 * Leaves: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "vmm/kvm.h"

#define BIT(n) (1u << (n))
#define TOPOLOGY_LEVELS 2
#define VENDOR_AMD   0x68747541 /* "Auth", EBX of leaf 0 */
#define VENDOR_HYGON 0x6f677948 /* "Hygo" */

struct topology {
	unsigned index, cpus;
	unsigned shift; /* bits of the APIC id that tell the cores apart */
	bool pvm, tsc_deadline, amd;
};

/* Hosts with kvm_pvm list these, but ring 0 of the guest runs at the host's ring 3 and cannot use them. */
static void leaf_without_pvm(struct kvm_cpuid_entry2 *e)
{
	if (e->function == 7 && e->index == 0)
		e->ebx &= ~(BIT(7) | BIT(20)); /* SMEP, SMAP */
	else if (e->function == 0xd && e->index == 1)
		e->eax &= ~BIT(3); /* XSAVES */
}

static void leaf_features(struct kvm_cpuid_entry2 *e, const struct topology *t)
{
	e->ebx = (e->ebx & 0xff00) | t->index << 24 | t->cpus << 16 | 8 << 8;
	e->ecx |= BIT(31); /* a hypervisor is there */
	if (t->tsc_deadline)
		e->ecx |= BIT(24);
	if (t->cpus > 1)
		e->edx |= BIT(28); /* HTT: the count above is valid */
	else
		e->edx &= ~BIT(28);
}

/* Cache parameters: levels 1 and 2 belong to one core, the last level to all. */
static void leaf_caches(struct kvm_cpuid_entry2 *e, const struct topology *t, bool intel)
{
	unsigned level = e->eax >> 5 & 7;
	unsigned sharing = level >= 3 ? (1u << t->shift) - 1 : 0;

	if (!(e->eax & 0x1f))
		return;
	e->eax = (e->eax & 0x3fff) | sharing << 14;
	if (intel)
		e->eax |= ((1u << t->shift) - 1) << 26;
}

/* Extended topology (0xb, 0x1f): threads, then cores. KVM answers for the levels behind them. */
static void leaf_topology(struct kvm_cpuid_entry2 e[TOPOLOGY_LEVELS], uint32_t function,
			  const struct topology *t)
{
	e[0] = (struct kvm_cpuid_entry2){
		.function = function,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.ebx = 1,
		.ecx = 1 << 8, /* a level of threads */
		.edx = t->index,
	};
	e[1] = e[0];
	e[1].index = 1;
	e[1].eax = t->shift;
	e[1].ebx = t->cpus;
	e[1].ecx = 2 << 8 | 1; /* a level of cores; number 1 */
}

static void leaf_correct(struct kvm_cpuid_entry2 *e, const struct topology *t)
{
	if (t->pvm)
		leaf_without_pvm(e);
	switch (e->function) {
	case 0x1:
		leaf_features(e, t);
		break;
	case 0x4:
		leaf_caches(e, t, true);
		break;
	case 0x80000008:
		if (t->amd) /* reserved on Intel's */
			e->ecx = t->shift << 12 | (t->cpus - 1);
		break;
	case 0x8000001d:
		leaf_caches(e, t, false);
		break;
	case 0x8000001e:
		if (!t->amd)
			break;
		e->eax = t->index;
		e->ebx = t->index; /* core id, one thread each */
		e->ecx = 0;        /* node 0 of one */
		break;
	}
}

static unsigned bits_for(unsigned count)
{
	unsigned bits = 0;

	while (1u << bits < count)
		bits++;
	return bits;
}

static bool vendor_amd(const struct kvm_cpuid2 *list)
{
	for (unsigned i = 0; i < list->nent; i++)
		if (list->entries[i].function == 0)
			return list->entries[i].ebx == VENDOR_AMD || list->entries[i].ebx == VENDOR_HYGON;
	return false;
}

/* KVM's list, corrected; @to has room for two more leaves of topology. */
static void list_correct(const struct kvm_cpuid2 *from, struct kvm_cpuid2 *to, const struct topology *t)
{
	for (unsigned i = 0; i < from->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &from->entries[i];

		if (e->function != 0xb && e->function != 0x1f) {
			to->entries[to->nent] = *e;
			leaf_correct(&to->entries[to->nent++], t);
		} else if (!e->index) {
			leaf_topology(&to->entries[to->nent], e->function, t);
			to->nent += TOPOLOGY_LEVELS;
		}
	}
}

/*
 * Leaf 0x80000008: EAX 7:0 what the CPU has, 23:16 (where not 0) what a guest may use of it, as where the host's
 * tables have but four levels. CPUs without the leaf have 36 bits (Intel SDM 3A, 4.1.4).
 */
uint64_t kvm_memory_max(const struct kvm *kvm, unsigned *bits)
{
	uint64_t end;

	*bits = 36;
	for (unsigned i = 0; i < kvm->cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &kvm->cpuid->entries[i];
		unsigned guest = e->eax >> 16 & 0xff;

		if (e->function != 0x80000008)
			continue;
		*bits = e->eax & 0xff;
		if (guest && guest < *bits)
			*bits = guest;
	}
	end = *bits < 63 ? 1ull << *bits : 1ull << 63;
	if (end <= MEMORY_HOLE_END)
		return end < MEMORY_HOLE_START ? end : MEMORY_HOLE_START;
	return end - (MEMORY_HOLE_END - MEMORY_HOLE_START);
}

int kvm_set_cpuid(const struct kvm *kvm, int vcpu_fd, unsigned index, unsigned cpus)
{
	const struct kvm_cpuid2 *listed = kvm->cpuid;
	struct kvm_cpuid2 *told = calloc(1, sizeof(*told) + (listed->nent + 2 * TOPOLOGY_LEVELS) *
								    sizeof(told->entries[0]));
	struct topology t = {
		.index = index,
		.cpus = cpus,
		.shift = bits_for(cpus),
		.pvm = kvm->pvm,
		.tsc_deadline = kvm->tsc_deadline,
		.amd = vendor_amd(listed),
	};
	int rc;

	if (!told)
		return -ENOMEM;
	list_correct(listed, told, &t);
	rc = ioctl(vcpu_fd, KVM_SET_CPUID2, told) ? -errno : 0;
	free(told);
	return rc;
}
