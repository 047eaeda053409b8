/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The library of weft's unikernel guests: freestanding C at ring 3 on the machine that weft_boot.h
 * describes. A guest is one program with a main(); what main() returns becomes the VM's exit
 * status.
 *
 * How guests are built (rules.mk): everything with -mgeneral-regs-only. Interrupt handlers run on
 * the interrupted stack and save general registers only, so no code may use SSE behind the
 * compiler's back, except for inline assembly in the main program, whose registers no handler
 * touches.
 *
 * How test guests are run: lines of a tests/guest/NAME.c that begin with "// KEYWORD: " are
 * directives for the test runner. They stand behind the licence line.
 *
 *   // weft: ARGS
 *	options of `weft run` behind --kernel NAME.elf; several lines add up. In ARGS {disk:SIZE}
 *	stands for the path of a fresh raw file of SIZE (512K, 1M, ...) filled with zeroes,
 *	{socket} for a path at which a Unix socket can be made
 *   // expect: STATUS
 *	exit status of weft (vnet/message.h); default 0
 *   // expect-output: TEXT
 *	a line of the console's output begins with TEXT; several must come in their order
 *   // on-output: TEXT => SIGTERM
 *	send that signal to weft when a line of the output begins with TEXT
 *
 * A test guest prints a line `ok NAME` or `not ok NAME: detail` for each check (check.h), and its
 * exit status is 0 only if there was at least one check and none failed. So a case passes when
 * weft's exit status is the expected one, every expected line was printed, and no line begins with
 * "not ok".
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu.h"
#include "weft_boot.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* --- start and end ------------------------------------------------------------------------- */

/* What the VMM told; constant. */
extern const struct weft_boot *guest_boot;

/* The guest's program, on the first vCPU. */
int main(void);

/* In a guest's source, outside of functions: have every vCPU started. */
#define GUEST_SMP                                                                                  \
	_Static_assert(WEFT_NOTE_SMP == 1, "");                                                    \
	asm(".globl guest_note_flags\nguest_note_flags = 1")

/*
 * Runs on each further vCPU (@cpu = 1...) once the first is set up; returning puts the vCPU to
 * sleep.
 */
void cpu_main(unsigned cpu);

/* guest_exit - end the VM; 0 is success. */
_Noreturn void guest_exit(uint8_t status);

/* panic - print a message, then tell the VMM through pvpanic. Any vCPU, also from handlers. */
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- command line: words separated by blanks, each NAME=VALUE or NAME ------------------------- */

/* param_number - the value of a decimal or 0x parameter, or @fallback if it is not there. */
uint64_t param_number(const char *name, uint64_t fallback);
/* param_is - does the parameter have exactly this value? */
bool param_is(const char *name, const char *value);
/*
 * param_mac - read a parameter like 52:54:00:00:00:01. Returns false if it is not there or
 * malformed.
 */
bool param_mac(const char *name, uint8_t mac[6]);

/* --- memory and strings ----------------------------------------------------------------------- */

void *memcpy(void *restrict to, const void *restrict from, size_t len);
void *memmove(void *to, const void *from, size_t len);
void *memset(void *to, int byte, size_t len);
int memcmp(const void *a, const void *b, size_t len);
size_t strlen(const char *s);

/*
 * memory_take - @size zeroed bytes aligned to @align (a power of two), for good. Panics when there
 * are none.
 */
void *memory_take(size_t size, size_t align);
/* memory_mark, memory_release - give back all that was taken since the mark. */
uintptr_t memory_mark(void);
void memory_release(uintptr_t mark);

/* --- console ------------------------------------------------------------------------------- */

/* d i u x p s c %, with 0, width, l, ll and z. Returns the length without the NUL, as in C. */
int vsnprintf(char *out, size_t size, const char *format, va_list args);
int snprintf(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
/*
 * printf - to the serial port, 511 characters at most. Any vCPU, but not from interrupt handlers.
 */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- time, by the time stamp counter --------------------------------------------------------- */

/* How long to wait for what must come, however busy the host: only what never comes takes so long.
 */
#define PATIENCE_NS 60000000000ull
/* time_ns - nanoseconds since an arbitrary moment. */
uint64_t time_ns(void);
/* tsc_to_ns - a difference of time stamps, at most some hours, in nanoseconds. */
uint64_t tsc_to_ns(uint64_t ticks);

/* --- interrupts ---------------------------------------------------------------------------- */

#define VECTOR_FIRST 0x40 /* vectors from here to VECTOR_LAST are the guest's to use */
#define VECTOR_LAST  0xfe

/*
 * interrupt_handle - have @handler(@context) called on @vector. The handler runs on the vCPU that
 * takes the interrupt, with interrupts of other vectors possible; the library writes the
 * end-of-interrupt.
 */
void interrupt_handle(unsigned vector, void (*handler)(void *context), void *context);

/* timer_start - raise @vector on this vCPU each @period_ns, by its local APIC; 0 stops it. */
void timer_start(uint32_t period_ns, unsigned vector);
/* interrupt_send - raise @vector on another vCPU, or this one. */
void interrupt_send(unsigned cpu, unsigned vector);

/* Interrupts handled since start, on all vCPUs. */
extern volatile uint32_t interrupts_taken;

/*
 * cpu_idle - sleep until the next interrupt, unless interrupts_taken is not @seen any more. Read
 * interrupts_taken, look whether there is work, then idle: no interrupt is slept over.
 */
void cpu_idle(uint32_t seen);

#endif
