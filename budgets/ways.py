"""Ways to relieve beside the joint plan: one step alone, nothing, the plan without one of its steps. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from budgets import limits
from budgets.choose import Limit, choose
from budgets.moves import Scene
from budgets.options import Option
from budgets.plan import Alternative, Trigger

#: Other ways that are looked at to be shown beside the plan, and up to how many models.
SHOWN = 3
MOST_MODELS = 100


def singles(
    scene: Scene, candidates: Mapping[str, Sequence[Option]], bounds: Sequence[Limit], active: Sequence[Trigger]
) -> list[Option]:
    """Options that relieve everything when one model alone changes, the cheapest first, then the quickest to load."""
    late = {t.name.removeprefix("slo:") for t in active if t.name.startswith("slo:")}
    found = []
    for model, options in candidates.items():
        if late - {model}:
            continue
        for option in options:
            if option.variant == scene.view.current[model].variant:
                continue
            if not option.late and not limits.missed({**scene.view.current, model: option}, bounds):
                gain = option.cost - scene.view.current[model].cost
                found.append((gain, option.profile.load_seconds if option.profile else 0.0, model, option))
    return [option for *_, option in sorted(found, key=lambda f: f[:3])]


def quicker(single: Option, chosen: Mapping[str, Option], current: Mapping[str, str | None]) -> bool:
    """Whether one step alone is there before the joint choice, whose steps a host takes one after another."""
    loads = [o.profile.load_seconds if o.profile else 0.0 for m, o in chosen.items() if o.variant != current[m]]
    return len(loads) > 1 and (single.profile.load_seconds if single.profile else 0.0) < sum(loads)


def alternatives(
    scene: Scene,
    candidates: Mapping[str, Sequence[Option]],
    bounds: Sequence[Limit],
    chosen: Mapping[str, Option],
    steps: Sequence[Option],
    note: str,
) -> tuple[Alternative, ...]:
    """The plan and what else there was: nothing, one step alone, and the best ways without one of the plan's steps."""
    current = {m: o.variant for m, o in scene.view.current.items()}
    ways: list[tuple[Mapping[str, Option], str]] = [(chosen, note), (scene.view.current, "no change")]
    ways += [({**scene.view.current, o.model: o}, "one step") for o in steps[:SHOWN]]
    moved = [m for m, o in chosen.items() if o.variant != current[m]]
    if len(current) <= MOST_MODELS:
        for model in moved[:SHOWN]:
            rest = [o for o in candidates[model] if o.variant != chosen[model].variant]
            if rest:
                other = choose({**candidates, model: rest}, current, bounds).options
                ways.append((other, f"without {model} on {chosen[model].variant or 'parked'}"))
    made: dict[str, Alternative] = {}
    for index, (way, text) in enumerate(ways):
        changes = {m: o.variant for m, o in sorted(way.items()) if o.variant != current[m]}
        cost = sum(_true_cost(scene, o) for o in way.values())
        kept = Alternative(changes=changes, cost=cost, misses=limits.missed(way, bounds), chosen=index == 0, note=text)
        made.setdefault(str(changes), kept)
    first, *others = made.values()
    return (first, *sorted(others, key=lambda a: (len(a.misses), a.cost))[: SHOWN + 1])


def _true_cost(scene: Scene, option: Option) -> float:
    """Without what lateness was priced at."""
    found = scene.view.option(option.model, option.variant)
    return found.cost if found else 0.0
