/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The entropy device. Row names such as A18 are those of the list of hostile inputs. */
#include <criterion/criterion.h>

#include "tests/unit/device_rig.h"

static struct device_rig rig;

static void setup(void)
{
	rig_begin(&rig);
	rig.dev = virtio_rng_create(&rig.env);
	rig_start(&rig, 0, 64);
}

static void teardown(void)
{
	virtio_stop(rig.dev);
	virtio_rng_destroy(rig.dev);
	rig_end(&rig);
}

/* How many bytes of @len at @gpa are not zero? */
static unsigned filled(uint64_t gpa, unsigned len)
{
	const uint8_t *bytes = rig_host(&rig, gpa);
	unsigned n = 0;

	while (len--)
		n += bytes[len] != 0;
	return n;
}

Test(virtio_rng, fills_a_buffer, .init = setup, .fini = teardown)
{
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 256, true}}, 1);
	cr_assert_eq(rig_used(&rig, 0), 256);
	cr_assert_gt(filled(RIG_DATA, 256), 200);
	cr_assert_eq(filled(RIG_DATA + 256, 256), 0);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1), 1);
	cr_assert_eq(rig.dev->queues[0].requests, 1);
}

Test(virtio_rng, fills_pieces, .init = setup, .fini = teardown)
{
	struct ring_buffer pieces[] = {
	    {RIG_DATA, 1, true}, {RIG_DATA + 100, 0, true}, {RIG_DATA + 200, 64, true}};

	rig_send(&rig, 0, pieces, 3);
	cr_assert_eq(rig_used(&rig, 0), 65);
	cr_assert_gt(filled(RIG_DATA + 200, 64), 40);
}

Test(virtio_rng, a18_a_huge_buffer_gets_a_bounded_amount, .init = setup, .fini = teardown)
{
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 4 << 20, true}}, 1);
	cr_assert_eq(rig_used(&rig, 0), 4096);
	cr_assert_eq(filled(RIG_DATA + 4096, 65536), 0);
}

Test(virtio_rng, a18_a_visit_serves_a_bounded_number, .init = setup, .fini = teardown)
{
	for (unsigned i = 0; i < 63; i++)
		cr_assert(rig_add(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, true}}, 1));
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, true}}, 1);
	cr_assert_eq(rig.dev->queues[0].requests, 16);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1), 1);
	rig_turns(&rig, 1);
	cr_assert_eq(rig.dev->queues[0].requests, 32);
	rig_turns(&rig, 4);
	cr_assert_eq(rig.dev->queues[0].requests, 64);
}

Test(virtio_rng, a20_a_reset_forgets_a_visit, .init = setup, .fini = teardown)
{
	for (unsigned i = 0; i < 63; i++)
		cr_assert(rig_add(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, true}}, 1));
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, true}}, 1);
	virtio_stop(rig.dev);
	virtio_stop(rig.dev);
	rig_turns(&rig, 2);
	cr_assert_eq(rig.dev->queues[0].requests, 16);
	rig_start(&rig, 0, 64);
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, true}}, 1);
	cr_assert_eq(rig_used(&rig, 0), 8);
}

Test(virtio_rng, a11_buffers_that_cannot_be_written_break_the_device, .init = setup,
     .fini = teardown)
{
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, false}}, 1);
	cr_assert_not_null(rig.dev->broken);
	cr_assert_eq(rig_used(&rig, 0), -1);
	rig_reset(&rig);
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 0, true}}, 1);
	cr_assert_not_null(rig.dev->broken);
	rig_reset(&rig);
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, false}, {RIG_DATA, 8, true}}, 2);
	cr_assert_not_null(rig.dev->broken);
	rig_reset(&rig);
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_DATA, 8, true}}, 1);
	cr_assert_eq(rig_used(&rig, 0), 8);
}

Test(virtio_rng, a5_a_buffer_outside_of_ram_breaks_the_device, .init = setup, .fini = teardown)
{
	rig_send(&rig, 0, (struct ring_buffer[]){{RIG_MEMORY - 4, 8, true}}, 1);
	cr_assert_not_null(rig.dev->broken);
	cr_assert_eq(rig.dev->broken_count, 1);
}
