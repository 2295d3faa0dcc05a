# SPDX-License-Identifier: MIT
"""Options, information, statistics and further sessions, over the virtual kernel; the package itself."""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import Any

import pytest

import manifuse
from conftest import ROOT as TREE
from conftest import Connect, python, run, wait_for
from manifuse import NegotiatedContext, Session
from manifuse._native import lib
from manifuse.testing import Client, upcall_ns
from support import Gate, Tiny, refused

# ---- clones: descriptors of the device, which requests over a ring do not come on


def test_readers_and_clones() -> None:
    with Client(Tiny(), readers=3, clone_fd="require") as client:
        info = client.session.info()
        assert (info.readers, info.channels, info.transport) == (3, 3, "memory")
        assert (info.clone_error, info.clone_reason, info.failed_readers) == (0, "", 0)


def test_shared_descriptor() -> None:
    with Client(Tiny(), readers=3, clone_fd="off") as client:
        info = client.session.info()
        assert (info.readers, info.channels) == (3, 1)
        assert client.read_bytes("/f") == b"hello"


def test_a_clone_that_fails_leaves_the_others_serving() -> None:
    with Client(Tiny(), readers=4, clone_fd="auto", clone_fail_at=2, clone_errno=errno.EMFILE) as client:
        info = client.session.info()
        assert info.readers == 4
        assert info.channels == 2
        assert info.clone_error == errno.EMFILE
        assert info.clone_reason
        assert client.read_bytes("/f") == b"hello"
    with refused(errno.EMFILE):
        Client(Tiny(), readers=4, clone_fd="require", clone_fail_at=2, clone_errno=errno.EMFILE)


# ---- readers


