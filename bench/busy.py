#!/usr/bin/env python3
"""Measures servers while the machine is busy with something else.

As many processes as there are CPUs compute without end, in a session of their
own or in the clients'; or none do. Servers stand differently in the scheduler's
eyes: as daemons of root, in a CPU cgroup of little weight, and without the right
to leave SCHED_IDLE (bench/cases.py). A server whose ring readers step back for
their clients must not starve then: it is held against itself, scheduled plainly
and standing the same way. Loops without engine, scheduled plainly too, show what
the machine has to give.

    bench/busy.py --minutes 20      measure, print, and write what bench.py --report puts into the page
    bench/busy.py --quick           fewer rows and loads

Run bench/setup first. Needs root.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench import LONGEST, MOUNTS, OUT, SHORTEST, Fleet, cleaned_up, machine, measured, say, touch, words
from cases import Case, all_cases
from results import leaves_in_doubt
from running import (
    CPUCLOCK_SCHED,
    Machine,
    Running,
    ServerError,
    die_with_parent,
)
from servers import CPUS, SERVERS, Server, chosen, extra

REFERENCES = {
    "c-ring": "c-ring-plain",
    "python-ring": "python-ring-plain",
    "go-ring": "go-ring-plain",
    "c-auto": "c-plain",
}
BARE = {"ring": "responder-ring-plain", "device": "responder-clones"}  # also what any other row is held against
ROWS = tuple(REFERENCES)
HOGS = ("none", "own session", "clients' session")
LOADS = (("stat", 1), ("stat", 8), ("read4k", 1))
QUICK_ROWS = ("c-ring", "c-auto")
QUICK_LOADS = LOADS[:2]
SETTLE = 0.1  # seconds within which a server has to find out
CALM = 0.1  # seconds of work on a quiet machine, so that each sample begins with readers that yield
SPENT_PER_SAMPLE = 0.05  # beyond the sample and SETTLE: processes start, beside hogs
SPENT_PER_SERVER = 0.4  # start, check and warm up
STUCK_US = 10e6  # the load generator's patience: what a sample counts whose clients did not come back
SHARE = 0.9
LATENCY = 2.0
OTHERS = 0.1  # CPU share of processes that are not ours, which spoils a sample

Sample = dict[str, Any]


class Key(NamedTuple):
    hogs: str
    case: str
    row: str
    op: str
    clients: int


@dataclass
class Bench:
    cases: list[Case]
    loads: tuple[tuple[str, int], ...]
    seconds: float = 0.0
    samples: dict[Key, dict[int, Sample]] = field(default_factory=lambda: defaultdict(dict))  # by round
    failures: list[str] = field(default_factory=list)


class CaseFleet(Fleet):
    """Each server once per case; all of a case stand side by side, those that
    are compared too."""

    def __init__(self, cases: list[Case], servers: list[Server]) -> None:
        super().__init__([case.server(s) for case in cases for s in servers])
        self.cases = {case.name: case for case in cases}
        self.plain = {case.server(s).name for case in cases for s in servers if is_plain(s.name)}

    def verify(self, running: Running) -> None:
        super().verify(running)
        self.cases[case_of(running)].check(running.process.pid)

    def revive(self) -> None:
        """What failed beside hogs starts anew, in its old place."""
        for running in [r for r in self.up if r.server.name in self.broken]:
            name, place = running.server.name, self.up.index(running)
            self.up.remove(running)
            running.stop()
            self.broken.discard(name)
            self.info[name]["failed"] = None
            self.start_one(running.server)
            if self.up and self.up[-1].server.name == name:
                self.up.insert(place, self.up.pop())

    def of(self, case: Case) -> list[Running]:
        return [r for r in self.up if case_of(r) == case.name and r.server.name not in self.broken]


def is_plain(name: str) -> bool:
    return name in REFERENCES.values() or name in BARE.values()


def case_of(running: Running) -> str:
    return running.server.name.partition("@")[2]


def base(name: str) -> str:
    return name.partition("@")[0]


# ---- measuring ----


def hog(own_session: bool) -> None:
    if not own_session:
        os.setpgid(0, 0)  # not hit by the driver's ^C
    die_with_parent(signal.SIGKILL)  # also while it is stopped


@contextmanager
def hogs(where: str) -> Iterator[list[int]]:
    own = where == "own session"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "while True: pass"],
            start_new_session=own,
            preexec_fn=partial(hog, own),  # noqa: PLW1509,RUF100  (no threads here)
        )
        for _ in range(CPUS if where != "none" else 0)
    ]
    try:
        time.sleep(0.2 if children else 0)  # until they have started
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def fail(fleet: CaseFleet, b: Bench, running: Running, why: str) -> None:
    text = why.replace(os.fspath(MOUNTS) + "/", "")
    fleet.fail(running, ServerError(text))
    b.failures.append(f"{running.server.name}: {text}")


def calm(fleet: CaseFleet, b: Bench, case: Case, hogging: list[int]) -> None:
    """Let servers find a quiet machine before they find a busy one."""
    for pid in hogging:
        os.kill(pid, signal.SIGSTOP)
    try:
        for running in fleet.of(case):
            if running.server.name not in fleet.plain:
                try:
                    running.measure("read4k", 1, CALM, 0)
                except (ServerError, OSError) as e:
                    fail(fleet, b, running, f"between samples: {e}")
    finally:
        for pid in hogging:
            os.kill(pid, signal.SIGCONT)


def cpu_s(pids: list[int]) -> float:
    return sum(time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED) for pid in pids)


def one_sample(running: Running, op: str, clients: int, seconds: float, hogging: list[int]) -> Sample:
    before, hogged = Machine.now(), cpu_s(hogging)
    yielding = running.classes()[os.SCHED_IDLE]
    sample = running.measure(op, clients, seconds, SETTLE)
    ours = sample["server_cpu_s"] + cpu_s(hogging) - hogged
    if not sample["ops"]:
        sample["p99_us"] = seconds * 1e6  # not one answer: at least that long
    return sample | {"strangers": before.others_since(ours), "yielding": yielding > 0}


def measure(fleet: CaseFleet, b: Bench, rounds: int) -> None:
    """What is compared is measured within seconds: a case's servers one after the other."""
    for turn in range(rounds):
        for where in HOGS:
            with hogs(where) as hogging:
                for case in b.cases[:: -1 if turn % 2 else 1]:
                    say(f"round {turn + 1} of {rounds}: hogs: {where}; {case.what}")
                    for op, clients in b.loads:
                        calm(fleet, b, case, hogging)
                        one_cell(fleet, b, turn, case, Key(where, case.name, "", op, clients), hogging)
            fleet.revive()


