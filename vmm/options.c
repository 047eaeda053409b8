/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of weft run, for vnet/cmdline.c. Values are checked where they are read, combinations at the end. */
#include "vmm/options.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtqueue.h"
#include "vmm/memory.h"
#include "vnet/cmdline.h"
#include "vnet/message.h"
#include "vnet/overlay_options.h"
#include "vnet/port.h"

#define NET_QUEUE_SIZE_DEFAULT 512 /* half of it was seen to run dry under iperf3 */
#define NET_COALESCE_NS_DEFAULT 100000u
#define OPTION_MEMORY_MIN (2ull << 20) /* bytes: a kernel above 1 MiB */
#define NET_MTU_MIN 68    /* RFC 791: every link carries this */
#define NET_MTU_MAX 65535

/* Bytes with an optional suffix K, M, G or T (powers of 1024); a bare number is MiB, as users expect. */
static uint64_t parse_size(const struct cmdline_option *option, const char *value)
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
		cmdline_bad(option, value, remedy);
	suffix = *end ? strchr(suffixes, toupper((unsigned char)*end)) : suffixes + 1;
	if (!suffix || (*end && end[1]))
		cmdline_bad(option, value, remedy);
	shift = 10 * (unsigned)(suffix - suffixes + 1);
	if (n > MEMORY_SIZE_MAX >> shift || n << shift < OPTION_MEMORY_MIN ||
	    (n << shift) % MEMORY_PAGE)
		cmdline_bad(option, value, remedy);
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

static void take_name(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;
	size_t n = strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	if (!n || value[n] || n > 63)
		cmdline_bad(option, value, "use 1 to 63 letters, digits, '-', '_' or '.'");
	config->name = value;
}

static void take_memory(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	config->memory = parse_size(option, value);
}

static void take_hugepages(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option, (void)value;
	config->hugepages = true;
}

static void take_lock_memory(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option, (void)value;
	config->lock_memory = true;
}

static void take_cpus(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	config->cpus = (unsigned)cmdline_number(option, value, 1, VCPUS_MAX);
}

static void take_kernel(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option;
	config->kernel = value;
}

static void take_initrd(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option;
	config->initrd = value;
}

static void take_cmdline(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option;
	config->cmdline = value;
}

/* The items of --net that are about modes. Returns false if it is none of them. */
static bool take_mode_item(struct mode_rules *mode, const struct cmdline_option *option, const char *item,
			   const char *value)
{
	if (!strcmp(item, "mode")) {
		if (!mode_parse(value, &mode->policy))
			cmdline_bad(option, value, "say mode=auto, mode=guest or mode=vmm");
	} else if (!strcmp(item, "up")) {
		mode->up = (uint32_t)cmdline_number(option, value, 1, UINT32_MAX);
	} else if (!strcmp(item, "down")) {
		mode->down = (uint32_t)cmdline_number(option, value, 0, UINT32_MAX);
	} else if (!strcmp(item, "flood")) {
		mode->flood = (uint32_t)cmdline_number(option, value, 0, UINT32_MAX);
	} else if (!strcmp(item, "window")) {
		mode->window_ns = cmdline_number(option, value, 100, 10000000) * 1000;
	} else if (!strcmp(item, "dwell")) {
		mode->dwell_ns = cmdline_number(option, value, 0, 60000000) * 1000;
	} else {
		return false;
	}
	return true;
}

