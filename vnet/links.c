/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * What the user wrote becomes a struct link_spec here, once and strictly: an unknown scheme or
 * option, an option given twice or without a value is refused with a line that says what there is
 * instead. The type that the scheme names does the rest.
 *
 * A link is known by its type and target, whatever its name: the same one twice is refused. (Types
 * compare what two spellings can mean: a host by address and by name.) Ports that a listener makes
 * for peers that come by themselves belong to the type's endpoint, not to the list here.
 *
 * All of it runs on the loop's thread, or while no thread runs the loop.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/core.h"
#include "vnet/geneve.h"
#include "vnet/link.h"
#include "vnet/loop.h"
#include "vnet/offload.h"

#define RETRY_MIN_NS 50000000ull
#define RETRY_MAX_NS 1000000000ull
#define NAME_CHARS   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/@%[]#+"
#define TYPES	     (sizeof(types) / sizeof(types[0]) - 1)

static const struct link_type *const types[] = {&link_udp, &link_eth,   &link_ib, &link_shm,
						&link_tap, &link_passt, NULL};

struct link {
	struct link *next;
	const struct link_type *type;
	struct port *port;
	char target[sizeof(((struct link_spec *)0)->target)];
};

struct links {
	struct link_env env;
	struct link *list;
	void *endpoints[TYPES];
};

const struct link_type *const *links_types(void)
{
	return types;
}

/* --- what the user wrote ------------------------------------------------------------------- */

int link_fail(char error[LINK_ERROR_MAX], const struct link_spec *spec, int err, const char *format,
	      ...)
{
	int used = snprintf(error, LINK_ERROR_MAX, "%s %.160s: ", spec->option, spec->text);
	va_list ap;

	va_start(ap, format);
	if (used > 0 && used < LINK_ERROR_MAX)
		vsnprintf(error + used, LINK_ERROR_MAX - (size_t)used, format, ap);
	va_end(ap);
	for (char *c = error; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = '?'; /* one line, whatever was written */
	return err;
}

const char *link_option(const struct link_spec *spec, const char *name)
{
	for (unsigned i = 0; i < spec->option_count; i++)
		if (!strcmp(spec->options[i].name, name))
			return spec->options[i].value;
	return NULL;
}

int link_switch(const struct link_spec *spec, const char *name, bool *value,
		char error[LINK_ERROR_MAX])
{
	const char *text = link_option(spec, name);

	if (!text)
		return 0;
	if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
		return link_fail(error, spec, -EINVAL, "%s is on or off", name);
	*value = !strcmp(text, "on");
	return 0;
}

/* Copy @len bytes of text; false when there is no room or one of them cannot be printed. */
static bool text_take(char *to, size_t size, const char *from, size_t len)
{
	if (len >= size)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)from[i] <= ' ' || from[i] == 0x7f)
			return false;
	memcpy(to, from, len);
	to[len] = '\0';
	return true;
}

/* "NAME=VALUE" of @len bytes, behind the target. */
static int option_parse(struct link_spec *spec, const char *at, size_t len,
			char error[LINK_ERROR_MAX])
{
	const char *equal = memchr(at, '=', len);
	size_t name = equal ? (size_t)(equal - at) : 0;
	unsigned n = spec->option_count;

	if (!name || name + 1 == len)
		return link_fail(error, spec, -EINVAL,
				 "\"%.*s\" is no option: write NAME=VALUE after each comma",
				 (int)len, at);
	if (n == LINK_OPTIONS_MAX)
		return link_fail(error, spec, -EINVAL, "too many options: up to %u",
				 LINK_OPTIONS_MAX);
	if (!text_take(spec->options[n].name, sizeof(spec->options[n].name), at, name) ||
	    !text_take(spec->options[n].value, sizeof(spec->options[n].value), equal + 1,
		       len - name - 1))
		return link_fail(error, spec, -EINVAL, "\"%.*s\" is too long or has odd characters",
				 (int)len, at);
	if (link_option(spec, spec->options[n].name))
		return link_fail(error, spec, -EINVAL, "%s= stands there twice: leave one out",
				 spec->options[n].name);
	spec->option_count++;
	return 0;
}

/* SCHEME://TARGET[,OPTION=VALUE]... */
static int spec_parse(struct link_spec *spec, const char *option, const char *url,
		      char error[LINK_ERROR_MAX])
{
	const char *at = strstr(url, "://");
	size_t len;
	int err = 0;

	*spec = (struct link_spec){.option = option, .text = url};
	if (!at || !text_take(spec->scheme, sizeof(spec->scheme), url, (size_t)(at - url)))
		return link_fail(error, spec, -EINVAL,
				 "no link: write SCHEME://TARGET, such as udp://10.0.0.2");
	at += 3;
	len = strcspn(at, ",");
	if (!text_take(spec->target, sizeof(spec->target), at, len))
		return link_fail(error, spec, -EINVAL,
				 "the target is too long or has odd characters");
	for (at += len; !err && *at; at += len) {
		at++;
		len = strcspn(at, ",");
		err = option_parse(spec, at, len, error);
	}
	return err;
}

