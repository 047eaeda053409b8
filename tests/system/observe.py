#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What shows what goes on: captures that tshark reads, metrics, weft-top in a file and in a terminal."""
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import unittest

import tap
from topology import PATIENCE, WEFT_CTL, Topology
from weft import ROOT, Vm, wait_for

WEFT_TOP = f"{ROOT}/build/weft-top"
VNETD = f"{ROOT}/build/vnetd"
SAMPLE = re.compile(r'^[a-z_]+(\{[a-z_]+="[^"\\\n]*"(,[a-z_]+="[^"\\\n]*")*\})? [0-9.e+-]+$')
INBOUND, OUTBOUND = "0x00000001", "0x00000002"


def tshark(path, *options):
    return subprocess.run(["tshark", "-n", "-r", path, *options], capture_output=True, text=True,
                          check=True).stdout.splitlines()


class Terminal:
    """A program on a terminal of its own; .shown is what it has written."""

    def __init__(self, command, directory):
        self.master, self.slave = pty.openpty()
        self.resize(24, 100)
        self.before = termios.tcgetattr(self.slave)
        self.shown = b""
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=self.slave, cwd=directory,
                                        env={**os.environ, "TERM": "xterm"}, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def resize(self, lines, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self):
        if select.select([self.master], [], [], 0.05)[0]:
            self.shown += os.read(self.master, 65536)

    def wait_shown(self, text):
        """Wait until it has written this, and forget what was before."""
        def seen():
            self.read()
            return text in self.shown
        wait_for(seen)
        self.shown = b""

    def wait_end(self):
        def ended():
            self.read()
            return self.process.poll() is not None
        wait_for(ended)
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


class Traffic(Topology):
    """Two guests with traffic between them; they are started once, for they take longest."""

    def test_traffic(self):
        self.build({"10.0.0": (["a", "b"], 1500)})
        self.guest("a", 1, "--link", "udp://10.0.0.2", wait=False)
        self.guest("b", 2, "--link", "udp://10.0.0.1")
        self.wait_guest(1)
        self.wait_reaches(1, 2)
        wait_for(lambda: self.link_state(1) == ["up"])
        self.serve(2)
        client = subprocess.Popen(
            self.underlay.command("a", WEFT_CTL, "g1", "exec", "--", "iperf3", "--client", "192.168.7.2", "--time", "3600",
                                  "--bandwidth", "20M"),
            cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        for part in (self.capture, self.capture_of_all, self.capture_refused, self.metrics, self.top_batch,
                     self.top_terminal):
            with self.subTest(part.__name__):
                part()

    def recorded(self, *words, counter="frames", count=100):
        """Capture until a counter is as high; the file and what capture stop said."""
        path = self.path("frames.pcapng")
        self.ctl(1, "capture", "start", path, *words)
        try:
            wait_for(lambda: self.words(1, "capture", "status")[counter] >= count)
        finally:
            said = self.words(1, "capture", "stop")
        self.assertIsNone(said["error"])
        self.assertEqual(said["bytes"], os.path.getsize(path))
        return path, said

    def dissected(self, path, frames):
        """Every packet's fields; none is malformed."""
        self.assertEqual(tshark(path, "-Y", "_ws.malformed"), [])
        packets = [line.split("\t") for line in tshark(
            path, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "eth.src",
            "-e", "eth.dst")]
        self.assertEqual(len(packets), frames)
        return packets

    def need_tshark(self):
        if not shutil.which("tshark"):
            self.skipTest("tshark is not installed")

    def capture(self):
        self.need_tshark()
        path, said = self.recorded("port", "nic0")
        packets = self.dissected(path, said["frames"])
        self.assertEqual({name for name, *_ in packets}, {"nic0"})
        self.assertIn([INBOUND, "02:00:00:00:00:01", "02:00:00:00:00:02"], [rest for _, *rest in packets])
        self.assertIn([OUTBOUND, "02:00:00:00:00:02", "02:00:00:00:00:01"], [rest for _, *rest in packets])

    def capture_of_all(self):
        self.need_tshark()
        path, said = self.recorded("limit", "1000000", counter="dropped", count=1)
        self.assertLessEqual(said["bytes"], 1000000)
        packets = self.dissected(path, said["frames"])
        self.assertEqual({name for name, *_ in packets}, {"nic0", "udp://10.0.0.2"})

    def refused(self, pattern, *words):
        shown = self.ctl(1, *words, check=False)
        self.assertEqual(shown.returncode, 1)
        self.assertRegex(shown.stderr, pattern)

    def capture_refused(self):
        path = self.path("never")
        self.refused("no capture", "capture", "stop")
        self.refused("no port 'nic7'", "capture", "start", path, "port", "nic7")
        self.refused("no ordinary file", "capture", "start", "/dev/full")
        self.refused("limit '10'", "capture", "start", path, "limit", "10")
        self.ctl(1, "capture", "start", path)
        self.refused("a capture already", "capture", "start", self.path("second"))
        self.ctl(1, "capture", "stop")

    def metrics(self):
        text = self.ctl(1, "metrics").stdout
        samples = [line for line in text.splitlines() if not line.startswith("# ")]
        for line in samples:
            self.assertRegex(line, SAMPLE)
        values = dict(line.rsplit(" ", 1) for line in samples)
        self.assertEqual(len(values), len(samples), "a series twice")
        self.assertGreater(int(values['weft_port_frames_total{port="nic0",type="nic",direction="in"}']), 0)
        self.assertEqual(values['weft_link_up{port="udp://10.0.0.2",type="udp"}'], "1")
        if shutil.which("promtool"):
            subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True)

    def rates(self):
        """Frames a second, in and out, of each port, by two screens of weft-top."""
        shown = subprocess.run([WEFT_TOP, "--batch", "2", "--interval", "0.5", "--pairs", "g1", "g2"], capture_output=True,
                               text=True, cwd=self.dir, check=True, timeout=PATIENCE).stdout
        self.assertEqual(shown.count("PORT"), 4, shown)
        self.assertNotIn("away", shown)
        self.assertIn("flow cache", shown)
        ports = [line.split() for line in shown.splitlines() if re.match(r"nic0|udp:", line)]
        self.assertEqual(len(ports), 8, shown)
        self.assertEqual({port[1] for port in ports if port[0] == "udp://10.0.0.2"}, {"up"})
        return shown, [port[column] for port in ports for column in (3, 5)]

    def top_batch(self):
        wait_for(lambda: "0" not in self.rates()[1])  # on a busy machine nothing may move for half a second
        wait_for(lambda: "02:00:00:00:00:01 > 02:00:00:00:00:02" in self.rates()[0])

    def top_terminal(self):
        terminal = Terminal([WEFT_TOP, "--interval", "0.2", "g1", "g2"], self.dir)
        self.addCleanup(terminal.close)
        terminal.wait_shown(b"nic0")
        os.write(terminal.master, b"p")
        terminal.resize(30, 120)
        terminal.wait_shown(b"q quit")  # drawn anew
        os.write(terminal.master, b"q")
        self.assertEqual(terminal.wait_end(), 0)
        self.assertEqual(termios.tcgetattr(terminal.slave), terminal.before, "the terminal was left as it was not")


