/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The words about routes
 *
 * Theory of operation: overlay->routes is what the user asked for, in order. A change makes a new
 * list beside it, compiles that (routes_build()) on the calling thread, and has the data loop swap
 * the pointer to the table; then the new list takes the old one's place. So a failure on the way
 * leaves both as they were.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vnet/control_text.h"
#include "vnet/control_word.h"
#include "vnet/loop.h"

#define PRIORITY_MAX 1000
#define LIST_CHUNK   256u /* routes read in one visit of the data loop */

/* --- text to route and back ----------------------------------------------------------------- */

/* Where one route ends in a list of words: at the end, ";" or "}". */
static bool route_ended(const char *word)
{
	return !word || !strcmp(word, ";") || !strcmp(word, "}");
}

/* Each parser takes the words behind its keyword and returns how many it used, or -errno. */

static int parse_pattern(struct control_call *call, char *const *words, struct mac_pattern *pattern)
{
	bool negated = !strcmp(words[0], "not");

	if (negated && route_ended(words[1]))
		return control_fail(call, -EINVAL, "an address follows 'not'");
	if (mac_parse(words[negated], pattern->mac)) {
		pattern->match = negated ? MAC_NOT : MAC_EXACT;
		return negated ? 2 : 1;
	}
	if (!negated && !strcmp(words[0], "any"))
		pattern->match = MAC_ANY;
	else if (!negated && !strcmp(words[0], "none"))
		pattern->match = MAC_NONE;
	else
		return control_fail(call, -EINVAL,
				    "'%.40s' is no pattern: write any, none, an address such as "
				    "52:54:00:00:00:01, or 'not' and an address",
				    words[negated]);
	return 1;
}

static int parse_source(struct control_call *call, char *const *words, struct route *route)
{
	return parse_pattern(call, words, &route->source);
}

static int parse_destination(struct control_call *call, char *const *words, struct route *route)
{
	return parse_pattern(call, words, &route->destination);
}

static int parse_port(struct control_call *call, const char *word, char name[PORT_NAME_MAX])
{
	if (!*word || strlen(word) >= PORT_NAME_MAX)
		return control_fail(call, -EINVAL, "'%.40s': a port's name has 1 to %d bytes", word,
				    PORT_NAME_MAX - 1);
	strcpy(name, word);
	return 1;
}

static int parse_from(struct control_call *call, char *const *words, struct route *route)
{
	if (!strcmp(words[0], "all") || !strcmp(words[0], "drop"))
		return control_fail(
		    call, -EINVAL,
		    "no frame comes from '%s': write a port's name, any, links or nics", words[0]);
	return strcmp(words[0], "any") ? parse_port(call, words[0], route->in) : 1;
}

static int parse_to(struct control_call *call, char *const *words, struct route *route)
{
	if (!strcmp(words[0], "any"))
		return control_fail(
		    call, -EINVAL,
		    "no frame goes to 'any': write a port's name, all, links, nics or drop");
	return parse_port(call, words[0], route->out);
}

static int parse_priority(struct control_call *call, char *const *words, struct route *route)
{
	size_t digits = strspn(words[0], "0123456789");

	route->priority = digits && digits <= 4 && !words[0][digits] ? atoi(words[0]) : 0;
	if (route->priority < 1 || route->priority > PRIORITY_MAX)
		return control_fail(call, -EINVAL,
				    "'%.40s' is no priority: give a number from 1 to %d", words[0],
				    PRIORITY_MAX);
	return 1;
}

static const struct {
	const char *keyword;
	int (*parse)(struct control_call *call, char *const *words, struct route *route);
} clauses[] = {
    {"priority", parse_priority}, {"from", parse_from}, {"src", parse_source},
    {"dst", parse_destination},	  {"to", parse_to},
};

#define CLAUSES (sizeof(clauses) / sizeof(clauses[0]))

/* Take one clause at *words and step behind it. @given: those of before. */
static int parse_clause(struct control_call *call, char *const **words, struct route *route,
			unsigned *given)
{
	unsigned i = 0;
	int used;

	while (i < CLAUSES && strcmp(clauses[i].keyword, **words) != 0)
		i++;
	if (i == CLAUSES)
		return control_fail(call, -EINVAL, "'%.40s' is no part of a route: %s", **words,
				    "[priority N] [from PORT] [src PATTERN] [dst PATTERN] to PORT");
	if (*given >> i & 1)
		return control_fail(call, -EINVAL, "'%s' stands twice in one route: remove one",
				    **words);
	*given |= 1u << i;
	if (route_ended((*words)[1]))
		return control_fail(call, -EINVAL, "'%s' needs a value", **words);
	used = clauses[i].parse(call, *words + 1, route);
	if (used < 0)
		return used;
	*words += 1 + used;
	return 0;
}

