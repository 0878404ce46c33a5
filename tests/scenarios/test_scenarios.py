"""trimtab in the scenarios of the library: memory is kept, nothing flaps, and it violates half of what its rivals do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.policies import OURS, RIVALS, kept
from budgets.replay.run import replay
from tests.scenarios import library
from tests.scenarios.library import SCENARIOS


def played(name: str, folder: Path, policies: tuple[str, ...], seed: int = 0) -> dict[str, dict[str, Any]]:
    files = SCENARIOS[name](seed).write(folder)
    return {policy: replay(*files, policy, seed=seed) for policy in policies}


def check(results: dict[str, dict[str, Any]]) -> None:
    ours = results[OURS]
    assert ours["memory_over_budget_seconds"] == 0.0
    assert ours["flaps"] == 0
    assert ours["requests"] == ours["completed"] + ours["dropped"]
    assert ours["planner"]["unsolved"] == 0
    for rival in RIVALS:
        if rival in results and not results[rival]["memory_over_budget_seconds"]:
            assert kept(ours, results[rival]), (
                f"{ours['slo_violations']} of {results[rival]['slo_violations']} ({rival})"
            )


@pytest.mark.parametrize("name", ["cold-model-storm", "neighbour-burst"])
def test_short_scenarios(name: str, tmp_path: Path) -> None:
    check(played(name, tmp_path, (OURS, "reactive-ladder")))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario(name: str, seed: int, tmp_path: Path) -> None:
    check(played(name, tmp_path, (OURS, *RIVALS), seed))


def test_the_library_is_the_same_every_time(tmp_path: Path) -> None:
    texts = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        texts.append([p.read_bytes() for p in library.diurnal().write(tmp_path / folder)])
    assert texts[0] == texts[1]
