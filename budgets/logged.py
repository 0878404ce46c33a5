"""A journal that also says in the log, in one line each, what it writes down."""

from __future__ import annotations

import logging
from typing import Any

from budgets.config import DEFAULT_GROUP
from budgets.explain import outcome, sentence, served
from budgets.plan import Decision
from budgets.ports import Journal

log = logging.getLogger("trimtab.decisions")


class LoggedJournal:
    """See `budgets.ports.Journal`; `group` is named unless it is the default one. The line's level: warning for what failed,
    debug when nothing happened, else info."""

    def __init__(self, journal: Journal, group: str = DEFAULT_GROUP) -> None:
        self._journal = journal
        self._group = group
        self._states: dict[str, str] = {}

    def append(self, decision: Decision) -> None:
        """Log, then hand on: a journal that cannot be written must not silence the log as well."""
        states: dict[str, str] = {t.name: t.state for t in decision.triggers}
        changed = {name: state for name, state in states.items() if self._states.get(name, "calm") != state}
        self._states = states
        named = {} if self._group == DEFAULT_GROUP else {"group": self._group}
        text = "".join(f"group {name}: " for name in named.values()) + describe(decision, changed)
        log.log(_level(decision, bool(changed)), "%s", text, extra={"fields": {**named, **_fields(decision)}})
        self._journal.append(decision)

    def last(self) -> Decision | None:
        """See `budgets.ports.Journal`."""
        return self._journal.last()


def describe(decision: Decision, changed: dict[str, str]) -> str:
    """A decision in words; `changed`: triggers that are in another state than before."""
    parts = [f"{name} is {state}" for name, state in changed.items()]
    parts += [sentence(swap) for swap in decision.plan.swaps]
    parts += [text for _, text in served(decision)]
    parts += [outcome(record) for record in decision.outcomes]
    parts += [f"{hold.model}: {hold.reason}" for hold in decision.plan.holds]
    parts += [f"error: {decision.error}"] if decision.error else []
    return f"plan {decision.plan.generation}: " + ("; ".join(parts) or "nothing to do")


def _level(decision: Decision, changed: bool) -> int:
    if decision.error or any(record.outcome != "done" for record in decision.outcomes):
        return logging.WARNING
    if changed or decision.plan.swaps or decision.outcomes or decision.plan.holds or any(served(decision)):
        return logging.INFO
    return logging.DEBUG


def _fields(decision: Decision) -> dict[str, Any]:
    return {
        "generation": decision.plan.generation,
        "pressures": {p.name: None if p.ratio is None else round(p.ratio, 4) for p in decision.pressures},
        "triggers": {t.name: t.state for t in decision.triggers},
        "swaps": [s.model_dump(mode="json", exclude={"reason"}) for s in decision.plan.swaps],
        "outcomes": [r.model_dump(mode="json") for r in decision.outcomes],
        "holds": [h.model_dump(mode="json") for h in decision.plan.holds],
    }
