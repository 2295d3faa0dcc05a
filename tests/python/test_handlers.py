# SPDX-License-Identifier: MIT
"""Every operation over the virtual kernel: which arguments come, and what becomes of the answers."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from conftest import Connect, wait_for
from manifuse import NEGATIVE, ROOT, Attr, Dirent, Entry, FileSlice, InodeFS, Open, SetAttr, Statfs
from manifuse._dispatch import OPERATIONS, Dispatcher
from manifuse._native import lib
from manifuse.testing import Client
from support import DIR, FILE, Tiny, refused

LINK = Attr(stat.S_IFLNK | 0o777)


class Recorder(InodeFS):
    """All operations; remembers how they were called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def lookup(self, parent: int, name: str) -> Entry:
        self.calls.append(("lookup", parent, name))
        if name == "gone":
            return NEGATIVE
        if name.startswith("new"):
            raise FileNotFoundError
        return {"d": Entry(3, DIR), "l": Entry(4, LINK)}.get(name, Entry(2, FILE))

    def forget(self, node: int, nlookup: int) -> None:
        self.calls.append(("forget", node, nlookup))

    def getattr(self, node: int) -> Attr:
        self.calls.append(("getattr", node))
        return DIR if node in (ROOT, 3) else FILE

    def setattr(self, node: int, changes: SetAttr) -> Attr:
        self.calls.append(("setattr", node, changes))
        return changes.apply(FILE, 1)

    def readlink(self, node: int) -> str:
        self.calls.append(("readlink", node))
        return "täget"

    def symlink(self, parent: int, name: str, target: str) -> Entry:
        self.calls.append(("symlink", parent, name, target))
        return Entry(4, LINK)

    def mknod(self, parent: int, name: str, mode: int, rdev: int) -> Entry:
        self.calls.append(("mknod", parent, name, mode, rdev))
        return Entry(5, Attr(mode, rdev=rdev))

    def mkdir(self, parent: int, name: str, mode: int) -> Entry:
        self.calls.append(("mkdir", parent, name, mode))
        return Entry(6, DIR)

    def unlink(self, parent: int, name: str) -> None:
        self.calls.append(("unlink", parent, name))

    def rmdir(self, parent: int, name: str) -> None:
        self.calls.append(("rmdir", parent, name))

    def rename(self, parent: int, name: str, newparent: int, newname: str, flags: int) -> None:
        self.calls.append(("rename", parent, name, newparent, newname, flags))

    def link(self, node: int, newparent: int, newname: str) -> Entry:
        self.calls.append(("link", node, newparent, newname))
        return Entry(2, FILE)

    def open(self, node: int, flags: int) -> Open:
        self.calls.append(("open", node, flags & os.O_ACCMODE))
        return Open(70)

    def create(self, parent: int, name: str, mode: int, flags: int) -> tuple[Entry, Open]:
        self.calls.append(("create", parent, name, mode, flags & os.O_ACCMODE))
        return Entry(7, FILE), Open(71)

    def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        self.calls.append(("read", node, fh, offset))
        return b"hello"[offset : offset + size]

    def write(self, node: int, fh: int, offset: int, data: bytes) -> int:
        assert type(data) is bytes
        self.calls.append(("write", node, fh, offset, data))
        return len(data)

    def flush(self, node: int, fh: int) -> None:
        self.calls.append(("flush", node, fh))

    def release(self, node: int, fh: int) -> None:
        self.calls.append(("release", node, fh))

    def fsync(self, node: int, fh: int, datasync: bool) -> None:
        self.calls.append(("fsync", node, fh, datasync))

    def opendir(self, node: int, flags: int) -> int:
        self.calls.append(("opendir", node))
        return 80

    def readdir(self, node: int) -> Iterator[Dirent]:
        self.calls.append(("readdir", node))
        yield Dirent("f", 2, stat.S_IFREG)
        yield Dirent(b"\xff", 9)

    def releasedir(self, node: int, fh: int) -> None:
        self.calls.append(("releasedir", node, fh))

    def fsyncdir(self, node: int, fh: int, datasync: bool) -> None:
        self.calls.append(("fsyncdir", node, fh, datasync))

    def statfs(self, node: int) -> Statfs:
        self.calls.append(("statfs", node))
        return Statfs(10, 9, 8, 7, 6, 512, 100)

    def access(self, node: int, mask: int) -> None:
        self.calls.append(("access", node, mask))
        if mask & os.W_OK:
            raise PermissionError

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        self.calls.append(("setxattr", node, name, value, flags))

    def getxattr(self, node: int, name: str) -> bytes:
        self.calls.append(("getxattr", node, name))
        return b"value"

    def listxattr(self, node: int) -> list[str]:
        self.calls.append(("listxattr", node))
        return ["user.a", "user.b"]

    def removexattr(self, node: int, name: str) -> None:
        self.calls.append(("removexattr", node, name))


