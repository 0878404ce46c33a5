"""One line for each decision, with what led to it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from budgets.logged import LoggedJournal
from budgets.plan import Decision, Hold, Plan, Pressure, Swap, Trigger
from budgets.snapshot import SwapRecord

SWAP = Swap(
    model="a", from_variant="fp32", to_variant="int8", direction="degrade", mode="make_before_break",
    bytes_planned=2**20, quality_from=1.0, quality_to=0.98, trigger="ram", reason="ram scaling at 0.93",
)  # fmt: skip
RECORD = SwapRecord(
    generation=4, model="a", from_variant="fp32", to_variant="int8", mode="make_before_break", started=101.0,
    seconds=1.0, bytes_measured=2**20, outcome="rolled_back", reason="outputs differ",
)  # fmt: skip


class Kept:
    """A journal in memory that can be full."""

    def __init__(self) -> None:
        self.lines: list[Decision] = []
        self.full = False

    def append(self, decision: Decision) -> None:
        if self.full:
            raise OSError("disk full")
        self.lines.append(decision)

    def last(self) -> Decision | None:
        return self.lines[-1] if self.lines else None


def decision(**changes: Any) -> Decision:
    return Decision(**{"at": 100.0, "snapshot": None, "plan": Plan(generation=3, assignment={}), **changes})


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trimtab.decisions")


def test_a_swap_is_one_line_with_its_numbers(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    made = decision(
        plan=Plan(generation=4, assignment={"a": "int8"}, swaps=(SWAP,)),
        pressures=(Pressure(name="ram", ratio=0.93), Pressure(name="slo:a", ratio=None, missing="stale")),
        triggers=(Trigger(name="ram", state="scaling"),),
    )
    LoggedJournal(kept).append(made)
    (record,) = caplog.records
    text = record.getMessage()
    assert record.levelno == logging.INFO
    assert text.startswith("plan 4: ram is scaling; degrade a: fp32 -> int8 (make before break, 1 MiB, ")
    assert text.endswith("ram scaling at 0.93")
    fields = record.fields  # type: ignore[attr-defined]
    assert fields["pressures"] == {"ram": 0.93, "slo:a": None}
    assert fields["triggers"] == {"ram": "scaling"}
    assert fields["swaps"][0]["bytes_planned"] == 2**20
    assert kept.last() is made


def test_levels(caplog: pytest.LogCaptureFixture) -> None:
    journal = LoggedJournal(Kept())
    for made in (
        decision(),
        decision(plan=Plan(generation=3, assignment={}, holds=(Hold(model="a", variant=None, reason="cooldown"),))),
        decision(triggers=(Trigger(name="ram", state="saturated"),)),
        decision(triggers=(Trigger(name="ram", state="saturated"),)),
        decision(outcomes=(RECORD,)),
        decision(error="OSError: gone"),
    ):
        journal.append(made)
    assert [r.levelname for r in caplog.records] == ["DEBUG", "INFO", "INFO", "DEBUG", "WARNING", "WARNING"]
    assert "rolled back a: fp32 -> int8" in caplog.records[4].getMessage()
    assert caplog.records[5].getMessage() == "plan 3: error: OSError: gone"


def test_a_journal_that_is_full_leaves_the_line(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    kept.full = True
    with pytest.raises(OSError, match="disk full"):
        LoggedJournal(kept).append(decision())
    assert len(caplog.records) == 1


def test_a_group_is_named(caplog: pytest.LogCaptureFixture) -> None:
    LoggedJournal(Kept(), "gpu").append(decision())
    LoggedJournal(Kept(), "default").append(decision())
    gpu, default = caplog.records
    assert (gpu.getMessage(), gpu.fields["group"]) == ("group gpu: plan 3: nothing to do", "gpu")
    assert (default.getMessage(), "group" in default.fields) == ("plan 3: nothing to do", False)
