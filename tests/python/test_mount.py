# SPDX-License-Identifier: MIT
"""Real mounts. This process serves; what uses the mounts are other processes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import hashlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import manifuse
from conftest import ROOT as TREE
from conftest import Server, is_mounted, needs_fuse, needs_root, python, run, wait_for
from manifuse import Entry, Open, Session, context
from support import FILE, Tiny, Uncached, refused

pytestmark = needs_fuse

NOBODY = 65534
HERE = f"import sys; sys.path[:0] = {[str(TREE / 'tests' / 'python'), *filter(None, sys.path)]!r}\n"
CLONE = 0x8004E500  # FUSE_DEV_IOC_CLONE


def cat(path: Path) -> str:
    done = run("cat", str(path))
    assert done.returncode == 0, done.stderr
    return done.stdout


def taken(gate: Uncached, client: subprocess.Popen[str]) -> bool:
    """The client's read is in this process's handler, or was answered by somebody else."""
    return bool(gate.inside) or client.poll() is not None


def of_readers(text: str) -> list[dict[str, int]]:
    """Their lines of the statistics."""
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"reader":')]


def start_cat(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# ---- readers and descriptors


def test_serving_in_the_background(mnt: Path) -> None:
    with manifuse.mount(Tiny(), mnt, readers=2) as session:
        assert session.mountpoint == str(mnt)
        assert is_mounted(mnt)
        assert cat(mnt / "f") == "hello"
        assert run("ls", "-a", str(mnt)).stdout.split() == [".", "..", "f"]
        assert run("cat", str(mnt / "none")).returncode == 1
        assert sum(reader.ops["read"].requests for reader in session.stats() if "read" in reader.ops) >= 1
        assert session.info().transport in ("device", "uring")
        assert session.info().connection == os.stat(mnt).st_dev % 256 or session.info().connection >= 0
    assert not is_mounted(mnt)
    with pytest.raises(ValueError, match="closed"):
        session.stats()


@pytest.mark.parametrize(("clone_fd", "channels"), [("require", 2), ("off", 1)])
def test_two_blocked_handlers_on_two_readers(mnt: Path, clone_fd: str, channels: int) -> None:
    gate = Uncached()
    with manifuse.mount(gate, mnt, readers=2, clone_fd=clone_fd, uring="off") as session:
        clients = [start_cat(mnt / "f") for _ in range(2)]
        wait_for(lambda: gate.inside == 2, "two handlers at once")
        stats = session.stats()
        assert len({reader.fd for reader in stats}) == channels
        assert len({reader.tid for reader in stats}) == 2
        assert [reader.in_flight for reader in stats] == [1, 1]
        assert all(reader.requests > 0 for reader in stats)
        gate.opened.set()
        assert [client.communicate(timeout=20)[0] for client in clients] == ["hello", "hello"]
        assert session.info().channels == channels
        ops = [reader.ops.get("read") for reader in session.stats()]
        assert all(op is not None and op.requests for op in ops)
    assert gate.most == 2


def test_clone_fd_gives_distinct_descriptors_that_are_not_inherited(mnt: Path) -> None:
    with manifuse.mount(Tiny(), mnt) as session:
        fds = [session.clone_fd() for _ in range(3)]
        try:
            assert len(set(fds)) == 3
            for fd in fds:
                assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/fuse"
                assert not os.get_inheritable(fd)
            shown = subprocess.run(
                ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, timeout=20
            )
            assert "fuse" not in shown.stdout
        finally:
            for fd in fds:
                os.close(fd)
        assert cat(mnt / "f") == "hello"


def test_further_session_in_this_process(mnt: Path) -> None:
    first, second = Uncached(), Uncached()
    with manifuse.mount(first, mnt, readers=1, uring="off") as session:
        reader = Session.from_fd_initialized(second, session.clone_fd(), session.negotiated, readers=1)
        thread = threading.Thread(target=reader.run)
        thread.start()
        clients = [start_cat(mnt / "f") for _ in range(2)]
        wait_for(lambda: first.inside == 1 and second.inside == 1, "one handler in each session")
        first.opened.set()
        second.opened.set()
        assert [client.communicate(timeout=20)[0] for client in clients] == ["hello", "hello"]
        assert sum(r.requests for r in reader.stats()) > 0
        assert reader.negotiated == session.negotiated
        session.unmount()
        thread.join(20)
        assert not thread.is_alive()
        reader.close()


def test_further_session_in_another_process(mnt: Path) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = """
        import os, socket, sys
        from manifuse import NegotiatedContext, Session
        from support import Uncached
        peer = socket.socket(fileno=int(sys.argv[1]))
        data, fds, _, _ = socket.recv_fds(peer, 4096, 1)
        fs = Uncached()
        fs.opened.set()
        session = Session.from_fd_initialized(fs, fds[0], NegotiatedContext.from_bytes(data))
        peer.send(b"ready")
        session.run()
        session.write_stats(1)
    """
    gate = Uncached()
    with manifuse.mount(gate, mnt, readers=1, uring="off") as session:
        fd = session.clone_fd()
        child = subprocess.Popen(
            [sys.executable, "-c", HERE + "if 1:\n" + code, str(there.fileno())],
            pass_fds=[there.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        there.close()
        socket.send_fds(here, [session.negotiated.to_bytes()], [fd])
        os.close(fd)
        here.settimeout(20)
        assert here.recv(100) == b"ready"
        # Once a handler blocks here, whatever comes later is answered over there.
        clients = []
        while not gate.inside:
            client = start_cat(mnt / "f")
            clients.append(client)
            wait_for(functools.partial(taken, gate, client), "a reader")
        for _ in range(10):
            assert cat(mnt / "f") == "hello"
        gate.opened.set()
        assert [client.communicate(timeout=20)[0] for client in clients] == ["hello"] * len(clients)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert json.loads(out.splitlines()[0])["requests"] >= 10
    here.close()


def mount_by_hand(path: Path, options: str) -> int:
    """mount(2) without a server: the descriptor of the new connection, which waits for the handshake."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    data = f"fd={fd},rootmode=40000,{options}".encode()
    if libc.mount(b"byhand", os.fsencode(path), b"fuse", 6, data):
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, os.strerror(number))
    return fd


