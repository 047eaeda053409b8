/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The block device between a driver's ring and an image in memory. Row names such as A19 are those
 * of the list of hostile inputs.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/device_rig.h"

#define SECTOR	 512u
#define SECTORS	 12288ull /* 6 MiB */
#define FLUSH	 (1ull << VIRTIO_BLK_F_FLUSH)
#define HDR_GPA	 RIG_DATA
#define STAT_GPA (RIG_DATA + 0x100)
#define TABLES	 (RIG_DATA + 0x1000) /* indirect tables, 256 bytes each */
#define DATA	 (RIG_DATA + 0x10000)
#define HDR	 sizeof(struct virtio_blk_outhdr)
#define NOTHING	 0xaa /* a status that nobody wrote */

static struct device_rig rig;
static int image;

static void setup_with(uint64_t features, bool read_only)
{
	image = memfd_create("image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert_geq(image, 0);
	cr_assert_eq(ftruncate(image, SECTORS * SECTOR + 300), 0);
	rig_begin(&rig);
	rig.dev = virtio_block_create(&rig.env, image, read_only, "disk-0");
	cr_assert_not_null(rig.dev);
	rig_start(&rig, features, 128);
}

static void setup(void)
{
	setup_with(FLUSH, false);
}

static void teardown(void)
{
	virtio_stop(rig.dev);
	virtio_block_destroy(rig.dev);
	rig_end(&rig);
	cr_assert_eq(fcntl(image, F_GETFD), -1);
}

static void header(uint32_t type, uint64_t sector)
{
	const struct virtio_blk_outhdr hdr = {.type = type, .sector = sector};

	memcpy(rig_host(&rig, HDR_GPA), &hdr, HDR);
	*(uint8_t *)rig_host(&rig, STAT_GPA) = NOTHING;
}

static uint8_t status(void)
{
	return *(uint8_t *)rig_host(&rig, STAT_GPA);
}

/* Ring, and turn the loop until the request comes back. Returns the bytes written. */
static int64_t finish(void)
{
	int64_t written = -1;

	virtio_ready(rig.dev, 0);
	for (unsigned i = 0; i < 50 && (written = rig_used(&rig, 0)) < 0; i++)
		rig_turns(&rig, 1);
	cr_assert_geq(written, 0);
	return written;
}

/* A request with @len bytes of data at DATA. Returns its status. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t len)
{
	bool reads = type == VIRTIO_BLK_T_OUT;
	int64_t written;

	header(type, sector);
	cr_assert(rig_add(
	    &rig, 0,
	    (struct ring_buffer[]){{HDR_GPA, HDR, false}, {DATA, len, !reads}, {STAT_GPA, 1, true}},
	    3));
	written = finish();
	if (type == VIRTIO_BLK_T_IN)
		cr_assert_eq(written, status() == VIRTIO_BLK_S_OK ? len + 1 : 1);
	return status();
}

static void pattern(uint8_t *at, size_t len, unsigned salt)
{
	for (size_t i = 0; i < len; i++)
		at[i] = i * 7 + i / 253 + salt;
}

Test(virtio_block, writes_and_reads_back, .init = setup, .fini = teardown)
{
	static uint8_t expected[4096], found[4096];

	pattern(expected, sizeof(expected), 1);
	memcpy(rig_host(&rig, DATA), expected, sizeof(expected));
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(pread(image, found, 4096, 8 * SECTOR), 4096);
	cr_assert_eq(memcmp(found, expected, 4096), 0);
	memset(rig_host(&rig, DATA), 0, 4096);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 8, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(memcmp(rig_host(&rig, DATA), expected, 4096), 0);
	cr_assert_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(rig.dev->queues[0].requests, 3);
	cr_assert_eq(fake_irq_count(&rig.irqs, 1), 3);
}

static void setup_no_flush(void)
{
	setup_with(0, false);
}

Test(virtio_block, writes_without_flush_negotiated, .init = setup_no_flush, .fini = teardown)
{
	uint8_t found[SECTOR];

	pattern(rig_host(&rig, DATA), SECTOR, 9);
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, SECTOR), VIRTIO_BLK_S_OK);
	cr_assert_eq(pread(image, found, SECTOR, 0), SECTOR);
	cr_assert_eq(memcmp(found, rig_host(&rig, DATA), SECTOR), 0);
}

Test(virtio_block, long_transfers_go_in_windows, .init = setup, .fini = teardown)
{
	const uint32_t len = 5 * (1 << 20) + 3 * SECTOR;
	struct ring_buffer pieces[] = {{HDR_GPA, HDR, false},
				       {DATA, 1000, false},
				       {DATA + 1000, 3000000, false},
				       {DATA + 3001000, len - 3001000, false},
				       {STAT_GPA, 1, true}};
	uint8_t *expected = malloc(len), *found = malloc(len);

	pattern(expected, len, 3);
	memcpy(rig_host(&rig, DATA), expected, len);
	header(VIRTIO_BLK_T_OUT, 1);
	cr_assert(rig_add(&rig, 0, pieces, 5));
	finish();
	cr_assert_eq(status(), VIRTIO_BLK_S_OK);
	cr_assert_eq(pread(image, found, len, SECTOR), (ssize_t)len);
	cr_assert_eq(memcmp(found, expected, len), 0);

	memset(rig_host(&rig, DATA), 0, len);
	header(VIRTIO_BLK_T_IN, 1);
	for (unsigned i = 1; i < 4; i++)
		pieces[i].device_writes = true;
	cr_assert(rig_add(&rig, 0, pieces, 5));
	cr_assert_eq(finish(), len + 1);
	cr_assert_eq(status(), VIRTIO_BLK_S_OK);
	cr_assert_eq(memcmp(rig_host(&rig, DATA), expected, len), 0);
	free(expected);
	free(found);
}

Test(virtio_block, a13_header_data_and_status_cut_anywhere, .init = setup, .fini = teardown)
{
	struct ring_buffer pieces[HDR + 2 * 32];
	uint8_t *at = rig_host(&rig, DATA);
	unsigned n;

	/* Out: header bytes one each, the last with data behind it in the same segment. */
	pattern(at, SECTOR, 5);
	header(VIRTIO_BLK_T_OUT, 3);
	memcpy(at - 1, (uint8_t *)rig_host(&rig, HDR_GPA) + HDR - 1, 1);
	for (n = 0; n < HDR - 1; n++)
		pieces[n] = (struct ring_buffer){HDR_GPA + n, 1, false};
	pieces[n++] = (struct ring_buffer){DATA - 1, 1 + 100, false};
	pieces[n++] = (struct ring_buffer){DATA + 100, SECTOR - 100, false};
	pieces[n++] = (struct ring_buffer){STAT_GPA, 1, true};
	cr_assert(rig_add(&rig, 0, pieces, n));
	cr_assert_eq(finish(), 1);
	cr_assert_eq(status(), VIRTIO_BLK_S_OK);

	/* In: data in small pieces, the status behind it in the same segment. */
	memset(at, 0, SECTOR);
	header(VIRTIO_BLK_T_IN, 3);
	n = 0;
	pieces[n++] = (struct ring_buffer){HDR_GPA, HDR, false};
	for (unsigned i = 0; i < 50; i++)
		pieces[n++] = (struct ring_buffer){DATA + i, 1, true};
	pieces[n++] = (struct ring_buffer){DATA + 50, SECTOR - 50 + 1, true};
	cr_assert(rig_add(&rig, 0, pieces, n));
	cr_assert_eq(finish(), SECTOR + 1);
	cr_assert_eq(at[SECTOR], VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < SECTOR; i++)
		cr_assert_eq(at[i], (uint8_t)(i * 7 + i / 253 + 5));
}

