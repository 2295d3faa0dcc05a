"""Writes a run's figures into docs/performance.md, between marks, and a plot.

What stands outside the marks is written by hand and must hold whatever the
figures are; every sentence that depends on them is made here.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import overhead
import results
from results import Cell, Data, Table
from servers import CALLS, REQUESTS

# What is shown, under which name: the best of these rows, and its colour.
SHOWN = (
    ("C, ring", ("c-ring",), "#1b5e20"),
    ("Go, ring", ("go-ring",), "#0d47a1"),
    ("Python, ring", ("python-ring",), "#e65100"),
    ("C, device", ("c-auto",), "#66bb6a"),
    ("Go, device", ("go-auto",), "#64b5f6"),
    ("Python, device", ("python-auto",), "#ffb74d"),
    ("libfuse (C), ring", ("libfuse-ring*",), "#616161"),
    ("libfuse (C)", ("libfuse-[1sca]*",), "#9e9e9e"),
    ("go-fuse (Go)", ("go-fuse",), "#9e9e9e"),
    ("jacobsa/fuse (Go)", ("jacobsa",), "#9e9e9e"),
    ("mfusepy (Python)", ("mfusepy*",), "#9e9e9e"),
    ("pyfuse3 (Python)", ("pyfuse3",), "#9e9e9e"),
    ("no engine, ring", ("responder-ring*",), "#d7ccc8"),
    ("no engine, device", ("responder-[1scp]*",), "#d7ccc8"),
)

Shown = list[tuple[str, str, Cell]]  # name, colour, cell


def shown(t: Table, op: str, clients: int) -> Shown:
    found = []
    for name, patterns, colour in SHOWN:
        cell = t.best(t.rows(patterns, "own"), op, clients)
        if cell:
            found.append((name, colour, cell))
    return found


# ---- the plot ----

PANEL_W, PANEL_H, LABEL_W, BAR, GAP = 250, 34, 128, 13, 4


class Svg:
    def __init__(self, width: int, height: int) -> None:
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def text(self, x: float, y: float, text: str, anchor: str = "start", more: str = "") -> None:
        self.lines.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>')

    def bar(self, x: float, y: float, width: float, colour: str) -> None:
        self.lines.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{BAR}" '
                          f'fill="{colour}"/>')  # fmt: skip

    def whole(self) -> str:
        return "\n".join([*self.lines, "</svg>"]) + "\n"


def panel(svg: Svg, x: float, y: float, title: str, bars: Shown, op: str, names: list[str], labels: bool) -> None:
    svg.text(x, y + 14, title, more=' font-weight="bold"')
    cells = {name: (colour, c) for name, colour, c in bars}
    most = max((c["ops_per_s"] for _, c in cells.values()), default=1.0) or 1.0
    for i, name in enumerate(names):
        top = y + PANEL_H - 10 + i * (BAR + GAP)
        if labels:
            svg.text(x - 6, top + BAR - 3, name, "end")
        if name in cells:
            colour, c = cells[name]
            width = c["ops_per_s"] / most * (PANEL_W - 70)
            svg.bar(x, top, width, colour)
            svg.text(x + width + 4, top + BAR - 3, results.rate_text(c, op))


def plot(t: Table) -> str:
    """One panel per operation and number of clients, one bar per library."""
    panels = [(op, n) for n in (1, 8) for op in CALLS if op in t.ops and n in t.clients]
    found = {key: shown(t, *key) for key in panels}
    names = [name for name, _, _ in SHOWN if any(name == n for bars in found.values() for n, _, _ in bars)]
    columns = len({op for op, _ in panels}) or 1
    height = PANEL_H + len(names) * (BAR + GAP) + 14
    svg = Svg(LABEL_W + columns * PANEL_W + 20, (len(panels) // columns or 1) * height + 34)
    m = t.data["machine"]
    svg.text(10, 18, f"Operations per second, each server in a session of its own; Linux {m['kernel']}, "
             f"{m['cpus']} CPUs", more=' font-size="13"')  # fmt: skip
    for i, (op, n) in enumerate(panels):
        column, row = i % columns, i // columns
        title = f"{op}, {n} client" + ("s" if n > 1 else "")
        panel(svg, LABEL_W + column * PANEL_W + 8, 28 + row * height, title, found[op, n], op, names, column == 0)
    return svg.whole()


# ---- tables ----


def is_number(text: str) -> bool:
    return not text or text.lstrip("*")[:1].isdigit()


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    align = ["--:" if all(is_number(r[i]) for r in rows) else "---" for i in range(len(head))]
    return ["| " + " | ".join(r) + " |" for r in (head, align, *rows)]


def clients_head(numbers: list[int]) -> list[str]:
    return [f"{n} client" + ("s" if n > 1 else "") for n in numbers]


def op_section(t: Table, op: str) -> list[str]:
    numbers = [n for n in t.clients if any((s["name"], op, n) in t.cells for s in t.servers)]
    rows = []
    for s in t.servers:
        cells = [t.cells.get((s["name"], op, n)) for n in numbers]
        if not any(cells):
            continue
        text = [f"{results.rate_text(c, op)} ({results.latency_text(c)})" if c else "" for c in cells]
        cost = " / ".join(results.cost_text(c, op) for c in cells)
        rss = max(c["rss_mib"] for c in cells if c)
        rows.append([f"`{s['name']}`", *text, cost, f"{rss:.0f}", str(max(c["threads"] for c in cells if c))])
    unit = "CPU s per GiB" if results.is_stream(op) else "CPU s per million"
    rate = "MiB/s" if results.is_stream(op) else "calls/s"
    head = [f"{rate} (p50/p99/p99.9 µs)", *clients_head(numbers), unit, "RSS MiB", "threads"]
    return [f"**{op}**: {REQUESTS[op]}", "", *table(head, rows), ""]


def figures(t: Table) -> list[str]:
    lines: list[str] = []
    for op in t.ops:
        lines += op_section(t, op)
    return lines


def requirements(found: list[Data]) -> list[str]:
    if not found:
        return ["Nothing that the requirements speak of was measured."]
    held = sum(c["holds"] for c in found)
    numbers = sorted({c["clients"] for c in found})
    rows: dict[tuple[str, str, str], dict[int, str]] = {}
    for c in found:
        rows.setdefault((c["about"], c["transport"], c["op"]), {})[c["clients"]] = requirement_cell(c)
    lines = [[*key, *(cells.get(n, "") for n in numbers)] for key, cells in rows.items()]
    far = sum(bool(results.out_of_reach(c)) for c in found)
    doubtful = sum(results.doubtful(c) for c in found)
    return [
        f"{held} of {len(found)} hold. {far} of the others are out of reach on this machine: not even the best loop "
        "without engine, whose ratio is given, comes as far. A cell has the ratio and in parentheses what it must be; "
        f"bold ones are missed; {doubtful} have a question mark: their rounds do not tell which side of it they are on "
        "(sign test at one in ten). "
        "For streams, the CPU time per GiB is given where it exceeds the other's, which misses it too.",
        "",
        *table(["requirement", "transport", "operation", *clients_head(numbers)], lines),
    ]


def requirement_cell(c: Data) -> str:
    text = f"{c['ratio']:.2f} ({c['minimum']:.2f})"
    if results.out_of_reach(c):
        text += f", bare loop {c['bare_ratio']:.2f}"
    if c.get("cost_ratio") is not None and c["cost_ratio"] > 1.0:
        text += f", {c['cost_ratio']:.2f} times the CPU"
    return marked(text, c["holds"], results.doubtful(c))


def marked(text: str, holds: bool, doubtful: bool) -> str:
    return text if holds else f"**{text}**" + (" ?" if doubtful else "")


def servers(t: Table) -> list[str]:
    rows = [[f"`{s['name']}`", s["transport"], s["session"], results.server_text(s)] for s in t.servers]
    return table(["row", "transport", "session", "threads and placement at the end"], rows)


def ring_against_device(t: Table) -> list[str]:
    """Each cell in which a language's ring is slower than its device."""
    lost, count = [], 0
    for lang, name in ("c", "C"), ("python", "Python"), ("go", "Go"):
        for op in t.ops:
            for n in t.clients:
                ring, device = t.cells.get((f"{lang}-ring", op, n)), t.cells.get((f"{lang}-auto", op, n))
                if not ring or not device:
                    continue
                count += 1
                ratio = results.paired_ratio(ring, device)
                if ratio < 0.97:
                    lost.append([name, op, str(n), f"{ratio:.2f}"])
    if not count:
        return ["Not measured in this run."]
    first = f"In this run the ring was slower than the device by more than 3 % in {len(lost)} of {count} cells."
    return [first, "", *table(["language", "operation", "clients", "ring / device"], lost)] if lost else [first]