def clone_of(fd: int) -> int:
    new = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(new, CLONE, struct.pack("=I", fd))
    return new


@needs_root
def test_a_mount_made_elsewhere_is_served_by_an_unprivileged_user(mnt: Path) -> None:
    code = """
        import errno, os, sys, threading
        from manifuse import Session
        from support import Uncached
        fs = Uncached()
        fs.opened.set()
        session = Session(fs)
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            os.open("/dev/fuse", os.O_RDWR)
        except PermissionError:
            print("may not open the device", flush=True)
        session.attach_fds([int(fd) for fd in sys.argv[1:]])
        print(session.info().readers, session.info().channels, session.mountpoint, flush=True)
        session.run()
        session.write_stats(1)
    """
    master = mount_by_hand(mnt, f"user_id={NOBODY},group_id={NOBODY},allow_other")
    fds = [master, clone_of(master), clone_of(master)]
    child = subprocess.Popen(
        [sys.executable, "-c", HERE + "if 1:\n" + code, *map(str, fds)],
        pass_fds=fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for fd in fds:
        os.close(fd)
    for _ in range(5):
        assert cat(mnt / "f") == "hello"
    assert run("umount", str(mnt)).returncode == 0
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    lines = out.splitlines()
    mode = os.stat("/dev/fuse").st_mode
    assert (lines[0] == "may not open the device") == (not mode & stat.S_IWOTH)
    assert "3 3 None" in lines[:2]
    assert sum(reader["requests"] for reader in of_readers(out)) >= 10


@needs_root
def test_a_mount_point_may_be_a_descriptor(mnt: Path) -> None:
    fd = mount_by_hand(mnt, "user_id=0,group_id=0")
    with manifuse.mount(Tiny(), f"/dev/fd/{fd}"):
        assert cat(mnt / "f") == "hello"
        assert run("umount", str(mnt)).returncode == 0


@needs_root
def test_attach_refuses_a_descriptor_without_a_mount() -> None:
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    with Session(Tiny()) as session, pytest.raises(OSError):  # noqa: PT011
        session.attach_fds([fd])
    os.close(fd)


def test_add_reader_while_serving(mnt: Path) -> None:
    gate = Uncached()
    with manifuse.mount(gate, mnt, readers=1, uring="off") as session:
        assert session.add_reader() == 1
        clients = [start_cat(mnt / "f") for _ in range(2)]
        wait_for(lambda: gate.inside == 2, "two handlers at once")
        gate.opened.set()
        for client in clients:
            assert client.communicate(timeout=20)[0] == "hello"


# ---- who is answered


@needs_root
@pytest.mark.parametrize(("acl", "allowed"), [("owner", False), ("root-and-owner", False), ("all", True)])
def test_acl(mnt: Path, acl: str, allowed: bool) -> None:
    seen: list[int] = []

    def read(node: int, fh: int, offset: int, size: int) -> bytes:
        seen.append(context().uid)
        return b"hello"[offset:]

    with manifuse.mount(Tiny(read=read, open=lambda n, f: Open(direct_io=True)), mnt, acl=acl, readers=2):
        other = run("cat", str(mnt / "f"), user=NOBODY, group=NOBODY, extra_groups=[])
        assert other.stdout == ("hello" if allowed else "")
        assert allowed or "ermission denied" in other.stderr
        assert cat(mnt / "f") == "hello"
    assert set(seen) == ({0, NOBODY} if allowed else {0})


# ---- interrupts


def test_a_killed_client_interrupts_the_handler(mnt: Path) -> None:
    told: list[bool] = []
    entered = threading.Event()

    def read(node: int, fh: int, offset: int, size: int) -> bytes:
        c = context()
        gone = threading.Event()
        c.on_interrupt(gone.set)
        entered.set()
        told.append(gone.wait(20) and c.interrupted)
        raise InterruptedError

    with manifuse.mount(Tiny(read=read, open=lambda n, f: Open(direct_io=True)), mnt, readers=2) as session:
        client = start_cat(mnt / "f")
        assert entered.wait(20)
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=20)
        wait_for(lambda: told, "the interrupt")
        assert told == [True]
        assert sum(r.interrupts for r in session.stats()) >= 1


