"""Requests that are held: nothing is in force that could answer them, and something may be before their time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deployments.batching import Pending
from deployments.calls import Loaded
from deployments.standing import Standing
from deployments.waiting import Waiting
from variants.errors import Unavailable


class Holding:
    """Begins with the requests held. Belongs to the event loop.

    `seconds`: how long each may wait. `standing`: what is in force, and so what they wait for. `ask`: called when some wait,
    to see to a load that nothing else would bring.
    """

    def __init__(
        self,
        model: str,
        queue: Waiting,
        seconds: float,
        clock: Callable[[], float],
        standing: Standing,
        *,
        ask: Callable[[], None],
    ) -> None:
        self.since: float | None = clock()
        self._model = model
        self._queue = queue
        self._seconds = seconds
        self._clock = clock
        self._ask = ask
        self._standing = standing
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Hold what waits and what arrives."""
        if self.since is None:
            self.since = self._clock()
        if self._queue:
            self.watch(self._clock())

    def end(self) -> None:
        """What waits may run."""
        self.since = None

    def watch(self, now: float) -> None:
        """Some wait: see to it that they are answered in time, or told that they are not."""
        self._ask()
        if self._timer is None and self._queue and self.since is not None:
            left = max(0.0, min(self._until(pending) for pending in self._queue) - now)
            self._timer = asyncio.get_running_loop().call_later(left, self._too_long)

    async def in_force(self, timeout_seconds: float) -> Loaded:
        """The engine in force, as soon as there is one that is not held; asks for it. Raises Unavailable."""
        standing, changed = self._standing, asyncio.Event()
        standing.watchers.append(changed.set)
        try:
            async with asyncio.timeout(timeout_seconds):
                while standing.loaded is None or self.since is not None:
                    if standing.state == "UNAVAILABLE":
                        raise Unavailable(f"model {self._model!r} is unavailable: {standing.reason}")
                    self._ask()
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise Unavailable(
                f"model {self._model!r} was not back within {timeout_seconds:g} s", retry_after_seconds=timeout_seconds
            ) from None
        finally:
            standing.watchers.remove(changed.set)
        return standing.loaded

    def reject(self, why: str, retry_after_seconds: float | None) -> None:
        """Refuse everything that waits."""
        for pending in self._queue.clear():
            self._reject(pending, why, retry_after_seconds)

    def close(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _reject(self, pending: Pending, why: str, retry_after_seconds: float | None) -> None:
        if not pending.future.done():
            message = f"model {self._model!r} {why}"
            pending.future.set_exception(Unavailable(message, retry_after_seconds=retry_after_seconds))

    def _until(self, pending: Pending) -> float:
        return max(pending.arrival, self.since or 0.0) + self._seconds

    def _too_long(self) -> None:
        self._timer = None
        if self.since is None:
            return
        now = self._clock()
        # The loop's timer may fire a clock tick early: what is due within a millisecond is due.
        for pending in [p for p in self._queue if self._until(p) <= now + 0.001]:
            self._queue.remove(pending)
            why = f"was not back within {self._seconds:g} s ({self._standing.reason or 'it is being swapped'})"
            self._reject(pending, why, self._seconds)
        if self._queue:
            self.watch(now)
