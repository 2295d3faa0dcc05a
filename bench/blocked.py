#!/usr/bin/env python3
"""Measures what slow handlers do to everybody else.

Each row serves the filesystem of bench/handlers, whose files say how long a
read of them takes. Clients wait in such reads while one more client does stat:
neither the reads nor the stat should suffer. Besides: what handlers that wait
or compute gain from readers, and what servers cost when nothing happens.

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
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Callable

from bench import OUT, WARMUP, Fleet, cleaned_up, machine, measured, say, words
from results import leaves_in_doubt
from running import Running, ServerError
from servers import CPUS, SERVERS, Server, chosen, extra

SLOW_C = "build/bench/slow {mnt}"
SLOW_PYTHON = "build/venv/bin/python bench/handlers/slow.py {mnt}"
SLOW_GO = "build/bench/go-slow {mnt}"
LANGUAGES = {"c": SLOW_C, "python": SLOW_PYTHON, "go": SLOW_GO}
TRANSPORTS = {"device": " --uring off", "ring": " --uring require"}


# Loops without engine, as far as any server can get here: a thread for each request in hand.
def bare_loops(suffix: str, program: str, option: str = "") -> tuple[Server, ...]:
    device = program.format("responder") + " {mnt} --readers 32" + option
    ring = program.format("ring_responder") + " {mnt}" + option
    return (
        Server(f"bare-device{suffix}", "responder", "32 clones", device),
        Server(f"bare-device-yield{suffix}", "responder", "32 clones", device + " --pin --yield"),
        Server(f"bare-ring{suffix}", "responder", "20 rings a queue", ring, transport="ring"),
        Server(f"bare-ring-yield{suffix}", "responder", "20 rings a queue", ring + " --yield", transport="ring"),
    )


BARE_C = bare_loops("", "build/bench/{}", " --slow")
# Python's handlers exclude each other: the least that a server of any kind can do with them.
BARE_PYTHON = bare_loops("-python", "build/venv/bin/python bench/handlers/bare.py build/bench/bare_{}.so")
# Go's have to be entered from C, and its runtime gives them processors.
BARE_GO = bare_loops("-go", "build/bench/bare_go_{}")
BARE = {"c": BARE_C, "python": BARE_PYTHON, "go": BARE_GO}
BARE_SCENARIOS = ("unloaded", "sleep1ms", "foreign1ms", "sleep10ms-1in100")

# Each language's peers, as they come and with as many threads as the bare loop.
LIBFUSE = "build/bench/libfuse_null {mnt} --slow"
MFUSEPY = "build/bench-venv/bin/python bench/peers/mfusepy_null.py {mnt} --slow"
PYFUSE3 = "build/bench-venv/bin/python bench/peers/pyfuse3_null.py {mnt} --slow"
PEERS = (
    Server("slow-libfuse", "c", "auto", LIBFUSE),
    Server("slow-libfuse-32", "c", "32 threads", LIBFUSE + " --readers 32"),
    Server("slow-mfusepy", "python", "auto", MFUSEPY),
    Server("slow-mfusepy-32", "python", "32 threads", MFUSEPY + " --threads 32"),
    Server("slow-pyfuse3", "python", "1", PYFUSE3),
    Server("slow-go-fuse", "go", "auto", "build/bench/gofuse-null {mnt} --slow"),
)
IN_HANDLERS = ("unloaded", "sleep1ms", "sleep10ms-1in100")  # the others' handlers answer when they return
PEER_SCENARIOS = {"c": BARE_SCENARIOS, "python": IN_HANDLERS, "go": IN_HANDLERS}


def peer(text: str) -> Server:
    return replace(extra(text), family="c")


ROWS = (
    *(Server(f"slow-{lang}-{transport}", f"slow-{lang}", "auto", command + option, transport=transport)
      for lang, command in LANGUAGES.items() for transport, option in TRANSPORTS.items()),
    *(Server(f"slow-{lang}-{transport}-{n}", f"slow-{lang}", f"{n} readers", command + option + f" --readers {n}",
             transport=transport)
      for lang, command in LANGUAGES.items() for transport, option in TRANSPORTS.items() for n in (1, 8)),
)  # fmt: skip
IDLE_ROWS = ("c-auto", "c-ring", "python-auto", "python-ring", "go-auto", "go-ring",
             "libfuse-1", "libfuse-auto", "mfusepy", "pyfuse3", "go-fuse", "jacobsa")  # fmt: skip

CPU_IDS = sorted(os.sched_getaffinity(0))
SLEEPERS = 16
WAITERS = 24
STAT_LIMIT = 2.0
SHARE = 0.9
SCALING = 7.0
IDLE_LIMIT = 0.001
STARTS = 5

Sample = dict[str, Any]
Check = dict[str, Any]


class SlowFleet(Fleet):
    def verify(self, running: Running) -> None:
        running.check_transport()


class Load:
    """A load generator under way, its clients on any CPU or on some."""

    def __init__(self, running: Running, op: str, clients: int, seconds: float, warmup: float, name: str,
                 cpus: Set[int] = frozenset()) -> None:  # fmt: skip
        self.limit = seconds + warmup + 15
        argv = running.load_argv(op, clients, seconds, warmup, name)
        bind = ["taskset", "-c", ",".join(map(str, sorted(cpus)))] if cpus else []
        self.child = subprocess.Popen([*bind, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self) -> Sample:
        try:
            out, err = self.child.communicate(timeout=self.limit)
        except BaseException as e:
            self.child.kill()
            if isinstance(e, subprocess.TimeoutExpired):
                raise ServerError("the load generator did not end") from None
            raise
        if self.child.returncode:
            raise ServerError(err.strip().splitlines()[0] if err else "load failed")
        sample: Sample = json.loads(out)
        return sample


class Bench:
    """Samples by row and scenario; what scenarios share."""

    def __init__(self, seconds: float, peers: Sequence[Server]) -> None:
        self.seconds = seconds
        self.peers = peers  # that rows of their language are compared with
        self.samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)

    def load(self, running: Running, op: str, clients: int, name: str, cpus: Set[int] = frozenset()) -> Sample:
        return Load(running, op, clients, self.seconds, WARMUP, name, cpus).result()

    def keep(self, running: Running, scenario: str, sample: Sample) -> None:
        self.samples[running.server.name, scenario].append(sample)

    def alone(self, running: Running, scenario: str, op: str, clients: int, name: str) -> None:
        self.keep(running, scenario, self.load(running, op, clients, name))

    def beside_stat(self, running: Running, name: str, ideal: float, apart: bool = True) -> None:
        """The stat is measured alone, and while all the others are at it: with all clients wherever the scheduler puts
        them, and with those of the stat and the others on CPUs of their own, since what they wait for there, they wait
        for behind each other. ideal: reads per second of the others."""
        sample = {"ideal": ideal, "alone_p99_us": self.stat(running)["stat_p99_us"]}
        if apart and len(CPU_IDS) > 1:
            _, stat = self.both(running, name, set(CPU_IDS[:1]), set(CPU_IDS[1:]))
            sample["apart_p99_us"] = stat["stat_p99_us"]
        reads, stat = self.both(running, name)
        self.keep(running, name, sample | reads | stat)

    def both(
        self, running: Running, name: str, of_stat: Set[int] = frozenset(), of_others: Set[int] = frozenset()
    ) -> tuple[Sample, Sample]:
        others = Load(running, "read4k", SLEEPERS, self.seconds * 1.4 + WARMUP, 0, name, of_others)
        time.sleep(self.seconds * 0.15)
        try:
            stat = self.stat(running, of_stat)
        finally:
            reads = others.result()
        return reads, stat

    def stat(self, running: Running, cpus: Set[int] = frozenset()) -> Sample:
        sample = self.load(running, "stat", 1, "fast", cpus)
        # Not one answer in all the time: at least that long.
        p99 = sample["p99_us"] if sample["ops"] else self.seconds * 1e6
        return {"stat": sample["ops_per_s"], "stat_p99_us": p99}

    def middle(self, row: str, scenario: str, key: str) -> float | None:
        found = [s[key] for s in self.samples.get((row, scenario), []) if key in s]
        return float(median(found)) if found else None

    def paired(self, row: str, scenario: str, key: str, other: tuple[str, str, str]) -> list[float]:
        """What it is, round by round, of another row's, scenario's and value's."""
        there, (other_row, other_scenario, other_key) = self.samples.get((row, scenario), []), other
        pairs = zip(there, self.samples.get((other_row, other_scenario), []), strict=False)
        return [a[key] / b[other_key] for a, b in pairs if key in a and b.get(other_key)]


