"""The control loop over two groups of hosts, as the admin API and the command line show it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from budgets.config import BudgetsConfig
from budgets.overrides import Override
from budgets.plan import Plan
from budgets.snapshot import HostState
from server import cli_views
from server.settings import load_settings
from tests.server.admin_world import MIB, Rig, World, document
from variants.catalog import Catalog


class TwoGroups(World):
    """A world whose second half is in group `gpu`."""

    def __init__(self, catalog: Catalog, config: BudgetsConfig) -> None:
        super().__init__(catalog, config)
        self.gpu = World(catalog, config)

    async def observe(self) -> tuple[HostState, ...]:
        (other,) = await self.gpu.observe()
        return (*await super().observe(), other.model_copy(update={"host": "g0", "group": "gpu"}))

    async def apply(self, plan: Plan, group: str, others: Mapping[str, Plan]) -> None:
        self.gpu.clock = self.clock
        await (self.gpu.apply(plan, group, others) if group == "gpu" else super().apply(plan, group, others))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    config = tmp_path / "trimtab.yaml"
    written = document(tmp_path)
    gpu = {"name": "gpu-ram", "group": "gpu", "resource": "ram", "limit": 5000 * MIB, "enter_seconds": 0}
    config.write_text(yaml.safe_dump({**written, "budgets": [*written["budgets"], gpu]}))
    made = Rig(load_settings(config), TwoGroups)
    async with made:
        await made.until(lambda: len(made.control.status()["hosts"]) == 2)
        yield made


def shown(show: Any, answer: Any) -> str:
    out = io.StringIO()
    show(Console(file=out, width=200), answer)
    return out.getvalue()


async def test_what_each_group_runs_and_why(rig: Rig) -> None:
    told: list[dict[str, Any]] = []
    rig.control.listen(lambda status, record: told.append(record) if record else None)
    assert [(b["name"], b["group"]) for b in rig.control.budgets()] == [("ram", None), ("gpu-ram", "gpu")]
    assert {g: p["swaps"] for g, p in rig.control.plan()["groups"].items()} == {"default": [], "gpu": []}
    rig.control.override("gpu-ram", Override(limit=100 * MIB))

    def runs() -> Any:
        return [h["variants"]["minilm"] for h in rig.control.status()["hosts"]]

    await rig.until(lambda: runs() == ["fp32", "int8"])
    status = rig.control.status()
    assert {g: s["models"]["minilm"]["variant"] for g, s in status["groups"].items()} == {
        "default": "fp32",
        "gpu": "int8",
    }
    assert "control" in status
    assert "group gpu:" in shown(cli_views.print_plan, rig.control.plan())
    less = rig.control.what_if("ram", -985 * MIB)
    assert {g: w["assignment"].get("minilm") for g, w in less["groups"].items()} == {"default": "int8", "gpu": "int8"}
    assert "degrade minilm: fp32 -> int8" in shown(cli_views.print_what_if, less)
    assert "groups" not in rig.control.what_if("gpu-ram", -MIB)
    page = await rig.control.decisions(None, 50)
    assert {d["group"] for d in page["decisions"] if d["swaps"]} == {"gpu"}
    assert "] gpu-ram: calm -> saturated" in shown(cli_views.print_decisions, page)
    assert {r["group"] for r in told if r["swaps"]} == {"gpu"}
    assert "models of group gpu" in shown(cli_views.print_status, status)
    explained = shown(cli_views.print_explanation, rig.control.explain("minilm"))
    assert "default: now: minilm runs fp32" in explained
    assert "gpu: now: minilm runs int8" in explained


async def test_an_order_is_for_every_group(rig: Rig) -> None:
    answer = await rig.control.swap("wine", "int8")
    assert answer["model"] == "wine"
    await rig.until(lambda: [h["variants"]["wine"] for h in rig.control.status()["hosts"]] == ["int8", "int8"])
    assert sorted(p.name for p in rig.journal.parent.glob("*.jsonl")) == ["journal.gpu.jsonl", "journal.jsonl"]
