"""The controller: `tick(now)` is the only orchestration. Decisions are made elsewhere, by pure functions; this carries
state from tick to tick, asks the ports, and keeps the journal. Orders of people come in by `orders`, questions are answered
by `answers`.

observe + read -> Snapshot -> assess -> advance -> plan -> revalidate on a fresh look -> apply -> journal, metrics
"""

from __future__ import annotations

import logging
import time

from budgets.answers import Answers
from budgets.calibrate import observe
from budgets.config import BudgetsConfig
from budgets.forecast import with_trends
from budgets.options import view
from budgets.orders import Orders
from budgets.plan import Decision, Hold, Plan, Verdict
from budgets.planner import plan, revalidate
from budgets.ports import Actuator, Journal, Metrics, Source
from budgets.pressure import advance, assess
from budgets.reality import adopt, forget, learn, measured_on
from budgets.remember import remember
from budgets.rerun import fingerprint
from budgets.snapshot import HostState, Reading, Readings, Snapshot, SwapRecord
from budgets.state import State
from budgets.verify import begin, review
from variants.catalog import Catalog

log = logging.getLogger("trimtab.controller")
HEARTBEAT_SECONDS = 60.0
#: Decisions kept in memory for `explain`.
RECENT = 200


class Controller:
    """One per group of hosts. `tick` must not be called again before it has returned; `orders` and `answers` may be used at
    any time on the same event loop."""

    def __init__(
        self,
        config: BudgetsConfig,
        catalog: Catalog,
        source: Source,
        actuator: Actuator,
        journal: Journal,
        metrics: Metrics | None = None,
    ) -> None:
        self.state = State(config, catalog)
        self.orders = Orders(self.state, source)
        self.answers = Answers(self.state)
        self._source = source
        self._actuator = actuator
        self._journal = journal
        self._metrics = metrics
        self._answered: dict[str, float] = {}
        self._printed: tuple[BudgetsConfig, Catalog, str] | None = None
        self._reported: set[tuple[str, int, float, str]] = set()
        self._written = 0.0
        self.state.recover(journal.last())

    async def tick(self, now: float) -> Decision:
        """Look, decide, act, record. What goes wrong on the way is the decision's `error`; nothing is raised for it."""
        state = self.state
        started = time.perf_counter()
        try:
            decision = await self._decide(now)
        except Exception as error:
            log.warning("tick failed: %s: %s", type(error).__name__, error)
            plan_in_force = state.in_force or Plan(generation=state.generation, assignment={}, staged=state.staged)
            decision = Decision(
                at=now,
                snapshot=None,
                triggers=state.triggers,
                plan=plan_in_force,
                pins=dict(state.pins),
                overrides=dict(state.overrides),
                memory=state.memory,
                error=f"{type(error).__name__}: {error}",
            )
        if self._notable(decision):
            self._write(decision)
            self._written = now
            state.recent = [*state.recent, decision][-RECENT:]
        state.last = decision
        if self._metrics is not None:
            self._metrics.tick(decision, time.perf_counter() - started, self._ages(decision))
        return decision

    async def _decide(self, now: float) -> Decision:
        state = self.state
        snapshot = await self._look(now)
        outcomes = self._outcomes(snapshot.hosts)
        verdicts: tuple[Verdict, ...] = ()
        if state.assignment is not None:
            state.memory = learn(
                forget(state.memory, now, state.catalog),
                state.assignment,
                outcomes,
                snapshot.hosts,
                state.generation,
                state.config.controller.quarantine_seconds,
                now,
                state.catalog,
            )
            state.memory, verdicts = review(state.memory, snapshot, state.catalog, state.config, now)
            trials = state.staged
            if not snapshot.absent:
                state.assignment = adopt(state.assignment, snapshot.hosts, state.generation, trials)
            snapshot = snapshot.model_copy(update={"assignment": dict(state.assignment), "staged": trials})
        state.history = state.history.remember(snapshot.readings)
        state.past = state.past.remember(snapshot, state.catalog, state.config, state.memory.ended_at)
        outlook = state.past.outlook(state.config, now)
        pressures = with_trends(assess(snapshot.readings, state.config, state.history), outlook)
        state.triggers = advance(state.triggers, pressures, state.config, now)
        seen = view(state.catalog, snapshot, state.config, state.memory.learned)
        state.memory, checks = observe(state.memory, snapshot, seen, state.config, now)
        before = state.memory
        decided = plan(state.catalog, snapshot, pressures, state.triggers, state.config, before, now, outlook)
        proposed = decided
        if decided.swaps:
            decided = revalidate(decided, snapshot, await self._look(now), state.config)
        if decided.generation > snapshot.generation:
            await self._actuator.apply(decided)
            state.memory = remember(state.memory, decided, snapshot, state.config, now)
            state.memory = begin(state.memory, decided, snapshot, seen, state.catalog, state.config, now)
            state.generation, state.assignment = decided.generation, dict(decided.assignment)
            state.serving = dict(decided.serving)
        refused = {(q.model, q.variant) for q in state.memory.quarantined}
        state.requested = {
            m: v for m, v in state.requested.items() if decided.assignment.get(m) != v and (m, v) not in refused
        }
        return Decision(
            at=now,
            snapshot=snapshot,
            pressures=pressures,
            triggers=state.triggers,
            plan=decided,
            outcomes=outcomes,
            verdicts=verdicts,
            latency=checks,
            outlook=outlook,
            before=before,
            proposed=None if proposed == decided else proposed,
            config=state.config,
            inputs=self._inputs(),
            pins=dict(state.pins),
            overrides=dict(state.overrides),
            memory=state.memory,
        )

    def _inputs(self) -> str:
        """The fingerprint of what is planned with; made again when either is replaced."""
        state = self.state
        printed = self._printed
        if printed is None or printed[0] is not state.config or printed[1] is not state.catalog:
            printed = self._printed = (state.config, state.catalog, fingerprint(state.config, state.catalog))
        return printed[2]

    async def _look(self, now: float) -> Snapshot:
        state = self.state
        hosts = await self._actuator.observe()
        readings = await self._source.read(now, hosts) if hosts else Readings(at=now, budgets=(), models=())
        self._measure_on(hosts)
        self._adopt(hosts)
        self._answered |= {host.host: now for host in hosts}
        stale = state.config.controller.stale_seconds
        self._answered = {host: at for host, at in self._answered.items() if now - at <= stale}
        return Snapshot(
            at=now,
            readings=readings,
            hosts=hosts,
            generation=state.generation,
            assignment=dict(state.assignment or {}),
            pins=state.wanted,
            staged=state.staged,
            serving=dict(state.serving),
            absent=tuple(sorted(set(self._answered) - {host.host for host in hosts})),
        )

    def _measure_on(self, hosts: tuple[HostState, ...]) -> None:
        state = self.state
        catalog = measured_on(state.catalog, hosts)
        if catalog is not state.catalog:
            log.info("the hosts run on: %s", "; ".join(sorted({h.device for h in hosts if h.device})))
            state.catalog = catalog

    def _adopt(self, hosts: tuple[HostState, ...]) -> None:
        """On the first look, and when hosts are ahead (a plan was handed over, but the answer was lost), what the newest
        host runs is the plan in force."""
        state = self.state
        if not hosts:
            return
        newest = max(hosts, key=lambda h: h.observed_generation)
        if state.assignment is None or newest.observed_generation > state.generation:
            state.generation = max(state.generation, newest.observed_generation)
            state.assignment, state.serving = dict(newest.variants), dict(newest.serving)

    def _outcomes(self, hosts: tuple[HostState, ...]) -> tuple[SwapRecord, ...]:
        """Swaps that ended since the last tick, each once for each host; not those an earlier controller wrote down."""
        state = self.state
        there = {
            (host.host, record.generation, record.started, record.model): record
            for host in hosts
            for record in host.swaps
            if record.started + record.seconds > state.journalled_until
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
        """Every plan, outcome, error, change of trigger, pin or hold is a line, and one a minute when nothing happens."""
        state = self.state
        last = state.last
        if (
            last is None
            or decision.plan.generation != last.plan.generation
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

    async def aclose(self) -> None:
        """Release what readings come through."""
        await self._source.aclose()


def kind(hold: Hold) -> tuple[str, str | None, str]:
    """What a hold is about, without its numbers: the words before the first colon."""
    return hold.model, hold.variant, hold.reason.partition(":")[0]
