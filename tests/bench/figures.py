# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables for the documents, in Markdown, of what weft-bench --json wrote; tools/docs puts them there."""
import json

from report import FIRST, MTUS, ONE_CPU, number

NONE = "No results yet: `make bench` writes them."
MET, MISSED, UNKNOWN = "met", "**missed**", "-"

# title, phase, metric
NETWORK_ROWS = (
    ("TCP, MTU 1500, Gb/s", FIRST, "TCP stream"),
    ("TCP, MTU 9000, Gb/s", MTUS[1], "TCP stream"),
    ("TCP, MTU 64000, Gb/s", MTUS[2], "TCP stream"),
    ("CPU seconds per GB, MTU 1500", FIRST, "CPU per GB, all"),
    ("UDP round trip, median, µs", FIRST, "UDP round trip p50"),
    ("TCP round trip, median, µs", FIRST, "TCP round trip p50"),
    ("UDP frames of 64 bytes, thousand/s", FIRST, "UDP frames of 64 B"),
    ("all on one CPU: TCP, Gb/s", ONE_CPU, "TCP stream"),
    ("all on one CPU: UDP round trip, µs", ONE_CPU, "UDP round trip p50"),
)
BARE_ROWS = (
    ("largest frames, MTU 1500, Gb/s", FIRST, "largest frames"),
    ("largest frames, MTU 64000 cut to 9000, Gb/s", MTUS[2], "largest frames"),
    ("frames of 64 bytes, thousand/s", FIRST, "frames of 64 B"),
    ("round trip, median, µs", FIRST, "frame round trip p50"),
)
# title, figure of the part vm, what others have; {QEMU} is this run's
OTHER = "QEMU microvm to Linux's init"
VM_ROWS = (
    ("`weft run` to Linux's init", "weft run to Linux's init", "{} ms: QEMU microvm, same kernel, image and memory, same run"),
    ("start of a Linux VM, until its agent answers", "start of a Linux VM", "5.3 s: ttylinux VM, published (HPC-VM framework)"),
    ("stop of a Linux VM", "stop of a Linux VM", "5.0 s: published"),
    ("CPU time to a unikernel's first instruction", "CPU time to a unikernel's first instruction", ""),
    ("CPU time to Linux's first instruction", "CPU time to Linux's first instruction", ""),
    ("resident memory less guest RAM, dynamic build", "resident memory, dynamic", "5 MiB: Firecracker's promise"),
    ("the same, static build", "resident memory, static", ""),
    ("memory used in a fresh guest (`free`)", "memory used in a fresh guest", "23.6 MB: published"),
)
FACTORS = {"at least": lambda value, limit: value >= limit, "at most": lambda value, limit: value <= limit}


def markdown(head, rows):
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


class Results:
    """Medians by what they are of."""

    def __init__(self, results):
        self.results = results
        self.rows = {(part, row["phase"], row["metric"], row["contestant"]): row["median"]
                     for part in ("network", "modes") for row in results.get(part, {}).get("rows", ())}
        self.figures = {figure["name"]: figure for figure in results.get("vm", {}).get("figures", ())}

    def median(self, phase, metric, contestant, part="network"):
        return self.rows.get((part, phase, metric, contestant))

    def ratio(self, phase, metric, one, other):
        """One contestant's median by another's, or None."""
        first, second = self.median(phase, metric, one), self.median(phase, metric, other)
        return first / second if first is not None and second else None


def machine_line(results):
    machine = results.results["machine"]
    samples = max((row["samples"] for row in results.results.get("network", {}).get("rows", ())), default=0)
    return (f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['kvm']}, Linux {machine['kernel']}, QEMU {machine['qemu']}; "
            f"medians of up to {samples} samples" + (", a quick run" if results.results["quick"] else "") + ".")


def contestants_table(results, rows):
    """A column for each contestant that has one of the rows."""
    names = [name for name in results.results.get("network", {}).get("contestants", ())
             if any(results.median(phase, metric, name) is not None for _, phase, metric in rows)]
    return markdown(["", *names], ([title, *(number(results.median(phase, metric, name)) for name in names)]
                                   for title, phase, metric in rows))


def network_table(results):
    return f"{contestants_table(results, NETWORK_ROWS)}\n\n{machine_line(results)}"


def bare_table(results):
    return contestants_table(results, BARE_ROWS)


def vm_table(results):
    other = results.figures.get(OTHER)
    rows = []
    for title, name, compare in VM_ROWS:
        if figure := results.figures.get(name):
            compare = compare.format(f"{other['median']:.0f}" if other else "-")
            rows.append([title, f"{number(round(figure['median'], 1))} {figure['unit']}", compare])
    return markdown(["", "weft", "to compare with"], rows)


# --- targets ----------------------------------------------------------------------------------

