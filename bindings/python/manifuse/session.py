# SPDX-License-Identifier: MIT
"""Sessions: a filesystem, its mount and the readers that serve it."""

from __future__ import annotations

import errno
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional, Union

from manifuse._dispatch import Dispatcher
from manifuse._native import ffi, lib
from manifuse.errors import check, new_error
from manifuse.filesystem import InodeFS

__all__ = ["Info", "NegotiatedContext", "OpStats", "ReaderStats", "Session", "mount"]

_CLONE = {"auto": lib.MF_CLONE_AUTO, "off": lib.MF_CLONE_OFF, "require": lib.MF_CLONE_REQUIRE}
_URING = {"auto": lib.MF_URING_AUTO, "off": lib.MF_URING_OFF, "require": lib.MF_URING_REQUIRE}
_PLACEMENT = {"auto": lib.MF_PLACEMENT_AUTO, "pinned": lib.MF_PLACEMENT_PINNED, "free": lib.MF_PLACEMENT_FREE}
_ACL = {"owner": lib.MF_ACL_OWNER, "root-and-owner": lib.MF_ACL_ROOT_AND_OWNER, "all": lib.MF_ACL_ALL}
_TRANSPORT = {
    lib.MF_TRANSPORT_DEVICE: "device",
    lib.MF_TRANSPORT_URING: "uring",
    lib.MF_TRANSPORT_MEMORY: "memory",
}
_SLICE_MS = 200  # how late a signal that was delivered to another thread is seen


class Info(NamedTuple):
    """What a session became."""

    #: readers that serve, or will
    readers: int
    #: distinct descriptors among them
    channels: int
    #: "device", "uring" or "memory"; "" before the handshake
    transport: str
    #: why this transport is in use
    transport_reason: str
    #: errno of the first clone that failed; 0 = none did
    clone_error: int
    #: why readers share a descriptor; "" where none do
    clone_reason: str
    #: readers that died, each replaced or the session ended
    failed_readers: int
    #: N of /sys/fs/fuse/connections/N; 0 = unknown
    connection: int
    #: readers that joined because handlers waited
    growths: int
    #: readers that left again
    shrinks: int
    #: where readers run and how they are scheduled now, and why
    placement: str


class OpStats(NamedTuple):
    """Counters of one operation."""

    requests: int
    #: answered with an error
    errors: int
    bytes_in: int
    bytes_out: int


class ReaderStats(NamedTuple):
    """Counters of one reader since the session's start."""

    reader: int
    #: descriptor that it reads; -1 = none
    fd: int
    #: thread id; 0 = not running
    tid: int
    requests: int
    replies: int
    #: answered with an error
    errors: int
    bytes_in: int
    bytes_out: int
    #: requests not answered yet
    in_flight: int
    #: returns from waiting for a request
    wakeups: int
    #: messages that did not decode
    malformed: int
    #: handlers that returned without an answer
    forgotten: int
    #: messages that a caller gave up
    interrupts: int
    #: by name of the operation, those that were asked for
    ops: dict[str, OpStats]
    #: latency[i]: of the requests that were timed, those that took at most 2**i ns and more than half of that
    latency: tuple[int, ...]


