"""The protocol's operations without a transport, over a host that records what it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from budgets.wishes import Candidate
from deployments.api import Answer, ModelStatus, Statistics
from server.dataplane import DataPlane
from server.inference import InferRequest, InputTensor, RequestedOutput, check_inputs
from variants.catalog import Catalog, Entry, Ladder, Lineage, Model, Source, TensorSpec, Variant
from variants.errors import InvalidInput, UnknownModel

PAIR = Model(
    name="pair",
    version="3",
    task="t",
    inputs=(
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="mask", datatype="INT64", shape=(-1, -1)),
    ),
    outputs=(
        TensorSpec(name="vector", datatype="FP32", shape=(-1, 2)),
        TensorSpec(name="label", datatype="BYTES", shape=(-1,)),
    ),
    max_batch=4,
    source=Source(onnx="m.onnx"),
)
FIXED = Model(
    name="fixed",
    task="t",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(2,)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(2,)),),
    source=Source(onnx="m.onnx"),
)


def entry(model: Model) -> Entry:
    variant = Variant(
        name="fp32", engine="onnx", precision="fp32", artefact="m.onnx", lineage=Lineage(technique="fp32")
    )
    ladder = Ladder(model=model.name, rungs=("fp32",))
    return Entry(model=model, variants={"fp32": variant}, ladder=ladder, path=model.name)


class FakeHost:
    def __init__(self) -> None:
        self.catalog = Catalog(device="d", entries={"pair": entry(PAIR), "fixed": entry(FIXED)})
        self.states: dict[str, ModelStatus] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.asked: list[tuple[str, int, frozenset[str] | None]] = []

    def status(self, model: str) -> ModelStatus:
        return self.states.get(model, ModelStatus("READY", "fp32"))

    def statistics(self, model: str) -> Statistics:
        return Statistics(inference_count=len(model))

    def candidate(self, model: str, rows: int = 1, priority: int = 0) -> Candidate:
        return Candidate(model, self.status(model).variant, {"fp32": 0.97}, 0.01 * rows, 0.01)

    async def infer(
        self,
        model: str,
        inputs: Any,
        *,
        timeout_seconds: float | None = None,
        protocol: str = "direct",
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Answer:
        self.asked.append((model, priority, variants))
        self.calls.append((model, timeout_seconds, protocol))
        vector, label = np.zeros((1, 2), np.float32), np.array([b"a"], np.object_)
        return Answer({"vector": vector, "label": label, "y": vector[0]}, "fp32", 0.0, 0.0, 1)

    async def load(self, model: str) -> None:
        self.calls.append(("load", model))

    async def unload(self, model: str) -> None:
        self.calls.append(("unload", model))


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def plane(host: FakeHost) -> DataPlane:
    return DataPlane(host)  # type: ignore[arg-type]


def tensor(name: str, shape: tuple[int, ...], datatype: str = "INT64") -> InputTensor:
    return InputTensor(name, datatype, np.zeros(shape, np.int64))


GOOD = (tensor("ids", (1, 3)), tensor("mask", (1, 3)))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((GOOD[0],), "missing input mask; it takes ids, mask"),
        ((), "missing input ids, mask"),
        ((*GOOD, GOOD[0]), "'ids' is given twice"),
        ((*GOOD, tensor("extra", (1,))), "has no input 'extra'; it has ids, mask"),
        ((tensor("ids", (1, 3), "INT32"), GOOD[1]), "'ids': datatype INT32, model 'pair' takes INT64"),
        ((tensor("ids", (1, 3, 1)), GOOD[1]), r"shape \[1, 3, 1\], model 'pair' takes \[-1, -1\]"),
        ((tensor("ids", (2, 3)), GOOD[1]), r"batch size: \{'ids': 2, 'mask': 1\}"),
    ],
)
def test_inputs_that_do_not_fit(tensors: tuple[InputTensor, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_inputs(PAIR, tensors)


def test_a_fixed_shape_must_match() -> None:
    with pytest.raises(InvalidInput, match=r"shape \[3\], model 'fixed' takes \[2\]"):
        check_inputs(FIXED, (tensor("x", (3,), "FP32"),))


async def test_outputs_come_as_requested(plane: DataPlane) -> None:
    everything = await plane.infer(InferRequest("pair", GOOD, id="7"))
    assert [(o.name, o.datatype) for o in everything.outputs] == [("vector", "FP32"), ("label", "BYTES")]
    assert (everything.id, everything.version, everything.variant) == ("7", "3", "fp32")
    asked = (RequestedOutput("label", {"binary_data": True}),)
    some = await plane.infer(InferRequest("pair", GOOD, outputs=asked))
    assert [(o.name, dict(o.parameters)) for o in some.outputs] == [("label", {"binary_data": True})]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((RequestedOutput("nope"),), "has no output 'nope'; it has vector, label"),
        ((RequestedOutput("label"), RequestedOutput("label")), "requested twice"),
        ((RequestedOutput("label", {"classification": 3}),), "BYTES values have no classes"),
        ((RequestedOutput("vector", {"classification": -1}),), "classification -1 must be"),
        ((RequestedOutput("vector", {"classification": "3"}),), "classification '3' must be"),
        ((RequestedOutput("vector", {"shared_memory_region": 5}),), "shared_memory_region must be a string, not int"),
        (
            (RequestedOutput("vector", {"shared_memory_region": "r", "shared_memory_offset": -1}),),
            "shared_memory_offset -1 must be",
        ),
        (
            (RequestedOutput("vector", {"shared_memory_region": "r", "classification": 1}),),
            "classes do not go into shared memory",
        ),
    ],
)
async def test_outputs_that_cannot_be_given(
    plane: DataPlane, host: FakeHost, outputs: tuple[RequestedOutput, ...], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        await plane.infer(InferRequest("pair", GOOD, outputs=outputs))
    assert host.calls == []


@pytest.mark.parametrize(
    ("parameter", "transport", "seconds"),
    [
        (None, None, None),
        (None, 2.0, 2.0),
        (0, 2.0, 2.0),
        (500_000, None, 0.5),
        (500_000, 2.0, 0.5),
        (5_000_000, 2.0, 2.0),
        ("500000", None, 0.5),
    ],
)
async def test_the_nearer_deadline_counts(
    plane: DataPlane, host: FakeHost, parameter: Any, transport: float | None, seconds: float | None
) -> None:
    parameters = {} if parameter is None else {"timeout": parameter}
    await plane.infer(InferRequest("pair", GOOD, parameters=parameters, timeout_seconds=transport, protocol="http"))
    assert host.calls == [("pair", seconds, "http")]


@pytest.mark.parametrize("wrong", [-1, 1.5, "soon", True])
async def test_a_timeout_that_is_none(plane: DataPlane, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="whole number of microseconds"):
        await plane.infer(InferRequest("pair", GOOD, parameters={"timeout": wrong}))


def test_names_and_versions(plane: DataPlane) -> None:
    assert plane.models.entry("pair").model is PAIR
    assert plane.models.entry("pair", "3").model is PAIR
    with pytest.raises(UnknownModel, match="no model 'pear'; there are: fixed, pair"):
        plane.models.entry("pear")
    with pytest.raises(UnknownModel, match="'pair' has no version '1'; it has '3'"):
        plane.models.entry("pair", "1")


def test_readiness_follows_the_host(plane: DataPlane, host: FakeHost) -> None:
    assert plane.models.ready()
    host.states["pair"] = ModelStatus("PARKED", None)
    assert plane.models.ready()
    assert plane.models.model_ready("pair")
    host.states["pair"] = ModelStatus("UNAVAILABLE", None, "unloaded")
    assert not plane.models.ready()
    assert not plane.models.model_ready("pair")
    assert plane.models.model_ready("fixed")
    assert plane.models.not_ready() == {"pair": "UNAVAILABLE: unloaded"}
    host.states["pair"] = ModelStatus("UNAVAILABLE", None, "unloaded", unloaded=True)
    assert plane.models.ready()  # one model out of service on request takes no others with it
    assert not plane.models.model_ready("pair")


def test_the_index_names_states_and_reasons(plane: DataPlane, host: FakeHost) -> None:
    host.states = {"pair": ModelStatus("PARKED", None), "fixed": ModelStatus("UNAVAILABLE", None, "unloaded")}
    lines = [(e.name, e.version, e.state, e.reason) for e in plane.models.index()]
    assert lines == [
        ("fixed", "1", "UNAVAILABLE", "unloaded"),
        ("pair", "3", "READY", "parked: loaded by its next request"),
    ]
    assert [e.name for e in plane.models.index(ready_only=True)] == ["pair"]


async def test_loading_and_unloading_ask_the_host(plane: DataPlane, host: FakeHost) -> None:
    await plane.models.load("pair")
    await plane.models.unload("fixed")
    assert host.calls == [("load", "pair"), ("unload", "fixed")]
    with pytest.raises(UnknownModel):
        await plane.models.load("pear")


def test_statistics_of_one_or_all(plane: DataPlane) -> None:
    assert [(n, v, s.inference_count) for n, v, s in plane.models.statistics("pair")] == [("pair", "3", 4)]
    assert [n for n, _, _ in plane.models.statistics()] == ["pair", "fixed"]


def test_metadata_and_configuration(plane: DataPlane) -> None:
    assert plane.models.model_metadata("pair") == {
        "name": "pair",
        "versions": ["3"],
        "platform": "trimtab_onnx",
        "inputs": [
            {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "mask", "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": [
            {"name": "vector", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    pair, fixed = plane.models.model_config("pair"), plane.models.model_config("fixed")
    assert pair["max_batch_size"] == 4
    assert pair["input"][0] == {"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]}
    assert pair["output"][1] == {"name": "label", "data_type": "TYPE_STRING", "dims": []}
    assert fixed["max_batch_size"] == 0
    assert fixed["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]
