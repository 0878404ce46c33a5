"""Budgets changed at run time, what would be done next, and past decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from budgets.config import Budget, BudgetsConfig
from budgets.foresight import moments
from budgets.history import backwards, page
from budgets.journal import FileJournal
from budgets.overrides import Override, overlaid, still_valid
from budgets.plan import Decision, Memory, Plan, Trigger
from variants.errors import InvalidInput

CONFIG = BudgetsConfig(
    budgets=(
        Budget(name="ram", resource="ram", limit_fraction=0.8, enter_seconds=3, exit_seconds=7),
        Budget(name="cpu", resource="cpu"),
    )
)


def test_an_override_is_laid_over_its_budget_alone() -> None:
    made = overlaid(CONFIG, {"ram": Override(limit=5 << 30, exit=0.5)})
    ram, cpu = made.budgets
    assert (ram.limit, ram.limit_fraction, ram.enter, ram.exit) == (5 << 30, None, 0.9, 0.5)
    assert cpu == CONFIG.budgets[1]
    assert overlaid(CONFIG, {}) is CONFIG


def test_later_changes_add_to_earlier_ones() -> None:
    first = Override(limit=1 << 30, exit=0.5)
    assert first.then(Override(exit=None)).changes() == {"limit": 1 << 30}
    assert first.then(Override(limit_fraction=0.5)).changes() == {"limit_fraction": 0.5, "exit": 0.5}
    assert first.then(Override()) == first


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("ram", Override(exit=0.95), "budget 'ram': exit (0.95) must be below enter (0.9)"),
        ("cpu", Override(limit=1 << 30), "budget 'cpu': limit is in bytes"),
    ],
)
def test_what_does_not_fit_is_named(name: str, override: Override, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        overlaid(CONFIG, {name: override})
    assert message in str(raised.value)


def test_what_a_changed_file_no_longer_takes_is_dropped() -> None:
    fine = Override(exit=0.5)
    kept, dropped = still_valid(CONFIG, {"ram": Override(exit=0.95), "cpu": fine, "gone": fine})
    assert kept == {"cpu": fine}
    assert [line.split(":")[0] for line in dropped] == ["budget 'ram'", "budget 'gone' is no longer configured"]


def test_moments_are_when_time_alone_may_change_something() -> None:
    triggers = (
        Trigger(name="ram", pending_since=100.0),
        Trigger(name="cpu", state="scaling", since=90.0, pending_since=95.0),
    )
    memory = Memory(swapped_at={"a": 98.0, "b": 10.0})
    found = [round(m, 1) for m in moments(triggers, CONFIG, memory, 101.0)]
    # ram enters after 3 s, cpu leaves after its default of 10 s, a's cooldown of 10 s ends; b's is over
    assert found == [103.0, 105.0, 108.0]


def decision(at: float, **changes: Any) -> Decision:
    return Decision(at=at, snapshot=None, plan=Plan(generation=int(at), assignment={}), **changes)


def test_decisions_are_read_backwards_over_rotated_files(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = FileJournal(path, max_bytes=2_000)
    written = [decision(float(n)) for n in range(1, 16)]
    for line in written:
        journal.append(line)
    assert path.with_name("journal.jsonl.1").exists()
    with path.open("ab") as stream:
        stream.write(b'{"at":99.0, torn')
    recent = written[-3:]
    there = [d["at"] for d in page(path, recent, float("inf"), 500)["decisions"]]
    assert there == sorted(there, reverse=True)
    assert there[:6] == [15.0, 14.0, 13.0, 12.0, 11.0, 10.0]
    first = page(path, recent, float("inf"), 2)
    assert ([d["at"] for d in first["decisions"]], first["next"]) == ([15.0, 14.0], 14.0)
    second = page(path, recent, first["next"], 2)
    assert [d["at"] for d in second["decisions"]] == [13.0, 12.0]
    last = page(path, recent, there[-1], 5)
    assert last == {"decisions": [], "next": None}


def test_a_trigger_that_changed_is_told(tmp_path: Path) -> None:
    calm, up = Trigger(name="ram"), Trigger(name="ram", state="scaling")
    recent = [decision(1.0, triggers=(calm,)), decision(2.0, triggers=(up,)), decision(3.0, triggers=(up,), error="x")]
    told = [d["sentences"] for d in page(tmp_path / "none", recent, 9.0, 10)["decisions"]]
    assert told == [["error: x"], ["ram: calm -> scaling"], []]


def test_backwards_over_block_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    lines = [bytes([65 + n]) * n for n in range(1, 20)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    for block in (1, 3, 7, 1000):
        monkeypatch.setattr("budgets.history.BLOCK", block)
        assert list(backwards(path)) == lines[::-1]
