#!/usr/bin/env python3
"""Measures servers while the machine is busy with something else.

As many processes as there are CPUs compute without end, in a session of their
own or in the clients'. A server whose ring readers step back for their clients
must not starve then: it is held against a reference that is scheduled plainly.

Run bench/setup first. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench import LOAD, MOUNTS, OUT, Fleet, alone, cleaned_up, machine, say, words
from running import ServerError, die_with_parent, ensure_fusectl, in_group_of_its_own, sweep_leftovers
from servers import CPUS, SERVERS, chosen, extra

TOP = Path(__file__).resolve().parent.parent
REFERENCE = "responder-ring-plain"
HOGS = ("none", "own session", "clients' session")
LOADS = (("stat", 1), ("stat", 8), ("read4k", 1))
SETTLE = 0.1  # seconds within which a server has to find out
SHARE = 0.9
LATENCY = 2.0

Samples = dict[tuple[str, str, str, int], list[dict[str, Any]]]  # hogs, row, operation, clients


@contextmanager
def hogs(where: str) -> Iterator[None]:
    own = where == "own session"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "while True: pass"],
            start_new_session=own,
            preexec_fn=die_with_parent if own else in_group_of_its_own,  # noqa: PLW1509,RUF100  (no threads here)
        )
        for _ in range(CPUS if where != "none" else 0)
    ]
    try:
        time.sleep(0.1 if children else 0)  # until they have started
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def measure(fleet: Fleet, args: argparse.Namespace, samples: Samples) -> None:
    for turn in range(args.rounds):
        for where in HOGS:
            for running in reversed(fleet.up) if turn % 2 else list(fleet.up):
                name = running.server.name
                if name in fleet.broken:
                    continue
                say(f"round {turn + 1} of {args.rounds}: hogs: {where}, {name}")
                try:
                    with hogs(where):
                        for op, clients in LOADS:
                            sample = running.measure(op, clients, args.seconds, SETTLE)
                            samples[where, name, op, clients].append(sample)
                        fleet.info[name]["placement"] = running.placement()
                except (ServerError, OSError) as e:
                    fleet.fail(running, e)


def summary(samples: Samples, reference: str) -> list[dict[str, Any]]:
    found = []
    for (where, row, op, clients), mine in samples.items():
        theirs = samples.get((where, reference, op, clients), [])
        cell: dict[str, Any] = {
            "hogs": where, "row": row, "op": op, "clients": clients,
            "ops_per_s": median(s["ops_per_s"] for s in mine),
            "p99_us": median(s["p99_us"] for s in mine),
        }  # fmt: skip
        if theirs and row != reference:
            pairs = list(zip(mine, theirs, strict=False))
            cell["share"] = median(a["ops_per_s"] / b["ops_per_s"] for a, b in pairs if b["ops_per_s"])
            cell["latency"] = median(a["p99_us"] / b["p99_us"] for a, b in pairs if b["p99_us"])
            if where != "none":
                cell["holds"] = cell["share"] >= SHARE and cell["latency"] <= LATENCY
        found.append(cell)
    return sorted(found, key=lambda c: (HOGS.index(c["hogs"]), LOADS.index((c["op"], c["clients"])), c["row"]))


def render(data: dict[str, Any]) -> str:
    m = data["machine"]
    lines = [
        f"Linux {m['kernel']}, {m['cpus']} CPUs, load average {m['load']:.2f}, {m['date']}; medians of "
        f"{data['config']['rounds']} rounds of {data['config']['seconds']:g} s; ratios to {REFERENCE}",
        "",
        f"{'hogs':<17} {'operation':<9} {'clients':>7}  {'row':<28} {'ops/s':>9} {'p99 us':>9}",
    ]
    for c in data["cells"]:
        line = (f"{c['hogs']:<17} {c['op']:<9} {c['clients']:>7}  {c['row']:<28} {c['ops_per_s']:>9,.0f} "
                f"{c['p99_us']:>9,.0f}")  # fmt: skip
        if "share" in c:
            line += f"  {c['share']:.2f}, p99 {c['latency']:.2f}"
        if "holds" in c:
            line += ": holds" if c["holds"] else f": MISSED (at least {SHARE}, at most {LATENCY:g})"
        lines.append(line)
    return "\n".join(lines)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=words, default=["c-ring", "python-ring", "go-ring", "c-auto"], metavar="PATTERN,...")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=0.5, help="of one sample")
    p.add_argument("--extra", type=extra, action="append", default=[], metavar="NAME=COMMAND", help="one more server")
    p.add_argument("--json", type=Path, default=OUT / "busy.json")
    args = p.parse_args()
    if os.geteuid() != 0 or not LOAD.exists():
        sys.exit("busy: run bench/setup, and this as root")
    args.json = args.json.resolve()
    os.chdir(TOP)
    ensure_fusectl()
    fleet = Fleet(chosen(SERVERS, [REFERENCE, *args.rows]) + args.extra)
    samples: Samples = defaultdict(list)
    data: dict[str, Any] = {
        "format": 1,
        "machine": machine(),
        "config": {"rounds": args.rounds, "seconds": args.seconds, "reference": REFERENCE},
    }
    with alone():
        sweep_leftovers(MOUNTS)
        try:
            with cleaned_up(fleet):
                fleet.start()
                measure(fleet, args, samples)
        except SystemExit as e:
            data["interrupted"] = e.code
    data["servers"] = list(fleet.info.values())
    data["cells"] = summary(samples, REFERENCE)
    args.json.write_text(json.dumps(data, indent=1) + "\n")
    print(render(data))
    for s in data["servers"]:
        if s["skipped"] or s["failed"]:
            print(f"{s['name']}: {s['skipped'] or s['failed']}")
    return int(data.get("interrupted") or 0) or int(any(s["failed"] for s in data["servers"]))


if __name__ == "__main__":
    sys.exit(main())
