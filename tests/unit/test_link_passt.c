/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Links to passt: against a fake one that this test plays, and against the real one where it is
 * installed. */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/link_lab.h"
#include "vnet/unix_socket.h"

static struct loop *loop;
static struct lab_vm vm;
static char dir[64], url[96], path[80];
static int listener, fd; /* of the fake */

/* The other end's reading: the stream is taken apart anew, a byte or all at a time. */
struct reader {
	size_t used, step;
	unsigned frames;
	uint32_t last_len;
	bool wrong;
	uint8_t buffer[4 + FRAME_SIZE_MAX];
};

static struct reader reader;

static void up(void)
{
	strcpy(dir, "/tmp/weft-passt-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(url, sizeof(url), "passt://%s", path);
	listener = fd = -1;
	memset(&reader, 0, sizeof(reader));
	loop = loop_create(64);
	cr_assert_not_null(loop);
	lab_vm_up(&vm, loop, LAB_VNI);
}

static void down(void)
{
	lab_vm_down(&vm);
	loop_destroy(loop);
	if (listener >= 0)
		close(listener);
	if (fd >= 0)
		close(fd);
	unlink(path);
	cr_assert_eq(rmdir(dir), 0);
}

static bool accepted(void *arg)
{
	(void)arg;
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return fd >= 0;
}

static struct port *fake_up(void)
{
	struct port *port;

	listener = unix_listen(path);
	cr_assert_geq(listener, 0);
	port = lab_link(&vm, url);
	cr_assert_not_null(port, "%s", vm.error);
	cr_assert(lab_until(loop, accepted, NULL));
	cr_assert(lab_until_up(loop, port));
	return port;
}

/* Take what there is of the record in the buffer's front; false: nothing to be read now. */
static bool reader_turn(void)
{
	uint32_t len = 0;
	size_t want = 4;
	ssize_t n;

	if (reader.used >= 4) {
		memcpy(&len, reader.buffer, 4);
		len = ntohl(len);
		if (len > FRAME_SIZE_MAX) {
			reader.wrong = true;
			return false;
		}
		want = 4 + len;
	}
	if (reader.used < want) {
		size_t left = want - reader.used;

		n = read(fd, reader.buffer + reader.used,
			 reader.step && reader.step < left ? reader.step : left);
		if (n <= 0)
			return false;
		reader.used += (size_t)n;
	} else {
		reader.frames++;
		reader.last_len = len;
		reader.used = 0;
	}
	return true;
}

static bool reader_has(void *arg)
{
	while (reader_turn())
		;
	return reader.wrong || reader.frames >= *(unsigned *)arg;
}

static void expect_frames(unsigned n)
{
	cr_assert(lab_until(loop, reader_has, &n));
	cr_assert_not(reader.wrong);
	cr_assert_eq(reader.frames, n);
}

/* Write all, whatever it takes. */
struct writer {
	const uint8_t *data;
	size_t left;
	size_t step;
};

static bool written(void *arg)
{
	struct writer *w = arg;
	ssize_t n;

	do {
		n = send(fd, w->data, w->step && w->step < w->left ? w->step : w->left,
			 MSG_NOSIGNAL);
		if (n > 0) {
			w->data += n;
			w->left -= (size_t)n;
		}
	} while (n > 0 && w->left && !w->step);
	return !w->left || (n < 0 && errno != EAGAIN);
}

static void fake_send(const void *data, size_t len, size_t step)
{
	struct writer w = {data, len, step};

	cr_assert(lab_until(loop, written, &w));
}

/* A record as it is on the stream. Returns its size. */
static size_t record_make(uint8_t *to, uint32_t seq, uint32_t len)
{
	static struct lab_frame frame;
	uint32_t be = htonl(len);

	lab_frame(&frame, seq, len);
	memcpy(to, &be, 4);
	memcpy(to + 4, frame.data, len);
	return 4 + len;
}

Test(link_passt, frames_cross_both_ways, .init = up, .fini = down)
{
	static const uint32_t lengths[] = {14, 60, 1514, 65534, FRAME_SIZE_MAX};
	static uint8_t record[4 + FRAME_SIZE_MAX];
	struct port *port = fake_up();

	cr_assert_eq(port->mtu, 65520);
	cr_assert_eq(port->offloads, 0);
	for (unsigned i = 0; i < 5; i++) {
		lab_send(&vm, 1, lengths[i]);
		expect_frames(i + 1);
		cr_assert_eq(reader.last_len, lengths[i]);
		fake_send(record, record_make(record, i, lengths[i]), 0);
		cr_assert(lab_until_frames(&vm, i + 1));
		cr_assert_eq(vm.last.len, lengths[i]);
	}
	cr_assert_eq(vm.bad, 0);
	lab_send(&vm, 200, 1000);
	expect_frames(205);
	cr_assert_eq(lab_dropped(port), 0);
}

/* Every cut of the stream, and many frames in one. */
Test(link_passt, stream_may_come_in_any_pieces, .init = up, .fini = down)
{
	static uint8_t stream[300 * 1000];
	size_t len = 0;

	fake_up();
	for (uint32_t i = 0; i < 3; i++)
		len += record_make(stream + len, i, 60 + i);
	fake_send(stream, len, 1);
	cr_assert(lab_until_frames(&vm, 3));
	len = 0;
	for (uint32_t i = 0; i < 250; i++)
		len += record_make(stream + len, i, 14 + i * 4);
	fake_send(stream, len, 0);
	cr_assert(lab_until_frames(&vm, 253));
	fake_send(stream, len, 7919);
	cr_assert(lab_until_frames(&vm, 503));
	cr_assert_eq(vm.bad, 0);
}

/* B10: the other side does not read: whole frames are dropped, the stream stays in step. */
Test(link_passt, full_socket_drops_whole_frames, .init = up, .fini = down)
{
	struct port *port = fake_up();
	uint64_t out, busy;

	lab_send(&vm, 300, 60000);
	lab_run(loop);
	out = port->counters.out_frames;
	busy = port->counters.drops[DROP_BUSY];
	cr_assert_gt(busy, 0);
	cr_assert_eq(out + busy, 300);
	reader.step = 50001;
	expect_frames((unsigned)out);
	lab_send(&vm, 2, 1000);
	expect_frames((unsigned)out + 2);
	cr_assert_eq(port->counters.drops[DROP_BUSY], busy);
}

Test(link_passt, comes_back, .init = up, .fini = down)
{
	struct port *port = lab_link(&vm, url);

	cr_assert_not_null(port, "%s", vm.error);
	cr_assert_not(lab_is_up(port));
	lab_send(&vm, 2, 100);
	cr_assert_eq(port->counters.drops[DROP_DOWN], 2);
	listener = unix_listen(path);
	for (unsigned i = 0; i < 5; i++) {
		cr_assert(lab_until(loop, accepted, NULL));
		cr_assert(lab_until_up(loop, port));
		lab_send(&vm, 1, 60000);
		if (i % 2) { /* with half a frame on its way, either way */
			lab_send(&vm, 100, 60000);
			cr_assert_eq(write(fd, "\0\0\1\0half", 8), 8);
			lab_run(loop);
		}
		close(fd);
		cr_assert(lab_until_down(loop, port));
	}
	cr_assert(lab_until(loop, accepted, NULL));
	memset(&reader, 0, sizeof(reader));
	cr_assert(lab_until_up(loop, port));
	lab_send(&vm, 1, 100);
	expect_frames(1);
	cr_assert_eq(lab_status(port).ups, 6);
}

/* Runts are counted and passed over. */
Test(link_passt, empty_frames_are_dropped, .init = up, .fini = down)
{
	uint8_t stream[400] = {0, 0, 0, 0, 0, 0, 0, 1, 'x', 0, 0, 0, 13};
	struct port *port = fake_up();
	size_t len = 13 + 13;

	len += record_make(stream + len, 1, 100);
	fake_send(stream, len, 0);
	cr_assert(lab_until_frames(&vm, 1));
	cr_assert_eq(port->counters.drops[DROP_RUNT], 3);
	cr_assert(lab_is_up(port));
}

/* A length that no frame has: the stream is of no more use. */
Test(link_passt, huge_lengths_start_anew, .init = up, .fini = down)
{
	static const uint32_t lengths[] = {FRAME_SIZE_MAX + 1, 0x7fffffff, 0xffffffff};
	struct port *port = fake_up();

	for (unsigned i = 0; i < 3; i++) {
		uint8_t stream[300];
		size_t len = record_make(stream, 1, 100);
		uint32_t be = htonl(lengths[i]);

		memcpy(stream + len, &be, 4);
		fake_send(stream, len + 4, 0);
		cr_assert(lab_until_drop(loop, port, DROP_OVERSIZE, i + 1));
		cr_assert_eq(vm.frames, i + 1); /* the one in front of it */
		close(fd);
		cr_assert(lab_until(loop, accepted, NULL));
		cr_assert(lab_until_up(loop, port));
	}
}

/* --- the real one -------------------------------------------------------------------------- */

/* It ends with its client, however that ends. As root it becomes somebody else, who needs the
 * directory. */
static pid_t passt_start(void)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	execlp("passt", "passt", "--foreground", "--quiet", "--one-off", "--socket", path, "--mtu",
	       "65520", "--ipv4-only", "--address", "10.9.8.2", "--netmask", "24", "--gateway",
	       "10.9.8.1", NULL);
	_exit(127);
}

