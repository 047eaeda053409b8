#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""weft-bench: that it measures, says what it should of what it measured, and leaves nothing behind. No figure is judged."""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import tap
from netns import have_namespaces
from weft import LIMIT, ROOT, VmTest, needs_kvm, wait_for

sys.path.insert(0, f"{ROOT}/tests/bench")

# pylint: disable=wrong-import-position
import calibrate
import figures
import machine
import modes
import network
import report
from cells import ONE_CPU, PHASES

WEFT_BENCH = f"{ROOT}/tools/weft-bench"


def network_run(only=()):
    return network.Run(None, argparse.Namespace(quick=False, only=only, samples=None, patience=None, ib=None), network.FULL)


class Figures(unittest.TestCase):
    def setUp(self):
        self.table = network.Table()

    def add(self, contestant, *values, metric="TCP stream", phase=PHASES[0]):
        for value in values:
            self.table.add(phase, contestant, {metric: value})

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

    def test_one_cpu_is_a_row_of_its_own(self):
        self.add("weft udp", 10)
        self.add("weft udp", 3, phase=ONE_CPU[0])
        found = [(row["phase"], row["median"]) for row in self.table.rows()]
        self.assertEqual(found, [("MTU 1500", 10), ("MTU 1500, one CPU", 3)])

    def test_plot_has_the_figures(self):
        self.add("weft udp", 8, 10, 12)
        results = {"network": {"rows": self.table.rows(), "contestants": {"weft udp": ""}}}
        plots = {file: series for file, series, *_ in report.plots_of(results) if series}
        self.assertEqual(plots, {"stream": {"weft udp": {"MTU 1500": (10, 8, 12)}}})
        self.assertIn('"MTU 1500" 10 8 12\n', report.plot_script(plots["stream"], "x.svg", "title", "unit"))

    def test_auto_is_judged_by_the_better_mode(self):
        table = network.Table(network.contestants.BY_MODE)
        for contestant, stream, trip in ("guest", 5, 100), ("vmm", 10, 160), ("auto", 9, 200):
            table.add(PHASES[0], contestant, {"TCP stream": stream, "UDP round trip p50": trip})
        found = {each["metric"]: (each["better"], each["auto"]) for each in modes.ratios(table.rows())}
        self.assertEqual(found, {"TCP stream": ("vmm", 0.9), "UDP round trip p50": ("guest", 0.5)})

    def test_auto_is_judged_by_all_samples(self):
        table = network.Table(network.contestants.BY_MODE)
        for contestant, values in ("vmm", (10, 20, 100)), ("guest", (1, 1, 1)), ("auto", (100, 10, 20)):
            for value in values:
                table.add(PHASES[0], contestant, {"TCP stream": value})
        self.assertEqual([each["auto"] for each in modes.ratios(table.rows())], [1])

    def test_tables(self):
        """What a document says is what was measured; what was not is no failure."""
        self.add("weft udp", 10)
        self.add("QEMU VXLAN", 4)
        rows = self.table.rows()
        results = figures.Results({"network": {"rows": rows, "contestants": {"weft udp": "", "QEMU VXLAN": ""}}})
        self.assertIn("| TCP, MTU 1500, Gb/s | 10 | 4 |", figures.contestants_table(results, figures.NETWORK_ROWS))
        targets = figures.targets_table(results).splitlines()
        self.assertIn("| TCP, MTU 1500: udp by QEMU VXLAN | at least 1.5 | 2.5 (10 : 4) | met |", targets)
        self.assertIn("| TCP, MTU 1500: udp by VNET/U | at least 5 | - (10 : -) | - |", targets)
        self.assertEqual(figures.table("targets", "/nonexistent"), figures.NONE)

    def test_patience_ends(self):
        """A machine that is never quiet is waited for only so long, in all."""
        quiet = machine.Quiet(once=0.2, altogether=0.3)
        quiet.idle_share = lambda: 0.0
        waits = [quiet.wait() for _ in range(5)]
        self.assertEqual(waits, [False] * 5)
        self.assertLessEqual(quiet.left, 0)

    def test_variants_are_asked_for(self):
        names = [{cls.name for pairs in network_run(only).plan().values() for _, cls in pairs}
                 for only in ([], ["weft"], ["irq"], ["1500/stream/weft irq=early"])]
        self.assertFalse(any("=" in name for name in names[0] | names[1]))
        self.assertEqual(names[2], {f"{who} irq={when}" for who in ("weft", "netbench") for when in ("batch", "early")})
        self.assertEqual(names[3], {"weft irq=early"})

    def test_ib_needs_an_adapter_and_its_address(self):
        weft_ib = network.contestants.WeftIb
        with tempfile.TemporaryDirectory() as devices, \
                unittest.mock.patch.object(network.contestants, "RDMA_DEVICES", devices):
            self.assertIn("no RDMA adapter", network.contestants.missing(weft_ib, "10.9.0.1"))
            os.mkdir(f"{devices}/mlx5_0")
            self.assertIn("--ib ADDRESS", network.contestants.missing(weft_ib))
            self.assertIsNone(network.contestants.missing(weft_ib, "10.9.0.1"))

    def test_ib_links(self):
        lab = unittest.mock.Mock(ib="10.9.0.1,type=ud")
        weft = network.contestants.WeftIb(lab, 3, PHASES[0])
        self.assertEqual(weft.link(1), ("--listen", "ib://10.9.0.1:7701,type=ud", "--link", "ib://10.9.0.1:7702,type=ud"))
        self.assertEqual(weft.link(2)[1], weft.link(1)[3])
        lab.ib = "10.9.0.1"
        self.assertEqual(weft.link(2), ("--listen", "ib://10.9.0.1:7702", "--link", "ib://10.9.0.1:7701"))

    def test_quiet_is_seen(self):
        quiet = machine.Quiet(once=LIMIT, altogether=LIMIT)
        shares = iter((0.2, 0.89, 0.95))
        quiet.idle_share = lambda: next(shares)
        self.assertTrue(quiet.wait())

    def test_what_others_took_is_seen(self):
        times = iter(((100.0, 50.0, 1.0), (104.0, 50.0, 2.0)))
        with unittest.mock.patch.object(machine, "cpu_times", lambda: next(times)):
            self.assertEqual(machine.stolen_share(machine.cpu_times()), 0.25)

    def test_a_sample_that_was_robbed_is_taken_again(self):
        cell, contestant = unittest.mock.Mock(length=1), unittest.mock.Mock(settle_s=0)
        for shares, dropped, busy in ((0.0,), 0, 0), ((0.5, 0.0), 1, 0), ((0.5,) * 3, 2, 1):
            run = network_run()
            run.quiet.idle_share = lambda: 1.0
            with unittest.mock.patch.object(network, "stolen_share", side_effect=shares):
                run.sample(cell, contestant)
            self.assertEqual((run.table.dropped, run.table.busy), (dropped, busy))


