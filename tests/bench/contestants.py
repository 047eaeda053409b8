# SPDX-License-Identifier: GPL-2.0-or-later
"""The contestants: each a way in which two machines on two hosts can reach each other.

All run at the same time, each pair of hosts on a wire of its own, and idle except while their sample is taken. The guests are
the same kernel and image. A contestant has a client and a server, hosts of hosts.py, and the server's address; those that are no
machines take one kind of sample only, and say so by `kind`.
"""
import dataclasses
import json
import os
import re
import shutil

from hosts import CommandError, GuestHost, NamespaceHost
from machine import ROOT
from netns import Underlay, ip
from weft import WEFT, Control, Vm, guest, linux, wait_for

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 96
VXLAN_BYTES = 50     # what VXLAN puts before a packet: Ethernet, IPv4, UDP, VXLAN
ETHERNET_BYTES = 14
UDP_BYTES = 42       # Ethernet, IPv4, UDP
IP_UDP_BYTES = 28
VNETU_BYTES = 100    # Geneve with room for options
BRIDGE = ("br0", "type", "bridge")
UDP_PORT = "7700"
IB_PORT = 7700       # and the VM's number
RDMA_DEVICES = "/sys/class/infiniband"
MTU_LARGEST = 64000


@dataclasses.dataclass(frozen=True)
class Phase:
    """What all samples of a part of the run have in common: the guests' MTU as far as the wire's lets it, and the CPUs."""
    guest: int
    underlay: int
    cpus: str = ""  # that everything has to share (a list of taskset's); all, if empty

    @property
    def name(self):
        return f"{self.guest}-one-cpu" if self.cpus else f"{self.guest}"

    @property
    def title(self):
        return f"MTU {self.guest}" + (", one CPU" if self.cpus else "")

    def fits(self, overhead):
        """A guest's MTU behind so many bytes; the largest is cut to the wire's by whoever sends it."""
        return self.guest if self.guest == MTU_LARGEST else min(self.guest, self.underlay - overhead)


class Lab:
    """What the contestants share: the underlay, a directory, the image."""

    def __init__(self, directory, phase, ib=None):
        """ib: the address of this host's RDMA adapter, and options of the links after it."""
        self.dir, self.ib = directory, ib
        self.pin = ("taskset", "--cpu-list", phase.cpus) if phase.cpus else ()
        self.kernel, self.initrd = linux()
        self.underlay = Underlay({})

    def command_line(self, number):
        return f"quiet console=ttyS0 weft.ip=192.168.7.{number}/24"

    def process(self, *argv, host=None):
        prefix = (*(self.underlay.command(host) if host else ()), *self.pin)
        return Vm(self.dir, argv[1:], prefix=prefix, program=argv[0], verb=())

    def close(self):
        self.underlay.close()


class Contestant:
    name = about = ""
    kind = "machines"
    one_host = False
    quick = True     # is in a quick run
    largest = True   # can carry the largest MTU
    one_cpu = False  # is measured on one CPU, too
    asked = ""       # only where --only has this, or a part of it
    settle_s = 0.05  # after a sample, until all of it sleeps

    def __init__(self, lab, number, phase):
        self.lab, self.number, self.phase = lab, number, phase
        self.hosts = [f"a{number}"] * 2 if self.one_host else [f"a{number}", f"b{number}"]
        self.processes = []
        self.client = self.server = None
        self.address = "192.168.7.2"

    @classmethod
    def takes(cls, phase):
        """Whether it is in the phase."""
        return (cls.largest or phase.guest != MTU_LARGEST) and (cls.one_cpu or not phase.cpus)

    def wire(self):
        if self.one_host:
            self.lab.underlay.add_host(self.hosts[0])
        else:
            self.lab.underlay.add_wire(f"10.8.{self.number}", self.hosts, self.phase.underlay)

    def host_address(self, end):
        return f"10.8.{self.number}.{end}"

    def spawn(self, end, *argv):
        process = self.lab.process(*argv, host=self.hosts[end - 1])
        self.processes.append(process)
        return process

    def path(self, name):
        return f"{self.lab.dir}/{self.number}.{name}"

    def begin(self):
        """Start what takes long; ready() waits for it."""

    def ready(self):
        """Wait until samples can be taken."""

    def serve(self):
        self.server.start("iperf3", "--server")
        self.server.start("pingpong", "--server")

    def await_path(self):
        def reached():
            try:
                return self.client.run("pingpong", self.address, "--count", "1", "--json")
            except CommandError:
                return None
        wait_for(reached, 0.1)

    def datagrams(self, size, seconds, buffers=1):
        """Send UDP datagrams from client to server as fast as it goes; what the receiver counted. @buffers: of 64 KiB, of each
        side, which it takes in turn."""
        file = f"{self.server.scratch}/datagrams.{self.number}"
        self.server.start("sh", "-c", f"udp_gso receive {self.address} {UDP_PORT} {buffers} > {file}")
        self.file_wait(file, "ready")
        self.client.run("udp_gso", "send", self.address, UDP_PORT, str(size), str(seconds), str(buffers))
        got = json.loads(self.file_wait(file, "}").splitlines()[-1])
        self.server.run("rm", file)
        return {"gbps": got["bytes"] * 8 / got["seconds"] / 1e9, "frames": got["datagrams"] / got["seconds"]}

    def file_wait(self, file, text):
        """The content of a file on the server, once it has this text."""
        def look():
            content = self.server.run("sh", "-c", f"cat {file} 2>/dev/null || true")
            return content if text in content else None
        return wait_for(look, 0.05)

    def recover(self):
        """After a failed sample."""

    def pids(self):
        return [process.pid for process in self.processes]

    def counters(self):
        """What the VMMs have counted on the client's and the server's side; None: they do not."""
        return None

    def close(self):
        for host in (self.client, self.server):
            if host:
                host.close()
        for process in self.processes:
            process.end()


