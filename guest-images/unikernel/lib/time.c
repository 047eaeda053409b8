/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Time by the time stamp counter, scaled with the frequency that the VMM told. */
#include "internal.h"

static uint64_t ns_per_tick; /* 32.32 fixed point; 0: unknown */

void time_init(void)
{
	if (guest_boot->tsc_khz)
		ns_per_tick = (1000000ull << 32) / guest_boot->tsc_khz;
}

uint64_t tsc_to_ns(uint64_t ticks)
{
	if (!ns_per_tick)
		panic("the VMM did not tell the frequency of the time stamp counter");
	return (uint64_t)((unsigned __int128)ticks * ns_per_tick >> 32);
}

uint64_t time_ns(void)
{
	return tsc_to_ns(tsc_read());
}