static void take_net_item(struct net_config *net, const struct cmdline_option *option, char *item)
{
	char *value = split_value(item);

	if (!strcmp(item, "mac")) {
		net->mac_given = parse_mac(value, net->mac);
		if (!net->mac_given)
			cmdline_bad(option, value, "give a unicast address such as mac=52:54:00:00:00:01");
	} else if (!strcmp(item, "mtu")) {
		net->mtu = strcmp(value, "auto")
				   ? (uint32_t)cmdline_number(option, value, NET_MTU_MIN, NET_MTU_MAX)
				   : 0;
	} else if (!strcmp(item, "queue-size")) {
		net->queue_size = (uint16_t)cmdline_number(option, value, 2, VIRTQUEUE_SIZE_MAX);
		if (net->queue_size & (net->queue_size - 1))
			cmdline_bad(option, value, "a queue's size is a power of two");
	} else if (!strcmp(item, "coalesce")) {
		net->coalesce_ns = cmdline_number(option, value, 0, 10000) * 1000;
	} else if (!strcmp(item, "queues")) {
		net->queues = (unsigned)cmdline_number(option, value, 1, PORT_PAIRS_MAX);
	} else if (!strcmp(item, "irq")) {
		if (strcmp(value, "batch") && strcmp(value, "early"))
			cmdline_bad(option, value, "say irq=batch or irq=early");
		net->irq = strcmp(value, "early") ? NET_IRQ_BATCH : NET_IRQ_EARLY;
	} else if (!strcmp(item, "doorbell")) {
		if (strcmp(value, "eventfd") && strcmp(value, "inline"))
			cmdline_bad(option, value, "say doorbell=eventfd or doorbell=inline");
		net->inline_doorbell = !strcmp(value, "inline");
	} else if (!take_mode_item(&net->mode, option, item, value)) {
		cmdline_bad(option, item,
			    "it takes mac=, mtu=, queue-size=, queues=, mode=, up=, down=, flood=, window=, dwell=, "
			    "irq=, coalesce= and doorbell=");
	}
}

static void take_net(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;
	struct net_config *net;
	char *save = NULL;

	if (config->net_count == CONFIG_NETS_MAX)
		cmdline_bad(option, value, "a VM has at most 8 NICs");
	net = &config->nets[config->net_count++];
	net->queue_size = NET_QUEUE_SIZE_DEFAULT;
	net->coalesce_ns = NET_COALESCE_NS_DEFAULT;
	net->mode = MODE_RULES_DEFAULT;
	for (char *item = strtok_r(value, ",", &save); item; item = strtok_r(NULL, ",", &save))
		take_net_item(net, option, item);
	if (net->mode.down >= net->mode.up)
		cmdline_bad(option, "down", "give a number below up=, or the mode would flap");
}

/* The thread of that name, or NULL. */
static int *pin_find(struct vm_config *config, const char *name)
{
	unsigned index;
	char tail;

	if (!strcmp(name, "sidecar"))
		return &config->pin_sidecar;
	if (sscanf(name, "vcpu%u%c", &index, &tail) == 1 && index < VCPUS_MAX)
		return &config->pin_vcpus[index];
	return NULL;
}

