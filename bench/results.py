"""From samples to medians, ratios, requirements and a table.

Everything here works on the plain dictionary that is also the JSON file, so
that a table can be printed again from the file.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from math import sqrt
from statistics import median
from typing import Any

import overhead
from requirements import REQUIREMENTS, Requirement
from servers import REQUESTS

Data = dict[str, Any]
Cell = dict[str, Any]


def summarize(server: str, op: str, clients: int, samples: list[Data], limit: float) -> Cell:
    """One cell of the table: the medians over all rounds."""
    total = sum(s["ops_total"] for s in samples)
    moved = sum(s["bytes_total"] for s in samples)
    cpu = sum(s["server_cpu_s"] for s in samples)
    both = cpu + sum(s["clients_cpu_s"] for s in samples)

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
        "server_cpu_s_per_gib_all": [s["server_cpu_s"] / s["bytes_total"] * 2**30 for s in samples if s["bytes_total"]],
        "all_cpu_s_per_million_ops": both / total * 1e6 if total else 0.0,
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

    def rows(self, patterns: Iterable[str], session: str) -> list[Data]:
        """Rows by the names that they have in a session of their own."""
        found = []
        for s in self.servers:
            name = s["name"].partition("@")[0]
            if s["session"] == session and any(fnmatch.fnmatchcase(name, p) for p in patterns):
                found.append(s)
        return found

    def best(self, servers: Iterable[Data], op: str, clients: int) -> Cell | None:
        found = [self.cells.get((s["name"], op, clients)) for s in servers]
        return max((c for c in found if c), key=lambda c: float(c["ops_per_s"]), default=None)


def ring_request_us(t: Table) -> float | None:
    """What a request over the ring takes on the mean, its client included: read4k is one request."""
    cell = t.cells.get(("c-ring", "read4k", 1))
    return 1e6 / cell["ops_per_s"] if cell and cell["ops_per_s"] else None


def paired_ratios(ours: Cell, theirs: Cell, what: str = "ops_per_s_all") -> list[float]:
    """The rounds' ratios: both ran within one round, so what the machine did at that time falls out."""
    return [a / b for a, b in zip(ours[what], theirs[what], strict=False) if b]


def paired_ratio(ours: Cell, theirs: Cell) -> float:
    return median(paired_ratios(ours, theirs))


def leaves_in_doubt(held: Sequence[bool]) -> bool:
    """May it be by chance on which side of the limit the rounds' median lies? The sign test at one in ten."""
    return abs(2 * sum(held) - len(held)) < 1.645 * sqrt(len(held))


def compare(t: Table, r: Requirement, op: str, clients: int) -> Data | None:
    minimum = r.at(clients)
    ours = t.best(t.rows(r.ours, r.session), op, clients)
    theirs = t.best(t.rows(r.theirs, r.session), op, clients)
    if minimum is None or not ours or not theirs:
        return None
    ratios = paired_ratios(ours, theirs)
    ratio = median(ratios)
    found: Data = {
        "about": r.about,
        "transport": r.transport,
        "session": r.session,
        "op": op,
        "clients": clients,
        "ours": ours["server"],
        "theirs": theirs["server"],
        "ratio": ratio,
        "minimum": minimum,
        "missed_by": max(0.0, minimum - ratio),
        "rounds": len(ratios),
        "rounds_held": sum(r >= minimum for r in ratios),
        "in_doubt": leaves_in_doubt([r >= minimum for r in ratios]),
        "holds": ratio >= minimum,
    }
    bare = t.best(t.rows(r.bare, r.session), op, clients)
    if bare:
        found["bare"], found["bare_ratio"] = bare["server"], paired_ratio(bare, theirs)
    costs = paired_ratios(ours, theirs, "server_cpu_s_per_gib_all") if r.cheaper else []
    if costs:
        found["cost_ratio"] = median(costs)
        found["cost_in_doubt"] = leaves_in_doubt([c <= 1.0 for c in costs])
        found["holds"] = found["holds"] and found["cost_ratio"] <= 1.0
    return found


