# SPDX-License-Identifier: MIT
"""What handlers are given and what they answer.

All classes here are immutable and slotted. Each answer keeps its wire form, made once in the constructor, so
an :class:`Attr` or :class:`Entry` that is made once and returned often costs the engine one copy of memory.
Times are nanoseconds since the epoch, sizes bytes, time-outs seconds.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from typing import Any, Callable, Optional, Union

from manifuse._native import lib

__all__ = [
    "NEGATIVE",
    "ROOT",
    "Attr",
    "Dirent",
    "Entry",
    "FileSlice",
    "Open",
    "SetAttr",
    "Statfs",
]

#: Node id of the root directory.
ROOT: int = 1

_ATTR = struct.Struct("=QQQqqqIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQ")
_OPEN = struct.Struct("=QIi")
_STATFS = struct.Struct("=IIQQQQQIIII")
_SLICE = struct.Struct("=iIQQ")
_pack_attr = _ATTR.pack
_pack_entry = _ENTRY.pack
_new = object.__new__

_TYPES = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK))
_ENCODING = sys.getfilesystemencoding()
_ERRORS = sys.getfilesystemencodeerrors()
_NEVER = (1 << 63) - 1
# Look-ups in the extension module cost more than those of plain numbers.
_DIRECT_IO: int = lib.MF_OPEN_DIRECT_IO
_KEEP_CACHE: int = lib.MF_OPEN_KEEP_CACHE
_CACHE_DIR: int = lib.MF_OPEN_CACHE_DIR
_NONSEEKABLE: int = lib.MF_OPEN_NONSEEKABLE
_STREAM: int = lib.MF_OPEN_STREAM
_NOFLUSH: int = lib.MF_OPEN_NOFLUSH
_PARALLEL_DIRECT_WRITES: int = lib.MF_OPEN_PARALLEL_DIRECT_WRITES


def _nanoseconds(seconds: float) -> int:
    """Turn a time-out into the engine's unit; infinity means as long as the kernel likes."""
    if not seconds:
        return 0
    if not seconds > 0:  # NaN as well
        raise ValueError(f"time-out {seconds!r} is not a number of seconds >= 0")
    return _NEVER if seconds >= 9.2e9 else int(seconds * 1_000_000_000)


class _Packed:
    """A value that is compared, hashed, copied and pickled as its wire form."""

    __slots__ = ("_packed",)
    _packed: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Packed) and type(other) is type(self) and self._packed == other._packed

    def __hash__(self) -> int:
        return hash(self._packed)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __copy__(self) -> _Packed:
        return self

    def __deepcopy__(self, memo: object) -> _Packed:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (type(self), self._packed))


def _unpickle(cls: type[_Packed], packed: bytes) -> _Packed:
    value = _new(cls)
    _set_packed(value, packed)
    return value


# The slot's own setter, past __setattr__; half the cost of object.__setattr__.
_set_packed: Callable[[_Packed, bytes], None] = _Packed.__dict__["_packed"].__set__


def _range_error(what: str, error: Exception) -> ValueError:
    return ValueError(f"{what}: a value is out of range or no integer: {error}")