static void take_pin(void *context, const struct cmdline_option *option, char *value)
{
	char *save = NULL;

	for (char *item = strtok_r(value, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		const char *cpu = split_value(item);
		int *pin = pin_find(context, item);

		if (!pin || !*cpu)
			cmdline_bad(option, item, "write sidecar=CPU and vcpu0=CPU, vcpu1=CPU, ...");
		*pin = (int)cmdline_number(option, cpu, 0, CPU_SETSIZE - 1);
	}
}

static void take_disk(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;
	struct disk_config *disk;
	char *save = NULL;

	if (config->disk_count == CONFIG_DISKS_MAX)
		cmdline_bad(option, value, "a VM has at most 16 disks");
	disk = &config->disks[config->disk_count++];
	disk->path = strtok_r(value, ",", &save);
	if (!disk->path)
		cmdline_bad(option, value, "name a raw image file or a block device");
	for (char *item = strtok_r(NULL, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		char *arg = split_value(item);

		if (!strcmp(item, "ro") && !*arg)
			disk->read_only = true;
		else if (!strcmp(item, "serial") && *arg && strlen(arg) <= 20)
			disk->serial = arg;
		else
			cmdline_bad(option, item, "behind the file it takes ro and serial=NAME (1 to 20 bytes)");
	}
}

static void take_rng(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option, (void)value;
	config->rng = true;
}

static void take_console(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;
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
			cmdline_bad(option, value, remedy);
	} else {
		cmdline_bad(option, value, remedy);
	}
}

static void take_escape(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	if (!strcmp(value, "none"))
		config->escape = 0;
	else if (value[0] == '^' && value[1] >= '@' && value[1] <= '_' && !value[2])
		config->escape = (uint8_t)(value[1] - '@');
	else
		cmdline_bad(option, value, "give a control character such as ^] or ^A, or none");
}

static void take_agent(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option;
	config->agent_path = value;
}

static void take_ctl(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	(void)option;
	config->ctl_path = value;
}

static void take_on_reboot(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	if (strcmp(value, "restart") && strcmp(value, "exit"))
		cmdline_bad(option, value, "say restart or exit");
	config->restart = !strcmp(value, "restart");
}

static void take_sandbox(void *context, const struct cmdline_option *option, char *value)
{
	struct vm_config *config = context;

	config->sandbox = cmdline_on_off(option, value);
}

static const struct cmdline_option machine_options[] = {
	{"config", "FILE", "General",
	 "read options from FILE: lines 'name = value' with the names of this list, '#' and ';' begin "
	 "comments, switches take 'on'; the command line wins",
	 0, cmdline_take_config},
	{"name", "NAME", NULL, "name of the VM in messages and listings (default weft)", 0, take_name},
	{"help", NULL, NULL, "print this and exit", 0, cmdline_take_help},
	{"memory", "SIZE", "Machine", "guest RAM, 2M to 1T; a bare number is MiB (default 256M)", 0,
	 take_memory},
	{"hugepages", NULL, NULL, "back guest RAM by 2 MiB pages of the host (reserve them first)", 0,
	 take_hugepages},
	{"lock-memory", NULL, NULL,
	 "keep guest RAM, all of it from the start, and weft itself in the host's RAM: nothing is swapped out", 0,
	 take_lock_memory},
	{"cpus", "N", NULL, "virtual CPUs, 1 to 64 (default 1)", 0, take_cpus},
	{"pin", "sidecar=CPU,vcpu0=CPU,...", NULL,
	 "host CPUs for these threads: the sidecar, which moves the frames, and virtual CPUs", 0, take_pin},
	{"kernel", "FILE", "Boot",
	 "what to start (required): a Linux bzImage, an ELF kernel with a PVH or 64-bit entry, or a ring-3 "
	 "unikernel",
	 0, take_kernel},
	{"initrd", "FILE", NULL, "initial RAM file system for a Linux kernel", 0, take_initrd},
	{"cmdline", "TEXT", NULL, "command line for the kernel", CMDLINE_EMPTY, take_cmdline},
	{"net", "[mac=MAC][,mtu=N|auto][,queue-size=N][,queues=N][,mode=auto|guest|vmm]...", "Devices",
	 "a virtio NIC on the overlay; without mac= an address derived from the name, without mtu= the "
	 "largest that every link carries; queues: pairs of queues, 1 to 16 (default: one for each virtual "
	 "CPU); mode: guest: the guest rings a doorbell, vmm: the sidecar polls, auto (default): by rate, with "
	 "up=FRAMES (20), down=FRAMES (5), flood=FRAMES (1000), window=US (10000), dwell=US (50000); "
	 "irq=batch|early: interrupt the guest when frames are there (default), or already when they are seen; coalesce=US: the interrupt "
	 "that says that frames have left may wait so long (100), ten times as long for a frame that went by itself; doorbell=eventfd|inline: the guest's "
	 "ring wakes the sidecar (default), or its vCPU sends by itself while the sidecar sleeps; may be "
	 "repeated",
	 CMDLINE_REPEATABLE, take_net},
	{"disk", "FILE[,ro][,serial=NAME]", NULL,
	 "a virtio disk: raw image file or block device; may be repeated", CMDLINE_REPEATABLE, take_disk},
	{"rng", NULL, NULL, "a virtio entropy device", 0, take_rng},
	{"agent", "SOCKET", NULL, "reach the agent inside the guest through this Unix socket", 0,
	 take_agent},
	{"console", "WHERE", "Console",
	 "the serial console: stdio (default), file:PATH, unix:PATH[,log=FILE] or off", 0,
	 take_console},
	{"escape", "^X", NULL,
	 "escape key of the stdio console (default ^]); then x ends the VM, p presses its power button, the "
	 "key itself is sent on; none: no escape",
	 0, take_escape},
};

static const struct cmdline_option control_options[] = {
	{"ctl", "SOCKET", "Control", "control socket for weft-ctl", 0, take_ctl},
	{"on-reboot", "restart|exit", NULL, "when the guest reboots (default restart)", 0,
	 take_on_reboot},
	{"sandbox", "on|off", NULL, "restrict the process to the system calls it needs (default on)", 0,
	 take_sandbox},
};

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

static void net_defaults(struct net_config *net, const struct vm_config *config, unsigned index)
{
	if (!net->mac_given)
		net_default_mac(net, config->name, index);
	if (!net->queues)
		net->queues = config->cpus < PORT_PAIRS_MAX ? config->cpus : PORT_PAIRS_MAX;
}

/* Whether it listens for UDP though there is no peer, and will never be one. */
static bool only_strangers(const struct vm_config *config)
{
	const struct overlay_options *overlay = &config->overlay;

	if (!overlay->listens || overlay->links || overlay->file || config->ctl_path)
		return false;
	for (const char **url = overlay->listens; *url; url++)
		if (strncmp(*url, "udp:", 4) != 0)
			return false;
	return true;
}

static void config_check(struct vm_config *config)
{
	if (!config->kernel)
		die(STATUS_USAGE, "--kernel is missing: name the kernel to start (weft run --help)");
	if (only_strangers(config))
		die(STATUS_USAGE, "--listen: nobody may send there: name each peer with --link");
	if (config->overlay.links && !config->net_count)
		die(STATUS_USAGE, "--link: the VM has no NIC: add --net mac=...");
	if (config->hugepages && config->memory % (2ull << 20))
		die(STATUS_USAGE, "--memory: with --hugepages give a multiple of 2M");
	for (unsigned i = config->cpus; i < VCPUS_MAX; i++)
		if (config->pin_vcpus[i] != PIN_NONE)
			die(STATUS_USAGE, "--pin: vcpu%u: the VM has %u: say so with --cpus", i, config->cpus);
	for (unsigned i = 0; i < config->net_count; i++)
		net_defaults(&config->nets[i], config, i);
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TABLES	     3

/* The tables in the order of --help; they fill in @config. */
static void tables_set(struct cmdline_table tables[TABLES], struct vm_config *config)
{
	tables[0] = (struct cmdline_table){machine_options, COUNT(machine_options), config};
	tables[1] = overlay_options_table(&config->overlay);
	tables[2] = (struct cmdline_table){control_options, COUNT(control_options), config};
}

static const struct cmdline cmdline = {
	.command = "weft run",
	.usage = "Usage: weft run --kernel FILE [options]\n\n"
		 "Run one virtual machine in this process until it shuts down.\n",
	.closing = "\nExit status: 0 the guest shut down, 1 environment or VMM error, 2 usage,\n"
		   "3 guest panic, 4 guest crash, 5 ended by force, 64+s a unikernel's status s.\n",
	.table_count = TABLES,
	.more = overlay_options_links,
};

void options_help(FILE *out, bool man)
{
	struct cmdline_table tables[TABLES];
	struct cmdline cmd = cmdline;
	struct vm_config config;

	tables_set(tables, &config);
	cmd.tables = tables;
	cmdline_help(&cmd, out, man);
}

void options_parse(struct vm_config *config, int argc, char *const argv[])
{
	struct cmdline_table tables[TABLES];
	struct cmdline cmd = cmdline;

	*config = (struct vm_config){
		.name = "weft",
		.memory = 256ull << 20,
		.cpus = 1,
		.cmdline = "",
		.escape = ']' - '@',
		.restart = true,
		.sandbox = true,
	};
	config->pin_sidecar = PIN_NONE;
	for (unsigned i = 0; i < VCPUS_MAX; i++)
		config->pin_vcpus[i] = PIN_NONE;
	overlay_options_init(&config->overlay);
	tables_set(tables, config);
	cmd.tables = tables;
	cmd.texts = &config->texts;
	cmdline_parse(&cmd, argc, argv);
	config_check(config);
}
