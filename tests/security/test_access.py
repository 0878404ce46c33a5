"""Each role against each endpoint, on both inference transports and the admin API."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from server.admin.app import AdminApp
from server.admin.events import Hub
from server.admin.operations import OPERATIONS
from server.admin.reload import Reloader
from server.auth import Authenticator
from server.openapi import document as describe
from server.settings import load_settings
from tests.security.conftest import TOKENS, Serving
from tests.server.admin_world import Rig, document

EVERYONE = {"", "unknown", *TOKENS, "machine"}
INFER = {"infer", "limited", "machine"}  # and those with a scope, for its models
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}

#: Method, path, who may.
HTTP: list[tuple[str, str, set[str]]] = [
    ("GET", "/v2/health/live", EVERYONE),
    ("GET", "/v2/health/ready", EVERYONE),
    ("GET", "/v2", INFER | {"read", "operate", "scoped", "scoped-operate"}),
    ("GET", "/v2/models/echo_FP32", INFER | {"read", "operate", "scoped", "scoped-operate"}),
    ("GET", "/v2/models/pair", INFER | {"read", "operate"}),
    ("GET", "/v2/models/pair/ready", INFER | {"read", "operate"}),
    ("GET", "/v2/models/pair/versions/1/config", INFER | {"read", "operate"}),
    ("GET", "/v2/models/pair/stats", INFER | {"read", "operate"}),
    ("GET", "/v2/models/stats", INFER | {"read", "operate"}),
    ("POST", "/v2/repository/index", INFER | {"read", "operate"}),
    ("POST", "/v2/models/echo_FP32/infer", INFER | {"scoped", "scoped-operate"}),
    ("POST", "/v2/models/echo_FP32/versions/1/infer", INFER | {"scoped", "scoped-operate"}),
    ("POST", "/v2/models/pair/infer", INFER),
    ("POST", "/v2/models/nothing/infer", INFER),
    ("POST", "/v2/repository/models/echo_FP64/load", {"operate", "scoped-operate"}),
    ("POST", "/v2/repository/models/pair/load", {"operate"}),
    ("POST", "/v2/repository/models/nothing/unload", {"operate"}),
    ("GET", "/openapi.json", INFER | {"read", "operate"}),
    ("POST", "/v2/models/pair/generate", INFER),
    ("POST", "/v2/models/pair/generate_stream", INFER),
    ("POST", "/v2/models/pair/versions/1/generate", INFER),
    ("POST", "/v2/models/pair/versions/1/generate_stream", INFER),
    ("GET", "/v2/models/pair/config", INFER | {"read", "operate"}),
    ("GET", "/v2/models/pair/versions/1", INFER | {"read", "operate"}),
    ("GET", "/v2/models/pair/versions/1/ready", INFER | {"read", "operate"}),
    ("GET", "/v2/models/pair/versions/1/stats", INFER | {"read", "operate"}),
    ("GET", "/v2/models/pair/trace/setting", INFER | {"read", "operate"}),
    ("POST", "/v2/models/pair/trace/setting", {"operate"}),
    ("GET", "/v2/models/pair/versions/1/trace/setting", INFER | {"read", "operate"}),
    ("POST", "/v2/models/pair/versions/1/trace/setting", {"operate"}),
    ("GET", "/v2/trace/setting", INFER | {"read", "operate"}),
    ("POST", "/v2/trace/setting", {"operate"}),
    ("GET", "/v2/logging", INFER | {"read", "operate"}),
    ("POST", "/v2/logging", {"operate"}),
    ("GET", "/v2/systemsharedmemory/status", INFER | {"read", "operate"}),
    ("GET", "/v2/systemsharedmemory/region/x/status", INFER | {"read", "operate"}),
    ("POST", "/v2/systemsharedmemory/unregister", {"operate"}),
    ("POST", "/v2/systemsharedmemory/region/x/unregister", {"operate"}),
    ("GET", "/v2/cudasharedmemory/status", INFER | {"read", "operate"}),
    ("POST", "/v2/cudasharedmemory/unregister", {"operate"}),
    ("GET", "/metrics", {"read", "operate"}),
    ("GET", "/%6detrics", {"read", "operate"}),
    ("GET", "/metrics/x", {"read", "operate"}),
    ("GET", "/v2/models/echo_FP32%2F..%2Fpair", INFER | {"read", "operate", "scoped", "scoped-operate"}),
    ("POST", "/v2/systemsharedmemory/region/x/register", {"operate"}),
    ("POST", "/admin/v1/pin", {"operate"}),
]


def test_every_described_operation_is_in_the_table() -> None:
    for path, item in describe("1")["paths"].items():
        pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        for method in item.keys() & {"get", "post"}:
            assert any(m == method.upper() and pattern.fullmatch(p) for m, p, _ in HTTP), (method, path)


def headers(who: str) -> dict[str, str]:
    if who == "machine":
        return {"x-trimtab-client-certificate": "proxy-secret-of-tests robot"}
    token = TOKENS.get(who, "not-a-token")
    return {"authorization": f"Bearer {token}"} if who else {}


def rested(who: str) -> None:
    """The limited caller has a full second of requests again."""
    if who == "limited":
        time.sleep(1.0)


@pytest.fixture(scope="module")
def client(serving: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serving.url, trust_env=False, timeout=20) as made:
        yield made


@pytest.mark.parametrize("who", sorted(EVERYONE - {"limited"}))
def test_http(client: httpx.Client, who: str) -> None:
    for method, path, allowed in HTTP:
        content = BODY if path.endswith("infer") else None
        answer = client.request(method, path, json=content, headers=headers(who))
        if who in allowed:
            assert answer.status_code not in (401, 403), (who, method, path, answer.text)
        else:
            expected = 401 if who in ("", "unknown") else 403
            assert answer.status_code == expected, (who, method, path, answer.text)
            assert (expected == 401) == ("www-authenticate" in answer.headers)
            assert TOKENS.get(who, "not-a-token") not in answer.text
    if who in INFER:
        assert client.post("/v2/models/echo_FP32/infer", json=BODY, headers=headers(who)).status_code == 200


#: Method, request, who may.
GRPC: list[tuple[str, Any, set[str]]] = [
    ("ServerLive", pb.ServerLiveRequest(), EVERYONE),
    ("ServerReady", pb.ServerReadyRequest(), EVERYONE),
    ("ServerMetadata", pb.ServerMetadataRequest(), INFER | {"read", "operate", "scoped", "scoped-operate"}),
    ("ModelReady", pb.ModelReadyRequest(name="echo_FP32"), INFER | {"read", "operate", "scoped", "scoped-operate"}),
    ("ModelReady", pb.ModelReadyRequest(name="pair"), INFER | {"read", "operate"}),
    ("ModelMetadata", pb.ModelMetadataRequest(name="pair"), INFER | {"read", "operate"}),
    ("ModelConfig", pb.ModelConfigRequest(name="pair"), INFER | {"read", "operate"}),
    ("ModelStatistics", pb.ModelStatisticsRequest(name="pair"), INFER | {"read", "operate"}),
    ("ModelStatistics", pb.ModelStatisticsRequest(), INFER | {"read", "operate"}),
    ("RepositoryIndex", pb.RepositoryIndexRequest(), INFER | {"read", "operate"}),
    ("ModelInfer", pb.ModelInferRequest(model_name="echo_FP32"), INFER | {"scoped", "scoped-operate"}),
    ("ModelInfer", pb.ModelInferRequest(model_name="pair"), INFER),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="pair"), {"operate"}),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="echo_FP64"), {"operate", "scoped-operate"}),
    ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nothing"), {"operate"}),
    ("ModelStreamInfer", pb.ModelInferRequest(model_name="echo_FP32"), INFER | {"scoped", "scoped-operate"}),
    ("ModelStreamInfer", pb.ModelInferRequest(model_name="pair"), INFER),
    ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(), INFER | {"read", "operate"}),
    ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="x"), {"operate"}),
    ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="x"), {"operate"}),
    ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(), INFER | {"read", "operate"}),
    ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="x"), {"operate"}),
    ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name="x"), {"operate"}),
    ("TraceSetting", pb.TraceSettingRequest(), {"operate"}),
    ("LogSettings", pb.LogSettingsRequest(), {"operate"}),
]


@pytest.mark.parametrize("who", sorted(EVERYONE - {"limited"}))
def test_grpc(serving: Serving, who: str) -> None:
    named = {method for method, _, _ in GRPC}
    assert named == {m.name for m in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    with grpc.insecure_channel(serving.target) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        for method, request, allowed in GRPC:
            metadata = tuple(headers(who).items())
            code, details = grpc.StatusCode.OK, ""
            try:
                if method == "ModelStreamInfer":
                    list(stub.ModelStreamInfer(iter([request]), metadata=metadata, timeout=20))
                else:
                    getattr(stub, method)(request, metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                code, details = error.code(), str(error.details())
            assert TOKENS.get(who, "not-a-token") not in details
            denied = grpc.StatusCode.UNAUTHENTICATED if who in ("", "unknown") else grpc.StatusCode.PERMISSION_DENIED
            if who in allowed:
                assert code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED), (who, method)
            else:
                assert code == denied, (who, method, code)


def test_every_method_of_the_service_is_known_to_the_rules() -> None:
    """What a rule does not name needs `operate`: here by name, so that a new method is decided on."""
    from server.guard import CHANGE, grpc_need

    change = {method for method, request, _ in GRPC if grpc_need(method, request).roles == CHANGE}
    assert change == {
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    }


def test_a_rate_limit_on_both_transports(serving: Serving, client: httpx.Client) -> None:
    time.sleep(1.0)
    answers = [client.get("/v2", headers=headers("limited")) for _ in range(4)]
    assert {a.status_code for a in answers} == {200, 429}
    assert answers[-1].headers["retry-after"] == "1"
    with grpc.insecure_channel(serving.target) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        codes = []
        for _ in range(4):
            try:
                stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=tuple(headers("limited").items()))
                codes.append(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                codes.append(error.code())
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes


@pytest.mark.parametrize(
    "sent",
    [
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "Bearer"},
        {"authorization": ""},
        {"x-trimtab-client-certificate": "robot"},
        {"x-trimtab-client-certificate": "wrong-secret robot"},
        {"x-trimtab-client-certificate": "proxy-secret-of-tests stranger"},
    ],
)
def test_what_proves_nothing(client: httpx.Client, sent: dict[str, str]) -> None:
    assert client.get("/v2", headers=sent).status_code == 401


def test_two_authorizations_are_refused(client: httpx.Client) -> None:
    both = [("authorization", "Bearer x"), ("authorization", f"Bearer {TOKENS['infer']}")]
    assert client.get("/v2", headers=both).status_code == 401


# The admin API: each operation's own role is in its table

BODIES: dict[str, Any] = {
    "swap": {"model": "minilm", "variant": "int8"},
    "pin": {"model": "minilm", "variant": "int8"},
    "unpin": {"model": "minilm"},
    "park": {"model": "minilm"},
    "budgets/{name}": {},
    "quarantine/clear": {"model": "minilm", "variant": "int8"},
}


@pytest.fixture
async def admin(tmp_path: Path, tokens_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    config = tmp_path / "trimtab.yaml"
    config.write_text(yaml.safe_dump(document(tmp_path, auth={"tokens_file": str(tokens_file)})))
    settings = load_settings(config)
    rig = Rig(settings)
    app = AdminApp(
        rig.control, Reloader(settings, rig.control), authenticator=Authenticator(tokens_file), hub=Hub(clients=0)
    )
    transport = httpx.ASGITransport(app=app)
    async with rig, httpx.AsyncClient(transport=transport, base_url="https://trimtab.example") as client:
        await rig.until(lambda: rig.control.status()["at"] is not None)
        yield client


@pytest.mark.parametrize("who", ["", "unknown", "infer", "scoped", "read", "operate", "scoped-operate"])
async def test_admin(admin: httpx.AsyncClient, who: str) -> None:
    roles = {"read": {"read"}, "operate": {"read", "operate"}}.get(who, set())
    for operation in OPERATIONS:
        path = operation.path.replace("{name}", "ram")
        body = BODIES.get(operation.path) if operation.body is not None else None
        options = {} if body is None else {"json": body}
        if operation.path == "what-if":
            path += "?budget=ram&delta_bytes=-1024"
        answer = await admin.request(operation.method, f"/admin/v1/{path}", headers=headers(who), **options)
        if operation.role in roles:
            assert answer.status_code in (200, 202, 409), (who, operation.path, answer.text)
        else:
            assert answer.status_code == (401 if who in ("", "unknown") else 403), (who, operation.path, answer.text)
    events = await admin.get("/admin/v1/events", headers=headers(who))
    assert events.status_code == (503 if "read" in roles else 401 if who in ("", "unknown") else 403)
    described = await admin.get("/admin/v1/openapi.json", headers=headers(who))
    assert described.status_code == (401 if who in ("", "unknown") else 200)


async def test_a_scope_bounds_what_an_operator_may_move(admin: httpx.AsyncClient) -> None:
    who = headers("scoped-operate")
    assert (await admin.post("/admin/v1/unpin", json={"model": "wine"}, headers=who)).status_code == 200
    assert (await admin.get("/admin/v1/explain", params={"model": "wine"}, headers=who)).status_code == 200
    for refused in (
        await admin.post("/admin/v1/unpin", json={"model": "minilm"}, headers=who),
        await admin.get("/admin/v1/status", headers=who),
        await admin.patch("/admin/v1/budgets/ram", json={}, headers=who),
        await admin.post("/admin/v1/reload", headers=who),
    ):
        assert refused.status_code == 403, refused.text