def sessions(t: Table) -> list[str]:
    """The same server in a session of its own and in the clients'."""
    rows = []
    for s in t.servers:
        if s["session"] != "shared":
            continue
        own = s["name"].partition("@")[0]
        for op in t.ops:
            for n in t.clients:
                here, there = t.cells.get((s["name"], op, n)), t.cells.get((own, op, n))
                if here and there:
                    rows.append([f"`{own}`", op, str(n), results.rate_text(there, op), results.rate_text(here, op)])
    if not rows:
        return ["Not measured in this run."]
    return table(["row", "operation", "clients", "own session", "clients' session"], rows)


def slow_handlers(scenarios: Data) -> list[str]:
    m, c = scenarios["machine"], scenarios["config"]
    lines = [f"Linux {m['kernel']}, {m['cpus']} CPUs, load average {m['load']:.2f}, {m['date']}; medians of "
             f"{c['rounds']} rounds of {c['seconds']:g} s.", ""]  # fmt: skip
    rows = []
    for k in scenarios["checks"]:
        limit = f"{'≥' if k['least'] else '≤'} {k['limit']:g}"
        value = f"{k['value']:.5f}" if abs(k["value"]) < 0.01 else f"{k['value']:.2f}"
        apart, bare, peer = ("" if k[key] is None else f"{k[key]:.2f}" for key in ("apart", "bare", "peer"))
        verdict = "holds" if k["holds"] else marked("MISSED", False, k["doubtful"])
        if k["out_of_reach"]:
            verdict = "missed, out of reach"
        rows.append([f"`{k['row']}`", k["scenario"], k["what"], value, apart, bare, peer, limit, verdict])
    held = sum(k["holds"] for k in scenarios["checks"])
    beyond = sum(k["out_of_reach"] for k in scenarios["checks"])
    doubtful = sum(k["doubtful"] for k in scenarios["checks"])
    lines += [f"{held} of {len(rows)} requirements hold; {beyond} of the others are out of reach: the best loop "
              "without engine does not get there either. A question mark: the rounds do not tell which side of it they "
              f"are on ({doubtful}).", ""]  # fmt: skip
    columns = ["row", "handlers", "what", "value", "clients apart", "bare loop", "best peer", "required", ""]
    return lines + table(columns, rows)


