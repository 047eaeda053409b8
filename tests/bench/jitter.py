# SPDX-License-Identifier: GPL-2.0-or-later
"""The part "jitter" of the benchmark: how even the time is that a vCPU gets, next to a process on the same CPU.

Both run the same loop (jitter.h), in turn, pinned to the same CPU; weft's other threads have the remaining ones.
"""
import json
import os
import statistics
import subprocess

from machine import ROOT, Quiet

WEFT, PROCESS, GUEST = (f"{ROOT}/build/{name}" for name in ("weft", "bench/jitter", "guests/jitter.elf"))
FULL = {"rounds": 7, "ms": 2000, "patience": 60}
QUICK = {"rounds": 3, "ms": 1000, "patience": 10}
IDLE_WAIT_S = 5
FIGURES = {"median_ns": "median gap, ns", "p999_ns": "p99.9 gap, ns", "max_ns": "longest gap, ns",
           "over_10us": "gaps over 10 us, 1/s", "over_100us": "gaps over 100 us, 1/s"}
WHO = ("a vCPU of weft", "a process")


def command(who, ms, cpu):
    if who == WHO[1]:
        return [PROCESS, str(ms), str(cpu)]
    others = min(os.sched_getaffinity(0) - {cpu}, default=cpu)
    return [WEFT, "run", "--kernel", GUEST, "--memory", "16M", "--pin", f"vcpu0={cpu},sidecar={others}",
            "--cmdline", f"ms={ms}"]


def sample(who, ms):
    output = subprocess.run(command(who, ms, max(os.sched_getaffinity(0))), capture_output=True, text=True, check=True,
                            stdin=subprocess.DEVNULL).stdout
    got = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    return {name: got[name] * 1000 / ms if name.startswith("over") else got[name] for name in FIGURES}


def check():
    """Why the part cannot run, or None."""
    lacking = next((file for file in (PROCESS, GUEST) if not os.path.exists(file)), None)
    return f"{lacking} is not there: make bench" if lacking else None


def choices(only=()):
    return [f"jitter/{who}" for who in WHO if all(word in f"jitter/{who}" for word in only)]


def estimate(options):
    """Seconds that it takes on a quiet machine."""
    how = QUICK if options.quick else FULL
    return len(choices(options.only)) * how["rounds"] * how["ms"] / 1000


def run(_, options):
    """Measure; the results, or None if nothing was chosen."""
    how = QUICK if options.quick else FULL
    quiet = Quiet(IDLE_WAIT_S, how["patience"])
    if not (chosen := [who for who in WHO if f"jitter/{who}" in choices(options.only)]):
        return None
    taken, busy = {who: [] for who in chosen}, 0
    for _ in range(how["rounds"]):
        for who in chosen:
            busy += not quiet.wait()
            taken[who].append(sample(who, how["ms"]))
    return {"busy_samples": busy, "seconds": how["ms"] / 1000, "samples": taken}


def show(results):
    """Print the results."""
    print(f"{'':40} {'median':>11} {'min':>11} {'max':>11}")
    for who, samples in results["samples"].items():
        for name, label in FIGURES.items():
            values = [each[name] for each in samples]
            print(f"{who + ': ' + label:40} {statistics.median(values):11.1f} {min(values):11.1f} {max(values):11.1f}")
    print(f"  {results['seconds']:g} s a sample; {results['busy_samples']} were taken although the CPUs never became idle.")
