"""`trimtab search`: multi-objective optimisation over techniques and their parameters on measured values.

The first trials are what model.yaml names, as it says. Then Optuna proposes trials, in turn with what goes on from the
front so far; each is built in a copy of the model's folder and measured in a fresh process like any variant:
quality up, latency and resident bytes down. The study is a SQLite file in the model's folder, so that a killed search
loses the running trial only. What is on the front in the end becomes variants of the model, named `search-<trial>`.
Source: Akiba et al., "Optuna" (2019).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from variants import pareto
from variants.build import onward
from variants.build.space import STRUCTURES, Chain, finished_otherwise, starts, subnets
from variants.build.stated import chain_key, params
from variants.build.workshop import Made, Outcome, Report, Workshop, structure_key
from variants.catalog import Lineage, Profile, Variant
from variants.device import fingerprint
from variants.errors import TrimtabError
from variants.repository import load_catalog, variant_folder, write_profile, write_variant

PREFIX = "search-"
#: Shares of the budget: training the super-network, and at most one trial's training.
SUPERNET_SHARE, TRIAL_SHARE = 0.2, 0.05

#: A trial whose techniques are given, not asked of the sampler, has them under this name.
GIVEN = "given"

#: What a trial may end in without ending the search.
EXPECTED = (TrimtabError, ValueError, RuntimeError, OSError)


@dataclass
class Found:
    """What a search did: trials by how they ended (failed ones with their reasons), the variants it added, and for each
    rung of the ladder that was there before what the search found that is no worse in every respect (None: nothing)."""

    complete: int = 0
    stopped: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    against: dict[str, str | None] = field(default_factory=dict)


def search(
    folder: Path, *, minutes: float, seed: int = 0, progress: Report | None = None, trials: int | None = None
) -> Found:
    """Search for about `minutes` (or so many `trials`), going on where an earlier search of the same reference stopped,
    and put the front into the model's folder. Raises BuildError for a model that cannot be searched."""
    bench = Bench(folder, minutes, seed, progress or (lambda step, fraction: None))
    bench.work(trials)
    return bench.publish()


