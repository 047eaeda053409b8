/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Links over raw Ethernet, for hosts of one LAN that want neither IP nor UDP in between: outer Ethernet header with
 * EtherType 0x6558, Geneve header, frame. One packet socket an interface serves all peers behind it; a packet is
 * a peer's by its outer source address.
 *
 * Sending: the batch becomes one sendmmsg(), each message the two headers (the same for all of a peer's) and behind
 * them the frame's own segments: nothing is copied but by the kernel, once. A transmit ring would be a second
 * copy.
 *
 * Receiving: a ring that the kernel fills (packet(7), PACKET_RX_RING), so that taking a batch needs no system call.
 * It is TPACKET_V2, not V3: V3 holds frames back until a block is full or a timer of at least a millisecond runs
 * out, which is many round trips on a LAN. The core is given the slots' memory, and they go back to the kernel when
 * core_input() has returned. A slot holds the interface's MTU as it was when the link was made; what is longer is cut
 * by the kernel and dropped here. A filter in the kernel passes nothing but unicast to this host.
 *
 * States: PLAIN while the interface is up (that a peer is there cannot be seen), else DOWN. That it goes down shows as
 * an error of the socket, which stays bound; a timer looks again, every second at most. If the interface was
 * removed and is there again under its name, the socket is bound to it anew.
 *
 * Everything runs on the loop's thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/geneve.h"
#include "vnet/link.h"
#include "vnet/loop.h"

#ifndef PACKET_IGNORE_OUTGOING /* Linux 4.20 */
#define PACKET_IGNORE_OUTGOING 23
#endif

#define PEER_BUCKETS  256u
#define SOCKET_BUFFER (4 << 20) /* bytes, to send; the kernel may give less */
#define RING_SIZE     (4u << 20) /* bytes, unless that were less than RING_SLOTS_MIN */
#define RING_SLOTS_MIN 64u
#define SLOT_SIZE_MIN 2048u
#define SLOT_HEADER   128u /* bytes; more than the kernel's header and the link layer's take */
#define RECEIVE_BATCH 32u
#define VISIT_BATCHES 8u /* batches received before others get their turn */
#define SEND_SEGMENTS 2048u

static_assert(RECEIVE_BATCH <= FRAME_BATCH_MAX, "a run goes to the core at once");
static_assert(SEND_SEGMENTS >= UIO_MAXIOV, "any one message fits");

/* What stands in front of each frame. */
struct outer {
	struct ether_header ethernet;
	struct geneve_header geneve;
} __attribute__((packed));
static_assert(sizeof(struct outer) == 22, "14 and 8 bytes");

struct eth_peer {
	struct port port;
	struct link_status status;
	struct interface *interface;
	struct eth_peer *next; /* in its bucket */
	uint8_t mac[ETH_ALEN];
	struct outer outer;
};

struct sending {
	struct mmsghdr messages[FRAME_BATCH_MAX];
	struct frame *frames[FRAME_BATCH_MAX];
	struct iovec segments[SEND_SEGMENTS];
	unsigned count, segments_used;
};

struct receiving {
	uint8_t *memory; /* the ring */
	size_t size;
	unsigned slot_size, slots, next;
	struct frame frames[RECEIVE_BATCH];
	struct iovec payloads[RECEIVE_BATCH];
};

/* A socket on one interface, while there are peers behind it. */
struct interface {
	struct interface **list, *next;
	struct link_env env;
	char name[IFNAMSIZ];
	int index; /* what the socket is bound to */
	uint8_t mac[ETH_ALEN];
	uint32_t mtu;
	bool up;
	int fd;
	struct loop_watch watch;
	struct loop_timer timer; /* looks whether it is up again */
	uint64_t delay_ns;
	struct loop_task mend;
	unsigned peer_count;
	struct eth_peer *peers[PEER_BUCKETS];
	struct port_counters counters; /* drops that belong to no peer */
	struct sending tx;
	struct receiving rx;
};

struct endpoint {
	struct interface *interfaces;
};

/* --- peers by address ---------------------------------------------------------------------- */

/* Only peers that the user named are in the table: no need for a hash that withstands an attacker. */
static unsigned mac_bucket(const uint8_t mac[ETH_ALEN])
{
	return (mac[3] * 31u + mac[4] * 7u + mac[5]) % PEER_BUCKETS;
}

static struct eth_peer *peer_find(const struct interface *in, const uint8_t mac[ETH_ALEN])
{
	struct eth_peer *peer = in->peers[mac_bucket(mac)];

	while (peer && memcmp(peer->mac, mac, ETH_ALEN) != 0)
		peer = peer->next;
	return peer;
}

/* Each peer shows the state of its interface. */
static void peers_update(struct interface *in, enum link_state state, const char *why)
{
	for (unsigned i = 0; i < PEER_BUCKETS; i++) {
		for (struct eth_peer *peer = in->peers[i]; peer; peer = peer->next) {
			link_state_set(&peer->status, state, why);
			memcpy(peer->outer.ethernet.ether_shost, in->mac, ETH_ALEN);
			peer->port.mtu = in->mtu - sizeof(struct geneve_header) - FRAME_HEADER;
			peer->status.path_mtu = in->mtu;
		}
	}
}

static void interface_fail(struct interface *in, int err)
{
	if (!in->up)
		return;
	in->up = false;
	peers_update(in, LINK_DOWN, err == ENETDOWN ? "the interface is down" : strerror(err));
	loop_defer(in->env.loop, &in->mend);
}

/* --- sending ------------------------------------------------------------------------------- */

/* Add a frame to the next system call. False: no room left for it in that. */
static bool send_add(struct eth_peer *peer, struct frame *frame)
{
	struct interface *in = peer->interface;
	struct sending *tx = &in->tx;
	struct iovec *segments = &tx->segments[tx->segments_used];

	if (!in->up || frame->len + sizeof(struct geneve_header) > in->mtu ||
	    frame->iovcnt >= UIO_MAXIOV) {
		peer->port.counters.drops[in->up ? DROP_OVERSIZE : DROP_DOWN]++;
		return true;
	}
	if (tx->segments_used + frame->iovcnt + 1 > SEND_SEGMENTS)
		return false;
	segments[0] = (struct iovec){&peer->outer, sizeof(peer->outer)};
	memcpy(segments + 1, frame->iov, frame->iovcnt * sizeof(*segments));
	tx->segments_used += frame->iovcnt + 1;
	tx->frames[tx->count] = frame;
	tx->messages[tx->count++].msg_hdr = (struct msghdr){
	    .msg_iov = segments,
	    .msg_iovlen = frame->iovcnt + 1,
	};
	return true;
}

/* The first of @left messages was refused. Returns how many to pass over. */
static unsigned send_refused(struct eth_peer *peer, int err, unsigned left)
{
	struct port_counters *counters = &peer->port.counters;

	switch (err) {
	case EINTR:
		return 0;
	case EMSGSIZE:
		counters->drops[DROP_OVERSIZE]++;
		return 1;
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		counters->drops[DROP_BUSY] += left;
		return left;
	case ENETDOWN:
	case ENXIO:
	case ENODEV:
		interface_fail(peer->interface, err);
		counters->drops[DROP_DOWN] += left;
		return left;
	default:
		counters->drops[DROP_ERROR] += left;
		return left;
	}
}

static void send_flush(struct eth_peer *peer)
{
	struct port_counters *counters = &peer->port.counters;
	struct sending *tx = &peer->interface->tx;

	for (unsigned done = 0; done < tx->count;) {
		/* The system call itself: musl's sendmmsg() is a loop of sendmsg(). */
		long sent = syscall(SYS_sendmmsg, peer->interface->fd, tx->messages + done,
				    tx->count - done, MSG_DONTWAIT | MSG_NOSIGNAL);

		counters->syscalls++;
		if (sent > 0)
			link_count_sent(counters, tx->frames + done, (unsigned)sent);
		done += sent > 0 ? (unsigned)sent : send_refused(peer, errno, tx->count - done);
	}
	tx->count = tx->segments_used = 0;
}

static void eth_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct eth_peer *peer = container_of(port, struct eth_peer, port);

	port->counters.batches++;
	for (unsigned i = 0; i < n; i++) {
		if (send_add(peer, frames[i]))
			continue;
		send_flush(peer);
		send_add(peer, frames[i]);
	}
	send_flush(peer);
}

