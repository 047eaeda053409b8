# SPDX-License-Identifier: GPL-2.0-or-later
"""The part "calibrate": finds the options of --net that suit this host.

Theory of operation: two questions are put to the host, each by unikernels, so that no guest's kernel has a say.

Doorbells: a guest measures what an exit to the process costs, a doorbell until the request is done, an interrupt
(tests/guest/doorbell-cost.c); then frames go to and fro one by one with each way of serving doorbells. The shorter round trip
wins.

Thresholds of mode=auto: a client begins round trips at a rate, asleep between them, at each of a ladder of rates; both sides
are busy with each frame for as long as a guest's kernel would be, which a sidecar that spins may be in the way of. They do so with
queues that are guest-driven and with queues that are VMM-driven as auto drives them: for good, but with no more spinning than it
has learnt to pay. What is judged is the time that a frame costs: its round trip, and the CPU time of both VMs for it. The
threshold is put where following it costs least over the whole ladder: guest-driven on the steps below, VMM-driven on those
above. Relative costs are added, so that one noisy step does not decide. `down` is a part of `up`, or a load near it would flap.

A program that waits for each answer, and sends as soon as it has it, has a rate that follows from the round trip. It is no step of
the ladder, and costs only time. If its round trips are shorter with VMM-driven queues, then `up` is not more than half of
the frames that it sends with guest-driven ones: what slows it down somewhat does not make it slower still.

Samples of all kinds are taken in turn.
"""
import math
import statistics
import subprocess

from machine import Progress, Quiet
from unikernels import load, round_trips
from weft import WEFT, have_kvm, guest

RATES = (500, 1000, 2000, 5000, 10000, 20000, 40000)  # round trips a second: so many frames each way
WINDOW_S = 0.01                                       # in which auto counts frames
DRIVEN = {"guest": "mode=guest", "vmm": "mode=auto,up=1,down=0,flood=0,dwell=0"}
DOORBELLS = ("eventfd", "inline")
PARTS = {"exit": "an exit to the process", "doorbell": "a doorbell, for the vCPU that rings",
         "done": "from the doorbell until it is done", "interrupt": "until the interrupt, awake",
         "wakeup": "until the interrupt, asleep"}
TRIP = "trip"
DOWN_BY = 4          # `up` by `down`
MUST_SAVE = 1.05     # of what it costs: polling that hardly pays is left alone
ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS = 1          # of a step's sample
WORK_NS = 20000      # what a guest's kernel and program spend on a small packet, about
COUNT = 300          # requests
TRIPS = 2000
ONCE_S, PATIENCE_S = 2, 20    # to wait for quiet CPUs before a sample, and in all
SAMPLE_S, PARTS_S = 1.5, 1.0  # a sample takes


# --- samples ----------------------------------------------------------------------------------

def doorbells_usable():
    """Which of the ways this weft knows; none: it has no choice."""
    def known(doorbell):
        return not subprocess.run([WEFT, "run", "--kernel", guest("hello"), "--memory", "16M", "--net", f"doorbell={doorbell}"],
                                  capture_output=True, check=False).returncode
    return [doorbell for doorbell in DOORBELLS if known(doorbell)]


def with_doorbell(net, doorbell):
    return f"{net},doorbell={doorbell}" if doorbell else net


def parts_sample(net):
    """Microseconds of each of PARTS."""
    output = subprocess.run([WEFT, "run", "--kernel", guest("doorbell-cost"), "--memory", "16M", "--net", net, "--cmdline",
                             f"count={COUNT}"], capture_output=True, text=True, check=True).stdout
    medians = dict(pair.split(":") for pair in output.splitlines()[-1].strip("{}").replace('"', "").split(","))
    return {name: int(ns) / 1e3 for name, ns in medians.items()}


def rounds_of(options):
    return options.samples or (QUICK_ROUNDS if options.quick else ROUNDS)


class Sampler:
    """Takes samples when the CPUs are quiet, in turn, and says where it is."""

    def __init__(self, directory, options, doorbells):
        self.directory, self.doorbells = directory, doorbells
        self.rounds = rounds_of(options)
        self.quiet = Quiet(ONCE_S, PATIENCE_S if options.patience is None else options.patience)
        self.busy = 0
        self.progress = Progress(self.rounds * ((len(RATES) + 1) * len(DRIVEN) + 2 * len(doorbells)))

    def take(self, what, sample, *arguments):
        self.progress.step(what)
        self.busy += not self.quiet.wait()
        return sample(*arguments)

    def doorbell_costs(self):
        """{doorbell: {part: us}}, with the round trip among the parts."""
        samples = {doorbell: [] for doorbell in self.doorbells}
        for _ in range(self.rounds):
            for doorbell, taken in samples.items():
                net = with_doorbell("mode=guest", doorbell)
                values = self.take("doorbells", parts_sample, f"{net},coalesce=0")
                values[TRIP] = self.take("round trips", round_trips, self.directory, net, TRIPS, 0)
                taken.append(values)
        return {doorbell: medians(taken) for doorbell, taken in samples.items()}

    def ladder(self, doorbell):
        """[{driven: {"trip_us", "cpu_us", "lost"}} for each of RATES]"""
        samples = {(rate, driven): [] for rate in RATES for driven in DRIVEN}
        for number in range(self.rounds):
            for (rate, driven), taken in samples.items():
                what = f"round {number + 1}: {rate} round trips a second, {driven}-driven"
                taken.append(self.take(what, load, self.directory, with_doorbell(DRIVEN[driven], doorbell), rate, SECONDS, WORK_NS))
        return [{driven: medians(samples[rate, driven]) for driven in DRIVEN} for rate in RATES]

    def waiting(self, doorbell):
        """{driven: us} of round trips that follow each other at once."""
        samples = {driven: [] for driven in DRIVEN}
        for _ in range(self.rounds):
            for driven, taken in samples.items():
                what = f"one round trip after the other, {driven}-driven"
                taken.append(self.take(what, round_trips, self.directory, with_doorbell(DRIVEN[driven], doorbell), TRIPS, WORK_NS))
        return {driven: statistics.median(taken) for driven, taken in samples.items()}


