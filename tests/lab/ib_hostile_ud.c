/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ib_hostile_ud OWN TARGET ATTACK: a peer that means harm, by datagrams.
 *
 * Theory of operation
 *
 * TARGET is where weft listens (--listen ib://TARGET,type=ud) and has a link to OWN. A request to
 * it tells the number of its queue pair: then anybody can send. What comes from the queue pair that
 * answered weft's own request is the peer's, anything else a stranger's. Datagrams are not
 * acknowledged, so status 0 says no more than that they were sent; what weft has counted, and that
 * it serves its other peers, is for the caller to see (scenarios/ib-hostile-ud), and a hang for the
 * caller to end.
 */
#include "tests/lab/ib_hostile.h"

#define RESOLVE_MS 5000
#define GRH	   40u
#define QKEY	   0x01234567u /* RDMA_UDP_QKEY */
#define MTU	   4096u
#define RECEIVES   16u
#define RECEIVE	   (GRH + MTU)
#define BUFFER	   (MTU + RECEIVES * RECEIVE)
#define SEND_DONE  1u /* ids of work requests; those of receives are offsets in the buffer */
#define MANY	   20u
#define FLOOD	   3000u

struct hostile {
	const char *own, *target;
	struct rdma_event_channel *channel;
	struct rdma_cm_id *listener;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *mr;
	uint8_t *buffer; /* what is sent, then what is received */
	struct ibv_ah *ah;
	uint32_t qpn, qkey; /* weft's */
	uint8_t *message;   /* the last of weft's, and its length */
	uint32_t message_len;
	uint8_t reason; /* of the last rejection */
};

/* --- requests and answers -------------------------------------------------------------------- */

static struct hello hello_own(const struct hostile *h)
{
	struct hello hello = hello_make();

	packet_put32(hello.qpn, h->qp ? h->qp->qp_num : 1);
	return hello;
}

/* The next event, whose id it returns; weft's numbers, if it tells them. */
static struct rdma_cm_id *event_next(struct hostile *h, enum rdma_cm_event_type *type)
{
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;

	check(!rdma_get_cm_event(h->channel, &event), "no event");
	*type = event->event;
	id = event->id;
	if (*type == RDMA_CM_EVENT_ESTABLISHED) {
		h->qpn = event->param.ud.qp_num;
		h->qkey = event->param.ud.qkey;
		if (h->pd && !h->ah)
			h->ah = ibv_create_ah(h->pd, &event->param.ud.ah_attr);
	} else if (event->param.ud.private_data_len >= sizeof(struct hello)) {
		h->reason = ((const struct hello *)event->param.ud.private_data)->reason;
	}
	rdma_ack_cm_event(event);
	return id;
}

static void expect(struct hostile *h, enum rdma_cm_event_type wanted)
{
	enum rdma_cm_event_type type;

	do
		event_next(h, &type);
	while (type == RDMA_CM_EVENT_CONNECT_REQUEST && type != wanted);
	check(type == wanted, "%s instead of %s", rdma_event_str(type), rdma_event_str(wanted));
}

static struct rdma_cm_id *id_reach(struct hostile *h)
{
	struct sockaddr_in own, target;
	struct rdma_cm_id *id;

	address_of(h->own, &own);
	address_of(h->target, &target);
	target.sin_port = htons(PORT);
	check(!rdma_create_id(h->channel, &id, h, RDMA_PS_UDP), "rdma_create_id");
	check(
	    !rdma_resolve_addr(id, (struct sockaddr *)&own, (struct sockaddr *)&target, RESOLVE_MS),
	    "rdma_resolve_addr");
	expect(h, RDMA_CM_EVENT_ADDR_RESOLVED);
	check(!rdma_resolve_route(id, RESOLVE_MS), "rdma_resolve_route");
	expect(h, RDMA_CM_EVENT_ROUTE_RESOLVED);
	return id;
}

static void request_send(struct hostile *h, struct rdma_cm_id *id, const void *hello, size_t len,
			 enum rdma_cm_event_type wanted)
{
	struct rdma_conn_param param = {.private_data = len ? hello : NULL,
					.private_data_len = (uint8_t)len,
					.qp_num = h->qp ? h->qp->qp_num : 1};

	check(!rdma_connect(id, &param), "rdma_connect");
	expect(h, wanted);
}

static void listen_on(struct hostile *h)
{
	struct sockaddr_in own;

	address_of(h->own, &own);
	own.sin_port = htons(PORT);
	check(!rdma_create_id(h->channel, &h->listener, h, RDMA_PS_UDP) &&
		  !rdma_bind_addr(h->listener, (struct sockaddr *)&own) &&
		  !rdma_listen(h->listener, 8),
	      "cannot listen");
}

/* Answers weft's next request with these; @qpn 0: rejects it. */
static void request_answer(struct hostile *h, const void *hello, size_t len, uint32_t qpn)
{
	struct rdma_conn_param param = {
	    .private_data = len ? hello : NULL, .private_data_len = (uint8_t)len, .qp_num = qpn};
	enum rdma_cm_event_type type;
	struct rdma_cm_id *id;

	do
		id = event_next(h, &type);
	while (type != RDMA_CM_EVENT_CONNECT_REQUEST);
	check(!(qpn ? rdma_accept(id, &param) : rdma_reject(id, hello, (uint8_t)len)),
	      "cannot answer");
	rdma_destroy_id(id);
}

/* --- datagrams ------------------------------------------------------------------------------- */

static void qp_state(struct hostile *h, enum ibv_qp_state state, int more)
{
	struct ibv_qp_attr attr = {.qp_state = state, .port_num = 1, .qkey = QKEY};

	check(!ibv_modify_qp(h->qp, &attr, IBV_QP_STATE | more), "ibv_modify_qp to %d", state);
}

static void qp_make(struct hostile *h, struct ibv_context *verbs)
{
	struct ibv_qp_init_attr attr = {
	    .cap = {.max_send_wr = 4,
		    .max_recv_wr = RECEIVES,
		    .max_send_sge = 1,
		    .max_recv_sge = 1},
	    .qp_type = IBV_QPT_UD,
	};

	h->pd = ibv_alloc_pd(verbs);
	h->cq = ibv_create_cq(verbs, 2 * RECEIVES, NULL, NULL, 0);
	check(h->pd && h->cq, "ibv_create_cq");
	h->mr = ibv_reg_mr(h->pd, h->buffer, BUFFER, IBV_ACCESS_LOCAL_WRITE);
	check(h->mr, "ibv_reg_mr");
	attr.send_cq = attr.recv_cq = h->cq;
	h->qp = ibv_create_qp(h->pd, &attr);
	check(h->qp, "ibv_create_qp");
	qp_state(h, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY);
	for (unsigned i = 0; i < RECEIVES; i++) {
		struct ibv_sge sge = {(uintptr_t)h->buffer + MTU + i * RECEIVE, RECEIVE,
				      h->mr->lkey};
		struct ibv_recv_wr wr = {.wr_id = MTU + i * RECEIVE, .sg_list = &sge, .num_sge = 1},
				   *bad;

		check(!ibv_post_recv(h->qp, &wr, &bad), "ibv_post_recv");
	}
	qp_state(h, IBV_QPS_RTR, 0);
	qp_state(h, IBV_QPS_RTS, IBV_QP_SQ_PSN);
}

/* Takes completions until one of a kind comes: of a send, or of a message of weft's. */
static void complete(struct hostile *h, bool send)
{
	struct ibv_wc wc;

	do {
		while (!ibv_poll_cq(h->cq, 1, &wc))
			pause_ms(1);
		check(wc.status == IBV_WC_SUCCESS, "%s", ibv_wc_status_str(wc.status));
		if (wc.wr_id != SEND_DONE) {
			h->message = h->buffer + wc.wr_id + GRH;
			h->message_len = wc.byte_len - GRH;
		}
	} while ((wc.wr_id == SEND_DONE) != send);
}

static void datagram_send(struct hostile *h, const void *data, uint32_t len)
{
	struct ibv_sge sge = {(uintptr_t)h->buffer, len, h->mr->lkey};
	struct ibv_send_wr *bad, wr = {.wr_id = SEND_DONE,
				       .opcode = IBV_WR_SEND,
				       .send_flags = IBV_SEND_SIGNALED,
				       .sg_list = &sge,
				       .num_sge = 1};

	wr.wr.ud.ah = h->ah;
	wr.wr.ud.remote_qpn = h->qpn;
	wr.wr.ud.remote_qkey = h->qkey;
	memcpy(h->buffer, data, len);
	check(!ibv_post_send(h->qp, &wr, &bad), "ibv_post_send");
	complete(h, true);
}

/* From here on datagrams reach weft, as a stranger's. */
static void know_weft(struct hostile *h)
{
	struct rdma_cm_id *id = id_reach(h);
	struct hello hello;

	qp_make(h, id->verbs);
	hello = hello_own(h);
	request_send(h, id, &hello, sizeof(hello), RDMA_CM_EVENT_ESTABLISHED);
	check(h->ah, "ibv_create_ah");
}

/* weft's link comes up; leaves our hello in @out and returns its length. */
static uint32_t come_up(struct hostile *h, uint8_t out[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE])
{
	struct hello hello;
	struct session_message heard;
	struct geneve_extras extras;
	enum drop_reason reason;
	size_t offset;
	uint32_t len;

	know_weft(h);
	listen_on(h);
	hello = hello_own(h);
	request_answer(h, &hello, sizeof(hello), h->qp->qp_num);
	complete(h, false);
	offset = geneve_parse(h->message, h->message_len, VNI, &extras, &reason);
	check(offset && extras.control &&
		  session_message_parse(h->message + offset, h->message_len - offset, &heard),
	      "weft's first message is no hello");
	len = session_hello(out, &heard);
	datagram_send(h, out, len);
	return len;
}

/* --- attacks: datagrams ---------------------------------------------------------------------- */

/* Well formed, from a queue pair that weft has never asked. */
static void attack_stranger(struct hostile *h)
{
	const struct session_message nobody = {0};
	uint8_t hello[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE];
	uint32_t len = session_hello(hello, &nobody);

	know_weft(h);
	for (unsigned i = 0; i < MANY; i++)
		datagram_send(h, hello, i ? len : 0);
}

/* The adapter throws away what has another key: only the last arrives. */
static void attack_key(struct hostile *h)
{
	know_weft(h);
	h->qkey ^= 1;
	for (unsigned i = 0; i < MANY; i++)
		datagram_send(h, "harm", 4);
	h->qkey ^= 1;
	datagram_send(h, "harm", 4);
}

/* Cut off everywhere, with one byte that is another, as long as can be. */
static void attack_garbage(struct hostile *h)
{
	uint8_t hello[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE], most[MTU];
	uint32_t len = come_up(h, hello);

	for (uint32_t i = 0; i < len; i++)
		datagram_send(h, hello, i);
	for (uint32_t i = 0; i < len; i++) {
		hello[i] ^= 0xff;
		datagram_send(h, hello, len);
		hello[i] ^= 0xff;
	}
	memset(most, 0xff, sizeof(most));
	datagram_send(h, most, sizeof(most));
	memset(most, 0, sizeof(most));
	datagram_send(h, most, sizeof(most));
}

static void part_send(struct hostile *h, uint32_t id, uint32_t total, uint32_t offset, uint32_t len)
{
	const struct geneve_extras extras = {.part = true, .where = {id, total, offset}};
	uint8_t part[MTU] = {0};
	size_t header = geneve_build(part, VNI, &extras);

	datagram_send(h, part, (uint32_t)header + len);
}

/* Frames without end, too many of them, with parts that overlap, contradict and lie outside. */
static void attack_parts(struct hostile *h)
{
	uint8_t hello[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE];

	come_up(h, hello);
	for (uint32_t id = 0; id < FLOOD / 4; id++)
		part_send(h, id, FRAME_SIZE_MAX, id % 7 * 3000, 3000);
	for (uint32_t id = FLOOD; id < FLOOD + MANY; id++) {
		part_send(h, id, 9000, 0, 3000);
		part_send(h, id, 9000, 1500, 3000);
		part_send(h, id, 8000, 3000, 3000);
		part_send(h, id, 9000, 8999, 3000);
		part_send(h, id, 0xffffffff, 0xfffffff0, 3000);
		part_send(h, id, 9000, 3000, 0);
	}
}

/* More than there are buffers, which all peers share. */
static void attack_flood(struct hostile *h)
{
	uint8_t hello[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE];
	uint32_t len = come_up(h, hello);

	for (unsigned i = 0; i < FLOOD; i++)
		datagram_send(h, hello, len);
}

/* --- attacks: requests ----------------------------------------------------------------------- */

static void expect_rejection(struct hostile *h, const char *what, const void *hello, size_t len,
			     uint8_t reason)
{
	struct rdma_cm_id *id = id_reach(h);

	h->reason = 0;
	request_send(h, id, hello, len, RDMA_CM_EVENT_UNREACHABLE);
	printf("%s: rejected for %u\n", what, h->reason);
	check(h->reason == reason, "%s: reason %u instead of %u", what, h->reason, reason);
	rdma_destroy_id(id);
}

static void attack_hello(struct hostile *h)
{
	enum { NOT_PEER = 1, FOREIGN };
	const struct hello good = hello_make();
	struct hello bad = good;

	expect_rejection(h, "no hello", NULL, 0, NOT_PEER);
	expect_rejection(h, "half of it", &good, 6, NOT_PEER);
	bad.magic[3]++;
	expect_rejection(h, "another magic", &bad, sizeof(bad), NOT_PEER);
	bad = good;
	bad.version++;
	expect_rejection(h, "another version", &bad, sizeof(bad), NOT_PEER);
	bad = good;
	bad.port[0]++;
	expect_rejection(h, "another port", &bad, sizeof(bad), NOT_PEER);
	bad = good;
	bad.vni[0]++;
	expect_rejection(h, "another overlay", &bad, sizeof(bad), FOREIGN);
}

/* Starts anew, and anew: each request names another queue pair. */
static void attack_churn(struct hostile *h)
{
	uint8_t out[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE];
	struct hello hello;

	come_up(h, out);
	hello = hello_own(h);
	for (uint32_t i = 0; i < MANY; i++) {
		struct rdma_cm_id *id = id_reach(h);

		packet_put32(hello.qpn, 0xffffff - i);
		request_send(h, id, &hello, sizeof(hello), RDMA_CM_EVENT_ESTABLISHED);
		rdma_destroy_id(id);
	}
}

/* weft's own requests get bad answers; the last names a queue pair that is not there. */
static void attack_answer(struct hostile *h)
{
	struct hello bad = hello_make();

	listen_on(h);
	request_answer(h, NULL, 0, 1000);
	request_answer(h, &bad, 6, 1000);
	bad.vni[1]++;
	request_answer(h, &bad, sizeof(bad), 1000);
	for (bad.reason = 0; bad.reason < 9; bad.reason += 3)
		request_answer(h, &bad, sizeof(bad), 0);
	bad = hello_make();
	request_answer(h, &bad, sizeof(bad), 0xfffffe);
	pause_ms(1000);
}

/* --- the program ----------------------------------------------------------------------------- */

static const struct attack {
	const char *name;
	void (*run)(struct hostile *h);
} attacks[] = {
    {"stranger", attack_stranger}, {"key", attack_key},	      {"garbage", attack_garbage},
    {"parts", attack_parts},	   {"flood", attack_flood},   {"hello", attack_hello},
    {"churn", attack_churn},	   {"answer", attack_answer},
};

int main(int argc, char **argv)
{
	struct hostile h = {0};

	if (argc != 4) {
		fprintf(stderr, "Usage: ib_hostile_ud OWN TARGET ATTACK\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	h.own = argv[1];
	h.target = argv[2];
	h.buffer = calloc(1, BUFFER);
	h.channel = rdma_create_event_channel();
	check(h.buffer && h.channel, "no event channel");
	for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
		if (strcmp(argv[3], attacks[i].name) != 0)
			continue;
		attacks[i].run(&h);
		return 0; /* what there is ends with the process */
	}
	fprintf(stderr, "no attack '%s'\n", argv[3]);
	return 2;
}
