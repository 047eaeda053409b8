/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checksums, checking, splitting and joining: against slow references, and against the kernel's own
 * segmentation, through two taps on a bridge in a network namespace of its own. Row names such as
 * B5 are those of the list of hostile inputs.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vnet/offload.h"

#define FIN  0x01
#define PSH  0x08
#define ACK  0x10
#define ECE  0x40
#define CWR  0x80
#define CSUM VIRTIO_NET_HDR_F_NEEDS_CSUM
#define TSO4 VIRTIO_NET_HDR_GSO_TCPV4
#define TSO6 VIRTIO_NET_HDR_GSO_TCPV6
#define USO  VIRTIO_NET_HDR_GSO_UDP_L4
#define ECN  VIRTIO_NET_HDR_GSO_ECN

#define ALL_OFFLOADS PORT_OFFLOADS

/* --- frames ---------------------------------------------------------------------------------- */

/* What a frame is to be. */
struct recipe {
	unsigned version; /* of IP */
	bool udp;
	unsigned tags;
	unsigned ip_more; /* bytes of IPv4 options, or of an IPv6 extension header (8 or more) */
	unsigned tcp_options; /* bytes */
	uint8_t flags;	      /* of TCP; ACK is added */
	uint16_t id;
	bool dont_fragment;
	uint32_t sequence;
	uint32_t payload;
	uint16_t gso_size;
};

struct made {
	struct frame frame;
	struct iovec iov[64];
	unsigned l3, l4, payload;
	uint8_t bytes[FRAME_SIZE_MAX + 64];
};

static void put16(uint8_t *at, unsigned value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static unsigned get16(const uint8_t *at)
{
	return at[0] << 8 | at[1];
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value);
}

