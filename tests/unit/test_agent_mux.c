/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's multiplexer (vmm/agent.c) between real sockets and a console that is played here: what
 * it gives to the guest is collected in `port.input`, what the guest says is handed to its backend.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/devices.h"
#include "guest-images/agent/agent_frames.h"
#include "vmm/agent.h"
#include "vnet/loop.h"

#define TURNS     32 /* of the loop: more than anything that is ready takes to be handled */
#define INPUT_MAX (4 << 20)
#define FILES_MAX 256

/* The console port that the multiplexer sees. */
static struct {
	uint8_t *input;    /* what the guest got */
	size_t input_len;
	size_t input_room; /* bytes the guest has buffers for */
	unsigned disconnects;
	bool host_open;
} port;

static struct loop *loop;
static struct agent *agent;
static struct console_backend *backend;
static char directory[64], path[96];

size_t virtio_console_input(struct virtio_device *dev, unsigned index, const void *data, size_t len)
{
	size_t n = len < port.input_room ? len : port.input_room;

	(void)dev, (void)index;
	cr_assert_leq(port.input_len + n, INPUT_MAX);
	memcpy(port.input + port.input_len, data, n);
	port.input_len += n;
	port.input_room -= n;
	return n;
}

void virtio_console_resume(struct virtio_device *dev, unsigned index)
{
	(void)dev, (void)index;
}

void virtio_console_host_open(struct virtio_device *dev, unsigned index, bool open)
{
	(void)dev, (void)index;
	port.disconnects += port.host_open && !open;
	port.host_open = open;
}

struct turns {
	struct loop_task task;
	unsigned left;
};

static void turn_over(struct loop_task *task)
{
	struct turns *turns = (struct turns *)task;

	if (--turns->left)
		loop_defer(loop, task);
	else
		loop_stop(loop);
}

/* Sockets of this thread's own are ready at once, so turns are counted rather than time taken. */
static void run(void)
{
	struct turns turns = {.task = {.run = turn_over}, .left = TURNS};

	loop_defer(loop, &turns.task);
	cr_assert_eq(loop_run(loop), 0);
}

static void time_over(struct loop_timer *timer)
{
	loop_stop(timer->context);
}

static void run_ms(unsigned ms)
{
	struct loop_timer timer = {.expired = time_over, .context = loop};

	cr_assert_eq(loop_arm(loop, &timer, ms * 1000000ull), 0);
	cr_assert_eq(loop_run(loop), 0);
}

/* Run until the condition is true, for a minute at most: for what waits for a timer. */
#define run_until(condition)                                     \
	do {                                                     \
		for (int i = 0; i < 60000 && !(condition); i++) \
			run_ms(1);                               \
		cr_assert(condition);                            \
	} while (0)

/* --- the guest's side ---------------------------------------------------------------------- */

static void guest_bytes(const void *data, size_t len)
{
	cr_assert_eq(backend->write(backend, data, len), len);
}

static void guest_say(uint16_t channel, uint16_t type, const void *payload, size_t len)
{
	uint8_t data[AGENT_FRAME_MAX];
	struct agent_ring ring;

	agent_ring_init(&ring, data, sizeof(data));
	cr_assert_eq(agent_frame_put(&ring, channel, type, payload, len), 0);
	guest_bytes(data, ring.used);
}

static void guest_hello(void)
{
	static const uint8_t hello[] = {AGENT_VERSION, 0, 0, 0, 'v', 'm'};

	guest_say(0, AGENT_HELLO, hello, sizeof(hello));
}

/* Takes the next frame off what the guest got; false if there is none. */
static bool guest_next(struct agent_reader *reader, struct agent_view *view)
{
	bool complete = false;
	size_t at = 0;
	ssize_t n;

	agent_reader_init(reader, AGENT_FROM_HOST);
	while (at < port.input_len && !complete) {
		n = agent_reader_feed(reader, port.input + at, port.input_len - at, view, &complete);
		cr_assert_gt(n, 0, "the guest got a broken stream");
		at += (size_t)n;
	}
	if (!complete)
		return false;
	memmove(port.input, port.input + at, port.input_len - at);
	port.input_len -= at;
	return true;
}

