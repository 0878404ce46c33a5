"""What each model could run, with what it would cost and give: the planner's view of catalog and snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from budgets import latency
from budgets.config import BudgetsConfig
from budgets.plan import Learned
from budgets.pressure import fresh
from budgets.snapshot import Observed, Reading, Snapshot
from variants.catalog import Catalog, Entry, Profile

#: An idle model's quality still counts: its share of the traffic is never taken below this.
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Option:
    """One variant a model could run (None: parked). `cost` is weighted quality loss against the model's best rung, at most
    `traffic`: the model's weight times its share of the traffic.

    `loading`: seconds until it is there; `beside`: while what runs goes on. `batch`: rows of an engine call under which its
    objective holds (see `budgets.batches`). `busy`: share of a host's time that its calls would take then; `late`: share of
    its requests that count as late. The last four are told by `budgets.candidates`.
    """

    model: str
    variant: str | None
    host_bytes: int
    device_bytes: int
    quality: float
    cost: float
    profile: Profile | None = None
    traffic: float = 1.0
    loading: float = 0.0
    beside: bool = True
    batch: int = 1
    busy: float = 0.0
    late: float = 0.0

    @property
    def swap_bytes(self) -> int:
        """What loading it takes, and freeing it gives, on one host."""
        return self.host_bytes + self.device_bytes

    def bytes_of(self, resource: str) -> int:
        """What it keeps of `ram` or `gpu_memory`, per host."""
        return self.host_bytes if resource == "ram" else self.device_bytes if resource == "gpu_memory" else 0


@dataclass(frozen=True)
class View:
    """All options by model, best first, and how each model does now. Rates are per host."""

    options: Mapping[str, tuple[Option, ...]]
    current: Mapping[str, Option]
    rates: Mapping[str, float | None]
    corrections: Mapping[str, float]  # how much slower than its profile each model's calls are now
    hosts: int
    unknown: Mapping[str, str] = field(default_factory=dict)
    learned: Mapping[str, Learned] = field(default_factory=dict)
    streams: int = 1  # engine calls that a host's cores carry at once

    def option(self, model: str, variant: str | None) -> Option | None:
        """The option of that name, or None."""
        return next((o for o in self.options.get(model, ()) if o.variant == variant), None)

    def at(self, rates: Mapping[str, float | None]) -> View:
        """The same with other rates (per host)."""
        return replace(self, rates={**self.rates, **rates})

    def factor(self, model: str, variant: str | None) -> float:
        """How much slower than its profile a variant's calls would be now: what is known of it, times how much slower than
        is known of it the variant in force is."""
        now = self.corrections.get(model, 1.0)
        current = self.current.get(model)
        if current is None or current.variant == variant:
            return now
        running = self.learned.get(f"{model}/{current.variant}")
        wanted = self.learned.get(f"{model}/{variant}")
        if running is None or wanted is None:
            return self._unknown(current, self.option(model, variant), now)
        low, high = latency.CORRECTION
        return min(high, max(low, wanted.service * now / running.service))

    def _unknown(self, current: Option, wanted: Option | None, now: float) -> float:
        """The factor of a variant that has not run here. What the one in force takes beyond its profile is first that its
        calls wait for cores that others use, which a longer or shorter call does as well; only the rest is a share."""
        if now <= 1.0 or current.profile is None or wanted is None or wanted.profile is None:
            return now
        running, other = latency.call_seconds(current.profile), latency.call_seconds(wanted.profile)
        held = min(latency.HELD_UP, (now - 1.0) * running)
        return min(latency.CORRECTION[1], now - held / running + held / other)

    def tail(self, model: str, variant: str | None) -> float:
        """How much longer than the queueing model says the slow requests take; of the variant in force where this one's
        is not known."""
        current = self.current.get(model)
        names = (variant, current.variant if current else None)
        return next((self.learned[k].tail for k in (f"{model}/{n}" for n in names) if k in self.learned), 1.0)

    def loads(self, chosen: Mapping[str, Option]) -> dict[str, latency.Load]:
        """Each model's load on one host if it ran what is chosen; models without a rate or profile are left out."""
        made = {}
        for model, option in chosen.items():
            rate = self.rates.get(model)
            if option.profile is None or rate is None:
                continue
            mean, tail = latency.service(option.profile, factor=self.factor(model, option.variant))
            made[model] = latency.Load(rate, mean, tail, option.profile.width)
        return made

    def utilisation(self, chosen: Mapping[str, Option]) -> float:
        """Of the hosts if they ran what is chosen."""
        return latency.utilisation(self.loads(chosen), self.streams)

    def predict(self, chosen: Mapping[str, Option], model: str, q: float) -> float:
        """Predicted latency (seconds at quantile `q`) of a model if the hosts ran what is chosen; NaN when unknown."""
        loads = self.loads(chosen)
        if model not in loads:
            return math.nan
        return self._corrected(chosen[model], latency.quantile(loads, model, q, self.streams), q)

    def _corrected(self, option: Option, seconds: float, q: float) -> float:
        """What the queueing model says, with what is known of the slow requests. Where nothing is known of this variant's,
        they count as late by as much as those of the variant in force, by its share or by its seconds, whichever is
        less: what holds up a short call is not longer for a long one."""
        tail = self.tail(option.model, option.variant)
        current = self.current.get(option.model)
        if tail <= 1.0 or f"{option.model}/{option.variant}" in self.learned or current is None:
            return seconds * tail
        loads, rho, second = self._now
        running = loads.get(option.model)
        if running is None:
            return seconds * tail
        return min(seconds * tail, seconds + (tail - 1.0) * latency.tail_of(running.tail, rho, second, q, self.streams))

    @cached_property
    def _now(self) -> tuple[dict[str, latency.Load], float, float]:
        """What runs: each model's load, utilisation, and the sum of second moments."""
        loads = self.loads(self.current)
        return (
            loads,
            latency.utilisation(loads, self.streams),
            sum(latency.second_moment(load) for load in loads.values()),
        )

    def changed(self, option: Option, q: float) -> tuple[float, float]:
        """Utilisation and predicted latency (NaN: unknown) of a model's option if nothing but this model changed."""
        loads, rho, second = self._now
        before, after = loads.get(option.model), self.loads({option.model: option}).get(option.model)
        for load, sign in ((before, -1), (after, 1)):
            if load is not None:
                rho += sign * latency.busy(load) / self.streams
                second += sign * latency.second_moment(load)
        if after is None:
            return rho, math.nan
        return rho, self._corrected(option, latency.tail_of(after.tail, rho, second, q, self.streams), q)


