"""A swap's checks while others answer requests.

A check's call beside a live one makes both slower, and requests queue up behind the live one. So while there are live calls,
the checks run a row at a time, and after each call the cores are theirs for twice as long as it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from variants.catalog import Model
from variants.engines.base import Array, Engine, Tensors

#: How long the pause after a call is, in times of the call's; and at most.
PAUSES = 2.0
PAUSE_SECONDS = 0.1


class Yielding:
    """`engine` of `model`, called from a thread. `live`: whether requests are answered now; called from there. `abreast`: calls that
    the host makes at once."""

    def __init__(self, engine: Engine, model: Model, live: Callable[[], bool], abreast: int = 1) -> None:
        self._engine = engine
        self._model = model
        self._live = live
        self._abreast = abreast

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """One call, as `Engine.infer`; then a pause where there are live calls."""
        began = time.monotonic()
        outputs = self._engine.infer(inputs)
        self._pause(began)
        return outputs

    def on_each_stream(self, inputs: Tensors) -> None:
        """The call as often at once as the host makes any: what does not run beside others would be made ready by a request. Raises
        what the engine raises."""
        began = time.monotonic()
        with ThreadPoolExecutor(self._abreast) as pool:
            for made in [pool.submit(self._engine.infer, inputs) for _ in range(self._abreast)]:
                made.result()
        self._pause(began)

    def _pause(self, began: float) -> None:
        if self._live():
            time.sleep(min(PAUSE_SECONDS, PAUSES * (time.monotonic() - began)))

    def in_parts(self, inputs: Tensors) -> dict[str, Array]:
        """Samples (axis 0), in calls of at most `max_batch`; of one each where the model is not batchable, or while there are
        live calls. Raises what the engine raises."""
        if any(array.ndim == 0 for array in inputs.values()):
            return self.infer(inputs)
        most = self._model.max_batch if self._model.batchable else 1
        rows = len(next(iter(inputs.values())))
        parts: list[dict[str, Array]] = []
        start = 0
        while start < rows:
            stop = start + (1 if self._live() else most)
            parts.append(self.infer({name: array[start:stop] for name, array in inputs.items()}))
            start = stop
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
