# SPDX-License-Identifier: MIT
"""Between the C glue and the handlers: which are defined, and all that is too rare or too long for C."""

from __future__ import annotations

import inspect
import logging
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NamedTuple, Optional

from manifuse._native import ffi, lib
from manifuse.errors import errno_of
from manifuse.filesystem import InodeFS
from manifuse.types import Attr, Dirent, Entry, FileSlice, Open, SetAttr, Statfs, _nanoseconds

log = logging.getLogger("manifuse")

EIO = 5
ENOENT = 2
OPS = 64
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)


class Operation(NamedTuple):
    """A handler by name: its opcode, the arguments that it always gets, and those that it gets if it names them."""

    code: int
    required: tuple[str, ...]
    extra: tuple[str, ...] = ()


# The order of the arguments is glue.c's.
OPERATIONS: dict[str, Operation] = {
    "lookup": Operation(lib.MF_OP_LOOKUP, ("parent", "name")),
    "forget": Operation(lib.MF_OP_FORGET, ("node", "nlookup")),
    "forget_many": Operation(lib.MF_OP_FORGET, ("items",)),
    "getattr": Operation(lib.MF_OP_GETATTR, ("node",), ("fh",)),
    "setattr": Operation(lib.MF_OP_SETATTR, ("node", "changes")),
    "readlink": Operation(lib.MF_OP_READLINK, ("node",)),
    "symlink": Operation(lib.MF_OP_SYMLINK, ("parent", "name", "target")),
    "mknod": Operation(lib.MF_OP_MKNOD, ("parent", "name", "mode", "rdev")),
    "mkdir": Operation(lib.MF_OP_MKDIR, ("parent", "name", "mode")),
    "unlink": Operation(lib.MF_OP_UNLINK, ("parent", "name")),
    "rmdir": Operation(lib.MF_OP_RMDIR, ("parent", "name")),
    "rename": Operation(lib.MF_OP_RENAME, ("parent", "name", "newparent", "newname", "flags")),
    "link": Operation(lib.MF_OP_LINK, ("node", "newparent", "newname")),
    "open": Operation(lib.MF_OP_OPEN, ("node", "flags")),
    "create": Operation(lib.MF_OP_CREATE, ("parent", "name", "mode", "flags")),
    "read": Operation(lib.MF_OP_READ, ("node", "fh", "offset", "size"), ("flags", "lock_owner")),
    "write": Operation(lib.MF_OP_WRITE, ("node", "fh", "offset", "data"), ("flags", "lock_owner")),
    "flush": Operation(lib.MF_OP_FLUSH, ("node", "fh"), ("lock_owner",)),
    "release": Operation(lib.MF_OP_RELEASE, ("node", "fh"), ("flags", "lock_owner")),
    "fsync": Operation(lib.MF_OP_FSYNC, ("node", "fh", "datasync")),
    "opendir": Operation(lib.MF_OP_OPENDIR, ("node", "flags")),
    "readdir": Operation(lib.MF_OP_READDIR, ("node",), ("fh", "offset")),
    "releasedir": Operation(lib.MF_OP_RELEASEDIR, ("node", "fh"), ("flags",)),
    "fsyncdir": Operation(lib.MF_OP_FSYNCDIR, ("node", "fh", "datasync")),
    "statfs": Operation(lib.MF_OP_STATFS, ("node",)),
    "access": Operation(lib.MF_OP_ACCESS, ("node", "mask")),
    "setxattr": Operation(lib.MF_OP_SETXATTR, ("node", "name", "value", "flags")),
    "getxattr": Operation(lib.MF_OP_GETXATTR, ("node", "name")),
    "listxattr": Operation(lib.MF_OP_LISTXATTR, ("node",)),
    "removexattr": Operation(lib.MF_OP_REMOVEXATTR, ("node", "name")),
}
_NAMES = {op.code: name for name, op in OPERATIONS.items() if name != "forget_many"}
_ENTRY_OPS = frozenset(OPERATIONS[n].code for n in ("lookup", "symlink", "mknod", "mkdir", "link"))
_ATTR_OPS = frozenset(OPERATIONS[n].code for n in ("getattr", "setattr"))
_OPEN_OPS = frozenset(OPERATIONS[n].code for n in ("open", "opendir"))
_CREATE = lib.MF_OP_CREATE
_READ = lib.MF_OP_READ
_READLINK = lib.MF_OP_READLINK
_WRITE = lib.MF_OP_WRITE
_STATFS = lib.MF_OP_STATFS
_GETXATTR = lib.MF_OP_GETXATTR


@ffi.def_extern()  # type: ignore[untyped-decorator,unused-ignore]
def mf_py_log(level: int, text: Any, user: Any) -> None:
    """A line of the engine's, from any of its threads."""
    log.log(
        _LEVELS[level] if level < len(_LEVELS) else logging.DEBUG, "%s", ffi.string(text).decode("utf-8", "replace")
    )