class Thresholds(unittest.TestCase):
    FRAMES = (10, 100, 1000)
    ALIKE = {"guest": 200, "vmm": 200}

    def crossing(self, guest_driven, vmm_driven):
        return calibrate.crossing(guest_driven, vmm_driven)

    def test_where_the_cheaper_changes(self):
        self.assertEqual(self.crossing((1, 2, 9), (3, 3, 3)), 2)
        self.assertEqual(self.crossing((5, 5, 5), (3, 3, 3)), 0)
        self.assertEqual(self.crossing((1, 1, 1), (3, 3, 3)), 3)
        self.assertEqual(self.crossing((3, 3, 3), (3, 3, 3)), 3)

    def test_one_noisy_step_does_not_decide(self):
        self.assertEqual(self.crossing((10, 10, 10, 30, 30), (30, 9, 30, 10, 10)), 3)

    def test_thresholds_lie_between_steps_and_apart(self):
        self.assertEqual(calibrate.thresholds(self.FRAMES, 1, self.ALIKE), (32, 8))
        self.assertEqual(calibrate.thresholds(self.FRAMES, 0, self.ALIKE), (3, 1))
        self.assertEqual(calibrate.thresholds(self.FRAMES, 3, self.ALIKE), (3162, 790))
        for steps in range(4):
            up, down = calibrate.thresholds((1, 2, 3), steps, self.ALIKE)
            self.assertLess(down, up)

    def test_who_waits_for_answers_reaches_up(self):
        shorter = {"guest": 250, "vmm": 200}  # 40 in a window
        self.assertEqual(calibrate.thresholds(self.FRAMES, 3, shorter), (20, 5))
        self.assertEqual(calibrate.thresholds(self.FRAMES, 0, shorter), (3, 1))
        self.assertEqual(calibrate.thresholds(self.FRAMES, 3, {"guest": 10000, "vmm": 200})[0], 2)


