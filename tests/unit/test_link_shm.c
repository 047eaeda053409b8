/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links through shared memory: honest pairs in one process, peers that are killed, and peers played
 * by the test itself, which break every rule there is. Row names such as B6 are those of the list
 * of hostile inputs.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/link_lab.h"
#include "vnet/link_shm.h"
#include "vnet/unix_socket.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static struct loop *loop;
static struct lab_vm a, b, c; /* a listens */
static char dir[64], url[96], path[80], first[128], second[128];

static void up(void)
{
	strcpy(dir, "/tmp/weft-shm-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(url, sizeof(url), "shm://%s", path);
	snprintf(first, sizeof(first), "%s#1", url);
	snprintf(second, sizeof(second), "%s#2", url);
	loop = loop_create(64);
	cr_assert_not_null(loop);
	lab_vm_up(&a, loop, LAB_VNI);
	lab_vm_up(&b, loop, LAB_VNI);
	lab_vm_up(&c, loop, LAB_VNI);
}

static void down(void)
{
	struct stat st;

	lab_vm_down(&c);
	lab_vm_down(&b);
	lab_vm_down(&a);
	loop_destroy(loop);
	cr_assert(stat(path, &st) < 0, "the socket was left behind");
	cr_assert_eq(rmdir(dir), 0);
}

/* Wait for the listener's port to be there and up. */
static bool first_up(void *arg)
{
	const struct port *port = lab_port(&a, arg);

	return port && lab_is_up(port);
}

static struct port *listener_port(char *name)
{
	cr_assert(lab_until(loop, first_up, name), "%s never came", name);
	return lab_port(&a, name);
}

/* a and b are joined; returns b's port. */
static struct port *pair_up(void)
{
	struct port *port;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	port = lab_link(&b, url);
	cr_assert_not_null(port, "%s", b.error);
	cr_assert(lab_until_up(loop, port), "%s", lab_status(port).error);
	listener_port(first);
	return port;
}

/* Both ways, until they arrive. */
static void frames_cross(unsigned n, uint32_t len)
{
	unsigned at_a = a.frames + n, at_b = b.frames + n;

	lab_send(&b, n, len);
	lab_send(&a, n, len);
	cr_assert(lab_until_frames(&a, at_a));
	cr_assert(lab_until_frames(&b, at_b));
	cr_assert_eq(a.bad + b.bad, 0);
}

/* --- honest peers -------------------------------------------------------------------------- */

Test(link_shm, frames_of_any_length_cross, .init = up, .fini = down)
{
	static const uint32_t lengths[] = {14, 15, 42, 60, 64, 1514, 9014, 65535, FRAME_SIZE_MAX};
	struct port *port = pair_up();

	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		frames_cross(1, lengths[i]);
		cr_assert_eq(a.last.len, lengths[i]);
	}
	frames_cross(20, 65535);
	cr_assert_eq(port->mtu, FRAME_SIZE_MAX - FRAME_HEADER);
	cr_assert_eq(port->counters.out_frames, 9 + 20);
	cr_assert_eq(port->counters.in_frames, 9 + 20);
	cr_assert_eq(port->counters.copied_bytes, port->counters.out_bytes);
	cr_assert_eq(lab_dropped(port), 0);
}

/* The rings go round many times, at every alignment of their end. */
Test(link_shm, rings_go_round, .init = up, .fini = down)
{
	pair_up();
	for (uint32_t i = 0; i < 40; i++)
		frames_cross(20, 14 + i * 7919 % 65000);
}

