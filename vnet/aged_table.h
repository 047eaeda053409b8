/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A bounded hash table whose entries age: what learning, neighbours and the traffic matrix
 * remember. */
#ifndef WEFT_AGED_TABLE_H
#define WEFT_AGED_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* First member of every entry; the owner's data follow. */
struct aged_entry {
	uint64_t key[2];
	uint64_t seen_ns;
	uint32_t chain, older, newer; /* positions in the table */
};

struct aged_table;

/**
 * aged_table_create - all memory is taken here.
 * @entry_size: of the owner's struct, bytes; it begins with a struct aged_entry
 * @capacity:   entries, a power of two
 * @age_ns:     an entry not seen for so long is dead
 * Returns NULL with errno ENOMEM.
 */
struct aged_table *aged_table_create(size_t entry_size, uint32_t capacity, uint64_t age_ns);
void aged_table_destroy(struct aged_table *table);

/* aged_table_find - the entry of a key, or NULL. */
void *aged_table_find(const struct aged_table *table, uint64_t key0, uint64_t key1);
/* aged_table_add - a new entry for a key that is not there, seen @now, its data zero; NULL when
 * full. */
void *aged_table_add(struct aged_table *table, uint64_t key0, uint64_t key1, uint64_t now);
/* aged_table_touch - the entry was seen. */
void aged_table_touch(struct aged_table *table, void *entry, uint64_t now);
void aged_table_remove(struct aged_table *table, void *entry);
/* aged_table_expired - the oldest entry if it is dead, for aged_table_remove(); else NULL. */
void *aged_table_expired(const struct aged_table *table, uint64_t now);
/* aged_table_next - the entry seen after @entry (NULL: the oldest), NULL at the end. */
void *aged_table_next(const struct aged_table *table, const void *entry);
/* aged_table_index - a number below the capacity that is the entry's until it is removed; and back.
 */
uint32_t aged_table_index(const struct aged_table *table, const void *entry);
void *aged_table_at(const struct aged_table *table, uint32_t index);

#endif