/* Parse the route that begins at *words and step to its end. */
static int route_parse(struct control_call *call, char *const **words, struct route *route)
{
	unsigned given = 0;
	int rc = 0;

	*route = (struct route){0};
	while (!rc && !route_ended(**words))
		rc = parse_clause(call, words, route, &given);
	if (!rc && !*route->out)
		rc = control_fail(call, -EINVAL, "it does not say where to: end it with 'to PORT'");
	return rc;
}

/* A route is all that stands behind the word. */
static int route_argument(struct control_call *call, struct route *route)
{
	char *const *at = call->argv;
	int rc = route_parse(call, &at, route);

	if (!rc && *at)
		rc = control_fail(call, -EINVAL, "'%s' belongs to route replace: give one route",
				  *at);
	return rc;
}

static void pattern_print(const struct mac_pattern *pattern, char text[MAC_TEXT_MAX + 4])
{
	static const char *const names[] = {
	    [MAC_ANY] = "any", [MAC_NONE] = "none", [MAC_NOT] = "not "};
	char mac[MAC_TEXT_MAX] = "";

	if (pattern->match == MAC_EXACT || pattern->match == MAC_NOT)
		mac_print(pattern->mac, mac);
	snprintf(text, MAC_TEXT_MAX + 4, "%s%s",
		 pattern->match == MAC_EXACT ? "" : names[pattern->match], mac);
}

void route_print(const struct route *route, char text[ROUTE_TEXT_MAX])
{
	char source[MAC_TEXT_MAX + 4], destination[MAC_TEXT_MAX + 4], priority[32] = "";

	if (route->priority)
		snprintf(priority, sizeof(priority), "priority %d ", route->priority);
	pattern_print(&route->source, source);
	pattern_print(&route->destination, destination);
	snprintf(text, ROUTE_TEXT_MAX, "%s%s%s%ssrc %s dst %s to %s", priority,
		 *route->in ? "from " : "", route->in, *route->in ? " " : "", source, destination,
		 route->out);
}

/* --- lists ---------------------------------------------------------------------------------- */

static int list_add(struct control_call *call, struct route_list *list, const struct route *route)
{
	struct route *bigger;

	if (list->count == ROUTES_MAX)
		return control_fail(call, -E2BIG, "there are %u routes already: remove one first",
				    ROUTES_MAX);
	if (list->count == list->room) {
		bigger = realloc(list->routes, (2 * list->room + 16) * sizeof(*bigger));
		if (!bigger)
			return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
		list->routes = bigger;
		list->room = 2 * list->room + 16;
	}
	list->routes[list->count++] = *route;
	return 0;
}

static int pattern_compare(const struct mac_pattern *a, const struct mac_pattern *b)
{
	return a->match != b->match ? (int)a->match - (int)b->match
				    : memcmp(a->mac, b->mac, sizeof(a->mac));
}

/* For qsort(); 0 for the same route. */
static int route_compare(const void *left, const void *right)
{
	const struct route *a = left, *b = right;
	int order = pattern_compare(&a->destination, &b->destination);

	if (!order)
		order = pattern_compare(&a->source, &b->source);
	if (!order)
		order = a->priority - b->priority;
	if (!order)
		order = strcmp(a->in, b->in);
	return order ? order : strcmp(a->out, b->out);
}

/* Position of a route in the list, or its length. */
static size_t list_find(const struct route_list *list, const struct route *route)
{
	size_t i = 0;

	while (i < list->count && route_compare(&list->routes[i], route) != 0)
		i++;
	return i;
}

static int list_copy(struct control_call *call, struct route_list *copy)
{
	const struct route_list *list = &call->overlay->routes;

	*copy = (struct route_list){.count = list->count, .room = list->count + 1};
	copy->routes = malloc(copy->room * sizeof(*copy->routes));
	if (!copy->routes)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	if (list->count)
		memcpy(copy->routes, list->routes, list->count * sizeof(*copy->routes));
	return 0;
}

