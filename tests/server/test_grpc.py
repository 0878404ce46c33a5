"""gRPC with our own stubs and raw bytes: statuses, deadlines, health, reflection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def channel(protocol_server: Any) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(protocol_server.target, options=options) as made:
        yield made


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.GRPCInferenceServiceStub(channel)


def request(model: str = "echo_FP32", raw: bytes | None = None, **fields: Any) -> Any:
    made = pb.ModelInferRequest(model_name=model, **fields)
    made.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    made.raw_input_contents.append(np.array([1.5, 2.5], np.float32).tobytes() if raw is None else raw)
    return made


def code_of(call: Any, *args: Any, **kwargs: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(*args, **kwargs)
    return raised.value.code(), raised.value.details()


def test_the_variant_is_in_the_answer_and_the_trailing_metadata(stub: Any) -> None:
    answer, call = stub.ModelInfer.with_call(request(id="q"))
    assert answer.id == "q"
    assert answer.parameters["variant"].string_param == "only"
    assert dict(call.trailing_metadata())["x-trimtab-variant"] == "only"
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-5, 5]),
        ("INT32", "int_contents", [-5, 5]),
        ("INT64", "int64_contents", [-(2**63), 5]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT32", "uint_contents", [0, 5]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [1.5, -1.5]),
        ("FP64", "fp64_contents", [1.5, -1.5]),
        ("BYTES", "bytes_contents", [b"\xff", b""]),
    ],
)
def test_typed_contents(stub: Any, datatype: str, field: str, values: list[Any]) -> None:
    made = pb.ModelInferRequest(model_name=f"echo_{datatype}")
    tensor = made.inputs.add(name="x", datatype=datatype, shape=[1, 2])
    getattr(tensor.contents, field).extend(values)
    raw = stub.ModelInfer(made).raw_output_contents[0]
    again = pb.ModelInferRequest(model_name=f"echo_{datatype}", raw_input_contents=[raw])
    again.inputs.add(name="x", datatype=datatype, shape=[1, 2])
    assert stub.ModelInfer(again).raw_output_contents[0] == raw


def test_contents_in_the_wrong_field_or_range(stub: Any) -> None:
    made = pb.ModelInferRequest(model_name="echo_INT8")
    tensor = made.inputs.add(name="x", datatype="INT8", shape=[1, 2])
    tensor.contents.int64_contents.extend([1, 2])
    assert code_of(stub.ModelInfer, made)[1] == "input 'x': INT8 elements belong in int_contents, not in int64_contents"
    tensor.contents.Clear()
    tensor.contents.int_contents.extend([1, 300])
    code, details = code_of(stub.ModelInfer, made)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "300 is out of range for INT8" in details


@pytest.mark.parametrize(
    ("made", "code", "words"),
    [
        (request("nothing"), grpc.StatusCode.NOT_FOUND, "no model 'nothing'"),
        (request(model_version="9"), grpc.StatusCode.NOT_FOUND, "no version '9'"),
        (request(raw=b"123"), grpc.StatusCode.INVALID_ARGUMENT, "3 bytes"),
        (pb.ModelInferRequest(model_name="echo_FP32"), grpc.StatusCode.INVALID_ARGUMENT, "at least one"),
        (request("pair"), grpc.StatusCode.INVALID_ARGUMENT, "no input 'x'"),
        (request("broken"), grpc.StatusCode.INTERNAL, "broken"),
    ],
)
def test_errors(stub: Any, made: Any, code: grpc.StatusCode, words: str) -> None:
    got, details = code_of(stub.ModelInfer, made)
    assert got is code
    assert words in details


def test_both_kinds_of_contents(stub: Any) -> None:
    made = request()
    made.inputs[0].contents.fp32_contents.extend([1.0, 2.0])
    assert "both" in code_of(stub.ModelInfer, made)[1]
    made = request()
    made.raw_input_contents.append(b"")
    assert "2 raw_input_contents, but 1 inputs take one" in code_of(stub.ModelInfer, made)[1]


def test_the_clients_deadline_is_honoured(stub: Any) -> None:
    assert code_of(stub.ModelInfer, request("slow"), timeout=0.05)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    made = request("slow")
    made.parameters["timeout"].int64_param = 50_000
    assert code_of(stub.ModelInfer, made)[0] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_full_queue(stub: Any) -> None:
    calls = [stub.ModelInfer.future(request("crowded")) for _ in range(6)]
    codes = [call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    refused = next(call for call in calls if call.code() is not grpc.StatusCode.OK)
    assert int(dict(refused.trailing_metadata())["retry-after"]) >= 1


def test_malformed_and_oversized_messages(channel: grpc.Channel, stub: Any) -> None:
    method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    code, details = code_of(method, b"\xff\xff\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "inference.ModelInferRequest" in details
    code, _ = code_of(stub.ModelInfer, request(raw=b"x" * (2 << 20)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ModelInfer(request()).model_name == "echo_FP32"
    unknown = channel.unary_unary("/inference.GRPCInferenceService/TraceSetting")
    assert code_of(unknown, b"")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", "pair"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    code, _ = code_of(health.Check, health_pb2.HealthCheckRequest(service="nothing"))
    assert code is grpc.StatusCode.NOT_FOUND
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    listed = {s.name for r in reflection.ServerReflectionInfo(asked) for s in r.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= listed
