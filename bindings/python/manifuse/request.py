# SPDX-License-Identifier: MIT
"""The request that is being handled: who asks, did he give up, and answering it later."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import Any, Optional, Union

from manifuse._native import ffi, lib
from manifuse.errors import check, errno_of
from manifuse.types import Attr, Entry, FileSlice, Open, Statfs, _nanoseconds

__all__ = ["Context", "Reply", "context"]

log = logging.getLogger("manifuse")
_dispatchers: dict[int, Any] = {}  # by the native session's address


def register(session: Any, dispatcher: Any) -> None:
    """Let context() find the dispatcher of a native session."""
    _dispatchers[int(ffi.cast("uintptr_t", session))] = dispatcher


def unregister(session: Any) -> None:
    """The native session is about to be freed."""
    _dispatchers.pop(int(ffi.cast("uintptr_t", session)), None)


class Context:
    """The request whose handler runs on this thread. Made by :func:`context`.

    The plain attributes stay valid; what asks the engine works only on the handler's thread until the
    handler returns.

    Attributes:
        uid, gid: the caller's, 0 where the kernel itself asks.
        pid: thread id of the caller in the mounter's pid namespace; 0 = the kernel, or unknown.
        umask: the caller's, of mknod, mkdir and create.
        unique: number of the request.
        reader: index of the reader that handles it.
        again: it may have been executed before.
    """

    __slots__ = ("_dispatcher", "again", "gid", "pid", "reader", "uid", "umask", "unique")

    def __init__(self, call: Any) -> None:
        self.uid: int = call.uid
        self.gid: int = call.gid
        self.pid: int = call.pid
        self.umask: int = call.umask
        self.unique: int = call.unique
        self.reader: int = call.reader
        self.again: bool = bool(call.again)
        self._dispatcher = _dispatchers[int(ffi.cast("uintptr_t", call.session))]

    def _call(self) -> Any:
        call = lib.mf_py_current()
        if call == ffi.NULL or call.unique != self.unique:
            raise RuntimeError("the handler of this request has returned, or it runs on another thread")
        return call

    @property
    def interrupted(self) -> bool:
        """The caller gave up: answer EINTR (``raise InterruptedError``) soon."""
        return bool(lib.mf_req_interrupted(self._call().req) == 1)

    def on_interrupt(self, function: Callable[[], object]) -> None:
        """Call `function` once if the caller gives up, at once if he has. On a reader thread: it must not block.

        Another reader must be there to hear of it: with ``readers=1`` that happens only after the handler.
        """
        call = self._call()
        self._dispatcher.on_interrupt(self.unique, function)
        if lib.mf_req_interrupted(call.req) == 1:
            self._dispatcher.interrupted(self.unique)

    def defer(self) -> Reply:
        """Answer later: what the handler returns does not count any more, the :class:`Reply` does.

        Raises:
            RuntimeError: it was deferred before.
            OSError: EINVAL the request takes no answer.
        """
        call = self._call()
        rc = lib.mf_py_defer()
        if rc == -errno.EALREADY:
            raise RuntimeError(f"request {self.unique} was deferred before")
        check(rc, what="defer")
        return Reply(self._dispatcher, call.req, self.unique)

    def __repr__(self) -> str:
        return f"Context(unique={self.unique}, uid={self.uid}, gid={self.gid}, pid={self.pid}, reader={self.reader})"


def context() -> Context:
    """The request whose handler runs on this thread.

    Raises:
        RuntimeError: no handler runs on this thread.
    """
    call = lib.mf_py_current()
    if call == ffi.NULL:
        raise RuntimeError("context() is for handlers: no request is being handled on this thread")
    return Context(call)


class Reply:
    """A request that was kept and waits for its answer: exactly one of the methods below, from any thread.

    One that is dropped without an answer answers EIO. The request's arguments are the handler's; names and
    data that it was given are copies and live on.

    Raises (all methods):
        RuntimeError: it is answered already, or the session is over.
        OSError: ENOENT the kernel no longer waits; EINVAL not an answer for this request (which got EIO).
    """

    __slots__ = ("__weakref__", "_dispatcher", "_lock", "_req", "unique")

    def __init__(self, dispatcher: Any, req: Any, unique: int) -> None:
        self.unique: int = unique
        self._dispatcher = dispatcher
        self._req = req
        self._lock = threading.Lock()
        dispatcher.replies.add(self)

    def _take(self) -> Any:
        with self._lock:
            req, self._req = self._req, None
        if req is None:
            raise RuntimeError(f"request {self.unique} is answered already, or its session is over")
        return req

    def _answer(self, function: Callable[..., int], *args: Any) -> None:
        try:
            with self._dispatcher.handle:
                rc = function(self._take(), *args)
        except ValueError:
            raise RuntimeError(f"request {self.unique}: the session is over") from None
        if rc == -errno.EALREADY:
            raise RuntimeError(f"request {self.unique} is answered already")
        check(rc, what="reply")

    @property
    def answered(self) -> bool:
        """An answer was given, or can no longer be."""
        return self._req is None

    @property
    def interrupted(self) -> bool:
        """The caller gave up: answer EINTR soon."""
        with self._lock:
            if self._req is None:
                return False
            try:
                with self._dispatcher.handle:
                    return bool(lib.mf_req_interrupted(self._req) == 1)
            except ValueError:
                return False

    def on_interrupt(self, function: Callable[[], object]) -> None:
        """As :meth:`Context.on_interrupt`."""
        self._dispatcher.on_interrupt(self.unique, function)
        if self.interrupted:
            self._dispatcher.interrupted(self.unique)

    def error(self, error: Union[int, BaseException]) -> None:
        """Refuse, by errno or by an exception as a handler might raise it."""
        number = error if isinstance(error, int) else errno_of(error)
        if number is None:
            log.error("request %d failed: %s", self.unique, error, exc_info=error)  # type: ignore[arg-type]
            number = errno.EIO
        if not 0 < number < 512:
            raise ValueError(f"{number} is no errno")
        self._answer(lib.mf_reply_err, number)

    def done(self) -> None:
        """Success, of operations that answer nothing more."""
        self._answer(lib.mf_reply_err, 0)

    def entry(self, entry: Entry) -> None:
        """Answer lookup, mknod, mkdir, symlink, link."""
        self._answer(lib.mf_reply_entry, _entry(entry))

    def attr(self, attr: Attr, timeout: float = 0.0) -> None:
        """Answer getattr and setattr; the kernel may keep them for `timeout` seconds."""
        self._answer(lib.mf_reply_attr, ffi.from_buffer("struct mf_attr *", attr._packed), _nanoseconds(timeout))

    def open(self, answer: Union[Open, int, None] = None) -> None:
        """Answer open and opendir."""
        self._answer(lib.mf_reply_open, _open(answer))

    def create(self, entry: Entry, answer: Union[Open, int, None] = None) -> None:
        """Answer create."""
        self._answer(lib.mf_reply_create, _entry(entry), _open(answer))

    def data(self, data: Union[bytes, bytearray, memoryview, FileSlice]) -> None:
        """Answer read, readlink and, where the value and not its size was asked for, getxattr and listxattr."""
        if isinstance(data, FileSlice):
            fd, offset, size = data._values
            self._answer(lib.mf_reply_fd, fd, offset, size)
        else:
            self._answer(lib.mf_reply_data, ffi.from_buffer(data), len(memoryview(data).cast("B")))

    def written(self, size: int) -> None:
        """Answer write."""
        if size < 0:
            raise ValueError(f"{size} bytes written")
        self._answer(lib.mf_reply_write, size)

    def statfs(self, st: Statfs) -> None:
        """Answer statfs."""
        self._answer(lib.mf_reply_statfs, ffi.from_buffer("struct mf_statfs *", st._packed))

    def xattr_size(self, size: int) -> None:
        """Answer getxattr and listxattr that ask for the size."""
        self._answer(lib.mf_reply_xattr_size, size)

    def _invalidate(self) -> None:
        with self._lock:
            self._req = None

    def __del__(self) -> None:
        if getattr(self, "_req", None) is None:
            return
        log.warning("request %d was kept and dropped without an answer", self.unique)
        try:
            self._answer(lib.mf_reply_err, errno.EIO)
        except (RuntimeError, OSError):
            pass


def _entry(entry: Entry) -> Any:
    if not isinstance(entry, Entry):
        raise TypeError(f"an Entry is wanted, not {type(entry).__name__}")
    out = ffi.new("struct mf_entry *")
    out.size = ffi.sizeof("struct mf_entry")
    out.node = entry.node
    out.generation = entry.generation
    out.entry_timeout_ns, out.attr_timeout_ns = entry._timeouts_ns
    ffi.memmove(ffi.addressof(out, "attr"), entry.attr._packed, ffi.sizeof("struct mf_attr"))
    return out


def _open(answer: Optional[Union[Open, int]]) -> Any:
    out = ffi.new("struct mf_open *")
    out.size = ffi.sizeof("struct mf_open")
    if isinstance(answer, Open):
        out.fh, out.flags, out.backing_id = answer._values
    elif answer is not None:
        out.fh = answer
    return out
