/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PCI transport: what a driver and firmware may do, what they must not, and vCPU threads
 * against the sidecar. Row names such as A20 are those of the list of hostile inputs.
 */
#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "devices/virtio_pci.h"
#include "tests/unit/fake_irq.h"
#include "tests/unit/ring_driver.h"

#define MIB	    (1ull << 20)
#define QUEUES	    3u
#define RING_SIZE   16u
#define SIZE_MAX_   64u /* entries offered */
#define RING_GPA(i) (0x10000ull + 0x4000ull * (i))
#define DATA_GPA    0x80000ull
#define BAR_SIZE    0x4000u
#define ISR	    0x1000u
#define DEVICE	    0x2000u
#define DOORBELLS   0x3000u
#define WAIT_MS	    60000 /* for what must come */
#define CONFIG_SIZE 11u

#define F_OWN	 (1ull << 5) /* a feature of the device's own */
#define F_MODERN (1ull << VIRTIO_F_VERSION_1)

#define ACK  VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRV  VIRTIO_CONFIG_S_DRIVER
#define FOK  VIRTIO_CONFIG_S_FEATURES_OK
#define DOK  VIRTIO_CONFIG_S_DRIVER_OK
#define NEED VIRTIO_CONFIG_S_NEEDS_RESET
#define FAIL VIRTIO_CONFIG_S_FAILED

/* A device that gives every request back at once, or keeps it (hold), with counters. */
struct echo {
	struct virtio_device dev;
	uint8_t config[CONFIG_SIZE];
	bool hold, break_in_start;		     /* set before the device starts */
	unsigned starts, stops, ready, served, held; /* atomic */
	bool in_stop;				     /* atomic */
	struct vq_chain kept;			     /* sidecar */
	unsigned stop_delay_ms;
};

struct rig {
	struct guest_memory mem;
	struct loop *loop;
	pthread_t sidecar;
	struct echo echo;
	struct irq_set irqs;
	struct virtio_pci *vp;
	struct pci_function *fn;
	struct ring_driver drv[QUEUES];
	uint64_t turns; /* sidecar */
};

static unsigned get(const unsigned *counter)
{
	return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static void count(unsigned *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_ACQ_REL);
}

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l}, NULL);
}

/* --- the device --------------------------------------------------------------------------------
 */

static void echo_config_read(struct virtio_device *dev, uint32_t offset, void *data, uint32_t len)
{
	struct echo *e = (struct echo *)dev;

	cr_assert(offset < CONFIG_SIZE && len > 0 && len <= CONFIG_SIZE - offset);
	memcpy(data, e->config + offset, len);
}

static void echo_config_write(struct virtio_device *dev, uint32_t offset, const void *data,
			      uint32_t len)
{
	struct echo *e = (struct echo *)dev;

	cr_assert(offset < CONFIG_SIZE && len > 0 && len <= CONFIG_SIZE - offset);
	memcpy(e->config + offset, data, len);
}

static void echo_start(struct virtio_device *dev)
{
	struct echo *e = (struct echo *)dev;

	count(&e->starts);
	if (e->break_in_start)
		virtio_broken(dev, "told to");
}

static void echo_stop(struct virtio_device *dev)
{
	struct echo *e = (struct echo *)dev;

	__atomic_store_n(&e->in_stop, true, __ATOMIC_RELEASE);
	sleep_ms(e->stop_delay_ms);
	__atomic_store_n(&e->in_stop, false, __ATOMIC_RELEASE);
	count(&e->stops);
}

static void echo_ready(struct virtio_device *dev, unsigned index)
{
	struct echo *e = (struct echo *)dev;
	struct virtqueue *vq = &dev->queues[index].ring;
	struct vq_chain chain;
	struct iovec iov[8];
	int more = 0;

	count(&e->ready);
	for (unsigned n = 0; n < 64 && (more = virtqueue_pop(vq, &chain, iov, 8)) == 1; n++) {
		if (e->hold) {
			e->kept = chain;
			count(&e->held);
			continue;
		}
		virtqueue_push(vq, chain.head, (uint32_t)chain.in_len);
		count(&e->served);
	}
	if (more < 0)
		virtio_broken(dev, vq->broken);
	virtio_queue_publish(dev, index);
}

static const struct virtio_ops echo_ops = {
    .name = "echo",
    .type = 63,
    .class_code = 0xff0000,
    .config_size = CONFIG_SIZE,
    .config_read = echo_config_read,
    .config_write = echo_config_write,
    .start = echo_start,
    .stop = echo_stop,
    .queue_ready = echo_ready,
};

/* --- the rig -----------------------------------------------------------------------------------
 */

static void *sidecar_run(void *arg)
{
	struct rig *r = arg;

	cr_assert_eq(loop_run(r->loop), 0);
	return NULL;
}

static void echo_init(struct rig *r)
{
	struct virtio_device *dev = &r->echo.dev;

	dev->ops = &echo_ops;
	dev->features_offered = F_OWN;
	dev->queue_count = QUEUES;
	for (unsigned i = 0; i < QUEUES; i++)
		dev->queues[i].size_max = SIZE_MAX_;
	dev->mem = &r->mem;
	dev->loop = r->loop;
	for (unsigned i = 0; i < CONFIG_SIZE; i++)
		r->echo.config[i] = 0x10 + i;
}

/* @inline_bells: the one who rings serves all queues, if the sidecar sleeps. */
static struct rig *rig_create_with(bool inline_bells)
{
	struct rig *r = calloc(1, sizeof(*r));

	cr_assert_not_null(r);
	cr_assert_eq(memory_create(&r->mem, MIB, false), 0);
	r->loop = loop_create(64);
	cr_assert_not_null(r->loop);
	echo_init(r);
	for (unsigned i = 0; i < QUEUES; i++)
		r->echo.dev.queues[i].inline_bell = inline_bells;
	r->vp = virtio_pci_create(&r->echo.dev);
	cr_assert_not_null(r->vp);
	r->fn = virtio_pci_function(r->vp);
	r->fn->irqs = &r->irqs;
	cr_assert_eq(pthread_create(&r->sidecar, NULL, sidecar_run, r), 0);
	return r;
}

