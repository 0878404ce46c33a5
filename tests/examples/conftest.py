"""A recording of a made-up run: two models, a memory phase and a latency phase, everything as it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from budgets.plan import Decision, Plan, Swap
from budgets.snapshot import SwapRecord
from examples.demo.record import Answer, Bounds, Gauge, ModelFacts, Moment, Phase, Recording, Rung

MIB = 2**20
T0 = 1_000_000.0
TOP = {"big": "fp32", "small": "fp32"}
LOW = {"big": "int8", "small": "fp32"}


def _facts(weight: float, slo: float | None) -> ModelFacts:
    rungs = (
        Rung(variant="fp32", quality=0.9, resident_bytes=200 * MIB),
        Rung(variant="int8", quality=0.8, resident_bytes=80 * MIB),
    )
    return ModelFacts(weight=weight, floor=0.5, slo_seconds=slo, rungs=rungs)


def _moment(second: float, ram: float, slo: float, variants: dict[str, str], causes: dict[str, str]) -> Moment:
    def gauge(ratio: float, limit: float, enter: float) -> Gauge:
        state = "scaling" if ratio >= enter else "calm"
        return Gauge(ratio=ratio, usage=ratio * limit, limit=limit, state=state)  # type: ignore[arg-type]

    gauges = {"ram": gauge(ram, 1000 * MIB, 0.9), "slo:big": gauge(slo, 0.1, 1.0)}
    return Moment(at=T0 + second, gauges=gauges, variants=dict(variants), causes=causes)


def _swap(at: float, generation: int, direction: Any, measured: int, trigger: str) -> Iterator[Decision]:
    """A plan of one swap of `big`, and the decision that reports its outcome a second later."""
    before, after = ("fp32", "int8") if direction == "degrade" else ("int8", "fp32")
    swap = Swap(
        model="big",
        from_variant=before,
        to_variant=after,
        direction=direction,
        mode="make_before_break",
        bytes_planned=120 * MIB,
        quality_from=0.9,
        quality_to=0.8,
        trigger=trigger,
        reason="a reason",
    )
    record = SwapRecord(
        generation=generation,
        model="big",
        from_variant=before,
        to_variant=after,
        mode="break_before_make",
        started=T0 + at + 0.1,
        seconds=0.5,
        bytes_measured=measured,
        outcome="done",
    )
    plan = Plan(generation=generation, assignment={"big": after, "small": "fp32"})
    yield Decision(at=T0 + at, snapshot=None, plan=plan.model_copy(update={"swaps": (swap,)}))
    yield Decision(at=T0 + at + 1, snapshot=None, plan=plan, outcomes=(record,))


@pytest.fixture
def recording() -> Recording:
    moments = []
    for step in range(200):
        second = step / 2
        ram = 0.95 if 20 <= second < 24 else 0.88 if 24 <= second < 35 else 0.6
        slo = 3.0 if 60 <= second < 66 else 0.5
        causes = {"big": "ram"} if 22 <= second < 40 else {"big": "slo:big"} if 63 <= second < 80 else {}
        moments.append(_moment(second, ram, slo, LOW if causes else TOP, causes))
    answers = []
    for number in range(4000):
        second = number / 40
        late = 0.3 if 59 <= second < 66 else 0.02
        answers.append(
            Answer(T0 + second, "big" if number % 2 else "small", late, "fp32", "http" if number % 4 < 2 else "grpc")
        )
    decisions = (
        *_swap(21.0, 2, "degrade", 110 * MIB, "ram"),
        *_swap(39.0, 3, "restore", 115 * MIB, "ram"),
        *_swap(62.0, 4, "degrade", 100 * MIB, "slo:big"),
        *_swap(79.0, 5, "restore", 105 * MIB, "slo:big"),
    )
    return Recording(
        started=T0,
        ended=T0 + 100,
        models={"big": _facts(3.0, 0.1), "small": _facts(1.0, None)},
        bounds={"ram": Bounds(enter=0.9, exit=0.8), "slo:big": Bounds(enter=1.0, exit=0.7)},
        sent=4000,
        answers=tuple(answers),
        failures=(),
        moments=tuple(moments),
        neighbour=((T0 + 15, 0), (T0 + 18, 400 * MIB), (T0 + 35, 0)),
        phases=(
            _phase("memory", "ram", 15, 15, 35, 50),
            _phase("latency", "slo:big", 52, 53, 72, 95),
        ),
        decisions=decisions,
    )


def _phase(name: Any, trigger: str, started: float, pressed: float, eased: float, ended: float) -> Phase:
    times = {"started": started, "pressed": pressed, "eased": eased, "ended": ended}
    return Phase(name=name, kind=name, trigger=trigger, variants=TOP, **{k: T0 + v for k, v in times.items()})


@pytest.fixture
def change(recording: Recording) -> Callable[..., Recording]:
    """The recording with some of its fields replaced."""
    return lambda **fields: recording.model_copy(update=fields)
