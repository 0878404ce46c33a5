"""The table as one picture: a panel for each case, a bar for each server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.table import MIB, Row

OURS, OTHERS = "#1f6f8b", "#b9c4c9"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Throughput and p99 of each case; memory where many models are served."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: list[tuple[str, list[tuple[str, float]]]] = []
    for workload, case in dict.fromkeys((row.workload, row.case) for row in rows):
        found = [row for row in rows if (row.workload, row.case) == (workload, case)]
        wanted: list[tuple[str, Callable[[Row], float | None]]] = [("p99, ms", lambda row: row.p99)]
        if workload == "twelve":
            wanted.append(("RSS, MiB", lambda row: row.rss / MIB))
        else:
            wanted.insert(0, ("requests/s", lambda row: row.rate))
        for unit, value in wanted:
            bars = [(row.server, number) for row in found if (number := value(row)) is not None]
            panels.append((f"{workload}, {case}: {unit}", bars))
    columns = 2
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(11, 2.1 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, bars) in zip(axes.flat, panels, strict=False):
        names, values = [name for name, _ in bars][::-1], [value for _, value in bars][::-1]
        drawn = axis.barh(names, values, color=[OURS if name == "trimtab" else OTHERS for name in names])
        axis.bar_label(drawn, [f" {value:,.0f}" if value >= 100 else f" {value:.2f}" for value in values], fontsize=8)
        axis.set_title(title, fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
