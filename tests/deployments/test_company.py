"""Unequally long requests in one call: what a call costs beside its positions decides who joins whom."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from deployments.batching import Pending
from deployments.company import KNOWN_CALLS, LIMIT, MOST_OVERHEAD, OVERHEAD, Company, Overhead
from deployments.config import Batching
from deployments.padding import wasted
from variants.lengths import bucket


def of_length(length: int, rows: int = 1) -> Pending:
    return Pending({}, rows, bucket(length), 0.0, 1e9, None, 4, length)  # type: ignore[arg-type]


def lengths(batch: list[Pending]) -> list[int]:
    return [p.length for p in batch]


def costing(overhead: float, largest: int = 8) -> Company:
    """One that has made many calls without padding."""
    company = Company(largest)
    company.overhead.positions = overhead
    for _ in range(100):
        called(company, of_length(64), [])
    return company


def called(company: Company, first: Pending, others: list[Pending]) -> list[Pending]:
    """The call that it chooses, which is made."""
    batch = company.choose(first, others, 8)
    company.made(*wasted(batch))
    return batch


@pytest.mark.parametrize("overhead", [0.0, 20.0, 150.0])
def test_what_a_call_costs_beside_its_positions_is_learnt_from_calls(overhead):
    rng = np.random.default_rng(0)
    learnt = Overhead()
    for _ in range(400):
        positions = int(rng.choice((5, 12, 40, 96, 200, 512)))
        learnt.took(positions, 4e-5 * (overhead + positions) * rng.lognormal(0, 0.1))
    assert learnt.positions == pytest.approx(overhead, rel=0.25, abs=3)


def test_calls_of_one_size_and_few_calls_teach_nothing():
    learnt = Overhead()
    for _ in range(10 * KNOWN_CALLS):
        learnt.took(64, 0.01)
    assert learnt.positions == OVERHEAD
    learnt = Overhead()
    for positions in (10, 500) * (KNOWN_CALLS // 2 - 1):
        learnt.took(positions, 0.01)
    assert learnt.positions == OVERHEAD
    for positions in (10, 500) * KNOWN_CALLS:  # they all cost the same
        learnt.took(positions, 0.01)
    assert learnt.positions == MOST_OVERHEAD


def test_unequal_company_is_taken_where_a_call_more_would_cost_more():
    others = [of_length(n) for n in (12, 9, 7)]
    assert lengths(costing(200.0).choose(of_length(8), others, 8)) == [8, 12, 9, 7]
    assert lengths(costing(0.0).choose(of_length(8), others, 8)) == [8]


def test_calls_have_few_sizes():
    company = costing(200.0)
    assert lengths(company.choose(of_length(8), [of_length(8)] * 6, 8)) == [8] * 4
    assert lengths(company.choose(of_length(8), [of_length(8)] * 9, 8)) == [8] * 8
    assert [p.rows for p in company.choose(of_length(8, 3), [of_length(8), of_length(8, 2)], 8)] == [3, 1]
    assert [p.rows for p in company.choose(of_length(8, 3), [of_length(8, 2)], 8)] == [3]


def test_padding_beyond_the_limit_is_made_up_for_by_calls_below_it():
    company = costing(500.0)
    batches = [called(company, of_length(8), [of_length(16)]) for _ in range(200)]
    paired = sum(len(batch) == 2 for batch in batches)
    assert batches[0] != batches[-1]
    assert 0 < paired < 200
    assert all(len(called(company, of_length(8), [of_length(8)])) == 2 for _ in range(10))


def test_where_calls_are_dear_unequal_company_shortens_the_queue(virtual):
    """A call costs as much as 120 positions. Calls that each stay below the limit by themselves (company of neighbouring lengths
    only) answer half of these requests within 20.5 ms and 99 in 100 within 46.9."""
    rng = np.random.default_rng(1)
    mixed = np.clip(rng.gamma(4.0, 4.5, 4000), 5, 64).astype(int)

    def cost(rows, length):
        return 0.003 + 0.000025 * rows * length

    async def main():
        slot = virtual.slot("a", virtual.lanes(2), cost, Batching(queue=10_000), pad={"x": 0.0})
        taken = []

        async def one(length):
            arrival = virtual.clock()
            await slot.infer({"x": np.zeros((1, length), np.float32)}, 30.0, "test")
            taken.append(virtual.clock() - arrival)

        tasks = []
        for length in mixed:
            tasks.append(asyncio.create_task(one(int(length))))
            await asyncio.sleep(rng.exponential(1 / 700))
        await asyncio.gather(*tasks)
        slot.close()
        return *np.quantile(taken, (0.5, 0.99)), slot.tally.padding / slot.tally.positions

    p50, p99, padded = virtual.run(main())
    assert padded < LIMIT
    assert p50 < 0.017
    assert p99 < 0.042
