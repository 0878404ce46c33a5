"""gRPC's unary inference through HAProxy, which hands it to the HTTP port: what a client sees is gRPC."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from server.haproxy import UNARY, application, command, hardened, unary_backend
from tests.security.proxied import haproxy, render
from tests.server.conftest import Ports


class Front:
    """A running HAProxy before the protocol server."""

    def __init__(self, target: str, admin: Path, url: str):
        self.target = target
        self.url = url
        self._admin = admin

    @contextlib.contextmanager
    def stub(self, **options) -> Iterator[pb_grpc.GRPCInferenceServiceStub]:
        limits = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(self.target, options=limits, **options) as channel:
            yield pb_grpc.GRPCInferenceServiceStub(channel)

    def handed_on(self) -> int:
        """How many requests went to the HTTP port."""
        lines = [line.split(",") for line in command(str(self._admin), "show stat").splitlines()]
        columns = lines[0]
        [total] = [line[columns.index("stot")] for line in lines if line[:2] == [UNARY, "BACKEND"]]
        return int(total)


@pytest.fixture(scope="module")
def front(protocol_server: Ports, free_port: Callable[[], int]) -> Iterator[Front]:
    folder = Path(tempfile.mkdtemp(prefix="trimtab-test-", dir="/tmp"))
    http, grpc_port, stats, metrics = (free_port() for _ in range(4))
    behind = (protocol_server.http, protocol_server.grpc)
    config = render(folder, http=http, grpc=grpc_port, behind=behind, stats=stats, metrics=metrics)
    try:
        with haproxy(config, {"TRIMTAB_REQUESTS": "4"}, http):
            yield Front(f"127.0.0.1:{grpc_port}", folder / "admin.sock", f"http://127.0.0.1:{http}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def request(model="echo_FP32", values=(1.0, 2.0), **more):
    made = pb.ModelInferRequest(model_name=model, **more)
    made.inputs.add(name="x", datatype="FP32", shape=[1, len(values)])
    made.raw_input_contents.append(np.asarray(values, np.float32).tobytes())
    return made


def test_answers_and_their_trailing_metadata(front):
    before = front.handed_on()
    with front.stub() as stub:
        for number in range(20):
            answer, call = stub.ModelInfer.with_call(request(id=str(number)), timeout=20)
            assert answer.id == str(number)
            assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1.0, 2.0]
            assert ("x-trimtab-variant", "only") in call.trailing_metadata()
    assert front.handed_on() - before == 20


@pytest.mark.parametrize("size", [300, 40_000, 250_000])
def test_messages_of_any_size(front, size):
    values = np.arange(size, dtype=np.float32)
    with front.stub() as stub:
        answer = stub.ModelInfer(request(values=values), timeout=30)
    assert (np.frombuffer(answer.raw_output_contents[0], np.float32) == values).all()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [2, 40_000])
def test_compressed_messages(front, compression, size):
    values = np.zeros(size, dtype=np.float32)
    with front.stub(compression=compression) as stub:
        answer = stub.ModelInfer(request(values=values), timeout=30)
    assert (np.frombuffer(answer.raw_output_contents[0], np.float32) == values).all()


@pytest.mark.parametrize(
    ("sent", "metadata", "code", "words"),
    [
        (request("nöbody"), (), grpc.StatusCode.NOT_FOUND, "no model 'nöbody'"),
        (request("broken"), (), grpc.StatusCode.INTERNAL, "RuntimeError"),
        (request("image"), (), grpc.StatusCode.INVALID_ARGUMENT, "shape"),
        (request(), (("x-trimtab-variant", "other"),), grpc.StatusCode.INVALID_ARGUMENT, "'other'"),
        (request(values=np.zeros(400_000)), (), grpc.StatusCode.RESOURCE_EXHAUSTED, "1048576"),
    ],
    ids=["unknown", "engine", "shape", "wish", "size"],
)
def test_errors_are_grpcs(front, sent, metadata, code, words):
    with front.stub() as stub, pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(sent, metadata=metadata, timeout=30)
    assert raised.value.code() is code
    assert words in raised.value.details() or code is grpc.StatusCode.INTERNAL


def test_a_deadline_reaches_the_host(front):
    started = time.monotonic()
    with front.stub() as stub, pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request("slow", id="late"), timeout=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 10


def test_what_would_only_wait_is_refused_before_it_reaches_a_host(front):
    with front.stub() as stub, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(stub.ModelInfer, request("slow"), timeout=30) for _ in range(4)]
        time.sleep(0.3)  # a call takes a second
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelInfer(request(), timeout=30)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        metadata = [*(raised.value.initial_metadata() or ()), *(raised.value.trailing_metadata() or ())]
        assert ("retry-after", "1") in metadata
        for call in waiting:
            assert call.result().outputs
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    with httpx.Client(base_url=front.url, trust_env=False, timeout=30) as client, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, "/v2/models/slow/infer", json=body) for _ in range(4)]
        time.sleep(0.3)
        refused = client.post("/v2/models/echo_FP32/infer", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json() == {"error": "too many requests are under way"}
        assert client.get("/v2/models/echo_FP32/ready").status_code == 200
        assert [call.result().status_code for call in waiting] == [200] * 4


def test_the_rest_of_the_service_goes_to_the_grpc_port(front):
    before = front.handed_on()
    with front.stub() as stub:
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
        [made] = list(stub.ModelStreamInfer(iter([request()]), timeout=20))
        assert not made.error_message
    assert front.handed_on() == before


def test_without_one_application_with_servers_nothing_is_handed_on():
    assert application("frontend http_frontend\n    bind 127.0.0.1:1\nfrontend grpc_frontend\n    bind x:2\n") == (
        "",
        {},
    )
    config = (
        "global\ndefaults\nfrontend http_frontend\n    bind 127.0.0.1:1\n    use_backend http-a if is_http-a\n"
        "    default_backend default_backend\nbackend http-a\n    timeout server 5s\n{}"
        "    server fallback 127.0.0.1:9 check backup\n"
        "frontend grpc_frontend\n    bind 127.0.0.1:2 proto h2\n    default_backend grpc-a\n"
    )
    assert application(config.format("")) == ("http-a", {})
    assert UNARY not in hardened(config.format(""), {}, None)
    server = "    server one 127.0.0.1:7 check observe layer4\n"
    assert application(config.format(server)) == ("http-a", {"one": "127.0.0.1:7"})
    assert unary_backend(config.format(server), *application(config.format(server))) == [
        f"backend {UNARY}",
        "    http-reuse always",
        "    timeout server 5s",
        "    server one 127.0.0.1:7 track http-a/one",
    ]
    made = hardened(config.format(server), {}, None)
    [at] = [i for i, line in enumerate(made.splitlines()) if f"use_backend {UNARY}" in line]
    assert made.splitlines()[at + 1].strip() == "default_backend grpc-a"
