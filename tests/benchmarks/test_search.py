from __future__ import annotations

from benchmarks.search import compare
from variants.pareto import Point

MIB = 1 << 20


def test_each_rung_beside_what_the_search_found() -> None:
    by_hand = [
        Point("fp32", 1.0, 400 * MIB, 0.010),
        Point("int8", 0.98, 200 * MIB, 0.004),
        Point("old", 0.9, 500 * MIB, 0.02),
    ]
    alone = compare(by_hand, by_hand)
    assert [(c.rung.name, c.verdict) for c in alone] == [("fp32", "stays"), ("int8", "stays")]
    found = [*by_hand, Point("search-3", 0.98, 100 * MIB, 0.004), Point("search-4", 1.0, 401 * MIB, 0.010)]
    after = compare(by_hand, found)
    assert [(c.rung.name, c.verdict) for c in after] == [("fp32", "stays"), ("int8", "dominated")]
    assert after[1].by is not None
    assert after[1].by.name == "search-3"


def test_a_rung_that_is_gone_is_missed() -> None:
    by_hand = [Point("fp32", 1.0, 400 * MIB, 0.010)]
    assert [c.verdict for c in compare(by_hand, [Point("search-1", 0.9, 400 * MIB, 0.010)])] == ["missed"]
    assert [c.verdict for c in compare(by_hand, by_hand, floor=0.5)] == ["stays"]
