"""Servers as processes with mounts, started and ended without a trace.

The rules: a server runs in a session of its own, like a daemon, unless its row
says otherwise; nothing here touches a mount except in a child process with a
time limit; a mount that does
not go away is aborted through fusectl and detached; only processes that were
started here are signalled.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from servers import CPUS, Server

FUSECTL = Path("/sys/fs/fuse/connections")
ENABLE_URING = Path("/sys/module/fuse/parameters/enable_uring")
PR_SET_PDEATHSIG = 1
CPUCLOCK_SCHED = 2  # what clock_getcpuclockid() makes of a process: nanoseconds, ended threads included
T = TypeVar("T")
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


# Puts a value back when its standard input ends: also when the driver is killed outright.
GUARD = 'cat >/dev/null; echo "$1" >"$2"'

# In a child: may be written to what is written to in the benchmark?
TRY_WRITING = """
import os, sys
d = sys.argv[1]
for op, path, flags in ("seqwrite", "big", os.O_WRONLY), ("create-unlink", "c255", os.O_WRONLY | os.O_CREAT):
    try:
        fd = os.open(f"{d}/{path}", flags, 0o600)
        if op == "seqwrite":
            assert os.pwrite(fd, bytes(4096), 0) == 4096
        os.close(fd)
        if op == "create-unlink":
            os.unlink(f"{d}/{path}")
        print(op)
    except (OSError, AssertionError):
        pass
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


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """The driver may be killed outright; its servers then end by themselves."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def in_group_of_its_own() -> None:
    """Not hit by the driver's ^C, and yet of its session."""
    os.setpgid(0, 0)
    die_with_parent()


def why_no_ring() -> str | None:
    if not ENABLE_URING.exists():
        return "the kernel has no fuse-over-io_uring"
    if not os.access(ENABLE_URING, os.W_OK):
        return f"{ENABLE_URING} cannot be written"
    return None


@contextmanager
def ring_allowed(wanted: bool) -> Iterator[None]:
    """Only what is mounted within gets a ring. The parameter is the whole
    machine's, so it goes back as soon as the mount stands."""
    old = ENABLE_URING.read_text().strip() if wanted else "Y"
    if old == "Y":
        yield
        return
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "sh", old, os.fspath(ENABLE_URING)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        ENABLE_URING.write_text("Y")
        yield
    finally:
        ENABLE_URING.write_text(old)
        assert guard.stdin
        guard.stdin.close()
        guard.wait(5)


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
        self.writes: tuple[str, ...] = ()
        own = server.session == "own"
        self.argv = server.argv(os.fspath(self.path))
        self.mount: Mount | None = None
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=own,
                preexec_fn=die_with_parent if own else in_group_of_its_own,  # noqa: PLW1509,RUF100  (no threads here)
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

    def ask(self, script: str) -> tuple[int, str, str]:
        """Run a Python script that may hang on the mount."""
        child = subprocess.Popen(
            [sys.executable, "-c", script, os.fspath(self.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = child.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            raise ServerError("does not answer") from None
        return child.returncode, out, err

    def first_answer(self) -> None:
        """The handshake is over, and whether there is a ring is decided."""
        status, _, err = self.ask("import os, sys; os.stat(sys.argv[1] + '/.')")
        if status:
            raise ServerError(f"fails: {err.strip().splitlines()[-1]}")

    def check(self) -> None:
        """Is it the filesystem that all the others serve?"""
        status, _, err = self.ask(CHECK)
        if status:
            raise ServerError(f"does not serve `null`: {err.strip().splitlines()[-1]}")
        self.writes = tuple(self.ask(TRY_WRITING)[1].split())
        self.check_transport()

    def check_transport(self) -> None:
        if self.server.transport == "ring" and not self.rings():
            raise ServerError("serves, but over the device: it has no ring")

    def can(self, op: str) -> bool:
        return not op.startswith(("seqwrite", "create")) or op.removesuffix("-direct") in self.writes

    def rings(self) -> int:
        count = 0
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                count += "io_uring" in os.readlink(fd)
            except OSError:
                continue
        return count

    def usage(self) -> Usage:
        # Behind the name, which may hold anything: state is field 3.
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        f = text.rpartition(")")[2].split()
        cpu_s = time.clock_gettime((~self.process.pid << 3) | CPUCLOCK_SCHED)
        return Usage(cpu_s, int(f[21]) * PAGE / 2**20, int(f[17]))

    def memory_mib(self) -> dict[str, float]:
        """What is resident (rss), its share of that, for shared libraries count by their users (pss), and what is
        nobody else's nor a file's (own)."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.M)}
        return {"rss_mib": kib["Rss"] / 1024, "pss_mib": kib["Pss"] / 1024, "own_mib": kib["Anonymous"] / 1024}

    def placement(self) -> str:
        """How many threads there are, which CPUs they are bound to, and how they
        stand in the scheduler."""
        bound: Counter[int] = Counter()
        for cpus in self.of_each_thread(os.sched_getaffinity):
            if len(cpus) == 1:
                bound[next(iter(cpus))] += 1
        classes = self.classes()
        parts = [f"{classes.total()} threads"]
        parts.append("pinned: " + ", ".join(f"{n} to CPU {cpu}" for cpu, n in sorted(bound.items())) if bound
                     else "none pinned")  # fmt: skip
        for number, name in (os.SCHED_IDLE, "SCHED_IDLE"), (os.SCHED_FIFO, "SCHED_FIFO"):
            if classes[number]:
                parts.append(f"{classes[number]} in {name}")
        nice = self.group_nice()
        if nice:
            parts.append(f"session at nice {nice}")
        rings = self.rings()
        if rings:
            parts.append(f"{rings} rings")
        return ", ".join(parts)

    def of_each_thread(self, ask: Callable[[int], T]) -> list[T]:
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                found.append(ask(int(task.name)))
            except ProcessLookupError:
                continue
        return found

    def classes(self) -> Counter[int]:
        """How many threads are in which scheduling class."""
        return Counter(c & ~os.SCHED_RESET_ON_FORK for c in self.of_each_thread(os.sched_getscheduler))

    def group_nice(self) -> int:
        try:
            text = Path(f"/proc/{self.process.pid}/autogroup").read_text()
        except OSError:
            return 0
        return int(text.rpartition("nice")[2] or 0)

    def load_argv(self, op: str, clients: int, seconds: float, warmup: float, name: str = "") -> list[str]:
        argv = [self.load, os.fspath(self.path), "--op", op, "--clients", str(clients),
                "--seconds", f"{seconds:g}", "--warmup", f"{warmup:g}", "--json"]  # fmt: skip
        return [*argv, "--name", name] if name else argv

    def measure(self, op: str, clients: int, seconds: float, warmup: float) -> dict[str, Any]:
        argv = self.load_argv(op, clients, seconds, warmup)
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
        result["clients_cpu_s"] = Machine.now().clients_s - machine.clients_s
        result["rss_mib"] = after.rss_mib
        result["threads"] = after.threads
        return result

    def requests_in_hand(self) -> int:
        """How many requests the kernel has given to the server or will."""
        try:
            return int((FUSECTL / str(self.mount.minor) / "waiting").read_text()) if self.mount else 0
        except (OSError, ValueError):
            return 0

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
