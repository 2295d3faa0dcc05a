#!/usr/bin/env python3
"""Measures manifuse beside a bare responder and its peers.

All servers serve the same filesystem, each on a mount of its own, and are
measured in turn: every operation and number of clients, round after round,
with the order of the servers reversed from one round to the next. A suite says
which; the time of a sample follows from the time that the run may take.

Run bench/setup first; it builds the responders, the load generator and the
peers. A server that is not built is skipped. Needs root.

    bench/bench.py --suite full               measure and print
    bench/bench.py --show JSON                print once more
    bench/bench.py --show JSON --report       write docs/performance.md and its plot
    bench/bench.py --extra libfuse-ring='/path/null {mnt} -o io_uring'
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import overhead
import report
import results
from running import Running, ServerError, ensure_fusectl, ring_allowed, sweep_leftovers, why_no_ring
from servers import EXTRA, OPS, SERVERS, SESSIONS, STREAMS, SUITES, Cells, Part, Server, chosen, extra, plan

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "build" / "bench"
MOUNTS = OUT / "mnt"
LOAD = OUT / "load"
SPENT_PER_SAMPLE = 0.06  # seconds beyond the sample itself: processes start, files are opened
WARMUP = 0.2  # seconds: the scheduler takes a new client for a busy one, and for 0.1 s moves it less than later
SHORTEST = 0.08
LONGEST = 1.0
ONE_STREAM = 4.0  # times as long: its calls are few

Samples = dict[tuple[str, str, int], list[dict[str, Any]]]


def read_text(path: str, default: str = "unknown") -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return default


def machine() -> dict[str, Any]:
    model = "unknown"
    for line in read_text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "model": model,
        "clocksource": read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "autogroup": read_text("/proc/sys/kernel/sched_autogroup_enabled", "absent"),
        "load": os.getloadavg()[0],
        "enable_uring": read_text("/sys/module/fuse/parameters/enable_uring", "absent"),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe(server: Server) -> dict[str, Any]:
    return {
        "name": server.name,
        "family": server.family,
        "layout": server.layout,
        "transport": server.transport,
        "session": server.session,
        "command": server.command,
        "note": server.note,
        "placement": None,
        "cannot": [],
        "skipped": None,
        "failed": None,
        "ended": None,
    }


class Fleet:
    """The servers that are up."""

    def __init__(self, chosen: list[Server]) -> None:
        self.chosen = chosen
        self.info = {s.name: describe(s) for s in chosen}
        self.up: list[Running] = []
        self.broken: set[str] = set()

    def start(self) -> None:
        no_ring = why_no_ring()
        for server in self.chosen:
            info = self.info[server.name]
            missing = [f for f in server.files() if not (TOP / f).exists()]
            if missing:
                info["skipped"] = f"{missing[0]} is not built"
            elif server.transport == "ring" and no_ring:
                info["skipped"] = no_ring
            else:
                self.start_one(server)

    def start_one(self, server: Server) -> None:
        say(f"starting {server.name}")
        with ring_allowed(server.transport == "ring"):
            running = Running(server, MOUNTS, os.fspath(LOAD))
            self.up.append(running)
            try:
                running.wait_mounted()
                running.first_answer()
            except ServerError as e:
                self.leave_out(running, e)
                return
        try:
            self.verify(running)
        except ServerError as e:
            self.leave_out(running, e)

    def verify(self, running: Running) -> None:
        running.check()
        self.info[running.server.name]["cannot"] = [op for op in OPS if not running.can(op)]

    def leave_out(self, running: Running, why: ServerError) -> None:
        self.info[running.server.name]["skipped"] = str(why)
        self.up.remove(running)
        running.stop()

    def serving(self, op: str, names: list[str]) -> list[Running]:
        wanted = set(names) - self.broken
        return [r for r in self.up if r.server.name in wanted and r.can(op)]

    def fail(self, running: Running, error: Exception) -> None:
        name = running.server.name
        say(f"{name} failed: {error}")
        self.broken.add(name)
        self.info[name]["failed"] = f"failed: {error}"
        running.give_up()

    def stop(self) -> None:
        for running in self.up:
            self.info[running.server.name]["ended"] = running.stop()
        self.up.clear()


def patience(op: str, clients: int) -> float:
    """How much longer a sample has to be."""
    return ONE_STREAM if op in STREAMS and clients == 1 else 1.0


@dataclass
class Pace:
    """How long a sample is, and whether there is time to take a spoilt one again."""

    seconds: float
    warmup: float
    expected: float = 0.0  # seconds, of all samples
    began: float = 0.0
    planned: float = 0.0  # seconds, of those taken so far

    @staticmethod
    def of(args: argparse.Namespace, cells: Cells) -> Pace:
        samples = args.rounds * sum(len(names) for names in cells.values())
        lengths = args.rounds * sum(patience(*cell) * len(names) for cell, names in cells.items())
        each = (args.minutes * 60 - samples * (SPENT_PER_SAMPLE + args.warmup)) / max(lengths, 1.0)
        pace = Pace(args.seconds or min(max(each, SHORTEST), LONGEST), args.warmup)
        pace.plan(cells, args.rounds)
        return pace

    def plan(self, cells: Cells, rounds: int) -> None:
        self.expected = rounds * sum(self.spent(*cell) * len(names) for cell, names in cells.items())
        self.planned = 0.0

    def spent(self, op: str, clients: int) -> float:
        return self.seconds * patience(op, clients) + self.warmup + SPENT_PER_SAMPLE

    def behind(self) -> bool:
        return time.monotonic() - self.began > self.planned * 1.1 + self.expected * 0.05

    def sample(self, running: Running, op: str, clients: int) -> dict[str, Any]:
        return running.measure(op, clients, self.seconds * patience(op, clients), self.warmup)


def quiet_sample(running: Running, op: str, clients: int, args: argparse.Namespace, pace: Pace) -> dict[str, Any]:
    """Others on the machine spoil a sample: take it again, keep the least
    disturbed one."""
    best: dict[str, Any] | None = None
    for _ in range(1 + args.retries):
        sample = pace.sample(running, op, clients)
        if best is None or sample["others"] < best["others"]:
            best = sample
        if best["others"] <= args.others or pace.behind():
            break
    assert best is not None
    return best


def one_cell(
    fleet: Fleet, args: argparse.Namespace, pace: Pace, turn: int, op: str, clients: int, names: list[str],
    samples: Samples,
) -> None:  # fmt: skip
    order = fleet.serving(op, names)
    if turn % 2:
        order.reverse()
    for running in order:
        try:
            sample = quiet_sample(running, op, clients, args, pace)
            # Pools start threads on demand: look after the load.
            fleet.info[running.server.name]["placement"] = running.placement()
        except (ServerError, OSError) as e:
            fleet.fail(running, e)
        else:
            samples[running.server.name, op, clients].append(sample)
        pace.planned += pace.spent(op, clients)


def touch(fleet: Fleet, cells: Cells) -> None:
    """Every server has done everything once: its memory is there, its threads
    are started."""
    most: dict[tuple[str, str], int] = {}
    for (op, clients), names in cells.items():
        for running in fleet.serving(op, names):
            key = running.server.name, op
            most[key] = max(most.get(key, 0), clients)
    for running in list(fleet.up):
        say(f"warming up {running.server.name}")
        for (name, op), clients in most.items():
            if name != running.server.name:
                continue
            try:
                running.measure(op, clients, 0.03, 0)
            except (ServerError, OSError) as e:
                fleet.fail(running, e)
                break


def measure(fleet: Fleet, args: argparse.Namespace, cells: Cells, pace: Pace, turns: range, samples: Samples) -> None:
    pace.began = time.monotonic()
    for turn in turns:
        for (op, clients), names in cells.items():
            say(f"round {turn + 1} of {turns.stop}: {op}, {clients} clients")
            one_cell(fleet, args, pace, turn, op, clients, names, samples)


def summed_up(data: dict[str, Any], fleet: Fleet, samples: Samples, others: float) -> dict[str, Any]:
    return data | {
        "servers": list(fleet.info.values()),
        "cells": [results.summarize(*key, found, others) for key, found in samples.items()],
    }


def measure_again(
    fleet: Fleet, args: argparse.Namespace, pace: Pace, cells: Cells, data: dict[str, Any], samples: Samples
) -> None:
    """What the rounds so far leave in doubt, held or missed."""
    wanted = results.undecided(summed_up(data, fleet, samples, args.others))
    rows = {(op, n): [name for name in names if (name, op, n) in wanted] for (op, n), names in cells.items()}
    less = {key: names for key, names in rows.items() if names}
    data["config"] |= {"again": args.again, "cells_again": len(wanted)}
    pace.plan(less, args.again)
    measure(fleet, args, less, pace, range(args.rounds, args.rounds + args.again), samples)


def then_again(rounds: int) -> str:
    return f", then {rounds} rounds of what these leave in doubt" if rounds else ""


def run(args: argparse.Namespace) -> dict[str, Any]:
    servers, cells = plan(args.parts, SERVERS, args.extra)
    pace = Pace.of(args, cells)
    samples_planned = args.rounds * sum(len(names) for names in cells.values())
    print(f"bench: {len(servers)} servers, {samples_planned} samples of {pace.seconds:.2f} s: "
          f"about {pace.expected / 60 + 0.5:.0f} minutes{then_again(args.again)}", file=sys.stderr)  # fmt: skip
    data: dict[str, Any] = {
        "format": 4,
        "machine": machine(),
        "config": {
            "suite": args.suite,
            "rounds": args.rounds,
            "seconds": round(pace.seconds, 3),
            "warmup": round(pace.warmup, 3),
            "one_stream": ONE_STREAM,
            "others": args.others,
            "retries": args.retries,
            "ops": sorted({op for op, _ in cells}, key=OPS.index),
            "clients": sorted({n for _, n in cells}),
        },
    }
    say("calls of handlers")
    data["overhead"] = overhead.measure()
    fleet = Fleet(servers)
    samples: Samples = defaultdict(list)
    try:
        with cleaned_up(fleet):
            fleet.start()
            touch(fleet, cells)
            measure(fleet, args, cells, pace, range(args.rounds), samples)
            if args.again:
                measure_again(fleet, args, pace, cells, data, samples)
    except SystemExit as e:  # what was measured before a signal is still worth showing
        data["interrupted"] = e.code
    data = summed_up(data, fleet, samples, args.others)
    data["comparisons"] = results.comparisons(data)
    return data


# ---- the process ----


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def cleaned_up(fleet: Fleet) -> Iterator[None]:
    """Whatever ends the run, no server and no mount outlives it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second ^C must not cut this short
        say("stopping the servers")
        fleet.stop()
        sweep_leftovers(MOUNTS)
        say("")