def against(title, limit, factor, phase, metric, one, other):
    """A row: one contestant's figure by another's."""
    def row(results):
        value = results.ratio(phase, metric, one, other)
        pair = [number(results.median(phase, metric, name)) for name in (one, other)]
        return title, f"{limit} {factor}", f"{number(value)} ({pair[0]} : {pair[1]})", judge(value, limit, factor)
    return row


def counted(title, limit, bound, metric, part, contestant):
    """A row: an event counter."""
    def row(results):
        value = results.median(FIRST, metric, contestant, part)
        return title, f"{limit} {bound}", number(value), judge(value, limit, bound)
    return row


def auto_row(results):
    found = results.results.get("modes", {}).get("ratios", ())
    worst = min(found, key=lambda each: each["auto"] or 0, default=None)
    value = worst["auto"] if worst else None
    title = "auto by the better fixed mode, worst cell" + (f": {worst['metric']}" if worst else "")
    return title, "at least 0.9", number(value), judge(value, "at least", 0.9)


def judge(value, limit, bound):
    if value is None:
        return UNKNOWN
    return MET if FACTORS[limit](value, bound) else MISSED


UDP, SHM, VXLAN = "weft udp", "weft shm", "QEMU VXLAN"
TARGETS = (
    against("TCP, MTU 1500: udp by QEMU VXLAN", "at least", 1.5, FIRST, "TCP stream", UDP, VXLAN),
    against("TCP, MTU 9000: udp by QEMU VXLAN", "at least", 1.5, MTUS[1], "TCP stream", UDP, VXLAN),
    against("UDP round trip: udp by QEMU VXLAN", "at most", 0.7, FIRST, "UDP round trip p50", UDP, VXLAN),
    against("TCP round trip: udp by QEMU VXLAN", "at most", 0.7, FIRST, "TCP round trip p50", UDP, VXLAN),
    against("frames of 64 bytes: udp by QEMU VXLAN", "at least", 3, FIRST, "UDP frames of 64 B", UDP, VXLAN),
    against("CPU per GB, MTU 1500: udp by QEMU VXLAN", "at most", 0.6, FIRST, "CPU per GB, all", UDP, VXLAN),
    against("CPU per GB, MTU 9000: udp by QEMU VXLAN", "at most", 0.6, MTUS[1], "CPU per GB, all", UDP, VXLAN),
    against("TCP, MTU 1500: udp by VNET/U", "at least", 5, FIRST, "TCP stream", UDP, "VNET/U"),
    against("largest frames, MTU 64000: netbench shm by udp", "at least", 2, MTUS[2], "largest frames", "netbench shm",
            "netbench udp"),
    against("round trip: netbench shm by udp", "at most", 0.33, FIRST, "frame round trip p50", "netbench shm", "netbench udp"),
    against("largest frames, MTU 64000: netbench udp by raw UDP GSO", "at least", 0.8, MTUS[2], "largest frames", "netbench udp",
            "raw UDP GSO"),
    against("the same by raw UDP GSO of as much memory", "at least", 0.8, MTUS[2], "largest frames", "netbench udp",
            "raw UDP GSO, 16 MiB"),
    counted("doorbells rung per frame, VMM-driven", "at most", 0.001, "sender: doorbells per frame", "modes", "vmm"),
    counted("system calls per frame, sender", "at most", 2, "sender: syscalls per frame", "network", UDP),
    counted("system calls per frame, receiver", "at most", 2, "receiver: syscalls per frame", "network", UDP),
    counted("copies per byte sent, with the acknowledgements' that come in", "at most", 0.01, "sender: copies per byte",
            "network", UDP),
    counted("copies per byte received", "at most", 1.01, "receiver: copies per byte", "network", UDP),
    auto_row,
)


def targets_table(results):
    return markdown(["target", "wanted", "measured", ""], (row(results) for row in TARGETS))


def modes_table(results):
    part = results.results.get("modes", {})
    rows = [[each["metric"], *(number(results.median(FIRST, each["metric"], name, "modes")) for name in ("guest", "vmm", "auto")),
             number(each["auto"])] for each in part.get("ratios", ())]
    held = "; ".join(f"{each['switches_per_s']:.2f} switches a second at `{each['threshold']}` ({each['frames']} frames a window)"
                     for each in part.get("flapping", ()))
    table_text = markdown(["", "guest", "vmm", "auto", "auto by the better"], rows)
    return table_text + (f"\n\nA load held at a threshold: {held}." if held else "")


TABLES = {"network": network_table, "bare": bare_table, "vm": vm_table, "targets": targets_table, "modes": modes_table}


def table(name, path):
    """The table of that name of a file of results."""
    try:
        with open(path, encoding="ascii") as file:
            results = Results(json.load(file))
    except FileNotFoundError:
        return NONE
    return TABLES[name](results)