Test(virtio_block, identity, .init = setup, .fini = teardown)
{
	const char *at = rig_host(&rig, DATA);

	memset(rig_host(&rig, DATA), 'x', 64);
	cr_assert_eq(request(VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	cr_assert_eq(memcmp(at, "disk-0\0\0\0\0\0\0\0\0\0\0\0\0\0\0x", 21), 0);
	memset(rig_host(&rig, DATA), 'x', 64);
	cr_assert_eq(request(VIRTIO_BLK_T_GET_ID, 0, 4), VIRTIO_BLK_S_OK);
	cr_assert_eq(memcmp(at, "diskx", 5), 0);
	cr_assert_eq(request(VIRTIO_BLK_T_GET_ID, 0, 64), VIRTIO_BLK_S_OK);
}

Test(virtio_block, configuration, .init = setup, .fini = teardown)
{
	struct virtio_blk_config config;

	rig.dev->ops->config_read(rig.dev, 0, &config, rig.dev->ops->config_size);
	cr_assert_eq(config.capacity, SECTORS);
	cr_assert_eq(config.seg_max, 126);
	cr_assert_eq(config.blk_size, SECTOR);
	cr_assert_not(rig.dev->features_offered & (1ull << VIRTIO_BLK_F_RO));
}

static void setup_read_only(void)
{
	setup_with(FLUSH | 1ull << VIRTIO_BLK_F_RO, true);
}

Test(virtio_block, read_only_refuses_writes, .init = setup_read_only, .fini = teardown)
{
	uint8_t found[SECTOR];

	cr_assert(rig.dev->features_offered & (1ull << VIRTIO_BLK_F_RO));
	pattern(rig_host(&rig, DATA), SECTOR, 1);
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, SECTOR), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(pread(image, found, SECTOR, 0), SECTOR);
	cr_assert_eq(found[0] | found[1] | found[2], 0);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
	cr_assert_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
}

Test(virtio_block, ranges_outside_of_the_image, .init = setup, .fini = teardown)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
		uint8_t status;
	} ranges[] = {
	    {SECTORS - 1, SECTOR, VIRTIO_BLK_S_OK},
	    {SECTORS, 0, VIRTIO_BLK_S_OK},
	    {SECTORS, SECTOR, VIRTIO_BLK_S_IOERR},
	    {SECTORS - 1, 2 * SECTOR, VIRTIO_BLK_S_IOERR},
	    {SECTORS + 1, 0, VIRTIO_BLK_S_IOERR},
	    {UINT64_MAX, SECTOR, VIRTIO_BLK_S_IOERR},
	    {UINT64_MAX - 1, 4 * SECTOR, VIRTIO_BLK_S_IOERR},
	    {1ull << 55, SECTOR, VIRTIO_BLK_S_IOERR},
	    {(1ull << 55) - 1, 2 * SECTOR, VIRTIO_BLK_S_IOERR},
	    {0, 1, VIRTIO_BLK_S_IOERR},
	    {0, SECTOR - 1, VIRTIO_BLK_S_IOERR},
	    {0, SECTOR + 1, VIRTIO_BLK_S_IOERR},
	};

	for (unsigned i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		cr_assert_eq(request(VIRTIO_BLK_T_IN, ranges[i].sector, ranges[i].len),
			     ranges[i].status);
		cr_assert_eq(request(VIRTIO_BLK_T_OUT, ranges[i].sector, ranges[i].len),
			     ranges[i].status);
	}
	cr_assert_eq(lseek(image, 0, SEEK_END), (off_t)(SECTORS * SECTOR + 300));
	cr_assert_null(rig.dev->broken);
}

