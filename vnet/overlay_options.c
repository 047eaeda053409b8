/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vnet/overlay_options.h"

#include <string.h>

#include "vnet/core.h"
#include "vnet/geneve.h"

#define LINKS_MAX (CORE_PORTS_MAX - 1) /* besides an interface */

/* The type of the link, if the scheme is known and something follows it. */
static const struct link_type *url_type(const char *url)
{
	for (const struct link_type *const *type = links_types(); *type; type++) {
		size_t n = strlen((*type)->scheme);

		if (!strncmp(url, (*type)->scheme, n) && !strncmp(url + n, "://", 3))
			return url[n + 3] ? *type : NULL;
	}
	return NULL;
}

static void url_take(const struct cmdline_option *option, const char ***list, const char *value,
		     bool listen)
{
	char remedy[256] = "give a URL:";
	const struct link_type *type = url_type(value);

	if (!type || (listen && !type->listen_form)) {
		for (const struct link_type *const *t = links_types(); *t; t++) {
			const char *form = listen ? (*t)->listen_form : (*t)->form;

			if (form)
				snprintf(remedy + strlen(remedy), sizeof(remedy) - strlen(remedy),
					 " %s", form);
		}
		cmdline_bad(option, value, remedy);
	}
	if (cmdline_append(option, list, value) > LINKS_MAX)
		cmdline_bad(option, value, "there may be at most 1023 links");
}

static void take_listen(void *config, const struct cmdline_option *option, char *value)
{
	url_take(option, &((struct overlay_options *)config)->listens, value, true);
}

static void take_link(void *config, const struct cmdline_option *option, char *value)
{
	url_take(option, &((struct overlay_options *)config)->links, value, false);
}

static void take_vni(void *config, const struct cmdline_option *option, char *value)
{
	((struct overlay_options *)config)->vni =
	    (uint32_t)cmdline_number(option, value, 0, GENEVE_VNI_MAX);
}

static void take_route(void *config, const struct cmdline_option *option, char *value)
{
	cmdline_append(option, &((struct overlay_options *)config)->routes, value);
}

static void take_overlay(void *config, const struct cmdline_option *option, char *value)
{
	(void)option;
	((struct overlay_options *)config)->file = value;
}

static void take_key_file(void *config, const struct cmdline_option *option, char *value)
{
	(void)option;
	((struct overlay_options *)config)->key_file = value;
}

static void take_offload(void *config, const struct cmdline_option *option, char *value)
{
	((struct overlay_options *)config)->offload = cmdline_on_off(option, value);
}

static void take_learn(void *config, const struct cmdline_option *option, char *value)
{
	((struct overlay_options *)config)->learn = cmdline_on_off(option, value);
}

static void take_transit(void *config, const struct cmdline_option *option, char *value)
{
	((struct overlay_options *)config)->transit = cmdline_on_off(option, value);
}

static void take_neighbours(void *config, const struct cmdline_option *option, char *value)
{
	((struct overlay_options *)config)->neighbours = cmdline_on_off(option, value);
}

static const struct cmdline_option options[] = {
    {.name = "listen",
     .argument = "URL",
     .group = "Overlay",
     .help = "where links come in, one of the forms below (default for udp: every address, port "
	     "6081); may be "
	     "repeated",
     .flags = CMDLINE_REPEATABLE,
     .take = take_listen},
    {.name = "link",
     .argument = "URL",
     .help = "a peer or a network, one of the forms below; may be repeated",
     .flags = CMDLINE_REPEATABLE,
     .take = take_link},
    {.name = "vni",
     .argument = "N",
     .help = "id of the overlay, 0 to 16777215 (default 1); all its members use the same",
     .take = take_vni},
    {.name = "route",
     .argument = "ROUTE",
     .help = "a route: [priority N] [from PORT] [src PATTERN] [dst PATTERN] to PORT, as for 'route "
	     "add' of "
	     "weft-ctl; may be repeated",
     .flags = CMDLINE_REPEATABLE,
     .take = take_route},
    {.name = "overlay",
     .argument = "FILE",
     .help =
	 "run the lines of this file at start: link add, route add and the other words of weft-ctl",
     .take = take_overlay},
    {.name = "key-file",
     .argument = "FILE",
     .help = "authenticate and encrypt every datagram between peers with the key in this file, and "
	     "take none "
	     "without",
     .take = take_key_file},
    {.name = "offload",
     .argument = "on|off",
     .help = "large frames and checksums left to those who can do them cheaper (default on)",
     .take = take_offload},
    {.name = "learn",
     .argument = "on|off",
     .help = "remember behind which link an address is, and send there only (default on)",
     .take = take_learn},
    {.name = "transit",
     .argument = "on|off",
     .help = "without routes: pass frames on from link to link (default off)",
     .take = take_transit},
    {.name = "neighbours",
     .argument = "on|off",
     .help =
	 "answer ARP and IPv6 neighbour solicitations for addresses already known (default off)",
     .take = take_neighbours},
};

void overlay_options_init(struct overlay_options *o)
{
	*o = (struct overlay_options){.vni = 1, .offload = true, .learn = true};
}

struct cmdline_table overlay_options_table(struct overlay_options *o)
{
	return (struct cmdline_table){
	    .options = options, .count = sizeof(options) / sizeof(options[0]), .config = o};
}

void overlay_options_links(FILE *out, bool man)
{
	fputs(man ? ".SS Links\n" : "\nLinks\n", out);
	for (const struct link_type *const *type = links_types(); *type; type++) {
		char text[512];
		int used = snprintf(text, sizeof(text), "%s", (*type)->summary);

		if ((*type)->listen_form && used >= 0 && (size_t)used < sizeof(text))
			snprintf(text + used, sizeof(text) - (size_t)used, "; --listen %s",
				 (*type)->listen_form);
		cmdline_entry(out, man, (*type)->form, text);
	}
}
