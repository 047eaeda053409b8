#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The topologies of docs/networking.md, run as they stand there: real guests on hosts that are network namespaces.

A test builds the underlay that the topology's comment in the page names, runs its blocks in their order, each on its host, and
then looks at what a reader would care about: throughput both ways, nothing storms, counters.
"""
import json
import os
import re
import shutil
import subprocess
import time
import unittest

import tap
from topology import PATIENCE, STREAM_SECONDS, Topology
from weft import ROOT, Vm, wait_for

PAGE = f"{ROOT}/docs/networking.md"
BLOCK_SECONDS = 120


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


class Page(Topology):
    """Base: runs the blocks of a topology, each by a shell on its host."""

    def setUp(self):
        super().setUp()
        self.shells = []

    def run_page(self, name):
        segments_, blocks = TOPOLOGIES[name]
        self.build(segments_)
        self.addCleanup(self.end_shells)
        for host, script in blocks:
            for number in re.findall(r"\bguest (\d)", script):
                self.hosts[int(number)] = host
            self.shell(host, script)

    def environment(self):
        return {**os.environ, "PATH": f"{ROOT}/build:{os.environ['PATH']}", "KERNEL": self.kernel,
                "ROOT": self.root, "MAC_A": self.mac("a"), "MAC_B": self.mac("b")}

    def mac(self, host):
        return self.underlay.run(host, "cat", "/sys/class/net/eth0/address", check=False).stdout.strip()

    def shell(self, host, script):
        """Run a block; what it leaves in the background stays until the test's end."""
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
        self.said = Vm.read(out)
        self.assertEqual(status, 0, f"block {number} on {host}:\n{script}\nsaid: {self.said[-3000:]}")

    def end_shells(self):
        """End whatever the blocks left behind: each has a session of its own."""
        for shell in self.shells:
            subprocess.run(["pkill", "-KILL", "-s", str(shell.pid)], check=False)
            shell.wait()
            wait_for(lambda s=shell: subprocess.run(["pgrep", "-s", str(s.pid)], capture_output=True,
                                                    check=False).returncode)

    def host_stream(self, host, server=1):
        """iperf3 from a host itself to a guest, both ways."""
        self.serve(server)
        for way in ((), ("--reverse",)):
            with self.subTest("back" if way else "there"):
                shown = self.underlay.run(host, "iperf3", "--json", "--client", f"192.168.7.{server}", "--time",
                                          str(STREAM_SECONDS), *way, check=False, timeout=PATIENCE)
                self.assertEqual(shown.returncode, 0, shown.stdout[-1000:] + shown.stderr)
                self.assertGreater(json.loads(shown.stdout)["end"]["sum_received"]["bytes"], 0)


