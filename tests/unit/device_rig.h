/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio device on guest memory, a loop, and a driver for every queue: what tests of devices
 * share.
 *
 * The loop runs only within rig_turns(); between these the test's thread is the sidecar.
 */
#ifndef WEFT_TEST_DEVICE_RIG_H
#define WEFT_TEST_DEVICE_RIG_H

#include "devices/devices.h"
#include "devices/virtio.h"
#include "tests/unit/fake_irq.h"
#include "tests/unit/ring_driver.h"

#define RIG_MEMORY (8ull << 20)
#define RIG_QUEUES 10
#define RIG_DATA   0x100000ull /* guest memory from here on is the test's */

struct device_rig {
	struct guest_memory mem;
	struct loop *loop;
	struct device_env env;
	struct irq_set irqs;
	struct virtio_device *dev;
	struct ring_driver rings[RIG_QUEUES];
};

/* rig_begin - memory and a loop; fill in rig->dev, then rig_start(). */
void rig_begin(struct device_rig *rig);
/* rig_end - free what rig_begin() made; the device is stopped and destroyed before. */
void rig_end(struct device_rig *rig);
/* rig_start - lay new rings of @size entries for all queues, negotiate, DRIVER_OK. */
void rig_start(struct device_rig *rig, uint64_t features, uint16_t size);
/* rig_reset - stop the device and start it as before, with new rings. */
void rig_reset(struct device_rig *rig);
/* rig_turns - let the loop make @n turns. */
void rig_turns(struct device_rig *rig, unsigned n);

/* rig_host - guest memory as the test sees it. */
void *rig_host(struct device_rig *rig, uint64_t gpa);
/* rig_add - add a request and show it, without a doorbell. Returns false when the ring is full. */
bool rig_add(struct device_rig *rig, unsigned queue, const struct ring_buffer *buffers,
	     unsigned count);
/* rig_send - rig_add(), and ring the doorbell. Asserts that there was room. */
void rig_send(struct device_rig *rig, unsigned queue, const struct ring_buffer *buffers,
	      unsigned count);
/* rig_used - the bytes written of the next used entry, or -1: there is none. */
int64_t rig_used(struct device_rig *rig, unsigned queue);

#endif
