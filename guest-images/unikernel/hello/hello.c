/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hello: prints where it runs and exits with the status of its parameter status=N (default 0). */
#include "guest.h"

int main(void)
{
	printf("hello from a weft guest: %u vCPUs, %lu MiB, command line '%s'\n", guest_boot->cpus,
	       (guest_boot->memory_low + guest_boot->memory_high) >> 20,
	       (const char *)guest_boot->command_line);
	return (int)param_number("status", 0);
}
