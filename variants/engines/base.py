"""The engine protocol: how a variant is executed. No Ray, no asyncio, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from variants.catalog import Model, Variant

Array = npt.NDArray[np.generic]
Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class Residency:
    """The engine's own account of what it holds, in bytes: an estimate; measured numbers come from the process."""

    host_bytes: int
    device_bytes: int = 0


@dataclass(frozen=True)
class LoadRequest:
    """All an engine needs to load a variant: the folder of the variant's files, how many threads a call may use, and how many
    calls will be made at once.

    `compiled`: a file of what `CompilingEngine.compiled` once gave on this device, to be loaded instead of the artefact."""

    model: Model
    variant: Variant
    folder: Path
    threads: int = 1
    device: str = "cpu"
    calls: int = 1
    compiled: Path | None = None


@runtime_checkable
class Engine(Protocol):
    """A loaded variant. `infer` and `close` may be called from any thread; `infer` from several at once."""

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run one batch: arrays by input name, already of the declared dtype and rank. Returns arrays by output name
        that do not alias engine memory. Raises EngineFailed."""
        ...

    def resident(self) -> Residency:
        """What the engine itself accounts for."""
        ...

    def close(self) -> None:
        """Release everything; idempotent. `infer` afterwards raises EngineFailed."""
        ...


@runtime_checkable
class CompilingEngine(Engine, Protocol):
    """An engine that makes something of an artefact when it loads it, and can load that again in less time."""

    def compiled(self) -> bytes:
        """What it made, for `LoadRequest.compiled`. Raises EngineFailed."""
        ...


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that can also answer one request in several steps, for a model that streams."""

    def stream(self, inputs: Tensors) -> Iterator[dict[str, Array]]:
        """Answers one after the other, each as `infer`'s. Steps may run in different threads, one at a time; closing
        the iterator ends the computation. Raises EngineFailed."""
        ...
