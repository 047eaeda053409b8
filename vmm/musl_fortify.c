/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the static build only: Debian's static libraries were compiled against glibc with _FORTIFY_SOURCE and call
 * its checking variants of a few string functions, which musl does not have. The checks are kept: a
 * buffer that is too small ends the process (Linux Standard Base 5.0, "Interfaces for libc").
 */
#ifdef WEFT_STATIC

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int __fprintf_chk(FILE *stream, int flag, const char *format, ...);
int __snprintf_chk(char *s, size_t size, int flag, size_t room, const char *format, ...);
int __vsnprintf_chk(char *s, size_t size, int flag, size_t room, const char *format, va_list args);
int __vasprintf_chk(char **result, int flag, const char *format, va_list args);
char *__strcat_chk(char *to, const char *from, size_t room);
void __explicit_bzero_chk(void *to, size_t len, size_t room);

int __fprintf_chk(FILE *stream, int flag, const char *format, ...)
{
	va_list args;
	int n;

	(void)flag;
	va_start(args, format);
	n = vfprintf(stream, format, args);
	va_end(args);
	return n;
}

int __vsnprintf_chk(char *s, size_t size, int flag, size_t room, const char *format, va_list args)
{
	(void)flag;
	if (size > room)
		abort();
	return vsnprintf(s, size, format, args);
}

int __snprintf_chk(char *s, size_t size, int flag, size_t room, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = __vsnprintf_chk(s, size, flag, room, format, args);
	va_end(args);
	return n;
}

int __vasprintf_chk(char **result, int flag, const char *format, va_list args)
{
	(void)flag;
	return vasprintf(result, format, args);
}

char *__strcat_chk(char *to, const char *from, size_t room)
{
	if (strlen(to) + strlen(from) >= room)
		abort();
	return strcat(to, from);
}

void __explicit_bzero_chk(void *to, size_t len, size_t room)
{
	if (len > room)
		abort();
	explicit_bzero(to, len);
}

#endif
