/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The packet socket on one interface that all peers behind it share (link_eth.c).
 *
 * Receiving: a ring that the kernel fills (packet(7), PACKET_RX_RING), so that taking a batch needs
 * no system call. It is TPACKET_V2, not V3: V3 holds frames back until a block is full or a timer
 * of at least a millisecond runs out, which is many round trips on a LAN. Packets are handed on
 * where they lie; the slots of a batch go back to the kernel at its end. A slot holds the
 * interface's MTU as it was when the link was made; what is longer is cut by the kernel, and
 * dropped. A filter in the kernel passes nothing but unicast to this host.
 *
 * That the interface goes down shows as an error of the socket, which stays bound; a timer looks
 * again, every second at most. If the interface was removed and is there again under its name, the
 * socket is bound to it anew.
 *
 * Everything runs on the loop's thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if_arp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vnet/eth.h"

#ifndef PACKET_IGNORE_OUTGOING /* Linux 4.20 */
#define PACKET_IGNORE_OUTGOING 23
#endif

#define SOCKET_BUFFER  (4 << 20)  /* bytes, to send; the kernel may give less */
#define RING_SIZE      (4u << 20) /* bytes, unless that were less than RING_SLOTS_MIN */
#define RING_SLOTS_MIN 64u
#define SLOT_SIZE_MIN  2048u
#define SLOT_HEADER    128u /* bytes; more than the kernel's header and the link layer's take */
#define RECEIVE_BATCH  256u /* packets; several of the longest frames, in parts */
#define MTU_MIN	       256u /* bytes; the messages of a session have room */
#define VISIT_BATCHES  4u   /* batches received before others get their turn */

/* --- receiving ----------------------------------------------------------------------------- */

static struct tpacket2_hdr *slot_header(const struct eth_receiving *rx, unsigned slot)
{
	return (struct tpacket2_hdr *)(rx->memory + (size_t)(slot % rx->slots) * rx->slot_size);
}

static _Atomic uint32_t *slot_status(const struct eth_receiving *rx, unsigned slot)
{
	return (_Atomic uint32_t *)&slot_header(rx, slot)->tp_status;
}

static bool slot_ready(const struct eth_receiving *rx, unsigned slot)
{
	return atomic_load_explicit(slot_status(rx, slot), memory_order_acquire) & TP_STATUS_USER;
}

/* Hand on a batch of what is in the ring. False: that was all there is. */
static bool batch_receive(struct eth_interface *in)
{
	struct eth_receiving *rx = &in->rx;
	unsigned most = rx->slots < RECEIVE_BATCH ? rx->slots : RECEIVE_BATCH;
	unsigned n = 0;

	for (; n < most && slot_ready(rx, rx->next + n); n++) {
		const struct tpacket2_hdr *header = slot_header(rx, rx->next + n);

		eth_packet_take(in, (uint8_t *)header + header->tp_mac, header->tp_snaplen,
				header->tp_snaplen == header->tp_len);
	}
	if (!n)
		return false;
	eth_batch_end(in);
	for (unsigned i = 0; i < n; i++)
		atomic_store_explicit(slot_status(rx, rx->next + i), TP_STATUS_KERNEL,
				      memory_order_release);
	rx->next = (rx->next + n) % rx->slots;
	return n == most;
}

static void interface_ready(struct loop_watch *watch, uint32_t revents)
{
	struct eth_interface *in = watch->context;
	socklen_t size = sizeof(int);
	int err = 0;

	for (unsigned i = 0; i < VISIT_BATCHES; i++)
		if (!batch_receive(in))
			break;
	if (revents & POLLERR && !getsockopt(in->fd, SOL_SOCKET, SO_ERROR, &err, &size) && err)
		eth_interface_fail(in, err);
}

/* --- the interface ------------------------------------------------------------------------- */

void eth_interface_fail(struct eth_interface *in, int err)
{
	if (!in->up)
		return;
	in->up = false;
	eth_peers_update(in, err == ENETDOWN ? "the interface is down" : strerror(err));
	loop_defer(in->env.loop, &in->mend);
}

/* Learn what the interface is now. Returns 0 or -errno: it is not there, or down. */
static int interface_look(struct eth_interface *in)
{
	struct ifreq request = {0};

	strcpy(request.ifr_name, in->name);
	if (ioctl(in->fd, SIOCGIFHWADDR, &request))
		return -errno;
	if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
		return -EPROTOTYPE;
	memcpy(in->mac, request.ifr_hwaddr.sa_data, ETH_ALEN);
	if (ioctl(in->fd, SIOCGIFMTU, &request))
		return -errno;
	in->mtu = (uint32_t)request.ifr_mtu;
	if (in->mtu < MTU_MIN)
		return -EMSGSIZE;
	if (ioctl(in->fd, SIOCGIFFLAGS, &request))
		return -errno;
	return request.ifr_flags & IFF_UP ? 0 : -ENETDOWN;
}

