"""What a slot has in force: its engine, the state that clients see, and who hears of a change."""

from __future__ import annotations

from collections.abc import Callable

from deployments.api import ModelStatus, SlotState
from deployments.calls import Loaded


class Standing:
    """Begins with nothing in force. Belongs to the event loop; changed by the slot alone."""

    def __init__(self) -> None:
        self.state: SlotState = "LOADING"
        self.reason = "not started"
        self.loaded: Loaded | None = None
        self.variant: str | None = None  # stays while an engine is closed to make room for the next
        self.watchers: list[Callable[[], None]] = []  # called when another engine, or none, has come into force

    def status(self) -> ModelStatus:
        """READY also while requests are held for a swap: they are answered."""
        return ModelStatus(self.state, self.variant, self.reason)

    def put(self, loaded: Loaded) -> None:
        """An engine comes into force."""
        self.loaded, self.variant = loaded, loaded.variant
        self.state, self.reason = "READY", ""

    def vacate(self) -> None:
        """The engine is about to be closed, and another one will follow."""
        self.loaded = None

    def empty(self, state: SlotState, reason: str) -> None:
        """Nothing is in force."""
        self.loaded = self.variant = None
        self.state, self.reason = state, reason

    def tell(self) -> None:
        """Call the watchers."""
        for watcher in tuple(self.watchers):
            watcher()
