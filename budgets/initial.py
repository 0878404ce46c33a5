"""What to start with, before anything was measured."""

from __future__ import annotations

from collections.abc import Mapping

from budgets.choose import Limit, choose
from budgets.config import BudgetsConfig
from budgets.options import options_of
from variants.catalog import Catalog


def initial(catalog: Catalog, config: BudgetsConfig) -> dict[str, str | None]:
    """The first assignment: pins, else the best rungs that fit the memory budgets together by their profiles.

    The runtime's own memory is not known yet; budgets without a limit of their own are left to the controller. A model
    without a profile on this device starts on its first rung.
    """
    share = 1.0 / max(1, len(catalog.entries))
    assignment: dict[str, str | None] = {}
    candidates = {}
    for name, entry in catalog.entries.items():
        pin = config.policy(name).pin
        options = [o for o in options_of(entry, catalog.device, config, share) if o.variant is not None]
        if pin is not None:
            assignment[name] = pin
        elif not options:
            assignment[name] = entry.ladder.rungs[0]
        else:
            candidates[name] = options
    limits = [
        Limit(
            b.name,
            {(o.model, o.variant): float(o.bytes_of(b.resource)) for options in candidates.values() for o in options},
            b.limit * b.enter - b.reserve,
            float(b.limit),
        )
        for b in config.budgets
        if b.limit is not None
    ]
    first: Mapping[str, str | None] = {name: options[0].variant for name, options in candidates.items()}
    chosen = choose(candidates, first, limits).options
    return {**assignment, **{name: option.variant for name, option in chosen.items()}}
