/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An overlay's end in this process: loop, core, links, routes, captures and the words that control them.
 * What weft (the VMM) and vnetd share. Control words: vnet/control.h.
 */
#ifndef WEFT_OVERLAY_H
#define WEFT_OVERLAY_H

#include "vnet/link.h"
#include "vnet/port.h"

struct overlay;

struct overlay_options {
	uint32_t vni;
	const char *const *listens, *const *links; /* URLs, NULL-terminated or NULL */
	const char *const *words;  /* control lines ("route add ..."), NULL-terminated or NULL */
	const char *file;          /* a file of control lines, or NULL */
	const char *key_file;      /* or NULL */
	bool offload, learn, transit, neighbours;
};

/* overlay_create - 0 or -errno with a one-line message in @error. @loop is the data loop (the sidecar's). */
int overlay_create(struct loop *loop, const struct overlay_options *options, struct overlay **overlay,
		   char error[LINK_ERROR_MAX]);
void overlay_destroy(struct overlay *overlay);
struct core *overlay_core(struct overlay *overlay);
/* overlay_mtu - the largest guest MTU that every link carries; 1500 without links. */
uint32_t overlay_mtu(const struct overlay *overlay);

#endif
