# SPDX-License-Identifier: MIT
"""The example filesystems over the virtual kernel."""

from __future__ import annotations

import errno
import io
import os
import random
import stat
import struct
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from archive import Archive
from hello import Hello
from memfs import MemFS
from null import BIG_NODE, Null

from conftest import ROOT as TREE
from conftest import Connect, run, wait_for
from manifuse import ROOT, Attr
from manifuse._native import lib
from manifuse.testing import Client
from support import refused


def test_hello_as_documented() -> None:
    client = Client(Hello())
    assert client.read_bytes("/hello.txt") == b"Hello World!\n"
    assert client.listdir() == ["hello.txt"]
    assert not client.exists("/other")
    assert len((TREE / "examples" / "python" / "hello.py").read_text().splitlines()) <= 40


def test_null(connect: Connect) -> None:
    with connect(Null(), readers=2) as client:
        assert client.stat("/f0000").size == 65536
        assert client.stat("/f9999").size == 65536
        assert client.stat("/big").size == 4 << 30
        assert client.read_bytes("/f1234") == bytes(65536)
        assert client.lookup(ROOT, "big").entry_timeout == 0
        assert client.read(2, 0, 4096, 65536 - 100) == bytes(100)
        assert client.read(2, 0, 4096, 1 << 40) == b""
        assert client.read(10002, 0, 131072, (4 << 30) - 4096) == bytes(4096)
        assert client.read(10002, 0, 5000) == bytes(5000)
        assert len(client.listdir("/")) == 10_001
        for name in ("f", "f10000", "fabcd", "g0000", "F0000", "f00000"):
            assert not client.exists(f"/{name}")
        with refused(errno.EROFS):
            client.open(2, os.O_RDWR)
        flags = [struct.unpack_from("=QI", client.request(lib.MF_OP_OPEN, n, bytes(8)))[1] for n in (2, 10002)]
        assert flags == [lib.MF_OPEN_DIRECT_IO, lib.MF_OPEN_KEEP_CACHE]
        assert client.bad_replies == 0


def test_null_takes_writes(connect: Connect) -> None:
    with connect(Null()) as client:
        fh = client.open(BIG_NODE, os.O_RDWR)
        assert client.write(BIG_NODE, fh, bytes(100_000), 1 << 30) == 100_000
        client.release(BIG_NODE, fh)
        client.truncate("/big", 5)
        big = client.stat("/big")
        assert (big.mode, big.size) == (stat.S_IFREG | 0o644, 4 << 30)
        with refused(errno.EROFS):
            client.write(2, 0, b"1")
        for path in ("/f0000", "/"):
            with refused(errno.EROFS):
                client.chmod(path, 0o700)
        with refused(errno.EROFS):
            client.chmod("/big", 0o600)
        with refused(errno.EROFS):
            client.truncate("/f0000", 1)
        assert client.bad_replies == 0


def test_null_makes_files(connect: Connect) -> None:
    with connect(Null()) as client:
        for _ in range(2):
            for i in range(256):
                assert not client.exists(f"/c{i:03}")
                client.write_bytes(f"/c{i:03}", b"")
                attr = client.stat(f"/c{i:03}")
                assert (attr.mode, attr.size) == (stat.S_IFREG | 0o644, 0)
            assert client.read(BIG_NODE + 1, 0, 4096) == b""
            with refused(errno.EROFS):
                client.write(BIG_NODE + 1, 0, b"1")
            with refused(errno.EEXIST):  # what the kernel asks when another client was faster
                client.request(lib.MF_OP_CREATE, ROOT, bytes(16) + b"c007\0")
            client.truncate("/c007", 5)
            assert client.stat("/c007").size == 0
            assert len(client.listdir("/")) == 10_001
            for i in range(256):
                client.unlink(f"/c{i:03}")
                with refused(errno.ENOENT):
                    client.request(lib.MF_OP_UNLINK, ROOT, b"c%03d\0" % i)
        for name in ("c256", "c0000", "C000", "new"):
            with refused(errno.EROFS):
                client.write_bytes(f"/{name}", b"")
            with refused(errno.EROFS):
                client.request(lib.MF_OP_UNLINK, ROOT, name.encode() + b"\0")
        with refused(errno.EROFS):
            client.unlink("/f0000")
        assert client.bad_replies == 0


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes = b"", **fields: object) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1_000_000_000
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))

        add("./top", type=tarfile.DIRTYPE, mode=0o750)
        add("top/a.txt", b"first", mode=0o644, uid=5, gid=6)
        add("top/big", random.Random(1).randbytes(700_000), mode=0o600)
        add("implied/deeper/file", b"x")
        add("top/link", type=tarfile.SYMTYPE, linkname="a.txt")
        add("top/hard", type=tarfile.LNKTYPE, linkname="top/a.txt")
        add("top/fifo", type=tarfile.FIFOTYPE)
        add("../escape", b"no")
        add("x" * 150 + "/" + "ü" * 60, b"long")
        add("top/a2", b"old")
        add("top/a2", b"newer")
        add("empty")
    return path


