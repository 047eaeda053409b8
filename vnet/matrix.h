/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The traffic matrix: frames and bytes between each two addresses, bounded. Core's thread. */
#ifndef WEFT_MATRIX_H
#define WEFT_MATRIX_H

#include <stdint.h>

#define MATRIX_PAIRS 4096u /* the rest is summed */

struct matrix;
struct matrix_pair; /* the cell that counts for two addresses, or for the rest; stays as long as the
		       matrix */

/* matrix_create - NULL with errno ENOMEM. */
struct matrix *matrix_create(void);
void matrix_destroy(struct matrix *matrix);
/* matrix_pair - the cell of a pair (mac_load()). */
struct matrix_pair *matrix_pair(struct matrix *matrix, uint64_t source, uint64_t destination);
void matrix_count(struct matrix_pair *pair, uint32_t bytes);
/* matrix_visit - each cell that has counted; the rest has two addresses of zero. */
void matrix_visit(const struct matrix *matrix,
		  void (*visit)(void *context, uint64_t source, uint64_t destination,
				uint64_t frames, uint64_t bytes),
		  void *context);

#endif
