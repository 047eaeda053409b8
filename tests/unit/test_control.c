/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control language: every word, every kind of mistake, and that a mistake changes nothing. */
#include <criterion/criterion.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <netdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vnet/control.h"
#include "vnet/core.h"
#include "vnet/loop.h"
#include "vnet/overlay.h"
#include "vnet/routes.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MAC_A	     "52:54:00:00:00:0a"
#define MAC_B	     "52:54:00:00:00:0B"

/* --- an overlay to speak to ----------------------------------------------------------------- */

static struct {
	struct loop *loop;
	struct overlay *overlay;
	struct port nic, link;
	unsigned closed;
	char error[CONTROL_ERROR_MAX];
	char *answer; /* JSON text of the last success */
	char path[64];
} rig;

static void send_nothing(struct port *port, struct frame *const frames[], unsigned n)
{
	(void)port, (void)frames, (void)n;
}

static void close_counted(struct port *port)
{
	(void)port;
	rig.closed++;
}

static const struct port_ops fake_ops = {
    .type = "fake", .send_batch = send_nothing, .close = close_counted};

static int create(const struct overlay_options *options)
{
	static char error[LINK_ERROR_MAX];
	int rc;

	*error = '\0';
	rc = overlay_create(rig.loop, options, &rig.overlay, error);
	snprintf(rig.error, sizeof(rig.error), "%s", error);
	if (rc)
		rig.overlay = NULL;
	return rc;
}

static void rig_make(void)
{
	const char *listens[] = {"udp://127.0.0.1:0", NULL};
	const struct overlay_options options = {.vni = 1, .listens = listens, .learn = true};

	rig.loop = loop_create(8);
	cr_assert_not_null(rig.loop);
	cr_assert_eq(create(&options), 0, "%s", rig.error);
	rig.nic =
	    (struct port){.ops = &fake_ops, .kind = PORT_INTERFACE, .name = "nic0", .mtu = 1500};
	rig.link = (struct port){.ops = &fake_ops, .kind = PORT_LINK, .name = "peer", .mtu = 1400};
	cr_assert_eq(core_attach(overlay_core(rig.overlay), &rig.nic), 0);
	cr_assert_eq(core_attach(overlay_core(rig.overlay), &rig.link), 0);
}

static void rig_free(void)
{
	overlay_destroy(rig.overlay);
	loop_destroy(rig.loop);
	free(rig.answer);
	if (*rig.path)
		unlink(rig.path);
	memset(&rig, 0, sizeof(rig));
}

/* Run a line with a file that came along, and keep the answer or the error. */
static int run_with(const char *line, int file)
{
	struct json_object *result = NULL;
	int rc;

	*rig.error = '\0';
	free(rig.answer);
	rig.answer = NULL;
	rc = control_run(rig.overlay, line, file, &result, rig.error, sizeof(rig.error));
	if (rc) {
		cr_assert_null(result);
		cr_assert(*rig.error, "no reason given for: %s", line);
		cr_assert_null(strchr(rig.error, '\n'));
		return rc;
	}
	cr_assert_not_null(result);
	rig.answer = strdup(json_object_to_json_string_ext(
	    result, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(result);
	return 0;
}

static int run(const char *line)
{
	return run_with(line, -1);
}

static void good(const char *line)
{
	cr_assert_eq(run(line), 0, "%s: %s", line, rig.error);
}

static void expect(const char *line, const char *answer)
{
	good(line);
	cr_assert_str_eq(rig.answer, answer, "%s: %s", line, rig.answer);
}

/* All that a line could have changed, to be freed. */
static char *state(void)
{
	char *routes, *both;

	good("route list");
	routes = strdup(rig.answer);
	good("link list");
	cr_assert(asprintf(&both, "%s %s", routes, rig.answer) > 0);
	free(routes);
	return both;
}

/* The line is refused for this reason, and nothing has changed. */
static void bad(const char *line, int rc, const char *reason)
{
	char *before = state(), *after;
	int got = run(line);

	cr_assert_eq(got, rc, "%s: %d: %s", line, got, rig.error);
	cr_assert(strstr(rig.error, reason), "%s: %s", line, rig.error);
	after = state();
	cr_assert_str_eq(before, after, "changed by: %s", line);
	free(before);
	free(after);
}

static size_t routes_count(void)
{
	const struct route_entry *entries;

	return core_routes(overlay_core(rig.overlay), &entries);
}

/* Write a file of this content; its path is rig.path. */
static void file_write(const char *content, size_t len)
{
	int fd;

	if (*rig.path)
		unlink(rig.path);
	snprintf(rig.path, sizeof(rig.path), "/tmp/test_control.XXXXXX");
	fd = mkstemp(rig.path);
	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, content, len), (ssize_t)len);
	close(fd);
}

