"""Ticks with everything around them faked: what goes wrong, what is written down, what is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from budgets.batches import serving
from budgets.config import Budget, BudgetsConfig, ControllerConfig, ModelPolicy, Slo
from budgets.controller import HEARTBEAT_SECONDS, Controller
from budgets.journal import FileJournal, records
from budgets.metrics import ControllerMetrics
from budgets.plan import Plan
from budgets.snapshot import HostState, Missing, ModelReadings, Reading, Readings, Serving, SwapRecord, Usage
from variants.catalog import Catalog
from variants.errors import InvalidInput, UnknownModel
from variants.pareto import on_device

MIB = 2**20


class Fake:
    """Source and actuator. Hosts follow a plan on the next look unless told otherwise; each fault is raised once."""

    def __init__(self, catalog: Catalog, config: BudgetsConfig, hosts: int = 1) -> None:
        self.config = config
        best: dict[str, str | None] = {n: e.ladder.rungs[0] for n, e in catalog.entries.items()}
        self.running = [dict(best) for _ in range(hosts)]
        self.records: list[list[SwapRecord]] = [[] for _ in range(hosts)]
        self.generation = 3
        self.sizes = {
            (n, v.name): v.profiles[0].resident_bytes / MIB
            for n, e in catalog.entries.items()
            for v in e.variants.values()
        }
        self.best = best
        self.usage: float | None = 600.0  # MiB if every model ran its best rung
        self.lag, self.lag_since, self.seen = 0.0, 0.0, 0.0  # seconds between measurements; the last one
        self.read_fault: Exception | None = None
        self.observe_fault: Exception | None = None
        self.apply_fault: Exception | None = None
        self.lost_answer = False
        self.fails_on: dict[int, tuple[str, str]] = {}
        self.applied: list[Plan] = []
        self.clock = 0.0
        self.device = catalog.device
        self.serving = serving(catalog, config, best)

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        self.clock = now
        if self.read_fault:
            fault, self.read_fault = self.read_fault, None
            raise fault
        used: Reading | Missing = Missing(reason="endpoint down")
        if self.usage is not None:
            given = sum(
                self.sizes[(m, str(self.best[m]))] - self.sizes[(m, str(v))] for r in self.running for m, v in r.items()
            )
            if not self.lag or now - self.lag_since >= self.lag:
                self.lag_since, self.seen = now, self.usage - given
            used = Reading(value=self.seen * MIB, at=self.lag_since)
        none = Missing(reason="no traffic")
        idle = Reading(value=0.0, at=now)
        budgets = tuple(
            Usage(budget=b.name, usage=used, limit=Reading(value=1000 * MIB, at=now)) for b in self.config.budgets
        )
        models = tuple(
            ModelReadings(model=m, rate=idle, latency=none, queue=idle, busy=idle, service=none)
            for m in self.running[0]
        )
        return Readings(at=now, budgets=budgets, models=models)

    async def aclose(self) -> None:
        pass

    async def observe(self) -> tuple[HostState, ...]:
        if self.observe_fault:
            fault, self.observe_fault = self.observe_fault, None
            raise fault
        return tuple(
            HostState(
                host=f"h{i}",
                pid=i,
                at=self.clock,
                observed_generation=self.generation,
                variants=dict(running),
                swaps=tuple(self.records[i]),
                device=self.device,
                serving=self.serving,
            )
            for i, running in enumerate(self.running)
        )

    async def apply(self, plan: Plan) -> None:
        if self.apply_fault:
            fault, self.apply_fault = self.apply_fault, None
            raise fault
        assert plan.generation > self.generation
        self.applied.append(plan)
        self.generation = plan.generation
        self.serving = {**self.serving, **plan.serving}
        for i, running in enumerate(self.running):
            for model, assigned in plan.assignment.items():
                trial = plan.staged.get(model)
                variant = trial.variant if trial and f"h{i}" in trial.hosts else assigned
                if running[model] == variant:
                    continue
                failed = self.fails_on.get(i) == (model, variant)
                self.records[i].append(
                    SwapRecord(
                        generation=plan.generation,
                        model=model,
                        from_variant=running[model],
                        to_variant=variant,
                        mode="make_before_break",
                        started=self.clock + 0.1,
                        seconds=0.2,
                        bytes_measured=0 if failed else MIB,
                        outcome="rolled_back" if failed else "done",
                        reason="canary" if failed else "",
                    )
                )
                if not failed:
                    running[model] = variant
        if self.lost_answer:
            self.lost_answer = False
            raise TimeoutError("no answer")


RAM = Budget(name="ram", resource="ram", scope="trimtab", limit=1000 * MIB, enter_seconds=1, exit_seconds=3)
CONFIG = BudgetsConfig(
    controller=ControllerConfig(cooldown_seconds=2, window_seconds=2, peak_seconds=2),
    budgets=(RAM,),
    models={"a": ModelPolicy(slo=Slo(latency_seconds=0.1))},
)


class Rig:
    """A controller, its fake world and its journal on disk."""

    def __init__(self, catalog: Catalog, path: Path, hosts: int = 1) -> None:
        self.catalog, self.path = catalog, path
        self.fake = Fake(catalog, CONFIG, hosts)
        self.registry = CollectorRegistry()
        self.now = 100.0
        self.restart()

    def restart(self) -> None:
        self.registry = CollectorRegistry()
        metrics = ControllerMetrics(self.registry, CONFIG)
        self.controller = Controller(CONFIG, self.catalog, self.fake, self.fake, FileJournal(self.path), metrics)

    async def ticks(self, count: int) -> list[Any]:
        made = []
        for _ in range(count):
            self.now += 1.0
            made.append(await self.controller.tick(self.now))
        return made

    @property
    def lines(self) -> list[Any]:
        return list(records(self.path))


RigOf = Callable[..., Rig]


@pytest.fixture
def rig(three: Catalog, tmp_path: Path) -> RigOf:
    """A rig over the catalog `three`."""
    return lambda hosts=1: Rig(three, tmp_path / "journal.jsonl", hosts)


async def test_what_the_world_raises_becomes_the_decisions_error(rig: RigOf) -> None:
    r = rig()
    await r.ticks(2)
    r.fake.read_fault = OSError("connection refused")
    (bad,) = await r.ticks(1)
    assert bad.error == "OSError: connection refused"
    assert (bad.plan.generation, bad.plan.assignment) == (3, r.fake.running[0])
    r.fake.observe_fault = TimeoutError("no host")
    (bad,) = await r.ticks(1)
    assert bad.error == "TimeoutError: no host"
    (good,) = await r.ticks(1)
    assert good.error == ""
    assert [d.error for d in r.lines if d.error] == ["OSError: connection refused", "TimeoutError: no host"]
    assert r.registry.get_sample_value("trimtab_ticks_total", {"outcome": "error"}) == 2


async def test_the_profiles_that_count_are_those_of_the_hosts_machine(three: Catalog, tmp_path: Path) -> None:
    elsewhere = on_device(three, "the controller's own machine")
    assert elsewhere.entries["a"].ladder.rungs == three.entries["a"].ladder.rungs  # not measured there: as listed
    blind = Rig(elsewhere, tmp_path / "blind.jsonl")
    blind.fake.usage = 950.0
    await blind.ticks(6)
    assert blind.fake.applied == []
    seeing = Rig(elsewhere, tmp_path / "seeing.jsonl")
    seeing.fake.usage, seeing.fake.device = 950.0, three.device
    await seeing.ticks(6)
    assert seeing.fake.applied != []


async def test_no_hosts_yet(rig: RigOf) -> None:
    r = rig()
    running, r.fake.running = r.fake.running, []
    (made,) = await r.ticks(1)
    assert [h.reason for h in made.plan.holds] == ["no host answers"]
    r.fake.running = running
    assert (await r.ticks(1))[0].plan.assignment == running[0]


async def test_a_plan_that_could_not_be_handed_over_is_made_again(rig: RigOf) -> None:
    r = rig()
    r.fake.usage, r.fake.apply_fault = 930.0, OSError("serve is down")
    made = await r.ticks(4)
    assert [d.error for d in made if d.error] == ["OSError: serve is down"]
    assert [p.generation for p in r.fake.applied] == [4]
    assert len(made[-1].memory.steps) == 1


async def test_a_plan_whose_answer_was_lost_is_taken_over_from_the_hosts(rig: RigOf) -> None:
    r = rig()
    r.fake.usage, r.fake.lost_answer = 930.0, True
    made = await r.ticks(3)
    assert [d.error for d in made if d.error] == ["TimeoutError: no answer"]
    after = (await r.ticks(1))[0]
    assert after.plan.generation == 4
    assert after.plan.assignment == r.fake.running[0]
    r.fake.usage = 600.0
    await r.ticks(20)
    assert set(r.fake.running[0].values()) == {"fp32"}, (
        "what nobody remembers to have degraded is restored all the same"
    )


async def test_a_reading_from_before_a_swap_does_not_justify_the_next(rig: RigOf) -> None:
    """A source that measures every five seconds still shows the pressure that the first plan has relieved."""
    r = rig()
    r.fake.lag = 5.0
    await r.ticks(5)
    r.fake.usage = 930.0
    made = await r.ticks(12)
    assert [len(p.swaps) for p in r.fake.applied] == [1]
    assert any("from before the last swap ended" in h.reason for d in made for h in d.plan.holds)


async def test_a_full_disk_does_not_stop_relief(rig: RigOf, monkeypatch: pytest.MonkeyPatch) -> None:
    r = rig()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileJournal, "append", full)
    r.fake.usage = 930.0
    await r.ticks(4)
    assert len(r.fake.applied) == 1


async def test_the_journal_has_what_happened_and_a_heartbeat(rig: RigOf) -> None:
    r = rig()
    await r.ticks(30)
    assert len(r.lines) == 1, "calm ticks are not written"
    await r.ticks(int(HEARTBEAT_SECONDS))
    assert len(r.lines) == 2
    r.fake.usage = 930.0
    await r.ticks(1)
    (pressed,) = await r.ticks(1)
    assert [s.model for s in pressed.plan.swaps] == [r.lines[-1].plan.swaps[0].model]
    assert r.lines[-1].pressures[0].ratio == pytest.approx(0.93)
    await r.ticks(5)
    outcomes = [o for d in r.lines for o in d.outcomes]
    assert [(o.outcome, o.bytes_measured) for o in outcomes] == [("done", MIB)]
    assert "relieved" in r.lines[-1].plan.holds[0].reason
    held = len(r.lines)
    await r.ticks(5)
    assert len(r.lines) == held, "the same hold is written once"
    r.controller.orders.pin("a", "int8")
    await r.ticks(1)
    assert r.lines[-1].pins == {"a": "int8"}


async def test_a_new_controller_takes_up_where_the_last_one_ended(rig: RigOf) -> None:
    r = rig()
    r.fake.usage = 985.0
    r.controller.orders.pin("c", "fp32")
    await r.ticks(4)
    before = r.lines[-1]
    assert len(before.memory.steps) == 2
    r.restart()
    (first,) = await r.ticks(1)
    assert first.outcomes == (), "outcomes are written down once, even across controllers"
    assert first.memory.steps == before.memory.steps
    assert first.triggers[0].state == "scaling"
    assert first.plan.generation == before.plan.generation
    r.fake.usage = 500.0
    await r.ticks(30)
    assert r.controller.orders.pins == {"c": "fp32"}
    back = [s.model for p in r.fake.applied for s in p.swaps if s.direction == "restore"]
    assert back == [s.model for s in reversed(before.memory.steps)]


async def test_a_lost_journal_is_no_loss_of_service(rig: RigOf) -> None:
    r = rig()
    r.fake.usage = 930.0
    await r.ticks(4)
    r.path.unlink()
    r.restart()
    r.fake.usage = 500.0
    await r.ticks(20)
    assert set(r.fake.running[0].values()) == {"fp32"}
    assert [p.generation for p in r.fake.applied] == [4, 5]


async def test_a_swap_that_fails_on_one_host_is_taken_back_on_the_others(rig: RigOf) -> None:
    r = rig(hosts=2)
    r.fake.usage = 930.0
    probe = rig(hosts=2)
    probe.fake.usage = 930.0
    await probe.ticks(3)
    planned = probe.fake.applied[0].swaps[0]
    probe.path.unlink()
    r.fake.fails_on = {1: (planned.model, str(planned.to_variant))}
    r.restart()
    made = await r.ticks(8)
    assert made[-1].memory.quarantined[0].reason == "canary"
    assert [p.swaps[0].stage for p in r.fake.applied[:2]] == ["first", "rest"]
    repair = r.fake.applied[2].swaps[0]
    assert (repair.direction, repair.model, repair.to_variant) == ("repair", planned.model, "fp32")
    await r.ticks(6)
    assert r.fake.running[0] == r.fake.running[1], "hosts run the same again"
    tried = [p.assignment[planned.model] for p in r.fake.applied[3:]]
    assert planned.to_variant not in tried


async def test_a_missing_pressure_is_not_exposed(rig: RigOf) -> None:
    r = rig()
    await r.ticks(1)
    assert r.registry.get_sample_value("trimtab_pressure", {"budget": "ram"}) == pytest.approx(0.6)
    r.fake.usage = None
    await r.ticks(2)
    assert r.registry.get_sample_value("trimtab_pressure", {"budget": "ram"}) is None
    assert r.registry.get_sample_value("trimtab_trigger_state", {"budget": "ram"}) == 0
    assert r.registry.get_sample_value("trimtab_plan_generation") == 3
    assert r.registry.get_sample_value("trimtab_ticks_total", {"outcome": "steady"}) == 3


@pytest.mark.parametrize(
    ("model", "variant", "error", "names"),
    [("nobody", "int8", UnknownModel, "a, b, c"), ("a", "int4", InvalidInput, "fp32, int8, tiny")],
)
def test_pins_that_cannot_be(rig: RigOf, model: str, variant: str, error: type[Exception], names: str) -> None:
    r = rig()
    with pytest.raises(error, match=names):
        r.controller.orders.pin(model, variant)
    assert r.controller.orders.pins == {}
    with pytest.raises(UnknownModel, match="a, b, c"):
        r.controller.orders.unpin("nobody")
    with pytest.raises(UnknownModel, match="a, b, c"):
        r.controller.answers.explain("nobody")


async def test_status_and_explain_are_json_with_numbers(rig: RigOf) -> None:
    r = rig()
    assert r.controller.answers.status()["error"] == "no tick yet"
    assert r.controller.answers.explain()["lines"] == ["nothing has happened yet"]
    r.fake.usage = 930.0
    await r.ticks(3)
    swapped = r.fake.applied[0].swaps[0].model
    seen = json.loads(json.dumps(r.controller.answers.status()))
    (ram, slo) = seen["budgets"]
    assert (ram["name"], ram["state"], ram["ratio"]) == ("ram", "scaling", pytest.approx(0.8))
    assert (slo["name"], slo["ratio"]) == ("slo:a", 0.0)
    model = seen["models"][swapped]
    assert (model["variant"], model["rung"], model["quality"]) == ("int8", 1, 0.98)
    assert [x["variant"] for x in model["ladder"]] == ["fp32", "int8", "tiny"]
    assert seen["generation"] == 4
    told = "\n".join(json.loads(json.dumps(r.controller.answers.explain(swapped)))["lines"])
    assert "ram: calm -> scaling at 0.93" in told
    assert f"degrade {swapped}: fp32 -> int8 (make before break, 130 MiB, quality 1.0000 -> 0.9800)" in told
    assert f"done {swapped}: fp32 -> int8 in 0.20 s, 1 MiB measured" in told
    assert f"now: {swapped} runs int8" in told
    other = next(m for m in "abc" if m != swapped)
    assert not any("degrade" in line for line in r.controller.answers.explain(other)["lines"])


async def test_the_controller_answers_what_is_asked_and_changes_nothing(rig: RigOf) -> None:
    r = rig()
    r.fake.usage = 930.0
    await r.ticks(3)
    swapped = r.fake.applied[0].swaps[0].model
    before = r.controller.answers.status()
    told = r.controller.answers.why(swapped)
    assert (told["variant"], told["swap"]["direction"]) == ("int8", "degrade")
    assert r.controller.answers.what_if("ram", -300 * MIB)["swaps"]
    (rung,) = r.controller.answers.restore_needs(swapped)["rungs"]
    assert rung["variant"] == "fp32"
    assert "ram is scaling" in r.controller.answers.restore_needs(swapped)["waits_for"]
    assert r.controller.answers.status() == before
    assert len(r.fake.applied) == 1
    for ask in (r.controller.answers.why, r.controller.answers.restore_needs):
        with pytest.raises(UnknownModel, match="a, b, c"):
            ask("nobody")


async def test_a_trial_survives_a_host_that_does_not_answer_for_a_moment(rig: RigOf) -> None:
    """Serve passes over a replica that is just taking a plan: what the other one runs on trial is not the plan."""
    r = rig(hosts=2)
    r.controller.orders.pin("a", "int8")
    await r.ticks(1)
    running, r.fake.running = r.fake.running, r.fake.running[:1]
    made = await r.ticks(5)
    assert all(d.plan.assignment["a"] == "fp32" for d in made)
    assert {h.reason for d in made for h in d.plan.holds} == {"waiting: h1 did not answer"}
    r.fake.running = running
    await r.ticks(8)
    assert [[s.stage for s in p.swaps] for p in r.fake.applied] == [["first"], ["rest"]]
    assert [h["a"] for h in r.fake.running] == ["int8", "int8"]
    r.fake.running = running[:1]
    made = await r.ticks(20)
    assert made[-1].plan.holds == (), "gone for good"


async def test_a_trial_whose_plan_was_lost_is_undone(rig: RigOf) -> None:
    r = rig(hosts=2)
    r.controller.orders.pin("a", "int8")
    r.fake.lost_answer = True
    (bad,) = await r.ticks(1)
    assert bad.error == "TimeoutError: no answer"
    r.controller.orders.unpin("a")
    assert [h["a"] for h in r.fake.running] == ["int8", "fp32"]
    await r.ticks(12)
    assert r.fake.running[0] == r.fake.running[1]


async def test_another_objective_reaches_the_hosts_without_a_swap(three: Catalog, tmp_path: Path) -> None:
    r = Rig(three, tmp_path / "journal.jsonl", hosts=2)
    assert (await r.ticks(2))[-1].plan.generation == 3, "hosts that serve as they should are told nothing"
    r.restart()
    assert (await r.ticks(1))[0].plan.generation == 3, "nor by another controller"
    policies = {"a": ModelPolicy(weight=2.0, slo=Slo(latency_seconds=0.05)), "b": ModelPolicy(weight=3.0)}
    changed = CONFIG.model_copy(update={"models": policies})
    r.fake.reconfigure = lambda config: None  # type: ignore[attr-defined]
    r.controller.orders.reconfigure(changed)
    (first, second) = await r.ticks(2)
    assert (first.plan.generation, second.plan.generation, first.plan.swaps) == (4, 4, ())
    told = {"a": Serving(batch=1, objective=0.05, weight=2.0), "b": Serving(weight=3.0)}
    assert (r.fake.applied[-1].serving, r.fake.serving, second.snapshot.serving) == (told, told, told)
    assert r.fake.records == [[], []]
    assert r.lines[-1].plan.serving == told
    assert "serve b: as many rows as the model allows a call, no objective, weight 3" in "\n".join(
        r.controller.answers.explain("b")["lines"]
    )
    assert r.controller.answers.status()["models"]["a"]["batch"] == 1