@contextmanager
def alone() -> Iterator[None]:
    """Two runs at once would measure each other."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("bench: another run is going on in this tree; wait for it")
        yield


def measured(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run` measures, from the top of the tree and alone there; also written to `path`."""
    if os.geteuid() != 0:
        sys.exit("bench: mounting needs root")
    if not LOAD.exists():
        sys.exit("bench: the load generator is not built: run bench/setup")
    path = path.resolve()
    os.chdir(TOP)
    ensure_fusectl()
    with alone():
        sweep_leftovers(MOUNTS)
        data = run()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
    return data


def words(text: str) -> list[str]:
    return [w for w in text.split(",") if w]


def op_list(text: str) -> tuple[str, ...]:
    ops = OPS if text == "all" else tuple(words(text))
    for op in ops:
        if op not in OPS:
            raise argparse.ArgumentTypeError(f"no operation {op!r}; there are {', '.join(OPS)}")
    return ops


def client_list(text: str) -> tuple[int, ...]:
    clients = tuple(int(w) for w in words(text))
    if not clients or min(clients) < 1 or max(clients) > 256:
        raise argparse.ArgumentTypeError("1 to 256 clients")
    return clients


def session_list(text: str) -> tuple[str, ...]:
    sessions = tuple(words(text))
    if not sessions or any(s not in SESSIONS for s in sessions):
        raise argparse.ArgumentTypeError(f"some of {', '.join(SESSIONS)}")
    return sessions


