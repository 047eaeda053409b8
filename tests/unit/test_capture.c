/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Captures, read back byte by byte as the format's specification has it. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/core_rig.h"
#include "tests/unit/link_lab.h"
#include "vnet/capture.h"
#include "vnet/loop.h"

#define NIC  0u /* places in the rig */
#define LINK 1u
#define BOTH 2u /* interfaces a frame passes: it comes in by one port and leaves by the other */

#define SECTION	   28u /* bytes of blocks, without name and frame */
#define INTERFACE  36u
#define PACKET	   44u
#define STATISTICS 40u

static struct loop *loop;
static struct core_rig rig;
static struct capture *capture;
static int file, kept; /* the capture closes its own */
static char path[32];  /* of the file, which has no name any more */

static void up(void)
{
	loop = loop_create(64);
	cr_assert_not_null(loop);
	core_rig_up(&rig, (struct core_options){0});
	core_rig_attach(&rig, NIC, PORT_INTERFACE, "nic0");
	core_rig_attach(&rig, LINK, PORT_LINK, "udp://10.0.0.2:6081");
	kept = open(getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC,
		    0600);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", kept);
	file = open(path, O_WRONLY | O_CLOEXEC);
	cr_assert(kept >= 0 && file >= 0);
	capture = NULL;
}

static void down(void)
{
	capture_stop(capture);
	core_rig_down(&rig);
	loop_destroy(loop);
	close(kept);
}

static void start(uint64_t limit)
{
	capture = capture_start(loop, rig.core, NULL, file, limit);
	cr_assert_not_null(capture);
}

static struct capture_status stop(void)
{
	struct capture_status status = capture_stop(capture);

	capture = NULL;
	return status;
}

/* --- frames --------------------------------------------------------------------------------- */

static uint8_t frame_byte(uint32_t len, uint32_t i)
{
	return (uint8_t)(len + i * 7);
}

/* A frame in three pieces comes in by the interface. */
static void frame_send(uint32_t len)
{
	static uint8_t bytes[FRAME_SIZE_MAX];
	struct iovec iov[3] = {{bytes, 5}, {bytes + 5, 0}, {bytes + 5, len - 5}};
	struct frame frame = {.iov = iov, .iovcnt = 3, .len = len};
	struct frame *list = &frame;

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = frame_byte(len, i);
	bytes[0] &= 0xfe; /* to one station */
	memcpy(frame.eth, bytes, sizeof(frame.eth));
	core_input(rig.core, &rig.ports[NIC].port, &list, 1);
}

static size_t padded(size_t len)
{
	return (len + 3) / 4 * 4;
}

/* Bytes of a file with this many frames, which passed two ports. */
static size_t file_size(unsigned frames, uint32_t len)
{
	return SECTION + 2 * INTERFACE + padded(strlen("nic0")) +
	       padded(strlen("udp://10.0.0.2:6081")) + frames * (PACKET + padded(len)) + STATISTICS;
}

/* --- reading back --------------------------------------------------------------------------- */

struct reader {
	uint8_t *bytes;
	size_t size, at;
	unsigned interfaces, packets, statistics;
	char names[8][PORT_NAME_MAX];
	uint32_t lengths[64]; /* of the first packets */
	unsigned ports[64];
	uint32_t flags[64];
	uint64_t first_ns, last_ns; /* of packets */
	uint64_t dropped;
};

static uint32_t word_at(const struct reader *r, size_t at)
{
	uint32_t word;

	cr_assert_leq(at + sizeof(word), r->size);
	memcpy(&word, r->bytes + at, sizeof(word));
	return word;
}

/* The value of an option in [at, end), or NULL. All options have to be well-formed. */
static const uint8_t *option_find(const struct reader *r, size_t at, size_t end, unsigned code,
				  size_t len)
{
	const uint8_t *found = NULL;

	for (;;) {
		uint32_t head = word_at(r, at);
		size_t size = padded(head >> 16);

		at += 4;
		if (!head)
			break;
		cr_assert_leq(at + size, end);
		for (size_t i = head >> 16; i < size; i++)
			cr_assert_eq(r->bytes[at + i], 0, "padding");
		if ((head & 0xffff) == code) {
			cr_assert_null(found, "an option twice");
			cr_assert(!len || head >> 16 == len);
			found = r->bytes + at;
		}
		at += size;
	}
	cr_assert_eq(at, end, "something behind the end of options");
	return found;
}

