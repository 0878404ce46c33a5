"""Wishes and tasks as clients send them: read, routed, answered over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from budgets.wishes import Wish
from deployments.api import Assignment
from deployments.config import HostConfig
from deployments.host import ModelHost
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from server.bare import serve_bare
from server.wishes import from_headers, from_metadata, read
from variants.catalog import (
    BatchProfile,
    Catalog,
    Entry,
    Ladder,
    Lineage,
    Model,
    Profile,
    Source,
    TensorSpec,
    Variant,
)
from variants.engines.base import LoadRequest, Residency
from variants.errors import InvalidInput

#: variant -> quality and milliseconds of a call
RUNGS = {"large": {"fp32": (1.0, 40), "int8": (0.97, 20)}, "small": {"fp32": (0.92, 4), "int8": (0.9, 2)}}


class Named:
    """y = x + the variant's place in RUNGS."""

    def __init__(self, request: LoadRequest) -> None:
        places = [(m, v) for m, rungs in RUNGS.items() for v in rungs]
        self.place = places.index((request.model.name, request.variant.name))

    def infer(self, inputs: Any) -> dict[str, Any]:
        return {"y": inputs["x"] + np.float32(self.place)}

    def resident(self) -> Residency:
        return Residency(1)

    def close(self) -> None:
        pass


def entry(name: str, rungs: dict[str, tuple[float, int]]) -> Entry:
    model = Model(
        name=name,
        task="regression",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
        max_batch=8 if name == "large" else 4,
        source=Source(onnx="none"),
        serves=("echo",),
    )
    variants = {}
    for variant, (quality, milliseconds) in rungs.items():
        seconds = milliseconds / 1000
        profile = Profile(
            device="test",
            threads=1,
            resident_bytes=1,
            load_seconds=0.1,
            warmup_seconds=0.1,
            batches=(BatchProfile(batch=1, p50_seconds=seconds, p99_seconds=seconds, throughput=1 / seconds),),
            quality=quality,
        )
        variants[variant] = Variant(
            name=variant,
            engine="onnx",
            precision="fp32",
            artefact="none",
            files={"none": ""},
            lineage=Lineage(technique="none"),
            profiles=(profile,),
        )
    return Entry(model=model, variants=variants, ladder=Ladder(model=name, rungs=tuple(rungs)), path="/none")


@dataclass
class Served:
    http: httpx.AsyncClient
    grpc: Any
    host: ModelHost

    async def infer(self, model: str, *, headers: dict[str, str] | None = None, **parameters: Any) -> httpx.Response:
        body = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
            "parameters": parameters,
        }
        return await self.http.post(f"/v2/models/{model}/infer", json=body, headers=headers)


@pytest.fixture
async def served(free_port: Callable[[], int]) -> AsyncIterator[Served]:
    host = ModelHost(
        Catalog(device="test", entries={name: entry(name, rungs) for name, rungs in RUNGS.items()}),
        HostConfig(threads=1),
        registry=CollectorRegistry(),
        host_id="test",
        load=Named,
        check=lambda folder, variant: None,
        read_canary=lambda folder: None,
    )
    await host.start(Assignment(0, {"large": "int8", "small": "fp32"}))
    http_port, grpc_port = free_port(), free_port()
    async with (
        serve_bare(host, http_port=http_port, grpc_port=grpc_port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}", trust_env=False) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        yield Served(client, pb_grpc.GRPCInferenceServiceStub(channel), host)
    await host.stop()


@pytest.mark.parametrize(
    ("parameters", "wish", "priority"),
    [
        ({}, Wish(), 0),
        (
            {"min_quality": 0.9, "latency_budget_seconds": 0.5, "variant": "int8", "priority": 2},
            Wish(0.9, 0.5, "int8"),
            2,
        ),
        ({"min_quality": "0.9", "latency_budget_seconds": "5e-1", "priority": "2"}, Wish(0.9, 0.5), 2),
        ({"min_quality": 1, "other": object()}, Wish(1.0), 0),
    ],
)
def test_reading(parameters, wish, priority):
    assert read(parameters) == (wish, priority)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_quality": 1.1}, "'min_quality': 1.1 must be from 0 to 1"),
        ({"min_quality": "nan"}, "'min_quality': nan must be"),
        ({"min_quality": True}, "'min_quality': True must be a number"),
        ({"min_quality": "good"}, "'min_quality': 'good' must be a number"),
        ({"latency_budget_seconds": 0}, "'latency_budget_seconds': 0.0 must be above 0"),
        ({"latency_budget_seconds": []}, "must be a number"),
        ({"variant": ""}, "'variant': '' must be a variant's name"),
        ({"variant": 8}, "'variant': 8 must be"),
        ({"priority": -1}, "'priority': -1 must be a whole number from 0 to 4294967295"),
        ({"priority": 1.5}, "'priority': 1.5"),
        ({"priority": True}, "'priority': True"),
        ({"priority": "high"}, "'priority': 'high'"),
    ],
)
def test_wishes_that_make_no_sense(parameters, message):
    with pytest.raises(InvalidInput, match=message):
        read(parameters)