/* RFC 1071 as it is written, two bytes at a time. */
static uint16_t slow_sum(const uint8_t *at, size_t len, uint32_t sum)
{
	for (size_t i = 0; i < len; i++) {
		sum += i % 2 ? at[i] : at[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static uint16_t slow_pseudo(const uint8_t *ip, unsigned protocol, unsigned len)
{
	if (ip[0] >> 4 == 4)
		return slow_sum(ip + 12, 8, protocol + len);
	return slow_sum(ip + 8, 32, protocol + len);
}

/* The frame in pieces of @cut bytes (0: one) behind its Ethernet header. */
static void made_cut(struct made *made, unsigned cut)
{
	uint32_t at = FRAME_HEADER;
	unsigned n = 1;

	made->iov[0] = (struct iovec){made->frame.eth, FRAME_HEADER};
	while (at < made->frame.len) {
		uint32_t len = made->frame.len - at;

		if (cut && len > cut && n < 63)
			len = cut;
		made->iov[n++] = (struct iovec){made->bytes + at, len};
		at += len;
	}
	made->frame.iov = made->iov;
	made->frame.iovcnt = n;
}

static unsigned lay_ip(struct made *made, const struct recipe *r, unsigned at, unsigned len)
{
	uint8_t *ip = made->bytes + at, protocol = r->udp ? IPPROTO_UDP : IPPROTO_TCP;

	if (r->version == 4) {
		ip[0] = 0x45 + r->ip_more / 4;
		put16(ip + 2, 20 + r->ip_more + len);
		put16(ip + 4, r->id);
		ip[6] = r->dont_fragment ? 0x40 : 0;
		ip[8] = 64;
		ip[9] = protocol;
		memcpy(ip + 12, (uint8_t[]){10, 0, 0, 1, 10, 0, 0, 2}, 8);
		memset(ip + 20, 1, r->ip_more); /* no operation */
		put16(ip + 10, ~slow_sum(ip, 20 + r->ip_more, 0));
		return at + 20 + r->ip_more;
	}
	ip[0] = 0x60;
	put16(ip + 4, r->ip_more + len);
	ip[6] = protocol;
	ip[7] = 64;
	memcpy(ip + 8, (uint8_t[16]){0xfd, 0, 1, 2, [15] = 1}, 16);
	memcpy(ip + 24, (uint8_t[16]){0xfd, 0, 1, 2, [15] = 2}, 16);
	if (r->ip_more) { /* destination options: padding */
		ip[6] = IPPROTO_DSTOPTS;
		ip[40] = protocol;
		ip[41] = r->ip_more / 8 - 1;
		ip[42] = 1;
		ip[43] = r->ip_more - 4;
	}
	return at + 40 + r->ip_more;
}

static void lay_tcp(uint8_t *tcp, const struct recipe *r)
{
	memcpy(tcp, (uint8_t[]){0x12, 0x34, 0, 80}, 4);
	put32(tcp + 4, r->sequence);
	memcpy(tcp + 8, (uint8_t[]){1, 2, 3, 4}, 4);
	tcp[12] = (20 + r->tcp_options) / 4 << 4;
	tcp[13] = r->flags | ACK;
	put16(tcp + 14, 8192);
	memset(tcp + 20, 1, r->tcp_options);
	if (r->tcp_options >= 12)
		memcpy(tcp + 22, (uint8_t[]){8, 10, 0, 0, 1, 2, 0, 0, 3, 4}, 10);
}

static void lay_udp(uint8_t *udp, unsigned len)
{
	memcpy(udp, (uint8_t[]){0x12, 0x34, 0, 53}, 4);
	put16(udp + 4, len);
}

/* A frame as a guest's stack makes it: partial checksum, GSO if gso_size is set. */
static struct made *make(const struct recipe *r)
{
	struct made *made = calloc(1, sizeof(*made));
	unsigned l4_size = r->udp ? 8 : 20 + r->tcp_options, len = l4_size + r->payload;
	unsigned at = 12;

	cr_assert_not_null(made);
	memcpy(made->bytes, (uint8_t[]){0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1}, 12);
	for (unsigned i = 0; i < r->tags; i++, at += 4)
		put32(made->bytes + at, (i + 1 < r->tags ? 0x88a8u : 0x8100u) << 16 | (100 + i));
	put16(made->bytes + at, r->version == 4 ? 0x0800 : 0x86dd);
	made->l3 = at + 2;
	made->l4 = lay_ip(made, r, made->l3, len);
	made->payload = made->l4 + l4_size;
	if (r->udp)
		lay_udp(made->bytes + made->l4, len);
	else
		lay_tcp(made->bytes + made->l4, r);
	for (uint32_t i = 0; i < r->payload; i++)
		made->bytes[made->payload + i] = i * 7 + i / 251 + r->id;
	made->frame.len = made->payload + r->payload;
	made->frame.hops = 9;
	made->frame.offload = (struct frame_offload){
	    .flags = CSUM, .csum_start = made->l4, .csum_offset = r->udp ? 6 : 16};
	if (r->gso_size) {
		made->frame.offload.gso_type = r->udp ? USO : r->version == 4 ? TSO4 : TSO6;
		if (r->flags & CWR)
			made->frame.offload.gso_type |= ECN;
		made->frame.offload.gso_size = r->gso_size;
		made->frame.offload.hdr_len = made->payload;
	}
	put16(made->bytes + made->l4 + made->frame.offload.csum_offset,
	      slow_pseudo(made->bytes + made->l3, r->udp ? IPPROTO_UDP : IPPROTO_TCP, len));
	memcpy(made->frame.eth, made->bytes, FRAME_HEADER);
	made_cut(made, 0);
	return made;
}

static const struct recipe recipes[] = {
    {.version = 4, .payload = 10000, .gso_size = 1448, .tcp_options = 12},
    {.version = 6, .payload = 10000, .gso_size = 1428, .tcp_options = 12},
    {.version = 4, .payload = 65000, .gso_size = 1460, .flags = FIN | PSH, .id = 65530},
    {.version = 6, .payload = 65000, .gso_size = 8900, .flags = FIN | PSH},
    {.version = 4, .payload = 65535 - 40, .gso_size = 1000, .flags = CWR | PSH},
    {.version = 6, .payload = 65535 - 20, .gso_size = 1001, .flags = CWR | ECE},
    {.version = 4, .payload = 30001, .gso_size = 999, .sequence = 0xfffffff0, .tags = 1},
    {.version = 6, .payload = 30000, .gso_size = 1000, .tags = 1},
    {.version = 4, .payload = 3000, .gso_size = 1000, .tags = 2, .dont_fragment = true},
    {.version = 6, .payload = 3000, .gso_size = 1400, .tags = 2},
    {.version = 4, .payload = 3000, .gso_size = 1000, .ip_more = 40, .tcp_options = 40},
    {.version = 6, .payload = 3000, .gso_size = 1000, .ip_more = 8, .tcp_options = 40},
    {.version = 6, .payload = 3000, .gso_size = 1000, .ip_more = 64},
    {.version = 4, .payload = 2000, .gso_size = 100, .id = 7, .dont_fragment = true},
    {.version = 4, .payload = 2001, .gso_size = 1000, .flags = PSH | 0x20},
    {.version = 4, .payload = 1000, .gso_size = 1000},
    {.version = 4, .payload = 1001, .gso_size = 1000},
    {.version = 4, .payload = 10000, .gso_size = 1472, .udp = true},
    {.version = 6, .payload = 10000, .gso_size = 1452, .udp = true},
    {.version = 4, .payload = 32001, .gso_size = 1000, .udp = true, .tags = 1, .id = 65535},
    {.version = 6, .payload = 32000, .gso_size = 1001, .udp = true, .ip_more = 16},
    {.version = 4, .payload = 100, .tcp_options = 12},
    {.version = 6, .payload = 1400},
    {.version = 4, .payload = 0},
    {.version = 4, .payload = 0, .udp = true},
    {.version = 6, .payload = 1001, .udp = true, .tags = 2},
};
#define RECIPES (sizeof(recipes) / sizeof(recipes[0]))

/* --- checksum -------------------------------------------------------------------------------- */

Test(offload, checksum_equals_the_slow_one)
{
	static uint8_t bytes[5000];
	uint32_t seed = 1;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (seed = seed * 1664525 + 1013904223) >> 24;
	for (unsigned round = 0; round < 20000; round++) {
		struct iovec iov[8];
		size_t offset, len, at = 0;

		for (unsigned i = 0; i < 8; i++) {
			size_t n = (seed = seed * 1664525 + 1013904223) >> 16;

			n %= round % 3 ? 600 : 5;
			iov[i] = (struct iovec){bytes + at, n};
			at += n;
		}
		offset = at ? seed % at : 0;
		len = (seed >> 8) % (at - offset + 1);
		cr_assert_eq(offload_checksum(iov, 8, offset, len, htons(round & 0xffff)),
			     htons(slow_sum(bytes + offset, len, round & 0xffff)));
	}
}

Test(offload, checksum_of_ones_keeps_its_carries)
{
	static uint8_t ones[65536];
	struct iovec iov = {ones, sizeof(ones)};

	memset(ones, 0xff, sizeof(ones));
	cr_assert_eq(offload_checksum(&iov, 1, 0, sizeof(ones), 0xffffffff), 0xffff);
	memset(ones, 0, sizeof(ones));
	cr_assert_eq(offload_checksum(&iov, 1, 0, sizeof(ones), 0), 0);
	cr_assert_eq(offload_checksum(&iov, 0, 0, 100, 5), 5);
	cr_assert_eq(offload_checksum(&iov, 1, sizeof(ones), 100, 5), 5);
}

/* --- check ----------------------------------------------------------------------------------- */

Test(offload, check_accepts_what_stacks_send)
{
	for (unsigned i = 0; i < RECIPES; i++) {
		struct made *made = make(&recipes[i]);

		cr_assert(offload_check(&made->frame), "recipe %u", i);
		made_cut(made, 1);
		cr_assert(offload_check(&made->frame), "recipe %u in bytes", i);
		made->frame.offload.hdr_len = 0;
		cr_assert(offload_check(&made->frame), "recipe %u without hdr_len", i);
		made->frame.offload = (struct frame_offload){0};
		cr_assert(offload_check(&made->frame));
		cr_assert_eq(offload_needs(&made->frame), 0);
		made->frame.offload.flags = VIRTIO_NET_HDR_F_DATA_VALID;
		cr_assert(offload_check(&made->frame));
		cr_assert_eq(offload_needs(&made->frame), 0);
		free(made);
	}
}

/* A frame of @recipe with one byte of it, or its offload state, changed. */
static bool accepts(const struct recipe *r, unsigned at, uint8_t value)
{
	struct made *made = make(r);
	bool accepted;

	made->bytes[at] = value;
	memcpy(made->frame.eth, made->bytes, FRAME_HEADER);
	accepted = offload_check(&made->frame);
	free(made);
	return accepted;
}

static bool accepts_offload(const struct recipe *r, struct frame_offload offload)
{
	struct made *made = make(r);
	bool accepted;

	made->frame.offload = offload;
	accepted = offload_check(&made->frame);
	free(made);
	return accepted;
}

/* What a kernel on the same host left to a NIC is found again; what is finished stays as it is. */
Test(offload, recognized_as_it_was)
{
	unsigned found = 0;

	for (unsigned i = 0; i < RECIPES; i++) {
		struct made *made = make(&recipes[i]);
		struct frame *frame = &made->frame;
		const struct frame_offload was = frame->offload;
		bool tcp = was.gso_type && was.gso_type != USO;

		frame->offload = (struct frame_offload){0};
		offload_recognize(frame,
				  tcp ? was.hdr_len - FRAME_HEADER + was.gso_size : frame->len);
		if (frame->offload.flags) {
			cr_assert(offload_check(frame), "recipe %u", i);
			cr_assert_eq(frame->offload.flags, CSUM);
			cr_assert_eq(frame->offload.csum_start, was.csum_start);
			cr_assert_eq(frame->offload.csum_offset, was.csum_offset);
			cr_assert_eq(frame->offload.gso_size,
				     tcp && frame->len > was.hdr_len + was.gso_size ? was.gso_size
										    : 0,
				     "recipe %u", i);
			found++;
		}
		free(made);
	}
	cr_assert_geq(found, RECIPES / 2, "%u of %u", found, (unsigned)RECIPES);
}

static const struct recipe tso4 = {.version = 4, .payload = 5000, .gso_size = 1000};
static const struct recipe tso6 = {.version = 6, .payload = 5000, .gso_size = 1000};
static const struct recipe uso4 = {.version = 4, .udp = true, .payload = 5000, .gso_size = 1000};
static const struct recipe csum4 = {.version = 4, .payload = 100};

Test(offload, a14_lying_headers)
{
	const struct frame_offload good = {CSUM, TSO4, 54, 1000, 34, 16};
	const struct frame_offload lies[] = {
	    {CSUM, TSO4, 54, 0, 34, 16},
	    {0, TSO4, 54, 1000, 34, 16},
	    {CSUM, TSO6, 54, 1000, 34, 16},
	    {CSUM, USO, 54, 1000, 34, 16},
	    {CSUM, 3, 54, 1000, 34, 16},
	    {CSUM, 2, 54, 1000, 34, 16},
	    {CSUM, 0x7f, 54, 1000, 34, 16},
	    {CSUM, ECN, 54, 1000, 34, 16},
	    {CSUM, TSO4, 5055, 1000, 34, 16},
	    {CSUM, TSO4, 65535, 1000, 34, 16},
	    {CSUM, TSO4, 54, 1000, 35, 16},
	    {CSUM, TSO4, 54, 1000, 34, 6},
	    {CSUM, TSO4, 54, 1000, 0, 16},
	    {CSUM, TSO4, 54, 1000, 65535, 16},
	    {CSUM, TSO4, 54, 1000, 34, 65535},
	    {CSUM, TSO4, 54, 2, 34, 16},
	    {CSUM, 0, 0, 0, 13, 0},
	    {CSUM, 0, 0, 0, 0, 0},
	    {CSUM, 0, 0, 0, 5053, 0},
	    {CSUM, 0, 0, 0, 34, 5019},
	    {CSUM, 0, 0, 0, 65535, 65535},
	    {CSUM, 0, 0, 0, 255, 0},
	    {CSUM | 2, 0, 0, 0, 34, 16},
	    {4, 0, 0, 0, 0, 0},
	    {0x80, 0, 0, 0, 0, 0},
	    {CSUM | 4, 0, 0, 0, 34, 16},
	};
	struct frame_offload uso_ecn = {CSUM, USO | ECN, 42, 1000, 34, 6};

	cr_assert(accepts_offload(&tso4, good));
	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++)
		cr_assert_not(accepts_offload(&tso4, lies[i]), "lie %u", i);
	cr_assert_not(accepts_offload(&uso4, uso_ecn));
	uso_ecn.gso_type = USO;
	cr_assert(accepts_offload(&uso4, uso_ecn));
}

Test(offload, a14_the_checksum_lies_in_the_frame)
{
	struct frame_offload offload = {CSUM, 0, 0, 0, 34, 0};
	const unsigned len = 54 + 100;

	for (unsigned start = 0; start < len + 10; start++)
		for (unsigned offset = 0; offset < len + 10; offset++) {
			offload.csum_start = start;
			offload.csum_offset = offset;
			if (start % 7 && offset % 5)
				continue;
			cr_assert_eq(accepts_offload(&csum4, offload),
				     start >= 14 && start + offset + 2 <= len);
		}
}

Test(offload, b5_inner_packets)
{
	static const struct {
		const struct recipe *recipe;
		unsigned at;
		uint8_t value;
	} bad[] = {
	    {&tso4, 12, 0x86},	    /* EtherType: nothing we know */
	    {&tso4, 14, 0x65},	    /* version */
	    {&tso4, 14, 0x44},	    /* IHL under 5 */
	    {&tso4, 14, 0x4f},	    /* options where TCP should be */
	    {&tso4, 16, 0},	    /* total length under the frame's */
	    {&tso4, 16, 0xff},	    /* over it */
	    {&tso4, 17, 0},	    /* a little less: trailing bytes */
	    {&tso4, 20, 0x20},	    /* more fragments */
	    {&tso4, 21, 1},	    /* a fragment */
	    {&tso4, 23, 17},	    /* TCP segmentation of UDP */
	    {&tso4, 23, 47},	    /* of something else */
	    {&tso4, 34 + 12, 0x40}, /* data offset under 5 */
	    {&tso6, 14, 0x40},	    /* version */
	    {&tso6, 18, 0},	    /* payload length */
	    {&tso6, 20, 44},	    /* a fragment header */
	    {&tso6, 20, 0},	    /* hop-by-hop options, which TCP's header is not */
	    {&tso6, 20, 43},	    /* routing header likewise */
	    {&tso6, 20, 50},	    /* encrypted */
	    {&tso6, 20, 59},	    /* nothing follows */
	    {&uso4, 34 + 4, 0},	    /* UDP length */
	    {&uso4, 34 + 5, 1},
	};

	cr_assert(accepts(&tso4, 0, 0x52) && accepts(&tso6, 0, 0x52) && accepts(&uso4, 0, 0x52));
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_not(accepts(bad[i].recipe, bad[i].at, bad[i].value), "row %u", i);
}

Test(offload, b5_tags_and_extension_headers_without_end)
{
	struct made *made = make(&tso6);

	for (unsigned i = 12; i + 4 < 300; i += 4)
		put16(made->bytes + i, 0x8100);
	memcpy(made->frame.eth, made->bytes, FRAME_HEADER);
	cr_assert_not(offload_check(&made->frame));
	free(made);

	for (unsigned size = 0; size < 256; size++) {
		made = make(&tso6);
		made->bytes[20] = IPPROTO_DSTOPTS;
		for (unsigned i = 54; i < made->frame.len; i += 8 * (size + 1)) {
			made->bytes[i] = IPPROTO_DSTOPTS;
			made->bytes[i + 1] = size;
		}
		cr_assert_not(offload_check(&made->frame));
		free(made);
	}
}

/* Options of TCP are carried, whatever they say: of length 0, 1, or past the header. */
Test(offload, b5_tcp_options_without_end)
{
	static const struct recipe r = {
	    .version = 4, .payload = 3000, .gso_size = 1000, .tcp_options = 12};
	struct offload_split *split = offload_split_create();
	struct frame *pieces[FRAME_BATCH_MAX];

	for (unsigned size = 0; size < 256; size++) {
		struct made *made = make(&r);
		uint8_t options[12] = {5, (uint8_t)size, 8, (uint8_t)size};

		memcpy(made->bytes + made->l4 + 20, options, sizeof(options));
		cr_assert(offload_check(&made->frame));
		offload_split_start(split, &made->frame);
		cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 3);
		for (unsigned i = 0; i < 3; i++)
			cr_assert_arr_eq((uint8_t *)pieces[i]->iov[0].iov_base + made->l4 + 20,
					 options, sizeof(options));
		free(made);
	}
	offload_split_destroy(split);
}

/* Frames cut off anywhere, with every state. */
Test(offload, b5_truncated)
{
	for (unsigned i = 0; i < RECIPES; i++) {
		struct made *made = make(&recipes[i]);
		uint32_t whole = made->frame.len, end = made->l4 + made->frame.offload.csum_offset;

		for (uint32_t len = FRAME_SIZE_MIN; len < whole && len < 300; len++) {
			made->frame.len = len;
			made_cut(made, 0);
			cr_assert_eq(offload_check(&made->frame),
				     !recipes[i].gso_size && len >= end + 2);
		}
		free(made);
	}
}

Test(offload, needs)
{
	static const struct {
		uint8_t flags, gso_type;
		uint32_t needs;
	} table[] = {
	    {0, 0, 0},
	    {CSUM, 0, PORT_CSUM},
	    {CSUM, TSO4, PORT_CSUM | PORT_TSO4},
	    {CSUM, TSO6, PORT_CSUM | PORT_TSO6},
	    {CSUM, USO, PORT_CSUM | PORT_USO},
	    {CSUM, TSO4 | ECN, PORT_CSUM | PORT_TSO4 | PORT_ECN},
	    {CSUM, TSO6 | ECN, PORT_CSUM | PORT_TSO6 | PORT_ECN},
	};

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct frame frame = {
		    .offload = {.flags = table[i].flags, .gso_type = table[i].gso_type}};

		cr_assert_eq(offload_needs(&frame), table[i].needs);
	}
}

