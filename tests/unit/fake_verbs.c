/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/fake_verbs.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vnet/loop.h"

#define MESSAGE_MAX  70000u
#define GRH	     40u
#define QKEY	     0x01234567u
#define WCS	     32768u
#define PRIVATE_MAX  56u
#define FAKE_SGE_MAX 30

struct fake_state fake;

struct event {
	struct rdma_cm_event event;
	uint8_t data[PRIVATE_MAX];
	struct event *next;
};

struct channel {
	struct rdma_event_channel channel;
	struct event *first;
};

struct id {
	struct rdma_cm_id id;
	struct id *next, *partner;
	bool listening, connected;
	bool known; /* connect() or accept(), and no rejection: its end is told */
	bool asked; /* the side that connects */
};

struct mr {
	struct ibv_mr mr;
	struct mr *next;
	bool written;
};

struct cq {
	struct ibv_cq cq;
	struct comp *comp;
	bool armed;
	unsigned head, tail;
	struct ibv_wc wcs[WCS];
};

struct comp {
	struct ibv_comp_channel channel;
	struct cq *cq; /* whose event it is */
};

struct receive {
	struct ibv_sge sge[FAKE_SGE_MAX];
	int num_sge;
	uint64_t wr_id;
};

struct srq {
	struct ibv_srq srq;
	unsigned head, tail, size, max_sge;
	struct receive *receives;
};

struct qp {
	struct ibv_qp qp;
	struct qp *next, *remote;
	struct cq *cq;
	struct srq *srq;
	uint8_t gid[16];
	uint32_t immediate; /* of the last message that came */
	unsigned outstanding, max_send;
	enum ibv_wc_status broken;
};

struct ah {
	struct ibv_ah ah;
	uint8_t gid[16];
};

/* A work request that waits. */
struct work {
	struct work *next;
	struct qp *qp;
	struct ibv_send_wr wr;
	struct ibv_sge sges[64];
};

static struct ibv_context adapter;
static struct ibv_context *adapters[2];
static struct id *ids;
static struct mr *mrs;
static struct qp *qps;
static struct work *works;
static uint32_t next_key, next_qpn;

static bool fails(void)
{
	if (++fake.calls != fake.fail_at)
		return false;
	fake.failed = true;
	errno = ENOMEM;
	return true;
}

static void *make(size_t size)
{
	void *made = calloc(1, size);

	assert(made);
	fake.live++;
	return made;
}

static void unmake(void *made)
{
	free(made);
	fake.live--;
}

void fake_reset(void)
{
	if (adapter.async_fd > 0)
		close(adapter.async_fd);
	fake = (struct fake_state){.max_sge = FAKE_SGE_MAX, .max_srq_sge = FAKE_SGE_MAX};
	memset(&adapter, 0, sizeof(adapter));
	adapter.async_fd = eventfd(0, EFD_CLOEXEC);
	adapters[0] = &adapter;
	next_key = 1;
	next_qpn = 16;
}

static struct ibv_context **get_devices(int *count)
{
	if (fake.absent || fails()) {
		*count = 0;
		return NULL;
	}
	fake.live++;
	*count = 1;
	return adapters;
}

static void free_devices(struct ibv_context **list)
{
	assert(list == adapters);
	fake.live--;
}

/* Each of two addresses has its own port. */
static uint8_t port_of(const void *ipv4)
{
	return ((const uint8_t *)ipv4)[3] & 1 ? 1 : 2;
}

static bool is_down(const void *ipv4)
{
	return fake.down >> port_of(ipv4) & 1;
}

/* --- connections ----------------------------------------------------------------------------- */

static struct rdma_event_channel *create_event_channel(void)
{
	struct channel *c;

	if (fails())
		return NULL;
	c = make(sizeof(*c));
	c->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return &c->channel;
}

static struct event *event_push(struct id *id, enum rdma_cm_event_type type, const void *data,
				size_t len)
{
	struct channel *c = container_of(id->id.channel, struct channel, channel);
	struct event **at = &c->first, *e = make(sizeof(*e));
	uint64_t one = 1;

	e->event.id = &id->id;
	e->event.event = type;
	if (data) {
		memcpy(e->data, data, len);
		e->event.param.conn.private_data = e->event.param.ud.private_data = e->data;
		e->event.param.conn.private_data_len = e->event.param.ud.private_data_len =
		    PRIVATE_MAX;
	}
	while (*at)
		at = &(*at)->next;
	*at = e;
	assert(write(c->channel.fd, &one, sizeof(one)) == sizeof(one));
	return e;
}

