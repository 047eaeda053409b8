# SPDX-License-Identifier: GPL-2.0-or-later
"""What the parts network and modes print and draw."""
import itertools
import os
import shutil
import subprocess
import sys
import textwrap

FIRST, ONE_CPU = "MTU 1500", "MTU 1500, one CPU"
MTUS = (FIRST, "MTU 9000", "MTU 64000")


def network_results(table, run):
    """The run as JSON."""
    return {"rows": table.rows(), "failures": table.failures, "busy_samples": table.busy, "dropped_samples": table.dropped,
            "waited_s": round(run.quiet.waited, 1), "estimated_s": round(run.estimate()), "took_s": round(run.progress.seconds()),
            "references": [next((cls.name for cls in table.field if cls.kind == kind), None) for kind in ("machines", "frames")],
            "contestants": {cls.name: cls.about for cls in table.field if cls.name in table.contestants()}}


# --- table ------------------------------------------------------------------------------------

def number(value):
    """As many digits as say something."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def heading(row):
    return f"{row['phase']}: {row['metric']}" + (f", {row['unit']}" if row["unit"] else "")


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
    print(f"\n{'Events of weft, medians during the TCP stream':52}" + "".join(f" {name:>9}" for name in names))
    for title, group in itertools.groupby(rows, heading):
        medians = {row["contestant"]: row["median"] for row in group}
        print(f"  {title:50}" + "".join(f" {number(medians.get(name)):>9}" for name in names))


def network_print(results):
    """Everything, for people."""
    rows_print([row for row in results["rows"] if not row["count"]])
    if events := [row for row in results["rows"] if row["count"]]:
        events_print(events)
    print("\nContestants")
    for name, about in results["contestants"].items():
        print(f"  {name:19} {about}")
    print(f"\nSamples taken although the CPUs were not quiet: {results['busy_samples']}; dropped and taken again: "
          f"{results['dropped_samples']}; waited for quiet CPUs: {results['waited_s']} s")
    for what, error in results["failures"].items():
        print(f"Failed: {what}: {error}")


# --- plots ------------------------------------------------------------------------------------

def by_mtu(metric, *more):
    return tuple((title, title, metric) for title in MTUS) + more


def trips(percentile):
    return (("UDP", FIRST, f"UDP round trip {percentile}"), ("TCP", FIRST, f"TCP round trip {percentile}"))


def trips_loaded(percentile):
    return tuple((label, phase, metric.replace(" trip ", " trip, loaded ")) for label, phase, metric in trips(percentile))


# file, title, unit, whether the axis is logarithmic, groups of bars: label, phase, metric
PLOTS = (
    ("stream", "TCP, one connection: more is better", "Gb/s", False,
     by_mtu("TCP stream", ("MTU 1500, both ways", FIRST, "TCP both ways"), ("MTU 1500, all on one CPU", ONE_CPU, "TCP stream"))),
    ("cpu", "CPU time of the whole host for a gigabyte of TCP: less is better", "s", False,
     by_mtu("CPU per GB, all", ("MTU 1500, all on one CPU", ONE_CPU, "CPU per GB, all"))),
    ("round-trip", "Round trip of 64 bytes, median, nothing else going on: less is better", "µs", False,
     (*trips("p50"), ("UDP after 50 ms of rest", FIRST, "round trip after idle p50"),
      ("UDP, all on one CPU", ONE_CPU, "UDP round trip p50"))),
    ("round-trip-loaded", "Round trip of 64 bytes beside a TCP stream, median: less is better", "µs", True, trips_loaded("p50")),
    ("round-trip-tail", "Round trip of 64 bytes, 99th percentile: less is better", "µs", True,
     (*trips("p99"), *((f"{label}, loaded", phase, metric) for label, phase, metric in trips_loaded("p99")))),
    ("frames", "UDP frames received: more is better", "thousand/s", False,
     (("64 bytes", FIRST, "UDP frames of 64 B"), ("1400 bytes", FIRST, "UDP frames of 1400 B"))),
    ("connections", "TCP connections opened, used once and closed: more is better", "1/s", False,
     ((FIRST, FIRST, "TCP connections"),)),
    ("bare-frames", "Largest frames, without a guest's kernel: more is better", "Gb/s", False, by_mtu("largest frames")),
    ("bare-round-trip", "Round trip of a frame, without a guest's kernel: less is better", "µs", False,
     (("median", FIRST, "frame round trip p50"), ("99th percentile", FIRST, "frame round trip p99"))),
)
MODES_TITLE = "Each mode against the better fixed one of a cell (1): more is better"

# Okabe and Ito's colours, which colour-blind people can tell apart; a contestant keeps its own in all plots.
COLOURS = {"weft udp": "#0072b2", "weft eth": "#56b4e9", "weft shm": "#009e73", "QEMU VXLAN": "#d55e00", "QEMU UDP": "#e69f00",
           "VNET/U": "#cc79a7", "native veth": "#999999", "netbench udp": "#0072b2", "netbench eth": "#56b4e9",
           "netbench shm": "#009e73", "raw UDP GSO": "#999999", "raw UDP GSO, 16 MiB": "#555555", "auto": "#0072b2",
           "guest": "#e69f00", "vmm": "#009e73"}

HEAD = """set terminal svg size 1000,440 font 'sans,13' background rgb 'white'
set output '{file}'
set title "{title}"
set ylabel "{unit}"
{axis}
set grid y
set border 3
set tics nomirror
set style data histogram
set style histogram errorbars gap 1.5 lw 1.2
set style fill solid 0.9 border rgb '#333333'
set boxwidth 0.92
set bmargin 5
set key outside right top reverse Left
"""
AXIS = {False: "set yrange [0:*]", True: "set logscale y"}
MISSING = "NaN NaN NaN"
LABEL_WIDTH = 12


def bars(results, groups):
    """{contestant: {label: (value, low, high)}}: medians, with the least and the largest sample."""
    by_key = {(row["phase"], row["metric"], row["contestant"]): row for row in results["rows"]}
    found = {}
    for name in results["contestants"]:
        values = {label: (row["median"], row["min"], row["max"]) for label, phase, metric in groups
                  if (row := by_key.get((phase, metric, name)))}
        if values:
            found[name] = values
    return found


def modes_bars(ratios):
    """The same of the modes, as parts of the better fixed one."""
    found = {}
    for each in ratios:
        for name, (low, median, high) in each["all"].items():
            found.setdefault(name, {})[each["metric"]] = (median, low, high)
    return found


def folded(label):
    """In lines that fit under a group of bars."""
    return "\\n".join(textwrap.wrap(label, LABEL_WIDTH))


def plot_script(series, path, title, unit, logarithmic=False):
    """For gnuplot: a series of bars for each contestant."""
    labels = list(dict.fromkeys(label for values in series.values() for label in values))
    script = HEAD.format(file=path, title=title, unit=unit, axis=AXIS[logarithmic])
    for index, values in enumerate(series.values()):
        lines = [f'"{folded(label)}" ' + (" ".join(f"{value:g}" for value in values[label]) if label in values else MISSING)
                 for label in labels]
        script += f"$data{index} << END\n" + "\n".join(lines) + "\nEND\n"
    return script + "plot " + ", ".join(
        f"$data{index} using 2:3:4:xtic(1) title \"{name}\" lc rgb '{COLOURS.get(name, '#000000')}'"
        for index, name in enumerate(series)) + "\n"


def plots_of(results):
    """The scripts: file, series, title, unit, logarithmic."""
    for file, title, unit, logarithmic, groups in PLOTS:
        yield file, bars(results.get("network", {"rows": [], "contestants": {}}), groups), title, unit, logarithmic
    yield "modes", modes_bars(results.get("modes", {}).get("ratios", ())), MODES_TITLE, "", False


def plots_write(results, directory):
    """Draw what there are results of."""
    if not shutil.which("gnuplot"):
        print("weft-bench: no plots: gnuplot is not there", file=sys.stderr)
        return
    os.makedirs(directory, exist_ok=True)
    for file, series, *how in plots_of(results):
        if series:
            subprocess.run(["gnuplot"], input=plot_script(series, f"{directory}/{file}.svg", *how), text=True, check=True)