class Attr(_Packed):
    """Attributes of a node: the answer to getattr and setattr, and a part of every :class:`Entry`.

    Args:
        mode: file type and permission bits (``stat.S_IFREG | 0o644``). The type is required, and never
            changes during a node's life.
        size: bytes.
        nlink: number of names.
        uid: owner.
        gid: group.
        rdev: device number as ``os.makedev`` makes it.
        atime_ns: last access, nanoseconds since the epoch; negative before it.
        mtime_ns: last change of the contents.
        ctime_ns: last change of the attributes.
        blocks: space in units of 512 bytes; None = computed from ``size``.
        blksize: preferred size of a read or write; 0 = the kernel's default.
        ino: ``st_ino``; 0 = the node id.
        flags: protocol bits FUSE_ATTR_*.

    Raises:
        ValueError: a value is out of its range, or ``mode`` names no file type.
    """

    __slots__ = ()

    def __init__(
        self,
        mode: int,
        size: int = 0,
        nlink: int = 1,
        uid: int = 0,
        gid: int = 0,
        rdev: int = 0,
        atime_ns: int = 0,
        mtime_ns: int = 0,
        ctime_ns: int = 0,
        blocks: Optional[int] = None,
        blksize: int = 0,
        ino: int = 0,
        flags: int = 0,
    ) -> None:
        try:
            if mode & 0o170000 not in _TYPES:
                raise ValueError(f"mode {mode:#o} names no file type (stat.S_IFREG, stat.S_IFDIR, ...)")
            if size >> 63:
                raise ValueError(f"size {size} is not within 0 ... 2**63 - 1")
            atime, atime_ns = divmod(atime_ns, 1_000_000_000) if atime_ns != 0 else (0, 0)
            mtime, mtime_ns = divmod(mtime_ns, 1_000_000_000) if mtime_ns != 0 else (0, 0)
            ctime, ctime_ns = divmod(ctime_ns, 1_000_000_000) if ctime_ns != 0 else (0, 0)
            _set_packed(
                self,
                _pack_attr(
                    ino,
                    size,
                    (size + 511) >> 9 if blocks is None else blocks,
                    atime,
                    mtime,
                    ctime,
                    atime_ns,
                    mtime_ns,
                    ctime_ns,
                    mode,
                    nlink,
                    uid,
                    gid,
                    rdev,
                    blksize,
                    flags,
                ),
            )
        except (struct.error, TypeError) as error:
            raise _range_error("Attr", error) from None

    @classmethod
    def from_stat(cls, st: os.stat_result, ino: int = 0) -> Attr:
        """The attributes of a real file. ``ino`` 0 shows the node id, not the number of the real file."""
        return cls(
            st.st_mode,
            st.st_size,
            st.st_nlink,
            st.st_uid,
            st.st_gid,
            st.st_rdev,
            st.st_atime_ns,
            st.st_mtime_ns,
            st.st_ctime_ns,
            st.st_blocks,
            st.st_blksize,
            ino,
        )

    @classmethod
    def _from_packed(cls, packed: bytes) -> Attr:
        attr = _new(cls)
        _set_packed(attr, packed)
        return attr

    @property
    def _fields(self) -> tuple[int, ...]:
        return _ATTR.unpack(self._packed)

    @property
    def ino(self) -> int:
        """``st_ino``; 0 = the node id."""
        return self._fields[0]

    @property
    def size(self) -> int:
        """Bytes."""
        return self._fields[1]

    @property
    def blocks(self) -> int:
        """Space in units of 512 bytes."""
        return self._fields[2]

    @property
    def atime_ns(self) -> int:
        """Last access, nanoseconds since the epoch."""
        fields = self._fields
        return fields[3] * 1_000_000_000 + fields[6]

    @property
    def mtime_ns(self) -> int:
        """Last change of the contents, nanoseconds since the epoch."""
        fields = self._fields
        return fields[4] * 1_000_000_000 + fields[7]

    @property
    def ctime_ns(self) -> int:
        """Last change of the attributes, nanoseconds since the epoch."""
        fields = self._fields
        return fields[5] * 1_000_000_000 + fields[8]

    @property
    def mode(self) -> int:
        """File type and permission bits."""
        return self._fields[9]

    @property
    def nlink(self) -> int:
        """Number of names."""
        return self._fields[10]

    @property
    def uid(self) -> int:
        """Owner."""
        return self._fields[11]

    @property
    def gid(self) -> int:
        """Group."""
        return self._fields[12]

    @property
    def rdev(self) -> int:
        """Device number."""
        return self._fields[13]

    @property
    def blksize(self) -> int:
        """Preferred size of a read or write."""
        return self._fields[14]

    @property
    def flags(self) -> int:
        """Protocol bits FUSE_ATTR_*."""
        return self._fields[15]

    def replace(self, **changes: Any) -> Attr:
        """A copy with some values changed; ``blocks`` follows a changed ``size`` unless given."""
        f = self._fields
        values: dict[str, Any] = {
            "mode": f[9],
            "size": f[1],
            "nlink": f[10],
            "uid": f[11],
            "gid": f[12],
            "rdev": f[13],
            "atime_ns": f[3] * 1_000_000_000 + f[6],
            "mtime_ns": f[4] * 1_000_000_000 + f[7],
            "ctime_ns": f[5] * 1_000_000_000 + f[8],
            "blocks": None if "size" in changes else f[2],
            "blksize": f[14],
            "ino": f[0],
            "flags": f[15],
        }
        values.update(changes)
        return Attr(**values)

    def __repr__(self) -> str:
        shown = [f"mode={self.mode:#o}"]
        shown += [f"{name}={getattr(self, name)}" for name in _ATTR_NAMES if name != "mode" and getattr(self, name)]
        return f"Attr({', '.join(shown)})"


