/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pingpong: measures round trips of TCP or UDP messages between two machines.
 *
 * Theory of operation
 *
 * The server listens for both protocols on one port number and sends back every byte (TCP) or
 * datagram (UDP) that it receives, from one poll loop.
 *
 * The client sends one message, waits for all of it to come back, notes the time, and only then
 * sends the next. Every message begins with its number, so that a UDP answer that comes after its
 * time is recognised and thrown away. A UDP message without an answer after LOSS_MS counts as lost.
 * With --connect each message has a connection of its own, ended by a reset so that none is left in
 * TIME_WAIT; with --pause each comes after a rest, so that it meets a path that has gone to sleep.
 * The first WARM_UP messages resolve addresses and fill caches and are not counted. The array of
 * samples is written to before the start, so that no page fault falls into a measurement.
 */
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_PORT  "5301"
#define DEFAULT_SIZE  64      /* bytes */
#define DEFAULT_COUNT 10000   /* messages */
#define COUNT_MAX     1000000 /* messages; 4 bytes of memory each */
#define SIZE_MAX_UDP  65507   /* bytes: what IPv4 allows */
#define SIZE_MAX_TCP  65536   /* bytes: what socket buffers hold while the other end writes */
#define WARM_UP	      20      /* messages */
#define LOSS_MS	      1000
#define LOST_IN_A_ROW 5	    /* lost messages after which the server counts as unreachable */
#define PAUSE_MAX     10000 /* milliseconds */
#define CLIENTS_MAX   32    /* TCP connections that the server keeps */

enum exit_status {
	STATUS_FAILED = 1,
	STATUS_USAGE = 2,
};

struct options {
	const char *host; /* NULL: be the server */
	const char *port;
	bool udp;
	bool json;
	size_t size;	/* bytes a message */
	size_t count;	/* messages */
	size_t pause;	/* milliseconds before each message */
	bool connect;	/* a TCP connection for each message */
	double seconds; /* 0: no limit of time */
};

struct run {
	const struct options *options;
	int fd;
	uint64_t number;   /* of the message under way */
	uint8_t *message;  /* options->size bytes */
	uint32_t *samples; /* round trips in nanoseconds, options->count of them */
	size_t counted;	   /* samples that are valid */
	size_t lost;
};

static const char usage_text[] =
    "Usage: pingpong --server [--port PORT]\n"
    "       pingpong HOST [--tcp|--udp|--connect] [--size BYTES] [--count N] [--seconds S]\n"
    "                [--pause MS] [--port PORT] [--json]\n"
    "Measures round trips to a server and prints their median, 99th percentile and maximum.\n"
    "\n"
    "  --server     answer clients, TCP and UDP, until ended\n"
    "  --tcp        use TCP (default)\n"
    "  --udp        use UDP\n"
    "  --connect    use TCP, and for each message a new connection\n"
    "  --size N     bytes in a message, 8 to 65536 (UDP: 65507); default 64\n"
    "  --count N    stop after N round trips, at most 1000000; default 10000,\n"
    "               with --seconds 1000000\n"
    "  --seconds S  stop after S seconds\n"
    "  --pause MS   rest so long before each message, at most 10000\n"
    "  --port PORT  default " DEFAULT_PORT "\n"
    "  --json       print the result as one JSON object\n"
    "  --help       print this text\n";

static void die(int status, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

static void die(int status, const char *format, ...)
{
	va_list arguments;

	fputs("pingpong: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(status);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void nodelay_set(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* Writes all of a TCP message. Returns 0 or -errno. */
static int message_write(int fd, const uint8_t *data, size_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, data, length);

		if (written < 0 && errno != EINTR)
			return -errno;
		if (written > 0) {
			data += written;
			length -= (size_t)written;
		}
	}
	return 0;
}

/* Reads all of a TCP message. Returns 0 or -errno; -ECONNRESET at the end of the stream. */
static int message_read(int fd, uint8_t *data, size_t length)
{
	while (length > 0) {
		ssize_t got = read(fd, data, length);

		if (got == 0)
			return -ECONNRESET;
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got > 0) {
			data += got;
			length -= (size_t)got;
		}
	}
	return 0;
}