/* A request for datagrams comes back as one that reached nobody. */
static void rejection_push(struct id *id, const void *data, size_t len)
{
	bool tcp = id->id.ps == RDMA_PS_TCP;

	event_push(id, tcp ? RDMA_CM_EVENT_REJECTED : RDMA_CM_EVENT_UNREACHABLE, data, len)
	    ->event.status = tcp ? 28 : 1; /* no such service: IB_CM_REJ_*, IB_SIDR_* */
}

static int get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **event)
{
	struct channel *c = container_of(channel, struct channel, channel);
	struct event *e = c->first;
	uint64_t one;

	if (read(channel->fd, &one, sizeof(one)) != sizeof(one))
		return -1;
	assert(e);
	c->first = e->next;
	*event = &e->event;
	return 0;
}

/* The other side is connected when it hears that this one is. */
static int ack_cm_event(struct rdma_cm_event *event)
{
	struct id *id = container_of(event->id, struct id, id);

	if (event->event == RDMA_CM_EVENT_ESTABLISHED && id->asked && id->partner)
		event_push(id->partner, RDMA_CM_EVENT_ESTABLISHED, NULL, 0);
	unmake(container_of(event, struct event, event));
	return 0;
}

/* The events of an id that is destroyed are never heard. */
static void events_forget(struct id *id)
{
	struct channel *c = container_of(id->id.channel, struct channel, channel);
	uint64_t one;

	for (struct event **at = &c->first, *e; (e = *at);) {
		if (e->event.id != &id->id) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		assert(read(c->channel.fd, &one, sizeof(one)) == sizeof(one));
		unmake(e);
	}
}

static int create_id(struct rdma_event_channel *channel, struct rdma_cm_id **made, void *context,
		     enum rdma_port_space ps)
{
	struct id *id;

	if (fails())
		return -1;
	id = make(sizeof(*id));
	id->id.channel = channel;
	id->id.context = context;
	id->id.ps = ps;
	id->next = ids;
	ids = id;
	*made = &id->id;
	return 0;
}

/* A message of the connection manager: whether it arrives. As on Linux 6.1's soft-RoCE, who sends
 * through a port that is down does not hear any more. */
static bool cm_sends(const struct id *from)
{
	const void *own = &from->id.route.addr.src_sin.sin_addr;
	const void *to = &from->id.route.addr.dst_sin.sin_addr;

	if (is_down(own))
		fake.deaf |= 1u << port_of(own);
	return !is_down(own) && !is_down(to) && !(fake.deaf >> port_of(to) & 1);
}

static int destroy_id(struct rdma_cm_id *destroyed)
{
	struct id *id = container_of(destroyed, struct id, id), **at = &ids;
	bool told = id->known && cm_sends(id);

	assert(!destroyed->qp);
	while (*at != id)
		at = &(*at)->next;
	*at = id->next;
	events_forget(id);
	if (id->partner) {
		if (told)
			event_push(id->partner,
				   id->connected ? RDMA_CM_EVENT_DISCONNECTED
						 : RDMA_CM_EVENT_REJECTED,
				   NULL, 0);
		id->partner->partner = NULL;
		id->partner->connected = false;
	}
	unmake(id);
	return 0;
}

/* The kernel rejects requests that nobody has taken. */
static void destroy_event_channel(struct rdma_event_channel *channel)
{
	struct channel *c = container_of(channel, struct channel, channel);

	while (c->first) {
		assert(c->first->event.event == RDMA_CM_EVENT_CONNECT_REQUEST);
		destroy_id(c->first->event.id);
	}
	close(channel->fd);
	unmake(c);
}

static void bind_to(struct rdma_cm_id *id, const struct sockaddr *addr)
{
	memcpy(&id->route.addr.src_storage, addr,
	       addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
					  : sizeof(struct sockaddr_in6));
	id->port_num = port_of(&((const struct sockaddr_in *)addr)->sin_addr);
}

