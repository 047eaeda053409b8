/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A link to the host's own network: a tap interface, or a macvtap. A tap that is not there yet is
 * made, where we may; it goes when we close it.
 *
 * The kernel gives and takes one frame a system call. What makes up for it is the virtio-net header
 * in front of each (IFF_VNET_HDR): frames of 64 KiB with offload state, both ways. With gso=off
 * there is none of it, every frame is plain and at most as long as the interface's MTU says; that
 * is for comparisons.
 *
 * Frames are read into buffers that are reused from the first on, up to a batch, until there are no
 * more; the descriptor is watched level-triggered. Writing gathers the header and the frame's own
 * segments.
 *
 * States: UP while the interface is up, else DOWN. That it goes down shows in an error of read or
 * write, after which a timer looks again, every second at most: a tap that was removed is taken
 * again when it is there again under its name, by the same descriptor (it is not made anew: whoever
 * removed it meant that). A macvtap's descriptor is of no more use when its interface is gone; a
 * new one is opened.
 *
 * Everything runs on the loop's thread.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vnet/core.h"
#include "vnet/link.h"
#include "vnet/loop.h"
#include "vnet/offload.h"

#ifndef TUN_F_USO4 /* Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define RECEIVE_BATCH  32u
#define RECEIVE_BUFFER (17u * 4096) /* bytes; the header, the longest frame and a VLAN tag fit */
#define MEMORY_SIZE    ((size_t)RECEIVE_BATCH * RECEIVE_BUFFER)
#define VISIT_BATCHES  8u /* batches received before others get their turn */
#define TUN_DEVICE     "/dev/net/tun"

static_assert(RECEIVE_BATCH <= FRAME_BATCH_MAX, "a receive batch goes to the core at once");
static_assert(RECEIVE_BUFFER >= sizeof(struct virtio_net_hdr) + FRAME_SIZE_MAX, "any frame fits");

/* What the host's network may give us and take from us; the first that the kernel knows. */
static const struct {
	unsigned tun;
	uint32_t port;
} offloads[] = {
    {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6, PORT_OFFLOADS},
    {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
     PORT_CSUM | PORT_TSO4 | PORT_TSO6 | PORT_ECN},
    {TUN_F_CSUM, PORT_CSUM},
    {0, 0},
};

struct tap {
	struct port port;
	struct link_status status;
	struct link_env env;
	char interface[IFNAMSIZ];
	bool macvtap;
	bool vnet_hdr;
	int fd;	     /* -1: a macvtap that is gone */
	int control; /* a socket to ask for the interface's state */
	struct loop_watch watch;
	struct loop_timer timer; /* looks whether the interface is up again */
	uint64_t delay_ns;
	struct loop_task mend;
	uint8_t *memory; /* the receive buffers */
	struct iovec segments[UIO_MAXIOV];
	struct iovec payloads[RECEIVE_BATCH];
	struct frame frames[RECEIVE_BATCH];
};

static void tap_down(struct tap *tap, int err)
{
	const char *why = strerror(err);

	if (err == EIO || err == ENETDOWN)
		why = "the interface is down";
	else if (err == EBADFD || err == ENODEV)
		why = "the interface is gone";
	link_state_set(&tap->status, LINK_DOWN, why);
}

/* Stop, and look again later; from anywhere. */
static void tap_fail(struct tap *tap, int err)
{
	if (tap->status.state == LINK_DOWN)
		return;
	tap_down(tap, err);
	loop_defer(tap->env.loop, &tap->mend);
}

/* --- sending ------------------------------------------------------------------------------- */

static struct virtio_net_hdr header_of(const struct frame_offload *offload)
{
	return (struct virtio_net_hdr){
	    .flags = offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM,
	    .gso_type = offload->gso_type,
	    .hdr_len = offload->hdr_len,
	    .gso_size = offload->gso_size,
	    .csum_start = offload->csum_start,
	    .csum_offset = offload->csum_offset,
	};
}