def test_archive(connect: Connect, tar: Path) -> None:
    with connect(Archive(str(tar)), readers=3) as client:
        assert client.listdir("/") == ["top", "implied", "x" * 150, "empty"]
        assert client.read_bytes("/top/a.txt") == b"first"
        assert client.read_bytes("/top/hard") == b"first"
        assert client.read_bytes("/top/big") == random.Random(1).randbytes(700_000)
        assert client.read_bytes("/implied/deeper/file") == b"x"
        assert client.read_bytes("/top/a2") == b"newer"
        assert client.read_bytes("/empty") == b""
        assert client.readlink("/top/link") == "a.txt"
        assert client.read_bytes("/" + "x" * 150 + "/" + "ü" * 60) == b"long"
        attr = client.stat("/top/a.txt")
        assert attr.mode == stat.S_IFREG | 0o644
        assert (attr.uid, attr.gid, attr.nlink, attr.mtime_ns) == (5, 6, 2, 1_000_000_000 * 10**9)
        assert client.stat("/top").mode == stat.S_IFDIR | 0o750
        assert stat.S_ISFIFO(client.stat("/top/fifo").mode)
        assert not client.exists("/escape")
        with pytest.raises(OSError):  # noqa: PT011
            client.mkdir("/new")
        assert client.bad_replies == 0


def test_archive_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"no archive" * 100)
    with refused(errno.EINVAL):
        Archive(str(bad))
    with refused(errno.ENOENT):
        Archive(str(tmp_path / "none"))


# ---- memfs


