# SPDX-License-Identifier: GPL-2.0-or-later
"""Two unikernels on this host that exchange frames over its loopback: all that is needed is /dev/kvm."""
import contextlib
import json
import socket

from hosts import CommandError
from machine import children_seconds, threads_seconds
from weft import WEFT, Vm, guest


def ports(count):
    """UDP ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Unikernels:
    """A server and a client of netbench with NICs of these options, which sleep while they wait, and work for each frame."""

    def __init__(self, directory, net, test, work_ns=0):
        self.directory, self.net, self.test, self.work_ns = directory, net, test, work_ns
        self.ports = ports(2)
        self.server = self.client = None

    def start(self, role, end, line):
        mine, other = self.ports[end - 1], self.ports[2 - end]
        return Vm(self.directory, ("--kernel", guest("netbench"), "--memory", "64M", "--console", "stdio",
                                   "--net", f"mac=02:00:00:00:00:{end:02x},mtu=1500,{self.net}",
                                   "--listen", f"udp://127.0.0.1:{mine}", "--link", f"udp://127.0.0.1:{other}",
                                   "--ctl", self.control_path(role), "--cmdline", f"role={role} mode=irq work={self.work_ns} {line}"),
                  program=WEFT)

    def control_path(self, role):
        return f"{self.directory}/{role}.{self.ports[0]}"

    def __enter__(self):
        try:
            self.server = self.start("server", 1, "")
            self.server.wait_output("server ready")
            self.client = self.start("client", 2, self.test)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for vm in (self.client, self.server):
            if vm:
                vm.end()

    def report(self):
        """The client's line of JSON, once it has ended."""
        if self.client.wait():
            raise CommandError(f"netbench: {self.client.output()[-200:]}{self.client.errors()[-200:]}")
        return json.loads(self.client.output().splitlines()[-1])


def round_trips(directory, net, count, work_ns):
    """Microseconds of a round trip, one after the other."""
    with Unikernels(directory, net, f"test=pingpong count={count}", work_ns) as pair:
        return pair.report()["p50_ns"] / 1e3


def load(directory, net, rate, seconds, work_ns):
    """Round trips at a rate: how long one takes, and how much CPU of both VMs, guests included; microseconds, medians."""
    with Unikernels(directory, net, f"test=load rate={rate} seconds={seconds}", work_ns) as pair:
        pair.client.wait_output("load begins")
        before = threads_seconds([pair.client.pid, pair.server.pid]) + children_seconds()
        got = pair.report()
        used = threads_seconds([pair.server.pid]) + children_seconds() - before
    return {"trip_us": got["p50_ns"] / 1e3, "cpu_us": used / got["frames"] * 1e6, "lost": got["lost"]}