def medians(samples):
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


# --- what follows from them -------------------------------------------------------------------

def doorbell_best(costs):
    """The one with the shortest round trip; None: there is no choice."""
    return min(costs, key=lambda doorbell: costs[doorbell][TRIP]) if len(costs) > 1 else None


def cost(values):
    return values["trip_us"] + values["cpu_us"]


def crossing(guest_costs, vmm_costs):
    """On how many of the lower steps to be guest-driven, so that all of the ladder together costs least."""
    def regret(steps):
        return sum(map(math.log, (*guest_costs[:steps], *(each * MUST_SAVE for each in vmm_costs[steps:]))))
    return min(range(len(guest_costs) + 1), key=regret)


def polling_shortens(waiting):
    """Whether it pays for who waits for each answer."""
    return waiting["vmm"] * MUST_SAVE < waiting["guest"]


def thresholds(frames, steps, waiting):
    """(up, down): up in the middle between two steps; beyond the ladder's end, a step further. Lower for who waits for answers."""
    below = frames[steps - 1] if steps else frames[0] ** 2 / frames[1]
    above = frames[steps] if steps < len(frames) else frames[-1] ** 2 / frames[-2]
    up = math.sqrt(below * above)
    if polling_shortens(waiting):
        up = min(up, WINDOW_S * 1e6 / waiting["guest"] / 2)
    up = max(round(up), 2)
    return up, max(up // DOWN_BY, 1)


def estimate(options):
    """Seconds that it takes on a quiet machine."""
    return rounds_of(options) * ((len(RATES) + 1) * len(DRIVEN) * SAMPLE_S + 2 * len(DOORBELLS) * PARTS_S)


def run(directory, options):
    """Measure; the results."""
    doorbells = doorbells_usable()
    sampler = Sampler(directory, options, doorbells or [None])
    costs = sampler.doorbell_costs()
    doorbell = doorbell_best(costs)
    ladder = sampler.ladder(doorbell)
    waiting = sampler.waiting(doorbell)
    sampler.progress.end()
    steps = crossing(*([cost(step[driven]) for step in ladder] for driven in ("guest", "vmm")))
    frames = [round(rate * WINDOW_S) for rate in RATES]
    up, down = thresholds(frames, steps, waiting)
    return {"doorbells": {name or DOORBELLS[0]: values for name, values in costs.items()}, "doorbell": doorbell,
            "ladder": [{"frames": each, "rate": rate, **step} for each, rate, step in zip(frames, RATES, ladder)],
            "waiting": waiting, "guest_driven_steps": steps, "up": up, "down": down, "busy_samples": sampler.busy,
            "options": with_doorbell(f"mode=auto,up={up},down={down}", doorbell)}


# --- what is printed --------------------------------------------------------------------------

def doorbells_print(costs):
    print(f"\n{'Doorbells, us':44}" + "".join(f"{name:>10}" for name in costs))
    for part, title in (*PARTS.items(), (TRIP, "round trip of a frame between two VMs")):
        print(f"  {title:42}" + "".join(f"{values[part]:10.1f}" for values in costs.values()))


def ladder_print(ladder):
    print(f"\n{'Frames in ' + format(WINDOW_S * 1000, '.0f') + ' ms':16}{'guest-driven, us':>30}{'VMM-driven, us':>30}")
    print(f"{'each way':16}" + f"{'round trip':>12}{'CPU':>9}{'sum':>9}" * 2 + "   less")
    for step in ladder:
        line = f"{step['frames']:<16}"
        for driven in DRIVEN:
            line += f"{step[driven]['trip_us']:12.0f}{step[driven]['cpu_us']:9.0f}{cost(step[driven]):9.0f}"
        print(f"{line}   {min(DRIVEN, key=lambda driven: cost(step[driven]))}")


def waiting_print(waiting):
    print(f"{'at once':<16}" + "".join(f"{waiting[driven]:12.0f}{'':18}" for driven in DRIVEN)
          + f"   {min(waiting, key=waiting.get)}")


def show(results):
    """Print the results."""
    doorbells_print(results["doorbells"])
    ladder_print(results["ladder"])
    waiting_print(results["waiting"])
    if results["guest_driven_steps"] == len(results["ladder"]) and not polling_shortens(results["waiting"]):
        print("\nVMM-driven queues never paid here: mode=guest would do as well.")
    print(f"\nMedians; samples taken although the CPUs were not quiet: {results['busy_samples']}")
    print(f"For this host:\n  --net {results['options']}")


def check():
    """Why the part cannot run, or None."""
    return None if have_kvm() else "no access to /dev/kvm"


def choices():
    """It is measured as a whole."""
    return ["calibrate"]