/* --- split ----------------------------------------------------------------------------------- */

static size_t frame_flatten(const struct frame *frame, uint8_t *to)
{
	size_t n = 0;

	for (unsigned i = 0; i < frame->iovcnt; i++) {
		memcpy(to + n, frame->iov[i].iov_base, frame->iov[i].iov_len);
		n += frame->iov[i].iov_len;
	}
	cr_assert_eq(n, frame->len);
	cr_assert_arr_eq(to, frame->eth, FRAME_HEADER);
	return n;
}

/* Nothing but headers may lie elsewhere than in the whole frame. */
static void assert_not_copied(const struct made *made, const struct frame *piece)
{
	for (unsigned i = 1; i < piece->iovcnt; i++) {
		const uint8_t *at = piece->iov[i].iov_base;

		cr_assert(at >= made->bytes &&
			  at + piece->iov[i].iov_len <= made->bytes + made->frame.len);
	}
}

/* What piece @index of a frame must be, by the slow way. Returns its length. */
static uint32_t expect(const struct made *made, const struct recipe *r, unsigned index, uint8_t *to)
{
	uint32_t size = r->gso_size ? r->gso_size : r->payload, at = index * size;
	uint32_t len = r->payload - at < size ? r->payload - at : size;
	uint8_t *ip = to + made->l3, *l4 = to + made->l4;
	unsigned l4_len = made->payload - made->l4 + len;
	unsigned check = r->udp ? 6 : 16, sum;

	memcpy(to, made->bytes, made->payload);
	memcpy(to + made->payload, made->bytes + made->payload + at, len);
	if (r->version == 4) {
		put16(ip + 2, made->l4 - made->l3 + l4_len);
		put16(ip + 4, r->id + index);
		put16(ip + 10, 0);
		put16(ip + 10, ~slow_sum(ip, made->l4 - made->l3, 0));
	} else {
		put16(ip + 4, made->l4 - made->l3 - 40 + l4_len);
	}
	if (r->udp) {
		put16(l4 + 4, l4_len);
	} else {
		put32(l4 + 4, r->sequence + at);
		if (at + len < r->payload)
			l4[13] &= ~(FIN | PSH);
		if (index)
			l4[13] &= ~CWR;
	}
	put16(l4 + check, 0);
	sum = (uint16_t)~slow_sum(l4, l4_len,
				  slow_pseudo(ip, r->udp ? IPPROTO_UDP : IPPROTO_TCP, l4_len));
	put16(l4 + check, sum || !r->udp ? sum : 0xffff);
	return made->payload + len;
}

