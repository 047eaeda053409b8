/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any bytes as a kernel: boot_load() takes or refuses them, and touches nothing but guest RAM. Byte 0 of the input:
 * bit 0, with an initrd; bit 1, a small guest. The rest is the kernel's file.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/boot.h"

#define RAM_LARGE (64u << 20)
#define RAM_SMALL (4u << 20)

static int file_of(const void *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	return fd;
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct boot_request request = {.initrd_fd = -1, .cmdline = "console=ttyS0", .cpus = 4};
	struct guest_memory mem;
	struct boot_state state;

	if (size < 2)
		return 0;
	if (memory_create(&mem, data[0] & 2 ? RAM_SMALL : RAM_LARGE, false))
		abort();
	request.kernel_fd = file_of(data + 1, size - 1);
	if (data[0] & 1)
		request.initrd_fd = file_of(data, size);
	if (!boot_load(&mem, &request, &state) && !guest_range(&mem, state.ip, 1) &&
	    state.entry == BOOT_PVH)
		abort(); /* the entry is in RAM */
	close(request.kernel_fd);
	if (request.initrd_fd >= 0)
		close(request.initrd_fd);
	memory_destroy(&mem);
	return 0;
}
