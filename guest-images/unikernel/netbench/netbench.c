/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * netbench: throughput and latency between two guests, by raw Ethernet frames of EtherType 0x88b5.
 *
 * Parameters
 *   role=server|client  the server answers until it has served sessions=N clients (default 0: for
 *                       ever)
 *   mode=poll|irq       how to wait for frames (default poll)
 *   work=NS             be busy so long with each PING or PONG, as a network stack would be
 *   test=stream         client: send frames of size=BYTES (Ethernet header included, default 1514)
 *                       for seconds=N (default 1) or until count=N, batch=N of them per doorbell
 *                       (default 32), rate=N a second (default 0: as many as go)
 *   test=pingpong       client: count=N round trips (default 10000) of frames of size=BYTES
 *                       (default 64), one after the other
 *   test=load           client: as many round trips as rate=N a second (default 1000) asks for, for
 *                       seconds=N, whether those before have ended or not
 *   test=echo           client: pingpong against virtio-echo, whose address peer= must give
 *   peer=MAC            client: the server's address (default: ask by broadcast)
 * Each test ends with one line of JSON on the client's console. Status 0: it ran; 1: no server
 * answered.
 *
 * Theory of operation: every frame starts with struct bench_frame. A session is a client's number
 * for one test. HELLO is answered by HELLO_REPLY, which tells the client where the server is. DATA
 * is counted by the server, REPORT_REQUEST asks for the count, and is repeated each
 * REPLY_TIMEOUT_NS until REPORT comes or the tries are used up; frames on the way are given
 * SETTLE_NS before. PING is answered by PONG with the same number. BYE ends a session and is not
 * answered. Times are each side's own time stamp counter. With rate= what is due by the clock is
 * sent; between two frames the client waits as mode= says, with a timer to wake it up.
 */
#include "nic.h"

#define BENCH_ETHERTYPE	 0xb588	    /* 0x88b5, IEEE 802 local experimental, in network order */
#define BENCH_MAGIC	 0x68636e62 /* "bnch" */
#define FRAME_MIN	 64
#define SAMPLES_MAX	 1000000
#define REPLY_TIMEOUT_NS 1000000000ull
#define TIMER_VECTOR	 (NIC_VECTOR + 1)
#define REPLY_TRIES	 50
#define SETTLE_NS	 20000000ull
#define TICK_MIN_NS	 50000u /* of the timer: a faster one leaves no time for frames */
#define RATE_DEFAULT	 1000

enum bench_type { HELLO = 1, HELLO_REPLY, DATA, REPORT_REQUEST, REPORT, PING, PONG, BYE };

struct bench_frame {
	uint8_t to[MAC_SIZE], from[MAC_SIZE];
	uint16_t ethertype;
	uint16_t type;
	uint32_t magic, session;
	uint64_t sequence;
	uint64_t frames, bytes, ns; /* of a REPORT */
} __attribute__((packed));

_Static_assert(sizeof(struct bench_frame) <= FRAME_MIN, "the smallest frame carries the header");

struct server {
	struct nic nic;
	uint64_t work_ns;
	uint32_t session;
	uint64_t frames, bytes, first, last; /* of this session; time stamps */
	uint64_t sessions_left;
};

struct client {
	struct nic nic;
	uint64_t work_ns;
	uint8_t peer[MAC_SIZE];
	uint32_t session;
	uint32_t size;	       /* bytes of a frame */
	enum bench_type reply; /* to a PING */
};

/* Put a frame of @len bytes into the send ring; the caller flushes. */
static struct bench_frame *frame_send(struct nic *nic, const uint8_t *to, enum bench_type type,
				      uint32_t session, uint64_t sequence, uint32_t len)
{
	struct bench_frame *frame = (struct bench_frame *)nic_buffer(nic);

	memcpy(frame->to, to, MAC_SIZE);
	memcpy(frame->from, nic->mac, MAC_SIZE);
	frame->ethertype = BENCH_ETHERTYPE;
	frame->type = type;
	frame->magic = BENCH_MAGIC;
	frame->session = session;
	frame->sequence = sequence;
	nic_send(nic, len);
	return frame;
}

/* Take the next of our frames; others are given back to the card. NULL: none there. */
static struct bench_frame *frame_receive(struct nic *nic, uint32_t *len, int *buffer)
{
	struct bench_frame *frame;