/* Refuse a list in which a route stands twice. */
static int list_check(struct control_call *call, const struct route_list *list)
{
	struct route *sorted = calloc(list->count + 1, sizeof(*sorted));
	char text[ROUTE_TEXT_MAX];
	int rc = 0;

	if (!sorted)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	if (list->count)
		memcpy(sorted, list->routes, list->count * sizeof(*sorted));
	qsort(sorted, list->count, sizeof(*sorted), route_compare);
	for (size_t i = 1; i < list->count && !rc; i++) {
		if (route_compare(&sorted[i - 1], &sorted[i]) != 0)
			continue;
		route_print(&sorted[i], text);
		rc = control_fail(call, -EEXIST, "the route '%s' stands there twice: remove one",
				  text);
	}
	free(sorted);
	return rc;
}

/* --- into use ------------------------------------------------------------------------------- */

struct swap {
	struct core *core;
	struct route_table *table; /* in: the new one; out: the old one */
};

static void swap_run(void *arg)
{
	struct swap *swap = arg;

	swap->table = core_routes_swap(swap->core, swap->table);
}

/* Compile the routes and have the core take them. */
static int routes_use(struct overlay *overlay, const struct route_list *list)
{
	struct swap swap = {.core = overlay->core,
			    .table = routes_build(list->routes, list->count)};

	if (!swap.table)
		return -errno;
	loop_call(overlay->loop, swap_run, &swap);
	routes_destroy(swap.table);
	return 0;
}

int routes_commit(struct overlay *overlay)
{
	return routes_use(overlay, &overlay->routes);
}

/* Have @list instead of what there is; on failure it is freed. */
static int list_use(struct control_call *call, struct route_list *list)
{
	struct overlay *overlay = call->overlay;
	int rc = routes_use(overlay, list);

	if (rc) {
		free(list->routes);
		return control_fail(call, rc, "%s", strerror(-rc));
	}
	free(overlay->routes.routes);
	overlay->routes = *list;
	call->result = json_object_new_object();
	json_add_number(call->result, "routes", list->count);
	return 0;
}

/* --- words ---------------------------------------------------------------------------------- */

int word_route_add(struct control_call *call)
{
	struct route_list list;
	struct route route;
	int rc = route_argument(call, &route);

	if (rc || call->check)
		return rc;
	if (list_find(&call->overlay->routes, &route) < call->overlay->routes.count)
		return control_fail(call, -EEXIST, "there is this very route already");
	if (call->batch)
		return list_add(call, &call->overlay->routes, &route);
	rc = list_copy(call, &list);
	if (rc)
		return rc;
	rc = list_add(call, &list, &route);
	if (!rc)
		return list_use(call, &list);
	free(list.routes);
	return rc;
}

int word_route_del(struct control_call *call)
{
	struct route_list *routes = &call->overlay->routes, list;
	struct route route;
	size_t at;
	int rc = route_argument(call, &route);

	if (rc || call->check)
		return rc;
	at = list_find(routes, &route);
	if (at == routes->count)
		return control_fail(call, -ENOENT, "there is no such route: route list shows all");
	rc = list_copy(call, &list);
	if (rc)
		return rc;
	list.count--;
	memmove(&list.routes[at], &list.routes[at + 1], (list.count - at) * sizeof(*list.routes));
	if (!call->batch)
		return list_use(call, &list);
	free(routes->routes);
	*routes = list;
	return 0;
}

/* "{ ROUTE ; ROUTE ... }" */
static int replace_inline(struct control_call *call, struct route_list *list)
{
	char *const *at = call->argv + 1;
	struct route route;
	int rc = 0;

	while (!rc && *at && strcmp(*at, "}") != 0) {
		rc = route_parse(call, &at, &route);
		if (!rc)
			rc = list_add(call, list, &route);
		if (!rc && *at && !strcmp(*at, ";"))
			at++;
	}
	if (!rc && !*at)
		rc = control_fail(call, -EINVAL, "the brace is not closed: end the list with '}'");
	if (!rc && at[1])
		rc = control_fail(call, -EINVAL,
				  "'%.40s' stands behind the closing brace: remove it", at[1]);
	return rc;
}

