/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtual machine: everything hangs from here and is passed down. */
#ifndef WEFT_VM_H
#define WEFT_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/bus.h"
#include "vmm/irq_router.h"
#include "vmm/kvm.h"
#include "vmm/memory.h"
#include "vmm/options.h"
#include "vmm/vcpu.h"
#include "vnet/loop.h"

#define VM_DEVICES_MAX (CONFIG_NETS_MAX + CONFIG_DISKS_MAX + 2)

struct agent;
struct console;
struct ctl_server;
struct overlay;
struct pci_bus;
struct serial;
struct virtio_device;
struct virtio_pci;

/* Why the vCPUs stop. The first reason wins. */
enum vm_end {
	VM_RUNNING = 0,
	VM_END_POWEROFF,
	VM_END_REBOOT,
	VM_END_PANIC,
	VM_END_CRASH,  /* triple fault, or an instruction KVM cannot run */
	VM_END_EXIT,   /* the exit port; vm->guest_status */
	VM_END_KILLED, /* by force, from the host */
	VM_END_ERROR,  /* the VMM failed */
};

struct vm_device {
	struct virtio_device *dev;
	struct virtio_pci *pci;
	void (*destroy)(struct virtio_device *dev);
};

struct vm {
	const struct vm_config *config;
	struct guest_memory memory;
	struct iovec ram[MEMORY_REGIONS]; /* the same, for links */
	_Atomic bool pinned;		  /* an RDMA adapter knows its pages */
	struct kvm kvm;
	struct bus pio, mmio;
	struct irq_router router;
	struct pci_bus *pci;
	struct serial *serial;
	struct console *console;
	struct agent *agent;  /* NULL: no --agent */
	struct ctl_server *ctl; /* NULL: no --ctl */
	struct loop *control; /* the main thread's: signals, control socket, console */
	struct loop *sidecar; /* the data path's */
	pthread_t sidecar_thread;
	bool sidecar_running;
	struct overlay *overlay;
	struct vm_device devices[VM_DEVICES_MAX];
	unsigned device_count;
	int kernel_fd, initrd_fd;
	int signal_fd;
	struct loop_watch signals;
	struct vcpu vcpus[VCPUS_MAX];
	uint64_t started_ns; /* CLOCK_MONOTONIC */
	uint64_t boots;      /* times powered on; main thread */

	/* Shared by all threads. */
	atomic_int end;          /* enum vm_end */
	atomic_int guest_status; /* with VM_END_EXIT */
	atomic_uint events;      /* pending bits of PORT_EVENT */
	pthread_mutex_t pause_lock;
	pthread_cond_t pause_changed;
	bool paused;       /* under pause_lock */
	unsigned parked;   /* vCPUs waiting, under pause_lock */
	bool stop_asked;   /* main thread: the power button was pressed, */
	struct loop_timer stop_timer; /* and is pressed again */
};

/* vm_create - build the machine: memory, buses, devices, sockets. 0, or -errno after a message. */
int vm_create(struct vm *vm, const struct vm_config *config);
/* vm_run - run until the guest or the host ends it; returns the exit status of the process. */
int vm_run(struct vm *vm);
/* vm_destroy - free everything; removes the socket files. Harmless on a partly made machine. */
void vm_destroy(struct vm *vm);

/* vm_finish - stop the machine for a reason; the first one counts. Any thread. */
void vm_finish(struct vm *vm, enum vm_end end);
/* vm_ask_stop - ask the guest to shut down: press its power button, now and every 5 s. Control thread. */
void vm_ask_stop(struct vm *vm);
/* vm_press_power - press the power button. Any thread. */
void vm_press_power(struct vm *vm);
/* vm_pause, vm_resume - hold the vCPUs, and let them go. Control thread. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);
/* vm_park - a vCPU thread waits here while the machine is paused. */
void vm_park(struct vm *vm);
/* thread_pin - run the calling thread on this host CPU only, or anywhere (PIN_NONE). */
void thread_pin(int cpu);
/* vm_state_name - "running", "paused" or "stopping". Control thread. */
const char *vm_state_name(struct vm *vm);

/* platform_create - make the fixed devices (serial, panic and control ports) on the PIO bus. 0 or -errno. */
int platform_create(struct vm *vm);

#endif
