"""HTTP as curl would speak it: raw bodies against the running protocol server."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}


@pytest.fixture(scope="module")
def http(protocol_server: Any) -> Any:
    with httpx.Client(base_url=protocol_server.url, timeout=20, trust_env=False) as client:
        yield client


def infer(http: httpx.Client, model: str = "echo_FP32", **fields: Any) -> httpx.Response:
    body = {"inputs": [X], **fields}
    return http.post(f"/v2/models/{model}/infer", json=body)


def test_an_answer_names_the_variant(http: httpx.Client) -> None:
    answer = infer(http, id="a-1")
    assert answer.status_code == 200
    assert answer.headers["x-trimtab-variant"] == "only"
    assert answer.json() == {
        "model_name": "echo_FP32",
        "model_version": "1",
        "id": "a-1",
        "parameters": {"variant": "only"},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}],
    }


def test_nested_data_and_version_in_the_path(http: httpx.Client) -> None:
    nested = {**X, "data": [[1.5, 2.5]]}
    answer = http.post("/v2/models/echo_FP32/versions/1/infer", json={"inputs": [nested]})
    assert answer.json()["outputs"][0]["data"] == [1.5, 2.5]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2", 200),
        ("/v2/", 200),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/pair", 200),
        ("/v2/models/pair/versions/1", 200),
        ("/v2/models/pair/versions/2", 404),
        ("/v2/models/pair/ready", 200),
        ("/v2/models/pair/config", 200),
        ("/v2/models/pair/stats", 200),
        ("/v2/models/stats", 200),
        ("/v2/models/nothing", 404),
        ("/v2/models/pair/other", 404),
        ("/v2/other", 404),
        ("/", 404),
    ],
)
def test_routes(http: httpx.Client, path: str, status: int) -> None:
    answer = http.get(path)
    assert answer.status_code == status
    if status == 404:
        assert answer.json()["error"]
    head = http.head(path)
    assert head.status_code == status
    assert head.content == b""


def test_methods(http: httpx.Client) -> None:
    answer = http.get("/v2/models/pair/infer")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = http.post("/v2/health/live")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "inputs must be a list"),
        (b'{"inputs": []}', "at least one"),
        (b'{"inputs": [1]}', "object with a name"),
        (b'{"inputs": [{"name": "x", "datatype": "FP31", "shape": [1], "data": [1]}]}', "FP31"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "data": [1]}]}', "shape"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1]}]}', "1 elements"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, "2"]}]}', "element 1"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1], 2]}]}', "unevenly"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}', "neither data nor"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": 3}]}', "parameters"),
        (b'{"id": 7, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}', "id must be"),
        (b'{"outputs": 3, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}', "outputs"),
    ],
)
def test_malformed_requests_say_what_is_wrong(http: httpx.Client, body: bytes, words: str) -> None:
    answer = http.post("/v2/models/echo_FP32/infer", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def binary(header: dict[str, Any], raw: bytes, length: int | None = None) -> dict[str, Any]:
    head = json.dumps(header).encode()
    return {
        "content": head + raw,
        "headers": {"inference-header-content-length": str(len(head) if length is None else length)},
    }


def test_binary_tensors_both_ways(http: httpx.Client) -> None:
    values = np.array([[1.5, float("nan"), float("inf")]], np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
    header = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    answer = http.post("/v2/models/echo_FP32/infer", **binary(header, values.tobytes()))
    assert answer.status_code == 200, answer.text
    size = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:size])["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert answer.content[size:] == values.tobytes()


@pytest.mark.parametrize(
    ("size", "raw", "length", "words"),
    [
        (8, b"1234", None, "binary_data_size 8"),
        (4, b"1234", None, "4 bytes"),
        (8, b"12345678more", None, "4 bytes follow"),
        (8, b"12345678", 9999, "does not fit"),
        (8, b"12345678", 3, "not JSON"),
        ("8", b"12345678", None, "binary_data_size"),
    ],
)
def test_binary_requests_that_do_not_add_up(
    http: httpx.Client, size: Any, raw: bytes, length: int | None, words: str
) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    answer = http.post("/v2/models/echo_FP32/infer", **binary({"inputs": [tensor]}, raw, length))
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_what_is_not_a_number_is_a_bare_word_in_json(http: httpx.Client) -> None:
    raw = np.array([[np.nan, np.inf]], np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    answer = http.post("/v2/models/echo_FP32/infer", **binary({"inputs": [tensor]}, raw))
    assert b'"data":[NaN,Infinity]' in answer.content
    words = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [NaN, Infinity, -Infinity]}]}'
    answer = http.post("/v2/models/echo_FP32/infer", content=words)
    assert b'"data":[NaN,Infinity,-Infinity]' in answer.content


def test_outputs_without_a_json_form(http: httpx.Client) -> None:
    raw = np.array([[1.0, 2.0]], np.float16).tobytes()
    tensor = {"name": "x", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    answer = http.post("/v2/models/echo_FP16/infer", **binary({"inputs": [tensor]}, raw))
    assert answer.status_code == 400
    assert "binary_data" in answer.json()["error"]


def test_compressed_bodies(http: httpx.Client) -> None:
    body = json.dumps({"inputs": [X]}).encode()
    path = "/v2/models/echo_FP32/infer"
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        assert http.post(path, content=packed, headers={"content-encoding": encoding}).status_code == 200
    bomb = gzip.compress(b" " * (20 << 20))
    assert http.post(path, content=bomb, headers={"content-encoding": "gzip"}).status_code == 413
    cut = http.post(path, content=gzip.compress(body)[:-9], headers={"content-encoding": "gzip"})
    assert (cut.status_code, "cut short" in cut.text) == (400, True)
    assert http.post(path, content=b"nonsense", headers={"content-encoding": "gzip"}).status_code == 400
    assert http.post(path, content=body, headers={"content-encoding": "br"}).status_code == 400


def test_oversized_bodies(http: httpx.Client) -> None:
    path = "/v2/models/echo_FP32/infer"
    declared = http.post(path, content=b"x" * (2 << 20))
    assert declared.status_code == 413
    assert "1048576" in declared.json()["error"]
    chunks = http.post(path, content=(b"x" * 65536 for _ in range(64)))
    assert chunks.status_code == 413


def test_an_engine_that_fails_tells_nothing_of_its_inside(http: httpx.Client) -> None:
    answer = infer(http, "broken")
    assert answer.status_code == 500
    assert "broken" in answer.json()["error"]
    assert "Traceback" not in answer.text


def test_a_full_queue_says_when_to_come_back(http: httpx.Client, protocol_server: Any) -> None:
    statuses: list[tuple[int, str | None]] = []

    def one() -> None:
        with httpx.Client(base_url=protocol_server.url, timeout=20, trust_env=False) as client:
            answer = infer(client, "crowded")
            statuses.append((answer.status_code, answer.headers.get("retry-after")))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in statuses} == {200, 503}
    assert all(int(after or 0) >= 1 for status, after in statuses if status == 503)


def test_a_deadline_that_passes(http: httpx.Client) -> None:
    answer = infer(http, "slow", parameters={"timeout": 50_000})
    assert answer.status_code == 504
    assert infer(http, "echo_FP32", parameters={"timeout": "soon"}).status_code == 400
    assert infer(http, "echo_FP32", parameters={"timeout": -1}).status_code == 400


def test_a_bad_request_does_not_disturb_its_neighbours(http: httpx.Client, protocol_server: Any) -> None:
    """Good and bad requests at once, to a model whose engine raises for the whole batch when one sample is NaN."""
    outcomes: dict[str, list[int]] = {"good": [], "bad": []}

    def many(kind: str) -> None:
        raw = np.array([[np.nan if kind == "bad" else 1.0, 2.0]], np.float32).tobytes()
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
        request = binary({"inputs": [tensor]}, raw)
        with httpx.Client(base_url=protocol_server.url, timeout=20, trust_env=False) as client:
            for _ in range(20):
                outcomes[kind].append(client.post("/v2/models/picky/infer", **request).status_code)

    threads = [threading.Thread(target=many, args=(kind,)) for kind in ("good", "bad", "good", "good")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes["good"]) == {200}
    assert set(outcomes["bad"]) == {500}


def test_repository_index(http: httpx.Client) -> None:
    lines = http.post("/v2/repository/index", json={"ready": True}).json()
    assert {"name": "pair", "version": "1", "state": "READY", "reason": ""} in lines
    assert http.get("/v2/repository/index").status_code == 405
    assert http.post("/v2/repository/models/nothing/load").status_code == 404
