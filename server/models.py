"""What the Open Inference Protocol tells of models, and their loading and unloading: health, metadata, configuration, repository
index, statistics. Free of any transport, as `server.dataplane` is, which answers requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from deployments.api import Duration, Host, Statistics
from server.response_cache import Counts, ResponseCache
from server.wishes import Wishes
from variants.catalog import Entry, Model, TensorSpec
from variants.errors import UnknownModel, Unsupported
from variants.tasks import Task

NAME = "trimtab"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "generate",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "statistics",
    "system_shared_memory",
)


class Repository(Protocol):
    """Who loads and unloads models; where there are several hosts, on all of them. Both raise Unavailable with the reason."""

    async def load(self, model: str) -> None: ...

    async def unload(self, model: str) -> None: ...


def product_version() -> str:
    """The installed version of trimtab."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True)
class IndexEntry:
    """A line of the repository index. `state`: READY, LOADING, UNAVAILABLE (Triton's words)."""

    name: str
    version: str
    state: str
    reason: str


class Models:
    """See the module. Everything belongs to the host's event loop. `repository`: loads and unloads."""

    def __init__(self, host: Host, wishes: Wishes, cache: ResponseCache, repository: Repository) -> None:
        self._host = host
        self._wishes = wishes
        self._cache = cache
        self._repository = repository

    # Health and metadata

    def live(self) -> bool:
        """The process answers, so it is live."""
        return True

    def ready(self) -> bool:
        """True when every model can answer that is to; a parked one can, it is loaded by its next request, and one that was
        unloaded on request is not to."""
        return not self.not_ready()

    def not_ready(self) -> dict[str, str]:
        """The models that should answer and cannot now, and why."""
        states = {name: self._host.status(name) for name in self._host.catalog.entries}
        return {
            n: f"{s.state}: {s.reason}".rstrip(": ")
            for n, s in states.items()
            if s.state not in ("READY", "PARKED") and not s.unloaded
        }

    def model_ready(self, name: str, model_version: str = "") -> bool:
        """Whether a model can answer, or one of a task's models. Raises UnknownModel."""
        if (task := self._wishes.task(name, model_version)) is not None:
            return any(self.model_ready(model) for model in task.models)
        self.entry(name, model_version)
        return self._host.status(name).state in ("READY", "PARKED")

    def metadata(self) -> dict[str, Any]:
        """Server metadata."""
        return {"name": NAME, "version": product_version(), "extensions": list(EXTENSIONS)}

    def model_metadata(self, name: str, model_version: str = "") -> dict[str, Any]:
        """A model's or a task's metadata. Raises UnknownModel."""
        model, number, platform = self._described(name, model_version)

        def described(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
            return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in specs]

        return {
            "name": name,
            "versions": [number],
            "platform": platform,
            "inputs": described(model.inputs),
            "outputs": described(model.outputs),
        }

    def model_config(self, name: str, model_version: str = "") -> dict[str, Any]:
        """A model's configuration in Triton's form: `dims` leave out the batch axis of a batchable model.

        Raises UnknownModel.
        """
        model, _, platform = self._described(name, model_version)
        skip = 1 if model.batchable else 0

        def described(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
            return [
                {"name": s.name, "data_type": _config_type(s.datatype), "dims": list(s.shape[skip:])} for s in specs
            ]

        return {
            "name": name,
            "platform": platform,
            "backend": NAME,
            "max_batch_size": model.max_batch if model.batchable else 0,
            "input": described(model.inputs),
            "output": described(model.outputs),
            **({"model_transaction_policy": {"decoupled": True}} if self.streams(name, model_version) else {}),
        }

    def _described(self, name: str, model_version: str) -> tuple[Model | Task, str, str]:
        """What a name stands for, its version and platform."""
        if (task := self._wishes.task(name, model_version)) is not None:
            return task, "1", f"{NAME}_task"
        entry = self.entry(name, model_version)
        return entry.model, entry.model.version, self._platform(entry)

    def _platform(self, entry: Entry) -> str:
        running = self._host.status(entry.model.name).variant
        variant = entry.variants.get(running or "") or next(iter(entry.variants.values()))
        return f"{NAME}_{variant.engine}"

    def entry(self, name: str, model_version: str = "") -> Entry:
        """The catalog's entry. Raises UnknownModel for an unknown name or version."""
        entry = self._host.catalog.entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self._host.catalog.entries))
            raise UnknownModel(f"no model {name!r}; there are: {known}")
        if model_version not in ("", entry.model.version):
            raise UnknownModel(f"model {name!r} has no version {model_version!r}; it has {entry.model.version!r}")
        return entry

    # Repository and statistics extensions

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """The repository index; a parked model is READY, with the reason saying so."""
        lines = []
        for name, entry in sorted(self._host.catalog.entries.items()):
            status = self._host.status(name)
            ready = status.state in ("READY", "PARKED")
            reason = status.reason or ("parked: loaded by its next request" if status.state == "PARKED" else "")
            if ready or not ready_only:
                lines.append(IndexEntry(name, entry.model.version, "READY" if ready else status.state, reason))
        return lines

    async def load(self, name: str, parameters: Iterable[str] = ()) -> None:
        """Make a model ready. Raises UnknownModel, Unavailable; Unsupported when `parameters` (their names) bring a
        configuration or files of their own."""
        self.entry(name)
        if wrong := [p for p in parameters if p == "config" or p.startswith("file:")]:
            raise Unsupported(
                f"load of model {name!r} with {', '.join(wrong)}: a model is what its folder in the repository says"
            )
        await self._repository.load(name)

    async def unload(self, name: str) -> None:
        """Take a model out of service. Raises UnknownModel."""
        self.entry(name)
        await self._repository.unload(name)

    def streams(self, name: str, model_version: str = "") -> bool:
        """Whether one request of the model gets any number of answers; a task's never does. Raises UnknownModel."""
        return self._wishes.task(name, model_version) is None and self.entry(name, model_version).model.streams

    def cache_counts(self, name: str) -> Counts:
        """The response cache's part of a model's statistics."""
        cache = self._cache.of(name)
        return Counts() if cache is None else cache.counts()

    def statistics(self, name: str = "", model_version: str = "") -> list[tuple[str, str, Statistics]]:
        """Name, version and statistics of a model, of a task's models, or of all for an empty name. Raises
        UnknownModel."""
        if (task := self._wishes.task(name, model_version)) is not None:
            entries = [self.entry(model) for model in task.models]
        else:
            entries = [self.entry(name, model_version)] if name else list(self._host.catalog.entries.values())
        return [(e.model.name, e.model.version, self._counted(e.model.name)) for e in entries]

    def _counted(self, name: str) -> Statistics:
        """The host's counts, and as successes the requests that were answered without it."""
        counts, found = self._host.statistics(name), self.cache_counts(name)
        if not found.hit.count:
            return counts
        success = Duration(counts.success.count + found.hit.count, counts.success.ns + found.hit.ns)
        return replace(counts, success=success, inference_count=counts.inference_count + found.samples)


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
