"""A request whose caller is called back instead of waiting for a future: no task and no pass of the event loop between an
engine call and the answer's first byte.
"""

from __future__ import annotations

from typing import Any, Protocol

from deployments.api import Answer, Deliver
from deployments.batching import Pending
from variants.errors import TrimtabError


class Owner(Protocol):
    """Who counts what became of a request (`deployments.slot.Slot`)."""

    def answered(self, answer: Answer, pending: Pending, protocol: str) -> None: ...

    def failed(self, code: str, pending: Pending, protocol: str) -> None: ...


class Reply:
    """Stands where an `asyncio.Future` does in a `Pending`; of one it has what is used there."""

    __slots__ = ("_deliver", "_owner", "_protocol", "over", "pending")

    def __init__(self, owner: Owner, protocol: str, deliver: Deliver) -> None:
        self._owner = owner
        self._protocol = protocol
        self._deliver = deliver
        self.pending: Any = None  # the request, once it is queued
        self.over = False

    def done(self) -> bool:
        """True once it was answered or nobody waits any more."""
        return self.over

    def set_result(self, answer: Answer) -> None:
        """The answer is there."""
        self.over = True
        self._owner.answered(answer, self.pending, self._protocol)
        self._deliver(answer, None)

    def set_exception(self, error: Exception) -> None:
        """There will be none."""
        self.over = True
        code = type(error).__name__ if isinstance(error, TrimtabError) else "Error"
        self._owner.failed(code, self.pending, self._protocol)
        self._deliver(None, error)

    def cancel(self) -> None:
        """See `deployments.api.Submitted`."""
        if not self.over:
            self.over = True
            self._owner.failed("Cancelled", self.pending, self._protocol)