/* --- receiving ----------------------------------------------------------------------------- */

static struct tpacket2_hdr *slot_header(const struct receiving *rx, unsigned slot)
{
	return (struct tpacket2_hdr *)(rx->memory + (size_t)(slot % rx->slots) * rx->slot_size);
}

static _Atomic uint32_t *slot_status(const struct receiving *rx, unsigned slot)
{
	return (_Atomic uint32_t *)&slot_header(rx, slot)->tp_status;
}

static bool slot_ready(const struct receiving *rx, unsigned slot)
{
	return atomic_load_explicit(slot_status(rx, slot), memory_order_acquire) & TP_STATUS_USER;
}

/* Make what is in a slot frame @i. Returns the peer it is from, or NULL: dropped and counted. */
static struct eth_peer *frame_take(struct interface *in, unsigned slot, unsigned i)
{
	const struct tpacket2_hdr *header = slot_header(&in->rx, slot);
	uint8_t *packet = (uint8_t *)header + header->tp_mac;
	enum drop_reason reason = DROP_OVERSIZE;
	struct frame *frame = &in->rx.frames[i];
	struct eth_peer *peer;
	struct geneve_extras extras;
	size_t offset = 0, len;

	if (header->tp_snaplen < sizeof(struct ether_header)) {
		in->counters.drops[DROP_FORMAT]++;
		return NULL;
	}
	peer = peer_find(in, packet + ETH_ALEN);
	if (!peer) {
		in->counters.drops[DROP_NOT_PEER]++;
		return NULL;
	}
	packet += sizeof(struct ether_header);
	len = header->tp_snaplen - sizeof(struct ether_header);
	if (header->tp_snaplen == header->tp_len)
		offset = geneve_parse(packet, len, in->env.vni, &extras, &reason);
	if (offset && (extras.control || extras.part || extras.offload.flags || extras.offload.gso_type)) {
		reason = DROP_OPTION; /* never agreed on such a link */
		offset = 0;
	}
	if (!offset) {
		peer->port.counters.drops[reason]++;
		return NULL;
	}
	in->rx.payloads[i] = (struct iovec){packet + offset, len - offset};
	*frame = (struct frame){
	    .iov = &in->rx.payloads[i],
	    .iovcnt = 1,
	    .len = (uint32_t)(len - offset),
	    .hops = extras.hops,
	};
	memcpy(frame->eth, packet + offset, FRAME_HEADER);
	return peer;
}

