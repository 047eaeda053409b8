#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The unikernels that use the network, over UDP on loopback, with each other and with a peer in Python."""
import itertools
import json
import os
import socket
import struct

import tap
from weft import LIMIT, QUIET, STATUS_OK, VmTest, guest, needs_kvm

VNI = 1
MAC_A, MAC_B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
GENEVE_CONTROL = 0x80  # the O bit
GENEVE = struct.pack("!BBHI", 0, 0, 0x6558, VNI << 8)  # RFC 8926, 3.4: no options


# An address of this process's own, so that no other test has its ports; below those that the kernel hands out.
HOST = f"127.{64 + (os.getpid() >> 16) % 64}.{(os.getpid() >> 8) % 256}.{os.getpid() % 256}"
PORTS = itertools.count(6081)


def mac_bytes(text):
    return bytes.fromhex(text.replace(":", ""))


@needs_kvm
class Netbench(VmTest):
    net = ""  # more of --net

    def pair(self, cmdline):
        """A server and a client; the client's line of JSON."""
        mode = "mode=irq" if "mode=irq" in cmdline else "mode=poll"
        ports = next(PORTS), next(PORTS)
        server = self.netbench(ports, MAC_A, f"role=server sessions=1 {mode}")
        server.wait_output("server ready")
        client = self.netbench(ports[::-1], MAC_B, f"role=client {cmdline}")
        self.assertEqual(client.wait(), STATUS_OK, client.output() + client.errors())
        self.assertEqual(server.wait(), STATUS_OK, server.output() + server.errors())
        lines = [line for line in client.output().splitlines() if line.startswith("{")]
        return json.loads(lines[-1])

    def netbench(self, ports, mac, cmdline):
        return self.weft("--kernel", guest("netbench"), "--memory", "64M", "--net", f"mac={mac}{self.net}",
                         "--listen", f"udp://{HOST}:{ports[0]}", "--link", f"udp://{HOST}:{ports[1]}",
                         "--cmdline", cmdline)

    def test_pingpong(self):
        for mode in ("poll", "irq"):
            with self.subTest(mode):
                result = self.pair(f"test=pingpong mode={mode} count=200")
                self.assertTrue(result)

    def test_stream(self):
        for size in (64, 1514):
            with self.subTest(f"{size} bytes"):
                result = self.pair(f"test=stream count=20000 size={size}")
                self.assertTrue(result)

    def test_at_a_rate(self):
        for mode in ("poll", "irq"):
            with self.subTest(mode):
                self.assertEqual(self.pair(f"test=stream mode={mode} count=200 rate=2000")["sent"], 200)
                result = self.pair(f"test=load mode={mode} rate=500")
                self.assertLessEqual(result["sent"], 500)
                self.assertEqual(result["frames"] + result["lost"], result["sent"])


@needs_kvm
class NetbenchInline(Netbench):
    net = ",mode=guest,doorbell=inline"


class EchoTest(VmTest):
    """virtio-echo, with a Geneve peer of our own."""
    net = ""

    def setUp(self):
        super().setUp()
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.peer.close)
        self.peer.bind((HOST, next(PORTS)))
        self.peer.settimeout(LIMIT)

    def echo(self, cmdline):
        self.address = HOST, next(PORTS)
        vm = self.weft("--kernel", guest("virtio-echo"), "--memory", "128M", "--net", f"mac={MAC_A}{self.net}",
                       "--listen", f"udp://{HOST}:{self.address[1]}",
                       "--link", f"udp://{HOST}:{self.peer.getsockname()[1]}", "--ctl", "ctl", "--cmdline", cmdline)
        vm.wait_output("ready")
        return vm

    def frame(self, payload, destination=MAC_A):
        return mac_bytes(destination) + mac_bytes(MAC_B) + b"\x88\xb5" + payload

    def ask(self, payload):
        """The answer to a frame."""
        self.peer.sendto(GENEVE + self.frame(payload), self.address)
        answer = self.peer.recv(65536)
        while answer[1] & GENEVE_CONTROL:  # a hello, to a peer that might be weft
            answer = self.peer.recv(65536)
        self.assertEqual(answer[8 + 14:], payload)
        return answer


@needs_kvm
class Echo(EchoTest):
    def test_frames_come_back(self):
        for mode in ("poll", "irq"):
            with self.subTest(mode):
                vm = self.echo(f"mode={mode}")
                for size in (46, 60, 1000, 1500):
                    answer = self.ask(os.urandom(size))
                    self.assertEqual(answer[:8], GENEVE, "plain Geneve")
                    self.assertEqual(answer[8:22], mac_bytes(MAC_B) + mac_bytes(MAC_A) + b"\x88\xb5")
                vm.process.kill()
                vm.wait()

    def test_ends_after_so_many(self):
        vm = self.echo("count=5")
        for _ in range(5):
            self.assertTrue(vm.running())
            self.ask(os.urandom(50))
        self.assertEqual(vm.wait(), STATUS_OK)

    def test_datagrams_that_are_no_frames(self):
        """What is malformed, of another overlay or from a stranger is dropped and counted."""
        vm = self.echo("mode=irq")
        good = GENEVE + self.frame(b"x" * 50)
        bad = [b"", good[:7], good[:8], good[:21], b"\x40" + good[1:], b"\x3f" + good[1:],
               good[:2] + b"\x08\x00" + good[4:], good[:4] + b"\0\0\x02\0" + good[8:], b"\xff" * 2000, bytes(100)]
        for _ in range(20):
            for datagram in bad:
                self.peer.sendto(datagram, self.address)
            self.ask(b"still here" * 5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.settimeout(QUIET)
            stranger.sendto(good, self.address)
            with self.assertRaises(TimeoutError):
                stranger.recv(100)
        with self.control() as control:
            ports = control.request("stats")["result"]["ports"]
        dropped = sum(count for port in ports for count in port["drops"].values())
        self.assertGreater(dropped, 0)
        self.assertTrue(vm.running())


if __name__ == "__main__":
    tap.main(__name__)
