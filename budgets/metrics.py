"""The controller's own metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from budgets import exposition as names
from budgets.config import DEFAULT_GROUP, BudgetsConfig
from budgets.plan import Decision

STATES = {"calm": 0, "scaling": 1, "saturated": 2}
Labels = tuple[str, ...]


class _Now:
    """A gauge whose series are exactly those of the last `show`: what is not there any more is not exposed, rather than
    exposed as what it was."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: set[Labels] = set()

    def show(self, values: Mapping[Labels, float]) -> None:
        """Expose these values by their labels, and no others."""
        for labels in self._shown - set(values):
            self._gauge.remove(*labels)
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        self._shown = set(values)


class ByGroup:
    """Metrics of host groups under one roof: those of any but the default group carry a label that names it. A collector.

    `shown`: the groups whose metrics are exposed now; None: all.
    """

    def __init__(self, shown: Callable[[], Collection[str]] | None = None) -> None:
        self._registries: dict[str, CollectorRegistry] = {}
        self._shown = shown

    def registry(self, group: str) -> CollectorRegistry:
        """Where the metrics of one group are registered."""
        return self._registries.setdefault(group, CollectorRegistry())

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client at each scrape."""
        families: dict[str, Metric] = {}
        shown = None if self._shown is None else self._shown()
        for group, registry in list(self._registries.items()):
            if shown is not None and group not in shown:
                continue
            more = {} if group == DEFAULT_GROUP else {names.GROUP: group}
            for family in registry.collect():
                kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                kept.samples += [s._replace(labels={**s.labels, **more}) for s in family.samples]
        yield from families.values()


class ControllerMetrics:
    """See `budgets.ports.Metrics`. Thresholds and objectives are exposed once, from the configuration."""

    def __init__(self, registry: CollectorRegistry, config: BudgetsConfig) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        swap = ("model", "from_variant", "to_variant")
        self._pressure = _Now(gauge(names.PRESSURE, "Usage / limit", "budget"))
        self._exhaustion = _Now(
            gauge(
                names.EXHAUSTION, "Seconds until usage reaches its limit at its trend; +Inf: it is not rising", "budget"
            )
        )
        self._trigger = gauge(names.TRIGGER, "0 calm, 1 scaling, 2 saturated", "budget")
        self._infeasible = _Now(
            gauge(names.INFEASIBLE, "1 while pressure is past enter and no allowed step relieves it", "budget")
        )
        self._quarantined = _Now(
            gauge(names.QUARANTINED, "1 while a variant is not planned since it failed", "model", "variant")
        )
        self._planned_at = gauge(
            names.PLANNED_AT, "When a swap of this kind was last planned", *swap, "direction", "trigger"
        )
        self._planned = gauge(names.PLANNED_BYTES, "Bytes this swap was last predicted to move on one host", *swap)
        self._measured = gauge(names.MEASURED_BYTES, "Bytes this swap last moved on one host, measured", *swap)
        self._ticks = Counter(
            names.TICKS.removesuffix("_total"), "Ticks by what they did", ["outcome"], registry=registry
        )
        for outcome in ("steady", "swap", "error"):  # there from the start, so that the first of each is an increase
            self._ticks.labels(outcome)
        self._seconds = Histogram(names.TICK_DURATION, "Duration of a tick, seconds", registry=registry)
        self._last_tick = gauge(names.LAST_TICK, "When the last tick ended")
        self._generation = gauge(names.PLAN_GENERATION, "Generation of the plan in force")
        self._age = gauge(names.SOURCE_AGE, "Age of the reading of a budget, seconds", "budget")
        threshold = gauge(names.PRESSURE_THRESHOLD, "Pressure at which a trigger enters and leaves", "budget", "edge")
        for name, limits in config.thresholds().items():
            threshold.labels(name, "enter").set(limits.enter)
            threshold.labels(name, "exit").set(limits.exit)
        objective = gauge(names.SLO_LATENCY, "Latency objective of a model at a quantile", "model", "quantile")
        for model, policy in config.models.items():
            if policy.slo is not None:
                objective.labels(model, str(policy.slo.quantile)).set(policy.slo.latency_seconds)

    def tick(self, decision: Decision, seconds: float, ages: Mapping[str, float]) -> None:
        """Record one tick; `ages` are the readings' ages by budget, in seconds."""
        self._ticks.labels("error" if decision.error else "swap" if decision.plan.swaps else "steady").inc()
        self._seconds.observe(seconds)
        self._last_tick.set(decision.at + seconds)
        self._generation.set(decision.plan.generation)
        self._triggers(decision)
        self._swaps(decision)
        for budget, age in ages.items():
            self._age.labels(budget).set(age)

    def _triggers(self, decision: Decision) -> None:
        measured = {p.name: p for p in decision.pressures if p.ratio is not None}
        self._pressure.show({(name,): p.ratio for name, p in measured.items() if p.ratio is not None})
        self._exhaustion.show(
            {
                (name,): math.inf if p.seconds_to_exhaustion is None else p.seconds_to_exhaustion
                for name, p in measured.items()
                if not name.startswith("slo:")
            }
        )
        infeasible = decision.plan.infeasible
        names = {*infeasible, *(t.name for t in decision.triggers)}
        self._infeasible.show({(name,): float(name in infeasible) for name in names})
        for trigger in decision.triggers:
            self._trigger.labels(trigger.name).set(STATES[trigger.state])

    def _swaps(self, decision: Decision) -> None:
        self._quarantined.show({(q.model, q.variant or names.PARKED): 1.0 for q in decision.memory.quarantined})
        for swap in decision.plan.swaps:
            labels = (swap.model, swap.from_variant or names.PARKED, swap.to_variant or names.PARKED)
            self._planned.labels(*labels).set(swap.bytes_planned)
            self._planned_at.labels(*labels, swap.direction, swap.trigger).set(decision.at)
        for record in decision.outcomes:
            if record.outcome == "done" and record.bytes_measured:  # 0: could not be measured
                labels = (record.model, record.from_variant or names.PARKED, record.to_variant or names.PARKED)
                self._measured.labels(*labels).set(record.bytes_measured)
