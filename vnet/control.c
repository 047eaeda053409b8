/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control language
 *
 * Theory of operation: a line is split into words; the first one or two choose an entry of the
 * table below, whose function takes the rest. Each function parses all of its arguments before it
 * acts and acts last where it can fail, so a line takes effect whole or not at all. A file is gone
 * through twice: with call->check set nothing is done, then everything is.
 *
 * Threads: a line is run by the thread that asked, under the overlay's lock, so that one line sees
 * what the last one did. What belongs to the data loop is reached by loop_call(), in pieces that
 * are short against a millisecond: a long list of routes is parsed and compiled here, and only the
 * pointer to it changes there.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vnet/control_text.h"
#include "vnet/control_word.h"
#include "vnet/ctl_server.h"
#include "vnet/loop.h"

static int word_help(struct control_call *call);

static const struct control_word words[] = {
    {"link add", "URL", "attach a link", 1, 1, false, word_link_add},
    {"link del", "NAME", "close a link", 1, 1, false, word_link_del},
    {"link list", "", "the links: state, since when, round trip, MTU, last error", 0, 0, true,
     word_link_list},
    {"route add", "[priority N] [from PORT] [src PATTERN] [dst PATTERN] to PORT",
     "add a route. PATTERN: any, none (only if nothing else matches), MAC or not MAC; PORT: a "
     "port's name, links "
     "or nics; behind to also all (but where the frame came from) or drop",
     2, 12, false, word_route_add},
    {"route del", "ROUTE", "remove a route, written as for route add", 2, 12, false,
     word_route_del},
    {"route list", "", "the routes, and how many frames each took", 0, 0, true, word_route_list},
    {"route replace", "FILE | { ROUTE ; ... }",
     "these routes instead of all others, in one step; FILE: one a line", 1, UINT_MAX, false,
     word_route_replace},
    {"mac list", "", "the addresses learnt, and behind which port they are", 0, 0, true,
     word_mac_list},
    {"matrix", "", "frames and bytes for each pair of addresses", 0, 0, true, word_matrix},
    {"stats", "", "the counters of the ports and of the core", 0, 0, true, word_stats},
    {"trace", "PORT HEX | PORT dst MAC [src MAC]",
     "where a frame from this port would go, and why; sends nothing", 2, 5, true, word_trace},
    {"capture start", "FILE [port NAME] [limit BYTES]",
     "record the frames of a port or of all, both directions, as pcapng; one capture at a time", 1,
     5, false, word_capture_start},
    {"capture stop", "", "end the capture; says how much was recorded and dropped", 0, 0, true,
     word_capture_stop},
    {"capture status", "", "how far the capture is", 0, 0, true, word_capture_status},
    {"mode history", "", "the last switches between guest- and VMM-driven", 0, 0, true,
     word_mode_history},
    {"mode", "[NIC [tx[PAIR]|rx[PAIR]] auto|guest|vmm]",
     "who drives the queues of a NIC, all or one; alone: show it", 0, 3, false, word_mode},
    {"metrics", "", "the counters as Prometheus text", 0, 0, true, word_metrics},
    {"help", "", "these words", 0, 0, true, word_help},
};

#define WORDS (sizeof(words) / sizeof(words[0]))

/* --- what words use ------------------------------------------------------------------------- */

int control_fail(struct control_call *call, int err, const char *format, ...)
{
	int used = snprintf(call->error, call->error_size, "%s: ", call->word->name);
	va_list args;

	va_start(args, format);
	if (used >= 0 && (size_t)used < call->error_size)
		vsnprintf(call->error + used, call->error_size - (size_t)used, format, args);
	va_end(args);
	return err;
}

/* A pipe, socket or terminal makes whoever reads it wait, and here all control would. */
static bool file_waits(int fd)
{
	struct stat st;

	return fstat(fd, &st) || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

/* Opening a pipe would wait, too; what is kept open must not have the flag (io_uring minds it). */
static int file_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0600);

	if (fd >= 0)
		fcntl(fd, F_SETFL, 0);
	return fd;
}