/* One line of FILE: a route, with or without "route add" before it, or nothing. */
static int replace_line(struct control_call *call, struct route_list *list, const char *line,
			size_t len)
{
	struct control_text text;
	struct route route;
	char *const *at;
	int rc = control_text_split(&text, line, len, call->error, call->error_size);

	if (rc)
		return rc;
	at = text.argv;
	if (text.argc >= 2 && !strcmp(at[0], "route") && !strcmp(at[1], "add"))
		at += 2;
	if (text.argc) {
		rc = route_parse(call, &at, &route);
		if (!rc && *at)
			rc = control_fail(call, -EINVAL,
					  "one route stands on a line: remove '%.40s'", *at);
		if (!rc)
			rc = list_add(call, list, &route);
	}
	control_text_free(&text);
	return rc;
}

static int replace_lines(struct control_call *call, struct route_list *list, const char *path,
			 const char *text)
{
	char why[CONTROL_ERROR_MAX];
	unsigned number = 0;
	int rc = 0;

	while (!rc && *text) {
		size_t len = strcspn(text, "\n");

		number++;
		rc = replace_line(call, list, text, len);
		text += len + (text[len] == '\n');
	}
	if (rc) {
		snprintf(why, sizeof(why), "%s", call->error);
		snprintf(call->error, call->error_size, "%.160s:%u: %s", path, number, why);
	}
	return rc;
}

static int replace_file(struct control_call *call, struct route_list *list)
{
	const char *path = call->argv[0];
	int fd = control_open(call, path, O_RDONLY), rc;
	char *text;

	if (fd < 0)
		return fd;
	rc = control_text_read(fd, &text);
	close(fd);
	if (rc)
		return control_fail(call, rc, "cannot read '%.200s': %s", path,
				    control_text_remedy(rc));
	rc = replace_lines(call, list, path, text);
	free(text);
	return rc;
}

int word_route_replace(struct control_call *call)
{
	struct route_list list = {0};
	bool braces = !strcmp(call->argv[0], "{");
	int rc;

	if (!braces && call->argc > 1)
		return control_fail(call, -EINVAL, "write %s %s", call->word->name,
				    call->word->arguments);
	rc = braces ? replace_inline(call, &list) : replace_file(call, &list);
	if (!rc)
		rc = list_check(call, &list);
	if (rc || call->check) {
		free(list.routes);
		return rc;
	}
	if (!call->batch)
		return list_use(call, &list);
	free(call->overlay->routes.routes);
	call->overlay->routes = list;
	return 0;
}

/* Some of the core's routes, copied where they change. */
struct route_chunk {
	struct core *core;
	size_t from, count;
	struct route_entry entries[LIST_CHUNK];
};

static void chunk_read(void *arg)
{
	struct route_chunk *chunk = arg;
	const struct route_entry *entries;
	size_t count = core_routes(chunk->core, &entries);

	chunk->count = chunk->from < count ? count - chunk->from : 0;
	if (chunk->count > LIST_CHUNK)
		chunk->count = LIST_CHUNK;
	if (chunk->count)
		memcpy(chunk->entries, entries + chunk->from, chunk->count * sizeof(*entries));
}

static struct json_object *entry_json(const struct route_entry *entry)
{
	const struct route *route = &entry->route;
	struct json_object *o = json_object_new_object();
	char pattern[MAC_TEXT_MAX + 4];

	json_add_number(o, "priority", (uint64_t)route->priority);
	json_add_text(o, "from", *route->in ? route->in : "any");
	pattern_print(&route->source, pattern);
	json_add_text(o, "src", pattern);
	pattern_print(&route->destination, pattern);
	json_add_text(o, "dst", pattern);
	json_add_text(o, "to", route->out);
	json_add_bool(o, "active", entry->active);
	json_add_number(o, "frames", entry->frames);
	json_add_number(o, "bytes", entry->bytes);
	return o;
}

int word_route_list(struct control_call *call)
{
	struct route_chunk *chunk;

	if (call->check)
		return 0;
	chunk = calloc(1, sizeof(*chunk));
	if (!chunk)
		return control_fail(call, -ENOMEM, "%s", strerror(ENOMEM));
	chunk->core = call->overlay->core;
	call->result = json_object_new_array();
	do {
		control_loop(call, chunk_read, chunk);
		for (size_t i = 0; i < chunk->count; i++)
			json_object_array_add(call->result, entry_json(&chunk->entries[i]));
		chunk->from += chunk->count;
	} while (chunk->count == LIST_CHUNK);
	free(chunk);
	return 0;
}
