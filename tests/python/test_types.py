# SPDX-License-Identifier: MIT
from __future__ import annotations

import copy
import math
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest

import manifuse
from manifuse import NEGATIVE, Attr, Dirent, Entry, FileSlice, Open, SetAttr, Statfs
from manifuse._native import ffi, lib

REG = stat.S_IFREG | 0o640


def c_attr(attr: Attr) -> Any:
    return ffi.from_buffer("struct mf_attr *", attr._packed)


def test_attr_is_the_engines_structure() -> None:
    attr = Attr(REG, 1000, 3, 4, 5, 6, 1_500_000_007, -1, 3_000_000_009, 8, 9, 10, 11)
    c = c_attr(attr)
    assert len(attr._packed) == ffi.sizeof("struct mf_attr")
    assert (c.ino, c.size, c.blocks, c.mode, c.nlink, c.uid, c.gid) == (10, 1000, 8, REG, 3, 4, 5)
    assert (c.rdev, c.blksize, c.flags) == (6, 9, 11)
    assert (c.atime, c.atimensec) == (1, 500_000_007)
    assert (c.mtime, c.mtimensec) == (-1, 999_999_999)
    assert (c.ctime, c.ctimensec) == (3, 9)
    assert (attr.atime_ns, attr.mtime_ns, attr.ctime_ns) == (1_500_000_007, -1, 3_000_000_009)
    assert (attr.mode, attr.size, attr.nlink, attr.uid, attr.gid, attr.rdev) == (REG, 1000, 3, 4, 5, 6)
    assert (attr.blocks, attr.blksize, attr.ino, attr.flags) == (8, 9, 10, 11)


def test_attr_defaults() -> None:
    attr = Attr(mode=REG, size=513)
    assert (attr.nlink, attr.blocks, attr.uid, attr.ino) == (1, 2, 0, 0)
    assert Attr(mode=REG).blocks == 0


def test_attr_replace() -> None:
    attr = Attr(REG, 100, uid=7, mtime_ns=5)
    assert attr.replace(size=2000) == Attr(REG, 2000, uid=7, mtime_ns=5)
    assert attr.replace(nlink=2).blocks == 1
    with pytest.raises(TypeError):
        attr.replace(colour=1)


def test_attr_of_a_real_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    st = os.stat(path)
    attr = Attr.from_stat(st)
    assert (attr.mode, attr.size, attr.nlink, attr.ino) == (st.st_mode, 3, 1, 0)
    assert (attr.mtime_ns, attr.blocks, attr.blksize) == (st.st_mtime_ns, st.st_blocks, st.st_blksize)


@pytest.mark.parametrize(
    "values",
    [
        {"mode": 0o644},
        {"mode": -1},
        {"mode": REG | 1 << 40},
        {"mode": "x"},
        {"mode": REG, "size": -1},
        {"mode": REG, "size": 1 << 63},
        {"mode": REG, "size": 1.5},
        {"mode": REG, "nlink": -1},
        {"mode": REG, "uid": 1 << 32},
        {"mode": REG, "mtime_ns": None},
        {"mode": REG, "blocks": -1},
    ],
)
def test_attr_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Attr(**values)


def test_values_are_immutable() -> None:
    values = [Attr(REG), Entry(2, Attr(REG)), Open(), Statfs(), FileSlice(0, 0, 0)]
    for value in values:
        for name in ("size", "node", "fh", "other", "_packed"):
            with pytest.raises(AttributeError):
                setattr(value, name, 1)
        assert not hasattr(value, "__dict__")
        with pytest.raises(AttributeError):
            del value._packed
    for thing in (Dirent("a"), SetAttr()):
        assert not hasattr(thing, "__dict__")
        with pytest.raises(AttributeError):
            setattr(thing, "mode", 1)  # noqa: B010


def test_values_compare_copy_and_pickle() -> None:
    for value in (Attr(REG, 5), Entry(2, Attr(REG), 1.0), Open(3, direct_io=True), Statfs(1), FileSlice(1, 2, 3)):
        assert pickle.loads(pickle.dumps(value)) == value
        assert copy.deepcopy(value) is value
        assert copy.copy(value) is value
        assert len({value, pickle.loads(pickle.dumps(value))}) == 1
        assert repr(value).startswith(type(value).__name__)
    assert Attr(REG) != Open()
    assert Dirent("a", 1) == Dirent(b"a", 1)
    assert Dirent("a", 1) != Dirent("a", 2)


def test_entry_is_the_start_of_the_engines_answer() -> None:
    attr = Attr(REG, 77)
    entry = Entry(5, attr, 1.0, attr_timeout=0.25, generation=9)
    answer = ffi.new("struct mf_answer *")
    ffi.memmove(answer, entry._packed, len(entry._packed))
    assert (answer.node, answer.generation) == (5, 9)
    assert (answer.entry_timeout_ns, answer.attr_timeout_ns) == (1_000_000_000, 250_000_000)
    assert answer.attr.size == 77
    assert (entry.node, entry.generation, entry.attr) == (5, 9, attr)
    assert (entry.entry_timeout, entry.attr_timeout) == (1.0, 0.25)
    assert Entry(5, attr).entry_timeout == 0
    assert Entry(5, attr, math.inf).entry_timeout > 1e9


