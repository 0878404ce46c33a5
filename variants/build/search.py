"""`trimtab search`: multi-objective optimisation over techniques and their parameters on measured values.

Optuna proposes trials; each is built in a copy of the model's folder and measured in a fresh process like any variant:
quality up, latency and resident bytes down. The study is a SQLite file in the model's folder, so that a killed search
loses the running trial only and several processes may work on one. What is on the front in the end becomes variants of
the model, named `search-<trial>`. Source: Akiba et al., "Optuna" (2019).
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from variants import pareto, profiler
from variants.build import pipeline
from variants.build.context import Context, run
from variants.build.losses import Outputs
from variants.build.modules import load_module
from variants.build.space import NONE, Space, space_of, starts
from variants.build.supernet import Elastic, score, train_supernet
from variants.build.training import groups, training_data
from variants.catalog import Entry, Lineage, Profile, Variant
from variants.data import LABEL
from variants.device import fingerprint
from variants.errors import BuildError, TrimtabError
from variants.quality import concatenate, quality
from variants.repository import load_catalog, load_model, variant_folder, write_profile, write_variant

FOLDER = ".search"
PREFIX = "search-"
#: Shares of the budget: training the super-network, and at most one trial's training.
SUPERNET_SHARE, TRIAL_SHARE = 0.2, 0.05
SECONDS_PER_BATCH = 0.3
SUBNETS = 4

#: What a trial may end in without ending the search.
EXPECTED = (TrimtabError, ValueError, RuntimeError, OSError)

Report = Callable[[str, float], None]


@dataclass
class Found:
    """What a search did: trials by how they ended (failed ones with their reasons), and the variants it added."""

    complete: int = 0
    stopped: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)


def search(
    folder: Path, *, minutes: float, seed: int = 0, progress: Report | None = None, trials: int | None = None
) -> Found:
    """Search for about `minutes` (or so many `trials`), going on where an earlier search of the same reference stopped,
    and put the front into the model's folder. Raises BuildError for a model that cannot be searched."""
    bench = Bench(folder, minutes, seed, progress or (lambda step, fraction: None))
    bench.work(trials)
    return bench.publish()