#define CONTROL(name) Test(control, name, .init = rig_make, .fini = rig_free)

/* --- lines and words ------------------------------------------------------------------------ */

CONTROL(lines_that_are_no_words)
{
	bad("", -EINVAL, "empty");
	bad("   \t ", -EINVAL, "empty");
	bad("# link list", -EINVAL, "empty");
	bad("frobnicate", -EINVAL, "no word 'frobnicate'");
	bad("lin", -EINVAL, "no word 'lin'");
	bad("links", -EINVAL, "no word 'links'");
	bad("LINK list", -EINVAL, "no word 'LINK'");
	bad("link", -EINVAL, "'link': write link add or link del or link list");
	bad("link frob", -EINVAL, "link add");
	bad("route", -EINVAL, "route replace");
	bad("mac", -EINVAL, "mac list");
	bad("matrix\n", -EINVAL, "control character");
	bad("matrix\x7f", -EINVAL, "control character");
	bad("\x1b[2J", -EINVAL, "control character");
	bad("\"matrix", -EINVAL, "quote");
	bad("mat\"rix\"", -EINVAL, "quote");
	bad("\"mat\"rix", -EINVAL, "quote");
	bad("\"\"", -EINVAL, "no word ''");
	bad("\"route add\" to all", -EINVAL, "no word 'route add'");
	bad("matrix;", -EINVAL, "matrix: write matrix");
}

CONTROL(number_of_arguments)
{
	static const char *const lines[] = {
	    "link add",
	    "link add udp://127.0.0.1:1 x",
	    "link del",
	    "link del a b",
	    "link list x",
	    "route add",
	    "route add to",
	    "route del",
	    "route list x",
	    "route replace",
	    "route replace a b",
	    "mac list x",
	    "matrix x",
	    "stats x",
	    "trace",
	    "trace nic0",
	    "trace nic0 dst",
	    "help me",
	};

	for (size_t i = 0; i < COUNT(lines); i++)
		bad(lines[i], -EINVAL, "write ");
}

CONTROL(blanks_quotes_and_comments)
{
	expect("  mac\tlist  # the addresses", "[]");
	expect("\"mac\" \"list\" #x", "[]");
	bad("\"mac\" \"list\"#x", -EINVAL, "quote");
	bad("mac list#x", -EINVAL, "write mac list");
}

CONTROL(help_tells_of_every_word)
{
	static const char *const words[] = {"link add",	 "link del",   "link list",	"route add",
					    "route del", "route list", "route replace", "mac list",
					    "matrix",	 "stats",      "trace",		"help"};
	char member[64];

	good("help");
	for (size_t i = 0; i < COUNT(words); i++) {
		snprintf(member, sizeof(member), "\"word\":\"%s\"", words[i]);
		cr_assert(strstr(rig.answer, member), "%s", words[i]);
	}
}

/* --- routes --------------------------------------------------------------------------------- */

/* What is written, and what it means. */
static const struct {
	const char *written, *printed;
} routes_good[] = {
    {"to all", "src any dst any to all"},
    {"to drop", "src any dst any to drop"},
    {"src any dst any to nics", "src any dst any to nics"},
    {"dst " MAC_A " to links", "src any dst " MAC_A " to links"},
    {"src " MAC_A " to peer", "src " MAC_A " dst any to peer"},
    {"dst not " MAC_A " src not " MAC_B " to peer",
     "src not 52:54:00:00:00:0b dst not " MAC_A " to peer"},
    {"dst none to peer", "src any dst none to peer"},
    {"from any to peer", "src any dst any to peer"},
    {"from links to nics", "from links src any dst any to nics"},
    {"from nics to links", "from nics src any dst any to links"},
    {"from peer to udp://10.0.0.2:6081", "from peer src any dst any to udp://10.0.0.2:6081"},
    {"priority 1 to all", "priority 1 src any dst any to all"},
    {"to peer dst ff:ff:ff:ff:ff:ff from nic0 priority 1000 src 00:00:00:00:00:00",
     "priority 1000 from nic0 src 00:00:00:00:00:00 dst ff:ff:ff:ff:ff:ff to peer"},
    {"to \"a port\"", "src any dst any to a port"},
};