/* Bind the socket to the interface of that name, if it is not. */
static int interface_bind(struct eth_interface *in)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET,
				      .sll_protocol = htons(GENEVE_ETHERNET)};
	struct ifreq request = {0};

	strcpy(request.ifr_name, in->name);
	if (ioctl(in->fd, SIOCGIFINDEX, &request))
		return -errno;
	if (request.ifr_ifindex == in->index)
		return 0;
	address.sll_ifindex = request.ifr_ifindex;
	if (bind(in->fd, (struct sockaddr *)&address, sizeof(address)))
		return -errno;
	in->index = request.ifr_ifindex;
	return 0;
}

static int interface_start(struct eth_interface *in)
{
	int err = interface_bind(in);

	if (!err)
		err = interface_look(in);
	if (!err)
		err = loop_watch(in->env.loop, &in->watch, in->fd, POLLIN);
	if (err)
		return err;
	in->up = true;
	in->delay_ns = 0;
	eth_peers_update(in, NULL);
	return 0;
}

static void interface_expired(struct loop_timer *timer)
{
	struct eth_interface *in = timer->context;

	if (interface_start(in))
		link_retry(in->env.loop, &in->timer, &in->delay_ns);
}

static void interface_mend(struct loop_task *task)
{
	struct eth_interface *in = container_of(task, struct eth_interface, mend);

	loop_unwatch(&in->watch);
	link_retry(in->env.loop, &in->timer, &in->delay_ns);
}

/* Nothing but packets to this host, and not those of a VLAN on the interface. */
static int filter_set(int fd)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 0, 3),
	    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	    BPF_STMT(BPF_RET | BPF_K, 0),
	};
	const struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

static int ring_make(struct eth_interface *in)
{
	struct eth_receiving *rx = &in->rx;
	struct tpacket_req request;
	const int version = TPACKET_V2;
	unsigned slots;
	void *memory;

	for (rx->slot_size = SLOT_SIZE_MIN; rx->slot_size < in->mtu + SLOT_HEADER;)
		rx->slot_size *= 2;
	slots = RING_SIZE / rx->slot_size;
	rx->slots = slots > RING_SLOTS_MIN ? slots : RING_SLOTS_MIN;
	rx->size = (size_t)rx->slots * rx->slot_size;
	request = (struct tpacket_req){
	    .tp_block_size = rx->slot_size < 65536 ? 65536 : rx->slot_size,
	    .tp_frame_size = rx->slot_size,
	    .tp_frame_nr = rx->slots,
	};
	request.tp_block_nr = (unsigned)(rx->size / request.tp_block_size);
	if (setsockopt(in->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) ||
	    setsockopt(in->fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)))
		return -errno;
	memory = mmap(NULL, rx->size, PROT_READ | PROT_WRITE, MAP_SHARED, in->fd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	rx->memory = memory;
	return 0;
}

static int socket_open(struct eth_interface *in)
{
	const int one = 1, size = SOCKET_BUFFER;
	int err;

	/* Protocol 0: nothing arrives before the filter is there and the socket is bound. */
	in->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (in->fd < 0)
		return -errno;
	setsockopt(in->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
	setsockopt(in->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(in->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	err = filter_set(in->fd);
	if (err)
		return err;
	err = interface_look(in);
	if (err && err != -ENETDOWN)
		return err;
	err = ring_make(in);
	return err ? err : interface_bind(in);
}

static const char *open_remedy(int err)
{
	switch (err) {
	case -EPERM:
		return "not permitted: raw Ethernet needs CAP_NET_RAW (or use udp://)";
	case -ENODEV:
		return "there is no such interface on this host";
	case -EPROTOTYPE:
		return "the interface is no Ethernet: name another, or use udp://";
	case -EMSGSIZE:
		return "the interface's MTU is too small for any frame";
	default:
		return strerror(-err);
	}
}

void eth_interface_destroy(struct eth_interface *in)
{
	struct eth_interface **at = in->list;

	while (*at && *at != in)
		at = &(*at)->next;
	if (*at)
		*at = in->next;
	loop_unwatch(&in->watch);
	loop_disarm(&in->timer);
	loop_forget(in->env.loop, &in->mend);
	if (in->rx.memory)
		munmap(in->rx.memory, in->rx.size);
	if (in->fd >= 0)
		close(in->fd);
	free(in);
}

int eth_interface_create(const struct link_env *env, const struct link_spec *spec, const char *name,
			 struct eth_interface **list, struct eth_interface **interface,
			 char error[LINK_ERROR_MAX])
{
	struct eth_interface *in = calloc(1, sizeof(*in));
	int err;

	if (!in)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	in->env = *env;
	in->list = list;
	in->fd = -1;
	strcpy(in->name, name);
	in->watch.ready = interface_ready;
	in->watch.eager = true;
	in->watch.context = in;
	in->timer.expired = interface_expired;
	in->timer.context = in;
	in->mend.run = interface_mend;
	err = socket_open(in);
	if (err) {
		eth_interface_destroy(in);
		return link_fail(error, spec, err, "%s", open_remedy(err));
	}
	in->next = *list;
	*list = in;
	if (interface_start(in))
		link_retry(env->loop, &in->timer, &in->delay_ns);
	*interface = in;
	return 0;
}
