/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The VMM's side of interrupts: which eventfd becomes which message (MSI) or I/O APIC pin.
 * Devices see only vmm/irq.h.
 */
#ifndef WEFT_IRQ_ROUTER_H
#define WEFT_IRQ_ROUTER_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/irq.h"

#define IRQ_ROUTES_MAX 1024

/* Set-up order: irq_router_init, irq_set_create for every function, then irq_router_start with the VM. */
struct irq_router {
	pthread_mutex_t lock; /* protects everything here; vCPU threads and set-up */
	int vm_fd;            /* -1 while there is no KVM VM */
	struct kvm_irq_routing *table;
	uint32_t gsi_next; /* first GSI not yet given to a vector */
};

/* irq_router_init - Returns 0 or -ENOMEM. */
int irq_router_init(struct irq_router *router);
void irq_router_destroy(struct irq_router *router);
/* irq_router_start - give the new VM its I/O APIC routes. Returns 0 or -errno. */
int irq_router_start(struct irq_router *router, int vm_fd);
/* irq_router_stop - the VM is about to be closed; every vector must be unbound by now. */
void irq_router_stop(struct irq_router *router);

/* irq_set_create - @count vectors, not bound to anything. NULL with errno set. */
struct irq_set *irq_set_create(struct irq_router *router, unsigned count);
void irq_set_destroy(struct irq_set *set);

/**
 * irq_set_program - change what a vector does.
 * @active:  signals are delivered as the message @address/@data; otherwise they are kept
 *
 * A signal that came while the vector was inactive is delivered when it becomes active.
 */
void irq_set_program(struct irq_set *set, unsigned vector, bool active, uint64_t address, uint32_t data);
/* irq_set_pending - is a kept signal waiting? (the pending bit of MSI-X) */
bool irq_set_pending(const struct irq_set *set, unsigned vector);
/* irq_set_reset - every vector inactive, nothing pending. */
void irq_set_reset(struct irq_set *set);

/* irq_line - set the level of an I/O APIC pin. Any thread. */
void irq_line(struct irq_router *router, unsigned gsi, int level);

#endif