@pytest.fixture
def served(connect: Connect) -> Iterator[tuple[Recorder, Client]]:
    fs = Recorder()
    with connect(fs) as client:
        yield fs, client
        assert client.bad_replies == 0


def test_recorder_has_all_operations() -> None:
    assert {n for n in OPERATIONS if n in vars(Recorder)} == set(OPERATIONS) - {"forget_many"}
    for name in OPERATIONS:
        assert name in vars(InodeFS), f"{name} is not documented"
        assert vars(InodeFS)[name].__doc__


def test_names(served: tuple[Recorder, Client]) -> None:
    fs, client = served
    assert client.lookup(ROOT, "f").node == 2
    with refused(errno.ENOENT):
        client.lookup(ROOT, "gone")
    client.forget(2, 1)
    wait_for(lambda: ("forget", 2, 1) in fs.calls, "the forget")
    client.symlink("/newlink", "some/where")
    client.mknod("/newnode", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    client.mkdir("/newdir", 0o700)
    client.unlink("/f")
    client.rmdir("/d")
    client.rename("/f", "/d/new", 1)
    client.rename("/f", "/newname")
    client.link("/f", "/newlink")
    assert client.readlink("/l") == "täget"
    for call in [
        ("lookup", 1, "f"),
        ("forget", 2, 1),
        ("symlink", 1, "newlink", "some/where"),
        ("mknod", 1, "newnode", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        ("mkdir", 1, "newdir", 0o700),
        ("unlink", 1, "f"),
        ("rmdir", 1, "d"),
        ("rename", 1, "f", 3, "new", 1),
        ("rename", 1, "f", 1, "newname", 0),
        ("link", 2, 1, "newlink"),
        ("readlink", 4),
    ]:
        assert call in fs.calls


def test_files(served: tuple[Recorder, Client]) -> None:
    fs, client = served
    assert client.read_bytes("/f") == b"hello"
    client.write_bytes("/newfile", b"data", 0o600)
    calls = [c for c in fs.calls if c[0] not in ("lookup", "getattr", "forget", "setattr")]
    assert ("open", 2, os.O_RDONLY) in calls
    assert ("read", 2, 70, 0) in calls
    assert ("flush", 2, 70) in calls
    assert ("release", 2, 70) in calls
    created = next(c for c in calls if c[0] == "create")
    assert created[:4] == ("create", 1, "newfile", stat.S_IFREG | 0o600)
    assert ("write", 7, 71, 0, b"data") in calls
    assert ("release", 7, 71) in calls


def test_fsync(served: tuple[Recorder, Client]) -> None:
    fs, client = served
    body = struct.pack("=QII", 70, 1, 0)
    assert client.request(lib.MF_OP_FSYNC, 2, body) == b""
    assert client.request(lib.MF_OP_FSYNCDIR, 3, struct.pack("=QII", 80, 0, 0)) == b""
    assert ("fsync", 2, 70, True) in fs.calls
    assert ("fsyncdir", 3, 80, False) in fs.calls


def test_directories(served: tuple[Recorder, Client]) -> None:
    fs, client = served
    assert client.listdir("/") == ["f", os.fsdecode(b"\xff")]
    assert ("opendir", 1) in fs.calls
    assert ("readdir", 1) in fs.calls
    assert ("releasedir", 1, 80) in fs.calls


def test_attributes(served: tuple[Recorder, Client]) -> None:
    fs, client = served
    assert client.stat("/f").size == 5
    client.chmod("/f", 0o600)
    client.truncate("/f", 3)
    changes = [c[2] for c in fs.calls if c[0] == "setattr"]
    assert stat.S_IMODE(changes[0].mode) == 0o600
    assert changes[0].size is None
    assert changes[1].size == 3
    assert changes[1].mode is None
    client.access("/f", os.R_OK)
    with pytest.raises(PermissionError):
        client.access("/f", os.W_OK)
    st = client.statfs()
    assert st == Statfs(10, 9, 8, 7, 6, 512, 100)


def test_times(served: tuple[Recorder, Client]) -> None:
    fs, client = served
    valid = lib.MF_SET_ATIME | lib.MF_SET_MTIME | lib.MF_SET_MTIME_NOW | lib.MF_SET_CTIME | lib.MF_SET_FH
    body = struct.pack("=IIQQQQQQIIIIIIII", valid, 0, 70, 0, 0, 11, 12, 13, 1, 2, 3, 0, 0, 0, 0, 0)
    client.request(lib.MF_OP_SETATTR, 2, body)
    changes = fs.calls[-1][2]
    assert (changes.atime_ns, changes.ctime_ns) == (11_000_000_001, 13_000_000_003)
    assert (changes.mtime_ns, changes.mtime_now, changes.atime_now) == (None, True, False)
    assert (changes.fh, changes.uid, changes.lock_owner) == (70, None, None)


def test_xattrs(served: tuple[Recorder, Client]) -> None:
    fs, client = served
    client.setxattr("/f", "user.a", b"\0\xff", os.XATTR_CREATE)
    assert client.getxattr("/f", "user.a") == b"value"
    assert client.listxattr("/f") == ["user.a", "user.b"]
    client.removexattr("/f", "user.a")
    assert ("setxattr", 2, "user.a", b"\0\xff", os.XATTR_CREATE) in fs.calls
    assert ("removexattr", 2, "user.a") in fs.calls
    with refused(errno.ERANGE):
        client.getxattr("/f", "user.a", size=3)
    assert client.getxattr("/f", "user.a", size=5) == b"value"


# ---- what is not defined


def test_what_is_not_defined_never_enters_python(connect: Connect) -> None:
    dispatcher = Dispatcher(Tiny())
    defined = {name for name, op in OPERATIONS.items() if dispatcher.implemented >> op.code & 1}
    assert defined - {"forget_many"} == {"lookup", "getattr", "readdir", "read"}
    with connect(Tiny()) as client:
        assert client.read_bytes("/f") == b"hello"  # open: ENOSYS is success
        with refused(errno.ENOSYS):
            client.mkdir("/x")
        with refused(errno.ENOSYS):
            client.unlink("/f")
        with refused(errno.EOPNOTSUPP):
            client.setxattr("/f", "user.a", b"")
        asked = client.session.stats()[-1].ops  # on the ring the first reader is the device's
        assert asked["unlink"].errors == asked["unlink"].requests


def test_documented_methods_refuse_when_called(connect: Connect) -> None:
    class Super(Tiny):
        def unlink(self, parent: int, name: str) -> None:
            super().unlink(parent, name)

    with connect(Super()) as client, refused(errno.ENOSYS):
        client.unlink("/f")


# ---- signatures


def test_extra_arguments_come_by_name(connect: Connect) -> None:
    seen: list[tuple[Any, ...]] = []

    class Extra(Tiny):
        def getattr(self, node: int, fh: Optional[int] = None) -> Attr:
            seen.append(("getattr", fh))
            return super().getattr(node)

        def read(self, node: int, fh: int, offset: int, size: int, flags: int = -1) -> bytes:
            seen.append(("read", flags & os.O_ACCMODE))
            return b""

        def release(self, node: int, fh: int, cache: Optional[dict[str, int]] = None) -> None:
            seen.append(("release", cache))

        def flush(self, node: int, fh: int, lock_owner: int = -1) -> None:
            seen.append(("flush", lock_owner >= 0))

        def open(self, node: int, flags: int) -> int:
            return 9

    with connect(Extra()) as client:
        client.getattr(2)
        client.read_bytes("/f")
        client.request(lib.MF_OP_GETATTR, 2, struct.pack("=IIQ", 1, 0, 42))
    assert ("getattr", None) in seen
    assert ("getattr", 42) in seen
    assert ("read", 0) in seen
    assert ("flush", True) in seen
    assert ("release", None) in seen


# Refused before there is a kernel.
def test_handlers_that_cannot_be_called_are_refused_at_once() -> None:
    async def read(node: int, fh: int, offset: int, size: int) -> bytes:
        return b""

    for handlers in (
        {"read": lambda node: b""},
        {"read": lambda a, b, c, d, e: b""},
        {"read": read},
        {"getattr": 5},
        {"lookup": lambda *, parent, name: None},
    ):
        with pytest.raises(TypeError, match=r"Tiny\.|is how it is called"):
            Client(Tiny(**handlers))
    Client(Tiny(read=lambda *args: b"")).close()


def test_handlers_of_other_kinds(connect: Connect) -> None:
    class Static(Tiny):
        @staticmethod
        def statfs(node: int) -> Statfs:
            return Statfs(blocks=7)

        @classmethod
        def getxattr(cls, node: int, name: str) -> bytes:
            return name.encode()

    with connect(Static()) as client:
        assert client.statfs() == Statfs(blocks=7)
        assert client.getxattr("/f", "user.x") == b"user.x"


# ---- answers


def test_names_survive_any_bytes(connect: Connect) -> None:
    seen: list[str] = []

    def lookup(parent: int, name: str) -> Entry:
        seen.append(name)
        return Entry(2, FILE)

    raw = [b"\xff\xfe", "ä€😀".encode(), b"a\\b", b"x" * 255]
    with connect(Tiny(lookup=lookup)) as client:
        for name in raw:
            client.lookup(ROOT, os.fsdecode(name))
    assert [os.fsencode(name) for name in seen] == raw


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda d: memoryview(d)[:]])
def test_read_answers(connect: Connect, make: Any) -> None:
    data = os.urandom(300_000)

    def read(node: int, fh: int, offset: int, size: int) -> Any:
        return make(data[offset : offset + size])

    big = Attr(stat.S_IFREG | 0o644, size=len(data))
    with connect(Tiny(read=read, lookup=lambda p, n: Entry(2, big), getattr=lambda n: big if n > 1 else DIR)) as client:
        assert client.read_bytes("/f") == data
        assert client.read(2, 0, 10, 299_995) == data[-5:]
        assert client.read(2, 0, 10, 400_000) == b""