Test(link_shm, offload_state_crosses_whole, .init = up, .fini = down)
{
	static struct lab_frame frame;
	/* A TCP/IPv4 super-frame. */
	static const uint8_t header[] = {
	    2, 0,  0, 0, 0,  2, 2, 0, 0,  0, 0,	   1,	 8,    0,    0x45, 0, 0xea, 0x60,
	    0, 1,  0, 0, 64, 6, 0, 0, 10, 0, 0,	   1,	 10,   0,    0,	   2, 0,    80,
	    0, 80, 0, 0, 0,  1, 0, 0, 0,  1, 0x50, 0x10, 0xff, 0xff, 0,	   0, 0,    0};

	pair_up();
	lab_frame(&frame, 0, 60014);
	memcpy(frame.data, header, sizeof(header));
	memcpy(frame.frame.eth, header, FRAME_HEADER);
	frame.frame.offload = (struct frame_offload){
	    .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
	    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
	    .hdr_len = 54,
	    .gso_size = 1448,
	    .csum_start = 34,
	    .csum_offset = 16,
	};
	lab_send_frame(&b, &frame);
	cr_assert(lab_until_frames(&a, 1));
	cr_assert_eq(a.last.len, 60014);
	cr_assert_eq(a.last.offload.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	cr_assert_eq(a.last.offload.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	cr_assert_eq(a.last.offload.hdr_len, 54);
	cr_assert_eq(a.last.offload.gso_size, 1448);
	cr_assert_eq(a.last.offload.csum_start, 34);
	cr_assert_eq(a.last.offload.csum_offset, 16);
	cr_assert_arr_eq(a.data, frame.data, 60014);
}

/* B10: nobody takes frames out; whole frames are dropped, and it goes on when there is room. */
Test(link_shm, full_ring_drops_and_recovers, .init = up, .fini = down)
{
	struct port *port = pair_up();
	uint64_t out, busy;

	cr_assert(!port->ops->full(port));
	lab_send(&b, 200, 60000); /* the loop does not run meanwhile */
	cr_assert(port->ops->full(port));
	out = port->counters.out_frames;
	busy = port->counters.drops[DROP_BUSY];
	cr_assert_gt(busy, 0);
	cr_assert_gt(out, 60);
	cr_assert_eq(out + busy, 200);
	cr_assert(lab_until_frames(&a, (unsigned)out));
	cr_assert(!port->ops->full(port));
	frames_cross(10, 60000);
	cr_assert_eq(a.frames, out + 10);
	cr_assert_eq(port->counters.drops[DROP_BUSY], busy);
}

Test(link_shm, each_peer_is_a_port, .init = up, .fini = down)
{
	struct port *port;

	pair_up();
	port = lab_link(&c, url);
	cr_assert_not_null(port, "%s", c.error);
	listener_port(second);
	cr_assert(lab_until_up(loop, port));
	lab_send(&c, 3, 100);
	cr_assert(lab_until_frames(&a, 3));
	cr_assert_eq(b.frames, 0); /* what a link brings goes to interfaces */
	lab_send(&a, 5, 100);
	cr_assert(lab_until_frames(&b, 5));
	cr_assert(lab_until_frames(&c, 5));
	cr_assert_eq(lab_port(&a, first)->counters.in_frames, 0);
	cr_assert_eq(lab_port(&a, second)->counters.in_frames, 3);
}

Test(link_shm, connector_may_come_first, .init = up, .fini = down)
{
	struct port *port = lab_link(&b, url);

	cr_assert_not_null(port, "%s", b.error);
	cr_assert_not(lab_is_up(port));
	cr_assert_str_eq(lab_status(port).error, strerror(ENOENT));
	lab_send(&b, 3, 100);
	cr_assert_eq(port->counters.drops[DROP_DOWN], 3);
	lab_run(loop);
	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	cr_assert(lab_until_up(loop, port));
	listener_port(first);
	frames_cross(3, 100);
	cr_assert_eq(lab_status(port).ups, 1);
}

/* B6: the listener goes and comes, the connector goes and comes; for ever. */
Test(link_shm, both_sides_recover, .init = up, .fini = down)
{
	struct port *port = pair_up();

	for (unsigned i = 0; i < 5; i++) {
		lab_vm_down(&a);
		cr_assert(lab_until_down(loop, port));
		cr_assert_str_eq(lab_status(port).error, "the peer is gone");
		lab_vm_up(&a, loop, LAB_VNI);
		cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
		cr_assert(lab_until_up(loop, port));
		listener_port(first);
		frames_cross(2, 2000);
	}
	cr_assert_eq(lab_status(port).ups, 6);
	for (unsigned i = 0; i < 5; i++) {
		lab_vm_down(&b);
		cr_assert(lab_until_down(loop, lab_port(&a, first)));
		lab_send(&a, 1, 100);
		lab_vm_up(&b, loop, LAB_VNI);
		port = lab_link(&b, url);
		cr_assert(lab_until_up(loop, port));
		listener_port(first);
		frames_cross(2, 2000);
	}
	cr_assert_eq(lab_status(lab_port(&a, first)).ups, 6);
	cr_assert_eq(lab_port(&a, first)->counters.drops[DROP_DOWN], 5);
}

/* "link del" on either side. */
Test(link_shm, links_can_be_removed, .init = up, .fini = down)
{
	struct port *port = pair_up();

	links_remove(b.links, port);
	cr_assert(lab_until_down(loop, lab_port(&a, first)));
	links_remove(a.links, lab_port(&a, first));
	cr_assert_null(lab_port(&a, first));
	port = lab_link(&b, url);
	cr_assert(lab_until_up(loop, port));
	listener_port(first);
	links_remove(a.links, lab_port(&a, first)); /* the peer just comes again */
	cr_assert(lab_until_down(loop, port));
	cr_assert(lab_until_up(loop, port));
	listener_port(first);
	frames_cross(2, 100);
}

Test(link_shm, other_overlay_is_refused, .init = up, .fini = down)
{
	static struct lab_vm other;
	struct port *port;

	pair_up();
	lab_vm_up(&other, loop, LAB_VNI + 1);
	port = lab_link(&other, url);
	lab_run(loop);
	cr_assert_not(lab_is_up(port));
	cr_assert_not_null(strstr(lab_status(port).error, "another overlay"), "%s",
			   lab_status(port).error);
	cr_assert_null(lab_port(&a, second));
	lab_vm_down(&other);
	frames_cross(2, 100);
}

Test(link_shm, listeners_clash, .init = up, .fini = down)
{
	char bad[128];

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	cr_assert_eq(lab_listen(&b, url), -EADDRINUSE);
	cr_assert_not_null(strstr(b.error, "in use"), "%s", b.error);
	snprintf(bad, sizeof(bad), "shm://%s/none/s", dir);
	cr_assert_eq(lab_listen(&b, bad), -ENOENT);
}

/* --- killed peers -------------------------------------------------------------------------- */

/* A process that sends for ever. TSan takes no threads after fork(), which are not needed. */
static pid_t sender_start(void)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid)
		return pid;
	loop = loop_create(64);
	lab_vm_up(&c, loop, LAB_VNI);
	if (!lab_link(&c, url))
		_exit(1);
	for (;;) {
		lab_send(&c, 64, 3000);
		lab_run(loop);
	}
}

