"""The plan that a server starts on."""

from __future__ import annotations

from pathlib import Path

from budgets.journal import FileJournal, journal_of
from budgets.plan import Decision, Plan
from deployments.api import Assignment
from server.settings import parse_settings
from server.start import starting_assignment

BEST = {"alpha": "full", "beta": "full"}


def test_every_group_goes_on_with_its_own_journal(affine_repository: Path, tmp_path: Path) -> None:
    document = {
        "repository": str(affine_repository),
        "controller": {"journal": str(tmp_path / "journal.jsonl")},
        "budgets": [{"name": "ram", "resource": "ram", "group": "named"}],
    }
    settings = parse_settings(document, base=tmp_path)
    assert starting_assignment(settings)[0] == Assignment(1, BEST, groups={"named": Assignment(1, BEST)})
    for group, generation, alpha in (("default", 4, "lite"), ("seen", 8, None), ("named", 2, "gone")):
        plan = Plan(generation=generation, assignment={"alpha": alpha})
        FileJournal(journal_of(tmp_path / "journal.jsonl", group)).append(Decision(at=1.0, snapshot=None, plan=plan))
    assignment, notes = starting_assignment(settings)
    assert (assignment.generation, assignment.variants) == (5, {"alpha": "lite", "beta": "full"})
    assert assignment.groups == {
        "named": Assignment(3, BEST),
        "seen": Assignment(9, {"alpha": None, "beta": "full"}),
    }
    assert "continuing from plan 8 of the journal of group seen" in notes
