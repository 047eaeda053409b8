#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line and the configuration file: every mistake gets one line with the remedy."""
import os
import re
import resource
import socket
import subprocess


import elf
import tap
from weft import (STATUS_ENVIRONMENT, STATUS_OK, STATUS_USAGE, WEFT, Vm, VmTest, guest, needs_kvm)

NONSENSE = "/no/such/%%/\x7f"
# Options whose value is a path: what is wrong with it is the environment's matter.
PATHS = ("kernel", "initrd", "disk", "agent", "ctl", "overlay", "key-file")
# A good value for each option, so that it can be given twice.
GOOD = {"config": "empty.ini", "name": "x", "memory": "16M", "cpus": "1", "pin": "sidecar=0", "kernel": guest("hello"),
        "initrd": guest("hello"), "cmdline": "x", "net": "mtu=1500", "disk": "disk.raw", "agent": "a.sock",
        "console": "off", "escape": "^A", "listen": "udp://127.0.0.1:6081", "link": "udp://127.0.0.1:6082",
        "vni": "1", "route": "to all", "overlay": "empty.ini", "key-file": "empty.ini", "offload": "off",
        "learn": "off", "transit": "on", "neighbours": "on", "ctl": "c.sock", "on-reboot": "exit", "sandbox": "off"}


def options():
    """(name, takes a value, may be repeated) of each option that --help tells of."""
    text = subprocess.run([WEFT, "run", "--help"], capture_output=True, text=True, check=True).stdout
    entry = re.compile(r"^  --([a-z-]+)( \S+)?\n((?:      .*\n)+)", re.M)
    return [(name, bool(argument), "repeated" in re.sub(r"\s+", " ", text).split("may be")[-1])
            for name, argument, text in entry.findall(text)]


