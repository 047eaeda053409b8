/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The core's counters as Prometheus text (exposition format 0.0.4). */
#ifndef WEFT_METRICS_H
#define WEFT_METRICS_H

#include <stddef.h>

struct core;
struct links;
struct metrics; /* a copy of all counters at one moment */

/* metrics_take - copy the counters; @links may be NULL. The core's thread. NULL with errno ENOMEM.
 */
struct metrics *metrics_take(const struct core *core, const struct links *links);
/* metrics_text - write them out. Any thread. A string of the caller's, to be freed; NULL with errno
 * set. */
char *metrics_text(const struct metrics *metrics);
void metrics_free(struct metrics *metrics);

#endif