def one_cell(fleet: CaseFleet, b: Bench, turn: int, case: Case, key: Key, hogging: list[int]) -> None:
    for running in fleet.of(case)[:: -1 if turn % 2 else 1]:
        name = running.server.name
        try:
            sample = one_sample(running, key.op, key.clients, b.seconds * case.patience(key.hogs), hogging)
            fleet.info[name]["placement"] = running.placement()
        except (ServerError, OSError) as e:
            fail(fleet, b, running, f"round {turn + 1}, hogs: {key.hogs}, clients of {key.op}: {key.clients}: {e}")
            sample = {"ops": 0, "ops_per_s": 0.0, "p99_us": STUCK_US, "strangers": 0.0, "yielding": False}
        b.samples[key._replace(row=base(name))][turn] = sample


# ---- what came of it ----


def reference(name: str, transport: str) -> str:
    return REFERENCES.get(name, BARE[transport])


def ratios(mine: dict[int, Sample], theirs: dict[int, Sample], what: str) -> list[float]:
    """Within a round each."""
    return [s[what] / max(theirs[turn][what], 1.0) for turn, s in mine.items() if turn in theirs]


def one_summary(b: Bench, key: Key, transport: str) -> dict[str, Any]:
    found = b.samples[key]
    mine = list(found.values())
    cell = key._asdict() | {
        "rounds": len(mine),
        "ops_per_s": median(s["ops_per_s"] for s in mine),
        "p99_us": median(s["p99_us"] for s in mine),
        "yielding": sum(s["yielding"] for s in mine),
        "spoilt": sum(s["strangers"] > OTHERS for s in mine),
    }
    theirs = b.samples.get(key._replace(row=reference(key.row, transport)), {})
    shares, latencies = ratios(found, theirs, "ops_per_s"), ratios(found, theirs, "p99_us")
    if shares and not is_plain(key.row):
        bare = ratios(found, b.samples.get(key._replace(row=BARE[transport]), {}), "ops_per_s")
        cell |= judged(shares, latencies) | {"bare": median(bare) if bare else None}
    return cell