static int bind_addr(struct rdma_cm_id *id, struct sockaddr *addr)
{
	if (fails())
		return -1;
	bind_to(id, addr);
	if (addr->sa_family == AF_INET)
		id->verbs = &adapter;
	return 0;
}

static bool addr_fits(const struct sockaddr_in *bound, const struct sockaddr_in *wanted)
{
	if (bound->sin_port != wanted->sin_port)
		return false;
	return bound->sin_family != AF_INET || bound->sin_addr.s_addr == wanted->sin_addr.s_addr;
}

static struct id *listener_find(enum rdma_port_space ps, const struct sockaddr *to)
{
	struct id *id = ids;

	while (id && (!id->listening || id->id.ps != ps ||
		      !addr_fits(&id->id.route.addr.src_sin, (const struct sockaddr_in *)to)))
		id = id->next;
	return id;
}

static int listen_(struct rdma_cm_id *id, int backlog)
{
	assert(backlog > 0);
	if (fails())
		return -1;
	if (listener_find(id->ps, &id->route.addr.src_addr)) {
		errno = EADDRINUSE;
		return -1;
	}
	container_of(id, struct id, id)->listening = true;
	return 0;
}

static int resolve_addr(struct rdma_cm_id *id, struct sockaddr *src, struct sockaddr *dst,
			int timeout_ms)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000063)};

	bool found;

	assert(timeout_ms > 0);
	if (fails())
		return -1;
	bind_to(id, src ? src : (struct sockaddr *)&any);
	memcpy(&id->route.addr.dst_storage, dst, sizeof(struct sockaddr_in));
	id->verbs = &adapter;
	found = !fake.unreachable && !is_down(&id->route.addr.src_sin.sin_addr);
	event_push(container_of(id, struct id, id),
		   found ? RDMA_CM_EVENT_ADDR_RESOLVED : RDMA_CM_EVENT_ADDR_ERROR, NULL, 0)
	    ->event.status = found ? 0 : -EHOSTUNREACH;
	return 0;
}

static int resolve_route(struct rdma_cm_id *id, int timeout_ms)
{
	assert(timeout_ms > 0);
	if (fails())
		return -1;
	event_push(container_of(id, struct id, id), RDMA_CM_EVENT_ROUTE_RESOLVED, NULL, 0);
	return 0;
}

static struct qp *qp_find(uint32_t qpn)
{
	struct qp *qp = qps;

	while (qp && qp->qp.qp_num != qpn)
		qp = qp->next;
	return qp;
}

static struct qp *qp_named(uint32_t qpn)
{
	struct qp *qp = qp_find(qpn);

	if (!qp)
		abort();
	return qp;
}

static void gid_set(uint8_t gid[16], const struct sockaddr_in *sin)
{
	memset(gid, 0, 16);
	gid[10] = gid[11] = 0xff;
	memcpy(gid + 12, &sin->sin_addr, 4);
}

static int connect_(struct rdma_cm_id *from, struct rdma_conn_param *param)
{
	struct id *client = container_of(from, struct id, id), *server, *listener;
	struct rdma_cm_id *made;

	if (fails())
		return -1;
	assert(param->private_data_len <= PRIVATE_MAX);
	if (from->ps == RDMA_PS_UDP)
		gid_set(qp_named(param->qp_num)->gid, &from->route.addr.src_sin);
	client->known = from->ps == RDMA_PS_TCP;
	if (!cm_sends(client))
		return 0;
	listener = listener_find(from->ps, &from->route.addr.dst_addr);
	if (!listener) {
		client->known = false;
		rejection_push(client, NULL, 0);
		return 0;
	}
	made = make(sizeof(*server));
	server = container_of(made, struct id, id);
	*server = (struct id){.id = {.channel = listener->id.channel,
				     .ps = from->ps,
				     .verbs = &adapter,
				     .port_num = port_of(&from->route.addr.dst_sin.sin_addr)},
			      .known = from->ps == RDMA_PS_TCP,
			      .next = ids,
			      .partner = client};
	ids = server;
	client->partner = server;
	memcpy(&made->route.addr.src_storage, &from->route.addr.dst_storage,
	       sizeof(struct sockaddr_in));
	memcpy(&made->route.addr.dst_storage, &from->route.addr.src_storage,
	       sizeof(struct sockaddr_in));
	event_push(server, RDMA_CM_EVENT_CONNECT_REQUEST, param->private_data,
		   param->private_data_len)
	    ->event.listen_id = &listener->id;
	return 0;
}

