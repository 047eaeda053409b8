/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sandbox: a seccomp filter for all threads, entered when everything is open and before the guest runs.
 *
 * No file can be opened and no program started; what is left is work on the descriptors at hand, memory, threads (a
 * reboot makes new ones) and time. Links come and go while the guest runs, so sockets can be made, but only of the
 * kinds that the links at start have, and UDP: a process that may connect Unix sockets can reach much of a desktop.
 * ioctl is limited to the requests of KVM, the terminal and network interfaces; unlink is left for the socket files.
 * What libraries try and go on without is refused with EACCES, anything else ends the process.
 */
#include "vmm/sandbox.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/sockios.h>
#include <rdma/rdma_user_ioctl_cmds.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/socket.h>

#include "vnet/message.h"

static const int allowed[] = {
	/* descriptors at hand */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
	SCMP_SYS(fcntl), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(fallocate), SCMP_SYS(fdatasync),
	SCMP_SYS(ftruncate), SCMP_SYS(fstatfs), SCMP_SYS(unlink), SCMP_SYS(eventfd2),
	/* sockets at hand */
	SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(sendmmsg),
	SCMP_SYS(recvmmsg), SCMP_SYS(accept4), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(shutdown),
	SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(bind), SCMP_SYS(connect), SCMP_SYS(memfd_create),
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
	SCMP_SYS(getrandom), SCMP_SYS(sysinfo), SCMP_SYS(uname), /* qsort(), getaddrinfo() */
};

/* Refused rather than fatal: libraries try these and go on without (malloc reads the overcommit setting), and a link
 * that needs them says so. */
static const int refused[] = {SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2)};

static const unsigned ioctls[] = {
	TCGETS, TCSETS, TCSETSW, TIOCGPGRP, TIOCGWINSZ, FIONREAD, /* terminal */
	SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFINDEX, SIOCGIFHWADDR, SIOCGIFNAME, /* interfaces */
	TUNGETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ, /* a tap at hand */
};

/* Sockets that may be made; those that may not are refused, so that a link which needs one can say so. */
static const struct {
	unsigned need; /* enum sandbox_need, 0: always */
	int family, type;
} sockets[] = {
	{0, AF_INET, SOCK_DGRAM},
	{0, AF_INET6, SOCK_DGRAM},
	{SANDBOX_UNIX, AF_UNIX, SOCK_STREAM},
	{SANDBOX_PACKET, AF_PACKET, SOCK_RAW},
	{SANDBOX_NEVER, AF_INET, SOCK_STREAM}, /* resolving a name tries these */
	{SANDBOX_NEVER, AF_INET6, SOCK_STREAM},
	{SANDBOX_NEVER, AF_UNIX, SOCK_DGRAM},
	{SANDBOX_NEVER, AF_NETLINK, SOCK_RAW},
};
#define SOCKET_TYPE_MASK 0xf /* beside it: SOCK_CLOEXEC, SOCK_NONBLOCK */

/* At the end of the process the leak check starts another one that traces it; refused that, it would wait for ever. */
#ifdef WEFT_SANITIZED
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define IOCTL_TYPE_MASK 0xff00
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A tap that was removed and made anew is taken again by TUNSETIFF, which could also make one. */
static int add_ioctls(scmp_filter_ctx filter, unsigned needs)
{
	int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				  SCMP_A1(SCMP_CMP_MASKED_EQ, IOCTL_TYPE_MASK, KVMIO << 8));

	for (size_t i = 0; !rc && i < COUNT(ioctls); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_EQ, ioctls[i], 0));
	if (!rc && needs & SANDBOX_IB)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_EQ, RDMA_VERBS_IOCTL, 0));
	if (!rc)
		rc = seccomp_rule_add(filter, needs & SANDBOX_TAP ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EACCES),
				      SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, TUNSETIFF, 0));
	return rc;
}

/* Its own thread's only (--pin). */
static int add_affinity(scmp_filter_ctx filter)
{
	return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(sched_setaffinity), 1,
				SCMP_A0(SCMP_CMP_EQ, 0));
}

static int add_sockets(scmp_filter_ctx filter, unsigned needs)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < COUNT(sockets); i++) {
		const uint32_t action =
			(needs & sockets[i].need) == sockets[i].need ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EACCES);

		rc = seccomp_rule_add(filter, action, SCMP_SYS(socket), 2,
				      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)sockets[i].family, 0),
				      SCMP_A1(SCMP_CMP_MASKED_EQ, SOCKET_TYPE_MASK, (scmp_datum_t)sockets[i].type));
	}
	return rc;
}

int sandbox_enter(unsigned needs)
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
		rc = add_ioctls(filter, needs);
	if (!rc)
		rc = add_sockets(filter, needs);
	if (!rc)
		rc = add_affinity(filter);
	if (!rc)
		rc = seccomp_load(filter);
	seccomp_release(filter);
	return rc;
}
