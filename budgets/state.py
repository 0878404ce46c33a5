"""What a controller carries from tick to tick, and what of it the journal brings back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from budgets.config import BudgetsConfig
from budgets.forecast import Past
from budgets.overrides import Override, overlaid, still_valid
from budgets.plan import Decision, Memory, Plan, Trigger
from budgets.pressure import History
from budgets.snapshot import Serving, Staged
from variants.catalog import Catalog
from variants.errors import UnknownModel

log = logging.getLogger("trimtab.controller")


@dataclass
class State:
    """`configured`: as the file has it; `config`: with the overrides laid over it. `pins`: made by hand; `requested`: swaps
    asked for once, until they are made. `assignment` None: the hosts were not seen yet. `recent`: the last decisions that
    were written down, oldest first; `last`: the last one, written down or not; `journalled_until`: when the controller
    before this one decided last (unix seconds; 0: never)."""

    configured: BudgetsConfig
    catalog: Catalog
    config: BudgetsConfig = field(init=False)
    history: History = field(default_factory=History)
    past: Past = field(default_factory=Past)
    triggers: tuple[Trigger, ...] = ()
    memory: Memory = field(default_factory=Memory)
    pins: dict[str, str | None] = field(default_factory=dict)
    requested: dict[str, str | None] = field(default_factory=dict)
    overrides: dict[str, Override] = field(default_factory=dict)
    generation: int = 0
    assignment: dict[str, str | None] | None = None
    serving: dict[str, Serving] = field(default_factory=dict)
    recent: list[Decision] = field(default_factory=list)
    last: Decision | None = None
    journalled_until: float = 0.0

    def __post_init__(self) -> None:
        self.config = self.configured

    def recover(self, last: Decision | None) -> None:
        """Take up where a journal ends: pins, overrides, triggers, the planner's memory, the generation. What runs is asked
        of the hosts on the first tick."""
        if last is None:
            return
        models = self.catalog.entries
        self.pins = {m: v for m, v in last.pins.items() if m in models and (v is None or v in models[m].variants)}
        kept, dropped = still_valid(self.configured, last.overrides)
        for reason in dropped:
            log.warning("a budget's change at run time was dropped: %s", reason)
        self.overrides = kept
        self.config = overlaid(self.configured, kept)
        self.triggers = last.triggers
        self.memory = last.memory
        self.generation = last.plan.generation
        self.journalled_until = last.at

    @property
    def in_force(self) -> Plan | None:
        """The plan that the hosts are to follow; None before they were seen."""
        if self.assignment is None:
            return None
        return Plan(
            generation=self.generation,
            assignment=dict(self.assignment),
            staged=self.staged,
            serving=dict(self.serving),
        )

    @property
    def staged(self) -> dict[str, Staged]:
        """What some hosts run on trial."""
        return staged(self.memory)

    @property
    def wanted(self) -> Mapping[str, str | None]:
        """Variants that people ask for: pins, and swaps that are still to be made."""
        return {**self.pins, **self.requested}

    @property
    def known_until(self) -> float:
        """When this controller, or the one whose journal it goes on with, last decided (unix seconds); 0: never."""
        return max(self.journalled_until, self.last.at if self.last else 0.0)

    def known(self, model: str) -> None:
        """Raises UnknownModel."""
        if model not in self.catalog.entries:
            raise UnknownModel(f"no model {model!r}; there are: {', '.join(sorted(self.catalog.entries))}")


def staged(memory: Memory) -> dict[str, Staged]:
    """What some hosts run on trial."""
    return {v.model: Staged(variant=v.to_variant, hosts=v.hosts) for v in memory.verifying if v.hosts}
