#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The overlay's words, spoken by weft-ctl to vnetd and to a sandboxed VM; and vnetd itself.

From the environment: VNETD, the program under test (default build/vnetd)."""
import array
import json
import os

import signal
import socket
import subprocess
import sys
import unittest

import tap
from weft import (LIMIT, STATUS_ENVIRONMENT, STATUS_KILLED, STATUS_OK, STATUS_USAGE, WEFT, WEFT_CTL, Control, VmTest,
                  guest, needs_kvm, wait_for)

VNETD = os.environ.get("VNETD", f"{os.path.dirname(WEFT)}/vnetd")
MAC_A, MAC_B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
WORDS = ("link add", "link del", "link list", "route add", "route del", "route list", "route replace", "mac list",
         "matrix", "stats", "trace", "help")
PEER = "udp://127.0.0.2:19"  # nobody


class OverlayTest(VmTest):
    """A test that talks to a program by weft-ctl."""

    socket = "ctl"

    def ctl(self, *words, status=STATUS_OK, **popen):
        """The output of weft-ctl; of a refusal the one line of stderr."""
        popen.setdefault("cwd", self.dir)
        run = subprocess.run([WEFT_CTL, self.path(self.socket), *words], capture_output=True, text=True, check=False,
                             timeout=LIMIT, **popen)
        self.assertEqual(run.returncode, status, f"{words}: {run.stdout} {run.stderr}")
        if status == STATUS_OK:
            self.assertEqual(run.stderr, "")
            return run.stdout
        self.assertEqual(run.stderr.count("\n"), 1, run.stderr)
        return run.stderr

    def ask(self, *words):
        return json.loads(self.ctl(*words, "--json"))

    def names(self):
        return [link["name"] for link in self.ask("link", "list")]

    def vnetd(self, *arguments, prefix=(), **popen):
        """Start vnetd; ends with the test."""
        log = open(self.path(f"vnetd.{len(self.vms)}"), "wb")  # pylint: disable=consider-using-with
        self.addCleanup(log.close)
        process = subprocess.Popen([*prefix, VNETD, *arguments], cwd=self.dir, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, **popen)
        process.log = log.name
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def ready(self, process, path="ctl"):
        """Wait until it answers on its control socket. That of a process just killed may linger there."""
        def answers():
            if process.poll() is not None:
                with open(process.log, encoding="utf-8") as log:
                    raise AssertionError(f"vnetd ended with {process.returncode}: {log.read()}")
            try:
                with Control(self.path(path)) as control:
                    answer = control.request("status")
            except OSError:
                return False
            return answer and answer["result"]["pid"] == process.pid
        wait_for(answers)
        return process


class Words:
    """What holds for weft and for vnetd alike; self.setUp() starts one with a UDP listener."""

    def test_help_tells_of_every_word(self):
        words = {entry["word"] for entry in self.ask("help")}
        self.assertLessEqual(set(WORDS), words)
        usage = subprocess.run([WEFT_CTL, "--help"], capture_output=True, text=True, check=True).stdout
        for word in words:
            self.assertRegex(usage, rf"(?m)^  {word.split()[0]}\b", f"weft-ctl does not know '{word}'")

    def test_links(self):
        before = self.names()
        self.assertEqual(self.ask("link", "add", "udp://127.0.0.1:9"), {"name": "udp://127.0.0.1:9"})
        self.assertEqual(self.ask("link", "add", "udp://127.0.0.1:10,name=ten"), {"name": "ten"})
        self.assertEqual(self.names(), [*before, "udp://127.0.0.1:9", "ten"])
        self.assertRegex(self.ctl("link", "list"), r"(?m)^name +type +.*state")
        self.assertIn("link list shows all", self.ctl("link", "del", "nobody", status=STATUS_ENVIRONMENT))
        for name in ("udp://127.0.0.1:9", "ten"):
            self.assertEqual(self.ctl("link", "del", name), "")
        self.assertEqual(self.names(), before)

    def test_routes(self):
        self.ctl("route", "add", "priority", "5", "dst", MAC_A, "to", "nics")
        self.ctl("route", "add", "to", "links")
        self.assertEqual([(route["priority"], route["dst"], route["to"]) for route in self.ask("route", "list")],
                         [(5, MAC_A, "nics"), (0, "any", "links")])
        self.assertRegex(self.ctl("route", "list"), rf"(?m)^ *5 +any +any +{MAC_A} +nics +true +0 +0$")
        self.assertEqual(self.ask("route", "replace", "{", "to", "all", ";", "src", "not", MAC_B, "to", "drop", "}"),
                         {"routes": 2})
        self.ctl("route", "del", "to", "all")
        self.assertEqual([route["src"] for route in self.ask("route", "list")], [f"not {MAC_B}"])
        self.assertEqual(self.ask("route", "replace", "{ }".split()[0], "}"), {"routes": 0})

    def test_routes_from_a_file(self):
        """The file is weft-ctl's to open: seen from its directory, with its rights."""
        os.mkdir(self.path("elsewhere"))
        self.file("elsewhere/my routes", "".join(f"dst 52:54:00:00:{i // 256:02x}:{i % 256:02x} to links\n"
                                                 for i in range(10000)).encode())
        self.assertEqual(json.loads(self.ctl("route", "replace", "my routes", "--json", cwd=self.path("elsewhere"))),
                         {"routes": 10000})
        self.assertEqual(len(self.ask("route", "list")), 10000)
        self.file("bad", b"to all\n\ndst nowhere to all\n")
        self.assertIn("bad:3: route replace: 'nowhere' is no pattern",
                      self.ctl("route", "replace", "bad", status=STATUS_ENVIRONMENT))
        self.assertIn("cannot open 'missing'", self.ctl("route", "replace", "missing", status=STATUS_ENVIRONMENT))
        self.assertIn("cannot read '.'", self.ctl("route", "replace", ".", status=STATUS_ENVIRONMENT))
        self.assertEqual(len(self.ask("route", "list")), 10000, "a mistake changes nothing")

    def test_mistakes_change_nothing(self):
        self.ctl("route", "replace", "{", "to", "links", "}")
        before = self.ask("link", "list")[:0], self.names(), self.ask("route", "list")
        for words in (("link",), ("link", "add"), ("link", "add", "x"), ("link", "add", "tcp://x"),
                      ("link", "add", "udp://127.0.0.1:99999"), ("link", "add", "udp://127.0.0.1:9", "y"),
                      ("link", "del"), ("link", "list", "x"), ("route",), ("route", "add"), ("route", "add", "to", "any"),
                      ("route", "add", "dst", "x", "to", "all"), ("route", "add", "to", "all", "to", "all"),
                      ("route", "add", "to", "links"), ("route", "del", "to", "nics"), ("route", "replace", "{"),
                      ("route", "replace", "{", "to", "all", ";", "to", "}"), ("mac",), ("mac", "x"), ("matrix", "x"),
                      ("trace",), ("trace", "nobody", "dst", MAC_A), ("trace", "x", "00"), ("help", "x"),
                      ("route", "add", "to", "a\tb\n"), ("route", "add", "to", "\x1b[2J")):
            with self.subTest(" ".join(words)):
                self.assertTrue(self.ctl(*words, status=STATUS_ENVIRONMENT))
                self.assertEqual(([], self.names(), self.ask("route", "list")), before)

    def test_counters(self):
        stats = self.ask("stats")
        self.assertIn("cache_hits", stats["core"])
        self.assertEqual([endpoint["type"] for endpoint in stats["endpoints"]], ["udp"])
        self.assertEqual(self.ask("mac", "list"), [])
        self.assertEqual(self.ask("matrix"), [])

    def test_strangers_are_counted(self):
        def dropped():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(bytes(100), ("127.0.0.1", self.port))
            drops = self.ask("stats")["endpoints"][0]["drops"]
            return sum(drops.values())
        wait_for(dropped)

    def test_requests_by_hand(self):
        with self.control() as control:
            for members in ({}, {"line": None}, {"line": 1}, {"line": ["help"]}, {"line": ""}, {"line": "x" * 60000},
                            {"line": "help\0"}, {"line": "help\n"}, {"line": "help", "x": 1}, {"lines": "help"},
                            {"line": ";" * 60000}, {"line": "route replace { " + "to all ; " * 6000}):
                answer = control.request("overlay", **members)
                self.assertFalse(answer["ok"])
                self.assertTrue(answer["error"])
            self.assertTrue(control.request("overlay", line="help")["ok"])

    def test_descriptors_that_come_along(self):
        """One is kept until its request is answered, the others are closed; none stays."""
        with open("/dev/null", "rb") as null, self.control() as control:
            self.assertTrue(control.request("overlay", line="mac list")["ok"])
            before = self.descriptors()
            many = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 10))]
            for data in (b'{"command":"overlay",', b'"line":"help"', b"}\n"):
                control.socket.sendmsg([data], many)
            self.assertTrue(json.loads(control.line())["ok"])
            control.socket.sendmsg([b'{"command":"overlay","line":"route replace x"}\n' * 3], many)
            for _ in range(3):
                control.line()
            self.assertEqual(self.descriptors(), before)
            control.socket.sendmsg([b"{"], many)
        wait_for(lambda: len(self.descriptors()) < len(before))

    def descriptors(self):
        return sorted(os.listdir(f"/proc/{self.pid}/fd"))


