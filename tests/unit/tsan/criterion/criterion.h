/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Criterion's interface for builds with -fsanitize=thread.
 *
 * Criterion maps its shared arena where ThreadSanitizer allows no mapping, and so cannot start. With
 * -Itests/unit/tsan, and without -lcriterion, the same tests run one after the other in one process; the
 * first failed assertion ends it with status 1. Results are in TAP, as Criterion's with --tap. Only what
 * the unit tests use is here. Include it in one file of a program.
 */
#ifndef WEFT_TSAN_CRITERION_H
#define WEFT_TSAN_CRITERION_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tsan_test {
	const char *suite, *name;
	void (*run)(void);
	struct tsan_test *next;
	/* Criterion's options, given to Test() by name. */
	void (*init)(void);
	void (*fini)(void);
	double timeout; /* seconds */
};

static struct tsan_test *tsan_tests;
static const char *tsan_skipped; /* why, if the test that runs was skipped */
static char tsan_reason[256] __attribute__((unused));

#define Test(suite_, name_, ...)                                                                   \
	static void suite_##_##name_##_run(void);                                                  \
	__attribute__((constructor)) static void suite_##_##name_##_add(void)                      \
	{                                                                                          \
		static struct tsan_test test = {.suite = #suite_,                                  \
						.name = #name_,                                    \
						.run = suite_##_##name_##_run,                     \
						__VA_ARGS__};                                      \
		test.next = tsan_tests;                                                            \
		tsan_tests = &test;                                                                \
	}                                                                                          \
	static void suite_##_##name_##_run(void)

#define cr_assert(condition, ...)                                                                  \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)
#define cr_assert_not(condition, ...)      cr_assert(!(condition))
#define cr_assert_null(pointer, ...)       cr_assert((pointer) == NULL)
#define cr_assert_not_null(pointer, ...)   cr_assert((pointer) != NULL)
#define cr_assert_eq(a, b, ...)            cr_assert((a) == (b))
#define cr_assert_neq(a, b, ...)           cr_assert((a) != (b))
#define cr_assert_lt(a, b, ...)            cr_assert((a) < (b))
#define cr_assert_leq(a, b, ...)           cr_assert((a) <= (b))
#define cr_assert_gt(a, b, ...)            cr_assert((a) > (b))
#define cr_assert_geq(a, b, ...)           cr_assert((a) >= (b))
#define cr_assert_str_eq(a, b, ...)        cr_assert(strcmp((a), (b)) == 0)
#define cr_assert_arr_eq(a, b, size, ...)  cr_assert(memcmp((a), (b), (size)) == 0)
#define cr_assert_fail(...)                cr_assert(0)
#define cr_expect(condition, ...)          cr_assert(condition)
#define cr_expect_not(condition, ...)      cr_assert_not(condition)
#define cr_expect_null(pointer, ...)       cr_assert_null(pointer)
#define cr_expect_not_null(pointer, ...)   cr_assert_not_null(pointer)
#define cr_expect_eq(a, b, ...)            cr_assert_eq(a, b)
#define cr_expect_neq(a, b, ...)           cr_assert_neq(a, b)
#define cr_expect_str_eq(a, b, ...)        cr_assert_str_eq(a, b)

/* In a test itself only, not in a function that it calls. */
#define cr_skip_test(...)                                                                          \
	do {                                                                                       \
		snprintf(tsan_reason, sizeof(tsan_reason), __VA_ARGS__);                           \
		tsan_skipped = tsan_reason;                                                        \
		return;                                                                            \
	} while (0)

static void tsan_run(const struct tsan_test *test)
{
	alarm((unsigned)test->timeout); /* 0: none */
	if (test->init)
		test->init();
	test->run();
	if (test->fini)
		test->fini();
	alarm(0);
	printf("ok - %s::%s%s%s\n", test->suite, test->name, tsan_skipped ? " # SKIP " : "",
	       tsan_skipped ? tsan_skipped : "");
	tsan_skipped = NULL;
	fflush(stdout);
}

int main(void)
{
	for (const struct tsan_test *test = tsan_tests; test; test = test->next)
		tsan_run(test);
	return 0;
}

#endif
