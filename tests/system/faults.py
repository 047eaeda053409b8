#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong on a network: peers that die and return, bad lines, paths whose MTU shrinks, cables pulled, receivers that stand still."""
import json
import os
import subprocess
import threading
import time

import tap
from netns import Underlay
from topology import MIB, PATIENCE, ROOT, Topology
from weft import Vm, wait_for

MESH = {"10.0.0": (["a", "b", "c"], 1500)}
BAD_LINES = {  # options of impair.py: bytes to send
    "--loss 0.01": 2 * MIB,
    "--loss 0.1": MIB // 8,  # TCP (CUBIC) waits for timeouts most of the time: 1 Mb/s at best, with or without TSO
    "--reorder 0.05": 2 * MIB,
    "--duplicate 0.05": 2 * MIB,
    "--delay 10": 2 * MIB,
    "--loss 0.01 --reorder 0.02 --duplicate 0.02 --delay 2": 2 * MIB,
}
LINE_SECONDS = 6  # a sender takes a second or two to see that frames are lost in part
PAIR = {"10.0.0": (["a", "b"], 1500)}


class Background(threading.Thread):
    """iperf3 from one guest to another while something happens; .intervals are bits/s of each half second."""

    def __init__(self, test, client, server, seconds):
        super().__init__(daemon=True)
        test.serve(server)
        self.test, self.seconds, self.report = test, seconds, None
        self.command = ("exec", "--", "iperf3", "--json", "--client", f"192.168.7.{server}", "--time", str(seconds),
                        "--interval", "0.5")
        self.client = client
        self.start()

    def run(self):
        self.report = self.test.ctl(self.client, *self.command, check=False, seconds=PATIENCE + self.seconds).stdout

    def intervals(self):
        self.join(PATIENCE + self.seconds)
        return [interval["sum"]["bits_per_second"] for interval in json.loads(self.report)["intervals"]]


class Peers(Topology):
    def mesh(self, host, number):
        links = [f"--link=udp://10.0.0.{other}" for other in (1, 2, 3) if other != number]
        return self.guest(host, number, *links)

    def test_killed_and_back(self):
        """A peer dies in mid-transfer and comes back; the other pair does not notice."""
        self.build(MESH)
        self.mesh("a", 1)
        second = self.mesh("b", 2)
        self.mesh("c", 3)
        for other in (2, 3):
            self.wait_reaches(1, other)
        undisturbed = Background(self, 1, 3, 10)
        Background(self, 1, 2, 20)
        time.sleep(2)
        second.process.kill()
        second.wait()
        wait_for(lambda: self.link_state(1, "udp://10.0.0.2") == ["down"])
        self.mesh("b", 2)
        start = time.monotonic()
        wait_for(lambda: self.reaches(2, 1))
        print(f"# traffic {time.monotonic() - start:.2f} s after the guest's return")
        self.assertEqual(self.link_state(1, "udp://10.0.0.2"), ["up"])
        rates = undisturbed.intervals()
        print(f"# the other pair: {min(rates) / 1e6:.0f} to {max(rates) / 1e6:.0f} Mb/s")
        self.assertGreater(min(rates), 0, rates)
        self.hashed(1, 2)

    def test_cable_pulled(self):
        """The interface goes down and comes up again: so does the link."""
        self.build(PAIR)
        self.guest("a", 1, "--link", "udp://10.0.0.2")
        self.guest("b", 2, "--link", "udp://10.0.0.1")
        self.wait_reaches(1, 2)
        for _ in range(2):
            self.underlay.run("a", "ip", "link", "set", "eth0", "down")
            wait_for(lambda: self.link_state(2) == ["down"])
            self.underlay.run("a", "ip", "link", "set", "eth0", "up")
            wait_for(lambda: self.link_state(1) + self.link_state(2) == ["up", "up"])
            self.wait_reaches(1, 2)

    def test_receiver_stands_still(self):
        """A paused guest's ring is full for a while: the sender drops nothing but what is for it, and all goes on after."""
        self.build(PAIR)
        self.guest("a", 1, "--link", "udp://10.0.0.2")
        self.guest("b", 2, "--link", "udp://10.0.0.1")
        self.wait_reaches(1, 2)
        self.serve(2)
        before = self.memory(2)
        self.ctl(2, "pause")
        self.in_guest(1, "sh", "-c", "timeout 5 ping -f -q -s 1400 192.168.7.2 >/dev/null || true")
        wait_for(lambda: self.port(2, "nic0")["drops"].get("ring_full", 0) > 0 or
                 self.ctl(1, "exec", "--", "sh", "-c", "ping -q -c 300 -i 0.01 -W 1 192.168.7.2 >/dev/null || true",
                          check=False) is None)
        self.assertLess(self.memory(2) - before, 16 << 10, "KiB more")
        self.ctl(2, "resume")
        self.wait_reaches(1, 2)
        self.hashed(1, 2)

    def memory(self, number):
        """Resident KiB of a guest's process, its RAM left out."""
        pid = self.words(number, "status")["pid"]
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            fields = dict(line.split(":") for line in status)
        return int(fields["RssAnon"].split()[0])

    def test_shared_memory_peer_killed(self):
        """The peer on the same host dies at any moment, either end, and returns."""
        self.build({"10.0.0": (["a"], 1500)})
        ends = {1: ("--listen", "shm://pair"), 2: ("--link", "shm://pair")}
        vms = {1: self.guest("a", 1, *ends[1]), 2: self.guest("a", 2, *ends[2])}
        for victim, other in ((2, 1), (1, 2), (2, 1)):
            with self.subTest(f"{victim}"):
                self.wait_reaches(1, 2)
                Background(self, other, victim, 20)
                time.sleep(1)
                vms[victim].process.kill()
                vms[victim].wait()
                vms[victim] = self.guest("a", victim, *ends[victim])
                self.wait_reaches(victim, other)
                self.hashed(other, victim)


