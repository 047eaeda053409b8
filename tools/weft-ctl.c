/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * weft-ctl: talks to a running VM.
 *
 * Theory of operation
 *
 * One process, one thread, one command. There are two partners behind Unix sockets:
 *
 * - the VM's control socket, named on the command line: one JSON object a line each way, a request
 *   {"command":...} and its reply {"ok":true,"result":...} or {"ok":false,"error":...}. Results are
 *   printed as they come, so a counter that the VM adds needs no change here. Words of the overlay's
 *   control language go there as one line; a file that such a line names is opened here and sent along,
 *   since the VM's sandbox opens none, and since it is seen from our directory with our rights.
 * - the agent's socket, whose path the control socket tells: frames of agent_protocol.h.
 *
 * exec is a poll loop over the agent's socket and three standard descriptors. The socket is always read
 * at once: output waits in two rings of one window each, and only what has been written to our own
 * output is given back to the guest, so whoever reads our output slowly stops the command and nothing
 * else. Standard input is read only as far as the guest's window allows. A signal that ends us closes
 * the socket; the VM tells the guest, and the command is killed there.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "guest-images/agent/agent_frames.h"
#include "tools/control_client.h"

#define EXIT_ENVIRONMENT 1
#define EXIT_USAGE       2
#define EXIT_TRANSPORT   255 /* exec: the command's own status is not known */

#define WAIT_SECONDS     30         /* default of wait and shutdown */
#define WAIT_PAUSE_NS    10000000   /* between two tries, 10 ms */
#define SMALL_WRITE      4096       /* a pipe that polls writable takes this much (pipe(7)) */
#define GIVE_BACK        (AGENT_WINDOW / 8) /* output written before the guest is told */
#define ESCAPE_KEY       0x1d       /* ^] */
#define TABLE_WIDTH      100        /* columns of the terminal that a table may take */

struct options {
	const char *socket;
	bool json, force, reboot;
	double timeout; /* seconds */
	char **argv;    /* exec: the command in the guest; overlay: the line's words */
	int failure;    /* exit status for an environment that does not play along */
};

struct command {
	const char *name;
	const char *arguments;
	const char *help;
	const char *options; /* those that it takes, separated by blanks */
	int (*run)(const struct options *opt);
};

static const struct command commands[];

