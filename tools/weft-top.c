/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * weft-top: what goes through running VMs, live.
 *
 * Theory of operation
 *
 * Each control socket is asked for its counters once an interval ("stats", and "matrix" if pairs
 * are shown); what is shown is the difference to the answer before, per second, and so nothing in
 * the first interval. A screen is first made as lines of text, then shown: by curses, or with
 * --batch by printing it. A VM that does not answer is shown as away and tried again with every
 * interval.
 *
 * Answers are foreign input: a member that is missing or of another type counts as empty.
 */
#include <ctype.h>
#include <curses.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/control_client.h"

#define EXIT_USAGE	 2
#define ANSWER_SECONDS	 2.0
#define INTERVAL_DEFAULT 1.0
#define INTERVAL_MIN	 0.1
#define PAIRS_SHOWN	 10
#define LINE_MAX_BYTES	 512

struct options {
	double interval; /* seconds */
	long batch;	 /* screens to print; 0: curses */
	bool pairs;
	char **sockets;
	int count;
};

/* A running program that is watched. */
struct source {
	const char *path;
	int fd;		     /* -1: away */
	double when, before; /* of the answers, seconds */
	/* The answers' lists as objects, by name, so that a row's predecessor is found at once. */
	struct json_object *core, *ports, *pairs;
	struct json_object *core_before, *ports_before, *pairs_before;
	const char *trouble; /* why it is away */
};

