/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What UDP between two processes can carry at best, by the means that a UDP link has: UDP_SEGMENT
 * to send many datagrams with one system call, UDP_GRO to receive them so. Between two hosts it
 * measures what their wire can do, between two guests what is between them.
 *
 * Theory of operation: where the interface computes no checksums the kernel refuses UDP_SEGMENT
 * with EIO; then a call sends as many datagrams by sendmmsg(). The receiver counts from the first
 * datagram on, says what it got in one line of JSON once nothing has come for QUIET_MS, and ends.
 * It gives up when nothing ever comes. One thread, blocking calls. Both sides take as many buffers
 * in turn as they are told to: one stays in the cache, as many as a guest's ring has do not.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define DATAGRAM_MAX   65507u
#define SEGMENTS_MAX   64u /* UDP_MAX_SEGMENTS of older kernels */
#define QUIET_MS       300
#define FIRST_SECONDS  30
#define RECEIVE_BUFFER (8 << 20)
#define BUFFER_SIZE    65536u
#define BUFFERS_MAX    4096

struct buffers {
	uint8_t *memory;
	unsigned count, next;
};

struct tally {
	uint64_t bytes, datagrams, calls;
	uint64_t begin, end; /* ns */
};

static void die(const char *what)
{
	fprintf(stderr, "udp_gso: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Written once, or all of it were the one page of zeros. */
static struct buffers buffers_make(unsigned count)
{
	struct buffers buffers = {malloc((size_t)count * BUFFER_SIZE), count, 0};

	if (!buffers.memory)
		die("buffers");
	memset(buffers.memory, 1, (size_t)count * BUFFER_SIZE);
	return buffers;
}

static uint8_t *buffer_next(struct buffers *buffers)
{
	return buffers->memory + (size_t)(buffers->next++ % buffers->count) * BUFFER_SIZE;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static struct sockaddr_in address_of(const char *address, const char *port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	if (inet_pton(AF_INET, address, &in.sin_addr) != 1) {
		errno = EINVAL;
		die(address);
	}
	return in;
}

static void timeout_set(int fd, int milliseconds)
{
	struct timeval limit = {milliseconds / 1000, milliseconds % 1000 * 1000};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* Count what one call received: @size bytes, cut to datagrams as the control message says. */
static void tally_add(struct tally *tally, const struct msghdr *message, size_t size)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(message);
	int segment = (int)size;

	if (control && control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO)
		memcpy(&segment, CMSG_DATA(control), sizeof(segment));
	tally->end = now_ns();
	if (!tally->calls++)
		tally->begin = tally->end;
	tally->bytes += size;
	tally->datagrams += segment > 0 ? (size + (size_t)segment - 1) / (size_t)segment : 1;
}

static int receive(const struct sockaddr_in *address, struct buffers *buffers)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1, size = RECEIVE_BUFFER;
	struct tally tally = {0};

	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		die("bind");
	setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	timeout_set(fd, FIRST_SECONDS * 1000);
	puts("ready");
	fflush(stdout);
	for (;;) {
		char control[CMSG_SPACE(sizeof(int))];
		struct iovec iov = {buffer_next(buffers), BUFFER_SIZE};
		struct msghdr message = {.msg_iov = &iov,
					 .msg_iovlen = 1,
					 .msg_control = control,
					 .msg_controllen = sizeof(control)};
		ssize_t got = recvmsg(fd, &message, 0);

		if (got < 0)
			break;
		tally_add(&tally, &message, (size_t)got);
		if (tally.calls == 1)
			timeout_set(fd, QUIET_MS);
	}
	printf("{\"bytes\": %llu, \"datagrams\": %llu, \"calls\": %llu, \"seconds\": %.6f}\n",
	       (unsigned long long)tally.bytes, (unsigned long long)tally.datagrams,
	       (unsigned long long)tally.calls, (double)(tally.end - tally.begin) / 1e9);
	return tally.calls ? 0 : 1;
}

/* Send @count datagrams of @size bytes, one by one, with one system call. */
static int datagrams_send(int fd, uint8_t *data, unsigned size, unsigned count)
{
	struct iovec iov = {data, size};
	struct mmsghdr messages[SEGMENTS_MAX] = {0};

	for (unsigned i = 0; i < count; i++)
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
	return sendmmsg(fd, messages, count, 0);
}

static int transmit(const struct sockaddr_in *address, unsigned size, double seconds,
		    struct buffers *buffers)
{
	unsigned count = DATAGRAM_MAX / size < SEGMENTS_MAX ? DATAGRAM_MAX / size : SEGMENTS_MAX;
	uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), segment = (int)size;
	bool together = true;

	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		die("connect");
	if (count > 1 && setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment)) < 0)
		die("UDP_SEGMENT");
	while (now_ns() < end) {
		uint8_t *buffer = buffer_next(buffers);
		ssize_t sent = together ? send(fd, buffer, (size_t)count * size, 0)
					: datagrams_send(fd, buffer, size, count);

		if (sent < 0 && errno == EIO && together) {
			together = false;
			segment = 0;
			setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment));
		} else if (sent < 0 && errno != ENOBUFS) {
			die("send");
		}
	}
	return 0;
}

/* An argument from 1 to @max. */
static unsigned number_of(const char *text, unsigned max)
{
	int number = atoi(text);

	if (number < 1 || number > (int)max) {
		errno = ERANGE;
		die(text);
	}
	return (unsigned)number;
}

int main(int argc, char **argv)
{
	bool sends = argc >= 6 && !strcmp(argv[1], "send");
	int fixed = sends ? 6 : 4, status;
	struct sockaddr_in address;
	struct buffers buffers;

	if (argc < fixed || argc > fixed + 1 || (!sends && strcmp(argv[1], "receive"))) {
		fputs("Usage: udp_gso receive ADDRESS PORT [BUFFERS]\n"
		      "       udp_gso send ADDRESS PORT BYTES SECONDS [BUFFERS]\n"
		      "Sends datagrams of BYTES as fast as it can; the receiver says what came.\n"
		      "BUFFERS of 64 KiB are taken in turn (1).\n",
		      stderr);
		return 2;
	}
	address = address_of(argv[2], argv[3]);
	buffers = buffers_make(argc > fixed ? number_of(argv[fixed], BUFFERS_MAX) : 1);
	status = sends
		     ? transmit(&address, number_of(argv[4], DATAGRAM_MAX), atof(argv[5]), &buffers)
		     : receive(&address, &buffers);
	free(buffers.memory);
	return status;
}