static struct rig *rig_create(void)
{
	return rig_create_with(false);
}

static void rig_destroy(struct rig *r)
{
	virtio_pci_destroy(r->vp);
	loop_stop(r->loop);
	pthread_join(r->sidecar, NULL);
	loop_destroy(r->loop);
	memory_destroy(&r->mem);
	free(r);
}

static uint64_t rd(struct rig *r, uint32_t offset, unsigned size)
{
	return r->fn->ops->bar_read(r->fn, offset, size);
}

static void wr(struct rig *r, uint32_t offset, unsigned size, uint64_t value)
{
	r->fn->ops->bar_write(r->fn, offset, size, value);
}

static uint8_t status(struct rig *r)
{
	return rd(r, VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(struct rig *r, uint8_t value)
{
	wr(r, VIRTIO_PCI_COMMON_STATUS, 1, value);
}

static void set_features(struct rig *r, uint64_t features)
{
	for (unsigned i = 0; i < 2; i++) {
		wr(r, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		wr(r, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
}

static void set_address(struct rig *r, uint32_t offset, uint64_t gpa)
{
	wr(r, offset, 4, (uint32_t)gpa);
	wr(r, offset + 4, 4, gpa >> 32);
}

static void set_queue(struct rig *r, unsigned index)
{
	struct ring_driver *drv = &r->drv[index];

	ring_driver_init(drv, &r->mem, RING_GPA(index), RING_SIZE, false);
	wr(r, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
	wr(r, VIRTIO_PCI_COMMON_Q_SIZE, 2, RING_SIZE);
	wr(r, VIRTIO_PCI_COMMON_Q_MSIX, 2, index + 1);
	set_address(r, VIRTIO_PCI_COMMON_Q_DESCLO, drv->desc_gpa);
	set_address(r, VIRTIO_PCI_COMMON_Q_AVAILLO, drv->avail_gpa);
	set_address(r, VIRTIO_PCI_COMMON_Q_USEDLO, drv->used_gpa);
	wr(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

/* Everything up to, but without DRIVER_OK. */
static void negotiate(struct rig *r)
{
	set_status(r, ACK);
	set_status(r, ACK | DRV);
	set_features(r, F_MODERN | F_OWN);
	set_status(r, ACK | DRV | FOK);
	cr_assert_eq(status(r), ACK | DRV | FOK);
	wr(r, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	for (unsigned i = 0; i < QUEUES; i++)
		set_queue(r, i);
}

static void drive(struct rig *r)
{
	negotiate(r);
	set_status(r, ACK | DRV | FOK | DOK);
	cr_assert_eq(status(r), ACK | DRV | FOK | DOK);
}

/* Everything that the sidecar has been told up to now is done when this returns. */
static void nothing(void *arg)
{
	(void)arg;
}

static void turns_call(void *arg)
{
	struct rig *r = arg;

	r->turns = loop_turns(r->loop);
}

/* The loop's turns so far; this is one of them, or two. */
static uint64_t turns(struct rig *r)
{
	loop_call(r->loop, turns_call, r);
	return r->turns;
}

static void settle(struct rig *r)
{
	for (int i = 0; i < 3; i++)
		loop_call(r->loop, nothing, NULL);
	sleep_ms(5);
	loop_call(r->loop, nothing, NULL);
}

static bool reaches(const unsigned *counter, unsigned value)
{
	for (int i = 0; i < WAIT_MS && get(counter) < value; i++)
		sleep_ms(1);
	return get(counter) >= value;
}

static bool needs_reset(struct rig *r)
{
	for (int i = 0; i < WAIT_MS && !(status(r) & NEED); i++)
		sleep_ms(1);
	return status(r) & NEED;
}

/* One request on a queue goes there and back. */
static void round_trip(struct rig *r, unsigned queue)
{
	struct ring_driver *drv = &r->drv[queue];
	unsigned served = get(&r->echo.served);
	struct ring_used used;

	ring_driver_add(drv, &(struct ring_buffer){DATA_GPA, 9, true}, 1);
	cr_assert(ring_driver_expose(drv));
	wr(r, DOORBELLS + 4 * queue, 2, queue);
	cr_assert(reaches(&r->echo.served, served + 1));
	settle(r);
	cr_assert(ring_driver_take(drv, &used));
	cr_assert_eq(used.len, 9);
}

/* --- what a driver finds -----------------------------------------------------------------------
 */

Test(virtio_pci, the_function_says_what_it_is)
{
	struct rig *r = rig_create();

	cr_assert_eq(r->fn->vendor_id, 0x1af4);
	cr_assert_eq(r->fn->device_id, 0x1040 + 63);
	cr_assert_eq(r->fn->subsystem_vendor_id, 0x1af4);
	cr_assert_geq(r->fn->subsystem_id, 0x40);
	cr_assert_eq(r->fn->revision, 1);
	cr_assert_eq(r->fn->class_code, 0xff0000);
	cr_assert_eq(r->fn->bar0_size, BAR_SIZE);
	cr_assert_eq(r->fn->msix_vectors, QUEUES + 1);
	cr_assert_eq(r->fn->doorbell_count, QUEUES);
	for (unsigned i = 0; i < QUEUES; i++)
		cr_assert_eq(r->fn->doorbells[i].offset, DOORBELLS + 4 * i);
	rig_destroy(r);
}

Test(virtio_pci, capabilities_are_chained_and_inside_the_bar)
{
	static const uint8_t types[] = {VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG,
					VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_CAP_DEVICE_CFG,
					VIRTIO_PCI_CAP_PCI_CFG};
	struct rig *r = rig_create();
	unsigned at = r->fn->caps_first, end = 0, n = 0;
	struct virtio_pci_notify_cap cap;

	cr_assert_eq(at, PCI_CAPS_START);
	for (; at; at = cap.cap.cap_next, n++) {
		memcpy(&cap, &r->fn->config[at], sizeof(cap));
		cr_assert_lt(n, sizeof(types));
		cr_assert_eq(cap.cap.cap_vndr, PCI_CAP_ID_VNDR);
		cr_assert_eq(cap.cap.cfg_type, types[n]);
		cr_assert_eq(cap.cap.bar, 0);
		cr_assert_leq(cap.cap.offset + cap.cap.length, BAR_SIZE);
		if (cap.cap.cfg_type == VIRTIO_PCI_CAP_NOTIFY_CFG)
			cr_assert_eq(cap.notify_off_multiplier, 4);
		if (!cap.cap.cap_next)
			cr_assert_eq(at, r->fn->caps_last);
		end = at + cap.cap.cap_len;
	}
	cr_assert_eq(n, sizeof(types));
	cr_assert_eq(end, r->fn->caps_end);
	cr_assert_eq(end % 4, 0);
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		if (i < r->fn->caps_last || i >= end)
			cr_assert_eq(r->fn->config_mask[i], 0, "writable byte %u", i);
	rig_destroy(r);
}

Test(virtio_pci, registers_start_as_the_standard_says)
{
	struct rig *r = rig_create();

	cr_assert_eq(status(r), 0);
	cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_NUMQ, 2), QUEUES);
	cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	for (unsigned i = 0; i < QUEUES; i++) {
		wr(r, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_SIZE, 2), SIZE_MAX_);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_NOFF, 2), i);
	}
	rig_destroy(r);
}

Test(virtio_pci, features_are_offered_by_words)
{
	struct rig *r = rig_create();
	uint64_t offered = rd(r, VIRTIO_PCI_COMMON_DF, 4);

	wr(r, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	offered |= rd(r, VIRTIO_PCI_COMMON_DF, 4) << 32;
	cr_assert_eq(offered, F_OWN | F_MODERN | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
				  1ull << VIRTIO_RING_F_EVENT_IDX);
	for (uint64_t select = 2; select < 1ull << 33; select = select * 2 - 1 + (select == 2)) {
		wr(r, VIRTIO_PCI_COMMON_DFSELECT, 4, select);
		wr(r, VIRTIO_PCI_COMMON_GFSELECT, 4, select);
		wr(r, VIRTIO_PCI_COMMON_GF, 4, 0xffffffff);
		if ((uint32_t)select >= 2) {
			cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_DF, 4), 0);
			cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_GF, 4), 0);
		}
	}
	rig_destroy(r);
}

Test(virtio_pci, requests_flow_on_every_queue)
{
	struct rig *r = rig_create();
	uint64_t one = 1;

	drive(r);
	cr_assert_eq(get(&r->echo.starts), 1);
	cr_assert_eq(r->echo.dev.features, F_MODERN | F_OWN);
	for (unsigned i = 0; i < QUEUES; i++) {
		round_trip(r, i);
		cr_assert_eq(fake_irq_count(&r->irqs, i + 1), 1);
	}
	/* The bell that KVM rings. */
	ring_driver_add(&r->drv[1], &(struct ring_buffer){DATA_GPA, 1, true}, 1);
	ring_driver_expose(&r->drv[1]);
	cr_assert_eq(write(r->fn->doorbells[1].fd, &one, sizeof(one)), (ssize_t)sizeof(one));
	cr_assert(reaches(&r->echo.served, QUEUES + 1));
	settle(r);
	cr_assert_eq(fake_irq_count(&r->irqs, 0), 0);
	cr_assert_eq(rd(r, ISR, 1), 0, "queues do not show in the ISR with MSI-X");
	rig_destroy(r);
}

Test(virtio_pci, a_changed_configuration_interrupts_a_ready_driver)
{
	struct rig *r = rig_create();
	uint8_t generation = rd(r, VIRTIO_PCI_COMMON_CFGGENERATION, 1);

	r->echo.dev.raise_config(&r->echo.dev);
	cr_assert_eq(rd(r, ISR, 1), 0, "the driver is not ready");
	drive(r);
	r->echo.dev.raise_config(&r->echo.dev);
	cr_assert_eq(fake_irq_count(&r->irqs, 0), 1);
	cr_assert_eq((uint8_t)(rd(r, VIRTIO_PCI_COMMON_CFGGENERATION, 1) - generation), 2);
	for (unsigned offset = 1; offset < 8; offset++)
		cr_assert_eq(rd(r, ISR + offset, 1), 0);
	cr_assert_eq(rd(r, ISR, 1), VIRTIO_PCI_ISR_CONFIG);
	cr_assert_eq(rd(r, ISR, 1), 0, "reading clears it");
	wr(r, VIRTIO_PCI_COMMON_MSIX, 2, VIRTIO_MSI_NO_VECTOR);
	r->echo.dev.raise_config(&r->echo.dev);
	cr_assert_eq(fake_irq_count(&r->irqs, 0), 1);
	cr_assert_eq(r->irqs.none, 1, "no vector: for the interrupt layer to drop");
	rig_destroy(r);
}

Test(virtio_pci, vectors_out_of_range_read_back_as_none)
{
	static const uint16_t vectors[] = {QUEUES + 1, QUEUES + 2, 127,	   128,
					   0x7fff,     0x8000,	   0xfffe, 0xffff};
	struct rig *r = rig_create();

	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		for (unsigned reg = VIRTIO_PCI_COMMON_MSIX; reg <= VIRTIO_PCI_COMMON_Q_MSIX;
		     reg += VIRTIO_PCI_COMMON_Q_MSIX - VIRTIO_PCI_COMMON_MSIX) {
			wr(r, reg, 2, QUEUES);
			cr_assert_eq(rd(r, reg, 2), QUEUES);
			wr(r, reg, 2, vectors[i]);
			cr_assert_eq(rd(r, reg, 2), VIRTIO_MSI_NO_VECTOR);
		}
	}
	rig_destroy(r);
}