CONTROL(routes_mean_what_they_say)
{
	const struct route_entry *entries;
	char line[512], text[ROUTE_TEXT_MAX];

	for (size_t i = 0; i < COUNT(routes_good); i++) {
		snprintf(line, sizeof(line), "route add %s", routes_good[i].written);
		expect(line, "{\"routes\":1}");
		cr_assert_eq(core_routes(overlay_core(rig.overlay), &entries), 1);
		route_print(&entries[0].route, text);
		cr_assert_str_eq(text, routes_good[i].printed, "%s", text);
		bad(line, -EEXIST, "already");
		snprintf(line, sizeof(line), "route del %s", routes_good[i].written);
		expect(line, "{\"routes\":0}");
		bad(line, -ENOENT, "no such route");
	}
}

static void run_and_count(const char *line)
{
	size_t before = routes_count();
	bool added = !run(line);

	cr_assert_eq(routes_count(), before + added, "%s", line);
}

/* Every line that is cut short, or lacks a letter, either is another route or changes nothing. */
CONTROL(routes_with_something_missing)
{
	char line[512], cut[512];

	for (size_t i = 0; i < COUNT(routes_good); i++) {
		snprintf(line, sizeof(line), "route add %s", routes_good[i].written);
		for (size_t at = 0; at < strlen(line); at++) {
			snprintf(cut, sizeof(cut), "%.*s%s", (int)at, line, line + at + 1);
			run_and_count(cut);
			snprintf(cut, sizeof(cut), "%.*s", (int)at, line);
			run_and_count(cut);
		}
	}
}

CONTROL(routes_that_are_mistakes)
{
	static const struct {
		const char *route, *reason;
	} lines[] = {
	    {"to", "write route add"},
	    {"dst any", "where to"},
	    {"priority 1 from nic0", "where to"},
	    {"nic0 peer", "'nic0' is no part of a route"},
	    {"to peer nic0", "'nic0' is no part"},
	    {"TO peer", "'TO' is no part"},
	    {"to peer to nic0", "'to' stands twice"},
	    {"dst any dst any to peer", "'dst' stands twice"},
	    {"src any to peer src none", "'src' stands twice"},
	    {"priority 1 priority 2 to all", "'priority' stands twice"},
	    {"from peer from peer to all", "'from' stands twice"},
	    {"to peer dst", "'dst' needs a value"},
	    {"to peer from", "'from' needs a value"},
	    {"to peer dst not", "follows 'not'"},
	    {"to peer dst not any", "'any' is no pattern"},
	    {"to peer dst not none", "'none' is no pattern"},
	    {"to peer dst not not", "'not' is no pattern"},
	    {"to peer dst not to", "'to' is no pattern"},
	    {"to peer dst 52:54:00:00:00", "is no pattern"},
	    {"to peer dst 52:54:00:00:00:0", "is no pattern"},
	    {"to peer dst 52:54:00:00:00:0g", "is no pattern"},
	    {"to peer dst 52:54:00:00:00:01:02", "is no pattern"},
	    {"to peer dst 52-54-00-00-00-01", "is no pattern"},
	    {"to peer dst 525400000001", "is no pattern"},
	    {"to peer dst \" 2:54:00:00:00:01\"", "is no pattern"},
	    {"to peer dst +2:54:00:00:00:01", "is no pattern"},
	    {"to peer dst !52:54:00:00:00:01", "is no pattern"},
	    {"to peer dst \"\"", "is no pattern"},
	    {"to any", "no frame goes to 'any'"},
	    {"to \"\"", "1 to 79 bytes"},
	    {"from \"\" to all", "1 to 79 bytes"},
	    {"from all to nic0", "no frame comes from 'all'"},
	    {"from drop to nic0", "no frame comes from 'drop'"},
	    {"priority 0 to all", "from 1 to 1000"},
	    {"priority 1001 to all", "from 1 to 1000"},
	    {"priority -1 to all", "is no priority"},
	    {"priority +1 to all", "is no priority"},
	    {"priority 1x to all", "is no priority"},
	    {"priority 0x10 to all", "is no priority"},
	    {"priority 99999999999999999999 to all", "is no priority"},
	    {"priority \"\" to all", "is no priority"},
	    {"to peer ;", "one route"},
	    {"to peer ; to nic0", "one route"},
	    {"{ to peer }", "write route add"},
	    {"to peer }", "one route"},
	    {"; to peer", "where to"},
	};
	char line[256];

	good("route add to peer");
	for (size_t i = 0; i < COUNT(lines); i++) {
		snprintf(line, sizeof(line), "route add %s", lines[i].route);
		if (!strcmp(lines[i].route, "to") || lines[i].route[0] == '{')
			cr_assert_eq(run(line), -EINVAL, "%s", line);
		else
			bad(line, -EINVAL, lines[i].reason);
		snprintf(line, sizeof(line), "route del %s", lines[i].route);
		cr_assert_eq(run(line), -EINVAL, "%s", line);
	}
	cr_assert_eq(routes_count(), 1);
}

