"""Which servers are measured: one row each; and which of them in which suite.

A new transport or mode is a new row. Rows that are compared with each other
share a ``layout``: how many readers there are, and where.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

CPUS = os.cpu_count() or 1

CALLS = ("stat", "lookup-missing", "open-read-close", "read4k")
STREAMS = ("seqread", "seqread-direct", "seqwrite", "seqwrite-direct")
CHANGES = ("create-unlink",)
OPS = CALLS + STREAMS + CHANGES

# What one call of an operation sends to a server with time-outs 0.
REQUESTS = {
    "stat": "LOOKUP + GETATTR (+ FORGET)",
    "lookup-missing": "LOOKUP",
    "open-read-close": "LOOKUP + OPEN + READ + RELEASE (+ FORGET)",
    "read4k": "READ",
    "seqread": "1 MiB calls, buffered: READ by read-ahead",
    "seqread-direct": "1 MiB calls with O_DIRECT: READ",
    "seqwrite": "1 MiB calls, buffered and written through: WRITE",
    "seqwrite-direct": "1 MiB calls with O_DIRECT: WRITE",
    "create-unlink": "LOOKUP + CREATE + RELEASE + LOOKUP + UNLINK (+ FORGET)",
}
SESSIONS = ("own", "shared")


@dataclass(frozen=True)
class Server:
    name: str
    family: str
    layout: str
    command: str  # {mnt}: the mount point; {n}: one reader per CPU
    note: str = ""
    transport: str = "device"  # or "ring": needs fuse's parameter enable_uring
    session: str = "own"  # by setsid, as daemons do; "shared": the clients'
    default: bool = True  # part of a run that names no servers
    prefix: tuple[str, ...] = ()  # before the command, and ends by exec of it

    def argv(self, mountpoint: str) -> list[str]:
        return [*self.prefix, *(w.format(mnt=mountpoint, n=CPUS) for w in self.command.split())]

    def files(self) -> list[str]:
        """What has to be built before this row can run."""
        return [w for w in self.command.split() if w.startswith(("build/", "bench/", "examples/"))]

    def in_session(self, session: str) -> Server:
        name = self.name if session == "own" else f"{self.name}@{session}"
        return replace(self, name=name, session=session)


RESPONDER = "build/bench/responder {mnt}"
RING_RESPONDER = "build/bench/ring_responder {mnt}"
C = "build/examples/null {mnt}"
PYTHON = "build/venv/bin/python examples/python/null.py {mnt}"
GO = "build/examples/go-null {mnt}"
LIBFUSE = "build/bench/libfuse_null {mnt}"
PEER = "build/bench-venv/bin/python bench/peers/"

ONE = " --readers 1 --clone off"
SHARED = " --readers {n} --clone off"
CLONES = " --readers {n} --clone require"
DEVICE = " --uring off"
RING = " --uring require"
FREE = " --placement free"  # scheduled plainly, on any CPU
PINNED = " --placement pinned"  # scheduled plainly, on the CPU of the queue


def on_ring(name: str, family: str, layout: str, command: str, note: str = "", default: bool = True) -> Server:
    return Server(name, family, layout, command, note, transport="ring", default=default)


SERVERS = (
    # Our floor: no engine.
    Server("responder-1", "responder", "1", RESPONDER + ONE),
    Server("responder-shared", "responder", "shared", RESPONDER + SHARED),
    Server("responder-clones", "responder", "clones", RESPONDER + CLONES),
    Server("responder-pinned", "responder", "pinned", RESPONDER + " --pin"),
    Server("responder-yield", "responder", "pinned, yielding", RESPONDER + " --pin --yield"),
    on_ring("responder-ring", "responder", "ring", RING_RESPONDER),
    on_ring("responder-ring-yield", "responder", "ring", RING_RESPONDER + " --yield"),
    on_ring("responder-ring-plain", "responder", "ring", RING_RESPONDER + " --plain"),
    on_ring("responder-ring-plain-yield", "responder", "ring", RING_RESPONDER + " --plain --yield"),
    # Other placements, to choose the engine's defaults by.
    Server("responder-pinned-shared", "responder", "pinned-shared",
           RESPONDER + " --pin --clone off", default=False),
    Server("responder-pinned-1", "responder", "pinned-1",
           RESPONDER + " --pin --readers 1", default=False),
    Server("responder-4", "responder", "4 clones",
           RESPONDER + " --readers 4 --clone require", default=False),
    Server("responder-8", "responder", "8 clones",
           RESPONDER + " --readers 8 --clone require", default=False),
    Server("responder-pinned-4", "responder", "4 pinned",
           RESPONDER + " --pin --readers 4", default=False),
    # manifuse.
    Server("c-1", "manifuse-c", "1", C + DEVICE + ONE),
    Server("c-shared", "manifuse-c", "shared", C + DEVICE + SHARED),
    Server("c-clones", "manifuse-c", "clones", C + DEVICE + CLONES),
    Server("c-auto", "manifuse-c", "auto", C + DEVICE, "as it comes"),
    Server("c-plain", "manifuse-c", "plain", C + DEVICE + FREE, default=False),
    on_ring("c-ring", "manifuse-c", "auto", C + RING, "as it comes"),
    on_ring("c-ring-plain", "manifuse-c", "plain", C + RING + PINNED, default=False),
    Server("python-1", "manifuse-python", "1", PYTHON + DEVICE + ONE),
    Server("python-clones", "manifuse-python", "clones", PYTHON + DEVICE + CLONES),
    Server("python-auto", "manifuse-python", "auto", PYTHON + DEVICE, "as it comes"),
    on_ring("python-ring", "manifuse-python", "auto", PYTHON + RING, "as it comes"),
    on_ring("python-ring-plain", "manifuse-python", "plain", PYTHON + RING + PINNED, default=False),
    Server("python-8", "manifuse-python", "8 clones", PYTHON + DEVICE + " --readers 8"),
    on_ring("python-ring-1", "manifuse-python", "1 per ring", PYTHON + RING + " --readers 1"),
    on_ring("python-ring-8", "manifuse-python", "8 per ring", PYTHON + RING + " --readers 8"),
    Server("go-1", "manifuse-go", "1", GO + DEVICE + ONE),
    Server("go-clones", "manifuse-go", "clones", GO + DEVICE + CLONES),
    Server("go-auto", "manifuse-go", "auto", GO + DEVICE, "as it comes"),
    on_ring("go-ring", "manifuse-go", "auto", GO + RING, "as it comes"),
    on_ring("go-ring-plain", "manifuse-go", "plain", GO + RING + PINNED, default=False),
    Server("go-8", "manifuse-go", "8 clones", GO + DEVICE + " --readers 8"),
    on_ring("go-ring-1", "manifuse-go", "1 per ring", GO + RING + " --readers 1"),
    on_ring("go-ring-8", "manifuse-go", "8 per ring", GO + RING + " --readers 8"),
    # Peers.
    Server("libfuse-1", "libfuse", "1", LIBFUSE + " -s", "libfuse -s"),
    Server("libfuse-shared", "libfuse", "shared", LIBFUSE + SHARED, "pool limited to n threads"),
    Server("libfuse-clones", "libfuse", "clones", LIBFUSE + CLONES, "pool limited, clone_fd"),
    Server("libfuse-auto", "libfuse", "auto", LIBFUSE, "as it comes: pool of up to 10"),
    Server("mfusepy", "mfusepy", "auto", PEER + "mfusepy_null.py {mnt}"),
    Server("mfusepy-nothreads", "mfusepy", "1", PEER + "mfusepy_null.py {mnt} --nothreads"),
    Server("pyfuse3", "pyfuse3", "1", PEER + "pyfuse3_null.py {mnt}"),
    Server("go-fuse", "go-fuse", "auto", "build/bench/gofuse-null {mnt}"),
    Server("jacobsa", "jacobsa", "auto", "build/bench/jacobsa-null {mnt}"),
)  # fmt: skip


def extra(text: str) -> Server:
    """NAME=COMMAND: a server from elsewhere. NAME's last part says how it is
    reached, the rest whose it is: libfuse-ring is family libfuse, on a ring."""
    name, _, command = text.partition("=")
    if not name or "{mnt}" not in command:
        raise ValueError("NAME=COMMAND, and {mnt} in COMMAND for the mount point")
    family, _, layout = name.partition("-")
    transport = "ring" if "ring" in layout.split("-") else "device"
    return Server(name, family, layout or "auto", command, "given by --extra", transport)


def chosen(servers: Iterable[Server], patterns: Iterable[str]) -> list[Server]:
    wanted = list(patterns)
    return [s for s in servers if any(fnmatch.fnmatchcase(s.name, p) for p in wanted)]


# ---- suites ----


@dataclass(frozen=True)
class Part:
    """Some rows, in each of some operations, with each of some numbers of clients."""

    rows: tuple[str, ...]
    ops: tuple[str, ...]
    clients: tuple[int, ...]
    sessions: tuple[str, ...] = ("own",)


@dataclass(frozen=True)
class Suite:
    parts: tuple[Part, ...]
    rounds: int
    minutes: float  # of these
    again: int = 0  # further rounds, of what the first leave in doubt


OURS = ("c-auto", "c-ring", "python-auto", "python-ring", "go-auto", "go-ring")
FLOOR = ("responder-pinned", "responder-yield", "responder-ring-yield", "responder-ring-plain-yield")
PEERS = ("libfuse-1", "libfuse-clones", "mfusepy", "mfusepy-nothreads", "pyfuse3", "go-fuse", "jacobsa")
EXTRA = "+"  # every row of --extra
MAIN = (*FLOOR, *OURS, *PEERS, EXTRA)
STREAMERS = ("responder-pinned", "responder-ring-yield", *OURS, *PEERS, EXTRA)
LAYOUTS = ("responder-[1cs]*", "c-[1cs]*", "python-[1c]*", "go-[1c]*", "libfuse-[as]*")
RINGS = ("responder-ring*", "*-ring", EXTRA)
READERS = ("python-[18]", "python-ring-[18]", "go-[18]", "go-ring-[18]")

SUITES = {
    "quick": Suite((Part(MAIN, CALLS, (1, 8)),), rounds=5, minutes=4),
    "streams": Suite((Part(STREAMERS, STREAMS, (1, 8)),), rounds=5, minutes=5),
    "full": Suite(
        (
            Part(MAIN, CALLS, (1, 2, 8, 32)),
            Part(LAYOUTS, ("stat", "read4k"), (1, 8)),
            Part(STREAMERS, (*STREAMS, *CHANGES), (1, 2, 8, 32)),
            Part(("c-ring", "responder-ring", "responder-ring-plain", EXTRA), CALLS, (1, 8), ("shared",)),
            Part(READERS, OPS, (1, 8)),
        ),
        rounds=7,
        minutes=34,
        again=7,
    ),
    "everything": Suite(
        (
            Part(("*", EXTRA), OPS, (1, 2, 8, 32)),
            Part(RINGS, OPS, (1, 2, 8, 32), ("shared",)),
        ),
        rounds=7,
        minutes=120,
    ),
}

Cells = dict[tuple[str, int], list[str]]  # (op, clients): names of rows


def plan(parts: Sequence[Part], servers: Sequence[Server], extras: Sequence[Server]) -> tuple[list[Server], Cells]:
    """The rows that the parts need, and what is measured with each."""
    rows: dict[str, Server] = {}
    cells: Cells = {}
    for part in parts:
        found = chosen(servers, part.rows) + [s for s in extras if EXTRA in part.rows or chosen([s], part.rows)]
        for session in part.sessions:
            for server in (s.in_session(session) for s in found):
                rows[server.name] = server
                for op in part.ops:
                    for n in part.clients:
                        names = cells.setdefault((op, n), [])
                        if server.name not in names:
                            names.append(server.name)
    order = {op: i for i, op in enumerate(OPS)}
    return list(rows.values()), {k: cells[k] for k in sorted(cells, key=lambda k: (order[k[0]], k[1]))}