def handler_calls(t: Table) -> list[str]:
    rows = t.data.get("overhead")
    if not rows:
        return ["Not measured."]
    measured = [r for r in rows if not r["skipped"]]
    skipped = [f"- {r['what']}: {r['skipped']}" for r in rows if r["skipped"]]
    lines = table(["ns", *overhead.CALLS], overhead.cells(measured)) if measured else []
    counting = overhead.statistics_text(rows, results.ring_request_us(t))
    return [*lines, "", *([counting, ""] if counting else []), *skipped]


def idle(scenarios: Data) -> list[str]:
    rows = [
        [
            f"`{i['row']}`",
            f"{i['cpu_share'] * 100:.3f} %",
            f"{i['rss_mib']:.2f}",
            f"{i['pss_mib']:.2f}",
            f"{i['own_mib']:.2f}",
            str(i["threads"]),
        ]
        for i in scenarios["idle"]
    ]
    return table(["row", "of a CPU", "RSS MiB", "PSS MiB", "own MiB", "threads"], rows)


def busy_machine(busy: Data) -> list[str]:
    m, config = busy["machine"], busy["config"]
    loads = [(op, clients) for op, clients in config["loads"]]
    found: dict[tuple[str, str, str], dict[tuple[str, int], str]] = {}
    for c in busy["cells"]:
        found.setdefault((c["hogs"], c["case"], c["row"]), {})[c["op"], c["clients"]] = busy_cell(c)
    case = {c["name"]: c["what"] for c in busy["cases"]}
    rows = [[hogs, case[name], f"`{row}`", *(cells.get(load, "") for load in loads)]
            for (hogs, name, row), cells in found.items()]  # fmt: skip
    judged = [c["holds"] for c in busy["cells"] if "holds" in c]
    doubtful = sum(c.get("doubtful", False) for c in busy["cells"])
    plain = ", ".join(f"`{name}`" for name in config["references"].values())
    bare = " and ".join(f"`{name}` on the {transport}" for transport, name in config["bare"].items())
    return [
        f"{m['cpus']} CPUs and as many hogs, {m['date']}; medians of {config['rounds']} rounds of "
        f"{config['seconds']:.2f} s. Of what is scheduled plainly, the calls per second and the p99 are given: "
        f"{plain}, and the bare loops {bare}. Of the others, the ratios of calls and p99 to the same server scheduled "
        f"plainly, and of calls to the bare loop. {sum(judged)} of {len(judged)} hold, bold ones are missed; {doubtful}"
        " have a question mark, whose rounds do not tell which side of it they are on.",
        "",
        *table(["hogs", "servers", "row", *(f"{op}, {clients_head([n])[0]}" for op, n in loads)], rows),
        "",
        *(f"- Failed: {text}" for text in busy["failures"]),
        *(f"- Not measured: {n['what']}: {n['why']}" for n in busy["not_measured"]),
    ]