/* --- A1..A5 ------------------------------------------------------------------------------------
 */

static void ring_everything(struct rig *r)
{
	static const unsigned sizes[] = {1, 2, 4, 8};

	for (uint32_t offset = DOORBELLS; offset < BAR_SIZE; offset++)
		for (size_t i = 0; i < 4; i++)
			if (offset + sizes[i] <= BAR_SIZE && offset != DOORBELLS &&
			    offset != DOORBELLS + 4 && offset != DOORBELLS + 8)
				wr(r, offset, sizes[i], UINT64_MAX);
	settle(r);
}

Test(virtio_pci, a1_doorbells_of_queues_that_do_not_exist)
{
	struct rig *r = rig_create();
	int bystander = eventfd(0, EFD_NONBLOCK);
	uint64_t rung;

	/* Descriptor 0 is what a bell that was never made would ring. */
	cr_assert_eq(dup2(bystander, 0), 0);
	drive(r);
	ring_everything(r);
	cr_assert_eq(read(bystander, &rung, sizeof(rung)), -1);
	close(bystander);
	cr_assert_eq(get(&r->echo.ready), 0);
	cr_assert_eq(status(r), ACK | DRV | FOK | DOK);
	/* The value is not looked at: the place says which queue. */
	wr(r, DOORBELLS, 4, 0xffff);
	cr_assert(reaches(&r->echo.ready, 1));
	round_trip(r, 0);
	rig_destroy(r);
}