	while ((frame = (struct bench_frame *)nic_receive(nic, len, buffer))) {
		if (*len >= sizeof(*frame) && frame->ethertype == BENCH_ETHERTYPE &&
		    frame->magic == BENCH_MAGIC)
			break;
		nic_repost(nic, *buffer);
	}
	return frame;
}

static void work(uint64_t ns)
{
	uint64_t start = time_ns();

	while (time_ns() - start < ns)
		cpu_relax();
}

/* --- server -------------------------------------------------------------------------------- */

static void server_count(struct server *server, const struct bench_frame *frame, uint32_t len)
{
	server->last = tsc_read();
	if (frame->session != server->session) {
		server->session = frame->session;
		server->frames = server->bytes = 0;
		server->first = server->last;
	}
	server->frames++;
	server->bytes += len;
}

static void server_report(struct server *server, const struct bench_frame *request)
{
	bool known = request->session == server->session;
	struct bench_frame *report = frame_send(&server->nic, request->from, REPORT,
						request->session, request->sequence, FRAME_MIN);

	report->frames = known ? server->frames : 0;
	report->bytes = known ? server->bytes : 0;
	report->ns = known ? tsc_to_ns(server->last - server->first) : 0;
}

static void server_handle(struct server *server, const struct bench_frame *frame, uint32_t len)
{
	struct nic *nic = &server->nic;

	switch (frame->type) {
	case HELLO:
		frame_send(nic, frame->from, HELLO_REPLY, frame->session, frame->sequence,
			   FRAME_MIN);
		break;
	case DATA:
		server_count(server, frame, len);
		break;
	case REPORT_REQUEST:
		server_report(server, frame);
		break;
	case PING:
		work(server->work_ns);
		frame_send(nic, frame->from, PONG, frame->session, frame->sequence, len);
		break;
	case BYE:
		server->sessions_left--;
		break;
	}
}

static int server_run(void)
{
	static struct server server;
	struct bench_frame *frame;
	uint32_t len;
	int buffer;

	server.sessions_left = param_number("sessions", 0) ?: UINT64_MAX;
	server.work_ns = param_number("work", 0);
	nic_open(&server.nic, 0, param_is("mode", "irq"));
	printf("netbench: server ready, mtu %u\n", server.nic.mtu);
	while (server.sessions_left) {
		while ((frame = frame_receive(&server.nic, &len, &buffer))) {
			server_handle(&server, frame, len);
			nic_repost(&server.nic, buffer);
		}
		nic_flush(&server.nic);
		if (server.sessions_left)
			nic_wait(&server.nic);
	}
	return 0;
}

/* --- client -------------------------------------------------------------------------------- */

static void ticks_start(const struct client *client, uint64_t rate)
{
	uint64_t period = 1000000000 / rate;

	if (client->nic.interrupts)
		timer_start(period > TICK_MIN_NS ? (uint32_t)period : TICK_MIN_NS, TIMER_VECTOR);
}

/* Frames that should have been sent since @start. */
static uint64_t frames_due(uint64_t start, uint64_t rate)
{
	return (time_ns() - start) / 1000 * rate / 1000000;
}

/*
 * Wait for the answer of type @type to @sequence and copy it to @answer. Returns false after
 * @timeout_ns.
 */
static bool client_await(struct client *client, enum bench_type type, uint64_t sequence,
			 uint64_t timeout_ns, struct bench_frame *answer)
{
	uint64_t start = time_ns();
	struct bench_frame *frame;
	uint32_t len;
	int buffer;
	bool ours;

	while (time_ns() - start < timeout_ns) {
		frame = frame_receive(&client->nic, &len, &buffer);
		if (!frame) {
			nic_wait(&client->nic);
			continue;
		}
		ours = frame->type == type && frame->session == client->session &&
		       frame->sequence == sequence;
		*answer = *frame;
		nic_repost(&client->nic, buffer);
		nic_flush(&client->nic);
		if (ours)
			return true;
	}
	return false;
}

/* Send a question until it is answered. */
static bool client_ask(struct client *client, enum bench_type question, enum bench_type reply,
		       struct bench_frame *answer)
{
	for (uint64_t i = 0; i < REPLY_TRIES; i++) {
		frame_send(&client->nic, client->peer, question, client->session, i, FRAME_MIN);
		nic_flush(&client->nic);
		if (client_await(client, reply, i, REPLY_TIMEOUT_NS, answer))
			return true;
	}
	return false;
}

