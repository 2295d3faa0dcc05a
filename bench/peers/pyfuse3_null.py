"""The filesystem ``null`` on pyfuse3 (one thread, trio, libfuse 3's low-level API).

    pyfuse3_null.py MOUNTPOINT [--slow]

--slow: the files are those of bench/slow_fs.h whose handlers sleep (in trio).
What the library does not permit: it sets no ``max_write`` of its own (libfuse's
128 KiB holds), always answers RELEASE and OPENDIR through Python, and serves
from one thread.
"""

from __future__ import annotations

import argparse
import errno
import functools
import itertools
import os
import signal
import stat
import sys

import pyfuse3
import trio

FILES = 10000
FILE_SIZE = 64 << 10
BIG_SIZE = 4 << 30
NODE_FILE0 = 2
NODE_BIG = NODE_FILE0 + FILES
NODE_MADE0 = NODE_BIG + 1
MADE = {b"c%03d" % i: NODE_MADE0 + i for i in range(256)}


@functools.lru_cache(maxsize=64)
def zeros(size: int) -> bytes:
    return bytes(size)


def attributes(inode: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.entry_timeout = 0
    entry.attr_timeout = 0
    if inode == pyfuse3.ROOT_INODE:
        entry.st_mode = stat.S_IFDIR | 0o755
        entry.st_nlink = 2
        return entry
    entry.st_mode = stat.S_IFREG | (0o444 if inode < NODE_BIG else 0o644)
    entry.st_nlink = 1
    entry.st_size = FILE_SIZE if inode < NODE_BIG else BIG_SIZE if inode == NODE_BIG else 0
    return entry


class Null(pyfuse3.Operations):
    """What is not defined here pyfuse3 answers with ENOSYS."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self.made: set[bytes] = set()

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if len(name) == 5 and name[0] == 102 and name[1:].isdigit():
            return attributes(NODE_FILE0 + int(name[1:]))
        if name == b"big":
            return attributes(NODE_BIG)
        if name in self.made:
            return attributes(MADE[name])
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext | None = None) -> pyfuse3.EntryAttributes:
        return attributes(inode)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY and inode < NODE_BIG:
            raise pyfuse3.FUSEError(errno.EROFS)
        big = inode == NODE_BIG
        return pyfuse3.FileInfo(fh=inode, direct_io=not big, keep_cache=big)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        end = BIG_SIZE if fh == NODE_BIG else FILE_SIZE
        return zeros(max(0, min(size, end - off)))

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return len(buf)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        if name not in MADE:
            raise pyfuse3.FUSEError(errno.EROFS)
        self.made.add(name)
        return pyfuse3.FileInfo(fh=MADE[name], direct_io=True), attributes(MADE[name])

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        if name not in self.made:
            raise pyfuse3.FUSEError(errno.ENOENT if name in MADE else errno.EROFS)
        self.made.remove(name)

    async def release(self, fh: int) -> None:
        pass

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for i in range(start_id, FILES + 1):
            name = b"big" if i == FILES else b"f%04d" % i
            if not pyfuse3.readdir_reply(token, name, attributes(NODE_FILE0 + i), i + 1):
                break


class Slow(Null):
    NAMES = (b"fast", b"sleep1ms", b"sleep10ms-1in100")

    def __init__(self) -> None:
        super().__init__()
        self.count = itertools.count()

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if name not in self.NAMES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return attributes(NODE_FILE0 + self.NAMES.index(name))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        name = self.NAMES[fh - NODE_FILE0]
        if name == b"sleep1ms":
            await trio.sleep(0.001)
        elif name == b"sleep10ms-1in100" and next(self.count) % 100 == 0:
            await trio.sleep(0.01)
        return await super().read(fh, off, size)


async def serve() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, nursery)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def stop_on_signal(nursery: trio.Nursery) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            nursery.cancel_scope.cancel()
            return


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--slow", action="store_true")
    args = parser.parse_args()
    options = set(pyfuse3.default_options)
    options.discard("default_permissions")
    options |= {"fsname=pyfuse3", "allow_other"}
    pyfuse3.init(Slow() if args.slow else Null(), args.mountpoint, options)
    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
