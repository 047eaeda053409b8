/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A virtio device as a PCI function (virtio 1.2, 4.1): modern only, interrupts by MSI-X only. BAR 0
 * holds four windows, each on a page of its own: common configuration, ISR status, device
 * configuration, and one 4-byte doorbell per queue. The capabilities in fn->config say where they
 * are; one more, PCI_CFG, is a keyhole through which firmware reaches BAR 0 by configuration space
 * alone.
 *
 * Access of any size at any offset has a defined outcome. A read returns the bytes that lie there,
 * zeros where nothing does: it is cut out of an image of the window. A write counts when it hits
 * one field exactly; one of eight bytes is two of four. Anything else is ignored, as are writes
 * that the state forbids: a queue's registers while the queue is enabled, enabling while the driver
 * is ready, features once they are agreed.
 *
 * States, by the bits of device_status (virtio 1.2, 2.1 and 3.1):
 *   0            reset: the device is stopped, every register has its first value
 *   FEATURES_OK  the driver's choice was possible and is final (dev->features); else the bit stays
 * 0 DRIVER_OK    taken after FEATURES_OK only: queues and device are started NEEDS_RESET  set by
 * the device alone; DRIVER_OK is not taken any more The driver can add bits but never take one
 * away, except all of them by writing 0. That write returns after the device has stopped, so a
 * driver may free its memory as soon as it is back.
 *
 * Threads and locks: vp->lock guards the registers. Only vCPU threads (and set-up) take it, and one
 * of them holds it while it waits in loop_call() for the sidecar to start or stop the device. So
 * the sidecar must never take it: what the sidecar changes (the NEEDS_RESET bit, the ISR, the
 * generation) and what it reads of the registers (vectors) are atomics. It takes no lock of the bus
 * either: the bus may hold its own around config_written(). The data path knows nothing of any of
 * this.
 *
 * Doorbells: one eventfd per queue, watched on dev->loop. KVM counts the guest's writes in it; a
 * write that does come as an access (through the keyhole, or with no ioeventfd bound) is counted
 * there as well. Which queue rang is known by which eventfd fired: the value that the guest wrote
 * is never looked at, and offsets behind the last queue's ring nothing. A bell for a device that is
 * not served is read and forgotten. A bell from before a reset may come after it: "may have rung"
 * is the contract. A queue with inline_bell has no eventfd: the guest's write is an exit, and the
 * vCPU thread serves the queue itself while the loop sleeps, else leaves it to the loop
 * (loop_post()). Writes that come before that has begun are counted, as an eventfd would.
 *
 * With MSI-X only, the ISR carries nothing but the configuration bit (4.1.4.5.1): the queue bit is
 * due only where interrupts go by INTx, which this function does not have.
 *
 * Order of the end: vCPUs stopped, function taken off the bus (no ioeventfd left),
 * virtio_pci_destroy(), the device, its loop, guest memory.
 */
#include "devices/virtio_pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/irq.h"

#define VIRTIO_PCI_VENDOR   0x1af4
#define VIRTIO_PCI_DEVICE   0x1040 /* plus the device type (virtio 1.2, 4.1.2) */
#define VIRTIO_PCI_REVISION 1

/* BAR 0, bytes. */
#define WINDOW_SIZE    0x1000u
#define COMMON_START   0x0000u
#define ISR_START      0x1000u
#define DEVICE_START   0x2000u
#define DOORBELL_START 0x3000u
#define BAR_SIZE       0x4000u
#define DOORBELL_SIZE  4u /* notify_off_multiplier */

#define RING_FEATURES                                                                              \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |                        \
	 1ull << VIRTIO_RING_F_EVENT_IDX)
/* The bits that a driver may set; NEEDS_RESET is ours. */
#define STATUS_DRIVER                                                                              \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
	 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

struct doorbell {
	struct loop_watch watch; /* sidecar */
	struct virtio_pci *vp;
	unsigned index;
	int fd; /* -1: inline_bell, by what follows */
	struct loop_post post;
	_Atomic uint64_t rings; /* not heard yet; @post is on its way unless 0 */
};

