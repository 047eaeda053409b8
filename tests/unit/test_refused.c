/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Descriptors and memory that run out while links are made: what cannot be made is refused with a
 * reason or tried again, and nothing is lost on the way. (Row B10 of the hostile inputs.)
 */
#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/link_lab.h"

#define MOST 200u /* no link needs as many descriptors or pieces of memory */

static struct loop *loop;
static struct lab_vm a, b;
static char url[64], first[80];

static void up(void)
{
	loop = loop_create(64);
	cr_assert_not_null(loop);
	lab_vm_up(&a, loop, LAB_VNI);
	lab_vm_up(&b, loop, LAB_VNI);
	snprintf(url, sizeof(url), "shm:///tmp/weft-refused-%d", getpid());
	snprintf(first, sizeof(first), "%s#1", url);
}

static void down(void)
{
	lab_vm_down(&a);
	lab_vm_down(&b);
	loop_destroy(loop);
}

/* --- descriptors ---------------------------------------------------------------------------- */

static unsigned descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Let the process open @spare more descriptors than it has; the limit is on their numbers. */
static struct rlimit descriptors_limit(unsigned spare)
{
	struct rlimit before, limit;
	int fds[64], next;

	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (unsigned i = 0; i < spare; i++)
		fds[i] = dup(0);
	next = dup(0);
	close(next);
	for (unsigned i = 0; i < spare; i++)
		close(fds[i]);
	limit = (struct rlimit){.rlim_cur = (rlim_t)next, .rlim_max = before.rlim_max};
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	return before;
}

static void limit_lift(const struct rlimit *before)
{
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, before), 0);
}

/* A listener opens several sockets: whichever is refused, the others are closed again. */
Test(refused, descriptors_of_a_listener_B10, .init = up, .fini = down)
{
	unsigned before = descriptors(), spare = 0;
	int rc;

	for (;; spare++) {
		struct rlimit limit = descriptors_limit(spare);

		rc = lab_listen(&a, "udp://127.0.0.1:0");
		limit_lift(&limit);
		if (!rc)
			break;
		cr_assert_eq(rc, -EMFILE);
		cr_assert_not_null(strstr(a.error, strerror(EMFILE)), "%s", a.error);
		cr_assert_eq(descriptors(), before);
		cr_assert_lt(spare, 16);
	}
	cr_assert_gt(spare, 1);
	cr_assert_not_null(lab_link(&a, "udp://127.0.0.1:9"), "%s", a.error);
}

/* The peers of a listener need none of their own. */
Test(refused, peers_take_no_descriptor_B10, .init = up, .fini = down)
{
	struct rlimit limit;
	struct port *port;

	cr_assert_eq(lab_listen(&a, "udp://127.0.0.1:0"), 0, "%s", a.error);
	limit = descriptors_limit(0);
	port = lab_link(&a, "udp://127.0.0.1:9");
	cr_assert_not_null(port, "%s", a.error);
	lab_run(loop);
	links_remove(a.links, port);
	limit_lift(&limit);
}

/* Whatever is refused on either side of a link that uses several, it comes up when there is room.
 */
Test(refused, a_link_comes_up_when_there_is_room_B10, .init = up, .fini = down)
{
	unsigned before;

	cr_assert_eq(lab_listen(&a, url), 0, "%s", a.error);
	before = descriptors();
	for (unsigned spare = 0; spare < 6; spare++) {
		struct rlimit limit = descriptors_limit(spare);
		struct port *port = lab_link(&b, url);

		cr_assert_not_null(port, "%s", b.error);
		for (unsigned i = 0; i < 3; i++)
			lab_run(loop);
		limit_lift(&limit);
		cr_assert(lab_until_up(loop, port), "%u: %s", spare, lab_status(port).error);
		links_remove(b.links, port);
		cr_assert(lab_until_down(loop, lab_port(&a, first)));
		lab_run(loop);
		cr_assert_eq(descriptors(), before);
	}
}

/* --- memory --------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_IS_OURS 0 /* the sanitizer has its own functions */
#else
#define MEMORY_IS_OURS 1
#endif
#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#undef MEMORY_IS_OURS
#define MEMORY_IS_OURS 0
#endif
#endif

#if MEMORY_IS_OURS && defined(__GLIBC__)

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);

static bool refusing;
static unsigned refuse_at; /* how many are allowed before the one that is refused */

static bool refused(void)
{
	if (!refusing || refuse_at--)
		return false;
	refusing = false;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return refused() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *memory, size_t size)
{
	return refused() ? NULL : __libc_realloc(memory, size);
}

/* Listen and link with each allocation refused in turn, until none is left to refuse. */
static void memory_refused(const char *listen, const char *link)
{
	unsigned before, refusals = 0;

	lab_vm_down(&a);
	before = descriptors();
	for (unsigned n = 0; n < MOST; n++) {
		struct port *port = NULL;
		unsigned ports;
		int rc = 0;

		lab_vm_up(&a, loop, LAB_VNI);
		ports = core_ports(a.core);
		*a.error = '\0';
		refuse_at = n;
		refusing = true;
		if (listen)
			rc = lab_listen(&a, listen);
		if (!rc)
			port = lab_link(&a, link);
		if (refusing) { /* all of them were granted */
			refusing = false;
			cr_assert_not_null(port, "%s", a.error);
			cr_assert_gt(refusals, 0);
			return;
		}
		refusals += !port;
		cr_assert(port || *a.error);
		cr_assert(port || core_ports(a.core) == ports);
		lab_run(loop);
		lab_vm_down(&a);
		cr_assert_eq(descriptors(), before, "%s without allocation %u", link, n);
	}
	cr_assert_fail("no end");
}

Test(refused, memory_of_links_B10, .init = up, .fini = down)
{
	memory_refused("udp://127.0.0.1:0", "udp://127.0.0.1:9");
	memory_refused(url, "shm:///nonexistent/socket");
	memory_refused(NULL, "passt:///nonexistent/socket");
}

#else

Test(refused, memory_of_links_B10)
{
	cr_skip_test("this build has its own memory functions");
}

#endif
