"""OpenVINO: the default engine on CPU. ONNX or IR artefacts; fp32, int8 (QDQ), bf16 by its precision hint.

`options.inference_precision` (`f32` by default, `bf16`) is OpenVINO's `INFERENCE_PRECISION_HINT`. `options.streams: "1"`: calls are
made one after the other, each on the threads of all that a host makes at once.
"""

from __future__ import annotations

import functools
import queue
import sys
import threading
from typing import Any

import numpy as np

from variants.datatypes import NUMPY
from variants.engines import openvino_primitives
from variants.engines.base import Array, LoadRequest, Residency, Tensors
from variants.engines.casting import cast
from variants.engines.mapped import MappedFile
from variants.engines.openvino_freeing import destroy
from variants.engines.openvino_graph import look_up_first
from variants.errors import EngineFailed, EngineUnavailable

#: Options of variants that this engine alone knows.
OPTIONS = frozenset({"inference_precision", "streams"})
_OPENING = threading.Lock()
#: Compiled primitives that a model keeps for the shapes it has run: what it keeps beyond them is its weights. Unlimited, a
#: sentence encoder of 60 MiB grew to five times that under mixed lengths (docs/decisions/shapes.md).
KEPT_PRIMITIVES = 1024
#: Weights are brought into the form in which they are multiplied when calls first need it. What is read for that of a mapped file is
#: forgotten before the 1st, 2nd, 4th, … call, and every so many; what is read again and again comes back at once.
FORGETTING_CALLS = 1024
#: Where there are several streams, a call is handed to a thread of its stream's and back: 50 microseconds, and two waits for
#: the system's scheduler. Files smaller than this are computed in less, and one after the other.
SMALL_BYTES = 1 << 20


def _core() -> Any:
    """One core for the process: it holds the plugins, not the models."""
    with _OPENING:
        return _opened()


@functools.cache
def _opened() -> Any:
    openvino_primitives.configure()
    # OpenVINO's telemetry would fork this process, in the middle of its threads, to call home; without the package it
    # does neither.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineUnavailable(f"the openvino engine needs the package openvino: {error}") from error
    # The first use of this table fills it, and lets go of the interpreter's lock meanwhile: two threads that came to it
    # together (two models warming up) would wait for each other for ever.
    openvino.Type.f32.to_dtype()
    return openvino.Core()


@functools.cache
def _primitives() -> openvino_primitives.PrimitiveCache:
    return openvino_primitives.PrimitiveCache(_core())


def load(request: LoadRequest) -> OpenVinoEngine:
    """Compile the artefact for calls on `request.threads` threads each. Raises EngineUnavailable, EngineFailed."""
    return OpenVinoEngine(request)


def _compile(request: LoadRequest, properties: dict[str, Any]) -> Any:
    # By path: reading from memory leaves the parser's copy of the file in the heap (28 MiB for a 90 MB file).
    graph = _core().read_model(str(request.folder / request.variant.artefact))
    if request.variant.precision == "int8":
        look_up_first(graph)
    return _core().compile_model(graph, "CPU", properties)


def _import(file: MappedFile, properties: dict[str, Any]) -> Any:
    core = _core()
    import openvino

    compiled = core.import_model(openvino.Tensor(file.array, shared_memory=True), "CPU", properties)
    file.protect()
    return compiled


