"""Servers as processes with mounts, started and ended without a trace.

The rules: a server runs in a session of its own, like a daemon; nothing here
touches a mount except in a child process with a time limit; a mount that does
not go away is aborted through fusectl and detached; only processes that were
started here are signalled.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import CPUS, Server

FUSECTL = Path("/sys/fs/fuse/connections")
PR_SET_PDEATHSIG = 1
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

# Runs in a child: the mount might hang.
CHECK = """
import os, sys
d = sys.argv[1]
names = set(os.listdir(d))
assert len(names - {".", ".."}) == 10001, f"{len(names)} names instead of 10001"
for name, size in ("f0000", 65536), ("f9999", 65536), ("big", 4 << 30):
    assert os.stat(f"{d}/{name}").st_size == size, f"{name} has a wrong size"
assert not os.path.exists(f"{d}/f10000"), "f10000 exists"
with open(f"{d}/f0000", "rb") as f:
    assert f.read() == bytes(65536), "f0000 has wrong content"
"""


class ServerError(Exception):
    """A server could not be started, or failed under load."""


@dataclass
class Mount:
    minor: int  # names the connection in fusectl
    path: str


def mounts_under(root: Path) -> list[Mount]:
    found = []
    prefix = os.fspath(root)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        path = fields[4].encode().decode("unicode_escape")
        if path == prefix or path.startswith(prefix + "/"):
            found.append(Mount(int(fields[2].partition(":")[2]), path))
    return found


def command(argv: Sequence[str], limit: float) -> int | None:
    """Run a helper; its exit status, or None when it had to be left behind."""
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        child.kill()
        return None


def ensure_fusectl() -> None:
    if FUSECTL.is_dir() and not os.path.ismount(FUSECTL):
        command(["mount", "-t", "fusectl", "none", os.fspath(FUSECTL)], 5)


def abort(mount: Mount) -> None:
    """Fail every request of the connection, so that nobody waits for it."""
    try:
        (FUSECTL / str(mount.minor) / "abort").write_text("1")
    except OSError:
        pass  # gone already


def remove(mount: Mount) -> None:
    abort(mount)
    command(["umount", "-l", mount.path], 5)


def die_with_parent() -> None:
    """The driver may be killed outright; its servers then end by themselves."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Usage:
    cpu_s: float
    rss_mib: float
    threads: int


@dataclass
class Machine:
    """What the whole machine has spent, to tell how much of it others took."""

    wall_s: float
    busy_s: float
    clients_s: float

    @staticmethod
    def now() -> Machine:
        # user nice system idle iowait irq softirq steal
        f = [int(w) for w in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Machine(
            time.monotonic(),
            (sum(f) - f[3] - f[4]) / TICK,
            children.ru_utime + children.ru_stime,
        )

    def others_since(self, server_s: float) -> float:
        """Their share of all CPUs, 0 to 1."""
        now = Machine.now()
        mine = server_s + now.clients_s - self.clients_s
        cpu_s = (now.wall_s - self.wall_s) * CPUS
        return max(0.0, (now.busy_s - self.busy_s - mine) / cpu_s)


class Running:
    """One server, mounted."""

    def __init__(self, server: Server, root: Path, load: str) -> None:
        self.server = server
        self.load = load
        self.path = root / server.name
        self.path.mkdir(parents=True, exist_ok=True)
        self.log = root.parent / f"{server.name}.log"
        self.argv = server.argv(os.fspath(self.path))
        self.mount: Mount | None = None
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509,RUF100  (no threads here)
            )

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def wait_mounted(self, limit: float = 20) -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            found = mounts_under(self.path)
            if found:
                self.mount = found[-1]
                break
            if self.process.poll() is not None:
                raise ServerError(f"ended with {self.process.returncode}: {self.last_words()}")
            time.sleep(0.02)
        else:
            raise ServerError(f"did not mount within {limit:g} s: {self.last_words()}")
        self.check()

    def check(self) -> None:
        """Is it the filesystem that all the others serve?"""
        child = subprocess.Popen(
            [sys.executable, "-c", CHECK, os.fspath(self.path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, err = child.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            raise ServerError("does not answer") from None
        if child.returncode:
            raise ServerError(f"does not serve `null`: {err.strip().splitlines()[-1]}")

    def usage(self) -> Usage:
        # Behind the name, which may hold anything: state is field 3.
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        f = text.rpartition(")")[2].split()
        return Usage((int(f[11]) + int(f[12])) / TICK, int(f[21]) * PAGE / 2**20, int(f[17]))

    def placement(self) -> str:
        """How many threads there are, and which CPUs they are bound to."""
        bound = []
        threads = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                cpus = os.sched_getaffinity(int(task.name))
            except ProcessLookupError:
                continue
            threads += 1
            if len(cpus) == 1:
                bound.append(str(next(iter(cpus))))
        pinned = f"{len(bound)} pinned to CPU {','.join(sorted(bound))}" if bound else "none pinned"
        return f"{threads} threads, {pinned}"

    def measure(self, op: str, clients: int, seconds: float, warmup: float) -> dict[str, Any]:
        argv = [self.load, os.fspath(self.path), "--op", op, "--clients", str(clients),
                "--seconds", f"{seconds:g}", "--warmup", f"{warmup:g}", "--json"]  # fmt: skip
        before, machine = self.usage(), Machine.now()
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            # load has a deadline of its own, ten seconds after the planned end.
            out, err = child.communicate(timeout=seconds + warmup + 15)
        except BaseException as e:
            child.kill()
            if isinstance(e, subprocess.TimeoutExpired):
                raise ServerError(f"{op}: the load generator did not end") from None
            raise
        if child.returncode:
            raise ServerError(err.strip().splitlines()[0] if err else f"{op}: load failed")
        after = self.usage()
        result: dict[str, Any] = json.loads(out)
        result["server_cpu_s"] = after.cpu_s - before.cpu_s
        result["others"] = machine.others_since(after.cpu_s - before.cpu_s)
        result["rss_mib"] = after.rss_mib
        result["threads"] = after.threads
        return result

    def give_up(self) -> None:
        """Free the clients that wait for it: they cannot be killed."""
        if self.mount:
            abort(self.mount)

    def stop(self) -> str:
        """End it; "clean", or what had to be done."""
        how = "clean"
        if not self.mount:
            self.process.terminate()
        elif command(["umount", os.fspath(self.path)], 5) != 0 and self.process.poll() is None:
            how = "its mount was busy"
            self.process.terminate()
        status = self.wait(3)
        if status is None and self.mount:
            # Copies of the mount in other mount namespaces keep the connection
            # alive; that is not the server's fault, so let it end by itself.
            how = "still connected after the unmount (a copy of the mount elsewhere?)"
            remove(self.mount)
            self.process.terminate()
            status = self.wait(3)
        if status is None:
            how = "needed SIGKILL"
            self.kill()
        elif status != 0 and how == "clean":
            how = f"exit status {status}: {self.last_words()}"
        self.sweep()
        return how

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # its session's first group
        except ProcessLookupError:
            pass
        self.wait(5)

    def wait(self, limit: float) -> int | None:
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            return None

    def sweep(self) -> None:
        for mount in mounts_under(self.path):
            remove(mount)
        try:
            self.path.rmdir()
        except OSError:
            pass


def sweep_leftovers(root: Path) -> None:
    """Mounts of a run that was killed outright."""
    for mount in mounts_under(root):
        remove(mount)
    if not mounts_under(root):
        shutil.rmtree(root, ignore_errors=True)
