"""The controller's own metrics."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from budgets import exposition as names
from budgets.plan import Decision

STATES = {"calm": 0, "scaling": 1, "saturated": 2}


class ControllerMetrics:
    """See `budgets.ports.Metrics`. A pressure that is missing is not exposed, rather than exposed as something else."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pressure = Gauge(names.PRESSURE, "Usage / limit", ["budget"], registry=registry)
        self._trigger = Gauge(names.TRIGGER, "0 calm, 1 scaling, 2 saturated", ["budget"], registry=registry)
        self._ticks = Counter(
            names.TICKS.removesuffix("_total"), "Ticks by what they did", ["outcome"], registry=registry
        )
        self._seconds = Histogram(names.TICK_DURATION, "Duration of a tick, seconds", registry=registry)
        self._generation = Gauge(names.PLAN_GENERATION, "Generation of the plan in force", registry=registry)
        self._age = Gauge(names.SOURCE_AGE, "Age of the reading of a budget, seconds", ["budget"], registry=registry)

    def tick(self, decision: Decision, seconds: float, ages: Mapping[str, float]) -> None:
        """Record one tick; `ages` are the readings' ages by budget, in seconds."""
        self._ticks.labels("error" if decision.error else "swap" if decision.plan.swaps else "steady").inc()
        self._seconds.observe(seconds)
        self._generation.set(decision.plan.generation)
        for pressure in decision.pressures:
            if pressure.ratio is None:
                if (pressure.name,) in self._pressure._metrics:
                    self._pressure.remove(pressure.name)
            else:
                self._pressure.labels(pressure.name).set(pressure.ratio)
        for trigger in decision.triggers:
            self._trigger.labels(trigger.name).set(STATES[trigger.state])
        for budget, age in ages.items():
            self._age.labels(budget).set(age)