class OpenVinoEngine:
    """A compiled model with a small pool of infer requests: as many calls may run at once as there were needed."""

    def __init__(self, request: LoadRequest) -> None:
        self._name = f"{request.model.name}/{request.variant.name}"
        self._model = request.model
        self._bytes = sum((request.folder / name).stat().st_size for name in request.variant.files) or 0
        # Each call takes a stream: with fewer of them than calls, those wait for each other.
        width = request.variant.width(request.calls)
        streams = request.calls // width if self._bytes >= SMALL_BYTES else 1
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": request.threads * streams * width,
            "INFERENCE_PRECISION_HINT": request.variant.options.get("inference_precision", "f32"),
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_PRIMITIVES,
        }
        try:
            # The engine goes on reading the file where it lies, and this object keeps it there.
            self._file = MappedFile(request.compiled) if request.compiled else None
            self._compiled: Any = _import(self._file, properties) if self._file else _compile(request, properties)
            self._inputs = [self._bind(port) for port in self._compiled.inputs]
            self._outputs = self._bind_outputs()
        except EngineUnavailable:
            raise
        except Exception as error:
            loaded = request.compiled or request.folder / request.variant.artefact
            raise EngineFailed(f"{self._name}: openvino cannot load {loaded.name}: {_first_line(error)}") from error
        self._pool: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running = self._calls = 0
        self._lock = threading.Lock()
        self._closed = False

    def _bind(self, port: Any) -> tuple[str, np.dtype[np.generic]]:
        declared = {spec.name for spec in self._model.inputs}
        names = set(port.get_names())
        found = names & declared
        if not found:
            raise ValueError(
                f"input {sorted(names)} of the artefact is not declared in model.yaml ({sorted(declared)})"
            )
        return found.pop(), _numpy(port)

    def _bind_outputs(self) -> list[tuple[str, int, np.dtype[np.generic]]]:
        bound = []
        for spec in self._model.outputs:
            index = next((i for i, p in enumerate(self._compiled.outputs) if spec.name in p.get_names()), None)
            if index is None:
                raise ValueError(f"the artefact has no output {spec.name!r} that model.yaml declares")
            bound.append((spec.name, index, NUMPY[spec.datatype]))
        return bound

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """See `Engine.infer`."""
        runner = self._acquire()
        try:
            # Shared memory on the way in only: the outputs must outlive the next call of this request.
            runner.infer({name: cast(inputs[name], dtype) for name, dtype in self._inputs}, share_inputs=True)
            return {
                name: np.array(runner.get_output_tensor(index).data, dtype=dtype, copy=True)
                for name, index, dtype in self._outputs
            }
        except Exception as error:
            raise EngineFailed(f"{self._name}: openvino: {_first_line(error)}") from error
        finally:
            self._release(runner)

    def _acquire(self) -> Any:
        with self._lock:
            if self._closed:
                raise EngineFailed(f"{self._name}: the engine is closed")
            self._running += 1
            self._calls += 1
            forget = self._calls % FORGETTING_CALLS == 0 or self._calls & (self._calls - 1) == 0
        if forget and self._file is not None:
            self._file.forget()
        try:
            return self._pool.get_nowait()
        except queue.Empty:
            return self._compiled.create_infer_request()

    def _release(self, runner: Any) -> None:
        with self._lock:
            self._running -= 1
            if not self._closed:
                self._pool.put(runner)
            elif self._running == 0:
                self._compiled = None

    def compiled(self) -> bytes:
        """See `CompilingEngine.compiled`. Loading it takes a third of the time, and the same memory."""
        try:
            exported: bytes = self._compiled.export_model().getvalue()
            return exported
        except Exception as error:
            raise EngineFailed(f"{self._name}: openvino cannot export: {_first_line(error)}") from error

    def resident(self) -> Residency:
        """See `Engine.resident`: the artefact's weights."""
        return Residency(0 if self._closed else self._bytes)

    def close(self) -> None:
        """See `Engine.close`. A call still running keeps the compiled model until it returns."""
        with self._lock:
            self._closed = True
            self._pool = queue.SimpleQueue()
            idle = self._compiled if self._running == 0 else None
            if idle is not None:
                self._compiled = None
        if idle is not None:
            destroy(idle)
            if self._bytes >= SMALL_BYTES:
                _primitives().empty()


def _numpy(port: Any) -> np.dtype[np.generic]:
    name = port.get_element_type().get_type_name()
    v2 = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "f64": "FP64", "boolean": "BOOL"}.get(name)
    return NUMPY[v2] if v2 else np.dtype({"i": "int", "u": "uint"}[name[0]] + name[1:])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
