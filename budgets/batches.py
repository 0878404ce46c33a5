"""How many requests an engine call may join so that a model's latency objective holds: the fleet's bound
(`budgets.fleet.capacity`) on a live variant's profile."""

from __future__ import annotations

from dataclasses import replace

from budgets.config import BudgetsConfig
from budgets.fleet.capacity import capacity
from budgets.fleet.world import Group, Rung
from budgets.options import Option, View
from variants.catalog import Model, Profile

HOST = Group("host", "", 1)


def rung_of(profile: Profile, most: int, factor: float) -> Rung:
    """A profile as the fleet's planner sees one, its calls `factor` times as slow, up to batches of `most` rows."""
    sizes = tuple((b.batch, b.p50_seconds * factor) for b in sorted(profile.batches, key=lambda b: b.batch))
    rung = Rung("", "", "", profile.quality, 0.0, profile.load_seconds, sizes)
    known = tuple((batch, seconds) for batch, seconds in sizes if batch < most)
    return Rung("", "", "", profile.quality, 0.0, profile.load_seconds, (*known, (most, rung.seconds(most))))


def within(rung: Rung, objective: float | None) -> int:
    """The batch of highest throughput that keeps the objective; 1 where none does, the largest without one."""
    if objective is None:
        return rung.most
    found = capacity(rung, HOST, objective)
    return 1 if found is None else found.batch


def batched(view: View, model: Model, option: Option, config: BudgetsConfig) -> Option:
    """The option with its batch limit and the share of a host's time that its calls take then."""
    if option.profile is None or not option.profile.batches:
        return option
    slo = config.policy(option.model).slo
    most = model.max_batch if model.batchable else 1
    rung = rung_of(option.profile, most, view.factor(option.model, option.variant))
    batch = within(rung, slo.latency_seconds if slo else None)
    rate = view.rates.get(option.model) or 0.0
    return replace(option, batch=batch, busy=rate * rung.seconds(batch) / batch)
