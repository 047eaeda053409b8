#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Start, stop, reboot, pause and sudden death; exit statuses; sizes; what a VM costs its host."""
import collections
import os
import random
import re
import signal
import subprocess
import time

import tap
from weft import (EXIT_GUEST, LIMIT, ROOT, STATUS_CRASH, STATUS_ENVIRONMENT, STATUS_KILLED, STATUS_OK, STATUS_PANIC, WEFT, WEFT_CTL,
                  VmTest, guest, linux, needs_kvm, resident_kib, wait_for)

BOOTS = 100
STATIC = f"{ROOT}/build/static/weft"
SANITIZED = f"{ROOT}/build/address/weft"
CLOCK_ERROR = 0.05  # seconds: what is rounded in /proc/uptime, and drift
RESIDENT_MAX_KIB = {"dynamic": 4096, "static": 2048}

Uptime = collections.namedtuple("Uptime", "host_before guest host_after")


@needs_kvm
class Status(VmTest):
    """What weft's exit status says."""

    def test_of_guests(self):
        for name, status in (("poweroff", STATUS_OK), ("panic", STATUS_PANIC), ("triple-fault", STATUS_CRASH),
                             ("exit-status", EXIT_GUEST + 43)):
            with self.subTest(name):
                vm = self.weft("--kernel", guest(name), "--memory", "16M")
                self.assertEqual(vm.wait(), status, vm.errors())

    def test_of_exit_port(self):
        for value in (0, 1, 63, 64, 65, 255):
            with self.subTest(str(value)):
                vm = self.hello("--cmdline", f"status={value}")
                self.assertEqual(vm.wait(), EXIT_GUEST + (value & 63) if value else STATUS_OK)

    def test_terminated_once(self):
        vm = self.weft("--kernel", guest("power-button"), "--memory", "16M")
        vm.wait_output("waiting")
        vm.process.send_signal(signal.SIGTERM)
        self.assertEqual(vm.wait(), STATUS_OK)
        self.assertIn("ok power-button/pressed", vm.output())

    def test_terminated_twice(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number.name):
                vm = self.endless("--ctl", "ctl", "--agent", "agent", "--console", "unix:console")
                with self.control() as control:
                    control.request("status")
                    vm.process.send_signal(number)
                    wait_for(lambda: control.request("status")["result"]["state"] == "stopping")
                self.assertTrue(vm.stays(), "the first one only asks")
                vm.process.send_signal(number)
                self.assertEqual(vm.wait(), STATUS_KILLED)
                self.assertEqual(self.sockets(), [])

    def test_terminated_while_paused(self):
        vm = self.weft("--kernel", guest("power-button"), "--memory", "16M", "--ctl", "ctl")
        vm.wait_output("waiting")
        with self.control() as control:
            control.request("pause")
            vm.process.send_signal(signal.SIGTERM)
            self.assertEqual(vm.wait(), STATUS_OK)

    def test_killed_while_paused(self):
        vm = self.endless("--ctl", "ctl", "--cpus", "4")
        with self.control() as control:
            control.request("pause")
            control.request("stop", force=True)
            self.assertEqual(vm.wait(), STATUS_KILLED)


@needs_kvm
class Reboot(VmTest):
    def test_restart(self):
        self.file("disk", bytes(65536))
        vm = self.weft("--kernel", guest("reset"), "--memory", "32M", "--disk", "disk", "--rng")
        self.assertEqual(vm.wait(), STATUS_OK, vm.output())
        for start in range(3):
            self.assertIn(f"start {start}", vm.output())

    def test_exit(self):
        self.file("disk", bytes(65536))
        vm = self.weft("--kernel", guest("reset"), "--memory", "32M", "--disk", "disk", "--rng",
                       "--on-reboot", "exit")
        self.assertEqual(vm.wait(), STATUS_OK, vm.output())
        self.assertIn("start 0", vm.output())
        self.assertNotIn("start 1", vm.output())

    def test_kernel_is_gone(self):
        """The file was opened at the start; a reboot needs it no more than that."""
        self.file("disk", bytes(65536))
        with open(guest("reset"), "rb") as file:
            self.file("kernel", file.read())
        vm = self.weft("--kernel", "kernel", "--memory", "32M", "--disk", "disk", "--rng", "--console", "stdio")
        vm.wait_output("start 0")
        os.unlink(self.path("kernel"))
        self.assertEqual(vm.wait(), STATUS_OK, vm.output())


