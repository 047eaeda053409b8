# SPDX-License-Identifier: GPL-2.0-or-later
"""The part "vm" of the benchmark: how long VMs take to start and stop, and what they cost.

Theory of operation: a figure is a function that takes one sample. The samples of all figures that are to be compared
are taken in turn, not one figure after the other, and each waits until the CPUs are idle; a sample during which
somebody else was busy would say more about them. Printed are median, least and most.
"""
import os
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

from machine import ROOT, Quiet, output_of, threads_seconds
from weft import resident_kib

DYNAMIC, STATIC, CTL = (f"{ROOT}/build/{name}" for name in ("weft", "static/weft", "weft-ctl"))
HELLO = f"{ROOT}/build/guests/hello.elf"
CMDLINE = "console=ttyS0 quiet"
STARTED = b"weft: init"
IDLE_WAIT_S = 5     # at once; then the sample is taken all the same, and counted as busy
TIMEOUT_S = 30
SETTLE_S = 1         # until a fresh guest's memory is looked at
SAMPLE_S = 0.8       # that a sample takes, about
GUEST_MIB = 256
PT_LOAD, PT_NOTE = 1, 4
QUICK_ROUNDS, QUICK_WAIT_S, FULL_WAIT_S = 3, 5, 120
OURS, OTHER = "weft run to Linux's init", "QEMU microvm to Linux's init"


# --- one VM -----------------------------------------------------------------------------------

class Vm:
    def __init__(self, command):
        self.begin = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, cwd=scratch)

    def seconds_to_output(self, text):
        """From the start to the moment when the text has been printed."""
        data = b""
        while text not in data:
            if not select.select([self.process.stdout], [], [], TIMEOUT_S)[0]:
                raise TimeoutError(f"no '{text.decode()}' within {TIMEOUT_S} s")
            got = os.read(self.process.stdout.fileno(), 65536)
            if not got:
                raise RuntimeError(f"ended without '{text.decode()}': {data[-200:]!r}")
            data += got
        return time.monotonic() - self.begin

    def seconds_to_agent(self):
        """From the start to the moment when the agent in the guest has said HELLO."""
        control = None
        while time.monotonic() - self.begin < TIMEOUT_S:
            try:
                if not control:
                    control = socket.socket(socket.AF_UNIX)
                    control.connect(f"{scratch}/ctl")
                control.sendall(b'{"command":"status"}\n')
                if b'"agent_up":true' in control.recv(65536):
                    control.close()
                    return time.monotonic() - self.begin
            except OSError:
                control.close()
                control = None
            time.sleep(0.001)
        raise TimeoutError(f"no agent within {TIMEOUT_S} s")

    def seconds_to_stop(self):
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT_S)
        return time.monotonic() - begin

    def cpu_seconds(self):
        """CPU time of all threads (schedstat) up to where the guest goes to sleep, which it does at once."""
        before = -1
        while before != (now := threads_seconds([self.process.pid])) or not now:
            before = now
            time.sleep(0.1)
        if self.process.poll() is not None:
            raise RuntimeError(f"ended with status {self.process.returncode}")
        return now

    def end(self):
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def weft(*arguments, program=DYNAMIC):
    return Vm([program, "run", "--memory", f"{GUEST_MIB}M", *arguments])


def linux(*arguments, program=DYNAMIC):
    return weft("--kernel", kernel, "--initrd", initrd, "--cmdline", CMDLINE, *arguments, program=program)


def linux_controlled(program=DYNAMIC):
    return linux("--ctl", "ctl", "--agent", "agent", "--net", "mtu=1500", "--rng", program=program)


def microvm():
    return Vm(["qemu-system-x86_64", "-enable-kvm", "-machine", "microvm", "-m", str(GUEST_MIB),
               "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
               "-kernel", kernel, "-initrd", initrd, "-append", CMDLINE])


