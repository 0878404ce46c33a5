"""The controller: `tick(now)` is the only orchestration. Decisions are made elsewhere, by pure functions; this carries
state from tick to tick, asks the ports, and keeps the journal.

observe + read -> Snapshot -> assess -> advance -> plan -> revalidate on a fresh look -> apply -> journal, metrics
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from budgets import explain as words
from budgets import questions
from budgets.calibrate import observe
from budgets.config import BudgetsConfig
from budgets.forecast import Past, with_trends
from budgets.foresight import Foresight, foresee
from budgets.options import view
from budgets.overrides import Override, overlaid, still_valid
from budgets.plan import Decision, Hold, Memory, Plan, Trigger, Verdict
from budgets.planner import plan, remember, revalidate
from budgets.ports import Actuator, Journal, Metrics, Source
from budgets.pressure import History, advance, assess
from budgets.reality import adopt, forget, learn
from budgets.rerun import fingerprint
from budgets.snapshot import HostState, Reading, Readings, Snapshot, Staged, SwapRecord
from budgets.verify import begin, review
from variants.catalog import Catalog
from variants.errors import Conflict, InvalidInput, UnknownBudget, UnknownModel
from variants.pareto import on_device

log = logging.getLogger("trimtab.controller")
HEARTBEAT_SECONDS = 60.0
#: Decisions kept in memory for `explain`.
RECENT = 200


class Controller:
    """One per group of hosts. `tick` must not be called again before it has returned; the other methods may be at any time
    on the same event loop."""

    def __init__(
        self,
        config: BudgetsConfig,
        catalog: Catalog,
        source: Source,
        actuator: Actuator,
        journal: Journal,
        metrics: Metrics | None = None,
    ) -> None:
        self._configured = config  # as the file has it; `_config` has the overrides laid over it
        self._config = config
        self._catalog = catalog
        self._source = source
        self._actuator = actuator
        self._journal = journal
        self._metrics = metrics
        self._history = History()
        self._triggers: tuple[Trigger, ...] = ()
        self._memory = Memory()
        self._past = Past()
        self._answered: dict[str, float] = {}
        self._printed: tuple[BudgetsConfig, Catalog, str] | None = None
        self._pins: dict[str, str | None] = {}
        self._requested: dict[str, str | None] = {}
        self._overrides: dict[str, Override] = {}
        self._generation = 0
        self._assignment: dict[str, str | None] | None = None
        self._reported: set[tuple[str, int, float, str]] = set()
        self._journalled_until = 0.0
        self._recent: list[Decision] = []
        self._last: Decision | None = None
        self._written = 0.0
        self._recover(journal.last())

    def _recover(self, last: Decision | None) -> None:
        """Take up where the journal ends: pins, overrides, triggers, the planner's memory, the generation. What runs is asked of the
        hosts on the first tick."""
        if last is None:
            return
        models = self._catalog.entries
        self._pins = {m: v for m, v in last.pins.items() if m in models and (v is None or v in models[m].variants)}
        kept, dropped = still_valid(self._configured, last.overrides)
        for reason in dropped:
            log.warning("a budget's change at run time was dropped: %s", reason)
        self._overrides = kept
        self._config = overlaid(self._configured, kept)
        self._triggers = last.triggers
        self._memory = last.memory
        self._generation = last.plan.generation
        self._journalled_until = last.at

    # A tick

    async def tick(self, now: float) -> Decision:
        """Look, decide, act, record. What goes wrong on the way is the decision's `error`; nothing is raised for it."""
        started = time.perf_counter()
        try:
            decision = await self._decide(now)
        except Exception as error:
            log.warning("tick failed: %s: %s", type(error).__name__, error)
            plan_in_force = self.in_force or Plan(
                generation=self._generation, assignment={}, staged=staged(self._memory)
            )
            decision = Decision(
                at=now,
                snapshot=None,
                triggers=self._triggers,
                plan=plan_in_force,
                pins=dict(self._pins),
                overrides=dict(self._overrides),
                memory=self._memory,
                error=f"{type(error).__name__}: {error}",
            )
        if self._notable(decision):
            self._write(decision)
            self._written = now
            self._recent = [*self._recent, decision][-RECENT:]
        self._last = decision
        if self._metrics is not None:
            self._metrics.tick(decision, time.perf_counter() - started, self._ages(decision))
        return decision

    async def _decide(self, now: float) -> Decision:
        snapshot = await self._look(now)
        outcomes = self._outcomes(snapshot.hosts)
        verdicts: tuple[Verdict, ...] = ()
        if self._assignment is not None:
            self._memory = learn(
                forget(self._memory, now, self._catalog),
                self._assignment,
                outcomes,
                snapshot.hosts,
                self._generation,
                self._config.controller.quarantine_seconds,
                now,
                self._catalog,
            )
            self._memory, verdicts = review(self._memory, snapshot, self._catalog, self._config, now)
            trials = staged(self._memory)
            if not snapshot.absent:
                self._assignment = adopt(self._assignment, snapshot.hosts, self._generation, trials)
            snapshot = snapshot.model_copy(update={"assignment": dict(self._assignment), "staged": trials})
        self._history = self._history.remember(snapshot.readings)
        self._past = self._past.remember(snapshot, self._catalog, self._config, self._memory.ended_at)
        outlook = self._past.outlook(self._config, now)
        pressures = with_trends(assess(snapshot.readings, self._config, self._history), outlook)
        self._triggers = advance(self._triggers, pressures, self._config, now)
        seen = view(self._catalog, snapshot, self._config, self._memory.learned)
        self._memory, checks = observe(self._memory, snapshot, seen, self._config, now)
        before = self._memory
        decided = plan(self._catalog, snapshot, pressures, self._triggers, self._config, before, now, outlook)
        proposed = decided
        if decided.swaps:
            decided = revalidate(decided, snapshot, await self._look(now), self._config)
        if decided.swaps:
            await self._actuator.apply(decided)
            self._memory = remember(self._memory, decided, snapshot, self._config, now)
            self._memory = begin(self._memory, decided, snapshot, seen, self._catalog, self._config, now)
            self._generation, self._assignment = decided.generation, dict(decided.assignment)
        refused = {(q.model, q.variant) for q in self._memory.quarantined}
        self._requested = {
            m: v for m, v in self._requested.items() if decided.assignment.get(m) != v and (m, v) not in refused
        }
        return Decision(
            at=now,
            snapshot=snapshot,
            pressures=pressures,
            triggers=self._triggers,
            plan=decided,
            outcomes=outcomes,
            verdicts=verdicts,
            latency=checks,
            outlook=outlook,
            before=before,
            proposed=None if proposed == decided else proposed,
            config=self._config,
            inputs=self._inputs(),
            pins=dict(self._pins),
            overrides=dict(self._overrides),
            memory=self._memory,
        )

    def _inputs(self) -> str:
        """The fingerprint of what is planned with; made again when either is replaced."""
        printed = self._printed
        if printed is None or printed[0] is not self._config or printed[1] is not self._catalog:
            printed = self._printed = (self._config, self._catalog, fingerprint(self._config, self._catalog))
        return printed[2]

    async def _look(self, now: float) -> Snapshot:
        hosts = await self._actuator.observe()
        readings = await self._source.read(now, hosts) if hosts else Readings(at=now, budgets=(), models=())
        self._measure_on(hosts)
        self._adopt(hosts)
        self._answered |= {host.host: now for host in hosts}
        stale = self._config.controller.stale_seconds
        self._answered = {host: at for host, at in self._answered.items() if now - at <= stale}
        return Snapshot(
            at=now,
            readings=readings,
            hosts=hosts,
            generation=self._generation,
            assignment=dict(self._assignment or {}),
            pins={**self._pins, **self._requested},
            staged=staged(self._memory),
            absent=tuple(sorted(set(self._answered) - {host.host for host in hosts})),
        )

    def _measure_on(self, hosts: tuple[HostState, ...]) -> None:
        """Profiles count on the machine that runs the models, which need not be the controller's."""
        devices = sorted({h.device for h in hosts if h.device})
        if devices and self._catalog.device not in devices:
            log.info("the hosts run on: %s", "; ".join(devices))
            self._catalog = on_device(self._catalog, devices[0])

    def _adopt(self, hosts: tuple[HostState, ...]) -> None:
        """On the first look, and when hosts are ahead (a plan was handed over, but the answer was lost), what the newest
        host runs is the plan in force."""
        if not hosts:
            return
        newest = max(hosts, key=lambda h: h.observed_generation)
        if self._assignment is None or newest.observed_generation > self._generation:
            self._generation = max(self._generation, newest.observed_generation)
            self._assignment = dict(newest.variants)

    def _outcomes(self, hosts: tuple[HostState, ...]) -> tuple[SwapRecord, ...]:
        """Swaps that ended since the last tick, each once for each host; not those an earlier controller wrote down."""
        there = {
            (host.host, record.generation, record.started, record.model): record
            for host in hosts
            for record in host.swaps
            if record.started + record.seconds > self._journalled_until
        }
        fresh = tuple(record for key, record in there.items() if key not in self._reported)
        answering = {host.host for host in hosts}
        self._reported = {key for key in self._reported if key[0] not in answering} | set(there)
        return fresh

    def _write(self, decision: Decision) -> None:
        """A journal that cannot be written (a full disk) must not stop the relief of pressure."""
        try:
            self._journal.append(decision)
        except OSError as error:
            log.error("the journal cannot be written: %s", error)

    def _notable(self, decision: Decision) -> bool:
        """Every swap, outcome, error, change of trigger, pin or hold is a line, and one a minute when nothing happens."""
        last = self._last
        if (
            last is None
            or decision.plan.swaps
            or decision.outcomes
            or decision.verdicts
            or decision.at - self._written >= HEARTBEAT_SECONDS
        ):
            return True
        states = [(t.name, t.state) for t in decision.triggers] != [(t.name, t.state) for t in last.triggers]
        holds = {kind(h) for h in decision.plan.holds} != {kind(h) for h in last.plan.holds}
        holds = holds or decision.plan.infeasible != last.plan.infeasible
        orders = decision.pins != last.pins or decision.overrides != last.overrides
        return states or holds or orders or decision.error != last.error

    def _ages(self, decision: Decision) -> dict[str, float]:
        lines = decision.snapshot.readings.budgets if decision.snapshot else ()
        return {line.budget: decision.at - line.usage.at for line in lines if isinstance(line.usage, Reading)}

    @property
    def in_force(self) -> Plan | None:
        """The plan that the hosts are to follow; None before they were seen."""
        if self._assignment is None:
            return None
        return Plan(generation=self._generation, assignment=dict(self._assignment), staged=staged(self._memory))

    async def aclose(self) -> None:
        """Release what readings come through."""
        await self._source.aclose()

    # What people ask

    @property
    def pins(self) -> Mapping[str, str | None]:
        """Pins made by hand: model -> variant (None: parked)."""
        return dict(self._pins)

    def pin(self, model: str, variant: str | None) -> None:
        """Pin a model from the next tick on; a quarantine of that variant is lifted. Raises UnknownModel, InvalidInput."""
        self._check(model, variant)
        self._requested.pop(model, None)
        self._pins[model] = variant
        self._lift(model, variant)

    def unpin(self, model: str) -> None:
        """Give a model back. What it was pinned below its best rung is restored once there is room. Raises UnknownModel."""
        self._known(model)
        self._pins.pop(model, None)

    def swap(self, model: str, variant: str) -> None:
        """Move a model once, with the next tick that is free to; afterwards the controller may move it again when its
        cooldown is over. Raises what `may_swap` does."""
        self.may_swap(model, variant)
        self._requested[model] = variant

    def may_swap(self, model: str, variant: str) -> None:
        """Raises UnknownModel, InvalidInput, Conflict (it is pinned elsewhere, or the variant is quarantined)."""
        self._check(model, variant)
        configured = self._config.policy(model).pin
        if model in self._pins or configured is not None:
            pinned = self._pins.get(model, configured)
            where = "by hand; unpin it first" if model in self._pins else f"in the configuration (models.{model}.pin)"
            raise Conflict(f"model {model!r} is pinned to {pinned or 'parked'} {where}")
        for held in self._memory.quarantined:
            if (held.model, held.variant) == (model, variant):
                raise Conflict(f"{model}/{variant} is quarantined ({held.reason}); clear the quarantine first")

    def lift(self, model: str, variant: str | None) -> bool:
        """End a variant's quarantine; False when there is none. Raises UnknownModel, InvalidInput."""
        self._check(model, variant)
        before = len(self._memory.quarantined)
        self._lift(model, variant)
        return len(self._memory.quarantined) < before

    def _lift(self, model: str, variant: str | None) -> None:
        kept = tuple(q for q in self._memory.quarantined if (q.model, q.variant) != (model, variant))
        self._memory = self._memory.model_copy(update={"quarantined": kept})

    def _check(self, model: str, variant: str | None) -> None:
        self._known(model)
        variants = self._catalog.entries[model].variants
        if variant is not None and variant not in variants:
            raise InvalidInput(f"model {model!r} has no variant {variant!r}; it has {', '.join(variants)}")

    @property
    def known_until(self) -> float:
        """When this controller, or the one whose journal it goes on with, last decided (unix seconds); 0: never."""
        return max(self._journalled_until, self._last.at if self._last else 0.0)

    def follow(self, other: Controller) -> None:
        """Take over the orders given to another group's controller: pins, and changes of the budgets that both have."""
        shared = {b.name for b in other.config.budgets}
        own = {b.name for b in self._configured.budgets}
        kept = {name: o for name, o in self._overrides.items() if name not in shared}
        self._pins = dict(other.pins)
        self._use(self._configured, kept | {name: o for name, o in other.overrides.items() if name in own})

    # Configuration at run time

    @property
    def config(self) -> BudgetsConfig:
        """What is in force: the file, with overrides laid over its budgets."""
        return self._config

    @property
    def overrides(self) -> Mapping[str, Override]:
        """Budgets changed at run time, by name."""
        return dict(self._overrides)

    def override(self, budget: str, change: Override) -> None:
        """Change a budget from the next tick on; the journal keeps it. A field set to None is the file's again. Raises
        UnknownBudget, InvalidInput."""
        if budget not in {b.name for b in self._configured.budgets}:
            known = ", ".join(b.name for b in self._configured.budgets) or "none"
            raise UnknownBudget(f"no budget {budget!r}; there are: {known}")
        merged = {**self._overrides, budget: self._overrides.get(budget, Override()).then(change)}
        self._use(self._configured, {name: o for name, o in merged.items() if o.changes()})

    def reset(self, budget: str) -> None:
        """Give a budget the file's values back. Raises UnknownBudget."""
        self.override(budget, Override(**dict.fromkeys(Override.model_fields)))

    def reconfigure(self, config: BudgetsConfig) -> None:
        """Take another file's budgets and policies, with the overrides that are in force. Raises InvalidInput when one of
        those does not fit any more; nothing has changed then."""
        known = {b.name for b in config.budgets}
        self._use(config, {name: o for name, o in self._overrides.items() if name in known})

    def _use(self, configured: BudgetsConfig, overrides: dict[str, Override]) -> None:
        self._config = overlaid(configured, overrides)
        self._configured, self._overrides = configured, overrides
        self._source.reconfigure(self._config)

    # What is and what would be

    @property
    def recent(self) -> list[Decision]:
        """The last decisions that were written down, oldest first."""
        return self._recent

    @property
    def generation(self) -> int:
        """The plan in force."""
        return self._generation

    def foresee(self, now: float) -> Foresight | None:
        """What would be done next if nothing changed, by the last look; None before the first one. Nothing is done."""
        last = self._last
        if last is None or last.snapshot is None:
            return None
        update = {
            "generation": self._generation,
            "assignment": dict(self._assignment or {}),
            "pins": {**self._pins, **self._requested},
            "staged": staged(self._memory),
        }
        snapshot = last.snapshot.model_copy(update=update)
        pressures = with_trends(assess(snapshot.readings, self._config, self._history), last.outlook)
        return foresee(
            self._catalog, snapshot, pressures, self._triggers, self._config, self._memory, now, last.outlook
        )

    def status(self) -> dict[str, Any]:
        """Everything at a glance, JSON-able."""
        return words.status(self._catalog, self._config, self._last, self._pins)

    def why(self, model: str) -> dict[str, Any]:
        """The last change of a model's variant, on what it was decided and how it came out. Raises UnknownModel."""
        self._known(model)
        return questions.why(self._recent, self._last, model)

    def what_if(self, budget: str, delta_bytes: int) -> dict[str, Any]:
        """The swaps that would follow if a memory budget were larger (or smaller: negative). Changes nothing. Raises
        UnknownBudget, Conflict."""
        return questions.what_if(self._catalog, self._config, self._last, budget, delta_bytes)

    def restore_needs(self, model: str) -> dict[str, Any]:
        """What each better variant of a model would take. Raises UnknownModel."""
        return questions.restore_needs(self._catalog, self._config, self._last, model)

    def _known(self, model: str) -> None:
        if model not in self._catalog.entries:
            raise UnknownModel(f"no model {model!r}; there are: {', '.join(sorted(self._catalog.entries))}")

    def explain(self, model: str | None = None) -> dict[str, Any]:
        """Recent decisions, of one model or all, as sentences with numbers; of one model also why it runs what it runs and
        what a better variant would take. Raises UnknownModel."""
        if model is None:
            return words.explain(self._recent, self._last, model)
        needs = self.restore_needs(model)
        told = words.explain(self._recent, self._last, model)
        *lines, now = told["lines"]
        return {**told, "lines": [*lines, *questions.in_words(needs), now], "why": self.why(model), "restore": needs}


def staged(memory: Memory) -> dict[str, Staged]:
    """What some hosts run on trial."""
    return {v.model: Staged(variant=v.to_variant, hosts=v.hosts) for v in memory.verifying if v.hosts}


def kind(hold: Hold) -> tuple[str, str | None, str]:
    """What a hold is about, without its numbers: the words before the first colon."""
    return hold.model, hold.variant, hold.reason.partition(":")[0]
