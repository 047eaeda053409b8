/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * InfiniBand links. Who does what:
 *
 *   link_ib.c        the URL, listeners, ports, sessions
 *   ib_connection.c  rdma_cm: from an address to a connection, and back for ever
 *   ib_device.c      an adapter: its completion queue, receive buffers, guest memory
 *   ib_land.c        receiving into a guest's own buffers
 *   ib_ring.c        sends of one queue pair, from memory that the adapter reads by itself
 *   ib_rc.c, ib_ud.c what the two kinds of queue pairs do with frames
 *   ib_calls.c       the calls into the libraries
 *
 * Everything runs on the loop's thread.
 */
#ifndef WEFT_IB_H
#define WEFT_IB_H

#include <stdbool.h>
#include <stdint.h>

#include "vnet/geneve.h"
#include "vnet/ib_calls.h"
#include "vnet/iovec.h"
#include "vnet/link.h"
#include "vnet/loop.h"
#include "vnet/udp_address.h"

#define IB_PORT		 GENEVE_UDP_PORT /* where no other is written; of RDMA's own port spaces */
#define IB_GRH		 40u		 /* bytes in front of what a UD queue pair receives */
#define IB_SGE_MAX	 32u		 /* pieces of a message */
#define IB_MESSAGE_MAX	 (GENEVE_HEADER_MAX + FRAME_SIZE_MAX)
#define IB_HEADER_ROOM	 256u /* a slot's own bytes: headers, session messages */
#define IB_SIGNAL	 16u  /* of so many sends one asks for a completion */
#define IB_SLOTS	 128u /* sends of an RC queue pair that are not completed */
#define IB_UD_SLOTS	 512u
#define IB_CONTROL_SLOTS 8u
#define IB_WINDOW	 32u /* messages that an RC peer may send before it is given credit */
#define IB_WINDOW_MIN	 8u
#define IB_UD_BUFFERS	 512u
#define IB_BOUNCES	 64u  /* buffers for frames that lie in memory that is not registered */
#define IB_CHUNKS_MAX	 128u /* of receive buffers */
#define IB_RINGS_MAX	 512u
#define IB_BUCKETS	 64u
#define IB_MEMORY_MAX	 4u /* regions of guest memory */
#define IB_REASSEMBLY_NS 500000000ull

struct ib_device;
struct ib_lander;
struct ib_peer;
struct ib_plan;
struct reassembly;
struct session;

/* --- memory ---------------------------------------------------------------------------------- */

/* Buffers of one size, registered. */
struct ib_pool {
	uint8_t *memory; /* NULL: none */
	size_t size;	 /* bytes of a buffer */
	unsigned count;
	struct ibv_mr *mr;
};

/* ib_pool_open - allocate and register. 0 or -errno. */
int ib_pool_open(struct ib_device *device, struct ib_pool *pool, size_t size, unsigned count);
/* ib_pool_close - harmless on a zeroed pool. */
void ib_pool_close(struct ib_device *device, struct ib_pool *pool);

/* --- sending --------------------------------------------------------------------------------- */

struct ib_slot {
	struct ibv_send_wr wr;
	struct ibv_sge
	    sge[IB_SGE_MAX];	 /* the first is the slot's own header, or the bounce buffer */
	struct frame_hold *hold; /* kept until the adapter has read the frame; or NULL */
	int bounce;		 /* a buffer of the device, or -1 */
};

/* Sends on one queue pair, in order. Numbers count up: done <= posted <= filled <= done + size. */
struct ib_ring {
	struct ib_device *device;
	struct ibv_qp *qp;
	struct ib_peer *owner; /* NULL: all peers share it */
	uint32_t serial;       /* of this ring, in a work request's id */
	uint32_t size;	       /* slots, a power of two; 0: closed */
	uint32_t filled, posted, done;
	struct ib_slot *slots;
	struct ib_pool headers;
};

int ib_ring_open(struct ib_ring *ring, struct ib_device *device, struct ibv_qp *qp,
		 struct ib_peer *owner, uint32_t size);
/* ib_ring_close - give back whatever the sends hold. The queue pair is gone by now. Harmless when
 * closed. */
void ib_ring_close(struct ib_ring *ring);
/**
 * ib_ring_fill - make the next slot a message: a header, and @len bytes from the cursor.
 * @hold:     of the frame they belong to; NULL: they are copied
 * @counters: copied_bytes
 *
 * Bytes in registered memory are gathered by the adapter, what stands in front of them and is short
 * goes into the header's buffer; anything else is copied to a bounce buffer. Returns the slot, or
 * NULL when no slot or bounce buffer is free.
 */
