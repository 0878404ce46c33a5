"""What the controller needs of the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from budgets.config import BudgetsConfig
from budgets.plan import Decision, Plan
from budgets.snapshot import HostState, Readings


class Source(Protocol):
    """Where readings come from."""

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        """Readings as of `now` (unix seconds). What cannot be read is Missing with its reason; may raise OSError."""
        ...

    def reconfigure(self, config: BudgetsConfig) -> None:
        """Use other budgets, policies and windows from the next `read` on."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


class Actuator(Protocol):
    """A controller's arm: what the hosts that it plans for run, and a plan handed to them."""

    async def observe(self) -> tuple[HostState, ...]: ...

    async def apply(self, plan: Plan) -> None: ...


class Fleet(Protocol):
    """All hosts of all groups."""

    async def observe(self) -> tuple[HostState, ...]:
        """What every host that answers says of itself."""
        ...

    async def apply(self, plan: Plan, group: str, others: Mapping[str, Plan]) -> None:
        """Hand a plan to the hosts of one group. `others`: what the other groups run, for those that have been given no
        plan of their own yet."""
        ...

    async def reassert(self, plans: Mapping[str, Plan]) -> None:
        """What hosts are told is older than what they follow: tell all of them these plans, by group, and what they have
        been ordered. Nothing is done where what they are told is as new already."""
        ...


class Journal(Protocol):
    """Where decisions are kept."""

    def append(self, decision: Decision) -> None: ...

    def last(self) -> Decision | None: ...


class Metrics(Protocol):
    """Where the controller's own metrics go."""

    def tick(self, decision: Decision, seconds: float, ages: Mapping[str, float]) -> None: ...