class NegotiatedContext:
    """The terms on which the kernel and a session agreed: what a further session of the same mount needs.

    Plain bytes that may go to another process on the same machine, beside a descriptor from
    :meth:`Session.clone_fd`.
    """

    __slots__ = ("_bytes",)

    def __init__(self, data: bytes) -> None:
        if len(data) < 8:
            raise ValueError("a negotiated context is longer than this")
        self._bytes = bytes(data)

    @classmethod
    def from_bytes(cls, data: Union[bytes, bytearray, memoryview]) -> NegotiatedContext:
        """The context that :meth:`to_bytes` gave elsewhere.

        Raises:
            OSError: EINVAL these are no such bytes; E2BIG, EPROTONOSUPPORT this library cannot join.
        """
        neg = cls(bytes(data))
        err = new_error()
        check(lib.mf_negotiated_check(neg._pointer(), err), err)
        return neg

    def to_bytes(self) -> bytes:
        """The context as bytes in this machine's order."""
        return self._bytes

    __bytes__ = to_bytes

    def _pointer(self) -> Any:
        if int.from_bytes(self._bytes[:4], sys.byteorder) > len(self._bytes):
            raise OSError(errno.EINVAL, "a negotiated context that is cut short")
        room = self._bytes.ljust(ffi.sizeof("struct mf_negotiated"), b"\0")
        return ffi.from_buffer("struct mf_negotiated *", room)

    def _get(self, name: str) -> int:
        return int(getattr(self._pointer(), name))

    @property
    def minor(self) -> int:
        """Protocol 7.MINOR."""
        return self._get("minor")

    @property
    def flags(self) -> int:
        """INIT flags in force."""
        return self._get("flags")

    @property
    def max_write(self) -> int:
        """Bytes of the longest write."""
        return self._get("max_write")

    @property
    def max_pages(self) -> int:
        """Pages of the longest read or write."""
        return self._get("max_pages")

    @property
    def time_gran(self) -> int:
        """Granularity of times, nanoseconds."""
        return self._get("time_gran")

    @property
    def owner_uid(self) -> int:
        """Who mounted."""
        return self._get("owner_uid")

    @property
    def owner_gid(self) -> int:
        """Whose group mounted."""
        return self._get("owner_gid")

    @property
    def acl(self) -> str:
        """Who is answered: "owner", "root-and-owner" or "all"."""
        number = self._get("acl")
        return next(name for name, value in _ACL.items() if value == number)

    @property
    def implemented(self) -> int:
        """Operations that were implemented at the handshake: bit ``1 << opcode``."""
        return self._get("implemented")

    @property
    def connection(self) -> int:
        """N of /sys/fs/fuse/connections/N; 0 = unknown."""
        return self._get("connection")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NegotiatedContext) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        return f"NegotiatedContext(7.{self.minor}, flags={self.flags:#x}, max_write={self.max_write})"


def _choose(what: str, value: str, of: dict[str, int]) -> int:
    try:
        return of[value]
    except (KeyError, TypeError):
        raise ValueError(f"{what} is one of {', '.join(map(repr, of))}, not {value!r}") from None


class _Native:
    """The C side of a session, which outlives the Session object only as long as freeing it takes."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.binding = dispatcher.new_binding()
        self.started = False
        self.lock = threading.Lock()

    def adopt(self, session: Any) -> None:
        self.dispatcher.handle.set(session)

    def claim_end(self) -> bool:
        """True for the one who has to call mf_session_finish()."""
        with self.lock:
            started, self.started = self.started, False
            return started

    def close(self) -> None:
        """End what runs, free everything. Blocks until handlers have returned or the stop's deadline is over."""
        handle = self.dispatcher.handle
        if handle.foreign:
            return
        if not handle.closed:
            try:
                with handle as session:
                    lib.mf_session_stop(session)
                    if self.claim_end():
                        lib.mf_session_finish(session)
            except ValueError:
                pass
            session = handle.take()
            if session is not None:
                lib.mf_py_binding_close(self.binding)
                lib.mf_session_free(session)
        with self.lock:
            binding, self.binding = self.binding, ffi.NULL
        lib.mf_py_binding_free(binding)


