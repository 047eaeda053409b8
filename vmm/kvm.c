/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vnet/message.h"
#include "vmm/platform.h"

#define CPUID_ENTRIES 256

static const struct {
	int capability;
	const char *what;
} required[] = {
	{KVM_CAP_USER_MEMORY, "user memory"},
	{KVM_CAP_IRQCHIP, "an in-kernel interrupt controller"},
	{KVM_CAP_IRQ_ROUTING, "interrupt routing"},
	{KVM_CAP_IRQFD, "irqfd"},
	{KVM_CAP_IOEVENTFD, "ioeventfd"},
	{KVM_CAP_IOEVENTFD_ANY_LENGTH, "ioeventfd of any length"},
	{KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
	{KVM_CAP_EXT_CPUID, "CPUID"},
	{KVM_CAP_MP_STATE, "vCPU states"},
};

static int kvm_check(const struct kvm *kvm)
{
	int version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return fail(-ENOSYS, "/dev/kvm: API version %d, weft needs %d: update the host's kernel",
			    version, KVM_API_VERSION);
	for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++)
		if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, required[i].capability) <= 0)
			return fail(-ENOSYS, "/dev/kvm: this host's KVM lacks %s: use a Linux kernel of 4.12 "
					     "or newer",
				    required[i].what);
	return 0;
}

static int kvm_read_cpuid(struct kvm *kvm)
{
	kvm->cpuid = calloc(1, sizeof(*kvm->cpuid) +
				       CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
	if (!kvm->cpuid)
		return -ENOMEM;
	kvm->cpuid->nent = CPUID_ENTRIES;
	return ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, kvm->cpuid) ? -errno : 0;
}

int kvm_open(struct kvm *kvm)
{
	int rc;

	*kvm = (struct kvm){.fd = -1, .vm_fd = -1};
	kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0 && (errno == EACCES || errno == EPERM))
		return fail(-errno, "/dev/kvm: no permission: join the group 'kvm' (usermod -aG kvm %s)",
			    getenv("USER") ? getenv("USER") : "USER");
	if (kvm->fd < 0)
		return fail(-errno, "/dev/kvm: %s: this host offers no KVM: load its module or switch on "
				    "virtualization in the firmware",
			    strerror(errno));
	rc = kvm_check(kvm);
	if (!rc && (rc = kvm_read_cpuid(kvm)))
		fail(rc, "/dev/kvm: cannot read the CPU's features: %s", strerror(-rc));
	if (rc) {
		kvm_close(kvm);
		return rc;
	}
	kvm->pvm = !access("/sys/module/kvm_pvm", F_OK);
	kvm->tsc_deadline = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	kvm->run_size = (size_t)ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	return 0;
}

void kvm_close(struct kvm *kvm)
{
	free(kvm->cpuid);
	kvm->cpuid = NULL;
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->fd = -1;
}

static int kvm_map_memory(const struct kvm *kvm, const struct guest_memory *mem)
{
	for (unsigned i = 0; i < mem->count; i++) {
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.guest_phys_addr = mem->regions[i].gpa,
			.memory_size = mem->regions[i].size,
			.userspace_addr = (uintptr_t)mem->regions[i].host,
		};

		if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
			return -errno;
	}
	return 0;
}

int kvm_vm_create(struct kvm *kvm, const struct guest_memory *mem)
{
	uint64_t identity = KVM_IDENTITY_BASE;
	int rc = 0;

	do
		kvm->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	while (kvm->vm_fd < 0 && errno == EINTR);
	if (kvm->vm_fd < 0)
		return fail(-errno, "/dev/kvm: cannot create a VM: %s", strerror(errno));
	/* Both are for Intel CPUs without unrestricted guest; others may refuse them. */
	ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, KVM_TSS_BASE);
	if (ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0))
		rc = fail(-errno, "/dev/kvm: no interrupt controller: %s", strerror(errno));
	if (!rc && (rc = kvm_map_memory(kvm, mem)))
		fail(rc, "--memory: KVM does not take the guest's RAM: %s", strerror(-rc));
	if (rc) {
		kvm_vm_destroy(kvm);
		return rc;
	}
	rc = ioctl(kvm->vm_fd, KVM_GET_TSC_KHZ, 0); /* of a VM since Linux 5.18; older ones: unknown */
	kvm->tsc_khz = rc > 0 ? (uint32_t)rc : 0;
	return 0;
}

void kvm_vm_destroy(struct kvm *kvm)
{
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	kvm->vm_fd = -1;
}
