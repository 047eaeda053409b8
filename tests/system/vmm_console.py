#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The serial console's host end: stdio, file, socket, none; a terminal and its escape key; nobody who reads."""
import fcntl
import hashlib
import os
import pty
import select
import signal
import subprocess
import termios

import tap
from weft import LIMIT, STATUS_KILLED, STATUS_OK, Vm, VmTest, guest, needs_kvm, wait_for

ESCAPE = b"\x1d"  # ^]
PASTE = b"0123456789" * 2000


class Flood(VmTest):
    """A Linux guest that prints without end."""

    def flood(self, vm):
        """Flood whoever does not read, until all buffers are full; the guest goes on, and the VM ends when told to."""
        self.guest_run("sh", "-c", "(while :; do cat /proc/cpuinfo; done) > /dev/console 2>&1 &")
        with self.control() as control:
            wait_for(lambda: control.request("stats")["result"]["console_dropped"])
            self.assertEqual(self.guest_run("echo", "alive").strip(), "alive")
            control.request("stop", force=True)
        self.assertEqual(vm.wait(), STATUS_KILLED)


@needs_kvm
class Console(Flood):
    def test_stdio(self):
        vm = self.hello()
        self.assertEqual(vm.wait(), STATUS_OK)
        self.assertIn("hello from a weft guest", vm.output())

    def test_file(self):
        for round_ in (1, 2):
            vm = self.hello("--console", "file:log")
            self.assertEqual(vm.wait(), STATUS_OK)
            self.assertEqual(vm.output(), "")
            self.assertEqual(Vm.read(self.path("log")).count("hello from a weft guest"), round_, "appended")
        self.assertEqual(os.stat(self.path("log")).st_mode & 0o777, 0o600)

    def test_off(self):
        vm = self.hello("--console", "off")
        self.assertEqual((vm.wait(), vm.output()), (STATUS_OK, ""))

    def test_closed_descriptors(self):
        for closed in ((0,), (1,), (0, 1), (0, 1, 2)):
            with self.subTest(f"without {closed}"):
                vm = self.hello("--memory", "16M", preexec_fn=lambda fds=closed: [os.close(fd) for fd in fds])
                self.assertEqual(vm.wait(), STATUS_OK)

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            vm = self.hello(stdout=full)
            self.assertEqual(vm.wait(), STATUS_OK)

    def test_reader_has_gone(self):
        reading, writing = os.pipe()
        os.close(reading)
        vm = self.hello(stdout=writing)
        os.close(writing)
        self.assertEqual(vm.wait(), STATUS_OK)

    def test_nobody_reads(self):
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self.addCleanup(os.close, reading)
        vm = self.linux("--console", "stdio", stdin=subprocess.DEVNULL, stdout=writing)
        os.close(writing)
        self.flood(vm)


@needs_kvm
class ConsoleSocket(Flood):
    def connect(self):
        return self.control(self.path("console"))

    def shell(self):
        """A Linux guest whose shell waits for input."""
        vm = self.linux("--console", "unix:console,log=log")
        wait_for(lambda: os.path.exists(self.path("log")) and "# " in Vm.read(self.path("log")))
        return vm

    def read_until(self, client, text):
        data = b""
        while text not in data:
            got = client.socket.recv(4096)
            self.assertTrue(got, f"closed after {data[-200:]!r}")
            data += got
        return data

    def test_shell(self):
        """A shell in a Linux guest, by one client after another; what is printed meanwhile is in the log."""
        vm = self.shell()
        with self.connect() as client:
            client.send(b"\recho $((6 * 7))x\r")
            self.read_until(client, b"42x")
            with self.connect() as second:
                self.assertIn(b"another client has this console", self.read_until(second, b"\n"))
                self.assertEqual(second.socket.recv(100), b"")
            client.send(b"echo $((7 * 8))x\r")
            self.read_until(client, b"56x")
        self.guest_run("sh", "-c", "echo nobody is here > /dev/console")
        wait_for(lambda: "nobody is here" in Vm.read(self.path("log")))
        with self.connect() as third:
            third.send(b"echo $((8 * 9))x\r")
            self.read_until(third, b"72x")
        self.assertIn("42x", Vm.read(self.path("log")))
        vm.process.terminate()
        self.assertEqual(vm.wait(), STATUS_OK)
        self.assertEqual(self.sockets(), [])

    def test_large_paste(self):
        """More input than the port takes at once waits, and all of it arrives."""
        self.shell()
        with self.connect() as client:
            client.send(b"\rstty raw -echo; echo $((6 * 7))x; head -c 20000 | md5sum; stty sane\r")
            self.read_until(client, b"42x")
            client.send(PASTE)
            self.read_until(client, hashlib.md5(PASTE).hexdigest().encode())

    def test_client_that_never_reads(self):
        vm = self.linux("--console", "unix:console")
        with self.connect():
            self.flood(vm)

    def test_clients_come_and_go(self):
        vm = self.endless("--console", "unix:console,log=log")
        wait_for(lambda: os.path.exists(self.path("log")) and "ready" in Vm.read(self.path("log")))
        before = vm.descriptors()
        for _ in range(200):
            self.connect().close()
        wait_for(lambda: vm.descriptors() == before)


