# SPDX-License-Identifier: GPL-2.0-or-later
"""The part "modes" of the benchmark: guest-driven, VMM-driven and auto, by the same cells in the same run.

Theory of operation: the run is that of network.py with other contestants. What is asked is whether auto is as good as whichever
fixed mode is better in a cell, and whether it holds still: two unikernels exchange round trips at just the rate of a threshold,
and the switches that auto makes are counted.
"""
import dataclasses
import itertools
import statistics
import time

import contestants
import network
import report
from cells import CELLS, FIRST, HIGHER, metric_of
from unikernels import Unikernels
from weft import Control

NAMES = ("stream", "both", "udp64", "udp-trip", "tcp-trip", "udp-trip-loaded", "tcp-trip-loaded")
FULL, QUICK = {"patience": 150, "rounds": 11}, {"limit": 30, "patience": 5}  # where they differ from network's
JUDGED = ("TCP stream", "TCP both ways", "UDP frames of 64 B", "UDP round trip p50", "TCP round trip p50",
          "UDP round trip, loaded p50", "TCP round trip, loaded p50")
AUTO, FIXED = contestants.WeftAuto.name, (contestants.WeftGuestDriven.name, contestants.WeftVmmDriven.name)
HELD_S = 3  # a load is held at a threshold


def cells():
    """At the first MTU only, where the rate of frames is highest."""
    return [dataclasses.replace(cell, phases=FIRST, quick=FIRST if cell.quick else ()) for cell in CELLS if cell.name in NAMES]


# --- auto against the better fixed mode -------------------------------------------------------

def goodness(metric, value, best):
    """How many times as good as the best a value is."""
    high, low = (value, best) if metric_of(metric).better == HIGHER else (best, value)
    return high / low if low else None


def by_pairs(metric, row, other):
    """How many times as good a row is as another: median over all pairs of their samples (Hodges and Lehmann 1963).

    Loaded round trips are of two kinds: most wait in the queue that the stream has built, but in one sample in eight the stream's
    TCP makes do with a small window (one in thirty where HyStart is off), there is no queue, and they take a seventh of the time. A
    median of the rounds' ratios turns on which rounds have such a sample.
    """
    return statistics.median(goodness(metric, *pair) or 0 for pair in itertools.product(row["values"], other["values"]))


def ratios(rows):
    """For each judged metric, the better of the fixed modes and how good all are compared with it."""
    found = []
    for metric in JUDGED:
        of = {row["contestant"]: row for row in rows if row["metric"] == metric}
        if not of.keys() >= {AUTO, *FIXED}:
            continue
        pick = max if metric_of(metric).better == HIGHER else min
        better = pick(FIXED, key=lambda name, of=of: of[name]["median"])
        best = of[better]["median"]
        found.append({"metric": metric, "better": better, "auto": by_pairs(metric, of[AUTO], of[better]),
                      "all": {name: sorted(goodness(metric, row[key], best) or 0 for key in ("median", "min", "max"))
                              for name, row in of.items()}})
    return found


def ratios_print(found):
    print(f"\n{'auto and the better of the fixed modes':42} {'better':>9} {'auto / it':>10}")
    for each in found:
        print(f"  {each['metric']:40} {each['better']:>9} {report.number(each['auto']):>10}")


# --- a load at a threshold --------------------------------------------------------------------

def queues(pair):
    """What auto knows of each direction of both NICs: {(role, direction): row}"""
    found = {}
    for role in ("server", "client"):
        with Control(pair.control_path(role)) as control:
            for row in control.request("overlay", line="mode")["result"]:
                found[role, row["direction"]] = row
    return found


def rules(directory):
    """The thresholds that are the default."""
    with Unikernels(directory, "mode=auto", "test=pingpong count=1") as pair:
        pair.report()
        with Control(pair.control_path("server")) as control:
            return control.request("overlay", line="mode")["result"][0]


def held(directory, threshold, window_us):
    """Switches a second, of the direction that switches most, under a load at a threshold."""
    rate = threshold * 1000000 // window_us
    with Unikernels(directory, "mode=auto", f"test=load rate={rate} seconds=100") as pair:
        pair.client.wait_output("load begins")
        before, begin = queues(pair), time.monotonic()
        time.sleep(HELD_S)
        after, passed = queues(pair), time.monotonic() - begin
    return max(after[key]["switches"] - before[key]["switches"] for key in before) / passed


def flapping(directory):
    """[{threshold, frames in a window, switches a second}]"""
    default = rules(directory)
    return [{"threshold": name, "frames": default[name],
             "switches_per_s": held(directory, default[name], default["window_us"])} for name in ("up", "down")]


def flapping_print(found):
    print(f"\n{'A load held at a threshold':42} {'frames':>9} {'switches/s':>10}")
    for each in found:
        print(f"  {each['threshold']:40} {each['frames']:>9} {each['switches_per_s']:>10.2f}")


# --- the part ---------------------------------------------------------------------------------

def bench_of(directory, options):
    preset = {**network.QUICK, **QUICK} if options.quick else {**network.FULL, **FULL}
    return network.Run(directory, options, preset, contestants.BY_MODE, cells())


def estimate(options):
    """Seconds that it takes on a quiet machine."""
    return bench_of(None, options).estimate() + (0 if options.only else 2 * HELD_S)


def run(directory, options):
    """Measure; the results, or None if nothing was chosen."""
    bench = bench_of(directory, options)
    if not bench.plan():
        return None
    results = report.network_results(bench.run(), bench)
    results["ratios"] = ratios(results["rows"])
    results["flapping"] = []
    if not options.only:
        try:
            results["flapping"] = flapping(directory)
        except network.FAILURES as error:
            results["failures"]["a load held at a threshold"] = str(error)
    return results


def show(results):
    """Print the results."""
    report.network_print(results)
    ratios_print(results["ratios"])
    if results["flapping"]:
        flapping_print(results["flapping"])


def check():
    """Why the part cannot run, or None."""
    return network.check()


def choices():
    """Everything that --only can choose, one a line."""
    return network.choices(contestants.BY_MODE, cells())
