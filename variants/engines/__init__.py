"""Engines by name. Each is imported when first used, so a host pays only for the runtimes it runs."""

from __future__ import annotations

from variants.engines.base import Array, Engine, LoadRequest, Residency, Tensors

__all__ = ["COMPILING", "Array", "Engine", "LoadRequest", "Residency", "Tensors", "load"]

#: Names of those that are a `base.CompilingEngine`.
COMPILING = frozenset({"openvino"})


def load(request: LoadRequest) -> Engine:
    """Load a variant with the engine it names, verified files assumed (`variants.repository` checks them).

    Raises EngineUnavailable when the engine cannot run here, EngineFailed when loading fails.
    """
    match request.variant.engine:
        case "openvino":
            from variants.engines import openvino_ as engine
        case "onnx":
            from variants.engines import onnx_ as engine  # type: ignore[no-redef]
        case "torch":
            from variants.engines import torch_ as engine  # type: ignore[no-redef]
        case "tensorrt" | "tensorrt_rtx":
            from variants.engines import tensorrt_ as engine  # type: ignore[no-redef]
        case "litert":
            from variants.engines import litert_ as engine  # type: ignore[no-redef]
    return engine.load(request)
