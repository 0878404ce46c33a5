"""What model.yaml names by hand, as a search's first trials: every variant of `build` and `techniques` is a given chain of
techniques with exactly its parameters, and one that is built already is taken over with what it measured."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from variants.build import naming, pipeline, quantize
from variants.build.context import Context
from variants.build.modules import FOLDER as MODULES
from variants.build.recovery import MINUTES
from variants.build.space import INT8_TOLERANCES, NONE, NUMBERS, RANGES, STRUCTURES, Chain, Space
from variants.catalog import Entry, Model, Variant
from variants.repository import VARIANT, variant_folder


def chains(model: Model) -> dict[str, Chain]:
    """The chain of every variant that model.yaml names, by its stored name, parents first; not the reference.

    Raises BuildError for an unknown technique.
    """
    found: dict[str, Chain] = {}
    for name in naming.plan(model, [*model.build, *model.techniques]):
        above = naming.parent_of(name)
        if above is not None:
            before = found.get(naming.stored_name(above), ())
            step = (naming.technique_of(model, name), naming.parameters_of(model, name))
            found[naming.stored_name(name)] = [*before, step]
    return found


def chain_key(chain: Chain) -> str:
    """What says that two chains are the same, parameters and all."""
    return json.dumps([list(step) for step in chain], sort_keys=True)


def training_minutes(chain: Chain) -> float:
    """How long a chain trains by what it says of itself; a training counted in steps says nothing."""
    trained = [p for t, p in chain if t in STRUCTURES and not p.get("steps")]
    return float(sum(p.get("minutes", MINUTES) for p in trained))


def params(space: Space, chain: Chain) -> dict[str, Any]:
    """The parameters with which the sampler would propose this chain, so that it learns from its outcome; empty where
    the space has none such."""
    structures = [(t, p) for t, p in chain if t in STRUCTURES]
    finishes = [(t, p) for t, p in chain if t not in STRUCTURES]
    finish, asked = finishes[0] if finishes else (NONE, {})
    many = len(structures) > 1 or len(finishes) > 1
    if many or finish not in space.finishes or set(asked) - {"tolerance", "max_distance"}:
        return {}
    found: dict[str, Any] = {"structure": NONE, "finish": finish}
    if finish == "int8":
        found["int8_tolerance"] = asked.get("tolerance", quantize.TOLERANCE)
        if found["int8_tolerance"] not in INT8_TOLERANCES:
            return {}
    elif finish == "int4-weights":
        found["int4_ratio"] = 1.0
    for structure, given in structures:
        found["structure"] = structure
        names = NUMBERS.get(structure, ())
        if structure not in space.structures or not names or not all(n in given for n in names):
            return {}
        found |= {n: given[n] for n in names}
    if not all(low <= found[n] <= high for n, (low, high) in RANGES.items() if n in found):
        return {}
    layers = found.get("layers", 1)
    return found if isinstance(layers, int) and ("layers" not in found or 1 <= layers < space.layers) else {}


def built(folder: Path, model: Model, entry: Entry) -> dict[str, Variant]:
    """Of what model.yaml names, the variants that are in its folder and were made as it says now, by stored name."""
    found: dict[str, Variant] = {}
    for name in naming.plan(model, [*model.build, *model.techniques]):
        stored, above = naming.stored_name(name), naming.parent_of(name)
        variant = entry.variants.get(stored)
        parent = entry.variants.get(naming.stored_name(above)) if above else None
        if variant is None or above is None or parent is None:
            continue
        if above != naming.REFERENCE and parent.name not in found:
            continue
        if pipeline.same(variant, Context(folder, model, stored, naming.parameters_of(model, name)), parent):
            found[stored] = variant
    return found


def take_over(folder: Path, work: Path, names: Sequence[str]) -> None:
    """Copy built variants, their profiles and their modules into the folder of a search's trials, each at once; what is
    there already and the same is left alone."""
    for name in names:
        source, target = variant_folder(folder, name), variant_folder(work, name)
        if (target / VARIANT).is_file() and (target / VARIANT).read_bytes() == (source / VARIANT).read_bytes():
            continue
        if (folder / MODULES / name).is_dir():
            _replace(folder / MODULES / name, work / MODULES / name)
        _replace(source, target)


def _replace(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(source, partial, dirs_exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