/* The guest's next frame is of this type. Returns its channel. */
static uint16_t guest_expect(uint16_t type)
{
	struct agent_reader *reader = malloc(sizeof(*reader));
	struct agent_view view = {0};

	cr_assert(guest_next(reader, &view), "the guest got nothing, not type %u", type);
	cr_assert_eq(view.type, type, "type %u, not %u", view.type, type);
	free(reader);
	return view.channel;
}

/* --- the clients' side --------------------------------------------------------------------- */

static int client_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0, "%s",
		     strerror(errno));
	cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	run();
	return fd;
}

static void client_say(int fd, uint16_t channel, uint16_t type, const void *payload, size_t len)
{
	uint8_t data[AGENT_FRAME_MAX];
	struct agent_ring ring;

	agent_ring_init(&ring, data, sizeof(data));
	cr_assert_eq(agent_frame_put(&ring, channel, type, payload, len), 0);
	cr_assert_eq(send(fd, data, ring.used, MSG_NOSIGNAL), (ssize_t)ring.used);
}

static void client_expect(int fd, uint16_t type, size_t len)
{
	struct agent_frame header;
	uint8_t payload[AGENT_PAYLOAD_MAX];

	cr_assert_eq(recv(fd, &header, sizeof(header), 0), (ssize_t)sizeof(header));
	cr_assert_eq(header.type, type, "type %u, not %u", header.type, type);
	cr_assert_eq(header.channel, 0);
	if (len)
		cr_assert_eq(header.length, len);
	if (header.length)
		cr_assert_eq(recv(fd, payload, header.length, MSG_WAITALL), (ssize_t)header.length);
}

static void client_expect_end(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, 0);

	cr_assert(n == 0 || (n < 0 && errno == ECONNRESET), "still connected");
}

static void client_expect_silence(int fd)
{
	char byte;

	cr_assert(recv(fd, &byte, 1, 0) < 0 && errno == EAGAIN);
}

/* A client of which the guest has heard; @channel: what the guest calls it. */
static int client_known(uint16_t *channel)
{
	int fd = client_connect();

	client_say(fd, 0, AGENT_PING, "?", 1);
	run();
	*channel = guest_expect(AGENT_PING);
	return fd;
}

/* --- set-up -------------------------------------------------------------------------------- */

static void mux_start(void)
{
	char err[256];

	agent = agent_create(loop, path, err, sizeof(err));
	cr_assert_not_null(agent, "%s", err);
	backend = agent_backend(agent);
	agent_attach(agent, NULL, 1);
}

static void set_up(void)
{
	snprintf(directory, sizeof(directory), "%s/weft-test-XXXXXX", getenv("TMPDIR") ?: "/tmp");
	cr_assert_not_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/agent.sock", directory);
	loop = loop_create(64);
	cr_assert_not_null(loop);
	memset(&port, 0, sizeof(port));
	port.input = malloc(INPUT_MAX);
	port.input_room = INPUT_MAX;
	mux_start();
	backend->guest_open(backend, true);
	guest_hello();
	run();
	cr_assert(agent_up(agent));
}

static void tear_down(void)
{
	agent_destroy(agent);
	loop_destroy(loop);
	free(port.input);
	cr_expect_eq(rmdir(directory), 0, "left behind in %s", directory);
}

#define SET_UP .init = set_up, .fini = tear_down, .timeout = 300

Test(agent_mux, socket_is_private, SET_UP)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	cr_assert(S_ISSOCK(st.st_mode));
	cr_assert_eq(st.st_mode & 0777, 0600);
}

Test(agent_mux, frames_pass_both_ways, SET_UP)
{
	uint16_t channel;
	int fd = client_connect();

	client_say(fd, 0, AGENT_EXEC, "true", 5);
	run();
	channel = guest_expect(AGENT_EXEC);
	cr_assert_neq(channel, 0);
	guest_say(channel, AGENT_STDOUT, "out", 3);
	guest_say(channel, AGENT_EXIT, "\0\0\0\0", 4);
	run();
	client_expect(fd, AGENT_STDOUT, 3);
	client_expect(fd, AGENT_EXIT, 4);
	client_expect_silence(fd);
	close(fd);
	run();
	cr_assert_eq(guest_expect(AGENT_CLOSE), channel);
}