struct ib_slot *ib_ring_fill(struct ib_ring *ring, const uint8_t *header, size_t header_len,
			     struct iov_cursor *at, uint32_t len, struct frame_hold *hold,
			     struct port_counters *counters);
/* ib_ring_take_back - forget the last messages, which are not posted, up to when @filled were. */
void ib_ring_take_back(struct ib_ring *ring, uint32_t filled);
/* ib_ring_post - hand up to @max filled slots to the adapter, at once; @immediate for those that
 * carry one. Returns how many they were, or -errno: the queue pair is of no use any more. */
int ib_ring_post(struct ib_ring *ring, uint32_t max, uint32_t immediate);
/* ib_ring_complete - slots up to this number are done. */
void ib_ring_complete(struct ib_ring *ring, uint32_t number);
static inline uint32_t ib_ring_free(const struct ib_ring *ring)
{
	return ring->size - (ring->filled - ring->done);
}

/* --- adapters -------------------------------------------------------------------------------- */

/* Frames of one peer that have come in a row, on their way to the core. */
struct ib_run {
	struct ib_peer *peer;
	unsigned count;
	struct frame frames[FRAME_BATCH_MAX];
	struct iovec payloads[FRAME_BATCH_MAX];
};

/* One port of an adapter, as an endpoint uses it. */
struct ib_device {
	struct ib_device *next;
	struct ib_endpoint *endpoint;
	const struct ib_calls *calls;
	struct ibv_context *context;
	uint8_t port;
	uint32_t mtu; /* bytes of a datagram */
	unsigned sge_max, cq_size, srq_size, srq_sge_max;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct loop_watch watch, async_watch;
	struct loop_poll poll; /* while completions come */
	struct loop_task mend;
	bool failed;
	char why[64];

	struct ibv_mr *memory[IB_MEMORY_MAX]; /* as env->memory; NULL: refused */
	struct ib_pool bounces;
	unsigned bounce_free[IB_BOUNCES], bounce_count;

	struct ibv_srq *srq;	  /* NULL: no queue pair has come yet */
	struct ib_lander *lander; /* as long as that; NULL: no message goes to a guest's buffers */
	struct ib_pool chunks[IB_CHUNKS_MAX];
	unsigned chunk_count, chunk_size; /* receive buffers in each */
	unsigned queue_pairs;		  /* RC: connections that have a window */
	unsigned lost; /* RC: buffers that died with their connections, at most */

	uint32_t serial; /* of the last ring */
	struct ib_ring *rings[IB_RINGS_MAX];
	struct ib_peer *by_qpn[IB_BUCKETS]; /* RC: our queue pair's number; UD: the peer's */

	struct ib_ring ring; /* UD: everybody's */
	struct ibv_qp *qp;
	struct ib_handle *handles; /* UD: addresses of peers */
	struct ib_run run;
	bool touched; /* some peer is */
};

/* ib_device_get - the device that an id was bound to; opened at the first need. 0 or -errno, with
 * the reason in
 * @why, which has room for a struct link_status.error. */
int ib_device_get(struct ib_endpoint *ep, struct ibv_context *context, uint8_t port,
		  struct ib_device **device, char *why, size_t size);
/* ib_device_close - no peer uses it any more. */
void ib_device_close(struct ib_device *device);
/* ib_device_fail - from anywhere: every peer loses its connection, and the device is opened anew.
 */
void ib_device_fail(struct ib_device *device, const char *why);
/* ib_device_end - the same, now. Not from within send_batch(), nor while completions are handled.
 */
void ib_device_end(struct ib_device *device, const char *why);
/* ib_device_empty - every peer loses its connection, now, and comes again: no request is posted any
 * more. Not from within send_batch(), nor while completions are handled. */
void ib_device_empty(struct ib_device *device, const char *why);
/* ib_memory_find - the registered guest memory that a piece lies in, or NULL. */
const struct ibv_mr *ib_memory_find(const struct ib_device *device, const struct iovec *piece);
/* ib_device_receive - see to it that one more queue pair's messages find @count buffers of @buffer
 * bytes, and its completions room, with those of @sends. 0 or -errno. */
int ib_device_receive(struct ib_device *device, size_t buffer, unsigned count, unsigned sends);
/* ib_device_release - a queue pair of ib_device_receive() is destroyed. */
void ib_device_release(struct ib_device *device);
/* ib_device_poll - handle completions. Returns whether there were any. */
bool ib_device_poll(struct ib_device *device);
/* ib_run_deliver - give the run's frames to the core. */
void ib_run_deliver(struct ib_device *device);
/* ib_run_add - room for one more frame of this peer. */
struct frame *ib_run_add(struct ib_peer *peer);

