"""What a request wishes for, and which of the variants in force it gets.

As INFaaS's queries by requirement (Romero et al., "INFaaS: Automated Model-less Inference Serving", ATC 2021): a request
may name a task instead of a model, and say what quality and latency it needs instead of a variant. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any


@dataclass(frozen=True)
class Wish:
    """`min_quality` in [0, 1]; `latency_budget_seconds` from arrival to answer inside the host; `variant` by name.
    None: anything will do."""

    min_quality: float | None = None
    latency_budget_seconds: float | None = None
    variant: str | None = None

    def __str__(self) -> str:
        parts = {
            "min_quality": self.min_quality,
            "latency_budget_seconds": self.latency_budget_seconds,
            "variant": self.variant,
        }
        return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)

    def admits(self, variant: str, quality: float | None) -> bool:
        """Whether a variant of that measured quality (None: not measured here) is what is wished for."""
        if self.variant is not None and variant != self.variant:
            return False
        return self.min_quality is None or (quality is not None and quality >= self.min_quality)


@dataclass(frozen=True)
class Candidate:
    """One model as it could answer now.

    `variant` in force, None where none is and a request would have to wait for a load. `qualities`: measured quality of
    every variant of the model, None where it was not measured on this device. `latency_seconds`: predicted from the
    variant's profile, its calls so far, and what waits; `idle_seconds`: the same with nothing waiting; None where nothing
    is known.
    """

    model: str
    variant: str | None
    qualities: Mapping[str, float | None]
    latency_seconds: float | None = None
    idle_seconds: float | None = None

    @property
    def quality(self) -> float | None:
        """Of the variant in force."""
        return None if self.variant is None else self.qualities.get(self.variant)

    def offer(self) -> dict[str, Any]:
        """What could be had now, as clients are told."""
        return {
            "model": self.model,
            "variant": self.variant,
            "quality": self.quality,
            "expected_latency_seconds": None if self.latency_seconds is None else round(self.latency_seconds, 6),
        }


@dataclass(frozen=True)
class Choice:
    """The model that answers, and which of its variants may: they can change while the request waits."""

    model: str
    variants: frozenset[str]


@dataclass(frozen=True)
class Refusal:
    """No candidate meets the wish. `retry_after_seconds` when one would, were it not for the requests that wait."""

    message: str
    available: tuple[dict[str, Any], ...]
    retry_after_seconds: float | None = None


def pick(candidates: Sequence[Candidate], wish: Wish) -> Choice | Refusal:
    """The best quality among the variants in force that meet the wish, then the lowest latency, then the first.

    Quality and latency that nobody measured meet no wish for them, and count least where there is none. A model that is
    not in memory is chosen last, for a wish without a latency budget that one of its variants can meet: the request then
    waits for the load.
    """
    admitted = [c for c in candidates if c.variant is not None and wish.admits(c.variant, c.quality)]
    budget = wish.latency_budget_seconds
    fits = [c for c in admitted if budget is None or (c.latency_seconds is not None and c.latency_seconds <= budget)]
    if fits:
        return _choice(max(fits, key=_rank), wish)
    if budget is None:
        for candidate in candidates:
            if candidate.variant is None and any(wish.admits(v, q) for v, q in candidate.qualities.items()):
                return _choice(candidate, wish)
    offers = tuple(c.offer() for c in sorted(candidates, key=_rank, reverse=True) if c.variant is not None)
    waits = [
        c.latency_seconds - c.idle_seconds
        for c in admitted
        if c.latency_seconds is not None
        and c.idle_seconds is not None
        and budget is not None
        and c.idle_seconds <= budget
    ]
    return Refusal(refusal(wish, offers), offers, min(waits, default=None))


def refusal(wish: Wish | str, offers: Sequence[Mapping[str, Any]]) -> str:
    """The words of a refusal."""
    had = "; ".join(
        f"{o['model']} by {o['variant']}"
        f" (quality {_known(o['quality'])}, expected latency {_known(o['expected_latency_seconds'])} s)"
        for o in offers
    )
    return f"nothing in force meets {wish}; what can be had now: {had or 'nothing'}"


def _known(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _rank(candidate: Candidate) -> tuple[float, float]:
    latency = inf if candidate.latency_seconds is None else candidate.latency_seconds
    return (-1.0 if candidate.quality is None else candidate.quality), -latency


def _choice(candidate: Candidate, wish: Wish) -> Choice:
    return Choice(candidate.model, frozenset(v for v, q in candidate.qualities.items() if wish.admits(v, q)))