Test(agent_mux, clients_have_channels_of_their_own, SET_UP)
{
	uint16_t a_channel, b_channel, c_channel;
	int a = client_known(&a_channel), b = client_known(&b_channel), c;

	cr_assert_neq(a_channel, b_channel);
	guest_say(b_channel, AGENT_PONG, "b", 1);
	run();
	client_expect(b, AGENT_PONG, 1);
	client_expect_silence(a);
	close(a);
	run();
	cr_assert_eq(guest_expect(AGENT_CLOSE), a_channel);
	/* A late frame of the closed channel meets nobody. */
	c = client_known(&c_channel);
	cr_assert_neq(c_channel, a_channel);
	guest_say(a_channel, AGENT_STDOUT, "late", 4);
	run();
	client_expect_silence(b);
	client_expect_silence(c);
	close(b);
	close(c);
}

Test(agent_mux, frame_in_single_bytes, SET_UP)
{
	static const uint8_t ping[] = {2, 0, 0, 0, 0, 0, AGENT_PING, 0, 'h', 'i'};
	int fd = client_connect();

	for (size_t i = 0; i < sizeof(ping); i++) {
		cr_assert_eq(port.input_len, 0);
		cr_assert_eq(send(fd, &ping[i], 1, 0), 1);
		run();
	}
	guest_expect(AGENT_PING);
	close(fd);
}

Test(agent_mux, unheard_client_leaves_no_trace_in_guest, SET_UP)
{
	close(client_connect());
	run();
	cr_assert_eq(port.input_len, 0);
}

Test(agent_mux, guest_close_ends_channel, SET_UP)
{
	uint16_t channel;
	int fd = client_known(&channel);

	guest_say(channel, AGENT_ERROR, "no", 2);
	guest_say(channel, AGENT_CLOSE, NULL, 0);
	run();
	client_expect(fd, AGENT_ERROR, 2);
	client_expect(fd, AGENT_CLOSE, 0);
	client_expect_end(fd);
	cr_assert_eq(port.input_len, 0, "CLOSE is not answered");
	close(fd);
}

Test(agent_mux, client_errors_end_that_client, SET_UP)
{
	static const struct {
		uint16_t channel, type;
		uint32_t length;
	} bad[] = {
		{0, AGENT_HELLO, 4},      {0, AGENT_STDOUT, 1},  {0, AGENT_TYPES, 0},
		{0, 0xffff, 0},           {0, 0, 0},             {0, AGENT_STDIN, AGENT_PAYLOAD_MAX + 1},
		{0, AGENT_PING, 65},      {7, AGENT_PING, 1},    {0, AGENT_STDIN, 0xffffffff},
	};
	struct agent_counters counters;
	struct agent_frame frame;
	int good = client_connect(), fd;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fd = client_connect();
		frame = (struct agent_frame){bad[i].length, bad[i].channel, bad[i].type};
		cr_assert_eq(send(fd, &frame, sizeof(frame), 0), (ssize_t)sizeof(frame));
		cr_assert_eq(send(fd, "x", 1, 0), 1);
		run();
		client_expect(fd, AGENT_ERROR, 0);
		client_expect_end(fd);
		close(fd);
	}
	agent_counters(agent, &counters);
	cr_assert_eq(counters.client_errors, sizeof(bad) / sizeof(bad[0]));
	cr_assert_eq(port.input_len, 0);
	client_say(good, 0, AGENT_PING, "", 0);
	run();
	guest_expect(AGENT_PING);
	close(good);
}

