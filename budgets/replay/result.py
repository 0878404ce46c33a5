"""What came of a replay: counted while it runs, summed up at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class Tally:
    """Requests in one bin of time. `quality` is summed over what was completed, `timely` over what was completed in time;
    `share` is as `quality`, with each model's best as 1."""

    arrived: int = 0
    completed: int = 0
    late: int = 0
    dropped: int = 0
    quality: float = 0.0
    timely: float = 0.0
    share: float = 0.0


@dataclass
class Counts:
    """Everything counted, by bin."""

    bin_seconds: float
    bins: dict[int, Tally] = field(default_factory=dict)
    memory: dict[int, float] = field(default_factory=dict)
    over_seconds: float = 0.0
    swaps: int = 0
    flaps: int = 0
    homeless: int = 0
    planner_seconds: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def tally(self, now: float) -> Tally:
        """The tally of a time."""
        found = self.bins.get(index := int(now // self.bin_seconds))
        if found is None:
            found = self.bins[index] = Tally()
        return found


def summary(counts: Counts, seconds: float, policy: str) -> dict[str, Any]:
    """The result, JSON-able. Times are seconds. `slo_violations` are late and dropped requests; `effective_quality` is
    the mean quality over completed requests, `effective_quality_share` the same with each model's best as 1;
    `timely_quality` the mean over all requests, of which late and dropped ones count 0;
    `max_quality_drop` the largest 1 - effective_quality_share of any bin of the series."""
    total = Tally()
    series = []
    worst = 0.0
    for index in sorted(counts.bins):
        one = counts.bins[index]
        total.arrived += one.arrived
        total.completed += one.completed
        total.late += one.late
        total.dropped += one.dropped
        total.quality += one.quality
        total.timely += one.timely
        total.share += one.share
        if one.completed:
            worst = max(worst, 1.0 - one.share / one.completed)
        series.append(
            {
                "time_seconds": index * counts.bin_seconds,
                "requests": one.arrived,
                "completed": one.completed,
                "slo_violations": one.late + one.dropped,
                "effective_quality": one.quality / one.completed if one.completed else None,
                "effective_quality_share": one.share / one.completed if one.completed else None,
                "timely_quality": one.timely / ended if (ended := one.completed + one.dropped) else None,
                "memory_bytes": counts.memory.get(index),
            }
        )
    violations = total.late + total.dropped
    spent = counts.planner_seconds
    return {
        "policy": policy,
        "seconds": seconds,
        "bin_seconds": counts.bin_seconds,
        "requests": total.arrived,
        "completed": total.completed,
        "late": total.late,
        "dropped": total.dropped,
        "slo_violations": violations,
        "slo_violation_ratio": violations / total.arrived if total.arrived else 0.0,
        "throughput": total.completed / seconds if seconds else 0.0,
        "effective_quality": total.quality / total.completed if total.completed else None,
        "effective_quality_share": total.share / total.completed if total.completed else None,
        "timely_quality": total.timely / ended if (ended := total.completed + total.dropped) else None,
        "max_quality_drop": worst,
        "memory_over_budget_seconds": counts.over_seconds,
        "swaps": counts.swaps,
        "flaps": counts.flaps,
        "planner": {
            "plans": len(spent),
            "seconds_p50": float(np.quantile(spent, 0.5)) if spent else 0.0,
            "seconds_p99": float(np.quantile(spent, 0.99)) if spent else 0.0,
            "seconds_total": float(np.sum(spent)),
            "worst_gap": max((g for g in counts.gaps if math.isfinite(g)), default=0.0),
            "unsolved": sum(not math.isfinite(g) for g in counts.gaps),
            "unplaced": counts.homeless,
        },
        "series": series,
    }


HEAD = (
    f"{'policy':16}{'requests':>11}{'violated':>10}{'quality':>9}{'in time':>9}{'worst':>8}{'over s':>8}"
    f"{'swaps':>7}{'flaps':>7}{'plan p99':>10}"
)


def row(result: dict[str, Any]) -> str:
    """A result in one line, under HEAD. `violated`: share late or dropped; `quality`: `effective_quality`; `in time`:
    `timely_quality`; `worst`: the largest drop of quality; `over s`: seconds over a memory budget."""
    qualities = (result["effective_quality"], result["timely_quality"])
    return (
        f"{result['policy']:16}{result['requests']:11,}{result['slo_violation_ratio']:10.3%}"
        f"{''.join(format('-' if q is None else format(q, '.4f'), '>9') for q in qualities)}"
        f"{result['max_quality_drop']:8.4f}"
        f"{result['memory_over_budget_seconds']:8.1f}{result['swaps']:7}{result['flaps']:7}"
        f"{result['planner']['seconds_p99'] * 1e3:8.0f}ms"
    )
