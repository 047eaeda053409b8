#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A bad line for the tests: passes UDP datagrams between two peers, and loses, doubles, reorders and delays some.

  impair.py --left ADDR:PORT=PEER:PORT --right ADDR:PORT=PEER:PORT [--loss P] [--duplicate P] [--reorder P] [--delay MS] [--seed N]

Each side is an address to listen on and the peer behind it. P is a probability, 0 to 1; a reordered datagram is held
back until some others have passed. Which datagrams suffer depends on the seed alone.
"""
import argparse
import heapq
import random
import select
import socket
import time

BUFFER = 8 << 20
VISIT = 64          # datagrams a side before the other gets its turn
HELD_SECONDS = 0.02  # the longest that a reordered datagram is held back without others passing
HELD_COUNT = 5


class Side:
    def __init__(self, text):
        listen, peer = text.split("=")
        self.peer = self.address(peer)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self.socket.bind(self.address(listen))
        self.socket.setblocking(False)
        self.other = None
        self.held = []  # (datagrams still to pass, deadline, data)

    @staticmethod
    def address(text):
        host, port = text.rsplit(":", 1)
        return host, int(port)

    def send(self, data):
        try:
            self.socket.sendto(data, self.peer)
        except OSError:
            pass  # the peer is away, or the buffer full: lost, like everything on a bad line


class Line:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.late = []  # heap of (when, number, side, data)
        self.number = 0

    def chance(self, probability):
        return probability > 0 and self.random.random() < probability

    def carry(self, side, data):
        """A datagram that came from one side's peer, on its way to the other side's."""
        if self.chance(self.options.loss):
            return
        for _ in range(2 if self.chance(self.options.duplicate) else 1):
            if self.chance(self.options.reorder):
                side.other.held.append([HELD_COUNT, time.monotonic() + HELD_SECONDS, data])
            else:
                self.deliver(side.other, data)
        self.release(side.other)

    def deliver(self, side, data):
        if not self.options.delay:
            side.send(data)
            return
        self.number += 1
        heapq.heappush(self.late, (time.monotonic() + self.options.delay / 1000, self.number, side, data))

    def release(self, side):
        now, kept = time.monotonic(), []
        for held in side.held:
            held[0] -= 1
            if held[0] > 0 and held[1] > now:
                kept.append(held)
            else:
                self.deliver(side, held[2])
        side.held = kept

    def punctual(self):
        """Send what has been late long enough; how long until the next, in seconds."""
        now = time.monotonic()
        while self.late and self.late[0][0] <= now:
            _, _, side, data = heapq.heappop(self.late)
            side.send(data)
        return max(0.0, self.late[0][0] - now) if self.late else 1.0

    def run(self, left, right):
        left.other, right.other = right, left
        sides = {left.socket: left, right.socket: right}
        while True:
            wait = self.punctual()
            held = left.held or right.held
            ready, _, _ = select.select(list(sides), [], [], min(wait, HELD_SECONDS) if held else wait)
            for each in ready:
                for _ in range(VISIT):
                    try:
                        data = each.recv(65536)
                    except OSError:
                        break
                    self.carry(sides[each], data)
            for side in (left, right):
                if side.held:
                    self.release(side)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left", required=True, type=Side)
    parser.add_argument("--right", required=True, type=Side)
    for name in ("loss", "duplicate", "reorder", "delay"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("ready", flush=True)
    try:
        Line(options).run(options.left, options.right)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