def port_free():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class WordsOfVnetd(Words, OverlayTest):
    def setUp(self):
        super().setUp()
        self.port = port_free()
        self.pid = self.ready(self.vnetd("--ctl", "ctl", "--listen", f"udp://127.0.0.1:{self.port}",
                                         "--link", PEER)).pid


@needs_kvm
class WordsOfWeft(Words, OverlayTest):
    """The same in the sandbox, and with a NIC."""

    def setUp(self):
        super().setUp()
        self.port = port_free()
        self.vm = self.weft("--kernel", guest("virtio-echo"), "--memory", "16M", "--net", f"mac={MAC_A},mtu=1500",
                            "--ctl", "ctl", "--console", "off", "--listen", f"udp://127.0.0.1:{self.port}",
                            "--link", PEER)
        self.pid = self.vm.pid
        self.control().close()

    def tearDown(self):
        self.assertTrue(self.vm.running(), self.vm.errors())
        self.ctl("stop", "--force")
        self.assertEqual(self.vm.wait(), STATUS_KILLED, self.vm.errors())

    def test_the_way_of_a_frame(self):
        self.ctl("route", "add", "dst", MAC_A, "to", PEER)
        for words in ((f"dst {MAC_A}"), (f"dst {MAC_A} src {MAC_B}"), (MAC_A + MAC_B).replace(":", "") + "0800"):
            lines = self.ctl("trace", "nic0", *words.split())
            self.assertIn(PEER, lines)
            self.assertGreater(lines.count("\n"), 1)

    def test_an_interface_stays(self):
        self.assertIn("no link but an interface", self.ctl("link", "del", "nic0", status=STATUS_ENVIRONMENT))

    def test_links_that_the_sandbox_refuses(self):
        """It says so, or the link is down; the VM lives."""
        for url in ("shm://nobody", "passt://nobody", "tap://nobody", "eth://lo/02:00:00:00:00:01",
                    "udp://no.such.host.invalid:1", "udp://localhost:77"):
            with self.subTest(url):
                run = subprocess.run([WEFT_CTL, self.path("ctl"), "link", "add", url], capture_output=True, text=True,
                                     check=False, timeout=LIMIT)
                self.assertIn(run.returncode, (STATUS_OK, STATUS_ENVIRONMENT))
                self.assertEqual(self.ask("status")["state"], "running")

    def test_statistics_have_the_ports(self):
        self.assertEqual({port["name"] for port in self.ask("stats")["ports"]}, {"nic0", PEER})