struct virtio_pci {
	struct pci_function fn;
	struct virtio_device *dev;
	struct doorbell doorbells[VIRTIO_QUEUES_MAX];
	unsigned doorbell_count; /* created, and to be taken down */
	unsigned cfg_cap;	 /* offset of the PCI_CFG capability in fn.config */

	/* Atomics: vCPU threads and the sidecar. */
	uint8_t status;
	uint8_t isr;
	uint8_t generation;

	pthread_mutex_t lock; /* guards what follows, and the queues' registers in dev->queues[] */
	uint32_t device_feature_select;
	uint32_t driver_feature_select;
	uint64_t driver_features;
	uint16_t queue_select;
};

static struct virtio_pci *from_function(struct pci_function *fn)
{
	return container_of(fn, struct virtio_pci, fn);
}

/* --- the device's calls: sidecar, no lock ------------------------------------------------------
 */

static void config_interrupt(struct virtio_pci *vp)
{
	__atomic_fetch_or(&vp->isr, VIRTIO_PCI_ISR_CONFIG, __ATOMIC_RELEASE);
	irq_signal(vp->fn.irqs, __atomic_load_n(&vp->dev->config_vector, __ATOMIC_RELAXED));
}

static void device_raise_config(struct virtio_device *dev)
{
	struct virtio_pci *vp = dev->transport;

	__atomic_fetch_add(&vp->generation, 1, __ATOMIC_RELEASE);
	if (__atomic_load_n(&vp->status, __ATOMIC_ACQUIRE) & VIRTIO_CONFIG_S_DRIVER_OK)
		config_interrupt(vp);
}

static void device_needs_reset(struct virtio_device *dev)
{
	struct virtio_pci *vp = dev->transport;
	uint8_t old;

	old = __atomic_fetch_or(&vp->status, VIRTIO_CONFIG_S_NEEDS_RESET, __ATOMIC_ACQ_REL);
	if (old & VIRTIO_CONFIG_S_DRIVER_OK)
		config_interrupt(vp);
}

static void doorbell_heard(const struct doorbell *bell, uint64_t count)
{
	struct virtio_device *dev = bell->vp->dev;

	dev->queues[bell->index].kicks += count;
	virtio_ready(dev, bell->index);
}

static void doorbell_rang(struct loop_watch *watch, uint32_t revents)
{
	struct doorbell *bell = watch->context;
	uint64_t count;

	if (!(revents & POLLIN) || read(bell->fd, &count, sizeof(count)) != sizeof(count))
		return;
	doorbell_heard(bell, count);
}

static void doorbell_run(struct loop_post *post)
{
	struct doorbell *bell = container_of(post, struct doorbell, post);

	doorbell_heard(bell, atomic_exchange(&bell->rings, 0));
}

/* --- status and reset --------------------------------------------------------------------------
 */

static void start_call(void *arg)
{
	struct virtio_pci *vp = arg;

	vp->dev->irqs = vp->fn.irqs;
	virtio_start(vp->dev);
}

static void stop_call(void *arg)
{
	struct virtio_pci *vp = arg;

	virtio_stop(vp->dev);
}

static uint8_t status_get(const struct virtio_pci *vp)
{
	return __atomic_load_n(&vp->status, __ATOMIC_ACQUIRE);
}

static void queue_reset(struct virtio_queue *q)
{
	q->enabled = false;
	q->ring.size = q->size_max;
	q->ring.desc_gpa = q->ring.avail_gpa = q->ring.used_gpa = 0;
	__atomic_store_n(&q->vector, IRQ_NO_VECTOR, __ATOMIC_RELAXED);
}

static void registers_reset(struct virtio_pci *vp)
{
	struct virtio_device *dev = vp->dev;

	vp->device_feature_select = vp->driver_feature_select = 0;
	vp->driver_features = dev->features = 0;
	vp->queue_select = 0;
	__atomic_store_n(&dev->config_vector, IRQ_NO_VECTOR, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < dev->queue_count; i++)
		queue_reset(&dev->queues[i]);
	__atomic_store_n(&vp->isr, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&vp->status, 0, __ATOMIC_RELEASE);
}

