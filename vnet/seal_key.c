/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file that holds the link key. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vnet/seal.h"

#define FILE_MAX 128u /* bytes: the key and some white space; a longer one is none */

struct report {
	char *text;
	size_t size;
};

__attribute__((format(printf, 3, 4))) static int refuse(const struct report *report, int err,
							const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(report->text, report->size, format, args);
	va_end(args);
	return err;
}

static int file_check(const char *path, const struct stat *st, const struct report *report)
{
	if (!S_ISREG(st->st_mode))
		return refuse(report, -EINVAL,
			      "%s: is not a file: name the file that holds the key", path);
	if (st->st_mode & (S_IRWXG | S_IRWXO))
		return refuse(report, -EACCES, "%s: others may read or change it: chmod 600 %s",
			      path, path);
	return 0;
}

/* Into @text, ended by a 0. */
static int file_read(const char *path, char text[FILE_MAX + 1], const struct report *report)
{
	int fd =
	    open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for its writer */
	struct stat st;
	ssize_t n;
	int rc;

	if (fd < 0)
		return refuse(report, -errno,
			      "%s: %s; to make a key: (umask 077; openssl rand -hex 32 > FILE)",
			      path, strerror(errno));
	rc = fstat(fd, &st) < 0 ? refuse(report, -errno, "%s: %s", path, strerror(errno))
				: file_check(path, &st, report);
	if (rc < 0)
		goto out;
	n = read(fd, text, FILE_MAX);
	if (n < 0)
		rc = refuse(report, -errno, "%s: %s", path, strerror(errno));
	else
		text[n < (ssize_t)FILE_MAX ? n : 0] = '\0';
out:
	close(fd);
	return rc;
}

static bool text_decode(const char *text, struct seal_key *key)
{
	static const char space[] = " \t\r\n";
	size_t skip = strspn(text, space), len = strcspn(text + skip, space), got = 0;
	int rc;

	text += skip;
	if (text[len + strspn(text + len, space)])
		return false;
	if (len == 2 * SEAL_KEY_SIZE)
		rc = sodium_hex2bin(key->bytes, sizeof(key->bytes), text, len, NULL, &got, NULL);
	else
		rc = sodium_base642bin(key->bytes, sizeof(key->bytes), text, len, NULL, &got, NULL,
				       sodium_base64_VARIANT_ORIGINAL);
	return rc == 0 && got == sizeof(key->bytes);
}

int seal_key_read(const char *path, struct seal_key *key, char *error, size_t error_size)
{
	const struct report report = {error, error_size};
	char text[FILE_MAX + 1];
	int rc;

	if (sodium_init() < 0)
		return refuse(&report, -ENOSYS, "%s: libsodium does not work on this machine",
			      path);
	rc = file_read(path, text, &report);
	if (rc == 0 && !text_decode(text, key))
		rc = refuse(&report, -EINVAL,
			    "%s: is not 64 hexadecimal digits or 44 of base64; to make a key: "
			    "(umask 077; openssl rand -hex 32 > FILE)",
			    path);
	sodium_memzero(text, sizeof(text));
	if (rc < 0)
		sodium_memzero(key, sizeof(*key));
	return rc;
}