/* Add to a list of words in @text, as far as there is room. */
static void list_add(char *text, size_t size, const char *word)
{
	size_t used = strlen(text);

	snprintf(text + used, size - used, "%s%s", used ? ", " : "", word);
}

/* The index in types[] of a spec's type, or -EINVAL. */
static int type_find(const struct link_spec *spec, bool listen, char error[LINK_ERROR_MAX])
{
	char known[160] = "";

	for (size_t i = 0; i < TYPES; i++) {
		const char *form = listen ? types[i]->listen_form : types[i]->form;

		if (form && !strcmp(types[i]->scheme, spec->scheme))
			return (int)i;
		if (form)
			list_add(known, sizeof(known), form);
	}
	return link_fail(error, spec, -EINVAL, "%s: use one of %s",
			 listen ? "cannot listen on that" : "unknown kind of link", known);
}

static int options_check(const struct link_spec *spec, const struct link_type *type,
			 char error[LINK_ERROR_MAX])
{
	char known[120] = "name";

	for (unsigned i = 0; type->options && type->options[i]; i++)
		list_add(known, sizeof(known), type->options[i]);
	for (unsigned i = 0; i < spec->option_count; i++) {
		const char *name = spec->options[i].name;
		bool found = !strcmp(name, "name");

		for (unsigned k = 0; !found && type->options && type->options[k]; k++)
			found = !strcmp(name, type->options[k]);
		if (!found)
			return link_fail(error, spec, -EINVAL, "unknown option %s=: %s:// has %s",
					 name, type->scheme, known);
	}
	return 0;
}

/* --- what the types share ------------------------------------------------------------------ */

int link_name(const struct link_spec *spec, char name[PORT_NAME_MAX], char error[LINK_ERROR_MAX])
{
	const char *given = link_option(spec, "name");
	int len = given ? snprintf(name, PORT_NAME_MAX, "%s", given)
			: snprintf(name, PORT_NAME_MAX, "%s://%s", spec->scheme, spec->target);

	if (len >= PORT_NAME_MAX)
		return link_fail(
		    error, spec, -EINVAL,
		    "the name is too long: give one of up to %u bytes by name=", PORT_NAME_MAX - 1);
	if (name[strspn(name, NAME_CHARS)])
		return link_fail(error, spec, -EINVAL,
				 "\"%c\" cannot be in a name: give another by name=",
				 name[strspn(name, NAME_CHARS)]);
	return 0;
}

int link_attach(const struct link_env *env, const struct link_spec *spec, struct port *port,
		char error[LINK_ERROR_MAX])
{
	int err = link_name(spec, port->name, error);

	if (err)
		return err;
	err = core_attach(env->core, port);
	if (err == -EEXIST)
		return link_fail(error, spec, err,
				 "there is a port \"%s\" already: leave it out, or give another "
				 "name by name=",
				 port->name);
	if (err)
		return link_fail(error, spec, err, "too many links: an overlay has at most %u",
				 CORE_PORTS_MAX);
	return 0;
}

void link_state_set(struct link_status *status, enum link_state state, const char *why)
{
	if (why)
		snprintf(status->error, sizeof(status->error), "%s", why);
	if (status->state == state && status->since_ns)
		return;
	if (state == LINK_UP || (state == LINK_PLAIN && status->state == LINK_DOWN))
		status->ups++;
	status->since_ns = loop_now();
	status->state = state;
}

bool link_extras(const struct port *port, bool hops, const struct frame *frame,
		 struct geneve_extras *extras)
{
	*extras = (struct geneve_extras){0};
	if (frame->offload.flags || frame->offload.gso_type) {
		if (offload_needs(frame) & ~port->offloads)
			return false;
		extras->offload = frame->offload;
	}
	if (hops && frame->hops < FRAME_HOPS_MAX)
		extras->hops = frame->hops;
	return true;
}

void link_count_sent(struct port_counters *counters, struct frame *const frames[], unsigned n)
{
	counters->out_frames += n;
	for (unsigned i = 0; i < n; i++)
		counters->out_bytes += frames[i]->len;
}

void link_retry(struct loop *loop, struct loop_timer *timer, uint64_t *delay_ns)
{
	*delay_ns = *delay_ns ? *delay_ns * 2 : RETRY_MIN_NS;
	if (*delay_ns > RETRY_MAX_NS)
		*delay_ns = RETRY_MAX_NS;
	loop_arm(loop, timer, *delay_ns);
}

/* --- the list ------------------------------------------------------------------------------ */