# ---- handlers that fail


def test_a_raising_handler_is_eio_and_the_mount_lives(mnt: Path, caplog: pytest.LogCaptureFixture) -> None:
    def read(node: int, fh: int, offset: int, size: int) -> Any:
        raise ZeroDivisionError("on purpose")

    with manifuse.mount(Tiny(read=read), mnt):
        done = run("cat", str(mnt / "f"))
        assert "Input/output error" in done.stderr
        assert run("ls", str(mnt)).stdout == "f\n"
    assert "on purpose" in caplog.text


def test_garbage_is_eio_and_the_mount_lives(mnt: Path) -> None:
    answers: Iterator[Any] = iter([b"x" * (1 << 21), None, -1, "text", object()])
    fs = Tiny(read=lambda *a: next(answers), open=lambda n, f: Open(direct_io=True))
    with manifuse.mount(fs, mnt):
        for _ in range(5):
            assert "Input/output error" in run("cat", str(mnt / "f")).stderr
        assert run("ls", str(mnt)).stdout == "f\n"


def test_a_handler_that_never_answers_does_not_hang_the_end(mnt: Path) -> None:
    gate = Uncached()
    session = Session(gate, readers=2, stop_timeout=0.5)
    session.mount(mnt)
    session._start()
    client = start_cat(mnt / "f")
    wait_for(lambda: gate.inside, "the handler")
    start = time.monotonic()
    with refused(errno.ETIMEDOUT):
        session._finish()
    session.close()
    assert time.monotonic() - start < 15
    client.communicate(timeout=20)
    assert client.returncode == 1
    assert not is_mounted(mnt)
    gate.opened.set()
    wait_for(lambda: not gate.inside, "the handler's end")


def test_a_forced_end_aborts_no_other_mount(mnt: Path, tmp_path: Path) -> None:
    opened, inside = threading.Event(), threading.Event()

    def release(node: int, fh: int) -> None:
        inside.set()
        opened.wait(30)

    other = tmp_path / "other"
    other.mkdir()
    stuck = Session(Tiny(release=release, open=lambda n, f: 5), readers=2, stop_timeout=0.3)
    stuck.mount(mnt)
    stuck._start()
    try:
        assert cat(mnt / "f") == "hello"
        assert inside.wait(20)
        assert run("umount", str(mnt)).returncode == 0
        with manifuse.mount(Tiny(), other):
            with refused(errno.ETIMEDOUT):
                stuck._finish()
            assert cat(other / "f") == "hello"
    finally:
        opened.set()
        stuck.close()
        run("umount", "-l", str(other))