# ---- scenarios: one sample each ----


def unloaded(b: Bench, r: Running) -> None:
    b.alone(r, f"fast read, {SLEEPERS} clients", "read4k", SLEEPERS, "fast")


def sleeping(b: Bench, r: Running) -> None:
    b.beside_stat(r, "sleep1ms", SLEEPERS / 1e-3)


def foreign(b: Bench, r: Running) -> None:
    b.beside_stat(r, "foreign1ms", SLEEPERS / 1e-3)


def one_in_a_hundred(b: Bench, r: Running) -> None:
    call = b.load(r, "read4k", 1, "fast")["mean_us"] / 1e6  # before handlers wait: a server may remember it
    b.alone(r, "sleep10ms-1in100 alone", "read4k", SLEEPERS, "sleep10ms-1in100")
    b.beside_stat(r, "fast", SLEEPERS / call, apart=False)
    b.beside_stat(r, "sleep10ms-1in100", 100 * shared_cpus(SLEEPERS, 10e-3, 100 * call, others=1), apart=False)


def scaling(b: Bench, r: Running) -> None:
    b.alone(r, "sleep5ms", "read4k", SLEEPERS, "sleep5ms")


def computing(b: Bench, r: Running) -> None:
    for clients in (1, 8):
        b.alone(r, f"compute200us, {clients} clients", "read4k", clients, "compute200us")


