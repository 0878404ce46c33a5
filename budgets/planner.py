"""plan(catalog, snapshot, pressures, triggers, config, memory, now) -> Plan: what every model should run.

Pure. Order of precedence: rollbacks, repairs, promotions (what held on one host goes to the others), pins, relief
(degrade), restore one step. A missing reading justifies nothing.
"""

from __future__ import annotations

from dataclasses import replace

from budgets import degrade, restore, staging
from budgets.batches import serving
from budgets.config import BudgetsConfig
from budgets.moves import Scene, settled, swap_between
from budgets.options import view
from budgets.outlook import Outlook
from budgets.plan import Hold, Memory, Plan, Pressure, Swap, Trigger
from budgets.pressure import History, assess
from budgets.reality import departures
from budgets.snapshot import Snapshot, Staged
from variants.catalog import Catalog


def plan(
    catalog: Catalog,
    snapshot: Snapshot,
    pressures: tuple[Pressure, ...],
    triggers: tuple[Trigger, ...],
    config: BudgetsConfig,
    memory: Memory,
    now: float,
    outlook: Outlook | None = None,
) -> Plan:
    """Decide. A plan without swaps keeps the assignment in force, and its generation unless models are to be served
    otherwise."""
    scene = scene_of(catalog, snapshot, pressures, triggers, config, memory, now, outlook)
    same = Plan(
        generation=snapshot.generation,
        assignment=snapshot.assignment,
        staged=snapshot.staged,
        serving=snapshot.serving,
    )
    if waiting := settled(scene):
        return same.model_copy(update={"holds": (Hold(model="*", variant=None, reason=waiting),)})
    swaps, holds = staging.rollbacks(scene)
    stuck = tuple(f"rollback:{hold.model}" for hold in holds)
    if not swaps:
        swaps = repairs(scene)
    if not swaps:
        swaps = staging.promotions(scene)
    if not swaps:
        swaps, more = pins(scene)
        holds = (*holds, *more)
    relief = degrade.Relief()
    if not swaps:
        relief = degrade.reconsider(scene)
        if not relief.swaps:
            relief = degrade.relieve(scene)
        swaps, holds = relief.swaps, (*holds, *relief.holds)
    if not swaps:
        wanted, more = restore.one_step(scene)
        swaps, holds = wanted, (*holds, *more)
    told = {"infeasible": (*stuck, *relief.infeasible), "alternatives": relief.alternatives, "gap": relief.gap}
    if not swaps:
        return served(scene, same.model_copy(update={"holds": holds, **told}))
    return served(scene, numbered(snapshot, staging.one_host_first(scene, swaps), holds).model_copy(update=told))


def served(scene: Scene, made: Plan) -> Plan:
    """The plan with how hosts are to serve its models. That alone is worth a plan at once where the configuration has
    changed; another batch limit waits for a cooldown. While a host departs from the plan, nothing new is asked of it."""
    before = scene.snapshot.serving
    wanted = serving(
        scene.catalog,
        scene.config,
        made.assignment,
        rates=scene.view.rates,
        learned=scene.memory.learned,
        before=before,
        kept=scene.snapshot.assignment,
        streams=scene.snapshot.streams,
    )
    if made.swaps:
        return made.model_copy(update={"serving": wanted})
    configured = {m: (s.objective, s.weight) for m, s in before.items()}
    since = scene.now - max(scene.memory.planned_at, scene.memory.told_at)
    waits = since < scene.config.controller.cooldown_seconds
    if waits and configured == {m: (s.objective, s.weight) for m, s in wanted.items()}:
        return made
    if wanted == before or any(scene.departed(m) for m in made.assignment):
        return made
    return made.model_copy(update={"generation": made.generation + 1, "serving": wanted})


def scene_of(
    catalog: Catalog,
    snapshot: Snapshot,
    pressures: tuple[Pressure, ...],
    triggers: tuple[Trigger, ...],
    config: BudgetsConfig,
    memory: Memory,
    now: float,
    outlook: Outlook | None = None,
) -> Scene:
    """What `plan` looks at."""
    seen = view(catalog, snapshot, config, memory.learned)
    return Scene(catalog, snapshot, seen, pressures, triggers, config, memory, now, outlook or Outlook())


def numbered(snapshot: Snapshot, swaps: tuple[Swap, ...], holds: tuple[Hold, ...]) -> Plan:
    """The plan in force with these swaps made, under the next generation."""
    assignment = {**snapshot.assignment, **{s.model: s.to_variant for s in swaps if s.stage != "first"}}
    moved = {s.model for s in swaps}
    staged = {m: trial for m, trial in snapshot.staged.items() if m not in moved}
    staged |= {s.model: Staged(variant=s.to_variant, hosts=s.hosts) for s in swaps if s.stage == "first"}
    return Plan(
        generation=snapshot.generation + 1,
        assignment=assignment,
        modes={s.model: s.mode for s in swaps},
        swaps=swaps,
        holds=holds,
        staged=staged,
        serving=snapshot.serving,
    )


