"""Host groups: one look at all hosts, then a `Controller` for each group over its own hosts, budgets and readings.

Requests are dealt to all hosts alike, so groups share nothing but the rate of what is asked: each is planned by itself.
Orders of people (pins, swaps, changed budgets) are for all groups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from budgets.config import DEFAULT_GROUP, BudgetsConfig
from budgets.controller import Controller
from budgets.overrides import Override, overlaid
from budgets.plan import Decision, Plan
from budgets.ports import Actuator, Fleet
from budgets.snapshot import HostState
from variants.errors import UnknownBudget

log = logging.getLogger("trimtab.controller")
#: Makes the controller of one group: its name, what holds in it, and the arm to its hosts.
Make = Callable[[str, BudgetsConfig, Actuator], Controller]


class Arm:
    """One group's part of the fleet (see `budgets.ports.Actuator`)."""

    def __init__(self, fleet: Fleet, group: str, in_force: Callable[[], Mapping[str, Plan]]) -> None:
        self._fleet = fleet
        self._group = group
        self._in_force = in_force
        #: What this tick's look at the whole fleet has shown; the next `observe` answers with it.
        self.seen: tuple[HostState, ...] | None = None

    async def observe(self) -> tuple[HostState, ...]:
        hosts, self.seen = self.seen, None
        if hosts is None:
            hosts = await self._fleet.observe()
        return tuple(h for h in hosts if h.group == self._group)

    async def apply(self, plan: Plan) -> None:
        others = {group: other for group, other in self._in_force().items() if group != self._group}
        await self._fleet.apply(plan, self._group, others)


