/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The overlay's options on a command line, for struct overlay_options. */
#ifndef WEFT_OVERLAY_OPTIONS_H
#define WEFT_OVERLAY_OPTIONS_H

#include "vnet/cmdline.h"
#include "vnet/overlay.h"

/* overlay_options_init - what holds where nothing is said. */
void overlay_options_init(struct overlay_options *options);
/* overlay_options_table - --listen, --link, --vni, --route, --overlay, --key-file, switches. */
struct cmdline_table overlay_options_table(struct overlay_options *options);
/* overlay_options_links - the kinds of links, for cmdline.more. */
void overlay_options_links(FILE *out, bool man);

#endif
