# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the programs that measure run: in a guest, through its agent, or on a host, which is a network namespace.

Both have run(), which gives the output of a command, start(), for what runs on until the end, and `scratch`, a directory.
"""
import os
import shlex
import socket
import struct
import subprocess
import time

from machine import ROOT

HEADER = struct.Struct("<IHH")  # agent_protocol.h: length, channel, type
EXEC, STDIN, STDOUT, STDERR, EXIT, PING, PONG, WINDOW_ADD = 2, 3, 4, 5, 6, 8, 9, 12
PATIENCE = 120  # seconds for what takes a few on an idle machine
PONG_S = 0.5
PAYLOAD_MAX = 32768


class CommandError(RuntimeError):
    """A command did not do what it should."""


def check(argv, status, output, errors):
    if status:
        raise CommandError(f"{shlex.join(argv)}: status {status}: {(errors or output)[-300:]}")
    return output


class GuestHost:
    """A guest, by its agent's socket: of weft (channel 0), or of a VMM that passes the port on as it is (another)."""
    scratch = "/tmp"

    def __init__(self, path, channel=0):
        self.path, self.channel = path, channel
        self.socket = None

    def connect(self, check_alive=lambda: None):
        """Wait until the agent answers; check_alive() raises if it never will."""
        end = time.monotonic() + PATIENCE
        while not self.try_connect():
            check_alive()
            if time.monotonic() > end:
                raise CommandError(f"{self.path}: no answer from the guest within {PATIENCE} s")
            time.sleep(0.05)

    def try_connect(self):
        self.close()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PONG_S)
        try:
            self.socket.connect(self.path)
            self.send(PING, b"")
            while self.receive()[0] != PONG:
                pass
        except OSError:
            return False
        return True

    def close(self):
        if self.socket:
            self.socket.close()

    def send(self, kind, payload):
        self.socket.sendall(HEADER.pack(len(payload), self.channel, kind) + payload)

    def exactly(self, size):
        data = b""
        while len(data) < size:
            got = self.socket.recv(size - len(data))
            if not got:
                raise ConnectionError("the guest's agent has gone")
            data += got
        return data

    def receive(self):
        length, _, kind = HEADER.unpack(self.exactly(HEADER.size))
        return kind, self.exactly(length)

    def run(self, *argv, seconds=PATIENCE, data=b""):
        """A command with this standard input, which must fit into the agent's window."""
        self.socket.settimeout(seconds)
        self.send(EXEC, b"".join(word.encode() + b"\0" for word in argv))
        for start in range(0, len(data), PAYLOAD_MAX):
            self.send(STDIN, data[start:start + PAYLOAD_MAX])
        self.send(STDIN, b"")
        outputs = {STDOUT: b"", STDERR: b""}
        while True:
            kind, payload = self.receive()
            if kind == EXIT:
                break
            if kind in outputs:
                outputs[kind] += payload
                self.send(WINDOW_ADD, struct.pack("<I", len(payload)))
        output, errors = (outputs[kind].decode(errors="replace") for kind in (STDOUT, STDERR))
        return check(argv, struct.unpack("<I", payload)[0], output, errors)

    def put(self, path):
        """Copy a program into the guest, to where it finds programs."""
        target = f"/bin/{os.path.basename(path)}"
        with open(path, "rb") as file:
            self.run("sh", "-c", f"cat > {target} && chmod 755 {target}", data=file.read())

    def start(self, *argv):
        self.run("sh", "-c", f"{shlex.join(argv)} >/dev/null 2>&1 </dev/null &")


class NamespaceHost:
    """A host of an Underlay."""

    def __init__(self, underlay, name, scratch):
        self.underlay, self.name, self.scratch = underlay, name, scratch
        self.processes = []

    def popen(self, *argv, **options):
        environment = {**os.environ, "PATH": f"{ROOT}/build/bench:{os.environ['PATH']}"}
        process = subprocess.Popen(self.underlay.command(self.name, *argv), text=True, env=environment,
                                   stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def run(self, *argv, seconds=PATIENCE):
        process = self.popen(*argv, stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=seconds)
        self.processes.remove(process)
        return check(argv, process.returncode, output, "")

    def start(self, *argv):
        self.popen(*argv, stdout=subprocess.DEVNULL)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