def view(
    catalog: Catalog, snapshot: Snapshot, config: BudgetsConfig, learned: Mapping[str, Learned] | None = None
) -> View:
    """Look at a snapshot, with what is known of variants beyond their profiles. Models whose variant in force has no
    profile on this device are in `unknown`, with why."""
    lines = {line.model: line for line in snapshot.readings.models}
    stale = config.controller.stale_seconds
    hosts = max(1, len(snapshot.hosts))

    def value(observed: Observed) -> float | None:
        current = fresh(observed, snapshot.readings.at, stale)
        return current.value if isinstance(current, Reading) else None

    rates = {name: value(lines[name].rate) if name in lines else None for name in catalog.entries}
    known = [rate for rate in rates.values() if rate is not None]
    total = sum(known)
    options: dict[str, tuple[Option, ...]] = {}
    current: dict[str, Option] = {}
    corrections: dict[str, float] = {}
    unknown: dict[str, str] = {}
    for name, entry in catalog.entries.items():
        rate = rates[name]
        share = max(LEAST_SHARE, rate / total if rate is not None and total > 0 else 1.0 / len(catalog.entries))
        shapes = snapshot.shapes(name)
        options[name] = options_of(entry, catalog.device, config, share, shapes)
        running = snapshot.assignment.get(name)
        option = next((o for o in options[name] if o.variant == running), None)
        if option is None:
            option = off_ladder(entry, running, catalog.device, shapes, config.policy(name).weight * share)
        if option is None:
            unknown[name] = f"variant {running} has no profile on this device (trimtab profile)"
            continue
        current[name] = option
        if option.profile is not None and name in lines:
            service = value(lines[name].service)
            corrections[name] = latency.correction(service, option.profile) if service else 1.0
    per_host = {name: None if rate is None else rate / hosts for name, rate in rates.items()}
    return View(options, current, per_host, corrections, hosts, unknown, learned or {}, snapshot.streams)


def options_of(
    entry: Entry, device: str, config: BudgetsConfig, share: float, shapes: int | None = None
) -> tuple[Option, ...]:
    """A model's rungs with a profile on the device that keep its floor, best first; parked last where it is allowed. `shapes`:
    see `Profile.host_bytes`."""
    policy = config.policy(entry.model.name)
    traffic = policy.weight * share
    rungs = [(name, entry.variants[name].profile(device)) for name in entry.ladder.rungs]
    best = max((p.quality for _, p in rungs if p is not None), default=1.0)
    options = [
        Option(
            entry.model.name,
            name,
            profile.host_bytes(shapes),
            profile.device_bytes,
            profile.quality,
            traffic * max(0.0, best - profile.quality),
            profile,
            traffic,
            profile.load_seconds + profile.warmup_seconds,
        )
        for name, profile in rungs
        if profile is not None and profile.quality >= policy.floor
    ]
    if policy.park and policy.floor == 0:
        options.append(Option(entry.model.name, None, 0, 0, 0.0, traffic * best, traffic=traffic))
    return tuple(options)


def off_ladder(
    entry: Entry, variant: str | None, device: str, shapes: int | None, traffic: float = 1.0
) -> Option | None:
    """A variant as an option although it is none (pinned, dominated, below the floor); None without a profile."""
    name = entry.model.name
    if variant is None:
        return Option(name, None, 0, 0, 0.0, 0.0, traffic=traffic)
    profile = entry.variants[variant].profile(device) if variant in entry.variants else None
    if profile is None:
        return None
    kept = profile.host_bytes(shapes), profile.device_bytes
    return Option(name, variant, *kept, profile.quality, 0.0, profile, traffic)


def kept_bytes(
    catalog: Catalog, assignment: Mapping[str, str | None], shapes: Callable[[str], int | None], resource: str
) -> int:
    """What the models of one host keep of `ram` or `gpu_memory` (bytes), by the profiles of this device. `shapes`: of a model, see
    `Profile.host_bytes`."""
    total = 0
    for model, variant in assignment.items():
        entry = catalog.entries.get(model)
        found = entry.variants.get(variant) if entry and variant is not None else None
        profile = found.profile(catalog.device) if found else None
        if profile is not None:
            total += profile.host_bytes(shapes(model)) if resource == "ram" else profile.device_bytes
    return total
