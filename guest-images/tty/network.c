/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Every function builds one rtnetlink request on its stack, sends it on a socket of its own and
 * waits for the kernel's acknowledgement, which carries 0 or -errno. The kernel answers before
 * send() returns, so nothing here blocks.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "network.h"

struct request {
	struct nlmsghdr header;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
		struct rtmsg route;
		uint8_t bytes[128]; /* the fixed part and its attributes */
	};
};

/* An address of either family. */
struct address {
	int family;    /* AF_INET or AF_INET6 */
	size_t length; /* bytes used in data */
	uint8_t data[sizeof(struct in6_addr)];
};

static void request_init(struct request *request, uint16_t type, uint16_t flags, size_t fixed)
{
	memset(request, 0, sizeof(*request));
	request->header.nlmsg_type = type;
	request->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	request->header.nlmsg_len = (uint32_t)NLMSG_LENGTH(fixed);
}

static void request_attribute(struct request *request, uint16_t type, const void *data,
			      size_t length)
{
	struct rtattr attribute = {
	    .rta_len = (uint16_t)RTA_LENGTH(length),
	    .rta_type = type,
	};
	uint8_t *at = (uint8_t *)request + NLMSG_ALIGN(request->header.nlmsg_len);

	memcpy(at, &attribute, sizeof(attribute));
	memcpy(at + RTA_LENGTH(0), data, length);
	request->header.nlmsg_len =
	    (uint32_t)(NLMSG_ALIGN(request->header.nlmsg_len) + RTA_LENGTH(length));
}

/* Sends the request. Returns what the kernel answers: 0 or -errno. */
static int request_send(const struct request *request)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error; /* the copy of the request behind it is cut off */
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int result = 0;

	if (fd < 0)
		return -errno;
	if (send(fd, request, request->header.nlmsg_len, 0) < 0 ||
	    recv(fd, &answer, sizeof(answer), 0) < (ssize_t)NLMSG_LENGTH(sizeof(int)))
		result = -EIO;
	else if (answer.header.nlmsg_type == NLMSG_ERROR)
		result = answer.error.error;
	close(fd);
	return result;
}

static bool address_parse(struct address *address, const char *text)
{
	address->family = strchr(text, ':') ? AF_INET6 : AF_INET;
	address->length =
	    address->family == AF_INET6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);
	return inet_pton(address->family, text, address->data) == 1;
}

/* Takes "/PREFIX" off the end of @text. Returns its value, or -1 if it is not 0 to 128. */
static int prefix_cut(char *text)
{
	char *slash = strchr(text, '/');
	char *end;
	unsigned long value;

	if (!slash || slash[1] < '0' || slash[1] > '9')
		return -1;
	value = strtoul(slash + 1, &end, 10);
	*slash = '\0';
	return *end == '\0' && value <= 128 ? (int)value : -1;
}

int network_link_up(const char *device)
{
	unsigned int index = if_nametoindex(device);
	struct request request;

	if (index == 0)
		return -ENODEV;
	request_init(&request, RTM_NEWLINK, 0, sizeof(request.link));
	request.link.ifi_family = AF_UNSPEC;
	request.link.ifi_index = (int)index;
	request.link.ifi_flags = IFF_UP;
	request.link.ifi_change = IFF_UP;
	return request_send(&request);
}

int network_address_add(const char *device, const char *text)
{
	char copy[INET6_ADDRSTRLEN + sizeof("/128")];
	unsigned int index = if_nametoindex(device);
	struct address address;
	struct request request;
	int prefix;

	if (strlen(text) >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, text, strlen(text) + 1);
	prefix = prefix_cut(copy);
	if (prefix < 0 || !address_parse(&address, copy) || (size_t)prefix > address.length * 8)
		return -EINVAL;
	if (index == 0)
		return -ENODEV;
	request_init(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof(request.address));
	request.address.ifa_family = (uint8_t)address.family;
	request.address.ifa_prefixlen = (uint8_t)prefix;
	request.address.ifa_index = index;
	if (address.family == AF_INET6)
		request.address.ifa_flags = IFA_F_NODAD;
	request_attribute(&request, IFA_LOCAL, address.data, address.length);
	request_attribute(&request, IFA_ADDRESS, address.data, address.length);
	return request_send(&request);
}

int network_gateway_add(const char *device, const char *text)
{
	int index = (int)if_nametoindex(device);
	struct address address;
	struct request request;

	if (!address_parse(&address, text))
		return -EINVAL;
	if (index == 0)
		return -ENODEV;
	request_init(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof(request.route));
	request.route.rtm_family = (uint8_t)address.family;
	request.route.rtm_table = RT_TABLE_MAIN;
	request.route.rtm_protocol = RTPROT_BOOT;
	request.route.rtm_scope = RT_SCOPE_UNIVERSE;
	request.route.rtm_type = RTN_UNICAST;
	request_attribute(&request, RTA_GATEWAY, address.data, address.length);
	request_attribute(&request, RTA_OIF, &index, sizeof(index));
	return request_send(&request);
}
