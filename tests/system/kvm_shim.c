/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * To be preloaded into weft: a KVM that lacks or refuses something.
 *
 *   KVM_SHIM_NO_CAPABILITY=N  KVM_CHECK_EXTENSION of N says no
 *   KVM_SHIM_FAIL_AT=N        the Nth request to KVM fails with ENOMEM
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int number(const char *name)
{
	const char *value = getenv(name);

	return value ? atoi(value) : -1;
}

int ioctl(int fd, unsigned long request, ...)
{
	static atomic_int requests;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if ((request >> 8 & 0xff) == KVMIO) {
		if (request == KVM_CHECK_EXTENSION && (long)arg == number("KVM_SHIM_NO_CAPABILITY"))
			return 0;
		if (atomic_fetch_add(&requests, 1) + 1 == number("KVM_SHIM_FAIL_AT")) {
			errno = ENOMEM;
			return -1;
		}
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}
