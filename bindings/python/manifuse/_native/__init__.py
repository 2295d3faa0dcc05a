# SPDX-License-Identifier: MIT
"""The engine as Python sees it. Private: use the names of :mod:`manifuse`."""

from __future__ import annotations

from manifuse._native._engine import ffi, lib

__all__ = ["ffi", "lib"]
