"""What watched swaps ask of the next plan: back where they did not hold, on to the other hosts where they did. And which
host goes first. Pure; `budgets.verify` judges, this carries out.
"""

from __future__ import annotations

from dataclasses import replace

from budgets.moves import MEMORY, Scene, swap_between
from budgets.options import Option
from budgets.plan import Hold, Swap, Verification


def one_host_first(scene: Scene, swaps: tuple[Swap, ...]) -> tuple[Swap, ...]:
    """The swaps, to be run on one host first where there are several; all at once when a budget is used up. Parking loads
    nothing that could be on trial."""
    hosts = sorted(h.host for h in scene.snapshot.hosts)
    if len(hosts) < 2 or not scene.config.controller.staged or scene.urgent():
        return swaps
    first = {"stage": "first", "hosts": (hosts[0],)}
    return tuple(
        s.model_copy(update=first)
        if s.direction in ("degrade", "restore", "pin") and s.stage == "all" and s.to_variant is not None
        else s
        for s in swaps
    )


def promotions(scene: Scene) -> tuple[Swap, ...]:
    """Swaps of the other hosts to what held on the first; at once when a budget is used up."""
    swaps: list[Swap] = []
    for watched in scene.memory.verifying:
        relief = scene.urgent() and watched.direction == "degrade" and watched.ended_at is not None
        if not watched.hosts or watched.verdict == "roll_back" or not (watched.verdict == "promote" or relief):
            continue
        reason = f"held on {', '.join(watched.hosts)}: {watched.trigger}"
        swap = swap_between(
            scene, watched.model, watched.to_variant, watched.direction, watched.trigger, reason, tuple(swaps)
        )
        swaps.append(swap.model_copy(update={"stage": "rest"}))
    return tuple(swaps)


def rollbacks(scene: Scene) -> tuple[tuple[Swap, ...], tuple[Hold, ...]]:
    """Swaps of what did not hold back to what ran before, or to the next best that memory has room for."""
    swaps: list[Swap] = []
    holds: list[Hold] = []
    for watched in scene.memory.verifying:
        reason = watched.reason if watched.verdict == "roll_back" else _withdrawn(scene, watched)
        if not reason:
            continue
        target = _target(scene, watched)
        if target is None:
            why = f"not rolled back: nothing else may run and fits ({reason})"
            holds.append(Hold(model=watched.model, variant=watched.to_variant, reason=why))
            continue
        runs = {**scene.snapshot.assignment, watched.model: watched.to_variant}
        seen = replace(scene, snapshot=scene.snapshot.model_copy(update={"assignment": runs}))
        swaps.append(
            swap_between(seen, watched.model, target.variant, "rollback", watched.trigger, reason, tuple(swaps))
        )
    return tuple(swaps), tuple(holds)


def _withdrawn(scene: Scene, watched: Verification) -> str:
    """Why a trial is no longer wanted: its pin is gone, or pressure came while something better was being tried."""
    if not watched.hosts:
        return ""
    if watched.direction == "pin" and watched.model not in scene.pins():
        return "its pin was taken back during the trial"
    if watched.direction == "restore" and scene.active():
        return f"{', '.join(t.name for t in scene.active())} became active during the trial"
    return ""


def _target(scene: Scene, watched: Verification) -> Option | None:
    """What to go back to: the variant before; where it is quarantined or no longer fits, the best that may run and does.
    None where there is none."""
    model = watched.model
    before = scene.option(model, watched.from_variant) or Option(model, watched.from_variant, 0, 0, 0.0, 0.0)
    if watched.hosts:
        return before  # the other hosts run it
    others = [o for o in scene.view.options.get(model, ()) if o.variant not in (None, watched.to_variant)]
    for option in (before, *others):
        if not scene.quarantined(model, option.variant) and _fits(scene, option):
            return option
    return None


def _fits(scene: Scene, option: Option) -> bool:
    """Whether every memory budget would still hold with the option in place of what runs; unknown usage is no room."""
    current = scene.view.current.get(option.model)
    for budget in scene.budgets(*MEMORY):
        pressure = scene.pressure(budget.name)
        more = option.bytes_of(budget.resource) - (current.bytes_of(budget.resource) if current else 0)
        if more <= 0:
            continue
        if pressure.usage is None or pressure.limit is None:
            return False
        if pressure.usage + more * scene.view.hosts > pressure.limit - budget.reserve:
            return False
    return True
