#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""weft-bench: that it measures, says what it should of what it measured, and leaves nothing behind. No figure is judged."""
import json
import os
import signal
import subprocess
import sys
import unittest

import tap
from netns import have_namespaces
from weft import LIMIT, ROOT, VmTest, needs_kvm, wait_for

sys.path.insert(0, f"{ROOT}/tests/bench")

# pylint: disable=wrong-import-position
import machine
import network
import report

WEFT_BENCH = f"{ROOT}/tools/weft-bench"


class Figures(unittest.TestCase):
    def setUp(self):
        self.table = network.Table()

    def add(self, contestant, *values):
        for value in values:
            self.table.add(network.PHASES[0], contestant, {"TCP stream": value})

    def test_median_and_ratio(self):
        self.add("native veth", 5, 40, 4)
        self.add("weft udp", 8, 10, 12)
        first, second = self.table.rows()
        self.assertEqual((first["contestant"], first["median"], first["min"], first["max"], first["ratio"]),
                         ("weft udp", 10, 8, 12, 1))
        self.assertEqual((second["median"], second["min"], second["max"], second["ratio"]), (5, 4, 40, 2))

    def test_ratio_needs_both(self):
        self.add("VNET/U", 0)
        self.assertIsNone(self.table.rows()[0]["ratio"])

    def test_plot_has_the_figures(self):
        self.add("weft udp", 8, 10, 12)
        results = {"rows": self.table.rows(), "contestants": {"weft udp": ""}}
        series = report.bars(results, (("TCP stream", None),), None)
        self.assertEqual(series, [("MTU 1500", {"weft udp": (10, 8, 12)})])
        self.assertIn('"weft udp" 10 8 12\n', report.plot_script(series, "x.svg", "title", "unit"))

    def test_patience_ends(self):
        """A machine that is never quiet is waited for only so long, in all."""
        quiet = machine.Quiet(once=0.2, altogether=0.3)
        quiet.idle_share = lambda: 0.0
        waits = [quiet.wait() for _ in range(5)]
        self.assertEqual(waits, [False] * 5)
        self.assertLessEqual(quiet.left, 0)

    def test_variants_are_asked_for(self):
        names = [{cls.name for pairs in network.Run(None, False, only).plan().values() for _, cls in pairs}
                 for only in ([], ["weft"], ["irq"], ["1500/stream/weft irq=early"])]
        self.assertFalse(any("=" in name for name in names[0] | names[1]))
        self.assertEqual(names[2], {f"{who} irq={when}" for who in ("weft", "netbench") for when in ("batch", "early")})
        self.assertEqual(names[3], {"weft irq=early"})

    def test_quiet_is_seen(self):
        quiet = machine.Quiet(once=LIMIT, altogether=LIMIT)
        shares = iter((0.2, 0.89, 0.95))
        quiet.idle_share = lambda: next(shares)
        self.assertTrue(quiet.wait())


@needs_kvm
@unittest.skipUnless(have_namespaces(), "cannot make network namespaces (not root?)")
@unittest.skipIf(network.check(), f"{network.check()}")
class Run(VmTest):
    CELL = ("network", "--samples", "1", "--patience", "0", "--only", "1500/stream/weft udp")

    def bench(self, *arguments):
        return subprocess.Popen([WEFT_BENCH, *arguments], cwd=self.dir, env={**os.environ, "TMPDIR": self.dir},
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def assert_nothing_left(self, bench):
        self.assertNotIn(f"weft-{bench.pid}-", subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout)
        self.assertEqual([name for name in os.listdir(self.dir) if name.startswith("weft-bench")], [])

    def test_cell(self):
        bench = self.bench(*self.CELL, "--json", "out.json")
        errors = bench.communicate()[1]
        self.assertEqual(bench.returncode, 0, errors)
        with open(self.path("out.json"), encoding="ascii") as file:
            results = json.load(file)["network"]
        self.assertEqual(results["failures"], {})
        values = {row["metric"]: row["median"] for row in results["rows"]}
        for metric in ("TCP stream", "CPU per GB, all", "sender: bytes a frame", "receiver: bytes a frame"):
            self.assertGreater(values[metric], 0, metric)
        self.assert_nothing_left(bench)

    def test_jitter(self):
        bench = self.bench("jitter", "--quick", "--json", "out.json")
        errors = bench.communicate()[1]
        self.assertEqual(bench.returncode, 0, errors)
        with open(self.path("out.json"), encoding="ascii") as file:
            samples = json.load(file)["jitter"]["samples"]
        for each in samples["a vCPU of weft"] + samples["a process"]:
            self.assertLessEqual(each["p999_ns"], each["max_ns"])
        self.assert_nothing_left(bench)

    def test_interrupted(self):
        bench = self.bench(*self.CELL)
        wait_for(lambda: any(name.startswith("weft-bench") for name in os.listdir(self.dir)))
        bench.send_signal(signal.SIGINT)
        bench.communicate()
        self.assertEqual(bench.returncode, 128 + signal.SIGINT)
        self.assert_nothing_left(bench)

    def test_usage(self):
        for arguments in (("nothing",), ("network", "--only", "no such cell"), ("--samples", "0")):
            with self.subTest(" ".join(arguments)):
                bench = self.bench(*arguments)
                self.assertTrue(bench.communicate()[1].startswith(b"weft-bench: "))
                self.assertEqual(bench.returncode, 2)


if __name__ == "__main__":
    tap.main(__name__)