CONTROL(names_as_long_as_they_may_be)
{
	char name[PORT_NAME_MAX + 1], line[256];

	memset(name, 'x', PORT_NAME_MAX);
	name[PORT_NAME_MAX] = '\0';
	snprintf(line, sizeof(line), "route add from %s to all", name);
	bad(line, -EINVAL, "1 to 79 bytes");
	name[PORT_NAME_MAX - 1] = '\0';
	snprintf(line, sizeof(line), "route add from %s to %s", name, name);
	good(line);
}

CONTROL(the_list_shows_what_is_active)
{
	good("route add priority 7 from nic0 dst " MAC_A " to peer");
	expect("route list", "[{\"priority\":7,\"from\":\"nic0\",\"src\":\"any\",\"dst\":\"" MAC_A
			     "\",\"to\":\"peer\",\"active\":true,\"frames\":0,\"bytes\":0}]");
	good("route replace { to nobody }");
	good("route list");
	cr_assert(strstr(rig.answer, "\"active\":false"), "%s", rig.answer);
}

CONTROL(many_are_replaced_at_once)
{
	good("route add to nic0");
	expect("route replace { to peer ; dst " MAC_A " to nic0 ; src none to drop }",
	       "{\"routes\":3}");
	expect("route replace { to peer; dst " MAC_A " to nic0; }", "{\"routes\":2}");
	expect("route replace { to peer }", "{\"routes\":1}");
	expect("route replace { }", "{\"routes\":0}");
	expect("route list", "[]");
}

CONTROL(one_mistake_replaces_none)
{
	good("route add to nic0");
	bad("route replace {", -EINVAL, "not closed");
	bad("route replace { to peer", -EINVAL, "not closed");
	bad("route replace { to peer ;", -EINVAL, "not closed");
	bad("route replace { to peer } x", -EINVAL, "behind the closing brace");
	bad("route replace { to peer } ;", -EINVAL, "behind the closing brace");
	bad("route replace { ; }", -EINVAL, "where to");
	bad("route replace { to peer ; ; to nic0 }", -EINVAL, "where to");
	bad("route replace { to peer to nic0 }", -EINVAL, "twice");
	bad("route replace { to peer ; dst x to nic0 }", -EINVAL, "'x' is no pattern");
	bad("route replace { to peer ; dst }", -EINVAL, "needs a value");
	bad("route replace { to peer ; to nic0 ; to peer }", -EEXIST,
	    "'src any dst any to peer' stands there twice");
	bad("route replace { } }", -EINVAL, "behind");
	bad("route replace to peer", -EINVAL, "write route replace");
}

CONTROL(routes_from_a_file)
{
	static const char content[] =
	    "# routes\n\n  dst " MAC_A " to peer # here\nroute add to nic0\n\t\nto drop";
	char line[128];
	int fd;

	file_write(content, sizeof(content) - 1);
	snprintf(line, sizeof(line), "route replace %s", rig.path);
	expect(line, "{\"routes\":3}");
	expect("route replace { }", "{\"routes\":0}");
	/* The descriptor stands for the file, whatever the name. */
	fd = open(rig.path, O_RDONLY);
	cr_assert_eq(run_with("route replace \"no such file\"", fd), 0, "%s", rig.error);
	cr_assert_str_eq(rig.answer, "{\"routes\":3}");
	close(fd);
}

