"""The operations of the Open Inference Protocol over a model host, free of any transport.

Both adapters (`http_api`, `grpc_api`) turn bytes into these values, call, and turn the answer back into bytes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Protocol

from deployments.api import Answer, Duration, Host, Statistics, Submitted
from server import tensors
from server.classification import classify
from server.classification import wanted as wanted_classes
from server.inference import (
    InferRequest,
    InferResponse,
    OutputTensor,
    Parameters,
    Wanted,
    check_inputs,
    check_parameters,
    rows_of,
    shared_memory,
    timeout_of,
    wanted_outputs,
)
from server.response_cache import Counts, ModelCache, ResponseCache, key_of
from server.shared_memory import Regions
from server.wishes import Route, Wishes
from variants.catalog import Entry, Model, TensorSpec
from variants.engines.base import Array
from variants.errors import InvalidInput, QueueFull, UnknownModel, Unsupported
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


class _Checked(NamedTuple):
    """An inference request that was found to be right. `found`: its answer, from the response cache."""

    id: str
    model: Model
    route: Route
    inputs: dict[str, Array]
    wanted: list[Wanted]
    timeout: float | None
    cache: ModelCache | None
    found: Answer | None


class _Plain(NamedTuple):
    """What is the same for all requests without parameters of a model that keeps no answers; a catalog does not change."""

    model: Model
    specs: dict[str, TensorSpec]
    route: Route
    wanted: list[Wanted]


class DataPlane:
    """See the module. Everything belongs to the host's event loop."""

    def __init__(
        self,
        host: Host,
        *,
        regions: Regions | None = None,
        cache: ResponseCache | None = None,
        repository: Repository | None = None,
    ) -> None:
        self._host = host
        self._repository: Repository = repository or host
        self._wishes = Wishes(host)
        self.regions = regions or Regions()
        self._cache = cache or ResponseCache({})
        self._plain: dict[tuple[str, str], _Plain] = {}
        for name in self._cache:
            host.watch(name, self._cache.of(name).clear)  # type: ignore[union-attr]

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

    # Inference

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request; `server.wishes` says which model and variant does.

        Raises UnknownModel, InvalidInput (unknown, missing or repeated names, dtype, shape, parameters), WishUnmet and
        whatever the host raises (`deployments.api.Host.infer`).
        """
        checked = self._check(request)
        if checked.found is not None:
            return self._response(checked, checked.found)
        answer = await self._host.infer(
            checked.model.name,
            checked.inputs,
            timeout_seconds=checked.timeout,
            protocol=request.protocol,
            priority=checked.route.priority,
            variants=checked.route.variants,
        )
        return self._finish(checked, answer)

    def submit(self, request: InferRequest, deliver: Callable[[InferResponse | Exception], None]) -> Submitted | None:
        """As `infer`, for a caller that is called back on the event loop; `deliver` must not raise. None: it has been,
        since the answer was there already. Raises what `infer` raises where that is known at once."""
        checked = self._check(request)
        if checked.found is not None:
            deliver(self._response(checked, checked.found))
            return None

        def delivered(answer: Answer | None, error: Exception | None) -> None:
            if answer is not None:
                try:
                    deliver(self._finish(checked, answer))
                    return
                except Exception as raised:  # an output that cannot be given as it was asked for
                    error = raised
            assert error is not None
            deliver(error)

        return self._host.submit(
            checked.model.name,
            checked.inputs,
            delivered,
            timeout_seconds=checked.timeout,
            protocol=request.protocol,
            priority=checked.route.priority,
            variants=checked.route.variants,
        )

    def crowded(self, model: str) -> bool:
        """See `deployments.api.Host.crowded`; never where the answer may be in the response cache."""
        return self._host.crowded(model) and self._cache.of(model) is None

    def turn_away(self, model: str, protocol: str) -> QueueFull:
        """See `deployments.api.Host.turn_away`."""
        return self._host.turn_away(model, protocol)

    def _check(self, request: InferRequest) -> _Checked:
        """Everything that is known of a request before a host sees it. Raises as `infer` does."""
        if not request.parameters and not request.outputs:
            plain = self._plain.get((request.model, request.version))
            if plain is not None:
                inputs = check_inputs(plain.model, request.inputs, plain.specs)
                return _Checked(
                    request.id, plain.model, plain.route, inputs, plain.wanted, request.timeout_seconds, None, None
                )
        else:
            check_parameters(request.parameters)
        route = self._wishes.route(request.model, request.version, request.parameters, rows_of(request))
        entry = self.entry(route.model, request.version if route.model == request.model else "")
        model = entry.model
        if model.streams:
            raise Unsupported(
                f"model {model.name!r} streams its answers: use ModelStreamInfer (gRPC), generate or generate_stream (HTTP)"
            )
        inputs = check_inputs(model, request.inputs)
        wanted = wanted_outputs(model, request.outputs, self.regions)
        timeout = timeout_of(request)
        cache = self._cache.of(model.name)
        if cache is None and not request.parameters and not request.outputs and route == Route(request.model):
            specs = {spec.name: spec for spec in model.inputs}
            self._plain[request.model, request.version] = _Plain(model, specs, route, wanted)
        found = None if cache is None else self._find(cache, model, inputs, route.variants)
        return _Checked(request.id, model, route, inputs, wanted, timeout, cache, found)

    def _finish(self, checked: _Checked, answer: Answer) -> InferResponse:
        model, cache = checked.model, checked.cache
        if cache is not None and answer.variant == self._host.status(model.name).variant:
            samples = next(iter(checked.inputs.values())).shape[0] if model.batchable else 1
            cache.keep(key_of(model, checked.inputs, answer.variant), answer, samples)
        return self._response(checked, answer)

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Answer a request any number of times where its model streams, else once. Raises as `infer` does."""
        if not self.streams(request.model, request.version):
            yield await self.infer(request)
            return
        model = self.entry(request.model, request.version).model
        check_parameters(request.parameters)
        inputs = check_inputs(model, request.inputs)
        if model.batchable and (rows := next(iter(inputs.values())).shape[0]) != 1:
            raise InvalidInput(f"model {model.name!r} streams: a batch of {rows} was sent, 1 is accepted")
        wanted = wanted_outputs(model, request.outputs, self.regions)
        answers = self._host.stream(model.name, inputs, timeout_seconds=timeout_of(request), protocol=request.protocol)
        async with aclosing(answers):
            async for answer in answers:
                yield self._answer(request.id, model, answer, wanted)

    def _find(
        self, cache: ModelCache, model: Model, inputs: Mapping[str, Array], variants: frozenset[str] | None
    ) -> Answer | None:
        variant = self._host.status(model.name).variant
        if variant is None or (variants is not None and variant not in variants):
            return None
        started = time.monotonic()
        return cache.find(key_of(model, inputs, variant), started)

    def _response(self, checked: _Checked, answer: Answer) -> InferResponse:
        return self._answer(checked.id, checked.model, answer, checked.wanted)

    def _answer(self, identity: str, model: Model, answer: Answer, wanted: list[Wanted]) -> InferResponse:
        outputs = tuple([self._output(model, answer.outputs[s.name], s, parameters) for s, parameters in wanted])
        return InferResponse(model.name, model.version, identity, answer.variant, outputs)

    def _output(self, model: Model, array: Array, spec: TensorSpec, parameters: Parameters) -> OutputTensor:
        if not parameters:
            return OutputTensor(spec.name, spec.datatype, array)
        if count := wanted_classes(parameters, spec):
            classes = classify(array, spec, count, batched=model.batchable)
            return OutputTensor(spec.name, "BYTES", classes, parameters)
        if "shared_memory_region" not in parameters:
            return OutputTensor(spec.name, spec.datatype, array, parameters)
        raw = tensors.to_raw(array, spec.datatype)
        view = self.regions.view(*shared_memory(spec.name, parameters))
        if len(raw) > len(view):
            raise InvalidInput(f"output {spec.name!r}: {len(raw)} bytes do not fit shared_memory_byte_size {len(view)}")
        view[: len(raw)] = raw
        return OutputTensor(spec.name, spec.datatype, array, parameters, placed=True)


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