def compared(t: Table) -> Iterator[tuple[Requirement, Data]]:
    for r in REQUIREMENTS:
        for op in t.ops:
            for n in t.clients:
                found = compare(t, r, op, n) if op in r.ops else None
                if found:
                    yield r, found


def comparisons(data: Data) -> list[Data]:
    return [c for _, c in compared(Table(data))]


def undecided(data: Data) -> set[tuple[str, str, int]]:
    """The cells of what the rounds leave in doubt, held or missed; of all rows among which the best was looked for."""
    t = Table(data)
    found: set[tuple[str, str, int]] = set()
    for r, c in compared(t):
        if not out_of_reach(c) and (c["in_doubt"] or c.get("cost_in_doubt")):
            rows = (s["name"] for patterns in (r.ours, r.theirs, r.bare) for s in t.rows(patterns, r.session))
            found |= {(name, c["op"], c["clients"]) for name in rows} & t.cells.keys()
    return found


# ---- as text ----


def is_stream(op: str) -> bool:
    return op.startswith("seq")


def rate_text(c: Cell, op: str) -> str:
    return f"{c['bytes_per_s'] / 2**20:,.0f}" if is_stream(op) else f"{c['ops_per_s']:,.0f}"


def microseconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def latency_text(c: Cell) -> str:
    return "/".join(microseconds(c[k]) for k in ("p50_us", "p99_us", "p999_us"))


def cost(c: Cell, op: str) -> float | None:
    value = c["server_cpu_s_per_gib"] if is_stream(op) else c["server_cpu_s_per_million_ops"]
    return None if value is None else float(value)


def cost_text(c: Cell | None, op: str) -> str:
    value = cost(c, op) if c else None
    return "-" if value is None else f"{value:.2f}" if is_stream(op) else f"{value:.1f}"


def cell_text(c: Cell | None, op: str) -> str:
    if not c:
        return f"{'-':>9} {'':>17}"
    return f"{rate_text(c, op):>9} {latency_text(c):>17}"


def op_table(t: Table, op: str) -> list[str]:
    clients = [n for n in t.clients if any((s["name"], op, n) in t.cells for s in t.servers)]
    wide = max(len(s["name"]) for s in t.servers)
    unit = "cpu s/GiB" if is_stream(op) else "cpu s/million"
    head = " ".join(f"{f'{n} client' + ('s' if n > 1 else ''):^27}" for n in clients)
    rate = "MiB/s" if is_stream(op) else "ops/s"
    cols = " ".join(f"{rate:>9} {'p50/p99/p99.9 us':>17}" for _ in clients)
    cpu = " ".join(f"{n:>6}" for n in clients)
    lines = [
        f"{op}: {REQUESTS[op]}",
        f"{'':{wide}} {head} {'server ' + unit + ', clients':^{7 * len(clients)}} {'rss':>5}",
        f"{'':{wide}} {cols} {cpu} {'MiB':>5} threads",
    ]
    for s in t.servers:
        row = [t.cells.get((s["name"], op, n)) for n in clients]
        if not any(row):
            continue
        costs = " ".join(f"{cost_text(c, op):>6}" for c in row)
        rss = max(c["rss_mib"] for c in row if c)
        threads = max(c["threads"] for c in row if c)
        text = " ".join(cell_text(c, op) for c in row)
        lines.append(f"{s['name']:{wide}} {text} {costs} {rss:>5.0f} {threads:>7}")
    return lines


def out_of_reach(c: Data) -> str:
    """Missed, and not even a loop without engine gets there."""
    if c["ratio"] >= c["minimum"] or c.get("bare_ratio") is None or c["bare_ratio"] >= c["minimum"]:
        return ""
    return f", out of reach: {c['bare']} is at {c['bare_ratio']:.2f}"


def doubtful(c: Data) -> bool:
    """Missed, as it may be by chance."""
    if c["holds"] or out_of_reach(c):
        return False
    slow = c["ratio"] < c["minimum"]
    dear = c.get("cost_ratio", 0) > 1.0
    return bool((c["in_doubt"] or not slow) and (c.get("cost_in_doubt") or not dear))