class Guests(Contestant):
    """Base: two Linux guests."""
    channel = 0

    def begin(self):
        self.wire()
        for end in (1, 2):
            self.network(end)
            self.guest_start(end)

    def network(self, end):
        """What a host needs before its guest starts."""

    def guest_start(self, end):
        raise NotImplementedError

    def ready(self):
        self.client, self.server = (GuestHost(self.path(f"agent{end}"), self.channel) for end in (1, 2))
        for host in (self.client, self.server):
            host.connect(self.check_alive)
            host.put(f"{ROOT}/build/static/bench/udp_gso")
        self.serve()
        self.await_path()

    def check_alive(self):
        for process in self.processes:
            if not process.running():
                raise CommandError(f"a process has ended: {process.errors()[-300:]}")

    def recover(self):
        self.client.connect(self.check_alive)


# --- weft -------------------------------------------------------------------------------------

class Weft(Guests):
    """Base: what says how the two weft processes reach each other is link()."""
    net = ""  # more of --net

    def link(self, end):
        raise NotImplementedError

    def mtu(self):
        """The link's own choice on a wire, and what is asked for where there is none."""
        return str(self.phase.guest) if self.one_host or self.phase.guest == MTU_LARGEST else "auto"

    def guest_start(self, end):
        self.spawn(end, WEFT, "run", "--kernel", self.lab.kernel, "--initrd", self.lab.initrd, "--memory", f"{MEMORY_MIB}M",
                   "--console", "off", "--rng", "--cmdline", self.lab.command_line(end), *self.nic(end),
                   "--ctl", self.path(f"ctl{end}"), "--agent", self.path(f"agent{end}"))

    def nic(self, end):
        return ("--net", f"mac=02:00:00:00:00:{end:02x},mtu={self.mtu()}{self.net}", *self.link(end))

    def counters(self):
        return [self.counters_of(end) for end in (1, 2)]

    def counters_of(self, end):
        with Control(self.path(f"ctl{end}")) as control:
            stats = control.request("stats")["result"]
        ports = stats["ports"] + stats.get("endpoints", [])
        nic = next(port for port in ports if port["type"] == "nic")
        queues = [queue for device in stats["devices"] if device["name"] == "net" for queue in device["queues"]]
        return {"sent": nic["in_frames"], "received": nic["out_frames"],
                "sent_bytes": nic["in_bytes"], "received_bytes": nic["out_bytes"],
                "syscalls": sum(port["syscalls"] for port in ports), "copied": sum(port["copied_bytes"] for port in ports),
                "doorbells": sum(queue["kicks"] for queue in queues),
                "interrupts": sum(queue["interrupts"] for queue in queues),
                "exits": sum(sum(vcpu["exits"].values()) for vcpu in stats["vcpus"])}


class WeftUdp(Weft):
    name = "weft udp"
    about = "weft, links over UDP (Geneve)"
    one_cpu = True

    def link(self, end):
        return ("--listen", f"udp://{self.host_address(end)}", "--link", f"udp://{self.host_address(3 - end)}")


class WeftAuto(WeftUdp):
    name, net = "auto", ",mode=auto"
    about = "weft udp, who drives a queue is decided by the rate"


class WeftGuestDriven(WeftUdp):
    name, net = "guest", ",mode=guest"
    about = "weft udp, guest-driven: a doorbell for each batch"


class WeftVmmDriven(WeftUdp):
    name, net = "vmm", ",mode=vmm"
    about = "weft udp, VMM-driven: the VMM polls"
    settle_s = 1.05  # it polls for a second before it sleeps


