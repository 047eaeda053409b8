/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ib_hostile OWN TARGET ATTACK [ADDRESS KEY]: a peer that means harm.
 *
 * Theory of operation
 *
 * TARGET is where weft listens (--listen ib://TARGET) and has a link to OWN, so that it takes this
 * program for a peer. Each attack makes a connection of its own by rdma_cm, does what a peer must
 * not do, and waits for what has to follow: the adapter refuses, or weft ends the connection.
 * Status 0 if it did. Whether weft has counted it and serves its other peers is for the caller to
 * see (scenarios/ib-hostile).
 *
 * The queue pair is not rdma_cm's: its states are gone through here, because the peer's side of an
 * agreement is not asked what an attack may use.
 *
 * A hang is ended by the caller, too (timeout).
 */
#include <stdbool.h>
#include <unistd.h>

#include "tests/lab/ib_hostile.h"

#define RESOLVE_MS 5000
#define SENDS	   128u
#define RECEIVES   64u
#define RECEIVE	   2048u /* bytes: of weft's messages */
#define LONG	   131072u
#define BUFFER	   (LONG + RECEIVES * RECEIVE)
#define PATTERN	   0xaa
#define SEND_DONE  1u /* ids of work requests; those of receives are offsets in the buffer */
#define FOR_EVER   7  /* of rnr_retry_count */

struct hostile {
	const char *own, *target;
	uint64_t address; /* of what is not ours to touch, and its key */
	uint32_t key;
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *mr;
	uint8_t *buffer;
	uint32_t received; /* weft's messages */
	uint8_t *message;  /* the last of them, and its length */
	uint32_t message_len;
	uint8_t reason;		      /* of a rejection; 0: it did not say */
	uint8_t retries, rnr_retries; /* of weft's */
	uint8_t ack_timeout;	      /* 4096 ns * 2^n, for both sides; 0: the usual */
};

/* --- connections ----------------------------------------------------------------------------- */

/* The next event's type. */
static enum rdma_cm_event_type event_next(struct hostile *h)
{
	const struct hello *answer;
	struct rdma_cm_event *event;
	enum rdma_cm_event_type type;

	check(!rdma_get_cm_event(h->channel, &event), "no event");
	type = event->event;
	answer = event->param.conn.private_data;
	if (type == RDMA_CM_EVENT_REJECTED)
		h->reason = answer && event->param.conn.private_data_len >= sizeof(*answer)
				? answer->reason
				: 0;
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
		h->id = event->id;
	rdma_ack_cm_event(event);
	return type;
}

static void expect(struct hostile *h, enum rdma_cm_event_type wanted)
{
	enum rdma_cm_event_type type = event_next(h);

	check(type == wanted, "%s instead of %s", rdma_event_str(type), rdma_event_str(wanted));
}

/* weft ends the connection, sooner or later. */
static void expect_end(struct hostile *h)
{
	expect(h, RDMA_CM_EVENT_DISCONNECTED);
	printf("weft ended the connection\n");
}

static void id_reach(struct hostile *h)
{
	struct sockaddr_in own, target;

	address_of(h->own, &own);
	address_of(h->target, &target);
	target.sin_port = htons(PORT);
	check(!rdma_create_id(h->channel, &h->id, h, RDMA_PS_TCP), "rdma_create_id");
	check(!rdma_resolve_addr(h->id, (struct sockaddr *)&own, (struct sockaddr *)&target,
				 RESOLVE_MS),
	      "rdma_resolve_addr");
	expect(h, RDMA_CM_EVENT_ADDR_RESOLVED);
	if (h->ack_timeout)
		check(!rdma_set_option(h->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT,
				       &h->ack_timeout, sizeof(h->ack_timeout)),
		      "rdma_set_option");
	check(!rdma_resolve_route(h->id, RESOLVE_MS), "rdma_resolve_route");
	expect(h, RDMA_CM_EVENT_ROUTE_RESOLVED);
}

static void receive_post(struct hostile *h, uint64_t offset)
{
	struct ibv_sge sge = {(uintptr_t)h->buffer + offset, RECEIVE, h->mr->lkey};
	struct ibv_recv_wr wr = {.wr_id = offset, .sg_list = &sge, .num_sge = 1}, *bad;

	check(!ibv_post_recv(h->qp, &wr, &bad), "ibv_post_recv");
}

static void qp_state(struct hostile *h, enum ibv_qp_state state)
{
	struct ibv_qp_attr attr = {.qp_state = state};
	int mask = IBV_QP_STATE;

	if (state == IBV_QPS_INIT || state == IBV_QPS_RTR || state == IBV_QPS_RTS)
		check(!rdma_init_qp_attr(h->id, &attr, &mask), "rdma_init_qp_attr");
	if (state == IBV_QPS_RTS)
		attr.max_rd_atomic = 1; /* though weft agreed to none */
	check(!ibv_modify_qp(h->qp, &attr, mask), "ibv_modify_qp to %d", state);
}

static void qp_make(struct hostile *h, unsigned receives)
{
	struct ibv_qp_init_attr attr = {
	    .cap = {.max_send_wr = SENDS,
		    .max_recv_wr = RECEIVES,
		    .max_send_sge = 1,
		    .max_recv_sge = 1},
	    .qp_type = IBV_QPT_RC,
	};

	h->pd = ibv_alloc_pd(h->id->verbs);
	check(h->pd, "ibv_alloc_pd");
	h->cq = ibv_create_cq(h->id->verbs, SENDS + RECEIVES, NULL, NULL, 0);
	check(h->cq, "ibv_create_cq");
	h->mr = ibv_reg_mr(h->pd, h->buffer, BUFFER, IBV_ACCESS_LOCAL_WRITE);
	check(h->mr, "ibv_reg_mr");
	attr.send_cq = attr.recv_cq = h->cq;
	h->qp = ibv_create_qp(h->pd, &attr);
	check(h->qp, "ibv_create_qp");
	qp_state(h, IBV_QPS_INIT);
	for (unsigned i = 0; i < receives; i++)
		receive_post(h, LONG + i * RECEIVE);
}

static void request_send(struct hostile *h, const void *hello, uint8_t len)
{
	struct rdma_conn_param param = {.private_data = len ? hello : NULL,
					.private_data_len = len,
					.responder_resources = 1,
					.initiator_depth = 1,
					.retry_count = h->retries,
					.rnr_retry_count = h->rnr_retries,
					.qp_num = h->qp ? h->qp->qp_num : 1};

	check(!rdma_connect(h->id, &param), "rdma_connect");
}

/* A connection as a peer would make it. */
static void connect_with(struct hostile *h, unsigned receives)
{
	const struct hello hello = hello_make();

	id_reach(h);
	qp_make(h, receives);
	request_send(h, &hello, sizeof(hello));
	expect(h, RDMA_CM_EVENT_CONNECT_RESPONSE);
	qp_state(h, IBV_QPS_RTR);
	qp_state(h, IBV_QPS_RTS);
	check(!rdma_establish(h->id), "rdma_establish");
}

static void connection_end(struct hostile *h)
{
	if (h->qp)
		ibv_destroy_qp(h->qp);
	if (h->cq)
		ibv_destroy_cq(h->cq);
	if (h->mr)
		ibv_dereg_mr(h->mr);
	if (h->pd)
		ibv_dealloc_pd(h->pd);
	rdma_destroy_id(h->id);
	h->qp = NULL;
	h->cq = NULL;
	h->mr = NULL;
	h->pd = NULL;
}

/* --- messages -------------------------------------------------------------------------------- */

/* Takes completions until one of a kind comes: of a send, or of a message of weft's. */
static enum ibv_wc_status complete(struct hostile *h, bool send)
{
	struct ibv_wc wc;
	int n;

	for (;;) {
		while (!(n = ibv_poll_cq(h->cq, 1, &wc)))
			pause_ms(1);
		check(n == 1, "ibv_poll_cq");
		if (wc.wr_id != SEND_DONE && wc.status == IBV_WC_SUCCESS) {
			h->received++;
			h->message = h->buffer + wc.wr_id;
			h->message_len = wc.byte_len;
		}
		if ((wc.wr_id == SEND_DONE) == send)
			return wc.status;
	}
}

static struct ibv_send_wr work(enum ibv_wr_opcode opcode, uint32_t imm, struct ibv_sge *sge)
{
	return (struct ibv_send_wr){.wr_id = SEND_DONE,
				    .opcode = opcode,
				    .send_flags = IBV_SEND_SIGNALED,
				    .imm_data = htonl(imm),
				    .sg_list = sge,
				    .num_sge = 1};
}

static enum ibv_wc_status work_do(struct hostile *h, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;

	check(!ibv_post_send(h->qp, wr, &bad), "ibv_post_send");
	return complete(h, true);
}

/* The first @len bytes of the buffer as a message; @imm is the credit that it gives. */
static enum ibv_wc_status send_buffer(struct hostile *h, enum ibv_wr_opcode opcode, uint32_t len,
				      uint32_t imm)
{
	struct ibv_sge sge = {(uintptr_t)h->buffer, len, h->mr->lkey};
	struct ibv_send_wr wr = work(opcode, imm, &sge);

	return work_do(h, &wr);
}

static void message_send(struct hostile *h, const void *message, uint32_t len)
{
	enum ibv_wc_status status;

	memcpy(h->buffer, message, len);
	status = send_buffer(h, IBV_WR_SEND_WITH_IMM, len, h->received);
	check(status == IBV_WC_SUCCESS, "a message was not taken: %s", ibv_wc_status_str(status));
}

/* A connection on which weft's link comes up; leaves our hello in @out and returns its length. */
static uint32_t come_up(struct hostile *h, uint8_t out[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE])
{
	enum drop_reason reason;
	struct geneve_extras extras;
	struct session_message heard;
	size_t offset;
	uint32_t len;

	connect_with(h, RECEIVES);
	check(complete(h, false) == IBV_WC_SUCCESS, "no hello");
	offset = geneve_parse(h->message, h->message_len, VNI, &extras, &reason);
	check(offset && extras.control &&
		  session_message_parse(h->message + offset, h->message_len - offset, &heard),
	      "weft's first message is no hello");
	len = session_hello(out, &heard);
	message_send(h, out, len);
	return len;
}

/* --- attacks: memory ------------------------------------------------------------------------- */

/* To weft's memory, by an address and a key which are right but do not permit it. */
static void remote_access(struct hostile *h, enum ibv_wr_opcode opcode, uint32_t len)
{
	struct ibv_sge sge = {0};
	struct ibv_send_wr wr = work(opcode, 0, &sge);
	enum ibv_wc_status status;

	connect_with(h, RECEIVES);
	sge = (struct ibv_sge){(uintptr_t)h->buffer, len, h->mr->lkey};
	memset(h->buffer, PATTERN, len);
	if (opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
		wr.wr.atomic.remote_addr = h->address;
		wr.wr.atomic.rkey = h->key;
		wr.wr.atomic.compare_add = 1;
	} else {
		wr.wr.rdma.remote_addr = h->address;
		wr.wr.rdma.rkey = h->key;
	}
	status = work_do(h, &wr);
	printf("%s\n", ibv_wc_status_str(status));
	check(status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR,
	      "not refused: %s", ibv_wc_status_str(status));
	for (uint32_t i = 0; i < len; i++)
		check(h->buffer[i] == PATTERN, "it was read");
	expect_end(h);
}

static void attack_write(struct hostile *h)
{
	remote_access(h, IBV_WR_RDMA_WRITE, 64);
}

static void attack_write_immediate(struct hostile *h)
{
	remote_access(h, IBV_WR_RDMA_WRITE_WITH_IMM, 64);
}

static void attack_read(struct hostile *h)
{
	remote_access(h, IBV_WR_RDMA_READ, 64);
}

static void attack_atomic(struct hostile *h)
{
	remote_access(h, IBV_WR_ATOMIC_FETCH_AND_ADD, 8);
}

/* Our own key is wrong: the queue pair breaks here, and weft must find out. */
static void attack_local_key(struct hostile *h)
{
	struct ibv_sge sge = {0};
	struct ibv_send_wr wr = work(IBV_WR_SEND_WITH_IMM, 0, &sge);
	enum ibv_wc_status status;

	connect_with(h, RECEIVES);
	sge = (struct ibv_sge){(uintptr_t)h->buffer, 64, h->mr->lkey ^ 0x5500};
	status = work_do(h, &wr);
	printf("%s\n", ibv_wc_status_str(status));
	check(status == IBV_WC_LOC_PROT_ERR || status == IBV_WC_LOC_QP_OP_ERR,
	      "a wrong key is good");
	expect_end(h);
}

/* --- attacks: states ------------------------------------------------------------------------- */

/* No receive buffer is posted. */
static void attack_no_buffer(struct hostile *h)
{
	h->rnr_retries = 1;
	connect_with(h, 0);
	expect_end(h);
}

static void attack_no_buffer_ever(struct hostile *h)
{
	h->rnr_retries = FOR_EVER;
	connect_with(h, 0);
	expect_end(h);
}

/* The queue pair is gone, the connection is not. */
static void attack_vanish(struct hostile *h)
{
	h->retries = 2; /* weft is to find out by its adapter, not by our silence */
	h->ack_timeout = 14;
	connect_with(h, RECEIVES);
	qp_state(h, IBV_QPS_RESET);
	expect_end(h);
}

static void attack_silent(struct hostile *h)
{
	connect_with(h, RECEIVES);
	expect_end(h);
}

/* Asks, and leaves the answer unanswered. */
static void attack_half(struct hostile *h)
{
	const struct hello hello = hello_make();

	id_reach(h);
	request_send(h, &hello, sizeof(hello));
	expect(h, RDMA_CM_EVENT_CONNECT_RESPONSE);
	printf("then: %s\n", rdma_event_str(event_next(h)));
}

/* Comes up, and says nothing more, nor gives back any credit. */
static void attack_mute(struct hostile *h)
{
	uint8_t hello[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE];

	come_up(h, hello);
	expect_end(h);
}

/* More connections than what their ends may cost (vnet/ib_device.c) makes room for at once. */
static void attack_churn(struct hostile *h)
{
	for (unsigned i = 0; i < 2 * WINDOW; i++) {
		connect_with(h, RECEIVES);
		connection_end(h);
	}
}

/* --- attacks: messages ----------------------------------------------------------------------- */

static void attack_long(struct hostile *h)
{
	enum ibv_wc_status status;

	connect_with(h, RECEIVES);
	status = send_buffer(h, IBV_WR_SEND_WITH_IMM, LONG, 0);
	printf("%s\n", ibv_wc_status_str(status));
	check(status != IBV_WC_SUCCESS, "a message of %u bytes was taken", LONG);
	expect_end(h);
}

static void attack_no_immediate(struct hostile *h)
{
	connect_with(h, RECEIVES);
	send_buffer(h, IBV_WR_SEND, 64, 0);
	expect_end(h);
}

static void attack_credit(struct hostile *h)
{
	connect_with(h, RECEIVES);
	send_buffer(h, IBV_WR_SEND_WITH_IMM, 0, 0x80000000);
	expect_end(h);
}

/* More messages than weft gave credit for, at once: others' buffers, too. */
static void attack_flood(struct hostile *h)
{
	struct ibv_send_wr wrs[SENDS], *bad;
	struct ibv_sge sge;

	connect_with(h, RECEIVES);
	sge = (struct ibv_sge){(uintptr_t)h->buffer, 64, h->mr->lkey};
	for (unsigned i = 0; i < SENDS; i++) {
		wrs[i] = work(IBV_WR_SEND_WITH_IMM, 0, &sge);
		wrs[i].next = i + 1 < SENDS ? &wrs[i + 1] : NULL;
		wrs[i].send_flags = i + 1 < SENDS ? 0 : IBV_SEND_SIGNALED;
	}
	check(!ibv_post_send(h->qp, wrs, &bad), "ibv_post_send");
	expect_end(h);
}

/* A hello with one byte missing at the end, and so on; and with one byte that is another. What
 * weft makes of them does not matter, except that credit is given in time. */
static void attack_garbage(struct hostile *h)
{
	uint8_t hello[GENEVE_HEADER_MAX + SESSION_HELLO_SIZE];
	uint32_t len = come_up(h, hello);

	for (uint32_t i = 0; i < WINDOW / 4; i++)
		message_send(h, hello, i + 1);
	for (uint32_t i = 0; i < sizeof(struct geneve_header); i++) {
		hello[i] ^= 0xff;
		message_send(h, hello, len);
		hello[i] ^= 0xff;
	}
	memset(hello, 0xff, len);
	message_send(h, hello, len);
	expect_end(h);
}

/* --- attacks: requests ----------------------------------------------------------------------- */

static void expect_rejection(struct hostile *h, const char *what, const void *hello, size_t len,
			     uint8_t reason)
{
	id_reach(h);
	request_send(h, hello, (uint8_t)len);
	expect(h, RDMA_CM_EVENT_REJECTED);
	printf("%s: rejected for %u\n", what, h->reason);
	check(h->reason == reason, "%s: reason %u instead of %u", what, h->reason, reason);
	connection_end(h);
}

static void attack_hello(struct hostile *h)
{
	enum { NOT_PEER = 1, FOREIGN, CROSSING, RESOURCES };
	const struct hello good = hello_make();
	uint8_t longer[56] = {0};
	struct hello bad = good;

	expect_rejection(h, "no hello", NULL, 0, NOT_PEER);
	expect_rejection(h, "zeros", longer, sizeof(longer), NOT_PEER);
	expect_rejection(h, "half of it", &good, 6, NOT_PEER); /* zeros follow */
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
	bad = good;
	packet_put32(bad.window, 0);
	expect_rejection(h, "no window", &bad, sizeof(bad), RESOURCES);
}

/* The next request of weft's, which is looking for us. */
static void request_wait(struct hostile *h)
{
	while (event_next(h) != RDMA_CM_EVENT_CONNECT_REQUEST)
		;
}

static void request_accept(struct hostile *h, const void *hello, size_t len)
{
	struct rdma_conn_param param = {.private_data = len ? hello : NULL,
					.private_data_len = (uint8_t)len};

	request_wait(h);
	qp_make(h, RECEIVES);
	qp_state(h, IBV_QPS_RTR);
	qp_state(h, IBV_QPS_RTS);
	param.qp_num = h->qp->qp_num;
	check(!rdma_accept(h->id, &param), "rdma_accept");
	while (event_next(h) != RDMA_CM_EVENT_DISCONNECTED)
		;
	connection_end(h);
}

static struct rdma_cm_id *listener_make(struct hostile *h)
{
	struct rdma_cm_id *listener;
	struct sockaddr_in own;

	address_of(h->own, &own);
	own.sin_port = htons(PORT);
	check(!rdma_create_id(h->channel, &listener, h, RDMA_PS_TCP) &&
		  !rdma_bind_addr(listener, (struct sockaddr *)&own) && !rdma_listen(listener, 8),
	      "cannot listen");
	return listener;
}

/* weft's own requests get bad answers. */
static void attack_answer(struct hostile *h)
{
	struct hello bad = hello_make();
	struct rdma_cm_id *listener = listener_make(h);

	request_accept(h, NULL, 0);
	request_accept(h, &bad, 6);
	packet_put32(bad.window, 0);
	request_accept(h, &bad, sizeof(bad));
	bad = hello_make();
	bad.vni[1]++;
	request_accept(h, &bad, sizeof(bad));
	for (bad.reason = 0; bad.reason < 9; bad.reason += 3) {
		request_wait(h);
		check(!rdma_reject(h->id, &bad, sizeof(bad)), "rdma_reject");
		connection_end(h);
	}
	request_wait(h);
	rdma_destroy_id(listener);
}

/* Listens, and answers nobody: so that what weft says of an attack stays said for a while. */
static void attack_listen(struct hostile *h)
{
	listener_make(h);
	printf("listening\n");
	for (;;)
		pause();
}

/* --- the program ----------------------------------------------------------------------------- */

static const struct attack {
	const char *name;
	void (*run)(struct hostile *h);
} attacks[] = {
    {"write", attack_write},
    {"write-immediate", attack_write_immediate},
    {"read", attack_read},
    {"atomic", attack_atomic},
    {"local-key", attack_local_key},
    {"no-buffer", attack_no_buffer},
    {"no-buffer-ever", attack_no_buffer_ever},
    {"vanish", attack_vanish},
    {"silent", attack_silent},
    {"half", attack_half},
    {"mute", attack_mute},
    {"churn", attack_churn},
    {"long", attack_long},
    {"no-immediate", attack_no_immediate},
    {"credit", attack_credit},
    {"flood", attack_flood},
    {"garbage", attack_garbage},
    {"hello", attack_hello},
    {"answer", attack_answer},
    {"listen", attack_listen},
};

int main(int argc, char **argv)
{
	struct hostile h = {.retries = FOR_EVER, .rnr_retries = FOR_EVER};

	if (argc != 4 && argc != 6) {
		fprintf(stderr, "Usage: ib_hostile OWN TARGET ATTACK [ADDRESS KEY]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	h.own = argv[1];
	h.target = argv[2];
	if (argc == 6) {
		h.address = strtoull(argv[4], NULL, 0);
		h.key = (uint32_t)strtoul(argv[5], NULL, 0);
	}
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