def until(condition: Callable[[], bool], limit: float) -> float | None:
    """Seconds until it holds; None if it never does."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > limit:
            return None
        time.sleep(0.002)
    return time.monotonic() - begin


def held(b: Bench, r: Running, scenario: str, clients: int, name: str) -> Load:
    """Clients in handlers that do not return, and the stat beside them. Their
    load generator is left running."""
    alone = b.stat(r)["stat_p99_us"]
    others = Load(r, "read4k", clients, 60, 0, name)
    there = until(lambda: r.requests_in_hand() >= clients, 5) is not None
    time.sleep(0.05)
    try:
        stat = b.stat(r)
    except BaseException:
        others.child.kill()
        r.give_up()
        raise
    b.keep(r, scenario, stat | {"there": there, "alone_p99_us": alone})
    return others


def waiting(b: Bench, r: Running) -> None:
    others = held(b, r, "wait", WAITERS, "wait")
    others.child.kill()  # takes its clients with it: each one's request is interrupted
    released = until(lambda: r.requests_in_hand() == 0, 5)
    b.samples[r.server.name, "wait"][-1]["released_s"] = released
    if released is None:
        r.give_up()
    others.child.communicate()
    if released is None:
        raise ServerError("handlers that wait are not released")


def never(b: Bench, r: Running) -> None:
    """The last thing that a server does: it has to be killed."""
    others = held(b, r, "never", 1, "never")
    others.child.kill()
    r.give_up()
    others.child.communicate()
    r.kill()
    r.sweep()


SCENARIOS: dict[str, Callable[[Bench, Running], None]] = {
    "unloaded": unloaded,
    "sleep1ms": sleeping,
    "foreign1ms": foreign,
    "sleep10ms-1in100": one_in_a_hundred,
    "wait": waiting,
    "compute200us": computing,
    "sleep5ms": scaling,
    "never": never,
}


def wanted(server: Server, scenario: str) -> bool:
    """Rows with a given number of readers are there for what readers bring."""
    if any(server in loops for loops in BARE.values()):
        return scenario in BARE_SCENARIOS
    if server.family in PEER_SCENARIOS:
        return scenario in PEER_SCENARIOS[server.family]
    return server.layout == "auto" or scenario == "sleep5ms"


def measure(fleet: Fleet, b: Bench, args: argparse.Namespace) -> None:
    for name in [s for s in args.scenarios if s != "never"] + ["never"] * ("never" in args.scenarios):
        for turn in range(1 if name == "never" else args.rounds):
            say(f"{name}, round {turn + 1}")
            order = [r for r in fleet.up if wanted(r.server, name)]
            for running in reversed(order) if turn % 2 else order:
                if running.server.name in fleet.broken:
                    continue
                try:
                    SCENARIOS[name](b, running)
                    fleet.info[running.server.name]["placement"] = running.placement() if name != "never" else None
                except (ServerError, OSError) as e:
                    fleet.fail(running, ServerError(f"{name}: {e}"))
                if name == "never":
                    fleet.up.remove(running)


def resting(fleet: Fleet) -> list[Running]:
    """Servers that have worked, and then done what they do after work."""
    for running in list(fleet.up):
        try:
            running.measure("read4k", 8, 0.1, 0)
        except (ServerError, OSError) as e:
            fleet.fail(running, e)
    time.sleep(1)
    return [r for r in fleet.up if r.server.name not in fleet.broken]


def idle(up: list[Running], seconds: float) -> list[dict[str, Any]]:
    """What servers cost that nobody asks anything."""
    say(f"idle for {seconds:g} s")
    before = [r.usage() for r in up]
    time.sleep(seconds)
    found = []
    for running, first in zip(up, before, strict=True):
        now = running.usage()
        found.append({
            "row": running.server.name,
            "cpu_share": (now.cpu_s - first.cpu_s) / seconds,
            "threads": now.threads,
        })  # fmt: skip
    return found


def at_rest(servers: list[Server], seconds: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What idle servers cost, and what became of them. Their memory is the median of several starts: how much of a
    shared library is resident depends on where it was loaded, for around a page that is touched the kernel maps what
    else lies in the same 64 KiB."""
    mib: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    found: list[dict[str, Any]] = []
    servers_told: list[dict[str, Any]] = []
    for start in range(STARTS):
        fleet = Fleet(servers)
        with cleaned_up(fleet):
            fleet.start()
            up = resting(fleet)
            if start == 0:
                found = idle(up, seconds)
            for running in up:
                for key, size in running.memory_mib().items():
                    mib[running.server.name][key].append(size)
        servers_told += [s for s in fleet.info.values() if start == 0 or s["failed"]]
    return [i | {key: median(sizes) for key, sizes in mib[i["row"]].items()} for i in found], servers_told