class Bench:
    """A study with the folder in which its trials are built."""

    def __init__(self, folder: Path, minutes: float, seed: int, progress: Report) -> None:
        self.folder, self._minutes, self._seed, self._progress = folder, minutes, seed, progress
        self.model = load_model(folder)
        entry = load_catalog(folder.parent).entries.get(self.model.name)
        if entry is None:
            raise BuildError(f"{self.model.name}: search: the reference is not built; run `trimtab build` first")
        if self.model.source.fixed:
            raise BuildError(f"{self.model.name}: search: source.{self.model.source.given[0]} is served as it is")
        self.reference = next(v for v in entry.variants.values() if v.lineage.parent is None)
        self._home = folder / FOLDER / self.reference.files[self.reference.artefact][:12]
        self.work_folder = self._home / "work" / self.model.name
        self._prepare()
        context = Context(self.work_folder, self.model, "search", progress=progress)
        self.space: Space = space_of(context)
        self._data = profiler.evaluation_data(self.work_folder, self.entry())
        self._expected = run(
            self.model, self.reference, variant_folder(self.work_folder, self.reference.name), self._data
        )
        self.study = self._open()

    def entry(self) -> Entry:
        """The model as the work folder has it."""
        return load_catalog(self.work_folder.parent).entries[self.model.name]

    def _prepare(self) -> None:
        """The work folder: the model's files (hard links where they can be), and a copy of its reference."""
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

    def _open(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna

            optuna.logging.set_verbosity(optuna.logging.ERROR)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            sampler = optuna.samplers.TPESampler(seed=self._seed, multivariate=False, n_startup_trials=12)
            study = optuna.create_study(
                study_name=self.model.name,
                storage=f"sqlite:///{self._home / 'study.db'}",
                directions=["maximize", "minimize", "minimize"],
                sampler=sampler,
                load_if_exists=True,
            )
        running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        for trial in running:
            if not _alive(trial.user_attrs.get("pid")):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if not study.trials:
            for params in starts(self.model, self.space):
                study.enqueue_trial(params, skip_if_exists=True)
        return study

    def work(self, trials: int | None = None) -> None:
        """Run trials until the minutes are over; none is begun that would not end in time, going by those before it."""
        import optuna

        started = time.monotonic()
        self._supernet()
        longest, done = 0.0, 0
        while (trials is None or done < trials) and (
            trials is not None or time.monotonic() - started + longest < self._minutes * 60.0
        ):
            began = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.study.optimize(self._trial, n_trials=1, catch=EXPECTED)
            longest, done = max(longest, time.monotonic() - began), done + 1
            share = done / trials if trials else (time.monotonic() - started) / (self._minutes * 60.0)
            states = [t.state for t in self.study.get_trials(deepcopy=False)]
            complete = states.count(optuna.trial.TrialState.COMPLETE)
            self._progress(f"{len(states)} trials, {complete} measured", min(1.0, share))

    def _supernet(self) -> None:
        """Train the weight-sharing network once, score its sub-networks, and put the best ones in the queue."""
        weights = self.work_folder / "supernet.safetensors"
        context = Context(self.work_folder, self.model, "supernet", dict(self.space.training), self._progress)
        if self.space.structures == (NONE,) or "prune" not in self.space.structures:
            return
        self.space = Space((*self.space.structures, "subnet"), self.space.layers, self.space.training)
        if weights.is_file():
            return
        from safetensors.torch import save_file

        elastic = Elastic(context, load_module(context, None)[0])
        train_supernet(context, elastic, minutes=self._minutes * SUPERNET_SHARE)
        data, _ = training_data(context)
        batches = groups(context, {n: a[:256] for n, a in data.items()}, 32)
        outputs = Outputs(context, self.reference, batches)
        wanted = [outputs[i] for i in range(len(batches))]

        def measure(values: Mapping[str, Any]) -> float:
            return quality(self.model.metric, values, concatenate(wanted))

        scored = score(context, elastic, elastic.choices(), batches, measure)
        points = [
            pareto.Point(str(i), max(0.0, q), int(c.cost(elastic.layers) * (1 << 40)), 0.0)
            for i, (c, q) in enumerate(scored)
        ]
        best = [scored[int(p.name)][0] for p in pareto.front(points)]
        picked = [best[i] for i in np.unique(np.linspace(0, len(best) - 1, min(SUBNETS, len(best))).astype(int))]
        for choice in picked:
            params: dict[str, Any] = {"structure": "subnet", "finish": "int8", "width": choice.width}
            params |= {"learning_rate": 3e-4, "int8_tolerance": 0.05}
            if elastic.layers >= 2:
                params["depth"] = choice.depth
            self.study.enqueue_trial(params)
        partial = weights.with_suffix(f".{os.getpid()}")
        state = {n: t.detach().clone().contiguous() for n, t in elastic.module.state_dict().items()}
        save_file(state, partial)
        partial.rename(weights)
        (self.work_folder / ".checkpoints" / "supernet.pt").unlink(missing_ok=True)

    def _trial(self, trial: Any) -> tuple[float, float, float]:
        trial.set_user_attr("pid", os.getpid())
        try:
            return self._measured(trial)
        except EXPECTED as error:
            trial.set_user_attr("error", str(error))
            raise

    def _measured(self, trial: Any) -> tuple[float, float, float]:
        chain = self.space.suggest(trial, self._minutes * TRIAL_SHARE)
        repeated = _repeats(self.study, trial)
        if repeated is not None:
            trial.set_user_attr("variant", repeated.user_attrs["variant"])
            return tuple(repeated.values)
        parent, name = self.reference, self.reference.name
        for technique, parameters in chain:
            name = f"t{trial.number}" + ("" if parent is self.reference else f"-{technique}")
            if technique == "subnet":
                parameters = {**parameters, "weights": "supernet.safetensors"}
            context = Context(self.work_folder, self.model, name, parameters, self._step(trial.number))
            parent = pipeline.make_variant(context, technique, parent)
            if technique not in ("int8", "int8-weights", "int4-weights", "bf16-hint"):
                self._stop_if_hopeless(trial, parent)
        measured = profiler.profile(
            self.work_folder,
            self.entry(),
            name,
            batches=(1, self.model.max_batch) if self.model.batchable else (1,),
            seconds_per_batch=SECONDS_PER_BATCH,
        )
        write_profile(self.work_folder, name, measured)
        trial.set_user_attr("variant", name)
        trial.set_user_attr("chain", [[t, {k: v for k, v in p.items() if k != "weights"}] for t, p in chain])
        place = pareto.point(parent, measured)
        return place.quality, place.seconds, float(place.resident_bytes)

    def _step(self, number: int) -> Report:
        return lambda step, fraction: self._progress(f"trial {number}: {step}", 0.0)

    def _stop_if_hopeless(self, trial: Any, variant: Variant) -> None:
        """Give a trial up before it is quantised and measured: another structure is no larger and no worse by more than
        noise, and this one is below the model's floor or worse than it in both."""
        import optuna

        folder = variant_folder(self.work_folder, variant.name)
        outputs = run(self.model, variant, folder, self._data)
        reached = quality(self.model.metric, outputs, self._expected, self._data.get(LABEL))
        size = sum((folder / name).stat().st_size for name in variant.files)
        trial.set_user_attr("structure", [reached, size])
        others = [
            t.user_attrs["structure"] for t in self.study.get_trials(deepcopy=False) if "structure" in t.user_attrs
        ]
        beaten = any(q > reached + pareto.LARGEST_QUALITY_NOISE and s < 0.98 * size for q, s in others)
        if reached < self.model.floor or beaten:
            raise optuna.TrialPruned

    def publish(self) -> Found:
        """Put the front of all trials and the model's own profiled variants into the model's folder."""
        import optuna

        states = [t.state for t in self.study.get_trials(deepcopy=False)]
        kinds = optuna.trial.TrialState
        failed = self.study.get_trials(deepcopy=False, states=(kinds.FAIL,))
        reasons = {t.number: t.user_attrs.get("error", "its process ended") for t in failed}
        found = Found(states.count(kinds.COMPLETE), states.count(kinds.PRUNED), reasons)
        here, work = fingerprint(), self.entry()
        points: dict[str, tuple[pareto.Point, Any, Profile]] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(kinds.COMPLETE,)):
            variant = work.variants.get(trial.user_attrs.get("variant", ""))
            measured = variant.profile(here) if variant else None
            if variant is not None and measured is not None and variant.lineage.parent is not None:
                points[f"{PREFIX}{trial.number}"] = (pareto.point(variant, measured), trial, measured)
        mine = load_catalog(self.folder.parent).entries[self.model.name].variants
        others = [
            pareto.point(v, p)
            for n, v in mine.items()
            if not n.startswith(PREFIX) and (p := v.profile(here)) is not None and p.batches
        ]
        renamed = [
            pareto.Point(n, p.quality, p.resident_bytes, p.seconds, p.quality_noise) for n, (p, _, _) in points.items()
        ]
        kept = {p.name for p in pareto.front([*others, *renamed])} & set(points) if renamed or others else set()
        for name in [n for n in mine if n.startswith(PREFIX) and n not in kept]:
            shutil.rmtree(variant_folder(self.folder, name), ignore_errors=True)
        for name in sorted(kept, key=lambda n: int(n.removeprefix(PREFIX))):
            _, trial, measured = points[name]
            self._take(name, work.variants[trial.user_attrs["variant"]], trial)
            write_profile(self.folder, name, measured)
            found.added.append(name)
        return found

    def _take(self, name: str, variant: Variant, trial: Any) -> None:
        """Store a trial's variant in the model's folder, its whole chain in one lineage."""
        chain = trial.user_attrs.get("chain", [])
        lineage = Lineage(
            parent=self.reference.name,
            technique="+".join(t for t, _ in chain),
            parameters={"chain": [{"technique": t, **p} for t, p in chain], "trial": trial.number, "seed": self._seed},
            samples=variant.lineage.samples,
            libraries=variant.lineage.libraries,
            created=variant.lineage.created,
        )
        source = variant_folder(self.work_folder, variant.name)

        def fill(folder: Path) -> None:
            for file in variant.files:
                shutil.copyfile(source / file, folder / file)

        write_variant(self.folder, variant.model_copy(update={"name": name, "lineage": lineage, "profiles": ()}), fill)


def _link(source: str, target: str) -> None:
    """The same file at another place, in place of what was there; a copy on another file system."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _repeats(study: Any, trial: Any) -> Any:
    """A measured trial with the same parameters, if there is one."""
    same = (t for t in study.get_trials(deepcopy=False) if t.values and t.params == trial.params)
    return next((t for t in same if "variant" in t.user_attrs), None)


def _alive(pid: int | None) -> bool:
    return pid is not None and pid != os.getpid() and Path(f"/proc/{pid}").exists()