/* Write a frame. Returns 0 or the reason to drop it. */
static int frame_write(struct tap *tap, const struct frame *frame)
{
	struct virtio_net_hdr header = header_of(&frame->offload);
	unsigned n = 0;

	if (frame->iovcnt >= UIO_MAXIOV)
		return DROP_OVERSIZE;
	if (tap->vnet_hdr)
		tap->segments[n++] = (struct iovec){&header, sizeof(header)};
	memcpy(&tap->segments[n], frame->iov, frame->iovcnt * sizeof(*frame->iov));
	tap->port.counters.syscalls++;
	if (writev(tap->fd, tap->segments, (int)(n + frame->iovcnt)) >= 0)
		return 0;
	switch (errno) {
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		return DROP_BUSY;
	case EINVAL: /* the header and the frame do not go together */
		return DROP_OFFLOAD;
	case EMSGSIZE:
		return DROP_OVERSIZE;
	default:
		tap_fail(tap, errno);
		return DROP_DOWN;
	}
}

static void tap_send_batch(struct port *port, struct frame *const frames[], unsigned n)
{
	struct tap *tap = container_of(port, struct tap, port);

	port->counters.batches++;
	for (unsigned i = 0; i < n; i++) {
		int reason = tap->status.state == LINK_UP ? frame_write(tap, frames[i]) : DROP_DOWN;

		if (reason)
			port->counters.drops[reason]++;
		else
			link_count_sent(&port->counters, &frames[i], 1);
	}
}

/* --- receiving ----------------------------------------------------------------------------- */

/* Make the @len bytes in buffer @i a frame. Returns false when they are none: dropped and counted.
 */
static bool frame_take(struct tap *tap, unsigned i, size_t len)
{
	uint8_t *data = tap->memory + (size_t)i * RECEIVE_BUFFER;
	size_t start = tap->vnet_hdr ? sizeof(struct virtio_net_hdr) : 0;
	struct frame *frame = &tap->frames[i];
	struct virtio_net_hdr header = {0};

	if (len < start + FRAME_SIZE_MIN) {
		tap->port.counters.drops[DROP_RUNT]++;
		return false;
	}
	memcpy(&header, data, start);
	tap->payloads[i] = (struct iovec){data + start, len - start};
	*frame = (struct frame){
	    .iov = &tap->payloads[i],
	    .iovcnt = 1,
	    .len = (uint32_t)(len - start),
	    .hops = FRAME_HOPS_MAX,
	};
	memcpy(frame->eth, data + start, FRAME_HEADER);
	header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	if (header.flags)
		frame->offload = (struct frame_offload){
		    .flags = header.flags,
		    .gso_type = header.gso_type,
		    .hdr_len = header.hdr_len,
		    .gso_size = header.gso_size,
		    .csum_start = header.csum_start,
		    .csum_offset = header.csum_offset,
		};
	else
		frame->offload.gso_type = header.gso_type; /* refused if there is any */
	if (offload_check(frame))
		return true;
	tap->port.counters.drops[DROP_OFFLOAD]++;
	return false;
}

/* Read a batch and hand it to the core. False: that was all there is. */
static bool batch_receive(struct tap *tap)
{
	struct frame *list[RECEIVE_BATCH];
	unsigned i = 0, n = 0;

	for (; i < RECEIVE_BATCH; i++) {
		ssize_t len =
		    read(tap->fd, tap->memory + (size_t)i * RECEIVE_BUFFER, RECEIVE_BUFFER);

		tap->port.counters.syscalls += i || len >= 0;
		if (len < 0 && errno != EAGAIN && errno != EINTR)
			tap_fail(tap, errno);
		if (len < 0)
			break;
		if (frame_take(tap, i, (size_t)len))
			list[n++] = &tap->frames[i];
	}
	if (n) {
		tap->port.counters.batches++;
		core_input(tap->env.core, &tap->port, list, n);
	}
	return i == RECEIVE_BATCH;
}

static void tap_ready(struct loop_watch *watch, uint32_t revents)
{
	struct tap *tap = watch->context;

	for (unsigned i = 0; i < VISIT_BATCHES; i++)
		if (!batch_receive(tap))
			break;
	if (revents & (POLLERR | POLLHUP | POLLNVAL))
		tap_fail(tap, ENODEV);
}

/* --- the interface ------------------------------------------------------------------------- */

static struct ifreq request_of(const struct tap *tap)
{
	struct ifreq request = {0};