static void section_read(struct reader *r, size_t at, size_t end)
{
	cr_assert_eq(at, 8, "not first");
	cr_assert_eq(word_at(r, at), 0x1a2b3c4d);
	cr_assert_eq(word_at(r, at + 4), 1, "version");
	cr_assert_eq(word_at(r, at + 8), UINT32_MAX);
	cr_assert_eq(word_at(r, at + 12), UINT32_MAX);
	cr_assert_eq(at + 16, end);
}

static void interface_read(struct reader *r, size_t at, size_t end)
{
	const uint8_t *resolution = option_find(r, at + 8, end, 9, 1);
	const uint8_t *name = option_find(r, at + 8, end, 2, 0);
	uint16_t len;

	cr_assert_eq(word_at(r, at), 1, "LINKTYPE_ETHERNET");
	cr_assert_eq(word_at(r, at + 4), 0, "snap length");
	cr_assert(resolution && *resolution == 9);
	cr_assert_not_null(name);
	memcpy(&len, name - 2, sizeof(len));
	cr_assert_lt(len, PORT_NAME_MAX);
	memcpy(r->names[r->interfaces++ % 8], name, len);
}

static void packet_read(struct reader *r, size_t at, size_t end)
{
	uint32_t interface = word_at(r, at), len = word_at(r, at + 12);
	uint64_t ns = (uint64_t)word_at(r, at + 4) << 32 | word_at(r, at + 8);
	const uint8_t *data = r->bytes + at + 20, *flags;

	cr_assert_lt(interface, r->interfaces);
	cr_assert_eq(word_at(r, at + 16), len, "original length");
	cr_assert_leq(at + 20 + padded(len), end);
	for (uint32_t i = 1; i < len; i++)
		cr_assert_eq(data[i], frame_byte(len, i));
	for (size_t i = len; i < padded(len); i++)
		cr_assert_eq(data[i], 0, "padding");
	flags = option_find(r, at + 20 + padded(len), end, 2, 4);
	cr_assert_not_null(flags);
	if (r->packets < 64) {
		r->lengths[r->packets] = len;
		r->ports[r->packets] = interface;
		memcpy(&r->flags[r->packets], flags, 4);
	}
	if (!r->packets)
		r->first_ns = ns;
	r->last_ns = ns;
	r->packets++;
}

static void statistics_read(struct reader *r, size_t at, size_t end)
{
	const uint8_t *dropped = option_find(r, at + 12, end, 5, 8);

	cr_assert_eq(word_at(r, at), 0, "interface");
	cr_assert_not_null(dropped);
	memcpy(&r->dropped, dropped, sizeof(r->dropped));
	cr_assert_eq(end + 4, r->size, "not last");
	r->statistics++;
}

static void block_read(struct reader *r)
{
	uint32_t type = word_at(r, r->at), len = word_at(r, r->at + 4);
	size_t at = r->at + 8, end = r->at + len - 4;

	cr_assert(len >= 12 && !(len & 3) && len <= r->size - r->at, "block of %u bytes", len);
	cr_assert_eq(word_at(r, end), len, "length at the end");
	if (type == 0x0a0d0d0a)
		section_read(r, at, end);
	else if (type == 1)
		interface_read(r, at, end);
	else if (type == 6)
		packet_read(r, at, end);
	else if (type == 5)
		statistics_read(r, at, end);
	else
		cr_assert_fail("unknown block");
	r->at += len;
}

/* Read all of the file, to be freed. */
static struct reader file_read(void)
{
	struct reader r = {0};
	FILE *in = fopen(path, "re");
	struct stat st;

	cr_assert_not_null(in);
	cr_assert_eq(stat(path, &st), 0);
	r.size = (size_t)st.st_size;
	r.bytes = malloc(r.size + 1);
	cr_assert_not_null(r.bytes);
	cr_assert_eq(fread(r.bytes, 1, r.size, in), r.size);
	fclose(in);
	while (r.at < r.size)
		block_read(&r);
	free(r.bytes);
	r.bytes = NULL;
	return r;
}

static bool all_written(void *arg)
{
	struct stat st;

	(void)arg;
	return !stat(path, &st) && (uint64_t)st.st_size == capture_status(capture).bytes;
}

static uint64_t wall_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- tests ---------------------------------------------------------------------------------- */

