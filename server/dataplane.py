"""Inference as the Open Inference Protocol has it, over a model host, free of any transport; `server.models` is the rest.

Both adapters (`http_api`, `grpc_api`) turn bytes into these values, call, and turn the answer back into bytes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple

from deployments.api import Answer, Host, Submitted
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
from server.models import Models, Repository
from server.response_cache import ModelCache, ResponseCache, key_of
from server.shared_memory import Regions
from server.wishes import Route, Wishes
from variants.catalog import Model, TensorSpec
from variants.engines.base import Array
from variants.errors import InvalidInput, Unsupported


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
    """See the module. Everything belongs to the host's event loop. `models`: what is told of them, and loads and unloads them."""

    def __init__(
        self,
        host: Host,
        *,
        regions: Regions | None = None,
        cache: ResponseCache | None = None,
        repository: Repository | None = None,
    ) -> None:
        self._host = host
        self._wishes = Wishes(host)
        self._cache = cache or ResponseCache({})
        self.models = Models(host, self._wishes, self._cache, repository or host)
        self.regions = regions or Regions()
        self._plain: dict[tuple[str, str], _Plain] = {}
        for name in self._cache:
            host.watch(name, self._cache.of(name).clear)  # type: ignore[union-attr]

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

    def pressed(self, model: str) -> bool:
        """See `deployments.api.Host.pressed`; never where the answer may be in the response cache."""
        return self._host.pressed(model) and self._cache.of(model) is None

    def turn_away(self, model: str, protocol: str, timeout_seconds: float | None) -> None:
        """See `deployments.api.Host.turn_away`."""
        self._host.turn_away(model, protocol, timeout_seconds)

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
        entry = self.models.entry(route.model, request.version if route.model == request.model else "")
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
        if not self.models.streams(request.model, request.version):
            yield await self.infer(request)
            return
        model = self.models.entry(request.model, request.version).model
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