def test_read_from_a_descriptor(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "data"
    data = os.urandom(200_000)
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)

    def read(node: int, fh: int, offset: int, size: int) -> FileSlice:
        return FileSlice(fd, offset, 1 << 40)

    try:
        with connect(Tiny(read=read)) as client:
            assert client.read(2, 0, 1000, 0) == data[:1000]
            assert client.read(2, 0, 131072, 100_000) == data[100_000:]
            assert client.read(2, 0, 100, 300_000) == b""
            assert client.bad_replies == 0
    finally:
        os.close(fd)


def test_read_from_a_closed_descriptor_is_an_error(connect: Connect) -> None:
    with connect(Tiny(read=lambda *a: FileSlice(1 << 20, 0, 10))) as client, refused(errno.EBADF):
        client.read(2, 0, 10, 0)


def test_write_views(connect: Connect) -> None:
    kept: list[memoryview] = []

    class Views(Tiny):
        write_views = True

        def write(self, node: int, fh: int, offset: int, data: Any) -> int:
            assert type(data) is memoryview
            assert data.readonly
            assert bytes(data) == b"abc"
            kept.append(data)
            return len(data)

    with connect(Views()) as client:
        assert client.write(2, 0, b"abc") == 3
    with pytest.raises(ValueError, match="released"):
        kept[0][0]


