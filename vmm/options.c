/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options
 *
 * Theory of operation: one table describes every option: its name, its argument, its help text and the
 * function that takes its value. The command line, the configuration file ("name = value" lines), --help and
 * the man page are four readers of that table. The command line is read after the file and wins over it; an
 * option that is not repeatable may stand once in each. Values are checked where they are read, and
 * combinations once at the end, so that a mistake is told before anything is created.
 */
#include "vmm/options.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtqueue.h"
#include "vmm/memory.h"
#include "vmm/message.h"

#define NET_QUEUE_SIZE_DEFAULT 512 /* half of it was seen to run dry under iperf3 */
#define OPTION_MEMORY_MIN (2ull << 20) /* bytes: a kernel above 1 MiB */
#define NET_MTU_MIN 68    /* RFC 791: every link carries this */
#define NET_MTU_MAX 65535

struct option {
	const char *name;
	const char *argument; /* NULL: a switch */
	const char *group;    /* heading in --help; NULL: that of the option before */
	const char *help;
	bool repeatable;
	/* Take the value; on a mistake die through option_bad(). */
	void (*take)(struct vm_config *config, const struct option *option, char *value);
	size_t member; /* for take_text(): where in the configuration */
};

static const struct option options[];

_Noreturn static void option_bad(const struct option *option, const char *value, const char *remedy)
{
	die(STATUS_USAGE, "--%s: '%s' is not possible: %s", option->name, value, remedy);
}

static uint64_t parse_number(const struct option *option, const char *value, uint64_t min,
			     uint64_t max)
{
	char remedy[96], *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(value, &end, 10);
	if (errno || end == value || *end || *value == '-' || n < min || n > max) {
		snprintf(remedy, sizeof(remedy), "give a number from %llu to %llu",
			 (unsigned long long)min, (unsigned long long)max);
		option_bad(option, value, remedy);
	}
	return n;
}

static bool parse_on_off(const struct option *option, const char *value)
{
	if (!strcmp(value, "on"))
		return true;
	if (!strcmp(value, "off"))
		return false;
	option_bad(option, value, "say on or off");
}

/* Bytes with an optional suffix K, M, G or T (powers of 1024); a bare number is MiB, as users expect. */
static uint64_t parse_size(const struct option *option, const char *value)
{
	static const char remedy[] = "give 2M to 1T, for example 256M or 2G";
	static const char suffixes[] = "KMGT";
	unsigned long long n;
	const char *suffix;
	unsigned shift;
	char *end;

	errno = 0;
	n = strtoull(value, &end, 10);
	if (errno || end == value || *value == '-')
		option_bad(option, value, remedy);
	suffix = *end ? strchr(suffixes, toupper((unsigned char)*end)) : suffixes + 1;
	if (!suffix || (*end && end[1]))
		option_bad(option, value, remedy);
	shift = 10 * (unsigned)(suffix - suffixes + 1);
	if (n > MEMORY_SIZE_MAX >> shift || n << shift < OPTION_MEMORY_MIN ||
	    (n << shift) % MEMORY_PAGE)
		option_bad(option, value, remedy);
	return n << shift;
}

/* Split "key=value" in place; a bare key gets an empty value. Returns the value. */
static char *split_value(char *item)
{
	char *equals = strchr(item, '=');

	if (!equals)
		return item + strlen(item);
	*equals = '\0';
	return equals + 1;
}

static bool parse_mac(const char *text, uint8_t mac[FRAME_MAC_SIZE])
{
	char tail;

	return strlen(text) == 17 &&
	       sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2],
		      &mac[3], &mac[4], &mac[5], &tail) == 6 &&
	       !(mac[0] & 1);
}

static void take_name(struct vm_config *config, const struct option *option, char *value)
{
	size_t n = strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	if (!n || value[n] || n > 63)
		option_bad(option, value, "use 1 to 63 letters, digits, '-', '_' or '.'");
	config->name = value;
}

static void take_memory(struct vm_config *config, const struct option *option, char *value)
{
	config->memory = parse_size(option, value);
}

