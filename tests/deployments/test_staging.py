"""The controller over two real hosts in this process: one goes first, and what does not hold there goes no further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from budgets.config import Budget, BudgetsConfig, ControllerConfig
from budgets.controller import Controller
from budgets.journal import FileJournal
from budgets.snapshot import Missing, ModelReadings, Reading, Readings, Usage
from deployments.api import Assignment
from deployments.config import HostConfig, ShadowConfig

MB = 1_000_000
CONFIG = BudgetsConfig(
    controller=ControllerConfig(
        tick_seconds=0.1, window_seconds=1, cooldown_seconds=0, stage_seconds=2, verify_seconds=4, peak_seconds=0
    ),
    budgets=(Budget(name="ram", resource="ram", scope="trimtab", limit=2000 * MB, enter_seconds=0),),
)


class Pair:
    """Two hosts, their requests, and a controller over them. `now` is the controller's clock; one tick is a second."""

    def __init__(self, labs: list[Any], path: Any, x: Any) -> None:
        self.labs, self.x = labs, x
        self.hosts: list[Any] = []
        self.neighbour = 0
        self.now = 1000.0
        self.failures: list[BaseException] = []
        self.answers: list[set[str]] = [set(), set()]
        self.wrong = 0
        self.path = path

    async def start(self) -> None:
        for index, lab in enumerate(self.labs):
            shadow = ShadowConfig(per_second=1e6)
            lab.registry = CollectorRegistry()
            host = lab.build(HostConfig(threads=1, shadow=shadow), host_id=f"h{index}", a={}, b={})
            await host.start(Assignment(1, {"a": "best", "b": "best"}))
            self.hosts.append(host)
        self.controller = Controller(
            CONFIG, self.hosts[0].catalog, self, self, FileJournal(self.path / "journal.jsonl")
        )

    async def observe(self) -> tuple[Any, ...]:
        return tuple(host.observe() for host in self.hosts)

    async def apply(self, plan: Any) -> None:
        for host in self.hosts:
            host.apply(Assignment(plan.generation, plan.assignment, plan.modes, plan.staged))

    async def read(self, now: float, hosts: Any) -> Readings:
        none, idle = Missing(reason="no traffic"), Reading(value=0.0, at=now)
        usage = self.neighbour + sum(lab.memory.used() for lab in self.labs)
        budget = Usage(budget="ram", usage=Reading(value=usage, at=now), limit=Reading(value=2000.0 * MB, at=now))
        models = tuple(
            ModelReadings(model=m, rate=idle, latency=none, queue=idle, busy=idle, service=none) for m in "ab"
        )
        return Readings(at=now, budgets=(budget,), models=models)

    async def aclose(self) -> None:
        pass

    async def request(self, model: str) -> None:
        for index, host in enumerate(self.hosts):
            try:
                answer = await host.infer(model, self.x())
            except Exception as error:
                self.failures.append(error)
            else:
                self.wrong += float(answer.outputs["y"].max()) > 2.0
                if model == "a":
                    self.answers[index].add(answer.variant)

    async def ticks(self, count: int) -> list[Any]:
        made = []
        for _ in range(count):
            await asyncio.gather(*(self.request(m) for m in "aabb"))
            self.now += 1.0
            made.append(await self.controller.tick(self.now))
            while any(h.observe().observed_generation < made[-1].plan.generation for h in self.hosts):
                await self.request("a")
        assert [d.error for d in made if d.error] == []
        return made


@pytest.fixture
async def pair(lab: Any, tmp_path: Any, x: Any) -> AsyncIterator[Pair]:
    other = type(lab)(tmp_path)
    made = Pair([lab, other], tmp_path, x)
    await made.start()
    yield made
    for one in (lab, other):
        await one.host.stop()


async def test_one_host_goes_first_and_the_other_follows(pair: Pair) -> None:
    pair.controller.orders.pin("a", "mid")
    (first,) = [d for d in await pair.ticks(3) if d.plan.swaps]
    assert [s.stage for s in first.plan.swaps] == ["first"]
    assert [h.observe().variants["a"] for h in pair.hosts] == ["mid", "best"]
    made = await pair.ticks(8)
    assert [h.observe().variants["a"] for h in pair.hosts] == ["mid", "mid"]
    assert [(v.result, v.model) for d in made for v in d.verdicts] == [("promoted", "a"), ("kept", "a")]
    assert (pair.failures, pair.wrong) == ([], 0)


async def test_a_variant_that_answers_otherwise_stays_on_the_first_host_for_no_request(pair: Pair) -> None:
    for lab in pair.labs:
        lab.bias.update({"mid": 5.0})
    await pair.ticks(2)
    pair.controller.orders.pin("a", "mid")
    made = await pair.ticks(10)
    assert [h.observe().variants["a"] for h in pair.hosts] == ["best", "best"]
    assert pair.answers == [{"best"}, {"best"}]
    assert ("a", "mid") not in pair.labs[1].loads, "the other host never loaded it"
    (bad,) = made[-1].memory.quarantined
    assert (bad.variant, bad.until) == ("mid", None)
    assert "apart on" in bad.reason
    assert (pair.failures, pair.wrong) == ([], 0)
    pair.neighbour = 560 * MB
    made = await pair.ticks(20)
    assert "mid" not in {h.observe().variants["a"] for h in pair.hosts}, "relief finds another way"


async def test_a_variant_that_fails_requests_is_taken_back(pair: Pair) -> None:
    """It computes the sample rightly, and then fails on what the sample did not hold."""
    await pair.ticks(2)
    pair.controller.orders.pin("a", "mid")
    await pair.ticks(1)
    bad = {"x": pair.x()["x"] * 0 + 666.0}
    for _ in range(4):
        with pytest.raises(Exception, match="poison"):
            await pair.hosts[0].infer("a", bad)
    made = await pair.ticks(4)
    verdicts = [v for d in made for v in d.verdicts]
    assert [(v.result, v.to_variant) for v in verdicts] == [("rolled_back", "mid")]
    assert "errors: 4 of" in verdicts[0].reason
    assert [h.observe().variants["a"] for h in pair.hosts] == ["best", "best"]


async def test_pins_back_and_forth(pair: Pair) -> None:
    for variant in ("mid", "best", "cheap", "best"):
        pair.controller.orders.pin("a", variant)
        await pair.ticks(6)
        assert [h.observe().variants["a"] for h in pair.hosts] == [variant, variant]
    assert (pair.failures, pair.wrong) == ([], 0)
