/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much RAM a guest may have, by the host's CPUID. */
#include <criterion/criterion.h>

#include <linux/kvm.h>
#include <stdlib.h>

#include "vmm/kvm.h"

#define MIB 20
#define GIB 30

/* The answer for a host whose leaf 0x80000008 begins with @eax; 0: it has no such leaf. */
static uint64_t max_for(uint32_t eax, unsigned *bits)
{
	struct kvm kvm = {
		.cpuid = calloc(1, sizeof(*kvm.cpuid) + 2 * sizeof(kvm.cpuid->entries[0])),
	};
	uint64_t max;

	kvm.cpuid->nent = eax ? 2 : 1;
	kvm.cpuid->entries[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 0x80000008};
	kvm.cpuid->entries[1] = (struct kvm_cpuid_entry2){.function = 0x80000008, .eax = eax};
	max = kvm_memory_max(&kvm, bits);
	free(kvm.cpuid);
	return max;
}

Test(cpuid, memory_ends_where_addresses_end)
{
	static const struct {
		uint32_t eax;
		unsigned bits;
		uint64_t max;
	} rows[] = {
		{39, 39, (512ull - 1) << GIB}, /* a laptop's */
		{0x3028, 40, (1024ull - 1) << GIB},
		{46, 46, (65536ull - 1) << GIB},
		{0x303039, 48, (262144ull - 1) << GIB}, /* tables of four levels */
		{0x393930, 48, (262144ull - 1) << GIB},
		{0, 36, (64ull - 1) << GIB},
		{33, 33, (8ull - 1) << GIB},
		{32, 32, 3ull << GIB}, /* no room behind the hole */
		{31, 31, 2ull << GIB},
		{52, 52, (1ull << 52) - (1ull << GIB)},
		{0xff, 255, (1ull << 63) - (1ull << GIB)}, /* nonsense, but defined */
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		unsigned bits;
		uint64_t max = max_for(rows[i].eax, &bits);

		cr_assert_eq(bits, rows[i].bits, "row %zu: %u bits", i, bits);
		cr_assert_eq(max, rows[i].max, "row %zu: %llu MiB", i, (unsigned long long)(max >> MIB));
	}
}
