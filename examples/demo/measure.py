"""Numbers out of a recording. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from examples.demo.record import Answer, ModelFacts, Moment, Phase

#: The pressure counts as relieved when it has stayed below the threshold this long (seconds).
STAYS_SECONDS = 3.0
#: The degraded state proves itself over the last seconds before its cause goes.
PROOF_SECONDS = 6.0


def p99(seconds: Sequence[float]) -> float | None:
    """The 99th percentile as a value that was observed (the next higher one); None of nothing."""
    return float(np.quantile(seconds, 0.99, method="higher")) if len(seconds) else None


def between(answers: Iterable[Answer], start: float, end: float, model: str | None = None) -> list[float]:
    """Latencies of the requests due in [start, end), of one model or all."""
    return [a.seconds for a in answers if start <= a.due < end and model in (None, a.model)]


def series(answers: Iterable[Answer], model: str | None, window: float, step: float = 1.0) -> list[tuple[float, float]]:
    """p99 over a sliding window: (its end, seconds), every `step` seconds; windows without answers are left out."""
    chosen = sorted((a.due, a.seconds) for a in answers if model in (None, a.model))
    if not chosen:
        return []
    dues = np.array([due for due, _ in chosen])
    seconds = np.array([s for _, s in chosen])
    points = []
    for end in np.arange(dues[0] + step, dues[-1] + step, step):
        first, last = np.searchsorted(dues, (end - window, end))
        value = p99(seconds[first:last])  # type: ignore[arg-type]
        if value is not None:
            points.append((float(end), value))
    return points


def quality(models: Mapping[str, ModelFacts], variants: Mapping[str, str | None]) -> float:
    """Mean quality of what runs, weighted by the models' weights."""
    total = sum(m.weight for m in models.values())
    return sum(m.weight * m.quality(variants.get(name)) for name, m in models.items()) / total if total else 0.0


def peak(moments: Iterable[Moment], phase: Phase) -> float | None:
    """The highest pressure on the phase's trigger; None when it was never read."""
    ratios = [
        m.gauges[phase.trigger].ratio for m in within(moments, phase.started, phase.ended) if phase.trigger in m.gauges
    ]
    return max((r for r in ratios if r is not None), default=None)


def within(moments: Iterable[Moment], start: float, end: float) -> list[Moment]:
    """The moments of [start, end]."""
    return [m for m in moments if start <= m.at <= end]


def entered(moments: Iterable[Moment], phase: Phase) -> float | None:
    """When the phase's trigger was first seen entered; None when it was not."""
    return next(
        (
            m.at
            for m in within(moments, phase.pressed, phase.ended)
            if phase.trigger in m.gauges and m.gauges[phase.trigger].state != "calm"
        ),
        None,
    )


def degraded(moment: Moment, before: Mapping[str, str | None], trigger: str | None = None) -> bool:
    """Whether something runs another variant than `before` (because of that trigger), and nothing is being swapped."""
    others = [m for m, variant in before.items() if moment.variants.get(m) != variant]
    return any(trigger in (None, moment.causes.get(m)) for m in others) and not moment.swapping


def ahead(moment: Moment, phase: Phase) -> bool:
    """Whether what would relieve the phase's trigger has been done: for an objective, what was degraded for its sake; a
    budget is given memory by whatever was degraded."""
    return degraded(moment, phase.variants, phase.trigger if phase.model else None)


def foreseen(moments: Sequence[Moment], phase: Phase) -> float | None:
    """When relief was first seen done with the trigger calm all the time until then; None where the trigger was entered
    before, or nothing was done."""
    start = entered(moments, phase)
    for moment in within(moments, phase.pressed, phase.eased if phase.eased is not None else phase.ended):
        if start is not None and moment.at >= start:
            return None
        if ahead(moment, phase):
            return moment.at
    return None


def relieved(moments: Sequence[Moment], phase: Phase, enter: float) -> float | None:
    """When, after the trigger had been entered (or relief had come ahead of it) and while the pressure's cause was still there,
    the pressure was first below `enter` and stayed there for `STAYS_SECONDS`; None when it did not."""
    start = foreseen(moments, phase)
    if start is None:
        start = entered(moments, phase)
    if start is None:
        return None
    end = phase.eased if phase.eased is not None else phase.ended
    since: float | None = None
    for moment in within(moments, start, end):
        gauge = moment.gauges.get(phase.trigger)
        ratio = gauge.ratio if gauge is not None else None
        if ratio is None:
            continue
        if ratio >= enter:
            since = None
        elif since is None:
            since = moment.at
        if since is not None and moment.at - since >= STAYS_SECONDS:
            return since
    return None