class Start(OverlayTest):
    """What is wrong at the start is said in one line, with status 2 where it makes no sense at all."""

    def refuse(self, arguments, pattern, status=STATUS_USAGE, program=VNETD):
        with self.subTest(" ".join(arguments)[-60:]):
            run = subprocess.run([program, *arguments], cwd=self.dir, capture_output=True, text=True, check=False,
                                 timeout=LIMIT)
            self.assertEqual(run.returncode, status, run.stderr)
            self.assertRegex(run.stderr, rf"\A{os.path.basename(program)}: .*{pattern}[^\n]*\n\Z")
            self.assertEqual(self.sockets(), [])

    def test_usage(self):
        for arguments, pattern in (([], "nothing to join"), (["--frobnicate"], "no such option: see vnetd --help"),
                                   (["x"], "begin with"), (["--link"], "--link needs a value"),
                                   (["--link", "tcp://x"], "--link"), (["--listen", "tap://x"], "--listen"),
                                   (["--vni", "16777216", "--ctl", "c"], "--vni"),
                                   (["--offload", "maybe", "--ctl", "c"], "--offload"),
                                   (["--ctl", "c", "--ctl", "d"], "given twice"),
                                   (["--config", "missing"], "--config: cannot open"),
                                   (["--ctl", "c", "--route", "to"], "--route 'to': route add"),
                                   (["--ctl", "c", "--listen", "udp://127.0.0.1:0", "--link", "udp://127.0.0.1:0x9"], "--link")):
            self.refuse(arguments, pattern)

    def test_environment(self):
        self.refuse(["--ctl", "missing/c"], "--ctl", STATUS_ENVIRONMENT)
        self.refuse(["--ctl", "c", "--overlay", "missing"], "--overlay: cannot read 'missing'", STATUS_ENVIRONMENT)
        self.refuse(["--ctl", "c", "--key-file", "missing"], "--key-file", STATUS_ENVIRONMENT)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            self.refuse(["--listen", f"udp://127.0.0.1:{taken.getsockname()[1]}", "--ctl", "c"], "--listen",
                        STATUS_ENVIRONMENT)

    FILES = ((b"route add to all\nroute add to\n", ":2: route add: write"),
             (b"\n# x\nfrobnicate\n", ":3: there is no word 'frobnicate'"),
             (b"link add udp://127.0.0.1:9\nlink list\n", ":2: link list: it only shows"),
             (b"link add nothing\n", ":1: link add nothing"),
             (b"route add to all\nroute add to all\n", ":2: route add: there is"))

    def test_a_bad_line(self):
        for content, pattern in self.FILES:
            self.file("net", content)
            self.refuse(["--ctl", "c", "--listen", "udp://127.0.0.1:0", "--overlay", "net"], "net" + pattern)

    @needs_kvm
    def test_a_bad_line_for_weft(self):
        for content, pattern in self.FILES:
            self.file("net", content)
            self.refuse(["run", "--kernel", guest("hello"), "--net", "mtu=1500", "--listen", "udp://127.0.0.1:0",
                         "--overlay", "net"], "net" + pattern, program=WEFT)

    def test_a_good_file(self):
        self.file("net", b"# two links\nlink add udp://127.0.0.1:9,name=a\nlink add udp://127.0.0.1:10,name=b\n"
                         b"route add from a to b\nroute add from b to a\n")
        self.ready(self.vnetd("--ctl", "ctl", "--overlay", "net", "--listen", "udp://127.0.0.1:0",
                              "--route", "dst ff:ff:ff:ff:ff:ff to drop"))
        self.assertEqual(self.names(), ["a", "b"])
        self.assertEqual([route["active"] for route in self.ask("route", "list")], [True] * 3)

    def test_texts(self):
        for argument, pattern in (("--help", "Usage: vnetd"), ("--version", "vnetd "), ("--man", r"\.SS Overlay")):
            run = subprocess.run([VNETD, argument], capture_output=True, text=True, check=True)
            self.assertRegex(run.stdout, pattern)
            self.assertEqual(run.stderr, "")