class Session:
    """A filesystem, its mount and its readers.

    Make it, then :meth:`mount` (or :meth:`attach_fds`, or make it with :meth:`from_fd_initialized`), then
    :meth:`run`. Any method may be called from any thread. A program that uses its own mount must do so while
    other threads serve, never from a handler.

    Args:
        fs: the filesystem.
        readers: reader threads; 0 = automatic.
        clone_fd: a descriptor for each reader: "auto" (share one where cloning fails; :meth:`info` says why),
            "off", "require".
        uring: requests over io_uring: "auto", "off", "require".
        placement: where readers run: "auto", "pinned", "free".
        acl: whom the session answers, everybody else gets EACCES: "owner", "root-and-owner", "all".
        options: mount options as after ``-o``: ``"ro,allow_other"``.
        fsname: source shown in /proc/mounts.
        subtype: type shown there as fuse.SUBTYPE.
        max_write: bytes of the longest write, whole pages up to 1 MiB; 0 = 1 MiB.
        max_readahead: bytes; 0 = the kernel's offer.
        max_background: requests that the kernel sends ahead; 0 = its default.
        max_outstanding: requests that may be deferred per reader; 0 = 256.
        time_gran: granularity of times, nanoseconds; 0 = 1.
        stop_timeout: seconds for which the end of a session waits for handlers before it aborts the mount.
        signals: SIGINT, SIGTERM and SIGHUP end :meth:`run` cleanly, without an exception.
        writeback: ask for the kernel's write-back cache.
        keep_mount: the mount outlives :meth:`run`; for sessions beside a main one.
        latency: keep the histogram of latencies.
        debug: log each request at DEBUG.

    Raises:
        ValueError, TypeError: an option, or a handler's signature, is wrong.
        OSError: the engine refuses an option.
    """

    def __init__(self, fs: InodeFS, **options: Any) -> None:
        self._prepare(fs, options)
        out, err = ffi.new("struct mf_session **"), new_error()
        opts, keep = _options(**options)
        try:
            check(lib.mf_py_session_new(self._native.binding, opts, out, err), err)
        except BaseException:
            self._native.close()
            raise
        del keep  # the engine has copied the strings
        self._native.adopt(out[0])

    def _prepare(self, fs: InodeFS, options: dict[str, Any]) -> None:
        if not isinstance(fs, InodeFS):
            raise TypeError(f"the filesystem must be an InodeFS, not {type(fs).__name__}")
        _options(**options)  # refuses before anything is made
        self._dispatcher = Dispatcher(fs)
        self._handle = self._dispatcher.handle
        self._native = _Native(self._dispatcher)
        self._running = threading.Lock()
        # Also at the interpreter's end: readers must not call into what is being torn down.
        self._closer: Any = weakref.finalize(self, self._native.close)

    @classmethod
    def from_fd_initialized(
        cls, fs: InodeFS, fd: int, negotiated: Union[NegotiatedContext, bytes], **options: Any
    ) -> Session:
        """A further session on a mount whose handshake is done, in this process or another.

        Args:
            fs: the filesystem; usually one that answers as the first session's does.
            fd: a clone from :meth:`clone_fd`, perhaps received over a Unix socket. The session closes it.
            negotiated: the first session's :attr:`negotiated`, or its bytes.
            **options: as for Session; those of the handshake have no effect.

        Raises:
            OSError: EINVAL the terms are impossible; E2BIG, EPROTONOSUPPORT this library cannot join; EBADF,
                ENOTTY `fd` is no descriptor of /dev/fuse, and stays the caller's.
        """
        self = cls.__new__(cls)
        self._prepare(fs, options)
        out, err = ffi.new("struct mf_session **"), new_error()
        opts, keep = _options(**options)
        try:
            neg = negotiated if isinstance(negotiated, NegotiatedContext) else NegotiatedContext(bytes(negotiated))
            check(lib.mf_py_session_from_fd(self._native.binding, opts, fd, neg._pointer(), out, err), err)
        except BaseException:
            self._native.close()
            raise
        del keep
        self._native.adopt(out[0])
        return self

    # ---- mounting

    def mount(self, mountpoint: Union[str, os.PathLike[str]]) -> None:
        """Mount, and agree with the kernel on the protocol. Requests wait until :meth:`run` serves them.

        Blocks until the handshake is done.

        Raises:
            OSError: the reason in words, as the subclass that fits: FileNotFoundError, NotADirectoryError and
                PermissionError about the mount point; EPERM mounting is not permitted, nor is fusermount3
                there; EINVAL a mount option is wrong; ENODEV no FUSE; EBUSY mounted already.
        """
        path = os.fspath(mountpoint)
        err = new_error()
        with self._handle as session:
            check(lib.mf_session_mount(session, os.fsencode(path), err), err, path)

    def attach_fds(self, fds: Sequence[int]) -> None:
        """Serve a mount that somebody else made: descriptors of /dev/fuse, the first bound to the mount, the
        others its clones, with the handshake still to come. At least as many readers as descriptors serve.

        The session closes the descriptors, on success only.

        Raises:
            OSError: EBADF, ENOTTY no descriptor of /dev/fuse; EPERM not bound to a mount.
        """
        err = new_error()
        with self._handle as session:
            check(lib.mf_session_attach_fds(session, list(fds), len(fds), err), err)

    def clone_fd(self) -> int:
        """A new descriptor of the same mount, close-on-exec; the caller closes it or gives it to a session.

        Raises:
            OSError: ENOTCONN not mounted yet, or gone; ENOTSUP the platform has no clones; the kernel's error.
        """
        fd = ffi.new("int *")
        with self._handle as session:
            check(lib.mf_session_clone_fd(session, fd), what="clone")
        return int(fd[0])

    @property
    def negotiated(self) -> NegotiatedContext:
        """The terms of the mount. OSError ENOTCONN before the handshake."""
        neg = ffi.new("struct mf_negotiated *")
        size = ffi.sizeof("struct mf_negotiated")
        with self._handle as session:
            check(lib.mf_session_negotiated(session, neg, size), what="negotiated")
        return NegotiatedContext(bytes(ffi.buffer(neg, size)))

    def add_reader(self) -> int:
        """One more reader, also while the session runs. Returns its index."""
        with self._handle as session:
            return check(lib.mf_session_add_reader(session), what="add_reader")

    # ---- serving

    def run(self) -> None:
        """Serve until the mount is gone, :meth:`stop`, or failure. Blocks.

        When it returns no handler runs any more, and the mount that the session made is gone. In the main
        thread Python's signal handlers run meanwhile, so that Ctrl-C raises KeyboardInterrupt from here.

        Raises:
            KeyboardInterrupt, SystemExit: raised by a handler or a signal handler, after a clean end.
            OSError: ENOTCONN nothing to serve; EBUSY it runs already; ETIMEDOUT handlers did not return in
                time, the mount was aborted; ECONNABORTED the administrator aborted it.
        """
        with self._handle:
            self._start()
            try:
                self._wait()
            except BaseException:
                self._end()
                raise
            self._finish()

    def _start(self) -> None:
        with self._handle as session:
            with self._native.lock:
                check(lib.mf_session_start(session), what="run")
                self._native.started = True

    def _wait(self) -> None:
        slice_ms = _SLICE_MS if threading.current_thread() is threading.main_thread() else -1
        with self._handle as session:
            while True:
                rc = lib.mf_session_wait(session, slice_ms)
                if rc not in (-errno.ETIMEDOUT, -errno.EINTR):
                    break

    def _end(self) -> int:
        """End the service. Returns how it ended: 0 or a negative errno."""
        if self._handle.foreign:
            return 0
        with self._handle as session:
            lib.mf_session_stop(session)
            return int(lib.mf_session_finish(session)) if self._native.claim_end() else 0

    def _finish(self) -> None:
        """End the service and raise what ended it."""
        rc = self._end()
        ended_by, self._dispatcher.ended_by = self._dispatcher.ended_by, None
        if ended_by is not None:
            raise ended_by
        check(rc, what="the session's end")

    def stop(self) -> None:
        """Ask the session to end; :meth:`run` returns when handlers have. Also from a handler."""
        with self._handle as session:
            lib.mf_session_stop(session)

    def unmount(self) -> None:
        """Unmount now, lazily; the session then ends. OSError ENOTCONN: this session made no mount."""
        with self._handle as session:
            check(lib.mf_session_unmount(session), what="unmount")

    def close(self) -> None:
        """End what runs, unmount, free everything. May be called again. Not from a handler."""
        self._closer()

    # ---- looking

    @property
    def mountpoint(self) -> Optional[str]:
        """Where it is mounted by this session, or None."""
        with self._handle as session:
            path = lib.mf_session_mountpoint(session)
            return None if path == ffi.NULL else os.fsdecode(ffi.string(path))

    def info(self) -> Info:
        """What the session became: readers, descriptors, transport, and why."""
        out = ffi.new("struct mf_info *")
        out.size = ffi.sizeof("struct mf_info")
        with self._handle as session:
            check(lib.mf_session_info(session, out), what="info")
        return Info(
            out.readers,
            out.channels,
            _TRANSPORT.get(out.transport, ""),
            ffi.string(out.transport_reason).decode(),
            out.clone_error,
            ffi.string(out.clone_reason).decode(),
            out.failed_readers,
            out.connection,
            out.growths,
            out.shrinks,
            ffi.string(out.placement).decode(),
        )

    def stats(self) -> list[ReaderStats]:
        """Counters of each reader since the start. May be called while it runs."""
        readers: list[ReaderStats] = []
        with self._handle as session:
            while True:
                out = ffi.new("struct mf_reader_stats *")
                out.size = ffi.sizeof("struct mf_reader_stats")
                rc = lib.mf_session_stats(session, len(readers), out)
                if rc == -errno.ENOENT:
                    return readers
                check(rc, what="stats")
                readers.append(_reader_stats(out))

    def write_stats(self, fd: int) -> None:
        """Write one line of JSON per reader, one for the device, and one per ring, to a descriptor."""
        with self._handle as session:
            check(lib.mf_session_write_stats(session, fd), what="stats")

    # ---- notifications

    def invalidate_node(self, node: int, offset: int = 0, length: int = 0) -> None:
        """Let the kernel forget a node's attributes and, unless `offset` is negative, its data from there on
        (`length` 0: to the end). Blocks until that is done: never call it from a handler of the same node.
        """
        with self._handle as session:
            check(lib.mf_notify_inval_inode(session, node, offset, length), what="invalidate_node")

    def invalidate_name(self, parent: int, name: str) -> None:
        """Let the kernel forget a name. Blocks: never call it from a handler of the same directory."""
        raw = os.fsencode(name)
        with self._handle as session:
            check(lib.mf_notify_inval_entry(session, parent, raw, len(raw)), what="invalidate_name")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reader_stats(out: Any) -> ReaderStats:
    ops = {}
    for code in range(lib.MF_STATS_OPS):
        row = out.ops[code]
        if row.requests:
            name = lib.mf_op_name(code)
            text = str(code) if name == ffi.NULL else ffi.string(name).decode().lower()
            ops[text] = OpStats(row.requests, row.errors, row.bytes_in, row.bytes_out)
    return ReaderStats(
        out.reader,
        out.fd,
        out.tid,
        out.requests,
        out.replies,
        out.errors,
        out.bytes_in,
        out.bytes_out,
        out.in_flight,
        out.wakeups,
        out.malformed,
        out.forgotten,
        out.interrupts,
        ops,
        tuple(out.latency),
    )


