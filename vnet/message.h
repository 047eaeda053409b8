/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages for people: one line on stderr, prefixed by the program's name. */
#ifndef WEFT_MESSAGE_H
#define WEFT_MESSAGE_H

/* Exit statuses of the weft program; a guest's own non-zero status s becomes EXIT_GUEST + (s & 63). */
enum exit_status {
	STATUS_OK = 0,          /* the guest shut down or powered off */
	STATUS_ENVIRONMENT = 1, /* the VMM could not start, or failed while running */
	STATUS_USAGE = 2,       /* bad command line or configuration file */
	STATUS_PANIC = 3,       /* the guest's kernel panicked (pvpanic) */
	STATUS_CRASH = 4,       /* triple fault, or code that KVM cannot run */
	STATUS_KILLED = 5,      /* ended by force: second SIGTERM, stop with force */
	EXIT_GUEST = 64,
};

/* die - print a message and exit with a status. Set-up only: never while a guest runs. */
_Noreturn void die(enum exit_status status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* fail - print a message and return @rc, so that "return fail(-errno, ...)" says why where it is known. */
int fail(int rc, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* warn - print a message. */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
