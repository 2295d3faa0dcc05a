#!/usr/bin/env python3
"""Measures how far servers are from a bare loop while no neighbour disturbs.

Where CPUs are threads of cores that others use as well, a call takes half as
long again from one moment to the next, and figures of a tenth of a second say
little about a few per cent. So one client goes round all servers in turns of
some milliseconds, and only those count before and after which a loop that the
neighbours would slow down was fast (bench/load.c, --rounds).

    bench/undisturbed.py            measure, print, and write what bench.py --report puts into the page

Run bench/setup first. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import LOAD, OUT, Fleet, cleaned_up, machine, measured
from report import undisturbed
from running import Running
from servers import CALLS, SERVERS, chosen

ROWS = {
    "device": ("responder-yield", "c-auto", "python-auto", "go-auto"),
    "ring": ("responder-ring-yield", "responder-ring-plain-yield", "c-ring", "python-ring", "go-ring"),
}
ENOUGH = 10  # turns

Data = dict[str, Any]


def go_round(servers: list[Running], op: str, rounds: int) -> list[Data]:
    argv = [os.fspath(LOAD), *(os.fspath(r.path) for r in servers), "--op", op, "--rounds", str(rounds)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=rounds * len(servers) * 0.02 + 30)
    if done.returncode:
        sys.exit(f"undisturbed: {done.stderr.strip() or 'the load generator failed'}")
    found: list[Data] = json.loads(done.stdout)
    return found


def measure(fleet: Fleet, transport: str, rounds: int) -> list[Data]:
    servers = [r for r in fleet.up if r.server.name in ROWS[transport]]
    bare = [i for i, r in enumerate(servers) if r.server.family == "responder"]
    cells = []
    for op in CALLS if servers else ():
        found = go_round(servers, op, rounds)
        best = max((found[i]["ops_per_s"] for i in bare if found[i]["undisturbed"] >= ENOUGH), default=0.0)
        for running, cell in zip(servers, found):
            known = best and cell["undisturbed"] >= ENOUGH
            cells.append({"transport": transport, "row": running.server.name, "op": op, "turns": cell["undisturbed"],
                          "ops_per_s": cell["ops_per_s"],
                          "of_bare": cell["ops_per_s"] / best if known else None})  # fmt: skip
    return cells


def run(rounds: int) -> Data:
    data: Data = {"format": 1, "machine": machine(), "config": {"rounds": rounds}, "cells": []}
    for transport, names in ROWS.items():
        fleet = Fleet(chosen(SERVERS, names))
        with cleaned_up(fleet):
            fleet.start()
            data["cells"] += measure(fleet, transport, rounds)
    return data


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=400, help="turns for each server and operation")
    p.add_argument("--json", type=Path, default=OUT / "undisturbed.json")
    args = p.parse_args()
    if not 1 <= args.rounds <= 100_000:
        p.error("--rounds: 1 to 100000")
    data = measured(args.json, lambda: run(args.rounds))
    print("\n".join(undisturbed(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
