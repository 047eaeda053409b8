# SPDX-License-Identifier: GPL-2.0-or-later
"""The network part of the benchmark: runs the contestants and takes their samples.

Theory of operation: the run has a phase for each pair of MTUs. In a phase all contestants run at once. A round takes one sample of
each cell from each contestant, so that what changes on the machine meanwhile meets all of them. A sample waits until the CPUs are
quiet; if they are not quiet afterwards either, when every contestant should have gone to sleep, somebody else was at work: the
sample is dropped and taken again, RETRIES times, and then kept and counted as busy. A contestant that fails FAILURES_MAX samples of
a cell is left out of that cell.
"""
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import contestants
from cells import CELLS, PHASES, metric_of
from hosts import CommandError
from machine import Quiet

RETRIES = 2
FAILURES_MAX = 3
SETTLE_S = 0.05       # after a sample, until everyone sleeps
FAILURES = (CommandError, AssertionError, OSError, subprocess.SubprocessError, json.JSONDecodeError, KeyError, StopIteration)
FULL = {"rounds": 7, "seconds": 1, "once": 10, "patience": 600, "limit": float("inf"), "retries": RETRIES}
QUICK = {"rounds": 3, "seconds": 1, "once": 1, "patience": 10, "limit": 110, "retries": 0}


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
        line = f"{self.done} of {self.total} samples, {left / 60:.0f} min {left % 60:02.0f} s to go; {what}"
        self.done += 1
        if self.terminal:
            print(f"\r\033[K{line[:120]}", end="", file=sys.stderr, flush=True)
        elif now - self.said > self.EVERY_S:
            self.said = now
            self.say(line)

    def end(self):
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Table:
    """Values by phase, metric and contestant."""

    def __init__(self):
        self.values = {}
        self.failures = {}
        self.busy = self.dropped = 0

    def add(self, phase, contestant, values):
        for metric, value in values.items():
            self.values.setdefault((phase.guest, metric, contestant), []).append(value)

    def contestants(self):
        return {contestant for _, _, contestant in self.values}

    def rows(self):
        """For each phase, metric and contestant: median, least, most, and how many times as good the reference is."""
        rows = []
        for (guest, name, contestant), values in self.values.items():
            metric = metric_of(name)
            rows.append({"mtu": guest, "metric": name, "unit": metric.unit, "better": metric.better, "count": metric.count,
                         "contestant": contestant, "samples": len(values), "median": statistics.median(values),
                         "min": min(values), "max": max(values), "values": values,
                         "ratio": self.ratio(guest, name, values)})
        order = [cls.name for cls in contestants.CONTESTANTS]
        metrics = [metric.name for cell in CELLS for metric in cell.metrics]
        return sorted(rows, key=lambda row: (row["mtu"], metrics.index(row["metric"]), order.index(row["contestant"])))

    def ratio(self, guest, metric, values):
        """The reference's median by these values' median."""
        reference = next((found for cls in contestants.CONTESTANTS
                          if (found := self.values.get((guest, metric, cls.name)))), None)
        median = statistics.median(values)
        return statistics.median(reference) / median if reference and median else None