CONTROL(files_with_mistakes)
{
	static const struct {
		const char *content;
		int rc;
		const char *reason;
	} files[] = {
	    {"to peer\nto\n", -EINVAL, ":2: route replace: 'to' needs a value"},
	    {"\n\n# x\ndst x to peer", -EINVAL, ":4: route replace: 'x' is no pattern"},
	    {"to peer ; to nic0\n", -EINVAL, ":1: route replace: one route stands on a line"},
	    {"to peer }\n", -EINVAL, ":1: "},
	    {"route del to peer\n", -EINVAL, ":1: "},
	    {"route add\n", -EINVAL, ":1: "},
	    {"to peer\r\n", -EINVAL, ":1: there is a control character"},
	    {"to peer\nto \"peer\n", -EINVAL, ":2: a quote"},
	    {"to peer\nto nic0\nto peer\n", -EEXIST, "stands there twice"},
	};
	char line[128];

	good("route add to all");
	for (size_t i = 0; i < COUNT(files); i++) {
		file_write(files[i].content, strlen(files[i].content));
		snprintf(line, sizeof(line), "route replace %s", rig.path);
		bad(line, files[i].rc, files[i].reason);
	}
	file_write("to peer\0to nic0\n", 16);
	bad(line, -ENOENT, "cannot open");
	snprintf(line, sizeof(line), "route replace %s", rig.path);
	bad(line, -EILSEQ, "NUL characters");
	bad("route replace /", -EISDIR, "cannot read '/'");
	bad("route replace /no/such/file", -ENOENT, "cannot open '/no/such/file'");
}

/* Who holds the other end of a pipe could make all control wait. */
CONTROL(files_that_wait_are_refused)
{
	char line[128];
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	cr_assert_eq(run_with("route replace pipe", ends[0]), -EINVAL);
	cr_assert(strstr(rig.error, "'pipe' is no ordinary file"), "%s", rig.error);
	close(ends[0]);
	close(ends[1]);
	file_write("", 0);
	cr_assert_eq(unlink(rig.path), 0);
	cr_assert_eq(mkfifo(rig.path, 0600), 0);
	snprintf(line, sizeof(line), "route replace %s", rig.path);
	bad(line, -EINVAL, "no ordinary file");
	snprintf(line, sizeof(line), "capture start %s", rig.path);
	cr_assert_lt(run(line), 0);
}

/* @n different routes, one a line. */
static void file_of_routes(size_t n)
{
	char *text = malloc(n * 40 + 1), *at = text;

	for (size_t i = 0; i < n; i++)
		at += sprintf(at, "dst 52:54:%02zx:%02zx:%02zx:%02zx to peer\n", i >> 24 & 255,
			      i >> 16 & 255, i >> 8 & 255, i & 255);
	file_write(text, (size_t)(at - text));
	free(text);
}

CONTROL(as_many_as_there_may_be)
{
	char line[128];

	file_of_routes(ROUTES_MAX);
	snprintf(line, sizeof(line), "route replace %s", rig.path);
	expect(line, "{\"routes\":65536}");
	cr_assert_eq(run("route add to all"), -E2BIG);
	good("route del dst 52:54:00:00:00:00 to peer");
	good("route add to all");
	cr_assert_eq(routes_count(), ROUTES_MAX);
	file_of_routes(ROUTES_MAX + 1);
	snprintf(line, sizeof(line), "route replace %s", rig.path);
	cr_assert_eq(run(line), -E2BIG);
	cr_assert_eq(routes_count(), ROUTES_MAX);
}

/* --- links ---------------------------------------------------------------------------------- */

CONTROL(links_come_and_go)
{
	expect("link add udp://127.0.0.1:9", "{\"name\":\"udp://127.0.0.1:9\"}");
	good("link list");
	cr_assert(strstr(rig.answer, "\"name\":\"udp://127.0.0.1:9\",\"type\":\"udp\""), "%s",
		  rig.answer);
	cr_assert_null(strstr(rig.answer, "nic0"), "an interface is no link");
	bad("link add udp://127.0.0.1:9", -EEXIST, "udp://127.0.0.1:9");
	good("link del udp://127.0.0.1:9");
	bad("link del udp://127.0.0.1:9", -ENOENT, "no link 'udp://127.0.0.1:9'");
	good("link add udp://127.0.0.1:9");
}

CONTROL(links_that_are_mistakes)
{
	static const char *const urls[] = {"udp",
					   "udp:",
					   "udp://",
					   "udp:///",
					   "tcp://127.0.0.1:9",
					   "://",
					   "\"\"",
					   "udp://127.0.0.1:99999",
					   "udp://127.0.0.1:x",
					   "udp://127.0.0.1:9,x",
					   "udp://127.0.0.1:9,color=red",
					   "udp://[::1",
					   "\"udp://a b\""};
	char line[128];

	for (size_t i = 0; i < COUNT(urls); i++) {
		char *before = state(), *after;

		snprintf(line, sizeof(line), "link add %s", urls[i]);
		cr_assert_neq(run(line), 0, "%s", line);
		after = state();
		cr_assert_str_eq(before, after);
		free(before);
		free(after);
	}
	bad("link del nic0", -EINVAL, "no link but an interface");
	bad("link del \"\"", -ENOENT, "no link");
	cr_assert_eq(rig.closed, 0);
	good("link del peer");
	cr_assert_eq(rig.closed, 1);
	cr_assert_eq(rig.link.core, NULL);
}

