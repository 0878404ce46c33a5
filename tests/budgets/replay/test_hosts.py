"""A queue's batches, and which queue comes first."""

from __future__ import annotations

import math

import pytest

from budgets.fleet.world import Group
from budgets.replay.hosts import Host, Queue
from tests.budgets.fleet.worlds import rung

ONE = rung("x", "v", seconds=0.02, batches=(1, 2, 4, 8))  # 20, 30, 50, 90 ms


def queue(slo: float, *arrivals: float, limit: int = 8, streams: int = 1) -> Queue:
    made = Queue(Host("h-0", Group("h", "d", 1, streams=streams)), ONE, slo)
    made.set(ONE, limit)
    made.waiting.extend(arrivals)
    return made


def test_a_batch_is_what_waits_up_to_the_limit() -> None:
    made = queue(math.inf, *range(10), limit=4)
    assert made.next_batch(100.0) == ([0, 1, 2, 3], 0)
    assert made.next_batch(100.0) == ([4, 5, 6, 7], 0)
    assert made.next_batch(100.0) == ([8, 9], 0)


def test_a_batch_never_makes_its_oldest_request_late_by_its_size() -> None:
    made = queue(0.1, 0.0, 0.01, 0.01, 0.01, 0.01)
    assert made.next_batch(0.05) == ([0.0, 0.01, 0.01, 0.01], 0)  # five would take 60 ms of the 50 left


def test_what_cannot_be_in_time_is_dropped_before_it_costs_anything() -> None:
    made = queue(0.1, 0.0, 0.01, 0.05)
    assert made.next_batch(0.0901) == ([0.05], 2)
    assert queue(0.1, 0.0, 0.01).next_batch(0.2) == ([], 2)
    # At the very last moment it still is in time.
    assert queue(0.1, 0.0).next_batch(0.08) == ([0.0], 0)


def test_the_queue_whose_oldest_request_is_due_first_comes_first() -> None:
    host = Host("h-0", Group("h", "d", 1))
    for name, slo, arrival in (("slow", 1.0, 0.0), ("fast", 0.1, 0.5), ("never", math.inf, 0.0)):
        host.queues[name] = Queue(host, ONE, slo)
        host.queues[name].waiting.append(arrival)
        host.queues[name].ready = True
    assert host.urgent() is host.queues["fast"]
    host.queues["fast"].ready = False
    assert host.urgent() is host.queues["slow"]
    host.queues["slow"].waiting.clear()
    assert host.urgent() is host.queues["never"]
    host.queues["never"].waiting.clear()
    assert host.urgent() is None


@pytest.mark.parametrize(("slo", "full"), [(0.2, 2 * 4 * 3), (0.05, 2 * 4), (math.inf, 2 * 4 * 64)])
def test_a_queue_is_full_when_not_all_could_be_in_time(slo: float, full: int) -> None:
    assert queue(slo, limit=4, streams=2).full == full