class Options(VmTest):
    def refuse(self, arguments, pattern, status=STATUS_USAGE, **popen):
        with self.subTest(" ".join(arguments)[-60:]):
            vm = Vm(self.dir, arguments, **popen)
            self.vms.append(vm)
            self.assert_refused(vm, status, pattern)

    def test_help_tells_of_all(self):
        found = {name for name, _, _ in options()}
        self.assertEqual(found, set(GOOD) | {"help", "hugepages", "lock-memory", "rng"})

    def test_value_missing(self):
        for name, takes, _ in options():
            if takes:
                self.refuse([f"--{name}"], f"--{name} needs a value")
                if name != "cmdline":
                    self.refuse([f"--{name}="], f"--{name} needs a value")
            elif name != "help":
                self.refuse([f"--{name}=x"], f"--{name} takes no value")

    @needs_kvm
    def test_nonsense(self):
        for name, takes, _ in options():
            if takes and name != "cmdline":
                kernel = [] if name == "kernel" else ["--kernel", guest("hello")]
                status = STATUS_ENVIRONMENT if name in PATHS else STATUS_USAGE
                self.refuse([*kernel, f"--{name}", NONSENSE], f"--{name}", status)

    def test_twice(self):
        self.file("empty.ini")
        for name, takes, repeatable in options():
            if name != "help" and not repeatable:
                one = [f"--{name}", GOOD[name]] if takes else [f"--{name}"]
                self.refuse(one * 2, f"--{name} is given twice: remove one")

    def test_impossible_values(self):
        for arguments, pattern in (
                ([], "--kernel is missing: name the kernel"),
                (["--frobnicate"], "--frobnicate: no such option: see weft run --help"),
                (["kernel"], "'kernel': options begin with '--'"),
                (["-k"], "'-k': options begin"),
                (["--memory", "0"], "--memory: '0' is not possible: give 2M to 1T"),
                (["--memory", "-1"], "--memory"), (["--memory", "2047K"], "--memory"),
                (["--memory", "1025G"], "--memory"), (["--memory", "2T"], "--memory"),
                (["--memory", "17179869184G"], "--memory"), (["--memory", "99999999999999999999"], "--memory"),
                (["--memory", "16MB"], "--memory"), (["--memory", "1.5G"], "--memory"),
                (["--memory", "2049K"], "--memory"),
                (["--kernel", "x", "--hugepages", "--memory", "3M"], "--memory: with --hugepages"),
                (["--cpus", "0"], "--cpus: '0' is not possible: give a number from 1 to 64"),
                (["--cpus", "65"], "--cpus"), (["--cpus", "-1"], "--cpus"), (["--cpus", "4294967297"], "--cpus"),
                (["--name", "a b"], "--name"), (["--name", "x" * 64], "--name"),
                (["--net", "mac=01:00:00:00:00:01"], "--net.*unicast"),
                (["--net", "mac=52:54:00:00:00"], "--net"), (["--net", "mac="], "--net"),
                (["--net", "mac=52:54:00:00:00:0g"], "--net"), (["--net", "mac=5254.0000.0001"], "--net"),
                (["--net", "mtu=67"], "--net"), (["--net", "mtu=65536"], "--net"),
                (["--net", "queue-size=3"], "--net.*power of two"), (["--net", "queue-size=65536"], "--net"),
                (["--net", "speed=10"], "--net.*takes mac="), (["--net", "mtu"], "--net"),
                (["--net", "mtu=1500"] * 9, "--net.*at most 8"),
                (["--disk", "x"] * 17, "--disk.*at most 16"), (["--disk", ","], "--disk"),
                (["--disk", "x,rw"], "--disk"), (["--disk", "x,ro=1"], "--disk"),
                (["--disk", "x,serial="], "--disk"), (["--disk", "x,serial=123456789012345678901"], "--disk"),
                (["--console", "file:"], "--console"), (["--console", "unix:"], "--console"),
                (["--console", "unix:x,log="], "--console"), (["--console", "unix:,log=x"], "--console"),
                (["--console", "stdout"], "--console"),
                (["--escape", "^"], "--escape"), (["--escape", "x"], "--escape"), (["--escape", "^xx"], "--escape"),
                (["--vni", "16777216"], "--vni"), (["--vni", "0x1"], "--vni"),
                (["--listen", "tcp://127.0.0.1:1"], "--listen"), (["--listen", "udp://"], "--listen"),
                (["--kernel", "x", "--listen", "udp://127.0.0.1:1"], "--listen: nobody may send there"),
                (["--kernel", "x", "--link", "udp://127.0.0.1:1"], "--link: the VM has no NIC"),
                (["--link", "udp://127.0.0.1:1"] * 1024, "--link.*at most 1023"),
                (["--on-reboot", "halt"], "--on-reboot"), (["--sandbox", "yes"], "--sandbox")):
            self.refuse(arguments, pattern)

    @needs_kvm
    def test_addresses(self):
        net = ["--kernel", guest("hello"), "--net", "mtu=1500"]
        for address in ("udp://127.0.0.1:", "udp://127.0.0.1:0", "udp://127.0.0.1:65536",
                        "udp://127.0.0.1:x", "udp://:6081", "udp://no.such.host.invalid:6081",
                        "udp://999.1.1.1:6081", "udp://[::1:6081", "udp://" + "x" * 5000 + ":1"):
            with self.subTest(address[:40]):
                vm = self.weft(*net, "--listen", "udp://127.0.0.1:0", "--link", address)
                self.assertIn(vm.wait(), (STATUS_ENVIRONMENT, STATUS_USAGE))
                self.assertRegex(vm.errors(), r"^weft: --(link|listen)[^\n]*\n$")

    @needs_kvm
    def test_port_in_use(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            self.refuse(["--kernel", guest("hello"), "--net", "mtu=1500", "--link", "udp://127.0.0.1:9",
                         "--listen", f"udp://127.0.0.1:{port}"], "--listen.*in use", STATUS_ENVIRONMENT)

    @needs_kvm
    def test_addresses_of_others(self):
        self.refuse(["--kernel", guest("hello"), "--net", "mtu=1500", "--link", "udp://127.0.0.1:9",
                     "--listen", "udp://192.0.2.1:6081"], "--listen", STATUS_ENVIRONMENT)

    def test_program(self):
        for arguments, status in ((["--help"], 0), (["help"], 0), (["--version"], 0), (["--man"], 0),
                                  ([], 2), (["start"], 2), (["--version", "x"], 2)):
            with self.subTest(" ".join(arguments)):
                run = subprocess.run([WEFT, *arguments], capture_output=True, text=True, check=False)
                self.assertEqual(run.returncode, status)
                self.assertEqual(bool(run.stdout), status == 0)
                self.assertEqual(bool(run.stderr), status != 0)


class Files(VmTest):
    """Files that are missing, directories, empty, unreadable, of another kind."""

    def refuse(self, what, arguments, pattern, status=STATUS_ENVIRONMENT, prefix=()):
        with self.subTest(what):
            vm = Vm(self.dir, arguments, prefix)
            self.vms.append(vm)
            self.assert_refused(vm, status, pattern)

    def bad_files(self):
        os.mkdir(self.path("directory"))
        os.mkfifo(self.path("fifo"))
        self.file("empty")
        self.file("text", b"this is no kernel\n" * 1000)
        self.file("short", b"\x7fELF")
        self.file("zeroes", bytes(1 << 20))

    @needs_kvm
    def test_kernel(self):
        self.bad_files()
        for name in ("missing", "directory", "empty", "text", "short", "zeroes", "/dev/null", "/dev/zero"):
            self.refuse(name, ["--kernel", name], "--kernel")

    @needs_kvm
    def test_initrd(self):
        kernel = self.linux_kernel()
        self.bad_files()
        for name in ("missing", "directory", "empty", "/dev/null"):
            self.refuse(name, ["--kernel", kernel, "--initrd", name], "--initrd")
        os.truncate(self.path("empty"), 1 << 30)
        self.refuse("too large", ["--kernel", kernel, "--initrd", "empty"], "--initrd.*give more --memory")

    def linux_kernel(self):
        """A program with a PVH note, for what is refused before it runs."""
        return self.file("kernel", elf_with_pvh_note())

    @needs_kvm
    def test_disk(self):
        self.bad_files()
        for name in ("missing", "directory", "empty", "fifo", "/dev/null"):
            self.refuse(name, ["--kernel", guest("hello"), "--disk", name], "--disk")
        os.chmod(self.file("short-disk", b"x" * 100), 0o600)
        self.refuse("no whole sector", ["--kernel", guest("hello"), "--disk", "short-disk"], "--disk")

    @needs_kvm
    def test_unreadable(self):
        prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
        for option in ("kernel", "initrd", "disk", "config"):
            path = self.file(f"secret-{option}", b"x")
            os.chmod(path, 0)
            kernel = [] if option == "kernel" else ["--kernel", guest("hello")]
            self.refuse(option, [*kernel, f"--{option}", path], f"--{option}.*Permission denied",
                        STATUS_USAGE if option == "config" else STATUS_ENVIRONMENT, prefix)

    @needs_kvm
    def test_read_only_disk(self):
        os.chmod(self.file("disk", bytes(65536)), 0o444)
        prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
        self.refuse("without ro", ["--kernel", guest("hello"), "--disk", "disk"], "--disk.*Permission", prefix=prefix)
        vm = self.hello("--disk", "disk,ro", prefix=prefix)
        self.assertEqual(vm.wait(), STATUS_OK, vm.errors())

    @needs_kvm
    def test_socket_paths(self):
        self.bad_files()
        for option in ("ctl", "agent", "console"):
            for name in ("directory", "text", "missing/x", "x" * 108, "text/x"):
                value = f"unix:{name}" if option == "console" else name
                self.refuse(f"{option} {name[:20]}", ["--kernel", guest("hello"), f"--{option}", value],
                            f"--{option}.*: ")
        for value in ("file:directory", "file:missing/x"):
            self.refuse(value, ["--kernel", guest("hello"), "--console", value], "--console")

    @needs_kvm
    def test_socket_of_a_running_vm(self):
        vm = self.endless("--ctl", "ctl", "--agent", "agent", "--console", "unix:console")
        self.control().close()
        for option, value in (("ctl", "ctl"), ("agent", "agent"), ("console", "unix:console")):
            with self.subTest(option):
                second = self.hello(f"--{option}", value)
                self.assertEqual(second.wait(), STATUS_ENVIRONMENT)
                self.assertRegex(second.errors(), f"^weft: --{option}.*in use by a running process[^\n]*\n$")
        self.assertTrue(vm.running())
        self.assertEqual(sorted(self.sockets()), ["agent", "console", "ctl"], "the running VM's sockets")


class ConfigFile(VmTest):
    def refuse(self, what, content, pattern, status=STATUS_USAGE):
        with self.subTest(what):
            self.file("vm.ini", content)
            vm = Vm(self.dir, ["--config", "vm.ini"])
            self.vms.append(vm)
            self.assert_refused(vm, status, pattern)

    def test_mistakes(self):
        kernel = b"kernel = " + guest("hello").encode() + b"\n"
        for what, content, pattern in (
                ("section", b"[machine]\nmemory = 1G\n", r"--config: vm.ini: section \[machine\]: remove it"),
                ("unknown option", b"memroy = 1G\n", "--config: vm.ini: no option 'memroy'"),
                ("config in config", b"config = vm.ini\n", "--config: vm.ini: no option 'config'"),
                ("help in config", b"help = on\n", "no option 'help'"),
                ("no value", b"memory =\n", "'memory' needs a value"),
                ("not an assignment", b"memory\n", "line 1: write 'name = value'"),
                ("second line", b"# fine\nmemory\n", "line 2"),
                ("switch with a value", b"rng = yes\n", "'rng' is a switch: write 'rng = on'"),
                ("twice", b"memory = 1G\nmemory = 1G\n", "--memory is given twice in vm.ini"),
                ("bad value", b"memory = lots\n", "--memory: 'lots'"),
                ("empty", b"", "--kernel is missing"),
                ("long line", b"cmdline = " + b"x" * 5000 + b"\n" + kernel, "--config"),
                ("no end of line", b"memory = nothing", "--memory"),
                ("NUL bytes", b"mem\0ory = 1G\n" + kernel, "--config"),
                ("binary", bytes(range(1, 256)) * 100, "--config"),
                ("random", os.urandom(4096).replace(b"\0", b"x"), "--config")):
            self.refuse(what, content, pattern)

    def test_not_a_file(self):
        os.mkdir(self.path("directory"))
        for path in ("missing", "directory"):
            with self.subTest(path):
                self.assert_refused(self.weft("--config", path), STATUS_USAGE, "--config")

    @needs_kvm
    def test_used(self):
        self.file("vm.ini", f"; a comment\nkernel = {guest('hello')}\nmemory = 32M\ncpus=2\n"
                            "rng = on\ncmdline = status=7\n".encode())
        vm = self.weft("--config", "vm.ini")
        self.assertEqual(vm.wait(), 64 + 7)
        self.assertIn("2 vCPUs, 32 MiB", vm.output())

    @needs_kvm
    def test_command_line_wins(self):
        self.file("vm.ini", f"kernel = {guest('hello')}\nmemory = 32M\ncmdline = status=7\n".encode())
        vm = self.weft("--memory", "64M", "--config=vm.ini", "--cmdline", "")
        self.assertEqual(vm.wait(), 0)
        self.assertIn("64 MiB", vm.output())


class Resources(VmTest):
    """Where the host gives less than the VM needs: one line, status 1, and nothing is left behind."""

    # Every way of starting that a VM has, so that each limit is met somewhere.
    FULL = ("--memory", "16M", "--cpus", "2", "--net", "mtu=1500", "--rng", "--ctl", "ctl", "--agent", "agent",
            "--console", "unix:console", "--disk", "disk", "--link", "udp://127.0.0.1:9",
            "--listen", "udp://127.0.0.1:0")

    def limited(self, limit, value):
        return self.hello(*self.FULL, preexec_fn=lambda: resource.setrlimit(limit, (value, value)))

    def assert_clean(self, vm):
        status = vm.wait()
        self.assertIn(status, (STATUS_OK, STATUS_ENVIRONMENT), vm.errors())
        if status:
            self.assertRegex(vm.errors(), r"^weft: [^\n]+: [^\n]+\n$")
        self.assertEqual(self.sockets(), [])
        return status

    @needs_kvm
    def test_descriptor_limit(self):
        self.file("disk", bytes(65536))
        statuses = []
        for limit in range(4, 80):
            with self.subTest(f"{limit} descriptors"):
                statuses.append(self.assert_clean(self.limited(resource.RLIMIT_NOFILE, limit)))
        self.assertEqual(statuses[0], STATUS_ENVIRONMENT)
        self.assertEqual(statuses[-1], STATUS_OK)

    @needs_kvm
    def test_address_space_limit(self):
        self.file("disk", bytes(65536))
        statuses = []
        for limit in range(12, 80, 4):
            with self.subTest(f"{limit} MiB"):
                statuses.append(self.assert_clean(self.limited(resource.RLIMIT_AS, limit << 20)))
        self.assertEqual(statuses[0], STATUS_ENVIRONMENT)

    @needs_kvm
    def test_memory_larger_than_address_space(self):
        vm = self.hello("--memory", "1T", preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_AS, (1 << 30, 1 << 30)))
        self.assert_refused(vm, STATUS_ENVIRONMENT, "--memory: cannot have 1048576 MiB")

    @needs_kvm
    def test_no_huge_pages(self):
        with open("/proc/meminfo", encoding="ascii") as file:
            if not re.search(r"HugePages_Free: +0$", file.read(), re.M):
                self.skipTest("this host has huge pages")
        self.assert_refused(self.hello("--hugepages"), STATUS_ENVIRONMENT, "--hugepages: .*nr_hugepages")