Test(link_shm, killed_peers_return, .init = up, .fini = down)
{
	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	for (unsigned i = 0; i < 3; i++) {
		unsigned before = a.frames;
		pid_t pid = sender_start();
		struct port *port = listener_port(first);

		cr_assert(lab_until_frames(&a, before + 100));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		cr_assert(lab_until_down(loop, port));
		cr_assert_null(lab_port(&a, second));
	}
	cr_assert_eq(a.bad, 0);
}

/* --- peers that break the rules ------------------------------------------------------------ */

static int socket_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static int memory_make(off_t size, int seals, unsigned flags)
{
	int fd = memfd_create("test", MFD_ALLOW_SEALING | flags);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, size) || fcntl(fd, F_ADD_SEALS, seals)) {
		close(fd);
		return -1;
	}
	return fd;
}

static const struct shm_hello good_hello = {SHM_MAGIC, SHM_VERSION, 0, LAB_VNI, SHM_RING_SIZE};

/* Say hello; the descriptors stay the caller's. */
static void hello_say(int fd, const void *hello, size_t size, const int *fds, unsigned n)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(4 * sizeof(int))];
	} control = {.header = {CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec iov = {(void *)hello, size};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n) {
		memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(n * sizeof(int));
	}
	cr_assert_eq(sendmsg(fd, &message, MSG_NOSIGNAL), (ssize_t)size);
}

/* Has the other side closed or answered? */
struct answer {
	int fd;
	ssize_t n;
	struct shm_hello hello;
};

static bool answered(void *arg)
{
	struct answer *answer = arg;

	answer->n = recv(answer->fd, &answer->hello, sizeof(answer->hello), MSG_DONTWAIT);
	return answer->n >= 0 || errno == ECONNRESET;
}

static struct answer answer_get(int fd)
{
	struct answer answer = {.fd = fd};

	cr_assert(lab_until(loop, answered, &answer));
	return answer;
}

static bool closed(void *arg)
{
	char byte;
	ssize_t n = recv(*(int *)arg, &byte, 1, MSG_DONTWAIT);

	return !n || (n < 0 && errno != EAGAIN);
}