class Bench:
    """A study with the workshop in which its trials are built."""

    def __init__(self, folder: Path, minutes: float, seed: int, progress: Report) -> None:
        self.folder, self.minutes, self._seed, self._progress = folder, minutes, seed, progress
        self._started = time.monotonic()
        self.shop = Workshop(folder, progress)
        self.study = self._open()

    def _open(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna

            optuna.logging.set_verbosity(optuna.logging.ERROR)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            sampler = optuna.samplers.TPESampler(seed=self._seed, multivariate=False, n_startup_trials=12)
            study = optuna.create_study(
                study_name=self.shop.model.name,
                storage=f"sqlite:///{self.shop.home / 'study.db'}",
                directions=["maximize", "minimize", "minimize"],
                sampler=sampler,
                load_if_exists=True,
            )
        running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        for trial in running:
            if not _alive(trial.user_attrs.get("pid")):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                again = {GIVEN: trial.user_attrs[GIVEN]} if GIVEN in trial.user_attrs else None
                study.enqueue_trial(trial.system_attrs.get("fixed_params", trial.params), user_attrs=again)
        return study

    def work(self, trials: int | None = None) -> None:
        """Run trials until the minutes are over; none is begun that would not end in time, going by those before it."""
        longest, done = 0.0, 0
        while done < trials if trials is not None else self._left() > longest:
            self.queue()
            began = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.study.optimize(self._trial, n_trials=1, catch=EXPECTED)
            longest, done = max(longest, time.monotonic() - began), done + 1
            self.report(done / trials if trials else 1.0 - self._left() / (self.minutes * 60.0))

    def _left(self) -> float:
        """Seconds that are left of the search's minutes."""
        return self.minutes * 60.0 - (time.monotonic() - self._started)

    def report(self, share: float) -> None:
        """Say how far the search is."""
        import optuna

        states = [t.state for t in self.study.get_trials(deepcopy=False)]
        complete = states.count(optuna.trial.TrialState.COMPLETE)
        self._progress(f"{len(states)} trials, {complete} measured", min(1.0, share))

    def queue(self) -> None:
        """If no trial waits, put in the queue what is worth trying before the sampler is asked, one by one: what model.yaml
        states, moderate strengths, what goes on from the front, the super-network's best sub-networks; later, in turn
        with the sampler, what goes on from the front."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        if any(t.state == optuna.trial.TrialState.WAITING for t in trials):
            return
        if (chain := self._untried_statement(trials) or self._other_finish(trials)) is not None:
            self._enqueue(chain)
            return
        stated = {t for c in self._given(trials) for t, _ in c}
        tried = [t.system_attrs.get("fixed_params") for t in trials]
        untried = (p for p in starts(self.shop.space, stated) if p not in tried)
        if (start := next(untried, None)) is not None:
            self.study.enqueue_trial(start)
            return
        sampled = bool(trials) and GIVEN not in trials[-1].user_attrs
        if sampled and (chain := self._onward(trials)) is not None:
            self._enqueue(chain)
        else:
            self.prepare()

    def _enqueue(self, chain: Chain) -> None:
        """A trial of these techniques, with the parameters from which the sampler learns, if it could propose them."""
        self.study.enqueue_trial(params(self.shop.space, chain), user_attrs={GIVEN: chain})

    def _given(self, trials: list[Any]) -> list[Chain]:
        return [t.user_attrs[GIVEN] for t in trials if GIVEN in t.user_attrs]

    def _untried_statement(self, trials: list[Any]) -> Chain | None:
        """The first variant that model.yaml names that was not tried and whose training ends in time."""
        known, tried = self.known(), {chain_key(c) for c in self._given(trials)}
        for chain in self.shop.stated.values():
            training = self.shop.training(chain, known) * 60.0
            if chain_key(chain) not in tried and (training == 0.0 or training < self._left()):
                return chain
        return None

    def _other_finish(self, trials: list[Any]) -> Chain | None:
        """The first given structure that was worth measuring, in a finish that it was not tried in."""
        there = {(structure_key(c), c[-1][0]) for c in self._given(trials)}
        for chain in self._given([t for t in trials if t.values]):
            for other in onward.finished_otherwise(chain):
                if (structure_key(other), other[-1][0]) not in there:
                    return other
        return None

    def _onward(self, trials: list[Any]) -> Chain | None:
        """What goes on from a structure on the front of all trials so far."""
        tried = {structure_key(c) for c in self._given(trials)}
        made = {p.name: (p, t) for p, t, _ in self._measured().values() if t.user_attrs.get("made")}
        front = [made[p.name][1] for p in pareto.front([p for p, _ in made.values()])]
        chains: list[Chain] = []
        for trial in front:
            structure = json.loads(trial.user_attrs["made"]["key"])
            finish = [s for s in trial.user_attrs["chain"] if s[0] not in STRUCTURES]
            chains.append([*structure, *finish])
        share = self.minutes * TRIAL_SHARE
        return onward.onward(chains, lambda c: structure_key(c) in tried, self.shop.space, share)

    def prepare(self) -> None:
        """Train the weight-sharing network once, and put its best sub-networks in the queue."""
        if "subnet" not in self.shop.space.structures:
            return
        best = self.shop.supernet(self.minutes * SUPERNET_SHARE)
        for asked in subnets(self.shop.model, self.shop.space, [(c.depth, c.width) for c in best]):
            self.study.enqueue_trial(asked, skip_if_exists=True)

    def _trial(self, trial: Any) -> tuple[float, float, float]:
        import optuna

        try:
            chain = self.begin(trial)
            same = self.repeated(trial)
            if same is not None:
                trial.set_user_attr("variant", same.user_attrs["variant"])
                return tuple(same.values)
            outcome = self.shop.attempt(trial.number, chain, self.known())
        except EXPECTED as error:
            trial.set_user_attr("error", str(error))
            raise
        self.record(trial, chain, outcome)
        if outcome.values is None:
            raise optuna.TrialPruned
        return outcome.values

    def begin(self, trial: Any) -> Chain:
        """A trial's techniques."""
        trial.set_user_attr("pid", os.getpid())
        given = [(technique, parameters) for technique, parameters in trial.user_attrs.get(GIVEN, ())]
        if given and not params(self.shop.space, given):
            return given
        asked = self.shop.space.suggest(trial, self.minutes * TRIAL_SHARE)
        return given or asked

    def repeated(self, trial: Any) -> Any:
        """A measured trial with the same parameters, if there is one; a trial whose techniques are given repeats none."""
        if GIVEN in trial.user_attrs:
            return None
        same = (t for t in self.study.get_trials(deepcopy=False) if t.values and t.params == trial.params)
        return next((t for t in same if "variant" in t.user_attrs), None)

    def known(self) -> dict[str, Made]:
        """The structures that trials have built, by their key."""
        built = (t.user_attrs.get("made") for t in self.study.get_trials(deepcopy=False))
        return {b["key"]: Made(b["variant"], b["quality"], b["size"]) for b in built if b}

    def record(self, trial: Any, chain: Chain, outcome: Outcome) -> None:
        """Keep with a trial what it made. A structure that was worth measuring is measured with other finishes too."""
        trial.set_user_attr("chain", [[t, {k: v for k, v in p.items() if k != "weights"}] for t, p in chain])
        key = structure_key(chain)
        fresh = outcome.made is not None and key not in self.known()
        if outcome.made is not None:
            trial.set_user_attr("made", {"key": key, **asdict(outcome.made)})
        if outcome.values is None:
            return
        trial.set_user_attr("variant", outcome.variant)
        if fresh and GIVEN not in trial.user_attrs:
            for asked in finished_otherwise(trial.params):
                self.study.enqueue_trial(asked, skip_if_exists=True)

    def publish(self) -> Found:
        """Put the front of all trials and the model's own profiled variants into the model's folder."""
        import optuna

        states = [t.state for t in self.study.get_trials(deepcopy=False)]
        kinds = optuna.trial.TrialState
        failed = self.study.get_trials(deepcopy=False, states=(kinds.FAIL,))
        reasons = {t.number: t.user_attrs.get("error", "its process ended") for t in failed}
        found = Found(states.count(kinds.COMPLETE), states.count(kinds.PRUNED), reasons)
        trials = self._measured()
        here, floor = fingerprint(), self.shop.model.floor
        entry = load_catalog(self.folder.parent).entries[self.shop.model.name]
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
            shutil.rmtree(variant_folder(self.folder, name), ignore_errors=True)
        variants = self.shop.entry().variants
        for name in sorted(kept, key=lambda n: int(n.removeprefix(PREFIX))):
            _, trial, measured = mine[name]
            self._take(name, variants[trial.user_attrs["variant"]], trial)
            write_profile(self.folder, name, measured)
            found.added.append(name)
        return found

    def _measured(self) -> Mapping[str, tuple[pareto.Point, Any, Profile]]:
        """Every trial that was measured on this device, by the name it would have as a variant; its point has that name,
        or that of the model's variant (the reference, or what model.yaml states and was built) that was measured."""
        import optuna

        here, work, taken = fingerprint(), self.shop.entry(), set(self.shop.taken.values())
        points: dict[str, tuple[pareto.Point, Any, Profile]] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
            variant = work.variants.get(trial.user_attrs.get("variant", ""))
            measured = variant.profile(here) if variant else None
            if variant is None or measured is None:
                continue
            name = f"{PREFIX}{trial.number}"
            place = pareto.point(variant, measured)
            there = variant.lineage.parent is None or variant.name in taken
            named = variant.name if there else name
            points[name] = (replace(place, name=named), trial, measured)
        return points

    def _take(self, name: str, variant: Variant, trial: Any) -> None:
        """Store a trial's variant in the model's folder, its whole chain in one lineage."""
        chain = trial.user_attrs.get("chain", [])
        lineage = Lineage(
            parent=self.shop.reference.name,
            technique="+".join(t for t, _ in chain),
            parameters={"chain": [{"technique": t, **p} for t, p in chain], "trial": trial.number, "seed": self._seed},
            samples=variant.lineage.samples,
            libraries=variant.lineage.libraries,
            created=variant.lineage.created,
        )
        source = variant_folder(self.shop.work_folder, variant.name)

        def fill(folder: Path) -> None:
            for file in variant.files:
                shutil.copyfile(source / file, folder / file)

        write_variant(self.folder, variant.model_copy(update={"name": name, "lineage": lineage, "profiles": ()}), fill)


def _alive(pid: int | None) -> bool:
    return pid is not None and pid != os.getpid() and Path(f"/proc/{pid}").exists()