static void take_hugepages(struct vm_config *config, const struct option *option, char *value)
{
	(void)option, (void)value;
	config->hugepages = true;
}

static void take_cpus(struct vm_config *config, const struct option *option, char *value)
{
	config->cpus = (unsigned)parse_number(option, value, 1, VCPUS_MAX);
}

static void take_text(struct vm_config *config, const struct option *option, char *value)
{
	*(const char **)((char *)config + option->member) = value;
}

static void take_net_item(struct net_config *net, const struct option *option, char *item)
{
	char *value = split_value(item);

	if (!strcmp(item, "mac")) {
		net->mac_given = parse_mac(value, net->mac);
		if (!net->mac_given)
			option_bad(option, value, "give a unicast address such as mac=52:54:00:00:00:01");
	} else if (!strcmp(item, "mtu")) {
		net->mtu = strcmp(value, "auto")
				   ? (uint32_t)parse_number(option, value, NET_MTU_MIN, NET_MTU_MAX)
				   : 0;
	} else if (!strcmp(item, "queue-size")) {
		net->queue_size = (uint16_t)parse_number(option, value, 2, VIRTQUEUE_SIZE_MAX);
		if (net->queue_size & (net->queue_size - 1))
			option_bad(option, value, "a queue's size is a power of two");
	} else {
		option_bad(option, item, "it takes mac=, mtu= and queue-size=");
	}
}

static void take_net(struct vm_config *config, const struct option *option, char *value)
{
	struct net_config *net;
	char *save = NULL;

	if (config->net_count == CONFIG_NETS_MAX)
		option_bad(option, value, "a VM has at most 8 NICs");
	net = &config->nets[config->net_count++];
	net->queue_size = NET_QUEUE_SIZE_DEFAULT;
	for (char *item = strtok_r(value, ",", &save); item; item = strtok_r(NULL, ",", &save))
		take_net_item(net, option, item);
}

