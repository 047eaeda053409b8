/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checks of a test guest. main() ends with `return check_status();`. */
#ifndef GUEST_CHECK_H
#define GUEST_CHECK_H

#include "guest.h"

/* check - print `ok NAME`, or `not ok NAME: FORMAT...` where @good is false. Returns @good. */
bool check(bool good, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* check_status - the guest's exit status: 0 if there were checks and all were good. */
int check_status(void);

#endif