@needs_kvm
class SuddenDeath(VmTest):
    FULL = ("--ctl", "ctl", "--agent", "agent", "--console", "unix:console", "--disk", "disk", "--rng")

    def test_kill_at_any_moment(self):
        """After each kill -9 a new start works at once, without cleaning up."""
        self.file("disk", bytes(65536))
        pauses = random.Random(1)
        for round_ in range(20):
            with self.subTest(f"round {round_}"):
                vm = self.endless(*self.FULL)
                time.sleep(pauses.random() * 0.08)
                vm.process.kill()
                vm.wait()
                after = self.hello("--memory", "16M", *self.FULL)
                self.assertEqual(after.wait(), STATUS_OK, after.errors())
                self.assertEqual(self.sockets(), [])

    def test_kill_linux(self):
        for _ in range(2):
            vm = self.linux()
            vm.wait_output("weft: init")
            vm.process.kill()
            vm.wait()
        vm = self.linux()
        self.assertIn("Linux", self.guest_run("uname"))


@needs_kvm
class Repeated(VmTest):
    def test_boots(self):
        """A hundred in a row; then as many processes, descriptors and shared memory files as before."""
        before = os.listdir("/proc/self/fd"), self.shared_memory()
        failed = []
        for number in range(BOOTS):
            vm = self.hello("--memory", "32M", "--cpus", "2", "--rng", "--net", "mtu=1500", "--ctl", "ctl")
            if vm.wait() != STATUS_OK or "hello from a weft guest: 2 vCPUs, 32 MiB" not in vm.output():
                failed.append((number, vm.errors(), vm.output()))
            os.unlink(vm.out_path)
            os.unlink(vm.err_path)
        self.assertEqual(failed, [])
        self.assertEqual(self.sockets(), [])
        self.assertEqual((os.listdir("/proc/self/fd"), self.shared_memory()), before)

    @staticmethod
    def shared_memory():
        return [name for name in os.listdir("/dev/shm") if "weft" in name]


@needs_kvm
class Sizes(VmTest):
    def test_memory(self):
        """The smallest, and on both sides of the hole below 4 GiB."""
        for size, mib in (("2M", 2), ("3M", 3), ("16M", 16), ("256", 256), ("1000M", 1000), ("3G", 3072),
                          ("3073M", 3073), ("4G", 4096), ("5G", 5120), ("8G", 8192), ("1T", 1 << 20)):
            with self.subTest(size):
                vm = self.hello("--memory", size)
                if vm.wait() == STATUS_ENVIRONMENT and mib > 32768:
                    self.assert_refused(vm, STATUS_ENVIRONMENT, "--memory: .* physical addresses .*: give at most")
                    continue
                self.assertEqual(vm.wait(), STATUS_OK, vm.errors())
                self.assertIn(f"1 vCPUs, {mib} MiB", vm.output())

    def test_cpus(self):
        for cpus in (2, 3, 16, 64):
            with self.subTest(str(cpus)):
                vm = self.weft("--kernel", guest("smp"), "--memory", "64M", "--cpus", str(cpus))
                self.assertEqual(vm.wait(), STATUS_OK, vm.output())
                self.assertNotIn("not ok", vm.output())

    def test_all_devices(self):
        arguments = ["--rng", "--agent", "agent"]
        for number in range(16):
            self.file(f"disk{number}", bytes(65536))
            arguments += ["--disk", f"disk{number}"]
        for _ in range(8):
            arguments += ["--net", "mtu=1500"]
        vm = self.hello(*arguments)
        self.assertEqual(vm.wait(), STATUS_OK, vm.errors())


class Cost(VmTest):
    """Resident memory of an idle VM's process, less the RAM that its guest has touched."""

    def check(self, kind, program):
        if not os.path.exists(program):
            self.skipTest(f"{program} is not built")
        kernel, initrd = linux()
        vm = self.weft("--kernel", kernel, "--initrd", initrd, "--cmdline", "quiet",
                       "--ctl", "ctl", "--agent", "agent", "--console", "off", "--rng", "--net", "mtu=1500",
                       program=program)
        with self.control() as control:
            wait_for(lambda: control.request("status")["result"]["agent_up"], 0.1)
        self.assertLessEqual(resident_kib(vm.pid), RESIDENT_MAX_KIB[kind])

    @needs_kvm
    def test_resident_memory(self):
        self.check("dynamic", WEFT)

    @needs_kvm
    def test_resident_memory_static(self):
        self.check("static", STATIC)


