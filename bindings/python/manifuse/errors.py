# SPDX-License-Identifier: MIT
"""From exceptions to errno.

A handler refuses a request by raising ``OSError`` with an errno, or one of its subclasses without arguments:
``raise FileNotFoundError`` is ENOENT. Calls of this package raise ``OSError`` themselves, as the subclass that
belongs to the errno, with the engine's words for what is wrong.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Optional

from manifuse._native import ffi

__all__ = ["errno_of"]

# Most derived first: the first match counts.
_NATURAL: tuple[tuple[type[OSError], int], ...] = (
    (FileNotFoundError, errno.ENOENT),
    (FileExistsError, errno.EEXIST),
    (PermissionError, errno.EACCES),
    (NotADirectoryError, errno.ENOTDIR),
    (IsADirectoryError, errno.EISDIR),
    (InterruptedError, errno.EINTR),
    (TimeoutError, errno.ETIMEDOUT),
    (BlockingIOError, errno.EAGAIN),
    (ChildProcessError, errno.ECHILD),
    (ProcessLookupError, errno.ESRCH),
    (BrokenPipeError, errno.EPIPE),
    (ConnectionAbortedError, errno.ECONNABORTED),
    (ConnectionRefusedError, errno.ECONNREFUSED),
    (ConnectionResetError, errno.ECONNRESET),
)


def errno_of(error: BaseException) -> Optional[int]:
    """The errno that an exception stands for, or None: it is no answer but a mistake.

    An ``OSError`` with an errno within the protocol's range (1 to 511) is that errno; a subclass without one
    is the errno that Python maps to it. PermissionError without arguments is EACCES.
    """
    if not isinstance(error, OSError):
        return None
    number = error.errno
    if isinstance(number, int):
        return number if 0 < number < 512 else None
    for cls, natural in _NATURAL:
        if isinstance(error, cls):
            return natural
    return None


def new_error() -> Any:
    """Memory for the engine's words."""
    err = ffi.new("struct mf_error *")
    err.size = ffi.sizeof("struct mf_error")
    return err


def check(rc: int, err: Any = None, path: Optional[str] = None, what: str = "") -> int:
    """Return a result that is no error, else raise the OSError that it is."""
    if rc >= 0:
        return rc
    text = ffi.string(err.text).decode("utf-8", "replace") if err is not None else ""
    if not text:
        text = f"{what}: {os.strerror(-rc)}" if what else os.strerror(-rc)
    if path is not None:
        raise OSError(-rc, text, path)
    raise OSError(-rc, text)
