"""A cable between two network namespaces that loses, delays and reorders frames.

    wire.py NAMESPACE ADDRESS NAMESPACE ADDRESS

Why: `tc netem` does this in the kernel, where the kernel has it; TAP devices are
nearly everywhere. Each namespace gets a device `cable` with its address, such as
10.0.0.1/24. `ready` is printed when it is up, and a line after each command:

    faults LOSS DELAY REORDER   shares from 0 to 1, and seconds each way; reordered
                                frames are those that are not delayed
    cut                         nothing gets through, and nobody is told
    heal
"""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
MAX_FRAME = 65536


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def plug(namespace, address):
    """A device in the namespace; returns its other end."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", b"tap%d", IFF_TAP | IFF_NO_PI)
    name = fcntl.ioctl(tap, TUNSETIFF, request)[:16].rstrip(b"\0").decode()
    ip("link", "set", name, "netns", namespace, "name", "cable")
    ip("-n", namespace, "address", "add", address, "broadcast", "+", "dev", "cable")
    ip("-n", namespace, "link", "set", "cable", "up")
    return tap


class Wire:
    def __init__(self, ends):
        self.other = {ends[0]: ends[1], ends[1]: ends[0]}
        self.waiting = []
        self.count = 0
        self.loss = self.delay = self.reorder = 0.0
        self.is_cut = False

    def command(self, words):
        if words[0] == "faults":
            self.loss, self.delay, self.reorder = map(float, words[1:])
        elif words[0] in ("cut", "heal"):
            self.is_cut = words[0] == "cut"
            self.waiting.clear()
        else:
            sys.exit(f"wire.py: no such command: {words[0]}")
        print("ok", flush=True)

    def take(self, end):
        frame = os.read(end, MAX_FRAME)
        if self.is_cut or random.random() < self.loss:
            return
        delay = 0.0 if random.random() < self.reorder else self.delay
        self.count += 1
        due = time.monotonic() + delay
        heapq.heappush(self.waiting, (due, self.count, self.other[end], frame))

    def deliver(self):
        """Sends what is due; returns for how long nothing is."""
        while self.waiting:
            left = self.waiting[0][0] - time.monotonic()
            if left > 0:
                return left
            _, _, end, frame = heapq.heappop(self.waiting)
            try:
                os.write(end, frame)
            except OSError:
                pass  # the device is full, or going away with its namespace
        return None

    def run(self):
        text = b""
        while True:
            readable, _, _ = select.select([*self.other, 0], [], [], self.deliver())
            for end in readable:
                if end != 0:
                    self.take(end)
                    continue
                data = os.read(0, 4096)
                if not data:
                    return
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    self.command(line.decode().split())


def main(here, address, there, other_address):
    wire = Wire([plug(here, address), plug(there, other_address)])
    print("ready", flush=True)
    try:
        wire.run()
    except OSError:
        pass  # a device went away with its namespace


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
