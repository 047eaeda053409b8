# SPDX-License-Identifier: GPL-2.0-or-later
"""What the system tests of the VMM share: virtual machines, their sockets, and a directory for each test.

From the environment: WEFT and WEFT_CTL, the programs under test (default build/weft, build/weft-ctl); WEFT_OPTIONS,
options that every VM gets; WEFT_KERNEL, the directory of a built guest kernel (default: the one for this host).
"""
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.environ.get("WEFT", f"{ROOT}/build/weft")
WEFT_CTL = os.environ.get("WEFT_CTL", f"{ROOT}/build/weft-ctl")
WEFT_OPTIONS = os.environ.get("WEFT_OPTIONS", "").split()
GUESTS = f"{ROOT}/build/guests"

STATUS_OK, STATUS_ENVIRONMENT, STATUS_USAGE = 0, 1, 2
STATUS_PANIC, STATUS_CRASH, STATUS_KILLED, EXIT_GUEST = 3, 4, 5, 64

# Seconds to wait for what must come: only what never comes takes so long, however slow and busy the host.
LIMIT = 120
# Seconds in which a mistake would show itself. Where the host is too busy for that it goes unseen, no more.
QUIET = 0.2

# What nohup or a shell's background job ignores would be ignored by the VMs too.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)

LINUX_CMDLINE = "console=ttyS0 quiet"


def have_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


needs_kvm = unittest.skipUnless(have_kvm(), "no access to /dev/kvm")


def guest(name):
    return f"{GUESTS}/{name}.elf"


def linux(kernel_file="vmlinux"):
    """Paths of the tty image's kernel and initramfs; skips the test when they are not built."""
    def path(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    directory = os.environ.get("WEFT_KERNEL") or path(
        f"{ROOT}/guest-images/kernel/build", "--path", "--auto")
    kernel = f"{directory}/{kernel_file}"
    initrd = path(f"{ROOT}/guest-images/tty/build", "--path")
    if not os.path.exists(kernel) or not os.path.exists(initrd):
        raise unittest.SkipTest("the tty image is not built")
    return kernel, initrd


def resident_kib(pid):
    """Resident memory of a VM's process, less its guest's RAM: the mapping for which huge pages are asked (VmFlags, "hg")."""
    with open(f"/proc/{pid}/smaps", encoding="ascii") as file:
        mappings = re.findall(r"^Rss: +(\d+) kB$.*?^VmFlags:([ \w]*)$", file.read(), re.M | re.S)
    return sum(int(resident) for resident, flags in mappings if "hg" not in flags.split())


def wait_for(condition, pause=0.01):
    """Wait until the condition gives a true value, and return that; AssertionError after LIMIT."""
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"still waiting after {LIMIT} s")
        time.sleep(pause)
    return value


