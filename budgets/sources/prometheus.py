"""Readings from a Prometheus server, by PromQL over its HTTP API. Source: Prometheus documentation, "HTTP API"."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx

from budgets import exposition as names
from budgets.config import DEFAULT_GROUP, Budget, BudgetsConfig
from budgets.snapshot import HostState, Missing, ModelReadings, Observed, Reading, Readings, Usage
from variants.errors import ConfigError

TIMEOUT_SECONDS = 5.0
MIB = 2**20


class PrometheusSource:
    """See `budgets.ports.Source`; reads trimtab's own series of one host group, and those of other exporters as they are.

    Raises ConfigError when the bearer token or CA file cannot be read.
    """

    def __init__(self, config: BudgetsConfig, *, group: str = DEFAULT_GROUP) -> None:
        server = config.controller.prometheus
        if server is None:
            raise ConfigError("controller.prometheus.url is needed for source prometheus")
        self._config = config
        # An empty matcher is for series without the label.
        self._group = f'{names.GROUP}="{"" if group == DEFAULT_GROUP else group}"'
        self._selector = server.selector.strip().strip("{}")
        self._gpu_selector = self._selector if server.gpu_selector is None else server.gpu_selector.strip().strip("{}")
        headers = {}
        try:
            if server.bearer_token_file:
                headers["authorization"] = f"Bearer {Path(server.bearer_token_file).read_text().strip()}"
            if server.ca_file:
                Path(server.ca_file).read_bytes()
        except OSError as error:
            raise ConfigError(f"controller.prometheus: {error.filename}: {error.strerror}") from error
        verify = ssl.create_default_context(cafile=server.ca_file) if server.ca_file else True
        self._client = httpx.AsyncClient(
            base_url=server.url.rstrip("/"), headers=headers, timeout=TIMEOUT_SECONDS, verify=verify, trust_env=False
        )

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        """Ask for everything at once. A query without an answer makes its reading Missing with the reason."""
        budgets, models = await asyncio.gather(
            asyncio.gather(*(self._usage(b, len(hosts)) for b in self._config.budgets)), self._models()
        )
        return Readings(at=now, budgets=tuple(budgets), models=models)

    def reconfigure(self, config: BudgetsConfig) -> None:
        """See `budgets.ports.Source`."""
        self._config = config

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()

    def metric(self, name: str, *matchers: str) -> str:
        """A selector of a metric with the configured label matchers, of the group's hosts where they expose it."""
        selector = self._gpu_selector if name.startswith("DCGM_") else self._selector
        group = self._group if name.startswith("trimtab_") and name != names.NEIGHBOUR_MEMORY else ""
        inner = ",".join(m for m in (selector, group, *matchers) if m)
        return f"{name}{{{inner}}}" if inner else name

    async def query(self, promql: str) -> list[tuple[dict[str, str], float, float]] | str:
        """An instant query: (labels, value, unix seconds of the newest sample asked for), or why there is no answer."""
        try:
            answer = await self._client.get("/api/v1/query", params={"query": promql})
            content: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            return f"prometheus: {type(error).__name__}: {error}"
        if content.get("status") != "success":
            return f"prometheus: {content.get('error', answer.status_code)}"
        lines = content["data"]["result"]
        if content["data"]["resultType"] == "scalar":
            lines = [{"metric": {}, "value": lines}]
        return [(line["metric"], float(line["value"][1]), float(line["value"][0])) for line in lines]

    async def scalar(self, promql: str) -> Observed:
        """One number; Missing when the query has no result."""
        answer = await self.query(promql)
        if isinstance(answer, str):
            return Missing(reason=answer)
        if not answer:
            return Missing(reason=f"prometheus: no series for {promql}")
        return Reading(value=answer[0][1], at=answer[0][2])

    async def age(self, promql: str) -> Observed:
        """When the oldest of a selector's newest samples was taken: a value is only as fresh as that."""
        return await self.scalar(f"min(timestamp({promql}))")

    # Models

    async def _models(self) -> tuple[ModelReadings, ...]:
        window = f"[{max(2.0, self._config.controller.window_seconds):.0f}s]"
        duration = names.REQUEST_DURATION
        quantiles: dict[float, list[str]] = {}
        for name, policy in self._config.models.items():
            if policy.slo:
                quantiles.setdefault(policy.slo.quantile, []).append(name)
        seconds = f"sum by (model) (rate({self.metric(names.ENGINE_SECONDS)}{window}))"
        samples = f"sum by (model) (rate({self.metric(names.ENGINE_SAMPLES)}{window}))"
        count = self.metric(duration + "_count")
        queue = f"sum by (model) ({self.metric(names.QUEUE_DEPTH)})"
        asked = {
            # A model that is served and was never called has no counter yet: its rate is known, and it is 0.
            "rate": f"sum by (model) (rate({count}{window})) or (0 * {queue} unless sum by (model) ({count}))",
            "queue": queue,
            "busy": seconds,
            "service": f"{seconds} / {samples}",
        }
        asked |= {
            f"latency {q}": f"histogram_quantile({q}, sum by (model, le) (rate({self.metric(duration + '_bucket')}{window})))"
            for q in {*quantiles, 0.99}
        }
        answers = dict(zip(asked, await asyncio.gather(*(self.query(q) for q in asked.values())), strict=True))
        found: dict[str, dict[str, Observed]] = {}
        for what, answer in answers.items():
            if not isinstance(answer, str):
                for labels, value, at in answer:
                    reading = Missing(reason="no traffic") if value != value else Reading(value=value, at=at)
                    found.setdefault(labels.get("model", ""), {})[what] = reading
        lines = []
        for model, readings in sorted(found.items()):

            def get(what: str, readings: dict[str, Observed] = readings) -> Observed:
                answer = answers[what]
                return readings.get(what) or Missing(reason=answer if isinstance(answer, str) else "no traffic")

            slo = self._config.policy(model).slo
            late = get(f"latency {slo.quantile if slo else 0.99}")
            lines.append(
                ModelReadings(
                    model=model,
                    rate=get("rate"),
                    latency=late,
                    queue=get("queue"),
                    busy=get("busy"),
                    service=get("service"),
                )
            )
        return tuple(lines)

    # Budgets

    async def _usage(self, budget: Budget, hosts: int) -> Usage:
        usage, limit = await asyncio.gather(self._used(budget, hosts), self._limit(budget))
        return Usage(budget=budget.name, usage=usage, limit=limit)

    async def _limit(self, budget: Budget) -> Observed:
        share = budget.limit_fraction or 1.0
        if budget.limit is not None:
            return _now(await self.scalar("time()"), float(budget.limit))
        if budget.resource in ("cpu", "gpu_utilization"):
            return _now(await self.scalar("time()"), share)
        if budget.resource == "ram":
            queries = (f"max({self.metric(names.NODE_MEMORY_LIMIT)})", f"max({self.metric('ray_node_mem_total')})")
        else:
            free, used = self.metric("DCGM_FI_DEV_FB_FREE"), self.metric("DCGM_FI_DEV_FB_USED")
            queries = (f"max({self.metric(names.GPU_MEMORY_LIMIT)})", f"max({used} + {free}) * {MIB}")
        found = await self._first(queries)
        return found.model_copy(update={"value": found.value * share}) if isinstance(found, Reading) else found

    async def _used(self, budget: Budget, hosts: int) -> Observed:
        match budget.resource, budget.scope:
            case "ram", "trimtab":
                return await self._own_ram(budget, hosts)
            case "ram", _:
                return await self._aged(names.NODE_MEMORY_USED, "max({})", ("max({})", "ray_node_mem_used"))
            case "gpu_memory", "trimtab":
                return await self._aged(names.PROCESS_GPU_MEMORY, "sum({})")
            case "gpu_memory", _:
                return await self._aged(names.GPU_MEMORY_USED, "max({})", (f"max({{}}) * {MIB}", "DCGM_FI_DEV_FB_USED"))
            case "gpu_utilization", _:
                return await self._aged(
                    names.GPU_UTILIZATION,
                    "max({})",
                    ("max({}) / 100", "DCGM_FI_DEV_GPU_UTIL"),
                    ("max({}) / 100", "ray_node_gpus_utilization"),
                )
        return await self._aged(names.NODE_CPU, "max({})")

    async def _aged(self, name: str, form: str, *others: tuple[str, str]) -> Observed:
        """A metric in a PromQL form, dated by its oldest sample; the first of the alternatives that has series."""
        found: Observed = Missing(reason="not asked")
        for pattern, metric in ((form, name), *others):
            selector = self.metric(metric)
            found, when = await asyncio.gather(self.scalar(pattern.format(selector)), self.age(selector))
            if isinstance(found, Reading) and isinstance(when, Reading):
                return Reading(value=found.value, at=when.value)
        return found

    async def _first(self, queries: tuple[str, ...]) -> Observed:
        found: Observed = Missing(reason="not asked")
        for promql in queries:
            found = await self.scalar(promql)
            if isinstance(found, Reading):
                return found
        return found

    async def _own_ram(self, budget: Budget, hosts: int) -> Observed:
        """All of trimtab's processes and the named neighbours; Missing unless every host is in the sum."""
        selector = self.metric(names.PROCESS_MEMORY)
        hosts_only = self.metric(names.PROCESS_MEMORY, 'role="host"')
        counted, total, when = await asyncio.gather(
            self.scalar(f"count({hosts_only})"),
            self.scalar(f"sum({selector})"),
            self.age(selector),
        )
        for value in (counted, total, when):
            if isinstance(value, Missing):
                return value
        assert isinstance(counted, Reading)
        assert isinstance(total, Reading)
        assert isinstance(when, Reading)
        if counted.value != hosts:
            return Missing(reason=f"prometheus has {counted.value:.0f} of {hosts} hosts")
        summed, at = total.value, when.value
        for neighbour in budget.neighbours:
            matcher = self.metric(names.NEIGHBOUR_MEMORY, f'neighbour="{neighbour.name}"')
            found, dated = await asyncio.gather(self.scalar(f"max({matcher})"), self.age(matcher))
            if isinstance(found, Missing) or isinstance(dated, Missing):
                return Missing(reason=f"neighbour {neighbour.name} is not measured")
            summed, at = summed + found.value, min(at, dated.value)
        return Reading(value=summed, at=at)


def _now(clock: Observed, value: float) -> Observed:
    """A configured value, as fresh as the server's clock."""
    return Reading(value=value, at=clock.value) if isinstance(clock, Reading) else clock
