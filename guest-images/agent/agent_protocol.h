/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent protocol: how the host starts commands in a guest, talks to them and shuts the guest
 *down.
 *
 * Transport. The guest sees a virtio-console (virtio 1.2, 5.3, VIRTIO_CONSOLE_F_MULTIPORT) port
 *with the name AGENT_PORT_NAME. On it runs, both ways, a plain sequence of frames without padding:
 *
 *	struct agent_frame (8 bytes), then `length` bytes of payload
 *
 * All integers are little endian. A frame whose length exceeds AGENT_PAYLOAD_MAX, whose type is not
 * known, whose type may not be sent in that direction, or whose length is not one that the type
 * allows is a protocol error (the table is in agent_frames.c). There is no resynchronisation inside
 *a stream: the agent answers a protocol error by closing the port and opening it again, a host
 *program by closing its connection.
 *
 * Channels. Host programs connect to a Unix stream socket of the VMM and speak the same frames with
 * channel 0. The VMM gives every connection a non-zero channel number, writes it into each frame on
 * the way in, routes frames from the guest by it, and writes 0 on the way out. Numbers are handed
 *out in turn (1, 2, ... 65535, 1), so that a late frame of a closed connection meets no new one. At
 *most AGENT_CHANNELS_MAX connections exist at once. Channel 0 on the port is between the VMM and
 *the agent.
 *
 * Start. Each time the agent opens the port, or sees the host connect to the port again, it forgets
 * and kills everything that ran and sends HELLO on channel 0 as its first frame. A VMM that sees
 * HELLO, or sees the guest close the port, closes all connections of host programs, since what they
 * had running is gone. The VMM passes HELLO on to no connection.
 *
 * A channel carries one command at a time:
 *
 *	host                                    guest
 *	EXEC argv                      ->
 *	STDIN data, ..., STDIN empty   ->
 *	                              <-        WINDOW (as the command consumes its standard input)
 *	                              <-        STDOUT, STDERR data
 *	WINDOW (as output is consumed) ->
 *	                              <-        EXIT status
 *
 * EXIT is the last frame about a command: its output up to its exit has been sent before. What it
 *left running in the background lives on, with its output pipes closed. After EXIT the channel may
 *be used for another EXEC; both windows start afresh with it. STDIN and WINDOW frames on a channel
 *that runs nothing are ignored, since they may have crossed with EXIT.
 *
 * A command that could not be started is answered with ERROR (text) and EXIT: 127 if there is no
 *such command, 126 for every other reason. EXEC on a channel that runs a command, or on channel 0,
 *is answered with ERROR alone.
 *
 * Flow control. For each command the host may have AGENT_WINDOW bytes of STDIN payload outstanding,
 * the guest AGENT_WINDOW bytes of STDOUT and STDERR payload together. The receiver gives back bytes
 * with WINDOW frames after it has consumed them; the window never grows beyond AGENT_WINDOW. If the
 * host sends more STDIN than it may, or gives back more than was outstanding, the agent sends
 *ERROR, kills the command's process group and sends CLOSE: the channel is at its end and the VMM
 *closes the connection. A host program treats an excess of output as a protocol error.
 *
 * CLOSE from the host says that the connection has gone: the agent kills the process group of the
 * channel's command and sends nothing more on the channel. It is not answered.
 */
#ifndef WEFT_AGENT_PROTOCOL_H
#define WEFT_AGENT_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

#define AGENT_PORT_NAME	   "weft.agent"
#define AGENT_VERSION	   1
#define AGENT_PAYLOAD_MAX  32768  /* bytes of payload in one frame */
#define AGENT_WINDOW	   262144 /* bytes that may be outstanding per command and direction */
#define AGENT_CHANNELS_MAX 64	  /* commands, and host connections, at once */
#define AGENT_HOSTNAME_MAX 64	  /* bytes of host name in HELLO */
#define AGENT_PING_MAX	   64	  /* bytes of payload in PING and PONG */
#define AGENT_ERROR_MAX	   256	  /* bytes of text in ERROR */

#define AGENT_EXIT_NOT_STARTED 126 /* EXIT status: the command could not be started */
#define AGENT_EXIT_NOT_FOUND   127 /* EXIT status: there is no such command */
#define AGENT_EXIT_SIGNAL      128 /* EXIT status: this plus the signal that ended the command */

/* The header of every frame. */
struct agent_frame {
	uint32_t length;  /* little endian: bytes of payload that follow, 0..AGENT_PAYLOAD_MAX */
	uint16_t channel; /* little endian: see above */
	uint16_t type;	  /* little endian: enum agent_type */
};

static_assert(sizeof(struct agent_frame) == 8, "the frame header is 8 bytes on the wire");

#define AGENT_FRAME_MAX (sizeof(struct agent_frame) + AGENT_PAYLOAD_MAX)

enum agent_type {
	AGENT_HELLO = 1,       /* guest: struct agent_hello, then the host name without a NUL */
	AGENT_EXEC = 2,	       /* host: argv, each string ended by a NUL */
	AGENT_STDIN = 3,       /* host: bytes for standard input; length 0 is its end */
	AGENT_STDOUT = 4,      /* guest: bytes from standard output */
	AGENT_STDERR = 5,      /* guest: bytes from standard error */
	AGENT_EXIT = 6,	       /* guest: struct agent_u32, exit status or 128 + signal */
	AGENT_SHUTDOWN = 7,    /* host: one byte, enum agent_shutdown; on any channel; no answer */
	AGENT_PING = 8,	       /* host: anything, at most AGENT_PING_MAX bytes; on any channel */
	AGENT_PONG = 9,	       /* guest: the payload of the PING that it answers */
	AGENT_CLOSE = 10,      /* both: nothing; see above */
	AGENT_ERROR = 11,      /* guest: text for people, without a NUL, at most AGENT_ERROR_MAX */
	AGENT_WINDOW_ADD = 12, /* both: struct agent_u32, bytes given back */
	AGENT_TYPES,	       /* one more than the last */
};

enum agent_shutdown {
	AGENT_POWER_OFF = 0,
	AGENT_REBOOT = 1,
};

/* The payload of HELLO begins with this. */
struct agent_hello {
	uint32_t version; /* little endian: AGENT_VERSION */
};

static_assert(sizeof(struct agent_hello) == 4, "HELLO begins with 4 bytes");

/* The payload of EXIT and WINDOW. */
struct agent_u32 {
	uint32_t value; /* little endian */
};

static_assert(sizeof(struct agent_u32) == 4, "EXIT and WINDOW carry 4 bytes");

#endif