def test_headers_and_metadata():
    wishes = {"min_quality": "0.9", "latency_budget_seconds": "0.5", "variant": "int8", "priority": "1"}
    headers = {f"x-trimtab-{name.replace('_', '-')}": value for name, value in wishes.items()}
    assert from_headers({k.encode(): v.encode() for k, v in {**headers, "accept": "*/*"}.items()}) == wishes
    assert from_metadata([*headers.items(), ("user-agent", "x")]) == wishes


@pytest.mark.parametrize(
    ("model", "parameters", "answered"),
    [
        ("large", {}, ("large", "int8")),
        ("large", {"min_quality": 0.97}, ("large", "int8")),
        ("large", {"variant": "int8", "priority": 1}, ("large", "int8")),
        ("tasks/echo", {}, ("large", "int8")),
        ("tasks%2Fecho", {}, ("large", "int8")),
        ("tasks/echo", {"latency_budget_seconds": 0.015}, ("small", "fp32")),
        ("tasks/echo", {"latency_budget_seconds": "0.5", "min_quality": "0.95"}, ("large", "int8")),
        ("tasks/echo", {"variant": "fp32"}, ("small", "fp32")),
        ("tasks/echo/versions/1", {}, ("large", "int8")),
    ],
)
async def test_answers_name_what_computed_them(served, model, parameters, answered):
    response = await served.infer(model, **parameters)
    assert response.status_code == 200, response.text
    content = response.json()
    assert (content["model_name"], content["parameters"]["variant"]) == answered
    assert response.headers["x-trimtab-variant"] == answered[1]
    place = [(m, v) for m, rungs in RUNGS.items() for v in rungs].index(answered)
    assert content["outputs"][0]["data"] == [1.0 + place, 2.0 + place]


async def test_headers_wish_too_and_parameters_count_more(served):
    headers = {"X-Trimtab-Latency-Budget-Seconds": "0.015"}
    assert (await served.infer("tasks/echo", headers=headers)).json()["model_name"] == "small"
    response = await served.infer("tasks/echo", headers=headers, latency_budget_seconds=0.5)
    assert response.json()["model_name"] == "large"
    response = await served.infer("large", headers={"x-trimtab-min-quality": "high"})
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("model", "parameters", "offered"),
    [
        ("large", {"min_quality": 0.99}, [("large", "int8")]),
        ("large", {"variant": "fp32"}, [("large", "int8")]),
        ("large", {"latency_budget_seconds": 0.015}, [("large", "int8")]),
        ("tasks/echo", {"min_quality": 0.95, "latency_budget_seconds": 0.015}, [("large", "int8"), ("small", "fp32")]),
    ],
)
async def test_what_cannot_be_had_now_is_refused_with_what_can(served, model, parameters, offered):
    response = await served.infer(model, **parameters)
    assert response.status_code == 412
    assert "retry-after" not in response.headers
    content = response.json()
    assert content["error"].startswith("nothing in force meets ")
    assert [(o["model"], o["variant"]) for o in content["available"]] == offered
    assert [o["quality"] for o in content["available"]] == [RUNGS[m][v][0] for m, v in offered]
    assert all(0 < o["expected_latency_seconds"] < 0.1 for o in content["available"])


