/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * iperf3 for the tty image: the main program around Debian's libiperf.a (package libiperf-dev).
 *
 * The library has all of iperf3 but main(). Two things that it can do are left out here, since they
 * would bring in libcrypto (4 MB) and libsctp: authentication and SCTP. The functions that it calls
 * for them are answered below with failure, which it reports as an error of the option that wanted
 * them.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <iperf_api.h>

/* The callers pass arguments, which the calling convention of x86-64 lets a function ignore. */
#define LEFT_OUT(type, name, failure)                                                              \
	type name(void);                                                                           \
	type name(void)                                                                            \
	{                                                                                          \
		return failure;                                                                    \
	}

LEFT_OUT(const char *, ERR_error_string, "this iperf3 has no authentication")
LEFT_OUT(unsigned long, ERR_get_error, 0)
LEFT_OUT(long, EVP_PKEY_free, 0)
LEFT_OUT(int, check_authentication, -1)
LEFT_OUT(int, decode_auth_setting, -1)
LEFT_OUT(int, encode_auth_setting, -1)
LEFT_OUT(ssize_t, iperf_getpass, -1)
LEFT_OUT(void *, load_privkey_from_base64, NULL)
LEFT_OUT(void *, load_privkey_from_file, NULL)
LEFT_OUT(void *, load_pubkey_from_base64, NULL)
LEFT_OUT(void *, load_pubkey_from_file, NULL)
LEFT_OUT(int, test_load_private_key_from_file, -1)
LEFT_OUT(int, test_load_pubkey_from_file, -1)
LEFT_OUT(int, sctp_bindx, -1)

/*
 * Returns whether @argument is -D, --daemon or a cluster of letters with D in it. The library
 * parses the option, but shows nobody its value.
 */
static bool argument_is_daemon(const char *argument)
{
	if (strcmp(argument, "--daemon") == 0)
		return true;
	return argument[0] == '-' && strchr(argument, 'D') &&
	       strspn(argument + 1, "sDVJ146") == strlen(argument + 1);
}

static void signal_end(int signal)
{
	_exit(128 + signal);
}

/* Runs tests for clients until one of them ends in a way that the server cannot go on from. */
static int server_run(struct iperf_test *test)
{
	int result;

	do {
		result = iperf_run_server(test);
		if (result < 0)
			iperf_err(test, "error - %s", iperf_strerror(i_errno));
		iperf_reset_test(test);
	} while (result >= -1 && !iperf_get_test_one_off(test));
	return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int client_run(struct iperf_test *test)
{
	if (iperf_run_client(test) == 0)
		return EXIT_SUCCESS;
	iperf_err(test, "error - %s", iperf_strerror(i_errno));
	return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	struct iperf_test *test = iperf_new_test();

	if (!test || iperf_defaults(test) < 0) {
		fprintf(stderr, "iperf3: cannot begin: %s\n", iperf_strerror(i_errno));
		return EXIT_FAILURE;
	}
	if (iperf_parse_arguments(test, argc, argv) < 0) {
		iperf_err(test, "parameter error - %s", iperf_strerror(i_errno));
		fprintf(stderr, "Usage: iperf3 -s|-c HOST [options]; iperf3 --help shows them\n");
		return EXIT_FAILURE;
	}
	for (int i = 1; i < argc; i++) {
		if (argument_is_daemon(argv[i]) && daemon(0, 0) < 0)
			perror("iperf3: daemon");
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, signal_end);
	signal(SIGINT, signal_end);
	return iperf_get_test_role(test) == 's' ? server_run(test) : client_run(test);
}
