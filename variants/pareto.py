"""The Pareto front of a model's variants, and its ladder.

A variant is dominated when another is no worse in quality, resident bytes and latency, and better in one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from variants.catalog import Catalog, Entry, Ladder, Profile, Variant

#: Differences below these are measurement noise, and do not put a variant on the ladder: for quality as it is, for bytes
#: and seconds a share of the value and a floor.
QUALITY_NOISE = 0.0005
#: Half of a confidence interval counts as noise up to this: a small evaluation set must not hide a loss it has seen.
LARGEST_QUALITY_NOISE = 0.002
BYTES_NOISE, BYTES_FLOOR = 0.02, 6 << 20
LATENCY_NOISE, LATENCY_FLOOR = 0.05, 100e-6


@dataclass(frozen=True)
class Point:
    """One variant's place: quality in [0, 1] and its noise, resident bytes (host and device), seconds of a batch of one, times the
    calls of others that it takes the place of."""

    name: str
    quality: float
    resident_bytes: int
    seconds: float
    quality_noise: float = QUALITY_NOISE


@dataclass(frozen=True)
class Row:
    """One line of a model's table; the numbers are None for a variant without a profile on this device.

    `rung` counts from 0 (highest quality); None: dominated, or not profiled.
    """

    variant: str
    engine: str
    rung: int | None
    quality: float | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    resident_bytes: int | None = None
    p50_seconds: float | None = None
    throughput: float | None = None
    load_seconds: float | None = None


def dominates(a: Point, b: Point) -> bool:
    """True when `a` is no worse than `b` within noise in every respect, and better beyond noise in one."""
    better = (
        a.quality > b.quality + _quality_noise(a, b)
        or a.resident_bytes < b.resident_bytes - _bytes_noise(a, b)
        or a.seconds < b.seconds - _latency_noise(a, b)
    )
    return no_worse(a, b) and better


def no_worse(a: Point, b: Point) -> bool:
    """True when `a` is as good as `b` or better, within noise, in every respect."""
    return (
        a.quality >= b.quality - _quality_noise(a, b)
        and a.resident_bytes <= b.resident_bytes + _bytes_noise(a, b)
        and a.seconds <= b.seconds + _latency_noise(a, b)
    )


def as_good(rung: Point, found: Sequence[Point]) -> Point | None:
    """Of what was found, a point that dominates or equals a rung: the one of highest quality; None where none does."""
    return max((p for p in found if no_worse(p, rung)), key=lambda p: p.quality, default=None)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one of the front dominates, highest quality first, of the same quality the fastest first and the one
    of fewest bytes last. Of several points that are the same within noise, the one of the highest quality, fewest bytes and
    seconds stays. Never empty for a non-empty input.

    Within noise, domination is not transitive: what only a dominated point dominates stays.
    """
    ordered = sorted(points, key=lambda p: (-p.quality, p.resident_bytes, p.seconds, p.name))
    kept: list[Point] = []
    left = ordered
    while left:
        undominated = (p for p in left if not any(dominates(other, p) for other in left))
        best = next(undominated, left[0])
        kept.append(best)
        left = [p for p in left if p is not best and not dominates(best, p) and not _same(best, p)]
    return sorted(kept, key=lambda p: (-p.quality, p.seconds, p.resident_bytes, p.name))


def _same(a: Point, b: Point) -> bool:
    return (
        abs(a.quality - b.quality) <= _quality_noise(a, b)
        and abs(a.resident_bytes - b.resident_bytes) <= _bytes_noise(a, b)
        and abs(a.seconds - b.seconds) <= _latency_noise(a, b)
    )


def _quality_noise(a: Point, b: Point) -> float:
    return max(a.quality_noise, b.quality_noise)


def _bytes_noise(a: Point, b: Point) -> float:
    return max(BYTES_FLOOR, BYTES_NOISE * max(a.resident_bytes, b.resident_bytes))


def _latency_noise(a: Point, b: Point) -> float:
    return max(LATENCY_FLOOR, LATENCY_NOISE * max(a.seconds, b.seconds))


def point(variant: Variant, profile: Profile) -> Point:
    """A variant's place by one of its profiles."""
    size = profile.resident_bytes + profile.device_bytes
    return Point(
        variant.name, profile.quality, size, profile.smallest.p50_seconds * profile.width, quality_noise(profile)
    )


def quality_noise(profile: Profile) -> float:
    """How far apart two qualities like this one may be and still be the same."""
    if profile.quality_low is None or profile.quality_high is None:
        return QUALITY_NOISE
    half = (profile.quality_high - profile.quality_low) / 2.0
    return min(LARGEST_QUALITY_NOISE, max(QUALITY_NOISE, half))


def ladder(model: str, variants: Mapping[str, Variant], device: str, floor: float = 0.0) -> Ladder:
    """A model's ladder on a device: its front above the floor of quality (the best variant where none is).

    Variants without a profile there cannot be compared: they are rungs only when no variant has one, in the given order.
    """
    measured = {name: v.profile(device) for name, v in variants.items()}
    points = [point(variants[name], p) for name, p in measured.items() if p is not None and p.batches]
    if not points:
        return Ladder(model=model, rungs=tuple(variants))
    above = [p for p in points if p.quality >= floor]
    return Ladder(model=model, rungs=tuple(p.name for p in front(above) or front(points)[:1]))


def table(entry: Entry, device: str) -> list[Row]:
    """Every variant of a model: the rungs from the top, then the dominated ones, then those without a profile."""
    rows = []
    for name, variant in entry.variants.items():
        profile = variant.profile(device)
        if profile is None or not profile.batches:
            rows.append(Row(name, variant.engine, None))
            continue
        place = point(variant, profile)
        rung = entry.ladder.rungs.index(name) if name in entry.ladder.rungs else None
        throughput = max(b.throughput for b in profile.batches)
        bounds = (profile.quality_low, profile.quality_high)
        seconds = profile.smallest.p50_seconds
        numbers = (place.quality, *bounds, place.resident_bytes, seconds, throughput, profile.load_seconds)
        rows.append(Row(name, variant.engine, rung, *numbers))
    return sorted(rows, key=lambda r: (r.quality is None, r.rung is None, r.rung or 0, -(r.quality or 0)))


def on_device(catalog: Catalog, device: str) -> Catalog:
    """The same models with the ladders of another device, by the profiles measured there."""
    entries = {
        name: entry.model_copy(update={"ladder": ladder(name, entry.variants, device, entry.model.floor)})
        for name, entry in catalog.entries.items()
    }
    return catalog.model_copy(update={"device": device, "entries": entries})
