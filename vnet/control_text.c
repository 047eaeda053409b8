/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vnet/control_text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_STEP 65536u

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Copy a quoted word; returns behind its closing quote, or NULL if there is none or more follows
 * it. */
static const char *quoted_copy(const char *at, const char *end, char **to)
{
	for (at++; at < end && *at != '"'; at++) {
		if (*at == '\\' && at + 1 < end && (at[1] == '"' || at[1] == '\\'))
			at++;
		*(*to)++ = *at;
	}
	if (at == end || (at + 1 < end && !is_blank(at[1]) && at[1] != ';'))
		return NULL;
	return at + 1;
}

/* Copy a plain word; returns behind it, or NULL if there is a quote in it. */
static const char *plain_copy(const char *at, const char *end, char **to)
{
	if (*at == ';') {
		*(*to)++ = *at;
		return at + 1;
	}
	for (; at < end && !is_blank(*at) && *at != ';'; at++) {
		if (*at == '"')
			return NULL;
		*(*to)++ = *at;
	}
	return at;
}

static bool line_is_text(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (((unsigned char)line[i] < ' ' && line[i] != '\t') || line[i] == 0x7f)
			return false;
	return true;
}

static int split_fail(struct control_text *text, char *error, size_t error_size, const char *why)
{
	control_text_free(text);
	snprintf(error, error_size, "%s", why);
	return -EINVAL;
}

int control_text_split(struct control_text *text, const char *line, size_t len, char *error,
		       size_t error_size)
{
	const char *at = line, *end = line + len;
	char *to;

	*text = (struct control_text){0};
	if (!line_is_text(line, len))
		return split_fail(text, error, error_size,
				  "there is a control character: write plain text");
	/* Every byte may become a word (";") with its end. */
	text->memory = malloc(2 * len + 1);
	text->argv = calloc(len + 1, sizeof(*text->argv));
	if (!text->memory || !text->argv) {
		control_text_free(text);
		snprintf(error, error_size, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	to = text->memory;
	for (;;) {
		while (at < end && is_blank(*at))
			at++;
		if (at == end || *at == '#')
			return 0;
		text->argv[text->argc++] = to;
		at = *at == '"' ? quoted_copy(at, end, &to) : plain_copy(at, end, &to);
		if (!at)
			return split_fail(
			    text, error, error_size,
			    "a quote stands at the beginning and at the end of a word");
		*to++ = '\0';
	}
}

void control_text_free(struct control_text *text)
{
	free(text->argv);
	free(text->memory);
	*text = (struct control_text){0};
}

int control_text_read(int fd, char **text)
{
	size_t used = 0, size = 0;
	char *all = NULL, *bigger;
	ssize_t n;
	int rc;

	do {
		if (size - used < READ_STEP) {
			size = 2 * size + READ_STEP + 1;
			bigger = realloc(all, size);
			if (!bigger) {
				rc = -ENOMEM;
				goto out_free;
			}
			all = bigger;
		}
		n = read(fd, all + used, size - used - 1);
		if (n > 0)
			used += (size_t)n;
	} while ((n > 0 && used <= CONTROL_FILE_MAX) || (n < 0 && errno == EINTR));
	rc = n < 0		       ? -errno
	     : used > CONTROL_FILE_MAX ? -EFBIG
	     : memchr(all, '\0', used) ? -EILSEQ
				       : 0;
	if (rc)
		goto out_free;
	all[used] = '\0';
	*text = all;
	return 0;
out_free:
	free(all);
	return rc;
}

const char *control_text_remedy(int error)
{
	switch (error) {
	case -EFBIG:
		return "it is longer than 32 MiB";
	case -EILSEQ:
		return "it has NUL characters: give a text file";
	default:
		return strerror(-error);
	}
}
