/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Members of JSON objects, in one word each. */
#ifndef WEFT_JSON_H
#define WEFT_JSON_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

/* json_add_text - @value: NULL becomes null. */
static inline void json_add_text(struct json_object *o, const char *name, const char *value)
{
	json_object_object_add(o, name, value ? json_object_new_string(value) : NULL);
}

static inline void json_add_number(struct json_object *o, const char *name, uint64_t value)
{
	json_object_object_add(o, name, json_object_new_uint64(value));
}

static inline void json_add_bool(struct json_object *o, const char *name, bool value)
{
	json_object_object_add(o, name, json_object_new_boolean(value));
}

#endif