def test_two_handlers_are_in_flight_on_two_readers(connect: Connect, transport: str) -> None:
    gate = Gate()
    with connect(gate, readers=2) as client:
        threads = [threading.Thread(target=client.read, args=(2, 0, 10)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: gate.inside == 2, "two handlers at once")
        gate.opened.set()
        for thread in threads:
            thread.join(20)
        assert gate.most == 2
        if transport == "device":
            assert client.session.info().readers == 2
            assert client.reads(0) > 0
            assert client.reads(1) > 0
        assert client.bad_replies == 0
        stats = [reader for reader in client.session.stats() if "read" in reader.ops]
        assert [reader.ops["read"].requests for reader in stats] == [1, 1]
        assert len({reader.tid for reader in stats}) == 2


# What is added serves the device, also beside rings.
def test_add_reader() -> None:
    gate = Gate()
    with Client(gate, readers=1) as client:
        assert client.session.add_reader() == 1
        threads = [threading.Thread(target=client.read, args=(2, 0, 10)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: gate.inside == 2, "two handlers at once")
        gate.opened.set()
        for thread in threads:
            thread.join(20)
        assert client.session.info().readers == 2


def test_rings_of_the_virtual_kernel() -> None:
    with Client(Tiny(), readers=2, queues=3) as client:
        info = client.session.info()
        assert (info.transport, info.readers) == ("uring", 3)
        assert info.transport_reason == "the kernel offers io_uring: 2 rings for 3 queues"

        def reads() -> int:
            return sum(client.reads(channel) for channel in range(info.channels))

        before = reads()
        for _ in range(6):
            assert client.getattr(2).size == 5
        assert reads() == before
        client.forget(2)
        wait_for(lambda: reads() == before + 1, "the forget on the device")
    for options, why in (
        ({"readers": 1, "queues": 2}, "one reader"),
        ({"readers": 2, "queues": 2, "uring": "off"}, "off by option"),
        ({"readers": 2, "queues": 2, "minor": 41}, "does not offer it"),
        ({"readers": 2}, "in memory"),
    ):
        with Client(Tiny(), **options) as client:
            info = client.session.info()
            assert info.transport == "memory"
            assert why in info.transport_reason
            assert client.read_bytes("/f") == b"hello"
    with refused(errno.EOPNOTSUPP):
        Client(Tiny(), uring="require")


def test_stats(connect: Connect) -> None:
    with connect(Tiny()) as client:
        client.read_bytes("/f")
        with refused(errno.ENOENT):
            client.stat("/none")
        client.getattr(2)
        wait_for(lambda: all(reader.tid > 0 for reader in client.session.stats()), "all threads")
        readers = client.session.stats()
        assert [reader.reader for reader in readers] == list(range(len(readers)))
        assert all(len(reader.latency) == 32 for reader in readers)
        assert sum(reader.requests for reader in readers) >= 5
        assert sum(reader.ops["read"].requests for reader in readers if "read" in reader.ops) == 1
        assert sum(reader.ops["lookup"].errors for reader in readers if "lookup" in reader.ops) == 1
        assert sum(reader.bytes_out for reader in readers) > 0
        r, w = os.pipe()
        client.session.write_stats(w)
        os.close(w)
        with open(r, "rb") as pipe:
            lines = [json.loads(line) for line in pipe]
        of_readers = [line for line in lines if "reader" in line]
        assert [line["reader"] for line in of_readers] == [reader.reader for reader in readers]
        assert sum(line["requests"] for line in of_readers) >= 5
        on_rings = client.session.info().transport == "uring"
        assert [line["ring"] for line in lines if "ring" in line] == ([0] if on_rings else [])


def test_negotiated_context_crosses_as_bytes(connect: Connect) -> None:
    with connect(Tiny(), max_write=65536, acl="root-and-owner") as client:
        neg = client.session.negotiated
        assert neg.minor == 45
        assert neg.max_write == 65536
        assert neg.acl == "root-and-owner"
        assert neg.owner_uid == os.getuid()
        assert neg.owner_gid == os.getgid()
        assert neg.implemented >> lib.MF_OP_READ & 1
        assert neg.time_gran == 1
        assert neg.max_pages >= 16
        again = NegotiatedContext.from_bytes(neg.to_bytes())
        assert again == neg
        assert bytes(again) == bytes(neg)
        assert hash(again) == hash(neg)
        assert "7.45" in repr(again)


def test_negotiated_context_refuses_garbage(connect: Connect) -> None:
    with connect(Tiny()) as client:
        good = client.session.negotiated.to_bytes()
    with pytest.raises(ValueError, match="longer"):
        NegotiatedContext.from_bytes(b"")
    for bad in (good[:20], bytes(200), b"\xff" * 200, good[:4] + b"\x09" + good[5:]):
        with pytest.raises(OSError):  # noqa: PT011
            NegotiatedContext.from_bytes(bad)


def test_before_the_handshake() -> None:
    with Session(Tiny()) as session:
        for call in (lambda: session.negotiated, session.clone_fd, session.run, session.add_reader):
            with refused(errno.ENOTCONN):
                call()
        assert session.mountpoint is None


def test_from_fd_refuses_what_is_no_fuse_device(connect: Connect) -> None:
    with connect(Tiny()) as client:
        neg = client.session.negotiated
    r, w = os.pipe()
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            Session.from_fd_initialized(Tiny(), r, neg)
        assert caught.value.errno in (errno.ENOTTY, errno.EBADF, errno.EPROTONOSUPPORT, errno.EINVAL)
        os.fstat(r)  # still ours
        with pytest.raises(OSError):  # noqa: PT011
            Session.from_fd_initialized(Tiny(), 1 << 20, neg.to_bytes())
        session = Session(Tiny())
        with pytest.raises(OSError):  # noqa: PT011
            session.attach_fds([r])
        with pytest.raises(OSError):  # noqa: PT011
            session.attach_fds([])
        session.close()
        os.fstat(r)
    finally:
        os.close(r)
        os.close(w)


@pytest.mark.parametrize(
    "options",
    [
        {"clone_fd": "sometimes"},
        {"clone_fd": None},
        {"uring": 1},
        {"acl": "everybody"},
        {"readers": -1},
        {"readers": 1 << 40},
        {"max_write": 5000},
        {"max_write": 64 << 20},
        {"stop_timeout": 0},
        {"stop_timeout": -1},
        {"fsname": "a\0b"},
        {"max_background": -5},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, OSError, OverflowError)):
        Session(Tiny(), **options)


def test_unknown_options() -> None:
    with pytest.raises(TypeError):
        Session(Tiny(), reders=1)


def test_acl_of_the_virtual_kernel(connect: Connect) -> None:
    for acl, uid, allowed in (
        ("owner", 12345, True),  # whoever made the mount decided, and its kernel refuses others
        ("root-and-owner", os.getuid(), True),
        ("root-and-owner", 0, True),
        ("root-and-owner", 12345, False),
        ("all", 12345, True),
    ):
        with connect(Tiny(), acl=acl, uid=uid) as client:
            if allowed:
                assert client.read_bytes("/f") == b"hello"
            else:
                with refused(errno.EACCES):
                    client.getattr(2)


# Older than requests over io_uring.
def test_old_and_odd_kernels() -> None:
    for minor in (31, 36, 40):
        with Client(Tiny(), minor=minor) as client:
            assert client.read_bytes("/f") == b"hello"
            assert client.session.negotiated.minor == minor
    with refused(errno.EPROTO):
        Client(Tiny(), minor=30)


def test_run_is_refused_twice(connect: Connect) -> None:
    with connect(Tiny()) as client, refused(errno.EBUSY):
        client.session.run()


def test_exit_with_a_session_left_open(transport: str) -> None:
    done = python(
        """
        import sys
        sys.path[:0] = [sys.argv[1], sys.argv[2]]
        options = {"queues": 2, "uring": "require"} if sys.argv[3] == "ring" else {}
        from manifuse.testing import Client, upcall_ns
        from support import Tiny
        clients = [Client(Tiny(), readers=3, **options) for _ in range(3)]
        assert clients[0].read_bytes("/f") == b"hello"
        """,
        str(TREE / "tests" / "python"),
        os.pathsep.join(__import__("sys").path),
        transport,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, __import__("sys").path))},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_upcall_ns() -> None:
    fs = Tiny()
    assert 10 < upcall_ns(fs, "getattr", count=1000) < 1e6
    assert 10 < upcall_ns(fs, "lookup", name="none", count=1000) < 1e6
    assert 10 < upcall_ns(fs, "read", count=1000) < 1e6
    for missing in ("write", "nonsense"):
        with pytest.raises(ValueError, match="no handler"):
            upcall_ns(fs, missing)


