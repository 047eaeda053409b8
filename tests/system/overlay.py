#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The topologies of docs/networking.md, run as they stand there: real guests on hosts that are network namespaces.

A test builds the underlay that the topology's comment in the page names, runs its blocks in their order, each on its host, and
then looks at what a reader would care about: throughput both ways, nothing storms, counters.
"""
import json
import os
import re
import subprocess
import time
import unittest

import tap
from netns import Underlay, have_namespaces
from weft import ROOT, VmTest, have_kvm, linux, wait_for

PAGE = f"{ROOT}/docs/networking.md"
BLOCK_SECONDS = 120
STREAM_SECONDS = 2


def page_blocks():
    """{topology: (segments, [(host, script)])}, and what all blocks begin with."""
    topologies, current, common = {}, None, ""
    with open(PAGE, encoding="utf-8") as page:
        text = page.read()
    for found in re.finditer(r"<!-- topology (\w+): ([^>]*) -->|^```sh (\w+)\n(.*?)^```$", text, re.M | re.S):
        name, underlay, host, script = found.groups()
        if name:
            current = topologies[name] = (segments(underlay), [])
        elif host == "all":
            common = script
        else:
            current[1].append((host, script))
    return topologies, common


def segments(text):
    """"10.0.1 a b; 10.0.2/9000 b c" as Underlay wants it."""
    result = {}
    for segment in text.split(";"):
        subnet, *hosts = segment.split()
        subnet, _, mtu = subnet.partition("/")
        result[subnet] = (hosts, int(mtu or 1500))
    return result


@unittest.skipUnless(have_kvm(), "no access to /dev/kvm")
@unittest.skipUnless(have_namespaces(), "cannot make network namespaces (not root?)")
class Topology(VmTest):
    """Base: an underlay, shells on its hosts, and what runs in their background."""

    def setUp(self):
        super().setUp()
        self.kernel, self.root = linux()
        self.underlay = None
        self.shells = []

    def build(self, name):
        self.segments, self.blocks = TOPOLOGIES[name]
        self.underlay = Underlay(self.segments)
        self.addCleanup(self.underlay.close)
        self.addCleanup(self.end_shells)
        for host, script in self.blocks:
            self.shell(host, script)

    def environment(self):
        return {**os.environ, "PATH": f"{ROOT}/build:{os.environ['PATH']}", "KERNEL": self.kernel,
                "ROOT": self.root, "MAC_A": self.mac("a"), "MAC_B": self.mac("b")}

    def mac(self, host):
        shown = self.underlay.run(host, "cat", "/sys/class/net/eth0/address", check=False)
        return shown.stdout.strip()

    def shell(self, host, script):
        """Run a block on a host; what it leaves in the background stays until the test's end."""
        number = len(self.shells)
        out = self.path(f"block{number}")
        with open(out, "wb") as file:
            shell = subprocess.Popen(self.underlay.command(host, "bash", "-euc", COMMON + script), stdout=file,
                                     stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.dir,
                                     env=self.environment(), start_new_session=True)
        self.shells.append(shell)
        try:
            status = shell.wait(BLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            status = f"still running after {BLOCK_SECONDS} s"
        self.assertEqual(status, 0, f"block {number} on {host}:\n{script}\nsaid: {self.read(out)[-3000:]}")
        return self.read(out)

    @staticmethod
    def read(path):
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")

    def end_shells(self):
        """End whatever the blocks left behind: each has a session of its own."""
        for shell in self.shells:
            subprocess.run(["pkill", "-KILL", "-s", str(shell.pid)], check=False)
            shell.wait()
        for shell in self.shells:
            wait_for(lambda s=shell: subprocess.run(["pgrep", "-s", str(s.pid)], capture_output=True,
                                                    check=False).returncode, 30)

    # --- what tests look at -------------------------------------------------------------------

    def words(self, guest, *words):
        """The answer of a control socket to some words, as JSON."""
        host = self.host_of(guest)
        shown = self.underlay.run(host, f"{ROOT}/build/weft-ctl", guest, "--json", *words, cwd=self.dir)
        return json.loads(shown.stdout)

    def host_of(self, guest):
        for host, script in self.blocks:
            if f"guest {guest[1:]} " in script or f"--ctl {guest} " in script:
                return host
        raise AssertionError(f"no block starts {guest}")

    def in_guest(self, number, *command, seconds=60):
        host = self.host_of(f"g{number}")
        shown = subprocess.run(self.underlay.command(host, f"{ROOT}/build/weft-ctl", f"g{number}", "exec", "--", *command),
                               capture_output=True, text=True, timeout=seconds, cwd=self.dir, check=False)
        self.assertEqual(shown.returncode, 0, f"{command} in guest {number}: {shown.stdout[-1000:]} {shown.stderr[-1000:]}")
        return shown.stdout

    def stream(self, client, server, *options):
        """iperf3 from one guest to another; Mb/s received."""
        self.in_guest(server, "iperf3", "--server", "--daemon", "--one-off")
        shown = self.in_guest(client, "iperf3", "--json", "--client", f"192.168.7.{server}",
                              "--time", str(STREAM_SECONDS), *options)
        rate = json.loads(shown)["end"]["sum_received"]["bits_per_second"] / 1e6
        self.assertGreater(rate, 0)
        return rate

    def both_ways(self, client, server):
        for way, options in (("there", ()), ("back", ("--reverse",))):
            with self.subTest(way):
                self.stream(client, server, *options)

    def hashed(self, sender, receiver, mebibytes=16):
        """Random data through a TCP connection arrives as it was."""
        port = "7070"
        self.in_guest(receiver, "sh", "-c", f"nc -l -p {port} > /tmp/got </dev/null &")
        sent = self.in_guest(sender, "sh", "-c",
                             f"head -c {mebibytes}M /dev/urandom > /tmp/sent; nc -w 20 192.168.7.{receiver} {port}"
                             " < /tmp/sent; sha256sum < /tmp/sent").split()[0]
        wait_for(lambda: self.in_guest(receiver, "sha256sum", "/tmp/got").split()[0] == sent, 30, 0.2)

    def port(self, guest, name):
        """The counters of a port, by the beginning of its name."""
        for port in self.words(guest, "stats")["ports"]:
            if port["name"].startswith(name):
                return port
        raise AssertionError(f"{guest} has no port {name}")


class Overlay(Topology):
    def test_mesh(self):
        self.build("mesh")
        for server in (2, 3, 4):
            with self.subTest(f"1 and {server}"):
                self.both_ways(1, server)
        self.hashed(3, 4)

    def test_star(self):
        self.build("star")
        self.both_ways(2, 3)
        self.hashed(2, 3)

    def test_chain(self):
        """Different MTUs: frames up to the smaller one pass, and TCP uses it."""
        self.build("chain")
        self.both_ways(1, 3)
        self.hashed(3, 1)
        mtu = {int(self.in_guest(n, "cat", "/sys/class/net/eth0/mtu")) for n in (1, 3)}
        self.assertEqual(mtu, {1450})

    def test_loop(self):
        """A broadcast dies out: the counters stand still once nobody sends."""
        self.build("loop")

        def frames():
            return sum(port["in"]["frames"] for n in (1, 2, 3) for port in self.words(f"g{n}", "stats")["ports"])

        self.in_guest(1, "arping", "-c", "5", "-I", "eth0", "192.168.7.99") if self.has_arping() else \
            subprocess.run(self.underlay.command("a", f"{ROOT}/build/weft-ctl", "g1", "exec", "--", "ping", "-c", "5", "-W", "1",
                                                 "192.168.7.99"), cwd=self.dir, capture_output=True, check=False)

        def still():
            before = frames()
            time.sleep(1)
            # keep-alives are no frames; the guests themselves may say a word or two (ARP, IPv6)
            return frames() - before < 50
        wait_for(still, 60)
        self.assertTrue(any(port["drops"].get("hops", 0) for n in (1, 2, 3) for port in self.words(f"g{n}", "stats")["ports"]),
                        "the hop limit ended no loop")
        self.both_ways(1, 3)

    def has_arping(self):
        return "arping" in self.in_guest(1, "sh", "-c", "ls /bin /sbin /usr/bin /usr/sbin 2>/dev/null; true")

    def test_vnetd(self):
        self.build("vnetd")
        self.in_guest(1, "iperf3", "--server", "--daemon")
        for way in ((), ("--reverse",)):
            shown = self.underlay.run("b", "iperf3", "--json", "--client", "192.168.7.1", "--time", str(STREAM_SECONDS), *way)
            self.assertGreater(json.loads(shown.stdout)["end"]["sum_received"]["bytes"], 0)

    def test_tap(self):
        self.build("tap")
        self.in_guest(1, "iperf3", "--server", "--daemon")
        for way in ((), ("--reverse",)):
            shown = self.underlay.run("a", "iperf3", "--json", "--client", "192.168.7.1", "--time", str(STREAM_SECONDS), *way)
            self.assertGreater(json.loads(shown.stdout)["end"]["sum_received"]["bytes"], 0)

    @unittest.skipUnless(os.path.exists("/usr/bin/passt"), "passt is not installed")
    def test_passt(self):
        self.build("passt")
        self.assertIn("hello from outside", self.read(self.path(f"block{len(self.shells) - 1}")))

    def test_vxlan(self):
        """The kernel's VXLAN device as the peer; Wireshark's own dissector finds nothing wrong."""
        self.build("vxlan")
        self.in_guest(1, "iperf3", "--server", "--daemon")
        capture = self.path("underlay.pcapng")
        shark = subprocess.Popen(self.underlay.command("b", "tshark", "-q", "-i", "eth0", "-c", "400", "-w", capture),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.dir) \
            if os.path.exists("/usr/bin/tshark") else None
        if shark:
            self.addCleanup(shark.wait)
            self.addCleanup(shark.kill)
            wait_for(lambda: os.path.exists(capture), 30)
        for way in ((), ("--reverse",)):
            with self.subTest("back" if way else "there"):
                shown = self.underlay.run("b", "iperf3", "--json", "--client", "192.168.7.1", "--time", str(STREAM_SECONDS), *way)
                self.assertGreater(json.loads(shown.stdout)["end"]["sum_received"]["bytes"], 0)
        if not shark:
            self.skipTest("tshark is not installed")
        shark.wait(60)
        shown = subprocess.run(["tshark", "-r", capture, "-Y", "udp.port == 4789 && (_ws.malformed || !vxlan)"],
                               capture_output=True, text=True, check=True).stdout
        self.assertEqual(shown, "")
        decoded = subprocess.run(["tshark", "-r", capture, "-Y", "vxlan.vni == 7"], capture_output=True, text=True,
                                 check=True).stdout
        self.assertGreater(decoded.count("\n"), 100)

    def test_shm(self):
        self.build("shm")
        self.both_ways(1, 2)
        self.hashed(1, 2)

    def test_eth(self):
        self.build("eth")
        self.both_ways(1, 2)
        self.hashed(1, 2)

    def test_routes(self):
        self.build("routes")
        mirror = self.port("g1", "mirror")["out"]["frames"]
        self.in_guest(1, "ping", "-c", "5", "192.168.7.2")
        self.assertGreaterEqual(self.port("g1", "mirror")["out"]["frames"] - mirror, 5)

    def test_key(self):
        self.build("key")
        self.both_ways(1, 2)
        self.hashed(1, 2)

    def test_large(self):
        self.build("large")
        self.both_ways(1, 2)
        self.hashed(1, 2)


TOPOLOGIES, COMMON = page_blocks()

if __name__ == "__main__":
    tap.main(__name__)
