/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation: one table describes every option: its name, its argument, its help text and
 * the function that takes its value. The command line, the configuration file ("name = value"
 * lines), --help and the man page are four readers of that table. The command line is read after
 * the file and wins over it. Values are checked where they are read, so that a mistake is told
 * before anything is created.
 */
#include "vnet/cmdline.h"

#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/message.h"

/* --- values --------------------------------------------------------------------------------- */

_Noreturn void cmdline_bad(const struct cmdline_option *option, const char *value,
			   const char *remedy)
{
	die(STATUS_USAGE, "--%s: '%s' is not possible: %s", option->name, value, remedy);
}

uint64_t cmdline_number(const struct cmdline_option *option, const char *value, uint64_t min,
			uint64_t max)
{
	char remedy[96], *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(value, &end, 10);
	if (errno || end == value || *end || *value == '-' || n < min || n > max) {
		snprintf(remedy, sizeof(remedy), "give a number from %llu to %llu",
			 (unsigned long long)min, (unsigned long long)max);
		cmdline_bad(option, value, remedy);
	}
	return n;
}

bool cmdline_on_off(const struct cmdline_option *option, const char *value)
{
	if (!strcmp(value, "on"))
		return true;
	if (!strcmp(value, "off"))
		return false;
	cmdline_bad(option, value, "say on or off");
}

size_t cmdline_append(const struct cmdline_option *option, const char ***list, const char *value)
{
	const char **longer;
	size_t n = 0;

	while (*list && (*list)[n])
		n++;
	longer = realloc(*list, (n + 2) * sizeof(*longer));
	if (!longer)
		die(STATUS_ENVIRONMENT, "--%s: out of memory", option->name);
	longer[n] = value;
	longer[n + 1] = NULL;
	*list = longer;
	return n + 1;
}

/* --- help ----------------------------------------------------------------------------------- */

/* Words are wrapped at this column in --help. */
#define HELP_INDENT 6
#define HELP_WIDTH  78

static void help_wrap(FILE *out, const char *text)
{
	size_t column = 0;

	while (*text) {
		size_t n = strcspn(text, " ");

		if (column && column + 1 + n > HELP_WIDTH - HELP_INDENT) {
			fputc('\n', out);
			column = 0;
		}
		fprintf(out, "%*s%.*s", column ? 1 : HELP_INDENT, "", (int)n, text);
		column += n + (column ? 1 : 0);
		text += n + (text[n] == ' ');
	}
	fputc('\n', out);
}

void cmdline_entry(FILE *out, bool man, const char *name, const char *text)
{
	if (man) {
		fprintf(out, ".TP\n.B \"%s\"\n%s.\n", name, text);
		return;
	}
	fprintf(out, "  %s\n", name);
	help_wrap(out, text);
}

static void help_option(FILE *out, const struct cmdline_option *o, bool man)
{
	const char *argument = o->argument ? o->argument : "";

	if (man) {
		fprintf(out, ".TP\n.BR \\-\\-%s", o->name);
		fprintf(out, o->argument ? " \" \\fI%s\\fR\"\n" : "%s\n", argument);
		fprintf(out, "%s.\n", o->help);
		return;
	}
	fprintf(out, "  --%s%s%s\n", o->name, o->argument ? " " : "", argument);
	help_wrap(out, o->help);
}

void cmdline_help(const struct cmdline *cmd, FILE *out, bool man)
{
	if (!man)
		fputs(cmd->usage, out);
	for (size_t t = 0; t < cmd->table_count; t++) {
		for (size_t i = 0; i < cmd->tables[t].count; i++) {
			const struct cmdline_option *o = &cmd->tables[t].options[i];

			if (o->group)
				fprintf(out, man ? ".SS %s\n" : "\n%s\n", o->group);
			help_option(out, o, man);
		}
	}
	if (cmd->more)
		cmd->more(out, man);
	if (!man)
		fputs(cmd->closing, out);
}

/* --- reading -------------------------------------------------------------------------------- */

void cmdline_take_config(void *config, const struct cmdline_option *option, char *value)
{
	(void)config, (void)option, (void)value; /* read before all others, see cmdline_parse() */
}

void cmdline_take_help(void *config, const struct cmdline_option *option, char *value)
{
	(void)config, (void)option, (void)value; /* see arguments_walk() */
}

/* One reader's view: what has been given there already. */
struct reading {
	const struct cmdline *cmd;
	bool given[CMDLINE_OPTIONS_MAX];
	const char *file; /* NULL: the command line */
};

/* An option, its table and its number among all. */
struct found {
	const struct cmdline_option *option; /* NULL: there is none */
	const struct cmdline_table *table;
	size_t number;
};

static struct found option_find(const struct cmdline *cmd, const char *name, size_t len)
{
	struct found found = {0};

	for (size_t t = 0; t < cmd->table_count; t++) {
		found.table = &cmd->tables[t];
		for (size_t i = 0; i < found.table->count; i++, found.number++) {
			found.option = &found.table->options[i];
			if (strlen(found.option->name) == len &&
			    !strncmp(found.option->name, name, len))
				return found;
		}
	}
	found.option = NULL;
	return found;
}