Test(virtio_pci, a1_doorbells_of_a_device_that_does_not_run)
{
	struct rig *r = rig_create();

	for (unsigned state = 0; state < 4; state++) {
		if (state == 1)
			negotiate(r);
		if (state == 2)
			set_status(r, 0);
		if (state == 3) { /* DRIVER_OK with one queue: the others stay silent */
			set_status(r, ACK | DRV);
			set_features(r, F_MODERN);
			set_status(r, ACK | DRV | FOK);
			set_queue(r, 0);
			set_status(r, ACK | DRV | FOK | DOK);
		}
		for (unsigned i = state == 3; i < QUEUES; i++)
			wr(r, DOORBELLS + 4 * i, 4, i);
		settle(r);
		cr_assert_eq(get(&r->echo.ready), 0, "state %u", state);
	}
	round_trip(r, 0);
	rig_destroy(r);
}

Test(virtio_pci, a2_queue_select_out_of_range)
{
	static const uint16_t selects[] = {QUEUES, QUEUES + 1, 63, 64, 65, 0x7fff, 0x8000, 0xffff};
	struct rig *r = rig_create();

	negotiate(r);
	for (size_t i = 0; i < sizeof(selects) / sizeof(selects[0]); i++) {
		wr(r, VIRTIO_PCI_COMMON_Q_SELECT, 2, selects[i]);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_SELECT, 2), selects[i]);
		for (unsigned reg = VIRTIO_PCI_COMMON_Q_SIZE; reg < 0x40; reg += 2) {
			wr(r, reg, 2, 1);
			wr(r, reg, 4, 0x11111111);
			wr(r, reg, 8, 0x1111111111111111);
			cr_assert_eq(rd(r, reg, 2), 0, "register 0x%x", reg);
		}
	}
	set_status(r, ACK | DRV | FOK | DOK);
	for (unsigned i = 0; i < QUEUES; i++)
		round_trip(r, i); /* nothing of theirs was touched */
	rig_destroy(r);
}

Test(virtio_pci, a3_device_configuration_at_every_size_and_offset)
{
	static const unsigned sizes[] = {1, 2, 4, 8};
	struct rig *r = rig_create();

	for (uint32_t offset = 0; offset < 0x1000; offset++) {
		for (size_t i = 0; i < 4; i++) {
			uint64_t expected = 0;

			for (unsigned b = 0; b < sizes[i]; b++)
				if (offset + b < CONFIG_SIZE)
					expected |= (0x10ull + offset + b) << (8 * b);
			cr_assert_eq(rd(r, DEVICE + offset, sizes[i]), expected, "0x%x", offset);
			if (offset + sizes[i] > CONFIG_SIZE)
				wr(r, DEVICE + offset, sizes[i], UINT64_MAX); /* ignored */
		}
	}
	wr(r, DEVICE + 3, 4, 0xaabbccdd);
	cr_assert_eq(rd(r, DEVICE + 2, 8), 0x191817aabbccdd12ull);
	rig_destroy(r);
}

Test(virtio_pci, a4_queue_sizes)
{
	static const uint16_t bad[] = {0, 3, 12, SIZE_MAX_ + 1, SIZE_MAX_ * 2, 0x8000, 0xffff};
	struct rig *r = rig_create();

	for (unsigned size = SIZE_MAX_; size; size /= 2) {
		wr(r, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_SIZE, 2), size);
		for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
			wr(r, VIRTIO_PCI_COMMON_Q_SIZE, 2, bad[i]);
			cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_SIZE, 2), size);
		}
	}
	rig_destroy(r);
}

Test(virtio_pci, a4_an_enabled_queue_does_not_change)
{
	struct rig *r = rig_create();
	uint64_t before[8];

	negotiate(r);
	wr(r, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	for (unsigned i = 0; i < 6; i++)
		before[i] = rd(r, VIRTIO_PCI_COMMON_Q_DESCLO + 4 * i, 4);
	for (unsigned state = 0; state < 2; state++) {
		wr(r, VIRTIO_PCI_COMMON_Q_SIZE, 2, RING_SIZE * 2);
		wr(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
		for (unsigned i = 0; i < 6; i++)
			wr(r, VIRTIO_PCI_COMMON_Q_DESCLO + 4 * i, 4, 0x1000 * i);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_SIZE, 2), RING_SIZE);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
		for (unsigned i = 0; i < 6; i++)
			cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_DESCLO + 4 * i, 4), before[i]);
		set_status(r, ACK | DRV | FOK | DOK);
	}
	round_trip(r, 1);
	rig_destroy(r);
}

