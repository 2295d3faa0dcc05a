# SPDX-License-Identifier: MIT
"""Test a filesystem with no mount, no root and no /dev/fuse.

A virtual kernel plays the kernel's side in memory, with the rules and errors of the real one; a client on top
of it does what programs do with files::

    with Client(Hello()) as client:
        assert client.read_bytes("/hello.txt") == b"Hello World!\\n"

Each call raises the OSError that a program would have seen; TimeoutError where the filesystem did not answer
in time. They block until the answer is there and may be made from any threads at once, from handlers too
where other readers serve.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from typing import Any, Optional, Union

from manifuse._dispatch import OPERATIONS, Dispatcher
from manifuse._native import ffi, lib
from manifuse.errors import check, new_error
from manifuse.filesystem import InodeFS
from manifuse.session import Session, _Native
from manifuse.types import Attr, Entry, Statfs

__all__ = ["Client", "upcall_ns"]

Path = Union[str, bytes, "os.PathLike[str]"]


class _Kernel:
    """The native virtual kernel: freed after the session, when no call on it is under way."""

    def __init__(self, native: Optional[_Native]) -> None:
        self.pointer: Any = None
        self.native = native
        self.users = 0
        self.changed = threading.Condition(threading.Lock())

    def __enter__(self) -> Any:
        with self.changed:
            if self.pointer is None:
                raise ValueError("the client is closed")
            self.users += 1
            return self.pointer

    def __exit__(self, *exc: object) -> None:
        with self.changed:
            self.users -= 1
            if not self.users:
                self.changed.notify_all()

    def close(self) -> None:
        if self.native is not None and self.native.dispatcher.handle.foreign:
            return
        with self.changed:
            pointer, self.pointer = self.pointer, None
        if pointer is None:
            return
        lib.mf_vkernel_unmount(pointer)
        if self.native is not None:
            self.native.close()
        with self.changed:
            while self.users:
                self.changed.wait()
        lib.mf_vkernel_free(pointer)


class Client:
    """A filesystem on a virtual kernel, served by readers of its own, and what programs do with it.

    Paths are absolute within the filesystem. Freed by :meth:`close`, at the end of a ``with`` block, or with
    the object.

    Args:
        fs: the filesystem.
        readers: reader threads.
        minor: protocol minor that the kernel speaks; 0 = the newest.
        flags: INIT flags that it offers; 0 = those of Linux 6.18.
        uid, gid, pid: who asks.
        clone_fail_at: the n-th clone of the device and all later ones fail; 0 = none.
        clone_errno: with which errno; 0 = EINVAL.
        queues: possible CPUs, each with a queue of requests over io_uring; 0 = io_uring is not offered. With one reader
            it is used only if asked for: ``uring="require"``.
        timeout: seconds that a call waits for the filesystem.
        serve: False: no reader runs until :meth:`serve` or ``client.session.run()``.
        **options: as for :class:`manifuse.Session`.
    """

    def __init__(
        self,
        fs: InodeFS,
        readers: int = 1,
        *,
        minor: int = 0,
        flags: int = 0,
        uid: int = 0,
        gid: int = 0,
        pid: int = 0,
        clone_fail_at: int = 0,
        clone_errno: int = 0,
        queues: int = 0,
        timeout: float = 10.0,
        serve: bool = True,
        **options: Any,
    ) -> None:
        opts = ffi.new("struct mf_vkernel_opts *")
        opts.size = ffi.sizeof("struct mf_vkernel_opts")
        opts.minor, opts.flags, opts.uid, opts.gid, opts.pid = minor, flags, uid, gid, pid
        opts.clone_fail_at, opts.clone_errno, opts.queues = clone_fail_at, clone_errno, queues
        #: The session, for its info, stats and stop.
        self.session = Session(fs, readers=readers, **options)
        self._kernel = _Kernel(self.session._native)
        self._closer = weakref.finalize(self, self._kernel.close)
        self.session._closer.detach()  # in one order: the session's end, then the kernel's
        self.session._closer = self._closer
        out = ffi.new("struct mf_vkernel **")
        try:
            check(lib.mf_vkernel_new(opts, out))
            self._kernel.pointer = out[0]
            lib.mf_vkernel_set_timeout(out[0], int(timeout * 1000))
            err = new_error()
            with self.session._handle as session:
                check(lib.mf_session_attach_vkernel(session, out[0], err), err)
            if serve:
                self.serve()
        except BaseException:
            self.close()
            self.session._native.close()
            raise

    def serve(self) -> None:
        """Start the readers."""
        self.session._start()

    def close(self) -> None:
        """Unmount, end the session, free everything. May be called again."""
        self._closer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _do(self, function: Any, *args: Any, path: Optional[str] = None) -> int:
        with self._kernel as kernel:
            return check(function(kernel, *args), path=path)

    # ---- by path, as programs do

    def stat(self, path: Path) -> Attr:
        """Attributes, of a symbolic link itself."""
        out = ffi.new("struct mf_attr *")
        self._do(lib.mf_client_stat, os.fsencode(path), out, path=os.fsdecode(path))
        return _attr(out)

    def exists(self, path: Path) -> bool:
        """Whether there is such a name."""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def read_bytes(self, path: Path) -> bytes:
        """The whole file."""
        room = max(self.stat(path).size, 65536)
        length = ffi.new("uint64_t *")
        while True:
            memory = ffi.new("char[]", room)
            length[0] = room
            try:
                self._do(lib.mf_client_read_file, os.fsencode(path), memory, length, path=os.fsdecode(path))
            except OSError as error:
                if error.errno != errno.EFBIG or room > 1 << 30:
                    raise
                room *= 4
                continue
            return bytes(ffi.buffer(memory, length[0]))

    def write_bytes(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Create or empty a file, write, close."""
        self._do(lib.mf_client_write_file, os.fsencode(path), data, len(data), mode, path=os.fsdecode(path))

    def listdir(self, path: Path = "/") -> list[str]:
        """The names in a directory, in its order, without "." and ".."."""
        raw = self._sized(lib.mf_client_list, path)
        return [os.fsdecode(name) for name in raw.split(b"\0")[:-1]]

    def readlink(self, path: Path) -> str:
        """The target of a symbolic link."""
        return os.fsdecode(self._sized(lib.mf_client_readlink, path))

    def _sized(self, function: Any, path: Path) -> bytes:
        room = 65536
        length = ffi.new("uint64_t *")
        while True:
            memory = ffi.new("char[]", room)
            length[0] = room
            try:
                self._do(function, os.fsencode(path), memory, length, path=os.fsdecode(path))
            except OSError as error:
                if error.errno != errno.ERANGE or length[0] <= room:
                    raise
                room = length[0]
                continue
            return bytes(ffi.buffer(memory, length[0]))

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        """Make a directory."""
        self._do(lib.mf_client_mkdir, os.fsencode(path), mode, path=os.fsdecode(path))

    def symlink(self, path: Path, target: Path) -> None:
        """Make a symbolic link at `path`."""
        self._do(lib.mf_client_symlink, os.fsencode(path), os.fsencode(target), path=os.fsdecode(path))

    def mknod(self, path: Path, mode: int, rdev: int = 0) -> None:
        """Make a file, device, FIFO or socket."""
        self._do(lib.mf_client_mknod, os.fsencode(path), mode, rdev, path=os.fsdecode(path))

    def link(self, path: Path, newpath: Path) -> None:
        """Give what is at `path` a further name."""
        self._do(lib.mf_client_link, os.fsencode(path), os.fsencode(newpath), path=os.fsdecode(newpath))

    def unlink(self, path: Path) -> None:
        """Remove a name of what is no directory."""
        self._do(lib.mf_client_unlink, os.fsencode(path), path=os.fsdecode(path))

    def rmdir(self, path: Path) -> None:
        """Remove a directory."""
        self._do(lib.mf_client_rmdir, os.fsencode(path), path=os.fsdecode(path))

    def rename(self, path: Path, newpath: Path, flags: int = 0) -> None:
        """Move; flags of renameat2(2)."""
        self._do(lib.mf_client_rename, os.fsencode(path), os.fsencode(newpath), flags, path=os.fsdecode(path))

    def truncate(self, path: Path, size: int) -> None:
        """Set the size."""
        self._do(lib.mf_client_truncate, os.fsencode(path), size, path=os.fsdecode(path))

    def chmod(self, path: Path, mode: int) -> None:
        """Set the permission bits."""
        self._do(lib.mf_client_chmod, os.fsencode(path), mode, path=os.fsdecode(path))

    def statfs(self) -> Statfs:
        """Size and room of the filesystem."""
        out = ffi.new("struct mf_statfs *")
        out.size = ffi.sizeof("struct mf_statfs")
        self._do(lib.mf_client_statfs, out)
        return Statfs(out.blocks, out.bfree, out.bavail, out.files, out.ffree, out.bsize, out.namelen, out.frsize)

    def access(self, path: Path, mask: int) -> None:
        """May the client do this? PermissionError if not."""
        self._do(lib.mf_client_access, os.fsencode(path), mask, path=os.fsdecode(path))

    def setxattr(self, path: Path, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute."""
        self._do(
            lib.mf_client_setxattr,
            os.fsencode(path),
            os.fsencode(name),
            value,
            len(value),
            flags,
            path=os.fsdecode(path),
        )

    def getxattr(self, path: Path, name: str, size: Optional[int] = None) -> bytes:
        """An extended attribute: the size is asked, then the value; `size` asks for the value in so much room."""
        args = (os.fsencode(path), os.fsencode(name))
        if size is None:
            size = self._do(lib.mf_client_getxattr, *args, ffi.NULL, 0, path=os.fsdecode(path))
        memory = ffi.new("char[]", size + 1)
        return bytes(ffi.buffer(memory, self._do(lib.mf_client_getxattr, *args, memory, size, path=os.fsdecode(path))))

    def listxattr(self, path: Path) -> list[str]:
        """The names of the extended attributes."""
        raw = os.fsencode(path)
        size = self._do(lib.mf_client_listxattr, raw, ffi.NULL, 0, path=os.fsdecode(path))
        memory = ffi.new("char[]", size + 1)
        length = self._do(lib.mf_client_listxattr, raw, memory, size, path=os.fsdecode(path)) if size else 0
        return [os.fsdecode(name) for name in bytes(ffi.buffer(memory, length)).split(b"\0")[:-1]]

    def removexattr(self, path: Path, name: str) -> None:
        """Remove an extended attribute."""
        self._do(lib.mf_client_removexattr, os.fsencode(path), os.fsencode(name), path=os.fsdecode(path))

    # ---- by node, as the kernel asks

    def lookup(self, parent: int, name: str) -> Entry:
        """One LOOKUP; the reference is the test's to :meth:`forget`. FileNotFoundError for a negative entry, too."""
        out = ffi.new("struct mf_entry *")
        out.size = ffi.sizeof("struct mf_entry")
        self._do(lib.mf_client_lookup, parent, os.fsencode(name), out)
        return Entry(
            out.node,
            _attr(ffi.addressof(out, "attr")),
            entry_timeout=out.entry_timeout_ns / 1e9,
            attr_timeout=out.attr_timeout_ns / 1e9,
            generation=out.generation,
        )

    def forget(self, node: int, nlookup: int = 1) -> None:
        """Drop references. Does not wait for the handler."""
        self._do(lib.mf_client_forget, node, nlookup)

    def getattr(self, node: int) -> Attr:
        """One GETATTR."""
        out = ffi.new("struct mf_attr *")
        self._do(lib.mf_client_getattr, node, out)
        return _attr(out)

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        """One OPEN; returns the file handle."""
        fh = ffi.new("uint64_t *")
        self._do(lib.mf_client_open, node, flags, fh)
        return int(fh[0])

    def read(self, node: int, fh: int, size: int, offset: int = 0) -> bytes:
        """One READ."""
        memory = ffi.new("char[]", size)
        return bytes(ffi.buffer(memory, self._do(lib.mf_client_read, node, fh, memory, size, offset)))

    def write(self, node: int, fh: int, data: bytes, offset: int = 0) -> int:
        """One WRITE; returns how many bytes were written."""
        return self._do(lib.mf_client_write, node, fh, data, len(data), offset)

    def release(self, node: int, fh: int) -> None:
        """One RELEASE."""
        self._do(lib.mf_client_release, node, fh)

    # ---- the kernel itself

    def request(self, opcode: int, node: int, body: bytes = b"", room: int = 1 << 17) -> bytes:
        """One raw request: everything after its header; returns the body of the reply."""
        memory = ffi.new("char[]", room)
        length = ffi.new("uint64_t *", room)
        self._do(lib.mf_client_raw, opcode, node, body, len(body), memory, length)
        return bytes(ffi.buffer(memory, length[0]))

    def send(self, opcode: int, node: int, body: bytes = b"") -> int:
        """Send a raw request without waiting; returns its number."""
        unique = ffi.new("uint64_t *")
        self._do(lib.mf_client_send, opcode, node, body, len(body), unique)
        return int(unique[0])

    def wait(self, unique: int, room: int = 1 << 17) -> bytes:
        """The body of the reply to :meth:`send`."""
        memory = ffi.new("char[]", room)
        length = ffi.new("uint64_t *", room)
        self._do(lib.mf_client_wait, unique, memory, length)
        return bytes(ffi.buffer(memory, length[0]))

    def interrupt(self, unique: int) -> None:
        """The caller of this request gave up."""
        self._do(lib.mf_client_interrupt, unique)

    def unmount(self) -> None:
        """As ``umount -l`` of the last user: the session ends."""
        with self._kernel as kernel:
            lib.mf_vkernel_unmount(kernel)

    def abort(self) -> None:
        """As the administrator's abort of the connection: the session fails."""
        with self._kernel as kernel:
            lib.mf_vkernel_abort(kernel)

    @property
    def pending(self) -> int:
        """Requests queued or in hand."""
        with self._kernel as kernel:
            return int(lib.mf_vkernel_pending(kernel))

    def reads(self, channel: int) -> int:
        """Requests that were read from the descriptor with this index: 0 = the first, n = the n-th clone."""
        with self._kernel as kernel:
            return int(lib.mf_vkernel_reads(kernel, channel))

    @property
    def bad_replies(self) -> int:
        """Replies that the kernel refused: a correct engine has none."""
        with self._kernel as kernel:
            return int(lib.mf_vkernel_bad_replies(kernel))


def upcall_ns(
    fs: InodeFS, operation: str, node: int = 2, name: str = "f0000", size: int = 4096, count: int = 100_000
) -> float:
    """What one call of a handler costs, in nanoseconds of CPU time: from the engine into Python and back.

    Args:
        fs: the filesystem.
        operation: name of the handler.
        node: which node it is given.
        name: which name, where it takes one.
        size: bytes to read or write.
        count: calls.

    Raises:
        ValueError: the filesystem has no such handler.
        RuntimeError: the handler failed (otherwise than by ENOENT).
    """
    dispatcher = Dispatcher(fs)
    code = OPERATIONS[operation].code if operation in OPERATIONS else 0
    if not dispatcher.implemented >> code & 1:
        raise ValueError(f"{type(fs).__name__} has no handler {operation!r}")
    binding = dispatcher.new_binding()
    try:
        ns = float(lib.mf_py_measure(binding, code, node, os.fsencode(name), size, count))
    finally:
        lib.mf_py_binding_free(binding)
    if ns < 0:
        raise RuntimeError(f"{operation} failed")
    return ns


def _attr(out: Any) -> Attr:
    return Attr._from_packed(bytes(ffi.buffer(out, ffi.sizeof("struct mf_attr"))))