class Vm:
    """A weft process with its output in files."""

    def __init__(self, directory, arguments, prefix=(), program=WEFT, verb=("run",), **popen):
        self.number = sum(name.startswith("stdout.") for name in os.listdir(directory))
        self.out_path = f"{directory}/stdout.{self.number}"
        self.err_path = f"{directory}/stderr.{self.number}"
        popen.setdefault("stdin", subprocess.DEVNULL)
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            popen.setdefault("stdout", out)
            popen.setdefault("stderr", err)
            self.process = subprocess.Popen([*prefix, program, *verb, *arguments, *(WEFT_OPTIONS if verb else ())],
                                            cwd=directory, **popen)
        self.pid = self.process.pid

    @staticmethod
    def read(path):
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")

    def output(self):
        return self.read(self.out_path)

    def errors(self):
        return self.read(self.err_path)

    def wait(self):
        """The exit status; a signal s is -s."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"weft runs on after {LIMIT} s; stdout: {self.output()[-500:]!r} "
                                 f"stderr: {self.errors()!r}") from None

    def wait_output(self, text):
        def found():
            if self.process.poll() is not None and text not in self.output():
                raise AssertionError(f"weft ended with {self.process.returncode} before it printed {text!r}: "
                                     f"{self.output()[-500:]!r} {self.errors()!r}")
            return text in self.output()
        wait_for(found)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def running(self):
        return self.process.poll() is None

    def stays(self):
        """Whether it still runs when a mistake would have ended it."""
        time.sleep(QUIET)
        return self.running()

    def descriptors(self):
        """What the process has open, by kind; the numbers of sockets say nothing."""
        found = []
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{self.pid}/fd/{name}").split(":")[0])
            except FileNotFoundError:
                pass  # closed meanwhile
        return sorted(found)


class Control:
    """A client of a control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)  # waits where the queue of connections is full
        self.socket.settimeout(LIMIT)
        self.rest = b""

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        """The next line without its end; None when the VM has closed."""
        while b"\n" not in self.rest:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def request(self, command, **members):
        self.send(json.dumps({"command": command, **members}).encode() + b"\n")
        line = self.line()
        return json.loads(line) if line else None

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class VmTest(unittest.TestCase):
    """A test with a directory of its own (self.dir), in which no socket may be left."""

    def setUp(self):
        self.vms = []
        self.dir = tempfile.mkdtemp(prefix="vm.")
        os.chmod(self.dir, 0o755)
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.addCleanup(self.end_all)

    def end_all(self):
        for vm in self.vms:
            vm.end()

    def path(self, name):
        return f"{self.dir}/{name}"

    def file(self, name, content=b""):
        with open(self.path(name), "wb") as file:
            file.write(content)
        return self.path(name)

    def weft(self, *arguments, **options):
        """Start weft run with these arguments."""
        vm = Vm(self.dir, arguments, **options)
        self.vms.append(vm)
        return vm

    def hello(self, *arguments, **options):
        return self.weft("--kernel", guest("hello"), *arguments, **options)

    def endless(self, *arguments, **options):
        """A guest that runs on whatever it is told, and waits in a sleep: the echo server."""
        return self.weft("--kernel", guest("virtio-echo"), "--memory", "16M", "--net", "mac=52:54:00:00:00:09",
                         *arguments, **options)

    def linux(self, *arguments, cmdline="", kernel_file="vmlinux", **options):
        """A Linux guest with a control socket (ctl) and an agent."""
        kernel, initrd = linux(kernel_file)
        return self.weft("--kernel", kernel, "--initrd", initrd, "--cmdline", f"{LINUX_CMDLINE} {cmdline}",
                         "--ctl", self.path("ctl"), "--agent", self.path("agent"), *arguments, **options)

    def control(self, path=None):
        def connect():
            try:
                return Control(path or self.path("ctl"))
            except (FileNotFoundError, ConnectionRefusedError):
                return None  # not there yet, or not yet listening
        return wait_for(connect)

    def guest_run(self, *command):
        """A command in the Linux guest; its output."""
        subprocess.run([WEFT_CTL, self.path("ctl"), "wait", "--timeout", str(LIMIT)], check=True)
        return subprocess.run([WEFT_CTL, self.path("ctl"), "exec", "--", *command], capture_output=True,
                              text=True, check=True, timeout=LIMIT).stdout

    def sockets(self):
        """Names of the socket files in the test's directory."""
        return [name for name in os.listdir(self.dir) if stat.S_ISSOCK(os.lstat(self.path(name)).st_mode)]

    def assert_refused(self, vm, status, pattern):
        """The VM does not start: one line on stderr that matches, this status, no socket left."""
        got = vm.wait()
        text = vm.errors()
        self.assertRegex(text, pattern)
        self.assertEqual(text.count("\n"), 1, f"not one line: {text!r}")
        self.assertTrue(re.match(r"weft: ", text), f"not weft's voice: {text!r}")
        self.assertEqual(got, status, text)
        self.assertEqual(self.sockets(), [], "a socket file is left")