CONTROL(a_link_that_goes_leaves_its_routes)
{
	good("route add to peer");
	good("link del peer");
	good("route list");
	cr_assert(strstr(rig.answer, "\"active\":false"), "%s", rig.answer);
	rig.link.core = NULL;
	cr_assert_eq(core_attach(overlay_core(rig.overlay), &rig.link), 0);
	good("route list");
	cr_assert(strstr(rig.answer, "\"active\":true"), "%s", rig.answer);
}

/* --- what is shown -------------------------------------------------------------------------- */

/* Let a frame come in by a port. */
static void frame_input(struct port *in, const char *bytes, size_t len)
{
	struct iovec iov = {.iov_base = (char *)bytes, .iov_len = len};
	struct frame frame = {
	    .iov = &iov, .iovcnt = 1, .len = (uint32_t)len, .hops = FRAME_HOPS_MAX};
	struct frame *frames[] = {&frame};

	memcpy(frame.eth, bytes, FRAME_HEADER);
	core_input(overlay_core(rig.overlay), in, frames, 1);
}

CONTROL(addresses_traffic_and_counters)
{
	static const char frame[60] = "\x52\x54\0\0\0\x0b\x52\x54\0\0\0\x0a\x88\xb5";

	expect("mac list", "[]");
	expect("matrix", "[]");
	frame_input(&rig.nic, frame, sizeof(frame));
	good("mac list");
	cr_assert(strstr(rig.answer, "{\"mac\":\"" MAC_A "\",\"port\":\"nic0\",\"age_ms\":"), "%s",
		  rig.answer);
	expect("matrix", "[{\"source\":\"" MAC_A
			 "\",\"destination\":\"52:54:00:00:00:0b\",\"frames\":1,\"bytes\":60}]");
	good("stats");
	cr_assert(strstr(rig.answer,
			 "\"name\":\"nic0\",\"type\":\"fake\",\"kind\":\"interface\",\"mtu\":1500"),
		  "%s", rig.answer);
	cr_assert(strstr(rig.answer, "\"in_frames\":1,\"in_bytes\":60"), "%s", rig.answer);
	cr_assert(strstr(rig.answer, "\"batch_size\":{\"1\":1}"), "%s", rig.answer);
	cr_assert(strstr(rig.answer, "\"endpoints\":[{\"type\":\"udp\""), "%s", rig.answer);
}

CONTROL(more_ports_than_one_visit_takes)
{
	struct port ports[100];
	char name[PORT_NAME_MAX + 16];

	for (unsigned i = 0; i < COUNT(ports); i++) {
		ports[i] = (struct port){.ops = &fake_ops, .kind = PORT_LINK};
		snprintf(ports[i].name, sizeof(ports[i].name), "p%u", i);
		cr_assert_eq(core_attach(overlay_core(rig.overlay), &ports[i]), 0);
	}
	good("link list");
	for (unsigned i = 0; i < COUNT(ports); i++) {
		snprintf(name, sizeof(name), "\"name\":\"p%u\"", i);
		cr_assert(strstr(rig.answer, name), "%s", name);
	}
	for (unsigned i = 0; i < COUNT(ports); i++)
		core_detach(overlay_core(rig.overlay), &ports[i]);
}

CONTROL(the_way_of_a_frame)
{
	good("route add dst " MAC_A " to peer");
	good("trace nic0 dst " MAC_A);
	cr_assert(strstr(rig.answer, "peer"), "%s", rig.answer);
	good("trace nic0 dst " MAC_A " src " MAC_B);
	cr_assert(strstr(rig.answer, "52:54:00:00:00:0b"), "%s", rig.answer);
	good("trace nic0 5254000000aa5254000000BB0800");
	cr_assert(strstr(rig.answer, "52:54:00:00:00:aa"), "%s", rig.answer);
	bad("trace nobody dst " MAC_A, -ENOENT, "no port 'nobody'");
	bad("trace nic0 5254000000aa5254000000bb08", -EINVAL, "no frame");
	bad("trace nic0 5254000000aa5254000000bb080", -EINVAL, "no frame");
	bad("trace nic0 5254000000aa5254000000bb080g", -EINVAL, "no frame");
	bad("trace nic0 src " MAC_A, -EINVAL, "write trace");
	bad("trace nic0 dst x", -EINVAL, "'x' is no address");
	bad("trace nic0 dst " MAC_A " src", -EINVAL, "write trace");
	bad("trace nic0 dst " MAC_A " dst " MAC_A, -EINVAL, "write trace");
	bad("trace nic0 dst " MAC_A " src any", -EINVAL, "'any' is no address");
	expect("matrix", "[]");
}