class Static(VmTest):
    def setUp(self):
        super().setUp()
        if not os.path.exists(STATIC):
            self.skipTest("the static build is not there")

    def test_is_static(self):
        run = subprocess.run(["file", "-b", STATIC], capture_output=True, text=True, check=True)
        self.assertIn("statically linked", run.stdout)

    def test_says_what_is_left_out(self):
        run = subprocess.run([STATIC, "--version"], capture_output=True, text=True, check=True)
        self.assertRegex(run.stdout, "static musl build.*without")

    @needs_kvm
    def test_guests(self):
        self.file("disk", bytes(65536))
        for name, status in (("hello", STATUS_OK), ("panic", STATUS_PANIC), ("reset", STATUS_OK), ("pci", STATUS_OK)):
            with self.subTest(name):
                vm = self.weft("--kernel", guest(name), "--memory", "32M", "--rng", "--net",
                               "mac=52:54:00:00:00:01", "--disk", "disk", program=STATIC)
                self.assertEqual(vm.wait(), status, vm.errors() + vm.output()[-500:])


@needs_kvm
class Sanitized(VmTest):
    def test_ends(self):
        """The sandbox is on by default, and the leak check would wait in it for ever."""
        if not os.path.exists(SANITIZED):
            self.skipTest("the build with AddressSanitizer is not there")
        vm = self.hello("--memory", "16M", program=SANITIZED)
        self.assertEqual(vm.wait(), STATUS_OK)
        self.assertRegex(vm.errors(), "^weft: --sandbox: left out of this build[^\n]*\n$")


@needs_kvm
class Linux(VmTest):
    def test_agent(self):
        self.linux()
        self.assertEqual(self.guest_run("echo", "hello there").strip(), "hello there")

    def test_bzimage(self):
        self.linux(kernel_file="bzImage")
        self.assertIn("Linux", self.guest_run("uname"))

    def test_terminated(self):
        vm = self.linux()
        self.guest_run("true")
        vm.process.terminate()
        self.assertEqual(vm.wait(), STATUS_OK, vm.output())
        self.assertEqual(self.sockets(), [])

    def test_stopped_while_it_starts(self):
        """When nobody in the guest listens to the power button yet."""
        vm = self.linux()
        with self.control() as control:
            control.request("stop")
            control.request("stop")
        self.assertEqual(vm.wait(), STATUS_OK, vm.output())

    def test_panic(self):
        vm = self.linux(cmdline="panic=-1")
        self.guest_run("true")
        subprocess.run([WEFT_CTL, self.path("ctl"), "exec", "--", "sh", "-c",
                        "echo c > /proc/sysrq-trigger"], capture_output=True, check=False, timeout=LIMIT)
        self.assertIn(vm.wait(), (STATUS_PANIC, STATUS_OK), vm.output())

    def test_reboot(self):
        vm = self.linux()
        self.guest_run("true")
        with self.control() as control:
            subprocess.run([WEFT_CTL, self.path("ctl"), "shutdown", "--reboot"],
                           check=False, capture_output=True, timeout=LIMIT)
            wait_for(lambda: control.request("status")["result"]["boots"] == 2)
        self.assertEqual(self.guest_run("echo", "again").strip(), "again")

    def test_pause(self):
        """A pause of the guest's: no time goes backwards, no task is called stuck, and seconds stay seconds."""
        vm = self.linux()
        with self.control() as control:
            before = self.uptime()
            control.request("pause")
            time.sleep(2)
            control.request("resume")
            resumed = self.uptime()
        self.guest_run("sleep", "1")
        end = self.uptime()
        self.assertGreaterEqual(resumed.guest, before.guest)
        self.assertLessEqual(resumed.guest - before.guest, resumed.host_after - before.host_before + CLOCK_ERROR)
        self.assertLessEqual(end.guest - resumed.guest, end.host_after - resumed.host_before + CLOCK_ERROR)
        self.assertGreaterEqual(end.guest - resumed.guest, end.host_before - resumed.host_after - CLOCK_ERROR)
        self.assertNotRegex(vm.output() + self.guest_run("dmesg"), "stuck|stall|unstable|backwards")

    def uptime(self):
        """The guest's clock, between two readings of ours."""
        before = time.monotonic()
        guest_time = float(self.guest_run("cut", "-d ", "-f1", "/proc/uptime"))
        return Uptime(before, guest_time, time.monotonic())

    def test_memory_beyond_the_hole(self):
        self.linux("--memory", "5G")
        total = re.search(r"MemTotal: +(\d+) kB", self.guest_run("cat", "/proc/meminfo"))
        self.assertGreater(int(total[1]), 4800 << 10)

    def test_memory_used(self):
        """A fresh guest's own use, as free(1) counts it: at most 16 MiB."""
        self.linux()
        total, used = self.guest_run("free", "-k").splitlines()[1].split()[1:3]
        self.assertGreater(int(total), 200 << 10)
        self.assertLessEqual(int(used), 16 << 10)