def test_write_answers(connect: Connect) -> None:
    results: list[Any] = [3, None, 1]
    with connect(Tiny(write=lambda n, fh, o, d: results.pop(0))) as client:
        assert client.write(2, 0, b"abc") == 3
        assert client.write(2, 0, b"abc") == 3
        assert client.write(2, 0, b"abc") == 1


def test_getattr_may_answer_an_entry_and_subclasses_are_welcome(connect: Connect) -> None:
    class MyAttr(Attr):
        __slots__ = ()

    class MyEntry(Entry):
        __slots__ = ()

    class MyOpen(Open):
        __slots__ = ()

    entry = MyEntry(2, MyAttr(stat.S_IFREG | 0o600, size=9), 5.0)
    with connect(
        Tiny(
            lookup=lambda p, n: entry,
            getattr=lambda n: entry,
            open=lambda n, f: MyOpen(3),
            create=lambda p, n, m, f: (entry, MyOpen(4)),
        )
    ) as client:
        assert client.getattr(2).size == 9
        assert client.lookup(ROOT, "f").attr.size == 9
        assert client.open(2) == 3


def test_attr_timeout_of_the_class(connect: Connect) -> None:
    class Kept(Tiny):
        attr_timeout = 2.5

    with connect(Kept()) as client:
        reply = client.request(lib.MF_OP_GETATTR, 2, bytes(16))
    assert struct.unpack_from("=QI", reply) == (2, 500_000_000)


