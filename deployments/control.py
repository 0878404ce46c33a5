"""The control loop: calls `Controller.tick` once a period and exposes what it knows. One per application."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from budgets.config import BudgetsConfig
from budgets.controller import Controller
from budgets.journal import FileJournal
from budgets.logged import LoggedJournal
from budgets.metrics import ControllerMetrics
from budgets.ports import Source
from budgets.sources.neighbours import NeighbourCollector
from budgets.sources.prometheus import PrometheusSource
from budgets.sources.scrape import ScrapeSource
from deployments.actuator import ServeActuator
from deployments.endpoint import Endpoint, serve_metrics
from deployments.runtime_memory import RuntimeMemoryCollector
from variants.repository import load_catalog

log = logging.getLogger("trimtab.control")


class ControlLoop:
    """Everything the controller needs, wired together. All methods belong to one event loop."""

    def __init__(self, controller: Controller, endpoint: Endpoint, source: Source, period: float) -> None:
        self._controller = controller
        self._endpoint = endpoint
        self._source = source
        self._period = period
        self._task: asyncio.Task[None] | None = None
        self._last_tick = time.time()

    @classmethod
    async def create(
        cls,
        *,
        repository: str,
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
        catalog = await asyncio.to_thread(load_catalog, Path(repository))
        registry = CollectorRegistry()
        registry.register(NeighbourCollector(config.budgets))
        registry.register(RuntimeMemoryCollector(os.getpid()))
        endpoint = serve_metrics(registry, host=metrics_host, port=metrics_port)
        source: Source
        if config.controller.source == "prometheus":
            source = PrometheusSource(config)
        else:
            source = ScrapeSource(config, extra_targets=(endpoint.url, *targets))
        controller = Controller(
            config,
            catalog,
            source,
            ServeActuator(application, deployment),
            LoggedJournal(FileJournal(Path(config.controller.journal))),
            ControllerMetrics(registry, config),
        )
        loop = cls(controller, endpoint, source, config.controller.tick_seconds)
        loop._task = asyncio.create_task(loop._run(), name="trimtab-control")
        return loop

    async def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self._controller.tick(time.time())
            except Exception:
                log.exception("a tick failed")
            self._last_tick = time.time()
            await asyncio.sleep(max(0.0, self._period - (time.monotonic() - started)))

    def check(self) -> None:
        """Raises RuntimeError when the loop has died or has not ticked for 30 periods (at least a minute)."""
        if self._task is None or self._task.done():
            raise RuntimeError("the control loop has stopped")
        silent = time.time() - self._last_tick
        if silent > max(60.0, 30 * self._period):
            raise RuntimeError(f"no tick for {silent:.0f} s")

    def status(self) -> dict[str, Any]:
        """The controller's view of budgets, models and hosts, JSON-able."""
        return {**self._controller.status(), "control": {"pid": os.getpid(), "metrics_url": self._endpoint.url}}

    def explain(self, model: str | None) -> dict[str, Any]:
        """Why things are as they are, JSON-able. Raises UnknownModel."""
        return self._controller.explain(model)

    def pin(self, model: str, variant: str | None) -> Mapping[str, str | None]:
        """Pin a model to a variant (None: parked) and return all pins. Raises UnknownModel, InvalidInput."""
        self._controller.pin(model, variant)
        return self._controller.pins

    def unpin(self, model: str) -> Mapping[str, str | None]:
        """Give a model back to the controller and return the remaining pins. Raises UnknownModel."""
        self._controller.unpin(model)
        return self._controller.pins

    async def close(self) -> None:
        """Stop ticking and close the endpoint."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._source.aclose()
        self._endpoint.close()
