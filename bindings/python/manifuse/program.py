# SPDX-License-Identifier: MIT
"""The main program of a filesystem."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Callable, NoReturn, Optional, Union

from manifuse._native import ffi, lib
from manifuse.filesystem import InodeFS
from manifuse.session import Session

__all__ = ["main"]


def main(
    fs: Union[InodeFS, Callable[[], InodeFS], Callable[[str], InodeFS]],
    argv: Optional[Sequence[str]] = None,
    *,
    source: bool = False,
    options: Optional[str] = None,
    **session_options: object,
) -> NoReturn:
    """Mount and serve as the command line says, then exit.

    The command line is ``[SOURCE] MOUNTPOINT [--readers N] [--clone off|auto|require]
    [--uring off|auto|require] [-o option[,option]] [--debug] [--help]``. Serves in the foreground until the
    mount is gone or SIGINT, SIGTERM or SIGHUP comes. With MANIFUSE_STATS=1 in the environment, one line of
    JSON per reader goes to standard error at a clean end.

    Args:
        fs: the filesystem, or a function that makes it: after the command line was understood, and given
            SOURCE where there is one.
        argv: the program's name and its arguments; None = sys.argv.
        source: the command line has a SOURCE.
        options: mount options that the program wants besides those of ``-o``.
        **session_options: as for :class:`Session`.

    Raises:
        SystemExit: 0 after a clean end, 1 after a failure, 2 for a wrong command line.
    """
    args = list(sys.argv if argv is None else argv)
    name = os.path.basename(args[0]) if args else "manifuse"
    raw = [ffi.new("char[]", os.fsencode(arg)) for arg in args]
    words = ffi.new("char *[]", [*raw, ffi.NULL])
    line = ffi.new("struct mf_cmdline *")
    line.size = ffi.sizeof("struct mf_cmdline")
    if lib.mf_cmdline_parse(len(args), words, int(source), line) < 0:
        print(ffi.string(line.text).decode("utf-8", "replace").rstrip(), file=sys.stderr)
        sys.exit(2)
    if line.show_help:
        print(ffi.string(line.text).decode("utf-8", "replace").rstrip())
        sys.exit(0)
    debug = bool(line.opts.flags & lib.MF_OPT_DEBUG)
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format=f"{name}: %(message)s",
    )
    given = os.fsdecode(ffi.string(line.opts.mount_options)) if line.opts.mount_options != ffi.NULL else ""
    try:
        if not isinstance(fs, InodeFS):
            fs = fs(os.fsdecode(ffi.string(line.source))) if source else fs()  # type: ignore[call-arg]
        merged = ",".join(text for text in (options, given) if text)
        session_options.setdefault("signals", True)
        with Session(fs, base=ffi.addressof(line, "opts"), options=merged or None, **session_options) as session:
            session.mount(os.fsdecode(ffi.string(line.mountpoint)))
            session.run()
            if os.environ.get("MANIFUSE_STATS") == "1":
                session.write_stats(2)
    except OSError as error:
        text = error.strerror or str(error)
        if error.filename is not None and str(error.filename) not in text:
            text = f"{error.filename}: {text}"
        print(f"{name}: {text}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
