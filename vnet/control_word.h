/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How a word of the control language is written. For the files of words; users see control.h. */
#ifndef WEFT_CONTROL_WORD_H
#define WEFT_CONTROL_WORD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "vnet/control.h"
#include "vnet/core.h"
#include "vnet/json.h"
#include "vnet/link.h"
#include "vnet/routes.h"
#include "vnet/seal.h"

/* The routes as the user gave them; what is built from them is the core's. */
struct route_list {
	struct route *routes;
	size_t count, room;
};

struct overlay {
	struct loop *loop; /* the data loop */
	struct core *core; /* the data loop's, as are the links */
	struct links *links;
	struct capture *capture; /* the data loop's; set and unset under the lock. NULL: none */
	struct seal_key key;
	pthread_mutex_t lock; /* held while a line is run; never taken by the data loop's thread */
	struct route_list routes; /* under the lock */
};

/* One line on its way. */
struct control_call {
	struct overlay *overlay;
	const struct control_word *word;
	char **argv; /* what stands behind the word, NULL at the end */
	unsigned argc;
	int file;   /* descriptor that stands for the file named, or -1 */
	bool check; /* only say whether the line makes sense */
	bool batch; /* routes: collect; the caller commits */
	struct json_object *result;
	char *error;
	size_t error_size;
};

/*
 * A word: "link add". run() parses its arguments, then returns if call->check is set, then acts; it
 * sets call->result if it has something to show (otherwise the answer is an empty object) and
 * returns 0, or control_fail() with nothing changed.
 */
struct control_word {
	const char *name;
	const char *arguments; /* for help */
	const char *help;
	unsigned argc_min, argc_max;
	bool shows; /* changes nothing, and so has no place in a file at start */
	int (*run)(struct control_call *call);
};

/* control_fail - format "WORD: why and remedy" as the error; returns @err. */
__attribute__((format(printf, 3, 4))) int control_fail(struct control_call *call, int err,
						       const char *format, ...);
/* control_open - the file that the line names: what came with the request, or opened with @flags
 * and mode 0600. A descriptor to be closed, or control_fail(). The sandbox refuses to open;
 * weft-ctl therefore sends it along. A pipe and the like, which could make the caller wait, are
 * refused. */
int control_open(struct control_call *call, const char *path, int flags);
/* control_loop - fn(arg) on the data loop. */
void control_loop(struct control_call *call, void (*fn)(void *arg), void *arg);
/* control_port - the port of that name, or NULL. Data loop. */
struct port *control_port(struct overlay *overlay, const char *name);
/* mac_parse - exactly aa:bb:cc:dd:ee:ff. */
bool mac_parse(const char *text, uint8_t mac[FRAME_MAC_SIZE]);
#define MAC_TEXT_MAX 18
void mac_print(const uint8_t mac[FRAME_MAC_SIZE], char text[MAC_TEXT_MAX]);

/* routes_commit - take overlay->routes into use. 0 or -errno. */
int routes_commit(struct overlay *overlay);

/* The words, by file. */
int word_link_add(struct control_call *call); /* control_links.c */
int word_link_del(struct control_call *call);
int word_link_list(struct control_call *call);
int word_route_add(struct control_call *call); /* control_routes.c */
int word_route_del(struct control_call *call);
int word_route_list(struct control_call *call);
int word_route_replace(struct control_call *call);
int word_mac_list(struct control_call *call); /* control_show.c */
int word_matrix(struct control_call *call);
int word_stats(struct control_call *call);
int word_trace(struct control_call *call);
int word_capture_start(struct control_call *call); /* control_capture.c */
int word_capture_stop(struct control_call *call);
int word_capture_status(struct control_call *call);
int word_metrics(struct control_call *call);

#endif