int control_open(struct control_call *call, const char *path, int flags)
{
	int fd = call->file >= 0 ? fcntl(call->file, F_DUPFD_CLOEXEC, 0) : file_open(path, flags);

	if (fd < 0)
		return control_fail(call, -errno, "cannot open '%.200s': %s", path,
				    strerror(errno));
	if (!file_waits(fd))
		return fd;
	close(fd);
	return control_fail(call, -EINVAL, "'%.200s' is no ordinary file", path);
}

void control_loop(struct control_call *call, void (*fn)(void *arg), void *arg)
{
	loop_call(call->overlay->loop, fn, arg);
}

struct port *control_port(struct overlay *overlay, const char *name)
{
	for (unsigned i = 0; i < core_ports(overlay->core); i++) {
		struct port *port = core_port(overlay->core, i);

		if (port && !strcmp(port->name, name))
			return port;
	}
	return NULL;
}

static int hex_digit(char c)
{
	return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

bool mac_parse(const char *text, uint8_t mac[FRAME_MAC_SIZE])
{
	if (strlen(text) != MAC_TEXT_MAX - 1)
		return false;
	for (unsigned i = 0; i < FRAME_MAC_SIZE; i++, text += 3) {
		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
		    text[2] != (i < FRAME_MAC_SIZE - 1 ? ':' : '\0'))
			return false;
		mac[i] = (uint8_t)(hex_digit(text[0]) << 4 | hex_digit(text[1]));
	}
	return true;
}

void mac_print(const uint8_t mac[FRAME_MAC_SIZE], char text[MAC_TEXT_MAX])
{
	snprintf(text, MAC_TEXT_MAX, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
		 mac[3], mac[4], mac[5]);
}

static int word_help(struct control_call *call)
{
	if (call->check)
		return 0;
	call->result = json_object_new_array();
	for (size_t i = 0; i < WORDS; i++) {
		struct json_object *o = json_object_new_object();

		json_add_text(o, "word", words[i].name);
		json_add_text(o, "arguments", words[i].arguments);
		json_add_text(o, "help", words[i].help);
		json_object_array_add(call->result, o);
	}
	return 0;
}

/* --- running a line ------------------------------------------------------------------------- */

/* Whether the line begins with this word; *used is the number of its parts. */
static bool word_matches(const char *name, const struct control_text *line, unsigned *used)
{
	size_t first = strcspn(name, " ");

	*used = name[first] ? 2 : 1;
	return line->argc >= *used && strlen(line->argv[0]) == first &&
	       !strncmp(name, line->argv[0], first) &&
	       (*used == 1 || !strcmp(name + first + 1, line->argv[1]));
}

/* Say what there is: the words that begin as the line does, or all first parts. */
static int word_unknown(const struct control_text *line, char *error, size_t error_size)
{
	size_t len = strlen(line->argv[0]), used;
	const char *separator = "";

	used = (size_t)snprintf(error, error_size, "'%.40s': write ", line->argv[0]);
	for (size_t i = 0; i < WORDS && used < error_size; i++) {
		if (strncmp(words[i].name, line->argv[0], len) || words[i].name[len] != ' ')
			continue;
		used += (size_t)snprintf(error + used, error_size - used, "%s%s", separator,
					 words[i].name);
		separator = " or ";
	}
	if (!*separator)
		snprintf(error, error_size, "there is no word '%.40s': help lists all",
			 line->argv[0]);
	return -EINVAL;
}

/* Run the split line. @call: as control_run() or a file sets it up; its word and arguments are
 * found here. */
static int line_run(struct control_call *call, struct control_text *line)
{
	const struct control_word *word = NULL;
	unsigned used = 0;

	for (size_t i = 0; i < WORDS && !word; i++)
		if (word_matches(words[i].name, line, &used))
			word = &words[i];
	if (!word)
		return word_unknown(line, call->error, call->error_size);
	call->word = word;
	call->argv = line->argv + used;
	call->argc = line->argc - used;
	if (call->argc < word->argc_min || call->argc > word->argc_max)
		return control_fail(call, -EINVAL, "write %s%s%s", word->name,
				    *word->arguments ? " " : "", word->arguments);
	if (call->batch && word->shows)
		return control_fail(call, -EINVAL, "it only shows something: leave it out here");
	return word->run(call);
}

