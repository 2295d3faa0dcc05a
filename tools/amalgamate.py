#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the Go binding's copy of the engine: one C file, and the public headers beside it.

cgo compiles only the C files in a package's own directory, `go mod vendor` copies only directories that are
packages, and the build cache looks at the package's own files. So the engine has to lie in the package:
internal/raw/manifuse_core.c holds all of core/ with every header of ours in its place (a changed header is a
changed C file), and internal/raw/manifuse/ the public headers, made a package by a Go file that does nothing.

    tools/amalgamate.py            write the files
    tools/amalgamate.py --check    exit 1 if they are not what would be written

Names that two files define for themselves are prefixed by their file's name in the copy.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "core"
PUBLIC = ROOT / "abi" / "include"
TARGET = ROOT / "bindings" / "go" / "internal" / "raw"
PACKAGE = "github.com/manifuse/manifuse/bindings/go/internal/raw/manifuse"
NOTICE = "Generated from core/ and abi/include/ by tools/amalgamate.py; do not edit."

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')
DEFINE = re.compile(r"^\s*#\s*define\s+(\w+)")
CONDITION = re.compile(r"^\s*#\s*(if|ifdef|ifndef|endif)\b")
# A comment, a string or a character: what names are not looked for in.
OPAQUE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
WORD = re.compile(r"\b[A-Za-z_]\w*\b")


class Trouble(Exception):
    """What stands in the way, in words."""


def strip_directives(text: str) -> str:
    """Text without comments, strings, and preprocessor lines with their continuations."""
    text = OPAQUE.sub(" ", text)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", "", text, flags=re.M)


def own_names(text: str) -> set[str]:
    """Names that a C file defines for itself: statics, tags, enumerators and typedefs at file scope."""
    names: set[str] = set()
    depth = 0
    statement = ""
    for part in re.split(r"([{};])", strip_directives(text)):
        if part == "{":
            if depth == 0:
                names |= head_names(statement, body_follows=True)
                enum = bool(re.search(r"\benum\b(?:\s+\w+)?\s*$", statement))
                statement = "\0enum " if enum else "\0 "
            depth += 1
        elif part == "}":
            depth -= 1
            if depth < 0:
                raise Trouble("braces do not match")
            if depth == 0:
                if statement.startswith("\0enum "):
                    names |= set(re.findall(r"(?:^|,)\s*(\w+)", statement[len("\0enum ") :]))
                statement = ""
        elif part == ";":
            if depth == 0:
                names |= head_names(statement, body_follows=False)
                statement = ""
        else:
            statement = statement + part if depth < 2 else statement
    return names


def head_names(statement: str, body_follows: bool) -> set[str]:
    """Names that one statement at file scope introduces and no other file may see."""
    names = set()
    statement = re.sub(r"__attribute__\s*\(\(.*?\)\)", " ", statement, flags=re.S)
    tag = re.search(r"\b(?:struct|union|enum)\s+(\w+)\s*$", statement)
    if tag and body_follows:
        names.add(tag.group(1))
    if re.match(r"\s*static\b", statement):
        head = re.sub(r"\[[^\]]*\]", "", statement.split("=", 1)[0])
        pointer = re.search(r"\(\s*\*\s*(\w+)", head)  # a function pointer, or an array of them
        function = re.search(r"(\w+)\s*\(", head)
        variable = re.search(r"(\w+)\s*$", head)
        found = pointer or function or variable
        if found and found.group(1) not in ("struct", "union", "enum", "_Static_assert"):
            names.add(found.group(1))
    typedef = re.match(r"\s*typedef\b.*?(\w+)\s*$", statement, re.S)
    if typedef:
        names.add(typedef.group(1))
    return names


def bodies(text: str) -> list[tuple[int, int]]:
    """Where structures and unions are defined: from brace to brace."""
    found = []
    for head in re.finditer(r"\b(?:struct|union)(?:\s+\w+)?\s*\{", text):
        depth = 0
        for brace in re.finditer(r"[{}]", text[head.end() - 1 :]):
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                found.append((head.end(), head.end() - 1 + brace.start()))
                break
    return found


def rename(text: str, names: dict[str, str]) -> str:
    """Rename words outside comments and strings, except where they name a member."""
    plain = OPAQUE.sub(lambda m: " " * len(m.group()), text)
    inside = bodies(plain)

    def replacement(match: re.Match[str]) -> str:
        word, start, end = match.group(), match.start(), match.end()
        if word not in names:
            return text[start:end]
        before, after = plain[:start].rstrip(), plain[end:].lstrip()[:1]
        used = before.endswith("->") or (before.endswith(".") and not before.endswith("..."))
        declared = (
            any(begin <= start < finish for begin, finish in inside)
            and after in (";", ",", "[", ":", ")")
            and not before.endswith(("[", "struct", "union", "enum"))
        )
        return word if used or declared else names[word]

    out = []
    at = 0
    for match in WORD.finditer(plain):
        out += [text[at : match.start()], replacement(match)]
        at = match.end()
    return "".join([*out, text[at:]])


