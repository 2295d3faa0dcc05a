# SPDX-License-Identifier: MIT
"""What all tests share: time limits, mount points that are gone afterwards, servers in processes of their own."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from manifuse import InodeFS
from manifuse.testing import Client

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "python"))

SOFT = 60  # seconds for one test
HARD = 90  # then the process ends with all stacks shown: a test that cannot be interrupted


class Overdue(BaseException):
    """A test took too long."""


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    def overdue(signum: int, frame: object) -> None:
        faulthandler.dump_traceback()
        raise Overdue(f"the test took longer than {SOFT} s")

    previous = signal.signal(signal.SIGALRM, overdue)
    faulthandler.dump_traceback_later(HARD, exit=True)
    signal.alarm(SOFT)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)


def _why_no_mount() -> str:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    os.close(fd)
    if os.geteuid() != 0:
        return "" if _has("fusermount3") else "not root, and no fusermount3"
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False, timeout=10)
    return "" if probe.returncode == 0 else "mounting is not permitted"


def _has(program: str) -> bool:
    return any(os.access(os.path.join(d, program), os.X_OK) for d in os.environ.get("PATH", "").split(os.pathsep))


NO_MOUNT = _why_no_mount()
needs_fuse = pytest.mark.skipif(bool(NO_MOUNT), reason=f"no real mounts: {NO_MOUNT}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"waited {seconds} s for {what}")


def is_mounted(path: Path) -> bool:
    with open("/proc/self/mounts", "rb") as mounts:
        return any(line.split(b" ")[1] == os.fsencode(path) for line in mounts)


def abort_connections_of(path: Path) -> None:
    """Lazily unmount what a failed test left; a server that is gone ends its connection with its descriptors."""
    while is_mounted(path):
        if subprocess.run(["umount", "-l", str(path)], check=False, timeout=20, capture_output=True).returncode:
            subprocess.run(["fusermount3", "-u", "-z", str(path)], check=False, timeout=20, capture_output=True)
            break


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount at, with nothing mounted afterwards."""
    path = tmp_path / "mnt"
    path.mkdir()
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        with contextlib.suppress(PermissionError):
            parent.chmod(0o755)
    yield path
    left = is_mounted(path)
    abort_connections_of(path)
    assert not left, "a mount was left behind"


@pytest.fixture(params=["device", "ring"])
def transport(request: pytest.FixtureRequest) -> str:
    """How requests come from the virtual kernel."""
    return str(request.param)


Connect = Callable[..., Client]


@pytest.fixture
def connect(transport: str) -> Connect:
    """What makes a Client, on each transport in turn; queues are those of the ring."""

    def make(fs: InodeFS, readers: int = 1, *, queues: int = 2, **options: Any) -> Client:
        if transport == "ring":
            options.update(queues=queues, uring="require")
        client = Client(fs, readers, **options)
        assert client.session.info().transport == ("uring" if transport == "ring" else "memory")
        return client

    return make


def run(*argv: str, timeout: float = 20.0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A client: a process of its own, so that the test's process never waits for a mount that it serves."""
    return subprocess.run(list(argv), capture_output=True, text=True, timeout=timeout, check=False, **kwargs)


def python(code: str, *args: str, timeout: float = 20.0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A client written in Python."""
    return run(sys.executable, "-c", textwrap.dedent(code), *args, timeout=timeout, **kwargs)


class Server:
    """A filesystem in a process, and process group, of its own."""

    def __init__(self, argv: list[str], mnt: Path, **kwargs: Any) -> None:
        self.mnt = mnt
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path)]), "PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**env, **kwargs.pop("env", {})},
            **kwargs,
        )

    def wait_mounted(self) -> None:
        def mounted() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.process.communicate()}")
            return is_mounted(self.mnt)

        wait_for(mounted, "the mount")

    def end(self, seconds: float = 30.0) -> tuple[int, str, str]:
        """Wait for the end: exit status, output, errors."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                pass
        abort_connections_of(self.mnt)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=15)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def serve(mnt: Path) -> Iterator[Callable[..., Server]]:
    """serve("hello.py", "--readers", "2") or serve(code="..."): a server at `mnt`, mounted when this returns."""
    servers: list[Server] = []

    def start(*args: str, code: Optional[str] = None, mounted: bool = True, **kwargs: Any) -> Server:
        if code is None:
            argv = [sys.executable, str(ROOT / "examples" / "python" / args[0]), *args[1:]]
            if str(mnt) not in args:
                argv.append(str(mnt))
        else:
            argv = [sys.executable, "-c", textwrap.dedent(code), str(mnt), *args]
        server = Server(argv, mnt, **kwargs)
        servers.append(server)
        if mounted:
            server.wait_mounted()
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.close()