/* --- receiving into a guest's buffers -------------------------------------------------------- */

/* ib_lander_create - for a receive queue whose requests have up to @sge_max pieces. NULL: that is
 * not enough, no guest memory is registered, or there is no memory. */
struct ib_lander *ib_lander_create(struct ib_device *device, unsigned sge_max);
/* ib_lander_destroy - give back all room. The receive queue is destroyed. NULL is fine. */
void ib_lander_destroy(struct ib_lander *l);
/* ib_land_lay - let requests, of one buffer each, point to a guest's buffers too, if large frames
 * are to be expected. NULL: they never are. */
void ib_land_lay(struct ib_lander *l, struct ibv_recv_wr wrs[], unsigned n);
/* ib_land_came - a request is complete. Returns how it was laid out, or NULL; *@id becomes what it
 * was before. @whole: it has a message of @len bytes, otherwise nobody knows. */
struct ib_plan *ib_land_came(struct ib_lander *l, uint64_t *id, bool whole, size_t len);
/* ib_land_fits - does a message with this header lie in the guest's buffers as expected? */
bool ib_land_fits(const struct ib_plan *plan, const struct geneve_extras *extras, size_t header,
		  size_t len);
/* ib_land_frame - say where such a message's frame lies, valid until ib_land_end(). */
void ib_land_frame(struct ib_plan *plan, struct frame *frame);
/* ib_land_take - of any other message make one that lies in the buffer alone. */
void ib_land_take(struct ib_lander *l, struct ib_plan *plan, size_t len,
		  struct port_counters *counters);
/* ib_land_learn - a frame came, laid out for or not, behind a header of @header bytes. NULL is fine
 * here and below. */
void ib_land_learn(struct ib_lander *l, struct ib_peer *peer, size_t header,
		   const struct frame *frame);
/* ib_land_end - the batch is delivered. */
void ib_land_end(struct ib_lander *l);
/* ib_land_lent - may the adapter write to a guest's buffers? */
bool ib_land_lent(const struct ib_lander *l);
/* ib_land_forget - the peer goes. */
void ib_land_forget(struct ib_lander *l, const struct ib_peer *peer);

/* --- peers ----------------------------------------------------------------------------------- */

enum ib_phase {
	IB_AWAY,       /* until the timer */
	IB_ADDRESS,    /* rdma_resolve_addr() */
	IB_ROUTE,      /* rdma_resolve_route() */
	IB_CONNECTING, /* rdma_connect() */
	IB_ACCEPTING,  /* RC: rdma_accept() */
	IB_CARRYING,
	IB_FAILED, /* until the task */
};

/* Credits of an RC connection. All count messages from its start. */
struct ib_credits {
	uint32_t window;      /* messages that the peer takes before it gives more */
	uint32_t sent, acked; /* ours; as the peer says */
	uint32_t received;    /* the peer's */
	uint32_t given;	      /* of them: their buffers are posted again */
	uint32_t told;	      /* of them: the peer knows */
};

struct ib_peer {
	struct port port;
	struct link_status status; /* but for what the session knows */
	struct ib_endpoint *endpoint;
	struct ib_peer *next;
	struct udp_address address; /* where it listens */

	enum ib_phase phase;
	struct rdma_cm_id *id;
	bool known;		  /* RC: the peer has heard of the id, and hears of its end */
	struct rdma_cm_id *left;  /* a known one, whose end waits for its port; or NULL */
	struct ib_device *device; /* NULL: not known yet */
	struct loop_timer timer;  /* AWAY: the next attempt; otherwise the end of patience */
	uint64_t delay_ns;
	struct loop_task mend;

	struct session *session; /* while CARRYING */
	struct loop_timer session_timer;
	bool up, hops;	    /* what it found out, for the data path */
	uint32_t payload;   /* UD: bytes of a datagram that reach the peer */
	uint32_t frame_max; /* largest that it takes */

	uint32_t qpn; /* in device->by_qpn */
	struct ib_peer *qpn_next;
	bool touched; /* something came from it in this batch */

	uint32_t heard;		      /* RC: credits.received when we last wondered */
	struct ib_credits credits;    /* RC */
	struct ib_ring data, control; /* RC */

	struct ibv_ah *ah; /* UD */
	uint32_t qkey;
	union ibv_gid gid;
	uint16_t lid;
	uint32_t next_id;
	struct reassembly *reassembly;
};

