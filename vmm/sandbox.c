/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sandbox: a seccomp filter for all threads, entered when everything is open and before the guest runs.
 *
 * No file can be opened, no program started, no socket made (opening answers EACCES, the rest ends the process); what is left is work on the descriptors at hand,
 * memory, threads (a reboot makes new ones) and time. ioctl is limited to KVM's and the terminal's requests, socket
 * creation to none. unlink is left for the socket files.
 */
#include "vmm/sandbox.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <stddef.h>

#include "vmm/message.h"

static const int allowed[] = {
	/* descriptors at hand */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
	SCMP_SYS(fcntl), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(fallocate), SCMP_SYS(fdatasync),
	SCMP_SYS(unlink), SCMP_SYS(eventfd2),
	/* sockets at hand */
	SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(sendmmsg),
	SCMP_SYS(recvmmsg), SCMP_SYS(accept4), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(shutdown),
	SCMP_SYS(getsockname),
	/* the loops */
	SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
	/* memory and threads */
	SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(mprotect), SCMP_SYS(brk),
	SCMP_SYS(futex), SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(set_robust_list), SCMP_SYS(rseq),
	SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(membarrier), SCMP_SYS(gettid),
	SCMP_SYS(getpid), SCMP_SYS(getpgrp), SCMP_SYS(tgkill), SCMP_SYS(tkill), SCMP_SYS(set_tid_address), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(restart_syscall),
	SCMP_SYS(prctl), /* names of threads */
	/* signals, time, entropy */
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday),
	SCMP_SYS(getrandom),
};

/* Refused rather than fatal: libraries try these and go on without (malloc reads the overcommit setting). */
static const int refused[] = {SCMP_SYS(openat), SCMP_SYS(open)};

static const unsigned terminal_ioctls[] = {TCGETS, TCSETS, TCSETSW, TIOCGPGRP, TIOCGWINSZ};

/* At the end of the process the leak check starts another one that traces it; refused that, it would wait for ever. */
#ifdef WEFT_SANITIZED
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define IOCTL_TYPE_MASK 0xff00
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int add_ioctls(scmp_filter_ctx filter)
{
	int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				  SCMP_A1(SCMP_CMP_MASKED_EQ, IOCTL_TYPE_MASK, KVMIO << 8));

	for (size_t i = 0; !rc && i < COUNT(terminal_ioctls); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_EQ, terminal_ioctls[i], 0));
	return rc;
}

int sandbox_enter(void)
{
	scmp_filter_ctx filter;
	int rc;

	if (SANITIZED) {
		warn("--sandbox: left out of this build, whose sanitizer needs what it forbids: say --sandbox off");
		return 0;
	}
	filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!filter)
		return -ENOMEM;
	rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	for (size_t i = 0; !rc && i < COUNT(allowed); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	for (size_t i = 0; !rc && i < COUNT(refused); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), refused[i], 0);
	if (!rc)
		rc = add_ioctls(filter);
	if (!rc)
		rc = seccomp_load(filter);
	seccomp_release(filter);
	return rc;
}
