#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Who drives a NIC, guest or VMM: doorbells, interrupts and copies, by their counters. Nothing is timed."""
import json
import os

import tap
import vmm_net
from vmm_net import HOST, MAC_A, MAC_B, PORTS
from weft import STATUS_ENVIRONMENT, STATUS_OK, STATUS_USAGE, VmTest, guest, needs_kvm, wait_for

ENOUGH = 20000  # frames
LARGE_ENOUGH = 2000  # large ones
RX, TX = 0, 1   # queues
BUSY = "mode=auto,up=2,down=1,window=1000000"  # what any traffic is
HELD, HELD_UP, HELD_RATE = "mode=auto,up=40,down=10,window=20000,dwell=0", 40, 2000  # a load of `up` frames a window


class ModesTest(VmTest):
    def netbench(self, name, ports, mac, net, cmdline):
        return self.weft("--kernel", guest("netbench"), "--memory", "64M", "--net", f"mac={mac},{net}",
                         "--listen", f"udp://{HOST}:{ports[0]}", "--link", f"udp://{HOST}:{ports[1]}",
                         "--ctl", self.path(name), "--cmdline", cmdline)

    def stream(self, net, server_mode="poll", client="", frames=ENOUGH // 4):
        """A server and a client that sends until the test ends."""
        ports = next(PORTS), next(PORTS)
        server = self.netbench("server", ports, MAC_A, net, f"role=server mode={server_mode}")
        server.wait_output("server ready")
        self.netbench("client", ports[::-1], MAC_B, net, f"role=client test=stream seconds=100000 {client}")
        self.advance("client", TX, frames)

    def stats(self, name):
        with self.control(self.path(name)) as control:
            return control.request("stats")["result"]

    def queue(self, name, index):
        return self.stats(name)["devices"][0]["queues"][index]

    def advance(self, name, index, count):
        """Wait until the queue has had so many more requests; how much its counters grew."""
        before = self.queue(name, index)

        def later():
            now = self.queue(name, index)
            return now["requests"] - before["requests"] >= count and now
        return {key: value - before[key] for key, value in wait_for(later).items()}

    def line(self, name, line):
        with self.control(self.path(name)) as control:
            return control.request("overlay", line=line)

    def mode(self, name, direction):
        rows = self.line(name, "mode")["result"]
        return next(row for row in rows if row["direction"] == direction)


@needs_kvm
class Driven(ModesTest):
    def test_vmm_driven_at_saturation(self):
        self.stream("mode=vmm")
        grown = self.advance("client", TX, ENOUGH)
        self.assertLessEqual(grown["kicks"], grown["requests"] / 1000)
        self.assertGreaterEqual(self.mode("client", "tx")["vmm_frames"], ENOUGH)
        self.assertEqual(self.mode("client", "tx")["guest_frames"], 0)

    def test_copies(self):
        """None on the way out, one on the way in."""
        self.stream("mode=vmm")
        self.advance("server", RX, ENOUGH // 10)
        client, server = self.stats("client"), self.stats("server")
        sent = [port for port in client["ports"] if port["type"] == "udp"]
        nic = next(port for port in server["ports"] if port["type"] == "nic")
        self.assertGreater(sum(port["out_frames"] for port in sent), ENOUGH // 10)
        self.assertEqual(sum(port["copied_bytes"] for port in sent + client["endpoints"]), 0)
        self.assertGreater(nic["out_frames"], 0)
        self.assertLessEqual(sum(port["copied_bytes"] for port in server["ports"]), nic["out_bytes"])
        self.assertEqual(sum(endpoint["copied_bytes"] for endpoint in server["endpoints"]), 0)

    def test_cut_through(self):
        """Large frames land in the guest's buffers: hardly any is copied on the way in either."""
        def received():
            stats = self.stats("server")
            nic = next(port for port in stats["ports"] if port["type"] == "nic")
            return nic["out_bytes"], sum(port["copied_bytes"] for port in stats["ports"] + stats["endpoints"])
        self.stream("mode=vmm,mtu=64000", client="size=64014", frames=LARGE_ENOUGH)
        before = received()
        self.advance("server", RX, LARGE_ENOUGH)
        grown, copied = (now - then for now, then in zip(received(), before))
        self.assertLess(copied, 0.2 * grown)

    def test_changed_while_frames_flow(self):
        for doorbell in "eventfd", "inline":
            with self.subTest(doorbell):
                self.change_while_frames_flow(f"mode=guest,doorbell={doorbell}")
                self.end_all()

    def change_while_frames_flow(self, net):
        self.stream(net)
        self.assertEqual(self.line("client", "mode nic0 tx vmm"), {"ok": True, "result": {}})
        grown = self.advance("client", TX, ENOUGH)
        self.assertLessEqual(grown["kicks"], grown["requests"] / 1000)
        self.line("client", "mode nic0 guest")
        # A kick that was lost would stop the client for ever.
        wait_for(lambda: self.mode("client", "tx")["guest_frames"] >= 2 * ENOUGH)
        history = [row["mode"] for row in self.line("client", "mode history")["result"] if row["direction"] == "tx"]
        self.assertEqual(history, ["vmm", "guest"])
        self.assertEqual(self.mode("client", "rx")["switches"], 0)

    def test_auto(self):
        """What sends is driven by the VMM there, what receives here."""
        self.stream(BUSY)
        wait_for(lambda: self.mode("client", "tx")["vmm_frames"] >= ENOUGH)
        wait_for(lambda: self.mode("server", "rx")["vmm_frames"] > 0)
        self.assertGreaterEqual(self.mode("client", "tx")["switches"], 1)

    def test_auto_at_the_threshold(self):
        """A time comes in which 50 windows about the upper threshold lead to no switch; what flapped would never get there."""
        def tx():
            row = self.mode("client", "tx")
            return row["guest_frames"] + row["vmm_frames"], row["switches"]

        def still():
            frames, switches = tx()
            wait_for(lambda: tx()[0] >= frames + 50 * HELD_UP)
            return tx()[1] == switches

        self.stream(HELD, client=f"mode=irq rate={HELD_RATE}")
        wait_for(lambda: tx()[1])
        wait_for(still)

    def test_interrupts(self):
        """At most one a batch, and with irq=early one more."""
        for irq, most in ("batch", 1), ("early", 2):
            with self.subTest(irq):
                self.stream(f"mode=guest,irq={irq}", server_mode="irq")
                wait_for(lambda: self.queue("server", RX)["early_interrupts" if irq == "early" else "interrupts"])
                self.advance("server", RX, ENOUGH // 10)
                stats = self.stats("server")
                nic = next(port for port in stats["ports"] if port["type"] == "nic")
                queue = stats["devices"][0]["queues"][RX]
                self.assertGreater(queue["interrupts"], 0)
                self.assertLessEqual(queue["interrupts"], most * nic["batches"])
                self.end_all()


@needs_kvm
class Idle(ModesTest):
    def test_does_not_spin(self):
        """What the sidecar does for a VM that does nothing: it goes round when it is asked something."""
        for mode in ("guest", "vmm", "auto"):
            with self.subTest(mode):
                vm = self.weft("--kernel", guest("virtio-echo"), "--memory", "16M", "--net", f"mac={MAC_A},mode={mode}",
                               "--ctl", self.path(mode), "--cmdline", "mode=irq")
                vm.wait_output("ready")
                if mode == "vmm":
                    wait_for(lambda mode=mode: self.stats(mode)["sidecar_spins"])
                borrows = self.stats(mode)["sidecar_borrows"]  # by the questions themselves, once it sleeps
                wait_for(lambda mode=mode, borrows=borrows: self.stats(mode)["sidecar_borrows"] > borrows)
                before = self.stats(mode)
                for _ in range(50):
                    now = self.stats(mode)
                self.assertEqual(now["sidecar_spins"], before["sidecar_spins"])
                self.assertLess(now["sidecar_turns"] - before["sidecar_turns"], 50 * 20)
                vm.end()


@needs_kvm
class Inline(vmm_net.EchoTest):
    """Who sends what an idle guest answers: the sidecar, woken once more for that, or the vCPU."""
    ROUNDS = 100

    def turns(self, net):
        """How often the sidecar went round while the guest answered ROUNDS frames."""
        self.net = f",mode=guest,doorbell={net}"
        vm = self.echo("mode=irq")

        def batch():
            before = self.stats()
            for _ in range(self.ROUNDS):
                self.ask(os.urandom(100))
            after = self.stats()
            kicks = (stats["devices"][0]["queues"][TX]["kicks"] for stats in (after, before))
            self.assertGreaterEqual(next(kicks) - next(kicks), self.ROUNDS)
            return after["sidecar_turns"] - before["sidecar_turns"]
        yield from iter(batch, None)
        vm.end()

    def stats(self):
        with self.control(self.path("ctl")) as control:
            return control.request("stats")["result"]

    def test_the_sidecar_is_woken(self):
        self.assertGreaterEqual(next(self.turns("eventfd")), 2 * self.ROUNDS)

    def test_the_sidecar_sleeps(self):
        """Where the machine is not too busy for it to be asleep in time."""
        batches = self.turns("inline")
        wait_for(lambda: next(batches) < 1.5 * self.ROUNDS)


@needs_kvm
class Noise(ModesTest):
    def jitter(self, *arguments):
        vm = self.weft("--kernel", guest("jitter"), "--memory", "16M", *arguments)
        vm.wait_output("spinning")
        return vm

    def test_no_exits(self):
        """Nothing of weft's disturbs a vCPU that asks for nothing."""
        vm = self.jitter("--cmdline", "ms=0", "--net", f"mac={MAC_A}", "--ctl", self.path("ctl"))
        vcpu = next(task for task in os.listdir(f"/proc/{vm.pid}/task") if self.thread_name(vm, task) == "vcpu0")
        start = None
        while start != (start := self.exits()):  # what it printed may still be on its way
            pass
        began = self.cpu_ns(vm, vcpu)
        wait_for(lambda: self.cpu_ns(vm, vcpu) - began > 1e9)
        self.assertEqual(self.exits(), start)

    def exits(self):
        return self.stats("ctl")["vcpus"][0]["exits"]

    @staticmethod
    def thread_name(vm, task):
        with open(f"/proc/{vm.pid}/task/{task}/comm", encoding="ascii") as file:
            return file.read().strip()

    @staticmethod
    def cpu_ns(vm, task):
        with open(f"/proc/{vm.pid}/task/{task}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[0])

    def test_report(self):
        vm = self.jitter("--cmdline", "ms=50")
        self.assertEqual(vm.wait(), STATUS_OK, vm.errors())
        report = json.loads(next(line for line in vm.output().splitlines() if line.startswith("{")))
        self.assertGreater(report["readings"], 0)
        self.assertLessEqual(report["median_ns"], report["p999_ns"])
        self.assertLessEqual(report["p999_ns"], report["max_ns"])
        self.assertLessEqual(report["over_100us"], report["over_10us"])


@needs_kvm
class Pin(ModesTest):
    def test_threads(self):
        cpu = min(os.sched_getaffinity(0))
        vm = self.endless("--cpus", "2", "--pin", f"sidecar={cpu},vcpu1={cpu}")
        vm.wait_output("ready")
        found = {}
        for task in os.listdir(f"/proc/{vm.pid}/task"):
            with open(f"/proc/{vm.pid}/task/{task}/comm", encoding="ascii") as file:
                found[file.read().strip()] = os.sched_getaffinity(int(task))
        self.assertEqual(found["sidecar"], {cpu})
        self.assertEqual(found["vcpu1"], {cpu})
        self.assertEqual(found["vcpu0"], os.sched_getaffinity(0))

    def test_refused(self):
        unusable = next(cpu for cpu in range(1024) if cpu not in os.sched_getaffinity(0))
        self.assert_refused(self.endless("--pin", f"vcpu0={unusable}"), STATUS_ENVIRONMENT, f"--pin: .*CPU {unusable}")
        for value in "vcpu0", "vcpu0=", "vcpu=1", "vcpu01x=1", "other=1", "vcpu64=0", "sidecar=1024", "vcpu1=0":
            with self.subTest(value):
                self.assert_refused(self.endless("--pin", value), STATUS_USAGE, "--pin")


@needs_kvm
class Words(ModesTest):
    def test_refused(self):
        for net in "mode=", "mode=fast", "up=0", "up=10,down=10", "window=0", "flood=-1", "dwell=-1", "irq=late", "irq=", \
                "queues=0", "queues=17", "queues=", "doorbell=", "doorbell=bell":
            with self.subTest(net):
                self.assert_refused(self.hello("--net", net), STATUS_USAGE, "--net")
        vm = self.endless("--ctl", self.path("ctl"))
        vm.wait_output("ready")
        for line in "mode nic0", "mode nic0 fast", "mode nic0 up vmm", "mode nic1 vmm", "mode tx vmm", "mode history 3", \
                "mode nic0 tx1 vmm", "mode nic0 tx-1 vmm", "mode nic0 tx000 vmm", "mode nic0 0 vmm", "mode nic0 tx0x vmm":
            with self.subTest(line):
                self.assertFalse(self.line("ctl", line)["ok"])
        self.assertEqual([row["policy"] for row in self.line("ctl", "mode")["result"]], ["auto", "auto"])


@needs_kvm
class Pairs(ModesTest):
    def test_words(self):
        """Those in use are shown, and all can be told."""
        vm = self.weft("--kernel", guest("virtio-echo"), "--memory", "16M", "--net", f"mac={MAC_A},queues=2",
                       "--ctl", self.path("ctl"), "--cmdline", "mode=irq")
        vm.wait_output("ready")
        self.assertTrue(self.line("ctl", "mode nic0 rx1 vmm")["ok"])
        self.assertTrue(self.line("ctl", "mode nic0 tx0 vmm")["ok"])
        rows = [(row["pair"], row["direction"], row["mode"]) for row in self.line("ctl", "mode")["result"]]
        self.assertEqual(rows, [(0, "tx", "vmm"), (0, "rx", "guest")])
        self.assertFalse(self.line("ctl", "mode nic0 tx2 vmm")["ok"])
        self.assertEqual(len(self.stats("ctl")["devices"][0]["queues"]), 5)
        vm.end()

    def test_linux(self):
        """A driver with fewer CPUs than there are pairs: the control queue still comes behind all of them."""
        self.linux("--net", f"mac={MAC_A},queues=4")
        self.guest_run("ip", "link", "set", "eth0", "promisc", "on")
        net = next(device for device in self.stats("ctl")["devices"] if device["name"] == "net")
        self.assertEqual(len(net["queues"]), 9)
        self.assertGreater(net["queues"][8]["requests"], 0)
        self.assertFalse(net["broken"])


if __name__ == "__main__":
    tap.main(__name__)
