"""One streamed answer: a request whose engine answers in several steps, each of which takes its turn in the lanes.

A stream holds the engine it began on until it ends, through swaps: a swap waits for it as for any call under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from deployments.api import Answer
from deployments.calls import Loaded
from deployments.lanes import Claimant, Lanes
from deployments.slot import Slot
from variants.engines.base import Array, Tensors
from variants.errors import DeadlineExceeded, EngineFailed, QueueFull, TrimtabError

QUEUE_FULL_RETRY_SECONDS = 1.0
Step = dict[str, Array] | Exception | None


class _Next:
    """One step of a stream (a `deployments.lanes.Job`): the engine computes its next answer."""

    def __init__(self, stream: _Stream) -> None:
        self.seconds = 0.0
        self.brief = False
        self.result: Step = None
        self._stream = stream

    def run(self) -> None:
        """In a worker thread."""
        started = time.monotonic()
        try:
            self.result = self._stream.advance()
        except TrimtabError as error:
            self.result = error
        except BaseException as error:  # as in `deployments.calls.Batch`: the lane must outlive it
            failed = EngineFailed(f"model {self._stream.model!r}: {type(error).__name__}: {error}")
            failed.__cause__ = error
            self.result = failed
        self.seconds = time.monotonic() - started

    def ended(self) -> None:
        """Nothing is learnt from steps."""

    def finish(self) -> None:
        """On the event loop."""
        self._stream.stepped(self)


class _Stream(Claimant):
    """The turns of one streamed answer. Belongs to the event loop, but for `advance`."""

    def __init__(self, model: str, loaded: Loaded, inputs: Tensors, lanes: Lanes) -> None:
        super().__init__()
        self.model = model
        self._loaded = loaded
        self._inputs = inputs
        self._lanes = lanes
        self._steps: Iterator[dict[str, Array]] | None = None
        self._asked: asyncio.Future[_Next] | None = None
        self._running = False
        self._closing = False
        self._closer: asyncio.Future[Any] | None = None
        loaded.acquire()

    def has_work(self) -> bool:
        """A step is asked for and not under way."""
        return self._asked is not None and not self._asked.done() and not self._running

    def next_job(self) -> _Next | None:
        """The step that is asked for."""
        if not self.has_work():
            return None
        self._running = True
        return _Next(self)

    def advance(self) -> dict[str, Array] | None:
        """The engine's next answer, or None: there is none. In a worker thread, one at a time."""
        if self._steps is None:
            self._steps = self._loaded.engine.stream(self._inputs)  # type: ignore[attr-defined]  # checked by `stream`
        return next(self._steps, None)

    async def step(self, timeout_seconds: float) -> _Next:
        """Have the next step computed. Raises TimeoutError."""
        self._asked = asyncio.get_running_loop().create_future()
        self._lanes.offer(self)
        try:
            return await asyncio.wait_for(self._asked, timeout_seconds)
        finally:
            self._asked = None

    def stepped(self, step: _Next) -> None:
        """A step has ended."""
        self._running = False
        if not isinstance(step.result, dict):
            self._steps = None  # it has ended by itself
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(step)
        if self._closing:
            self._release()

    def close(self) -> None:
        """Nobody waits any more: let go of the engine as soon as it is not computing."""
        self._closing = True
        if not self._running:
            self._release()

    def _release(self) -> None:
        steps, self._steps = self._steps, None
        close = getattr(steps, "close", None)
        if close is None:
            self._loaded.release()
            return
        # The engine's own clean-up may take its time.
        self._closer = asyncio.get_running_loop().run_in_executor(None, close)
        self._closer.add_done_callback(self._released)

    def _released(self, closer: asyncio.Future[Any]) -> None:
        closer.exception()  # what a generator raises while it is closed helps nobody
        self._loaded.release()


class Streams:
    """The streams of a host: `most` of one model at once. Belongs to the event loop."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._open: dict[str, int] = {}

    async def stream(
        self, slot: Slot, inputs: Tensors, *, timeout_seconds: float, hold_seconds: float, most: int, protocol: str
    ) -> AsyncGenerator[Answer, None]:
        """Answers one after the other. `timeout_seconds`: for each. `hold_seconds`: how long to wait for an engine.

        Raises QueueFull, Unavailable, DeadlineExceeded, EngineFailed.
        """
        arrival = time.monotonic()
        variant = ""
        try:
            if self._open.get(slot.name, 0) >= most:
                raise QueueFull(
                    f"model {slot.name!r}: {most} streams are open already",
                    retry_after_seconds=QUEUE_FULL_RETRY_SECONDS,
                )
            self._open[slot.name] = self._open.get(slot.name, 0) + 1
            try:
                loaded = await slot.in_force(min(hold_seconds, timeout_seconds))
                variant = loaded.variant
                if not hasattr(loaded.engine, "stream"):
                    raise EngineFailed(f"model {slot.name!r}: variant {variant!r} cannot stream")
                async with contextlib.aclosing(self._answers(slot, loaded, inputs, timeout_seconds)) as answers:
                    async for answer in answers:
                        yield answer
            finally:
                self._open[slot.name] -= 1
        except TrimtabError as error:
            slot.tally.failed(variant, type(error).__name__, protocol, time.monotonic() - arrival)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            slot.tally.failed(variant, "Cancelled", protocol, time.monotonic() - arrival)
            raise
        slot.tally.answered(variant, protocol, time.monotonic() - arrival, 1)

    async def _answers(
        self, slot: Slot, loaded: Loaded, inputs: Tensors, timeout_seconds: float
    ) -> AsyncGenerator[Answer, None]:
        stream = _Stream(slot.name, loaded, inputs, self._lanes)
        try:
            while True:
                asked = time.monotonic()
                try:
                    step = await stream.step(timeout_seconds)
                except TimeoutError:
                    raise DeadlineExceeded(
                        f"model {slot.name!r}: no further answer within {timeout_seconds:.3g} s"
                    ) from None
                queued = max(0.0, time.monotonic() - asked - step.seconds)
                slot.tally.executed(loaded.variant, 1, [queued], step.seconds)
                if isinstance(step.result, Exception):
                    raise step.result
                if step.result is None:
                    return
                yield Answer(step.result, loaded.variant, queued, step.seconds, 1)
        finally:
            stream.close()
