/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Setting up interfaces, addresses and routes by rtnetlink (man 7 rtnetlink), as far as init needs
 * it. */
#ifndef WEFT_TTY_NETWORK_H
#define WEFT_TTY_NETWORK_H

/* Brings the interface @device up. Returns 0, -ENODEV if there is none, or another -errno. */
int network_link_up(const char *device);

/*
 * Adds an address to @device.
 *
 * @text: ADDRESS/PREFIX, IPv4 or IPv6. An IPv6 address is used at once, without looking for
 * duplicates.
 *
 * Returns 0, -EINVAL if @text is something else, or another -errno.
 */
int network_address_add(const char *device, const char *text);

/*
 * Adds a default route through @device.
 *
 * @text: the gateway's ADDRESS, IPv4 or IPv6; it has to be on a network that @device is in already
 *
 * Returns 0, -EINVAL if @text is something else, or another -errno.
 */
int network_gateway_add(const char *device, const char *text);

#endif
