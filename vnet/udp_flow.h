/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef WEFT_UDP_FLOW_H
#define WEFT_UDP_FLOW_H

#include <stdint.h>

#include "vnet/frame.h"

/**
 * udp_flow_hash - a number that is the same for all frames of a flow: of the MAC addresses and, in
 * IP, of the addresses and the TCP or UDP ports. IP fragments, of which only the first has ports,
 * count without them.
 */
uint32_t udp_flow_hash(const struct frame *frame);

#endif
