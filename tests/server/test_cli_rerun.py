"""`trimtab rerun` on a journal: what is the same, what differs, what could not be made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from budgets.journal import FileJournal, records
from budgets.plan import Decision, Memory, Trigger
from budgets.planner import plan
from budgets.pressure import History, assess
from budgets.rerun import fingerprint
from budgets.snapshot import HostState, Reading, Readings, Snapshot, Usage
from server.settings import load_settings
from variants.repository import load_catalog

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def written(affine_repository: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A configuration file, and a journal of two decisions made under it."""
    file = tmp_path / "trimtab.yaml"
    budget = {"name": "ram", "resource": "ram", "scope": "trimtab", "limit": 1000}
    file.write_text(yaml.safe_dump({"repository": str(affine_repository), "budgets": [budget]}))
    config = load_settings(file).budgets_config()
    catalog = load_catalog(affine_repository)
    assignment: dict[str, str | None] = {n: e.ladder.rungs[0] for n, e in catalog.entries.items()}
    host = HostState(host="h", pid=1, at=5.0, observed_generation=3, variants=assignment)
    journal = FileJournal(tmp_path / "journal.jsonl")
    for at, used in ((5.0, 100.0), (6.0, 990.0)):
        usage = Usage(budget="ram", usage=Reading(value=used, at=at), limit=Reading(value=1000.0, at=at))
        readings = Readings(at=at, budgets=(usage,), models=())
        seen = Snapshot(at=at, readings=readings, hosts=(host,), generation=3, assignment=assignment)
        pressures = assess(readings, config, History())
        triggers = (Trigger(name="ram", state="scaling" if used > 900 else "calm"),)
        made = plan(catalog, seen, pressures, triggers, config, Memory(), at)
        journal.append(
            Decision(
                at=at,
                snapshot=seen,
                pressures=pressures,
                triggers=triggers,
                plan=made,
                before=Memory(),
                config=config,
                inputs=fingerprint(config, catalog),
            )
        )
    return file, tmp_path / "journal.jsonl"


@pytest.fixture
def rerun(trimtab: Run) -> Run:
    """`trimtab rerun` in this process: exit code, stdout, stderr."""

    def run(journal: Path, config: Path, *more: str) -> tuple[int, str, str]:
        return trimtab("rerun", str(journal), "-c", str(config), *more)

    return run


def test_every_decision_is_made_again(written: tuple[Path, Path], rerun: Run) -> None:
    config, journal = written
    assert {bool(d.plan.holds or d.plan.swaps) for d in records(journal)} == {True, False}, "one of them did something"
    code, out, _ = rerun(journal, config)
    assert (code, out) == (0, "2 of 2 decisions made again byte for byte, 0 differ\n")


def test_one_byte_of_difference_is_told(written: tuple[Path, Path], rerun: Run) -> None:
    config, journal = written
    lines = journal.read_text().splitlines()
    line = json.loads(lines[1])
    line["plan"]["assignment"] = dict.fromkeys(line["plan"]["assignment"], "other")
    journal.write_text("\n".join([lines[0], json.dumps(line)]) + "\n")
    code, out, _ = rerun(journal, config)
    assert code == 1
    assert "1970-01-01T00:00:06.000+00:00 differs now: {" in out
    assert out.endswith("1 of 2 decisions made again byte for byte, 1 differ\n")
    code, out, _ = rerun(journal, config, "--json")
    told = json.loads(out)
    assert (code, told["decisions"], told["same"], [d["at"] for d in told["different"]]) == (1, 2, 1, [6.0])


def test_what_cannot_be_made_again_is_no_success(written: tuple[Path, Path], rerun: Run, tmp_path: Path) -> None:
    config, journal = written
    other = Decision.model_validate_json(journal.read_text().splitlines()[0]).model_copy(update={"inputs": "other"})
    FileJournal(tmp_path / "other.jsonl").append(other)
    code, out, _ = rerun(tmp_path / "other.jsonl", config)
    assert code == 1
    assert "1 left out: configuration or catalog are not those of then" in out
    code, _, err = rerun(tmp_path / "none.jsonl", config)
    assert (code, "none.jsonl: no such journal" in err) == (1, True)
