/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/fake_path.h"

void fake_path_open(struct fake_path *path)
{
	memset(path, 0, sizeof(*path));
	path->now = 1000000000000ull;
	path->delay = 1000000;
	path->limit = SIZE_MAX;
	path->seed = 88172645463325252ull;
}

void fake_path_close(struct fake_path *path)
{
	while (path->flying)
		free(path->flights[--path->flying].data);
}

/* Marsaglia, "Xorshift RNGs", 2003 */
unsigned fake_path_chance(struct fake_path *path)
{
	path->seed ^= path->seed << 13;
	path->seed ^= path->seed >> 7;
	path->seed ^= path->seed << 17;
	return (unsigned)(path->seed % 100);
}

static void fly(struct fake_path *path, unsigned to, const void *data, size_t len)
{
	struct fake_flight *f;

	if (len > path->limit || fake_path_chance(path) < path->loss)
		return;
	if (path->flying == FAKE_FLIGHTS)
		abort(); /* the test sends without end */
	f = &path->flights[path->flying++];
	f->due = path->now + path->delay * (fake_path_chance(path) < path->reorder ? 4 : 1);
	f->to = to;
	f->len = len;
	f->data = malloc(len ? len : 1);
	memcpy(f->data, data, len);
}

void fake_path_send(struct fake_path *path, unsigned to, const void *data, size_t len)
{
	fly(path, to, data, len);
	if (fake_path_chance(path) < path->repeat)
		fly(path, to, data, len);
}

static unsigned first(const struct fake_path *path)
{
	unsigned found = 0;

	for (unsigned i = 1; i < path->flying; i++)
		if (path->flights[i].due < path->flights[found].due)
			found = i;
	return found;
}

uint64_t fake_path_next(const struct fake_path *path)
{
	return path->flying ? path->flights[first(path)].due : UINT64_MAX;
}

struct fake_flight fake_path_take(struct fake_path *path)
{
	unsigned index = first(path);
	struct fake_flight f = path->flights[index];

	path->flying--;
	memmove(&path->flights[index], &path->flights[index + 1],
		(path->flying - index) * sizeof(f)); /* the others stay in order */
	return f;
}
