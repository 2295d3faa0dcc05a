#!/usr/bin/env python3
"""Measures manifuse beside a bare responder and its peers.

All servers serve the same filesystem, each on a mount of its own, and are
measured in turn: every operation and number of clients, round after round,
with the order of the servers reversed from one round to the next.

Run bench/setup first; it builds the responder, the load generator and the
peers. A server that is not built is skipped. Needs root.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import os
import platform
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import results
from running import Running, ServerError, ensure_fusectl, sweep_leftovers
from servers import OPS, SERVERS, Server

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "build" / "bench"
MOUNTS = OUT / "mnt"
LOAD = OUT / "load"

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
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe(server: Server) -> dict[str, Any]:
    return {
        "name": server.name,
        "family": server.family,
        "layout": server.layout,
        "command": server.command,
        "note": server.note,
        "placement": None,
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
        for server in self.chosen:
            info = self.info[server.name]
            missing = [f for f in server.files() if not (TOP / f).exists()]
            if missing:
                info["skipped"] = f"{missing[0]} is not built"
                continue
            say(f"starting {server.name}")
            running = Running(server, MOUNTS, os.fspath(LOAD))
            self.up.append(running)
            try:
                running.wait_mounted()
            except ServerError as e:
                info["skipped"] = str(e)
                self.up.remove(running)
                running.stop()

    def serving(self, op: str) -> list[Running]:
        return [r for r in self.up if op in r.server.ops and r.server.name not in self.broken]

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


def quiet_sample(running: Running, op: str, clients: int, args: argparse.Namespace) -> dict[str, Any]:
    """Others on the machine spoil a sample: take it again, keep the least
    disturbed one."""
    best: dict[str, Any] | None = None
    for _ in range(1 + args.retries):
        sample = running.measure(op, clients, args.seconds, args.warmup)
        if best is None or sample["others"] < best["others"]:
            best = sample
        if best["others"] <= args.others:
            break
    assert best is not None
    return best


def one_cell(fleet: Fleet, args: argparse.Namespace, turn: int, op: str, clients: int, samples: Samples) -> None:
    order = fleet.serving(op)
    if turn % 2:
        order.reverse()
    for running in order:
        try:
            sample = quiet_sample(running, op, clients, args)
            # Pools start threads on demand: look after the load.
            fleet.info[running.server.name]["placement"] = running.placement()
        except (ServerError, OSError) as e:
            fleet.fail(running, e)
        else:
            samples[running.server.name, op, clients].append(sample)


def measure(fleet: Fleet, args: argparse.Namespace, samples: Samples) -> None:
    for turn in range(args.rounds):
        for op in args.ops:
            for clients in args.clients:
                say(f"round {turn + 1} of {args.rounds}: {op}, {clients} clients")
                one_cell(fleet, args, turn, op, clients, samples)


def run(args: argparse.Namespace) -> dict[str, Any]:
    data: dict[str, Any] = {
        "format": 1,
        "machine": machine(),
        "config": {
            "rounds": args.rounds,
            "seconds": args.seconds,
            "warmup": args.warmup,
            "others": args.others,
            "retries": args.retries,
            "ops": args.ops,
            "clients": args.clients,
        },
    }
    fleet = Fleet(args.servers)
    samples: Samples = defaultdict(list)
    try:
        with cleaned_up(fleet):
            fleet.start()
            measure(fleet, args, samples)
    except SystemExit as e:  # what was measured before a signal is still worth showing
        data["interrupted"] = e.code
    data["servers"] = list(fleet.info.values())
    data["cells"] = [results.summarize(*key, found, args.others) for key, found in samples.items()]
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


def words(text: str) -> list[str]:
    return [w for w in text.split(",") if w]


def op_list(text: str) -> list[str]:
    ops = list(OPS) if text == "all" else words(text)
    for op in ops:
        if op not in OPS:
            raise argparse.ArgumentTypeError(f"no operation {op!r}; there are {', '.join(OPS)}")
    return ops


def client_list(text: str) -> list[int]:
    clients = [int(w) for w in words(text)]
    if not clients or min(clients) < 1 or max(clients) > 256:
        raise argparse.ArgumentTypeError("1 to 256 clients")
    return clients


def server_list(text: str) -> list[Server]:
    patterns = words(text)
    found = [s for s in SERVERS if any(fnmatch.fnmatch(s.name, p) for p in patterns)]
    if not found:
        raise argparse.ArgumentTypeError(f"no server matches {text!r}; see --list")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="measured time of one sample")
    parser.add_argument("--warmup", type=float, default=0.1, help="untimed, before each sample")
    parser.add_argument("--others", type=float, default=0.1, metavar="SHARE",
                        help="CPU share of other processes that spoils a sample")  # fmt: skip
    parser.add_argument("--retries", type=int, default=3, help="of a spoilt sample")
    parser.add_argument("--ops", type=op_list, default=["stat", "read4k"],
                        help=f"all, or some of {','.join(OPS)}")  # fmt: skip
    parser.add_argument("--clients", type=client_list, default=[1, 2, 8])
    parser.add_argument("--servers", type=server_list, metavar="PATTERN,...",
                        default=[s for s in SERVERS if s.default])  # fmt: skip
    parser.add_argument("--json", type=Path, default=OUT / "results.json")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print an earlier run's table")
    parser.add_argument("--list", action="store_true", help="name the servers and leave")
    parser.add_argument("--strict", action="store_true",
                        help="exit 1 when a requirement is missed")  # fmt: skip
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    args.json = args.json.resolve()
    return args


def report(data: dict[str, Any], args: argparse.Namespace) -> int:
    print(results.render(data))
    if data.get("interrupted"):
        return int(data["interrupted"])
    if any(s["failed"] for s in data["servers"]):
        return 1
    missed = any(c["holds"] is False for c in data["comparisons"])
    return 1 if missed and args.strict else 0


def main() -> int:
    args = parse()
    if args.list:
        for s in SERVERS:
            print(f"{s.name:24} {'' if s.default else '(on request) '}{s.command}")
        return 0
    if args.show:
        return report(json.loads(args.show.read_text()), args)
    if os.geteuid() != 0:
        sys.exit("bench: mounting needs root")
    if not LOAD.exists():
        sys.exit("bench: the load generator is not built: run bench/setup")
    os.chdir(TOP)
    ensure_fusectl()
    with alone():
        sweep_leftovers(MOUNTS)
        data = run(args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(data, indent=1) + "\n")
    status = report(data, args)
    print(f"\nwritten to {os.path.relpath(args.json)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
