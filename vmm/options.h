/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of `weft run`: one table for the command line, the configuration file, --help and the man page. */
#ifndef WEFT_OPTIONS_H
#define WEFT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "devices/devices.h"
#include "vnet/frame.h"
#include "vnet/overlay.h"

struct cmdline_text;

#define CONFIG_DISKS_MAX 16
#define CONFIG_NETS_MAX  8
#define VCPUS_MAX        64
#define PIN_NONE         (-1)

struct net_config {
	uint8_t mac[FRAME_MAC_SIZE];
	bool mac_given;
	uint32_t mtu;        /* bytes; 0: from the links */
	uint16_t queue_size; /* entries */
	unsigned queues;     /* pairs of them; 0: one a virtual CPU */
	struct mode_rules mode;
	enum net_irq irq;
	uint64_t coalesce_ns; /* of interrupts for frames that have left */
	bool inline_doorbell;
};

struct disk_config {
	const char *path;
	const char *serial;
	bool read_only;
};

enum console_type { CONSOLE_STDIO, CONSOLE_FILE, CONSOLE_UNIX, CONSOLE_OFF };

/* Everything the user asked for. Strings point into argv or into texts. */
struct vm_config {
	const char *name;
	uint64_t memory; /* bytes */
	bool hugepages;
	bool lock_memory;
	unsigned cpus;
	/* Host CPUs to run on; PIN_NONE: any. */
	int pin_sidecar, pin_vcpus[VCPUS_MAX];
	const char *kernel, *initrd, *cmdline;
	struct net_config nets[CONFIG_NETS_MAX];
	unsigned net_count;
	struct disk_config disks[CONFIG_DISKS_MAX];
	unsigned disk_count;
	bool rng;
	enum console_type console;
	const char *console_path; /* file or socket */
	const char *console_log;  /* with a socket: also append the output here, or NULL */
	uint8_t escape;           /* control character that introduces a console command; 0: none */
	const char *agent_path;
	const char *ctl_path;
	struct overlay_options overlay;
	bool restart;             /* on reboot: start again rather than exit */
	bool sandbox;
	struct cmdline_text *texts; /* what was read from --config */
};

/**
 * options_parse - command line and configuration file to a vm_config.
 * @argv: behind "run"; argv[argc] is NULL
 *
 * Dies with STATUS_USAGE and one line that names the option and the remedy. --help prints and exits 0.
 */
void options_parse(struct vm_config *config, int argc, char *const argv[]);

/* options_help - print the options, grouped; @man: as the body of a man page (roff). */
void options_help(FILE *out, bool man);

#endif
