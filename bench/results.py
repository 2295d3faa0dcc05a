"""From samples to medians, ratios, requirements and a table.

Everything here works on the plain dictionary that is also the JSON file, so
that a table can be printed again from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from servers import REQUESTS

Data = dict[str, Any]
Cell = dict[str, Any]

# (our family, whom it is held against, where, at least)
PEERS_OF = {
    "manifuse-python": ("mfusepy", "pyfuse3"),
    "manifuse-go": ("go-fuse",),
}
PYTHON_MINIMUM = {1: 1.3, 8: 1.0}
GO_MINIMUM = 1.3
C_MINIMUM = 0.95
REQUIRED_OPS = ("stat", "read4k")


def summarize(server: str, op: str, clients: int, samples: list[Data], limit: float) -> Cell:
    """One cell of the table: the medians over all rounds."""
    total = sum(s["ops_total"] for s in samples)
    moved = sum(s["bytes_total"] for s in samples)
    cpu = sum(s["server_cpu_s"] for s in samples)

    def middle(key: str) -> float:
        return float(median(s[key] for s in samples))

    return {
        "server": server,
        "op": op,
        "clients": clients,
        "rounds": len(samples),
        "ops_per_s": middle("ops_per_s"),
        "ops_per_s_all": [s["ops_per_s"] for s in samples],
        "bytes_per_s": middle("bytes_per_s"),
        "p50_us": middle("p50_us"),
        "p99_us": middle("p99_us"),
        "p999_us": middle("p999_us"),
        "max_us": max(s["max_us"] for s in samples),
        "server_cpu_s_per_million_ops": cpu / total * 1e6 if total else 0.0,
        "server_cpu_s_per_gib": cpu / moved * 2**30 if moved else None,
        "rss_mib": max(s["rss_mib"] for s in samples),
        "threads": max(s["threads"] for s in samples),
        "others": middle("others"),
        "spoilt": sum(s["others"] > limit for s in samples),
    }


class Table:
    def __init__(self, data: Data) -> None:
        self.data = data
        self.cells: dict[tuple[str, str, int], Cell] = {(c["server"], c["op"], c["clients"]): c for c in data["cells"]}
        self.servers: list[Data] = data["servers"]
        self.ops: list[str] = data["config"]["ops"]
        self.clients: list[int] = data["config"]["clients"]

    def family(self, *names: str) -> list[Data]:
        return [s for s in self.servers if s["family"] in names]

    def best(self, servers: Iterable[Data], op: str, clients: int) -> Cell | None:
        found = [self.cells.get((s["name"], op, clients)) for s in servers]
        return max((c for c in found if c), key=lambda c: float(c["ops_per_s"]), default=None)


def paired_ratio(ours: Cell, theirs: Cell) -> float:
    """The median of the rounds' ratios: both ran within one round, so what the
    machine did at that time falls out."""
    pairs = zip(ours["ops_per_s_all"], theirs["ops_per_s_all"], strict=False)
    return float(median(a / b for a, b in pairs if b))


def compare(ours: Cell, theirs: Cell, minimum: float | None) -> Data:
    ratio = paired_ratio(ours, theirs)
    return {
        "op": ours["op"],
        "clients": ours["clients"],
        "ours": ours["server"],
        "theirs": theirs["server"],
        "ratio": ratio,
        "minimum": minimum,
        "holds": None if minimum is None else ratio >= minimum,
    }


def compare_c(t: Table, op: str, clients: int) -> list[Data]:
    """Against the responder with the same readers in the same places; what has
    no such counterpart (the defaults) against the fastest responder."""
    found = []
    for s in t.family("manifuse-c"):
        ours = t.cells.get((s["name"], op, clients))
        same = [r for r in t.family("responder") if r["layout"] == s["layout"]]
        theirs = t.best(same or t.family("responder"), op, clients)
        if ours and theirs:
            found.append(compare(ours, theirs, C_MINIMUM))
    return found


def compare_best(t: Table, family: str, minimum: Callable[[int], float | None], op: str, clients: int) -> list[Data]:
    """The best of our modes against the best of the peers' modes, and how our
    defaults do."""
    theirs = t.best(t.family(*PEERS_OF[family]), op, clients)
    ours = t.best(t.family(family), op, clients)
    if not ours or not theirs:
        return []
    need = minimum(clients) if op in REQUIRED_OPS else None
    found = [compare(ours, theirs, need)]
    auto = [s for s in t.family(family) if s["layout"] == "auto"]
    default = t.best(auto, op, clients)
    if default and default is not ours:
        found.append(compare(default, theirs, None))
    return found


def comparisons(data: Data) -> list[Data]:
    t = Table(data)
    found: list[Data] = []
    for op in t.ops:
        for n in t.clients:
            found += compare_c(t, op, n)
            found += compare_best(t, "manifuse-python", PYTHON_MINIMUM.get, op, n)
            found += compare_best(t, "manifuse-go", lambda _: GO_MINIMUM, op, n)
    return found


# ---- as text ----


def cell_text(c: Cell | None) -> str:
    if not c:
        return f"{'-':>9} {'':>8} {'':>8}"
    return f"{c['ops_per_s']:>9,.0f} {c['p50_us']:>8.1f} {c['p99_us']:>8.1f}"


def op_table(t: Table, op: str) -> list[str]:
    wide = max(len(s["name"]) for s in t.servers)
    unit = "cpu s/GiB" if op.startswith("seq") else "cpu s/M"
    key = "server_cpu_s_per_gib" if op.startswith("seq") else "server_cpu_s_per_million_ops"
    head = " ".join(f"{f'{n} client' + ('s' if n > 1 else ''):^27}" for n in t.clients)
    cols = " ".join(f"{'ops/s':>9} {'p50 us':>8} {'p99 us':>8}" for _ in t.clients)
    cpu = " ".join(f"{n:>5}" for n in t.clients)
    lines = [
        f"{op}: {REQUESTS[op]}",
        f"{'':{wide}} {head} {'server ' + unit + ', clients':^{6 * len(t.clients)}} {'MiB':>5}",
        f"{'':{wide}} {cols} {cpu} {'rss':>5}",
    ]
    for s in t.servers:
        row = [t.cells.get((s["name"], op, n)) for n in t.clients]
        if not any(row):
            continue
        costs = " ".join(f"{c[key]:>5.1f}" if c and c[key] is not None else "    -" for c in row)
        rss = max(c["rss_mib"] for c in row if c)
        text = " ".join(cell_text(c) for c in row)
        lines.append(f"{s['name']:{wide}} {text} {costs} {rss:>5.0f}")
    return lines


def ratio_table(found: list[Data]) -> list[str]:
    if not found:
        return ["Ratios: no manifuse server was measured."]
    lines = ["Ratios (medians of the rounds' ratios)"]
    for c in found:
        verdict = ""
        if c["minimum"] is not None:
            word = "holds" if c["holds"] else f"MISSED by {c['minimum'] - c['ratio']:.2f}"
            verdict = f"  required {c['minimum']:.2f}: {word}"
        who = f"{c['ours']} / {c['theirs']}"
        lines.append(f"  {c['op']:<16} {c['clients']:>2}  {who:<38} {c['ratio']:>6.2f}{verdict}")
    return lines


def server_table(servers: list[Data]) -> list[str]:
    wide = max(len(s["name"]) for s in servers)
    lines = ["Servers"]
    for s in servers:
        text = s["skipped"] and f"skipped: {s['skipped']}"
        text = text or "; ".join(filter(None, (s["placement"], s["note"], s["failed"])))
        if s["ended"] not in (None, "clean"):
            text += f"; did not end cleanly: {s['ended']}"
        lines.append(f"  {s['name']:<{wide}}  {text}")
    return lines


def render(data: Data) -> str:
    t = Table(data)
    m, c = data["machine"], data["config"]
    where = (
        f"Linux {m['kernel']}, {m['cpus']} CPUs ({m['model']}), clocksource {m['clocksource']}, "
        f"autogroup {m['autogroup']}, load average {m['load']:.2f}"
    )
    how = (
        f"{c['rounds']} rounds of {c['seconds']:g} s, interleaved; medians; "
        "each server in a session of its own; clients unpinned"
    )
    samples = sum(x["rounds"] for x in data["cells"])
    spoilt = sum(x["spoilt"] for x in data["cells"])
    noise = (
        f"samples in which others took more than {c['others']:.0%} of the CPUs, after "
        f"{c['retries']} retries: {spoilt} of {samples}"
    )
    lines = [
        where,
        how,
        noise,
        *(["TOO BUSY A MACHINE: these figures say little"] if spoilt * 4 > samples else []),
        *(["INTERRUPTED: some cells have fewer rounds"] if data.get("interrupted") else []),
        "",
        *server_table(t.servers),
        "",
    ]
    for op in t.ops:
        lines += [*op_table(t, op), ""]
    lines += ratio_table(data["comparisons"])
    return "\n".join(lines)