def verdict(c: Data) -> str:
    parts = []
    if c["ratio"] < c["minimum"]:
        parts.append(f"MISSED by {c['missed_by']:.2f}, in {c['rounds'] - c['rounds_held']} of {c['rounds']} rounds"
                     + out_of_reach(c))  # fmt: skip
    if c.get("cost_ratio") is not None and c["cost_ratio"] > 1.0:
        parts.append(f"MISSED: {c['cost_ratio']:.2f} times their CPU per GiB")
    return "; ".join(parts) or "holds"


def requirement_table(found: list[Data]) -> list[str]:
    if not found:
        return ["Requirements: nothing that they speak of was measured."]
    held = sum(c["holds"] for c in found)
    lines = [f"Requirements: {held} of {len(found)} hold (medians of the rounds' ratios)"]
    about = None
    for c in found:
        if (c["about"], c["transport"]) != about:
            about = c["about"], c["transport"]
            lines.append(f"  {c['about']} ({c['transport']})")
        who = f"{c['ours']} / {c['theirs']}"
        lines.append(f"    {c['op']:<16} {c['clients']:>2}  {who:<50} {c['ratio']:>6.2f}  of {c['minimum']:.2f}: "
                     f"{verdict(c)}")  # fmt: skip
    return lines


def server_text(s: Data) -> str:
    text = s["skipped"] and f"skipped: {s['skipped']}"
    cannot = s["cannot"] and f"does not take {', '.join(s['cannot'])}"
    text = text or "; ".join(filter(None, (s["placement"], s["note"], cannot, s["failed"])))
    if s["ended"] not in (None, "clean"):
        text += f"; did not end cleanly: {s['ended']}"
    return str(text)


def server_table(servers: list[Data]) -> list[str]:
    wide = max(len(s["name"]) for s in servers)
    lines = ["Servers"]
    return lines + [f"  {s['name']:<{wide}}  {s['transport']:<6} {server_text(s)}" for s in servers]


def too_busy(data: Data) -> bool:
    samples = sum(x["rounds"] for x in data["cells"])
    return bool(sum(x["spoilt"] for x in data["cells"]) * 4 > samples)


def again_line(config: Data) -> list[str]:
    if not config.get("again"):
        return []
    return [f"{config['again']} further rounds of {config['cells_again']} cells, those of requirements that the first "
            "left in doubt, held or missed"]  # fmt: skip


def circumstances(data: Data) -> list[str]:
    """Where and how it was measured, one sentence each."""
    m, c = data["machine"], data["config"]
    samples = sum(x["rounds"] for x in data["cells"])
    spoilt = sum(x["spoilt"] for x in data["cells"])
    lines = [
        f"Linux {m['kernel']}, {m['cpus']} CPUs ({m['model']}), clocksource {m['clocksource']}, "
        f"autogroup {m['autogroup']}, load average {m['load']:.2f}, {m['date']}",
        f"{c['rounds']} rounds of {c['seconds']:g} s for each cell ({c['one_stream']:g} times that for one stream), "
        f"{c['warmup']:g} s after its clients' begin, interleaved; medians; each server in a session of its own, "
        "but those marked @shared; clients unpinned",
        *again_line(c),
        f"samples in which others took more than {c['others']:.0%} of the CPUs, after up to "
        f"{c['retries']} retries: {spoilt} of {samples}",
    ]
    if too_busy(data):
        lines.append("TOO BUSY A MACHINE: these figures say little")
    if data.get("interrupted"):
        lines.append("INTERRUPTED: some cells have fewer rounds")
    return lines


def render(data: Data) -> str:
    t = Table(data)
    lines = [*circumstances(data), "", *server_table(t.servers), ""]
    for op in t.ops:
        if any(op == o for _, o, _ in t.cells):
            lines += [*op_table(t, op), ""]
    if data.get("overhead"):
        lines += [*overhead.render(data["overhead"], ring_request_us(t)), ""]
    lines += requirement_table(data["comparisons"])
    return "\n".join(lines)
