"""The filesystem ``null`` on mfusepy (ctypes over libfuse 3's high-level API).

    mfusepy_null.py MOUNTPOINT [--nothreads | --threads N] [--slow]

--slow: the files are those of bench/slow_fs.h whose handlers sleep.
What the library does not permit: its high-level layer works with paths, keeps
its own table of nodes (so it answers OPENDIR itself; ENOSYS cannot be latched)
and calls ``getattr`` for each LOOKUP.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import functools
import itertools
import os
import stat
import sys
import time
from typing import Any

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy  # noqa: E402,RUF100  (it chooses the library when it is imported)

FILES = 10000
FILE_SIZE = 64 << 10
BIG_SIZE = 4 << 30
MAX_WRITE = 1 << 20
PR_SET_TIMERSLACK = 29
ENDED_BY_SIGNAL = 8  # what libfuse's main function returns after a signal

ROOT = {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
FILE = {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": FILE_SIZE}
BIG = {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": BIG_SIZE}
MADE = {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": 0}
MAY_BE_MADE = frozenset(f"/c{i:03}" for i in range(256))


@functools.lru_cache(maxsize=64)
def zeros(size: int) -> bytes:
    return bytes(size)


class Null(mfusepy.Operations):
    """Nothing beyond what is measured, so libfuse answers the rest with ENOSYS."""

    use_ns = True

    def __init__(self) -> None:
        self.made: set[str] = set()

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        if conn_info is not None:
            conn_info.max_write = MAX_WRITE

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        if len(path) == 6 and path[1] == "f" and path[2:].isdigit():
            return FILE
        if path == "/":
            return ROOT
        if path == "/big":
            return BIG
        if path in self.made:
            return MADE
        raise mfusepy.FuseOSError(errno.ENOENT)

    def open(self, path: str, fi: Any) -> int:
        if fi.flags & os.O_ACCMODE != os.O_RDONLY and path[1] == "f":
            raise mfusepy.FuseOSError(errno.EROFS)
        if path == "/big":
            fi.keep_cache = 1
            fi.fh = 1
        else:
            fi.direct_io = 1
        return 0

    def read(self, path: str, size: int, offset: int, fi: Any) -> bytes:
        end = BIG_SIZE if fi.fh else FILE_SIZE
        return zeros(max(0, min(size, end - offset)))

    def write(self, path: str, data: bytes, offset: int, fi: Any) -> int:
        return len(data)

    def create(self, path: str, mode: int, fi: Any) -> int:
        if path not in MAY_BE_MADE:
            raise mfusepy.FuseOSError(errno.EROFS)
        self.made.add(path)
        fi.direct_io = 1
        return 0

    def unlink(self, path: str) -> int:
        if path not in self.made:
            raise mfusepy.FuseOSError(errno.ENOENT if path in MAY_BE_MADE else errno.EROFS)
        self.made.remove(path)
        return 0

    def readdir(self, path: str, fh: Any) -> list[str]:
        return [".", "..", *(f"f{i:04}" for i in range(FILES)), "big"]


class Slow(Null):
    def __init__(self) -> None:
        super().__init__()
        self.count = itertools.count()

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        if path in ("/fast", "/sleep1ms", "/sleep10ms-1in100"):
            return FILE
        if path == "/":
            return ROOT
        raise mfusepy.FuseOSError(errno.ENOENT)

    def read(self, path: str, size: int, offset: int, fi: Any) -> bytes:
        if path == "/sleep1ms":
            time.sleep(0.001)
        elif path == "/sleep10ms-1in100" and next(self.count) % 100 == 0:
            time.sleep(0.01)
        return super().read(path, size, offset, fi)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--nothreads", action="store_true")
    parser.add_argument("--threads", type=int, help="at most; libfuse's default is 10")
    parser.add_argument("--slow", action="store_true")
    args = parser.parse_args()
    if args.slow:
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # as in bench/slow_fs.h
    limit = {} if args.threads is None else {"max_threads": args.threads}
    try:
        mfusepy.FUSE(
            Slow() if args.slow else Null(),
            args.mountpoint,
            raw_fi=True,
            foreground=True,
            nothreads=args.nothreads,
            allow_other=True,
            hard_remove=True,  # else unlink of a file whose RELEASE is on its way becomes a rename
            entry_timeout=0,
            attr_timeout=0,
            negative_timeout=0,
            **limit,
        )
    except RuntimeError as e:
        if e.args != (ENDED_BY_SIGNAL,):
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