static void split_and_compare(const struct recipe *r, unsigned cut, unsigned max)
{
	static uint8_t expected[FRAME_SIZE_MAX], got[FRAME_SIZE_MAX];
	struct offload_split *split = offload_split_create();
	struct frame *pieces[FRAME_BATCH_MAX];
	struct made *made = make(r);
	unsigned n, index = 0;

	made_cut(made, cut);
	offload_split_start(split, &made->frame);
	while ((n = offload_split_next(split, pieces, max))) {
		cr_assert_leq(n, max);
		for (unsigned i = 0; i < n; i++, index++) {
			cr_assert_eq(expect(made, r, index, expected), pieces[i]->len);
			frame_flatten(pieces[i], got);
			cr_assert_arr_eq(got, expected, pieces[i]->len);
			cr_assert_eq(offload_needs(pieces[i]), 0);
			cr_assert_eq(pieces[i]->offload.flags, 0);
			cr_assert_eq(pieces[i]->hops, 9);
			assert_not_copied(made, pieces[i]);
		}
	}
	cr_assert_eq(index, r->gso_size ? (r->payload + r->gso_size - 1) / r->gso_size : 1);
	offload_split_destroy(split);
	free(made);
}

Test(offload, splits_as_the_slow_way_does)
{
	for (unsigned i = 0; i < RECIPES; i++) {
		split_and_compare(&recipes[i], 0, FRAME_BATCH_MAX);
		split_and_compare(&recipes[i], 0, 1);
		split_and_compare(&recipes[i], 1, 3);
		split_and_compare(&recipes[i], 333, FRAME_BATCH_MAX);
		split_and_compare(&recipes[i], 4096, FRAME_BATCH_MAX);
	}
}

Test(offload, splits_into_many_batches)
{
	const struct recipe r = {.version = 4, .payload = 65000, .gso_size = 40};

	split_and_compare(&r, 0, FRAME_BATCH_MAX);
	split_and_compare(&r, 7, FRAME_BATCH_MAX);
}

/* A segmented frame without payload is one frame. */
Test(offload, splits_nothing_into_one)
{
	struct recipe r = {.version = 4, .payload = 0, .gso_size = 100};
	struct offload_split *split = offload_split_create();
	struct frame *pieces[FRAME_BATCH_MAX];
	struct made *made = make(&r);

	cr_assert(offload_check(&made->frame));
	offload_split_start(split, &made->frame);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 1);
	cr_assert_eq(pieces[0]->len, made->frame.len);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 0);
	offload_split_destroy(split);
	free(made);
}