static uint64_t stream_send(struct client *client)
{
	uint64_t count = param_number("count", 0), batch = param_number("batch", 32) ?: 1;
	uint64_t duration_ns = param_number("seconds", 1) * 1000000000ull;
	uint64_t rate = param_number("rate", 0), start = time_ns(), sent = 0;

	if (rate)
		ticks_start(client, rate);
	while (count ? sent < count : time_ns() - start < duration_ns) {
		uint64_t due = rate ? frames_due(start, rate) : UINT64_MAX, end = sent + batch;

		due = count && count < due ? count : due;
		if (sent >= due)
			nic_wait(&client->nic);
		while (sent < due && sent < end)
			frame_send(&client->nic, client->peer, DATA, client->session, sent++,
				   client->size);
		nic_flush(&client->nic);
	}
	return sent;
}

static int stream_run(struct client *client)
{
	struct bench_frame report;
	uint64_t sent = stream_send(client);
	uint64_t start = time_ns();

	while (time_ns() - start < SETTLE_NS)
		cpu_relax();
	if (!client_ask(client, REPORT_REQUEST, REPORT, &report)) {
		printf("netbench: the server does not report\n");
		return 1;
	}
	printf("{\"test\":\"stream\",\"size\":%u,\"sent\":%lu,\"frames\":%lu,\"bytes\":%lu,"
	       "\"seconds\":%lu.%06lu,\"lost\":%ld}\n",
	       client->size, sent, report.frames, report.bytes, report.ns / 1000000000,
	       report.ns / 1000 % 1000000, (long)(sent - report.frames));
	return 0;
}

static void samples_sift(uint32_t *heap, size_t at, size_t count)
{
	for (size_t child; (child = 2 * at + 1) < count; at = child) {
		uint32_t value = heap[at];

		if (child + 1 < count && heap[child + 1] > heap[child])
			child++;
		if (heap[child] <= value)
			return;
		heap[at] = heap[child];
		heap[child] = value;
	}
}

/* Heap sort, ascending. */
static void samples_sort(uint32_t *samples, size_t count)
{
	for (size_t i = count / 2; i--;)
		samples_sift(samples, i, count);
	for (size_t i = count; i-- > 1;) {
		uint32_t largest = samples[0];

		samples[0] = samples[i];
		samples[i] = largest;
		samples_sift(samples, 0, i);
	}
}

static void trips_report(const char *test, const struct client *client, uint32_t *samples,
			 uint64_t sent, uint64_t done, uint64_t ns)
{
	samples_sort(samples, done);
	printf("{\"test\":\"%s\",\"size\":%u,\"sent\":%lu,\"frames\":%lu,\"bytes\":%lu,"
	       "\"seconds\":%lu.%06lu,\"lost\":%lu,\"min_ns\":%u,\"p50_ns\":%u,\"p99_ns\":%u,"
	       "\"p999_ns\":%u,\"max_ns\":%u}\n",
	       test, client->size, sent, done, done * client->size, ns / 1000000000,
	       ns / 1000 % 1000000, sent - done, samples[0], samples[done * 500 / 1000],
	       samples[done * 990 / 1000], samples[done * 999 / 1000], samples[done - 1]);
}

static int pingpong_run(struct client *client)
{
	uint64_t count = param_number("count", 10000), done = 0, start = time_ns();
	struct bench_frame pong;
	uint32_t *samples;

	count = count < SAMPLES_MAX ? count : SAMPLES_MAX;
	samples = memory_take(count * sizeof(*samples), sizeof(*samples));
	for (uint64_t i = 0; i < count; i++) {
		uint64_t sent = tsc_read();

		frame_send(&client->nic, client->peer, PING, client->session, i, client->size);
		nic_flush(&client->nic);
		if (client_await(client, client->reply, i, REPLY_TIMEOUT_NS, &pong))
			samples[done++] = (uint32_t)tsc_to_ns(tsc_read() - sent);
	}
	if (!done) {
		printf("netbench: the server does not answer\n");
		return 1;
	}
	trips_report(client->reply == PING ? "echo" : "pingpong", client, samples, count, done,
		     time_ns() - start);
	return 0;
}

/* Round trips that have begun at a rate. */
struct load {
	uint64_t sent, done;
	uint64_t *begin; /* time stamps of those sent, by number */
	uint32_t *samples;
};

