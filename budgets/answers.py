"""What one host group's controller says when it is asked: what is, why, and what would be. Nothing is changed by asking."""

from __future__ import annotations

from typing import Any

from budgets import explain as words
from budgets import questions
from budgets.forecast import with_trends
from budgets.foresight import Foresight, foresee
from budgets.pressure import assess
from budgets.state import State


class Answers:
    """JSON-able values, but for `foresee`."""

    def __init__(self, state: State) -> None:
        self._state = state

    def status(self) -> dict[str, Any]:
        """Everything at a glance."""
        state = self._state
        return words.status(state.catalog, state.config, state.last, state.pins)

    def foresee(self, now: float) -> Foresight | None:
        """What would be done next if nothing changed, by the last look; None before the first one."""
        state, last = self._state, self._state.last
        if last is None or last.snapshot is None:
            return None
        update = {
            "generation": state.generation,
            "assignment": dict(state.assignment or {}),
            "pins": state.wanted,
            "staged": state.staged,
            "serving": dict(state.serving),
        }
        snapshot = last.snapshot.model_copy(update=update)
        pressures = with_trends(assess(snapshot.readings, state.config, state.history), last.outlook)
        return foresee(
            state.catalog, snapshot, pressures, state.triggers, state.config, state.memory, now, last.outlook
        )

    def why(self, model: str) -> dict[str, Any]:
        """The last change of a model's variant, on what it was decided and how it came out. Raises UnknownModel."""
        self._state.known(model)
        return questions.why(self._state.recent, self._state.last, model)

    def what_if(self, budget: str, delta_bytes: int) -> dict[str, Any]:
        """The swaps that would follow if a memory budget were larger (or smaller: negative). Raises UnknownBudget,
        Conflict."""
        state = self._state
        return questions.what_if(state.catalog, state.config, state.last, budget, delta_bytes)

    def restore_needs(self, model: str) -> dict[str, Any]:
        """What each better variant of a model would take. Raises UnknownModel."""
        state = self._state
        return questions.restore_needs(state.catalog, state.config, state.last, model)

    def explain(self, model: str | None = None) -> dict[str, Any]:
        """Recent decisions, of one model or all, as sentences with numbers; of one model also why it runs what it runs and
        what a better variant would take. Raises UnknownModel."""
        told = words.explain(self._state.recent, self._state.last, model)
        if model is None:
            return told
        needs = self.restore_needs(model)
        *lines, now = told["lines"]
        return {**told, "lines": [*lines, *questions.in_words(needs), now], "why": self.why(model), "restore": needs}
