"""What profiles of one device tell of a model's variants, in words."""

from __future__ import annotations

from variants import pareto
from variants.catalog import Profile, Variant


def costs(variant: Variant, device: str) -> str:
    """What a variant costs, or that it is not known here."""
    profile = variant.profile(device)
    if profile is None or not profile.batches:
        return f"{variant.name} is not profiled here: what follows is compared with its weights only"
    size = (profile.resident_bytes + profile.device_bytes) / 2**20
    return (
        f"{variant.name} keeps {size:.1f} MiB resident and answers one sample in {profile.smallest.p50_seconds * 1e3:.2f} ms, "
        f"{_best(profile):.0f} a second at best (measured)"
    )


def beside(reference: Variant, variant: Variant | None, device: str) -> str | None:
    """A variant compared with the reference; None where one of them was not measured on the device."""
    mine = variant.profile(device) if variant else None
    theirs = reference.profile(device)
    if mine is None or theirs is None or not mine.batches or not theirs.batches:
        return None
    faster = _best(mine) / max(_best(theirs), 1e-9)
    smaller = (mine.resident_bytes + mine.device_bytes) / max(theirs.resident_bytes + theirs.device_bytes, 1)
    return f"{smaller:.2f} of the resident bytes, {faster:.1f} times the throughput, quality {mine.quality:.4f}"


def negligible(profile: Profile | None) -> bool:
    """Whether a variant is so small and fast that no other one can be better beyond noise."""
    if profile is None or not profile.batches:
        return False
    small = profile.resident_bytes + profile.device_bytes <= pareto.BYTES_FLOOR
    return small and profile.smallest.p50_seconds <= pareto.LATENCY_FLOOR


def _best(profile: Profile) -> float:
    """Samples per second of one of the calls that a host makes at once, or of its share of a call that takes the place of several."""
    return max(b.throughput for b in profile.batches) / profile.width
