/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Command lines: tables of options that are read from the arguments and a configuration file, and
 * printed as
 * --help and as a man page. What weft and vnetd share.
 */
#ifndef WEFT_CMDLINE_H
#define WEFT_CMDLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CMDLINE_OPTIONS_MAX 64 /* in all tables of a program */

enum cmdline_flag {
	CMDLINE_REPEATABLE = 1 << 0,
	CMDLINE_EMPTY = 1 << 1, /* "" is a value */
};

struct cmdline_option {
	const char *name;
	const char *argument; /* NULL: a switch */
	const char *group;    /* heading in --help; NULL: that of the option before */
	const char *help;
	unsigned flags; /* enum cmdline_flag */
	/* Take the value, which stays valid; on a mistake die through cmdline_bad(). @config: its
	 * table's. */
	void (*take)(void *config, const struct cmdline_option *option, char *value);
};

struct cmdline_table {
	const struct cmdline_option *options;
	size_t count;
	void *config;
};

/* A value from a configuration file. */
struct cmdline_text {
	struct cmdline_text *next;
	char text[];
};

struct cmdline {
	const char *command; /* "weft run", as the user writes it */
	const char *usage;   /* heads --help */
	const char *closing; /* ends it */
	const struct cmdline_table *tables;
	size_t table_count;
	void (*more)(FILE *out, bool man); /* prints what belongs behind the options, or NULL */
	struct cmdline_text **texts;	   /* keeps the values that cmdline_take_config() brings */
};

/**
 * cmdline_parse - read the arguments, and before them the files of a cmdline_take_config option.
 * @argv: argv[argc] is NULL
 *
 * Dies with STATUS_USAGE and one line that names the option and the remedy. The arguments win over
 * the file; an option that is not repeatable may stand once in each. --help prints and exits.
 */
void cmdline_parse(const struct cmdline *cmd, int argc, char *const argv[]);
/* cmdline_help - print the options, grouped; @man: as the body of a man page (roff). */
void cmdline_help(const struct cmdline *cmd, FILE *out, bool man);
/* cmdline_entry - one more entry in their style. @name: as it is read, such as "udp://HOST". */
void cmdline_entry(FILE *out, bool man, const char *name, const char *text);

/* What --config and --help have as take(). */
void cmdline_take_config(void *config, const struct cmdline_option *option, char *value);
void cmdline_take_help(void *config, const struct cmdline_option *option, char *value);

/* cmdline_bad - die: the value is not possible, and what is. */
_Noreturn void cmdline_bad(const struct cmdline_option *option, const char *value,
			   const char *remedy);
uint64_t cmdline_number(const struct cmdline_option *option, const char *value, uint64_t min,
			uint64_t max);
bool cmdline_on_off(const struct cmdline_option *option, const char *value);
/* cmdline_append - add a value to a list that ends with NULL (or is NULL yet). Returns its new
 * length. */
size_t cmdline_append(const struct cmdline_option *option, const char ***list, const char *value);

#endif
