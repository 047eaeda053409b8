/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links by their URL: SCHEME://TARGET[,OPTION=VALUE]... One table of types; what stands behind a link is its
 * type's own file (link_udp.c, link_eth.c, link_ib.c, link_shm.c, link_tap.c,
 * link_passt.c).
 */
#ifndef WEFT_LINK_H
#define WEFT_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "vnet/port.h"

struct core;
struct geneve_extras;
struct ib_calls;
struct iovec;
struct loop;
struct loop_timer;
struct seal_key;

#define LINK_ERROR_MAX   400 /* room for a message, bytes */
#define LINK_OPTIONS_MAX 8
#define LINK_URL_MAX     2048 /* more than the parts of a struct link_spec can be */

/* What all links of an overlay share. */
struct link_env {
	struct loop *loop;
	struct core *core;
	uint32_t vni;               /* the overlay's id, 0..GENEVE_VNI_MAX */
	bool offload;               /* false: --offload off, every frame is finished by the core */
	const struct seal_key *key; /* NULL: none */
	const struct iovec *memory; /* where frames with a hold may lie, to be registered; outlives the links */
	unsigned memory_count;
	_Atomic bool *memory_pinned; /* set when it was: its pages must stay what they are; or NULL */
	const struct ib_calls *ib_calls; /* NULL: the real ones */
};

/* A link as the user wrote it, taken apart. */
struct link_spec {
	const char *option; /* where it was written, for messages: "--link", "link add" */
	const char *text;   /* whole */
	char scheme[16];
	char target[256];
	struct { char name[24], value[128]; } options[LINK_OPTIONS_MAX];
	unsigned option_count;
};

/* link_option - the value of an option, or NULL. */
const char *link_option(const struct link_spec *spec, const char *name);
/* link_fail - format "OPTION TEXT: why and remedy" into @error; returns @err. */
__attribute__((format(printf, 4, 5)))
int link_fail(char error[LINK_ERROR_MAX], const struct link_spec *spec, int err, const char *format, ...);

/*
 * A kind of link. Types with listeners keep what their links share (a socket) in their own endpoint, made at
 * the first need. All calls on the loop's thread, or while no thread runs it.
 */
struct link_type {
	const char *scheme;         /* "udp" */
	const char *form;           /* "udp://HOST[:PORT]" for help */
	const char *summary;        /* one line for help */
	const char *const *options; /* names that may follow, NULL at the end; "name" is everybody's */
	const char *listen_form;    /* "udp://[ADDR][:PORT]", or NULL: has no listener */
	/* Make an endpoint that waits for peers or carries links; one more if *endpoint is set, or -EINVAL where that
	 * makes no sense. NULL without listeners. */
	int (*listen)(const struct link_env *env, const struct link_spec *spec, void **endpoint, char error[LINK_ERROR_MAX]);
	/* Make and core_attach() a link. @endpoint: as listen() made it, or NULL (then open() may set it). The port's
	 * name is option name=, or the URL without options. */
	int (*open)(const struct link_env *env, const struct link_spec *spec, void **endpoint, struct port **port,
		    char error[LINK_ERROR_MAX]);
	/* Write the URL without options, with an address in place of a name, or "" if there is no name to look up. @family:
	 * AF_INET, AF_INET6, AF_UNSPEC. May wait; any thread. NULL where targets are never looked up. */
	int (*resolve)(const struct link_spec *spec, int family, char url[LINK_URL_MAX], char error[LINK_ERROR_MAX]);
	/* Release an endpoint whose links are closed. */
	void (*endpoint_destroy)(void *endpoint);
	/* Add to @sum what an endpoint counted that belongs to no link of its; may be NULL. */
	void (*endpoint_counters)(void *endpoint, struct port_counters *sum);
};
extern const struct link_type link_udp, link_eth, link_ib, link_shm, link_tap, link_passt;

/*
 * What the types share. Each keeps a struct link_status in its link and shows it by port_ops.status.
 */

/* link_name - option name=, or the URL without options. 0, or -EINVAL with the message written. */
int link_name(const struct link_spec *spec, char name[PORT_NAME_MAX], char error[LINK_ERROR_MAX]);
/* link_attach - name the port and attach it to the core. 0, or -EINVAL, -EEXIST, -ENOSPC with the message. */
int link_attach(const struct link_env *env, const struct link_spec *spec, struct port *port,
		char error[LINK_ERROR_MAX]);
/* link_switch - the value of an option that is "on" or "off", @value as it was if not given. 0 or -EINVAL. */
int link_switch(const struct link_spec *spec, const char *name, bool *value, char error[LINK_ERROR_MAX]);
/* link_state_set - note a change of state and when it was; @why: the error to be shown, NULL keeps the last. */
void link_state_set(struct link_status *status, enum link_state state, const char *why);
/* link_extras - what goes with a frame to a weft peer: what is left to do to it, and its hops where @hops says that the
 * peer knows them. Returns false when the port cannot take it so: DROP_OFFLOAD. */
bool link_extras(const struct port *port, bool hops, const struct frame *frame, struct geneve_extras *extras);
/* link_count_sent - count @n frames that left by the port. */
void link_count_sent(struct port_counters *counters, struct frame *const frames[], unsigned n);
/* link_retry - arm a timer for the next attempt to come up again; @delay_ns: this wait, 0 at first, then twice
 * as long each time up to one second, so that a peer that is back is found within that. */
void link_retry(struct loop *loop, struct loop_timer *timer, uint64_t *delay_ns);

struct links; /* all links and endpoints of an overlay */
/* links_create - NULL with errno set. The loop and the core outlive it; *env is copied. */
struct links *links_create(const struct link_env *env);
/* links_destroy - closes every link and endpoint; before core_destroy(). NULL is fine. */
void links_destroy(struct links *links);
/* links_listen - --listen URL. @option names it in messages. 0, -EINVAL (makes no sense), other -errno. */
int links_listen(struct links *links, const char *option, const char *url, char error[LINK_ERROR_MAX]);
/* links_add - --link URL, "link add URL". */
int links_add(struct links *links, const char *option, const char *url, struct port **port, char error[LINK_ERROR_MAX]);
/* links_resolve - ask name servers now, so that links_add() of the same link, by @resolved, will not: that one may hold
 * up the data loop. The port's name stays that of @url. Any thread. 0 or -errno. */
int links_resolve(const char *option, const char *url, int family, char resolved[LINK_URL_MAX],
		  char error[LINK_ERROR_MAX]);
/* links_remove - detach and close. */
void links_remove(struct links *links, struct port *port);
/* links_counters - visit what the endpoints counted that belongs to no single link: strangers' datagrams. */
void links_counters(const struct links *links,
		    void (*visit)(void *context, const char *scheme, const struct port_counters *counters),
		    void *context);
/* links_types - all types (for help), NULL at the end. */
const struct link_type *const *links_types(void);

#endif
