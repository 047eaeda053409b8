/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Links by URL: what is accepted, what is refused, and with which words. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/link_lab.h"

static struct loop *loop;
static struct lab_vm vm;

static void up(void)
{
	loop = loop_create(64);
	cr_assert_not_null(loop);
	lab_vm_up(&vm, loop, LAB_VNI);
}

static void down(void)
{
	lab_vm_down(&vm);
	loop_destroy(loop);
}

Test(links, types_are_described, .init = up, .fini = down)
{
	unsigned n = 0;

	for (const struct link_type *const *type = links_types(); *type; type++, n++) {
		cr_assert_not_null((*type)->open);
		cr_assert_not_null((*type)->summary);
		cr_assert(!strncmp((*type)->form, (*type)->scheme, strlen((*type)->scheme)));
		cr_assert_eq(!(*type)->listen, !(*type)->listen_form);
	}
	cr_assert_geq(n, 5);
}

/* What makes no sense, and a word of the message that says so. */
static const struct {
	const char *url, *word;
} nonsense[] = {
    {"", "SCHEME://TARGET"},
    {"udp", "SCHEME://TARGET"},
    {"udp:10.0.0.1", "SCHEME://TARGET"},
    {"://x", "use one of"},
    {"rdma://x", "eth://INTERFACE/MAC"},
    {"UDP://10.0.0.1", "use one of"},
    {"udpudpudpudpudpudp://10.0.0.1", "SCHEME://TARGET"},
    {"shm://", "no target"},
    {"shm://,name=x", "no target"},
    {"shm:///tmp/a b", "odd characters"},
    {"shm:///tmp/a\nb", "odd characters"},
    {"shm:///tmp/x,", "NAME=VALUE"},
    {"shm:///tmp/x,name", "NAME=VALUE"},
    {"shm:///tmp/x,name=", "NAME=VALUE"},
    {"shm:///tmp/x,=y", "NAME=VALUE"},
    {"shm:///tmp/x,name=a,name=b", "twice"},
    {"shm:///tmp/x,mtu=9000", "unknown option mtu="},
    {"shm:///tmp/x,name={}", "cannot be in a name"},
    {"shm:///tmp/x,a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1", "too many options"},
    {"shm:///tmp/x,thisnameislongerthananynameofanoption=1", "too long"},
    {"tap://x,gso=maybe", "gso is on or off"},
    {"tap://a/b", "name has"},
    {"tap://a%d", "name has"},
    {"tap://sixteen-bytes-ok", "name has"},
    {"eth://eth0", "INTERFACE/MAC"},
    {"eth:///02:00:00:00:00:01", "INTERFACE/MAC"},
    {"eth://lo/02:00:00:00:00", "is no MAC address"},
    {"eth://lo/02:00:00:00:00:1:2", "is no MAC address"},
    {"eth://lo/0200:00:00:00:00:1", "is no MAC address"},
    {"eth://lo/01:00:00:00:00:01", "no group address"},
};

Test(links, nonsense_is_refused, .init = up, .fini = down)
{
	for (unsigned i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		struct port *port = NULL;

		strcpy(vm.error, "");
		cr_assert_eq(links_add(vm.links, "--link", nonsense[i].url, &port, vm.error),
			     -EINVAL, "%s", nonsense[i].url);
		cr_assert(!strncmp(vm.error, "--link ", 7), "%s", vm.error);
		cr_assert_not_null(strstr(vm.error, nonsense[i].word), "%s: %s", nonsense[i].url,
				   vm.error);
		cr_assert_null(strchr(vm.error, '\n'));
	}
	cr_assert_eq(core_ports(vm.core), 1); /* nothing was left behind */
}

Test(links, long_text_is_refused, .init = up, .fini = down)
{
	char url[2000] = "shm://";
	struct port *port;

	memset(url + 6, 'x', sizeof(url) - 7);
	cr_assert_eq(links_add(vm.links, "--link", url, &port, vm.error), -EINVAL);
	cr_assert_not_null(strstr(vm.error, "too long"));
	url[6 + 108] = '\0';
	cr_assert_eq(links_add(vm.links, "--link", url, &port, vm.error), -EINVAL);
	cr_assert_not_null(strstr(vm.error, "1 to 107 bytes"));
	url[6 + 107] = '\0';
	cr_assert_eq(links_add(vm.links, "--link", url, &port, vm.error), -EINVAL);
	cr_assert_not_null(strstr(vm.error, "by name="));
	strcat(url, ",name=long");
	cr_assert_eq(links_add(vm.links, "--link", url, &port, vm.error), 0, "%s", vm.error);
	cr_assert_str_eq(port->name, "long");
}

Test(links, names, .init = up, .fini = down)
{
	struct port *first = lab_link(&vm, "shm:///nonexistent/a");
	struct port *second = lab_link(&vm, "shm:///nonexistent/b,name=b");
	struct port *port;

	cr_assert_not_null(first);
	cr_assert_str_eq(first->name, "shm:///nonexistent/a");
	cr_assert_not_null(second);
	cr_assert_str_eq(second->name, "b");
	cr_assert_eq(
	    links_add(vm.links, "link add", "shm:///nonexistent/c,name=b", &port, vm.error),
	    -EEXIST);
	cr_assert_not_null(strstr(vm.error, "name="), "%s", vm.error);
	/* The same link by another name. */
	cr_assert_eq(
	    links_add(vm.links, "link add", "shm:///nonexistent/a,name=c", &port, vm.error),
	    -EEXIST);
	cr_assert_not_null(strstr(vm.error, "as \"shm:///nonexistent/a\""), "%s", vm.error);
	/* Removed, it may come again. */
	links_remove(vm.links, first);
	cr_assert_null(lab_port(&vm, "shm:///nonexistent/a"));
	cr_assert_not_null(lab_link(&vm, "shm:///nonexistent/a,name=c"), "%s", vm.error);
	cr_assert_eq(
	    links_add(vm.links, "link add", "passt:///nonexistent/c,name=nic0", &port, vm.error),
	    -EEXIST);
}

Test(links, listeners, .init = up, .fini = down)
{
	struct port *port;

	cr_assert_eq(links_listen(vm.links, "--listen", "tap://x", vm.error), -EINVAL);
	cr_assert_not_null(strstr(vm.error, "cannot listen"), "%s", vm.error);
	cr_assert_eq(links_listen(vm.links, "--listen", "udp://127.0.0.1:0", vm.error), 0, "%s",
		     vm.error);
	cr_assert_eq(links_listen(vm.links, "--listen", "udp://127.0.0.1:0", vm.error), -EINVAL);
	cr_assert_not_null(strstr(vm.error, "listens already"), "%s", vm.error);
	cr_assert_eq(links_listen(vm.links, "--listen", "udp://127.0.0.1:0,encap=vxlan", vm.error), 0,
		     "%s", vm.error);
	cr_assert_eq(links_add(vm.links, "--link", "udp://127.0.0.1:9", &port, vm.error), 0, "%s",
		     vm.error);
	cr_assert_eq(links_add(vm.links, "--link", "udp://127.0.0.1:9", &port, vm.error), -EEXIST);
}
