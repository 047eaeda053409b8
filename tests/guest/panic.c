/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 16M
// expect: 3
// expect-output: panic: exception 14, error code 0x6
/* An exception at ring 3 reaches the guest's handler with its error code; pvpanic ends the VM. */
#include "guest.h"

int main(void)
{
	*(volatile int *)(1ull << 46) = 1;
	return 0;
}