static const uint32_t lengths[] = {14, 60, 61, 62, 63, 64, 1514, 9014, FRAME_SIZE_MAX};
#define LENGTHS (sizeof(lengths) / sizeof(lengths[0]))

Test(capture, file_is_pcapng, .init = up, .fini = down)
{
	uint64_t before = wall_clock_ns();
	struct capture_status status;
	struct reader r;

	start(0);
	for (size_t i = 0; i < LENGTHS; i++) {
		frame_send(lengths[i]);
		cr_assert(lab_until(loop, all_written, NULL));
	}
	status = stop();
	r = file_read();
	cr_assert_eq(status.frames, BOTH * LENGTHS);
	cr_assert_eq(status.dropped, 0);
	cr_assert_eq(status.error, 0);
	cr_assert_eq(status.bytes, r.size);
	cr_assert_eq(r.packets, BOTH * LENGTHS);
	cr_assert_eq(r.interfaces, 2);
	cr_assert_str_eq(r.names[0], "nic0");
	cr_assert_str_eq(r.names[1], "udp://10.0.0.2:6081");
	for (unsigned i = 0; i < r.packets; i++) {
		cr_assert_eq(r.lengths[i], lengths[i / BOTH]);
		cr_assert_eq(r.ports[i], i % BOTH);
		cr_assert_eq(r.flags[i], i % BOTH ? 2 : 1, "outbound, inbound");
	}
	cr_assert(before <= r.first_ns && r.first_ns <= r.last_ns && r.last_ns <= wall_clock_ns());
	cr_assert_eq(r.statistics, 1);
	cr_assert_eq(r.dropped, 0);
}

Test(capture, nothing_seen, .init = up, .fini = down)
{
	start(0);
	cr_assert_eq(stop().bytes, SECTION);
	cr_assert_eq(file_read().packets, 0);
}

Test(capture, one_port_only, .init = up, .fini = down)
{
	struct reader r;

	capture = capture_start(loop, rig.core, &rig.ports[LINK].port, file, 0);
	cr_assert_not_null(capture);
	frame_send(100);
	cr_assert_eq(stop().frames, 1);
	r = file_read();
	cr_assert_eq(r.packets, 1);
	cr_assert_eq(r.interfaces, 1);
	cr_assert_str_eq(r.names[0], "udp://10.0.0.2:6081");
	frame_send(100); /* nobody looks any more */
}

/* With @spare bytes less than ten frames need; returns how many were taken. */
static unsigned limited(unsigned spare)
{
	struct capture_status status;
	struct reader r;

	start(file_size(10, 101) - spare);
	for (unsigned i = 0; i < 8; i++)
		frame_send(101);
	status = stop();
	r = file_read();
	cr_assert_eq(status.frames + status.dropped, 8 * BOTH);
	cr_assert_eq(status.frames, r.packets);
	cr_assert_eq(status.dropped, r.dropped);
	cr_assert_eq(status.bytes, r.size);
	cr_assert_eq(r.size, file_size(r.packets, 101));
	return r.packets;
}

Test(capture, limit_is_used_up, .init = up, .fini = down)
{
	cr_assert_eq(limited(0), 10);
}

Test(capture, limit_is_kept, .init = up, .fini = down)
{
	cr_assert_eq(limited(1), 9);
}

Test(capture, least_limit, .init = up, .fini = down)
{
	struct capture_status status;

	start(CAPTURE_LIMIT_MIN);
	for (unsigned i = 0; i < 10; i++)
		frame_send(64);
	status = stop();
	cr_assert_leq(status.bytes, CAPTURE_LIMIT_MIN);
	cr_assert_eq(file_read().packets, status.frames);
}

/* --- within a turn of the loop -------------------------------------------------------------- */

static unsigned sent;

/* Send until a frame is dropped. */
static void fill(void)
{
	uint64_t dropped = capture_status(capture).dropped;

	while (capture_status(capture).dropped == dropped) {
		frame_send(9014);
		sent++;
	}
}

/* Behind the task that starts to write the first buffer, in the same turn. */
static void fill_again(struct loop_task *task)
{
	(void)task;
	fill();
	loop_stop(loop);
}

static void stop_here(struct loop_task *task)
{
	(void)task;
	cr_assert_eq(stop().error, 0);
	loop_stop(loop);
}

/* In one turn: fill a buffer, have its writing begun, then run @then. */
static void turn(void (*then)(struct loop_task *task))
{
	struct loop_task task = {.run = then};

	sent = 0;
	fill();
	loop_defer(loop, &task);
	cr_assert_eq(loop_run(loop), 0);
}

