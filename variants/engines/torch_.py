"""torch, on CPU or CUDA: a `torch.export` program (`.pt2`) or a module factory with safetensors weights.

A factory variant names it in `options.factory` (`file.py:function` of the model's folder or `package.module:function`);
its artefact is the state dict as `.safetensors`. A variant of precision fp16 or bf16 is cast to it.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from variants.data import resolve
from variants.engines.base import Array, LoadRequest, Residency, Tensors
from variants.engines.casting import outputs_as_declared
from variants.errors import EngineFailed, EngineUnavailable

if TYPE_CHECKING:
    import torch

_threads = threading.Lock()


def load(request: LoadRequest) -> TorchEngine:
    """Load the module onto `request.device`. Raises EngineUnavailable (no such device), EngineFailed."""
    return TorchEngine(request)


class TorchEngine:
    """A module in inference mode. On CUDA, calls share the default stream, so they run one after another there."""

    def __init__(self, request: LoadRequest) -> None:
        import torch

        self._name = f"{request.model.name}/{request.variant.name}"
        self._model = request.model
        if request.device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineUnavailable(f"{self._name}: torch sees no CUDA device; use device cpu")
        self._device = torch.device(request.device)
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(request.variant.precision, torch.float32)
        with _threads:
            if torch.get_num_threads() < request.threads:
                torch.set_num_threads(request.threads)
        try:
            module = _program(request) if request.variant.artefact.endswith(".pt2") else _factory(request)
            if request.variant.precision in ("fp16", "bf16"):
                module = module.to(self._dtype)
            self._module: Any = module.to(self._device)
            self._bytes = sum(t.numel() * t.element_size() for t in _tensors(module))
        except EngineUnavailable:
            raise
        except Exception as error:
            raise EngineFailed(f"{self._name}: torch cannot load {request.variant.artefact}: {error}") from error

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """See `Engine.infer`."""
        import torch

        module = self._module
        if module is None:
            raise EngineFailed(f"{self._name}: the engine is closed")
        try:
            with torch.inference_mode():
                return self._outputs(module(*self._arguments(inputs)))
        except Exception as error:
            raise EngineFailed(f"{self._name}: torch: {error}") from error

    def stream(self, inputs: Tensors) -> Iterator[dict[str, Array]]:
        """See `StreamingEngine.stream`: what the module's method `stream` yields, called with the model's inputs."""
        import torch

        if self._module is None:
            raise EngineFailed(f"{self._name}: the engine is closed")
        method = getattr(self._module, "stream", None)
        if method is None:
            raise EngineFailed(f"{self._name}: the module has no method `stream`, which a model that streams needs")
        try:
            with torch.inference_mode():
                steps = iter(method(*self._arguments(inputs)))
            while True:
                with torch.inference_mode():  # entered at each step: it belongs to the thread
                    raw = next(steps, None)
                    if raw is None:
                        return
                    outputs = self._outputs(raw)
                yield outputs
        except Exception as error:
            raise EngineFailed(f"{self._name}: torch: {error}") from error

    def _arguments(self, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        return tuple(self._to_torch(inputs[spec.name]) for spec in self._model.inputs)

    def _outputs(self, raw: Any) -> dict[str, Array]:
        values = raw if isinstance(raw, (tuple, list)) else (raw,)
        if isinstance(raw, dict):
            values = tuple(raw[spec.name] for spec in self._model.outputs)
        arrays = {spec.name: _to_numpy(value) for spec, value in zip(self._model.outputs, values, strict=True)}
        return outputs_as_declared(arrays, self._model.outputs)

    def _to_torch(self, array: Array) -> torch.Tensor:
        import torch

        if array.dtype == ml_dtypes.bfloat16:
            tensor = torch.from_numpy(np.array(array, copy=True).view(np.uint16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(np.array(array, copy=True))
        tensor = tensor.to(self._device)
        return tensor.to(self._dtype) if tensor.is_floating_point() and self._dtype != torch.float32 else tensor

    def resident(self) -> Residency:
        """See `Engine.resident`: the module's parameters and buffers."""
        held = 0 if self._module is None else self._bytes
        return Residency(0, held) if self._device.type == "cuda" else Residency(held)

    def close(self) -> None:
        """See `Engine.close`. On CUDA the caching allocator's free blocks go back to the device."""
        self._module = None
        gc.collect()
        if self._device.type == "cuda":
            import torch

            with contextlib.suppress(RuntimeError):
                torch.cuda.synchronize(self._device)
                torch.cuda.empty_cache()


def _program(request: LoadRequest) -> Any:
    import torch

    return torch.export.load(request.folder / request.variant.artefact).module()


def _factory(request: LoadRequest) -> Any:
    from safetensors.torch import load_file

    reference = request.variant.options.get("factory")
    if not reference:
        raise EngineFailed(f"{request.model.name}/{request.variant.name}: options.factory is missing")
    module = resolve(request.folder.parent.parent, reference)()
    module.load_state_dict(load_file(request.folder / request.variant.artefact))
    return module.eval()


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _to_numpy(tensor: torch.Tensor) -> Array:
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.uint16).numpy()
        as_bf16: Array = bits.view(ml_dtypes.bfloat16).copy()
        return as_bf16
    return tensor.numpy().copy()
