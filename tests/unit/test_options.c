/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options that are right; those that are wrong are tried on the program itself (tests/system/vmm_options.py). */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/options.h"

#define ARGUMENTS_MAX 16

/* Parse arguments that are separated by blanks. */
static struct vm_config parse(const char *text)
{
	static char words[512];
	char *argv[ARGUMENTS_MAX + 1], *save = NULL;
	struct vm_config config;
	int argc = 0;

	cr_assert(strlen(text) < sizeof(words));
	strcpy(words, text);
	for (char *word = strtok_r(words, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		cr_assert(argc < ARGUMENTS_MAX);
		argv[argc++] = word;
	}
	argv[argc] = NULL;
	options_parse(&config, argc, argv);
	return config;
}

Test(options, defaults)
{
	struct vm_config config = parse("--kernel k");

	cr_assert_str_eq(config.kernel, "k");
	cr_assert_eq(config.memory, 256u << 20);
	cr_assert_eq(config.cpus, 1);
	cr_assert_eq(config.overlay.vni, 1);
	cr_assert(config.overlay.learn && config.overlay.offload);
	cr_assert(!config.overlay.transit && !config.overlay.neighbours);
	cr_assert_eq(config.console, CONSOLE_STDIO);
	cr_assert_eq(config.escape, 0x1d);
	cr_assert(config.restart && config.sandbox);
	cr_assert(!config.rng && !config.hugepages);
	cr_assert_null(config.initrd);
}

Test(options, sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = {{"64", 64ull << 20},   {"2048K", 2ull << 20}, {"3M", 3ull << 20},
		     {"3m", 3ull << 20},    {"5G", 5ull << 30},	   {"1T", 1ull << 40},
		     {"1024G", 1ull << 40}, {"1048576", 1ull << 40}};
	char text[64];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		snprintf(text, sizeof(text), "--kernel k --memory %s", sizes[i].text);
		cr_assert_eq(parse(text).memory, sizes[i].bytes, "%s", sizes[i].text);
	}
}

Test(options, values_behind_an_equals_sign)
{
	struct vm_config config = parse("--kernel=a=b --cpus=64 --cmdline=");

	cr_assert_str_eq(config.kernel, "a=b");
	cr_assert_eq(config.cpus, 64);
	cr_assert_str_eq(config.cmdline, "");
}

Test(options, nics)
{
	static const uint8_t mac[] = {0x52, 0x54, 0, 0xab, 0xcd, 0xef};
	struct vm_config config = parse("--kernel k --net mac=52:54:00:AB:cd:ef,mtu=9000,queue-size=1024 "
					"--net mtu=auto");

	cr_assert_eq(config.net_count, 2);
	cr_assert_arr_eq(config.nets[0].mac, mac, 6);
	cr_assert_eq(config.nets[0].mtu, 9000);
	cr_assert_eq(config.nets[0].queue_size, 1024);
	cr_assert_eq(config.nets[1].mtu, 0);
	cr_assert_eq(config.nets[1].mac[0] & 3, 2, "locally administered, unicast");
}

Test(options, queues_are_as_many_as_cpus)
{
	cr_assert_eq(parse("--kernel k --net mtu=1500").nets[0].queues, 1);
	cr_assert_eq(parse("--kernel k --net mtu=1500 --cpus 4").nets[0].queues, 4);
	cr_assert_eq(parse("--kernel k --net mtu=1500 --cpus 64").nets[0].queues, 16);
	cr_assert_eq(parse("--kernel k --net queues=3 --cpus 64").nets[0].queues, 3);
}

Test(options, addresses_follow_from_the_name)
{
	struct vm_config a = parse("--kernel k --name a --net mtu=1500 --net mtu=1500");
	struct vm_config again = parse("--kernel k --name a --net mtu=1500");
	struct vm_config b = parse("--kernel k --name b --net mtu=1500");

	cr_assert_arr_eq(a.nets[0].mac, again.nets[0].mac, 6);
	cr_assert_neq(memcmp(a.nets[0].mac, a.nets[1].mac, 6), 0);
	cr_assert_neq(memcmp(a.nets[0].mac, b.nets[0].mac, 6), 0);
}