@pytest.mark.parametrize(("answer", "fh"), [(None, 0), (5, 5), (Open(6), 6), (True, 1), ((1 << 64) - 2, (1 << 64) - 2)])
def test_open_answers(connect: Connect, answer: Any, fh: int) -> None:
    with connect(Tiny(open=lambda n, f: answer)) as client:
        assert client.open(2) == fh


def test_forgets_come_alone_and_in_batches(connect: Connect) -> None:
    one: list[tuple[int, int]] = []
    many: list[list[tuple[int, int]]] = []
    batch = struct.pack("=II", 2, 0) + struct.pack("=QQQQ", 2, 1, 3, 4)
    with connect(Tiny(forget=lambda node, n: one.append((node, n)))) as client:
        client.send(42, 0, batch)
        client.forget(9, 7)
        wait_for(lambda: len(one) == 3, "the forgets")
    assert one == [(2, 1), (3, 4), (9, 7)]
    with connect(Tiny(forget_many=many.append)) as client:
        client.send(42, 0, batch)
        client.forget(9, 7)
        wait_for(lambda: len(many) == 2, "the forgets")
    assert many == [[(2, 1), (3, 4)], [(9, 7)]]


def test_reader_hooks_and_destroy(connect: Connect) -> None:
    events: list[Any] = []

    class Hooks(Tiny):
        def reader_start(self, reader: int) -> None:
            events.append(("start", reader))

        def reader_end(self, reader: int) -> None:
            events.append(("end", reader))

        def destroy(self) -> None:
            events.append("destroy")

    with connect(Hooks(), readers=3) as client:
        client.read_bytes("/f")
    count = len(events) // 2  # on rings one more, beside them, and those that joined on a slow machine
    assert count >= 3
    assert sorted(events[:-1]) == [(what, i) for what in ("end", "start") for i in range(count)]
    for i in range(count):
        assert events.index(("start", i)) < events.index(("end", i))
    assert events[-1] == "destroy"


# ---- listings


def names(count: int) -> list[str]:
    return [f"name-{i:05}" for i in range(count)]


def test_long_listing_is_asked_once_and_lazily(connect: Connect) -> None:
    given: list[int] = []
    calls: list[int] = []

    def readdir(node: int) -> Iterator[Dirent]:
        calls.append(node)
        for i, name in enumerate(names(5000)):
            given.append(i)
            yield Dirent(name, i + 10, stat.S_IFREG)

    with connect(Tiny(readdir=readdir)) as client:
        first = client.request(lib.MF_OP_READDIR, 1, struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0))
        assert 0 < len(first) <= 4096
        assert len(given) < 200
        calls.clear()
        given.clear()
        assert client.listdir("/") == names(5000)
    assert len(calls) == 1


