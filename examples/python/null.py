#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The filesystem of the benchmark: names f0000 ... f9999 of 64 KiB zeros, uncached, and `big`, 4 GiB, cached.

`big` forgets what is written to it. c000 ... c255, empty and in no list, may be made and removed.

null.py MOUNTPOINT [--readers N] [--clone off|auto|require] [-o option,...]

Nothing is computed that can be made once: handlers look answers up.
"""

from __future__ import annotations

import errno
import os
import stat

import manifuse
from manifuse import ROOT, Attr, Dirent, Entry, InodeFS, Open, SetAttr, Statfs

COUNT = 10_000
SIZE = 64 << 10
BIG = 4 << 30
FIRST = 2  # node of f0000
BIG_NODE = FIRST + COUNT
MAKEABLE = {f"c{i:03}": BIG_NODE + 1 + i for i in range(256)}


def read_only() -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS))


class Null(InodeFS):
    def __init__(self) -> None:
        small = Attr(mode=stat.S_IFREG | 0o444, size=SIZE)
        big = Attr(mode=stat.S_IFREG | 0o644, size=BIG)
        self.root = Attr(mode=stat.S_IFDIR | 0o755, nlink=2)
        self.small = small
        self.big = big
        self.empty = Attr(mode=stat.S_IFREG | 0o644)
        self.entries = {f"f{i:04}": Entry(FIRST + i, small) for i in range(COUNT)}
        self.entries["big"] = Entry(BIG_NODE, big)
        self.listed = [Dirent(name, entry.node, stat.S_IFREG) for name, entry in self.entries.items()]
        self.unmade = {name: Entry(node, self.empty) for name, node in MAKEABLE.items()}  # the rest is in entries
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
        if node < BIG_NODE:
            return self.small
        return self.big if node == BIG_NODE else self.empty

    def setattr(self, node: int, changes: SetAttr) -> Attr:
        if node < BIG_NODE or not (changes.mode is changes.uid is changes.gid is None):
            raise read_only()
        return self.getattr(node)  # sizes and times are forgotten, too

    def create(self, parent: int, name: str, mode: int, flags: int) -> tuple[Entry, Open]:
        if name not in MAKEABLE or parent != ROOT:
            raise read_only()
        entry = self.unmade.pop(name, None)
        if entry is None:
            raise FileExistsError
        self.entries[name] = entry
        return entry, self.uncached

    def unlink(self, parent: int, name: str) -> None:
        if name not in MAKEABLE or parent != ROOT:
            raise read_only()
        entry = self.entries.pop(name, None)
        if entry is None:
            raise FileNotFoundError
        self.unmade[name] = entry

    def open(self, node: int, flags: int) -> Open:
        if flags & os.O_ACCMODE and node < BIG_NODE:
            raise read_only()
        return self.cached if node == BIG_NODE else self.uncached

    def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        end = SIZE if node < BIG_NODE else BIG if node == BIG_NODE else 0
        if offset + size > end:
            return self.zeros[: max(0, end - offset)]
        return self.pages.get(size) or self.zeros[:size]

    write_views = True

    def write(self, node: int, fh: int, offset: int, data: bytes) -> int:
        if node != BIG_NODE:
            raise read_only()
        return len(data)

    def readdir(self, node: int) -> list[Dirent]:
        return self.listed

    def statfs(self, node: int) -> Statfs:
        return Statfs(files=COUNT + 2)


if __name__ == "__main__":
    manifuse.main(Null, options="allow_other")