def defined(fs: InodeFS, name: str) -> Optional[Callable[..., Any]]:
    """The filesystem's own method of this name; None where it has only the one that InodeFS documents."""
    method = getattr(fs, name, None)
    if method is None or getattr(method, "__func__", method) is getattr(InodeFS, name, None):
        return None
    if not callable(method):
        raise TypeError(f"{type(fs).__name__}.{name} is not callable")
    return method  # type: ignore[no-any-return]


def arity(fs: InodeFS, name: str, method: Callable[..., Any]) -> int:
    """How many of an operation's arguments a handler takes: the required ones and those extra ones that it names.

    Raises:
        TypeError: it cannot be called with the required ones.
    """
    op = OPERATIONS[name]
    count = len(op.required)
    where = f"{type(fs).__name__}.{name}"
    if inspect.iscoroutinefunction(method):
        raise TypeError(f"{where} is a coroutine function; handlers are plain functions (see Context.defer)")
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # made in C: it takes what is required
        return count
    positional = [
        p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    for extra in op.extra:
        if positional[count : count + 1] != [extra]:
            break
        count += 1
    try:
        signature.bind(*range(count))
    except TypeError as error:
        raise TypeError(f"{where}({', '.join(op.required)}) is how it is called: {error}") from None
    return count


class Handle:
    """The native session, and a guard against its being freed while a thread is in a call on it."""

    def __init__(self) -> None:
        self._pointer: Any = None
        self._users = 0
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())

    def set(self, pointer: Any) -> None:
        self._pointer = pointer

    @property
    def foreign(self) -> bool:
        """This is a forked child: readers, mount and descriptors are its parent's."""
        return os.getpid() != self._pid

    def __enter__(self) -> Any:
        if self.foreign:
            raise ValueError("the session belongs to the process that made it")
        with self._changed:
            if self._pointer is None:
                raise ValueError("the session is closed")
            self._users += 1
            return self._pointer

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._users -= 1
            if not self._users:
                self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._pointer is None

    def take(self) -> Any:
        """Close: no later call begins, and those under way have ended. None: closed already."""
        with self._changed:
            pointer, self._pointer = self._pointer, None
            while self._users:
                self._changed.wait()
            return pointer


class Dispatcher:
    """What the handlers of one session need. The glue holds it, so it holds no Session."""

    def __init__(self, fs: InodeFS) -> None:
        self.fs = fs
        self.handle = Handle()
        self.ended_by: Optional[BaseException] = None
        self._waiting: dict[int, list[Callable[[], object]]] = {}
        self._lock = threading.Lock()
        self._listings = Listings()
        self.implemented = 0
        self._handlers: list[Optional[Callable[..., Any]]] = [None] * OPS
        self._counts = bytearray(OPS)
        for name in OPERATIONS:
            method = defined(fs, name)
            if method is not None:
                self._add(name, method)

    def _add(self, name: str, method: Callable[..., Any]) -> None:
        op = OPERATIONS[name]
        count = arity(self.fs, name, method)
        handler = method
        if name == "forget":
            handler, count = _forget_each(method), 1
        elif name == "setattr":
            handler, count = _setattr(method), 5
        elif name == "readdir":
            handler, count = self._listings.reader(method, count), 4
        elif name == "listxattr":
            handler = _listxattr(method)
        self._handlers[op.code] = handler
        self._counts[op.code] = count
        self.implemented |= 1 << op.code

    def new_binding(self) -> Any:
        """The C side of all this; free it after the session."""
        fs = self.fs
        config = (
            tuple(self._handlers),
            bytes(self._counts),
            bool(fs.write_views),
            self.normalise,
            self.fail,
            self.interrupted,
            defined(fs, "reader_start"),
            defined(fs, "reader_end"),
            defined(fs, "destroy"),
            Attr,
            Entry,
            Open,
            Statfs,
            FileSlice,
            self,
        )
        binding = lib.mf_py_binding_new(id(config), self.implemented, _nanoseconds(fs.attr_timeout))
        if binding == ffi.NULL:
            raise MemoryError
        return binding

    def normalise(self, op: int, result: Any, limit: int) -> Any:
        """Turn an answer of an unusual type into one that the glue knows, or say what is wrong with it."""
        name = _NAMES.get(op, str(op))
        if op in _ENTRY_OPS:
            return _as_entry(name, result)
        if op in _ATTR_OPS:
            if isinstance(result, Attr):
                return Attr._from_packed(result._packed)
            if isinstance(result, Entry):
                return _as_entry(name, result)
            raise _wrong(name, "an Attr", result)
        if op in _OPEN_OPS:
            return _as_open(name, result)
        if op == _CREATE:
            if not isinstance(result, tuple) or len(result) != 2:
                raise _wrong(name, "a tuple (Entry, Open)", result)
            return (_as_entry(name, result[0]), _as_open(name, result[1]))
        if op == _WRITE:
            return _as_written(result, limit)
        if op == _STATFS:
            raise _wrong(name, "a Statfs", result)
        if op in (_READ, _READLINK, _GETXATTR, lib.MF_OP_READDIR, lib.MF_OP_LISTXATTR):
            return _as_bytes(op, name, result, limit)
        raise _wrong(name, "nothing", result)

    def fail(self, op: int, node: int, error: BaseException) -> int:
        """The errno of an exception that the glue did not know. Ends the session where it means that."""
        try:
            number = errno_of(error)
        except Exception:  # an errno of its own making
            number = None
        if number is not None:
            return number
        name = _NAMES.get(op, str(op))
        if not isinstance(error, Exception):
            with self._lock:
                if self.ended_by is None:
                    self.ended_by = error
            log.info("%s of node %d ends the session: %r", name, node, error)
            if not self.handle.closed:
                with self.handle as session:
                    lib.mf_session_stop(session)
            return EIO
        try:
            text = str(error)
        except Exception:
            text = "an exception that cannot be shown"
        log.error("%s of node %d failed: %s: %s", name, node, type(error).__name__, text, exc_info=error)
        return EIO

    # ---- interrupts

    def on_interrupt(self, unique: int, function: Callable[[], object]) -> None:
        """Call a function when the caller of this request gives up."""
        with self._lock:
            while len(self._waiting) >= 4096:  # finished requests stay until then: nobody tells of their end
                del self._waiting[next(iter(self._waiting))]
            self._waiting.setdefault(unique, []).append(function)

    def interrupted(self, unique: int) -> None:
        """A caller gave up. On a reader's thread, so what is called must not block."""
        with self._lock:
            functions = self._waiting.pop(unique, [])
        own = defined(self.fs, "interrupt")
        if own is not None:
            functions = [*functions, lambda: own(unique)]
        for function in functions:
            try:
                function()
            except Exception:
                log.exception("the function for the interrupt of request %d failed", unique)