static void expect_close(int fd)
{
	cr_assert(lab_until(loop, closed, &fd), "the listener keeps the connection");
	close(fd);
}

static void expect_answer(int fd, enum shm_answer wanted)
{
	struct answer answer = answer_get(fd);

	cr_assert_eq(answer.n, (ssize_t)sizeof(answer.hello));
	cr_assert_eq(answer.hello.magic, SHM_MAGIC);
	cr_assert_eq(answer.hello.answer, wanted);
	if (wanted != SHM_WELCOME)
		expect_close(fd);
}

/* After whatever was done to it, the listener serves an honest peer. */
static void expect_service(void)
{
	struct port *port = lab_link(&b, url);

	cr_assert_not_null(port, "%s", b.error);
	cr_assert(lab_until_up(loop, port));
	lab_run(loop);
	a.bad = 0; /* a rogue's frames are not made by lab_frame() */
	frames_cross(2, 1000);
}

Test(link_shm, bad_hellos_are_refused, .init = up, .fini = down)
{
	struct shm_hello hello = good_hello;
	int fds[3], fd;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	fds[0] = memory_make(SHM_FILE_SIZE, SEALS, 0);

	close(socket_connect()); /* no hello at all */
	fd = socket_connect();
	hello_say(fd, &hello, 7, fds, 1);
	expect_close(fd);
	fd = socket_connect();
	hello.magic++;
	hello_say(fd, &hello, sizeof(hello), fds, 1);
	expect_close(fd);
	fd = socket_connect();
	hello = good_hello;
	hello.version++;
	hello_say(fd, &hello, sizeof(hello), fds, 1);
	expect_answer(fd, SHM_OTHER_VERSION);
	fd = socket_connect();
	hello = good_hello;
	hello.ring_size *= 2;
	hello_say(fd, &hello, sizeof(hello), fds, 1);
	expect_answer(fd, SHM_OTHER_VERSION);
	fd = socket_connect();
	hello = good_hello;
	hello.vni++;
	hello_say(fd, &hello, sizeof(hello), fds, 1);
	expect_answer(fd, SHM_OTHER_OVERLAY);
	close(fds[0]);
	cr_assert_eq(core_ports(a.core), 1);
	expect_service();
}

Test(link_shm, bad_memory_is_refused, .init = up, .fini = down)
{
	const struct {
		off_t size;
		int seals;
	} bad[] = {
	    {SHM_FILE_SIZE, 0},
	    {SHM_FILE_SIZE, F_SEAL_SHRINK},
	    {SHM_FILE_SIZE, F_SEAL_GROW | F_SEAL_SEAL},
	    {SHM_FILE_SIZE, SEALS | F_SEAL_WRITE},
	    {SHM_FILE_SIZE - 4096, SEALS},
	    {SHM_FILE_SIZE + 4096, SEALS},
	    {0, SEALS},
	};
	int fds[4] = {-1, -1, -1, -1}, fd;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fds[0] = memory_make(bad[i].size, bad[i].seals, 0);
		cr_assert_geq(fds[0], 0);
		fd = socket_connect();
		hello_say(fd, &good_hello, sizeof(good_hello), fds, 1);
		expect_answer(fd, SHM_NO_MEMORY);
		close(fds[0]);
	}
	fd = socket_connect(); /* no descriptor */
	hello_say(fd, &good_hello, sizeof(good_hello), NULL, 0);
	expect_answer(fd, SHM_NO_MEMORY);
	fds[0] = open("/dev/zero", O_RDWR | O_CLOEXEC); /* no memory */
	fd = socket_connect();
	hello_say(fd, &good_hello, sizeof(good_hello), fds, 1);
	expect_answer(fd, SHM_NO_MEMORY);
	for (unsigned i = 1; i < 4; i++) /* too many: the kernel keeps what we have no room for */
		fds[i] = dup(fds[0]);
	fd = socket_connect();
	hello_say(fd, &good_hello, sizeof(good_hello), fds, 4);
	expect_answer(fd, SHM_NO_MEMORY);
	for (unsigned i = 0; i < 4; i++)
		close(fds[i]);
	cr_assert_eq(core_ports(a.core), 1);
	expect_service();
}

