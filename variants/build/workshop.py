"""The folder in which a search builds and measures its trials: a copy of the model with its reference.

What happens here needs no study: a trial is a chain of techniques, and what it ends in is a value. So trials may run on
any machine that sees the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from variants import pareto, profiler
from variants.build import pipeline, stated
from variants.build.context import Context, run
from variants.build.losses import Outputs
from variants.build.modules import load_module
from variants.build.space import STRUCTURES, SUPERNET, Chain, Space, space_of
from variants.build.supernet import Choice, Elastic, score, train_supernet
from variants.build.training import groups, training_data
from variants.catalog import Entry, Variant
from variants.data import LABEL
from variants.device import fingerprint
from variants.errors import BuildError
from variants.quality import concatenate, quality
from variants.repository import load_catalog, load_model, variant_folder, write_profile

FOLDER = ".search"
SECONDS_PER_BATCH = 0.3
SUBNETS = 4

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Made:
    """A structure that a trial built: the variant before it was quantised, its quality, and its files' bytes."""

    variant: str
    quality: float
    size: int


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: the variant and its quality, seconds and resident bytes; no values where it was given up
    as hopeless. `made`: its structure, if it has one."""

    values: tuple[float, float, float] | None = None
    variant: str = ""
    made: Made | None = None


class Workshop:
    """Builds and measures trials of one model."""

    def __init__(self, folder: Path, progress: Report) -> None:
        self.folder, self._progress = folder, progress
        self.model = load_model(folder)
        entry = load_catalog(folder.parent).entries.get(self.model.name)
        if entry is None:
            raise BuildError(f"{self.model.name}: search: the reference is not built; run `trimtab build` first")
        if self.model.source.fixed:
            raise BuildError(f"{self.model.name}: search: source.{self.model.source.given[0]} is served as it is")
        self.reference = next(v for v in entry.variants.values() if v.lineage.parent is None)
        self.space: Space = space_of(Context(folder, self.model, "search", progress=progress))
        digest = self.reference.files[self.reference.artefact][:12]
        self.home = folder / FOLDER / "-without-".join([digest, *self.space.lacking])
        self.work_folder = self.home / "work" / self.model.name
        self._prepare()
        self.stated = stated.chains(self.model)
        mine = stated.built(folder, self.model, entry)
        stated.take_over(folder, self.work_folder, list(mine))
        #: Variants of the model's folder that trials take over instead of building them, by their chain's key.
        self.taken = {stated.chain_key(self.stated[name]): name for name in mine}
        self._data = profiler.evaluation_data(self.work_folder, self.entry())
        self._expected = run(
            self.model, self.reference, variant_folder(self.work_folder, self.reference.name), self._data
        )

    def entry(self) -> Entry:
        """The model as the work folder has it."""
        return load_catalog(self.work_folder.parent).entries[self.model.name]

    def _prepare(self) -> None:
        """The model's files (hard links where they can be), and a copy of its reference."""
        mine = ("variants", "modules", "__pycache__", FOLDER, ".checkpoints")
        self.work_folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name in mine:
                continue
            target = self.work_folder / path.name
            if path.is_dir():
                shutil.copytree(path, target, copy_function=_link, dirs_exist_ok=True)
            else:
                _link(str(path), str(target))
        target = variant_folder(self.work_folder, self.reference.name)
        if not target.is_dir():
            target.parent.mkdir(exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copytree(variant_folder(self.folder, self.reference.name), partial)
            partial.rename(target)

    def supernet(self, minutes: float) -> list[Choice]:
        """Train the weight-sharing network, score its sub-networks, keep its weights; returns the best of every size.
        None where it was trained before."""
        weights = self.work_folder / SUPERNET
        if weights.is_file():
            return []
        from safetensors.torch import save_file

        context = Context(self.work_folder, self.model, "supernet", dict(self.space.training), self._progress)
        elastic = Elastic(context, load_module(context, None)[0])
        train_supernet(context, elastic, minutes=minutes)
        data, _ = training_data(context)
        batches = groups(context, {n: a[:256] for n, a in data.items()}, 32)
        outputs = Outputs(context, self.reference, batches)
        wanted = concatenate([outputs[i] for i in range(len(batches))])

        def measure(values: Mapping[str, Any]) -> float:
            return quality(self.model.metric, values, wanted)

        scored = score(context, elastic, elastic.choices(), batches, measure)
        points = [
            pareto.Point(str(i), max(0.0, q), int(c.cost(elastic.layers) * (1 << 40)), 0.0)
            for i, (c, q) in enumerate(scored)
        ]
        best = [scored[int(p.name)][0] for p in pareto.front(points)]
        partial = weights.with_suffix(f".{os.getpid()}")
        save_file({n: t.detach().clone().contiguous() for n, t in elastic.module.state_dict().items()}, partial)
        partial.rename(weights)
        (self.work_folder / ".checkpoints" / "supernet.pt").unlink(missing_ok=True)
        return [best[i] for i in np.unique(np.linspace(0, len(best) - 1, min(SUBNETS, len(best))).astype(int))]

    def attempt(self, number: int, chain: Chain, known: Mapping[str, Made]) -> Outcome:
        """Build and measure a trial. What is there is not built again: variants of the model's folder with the same
        chain, and `known` structures (by their `structure_key`). A chain that model.yaml states is given up as hopeless
        only below the floor. Raises what techniques and engines raise."""
        by_hand = stated.chain_key(chain) in {stated.chain_key(c) for c in self.stated.values()}
        parent, made, fresh = self.entry().variants[self.reference.name], None, False
        for step, (technique, parameters) in enumerate(chain, 1):
            key = structure_key(chain[:step])
            ready = self._ready(chain[:step], known)
            fresh = ready is None
            if ready is None:
                name = "-".join([f"t{number}", *(t for t, _ in chain[1:step])])
                context = Context(self.work_folder, self.model, name, parameters, self._step(number))
                ready = pipeline.make_variant(context, technique, parent)
            parent = ready
            if technique in STRUCTURES:
                made = known.get(key) or self._judged(parent)
                if fresh and self._hopeless(made, [] if by_hand else list(known.values())):
                    return Outcome(made=made)
        measured = None if fresh else parent.profile(fingerprint())
        if measured is None or not measured.batches:
            measured = profiler.profile(
                self.work_folder,
                self.entry(),
                parent.name,
                batches=(1, self.model.max_batch) if self.model.batchable else (1,),
                seconds_per_batch=SECONDS_PER_BATCH,
            )
            write_profile(self.work_folder, parent.name, measured)
        place = pareto.point(parent, measured)
        return Outcome((place.quality, place.seconds, float(place.resident_bytes)), parent.name, made)

    def training(self, chain: Chain, known: Mapping[str, Made]) -> float:
        """Minutes of training that a chain still needs."""
        done = [n for n in range(1, len(chain) + 1) if self._ready(chain[:n], known) is not None]
        return stated.training_minutes(chain[max(done, default=0) :])

    def _ready(self, chain: Chain, known: Mapping[str, Made]) -> Variant | None:
        """What a chain makes, if it is there."""
        name = self.taken.get(stated.chain_key(chain))
        if name is None and all(t in STRUCTURES for t, _ in chain):
            made = known.get(structure_key(chain))
            name = made.variant if made else None
        return self.entry().variants.get(name) if name else None

    def _step(self, number: int) -> Report:
        return lambda step, fraction: self._progress(f"trial {number}: {step}", 0.0)

    def _judged(self, variant: Variant) -> Made:
        folder = variant_folder(self.work_folder, variant.name)
        outputs = run(self.model, variant, folder, self._data)
        reached = quality(self.model.metric, outputs, self._expected, self._data.get(LABEL))
        return Made(variant.name, reached, sum((folder / name).stat().st_size for name in variant.files))

    def _hopeless(self, made: Made, others: Sequence[Made]) -> bool:
        """Whether a structure need not be quantised and measured: below the model's floor, or beaten by one that is
        smaller and better beyond noise."""
        beaten = (o.quality > made.quality + pareto.LARGEST_QUALITY_NOISE and o.size < 0.98 * made.size for o in others)
        return made.quality < self.model.floor or any(beaten)


def structure_key(chain: Chain) -> str:
    """What says which structure a chain builds; empty for a chain without one. For how long it is trained does not count:
    a search that is resumed with other minutes goes on with what is there."""
    steps = [[t, {k: v for k, v in p.items() if k != "minutes"}] for t, p in chain if t in STRUCTURES]
    return json.dumps(steps, sort_keys=True) if steps else ""


def _link(source: str, target: str) -> None:
    """The same file at another place, in place of what was there; a copy on another file system."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
