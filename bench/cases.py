"""How a server stands in the scheduler's eyes before it has done anything.

A ring's readers step back for their clients and have to come forward again when
the machine is busy; what they may do for that depends on the CPU cgroup that
the server is in, on its capabilities and on its limits. A case is one such
standing. It is a prefix to the server's command, so that the process which is
started becomes the server, and a check that the server really has it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from running import ServerError, command
from servers import Server

GROUP = "manifuse-bench-light"
CAP_SYS_NICE = 23
WITHOUT_NICE = ("setpriv", "--bounding-set", "-sys_nice", "--inh-caps", "-sys_nice", "--")
ENTER = 'echo 0 >"$0/cgroup.procs" && exec "$@"'  # for sh -c, with the group as $0


class NotHere(Exception):
    """The machine does not permit a case."""


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    prefix: tuple[str, ...] = ()
    group: str = ""  # the CPU cgroup's name
    nice_limit: int | None = None  # and no CAP_SYS_NICE

    def patience(self, hogs: str) -> float:
        """How much longer a sample has to be. With so little weight calls are few while others compute."""
        return 3.0 if self.group and hogs != "none" else 1.0

    def server(self, server: Server) -> Server:
        return replace(server, name=f"{server.name}@{self.name}", note=self.what, prefix=self.prefix)

    def check(self, pid: int) -> None:
        if self.group and not any(line.endswith("/" + self.group) for line in lines(f"/proc/{pid}/cgroup")):
            raise ServerError(f"is not in the cgroup {self.group}")
        if self.nice_limit is None:
            return
        for line in lines(f"/proc/{pid}/status"):
            which, _, bits = line.partition(":")
            if which.startswith("Cap") and int(bits, 16) >> CAP_SYS_NICE & 1:
                raise ServerError(f"has CAP_SYS_NICE in {which}")
        wanted = {resource.RLIMIT_NICE: self.nice_limit, resource.RLIMIT_RTPRIO: 0}
        if any(resource.prlimit(pid, which) != (limit, limit) for which, limit in wanted.items()):
            raise ServerError("has other limits than it was given")

    def permitted(self) -> Case:
        """Itself, if a program can be started like this."""
        if self.prefix:
            try:
                subprocess.run([*self.prefix, "true"], check=True, capture_output=True, text=True, timeout=10)
            except subprocess.CalledProcessError as e:
                raise NotHere((e.stderr.strip() or "no message").splitlines()[-1]) from None
            except (OSError, subprocess.TimeoutExpired) as e:
                raise NotHere(str(e)) from None
        return self


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def without_nice(limit: int) -> Case:
    """RLIMIT_NICE 20 lets a thread leave SCHED_IDLE for nice 0; with less it cannot."""
    limits = ("prlimit", f"--nice={limit}:{limit}", "--rtprio=0:0")
    what = f"without CAP_SYS_NICE, RLIMIT_NICE {limit}"
    return Case(f"nice{limit}", what, (*limits, *WITHOUT_NICE), nice_limit=limit)


# ---- a CPU cgroup of little weight ----


@dataclass(frozen=True)
class Hierarchy:
    path: Path
    unified: bool


def hierarchies() -> list[Hierarchy]:
    """Where the CPU controller can be had."""
    found = []
    for line in lines("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        path = Path(left.split()[4].encode().decode("unicode_escape"))
        if (kind == "cgroup2" and has_cpu(path / "cgroup.controllers")) or (
            kind == "cgroup" and "cpu" in options.split(",")
        ):
            found.append(Hierarchy(path, kind == "cgroup2"))
    return found


def has_cpu(controllers: Path) -> bool:
    try:
        return "cpu" in controllers.read_text().split()
    except OSError:
        return False


def mounted(point: Path, undo: ExitStack) -> Hierarchy:
    """A hierarchy of our own, where the machine shows none."""
    point.mkdir(parents=True, exist_ok=True)
    undo.callback(point.rmdir)
    for unified, kind in (True, ["cgroup2"]), (False, ["cgroup", "-o", "cpu"]):
        if command(["mount", "-t", *kind, "none", os.fspath(point)], 5) != 0:
            continue
        if not unified or has_cpu(point / "cgroup.controllers"):
            undo.callback(command, ["umount", os.fspath(point)], 5)
            return Hierarchy(point, unified)
        command(["umount", os.fspath(point)], 5)
    raise NotHere("no CPU controller of cgroups is mounted, and none can be")


def release(control: Path) -> None:
    try:
        control.write_text("-cpu")
    except OSError:
        pass  # somebody else uses it by now


def remove_group(group: Path) -> None:
    for _ in range(100):  # what has just ended may still count
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
    print(f"bench: {group} is still in use", file=sys.stderr)


@contextmanager
def light_group(point: Path) -> Iterator[Case]:
    """The least weight that there is: cpu.weight 1, or cpu.shares 2 in a hierarchy of version 1."""
    with ExitStack() as undo:
        try:
            found = hierarchies()
            where = found[0] if found else mounted(point, undo)
            group = where.path / GROUP
            control = where.path / "cgroup.subtree_control"
            if where.unified and not has_cpu(control):
                control.write_text("+cpu")
                undo.callback(release, control)
            remove_group(group)  # of a run that was killed outright
            group.mkdir()
            undo.callback(remove_group, group)
            setting, value = ("cpu.weight", "1") if where.unified else ("cpu.shares", "2")
            (group / setting).write_text(value)
        except OSError as e:
            raise NotHere(str(e)) from None
        prefix = ("sh", "-c", ENTER, os.fspath(group))
        yield Case("light", f"in a CPU cgroup with {setting} {value}", prefix, GROUP)


def all_cases(point: Path, undo: ExitStack) -> tuple[list[Case], list[tuple[str, str]]]:
    """What can be had here, and what cannot, and why."""
    found, missing = [Case("plain", "root, in a session of its own")], []
    try:
        found.append(undo.enter_context(light_group(point)).permitted())
    except NotHere as e:
        missing.append(("in a CPU cgroup with cpu.weight 1", str(e)))
    for limit in 20, 0:
        case = without_nice(limit)
        try:
            found.append(case.permitted())
        except NotHere as e:
            missing.append((case.what, str(e)))
    return found, missing
