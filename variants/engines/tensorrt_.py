"""TensorRT, both flavours of one API: `tensorrt` (the vendor's own index) and `tensorrt_rtx` (PyPI).

Engines ("plans") are strongly typed: precision comes from the graph. `compile_engine` works without a GPU in the
`tensorrt_rtx` flavour; running one needs a CUDA device. A plan belongs to the library version and the compute
capability it was built for (`options.library`, `options.compute_capability`) and is never loaded across a mismatch.

Source: the TensorRT 11 and TensorRT for RTX 1.7 Python API references.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from variants.catalog import Model, TensorSpec
from variants.datatypes import NUMPY
from variants.engines.base import Array, LoadRequest, Residency, Tensors
from variants.engines.casting import cast, outputs_as_declared
from variants.errors import BuildError, EngineFailed, EngineUnavailable

INSTALL = {
    "tensorrt": "pip install 'trimtab[tensorrt]' (its libraries come from NVIDIA's own package index)",
    "tensorrt_rtx": "pip install 'trimtab[tensorrt-rtx]'",
}
#: Range and optimum of a dynamic axis other than the batch.
AXIS = (1, 64, 512)


@functools.cache
def import_flavour(name: str) -> Any:
    """The Python module of `tensorrt` or `tensorrt_rtx`. Raises EngineUnavailable when it is not installed."""
    try:
        if name == "tensorrt":
            return importlib.import_module("tensorrt")
        package = importlib.util.find_spec("tensorrt_rtx_libs")
        if package is None or not package.submodule_search_locations:
            raise ImportError("tensorrt_rtx_libs is not installed")
        for folder in package.submodule_search_locations:
            for library in sorted(Path(folder).glob("*.so*"), key=lambda p: "parser" in p.name):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("tensorrt_rtx_bindings")
    except (ImportError, OSError) as error:
        raise EngineUnavailable(f"the {name} engine cannot be imported ({error}); {INSTALL[name]}") from error


def compile_engine(
    onnx: Path,
    out: Path,
    *,
    flavour: str,
    model: Model,
    compute_capabilities: Sequence[str] | None = None,
    sparse: bool = False,
    timing_cache: Path | None = None,
) -> dict[str, str]:
    """Build a plan from a typed ONNX file and write it to `out`; returns the options to store with the variant.

    One optimisation profile: batch 1 to `model.max_batch`, other dynamic axes 1 to 512. `compute_capabilities` such as
    `["8.9"]` (`tensorrt_rtx` only; needed where there is no GPU; 7.5, 8.0, 8.6, 8.9, 12.0, 12.1). `sparse` lets it use
    kernels for 2:4 sparse weights. `timing_cache` is a file of measured kernels, used and brought up to date; one of another
    library version or GPU is replaced (`tensorrt` only: TensorRT for RTX measures on the machine that runs the
    plan). Raises EngineUnavailable, BuildError with what the parser or the builder said.
    """
    trt = import_flavour(flavour)
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    if builder is None:
        raise EngineUnavailable(f"{flavour}: no builder on this machine: {'; '.join(messages[-2:])}")
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(strongly_typed) if strongly_typed is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BuildError(f"{model.name}: {flavour} cannot parse {onnx.name}: {errors}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    declared = {spec.name: spec for spec in model.inputs}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        smallest, best, largest = shape_range(declared[tensor.name], model.max_batch)
        profile.set_shape(tensor.name, smallest, best, largest)
    config.add_optimization_profile(profile)
    if sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if compute_capabilities:
        config.num_compute_capabilities = len(compute_capabilities)
        for index, capability in enumerate(compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
    cache = _timing_cache(config, timing_cache) if flavour == "tensorrt" else None
    plan = builder.build_serialized_network(network, config)
    if plan is not None and cache is not None and timing_cache is not None:
        _keep_timings(config, timing_cache)
    if plan is None:
        raise BuildError(
            f"{model.name}: {flavour} cannot build {onnx.name}: {'; '.join(messages[-3:]) or 'no message'}"
        )
    out.write_bytes(memoryview(plan))
    return {"library": str(trt.__version__), "compute_capability": ",".join(compute_capabilities or [_capability()])}


def _timing_cache(config: Any, path: Path | None) -> Any:
    """The timing cache of a file, or a new one, set for a build; None where the library takes none."""
    if path is None:
        return None
    stored = path.read_bytes() if path.is_file() else b""
    for blob in (stored, b""):
        cache = config.create_timing_cache(blob)
        # Refused when it belongs to another library version or device: then an empty one.
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _keep_timings(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is None:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(memoryview(cache.serialize()))
    os.replace(temporary, path)


def built_here(flavour: str) -> dict[str, str]:
    """The options of a plan that was built on this machine: the library's version and the GPU's compute capability."""
    return {"library": str(import_flavour(flavour).__version__), "compute_capability": _capability()}


def shape_range(spec: TensorSpec, max_batch: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Smallest, best and largest shape of an input: its batch axis 1, `max_batch`, `max_batch`; other dynamic axes 1,
    64, 512; fixed axes as they are."""

    def pick(which: int) -> tuple[int, ...]:
        batch = (1, max_batch, max_batch)
        return tuple(d if d != -1 else batch[which] if axis == 0 else AXIS[which] for axis, d in enumerate(spec.shape))

    return pick(0), pick(1), pick(2)


