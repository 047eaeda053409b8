# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that measures: its processors' time, and whether they are free.

A sample says something about the contestant only if nobody else had work. Quiet.wait() waits for that, but not for ever: the
waiting of a whole run is bounded, and once that is used up samples are taken all the same and counted as busy. Others on the
machine below, where this one is a virtual machine itself, show as stolen time.
"""
import os
import resource
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IDLE_SHARE = 0.9     # of all CPUs, to count as quiet
LOOK_S = 0.15        # how long a look at the CPUs takes
STOLEN_SHARE = 0.01  # of all CPUs' time during a sample, at most
STEAL = 7            # of /proc/stat: what the hypervisor gave to others
TICKS = os.sysconf("SC_CLK_TCK")


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cpu_times():
    """Seconds since boot, of all CPUs: all time, idle time, stolen time."""
    with open("/proc/stat", encoding="ascii") as file:
        values = [int(value) / TICKS for value in file.readline().split()[1:9]]
    return sum(values), values[3] + values[4], values[STEAL]


def cpu_busy():
    """Seconds that all CPUs have worked, kernel and guests included."""
    total, idle, stolen = cpu_times()
    return total - idle - stolen


def stolen_share(since):
    """What the hypervisor gave to others, of the time of all CPUs since these cpu_times()."""
    total, _, stolen = (now - then for now, then in zip(cpu_times(), since))
    return stolen / max(total, 1 / TICKS)


def process_seconds(pids):
    """Seconds of CPU that these processes have used, all their threads together."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def threads_seconds(pids):
    """The same to the nanosecond, of the threads that there are now."""
    total = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
    return total / 1e9


def children_seconds():
    """Seconds of CPU of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def minutes(seconds):
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


class Progress:
    """Where the run is, on stderr: one line that changes on a terminal, a line a minute elsewhere."""
    EVERY_S = 60

    def __init__(self, total):
        self.total, self.done = total, 0
        self.begin = time.monotonic()
        self.said = self.begin
        self.terminal = sys.stderr.isatty()

    def say(self, text):
        print(f"\r\033[Kweft-bench: {text}" if self.terminal else f"weft-bench: {text}", file=sys.stderr, flush=True)

    def step(self, what):
        now = time.monotonic()
        left = (now - self.begin) / self.done * (self.total - self.done) if self.done else 0
        line = f"{self.done} of {self.total} samples, {minutes(left)} to go; {what}"
        self.done += 1
        if self.terminal:
            print(f"\r\033[K{line[:120]}", end="", file=sys.stderr, flush=True)
        elif now - self.said > self.EVERY_S:
            self.said = now
            self.say(line)

    def seconds(self):
        return time.monotonic() - self.begin

    def end(self):
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Quiet:
    """Waits for free CPUs."""

    def __init__(self, once, altogether):
        """At most this long at once, and in the whole run."""
        self.once = once
        self.left = altogether
        self.waited = 0

    @staticmethod
    def idle_share(seconds=LOOK_S):
        total, idle, _ = cpu_times()
        time.sleep(seconds)
        total_now, idle_now, _ = cpu_times()
        return (idle_now - idle) / max(total_now - total, 1 / TICKS)

    def now(self):
        return self.idle_share() >= IDLE_SHARE

    def wait(self):
        """Wait until the CPUs are idle; returns whether they were. What is quiet at once costs no patience."""
        begin = time.monotonic()
        limit = begin + min(self.once, self.left)
        if quiet := self.now():
            return True
        while not quiet and time.monotonic() < limit:
            quiet = self.now()
        spent = time.monotonic() - begin
        self.left -= spent
        self.waited += spent
        return quiet


def description():
    """What the figures were measured on."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    kvm = next((name for name in ("kvm_pvm", "kvm_amd", "kvm_intel") if os.path.exists(f"/sys/module/{name}")), "unknown")
    qemu = shutil.which("qemu-system-x86_64")
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": os.uname().release, "kvm": kvm,
            "qemu": output_of(qemu, "--version").splitlines()[0].split("version ")[1] if qemu else None}
