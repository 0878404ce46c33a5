"""The run as a picture: RAM against the budget, p99 against the objective, what each model ran. One time axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter

from examples.demo import measure
from examples.demo.record import Moment, Phase, Recording

GIB = 2**30
WINDOW_SECONDS = 5.0
INK, GREY, FAINT = "#22303c", "#8a97a3", "#dfe4e8"
USAGE, NEIGHBOUR, LIMIT, ENTER = "#1f6f8b", "#e8a33d", "#b3261e", "#d9772b"
#: From the best rung to the cheapest; a parked model is white.
RUNGS = ("#2f8f6b", "#e9b949", "#d9772b", "#b3261e", "#7a1f5c")
STYLE = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}


def draw(recording: Recording, path: Path) -> None:
    """Write the picture as a PNG."""
    rows = max(1, len(recording.models))
    with pyplot.rc_context(STYLE):
        figure, (ram, late, rungs) = pyplot.subplots(
            3,
            1,
            figsize=(13, 8.2 + 0.3 * rows),
            sharex=True,
            height_ratios=[3.2, 3.2, 0.9 + 0.42 * rows],
            layout="constrained",
        )
        for axis in (ram, late, rungs):
            _bands(axis, recording, named=axis is ram)
        _ram(ram, recording)
        _late(late, recording)
        _rungs(rungs, recording)
        end = max([m.at for m in recording.moments] + [a.due for a in recording.answers], default=recording.ended)
        begin = min((m.at for m in recording.moments), default=recording.started)
        rungs.set_xlim(begin - recording.started, end - recording.started)
        rungs.set_xlabel("seconds since the server was started")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _bands(axis: Any, recording: Recording, *, named: bool) -> None:
    """Each phase as a band, darker while the cause of the pressure was there."""
    for phase in recording.phases:
        start, end = (t - recording.started for t in (phase.started, phase.ended))
        axis.axvspan(start, end, color="#f3f5f7", zorder=0, linewidth=0)
        eased = phase.eased if phase.eased is not None else phase.ended
        axis.axvspan(
            phase.pressed - recording.started, eased - recording.started, color="#e6ebf0", zorder=0, linewidth=0
        )
        if named:
            axis.text(
                (start + end) / 2,
                1.03,
                _title(phase),
                transform=axis.get_xaxis_transform(),
                ha="center",
                fontweight="bold",
            )


def _title(phase: Phase) -> str:
    return "memory pressure" if phase.kind == "memory" else f"latency pressure: {phase.model}"


def _ram(axis: Any, recording: Recording) -> None:
    budget = next((p.trigger for p in recording.phases if p.kind == "memory"), None) or next(
        (n for n in recording.bounds if not n.startswith("slo:")), None
    )
    axis.set_ylabel("RAM, GiB")
    points = _gauge(recording, budget) if budget else []
    if not budget or not points:
        return
    times, usage = [t for t, *_ in points], [u / GIB for _, u, _ in points]
    limit, bounds = points[-1][2] / GIB, recording.bounds[budget]
    axis.plot(times, usage, color=USAGE, linewidth=2, label="trimtab and neighbour")
    if recording.neighbour:
        when = [t - recording.started for t, _ in recording.neighbour]
        held = [b / GIB for _, b in recording.neighbour]
        axis.fill_between(when, held, step="post", color=NEIGHBOUR, alpha=0.45, linewidth=0, label="neighbour")
    axis.axhline(limit, color=LIMIT, linewidth=1.5, label=f"limit {limit:.2f} GiB")
    axis.axhline(limit * bounds.enter, color=ENTER, linewidth=1.2, linestyle="--", label=f"enter {bounds.enter:.2f}")
    axis.axhline(limit * bounds.exit, color=GREY, linewidth=1.2, linestyle=":", label=f"exit {bounds.exit:.2f}")
    axis.set_ylim(0, limit * 1.08)
    axis.legend(loc="lower right", ncols=5, frameon=False, fontsize=9)


def _gauge(recording: Recording, name: str) -> list[tuple[float, float, float]]:
    """(seconds since the start, usage, limit) wherever there was a reading."""
    return [
        (m.at - recording.started, g.usage, g.limit)
        for m in recording.moments
        if (g := m.gauges.get(name)) is not None and g.usage is not None and g.limit is not None
    ]


def _late(axis: Any, recording: Recording) -> None:
    model = next((p.model for p in recording.phases if p.model), None)
    if model is None:
        model = next((n for n, facts in recording.models.items() if facts.slo_seconds is not None), None)
    axis.set_ylabel(f"p99 over {WINDOW_SECONDS:.0f} s")
    axis.set_yscale("log")
    axis.set_ylim(1e-3, 1.0)
    everyone = measure.series(recording.answers, None, WINDOW_SECONDS)
    if everyone:
        axis.plot(*_curve(recording, everyone), color=GREY, linewidth=1.1, label="all models, as clients saw it")
    if model is not None:
        own = measure.series(recording.answers, model, WINDOW_SECONDS)
        if own:
            axis.plot(*_curve(recording, own), color=USAGE, linewidth=2, label=f"{model}, as clients saw it")
        objective = recording.models[model].slo_seconds
        if objective:
            axis.axhline(objective, color=LIMIT, linewidth=1.5, label=f"{model}'s objective, {objective * 1e3:.0f} ms")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 1e3:g} ms"))
    axis.grid(axis="y", color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    if everyone:
        axis.autoscale(axis="y")
        low, high = axis.get_ylim()
        axis.set_ylim(low / 2.5, high * 2.2)  # room for the legend, and for the rate below
        _rate(axis, recording, model)
        axis.legend(loc="upper left", ncols=4, frameon=False, fontsize=9)


def _rate(axis: Any, recording: Recording, model: str | None) -> None:
    """Requests per second to the model, as a shape along the bottom, its height named at the top."""
    dues = [a.due - recording.started for a in recording.answers if a.model == model]
    if not dues:
        return
    first = int(min(dues))
    counts = [0] * (int(max(dues)) - first + 1)
    for due in dues:
        counts[int(due) - first] += 1
    top = counts.index(max(counts))
    heights = [0.3 * count / counts[top] for count in counts]
    seconds = [first + i for i in range(len(counts))]
    below = axis.get_xaxis_transform()
    label = f"requests/s to {model}"
    axis.fill_between(
        seconds, heights, step="post", transform=below, color=NEIGHBOUR, alpha=0.45, linewidth=0, zorder=1, label=label
    )
    axis.text(
        seconds[top], 0.31, f"{counts[top]}/s", transform=below, fontsize=8.5, color=INK, ha="center", va="bottom"
    )


def _curve(recording: Recording, points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [t - recording.started for t, _ in points], [value for _, value in points]


def _rungs(axis: Any, recording: Recording) -> None:
    """A lane for each model: a bar for each stretch on one variant, coloured by its rung."""
    names = sorted(recording.models)
    for lane, name in enumerate(names):
        for start, end, variant in stretches(recording.moments, name):
            rung = recording.models[name].rung(variant)
            colour = "white" if rung is None else RUNGS[min(rung, len(RUNGS) - 1)]
            left, width = start - recording.started, end - start
            axis.barh(lane, width, left=left, height=0.72, color=colour, edgecolor="white", linewidth=1.0)
            if width > 8:
                ink = INK if rung in (None, 1) else "white"
                axis.text(
                    left + width / 2, lane, variant or "parked", ha="center", va="center", color=ink, fontsize=8.5
                )
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.spines["left"].set_visible(False)
    deepest = max((len(m.rungs) for m in recording.models.values()), default=1)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=RUNGS[i]) for i in range(min(deepest, len(RUNGS)))]
    labels = ["best rung", *(f"{i} down" for i in range(1, len(handles)))]
    axis.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(handles), frameon=False, fontsize=9
    )


def stretches(moments: Sequence[Moment], model: str) -> list[tuple[float, float, str | None]]:
    """(from, to, variant) for each time that a model ran one variant; a stretch lasts until the next begins."""
    found: list[tuple[float, float, str | None]] = []
    for moment in moments:
        variant = moment.variants.get(model)
        if found and found[-1][2] == variant:
            found[-1] = (found[-1][0], moment.at, variant)
        else:
            if found:
                found[-1] = (found[-1][0], moment.at, found[-1][2])
            found.append((moment.at, moment.at, variant))
    return found
