/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The core: joins ports. Frames come in by core_input() from one port and leave by send_batch() of others,
 * run to completion on the calling thread, without a queue, an allocation or a copy in between.
 */
#ifndef WEFT_CORE_H
#define WEFT_CORE_H

#include "vnet/port.h"

#define CORE_PORTS_MAX 1024

/* core_create - an overlay core without ports. Returns NULL with errno set. */
struct core *core_create(void);
/* core_destroy - closes every port still attached (ops->close) and frees the core. NULL is fine. */
void core_destroy(struct core *core);

/* core_attach - add a port. Returns 0, -EEXIST for a name in use, -ENOSPC past CORE_PORTS_MAX. */
int core_attach(struct core *core, struct port *port);
/* core_detach - take a port out; it is not closed. */
void core_detach(struct core *core, struct port *port);

/**
 * core_input - take frames in from a port and send each where its route says.
 * @in:     the port they came from; a frame never goes back there
 * @frames: borrowed until the call returns; @n 1..FRAME_BATCH_MAX
 *
 * Counts in_frames/in_bytes and drops (runts, oversize, no route) on @in. What an interface sends goes to
 * every other port; what a link brings goes to the interfaces only, or else a full mesh of links would
 * send frames in circles (split horizon).
 */
void core_input(struct core *core, struct port *in, struct frame *const frames[], unsigned n);

/* core_port - the port at an index (holes are NULL), for listings; core_ports is the first unused index. */
struct port *core_port(const struct core *core, unsigned index);
unsigned core_ports(const struct core *core);

#endif