/* Huge pages can run out after they were mapped, and then every access faults. */
Test(link_shm, huge_pages_are_refused, .init = up, .fini = down)
{
	int fd, memory = memory_make((off_t)SHM_FILE_SIZE + (2 << 20) - 4096, SEALS, MFD_HUGETLB);

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	if (memory < 0)
		cr_skip_test("no huge pages in this kernel");
	fd = socket_connect();
	hello_say(fd, &good_hello, sizeof(good_hello), &memory, 1);
	expect_answer(fd, SHM_NO_MEMORY);
	close(memory);
}

/* More connections than there is room for, which say nothing; then there is room again. */
Test(link_shm, silent_connections_are_bounded, .init = up, .fini = down)
{
	int fds[80];
	struct port *port;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	for (unsigned i = 0; i < 80; i++) {
		fds[i] = socket_connect();
		if (i % 16 == 15)
			lab_run(loop);
	}
	expect_close(fds[79]);
	port = lab_link(&b, url);
	cr_assert_not_null(port, "%s", b.error);
	cr_assert(lab_until_up(loop, port)); /* when the silent ones have been given up */
	for (unsigned i = 0; i < 79; i++)
		close(fds[i]);
	cr_assert_eq(core_ports(a.core), 2);
}

/* A peer played by the test: it is connected to a and has its memory. */
struct rogue {
	int fd;
	uint8_t *memory;
	struct shm_ring *out, *in; /* the rogue's */
	uint8_t *data;		   /* of what it sends */
	struct port *port;	   /* a's */
	struct shm_record record;  /* an ordinary one */
};

static struct rogue rogue_up(void)
{
	struct rogue r = {.record = {.len = 100, .hops = FRAME_HOPS_MAX}};
	int memory = memory_make(SHM_FILE_SIZE, SEALS, 0);

	r.memory = mmap(NULL, SHM_FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	cr_assert_neq((intptr_t)r.memory, (intptr_t)MAP_FAILED);
	r.out = (struct shm_ring *)r.memory;
	r.in = r.out + 1;
	r.data = r.memory + SHM_CONTROL_SIZE;
	r.fd = socket_connect();
	hello_say(r.fd, &good_hello, sizeof(good_hello), &memory, 1);
	close(memory);
	expect_answer(r.fd, SHM_WELCOME);
	r.port = listener_port(first);
	return r;
}

static void rogue_down(struct rogue *r)
{
	close(r->fd);
	munmap(r->memory, SHM_FILE_SIZE);
	cr_assert(lab_until_down(loop, r->port));
}

/* Publish a head and wake the other side. */
static void rogue_publish(struct rogue *r, uint32_t head)
{
	atomic_store(&r->out->head, head);
	cr_assert_eq(send(r->fd, "", 1, MSG_NOSIGNAL), 1);
}

/* Is a disconnected by what the rogue does to an honest start? */
static void rogue_expect_end(struct rogue *r)
{
	cr_assert(lab_until_down(loop, r->port));
	expect_close(r->fd);
	munmap(r->memory, SHM_FILE_SIZE);
}

/* B1: lengths that cannot be. */
Test(link_shm, bad_records_end_the_link, .init = up, .fini = down)
{
	static const uint32_t lengths[] = {0,	1,	    13,		FRAME_SIZE_MAX + 1,
					   129, 0x7fffffff, 0xfffffff0, 0xffffffff};

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct rogue r = rogue_up();
		uint64_t before = r.port->counters.drops[DROP_FORMAT];

		memcpy(r.data, &r.record, sizeof(r.record));
		r.record.len = lengths[i];
		memcpy(r.data + 128, &r.record, sizeof(r.record));
		rogue_publish(&r, 256);
		rogue_expect_end(&r);
		cr_assert_eq(a.frames, i + 1); /* the good one in front of it */
		cr_assert_eq(r.port->counters.drops[DROP_FORMAT], before + 1);
	}
	expect_service();
}

Test(link_shm, bad_heads_end_the_link, .init = up, .fini = down)
{
	static const uint32_t heads[] = {SHM_RING_SIZE + 16, 1,		 15,
					 0x80000000,	     0xfffffff0, 0xffffffff};

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	for (unsigned i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		struct rogue r = rogue_up();

		rogue_publish(&r, heads[i]);
		rogue_expect_end(&r);
	}
	cr_assert_eq(a.frames, 0);
	expect_service();
}

