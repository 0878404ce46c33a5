"""A search on a Ray cluster: Ray Tune runs its trials, one at a time on each node, on the same study as without one.

Only this process writes to the study: SQLite in a folder that nodes share is not to be trusted with several writers. The
nodes build and measure in that folder and report. A node that is lost costs its running trial.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from variants.build.search import EXPECTED, Bench
from variants.build.workshop import Made, Outcome, Report, Workshop
from variants.errors import BuildError

#: Of Tune's own records none is needed, and a trial that is given up reports no values.
QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1"}
OBJECTIVES = {"quality": "max", "seconds": "min", "bytes": "min"}


def work(
    address: str, model: Path, minutes: float, seed: int, progress: Report, trials: int | None = None
) -> tuple[Bench, int]:
    """Search for about `minutes` (or so many `trials`) on every node that is alive; returns the bench, whose front can be
    published, and how many nodes there were.

    Only trials measured on the publishing machine's kind of device count for its ladder. Raises BuildError when the
    cluster cannot be reached, or Ray Tune is not installed.
    """
    import ray

    os.environ.update(QUIET)
    try:
        from ray import tune
    except ImportError as error:
        raise BuildError(f"--address: needs Ray Tune ({error}); pip install 'trimtab[build]'") from error
    started = time.monotonic()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        raise BuildError(f"--address {address}: cannot reach a Ray cluster there: {error}") from error
    try:
        nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
        bench = Bench(model, minutes, seed, progress)
        bench.prepare()
        left = minutes * 60.0 - (time.monotonic() - started)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, folder=str(model)), _placed),
            tune_config=tune.TuneConfig(
                search_alg=searcher(bench, nodes),
                num_samples=-1 if trials is None else trials,
                time_budget_s=max(1.0, left) if trials is None else None,
                max_concurrent_trials=len(nodes),
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(storage_path=str(bench.shop.home / "tune"), verbose=0),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuner.fit()
    except ray.exceptions.RayError as error:
        raise BuildError(f"--address {address}: {error}") from error
    finally:
        ray.shutdown()
    return bench, len(nodes)


def _placed(config: Mapping[str, Any]) -> Any:
    """A trial's place: the node that the searcher found free."""
    from ray.tune import PlacementGroupFactory

    return PlacementGroupFactory([{"CPU": 1}], bundle_label_selector=[{"ray.io/node-id": config["node"]}])


def _trial(config: Mapping[str, Any], folder: str) -> None:
    """On a node: build and measure one trial, and report what it came to."""
    from ray import tune

    task = json.loads(config["task"])
    known = {key: Made(**made) for key, made in task["known"].items()}
    try:
        shop = Workshop(Path(folder), lambda step, fraction: None)
        outcome = shop.attempt(task["number"], task["chain"], known)
    except EXPECTED as error:
        tune.report({"error": f"{type(error).__name__}: {error}"})
    else:
        tune.report({"outcome": json.dumps(asdict(outcome))})


def searcher(bench: Bench, nodes: list[str]) -> Any:
    """Tune's Optuna searcher on the bench's study. It asks and tells what a search on one machine would, and gives each
    trial a node that has none."""
    from ray.tune.search import Searcher
    from ray.tune.search.optuna import OptunaSearch

    class OnStudy(OptunaSearch):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(
                space=lambda captor: {"chain": bench.begin(captor.ot_trial)},
                metric=list(OBJECTIVES),
                mode=list(OBJECTIVES.values()),
                study_name=bench.study.study_name,
                storage=bench.study._storage,
                sampler=bench.study.sampler,
            )
            self._places: dict[str, str] = {}
            self._chains: dict[str, Any] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | str:
            if not bench.queue():
                return Searcher.FINISHED  # type: ignore[no-any-return]
            chain, trial = super().suggest(trial_id)["chain"], self._ot_trials[trial_id]
            while (same := bench.repeated(trial)) is not None:
                trial.set_user_attr("variant", same.user_attrs["variant"])
                self._ot_study.tell(self._ot_trials.pop(trial_id), same.values)
                chain, trial = super().suggest(trial_id)["chain"], self._ot_trials[trial_id]
            self._chains[trial_id] = chain
            busy = set(self._places.values())
            self._places[trial_id] = next(n for n in nodes if n not in busy)
            known = {key: asdict(made) for key, made in bench.known().items()}
            task = {"number": trial.number, "chain": chain, "known": known}
            return {"task": json.dumps(task), "node": self._places[trial_id]}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            trial, chain = self._ot_trials[trial_id], self._chains.pop(trial_id)
            del self._places[trial_id]
            reported = result or {}
            values = None
            if "outcome" in reported:
                outcome = _outcome(reported["outcome"])
                bench.record(trial, chain, outcome)
                values = dict(zip(OBJECTIVES, outcome.values, strict=True)) if outcome.values else None
            else:
                trial.set_user_attr("error", reported.get("error", "the search ended, or its node was lost"))
            super().on_trial_complete(trial_id, values, error="outcome" not in reported)
            bench.report(0.0)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the study is on disk."""

        def __reduce__(self) -> Any:
            return _not_restored, ()  # what Tune keeps of an experiment is not what a search is resumed from

        def __deepcopy__(self, memo: Any) -> Any:
            return self

    return OnStudy()


def _not_restored() -> None:
    raise BuildError("a search is resumed from its study: run `trimtab search` again")


def _outcome(text: str) -> Outcome:
    found = json.loads(text)
    values = tuple(found["values"]) if found["values"] else None
    return Outcome(values, found["variant"], Made(**found["made"]) if found["made"] else None)
