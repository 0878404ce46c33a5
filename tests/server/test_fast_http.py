"""The short way answers exactly as the application does, and takes only what it may."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import AsyncIterator

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from deployments.config import Batching
from protos import open_inference_pb2 as pb
from server.auth import Authenticator, ProxyIdentity
from server.dataplane import DataPlane
from server.fast_http import FastPath, FastProtocol, protocol
from server.grpc_api import GrpcApi
from server.grpc_http import Unary
from server.guard import Guard, GuardedHttp, guarded_grpc
from server.http_api import HttpApi
from server.response_cache import ResponseCache
from tests.server.fast_world import LIMITS, host_of_tests, tokens_file


class Transport:
    """Keeps what is written."""

    def __init__(self):
        self.sent = b""
        self.closed = self.paused = False

    def write(self, data):
        self.sent += data

    def get_extra_info(self, *_):
        return None

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


class Server:
    """Both ways over one host. `taken` counts the requests that went the short one."""

    def __init__(self, host, guard=None, cache=None):
        plane = DataPlane(host, cache=cache)
        grpc_api = GrpcApi(plane)
        http = HttpApi(plane, LIMITS)
        if guard is not None:
            http, grpc_api = GuardedHttp(http, guard), guarded_grpc(grpc_api, guard)
        self.path = FastPath(plane, LIMITS, guard)
        self.taken = 0
        app = Unary(grpc_api, LIMITS, http)
        self._configs = [
            uvicorn.Config(app, http=kind, lifespan="off", timeout_keep_alive=5)
            for kind in (FastProtocol, protocol(self.path))
        ]
        for config in self._configs:
            config.load()
        self._state = ServerState()
        self._state.default_headers = [(b"date", b"today"), (b"server", b"uvicorn")]

    def connect(self, *, fast):
        config = self._configs[fast]
        made = config.http_protocol_class(config=config, server_state=self._state, app_state={})
        transport = Transport()
        made.connection_made(transport)
        if fast:
            take = made._take

            def counted(*arguments):
                self.taken += 1
                take(*arguments)

            made._take = counted
        return made, transport

    async def answer(self, data, *, fast):
        connection, transport = self.connect(fast=fast)
        connection.data_received(data)
        await answered(transport, 1)
        connection.connection_lost(None)
        return transport.sent


def complete(sent):
    """How many whole answers there are."""
    count = 0
    while sent:
        head, found, rest = sent.partition(b"\r\n\r\n")
        if not found:
            break
        if b"transfer-encoding: chunked" in head:
            end = rest.find(b"0\r\n")
            end = rest.find(b"\r\n\r\n", max(end, 0))
            if end < 0:
                break
            sent = rest[end + 4 :]
        else:
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if len(rest) < length:
                break
            sent = rest[length:]
        count += 1
    return count


async def answered(transport, count):
    async with asyncio.timeout(10):
        while complete(transport.sent) < count and not transport.closed:  # noqa: ASYNC110 - the timeout bounds it
            await asyncio.sleep(0.001)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    host = host_of_tests()
    await host.start()
    yield Server(host)
    await host.stop()


def http(body, model="echo_FP32", path="/v2/models/{}/infer", headers=(), method="POST"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"{method} {path.format(model)} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def tensor(data=(1.5, 2.0), **more):
    return {"name": "x", "datatype": "FP32", "shape": [1, len(data)], "data": list(data), **more}


def request(**more):
    return {"inputs": [tensor()], **more}


def message(**more):
    made = pb.ModelInferRequest(model_name=more.pop("model", "echo_FP32"), **more)
    if not made.inputs:
        made.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        made.raw_input_contents.append(b"\0\0\x80?\0\0\0@")
    return made.SerializeToString()


def call(data, headers=(), flag=0, length=None, chunked=True):
    frame = bytes([flag]) + (len(data) if length is None else length).to_bytes(4, "big") + data
    size = "transfer-encoding: chunked" if chunked else f"content-length: {len(frame)}"
    lines = ["POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1", "content-type: application/grpc", *headers]
    head = "\r\n".join([*lines, "te: trailers", size]).encode() + b"\r\n\r\n"
    return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(frame), frame) if chunked else frame)


BINARY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}
BINARY_HEAD = json.dumps(BINARY).encode()
LONG = [0.123456789] * 400
PLAIN = {
    "json": http(request()),
    "nested": http({"inputs": [tensor() | {"data": [[1.5, 2.0]]}]}),
    "with an id": http(request(id="an id", parameters={"whatever": 1})),
    "version": http(request(), path="/v2/models/{}/versions/1/infer"),
    "no such version": http(request(), path="/v2/models/{}/versions/9/infer"),
    "escaped name": http(request(), path="/v2/models/echo%5FFP32/infer"),
    "query": http(request(), path="/v2/models/{}/infer?x=1"),
    "unknown model": http(request(), model="nobody"),
    "not JSON": http(b"{"),
    "no inputs": http({}),
    "NaN": http(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[NaN,Infinity]}]}'),
    "wrong datatype": http({"inputs": [tensor() | {"datatype": "INT8", "data": [1, 2]}]}),
    "wrong shape": http({"inputs": [tensor() | {"shape": [-1, 2]}]}),
    "unknown output": http(request(outputs=[{"name": "z"}])),
    "binary output": http(request(outputs=[{"name": "y", "parameters": {"binary_data": True}}])),
    "binary input": http(BINARY_HEAD + b"\0" * 8, headers=[f"inference-header-content-length: {len(BINARY_HEAD)}"]),
    "binary, cut": http(BINARY_HEAD + b"\0" * 7, headers=[f"inference-header-content-length: {len(BINARY_HEAD)}"]),
    "classes": http(
        {"inputs": [tensor((1.0, 3.0, 2.0, 0.0))], "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        model="labelled",
    ),
    "engine fails": http(request(), model="broken"),
    "streams": http({"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [2]}]}, model="repeat"),
    "late": http(request(parameters={"timeout": 1}), model="slow"),
    "wish in a header": http(request(), headers=["x-trimtab-variant: only"]),
    "wish that is not known": http(request(), headers=["x-trimtab-variant: other"]),
    "bad wish": http(request(), headers=["x-trimtab-priority: -1"]),
    "request id": http(b"{", headers=["x-request-id: r"]),
    "long": http({"inputs": [tensor(LONG)]}),
    "long, gzip": http({"inputs": [tensor(LONG)]}, headers=["accept-encoding: gzip"]),
    "long, deflate": http({"inputs": [tensor(LONG)]}, headers=["accept-encoding: gzip;q=0.1, deflate"]),
    "very long, gzip": http({"inputs": [tensor(LONG * 40)]}, headers=["accept-encoding: gzip"]),
    "short, gzip": http(request(), headers=["accept-encoding: gzip"]),
    "identity": http(request(), headers=["content-encoding: identity"]),
    "grpc": call(message()),
    "grpc, of known length": call(message(), chunked=False),
    "grpc, id": call(message(id="i")),
    "grpc, deadline": call(message(), ["grpc-timeout: 5S"]),
    "grpc, late": call(message(model="slow"), ["grpc-timeout: 300000u"]),  # it is surely being computed by then
    "grpc, no time": call(message(), ["grpc-timeout: 0m"]),
    "grpc, unknown": call(message(model="nöbody % \n")),
    "grpc, malformed": call(b"\xff\xff"),
    "grpc, cut": call(message(), length=3),
    "grpc, compressed without saying how": call(message(), flag=1),
    "grpc, wish": call(message(), ["x-trimtab-variant: other"]),
    "grpc, engine fails": call(message(model="broken")),
}
OTHER = {
    "GET": b"GET /v2/models/echo_FP32 HTTP/1.1\r\nhost: x\r\n\r\n",
    "metadata by POST": http(b"{}", path="/v2/models/{}/ready"),
    "task": http(request(), path="/v2/models/tasks/x/infer"),
    "close": http(request(), headers=["connection: close"]),
    "HTTP/1.0": http(request()).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "length twice": http(request(), headers=["content-length: 1"]),
    "not a length": http(request()).replace(b"content-length: ", b"content-length: x", 1),
    "gzip body": http(b"\x1f\x8b", headers=["content-encoding: gzip"]),
    "too large": http(b" " * (LIMITS.max_body_bytes + 1)),
    "bare newlines": http(request()).replace(b"\r\n", b"\n", 2),
    "not a header": http(request(), headers=["a b"]),
    "grpc, other type": call(message()).replace(b"application/grpc", b"application/json", 1),
    "grpc, gzip": call(b"\x1f\x8b", ["grpc-encoding: gzip"], flag=1),
    "grpc, unknown encoding": call(message(), ["grpc-encoding: snappy"], flag=1),
}


def plain(sent):
    """Without what only uvicorn adds to an answer over gRPC, which has no use for it, and what depends on the clock."""
    sent = re.sub(rb"within [0-9.e-]+ s", b"in time", sent)
    return sent.replace(b"date: today\r\nserver: uvicorn\r\n", b"") if b"application/grpc" in sent else sent


@pytest.mark.parametrize("name", PLAIN)
async def test_the_same_bytes_either_way(server, name):
    slow = await server.answer(PLAIN[name], fast=False)
    fast = await server.answer(PLAIN[name], fast=True)
    assert server.taken == 1
    assert plain(fast) == plain(slow)
    assert slow.startswith(b"HTTP/1.1 ")


async def test_a_request_to_become_a_websocket_is_uvicorns(server):
    connection, transport = server.connect(fast=True)
    connection.data_received(
        b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert b" 400 " not in transport.sent
    assert transport.protocol is not connection
    transport.protocol.connection_lost(None)


@pytest.mark.parametrize("name", OTHER)
async def test_what_is_not_plain_is_not_taken(server, name):
    slow = await server.answer(OTHER[name], fast=False)
    assert await server.answer(OTHER[name], fast=True) == slow
    assert server.taken == 0


SIMPLE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=True), st.text(max_size=3), st.just([])
)
INPUT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "z"]) | SIMPLE,
        "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "FP16"]) | SIMPLE,
        "shape": st.lists(st.integers(0, 3), max_size=3) | SIMPLE,
        "data": st.lists(SIMPLE, max_size=4) | st.lists(st.lists(st.floats(-9, 9), max_size=3), max_size=3) | SIMPLE,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "other"]), SIMPLE, max_size=1) | SIMPLE,
    },
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(INPUT | st.just(tensor()), min_size=0, max_size=2) | SIMPLE},
    optional={
        "id": SIMPLE,
        "parameters": st.dictionaries(
            st.sampled_from(["timeout", "priority", "binary_data_output", "variant", "min_quality"]), SIMPLE, max_size=2
        ),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["y", "z"])}), max_size=2) | SIMPLE,
    },
)
HEADERS = st.lists(
    st.sampled_from(
        [
            "accept-encoding: gzip",
            "inference-header-content-length: 5",
            "x-trimtab-min-quality: 0.5",
            "x-trimtab-priority: 2",
            "x-request-id: a",
            "content-encoding: gzip",
            "expect: 100-continue",
            "connection: keep-alive",
            "Connection: Close",
            "transfer-encoding: chunked",
            "authorization: Bearer x",
        ]
    ),
    max_size=2,
)


@given(
    body=BODY, headers=HEADERS, model=st.sampled_from(["echo_FP32", "echo_INT8", "echo_BYTES", "image", "cached", "no"])
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_bytes_whatever_is_asked(body, headers, model):
    async def main(fast):
        host = host_of_tests()  # one for each way: `cached` counts its calls
        await host.start()
        answer = await Server(host).answer(http(body, model=model, headers=headers), fast=fast)
        await host.stop()
        return answer

    if "expect: 100-continue" in headers or "transfer-encoding: chunked" in headers:
        return  # an interim answer, or no complete request: uvicorn's alone
    assert asyncio.run(main(fast=True)) == asyncio.run(main(fast=False))


@pytest.mark.parametrize("pieces", [1, 2, 7, 40])
async def test_a_request_in_pieces_is_the_applications(server, pieces):
    whole = PLAIN["json"]
    expected = await server.answer(whole, fast=False)
    connection, transport = server.connect(fast=True)
    step = -(-len(whole) // pieces)
    for start in range(0, len(whole), step):
        connection.data_received(whole[start : start + step])
        await asyncio.sleep(0)
    await answered(transport, 1)
    assert transport.sent == expected
    assert server.taken == (pieces == 1)
    connection.data_received(whole)  # and the connection is as good as new
    await answered(transport, 2)
    assert transport.sent == 2 * expected
    assert server.taken == (2 if pieces == 1 else 1)


async def test_requests_sent_ahead_are_answered_in_order(server):
    connection, transport = server.connect(fast=True)
    slow = http(request(id="first"), model="picky")
    connection.data_received(slow)
    assert not transport.paused
    connection.data_received(http(request(id="second")))
    assert transport.paused
    connection.data_received(OTHER["GET"] + http(request(id="third")))
    await answered(transport, 4)
    order = [transport.sent.find(part) for part in (b'"first"', b'"second"', b'"platform"', b'"third"')]
    assert -1 not in order
    assert order == sorted(order)
    assert not transport.paused


async def test_a_client_that_leaves_is_not_computed_for(server):
    host = server.path.plane._host
    connections = [server.connect(fast=True)[0] for _ in range(3)]
    for connection in connections:
        connection.data_received(http(request(), model="slow"))
    for connection in connections:
        connection.connection_lost(ConnectionResetError())
    await asyncio.sleep(0.05)
    assert host.statistics("slow").fail.count == 3
    assert host.statistics("slow").execution_count == 0
    assert host._slots["slow"].tally.requests == {("only", "Cancelled", "http"): 3}


async def test_a_server_that_stops_answers_what_it_has_and_closes(server):
    connection, transport = server.connect(fast=True)
    connection.data_received(PLAIN["json"])
    connection.shutdown()
    assert not transport.closed
    await answered(transport, 1)
    assert transport.sent.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in transport.sent
    assert transport.closed
    idle, transport = server.connect(fast=True)
    idle.shutdown()
    assert transport.closed


async def test_an_idle_connection_is_closed_in_time(server):
    connection, transport = server.connect(fast=True)
    connection.timeout_keep_alive = 0.2
    for _ in range(4):
        connection.data_received(PLAIN["json"])
        await asyncio.sleep(0.12)
        assert not transport.closed
    async with asyncio.timeout(5):
        while not transport.closed:  # noqa: ASYNC110 - the timeout bounds it
            await asyncio.sleep(0.01)


async def test_the_guard_stands_before_either_way(tmp_path, server):
    host = server.path.plane._host
    guarded = Server(host, Guard(Authenticator(tokens_file(tmp_path)), ProxyIdentity("a secret of the proxy")))
    for headers in (
        [],
        ["authorization: Bearer wrong"],
        ["authorization: Bearer infers"],
        ["authorization: Bearer reads"],
        ["authorization: Bearer narrow"],
        ["x-trimtab-client-certificate: a secret of the proxy somebody"],
    ):
        for sent in (http(request(), headers=headers), call(message(), headers)):
            guarded.taken = 0
            slow, fast = await guarded.answer(sent, fast=False), await guarded.answer(sent, fast=True)
            assert plain(fast) == plain(slow)
            assert guarded.taken == 1
            allowed = b"200 OK" in fast if sent.startswith(b"POST /v2") else b"grpc-status: 0" in fast
            assert allowed == ("authorization: Bearer infers" in headers), fast


async def test_where_the_queue_is_full_only_what_is_more_important_is_read():
    host = host_of_tests(Batching(queue=2))
    await host.start()
    server = Server(host)
    waiting = []
    while not host.pressed("slow"):
        connection, transport = server.connect(fast=True)
        connection.data_received(http(request(), model="slow"))
        waiting.append((connection, transport))
        await asyncio.sleep(0)
    assert not host.pressed("echo_FP32")
    assert not host.pressed("nobody")
    for sent in (http(request(), model="slow"), call(message(model="slow"))):
        refused = await server.answer(sent, fast=True)
        assert b"retry-after: 1" in refused
        assert b"2 requests wait already" in refused
        assert plain(refused) == plain(await server.answer(sent, fast=False))
    assert (await server.answer(http(b"{", model="slow"), fast=True)).startswith(b"HTTP/1.1 503 ")
    # … and those that wait make room for it
    requests = [http(request(parameters={"priority": 1}), model="slow")]
    requests += [http(request(), model="slow", headers=["x-trimtab-priority: 1"])]
    for number, sent in enumerate(requests, 1):
        connection, transport = server.connect(fast=True)
        connection.data_received(sent)
        waiting.append((connection, transport))
        assert sum(b"HTTP/1.1 503 " in transport.sent for _, transport in waiting) == number
    counted = host._slots["slow"].tally.requests
    assert sum(count for (_, code, _), count in counted.items() if code == "QueueFull") == 7
    for connection, _ in waiting:
        connection.connection_lost(None)
    await host.stop()


async def test_what_would_come_too_late_is_refused_unread(server):
    host = server.path.plane._host
    # It is through with eight rows in 0.8 s, and not for what a call takes: what is expected does not hang on the clock.
    host._slots["slow"]._foresight.pace.called(8, 0.001, 0.8, True)
    waiting = []
    for _ in range(80):
        connection, transport = server.connect(fast=True)
        connection.data_received(http(request(parameters={"timeout": 60_000_000}), model="slow"))
        waiting.append((connection, transport))
    await asyncio.sleep(0)
    assert host.pressed("slow")
    soon, later = {"timeout": 500_000}, {"timeout": 60_000_000}
    head = json.dumps(BINARY | {"parameters": soon}).encode()
    for sent in (
        http(request(parameters=soon), model="slow"),
        http(head + b"\0" * 8, model="slow", headers=[f"inference-header-content-length: {len(head)}"]),
        call(message(model="slow"), ["grpc-timeout: 500m"]),
    ):
        refused = await server.answer(sent, fast=True)
        assert b"too near to the deadline of 0.5 s" in refused
        assert plain(refused) == plain(await server.answer(sent, fast=False))
    wrong = http(b'{"inputs": 1, "parameters": {"timeout": 500000}}', model="slow")
    assert (await server.answer(wrong, fast=True)).startswith(b"HTTP/1.1 503 ")
    # What states no deadline that can be told at a glance is read; so is what may be let in.
    for body in (
        b'{"timeout',
        {"inputs": [tensor(name="y")], "parameters": {"timeout": "soon"}},
        {"inputs": [tensor(name="y")], "parameters": later},
        {"inputs": [tensor(name="y", parameters=soon)], "parameters": later},
        {"inputs": [tensor(name="y")]},
        {"inputs": [tensor(name="y", data=[0.5] * 8000)], "parameters": soon},
    ):
        answer = await server.answer(http(body, model="slow"), fast=True)
        assert answer.startswith(b"HTTP/1.1 400 "), (body, answer)
    for connection, _ in waiting:
        connection.connection_lost(None)


async def test_what_the_response_cache_has_is_given(server):
    host = server.path.plane._host
    cached = Server(host, cache=ResponseCache({"cached": 1 << 20}))
    first = await cached.answer(http(request(), model="cached"), fast=True)
    assert await cached.answer(http(request(), model="cached"), fast=True) == first
    assert cached.taken == 2
    assert host.statistics("cached").execution_count == 1


def test_heads_are_remembered_up_to_a_number():
    from server.heads import LONGEST, MOST, Heads

    heads = Heads(1000)
    make = functools.partial("POST /v2/models/m/infer HTTP/1.1\r\nx: {}\r\ncontent-length: 1\r\n\r\n".format)
    for number in range(3 * MOST):
        assert heads.get(make(number).encode()) is not None
        assert len(heads._known) <= MOST
    assert heads.get(make("y" * LONGEST).encode()) is None
    assert heads.get(make(0).encode()) == heads.get(make(0).encode())