_ATTR_NAMES = (
    "mode",
    "size",
    "nlink",
    "uid",
    "gid",
    "rdev",
    "atime_ns",
    "mtime_ns",
    "ctime_ns",
    "blocks",
    "blksize",
    "ino",
    "flags",
)


class Entry(_Packed):
    """A name that leads to a node: the answer to lookup, mknod, mkdir, symlink, link and, in part, create.

    Every Entry that is answered gives the kernel one reference to ``node``; forget takes them back.

    Args:
        node: node id, at least 1. An id may be used again for another node with another ``generation``.
        attr: the node's attributes.
        timeout: seconds for which the kernel may keep both name and attributes without asking again.
        entry_timeout: the same for the name alone.
        attr_timeout: the same for the attributes alone.
        generation: (node, generation) is never used twice.
    """

    __slots__ = ()

    def __init__(
        self,
        node: int,
        attr: Attr,
        timeout: float = 0.0,
        entry_timeout: Optional[float] = None,
        attr_timeout: Optional[float] = None,
        generation: int = 0,
    ) -> None:
        if not isinstance(attr, Attr):
            raise TypeError(f"Entry: attr must be an Attr, not {type(attr).__name__}")
        both = _nanoseconds(timeout) if timeout else 0
        try:
            if node < 1:
                raise ValueError(f"Entry: node id {node} is not positive; see Entry.negative()")
            _set_packed(
                self,
                _pack_entry(
                    node,
                    generation,
                    both if entry_timeout is None else _nanoseconds(entry_timeout),
                    both if attr_timeout is None else _nanoseconds(attr_timeout),
                )
                + attr._packed,
            )
        except (struct.error, TypeError) as error:
            raise _range_error("Entry", error) from None

    @classmethod
    def negative(cls, timeout: float = 0.0) -> Entry:
        """The answer of lookup that there is no such name, which the kernel may remember for ``timeout``."""
        entry = _new(cls)
        _set_packed(entry, _pack_entry(0, 0, _nanoseconds(timeout), 0) + bytes(_ATTR.size))
        return entry

    @classmethod
    def _from_packed(cls, packed: bytes) -> Entry:
        entry = _new(cls)
        _set_packed(entry, packed)
        return entry

    @property
    def node(self) -> int:
        """Node id; 0 = there is no such name."""
        return int(_ENTRY.unpack_from(self._packed)[0])

    @property
    def generation(self) -> int:
        """Tells apart nodes that had the same id one after the other."""
        return int(_ENTRY.unpack_from(self._packed)[1])

    @property
    def entry_timeout(self) -> float:
        """Seconds for which the kernel may keep the name."""
        return float(_ENTRY.unpack_from(self._packed)[2] / 1e9)

    @property
    def attr_timeout(self) -> float:
        """Seconds for which the kernel may keep the attributes."""
        return float(_ENTRY.unpack_from(self._packed)[3] / 1e9)

    @property
    def _timeouts_ns(self) -> tuple[int, int]:
        values = _ENTRY.unpack_from(self._packed)
        return values[2], values[3]

    @property
    def attr(self) -> Attr:
        """The node's attributes."""
        return Attr._from_packed(self._packed[_ENTRY.size :])

    def __repr__(self) -> str:
        if not self.node:
            return f"Entry.negative({self.entry_timeout})"
        return (
            f"Entry(node={self.node}, attr={self.attr!r}, entry_timeout={self.entry_timeout}, "
            f"attr_timeout={self.attr_timeout}, generation={self.generation})"
        )


