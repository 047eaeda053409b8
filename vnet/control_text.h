/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Lines of the control language as text: reading files of them, splitting them into words. */
#ifndef WEFT_CONTROL_TEXT_H
#define WEFT_CONTROL_TEXT_H

#include <stddef.h>

#define CONTROL_FILE_MAX (32u << 20) /* bytes: room for ROUTES_MAX routes of the longest kind */

/* A line taken apart. */
struct control_text {
	char **argv; /* NULL at the end */
	unsigned argc;
	char *memory;
};

/**
 * control_text_split - split a line into words.
 *
 * Blanks separate; "..." holds a word with blanks, in which \ stands before " and \; an unquoted ;
 * is a word of its own; an unquoted # where a word would begin ends the line. Control characters
 * are refused. Returns 0, -EINVAL with the reason in @error, or -ENOMEM. When it fails there is
 * nothing to free, yet it may be.
 */
int control_text_split(struct control_text *text, const char *line, size_t len, char *error,
		       size_t error_size);
void control_text_free(struct control_text *text);

/* control_text_read - all of a file, ended by NUL, to be freed. 0, -EFBIG past CONTROL_FILE_MAX,
 * -EILSEQ for a file with NUL characters, or another -errno. */
int control_text_read(int fd, char **text);
/* control_text_remedy - what to say of its error. */
const char *control_text_remedy(int error);

#endif