Test(virtio_pci, a5_a_ring_outside_of_ram_asks_for_a_reset)
{
	static const uint64_t addresses[] = {MIB,	 MIB - 16,   0x10001,
					     0xc0000000, 1ull << 63, UINT64_MAX - 15};
	struct rig *r = rig_create();

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		unsigned irqs = fake_irq_count(&r->irqs, 0);

		negotiate(r);
		set_status(r, 0);
		set_status(r, ACK | DRV);
		set_features(r, F_MODERN);
		set_status(r, ACK | DRV | FOK);
		wr(r, VIRTIO_PCI_COMMON_MSIX, 2, 0);
		set_queue(r, 0);
		wr(r, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
		set_address(r, VIRTIO_PCI_COMMON_Q_DESCLO, addresses[i]);
		wr(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
		set_status(r, ACK | DRV | FOK | DOK);
		cr_assert_eq(status(r), ACK | DRV | FOK | DOK | NEED);
		cr_assert_eq(get(&r->echo.starts), 0);
		cr_assert_eq(fake_irq_count(&r->irqs, 0), irqs + 1);
		cr_assert_eq(rd(r, ISR, 1), VIRTIO_PCI_ISR_CONFIG);
		wr(r, DOORBELLS, 4, 0);
		settle(r);
		cr_assert_eq(get(&r->echo.ready), 0);
		set_status(r, 0);
		cr_assert_eq(status(r), 0);
	}
	drive(r);
	round_trip(r, 1);
	rig_destroy(r);
}

/* --- a broken device ---------------------------------------------------------------------------
 */

Test(virtio_pci, a_broken_ring_silences_the_device_until_reset)
{
	struct rig *r = rig_create();
	unsigned ready;
	uint64_t before;

	for (unsigned round = 1; round <= 3; round++) {
		drive(r);
		round_trip(r, 0);
		ring_driver_offer(&r->drv[1], RING_SIZE);
		ring_driver_expose(&r->drv[1]);
		wr(r, DOORBELLS + 4, 4, 1);
		cr_assert(needs_reset(r));
		cr_assert_eq(fake_irq_count(&r->irqs, 0), round);
		cr_assert_eq(rd(r, ISR, 1), VIRTIO_PCI_ISR_CONFIG);
		cr_assert_str_eq(__atomic_load_n(&r->echo.dev.broken, __ATOMIC_RELAXED),
				 "an available entry is outside of the descriptor table");
		ready = get(&r->echo.ready);
		before = turns(r);
		for (unsigned i = 0; i < QUEUES; i++)
			wr(r, DOORBELLS + 4 * i, 4, i);
		settle(r);
		cr_assert_eq(get(&r->echo.ready), ready, "bells are not heard");
		cr_assert_lt(turns(r) - before, 20, "nor do they keep the loop busy");
		set_status(r, ACK | DRV | FOK | DOK);
		cr_assert_eq(get(&r->echo.starts), round, "only a reset leads out");
		set_status(r, 0);
		cr_assert_eq(status(r), 0);
		cr_assert_eq(get(&r->echo.stops), round);
	}
	cr_assert_eq(r->echo.dev.broken_count, 3);
	rig_destroy(r);
}

static void break_call(void *arg)
{
	struct rig *r = arg;

	if (r->echo.dev.running)
		virtio_broken(&r->echo.dev, "told to");
}

Test(virtio_pci, a_device_breaks_once)
{
	struct rig *r = rig_create();

	drive(r);
	for (int i = 0; i < 3; i++)
		loop_call(r->loop, break_call, r);
	cr_assert_eq(r->echo.dev.broken_count, 1);
	cr_assert_eq(fake_irq_count(&r->irqs, 0), 1);
	set_status(r, 0);
	/* A driver that is not ready sees the bit, but is not interrupted. */
	r->echo.dev.needs_reset(&r->echo.dev);
	cr_assert_eq(status(r), NEED);
	cr_assert_eq(fake_irq_count(&r->irqs, 0), 1);
	cr_assert_eq(rd(r, ISR, 1), 0);
	rig_destroy(r);
}

Test(virtio_pci, a_device_may_break_while_it_starts)
{
	struct rig *r = rig_create();

	r->echo.break_in_start = true;
	negotiate(r);
	set_status(r, ACK | DRV | FOK | DOK);
	cr_assert_eq(status(r), ACK | DRV | FOK | DOK | NEED);
	cr_assert_eq(fake_irq_count(&r->irqs, 0), 1);
	set_status(r, 0);
	cr_assert_eq(get(&r->echo.stops), 1);
	rig_destroy(r);
}

/* --- A20: status games -------------------------------------------------------------------------
 */

Test(virtio_pci, a20_features_that_cannot_be)
{
	static const uint64_t bad[] = {
	    0,
	    F_OWN,		  /* no VERSION_1 */
	    F_MODERN | 1ull << 6, /* not offered */
	    F_MODERN | 1ull << 63,
	    UINT64_MAX,
	};
	struct rig *r = rig_create();

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set_status(r, ACK | DRV);
		set_features(r, bad[i]);
		set_status(r, ACK | DRV | FOK);
		cr_assert_eq(status(r), ACK | DRV);
		set_status(r, ACK | DRV | FOK | DOK);
		cr_assert_eq(status(r), ACK | DRV);
		set_status(r, 0);
	}
	cr_assert_eq(get(&r->echo.starts), 0);
	rig_destroy(r);
}

Test(virtio_pci, a20_features_are_final)
{
	struct rig *r = rig_create();

	negotiate(r);
	set_features(r, F_MODERN | 1ull << 7);
	wr(r, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_GF, 4), F_OWN);
	set_status(r, ACK | DRV | FOK | DOK);
	set_features(r, 0);
	cr_assert_eq(r->echo.dev.features, F_MODERN | F_OWN);
	rig_destroy(r);
}

Test(virtio_pci, a20_status_bits_only_come)
{
	static const struct {
		uint8_t write, read;
	} rows[] = {
	    {DOK, 0},  /* not without FEATURES_OK */
	    {NEED, 0}, /* the device's own */
	    {0x30, 0}, /* no such bits */
	    {ACK, ACK},
	    {DRV, ACK | DRV}, /* ACKNOWLEDGE stays */
	    {FOK, ACK | DRV | FOK},
	    {ACK, ACK | DRV | FOK},
	    {DOK, ACK | DRV | FOK | DOK},
	    {ACK | DRV, ACK | DRV | FOK | DOK},
	    {FAIL, ACK | DRV | FOK | DOK | FAIL},
	    {NEED, ACK | DRV | FOK | DOK | FAIL},
	    {DOK, ACK | DRV | FOK | DOK | FAIL},
	    {0, 0},
	    {0, 0},
	};
	struct rig *r = rig_create();

	set_features(r, F_MODERN);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		set_status(r, rows[i].write);
		cr_assert_eq(status(r), rows[i].read, "row %zu", i);
	}
	cr_assert_eq(get(&r->echo.starts), 1);
	cr_assert_eq(get(&r->echo.stops), 1);
	rig_destroy(r);
}