Test(agent_mux, too_many_clients_are_told, SET_UP)
{
	int fds[AGENT_CHANNELS_MAX], extra;

	for (int i = 0; i < AGENT_CHANNELS_MAX; i++)
		fds[i] = client_connect();
	extra = client_connect();
	client_expect(extra, AGENT_ERROR, 0);
	client_expect_end(extra);
	close(extra);
	close(fds[5]);
	run();
	fds[5] = client_connect();
	client_say(fds[5], 0, AGENT_PING, "", 0);
	run();
	guest_expect(AGENT_PING);
	for (int i = 0; i < AGENT_CHANNELS_MAX; i++)
		close(fds[i]);
}

Test(agent_mux, channel_numbers_wrap_around_those_in_use, SET_UP)
{
	uint16_t first, channel = 0;
	int keeper = client_known(&first), fd;

	for (unsigned i = 0; i < 65600; i += 64) {
		int fds[63];

		for (int j = 0; j < 63; j++) {
			struct sockaddr_un address = {.sun_family = AF_UNIX};

			strcpy(address.sun_path, path);
			fds[j] = socket(AF_UNIX, SOCK_STREAM, 0);
			if (j % 16 == 15)
				run();
			cr_assert_eq(connect(fds[j], (struct sockaddr *)&address, sizeof(address)), 0);
		}
		run();
		for (int j = 0; j < 63; j++)
			close(fds[j]);
		run();
	}
	for (int i = 0; i < 3; i++) {
		fd = client_known(&channel);
		cr_assert_neq(channel, 0);
		cr_assert_neq(channel, first);
		close(fd);
		run();
		guest_expect(AGENT_CLOSE);
	}
	close(keeper);
}

/* A client that never reads loses its own connection once its window is overrun, nobody else's. */
Test(agent_mux, deaf_client_stalls_nobody, SET_UP)
{
	static uint8_t block[AGENT_PAYLOAD_MAX];
	uint16_t deaf_channel, channel;
	int deaf = client_known(&deaf_channel), fd = client_known(&channel);
	struct agent_counters counters;

	/* One whole window, as an honest guest may send. */
	for (size_t sent = 0; sent < AGENT_WINDOW; sent += sizeof(block))
		guest_say(deaf_channel, AGENT_STDOUT, block, sizeof(block));
	guest_say(channel, AGENT_STDOUT, "ok", 2);
	run();
	client_expect(fd, AGENT_STDOUT, 2);
	agent_counters(agent, &counters);
	cr_assert_eq(counters.overruns, 0);
	/* And far more, as a dishonest one might. */
	for (size_t sent = 0; sent < 8 * AGENT_WINDOW; sent += sizeof(block))
		guest_say(deaf_channel, AGENT_STDOUT, block, sizeof(block));
	guest_say(channel, AGENT_STDOUT, "ok", 2);
	run();
	client_expect(fd, AGENT_STDOUT, 2);
	agent_counters(agent, &counters);
	cr_assert_eq(counters.overruns, 1);
	cr_assert_eq(guest_expect(AGENT_CLOSE), deaf_channel);
	close(deaf);
	close(fd);
}

/* Asking without listening is bounded as well. */
Test(agent_mux, pings_without_reading, SET_UP)
{
	static uint8_t pongs[4096][sizeof(struct agent_frame) + 64];
	struct agent_counters counters;
	uint16_t channel;
	int fd = client_known(&channel);

	for (size_t i = 0; i < 4096; i++) {
		struct agent_frame frame = {64, channel, AGENT_PONG};

		memcpy(pongs[i], &frame, sizeof(frame));
	}
	for (int i = 0; i < 8; i++)
		guest_bytes(pongs, sizeof(pongs));
	run();
	agent_counters(agent, &counters);
	cr_assert_eq(counters.overruns, 1);
	close(fd);
}