static int accept_(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	struct id *server = container_of(id, struct id, id), *client = server->partner;
	struct event *e;

	if (fails())
		return -1;
	if (!client) {
		errno = ECONNRESET;
		return -1;
	}
	if (!cm_sends(server))
		return 0;
	e = event_push(client, RDMA_CM_EVENT_ESTABLISHED, param->private_data,
		       param->private_data_len);
	if (id->ps == RDMA_PS_UDP) {
		gid_set(qp_named(param->qp_num)->gid, &id->route.addr.src_sin);
		e->event.param.ud.qp_num = param->qp_num;
		e->event.param.ud.qkey = QKEY;
		e->event.param.ud.ah_attr = (struct ibv_ah_attr){.is_global = 1, .port_num = 1};
		memcpy(e->event.param.ud.ah_attr.grh.dgid.raw, qp_named(param->qp_num)->gid, 16);
		client->partner = server->partner = NULL;
		return 0;
	}
	container_of(id->qp, struct qp, qp)->remote = container_of(client->id.qp, struct qp, qp);
	container_of(client->id.qp, struct qp, qp)->remote = container_of(id->qp, struct qp, qp);
	server->connected = client->connected = client->asked = true;
	return 0;
}

static int reject_(struct rdma_cm_id *id, const void *data, uint8_t len)
{
	struct id *server = container_of(id, struct id, id);

	if (server->partner && cm_sends(server)) {
		rejection_push(server->partner, data, len);
		server->partner->known = false;
		server->partner->partner = NULL;
	}
	server->partner = NULL;
	server->known = false;
	return 0;
}

void fake_remove(void)
{
	for (struct id *id = ids; id; id = id->next)
		if (id->id.verbs)
			event_push(id, RDMA_CM_EVENT_DEVICE_REMOVAL, NULL, 0);
}

/* --- the adapter ----------------------------------------------------------------------------- */

static int query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	assert(context == &adapter);
	*attr = (struct ibv_device_attr){.max_sge = (int)fake.max_sge,
					 .max_srq_sge = (int)fake.max_srq_sge,
					 .max_cqe = 32767,
					 .max_srq_wr = 8192,
					 .max_qp_wr = 16384};
	return fails() ? ENOMEM : 0;
}

static int query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
	assert(context == &adapter && (port == 1 || port == 2));
	*attr = (struct ibv_port_attr){.active_mtu = IBV_MTU_1024,
				       .state =
					   fake.down >> port & 1 ? IBV_PORT_DOWN : IBV_PORT_ACTIVE};
	return fails() ? ENOMEM : 0;
}

static int get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	uint64_t one;

	*event = (struct ibv_async_event){.event_type = IBV_EVENT_PORT_ERR};
	return read(context->async_fd, &one, sizeof(one)) == sizeof(one) ? 0 : -1;
}

static void ack_async_event(struct ibv_async_event *event)
{
	(void)event;
}

static struct ibv_pd *alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *pd;

	if (fails())
		return NULL;
	pd = make(sizeof(*pd));
	pd->context = context;
	return pd;
}

static int dealloc_pd(struct ibv_pd *pd)
{
	unmake(pd);
	return 0;
}

static struct ibv_mr *reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	struct mr *mr;

	if (fails())
		return NULL;
	if (addr == fake.refuse) {
		errno = ENOMEM;
		return NULL;
	}
	mr = make(sizeof(*mr));
	mr->mr = (struct ibv_mr){.pd = pd, .addr = addr, .length = length, .lkey = next_key++};
	mr->written = access & IBV_ACCESS_LOCAL_WRITE;
	mr->next = mrs;
	mrs = mr;
	return &mr->mr;
}

static int dereg_mr(struct ibv_mr *gone)
{
	struct mr *mr = container_of(gone, struct mr, mr), **at = &mrs;

	while (*at != mr)
		at = &(*at)->next;
	*at = mr->next;
	unmake(mr);
	return 0;
}