class Overlay(Page):
    def test_mesh(self):
        self.run_page("mesh")
        for server in (2, 3, 4):
            self.both_ways(1, server)
        self.hashed(3, 4)

    def test_star(self):
        self.run_page("star")
        self.both_ways(2, 3)
        self.hashed(2, 3)

    def test_chain(self):
        """Different MTUs: frames up to the smaller one pass, and both ends use it."""
        self.run_page("chain")
        self.both_ways(1, 3)
        self.hashed(3, 1)
        mtu = {int(self.in_guest(n, "cat", "/sys/class/net/eth0/mtu")) for n in (1, 3)}
        self.assertEqual(mtu, {1450})

    def frames_in(self):
        return sum(port["in_frames"] for n in self.hosts for port in self.words(n, "stats")["ports"])

    def drops(self, reason):
        return sum(port["drops"].get(reason, 0) for n in self.hosts for port in self.words(n, "stats")["ports"])

    def test_loop(self):
        """A broadcast dies out: the counters stand still once nobody sends."""
        self.run_page("loop")
        self.ctl(1, "exec", "--", "ping", "-c", "5", "-W", "1", "192.168.7.99", check=False)
        self.assertGreater(self.drops("hops"), 0, "the hop limit ended no loop")

        def still():
            before = self.frames_in()
            time.sleep(1)
            return self.frames_in() - before < 50  # the guests may say a word or two of their own
        wait_for(still)
        self.both_ways(1, 3)

    def test_vnetd(self):
        self.run_page("vnetd")
        self.host_stream("b")

    def test_tap(self):
        self.run_page("tap")
        self.host_stream("a")

    @unittest.skipUnless(shutil.which("passt"), "passt is not installed")
    def test_passt(self):
        os.chmod(self.dir, 0o777)  # run by root, passt becomes nobody
        self.run_page("passt")
        self.assertIn("hello from outside", self.said)

    def shark(self, host, path, count):
        """Start to capture the underlay of a host."""
        shark = subprocess.Popen(self.underlay.command(host, "tshark", "-q", "-i", "eth0", "-c", str(count), "-w", path),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.dir)
        self.addCleanup(shark.wait)
        self.addCleanup(shark.kill)
        wait_for(lambda: os.path.exists(path))
        return shark

    def decoded(self, path, rule):
        """The packets of a capture that match a rule, as tshark prints them."""
        return subprocess.run(["tshark", "-r", path, "-Y", rule], capture_output=True, text=True,
                              check=True).stdout.splitlines()

    @unittest.skipUnless(shutil.which("tshark"), "tshark is not installed")
    def test_vxlan(self):
        """The kernel's VXLAN device as the peer; an independent dissector finds nothing wrong."""
        self.run_page("vxlan")
        path = self.path("underlay.pcapng")
        shark = self.shark("b", path, 400)
        self.host_stream("b")
        shark.wait(PATIENCE)
        self.assertEqual(self.decoded(path, "udp.port == 4789 && (_ws.malformed || !vxlan)"), [])
        self.assertGreater(len(self.decoded(path, "vxlan.vni == 7")), 100)

    def test_shm(self):
        self.run_page("shm")
        self.both_ways(1, 2)
        self.hashed(1, 2)

    def test_eth(self):
        self.run_page("eth")
        self.both_ways(1, 2)
        self.hashed(1, 2)

    def test_routes(self):
        """Every frame to guest 2 goes to the mirror too."""
        self.run_page("routes")
        before = self.port(1, "mirror")["out_frames"]
        self.in_guest(1, "ping", "-c", "5", "192.168.7.2")
        self.assertGreaterEqual(self.port(1, "mirror")["out_frames"] - before, 5)

    def test_key(self):
        self.run_page("key")
        self.both_ways(1, 2)
        self.hashed(1, 2)

    def test_large(self):
        self.run_page("large")
        self.both_ways(1, 2)
        self.hashed(1, 2)


class Offloads(Topology):
    def pair(self, first, second):
        self.build({"10.0.0": (["a", "b"], 1500)})
        self.guest("a", 1, "--link", "udp://10.0.0.2", "--offload", first)
        self.guest("b", 2, "--link", "udp://10.0.0.1", "--offload", second)
        self.wait_reaches(1, 2)

    def longest(self, number):
        """Bytes of an average frame that came from a guest during a stream."""
        before = self.port(number, "nic0")
        self.stream(number, 3 - number)
        after = self.port(number, "nic0")
        return (after["in_bytes"] - before["in_bytes"]) / (after["in_frames"] - before["in_frames"])

    def test_off_on_both_sides(self):
        """Nothing leaves a guest that is longer than its MTU, and nothing is cut or joined on the way."""
        self.pair("off", "off")
        self.assertLessEqual(self.longest(1), 1500)
        self.hashed(2, 1)
        core = self.words(2, "stats")["core"]
        self.assertEqual((core["split"], core["merged"]), (0, 0))

    def test_off_on_one_side(self):
        """Whoever has them meets one who has not: both ways it works, and the wire carries finished packets."""
        self.pair("on", "off")
        self.assertGreater(self.longest(1), 1500)
        self.both_ways(1, 2)
        self.hashed(1, 2)
        self.hashed(2, 1)
        self.assertGreater(self.words(1, "stats")["core"]["split"], 0)

    def test_on(self):
        """Frames cross whole: nobody has to cut them in software."""
        self.pair("on", "on")
        self.assertGreater(self.longest(1), 1500)
        self.assertEqual(self.words(1, "stats")["core"]["split"], 0)


class Inline(Topology):
    def test_linux(self):
        """Guests whose vCPUs send for themselves when they ring."""
        self.build({"10.0.0": (["a", "b"], 1500)})
        self.guest("a", 1, "--link", "udp://10.0.0.2", net=",mode=guest,doorbell=inline")
        self.guest("b", 2, "--link", "udp://10.0.0.1", net=",mode=guest,doorbell=inline")
        self.wait_reaches(1, 2)
        self.both_ways(1, 2)
        self.hashed(1, 2)
        for number in 1, 2:
            self.assertGreater(self.words(number, "stats")["sidecar_borrows"], 0)


TOPOLOGIES, COMMON = page_blocks()

if __name__ == "__main__":
    tap.main(__name__)
