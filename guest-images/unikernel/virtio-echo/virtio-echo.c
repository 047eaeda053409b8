/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-echo: answers every frame sent to its address, with the addresses swapped.
 *
 * Parameters: mode=poll|irq (default irq), count=N: end with status 0 after N frames (default 0:
 * run for ever).
 */
#include "nic.h"

/* Send a frame back; the payload is copied, since the receive buffer goes back at once. */
static void frame_echo(struct nic *nic, const uint8_t *frame, uint32_t len)
{
	uint8_t *answer = nic_buffer(nic);

	memcpy(answer, frame + MAC_SIZE, MAC_SIZE);
	memcpy(answer + MAC_SIZE, nic->mac, MAC_SIZE);
	memcpy(answer + 2 * MAC_SIZE, frame + 2 * MAC_SIZE, len - 2 * MAC_SIZE);
	nic_send(nic, len);
}

/* Answer all that has arrived, at most @limit frames. Returns how many. */
static uint64_t frames_answer(struct nic *nic, uint64_t limit)
{
	uint64_t answered = 0;
	uint8_t *frame;
	uint32_t len;
	int buffer;

	while (answered < limit && (frame = nic_receive(nic, &len, &buffer))) {
		if (!memcmp(frame, nic->mac, MAC_SIZE)) {
			frame_echo(nic, frame, len);
			answered++;
		}
		nic_repost(nic, buffer);
	}
	nic_flush(nic);
	return answered;
}

int main(void)
{
	uint64_t left = param_number("count", 0);
	static struct nic nic;

	left = left ? left : UINT64_MAX;
	nic_open(&nic, 0, !param_is("mode", "poll"));
	printf("virtio-echo: ready, %s, mtu %u\n", nic.interrupts ? "irq" : "poll", nic.mtu);
	while (left) {
		left -= frames_answer(&nic, left);
		if (left)
			nic_wait(&nic);
	}
	/* The last answers must have left before the VM ends. */
	while (nic.tx.free_count < nic.tx.size)
		ring_take(&nic.tx, NULL);
	printf("virtio-echo: done, %u interrupts\n", interrupts_taken);
	return 0;
}
