/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A core with ports that only remember what they were given, frames by number, and a clock set by
 * hand. */
#ifndef WEFT_CORE_RIG_H
#define WEFT_CORE_RIG_H

#include "vnet/core.h"

#define CORE_RIG_PORTS	8u
#define CORE_RIG_TAKEN	256u /* frames that a port remembers; later ones are only counted */
#define CORE_RIG_SECOND UINT64_C(1000000000)

struct core_rig_frame {
	struct frame frame;
	struct iovec iov;
	uint8_t bytes[256];
};

struct core_rig_port {
	struct port port;
	unsigned batches, closed;
	unsigned n;				     /* frames since core_rig_clear() */
	struct core_rig_frame taken[CORE_RIG_TAKEN]; /* copies */
	const struct frame *same[CORE_RIG_TAKEN];
};

struct core_rig {
	struct core *core;
	struct core_rig_port ports[CORE_RIG_PORTS];
	struct core_rig_frame frames[FRAME_BATCH_MAX];
	struct frame *list[FRAME_BATCH_MAX];
};

extern uint64_t core_rig_now_ns;
uint64_t core_rig_clock(void);

/* core_rig_up - a core with the options, with core_rig_clock() in them, and no port. */
void core_rig_up(struct core_rig *rig, struct core_options options);
void core_rig_down(struct core_rig *rig);
/* core_rig_attach - make and attach a port at a place of the rig. */
struct core_rig_port *core_rig_attach(struct core_rig *rig, unsigned place, enum port_kind kind,
				      const char *name);
void core_rig_detach(struct core_rig *rig, unsigned place);
/* core_rig_frame - frame i of 64 bytes between two addresses (mac_load()). */
struct frame *core_rig_frame(struct core_rig *rig, unsigned i, uint64_t source,
			     uint64_t destination);
/* core_rig_bytes - frame i made of these bytes. */
struct frame *core_rig_bytes(struct core_rig *rig, unsigned i, const void *bytes, size_t len);
/* core_rig_send - the first n frames come in by a port. */
void core_rig_send(struct core_rig *rig, unsigned place, unsigned n);
/* core_rig_clear - ports forget what they were given. */
void core_rig_clear(struct core_rig *rig);
/* core_rig_reached - bit i: port i was given a frame since. */
unsigned core_rig_reached(const struct core_rig *rig);
/* core_rig_mac - the i-th of some unicast addresses. */
uint64_t core_rig_mac(unsigned i);

#endif
