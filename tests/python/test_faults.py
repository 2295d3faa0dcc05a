# SPDX-License-Identifier: MIT
"""Handlers that raise, answer garbage, wait, or end the session; over the virtual kernel."""

from __future__ import annotations

import errno
import gc
import logging
import os
import queue
import stat
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from conftest import Connect, wait_for
from manifuse import ROOT, Attr, Dirent, Entry, FileSlice, InodeFS, Open, Reply, Session, Statfs, context
from manifuse._native import lib
from manifuse.testing import Client
from support import DIR, FILE, Gate, Tiny, refused

READ = struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0)


def raiser(error: BaseException) -> Any:
    def handler(*args: Any) -> Any:
        raise error

    return handler


# ---- errors


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (FileNotFoundError(), errno.ENOENT),
        (FileExistsError(), errno.EEXIST),
        (PermissionError(), errno.EACCES),
        (PermissionError(errno.EPERM, "no"), errno.EPERM),
        (NotADirectoryError(), errno.ENOTDIR),
        (IsADirectoryError(), errno.EISDIR),
        (InterruptedError(), errno.EINTR),
        (TimeoutError(), errno.ETIMEDOUT),
        (BlockingIOError(), errno.EAGAIN),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(511, "?"), 511),
        (type("Own", (OSError,), {})(errno.EDQUOT, "quota"), errno.EDQUOT),
        (type("Own", (FileNotFoundError,), {})(), errno.ENOENT),
    ],
)
def test_os_errors_are_their_errno(
    connect: Connect, error: OSError, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(Tiny(read=raiser(error))) as client, refused(number):
        client.read(2, 0, 10)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        KeyError(5),
        OSError(),
        OSError("text alone"),
        OSError(0, "zero"),
        OSError(-5, "negative"),
        OSError(512, "too large"),
        OSError(1 << 70, "huge"),
        OSError("ENOENT", "no number"),
        RecursionError(),
        StopIteration(),
        AssertionError(),
    ],
)
def test_other_exceptions_are_eio_and_logged(
    connect: Connect, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(Tiny(read=raiser(error))) as client:
        with refused(errno.EIO):
            client.read(2, 0, 10)
        assert client.getattr(2).size == 5  # life goes on
    record = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert "read of node 2" in record.getMessage()
    assert record.exc_info
    assert record.exc_info[2] is not None
    assert record.name == "manifuse"


def test_an_exception_that_cannot_be_shown(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    class Evil(OSError):
        @property
        def errno(self) -> int:  # type: ignore[override]
            raise RuntimeError

        def __str__(self) -> str:
            raise RuntimeError

    with connect(Tiny(read=raiser(Evil()))) as client:
        with refused(errno.EIO):
            client.read(2, 0, 10)
        assert client.getattr(2).size == 5


# ---- garbage

ENTRY = Entry(2, FILE)
GARBAGE: list[tuple[str, Any]] = [
    ("lookup", None),
    ("lookup", 5),
    ("lookup", FILE),
    ("lookup", (ENTRY, None)),
    ("getattr", None),
    ("getattr", {"st_mode": 5}),
    ("getattr", Entry.negative()),
    ("readlink", None),
    ("readlink", 7),
    ("readlink", "a\0b"),
    ("readlink", "x" * 5000),
    ("mkdir", None),
    ("mkdir", Entry.negative()),
    ("open", "7"),
    ("open", -1),
    ("open", 1 << 64),
    ("open", (1 << 64) - 1),
    ("open", 1.5),
    ("read", None),
    ("read", 5),
    ("read", "text"),
    ("read", b"x" * 4097),
    ("read", bytearray(4097)),
    ("read", memoryview(bytes(4097))),
    ("read", [1, 2]),
    ("write", -1),
    ("write", 4),
    ("write", "3"),
    ("write", 1 << 80),
    ("statfs", None),
    ("statfs", (1, 2)),
    ("readdir", None),
    ("readdir", 5),
    ("readdir", [("f", 2)]),
    ("readdir", ["f"]),
    ("readdir", [Dirent("a"), None]),
    ("getxattr", None),
    ("getxattr", "text"),
    ("listxattr", None),
    ("listxattr", "user.a"),
    ("listxattr", [5]),
    ("listxattr", [""]),
    ("listxattr", ["a\0b"]),
    ("unlink", 5),
    ("flush", b""),
    ("create", None),
    ("create", ENTRY),
    ("create", (ENTRY,)),
    ("create", (None, None)),
    ("create", (ENTRY, -1)),
    ("create", (Entry.negative(), None)),
]


def ask(client: Client, name: str) -> None:
    """One request of this operation."""
    bodies: dict[str, tuple[int, int, bytes]] = {
        "lookup": (lib.MF_OP_LOOKUP, ROOT, b"f\0"),
        "getattr": (lib.MF_OP_GETATTR, 2, bytes(16)),
        "readlink": (lib.MF_OP_READLINK, 2, b""),
        "mkdir": (lib.MF_OP_MKDIR, ROOT, struct.pack("=II", 0o755, 0) + b"d\0"),
        "open": (lib.MF_OP_OPEN, 2, bytes(8)),
        "read": (lib.MF_OP_READ, 2, READ),
        "write": (lib.MF_OP_WRITE, 2, struct.pack("=QQIIQII", 0, 0, 3, 0, 0, 0, 0) + b"abc"),
        "statfs": (lib.MF_OP_STATFS, ROOT, b""),
        "readdir": (lib.MF_OP_READDIR, ROOT, READ),
        "getxattr": (lib.MF_OP_GETXATTR, 2, struct.pack("=II", 64, 0) + b"user.a\0"),
        "listxattr": (lib.MF_OP_LISTXATTR, 2, struct.pack("=II", 64, 0)),
        "unlink": (lib.MF_OP_UNLINK, ROOT, b"f\0"),
        "flush": (lib.MF_OP_FLUSH, 2, bytes(24)),
        "create": (lib.MF_OP_CREATE, ROOT, struct.pack("=IIII", 0, 0o100644, 0, 0) + b"new\0"),
    }
    client.request(*bodies[name])


@pytest.mark.parametrize(("name", "answer"), GARBAGE, ids=lambda v: repr(v)[:30])
def test_garbage_is_eio_and_logged(connect: Connect, name: str, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with connect(Tiny(**{name: lambda *args: answer})) as client:
        with refused(errno.EIO):
            ask(client, name)
        assert client.bad_replies == 0
        assert client.pending == 0
    message = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert f"{name} of node" in message.getMessage()
    assert message.exc_info
    assert isinstance(message.exc_info[1], (TypeError, ValueError))


def test_garbage_in_constructors_shows_where(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    makers: list[Any] = [
        lambda *a: Entry(2, Attr(0o644)),
        lambda *a: Entry(0, FILE),
        lambda *a: Entry(2, Attr(stat.S_IFREG, size=-1)),
    ]
    for make in makers:
        with connect(Tiny(lookup=make)) as client, refused(errno.EIO):
            client.lookup(ROOT, "f")
    assert "no file type" in caplog.text
    for bad in ("a/b", "", "a\0b"):
        with connect(Tiny(readdir=lambda n, bad=bad: [Dirent(bad)])) as client, refused(errno.EIO):
            client.listdir("/")
    assert "not a file name" in caplog.text


def test_an_object_that_lies_about_its_wire_form(connect: Connect) -> None:
    class Liar(Attr):
        __slots__ = ()
        _packed = b"short"

    with connect(Tiny(getattr=lambda n: Liar.__new__(Liar))) as client, refused(errno.EIO):
        client.getattr(2)
    empty = object.__new__(Entry)
    with connect(Tiny(lookup=lambda p, n: empty)) as client, refused(errno.EIO):
        client.lookup(ROOT, "f")


# ---- exceptions that end the session


@pytest.mark.parametrize("error", [KeyboardInterrupt("enough"), SystemExit(3)])
def test_some_exceptions_end_the_session_and_come_out_of_run(connect: Connect, error: BaseException) -> None:
    client = connect(Tiny(read=raiser(error)), serve=False)
    caught: list[BaseException] = []

    def serve() -> None:
        try:
            client.session.run()
        except BaseException as raised:
            caught.append(raised)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(OSError):  # noqa: PT011
        client.read(2, 0, 10)
    thread.join(20)
    assert caught == [error]
    client.close()


# ---- context


def test_context_says_who_asks(connect: Connect) -> None:
    seen: list[Any] = []

    def mkdir(parent: int, name: str, mode: int) -> Entry:
        seen.append(context())
        return Entry(3, DIR)

    with connect(Tiny(mkdir=mkdir), uid=11, gid=12, pid=13) as client:
        client.mkdir("/d")
        last = client.session.stats()[-1].reader  # on the ring the first reader is the device's
    c = seen[0]
    assert (c.uid, c.gid, c.pid, c.reader) == (11, 12, 13, last)
    assert c.unique > 0
    assert not c.again
    assert "uid=11" in repr(c)
    with pytest.raises(RuntimeError, match="has returned"):
        _ = c.interrupted
    with pytest.raises(RuntimeError, match="has returned"):
        c.defer()


def test_context_outside_a_handler() -> None:
    with pytest.raises(RuntimeError, match="for handlers"):
        context()


# ---- interrupts


def test_a_waiting_handler_learns_of_an_interrupt(connect: Connect) -> None:
    entered = threading.Event()

    def read(node: int, fh: int, offset: int, size: int) -> bytes:
        c = context()
        woken = threading.Event()
        c.on_interrupt(woken.set)
        assert not c.interrupted
        entered.set()
        assert woken.wait(20)
        assert c.interrupted
        raise InterruptedError

    with connect(Tiny(read=read), readers=2) as client:
        unique = client.send(lib.MF_OP_READ, 2, READ)
        assert entered.wait(20)
        client.interrupt(unique)
        with refused(errno.EINTR):
            client.wait(unique)
        assert sum(r.interrupts for r in client.session.stats()) == 1


def test_interrupt_handler_of_the_class(connect: Connect) -> None:
    heard: list[int] = []
    gate = Gate(interrupt=heard.append)
    with connect(gate, readers=2) as client:
        unique = client.send(lib.MF_OP_READ, 2, READ)
        wait_for(lambda: gate.inside, "the handler")
        client.interrupt(unique)
        wait_for(lambda: heard, "the interrupt")
        gate.opened.set()
        assert client.wait(unique) == b"hello"
    assert heard == [unique]


def test_a_failing_interrupt_function_is_logged(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(interrupt=raiser(ValueError("oh")))
    with connect(gate, readers=2) as client:
        unique = client.send(lib.MF_OP_READ, 2, READ)
        wait_for(lambda: gate.inside, "the handler")
        client.interrupt(unique)
        wait_for(lambda: "interrupt of request" in caplog.text, "the log")
        gate.opened.set()
        client.wait(unique)


# ---- answers later


def deferring(kept: list[Reply]) -> Any:
    def handler(*args: Any) -> Any:
        kept.append(context().defer())

    return handler


def test_answers_from_another_thread(connect: Connect) -> None:
    kept: list[Reply] = []
    answers: dict[str, Any] = {
        "lookup": lambda r: r.entry(ENTRY),
        "getattr": lambda r: r.attr(FILE, 1.5),
        "readlink": lambda r: r.data(b"target"),
        "mkdir": lambda r: r.entry(Entry(3, DIR, 1.0, generation=4)),
        "open": lambda r: r.open(Open(9)),
        "read": lambda r: r.data(memoryview(b"later")),
        "write": lambda r: r.written(3),
        "statfs": lambda r: r.statfs(Statfs(1)),
        "getxattr": lambda r: r.data(bytearray(b"v")),
        "unlink": lambda r: r.done(),
        "create": lambda r: r.create(ENTRY, 5),
    }
    with connect(Tiny(**{name: deferring(kept) for name in answers})) as client:
        for name in answers:
            thread = threading.Thread(target=ask, args=(client, name))
            thread.start()
            reply = wait_for(lambda: kept and kept.pop(), name)
            time.sleep(0.01)
            assert thread.is_alive()
            assert not reply.answered
            answers[name](reply)
            thread.join(20)
            assert not thread.is_alive()
            assert reply.answered
            with pytest.raises(RuntimeError, match="answered already"):
                answers[name](reply)
        assert client.bad_replies == 0
        unique = client.send(lib.MF_OP_READ, 2, READ)
        wait_for(lambda: kept, "the read").pop().data(b"later")
        assert client.wait(unique) == b"later"


def test_answers_by_descriptor_and_size(connect: Connect, tmp_path: Any) -> None:
    kept: list[Reply] = []
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    with (
        open(path, "rb") as file,
        connect(Tiny(read=deferring(kept), getxattr=deferring(kept))) as client,
    ):
        unique = client.send(lib.MF_OP_READ, 2, READ)
        wait_for(lambda: kept, "the read").pop().data(FileSlice(file.fileno(), 4, 3))
        assert client.wait(unique) == b"456"
        unique = client.send(lib.MF_OP_GETXATTR, 2, struct.pack("=II", 0, 0) + b"user.a\0")
        wait_for(lambda: kept, "getxattr").pop().xattr_size(77)
        assert struct.unpack_from("=I", client.wait(unique)) == (77,)


def test_errors_later(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Reply] = []
    with connect(Tiny(read=deferring(kept))) as client:
        for error, number in ((errno.ENOSPC, errno.ENOSPC), (FileNotFoundError(), errno.ENOENT), (ValueError(), 5)):
            unique = client.send(lib.MF_OP_READ, 2, READ)
            wait_for(lambda: kept, "the read").pop().error(error)
            with refused(number):
                client.wait(unique)
        unique = client.send(lib.MF_OP_READ, 2, READ)
        reply = wait_for(lambda: kept, "the read").pop()
        with pytest.raises(ValueError, match="no errno"):
            reply.error(0)
        with pytest.raises(TypeError):
            reply.entry(FILE)
        with pytest.raises(OSError):  # noqa: PT011
            reply.entry(ENTRY)  # not an answer for a read
        with refused(errno.EIO):
            client.wait(unique)


def test_a_reply_that_is_dropped_answers_eio(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    def read(*args: Any) -> None:
        context().defer()

    with connect(Tiny(read=read)) as client, refused(errno.EIO):
        client.read(2, 0, 10)
    assert "without an answer" in caplog.text


def test_defer_twice_and_fail_after_it(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Reply] = []

    def read(*args: Any) -> None:
        c = context()
        kept.append(c.defer())
        with pytest.raises(RuntimeError, match="deferred"):
            c.defer()
        raise ValueError("after it")

    with connect(Tiny(read=read)) as client:
        unique = client.send(lib.MF_OP_READ, 2, READ)
        wait_for(lambda: "after it" in caplog.text, "the log")
        kept.pop().data(b"still")
        assert client.wait(unique) == b"still"


def test_an_interrupt_reaches_a_deferred_request(connect: Connect) -> None:
    kept: list[Reply] = []
    with connect(Tiny(read=deferring(kept))) as client:
        unique = client.send(lib.MF_OP_READ, 2, READ)
        reply = wait_for(lambda: kept, "the read").pop()
        told = threading.Event()
        reply.on_interrupt(told.set)
        client.interrupt(unique)
        assert told.wait(20)
        assert reply.interrupted
        reply.error(errno.EINTR)
        with refused(errno.EINTR):
            client.wait(unique)


def test_replies_outlive_the_session_harmlessly(connect: Connect) -> None:
    kept: list[Reply] = []
    client = connect(Tiny(read=deferring(kept)), stop_timeout=1.0)
    client.send(lib.MF_OP_READ, 2, READ)
    wait_for(lambda: kept, "the read")
    client.close()
    assert kept[0].answered
    with pytest.raises(RuntimeError, match="over"):
        kept[0].data(b"late")
    kept.clear()
    gc.collect()


def test_answers_race_with_the_end_of_the_session(connect: Connect) -> None:
    failed: list[BaseException] = []

    def answer(replies: list[Reply]) -> None:
        for reply in replies:
            try:
                reply.data(b"just in time")
            except (RuntimeError, OSError):
                pass
            except BaseException as error:
                failed.append(error)

    def race() -> None:
        kept: list[Reply] = []
        client = connect(Tiny(read=deferring(kept)), stop_timeout=0.001)
        for _ in range(40):
            client.send(lib.MF_OP_READ, 2, READ)
        wait_for(lambda: len(kept) == 40, "the reads")
        threads = [threading.Thread(target=answer, args=(kept[i::2],)) for i in range(2)]
        for thread in threads:
            thread.start()
        client.close()
        for thread in threads:
            thread.join(20)
        assert not failed
        assert all(reply.answered for reply in kept)

    for _ in range(20):
        race()


def test_a_forked_child_answers_nothing(connect: Connect) -> None:
    kept: list[Reply] = []
    with connect(Tiny(read=deferring(kept))) as client:
        unique = client.send(lib.MF_OP_READ, 2, READ)
        reply = wait_for(lambda: kept, "the read").pop()
        pid = os.fork()
        if pid == 0:
            try:
                reply.data(b"the child's")
            except RuntimeError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert not reply.interrupted
        reply.data(b"the parent's")
        assert client.wait(unique) == b"the parent's"


def test_replies_race(connect: Connect) -> None:
    kept: list[Reply] = []
    wins: list[int] = []

    def answer(reply: Reply, i: int) -> None:
        try:
            reply.data(b"x" * i)
            wins.append(i)
        except RuntimeError:
            pass

    with connect(Tiny(read=deferring(kept))) as client:
        for _ in range(50):
            unique = client.send(lib.MF_OP_READ, 2, READ)
            reply = wait_for(lambda: kept, "the read").pop()
            wins.clear()
            threads = [threading.Thread(target=answer, args=(reply, i)) for i in range(1, 5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            assert len(wins) == 1
            assert client.wait(unique) == b"x" * wins[0]
        assert client.bad_replies == 0


def test_threads_that_answered_may_end(connect: Connect) -> None:
    kept: queue.SimpleQueue[Optional[Reply]] = queue.SimpleQueue()

    def work() -> None:
        for reply in iter(kept.get, None):
            reply.data(b"later")

    with connect(Tiny(read=lambda *args: kept.put(context().defer())), readers=0, queues=1) as client:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        uniques = [client.send(lib.MF_OP_READ, 2, READ) for _ in range(200)]
        for unique in uniques:
            assert client.wait(unique) == b"later"
        for _ in threads:
            kept.put(None)
        for thread in threads:
            thread.join(20)
        # An entry of a ring that such a thread had armed would be gone with it.
        for _ in range(200):
            assert client.getattr(2).size == 5
        assert client.bad_replies == 0


# ---- waiting


def test_a_handler_that_sleeps_holds_up_nobody(connect: Connect) -> None:
    gate = Gate()
    with connect(gate, readers=0, queues=1) as client:
        uniques = []
        for _ in range(5):
            uniques.append(client.send(lib.MF_OP_READ, 2, READ))
            wait_for(lambda: gate.inside == len(uniques), "one more handler at once")
            assert client.getattr(2).size == 5
        gate.opened.set()
        for unique in uniques:
            assert client.wait(unique) == b"hello"
        assert client.session.info().growths > 0
        assert client.bad_replies == 0


# ---- stopping


def test_stop_has_a_deadline_when_a_handler_never_answers(connect: Connect) -> None:
    gate = Gate()
    client = connect(gate, readers=2, stop_timeout=0.3)
    client.send(lib.MF_OP_READ, 2, READ)
    wait_for(lambda: gate.inside, "the handler")
    start = time.monotonic()
    client.close()
    assert time.monotonic() - start < 10
    gate.opened.set()  # the handler that was left behind returns into a session that is gone
    wait_for(lambda: gate.inside == 0, "the handler's end")
    time.sleep(0.1)


def test_stop_from_a_handler(connect: Connect) -> None:
    class Stopping(Tiny):
        session: Session

        def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
            self.session.stop()
            return b"last"

    fs = Stopping()
    client = connect(fs, serve=False)
    fs.session = client.session
    thread = threading.Thread(target=client.session.run)
    thread.start()
    assert client.read(2, 0, 10) == b"last"
    thread.join(20)
    assert not thread.is_alive()
    client.close()


def test_abort_is_an_error_of_run(connect: Connect) -> None:
    client = connect(Tiny(), serve=False)
    caught: list[BaseException] = []

    def serve() -> None:
        try:
            client.session.run()
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    client.getattr(2)
    client.abort()
    thread.join(20)
    assert [getattr(e, "errno", None) for e in caught] == [errno.ECONNABORTED]
    client.close()


def test_unmount_ends_run(connect: Connect) -> None:
    client = connect(Tiny(), serve=False)
    thread = threading.Thread(target=client.session.run)
    thread.start()
    client.getattr(2)
    client.unmount()
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(OSError):  # noqa: PT011
        client.getattr(2)
    client.close()


# ---- lifetime


def test_everything_is_freed(connect: Connect) -> None:
    class Plain(Tiny):
        pass

    fs: Any = Plain()
    client: Any = connect(fs, readers=2)
    client.read_bytes("/f")
    refs = [weakref.ref(fs), weakref.ref(client), weakref.ref(client.session)]
    threads = threading.active_count()
    del fs, client
    gc.collect()
    assert [ref() for ref in refs] == [None, None, None]
    assert threading.active_count() <= threads


def test_a_closed_session_says_so(connect: Connect) -> None:
    client = connect(Tiny())
    client.close()
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.session.info()
    with pytest.raises(ValueError, match="closed"):
        client.getattr(2)
    with pytest.raises(ValueError, match="closed"):
        client.session.stop()


def test_closing_under_load(connect: Connect) -> None:
    for _ in range(10):
        client = connect(Tiny(), readers=3)
        ended: list[int] = []

        def work(client: Client = client, ended: list[int] = ended) -> None:
            try:
                while True:
                    client.read_bytes("/f")
            except (OSError, ValueError):
                ended.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        client.close()
        for thread in threads:
            thread.join(20)
        assert len(ended) == 4


def test_many_threads_and_readers(connect: Connect) -> None:
    def readdir(node: int) -> Iterator[Dirent]:
        for i in range(300):
            yield Dirent(f"n{i}", i + 5)

    errors: list[BaseException] = []
    with connect(Tiny(readdir=readdir), readers=4) as client:

        def work() -> None:
            try:
                for _ in range(40):
                    assert client.read_bytes("/f") == b"hello"
                    assert len(client.listdir("/")) == 300
                    with refused(errno.ENOENT):
                        client.stat("/none")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert not errors
        assert client.pending == 0
        assert client.bad_replies == 0


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer keeps freed memory")
def test_no_memory_is_lost_per_request(connect: Connect) -> None:
    import resource

    data = bytes(65536)
    with connect(
        Tiny(
            read=lambda n, fh, o, s: data[:s],
            write=lambda n, fh, o, d: len(d),
            lookup=lambda p, n: Entry(2, Attr(stat.S_IFREG | 0o600, 5)),
            readlink=lambda n: "x" * 3000,
            getxattr=raiser(ValueError("x")),
        )
    ) as client:
        logging.getLogger("manifuse").disabled = True

        def round_() -> None:
            for _ in range(300):
                client.read(2, 0, 65536)
                client.write(2, 0, data)
                client.lookup(ROOT, "f")
                client.request(lib.MF_OP_READLINK, 2)
                client.listdir("/")
                with refused(errno.EIO):
                    client.getxattr("/f", "user.a", size=4)

        try:
            round_()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(4):
                round_()
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        finally:
            logging.getLogger("manifuse").disabled = False
    assert after - before < 8192, f"{after - before} KiB more"


def test_not_a_filesystem() -> None:
    with pytest.raises(TypeError, match="InodeFS"):
        Session(object())  # type: ignore[arg-type]
    assert issubclass(Tiny, InodeFS)
