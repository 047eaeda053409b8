# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the overlay share: Linux guests on hosts that are network namespaces, and traffic between them.

Guest N has the address 192.168.7.N, the MAC address 02:00:00:00:00:0N and the control socket gN in the test's directory.
"""
import json
import subprocess
import unittest

from netns import Underlay, have_namespaces
from weft import ROOT, VmTest, have_kvm, linux, wait_for

WEFT_CTL = f"{ROOT}/build/weft-ctl"
STREAM_SECONDS = 2
MIB = 1 << 20
PATIENCE = 60  # seconds for what takes one on an idle machine


@unittest.skipUnless(have_kvm(), "no access to /dev/kvm")
@unittest.skipUnless(have_namespaces(), "cannot make network namespaces (not root?)")
class Topology(VmTest):
    def setUp(self):
        super().setUp()
        self.kernel, self.root = linux()
        self.underlay = None
        self.hosts = {}  # of each guest

    def build(self, segments):
        self.underlay = Underlay(segments)
        self.cleanups_first(self.underlay.close)

    def cleanups_first(self, function):
        """Have it done after the processes have ended, which the base class sees to."""
        self._cleanups.insert(1, (function, (), {}))

    def guest(self, host, number, *options, wait=True, net=""):
        """Start a Linux guest on a host; `net` is added to its --net."""
        vm = self.weft("--kernel", self.kernel, "--initrd", self.root, "--memory", "96M", "--console", "off",
                       "--rng", "--cmdline", f"quiet weft.ip=192.168.7.{number}/24",
                       "--net", f"mac=02:00:00:00:00:{number:02x}{net}", "--ctl", f"g{number}",
                       "--agent", f"g{number}.agent", *options, prefix=self.underlay.command(host))
        self.hosts[number] = host
        if wait:
            self.wait_guest(number)
        return vm

    def ctl(self, number, *words, check=True, seconds=PATIENCE):
        """weft-ctl on a guest's socket."""
        shown = subprocess.run([*self.underlay.command(self.hosts[number], WEFT_CTL), f"g{number}", *words],
                               capture_output=True, text=True, timeout=seconds, cwd=self.dir, check=False)
        if check:
            self.assertEqual(shown.returncode, 0, f"{words} on g{number}: {shown.stdout[-1000:]}{shown.stderr[-1000:]}")
        return shown

    def wait_guest(self, number):
        wait_for(lambda: not self.ctl(number, "status", check=False).returncode)
        self.ctl(number, "wait", "--timeout", str(PATIENCE))

    def words(self, number, *words):
        """The answer to some words, as JSON."""
        return json.loads(self.ctl(number, *words, "--json").stdout)

    def port(self, number, name):
        """The counters of a port, by the beginning of its name."""
        for port in self.words(number, "stats")["ports"]:
            if port["name"].startswith(name):
                return port
        raise AssertionError(f"g{number} has no port {name}")

    def link_state(self, number, name=""):
        return [link["state"] for link in self.words(number, "link", "list") if link["name"].startswith(name)]

    def in_guest(self, number, *command, seconds=PATIENCE):
        return self.ctl(number, "exec", "--", *command, seconds=seconds).stdout

    def reaches(self, number, other):
        """Whether a ping is answered."""
        return not self.ctl(number, "exec", "--", "ping", "-c", "1", "-W", "1", f"192.168.7.{other}", check=False).returncode

    def wait_reaches(self, number, other):
        wait_for(lambda: self.reaches(number, other))

    def serve(self, server):
        """An iperf3 server in a guest, if there is none yet."""
        self.in_guest(server, "sh", "-c", "pgrep iperf3 >/dev/null || iperf3 --server --daemon")

    def stream(self, client, server, *options, seconds=STREAM_SECONDS):
        """iperf3 from one guest to another; its report."""
        self.serve(server)
        shown = self.in_guest(client, "iperf3", "--json", "--client", f"192.168.7.{server}", "--time", str(seconds),
                              *options, seconds=PATIENCE + seconds)
        report = json.loads(shown)
        rate = report["end"]["sum_received"]["bits_per_second"] / 1e6
        print(f"# {client} to {server} {' '.join(options)}: {rate:.0f} Mb/s")
        self.assertGreater(rate, 0)
        return report

    def both_ways(self, client, server):
        for way, options in (("there", ()), ("back", ("--reverse",))):
            with self.subTest(f"{client} and {server} {way}"):
                self.stream(client, server, *options)

    def hashed(self, sender, receiver, size=8 * MIB):
        """Random data of `size` bytes arrives through TCP as it was. nc ends its half when its input ends: hence the sleep."""
        self.in_guest(receiver, "sh", "-c", "{ sleep 300 | nc -l -p 7070 > /tmp/got; } 2>/dev/null & true")
        sent = self.in_guest(sender, "sh", "-ec",  # busybox's head knows no M
                             f"head -c {size} /dev/urandom > /tmp/sent; sha256sum < /tmp/sent").split()[0]
        wait_for(lambda: not self.ctl(sender, "exec", "--", "sh", "-c",
                                      f"nc -w 30 192.168.7.{receiver} 7070 < /tmp/sent", check=False,
                                      seconds=3 * PATIENCE).returncode, 0.5)
        wait_for(lambda: self.in_guest(receiver, "sha256sum", "/tmp/got").split()[0] == sent, 0.2)
