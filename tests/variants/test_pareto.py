from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.build.told import beside
from variants.catalog import BatchProfile, Lineage, Profile, Variant
from variants.device import fingerprint
from variants.pareto import Point, as_good, dominates, front, ladder, on_device, quality_noise, table
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


def test_what_only_a_dominated_point_dominates_stays() -> None:
    large = Point("large", 0.9994, 54 * MIB, 0.0037)
    between = Point("between", 0.989, 50 * MIB, 0.0037)
    small = Point("small", 0.965, 46 * MIB, 0.0037)
    assert dominates(large, between)
    assert dominates(between, small)
    assert not dominates(large, small)
    for order in ([large, between, small], [small, between, large]):
        assert [p.name for p in front(order)] == ["large", "small"]


def test_small_differences_of_small_models_are_noise() -> None:
    assert [p.name for p in front([Point("a", 1.0, 4 * MIB, 1e-5), Point("b", 0.99, 1 * MIB, 2e-5)])] == ["a"]


def test_what_is_as_good_as_a_rung() -> None:
    rung = Point("rung", 0.99, 100 * MIB, 0.01)
    equal = Point("equal", 0.9896, 101 * MIB, 0.0104)
    better = Point("better", 0.992, 50 * MIB, 0.01)
    slower = Point("slower", 1.0, 50 * MIB, 0.011)
    larger = Point("larger", 1.0, 110 * MIB, 0.001)
    worse = Point("worse", 0.989, 10 * MIB, 0.001)
    assert as_good(rung, [slower, larger, worse]) is None
    assert as_good(rung, [slower, equal]) == equal
    assert as_good(rung, [equal, better]) == better
    assert as_good(rung, []) is None


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


def test_quality_noise_is_half_of_the_interval_up_to_a_bound() -> None:
    def noise(low: float | None, high: float | None) -> float:
        batch = BatchProfile(batch=1, p50_seconds=0.1, p99_seconds=0.1, throughput=10.0)
        fields = {"device": "d", "threads": 1, "resident_bytes": 1, "load_seconds": 0.0, "warmup_seconds": 0.0}
        return quality_noise(Profile(**fields, batches=(batch,), quality=0.9, quality_low=low, quality_high=high))

    assert noise(None, None) == 0.0005
    assert noise(0.8999, 0.9001) == 0.0005
    assert noise(0.899, 0.901) == pytest.approx(0.001)
    assert noise(0.85, 0.95) == 0.002
    better = Point("better", 0.9015, 10 * MIB, 0.01, quality_noise=0.001)
    assert not dominates(better, Point("other", 0.9005, 10 * MIB, 0.01, quality_noise=0.001))
    assert dominates(better, Point("other", 0.9, 10 * MIB, 0.01, quality_noise=0.001))


def measured(name: str, quality: float, size: int, seconds: float, width: int = 1) -> Variant:
    batch = BatchProfile(batch=1, p50_seconds=seconds, p99_seconds=0.1, throughput=10.0)
    profile = Profile(
        device="d",
        threads=1,
        width=width,
        resident_bytes=size,
        load_seconds=0.0,
        warmup_seconds=0.0,
        batches=(batch,),
        quality=quality,
    )
    lineage = Lineage(technique="t")
    return Variant(name=name, engine="onnx", precision="fp32", artefact="m.onnx", lineage=lineage, profiles=(profile,))


def test_a_rung_is_above_the_models_floor() -> None:
    variants = {n: measured(n, q, s * MIB, s * 1e-3) for n, q, s in (("a", 0.99, 100), ("b", 0.9, 50), ("c", 0.5, 10))}
    assert ladder("m", variants, "d").rungs == ("a", "b", "c")
    assert ladder("m", variants, "d", 0.8).rungs == ("a", "b")
    assert ladder("m", variants, "d", 0.999).rungs == ("a",)


def test_a_call_on_all_threads_counts_as_those_that_it_takes_the_place_of(affine_repository: Path) -> None:
    usual, alone = measured("usual", 0.9, 50 * MIB, 0.003), measured("alone", 0.9, 40 * MIB, 0.002, width=2)
    variants = {v.name: v for v in (usual, alone)}
    assert ladder("m", variants, "d").rungs == ("usual", "alone"), "smaller, but two of the other take less time"
    changed = {"variants": variants, "ladder": ladder("m", variants, "d")}
    entry = load_catalog(affine_repository).entries["alpha"].model_copy(update=changed)
    assert [row.p50_seconds for row in table(entry, "d")] == [0.003, 0.002]


def test_a_comparison_counts_a_call_on_all_threads_by_its_share() -> None:
    usual, alone = measured("usual", 0.9, 50 * MIB, 0.003), measured("alone", 0.9, 40 * MIB, 0.002, width=2)
    told = beside(usual, alone, "d")
    assert told is not None
    assert "0.80 of the resident bytes, 0.5 times the throughput" in told
