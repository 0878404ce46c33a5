"""Where a search goes from its front: structures that are on it are trained further, or made smaller in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from variants.build.space import NONE, OTHERWISE, STRUCTURES, Chain, Space

#: A structure is changed or trained further until it has so many steps.
LONGEST = 3
RATE = 3e-4
#: How much smaller a structure becomes that is on the front already.
MILD: Mapping[str, Mapping[str, Any]] = {
    "prune": {"ratio": 0.3},
    "low-rank": {"rank_ratio": 0.5, "speedup": 0.0},
}


def onward(front: Sequence[Chain], tried: Callable[[Chain], bool], space: Space, minutes: float) -> Chain | None:
    """The first chain that goes on from one of the front and whose structure was not tried: trained for `minutes` more,
    then pruned or factorised as well, then trained for that. The simplest structures come first. None: there is none.
    """
    for chain in sorted(front, key=lambda c: len(_structure(c))):
        before = _structure(chain)
        if not before or len(before) >= LONGEST:
            continue
        common = {**space.training, "minutes": minutes, "max_distance": 1.0}
        rate = min(RATE, float(before[-1][1].get("learning_rate", RATE)))
        steps = [("distil", {**common, "learning_rate": rate})]
        used = {t for t, _ in before}
        for technique, parameters in MILD.items():
            if technique in space.structures and technique not in used:
                steps.append((technique, {**common, **parameters, "learning_rate": RATE}))
        for step in steps:
            if not tried([*before, step]):
                return [*before, step, *chain[len(before) :]]
    return None


def finished_otherwise(space: Space, chain: Chain) -> list[Chain]:
    """The chain's structure with the other finishes that are worth a look; none for a chain without a structure."""
    before = _structure(chain)
    last = chain[len(before)][0] if len(chain) > len(before) else NONE
    if not before:
        return []
    there = (f for f in OTHERWISE if f in space.finishes and f != last)
    return [[*before, *([] if f == NONE else [(f, {"max_distance": 1.0})])] for f in there]


def _structure(chain: Chain) -> list[tuple[str, Mapping[str, Any]]]:
    return [(t, p) for t, p in chain if t in STRUCTURES]