CONTROL(the_longest_frame)
{
	char *line = malloc(2 * FRAME_SIZE_MAX + 64);
	size_t head = (size_t)sprintf(line, "trace nic0 ");

	memset(line + head, '2', 2 * (FRAME_SIZE_MAX + 1));
	line[head + 2 * (FRAME_SIZE_MAX + 1)] = '\0';
	cr_assert_eq(run(line), -EINVAL);
	line[head + 2 * FRAME_SIZE_MAX] = '\0';
	good(line);
	free(line);
}

/* --- at the start --------------------------------------------------------------------------- */

static void rig_loop(void)
{
	rig.loop = loop_create(8);
	cr_assert_not_null(rig.loop);
}

#define START(name) Test(control_start, name, .init = rig_loop, .fini = rig_free)

START(a_file_is_run)
{
	static const char content[] =
	    "# an overlay\nlink add udp://127.0.0.1:9,name=a\n\nroute add dst " MAC_A
	    " to a # comment\n  route add to drop\nroute del to drop\n";
	const char *listens[] = {"udp://127.0.0.1:0", NULL},
		   *routes[] = {"to all", "from links to nics", NULL};
	struct overlay_options options = {.listens = listens, .routes = routes, .file = rig.path};

	file_write(content, sizeof(content) - 1);
	cr_assert_eq(create(&options), 0, "%s", rig.error);
	cr_assert_eq(routes_count(), 3);
	good("link list");
	cr_assert(strstr(rig.answer, "udp"), "%s", rig.answer);
}

START(a_file_may_replace_routes)
{
	static const char content[] = "route replace { to nics ; to links }\nroute add to drop\n";
	const char *routes[] = {"to all", NULL};
	struct overlay_options options = {.routes = routes, .file = rig.path};

	file_write(content, sizeof(content) - 1);
	cr_assert_eq(create(&options), 0, "%s", rig.error);
	cr_assert_eq(routes_count(), 3);
}

START(a_file_with_one_bad_line)
{
	static const struct {
		const char *content;
		int rc;
		const char *reason;
	} files[] = {
	    {"link add udp://127.0.0.1:9\nroute add to\n", -EINVAL, ":2: route add: write"},
	    {"\n\nfrobnicate\n", -EINVAL, ":3: there is no word"},
	    {"route add to all\nlink list\n", -EINVAL, ":2: link list: it only shows something"},
	    {"help", -EINVAL, ":1: help: it only shows"},
	    {"route add to all\nroute add to all\n", -EEXIST,
	     ":2: route add: there is this very route"},
	    {"route del to all\n", -ENOENT, ":1: route del: there is no such"},
	    {"link add tcp://x\n", -EINVAL, ":1: link add tcp://x"},
	    {"link del x\n", -ENOENT, ":1: link del: there is no link"},
	    {"\x01\n", -EINVAL, ":1: there is a control character"},
	    {"route add \"to all\n", -EINVAL, ":1: a quote"},
	};
	const char *listens[] = {"udp://127.0.0.1:0", NULL};
	struct overlay_options options = {.listens = listens, .file = rig.path};
	char reason[256];

	for (size_t i = 0; i < COUNT(files); i++) {
		file_write(files[i].content, strlen(files[i].content));
		cr_assert_eq(create(&options), files[i].rc, "%s", rig.error);
		snprintf(reason, sizeof(reason), "%s%s", rig.path, files[i].reason);
		cr_assert_eq(strncmp(rig.error, reason, strlen(reason)), 0, "%s", rig.error);
	}
}

START(a_file_that_cannot_be_read)
{
	static const struct {
		const char *path;
		int rc;
	} files[] = {{"/no/such/file", -ENOENT}, {"/", -EISDIR}};
	struct overlay_options options = {0};

	for (size_t i = 0; i < COUNT(files); i++) {
		options.file = files[i].path;
		cr_assert_eq(create(&options), files[i].rc);
		cr_assert_eq(strncmp(rig.error, "--overlay: cannot read", 22), 0, "%s", rig.error);
	}
}