/* The head goes backwards below what was taken. */
Test(link_shm, head_that_shrinks_ends_the_link, .init = up, .fini = down)
{
	struct rogue r;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	r = rogue_up();
	memcpy(r.data, &r.record, sizeof(r.record));
	rogue_publish(&r, 128);
	cr_assert(lab_until_frames(&a, 1));
	rogue_publish(&r, 112);
	rogue_expect_end(&r);
	expect_service();
}

Test(link_shm, bad_tails_end_the_link, .init = up, .fini = down)
{
	static const uint32_t tails[] = {SHM_RING_SIZE + 16, 0x80000000, 0xff000000, 0x10000000};

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	for (unsigned i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
		struct rogue r = rogue_up();

		atomic_store(&r.in->tail, tails[i]);
		lab_send(&a, 100, 60000); /* looks at the tail when the ring is full */
		rogue_expect_end(&r);
	}
	expect_service();
}

/* B5: offload state that does not fit the frame is dropped and counted; the link lives on. */
Test(link_shm, bad_offloads_are_dropped, .init = up, .fini = down)
{
	struct rogue r;
	uint32_t head = 0;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	r = rogue_up();
	for (unsigned i = 0; i < 4; i++, head += 128) {
		struct shm_record record = r.record;

		record.flags = i == 0 ? 0x80 : i == 1 ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
		record.csum_start = 99;
		record.csum_offset = 2;
		record.gso_type = i == 2 ? VIRTIO_NET_HDR_GSO_TCPV4 : 0;
		record.hops = 255;
		memcpy(r.data + head, &record, sizeof(record));
	}
	rogue_publish(&r, head);
	cr_assert(lab_until_frames(&a, 1));
	cr_assert_eq(r.port->counters.drops[DROP_OFFLOAD], 3);
	cr_assert_eq(a.last.hops, FRAME_HOPS_MAX);
	cr_assert(lab_is_up(r.port));
	rogue_down(&r);
}

/* Wake-ups without end, and none that are owed: others are not held up. */
Test(link_shm, wake_flood_is_harmless, .init = up, .fini = down)
{
	struct rogue r;
	struct port *port;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	r = rogue_up();
	port = lab_link(&b, url);
	cr_assert(lab_until_up(loop, port));
	for (unsigned i = 0; i < 100; i++)
		while (send(r.fd, "0123456789", 10, MSG_DONTWAIT | MSG_NOSIGNAL) > 0 && i < 50)
			;
	atomic_store(&r.in->sleeping, 1); /* it never reads its wake-ups either */
	for (unsigned i = 0; i < 50; i++) {
		atomic_store(&r.in->sleeping, 1);
		lab_send(&a, 1, 100);
	}
	cr_assert(lab_until_frames(&b, 50));
	rogue_down(&r);
}

/* A listener that is none. */
static bool accepted(void *arg)
{
	int *fds = arg;

	fds[1] = accept(fds[0], NULL, NULL);
	return fds[1] >= 0;
}

static int rogue_accept(int listener)
{
	int fds[2] = {listener, -1};

	cr_assert(lab_until(loop, accepted, fds));
	return fds[1];
}

Test(link_shm, rogue_listeners_are_left, .init = up, .fini = down)
{
	int listener = unix_listen(path), fd;
	struct port *port = lab_link(&b, url);
	struct shm_hello hello = good_hello;

	cr_assert_geq(listener, 0);
	close(rogue_accept(listener)); /* each attempt is followed by another */
	fd = rogue_accept(listener);
	cr_assert_eq(send(fd, "?", 1, 0), 1);
	close(rogue_accept(listener));
	close(fd);
	fd = rogue_accept(listener);
	hello.answer = 999;
	cr_assert_eq(send(fd, &hello, sizeof(hello), 0), (ssize_t)sizeof(hello));
	close(rogue_accept(listener));
	cr_assert_not(lab_is_up(port));
	close(fd);
	fd = rogue_accept(listener); /* never answers */
	close(rogue_accept(listener));
	close(fd);
	fd = rogue_accept(listener);
	hello.answer = SHM_WELCOME;
	cr_assert_eq(send(fd, &hello, sizeof(hello), 0), (ssize_t)sizeof(hello));
	cr_assert(lab_until_up(loop, port));
	lab_send(&b, 3, 100); /* into memory that nobody reads */
	close(fd);
	cr_assert(lab_until_down(loop, port));
	close(listener);
	unlink(path);
	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	cr_assert(lab_until_up(loop, port));
	listener_port(first);
	frames_cross(1, 100);
}