Test(virtio_block, unknown_types, .init = setup, .fini = teardown)
{
	static const uint32_t types[] = {2, 3, 5, 11, 13, 14, 0x80000000, 0xffffffff};

	for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		cr_assert_eq(request(types[i], 0, SECTOR), VIRTIO_BLK_S_UNSUPP);
}

Test(virtio_block, an_image_that_became_shorter, .init = setup, .fini = teardown)
{
	pattern(rig_host(&rig, DATA), 8192, 1);
	cr_assert_eq(ftruncate(image, 4096), 0);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 8192), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 16, SECTOR), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(fcntl(image, F_ADD_SEALS, F_SEAL_GROW), 0);
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 16, SECTOR), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, 8192), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
}

Test(virtio_block, requests_that_cannot_be_answered, .init = setup, .fini = teardown)
{
	struct ring_buffer bad[][2] = {
	    {{HDR_GPA, HDR, false}, {STAT_GPA, 0, true}},
	    {{HDR_GPA, HDR - 1, false}, {STAT_GPA, 1, true}},
	    {{HDR_GPA, 0, false}, {STAT_GPA, 1, true}},
	    {{HDR_GPA, 0, false}, {STAT_GPA, 0, true}},
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		header(VIRTIO_BLK_T_FLUSH, 0);
		rig_send(&rig, 0, bad[i], 2);
		cr_assert_not_null(rig.dev->broken);
		rig_turns(&rig, 2);
		cr_assert_eq(rig_used(&rig, 0), -1);
		cr_assert_eq(status(), NOTHING);
		rig_reset(&rig);
	}
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
}

/* Add request number @n: a read or write of a sector of its own, by an indirect table. */
static void request_add(unsigned n, uint32_t type)
{
	const struct virtio_blk_outhdr hdr = {.type = type, .sector = n};
	uint64_t gpa = DATA + n * 1024ull;
	struct ring_buffer table[] = {
	    {gpa, HDR, false}, {gpa + 512, SECTOR, type == VIRTIO_BLK_T_IN}, {gpa + HDR, 1, true}};

	memcpy(rig_host(&rig, gpa), &hdr, HDR);
	((uint8_t *)rig_host(&rig, gpa))[HDR] = NOTHING;
	rig.dev->queues[0].ring.indirect = true;
	cr_assert_geq(ring_driver_add_indirect(&rig.rings[0], TABLES + n * 64, table, 3), 0);
	ring_driver_expose(&rig.rings[0]);
}