def busy_cell(c: Data) -> str:
    if "holds" not in c:
        return f"{c['ops_per_s']:,.0f} ({c['p99_us']:,.0f} µs)"
    text = f"{c['share']:.2f}, {c['latency']:.2f}" + ("" if c["bare"] is None else f"; {c['bare']:.2f}")
    return marked(text, c["holds"], c["doubtful"])


def undisturbed(data: Data) -> list[str]:
    found: dict[str, dict[str, str]] = {}
    for c in data["cells"]:
        known = c["of_bare"] is not None
        text = f"{c['of_bare']:.3f} ({c['ops_per_s']:,.0f})" if known else "too few turns"
        found.setdefault(c["row"], {})[c["op"]] = text
    turns = sorted(c["turns"] for c in data["cells"])
    m = data["machine"]
    return [
        f"Linux {m['kernel']}, {m['cpus']} CPUs, {m['date']}; medians of {turns[0]} to {turns[-1]} of "
        f"{data['config']['rounds']} turns. Of the best bare loop's calls, and calls/s:",
        "",
        *table(["row", *CALLS], [[f"`{row}`", *(cells.get(op, "") for op in CALLS)] for row, cells in found.items()]),
    ]


# ---- the page ----


def fill(page: str, name: str, lines: list[str]) -> str:
    mark = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.S)
    body = "\n".join(lines).strip() + "\n"
    page, count = mark.subn(lambda m: m[1] + "\n" + body + "\n" + m[2], page)
    if count != 1:
        raise SystemExit(f"bench: docs/performance.md has {count} places for {name!r}")
    return page


def write(data: Data, scenarios: Data | None, busy: Data | None, quiet: Data | None, docs: Path) -> None:
    t = Table(data)
    path = docs / "performance.md"
    page = path.read_text()
    blocks = {
        "machine": [f"- {line}" for line in results.circumstances(data)],
        "figures": figures(t),
        "requirements": requirements(data["comparisons"]),
        "servers": servers(t),
        "sessions": sessions(t),
        "ring against device": ring_against_device(t),
        "handler calls": handler_calls(t),
    }
    # What this tree has not measured keeps the figures of those that have.
    if scenarios:
        blocks["slow handlers"] = slow_handlers(scenarios)
    if scenarios and scenarios["idle"]:
        blocks["idle"] = idle(scenarios)
    if busy:
        blocks["busy machine"] = busy_machine(busy)
    if quiet:
        blocks["undisturbed"] = undisturbed(quiet)
    for name, lines in blocks.items():
        page = fill(page, name, lines)
    path.write_text(page)
    (docs / "performance.svg").write_text(plot(t))
