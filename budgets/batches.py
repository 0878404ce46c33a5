"""How hosts batch each model: how many requests an engine call may join so that its latency objective holds at the rate
that is asked, by the fleet's bound (`budgets.fleet.capacity`) on a live variant's profile; and its objective and weight, as
configured. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from budgets.config import BudgetsConfig
from budgets.fleet.capacity import capacity
from budgets.fleet.world import Group, Rung
from budgets.options import Option, View
from budgets.plan import Learned
from budgets.snapshot import Serving
from variants.catalog import Catalog, Model, Profile

HOST = Group("host", "", 1)
#: A limit stays while its calls are by that share too long, or by that share behind the best one's throughput.
SLACK = 0.1
#: An objective that was lost to a rate counts as kept again below this share of what it can be kept at.
REGAINED = 0.7


def rung_of(profile: Profile, most: int, factor: float) -> Rung:
    """A profile as the fleet's planner sees one, its calls `factor` times as slow, up to batches of `most` rows."""
    sizes = tuple((b.batch, b.p50_seconds * factor) for b in sorted(profile.batches, key=lambda b: b.batch))
    within = tuple((batch, seconds) for batch, seconds in sizes if batch <= most)
    return Rung("", "", "", profile.quality, 0.0, profile.load_seconds, within or sizes[:1])


def largest(model: Model, config: BudgetsConfig) -> int:
    """Rows that a call of the model may have at most, by its own limit and the hosts'."""
    if not model.batchable:
        return 1
    return min(model.max_batch, config.batches.of(model.name) or model.max_batch)


def limit(rung: Rung, most: int, objective: float | None, rate: float, now: int | None = None) -> int:
    """Rows of a call, `most` at most: those of the highest throughput within the objective (seconds), while that is enough
    for `rate` (requests per second of one of a host's streams); beyond it the objective is lost and only throughput helps. Without an
    objective as many as there may be. `now`: the limit in force, which small differences do not change."""
    fastest = capacity(rung, HOST, math.inf)
    if objective is None or fastest is None:
        return most
    found = capacity(rung, HOST, objective)
    batch, able = (1, 0.0) if found is None else (_further(rung, found.batch, most, objective / 2), found.rate)
    lost = _further(rung, fastest.batch, most, math.inf)
    if rate > able * (REGAINED if now == lost != batch else 1.0):
        return lost
    if now is not None and 0 < now <= most:
        quick = rung.seconds(now) <= objective / 2 * (1 + SLACK)
        if quick and now / rung.seconds(now) >= (1 - SLACK) * batch / rung.seconds(batch):
            return now
    return batch


def _further(rung: Rung, batch: int, most: int, seconds: float) -> int:
    """Where nothing larger was profiled: as large as its calls, longer by proportion at most, stay within the seconds."""
    if batch < rung.most:
        return batch
    rows = seconds * batch / rung.seconds(batch)
    return most if rows >= most else max(batch, int(rows))


def batched(view: View, model: Model, option: Option, config: BudgetsConfig) -> Option:
    """The option with its batch limit and the share of a host's time that its calls take then."""
    if option.profile is None or not option.profile.batches:
        return option
    slo = config.policy(option.model).slo
    most = largest(model, config)
    rung = rung_of(option.profile, most, view.factor(option.model, option.variant))
    rate = (view.rates.get(option.model) or 0.0) * option.profile.width / view.streams
    batch = limit(rung, most, slo.latency_seconds if slo else None, rate)
    return replace(option, batch=batch, busy=rate * rung.seconds(batch) / batch)


def serving(
    catalog: Catalog,
    config: BudgetsConfig,
    assignment: Mapping[str, str | None],
    *,
    rates: Mapping[str, float | None] | None = None,
    learned: Mapping[str, Learned] | None = None,
    before: Mapping[str, Serving] | None = None,
    kept: Mapping[str, str | None] | None = None,
    streams: int = 1,
) -> dict[str, Serving]:
    """How each model of an assignment is to be served: those with a policy, and those that hosts were told of `before`.
    `kept`: what ran then; a limit is only changed for a reason where that stays. `rates`: per host, which
    makes so many calls at once as `streams` says."""
    rates, learned, before, kept = rates or {}, learned or {}, before or {}, kept or {}
    made = {}
    for model, variant in assignment.items():
        entry = catalog.entries.get(model)
        if entry is None or (model not in config.models and model not in before):
            continue
        policy = config.policy(model)
        objective = None if policy.slo is None else policy.slo.latency_seconds
        found = entry.variants.get(variant or "")
        profile = found.profile(catalog.device) if found else None
        old = before.get(model, Serving())
        rows = old.batch
        if profile is not None and profile.batches and entry.model.batchable:
            most = largest(entry.model, config)
            rung = rung_of(profile, most, learned.get(f"{model}/{variant}", Learned()).service)
            now = (old.batch or most) if model in before and kept.get(model) == variant else None
            rows = limit(rung, most, objective, (rates.get(model) or 0.0) * profile.width / streams, now)
            rows = None if rows >= most else rows
        made[model] = Serving(batch=rows, objective=objective, weight=policy.weight)
    return made