START(options_with_mistakes)
{
	const char *bad_route[] = {"to all", "to", NULL},
		   *bad_link[] = {"udp://127.0.0.1:1,color=red", NULL};
	const struct overlay_options with_route = {.routes = bad_route},
				     with_link = {.links = bad_link},
				     with_listen = {.listens = bad_link},
				     with_key = {.key_file = "/no/such/file"};

	cr_assert_eq(create(&with_route), -EINVAL);
	cr_assert(strstr(rig.error, "--route 'to': route add:"), "%s", rig.error);
	cr_assert_eq(create(&with_link), -EINVAL);
	cr_assert(strstr(rig.error, "--link"), "%s", rig.error);
	cr_assert_eq(create(&with_listen), -EINVAL);
	cr_assert(strstr(rig.error, "--listen"), "%s", rig.error);
	cr_assert_eq(create(&with_key), -ENOENT);
	cr_assert(strstr(rig.error, "--key-file"), "%s", rig.error);
}

START(the_mtu_is_what_all_links_carry)
{
	const struct overlay_options options = {0};

	cr_assert_eq(create(&options), 0);
	cr_assert_eq(overlay_mtu(rig.overlay), 1500);
	rig.nic =
	    (struct port){.ops = &fake_ops, .kind = PORT_INTERFACE, .name = "nic0", .mtu = 100};
	rig.link = (struct port){.ops = &fake_ops, .kind = PORT_LINK, .name = "peer", .mtu = 9000};
	cr_assert_eq(core_attach(overlay_core(rig.overlay), &rig.nic), 0);
	cr_assert_eq(overlay_mtu(rig.overlay), 1500);
	cr_assert_eq(core_attach(overlay_core(rig.overlay), &rig.link), 0);
	cr_assert_eq(overlay_mtu(rig.overlay), 9000);
}

/* --- threads -------------------------------------------------------------------------------- */

static void *loop_main(void *loop)
{
	loop_run(loop);
	return NULL;
}

static void *lines_main(void *context)
{
	static const char *const lines[] = {
	    "route list", "stats",     "route replace { to nic0 ; to peer }",
	    "mac list",	  "link list", "trace nic0 dst " MAC_A};
	char error[CONTROL_ERROR_MAX];

	(void)context;
	for (unsigned i = 0; i < 200; i++) {
		struct json_object *result = NULL;

		cr_assert_eq(control_run(rig.overlay, lines[i % COUNT(lines)], -1, &result, error,
					 sizeof(error)),
			     0, "%s", error);
		json_object_put(result);
	}
	return NULL;
}

/* Names known to no server; the real function is asked for numbers only. */
static struct {
	unsigned lookups;
	pthread_t thread; /* of the last one */
} names;

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
		struct addrinfo **found)
{
	static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (hints->ai_flags & AI_NUMERICHOST)
		return real(host, service, hints, found);
	names.lookups++;
	names.thread = pthread_self();
	if (strcmp(host, "peer.test") != 0)
		return EAI_NONAME;
	return real(hints->ai_family == AF_INET ? "127.0.0.9" : "::9", service, hints, found);
}

/* The data loop never waits for a name server. The listener speaks IPv4, and so must the peer. */
CONTROL(names_are_looked_up_by_who_asks)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, loop_main, rig.loop), 0);
	expect("link add udp://peer.test:9", "{\"name\":\"udp://peer.test:9\"}");
	cr_assert_eq(names.lookups, 2);
	cr_assert(pthread_equal(names.thread, pthread_self()));
	cr_assert_eq(run("link add udp://127.0.0.9:9"), -EEXIST);
	cr_assert(strstr(rig.error, "udp://peer.test:9"), "%s", rig.error);
	expect("link add udp://peer.test:10,plain=on,name=b", "{\"name\":\"b\"}");
	cr_assert_eq(run("link add udp://other.test:9"), -EHOSTUNREACH);
	cr_assert(strstr(rig.error, "not found"), "%s", rig.error);
	cr_assert(pthread_equal(names.thread, pthread_self()));
	good("link del udp://peer.test:9");
	loop_stop(rig.loop);
	pthread_join(thread, NULL);
}

CONTROL(lines_of_several_threads_while_the_loop_runs)
{
	pthread_t loop, threads[3];

	cr_assert_eq(pthread_create(&loop, NULL, loop_main, rig.loop), 0);
	for (size_t i = 0; i < COUNT(threads); i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, lines_main, NULL), 0);
	for (size_t i = 0; i < COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	loop_stop(rig.loop);
	pthread_join(loop, NULL);
	cr_assert_eq(routes_count(), 2);
}
