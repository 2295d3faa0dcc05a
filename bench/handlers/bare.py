#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bare.py LOOP MOUNTPOINT [options of the loop]: the handlers of slow.py that blocked.py measures a server by, under a
loop without engine. LOOP is bench/responder.c or bench/ring_responder.c, built as an extension module (slow_python.h).
"""

from __future__ import annotations

import importlib.util
import itertools
import queue
import sys
import threading
import time
from types import ModuleType

SIZE = 64 << 10
NAMES = ("fast", "sleep1ms", "sleep10ms-1in100", "foreign1ms")  # in the order of slow_fs.h
FIRST = 2


class Bare:
    def __init__(self, loop: ModuleType) -> None:
        self.loop = loop
        self.nodes = {name: FIRST + i for i, name in enumerate(NAMES)}
        self.zeros = bytes(SIZE)
        self.count = itertools.count()
        self.later: queue.SimpleQueue[tuple[float, int, int, int]] = queue.SimpleQueue()
        threading.Thread(target=self.answer_later, daemon=True).start()

    def lookup(self, parent: int, name: str) -> int:
        return self.nodes.get(name, 0)

    def getattr(self, node: int) -> int:
        return node

    def read(self, node: int, size: int) -> bytes:
        if node == FIRST + 1:
            time.sleep(0.001)
        elif node == FIRST + 2 and next(self.count) % 100 == 0:
            time.sleep(0.01)
        return self.zeros[:size]

    def defer(self, who: int, unique: int, length: int) -> None:
        self.later.put((time.monotonic() + 0.001, who, unique, length))

    def answer_later(self) -> None:
        while True:
            due, who, unique, length = self.later.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self.loop.answer(who, unique, length)


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bare", path)
    assert spec
    assert spec.loader
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    return loop


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    bare = Bare(load(sys.argv[1]))
    bare.loop.run(bare.lookup, bare.getattr, bare.read, bare.defer, [*sys.argv[2:], "--slow"])