class WeftEth(Weft):
    name = "weft eth"
    about = "weft, links in raw Ethernet frames"
    quick = False

    def link(self, end):
        return ("--link", f"eth://eth0/{self.lab.underlay.mac(self.hosts[2 - end])}")


class WeftShm(Weft):
    name = "weft shm"
    about = "weft, two VMs of one host by shared memory"
    one_host = one_cpu = True

    def link(self, end):
        return ("--listen" if end == 1 else "--link", f"shm://{self.path('shm')},name=shm")  # a path may be long


class WeftIb(Weft):
    name = "weft ib"
    about = "weft, two VMs of one host by its RDMA adapter, which --ib names"
    one_host = True
    quick = False

    def wire(self):
        """An adapter's addresses are the host's own, so there are no namespaces."""
        self.hosts = [None, None]

    def link(self, end):
        address, comma, options = self.lab.ib.partition(",")
        urls = [f"ib://{address}:{IB_PORT + number}{comma}{options}" for number in (end, 3 - end)]
        return ("--listen", urls[0], "--link", urls[1])


# --- QEMU -------------------------------------------------------------------------------------

class Qemu(Guests):
    """Base: QEMU's microvm with virtio devices on PCI, as fast as it can be set up without vhost."""
    channel = 1
    overhead = 0

    def mtu(self):
        return self.phase.fits(self.overhead)

    def netdev(self, end):
        raise NotImplementedError

    def guest_start(self, end):
        self.spawn(end, QEMU, "-enable-kvm", "-machine", "microvm,pcie=on,acpi=on", "-cpu", "host", "-m", str(MEMORY_MIB),
                   "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", self.lab.kernel,
                   "-initrd", self.lab.initrd, "-append", self.lab.command_line(end), "-netdev", self.netdev(end),
                   "-device", f"virtio-net-pci,netdev=n,mac=02:00:00:00:00:{end:02x},host_mtu={self.mtu()}",
                   "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
                   "-chardev", f"socket,id=agent,path={self.path(f'agent{end}')},server=on,wait=off",
                   "-device", "virtserialport,chardev=agent,name=weft.agent")

    def ip(self, end, *words):
        ip("-n", self.lab.underlay.name(self.hosts[end - 1]), *words)

    def device(self, end, kind, name, *words):
        """Make a network device, and make it a port of the bridge."""
        self.ip(end, *kind, name, *words)
        self.ip(end, "link", "set", name, "mtu", str(self.mtu()), "master", "br0", "up")

    def bridge(self, end):
        self.ip(end, "link", "add", *BRIDGE)
        self.ip(end, "link", "set", "br0", "up")


class QemuVxlan(Qemu):
    name = "QEMU VXLAN"
    about = "QEMU virtio-net + tap + bridge + the kernel's VXLAN"
    overhead = VXLAN_BYTES
    one_cpu = True

    def network(self, end):
        self.bridge(end)
        self.device(end, ("tuntap", "add"), "tap0", "mode", "tap", "vnet_hdr")
        self.device(end, ("link", "add"), "vxlan0", "type", "vxlan", "id", "1", "dstport", "4789",
                    "local", self.host_address(end), "remote", self.host_address(3 - end))

    def netdev(self, end):
        return "tap,id=n,ifname=tap0,script=no,downscript=no"


class QemuUdp(Qemu):
    name = "QEMU UDP"
    about = "QEMU virtio-net + its own tunnel of UDP datagrams (-netdev dgram)"
    quick = False
    overhead = UDP_BYTES

    def netdev(self, end):
        return "dgram,id=n," + ",".join(
            f"{side}.type=inet,{side}.host={self.host_address(number)},{side}.port=7000"
            for side, number in (("local", end), ("remote", 3 - end)))


class VnetU(Qemu):
    name = "VNET/U"
    about = "QEMU virtio-net + tap + vnetd with a frame a system call and no offloads"
    overhead = VNETU_BYTES
    largest = False

    def network(self, end):
        self.bridge(end)
        self.device(end, ("tuntap", "add"), "tap0", "mode", "tap")
        self.device(end, ("tuntap", "add"), "tap1", "mode", "tap")
        self.spawn(end, f"{ROOT}/build/vnetd", "--tap", "tap1,gso=off", "--offload", "off",
                   "--listen", f"udp://{self.host_address(end)}", "--link", f"udp://{self.host_address(3 - end)}")

    def netdev(self, end):
        return "tap,id=n,ifname=tap0,script=no,downscript=no,vnet_hdr=off"


# --- without guests ---------------------------------------------------------------------------

