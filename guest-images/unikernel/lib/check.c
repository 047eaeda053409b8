/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "check.h"

static unsigned checks_good, checks_bad; /* vCPU 0 only */

bool check(bool good, const char *name, const char *format, ...)
{
	char detail[256];
	va_list args;

	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	if (good)
		printf("ok %s\n", name);
	else
		printf("not ok %s: %s\n", name, detail);
	checks_good += good;
	checks_bad += !good;
	return good;
}

int check_status(void)
{
	if (!checks_good && !checks_bad)
		printf("not ok: no check was made\n");
	return checks_bad || !checks_good;
}