def repairs(scene: Scene) -> tuple[Swap, ...]:
    """Swaps that bring hosts together again: where the assigned variant failed on some of them, all go to the best that one
    of those runs; where they differ for no reason that is known (the answer to a plan was lost, with a trial in it), all
    go to the assigned one."""
    swaps: list[Swap] = []
    for model, assigned in scene.snapshot.assignment.items():
        others = [o for o in departures(scene.snapshot.assignment, scene.snapshot.hosts, model) if o is not None]
        if scene.trial(model) or not others or model not in scene.catalog.entries:
            continue
        usable = [o for o in others if not scene.quarantined(model, o)]
        reason = scene.quarantined(model, assigned)
        if reason and usable:
            best = max(usable, key=lambda o: _quality(scene, model, o))
            text = f"{assigned or 'parked'} failed on a host: {reason}"
            swaps.append(swap_between(scene, model, best, "repair", "repair", text, tuple(swaps)))
        elif not reason and _forgotten(scene, model):
            runs = {**scene.snapshot.assignment, model: others[0]}
            seen = replace(scene, snapshot=scene.snapshot.model_copy(update={"assignment": runs}))
            text = "hosts run different variants and none is on trial"
            swaps.append(swap_between(seen, model, assigned, "repair", "repair", text, tuple(swaps)))
    return tuple(swaps)


def _forgotten(scene: Scene, model: str) -> bool:
    """No plan or swap explains that hosts run different variants of a model: several do run it, none is at it or has
    failed at it, and the last plan for it is over."""
    hosts = scene.snapshot.hosts
    explained = any(model in h.swapping or model in h.failed for h in hosts)
    running = {h.variants.get(model) for h in hosts}
    over = not scene.cooling(model) and not scene.looking_back(model)
    return over and not explained and None not in running and len(running) > 1


def _quality(scene: Scene, model: str, variant: str) -> float:
    found = scene.catalog.entries[model].variants.get(variant)
    profile = found.profile(scene.catalog.device) if found else None
    return profile.quality if profile else 0.0


def pins(scene: Scene) -> tuple[tuple[Swap, ...], tuple[Hold, ...]]:
    """Swaps that bring pinned models to their pins."""
    swaps: list[Swap] = []
    holds: list[Hold] = []
    for model, wanted in scene.pins().items():
        trial = scene.trial(model)
        if trial is not None and trial.to_variant == wanted:
            holds.append(Hold(model=model, variant=wanted, reason=f"pinned: {scene.departed(model)}"))
            continue
        if trial is None and scene.snapshot.assignment.get(model) == wanted:
            continue
        if reason := scene.quarantined(model, wanted):
            holds.append(Hold(model=model, variant=wanted, reason=f"pinned, but quarantined: {reason}"))
            continue
        swaps.append(swap_between(scene, model, wanted, "pin", "pin", f"pinned to {wanted or 'parked'}", tuple(swaps)))
    return tuple(swaps), tuple(holds)


def revalidate(proposed: Plan, before: Snapshot, fresh: Snapshot, config: BudgetsConfig) -> Plan:
    """The plan without the swaps that a fresh look no longer supports; its generation is kept.

    A swap goes when a host is in the middle of another one of that model or (degrade, restore) no longer runs what it
    starts from, when its trigger's pressure has gone (degrade), or when any pressure is past its enter threshold now
    (restore).
    """
    ratios = {p.name: p.ratio for p in assess(fresh.readings, config, History())}
    limits = config.thresholds()
    kept: list[Swap] = []
    holds = list(proposed.holds)
    for swap in proposed.swaps:
        why = ""
        if any(swap.model in h.swapping for h in fresh.hosts):
            why = "a host is swapping the model"
        elif swap.direction in ("degrade", "restore") and any(
            h.variants.get(swap.model)
            not in ({swap.from_variant, swap.to_variant} if swap.stage == "rest" else {swap.from_variant})
            for h in fresh.hosts
        ):
            why = "a host no longer runs what the swap starts from"
        elif swap.direction == "degrade" and swap.stage != "rest" and not swap.ahead:
            ratio = ratios.get(swap.trigger)
            if ratio is None or ratio <= limits[swap.trigger].exit:
                why = f"the pressure on {swap.trigger} is gone"
        elif swap.direction == "restore":
            over = [n for n, r in ratios.items() if r is None or r >= limits[n].enter]
            if over:
                why = f"pressure on {', '.join(over)}"
        if why:
            holds.append(Hold(model=swap.model, variant=swap.to_variant, reason=f"dropped before it ran: {why}"))
        else:
            kept.append(swap)
    if len(kept) == len(proposed.swaps):
        return proposed
    if not kept:
        return proposed.model_copy(
            update={
                "generation": before.generation,
                "assignment": before.assignment,
                "modes": {},
                "swaps": (),
                "holds": tuple(holds),
                "staged": before.staged,
                "serving": before.serving,
            }
        )
    gone = {s.model for s in proposed.swaps} - {s.model for s in kept}
    told = {m: s for m, s in proposed.serving.items() if m not in gone}
    told |= {m: s for m, s in before.serving.items() if m in gone}
    considered = {"infeasible": proposed.infeasible, "alternatives": proposed.alternatives, "gap": proposed.gap}
    return numbered(before, tuple(kept), tuple(holds)).model_copy(update={"serving": told, **considered})
