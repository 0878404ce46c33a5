"""A model's variants as a picture: quality against resident bytes and against latency, with the front drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from variants.errors import BuildError
from variants.pareto import Row

FRONT, DOMINATED = "#0b6e4f", "#9aa0a6"


def draw(model: str, rows: Sequence[Row], target: Path) -> None:
    """Write the picture as PNG (or SVG, by the suffix). Variants without a profile are left out.

    Raises BuildError when no variant has one, or matplotlib is not installed.
    """
    measured = [r for r in rows if r.quality is not None]
    if not measured:
        raise BuildError(f"{model}: nothing to draw: no variant is profiled on this device; run `trimtab profile`")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BuildError(f"{model}: {target.name} needs matplotlib: pip install 'trimtab[build]'") from error
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels = (
        (axes[0], "resident (MiB)", [(r.resident_bytes or 0) / 2**20 for r in measured]),
        (axes[1], "latency, batch of 1, median (ms)", [(r.p50_seconds or 0.0) * 1e3 for r in measured]),
    )
    for panel, label, places in panels:
        _scatter(panel, measured, places, label)
    axes[0].set_ylabel("quality (95 % interval)")
    figure.suptitle(f"{model}: the ladder's rungs; grey: dominated, or below the floor")
    figure.draw_without_rendering()  # places the axes, on which the labels' places depend
    for panel, _, places in panels:
        _label(panel, measured, places)
    figure.savefig(target, dpi=130)


def _scatter(axes: Any, rows: Sequence[Row], places: Sequence[float], label: str) -> None:
    best = front_of([(x, r.quality or 0.0) for x, r in zip(places, rows, strict=True) if r.rung is not None])
    axes.plot([x for x, _ in best], [q for _, q in best], color=FRONT, linewidth=1, alpha=0.6, zorder=1)
    for x, row in zip(places, rows, strict=True):
        value, low, high = row.quality or 0.0, row.quality_low, row.quality_high
        spread = [[0.0], [0.0]] if low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar([x], [value], yerr=spread, fmt="o", color=_colour(row), markersize=5, linewidth=0.8, zorder=2)
    axes.set_xlabel(label)
    axes.margins(x=0.16, y=0.12)
    axes.grid(alpha=0.25)


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of places (cost, quality) those that no cheaper one equals in quality, from the cheapest up."""
    kept: list[tuple[float, float]] = []
    for x, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or value > kept[-1][1]:
            kept.append((x, value))
    return kept


def _label(axes: Any, rows: Sequence[Row], places: Sequence[float]) -> None:
    """Name every point beside it, rungs first, each where it covers no other name and no point, if there is such a place."""
    dots = [axes.transData.transform((x, r.quality)) for x, r in zip(places, rows, strict=True)]
    taken: list[Any] = []
    for x, row in sorted(zip(places, rows, strict=True), key=lambda p: p[1].rung is None):
        text = axes.annotate(
            row.variant, (x, row.quality), (7, -3), textcoords="offset points", fontsize=8, color=_colour(row), zorder=3
        )
        tried: list[Any] = []
        for step, (dx, side) in itertools.product(range(6), ((7, "left"), (-7, "right"))):
            for dy in (-3 + 10 * step, -3 - 10 * step):
                text.set(position=(dx, dy), horizontalalignment=side)
                box = text.get_window_extent()
                covered = sum(box.overlaps(other) for other in taken) + sum(box.contains(*dot) for dot in dots)
                tried.append((covered + 9 * (not _inside(axes.bbox, box)), len(tried), dx, dy, side, box))
        _, _, dx, dy, side, box = min(tried)
        text.set(position=(dx, dy), horizontalalignment=side)
        taken.append(box)


def _inside(outer: Any, inner: Any) -> bool:
    return bool(outer.contains(inner.x0, inner.y0) and outer.contains(inner.x1, inner.y1))


def _colour(row: Row) -> str:
    return FRONT if row.rung is not None else DOMINATED
