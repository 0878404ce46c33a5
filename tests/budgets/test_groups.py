"""Groups of hosts, each planned over its own budgets and readings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from budgets.config import DEFAULT_GROUP, Budget, BudgetsConfig, ControllerConfig, Neighbour
from budgets.controller import Controller
from budgets.groups import Groups
from budgets.history import merged, page
from budgets.journal import FileJournal, journal_of, journalled_groups, records
from budgets.overrides import Override
from budgets.plan import Plan
from budgets.ports import Actuator
from budgets.snapshot import HostState, Missing, ModelReadings, Reading, Readings, SwapRecord, Usage
from variants.catalog import Catalog
from variants.errors import Conflict, UnknownBudget

MIB = 2**20
CONFIG = BudgetsConfig(
    controller=ControllerConfig(cooldown_seconds=0, peak_seconds=0, verify_seconds=0, staged=False),
    budgets=(
        Budget(name="ram", resource="ram", scope="trimtab", limit=1000 * MIB, enter_seconds=0, exit_seconds=0),
        Budget(name="small", resource="ram", group="b", limit=500 * MIB, enter_seconds=0, exit_seconds=0),
    ),
)


class World:
    """All hosts by group, and what each group uses (MiB) with every model on its best rung. Hosts follow at once."""

    def __init__(self, catalog: Catalog, groups: Mapping[str, int]) -> None:
        self.best: dict[str, str | None] = {n: e.ladder.rungs[0] for n, e in catalog.entries.items()}
        self.sizes = {
            (n, v.name): v.profiles[0].resident_bytes for n, e in catalog.entries.items() for v in e.variants.values()
        }
        self.plans = {group: Plan(generation=1, assignment=self.best) for group in groups}
        self.counts = dict(groups)
        self.used = dict.fromkeys(groups, 400)
        self.records: dict[str, tuple[SwapRecord, ...]] = {}
        self.applied: list[tuple[str, Plan, dict[str, Plan]]] = []
        self.told: dict[str, tuple[int, int]] = {}
        self.orders = 0
        self.reasserted: list[dict[str, Plan]] = []
        self.fault = ""
        self.looks = 0
        self.clock = 0.0

    async def observe(self) -> tuple[HostState, ...]:
        self.looks += 1
        return tuple(
            HostState(
                host=f"{group}{n}",
                group=group,
                pid=1,
                at=self.clock,
                observed_generation=self.plans[group].generation,
                variants=self.plans[group].assignment,
                swaps=self.records.get(group, ()),
                orders=self.orders,
                told=self.told.get(group),
            )
            for group, count in self.counts.items()
            for n in range(count)
        )

    async def apply(self, plan: Plan, group: str, others: Mapping[str, Plan]) -> None:
        self.applied.append((group, plan, dict(others)))
        self.records[group] = tuple(
            SwapRecord(
                generation=plan.generation,
                model=s.model,
                from_variant=s.from_variant,
                to_variant=s.to_variant,
                mode=s.mode,
                started=self.clock + 0.1,
                seconds=0.1,
                bytes_measured=s.bytes_planned,
                outcome="done",
            )
            for s in plan.swaps
        )
        self.plans[group] = plan

    async def reassert(self, plans: Mapping[str, Plan]) -> None:
        self.reasserted.append(dict(plans))
        if self.fault == "serve":
            raise OSError("no answer")
        self.plans |= plans
        self.told = {group: (plan.generation, self.orders) for group, plan in plans.items()}

    def runs(self, group: str) -> str | None:
        return self.plans[group].assignment["m"]


class Meter:
    """The readings of one group: see `budgets.ports.Source`."""

    def __init__(self, world: World, group: str, config: BudgetsConfig) -> None:
        self.world, self.group, self.config = world, group, config

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        assert {h.group for h in hosts} == {self.group}
        if self.world.fault == self.group:
            raise OSError("endpoint down")
        freed = sum(
            self.world.sizes[m, str(v)] - self.world.sizes[m, str(h.variants[m])]
            for h in hosts
            for m, v in self.world.best.items()
        )
        used = Reading(value=float(self.world.used[self.group] * MIB - freed), at=now)
        none, idle = Missing(reason="no traffic"), Reading(value=0.0, at=now)
        return Readings(
            at=now,
            budgets=tuple(
                Usage(budget=b.name, usage=used, limit=Reading(value=float(b.limit or 0), at=now))
                for b in self.config.budgets
            ),
            models=(ModelReadings(model="m", rate=idle, latency=none, queue=idle, busy=idle, service=none),),
        )

    def reconfigure(self, config: BudgetsConfig) -> None:
        self.config = config

    async def aclose(self) -> None:
        pass


class Rig:
    """Groups over a `World`; one tick is a second."""

    def __init__(self, catalog: Catalog, world: World, folder: Path, now: float = 1000.0) -> None:
        self.catalog, self.world, self.journal, self.now = catalog, world, folder / "journal.jsonl", now
        self.groups = Groups(CONFIG, self.member, world)

    def member(self, group: str, config: BudgetsConfig, arm: Actuator) -> Controller:
        journal = FileJournal(journal_of(self.journal, group))
        return Controller(config, self.catalog, Meter(self.world, group, config), arm, journal)

    async def tick(self, times: int = 1) -> dict[str, Any]:
        for _ in range(times):
            self.now += 1
            self.world.clock = self.now
            decisions = await self.groups.tick(self.now)
        return decisions


@pytest.fixture
def catalog(catalog_of: Any) -> Catalog:
    return catalog_of({"m": [("best", 200, 1.0, 0.01), ("lite", 50, 0.9, 0.005)]})


@pytest.fixture
def rig_of(catalog: Catalog, tmp_path: Path) -> Callable[..., Rig]:
    def make(world: World | None = None, now: float = 1000.0, **groups: int) -> Rig:
        return Rig(catalog, world or World(catalog, groups or {"default": 1, "b": 1}), tmp_path, now)

    return make


async def test_only_the_group_under_pressure_degrades(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of()
    await rig.tick()
    assert rig.world.applied == []
    rig.world.used["b"] = 490
    decisions = await rig.tick(2)
    assert (rig.world.runs("default"), rig.world.runs("b")) == ("best", "lite")
    ((group, plan, others),) = rig.world.applied
    assert (group, plan.generation) == ("b", 2)
    assert {g: other.generation for g, other in others.items()} == {"default": 1}
    assert {t.name: t.state for t in decisions["default"].triggers} == {"ram": "calm"}
    assert [p.usage for p in decisions["default"].pressures] == [400 * MIB]
    # … and the other way round, with the other group's plan as it is
    rig.world.used["default"] = 990
    await rig.tick(2)
    assert [(g, p.generation) for g, p, _ in rig.world.applied] == [("b", 2), ("default", 2)]
    assert rig.world.applied[1][2]["b"].assignment == {"m": "lite"}
    rig.world.used["b"] = 300
    await rig.tick(6)
    assert (rig.world.runs("default"), rig.world.runs("b")) == ("lite", "best")


async def test_all_hosts_are_looked_at_once_a_tick(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(default=2, b=2, c=1)
    await rig.tick(3)
    assert rig.world.looks == 3
    rig.world.used["b"] = 490
    await rig.tick()
    assert rig.world.looks == 5, "a plan is checked against a fresh look"


async def test_one_group_that_cannot_be_read_stops_no_other(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of()
    await rig.tick()
    rig.world.fault, rig.world.used["b"] = "default", 490
    decisions = await rig.tick()
    assert decisions["default"].error == "OSError: endpoint down"
    assert decisions["b"].error == ""
    assert rig.world.runs("b") == "lite"


async def test_a_group_that_cannot_be_set_up_is_tried_again(rig_of: Callable[..., Rig], tmp_path: Path) -> None:
    rig = rig_of(default=1, c=1)
    (tmp_path / "journal.c.jsonl").mkdir()
    assert set(await rig.tick()) == {"default", "b"}
    (tmp_path / "journal.c.jsonl").rmdir()
    assert set(await rig.tick()) == {"default", "b", "c"}


async def test_a_lost_group_is_left_alone_and_comes_back_on_its_plan(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of()
    rig.world.used["b"] = 490
    await rig.tick(2)
    rig.world.counts["b"] = 0
    rig.world.used["default"] = 990
    decisions = await rig.tick(30)
    assert rig.world.runs("default") == "lite"
    assert decisions["b"].plan.swaps == ()
    assert "no host" in " ".join(h.reason for h in decisions["b"].plan.holds)
    assert decisions["b"].plan.assignment == {"m": "lite"}
    before = len(rig.world.applied)
    assert rig.world.applied[-1][2]["b"].assignment == {"m": "lite"}, "told to hosts that come later"
    rig.world.counts["b"] = 1
    await rig.tick(3)
    assert len(rig.world.applied) == before
    assert rig.world.runs("b") == "lite"


async def test_every_group_recovers_from_its_journal(rig_of: Callable[..., Rig], tmp_path: Path) -> None:
    rig = rig_of()
    rig.world.used["b"] = 490
    await rig.tick(3)
    rig.groups.pin("m", "lite")
    rig.groups.override("small", Override(exit=0.5))
    await rig.tick()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.b.jsonl", "journal.jsonl"]
    again = rig_of(rig.world, now=rig.now)
    assert again.groups.pins == {"m": "lite"}
    assert again.groups.overrides == {"small": Override(exit=0.5)}
    assert {g: m.state.generation for g, m in again.groups.members.items()} == {"default": 2, "b": 2}
    again.groups.unpin("m")
    again.groups.reset("small")
    rig.world.used["b"] = 300
    await again.tick(4)
    assert (rig.world.runs("default"), rig.world.runs("b")) == ("best", "best")
    assert [d.plan.generation for d in records(tmp_path / "journal.b.jsonl")][-1] == 3


async def test_hosts_that_are_told_an_older_plan_or_fewer_orders_are_told_again(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of()
    rig.world.used["b"] = 490
    await rig.tick(2)
    rig.world.told = {"default": (1, 0), "b": (2, 0)}
    await rig.tick(2)
    assert rig.world.reasserted == []
    rig.world.told["b"] = (1, 0)  # a Serve configuration was submitted anew; the host keeps to plan 2
    rig.world.fault = "serve"
    decisions = await rig.tick()
    assert decisions["b"].error == "", "that Serve does not answer stops no tick"
    rig.world.fault = ""
    await rig.tick(3)
    assert [{g: p.generation for g, p in told.items()} for told in rig.world.reasserted] == [{"default": 1, "b": 2}] * 2
    assert rig.world.reasserted[-1]["b"].assignment == {"m": "lite"}
    rig.world.orders = 3  # followed by the hosts, and gone from what they are told
    await rig.tick(2)
    assert len(rig.world.reasserted) == 3


async def test_a_controller_that_is_ahead_of_all_hosts_does_not_wait_for_them_forever(
    catalog: Catalog, rig_of: Callable[..., Rig]
) -> None:
    """Everything was restarted, and only the journal was kept: the hosts begin with the first plan."""
    rig = rig_of(b=1)
    rig.world.used["b"] = 490
    await rig.tick(2)
    world = World(catalog, {"b": 1})
    world.used["b"], world.told["b"] = 490, (1, 0)
    again = rig_of(world, now=rig.now)
    await again.tick(20)
    assert (world.plans["b"].generation, world.runs("b")) == (3, "lite")


async def test_one_labelled_group_looks_like_one_group(rig_of: Callable[..., Rig]) -> None:
    config = CONFIG.model_copy(update={"budgets": CONFIG.budgets[:1]})
    rig = rig_of(gpu=2)
    rig.groups = Groups(config, rig.member, rig.world)
    rig.groups.pin("m", "lite")
    decisions = await rig.tick(2)
    assert set(decisions) == {"gpu"}
    status = rig.groups.status()
    assert "groups" not in status
    assert [h["group"] for h in status["hosts"]] == ["gpu", "gpu"]
    assert status["models"]["m"]["variant"] == "lite", "pinned before the group was known"
    again = rig_of(rig.world, now=rig.now)
    again.groups = Groups(config, again.member, again.world)
    await again.tick()
    assert again.groups.pins == {"m": "lite"}


async def test_status_and_explanations_by_group(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of()
    rig.world.used["b"] = 490
    await rig.tick(2)
    status = rig.groups.status()
    assert [h["host"] for h in status["hosts"]] == ["default0", "b0"]
    assert {g: s["models"]["m"]["variant"] for g, s in status["groups"].items()} == {"default": "best", "b": "lite"}
    assert {g: [b["name"] for b in s["budgets"]] for g, s in status["groups"].items()} == {
        "default": ["ram"],
        "b": ["ram", "small"],
    }
    explained = rig.groups.explain("m")["groups"]
    assert explained["default"]["lines"] == ["now: m runs best"]
    assert any("degrade m: best -> lite" in line for line in explained["b"]["lines"])
    pages = {g: page(journal_of(rig.journal, g), m.state.recent, 2000.0, 2) for g, m in rig.groups.members.items()}
    told = merged(pages, 2)
    assert [(d["at"], d["group"]) for d in told["decisions"]] == [(1002.0, "b"), (1001.0, "default"), (1001.0, "b")]
    assert told["next"] is None


async def test_orders_are_for_all_groups(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(default=1, b=1, c=1)
    await rig.tick()
    rig.groups.swap("m", "lite")
    await rig.tick()
    assert {g: rig.world.runs(g) for g in rig.world.counts} == {"default": "lite", "b": "lite", "c": "lite"}
    rig.groups.override("small", Override(limit=100 * MIB))
    await rig.tick()
    limits = {g: {b.name: b.limit for b in m.orders.config.budgets} for g, m in rig.groups.members.items()}
    assert limits["b"] == {"ram": 1000 * MIB, "small": 100 * MIB}
    assert limits["default"] == limits["c"] == {"ram": 1000 * MIB}
    with pytest.raises(UnknownBudget, match="there are: ram, small"):
        rig.groups.override("gpu", Override(exit=0.5))
    rig.groups.reconfigure(BudgetsConfig(controller=CONFIG.controller, budgets=CONFIG.budgets[1:]))
    assert {g: [b.name for b in m.orders.config.budgets] for g, m in rig.groups.members.items()} == {
        "default": [],
        "b": ["small"],
        "c": [],
    }


async def test_a_swap_that_one_group_refuses_is_made_in_none(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of()
    await rig.tick()
    rig.groups.members["b"].orders.pin("m", "best")
    with pytest.raises(Conflict, match="pinned"):
        rig.groups.swap("m", "lite")
    await rig.tick(2)
    assert rig.world.applied == []


def test_what_holds_in_a_group() -> None:
    neighbour = (Neighbour(name="job", pid=1),)
    config = BudgetsConfig(
        budgets=(
            Budget(name="all", resource="ram", scope="trimtab", neighbours=neighbour),
            Budget(name="b", group="b", resource="ram", scope="trimtab", neighbours=neighbour),
        )
    )
    assert config.groups() == ("b",)
    assert [b.name for b in config.of(DEFAULT_GROUP).budgets] == ["all"]
    assert config.of(DEFAULT_GROUP).budgets[0].neighbours == neighbour
    everything, own = config.of("b").budgets
    assert (everything.neighbours, own.neighbours) == ((), neighbour)
    assert config.of("b", home="b") is config
    with pytest.raises(ValidationError, match="budgets of the same name: all"):
        BudgetsConfig(budgets=(config.budgets[0], config.budgets[0]))
    with pytest.raises(ValidationError, match="pattern"):
        Budget(name="x", resource="ram", group="../x")


def test_journals_by_group(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert journal_of(path, DEFAULT_GROUP) == path
    for name in ("journal.jsonl", "journal.jsonl.1", "journal.b.jsonl", "journal.b.jsonl.1", "journal.a.c.jsonl"):
        (tmp_path / name).touch()
    assert journalled_groups(path) == ("a.c", "b")
    assert [journal_of(path, g).name for g in ("a.c", "b")] == ["journal.a.c.jsonl", "journal.b.jsonl"]
    assert journalled_groups(tmp_path / "absent" / "journal.jsonl") == ()
