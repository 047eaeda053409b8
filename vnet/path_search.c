/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A search confirms the lower bound, tries the upper one, which mostly is the answer, and otherwise
 * halves what lies between, to the byte: "low" passes, "high" may. A size has failed when
 * PROBE_TRIES probes of it were lost, or when the host refuses to send it. Probes are messages of
 * their own and carry no data.
 *
 * The result in force changes only when a search has ended: before the first one it is the upper
 * bound, which the host's route gave, and never a bound of a search under way. So what hangs from
 * it (the MTU of guests) does not run through every size on the way. Only path_search_lower()
 * lowers it at once.
 *
 * Loss must not pass for a small path. A search ends just below the smallest size that failed, so
 * that one is tried once more at the end (RFC 8899 has no such step): if it passes, the search goes
 * on upwards from there, and nobody has seen the wrong result. A late answer counts too.
 *
 * Afterwards there are two timers. Each CHECK_NS the size in force is probed: if that fails
 * although the peer answers, large datagrams vanish on the way without a word (a black hole, RFC
 * 8899, 4.3) and the search begins anew below it. Each RAISE_NS one byte more is tried, in case the
 * path has grown.
 *
 * All of it on the thread of its session.
 */
#include <string.h>

#include "vnet/path_search.h"

#define PROBE_TRIES 3u
#define CHECK_NS    5000000000ull
#define STALL_NS    1000000000ull
#define RAISE_NS    30000000000ull

/* The size that has to be tried next; 0: the search has ended. */
static uint32_t size_choose(const struct path_search *p)
{
	if (!p->low)
		return p->min;
	if (p->low < p->high)
		return p->high_tried ? p->low + (p->high - p->low + 1) / 2 : p->high;
	return p->verified || p->low >= p->max ? 0 : p->low + 1;
}

/* The same once it has ended. */
static uint32_t size_check(struct path_search *p, uint64_t now_ns)
{
	if (now_ns < p->raise_ns || p->low >= p->max)
		return p->low;
	p->raise_ns = now_ns + RAISE_NS;
	p->verified = false;
	return p->low + 1;
}

/* What became of the probe on its way is known. */
static void step_end(struct path_search *p, uint64_t now_ns)
{
	p->size = 0;
	p->tries = 0;
	p->next_ns = now_ns;
	if (size_choose(p))
		return;
	p->payload = p->low;
	p->next_ns += CHECK_NS;
}

static void search_restart(struct path_search *p, uint32_t high, bool high_tried, uint64_t now_ns)
{
	p->low = 0;
	p->high = high > p->min ? high : p->min;
	p->high_tried = high_tried;
	p->verified = false;
	memset(p->sent, 0, sizeof(p->sent));
	step_end(p, now_ns);
}

void path_search_start(struct path_search *p, uint64_t now_ns)
{
	search_restart(p, p->max, false, now_ns);
	p->raise_ns = now_ns + RAISE_NS;
}

void path_search_init(struct path_search *p, uint32_t min, uint32_t max)
{
	memset(p, 0, sizeof(*p));
	p->min = min < max ? min : max;
	p->max = max;
	p->payload = max;
	path_search_start(p, 0);
}

static void size_failed(struct path_search *p, uint64_t now_ns)
{
	uint32_t size = p->size;

	if (p->low && size <= p->low) {
		search_restart(p, size - 1, true, now_ns);
		return;
	}
	if (size > p->high) {
		p->verified = true;
	} else if (p->low) {
		p->high_tried = true;
		p->high = size - 1;
	}
	step_end(p, now_ns);
	if (!p->low) /* not even the smallest: the path is in trouble rather than small */
		p->next_ns = now_ns + STALL_NS;
}

static void size_passed(struct path_search *p, uint32_t size, uint64_t now_ns)
{
	if (size > p->high) { /* what failed did so by chance, or the path has grown */
		p->high = p->max;
		p->high_tried = false;
	}
	if (size > p->low) {
		p->low = size;
		p->verified = false;
	}
	if (size >= p->size)
		step_end(p, now_ns);
}

uint32_t path_search_probe(struct path_search *p, uint64_t now_ns, uint64_t timeout_ns,
			   uint32_t *sequence)
{
	if (now_ns >= p->next_ns && p->tries == PROBE_TRIES)
		size_failed(p, now_ns);
	if (now_ns < p->next_ns)
		return 0;
	if (!p->size)
		p->size = size_choose(p);
	if (!p->size)
		p->size = size_check(p, now_ns);
	*sequence = ++p->sequence;
	p->sent[*sequence % PATH_PROBES] = p->size;
	p->tries++;
	p->next_ns = now_ns + timeout_ns;
	return p->size;
}

void path_search_refused(struct path_search *p, uint64_t now_ns)
{
	if (p->size) /* otherwise path_search_lower() came first */
		size_failed(p, now_ns);
}

void path_search_answered(struct path_search *p, uint32_t sequence, uint64_t now_ns)
{
	uint32_t *sent = &p->sent[sequence % PATH_PROBES];
	uint32_t size = *sent;

	if (!size || p->sequence - sequence >= PATH_PROBES)
		return;
	*sent = 0;
	size_passed(p, size, now_ns);
}

void path_search_lower(struct path_search *p, uint32_t max, uint64_t now_ns)
{
	if (max < p->min)
		max = p->min;
	if (p->payload > max)
		p->payload = max;
	if (p->high > max)
		search_restart(p, max, false, now_ns);
}
