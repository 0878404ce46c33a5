"""Policies to compare: trimtab's own planner and published or common ones, each with its source."""

from __future__ import annotations

from collections.abc import Callable

from budgets.replay.engine import Policy
from budgets.replay.policies.infaas import Infaas
from budgets.replay.policies.proteus import Proteus
from budgets.replay.policies.reactive import ReactiveLadder
from budgets.replay.policies.static import StaticBest, StaticCheapest
from budgets.replay.policies.trimtab import Trimtab

POLICIES: dict[str, Callable[[], Policy]] = {
    "trimtab": Trimtab,
    "static-best": StaticBest,
    "static-cheapest": StaticCheapest,
    "reactive-ladder": ReactiveLadder,
    "infaas-like": Infaas,
    "proteus-like": Proteus,
}
