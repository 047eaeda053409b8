/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Entries lie in one array and are chained from an array of buckets. A second, doubly linked list
 * has them in the order in which they were last seen, so that the dead are at its head: ageing is a
 * look at one entry, without a timer and without a scan. Touching an entry moves it to the list's
 * end, at most every 256th of the age: what is seen every microsecond need not be moved every
 * microsecond. So an entry may die a 256th too early.
 *
 * What is put in comes from the wire: the table never grows, and the hash has a secret seed, or
 * else somebody could choose addresses that all lie in one chain.
 *
 * Links are positions; position 0 is the list's head and no entry. Belongs to the thread of its
 * owner.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "vnet/aged_table.h"
#include "vnet/mac.h"

#define TOUCH_SHIFT 8 /* touched at most every age >> 8 */

struct aged_table {
	uint8_t *entries; /* capacity + 1 of entry_size */
	uint32_t *buckets;
	size_t entry_size;
	uint32_t capacity;
	uint32_t free;	 /* chain of entries that were removed */
	uint32_t unused; /* the first position never used */
	uint64_t age_ns, seed;
};

static struct aged_entry *entry_at(const struct aged_table *table, uint32_t position)
{
	return (struct aged_entry *)(table->entries + position * table->entry_size);
}

static uint32_t entry_position(const struct aged_table *table, const struct aged_entry *entry)
{
	return (uint32_t)((size_t)((const uint8_t *)entry - table->entries) / table->entry_size);
}

static uint32_t *bucket_of(const struct aged_table *table, const uint64_t key[2])
{
	return &table->buckets[key_hash(key, table->seed) & (table->capacity - 1)];
}

struct aged_table *aged_table_create(size_t entry_size, uint32_t capacity, uint64_t age_ns)
{
	struct aged_table *table = calloc(1, sizeof(*table));

	if (!table)
		return NULL;
	table->entries = calloc(capacity + 1u, entry_size);
	table->buckets = calloc(capacity, sizeof(*table->buckets));
	if (!table->entries || !table->buckets) {
		aged_table_destroy(table);
		return NULL;
	}
	if (getrandom(&table->seed, sizeof(table->seed), GRND_NONBLOCK) != sizeof(table->seed))
		table->seed = (uint64_t)time(NULL) * UINT64_C(0x9e3779b97f4a7c15);
	table->entry_size = entry_size;
	table->capacity = capacity;
	table->age_ns = age_ns;
	table->unused = 1;
	return table;
}

void aged_table_destroy(struct aged_table *table)
{
	if (!table)
		return;
	free(table->entries);
	free(table->buckets);
	free(table);
}

void *aged_table_find(const struct aged_table *table, uint64_t key0, uint64_t key1)
{
	uint32_t position = *bucket_of(table, (uint64_t[2]){key0, key1});

	while (position) {
		struct aged_entry *entry = entry_at(table, position);

		if (entry->key[0] == key0 && entry->key[1] == key1)
			return entry;
		position = entry->chain;
	}
	return NULL;
}

static void list_take(struct aged_table *table, struct aged_entry *entry)
{
	entry_at(table, entry->older)->newer = entry->newer;
	entry_at(table, entry->newer)->older = entry->older;
}

/* At the end, where the newest is: before the head, which closes the ring. */
static void list_append(struct aged_table *table, struct aged_entry *entry)
{
	struct aged_entry *head = entry_at(table, 0);
	uint32_t position = entry_position(table, entry);

	entry->newer = 0;
	entry->older = head->older;
	entry_at(table, head->older)->newer = position;
	head->older = position;
}

void *aged_table_add(struct aged_table *table, uint64_t key0, uint64_t key1, uint64_t now)
{
	uint32_t position = table->free, *bucket;
	struct aged_entry *entry;

	if (position)
		table->free = entry_at(table, position)->chain;
	else if (table->unused <= table->capacity)
		position = table->unused++;
	else
		return NULL;
	entry = entry_at(table, position);
	memset(entry, 0, table->entry_size);
	entry->key[0] = key0;
	entry->key[1] = key1;
	entry->seen_ns = now;
	bucket = bucket_of(table, entry->key);
	entry->chain = *bucket;
	*bucket = position;
	list_append(table, entry);
	return entry;
}

void aged_table_touch(struct aged_table *table, void *touched, uint64_t now)
{
	struct aged_entry *entry = touched;

	if (now - entry->seen_ns <= table->age_ns >> TOUCH_SHIFT)
		return;
	entry->seen_ns = now;
	list_take(table, entry);
	list_append(table, entry);
}

void aged_table_remove(struct aged_table *table, void *removed)
{
	struct aged_entry *entry = removed;
	uint32_t position = entry_position(table, entry), *link = bucket_of(table, entry->key);

	while (*link != position)
		link = &entry_at(table, *link)->chain;
	*link = entry->chain;
	list_take(table, entry);
	entry->chain = table->free;
	table->free = position;
}

void *aged_table_expired(const struct aged_table *table, uint64_t now)
{
	struct aged_entry *oldest = aged_table_next(table, NULL);

	return oldest && now - oldest->seen_ns >= table->age_ns ? oldest : NULL;
}

void *aged_table_next(const struct aged_table *table, const void *entry)
{
	const struct aged_entry *from = entry ? entry : entry_at(table, 0);

	return from->newer ? entry_at(table, from->newer) : NULL;
}

uint32_t aged_table_index(const struct aged_table *table, const void *entry)
{
	return entry_position(table, entry) - 1;
}

void *aged_table_at(const struct aged_table *table, uint32_t index)
{
	return entry_at(table, index + 1);
}