static void option_take(struct reading *r, const struct found *found, char *value)
{
	const struct cmdline_option *o = found->option;

	if (r->given[found->number] && !(o->flags & CMDLINE_REPEATABLE))
		die(STATUS_USAGE, "--%s is given twice%s%s: remove one", o->name,
		    r->file ? " in " : "", r->file ? r->file : "");
	r->given[found->number] = true;
	o->take(found->table->config, o, value);
}

/* A copy that lives as long as the configuration: options point into it. */
static char *text_keep(const struct cmdline *cmd, const char *text)
{
	size_t size = strlen(text) + 1;
	struct cmdline_text *kept = malloc(sizeof(*kept) + size);

	if (!kept)
		die(STATUS_ENVIRONMENT, "--config: out of memory");
	memcpy(kept->text, text, size);
	kept->next = *cmd->texts;
	*cmd->texts = kept;
	return kept->text;
}

/* inih's callback for a line "name = value". */
static int config_line(void *context, const char *section, const char *name, const char *value)
{
	struct reading *r = context;
	struct found found = option_find(r->cmd, name, strlen(name));
	const struct cmdline_option *o = found.option;

	if (*section)
		die(STATUS_USAGE, "--config: %s: section [%s]: remove it, options stand alone",
		    r->file, section);
	if (!o || o->take == cmdline_take_config || o->take == cmdline_take_help)
		die(STATUS_USAGE, "--config: %s: no option '%s': see %s --help", r->file, name,
		    r->cmd->command);
	if (!o->argument && strcmp(value, "on"))
		die(STATUS_USAGE, "--config: %s: '%s' is a switch: write '%s = on' or leave it out",
		    r->file, name, name);
	if (o->argument && !*value)
		die(STATUS_USAGE, "--config: %s: '%s' needs a value: %s = %s", r->file, name, name,
		    o->argument);
	option_take(r, &found, text_keep(r->cmd, value));
	return 1;
}

/* inih cuts longer lines in two without a word; we would rather say so. */
static char *config_getline(char *line, int size, void *stream)
{
	if (!fgets(line, size, stream))
		return NULL;
	if (!strchr(line, '\n') && !feof(stream))
		die(STATUS_USAGE,
		    "--config: a line is longer than %d bytes: give '%.20s...' on the "
		    "command line",
		    size - 2, line);
	return line;
}

static void config_read(const struct cmdline *cmd, const char *path)
{
	struct reading r = {.cmd = cmd, .file = path};
	FILE *file = fopen(path, "re");
	int rc;

	if (!file)
		die(STATUS_USAGE, "--config: cannot open '%s': %s", path, strerror(errno));
	rc = ini_parse_stream(config_getline, file, config_line, &r);
	if (ferror(file))
		die(STATUS_USAGE, "--config: cannot read '%s': give a text file", path);
	fclose(file);
	if (rc)
		die(STATUS_USAGE, "--config: %s, line %d: write 'name = value'", path, rc);
}

/* Take argv[*i]: "--name value", "--name=value" or "--switch"; steps *i behind it. */
static struct found argument_split(const struct cmdline *cmd, int argc, char *const argv[], int *i,
				   char **value)
{
	const char *arg = argv[(*i)++];
	const struct cmdline_option *o;
	struct found found;
	size_t n;

	if (strncmp(arg, "--", 2))
		die(STATUS_USAGE, "'%s': options begin with '--': see %s --help", arg,
		    cmd->command);
	arg += 2;
	n = strcspn(arg, "=");
	found = option_find(cmd, arg, n);
	o = found.option;
	if (!o)
		die(STATUS_USAGE, "--%.*s: no such option: see %s --help", (int)n, arg,
		    cmd->command);
	*value = arg[n] ? argv[*i - 1] + 2 + n + 1 : NULL;
	if (*value && !o->argument)
		die(STATUS_USAGE, "--%s takes no value: remove '=%s'", o->name, *value);
	if (o->argument && !*value && *i < argc)
		*value = argv[(*i)++];
	if (o->argument && (!*value || (!**value && !(o->flags & CMDLINE_EMPTY))))
		die(STATUS_USAGE, "--%s needs a value: --%s %s", o->name, o->name, o->argument);
	return found;
}

/* The configuration file is read first, wherever --config stands. */
static void arguments_walk(const struct cmdline *cmd, int argc, char *const argv[], bool file_only)
{
	struct reading r = {.cmd = cmd};
	char *value;

	for (int i = 0; i < argc;) {
		struct found found = argument_split(cmd, argc, argv, &i, &value);

		if (found.option->take == cmdline_take_help) {
			cmdline_help(cmd, stdout, false);
			exit(STATUS_OK);
		}
		if (!file_only)
			option_take(&r, &found, value);
		else if (found.option->take == cmdline_take_config)
			config_read(cmd, value);
	}
}

void cmdline_parse(const struct cmdline *cmd, int argc, char *const argv[])
{
	arguments_walk(cmd, argc, argv, true);
	arguments_walk(cmd, argc, argv, false);
}