/* What the two kinds of queue pairs do differently. */
struct ib_path {
	const char *name;
	enum rdma_port_space space;
	enum ibv_qp_type qp_type;
	bool connected; /* a connection each, rather than datagrams */
	uint32_t features;
	/* What all peers of a device share. NULL: nothing. 0 or -errno. */
	int (*device_open)(struct ib_device *device);
	void (*device_close)(struct ib_device *device);
	/* peer->id and peer->device are there: make what it takes to connect. NULL: nothing. 0 or
	 * -errno. */
	int (*open)(struct ib_peer *peer);
	/* Undo open(), in any state. */
	void (*close)(struct ib_peer *peer);
	/* The peer is reached. 0 or -errno. */
	int (*established)(struct ib_peer *peer, struct rdma_ud_param *ud);
	/* A frame that the peer takes goes into the queue; DROP_REASONS, or why not. */
	enum drop_reason (*fill)(struct ib_peer *peer, struct frame *frame,
				 const struct geneve_extras *extras);
	/* What is in the queue is sent, as far as it may. */
	void (*send)(struct ib_peer *peer);
	/* A session message; 0 or -errno. */
	int (*control)(struct ib_peer *peer, const void *message, size_t len);
	/* A message of @len bytes at @data; @plan: where it lies otherwise, or NULL. */
	void (*receive)(struct ib_device *device, const struct ibv_wc *wc, uint8_t *data,
			size_t len, struct ib_plan *plan);
	/* For each peer that was touched by a batch: its frames are delivered and its buffers are
	 * about to be posted again; they are. NULL: nothing to do. */
	void (*flush)(struct ib_peer *peer);
	void (*batch_end)(struct ib_peer *peer);
	/* Wait for the adapter to have read what it was given, or take it away. */
	void (*let_go)(struct ib_peer *peer);
};
extern const struct ib_path ib_rc, ib_ud;

/* ib_ring_settle - handle completions until the ring is empty, for a moment. False: it is not. */
bool ib_ring_settle(struct ib_ring *ring);

/* Links of one type share a listener. */
struct ib_endpoint {
	struct ib_endpoint *next;
	struct link_env env;
	const struct ib_calls *calls;
	struct ib_calls loaded; /* the real ones */
	const struct ib_path *path;
	union socket_address local;
	struct ibv_context **contexts; /* keeps the adapters open: a sandbox opens none */
	struct rdma_event_channel *channel;
	struct loop_watch watch;
	struct loop_timer timer; /* listens again */
	uint64_t delay_ns;
	struct rdma_cm_id *listener;
	uint64_t instance; /* of this process */
	struct ib_device *devices;
	struct ib_peer *peers;
	struct port_counters counters; /* what belongs to no peer */
};

/* ib_endpoint_listen - start to listen; the event channel is there. 0 or -errno. */
int ib_endpoint_listen(struct ib_endpoint *ep);
/* ib_endpoint_retry - listen again later. */
void ib_endpoint_retry(struct ib_endpoint *ep);
/* ib_events_ready - of the event channel's watch. */
void ib_events_ready(struct loop_watch *watch, uint32_t revents);

/* ib_peer_start - begin to look for the peer. */
void ib_peer_start(struct ib_peer *peer);
/* ib_peer_fail - from anywhere: the connection ends, and the next attempt follows. @why: NULL keeps
 * the last. */
void ib_peer_fail(struct ib_peer *peer, const char *why);
/* ib_peer_reset - end the connection now, but for its id. Not from within send_batch(), nor while
 * completions are handled. */
void ib_peer_reset(struct ib_peer *peer);
/* ib_peer_end - the same, with the id. */
void ib_peer_end(struct ib_peer *peer);
/* ib_peer_alive - RC: something came since the last call; then asks again after a while. */
bool ib_peer_alive(struct ib_peer *peer);
/* ib_peer_carry - the queue pair works. */
void ib_peer_carry(struct ib_peer *peer);
/* ib_peer_touch - the batch under way concerns the peer. */
void ib_peer_touch(struct ib_peer *peer);
/* ib_peer_find - the first with this queue pair number; the others follow by qpn_next. */
struct ib_peer *ib_peer_find(const struct ib_device *device, uint32_t qpn);
void ib_peer_enter(struct ib_peer *peer, uint32_t qpn);
void ib_peer_leave(struct ib_peer *peer);

/* In link_ib.c: a session while the peer is CARRYING. */
int ib_session_start(struct ib_peer *peer);
void ib_session_end(struct ib_peer *peer);
/* ib_session_take - a session message came. */
void ib_session_take(struct ib_peer *peer, const uint8_t *message, size_t len);
/* ib_frame_take - a whole frame came. @plan: it lies there as expected, or NULL. Returns it, or
 * NULL when it was dropped. */
struct frame *ib_frame_take(struct ib_peer *peer, uint8_t *data, size_t len,
			    const struct geneve_extras *extras, struct ib_plan *plan);

#endif
