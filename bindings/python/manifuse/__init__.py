# SPDX-License-Identifier: MIT
"""Filesystems in userspace: several readers on one mount, on an engine of its own.

Subclass :class:`InodeFS`, define the operations that the filesystem has, and give an instance to
:func:`main`, :func:`mount` or :class:`Session`; to :class:`manifuse.testing.Client` in tests.
"""

from __future__ import annotations

from manifuse._native import ffi, lib
from manifuse.errors import errno_of
from manifuse.filesystem import InodeFS
from manifuse.program import main
from manifuse.request import Context, Reply, context
from manifuse.session import Info, NegotiatedContext, OpStats, ReaderStats, Session, mount
from manifuse.types import NEGATIVE, ROOT, Attr, Dirent, Entry, FileSlice, Open, SetAttr, Statfs

__all__ = [
    "NEGATIVE",
    "ROOT",
    "Attr",
    "Context",
    "Dirent",
    "Entry",
    "FileSlice",
    "Info",
    "InodeFS",
    "NegotiatedContext",
    "OpStats",
    "Open",
    "ReaderStats",
    "Reply",
    "Session",
    "SetAttr",
    "Statfs",
    "context",
    "errno_of",
    "main",
    "mount",
]

__version__: str = ffi.string(lib.mf_version()).decode()
