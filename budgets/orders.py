"""Orders of people to one host group's controller: pins, single swaps, lifted quarantines, changed budgets, another file.
Each stands from the next tick on, and the journal keeps it."""

from __future__ import annotations

from collections.abc import Mapping

from budgets.config import BudgetsConfig
from budgets.overrides import Override, overlaid
from budgets.ports import Source
from budgets.state import State
from variants.errors import Conflict, InvalidInput, UnknownBudget


class Orders:
    """`source` is told of every configuration that comes into force."""

    def __init__(self, state: State, source: Source) -> None:
        self._state = state
        self._source = source

    # Variants

    @property
    def pins(self) -> Mapping[str, str | None]:
        """Pins made by hand: model -> variant (None: parked)."""
        return dict(self._state.pins)

    def pin(self, model: str, variant: str | None) -> None:
        """Pin a model from the next tick on; a quarantine of that variant is lifted. Raises UnknownModel, InvalidInput."""
        self._check(model, variant)
        self._state.requested.pop(model, None)
        self._state.pins[model] = variant
        self._lift(model, variant)

    def unpin(self, model: str) -> None:
        """Give a model back. What it was pinned below its best rung is restored once there is room. Raises UnknownModel."""
        self._state.known(model)
        self._state.pins.pop(model, None)

    def swap(self, model: str, variant: str) -> None:
        """Move a model once, with the next tick that is free to; afterwards the controller may move it again when its
        cooldown is over. Raises what `may_swap` does."""
        self.may_swap(model, variant)
        self._state.requested[model] = variant

    def may_swap(self, model: str, variant: str) -> None:
        """Raises UnknownModel, InvalidInput, Conflict (it is pinned elsewhere, or the variant is quarantined)."""
        self._check(model, variant)
        pins, configured = self._state.pins, self._state.config.policy(model).pin
        if model in pins or configured is not None:
            pinned = pins.get(model, configured)
            where = "by hand; unpin it first" if model in pins else f"in the configuration (models.{model}.pin)"
            raise Conflict(f"model {model!r} is pinned to {pinned or 'parked'} {where}")
        for held in self._state.memory.quarantined:
            if (held.model, held.variant) == (model, variant):
                raise Conflict(f"{model}/{variant} is quarantined ({held.reason}); clear the quarantine first")

    def lift(self, model: str, variant: str | None) -> bool:
        """End a variant's quarantine; False when there is none. Raises UnknownModel, InvalidInput."""
        self._check(model, variant)
        return self._lift(model, variant)

    def _lift(self, model: str, variant: str | None) -> bool:
        before = self._state.memory.quarantined
        kept = tuple(q for q in before if (q.model, q.variant) != (model, variant))
        self._state.memory = self._state.memory.model_copy(update={"quarantined": kept})
        return len(kept) < len(before)

    def _check(self, model: str, variant: str | None) -> None:
        self._state.known(model)
        variants = self._state.catalog.entries[model].variants
        if variant is not None and variant not in variants:
            raise InvalidInput(f"model {model!r} has no variant {variant!r}; it has {', '.join(variants)}")

    # Configuration

    @property
    def config(self) -> BudgetsConfig:
        """What is in force: the file, with overrides laid over its budgets."""
        return self._state.config

    @property
    def overrides(self) -> Mapping[str, Override]:
        """Budgets changed at run time, by name."""
        return dict(self._state.overrides)

    def override(self, budget: str, change: Override) -> None:
        """Change a budget from the next tick on; the journal keeps it. A field set to None is the file's again. Raises
        UnknownBudget, InvalidInput."""
        configured = self._state.configured
        if budget not in {b.name for b in configured.budgets}:
            known = ", ".join(b.name for b in configured.budgets) or "none"
            raise UnknownBudget(f"no budget {budget!r}; there are: {known}")
        before = self._state.overrides
        merged = {**before, budget: before.get(budget, Override()).then(change)}
        self._use(configured, {name: o for name, o in merged.items() if o.changes()})

    def reset(self, budget: str) -> None:
        """Give a budget the file's values back. Raises UnknownBudget."""
        self.override(budget, Override(**dict.fromkeys(Override.model_fields)))

    def reconfigure(self, config: BudgetsConfig) -> None:
        """Take another file's budgets and policies, with the overrides that are in force. Raises InvalidInput when one of
        those does not fit any more; nothing has changed then."""
        known = {b.name for b in config.budgets}
        self._use(config, {name: o for name, o in self._state.overrides.items() if name in known})

    def follow(self, other: Orders) -> None:
        """Take over the orders given for another group: pins, and changes of the budgets that both have."""
        shared = {b.name for b in other.config.budgets}
        own = {b.name for b in self._state.configured.budgets}
        kept = {name: o for name, o in self._state.overrides.items() if name not in shared}
        self._state.pins = dict(other.pins)
        self._use(self._state.configured, kept | {name: o for name, o in other.overrides.items() if name in own})

    def _use(self, configured: BudgetsConfig, overrides: dict[str, Override]) -> None:
        self._state.config = overlaid(configured, overrides)
        self._state.configured, self._state.overrides = configured, overrides
        self._source.reconfigure(self._state.config)
