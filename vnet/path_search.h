/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The search for the largest datagram that a path carries (RFC 8899). Knows only sizes, sequence
 * numbers and time: the session sends the probes and brings their answers. See path_search.c.
 */
#ifndef WEFT_PATH_SEARCH_H
#define WEFT_PATH_SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#define PATH_PROBES 32u /* the last ones sent, whose answers count however late they come */

struct path_search {
	uint32_t min, max; /* bounds, bytes */
	uint32_t payload;  /* the result in force */
	uint32_t low;	   /* largest known to pass; 0: nothing is known */
	uint32_t high;	   /* largest not known to fail */
	bool high_tried;   /* high itself has been probed, or is not worth it */
	bool verified;	   /* low + 1 was probed once more after the search, and failed */
	uint32_t size;	   /* the probe on its way; 0: none */
	unsigned tries;	   /* of it */
	uint64_t next_ns;  /* the probe on its way counts as lost, or the next check is due */
	uint64_t raise_ns; /* when to try for larger */
	uint32_t sequence; /* of the last probe */
	uint32_t sent[PATH_PROBES]; /* sizes, by sequence; 0: its answer no longer counts */
};

/* path_search_init - @min..@max: bytes; the result is @max until a search has ended. */
void path_search_init(struct path_search *p, uint32_t min, uint32_t max);
/* path_search_start - the peer answers now: search from the beginning. */
void path_search_start(struct path_search *p, uint64_t now_ns);
/**
 * path_search_probe - what is to be sent now.
 * @timeout_ns: how long its answer may take
 * @sequence:   to be set in the probe
 * Returns the size of the probe, bytes; 0: nothing is due before p->next_ns.
 */
uint32_t path_search_probe(struct path_search *p, uint64_t now_ns, uint64_t timeout_ns,
			   uint32_t *sequence);
/* path_search_refused - the host itself would not send the probe: call path_search_probe() again.
 */
void path_search_refused(struct path_search *p, uint64_t now_ns);
/* path_search_answered - the answer to a probe, or something that pretends to be one. */
void path_search_answered(struct path_search *p, uint32_t sequence, uint64_t now_ns);
/* path_search_lower - the host learnt that no more than @max bytes pass. */
void path_search_lower(struct path_search *p, uint32_t max, uint64_t now_ns);

#endif
