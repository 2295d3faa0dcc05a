"""What is required of manifuse, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

from servers import CALLS, OPS, STREAMS

NOISE = 0.95  # never slower, by more than this

# For each number of clients; a plain number holds for all.
Minimum = Union[float, Mapping[int, float]]

DEVICE_PYTHON = ("python-1", "python-clones", "python-auto")
DEVICE_GO = ("go-1", "go-clones", "go-auto")
DEVICE_C = ("c-1", "c-shared", "c-clones", "c-auto")
LIBFUSE_DEVICE = ("libfuse-1", "libfuse-shared", "libfuse-clones", "libfuse-auto")
BARE_DEVICE = ("responder-1", "responder-shared", "responder-clones", "responder-pinned", "responder-yield")
BARE_RING = ("responder-ring*",)
PYTHON_PEERS = ("mfusepy*", "pyfuse3")
GO_PEERS = ("go-fuse", "jacobsa")


@dataclass(frozen=True)
class Requirement:
    """The best of `ours` against the best of `theirs`, in operations per second
    (streams: bytes)."""

    about: str
    transport: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    minimum: Minimum
    ops: tuple[str, ...] = CALLS
    session: str = "own"
    cheaper: bool = False  # and no more of the server's CPU time per GiB
    bare: tuple[str, ...] = ()  # loops without engine: as far as any server can get here

    def at(self, clients: int) -> float | None:
        if isinstance(self.minimum, Mapping):
            return self.minimum.get(clients)
        return self.minimum


REQUIREMENTS = (
    # Over the device.
    Requirement("C beside a bare loop, one reader", "device", ("c-1",), ("responder-1",), 0.95),
    Requirement("C beside a bare loop, a shared descriptor", "device", ("c-shared",), ("responder-shared",), 0.95),
    Requirement("C beside a bare loop, clones", "device", ("c-clones",), ("responder-clones",), 0.95),
    Requirement("C as it comes beside the best bare loop", "device", ("c-auto",), BARE_DEVICE, 0.95),
    Requirement("C beside libfuse's best mode", "device", DEVICE_C, LIBFUSE_DEVICE, 1.0, bare=BARE_DEVICE),
    Requirement("Python beside its best peer", "device", DEVICE_PYTHON, PYTHON_PEERS, {1: 1.3, 8: 1.0},
                bare=BARE_DEVICE),
    Requirement("Go beside go-fuse", "device", DEVICE_GO, ("go-fuse",), 1.3, bare=BARE_DEVICE),
    # Over the ring.
    Requirement("C beside the best bare ring", "ring", ("c-ring",), BARE_RING, 0.97),
    Requirement("C beside libfuse's ring", "ring", ("c-ring",), ("libfuse-ring*",), {1: 2.5, 8: 1.3},
                bare=BARE_RING),
    Requirement("C beside libfuse's ring, in the clients' session", "ring", ("c-ring",), ("libfuse-ring*",), 1.0,
                session="shared", bare=BARE_RING),
    Requirement("Go beside go-fuse", "ring", ("go-ring",), ("go-fuse",), 3.0, bare=BARE_RING),
    Requirement("Go beside our C", "ring", ("go-ring",), ("c-ring",), 0.9),
    Requirement("Python beside its best peer", "ring", ("python-ring",), PYTHON_PEERS, {1: 3.0, 2: 2.3, 8: 1.8},
                bare=BARE_RING),
    Requirement("Python beside our C", "ring", ("python-ring",), ("c-ring",), 0.75),
    Requirement("Python beside C on libfuse's best mode on the device", "ring", ("python-ring",), LIBFUSE_DEVICE, 1.0,
                bare=BARE_RING),
    # Streams: the better of our transports.
    Requirement("C streams beside libfuse", "either", (*DEVICE_C, "c-ring"), ("libfuse-*",), 1.0, STREAMS,
                cheaper=True),
    Requirement("Python streams beside its best peer", "either", (*DEVICE_PYTHON, "python-ring"), PYTHON_PEERS, 1.0,
                STREAMS, cheaper=True),
    Requirement("Go streams beside its best peer", "either", (*DEVICE_GO, "go-ring"), GO_PEERS, 1.0, STREAMS,
                cheaper=True),
    # More readers than are needed.
    Requirement("Python with 8 readers beside one", "device", ("python-8",), ("python-1",), NOISE, OPS),
    Requirement("Python with 8 readers per ring beside one", "ring", ("python-ring-8",), ("python-ring-1",), NOISE,
                OPS),
    Requirement("Go with 8 readers beside one", "device", ("go-8",), ("go-1",), NOISE, OPS),
    Requirement("Go with 8 readers per ring beside one", "ring", ("go-ring-8",), ("go-ring-1",), NOISE, OPS),
)  # fmt: skip
