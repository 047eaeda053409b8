/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The real calls. Both libraries are opened when the first link wants them, so that a VM without
 * one neither needs them nor has them in its memory. Some calls are inline in the library's header
 * and go to the adapter's driver directly.
 *
 * ibv_query_port() is called as programs of older releases do: it fills what they know of the
 * attributes, which is all that is used here.
 */
#include "vnet/ib_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>

static int req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
	return ibv_req_notify_cq(cq, solicited_only);
}

static int poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *wc)
{
	return ibv_poll_cq(cq, count, wc);
}

static int post_srq_recv(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	return ibv_post_srq_recv(srq, wr, bad);
}

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	return ibv_post_send(qp, wr, bad);
}

/* clang-format off */
#define SYMBOL(name, member) {#name, offsetof(struct ib_calls, member)}
/* clang-format on */

static const struct symbol {
	const char *name;
	size_t member;
} symbols[] = {
    SYMBOL(rdma_get_devices, get_devices),
    SYMBOL(rdma_free_devices, free_devices),
    SYMBOL(rdma_create_event_channel, create_event_channel),
    SYMBOL(rdma_destroy_event_channel, destroy_event_channel),
    SYMBOL(rdma_get_cm_event, get_cm_event),
    SYMBOL(rdma_ack_cm_event, ack_cm_event),
    SYMBOL(rdma_create_id, create_id),
    SYMBOL(rdma_destroy_id, destroy_id),
    SYMBOL(rdma_bind_addr, bind_addr),
    SYMBOL(rdma_listen, listen),
    SYMBOL(rdma_resolve_addr, resolve_addr),
    SYMBOL(rdma_resolve_route, resolve_route),
    SYMBOL(rdma_connect, connect),
    SYMBOL(rdma_accept, accept),
    SYMBOL(rdma_reject, reject),
    SYMBOL(rdma_create_qp, create_qp),
    SYMBOL(rdma_destroy_qp, destroy_qp),
    SYMBOL(ibv_query_device, query_device),
    SYMBOL(ibv_query_port, query_port),
    SYMBOL(ibv_get_async_event, get_async_event),
    SYMBOL(ibv_ack_async_event, ack_async_event),
    SYMBOL(ibv_alloc_pd, alloc_pd),
    SYMBOL(ibv_dealloc_pd, dealloc_pd),
    SYMBOL(ibv_reg_mr, reg_mr),
    SYMBOL(ibv_dereg_mr, dereg_mr),
    SYMBOL(ibv_create_comp_channel, create_comp_channel),
    SYMBOL(ibv_destroy_comp_channel, destroy_comp_channel),
    SYMBOL(ibv_create_cq, create_cq),
    SYMBOL(ibv_destroy_cq, destroy_cq),
    SYMBOL(ibv_get_cq_event, get_cq_event),
    SYMBOL(ibv_ack_cq_events, ack_cq_events),
    SYMBOL(ibv_create_srq, create_srq),
    SYMBOL(ibv_destroy_srq, destroy_srq),
    SYMBOL(ibv_create_qp, create_ud_qp),
    SYMBOL(ibv_destroy_qp, destroy_ud_qp),
    SYMBOL(ibv_modify_qp, modify_qp),
    SYMBOL(ibv_create_ah, create_ah),
    SYMBOL(ibv_destroy_ah, destroy_ah),
    SYMBOL(ibv_wc_status_str, wc_status_str),
    SYMBOL(rdma_event_str, event_str),
};

int ib_calls_load(struct ib_calls *calls, char why[], size_t size)
{
	/* The first needs the second, and brings it. */
	void *cm = dlopen("librdmacm.so.1", RTLD_NOW), *verbs = dlopen("libibverbs.so.1", RTLD_NOW);

	if (!cm || !verbs) {
		snprintf(why, size,
			 "rdma-core is not installed (packages librdmacm1 and libibverbs1): %s",
			 dlerror());
		return -ENOENT;
	}
	*calls = (struct ib_calls){
	    .req_notify_cq = req_notify_cq,
	    .poll_cq = poll_cq,
	    .post_srq_recv = post_srq_recv,
	    .post_send = post_send,
	};
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		const struct symbol *s = &symbols[i];
		void *found = dlsym(s->name[0] == 'r' ? cm : verbs, s->name);

		if (!found) {
			snprintf(why, size, "this release of rdma-core has no %s()", s->name);
			return -ENOENT;
		}
		*(void **)((char *)calls + s->member) = found;
	}
	return 0;
}