class Groups:
    """One per application. `tick` must not be called again before it has returned; the other methods may be at any time
    on the same event loop.

    A group is known once a budget names it or a host is in it, and stays known when its hosts are gone: nothing is planned
    for it then, and hosts that come back start on its last plan. `home`: the group of the controller's own machine.
    """

    def __init__(self, config: BudgetsConfig, make: Make, fleet: Fleet, *, home: str = DEFAULT_GROUP) -> None:
        self._configured = config
        self._make = make
        self._fleet = fleet
        self._home = home
        self._members: dict[str, Controller] = {}
        self._arms: dict[str, Arm] = {}
        self._populated: set[str] = set()
        for group in (DEFAULT_GROUP, *config.groups()):
            self._join(group)

    def _join(self, group: str) -> None:
        if group in self._members:
            return
        arm = Arm(self._fleet, group, self._in_force)
        self._members[group] = self._make(group, self._configured.of(group, self._home), arm)
        self._arms[group] = arm
        # Orders are for all groups; journals of groups that were away may say otherwise.
        latest = max(self._members.values(), key=lambda m: m.state.known_until)
        for each in self._members.values():
            if each is not latest:
                each.orders.follow(latest.orders)

    def _in_force(self) -> dict[str, Plan]:
        return {group: plan for group, member in self._members.items() if (plan := member.state.in_force) is not None}

    @property
    def members(self) -> dict[str, Controller]:
        """The controllers by group, the default one first; that one is left out while all hosts are in other groups."""
        others = {group: self._members[group] for group in sorted(self._members) if group != DEFAULT_GROUP}
        if others and self._populated and DEFAULT_GROUP not in self._populated:
            return others
        return {DEFAULT_GROUP: self._members[DEFAULT_GROUP], **others}

    @property
    def _first(self) -> Controller:
        return next(iter(self.members.values()))

    async def tick(self, now: float) -> dict[str, Decision]:
        """Every group's decision. What goes wrong in one group is that decision's `error`, and stops no other."""
        try:
            hosts = await self._fleet.observe()
        except Exception as error:
            log.warning("the hosts cannot be looked at: %s: %s", type(error).__name__, error)
        else:
            for group in sorted({host.group for host in hosts}):
                self._populated.add(group)
                try:
                    self._join(group)
                except Exception as error:  # its journal cannot be opened, say; tried again with the next tick
                    log.error("group %r cannot be planned: %s: %s", group, type(error).__name__, error)
            await self._reassert(hosts)
            for arm in self._arms.values():
                arm.seen = hosts
        members = self.members
        decisions = await asyncio.gather(*(member.tick(now) for member in members.values()))
        return dict(zip(members, decisions, strict=True))

    async def _reassert(self, hosts: tuple[HostState, ...]) -> None:
        """A Serve configuration that is submitted anew says what it said at first: hosts pass over it, and those that start
        later would follow it."""
        plans = self._in_force()
        if not any(host.group in plans and host.lacks(plans[host.group].generation) for host in hosts):
            return
        try:
            await self._fleet.reassert(plans)
        except Exception as error:
            log.warning("the hosts cannot be told again: %s: %s", type(error).__name__, error)

    async def aclose(self) -> None:
        """Release what readings come through."""
        await asyncio.gather(*(member.aclose() for member in self._members.values()))

    # What people ask

    @property
    def config(self) -> BudgetsConfig:
        """What is in force in all groups: the file, with overrides laid over its budgets."""
        return overlaid(self._configured, self.overrides)

    @property
    def overrides(self) -> Mapping[str, Override]:
        """Budgets changed at run time, by name."""
        return {name: change for member in self._members.values() for name, change in member.orders.overrides.items()}

    @property
    def pins(self) -> Mapping[str, str | None]:
        """Pins made by hand: model -> variant (None: parked)."""
        return self._members[DEFAULT_GROUP].orders.pins

    @property
    def generation(self) -> int:
        """The plan in force of the first group."""
        return self._first.state.generation

    def pin(self, model: str, variant: str | None) -> None:
        """See `budgets.orders.Orders.pin`."""
        for member in self._members.values():
            member.orders.pin(model, variant)

    def unpin(self, model: str) -> None:
        """See `budgets.orders.Orders.unpin`."""
        for member in self._members.values():
            member.orders.unpin(model)

    def swap(self, model: str, variant: str) -> None:
        """See `budgets.orders.Orders.swap`; in no group when it may not be done in one."""
        members = self.members.values()
        for member in members:
            member.orders.may_swap(model, variant)
        for member in members:
            member.orders.swap(model, variant)

    def lift(self, model: str, variant: str | None) -> bool:
        """See `budgets.orders.Orders.lift`; False when it was quarantined in no group."""
        lifted = [member.orders.lift(model, variant) for member in self._members.values()]
        return any(lifted)

    def override(self, budget: str, change: Override) -> None:
        """See `budgets.orders.Orders.override`."""
        for member in self._having(budget):
            member.orders.override(budget, change)

    def reset(self, budget: str) -> None:
        """See `budgets.orders.Orders.reset`."""
        for member in self._having(budget):
            member.orders.reset(budget)

    def _having(self, budget: str) -> list[Controller]:
        names = [b.name for b in self._configured.budgets]
        if budget not in names:
            raise UnknownBudget(f"no budget {budget!r}; there are: {', '.join(names) or 'none'}")
        return [m for m in self._members.values() if budget in {b.name for b in m.orders.config.budgets}]

    def reconfigure(self, config: BudgetsConfig) -> None:
        """See `budgets.orders.Orders.reconfigure`."""
        known = {b.name for b in config.budgets}
        overlaid(config, {name: change for name, change in self.overrides.items() if name in known})
        self._configured = config
        for group, member in self._members.items():
            member.orders.reconfigure(config.of(group, self._home))
        for group in config.groups():
            self._join(group)

    # What is and what would be

    def status(self) -> dict[str, Any]:
        """The first group's status with the hosts of all; `groups`, where there are several: each one's."""
        told = {group: member.answers.status() for group, member in self.members.items()}
        first = next(iter(told.values()))
        if len(told) == 1:
            return first
        return {**first, "hosts": [host for one in told.values() for host in one["hosts"]], "groups": told}

    def what_if(self, budget: str, delta_bytes: int) -> dict[str, Any]:
        """See `budgets.answers.Answers.what_if`: of the first group that has the budget, with `groups` where several have it."""
        having = {g: m for g, m in self.members.items() if budget in {b.name for b in m.orders.config.budgets}}
        told = {group: member.answers.what_if(budget, delta_bytes) for group, member in having.items()}
        if not told:
            return self._first.answers.what_if(budget, delta_bytes)  # says what there is
        return _with_groups(told)

    def explain(self, model: str | None = None) -> dict[str, Any]:
        """The first group's explanation, whose `groups` has each one's where there are several. Raises UnknownModel."""
        told = {group: member.answers.explain(model) for group, member in self.members.items()}
        return _with_groups(told)


def _with_groups(told: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The first group's answer, whose `groups` has each one's where there are several."""
    first = next(iter(told.values()))
    return first if len(told) == 1 else {**first, "groups": told}