class Amalgamation:
    """The C file while it grows."""

    def __init__(self) -> None:
        self.seen: set[Path] = set()
        self.system: set[str] = set()
        self.lines: list[str] = []

    def find(self, name: str, user: Path) -> Path:
        for directory in (user.parent, CORE, PUBLIC):
            path = (directory / name).resolve()
            if path.is_file():
                return path
        raise Trouble(f"{user.relative_to(ROOT)}: there is no {name}")

    def add(self, path: Path, text: str | None = None) -> None:
        """Append a file, with what it includes of ours in place of the directives."""
        depth = 0
        for line in (text if text is not None else path.read_text()).splitlines():
            condition = CONDITION.match(line)
            if condition:
                depth += -1 if condition.group(1) == "endif" else 1
            include = INCLUDE.match(line)
            if include is None:
                self.lines.append(line)
                continue
            ours, system = include.groups()
            if ours is None and not system.startswith("manifuse/"):
                # A header's guard counts as one condition.
                if depth == 0 or (path.suffix == ".h" and depth == 1):
                    if system in self.system:
                        continue
                    self.system.add(system)
                self.lines.append(line)
                continue
            found = self.find(ours or system, path)
            if found.suffix == ".h":
                if found in self.seen:
                    continue
                self.seen.add(found)
            self.lines += [f"/* {found.relative_to(ROOT)} */"]
            self.add(found)


def engine() -> str:
    files = sorted([*CORE.rglob("*.c"), *(ROOT / "abi").glob("*.c")])
    texts = {path: path.read_text() for path in files}
    owners: dict[str, list[Path]] = {}
    for path, text in texts.items():
        try:
            for name in own_names(text):
                owners.setdefault(name, []).append(path)
        except Trouble as trouble:
            raise Trouble(f"{path.relative_to(ROOT)}: {trouble}") from None

    out = Amalgamation()
    for path, text in texts.items():
        prefix = f"{path.parent.name}_{path.stem}_"
        clashes = {name: prefix + name for name, where in owners.items() if len(where) > 1 and path in where}
        out.lines += ["", f"/* ==== {path.relative_to(ROOT)} ==== */"]
        out.add(path, rename(text, clashes) if clashes else text)
        macros = sorted({m.group(1) for line in text.splitlines() if (m := DEFINE.match(line))})
        out.lines += [f"#undef {macro}" for macro in macros]
    head = [
        "//go:build !manifuse_system",
        "",
        "/* SPDX-License-Identifier: MIT */",
        f"/* {NOTICE} */",
        "#ifndef _GNU_SOURCE",
        "#define _GNU_SOURCE",
        "#endif",
    ]
    return "\n".join([*head, *out.lines]) + "\n"


def outputs() -> dict[Path, str]:
    files = {TARGET / "manifuse_core.c": engine()}
    for header in sorted((PUBLIC / "manifuse").glob("*.h")):
        files[TARGET / "manifuse" / header.name] = f"/* {NOTICE} */\n{header.read_text()}"
    generated = f"// Code generated by tools/amalgamate.py. DO NOT EDIT.\n// {NOTICE}\n"
    files[TARGET / "manifuse" / "doc.go"] = (
        f"{generated}\n"
        "// Package manifuse has the engine's public C headers in its directory, and no Go code. It is a package\n"
        "// so that go mod vendor takes the directory along.\npackage manifuse\n"
    )
    files[TARGET / "headers.go"] = f'{generated}\npackage raw\n\nimport _ "{PACKAGE}" // the C headers\n'
    return files


def compile_check(path: Path) -> None:
    command = ["gcc", "-std=c11", "-fsyntax-only", "-pthread", "-Wall", "-Werror", "-I", str(TARGET), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"{path.relative_to(ROOT)} does not compile:\n{done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    try:
        files = outputs()
        if args.check:
            stale = [p for p, text in files.items() if not p.is_file() or p.read_text() != text]
            extra = [p for p in (TARGET / "manifuse").glob("*") if p not in files]
            if stale or extra:
                names = " ".join(str(p.relative_to(ROOT)) for p in [*stale, *extra])
                raise Trouble(f"not up to date (make amalgamation): {names}")
        else:
            headers = TARGET / "manifuse"
            if headers.is_symlink():
                headers.unlink()
            shutil.rmtree(headers, ignore_errors=True)
            headers.mkdir(parents=True)
            for path, text in files.items():
                if not path.is_file() or path.read_text() != text:
                    path.write_text(text)
        compile_check(TARGET / "manifuse_core.c")
    except Trouble as trouble:
        print(f"amalgamate: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