int control_run(struct overlay *overlay, const char *line, int file, struct json_object **result,
		char *error, size_t error_size)
{
	struct control_call call = {
	    .overlay = overlay, .file = file, .error = error, .error_size = error_size};
	struct control_text words_of_line;
	int rc = control_text_split(&words_of_line, line, strlen(line), error, error_size);

	if (rc)
		return rc;
	if (words_of_line.argc) {
		pthread_mutex_lock(&overlay->lock);
		rc = line_run(&call, &words_of_line);
		pthread_mutex_unlock(&overlay->lock);
	} else {
		snprintf(error, error_size, "the line is empty: help lists the words");
		rc = -EINVAL;
	}
	control_text_free(&words_of_line);
	if (rc)
		json_object_put(call.result);
	else
		*result = call.result ? call.result : json_object_new_object();
	return rc;
}

/* Run a line of a file or option; @where stands in front of its error. */
static int batch_line(struct control_call *call, const char *line, size_t len, const char *where,
		      char error[LINK_ERROR_MAX])
{
	struct control_text words_of_line;
	char why[CONTROL_ERROR_MAX];
	int rc = control_text_split(&words_of_line, line, len, why, sizeof(why));

	call->error = why;
	call->error_size = sizeof(why);
	if (!rc && words_of_line.argc)
		rc = line_run(call, &words_of_line);
	if (rc)
		snprintf(error, LINK_ERROR_MAX, "%.160s: %.230s", where, why);
	control_text_free(&words_of_line);
	json_object_put(call->result);
	call->result = NULL;
	call->error = NULL;
	return rc;
}

static int batch_commit(struct overlay *overlay, const char *where, char error[LINK_ERROR_MAX])
{
	int rc = routes_commit(overlay);

	if (rc)
		snprintf(error, LINK_ERROR_MAX, "%.160s: routes: %s", where, strerror(-rc));
	return rc;
}

static int batch_lines(struct overlay *overlay, bool check, const char *path, const char *text,
		       char error[LINK_ERROR_MAX])
{
	struct control_call call = {.overlay = overlay, .file = -1, .check = check, .batch = true};
	char where[160];
	unsigned number = 0;
	int rc = 0;

	while (!rc && *text) {
		size_t len = strcspn(text, "\n");

		snprintf(where, sizeof(where), "%.140s:%u", path, ++number);
		rc = batch_line(&call, text, len, where, error);
		text += len + (text[len] == '\n');
	}
	return rc;
}

int control_file(struct overlay *overlay, const char *path, char error[LINK_ERROR_MAX])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? -errno : 0;
	char *text = NULL;

	if (!rc)
		rc = control_text_read(fd, &text);
	if (fd >= 0)
		close(fd);
	if (rc) {
		snprintf(error, LINK_ERROR_MAX, "--overlay: cannot read '%.200s': %s", path,
			 control_text_remedy(rc));
		return rc;
	}
	rc = batch_lines(overlay, true, path, text, error);
	if (!rc)
		rc = batch_lines(overlay, false, path, text, error);
	if (!rc)
		rc = batch_commit(overlay, path, error);
	free(text);
	return rc;
}

int control_routes(struct overlay *overlay, const char *const *routes, char error[LINK_ERROR_MAX])
{
	struct control_call call = {.overlay = overlay, .file = -1, .batch = true};
	char line[ROUTE_TEXT_MAX * 2], where[160];
	int rc = 0;

	for (; *routes && !rc; routes++) {
		snprintf(where, sizeof(where), "--route '%.100s'", *routes);
		snprintf(line, sizeof(line), "route add %s", *routes);
		rc = batch_line(&call, line, strlen(line), where, error);
	}
	return rc ? rc : batch_commit(overlay, "--route", error);
}

int control_request(struct overlay *overlay, struct ctl_request *request)
{
	struct json_object *line, *result = NULL;
	const char *text;
	int rc;

	if (!json_object_object_get_ex(request->json, "line", &line) ||
	    !json_object_is_type(line, json_type_string))
		return ctl_fail(request, -EINVAL,
				"'line' is text: a line of the control language, such as 'help'");
	text = json_object_get_string(line);
	if (strlen(text) != (size_t)json_object_get_string_len(line))
		return ctl_fail(request, -EINVAL, "'line' has a NUL character");
	rc = control_run(overlay, text, request->file, &result, request->error,
			 sizeof(request->error));
	if (!rc)
		ctl_answer(request, result);
	return rc;
}