static void run_deliver(struct interface *in, struct eth_peer *peer, struct frame *const run[],
			unsigned n)
{
	if (!n)
		return;
	peer->port.counters.batches++;
	core_input(in->env.core, &peer->port, run, n);
}

/* Hand on a batch of what is in the ring. Returns how many packets there were. */
static unsigned batch_receive(struct interface *in)
{
	struct receiving *rx = &in->rx;
	struct frame *run[RECEIVE_BATCH];
	struct eth_peer *last = NULL;
	unsigned taken = 0, n = 0;

	for (; taken < RECEIVE_BATCH && slot_ready(rx, rx->next + taken); taken++) {
		struct eth_peer *peer = frame_take(in, rx->next + taken, taken);

		if (!peer)
			continue;
		if (peer != last) {
			run_deliver(in, last, run, n);
			last = peer;
			n = 0;
		}
		run[n++] = &rx->frames[taken];
	}
	run_deliver(in, last, run, n);
	for (unsigned i = 0; i < taken; i++)
		atomic_store_explicit(slot_status(rx, rx->next + i), TP_STATUS_KERNEL,
				      memory_order_release);
	rx->next = (rx->next + taken) % rx->slots;
	return taken;
}

static void eth_ready(struct loop_watch *watch, uint32_t revents)
{
	struct interface *in = watch->context;
	socklen_t size = sizeof(int);
	int err = 0;

	for (unsigned i = 0; i < VISIT_BATCHES; i++)
		if (batch_receive(in) < RECEIVE_BATCH)
			break;
	if (revents & POLLERR && !getsockopt(in->fd, SOL_SOCKET, SO_ERROR, &err, &size) && err)
		interface_fail(in, err);
}

