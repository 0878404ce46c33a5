from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.demo.live import line, render
from examples.demo.processes import DemoFailed
from examples.demo.record import Answer, Bounds, Gauge, ModelFacts, Moment, Recording, Rung, moment
from examples.demo.script import Script, _Marks, freeable, neighbour_size
from examples.demo.stage import Stage

MIB = 2**20
LIMIT = 3000 * MIB
BOUNDS = Bounds(enter=0.9, exit=0.85)
MODEL = ModelFacts(
    weight=1.0,
    floor=0.5,
    slo_seconds=0.1,
    rungs=(
        Rung(variant="fp32", quality=0.9, resident_bytes=400 * MIB),
        Rung(variant="int8", quality=0.8, resident_bytes=150 * MIB),
        Rung(variant="tiny", quality=0.4, resident_bytes=10 * MIB),
    ),
)


def now(usage: float, **variants: str) -> Moment:
    gauge = Gauge(ratio=usage / LIMIT, usage=usage, limit=LIMIT, state="calm")
    return Moment(at=1.0, gauges={"ram": gauge}, variants=variants)


def test_freeable_stops_at_the_floor() -> None:
    assert freeable(MODEL, "fp32") == 250 * MIB
    assert freeable(MODEL, "int8") == 0
    assert freeable(MODEL, None) == 0


def test_a_neighbour_enters_the_trigger_and_can_be_made_up_for() -> None:
    usage = 1600 * MIB
    models = {"a": MODEL, "b": MODEL}
    size = neighbour_size(now(usage, a="fp32", b="fp32"), "ram", BOUNDS, models)
    after = usage + size
    assert 0.9 * LIMIT < after < LIMIT
    assert after - 500 * MIB < 0.9 * LIMIT


def test_more_to_free_means_more_pressure_but_never_beyond_the_limit() -> None:
    models = dict.fromkeys("abcdefgh", MODEL)
    usage = 1600 * MIB
    sizes = [
        neighbour_size(now(usage, **dict.fromkeys("abcdefgh"[:n], "fp32")), "ram", BOUNDS, models) for n in range(1, 9)
    ]
    assert sizes == sorted(sizes)
    assert usage + sizes[-1] < LIMIT


def test_models_with_too_little_to_give_are_named() -> None:
    with pytest.raises(DemoFailed, match="frees 0 MiB, too little to relieve ram"):
        neighbour_size(now(1600 * MIB, a="int8"), "ram", BOUNDS, {"a": MODEL})


def test_a_budget_that_is_full_already_is_named() -> None:
    with pytest.raises(DemoFailed, match="before any neighbour came"):
        neighbour_size(now(2600 * MIB, a="fp32"), "ram", BOUNDS, {"a": MODEL})


def test_a_budget_without_a_reading_is_named() -> None:
    missing = Moment(at=1.0, gauges={}, variants={"a": "fp32"})
    with pytest.raises(DemoFailed, match="ram has no reading"):
        neighbour_size(missing, "ram", BOUNDS, {"a": MODEL})


def test_a_status_becomes_a_moment() -> None:
    status: dict[str, Any] = {
        "at": 5.0,
        "budgets": [{"name": "ram", "ratio": None, "usage": None, "limit": 7.0, "state": "scaling", "slope": 0.0}],
        "hosts": [{"variants": {"a": "fp32", "b": None}, "swapping": ["b"]}],
        "models": {"a": {"cause": None}, "b": {"cause": "ram"}},
    }
    made = moment(status)
    assert made is not None
    assert made.variants == {"a": "fp32", "b": None}
    assert made.swapping == ("b",)
    assert made.causes == {"b": "ram"}
    assert made.gauges["ram"] == Gauge(ratio=None, usage=None, limit=7.0, state="scaling")
    assert moment({**status, "hosts": []}) is None
    assert moment({**status, "at": None}) is None