#: There is no such name, and the kernel may remember that for one second.
NEGATIVE = Entry.negative(1.0)


class Open(_Packed):
    """The answer to open, opendir and, beside an Entry, create.

    Args:
        fh: file handle: a number that comes back with each request on this open file.
        flags: protocol bits FOPEN_*, joined with those of the following arguments.
        direct_io: reads and writes go past the page cache to the handlers.
        keep_cache: what earlier opens left in the page cache is still right.
        cache_dir: the kernel may keep the listing.
        nonseekable: lseek(2) fails.
        stream: there is no file position at all.
        noflush: close(2) need not call flush.
        parallel_direct_writes: with ``direct_io``: writes to one file may overlap.
    """

    __slots__ = ()

    def __init__(
        self,
        fh: int = 0,
        flags: int = 0,
        *,
        direct_io: bool = False,
        keep_cache: bool = False,
        cache_dir: bool = False,
        nonseekable: bool = False,
        stream: bool = False,
        noflush: bool = False,
        parallel_direct_writes: bool = False,
        backing_id: int = 0,
    ) -> None:
        if direct_io:
            flags |= _DIRECT_IO
        if keep_cache:
            flags |= _KEEP_CACHE
        if cache_dir:
            flags |= _CACHE_DIR
        if nonseekable:
            flags |= _NONSEEKABLE
        if stream:
            flags |= _STREAM
        if noflush:
            flags |= _NOFLUSH
        if parallel_direct_writes:
            flags |= _PARALLEL_DIRECT_WRITES
        try:
            _set_packed(self, _OPEN.pack(fh, flags, backing_id))
        except struct.error as error:
            raise _range_error("Open", error) from None

    @property
    def _values(self) -> tuple[int, int, int]:
        fh, flags, backing_id = _OPEN.unpack(self._packed)
        return fh, flags, backing_id

    @property
    def fh(self) -> int:
        """File handle."""
        return int(_OPEN.unpack(self._packed)[0])

    @property
    def flags(self) -> int:
        """Protocol bits FOPEN_*."""
        return int(_OPEN.unpack(self._packed)[1])

    def __repr__(self) -> str:
        return f"Open(fh={self.fh}, flags={self.flags:#x})"


class Statfs(_Packed):
    """The answer to statfs.

    Args:
        blocks: size of the filesystem in units of ``frsize``.
        bfree: free blocks.
        bavail: free blocks for unprivileged users.
        files: number of nodes.
        ffree: free nodes.
        bsize: preferred size of a read or write, bytes.
        namelen: longest name, bytes.
        frsize: unit of ``blocks``, bytes; 0 = ``bsize``.
    """

    __slots__ = ()

    def __init__(
        self,
        blocks: int = 0,
        bfree: int = 0,
        bavail: int = 0,
        files: int = 0,
        ffree: int = 0,
        bsize: int = 4096,
        namelen: int = 255,
        frsize: int = 0,
    ) -> None:
        try:
            _set_packed(
                self,
                _STATFS.pack(_STATFS.size, 0, blocks, bfree, bavail, files, ffree, bsize, namelen, frsize or bsize, 0),
            )
        except struct.error as error:
            raise _range_error("Statfs", error) from None

    def __repr__(self) -> str:
        names = ("blocks", "bfree", "bavail", "files", "ffree", "bsize", "namelen", "frsize")
        return f"Statfs({', '.join(f'{n}={v}' for n, v in zip(names, _STATFS.unpack(self._packed)[2:]))})"


