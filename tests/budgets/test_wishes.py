"""Which variant a request gets, and what it is told when none will do."""

from __future__ import annotations

import pytest

from budgets.wishes import Candidate, Choice, Refusal, Wish, pick

LARGE = Candidate("large", "int8", {"fp32": 1.0, "int8": 0.97}, latency_seconds=0.080, idle_seconds=0.030)
SMALL = Candidate("small", "fp32", {"fp32": 0.92, "int8": 0.90}, latency_seconds=0.010, idle_seconds=0.010)
PARKED = Candidate("parked", None, {"fp32": 1.0, "int8": 0.95})
UNKNOWN = Candidate("unknown", "fp32", {"fp32": None})


def chosen(candidates: list[Candidate], **wish) -> str | None:
    found = pick(candidates, Wish(**wish))
    return found.model if isinstance(found, Choice) else None


@pytest.mark.parametrize(
    ("wish", "model"),
    [
        ({}, "large"),
        ({"min_quality": 0.95}, "large"),
        ({"min_quality": 0.97}, "large"),
        ({"min_quality": 0.98}, None),
        ({"latency_budget_seconds": 0.080}, "large"),
        ({"latency_budget_seconds": 0.079}, "small"),
        ({"latency_budget_seconds": 0.009}, None),
        ({"latency_budget_seconds": 0.05, "min_quality": 0.93}, None),
        ({"variant": "fp32"}, "small"),
        ({"variant": "int8"}, "large"),
        ({"variant": "int8", "min_quality": 0.99}, None),
    ],
)
def test_best_quality_that_meets_the_wish(wish, model):
    assert chosen([SMALL, LARGE], **wish) == model


def test_ties_go_to_the_faster_then_to_the_first():
    a = Candidate("a", "v", {"v": 0.9}, 0.02, 0.02)
    b = Candidate("b", "v", {"v": 0.9}, 0.01, 0.01)
    assert chosen([a, b]) == "b"
    assert chosen([a, Candidate("c", "v", {"v": 0.9}, 0.02, 0.02)]) == "a"


def test_what_nobody_measured_meets_no_wish_for_it():
    assert chosen([UNKNOWN]) == "unknown"
    assert chosen([UNKNOWN, SMALL]) == "small"
    assert chosen([UNKNOWN], min_quality=0.0) is None
    assert chosen([UNKNOWN], latency_budget_seconds=100.0) is None
    assert chosen([UNKNOWN], variant="fp32") == "unknown"


def test_a_parked_model_is_the_last_resort():
    assert chosen([PARKED, SMALL]) == "small"
    assert chosen([PARKED, SMALL], min_quality=0.94) == "parked"
    assert chosen([PARKED], min_quality=0.94) == "parked"
    assert chosen([PARKED], latency_budget_seconds=10.0) is None  # nobody knows when it would be there
    found = pick([PARKED], Wish(min_quality=0.96))
    assert found == Choice("parked", frozenset({"fp32"}))


def test_the_choice_holds_for_what_may_come_into_force():
    assert pick([LARGE], Wish(min_quality=0.95)) == Choice("large", frozenset({"fp32", "int8"}))
    assert pick([LARGE], Wish(variant="int8")) == Choice("large", frozenset({"int8"}))


def test_a_refusal_says_what_can_be_had():
    refused = pick([SMALL, PARKED, LARGE], Wish(min_quality=0.99, latency_budget_seconds=0.05))
    assert isinstance(refused, Refusal)
    assert refused.available == (
        {"model": "large", "variant": "int8", "quality": 0.97, "expected_latency_seconds": 0.08},
        {"model": "small", "variant": "fp32", "quality": 0.92, "expected_latency_seconds": 0.01},
    )
    assert refused.message == (
        "nothing in force meets min_quality 0.99, latency_budget_seconds 0.05; what can be had now: "
        "large by int8 (quality 0.97, expected latency 0.08 s); small by fp32 (quality 0.92, expected latency 0.01 s)"
    )
    assert refused.retry_after_seconds is None


def test_waiting_helps_only_where_the_queue_is_in_the_way():
    refused = pick([SMALL, LARGE], Wish(min_quality=0.95, latency_budget_seconds=0.04))
    assert isinstance(refused, Refusal)
    assert refused.retry_after_seconds == pytest.approx(0.05)
    refused = pick([SMALL, LARGE], Wish(min_quality=0.95, latency_budget_seconds=0.02))
    assert isinstance(refused, Refusal)
    assert refused.retry_after_seconds is None


def test_nothing_at_all():
    refused = pick([PARKED], Wish(min_quality=1.0, latency_budget_seconds=1.0))
    assert isinstance(refused, Refusal)
    assert refused.message.endswith("what can be had now: nothing")