def test_listing_has_dots_and_types(connect: Connect) -> None:
    with connect(Tiny(readdir=lambda n: [Dirent("."), Dirent("f", 2, stat.S_IFREG), Dirent("..")])) as client:
        raw = client.request(lib.MF_OP_READDIR, 1, struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0))
    entries = []
    while raw:
        ino, off, length, kind = struct.unpack_from("=QQII", raw)
        entries.append((raw[24 : 24 + length], ino, off, kind))
        raw = raw[(24 + length + 7) & ~7 :]
    assert entries == [(b".", 1, 1, 4), (b"..", 0xFFFFFFFF, 2, 4), (b"f", 2, 3, 8)]


def readdir_at(client: Client, offset: int, size: int = 4096, fh: int = 0) -> list[tuple[str, int]]:
    raw = client.request(lib.MF_OP_READDIR, 1, struct.pack("=QQIIQII", fh, offset, size, 0, 0, 0, 0))
    found = []
    while raw:
        _, off, length, _ = struct.unpack_from("=QQII", raw)
        found.append((os.fsdecode(raw[24 : 24 + length]), off))
        raw = raw[(24 + length + 7) & ~7 :]
    return found


def test_listing_goes_on_from_any_place(connect: Connect) -> None:
    everything = [".", "..", *names(300)]
    with connect(Tiny(readdir=lambda n: map(Dirent, names(300)))) as client:
        for offset in (0, 1, 2, 57, 299, 301):
            found = readdir_at(client, offset)
            assert found[0] == (everything[offset], offset + 1)
        assert readdir_at(client, 302) == []
        assert readdir_at(client, 9999) == []
        # Two readers of the same directory at once, and one that seeks back.
        page = readdir_at(client, 0, 1024)
        again = readdir_at(client, 0, 1024)
        assert page == again
        one = readdir_at(client, page[-1][1], 1024)
        two = readdir_at(client, again[-1][1], 1024)
        assert one == two
        assert one[0][0] == everything[len(page)]


def test_explicit_cookies(connect: Connect) -> None:
    entries = [Dirent(name, next=1000 + 7 * i) for i, name in enumerate(names(300))]
    with connect(Tiny(readdir=lambda node: iter(entries))) as client:
        assert client.listdir("/") == names(300)
        assert readdir_at(client, 1000 + 7 * 9)[0][0] == "name-00010"


def test_a_handler_that_takes_the_offset(connect: Connect) -> None:
    asked: list[tuple[int, int, int]] = []

    class Seeking(Tiny):
        def opendir(self, node: int, flags: int) -> int:
            return 77

        def readdir(self, node: int, fh: int = 0, offset: int = 0) -> Iterator[Dirent]:  # type: ignore[override]
            asked.append((node, fh, offset))
            for i in range(offset, 2000):
                yield Dirent(f"n{i}", next=i + 1)

    with connect(Seeking()) as client:
        assert client.listdir("/") == [f"n{i}" for i in range(2000)]
        assert readdir_at(client, 1500, fh=77)[0] == ("n1500", 1501)
    assert asked[0] == (1, 77, 0)
    assert asked[-1] == (1, 77, 1500)


def test_many_listings_are_bounded(connect: Connect) -> None:
    alive: set[int] = set()

    def readdir(node: int, fh: int) -> Iterator[Dirent]:
        alive.add(fh)
        try:
            for name in names(1000):
                yield Dirent(name)
        finally:
            alive.discard(fh)

    with connect(Tiny(readdir=readdir)) as client:
        for fh in range(500):
            readdir_at(client, 0, fh=fh)
        assert len(alive) <= 64
        last = readdir_at(client, 0, fh=1)[-1]
        assert readdir_at(client, last[1], fh=1)[0][0] == names(1000)[last[1] - 2]