class Run:
    def __init__(self, directory, quick, only, **options):
        """The options replace those of FULL or QUICK."""
        self.directory, self.quick, self.only = directory, quick, only
        self.options = options = {**(QUICK if quick else FULL), **options}
        self.table = Table()
        self.quiet = Quiet(options["once"], options["patience"])
        self.out = {}  # (phase, cell, contestant): failures
        self.progress = Progress(sum(len(pairs) for pairs in self.plan().values()) * options["rounds"])

    def plan(self):
        """{phase: [(cell, contestant's class)]}"""
        return {phase: pairs for phase in PHASES if (pairs := self.pairs(phase))}

    def pairs(self, phase):
        return [(cell, cls) for cell in CELLS for cls in contestants.CONTESTANTS
                if cell.kind == cls.kind and cls.takes(phase) and not contestants.missing(cls)
                and phase in (cell.quick if self.quick else cell.phases) and (cls.quick or not self.quick)
                and (not cls.asked or any(word in cls.asked or cls.asked in word for word in self.only))
                and all(word in f"{phase.guest}/{cell.name}/{cls.name}" for word in self.only)]

    def run(self):
        for cls in contestants.CONTESTANTS:
            if lacking := contestants.missing(cls):
                self.progress.say(f"{cls.name} is left out: {lacking} is not there")
        # A phase is cleaned up whole before a signal is heard.
        plan = self.plan()
        share = self.options["limit"] / max(sum(len(pairs) for pairs in plan.values()), 1)
        for phase, pairs in plan.items():
            end = time.monotonic() + share * len(pairs)
            with contextlib.ExitStack() as stack:
                stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
                started = self.begin(phase, pairs, stack)
                stack.callback(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
                self.phase_run(phase, pairs, started, end)
        self.progress.end()
        return self.table

    def begin(self, phase, pairs, stack):
        """Start the phase's contestants, all at once; {class: contestant}, of those that work."""
        lab = contestants.Lab(stack.enter_context(tempfile.TemporaryDirectory(dir=self.directory)))
        stack.callback(lab.close)
        started = {}
        for number, cls in enumerate(contestants.CONTESTANTS):
            if any(cls is wanted for _, wanted in pairs):
                contestant = cls(lab, number, phase)
                stack.callback(contestant.close)
                self.attempt(cls, started, contestant, contestant.begin)
        for cls, contestant in list(started.items()):
            self.attempt(cls, started, contestant, contestant.ready)
        return started

    def attempt(self, cls, started, contestant, step):
        try:
            step()
            started[cls] = contestant
        except FAILURES as error:
            started.pop(cls, None)
            self.failed(contestant, None, error)

    def failed(self, contestant, cell, error):
        what = f"{contestant.name}, MTU {contestant.phase.guest}" + (f", {cell.name}" if cell else "")
        self.table.failures[what] = str(error)
        self.progress.say(f"{what}: {type(error).__name__}: {error}")

    def phase_run(self, phase, pairs, started, end):
        """The first round is taken whole, however long it takes."""
        for number in range(self.options["rounds"]):
            for cell, cls in pairs:
                key = phase, cell.name, cls
                self.progress.step(f"MTU {phase.guest}, round {number + 1}, {cell.name}: {cls.name}")
                if cls not in started or self.out.get(key, 0) >= FAILURES_MAX or number and time.monotonic() > end:
                    continue
                try:
                    self.table.add(phase, cls.name, self.sample(cell, started[cls]))
                except FAILURES as error:
                    self.out[key] = self.out.get(key, 0) + 1
                    self.failed(started[cls], cell, error)
                    self.attempt(cls, started, started[cls], started[cls].recover)

    def sample(self, cell, contestant):
        for left in reversed(range(self.options["retries"] + 1)):
            before = self.quiet.wait()
            values = cell.sample(contestant, self.options["seconds"])
            time.sleep(SETTLE_S)
            if before and self.quiet.now():
                return values
            if not left or self.quiet.left <= 0:
                break
            self.table.dropped += 1
        self.table.busy += 1
        return values


def check():
    """Why the part cannot run, or None."""
    if os.geteuid():
        return "network namespaces and taps need root"
    for program in ("bench/pingpong", "bench/udp_gso", "static/bench/udp_gso", "vnetd"):
        if not os.path.exists(f"{contestants.ROOT}/build/{program}"):
            return f"build/{program} is not there: make bench"
    return None


def choices():
    """Everything that --only can choose, one a line."""
    return [f"{phase.guest}/{cell.name}/{cls.name}" for phase in PHASES for cell in CELLS
            for cls in contestants.CONTESTANTS
            if phase in cell.phases and cell.kind == cls.kind and cls.takes(phase)]