	strcpy(request.ifr_name, tap->interface);
	return request;
}

/* Is there an interface of that name that is up? Takes its MTU. Returns 0 or -errno. */
static int interface_up(struct tap *tap)
{
	struct ifreq request = request_of(tap);

	if (ioctl(tap->control, SIOCGIFFLAGS, &request))
		return -errno;
	if (!(request.ifr_flags & IFF_UP))
		return -ENETDOWN;
	if (ioctl(tap->control, SIOCGIFMTU, &request))
		return -errno;
	tap->port.mtu = (uint32_t)request.ifr_mtu;
	tap->status.path_mtu = tap->port.mtu;
	return 0;
}

static int interface_index(const struct tap *tap)
{
	struct ifreq request = request_of(tap);

	return ioctl(tap->control, SIOCGIFINDEX, &request) ? 0 : request.ifr_ifindex;
}

/* Say how frames shall come: with a header in front, and which may be unfinished. */
static int tap_tune(struct tap *tap)
{
	int size = sizeof(struct virtio_net_hdr);
	unsigned i = tap->env.offload ? 0 : sizeof(offloads) / sizeof(offloads[0]) - 1;

	tap->port.offloads = 0;
	if (!tap->vnet_hdr)
		return 0;
	if (ioctl(tap->fd, TUNSETVNETHDRSZ, &size))
		return -errno;
	while (ioctl(tap->fd, TUNSETOFFLOAD, (unsigned long)offloads[i].tun)) {
		if (!offloads[i].tun)
			return -errno;
		i++;
	}
	tap->port.offloads = offloads[i].port;
	return 0;
}

/* Attach the descriptor to the interface. */
static int tap_take(struct tap *tap)
{
	struct ifreq request = request_of(tap);

	request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | (tap->vnet_hdr ? IFF_VNET_HDR : 0));
	return ioctl(tap->fd, TUNSETIFF, &request) ? -errno : 0;
}

/* Open the device of a macvtap, or the one for all taps. */
static int device_open(struct tap *tap)
{
	char path[32] = TUN_DEVICE;

	if (tap->macvtap)
		snprintf(path, sizeof(path), "/dev/tap%d", interface_index(tap));
	tap->fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return tap->fd < 0 ? -errno : 0;
}

static int tap_start(struct tap *tap)
{
	int err = interface_up(tap);

	if (!err)
		err = loop_watch(tap->env.loop, &tap->watch, tap->fd, POLLIN);
	if (!err) {
		tap->delay_ns = 0;
		link_state_set(&tap->status, LINK_UP, NULL);
	}
	return err;
}

/* Is the descriptor attached to the interface of that name? */
static bool tap_attached(const struct tap *tap)
{
	struct ifreq request = {0};

	return tap->fd >= 0 && !ioctl(tap->fd, TUNGETIFF, &request) &&
	       !strcmp(request.ifr_name, tap->interface) && (!tap->macvtap || interface_index(tap));
}

/* Take the interface again if it was removed and is back. */
static int tap_retake(struct tap *tap)
{
	int err = 0;

	if (tap_attached(tap))
		return 0;
	if (!interface_index(tap))
		return -ENODEV;
	if (tap->macvtap) {
		if (tap->fd >= 0)
			close(tap->fd);
		err = device_open(tap);
	}
	if (!err)
		err = tap_take(tap);
	return err ? err : tap_tune(tap);
}

static void tap_expired(struct loop_timer *timer)
{
	struct tap *tap = timer->context;
	int err = tap_retake(tap);

	if (!err)
		err = tap_start(tap);
	if (!err)
		return;
	tap_down(tap, -err);
	link_retry(tap->env.loop, &tap->timer, &tap->delay_ns);
}

static void tap_mend(struct loop_task *task)
{
	struct tap *tap = container_of(task, struct tap, mend);

	loop_unwatch(&tap->watch);
	link_retry(tap->env.loop, &tap->timer, &tap->delay_ns);
}

/* --- the port ------------------------------------------------------------------------------ */