_Noreturn static void fail(int status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

_Noreturn static void fail(int status, const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stderr, "weft-ctl: %s\n", line);
	exit(status);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Text from elsewhere must not reach the terminal's controls. Returns @text. */
static char *text_clean(char *text)
{
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	return text;
}

/* --- the control socket -------------------------------------------------------------------- */

static struct json_object *member(struct json_object *object, const char *name)
{
	struct json_object *value = NULL;

	json_object_object_get_ex(object, name, &value);
	return value;
}

/* Returns the member as text, or NULL if it is absent, null or no text. */
static const char *member_text(struct json_object *object, const char *name)
{
	struct json_object *value = member(object, name);

	return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static const char *control_remedy(int error)
{
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
		return "no VM listens there: is it running, and was it given --ctl with this path?";
	case EAGAIN:
		return "the VM did not answer in time";
	case EPROTO:
		return "the answer is not the one of a VM's control socket";
	default:
		return strerror(error);
	}
}

/* Returns the result of a request; a refusal ends the program. @file: as control_ask() */
static struct json_object *control_result_file(const struct options *opt, const char *request, int file)
{
	struct json_object *reply = NULL;
	const char *error;
	int fd = socket_connect(opt->socket, CONTROL_SECONDS);

	if (fd >= 0) {
		reply = control_ask(fd, request, file);
		close(fd);
	} else {
		errno = -fd;
	}
	if (!reply)
		fail(opt->failure, "'%s': %s", opt->socket, control_remedy(errno));
	if (json_object_get_boolean(member(reply, "ok")))
		return member(reply, "result");
	error = member_text(reply, "error");
	fail(opt->failure, "refused: %s", error ? text_clean(strdup(error)) : "no reason given");
}

static struct json_object *control_result(const struct options *opt, const char *request)
{
	return control_result_file(opt, request, -1);
}

/* --- printing ------------------------------------------------------------------------------ */

/* Adds @value's scalars to @flat under dotted names. */
static void value_flatten(struct json_object *flat, const char *name, struct json_object *value)
{
	char path[256];

	if (json_object_is_type(value, json_type_object)) {
		json_object_object_foreach(value, key, inner) {
			snprintf(path, sizeof(path), "%s%s%s", name, *name ? "." : "", key);
			value_flatten(flat, path, inner);
		}
	} else if (json_object_is_type(value, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(value); i++) {
			snprintf(path, sizeof(path), "%s.%zu", name, i);
			value_flatten(flat, path, json_object_array_get_idx(value, i));
		}
	} else {
		json_object_object_add(flat, name, json_object_get(value));
	}
}

static const char *cell_text(struct json_object *flat, const char *key)
{
	struct json_object *value;

	if (!json_object_object_get_ex(flat, key, &value))
		return "";
	return value ? json_object_get_string(value) : "-";
}

static int column_width(struct json_object *flat)
{
	size_t width = 1;

	json_object_object_foreach(flat, key, value) {
		const char *text = cell_text(flat, key);

		(void)value;
		if (strlen(text) > width)
			width = strlen(text);
	}
	return width < TABLE_WIDTH ? (int)width : TABLE_WIDTH;
}

static void cell_print(struct json_object *flat, const char *key, bool alone)
{
	char *text = strdup(cell_text(flat, key));

	printf("  %*s", alone ? 0 : column_width(flat), text ? text_clean(text) : "");
	free(text);
}

/* Prints columns @first to @last - 1: one line a name, one column an element. */
static void table_print(struct json_object *names, int name_width, struct json_object **columns,
			size_t first, size_t last, bool alone)
{
	json_object_object_foreach(names, key, unused) {
		(void)unused;
		printf("%-*s", name_width, key);
		for (size_t i = first; i < last; i++)
			cell_print(columns[i], key, alone);
		putchar('\n');
	}
}

/* Prints @count flat objects side by side, in as many tables as the width asks for. */
static void columns_print(struct json_object **columns, size_t count)
{
	struct json_object *names = json_object_new_object();
	int name_width = 0, width;
	size_t last;

	for (size_t i = 0; i < count; i++) {
		json_object_object_foreach(columns[i], key, unused) {
			(void)unused;
			json_object_object_add(names, key, NULL);
			if ((int)strlen(key) > name_width)
				name_width = (int)strlen(key);
		}
	}
	for (size_t first = 0; first < count; first = last) {
		width = name_width;
		for (last = first; last < count; last++) {
			width += 2 + column_width(columns[last]);
			if (width > TABLE_WIDTH && last > first)
				break;
		}
		table_print(names, name_width, columns, first, last, count == 1);
	}
	json_object_put(names);
}

static bool is_table(struct json_object *value)
{
	return json_object_is_type(value, json_type_array) && json_object_array_length(value) &&
	       json_object_is_type(json_object_array_get_idx(value, 0), json_type_object);
}

static void array_print(const char *title, struct json_object *array)
{
	size_t count = json_object_array_length(array);
	struct json_object **columns = calloc(count, sizeof(struct json_object *));

	if (!columns)
		fail(EXIT_ENVIRONMENT, "out of memory");
	for (size_t i = 0; i < count; i++) {
		columns[i] = json_object_new_object();
		value_flatten(columns[i], "", json_object_array_get_idx(array, i));
	}
	printf("\n%s\n", title);
	columns_print(columns, count);
	for (size_t i = 0; i < count; i++)
		json_object_put(columns[i]);
	free(columns);
}

/* Prints a result for people: its plain members first, then a table for each list of objects. */
static void result_print(struct json_object *result)
{
	struct json_object *plain = json_object_new_object();

	json_object_object_foreach(result, key, value) {
		if (!is_table(value))
			value_flatten(plain, key, value);
	}
	columns_print(&plain, 1);
	json_object_put(plain);
	json_object_object_foreach(result, name, array) {
		if (is_table(array))
			array_print(name, array);
	}
}

/* What stands in a table for a value; to be freed. Lists of words are joined. */
static char *value_text(struct json_object *value)
{
	const char *text = value ? json_object_get_string(value) : "";
	char *joined = NULL, *longer;

	if (!json_object_is_type(value, json_type_array))
		return text_clean(strdup(text && *text ? text : "-"));
	for (size_t i = 0; i < json_object_array_length(value); i++) {
		if (asprintf(&longer, "%s%s%s", joined ? joined : "", joined ? "," : "",
			     json_object_get_string(json_object_array_get_idx(value, i))) < 0)
			fail(EXIT_ENVIRONMENT, "out of memory");
		free(joined);
		joined = longer;
	}
	return text_clean(joined ? joined : strdup("-"));
}

static int value_width(struct json_object *value)
{
	char *text = value_text(value);
	int width = (int)strlen(text);

	free(text);
	return width;
}

/* Print one column of a table into each line of it: numbers to the right, the last column as it is. */
static void rows_column(struct json_object *rows, const char *key, char **lines, bool last)
{
	size_t count = json_object_array_length(rows);
	int width = (int)strlen(key), w;
	bool number = json_object_is_type(member(json_object_array_get_idx(rows, 0), key), json_type_int);

	for (size_t i = 0; i < count; i++) {
		w = value_width(member(json_object_array_get_idx(rows, i), key));
		width = w > width ? w : width;
	}
	for (size_t i = 0; i <= count; i++) {
		char *before = lines[i];
		char *text = i ? value_text(member(json_object_array_get_idx(rows, i - 1), key)) : strdup(key);

		if (asprintf(&lines[i], "%s%s%*s", before ? before : "", before ? "  " : "",
			     number ? width : last ? 0 : -width, text) < 0)
			fail(EXIT_ENVIRONMENT, "out of memory");
		free(before);
		free(text);
	}
}

/* Print a list of objects as a table with a line for each; what only some have is left out. */
static void rows_print(struct json_object *rows)
{
	size_t count = json_object_array_length(rows);
	struct json_object *first = json_object_array_get_idx(rows, 0);
	char **lines = calloc(count + 1, sizeof(*lines));
	int left = json_object_object_length(first);

	if (!lines)
		fail(EXIT_ENVIRONMENT, "out of memory");
	json_object_object_foreach(first, key, unused) {
		(void)unused;
		rows_column(rows, key, lines, --left == 0);
	}
	for (size_t i = 0; i <= count; i++) {
		puts(lines[i]);
		free(lines[i]);
	}
	free(lines);
}

/* Print text of several lines. */
static void text_print(const char *text)
{
	for (; *text; text++)
		putchar((unsigned char)*text >= ' ' || *text == '\n' ? *text : '?');
}

static void list_print(struct json_object *list)
{
	if (is_table(list)) {
		rows_print(list);
		return;
	}
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		text_print(json_object_get_string(json_object_array_get_idx(list, i)));
		putchar('\n');
	}
}

