/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 16M
// expect: 0
// expect-output: ok poweroff: still running before the right value
/* The ACPI sleep control register powers the VM off; other sleep types and values do nothing. */
#include "guest.h"

#define SLEEP_CONTROL 0x602 /* ACPI 6.4, 4.8.3.7 */
#define SLEEP_STATUS  0x603
#define SLEEP_TYPE(t) ((t) << 2)
#define SLEEP_ENABLE  (1 << 5)

int main(void)
{
	port_write8(SLEEP_CONTROL, SLEEP_TYPE(5));
	port_write8(SLEEP_CONTROL, SLEEP_TYPE(1) | SLEEP_ENABLE);
	port_write8(SLEEP_STATUS, 0xff);
	printf("ok poweroff: still running before the right value\n");
	port_write8(SLEEP_CONTROL, SLEEP_TYPE(5) | SLEEP_ENABLE);
	return 1;
}