class FileSlice(_Packed):
    """An answer to read whose bytes come from a descriptor and never enter Python.

    Args:
        fd: descriptor; stays the filesystem's, and must be open until the next request of the same reader.
        offset: first byte.
        size: at most so many bytes, fewer where the file ends; what exceeds the request is left out.
    """

    __slots__ = ()

    def __init__(self, fd: int, offset: int, size: int) -> None:
        try:
            if fd < 0:
                raise ValueError(f"FileSlice: descriptor {fd} is negative")
            _set_packed(self, _SLICE.pack(fd, 0, offset, size))
        except (struct.error, TypeError) as error:
            raise _range_error("FileSlice", error) from None

    @property
    def _values(self) -> tuple[int, int, int]:
        fd, _, offset, size = _SLICE.unpack(self._packed)
        return fd, offset, size

    def __repr__(self) -> str:
        fd, offset, size = self._values
        return f"FileSlice(fd={fd}, offset={offset}, size={size})"


class Dirent:
    """One name of a directory, as readdir gives it.

    Args:
        name: not empty, neither ``/`` nor NUL in it, at most 1,024 bytes.
        ino: ``d_ino``, commonly the node id; 0 = unknown.
        mode: a mode of which the file type counts; 0 = unknown.
        next: cookie at which a later readdir goes on after this entry; None = its place in the listing.

    Raises:
        ValueError: the name is no name.
    """

    __slots__ = ("_ino", "_mode", "_name", "_next")

    def __init__(self, name: Union[str, bytes], ino: int = 0, mode: int = 0, next: Optional[int] = None) -> None:
        raw = name if type(name) is bytes else name.encode(_ENCODING, _ERRORS)  # type: ignore[union-attr]
        if not raw or b"/" in raw or b"\0" in raw or len(raw) > 1024:
            raise ValueError(f"{name!r} is not a file name")
        if next is not None and not 0 < next < 1 << 63:
            raise ValueError(f"cookie {next} is not within 1 ... 2**63 - 1")
        self._name = raw
        self._ino = ino
        self._mode = mode
        self._next = next

    @property
    def name(self) -> str:
        """The name."""
        return os.fsdecode(self._name)

    @property
    def ino(self) -> int:
        """``d_ino``; 0 = unknown."""
        return self._ino

    @property
    def mode(self) -> int:
        """File type; 0 = unknown."""
        return self._mode

    @property
    def next(self) -> Optional[int]:
        """Cookie after this entry; None = its place in the listing."""
        return self._next

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dirent) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return (self._name, self._ino, self._mode, self._next)

    def __repr__(self) -> str:
        return f"Dirent({self.name!r}, {self._ino}, {self._mode:#o})"


