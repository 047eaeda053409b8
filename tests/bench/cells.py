# SPDX-License-Identifier: GPL-2.0-or-later
"""The cells of the table: what is measured. A cell takes a sample from a contestant and gives a value for each of its metrics."""
import dataclasses
import json
import os
import typing

import contestants
from hosts import PATIENCE, CommandError
from machine import cpu_busy, process_seconds

HIGHER, LOWER = "higher", "lower"
FRAME_64_PAYLOAD = 22     # of UDP in a frame of 64 bytes with its checksum, as Ethernet counts them
FRAME_1400_PAYLOAD = 1358
LOAD_FIRST_S = 0.3        # for which a load runs before what is measured under it
PAUSE_MS = 50             # long enough that every thread on the way has gone to sleep
PHASES = (contestants.Phase(1500, 1500), contestants.Phase(9000, 9000), contestants.Phase(contestants.MTU_LARGEST, 9000))
FIRST = PHASES[:1]
ONE_CPU = (contestants.Phase(1500, 1500, str(min(os.sched_getaffinity(0)))),)
ALL_PHASES = (*PHASES, *ONE_CPU)


@dataclasses.dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    better: str
    count: bool = False  # an event counter of weft's, not a figure to compare


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    kind: str                  # of the contestants that it is for
    sample: typing.Callable    # (contestant, seconds) -> {metric name: value}
    metrics: tuple
    phases: tuple = PHASES
    quick: tuple = ()          # phases in a quick run
    length: float = 1          # of a sample, in those of the run
    extra: float = 0.1         # seconds that a sample takes beyond that

    def takes(self, contestant, phase):
        return self.kind == contestant.kind and phase in self.phases and contestant.takes(phase)


# --- streams by iperf3 ------------------------------------------------------------------------

def iperf(contestant, seconds, *options):
    """The end of iperf3's report."""
    output = contestant.client.run("iperf3", "--json", "--client", contestant.address, "--time", str(seconds),
                                   "--interval", "0", *options)
    report = json.loads(output)
    if "error" in report:
        raise CommandError(f"iperf3: {report['error']}")
    return report["end"]


def counts(before, after):
    """Events per frame on the sending and on the receiving side of a stream."""
    values = {}
    for side, frames, old, new in zip(("sender", "receiver"), ("sent", "received"), before, after):
        delta = {name: new[name] - old[name] for name in new}
        many = max(delta[frames], 1)
        for event in ("syscalls", "doorbells", "interrupts", "exits"):
            values[f"{side}: {event} per frame"] = delta[event] / many
        values[f"{side}: copies per byte"] = delta["copied"] / max(delta[f"{frames}_bytes"], 1)
        values[f"{side}: bytes a frame"] = delta[f"{frames}_bytes"] / many
    return values


def stream(contestant, seconds):
    before = contestant.counters()
    busy, own = cpu_busy(), process_seconds(contestant.pids())
    received = iperf(contestant, seconds)["sum_received"]
    busy, own = cpu_busy() - busy, process_seconds(contestant.pids()) - own
    gigabytes = max(received["bytes"] / 1e9, 1e-9)
    values = {"TCP stream": received["bits_per_second"] / 1e9, "CPU per GB, all": busy / gigabytes}
    if contestant.pids():
        values["CPU per GB, VMMs"] = own / gigabytes
    if before:
        values.update(counts(before, contestant.counters()))
    return values


def stream_back(contestant, seconds):
    return {"TCP stream back": iperf(contestant, seconds, "--reverse")["sum_received"]["bits_per_second"] / 1e9}


def stream_both(contestant, seconds):
    end = iperf(contestant, seconds, "--bidir")
    return {"TCP both ways": sum(end[name]["bits_per_second"]
                                 for name in ("sum_received", "sum_received_bidir_reverse")) / 1e9}


def frames_of(payload, name):
    def sample(contestant, seconds):
        return {name: contestant.datagrams(payload, seconds)["frames"] / 1e3}
    return sample


# --- round trips by pingpong ------------------------------------------------------------------

def pingpong(contestant, *options):
    return json.loads(contestant.client.run("pingpong", contestant.address, "--json", *options))


def percentiles(name, got):
    return {f"{name} p50": got["p50_us"], f"{name} p99": got["p99_us"], f"{name} p99.9": got["p999_us"]}


def idle_trip(protocol):
    def sample(contestant, seconds):
        return percentiles(f"{protocol} round trip", pingpong(contestant, f"--{protocol.lower()}", "--seconds", str(seconds)))
    return sample