# ---- what is required ----


def check(row: str, scenario: str, what: str, values: Sequence[float], limit: float, least: bool = True,
          bare: float | None = None, apart: float | None = None, peer: float | None = None) -> list[Check]:  # fmt: skip
    """values: one, or one of each round; by the same measure, bare: what the best loop without engine reaches; apart:
    the same with clients apart; peer: the language's best other library."""
    if not values:
        return []
    value = float(median(values))
    holds = value >= limit if least else value <= limit
    beyond = not holds and bare is not None and (bare < limit if least else bare > limit)
    doubt = len(values) > 1 and leaves_in_doubt([(v >= limit) == least or v == limit for v in values])
    return [{"row": row, "scenario": scenario, "what": what, "value": value, "limit": limit, "least": least,
             "holds": holds, "bare": bare, "out_of_reach": beyond, "doubtful": doubt and not holds and not beyond,
             "apart": apart, "peer": peer}]  # fmt: skip


def shared_cpus(clients: int, away_s: float, work_s: float, others: int) -> float:
    """How often in a second one of `clients` goes away for `away_s`, when each takes `work_s` of a CPU in between and
    the CPUs are shared evenly with `others`, who never go away: the mean over how many happen to be there."""

    def rate(there: int) -> float:
        return there * min(1.0, CPUS / (there + others)) / work_s if there else 0.0

    weights = [1.0]
    for there in range(1, clients + 1):
        weights.append(weights[-1] * (clients - there + 1) / away_s / rate(there))
    return sum(w * rate(there) for there, w in enumerate(weights)) / sum(weights)


def check_beside(b: Bench, row: str, scenario: str, key: str, what: str, other: tuple[str, str, str], limit: float,
                 least: bool) -> list[Check]:  # fmt: skip
    """What a row is of something else; and what the best loop without engine is of it, and the best peer."""

    def best(servers: Iterable[Server]) -> float | None:
        ratios = (b.paired(s.name, scenario, key, other) for s in servers)
        return (max if least else min)((float(median(values)) for values in ratios if values), default=None)

    language = row.split("-")[1]
    bare = best(s for s in BARE[language] if row.endswith(s.transport))
    apart = b.paired(row, scenario, key.replace("stat", "apart"), other) if key.startswith("stat") else []
    return check(row, scenario, what, b.paired(row, scenario, key, other), limit, least,
                 bare=bare, apart=median(apart) if apart else None,
                 peer=best(s for s in b.peers if s.family == language))  # fmt: skip


