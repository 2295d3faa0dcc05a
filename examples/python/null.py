#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The filesystem of the benchmark: names f0000 ... f9999 of 64 KiB zeros, uncached, and `big`, 4 GiB, cached.

null.py MOUNTPOINT [--readers N] [--clone off|auto|require] [-o option,...]

Nothing is computed that can be made once: handlers look answers up.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import manifuse
from manifuse import ROOT, Attr, Dirent, Entry, InodeFS, Open, Statfs

COUNT = 10_000
SIZE = 64 << 10
BIG = 4 << 30
FIRST = 2  # node of f0000
BIG_NODE = FIRST + COUNT


class Null(InodeFS):
    def __init__(self) -> None:
        small = Attr(mode=stat.S_IFREG | 0o444, size=SIZE)
        big = Attr(mode=stat.S_IFREG | 0o444, size=BIG)
        self.root = Attr(mode=stat.S_IFDIR | 0o555, nlink=2)
        self.small = small
        self.big = big
        self.entries = {f"f{i:04}": Entry(FIRST + i, small) for i in range(COUNT)}
        self.entries["big"] = Entry(BIG_NODE, big)
        self.uncached = Open(direct_io=True)
        self.cached = Open(keep_cache=True)
        self.zeros = bytes(1 << 20)
        self.pages = {size: bytes(size) for size in (4096, SIZE, 128 << 10, 1 << 20)}

    def lookup(self, parent: int, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None or parent != ROOT:
            raise FileNotFoundError
        return entry

    def getattr(self, node: int) -> Attr:
        if node == ROOT:
            return self.root
        return self.big if node == BIG_NODE else self.small

    def open(self, node: int, flags: int) -> Open:
        if flags & os.O_ACCMODE:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.cached if node == BIG_NODE else self.uncached

    def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        end = BIG if node == BIG_NODE else SIZE
        if offset + size > end:
            return self.zeros[: max(0, end - offset)]
        return self.pages.get(size) or self.zeros[:size]

    def readdir(self, node: int) -> Iterator[Dirent]:
        for name, entry in self.entries.items():
            yield Dirent(name, entry.node, stat.S_IFREG)

    def statfs(self, node: int) -> Statfs:
        return Statfs(files=COUNT + 2)


if __name__ == "__main__":
    manifuse.main(Null, options="allow_other")
