"""The embedded source: reads the metrics endpoints itself and keeps a window of what it read. No Prometheus needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from budgets import exposition as names
from budgets.config import DEFAULT_GROUP, Budget, BudgetsConfig
from budgets.snapshot import HostState, Missing, ModelReadings, Observed, Reading, Readings, Usage
from budgets.sources.series import Key, Target, buckets_by_model, by_model, parse, quantile

TIMEOUT_SECONDS = 2.0
MIB = 2**20


class ScrapeSource:
    """See `budgets.ports.Source`. `extra_targets` are read besides the hosts' own endpoints; of trimtab's own processes
    there, those of the `group` count."""

    def __init__(self, config: BudgetsConfig, *, extra_targets: Sequence[str] = (), group: str = DEFAULT_GROUP) -> None:
        self._config = config
        self._extra = tuple(extra_targets)
        self._group = group
        self._targets: dict[str, Target] = {}
        self._client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        """Scrape every endpoint and conclude. An endpoint that does not answer makes what depends on it Missing."""
        urls = [h.metrics_url for h in hosts if h.metrics_url]
        everything = (*urls, *self._extra)
        errors = dict(zip(everything, await asyncio.gather(*(self._scrape(u, now) for u in everything)), strict=True))
        for gone in set(self._targets) - set(everything):
            del self._targets[gone]
        failed = {url: error for url, error in errors.items() if error}
        models = self._models(now, [self._targets[u] for u in urls if u not in failed], _reason(failed, urls))
        budgets = tuple(self._usage(b, now, failed, urls) for b in self._config.budgets)
        return Readings(at=now, budgets=budgets, models=models)

    def reconfigure(self, config: BudgetsConfig) -> None:
        """See `budgets.ports.Source`."""
        self._config = config
        for target in self._targets.values():
            target.window = config.controller.window_seconds

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _scrape(self, url: str, now: float) -> str:
        target = self._targets.setdefault(url, Target(self._config.controller.window_seconds))
        try:
            answer = await self._client.get(url)
            answer.raise_for_status()
            target.add(now, parse(answer.text))
        except (httpx.HTTPError, ValueError) as error:
            return f"{url}: {type(error).__name__}: {error}"
        return ""

    # Models

    def _models(self, now: float, targets: list[Target], failed: str) -> tuple[ModelReadings, ...]:
        served = {dict(labels)["model"] for t in targets for (n, labels) in t.samples if n == names.QUEUE_DEPTH}
        spans = [t.span for t in targets]
        if failed or not targets or min(spans) <= 0:
            missing = Missing(reason=failed or "the second scrape is still to come")
            everything = (missing,) * 5
            return tuple(_line(model, *everything) for model in sorted(served))
        increases = [t.increases() for t in targets]
        counts = by_model(increases, f"{names.REQUEST_DURATION}_count")
        seconds = by_model(increases, names.ENGINE_SECONDS)
        samples = by_model(increases, names.ENGINE_SAMPLES)
        buckets = buckets_by_model(increases, names.REQUEST_DURATION)
        depth: dict[str, float] = {}
        for target in targets:
            for (name, labels), value in target.samples.items():
                if name == names.QUEUE_DEPTH:
                    model = dict(labels)["model"]
                    depth[model] = depth.get(model, 0.0) + value
        span = max(spans)

        def reading(value: float | None, absent: str) -> Observed:
            return Missing(reason=absent) if value is None else Reading(value=value, at=now)

        lines = []
        for model in sorted(served):
            slo = self._config.policy(model).slo
            late = quantile(slo.quantile if slo else 0.99, buckets.get(model, {}))
            service = seconds.get(model, 0.0) / samples[model] if samples.get(model) else None
            lines.append(
                _line(
                    model,
                    reading(counts.get(model, 0.0) / span, ""),
                    reading(late, "no traffic"),
                    reading(depth.get(model), "not exposed"),
                    reading(seconds.get(model, 0.0) / span, ""),
                    reading(service, "no traffic"),
                )
            )
        return tuple(lines)

    # Budgets

    def _usage(self, budget: Budget, now: float, failed: dict[str, str], urls: list[str]) -> Usage:
        used, limit, why = self._measure(budget, failed, urls)
        if budget.limit is not None:
            limit = float(budget.limit)
        elif limit is not None and budget.limit_fraction is not None:
            limit *= budget.limit_fraction
        at = min((self._targets[u].at for u in (*urls, *self._extra) if u not in failed), default=now)

        def observed(value: float | None) -> Observed:
            return (
                Missing(reason=why or "not exposed by any endpoint") if value is None else Reading(value=value, at=at)
            )

        return Usage(budget=budget.name, usage=observed(used), limit=observed(limit))

    def _measure(
        self, budget: Budget, failed: dict[str, str], urls: list[str]
    ) -> tuple[float | None, float | None, str]:
        """Usage, limit (None: not known) and why something is missing. Never a partial sum."""
        reason = _reason(failed, (*urls, *self._extra))
        samples = [t.samples for u, t in self._targets.items() if u not in failed]
        if not urls:
            return None, None, "no host answers"
        match budget.resource, budget.scope:
            case "ram", "trimtab":
                limit = _most(samples, names.NODE_MEMORY_LIMIT)
                if reason:
                    return None, limit, reason
                processes = [
                    value
                    for labels, value in _labelled(samples, names.PROCESS_MEMORY)
                    if dict(labels).get(names.GROUP, DEFAULT_GROUP) == self._group
                ]
                neighbours = {
                    dict(labels)["neighbour"]: v for (labels, v) in _labelled(samples, names.NEIGHBOUR_MEMORY)
                }
                absent = [n.name for n in budget.neighbours if n.name not in neighbours]
                if absent:
                    return None, limit, f"neighbour {', '.join(absent)} cannot be measured"
                return sum(processes) + sum(neighbours[n.name] for n in budget.neighbours), limit, ""
            case "ram", _:
                used, total = _most(samples, names.NODE_MEMORY_USED), _most(samples, names.NODE_MEMORY_LIMIT)
                if used is None:
                    used, total = _most(samples, "ray_node_mem_used"), _most(samples, "ray_node_mem_total")
                return used, total, reason
            case "gpu_memory", scope:
                return (*_gpu_memory(samples, scope == "trimtab"), reason)
            case "gpu_utilization", _:
                for name, scale in (
                    (names.GPU_UTILIZATION, 1.0),
                    ("DCGM_FI_DEV_GPU_UTIL", 100.0),
                    ("ray_node_gpus_utilization", 100.0),
                ):
                    value = _most(samples, name)
                    if value is not None:
                        return value / scale, 1.0, reason
                return None, 1.0, reason
        return _most(samples, names.NODE_CPU), 1.0, reason


def _gpu_memory(samples: list[dict[Key, float]], own: bool) -> tuple[float | None, float | None]:
    """Bytes used and there are on the fullest GPU."""
    limit = _most(samples, names.GPU_MEMORY_LIMIT)
    if own and limit is not None:
        return sum(_values(samples, names.PROCESS_GPU_MEMORY)), limit
    used = _most(samples, names.GPU_MEMORY_USED)
    if used is not None:
        return used, limit
    for used_name, free_name in (
        ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"),
        ("ray_node_gram_used", "ray_node_gram_available"),
    ):
        free = dict(_labelled(samples, free_name))
        pairs = [(value, value + free[labels]) for labels, value in _labelled(samples, used_name) if labels in free]
        if pairs:
            used_mib, total_mib = max(pairs, key=lambda p: p[0] / p[1] if p[1] else 0.0)
            return used_mib * MIB, total_mib * MIB
    return None, None


def _labelled(samples: list[dict[Key, float]], name: str) -> list[tuple[tuple[tuple[str, str], ...], float]]:
    return [(labels, value) for series in samples for (n, labels), value in series.items() if n == name]


def _values(samples: list[dict[Key, float]], name: str) -> list[float]:
    return [value for _, value in _labelled(samples, name)]


def _most(samples: list[dict[Key, float]], name: str) -> float | None:
    """The largest value of a gauge: several hosts of one node report the same."""
    return max(_values(samples, name), default=None)


def _reason(failed: dict[str, str], relevant: Sequence[str]) -> str:
    return "; ".join(failed[u] for u in relevant if u in failed)


def _line(
    model: str, rate: Observed, latency: Observed, queue: Observed, busy: Observed, service: Observed
) -> ModelReadings:
    return ModelReadings(model=model, rate=rate, latency=latency, queue=queue, busy=busy, service=service)
