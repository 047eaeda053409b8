/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The host's end of the serial console: a terminal, a file, a Unix socket, or nothing. */
#ifndef WEFT_CONSOLE_H
#define WEFT_CONSOLE_H

#include <stdint.h>

struct console;
struct loop;
struct serial;
struct vm;

/* console_create - open what --console names. Main thread. NULL (errno set) after a message. */
struct console *console_create(struct vm *vm);
/* console_destroy - write out what is left, restore the terminal, remove the socket. NULL is fine. */
void console_destroy(struct console *console);
/* console_start - begin to read input; the serial port exists. */
void console_start(struct console *console);
/* console_transmit - a byte from the guest. vCPU threads; never blocks, drops (and counts) what nobody reads. */
void console_transmit(struct console *console, uint8_t byte);
/* console_input_ready - the serial port has room again. vCPU threads. */
void console_input_ready(struct console *console);
/* console_dropped - bytes of output lost because nobody read them. */
uint64_t console_dropped(struct console *console);

#endif