def extra_server(text: str) -> Server:
    try:
        return extra(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def own_parts(args: argparse.Namespace) -> tuple[Part, ...]:
    """What --ops, --clients, --servers and --sessions say instead of the suite."""
    names = words(args.servers) if args.servers else [s.name for s in SERVERS if s.default]
    return (
        Part((*names, EXTRA), args.ops or ("stat", "read4k"), args.clients or (1, 2, 8), args.sessions or ("own",)),
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--suite", choices=list(SUITES), default="quick")
    p.add_argument("--minutes", type=float, help="the rounds, about (default: the suite's)")
    p.add_argument("--rounds", type=int, help="(default: the suite's)")
    p.add_argument("--again", type=int, metavar="ROUNDS",
                   help="further rounds of what these leave in doubt (default: the suite's)")  # fmt: skip
    p.add_argument("--seconds", type=float, help="measured time of one sample, instead of what --minutes allows")
    p.add_argument("--warmup", type=float, default=WARMUP, help="seconds, untimed, before each sample")
    p.add_argument("--others", type=float, default=0.1, metavar="SHARE",
                   help="CPU share of other processes that spoils a sample")  # fmt: skip
    p.add_argument("--retries", type=int, default=3, help="of a spoilt sample, while there is time")
    own = p.add_argument_group("instead of a suite's rows")
    own.add_argument("--ops", type=op_list, help=f"all, or some of {','.join(OPS)}")
    own.add_argument("--clients", type=client_list)
    own.add_argument("--servers", metavar="PATTERN,...", help="names as --list has them, with wildcards")
    own.add_argument("--sessions", type=session_list, help="own: by setsid; shared: the clients' session; or both")
    p.add_argument("--extra", type=extra_server, action="append", default=[], metavar="NAME=COMMAND",
                   help="one more server, as libfuse-ring='/path/null {mnt} -o io_uring'")  # fmt: skip
    p.add_argument("--json", type=Path, default=OUT / "results.json")
    p.add_argument("--show", type=Path, metavar="JSON", help="print an earlier run's table")
    p.add_argument("--report", action="store_true", help="write the figures into docs/performance.md, and its plot")
    p.add_argument("--force", action="store_true", help="--report also from a machine that was too busy")
    p.add_argument("--list", action="store_true", help="name servers and suites, and leave")
    p.add_argument("--strict", action="store_true", help="exit 1 when a requirement is missed")
    return p


def parse() -> argparse.Namespace:
    p = parser()
    args = p.parse_args()
    suite = SUITES[args.suite]
    args.parts = suite.parts
    if args.ops or args.clients or args.servers or args.sessions:
        args.parts = own_parts(args)
        args.suite = None
        if args.servers and not chosen([*SERVERS, *args.extra], words(args.servers)):
            p.error(f"no server matches {args.servers!r}; see --list")
    args.rounds = suite.rounds if args.rounds is None else args.rounds
    args.minutes = suite.minutes if args.minutes is None else args.minutes
    args.again = suite.again if args.again is None else args.again
    if args.again < 0:
        p.error("--again must not be negative")
    if args.rounds < 1 or args.minutes <= 0 or (args.seconds is not None and args.seconds <= 0):
        p.error("--rounds, --minutes and --seconds must be positive")
    if args.warmup < 0:
        p.error("--warmup must not be negative")
    args.json = args.json.resolve()
    return args


def show(data: dict[str, Any], args: argparse.Namespace) -> int:
    data["comparisons"] = results.comparisons(data)
    print(results.render(data))
    if data.get("interrupted"):
        return int(data["interrupted"])
    if args.report and results.too_busy(data) and not args.force:
        print("\nnot written into docs/performance.md: too busy a machine (--force writes it)")
    elif args.report:
        beside = [OUT / name for name in ("blocked.json", "busy.json", "undisturbed.json")]
        blocked, busy, quiet = (json.loads(f.read_text()) if f.exists() else None for f in beside)
        report.write(data, blocked, busy, quiet, TOP / "docs")
        print("\nwritten: docs/performance.md, docs/performance.svg")
    if any(s["failed"] for s in data["servers"]):
        return 1
    missed = any(c["holds"] is False for c in data["comparisons"])
    return 1 if missed and args.strict else 0


def listing() -> None:
    for s in SERVERS:
        print(f"{s.name:27} {s.transport:6} {'' if s.default else '(on request) '}{s.command}")
    for name, suite in SUITES.items():
        servers, cells = plan(suite.parts, SERVERS, [])
        count = sum(len(names) for names in cells.values())
        print(f"suite {name}: {suite.rounds} rounds of {count} cells, {len(servers)} servers, "
              f"about {suite.minutes:g} minutes{then_again(suite.again)}")  # fmt: skip


def main() -> int:
    args = parse()
    if args.list:
        listing()
        return 0
    if args.show:
        return show(json.loads(args.show.read_text()), args)
    data = measured(args.json, lambda: run(args))
    status = show(data, args)
    print(f"\nwritten to {os.path.relpath(args.json)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
