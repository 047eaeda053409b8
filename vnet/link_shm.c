/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * VMMs on one host exchange frames through memory. One side listens on a Unix socket (--listen
 * shm://PATH), any number of others connect (--link shm://PATH). On the listening side each becomes
 * a port of its own, shm://PATH#N, where N is the lowest number that is free; a port whose peer is
 * gone stays, is down, and is taken by the next peer that comes, so that routes to it keep their
 * meaning.
 *
 * The side that connects makes a memfd of fixed size, sealed against shrinking and growing (or else
 * a peer could make us fault), and passes it with its hello. So memory is charged to who asks, and
 * a listener cannot be made to spend any. The listener answers with a hello of its own. Afterwards
 * the socket carries only wake-ups, a byte each, and its end says that the peer is gone, by
 * whatever death. Wake-ups are not eventfds, since an eventfd is one open file for both: a peer
 * could clear O_NONBLOCK on it and so make our read or write block.
 *
 * The memory: a page of indices, and two rings of bytes, one for each direction, each mapped twice
 * in a row so that nothing in them wraps. A ring holds records: a header (struct record) with the
 * frame's length and offload state, the frame, padding to RECORD_ALIGN. Heads and tails count bytes
 * and never wrap to anything but 2^32. The producer publishes the head once a batch, the consumer
 * the tail once a batch.
 *
 * A frame is copied once, into the ring. On the other side the core is given the ring's memory, as
 * it is given guest RAM elsewhere, and the tail moves when core_input() has returned.
 *
 * Sleeping: before it goes to wait, the consumer sets "sleeping" and looks at the head once more;
 * the producer publishes the head and then looks at "sleeping", and only who takes it away sends
 * the byte. All four are sequentially consistent, so one of the two sees the other. A consumer that
 * is at work costs the producer no system call.
 *
 * The peer is not trusted. Head, tail and record headers are copied to locals and judged there;
 * anything that cannot be ends the connection (FAILED, and from the loop's task on AWAY), which
 * both sides start anew. What is in a frame may change while it is read, as with a guest's.
 *
 *   AWAY ──connect/accept──► GREETING ──hello──► CARRYING
 *    ▲                          │ HELLO_NS          │ end of the socket, nonsense in the ring
 *    └── task, then (connecting side) retry ── FAILED ◄┘
 *
 * The connection is torn down by a task of its own, never inside send_batch(): the core may be half
 * way through a batch that lies in the ring. Everything runs on the loop's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/link.h"
#include "vnet/link_shm.h"
#include "vnet/loop.h"
#include "vnet/offload.h"
#include "vnet/unix_socket.h"

#define PEERS_MAX     64u
#define HELLO_NS      1000000000ull /* a hello comes at once, or is not waited for any longer */
#define PAUSE_NS      1000000000ull /* until the next accept(2) after one that failed */
#define VISIT_BATCHES 8u	    /* batches received before others get their turn */
#define AHEAD	      (2u << 20)    /* bytes in a ring, with which it is full for who can wait */
#define VISIT_BYTES   (1u << 20)    /* received before the room is given back */
#define MAPPING_SIZE  (SHM_CONTROL_SIZE + 4 * (size_t)SHM_RING_SIZE)
#define SEALS	      (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

enum phase { AWAY, GREETING, CARRYING, FAILED };

/* One direction of the rings, as this side sees it. */
struct half {
	struct shm_ring *shared;
	uint8_t *data;
	uint32_t head, tail; /* ours is the truth, the other what was last seen */
};

struct endpoint;

struct shm_peer {
	struct port port;
	struct link_status status;
	struct link_env env;
	struct endpoint *endpoint; /* NULL: this side connects */
	unsigned slot;		   /* in the endpoint */
	bool attached;
	struct sockaddr_un address; /* to connect to */

	enum phase phase;
	int fd; /* -1 while AWAY */
	struct loop_watch watch;
	struct loop_timer timer; /* GREETING: its end; AWAY: the next attempt */
	uint64_t delay_ns;
	struct loop_task more, mend;

	uint8_t *memory; /* NULL until the rings are mapped */
	struct half out, in;
	struct frame frames[FRAME_BATCH_MAX];
	struct iovec payloads[FRAME_BATCH_MAX];
};

struct endpoint {
	struct link_env env;
	char name[PORT_NAME_MAX];
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int fd;
	struct loop_watch watch;
	struct loop_timer timer; /* accepts again */
	struct shm_peer *peers[PEERS_MAX];
};

/* End the connection, from anywhere; the rest is done by the task. */
static void peer_fail(struct shm_peer *peer, const char *why)
{
	if (peer->phase == FAILED)
		return;
	peer->phase = FAILED;
	link_state_set(&peer->status, LINK_DOWN, why);
	loop_defer(peer->env.loop, &peer->mend);
}

/* --- sending ------------------------------------------------------------------------------- */

static uint32_t record_size(uint32_t len)
{
	return (uint32_t)(sizeof(struct shm_record) + len + SHM_RECORD_ALIGN - 1) &
	       ~(SHM_RECORD_ALIGN - 1);
}

static bool room_find(struct shm_peer *peer, uint32_t size)
{
	struct half *out = &peer->out;
	uint32_t tail;

	if (SHM_RING_SIZE - (out->head - out->tail) >= size)
		return true;
	tail = atomic_load_explicit(&out->shared->tail, memory_order_acquire);
	if (out->head - tail > SHM_RING_SIZE) {
		peer_fail(peer, "the peer took what was never sent");
		return false;
	}
	out->tail = tail;
	return SHM_RING_SIZE - (out->head - tail) >= size;
}

static bool shm_full(struct port *port)
{
	struct shm_peer *peer = container_of(port, struct shm_peer, port);

	return peer->phase == CARRYING && !room_find(peer, SHM_RING_SIZE - AHEAD);
}

static void record_write(struct half *out, const struct frame *frame)
{
	const struct frame_offload *offload = &frame->offload;
	const struct shm_record record = {
	    .len = frame->len,
	    .flags = offload->flags,
	    .gso_type = offload->gso_type,
	    .hdr_len = offload->hdr_len,
	    .gso_size = offload->gso_size,
	    .csum_start = offload->csum_start,
	    .csum_offset = offload->csum_offset,
	    .hops = frame->hops,
	};
	uint8_t *at = out->data + (out->head & (SHM_RING_SIZE - 1));

	memcpy(at, &record, sizeof(record));
	at += sizeof(record);
	for (unsigned i = 0; i < frame->iovcnt; i++) {
		memcpy(at, frame->iov[i].iov_base, frame->iov[i].iov_len);
		at += frame->iov[i].iov_len;
	}
	out->head += record_size(frame->len);
}

/* Show the peer what was written, and wake it if it sleeps. A full socket means that it is being
 * woken. */
static void out_publish(struct shm_peer *peer)
{
	struct shm_ring *ring = peer->out.shared;

	atomic_store(&ring->head, peer->out.head);
	if (!atomic_load(&ring->sleeping) || !atomic_exchange(&ring->sleeping, 0))
		return;
	peer->port.counters.syscalls++;
	if (send(peer->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN &&
	    errno != EINTR)
		peer_fail(peer, "the peer is gone");
}

static void shm_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct shm_peer *peer = container_of(port, struct shm_peer, port);
	struct port_counters *counters = &port->counters;
	uint32_t before = peer->out.head;

	counters->batches++;
	for (unsigned i = 0; i < n; i++) {
		if (peer->phase != CARRYING) {
			counters->drops[DROP_DOWN]++;
		} else if (!room_find(peer, record_size(frames[i]->len))) {
			counters->drops[DROP_BUSY]++;
		} else {
			record_write(&peer->out, frames[i]);
			counters->copied_bytes += frames[i]->len;
			link_count_sent(counters, &frames[i], 1);
		}
	}
	if (peer->phase == CARRYING && peer->out.head != before)
		out_publish(peer);
}

/* --- receiving ----------------------------------------------------------------------------- */

/* Copy a record's header from memory that the peer can write, reading each byte once. */
static struct shm_record record_read(const uint8_t *at)
{
	const _Atomic uint64_t *shared = (const _Atomic uint64_t *)at;
	uint64_t words[2];
	struct shm_record record;

	words[0] = atomic_load_explicit(&shared[0], memory_order_relaxed);
	words[1] = atomic_load_explicit(&shared[1], memory_order_relaxed);
	memcpy(&record, words, sizeof(record));
	return record;
}

/* Make the record at the tail frame @i. Returns its size, or 0 if there can be no such record. */
static uint32_t frame_take(struct shm_peer *peer, unsigned i, uint32_t used)
{
	uint8_t *at = peer->in.data + (peer->in.tail & (SHM_RING_SIZE - 1));
	struct shm_record record = record_read(at);
	struct frame *frame = &peer->frames[i];

	if (record.len < FRAME_SIZE_MIN || record.len > FRAME_SIZE_MAX ||
	    record_size(record.len) > used)
		return 0;
	peer->payloads[i] = (struct iovec){at + sizeof(record), record.len};
	*frame = (struct frame){
	    .iov = &peer->payloads[i],
	    .iovcnt = 1,
	    .len = record.len,
	    .hops = record.hops < FRAME_HOPS_MAX ? record.hops : FRAME_HOPS_MAX,
	    .offload = {record.flags, record.gso_type, record.hdr_len, record.gso_size,
			record.csum_start, record.csum_offset},
	};
	memcpy(frame->eth, at + sizeof(record), FRAME_HEADER);
	return record_size(record.len);
}

/* Take up to a batch of records and give their frames to the core. False: the ring was empty, or
 * the link failed. */
static bool batch_receive(struct shm_peer *peer)
{
	struct half *in = &peer->in;
	uint32_t used = atomic_load_explicit(&in->shared->head, memory_order_acquire) - in->tail;
	const uint32_t begin = in->tail;
	struct frame *list[FRAME_BATCH_MAX];
	unsigned n = 0;

	if (used > SHM_RING_SIZE || used % SHM_RECORD_ALIGN) {
		peer_fail(peer, "the peer sent more than the ring holds");
		return false;
	}
	if (!used)
		return false;
	for (unsigned i = 0; used && i < FRAME_BATCH_MAX && in->tail - begin < VISIT_BYTES; i++) {
		uint32_t size = frame_take(peer, i, used);

		if (!size) {
			peer->port.counters.drops[DROP_FORMAT]++;
			peer_fail(peer, "the peer sent a frame of impossible length");
			break;
		}
		used -= size;
		in->tail += size;
		if (offload_check(&peer->frames[i]))
			list[n++] = &peer->frames[i];
		else
			peer->port.counters.drops[DROP_OFFLOAD]++;
	}
	peer->port.counters.batches++;
	if (n)
		core_input(peer->env.core, &peer->port, list, n);
	atomic_store_explicit(&in->shared->tail, in->tail, memory_order_release);
	return peer->phase == CARRYING;
}

/* Go to sleep, unless something has come meanwhile. */
static bool in_sleep(struct half *in)
{
	atomic_store(&in->shared->sleeping, 1);
	if (atomic_load(&in->shared->head) == in->tail)
		return true;
	atomic_store(&in->shared->sleeping, 0);
	return false;
}

static void peer_receive(struct shm_peer *peer)
{
	for (unsigned i = 0; i < VISIT_BATCHES && peer->phase == CARRYING; i++)
		if (!batch_receive(peer) && in_sleep(&peer->in))
			return;
	if (peer->phase == CARRYING)
		loop_defer(peer->env.loop, &peer->more);
}

static void peer_more(struct loop_task *task)
{
	peer_receive(container_of(task, struct shm_peer, more));
}

/* --- memory -------------------------------------------------------------------------------- */

/* A ring, twice in a row. */
static bool ring_map(uint8_t *at, int fd, off_t offset)
{
	for (unsigned i = 0; i < 2; i++)
		if (mmap(at + (size_t)i * SHM_RING_SIZE, SHM_RING_SIZE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED)
			return false;
	return true;
}

/* Map the rings. @out: the one that this side fills, 0 for the side that connects. */
static int memory_map(struct shm_peer *peer, int fd, unsigned out)
{
	uint8_t *at = mmap(NULL, MAPPING_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *rings[2] = {at + SHM_CONTROL_SIZE,
			     at + SHM_CONTROL_SIZE + 2 * (size_t)SHM_RING_SIZE};
	struct shm_ring *shared = (struct shm_ring *)at;

	if (at == MAP_FAILED)
		return -errno;
	if (mmap(at, SHM_CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
		MAP_FAILED ||
	    !ring_map(rings[0], fd, SHM_CONTROL_SIZE) ||
	    !ring_map(rings[1], fd, SHM_CONTROL_SIZE + SHM_RING_SIZE)) {
		int err = -errno;

		munmap(at, MAPPING_SIZE);
		return err;
	}
	peer->memory = at;
	peer->out = (struct half){.shared = &shared[out], .data = rings[out]};
	peer->in = (struct half){.shared = &shared[!out], .data = rings[!out]};
	return 0;
}

/* New memory, all of it there and sealed. Returns its descriptor, or -errno. */
static int memory_make(void)
{
	int fd = memfd_create("weft-shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int err;

	if (fd < 0)
		return -errno;
	if (!fallocate(fd, 0, 0, SHM_FILE_SIZE) && !fcntl(fd, F_ADD_SEALS, SEALS))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/* Is that memory of which no access can fault? Huge pages may run out after they were mapped. */
static bool memory_check(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct statfs fs;
	struct stat st;

	return seals >= 0 && (seals & SEALS) == SEALS && !fstat(fd, &st) &&
	       st.st_size == (off_t)SHM_FILE_SIZE && !fstatfs(fd, &fs) && fs.f_type == TMPFS_MAGIC;
}

/* --- hello --------------------------------------------------------------------------------- */

static struct shm_hello hello_ours(const struct shm_peer *peer, enum shm_answer answer)
{
	return (struct shm_hello){
	    .magic = SHM_MAGIC,
	    .version = SHM_VERSION,
	    .answer = (uint16_t)answer,
	    .vni = peer->env.vni,
	    .ring_size = SHM_RING_SIZE,
	};
}

/* Send a hello, with a descriptor or -1. */
static int hello_send(const struct shm_peer *peer, enum shm_answer answer, int fd)
{
	struct shm_hello hello = hello_ours(peer, answer);
	struct iovec iov = {&hello, sizeof(hello)};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		control.header = (struct cmsghdr){
		    .cmsg_len = CMSG_LEN(sizeof(int)),
		    .cmsg_level = SOL_SOCKET,
		    .cmsg_type = SCM_RIGHTS,
		};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
	}
	return sendmsg(peer->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(hello) ? 0
											 : -EPIPE;
}

/* Receive a hello whole, and the descriptor beside it or -1. */
static bool hello_receive(const struct shm_peer *peer, struct shm_hello *hello, int *fd)
{
	struct iovec iov = {hello, sizeof(*hello)};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr message = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = &control,
	    .msg_controllen = sizeof(control),
	};
	ssize_t got = recvmsg(peer->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	const struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	*fd = -1;
	if (got >= 0 && header && header->cmsg_level == SOL_SOCKET &&
	    header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(header), sizeof(*fd));
	return got == sizeof(*hello) && hello->magic == SHM_MAGIC;
}

static enum shm_answer hello_judge(const struct shm_peer *peer, const struct shm_hello *hello)
{
	if (hello->version != SHM_VERSION || hello->ring_size != SHM_RING_SIZE)
		return SHM_OTHER_VERSION;
	if (hello->vni != peer->env.vni)
		return SHM_OTHER_OVERLAY;
	return SHM_WELCOME;
}

static const char *answer_text(enum shm_answer answer)
{
	switch (answer) {
	case SHM_OTHER_VERSION:
		return "the peer is another version of weft";
	case SHM_OTHER_OVERLAY:
		return "the peer belongs to another overlay: give both the same --vni";
	case SHM_NO_MEMORY:
		return "the shared memory cannot be used";
	case SHM_FULL:
		return "the listener has no room for another peer";
	default:
		return "the peer gave no sensible answer";
	}
}

static void peer_carry(struct shm_peer *peer)
{
	loop_disarm(&peer->timer);
	peer->phase = CARRYING;
	peer->delay_ns = 0;
	link_state_set(&peer->status, LINK_UP, NULL);
	peer_receive(peer);
}

/* The listening side: a hello with memory has come. */
static enum shm_answer greet_judge(struct shm_peer *peer, const struct shm_hello *hello, int memory)
{
	enum shm_answer answer = hello_judge(peer, hello);

	if (answer != SHM_WELCOME)
		return answer;
	if (memory < 0 || !memory_check(memory) || memory_map(peer, memory, 1))
		return SHM_NO_MEMORY;
	if (!peer->attached && core_attach(peer->env.core, &peer->port))
		return SHM_FULL;
	peer->attached = true;
	return SHM_WELCOME;
}

static void peer_greeted(struct shm_peer *peer)
{
	struct shm_hello hello = {0};
	enum shm_answer answer;
	int memory;
	bool good = hello_receive(peer, &hello, &memory);

	if (!good)
		answer = SHM_REFUSED;
	else if (peer->endpoint)
		answer = greet_judge(peer, &hello, memory);
	else
		answer = hello.answer ? hello.answer : hello_judge(peer, &hello);
	if (memory >= 0)
		close(memory);
	if (good && peer->endpoint && hello_send(peer, answer, -1))
		answer = SHM_REFUSED;
	if (answer == SHM_WELCOME)
		peer_carry(peer);
	else
		peer_fail(peer, answer_text(answer));
}

/* --- the connection ------------------------------------------------------------------------ */

static void peer_ready(struct loop_watch *watch, uint32_t revents)
{
	struct shm_peer *peer = watch->context;
	char wakes[64];
	ssize_t n;

	(void)revents;
	if (peer->phase == GREETING) {
		peer_greeted(peer);
		return;
	}
	if (peer->phase != CARRYING)
		return;
	n = recv(peer->fd, wakes, sizeof(wakes), MSG_DONTWAIT);
	peer->port.counters.syscalls++;
	peer_receive(peer);
	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
		peer_fail(peer, "the peer is gone");
}

static int peer_greet(struct shm_peer *peer, int fd)
{
	int err = loop_watch(peer->env.loop, &peer->watch, fd, POLLIN);

	if (err)
		return err;
	peer->fd = fd;
	peer->phase = GREETING;
	return loop_arm(peer->env.loop, &peer->timer, HELLO_NS);
}

static void peer_disconnect(struct shm_peer *peer)
{
	loop_unwatch(&peer->watch);
	loop_disarm(&peer->timer);
	loop_forget(peer->env.loop, &peer->more);
	loop_forget(peer->env.loop, &peer->mend);
	if (peer->memory)
		munmap(peer->memory, MAPPING_SIZE);
	if (peer->fd >= 0)
		close(peer->fd);
	peer->memory = NULL;
	peer->fd = -1;
	peer->phase = AWAY;
}

static void peer_free(struct shm_peer *peer)
{
	peer_disconnect(peer);
	if (peer->endpoint)
		peer->endpoint->peers[peer->slot] = NULL;
	free(peer);
}

static void peer_mend(struct loop_task *task)
{
	struct shm_peer *peer = container_of(task, struct shm_peer, mend);

	peer_disconnect(peer);
	if (!peer->endpoint)
		link_retry(peer->env.loop, &peer->timer, &peer->delay_ns);
	else if (!peer->attached)
		peer_free(peer);
}

/* Make memory and say hello on a connected socket, which is the peer's from here on. */
static int peer_call(struct shm_peer *peer, int fd)
{
	int memory = memory_make();
	int err = memory < 0 ? memory : memory_map(peer, memory, 0);

	if (!err)
		err = peer_greet(peer, fd);
	if (!err)
		err = hello_send(peer, SHM_WELCOME, memory);
	if (memory >= 0)
		close(memory);
	return err;
}

static void peer_connect(struct shm_peer *peer)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err = fd < 0 ? -errno : 0;

	if (!err && connect(fd, (struct sockaddr *)&peer->address, sizeof(peer->address)))
		err = -errno;
	if (!err)
		err = peer_call(peer, fd);
	if (!err)
		return;
	link_state_set(&peer->status, LINK_DOWN, strerror(-err));
	if (fd >= 0 && peer->fd < 0)
		close(fd);
	peer_disconnect(peer);
	link_retry(peer->env.loop, &peer->timer, &peer->delay_ns);
}

static void peer_expired(struct loop_timer *timer)
{
	struct shm_peer *peer = timer->context;

	if (peer->phase == AWAY)
		peer_connect(peer);
	else
		peer_fail(peer, "the peer said no hello");
}

/* --- ports --------------------------------------------------------------------------------- */

static void shm_close(struct port *port)
{
	peer_free(container_of(port, struct shm_peer, port));
}

static void shm_status(const struct port *port, struct link_status *status)
{
	*status = container_of(port, struct shm_peer, port)->status;
}

static const struct port_ops shm_ops = {
    .type = "shm",
    .send_batch = shm_send_batch,
    .full = shm_full,
    .close = shm_close,
    .status = shm_status,
};

static struct shm_peer *peer_create(const struct link_env *env)
{
	struct shm_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	peer->env = *env;
	peer->fd = -1;
	peer->port.ops = &shm_ops;
	peer->port.kind = PORT_LINK;
	peer->port.mtu = FRAME_SIZE_MAX - FRAME_HEADER;
	peer->status.path_mtu = peer->port.mtu;
	peer->port.offloads = env->offload ? PORT_OFFLOADS : 0;
	peer->watch.ready = peer_ready;
	peer->watch.context = peer;
	peer->timer.expired = peer_expired;
	peer->timer.context = peer;
	peer->more.run = peer_more;
	peer->mend.run = peer_mend;
	link_state_set(&peer->status, LINK_DOWN, NULL);
	return peer;
}

static int path_check(const struct link_spec *spec, char error[LINK_ERROR_MAX])
{
	size_t len = strlen(spec->target);

	if (len && len < sizeof(((struct sockaddr_un *)0)->sun_path))
		return 0;
	return link_fail(error, spec, -EINVAL, "a socket's path has 1 to 107 bytes");
}

static int shm_link(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		    struct port **port, char error[LINK_ERROR_MAX])
{
	struct shm_peer *peer;
	int err = path_check(spec, error);

	(void)endpoint;
	if (err)
		return err;
	peer = peer_create(env);
	if (!peer)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	peer->address.sun_family = AF_UNIX;
	strcpy(peer->address.sun_path, spec->target);
	err = link_attach(env, spec, &peer->port, error);
	if (err) {
		free(peer);
		return err;
	}
	peer_connect(peer);
	*port = &peer->port;
	return 0;
}

/* --- listening ----------------------------------------------------------------------------- */

/* A peer without a connection: one that was here, or a new one. */
static struct shm_peer *slot_find(struct endpoint *ep)
{
	struct shm_peer *peer;

	for (unsigned i = 0; i < PEERS_MAX; i++) {
		if (ep->peers[i] && ep->peers[i]->phase == AWAY)
			return ep->peers[i];
		if (ep->peers[i])
			continue;
		peer = peer_create(&ep->env);
		if (!peer)
			return NULL;
		peer->endpoint = ep;
		peer->slot = i;
		snprintf(peer->port.name, sizeof(peer->port.name), "%.*s#%u", PORT_NAME_MAX - 4,
			 ep->name, i + 1);
		ep->peers[i] = peer;
		return peer;
	}
	return NULL;
}

static void endpoint_ready(struct loop_watch *watch, uint32_t revents)
{
	struct endpoint *ep = watch->context;
	int fd = accept4(ep->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct shm_peer *peer;

	(void)revents;
	if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
		return;
	if (fd < 0) { /* no descriptors or memory: do not ask again at once */
		loop_unwatch(&ep->watch);
		loop_arm(ep->env.loop, &ep->timer, PAUSE_NS);
		return;
	}
	peer = slot_find(ep);
	if (!peer || peer_greet(peer, fd))
		close(fd);
}

static void endpoint_expired(struct loop_timer *timer)
{
	struct endpoint *ep = timer->context;

	if (loop_watch(ep->env.loop, &ep->watch, ep->fd, POLLIN))
		loop_arm(ep->env.loop, &ep->timer, PAUSE_NS);
}

static int endpoint_open(struct endpoint *ep, const struct link_spec *spec,
			 char error[LINK_ERROR_MAX])
{
	int err = link_name(spec, ep->name, error);

	if (!err && strlen(ep->name) > PORT_NAME_MAX - 4)
		err = link_fail(error, spec, -EINVAL,
				"the name is too long for #N behind it: give a shorter one by "
				"name=");
	if (err)
		return err;
	ep->fd = unix_listen(spec->target);
	if (ep->fd < 0)
		return link_fail(error, spec, ep->fd, "%s", unix_listen_remedy(ep->fd));
	err = loop_watch(ep->env.loop, &ep->watch, ep->fd, POLLIN);
	if (!err)
		return 0;
	unlink(spec->target);
	close(ep->fd);
	return link_fail(error, spec, err, "cannot watch the socket: %s", strerror(-err));
}

static int shm_listen(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		      char error[LINK_ERROR_MAX])
{
	struct endpoint *ep;
	int err = path_check(spec, error);

	if (!err && *endpoint)
		err = link_fail(error, spec, -EINVAL,
				"shm:// listens already: any number may link to one path");
	if (err)
		return err;
	ep = calloc(1, sizeof(*ep));
	if (!ep)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	ep->env = *env;
	strcpy(ep->path, spec->target);
	ep->watch.ready = endpoint_ready;
	ep->watch.context = ep;
	ep->timer.expired = endpoint_expired;
	ep->timer.context = ep;
	err = endpoint_open(ep, spec, error);
	if (err)
		free(ep);
	else
		*endpoint = ep;
	return err;
}

static void shm_endpoint_destroy(void *endpoint)
{
	struct endpoint *ep = endpoint;

	unlink(ep->path);
	loop_unwatch(&ep->watch);
	loop_disarm(&ep->timer);
	close(ep->fd);
	for (unsigned i = 0; i < PEERS_MAX; i++) {
		struct shm_peer *peer = ep->peers[i];

		if (!peer)
			continue;
		if (peer->attached)
			core_detach(ep->env.core, &peer->port);
		peer_free(peer);
	}
	free(ep);
}

const struct link_type link_shm = {
    .scheme = "shm",
    .form = "shm://PATH",
    .summary = "a VM on this host, through shared memory; PATH is where it listens",
    .listen_form = "shm://PATH",
    .listen = shm_listen,
    .open = shm_link,
    .endpoint_destroy = shm_endpoint_destroy,
};