/* Lines that make a screen. */
struct screen {
	char **lines;
	size_t count, room;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* --- the screen ------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void line(struct screen *screen, const char *format,
						       ...)
{
	char text[LINE_MAX_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (char *at = text; *at; at++)
		if (iscntrl((unsigned char)*at))
			*at = '?'; /* nobody's name commands the terminal */
	if (screen->count == screen->room) {
		size_t room = screen->room ? 2 * screen->room : 64;
		char **lines = realloc(screen->lines, room * sizeof(*lines));

		if (!lines)
			return; /* what does not fit is not shown */
		screen->lines = lines;
		screen->room = room;
	}
	screen->lines[screen->count] = strdup(text);
	if (screen->lines[screen->count])
		screen->count++;
}

static void screen_clear(struct screen *screen)
{
	while (screen->count)
		free(screen->lines[--screen->count]);
}

/* --- numbers ---------------------------------------------------------------------------------- */

static struct json_object *member(struct json_object *object, const char *name)
{
	struct json_object *value = NULL;

	json_object_object_get_ex(object, name, &value);
	return value;
}

static double number(struct json_object *object, const char *name)
{
	return json_object_get_double(member(object, name));
}

static const char *text(struct json_object *object, const char *name)
{
	const char *value = json_object_get_string(member(object, name));

	return value ? value : "";
}

/* How much a counter grew, per second; one that shrank began anew. */
static double rate(struct json_object *new, struct json_object *old, const char *name,
		   double seconds)
{
	double grown = number(new, name) - (old ? number(old, name) : 0);

	return grown < 0 ? number(new, name) / seconds : grown / seconds;
}

/* "1.23 M": three digits and a prefix. */
static const char *human(char out[16], double value)
{
	static const char prefixes[] = " kMGTP";
	unsigned prefix = 0;

	while (value >= 999.5 && prefixes[prefix + 1]) {
		value /= 1000;
		prefix++;
	}
	snprintf(out, 16,
		 value < 9.995 && prefix   ? "%.2f%c"
		 : value < 99.95 && prefix ? "%.1f%c"
					   : "%.0f%c",
		 value, prefixes[prefix]);
	return out;
}

/* A member that is an object, or NULL. */
static struct json_object *object(struct json_object *parent, const char *name)
{
	struct json_object *value = member(parent, name);

	return json_object_is_type(value, json_type_object) ? value : NULL;
}

/* A list's rows by the text of one or two of their members; to be released. */
static struct json_object *rows_by(struct json_object *list, const char *name, const char *name2)
{
	size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
	struct json_object *rows = json_object_new_object();
	char key[256];

	for (size_t i = 0; rows && i < n; i++) {
		struct json_object *row = json_object_array_get_idx(list, i);

		if (!json_object_is_type(row, json_type_object))
			continue;
		snprintf(key, sizeof(key), "%s %s", text(row, name), name2 ? text(row, name2) : "");
		json_object_object_add(rows, key, json_object_get(row));
	}
	return rows;
}

/* The least value that this part of what a histogram {"LEAST": COUNT} gained is below. */
static double quantile(struct json_object *new, struct json_object *old, double part)
{
	double total = 0, seen = 0, last = 0;

	if (!new)
		return 0;
	json_object_object_foreach(new, name, value)
	{
		(void)value;
		total += rate(new, old, name, 1);
	}
	json_object_object_foreach(new, bucket, count)
	{
		(void)count;
		last = strtod(bucket, NULL) * 2;
		seen += rate(new, old, bucket, 1);
		if (total > 0 && seen >= part * total)
			return last;
	}
	return total > 0 ? last : 0;
}

/* --- one source ------------------------------------------------------------------------------- */

/* The result of a line, to be released, or NULL with errno set. */
static struct json_object *ask(struct source *source, const char *request)
{
	struct json_object *reply = control_ask(source->fd, request, -1), *result;

	if (!reply)
		return NULL;
	result = json_object_get(member(reply, "result"));
	json_object_put(reply);
	if (!result)
		errno = EPROTO;
	return result;
}

static void release(struct json_object **object)
{
	json_object_put(*object);
	*object = NULL;
}

static void source_away(struct source *source, int error)
{
	source->trouble = error == EAGAIN ? "no answer in time" : strerror(error);
	if (source->fd >= 0)
		close(source->fd);
	source->fd = -1;
	release(&source->core);
	release(&source->ports);
	release(&source->pairs);
	release(&source->core_before);
	release(&source->ports_before);
	release(&source->pairs_before);
}

/* What is new becomes what was before; in the first interval both are the same. Takes @new over. */
static void answer_take(struct json_object **current, struct json_object **before,
			struct json_object *new)
{
	json_object_put(*before);
	*before = *current ? *current : json_object_get(new);
	*current = new;
}

static void stats_take(struct source *source, struct json_object *stats)
{
	answer_take(&source->core, &source->core_before, json_object_get(object(stats, "core")));
	answer_take(&source->ports, &source->ports_before,
		    rows_by(member(stats, "ports"), "name", NULL));
	source->before = source->when;
	source->when = now();
}

/* Pairs are asked for while they are shown. */
static int pairs_read(struct source *source, bool wanted)
{
	struct json_object *pairs;

	if (!wanted) {
		release(&source->pairs);
		release(&source->pairs_before);
		return 0;
	}
	pairs = ask(source, "{\"command\":\"overlay\",\"line\":\"matrix\"}\n");
	if (!pairs)
		return -errno;
	answer_take(&source->pairs, &source->pairs_before, rows_by(pairs, "source", "destination"));
	json_object_put(pairs);
	return 0;
}

static void source_read(struct source *source, bool with_pairs)
{
	struct json_object *stats;
	int rc = 0;

	if (source->fd < 0)
		source->fd = socket_connect(source->path, ANSWER_SECONDS);
	if (source->fd < 0) {
		source_away(source, -source->fd);
		return;
	}
	stats = ask(source, "{\"command\":\"overlay\",\"line\":\"stats\"}\n");
	if (stats)
		stats_take(source, stats);
	rc = stats ? pairs_read(source, with_pairs) : -errno;
	json_object_put(stats);
	if (rc)
		source_away(source, -rc);
}

static double drops_rate(struct json_object *new, struct json_object *old, double seconds)
{
	struct json_object *drops = object(new, "drops");
	double sum = 0;

	if (!drops)
		return 0;
	json_object_object_foreach(drops, reason, count)
	{
		(void)count;
		sum += rate(drops, member(old, "drops"), reason, seconds);
	}
	return sum;
}

static void show_port(struct screen *screen, struct json_object *port, struct json_object *old,
		      double seconds)
{
	char in[16], out[16], in_bits[16], out_bits[16], drops[16];
	double frames =
	    rate(port, old, "in_frames", seconds) + rate(port, old, "out_frames", seconds);
	double calls = rate(port, old, "syscalls", seconds),
	       batches = rate(port, old, "batches", seconds);

	line(screen, "%-28.28s %-5s %6.0f %8s %8s %8s %8s %8s %7.1f %7.2f", text(port, "name"),
	     member(port, "state") ? text(port, "state") : "-", number(port, "mtu"),
	     human(in, rate(port, old, "in_frames", seconds)),
	     human(in_bits, 8 * rate(port, old, "in_bytes", seconds)),
	     human(out, rate(port, old, "out_frames", seconds)),
	     human(out_bits, 8 * rate(port, old, "out_bytes", seconds)),
	     human(drops, drops_rate(port, old, seconds)), batches > 0 ? frames / batches : 0,
	     frames > 0 ? calls / frames : 0);
}

static void show_ports(struct screen *screen, const struct source *source, double seconds)
{
	line(screen, "%-28s %-5s %6s %8s %8s %8s %8s %8s %7s %7s", "PORT", "STATE", "MTU", "IN f/s",
	     "IN b/s", "OUT f/s", "OUT b/s", "DROP/s", "f/batch", "calls/f");
	json_object_object_foreach(source->ports, name, port)
	{
		show_port(screen, port, member(source->ports_before, name), seconds);
	}
}

static void show_port_drops(struct screen *screen, struct json_object *port,
			    struct json_object *old, double seconds)
{
	struct json_object *drops = object(port, "drops");
	char rate_text[16];

	if (!drops)
		return;
	json_object_object_foreach(drops, reason, count)
	{
		double dropped = rate(drops, object(old, "drops"), reason, seconds);

		(void)count;
		if (dropped > 0)
			line(screen, "  dropped at %s: %s/s %s", text(port, "name"),
			     human(rate_text, dropped), reason);
	}
}

/* What was dropped in this interval, and why. */
static void show_drops(struct screen *screen, const struct source *source, double seconds)
{
	json_object_object_foreach(source->ports, name, port)
	{
		show_port_drops(screen, port, member(source->ports_before, name), seconds);
	}
}

static void show_core(struct screen *screen, const struct source *source, double seconds)
{
	struct json_object *core = source->core, *old = source->core_before;
	double hits = rate(core, old, "cache_hits", seconds),
	       misses = rate(core, old, "cache_misses", seconds);
	char split[16], merged[16];

	line(screen,
	     "flow cache %.1f %% hits   batch p50 %.0f p99 %.0f frames   forward p50 %.1f p99 %.1f "
	     "us   split %s/s merged %s/s",
	     hits + misses > 0 ? 100 * hits / (hits + misses) : 100.0,
	     quantile(object(core, "batch_size"), object(old, "batch_size"), 0.5),
	     quantile(object(core, "batch_size"), object(old, "batch_size"), 0.99),
	     quantile(object(core, "forward_ns"), object(old, "forward_ns"), 0.5) / 1000,
	     quantile(object(core, "forward_ns"), object(old, "forward_ns"), 0.99) / 1000,
	     human(split, rate(core, old, "split", seconds)),
	     human(merged, rate(core, old, "merged", seconds)));
}

struct pair {
	struct json_object *row;
	double bits, frames;
};

static int pair_order(const void *a, const void *b)
{
	double x = ((const struct pair *)a)->bits, y = ((const struct pair *)b)->bits;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* The pairs of addresses with most traffic. */
static void show_pairs(struct screen *screen, const struct source *source, double seconds)
{
	struct pair *pairs =
	    calloc((size_t)json_object_object_length(source->pairs) + 1, sizeof(*pairs));
	char bits[16], frames[16];
	size_t n = 0;

	if (!pairs)
		return;
	json_object_object_foreach(source->pairs, key, row)
	{
		struct json_object *old = member(source->pairs_before, key);

		pairs[n++] = (struct pair){row, 8 * rate(row, old, "bytes", seconds),
					   rate(row, old, "frames", seconds)};
	}
	qsort(pairs, n, sizeof(*pairs), pair_order);
	for (size_t i = 0; i < n && i < PAIRS_SHOWN && pairs[i].bits > 0; i++)
		line(screen, "  %s > %s  %8s b/s %8s f/s", text(pairs[i].row, "source"),
		     text(pairs[i].row, "destination"), human(bits, pairs[i].bits),
		     human(frames, pairs[i].frames));
	free(pairs);
}

static void show_source(struct screen *screen, const struct source *source)
{
	double seconds = source->when - source->before;

	if (source->fd < 0) {
		line(screen, "%s: away: %s", source->path, source->trouble);
		return;
	}
	line(screen, "%s", source->path);
	show_ports(screen, source, seconds);
	show_core(screen, source, seconds);
	show_drops(screen, source, seconds);
	if (source->pairs)
		show_pairs(screen, source, seconds);
}

static void screen_make(struct screen *screen, const struct options *opt, struct source *sources)
{
	screen_clear(screen);
	for (int i = 0; i < opt->count; i++) {
		if (i)
			line(screen, "%s", "");
		show_source(screen, &sources[i]);
	}
}

/* --- showing ---------------------------------------------------------------------------------- */

static void sources_read(const struct options *opt, struct source *sources)
{
	for (int i = 0; i < opt->count; i++)
		source_read(&sources[i], opt->pairs);
}

static void pause_seconds(double seconds)
{
	struct timespec ts = {.tv_sec = (time_t)seconds, .tv_nsec = (long)(fmod(seconds, 1) * 1e9)};

	nanosleep(&ts, NULL);
}

/* --batch: each screen is printed once its interval is over. Returns the exit status. */
static int run_batch(const struct options *opt, struct source *sources, struct screen *screen)
{
	bool answered = false;

	sources_read(opt, sources);
	for (long i = 0; i < opt->batch; i++) {
		pause_seconds(opt->interval);
		sources_read(opt, sources);
		screen_make(screen, opt, sources);
		for (size_t l = 0; l < screen->count; l++)
			puts(screen->lines[l]);
		puts("");
		fflush(stdout);
	}
	for (int i = 0; i < opt->count; i++)
		answered |= sources[i].fd >= 0;
	return answered ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void curses_show(const struct screen *screen, size_t top)
{
	erase();
	attron(A_REVERSE);
	mvprintw(0, 0, "%-*.*s", COLS, COLS,
		 "weft-top   q quit   p pairs of addresses   arrows, page up and down: move");
	attroff(A_REVERSE);
	for (size_t l = top; l < screen->count && (int)(l - top) + 1 < LINES; l++)
		mvaddnstr((int)(l - top) + 1, 0, screen->lines[l], COLS);
	refresh();
}

/* A key; returns false to leave. */
static bool key_take(int key, struct options *opt, size_t *top, size_t count)
{
	size_t page = LINES > 2 ? (size_t)LINES - 2 : 1;

	if (key == 'q')
		return false;
	if (key == 'p')
		opt->pairs = !opt->pairs;
	if (key == KEY_DOWN && *top + 1 < count)
		(*top)++;
	if (key == KEY_UP && *top)
		(*top)--;
	if (key == KEY_NPAGE && *top + page < count)
		*top += page;
	if (key == KEY_PPAGE)
		*top = *top > page ? *top - page : 0;
	return true;
}

static void run_curses(struct options *opt, struct source *sources, struct screen *screen)
{
	double next = now();
	bool on = true;
	size_t top = 0;

	initscr();
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	while (on) {
		double left = next - now();

		if (left <= 0) {
			sources_read(opt, sources);
			next = now() + opt->interval;
			left = opt->interval;
		}
		screen_make(screen, opt, sources);
		if (top >= screen->count)
			top = 0;
		curses_show(screen, top);
		timeout((int)(left * 1000) + 1);
		on = key_take(getch(), opt, &top, screen->count);
	}
	endwin();
}

/* --- the command line ------------------------------------------------------------------------- */

static void help_print(void)
{
	puts("Usage: weft-top [options] SOCKET...\n\n"
	     "Show live what goes through running VMs (weft run --ctl SOCKET) and vnetds.\n\n"
	     "  -i, --interval SECONDS  between two looks (1)\n"
	     "  -b, --batch N           print N screens and end, without a terminal\n"
	     "  -p, --pairs             show the pairs of addresses with most traffic too\n"
	     "      --help, --version\n\n"
	     "Rates are per second; f is frames, b bits. calls/f: system calls of the data path a "
	     "frame. Times and\n"
	     "sizes of batches are upper bounds of the histogram's buckets, powers of two.\n"
	     "Exit status: 0, 1 if no VM answered (--batch), 2 usage.");
}

static int usage(const char *what, const char *value, const char *remedy)
{
	fprintf(stderr, "weft-top: %s%s%s: %s\n", what, value ? " " : "", value ? value : "",
		remedy);
	return EXIT_USAGE;
}

/* Returns 0, a status to end with, or -1 to end well. */
static int options_take(struct options *opt, int argc, char **argv)
{
	static const struct option names[] = {
	    {"interval", required_argument, NULL, 'i'}, {"batch", required_argument, NULL, 'b'},
	    {"pairs", no_argument, NULL, 'p'},		{"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'v'},	{NULL, 0, NULL, 0}};
	char *end = "";
	int option;

	while ((option = getopt_long(argc, argv, "i:b:ph", names, NULL)) != -1) {
		switch (option) {
		case 'i':
			opt->interval = strtod(optarg, &end);
			if (*end || !(opt->interval >= INTERVAL_MIN && opt->interval <= 3600))
				return usage("--interval", optarg, "give seconds, 0.1 to 3600");
			break;
		case 'b':
			opt->batch = strtol(optarg, &end, 10);
			if (*end || opt->batch < 1)
				return usage("--batch", optarg,
					     "give a number of screens, 1 or more");
			break;
		case 'p':
			opt->pairs = true;
			break;
		case 'h':
			help_print();
			return -1;
		case 'v':
			puts("weft-top " WEFT_VERSION);
			return -1;
		default:
			return EXIT_USAGE; /* getopt has said why */
		}
	}
	opt->sockets = argv + optind;
	opt->count = argc - optind;
	if (!opt->count)
		return usage("no SOCKET", NULL,
			     "name the control sockets to watch (weft-top --help)");
	return 0;
}

int main(int argc, char **argv)
{
	struct options opt = {.interval = INTERVAL_DEFAULT};
	struct screen screen = {0};
	struct source *sources;
	int status = options_take(&opt, argc, argv);

	if (status)
		return status < 0 ? EXIT_SUCCESS : status;
	if (!opt.batch && !(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)))
		return usage("this is no terminal", NULL, "use --batch N");
	sources = calloc((size_t)opt.count, sizeof(*sources));
	if (!sources)
		return EXIT_FAILURE;
	for (int i = 0; i < opt.count; i++)
		sources[i] = (struct source){.path = opt.sockets[i], .fd = -1, .trouble = ""};
	if (opt.batch)
		status = run_batch(&opt, sources, &screen);
	else
		run_curses(&opt, sources, &screen);
	for (int i = 0; i < opt.count; i++)
		source_away(&sources[i], 0);
	screen_clear(&screen);
	free(screen.lines);
	free(sources);
	return status;
}