static void load_take(struct client *client, struct load *load)
{
	struct bench_frame *frame;
	uint32_t len;
	int buffer;

	while ((frame = frame_receive(&client->nic, &len, &buffer))) {
		work(client->work_ns);
		if (frame->type == PONG && frame->session == client->session &&
		    frame->sequence < load->sent && load->done < load->sent)
			load->samples[load->done++] =
			    (uint32_t)tsc_to_ns(tsc_read() - load->begin[frame->sequence]);
		nic_repost(&client->nic, buffer);
	}
}

static int load_run(struct client *client)
{
	uint64_t rate = param_number("rate", RATE_DEFAULT) ?: RATE_DEFAULT, start;
	uint64_t count = rate * param_number("seconds", 1);
	struct load load = {0};

	count = count < SAMPLES_MAX ? count : SAMPLES_MAX;
	load.begin = memory_take(count * sizeof(*load.begin), sizeof(*load.begin));
	load.samples = memory_take(count * sizeof(*load.samples), sizeof(*load.samples));
	ticks_start(client, rate);
	printf("netbench: load begins\n");
	start = time_ns();
	while (load.done < count && time_ns() - start < count * 1000000000 / rate + SETTLE_NS) {
		uint64_t due = frames_due(start, rate);

		load_take(client, &load);
		if (load.sent == count || load.sent >= due)
			nic_wait(&client->nic);
		for (; load.sent < count && load.sent < due; load.sent++) {
			load.begin[load.sent] = tsc_read();
			frame_send(&client->nic, client->peer, PING, client->session, load.sent,
				   client->size);
		}
		nic_flush(&client->nic);
	}
	if (!load.done) {
		printf("netbench: the server does not answer\n");
		return 1;
	}
	trips_report("load", client, load.samples, load.sent, load.done, time_ns() - start);
	return 0;
}

/* Ends the sleep for an answer that was lost. */
static void timer_interrupt(void *context)
{
	(void)context;
}

static void client_open(struct client *client)
{
	nic_open(&client->nic, 0, param_is("mode", "irq"));
	if (client->nic.interrupts) {
		interrupt_handle(TIMER_VECTOR, timer_interrupt, NULL);
		timer_start(REPLY_TIMEOUT_NS, TIMER_VECTOR);
	}
	client->session = (uint32_t)tsc_read();
	client->work_ns = param_number("work", 0);
	client->size =
	    (uint32_t)param_number("size", param_is("test", "stream") ? 1514 : FRAME_MIN);
	if (client->size < FRAME_MIN || client->size > client->nic.mtu + ETHER_HEADER)
		panic("netbench: size must be %u to %u", FRAME_MIN, client->nic.mtu + ETHER_HEADER);
	client->reply = param_is("test", "echo") ? PING : PONG;
}

/* Learn the server's address. virtio-echo knows no HELLO. */
static bool client_meet(struct client *client)
{
	bool given = param_mac("peer", client->peer);
	struct bench_frame reply;

	if (client->reply == PING)
		return given;
	if (!given)
		memset(client->peer, 0xff, MAC_SIZE);
	if (!client_ask(client, HELLO, HELLO_REPLY, &reply))
		return false;
	memcpy(client->peer, reply.from, MAC_SIZE);
	return true;
}

static int client_run(void)
{
	bool stream = param_is("test", "stream"), load = param_is("test", "load");
	static struct client client;
	int status;

	if (!stream && !load && !param_is("test", "pingpong") && !param_is("test", "echo"))
		panic("netbench: say test=stream, test=pingpong, test=load or test=echo");
	client_open(&client);
	if (!client_meet(&client)) {
		printf("netbench: no server answers, or no peer= was given\n");
		return 1;
	}
	status = stream ? stream_run(&client) : load ? load_run(&client) : pingpong_run(&client);
	if (client.reply == PONG)
		frame_send(&client.nic, client.peer, BYE, client.session, 0, FRAME_MIN);
	nic_flush(&client.nic);
	while (client.nic.tx.free_count < client.nic.tx.size)
		ring_take(&client.nic.tx, NULL);
	return status;
}

int main(void)
{
	if (param_is("role", "server"))
		return server_run();
	if (param_is("role", "client"))
		return client_run();
	panic("netbench: say role=server or role=client");
}
