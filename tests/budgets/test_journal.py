"""Decisions on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgets.journal import FileJournal, last_plan, records
from budgets.plan import Decision, Memory, Plan, Step, Trigger


def decision(at: float) -> Decision:
    step = Step(model="a", from_variant="fp32", to_variant=None, trigger="ram", at=at)
    return Decision(
        at=at,
        snapshot=None,
        triggers=(Trigger(name="ram", state="scaling", since=at),),
        plan=Plan(generation=int(at), assignment={"a": None, "b": "fp32"}),
        pins={"b": "fp32"},
        memory=Memory(steps=(step,), swapped_at={"a": at}),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "state" / "journal.jsonl")
    assert journal.last() is None
    for at in (1.0, 2.0, 3.0):
        journal.append(decision(at))
    assert list(records(tmp_path / "state" / "journal.jsonl")) == [decision(at) for at in (1.0, 2.0, 3.0)]
    assert journal.last() == decision(3.0)
    plan = last_plan(tmp_path / "state" / "journal.jsonl")
    assert plan is not None
    assert plan.generation == 3


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_costs_only_itself(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    journal = FileJournal(path)
    journal.append(decision(1.0))
    whole = path.read_bytes()
    journal.append(decision(2.0))
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:kept])  # -1: all but the newline
    again = FileJournal(path)
    seen = [d.at for d in records(path)]
    assert seen == ([1.0, 2.0] if kept == -1 else [1.0])
    again.append(decision(3.0))
    assert [d.at for d in records(path)] == [*seen, 3.0]


def test_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"at": 1}\n\xff\n\n[]\n', encoding="latin-1")
    journal = FileJournal(path)
    assert journal.last() is None
    journal.append(decision(4.0))
    assert journal.last() == decision(4.0)


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    size = len(decision(10.0).model_dump_json()) + 1
    journal = FileJournal(path, max_bytes=2 * size)
    for at in range(10, 21):
        journal.append(decision(float(at)))
    kept = {p.name: [d.at for d in records(p)] for p in sorted(tmp_path.iterdir())}
    assert kept == {
        "journal.jsonl": [20.0],
        "journal.jsonl.1": [18.0, 19.0],
        "journal.jsonl.2": [16.0, 17.0],
        "journal.jsonl.3": [14.0, 15.0],
    }


def test_the_last_decision_is_found_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = FileJournal(path)
    journal.append(decision(1.0))
    path.rename(tmp_path / "journal.jsonl.1")  # stopped between the rename and the next line
    assert FileJournal(path).last() == decision(1.0)
