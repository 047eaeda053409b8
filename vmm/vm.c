/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's life
 *
 * Theory of operation: what lasts as long as the process (guest memory, buses, devices, sockets, the two loops) is
 * made once by vm_create(). What KVM holds (the VM, its vCPUs, routes) is made by power_on() and unmade by
 * power_off(), so that a reboot is simply both in a row on clean memory.
 *
 * Threads: the main thread runs the control loop; the sidecar runs the data path; each vCPU has its own. A run ends by
 * vm_finish() from any of them: the first reason is kept, the vCPUs are kicked and the control loop is stopped;
 * the main thread then takes everything down in the opposite order of its making.
 */
#include "vmm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/devices.h"
#include "devices/serial.h"
#include "devices/virtio_pci.h"
#include "guest-images/agent/agent_protocol.h"
#include "vmm/acpi.h"
#include "vmm/agent.h"
#include "vmm/console.h"
#include "vmm/ctl.h"
#include "vnet/message.h"
#include "vmm/pci.h"
#include "vmm/sandbox.h"
#include "vnet/core.h"
#include "vnet/ctl_server.h"
#include "vnet/loop.h"
#include "vnet/overlay.h"

#define CONTROL_LOOP_ENTRIES 32
#define SIDECAR_LOOP_ENTRIES 256
#define DISK_SIZE_MIN        512 /* one sector */
#define PRESS_AGAIN_NS       5000000000ull
/* Address space, bytes: of a thread with its stack and heap, and of all else. */
#define LOCKED_THREAD        (80ull << 20)
#define LOCKED_OTHER         (128ull << 20)

/* --- the end -------------------------------------------------------------------------------- */

static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->cpus; i++)
		if (vm->vcpus[i].running)
			vcpu_kick(&vm->vcpus[i]);
}

void vm_finish(struct vm *vm, enum vm_end end)
{
	int running = VM_RUNNING;

	if (!atomic_compare_exchange_strong(&vm->end, &running, (int)end))
		return;
	/* vm_pause() may be waiting for a vCPU that ends instead of parking. */
	pthread_mutex_lock(&vm->pause_lock);
	pthread_cond_broadcast(&vm->pause_changed);
	pthread_mutex_unlock(&vm->pause_lock);
	loop_stop(vm->control);
}

/* What the process's exit status is to say. */
static int exit_status(const struct vm *vm)
{
	int status = atomic_load(&vm->guest_status);

	switch (atomic_load(&vm->end)) {
	case VM_END_POWEROFF:
	case VM_END_REBOOT:
		return STATUS_OK;
	case VM_END_PANIC:
		return STATUS_PANIC;
	case VM_END_CRASH:
		return STATUS_CRASH;
	case VM_END_EXIT:
		return status ? EXIT_GUEST + (status & 63) : STATUS_OK;
	case VM_END_KILLED:
		return STATUS_KILLED;
	default:
		return STATUS_ENVIRONMENT;
	}
}

/* --- pause ---------------------------------------------------------------------------------- */

void vm_park(struct vm *vm)
{
	pthread_mutex_lock(&vm->pause_lock);
	vm->parked++;
	pthread_cond_broadcast(&vm->pause_changed);
	while (vm->paused && atomic_load(&vm->end) == VM_RUNNING)
		pthread_cond_wait(&vm->pause_changed, &vm->pause_lock);
	vm->parked--;
	pthread_mutex_unlock(&vm->pause_lock);
}

void vm_pause(struct vm *vm)
{
	pthread_mutex_lock(&vm->pause_lock);
	if (!vm->paused) {
		vm->paused = true;
		kick_all(vm);
		while (vm->parked < vm->config->cpus && atomic_load(&vm->end) == VM_RUNNING)
			pthread_cond_wait(&vm->pause_changed, &vm->pause_lock);
	}
	pthread_mutex_unlock(&vm->pause_lock);
}