@pytest.mark.parametrize("readers", [1, 4])
def test_memfs(connect: Connect, readers: int) -> None:
    with connect(MemFS(), readers=readers) as client:
        client.mkdir("/d", 0o750)
        client.write_bytes("/d/f", b"data" * 50_000, 0o640)
        assert client.read_bytes("/d/f") == b"data" * 50_000
        assert client.stat("/d/f").mode == stat.S_IFREG | 0o640
        client.write_bytes("/d/f", b"short")
        assert client.read_bytes("/d/f") == b"short"
        client.truncate("/d/f", 8)
        assert client.read_bytes("/d/f") == b"short\0\0\0"
        client.truncate("/d/f", 2)
        assert client.stat("/d/f").size == 2
        client.chmod("/d/f", 0o600)
        assert client.stat("/d/f").mode == stat.S_IFREG | 0o600
        client.symlink("/d/s", "f")
        assert client.readlink("/d/s") == "f"
        client.link("/d/f", "/d/g")
        assert client.stat("/d/g").nlink == 2
        client.mknod("/d/dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        assert client.stat("/d/dev").rdev == os.makedev(1, 3)
        assert sorted(client.listdir("/d")) == ["dev", "f", "g", "s"]
        client.rename("/d/f", "/moved")
        assert client.read_bytes("/moved") == b"sh"
        with refused(errno.EEXIST):
            client.rename("/moved", "/d/g", 1)
        with refused(errno.ENOTEMPTY):
            client.rmdir("/d")
        with refused(errno.EISDIR):
            client.unlink("/d")
        with refused(errno.ENOTDIR):
            client.rmdir("/moved")
        with refused(errno.EEXIST):
            client.mkdir("/d")
        client.write_bytes("/other", b"other")
        client.rename("/other", "/moved", 2)
        assert client.read_bytes("/moved") == b"other"
        assert client.read_bytes("/other") == b"sh"
        for name in ("dev", "g", "s"):
            client.unlink(f"/d/{name}")
        client.rmdir("/d")
        assert sorted(client.listdir("/")) == ["moved", "other"]
        client.setxattr("/moved", "user.a", b"1")
        client.setxattr("/moved", "user.empty", b"")
        assert client.getxattr("/moved", "user.a") == b"1"
        assert client.listxattr("/moved") == ["user.a", "user.empty"]
        client.removexattr("/moved", "user.empty")
        with refused(errno.ENODATA):
            client.getxattr("/moved", "user.empty")
        with refused(errno.EEXIST):
            client.setxattr("/moved", "user.a", b"", os.XATTR_CREATE)
        assert client.statfs()
        assert client.bad_replies == 0
        wait_for(lambda: client.pending == 0, "the last forgets")


def test_memfs_frees_what_is_forgotten(connect: Connect) -> None:
    fs = MemFS(capacity=1 << 20)
    with connect(fs) as client:
        for _ in range(20):
            client.write_bytes("/f", bytes(500_000))
            client.unlink("/f")
            wait_for(lambda: fs.used == 0, "the forget")  # nothing keeps it and the next write in order
        client.write_bytes("/keep", b"12345")
        with refused(errno.ENOSPC):
            client.write_bytes("/large", bytes(2 << 20))
        client.unlink("/large")
        client.mkdir("/a")
        client.mkdir("/a/b")
        assert client.stat("/a").nlink == 3
        client.rename("/a/b", "/b")
        assert client.stat("/a").nlink == 2
        assert client.stat("/").nlink == 4
        client.rmdir("/b")
        client.rmdir("/a")
        wait_for(lambda: len(fs.nodes) == 2, "what is forgotten")
    assert fs.used == 5


def test_memfs_under_threads(connect: Connect) -> None:
    errors: list[BaseException] = []
    with connect(MemFS(), readers=4) as client:

        def work(me: int) -> None:
            try:
                client.mkdir(f"/{me}")
                for i in range(30):
                    client.write_bytes(f"/{me}/{i}", b"%d" % i * 100)
                for i in range(30):
                    assert client.read_bytes(f"/{me}/{i}") == b"%d" % i * 100
                    client.rename(f"/{me}/{i}", f"/{me}/moved")
                    client.unlink(f"/{me}/moved")
                client.rmdir(f"/{me}")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert not errors
        assert client.listdir("/") == []
        assert client.bad_replies == 0


# ---- command lines


@pytest.mark.parametrize("name", ["hello", "null", "archive", "memfs"])
def test_command_line(name: str) -> None:
    program = str(TREE / "examples" / "python" / f"{name}.py")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = run(sys.executable, program, "--help", env=env)
    assert done.returncode == 0
    assert "--readers" in done.stdout
    assert ("SOURCE" in done.stdout) == (name == "archive")
    for wrong in (
        [],
        ["--readers", "x", "/tmp"],
        ["--clone", "perhaps", "/tmp"],
        ["--nonsense", "/tmp"],
        ["/tmp", "/tmp", "/tmp"],
    ):
        done = run(sys.executable, program, *wrong, env=env)
        assert done.returncode == 2, wrong
        assert done.stderr
        assert not done.stdout
    arguments = ["/nowhere/at/all", "/nowhere/mnt"] if name == "archive" else ["/nowhere/at/all"]
    done = run(sys.executable, program, *arguments, env=env)
    assert done.returncode == 1
    assert "/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_attributes_of_examples_are_shared() -> None:
    assert isinstance(Hello.file.attr, Attr)
