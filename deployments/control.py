"""The control loop: calls `Groups.tick` once a period and exposes what it knows. One per application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from prometheus_client import CollectorRegistry

from budgets.config import BudgetsConfig
from budgets.controller import Controller
from budgets.explain import sentence
from budgets.foresight import Foresight
from budgets.groups import Groups
from budgets.history import merged, page, record
from budgets.journal import FileJournal, journal_of
from budgets.logged import LoggedJournal
from budgets.metrics import ByGroup, ControllerMetrics
from budgets.overrides import Override
from budgets.plan import Decision, Swap
from budgets.ports import Actuator, Source
from budgets.sources.neighbours import NeighbourCollector
from budgets.sources.prometheus import PrometheusSource
from budgets.sources.scrape import ScrapeSource
from deployments.actuator import ServeActuator
from deployments.endpoint import Endpoint, serve_metrics
from deployments.node import advertised, node_group
from deployments.runtime_memory import RuntimeMemoryCollector
from variants.catalog import Catalog
from variants.errors import Unavailable, UnknownModel
from variants.repository import load_catalog

log = logging.getLogger("trimtab.control")
#: How long an order waits for the tick that carries it out.
ORDER_SECONDS = 10.0
#: Called after each tick: the status, and the decision's record when it was written down.
Listener = Callable[[dict[str, Any], dict[str, Any] | None], None]


class Orders(Protocol):
    """What the hosts are told beside plans; see `deployments.actuator.ServeActuator.order`."""

    async def order(self, action: Literal["load", "unload"], model: str) -> None: ...


class ControlLoop:
    """Everything the controller needs, wired together. All methods belong to one event loop."""

    def __init__(
        self,
        controller: Groups,
        endpoint: Endpoint,
        neighbours: NeighbourCollector,
        catalog: Catalog,
        hosts: Orders,
    ) -> None:
        self.catalog = catalog
        self._hosts = hosts
        self._controller = controller
        self._endpoint = endpoint
        self._neighbours = neighbours
        self._task: asyncio.Task[None] | None = None
        self._last_tick = time.time()
        self._wake = asyncio.Event()
        self._ticked = asyncio.Condition()
        self._ticks = 0
        self._ticking = False
        self._listeners: list[Listener] = []

    @classmethod
    async def create(
        cls,
        *,
        repository: str,
        trust_code: bool,
        config: BudgetsConfig,
        application: str,
        deployment: str,
        metrics_host: str,
        metrics_port: int,
        targets: tuple[str, ...],
    ) -> ControlLoop:
        """Load the catalog, recover from the journal and start ticking.

        Raises ConfigError for a repository or journal that cannot be read, OSError when no metrics port is free.
        """
        catalog = await asyncio.to_thread(load_catalog, Path(repository), trust_code=trust_code)
        home = node_group()
        registry, everywhere = CollectorRegistry(), ByGroup()
        planned = ByGroup(lambda: groups.members)
        neighbours = NeighbourCollector(config.budgets)
        registry.register(neighbours)
        registry.register(everywhere)
        everywhere.registry(home).register(RuntimeMemoryCollector(os.getpid()))
        endpoint = serve_metrics(registry, host=metrics_host, port=metrics_port, advertise=advertised(metrics_host))

        def controller(group: str, budgets: BudgetsConfig, arm: Actuator) -> Controller:
            source: Source
            if budgets.controller.source == "prometheus":
                source = PrometheusSource(budgets, group=group)
            else:
                source = ScrapeSource(budgets, extra_targets=(endpoint.url, *targets), group=group)
            journal = FileJournal(journal_of(Path(config.controller.journal), group))
            metrics = ControllerMetrics(planned.registry(group), budgets)
            return Controller(budgets, catalog, source, arm, LoggedJournal(journal, group), metrics)

        hosts = ServeActuator(application, deployment)
        groups = Groups(config, controller, hosts, home=home)
        registry.register(planned)
        loop = cls(groups, endpoint, neighbours, catalog, hosts)
        loop.start()
        return loop

    def start(self) -> None:
        """Tick from now on."""
        self._task = asyncio.create_task(self._run(), name="trimtab-control")

    async def _run(self) -> None:
        while True:
            started = time.monotonic()
            self._wake.clear()
            self._ticking = True
            try:
                self._tell(await self._controller.tick(time.time()))
            except Exception:
                log.exception("a tick failed")
            self._ticking = False
            self._last_tick = time.time()
            async with self._ticked:
                self._ticks += 1
                self._ticked.notify_all()
            period = self._controller.config.controller.tick_seconds
            with contextlib.suppress(TimeoutError):
                # not wait_for: Python 3.11's loses a cancellation that comes together with the event
                async with asyncio.timeout(max(0.0, period - (time.monotonic() - started))):
                    await self._wake.wait()

    def _tell(self, decisions: Mapping[str, Decision]) -> None:
        if not self._listeners:
            return
        status = self.status()
        told: list[dict[str, Any] | None] = []
        for group, decision in decisions.items():
            recent = self._controller.members[group].state.recent
            if recent and recent[-1] is decision:
                more = {"group": group} if len(decisions) > 1 else {}
                told.append({**more, **record(decision, recent[-2] if len(recent) > 1 else None)})
        for listener in self._listeners:
            for each in told or [None]:
                listener(status, each)

    def listen(self, listener: Listener) -> None:
        """Call it after every tick. It must return at once."""
        self._listeners.append(listener)

    async def _next_tick(self) -> None:
        """Wait until a tick that began after now has ended. Raises Unavailable when none does in 10 s."""
        # The tick under way may have looked at the orders already; the one after it certainly sees them.
        wanted = self._ticks + (2 if self._ticking else 1)
        try:
            async with asyncio.timeout(ORDER_SECONDS), self._ticked:
                while self._ticks < wanted:
                    self._wake.set()
                    await self._ticked.wait()
        except TimeoutError:
            raise Unavailable("the controller is busy; the order stands and is carried out later") from None

    def check(self) -> None:
        """Raises RuntimeError when the loop has died or has not ticked for 30 periods (at least a minute)."""
        if self._task is None or self._task.done():
            raise RuntimeError("the control loop has stopped")
        silent = time.time() - self._last_tick
        if silent > max(60.0, 30 * self._controller.config.controller.tick_seconds):
            raise RuntimeError(f"no tick for {silent:.0f} s")

    def status(self) -> dict[str, Any]:
        """The controller's view of budgets, models and hosts, JSON-able."""
        return {**self._controller.status(), "control": {"pid": os.getpid(), "metrics_url": self._endpoint.url}}

    def explain(self, model: str | None) -> dict[str, Any]:
        """Why things are as they are, JSON-able. Raises UnknownModel."""
        return self._controller.explain(model)

    def what_if(self, budget: str, delta_bytes: int) -> dict[str, Any]:
        """The swaps that would follow if a memory budget had another limit, each with its sentence. Changes nothing. Raises
        UnknownBudget, Conflict."""

        def worded(found: dict[str, Any]) -> dict[str, Any]:
            swaps = [{**s, "sentence": sentence(Swap.model_validate(s))} for s in found["swaps"]]
            return {**found, "swaps": swaps}

        told = worded(self._controller.what_if(budget, delta_bytes))
        groups = {group: worded(one) for group, one in told.get("groups", {}).items()}
        return {**told, "groups": groups} if groups else told

    def plan(self) -> dict[str, Any]:
        """What would be done next, when, and what is held and why; nothing is done. Of the first group, with `groups` where
        there are several. Raises Unavailable before the first look at the hosts."""
        now = time.time()
        found = {group: member.answers.foresee(now) for group, member in self._controller.members.items()}
        told = {group: _told(foresight) for group, foresight in found.items() if foresight is not None}
        if not told:
            raise Unavailable("the controller has not seen the hosts yet", retry_after_seconds=1.0)
        first = next(iter(told.values()))
        return first if len(found) == 1 else {**first, "groups": told}

    async def decisions(self, before: float | None, limit: int) -> dict[str, Any]:
        """Past decisions, newest first; see `budgets.history.page`, and `merged` for several groups."""
        journal = Path(self._controller.config.controller.journal)
        until = float("inf") if before is None else before
        pages = {
            group: await asyncio.to_thread(page, journal_of(journal, group), list(member.state.recent), until, limit)
            for group, member in self._controller.members.items()
        }
        return next(iter(pages.values())) if len(pages) == 1 else merged(pages, limit)

    async def swap(self, model: str, variant: str) -> dict[str, Any]:
        """Move a model once; answers with the plan that does it, or with why it waits. Raises UnknownModel, InvalidInput,
        Conflict, Unavailable."""
        self._controller.swap(model, variant)
        await self._next_tick()
        members = self._controller.members.values()
        holds = [
            h.reason
            for m in members
            if m.state.recent
            for h in m.state.recent[-1].plan.holds
            if h.model in (model, "*")
        ]
        generation = self._controller.generation
        return {"generation": generation, "model": model, "variant": variant, "holds": list(dict.fromkeys(holds))}

    def pin(self, model: str, variant: str | None) -> Mapping[str, str | None]:
        """Pin a model to a variant (None: parked) and return all pins. Raises UnknownModel, InvalidInput."""
        self._controller.pin(model, variant)
        self._wake.set()
        return self._controller.pins

    def unpin(self, model: str) -> Mapping[str, str | None]:
        """Give a model back to the controller and return the remaining pins. Raises UnknownModel."""
        self._controller.unpin(model)
        self._wake.set()
        return self._controller.pins

    def lift(self, model: str, variant: str | None) -> bool:
        """End a variant's quarantine; False when there is none. Raises UnknownModel, InvalidInput."""
        return self._controller.lift(model, variant)

    async def order(self, action: Literal["load", "unload"], model: str) -> None:
        """Load or unload a model on every host (the V2 repository extension). Raises UnknownModel, Unavailable."""
        if model not in self.catalog.entries:
            raise UnknownModel(f"no model {model!r}; there are: {', '.join(sorted(self.catalog.entries))}")
        await self._hosts.order(action, model)
        log.info("%s of model %r: done on every host", action, model)
        self._wake.set()

    def budgets(self) -> list[dict[str, Any]]:
        """Every budget as it is in force, with what was changed at run time."""
        overrides = self._controller.overrides
        fields = ("name", "resource", "scope", "group", *Override.model_fields)
        return [
            {
                **{f: getattr(budget, f) for f in fields},
                "overridden": overrides[budget.name].changes() if budget.name in overrides else {},
            }
            for budget in self._controller.config.budgets
        ]

    def override(self, budget: str, change: Override) -> None:
        """Change a budget until `reset`. Raises UnknownBudget, InvalidInput."""
        self._controller.override(budget, change)
        self._wake.set()

    def reset(self, budget: str) -> None:
        """Give a budget the file's values back. Raises UnknownBudget."""
        self._controller.reset(budget)
        self._wake.set()

    def reconfigure(self, config: BudgetsConfig) -> None:
        """Take other budgets, policies and controller settings. Raises InvalidInput when a change made at run time does
        not fit them; nothing has changed then."""
        self._controller.reconfigure(config)
        self._neighbours.watch(config.budgets)
        self._wake.set()

    async def close(self) -> None:
        """Stop ticking and close the endpoint."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._controller.aclose()
        self._endpoint.close()


def _told(found: Foresight) -> dict[str, Any]:
    ahead = found.next or found.plan
    return {
        "now": found.now,
        "at": found.at,
        "generation": found.plan.generation,
        "swaps": [{**s.model_dump(mode="json"), "sentence": sentence(s)} for s in ahead.swaps],
        "holds": [h.model_dump(mode="json") for h in found.plan.holds],
        "assignment": dict(ahead.assignment),
    }
