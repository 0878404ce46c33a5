"""Decisions on disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from budgets.config import BudgetsConfig
from budgets.journal import FileJournal, last_plan, records
from budgets.plan import Decision, Memory, Plan, Step, Trigger
from budgets.rerun import replay_journal
from variants.catalog import Catalog


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


WRITER = """
import sys
from pathlib import Path
from budgets.journal import FileJournal
from budgets.plan import Decision, Plan
journal = FileJournal(Path(sys.argv[1]), max_bytes=20_000)
at = (journal.last().at if journal.last() else 0.0) + 1
print("ready", flush=True)
while True:
    journal.append(Decision(at=at, snapshot=None, plan=Plan(generation=int(at), assignment={"a": "x" * 200})))
    print(int(at), flush=True)
    at += 1
"""


def test_kill_9_loses_no_line_that_was_written(tmp_path: Path) -> None:
    """Killed in the middle of writing, again and again: every line that `append` returned for is there, in order."""
    path = tmp_path / "journal.jsonl"
    acknowledged = 0
    for lines in (7, 23, 11):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split("\n")[:-1]
        acknowledged = int(rest[-1]) if rest else acknowledged
        found = [d.at for name in (".3", ".2", ".1", "") for d in records(path.with_name(path.name + name))]
        assert found[-1] in (acknowledged, acknowledged + 1), "the one being written may have got to the disk"
        assert found == [float(i) for i in range(int(found[0]), int(found[-1]) + 1)]
        last = FileJournal(path).last()
        assert last is not None
        assert last.at == found[-1]


def test_lines_of_older_formats_load_and_cannot_be_replayed(tmp_path: Path) -> None:
    """As the first release wrote them: without what was planned with, and with quarantines that all ran out."""
    path = tmp_path / "journal.jsonl"
    path.write_text(
        '{"at":5.0,"snapshot":null,"pressures":[],"triggers":[],"plan":{"generation":3,"assignment":{"a":"x"},"modes":{},'
        '"swaps":[],"holds":[]},"outcomes":[],"pins":{},"memory":{"steps":[],"quarantined":[{"model":"a","variant":"y",'
        '"reason":"canary","until":99.0}],"broke":[],"swapped_at":{},"planned_at":0.0,"ended_at":0.0,"moved":{}},'
        '"error":""}\n'
    )
    (old,) = records(path)
    assert old.memory.quarantined[0].holds(98.0)
    assert not old.memory.quarantined[0].holds(99.0)
    (line,) = replay_journal(path, Catalog(device="d", entries={}))
    assert (line.same, line.why) == (None, "the line does not say what was planned with")


def test_every_file_says_what_was_configured(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    known = decision(1.0).model_copy(update={"config": BudgetsConfig(), "inputs": "abc"})
    size = len(known.model_dump_json()) + 1
    journal = FileJournal(path, max_bytes=2 * size)
    for _ in range(8):
        journal.append(known)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    for file in files:
        first, *others = records(file)
        assert first.config == BudgetsConfig()
        assert all(other.config is None for other in others)
    other = known.model_copy(update={"inputs": "def"})
    FileJournal(path).append(other)
    assert list(records(path))[-1].config == BudgetsConfig()
