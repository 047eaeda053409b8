/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a session says, on the wire. Fields of more than a byte are big endian.
 *
 *   offset  bytes
 *        0      4  "weft"
 *        4      1  version: SESSION_VERSION. Magic and version stand here in every version.
 *        5      1  type: enum session_type
 *        6      2  length: of this header and the fields; what follows is padding and ignored
 *        8      8  session: the sender's, drawn at random when it started, never 0
 *       16      8  peer: the session that the sender knows the receiver by, 0 for none
 *       24      4  sequence: of a request; its answer repeats it
 *       28      4  0, ignored
 *       32      8  time: of a request, in a unit of the sender's; its answer repeats it
 *       40         fields: type (1 byte), length of the value (1 byte), value
 *
 * Fields, in HELLO and HELLO_ANSWER; at most once each; an unknown one is ignored, and so is what a
 * later version appends to a known one:
 *
 *   type  bytes
 *      1     12  offloads, frame_max, features: 4 bytes each; must be there
 *      2  2..16  further UDP source ports of the sender, 2 bytes each
 *      3      2  the source port that the receiver's messages come from, as the sender sees it
 *      4      8  frames from the receiver that the sender lost in part, since it started
 *
 * A HELLO is padded to SESSION_HELLO_SIZE, and no answer is longer than its request: who forges a
 * source address gains nothing. A PROBE is padded to the size that it tries; its answer is a
 * header.
 */
#ifndef WEFT_SESSION_MESSAGE_H
#define WEFT_SESSION_MESSAGE_H

#include "vnet/session.h"

#define SESSION_VERSION	   1u
#define SESSION_HEADER	   40u
#define SESSION_HELLO_SIZE 128u /* bytes, of a HELLO; room for any answer to it */

enum session_type {
	SESSION_HELLO = 1,
	SESSION_HELLO_ANSWER = 2,
	SESSION_PROBE = 3,
	SESSION_PROBE_ANSWER = 4,
};

struct session_message {
	uint8_t version;
	uint8_t type;	  /* enum session_type, or one of a later version */
	uint64_t session; /* the sender's */
	uint64_t peer;	  /* the receiver's, as the sender knows it */
	uint32_t sequence;
	uint64_t time;
	struct session_self self; /* HELLO and HELLO_ANSWER, as what follows */
	uint16_t observed;
	uint64_t lost;
};

/* session_message_build - put @m into @out, unpadded; returns its length. */
size_t session_message_build(uint8_t out[SESSION_HELLO_SIZE], const struct session_message *m);

/**
 * session_message_parse - take a message apart.
 * Returns false when it is malformed. If its version is not SESSION_VERSION only @m->version is
 * set. Values that make no sense (offloads that do not exist, a frame_max outside
 * FRAME_SIZE_MIN..FRAME_SIZE_MAX) are bounded.
 */
bool session_message_parse(const void *message, size_t len, struct session_message *m);

#endif
