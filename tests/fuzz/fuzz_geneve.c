/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any bytes as a Geneve packet; the first three are the overlay's id. */
#include <stdlib.h>
#include <string.h>

#include "vnet/geneve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum drop_reason reason = DROP_REASONS;
	struct geneve_extras extras;
	uint32_t vni;
	uint8_t *packet;
	size_t offset;

	if (size < 3)
		return 0;
	vni = (uint32_t)data[0] << 16 | (uint32_t)data[1] << 8 | data[2];
	size -= 3;
	packet = malloc(size ? size : 1); /* exactly as long, so that a sanitizer sees its end */
	if (!packet)
		return 0;
	memcpy(packet, data + 3, size);

	offset = geneve_parse(packet, size, vni, &extras, &reason);
	if (offset && (extras.part || extras.control)) {
		if (offset > size)
			abort();
	} else if (offset) {
		volatile uint8_t byte;

		byte = packet[offset];
		(void)byte;
		byte = packet[offset + FRAME_SIZE_MIN - 1];
		(void)byte;
		if (size - offset > FRAME_SIZE_MAX || reason != DROP_REASONS)
			abort();
	} else if (reason >= DROP_REASONS) {
		abort();
	}
	free(packet);
	return 0;
}