class Nothing:
    """A process that is always fine."""

    def check(self) -> None:
        return


class Sent(Nothing):
    sent = 12
    failures: tuple[object, ...] = ()

    def recent(self, seconds: float, model: str | None = None) -> list[Answer]:
        return [Answer(0.0, "big", 0.25, "int8", "http")]


class Seen(Nothing):
    def __init__(self, moments: list[Moment]) -> None:
        self.moments = moments
        self.status = {"holds": [{"model": "big", "reason": "cooldown: 3 s left"}]}


@pytest.fixture
def stage(recording: Recording) -> Stage:
    nothing: Any = Nothing()
    traffic: Any = Sent()
    watch: Any = Seen([m for m in recording.moments if m.at < recording.started + 25])
    return Stage(nothing, traffic, watch, lambda stage: None, recording.started)


def test_waiting_has_a_limit_and_says_where_things_stand(stage: Stage) -> None:
    assert stage.wait("it is so", lambda: True, 0.0) > 0
    with pytest.raises(
        DemoFailed, match=r"models are restored: not within 0 s \(ram calm at 0\.88.*cooldown: 3 s left"
    ):
        stage.wait("models are restored", lambda: False, 0.0)


def test_waiting_ends_when_a_process_does(stage: Stage) -> None:
    def gone() -> None:
        raise DemoFailed("the server ended with 1")

    stage.server.check = gone  # type: ignore[method-assign]
    with pytest.raises(DemoFailed, match="the server ended"):
        stage.wait("models are restored", lambda: False, 60.0)


def test_the_live_view_shows_what_is(stage: Stage, recording: Recording) -> None:
    stage.say("something is tried")
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render(stage, recording.models, recording.bounds))
    text = console.export_text()
    console.file.close()
    assert "something is tried" in text
    assert "0.86 of 0.98 GiB" in text
    assert "12 requests sent, 0 failed" in text
    assert "int8" in text
    assert "250 ms" in text
    assert "degraded: big=int8" in line(stage, recording.models)


class Played:
    """A stage on which each step of the load shows what comes of it: rate -> the moment that is seen."""

    def __init__(self, seen: dict[str, Moment]) -> None:
        self.now, self._seen = seen["start"], seen
        self.phases: list[Any] = []
        self.said: list[str] = []
        self.rates: dict[str, float] = {}
        self.traffic = self
        self.watch = Seen([])
        self.watch.status = {"models": {"big": {"ladder": [{"variant": "fp32", "p50_seconds": 0.05}]}}}

    def set_rates(self, rates: dict[str, float]) -> None:
        self.rates |= rates
        self.now = self._seen.get(f"{rates['big']:.0f}", self.now)

    def say(self, text: str) -> None:
        self.said.append(text)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> float:
        return 0.0


def played(recording: Recording, cause: str) -> list[str]:
    """What is said while the rate climbs; at 18 requests/s something is degraded because of `cause`, at 22 the objective
    is broken."""
    start = recording.moments[0]
    low = start.model_copy(update={"variants": {**start.variants, "small": "int8"}, "causes": {"small": cause}})
    late = Gauge(ratio=2.0, usage=0.2, limit=0.1, state="scaling")
    seen = {"start": start, "18": low, "22": low.model_copy(update={"gauges": {**low.gauges, "slo:big": late}})}
    stage: Any = Played(seen)
    script = Script(stage, recording.models, recording.bounds, Path())
    script._climb(_Marks(stage, "latency", "latency", "slo:big"), "big")
    return stage.said


def test_the_load_climbs_until_something_is_degraded_for_its_objective(recording: Recording) -> None:
    assert played(recording, "slo:big") == ["14 requests/s to big", "16 requests/s to big", "18 requests/s to big"]


def test_what_is_degraded_for_another_reason_does_not_end_the_climb(recording: Recording) -> None:
    assert played(recording, "ram")[-1] == "22 requests/s to big"