@needs_kvm
class LockMemory(VmTest):
    def locked_kib(self, vm):
        with open(f"/proc/{vm.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmLck:\s+(\d+)", file.read())[1])

    def test_locked(self):
        """All of it from the start, though the guest has touched next to nothing."""
        vm = self.endless("--lock-memory")
        vm.wait_output("ready")
        self.assertGreaterEqual(self.locked_kib(vm), 16 << 10)
        with open(f"/proc/{vm.pid}/status", encoding="ascii") as file:
            self.assertGreaterEqual(int(re.search(r"RssAnon:\s+(\d+)", file.read())[1]), 16 << 10)
        plain = self.endless()
        plain.wait_output("ready")
        self.assertEqual(self.locked_kib(plain), 0)

    def test_limit(self):
        prefix = ["prlimit", "--memlock=1048576:1048576"]
        if os.geteuid() == 0:  # root may lock what it likes, unless it gives that up
            prefix += ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
        vm = self.hello("--lock-memory", prefix=prefix)
        self.assert_refused(vm, STATUS_ENVIRONMENT, r"--lock-memory: .*ulimit -l")


def elf_with_pvh_note():
    """A kernel of one instruction: hlt."""
    return elf.Elf(segments=[elf.Load(0x100000, b"\xf4" * 16)], pvh_entry=0x100000).build()


if __name__ == "__main__":
    tap.main(__name__)
