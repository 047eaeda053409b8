# SPDX-License-Identifier: GPL-2.0-or-later
"""Networks of hosts for tests and benchmarks: network namespaces joined by segments, each a bridge in a namespace of its
own, or two by a wire.

Everything has the process's id in its name and is removed by Underlay.close().
"""
import os
import subprocess
import unittest


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


def have_namespaces():
    """Whether this user may make network namespaces with bridges and veth pairs in them."""
    if os.geteuid() != 0:
        return False
    name = f"weft-{os.getpid()}-try"
    made = not ip("netns", "add", name, check=False).returncode
    good = made and not any(ip("-n", name, "link", "add", *link, check=False).returncode for link in
                            (("br0", "type", "bridge"), ("veth0", "type", "veth", "peer", "name", "veth1")))
    if made:
        ip("netns", "del", name, check=False)
    return good


needs_namespaces = unittest.skipUnless(have_namespaces(), "cannot make network namespaces (not root?)")


class Underlay:
    """Hosts on segments: {subnet: (hosts, mtu)}; host "a" is SUBNET.1, "b" SUBNET.2 and so on, "p7" SUBNET.107."""

    def __init__(self, segments):
        self.names = []
        try:
            for host in sorted({host for hosts, _ in segments.values() for host in hosts}):
                self.add_host(host)
            for number, (subnet, (hosts, mtu)) in enumerate(segments.items()):
                self.add_segment(number, subnet, hosts, mtu)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def name(host):
        return f"weft-{os.getpid()}-{host}"

    def add_host(self, host):
        name = self.name(host)
        self.names.append(name)  # first, so that it is removed whenever a signal comes
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    def add_segment(self, number, subnet, hosts, mtu):
        switch = f"switch{number}"
        self.add_host(switch)
        ip("-n", self.name(switch), "link", "add", "br0", "mtu", str(mtu), "type", "bridge")
        ip("-n", self.name(switch), "link", "set", "br0", "up")
        for host in hosts:
            device = f"eth{number}"
            ip("-n", self.name(host), "link", "add", device, "mtu", str(mtu), "type", "veth",
               "peer", "name", f"to-{host}", "mtu", str(mtu), "netns", self.name(switch))
            ip("-n", self.name(switch), "link", "set", f"to-{host}", "master", "br0", "up")
            ip("-n", self.name(host), "addr", "add", f"{subnet}.{self.number(host)}/24", "dev", device)
            ip("-n", self.name(host), "link", "set", device, "up")
            ip("-n", self.name(host), "route", "add", "default", "via", f"{subnet}.254", check=False)  # the first one stays

    def add_wire(self, subnet, hosts, mtu):
        """Two new hosts, SUBNET.1 and SUBNET.2, joined by nothing but a veth pair, eth0 on both."""
        for host in hosts:
            self.add_host(host)
        ip("-n", self.name(hosts[0]), "link", "add", "eth0", "mtu", str(mtu), "type", "veth",
           "peer", "name", "eth0", "mtu", str(mtu), "netns", self.name(hosts[1]))
        for end, host in enumerate(hosts, 1):
            ip("-n", self.name(host), "addr", "add", f"{subnet}.{end}/24", "dev", "eth0")
            ip("-n", self.name(host), "link", "set", "eth0", "up")

    def mac(self, host):
        return self.run(host, "cat", "/sys/class/net/eth0/address").stdout.strip()

    @staticmethod
    def number(host):
        return 100 + int(host[1:]) if host[1:] else ord(host) - ord("a") + 1

    def command(self, host, *command):
        """The command line that runs a command on a host."""
        return ["ip", "netns", "exec", self.name(host), *command]

    def run(self, host, *command, check=True, **options):
        return subprocess.run(self.command(host, *command), capture_output=True, text=True, check=check, **options)

    def set_mtu(self, host, mtu, number=0):
        """Lower or raise the MTU of a host's interface, and of the switch's end."""
        ip("-n", self.name(host), "link", "set", f"eth{number}", "mtu", str(mtu))
        ip("-n", self.name(f"switch{number}"), "link", "set", f"to-{host}", "mtu", str(mtu))

    def close(self):
        for name in reversed(self.names):
            ip("netns", "del", name, check=False)
        self.names = []
