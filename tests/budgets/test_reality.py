"""What hosts run against what was planned."""

from __future__ import annotations

from typing import Any

import pytest

from budgets.plan import Memory, Quarantine, Step
from budgets.reality import adopt, departures, forget, learn
from budgets.snapshot import HostState, SwapRecord

PLAN: dict[str, str | None] = {"a": "int8", "b": "fp32", "c": None}


def host(generation: int = 5, **variants: str | None) -> HostState:
    return HostState(host="h", pid=1, at=0.0, observed_generation=generation, variants={**PLAN, **variants})


def record(outcome: str = "done", **fields: Any) -> SwapRecord:
    known: dict[str, Any] = {
        "generation": 5,
        "model": "a",
        "from_variant": "fp32",
        "to_variant": "int8",
        "mode": "make_before_break",
        "started": 1.0,
        "seconds": 0.5,
        "bytes_measured": 100,
        "reason": "" if outcome == "done" else "canary",
    }
    return SwapRecord.model_validate({**known, "outcome": outcome, **fields})


@pytest.mark.parametrize(
    ("hosts", "taken"),
    [
        ([], PLAN),
        ([host()], PLAN),
        ([host(a="fp32")], {**PLAN, "a": "fp32"}),  # rolled back
        ([host(a="fp32"), host(a="fp32")], {**PLAN, "a": "fp32"}),
        ([host(a="fp32"), host()], PLAN),  # they do not agree
        ([host(4, a="fp32")], PLAN),  # on its way
        ([host(a="fp32"), host(4, a="fp32")], PLAN),
        ([host(a=None)], PLAN),  # unloaded by hand, not parked
        ([host(c="tiny")], {**PLAN, "c": "tiny"}),  # woken by a request
        ([host(a="fp32").model_copy(update={"swapping": ("a",)})], PLAN),
    ],
)
def test_what_all_hosts_agree_to_run_is_taken_over(hosts: list[HostState], taken: dict[str, str | None]) -> None:
    assert adopt(PLAN, hosts, 5) == taken


def test_departures() -> None:
    hosts = [host(), host(a="fp32"), host(a=None)]
    assert departures(PLAN, hosts, "a") == (None, "fp32")
    assert departures(PLAN, hosts, "b") == ()


def test_a_failed_swap_quarantines_its_variant_and_forgets_its_step() -> None:
    steps = (
        Step(model="b", from_variant="fp32", to_variant="int8", trigger="ram", at=0.0),
        Step(model="a", from_variant="fp32", to_variant="int8", trigger="ram", at=0.0),
    )
    for outcome in ("rolled_back", "failed"):
        known = learn(Memory(steps=steps), PLAN, [record(outcome)], [host(a="fp32")], 5, 60.0, 0.0)
        assert known.quarantined == (Quarantine(model="a", variant="int8", reason="canary", until=60.0),)
        assert known.steps == steps[:1]
        again = learn(known, PLAN, [record(outcome)], [host(a="fp32")], 5, 90.0, 0.0)
        assert again.quarantined == known.quarantined


def test_an_older_plans_failure_is_past() -> None:
    assert learn(Memory(), PLAN, [record("failed", generation=4)], [host()], 5, 60.0, 0.0).quarantined == ()


def test_a_variant_that_did_not_load_at_the_start_is_quarantined() -> None:
    fallen = host(a="fp32").model_copy(update={"failed": {"a": "variant 'int8': checksum"}})
    (found,) = learn(Memory(), PLAN, [], [host(), fallen], 5, 60.0, 0.0).quarantined
    assert (found.model, found.variant, found.reason) == ("a", "int8", "variant 'int8': checksum")
    behind = fallen.model_copy(update={"observed_generation": 4})
    assert learn(Memory(), PLAN, [], [behind], 5, 60.0, 0.0).quarantined == ()
    runs_it = host().model_copy(update={"failed": {"a": "an older failure"}})
    assert learn(Memory(), PLAN, [], [runs_it], 5, 60.0, 0.0).quarantined == ()


def test_what_a_swap_moved_is_remembered() -> None:
    known = learn(
        Memory(), PLAN, [record(), record(bytes_measured=300), record("failed", model="b")], [host()], 5, 60.0, 9.0
    )
    assert known.moved == {"a: fp32 -> int8": 300}
    assert known.ended_at == 9.0
    assert learn(known, PLAN, [], [host()], 5, 60.0, 12.0).ended_at == 9.0


def test_quarantines_run_out() -> None:
    lines = tuple(Quarantine(model="a", variant=v, reason="", until=u) for v, u in (("x", 5.0), ("y", 6.0)))
    assert [q.variant for q in forget(Memory(quarantined=lines), 5.0).quarantined] == ["y"]