Test(virtio_block, a19_a_full_ring_in_flight, .init = setup, .fini = teardown)
{
	for (unsigned round = 0; round < 20; round++) {
		unsigned back = 0;

		for (unsigned n = 0; n < 128; n++)
			request_add(n, round % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT);
		virtio_ready(rig.dev, 0);
		for (unsigned i = 0; i < 50 && back < 128; i++) {
			rig_turns(&rig, 1);
			while (rig_used(&rig, 0) >= 0)
				back++;
		}
		cr_assert_eq(back, 128);
	}
	cr_assert_eq(rig.dev->queues[0].requests, 20 * 128);
	cr_assert_lt(fake_irq_count(&rig.irqs, 1), 20 * 128 / 4);
	cr_assert_null(rig.dev->broken);
}

Test(virtio_block, a19_more_than_the_ring_is_long, .init = setup, .fini = teardown)
{
	for (unsigned n = 0; n < 128; n++)
		request_add(n, VIRTIO_BLK_T_IN);
	virtio_ready(rig.dev, 0);
	ring_driver_offer(&rig.rings[0], 0);
	ring_driver_expose(&rig.rings[0]);
	virtio_ready(rig.dev, 0);
	cr_assert_not_null(rig.dev->broken);
	rig_turns(&rig, 4);
	cr_assert_eq(rig_used(&rig, 0), -1);
	rig_reset(&rig);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
}

/* Within the loop: requests are prepared or with the kernel when the device is stopped. */
static void stop_at_once(struct loop_task *task)
{
	(void)task;
	virtio_ready(rig.dev, 0);
	virtio_stop(rig.dev);
	memset(rig_host(&rig, DATA), 0x55, 128 * 1024);
}

Test(virtio_block, a20_nothing_is_written_after_a_reset, .init = setup, .fini = teardown)
{
	struct loop_task task = {.run = stop_at_once};
	const uint8_t *at = rig_host(&rig, DATA);

	for (unsigned round = 0; round < 20; round++) {
		for (unsigned n = 0; n < 128; n++)
			request_add(n, VIRTIO_BLK_T_IN);
		loop_defer(rig.loop, &task);
		rig_turns(&rig, 3);
		for (unsigned i = 0; i < 128 * 1024; i++)
			cr_assert_eq(at[i], 0x55);
		virtio_stop(rig.dev);
		rig_start(&rig, FLUSH, 128);
		cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
	}
}

Test(virtio_block, a20_a_reset_drops_requests_that_wait, .init = setup, .fini = teardown)
{
	/* The loop does not run: nothing can be handed to the kernel. */
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned n = 0; n < 128; n++)
			request_add(n, VIRTIO_BLK_T_OUT);
		virtio_ready(rig.dev, 0);
		rig_reset(&rig);
	}
	rig_turns(&rig, 3);
	cr_assert_eq(rig.dev->queues[0].requests, 0);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
}

static void *sidecar(void *arg)
{
	(void)arg;
	return loop_run(rig.loop) ? &rig : NULL;
}

static void ring_call(void *arg)
{
	(void)arg;
	virtio_ready(rig.dev, 0);
}

static void reset_call(void *arg)
{
	(void)arg;
	virtio_stop(rig.dev);
}

static void start_call(void *arg)
{
	(void)arg;
	rig_start(&rig, FLUSH, 128);
}

Test(virtio_block, a20_resets_while_the_sidecar_works, .init = setup, .fini = teardown,
     .timeout = 300)
{
	const uint8_t *at = rig_host(&rig, DATA);
	pthread_t thread;
	void *failed;

	cr_assert_eq(pthread_create(&thread, NULL, sidecar, NULL), 0);
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned n = 0; n < 100; n++)
			request_add(n, n % 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT);
		loop_call(rig.loop, ring_call, NULL);
		if (round % 3)
			usleep(round * 3);
		loop_call(rig.loop, reset_call, NULL);
		memset(rig_host(&rig, DATA), 0x55, 128 * 1024);
		if (round % 2)
			usleep(100);
		for (unsigned i = 0; i < 128 * 1024; i++)
			cr_assert_eq(at[i], 0x55);
		loop_call(rig.loop, start_call, NULL);
	}
	loop_stop(rig.loop);
	pthread_join(thread, &failed);
	cr_assert_null(failed);
}

Test(virtio_block, images_that_are_none)
{
	int fds[2];

	rig_begin(&rig);
	cr_assert_eq(pipe(fds), 0);
	errno = 0;
	cr_assert_null(virtio_block_create(&rig.env, fds[0], false, NULL));
	cr_assert_eq(errno, ENOTBLK);
	cr_assert_eq(close(fds[0]), 0);
	cr_assert_eq(close(fds[1]), 0);
	cr_assert_null(virtio_block_create(&rig.env, fds[0], false, NULL));
	cr_assert_eq(errno, EBADF);
	virtio_block_destroy(NULL);
	rig_end(&rig);
}
