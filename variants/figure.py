"""A model's variants as a picture: quality against resident bytes and against latency, with the front drawn."""

from __future__ import annotations

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
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    _scatter(axes[0], measured, lambda r: (r.resident_bytes or 0) / 2**20, "resident (MiB)")
    _scatter(axes[1], measured, lambda r: (r.p50_seconds or 0.0) * 1e3, "latency, batch of 1, median (ms)")
    axes[0].set_ylabel("quality (95 % interval)")
    figure.suptitle(model)
    figure.savefig(target, dpi=130)


def _scatter(axes: Any, rows: Sequence[Row], x: Any, label: str) -> None:
    front = [r for r in rows if r.rung is not None]  # from the top rung down
    axes.plot([x(r) for r in front], [r.quality for r in front], color=FRONT, linewidth=1, alpha=0.6, zorder=1)
    for row in rows:
        colour = FRONT if row.rung is not None else DOMINATED
        low, high = row.quality_low, row.quality_high
        spread = (
            [[0.0], [0.0]]
            if low is None or high is None
            else [[max(0.0, (row.quality or 0) - low)], [max(0.0, high - (row.quality or 0))]]
        )
        axes.errorbar(
            [x(row)], [row.quality], yerr=spread, fmt="o", color=colour, markersize=5, linewidth=0.8, zorder=2
        )
        axes.annotate(
            row.variant,
            (x(row), row.quality),
            textcoords="offset points",
            xytext=(6, 4) if row.rung is not None else (6, -11),
            fontsize=8,
            color=colour,
        )
    axes.set_xlabel(label)
    axes.margins(x=0.18, y=0.1)
    axes.grid(alpha=0.25)
