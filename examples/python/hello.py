#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""One file with one line: hello.py MOUNTPOINT [--readers N] [--clone off|auto|require] [-o option,...]"""

import stat
from collections.abc import Iterator

import manifuse
from manifuse import ROOT, Attr, Dirent, Entry, InodeFS


class Hello(InodeFS):
    text = b"Hello World!\n"
    file = Entry(node=2, attr=Attr(mode=stat.S_IFREG | 0o444, size=len(text)), timeout=1.0)

    def lookup(self, parent: int, name: str) -> Entry:
        if parent != ROOT or name != "hello.txt":
            raise FileNotFoundError
        return self.file

    def getattr(self, node: int) -> Attr:
        return self.file.attr if node == self.file.node else Attr(mode=stat.S_IFDIR | 0o555)

    def readdir(self, node: int) -> Iterator[Dirent]:
        yield Dirent("hello.txt", self.file.node, stat.S_IFREG)

    def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        return self.text[offset : offset + size]


if __name__ == "__main__":
    manifuse.main(Hello())
