/* SPDX-License-Identifier: GPL-2.0-or-later */
// weft: --memory 16M
// expect: 107
/* The exit port ends the VM with weft's status for a guest's own: 64 + (43 & 63). */
#include "guest.h"

int main(void)
{
	guest_exit(43);
}