unsigned fake_registrations(const void *addr)
{
	unsigned n = 0;

	for (const struct mr *mr = mrs; mr; mr = mr->next)
		n += mr->mr.addr == addr;
	return n;
}

static bool sge_good(const struct ibv_sge *sge, bool write)
{
	for (const struct mr *mr = mrs; mr; mr = mr->next)
		if (mr->mr.lkey == sge->lkey)
			return sge->addr >= (uintptr_t)mr->mr.addr &&
			       sge->addr + sge->length <= (uintptr_t)mr->mr.addr + mr->mr.length &&
			       (!write || mr->written);
	return false;
}

static struct ibv_comp_channel *create_comp_channel(struct ibv_context *context)
{
	struct comp *comp;

	assert(context == &adapter);
	if (fails())
		return NULL;
	comp = make(sizeof(*comp));
	comp->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return &comp->channel;
}

static int destroy_comp_channel(struct ibv_comp_channel *channel)
{
	close(channel->fd);
	unmake(container_of(channel, struct comp, channel));
	return 0;
}

static struct ibv_cq *create_cq(struct ibv_context *context, int cqe, void *cq_context,
				struct ibv_comp_channel *channel, int vector)
{
	struct cq *cq;

	(void)cq_context;
	assert(context == &adapter && cqe > 0 && !vector);
	if (fails())
		return NULL;
	cq = make(sizeof(*cq));
	cq->comp = container_of(channel, struct comp, channel);
	cq->comp->cq = cq;
	return &cq->cq;
}

static int destroy_cq(struct ibv_cq *cq)
{
	for (const struct qp *qp = qps; qp; qp = qp->next)
		assert(&qp->cq->cq != cq);
	unmake(container_of(cq, struct cq, cq));
	return 0;
}

static int req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
	assert(!solicited_only);
	if (fails())
		return ENOMEM;
	container_of(cq, struct cq, cq)->armed = true;
	return 0;
}

static int get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **cq_context)
{
	uint64_t one;

	if (read(channel->fd, &one, sizeof(one)) != sizeof(one))
		return -1;
	*cq = &container_of(channel, struct comp, channel)->cq->cq;
	*cq_context = NULL;
	return 0;
}

static void ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
	assert(cq && count == 1);
}

static void wc_push(struct cq *cq, const struct ibv_wc *wc)
{
	uint64_t one = 1;

	assert(cq->head - cq->tail < WCS);
	cq->wcs[cq->head++ % WCS] = *wc;
	if (!cq->armed)
		return;
	cq->armed = false;
	assert(write(cq->comp->channel.fd, &one, sizeof(one)) == sizeof(one));
}

static int poll_cq(struct ibv_cq *from, int count, struct ibv_wc *wc)
{
	struct cq *cq = container_of(from, struct cq, cq);
	int n = 0;

	if (fails())
		return -1;
	while (n < count && cq->tail != cq->head) {
		wc[n] = cq->wcs[cq->tail++ % WCS];
		n++;
	}
	return n;
}

/* --- receiving ------------------------------------------------------------------------------- */

static struct ibv_srq *create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *attr)
{
	struct srq *srq;

	assert(pd && attr->attr.max_sge <= fake.max_srq_sge);
	if (fails())
		return NULL;
	srq = make(sizeof(*srq));
	srq->size = attr->attr.max_wr;
	srq->max_sge = attr->attr.max_sge;
	srq->receives = calloc(srq->size, sizeof(*srq->receives));
	return &srq->srq;
}

static int destroy_srq(struct ibv_srq *gone)
{
	struct srq *srq = container_of(gone, struct srq, srq);

	for (const struct qp *qp = qps; qp; qp = qp->next)
		assert(qp->srq != srq);
	free(srq->receives);
	unmake(srq);
	return fake.keep_srq ? EBUSY : 0;
}

static int post_srq_recv(struct ibv_srq *to, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct srq *srq = container_of(to, struct srq, srq);

	*bad = wr;
	if (fails())
		return ENOMEM;
	for (; wr; wr = wr->next) {
		struct receive *receive = &srq->receives[srq->head++ % srq->size];

		assert(srq->head - srq->tail <= srq->size && wr->num_sge >= 1 &&
		       wr->num_sge <= (int)srq->max_sge);
		*receive = (struct receive){.num_sge = wr->num_sge, .wr_id = wr->wr_id};
		for (int i = 0; i < wr->num_sge; i++) {
			assert(wr->sg_list[i].length && sge_good(&wr->sg_list[i], true));
			receive->sge[i] = wr->sg_list[i];
		}
		fake.pieces += (unsigned)wr->num_sge - 1;
	}
	return 0;
}