def load(request: LoadRequest) -> TensorRtEngine:
    """Deserialise a plan. Raises EngineUnavailable (no library, no CUDA device), EngineFailed (mismatch, bad plan)."""
    return TensorRtEngine(request)


class TensorRtEngine:
    """A plan with one execution context; calls run one after another on a stream of their own."""

    def __init__(self, request: LoadRequest) -> None:
        self._name = f"{request.model.name}/{request.variant.name}"
        flavour = request.variant.engine
        capability = _capability()
        if not capability:
            raise EngineUnavailable(
                f"{self._name}: TensorRT needs a CUDA device; this machine has none (other engines run on CPU)"
            )
        trt = import_flavour(flavour)
        check_match(self._name, request.variant.options, str(trt.__version__), capability)
        import torch

        self._torch: Any = torch
        self._trt: Any = trt
        self._model = request.model
        self._lock = threading.Lock()
        messages: list[str] = []
        self._logger = _logger(trt, messages)
        plan = (request.folder / request.variant.artefact).read_bytes()
        runtime = trt.Runtime(self._logger)
        self._engine: Any = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineFailed(f"{self._name}: {flavour} refuses the plan: {'; '.join(messages[-2:])}")
        self._context: Any = self._engine.create_execution_context()
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._bytes = len(plan)
        self._types = {
            name: NUMPY[_V2[str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]]]
            for name in (self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors))
        }

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """See `Engine.infer`."""
        with self._lock:
            if self._context is None:
                raise EngineFailed(f"{self._name}: the engine is closed")
            try:
                return outputs_as_declared(self._run(inputs), self._model.outputs)
            except EngineFailed:
                raise
            except Exception as error:
                raise EngineFailed(f"{self._name}: tensorrt: {error}") from error

    def _run(self, inputs: Tensors) -> dict[str, Array]:
        torch = self._torch
        held = []
        with torch.cuda.stream(self._stream):
            for spec in self._model.inputs:
                array = np.array(cast(inputs[spec.name], self._types[spec.name]), copy=True, order="C")
                buffer = torch.from_numpy(array.view(np.uint8).reshape(-1)).to("cuda", non_blocking=True)
                held.append(buffer)
                self._context.set_input_shape(spec.name, tuple(array.shape))
                self._context.set_tensor_address(spec.name, buffer.data_ptr())
            results = {}
            for output in self._model.outputs:
                shape = tuple(self._context.get_tensor_shape(output.name))
                dtype = self._types[output.name]
                size = int(np.prod(shape)) * dtype.itemsize
                buffer = torch.empty(size, dtype=torch.uint8, device="cuda")
                self._context.set_tensor_address(output.name, buffer.data_ptr())
                results[output.name] = (buffer, dtype, shape)
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise EngineFailed(f"{self._name}: execution failed")
            self._stream.synchronize()
            return {name: b.cpu().numpy().view(dtype).reshape(shape) for name, (b, dtype, shape) in results.items()}

    def resident(self) -> Residency:
        """See `Engine.resident`: weights and activation memory by the engine's own account."""
        with self._lock:
            if self._engine is None:
                return Residency(0)
            activations = int(getattr(self._engine, "device_memory_size_v2", 0))
            return Residency(0, self._bytes + activations)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._context = None
            self._engine = None
        self._torch.cuda.empty_cache()


def check_match(name: str, options: Any, library: str, capability: str) -> None:
    """Raises EngineFailed when a plan was built for another library version or compute capability."""
    built_for = options.get("compute_capability", "").split(",")
    if options.get("library") != library or capability not in built_for:
        raise EngineFailed(
            f"{name}: the plan was built by {options.get('library')} for compute capability "
            f"{options.get('compute_capability')}; here are {library} and {capability}; build it again on this machine"
        )


def _capability() -> str:
    """The first CUDA device's compute capability such as `8.9`; empty without a device."""
    import torch

    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def _logger(trt: Any, messages: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                messages.append(message)

    return Logger()


_V2 = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