static int server_bind(int family, int type, uint16_t port)
{
	struct sockaddr_in6 address6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in address4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	const void *address = family == AF_INET6 ? (void *)&address6 : (void *)&address4;
	socklen_t length = family == AF_INET6 ? sizeof(address6) : sizeof(address4);
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	int on = 1, off = 0;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, address, length) == 0 && (type == SOCK_DGRAM || listen(fd, CLIENTS_MAX) == 0))
		return fd;
	close(fd);
	return -1;
}

/* Opens a server's socket, for IPv6 and IPv4 where the kernel has both. */
static int server_socket(int type, const char *port)
{
	char *end;
	unsigned long number = strtoul(port, &end, 10);
	int fd;

	if (*end || number == 0 || number > UINT16_MAX)
		die(STATUS_USAGE, "--port wants a number from 1 to 65535, not '%s'", port);
	fd = server_bind(AF_INET6, type, (uint16_t)number);
	if (fd < 0)
		fd = server_bind(AF_INET, type, (uint16_t)number);
	if (fd < 0)
		die(STATUS_FAILED, "cannot listen on port %s: %s", port, strerror(errno));
	return fd;
}

static void datagram_echo(int fd, uint8_t *buffer, size_t size)
{
	struct sockaddr_storage peer;
	socklen_t length = sizeof(peer);
	ssize_t got = recvfrom(fd, buffer, size, 0, (struct sockaddr *)&peer, &length);

	if (got >= 0)
		sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&peer, length);
}

/* Echoes what a connection has. Returns false when the connection is at its end. */
static bool stream_echo(int fd, uint8_t *buffer, size_t size)
{
	ssize_t got = read(fd, buffer, size);

	return got > 0 && message_write(fd, buffer, (size_t)got) == 0;
}

static void client_accept(int listener, struct pollfd *clients)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	nodelay_set(fd);
	for (int i = 0; i < CLIENTS_MAX; i++) {
		if (clients[i].fd < 0) {
			clients[i].fd = fd;
			return;
		}
	}
	close(fd);
}

static void server_run(const struct options *options)
{
	struct pollfd polls[2 + CLIENTS_MAX];
	struct pollfd *clients = polls + 2;
	uint8_t *buffer = malloc(SIZE_MAX_TCP);

	if (!buffer)
		die(STATUS_FAILED, "out of memory");
	polls[0] =
	    (struct pollfd){.fd = server_socket(SOCK_DGRAM, options->port), .events = POLLIN};
	polls[1] =
	    (struct pollfd){.fd = server_socket(SOCK_STREAM, options->port), .events = POLLIN};
	for (int i = 0; i < CLIENTS_MAX; i++)
		clients[i] = (struct pollfd){.fd = -1, .events = POLLIN};
	while (poll(polls, 2 + CLIENTS_MAX, -1) > 0 || errno == EINTR) {
		if (polls[0].revents)
			datagram_echo(polls[0].fd, buffer, SIZE_MAX_TCP);
		for (int i = 0; i < CLIENTS_MAX; i++) {
			if (clients[i].fd >= 0 && clients[i].revents &&
			    !stream_echo(clients[i].fd, buffer, SIZE_MAX_TCP)) {
				close(clients[i].fd);
				clients[i].fd = -1;
			}
		}
		if (polls[1].revents)
			client_accept(polls[1].fd, clients);
	}
	die(STATUS_FAILED, "poll: %s", strerror(errno));
}

static int client_connect(const struct options *options)
{
	const struct timeval patience = {.tv_sec = LOSS_MS / 1000};
	struct addrinfo hints = {.ai_socktype = options->udp ? SOCK_DGRAM : SOCK_STREAM};
	struct addrinfo *address;
	int error = getaddrinfo(options->host, options->port, &hints, &address);
	int fd;

	if (error)
		die(STATUS_FAILED, "%s port %s: %s", options->host, options->port,
		    gai_strerror(error));
	fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, address->ai_addr, address->ai_addrlen) < 0)
		die(STATUS_FAILED, "cannot connect to %s port %s: %s", options->host, options->port,
		    strerror(errno));
	freeaddrinfo(address);
	if (options->udp)
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	else
		nodelay_set(fd);
	return fd;
}

