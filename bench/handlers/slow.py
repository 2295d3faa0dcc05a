#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""slow.py MOUNTPOINT [options]: handlers that take their time, as slow.c says."""

from __future__ import annotations

import ctypes
import itertools
import queue
import stat
import threading
import time

import manifuse
from manifuse import ROOT, Attr, Entry, InodeFS, Open, Reply, context

SIZE = 64 << 10
NAMES = ("fast", "sleep1ms", "sleep5ms", "sleep10ms-1in100", "foreign1ms", "wait", "compute200us", "never")
FIRST = 2
PR_SET_TIMERSLACK = 29


class Slow(InodeFS):
    def __init__(self) -> None:
        self.attr = Attr(mode=stat.S_IFREG | 0o444, size=SIZE)
        self.root = Attr(mode=stat.S_IFDIR | 0o555, nlink=2)
        self.entries = {name: Entry(FIRST + i, self.attr) for i, name in enumerate(NAMES)}
        self.zeros = bytes(SIZE)
        self.count = itertools.count()
        self.later: queue.SimpleQueue[tuple[float, Reply, int]] = queue.SimpleQueue()
        self.forever = threading.Event()
        self.reads = {FIRST + i: getattr(self, "read_" + name.replace("-", "_")) for i, name in enumerate(NAMES)}
        threading.Thread(target=self.answer_later, daemon=True).start()

    def lookup(self, parent: int, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            raise FileNotFoundError
        return entry

    def getattr(self, node: int) -> Attr:
        return self.root if node == ROOT else self.attr

    def open(self, node: int, flags: int) -> Open:
        return Open(direct_io=True)

    def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        self.reads[node](size)
        return self.zeros[:size]

    def read_fast(self, size: int) -> None:
        pass

    def read_sleep1ms(self, size: int) -> None:
        time.sleep(0.001)

    def read_sleep5ms(self, size: int) -> None:
        time.sleep(0.005)

    def read_sleep10ms_1in100(self, size: int) -> None:
        if next(self.count) % 100 == 0:
            time.sleep(0.01)

    def read_foreign1ms(self, size: int) -> None:
        self.later.put((time.monotonic() + 0.001, context().defer(), size))

    def answer_later(self) -> None:
        while True:
            due, reply, size = self.later.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                reply.data(self.zeros[:size])
            except (RuntimeError, OSError):
                pass  # the caller is gone, or the session over

    def read_wait(self, size: int) -> None:
        woken = threading.Event()
        context().on_interrupt(woken.set)
        woken.wait()
        raise InterruptedError

    def read_compute200us(self, size: int) -> None:
        end = time.thread_time_ns() + 200_000
        while time.thread_time_ns() < end:
            pass

    def read_never(self, size: int) -> None:
        self.forever.wait()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # threads inherit it; as in slow.c
    manifuse.main(Slow)