/* Frames of all kinds for one port: what it takes passes, the rest is cut, in order and in full
 * batches. */
Test(offload, splits_a_batch)
{
	static const struct recipe r[] = {
	    {.version = 4, .payload = 100},
	    {.version = 4, .payload = 30000, .gso_size = 1000},
	    {.version = 6, .payload = 30000, .gso_size = 1000},
	    {.version = 4, .payload = 30000, .gso_size = 1000, .udp = true},
	    {.version = 6, .payload = 100, .udp = true},
	};
	struct offload_split *split = offload_split_create();
	struct frame *frames[5], *pieces[FRAME_BATCH_MAX];
	struct made *made[5];

	for (unsigned i = 0; i < 5; i++) {
		made[i] = make(&r[i]);
		frames[i] = &made[i]->frame;
	}
	offload_split_batch(split, frames, 5, PORT_CSUM | PORT_TSO6);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 1 + 30 + 1 + 30 + 1);
	cr_assert_eq(pieces[0], frames[0]);
	cr_assert_eq(get16(pieces[30]->eth + 12), 0x0800);
	cr_assert_eq(pieces[31], frames[2]);
	cr_assert_eq(pieces[62], frames[4]);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 0);

	offload_split_batch(split, frames, 5, 0);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), FRAME_BATCH_MAX);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 92 - FRAME_BATCH_MAX);
	for (unsigned i = 0; i < 28; i++)
		cr_assert_eq(offload_needs(pieces[i]), 0);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 0);

	put16(made[2]->bytes + 54 + 12, 0); /* after the check: a data offset of 0 */
	offload_split_batch(split, frames, 5, PORT_OFFLOADS & ~PORT_TSO6);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 4);
	cr_assert_eq(offload_split_failed(split), 1);
	cr_assert_eq(pieces[2], frames[3]);
	for (unsigned i = 0; i < 5; i++)
		free(made[i]);
	offload_split_destroy(split);
}

/* As many segments as there are bytes: a piece of few of them goes, one of very many does not. */
Test(offload, splits_what_lies_in_single_bytes)
{
	static const struct recipe r = {.version = 4, .payload = 65000, .gso_size = 1448};
	static struct iovec iov[FRAME_SIZE_MAX];
	struct offload_split *split = offload_split_create();
	struct frame *pieces[FRAME_BATCH_MAX];
	struct made *made = make(&r);
	unsigned n, count = 0;

	for (uint32_t i = 0; i < made->frame.len; i++)
		iov[i] = (struct iovec){made->bytes + i, 1};
	made->frame.iov = iov;
	made->frame.iovcnt = made->frame.len;
	offload_split_start(split, &made->frame);
	while ((n = offload_split_next(split, pieces, FRAME_BATCH_MAX)))
		count += n;
	cr_assert_eq(count, 45);
	cr_assert_eq(offload_split_failed(split), 0);
	made->frame.offload.gso_size = 9000;
	offload_split_start(split, &made->frame);
	cr_assert_eq(offload_split_next(split, pieces, FRAME_BATCH_MAX), 0);
	cr_assert_eq(offload_split_failed(split), 1);
	free(made);
	offload_split_destroy(split);
}

/* What a frame's sum must be for the checksum to come out as 0. */
Test(offload, a_udp_checksum_of_zero_is_sent_as_ones)
{
	struct recipe r = {.version = 4, .udp = true, .payload = 2};
	struct offload_split *split = offload_split_create();
	struct frame *piece[1];
	struct made *made = make(&r);
	uint8_t got[100];

	put16(made->bytes + made->payload, ~slow_sum(made->bytes + made->l4, 8, 0));
	offload_split_start(split, &made->frame);
	cr_assert_eq(offload_split_next(split, piece, 1), 1);
	frame_flatten(piece[0], got);
	cr_assert_eq(get16(got + made->l4 + 6), 0xffff);
	offload_split_destroy(split);
	free(made);
}

/* Inner checksums of tunnels: any place, any protocol. */
Test(offload, completes_a_checksum_anywhere)
{
	struct offload_split *split = offload_split_create();
	struct frame *piece[1];
	uint8_t got[200];

	for (unsigned start = 14; start < 120; start++)
		for (unsigned offset = 0; start + offset + 2 <= 154; offset += 3) {
			struct made *made = make(&csum4);
			unsigned sum;

			made->frame.offload.csum_start = start;
			made->frame.offload.csum_offset = offset;
			sum = (uint16_t)~slow_sum(made->bytes + start, 154 - start, 0);
			cr_assert(offload_check(&made->frame));
			made_cut(made, start % 2 ? 1 : 0);
			offload_split_start(split, &made->frame);
			cr_assert_eq(offload_split_next(split, piece, 1), 1);
			frame_flatten(piece[0], got);
			cr_assert_eq(get16(got + start + offset), sum ? sum : 0xffff);
			put16(made->bytes + start + offset, sum ? sum : 0xffff);
			cr_assert_arr_eq(got, made->bytes, 154);
			free(made);
		}
	offload_split_destroy(split);
}

/* The guest writes over its frame after it was checked: nothing, or pieces, but no harm. */
Test(offload, a16_headers_that_change_after_the_check)
{
	static uint8_t got[FRAME_SIZE_MAX];
	struct offload_split *split = offload_split_create();
	struct frame *pieces[FRAME_BATCH_MAX];

	for (unsigned at = 14; at < 70; at++)
		for (unsigned value = 0; value < 256; value++) {
			struct made *made = make(at % 2 ? &tso4 : &tso6);
			unsigned n, total = 0;

			made->bytes[at] = value;
			offload_split_start(split, &made->frame);
			while ((n = offload_split_next(split, pieces, FRAME_BATCH_MAX)))
				for (unsigned i = 0; i < n; i++)
					total += frame_flatten(pieces[i], got) ? 1 : 0;
			cr_assert_leq(total, 6);
			free(made);
		}
	offload_split_destroy(split);
}

/* --- merge ----------------------------------------------------------------------------------- */

/* The pieces of a frame, each with its own memory, as a link would receive them. */
struct pieces {
	unsigned n;
	struct frame frame[FRAME_BATCH_MAX], *frames[FRAME_BATCH_MAX];
	struct iovec iov[FRAME_BATCH_MAX];
	uint8_t bytes[FRAME_BATCH_MAX][10000];
};

static struct pieces *pieces_of(const struct recipe *r)
{
	struct pieces *pieces = calloc(1, sizeof(*pieces));
	struct offload_split *split = offload_split_create();
	struct frame *cut[FRAME_BATCH_MAX];
	struct made *made = make(r);

