/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An overlay's end in this process: loop, core, links, routes, captures and the words that control
 * them. What weft (the VMM) and vnetd share. Control words: vnet/control.h; command line:
 * vnet/overlay_options.h.
 */
#ifndef WEFT_OVERLAY_H
#define WEFT_OVERLAY_H

#include "vnet/link.h"
#include "vnet/port.h"

struct core;
struct iovec;
struct loop;
struct overlay;

struct overlay_options {
	uint32_t vni;
	const char **listens, **links; /* URLs, NULL at the end; or NULL */
	const char **routes;  /* what stands behind "route add", NULL at the end; or NULL */
	const char *file;     /* control lines, or NULL */
	const char *key_file; /* or NULL */
	bool offload, learn, transit, neighbours;
	const struct iovec *memory; /* as in struct link_env */
	unsigned memory_count;
	_Atomic bool *memory_pinned;
};

/**
 * overlay_create - make an overlay as the options say; no thread runs @loop yet.
 * @loop:  the data loop (the sidecar's); it outlives the overlay
 * @error: when it fails, one line that names the option (or FILE:LINE) and the remedy
 *
 * Returns 0, -EINVAL (what was asked for makes no sense) or another -errno (it cannot be had here).
 * When it fails, nothing is left of it.
 */
int overlay_create(struct loop *loop, const struct overlay_options *options,
		   struct overlay **overlay, char error[LINK_ERROR_MAX]);
/* overlay_destroy - close all ports, the interfaces too; no thread runs the loop any more. NULL is
 * fine. */
void overlay_destroy(struct overlay *overlay);
/* overlay_add_tap - attach a tap device as an interface: the host takes the part of a guest. As
 * overlay_create(). */
int overlay_add_tap(struct overlay *overlay, const char *name, char error[LINK_ERROR_MAX]);
struct core *overlay_core(struct overlay *overlay);
/* overlay_mtu - the largest guest MTU that every link carries, bytes; OVERLAY_MTU_ALONE without
 * links. */
uint32_t overlay_mtu(const struct overlay *overlay);
#define OVERLAY_MTU_ALONE 1500u

#endif
