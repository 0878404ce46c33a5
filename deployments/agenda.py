"""What a host still has to do, and in which order. Pure but for being a mutable list of work; no clock, no asyncio.

First what requests wait for (parked models), then what was asked for by hand, then the plan: degrades before restores,
since they free the memory that restores take, each in the order of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from budgets.snapshot import Mode
from deployments.api import Assignment
from variants.catalog import Catalog, Entry

Direction = Literal["degrade", "restore"]


def direction(entry: Entry, device: str, from_variant: str | None, to_variant: str | None) -> Direction:
    """Which way a change goes: down the ladder (nothing resident is its lowest rung) is a degrade. Variants that are
    not on the ladder are compared by the bytes of their profiles on this device."""
    rungs = entry.ladder.rungs

    def rung(variant: str | None) -> int | None:
        if variant is None:
            return len(rungs)
        return rungs.index(variant) if variant in rungs else None

    before, after = rung(from_variant), rung(to_variant)
    if before is not None and after is not None:
        return "degrade" if after > before else "restore"
    return "degrade" if needs(entry, device, to_variant) <= needs(entry, device, from_variant) else "restore"


def needs(entry: Entry, device: str, variant: str | None) -> int:
    """Bytes that a variant's profile on this device says it holds, of GPU memory where it runs on one; 0 for none, or
    without a profile."""
    profile = None if variant is None else entry.variants[variant].profile(device)
    return 0 if profile is None else profile.device_bytes or profile.resident_bytes


@dataclass(frozen=True)
class Target:
    """What a model is to run (None: parked), how to get there, and under which plan."""

    variant: str | None
    mode: Mode
    generation: int


@dataclass(frozen=True)
class Work:
    """One thing to do."""

    kind: Literal["swap", "wake", "load", "unload"]
    model: str
    target: Target


class Agenda:
    """The work that is left. `problems` are models whose part of the plan cannot be carried out, and why."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.generation = -1
        self.assigned: dict[str, Target] = {}
        self._swaps: dict[str, Target] = {}
        self._by_hand: list[tuple[Literal["load", "unload"], str]] = []
        self._wakes: dict[str, None] = {}

    def assign(self, assignment: Assignment, current: Mapping[str, str | None]) -> dict[str, str] | None:
        """Replace what is left of older plans by this one. Returns what is wrong with it, by model; None when a plan of
        this generation or a newer one was given before."""
        if assignment.generation <= self.generation:
            return None
        self.generation = assignment.generation
        self._swaps.clear()
        problems: dict[str, str] = {}
        for model, variant in assignment.variants.items():
            entry = self._catalog.entries.get(model)
            if entry is None:
                problems[model] = f"no model {model!r}; there are: {', '.join(sorted(self._catalog.entries))}"
            elif variant is not None and variant not in entry.variants:
                problems[model] = f"no variant {variant!r}; there are: {', '.join(entry.variants)}"
            else:
                mode = assignment.modes.get(model, "make_before_break")
                self.assigned[model] = self._swaps[model] = Target(variant, mode, assignment.generation)
        self._sort(current)
        return problems

    def _sort(self, current: Mapping[str, str | None]) -> None:
        def restores(model: str) -> bool:
            entry = self._catalog.entries[model]
            return direction(entry, self._catalog.device, current.get(model), self._swaps[model].variant) == "restore"

        self._swaps = {model: self._swaps[model] for model in sorted(self._swaps, key=restores)}

    def best(self, model: str) -> str | None:
        """The variant for a model that is asked for by hand or at the start: the plan's, else the best rung. Parked by
        the plan: its cheapest rung. None only when it has no variant at all."""
        entry = self._catalog.entries[model]
        rungs = entry.ladder.rungs or tuple(entry.variants)
        target = self.assigned.get(model)
        if target is not None and target.variant is not None:
            return target.variant
        if not rungs:
            return None
        return rungs[0] if target is None else rungs[-1]

    def cheapest(self, model: str) -> str | None:
        """What a parked model wakes up as."""
        entry = self._catalog.entries[model]
        return (entry.ladder.rungs or tuple(entry.variants) or (None,))[-1]

    def wake(self, model: str) -> None:
        """A request waits for a parked model."""
        self._wakes[model] = None

    def by_hand(self, kind: Literal["load", "unload"], model: str) -> None:
        """Load or unload a model on request."""
        self._by_hand.append((kind, model))

    def next(self) -> Work | None:
        """Remove and return the next thing to do."""
        mode: Mode = "make_before_break"
        if self._wakes:
            model = next(iter(self._wakes))
            del self._wakes[model]
            return Work("wake", model, Target(self.cheapest(model), mode, self.generation))
        if self._by_hand:
            kind, model = self._by_hand.pop(0)
            return Work(kind, model, Target(self.best(model) if kind == "load" else None, mode, self.generation))
        if self._swaps:
            model = next(iter(self._swaps))
            return Work("swap", model, self._swaps.pop(model))
        return None

    @property
    def settled(self) -> bool:
        """Nothing of the plan is left to start."""
        return not self._swaps