/* "Who has 10.9.8.1?", which passt answers for every address but the guest's own. */
static void arp_make(struct lab_frame *frame)
{
	static const uint8_t arp[42] = {255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0,  1, 8, 6,
					0,   1,	  8,   0,   6,	 4,   0, 1, 2, 0, 0,  0, 0, 1,
					10,  9,	  8,   2,   0,	 0,   0, 0, 0, 0, 10, 9, 8, 1};

	lab_frame(frame, 0, sizeof(arp));
	memcpy(frame->data, arp, sizeof(arp));
	memcpy(frame->frame.eth, arp, FRAME_HEADER);
}

static bool arp_answered(void *arg)
{
	/* passt may not have served the connection yet: ask again. */
	if (vm.frames == 0)
		lab_send_frame(&vm, arg);
	return vm.frames && vm.data[12] == 8 && vm.data[13] == 6 && vm.data[21] == 2;
}

Test(link_passt, real_passt_answers, .init = up, .fini = down)
{
	static struct lab_frame frame;
	struct port *port;
	pid_t pid;

	if (!lab_shell("command -v passt >/dev/null"))
		cr_skip_test("passt is not installed");
	/* It takes its guest's addresses from there, or does not start. */
	if (!lab_shell("ip -4 route show default | grep -q ."))
		cr_skip_test("no default route for passt");
	cr_assert_eq(chmod(dir, 0777), 0);
	port = lab_link(&vm, url);
	arp_make(&frame);
	for (unsigned i = 0; i < 2; i++) { /* killed, and started again */
		pid = passt_start();
		cr_assert_gt(pid, 0);
		cr_assert(lab_until_up(loop, port));
		vm.frames = 0;
		cr_assert(lab_until(loop, arp_answered, &frame));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		cr_assert(lab_until_down(loop, port));
		unlink(path);
	}
}