@needs_kvm
class Terminal(VmTest):
    """stdio is a terminal: raw mode, the escape key, and the old mode back at the end."""

    def setUp(self):
        super().setUp()
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        self.addCleanup(os.close, self.slave)

    def on_terminal(self, *arguments, name="power-button"):
        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        vm = self.weft("--kernel", guest(name), "--memory", "16M", *arguments, stdin=self.slave, stdout=self.slave,
                       preexec_fn=own_terminal)
        self.read_until(b"waiting" if name == "power-button" else b"")
        return vm

    def read_until(self, text):
        data = b""
        while text not in data:
            self.assertTrue(select.select([self.master], [], [], LIMIT)[0], data)
            data += os.read(self.master, 4096)
        return data

    def keys(self, keys):
        os.write(self.master, keys)

    def mode(self):
        return termios.tcgetattr(self.slave)[:4]

    def test_mode_is_restored(self):
        before = self.mode()
        vm = self.on_terminal()
        self.assertNotEqual(self.mode(), before, "raw mode")
        self.keys(ESCAPE + b"x")
        self.assertEqual(vm.wait(), STATUS_KILLED)
        self.assertEqual(self.mode(), before)

    def test_mode_is_restored_by_signals(self):
        before = self.mode()
        vm = self.on_terminal()
        vm.process.send_signal(signal.SIGTERM)
        self.assertEqual(vm.wait(), STATUS_OK)
        self.assertEqual(self.mode(), before)

    def test_power_button(self):
        vm = self.on_terminal()
        self.keys(ESCAPE)
        self.assertTrue(vm.stays(), "the escape key alone does nothing")
        self.keys(b"p")
        self.assertEqual(vm.wait(), STATUS_OK)

    def test_control_c_is_the_guests(self):
        vm = self.on_terminal()
        self.keys(b"\x03\x03\x1a\x1c")
        self.assertTrue(vm.stays())
        self.keys(ESCAPE + b"p")
        self.assertEqual(vm.wait(), STATUS_OK)

    def test_other_escape_key(self):
        vm = self.on_terminal("--escape", "^A")
        self.keys(ESCAPE + b"x" + b"\x01\x01" + b"x")
        self.assertTrue(vm.stays())
        self.keys(b"\x01x")
        self.assertEqual(vm.wait(), STATUS_KILLED)

    def test_no_escape_key(self):
        vm = self.on_terminal("--escape", "none")
        self.keys(ESCAPE + b"x" + b"\0x")
        self.assertTrue(vm.stays())
        vm.process.terminate()
        self.assertEqual(vm.wait(), STATUS_OK)

    def test_hang_up(self):
        vm = self.on_terminal()
        vm.process.send_signal(signal.SIGHUP)
        self.assertEqual(vm.wait(), STATUS_OK)


@needs_kvm
class Input(VmTest):
    def test_end_of_file(self):
        """The end of the input is not the end of the VM."""
        vm = self.weft("--kernel", guest("power-button"), "--memory", "16M", stdin=subprocess.PIPE)
        vm.process.stdin.close()
        vm.wait_output("waiting")
        self.assertTrue(vm.stays())
        vm.process.terminate()
        self.assertEqual(vm.wait(), STATUS_OK)

    def test_pipe(self):
        vm = self.linux(stdin=subprocess.PIPE)
        vm.wait_output("# ")
        vm.process.stdin.write(b"echo $((9 * 9))x\npoweroff\n")
        vm.process.stdin.flush()
        self.assertEqual(vm.wait(), STATUS_OK)
        self.assertIn("81x", vm.output())


if __name__ == "__main__":
    tap.main(__name__)
