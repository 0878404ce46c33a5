"""The tiny model, 16 floats in and out: what the protocol costs, over HTTP and gRPC, for 16 clients and for one."""

from __future__ import annotations

import contextlib
import re

import grpc
import numpy as np

from benchmarks import generators
from benchmarks.generators import LoadFailed
from benchmarks.models import Served, tiny
from benchmarks.servers import Server, ServerFailed
from benchmarks.workloads.context import Context
from protos import open_inference_pb2 as pb

NAME = "tiny"
#: Of the same load before each measurement: a server's first second is not how it goes on.
WARM_SECONDS = 2.0
CASES = (("HTTP", 16), ("HTTP", 1), ("gRPC", 16), ("gRPC", 1))


def numbers(answer: str) -> str:
    """The numbers of an answer, as this server writes them. Raises ValueError."""
    found = re.search(r'"data"\s*:\s*(\[[^\[\]]*\])', answer)
    if found is None:
        raise ValueError(f"no numbers in {answer[:200]}")
    return found[1]


def message(model: Served) -> bytes:
    """The first payload as a gRPC request."""
    request = pb.ModelInferRequest(model_name=model.name)
    for spec in model.model.inputs:
        array = model.payloads[0][spec.name]
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return bytes(request.SerializeToString())


def ask_grpc(server: Server, model: Served, sent: bytes) -> int:
    """One answer over gRPC: its size in bytes. Raises ServerFailed unless it is right."""
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
        try:
            answer: bytes = call(sent, timeout=10)
        except grpc.RpcError as error:
            raise ServerFailed(f"{server.name}, gRPC: {error}") from error
    read = pb.ModelInferResponse.FromString(answer)
    found = (
        np.frombuffer(read.raw_output_contents[0], np.float32)
        if read.raw_output_contents
        else np.array(read.outputs[0].contents.fp32_contents, np.float32)
    )
    if not model.close(0, found.reshape(list(read.outputs[0].shape))):
        raise ServerFailed(f"{server.name}, gRPC: a wrong answer: {read}")
    return len(answer)


def run(context: Context) -> None:
    """All cases on all servers, round after round."""
    model = tiny(context.scratch / "models")
    for _, server in context.servers([model], threads=1):
        for protocol, concurrency in CASES:
            if protocol == "HTTP" or server.peer.grpc:
                _one(context, server, model, protocol, concurrency)


def _one(context: Context, server: Server, model: Served, protocol: str, concurrency: int) -> None:
    sent = message(model)

    def load(seconds: float = context.seconds) -> generators.Load:
        if protocol == "HTTP":
            expected = numbers(server.ask(model))
            done = generators.http(server.url(model), model.bodies[0], expected, concurrency, seconds)
            server.ask(model)
        else:
            size = ask_grpc(server, model, sent)
            done = generators.grpc(server.grpc_url, sent, size, concurrency, seconds)
            if ask_grpc(server, model, sent) != size:
                raise LoadFailed("answers differ in size, so that they cannot be checked by it")
        return done

    with contextlib.suppress(LoadFailed, ServerFailed):  # it is said of the measurement, if that fails, too
        load(WARM_SECONDS)
    context.measure(NAME, f"{protocol}, {concurrency} client{'s' * (concurrency > 1)}", server, load)
