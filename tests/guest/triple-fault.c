/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 16M
// expect: 4
/* An exception without a gate for it, nor for what comes of that. */
#include "guest.h"

int main(void)
{
	memset((void *)guest_boot->idt, 0, 4096);
	asm volatile("ud2");
	return 0;
}