@pytest.mark.parametrize("timeout", [-1.0, math.nan, -math.inf])
def test_entry_refuses_time_outs(timeout: float) -> None:
    with pytest.raises(ValueError, match="time-out"):
        Entry(2, Attr(REG), timeout)
    with pytest.raises(ValueError, match="time-out"):
        Entry.negative(timeout)


def test_entry_refuses() -> None:
    for node in (0, -1, 1 << 64, "x"):
        with pytest.raises(ValueError):  # noqa: PT011
            Entry(node, Attr(REG))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Entry(2, REG)  # type: ignore[arg-type]


def test_negative_entry() -> None:
    assert NEGATIVE.node == 0
    assert Entry.negative(2.5).entry_timeout == 2.5
    assert "negative" in repr(NEGATIVE)


def test_open_flags() -> None:
    assert Open(7, direct_io=True).flags == lib.MF_OPEN_DIRECT_IO
    everything = Open(
        1,
        1 << 20,
        direct_io=True,
        keep_cache=True,
        cache_dir=True,
        nonseekable=True,
        stream=True,
        noflush=True,
        parallel_direct_writes=True,
    )
    assert everything.flags == 0x7F | 1 << 20
    assert everything.fh == 1
    for fh in (-1, 1 << 64):
        with pytest.raises(ValueError):  # noqa: PT011
            Open(fh)


def test_statfs_is_the_engines_structure() -> None:
    st = ffi.from_buffer("struct mf_statfs *", Statfs(1, 2, 3, 4, 5, 6, 7, 8)._packed)
    assert st.size == ffi.sizeof("struct mf_statfs") == len(Statfs()._packed)
    assert (st.blocks, st.bfree, st.bavail, st.files, st.ffree) == (1, 2, 3, 4, 5)
    assert (st.bsize, st.namelen, st.frsize) == (6, 7, 8)


def test_file_slice_refuses() -> None:
    for args in ((-1, 0, 0), (0, -1, 0), (0, 0, -1), ("x", 0, 0)):
        with pytest.raises(ValueError):  # noqa: PT011
            FileSlice(*args)


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 1025, b"/"])
def test_dirent_refuses_names(name: str) -> None:
    with pytest.raises(ValueError, match="not a file name"):
        Dirent(name)


def test_dirent_keeps_bytes_that_are_no_utf8() -> None:
    entry = Dirent(b"\xff\xfe", 3, stat.S_IFDIR | 0o7, 9)
    assert os.fsencode(entry.name) == b"\xff\xfe"
    assert (entry.ino, entry.mode, entry.next) == (3, stat.S_IFDIR | 0o7, 9)
    with pytest.raises(ValueError, match="cookie"):
        Dirent("a", next=0)


def test_setattr_apply() -> None:
    attr = Attr(REG, 10, uid=1, gid=2, atime_ns=3, mtime_ns=4, ctime_ns=5)
    now = 100
    assert SetAttr(mode=0o600).apply(attr, now) == attr.replace(mode=stat.S_IFREG | 0o600, ctime_ns=now)
    assert SetAttr(uid=9, gid=8).apply(attr, now) == attr.replace(uid=9, gid=8, ctime_ns=now)
    assert SetAttr(size=3).apply(attr, now) == attr.replace(size=3, mtime_ns=now, ctime_ns=now)
    assert SetAttr(atime_ns=1, mtime_now=True).apply(attr, now) == attr.replace(atime_ns=1, mtime_ns=now, ctime_ns=now)
    suid = attr.replace(mode=stat.S_IFREG | 0o6755)
    assert SetAttr(kill_suidgid=True).apply(suid, now).mode == stat.S_IFREG | 0o755
    assert "size=3" in repr(SetAttr(size=3))


def test_errno_of() -> None:
    assert manifuse.errno_of(FileNotFoundError()) == 2
    assert manifuse.errno_of(OSError(99, "x")) == 99
    assert manifuse.errno_of(PermissionError()) == 13
    assert manifuse.errno_of(TimeoutError()) == 110
    assert manifuse.errno_of(InterruptedError()) == 4
    assert manifuse.errno_of(OSError()) is None
    assert manifuse.errno_of(OSError(0, "x")) is None
    assert manifuse.errno_of(OSError(600, "x")) is None
    assert manifuse.errno_of(ValueError()) is None


def test_version() -> None:
    assert manifuse.__version__ == "0.1.0"
    for name in manifuse.__all__:
        assert hasattr(manifuse, name)