class Away(unittest.TestCase):
    """What weft-top does without an answer; vnetd stands for any VM."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="top.")
        self.addCleanup(directory.cleanup)
        self.dir = directory.name
        self.out = f"{self.dir}/top"

    def vnetd(self):
        vnetd = subprocess.Popen([VNETD, "--listen", "udp://127.0.0.1:0", "--link", "udp://127.0.0.1:9", "--ctl", "v"],
                                 cwd=self.dir, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(vnetd.wait)
        self.addCleanup(vnetd.kill)
        wait_for(lambda: os.path.exists(f"{self.dir}/v"))
        return vnetd

    def top(self, *arguments):
        return subprocess.run([WEFT_TOP, *arguments], capture_output=True, text=True, cwd=self.dir, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, check=False)

    def test_nobody_there(self):
        shown = self.top("--batch", "1", "--interval", "0.1", "none")
        self.assertEqual((shown.returncode, shown.stdout), (1, "none: away: No such file or directory\n\n"))

    def test_one_of_two(self):
        self.vnetd()
        shown = self.top("--batch", "1", "--interval", "0.1", "none", "v")
        self.assertEqual(shown.returncode, 0, shown)
        self.assertRegex(shown.stdout, r"none: away.*\n\nv\nPORT.*\nudp://127.0.0.1:9 +\w+ ")

    def test_goes_away_and_comes_back(self):
        vnetd = self.vnetd()
        with open(self.out, "wb") as out:
            top = subprocess.Popen([WEFT_TOP, "--batch", "100000", "--interval", "0.1", "v"], stdout=out, cwd=self.dir)
        self.addCleanup(top.wait)
        self.addCleanup(top.kill)
        wait_for(lambda: "PORT" in Vm.read(self.out))
        vnetd.kill()
        vnetd.wait()
        wait_for(lambda: "v: away: " in Vm.read(self.out))
        os.unlink(f"{self.dir}/v")
        self.vnetd()
        wait_for(lambda: "PORT" in Vm.read(self.out).rsplit("away", 1)[1])

    def test_stopped(self):
        """A program that takes no breath does not hold up the others for long."""
        vnetd = self.vnetd()
        vnetd.send_signal(signal.SIGSTOP)
        shown = self.top("--batch", "1", "--interval", "0.1", "v")
        vnetd.send_signal(signal.SIGCONT)
        self.assertEqual((shown.returncode, shown.stdout), (1, "v: away: no answer in time\n\n"))

    def test_usage(self):
        for arguments, word in (((), "no SOCKET"), (("--batch", "0", "v"), "--batch"), (("--interval", "0", "v"), "--interval"),
                                (("v",), "no terminal"), (("--nonsense",), "nonsense")):
            with self.subTest(" ".join(arguments)):
                shown = self.top(*arguments)
                self.assertEqual(shown.returncode, 2)
                self.assertIn(word, shown.stderr)


if __name__ == "__main__":
    tap.main(__name__)