class Native(Contestant):
    name = "native veth"
    about = "no guests: the hosts themselves, on their wire, which carries super-frames whole"
    largest = False

    def begin(self):
        self.wire()
        self.address = self.host_address(2)
        self.client, self.server = (NamespaceHost(self.lab.underlay, host, self.lab.dir) for host in self.hosts)
        self.serve()

    def ready(self):
        self.await_path()


class RawUdp(Contestant):
    name = "raw UDP GSO"
    about = "no guests, no overlay: UDP with UDP_SEGMENT and UDP_GRO from process to process"
    kind = "frames"
    buffers = 1

    def begin(self):
        self.wire()
        self.address = self.host_address(2)
        self.client, self.server = (NamespaceHost(self.lab.underlay, host, self.lab.dir) for host in self.hosts)

    def stream(self, seconds):
        """Datagrams that just fill the wire's packets."""
        return self.datagrams(self.phase.underlay - IP_UDP_BYTES, seconds, self.buffers)


class RawUdpMemory(RawUdp):
    name = "raw UDP GSO, 16 MiB"
    about = "the same with 256 buffers of 64 KiB in turn, as netbench has them: more than a cache holds"
    quick = False
    buffers = 256


class Netbench(Contestant):
    """Base: two unikernels under weft, which send frames and do nothing else. They start for each sample."""
    kind = "frames"
    under = None

    def __init__(self, lab, number, phase):
        super().__init__(lab, number, phase)
        self.weft = self.under(lab, number, phase)  # pylint: disable=not-callable
        self.hosts = self.weft.hosts

    def begin(self):
        self.weft.wire()

    def unikernel(self, end, line):
        return self.spawn(end, WEFT, "run", "--kernel", guest("netbench"), "--memory", "64M", "--cmdline", line,
                          *self.weft.nic(end))

    def client_run(self, line):
        """A client's line of JSON, with a server on the other side."""
        try:
            server = self.unikernel(1, "role=server sessions=1 mode=irq")
            mtu = wait_for(lambda: re.search(r"ready, mtu (\d+)\s", server.output()))[1]
            client = self.unikernel(2, "role=client " + line.format(largest=int(mtu) + ETHERNET_BYTES))
            if client.wait():
                raise CommandError(f"netbench: {client.output()[-200:]}{client.errors()[-200:]}")
            return json.loads(client.output().splitlines()[-1])
        finally:
            for process in self.processes:
                process.end()
            self.processes.clear()

    def stream(self, seconds, size="{largest}"):
        got = self.client_run(f"test=stream mode=irq seconds={seconds} size={size}")
        taken = max(float(got["seconds"]), 1e-6)
        return {"gbps": got["bytes"] * 8 / taken / 1e9, "frames": got["frames"] / taken}

    def round_trips(self, count):
        return self.client_run(f"test=pingpong mode=irq count={count}")


class NetbenchUdp(Netbench):
    name = "netbench udp"
    about = "weft udp without a guest's kernel: the unikernel netbench"
    under = WeftUdp


class NetbenchEth(Netbench):
    name = "netbench eth"
    about = "weft eth without a guest's kernel"
    quick = False
    under = WeftEth


class NetbenchShm(Netbench):
    name = "netbench shm"
    about = "weft shm without a guest's kernel"
    quick = False
    under = WeftShm


# --- ways of one option -----------------------------------------------------------------------

def variant(net):
    """weft udp with something added to --net, with and without a guest's kernel."""
    weft = type("Variant", (WeftUdp,), {"name": f"weft {net}", "about": f"weft udp, --net {net}", "asked": net, "net": f",{net}"})
    return weft, type("NetbenchVariant", (NetbenchUdp,),
                      {"name": f"netbench {net}", "about": f"netbench udp, --net {net}", "asked": net, "under": weft})


VARIANTS = tuple(cls for net in ("irq=batch", "irq=early", "doorbell=eventfd", "doorbell=inline") for cls in variant(net))

# The first of each kind is the one that the others are compared with.
CONTESTANTS = (WeftUdp, WeftEth, WeftShm, WeftIb, QemuVxlan, QemuUdp, VnetU, Native, NetbenchUdp, NetbenchEth, NetbenchShm, RawUdp,
               RawUdpMemory, *VARIANTS)
BY_MODE = (WeftAuto, WeftGuestDriven, WeftVmmDriven)


def missing(contestant, ib=None):
    """Why it cannot take part, or None."""
    if issubclass(contestant, Qemu) and not shutil.which(QEMU):
        return f"{QEMU} is not there"
    if issubclass(contestant, WeftIb) and not (os.path.isdir(RDMA_DEVICES) and os.listdir(RDMA_DEVICES)):
        return "this host has no RDMA adapter"
    if issubclass(contestant, WeftIb) and not ib:
        return "--ib ADDRESS says by which RDMA adapter"
    return None
