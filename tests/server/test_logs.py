"""Log lines: their form, what requests leave in them, and what they must never hold."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from server import logs
from server.dataplane import DataPlane
from server.grpc_api import GrpcApi, add_to_server
from server.http_api import HttpApi
from server.inference import InferRequest, InferResponse
from server.settings import LoggingConfig
from server.shared_memory import Regions
from variants.errors import EngineFailed, QueueFull

SECRET = "hunter2"
Lines = Callable[[], list[dict[str, Any]]]


class Plane(DataPlane):
    """Answers, or raises what it is told to."""

    def __init__(self) -> None:
        self.regions = Regions()
        self.fault: Exception | None = None

    async def infer(self, request: InferRequest) -> InferResponse:
        if self.fault is not None:
            raise self.fault
        return InferResponse(request.model, "1", request.id, "int8", ())


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., io.StringIO]]:
    """configured(format=, level=): trimtab's lines from now on, as text; put back afterwards."""
    before = (logs.ROOT.handlers[:], logs.ROOT.level, logs.ROOT.propagate, logs.requests.filters[:])

    def configure(**config: Any) -> io.StringIO:
        stream = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", stream)
            logs.configure(LoggingConfig(**config), "host")
        return stream

    yield configure
    for handler in logs.ROOT.handlers:
        handler.close()
    logs.ROOT.handlers[:], level, logs.ROOT.propagate, logs.requests.filters[:] = before
    logs.ROOT.setLevel(level)


@pytest.fixture
def lines(configured: Callable[..., io.StringIO]) -> Lines:
    """The JSON lines of level debug written until now."""
    stream = configured(format="json", level="debug")
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def body(**changes: Any) -> dict[str, Any]:
    return {"id": "r1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}], **changes}


async def post(plane: Plane, content: Any, **headers: str) -> int:
    transport = httpx.ASGITransport(HttpApi(plane))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return (await client.post("/v2/models/m/infer", json=content, headers=headers)).status_code


def test_a_json_line_says_when_where_and_what(lines: Lines) -> None:
    logging.getLogger("trimtab.swap").warning("model %r: slow", "m", extra={"fields": {"seconds": 1.5}})
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line.pop("pid") > 0
    expected = {"level": "warning", "process": "host", "logger": "trimtab.swap", "message": "model 'm': slow"}
    assert line == {**expected, "seconds": 1.5}


def test_a_text_line_cannot_be_forged_by_a_client(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    logging.getLogger("trimtab.x").info("no model %s", "a\n2026 INFO all is well", extra={"fields": {"id": "b\nc"}})
    (line,) = stream.getvalue().splitlines()
    assert r"no model a\n2026 INFO all is well" in line
    assert r'id="b\nc"' in line


def test_the_level_is_the_configured_one(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(level="warning")
    logging.getLogger("trimtab.x").info("quiet")
    assert stream.getvalue() == ""


async def test_every_request_is_a_line_at_level_debug(lines: Lines) -> None:
    assert await post(Plane(), body()) == 200
    assert await post(Plane(), body(id=""), **{"x-request-id": "h1"}) == 200
    found = [(li["level"], li["message"], li["protocol"], li["model"], li["variant"], li["id"]) for li in lines()]
    assert found == [("debug", "answered", "http", "m", "int8", i) for i in ("r1", "h1")]


async def test_no_line_for_an_answered_request_otherwise(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    assert await post(Plane(), body()) == 200
    assert stream.getvalue() == ""


async def test_a_fault_of_the_server_has_id_and_traceback(lines: Lines) -> None:
    plane = Plane()
    plane.fault = EngineFailed("model 'm': it broke")
    assert await post(plane, body()) == 500
    (line,) = lines()
    assert (line["level"], line["id"], line["status"]) == ("error", "r1", 500)
    assert line["message"] == "POST /v2/models/m/infer: EngineFailed"
    assert "it broke" in line["exception"]


async def test_neither_payload_nor_credentials_are_in_a_line(lines: Lines) -> None:
    plane = Plane()
    headers = {"authorization": f"Bearer {SECRET}", "cookie": SECRET}
    wrong = body(inputs=[{"name": "x", "datatype": "FP32", "shape": [1], "data": [SECRET]}])
    assert await post(plane, wrong, **headers) == 400  # its answer quotes the element, its line must not
    plane.fault = QueueFull("model 'm': full")
    assert await post(plane, body(parameters={"token": SECRET}), **headers) == 503
    plane.fault = RuntimeError("unexpected")
    assert await post(plane, body(parameters={"token": SECRET}), **headers) == 500
    assert [line["status"] for line in lines()] == [400, 503, 500]
    assert SECRET not in json.dumps(lines())


async def test_grpc_requests(lines: Lines, free_port: Callable[[], int]) -> None:
    plane = Plane()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_to_server(GrpcApi(plane), server)
    port = server.add_insecure_port(f"127.0.0.1:{free_port()}")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer  # type: ignore[no-untyped-call]
            request = pb.ModelInferRequest(model_name="m", id="r3")
            request.inputs.add(name="x", datatype="BYTES", shape=[1]).contents.bytes_contents.append(SECRET.encode())
            await infer(request)
            plane.fault = QueueFull("model 'm': full")
            request.id = ""
            metadata = (("x-request-id", "h3"), ("authorization", f"Bearer {SECRET}"))
            with pytest.raises(grpc.aio.AioRpcError):
                await infer(request, metadata=metadata)
    finally:
        await server.stop(1.0)
    good, bad = lines()
    assert (good["message"], good["id"], good["protocol"]) == ("answered", "r3", "grpc")
    assert (bad["level"], bad["id"], bad["status"]) == ("warning", "h3", 503)
    assert bad["message"] == "ModelInfer m: QueueFull: model 'm': full"
    assert SECRET not in json.dumps(lines())


def test_an_overloaded_server_does_not_drown_in_its_log(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("server.logs.time.time", lambda: now[0])
    for _ in range(25):
        logs.failed("http", "POST x", "", 503, QueueFull("full"))
    now[0] += 1
    logs.failed("http", "POST x", "", 503, QueueFull("full"))
    logs.failed("http", "POST x", "", 503, QueueFull("full"))
    found = lines()
    assert len(found) == 12
    assert [line.get("dropped") for line in found[-2:]] == [15, None]


def test_lines_of_other_processes_reach_the_server(
    configured: Callable[..., io.StringIO], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream = io.StringIO()
    receiver = logs.Receiver(tmp_path / "log.sock", stream)
    monkeypatch.setenv(logs.SOCKET, str(tmp_path / "log.sock"))
    configured(format="json")
    logging.getLogger("trimtab.x").info("grüße\nfrom afar")
    logging.getLogger("trimtab.x").info("and again")
    receiver.close()
    receiver.close()
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["grüße\nfrom afar", "and again"]


def test_lines_that_cannot_be_sent_go_to_stderr(
    configured: Callable[..., io.StringIO],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(logs.SOCKET, str(tmp_path / "nobody.sock"))
    configured(format="json")
    logging.getLogger("trimtab.x").info("still here")
    assert json.loads(capsys.readouterr().err)["message"] == "still here"
