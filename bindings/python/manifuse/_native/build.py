# SPDX-License-Identifier: MIT
"""Builds the extension module: the engine's C sources, the glue and cffi's code, in one shared object.

cffi runs this file from setup.py, with the root of the source tree as the working directory.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path("bindings/python/manifuse/_native")


def declarations() -> str:
    """Everything that Python calls: the interface, the glue, and what C calls in Python."""
    glue = (HERE / "glue.h").read_text()
    glue = re.sub(r"^#.*$", "", glue, flags=re.M)
    glue = re.sub(r"^struct \w+;$", "", glue, flags=re.M)
    return (HERE / "cdef.h").read_text() + "struct mf_py_binding;\n" + glue + (HERE / "callbacks.h").read_text()


def sources() -> list[str]:
    """The engine and the glue, relative to the root as setuptools wants them."""
    engine = sorted(str(path) for top in ("core", "abi") for path in Path(top).rglob("*.c"))
    return [*engine, str(HERE / "glue.c"), str(HERE / "reply.c")]


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "manifuse._native._engine",
    '#include <manifuse/manifuse.h>\n#include <manifuse/testing.h>\n#include "glue.h"\n',
    sources=sources(),
    include_dirs=["abi/include", "core", str(HERE)],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden", "-pthread"],
    # Nothing but the module's entry is visible: another copy of the engine in the process stays apart.
    extra_link_args=["-pthread", f"-Wl,--version-script={HERE}/engine.map"],
    py_limited_api=True,
)
