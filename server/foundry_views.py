"""How the foundry's commands show things to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from server.cli_views import size

if TYPE_CHECKING:
    from variants.build.advise import Advice
    from variants.build.pipeline import Summary
    from variants.build.publish import Found
    from variants.pareto import Row


def duration(value: float | None) -> str:
    """Seconds for people, down to microseconds."""
    if value is None:
        return "-"
    if value >= 1.0:
        return f"{value:.2f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.0f} ms" if value >= 0.1 else f"{value * 1e3:.1f} ms"
    return f"{value * 1e6:.0f} µs"


def quality(row: Row) -> str:
    """A quality with half of its 95 % interval, where that is known."""
    if row.quality is None:
        return "-"
    if row.quality_low is None or row.quality_high is None:
        return f"{row.quality:.4f}"
    return f"{row.quality:.4f} ±{(row.quality_high - row.quality_low) / 2:.4f}"


def print_summary(console: Console, model: str, summary: Summary) -> None:
    """A build's summary: built, skipped (why), failed (why)."""
    for name in summary.built:
        console.print(f"{model}: built [green]{name}[/]")
    for name, why in summary.skipped.items():
        console.print(f"{model}: skipped {name}: {escape(without(why, model, name))}", soft_wrap=True)
    for name, why in summary.failed.items():
        console.print(f"{model}: [red]failed[/] {name}: {escape(without(why, model, name))}", soft_wrap=True)


def without(why: str, model: str, variant: str) -> str:
    """A reason without the names that the line it is printed in begins with."""
    return why.removeprefix(f"{model}/{variant}: ").removeprefix(f"{model}: ").removeprefix(f"{variant}: ")


def print_ladders(console: Console, device: str, tables: Mapping[str, Sequence[Row]]) -> None:
    """One table for each model: every variant, and whether it is a rung. The engine is named where there are several."""
    console.print(f"device: {device}", soft_wrap=True)
    for model, rows in tables.items():
        engines = {row.engine for row in rows}
        title = f"{model} ({', '.join(engines)})" if len(engines) == 1 else model
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        left = ("rung", "variant") if len(engines) == 1 else ("rung", "variant", "engine")
        for column in left:
            table.add_column(column, no_wrap=True)
        for column in ("quality", "resident", "batch of 1", "per second", "load"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            cells = cells_of(row)
            table.add_row(*(cells if len(engines) > 1 else cells[:2] + cells[3:]))
        console.print(table)


def cells_of(row: Row) -> list[str]:
    """Rung, variant, engine, quality, resident bytes, latency, throughput, load of one variant."""
    if row.quality is None:
        return ["?", row.variant, row.engine, "not profiled", "-", "-", "-", "-"]
    return [
        "-" if row.rung is None else str(row.rung),
        row.variant,
        row.engine,
        quality(row),
        size(row.resident_bytes),
        duration(row.p50_seconds),
        f"{row.throughput:.0f}",
        duration(row.load_seconds),
    ]


def print_advice(console: Console, advice: Advice) -> None:
    """`trimtab advise`: what was found, topic by topic, and the commands to type."""
    console.print(f"[bold]{advice.model}[/]")
    for topic, text in advice.lines:
        console.print(f"  {topic}: {text}", soft_wrap=True, markup=False)
    for command in advice.commands:
        console.print(f"  $ {command}", soft_wrap=True, markup=False)


def print_found(console: Console, model: str, found: Found, nodes: int | None) -> None:
    """`trimtab search`: what was tried and added, and whether it holds against the ladder that was there."""
    where = "" if nodes is None else f" on {nodes} nodes"
    console.print(
        f"{model}: {found.complete} trials measured{where}, {found.stopped} stopped early, {len(found.failed)} failed; "
        f"added {', '.join(found.added) or 'nothing: the ladder there is as good'}",
        soft_wrap=True,
    )
    for rung, by in found.against.items():
        verdict = "nothing found is as good" if by is None else f"{by} is as good or better in every respect"
        console.print(f"{model}: against rung {rung}: {verdict}", soft_wrap=True)