/* A guest that takes nothing: clients are held up, not lost, and no frame is cut or dropped. */
Test(agent_mux, slow_guest_holds_clients_up, SET_UP)
{
	static uint8_t block[AGENT_PAYLOAD_MAX];
	struct agent_reader *reader = malloc(sizeof(*reader));
	struct agent_view view;
	size_t sent = 0, got = 0;
	uint16_t a_channel, b_channel;
	int a = client_known(&a_channel), b = client_known(&b_channel);
	uint8_t *stream = malloc(40 * AGENT_FRAME_MAX);
	struct agent_ring ring;
	size_t at = 0;

	agent_ring_init(&ring, stream, 40 * AGENT_FRAME_MAX);
	for (int i = 0; i < 40; i++)
		cr_assert_eq(agent_frame_put(&ring, 0, AGENT_STDIN, block, sizeof(block)), 0);
	sent = ring.used;
	port.input_room = 0;
	while (at < sent || got < 40) {
		ssize_t n = at < sent ? send(a, stream + at, sent - at, MSG_NOSIGNAL) : 0;

		if (n > 0)
			at += (size_t)n;
		run();
		port.input_room = 5000; /* odd pieces */
		backend->input_ready(backend);
		run();
		while (guest_next(reader, &view)) {
			cr_assert_eq(view.type, AGENT_STDIN);
			cr_assert_eq(view.channel, a_channel);
			cr_assert_eq(view.length, AGENT_PAYLOAD_MAX);
			got++;
		}
	}
	/* A client that goes while there is no room still gets its CLOSE to the guest. */
	port.input_room = 0;
	client_say(b, 0, AGENT_PING, "", 0);
	close(a);
	close(b);
	run();
	port.input_room = INPUT_MAX;
	backend->input_ready(backend);
	run();
	for (unsigned closed = 0; closed < 2;) {
		cr_assert(guest_next(reader, &view));
		closed += view.type == AGENT_CLOSE;
	}
	free(stream);
	free(reader);
}

/* Busy clients do not keep the others out when the guest is slow. */
Test(agent_mux, slow_guest_is_shared_fairly, SET_UP)
{
	static uint8_t block[AGENT_PAYLOAD_MAX];
	struct agent_reader *reader = malloc(sizeof(*reader));
	unsigned per_client[8] = {0};
	uint16_t channels[8];
	struct agent_view view;
	int fds[8];

	for (int i = 0; i < 8; i++)
		fds[i] = client_known(&channels[i]);
	port.input_room = 0;
	for (int i = 0; i < 2000; i++) {
		for (int j = 0; j < 8; j++) {
			struct agent_frame frame = {1024, 0, AGENT_STDIN};
			uint8_t data[sizeof(frame) + 1024];

			memcpy(data, &frame, sizeof(frame));
			memcpy(data + sizeof(frame), block, 1024);
			/* A socket that is full takes all of a small write or nothing. */
			(void)!send(fds[j], data, sizeof(data), MSG_NOSIGNAL);
		}
		port.input_room = 2048;
		backend->input_ready(backend);
		run();
		while (guest_next(reader, &view))
			for (int j = 0; j < 8; j++)
				per_client[j] += view.channel == channels[j];
	}
	for (int j = 0; j < 8; j++) {
		cr_assert_gt(per_client[j], 100, "client %d passed %u frames", j, per_client[j]);
		close(fds[j]);
	}
	free(reader);
}

Test(agent_mux, guest_closing_its_port_ends_all, SET_UP)
{
	uint16_t channel;
	int a = client_known(&channel), b = client_connect(), c;

	backend->guest_open(backend, false);
	run();
	cr_assert_not(agent_up(agent));
	client_expect(a, AGENT_ERROR, 0);
	client_expect_end(a);
	client_expect(b, AGENT_ERROR, 0);
	client_expect_end(b);
	cr_assert_eq(port.input_len, 0, "a closed port gets nothing");
	c = client_connect();
	client_expect(c, AGENT_ERROR, 0);
	client_expect_end(c);
	/* And it can come back. What is left of before is ignored until HELLO. */
	close(c);
	backend->guest_open(backend, true);
	guest_say(channel, AGENT_STDOUT, "late", 4);
	guest_hello();
	run();
	cr_assert(agent_up(agent));
	close(client_known(&channel));
	close(a);
	close(b);
}

Test(agent_mux, second_hello_ends_clients, SET_UP)
{
	uint16_t channel;
	int fd = client_known(&channel);

	guest_hello();
	run();
	client_expect(fd, AGENT_ERROR, 0);
	client_expect_end(fd);
	cr_assert(agent_up(agent));
	close(fd);
}