static void take_disk(struct vm_config *config, const struct option *option, char *value)
{
	struct disk_config *disk;
	char *save = NULL;

	if (config->disk_count == CONFIG_DISKS_MAX)
		option_bad(option, value, "a VM has at most 16 disks");
	disk = &config->disks[config->disk_count++];
	disk->path = strtok_r(value, ",", &save);
	if (!disk->path)
		option_bad(option, value, "name a raw image file or a block device");
	for (char *item = strtok_r(NULL, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		char *arg = split_value(item);

		if (!strcmp(item, "ro") && !*arg)
			disk->read_only = true;
		else if (!strcmp(item, "serial") && *arg && strlen(arg) <= 20)
			disk->serial = arg;
		else
			option_bad(option, item, "behind the file it takes ro and serial=NAME (1 to 20 bytes)");
	}
}

static void take_rng(struct vm_config *config, const struct option *option, char *value)
{
	(void)option, (void)value;
	config->rng = true;
}

static void take_console(struct vm_config *config, const struct option *option, char *value)
{
	static const char remedy[] = "say stdio, file:PATH, unix:PATH[,log=FILE] or off";
	char *log;

	if (!strcmp(value, "stdio")) {
		config->console = CONSOLE_STDIO;
	} else if (!strcmp(value, "off")) {
		config->console = CONSOLE_OFF;
	} else if (!strncmp(value, "file:", 5) && value[5]) {
		config->console = CONSOLE_FILE;
		config->console_path = value + 5;
	} else if (!strncmp(value, "unix:", 5) && value[5]) {
		config->console = CONSOLE_UNIX;
		config->console_path = value + 5;
		log = strstr(value, ",log=");
		if (log) {
			*log = '\0';
			config->console_log = log + 5;
		}
		if (!*config->console_path || (log && !log[5]))
			option_bad(option, value, remedy);
	} else {
		option_bad(option, value, remedy);
	}
}

static void take_escape(struct vm_config *config, const struct option *option, char *value)
{
	if (!strcmp(value, "none"))
		config->escape = 0;
	else if (value[0] == '^' && value[1] >= '@' && value[1] <= '_' && !value[2])
		config->escape = (uint8_t)(value[1] - '@');
	else
		option_bad(option, value, "give a control character such as ^] or ^A, or none");
}

static void take_vni(struct vm_config *config, const struct option *option, char *value)
{
	config->vni = (uint32_t)parse_number(option, value, 0, (1u << 24) - 1);
}

/* The address behind "udp://". */
static const char *parse_udp(const struct option *option, const char *value)
{
	if (strncmp(value, "udp://", 6) || !value[6])
		option_bad(option, value, "give udp://HOST:PORT, for example udp://10.0.0.2:6081");
	return value + 6;
}

static void take_listen(struct vm_config *config, const struct option *option, char *value)
{
	config->listen = parse_udp(option, value);
}

static void take_link(struct vm_config *config, const struct option *option, char *value)
{
	const char **links;

	if (config->link_count == CONFIG_LINK_MAX)
		option_bad(option, value, "a VM has at most 1023 links");
	links = realloc(config->links, (config->link_count + 1) * sizeof(*links));
	if (!links)
		die(STATUS_ENVIRONMENT, "--%s: out of memory", option->name);
	config->links = links;
	config->links[config->link_count++] = parse_udp(option, value);
}

static void take_on_reboot(struct vm_config *config, const struct option *option, char *value)
{
	if (strcmp(value, "restart") && strcmp(value, "exit"))
		option_bad(option, value, "say restart or exit");
	config->restart = !strcmp(value, "restart");
}

static void take_sandbox(struct vm_config *config, const struct option *option, char *value)
{
	config->sandbox = parse_on_off(option, value);
}

static void take_config(struct vm_config *config, const struct option *option, char *value)
{
	(void)config, (void)option, (void)value; /* read before all others, see options_parse() */
}

static void take_help(struct vm_config *config, const struct option *option, char *value)
{
	(void)config, (void)option, (void)value;
	options_help(stdout, false);
	exit(STATUS_OK);
}

static const struct option options[] = {
	{"config", "FILE", "General",
	 "read options from FILE: lines 'name = value' with the names of this list, '#' and ';' begin "
	 "comments, switches take 'on'; the command line wins",
	 false, take_config, 0},
	{"name", "NAME", NULL, "name of the VM in messages and listings (default weft)", false, take_name, 0},
	{"help", NULL, NULL, "print this and exit", false, take_help, 0},
	{"memory", "SIZE", "Machine", "guest RAM, 2M to 1T; a bare number is MiB (default 256M)", false,
	 take_memory, 0},
	{"hugepages", NULL, NULL, "back guest RAM by 2 MiB pages of the host (reserve them first)", false,
	 take_hugepages, 0},
	{"cpus", "N", NULL, "virtual CPUs, 1 to 64 (default 1)", false, take_cpus, 0},
	{"kernel", "FILE", "Boot",
	 "what to start (required): a Linux bzImage, an ELF kernel with a PVH or 64-bit entry, or a ring-3 "
	 "unikernel",
	 false, take_text, offsetof(struct vm_config, kernel)},
	{"initrd", "FILE", NULL, "initial RAM file system for a Linux kernel", false, take_text,
	 offsetof(struct vm_config, initrd)},
	{"cmdline", "TEXT", NULL, "command line for the kernel", false, take_text,
	 offsetof(struct vm_config, cmdline)},
	{"net", "[mac=MAC][,mtu=N|auto][,queue-size=N]", "Devices",
	 "a virtio NIC on the overlay; without mac= an address derived from the name, without mtu= the "
	 "largest that every link carries; may be repeated",
	 true, take_net, 0},
	{"disk", "FILE[,ro][,serial=NAME]", NULL,
	 "a virtio disk: raw image file or block device; may be repeated", true, take_disk, 0},
	{"rng", NULL, NULL, "a virtio entropy device", false, take_rng, 0},
	{"agent", "SOCKET", NULL, "reach the agent inside the guest through this Unix socket", false,
	 take_text, offsetof(struct vm_config, agent_path)},
	{"console", "WHERE", "Console",
	 "the serial console: stdio (default), file:PATH, unix:PATH[,log=FILE] or off", false,
	 take_console, 0},
	{"escape", "^X", NULL,
	 "escape key of the stdio console (default ^]); then x ends the VM, p presses its power button, the "
	 "key itself is sent on; none: no escape",
	 false, take_escape, 0},
	{"listen", "udp://ADDR:PORT", "Overlay",
	 "local address of the overlay's UDP socket (default: every address, port 6081)", false,
	 take_listen, 0},
	{"link", "udp://HOST:PORT", NULL, "a peer: another weft or any Geneve end point; may be repeated",
	 true, take_link, 0},
	{"vni", "N", NULL, "id of the overlay, 0 to 16777215 (default 1); all its members use the same",
	 false, take_vni, 0},
	{"ctl", "SOCKET", "Control", "control socket for weft-ctl", false, take_text,
	 offsetof(struct vm_config, ctl_path)},
	{"on-reboot", "restart|exit", NULL, "when the guest reboots (default restart)", false,
	 take_on_reboot, 0},
	{"sandbox", "on|off", NULL, "restrict the process to the system calls it needs (default on)", false,
	 take_sandbox, 0},
};

#define OPTION_COUNT (sizeof(options) / sizeof(options[0]))

static const struct option *option_find(const char *name, size_t len)
{
	for (size_t i = 0; i < OPTION_COUNT; i++)
		if (strlen(options[i].name) == len && !strncmp(options[i].name, name, len))
			return &options[i];
	return NULL;
}

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

static void help_option(FILE *out, const struct option *o, bool man)
{
	if (man) {
		fprintf(out, ".TP\n.BR \\-\\-%s", o->name);
		fprintf(out, o->argument ? " \" \\fI%s\\fR\"\n" : "%s\n", o->argument ? o->argument : "");
		fprintf(out, "%s.\n", o->help);
		return;
	}
	fprintf(out, "  --%s%s%s\n", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
	help_wrap(out, o->help);
}

void options_help(FILE *out, bool man)
{
	if (!man)
		fputs("Usage: weft run --kernel FILE [options]\n\n"
		      "Run one virtual machine in this process until it shuts down.\n",
		      out);
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if (options[i].group)
			fprintf(out, man ? ".SS %s\n" : "\n%s\n", options[i].group);
		help_option(out, &options[i], man);
	}
	if (!man)
		fputs("\nExit status: 0 the guest shut down, 1 environment or VMM error, 2 usage,\n"
		      "3 guest panic, 4 guest crash, 5 ended by force, 64+s a unikernel's status s.\n",
		      out);
}

/* One reader's view: what has been given there already. */
struct reading {
	struct vm_config *config;
	bool given[OPTION_COUNT];
	const char *file; /* NULL: the command line */
};

static void option_take(struct reading *r, const struct option *o, char *value)
{
	size_t i = (size_t)(o - options);

	if (r->given[i] && !o->repeatable)
		die(STATUS_USAGE, "--%s is given twice%s%s: remove one", o->name,
		    r->file ? " in " : "", r->file ? r->file : "");
	r->given[i] = true;
	o->take(r->config, o, value);
}

/* A copy that lives as long as the configuration: options point into it. */
static char *text_keep(struct vm_config *config, const char *text)
{
	size_t size = strlen(text) + 1;
	struct config_text *kept = malloc(sizeof(*kept) + size);

	if (!kept)
		die(STATUS_ENVIRONMENT, "--config: out of memory");
	memcpy(kept->text, text, size);
	kept->next = config->texts;
	config->texts = kept;
	return kept->text;
}

/* inih's callback for a line "name = value". */
static int config_line(void *context, const char *section, const char *name, const char *value)
{
	struct reading *r = context;
	const struct option *o = option_find(name, strlen(name));
	char *copy;

	if (*section)
		die(STATUS_USAGE, "--config: %s: section [%s]: remove it, options stand alone", r->file,
		    section);
	if (!o || o->take == take_config || o->take == take_help)
		die(STATUS_USAGE, "--config: %s: no option '%s': see weft run --help", r->file, name);
	if (!o->argument && strcmp(value, "on"))
		die(STATUS_USAGE, "--config: %s: '%s' is a switch: write '%s = on' or leave it out",
		    r->file, name, name);
	if (o->argument && !*value)
		die(STATUS_USAGE, "--config: %s: '%s' needs a value: %s = %s", r->file, name, name,
		    o->argument);
	copy = text_keep(r->config, value);
	option_take(r, o, copy);
	return 1;
}

/* inih cuts longer lines in two without a word; we would rather say so. */
static char *config_getline(char *line, int size, void *stream)
{
	if (!fgets(line, size, stream))
		return NULL;
	if (!strchr(line, '\n') && !feof(stream))
		die(STATUS_USAGE, "--config: a line is longer than %d bytes: give '%.20s...' on the "
				  "command line",
		    size - 2, line);
	return line;
}

static void config_read(struct vm_config *config, const char *path)
{
	struct reading r = {.config = config, .file = path};
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
static const struct option *argument_split(int argc, char *const argv[], int *i, char **value)
{
	const char *arg = argv[(*i)++];
	const struct option *o;
	size_t n;

	if (strncmp(arg, "--", 2))
		die(STATUS_USAGE, "'%s': options begin with '--': see weft run --help", arg);
	arg += 2;
	n = strcspn(arg, "=");
	o = option_find(arg, n);
	if (!o)
		die(STATUS_USAGE, "--%.*s: no such option: see weft run --help", (int)n, arg);
	*value = arg[n] ? argv[*i - 1] + 2 + n + 1 : NULL;
	if (*value && !o->argument)
		die(STATUS_USAGE, "--%s takes no value: remove '=%s'", o->name, *value);
	if (o->argument && !*value) {
		if (*i >= argc)
			die(STATUS_USAGE, "--%s needs a value: --%s %s", o->name, o->name, o->argument);
		*value = argv[(*i)++];
	}
	if (o->argument && !**value && o->member != offsetof(struct vm_config, cmdline))
		die(STATUS_USAGE, "--%s needs a value: --%s %s", o->name, o->name, o->argument);
	return o;
}

/* The configuration file is read first, wherever --config stands. */
static void arguments_walk(struct vm_config *config, int argc, char *const argv[], bool file_only)
{
	struct reading r = {.config = config};
	const struct option *o;
	char *value;

	for (int i = 0; i < argc;) {
		o = argument_split(argc, argv, &i, &value);
		if (o->take == take_help)
			take_help(config, o, NULL);
		if (!file_only)
			option_take(&r, o, value);
		else if (o->take == take_config)
			config_read(config, value);
	}
}

/* A locally administered address from the VM's name, so that two VMs seldom share one (FNV-1a, 32 bits). */
static void net_default_mac(struct net_config *net, const char *name, unsigned index)
{
	uint32_t hash = 2166136261u;

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 16777619u;
	hash += index;
	net->mac[0] = 0x52;
	net->mac[1] = 0x54;
	for (unsigned i = 0; i < 4; i++)
		net->mac[2 + i] = (uint8_t)(hash >> (24 - 8 * i));
}

static void config_check(struct vm_config *config)
{
	if (!config->kernel)
		die(STATUS_USAGE, "--kernel is missing: name the kernel to start (weft run --help)");
	if (config->listen && !config->link_count)
		die(STATUS_USAGE, "--listen: nobody may send there: name each peer with --link");
	if (config->link_count && !config->net_count)
		die(STATUS_USAGE, "--link: the VM has no NIC: add --net mac=...");
	if (config->hugepages && config->memory % (2ull << 20))
		die(STATUS_USAGE, "--memory: with --hugepages give a multiple of 2M");
	for (unsigned i = 0; i < config->net_count; i++)
		if (!config->nets[i].mac_given)
			net_default_mac(&config->nets[i], config->name, i);
}

void options_parse(struct vm_config *config, int argc, char *const argv[])
{
	*config = (struct vm_config){
		.name = "weft",
		.memory = 256ull << 20,
		.cpus = 1,
		.cmdline = "",
		.vni = 1,
		.escape = ']' - '@',
		.restart = true,
		.sandbox = true,
	};
	arguments_walk(config, argc, argv, true);
	arguments_walk(config, argc, argv, false);
	config_check(config);
}