Test(virtio_pci, a20_driver_ok_without_queues)
{
	struct rig *r = rig_create();

	set_status(r, ACK | DRV);
	set_features(r, F_MODERN);
	set_status(r, ACK | DRV | FOK);
	set_status(r, ACK | DRV | FOK | DOK);
	cr_assert_eq(status(r), ACK | DRV | FOK | DOK);
	cr_assert_eq(get(&r->echo.starts), 1);
	/* Too late for a queue: it stays off. */
	set_queue(r, 0);
	cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	wr(r, DOORBELLS, 4, 0);
	settle(r);
	cr_assert_eq(get(&r->echo.ready), 0);
	set_status(r, 0);
	rig_destroy(r);
}

Test(virtio_pci, a20_queue_enable_takes_only_one)
{
	static const uint16_t bad[] = {0, 2, 3, 0x8000, 0xffff};
	struct rig *r = rig_create();

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		wr(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2, bad[i]);
		cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	}
	wr(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	rig_destroy(r);
}

Test(virtio_pci, a20_reset_brings_everything_back)
{
	struct rig *r = rig_create();
	uint64_t first[16];

	for (unsigned i = 0; i < 14; i++)
		first[i] = rd(r, 4 * i, 4);
	drive(r);
	r->echo.dev.raise_config(&r->echo.dev);
	set_status(r, 0);
	set_status(r, 0);
	cr_assert_eq(get(&r->echo.stops), 1);
	cr_assert_eq(rd(r, ISR, 1), 0);
	for (unsigned i = 0; i < 14; i++)
		if (i != VIRTIO_PCI_COMMON_STATUS / 4) /* the generation is there, and goes on */
			cr_assert_eq(rd(r, 4 * i, 4), first[i], "register 0x%x", 4 * i);
	cr_assert_eq(status(r), 0);
	drive(r);
	round_trip(r, 2);
	rig_destroy(r);
}

/* The write that resets returns after the device let go; what it held is gone and cannot come back.
 */
Test(virtio_pci, a20_reset_with_requests_in_flight)
{
	struct rig *r = rig_create();

	r->echo.hold = true;
	r->echo.stop_delay_ms = 30;
	drive(r);
	ring_driver_add(&r->drv[0], &(struct ring_buffer){DATA_GPA, 9, true}, 1);
	ring_driver_expose(&r->drv[0]);
	wr(r, DOORBELLS, 4, 0);
	cr_assert(reaches(&r->echo.held, 1));
	set_status(r, 0);
	cr_assert_eq(get(&r->echo.stops), 1);
	cr_assert_not(__atomic_load_n(&r->echo.in_stop, __ATOMIC_ACQUIRE));
	virtqueue_push(&r->echo.dev.queues[0].ring, r->echo.kept.head, 9); /* late */
	cr_assert_not(virtqueue_publish(&r->echo.dev.queues[0].ring));
	cr_assert_eq(r->drv[0].used->idx, 0);
	r->echo.hold = false;
	drive(r);
	round_trip(r, 0);
	rig_destroy(r);
}

Test(virtio_pci, the_bus_resets_the_function)
{
	struct rig *r = rig_create();
	unsigned cap = r->fn->caps_last;

	drive(r);
	memset(&r->fn->config[cap + 8], 0x5a, 12);
	r->fn->config[cap + 4] = 3;
	r->fn->ops->reset(r->fn);
	cr_assert_eq(status(r), 0);
	cr_assert_eq(get(&r->echo.stops), 1);
	cr_assert_eq(r->fn->config[cap], PCI_CAP_ID_VNDR);
	cr_assert_eq(r->fn->config[cap + 4], 0);
	for (unsigned i = 8; i < 20; i++)
		cr_assert_eq(r->fn->config[cap + i], 0);
	drive(r);
	round_trip(r, 0);
	rig_destroy(r);
}

Test(virtio_pci, the_end_stops_a_running_device)
{
	struct rig *r = rig_create();

	drive(r);
	round_trip(r, 0);
	virtio_pci_destroy(r->vp);
	r->vp = NULL;
	cr_assert_eq(get(&r->echo.stops), 1);
	cr_assert_not(r->echo.dev.running);
	rig_destroy(r);
}

/* --- A21: sizes and places ---------------------------------------------------------------------
 */

Test(virtio_pci, a21_reads_are_the_bytes_that_lie_there)
{
	static const unsigned sizes[] = {2, 4, 8};
	struct rig *r = rig_create();

	negotiate(r);
	for (uint32_t offset = 0; offset < 0x80; offset++) {
		for (size_t i = 0; i < 3; i++) {
			uint64_t bytes = 0;

			for (unsigned b = 0; b < sizes[i]; b++)
				bytes |= rd(r, offset + b, 1) << (8 * b);
			cr_assert_eq(rd(r, offset, sizes[i]), bytes, "0x%x, %u", offset, sizes[i]);
		}
	}
	/* Over a window's end there is nothing: neither the next window nor its side effects. */
	r->echo.dev.raise_config(&r->echo.dev);
	cr_assert_eq(rd(r, ISR - 1, 8), 0);
	cr_assert_eq(rd(r, DEVICE - 1, 2), 0);
	cr_assert_eq(rd(r, BAR_SIZE - 8, 8), 0);
	rig_destroy(r);
}

