# SPDX-License-Identifier: GPL-2.0-or-later
"""The part "network" of the benchmark: runs the contestants and takes their samples.

Theory of operation: the run has a phase for each pair of MTUs, and one in which everything shares a CPU. In a phase all
contestants run at once. A round takes one sample of each cell from each contestant, so that what changes on the machine meanwhile
meets all of them; every other round goes backwards, so that nobody always comes after the same one. A sample waits until the CPUs
are quiet, which they are if they were after the sample before it; if they are not quiet afterwards, when every contestant should
have gone to sleep, or if the hypervisor took CPUs away meanwhile, somebody else was at work: the sample is dropped and taken again,
RETRIES times, and then kept and counted as busy. A contestant that fails FAILURES_MAX samples of a cell is left out of that cell.
"""
import contextlib
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time

import contestants
import report
from cells import ALL_PHASES, CELLS, metric_of
from hosts import CommandError
from machine import LOOK_S, STOLEN_SHARE, Progress, Quiet, cpu_times, stolen_share

RETRIES = 2
FAILURES_MAX = 3
BEGIN_S = 2           # to start a phase's contestants, each
FAILURES = (CommandError, AssertionError, OSError, subprocess.SubprocessError, json.JSONDecodeError, KeyError, StopIteration)
FULL = {"rounds": 7, "seconds": 1, "once": 10, "patience": 600, "limit": float("inf"), "retries": RETRIES}
QUICK = {"rounds": 3, "seconds": 1, "once": 1, "patience": 10, "limit": 75, "retries": 0}


class Table:
    """Values by phase, metric and contestant."""

    def __init__(self, field=contestants.CONTESTANTS):
        """The first of the field that has a metric is what the others are compared with."""
        self.field = field
        self.values = {}
        self.failures = {}
        self.busy = self.dropped = 0

    def add(self, phase, contestant, values):
        for metric, value in values.items():
            self.values.setdefault((phase, metric, contestant), []).append(value)

    def contestants(self):
        return {contestant for _, _, contestant in self.values}

    def rows(self):
        """For each phase, metric and contestant: median, least, most, and how many times as good the reference is."""
        rows = []
        for (phase, name, contestant), values in self.values.items():
            metric = metric_of(name)
            rows.append({"phase": phase.title, "metric": name, "unit": metric.unit, "better": metric.better,
                         "count": metric.count, "contestant": contestant, "samples": len(values),
                         "median": statistics.median(values), "min": min(values), "max": max(values), "values": values,
                         "ratio": self.ratio(phase, name, values)})
        phases = [phase.title for phase in ALL_PHASES]
        order = [cls.name for cls in self.field]
        metrics = [metric.name for cell in CELLS for metric in cell.metrics]
        return sorted(rows, key=lambda row: (phases.index(row["phase"]), metrics.index(row["metric"]),
                                             order.index(row["contestant"])))

    def ratio(self, phase, metric, values):
        """The reference's median by these values' median."""
        reference = next((found for cls in self.field if (found := self.values.get((phase, metric, cls.name)))), None)
        median = statistics.median(values)
        return statistics.median(reference) / median if reference and median else None


class Run:
    def __init__(self, directory, options, preset, field=contestants.CONTESTANTS, cells=CELLS):
        """The options are those of the command line; they replace the preset's, which are like FULL."""
        self.directory, self.quick, self.only, self.ib = directory, options.quick, options.only, options.ib
        self.field, self.cells = field, cells
        chosen = {"rounds": options.samples, "patience": options.patience}
        self.options = {**preset, **{name: value for name, value in chosen.items() if value is not None}}
        self.table = Table(field)
        self.quiet = Quiet(self.options["once"], self.options["patience"])
        self.was_quiet = False  # after the last sample
        self.out = {}  # (phase, cell, contestant): failures
        self.progress = Progress(sum(len(pairs) for pairs in self.plan().values()) * self.options["rounds"])

    def plan(self):
        """{phase: [(cell, contestant's class)]}"""
        return {phase: pairs for phase in ALL_PHASES if (pairs := self.pairs(phase))}

    def pairs(self, phase):
        return [(cell, cls) for cell in self.cells for cls in self.field
                if cell.takes(cls, phase) and not contestants.missing(cls, self.ib)
                and (not self.quick or phase in cell.quick and cls.quick)
                and (not cls.asked or any(word in cls.asked or cls.asked in word for word in self.only))
                and all(word in line_of(phase, cell, cls) for word in self.only)]

    def estimate(self):
        """Seconds of a run on a quiet machine."""
        samples = sum(cell.length * self.options["seconds"] + cell.extra + cls.settle_s + LOOK_S
                      for pairs in self.plan().values() for cell, cls in pairs)
        starts = sum(len({cls for _, cls in pairs}) for pairs in self.plan().values()) * BEGIN_S
        return min(samples * self.options["rounds"], self.options["limit"]) + starts

    def left_out_say(self):
        for cls in self.field:
            if why := contestants.missing(cls, self.ib):
                self.progress.say(f"{cls.name} is left out: {why}")

    def run(self):
        self.left_out_say()
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
        lab = contestants.Lab(stack.enter_context(tempfile.TemporaryDirectory(dir=self.directory)), phase, self.ib)
        stack.callback(lab.close)
        started = {}
        for number, cls in enumerate(self.field):
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
        what = f"{contestant.name}, {contestant.phase.title}" + (f", {cell.name}" if cell else "")
        self.table.failures[what] = str(error)
        self.progress.say(f"{what}: {type(error).__name__}: {error}")

    def phase_run(self, phase, pairs, started, end):
        """The first round is taken whole, however long it takes."""
        for number in range(self.options["rounds"]):
            for cell, cls in reversed(pairs) if number % 2 else pairs:
                key = phase, cell.name, cls
                self.progress.step(f"{phase.title}, round {number + 1}, {cell.name}: {cls.name}")
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
            before = self.was_quiet or self.quiet.wait()
            self.was_quiet = False
            begin = cpu_times()
            values = cell.sample(contestant, cell.length * self.options["seconds"])
            undisturbed = before and stolen_share(begin) <= STOLEN_SHARE
            time.sleep(contestant.settle_s)
            self.was_quiet = self.quiet.now()
            if undisturbed and self.was_quiet:
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


def line_of(phase, cell, cls):
    return f"{phase.name}/{cell.name}/{cls.name}"


def choices(field=contestants.CONTESTANTS, cells=CELLS):
    """Everything that --only can choose, one a line."""
    return [line_of(phase, cell, cls) for phase in ALL_PHASES for cell in cells for cls in field if cell.takes(cls, phase)]


def bench_of(directory, options):
    return Run(directory, options, QUICK if options.quick else FULL)


def estimate(options):
    """Seconds that it takes on a quiet machine."""
    return bench_of(None, options).estimate()


def run(directory, options):
    """Measure; the results, or None if nothing was chosen."""
    bench = bench_of(directory, options)
    if not bench.plan():
        bench.left_out_say()
        return None
    return report.network_results(bench.run(), bench)


show = report.network_print
