#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket, and clients that behave badly."""
import json
import os
import resource
import socket
import subprocess
import threading
import time

import tap
from weft import (LIMIT, STATUS_ENVIRONMENT, STATUS_KILLED, STATUS_OK, STATUS_USAGE, WEFT_CTL, Control, VmTest, needs_kvm,
                  wait_for)

LINE_MAX = 65536


@needs_kvm
class ControlSocket(VmTest):
    def setUp(self):
        super().setUp()
        self.vm = self.endless("--ctl", "ctl")
        self.vm.wait_output("ready")

    def tearDown(self):
        """Whatever was done to it, the VM still answers, ends when told to, and leaves nothing."""
        if self.vm.running():
            with self.control() as control:
                self.assertTrue(control.request("stop", force=True)["ok"])
        self.assertEqual(self.vm.wait(), STATUS_KILLED, self.vm.errors())
        self.assertEqual(self.sockets(), [])

    def test_status(self):
        with self.control() as control:
            result = control.request("status")["result"]
        self.assertEqual(result["state"], "running")
        self.assertEqual(result["pid"], self.vm.pid)
        self.assertEqual(result["memory"], 16 << 20)
        self.assertEqual(result["cpus"], 1)

    def test_pause_and_resume(self):
        with self.control() as control:
            for command, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"),
                                   ("resume", "running"), ("pause", "paused")):
                self.assertTrue(control.request(command)["ok"])
                self.assertEqual(control.request("status")["result"]["state"], state)

    def test_statistics(self):
        def exits():
            with self.control() as control:
                result.update(control.request("stats")["result"])
            return sum(result["vcpus"][0]["exits"].values())

        result = {}
        wait_for(exits)
        self.assertEqual(len(result["vcpus"]), 1)
        self.assertEqual([device["broken"] for device in result["devices"]], [None])

    def test_bad_requests(self):
        for line in (b"", b"{", b"}", b"[]", b"null", b"1", b'"status"', b"{}", b'{"command":1}', b'{"command":null}',
                     b'{"command":"reboot"}', b'{"command":"STATUS"}', b'{"command":"status","x":1}',
                     b'{"command":"status","force":true}', b'{"command":"stop","force":1}',
                     b'{"command":"stop","force":"yes"}', b'{"command":"status"} trailing',
                     b'{"command":"status"}{"command":"status"}', b'{"command":"\xff\xfe"}',
                     b'{"command":"sta\\u0000tus"}', b"[" * 1000, b"{\"a\":" * 1000, b"\0" * 100,
                     b'{"command":"status"\0}', b"GET / HTTP/1.1\r"):
            with self.subTest(repr(line[:40])), self.control() as control:
                control.send(line + b"\n")
                answer = json.loads(control.line())
                self.assertFalse(answer["ok"])
                self.assertTrue(answer["error"])
                self.assertTrue(control.request("status")["ok"], "the connection goes on")

    def test_half_a_command(self):
        with self.control() as control, self.control() as other:
            control.send(b'{"command":')
            self.assertTrue(other.request("status")["ok"])
            control.send(b'"status"}\n')
            self.assertTrue(json.loads(control.line())["ok"])
            control.send(b'{"command":"sta')

    def test_byte_by_byte(self):
        with self.control() as control:
            for byte in b'{"command":"status"}\n':
                control.send(bytes([byte]))
            self.assertTrue(json.loads(control.line())["ok"])

    def test_several_at_once(self):
        with self.control() as control:
            control.send(b'{"command":"status"}\n' * 100)
            for _ in range(100):
                self.assertTrue(json.loads(control.line())["ok"])

    def test_line_of_a_megabyte(self):
        with self.control() as control:
            try:
                control.send(b"x" * (1 << 20))
            except OSError:
                pass  # it need not take all of it
            self.assert_refused_line(control)

    def test_longest_line(self):
        with self.control() as control:
            control.send(b'{"command":"status"' + b" " * (LINE_MAX - 21) + b"}\n")
            self.assertTrue(json.loads(control.line())["ok"])
            control.send(b" " * LINE_MAX)
            self.assert_refused_line(control)

    def assert_refused_line(self, control):
        try:
            line = control.line()
        except OSError:
            line = None
        if line is not None:
            self.assertFalse(json.loads(line)["ok"])
            self.assertIsNone(control.line(), "the connection is closed")

    def test_binary(self):
        with self.control() as control:
            control.send(os.urandom(50000).replace(b"\n", b"") + b"\n")
            self.assertFalse(json.loads(control.line())["ok"])

    def test_client_that_never_reads(self):
        with self.control() as silent, self.control() as other:
            silent.socket.setblocking(False)
            try:
                while True:
                    silent.send(b'{"command":"stats"}\n' * 100)
            except BlockingIOError:
                pass
            for _ in range(10):
                self.assertTrue(other.request("status")["ok"])

    def test_hundred_clients(self):
        before = self.vm.descriptors()
        clients = [self.control() for _ in range(100)]
        for client in clients:
            client.send(b'{"command":"status"}\n')
        for client in clients:
            self.assertTrue(json.loads(client.line())["ok"])
        for client in clients:
            client.close()
        wait_for(lambda: self.vm.descriptors() == before)

    def test_too_many_clients(self):
        clients = [self.control() for _ in range(140)]
        answers = []
        for client in clients:
            try:
                answers.append(client.request("status"))
            except OSError:
                answers.append(None)
        served = sum(bool(answer and answer["ok"]) for answer in answers)
        self.assertEqual(served, 128)
        for client in clients:
            client.close()
        wait_for(self.served)

    def served(self):
        with self.control() as control:
            try:
                answer = control.request("status")
            except OSError:
                return False
            return answer and answer["ok"]

    def test_thousand_connections(self):
        before = self.vm.descriptors()
        for number in range(1000):
            with self.control() as control:
                if number % 3 == 0:
                    control.send(b'{"command":"status"}\n')
                elif number % 3 == 1:
                    control.send(b'{"comm')
        wait_for(lambda: self.vm.descriptors() == before)

    def test_commands_during_shutdown(self):
        stop, answers = threading.Event(), []

        def pester():
            while not stop.is_set():
                try:
                    with Control(self.path("ctl")) as control:
                        while not stop.is_set() and control.request("stats"):
                            control.request("pause")
                            control.request("resume")
                            answers.append(True)
                except OSError:
                    time.sleep(0.001)

        threads = [threading.Thread(target=pester) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) > 20)
        with self.control() as control:
            control.request("stop", force=True)
        status = self.vm.wait()
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(status, STATUS_KILLED)

    def test_stop_is_the_power_button(self):
        with self.control() as control:
            self.assertTrue(control.request("stop")["ok"])
            self.assertEqual(control.request("status")["result"]["state"], "stopping")

    def test_mode_of_the_socket(self):
        self.assertEqual(os.stat(self.path("ctl")).st_mode & 0o077, 0, "others may connect")


