# SPDX-License-Identifier: GPL-2.0-or-later
"""What the network part prints, writes and draws."""
import itertools
import os
import shutil
import subprocess
import sys

import contestants

REFERENCES = [next(cls.name for cls in contestants.CONTESTANTS if cls.kind == kind) for kind in ("machines", "frames")]

# file, title, unit, metrics with the whiskers' upper end (None: the largest sample), only this MTU
PLOTS = (
    ("stream", "TCP stream, one connection", "Gb/s", (("TCP stream", None),), None),
    ("cpu", "CPU time for a gigabyte of TCP, all CPUs and the kernel included", "s", (("CPU per GB, all", None),), None),
    ("round-trip", "Round trip of 64 bytes, median; whiskers to the 99th percentile", "µs",
     tuple((f"{name} p50", f"{name} p99") for name in ("UDP round trip", "TCP round trip")), 1500),
    ("round-trip-loaded", "The same beside a TCP stream", "µs",
     tuple((f"{name} p50", f"{name} p99") for name in ("UDP round trip, loaded", "TCP round trip, loaded")), 1500),
    ("frames", "UDP frames", "thousand/s", (("UDP frames of 64 B", None), ("UDP frames of 1400 B", None)), 1500),
    ("bare-frames", "Largest frames, no guest's kernel", "Gb/s", (("largest frames", None),), None),
)


def network_results(table, run):
    return {"rows": table.rows(), "failures": table.failures, "busy_samples": table.busy, "dropped_samples": table.dropped,
            "waited_s": round(run.quiet.waited, 1), "references": REFERENCES,
            "contestants": {cls.name: cls.about for cls in contestants.CONTESTANTS if cls.name in table.contestants()}}


# --- table ------------------------------------------------------------------------------------

def number(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def heading(row):
    return f"MTU {row['mtu']}: {row['metric']}" + (f", {row['unit']}" if row["unit"] else "")


def rows_print(rows):
    """A block for each metric, a line for each contestant."""
    for title, group in itertools.groupby(rows, heading):
        group = list(group)
        print(f"\n{title:42} {'median':>9} {'min':>9} {'max':>9} {'n':>3} {group[0]['contestant']} / this")
        for row in group:
            print(f"  {row['contestant']:40} {number(row['median']):>9} {number(row['min']):>9} {number(row['max']):>9}"
                  f" {row['samples']:>3} {number(row['ratio']):>9}")


def events_print(rows):
    """A line for each event, a column for each contestant."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    print(f"\n{'Events of weft, medians during the TCP stream':42}" + "".join(f" {name:>9}" for name in names))
    for title, group in itertools.groupby(rows, heading):
        medians = {row["contestant"]: row["median"] for row in group}
        print(f"  {title:40}" + "".join(f" {number(medians.get(name)):>9}" for name in names))


def network_print(results):
    rows_print([row for row in results["rows"] if not row["count"]])
    if events := [row for row in results["rows"] if row["count"]]:
        events_print(events)
    print("\nContestants")
    for name, about in results["contestants"].items():
        print(f"  {name:14} {about}")
    print(f"\nSamples taken although the CPUs were not quiet: {results['busy_samples']}; dropped and taken again: "
          f"{results['dropped_samples']}; waited for quiet CPUs: {results['waited_s']} s")
    for what, error in results["failures"].items():
        print(f"Failed: {what}: {error}")


# --- plots ------------------------------------------------------------------------------------

HEAD = """set terminal svg size 900,420 font 'sans,13' background rgb 'white'
set output '{file}'
set title "{title}"
set ylabel "{unit}"
set yrange [0:*]
set grid y
set border 3
set tics nomirror
set style data histogram
set style histogram errorbars gap 1 lw 1.2
set style fill solid 0.75 border -1
set boxwidth 0.9
set xtics rotate by -25
set key above
set linetype 1 lc rgb '#2f6f9f'
set linetype 2 lc rgb '#d98e32'
set linetype 3 lc rgb '#6a9a5b'
"""


def bars(results, metrics, only_mtu):
    """[(title of a series, {contestant: (value, low, high)})]"""
    by_key = {(row["mtu"], row["metric"], row["contestant"]): row for row in results["rows"]}
    series = []
    for mtu in sorted({row["mtu"] for row in results["rows"]}):
        for metric, upper in metrics:
            values = {}
            for name in results["contestants"]:
                if not (row := by_key.get((mtu, metric, name))) or only_mtu not in (None, mtu):
                    continue
                low, high = row["min"], row["max"]
                if upper:
                    low, high = row["median"], by_key[mtu, upper, name]["median"]
                values[name] = row["median"], low, high
            if values:
                series.append((f"MTU {mtu}" if only_mtu is None else metric.split(" p50")[0], values))
    return series


def plot_script(series, path, title, unit):
    names = [name for name in (cls.name for cls in contestants.CONTESTANTS) if any(name in values for _, values in series)]
    script = HEAD.format(file=path, title=title, unit=unit)
    for index, (_, values) in enumerate(series):
        lines = [f'"{name}" ' + " ".join(f"{value:g}" for value in values.get(name, ())) if name in values
                 else f'"{name}" NaN NaN NaN' for name in names]
        script += f"$data{index} << END\n" + "\n".join(lines) + "\nEND\n"
    return script + "plot " + ", ".join(f"$data{index} using 2:3:4:xtic(1) title \"{label}\""
                                        for index, (label, _) in enumerate(series)) + "\n"


def plots_write(results, directory):
    if not shutil.which("gnuplot"):
        print("weft-bench: no plots: gnuplot is not there", file=sys.stderr)
        return
    os.makedirs(directory, exist_ok=True)
    for file, title, unit, metrics, mtu in PLOTS:
        if series := bars(results, metrics, mtu):
            script = plot_script(series, f"{directory}/{file}.svg", title, unit)
            subprocess.run(["gnuplot"], input=script, text=True, check=True)
