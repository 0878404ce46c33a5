"""What is learnt of a model's calls, and what follows."""

from __future__ import annotations

import pytest

from deployments.pace import BRIEF_SECONDS, EXILE, KNOWN_CALLS, TOLERATED_SECONDS, Pace, Rate, company, largest, sizes
from variants.catalog import BatchProfile, Profile

PROFILE = Profile(
    device="d",
    threads=1,
    resident_bytes=1,
    load_seconds=0,
    warmup_seconds=0,
    quality=1,
    batches=(
        BatchProfile(batch=1, p50_seconds=0.010, p99_seconds=0.015, throughput=100),
        BatchProfile(batch=8, p50_seconds=0.024, p99_seconds=0.030, throughput=333),
    ),
)


def test_a_profile_speaks_until_there_are_calls():
    pace = Pace(PROFILE, 8)
    assert pace.drain == pytest.approx(0.003)
    assert (pace.longest, pace.tail) == (0.024, 1.5)
    assert [pace.seconds(n) for n in (1, 8)] == [0.010, 0.024]
    assert pace.seconds(4) == pytest.approx(0.016)
    assert pace.seconds(15) == pytest.approx(0.038)
    assert pace.tail_seconds(1) == pytest.approx(0.015)
    assert Pace(PROFILE, 4).drain == pytest.approx(0.010)  # calls of 8 are never made


def test_nothing_is_known_without_either():
    pace = Pace(None, 8)
    assert (pace.seconds(1), pace.tail_seconds(1), pace.drain) == (None, None, 0.0)
    pace.called(1, 0.5, 0.5, False)
    assert (pace.seconds(1), pace.seconds(4), pace.drain) == (0.5, 2.0, 0.0)


def test_calls_correct_the_profile():
    pace = Pace(PROFILE, 8)
    for _ in range(100):
        pace.called(8, 0.048, 0.048, True)
    assert pace.seconds(8) == pytest.approx(0.048, rel=0.01)
    assert pace.drain == pytest.approx(0.006, rel=0.01)
    assert pace.seconds(1) == 0.010


def test_waiting_for_a_turn_counts_as_draining():
    pace = Pace(None, 8)
    pace.called(8, 0.01, 0.04, True)
    assert pace.drain == pytest.approx(0.005)


def test_calls_side_by_side_drain_the_queue_together():
    pace = Pace(None, 8)
    for _ in range(50):  # two at once, of 40 ms each: one ends every 20 ms
        pace.called(8, 0.040, 0.020, True)
    assert pace.drain == pytest.approx(0.0025, rel=0.01)
    pace.called(1, 0.040, 0.0, False)  # nobody waited, so it says little
    assert pace.drain == pytest.approx(0.0025, rel=0.01)


def test_calls_that_were_not_full_only_lower_the_drain():
    pace = Pace(PROFILE, 8)
    pace.called(1, 0.010, 0.010, False)
    assert pace.drain == pytest.approx(0.003)
    for _ in range(100):
        pace.called(1, 0.001, 0.001, False)
    assert pace.drain == pytest.approx(0.001, rel=0.01)


def test_rates_fade():
    rate = Rate(0.0)
    for step in range(1, 501):
        rate.arrived(1)
        seen = rate.at(step / 100)
    assert seen == pytest.approx(100, rel=0.02)
    assert rate.at(6.0) == pytest.approx(100 * 0.3679, rel=0.03)
    assert rate.at(20.0) < 0.01


@pytest.mark.parametrize(
    ("rate", "rows"),
    [(1, 1), (69, 1), (75, 2), (150, 4), (230, 8), (1000, 1)],  # 1000/s is beyond every batch
)
def test_company(rate, rows):
    assert company(rate, Pace(PROFILE, 8).seconds, 8) == rows


def test_company_of_the_unknown_is_none():
    assert company(1e6, Pace(None, 8).seconds, 8) == 1


@pytest.mark.parametrize(("objective", "rows"), [(0.001, 1), (0.02, 1), (0.025, 2), (0.04, 4), (0.05, 8), (1.0, 8)])
def test_the_largest_call_within_an_objective(objective, rows):
    assert largest(objective, Pace(PROFILE, 8).seconds, 8) == rows


def test_sizes():
    assert sizes(1) == [1]
    assert sizes(6) == [1, 2, 4, 6]
    assert sizes(8) == [1, 2, 4, 8]


def test_calls_are_brief_once_measured_and_not_after_one_was_slow():
    pace = Pace(None, 8)
    assert not pace.brief(1, 0.0)  # nothing is known
    for _ in range(KNOWN_CALLS):
        assert not pace.brief(1, 0.0)
        pace.called(1, BRIEF_SECONDS / 2, 0.0, backlog=False)
    assert pace.brief(1, 1.0)
    assert not pace.brief(8, 1.0)  # of that size none was measured
    pace.called(8, BRIEF_SECONDS * 2, 0.0, backlog=False)
    assert not pace.brief(8, 1.0)
    slow = 2 * TOLERATED_SECONDS
    pace.called(1, slow, 0.0, backlog=False)  # in a thread: it may have waited for the loop
    assert pace.brief(1, 2.0)
    pace.called(1, slow, 0.0, backlog=False, blocked=slow, now=2.0)
    assert not pace.brief(1, 2.0 + 0.99 * EXILE * slow)
    assert pace.brief(1, 2.0 + 1.01 * EXILE * slow)


def test_what_now_and_then_waits_for_a_lock_is_brief_all_the_same():
    pace = Pace(None, 8)
    for number in range(200):
        seconds = TOLERATED_SECONDS / 2 if number % 2 else BRIEF_SECONDS / 4
        pace.called(1, seconds, 0.0, backlog=False)
    pace.called(1, BRIEF_SECONDS / 4, 0.0, backlog=False)
    assert pace.brief(1, 200.0)
