"""oneDNN's cache of compiled primitives, which belongs to the process.

Each of a model's streams compiles primitives for the shapes that it runs. Where the cache has them already, a stream takes them
from there: two streams of a sentence encoder keep no more than one does without it (docs/decisions/shapes.md). But what the cache
holds of a model stays when the model goes, and the library has no call that empties it. It keeps the `CAPACITY` primitives that
were asked for last; so asking for as many others, of next to no size, empties it.

They are of a kind that the library computes without generating code. Code is mapped and made executable when it is made, made
writable and unmapped when it goes, and what takes memory or rights from a process stops the cores that run its other threads.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

#: Primitives. A sentence encoder has fewer different ones, all its lengths and batch sizes together; with half of it, streams
#: keep a seventh more.
CAPACITY = 256

VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def configure() -> None:
    """Before the library is loaded. What the environment says already stays."""
    os.environ.setdefault(VARIABLE, str(CAPACITY))


class PrimitiveCache:
    """Empties it. One for a process. `core`: an `openvino.Core`."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._request: Any = None

    def empty(self) -> None:
        """Let go of all that models have compiled, but for what they still hold themselves. Blocks, for some 40 ms of one core.
        For any thread."""
        with self._lock:
            if self._request is None:
                self._request = _small(self._core).create_infer_request()
            for rows in range(1, int(os.environ.get(VARIABLE, CAPACITY)) + 1):
                self._request.infer({0: np.zeros((rows, 2, 1, 1), np.float32)}, share_inputs=True)


def _small(core: Any) -> Any:
    """A model of one primitive, another for each number of rows, which it does not keep itself."""
    import openvino
    from openvino import opset13

    values = opset13.parameter([-1, 2, 1, 1], np.float32)
    # With this exponent (beta) no generated code applies.
    normalized = opset13.lrn(values, np.array([1]), alpha=1.0, beta=0.3, bias=0.5, size=3)
    model = openvino.Model([normalized], [values], "small")
    properties = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": 0,
    }
    return core.compile_model(model, "CPU", properties)
