"""The order in which requests are taken, what goes together, and who gives way."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.batching import Pending
from deployments.company import LIMIT, Company
from deployments.padding import wasted
from deployments.waiting import LOOK, SPARE, Waiting
from variants.lengths import bucket

NEVER = 1e9


def pending(rows: int = 1, key: Any = ((4,),), priority: int = 4, deadline: float = NEVER, length: int = 0) -> Pending:
    return Pending({}, rows, key, 0.0, deadline, None, priority, length)  # type: ignore[arg-type]


def filled(*requests: Pending, company: Company | None = None) -> Waiting:
    waiting = Waiting(company)
    for request in requests:
        waiting.append(request)
    return waiting


def of_length(length: int, rows: int = 1, priority: int = 4) -> Pending:
    return pending(rows, bucket(length), priority, length=length)


def test_priority_then_arrival():
    low, first, second, high = pending(priority=9), pending(), pending(), pending(priority=1)
    waiting = filled(low, first, second, high)
    assert [waiting.take(1, 0.0)[0] for _ in range(4)] == [[high], [first], [second], [low]]
    assert (waiting.count, waiting.rows, waiting.take(1, 0.0)) == (0, 0, ([], []))


def test_a_call_starts_with_the_oldest_and_takes_what_fits():
    a, other, big, small = pending(3), pending(1, ((5,),)), pending(4), pending(2)
    waiting = filled(a, other, big, small)
    assert waiting.take(5, 0.0)[0] == [a, small]
    assert waiting.take(5, 0.0)[0] == [other]
    assert waiting.take(2, 0.0)[0] == [big]  # alone, though the room is smaller


def test_what_is_put_back_is_where_it_was():
    first, second, third, other = pending(), pending(2), pending(), pending(1, ((5,),))
    waiting = filled(first, second, other, third)
    batch, _ = waiting.take(8, 0.0)
    assert batch == [first, second, third]
    waiting.put_back(batch[1:])
    assert (waiting.count, waiting.rows) == (3, 4)
    assert [waiting.take(8, 0.0)[0] for _ in range(2)] == [[second, third], [other]]
    assert (waiting.count, waiting.rows) == (0, 0)


def test_less_important_requests_of_the_same_shape_fill_up_the_call():
    low, high, other = pending(priority=9), pending(priority=1), pending(1, ((5,),), 4)
    waiting = filled(low, other, high)
    assert waiting.take(8, 0.0)[0] == [high, low]
    assert waiting.take(8, 0.0)[0] == [other]


def test_what_is_late_is_set_aside():
    late, too, good = pending(deadline=1.0), pending(deadline=1.0), pending()
    waiting = filled(late, good, too)
    assert waiting.take(8, 1.0) == ([good], [late, too])
    assert waiting.count == waiting.rows == 0
    waiting = filled(pending(deadline=1.0))
    assert waiting.take(8, 2.0)[0] == []


def test_the_youngest_of_the_least_important_gives_way():
    old, young, newest = pending(priority=9), pending(1, ((5,),), priority=9), pending(priority=1)
    waiting = filled(old, young, newest)
    assert waiting.least() is young
    waiting.remove(young)
    assert waiting.least() is old
    waiting.remove(old)
    assert waiting.least() is newest
    waiting.remove(newest)
    assert waiting.least() is None


def test_rows_ahead_of_a_priority():
    waiting = filled(pending(2, priority=1), pending(3), pending(4, priority=9))
    assert [waiting.ahead(p) for p in (1, 2, 4, 9)] == [2, 2, 5, 9]


def test_dropped_requests_leave_no_trace():
    waiting = filled(pending(priority=1))
    for number in range(10_000):
        request = pending(1, ((number % 7,),), priority=number % 5 + 2)
        waiting.append(request)
        waiting.remove(request)
    held = sum(len(line) for level in waiting._levels.values() for line in level.lines.values())
    assert (waiting.count, waiting.rows) == (1, 1)
    assert held <= 40


def test_looking_past_what_does_not_fit_is_bounded():
    first, fits = pending(1), pending(1)
    waiting = filled(first, *(pending(8) for _ in range(LOOK)), fits)
    assert waiting.take(8, 0.0)[0] == [first]
    waiting = filled(first, *(pending(8) for _ in range(LOOK - 1)), fits)
    assert waiting.take(8, 0.0)[0] == [first, fits]


def test_everything_leaves_in_order_of_arrival():
    requests = [pending(priority=p) for p in (9, 1, 4)]
    waiting = filled(*requests)
    assert waiting.clear() == requests
    assert (waiting.count, list(waiting)) == (0, [])


def test_neighbouring_lengths_share_a_call_below_the_limit():
    company = Company(8)
    waiting = filled(*(of_length(n) for n in (60, 20, 64, 55, 40, 61)), company=company)
    batch, _ = waiting.take(8, 0.0)
    assert sorted(p.length for p in batch) == [55, 60, 61, 64]
    padding, positions = wasted(batch)
    assert padding / positions < LIMIT
    company.made(padding, positions)
    assert [p.length for p in waiting.take(8, 0.0)[0]] == [20, 40]  # the first call had something to spare
    assert (waiting.count, waiting.rows) == (0, 0)


def test_what_is_put_back_later_goes_first_too_also_where_its_line_is_gone():
    first, second, other = of_length(9), of_length(9), of_length(30)
    waiting = filled(first, second, other)
    batch, _ = waiting.take(8, 0.0)
    assert batch == [first, second]
    assert waiting.take(8, 0.0)[0] == [other]
    assert waiting.take(8, 0.0)[0] == []  # every line is cleared away
    young = of_length(9)
    waiting.append(young)
    waiting.put_back(batch)
    assert (waiting.count, waiting.rows) == (3, 3)
    assert waiting.take(1, 0.0)[0] == [first]
    assert waiting.take(8, 0.0)[0] == [second, young]
    assert waiting.take(8, 0.0)[0] == []


def test_the_important_and_then_the_oldest_of_a_length_join_first():
    low, first, young, high = of_length(9, priority=9), of_length(8), of_length(9), of_length(9, priority=1)
    waiting = filled(low, first, young, high, company=Company(2))
    assert waiting.take(2, 0.0)[0] == [high, young]
    assert waiting.take(2, 0.0)[0] == [first, low]


def test_padded_requests_that_are_late_do_not_run():
    late = Pending({}, 1, bucket(9), 0.0, 1.0, None, 4, 9)  # type: ignore[arg-type]
    first, other, gone = of_length(9), of_length(9), of_length(9)
    waiting = filled(first, late, gone, other, company=Company(8))
    waiting.remove(gone)
    assert waiting.take(8, 2.0) == ([first, other], [late])
    assert (waiting.count, waiting.rows, list(waiting)) == (0, 0, [])


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 4)), min_size=1, max_size=60), st.integers(1, 16))
def test_all_calls_together_stay_below_the_limit(requests, room):
    waiting = filled(*(of_length(length, rows) for length, rows in requests), company=Company(16))
    ran, padded, positions = [], 0, 0
    while waiting.count:
        oldest = min(waiting, key=lambda p: p.order)
        batch, late = waiting.take(room, 0.0)
        assert not late
        assert batch[0] is oldest
        assert sum(p.rows for p in batch) <= max(room, batch[0].rows)
        ran += batch
        more = wasted(batch)
        padded, positions = padded + more[0], positions + more[1]
        assert padded < LIMIT * positions
    assert len({id(p) for p in ran}) == len(ran) == len(requests)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3), st.integers(1, 20)),
        st.tuples(st.just("take"), st.integers(1, 8)),
        st.tuples(st.just("drop"), st.integers(0, 30)),
        st.tuples(st.just("least")),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(STEPS)
def test_against_a_plain_list(steps):
    waiting, model, clock = Waiting(), [], itertools.count()
    for step in steps:
        now = float(next(clock))
        match step:
            case "add", rows, key, priority, seconds:
                request = pending(rows, ((key,),), priority, now + seconds)
                waiting.append(request)
                model.append(request)
            case "take", room:
                batch, late = waiting.take(room, now)
                assert all(p.deadline <= now for p in late)
                alive = sorted((p for p in model if p.deadline > now), key=lambda p: (p.priority, p.order))
                assert batch[:1] == alive[:1]
                assert len({p.key for p in batch}) <= 1
                assert sum(p.rows for p in batch) <= max(room, *(p.rows for p in batch[:1]), 0)
                assert all(p.deadline > now for p in batch)
                gone = {id(p) for p in batch + late}
                model = [p for p in model if id(p) not in gone]
            case "drop", index if index < len(model):
                waiting.remove(model.pop(index))
            case ("least",):
                least = max(model, key=lambda p: (p.priority, p.order), default=None)
                assert waiting.least() is least
        assert (waiting.count, waiting.rows) == (len(model), sum(p.rows for p in model))
        assert {id(p) for p in waiting} == {id(p) for p in model}


@pytest.mark.parametrize("priorities", [range(1, 3000), range(3000, 1, -1)])
def test_priorities_come_and_go(priorities):
    waiting = Waiting()
    for number in priorities:
        waiting.append(pending(priority=number))
        waiting.take(1, 0.0)
        assert len(waiting._levels) <= SPARE + 2


def test_shapes_come_and_go():
    waiting = filled(pending(1, ((0,),), priority=9))
    for number in range(1, 3000):
        waiting.append(pending(1, ((number,),), priority=9))
        waiting.append(pending(1, ((number,),), priority=1))
        assert len(waiting.take(2, 0.0)[0]) == 2
        assert sum(len(level.lines) for level in waiting._levels.values()) <= 2 * (SPARE + 3)
    assert waiting.count == 1
