/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control language: the same words from weft-ctl, from a file at start, and from options.
 *
 *   link add URL | link del NAME | link list
 *   route add [priority N] [from PORT] [src PATTERN] [dst PATTERN] to PORT | route del ... | route list
 *   route replace FILE or several routes between braces (atomic)
 *   mac list | stats | matrix | metrics | trace PORT HEXBYTES | capture start FILE [port NAME] [limit BYTES] | capture stop
 *
 * A line either takes effect whole or changes nothing.
 */
#ifndef WEFT_CONTROL_H
#define WEFT_CONTROL_H

#include <stddef.h>

struct json_object;
struct overlay;

/**
 * control_run - run one line.
 * @result: where the answer is put on success (an object or array the caller releases)
 * @error:  one line that names the word and the remedy
 * Any thread but the data loop's: parses here, then does its work on the data loop by loop_call().
 * Returns 0, -EINVAL or another -errno.
 */
int control_run(struct overlay *overlay, const char *line, struct json_object **result, char *error, size_t error_size);

#endif