Test(virtio_pci, a21_writes_that_hit_no_field_do_nothing)
{
	static const struct {
		uint32_t offset;
		unsigned size;
	} rows[] = {
	    {VIRTIO_PCI_COMMON_STATUS, 2},
	    {VIRTIO_PCI_COMMON_STATUS, 4},
	    {VIRTIO_PCI_COMMON_STATUS, 8},
	    {VIRTIO_PCI_COMMON_STATUS - 1, 2},
	    {VIRTIO_PCI_COMMON_NUMQ, 4},
	    {VIRTIO_PCI_COMMON_Q_SELECT, 1},
	    {VIRTIO_PCI_COMMON_Q_SELECT + 1, 1},
	    {VIRTIO_PCI_COMMON_Q_SIZE, 4},
	    {VIRTIO_PCI_COMMON_Q_SIZE, 1},
	    {VIRTIO_PCI_COMMON_Q_DESCLO, 2},
	    {VIRTIO_PCI_COMMON_Q_DESCLO + 1, 4},
	    {VIRTIO_PCI_COMMON_Q_DESCLO + 2, 4},
	    {VIRTIO_PCI_COMMON_Q_ENABLE, 1},
	    {VIRTIO_PCI_COMMON_Q_NOFF, 2},
	    {VIRTIO_PCI_COMMON_CFGGENERATION, 1},
	    {VIRTIO_PCI_COMMON_DF, 4},
	    {VIRTIO_PCI_COMMON_Q_USEDHI + 2, 8},
	    {0xffd, 8},
	    {ISR, 1},
	    {ISR, 4},
	};
	struct rig *r = rig_create();
	uint64_t before[16];

	for (unsigned i = 0; i < 16; i++)
		before[i] = rd(r, 4 * i, 4);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		wr(r, rows[i].offset, rows[i].size, 0x0101010101010101);
		for (unsigned k = 0; k < 16; k++)
			cr_assert_eq(rd(r, 4 * k, 4), before[k], "row %zu", i);
	}
	/* Eight bytes are two fields of four. */
	wr(r, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, 0x123456789abcdef0);
	cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_AVAILLO, 8), 0x123456789abcdef0);
	cr_assert_eq(rd(r, VIRTIO_PCI_COMMON_Q_AVAILHI, 4), 0x12345678);
	rig_destroy(r);
}

/* Anything at all, for a while; then a reset, and the device works. */
static void storm(struct rig *r, unsigned seed, unsigned accesses)
{
	static const uint8_t statuses[] = {
	    0, ACK, ACK | DRV, ACK | DRV | FOK, ACK | DRV | FOK | DOK, 0xff};

	for (unsigned i = 0; i < accesses; i++) {
		uint32_t offset =
		    rand_r(&seed) % 4 ? rand_r(&seed) % 0x40u : rand_r(&seed) % BAR_SIZE;
		unsigned size = 1u << rand_r(&seed) % 4;
		uint64_t value =
		    rand_r(&seed) % 2 ? rand_r(&seed) % 4u : (uint64_t)rand_r(&seed) << 20;

		if (rand_r(&seed) % 64 == 0) {
			offset = VIRTIO_PCI_COMMON_STATUS;
			size = 1;
			value = statuses[rand_r(&seed) % sizeof(statuses)];
		}
		if (offset + size > BAR_SIZE)
			continue;
		if (rand_r(&seed) % 3)
			wr(r, offset, size, value);
		else
			rd(r, offset, size);
	}
}

Test(virtio_pci, a21_random_accesses, .timeout = 300)
{
	struct rig *r = rig_create();

	for (unsigned seed = 0; seed < 20; seed++) {
		storm(r, seed, 5000);
		set_status(r, 0);
		cr_assert_eq(status(r), 0);
		drive(r);
		for (unsigned i = 0; i < QUEUES; i++)
			round_trip(r, i);
	}
	rig_destroy(r);
}

/* --- vCPU threads against the sidecar ----------------------------------------------------------
 */

struct vcpu {
	struct rig *r;
	unsigned seed;
};

static void *vcpu_storm(void *arg)
{
	struct vcpu *v = arg;

	for (unsigned i = 0; i < 20; i++) {
		storm(v->r, v->seed + i, 500);
		set_features(v->r, F_MODERN);
		set_status(v->r, ACK | DRV | FOK | DOK);
		wr(v->r, DOORBELLS, 4, 0);
	}
	return NULL;
}

/* The sidecar breaks the device and changes its configuration while two vCPUs fight over the
 * registers. */
static void fight(bool inline_bells)
{
	struct rig *r = rig_create_with(inline_bells);
	struct vcpu vcpus[2] = {{r, 100}, {r, 200}};
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, vcpu_storm, &vcpus[i]), 0);
	for (int i = 0; i < 200; i++) {
		loop_call(r->loop, break_call, r);
		r->echo.dev.raise_config(&r->echo.dev);
		sleep_ms(1);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	set_status(r, 0);
	cr_assert_eq(status(r), 0);
	drive(r);
	round_trip(r, 0);
	rig_destroy(r);
}

Test(virtio_pci, nobody_waits_for_ever, .timeout = 300)
{
	fight(false);
}

Test(virtio_pci, nobody_waits_for_ever_inline, .timeout = 300)
{
	fight(true);
}

/* Each ring is heard; while the sidecar sleeps by the one who rings, and nobody is woken. */
Test(virtio_pci, inline_bells)
{
	struct rig *r = rig_create_with(true);
	unsigned served, rings = 0, quiet;
	uint64_t before;

	cr_assert_eq(r->fn->doorbell_count, 0, "KVM counts nothing");
	wr(r, DOORBELLS, 4, 0);
	settle(r);
	cr_assert_eq(get(&r->echo.ready), 0, "not served yet");
	drive(r);
	for (quiet = 0; quiet < 100; rings++) {
		served = get(&r->echo.served);
		before = turns(r);
		ring_driver_add(&r->drv[1], &(struct ring_buffer){DATA_GPA, 9, true}, 1);
		ring_driver_expose(&r->drv[1]);
		wr(r, DOORBELLS + 4, 2, 1);
		quiet += get(&r->echo.served) == served + 1 && turns(r) == before;
		cr_assert(reaches(&r->echo.served, served + 1));
		settle(r);
		cr_assert(ring_driver_take(&r->drv[1], &(struct ring_used){0}));
	}
	cr_assert_eq(r->echo.dev.queues[1].kicks, rings);
	cr_assert_eq(r->echo.dev.queues[1].doorbells, rings);
	rig_destroy(r);
}

/* --- the keyhole in configuration space --------------------------------------------------------
 */