def elf_headers(image):
    start, count = struct.unpack_from("<Q", image, 32)[0], struct.unpack_from("<H", image, 56)[0]
    return [struct.unpack_from("<IIQQQQQQ", image, start + 56 * index) for index in range(count)]


def pvh_entry(image):
    """The address in the note of type 18 named Xen."""
    for kind, _, offset, _, _, size, _, _ in elf_headers(image):
        for width in (4, 8):
            found = image.find(struct.pack("<III", 4, width, 18) + b"Xen\0", offset, offset + size)
            if kind == PT_NOTE and found >= 0:
                return struct.unpack_from("<I", image, found + 16)[0]
    raise RuntimeError("the kernel has no PVH entry")


def image_that_sleeps(source, path, entry_of, code):
    """A copy of an ELF kernel whose first instructions are others."""
    with open(source, "rb") as file:
        image = bytearray(file.read())
    entry = entry_of(image)
    for kind, _, offset, virtual, physical, size, _, _ in elf_headers(image):
        for address in {virtual, physical}:
            if kind == PT_LOAD and address <= entry < address + size:
                start = offset + entry - address
                image[start:start + len(code)] = code
    with open(path, "wb") as file:
        file.write(image)


def images_make():
    # hlt; jmp back
    image_that_sleeps(kernel, f"{scratch}/linux", pvh_entry, bytes.fromhex("f4 ebfd"))
    # mov dx, 0x601 (sleep until an interrupt); out dx, al; jmp back
    image_that_sleeps(HELLO, f"{scratch}/unikernel", lambda image: struct.unpack_from("<Q", image, 24)[0],
                      bytes.fromhex("66ba0106 ee ebf9"))


# --- figures ----------------------------------------------------------------------------------

def cpu_unikernel():
    with weft("--kernel", "unikernel", "--console", "off") as vm:
        return vm.cpu_seconds() * 1e3


def cpu_linux():
    with weft("--kernel", "linux", "--initrd", initrd, "--console", "off") as vm:
        return vm.cpu_seconds() * 1e3


def linux_init():
    with linux() as vm:
        return vm.seconds_to_output(STARTED) * 1e3


def microvm_init():
    with microvm() as vm:
        return vm.seconds_to_output(STARTED) * 1e3


def linux_start():
    with linux_controlled() as vm:
        return vm.seconds_to_agent() * 1e3


def linux_stop():
    with linux_controlled() as vm:
        vm.seconds_to_agent()
        return vm.seconds_to_stop() * 1e3


def resident(program):
    with linux_controlled(program) as vm:
        vm.seconds_to_agent()
        time.sleep(SETTLE_S)
        return resident_kib(vm.process.pid) / 1024


def guest_used():
    with linux_controlled() as vm:
        vm.seconds_to_agent()
        time.sleep(SETTLE_S)
        words = output_of(CTL, f"{scratch}/ctl", "exec", "--", "free", "-k").splitlines()[1].split()
        return int(words[2]) / 1024


# name, unit, sample, samples of a full run, how it is measured
FIGURES = [
    ("CPU time to a unikernel's first instruction", "ms", cpu_unikernel, 20,
     "CPU time of all threads (schedstat) of a weft process whose guest's first instructions send it to sleep"),
    ("CPU time to Linux's first instruction", "ms", cpu_linux, 20,
     "the same with the tty image's kernel and initramfs, both loaded, and other code at the kernel's PVH entry"),
    (OURS, "ms", linux_init, 10,
     f"wall time until '{STARTED.decode()}' has come from the serial line"),
    (OTHER, "ms", microvm_init, 10,
     "the same kernel, image and memory under Debian's qemu-system-x86_64 -machine microvm -enable-kvm"),
    ("start of a Linux VM", "ms", linux_start, 10,
     "wall time from weft run until the agent in the guest has said HELLO"),
    ("stop of a Linux VM", "ms", linux_stop, 10,
     "wall time from SIGTERM (power button) until the process has ended"),
    ("resident memory, dynamic", "MiB", lambda: resident(DYNAMIC), 3,
     "resident memory but for the guest's RAM of an idle Linux VM's process with NIC, rng, agent and control socket, after 1 s"),
    ("resident memory, static", "MiB", lambda: resident(STATIC), 3, "the same, static musl build"),
    ("memory used in a fresh guest", "MiB", guest_used, 3,
     f"'used' of free(1) in the tty image, {GUEST_MIB} MiB, 1 s after its start"),
]