@pytest.mark.parametrize(
    ("model", "parameters", "status", "message"),
    [
        ("tasks/nope", {}, 404, "no task 'tasks/nope'; there are: tasks/echo"),
        ("tasks/echo/versions/2", {}, 404, "task 'tasks/echo' has no version '2'; it has '1'"),
        ("nope", {"min_quality": 0.5}, 404, "no model 'nope'"),
        ("large", {"variant": "int4"}, 400, "'large' has no variant 'int4'; there are: fp32, int8"),
        ("large", {"priority": -1}, 400, "'priority': -1"),
    ],
)
async def test_what_never_works(served, model, parameters, status, message):
    response = await served.infer(model, **parameters)
    assert response.status_code == status
    assert message in response.json()["error"]


async def test_a_task_is_described_as_a_model_is(served):
    get = served.http.get
    metadata = (await get("/v2/models/tasks/echo")).json()
    assert metadata == {
        "name": "tasks/echo",
        "versions": ["1"],
        "platform": "trimtab_task",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert (await get("/v2/models/tasks/echo/config")).json()["max_batch_size"] == 4
    assert (await get("/v2/models/tasks/echo/ready")).json() == {"name": "tasks/echo", "ready": True}
    lines = (await get("/v2/models/tasks%2Fecho/stats")).json()["model_stats"]
    assert [line["name"] for line in lines] == ["large", "small"]
    await served.host.unload("large")
    assert (await get("/v2/models/tasks/echo/ready")).status_code == 200
    assert (await served.infer("tasks/echo")).json()["model_name"] == "small"
    await served.host.unload("small")
    assert (await get("/v2/models/tasks/echo/ready")).status_code == 503
    assert (await served.infer("tasks/echo")).status_code == 503
    assert (await served.infer("small", latency_budget_seconds=0.001)).status_code == 503


async def test_a_task_wakes_a_parked_model_rather_than_ask_one_that_is_unloaded(served):
    await served.host.unload("large")
    served.host.apply(Assignment(1, {"small": None}))
    while served.host.observe().observed_generation < 1:  # noqa: ASYNC110 - the test's own timeout bounds it
        await asyncio.sleep(0.005)
    assert served.host.status("small").state == "PARKED"
    response = await served.infer("tasks/echo", min_quality=0.5)
    assert (response.status_code, response.json()["model_name"]) == (200, "small")


def message(model: str, **parameters: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.0, 2.0])
    fields = {str: "string_param", float: "double_param", int: "uint64_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], fields[type(value)], value)
    return request


async def test_over_grpc(served):
    infer = served.grpc.ModelInfer
    answer = await infer(message("tasks/echo", priority=1))
    assert (answer.model_name, answer.parameters["variant"].string_param) == ("large", "int8")
    answer = await infer(message("tasks/echo", latency_budget_seconds=0.015))
    assert answer.model_name == "small"
    answer = await infer(message("tasks/echo"), metadata=(("x-trimtab-latency-budget-seconds", "0.015"),))
    assert answer.model_name == "small"
    metadata = await served.grpc.ModelMetadata(pb.ModelMetadataRequest(name="tasks/echo"))
    assert (metadata.name, metadata.platform) == ("tasks/echo", "trimtab_task")
    assert (await served.grpc.ModelReady(pb.ModelReadyRequest(name="tasks/echo"))).ready


async def test_a_refusal_over_grpc(served):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.grpc.ModelInfer(message("large", min_quality=0.99))
    error = refused.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "what can be had now: large by int8 (quality 0.97" in error.details()
    (offer,) = json.loads(dict(error.trailing_metadata())["x-trimtab-available"])
    assert (offer["model"], offer["variant"], offer["quality"]) == ("large", "int8", 0.97)