static void keyhole_aim(struct rig *r, uint8_t bar, uint32_t offset, uint32_t length)
{
	struct virtio_pci_cap cap;

	memcpy(&cap, &r->fn->config[r->fn->caps_last], sizeof(cap));
	cap.bar = bar;
	cap.offset = offset;
	cap.length = length;
	memcpy(&r->fn->config[r->fn->caps_last], &cap, sizeof(cap));
	r->fn->ops->config_written(r->fn, r->fn->caps_last, sizeof(cap));
}

static uint32_t keyhole_read(struct rig *r)
{
	uint32_t value;

	r->fn->ops->config_reading(r->fn, r->fn->caps_last + 16, 4);
	memcpy(&value, &r->fn->config[r->fn->caps_last + 16], 4);
	return value;
}

static void keyhole_write(struct rig *r, uint32_t value)
{
	memcpy(&r->fn->config[r->fn->caps_last + 16], &value, 4);
	r->fn->ops->config_written(r->fn, r->fn->caps_last + 16, 4);
}

Test(virtio_pci, the_keyhole_reaches_the_bar)
{
	struct rig *r = rig_create();

	drive(r);
	keyhole_aim(r, 0, VIRTIO_PCI_COMMON_NUMQ, 2);
	cr_assert_eq(keyhole_read(r) & 0xffff, QUEUES);
	keyhole_aim(r, 0, DEVICE + 4, 4);
	cr_assert_eq(keyhole_read(r), 0x17161514);
	keyhole_write(r, 0x01020304);
	cr_assert_eq(rd(r, DEVICE + 4, 4), 0x01020304);
	keyhole_aim(r, 0, DOORBELLS, 2);
	keyhole_write(r, 0);
	cr_assert(reaches(&r->echo.ready, 1), "a bell rung through the keyhole is heard");
	keyhole_aim(r, 0, VIRTIO_PCI_COMMON_STATUS, 1);
	keyhole_write(r, 0xffffff00);
	cr_assert_eq(status(r), 0, "one byte of the data counts");
	rig_destroy(r);
}

Test(virtio_pci, a3_a_keyhole_that_points_nowhere_does_nothing)
{
	static const struct {
		uint8_t bar;
		uint32_t offset, length;
	} rows[] = {
	    {1, VIRTIO_PCI_COMMON_STATUS, 1},
	    {0xff, VIRTIO_PCI_COMMON_STATUS, 1},
	    {0, VIRTIO_PCI_COMMON_STATUS, 0},
	    {0, VIRTIO_PCI_COMMON_STATUS, 3},
	    {0, VIRTIO_PCI_COMMON_STATUS, 8},
	    {0, VIRTIO_PCI_COMMON_STATUS, 0xffffffff},
	    {0, DEVICE + 1, 2},
	    {0, DEVICE + 2, 4},
	    {0, BAR_SIZE, 1},
	    {0, BAR_SIZE - 1, 2},
	    {0, 0xffffffff, 1},
	    {0, 0xfffffffe, 2},
	    {0, 0xfffffffc, 4},
	};
	struct rig *r = rig_create();

	drive(r);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		keyhole_aim(r, rows[i].bar, rows[i].offset, rows[i].length);
		cr_assert_eq(keyhole_read(r), 0, "row %zu", i);
		keyhole_write(r, 0);
		cr_assert_eq(status(r), ACK | DRV | FOK | DOK, "row %zu", i);
	}
	/* Accesses beside the data are not accesses to the BAR. */
	keyhole_aim(r, 0, VIRTIO_PCI_COMMON_STATUS, 1);
	for (unsigned offset = r->fn->caps_last - 8; offset < r->fn->caps_last + 16u; offset += 4)
		r->fn->ops->config_written(r->fn, offset, 4);
	r->fn->ops->config_written(r->fn, r->fn->caps_last + 20, 4);
	cr_assert_eq(status(r), ACK | DRV | FOK | DOK);
	rig_destroy(r);
}

/* --- set-up ------------------------------------------------------------------------------------
 */

static unsigned descriptors_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

Test(virtio_pci, devices_that_do_not_fit_are_refused)
{
	static const struct {
		unsigned queues;
		uint16_t size;
		uint32_t config_size;
	} rows[] = {
	    {0, 16, 8}, {VIRTIO_QUEUES_MAX + 1, 16, 8}, {2, 0, 8},
	    {2, 3, 8},	{2, VIRTQUEUE_SIZE_MAX * 2, 8}, {2, 16, 0x1001},
	};
	struct loop *loop = loop_create(64);
	struct virtio_device *dev = calloc(1, sizeof(*dev));

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct virtio_ops ops = echo_ops;

		ops.config_size = rows[i].config_size;
		*dev = (struct virtio_device){
		    .ops = &ops, .queue_count = rows[i].queues, .loop = loop};
		for (unsigned k = 0; k < rows[i].queues && k < VIRTIO_QUEUES_MAX; k++)
			dev->queues[k].size_max = rows[i].size;
		cr_assert_null(virtio_pci_create(dev));
		cr_assert_eq(errno, EINVAL);
	}
	free(dev);
	loop_destroy(loop);
	virtio_pci_destroy(NULL);
}

Test(virtio_pci, the_largest_device_fits_and_leaves_nothing_behind)
{
	struct virtio_device *dev = calloc(1, sizeof(*dev));
	struct loop *loop = loop_create(64);
	unsigned before = descriptors_open();
	struct virtio_pci *vp;

	*dev = (struct virtio_device){
	    .ops = &echo_ops, .queue_count = VIRTIO_QUEUES_MAX, .loop = loop};
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		dev->queues[i].size_max = VIRTQUEUE_SIZE_MAX;
	vp = virtio_pci_create(dev);
	cr_assert_not_null(vp);
	cr_assert_leq(virtio_pci_function(vp)->msix_vectors, PCI_MSIX_MAX);
	cr_assert_eq(virtio_pci_function(vp)->doorbell_count, PCI_DOORBELLS_MAX);
	virtio_pci_destroy(vp);
	cr_assert_eq(descriptors_open(), before);
	loop_destroy(loop);
	free(dev);
}