	offload_split_start(split, &made->frame);
	pieces->n = offload_split_next(split, cut, FRAME_BATCH_MAX);
	for (unsigned i = 0; i < pieces->n; i++) {
		pieces->frame[i] = *cut[i];
		pieces->iov[i] =
		    (struct iovec){pieces->bytes[i], frame_flatten(cut[i], pieces->bytes[i])};
		pieces->frame[i].iov = &pieces->iov[i];
		pieces->frame[i].iovcnt = 1;
		pieces->frames[i] = &pieces->frame[i];
	}
	offload_split_destroy(split);
	free(made);
	return pieces;
}

/* Correct the checksums of a piece that was changed. */
static void piece_finish(struct pieces *pieces, unsigned i)
{
	uint8_t *at = pieces->bytes[i], *ip = at + 14, *l4;
	unsigned protocol, l4_len, check;

	if (ip[0] >> 4 == 4) {
		l4 = ip + (ip[0] & 15) * 4;
		protocol = ip[9];
		put16(ip + 10, 0);
		put16(ip + 10, ~slow_sum(ip, l4 - ip, 0));
		l4_len = get16(ip + 2) - (l4 - ip);
	} else {
		l4 = ip + 40;
		protocol = ip[6];
		l4_len = get16(ip + 4);
	}
	check = protocol == IPPROTO_UDP ? 6 : 16;
	put16(l4 + check, 0);
	put16(l4 + check, ~slow_sum(l4, l4_len, slow_pseudo(ip, protocol, l4_len)));
	memcpy(pieces->frame[i].eth, at, FRAME_HEADER);
}

Test(offload, joining_undoes_splitting)
{
	static uint8_t got[FRAME_SIZE_MAX];
	struct offload_merge *merge = offload_merge_create();

	for (unsigned i = 0; i < RECIPES; i++) {
		const struct recipe *r = &recipes[i];
		struct pieces *pieces;
		struct made *made;
		unsigned count;

		if (!r->gso_size || r->payload <= r->gso_size || r->ip_more ||
		    r->payload / r->gso_size >= FRAME_BATCH_MAX || r->flags & ~PSH)
			continue;
		made = make(r);
		pieces = pieces_of(r);
		count = offload_merge_batch(merge, pieces->frames, pieces->n, ALL_OFFLOADS);
		cr_assert_eq(count, 1, "recipe %u: %u frames", i, count);
		cr_assert(offload_check(pieces->frames[0]));
		cr_assert_eq(frame_flatten(pieces->frames[0], got), made->frame.len);
		cr_assert_arr_eq(got, made->bytes, made->frame.len);
		cr_assert_arr_eq(&pieces->frames[0]->offload, &made->frame.offload,
				 sizeof(struct frame_offload));
		cr_assert_eq(pieces->frames[0]->hops, 9);
		free(pieces);
		free(made);
	}
	offload_merge_destroy(merge);
}

/* How many frames are left of a split frame whose piece 2 had a byte changed, checksums made right?
 */
static unsigned joined_with(const struct recipe *r, unsigned at, uint8_t value, uint32_t offloads)
{
	struct offload_merge *merge = offload_merge_create();
	struct pieces *pieces = pieces_of(r);
	unsigned left;

	if (at) {
		pieces->bytes[2][at] ^= value;
		piece_finish(pieces, 2);
	}
	left = offload_merge_batch(merge, pieces->frames, pieces->n, offloads);
	free(pieces);
	offload_merge_destroy(merge);
	return left;
}

Test(offload, joins_only_what_the_port_takes)
{
	cr_assert_eq(joined_with(&tso4, 0, 0, ALL_OFFLOADS), 1);
	cr_assert_eq(joined_with(&tso4, 0, 0, PORT_CSUM | PORT_TSO4), 1);
	cr_assert_eq(joined_with(&tso4, 0, 0, PORT_TSO4), 5);
	cr_assert_eq(joined_with(&tso4, 0, 0, 0), 5);
	cr_assert_eq(joined_with(&tso4, 0, 0, ALL_OFFLOADS & ~PORT_TSO4), 5);
	cr_assert_eq(joined_with(&tso6, 0, 0, ALL_OFFLOADS & ~PORT_TSO6), 5);
	cr_assert_eq(joined_with(&tso6, 0, 0, PORT_CSUM | PORT_TSO6), 1);
	cr_assert_eq(joined_with(&uso4, 0, 0, ALL_OFFLOADS & ~PORT_USO), 5);
	cr_assert_eq(joined_with(&uso4, 0, 0, PORT_CSUM | PORT_USO), 1);
}

