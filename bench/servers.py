"""Which servers are measured: one row each.

A new transport or mode is a new row. Rows that are compared with each other
share a ``layout``: how many readers there are, and where.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

CPUS = os.cpu_count() or 1

READ_OPS = ("stat", "read4k", "lookup-missing", "open-read-close", "seqread")
WRITE_OPS = ("seqwrite", "create-unlink")
OPS = READ_OPS + WRITE_OPS

# What one call of an operation sends to a server with time-outs 0.
REQUESTS = {
    "stat": "LOOKUP + GETATTR (+ FORGET)",
    "read4k": "READ",
    "lookup-missing": "LOOKUP",
    "open-read-close": "LOOKUP + OPEN + READ + RELEASE (+ FORGET)",
    "seqread": "READ by read-ahead",
    "seqwrite": "WRITE",
    "create-unlink": "LOOKUP + CREATE + RELEASE + LOOKUP + UNLINK (+ FORGET)",
}


@dataclass(frozen=True)
class Server:
    name: str
    family: str
    layout: str
    command: str  # {mnt}: the mount point; {n}: one reader per CPU
    note: str = ""
    ops: tuple[str, ...] = READ_OPS  # `null` is read-only
    default: bool = True  # part of a run that names no servers

    def argv(self, mountpoint: str) -> list[str]:
        return [w.format(mnt=mountpoint, n=CPUS) for w in self.command.split()]

    def files(self) -> list[str]:
        """What has to be built before this row can run."""
        return [w for w in self.command.split() if w.startswith(("build/", "bench/", "examples/"))]


RESPONDER = "build/bench/responder {mnt}"
C = "build/examples/null {mnt}"
PYTHON = "build/venv/bin/python examples/python/null.py {mnt}"
GO = "build/examples/go-null {mnt}"
LIBFUSE = "build/bench/libfuse_null {mnt}"
PEER = "build/bench-venv/bin/python bench/peers/"

ONE = " --readers 1 --clone off"
SHARED = " --readers {n} --clone off"
CLONES = " --readers {n} --clone require"

SERVERS = (
    # Our floor: no engine.
    Server("responder-1", "responder", "1", RESPONDER + ONE),
    Server("responder-shared", "responder", "shared", RESPONDER + SHARED),
    Server("responder-clones", "responder", "clones", RESPONDER + CLONES),
    Server("responder-pinned", "responder", "pinned", RESPONDER + " --pin"),
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
    Server("c-1", "manifuse-c", "1", C + ONE),
    Server("c-shared", "manifuse-c", "shared", C + SHARED),
    Server("c-clones", "manifuse-c", "clones", C + CLONES),
    Server("c-auto", "manifuse-c", "auto", C, "as it comes"),
    Server("python-1", "manifuse-python", "1", PYTHON + ONE),
    Server("python-clones", "manifuse-python", "clones", PYTHON + CLONES),
    Server("python-auto", "manifuse-python", "auto", PYTHON, "as it comes"),
    Server("go-1", "manifuse-go", "1", GO + ONE),
    Server("go-clones", "manifuse-go", "clones", GO + CLONES),
    Server("go-auto", "manifuse-go", "auto", GO, "as it comes"),
    # Peers.
    Server("libfuse-1", "libfuse", "1", LIBFUSE + " -s", "libfuse -s"),
    Server("libfuse-shared", "libfuse", "shared", LIBFUSE + SHARED, "pool limited to n threads"),
    Server("libfuse-clones", "libfuse", "clones", LIBFUSE + CLONES, "pool limited, clone_fd"),
    Server("libfuse-auto", "libfuse", "auto", LIBFUSE, "as it comes: pool of up to 10"),
    Server("mfusepy", "mfusepy", "auto", PEER + "mfusepy_null.py {mnt}"),
    Server("mfusepy-nothreads", "mfusepy", "1", PEER + "mfusepy_null.py {mnt} --nothreads"),
    Server("pyfuse3", "pyfuse3", "1", PEER + "pyfuse3_null.py {mnt}"),
    Server("go-fuse", "go-fuse", "auto", "build/bench/gofuse-null {mnt}"),
)  # fmt: skip
