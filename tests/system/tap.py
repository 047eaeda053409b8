# SPDX-License-Identifier: GPL-2.0-or-later
"""Test results in the Test Anything Protocol, which tests/run reads.

A test program in Python is a file of unittest.TestCase classes that ends with tap.main(__name__). Each test,
and each subTest of one, becomes a line "ok N - name" or "not ok N - name"; skipped ones carry "# SKIP why".
"""
import os
import sys
import traceback
import unittest


class Output:
    """Writes result lines and counts them."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def line(self, good, name, detail="", skip=None):
        self.count += 1
        self.failed += not good
        tail = f" # SKIP {skip}" if skip is not None else ""
        print(f"{'ok' if good else 'not ok'} {self.count} - {name.replace('#', '')}{tail}")
        for text in detail.splitlines():
            print(f"# {text}")
        sys.stdout.flush()

    def end(self):
        """Print the plan and return the program's exit status."""
        print(f"1..{self.count}")
        return 1 if self.failed else 0


class Result(unittest.TestResult):
    def __init__(self, output):
        super().__init__()
        self.output = output
        self.with_subtests = set()

    @staticmethod
    def name(test):
        words = test.id().split(".", 1)[1] if "." in test.id() else test.id()
        return words.replace("test_", "").replace("_", " ")

    @staticmethod
    def detail(error):
        return "".join(traceback.format_exception(*error))

    def addSuccess(self, test):
        if test not in self.with_subtests:
            self.output.line(True, self.name(test))

    def addFailure(self, test, err):
        self.output.line(False, self.name(test), self.detail(err))

    addError = addFailure

    def addSkip(self, test, reason):
        self.output.line(True, self.name(test), skip=reason)

    def addSubTest(self, test, subtest, err):
        self.with_subtests.add(test)
        self.output.line(err is None, self.name(subtest), self.detail(err) if err else "")


def main(module):
    """Run the tests of a module and exit; arguments choose those whose name contains one of them."""
    output = Output()
    result = Result(output)
    for case in walk(unittest.defaultTestLoader.loadTestsFromModule(sys.modules[module])):
        if len(sys.argv) < 2 or any(word in case.id() for word in sys.argv[1:]):
            case.run(result)
    sys.stdout.flush()
    status = output.end()
    sys.stdout.flush()
    os._exit(status)  # threads of a failed test must not hold it up


def walk(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from walk(item)
        else:
            yield item