/* One round trip by UDP. Returns 0, -EAGAIN if the message was lost, or another -errno. */
static int datagram_exchange(struct run *run)
{
	uint64_t number;

	if (send(run->fd, run->message, run->options->size, 0) < 0)
		return -errno;
	do {
		ssize_t got = recv(run->fd, run->message, run->options->size, 0);

		if (got < 0 && errno != EINTR)
			return -errno;
		memcpy(&number, run->message, sizeof(number));
	} while (number != run->number);
	return 0;
}

static int stream_exchange(struct run *run)
{
	int result = message_write(run->fd, run->message, run->options->size);

	return result < 0 ? result : message_read(run->fd, run->message, run->options->size);
}

static int connection_exchange(struct run *run)
{
	const struct linger reset = {.l_onoff = 1};
	int result;

	run->fd = client_connect(run->options);
	setsockopt(run->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	result = stream_exchange(run);
	close(run->fd);
	return result;
}

static int message_exchange(struct run *run)
{
	if (run->options->connect)
		return connection_exchange(run);
	return run->options->udp ? datagram_exchange(run) : stream_exchange(run);
}

/* One round trip. Returns its nanoseconds, or 0 if the message was lost. */
static uint32_t exchange(struct run *run)
{
	uint64_t begun, taken;
	int result;

	run->number++;
	memcpy(run->message, &run->number, sizeof(run->number));
	begun = now_ns();
	result = message_exchange(run);
	taken = now_ns() - begun;
	if (result == -EAGAIN)
		return 0;
	if (result < 0)
		die(STATUS_FAILED, "%s port %s: %s", run->options->host, run->options->port,
		    strerror(-result));
	return taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
}

/* Exchanges messages until one of the limits is reached. Returns the seconds that it took. */
static double client_measure(struct run *run)
{
	const struct options *options = run->options;
	const struct timespec pause = {.tv_sec = (time_t)(options->pause / 1000),
				       .tv_nsec = (long)(options->pause % 1000) * 1000000};
	uint64_t begun, end;
	int missing = 0;

	for (int i = 0; i < WARM_UP; i++)
		exchange(run);
	begun = now_ns();
	end = options->seconds > 0 ? begun + (uint64_t)(options->seconds * 1e9) : UINT64_MAX;
	while (run->counted < options->count && missing < LOST_IN_A_ROW && now_ns() < end) {
		uint32_t sample;

		/* Even a sleep of no time would be one of 50 us, the timer's slack. */
		if (options->pause)
			nanosleep(&pause, NULL);
		sample = exchange(run);
		missing = sample ? 0 : missing + 1;
		if (sample)
			run->samples[run->counted++] = sample;
		else
			run->lost++;
	}
	return (double)(now_ns() - begun) / 1e9;
}

static int sample_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The sample in microseconds that @percent of the sorted samples do not exceed. */
static double percentile(const struct run *run, double percent)
{
	size_t index = (size_t)((double)run->counted * percent / 100);

	return run->samples[index < run->counted ? index : run->counted - 1] / 1e3;
}

static double mean(const struct run *run)
{
	double sum = 0;

	for (size_t i = 0; i < run->counted; i++)
		sum += run->samples[i];
	return sum / (double)run->counted / 1e3;
}

static void result_print(struct run *run, double seconds)
{
	const struct options *options = run->options;
	const char *format =
	    options->json
		? "{\"protocol\": \"%s\", \"size\": %zu, \"count\": %zu, \"lost\": %zu, "
		  "\"seconds\": %.3f, \"min_us\": %.1f, \"mean_us\": %.1f, \"p50_us\": %.1f, "
		  "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n"
		: "%s %zu bytes: %zu round trips, %zu lost, %.3f s; "
		  "min %.1f mean %.1f p50 %.1f p99 %.1f p99.9 %.1f max %.1f us\n";

	qsort(run->samples, run->counted, sizeof(run->samples[0]), sample_compare);
	printf(format, options->udp ? "udp" : "tcp", options->size, run->counted, run->lost,
	       seconds, percentile(run, 0), mean(run), percentile(run, 50), percentile(run, 99),
	       percentile(run, 99.9), percentile(run, 100));
}

static void client_run(const struct options *options)
{
	struct run run = {.options = options,
			  .fd = options->connect ? -1 : client_connect(options)};
	double seconds;

	run.message = calloc(1, options->size);
	run.samples = malloc(options->count * sizeof(run.samples[0]));
	if (!run.message || !run.samples)
		die(STATUS_FAILED, "out of memory; try a smaller --count");
	memset(run.samples, 0xff, options->count * sizeof(run.samples[0]));
	seconds = client_measure(&run);
	if (run.counted == 0)
		die(STATUS_FAILED, "no answer from %s port %s", options->host, options->port);
	result_print(&run, seconds);
	free(run.samples);
	free(run.message);
	if (!options->connect)
		close(run.fd);
}

static size_t number_parse(const char *option, const char *text, size_t least, size_t most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || value < least || value > most)
		die(STATUS_USAGE, "--%s wants a number from %zu to %zu, not '%s'", option, least,
		    most, text);
	return value;
}

