"""The latency model corrected by what is observed: slowly, within bounds, for every variant by itself. Pure.

Two factors for each variant: how much longer an engine call takes than its profile says, and how much longer the slow
requests take than the queueing model then says. Both are exponential averages of the logarithm (so that twice and half
weigh the same); one strange window moves them little. The calls' starts as the plain mean of what was seen, not at the
profile: of a variant that has hardly run, what its calls take more would be put down to the moment, and expected of the
next variant on top of what is known of that.
"""

from __future__ import annotations

import math

from budgets import latency
from budgets.config import BudgetsConfig
from budgets.options import View
from budgets.plan import LatencyCheck, Learned, Memory
from budgets.pressure import fresh
from budgets.snapshot import Reading, Snapshot

#: Weight of one tick's observation, in the long run.
GAIN = 0.05
#: The tail's factor is believed within these bounds; the call's within `latency.CORRECTION`.
TAIL = (0.5, 3.0)
#: Requests that a window must hold for its tail to say something.
LEAST_REQUESTS = 20
#: Nearer to saturation the model has no tail to compare.
MOST_UTILISATION = 0.9


def observe(
    memory: Memory, snapshot: Snapshot, view: View, config: BudgetsConfig, now: float
) -> tuple[Memory, tuple[LatencyCheck, ...]]:
    """The memory with the factors moved towards this tick's observations, and how far off each prediction was. A model is
    left out while a window still shows another variant, hosts differ, or there is little traffic."""
    settings = config.controller
    lines = {line.model: line for line in snapshot.readings.models}
    busy = view.utilisation(view.current)
    learned = dict(memory.learned)
    checks = []
    for model, option in view.current.items():
        line = lines.get(model)
        if line is None or option.variant is None or option.profile is None or model in snapshot.staged:
            continue
        if now - memory.swapped_at.get(model, -math.inf) < settings.window_seconds + settings.tick_seconds:
            continue
        if any(h.variants.get(model) != option.variant or model in h.swapping for h in snapshot.hosts):
            continue
        seen = {
            name: fresh(value, snapshot.readings.at, settings.stale_seconds)
            for name, value in (("rate", line.rate), ("latency", line.latency), ("service", line.service))
        }
        rate, late, service = seen["rate"], seen["latency"], seen["service"]
        if not (isinstance(rate, Reading) and isinstance(late, Reading) and isinstance(service, Reading)):
            continue
        if rate.value * settings.window_seconds < LEAST_REQUESTS or late.value <= 0:
            continue
        slo = config.policy(model).slo
        predicted = view.predict(view.current, model, slo.quantile if slo else 0.99)
        if not math.isfinite(predicted) or busy > MOST_UTILISATION:
            continue
        key = f"{model}/{option.variant}"
        old = learned.get(key, Learned())
        tail = late.value / (predicted / view.tail(model, option.variant))
        took = latency.correction(service.value, option.profile)
        made = Learned(
            service=_towards(old.service, took, latency.CORRECTION, max(GAIN, 1.0 / (old.ticks + 1))),
            tail=_towards(old.tail, tail, TAIL, GAIN),
            ticks=old.ticks + 1,
        )
        learned[key] = made
        checks.append(
            LatencyCheck(
                model=model,
                variant=option.variant,
                predicted=predicted,
                observed=late.value,
                error=predicted / late.value - 1.0,
                service_factor=made.service,
                tail_factor=made.tail,
            )
        )
    return memory.model_copy(update={"learned": learned}), tuple(checks)


def _towards(old: float, seen: float, bounds: tuple[float, float], gain: float) -> float:
    seen = min(bounds[1], max(bounds[0], seen))
    return math.exp(math.log(old) + gain * (math.log(seen) - math.log(old)))