/* Write a message where a request says; false: it is too long. */
static bool scatter(const struct receive *receive, const uint8_t *data, uint32_t len)
{
	for (int i = 0; i < receive->num_sge && len; i++) {
		const struct ibv_sge *sge = &receive->sge[i];
		uint32_t n = sge->length < len ? sge->length : len;

		assert(sge_good(sge, true));
		memcpy((void *)(uintptr_t)sge->addr, data, n);
		data += n;
		len -= n;
	}
	return !len;
}

/* A message arrives. */
static enum ibv_wc_status deliver(struct qp *to, const struct ibv_wc *as, const uint8_t *data,
				  uint32_t len)
{
	struct srq *srq = to->srq;
	struct receive *receive = &srq->receives[srq->tail % srq->size];
	struct ibv_wc wc = *as;

	if (srq->head == srq->tail)
		return IBV_WC_RNR_RETRY_EXC_ERR;
	if (fake.lose_receive) { /* with the connection that it was for */
		fake.lose_receive = false;
		scatter(receive, data, len / 2);
		srq->tail++;
		return IBV_WC_RETRY_EXC_ERR;
	}
	if (!scatter(receive, data, len))
		return IBV_WC_REM_INV_REQ_ERR;
	srq->tail++;
	wc.wr_id = receive->wr_id;
	wc.opcode = IBV_WC_RECV;
	wc.byte_len = len;
	wc.qp_num = to->qp.qp_num;
	to->immediate = ntohl(wc.imm_data);
	wc_push(to->cq, &wc);
	return IBV_WC_SUCCESS;
}

uint32_t fake_immediate(const struct ibv_qp *qp)
{
	return container_of(qp, const struct qp, qp)->immediate;
}

/* What stands in front of a datagram from an IPv4 host over RoCE v2. */
static void grh_make(uint8_t grh[GRH], const uint8_t gid[16])
{
	memset(grh, 0, GRH);
	grh[20] = 0x45;
	memcpy(grh + 32, gid + 12, 4);
}

bool fake_inject(struct ibv_qp *to, uint32_t src_qp, const char *source, const void *data,
		 uint32_t len, const uint32_t *imm)
{
	static uint8_t message[GRH + MESSAGE_MAX];
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct ibv_wc wc = {.src_qp = src_qp};
	uint8_t gid[16];
	uint32_t grh = 0;

	if (to->qp_type == IBV_QPT_UD) {
		assert(inet_pton(AF_INET, source, &sin.sin_addr) == 1);
		gid_set(gid, &sin);
		grh_make(message, gid);
		grh = GRH;
		wc.wc_flags = IBV_WC_GRH;
	}
	if (imm) {
		wc.imm_data = htonl(*imm);
		wc.wc_flags |= IBV_WC_WITH_IMM;
	}
	if (len)
		memcpy(message + grh, data, len);
	return deliver(container_of(to, struct qp, qp), &wc, message, grh + len) == IBV_WC_SUCCESS;
}

/* --- queue pairs and sending ----------------------------------------------------------------- */

static struct qp *qp_make(struct ibv_qp_init_attr *attr)
{
	struct qp *qp = make(sizeof(*qp)), **at = &qps;

	*qp = (struct qp){
	    .qp = {.qp_num = next_qpn++, .qp_type = attr->qp_type, .state = IBV_QPS_RTS},
	    .cq = container_of(attr->send_cq, struct cq, cq),
	    .srq = container_of(attr->srq, struct srq, srq),
	    .max_send = attr->cap.max_send_wr,
	};
	assert(attr->send_cq == attr->recv_cq && attr->srq &&
	       attr->cap.max_send_sge <= fake.max_sge);
	while (*at)
		at = &(*at)->next;
	*at = qp;
	return qp;
}

