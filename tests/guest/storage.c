/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 32M --disk {disk:1M},serial=scratch --disk {disk:64K},ro
/*
 * Block devices: data comes back as written, the read-only one refuses, impossible requests get an
 * error.
 */
#include <linux/virtio_blk.h>

#include "check.h"
#include "virtio.h"

#define SECTOR	   512
#define DISK_BYTES (1u << 20)
#define CHUNK	   65536u
#define NO_ANSWER  0xff

struct disk {
	struct virtio dev;
	struct ring ring;
	uint64_t sectors;
};

static uint8_t chunk[CHUNK], back[CHUNK];

static void disk_open(struct disk *disk, unsigned nth)
{
	if (!virtio_find(&disk->dev, VIRTIO_ID_BLOCK, nth) ||
	    !virtio_negotiate(&disk->dev, FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_RO)) ||
	    !ring_init(&disk->ring, &disk->dev, 0, 64))
		panic("no disk %u", nth);
	virtio_start(&disk->dev);
	disk->sectors = mmio_read64(disk->dev.config);
}

/* One request; @in: the device writes @data. Returns its status, NO_ANSWER if there was none. */
static uint8_t disk_request(struct disk *disk, uint32_t type, uint64_t at, void *data, uint32_t len,
			    bool in)
{
	static struct virtio_blk_outhdr header;
	static volatile uint8_t status;
	struct segment segments[3] = {{&header, sizeof(header)}, {data, len}};
	unsigned count = len ? 2 : 1;

	header = (struct virtio_blk_outhdr){.type = type, .sector = at};
	status = NO_ANSWER;
	segments[count] = (struct segment){&status, 1};
	if (ring_add(&disk->ring, segments, in ? 1 : count, in ? count : 1) < 0)
		return NO_ANSWER;
	ring_kick(&disk->ring);
	if (ring_wait(&disk->ring, NULL, PATIENCE_NS) < 0)
		return NO_ANSWER;
	return status;
}

static void pattern_fill(uint8_t *data, uint32_t len, uint32_t seed)
{
	for (uint32_t i = 0; i < len; i += 4) {
		uint32_t word = (seed + i) * 2654435761u;

		memcpy(data + i, &word, 4);
	}
}

static void test_data(struct disk *disk)
{
	unsigned bad = 0;

	for (uint32_t at = 0; at < DISK_BYTES; at += CHUNK) {
		pattern_fill(chunk, CHUNK, at);
		bad += disk_request(disk, VIRTIO_BLK_T_OUT, at / SECTOR, chunk, CHUNK, false) != 0;
	}
	check(!bad, "storage/write", "%u requests failed", bad);
	check(!disk_request(disk, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, false), "storage/flush",
	      "failed");
	bad = 0;
	for (uint32_t at = 0; at < DISK_BYTES; at += CHUNK) {
		pattern_fill(chunk, CHUNK, at);
		memset(back, 0, CHUNK);
		bad += disk_request(disk, VIRTIO_BLK_T_IN, at / SECTOR, back, CHUNK, true) != 0;
		bad += memcmp(chunk, back, CHUNK) != 0;
	}
	check(!bad, "storage/read", "%u requests failed or gave other data", bad);
}

/* A sector in pieces of odd sizes, the header cut in two. */
static void test_pieces(struct disk *disk)
{
	static struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN, .sector = 7};
	static volatile uint8_t status;
	struct segment segments[] = {
	    {&header, 5},     {(uint8_t *)&header + 5, sizeof(header) - 5},
	    {back, 1},	      {back + 1, 500},
	    {back + 501, 11}, {&status, 1},
	};
	uint32_t written = 0;

	status = NO_ANSWER;
	memset(back, 0, SECTOR);
	pattern_fill(chunk, SECTOR, 7 * SECTOR);
	ring_add(&disk->ring, segments, 2, 4);
	ring_kick(&disk->ring);
	check(ring_wait(&disk->ring, &written, PATIENCE_NS) >= 0 && !status, "storage/pieces",
	      "status %u", status);
	check(!memcmp(back, chunk, SECTOR), "storage/pieces data", "differ");
	check(written == SECTOR + 1, "storage/bytes written", "%u", written);
}