def loaded_trip(protocol):
    def sample(contestant, seconds):
        load = f"iperf3 --client {contestant.address} --time {PATIENCE} >/dev/null 2>&1 & load=$!; sleep {LOAD_FIRST_S}"
        trip = f"pingpong {contestant.address} --{protocol.lower()} --json --seconds {seconds}"
        got = json.loads(contestant.client.run("sh", "-c", f"{load}; {trip}; status=$?; kill $load; wait; exit $status"))
        return percentiles(f"{protocol} round trip, loaded", got)
    return sample


def connections(contestant, seconds):
    got = pingpong(contestant, "--connect", "--seconds", str(seconds))
    return {"TCP connections": got["count"] / got["seconds"]}


def first_packet(contestant, seconds):
    got = pingpong(contestant, "--udp", "--pause", str(PAUSE_MS), "--count", str(max(int(seconds * 1000 / PAUSE_MS), 1)))
    return {"round trip after idle p50": got["p50_us"], "round trip after idle, worst": got["max_us"]}


def trip_metrics(name):
    return tuple(Metric(f"{name} {percentile}", "us", LOWER) for percentile in ("p50", "p99", "p99.9"))


# --- bare frames ------------------------------------------------------------------------------

def largest_frames(contestant, seconds):
    got = contestant.stream(seconds)
    return {"largest frames": got["gbps"], "largest frames, rate": got["frames"] / 1e3}


def small_frames(contestant, seconds):
    if not isinstance(contestant, contestants.Netbench):
        return {}
    return {"frames of 64 B": contestant.stream(seconds, size="64")["frames"] / 1e3}


def frame_trip(contestant, seconds):
    if not isinstance(contestant, contestants.Netbench):
        return {}
    got = contestant.round_trips(int(2000 * seconds))
    return {f"frame round trip {name}": got[f"{key}_ns"] / 1e3
            for name, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"))}


COUNT_METRICS = tuple(Metric(f"{side}: {event}", "", LOWER, count=True) for side in ("sender", "receiver")
                      for event in ("syscalls per frame", "doorbells per frame", "interrupts per frame",
                                    "exits per frame", "copies per byte", "bytes a frame"))

CELLS = (
    Cell("stream", "machines", stream, phases=ALL_PHASES, quick=PHASES[:2],
         metrics=(Metric("TCP stream", "Gb/s", HIGHER), Metric("CPU per GB, all", "s", LOWER),
                  Metric("CPU per GB, VMMs", "s", LOWER), *COUNT_METRICS)),
    Cell("back", "machines", stream_back, (Metric("TCP stream back", "Gb/s", HIGHER),)),
    Cell("both", "machines", stream_both, (Metric("TCP both ways", "Gb/s", HIGHER),), FIRST),
    Cell("udp64", "machines", frames_of(FRAME_64_PAYLOAD, "UDP frames of 64 B"),
         (Metric("UDP frames of 64 B", "k/s", HIGHER),), FIRST, FIRST, extra=0.5),
    Cell("udp1400", "machines", frames_of(FRAME_1400_PAYLOAD, "UDP frames of 1400 B"),
         (Metric("UDP frames of 1400 B", "k/s", HIGHER),), FIRST, extra=0.5),
    Cell("udp-trip", "machines", idle_trip("UDP"), trip_metrics("UDP round trip"), FIRST + ONE_CPU, FIRST, length=0.5),
    Cell("tcp-trip", "machines", idle_trip("TCP"), trip_metrics("TCP round trip"), FIRST, length=0.5),
    Cell("udp-trip-loaded", "machines", loaded_trip("UDP"), trip_metrics("UDP round trip, loaded"), FIRST, length=0.7,
         extra=LOAD_FIRST_S),
    Cell("tcp-trip-loaded", "machines", loaded_trip("TCP"), trip_metrics("TCP round trip, loaded"), FIRST, length=0.7,
         extra=LOAD_FIRST_S),
    Cell("connections", "machines", connections, (Metric("TCP connections", "1/s", HIGHER),), FIRST, length=0.5),
    Cell("first-packet", "machines", first_packet, (Metric("round trip after idle p50", "us", LOWER),
                                                    Metric("round trip after idle, worst", "us", LOWER)), FIRST, length=0.5),
    Cell("frames", "frames", largest_frames, (Metric("largest frames", "Gb/s", HIGHER),
                                              Metric("largest frames, rate", "k/s", HIGHER)), PHASES, FIRST, extra=0.4),
    Cell("frames64", "frames", small_frames, (Metric("frames of 64 B", "k/s", HIGHER),), FIRST, extra=0.4),
    Cell("frame-trip", "frames", frame_trip, trip_metrics("frame round trip"), FIRST, length=0.5, extra=0.4),
)


def metric_of(name):
    return next(metric for cell in CELLS for metric in cell.metrics if metric.name == name)