def check_row(b: Bench, row: str) -> list[Check]:
    found: list[Check] = []
    slow = ("sleep1ms", "foreign1ms", "sleep10ms-1in100")
    for name in slow:
        found += check_beside(b, row, name, "ops_per_s", "reads, of the ideal", (row, name, "ideal"), SHARE, True)
    for name in (*slow, "wait", "never"):
        # Where 99 of 100 handlers are fast their clients take all of both CPUs: beside as many of which none sleeps
        # the stat waits as well, and what the sleeping adds is to be seen.
        what, other = "stat p99, of that alone", (row, name, "alone_p99_us")
        if "1in100" in name:
            what, other = "stat p99, of that beside reads that are all fast", (row, "fast", "stat_p99_us")
        found += check_beside(b, row, name, "stat_p99_us", what, other, STAT_LIMIT, False)
    for sample in b.samples.get((row, "wait"), []):
        if not sample["there"] or sample.get("released_s") is None:
            found += check(row, "wait", "handlers that waited and were released", [0], 1)
    return found


def checks(b: Bench, rows: list[str]) -> list[Check]:
    found = [c for row in rows for c in check_row(b, row)]
    for row in rows:
        if row.endswith("-1"):
            name = row.removesuffix("-1")
            scaled = b.paired(name + "-8", "sleep5ms", "ops_per_s", (row, "sleep5ms", "ops_per_s"))
            found += check(name, "sleep5ms", "8 readers, of one", scaled, SCALING)
        if row.endswith("-ring"):
            for clients in (1, 8):
                name = f"compute200us, {clients} clients"
                device = (row.replace("-ring", "-device"), name, "ops_per_s")
                found += check(row, name, "reads, of those over the device", b.paired(row, name, "ops_per_s", device),
                               SHARE)  # fmt: skip
    return found


def idle_checks(found: list[dict[str, Any]]) -> list[Check]:
    """Memory is compared with what libfuse takes at most on the same transport, if it was measured there: the
    proportional share (PSS), for most of a small program's resident pages (RSS) are libc's, and how many of these
    a process has mapped depends on where the kernel happened to put them."""
    pss = {i["row"]: i["pss_mib"] for i in found}
    device, ring = (
        max((v for k, v in pss.items() if k.startswith("libfuse") and k.endswith("-ring") == on_ring), default=None)
        for on_ring in (False, True)
    )
    result: list[Check] = []
    for i in found:
        if i["row"].startswith(("c-", "python-", "go-")) and i["row"] != "go-fuse":
            result += check(i["row"], "idle", "share of a CPU", [i["cpu_share"]], IDLE_LIMIT, least=False)
        if i["row"].startswith("c-"):
            libfuse = ring if i["row"] == "c-ring" and ring else device
            of_theirs = [i["pss_mib"] / libfuse] if libfuse else []
            result += check(i["row"], "idle", "memory, of libfuse's", of_theirs, 1.0, least=False)
    return result


# ---- as text ----


def number(value: float) -> str:
    return f"{value:.5f}" if abs(value) < 0.01 else f"{value:.2f}"


def check_line(c: Check) -> str:
    limit = f"{'at least' if c['least'] else 'at most'} {c['limit']:g}"
    verdict = "holds" if c["holds"] else "MISSED, as it may be by chance" if c["doubtful"] else "MISSED"
    if c["out_of_reach"]:
        verdict += f", out of reach: a bare loop is at {number(c['bare'])}"
    if c["apart"] is not None:
        verdict += f" ({number(c['apart'])} with clients apart)"
    return f"{c['scenario']:<24} {c['row']:<20} {c['what']:<40} {number(c['value']):>8}  {limit}: {verdict}"


def sample_line(s: dict[str, Any]) -> str:
    def column(key: str) -> str:
        return f"{s[key]:>9,.0f}" if s.get(key) is not None else f"{'-':>9}"

    return f"{s['scenario']:<24} {s['row']:<20} " + " ".join(
        column(k) for k in ("ops_per_s", "p50_us", "p99_us", "stat", "stat_p99_us", "alone_p99_us", "apart_p99_us")
    )