@needs_kvm
class Descriptors(VmTest):
    """Connections for which the VM has no descriptors left: they wait, and do not keep it busy."""

    def cpu_seconds(self, vm):
        with open(f"/proc/{vm.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_run_out(self):
        vm = self.endless("--ctl", "ctl", "--agent", "agent", "--console", "unix:console")
        with self.control() as control:
            control.request("status")
            highest = max(int(name) for name in os.listdir(f"/proc/{vm.pid}/fd"))
            resource.prlimit(vm.pid, resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
            waiting = [Control(self.path(name)) for name in ("ctl", "agent", "console") for _ in range(5)]
            before = self.cpu_seconds(vm)
            time.sleep(1)
            self.assertLess(self.cpu_seconds(vm) - before, 0.2, "it does not spin")
            self.assertTrue(control.request("status")["ok"])
        for client in waiting:
            client.close()
        with self.control() as control:
            self.assertTrue(control.request("stop", force=True)["ok"], "connections are taken again")
        self.assertEqual(vm.wait(), STATUS_KILLED)


@needs_kvm
class ControlProgram(VmTest):
    """weft-ctl, where no agent is needed."""

    def ctl(self, *arguments):
        return subprocess.run([WEFT_CTL, *arguments], cwd=self.dir, capture_output=True, text=True, check=False,
                              timeout=LIMIT)

    def test_commands(self):
        vm = self.endless("--ctl", "ctl")
        self.control().close()
        for command in ("status", "stats", "pause", "resume", "stop"):
            with self.subTest(command):
                run = self.ctl("ctl", command)
                self.assertEqual((run.returncode, run.stderr), (STATUS_OK, ""))
        with self.subTest("status --json"):
            self.assertEqual(json.loads(self.ctl("ctl", "status", "--json").stdout)["name"], "weft")
        with self.subTest("exec without an agent"):
            run = self.ctl("ctl", "exec", "true")
            self.assertEqual(run.returncode, 255)
            self.assertEqual(run.stderr.count("\n"), 1)
        with self.subTest("stop --force"):
            self.assertEqual(self.ctl("ctl", "stop", "--force").returncode, STATUS_OK)
            self.assertEqual(vm.wait(), STATUS_KILLED)

    def test_nobody_there(self):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path("dead"))
        for path in ("missing", "dead", ".", "x" * 200):
            with self.subTest(path[:20]):
                run = self.ctl(path, "status")
                self.assertEqual(run.returncode, STATUS_ENVIRONMENT)
                self.assertEqual(run.stderr.count("\n"), 1, run.stderr)

    def test_usage(self):
        for arguments in ([], ["x"], ["x", "frobnicate"], ["x", "status", "--force"], ["x", "status", "y"],
                          ["x", "wait", "--timeout"], ["x", "wait", "--timeout", "soon"], ["x", "exec"]):
            with self.subTest(" ".join(arguments)):
                run = self.ctl(*arguments)
                self.assertEqual(run.returncode, STATUS_USAGE, run.stderr)
                self.assertTrue(run.stderr)


if __name__ == "__main__":
    tap.main(__name__)