static double seconds_parse(const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (*text < '0' || *text > '9' || *end || !(value > 0 && value < 1e6))
		die(STATUS_USAGE, "--seconds wants a number above 0, not '%s'", text);
	return value;
}

static void options_parse(struct options *options, int argc, char **argv)
{
	static const struct option names[] = {
	    {"server", no_argument, NULL, 's'},	     {"tcp", no_argument, NULL, 't'},
	    {"udp", no_argument, NULL, 'u'},	     {"size", required_argument, NULL, 'l'},
	    {"count", required_argument, NULL, 'n'}, {"seconds", required_argument, NULL, 'S'},
	    {"port", required_argument, NULL, 'p'},  {"json", no_argument, NULL, 'j'},
	    {"help", no_argument, NULL, 'h'},	     {"connect", no_argument, NULL, 'c'},
	    {"pause", required_argument, NULL, 'P'}, {NULL, 0, NULL, 0},
	};
	bool server = false;
	int letter;

	while ((letter = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (letter) {
		case 's':
			server = true;
			break;
		case 't':
			options->udp = false;
			break;
		case 'u':
			options->udp = true;
			break;
		case 'c':
			options->connect = true;
			break;
		case 'P':
			options->pause = number_parse("pause", optarg, 0, PAUSE_MAX);
			break;
		case 'l':
			options->size = number_parse("size", optarg, 8, SIZE_MAX_TCP);
			break;
		case 'n':
			options->count = number_parse("count", optarg, 1, COUNT_MAX);
			break;
		case 'S':
			options->seconds = seconds_parse(optarg);
			break;
		case 'p':
			options->port = optarg;
			break;
		case 'j':
			options->json = true;
			break;
		case 'h':
			fputs(usage_text, stdout);
			exit(EXIT_SUCCESS);
		default:
			die(STATUS_USAGE, "see pingpong --help");
		}
	}
	if (argc - optind != (server ? 0 : 1))
		die(STATUS_USAGE, "give either --server or one HOST; see pingpong --help");
	options->host = server ? NULL : argv[optind];
	if (options->connect && options->udp)
		die(STATUS_USAGE, "--connect is for TCP; see pingpong --help");
	if (options->udp && options->size > SIZE_MAX_UDP)
		die(STATUS_USAGE, "--size is at most %d with --udp", SIZE_MAX_UDP);
	if (options->count == 0)
		options->count = options->seconds > 0 ? COUNT_MAX : DEFAULT_COUNT;
}

int main(int argc, char **argv)
{
	struct options options = {.port = DEFAULT_PORT, .size = DEFAULT_SIZE};

	options_parse(&options, argc, argv);
	signal(SIGPIPE, SIG_IGN);
	if (options.host)
		client_run(&options);
	else
		server_run(&options);
	return EXIT_SUCCESS;
}