class SetAttr:
    """What setattr is asked to change: a value is None where it is to stay as it is.

    Attributes:
        mode: new permission bits, with the file's type.
        uid: new owner.
        gid: new group.
        size: new size in bytes.
        atime_ns: new time of access; None where ``atime_now``.
        mtime_ns: new time of change; None where ``mtime_now``.
        ctime_ns: new time of attribute change (only with the kernel's write-back cache).
        atime_now: the time of access becomes the present.
        mtime_now: the time of change becomes the present.
        fh: file handle through which it is asked, or None.
        kill_suidgid: clear the set-user-id and set-group-id bits as well.
        lock_owner: who holds the locks that bear on a change of size, or None.
    """

    __slots__ = (
        "_atime_now",
        "_atime_ns",
        "_ctime_ns",
        "_fh",
        "_gid",
        "_kill_suidgid",
        "_lock_owner",
        "_mode",
        "_mtime_now",
        "_mtime_ns",
        "_size",
        "_uid",
    )

    def __init__(
        self,
        mode: Optional[int] = None,
        uid: Optional[int] = None,
        gid: Optional[int] = None,
        size: Optional[int] = None,
        atime_ns: Optional[int] = None,
        mtime_ns: Optional[int] = None,
        ctime_ns: Optional[int] = None,
        atime_now: bool = False,
        mtime_now: bool = False,
        fh: Optional[int] = None,
        kill_suidgid: bool = False,
        lock_owner: Optional[int] = None,
    ) -> None:
        self._mode = mode
        self._uid = uid
        self._gid = gid
        self._size = size
        self._atime_ns = atime_ns
        self._mtime_ns = mtime_ns
        self._ctime_ns = ctime_ns
        self._atime_now = atime_now
        self._mtime_now = mtime_now
        self._fh = fh
        self._kill_suidgid = kill_suidgid
        self._lock_owner = lock_owner

    @classmethod
    def _from_wire(cls, fh: Optional[int], packed: bytes, valid: int, lock_owner: int) -> SetAttr:
        f = _ATTR.unpack(packed)
        return cls(
            f[9] if valid & lib.MF_SET_MODE else None,
            f[11] if valid & lib.MF_SET_UID else None,
            f[12] if valid & lib.MF_SET_GID else None,
            f[1] if valid & lib.MF_SET_SIZE else None,
            f[3] * 1_000_000_000 + f[6] if valid & lib.MF_SET_ATIME and not valid & lib.MF_SET_ATIME_NOW else None,
            f[4] * 1_000_000_000 + f[7] if valid & lib.MF_SET_MTIME and not valid & lib.MF_SET_MTIME_NOW else None,
            f[5] * 1_000_000_000 + f[8] if valid & lib.MF_SET_CTIME else None,
            bool(valid & lib.MF_SET_ATIME_NOW),
            bool(valid & lib.MF_SET_MTIME_NOW),
            fh,
            bool(valid & lib.MF_SET_KILL_SUIDGID),
            lock_owner if valid & lib.MF_SET_LOCKOWNER else None,
        )

    mode = property(lambda self: self._mode)
    uid = property(lambda self: self._uid)
    gid = property(lambda self: self._gid)
    size = property(lambda self: self._size)
    atime_ns = property(lambda self: self._atime_ns)
    mtime_ns = property(lambda self: self._mtime_ns)
    ctime_ns = property(lambda self: self._ctime_ns)
    atime_now = property(lambda self: self._atime_now)
    mtime_now = property(lambda self: self._mtime_now)
    fh = property(lambda self: self._fh)
    kill_suidgid = property(lambda self: self._kill_suidgid)
    lock_owner = property(lambda self: self._lock_owner)

    def apply(self, attr: Attr, now_ns: int) -> Attr:
        """The attributes with the wanted changes made; ``now_ns`` is the present and the new ctime_ns."""
        changes: dict[str, int] = {"ctime_ns": now_ns if self._ctime_ns is None else self._ctime_ns}
        mode = attr.mode if self._mode is None else stat.S_IFMT(attr.mode) | stat.S_IMODE(self._mode)
        if self._kill_suidgid:
            mode &= ~stat.S_ISUID
            if mode & stat.S_IXGRP:
                mode &= ~stat.S_ISGID
        changes["mode"] = mode
        if self._uid is not None:
            changes["uid"] = self._uid
        if self._gid is not None:
            changes["gid"] = self._gid
        if self._size is not None:
            changes["size"] = self._size
            changes["mtime_ns"] = now_ns
        if self._atime_now:
            changes["atime_ns"] = now_ns
        elif self._atime_ns is not None:
            changes["atime_ns"] = self._atime_ns
        if self._mtime_now:
            changes["mtime_ns"] = now_ns
        elif self._mtime_ns is not None:
            changes["mtime_ns"] = self._mtime_ns
        return attr.replace(**changes)

    def __repr__(self) -> str:
        shown = [f"{name[1:]}={getattr(self, name)!r}" for name in self.__slots__ if getattr(self, name)]
        return f"SetAttr({', '.join(shown)})"