@needs_kvm
class Calibrate(VmTest):
    def test_recommends_what_weft_takes(self):
        rates = (500, 1000)
        with unittest.mock.patch.object(calibrate, "RATES", rates):
            found = calibrate.run(self.dir, argparse.Namespace(samples=1, quick=True, patience=0))
        self.assertEqual([step["rate"] for step in found["ladder"]], list(rates))
        for step in found["ladder"]:
            for driven in calibrate.DRIVEN:
                self.assertGreater(step[driven]["trip_us"], 0)
                self.assertGreater(step[driven]["cpu_us"], 0)
        self.assertGreater(min(found["waiting"].values()), 0)
        self.assertEqual(self.hello("--net", found["options"]).wait(), 0)


@needs_kvm
@unittest.skipUnless(have_namespaces(), "cannot make network namespaces (not root?)")
@unittest.skipIf(network.check(), f"{network.check()}")
class Run(VmTest):
    CELL = ("network", "--samples", "1", "--patience", "0", "--only", "1500/stream/weft udp")

    def bench(self, *arguments):
        return subprocess.Popen([WEFT_BENCH, *arguments], cwd=self.dir, env={**os.environ, "TMPDIR": self.dir},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def results(self, *arguments):
        """What a run that must succeed has measured."""
        bench = self.bench(*arguments, "--json", "out.json")
        errors = bench.communicate()[1]
        self.assertEqual(bench.returncode, 0, errors)
        self.assert_nothing_left(bench)
        with open(self.path("out.json"), encoding="ascii") as file:
            return json.load(file)

    def assert_nothing_left(self, bench):
        names = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        self.assertNotIn(f"weft-{bench.pid}-", names)
        self.assertEqual([name for name in os.listdir(self.dir) if name.startswith("weft-bench")], [])

    def test_cell(self):
        results = self.results(*self.CELL)["network"]
        self.assertEqual(results["failures"], {})
        values = {row["metric"]: row["median"] for row in results["rows"]}
        for metric in ("TCP stream", "CPU per GB, all", "sender: bytes a frame", "receiver: bytes a frame"):
            self.assertGreater(values[metric], 0, metric)

    def test_one_cpu(self):
        """Both guests and both sidecars on one CPU: everything works."""
        chosen = ("--only", "one-cpu", "--only", "weft")
        results = self.results("network", "--samples", "1", "--patience", "0", *chosen)["network"]
        self.assertEqual(results["failures"], {})
        rows = [row for row in results["rows"] if row["metric"] == "TCP stream"]
        self.assertEqual([(row["phase"], row["contestant"]) for row in rows],
                         [("MTU 1500, one CPU", "weft udp"), ("MTU 1500, one CPU", "weft shm")])

    def test_modes(self):
        results = self.results("modes", "--samples", "1", "--patience", "0", "--only", "/udp-trip/")["modes"]
        self.assertEqual(results["failures"], {})
        self.assertEqual([each["metric"] for each in results["ratios"]], ["UDP round trip p50"])

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

    @unittest.skipIf(os.path.isdir(network.contestants.RDMA_DEVICES), "there may be an RDMA adapter")
    def test_ib_is_left_out(self):
        errors = self.bench("network", "--only", "weft ib", "--ib", "10.9.0.1").communicate()[1].decode()
        self.assertEqual(errors.count("weft ib"), 1)
        self.assertIn("weft-bench: weft ib is left out: this host has no RDMA adapter\n", errors)

    def test_usage(self):
        for arguments in (("nothing",), ("network", "--only", "no such cell"), ("--samples", "0"),
                          ("--figures", "nothing", "x")):
            with self.subTest(" ".join(arguments)):
                bench = self.bench(*arguments)
                self.assertTrue(bench.communicate()[1].startswith(b"weft-bench: "))
                self.assertEqual(bench.returncode, 2)


if __name__ == "__main__":
    tap.main(__name__)
