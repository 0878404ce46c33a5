from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from variants.device import fingerprint
from variants.pareto import Point, dominates, front, on_device, table
from variants.repository import load_catalog

MIB = 2**20
points = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400), st.floats(0.0001, 0.1)), min_size=1, max_size=8).map(
    lambda rows: [Point(f"v{i}", q, mib * MIB, s) for i, (q, mib, s) in enumerate(rows)]
)


@given(points)
def test_the_front(everything: list[Point]) -> None:
    kept = front(everything)
    assert kept
    assert [p.quality for p in kept] == sorted((p.quality for p in kept), reverse=True)
    assert not any(dominates(a, b) for a in kept for b in kept if a is not b and not dominates(b, a))
    best = max(everything, key=lambda p: p.quality)
    assert any(p.quality >= best.quality - 0.0005 for p in kept), "the best quality is never lost beyond noise"


def test_dominated_and_equal_points_go() -> None:
    full = Point("full", 1.0, 200 * MIB, 0.02)
    same = Point("same", 0.9999, 201 * MIB, 0.0201)
    smaller = Point("smaller", 0.98, 60 * MIB, 0.005)
    worse = Point("worse", 0.97, 80 * MIB, 0.006)
    assert [p.name for p in front([worse, smaller, same, full])] == ["full", "smaller"]
    free_lunch = Point("lunch", 1.0, 100 * MIB, 0.01)
    assert [p.name for p in front([full, free_lunch])] == ["lunch"]


def test_small_differences_of_small_models_are_noise() -> None:
    assert [p.name for p in front([Point("a", 1.0, 4 * MIB, 1e-5), Point("b", 0.99, 1 * MIB, 2e-5)])] == ["a"]


def test_the_table_shows_rungs_first(affine_repository: Path) -> None:
    entry = load_catalog(affine_repository).entries["alpha"]
    rows = table(entry, fingerprint())
    assert rows[0].variant == "full"
    assert rows[0].rung == 0
    assert rows[-1].variant == "broken"
    assert rows[-1].quality is None


def test_a_catalog_on_another_device_has_the_ladders_measured_there(affine_repository: Path) -> None:
    here = load_catalog(affine_repository)
    there = on_device(here, "another machine")
    assert there == load_catalog(affine_repository, device="another machine")
    assert on_device(there, here.device) == here
