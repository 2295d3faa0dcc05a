#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A read-write filesystem in memory.

memfs.py MOUNTPOINT [--readers N] [--clone off|auto|require] [-o option,...]

One lock for the whole: what it protects takes microseconds, and Python runs one handler at a time anyway.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import Optional

import manifuse
from manifuse import ROOT, Attr, Dirent, Entry, InodeFS, Open, SetAttr, Statfs, context

NOREPLACE = 1
EXCHANGE = 2
KEEP = 1.0  # seconds for which the kernel may believe what it was told; it makes all changes itself


class Node:
    """A file, directory or whatever, alive while it has names or the kernel has references."""

    __slots__ = ("attr", "children", "data", "lookups", "node", "parent", "target", "xattrs")

    def __init__(self, node: int, attr: Attr, target: str = "") -> None:
        self.node = node
        self.attr = attr
        self.target = target
        self.lookups = 0
        self.parent = node
        self.data = bytearray()
        self.children: dict[str, Node] = {}
        self.xattrs: dict[str, bytes] = {}

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.attr.mode)


class MemFS(InodeFS):
    attr_timeout = KEEP

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.used = 0
        self.lock = threading.RLock()
        self.last = ROOT
        now = time.time_ns()
        mode = stat.S_IFDIR | 0o755
        root = Attr(mode, nlink=2, uid=os.getuid(), gid=os.getgid(), atime_ns=now, mtime_ns=now, ctime_ns=now)
        self.nodes = {ROOT: Node(ROOT, root)}

    # ---- helpers, with the lock held

    def _node(self, node: int) -> Node:
        try:
            return self.nodes[node]
        except KeyError:
            raise OSError(errno.ESTALE, "no such node") from None

    def _child(self, parent: int, name: str) -> Node:
        child = self._node(parent).children.get(name)
        if child is None:
            raise FileNotFoundError
        return child

    def _entry(self, node: Node) -> Entry:
        node.lookups += 1
        return Entry(node.node, node.attr, KEEP)

    def _touch(self, node: Node, links: int = 0, data: bool = True) -> None:
        now = time.time_ns()
        attr = node.attr
        node.attr = attr.replace(
            ctime_ns=now, mtime_ns=now if data else attr.mtime_ns, nlink=attr.nlink + links, blocks=attr.blocks
        )

    def _make(self, parent: int, name: str, mode: int, rdev: int = 0, target: str = "") -> Node:
        directory = self._node(parent)
        if name in directory.children:
            raise FileExistsError
        now = time.time_ns()
        caller = context()
        setgid = directory.attr.mode & stat.S_ISGID
        self.last += 1
        node = Node(
            self.last,
            Attr(
                mode | (setgid if stat.S_ISDIR(mode) else 0),
                size=len(os.fsencode(target)),
                nlink=2 if stat.S_ISDIR(mode) else 1,
                uid=caller.uid,
                gid=directory.attr.gid if setgid else caller.gid,
                rdev=rdev,
                atime_ns=now,
                mtime_ns=now,
                ctime_ns=now,
            ),
            target,
        )
        node.parent = parent
        self.nodes[node.node] = node
        directory.children[name] = node
        self._touch(directory, links=1 if node.is_dir else 0)
        return node

    def _remove(self, parent: int, name: str) -> None:
        directory = self._node(parent)
        node = directory.children.pop(name)
        self._touch(directory, links=-1 if node.is_dir else 0)
        self._touch(node, links=-2 if node.is_dir else -1, data=False)
        self._drop(node)

    def _drop(self, node: Node) -> None:
        """Free what has neither names nor references."""
        if node.attr.nlink == 0 and node.lookups == 0:
            self.used -= len(node.data)
            self.nodes.pop(node.node, None)

    def _resize(self, node: Node, size: int) -> None:
        more = size - len(node.data)
        if more > self.capacity - self.used:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if more > 0:
            node.data.extend(bytes(more))
        else:
            del node.data[size:]
        self.used += more

    # ---- names

    def lookup(self, parent: int, name: str) -> Entry:
        with self.lock:
            return self._entry(self._child(parent, name))

    def forget_many(self, items: list[tuple[int, int]]) -> None:
        with self.lock:
            for number, nlookup in items:
                node = self.nodes.get(number)
                if node is not None:
                    node.lookups -= nlookup
                    self._drop(node)

    def symlink(self, parent: int, name: str, target: str) -> Entry:
        with self.lock:
            return self._entry(self._make(parent, name, stat.S_IFLNK | 0o777, target=target))

    def mknod(self, parent: int, name: str, mode: int, rdev: int) -> Entry:
        with self.lock:
            return self._entry(self._make(parent, name, mode, rdev))

    def mkdir(self, parent: int, name: str, mode: int) -> Entry:
        with self.lock:
            return self._entry(self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode)))

    def unlink(self, parent: int, name: str) -> None:
        with self.lock:
            if self._child(parent, name).is_dir:
                raise IsADirectoryError
            self._remove(parent, name)

    def rmdir(self, parent: int, name: str) -> None:
        with self.lock:
            node = self._child(parent, name)
            if not node.is_dir:
                raise NotADirectoryError
            if node.children:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            self._remove(parent, name)

    def rename(self, parent: int, name: str, newparent: int, newname: str, flags: int) -> None:
        with self.lock:
            node = self._child(parent, name)
            other = self._node(newparent).children.get(newname)
            if flags & ~(NOREPLACE | EXCHANGE):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if other is not None and flags & NOREPLACE:
                raise FileExistsError
            if flags & EXCHANGE:
                if other is None:
                    raise FileNotFoundError
                self._put(parent, name, other)
                self._put(newparent, newname, node)
                return
            if other is node:
                return
            if other is not None:
                if other.is_dir and not node.is_dir:
                    raise IsADirectoryError
                if node.is_dir and not other.is_dir:
                    raise NotADirectoryError
                if other.children:
                    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
                self._remove(newparent, newname)
            del self._node(parent).children[name]
            self._put(newparent, newname, node)
            for at in {parent, newparent}:
                self._touch(self._node(at))

    def _put(self, parent: int, name: str, node: Node) -> None:
        if node.is_dir and node.parent != parent:
            self._touch(self._node(node.parent), links=-1)
            self._touch(self._node(parent), links=1)
        node.parent = parent
        self._node(parent).children[name] = node
        self._touch(node, data=False)

    def link(self, node: int, newparent: int, newname: str) -> Entry:
        with self.lock:
            at = self._node(node)
            directory = self._node(newparent)
            if newname in directory.children:
                raise FileExistsError
            directory.children[newname] = at
            self._touch(directory)
            self._touch(at, links=1, data=False)
            return self._entry(at)

    def readlink(self, node: int) -> str:
        return self._node(node).target

    # ---- attributes

    def getattr(self, node: int) -> Attr:
        return self._node(node).attr

    def setattr(self, node: int, changes: SetAttr) -> Attr:
        with self.lock:
            at = self._node(node)
            if changes.size is not None:
                self._resize(at, changes.size)
            at.attr = changes.apply(at.attr, time.time_ns())
            return at.attr

    # ---- files

    def open(self, node: int, flags: int) -> Open:
        return Open(keep_cache=True)

    def create(self, parent: int, name: str, mode: int, flags: int) -> tuple[Entry, Optional[Open]]:
        with self.lock:
            there = self._node(parent).children.get(name)
            if there is not None and flags & os.O_EXCL:
                raise FileExistsError
            node = there or self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode))
            return self._entry(node), None

    def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        with self.lock:  # the view must be gone before anybody resizes the bytearray
            return bytes(memoryview(self._node(node).data)[offset : offset + size])

    write_views = True

    def write(self, node: int, fh: int, offset: int, data: bytes) -> int:
        with self.lock:
            at = self._node(node)
            end = offset + len(data)
            if end > len(at.data):
                self._resize(at, end)
            at.data[offset:end] = data
            now = time.time_ns()
            at.attr = at.attr.replace(size=len(at.data), mtime_ns=now, ctime_ns=now)
            return len(data)

    def fsync(self, node: int, fh: int, datasync: bool) -> None:
        self._node(node)

    # ---- directories

    def opendir(self, node: int, flags: int) -> None:
        if not self._node(node).is_dir:
            raise NotADirectoryError

    def readdir(self, node: int) -> Iterator[Dirent]:
        with self.lock:
            names = list(self._node(node).children.items())
        for name, child in names:
            yield Dirent(name, child.node, child.attr.mode)

    def statfs(self, node: int) -> Statfs:
        free = (self.capacity - self.used) // 4096
        return Statfs(blocks=self.capacity // 4096, bfree=free, bavail=free, files=len(self.nodes), ffree=1 << 20)

    # ---- extended attributes

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        with self.lock:
            xattrs = self._node(node).xattrs
            if flags & os.XATTR_CREATE and name in xattrs:
                raise FileExistsError
            if flags & os.XATTR_REPLACE and name not in xattrs:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            xattrs[name] = value

    def getxattr(self, node: int, name: str) -> bytes:
        try:
            return self._node(node).xattrs[name]
        except KeyError:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from None

    def listxattr(self, node: int) -> list[str]:
        return list(self._node(node).xattrs)

    def removexattr(self, node: int, name: str) -> None:
        with self.lock:
            if self._node(node).xattrs.pop(name, None) is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))


if __name__ == "__main__":
    manifuse.main(MemFS, options="default_permissions")