def render(data: dict[str, Any]) -> str:
    m = data["machine"]
    lines = [f"Linux {m['kernel']}, {m['cpus']} CPUs, load average {m['load']:.2f}, {m['date']}; medians of "
             f"{data['config']['rounds']} rounds of {data['config']['seconds']:g} s", ""]  # fmt: skip
    for s in data["servers"]:
        if s["skipped"] or s["failed"]:
            lines.append(f"{s['name']}: {s['skipped'] or s['failed']}")
    lines += [
        "",
        f"{'':45} {'reads/s':>9} {'p50 us':>9} {'p99 us':>9} {'stat/s':>9} {'p99 us':>9} {'alone':>9} {'apart':>9}",
    ]
    lines += [sample_line(s) for s in data["samples"]]
    if data["idle"]:
        lines += [
            "",
            f"idle for {data['config']['idle']:g} s {'CPU share':>27} {'RSS MiB':>9} {'PSS MiB':>9} {'own MiB':>9}"
            "  threads",
        ]
    for i in data["idle"]:
        lines.append(f"{i['row']:<30} {i['cpu_share']:>10.5f} {i['rss_mib']:>9.2f} {i['pss_mib']:>9.2f} "
                     f"{i['own_mib']:>9.2f} {i['threads']:>8}")  # fmt: skip
    held = sum(c["holds"] for c in data["checks"])
    lines += ["", f"Requirements: {held} of {len(data['checks'])} hold", *map(check_line, data["checks"])]
    return "\n".join(lines)


# ---- the process ----


def collect(b: Bench) -> list[dict[str, Any]]:
    found = []
    keys = ("ops_per_s", "p50_us", "p99_us", "stat", "stat_p99_us", "alone_p99_us", "apart_p99_us", "released_s")
    for (row, scenario), samples in sorted(b.samples.items(), key=lambda kv: (kv[0][1], kv[0][0])):
        values = {k: b.middle(row, scenario, k) for k in keys if any(s.get(k) is not None for s in samples)}
        found.append({"row": row, "scenario": scenario, "rounds": len(samples)} | values)
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    b = Bench(args.seconds, [*PEERS, *args.peer])
    data: dict[str, Any] = {
        "format": 2,
        "machine": machine(),
        "config": {"rounds": args.rounds, "seconds": args.seconds, "idle": args.idle, "cpus": CPUS},
        "idle": [],
    }
    servers: list[dict[str, Any]] = []
    try:
        if args.idle:
            data["idle"], servers = at_rest(chosen(SERVERS, IDLE_ROWS) + args.extra, args.idle)
        rows = chosen((*ROWS, *chain(*BARE.values()), *b.peers), args.rows)
        fleet = SlowFleet([s for s in rows if any(wanted(s, name) for name in args.scenarios)])
        with cleaned_up(fleet):
            fleet.start()
            measure(fleet, b, args)
        servers += list(fleet.info.values())
    except SystemExit as e:
        data["interrupted"] = e.code
    data["servers"] = servers
    data["samples"] = collect(b)
    data["checks"] = checks(b, [s.name for s in ROWS]) + idle_checks(data["idle"])
    return data


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=words, default=["*"], metavar="PATTERN,...")
    p.add_argument("--scenarios", type=words, default=list(SCENARIOS), help=",".join(SCENARIOS))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--seconds", type=float, default=1.0, help="of one sample")
    p.add_argument("--idle", type=float, default=20, help="seconds of doing nothing; 0: leave that out")
    p.add_argument(
        "--extra", type=extra, action="append", default=[], metavar="NAME=COMMAND", help="one more idle server"
    )
    p.add_argument(
        "--peer", type=peer, action="append", default=[], metavar="NAME=COMMAND",
        help="one more server beside C's rows: of slow handlers, as bench/peers/libfuse_null.c with --slow"
    )  # fmt: skip
    p.add_argument("--json", type=Path, default=OUT / "blocked.json")
    args = p.parse_args()
    if any(s not in SCENARIOS for s in args.scenarios):
        p.error(f"--scenarios: some of {', '.join(SCENARIOS)}")
    data = measured(args.json, lambda: run(args))
    print(render(data))
    return int(data.get("interrupted") or 0) or int(any(s["failed"] for s in data["servers"]))


if __name__ == "__main__":
    sys.exit(main())
