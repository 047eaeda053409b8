#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated host (L1): QEMU's command line, how its state is saved, and how it is restored.

    machine.py save DIRECTORY    start from DIRECTORY's kernel, initrd and root.img, and leave the state in DIRECTORY

Saved and restored machines must be the same but for what is behind their devices, so there is one command line. The
processor is emulated, with one CPU (more are not stable) and AMD's SVM in it, which is what KVM in L1 runs on. An emulated
IOMMU cannot be saved: the machine that has one starts anew each time.
"""
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time

MEMORY_MB = 3072
CMDLINE = "console=ttyS0 quiet tsc=reliable mitigations=off panic=-1 net.ifnames=0 rdinit=/init"
# For VFIO: remapping of DMA and interrupts, and a NIC on a segment of its own that L1 has no driver for.
IOMMU = ("-device", "amd-iommu,intremap=on", "-netdev", "hubport,hubid=1,id=net1",
         "-device", "e1000e,netdev=net1,mac=52:54:00:4c:32:00")
START_LIMIT = 600  # seconds for what takes one minute on an idle machine


class Failure(Exception):
    """The machine did not do what it should."""


def command(products, directory, *, lab, out, console, network="hubport,hubid=0"):
    """QEMU's command line; `directory` is for its sockets and files, `lab` and `out` are shown as shares."""
    return ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-no-user-config", "-nodefaults",
            "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max",
            "-smp", "1", "-m", str(MEMORY_MB),
            "-kernel", f"{products}/vmlinux", "-initrd", f"{products}/initrd", "-append", CMDLINE,
            "-drive", f"if=none,id=root,format=raw,readonly=on,file={products}/root.img",
            "-device", "virtio-blk-pci,drive=root",
            "-fsdev", f"local,id=lab,path={lab},security_model=none,readonly=on",
            "-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab",
            "-fsdev", f"local,id=out,path={out},security_model=none",
            "-device", "virtio-9p-pci,fsdev=out,mount_tag=out",
            "-netdev", f"{network},id=net0",
            "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:4c:31:00,host_mtu=9000",
            "-serial", console,
            "-chardev", f"pipe,id=orders,path={directory}/orders", "-serial", "chardev:orders",
            "-qmp", f"unix:{directory}/qmp,server=on,wait=off"]


class Orders:
    """The second serial port: a pair of pipes that both sides keep open."""

    def __init__(self, directory):
        self.pipes = []
        for name in ("in", "out"):
            os.mkfifo(f"{directory}/orders.{name}")
            self.pipes.append(os.open(f"{directory}/orders.{name}", os.O_RDWR | os.O_NONBLOCK))
        self.said = ""

    def give(self, name, number):
        """Have a restored machine run a scenario (see init)."""
        os.write(self.pipes[0], f"\n{name} {number} {int(time.time())} {secrets.token_hex(32)}\n".encode())

    def poke(self):
        """Interrupt the machine. QEMU may forget a timer's interrupt that comes in the moment in which a guest starts or ends
        (it changes the processor's pending requests without a lock there), and only another one brings it back."""
        os.write(self.pipes[0], b"\n")

    def hear(self):
        """All that the machine has said."""
        try:
            self.said += os.read(self.pipes[1], 4096).decode()
        except BlockingIOError:
            pass
        return self.said

    def close(self):
        for pipe in self.pipes:
            os.close(pipe)


def restored(products, directory, **where):
    """The command line of a machine that goes on from the saved state."""
    return [*command(products, directory, **where), "-incoming", f"exec:cat {products}/state"]


def with_iommu(products, directory, **where):
    """The command line of a machine that starts, and has an IOMMU; its order is for when it is ready."""
    return [*command(products, directory, **where), *IOMMU]


class Monitor:
    """QEMU's control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(START_LIMIT)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, what, **arguments):
        self.socket.sendall(json.dumps({"execute": what, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise Failure(f"{what}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def wait_ready(process, console, orders):
    """Wait until the machine says that it is ready."""
    end = time.monotonic() + START_LIMIT
    while "ready" not in (said := orders.hear()):
        if process.poll() is not None or time.monotonic() > end:
            raise Failure(f"the machine did not start: {read(console)[-2000:]}{said} "
                          f"{process.stderr.read() if process.poll() is not None else ''}")
        time.sleep(0.1)
    if "failed" in said:
        raise Failure(said)


def migrate(directory, path):
    """Save the machine's state in a file, and end it."""
    monitor = Monitor(f"{directory}/qmp")
    monitor.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 34})
    monitor.ask("migrate", uri=f"exec:cat > {path}")
    while (status := monitor.ask("query-migrate").get("status")) != "completed":
        if status == "failed":
            raise Failure("the state could not be saved")
        time.sleep(0.1)
    monitor.ask("quit")


def save(products):
    with tempfile.TemporaryDirectory(prefix="lab.") as directory:
        share, orders = f"{directory}/share", Orders(directory)
        os.mkdir(share)
        process = subprocess.Popen(command(products, directory, lab=share, out=share,
                                           console=f"file:{directory}/console"),
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            wait_ready(process, f"{directory}/console", orders)
            migrate(directory, f"{products}/state")
            process.wait(START_LIMIT)
        finally:
            process.kill()
            process.wait()
            orders.close()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "save":
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        save(sys.argv[2])
    except Failure as failure:
        sys.exit(f"lab: {failure}")