Test(agent_mux, agent_of_another_version_is_not_up, SET_UP)
{
	static const uint8_t hello[] = {AGENT_VERSION + 1, 0, 0, 0};

	guest_say(0, AGENT_HELLO, hello, sizeof(hello));
	run();
	cr_assert_not(agent_up(agent));
}

Test(agent_mux, guest_errors_resynchronise, SET_UP)
{
	static const struct agent_frame bad[] = {
		{AGENT_PAYLOAD_MAX + 1, 1, AGENT_STDOUT}, {0, 1, AGENT_TYPES}, {4, 3, AGENT_HELLO},
		{0, 1, AGENT_EXEC},                       {0, 0, 0},           {3, 1, AGENT_EXIT},
	};
	struct agent_counters counters;
	uint16_t channel;
	int fd;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fd = client_known(&channel);
		guest_bytes(&bad[i], sizeof(bad[i]));
		if (bad[i].type == AGENT_HELLO)
			guest_bytes("\1\0\0\0", 4);
		run();
		cr_assert_eq(port.disconnects, i + 1);
		cr_assert_not(port.host_open);
		cr_assert_not(agent_up(agent));
		client_expect(fd, AGENT_ERROR, 0);
		client_expect_end(fd);
		guest_bytes("rest of the mess", 16);
		run_until(port.host_open);
		guest_hello();
		cr_assert(agent_up(agent));
		close(fd);
		run();
	}
	agent_counters(agent, &counters);
	cr_assert_eq(counters.guest_errors, sizeof(bad) / sizeof(bad[0]));
}

/* A last request, then gone: it reaches the guest. */
Test(agent_mux, last_words_are_heard, SET_UP)
{
	int fd = client_connect();

	client_say(fd, 0, AGENT_SHUTDOWN, "", 1);
	close(fd);
	run();
	cr_assert_eq(guest_expect(AGENT_SHUTDOWN), guest_expect(AGENT_CLOSE));
}

Test(agent_mux, socket_of_a_dead_process_is_replaced, SET_UP)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int dead = socket(AF_UNIX, SOCK_STREAM, 0);

	agent_destroy(agent);
	strcpy(address.sun_path, path);
	cr_assert_eq(bind(dead, (struct sockaddr *)&address, sizeof(address)), 0);
	close(dead);
	mux_start();
	close(client_connect());
}

Test(agent_mux, paths_that_cannot_be_used, SET_UP)
{
	char err[256], longest[200];
	int fd;

	cr_assert_null(agent_create(loop, path, err, sizeof(err)));
	cr_assert_not_null(strstr(err, "in use"), "%s", err);
	cr_assert_not_null(strstr(err, path), "%s", err);
	cr_assert_null(agent_create(loop, "", err, sizeof(err)));
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	cr_assert_null(agent_create(loop, longest, err, sizeof(err)));
	cr_assert_not_null(strstr(err, "107"), "%s", err);
	cr_assert_null(agent_create(loop, "/nonexistent/agent.sock", err, sizeof(err)));
	snprintf(longest, sizeof(longest), "%s/file", directory);
	fd = open(longest, O_CREAT | O_WRONLY, 0600);
	close(fd);
	cr_assert_null(agent_create(loop, longest, err, sizeof(err)));
	cr_assert_not_null(strstr(err, "another kind"), "%s", err);
	cr_assert_eq(unlink(longest), 0, "a file that is no socket is left alone");
}

Test(agent_mux, out_of_descriptors_recovers, SET_UP)
{
	int fds[FILES_MAX], count = 0, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct rlimit limit = {FILES_MAX, FILES_MAX};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint64_t turns;

	strcpy(address.sun_path, path);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (count < FILES_MAX && (fds[count] = dup(fd)) >= 0)
		count++;
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	turns = loop_turns(loop);
	run_ms(50);
	cr_assert_lt(loop_turns(loop) - turns, 20, "the loop does not spin");
	while (count)
		close(fds[--count]);
	client_say(fd, 0, AGENT_PING, "", 0);
	run_until(port.input_len);
	guest_expect(AGENT_PING);
	close(fd);
}
