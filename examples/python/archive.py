#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""An uncompressed tar archive as a read-only filesystem.

archive.py ARCHIVE.tar MOUNTPOINT [--readers N] [--clone off|auto|require] [-o option,...]

The index is made once. Contents go from the archive's descriptor to the kernel without entering Python.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator

import manifuse
from manifuse import ROOT, Attr, Dirent, Entry, FileSlice, InodeFS

FOREVER = 86400.0  # an archive does not change
TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


class Node:
    """What the archive has at a place."""

    __slots__ = ("children", "entry", "links", "offset", "target")

    def __init__(self, node: int, attr: Attr, offset: int = 0, target: str = "") -> None:
        self.entry = Entry(node, attr, FOREVER)
        self.links = 1
        self.offset = offset  # of the contents in the archive
        self.target = target
        self.children: dict[str, Node] = {}

    def link(self, count: int) -> None:
        """Set the number of names."""
        self.links = count
        self.entry = Entry(self.entry.node, self.entry.attr.replace(nlink=count), FOREVER)


class Archive(InodeFS):
    """No open, no opendir: the kernel is told once that they always succeed, and caches what it has read."""

    attr_timeout = FOREVER

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.nodes: dict[int, Node] = {}
        self.root = self._new(Attr(stat.S_IFDIR | 0o755, nlink=2))
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    self._add(member)
        except tarfile.TarError as error:
            raise OSError(22, f"{path} is no tar archive that can be read in place: {error}") from None

    def _new(self, attr: Attr, offset: int = 0, target: str = "") -> Node:
        node = Node(len(self.nodes) + ROOT, attr, offset, target)
        self.nodes[node.entry.node] = node
        return node

    def _directory(self, names: list[str]) -> Node:
        """The directory at these names; made where the archive did not name it yet."""
        at = self.root
        for name in names:
            child = at.children.get(name)
            if child is None or not stat.S_ISDIR(child.entry.attr.mode):
                child = at.children[name] = self._new(Attr(stat.S_IFDIR | 0o755, nlink=2))
            at = child
        return at

    def _add(self, member: tarfile.TarInfo) -> None:
        names = [name for name in member.name.split("/") if name not in ("", ".")]
        if ".." in names:
            return
        attr = Attr(
            mode=TYPES.get(member.type, stat.S_IFREG) | stat.S_IMODE(member.mode),
            size=member.size if member.isreg() else len(os.fsencode(member.linkname)) if member.issym() else 0,
            nlink=2 if member.isdir() else 1,
            uid=member.uid,
            gid=member.gid,
            rdev=os.makedev(member.devmajor, member.devminor) if member.isdev() and not member.isfifo() else 0,
            atime_ns=int(member.mtime * 1e9),
            mtime_ns=int(member.mtime * 1e9),
            ctime_ns=int(member.mtime * 1e9),
        )
        if member.isdir():
            node = self._directory(names)
            node.entry = Entry(node.entry.node, attr, FOREVER)
            return
        parent = self._directory(names[:-1])
        if member.islnk():
            other = [name for name in member.linkname.split("/") if name not in ("", ".")]
            target = self._directory(other[:-1]).children.get(other[-1])
            if target is not None:
                target.link(target.links + 1)
                parent.children[names[-1]] = target
            return
        if member.issparse():
            raise OSError(95, f"{member.name} is sparse, which this example does not unfold")
        parent.children[names[-1]] = self._new(attr, member.offset_data, member.linkname)

    def lookup(self, parent: int, name: str) -> Entry:
        child = self.nodes[parent].children.get(name)
        return Entry.negative(FOREVER) if child is None else child.entry

    def getattr(self, node: int) -> Entry:
        return self.nodes[node].entry

    def readlink(self, node: int) -> str:
        return self.nodes[node].target

    def readdir(self, node: int) -> Iterator[Dirent]:
        for name, child in self.nodes[node].children.items():
            yield Dirent(name, child.entry.node, child.entry.attr.mode)

    def read(self, node: int, fh: int, offset: int, size: int) -> FileSlice:
        at = self.nodes[node]
        left = max(0, at.entry.attr.size - offset)
        return FileSlice(self.fd, at.offset + offset, min(size, left))

    def destroy(self) -> None:
        os.close(self.fd)


if __name__ == "__main__":
    manifuse.main(Archive, source=True, options="ro", subtype="archive")