@pytest.mark.parametrize(("raised", "status"), [("SystemExit(7)", 7), ("KeyboardInterrupt()", -signal.SIGINT)])
def test_exit_from_a_handler(serve: Callable[..., Server], mnt: Path, raised: str, status: int) -> None:
    server = serve(
        code=HERE
        + f"""
from manifuse import Session
from support import Tiny
def read(*args):
    raise {raised}
session = Session(Tiny(read=read), readers=2)
session.mount(sys.argv[1])
session.run()
"""
    )
    run("cat", str(mnt / "f"))
    code, _, err = server.end()
    assert code == status, err
    assert not is_mounted(mnt)


def test_ctrl_c_is_raised_from_run(serve: Callable[..., Server], mnt: Path) -> None:
    server = serve(
        code=HERE
        + """
from manifuse import Session
from support import Tiny
with Session(Tiny(), readers=2) as session:
    session.mount(sys.argv[1])
    try:
        session.run()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    )
    assert cat(mnt / "f") == "hello"
    server.process.send_signal(signal.SIGINT)
    code, out, err = server.end()
    assert (code, out) == (0, "interrupted\n"), err
    assert not is_mounted(mnt)


# ---- ends under load

LOAD = """
import os, sys
me = sys.argv[2]
n = 0
print("loaded", flush=True)
try:
    while True:
        path = f"{sys.argv[1]}/{me}-{n % 7}"
        with open(path, "wb") as f:
            f.write(b"x" * 20000)
        with open(path, "rb") as f:
            assert len(f.read()) == 20000
        os.listdir(sys.argv[1])
        os.unlink(path)
        n += 1
except OSError:
    pass
"""


def lazily(server: Server, mnt: Path) -> None:
    assert run("umount", "-l", str(mnt)).returncode == 0


def properly(server: Server, mnt: Path) -> None:
    end = time.monotonic() + 20
    while run("umount", str(mnt)).returncode:  # busy
        assert time.monotonic() < end
        for client in server.clients:  # type: ignore[attr-defined]
            client.kill()


def abort(server: Server, mnt: Path) -> None:
    number = os.stat(mnt).st_dev  # stat of the root is answered by the server: it still lives
    control = Path("/sys/fs/fuse/connections")
    if not any(control.iterdir()):
        run("mount", "-t", "fusectl", "none", str(control))
    (control / str(os.minor(number)) / "abort").write_text("1")


def terminate(server: Server, mnt: Path) -> None:
    server.process.send_signal(signal.SIGTERM)


def interrupt(server: Server, mnt: Path) -> None:
    server.process.send_signal(signal.SIGINT)


def hang_up(server: Server, mnt: Path) -> None:
    server.process.send_signal(signal.SIGHUP)


@needs_root
@pytest.mark.parametrize("readers", ["1", "4"])
@pytest.mark.parametrize("end", [lazily, properly, abort, terminate, interrupt, hang_up], ids=lambda f: f.__name__)
def test_ends_under_load(serve: Callable[..., Server], mnt: Path, end: Any, readers: str) -> None:
    server = serve("memfs.py", "--readers", readers, str(mnt), env={"MANIFUSE_STATS": "1"})
    server.clients = [  # type: ignore[attr-defined]
        subprocess.Popen(
            [sys.executable, "-c", LOAD, str(mnt), str(i)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for i in range(3)
    ]
    clients: list[subprocess.Popen[str]] = server.clients  # type: ignore[attr-defined]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "loaded\n"
        time.sleep(0.2)
        end(server, mnt)
        if end is lazily:  # the mount goes with its last user
            time.sleep(0.1)
            for client in clients:
                client.kill()
        code, out, err = server.end()
        assert code == (1 if end is abort else 0), err
        assert out == ""
        if code == 0:
            assert len(of_readers(err)) >= int(readers)
            assert sum(reader["requests"] for reader in of_readers(err)) > 0
        assert "Traceback" not in err
        assert not is_mounted(mnt)
        for client in clients:  # none hangs; one may have gone on in the directory beneath
            client.kill()
            client.wait(20)
    finally:
        for client in clients:
            client.kill()
            client.communicate()


# ---- fork


def test_fork_and_exec_while_serving(serve: Callable[..., Server], mnt: Path) -> None:
    server = serve(
        code=HERE
        + """
import os, subprocess, time
import manifuse
from support import Tiny
def devices(pid):
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            pass
    return found.count("/dev/fuse")
session = manifuse.Session(Tiny(), readers=3, signals=True)
session.mount(sys.argv[1])
session._start()
child = subprocess.Popen(["sleep", "60"])
print("exec", devices(child.pid))
pid = os.fork()
if pid == 0:
    print("fork", devices("self"), flush=True)
    time.sleep(60)
    os._exit(0)
sys.stdout.flush()
try:
    session._wait()
    session._finish()
finally:
    child.kill()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    child.wait()
print("over", flush=True)
"""
    )
    for _ in range(3):
        assert cat(mnt / "f") == "hello"
    assert run("umount", str(mnt)).returncode == 0
    code, out, err = server.end()
    assert code == 0, err
    lines = out.splitlines()
    assert "exec 0" in lines
    assert "fork 0" in lines
    assert "over" in lines


def test_a_forked_child_that_exits_leaves_the_mount_alone(serve: Callable[..., Server], mnt: Path) -> None:
    server = serve(
        code=HERE
        + """
import os
import manifuse
from support import Tiny
with manifuse.Session(Tiny(), readers=2, signals=True) as session:
    session.mount(sys.argv[1])
    session._start()
    pid = os.fork()
    if pid == 0:
        try:
            session.stop()
        except ValueError:
            sys.exit(0)  # with all that Python does at its end
    assert os.waitpid(pid, 0)[1] == 0
    print("forked", flush=True)
    session._wait()
    session._finish()
"""
    )
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "forked\n"
    assert cat(mnt / "f") == "hello"
    server.process.terminate()
    code, _, err = server.end()
    assert code == 0, err


# ---- mounts that fail


def test_mount_points_that_are_none(mnt: Path, tmp_path: Path) -> None:
    with Session(Tiny()) as session:
        with pytest.raises(FileNotFoundError) as caught:
            session.mount(tmp_path / "none")
        assert caught.value.filename == str(tmp_path / "none")
        assert str(tmp_path / "none") in str(caught.value)
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError):
            session.mount(tmp_path / "file")
        session.mount(mnt)  # a failure leaves the session as it was
        with pytest.raises(OSError):  # noqa: PT011
            session.mount(mnt)
    assert not is_mounted(mnt)


def test_mount_options(mnt: Path) -> None:
    for options, wrong in (("nonsense", "nonsense"), ("max_read=x", "max_read"), ("fd=5", "fd"), ("ro,huh=1", "huh")):
        with pytest.raises(OSError, match=wrong) as caught, Session(Tiny(), options=options) as session:
            session.mount(mnt)
        assert caught.value.errno == errno.EINVAL
    with manifuse.mount(Tiny(), mnt, options="ro,noatime", fsname="an fs", subtype="kind"):
        line = next(x for x in Path("/proc/self/mounts").read_text().splitlines() if f" {mnt} " in x)
        assert line.startswith("an\\040fs ")
        assert " fuse.kind ro," in line
        assert "Read-only" in run("touch", str(mnt / "new")).stderr


@needs_root
def test_mounting_is_not_permitted(mnt: Path) -> None:
    code = (
        HERE
        + """
import os
from manifuse import Session
from support import Tiny
session = Session(Tiny())
os.environ["PATH"] = "/nowhere"
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    session.mount(sys.argv[1])
except OSError as error:
    print(type(error).__name__, error.errno, error)
"""
    )
    done = python(code, str(mnt), env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PermissionError"), done.stdout
    assert len(done.stdout.split()) > 5, "no words for what is wrong"


@needs_root
def test_no_device(mnt: Path) -> None:
    if run("unshare", "-m", "true").returncode:
        pytest.skip("no mount namespaces")
    code = (
        HERE
        + """
import os
from manifuse import Session
from support import Tiny
session = Session(Tiny())
try:
    session.mount(sys.argv[1])
except OSError as error:
    print(error.errno, error)
"""
    )
    hide = 'mount -t tmpfs none /dev && exec "$@"'
    done = run("unshare", "-m", "sh", "-c", hide, "sh", sys.executable, "-c", code, str(mnt))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{errno.ENODEV} ") or done.stdout.startswith(f"{errno.ENOENT} "), done.stdout
    assert "/dev/fuse" in done.stdout


# ---- notifications


def test_the_kernel_forgets_what_it_is_told_to(mnt: Path) -> None:
    asked: list[str] = []

    def lookup(parent: int, name: str) -> Entry:
        asked.append(name)
        return Entry(2, FILE, 600.0)

    with manifuse.mount(Tiny(lookup=lookup), mnt, readers=2) as session:
        for _ in range(3):
            run("stat", str(mnt / "f"))
        assert asked.count("f") == 1
        session.invalidate_name(1, "f")
        run("stat", str(mnt / "f"))
        assert asked.count("f") == 2
        session.invalidate_node(2)
        session.invalidate_node(2, -1)
        session.invalidate_name(1, "unknown")


# ---- the examples


def test_hello(serve: Callable[..., Server], mnt: Path) -> None:
    server = serve("hello.py", "--readers", "3", str(mnt), env={"MANIFUSE_STATS": "1"})
    assert cat(mnt / "hello.txt") == "Hello World!\n"
    assert run("umount", str(mnt)).returncode == 0
    code, out, err = server.end()
    assert (code, out) == (0, "")
    assert all(json.loads(line) for line in err.splitlines())
    assert len(of_readers(err)) >= 3


def test_null(serve: Callable[..., Server], mnt: Path) -> None:
    server = serve("null.py", "--readers", "2", str(mnt))
    done = python(
        """
        import os, sys
        mnt = sys.argv[1]
        names = os.listdir(mnt)
        assert len(names) == 10001, len(names)
        assert os.stat(mnt + "/big").st_size == 4 << 30
        fd = os.open(mnt + "/f0007", os.O_RDONLY)
        assert os.pread(fd, 100_000, 0) == bytes(65536)
        assert os.pread(fd, 4096, 65000) == bytes(536)
        os.close(fd)
        fd = os.open(mnt + "/big", os.O_RDONLY)
        assert os.pread(fd, 1 << 20, 3 << 30) == bytes(1 << 20)
        """,
        str(mnt),
    )
    assert done.returncode == 0, done.stderr
    server.process.terminate()
    assert server.end()[0] == 0


def tree_hash(top: Path) -> str:
    code = """
        import hashlib, os, sys
        total = hashlib.sha256()
        for folder, dirs, files in os.walk(sys.argv[1]):
            dirs.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                total.update(os.path.relpath(path, sys.argv[1]).encode())
                if os.path.islink(path):
                    total.update(os.readlink(path).encode())
                else:
                    with open(path, "rb") as f:
                        total.update(hashlib.sha256(f.read()).digest())
        print(total.hexdigest())
    """
    done = python(code, str(top), timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_archive(serve: Callable[..., Server], mnt: Path, tmp_path: Path) -> None:
    source = TREE / "bindings" if (TREE / "bindings").is_dir() else Path(manifuse.__file__).parent
    path = tmp_path / "tree.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(source, ".")
    assert hashlib.sha256(path.read_bytes()).digest()
    server = serve("archive.py", str(path), str(mnt), "--readers", "3", env={"MANIFUSE_STATS": "1"})
    assert tree_hash(mnt) == tree_hash(source)
    server.process.send_signal(signal.SIGINT)
    assert server.end()[0] == 0


def test_memfs_with_programs(serve: Callable[..., Server], mnt: Path) -> None:
    server = serve("memfs.py", "--readers", "3", str(mnt))
    script = """
        set -e
        cd "$1"
        mkdir -p a/b/c
        dd if=/dev/urandom of=/tmp/mf-memfs-$$ bs=64k count=40 2>/dev/null
        cp /tmp/mf-memfs-$$ a/file
        cmp a/file /tmp/mf-memfs-$$
        rm /tmp/mf-memfs-$$
        mv a/file a/b/moved
        ln a/b/moved a/hard
        ln -s b/moved a/soft
        test "$(readlink a/soft)" = b/moved
        cmp a/soft a/hard
        test "$(stat -c %h a/hard)" = 2
        chmod 640 a/hard
        test "$(stat -c %a a/b/moved)" = 640
        truncate -s 100 a/hard
        test "$(stat -c %s a/b/moved)" = 100
        printf hello > text
        printf ' world' >> text
        test "$(cat text)" = "hello world"
        touch -d @1000000000.5 text
        test "$(stat -c %Y text)" = 1000000000
        mkfifo fifo
        test -p fifo
        for i in $(seq 200); do : > a/b/c/n$i; done
        test "$(ls a/b/c | wc -l)" = 200
        test "$(find . -type f | wc -l)" = 203
        rm -r a fifo text
        test -z "$(ls)"
        cd /
    """
    done = run("sh", "-c", script, "sh", str(mnt), timeout=50)
    assert done.returncode == 0, done.stderr
    assert run("umount", str(mnt)).returncode == 0
    assert server.end()[0] == 0