def _forget_each(method: Callable[[int, int], None]) -> Callable[[list[tuple[int, int]]], None]:
    def forget(items: list[tuple[int, int]]) -> None:
        for node, nlookup in items:
            method(node, nlookup)

    return forget


def _setattr(method: Callable[[int, SetAttr], Any]) -> Callable[..., Any]:
    from_wire = SetAttr._from_wire

    def setattr_(node: int, fh: Optional[int], packed: bytes, valid: int, lock_owner: int) -> Any:
        return method(node, from_wire(fh, packed, valid, lock_owner))

    return setattr_


def _listxattr(method: Callable[[int], Any]) -> Callable[[int], Any]:
    def listxattr(node: int) -> Any:
        names = method(node)
        if isinstance(names, (str, bytes, bytearray, memoryview)) or not isinstance(names, Iterable):
            raise _wrong("listxattr", "an iterable of names", names)
        raw = [os.fsencode(name) for name in names]
        for name in raw:
            if not name or b"\0" in name:
                raise ValueError(f"listxattr: {name!r} is not the name of an attribute")
        return b"".join(name + b"\0" for name in raw)

    return listxattr


def _wrong(name: str, wanted: str, got: object) -> TypeError:
    return TypeError(f"{name} must return {wanted}, not {type(got).__name__}")


def _as_entry(name: str, result: Any) -> Entry:
    if not isinstance(result, Entry):
        raise _wrong(name, "an Entry", result)
    if not result.node and name != "lookup":
        raise ValueError(f"{name}: a negative Entry answers nothing but lookup")
    return Entry._from_packed(result._packed)


def _as_open(name: str, result: Any) -> Any:
    if isinstance(result, Open):
        return Open(result.fh, result.flags)
    if isinstance(result, int):
        if not 0 <= result < (1 << 64) - 1:
            raise ValueError(f"{name}: file handle {result} is not within 0 ... 2**64 - 2")
        return int(result)
    if result is None:
        return None
    raise _wrong(name, "an Open, a file handle or None", result)


def _as_written(result: Any, limit: int) -> int:
    if result is None:
        return limit
    if not isinstance(result, int):
        raise _wrong("write", "the number of bytes written", result)
    if not 0 <= result <= limit:
        raise ValueError(f"write: {result} bytes written of {limit}")
    return int(result)