/* Each row in the middle of five ends what was before: 0 1 | 2 3 4, or 0 1 | 2 | 3 4. */
Test(offload, what_is_not_joined)
{
	static const struct recipe opt4 = {
	    .version = 4, .payload = 5000, .gso_size = 1000, .tcp_options = 12};
	static const struct {
		const struct recipe *recipe;
		unsigned at;
		uint8_t bits;
		unsigned left;
	} rows[] = {
	    {&tso4, 15, 4, 3},	      /* TOS */
	    {&tso4, 19, 8, 3},	      /* ID */
	    {&tso4, 20, 0x40, 3},     /* DF */
	    {&tso4, 22, 1, 3},	      /* TTL */
	    {&tso4, 34 + 7, 1, 3},    /* sequence */
	    {&tso4, 34 + 11, 1, 3},   /* ACK number */
	    {&tso4, 34 + 13, FIN, 3}, /* flags */
	    {&tso4, 34 + 13, 2, 3},
	    {&tso4, 34 + 13, 4, 3},
	    {&tso4, 34 + 13, 0x20, 3},
	    {&tso4, 34 + 13, ECE, 3},
	    {&tso4, 34 + 13, CWR, 3},
	    {&tso4, 34 + 13, PSH, 2}, /* taken, and the last of its chain */
	    {&tso4, 34 + 12, 1, 3},   /* reserved bits */
	    {&tso4, 34 + 15, 1, 3},   /* window */
	    {&tso4, 34 + 19, 1, 3},   /* urgent pointer */
	    {&opt4, 34 + 27, 1, 3},   /* time stamp */
	    {&tso6, 15, 1, 3},	      /* flow label */
	    {&tso6, 21, 1, 3},	      /* hop limit */
	    {&uso4, 22, 1, 3},
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		cr_assert_eq(joined_with(rows[i].recipe, rows[i].at, rows[i].bits, ALL_OFFLOADS),
			     rows[i].left, "row %u", i);
	/* Of another flow: 0 1 and 3 4 stay two, as a hole is between them. */
	cr_assert_eq(joined_with(&tso4, 11, 1, ALL_OFFLOADS), 3);
	cr_assert_eq(joined_with(&tso4, 29, 1, ALL_OFFLOADS), 3);
	cr_assert_eq(joined_with(&tso4, 35, 1, ALL_OFFLOADS), 3);
}

/* Wrong checksums are no longer seen in a joined frame; so they must not get in. */
Test(offload, segments_with_wrong_checksums_stay_alone)
{
	static const unsigned at[] = {24, 34 + 16, 54, 54 + 999};

	for (unsigned k = 0; k < 4; k++)
		for (unsigned bad = 0; bad < 5; bad++) {
			struct offload_merge *merge = offload_merge_create();
			struct pieces *pieces = pieces_of(&tso4);
			struct frame *wrong = &pieces->frame[bad];
			unsigned left, seen = 0;

			pieces->bytes[bad][at[k]] ^= 4;
			left = offload_merge_batch(merge, pieces->frames, 5, ALL_OFFLOADS);
			cr_assert_eq(left, bad == 0 || bad == 4 ? 2 : 3);
			for (unsigned i = 0; i < left; i++)
				seen += pieces->frames[i] == wrong;
			cr_assert_eq(seen, 1);
			free(pieces);
			offload_merge_destroy(merge);
		}
}

/* Two flows, interleaved; one frame of neither between them. */
Test(offload, flows_are_joined_apart)
{
	struct offload_merge *merge = offload_merge_create();
	struct pieces *a = pieces_of(&tso4), *b = pieces_of(&tso6);
	struct frame *frames[FRAME_BATCH_MAX], arp = {.len = 42};
	struct iovec iov = {b->bytes[10], 42};
	unsigned n = 0;

	arp.iov = &iov;
	arp.iovcnt = 1;
	for (unsigned i = 0; i < 5; i++) {
		if (i == 2)
			frames[n++] = &arp;
		frames[n++] = a->frames[i];
		frames[n++] = b->frames[i];
	}
	cr_assert_eq(offload_merge_batch(merge, frames, n, ALL_OFFLOADS), 3);
	cr_assert_eq(frames[0]->offload.gso_type, TSO4);
	cr_assert_eq(frames[1]->offload.gso_type, TSO6);
	cr_assert_eq(frames[2], &arp);
	free(a);
	free(b);
	offload_merge_destroy(merge);
}

/* A short segment is the last of its frame; frames that crossed other links are not joined. */
Test(offload, joined_segments_are_of_one_size_and_way)
{
	const struct recipe head = {.version = 4, .payload = 1500, .gso_size = 1000};
	const struct recipe tail = {
	    .version = 4, .payload = 1000, .gso_size = 500, .sequence = 1500, .id = 2};
	struct offload_merge *merge = offload_merge_create();
	struct pieces *a = pieces_of(&head), *b = pieces_of(&tail);
	struct frame *frames[] = {a->frames[0], a->frames[1], b->frames[0], b->frames[1]};

	cr_assert_eq(offload_merge_batch(merge, frames, 4, ALL_OFFLOADS), 2);
	cr_assert_eq(frames[0]->len, 54 + 1500);
	cr_assert_eq(frames[1]->len, 54 + 1000);
	frames[0] = a->frames[0], frames[1] = a->frames[1];
	a->frames[1]->hops--;
	cr_assert_eq(offload_merge_batch(merge, frames, 2, ALL_OFFLOADS), 2);
	free(a);
	free(b);
	offload_merge_destroy(merge);
}

/* A frame that is not joined may not be overtaken by what comes behind it in its flow. */
Test(offload, order_in_a_flow_is_kept)
{
	const struct recipe ack = {.version = 4, .payload = 0};
	struct offload_merge *merge = offload_merge_create();
	struct pieces *a = pieces_of(&tso4), *b = pieces_of(&ack);
	struct frame *frames[] = {a->frames[0], a->frames[1], b->frames[0], a->frames[2],
				  a->frames[3]};

	cr_assert_eq(offload_merge_batch(merge, frames, 5, ALL_OFFLOADS), 3);
	cr_assert_eq(frames[0]->offload.gso_size, 1000);
	cr_assert_eq(frames[1], b->frames[0]);
	cr_assert_eq(frames[2]->offload.gso_size, 1000);
	frames[0] = a->frames[1], frames[1] = a->frames[0], frames[2] = a->frames[2];
	cr_assert_eq(offload_merge_batch(merge, frames, 3, ALL_OFFLOADS), 3);
	cr_assert_eq(frames[1], a->frames[0]);
	free(a);
	free(b);
	offload_merge_destroy(merge);
}

Test(offload, joined_frames_keep_to_64_kib)
{
	const struct recipe r = {.version = 4, .payload = 58000, .gso_size = 8900};
	struct offload_merge *merge = offload_merge_create();
	struct pieces *a = pieces_of(&r), *b;
	struct recipe more = r;
	struct frame *frames[FRAME_BATCH_MAX];
	unsigned left;

	more.sequence = 6 * 8900;
	more.id = 6;
	more.payload = 5 * 8900;
	b = pieces_of(&more);
	for (unsigned i = 0; i < 6; i++)
		frames[i] = a->frames[i];
	for (unsigned i = 0; i < 5; i++)
		frames[6 + i] = b->frames[i];
	left = offload_merge_batch(merge, frames, 11, ALL_OFFLOADS);
	cr_assert_eq(left, 2);
	cr_assert_eq(frames[0]->len, 54 + 7 * 8900);
	cr_assert_eq(frames[1]->len, 54 + 4 * 8900);
	cr_assert(offload_check(frames[0]) && offload_check(frames[1]));
	free(a);
	free(b);
	offload_merge_destroy(merge);
}

/* Tags are part of a frame's length: IP alone would allow a longer one than ports carry. */
Test(offload, joined_frames_are_no_longer_than_any_frame)
{
	const unsigned headers = FRAME_HEADER + 2 * 4 + 40,
		       most = FRAME_SIZE_MAX - headers - 32 * 2000;
	struct recipe r = {.version = 4, .tags = 2, .gso_size = 2000};

	/* 32 segments, and one that makes the frame just as long as may be, or a byte longer. */
	for (unsigned more = 0; more < 2; more++) {
		struct offload_merge *merge = offload_merge_create();
		struct frame *frames[FRAME_BATCH_MAX];
		struct pieces *a, *b;
		unsigned n = 0, left;

		r.sequence = 0;
		r.id = 0;
		r.payload = 32 * 2000;
		a = pieces_of(&r);
		r.sequence = r.payload;
		r.id = 32;
		r.payload = most + more;
		b = pieces_of(&r);
		for (unsigned i = 0; i < a->n; i++)
			frames[n++] = a->frames[i];
		for (unsigned i = 0; i < b->n; i++)
			frames[n++] = b->frames[i];
		cr_assert_eq(n, 33);
		left = offload_merge_batch(merge, frames, n, ALL_OFFLOADS);
		cr_assert_eq(left, 1 + more);
		cr_assert_eq(frames[0]->len, more ? headers + 32 * 2000 : FRAME_SIZE_MAX);
		free(a);
		free(b);
		offload_merge_destroy(merge);
	}
}

/* Frames in many pieces and frames with unfinished business go through as they are. */
Test(offload, what_cannot_be_joined_is_passed_on)
{
	struct offload_merge *merge = offload_merge_create();
	struct made *whole = make(&tso4), *partial = make(&csum4), *bytes = make(&csum4);
	struct frame *frames[] = {&whole->frame, &partial->frame, &bytes->frame, &whole->frame};

	made_cut(bytes, 10);
	bytes->frame.offload = (struct frame_offload){0};
	cr_assert_eq(offload_merge_batch(merge, frames, 4, ALL_OFFLOADS), 4);
	cr_assert(frames[0] == &whole->frame && frames[1] == &partial->frame &&
		  frames[2] == &bytes->frame && frames[3] == &whole->frame);
	cr_assert_eq(offload_merge_batch(merge, frames, 1, ALL_OFFLOADS), 1);
	free(whole);
	free(partial);
	free(bytes);
	offload_merge_destroy(merge);
}

/* --- the kernel's own ------------------------------------------------------------------------ */

#define TAP_MTU	  65521 /* the largest that a tap takes */
#define NO_KERNEL 77	/* status of a child that could not make its network */
#define WAIT_MS	  60000

struct kernel_net {
	int in;	 /* a tap that takes offloads: what a VMM would write to */
	int out; /* a tap that takes none */
};

static int link_ioctl(int fd, const char *name, unsigned long request, struct ifreq *ifr)
{
	snprintf(ifr->ifr_name, IFNAMSIZ, "%s", name);
	return ioctl(fd, request, ifr);
}

static int link_up(int fd, const char *name)
{
	struct ifreq ifr = {.ifr_flags = IFF_UP};

	return link_ioctl(fd, name, SIOCSIFFLAGS, &ifr);
}

/* A tap that is a port of the bridge; -1 when that cannot be. */
static int tap_open(int sock, const char *name, short flags)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | flags};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || link_ioctl(fd, name, TUNSETIFF, &ifr))
		return -1;
	ifr.ifr_mtu = TAP_MTU;
	if (link_ioctl(sock, name, SIOCSIFMTU, &ifr))
		return -1;
	ifr.ifr_ifindex = (int)if_nametoindex(name);
	return link_ioctl(sock, "bridge", SIOCBRADDIF, &ifr) || link_up(sock, name) ? -1 : fd;
}

