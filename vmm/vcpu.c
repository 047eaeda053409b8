/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vCPU threads
 *
 * Theory of operation: each vCPU is a thread that runs the guest by KVM_RUN and answers its exits through the
 * two buses. It leaves the loop when the VM has an end, and parks while the VM is paused. Others reach it by
 * vcpu_kick(): immediate_exit is set first, so that a vCPU which is about to enter KVM_RUN leaves at once, and a
 * signal interrupts one that is inside. There is nothing periodic on these threads.
 */
#include "vmm/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vnet/message.h"
#include "vmm/platform.h"
#include "vmm/vm.h"

#define MSR_MISC_ENABLE 0x1a0
#define MISC_FAST_STRING 1
#define MSR_MTRR_DEFAULT 0x2ff
#define MTRR_ENABLE_WB   0x806 /* enabled, default type write-back */
#define APIC_SVR         0xf0
#define APIC_SVR_ENABLED 0x1ff
#define CR4_OSXSAVE      0x40000ull

const char *vcpu_exit_name(enum vcpu_exit exit)
{
	static const char *const names[VCPU_EXITS] = {"pio", "mmio", "idle", "interrupted", "other"};

	return names[exit];
}

/* What firmware would have set. A CPU without one of them refuses it, which is no harm. */
static void vcpu_set_msr(int fd, uint32_t index, uint64_t value)
{
	union {
		struct kvm_msrs list;
		uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	} msrs = {.list.nmsrs = 1};

	msrs.list.entries[0] = (struct kvm_msr_entry){.index = index, .data = value};
	ioctl(fd, KVM_SET_MSRS, &msrs.list);
}

/* Ring-3 guests cannot reach XCR0 or the APIC's enable bit themselves. */
static int vcpu_prepare_ring3(const struct vcpu *vcpu, struct kvm_sregs *sregs)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = 0}}};
	const struct kvm_cpuid2 *cpuid = vcpu->vm->kvm.cpuid;
	struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_lapic_state lapic;
	uint32_t svr = APIC_SVR_ENABLED;

	for (unsigned i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0xd && cpuid->entries[i].index == 0)
			xcrs.xcrs[0].value = cpuid->entries[i].eax & 0xe7; /* x87, SSE, AVX, AVX-512 */
	if (xcrs.xcrs[0].value && !ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs))
		sregs->cr4 |= CR4_OSXSAVE;
	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic))
		return -errno;
	memcpy(lapic.regs + APIC_SVR, &svr, sizeof(svr));
	if (ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic) || ioctl(vcpu->fd, KVM_SET_MP_STATE, &state))
		return -errno;
	return 0;
}

static int vcpu_set_registers(const struct vcpu *vcpu, const struct boot_state *boot)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int rc = 0;

	vcpu_set_msr(vcpu->fd, MSR_MISC_ENABLE, MISC_FAST_STRING);
	vcpu_set_msr(vcpu->fd, MSR_MTRR_DEFAULT, MTRR_ENABLE_WB);
	if (vcpu->index && !boot->all_cpus)
		return 0; /* waits for INIT and SIPI, as KVM made it */
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		return -errno;
	boot_registers(boot, vcpu->index, &regs, &sregs);
	if (boot->entry == BOOT_RING3)
		rc = vcpu_prepare_ring3(vcpu, &sregs);
	if (!rc && (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) || ioctl(vcpu->fd, KVM_SET_REGS, &regs)))
		rc = -errno;
	return rc;
}

int vcpu_create(struct vcpu *vcpu, struct vm *vm, unsigned index, const struct boot_state *boot)
{
	int rc;

	*vcpu = (struct vcpu){.vm = vm, .index = index};
	vcpu->fd = ioctl(vm->kvm.vm_fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		return fail(-errno, "--cpus: KVM does not give vCPU %u: %s", index, strerror(errno));
	vcpu->run = mmap(NULL, vm->kvm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return fail(-errno, "vCPU %u: %s", index, strerror(errno));
	}
	rc = kvm_set_cpuid(&vm->kvm, vcpu->fd, index, vm->config->cpus);
	if (rc)
		return fail(rc, "vCPU %u: KVM refuses its CPUID: %s", index, strerror(-rc));
	rc = vcpu_set_registers(vcpu, boot);
	if (rc)
		return fail(rc, "vCPU %u: KVM refuses its registers: %s", index, strerror(-rc));
	return 0;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, vcpu->vm->kvm.run_size);
	if (vcpu->vm && vcpu->fd >= 0)
		close(vcpu->fd);
	*vcpu = (struct vcpu){.fd = -1};
}