def test_errors_of_run_within_an_except_block(connect: Connect) -> None:
    client = connect(Tiny(), serve=False)
    with client:
        client.abort()
        try:
            raise KeyError
        except KeyError:
            with pytest.raises(OSError):  # noqa: PT011
                client.session.run()


def test_subprocesses_do_not_get_descriptors(connect: Connect) -> None:
    with connect(Tiny()):
        done = run("ls", "-l", "/proc/self/fd")
        assert "fuse" not in done.stdout


# ---- the package


def test_cdef_names_every_function_of_the_headers() -> None:
    import re

    headers = TREE / "abi" / "include" / "manifuse"
    if not headers.is_dir():
        pytest.skip("no source tree here")
    declared = set()
    for name in ("manifuse.h", "testing.h"):
        text = re.sub(r"/\*.*?\*/", "", (headers / name).read_text(), flags=re.S)
        declared |= set(re.findall(r"MF_API[^;(]*?\b(mf_\w+)\(", text))
    text = (TREE / "bindings" / "python" / "manifuse" / "_native" / "cdef.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    cdef = set(re.findall(r"^(?:const )?\w[\w *]*?\b(mf_\w+)\(", text, flags=re.M))
    assert declared == cdef
    for name in declared:
        assert hasattr(lib, name)


def test_typed() -> None:
    assert os.path.exists(os.path.join(os.path.dirname(manifuse.__file__), "py.typed"))
