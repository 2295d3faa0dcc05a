#!/usr/bin/env python3
"""Measures what a call of a handler costs in each language, without a kernel.

C: a whole request in the engine, the handler included (bench/overhead.c), and
how much of that is counting: with and without it in alternation, the median.
Python and Go: what comes on top of that, from the engine into the language and
back, the handler included. CPU nanoseconds for Python and C, elapsed ones for
Go; the least of several runs. Run bench/setup first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, Callable

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "build" / "bench"
CALLS = ("getattr", "lookup", "read")
RUNS = 5
TYPICAL_US = 8.0  # a request over the ring, where none was measured

PYTHON = f"""
import json, sys
sys.path.insert(0, "examples/python")
from null import Null
from manifuse.testing import upcall_ns
fs = Null()
print(json.dumps({{op: min(upcall_ns(fs, op) for _ in range({RUNS})) for op in {CALLS!r}}}))
"""

Costs = dict[str, float]


class NotMeasured(Exception):
    pass


def output(argv: list[str], cwd: Path = TOP) -> str:
    if not Path(argv[0]).exists():
        raise NotMeasured(f"{os.path.relpath(argv[0], TOP)} is not built")
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise NotMeasured("it did not end") from None
    if done.returncode:
        raise NotMeasured((done.stderr.strip() or "no message").splitlines()[-1])
    return done.stdout


def in_json(argv: list[str]) -> Costs:
    costs: Costs = json.loads(output(argv))
    return costs


def c() -> Costs:
    return in_json([os.fspath(OUT / "overhead")])


def statistics() -> Costs:
    return in_json([os.fspath(OUT / "overhead-statistics")])


def python() -> Costs:
    return in_json([os.fspath(TOP / "build/venv/bin/python"), "-c", PYTHON])


def go() -> Costs:
    text = output([os.fspath(OUT / "go-overhead"), "-test.run=^$", "-test.bench=^BenchmarkUpcall$",
                   "-test.benchtime=100000x", f"-test.count={RUNS}"], TOP / "bindings" / "go")  # fmt: skip
    costs: Costs = {}
    for name, ns in re.findall(r"^BenchmarkUpcall/(\w+)\S*\s.*?([\d.]+) ns/upcall", text, re.M):
        costs[name] = min(float(ns), costs.get(name, float("inf")))
    if not all(op in costs for op in CALLS):
        raise NotMeasured("the benchmark printed something else")
    return {op: costs[op] for op in CALLS}


LANGUAGES: dict[str, tuple[str, Callable[[], Costs]]] = {
    "c": ("C: the engine and the handler", c),
    "statistics": ("C: of this, statistics", statistics),
    "python": ("Python: on top of the engine", python),
    "go": ("Go: on top of the engine", go),
}


def measure() -> list[dict[str, Any]]:
    """One row per language; one that cannot be measured has the reason in `skipped`."""
    rows = []
    for language, (what, cost) in LANGUAGES.items():
        row: dict[str, Any] = {"language": language, "what": what, "ns": {}, "skipped": None}
        try:
            row["ns"] = {op: round(ns, 1) for op, ns in cost().items()}
        except (NotMeasured, OSError, ValueError) as e:
            row["skipped"] = str(e)
        rows.append(row)
    return rows


def cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [[r["what"], *(number(r["ns"][op]) if op in r["ns"] else "" for op in CALLS)] for r in rows]


def number(ns: float) -> str:
    return f"{ns:.1f}" if ns < 20 else f"{ns:,.0f}"


def statistics_text(rows: list[dict[str, Any]], request_us: float | None) -> str | None:
    """What counting comes to beside a request that a client waits for."""
    for r in rows:
        if r["language"] == "statistics" and r["ns"]:
            ns = median(r["ns"].values())
            of = f"the {request_us:.1f} µs that one" if request_us else f"{TYPICAL_US:g} µs, about what one"
            return (f"Statistics take {ns:.1f} ns of a request: {ns / 10 / (request_us or TYPICAL_US):.2f} % of "
                    f"{of} over the ring takes on the mean (`c-ring`, read4k, one client).")  # fmt: skip
    return None


def render(rows: list[dict[str, Any]], request_us: float | None = None) -> list[str]:
    lines = [f"{'Calls of handlers, ns':<32}" + "".join(f"{op:>9}" for op in CALLS)]
    for row, (what, *ns) in zip(rows, cells(rows)):
        figures = "".join(f"{n:>9}" for n in ns) if not row["skipped"] else f"  skipped: {row['skipped']}"
        lines.append(f"  {what:<30}{figures}")
    text = statistics_text(rows, request_us)
    return [*lines, text] if text else lines


def main() -> int:
    rows = measure()
    print("\n".join(render(rows)))
    return int(any(r["skipped"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