class Vnetd(OverlayTest):
    """Its life, and its company."""

    def test_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number.name):
                process = self.ready(self.vnetd("--ctl", "ctl", "--listen", "udp://127.0.0.1:0"))
                process.send_signal(number)
                self.assertEqual(process.wait(LIMIT), STATUS_OK)
                self.assertEqual(self.sockets(), [])

    def test_stop(self):
        process = self.ready(self.vnetd("--ctl", "ctl"))
        self.assertEqual(self.ask("status")["pid"], process.pid)
        self.ctl("stop")
        self.assertEqual(process.wait(LIMIT), STATUS_OK)

    def test_killed_and_started_again(self):
        for _ in range(3):
            process = self.ready(self.vnetd("--ctl", "ctl", "--listen", "shm://shm"))
            self.assertEqual(sorted(self.sockets()), ["ctl", "shm"])
            process.kill()
            process.wait()
        self.ready(self.vnetd("--ctl", "ctl", "--listen", "shm://shm"))
        self.ctl("stop")

    def test_two_find_each_other(self):
        """Started one after the other, parted and joined again by words."""
        ports = port_free(), port_free()
        self.ready(self.vnetd("--ctl", "ctl", "--listen", f"udp://127.0.0.1:{ports[0]}",
                              "--link", f"udp://127.0.0.1:{ports[1]}"))
        self.ready(self.vnetd("--ctl", "other", "--listen", f"udp://127.0.0.1:{ports[1]}",
                              "--link", f"udp://127.0.0.1:{ports[0]}"), "other")

        def state():
            return [link["state"] for link in self.ask("link", "list")]

        wait_for(lambda: state() == ["up"])
        self.ctl("link", "del", f"udp://127.0.0.1:{ports[1]}")
        self.assertEqual(state(), [])
        self.ctl("link", "add", f"udp://127.0.0.1:{ports[1]}")
        wait_for(lambda: state() == ["up"])


