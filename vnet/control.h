/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control language: the same words from weft-ctl, from a file at start, and from options.
 *
 *   link add URL | link del NAME | link list
 *   route add [priority N] [from PORT] [src PATTERN] [dst PATTERN] to PORT | route del ... | route
 * list route replace FILE | route replace { ROUTE ; ROUTE ... } mac list | matrix | stats | trace
 * PORT HEX | trace PORT dst MAC [src MAC] | help
 *
 * The table of them is in control.c; each file of words documents its own. A line either takes
 * effect whole or changes nothing.
 */
#ifndef WEFT_CONTROL_H
#define WEFT_CONTROL_H

#include <stddef.h>

#include "vnet/link.h"

#define CONTROL_ERROR_MAX 512 /* room for a message, bytes */

struct ctl_request;
struct json_object;
struct overlay;
struct route;

/**
 * control_run - run one line.
 * @file:   a descriptor that came with the request and stands for the file the line names; -1: open
 * it. Borrowed.
 * @result: where the answer is put on success: an object, array or string that the caller releases
 * @error:  when it fails, one line that names the word and the remedy
 *
 * Any thread but the data loop's; one line at a time is run, others wait. It is parsed here, and
 * only what touches the core or a link is done on the data loop, by loop_call(). Returns 0, -EINVAL
 * (it makes no sense) or another -errno.
 */
int control_run(struct overlay *overlay, const char *line, int file, struct json_object **result,
		char *error, size_t error_size);

/**
 * control_file - run the lines of a file, at start.
 * @error: "FILE:LINE: why and remedy"
 *
 * Every line is checked before the first one is run, and all routes are taken into use together.
 * Blank lines and what follows a '#' at the start of a word are passed over. Returns as
 * control_run().
 */
int control_file(struct overlay *overlay, const char *path, char error[LINK_ERROR_MAX]);

/* control_routes - "route add" for each of @routes (NULL at the end), together; errors name
 * "--route". */
int control_routes(struct overlay *overlay, const char *const *routes, char error[LINK_ERROR_MAX]);

/* control_request - {"command":"overlay","line":"..."} of the control socket; for struct
 * ctl_command.run. */
int control_request(struct overlay *overlay, struct ctl_request *request);

/* control_stats - what the word "stats" shows, added to @result: "core", "ports", "endpoints". Any
 * thread but the loop's. */
void control_stats(struct overlay *overlay, struct json_object *result);

/* route_print - a route as "route add" takes it, without these two words. */
#define ROUTE_TEXT_MAX 320
void route_print(const struct route *route, char text[ROUTE_TEXT_MAX]);

#endif