def judged(shares: list[float], latencies: list[float]) -> dict[str, Any]:
    """Also whether it may be by chance that it is missed."""
    share, latency = median(shares), median(latencies)
    enough = share >= SHARE or leaves_in_doubt([s >= SHARE for s in shares])
    soon = latency <= LATENCY or leaves_in_doubt([n <= LATENCY for n in latencies])
    holds = share >= SHARE and latency <= LATENCY
    return {"share": share, "latency": latency, "holds": holds, "doubtful": not holds and enough and soon}


def summary(b: Bench, servers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [c.name for c in b.cases]
    rows = list(dict.fromkeys(base(s["name"]) for s in servers))
    transport = {base(s["name"]): s["transport"] for s in servers}
    order = sorted(b.samples, key=lambda k: (HOGS.index(k.hogs), names.index(k.case),
                                             b.loads.index((k.op, k.clients)), rows.index(k.row)))  # fmt: skip
    return [one_summary(b, key, transport[key.row]) for key in order]


def render(data: dict[str, Any]) -> str:
    m, config = data["machine"], data["config"]
    spoilt, count = (sum(c[key] for c in data["cells"]) for key in ("spoilt", "rounds"))
    lines = [
        f"Linux {m['kernel']}, {m['cpus']} CPUs, load average {m['load']:.2f}, {m['date']}; medians of "
        f"{config['rounds']} rounds of {config['seconds']:.2f} s, each {SETTLE:g} s after its clients' begin",
        f"samples in which strangers took more than {OTHERS:.0%} of the CPUs: {spoilt} of {count}",
    ]
    for where in HOGS:
        for case in data["cases"]:
            cells = [c for c in data["cells"] if (c["hogs"], c["case"]) == (where, case["name"])]
            if cells:
                lines += ["", f"hogs: {where}; servers {case['what']}", *map(cell_line, cells)]
    held = [c["holds"] for c in data["cells"] if "holds" in c]
    lines += ["", f"{sum(held)} of {len(held)} hold: at least {SHARE} of the calls, at most {LATENCY:g} of the p99"]
    lines += [f"failed: {text}" for text in data["failures"]]
    lines += [f"not measured: {n['what']}: {n['why']}" for n in data["not_measured"]]
    return "\n".join(lines)


def cell_line(c: dict[str, Any]) -> str:
    line = (f"  {c['op']:<8} {c['clients']:>2}  {c['row']:<22} {c['ops_per_s']:>9,.0f}/s, p99 {c['p99_us']:>8,.0f} us, "
            f"began yielding {c['yielding']} of {c['rounds']}")  # fmt: skip
    if "share" in c:
        bare = "" if c["bare"] is None else f" (of the bare loop's {c['bare']:.2f})"
        line += f"; calls {c['share']:.2f}{bare}, p99 {c['latency']:.2f}: {'holds' if c['holds'] else 'MISSED'}"
        line += "?" if c["doubtful"] else ""
    return line


# ---- the process ----


def pace(args: argparse.Namespace, b: Bench, servers: int) -> float:
    """Seconds of a sample from the minutes that the run may take, if they are not given; how long it will take."""
    turns = args.rounds * len(b.loads)
    fixed = len(b.cases) * servers * SPENT_PER_SERVER
    fixed += turns * len(HOGS) * len(b.cases) * servers * (SETTLE + SPENT_PER_SAMPLE + CALM / 2)
    weight = turns * servers * sum(case.patience(where) for case in b.cases for where in HOGS)
    b.seconds = args.seconds or min(max((args.minutes * 60 - fixed) / weight, SHORTEST), LONGEST)
    return float(fixed + weight * b.seconds)


def run(args: argparse.Namespace, undo: ExitStack) -> dict[str, Any]:
    cases, missing = all_cases(OUT / "cgroup", undo)
    cases = [c for c in cases if not args.cases or c.name in args.cases]
    rows = chosen(SERVERS, args.rows) + args.extra
    wanted = {n for s in rows for n in (reference(s.name, s.transport), BARE[s.transport])}
    rows += [s for s in SERVERS if s.name in wanted and s not in rows]
    rows.sort(key=lambda s: s.transport == "device")
    loads = QUICK_LOADS if args.quick else LOADS
    b = Bench(cases, loads)
    expected = pace(args, b, len(rows))
    print(f"busy: {len(cases)} cases, {len(rows)} servers in each, samples of {b.seconds:.2f} s: "
          f"about {expected / 60:.1f} minutes", file=sys.stderr)  # fmt: skip
    data: dict[str, Any] = {
        "format": 2,
        "machine": machine(),
        "config": {"rounds": args.rounds, "seconds": round(b.seconds, 3), "references": REFERENCES, "bare": BARE,
                   "loads": loads, "hogs": HOGS, "share": SHARE, "latency": LATENCY, "settle": SETTLE,
                   "others": OTHERS},
        "cases": [{"name": c.name, "what": c.what} for c in cases],
    }  # fmt: skip
    fleet = CaseFleet(cases, rows)
    try:
        with cleaned_up(fleet):
            fleet.start()
            names = [s.name for s in fleet.chosen]
            touch(fleet, dict.fromkeys(loads, names))
            measure(fleet, b, args.rounds)
    except SystemExit as e:  # what was measured before a signal is still worth showing
        data["interrupted"] = e.code
    data["servers"] = list(fleet.info.values())
    data["cells"] = summary(b, data["servers"])
    data["failures"] = b.failures
    data["not_measured"] = [{"what": what, "why": why} for what, why in missing] + [
        {"what": s["name"], "why": s["skipped"]} for s in data["servers"] if s["skipped"]
    ]
    return data


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="C only, stat only, 4 minutes")
    p.add_argument("--rows", type=words, metavar="PATTERN,...", help=f"(default: {','.join(ROWS)})")
    p.add_argument("--cases", type=words, metavar="NAME,...", help="some of plain,light,nice20,nice0 (default: all)")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--minutes", type=float, help="the whole run, about (default: 20)")
    p.add_argument("--seconds", type=float, help="measured time of one sample, instead of what --minutes allows")
    p.add_argument("--extra", type=extra, action="append", default=[], metavar="NAME=COMMAND", help="one more server")
    p.add_argument("--json", type=Path, default=OUT / "busy.json")
    args = p.parse_args()
    args.rows = args.rows or list(QUICK_ROWS if args.quick else ROWS)
    args.minutes = args.minutes or (4 if args.quick else 20)
    if args.rounds < 1 or args.minutes <= 0 or (args.seconds is not None and args.seconds <= 0):
        p.error("--rounds, --minutes and --seconds must be positive")
    args.json = args.json.resolve()
    return args


def run_and_undo(args: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as undo:
        return run(args, undo)


def main() -> int:
    args = parse()
    data = measured(args.json, lambda: run_and_undo(args))
    print(render(data))
    return int(data.get("interrupted") or 0) or int(bool(data["failures"]))


if __name__ == "__main__":
    sys.exit(main())
