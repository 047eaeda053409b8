/* SPDX-License-Identifier: GPL-2.0-or-later */
/* weft: one virtual machine per process, with the overlay inside. */
#include <stdio.h>
#include <string.h>

#include "vnet/link.h"
#include "vnet/message.h"
#include "vmm/options.h"
#include "vmm/vm.h"

#ifndef WEFT_VERSION
#define WEFT_VERSION "unknown"
#endif

#ifdef WEFT_STATIC
#define BUILD_NOTE "; static musl build: without InfiniBand, which needs the ordinary build"
#else
#define BUILD_NOTE ""
#endif

static const char usage[] = "Usage: weft run --kernel FILE [options]   run a virtual machine\n"
			    "       weft run --help                   all options\n"
			    "       weft --version\n";

static int run(int argc, char **argv)
{
	static struct vm_config config;
	static struct vm vm;
	int status = STATUS_ENVIRONMENT;

	options_parse(&config, argc, argv);
	if (!vm_create(&vm, &config))
		status = vm_run(&vm);
	vm_destroy(&vm);
	return status;
}

int main(int argc, char **argv)
{
	if (argc >= 2 && !strcmp(argv[1], "run"))
		return run(argc - 2, argv + 2);
	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help"))) {
		fputs(usage, stdout);
		return STATUS_OK;
	}
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		fputs("weft " WEFT_VERSION " (links:", stdout);
		for (const struct link_type *const *type = links_types(); *type; type++)
			printf(" %s", (*type)->scheme);
		puts(BUILD_NOTE ")");
		return STATUS_OK;
	}
	/* The options as roff, for the man page. */
	if (argc == 2 && !strcmp(argv[1], "--man")) {
		options_help(stdout, true);
		return STATUS_OK;
	}
	fputs(usage, stderr);
	return STATUS_USAGE;
}