static void tap_close(struct port *port)
{
	struct tap *tap = container_of(port, struct tap, port);

	loop_unwatch(&tap->watch);
	loop_disarm(&tap->timer);
	loop_forget(tap->env.loop, &tap->mend);
	if (tap->memory)
		munmap(tap->memory, MEMORY_SIZE);
	if (tap->fd >= 0)
		close(tap->fd);
	if (tap->control >= 0)
		close(tap->control);
	free(tap);
}

static void tap_status(const struct port *port, struct link_status *status)
{
	*status = container_of(port, struct tap, port)->status;
}

static const struct port_ops tap_ops = {
    .type = "tap",
    .send_batch = tap_send_batch,
    .close = tap_close,
    .status = tap_status,
};

static int memory_make(struct tap *tap)
{
	void *memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	/* A huge page would make all buffers resident with the first frame. */
	madvise(memory, MEMORY_SIZE, MADV_NOHUGEPAGE);
	tap->memory = memory;
	return 0;
}

/* An interface that is there and is no tap of /dev/net/tun may be a macvtap, which has a device of
 * its own. */
static bool macvtap_is(const struct tap *tap)
{
	int index = interface_index(tap);
	char path[32];

	snprintf(path, sizeof(path), "/dev/tap%d", index);
	return index && !access(path, F_OK);
}

static const char *take_remedy(int err)
{
	switch (err) {
	case -EPERM:
		return "not permitted: have it made for this user (ip tuntap add dev NAME mode tap "
		       "user USER), or run with CAP_NET_ADMIN";
	case -EBUSY:
		return "another process has the interface: end it or name another";
	case -EINVAL:
		return "the interface is no tap or macvtap: name another";
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		return "the host has no tap devices: load the kernel's module tun";
	case -EACCES:
		return "the device may not be opened: give this user the right to, or run as root";
	default:
		return strerror(-err);
	}
}

static int tap_open(struct tap *tap, const struct link_spec *spec, char error[LINK_ERROR_MAX])
{
	int err;

	tap->control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	err = tap->control < 0 ? -errno : memory_make(tap);
	if (err)
		return link_fail(error, spec, err, "%s", strerror(-err));
	tap->macvtap = macvtap_is(tap);
	err = device_open(tap);
	if (!err)
		err = tap_take(tap);
	if (!err)
		err = tap_tune(tap);
	return err ? link_fail(error, spec, err, "%s", take_remedy(err)) : 0;
}

static int tap_link(const struct link_env *env, const struct link_spec *spec, void **endpoint,
		    struct port **port, char error[LINK_ERROR_MAX])
{
	bool gso = true;
	int err = link_switch(spec, "gso", &gso, error);
	struct tap *tap;

	(void)endpoint;
	if (err)
		return err;
	if (strlen(spec->target) >= IFNAMSIZ || strchr(spec->target, '/') ||
	    strchr(spec->target, '%'))
		return link_fail(error, spec, -EINVAL,
				 "an interface's name has 1 to %u bytes, no / and no %%",
				 IFNAMSIZ - 1);
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return link_fail(error, spec, -ENOMEM, "out of memory");
	tap->port.ops = &tap_ops;
	tap->port.kind = PORT_LINK;
	tap->port.mtu = 1500; /* of an Ethernet, until the interface is up and says */
	tap->env = *env;
	tap->vnet_hdr = gso;
	tap->fd = tap->control = -1;
	strcpy(tap->interface, spec->target);
	tap->watch.ready = tap_ready;
	tap->watch.eager = true;
	tap->watch.context = tap;
	tap->timer.expired = tap_expired;
	tap->timer.context = tap;
	tap->mend.run = tap_mend;
	link_state_set(&tap->status, LINK_DOWN, NULL);
	err = tap_open(tap, spec, error);
	if (!err)
		err = link_attach(env, spec, &tap->port, error);
	if (err) {
		tap_close(&tap->port);
		return err;
	}
	err = tap_start(tap);
	if (err) {
		tap_down(tap, -err);
		link_retry(env->loop, &tap->timer, &tap->delay_ns);
	}
	*port = &tap->port;
	return 0;
}

static const char *const tap_options[] = {"gso", NULL};

const struct link_type link_tap = {
    .scheme = "tap",
    .form = "tap://INTERFACE",
    .summary = "the host's network through a tap or macvtap; gso=off: plain frames only",
    .options = tap_options,
    .open = tap_link,
};
