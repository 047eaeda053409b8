/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupt routing
 *
 * Theory of operation: each MSI-X vector owns an eventfd and a GSI for the life of the process. While a
 * vector is *active* (MSI-X on, neither function nor vector masked) KVM holds its eventfd as an irqfd and
 * turns a write into the message of the GSI's route. While it is not, a write stays in the eventfd: that
 * is the pending bit, and KVM delivers it by itself when the irqfd is bound again. The routing table is given
 * to KVM only when a vector becomes active with another message, because each update waits for a grace
 * period in the kernel.
 *
 * irq_signal() runs on any thread and touches only the eventfd; everything else happens under the router's
 * lock, on vCPU threads (MSI-X table writes) or during set-up.
 */
#include "vmm/irq_router.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/platform.h"

#define IOAPIC_PINS GSI_MSI_FIRST

struct irq_vector {
	int fd;
	uint32_t gsi;
	bool active;
	struct kvm_irq_routing_entry *route; /* in the router's table, NULL before its first use */
};

struct irq_set {
	struct irq_router *router;
	unsigned count;
	struct irq_vector vectors[];
};

int irq_router_init(struct irq_router *router)
{
	size_t size = sizeof(*router->table) + IRQ_ROUTES_MAX * sizeof(router->table->entries[0]);

	pthread_mutex_init(&router->lock, NULL);
	router->vm_fd = -1;
	router->gsi_next = GSI_MSI_FIRST;
	router->table = calloc(1, size);
	return router->table ? 0 : -ENOMEM;
}

void irq_router_destroy(struct irq_router *router)
{
	free(router->table);
	pthread_mutex_destroy(&router->lock);
}

int irq_router_start(struct irq_router *router, int vm_fd)
{
	struct kvm_irq_routing *table = router->table;

	table->nr = IOAPIC_PINS;
	for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
		table->entries[pin] = (struct kvm_irq_routing_entry){
			.gsi = pin,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = pin},
		};
	if (ioctl(vm_fd, KVM_SET_GSI_ROUTING, table))
		return -errno;
	router->vm_fd = vm_fd;
	return 0;
}

void irq_router_stop(struct irq_router *router)
{
	router->vm_fd = -1;
}

void irq_line(struct irq_router *router, unsigned gsi, int level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = (uint32_t)level};

	if (router->vm_fd >= 0)
		ioctl(router->vm_fd, KVM_IRQ_LINE, &line);
}

struct irq_set *irq_set_create(struct irq_router *router, unsigned count)
{
	struct irq_set *set;

	if (router->gsi_next + count > IRQ_ROUTES_MAX) {
		errno = ENOSPC;
		return NULL;
	}
	set = calloc(1, sizeof(*set) + count * sizeof(set->vectors[0]));
	if (!set)
		return NULL;
	set->router = router;
	for (; set->count < count; set->count++) {
		struct irq_vector *v = &set->vectors[set->count];

		v->gsi = router->gsi_next++;
		v->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (v->fd < 0) {
			irq_set_destroy(set);
			return NULL;
		}
	}
	return set;
}

void irq_set_destroy(struct irq_set *set)
{
	if (!set)
		return;
	for (unsigned i = 0; i < set->count; i++)
		close(set->vectors[i].fd);
	free(set);
}

void irq_signal(struct irq_set *set, uint16_t vector)
{
	if (vector < set->count)
		eventfd_write(set->vectors[vector].fd, 1);
}

static void vector_bind(struct irq_router *router, struct irq_vector *v, bool bind)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)v->fd,
		.gsi = v->gsi,
		.flags = bind ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	if (v->active == bind)
		return;
	ioctl(router->vm_fd, KVM_IRQFD, &irqfd);
	v->active = bind;
}

/* Point the vector's GSI at a message; tells KVM only if that is news. */
static void vector_route(struct irq_router *router, struct irq_vector *v, uint64_t address,
			 uint32_t data)
{
	struct kvm_irq_routing_entry route = {
		.gsi = v->gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {
			.address_lo = (uint32_t)address,
			.address_hi = (uint32_t)(address >> 32),
			.data = data,
		},
	};

	/* NOLINTNEXTLINE: padding that differs costs one system call */
	if (v->route && !memcmp(v->route, &route, sizeof(route)))
		return;
	/* What stands in a new entry is of the time before a reboot, and KVM does not know of it. */
	if (!v->route)
		v->route = &router->table->entries[router->table->nr++];
	*v->route = route;
	ioctl(router->vm_fd, KVM_SET_GSI_ROUTING, router->table);
}

void irq_set_program(struct irq_set *set, unsigned vector, bool active, uint64_t address, uint32_t data)
{
	struct irq_router *router = set->router;
	struct irq_vector *v = &set->vectors[vector];

	pthread_mutex_lock(&router->lock);
	if (router->vm_fd >= 0) {
		if (active)
			vector_route(router, v, address, data);
		vector_bind(router, v, active);
	}
	pthread_mutex_unlock(&router->lock);
}

bool irq_set_pending(const struct irq_set *set, unsigned vector)
{
	struct pollfd p = {.fd = set->vectors[vector].fd, .events = POLLIN};

	return !set->vectors[vector].active && poll(&p, 1, 0) > 0;
}

void irq_set_reset(struct irq_set *set)
{
	eventfd_t count;

	pthread_mutex_lock(&set->router->lock);
	for (unsigned i = 0; i < set->count; i++) {
		struct irq_vector *v = &set->vectors[i];

		vector_bind(set->router, v, false);
		v->route = NULL;
		eventfd_read(v->fd, &count);
	}
	pthread_mutex_unlock(&set->router->lock);
}