@needs_kvm
class DevKvm(VmTest):
    """/dev/kvm that is missing, forbidden, or not what it should be."""

    def setUp(self):
        super().setUp()
        if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", self.dir], check=False,
                          capture_output=True).returncode:
            self.skipTest("no right to mount")

    def in_other_dev(self, setup, *arguments):
        """weft where /dev is a directory of the test's own, made by some shell commands."""
        script = f'd=$1; shift; {setup}; exec "$@"'
        return self.hello(*arguments, prefix=["unshare", "-m", "sh", "-c", script, "sh", self.dir])

    def test_missing(self):
        vm = self.in_other_dev("mount -t tmpfs none /dev")
        self.assert_refused(vm, STATUS_ENVIRONMENT, "/dev/kvm: No such file.*load its module")

    def test_forbidden(self):
        vm = self.in_other_dev("touch $d/kvm && chmod 0 $d/kvm && mount --bind $d/kvm /dev/kvm && "
                               "exec setpriv --inh-caps=-all --bounding-set=-all \"$@\"")
        self.assert_refused(vm, STATUS_ENVIRONMENT, "/dev/kvm: no permission: join the group 'kvm'")

    def test_something_else(self):
        vm = self.in_other_dev("mount --bind /dev/null /dev/kvm")
        self.assert_refused(vm, STATUS_ENVIRONMENT, "/dev/kvm: ")


class KvmShim(VmTest):
    """A KVM that lacks something, or refuses: tests/system/kvm_shim.c stands between weft and it."""

    def setUp(self):
        super().setUp()
        self.shim = self.path("shim.so")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", self.shim, f"{ROOT}/tests/system/kvm_shim.c"], check=True)

    def shimmed(self, *arguments, **variables):
        return self.hello(*arguments, env={**os.environ, "LD_PRELOAD": self.shim, **variables})

    @needs_kvm
    def test_capability_missing(self):
        for number, name in ((3, "user memory"), (0, "interrupt controller"), (25, "interrupt routing"),
                             (32, "irqfd"), (36, "ioeventfd"), (122, "ioeventfd of any length"),
                             (136, "immediate exit"), (7, "CPUID"), (14, "vCPU states")):
            with self.subTest(name):
                vm = self.shimmed("--ctl", "ctl", KVM_SHIM_NO_CAPABILITY=str(number))
                self.assert_refused(vm, STATUS_ENVIRONMENT, f"/dev/kvm: this host's KVM lacks .*{name}")

    @needs_kvm
    def test_request_refused(self):
        """The first requests to KVM fail one after the other, with no memory left, until all pass."""
        for number in range(1, 200):
            vm = self.shimmed("--ctl", "ctl", "--cpus", "2", "--net", "mtu=1500", KVM_SHIM_FAIL_AT=str(number))
            status = vm.wait()
            if "hello from a weft guest" in vm.output() and status == STATUS_OK:
                if not vm.errors() and number > 30:
                    return
                continue
            with self.subTest(f"request {number}"):
                self.assertEqual(self.sockets(), [])
                self.assertIn(status, (STATUS_ENVIRONMENT, STATUS_CRASH))
                self.assertRegex(vm.errors(), r"^weft: [^\n]+\n$")


if __name__ == "__main__":
    tap.main(__name__)