static void vcpu_pio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	/* String instructions bring several items at once, all for one port. */
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_IN)
			bus_read(&vcpu->vm->pio, run->io.port, data, run->io.size);
		else
			bus_write(&vcpu->vm->pio, run->io.port, data, run->io.size);
	}
	if (run->io.port == PORT_IDLE && run->io.direction == KVM_EXIT_IO_OUT)
		vcpu->idle = true;
}

static void vcpu_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->mmio.is_write)
		bus_write(&vcpu->vm->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(&vcpu->vm->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

/* What KVM could not run, for the person who has to find out why. */
static void vcpu_report(const struct vcpu *vcpu, const char *what, unsigned long long detail)
{
	struct kvm_regs regs = {0};

	ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	warn("vCPU %u: %s (%#llx) at instruction %#llx, stack %#llx", vcpu->index, what, detail,
	     (unsigned long long)regs.rip, (unsigned long long)regs.rsp);
}

static void vcpu_system_event(struct vcpu *vcpu)
{
	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vm_finish(vcpu->vm, VM_END_POWEROFF);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		vm_finish(vcpu->vm, VM_END_REBOOT);
		break;
	default:
		vm_finish(vcpu->vm, VM_END_CRASH);
		break;
	}
}

static enum vcpu_exit vcpu_handle_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		vcpu_pio(vcpu);
		return EXIT_PIO;
	case KVM_EXIT_MMIO:
		vcpu_mmio(vcpu);
		return EXIT_MMIO;
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:
		return EXIT_INTERRUPTED;
	case KVM_EXIT_SYSTEM_EVENT:
		vcpu_system_event(vcpu);
		return EXIT_OTHER;
	case KVM_EXIT_SHUTDOWN:
		vcpu_report(vcpu, "triple fault", 0);
		vm_finish(vcpu->vm, VM_END_CRASH);
		return EXIT_OTHER;
	case KVM_EXIT_INTERNAL_ERROR:
		vcpu_report(vcpu, "KVM cannot run the guest's code", run->internal.suberror);
		vm_finish(vcpu->vm, VM_END_CRASH);
		return EXIT_OTHER;
	default:
		vcpu_report(vcpu, "unexpected exit from KVM", run->exit_reason);
		vm_finish(vcpu->vm, VM_END_ERROR);
		return EXIT_OTHER;
	}
}

/* Sleep until an interrupt, on behalf of a guest that may not execute HLT. KVM first completes the port write. */
static void vcpu_sleep(struct vcpu *vcpu)
{
	struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_HALTED};

	vcpu->idle = false;
	ioctl(vcpu->fd, KVM_SET_MP_STATE, &state);
	atomic_fetch_add_explicit(&vcpu->exits[EXIT_IDLE], 1, memory_order_relaxed);
}

/* Returns false when the VM has come to its end. */
static bool vcpu_run_once(struct vcpu *vcpu)
{
	enum vcpu_exit exit = EXIT_INTERRUPTED;

	if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
		exit = vcpu_handle_exit(vcpu);
	} else if (errno != EINTR && errno != EAGAIN) {
		vcpu_report(vcpu, strerror(errno), (unsigned)errno);
		vm_finish(vcpu->vm, VM_END_ERROR);
	}
	atomic_fetch_add_explicit(&vcpu->exits[exit], 1, memory_order_relaxed);
	if (vcpu->idle)
		vcpu_sleep(vcpu);
	return atomic_load(&vcpu->vm->end) == VM_RUNNING;
}

static void *vcpu_thread(void *context)
{
	struct vcpu *vcpu = context;
	char name[16];

	/* By the thread itself: from outside it would mean opening a file, which the sandbox forbids. */
	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(pthread_self(), name);
	thread_pin(vcpu->vm->config->pin_vcpus[vcpu->index]);
	do {
		/* Cleared before the state is looked at: a kick that comes later sets it again. */
		vcpu->run->immediate_exit = 0;
		vm_park(vcpu->vm);
	} while (atomic_load(&vcpu->vm->end) == VM_RUNNING && vcpu_run_once(vcpu));
	return NULL;
}

int vcpu_start(struct vcpu *vcpu)
{
	int rc = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);

	if (rc)
		return fail(-rc, "vCPU %u: cannot start its thread: %s", vcpu->index, strerror(rc));
	vcpu->running = true;
	return 0;
}

void vcpu_kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(vcpu->thread, VCPU_KICK_SIGNAL);
}

void vcpu_join(struct vcpu *vcpu)
{
	if (vcpu->running)
		pthread_join(vcpu->thread, NULL);
	vcpu->running = false;
}