def _options(
    *,
    readers: int = 0,
    clone_fd: str = "auto",
    uring: str = "auto",
    placement: str = "auto",
    acl: str = "owner",
    options: Optional[str] = None,
    fsname: Optional[str] = None,
    subtype: Optional[str] = None,
    max_write: int = 0,
    max_readahead: int = 0,
    max_background: int = 0,
    max_outstanding: int = 0,
    time_gran: int = 0,
    stop_timeout: float = 10.0,
    signals: bool = False,
    writeback: bool = False,
    keep_mount: bool = False,
    latency: bool = True,
    debug: bool = False,
    base: Any = None,
) -> tuple[Any, list[Any]]:
    """The C structure, and the strings that must live until it was read."""
    opts = ffi.new("struct mf_session_opts *")
    lib.mf_session_opts_init(opts, ffi.sizeof("struct mf_session_opts"))
    if base is not None:  # what a command line said
        ffi.memmove(opts, base, ffi.sizeof("struct mf_session_opts"))
    else:
        opts.readers = readers
        opts.clone_fd = _choose("clone_fd", clone_fd, _CLONE)
        opts.uring = _choose("uring", uring, _URING)
        opts.placement = _choose("placement", placement, _PLACEMENT)
    keep: list[Any] = []
    for name, text in (("mount_options", options), ("fsname", fsname), ("subtype", subtype)):
        if text is not None:
            if "\0" in text:
                raise ValueError(f"{name}: NUL in {text!r}")
            keep.append(ffi.new("char[]", os.fsencode(text)))
            setattr(opts, name, keep[-1])
    opts.acl = _choose("acl", acl, _ACL) if acl != "owner" else opts.acl
    if not 0 < stop_timeout < 1e6:
        raise ValueError(f"stop_timeout {stop_timeout!r} is not within 0 ... 1e6 seconds")
    try:
        opts.max_write = max_write
        opts.max_readahead = max_readahead
        opts.max_background = max_background
        opts.max_outstanding = max_outstanding
        opts.time_gran = time_gran
        opts.stop_timeout_ms = max(1, int(stop_timeout * 1000))
    except OverflowError as error:
        raise ValueError(f"an option is out of range: {error}") from None
    for wanted, flag in (
        (signals, lib.MF_OPT_SIGNALS),
        (writeback, lib.MF_OPT_WRITEBACK),
        (keep_mount, lib.MF_OPT_NO_UNMOUNT),
        (not latency, lib.MF_OPT_NO_LATENCY),
        (debug, lib.MF_OPT_DEBUG),
    ):
        if wanted:
            opts.flags |= flag
    opts.log = lib.mf_py_log
    return opts, keep


@contextmanager
def mount(fs: InodeFS, mountpoint: Union[str, os.PathLike[str]], **options: Any) -> Iterator[Session]:
    """Serve a filesystem in the background for the length of a ``with`` block.

    Args:
        fs: the filesystem.
        mountpoint: an existing directory.
        **options: as for :class:`Session`.

    At the end of the block the mount is gone and no handler runs any more. Raises what Session, its mount
    and its run raise.
    """
    session = Session(fs, **options)
    try:
        session.mount(mountpoint)
        session._start()
        try:
            yield session
        except BaseException:
            session._end()
            raise
        session._finish()
    finally:
        session.close()