class Lines(Topology):
    """Through a bad line in the middle: the data that arrives is right."""

    def bad_line(self, options):
        line = subprocess.Popen(
            self.underlay.command("c", "python3", f"{ROOT}/tests/system/impair.py",
                                  "--left", "10.0.0.3:7001=10.0.0.1:6081", "--right", "10.0.0.3:7002=10.0.0.2:6081",
                                  *options.split()), stdout=subprocess.PIPE, text=True)
        self.addCleanup(line.wait)
        self.addCleanup(line.stdout.close)
        self.addCleanup(line.kill)
        self.assertEqual(line.stdout.readline(), "ready\n")

    def pair(self, *options, line):
        self.build(MESH)
        self.bad_line(line)
        self.guest("a", 1, "--link", "udp://10.0.0.3:7001", *options)
        self.guest("b", 2, "--link", "udp://10.0.0.3:7002", *options)
        self.wait_reaches(1, 2)

    def test_bad_lines(self):
        for line, size in BAD_LINES.items():
            with self.subTest(line):
                self.pair(line=line)
                self.stream(1, 2, seconds=LINE_SECONDS)
                self.hashed(1, 2, size)
                self.hashed(2, 1, size)
            self.doCleanups_between()

    def test_bad_line_with_key(self):
        with open(self.path("key"), "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(os.urandom(32).hex())
        self.pair("--key-file", "key", line="--loss 0.01 --reorder 0.02 --duplicate 0.05")
        self.stream(1, 2)
        self.hashed(1, 2, 2 * MIB)
        drops = self.port(2, "udp://")["drops"]
        self.assertGreater(drops.get("replay", 0), 0, "duplicates are replays")

    def doCleanups_between(self):
        """The next line starts on clean ground."""
        for vm in self.vms:
            vm.end()
        self.vms.clear()
        self.doCleanups()
        self.setUp()


class Paths(Topology):
    def pair(self, *options):
        self.build(PAIR)
        self.guest("a", 1, "--link", "udp://10.0.0.2", *options)
        self.guest("b", 2, "--link", "udp://10.0.0.1", *options)
        self.wait_reaches(1, 2)

    def test_mtu_lowered_here(self):
        """The own interface's MTU shrinks during a transfer, and grows again."""
        self.pair()
        running = Background(self, 1, 2, 8)
        time.sleep(2)
        self.underlay.set_mtu("a", 1300)
        rates = running.intervals()
        self.assertGreater(rates[-1] + rates[-2], 0, rates)
        self.hashed(1, 2)
        self.hashed(2, 1)

    def test_mtu_lowered_on_the_way(self):
        """A switch on the way drops what is too long and says nothing."""
        self.pair()
        self.stream(1, 2)
        for device in ("to-a", "to-b", "br0"):
            self.underlay.run("switch0", "ip", "link", "set", device, "mtu", "1300")
        for sender, receiver in ((1, 2), (2, 1)):
            wait_for(lambda s=sender, r=receiver: not self.ctl(
                s, "exec", "--", "ping", "-c", "1", "-W", "1", "-s", "1400", f"192.168.7.{r}", check=False).returncode)
        self.hashed(1, 2)
        self.hashed(2, 1)


class Crowd(Topology):
    PEERS = 50

    def test_fifty_peers(self):
        """One VMM with fifty peers, each a host on the overlay by its vnetd: all are reached and reach it."""
        peers = [f"p{i}" for i in range(self.PEERS)]
        self.build({"10.0.0": (["a", *peers], 1500)})
        self.guest("a", 1, *[f"--link=udp://10.0.0.{Underlay.number(peer)}" for peer in peers])
        for peer in peers:
            self.vms.append(Vm(self.dir, ["--tap", "weft0", "--link", "udp://10.0.0.1"], verb=(),
                               prefix=self.underlay.command(peer), program=f"{ROOT}/build/vnetd"))
        for peer in peers:
            self.address(peer)
        wait_for(lambda: self.link_state(1) == ["up"] * self.PEERS)
        self.in_guest(1, "sh", "-c", "".join(f"ping -q -c 1 -W 30 192.168.7.{Underlay.number(peer)} && " for peer in peers)
                      + "true", seconds=4 * PATIENCE)
        for peer in peers:
            self.underlay.run(peer, "ping", "-q", "-c", "1", "-W", "30", "192.168.7.1")

    def address(self, peer):
        """Give the peer's tap device an address, once its vnetd has made it."""
        wait_for(lambda: not self.underlay.run(peer, "ip", "link", "show", "weft0", check=False).returncode)
        self.underlay.run(peer, "ip", "addr", "add", f"192.168.7.{Underlay.number(peer)}/24", "dev", "weft0")
        self.underlay.run(peer, "ip", "link", "set", "weft0", "mtu", "1450", "up")


if __name__ == "__main__":
    tap.main(__name__)