/* in - bridge - out, in a network namespace that goes with this process. */
static bool kernel_open(struct kernel_net *net)
{
	int header = sizeof(struct virtio_net_hdr_v1), sock;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return false;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (ioctl(sock, SIOCBRADDBR, "bridge"))
		return false;
	net->in = tap_open(sock, "in", IFF_VNET_HDR);
	net->out = tap_open(sock, "out", 0);
	return net->in >= 0 && net->out >= 0 && !ioctl(net->in, TUNSETVNETHDRSZ, &header) &&
	       !ioctl(net->out, TUNSETOFFLOAD, 0) && !link_up(sock, "bridge");
}

/* Give the kernel a frame with its offload state. */
static bool kernel_send(const struct kernel_net *net, const struct frame *frame)
{
	struct virtio_net_hdr_v1 hdr = {
	    .flags = frame->offload.flags,
	    .gso_type = frame->offload.gso_type,
	    .hdr_len = frame->offload.hdr_len,
	    .gso_size = frame->offload.gso_size,
	    .csum_start = frame->offload.csum_start,
	    .csum_offset = frame->offload.csum_offset,
	};
	struct iovec iov[66] = {{&hdr, sizeof(hdr)}};

	memcpy(iov + 1, frame->iov, frame->iovcnt * sizeof(*iov));
	return writev(net->in, iov, (int)frame->iovcnt + 1) == (ssize_t)(sizeof(hdr) + frame->len);
}

/* The next frame from the kernel that is ours, and not the bridge's own chatter. Returns its
 * length. */
static ssize_t kernel_receive(const struct kernel_net *net, const uint8_t eth[FRAME_HEADER],
			      uint8_t *to)
{
	struct pollfd pfd = {.fd = net->out, .events = POLLIN};

	while (poll(&pfd, 1, WAIT_MS) == 1) {
		ssize_t len = read(net->out, to, FRAME_SIZE_MAX + 8);

		if (len >= (ssize_t)FRAME_HEADER && !memcmp(to, eth, FRAME_HEADER - 2))
			return len;
	}
	return -1;
}

/* Does the kernel make of the frame what offload_split() makes of it? */
static bool kernel_agrees(const struct kernel_net *net, struct made *made, unsigned recipe)
{
	static uint8_t ours[FRAME_SIZE_MAX], theirs[FRAME_SIZE_MAX + 8];
	struct offload_split *split = offload_split_create();
	struct frame *pieces[FRAME_BATCH_MAX];
	unsigned n, index = 0;

	offload_split_start(split, &made->frame);
	while ((n = offload_split_next(split, pieces, FRAME_BATCH_MAX)))
		for (unsigned i = 0; i < n; i++, index++) {
			ssize_t len = kernel_receive(net, made->frame.eth, theirs);

			frame_flatten(pieces[i], ours);
			if (len == (ssize_t)pieces[i]->len && !memcmp(ours, theirs, len))
				continue;
			fprintf(stderr, "recipe %u, piece %u: %zd bytes, not %u, or other ones\n",
				recipe, index, len, pieces[i]->len);
			return false;
		}
	offload_split_destroy(split);
	return true;
}

/* All recipes of one protocol. Returns the child's exit status. */
static int kernel_compare(bool udp)
{
	struct kernel_net net;

	if (!kernel_open(&net))
		return NO_KERNEL;
	for (unsigned i = 0; i < RECIPES; i++) {
		struct made *made = make(&recipes[i]);

		if (recipes[i].udp == udp) {
			if (!kernel_send(&net, &made->frame)) {
				fprintf(stderr, "recipe %u: %s\n", i, strerror(errno));
				return errno == EINVAL && udp ? NO_KERNEL : 1;
			}
			if (!kernel_agrees(&net, made, i))
				return 1;
		}
		free(made);
	}
	return 0;
}

/* In a process of its own, whose end removes the namespace with all that is in it. */
static void compare_with_kernel(bool udp, const char *reason)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(kernel_compare(udp));
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status));
#ifdef cr_skip_test
	if (WEXITSTATUS(status) == NO_KERNEL)
		cr_skip_test("%s", reason);
#endif
	(void)reason;
	cr_assert(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == NO_KERNEL);
}

Test(offload, the_kernel_cuts_tcp_the_same_way)
{
	compare_with_kernel(false, "no right, or no kernel, to make taps and a bridge");
}

Test(offload, the_kernel_cuts_udp_the_same_way)
{
	compare_with_kernel(true, "no taps and bridge, or a kernel without UDP segmentation there");
}
