"""What would be done next, and when, if nothing changed from now on. Pure; nothing is done."""

from __future__ import annotations

from collections.abc import Iterator

from budgets.config import BudgetsConfig
from budgets.outlook import Outlook
from budgets.plan import Memory, Plan, Pressure, Trigger
from budgets.planner import plan
from budgets.pressure import advance
from budgets.snapshot import Snapshot
from variants.catalog import Catalog, Frozen

#: Moments looked at: each is a call of the planner.
MOMENTS = 8
#: Past a moment, so that a duration has passed there and not only almost.
AFTER_SECONDS = 1e-3


class Foresight(Frozen):
    """`plan`: what would be done as of `now`, with what is held and why. `next`: the first plan with swaps in it if the
    pressures stay as they are, and `at`: when (unix seconds); both None where nothing would be done at all."""

    now: float
    plan: Plan
    at: float | None = None
    next: Plan | None = None


def foresee(
    catalog: Catalog,
    snapshot: Snapshot,
    pressures: tuple[Pressure, ...],
    triggers: tuple[Trigger, ...],
    config: BudgetsConfig,
    memory: Memory,
    now: float,
    outlook: Outlook | None = None,
) -> Foresight:
    """Plan as of `now`, and again at each later moment at which a trigger's duration or a cooldown ends."""
    states = advance(triggers, pressures, config, now)
    first = plan(catalog, snapshot, pressures, states, config, memory, now, outlook)
    if first.swaps:
        return Foresight(now=now, plan=first, at=now, next=first)
    for moment in moments(states, config, memory, now):
        states = advance(states, pressures, config, moment)
        later = plan(catalog, snapshot, pressures, states, config, memory, moment, outlook)
        if later.swaps:
            return Foresight(now=now, plan=first, at=moment, next=later)
    return Foresight(now=now, plan=first)


def moments(triggers: tuple[Trigger, ...], config: BudgetsConfig, memory: Memory, now: float) -> Iterator[float]:
    """When something may change by the passing of time alone, soonest first."""
    thresholds = config.thresholds()
    ends = {since + config.controller.cooldown_seconds for since in memory.swapped_at.values()}
    ends |= {q.until for q in memory.quarantined if q.until is not None}
    for trigger in triggers:
        if trigger.pending_since is not None:
            limits = thresholds[trigger.name]
            ends.add(trigger.pending_since + (limits.enter_seconds if trigger.state == "calm" else limits.exit_seconds))
    yield from sorted(end + AFTER_SECONDS for end in ends if end >= now)[:MOMENTS]
