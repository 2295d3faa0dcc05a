#!/usr/bin/env python3
"""Shows where a server's CPU time goes, as tables and as a flame graph.

    bench/flame.py c-ring --op read4k --clients 1

Starts one row of the benchmark, loads it, and samples it with perf (Debian:
linux-perf). Writes flame-ROW-OP.svg and .folded (one stack a line) to
build/bench. Needs root.

Samples come from a timer, so time that the kernel spends with interrupts off is
counted where it lets them in again: _raw_spin_unlock_irqrestore,
finish_task_switch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from bench import LOAD, MOUNTS, OUT, Fleet, alone, cleaned_up
from running import Running, ServerError, ensure_fusectl, sweep_leftovers
from servers import OPS, SERVERS, Server, extra

TOP = Path(__file__).resolve().parent.parent
FREQUENCY = 1999
WIDTH, ROW = 1200, 17
LEAST = 0.4  # narrower than this many pixels is not drawn
KERNEL = "kernel"

Frame = tuple[str, str]  # function, where it is from
Stack = tuple[Frame, ...]  # outermost first


@dataclass
class Node:
    count: int = 0
    below: dict[Frame, Node] = field(default_factory=dict)


def record(running: Running, args: argparse.Namespace) -> str:
    """What `perf script` says about the server under load."""
    raw = OUT / "perf.data"
    load = subprocess.Popen(running.load_argv(args.op, args.clients, args.seconds + 1.5, 0), stdout=subprocess.DEVNULL)
    try:
        # Its compiler leaves no frame pointers; the stacks come from the unwind tables.
        subprocess.run(
            ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "--call-graph", args.unwind,
             "-p", str(running.process.pid), "-o", os.fspath(raw), "--", "sleep", f"{args.seconds:g}"],
            check=True, timeout=args.seconds + 30, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        load.wait(args.seconds + 20)
    except subprocess.SubprocessError as e:
        load.kill()
        raise ServerError(f"perf: {e}") from None
    out = subprocess.run(
        ["perf", "script", "--no-inline", "-F", "comm,tid,ip,sym,dso", "-i", os.fspath(raw)],
        check=True, timeout=300, capture_output=True, text=True, errors="replace",
    ).stdout  # fmt: skip
    raw.unlink()
    return out


def frame(line: str) -> Frame:
    """`ffffffff81619688 folio_remove_rmap_ptes+0x18 ([kernel.kallsyms])`"""
    words = line.split(None, 1)
    name, _, dso = words[1].rpartition(" (") if len(words) > 1 else ("", "", "")
    dso = dso.rstrip(")")
    if dso.startswith("[kernel") or dso.endswith(".ko"):
        dso = KERNEL
    name = name.partition("+0x")[0].strip()
    return (name if name and name != "[unknown]" else "?", Path(dso).name or "?")


def stacks(text: str) -> Counter[Stack]:
    """Stacks and how often each was seen."""
    found: Counter[Stack] = Counter()
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        if len(lines) < 2:
            continue
        frames = [frame(line) for line in lines[1:] if line.strip()]
        found[tuple(reversed(frames))] += 1
    return found


def tree(found: Counter[Stack]) -> Node:
    root = Node()
    for stack, count in found.items():
        node = root
        node.count += count
        for f in stack:
            node = node.below.setdefault(f, Node())
            node.count += count
    return root


def colour(dso: str) -> str:
    if dso == KERNEL:
        return "#ffcc80"
    hue = sum(map(ord, dso)) * 47 % 160 + 90  # green to blue: not the kernel's
    return f"hsl({hue},55%,75%)"


def draw(node: Node, x: float, depth: int, scale: float, total: int, lines: list[str], height: int) -> None:
    for (name, dso), child in sorted(node.below.items()):
        width = child.count * scale
        if width >= LEAST:
            y = height - (depth + 1) * ROW
            share = f"{child.count / total:.1%}"
            lines.append(f'<g><title>{escape(name)} ({escape(dso)}), {share}</title><rect x="{x:.1f}" y="{y}" '
                         f'width="{width:.1f}" height="{ROW - 1}" fill="{colour(dso)}"/>')  # fmt: skip
            room = int(width / 6.6)
            if room > 2:
                text = name if len(name) <= room else name[: room - 1] + "…"
                lines.append(f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(text)}</text>')
            lines.append("</g>")
            draw(child, x, depth + 1, scale, total, lines, height)
        x += width


def depth_of(node: Node, least: float) -> int:
    return max((1 + depth_of(c, least) for c in node.below.values() if c.count >= least), default=0)


def flame_graph(root: Node, title: str) -> str:
    scale = WIDTH / max(root.count, 1)
    height = (depth_of(root, LEAST / scale) + 2) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="4" y="13">{escape(title)}</text>',
    ]
    draw(root, 0, 0, scale, root.count, lines, height)
    return "\n".join([*lines, "</svg>"]) + "\n"


def tables(found: Counter[Stack], count: int) -> list[str]:
    total = sum(found.values())
    own: Counter[Frame] = Counter()
    with_callees: Counter[Frame] = Counter()
    places: Counter[str] = Counter()
    for stack, n in found.items():
        own[stack[-1]] += n
        places[stack[-1][1]] += n
        for f in set(stack):
            with_callees[f] += n
    lines = ["where:  " + ", ".join(f"{dso} {n / total:.1%}" for dso, n in places.most_common(8))]
    for title, counter in ("itself:", own), ("with what it calls:", with_callees):
        lines.append(title)
        lines += [f"  {n / total:6.1%}  {name} ({dso})" for (name, dso), n in counter.most_common(count)]
    return lines


def fold(found: Counter[Stack]) -> str:
    return "".join(";".join(name for name, _ in stack) + f" {n}\n" for stack, n in found.most_common())


def row(text: str) -> Server:
    if "=" in text:
        return extra(text)
    for server in SERVERS:
        if server.name == text:
            return server
    raise ValueError(text)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("row", type=row, help="a name of bench.py --list, or NAME=COMMAND")
    p.add_argument("--op", choices=OPS, default="read4k")
    p.add_argument("--clients", type=int, default=1)
    p.add_argument("--seconds", type=float, default=3.0)
    p.add_argument("--top", type=int, default=15, help="lines of each table")
    p.add_argument("--unwind", choices=("dwarf", "fp"), default="dwarf", help="fp suits Go, and costs less")
    args = p.parse_args()
    if not shutil.which("perf"):
        sys.exit("flame: needs perf (Debian: linux-perf)")
    if os.geteuid() != 0 or not LOAD.exists():
        sys.exit("flame: run bench/setup, and this as root")
    os.chdir(TOP)
    ensure_fusectl()
    fleet = Fleet([args.row])
    with alone():
        sweep_leftovers(MOUNTS)
        with cleaned_up(fleet):
            fleet.start()
            if not fleet.up:
                sys.exit(f"flame: {args.row.name}: {fleet.info[args.row.name]['skipped']}")
            try:
                text = record(fleet.up[0], args)
            except ServerError as e:
                fleet.fail(fleet.up[0], e)
                sys.exit(f"flame: {e}")
    found = stacks(text)
    if not found:
        sys.exit("flame: not one sample: the server had nothing to do")
    title = (
        f"{args.row.name}, {args.op}, {args.clients} client{'s' * (args.clients > 1)}: {sum(found.values())} samples"
    )
    base = OUT / f"flame-{args.row.name}-{args.op}"
    base.with_suffix(".svg").write_text(flame_graph(tree(found), title))
    base.with_suffix(".folded").write_text(fold(found))
    print(title)
    print("\n".join(tables(found, args.top)))
    print(f"written: {os.path.relpath(base)}.svg, .folded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
