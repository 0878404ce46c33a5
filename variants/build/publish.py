"""What a search hands over: the front of its trials as variants of the model, and how it holds against the ladder there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from variants import pareto
from variants.build.workshop import Workshop
from variants.catalog import Lineage, Profile, Variant
from variants.device import fingerprint
from variants.repository import copy_files, load_catalog, variant_folder, write_profile, write_variant

PREFIX = "search-"


@dataclass
class Found:
    """What a search did: trials by how they ended (failed ones with their reasons), the variants it added, and for each
    rung of the ladder that was there before what the search found that is no worse in every respect (None: nothing); and
    what else it could not do."""

    complete: int = 0
    stopped: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    against: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def publish(folder: Path, shop: Workshop, study: Any, seed: int, notes: Sequence[str] = ()) -> Found:
    """Put the front of all trials and the model's own profiled variants into the model's folder."""
    import optuna

    states = [t.state for t in study.get_trials(deepcopy=False)]
    kinds = optuna.trial.TrialState
    failed = study.get_trials(deepcopy=False, states=(kinds.FAIL,))
    reasons = {t.number: t.user_attrs.get("error", "its process ended") for t in failed}
    found = Found(states.count(kinds.COMPLETE), states.count(kinds.PRUNED), reasons, notes=list(notes))
    trials = measured(shop, study)
    here, floor = fingerprint(), shop.model.floor
    entry = load_catalog(folder.parent).entries[shop.model.name]
    profiled = {n: p for n, v in entry.variants.items() if (p := v.profile(here)) is not None and p.batches}
    others = [pareto.point(entry.variants[n], p) for n, p in profiled.items() if not n.startswith(PREFIX)]
    for rung in pareto.front([p for p in others if p.quality >= floor]):
        as_good = pareto.as_good(rung, [p for p, _, _ in trials.values()])
        found.against[rung.name] = as_good.name if as_good else None
    # The reference and what was taken over are variants of the model already.
    mine = {n: t for n, t in trials.items() if t[0].name == n}
    front = pareto.front([*others, *(p for p, _, _ in mine.values())]) if others or mine else []
    kept = {p.name for p in front if p.quality >= floor} & set(mine)
    for name in [n for n in entry.variants if n.startswith(PREFIX) and n not in kept]:
        shutil.rmtree(variant_folder(folder, name), ignore_errors=True)
    variants = shop.entry().variants
    for name in sorted(kept, key=lambda n: int(n.removeprefix(PREFIX))):
        _, trial, profile = mine[name]
        _take(folder, shop, name, variants[trial.user_attrs["variant"]], trial, seed)
        write_profile(folder, name, profile)
        found.added.append(name)
    return found


def measured(shop: Workshop, study: Any) -> Mapping[str, tuple[pareto.Point, Any, Profile]]:
    """Every trial that was measured on this device, by the name it would have as a variant; its point has that name,
    or that of the model's variant (the reference, or what model.yaml states and was built) that was measured."""
    import optuna

    here, work, taken = fingerprint(), shop.entry(), set(shop.taken.values())
    points: dict[str, tuple[pareto.Point, Any, Profile]] = {}
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        variant = work.variants.get(trial.user_attrs.get("variant", ""))
        profile = variant.profile(here) if variant else None
        if variant is None or profile is None:
            continue
        name = f"{PREFIX}{trial.number}"
        place = pareto.point(variant, profile)
        there = variant.lineage.parent is None or variant.name in taken
        named = variant.name if there else name
        points[name] = (replace(place, name=named), trial, profile)
    return points


def _take(folder: Path, shop: Workshop, name: str, variant: Variant, trial: Any, seed: int) -> None:
    """Store a trial's variant in the model's folder, its whole chain in one lineage."""
    chain = trial.user_attrs.get("chain", [])
    lineage = Lineage(
        parent=shop.reference.name,
        technique="+".join(t for t, _ in chain),
        parameters={"chain": [{"technique": t, **p} for t, p in chain], "trial": trial.number, "seed": seed},
        samples=variant.lineage.samples,
        libraries=variant.lineage.libraries,
        created=variant.lineage.created,
    )
    source = variant_folder(shop.work_folder, variant.name)

    taken = variant.model_copy(update={"name": name, "lineage": lineage, "profiles": ()})
    write_variant(folder, taken, lambda made: copy_files(source, variant, made))