struct links *links_create(const struct link_env *env)
{
	struct links *links = calloc(1, sizeof(*links));

	if (links)
		links->env = *env;
	return links;
}

static void link_close(struct links *links, struct link *link)
{
	struct port *port = link->port;

	core_detach(links->env.core, port);
	port->ops->close(port);
	free(link);
}

void links_destroy(struct links *links)
{
	if (!links)
		return;
	for (struct link *link; (link = links->list);) {
		links->list = link->next;
		link_close(links, link);
	}
	for (size_t i = 0; i < TYPES; i++)
		if (links->endpoints[i])
			types[i]->endpoint_destroy(links->endpoints[i]);
	free(links);
}

int links_listen(struct links *links, const char *option, const char *url,
		 char error[LINK_ERROR_MAX])
{
	struct link_spec spec;
	int err = spec_parse(&spec, option, url, error);
	int type = err ? err : type_find(&spec, true, error);

	if (type < 0)
		return type;
	err = options_check(&spec, types[type], error);
	if (err)
		return err;
	return types[type]->listen(&links->env, &spec, &links->endpoints[type], error);
}

static const struct link *link_find(const struct links *links, const struct link_type *type,
				    const char *target)
{
	const struct link *link = links->list;

	while (link && (link->type != type || strcmp(link->target, target) != 0))
		link = link->next;
	return link;
}

static int link_open(struct links *links, const struct link_spec *spec, size_t type,
		     struct port **port, char error[LINK_ERROR_MAX])
{
	const struct link *same = link_find(links, types[type], spec->target);
	struct link *link;
	int err;

	if (same)
		return link_fail(error, spec, -EEXIST, "that is linked already, as \"%s\"",
				 same->port->name);
	link = calloc(1, sizeof(*link));
	if (!link)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	err = types[type]->open(&links->env, spec, &links->endpoints[type], port, error);
	if (err) {
		free(link);
		return err;
	}
	link->type = types[type];
	link->port = *port;
	strcpy(link->target, spec->target);
	link->next = links->list;
	links->list = link;
	return 0;
}

int links_add(struct links *links, const char *option, const char *url, struct port **port,
	      char error[LINK_ERROR_MAX])
{
	struct link_spec spec;
	int err = spec_parse(&spec, option, url, error);
	int type = err ? err : type_find(&spec, false, error);

	if (type < 0)
		return type;
	if (!*spec.target)
		return link_fail(error, &spec, -EINVAL, "there is no target: write %s",
				 types[type]->form);
	err = options_check(&spec, types[type], error);
	return err ? err : link_open(links, &spec, (size_t)type, port, error);
}

/* The URL again, of a link whose target is now @base; without name= it has the name that it would
 * have had. */
static int url_build(const struct link_spec *spec, const char *base, char url[LINK_URL_MAX],
		     char error[LINK_ERROR_MAX])
{
	size_t used = (size_t)snprintf(url, LINK_URL_MAX, "%s", base);
	char name[PORT_NAME_MAX];
	int err = link_name(spec, name, error);

	for (unsigned i = 0; i < spec->option_count; i++)
		used += (size_t)snprintf(url + used, LINK_URL_MAX - used, ",%s=%s",
					 spec->options[i].name, spec->options[i].value);
	if (!link_option(spec, "name"))
		snprintf(url + used, LINK_URL_MAX - used, ",name=%s", name);
	return err;
}

int links_resolve(const char *option, const char *url, int family, char resolved[LINK_URL_MAX],
		  char error[LINK_ERROR_MAX])
{
	struct link_spec spec;
	char base[LINK_URL_MAX] = "";
	int err = spec_parse(&spec, option, url, error);
	int type = err ? err : type_find(&spec, false, error);

	if (type < 0)
		return type;
	if (types[type]->resolve)
		err = types[type]->resolve(&spec, family, base, error);
	if (!err && *base)
		return url_build(&spec, base, resolved, error);
	snprintf(resolved, LINK_URL_MAX, "%s", url);
	return err;
}

void links_remove(struct links *links, struct port *port)
{
	struct link **at = &links->list;
	struct link *link;

	while (*at && (*at)->port != port)
		at = &(*at)->next;
	link = *at;
	if (!link) { /* a listener's own */
		core_detach(links->env.core, port);
		port->ops->close(port);
		return;
	}
	*at = link->next;
	link_close(links, link);
}

void links_counters(const struct links *links,
		    void (*visit)(void *context, const char *scheme,
				  const struct port_counters *counters),
		    void *context)
{
	for (size_t i = 0; i < TYPES; i++) {
		struct port_counters sum = {0};

		if (!links->endpoints[i] || !types[i]->endpoint_counters)
			continue;
		types[i]->endpoint_counters(links->endpoints[i], &sum);
		visit(context, types[i]->scheme, &sum);
	}
}
