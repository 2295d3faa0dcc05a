# SPDX-License-Identifier: MIT
"""The request that is being handled: who asks, did he give up, and answering it later."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any, Optional, Union

from manifuse._native import Kept, ffi, handled, keep, lib
from manifuse.errors import check, errno_of
from manifuse.types import Attr, Entry, FileSlice, Open, Statfs, _nanoseconds

__all__ = ["Context", "Reply", "context"]

log = logging.getLogger("manifuse")
_ELSEWHERE = "the handler of this request has returned, or it runs on another thread"
_REQUEST = ffi.typeof("struct mf_req *")


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

    _dispatcher: Any
    uid: int
    gid: int
    pid: int
    umask: int
    unique: int
    reader: int
    again: bool

    def __init__(self, values: tuple[Any, int, int, int, int, int, int, bool]) -> None:
        self._dispatcher, self.uid, self.gid, self.pid, self.umask, self.unique, self.reader, self.again = values

    def _call(self) -> Any:
        call = lib.mf_py_current()
        if call == ffi.NULL or call.unique != self.unique:
            raise RuntimeError(_ELSEWHERE)
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
            OSError: EINVAL the request takes no answer; ENOTCONN the session was closed meanwhile.
        """
        reply = keep(Reply, self.unique)
        if reply is None:
            raise RuntimeError(_ELSEWHERE)
        if isinstance(reply, int):
            if reply == errno.EALREADY:
                raise RuntimeError(f"request {self.unique} was deferred before")
            check(-reply, what="defer")
        return reply  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Context(unique={self.unique}, uid={self.uid}, gid={self.gid}, pid={self.pid}, reader={self.reader})"


def context() -> Context:
    """The request whose handler runs on this thread.

    Raises:
        RuntimeError: no handler runs on this thread.
    """
    values = handled()
    if values is None:
        raise RuntimeError("context() is for handlers: no request is being handled on this thread")
    return Context(values)


class Reply(Kept):  # type: ignore[misc]
    """A request that was kept and waits for its answer: exactly one of the methods below, from any thread.

    One that is dropped without an answer answers EIO. The request's arguments are the handler's; names and
    data that it was given are copies and live on.

    Raises (all methods):
        RuntimeError: it is answered already, or the session is over.
        OSError: ENOENT the kernel no longer waits; EINVAL not an answer for this request (which got EIO).
    """

    __slots__ = ("__weakref__", "_dispatcher")

    unique: int
    answered: bool  #: An answer was given, or can no longer be.
    _dispatcher: Any

    def _answer(self, function: Callable[..., int], *args: Any) -> None:
        address = self._take()
        try:
            rc = function(_request(address), *args)
        finally:
            self._done()
        if rc == -errno.EALREADY:
            raise RuntimeError(f"request {self.unique} is answered already")
        check(rc, what="reply")

    @property
    def interrupted(self) -> bool:
        """The caller gave up: answer EINTR soon."""
        address = self._look()
        if address is None:
            return False
        try:
            return bool(lib.mf_req_interrupted(_request(address)) == 1)
        finally:
            self._done()

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
        if type(data) is bytes:
            self._answer(lib.mf_reply_data, data, len(data))
        elif isinstance(data, FileSlice):
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

    def __del__(self) -> None:
        if self.answered:
            return
        log.warning("request %d was kept and dropped without an answer", self.unique)
        try:
            self._answer(lib.mf_reply_err, errno.EIO)
        except (RuntimeError, OSError):
            pass


def _request(address: int) -> Any:
    return ffi.cast(_REQUEST, address)


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
