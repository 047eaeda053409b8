/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The devices a VM can have. Each create function returns a virtio device ready for
 * virtio_pci_create(), or NULL with errno set; each destroy takes NULL.
 */
#ifndef WEFT_DEVICES_H
#define WEFT_DEVICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vnet/frame.h"
#include "vnet/mode.h"

struct core;
struct guest_memory;
struct loop;
struct port;
struct virtio_device;

/* What a device stands on: guest RAM, and the loop whose thread (the sidecar) owns its state. */
struct device_env {
	const struct guest_memory *mem;
	struct loop *loop;
};

/* --- network ------------------------------------------------------------------------------- */

/* When the guest is interrupted for frames received. */
enum net_irq {
	NET_IRQ_BATCH, /* once a batch, when it is there */
	NET_IRQ_EARLY, /* also when the batch is seen, before it is copied: the guest wakes up meanwhile */
};

struct virtio_net_options {
	const char *name; /* port name in the overlay: "nic0" */
	uint8_t mac[FRAME_MAC_SIZE];
	uint32_t mtu; /* bytes, 68..65535; shown to the guest by VIRTIO_NET_F_MTU */
	uint16_t queue_size; /* entries, a power of two, 2..VIRTQUEUE_SIZE_MAX */
	unsigned pairs; /* of queues, 1..PORT_PAIRS_MAX; 0 counts as 1 */
	bool offload; /* offer checksum and segmentation offloads, both ways */
	struct mode_rules mode; /* for each direction of each pair */
	enum net_irq irq;
	bool inline_doorbell; /* the vCPU thread that rings for transmit serves the queue while the sidecar sleeps */
};

/* The NIC is an interface port; the maker attaches virtio_net_port() to the core. */
struct virtio_device *virtio_net_create(const struct device_env *env, const struct virtio_net_options *opt);
struct port *virtio_net_port(struct virtio_device *dev);
/*
 * Ask the guest to announce its addresses (virtio 1.2, 5.1.6.5.4), so that peers learn where it is: after
 * a pause or a move. Nothing happens when its driver cannot. Sidecar.
 */
void virtio_net_announce(struct virtio_device *dev);
void virtio_net_destroy(struct virtio_device *dev);

/* --- block --------------------------------------------------------------------------------- */

/*
 * @fd: an open raw image: a regular file, or a block device (else ENOTBLK); the device's own once this has
 * succeeded. @serial: up to 20 bytes, or NULL.
 */
struct virtio_device *virtio_block_create(const struct device_env *env, int fd, bool read_only,
					  const char *serial);
void virtio_block_destroy(struct virtio_device *dev);

/* --- entropy ------------------------------------------------------------------------------- */

struct virtio_device *virtio_rng_create(const struct device_env *env);
void virtio_rng_destroy(struct virtio_device *dev);

/* --- console ------------------------------------------------------------------------------- */

#define CONSOLE_PORTS_MAX 4

/*
 * The host's end of a byte stream to and from the guest. All calls on the sidecar. @write takes bytes the
 * guest wrote and returns how many it took (0: full, it will call virtio_console_resume() later).
 */
struct console_backend {
	size_t (*write)(struct console_backend *backend, const void *data, size_t len);
	/* The guest opened or closed its end (multiport only). May be NULL. */
	void (*guest_open)(struct console_backend *backend, bool open);
	/* The guest posted buffers again after virtio_console_input() took less than offered. May be NULL. */
	void (*input_ready)(struct console_backend *backend);
};

struct console_port_options {
	const char *name; /* shown to the guest (VIRTIO_CONSOLE_PORT_NAME), or NULL */
	bool is_console;  /* an hvc console rather than a generic port */
	struct console_backend *backend;
};

struct virtio_device *virtio_console_create(const struct device_env *env,
					    const struct console_port_options *ports, unsigned count);
void virtio_console_destroy(struct virtio_device *dev);
/* Send bytes to the guest; returns how many fitted into its buffers. Sidecar. */
size_t virtio_console_input(struct virtio_device *dev, unsigned port, const void *data, size_t len);
/* The backend of @port can take bytes again. Sidecar. */
void virtio_console_resume(struct virtio_device *dev, unsigned port);
/* Tell the guest whether the host's end is connected (VIRTIO_CONSOLE_PORT_OPEN). Sidecar. */
void virtio_console_host_open(struct virtio_device *dev, unsigned port, bool open);

#endif
