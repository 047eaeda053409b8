/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vnet/message.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* One write per message, so that lines of several processes on one terminal do not mix. */
static void message_print(const char *format, va_list args)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "%.32s: ", program_invocation_short_name);

	vsnprintf(line + n, sizeof(line) - (size_t)n, format, args);
	fprintf(stderr, "%s\n", line);
}

void die(enum exit_status status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	message_print(format, args);
	va_end(args);
	exit(status);
}

void warn(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	message_print(format, args);
	va_end(args);
}

int fail(int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	message_print(format, args);
	va_end(args);
	return rc;
}