/* --- the interface ------------------------------------------------------------------------- */

/* Learn what the interface is now. Returns 0 or -errno: it is not there, or down. */
static int interface_look(struct interface *in)
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
	if (in->mtu < sizeof(struct geneve_header) + FRAME_SIZE_MIN)
		return -EMSGSIZE;
	if (ioctl(in->fd, SIOCGIFFLAGS, &request))
		return -errno;
	return request.ifr_flags & IFF_UP ? 0 : -ENETDOWN;
}

/* Bind the socket to the interface of that name, if it is not. */
static int interface_bind(struct interface *in)
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

static int interface_start(struct interface *in)
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
	peers_update(in, LINK_PLAIN, NULL);
	return 0;
}

static void interface_expired(struct loop_timer *timer)
{
	struct interface *in = timer->context;

	if (interface_start(in))
		link_retry(in->env.loop, &in->timer, &in->delay_ns);
}

static void interface_mend(struct loop_task *task)
{
	struct interface *in = container_of(task, struct interface, mend);

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

static int ring_make(struct interface *in)
{
	struct receiving *rx = &in->rx;
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

static int socket_open(struct interface *in)
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

static void interface_destroy(struct interface *in)
{
	struct interface **at = in->list;

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

static int interface_create(const struct link_env *env, const struct link_spec *spec,
			    const char *name, struct endpoint *ep, struct interface **interface,
			    char error[LINK_ERROR_MAX])
{
	struct interface *in = calloc(1, sizeof(*in));
	int err;

	if (!in)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	in->env = *env;
	in->list = &ep->interfaces;
	in->fd = -1;
	strcpy(in->name, name);
	in->watch.ready = eth_ready;
	in->watch.context = in;
	in->timer.expired = interface_expired;
	in->timer.context = in;
	in->mend.run = interface_mend;
	err = socket_open(in);
	if (err) {
		interface_destroy(in);
		return link_fail(error, spec, err, "%s", open_remedy(err));
	}
	in->next = ep->interfaces;
	ep->interfaces = in;
	if (interface_start(in))
		link_retry(env->loop, &in->timer, &in->delay_ns);
	*interface = in;
	return 0;
}

/* --- ports --------------------------------------------------------------------------------- */

static void eth_close(struct port *port)
{
	struct eth_peer *peer = container_of(port, struct eth_peer, port);
	struct interface *in = peer->interface;
	struct eth_peer **at = &in->peers[mac_bucket(peer->mac)];

	while (*at != peer)
		at = &(*at)->next;
	*at = peer->next;
	free(peer);
	if (!--in->peer_count)
		interface_destroy(in);
}

static void eth_status(const struct port *port, struct link_status *status)
{
	*status = container_of(port, struct eth_peer, port)->status;
}

static const struct port_ops eth_ops = {
    .type = "eth",
    .send_batch = eth_send_batch,
    .close = eth_close,
    .status = eth_status,
};

/* "INTERFACE/MAC" */
static int target_parse(const struct link_spec *spec, char name[IFNAMSIZ], uint8_t mac[ETH_ALEN],
			char error[LINK_ERROR_MAX])
{
	const char *slash = strchr(spec->target, '/');
	size_t len = slash ? (size_t)(slash - spec->target) : 0;
	int end = 0;

	if (!len || len >= IFNAMSIZ)
		return link_fail(error, spec, -EINVAL,
				 "write eth://INTERFACE/MAC, such as eth://eth0/02:00:00:00:00:01");
	memcpy(name, spec->target, len);
	name[len] = '\0';
	if (strlen(slash + 1) != 17 || strspn(slash + 1, "0123456789abcdefABCDEF:") != 17 ||
	    sscanf(slash + 1, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2],
		   &mac[3], &mac[4], &mac[5], &end) != 6 ||
	    end != 17)
		return link_fail(error, spec, -EINVAL,
				 "\"%s\" is no MAC address: it has the form 02:00:00:00:00:01",
				 slash + 1);
	if (mac[0] & 1)
		return link_fail(error, spec, -EINVAL,
				 "a peer's MAC address is no group address: its first byte is even");
	return 0;
}

static struct interface *interface_find(const struct endpoint *ep, const char *name)
{
	struct interface *in = ep->interfaces;

	while (in && strcmp(in->name, name) != 0)
		in = in->next;
	return in;
}

static int peer_add(struct interface *in, const struct link_spec *spec, const uint8_t mac[ETH_ALEN],
		    struct port **port, char error[LINK_ERROR_MAX])
{
	struct eth_peer *peer = peer_find(in, mac);
	unsigned bucket = mac_bucket(mac);
	uint8_t header[GENEVE_HEADER_MAX];
	int err;

	if (peer)
		return link_fail(error, spec, -EEXIST, "this peer is linked already, as \"%s\"",
				 peer->port.name);
	if (!memcmp(mac, in->mac, ETH_ALEN))
		return link_fail(error, spec, -EINVAL,
				 "that is the address of %s itself: give the peer's", in->name);
	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	peer->port.ops = &eth_ops;
	peer->port.kind = PORT_LINK;
	peer->interface = in;
	memcpy(peer->mac, mac, ETH_ALEN);
	memcpy(peer->outer.ethernet.ether_dhost, mac, ETH_ALEN);
	peer->outer.ethernet.ether_type = htons(GENEVE_ETHERNET);
	geneve_build(header, in->env.vni, NULL);
	memcpy(&peer->outer.geneve, header, sizeof(peer->outer.geneve));
	err = link_attach(&in->env, spec, &peer->port, error);
	if (err) {
		free(peer);
		return err;
	}
	peer->next = in->peers[bucket];
	in->peers[bucket] = peer;
	in->peer_count++;
	peers_update(in, in->up ? LINK_PLAIN : LINK_DOWN, in->up ? NULL : "the interface is down");
	*port = &peer->port;
	return 0;
}

static int eth_link(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		    struct port **port, char error[LINK_ERROR_MAX])
{
	struct endpoint *ep = *endpoint;
	struct interface *in;
	char name[IFNAMSIZ];
	uint8_t mac[ETH_ALEN];
	int err = target_parse(spec, name, mac, error);

	if (err)
		return err;
	if (!ep)
		*endpoint = ep = calloc(1, sizeof(*ep));
	if (!ep)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	in = interface_find(ep, name);
	if (!in)
		err = interface_create(env, spec, name, ep, &in, error);
	if (err)
		return err;
	err = peer_add(in, spec, mac, port, error);
	if (err && !in->peer_count)
		interface_destroy(in);
	return err;
}

static void eth_endpoint_destroy(void *endpoint)
{
	free(endpoint); /* the interfaces went with their last peers */
}

const struct link_type link_eth = {
    .scheme = "eth",
    .form = "eth://INTERFACE/MAC",
    .summary = "a peer on the same Ethernet, without IP",
    .open = eth_link,
    .endpoint_destroy = eth_endpoint_destroy,
};