def usable(figure):
    name = figure[0]
    if "static" in name:
        return os.path.exists(STATIC)
    return "QEMU" not in name or shutil.which("qemu-system-x86_64")


def samples_take(figures, quick):
    """All samples, the figures in turn: name -> values."""
    taken = {figure[0]: [] for figure in figures}
    quiet = Quiet(IDLE_WAIT_S, QUICK_WAIT_S if quick else FULL_WAIT_S)
    busy = 0
    rounds = QUICK_ROUNDS if quick else max((figure[3] for figure in figures), default=0)
    for number in range(rounds):
        for name, _, sample, count, _ in figures:
            if number >= count:
                continue
            busy += not quiet.wait()
            taken[name].append(sample())
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    return taken, busy


def sizes():
    """The tty image's files in bytes."""
    directory = os.path.dirname(kernel)
    return {"vmlinux": os.path.getsize(kernel), "bzImage": os.path.getsize(f"{directory}/bzImage"),
            "initramfs": os.path.getsize(initrd)}


def results_of(figures, taken):
    return [{"name": name, "unit": unit, "method": method, "samples": len(taken[name]),
             "median": statistics.median(taken[name]), "min": min(taken[name]), "max": max(taken[name])}
            for name, unit, _, _, method in figures]


def show(run):
    """Print the results."""
    results, image, busy = run["figures"], run["image_bytes"], run["busy_samples"]
    print(f"{'':46} {'median':>9} {'min':>9} {'max':>9}")
    for r in results:
        print(f"{r['name'] + ', ' + r['unit']:46} {r['median']:9.2f} {r['min']:9.2f} {r['max']:9.2f}")
    by_name = {r["name"]: r["median"] for r in results}
    if OTHER in by_name and OURS in by_name:
        print(f"{'QEMU microvm / weft, to init':46} {by_name[OTHER] / by_name[OURS]:9.2f}")
    for name, size in image.items():
        print(f"{'image: ' + name + ', MB':46} {size / 1e6:9.2f}")
    print("\nHow it was measured")
    for r in results:
        print(f"  {r['name']}: {r['method']} ({r['samples']} samples)")
    print("  Samples of all figures in turn, each after both CPUs had been idle for 150 ms"
          + (f"; {busy} were taken although the CPUs never became idle." if busy else "."))


def check():
    """Why the part cannot run, or None."""
    return None if os.path.exists(HELLO) else f"{HELLO} is not there: make bench"


def chosen(only):
    return [figure for figure in FIGURES if usable(figure) and all(word in figure[0] for word in only)]


def choices(only=()):
    """What there is to measure, one a line."""
    return [figure[0] for figure in chosen(only)]


def estimate(options):
    """Seconds that it takes on a quiet machine."""
    return sum(QUICK_ROUNDS if options.quick else figure[3] for figure in chosen(options.only)) * SAMPLE_S


def run(directory, options):
    """Measure; the results, or None if nothing was chosen."""
    if not (figures := chosen(options.only)):
        return None
    global scratch, kernel, initrd  # pylint: disable=global-variable-undefined
    scratch = directory
    kernel = output_of(f"{ROOT}/guest-images/kernel/build", "--path", "--auto") + "/vmlinux"
    initrd = output_of(f"{ROOT}/guest-images/tty/build", "--path")
    images_make()
    taken, busy = samples_take(figures, options.quick)
    return {"figures": results_of(figures, taken), "image_bytes": sizes(), "busy_samples": busy}