Test(options, disks)
{
	struct vm_config config = parse("--kernel k --disk a --disk b,ro --disk c,serial=12345678901234567890,ro");

	cr_assert_eq(config.disk_count, 3);
	cr_assert(!config.disks[0].read_only && config.disks[1].read_only && config.disks[2].read_only);
	cr_assert_str_eq(config.disks[1].path, "b");
	cr_assert_str_eq(config.disks[2].serial, "12345678901234567890");
}

Test(options, consoles)
{
	struct vm_config config = parse("--kernel k --console unix:/a/b,log=/c --escape ^A");

	cr_assert_eq(config.console, CONSOLE_UNIX);
	cr_assert_str_eq(config.console_path, "/a/b");
	cr_assert_str_eq(config.console_log, "/c");
	cr_assert_eq(config.escape, 1);
	cr_assert_eq(parse("--kernel k --console off --escape none").escape, 0);
	cr_assert_eq(parse("--kernel k --console file:x").console, CONSOLE_FILE);
}

Test(options, links)
{
	struct vm_config config = parse("--kernel k --net mtu=1500 --listen udp://[::1]:1 --link udp://a:2 --link udp://b:3");

	cr_assert_str_eq(config.overlay.listens[0], "udp://[::1]:1");
	cr_assert_null(config.overlay.listens[1]);
	cr_assert_str_eq(config.overlay.links[1], "udp://b:3");
	cr_assert_null(config.overlay.links[2]);
}

Test(options, a_listener_waits_for_links_to_come)
{
	cr_assert_not_null(parse("--kernel k --listen udp://[::1]:1 --ctl c").overlay.listens);
	cr_assert_not_null(parse("--kernel k --listen udp://[::1]:1 --overlay f").overlay.listens);
	cr_assert_not_null(parse("--kernel k --listen shm:///s").overlay.listens);
}

Test(options, overlay)
{
	struct vm_config config = parse("--kernel k --overlay f --key-file=key --offload off --learn off --transit on "
					"--neighbours on --route to=x --route=b");

	cr_assert_str_eq(config.overlay.file, "f");
	cr_assert_str_eq(config.overlay.key_file, "key");
	cr_assert(!config.overlay.offload && !config.overlay.learn);
	cr_assert(config.overlay.transit && config.overlay.neighbours);
	cr_assert_str_eq(config.overlay.routes[0], "to=x");
	cr_assert_str_eq(config.overlay.routes[1], "b");
	cr_assert_null(config.overlay.routes[2]);
}

Test(options, who_drives_a_nic)
{
	struct vm_config config =
	    parse("--kernel k --net mtu=1500 --net mode=vmm,irq=early "
		  "--net mode=guest,up=5,down=4,flood=0,window=100,dwell=0");

	cr_assert_eq(config.nets[0].mode.policy, MODE_AUTO);
	cr_assert_eq(config.nets[0].mode.up, MODE_RULES_DEFAULT.up);
	cr_assert_eq(config.nets[0].mode.down, MODE_RULES_DEFAULT.down);
	cr_assert_eq(config.nets[0].mode.flood, MODE_RULES_DEFAULT.flood);
	cr_assert_eq(config.nets[0].irq, NET_IRQ_BATCH);
	cr_assert_eq(config.nets[1].mode.policy, MODE_VMM);
	cr_assert_eq(config.nets[1].irq, NET_IRQ_EARLY);
	cr_assert_eq(config.nets[2].mode.policy, MODE_GUEST);
	cr_assert_eq(config.nets[2].mode.up, 5);
	cr_assert_eq(config.nets[2].mode.down, 4);
	cr_assert_eq(config.nets[2].mode.flood, 0);
	cr_assert_eq(config.nets[2].mode.window_ns, 100000);
	cr_assert_eq(config.nets[2].mode.dwell_ns, 0);
}

Test(options, pins)
{
	struct vm_config config = parse("--kernel k --cpus 3 --pin sidecar=7,vcpu2=0");

	cr_assert_eq(config.pin_sidecar, 7);
	cr_assert_eq(config.pin_vcpus[2], 0);
	cr_assert_eq(config.pin_vcpus[0], PIN_NONE);
}