/* Many requests at once complete each with its own data. */
static void test_depth(struct disk *disk)
{
	static struct virtio_blk_outhdr headers[16];
	static uint8_t statuses[16];
	unsigned bad = 0;

	memset(statuses, NO_ANSWER, sizeof(statuses));
	memset(back, 0, CHUNK);
	for (unsigned i = 0; i < 16; i++) {
		struct segment segments[] = {{&headers[i], sizeof(headers[i])},
					     {back + i * SECTOR, SECTOR},
					     {&statuses[i], 1}};

		headers[i] = (struct virtio_blk_outhdr){.type = VIRTIO_BLK_T_IN, .sector = 100 * i};
		ring_add(&disk->ring, segments, 1, 2);
	}
	ring_kick(&disk->ring);
	for (unsigned i = 0; i < 16; i++)
		bad += ring_wait(&disk->ring, NULL, PATIENCE_NS) < 0;
	for (unsigned i = 0; i < 16; i++) {
		pattern_fill(chunk, CHUNK, 100 * i * SECTOR / CHUNK * CHUNK);
		bad += statuses[i] != 0 ||
		       memcmp(back + i * SECTOR, chunk + 100 * i * SECTOR % CHUNK, SECTOR);
	}
	check(!bad, "storage/many at once", "%u failed", bad);
}

/* Requests that cannot be done are answered by a status, and the disk goes on. */
static void test_impossible(struct disk *disk)
{
	static const struct {
		const char *name;
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		bool in;
		uint8_t status;
	} table[] = {
	    {"storage/read past the end", VIRTIO_BLK_T_IN, 2048, SECTOR, true, VIRTIO_BLK_S_IOERR},
	    {"storage/read across the end", VIRTIO_BLK_T_IN, 2047, 2 * SECTOR, true,
	     VIRTIO_BLK_S_IOERR},
	    {"storage/write past the end", VIRTIO_BLK_T_OUT, 2048, SECTOR, false,
	     VIRTIO_BLK_S_IOERR},
	    {"storage/sector wraps", VIRTIO_BLK_T_IN, 1ull << 55, SECTOR, true, VIRTIO_BLK_S_IOERR},
	    {"storage/last sector there is", VIRTIO_BLK_T_IN, UINT64_MAX, SECTOR, true,
	     VIRTIO_BLK_S_IOERR},
	    {"storage/half a sector", VIRTIO_BLK_T_IN, 0, SECTOR / 2, true, VIRTIO_BLK_S_IOERR},
	    {"storage/unknown request", 4711, 0, SECTOR, true, VIRTIO_BLK_S_UNSUPP},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		uint8_t status = disk_request(disk, table[i].type, table[i].sector, back,
					      table[i].len, table[i].in);

		check(status == table[i].status, table[i].name, "status %u, not %u", status,
		      table[i].status);
	}
}

static void test_id(struct disk *disk)
{
	uint8_t status =
	    disk_request(disk, VIRTIO_BLK_T_GET_ID, 0, back, VIRTIO_BLK_ID_BYTES, true);

	check(!status && !memcmp(back, "scratch", 8), "storage/serial", "status %u", status);
}

int main(void)
{
	static struct disk disk, fixed;
	uint8_t status;

	disk_open(&disk, 0);
	disk_open(&fixed, 1);
	check(disk.sectors == DISK_BYTES / SECTOR, "storage/size", "%lu sectors", disk.sectors);
	check(!virtio_has(&disk.dev, VIRTIO_BLK_F_RO), "storage/writable", "it is read-only");
	test_data(&disk);
	test_pieces(&disk);
	test_depth(&disk);
	test_impossible(&disk);
	test_id(&disk);
	check(!disk_request(&disk, VIRTIO_BLK_T_IN, 0, back, SECTOR, true), "storage/still works",
	      "it does not");

	check(virtio_has(&fixed.dev, VIRTIO_BLK_F_RO), "storage/read-only", "not offered");
	status = disk_request(&fixed, VIRTIO_BLK_T_OUT, 0, chunk, SECTOR, false);
	check(status == VIRTIO_BLK_S_IOERR, "storage/read-only refuses", "status %u", status);
	check(!disk_request(&fixed, VIRTIO_BLK_T_IN, 0, back, SECTOR, true) && !back[0],
	      "storage/read-only reads", "it does not, or has changed");
	return check_status();
}