static void qp_unmake(struct qp *qp)
{
	struct qp **at = &qps;

	while (*at != qp)
		at = &(*at)->next;
	*at = qp->next;
	if (qp->remote)
		qp->remote->remote = NULL;
	for (struct work **w = &works, *work; (work = *w);) {
		if (work->qp != qp) {
			w = &work->next;
			continue;
		}
		*w = work->next;
		unmake(work);
	}
	unmake(qp);
}

static int create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	assert(pd && attr->qp_type == IBV_QPT_RC);
	if (fails())
		return -1;
	id->qp = &qp_make(attr)->qp;
	gid_set(container_of(id->qp, struct qp, qp)->gid, &id->route.addr.src_sin);
	return 0;
}

static void destroy_qp(struct rdma_cm_id *id)
{
	qp_unmake(container_of(id->qp, struct qp, qp));
	id->qp = NULL;
}

static struct ibv_qp *create_ud_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	assert(pd && attr->qp_type == IBV_QPT_UD);
	return fails() ? NULL : &qp_make(attr)->qp;
}

static int destroy_ud_qp(struct ibv_qp *qp)
{
	qp_unmake(container_of(qp, struct qp, qp));
	return 0;
}

static int modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	assert(mask & IBV_QP_STATE);
	if (fails())
		return ENOMEM;
	qp->state = attr->qp_state;
	return 0;
}

struct ibv_qp *fake_qp(enum ibv_qp_type type, unsigned i)
{
	for (struct qp *qp = qps; qp; qp = qp->next)
		if (qp->qp.qp_type == type && !i--)
			return &qp->qp;
	return NULL;
}

void fake_break(struct ibv_qp *qp, enum ibv_wc_status status)
{
	container_of(qp, struct qp, qp)->broken = status;
}

static enum ibv_wc_status rc_deliver(const struct qp *from, const struct ibv_send_wr *wr,
				     const uint8_t *message, uint32_t len)
{
	struct ibv_wc wc = {.src_qp = from->qp.qp_num};

	if (is_down(from->gid + 12))
		return IBV_WC_LOC_QP_OP_ERR;
	if (!from->remote || from->remote->qp.state == IBV_QPS_ERR ||
	    is_down(from->remote->gid + 12))
		return IBV_WC_RETRY_EXC_ERR;
	if (wr->opcode == IBV_WR_SEND_WITH_IMM) {
		wc.imm_data = wr->imm_data;
		wc.wc_flags = IBV_WC_WITH_IMM;
	}
	return deliver(from->remote, &wc, message + GRH, len);
}

/* Nobody learns what becomes of a datagram. */
static void ud_deliver(const struct qp *from, const struct ibv_send_wr *wr, uint8_t *message,
		       uint32_t len)
{
	const struct ah *ah = container_of(wr->wr.ud.ah, struct ah, ah);
	struct ibv_wc wc = {.src_qp = from->qp.qp_num, .wc_flags = IBV_WC_GRH};
	struct qp *to = qp_find(wr->wr.ud.remote_qpn);

	assert(len <= 1024 && wr->wr.ud.remote_qkey == QKEY);
	if (!to || memcmp(to->gid, ah->gid, 16) != 0 || is_down(from->gid + 12) ||
	    is_down(to->gid + 12))
		return;
	if (fake.lose) {
		fake.lose--;
		return;
	}
	grh_make(message, from->gid);
	deliver(to, &wc, message, GRH + len);
}

static void work_do(struct qp *qp, const struct ibv_send_wr *wr, const struct ibv_sge *sges)
{
	static uint8_t message[GRH + MESSAGE_MAX];
	struct ibv_wc wc = {.wr_id = wr->wr_id, .opcode = IBV_WC_SEND, .qp_num = qp->qp.qp_num};
	uint32_t len = 0;

	wc.status = qp->broken;
	for (int i = 0; i < wr->num_sge && !wc.status; i++) {
		if (!sge_good(&sges[i], false) || len + sges[i].length > MESSAGE_MAX) {
			wc.status = IBV_WC_LOC_PROT_ERR;
			break;
		}
		memcpy(message + GRH + len, (void *)(uintptr_t)sges[i].addr, sges[i].length);
		len += sges[i].length;
	}
	if (fake.replace) {
		len = fake.replace_len;
		memcpy(message + GRH, fake.replace, len);
		fake.replace = NULL;
	}
	if (!wc.status && qp->qp.qp_type == IBV_QPT_UD)
		ud_deliver(qp, wr, message, len);
	else if (!wc.status)
		wc.status = rc_deliver(qp, wr, message, len);
	if (wc.status)
		qp->broken = IBV_WC_WR_FLUSH_ERR;
	qp->outstanding++;
	if (!wc.status && !(wr->send_flags & IBV_SEND_SIGNALED))
		return;
	qp->outstanding = 0;
	wc_push(qp->cq, &wc);
}

