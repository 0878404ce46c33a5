"""A resident variant, and one engine call on it."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from deployments.batching import Key, Pending, Result, run
from deployments.padding import Padding, longest_of, wasted
from variants.engines.base import Array, Engine, Tensors
from variants.errors import EngineFailed


@dataclass(eq=False)
class Loaded:
    """A variant that is resident. `calls` counts the engine calls under way: it is closed only when there are none.
    `measured` tells whether `resident_bytes` was measured when it was loaded or comes from its profile. `width`: see
    `Variant.width`."""

    variant: str
    engine: Engine
    resident_bytes: int
    measured: bool = False
    width: int = 1
    calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def acquire(self) -> None:
        """An engine call starts."""
        self.calls += 1
        if self.calls == 1:
            self.idle.clear()

    def release(self) -> None:
        """An engine call has ended."""
        self.calls -= 1
        if self.calls == 0:
            self.idle.set()


class _Timed:
    """An engine for one batch, with the times of its first call's start (None: not called) and its last one's end."""

    __slots__ = ("_clock", "_engine", "began", "ended")

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self.began: float | None = None
        self.ended = 0.0

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        if self.began is None:
            self.began = self._clock()
        try:
            return self._engine.infer(inputs)
        finally:
            self.ended = self._clock()


def _waits_and_cpu() -> tuple[int, float]:
    """Of this thread: how often it waited for anything, and the CPU seconds that it used."""
    if hasattr(resource, "RUSAGE_THREAD"):
        used = resource.getrusage(resource.RUSAGE_THREAD)
        return used.ru_nvcsw, used.ru_utime + used.ru_stime
    return 0, time.monotonic()


class Owner(Protocol):
    """Whose calls they are. Both on the event loop."""

    def call_ended(self, batch: Batch) -> None:
        """Learn from how it went."""
        ...

    def hand_out(self, batch: Batch) -> None:
        """Give each request its result."""
        ...


class Batch:
    """One engine call for requests of one model (a `deployments.lanes.Job`). Times are of the monotonic clock.

    `eligible`: when the call could have begun, had the engines been free. `backlog`: others waited behind it. `brief`: so
    short that it may be made on the event loop; `blocked` is then for how long it kept the loop from going on, without
    what the system gave to others meanwhile (0 for a call in a thread). `wasted`: padded positions and all positions
    (rows times length), 0 where nothing is padded.
    """

    __slots__ = (
        "_clock",
        "_model",
        "_owner",
        "_padding",
        "around",
        "backlog",
        "blocked",
        "brief",
        "eligible",
        "loaded",
        "pending",
        "results",
        "rows",
        "seconds",
        "started",
        "wasted",
    )

    def __init__(
        self,
        model: str,
        loaded: Loaded,
        pending: list[Pending],
        rows: int,
        owner: Owner,
        eligible: float,
        backlog: bool,
        padding: Padding | None = None,
        clock: Callable[[], float] = time.monotonic,
        brief: bool = False,
    ) -> None:
        loaded.acquire()
        self.loaded = loaded
        self.pending = pending
        self.rows = rows
        self.eligible = eligible
        self.backlog = backlog
        self.brief = brief
        self.started = 0.0
        self.seconds = 0.0
        self.blocked = 0.0
        self.around = (0.0, 0.0)
        self.results: list[Result] = []
        self.wasted = (0, 0) if padding is None else wasted(pending)
        self._model = model
        self._owner = owner
        self._padding = padding
        self._clock = clock

    @property
    def shape(self) -> tuple[int, Key]:
        """What the engine was called with (`deployments.shapes.Shape`)."""
        longest = longest_of(self.pending) if self._padding is not None else 0
        return self.rows, longest or self.pending[0].key

    def run(self) -> None:
        """In a worker thread, or on the event loop. The clock starts here: waiting for the thread is queueing."""
        before = _waits_and_cpu() if self.brief else (0, 0.0)
        self.started = self._clock()
        engine = _Timed(self.loaded.engine, self._clock)
        try:
            self.results = run(engine, self.pending, self._model, self._clock, self._padding)
        except BaseException as error:  # a native binding's panic: the lane and the callers must outlive it
            failed = EngineFailed(f"model {self._model!r}: {type(error).__name__}: {error}")
            self.results = [failed] * len(self.pending)
        ended = self._clock()
        self.seconds = ended - self.started
        if self.brief:
            waits, cpu = _waits_and_cpu()
            self.blocked = self.seconds if waits > before[0] else cpu - before[1]
        if engine.began is not None:
            self.around = (engine.began - self.started, ended - engine.ended)

    def ended(self) -> None:
        """On the event loop."""
        self._owner.call_ended(self)

    def finish(self) -> None:
        """On the event loop."""
        self.loaded.release()
        self._owner.hand_out(self)
