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
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from variants import pareto
from variants.build import onward
from variants.build.publish import Found, measured, publish
from variants.build.space import STRUCTURES, Chain, finished_otherwise, starts, subnets
from variants.build.stated import chain_key, params
from variants.build.workshop import Made, Outcome, Report, Workshop, structure_key
from variants.errors import TrimtabError

#: Shares of the budget: training the super-network, and at most one trial's training.
SUPERNET_SHARE, TRIAL_SHARE = 0.2, 0.05

#: A trial whose techniques are given, not asked of the sampler, has them under this name.
GIVEN = "given"
#: The number of the lost trial that a trial tries again.
AGAIN = "again"

#: What is said of a search that ran out of trials before it ran out of time.
EXHAUSTED = "ended early: all that there is to try for this model was tried"
#: What a trial may end in without ending the search.
EXPECTED = (TrimtabError, ValueError, RuntimeError, OSError)


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
        self._notes: list[str] = []
        self._no_supernet = False
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
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if not _alive(trial.user_attrs.get("pid")):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        trials = study.get_trials(deepcopy=False)
        again = {t.user_attrs.get(AGAIN) for t in trials}
        for trial in trials:
            # One that failed without a reason was killed, or interrupted from the keyboard.
            lost = trial.state == optuna.trial.TrialState.FAIL and "error" not in trial.user_attrs
            if lost and trial.number not in again:
                attributes = {AGAIN: trial.number, **{k: v for k, v in trial.user_attrs.items() if k == GIVEN}}
                study.enqueue_trial(trial.system_attrs.get("fixed_params", trial.params), user_attrs=attributes)
        return study

    def work(self, trials: int | None = None) -> None:
        """Run trials until the minutes are over, or there is nothing left to try; none is begun that would not end in time,
        going by those before it."""
        longest, done = 0.0, 0
        while done < trials if trials is not None else self._left() > longest:
            if not self.queue():
                break
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

    def queue(self) -> bool:
        """If no trial waits, put in the queue what is worth trying before the sampler is asked, one by one: what model.yaml
        states, moderate strengths, what goes on from the front, the super-network's best sub-networks; later, in turn
        with the sampler, what goes on from the front. False: all that there is was tried."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        if any(t.state == optuna.trial.TrialState.WAITING for t in trials):
            return True
        if (chain := self._untried_statement(trials) or self._other_finish(trials)) is not None:
            self._enqueue(chain)
            return True
        stated = {t for c in self._given(trials) for t, _ in c}
        tried = [t.system_attrs.get("fixed_params") for t in trials]
        untried = (p for p in starts(self.shop.space, stated) if p not in tried)
        if (start := next(untried, None)) is not None:
            self.study.enqueue_trial(start)
            return True
        if (every := self.shop.space.every()) is not None:
            ended = [t.params for t in trials]
            left = next((p for p in every if p not in ended), None)
            if left is not None:
                self.study.enqueue_trial(left)
            elif EXHAUSTED not in self._notes:
                self._notes.append(EXHAUSTED)
            return left is not None
        sampled = bool(trials) and GIVEN not in trials[-1].user_attrs
        if sampled and (chain := self._onward(trials)) is not None:
            self._enqueue(chain)
        else:
            self.prepare()
        return True

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
            for other in onward.finished_otherwise(self.shop.space, chain):
                if (structure_key(other), other[-1][0]) not in there:
                    return other
        return None

    def _onward(self, trials: list[Any]) -> Chain | None:
        """What goes on from a structure on the front of all trials so far."""
        tried = {structure_key(c) for c in self._given(trials)}
        made = {p.name: (p, t) for p, t, _ in measured(self.shop, self.study).values() if t.user_attrs.get("made")}
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
        if "subnet" not in self.shop.space.structures or self._no_supernet:
            return
        try:
            best = self.shop.supernet(self.minutes * SUPERNET_SHARE)
        except EXPECTED as error:
            self._no_supernet = True
            self._notes.append(f"no super-network: {error}")
            return
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
            for asked in finished_otherwise(self.shop.space, trial.params):
                self.study.enqueue_trial(asked, skip_if_exists=True)

    def publish(self) -> Found:
        """Put the front of all trials and the model's own profiled variants into the model's folder."""
        return publish(self.folder, self.shop, self.study, self._seed, self._notes)


def _alive(pid: int | None) -> bool:
    return pid is not None and pid != os.getpid() and Path(f"/proc/{pid}").exists()