static void work_queue(struct qp *qp, const struct ibv_send_wr *wr)
{
	struct work **at = &works, *work = make(sizeof(*work));

	work->qp = qp;
	work->wr = *wr;
	memcpy(work->sges, wr->sg_list, (size_t)wr->num_sge * sizeof(*wr->sg_list));
	while (*at)
		at = &(*at)->next;
	*at = work;
}

static int post_send(struct ibv_qp *to, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct qp *qp = container_of(to, struct qp, qp);

	*bad = wr;
	if (fails())
		return ENOMEM;
	fake.posts++;
	for (; wr; wr = wr->next) {
		assert(wr->num_sge <= (int)fake.max_sge && qp->outstanding < qp->max_send);
		fake.sends++;
		if (fake.paused)
			work_queue(qp, wr);
		else
			work_do(qp, wr, wr->sg_list);
	}
	return 0;
}

void fake_resume(void)
{
	fake.paused = false;
	for (struct work *work; (work = works);) {
		works = work->next;
		work_do(work->qp, &work->wr, work->sges);
		unmake(work);
	}
}

static struct ibv_ah *create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr)
{
	struct ah *ah;

	assert(pd);
	if (fails())
		return NULL;
	ah = make(sizeof(*ah));
	memcpy(ah->gid, attr->grh.dgid.raw, 16);
	return &ah->ah;
}

static int destroy_ah(struct ibv_ah *ah)
{
	unmake(container_of(ah, struct ah, ah));
	return 0;
}

static const char *wc_status_str(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_RETRY_EXC_ERR:
		return "transport retry counter exceeded";
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return "RNR retry counter exceeded";
	case IBV_WC_LOC_PROT_ERR:
		return "local protection error";
	default:
		return "a failure";
	}
}

static const char *event_str(enum rdma_cm_event_type event)
{
	return event == RDMA_CM_EVENT_ESTABLISHED ? "established" : "an event";
}

const struct ib_calls fake_verbs = {
    .get_devices = get_devices,
    .free_devices = free_devices,
    .create_event_channel = create_event_channel,
    .destroy_event_channel = destroy_event_channel,
    .get_cm_event = get_cm_event,
    .ack_cm_event = ack_cm_event,
    .create_id = create_id,
    .destroy_id = destroy_id,
    .bind_addr = bind_addr,
    .listen = listen_,
    .resolve_addr = resolve_addr,
    .resolve_route = resolve_route,
    .connect = connect_,
    .accept = accept_,
    .reject = reject_,
    .create_qp = create_qp,
    .destroy_qp = destroy_qp,
    .query_device = query_device,
    .query_port = query_port,
    .get_async_event = get_async_event,
    .ack_async_event = ack_async_event,
    .alloc_pd = alloc_pd,
    .dealloc_pd = dealloc_pd,
    .reg_mr = reg_mr,
    .dereg_mr = dereg_mr,
    .create_comp_channel = create_comp_channel,
    .destroy_comp_channel = destroy_comp_channel,
    .create_cq = create_cq,
    .destroy_cq = destroy_cq,
    .req_notify_cq = req_notify_cq,
    .get_cq_event = get_cq_event,
    .ack_cq_events = ack_cq_events,
    .poll_cq = poll_cq,
    .create_srq = create_srq,
    .destroy_srq = destroy_srq,
    .post_srq_recv = post_srq_recv,
    .create_ud_qp = create_ud_qp,
    .destroy_ud_qp = destroy_ud_qp,
    .modify_qp = modify_qp,
    .post_send = post_send,
    .create_ah = create_ah,
    .destroy_ah = destroy_ah,
    .wc_status_str = wc_status_str,
    .event_str = event_str,
};
