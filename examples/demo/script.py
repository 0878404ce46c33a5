"""The turns of the demo: steady traffic, memory pressure and its end, latency pressure and its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from examples.demo import measure
from examples.demo.measure import PROOF_SECONDS
from examples.demo.processes import DemoFailed, Neighbour
from examples.demo.record import Bounds, ModelFacts, Moment, Phase
from examples.demo.stage import Stage

#: Requests per second to each model when nothing is being tried.
STEADY_RATE = 7.0
STEADY_SECONDS = 20.0
#: Between two turns: the traffic as it was, with everything restored.
REST_SECONDS = 8.0

#: How fast the neighbour takes memory, bytes per second.
NEIGHBOUR_RATE = 1200e6
#: Share of what degrading every model would free that the neighbour makes necessary.
NECESSARY = 0.6
#: The most of it that may be needed to get below the threshold at all.
MOST_NECESSARY = 0.85
#: The neighbour goes past the threshold by this share of it, and never closer to the limit than the other.
PAST_ENTER = 1.015
BELOW_LIMIT = 0.985

#: The first rate of the latency turn, as a share of what one request at a time would allow ...
FIRST_SHARE = 0.5
#: ... then the rate rises by one of these factors: the second near the objective, so as not to fall far behind ...
FAR_FACTOR, NEAR_FACTOR = 1.3, 1.12
NEAR_RATIO = 0.4
STEP_SECONDS = 3.0
#: ... up to this, requests per second.
MOST_RATE = 600.0

#: The p99 that clients see has this long to come back inside the objective, once the controller sees it there.
PROVE_SECONDS = 45.0
ENTER_SECONDS = 60.0
RELIEF_SECONDS = 45.0
RESTORE_SECONDS = 120.0


def neighbour_size(moment: Moment, budget: str, bounds: Bounds, models: Mapping[str, ModelFacts]) -> int:
    """Bytes a neighbour must take to enter the budget's trigger, such that degrading models can relieve it.

    Raises DemoFailed when there is no such size: pressure is there already, or the models have too little to give.
    """
    gauge = moment.gauges.get(budget)
    if gauge is None or gauge.usage is None or gauge.limit is None:
        raise DemoFailed(f"budget {budget} has no reading")
    can_free = sum(freeable(models[m], variant) for m, variant in moment.variants.items() if m in models)
    enter, leave = gauge.limit * bounds.enter, gauge.limit * bounds.exit
    wanted = min(max(enter * PAST_ENTER, leave + NECESSARY * can_free), gauge.limit * BELOW_LIMIT)
    if wanted - MOST_NECESSARY * can_free >= enter:
        raise DemoFailed(
            f"degrading every model to its floor frees {can_free / 2**20:.0f} MiB, too little to relieve {budget}: "
            f"{(wanted - enter) / 2**20:.0f} MiB past its threshold is where the neighbour must go"
        )
    if gauge.usage >= leave:
        raise DemoFailed(
            f"{budget} is at {gauge.usage / 2**20:.0f} MiB before any neighbour came; below {leave / 2**20:.0f} MiB "
            f"(exit {bounds.exit} of its limit) is where the demo starts from: raise the limit in its configuration"
        )
    return int(wanted - gauge.usage)


def freeable(model: ModelFacts, variant: str | None) -> int:
    """Bytes that degrading a model as far as its floor allows would free, by its profiles."""
    running = next((r.resident_bytes for r in model.rungs if r.variant == variant), 0)
    allowed = [r.resident_bytes for r in model.rungs if r.quality >= model.floor]
    return max(0, running - min(allowed, default=running))


class Script:
    """Plays the turns on a stage. Each raises DemoFailed when it does not happen in time; its phase is noted anyway."""

    def __init__(self, stage: Stage, models: Mapping[str, ModelFacts], bounds: Mapping[str, Bounds], out: Path) -> None:
        self._stage = stage
        self._models = models
        self._bounds = bounds
        self._out = out

    def steady(self) -> None:
        """Every model answers at its steady rate."""
        stage = self._stage
        stage.say(f"steady traffic: {STEADY_RATE:g} requests/s to each of {len(self._models)} models")
        stage.traffic.set_rates(dict.fromkeys(self._models, STEADY_RATE))
        stage.rest(STEADY_SECONDS)
        stage.wait("every trigger calm and every model on top under steady traffic", self._at_rest, RESTORE_SECONDS)

    def memory(self, budget: str, pid_file: Path) -> None:
        """A neighbour takes memory until the budget's trigger enters, or is foreseen to, and models degrade; it leaves, and they
        come back."""
        stage = self._stage
        phase = _Marks(stage, "memory", "memory", budget)
        try:
            size = neighbour_size(stage.now, budget, self._bounds[budget], self._models)
            stage.say(f"a neighbour takes {size / 2**20:.0f} MiB")
            phase.pressed = time.time()
            neighbour = Neighbour(size, NEIGHBOUR_RATE, pid_file, self._out / "neighbour.log")
            stage.neighbour, stage.held = neighbour, neighbour.held
            stage.wait("the neighbour has its memory", lambda: neighbour.bytes >= size, 60.0)
            stage.wait(f"{budget} enters its trigger", lambda: self._answered(phase), ENTER_SECONDS)
            if self._state(budget) == "calm":
                stage.say(f"trimtab has degraded before {budget} came under pressure")
            else:
                stage.say(f"{budget} is under pressure: trimtab degrades")
            stage.wait("models degrade and the pressure falls", lambda: self._relieved(phase), RELIEF_SECONDS)
            stage.say("memory came back: below the threshold with the neighbour still there")
            stage.rest(PROOF_SECONDS)
            stage.say("the neighbour leaves")
            self._dismiss()
            phase.eased = time.time()
            self._restored(phase)
            stage.rest(REST_SECONDS)
        finally:
            self._dismiss()
            phase.close()

    def latency(self, model: str) -> None:
        """One model's rate rises until its p99 leaves its objective, or is foreseen to, and models degrade (whichever cost
        least); the load falls, and they come back."""
        stage, trigger = self._stage, f"slo:{model}"
        stage.wait("every trigger calm and every model on top", self._at_rest, RESTORE_SECONDS)
        phase = _Marks(stage, "latency", "latency", trigger)
        try:
            phase.pressed = time.time()
            self._climb(phase, model)
            at = f"at {stage.traffic.rates[model]:.0f} requests/s"
            if self._state(trigger) == "calm":
                stage.say(f"trimtab has degraded {at}, before {model}'s p99 leaves its objective")
            else:
                stage.say(f"{model}'s p99 has left its objective {at}")
            stage.wait(f"models degrade and {model}'s p99 returns", lambda: self._relieved(phase), RELIEF_SECONDS)
            stage.say(f"{model} is fast enough again, at the same rate")
            stage.rest(PROOF_SECONDS)
            proof = time.monotonic() + PROVE_SECONDS
            stage.wait("proof", lambda: self._proven(model) or time.monotonic() > proof, PROVE_SECONDS + 60.0)
            stage.say(f"the load falls back to {STEADY_RATE:g} requests/s")
            stage.traffic.set_rates({model: STEADY_RATE})
            phase.eased = time.time()
            self._restored(phase)
            stage.rest(REST_SECONDS)
        finally:
            if stage.traffic.process.poll() is None:
                stage.traffic.set_rates({model: STEADY_RATE})
            phase.close()

    def _climb(self, phase: _Marks, model: str) -> None:
        """Raise the rate in steps until the trigger enters, or something has been degraded ahead of it; while the pressure is
        past the threshold, hold it."""
        stage, trigger = self._stage, phase.trigger
        rate = max(STEADY_RATE * 2, FIRST_SHARE * self._capacity(model))
        while not self._answered(phase):
            if rate > MOST_RATE:
                raise DemoFailed(f"{model} keeps its objective even at {MOST_RATE:.0f} requests/s ({stage.summary()})")
            stage.say(f"{rate:.0f} requests/s to {model}")
            stage.traffic.set_rates({model: rate})
            end = time.monotonic() + STEP_SECONDS
            # Bound to this turn's values: the step lasts its time, and as long as the threshold is exceeded.
            stage.wait(
                f"{trigger} enters or falls below its threshold",
                lambda end=end: self._answered(phase) or (time.monotonic() >= end and self._below(trigger)),  # type: ignore[misc]
                ENTER_SECONDS,
            )
            ratio = self._ratio(trigger)
            rate *= FAR_FACTOR if ratio is None or ratio < NEAR_RATIO else NEAR_FACTOR

    def _capacity(self, model: str) -> float:
        """Requests per second that the model's variant would answer one at a time, by its profile."""
        ladder = self._stage.watch.status["models"][model]["ladder"]
        running = self._stage.now.variants.get(model)
        seconds = next((r["p50_seconds"] for r in ladder if r["variant"] == running), None)
        return 1.0 / seconds if seconds else 0.0

    def _state(self, trigger: str) -> str:
        return self._stage.now.gauges[trigger].state

    def _ratio(self, trigger: str) -> float | None:
        return self._stage.now.gauges[trigger].ratio

    def _below(self, trigger: str) -> bool:
        ratio = self._ratio(trigger)
        return ratio is not None and ratio < self._bounds[trigger].enter

    def _calm(self) -> bool:
        return all(g.state == "calm" and g.ratio is not None for g in self._stage.now.gauges.values())

    def _at_rest(self) -> bool:
        now = self._stage.now
        on_top = all(self._models[m].rung(variant) == 0 for m, variant in now.variants.items() if m in self._models)
        return self._calm() and on_top and not now.swapping

    def _answered(self, phase: _Marks) -> bool:
        """The trigger was entered, or what would relieve it has been done ahead of it."""
        return self._state(phase.trigger) != "calm" or measure.ahead(self._stage.now, phase.so_far())

    def _relieved(self, phase: _Marks) -> bool:
        return measure.ahead(self._stage.now, phase.so_far()) and self._below(phase.trigger)

    def _proven(self, model: str) -> bool:
        """Whether clients have seen the objective kept for long enough."""
        seen = measure.p99([a.seconds for a in self._stage.traffic.recent(PROOF_SECONDS, model)])
        objective = self._models[model].slo_seconds
        return seen is not None and (objective is None or seen <= objective)

    def _restored(self, phase: _Marks) -> None:
        stage = self._stage
        stage.wait(
            "every model is restored",
            lambda: stage.now.variants == phase.variants and not stage.now.swapping and self._calm(),
            RESTORE_SECONDS,
        )
        stage.say("everything is restored")

    def _dismiss(self) -> None:
        if self._stage.neighbour is not None:
            self._stage.neighbour.leave()
            self._stage.neighbour = None


class _Marks:
    """A phase as it goes on, `so_far`; `close` notes it on the stage."""

    def __init__(self, stage: Stage, name: str, kind: Literal["memory", "latency"], trigger: str) -> None:
        self.stage, self.name, self.trigger = stage, name, trigger
        self.kind: Literal["memory", "latency"] = kind
        self.started = self.pressed = time.time()
        self.eased: float | None = None
        self.variants = dict(stage.now.variants)

    def close(self) -> None:
        self.stage.phases.append(self.so_far())

    def so_far(self) -> Phase:
        return Phase(
            name=self.name,
            kind=self.kind,
            trigger=self.trigger,
            started=self.started,
            pressed=self.pressed,
            eased=self.eased,
            ended=time.time(),
            variants=self.variants,
        )
