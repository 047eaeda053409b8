/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An RDMA adapter that is not there: connections, queue pairs and completions between endpoints of
 * one process. What is sent arrives at once, or when the test says so; any call can be made to
 * fail.
 */
#ifndef WEFT_FAKE_VERBS_H
#define WEFT_FAKE_VERBS_H

#include <stdbool.h>
#include <stdint.h>

#include "vnet/ib_calls.h"

extern const struct ib_calls fake_verbs;

struct fake_state {
	unsigned calls;	  /* that could have failed */
	unsigned fail_at; /* this one does; 0: none */
	bool failed;
	bool absent;	     /* there is no adapter */
	bool paused;	     /* what is posted stays where it is */
	bool unreachable;    /* no address is found */
	const void *refuse;  /* memory that cannot be registered; or NULL */
	bool lose_receive;   /* the next message breaks its connection half way */
	unsigned down;	     /* ports, a bit each: of odd addresses 1 << 1, of even ones 1 << 2 */
	unsigned deaf;	     /* ports whose connection manager tried to send while they were down */
	bool keep_srq;	     /* receive queues are said not to be destroyed */
	unsigned lose;	     /* so many datagrams */
	const void *replace; /* the next message becomes this one; or NULL */
	uint32_t replace_len;
	unsigned max_sge, max_srq_sge;
	int live;	       /* objects that were made and not destroyed */
	unsigned sends, posts; /* work requests, calls */
	unsigned pieces;       /* of receive requests, beyond the first one of each */
};
extern struct fake_state fake;

/* fake_reset - a new adapter; the objects of the last one are gone. */
void fake_reset(void);
/* fake_resume - what was paused happens. */
void fake_resume(void);
/* fake_qp - the i-th queue pair of this type that lives, oldest first; NULL: there are fewer. */
struct ibv_qp *fake_qp(enum ibv_qp_type type, unsigned i);
/* fake_inject - a message arrives at a queue pair. @imm: immediate data, or NULL. False: there is
 * no buffer. */
bool fake_inject(struct ibv_qp *to, uint32_t src_qp, const char *source, const void *data,
		 uint32_t len, const uint32_t *imm);
/* fake_immediate - that of the last message that came to a queue pair. */
uint32_t fake_immediate(const struct ibv_qp *qp);
/* fake_registrations - how many there are of memory from this address on. */
unsigned fake_registrations(const void *addr);
/* fake_break - a queue pair fails: its sends end with this status. */
void fake_break(struct ibv_qp *qp, enum ibv_wc_status status);
/* fake_remove - the adapter is pulled out. */
void fake_remove(void);

#endif