static void device_reset(struct virtio_pci *vp)
{
	if (status_get(vp) & VIRTIO_CONFIG_S_DRIVER_OK)
		loop_call(vp->dev->loop, stop_call, vp);
	registers_reset(vp);
}

static bool features_agree(struct virtio_pci *vp)
{
	struct virtio_device *dev = vp->dev;

	if (vp->driver_features & ~dev->features_offered)
		return false;
	if (!(vp->driver_features & (1ull << VIRTIO_F_VERSION_1)))
		return false;
	dev->features = vp->driver_features;
	return true;
}

static void status_write(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	uint8_t add = value & STATUS_DRIVER & ~status_get(vp);
	uint8_t status;

	(void)offset;
	if (!value) {
		device_reset(vp);
		return;
	}
	if ((add & VIRTIO_CONFIG_S_FEATURES_OK) && !features_agree(vp))
		add &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	status = __atomic_or_fetch(&vp->status, add & ~VIRTIO_CONFIG_S_DRIVER_OK, __ATOMIC_ACQ_REL);
	if (!(add & VIRTIO_CONFIG_S_DRIVER_OK) || !(status & VIRTIO_CONFIG_S_FEATURES_OK) ||
	    (status & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	/* Set first: a device that breaks, or changes, in start() interrupts a driver that is
	 * ready. */
	__atomic_fetch_or(&vp->status, VIRTIO_CONFIG_S_DRIVER_OK, __ATOMIC_ACQ_REL);
	loop_call(vp->dev->loop, start_call, vp);
}

/* --- common configuration ----------------------------------------------------------------------
 */

/* Feature bits 32 * @select and up, as far as there are any. */
static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static uint64_t word_set(uint64_t old, unsigned high, uint32_t value)
{
	unsigned shift = high ? 32 : 0;

	return (old & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
}

/* The selected queue, or NULL if there is no such queue. */
static struct virtio_queue *queue_selected(struct virtio_pci *vp)
{
	return vp->queue_select < vp->dev->queue_count ? &vp->dev->queues[vp->queue_select] : NULL;
}

/* The selected queue if its registers may be written now. */
static struct virtio_queue *queue_idle(struct virtio_pci *vp)
{
	struct virtio_queue *q = queue_selected(vp);

	return q && !q->enabled ? q : NULL;
}

static void common_read(struct virtio_pci *vp, struct virtio_pci_common_cfg *c)
{
	const struct virtio_device *dev = vp->dev;
	const struct virtio_queue *q = queue_selected(vp);

	*c = (struct virtio_pci_common_cfg){
	    .device_feature_select = vp->device_feature_select,
	    .device_feature = feature_word(dev->features_offered, vp->device_feature_select),
	    .guest_feature_select = vp->driver_feature_select,
	    .guest_feature = feature_word(vp->driver_features, vp->driver_feature_select),
	    .msix_config = dev->config_vector,
	    .num_queues = dev->queue_count,
	    .device_status = status_get(vp),
	    .config_generation = __atomic_load_n(&vp->generation, __ATOMIC_ACQUIRE),
	    .queue_select = vp->queue_select,
	};
	if (!q)
		return;
	c->queue_size = q->ring.size;
	c->queue_msix_vector = q->vector;
	c->queue_enable = q->enabled;
	c->queue_notify_off = vp->queue_select;
	c->queue_desc_lo = (uint32_t)q->ring.desc_gpa;
	c->queue_desc_hi = q->ring.desc_gpa >> 32;
	c->queue_avail_lo = (uint32_t)q->ring.avail_gpa;
	c->queue_avail_hi = q->ring.avail_gpa >> 32;
	c->queue_used_lo = (uint32_t)q->ring.used_gpa;
	c->queue_used_hi = q->ring.used_gpa >> 32;
}

static void select_write(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	if (offset == VIRTIO_PCI_COMMON_DFSELECT)
		vp->device_feature_select = value;
	else if (offset == VIRTIO_PCI_COMMON_GFSELECT)
		vp->driver_feature_select = value;
	else
		vp->queue_select = value;
}

static void feature_write(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	(void)offset;
	if (vp->driver_feature_select < 2 && !(status_get(vp) & VIRTIO_CONFIG_S_FEATURES_OK))
		vp->driver_features =
		    word_set(vp->driver_features, vp->driver_feature_select, value);
}

/* A vector that the function does not have reads back as none (4.1.5.1.2.1). */
static void vector_write(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	struct virtio_queue *q = queue_selected(vp);
	uint16_t vector = value < vp->fn.msix_vectors ? value : IRQ_NO_VECTOR;

	if (offset == VIRTIO_PCI_COMMON_MSIX)
		__atomic_store_n(&vp->dev->config_vector, vector, __ATOMIC_RELAXED);
	else if (q)
		__atomic_store_n(&q->vector, vector, __ATOMIC_RELAXED);
}

static void queue_size_write(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	struct virtio_queue *q = queue_idle(vp);

	(void)offset;
	if (q && value && value <= q->size_max && !(value & (value - 1)))
		q->ring.size = value;
}

static void queue_enable_write(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	struct virtio_queue *q = queue_idle(vp);

	(void)offset;
	if (q && value == 1 && !(status_get(vp) & VIRTIO_CONFIG_S_DRIVER_OK))
		q->enabled = true;
}

static void queue_address_write(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	struct virtio_queue *q = queue_idle(vp);
	uint64_t *part;

	if (!q)
		return;
	if (offset < VIRTIO_PCI_COMMON_Q_AVAILLO)
		part = &q->ring.desc_gpa;
	else if (offset < VIRTIO_PCI_COMMON_Q_USEDLO)
		part = &q->ring.avail_gpa;
	else
		part = &q->ring.used_gpa;
	*part = word_set(*part, offset & 4, value);
}

/* The writable registers. What is not here, or not hit exactly, ignores writes. */
static const struct field {
	uint8_t offset, size;
	void (*write)(struct virtio_pci *vp, unsigned offset, uint32_t value);
} common_fields[] = {
    {VIRTIO_PCI_COMMON_DFSELECT, 4, select_write},
    {VIRTIO_PCI_COMMON_GFSELECT, 4, select_write},
    {VIRTIO_PCI_COMMON_GF, 4, feature_write},
    {VIRTIO_PCI_COMMON_MSIX, 2, vector_write},
    {VIRTIO_PCI_COMMON_STATUS, 1, status_write},
    {VIRTIO_PCI_COMMON_Q_SELECT, 2, select_write},
    {VIRTIO_PCI_COMMON_Q_SIZE, 2, queue_size_write},
    {VIRTIO_PCI_COMMON_Q_MSIX, 2, vector_write},
    {VIRTIO_PCI_COMMON_Q_ENABLE, 2, queue_enable_write},
    {VIRTIO_PCI_COMMON_Q_DESCLO, 4, queue_address_write},
    {VIRTIO_PCI_COMMON_Q_DESCHI, 4, queue_address_write},
    {VIRTIO_PCI_COMMON_Q_AVAILLO, 4, queue_address_write},
    {VIRTIO_PCI_COMMON_Q_AVAILHI, 4, queue_address_write},
    {VIRTIO_PCI_COMMON_Q_USEDLO, 4, queue_address_write},
    {VIRTIO_PCI_COMMON_Q_USEDHI, 4, queue_address_write},
};

static void field_write(struct virtio_pci *vp, uint32_t offset, unsigned size, uint32_t value)
{
	for (size_t i = 0; i < sizeof(common_fields) / sizeof(common_fields[0]); i++) {
		const struct field *f = &common_fields[i];

		if (f->offset == offset && f->size == size)
			f->write(vp, offset, value);
	}
}

static void common_write(struct virtio_pci *vp, uint32_t offset, unsigned size, uint64_t value)
{
	if (size == 8) {
		field_write(vp, offset, 4, (uint32_t)value);
		field_write(vp, offset + 4, 4, value >> 32);
	} else {
		field_write(vp, offset, size, (uint32_t)value);
	}
}

/* --- BAR 0 -------------------------------------------------------------------------------------
 */

static uint64_t image_read(const void *image, size_t image_size, uint32_t offset, unsigned size)
{
	uint64_t value = 0;

	if (offset < image_size)
		memcpy(&value, (const char *)image + offset,
		       size < image_size - offset ? size : image_size - offset);
	return value;
}

static uint64_t device_read(struct virtio_pci *vp, uint32_t offset, unsigned size)
{
	const struct virtio_ops *ops = vp->dev->ops;
	uint64_t value = 0;

	if (offset < ops->config_size)
		ops->config_read(vp->dev, offset, &value,
				 size < ops->config_size - offset ? size
								  : ops->config_size - offset);
	return value;
}

static void device_write(struct virtio_pci *vp, uint32_t offset, unsigned size, uint64_t value)
{
	const struct virtio_ops *ops = vp->dev->ops;

	if (ops->config_write && offset < ops->config_size && size <= ops->config_size - offset)
		ops->config_write(vp->dev, offset, &value, size);
}

static void doorbell_ring(struct virtio_pci *vp, uint32_t offset)
{
	uint32_t index = offset / DOORBELL_SIZE;
	struct doorbell *bell;
	uint64_t one = 1;

	if (offset % DOORBELL_SIZE || index >= vp->doorbell_count)
		return;
	bell = &vp->doorbells[index];
	if (bell->fd < 0) {
		if (!atomic_fetch_add(&bell->rings, 1))
			loop_post(vp->dev->loop, &bell->post);
		return;
	}
	/* Full after 2^64 - 2 rings unheard: then it is ringing already. */
	if (write(bell->fd, &one, sizeof(one)) < 0)
		return;
}

/* An access belongs to the window in which it begins, and sees nothing behind that. */
static uint64_t bar_read(struct pci_function *fn, uint32_t offset, unsigned size)
{
	struct virtio_pci *vp = from_function(fn);
	struct virtio_pci_common_cfg common;
	uint32_t start = offset % WINDOW_SIZE;
	uint64_t value = 0;

	pthread_mutex_lock(&vp->lock);
	switch (offset - start) {
	case COMMON_START:
		common_read(vp, &common);
		value = image_read(&common, sizeof(common), start, size);
		break;
	case ISR_START:
		if (!start)
			value = __atomic_exchange_n(&vp->isr, 0, __ATOMIC_ACQ_REL);
		break;
	case DEVICE_START:
		value = device_read(vp, start, size);
		break;
	}
	pthread_mutex_unlock(&vp->lock);
	return value;
}

static void bar_write(struct pci_function *fn, uint32_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *vp = from_function(fn);
	uint32_t start = offset % WINDOW_SIZE;

	if (offset - start == DOORBELL_START) {
		doorbell_ring(vp, start);
		return;
	}
	pthread_mutex_lock(&vp->lock);
	if (offset - start == COMMON_START)
		common_write(vp, start, size, value);
	else if (offset - start == DEVICE_START)
		device_write(vp, start, size, value);
	pthread_mutex_unlock(&vp->lock);
}

/* --- configuration space -----------------------------------------------------------------------
 */

/*
 * The keyhole (4.1.4.9): an access to pci_cfg_data is one to BAR 0 at cap.offset, of cap.length
 * bytes. Returns its length, or 0 where [@offset, @offset + @size) misses the data or the guest
 * asks for nonsense.
 */
static unsigned keyhole(const struct virtio_pci *vp, unsigned offset, unsigned size,
			uint32_t *bar_offset)
{
	unsigned data = vp->cfg_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
	struct virtio_pci_cap cap;

	if (offset + size <= data || offset >= data + 4)
		return 0;
	memcpy(&cap, &vp->fn.config[vp->cfg_cap], sizeof(cap));
	if (cap.bar != 0 || (cap.length != 1 && cap.length != 2 && cap.length != 4))
		return 0;
	if (cap.offset % cap.length || cap.offset > BAR_SIZE - cap.length)
		return 0;
	*bar_offset = cap.offset;
	return cap.length;
}

static uint8_t *keyhole_data(struct virtio_pci *vp)
{
	return &vp->fn.config[vp->cfg_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)];
}

static void config_reading(struct pci_function *fn, unsigned offset, unsigned size)
{
	struct virtio_pci *vp = from_function(fn);
	uint32_t bar_offset;
	unsigned length = keyhole(vp, offset, size, &bar_offset);
	uint64_t value;

	if (!length)
		return;
	value = bar_read(fn, bar_offset, length);
	memcpy(keyhole_data(vp), &value, length);
}

static void config_written(struct pci_function *fn, unsigned offset, unsigned size)
{
	struct virtio_pci *vp = from_function(fn);
	uint32_t bar_offset;
	unsigned length = keyhole(vp, offset, size, &bar_offset);
	uint64_t value = 0;

	if (!length)
		return;
	memcpy(&value, keyhole_data(vp), length);
	bar_write(fn, bar_offset, length, value);
}

/* Append a capability of @size bytes that points at [@start, @start + @length) of BAR 0. */
static void cap_add(struct pci_function *fn, uint8_t type, uint8_t size, uint32_t start,
		    uint32_t length)
{
	const struct virtio_pci_cap cap = {
	    .cap_vndr = PCI_CAP_ID_VNDR,
	    .cap_len = size,
	    .cfg_type = type,
	    .offset = start,
	    .length = length,
	};

	memcpy(&fn->config[fn->caps_end], &cap, sizeof(cap));
	if (fn->caps_last)
		fn->config[fn->caps_last + offsetof(struct virtio_pci_cap, cap_next)] =
		    fn->caps_end;
	else
		fn->caps_first = fn->caps_end;
	fn->caps_last = fn->caps_end;
	fn->caps_end += size;
}

static void keyhole_reset(struct virtio_pci *vp)
{
	uint8_t *cap = &vp->fn.config[vp->cfg_cap];

	cap[offsetof(struct virtio_pci_cap, bar)] = 0;
	memset(cap + offsetof(struct virtio_pci_cap, offset), 0,
	       sizeof(struct virtio_pci_cfg_cap) - offsetof(struct virtio_pci_cap, offset));
}

static void caps_lay(struct virtio_pci *vp)
{
	const uint32_t multiplier = DOORBELL_SIZE;
	struct pci_function *fn = &vp->fn;
	uint8_t *mask;

	fn->caps_end = PCI_CAPS_START;
	cap_add(fn, VIRTIO_PCI_CAP_COMMON_CFG, sizeof(struct virtio_pci_cap), COMMON_START,
		sizeof(struct virtio_pci_common_cfg));
	cap_add(fn, VIRTIO_PCI_CAP_NOTIFY_CFG, sizeof(struct virtio_pci_notify_cap), DOORBELL_START,
		DOORBELL_SIZE * vp->dev->queue_count);
	memcpy(&fn->config[fn->caps_last + sizeof(struct virtio_pci_cap)], &multiplier,
	       sizeof(multiplier));
	cap_add(fn, VIRTIO_PCI_CAP_ISR_CFG, sizeof(struct virtio_pci_cap), ISR_START, 1);
	if (vp->dev->ops->config_size)
		cap_add(fn, VIRTIO_PCI_CAP_DEVICE_CFG, sizeof(struct virtio_pci_cap), DEVICE_START,
			vp->dev->ops->config_size);
	cap_add(fn, VIRTIO_PCI_CAP_PCI_CFG, sizeof(struct virtio_pci_cfg_cap), 0, 0);
	vp->cfg_cap = fn->caps_last;
	mask = &fn->config_mask[vp->cfg_cap];
	mask[offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(mask + offsetof(struct virtio_pci_cap, offset), 0xff,
	       sizeof(struct virtio_pci_cfg_cap) - offsetof(struct virtio_pci_cap, offset));
}

/* --- set-up and end ----------------------------------------------------------------------------
 */

static void function_reset(struct pci_function *fn)
{
	struct virtio_pci *vp = from_function(fn);

	pthread_mutex_lock(&vp->lock);
	device_reset(vp);
	keyhole_reset(vp);
	pthread_mutex_unlock(&vp->lock);
}

static const struct pci_function_ops function_ops = {
    .bar_read = bar_read,
    .bar_write = bar_write,
    .config_reading = config_reading,
    .config_written = config_written,
    .reset = function_reset,
};

static void function_fill(struct virtio_pci *vp)
{
	const struct virtio_device *dev = vp->dev;
	struct pci_function *fn = &vp->fn;

	fn->ops = &function_ops;
	fn->name = dev->ops->name;
	fn->vendor_id = fn->subsystem_vendor_id = VIRTIO_PCI_VENDOR;
	fn->device_id = fn->subsystem_id = VIRTIO_PCI_DEVICE + dev->ops->type;
	fn->revision = VIRTIO_PCI_REVISION;
	fn->class_code = dev->ops->class_code;
	fn->bar0_size = BAR_SIZE;
	fn->msix_vectors = dev->queue_count + 1;
	caps_lay(vp);
}

/* Have KVM count the guest's writes in an eventfd, and watch that. */
static int doorbell_bind(struct doorbell *bell)
{
	struct pci_function *fn = &bell->vp->fn;
	int err;

	bell->watch.ready = doorbell_rang;
	bell->watch.context = bell;
	bell->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (bell->fd < 0)
		return -errno;
	err = loop_watch(bell->vp->dev->loop, &bell->watch, bell->fd, POLLIN);
	if (err < 0) {
		close(bell->fd);
		return err;
	}
	fn->doorbells[fn->doorbell_count++] = (struct pci_doorbell){
	    .offset = DOORBELL_START + DOORBELL_SIZE * bell->index,
	    .fd = bell->fd,
	};
	return 0;
}

static int doorbell_add(struct virtio_pci *vp)
{
	struct doorbell *bell = &vp->doorbells[vp->doorbell_count];
	int err = 0;

	bell->vp = vp;
	bell->index = vp->doorbell_count;
	bell->fd = -1;
	bell->post.run = doorbell_run;
	if (!vp->dev->queues[bell->index].inline_bell)
		err = doorbell_bind(bell);
	if (!err)
		vp->doorbell_count++;
	return err;
}

/* Sidecar. */
static void teardown_call(void *arg)
{
	struct virtio_pci *vp = arg;

	virtio_stop(vp->dev);
	for (unsigned i = 0; i < vp->doorbell_count; i++)
		loop_unwatch(&vp->doorbells[i].watch);
}

static bool device_fits(const struct virtio_device *dev)
{
	if (!dev->queue_count || dev->queue_count > VIRTIO_QUEUES_MAX ||
	    dev->ops->config_size > WINDOW_SIZE)
		return false;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		uint16_t size = dev->queues[i].size_max;

		if (!size || size > VIRTQUEUE_SIZE_MAX || (size & (size - 1)))
			return false;
	}
	return true;
}

struct virtio_pci *virtio_pci_create(struct virtio_device *dev)
{
	struct virtio_pci *vp;

	if (!device_fits(dev)) {
		errno = EINVAL;
		return NULL;
	}
	vp = calloc(1, sizeof(*vp));
	if (!vp)
		return NULL;
	vp->dev = dev;
	pthread_mutex_init(&vp->lock, NULL);
	dev->transport = vp;
	dev->features_offered |= RING_FEATURES;
	dev->raise_config = device_raise_config;
	dev->needs_reset = device_needs_reset;
	function_fill(vp);
	registers_reset(vp);
	while (vp->doorbell_count < dev->queue_count) {
		int err = doorbell_add(vp);

		if (err < 0) {
			virtio_pci_destroy(vp);
			errno = -err;
			return NULL;
		}
	}
	return vp;
}

struct pci_function *virtio_pci_function(struct virtio_pci *vp)
{
	return &vp->fn;
}

void virtio_pci_destroy(struct virtio_pci *vp)
{
	if (!vp)
		return;
	loop_call(vp->dev->loop, teardown_call, vp);
	for (unsigned i = 0; i < vp->doorbell_count; i++)
		if (vp->doorbells[i].fd >= 0)
			close(vp->doorbells[i].fd);
	pthread_mutex_destroy(&vp->lock);
	free(vp);
}
