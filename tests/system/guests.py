#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the unikernel test guests, as the directives in their sources say (guest-images/unikernel/lib/guest.h).

Each check that a guest makes is a test, and so is each guest's end: status, expected output, nothing on stderr
that a sanitizer wrote. Arguments choose guests by name.
"""
import glob
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading

from tap import Output
from weft import EXIT_GUEST, LIMIT, ROOT, WEFT, WEFT_OPTIONS, guest, have_kvm

DIRECTIVE = re.compile(r"^// ([a-z-]+): (.*)$", re.M)
SANITIZER = re.compile(r"ERROR: \w+Sanitizer|runtime error:|WARNING: ThreadSanitizer")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Case:
    def __init__(self, path):
        self.name = os.path.basename(path)[:-2]
        self.options, self.expected, self.actions = [], [], []
        self.status = 0
        with open(path, encoding="utf-8") as file:
            for word, value in DIRECTIVE.findall(file.read()):
                self.directive(word, value.strip())

    def directive(self, word, value):
        if word == "weft":
            self.options += shlex.split(value)
        elif word == "expect":
            self.status = int(value)
        elif word == "expect-output":
            self.expected.append(value)
        elif word == "on-output":
            text, action = value.split(" => ")
            self.actions.append((text, getattr(signal, action)))
        else:
            raise ValueError(f"{self.name}: unknown directive '{word}'")


def option_fill(option, directory):
    """Replace {disk:SIZE} and {socket} by paths in the directory."""
    def disk(match):
        descriptor, path = tempfile.mkstemp(prefix="disk.", dir=directory)
        os.truncate(descriptor, int(match[1]) * UNITS[match[2]])
        os.close(descriptor)
        return path

    option = re.sub(r"\{disk:(\d+)([KMG]?)\}", disk, option)
    return option.replace("{socket}", tempfile.mktemp(prefix="socket.", dir=directory))


def lines_read(case, process):
    """All lines that the guest prints; does what they ask for."""
    lines, actions = [], list(case.actions)
    for raw in process.stdout:
        line = raw.decode(errors="replace").rstrip("\r\n")
        lines.append(line)
        for action in [action for action in actions if line.startswith(action[0])]:
            process.send_signal(action[1])
            actions.remove(action)
    return lines


def case_run(case, directory):
    """(lines of output, stderr, exit status or None after the time limit)"""
    options = [option_fill(option, directory) for option in case.options]
    late = threading.Event()
    with tempfile.TemporaryFile(dir=directory) as errors:
        process = subprocess.Popen([WEFT, "run", "--kernel", guest(case.name), *options, *WEFT_OPTIONS],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)

        def give_up():
            late.set()
            process.kill()

        timer = threading.Timer(LIMIT, give_up)
        timer.start()
        lines = lines_read(case, process)
        status = process.wait()
        timer.cancel()
        errors.seek(0)
        return lines, errors.read().decode(errors="replace"), None if late.is_set() else status


def fault_find(case, lines, errors, status):
    """What is wrong with how the guest ended, or an empty string."""
    if status is None:
        return f"still running after {LIMIT} s"
    # Checks that failed have been told of; the status that follows from them is no failure of its own.
    failed = any(line.startswith("not ok") for line in lines)
    if status != case.status and not (failed and status > EXIT_GUEST):
        return f"ended with status {status}, not {case.status}"
    if SANITIZER.search(errors):
        return "a sanitizer found something"
    rest = iter(lines)
    for text in case.expected:
        if not any(line.startswith(text) for line in rest):
            return f"no line '{text}', or not in this place"
    return ""


def main():
    output = Output()
    names = [name for name in sys.argv[1:] if not name.startswith("-")]
    for path in sorted(glob.glob(f"{ROOT}/tests/guest/*.c")):
        case = Case(path)
        if names and not any(name in case.name for name in names):
            continue
        if not have_kvm():
            output.line(True, case.name, skip="no access to /dev/kvm")
            continue
        with tempfile.TemporaryDirectory(prefix="guest.") as directory:
            lines, errors, status = case_run(case, directory)
            for line in lines:
                if match := re.match(r"(not ok|ok) (.*)", line):
                    output.line(match[1] == "ok", match[2])
            fault = fault_find(case, lines, errors, status)
            left = [name for name in os.listdir(directory) if not name.startswith("disk.")]
            if not fault and left:
                fault = f"left behind: {', '.join(left)}"
            output.line(not fault, f"{case.name}: its end",
                        "\n".join([fault, *lines[-20:], errors[-8000:]]) if fault else "")
    sys.exit(output.end())


main()
