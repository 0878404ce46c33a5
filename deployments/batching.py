"""One request that waits or runs, and how requests are joined into an engine call and taken apart again.

Requests share a call when all their input shapes agree but for axis 0, or where the model lets trimtab pad
(`deployments.padding`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from deployments.padding import Padding, longest_of
from variants.catalog import Model
from variants.engines.base import Array, Tensors
from variants.errors import DeadlineExceeded, EngineFailed, InvalidInput, TrimtabError

#: What requests must agree in to share a call: their shapes but for axis 0, or the bucket of their length.
Key = tuple[tuple[int, ...], ...] | int


class Awaited(Protocol):
    """Where an answer goes: an `asyncio.Future`, or `deployments.reply.Reply`."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: Any, /) -> None: ...


class Pending:
    """One request that waits or runs. Times are of the monotonic clock, in seconds.

    `priority`: 1 goes first. `length`: of its padded axis, 0 where nothing is padded. `variants`: those that may answer
    it, None: all. `tight`: it was admitted although its deadline was not far away. `order` is how `deployments.waiting`
    counts arrivals.
    """

    __slots__ = (
        "arrival",
        "deadline",
        "due",
        "future",
        "inputs",
        "key",
        "length",
        "order",
        "priority",
        "rows",
        "tight",
        "timer",
        "variants",
        "waiting",
    )

    def __init__(
        self,
        inputs: Tensors,
        rows: int,
        key: Key,
        arrival: float,
        deadline: float,
        future: Any,
        priority: int = 1,
        length: int = 0,
        variants: frozenset[str] | None = None,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key = key
        self.arrival = arrival
        self.deadline = deadline
        self.future = future  # an `Awaited`
        self.priority = priority
        self.length = length
        self.variants = variants
        self.order = 0
        self.tight = False
        self.due: set[Pending] | None = None  # this and the timer are how `deployments.deadlines` finds it again
        self.timer: asyncio.TimerHandle | None = None
        self.waiting = False


def shape_of(model: Model, names: Sequence[str], max_batch: int, inputs: Tensors) -> tuple[int, Key]:
    """Rows of a request (1 where the model is not batchable) and its shapes apart from axis 0, in the order of `names`.

    Raises InvalidInput naming a missing input, unequal or empty first axes, or the maximum that was exceeded.
    """
    try:
        shapes = [inputs[name].shape for name in names]
    except KeyError as error:
        raise InvalidInput(f"model {model.name!r}: input {error.args[0]!r} is missing") from None
    if max_batch == 1 and not model.batchable:
        return 1, ()
    try:
        rows = shapes[0][0]
        if len(shapes) > 1 and any(shape[0] != rows for shape in shapes):
            sizes = ", ".join(f"{name}: {shape[0]}" for name, shape in zip(names, shapes, strict=True))
            raise InvalidInput(f"model {model.name!r}: inputs differ in batch size ({sizes}); axis 0 must be the same")
    except IndexError:
        raise InvalidInput(f"model {model.name!r}: an input has no batch axis; axis 0 is the batch") from None
    if not 1 <= rows <= max_batch:
        raise InvalidInput(f"model {model.name!r}: a batch of {rows} was sent; 1 to {max_batch} are accepted")
    return rows, tuple([shape[1:] for shape in shapes])


Result = dict[str, Array] | Exception


class Infers(Protocol):
    """What of an engine a call needs."""

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """See `variants.engines.base.Engine.infer`."""
        ...


def run(
    engine: Infers, batch: Sequence[Pending], model: str, clock: Callable[[], float], padding: Padding | None = None
) -> list[Result]:
    """One engine call for the whole batch; outputs or an exception for each request, in order. For a worker thread.

    If the call fails, each request is tried alone, so that only those at fault fail. One whose caller has gone or whose
    deadline has passed by then is not run.
    """
    if len(batch) == 1 and (padding is None or not padding.needed(batch[0])):
        return [_alone(engine, batch[0], model, clock)]
    try:
        return _together(engine, batch, model, padding)
    except Exception:
        return [_alone(engine, pending, model, clock) for pending in batch]


def _together(engine: Infers, batch: Sequence[Pending], model: str, padding: Padding | None) -> list[Result]:
    longest = longest_of(batch) if padding is not None else 0
    if padding is not None and longest:
        joined = padding.join(batch, longest)
    else:
        joined = {name: np.concatenate([p.inputs[name] for p in batch]) for name in batch[0].inputs}
    outputs = engine.infer(joined)
    total = sum([p.rows for p in batch])
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise EngineFailed(f"model {model!r}: output {name!r} has shape {array.shape} for a batch of {total}")
    results: list[Result] = []
    start = 0
    for pending in batch:
        stop = start + pending.rows
        parts = {name: array[start:stop] for name, array in outputs.items()}
        if padding is not None and pending.length < longest:
            parts = {name: padding.cut(name, part, longest, pending.length) for name, part in parts.items()}
        results.append(parts)
        start = stop
    return results


def _alone(engine: Infers, pending: Pending, model: str, clock: Callable[[], float]) -> Result:
    if pending.future.done():
        return DeadlineExceeded(f"model {model!r}: nobody waits for this request any more")
    if clock() >= pending.deadline:
        return DeadlineExceeded(f"model {model!r}: the deadline passed before the request was run")
    try:
        return engine.infer(pending.inputs)
    except TrimtabError as error:
        return error
    except Exception as error:
        failed = EngineFailed(f"model {model!r}: {type(error).__name__}: {error}")
        failed.__cause__ = error
        return failed