static void result_show(const struct options *opt, struct json_object *result)
{
	if (json_object_is_type(result, json_type_string))
		text_print(json_object_get_string(result));
	else if (opt->json)
		puts(json_object_to_json_string_ext(result, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (json_object_is_type(result, json_type_array))
		list_print(result);
	else if (json_object_is_type(result, json_type_object))
		result_print(result);
	if (fflush(stdout))
		fail(EXIT_ENVIRONMENT, "cannot write the result: %s", strerror(errno));
}

/* --- the agent ----------------------------------------------------------------------------- */

/*
 * A path that the VM's status has as @name, or NULL; to be freed. One that is not absolute is seen from
 * the directory in which the VM runs.
 */
static char *status_path(struct json_object *status, const char *name)
{
	const char *path = member_text(status, name);
	char *full;

	if (!path || *path == '/')
		return path ? strdup(path) : NULL;
	if (asprintf(&full, "/proc/%d/cwd/%s", json_object_get_int(member(status, "pid")), path) < 0)
		return NULL;
	return full;
}

static int agent_connect(const struct options *opt)
{
	char *path = status_path(control_result(opt, "{\"command\":\"status\"}\n"), "agent");
	int fd;

	if (!path)
		fail(opt->failure, "the VM has no agent socket: start it with --agent PATH");
	fd = socket_connect(path, 0);
	if (fd < 0)
		fail(opt->failure, "the agent's socket '%s': %s", path, strerror(-fd));
	free(path);
	return fd;
}

static int agent_send(int fd, uint16_t type, const void *payload, size_t len)
{
	uint8_t data[sizeof(struct agent_frame) + AGENT_PING_MAX];
	struct agent_ring ring;
	int rc;

	agent_ring_init(&ring, data, sizeof(data));
	rc = agent_frame_put(&ring, 0, type, payload, len);
	return rc ? rc : send_all(fd, data, ring.used);
}

static void error_print(const struct agent_view *view)
{
	char text[AGENT_ERROR_MAX + 1];

	memcpy(text, view->payload, view->length);
	text[view->length] = '\0';
	fprintf(stderr, "weft-ctl: guest: %s\n", text_clean(text));
}

/* Waits for the PONG to a PING that was sent. Returns whether it came before the socket's timeout. */
static bool pong_wait(int fd)
{
	struct agent_reader *reader = malloc(sizeof(*reader));
	struct agent_view view = {0};
	bool complete = false;
	uint8_t byte;

	if (!reader)
		fail(EXIT_ENVIRONMENT, "out of memory");
	agent_reader_init(reader, AGENT_FROM_GUEST);
	/* These are a few bytes, once. */
	while (!complete && recv(fd, &byte, 1, 0) == 1)
		if (agent_reader_feed(reader, &byte, 1, &view, &complete) < 0)
			break;
	free(reader);
	return complete && view.type == AGENT_PONG;
}

static bool agent_ping(int fd, double timeout)
{
	socket_set_timeout(fd, timeout);
	return !agent_send(fd, AGENT_PING, "", 0) && pong_wait(fd);
}

/* One try to reach the agent, without a word about why it failed. *@hopeless: it never will work. */
static bool agent_try(const struct options *opt, double timeout, bool *hopeless)
{
	struct json_object *reply = NULL;
	int fd = socket_connect(opt->socket, CONTROL_SECONDS);
	char *path = NULL;
	bool alive = false;

	if (fd >= 0) {
		reply = control_ask(fd, "{\"command\":\"status\"}\n", -1);
		close(fd);
	}
	if (!reply)
		return false;
	path = status_path(member(reply, "result"), "agent");
	*hopeless = !path;
	json_object_put(reply);
	fd = path ? socket_connect(path, 0) : -1;
	free(path);
	if (fd >= 0) {
		alive = agent_ping(fd, timeout);
		close(fd);
	}
	return alive;
}

static int command_wait(const struct options *opt)
{
	const struct timespec pause = {.tv_nsec = WAIT_PAUSE_NS};
	double end = now() + opt->timeout, left;
	bool hopeless = false;

	while ((left = end - now()) > 0) {
		if (agent_try(opt, left, &hopeless))
			return EXIT_SUCCESS;
		if (hopeless)
			fail(opt->failure, "the VM has no agent socket: start it with --agent PATH");
		nanosleep(&pause, NULL);
	}
	fail(opt->failure, "'%s': the guest's agent did not answer within %g s", opt->socket,
	     opt->timeout);
}

static int command_shutdown(const struct options *opt)
{
	const uint8_t how = opt->reboot ? AGENT_REBOOT : AGENT_POWER_OFF;
	double end = now() + opt->timeout;
	int fd = agent_connect(opt);
	ssize_t n;
	char byte;

	if (!agent_ping(fd, opt->timeout))
		fail(opt->failure, "the guest's agent does not answer: use stop");
	if (agent_send(fd, AGENT_SHUTDOWN, &how, sizeof(how)))
		fail(opt->failure, "the connection to the guest's agent ended");
	/* The connection ends when the guest has stopped the agent. */
	while (end > now()) {
		socket_set_timeout(fd, end - now());
		n = recv(fd, &byte, 1, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return EXIT_SUCCESS;
	}
	fail(opt->failure, "the guest did not shut down within %g s: use stop --force", opt->timeout);
}

/* --- exec ---------------------------------------------------------------------------------- */

/* Output on its way from the guest to one of our descriptors. */
struct output {
	int fd;
	struct agent_ring ring;
	uint8_t data[AGENT_WINDOW];
};

struct exec {
	int fd;               /* the agent's socket */
	int status;           /* -1: not known yet */
	bool ended;           /* the socket is */
	bool told;            /* why it failed has been printed */
	bool input_done;      /* our standard input is at its end */
	uint32_t credit;      /* bytes of input that the guest will take */
	uint32_t owed;        /* bytes of output written and not yet given back */
	struct agent_reader reader;
	struct agent_ring queue; /* frames to the guest */
	uint8_t queue_data[4 * AGENT_FRAME_MAX];
	struct output outputs[2];
	uint8_t scratch[AGENT_PAYLOAD_MAX];
};

static void exec_start(struct exec *x, char **argv)
{
	size_t len = 0, n;

	for (; *argv; argv++, len += n) {
		n = strlen(*argv) + 1;
		if (n > sizeof(x->scratch) - len)
			fail(EXIT_USAGE, "exec: the command is longer than %d bytes", AGENT_PAYLOAD_MAX);
		memcpy(x->scratch + len, *argv, n);
	}
	agent_reader_init(&x->reader, AGENT_FROM_GUEST);
	agent_ring_init(&x->queue, x->queue_data, sizeof(x->queue_data));
	for (int i = 0; i < 2; i++) {
		x->outputs[i].fd = i ? STDERR_FILENO : STDOUT_FILENO;
		agent_ring_init(&x->outputs[i].ring, x->outputs[i].data, AGENT_WINDOW);
	}
	x->status = -1;
	x->credit = AGENT_WINDOW;
	agent_frame_put(&x->queue, 0, AGENT_EXEC, x->scratch, len);
}

static void exec_frame(struct exec *x, const struct agent_view *view)
{
	int rc = 0;

	switch (view->type) {
	case AGENT_STDOUT:
	case AGENT_STDERR:
		rc = agent_ring_put(&x->outputs[view->type == AGENT_STDERR].ring, view->payload,
				    view->length);
		break;
	case AGENT_WINDOW_ADD:
		if (agent_view_u32(view) > AGENT_WINDOW - x->credit)
			rc = -ERANGE;
		else
			x->credit += agent_view_u32(view);
		break;
	case AGENT_EXIT:
		x->status = agent_view_u32(view) < 255 ? (int)agent_view_u32(view) : 255;
		break;
	case AGENT_ERROR:
		error_print(view);
		x->told = true;
		break;
	case AGENT_CLOSE:
		x->ended = true;
		break;
	}
	if (rc)
		fail(EXIT_TRANSPORT, "the guest's agent does not keep to its window");
}

static void exec_receive(struct exec *x)
{
	struct agent_view view;
	bool complete;
	ssize_t len = recv(x->fd, x->scratch, sizeof(x->scratch), MSG_DONTWAIT), n;

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	x->ended = len <= 0;
	for (ssize_t at = 0; at < len && x->status < 0; at += n) {
		n = agent_reader_feed(&x->reader, x->scratch + at, (size_t)(len - at), &view,
				      &complete);
		if (n < 0)
			fail(EXIT_TRANSPORT, "the guest's agent does not keep to the protocol");
		if (complete)
			exec_frame(x, &view);
	}
}

static void exec_send(struct exec *x)
{
	struct iovec iov[2];
	ssize_t n;

	if (!agent_ring_peek(&x->queue, iov))
		return;
	n = send(x->fd, iov[0].iov_base, iov[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	/* That the connection has ended is for the next recv() to say, behind what it still has. */
	if (n > 0)
		agent_ring_drop(&x->queue, (size_t)n);
	else if (errno != EAGAIN && errno != EINTR)
		agent_ring_drop(&x->queue, x->queue.used);
}

static void exec_input(struct exec *x)
{
	size_t room = x->credit < sizeof(x->scratch) ? x->credit : sizeof(x->scratch);
	ssize_t n = read(STDIN_FILENO, x->scratch, room);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		n = 0; /* closed, or a terminal that is not ours: nothing will come */
	x->input_done = n == 0;
	x->credit -= (uint32_t)n;
	agent_frame_put(&x->queue, 0, AGENT_STDIN, x->scratch, (size_t)n);
}

static void exec_output(struct exec *x, struct output *out)
{
	struct iovec iov[2];
	ssize_t n;

	if (!agent_ring_peek(&out->ring, iov))
		return;
	n = write(out->fd, iov[0].iov_base,
		  iov[0].iov_len < SMALL_WRITE ? iov[0].iov_len : SMALL_WRITE);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		fail(EXIT_TRANSPORT, "cannot write the command's output: %s", strerror(errno));
	agent_ring_drop(&out->ring, (size_t)n);
	x->owed += (uint32_t)n;
	if (x->owed < GIVE_BACK)
		return;
	/* This fits: standard input leaves more room than these frames can take together. */
	agent_frame_put_u32(&x->queue, 0, AGENT_WINDOW_ADD, x->owed);
	x->owed = 0;
}

/* One turn of the loop: wait, then move what can be moved. */
static void exec_turn(struct exec *x)
{
	struct pollfd polls[4] = {{.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1}};
	bool over = x->ended || x->status >= 0;

	if (!over)
		polls[0] = (struct pollfd){x->fd, (short)(POLLIN | (x->queue.used ? POLLOUT : 0)), 0};
	if (!over && !x->input_done && x->credit && agent_ring_room(&x->queue) > 2 * AGENT_FRAME_MAX)
		polls[1] = (struct pollfd){STDIN_FILENO, POLLIN, 0};
	for (int i = 0; i < 2; i++)
		if (x->outputs[i].ring.used)
			polls[2 + i] = (struct pollfd){x->outputs[i].fd, POLLOUT, 0};
	if (poll(polls, 4, -1) < 0 && errno != EINTR)
		fail(EXIT_TRANSPORT, "poll: %s", strerror(errno));
	if (polls[2].revents)
		exec_output(x, &x->outputs[0]);
	if (polls[3].revents)
		exec_output(x, &x->outputs[1]);
	if (polls[1].revents)
		exec_input(x);
	if (polls[0].revents & POLLOUT)
		exec_send(x);
	if (polls[0].revents & (POLLIN | POLLHUP | POLLERR))
		exec_receive(x);
}

static int command_exec(const struct options *opt)
{
	struct exec *x = calloc(1, sizeof(*x));
	int status;

	if (!x)
		fail(opt->failure, "out of memory");
	exec_start(x, opt->argv);
	x->fd = agent_connect(opt);
	while ((x->status < 0 && !x->ended) || x->outputs[0].ring.used || x->outputs[1].ring.used)
		exec_turn(x);
	if (x->status < 0 && !x->told)
		fail(opt->failure, "the connection to the guest's agent ended");
	status = x->status < 0 ? opt->failure : x->status;
	free(x);
	return status;
}

/* --- console ------------------------------------------------------------------------------- */

static int console_connect(const struct options *opt)
{
	struct json_object *status = control_result(opt, "{\"command\":\"status\"}\n");
	const char *kind = member_text(status, "console");
	char *path = status_path(status, "console_path");
	int fd;

	if (!kind || strcmp(kind, "unix") != 0 || !path)
		fail(opt->failure, "the console is not on a socket: start the VM with --console unix:PATH");
	fd = socket_connect(path, 0);
	if (fd < 0)
		fail(opt->failure, "the console's socket '%s': %s", path, strerror(-fd));
	free(path);
	return fd;
}

/* Descriptor for the signals that would leave the terminal raw. */
static int signals_open(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* Keys to the guest, up to the escape key. Returns whether to go on. */
static bool console_keys(int fd, bool terminal, struct pollfd *keys)
{
	char data[1024], *escape;
	ssize_t n = read(STDIN_FILENO, data, sizeof(data));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0) {
		keys->fd = -1; /* without input there may still be output */
		return !terminal;
	}
	escape = terminal ? memchr(data, ESCAPE_KEY, (size_t)n) : NULL;
	if (send_all(fd, data, escape ? (size_t)(escape - data) : (size_t)n))
		return false;
	return !escape;
}

static bool console_output(int fd)
{
	char data[SMALL_WRITE];
	ssize_t n = recv(fd, data, sizeof(data), 0), done;

	if (n <= 0)
		return n < 0 && errno == EINTR;
	for (ssize_t at = 0; at < n; at += done) {
		done = write(STDOUT_FILENO, data + at, (size_t)(n - at));
		if (done < 0)
			return false;
	}
	return true;
}

static void console_pump(int fd, bool terminal)
{
	struct pollfd polls[] = {
		{STDIN_FILENO, POLLIN, 0},
		{fd, POLLIN, 0},
		{signals_open(), POLLIN, 0},
	};
	bool on = true;

	while (on && poll(polls, 3, -1) > 0) {
		if (polls[0].revents)
			on = console_keys(fd, terminal, &polls[0]);
		if (on && polls[1].revents)
			on = console_output(fd);
		if (polls[2].revents)
			on = false;
	}
}

static int command_console(const struct options *opt)
{
	struct termios saved, raw;
	int fd = console_connect(opt);
	bool terminal = !tcgetattr(STDIN_FILENO, &saved);

	if (terminal) {
		fprintf(stderr, "Connected to the console; the key ^] leaves it.\n");
		raw = saved;
		cfmakeraw(&raw);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	console_pump(fd, terminal);
	if (terminal) {
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
		fprintf(stderr, "\nLeft the console.\n");
	}
	close(fd);
	return EXIT_SUCCESS;
}

/* --- commands of the control socket -------------------------------------------------------- */

static int command_status(const struct options *opt)
{
	result_show(opt, control_result(opt, "{\"command\":\"status\"}\n"));
	return EXIT_SUCCESS;
}

static int command_stats(const struct options *opt)
{
	result_show(opt, control_result(opt, "{\"command\":\"stats\"}\n"));
	return EXIT_SUCCESS;
}

static int command_pause(const struct options *opt)
{
	result_show(opt, control_result(opt, "{\"command\":\"pause\"}\n"));
	return EXIT_SUCCESS;
}

static int command_resume(const struct options *opt)
{
	result_show(opt, control_result(opt, "{\"command\":\"resume\"}\n"));
	return EXIT_SUCCESS;
}

static int command_stop(const struct options *opt)
{
	result_show(opt, control_result(opt, opt->force ? "{\"command\":\"stop\",\"force\":true}\n"
							: "{\"command\":\"stop\"}\n"));
	return EXIT_SUCCESS;
}

/* --- words of the overlay ------------------------------------------------------------------ */

/* Words that name a file, and how it is to be opened for them. What is written is emptied there, once the line is
 * found to make sense. */
static const struct {
	const char *first, *second;
	int flags;
} file_words[] = {{"route", "replace", O_RDONLY}, {"capture", "start", O_WRONLY | O_CREAT}};

/* Open the file that the line names. Returns -1 if it names none. */
static int line_file(char *const *argv)
{
	for (size_t i = 0; i < sizeof(file_words) / sizeof(file_words[0]); i++) {
		int fd;

		if (strcmp(argv[0], file_words[i].first) != 0 || !argv[1] ||
		    strcmp(argv[1], file_words[i].second) != 0 || !argv[2] || !strcmp(argv[2], "{"))
			continue;
		fd = open(argv[2], file_words[i].flags | O_CLOEXEC, 0600);
		if (fd < 0)
			fail(EXIT_ENVIRONMENT, "%s %s: cannot open '%s': %s", argv[0], argv[1], argv[2], strerror(errno));
		return fd;
	}
	return -1;
}

/* Add a word to the line; "..." holds one that blanks or signs of the language would divide. */
static void line_add(FILE *line, const char *word)
{
	if (*word && !strpbrk(word, " \t#\"") && (!strchr(word, ';') || !strcmp(word, ";"))) {
		fputs(word, line);
		return;
	}
	fputc('"', line);
	for (; *word; word++) {
		if (*word == '"' || *word == '\\')
			fputc('\\', line);
		fputc(*word, line);
	}
	fputc('"', line);
}

/* The request for a line of these words, to be freed. */
static char *line_request(char *const *argv)
{
	struct json_object *request = json_object_new_object();
	char *line = NULL, *text = NULL;
	size_t size;
	FILE *out = open_memstream(&line, &size);

	if (!out)
		fail(EXIT_ENVIRONMENT, "out of memory");
	for (char *const *word = argv; *word; word++) {
		if (word != argv)
			fputc(' ', out);
		line_add(out, *word);
	}
	fclose(out);
	json_object_object_add(request, "command", json_object_new_string("overlay"));
	json_object_object_add(request, "line", json_object_new_string(line));
	if (asprintf(&text, "%s\n", json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)) < 0)
		fail(EXIT_ENVIRONMENT, "out of memory");
	json_object_put(request);
	free(line);
	return text;
}

/* The words that the program knows, in the style of our own help. */
static int command_words(const struct options *opt)
{
	char *request = line_request(opt->argv);
	struct json_object *words = control_result_file(opt, request, -1);

	if (opt->json || !is_table(words)) {
		result_show(opt, words);
	} else {
		for (size_t i = 0; i < json_object_array_length(words); i++) {
			struct json_object *word = json_object_array_get_idx(words, i);
			char *name = value_text(member(word, "word")), *arguments = value_text(member(word, "arguments"));
			char *text = value_text(member(word, "help"));

			printf("%s %s\n    %s\n", name, strcmp(arguments, "-") != 0 ? arguments : "", text);
			free(name);
			free(arguments);
			free(text);
		}
	}
	free(request);
	return EXIT_SUCCESS;
}

static int command_overlay(const struct options *opt)
{
	char *request = line_request(opt->argv);

	result_show(opt, control_result_file(opt, request, line_file(opt->argv)));
	free(request);
	return EXIT_SUCCESS;
}

/* --- the command line ---------------------------------------------------------------------- */

static const struct command commands[] = {
	{"status", "[--json]", "what the VM is and does", "--json", command_status},
	{"stats", "[--json]", "its counters", "--json", command_stats},
	{"stop", "[--force]", "press its power button; --force ends it at once", "--force --json",
	 command_stop},
	{"pause", "", "stop its virtual CPUs", "--json", command_pause},
	{"resume", "", "let them run again", "--json", command_resume},
	{"exec", "[--] COMMAND...", "run a command in the guest; input, output and exit status are passed on",
	 "", command_exec},
	{"wait", "[--timeout S]", "wait until the guest's agent answers (30 s)", "--timeout", command_wait},
	{"shutdown", "[--reboot] [--timeout S]", "ask the guest's agent to shut down, and wait for it (30 s)",
	 "--reboot --timeout", command_shutdown},
	{"console", "", "connect this terminal to the console; ^] leaves it", "", command_console},
	{"link", "add URL | del NAME | list", "the overlay's links", "--json", command_overlay},
	{"route", "add ROUTE | del ROUTE | list | replace FILE | replace { ROUTE ; ... }",
	 "its routes: [priority N] [from PORT] [src PATTERN] [dst PATTERN] to PORT", "--json", command_overlay},
	{"mac", "list", "the addresses it has learnt", "--json", command_overlay},
	{"matrix", "", "its traffic by pair of addresses", "--json", command_overlay},
	{"trace", "PORT HEX | PORT dst MAC [src MAC]", "where a frame would go, and why", "--json", command_overlay},
	{"capture", "start FILE [port NAME] [limit BYTES] | stop | status",
	 "record frames as pcapng, for Wireshark", "--json", command_overlay},
	{"metrics", "", "its counters as Prometheus text", "", command_overlay},
	{"mode", "[NIC [tx[PAIR]|rx[PAIR]] auto|guest|vmm] | history", "who drives its queues: the guest or the VMM", "--json",
	 command_overlay},
	{"help", "", "all words of the overlay, as the running program knows them", "--json", command_words},
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void help_print(void)
{
	puts("Usage: weft-ctl SOCKET COMMAND [options]\n\n"
	     "Talk to a running VM, or to vnetd, through its control socket (weft run --ctl SOCKET).\n");
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		printf("  %-9s%s\n      %s\n", commands[i].name, commands[i].arguments,
		       commands[i].help);
	puts("\n--json prints the VM's answer as it is.\n"
	     "Exit status: 0 done, 1 the VM cannot be reached or refuses, 2 usage; exec: that of the\n"
	     "command in the guest (128 + its signal), 255 if it is not known.");
}

static const struct command *command_find(const char *name)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	fail(EXIT_USAGE, "no command '%s': see weft-ctl --help", name);
}

/* Whether @word is one of the blank-separated @words. */
static bool word_in(const char *words, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = words; (at = strstr(at, word)); at += n)
		if ((at == words || at[-1] == ' ') && (!at[n] || at[n] == ' '))
			return n > 0;
	return false;
}

static double seconds_parse(const char *text)
{
	char *end = NULL;
	double seconds = text ? strtod(text, &end) : 0;

	if (!text || end == text || *end || !(seconds > 0 && seconds <= 1e6))
		fail(EXIT_USAGE, "--timeout: give seconds, for example --timeout 10");
	return seconds;
}

static void options_parse(struct options *opt, const struct command *command, char **argv)
{
	for (; *argv; argv++) {
		if (!strcmp(*argv, "--help")) {
			help_print();
			exit(EXIT_SUCCESS);
		}
		if (!word_in(command->options, *argv))
			fail(EXIT_USAGE, "%s: '%s' is not for this command: weft-ctl SOCKET %s %s",
			     command->name, *argv, command->name, command->arguments);
		if (!strcmp(*argv, "--json"))
			opt->json = true;
		else if (!strcmp(*argv, "--force"))
			opt->force = true;
		else if (!strcmp(*argv, "--reboot"))
			opt->reboot = true;
		else
			opt->timeout = seconds_parse(*++argv);
	}
}

static void exec_parse(struct options *opt, char **argv)
{
	if (*argv && !strcmp(*argv, "--help")) {
		help_print();
		exit(EXIT_SUCCESS);
	}
	if (*argv && !strcmp(*argv, "--"))
		argv++;
	if (!*argv || !**argv)
		fail(EXIT_USAGE, "exec: name the command to run: weft-ctl SOCKET exec [--] COMMAND...");
	opt->argv = argv;
	opt->failure = EXIT_TRANSPORT;
}

/* All that stands behind the socket is the line, but for --json at its end. */
static void overlay_parse(struct options *opt, char **argv)
{
	size_t count = 0;

	opt->argv = argv;
	while (argv[count])
		count++;
	if (!strcmp(argv[count - 1], "--json")) {
		opt->json = true;
		argv[count - 1] = NULL;
	}
	for (; *argv; argv++)
		if (!strcmp(*argv, "--help")) {
			help_print();
			exit(EXIT_SUCCESS);
		}
}

/* Standard descriptors that are closed must not become our sockets. */
static void descriptors_reserve(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	struct options opt = {.timeout = WAIT_SECONDS, .failure = EXIT_ENVIRONMENT};
	const struct command *command;

	descriptors_reserve();
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		help_print();
		return EXIT_SUCCESS;
	}
	if (argc < 3)
		fail(EXIT_USAGE, "a socket and a command are needed: see weft-ctl --help");
	opt.socket = argv[1];
	command = command_find(argv[2]);
	if (command->run == command_exec)
		exec_parse(&opt, argv + 3);
	else if (command->run == command_overlay || command->run == command_words)
		overlay_parse(&opt, argv + 2);
	else
		options_parse(&opt, command, argv + 3);
	return command->run(&opt);
}
