# SPDX-License-Identifier: MIT
"""Filesystems that the tests serve."""

from __future__ import annotations

import contextlib
import errno
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from manifuse import ROOT, Attr, Dirent, Entry, InodeFS, Open

FILE = Attr(stat.S_IFREG | 0o644, size=5)
DIR = Attr(stat.S_IFDIR | 0o755, nlink=2)


@contextlib.contextmanager
def refused(number: int) -> Iterator[None]:
    """What happens within is an OSError with this errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        yield
    got = caught.value.errno or 0
    assert errno.errorcode.get(got, str(got)) == errno.errorcode.get(number, str(number)), str(caught.value)


class Tiny(InodeFS):
    """/f with "hello" in it; what a test gives by name replaces or adds handlers."""

    def __init__(self, **handlers: Callable[..., Any]) -> None:
        for name, handler in handlers.items():
            setattr(self, name, handler)

    def lookup(self, parent: int, name: str) -> Entry:
        if name == "f" and parent == ROOT:
            return Entry(2, FILE)
        raise FileNotFoundError

    def getattr(self, node: int) -> Attr:
        return DIR if node == ROOT else FILE

    def readdir(self, node: int) -> list[Dirent]:
        return [Dirent("f", 2, stat.S_IFREG)]

    def read(self, node: int, fh: int, offset: int, size: int) -> Any:
        return b"hello"[offset : offset + size]


class Gate(Tiny):
    """Reads wait until the test opens the gate."""

    def __init__(self, **handlers: Callable[..., Any]) -> None:
        super().__init__(**handlers)
        self.opened = threading.Event()
        self.lock = threading.Lock()
        self.inside = 0
        self.most = 0

    def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.opened.wait(30)
        with self.lock:
            self.inside -= 1
        return b"hello"[offset : offset + size]


class Uncached(Gate):
    """Each read is a request of its own."""

    def open(self, node: int, flags: int) -> Open:
        return Open(direct_io=True)
