"""The protocol's extensions over the wire, where the conformance suite does not look: caching, compression, streams."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def http(protocol_server: Any) -> Any:
    with httpx.Client(base_url=protocol_server.url, timeout=20, trust_env=False) as client:
        yield client


def ask(http: httpx.Client, model: str, values: list[float], **headers: str) -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, len(values)], "data": values}]}
    return http.post(f"/v2/models/{model}/infer", json=body, headers=headers)


def stats(http: httpx.Client, model: str) -> dict[str, Any]:
    return dict(http.get(f"/v2/models/{model}/stats").json()["model_stats"][0])


def test_the_same_question_is_computed_once(http: httpx.Client) -> None:
    first = ask(http, "cached", [1.0, 2.0]).json()
    assert ask(http, "cached", [1.0, 2.0]).json() == first, "the engine would have added 2"
    assert ask(http, "cached", [1.0, 3.0]).json()["outputs"][0]["data"] == [3.0, 5.0]
    seen = stats(http, "cached")
    stages = seen["inference_stats"]
    assert (stages["cache_hit"]["count"], stages["cache_miss"]["count"]) == (1, 2)
    assert (stages["success"]["count"], seen["inference_count"], seen["execution_count"]) == (3, 3, 2)


def test_another_engine_in_force_forgets_what_the_last_one_said(http: httpx.Client) -> None:
    before = ask(http, "cached", [7.0]).json()["outputs"][0]["data"]
    assert ask(http, "cached", [7.0]).json()["outputs"][0]["data"] == before
    assert http.post("/v2/repository/models/cached/unload").status_code == 200
    assert http.post("/v2/repository/models/cached/load").status_code == 200
    assert ask(http, "cached", [7.0]).json()["outputs"][0]["data"] == [8.0], "a new engine's first call"


@pytest.mark.parametrize(("encoding", "inflate"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_large_answers_are_compressed_for_those_who_ask(http: httpx.Client, encoding: str, inflate: Any) -> None:
    values = [float(i % 7) for i in range(2000)]
    plain = ask(http, "echo_FP32", values, **{"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with http.stream("POST", "/v2/models/echo_FP32/infer", headers={"accept-encoding": encoding}, json={
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2000], "data": values}]
    }) as answer:  # fmt: skip
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert int(answer.headers["content-length"]) == len(raw) < len(plain.content) / 4
    assert inflate(raw) == plain.content


def test_small_answers_are_not_compressed(http: httpx.Client) -> None:
    assert "content-encoding" not in ask(http, "echo_FP32", [1.0]).headers


def test_a_body_that_inflates_beyond_the_limit_or_has_more_after_its_end(http: httpx.Client) -> None:
    bomb = gzip.compress(b" " * (8 << 20))
    answer = http.post("/v2/models/echo_FP32/infer", content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 413
    more = gzip.compress(b"{}") + b"more"
    answer = http.post("/v2/models/echo_FP32/infer", content=more, headers={"content-encoding": "gzip"})
    assert (answer.status_code, "4 bytes follow the end" in answer.json()["error"]) == (400, True)


def test_events_come_one_by_one_and_name_the_variant(http: httpx.Client) -> None:
    with http.stream("POST", "/v2/models/repeat/generate_stream", json={"x": 3, "id": "s"}) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert answer.headers["x-trimtab-variant"] == "only"
    assert [event["y"] for event in events] == [0, 1, 2]
    assert {event["id"] for event in events} == {"s"}


def test_a_client_that_goes_away_ends_its_stream(protocol_server: Any, http: httpx.Client) -> None:
    before = stats(http, "repeat")
    body = b'{"x": 100000000}'
    head = (
        b"POST /v2/models/repeat/generate_stream HTTP/1.1\r\nhost: x\r\ncontent-length: "
        + str(len(body)).encode()
        + b"\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", protocol_server.http)) as connection:
        connection.sendall(head + body)
        assert b"200" in connection.recv(4096)
    end = time.monotonic() + 20
    while stats(http, "repeat")["inference_stats"]["fail"]["count"] == before["inference_stats"]["fail"]["count"]:
        assert time.monotonic() < end, "the stream went on"
        time.sleep(0.05)


def test_streamed_requests_are_worked_on_together_and_answered_in_order(protocol_server: Any) -> None:
    def request(model: str, identity: str) -> Any:
        made = pb.ModelInferRequest(model_name=model, id=identity)
        made.inputs.add(name="x", datatype="FP32", shape=[1, 1])
        made.raw_input_contents.append(np.ones(1, np.float32).tobytes())
        return made

    started = time.monotonic()
    with grpc.insecure_channel(protocol_server.target) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        asked = [request("slow", str(i)) for i in range(5)] + [request("echo_FP32", "last")]
        answers = list(stub.ModelStreamInfer(iter(asked), timeout=60))
        bad = list(
            channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([b"\xff"]), timeout=20)
        )
    assert [a.infer_response.id for a in answers] == ["0", "1", "2", "3", "4", "last"]
    assert time.monotonic() - started < 60
    assert b"not a valid" in bad[0]