/* Peers may have forgotten where the guest is. Runs on the sidecar. */
static void announce_nics(void *context)
{
	struct vm *vm = context;

	for (unsigned i = 0; i < vm->device_count; i++)
		if (vm->devices[i].destroy == virtio_net_destroy)
			virtio_net_announce(vm->devices[i].dev);
}

void vm_resume(struct vm *vm)
{
	bool was_paused;

	pthread_mutex_lock(&vm->pause_lock);
	was_paused = vm->paused;
	/* Tells a guest's watchdogs that the lost time was ours (Linux Documentation/virt/kvm/api.rst, 4.79). */
	for (unsigned i = 0; was_paused && i < vm->config->cpus; i++)
		ioctl(vm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
	vm->paused = false;
	pthread_cond_broadcast(&vm->pause_changed);
	pthread_mutex_unlock(&vm->pause_lock);
	if (was_paused)
		loop_call(vm->sidecar, announce_nics, vm);
}

const char *vm_state_name(struct vm *vm)
{
	bool paused;

	if (vm->stop_asked || atomic_load(&vm->end) != VM_RUNNING)
		return "stopping";
	pthread_mutex_lock(&vm->pause_lock);
	paused = vm->paused;
	pthread_mutex_unlock(&vm->pause_lock);
	return paused ? "paused" : "running";
}

/* A guest that is still starting has no ear for the button, one that shuts down already takes no notice of it. */
static void stop_press(struct loop_timer *timer)
{
	struct vm *vm = timer->context;

	vm_press_power(vm);
	loop_arm(vm->control, timer, PRESS_AGAIN_NS);
}

void vm_ask_stop(struct vm *vm)
{
	vm->stop_asked = true;
	vm_resume(vm); /* a paused guest cannot shut down */
	stop_press(&vm->stop_timer);
}

/* --- signals -------------------------------------------------------------------------------- */

/* The first SIGTERM (or SIGINT, SIGHUP) asks the guest to shut down, the second one ends it. */
static void signal_ready(struct loop_watch *watch, uint32_t revents)
{
	struct vm *vm = watch->context;
	struct signalfd_siginfo info;

	(void)revents;
	if (read(vm->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (vm->stop_asked)
		vm_finish(vm, VM_END_KILLED);
	else
		vm_ask_stop(vm);
}

static void kick_handler(int signal)
{
	(void)signal; /* its arrival is all: KVM_RUN returns EINTR */
}

static int signals_create(struct vm *vm)
{
	struct sigaction kick = {.sa_handler = kick_handler};
	struct sigaction ignore = {.sa_handler = SIG_IGN}, hangup;
	sigset_t set;

	sigaction(VCPU_KICK_SIGNAL, &kick, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGXFSZ, &ignore, NULL); /* a file past the limit is an error */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	/* Under nohup it is ignored, and a signalfd would report it all the same. */
	if (!sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN)
		sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	vm->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (vm->signal_fd < 0)
		return -errno;
	vm->signals = (struct loop_watch){.ready = signal_ready, .context = vm};
	return loop_watch(vm->control, &vm->signals, vm->signal_fd, POLLIN);
}

/* --- making the machine --------------------------------------------------------------------- */

static int open_file(const char *option, const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		return fail(-errno, "--%s: cannot open '%s': %s", option, path, strerror(errno));
	return fd;
}

static int create_files(struct vm *vm)
{
	vm->kernel_fd = open_file("kernel", vm->config->kernel, O_RDONLY);
	if (vm->kernel_fd < 0)
		return vm->kernel_fd;
	if (vm->config->initrd) {
		vm->initrd_fd = open_file("initrd", vm->config->initrd, O_RDONLY);
		if (vm->initrd_fd < 0)
			return vm->initrd_fd;
	}
	return 0;
}

static int lock_memory(const struct vm *vm)
{
	const uint64_t room = LOCKED_OTHER + vm->config->cpus * LOCKED_THREAD;
	int rc = memory_lock(&vm->memory, room);

	if (rc == -ENOMEM || rc == -EAGAIN || rc == -EPERM)
		return fail(rc, "--lock-memory: the limit on locked memory is too small: allow %llu KiB (ulimit -l, "
				"LimitMEMLOCK= of a service)",
			    (unsigned long long)(vm->config->memory + 2 * room) >> 10);
	return rc ? fail(rc, "--lock-memory: %s", strerror(-rc)) : 0;
}

static int create_memory(struct vm *vm)
{
	unsigned bits;
	uint64_t max = kvm_memory_max(&vm->kvm, &bits);
	int rc;

	if (vm->config->memory > max)
		return fail(-E2BIG, "--memory: this host's physical addresses have %u bits: give at most %lluM", bits,
			    (unsigned long long)(max >> 20));
	rc = memory_create(&vm->memory, vm->config->memory, vm->config->hugepages);
	if (rc == -ENOMEM && vm->config->hugepages)
		return fail(rc, "--hugepages: the host has too few: write the number of 2 MiB pages to "
				"/proc/sys/vm/nr_hugepages");
	if (rc)
		return fail(rc, "--memory: cannot have %llu MiB: %s",
			    (unsigned long long)(vm->config->memory >> 20), strerror(-rc));
	return vm->config->lock_memory ? lock_memory(vm) : 0;
}

/* Refused now rather than ignored later. */
static int check_pins(const struct vm_config *config)
{
	cpu_set_t usable;
	int cpu = config->pin_sidecar;

	if (sched_getaffinity(0, sizeof(usable), &usable))
		return fail(-errno, "--pin: %s", strerror(errno));
	for (unsigned i = 0; cpu == PIN_NONE || CPU_ISSET(cpu, &usable); i++) {
		if (i == config->cpus)
			return 0;
		cpu = config->pin_vcpus[i];
	}
	return fail(-EINVAL, "--pin: this process may not use CPU %d: nproc and taskset -p tell which", cpu);
}

void thread_pin(int cpu)
{
	cpu_set_t set;

	if (cpu == PIN_NONE)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		warn("--pin: CPU %d: %s", cpu, strerror(errno));
}

static int create_loops(struct vm *vm)
{
	vm->control = loop_create(CONTROL_LOOP_ENTRIES);
	if (vm->control)
		vm->sidecar = loop_create(SIDECAR_LOOP_ENTRIES);
	if (!vm->sidecar)
		return fail(-errno, "io_uring: %s: allow it (sysctl kernel.io_uring_disabled=0, and in a "
				    "container its seccomp profile)",
			    strerror(errno));
	return 0;
}

/* Put a device on the PCI bus; on failure it is destroyed. */
static int add_device(struct vm *vm, const char *option, struct virtio_device *dev,
		      void (*destroy)(struct virtio_device *dev))
{
	struct vm_device *d = &vm->devices[vm->device_count];
	int rc = -errno;

	if (!dev)
		return fail(rc, "--%s: %s", option, strerror(-rc));
	*d = (struct vm_device){.dev = dev, .destroy = destroy};
	d->pci = virtio_pci_create(dev);
	if (!d->pci) {
		rc = fail(-errno, "--%s: %s", option, strerror(errno));
		destroy(dev);
		return rc;
	}
	vm->device_count++;
	rc = pci_attach(vm->pci, virtio_pci_function(d->pci));
	if (rc)
		return fail(rc, "--%s: %s", option, strerror(-rc));
	return 0;
}

/* What the user wrote about links and routes is judged here, so a mistake there is one of usage. */
static int create_overlay(struct vm *vm)
{
	char error[LINK_ERROR_MAX] = "";
	struct overlay_options options = vm->config->overlay;
	int rc;

	for (unsigned i = 0; i < vm->memory.count; i++)
		vm->ram[i] = (struct iovec){vm->memory.regions[i].host, vm->memory.regions[i].size};
	options.memory = vm->ram;
	options.memory_count = vm->memory.count;
	options.memory_pinned = &vm->pinned;
	rc = overlay_create(vm->sidecar, &options, &vm->overlay, error);
	if (rc == -EINVAL || rc == -EEXIST)
		die(STATUS_USAGE, "%s", error);
	return rc ? fail(rc, "%s", error) : 0;
}

static int create_nics(struct vm *vm, const struct device_env *env)
{
	uint32_t mtu = overlay_mtu(vm->overlay);
	char name[PORT_NAME_MAX];
	int rc;

	for (unsigned i = 0; i < vm->config->net_count; i++) {
		const struct net_config *net = &vm->config->nets[i];
		struct virtio_net_options options = {
			.name = name,
			.mtu = net->mtu ? net->mtu : mtu,
			.queue_size = net->queue_size,
			.pairs = net->queues,
			.offload = vm->config->overlay.offload,
			.mode = net->mode,
			.irq = net->irq,
			.coalesce_ns = net->coalesce_ns,
			.inline_doorbell = net->inline_doorbell,
		};
		struct virtio_device *dev;

		snprintf(name, sizeof(name), "nic%u", i);
		memcpy(options.mac, net->mac, sizeof(options.mac));
		dev = virtio_net_create(env, &options);
		rc = add_device(vm, "net", dev, virtio_net_destroy);
		if (!rc)
			rc = core_attach(overlay_core(vm->overlay), virtio_net_port(dev));
		if (rc)
			return rc;
	}
	return 0;
}

static int create_disks(struct vm *vm, const struct device_env *env)
{
	for (unsigned i = 0; i < vm->config->disk_count; i++) {
		const struct disk_config *disk = &vm->config->disks[i];
		int fd = open_file("disk", disk->path, disk->read_only ? O_RDONLY : O_RDWR);
		struct virtio_device *dev;
		struct stat st;
		int rc;

		if (fd < 0)
			return fd;
		if (fstat(fd, &st) || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
			close(fd);
			return fail(-EINVAL, "--disk: '%s' is neither a file nor a block device",
				    disk->path);
		}
		if (lseek(fd, 0, SEEK_END) < DISK_SIZE_MIN) {
			close(fd);
			return fail(-EINVAL, "--disk: '%s' is empty: give it a size, for example truncate -s 1G",
				    disk->path);
		}
		dev = virtio_block_create(env, fd, disk->read_only, disk->serial ? disk->serial : "");
		if (!dev)
			close(fd);
		rc = add_device(vm, "disk", dev, virtio_block_destroy);
		if (rc)
			return rc;
	}
	return 0;
}

static int create_agent(struct vm *vm, const struct device_env *env)
{
	struct console_port_options port = {.name = AGENT_PORT_NAME};
	struct virtio_device *dev;
	char error[256];
	int rc;

	if (!vm->config->agent_path)
		return 0;
	vm->agent = agent_create(vm->sidecar, vm->config->agent_path, error, sizeof(error));
	if (!vm->agent)
		return fail(-EADDRNOTAVAIL, "--agent: %s", error);
	port.backend = agent_backend(vm->agent);
	dev = virtio_console_create(env, &port, 1);
	rc = add_device(vm, "agent", dev, virtio_console_destroy);
	if (!rc)
		agent_attach(vm->agent, dev, 0);
	return rc;
}

static int create_devices(struct vm *vm)
{
	struct device_env env = {.mem = &vm->memory, .loop = vm->sidecar};
	int rc = irq_router_init(&vm->router);

	if (!rc)
		rc = platform_create(vm);
	if (rc)
		return fail(rc, "devices: %s", strerror(-rc));
	vm->pci = pci_create(&vm->pio, &vm->mmio, &vm->router);
	if (!vm->pci)
		return fail(-ENOMEM, "devices: %s", strerror(ENOMEM));
	rc = create_nics(vm, &env);
	if (!rc)
		rc = create_disks(vm, &env);
	if (!rc && vm->config->rng)
		rc = add_device(vm, "rng", virtio_rng_create(&env), virtio_rng_destroy);
	if (!rc)
		rc = create_agent(vm, &env);
	return rc;
}

int vm_create(struct vm *vm, const struct vm_config *config)
{
	int rc;

	*vm = (struct vm){.config = config, .kernel_fd = -1, .initrd_fd = -1, .signal_fd = -1};
	vm->stop_timer = (struct loop_timer){.expired = stop_press, .context = vm};
	vm->started_ns = loop_now();
	pthread_mutex_init(&vm->pause_lock, NULL);
	pthread_cond_init(&vm->pause_changed, NULL);
	rc = kvm_open(&vm->kvm);
	if (!rc)
		rc = check_pins(config);
	if (!rc)
		rc = create_files(vm);
	if (!rc)
		rc = create_memory(vm);
	if (!rc)
		rc = create_loops(vm);
	if (!rc)
		rc = create_overlay(vm);
	if (!rc && !(vm->console = console_create(vm)))
		rc = -errno;
	if (!rc)
		rc = create_devices(vm);
	if (!rc && config->ctl_path)
		rc = ctl_create(vm, &vm->ctl);
	if (!rc && (rc = signals_create(vm)))
		fail(rc, "signals: %s", strerror(-rc));
	return rc;
}

/* The devices stopped with the vCPUs (pci_stop()), so that none calls a backend which is gone. */
void vm_destroy(struct vm *vm)
{
	ctl_server_destroy(vm->ctl);
	agent_destroy(vm->agent);
	overlay_destroy(vm->overlay);
	pci_destroy(vm->pci);
	for (unsigned i = 0; i < vm->device_count; i++) {
		virtio_pci_destroy(vm->devices[i].pci);
		vm->devices[i].destroy(vm->devices[i].dev);
	}
	console_destroy(vm->console);
	serial_destroy(vm->serial);
	irq_router_destroy(&vm->router);
	if (vm->signal_fd >= 0) {
		loop_unwatch(&vm->signals);
		close(vm->signal_fd);
	}
	loop_destroy(vm->sidecar);
	loop_destroy(vm->control);
	memory_destroy(&vm->memory);
	kvm_close(&vm->kvm);
	if (vm->kernel_fd >= 0)
		close(vm->kernel_fd);
	if (vm->initrd_fd >= 0)
		close(vm->initrd_fd);
	pthread_cond_destroy(&vm->pause_changed);
	pthread_mutex_destroy(&vm->pause_lock);
}

/* --- running it ----------------------------------------------------------------------------- */

static int load_guest(struct vm *vm, struct boot_state *boot)
{
	struct boot_request request = {
		.kernel_fd = vm->kernel_fd,
		.initrd_fd = vm->initrd_fd,
		.cmdline = vm->config->cmdline,
		.cpus = vm->config->cpus,
		.tsc_khz = vm->kvm.tsc_khz,
	};
	int rc;

	rc = acpi_write(&vm->memory, vm->config->cpus);
	if (rc)
		return fail(rc, "--memory: no room for the ACPI tables: give more");
	return boot_load(&vm->memory, &request, boot);
}

static int power_on(struct vm *vm)
{
	struct boot_state boot;
	int rc = kvm_vm_create(&vm->kvm, &vm->memory);

	if (!rc && (rc = irq_router_start(&vm->router, vm->kvm.vm_fd)))
		fail(rc, "/dev/kvm: interrupt routing: %s", strerror(-rc));
	if (!rc && (rc = pci_start(vm->pci, vm->kvm.vm_fd)))
		fail(rc, "/dev/kvm: doorbells: %s", strerror(-rc));
	if (!rc)
		rc = load_guest(vm, &boot);
	for (unsigned i = 0; i < vm->config->cpus && !rc; i++)
		rc = vcpu_create(&vm->vcpus[i], vm, i, &boot);
	return rc;
}

static void power_off(struct vm *vm)
{
	kick_all(vm);
	for (unsigned i = 0; i < vm->config->cpus; i++)
		vcpu_join(&vm->vcpus[i]);
	pci_stop(vm->pci);
	serial_reset(vm->serial);
	irq_router_stop(&vm->router);
	for (unsigned i = 0; i < vm->config->cpus; i++)
		vcpu_destroy(&vm->vcpus[i]);
	kvm_vm_destroy(&vm->kvm);
}

static void *sidecar_main(void *context)
{
	struct vm *vm = context;
	int rc;

	pthread_setname_np(pthread_self(), "sidecar");
	thread_pin(vm->config->pin_sidecar);
	rc = loop_run(vm->sidecar);
	if (rc) {
		warn("sidecar: %s", strerror(-rc));
		vm_finish(vm, VM_END_ERROR);
	}
	return NULL;
}

static int sidecar_start(struct vm *vm)
{
	int rc = pthread_create(&vm->sidecar_thread, NULL, sidecar_main, vm);

	if (rc)
		return fail(-rc, "sidecar: cannot start its thread: %s", strerror(rc));
	vm->sidecar_running = true;
	return 0;
}

static void sidecar_stop(struct vm *vm)
{
	if (!vm->sidecar_running)
		return;
	loop_stop(vm->sidecar);
	pthread_join(vm->sidecar_thread, NULL);
	vm->sidecar_running = false;
}

/* From power-on to the end of the vCPUs. */
static int run_once(struct vm *vm)
{
	int rc;

	atomic_store(&vm->events, 0);
	rc = power_on(vm);
	for (unsigned i = 0; i < vm->config->cpus && !rc; i++)
		rc = vcpu_start(&vm->vcpus[i]);
	vm->boots++;
	if (!rc)
		rc = loop_run(vm->control);
	if (rc)
		vm_finish(vm, VM_END_ERROR);
	power_off(vm);
	return rc;
}

/* A reboot begins with clean memory. Pages that an RDMA adapter knows must stay those that the guest has. */
static int clear_memory(struct vm *vm)
{
	int rc = memory_clear(&vm->memory, vm->config->lock_memory || atomic_load(&vm->pinned));

	return rc ? fail(rc, "reboot: cannot clear guest RAM: %s", strerror(-rc)) : 0;
}

/* Leaves any end but a reboot as it is: the sidecar may have failed before, or between, two runs. */
static bool restart(struct vm *vm)
{
	int reboot = VM_END_REBOOT;

	return vm->config->restart && !vm->stop_asked &&
	       atomic_compare_exchange_strong(&vm->end, &reboot, VM_RUNNING);
}

/* By the links that there are. Before the sidecar runs, which may change them. */
static unsigned sandbox_needs(struct vm *vm)
{
	const struct core *core = overlay_core(vm->overlay);
	unsigned needs = atomic_load(&vm->pinned) ? SANDBOX_IB : 0;

	for (unsigned i = 0; i < core_ports(core); i++) {
		const char *type = core_port(core, i) ? core_port(core, i)->ops->type : "";

		if (!strcmp(type, "shm") || !strcmp(type, "passt"))
			needs |= SANDBOX_UNIX;
		else if (!strcmp(type, "eth"))
			needs |= SANDBOX_PACKET;
		else if (!strcmp(type, "tap"))
			needs |= SANDBOX_TAP;
		else if (!strcmp(type, "ib"))
			needs |= SANDBOX_IB;
	}
	return needs;
}

int vm_run(struct vm *vm)
{
	const unsigned needs = sandbox_needs(vm);
	int rc = sidecar_start(vm);

	if (!rc && vm->config->sandbox && (rc = sandbox_enter(needs)))
		fail(rc, "--sandbox: the kernel refuses the filter: %s: --sandbox off runs without",
		     strerror(-rc));
	if (!rc) {
		console_start(vm->console);
		do {
			rc = vm->boots ? clear_memory(vm) : 0;
			if (!rc)
				rc = run_once(vm);
		} while (!rc && restart(vm));
	}
	sidecar_stop(vm);
	return rc ? STATUS_ENVIRONMENT : exit_status(vm);
}
