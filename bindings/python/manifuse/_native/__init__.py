# SPDX-License-Identifier: MIT
"""The engine as Python sees it. Private: use the names of :mod:`manifuse`."""

from __future__ import annotations

from typing import Any

from manifuse._native._engine import ffi, lib

__all__ = ["Kept", "ffi", "handled", "keep", "lib"]

_names: dict[str, Any] = {}
if lib.mf_py_names(id(_names)) < 0:
    raise MemoryError
Kept: Any = _names["Kept"]
handled: Any = _names["handled"]
keep: Any = _names["keep"]
