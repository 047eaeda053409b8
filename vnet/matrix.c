/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The first MATRIX_PAIRS pairs of addresses that are forwarded get a cell each, later ones share
 * one. Cells never go, so that the flow cache can keep a pointer to one: counting a frame is then
 * two additions.
 */
#include <stdlib.h>

#include "vnet/aged_table.h"
#include "vnet/matrix.h"

struct matrix_pair {
	struct aged_entry aged; /* keys: source, destination */
	uint64_t frames, bytes;
};

struct matrix {
	struct aged_table *pairs;
	struct matrix_pair rest;
};

struct matrix *matrix_create(void)
{
	struct matrix *matrix = calloc(1, sizeof(*matrix));

	if (!matrix)
		return NULL;
	matrix->pairs = aged_table_create(sizeof(struct matrix_pair), MATRIX_PAIRS, UINT64_MAX);
	if (!matrix->pairs) {
		free(matrix);
		return NULL;
	}
	return matrix;
}

void matrix_destroy(struct matrix *matrix)
{
	if (!matrix)
		return;
	aged_table_destroy(matrix->pairs);
	free(matrix);
}

struct matrix_pair *matrix_pair(struct matrix *matrix, uint64_t source, uint64_t destination)
{
	struct matrix_pair *pair = aged_table_find(matrix->pairs, source, destination);

	if (!pair)
		pair = aged_table_add(matrix->pairs, source, destination, 0);
	return pair ? pair : &matrix->rest;
}

void matrix_count(struct matrix_pair *pair, uint32_t bytes)
{
	pair->frames++;
	pair->bytes += bytes;
}

static void pair_visit(const struct matrix_pair *pair,
		       void (*visit)(void *context, uint64_t source, uint64_t destination,
				     uint64_t frames, uint64_t bytes),
		       void *context)
{
	if (pair->frames)
		visit(context, pair->aged.key[0], pair->aged.key[1], pair->frames, pair->bytes);
}

void matrix_visit(const struct matrix *matrix,
		  void (*visit)(void *context, uint64_t source, uint64_t destination,
				uint64_t frames, uint64_t bytes),
		  void *context)
{
	const struct matrix_pair *pair = NULL;

	while ((pair = aged_table_next(matrix->pairs, pair)))
		pair_visit(pair, visit, context);
	pair_visit(&matrix->rest, visit, context);
}