def _as_bytes(op: int, name: str, result: Any, limit: int) -> bytes:
    if op == _READLINK and isinstance(result, (str, os.PathLike)):
        data = os.fsencode(result)
    elif isinstance(result, (bytes, bytearray, memoryview)):
        data = bytes(result)
    else:
        raise _wrong(name, "bytes", result)
    if op == _READLINK and b"\0" in data:
        raise ValueError("readlink: NUL in the target")
    if op != _GETXATTR and len(data) > limit:
        raise ValueError(f"{name}: {len(data)} bytes where at most {limit} were asked for")
    return data


# ---- listings

_HEADER = struct.Struct("=QQII")
_pack_header = _HEADER.pack
_UNKNOWN_INO = 0xFFFFFFFF
_PADDING = tuple(bytes(-(n) % 8) for n in range(8))


class Listing:
    """A directory that is being read: the iterator, and records that go before what it gives next."""

    __slots__ = ("_dots", "_entries", "_first", "cookie")

    def __init__(self, entries: Iterator[Any], node: int, dots: bool, cookie: int) -> None:
        self._entries = entries
        self._dots = dots
        self.cookie = cookie  # of the last record that was answered
        self._first: list[tuple[bytes, int]] = []  # last one first
        if dots:
            self._first = [(_DOT_DOT, 2), (_pack_header(node, 1, 1, 4) + _DOT_NAME, 1)]

    @property
    def full(self) -> bool:
        """A record waits that did not fit."""
        return bool(self._first)

    def skip_to(self, cookie: int) -> None:
        """Go on after the entry with this cookie; at the end where there is none."""
        while self.cookie != cookie and self.page(0, 1):
            pass

    def page(self, size: int, count: int = -1) -> bytes:
        """Records of at most `size` bytes; none at the end. With a count: pass over so many, whatever their size."""
        records: list[bytes] = []
        cookie = self.cookie
        first = self._first
        while first:
            record, following = first[-1]
            if count < 0 and len(record) > size:
                return b"".join(records)
            first.pop()
            records.append(record)
            size -= len(record)
            self.cookie = cookie = following
            if count > 0:
                return record
        dots = self._dots
        for entry in self._entries:
            if type(entry) is not Dirent and not isinstance(entry, Dirent):
                raise _wrong("readdir", "an iterable of Dirent", entry)
            name = entry._name
            if dots and name in _DOTS:
                continue
            length = len(name)
            following = cookie + 1 if entry._next is None else entry._next
            record = (
                _pack_header(entry._ino or _UNKNOWN_INO, following, length, (entry._mode & 0o170000) >> 12)
                + name
                + _PADDING[length & 7]
            )
            size -= len(record)
            if size < 0 and count < 0:
                first.append((record, following))
                break
            records.append(record)
            self.cookie = cookie = following
            if count > 0:
                break
        return b"".join(records)


_DOTS = frozenset((b".", b".."))
_DOT_NAME = b"." + bytes(7)
_DOT_DOT = _pack_header(_UNKNOWN_INO, 2, 2, 4) + b".." + bytes(6)


class Listings:
    """Directories that are being read, by node, file handle and the cookie with which the kernel will go on.

    A listing is taken out while it is used, so two readers never share one. At most LIMIT are kept; one that
    was dropped, or another place in it, is found again by asking the handler anew.
    """

    LIMIT = 64

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, Optional[int], int], Listing] = OrderedDict()
        self._lock = threading.Lock()

    def _take(self, key: tuple[int, Optional[int], int]) -> Optional[Listing]:
        with self._lock:
            return self._kept.pop(key, None)

    def _keep(self, key: tuple[int, Optional[int], int], listing: Listing) -> None:
        with self._lock:
            self._kept[key] = listing
            dropped = self._kept.popitem(last=False)[1] if len(self._kept) > self.LIMIT else None
        del dropped  # closes a generator, which is the filesystem's code: not under the lock

    def reader(self, method: Callable[..., Any], count: int) -> Callable[..., bytes]:
        """The handler for the glue: (node, fh, offset, size) -> records."""

        def begin(node: int, fh: Optional[int], offset: int) -> Listing:
            if count == 3:
                return Listing(_iterate(method(node, fh, offset)), node, False, offset)
            listing = Listing(_iterate(method(node) if count == 1 else method(node, fh)), node, True, 0)
            listing.skip_to(offset)
            return listing

        def readdir(node: int, fh: Optional[int], offset: int, size: int) -> bytes:
            listing = self._take((node, fh, offset)) if offset else None
            if listing is None:
                listing = begin(node, fh, offset)
            page = listing.page(size)
            if page:
                self._keep((node, fh, listing.cookie), listing)
            elif listing.full:
                raise OSError(22, "the buffer is too small for one name")
            return page

        return readdir


def _iterate(entries: Any) -> Iterator[Any]:
    try:
        return iter(entries)
    except TypeError:
        raise _wrong("readdir", "an iterable of Dirent", entries) from None