Test(capture, both_buffers_full, .init = up, .fini = down)
{
	struct capture_status status;
	struct reader r;

	start(0);
	cr_assert(lab_until(loop, all_written, NULL));
	turn(fill_again);
	cr_assert(lab_until(loop, all_written, NULL));
	frame_send(60); /* there is room again */
	status = stop();
	r = file_read();
	cr_assert_gt(r.size, 2 * CAPTURE_BUFFER - 4 * 9100);
	cr_assert_eq(status.frames, r.packets);
	cr_assert_eq(status.dropped, r.dropped);
	cr_assert_eq(status.frames + status.dropped, BOTH * (sent + 1));
	cr_assert_geq(r.dropped, 2);
	cr_assert_leq(r.dropped, 2 * BOTH);
	cr_assert_eq(rig.ports[LINK].n, sent + 1, "the overlay lost what the capture did");
}

Test(capture, stopped_in_the_middle_of_a_write, .init = up, .fini = down)
{
	struct reader r;

	start(0);
	cr_assert(lab_until(loop, all_written, NULL));
	turn(stop_here);
	cr_assert_null(capture);
	r = file_read();
	cr_assert_eq(r.packets + r.dropped, BOTH * sent);
	cr_assert_eq(r.statistics, 1);
}

Test(capture, port_detached_meanwhile, .init = up, .fini = down)
{
	struct reader r;

	start(0);
	frame_send(60);
	core_rig_detach(&rig, LINK);
	frame_send(61);
	core_rig_attach(&rig, LINK, PORT_LINK, "udp://10.0.0.3:6081"); /* takes its index */
	cr_assert_eq(rig.ports[LINK].port.index, 1);
	frame_send(62);
	cr_assert_eq(stop().frames, 4);
	r = file_read();
	cr_assert_eq(r.interfaces, 2);
	cr_assert_eq(r.packets, 4);
	for (unsigned i = 0; i < r.packets; i++)
		cr_assert_eq(r.ports[i], i == 1, "packet %u", i);
}

static void refused(const char *name, int flags, uint64_t limit)
{
	int fd = open(name, flags | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	errno = 0;
	cr_assert_null(capture_start(loop, rig.core, NULL, fd, limit), "%s", name);
	cr_assert_eq(errno, EINVAL, "%s", name);
	cr_assert_eq(close(fd), 0, "closed already");
}

Test(capture, refused_files, .init = up, .fini = down)
{
	cr_assert_eq(write(file, "kept", 4), 4);
	refused("/dev/null", O_WRONLY, 0);
	refused("/dev/full", O_WRONLY, 0);
	refused("/tmp", O_RDONLY | O_DIRECTORY, 0);
	refused(path, O_RDONLY, 0);
	refused(path, O_WRONLY, CAPTURE_LIMIT_MIN - 1);
	cr_assert_eq(lseek(file, 0, SEEK_END), 4);
	close(file);
}

/* The file may not grow past @limit; returns what became of a capture that would. */
static struct capture_status past_file_size(rlim_t limit, bool run)
{
	struct rlimit old, less;
	struct capture_status status;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	less = (struct rlimit){.rlim_cur = limit, .rlim_max = old.rlim_max};
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &less), 0);
	start(0);
	for (unsigned i = 0; i < 40; i++) {
		frame_send(1514);
		if (run && i == 30)
			lab_run(loop);
	}
	status = stop();
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
	return status;
}

static void ended_by_error(struct capture_status status, rlim_t limit)
{
	struct reader r = file_read();

	cr_assert_eq(status.error, EFBIG);
	cr_assert_eq(status.bytes, r.size);
	cr_assert_leq(r.size, limit);
	cr_assert_gt(r.size + PACKET + padded(1514), limit, "more was cut off than a block");
	cr_assert_eq(r.statistics, 0);
}

Test(capture, error_while_it_runs, .init = up, .fini = down)
{
	struct capture_status status = past_file_size(20011, true);

	ended_by_error(status, 20011);
	cr_assert_gt(status.dropped, 0);
}

Test(capture, error_at_the_end, .init = up, .fini = down)
{
	ended_by_error(past_file_size(20011, false), 20011);
}

Test(capture, error_at_a_block, .init = up, .fini = down)
{
	ended_by_error(past_file_size(SECTION, false), SECTION);
}