TRANSFER = """
import socket, sys
def receive(peer):
    data = b""
    while len(data) < 300000:
        got = peer.recv(65536)
        assert got, "ended early"
        data += got
    return data
def serve():
    with socket.create_server(("10.9.0.1", 5000)) as server:
        print("ready", flush=True)
        peer, _ = server.accept()
        peer.sendall(receive(peer)[::-1])
        peer.recv(1)
def ask():
    data = bytes(range(256)) * 1171 + bytes(300000 - 256 * 1171)
    with socket.create_connection(("10.9.0.1", 5000), timeout=60) as peer:
        peer.sendall(data)
        assert receive(peer) == data[::-1], "wrong data"
serve() if sys.argv[1] == "serve" else ask()
"""


@unittest.skipUnless(os.geteuid() == 0, "needs root")
@unittest.skipUnless(os.path.exists("/dev/net/tun"), "no /dev/net/tun")
class Hosts(OverlayTest):
    """Two hosts, each a network namespace with a tap, joined by vnetd; the namespaces go with the processes."""

    def host(self, number, *arguments):
        script = (f"ip link set lo up && ip tuntap add t0 mode tap && ip link set t0 mtu 1400 up && "
                  f"ip addr add 10.9.0.{number}/24 dev t0 && exec \"$@\"")
        name = f"ctl{number}"
        try:
            subprocess.run(["unshare", "--net", "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("no network namespaces here")
        process = self.vnetd("--tap", "t0", "--ctl", name, *arguments,
                             prefix=["unshare", "--net", "sh", "-c", script, "sh"])
        return self.ready(process, name)

    def inside(self, process, what):
        """Start one side of a transfer on a host; ends with the test."""
        started = subprocess.Popen(["nsenter", "-t", str(process.pid), "-n", sys.executable, "-c", TRANSFER, what],
                                   stdout=subprocess.PIPE, text=True)
        for end in (started.stdout.close, started.wait, started.kill):
            self.addCleanup(end)
        return started

    def transfer(self, first, second):
        server = self.inside(first, "serve")
        self.assertEqual(server.stdout.readline(), "ready\n")
        self.assertEqual(self.inside(second, "ask").wait(LIMIT), 0)
        self.assertEqual(server.wait(LIMIT), 0)

    def test_data_both_ways(self):
        for offload in ("on", "off"):
            with self.subTest(f"offload {offload}"):
                first = self.host(1, "--listen", "shm://shm", "--offload", offload)
                second = self.host(2, "--link", "shm://shm", "--offload", offload)
                self.transfer(first, second)
                self.socket = "ctl2"
                ports = {port["type"]: port for port in self.ask("stats")["ports"]}
                self.assertEqual(ports["tap"]["kind"], "interface")
                self.assertGreater(ports["tap"]["in_bytes"], 300000)
                self.assertTrue(self.ask("mac", "list"))
                for process in (first, second):
                    process.terminate()
                    self.assertEqual(process.wait(LIMIT), STATUS_OK)

    def test_routes_decide(self):
        """Without learning, which would take over what routes need not decide."""
        first = self.host(1, "--listen", "shm://shm")
        second = self.host(2, "--link", "shm://shm", "--learn", "off", "--route", "from nics to drop")
        client = self.inside(second, "ask")
        self.socket = "ctl2"
        wait_for(lambda: self.ask("route", "list")[0]["frames"] > 2)
        client.kill()
        client.wait()
        self.ctl("route", "replace", "{", "from", "nics", "to", "links", ";", "from", "links", "to", "nics", "}")
        self.transfer(first, second)
        self.assertGreater(min(route["frames"] for route in self.ask("route", "list")), 0)

    def test_a_tap_that_is_not_there(self):
        run = subprocess.run([VNETD, "--tap", "x" * 16], capture_output=True, text=True, check=False, timeout=LIMIT)
        self.assertEqual(run.returncode, STATUS_USAGE, run.stderr)
        self.assertRegex(run.stderr, r"\Avnetd: --tap [^\n]*\n\Z")


if __name__ == "__main__":
    tap.main(__name__)
